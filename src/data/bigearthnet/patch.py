"""One BigEarthNet patch: the bytes of its twelve single-band GeoTIFFs in, one (120, 120, C) array
out.
"""

import contextlib
import errno
import json
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from src.data.bands import ALL_BANDS, EUROSAT_STRETCH, RGB, to_uint8
from src.errors import AbsentError, DataError

SIZE = 120  # pixels of the 10 m bands
PIXELS = {
    band: {"B01": 20, "B09": 20}.get(band, 120 if band in (*RGB, "B08") else 60)
    for band in ALL_BANDS
}
LABELS = "labels_metadata.json"


def read_rgb(folder: Path, stretch: float | str = EUROSAT_STRETCH) -> np.ndarray:
    """Read B04, B03, B02 of one patch folder as (120, 120, 3) uint8: clip(DN / stretch × 255).

    Args:
        folder: `<patch>/`, holding `<patch>_B04.tif` …
        stretch: reflectance in digital numbers (10,000 = reflectance 1) that becomes 255, or
            "percentile": from the 2nd to the 98th percentile of the patch, over its three bands
            together so that colours keep their balance.

    Raises:
        DataError: band missing or unreadable, wrong size or type, NaN, or pixels marked as nodata.
    """
    return decode(folder, read_files(folder, RGB), RGB, stretch)


def read_patch(
    folder: str | Path,
    files: dict[str, bytes] | DataError | None,
    bands: Sequence[str],
    stretch: float | str | None,
) -> np.ndarray:
    """Decode a patch from its folder (`files` None) or from what an archive held; see `decode`.

    Raises:
        AbsentError: there is no file of it at all. DataError: as `decode`, or what the archive
            found wrong with it.
    """
    if isinstance(files, DataError):
        raise files
    files = read_files(folder, bands) if files is None else files
    if not files:
        raise AbsentError(f"{folder} is missing: listed, but none of its files is there")
    return decode(folder, files, bands, stretch)


def read_files(folder: str | Path, bands: Sequence[str]) -> dict[str, bytes]:
    """The wanted files of a patch folder by what follows `<patch>_` in their names; what is not
    there is left out.

    Raises:
        DataError: the disk cannot read a file. Other errors (permissions …) are not the patch's
            fault and pass through.
    """
    prefix, files = _prefix(folder), {}
    for suffix in (*(f"{band}.tif" for band in bands), LABELS):
        # absence is told by `decode`, which knows what must be there
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            try:
                with open(prefix + suffix, "rb", buffering=0) as file:
                    files[suffix] = file.read()
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                raise DataError(
                    f"{prefix}{suffix} cannot be read ({error}): extract the patch again"
                ) from error
    return files


def _prefix(folder: str | Path) -> str:
    return f"{folder}/{os.path.basename(folder)}_"


def decode(
    folder: str | Path, files: dict[str, bytes], bands: Sequence[str], stretch: float | str | None
) -> np.ndarray:
    """Decode the files of a patch.

    Args:
        folder: where they were, for messages.
        files: bytes by suffix, as `read_files` gives them.
        stretch: see `read_rgb`; None keeps the digital numbers: (120, 120, C) uint16, 20 m and 60 m
            bands repeated to
            10 m pixels (nearest: every number was measured, none interpolated).

    Raises:
        DataError: see `read_rgb`; also a label file that is no JSON, the mark of a damaged
            extraction.
    """
    prefix = _prefix(folder)
    if LABELS in files:
        try:
            json.loads(files[LABELS])
        except ValueError as error:
            raise DataError(
                f"{prefix}{LABELS} is not JSON ({error}): extract the patch again"
            ) from error
    layers = [
        read_band(files.get(f"{band}.tif"), f"{prefix}{band}.tif", PIXELS[band]) for band in bands
    ]
    layers = [
        x.repeat(SIZE // len(x), 0).repeat(SIZE // len(x), 1) if len(x) < SIZE else x
        for x in layers
    ]
    image = np.stack(layers, axis=-1)
    return image if stretch is None else to_uint8(image, stretch)


def read_band(data: bytes | None, where: str, size: int) -> np.ndarray:
    """(size, size) uint16 of a single-band GeoTIFF; `data` None means that there is no such file.

    Raises:
        DataError: what is wrong with it, by name.
    """
    if not data:
        state = "is missing" if data is None else "cannot be read (0 bytes)"
        raise DataError(f"{where} {state}: extract the patch again")
    band, nodata = _plain_tiff(data) or _any_tiff(data, where, size)
    if band.shape != (size, size):
        raise DataError(
            f"{where}: expected 1 band of {size}×{size}, got 1 of {band.shape[0]}×{band.shape[1]}"
        )
    if band.dtype.kind == "f" and not np.isfinite(band).all():
        raise DataError(f"{where} holds NaN or infinite values")
    if nodata is not None and (band == nodata).any():
        raise DataError(
            f"{where} holds {int((band == nodata).sum())} pixels of nodata ({nodata:g})"
        )
    if band.dtype != np.uint16:
        raise DataError(f"{where}: expected uint16 digital numbers, got {band.dtype}")
    return band


def _plain_tiff(data: bytes) -> tuple[np.ndarray, float | None] | None:
    """Pixels and nodata of one uncompressed little-endian uint16 band, as both releases have them;
    None: not that.

    Twenty times faster than opening a data set in GDAL, to which everything else is left, damage
    included.
    """
    if data[:4] != b"II*\0":
        return None
    try:
        (start,) = struct.unpack_from("<I", data, 4)
        (count,) = struct.unpack_from("<H", data, start)
        fields = {
            tag: rest
            for tag, *rest in struct.iter_unpack("<HHII", data[start + 2 : start + 2 + 12 * count])
        }

        def numbers(tag: int, default: int | None = None) -> tuple[int, ...]:
            kind, n, value = fields.get(tag, (4, 1, default))
            if n == 1:
                return (value,)
            return struct.unpack_from(f"<{n}{'H' if kind == 3 else 'I'}", data, value)

        # bits, compression, samples, sample format (339): 16, none, one, unsigned
        if [numbers(tag, 1) for tag in (258, 259, 277, 339)] != [(16,), (1,), (1,), (1,)]:
            return None
        (width,), (height,), offsets, lengths = (numbers(tag) for tag in (256, 257, 273, 279))
        nodata = None
        if 42113 in fields:  # GDAL's own tag: text, in place when it is short
            _, n, value = fields[42113]
            nodata = float(
                (struct.pack("<I", value) if n <= 4 else data[value : value + n]).rstrip(b"\0 ")
            )
        pixels = b"".join(
            data[offset : offset + length] for offset, length in zip(offsets, lengths, strict=True)
        )
    except (struct.error, TypeError, ValueError):  # cut, or without the fields that strips have
        return None
    if len(pixels) != 2 * width * height:
        return None
    return np.frombuffer(pixels, "<u2").reshape(height, width), nodata


def _any_tiff(data: bytes, where: str, size: int) -> tuple[np.ndarray, float | None]:
    from rasterio.errors import RasterioError
    from rasterio.io import MemoryFile

    try:
        with (
            MemoryFile(data, dirname="patch", filename=Path(where).name) as memory,
            memory.open() as file,
        ):
            if file.count != 1:
                raise DataError(
                    f"{where}: expected 1 band of {size}×{size}, got {file.count} of"
                    f" {file.height}×{file.width}"
                )
            return file.read(1), file.nodata
    except RasterioError as error:
        reason = str(error).replace("/vsimem/patch/", "")
        raise DataError(f"{where} cannot be read ({reason}): extract the patch again") from error
