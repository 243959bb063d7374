"""One BigEarthNet patch: twelve single-band GeoTIFFs in, one (120, 120, C) array out."""

import contextlib
import errno
import json
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from src.data.bands import ALL_BANDS, RGB, to_uint8
from src.data.decoding import check_blocks, check_places
from src.errors import AbsentError, DataError

SIZE = 120  # pixels across of the 10 m bands, which is 1.2 km
# pixels across of every band: most have 20 m, some 10 m, the two of the atmosphere 60 m
PIXELS = (
    dict.fromkeys(ALL_BANDS, 60)
    | dict.fromkeys((*RGB, "B08"), SIZE)
    | dict.fromkeys(("B01", "B09"), 20)
)
LABELS = "labels_metadata.json"
MAX_BYTES = 16_000_000  # of one file of a patch; whole ones have 30,000
MAX_MISSING = 0.01  # share of pixels that may be 0 in every band where 0 is said to be no data
DAMAGED_LABELS = "damaged labels"  # as the store's counts call it


def read_patch(
    folder: str | Path,
    files: dict[str, bytes] | DataError | None,
    bands: Sequence[str],
    stretch: float | str | None,
) -> np.ndarray | tuple[np.ndarray, str]:
    """Decode a patch from its folder (`files` None) or from what an archive held; see `decode`.

    Labels are not needed to pretrain: a patch whose label file is no JSON comes with a note.

    Raises:
        AbsentError: there is no file of it at all.
        DataError: as `decode`, or what the archive found wrong with it.
    """
    if isinstance(files, DataError):
        raise files
    files = read_files(folder, bands) if files is None else files
    if not files:
        raise AbsentError(f"{folder} is missing: listed, but none of its files is there")
    image = decode(folder, files, bands, stretch)
    return image if _is_json(files.get(LABELS, b"{}")) else (image, DAMAGED_LABELS)


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def read_files(folder: str | Path, bands: Sequence[str]) -> dict[str, bytes]:
    """Read the wanted files of a patch folder, by what follows `<patch>_` in their names.

    What is not there is left out: `decode` knows what must be there, and says so.

    Raises:
        DataError: the disk cannot read a file, or it is none.
        OSError: what is not the patch's fault (permissions …).
    """
    prefix, files = _prefix(folder), {}
    for suffix in (*(f"{band}.tif" for band in bands), LABELS):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            files[suffix] = _read_file(prefix + suffix)
    return files


def _read_file(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(MAX_BYTES)
    except OSError as error:
        if error.errno not in (errno.EIO, errno.EISDIR, errno.ELOOP, errno.ENXIO):
            raise
        raise DataError(f"{path} cannot be read ({error}): extract the patch again") from error


def _prefix(folder: str | Path) -> str:
    return f"{folder}/{os.path.basename(folder)}_"


def decode(
    folder: str | Path, files: dict[str, bytes], bands: Sequence[str], stretch: float | str | None
) -> np.ndarray:
    """Decode the files of a patch into (120, 120, C), its channels in the order of `bands`.

    Bands of 20 m and 60 m are repeated to 10 m pixels (nearest): every number was measured, none
    interpolated.

    Args:
        folder: where they were, for messages.
        files: bytes by suffix, as `read_files` gives them.
        stretch: gives uint8, see `src.data.bands.to_uint8`; None keeps the digital numbers, uint16.

    Raises:
        DataError: a band is missing, unreadable, of wrong size or type, holds NaN, or is marked as
            nodata, which 0 is where a band, or more than 1% of the pixels in every band, is 0.
    """
    prefix = _prefix(folder)
    layers, zero_is_nodata = [], True
    for band in bands:
        data, where = files.get(f"{band}.tif"), f"{prefix}{band}.tif"
        layer, nodata = read_band(data, where, PIXELS[band])
        layers.append(_repeat_to_10_m(layer))
        zero_is_nodata &= nodata == 0
    image = np.stack(layers, axis=-1)
    if zero_is_nodata and (missing := (image == 0).all(axis=-1).mean()) > MAX_MISSING:
        raise DataError(f"{folder} holds nodata (0) in all bands of {100 * missing:.1f}% of it")
    return image if stretch is None else to_uint8(image, stretch)


def _repeat_to_10_m(layer: np.ndarray) -> np.ndarray:
    times = SIZE // len(layer)
    return layer if times == 1 else layer.repeat(times, axis=0).repeat(times, axis=1)


def read_band(data: bytes | None, where: str, size: int) -> tuple[np.ndarray, float | None]:
    """Decode a single-band GeoTIFF into (size, size) uint16, and the nodata value it declares.

    That value may be 0, as in v2: then dark pixels are no fault of the band, but no other value.

    Args:
        data: the bytes of the file; None: there is no such file.
        where: its path, for messages.
        size: pixels across that it must have.

    Raises:
        DataError: what is wrong with it, by name.
    """
    if not data or len(data) >= MAX_BYTES:
        size_read = f"{MAX_BYTES:,} bytes and more" if data else "0 bytes"
        state = "is missing" if data is None else f"cannot be read ({size_read})"
        raise DataError(f"{where} {state}: extract the patch again")
    band, nodata = _plain_tiff(data, where) or _any_tiff(data, where, size)
    if band.shape != (size, size):
        raise DataError(
            f"{where}: expected 1 band of {size}×{size}, got 1 of {band.shape[0]}×{band.shape[1]}"
        )
    if band.dtype.kind == "f" and not np.isfinite(band).all():
        raise DataError(f"{where} holds NaN or infinite values")
    count = 0 if nodata is None else int((band == nodata).sum())
    if count and (nodata != 0 or count == band.size):
        raise DataError(f"{where} holds {count} pixels of nodata ({nodata:g})")
    if band.dtype != np.uint16:
        raise DataError(f"{where}: expected uint16 digital numbers, got {band.dtype}")
    return band, nodata


# --- GeoTIFF, by hand where it is plain: TIFF 6.0, section 2 ---

WIDTH, HEIGHT, BITS, COMPRESSION, STRIP_OFFSETS = 256, 257, 258, 259, 273
SAMPLES, STRIP_LENGTHS, SAMPLE_FORMAT, GDAL_NODATA = 277, 279, 339, 42113
SHORT, LONG = 3, 4  # types of numbers
PLAIN = {BITS: 16, COMPRESSION: 1, SAMPLES: 1, SAMPLE_FORMAT: 1}  # 1: none, one, unsigned
Fields = dict[int, tuple[int, int, int]]  # tag → type, count, and the value, or where it is


def _plain_tiff(data: bytes, where: str) -> tuple[np.ndarray, float | None] | None:
    """Pixels and nodata of one uncompressed little-endian uint16 band in strips; None: not that.

    Both releases have nothing else, and this is twenty times faster than opening a data set in
    GDAL, to which everything else is left, damage included. DataError: strips that overlap.
    """
    if data[:4] != b"II*\0":
        return None
    try:
        fields = _fields(data)
        if any(_numbers(data, fields, tag, default=1) != (n,) for tag, n in PLAIN.items()):
            return None
        (width,), (height,) = _numbers(data, fields, WIDTH), _numbers(data, fields, HEIGHT)
        offsets = _numbers(data, fields, STRIP_OFFSETS)
        lengths = _numbers(data, fields, STRIP_LENGTHS)
        places = list(zip(offsets, lengths, strict=True))
        if sum(lengths) > len(data):  # the same bytes again and again
            return None
        strips = [data[at : at + length] for at, length in places]
        pixels = np.frombuffer(b"".join(strips), "<u2").reshape(height, width)
        check_places(where, [*places, *_tables(data, fields)], len(data))
        return pixels, _nodata(data, fields)
    except (struct.error, TypeError, ValueError, OverflowError):  # cut, or without its fields
        return None


def _fields(data: bytes) -> Fields:
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    entries = data[start + 2 : start + 2 + 12 * count]
    return {tag: field for tag, *field in struct.iter_unpack("<HHII", entries)}


def _tables(data: bytes, fields: Fields) -> list[tuple[int, int]]:
    """Where the directory lies, and what it says of the strips: offset and length of each."""
    (start,) = struct.unpack_from("<I", data, 4)
    several = (fields[tag] for tag in (STRIP_OFFSETS, STRIP_LENGTHS) if fields[tag][1] > 1)
    arrays = ((at, count * (2 if kind == SHORT else 4)) for kind, count, at in several)
    return [(start, 12 * len(fields) + 6), *arrays]


def _numbers(
    data: bytes, fields: Fields, tag: int, default: int | None = None
) -> tuple[int | None, ...]:
    kind, count, value = fields.get(tag, (LONG, 1, default))
    if count == 1:
        return (value,)
    return struct.unpack_from(f"<{count}{'H' if kind == SHORT else 'I'}", data, value)


def _nodata(data: bytes, fields: Fields) -> float | None:
    """The number that GDAL writes as text; up to four bytes of it stand where the offset would."""
    if GDAL_NODATA not in fields:
        return None
    _, count, value = fields[GDAL_NODATA]
    text = struct.pack("<I", value) if count <= 4 else data[value : value + count]
    return float(text.rstrip(b"\0 "))


def _any_tiff(data: bytes, where: str, size: int) -> tuple[np.ndarray, float | None]:
    """Pixels and nodata of one band of whatever kind, as GDAL reads it."""
    from rasterio.io import MemoryFile

    try:
        with (
            MemoryFile(data, dirname="patch", filename=Path(where).name) as memory,
            memory.open(driver="GTiff") as file,  # others may lead to other files
        ):
            if (file.count, file.height, file.width) != (1, size, size):
                raise DataError(
                    f"{where}: expected 1 band of {size}×{size}, got {file.count} of"
                    f" {file.height}×{file.width}"
                )
            if np.prod(file.block_shapes[0]) > MAX_BYTES:
                raise DataError(f"{where} cannot be read (blocks of {file.block_shapes[0]})")
            check_blocks(where, file, len(data))
            return file.read(1), file.nodata
    except DataError:
        raise
    except Exception as error:  # GDAL and rasterio raise errors of many kinds
        reason = str(error).replace("/vsimem/patch/", "")
        raise DataError(f"{where} cannot be read ({reason}): extract the patch again") from error
