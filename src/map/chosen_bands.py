"""Which files and which bands in them are read as red, green and blue, or as what is asked for."""

import re
from collections.abc import Sequence
from pathlib import Path

import rasterio

from src.data.bands import RGB
from src.errors import DataError
from src.map.band_names import COLOURS, STRANGERS, bands_of, canonical, only_positions

RASTERS = (".tif", ".tiff", ".jp2", ".img", ".vrt")
LAYOUTS = "a GeoTIFF, a folder with files such as B04.tif, or a .SAFE folder"
PACKED = (".zip", ".tar", ".gz", ".tgz", ".zst", ".7z")
# of a product, but not its bands
OTHER_FOLDERS = {"QI_DATA", "AUX_DATA", "HTML", "MASKS", "rep_info", "DATASTRIP"}
PREFERRED = (
    r"_10m$",
    r"(^|_)FRE_",
)  # of several files of one band; Theia's FRE has slopes corrected
ASSUMED = (
    "the file does not name its bands: the first three are taken for red, green and blue; if they"
    " are not, give --bands (blue first: --bands 3 2 1)"
)
AS_ANY_PICTURE = (
    "that its bands are red, green and blue is told by the file's colour interpretation alone,"
    " which programs write of any 8-bit picture: if they are not, give --bands"
)
Chosen = list[tuple[Path, str | int]]  # file, and number in it or the name it goes by


def files_of_bands(path: Path, bands: Sequence[str | int] | None) -> Chosen:
    """The file of each band of a scene, and the band's name or number in it.

    Args:
        bands: None: red, green and blue, "" in place of a name in one file that holds them all.

    Raises:
        DataError: no scene, or no file or more than one for a band.
    """
    if path.suffix.lower() in PACKED and path.exists():
        raise DataError(f"{path} is packed: unpack it and give the folder ({LAYOUTS})")
    if path.suffix.lower() in (".xml", ".safe") and path.is_file():
        raise DataError(f"{path} describes a scene: give its folder {path.parent}")
    if path.is_dir():
        return [(_file_of_band(path, str(band)), 1) for band in bands or RGB]
    if not path.is_file():
        raise DataError(
            f"no scene {path}: expected {LAYOUTS} (SETUP.md, Map a scene; PROFILE = 'demo' makes"
            " one)"
        )
    return [(path, band) for band in bands or ("",) * len(RGB)]


# --- a folder of files ---


def _file_of_band(folder: Path, band: str) -> Path:
    files = _rasters(folder)
    if strangers := [f.name for f in files if STRANGERS.search(f"{folder.name} {f.name}")]:
        raise DataError(
            f"{folder} is not of Sentinel-2 ({strangers[0]}): its numbers mean other bands. Stack"
            " red, green and blue in one GeoTIFF and give it"
        )
    names = dict(zip(files, bands_of([file.stem for file in files]), strict=True))
    wanted = canonical(band)
    named = re.compile(rf"(^|_){re.escape(band)}(_10m)?$", re.IGNORECASE)
    found = [file for file in files if names[file] == wanted or named.search(file.stem)]
    for pattern in PREFERRED:
        better = [file for file in found if re.search(pattern, file.stem, re.IGNORECASE)]
        found = better if len(found) > 1 and better else found
    if len(found) != 1:
        raise DataError(
            f"{folder}: expected one 10 m file of band {band} (such as {band}.tif), found"
            f" {', '.join(str(f.relative_to(folder)) for f in found) or 'none'}"
            + _instead(folder, files, bool(found))
        )
    return found[0]


def _rasters(folder: Path) -> list[Path]:
    """Those that lie in the folder itself, else those anywhere below it."""
    for pattern in ("*", "**/*"):
        files = [
            file
            for file in sorted(folder.glob(pattern))
            if file.suffix.lower() in RASTERS
            and not file.name.startswith(".")
            and not OTHER_FOLDERS & set(file.relative_to(folder).parts[:-1])
        ]
        if files:
            return files
    return []


def _instead(folder: Path, files: list[Path], several: bool) -> str:
    if several:
        return ": give the folder of one scene and one resolution"
    products = sorted(child.name for child in folder.iterdir() if child.suffix == ".SAFE")
    if products or not files:
        return f"; it holds {', '.join(products)}: give one of them" if products else ""
    return f"; there is: {', '.join(file.name for file in files[:6])}. Give a file, or --bands"


# --- bands in a file ---


def numbers_of_bands(
    file: rasterio.DatasetReader, bands: Sequence[str | int]
) -> tuple[list[int], str]:
    """Position from 1 of each of these bands in one file, and what is doubtful about it, or "".

    Args:
        bands: numbers, names that the file gives, or B04, B03, B02 in any spelling; "" for each of
            red, green and blue: by names, else by colour interpretation, else the first three of
            three or four.

    Raises:
        DataError: a band is not there, or the file does not tell which it is.
    """
    if not any(bands):
        return _red_green_blue(file)
    return [_position(file, str(band)) for band in bands], ""


def _position(file: rasterio.DatasetReader, band: str) -> int:
    if band in map(str, file.indexes):
        return int(band)
    names = [name or "" for name in file.descriptions]
    understood = bands_of(names)
    for known, wanted in ((names, band), (understood, canonical(band))):
        if known.count(wanted) == 1:
            return known.index(wanted) + 1
        if wanted in known:
            raise _refused(file, f"has several bands {band!r}")
    raise _refused(file, f"has no band {band!r}")


def _red_green_blue(file: rasterio.DatasetReader) -> tuple[list[int], str]:
    names = [name or "" for name in file.descriptions]
    named, shown = bands_of(names), [colour.name for colour in file.colorinterp]
    coloured = [shown.index(name) + 1 for name in COLOURS if shown.count(name) == 1]
    # what GDAL writes of itself into every 8-bit file of three bands or more
    unasked = file.dtypes[0] == "uint8" and coloured == [1, 2, 3]
    if any(named.count(band) > 1 for band in RGB):
        raise _refused(file, "names a band twice")
    if set(RGB) <= set(named):
        numbers = [named.index(band) + 1 for band in RGB]
        if coloured not in ([], numbers) and len(coloured) == 3 and not unasked:
            raise _refused(file, "has names that its colour interpretation contradicts")
        return numbers, ""
    if any(name.lower() not in ("", "alpha", "mask") for name in names) and not only_positions(
        names
    ):
        raise _refused(file, "has no names that are understood for all of red, green and blue")
    if len(coloured) == 3:
        told = "TCI" in Path(file.name).stem.upper()  # a product's true-colour image
        return coloured, AS_ANY_PICTURE if unasked and not told else ""
    if file.count not in (3, 4) or {"red", "green", "blue", "alpha"} & set(shown[:3]):
        raise _refused(file, f"has {file.count} band(s), and nothing says which is red")
    return [1, 2, 3], ASSUMED


def _refused(file: rasterio.DatasetReader, problem: str) -> DataError:
    pairs = zip(file.indexes, file.descriptions, file.colorinterp, strict=True)
    shown = ", ".join(f"{number}: {name or colour.name}" for number, name, colour in pairs)
    return DataError(
        f"{file.name} {problem}; there is: {shown}. Give --bands with the numbers of red, green and"
        " blue (--bands 3 2 1 where blue is first)"
    )
