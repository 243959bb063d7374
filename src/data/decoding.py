"""One image file in, one array out, or one DataError that says what is wrong with it."""

import contextlib
import itertools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from src.data.bands import ALL_BANDS
from src.errors import DataError

MAX_PIXELS = 50_000_000  # of an image, times its bands: a file that says more is not read
BANDS_REMEDY = "convert it, or build a store of chosen bands (`python -m src.data.images --bands`)"
# the bands in EuroSAT's files: level 1C's 13, B8A last
FILE_BANDS = (*(f"B{number:02}" for number in range(1, 13)), "B8A")


def read_image(file: str | Path, size: int | None = None) -> np.ndarray:
    """Decode an 8-bit RGB image file to (H, W, 3) uint8, resized to (size, size, 3) if need be.

    An image that says of itself that it lies on its side (EXIF) is turned upright.

    Raises:
        DataError: truncated, not an image, not RGB, not of 8 bits, or of more than 50 million
            pixels.
    """
    with _explained(file), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file) as image:
            _check_size(file, *image.size)
            deep = any(";16" in str(tile) for tile in image.tile)  # Pillow cuts them to 8 bits
            image.load()
            if image.mode != "RGB" or deep:
                kind = "16 bits a channel" if deep else f"mode {image.mode}"
                remedy = BANDS_REMEDY if image.format == "TIFF" else "convert it"
                raise DataError(f"{file}: expected an 8-bit RGB image, got {kind}: {remedy}")
            upright = ImageOps.exif_transpose(image)
            if size and upright.size != (size, size):
                upright = upright.resize((size, size), Image.Resampling.BILINEAR)
            return np.asarray(upright)


def read_allbands(file: str | Path) -> np.ndarray:
    """Decode a 13-band GeoTIFF to (H, W, 12) uint16 in the order of ALL_BANDS.

    B10 is left out: cirrus, with no ground in it.

    Raises:
        DataError: unreadable, or not 13 bands of uint16.
    """
    return read_bands(
        file, [FILE_BANDS.index(band) + 1 for band in ALL_BANDS], len(FILE_BANDS), ("uint16",)
    )


def read_bands(
    file: str | Path,
    bands: Sequence[int],
    count: int | None = None,
    dtypes: Sequence[str] = ("uint8", "uint16"),
) -> np.ndarray:
    """Decode bands of a TIFF to (H, W, C).

    Args:
        bands: which, in this order; the first is 1.
        count: how many the file must have; None: no matter.
        dtypes: that its numbers may have.

    Raises:
        DataError: unreadable, without these bands, or of other numbers.
    """
    import rasterio

    with _explained(file), rasterio.open(file) as image:
        found = f"got {image.count} of {', '.join(sorted(set(image.dtypes)))}"
        if count not in (None, image.count) or max(bands) > image.count:
            expected = f"{count} bands" if count else f"a band {max(bands)}"
            raise DataError(f"{file}: expected {expected} of {' or '.join(dtypes)}, {found}")
        if len(set(image.dtypes)) > 1 or image.dtypes[0] not in dtypes:
            expected = f"{count or len(bands)} bands of {' or '.join(dtypes)}"
            raise DataError(f"{file}: expected {expected}, {found}")
        _check_size(file, image.width, image.height * len(bands))
        check_blocks(file, image, Path(file).stat().st_size)
        return image.read(list(bands)).transpose(1, 2, 0)


def check_blocks(file: str | Path, image: Any, size: int) -> None:
    """Raise DataError where the strips or tiles of a GeoTIFF are not where it says.

    GDAL fills up what is missing, with zeros or with what it read before, and says nothing.

    Args:
        file: its name, for the message.
        image: the file, as rasterio has opened it.
        size: of the file, in bytes.
    """
    if image.driver != "GTiff":
        return
    by_band = image.interleaving is not None and image.interleaving.name == "band"
    places = []
    for band in image.indexes if by_band else (1,):
        height, width = image.block_shapes[band - 1]
        rows, columns = range(-(-image.height // height)), range(-(-image.width // width))
        for x, y in itertools.product(columns, rows):
            tags = (f"BLOCK_OFFSET_{x}_{y}", f"BLOCK_SIZE_{x}_{y}")
            places.append([int(image.get_tag_item(tag, "TIFF", bidx=band) or 0) for tag in tags])
    check_places(file, places, size)
    bits = image.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 8 * np.dtype(image.dtypes[0]).itemsize)
    needed = image.width * image.height * image.count * int(bits) // 8
    if image.compression is None and sum(length for _, length in places) < needed:
        raise DataError(f"{file} cannot be read (fewer bytes than its pixels have): damaged")


def check_places(file: str | Path, places: Iterable[Sequence[int]], size: int) -> None:
    """Raise DataError where parts of a TIFF of `size` bytes, (offset, length) each, overlap."""
    end = 8  # of the header
    for offset, length in sorted(places):
        if offset < end or length < 1:
            raise DataError(f"{file} cannot be read (parts overlap, or are missing): damaged")
        end = offset + length
    if end > size:
        raise DataError(f"{file} cannot be read ({end - size:,} bytes short): damaged")


def _check_size(file: str | Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{file} claims {width}×{height} pixels, more than {MAX_PIXELS:,}: damaged, or to be"
            " cut into smaller images"
        )


@contextlib.contextmanager
def _explained(file: str | Path) -> Iterator[None]:
    """Whatever a decoder raises, as a DataError that says what the file is."""
    try:
        yield
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{file} is far too large ({error}): damaged, or no image") from error
    except Exception as error:  # damage makes decoders raise errors of every kind
        raise DataError(f"{file} cannot be read ({error}): {_remedy(Path(file))}") from error


def _remedy(file: Path) -> str:
    try:
        with open(file, "rb") as content:
            start = content.read(200).lstrip().lower()
    except OSError as error:
        return f"{error.strerror}: mend that, or download or extract it again"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the image: run `git lfs pull`"
    if start.startswith((b"<!doctype", b"<html")):
        return "it is a web page, not an image: download it again"
    if not start:
        return "it has 0 bytes: download or extract it again"
    if start.startswith(b"\x00\x05\x16\x07"):
        return "it is what macOS keeps beside a file (AppleDouble), not the image: delete it"
    if start.startswith((b"ii", b"mm")) and (kind := _kind_of_tiff(file)):
        return f"it is a TIFF of {kind}; 8-bit RGB is taken: {BANDS_REMEDY}"
    return "download or extract it again"


def _kind_of_tiff(file: Path) -> str:
    """What a TIFF that Pillow cannot read holds; empty: nobody can."""
    import rasterio

    with contextlib.suppress(rasterio.errors.RasterioError), rasterio.open(file) as image:
        if (image.count, image.dtypes[0]) != (3, "uint8"):
            return f"{image.count} bands of {image.dtypes[0]}"
    return ""
