"""What a product says of itself: level, processing baseline, and what was added to its values.

Looked for in metadata files and names from the scene's own folder upwards, so that the answer is
the same from any folder inside a product.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

from src.errors import DataError

# of the product (new and before 2016), of a product by another road, and of a granule
METADATA = ("MTD_MSIL*.xml", "S2*MTD_SAFL*.xml", "product_metadata.xml", "MTD_TL.xml")
ADDED_SINCE = 400  # baseline 04.00, January 2022: 1000 is added
UNKNOWN = 9000  # N9999 and the like are someone's own processing, which may have added or not
BASELINE = re.compile(r"(?<![a-z0-9])N(\d\d)\.?(\d\d)(?!\d)", re.I)
LEVEL = re.compile(r"(?:(?<![a-z0-9])|(?<=MSI)|(?<=SAF))(L1C|L2A)(?![a-z0-9])", re.I)
FOLDERS_UP = 6  # from R10m to the product's folder are four


@dataclass(frozen=True)
class Product:
    """What is known of where a scene comes from; None where nothing says it."""

    level: str | None = None  # L1C or L2A
    offset: float | None = None  # digital numbers that the producer added
    source: str = ""  # what says the offset


def describe(path: Path, offset_wanted: bool = True) -> Product:
    """What the nearest metadata and names say of a scene's file or folder.

    Args:
        offset_wanted: False where it is given: metadata files are then known by name alone.

    Raises:
        DataError: a metadata file is damaged, or gives its bands different offsets.
    """
    product = Product()
    start = path.absolute()
    for place in (start, *list(start.parents)[:FOLDERS_UP]):
        found = [_from_name(place.name)]
        if place.is_dir():
            files = [file for pattern in METADATA for file in sorted(place.glob(pattern))]
            found += [_from_metadata(f) if offset_wanted else _from_name(f.name) for f in files]
        # of one folder a metadata file knows better than a name
        for said in reversed(found):
            product = _filled(product, said)
    return product


def _filled(known: Product, said: Product) -> Product:
    if known.offset is None and said.offset is not None:
        known = replace(known, offset=said.offset, source=said.source)
    return replace(known, level=known.level or said.level)


def _from_name(name: str) -> Product:
    level, baseline = LEVEL.search(name), BASELINE.search(name)
    known = Product(level[1].upper() if level else None)
    # elsewhere N and four figures may be anything
    of_product = "S2" in name.upper() or re.search(r"_N\d{4}_R\d{3}", name, re.IGNORECASE)
    if baseline is None or not of_product or int("".join(baseline.groups())) >= UNKNOWN:
        return known
    return replace(known, offset=_added(baseline), source=f"the baseline in the name {name}")


def _added(baseline: re.Match) -> float:
    return 1000.0 if int("".join(baseline.groups())) >= ADDED_SINCE else 0.0


def _from_metadata(file: Path) -> Product:
    try:
        texts = [(e.tag.split("}")[-1], e.text or "") for e in ElementTree.parse(file).iter()]
    except (ElementTree.ParseError, UnicodeDecodeError, OSError) as error:
        raise DataError(
            f"{file} cannot be read ({error}), so what was added to the scene's values is not"
            " known: download it again, or give --offset"
        ) from error
    by_tag = {tag: text for tag, text in texts}
    words = by_tag.get("PROCESSING_LEVEL", "") + " " + file.name
    level = next((name for name in ("L1C", "L2A") if name in words.replace("evel-", "")), None)
    return Product(level, *_offset_of(file, texts, by_tag))


def _offset_of(
    file: Path, texts: list[tuple[str, str]], by_tag: dict[str, str]
) -> tuple[float | None, str]:
    tags = ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET")  # level 2A, level 1C
    try:
        offsets = {-float(text) for tag, text in texts if tag in tags}
    except ValueError as error:
        raise DataError(
            f"{file} has an offset that is no number ({error}): give --offset"
        ) from error
    if len(offsets) > 1:
        raise DataError(
            f"{file} gives the bands different offsets {sorted(offsets)}: give --offset"
        )
    if offsets:
        return offsets.pop(), file.name
    baseline = BASELINE.search(f"N{by_tag.get('PROCESSING_BASELINE', '')}") or BASELINE.search(
        by_tag.get("TILE_ID", "")
    )
    if baseline is None:  # before 2016 it was not said, and nothing was added
        return (None, "") if file.name == "MTD_TL.xml" else (0.0, file.name)
    number = int("".join(baseline.groups()))
    return (None, "") if number >= UNKNOWN else (_added(baseline), f"the baseline in {file.name}")
