"""A Sentinel-2 scene on disk, read by windows: one GeoTIFF, a folder of band files, or a SAFE
folder as downloaded.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import rasterio
from rasterio.windows import Window

from src.data.bands import RGB
from src.errors import DataError

LAYOUTS = "a GeoTIFF, a folder with files such as B04.tif, or a .SAFE folder"


@dataclass(frozen=True)
class Scene:
    """Open bands of one grid. Values come out as digital numbers: 10,000 is reflectance 1."""

    path: Path
    bands: tuple[
        tuple[rasterio.DatasetReader, int], ...
    ]  # file and number in it, in the network's order
    scale: float  # what values are multiplied by to be digital numbers
    offset: float  # digital numbers added by the producer, taken off again
    nodata: float | None  # where the file itself declares none

    @property
    def grid(self) -> rasterio.DatasetReader:
        """Has the scene's `.crs`, `.transform`, `.width`, `.height`."""
        return self.bands[0][0]

    def read(
        self, window: Window | None = None, shape: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (h, w, C), uint16 digital numbers (a uint8 file: as it is), and where all bands
        are valid (h, w).

        Args:
            window: None is the whole scene.
            shape: (h, w) to be thinned out to, for a picture.

        Raises:
            DataError: a file cannot be read.
        """
        try:
            options = {"window": window, "out_shape": shape}
            values = np.stack([file.read(number, **options) for file, number in self.bands], -1)
            masks = [file.read_masks(number, **options) > 0 for file, number in self.bands]
        except rasterio.errors.RasterioError as error:
            raise DataError(
                f"{self.path} cannot be read ({error}): download or copy it again"
            ) from error
        valid = np.all(masks, axis=0) & np.isfinite(values).all(-1)
        if self.nodata is not None:  # all bands: one dark band alone is water, not nothing
            valid &= ~(values == self.nodata).all(-1)
        if values.dtype != np.uint8 and (
            values.dtype != np.uint16 or self.scale != 1 or self.offset
        ):
            numbers = np.nan_to_num(values.astype(np.float64)) * self.scale - self.offset
            values = numbers.round().clip(0, 65535).astype(np.uint16)
        return values, valid


@contextmanager
def open_scene(
    path: str | Path,
    bands: Sequence[str | int] | None = None,
    *,
    scale: float = 1.0,
    offset: float | None = None,
    nodata: float | None = None,
) -> Iterator[Scene]:
    """Open a scene for as long as the `with` lasts.

    Args:
        path: a GeoTIFF, a folder of single-band files whose names hold B04, B03 …, or a SAFE folder
            (its 10 m bands).
        bands: names (B04) or numbers from 1, in the order the network was trained with. None: B04,
            B03, B02; the first three of a GeoTIFF that does not name its bands.
        scale: 10,000 for reflectance in 0…1.
        offset: what the producer added. None: what a SAFE folder's metadata says (1000 since
            processing baseline
            04.00, January 2022), else 0: a bare GeoTIFF does not tell.
        nodata: value of missing pixels where the files declare none. None: 0 in all bands of 16-bit
            files, as ESA has it.

    Raises:
        DataError: nothing there, a band missing, no CRS, or bands of different grids.
        ValueError: scale not positive, or scale or offset for an 8-bit file.
    """
    path = Path(path)
    if not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}")
    with ExitStack() as stack:
        found = _files(path, bands)
        opened = {
            file: stack.enter_context(_open(file))
            for file in dict.fromkeys(file for file, _ in found)
        }
        parts = tuple((opened[file], _number(opened[file], band)) for file, band in found)
        _check_grids(path, [file for file, _ in parts])
        types = {file.dtypes[number - 1] for file, number in parts}
        if "uint8" in types and (scale != 1 or offset or len(types) > 1):
            raise ValueError(
                f"{path} has 8-bit bands, which are taken as they are: no scale, no offset, no"
                " other type"
            )
        if nodata is None and types == {"uint16"}:
            nodata = 0
        yield Scene(path, parts, scale, _offset(path) if offset is None else offset, nodata)


def _open(file: Path) -> rasterio.DatasetReader:
    try:
        return rasterio.open(file)
    except rasterio.errors.RasterioError as error:
        raise DataError(f"{file} cannot be read ({error}): expected {LAYOUTS}") from error


def _files(path: Path, bands: Sequence[str | int] | None) -> list[tuple[Path, str | int]]:
    """The file of each band, and the band's name or number in it."""
    if path.is_dir():
        return [(_band_file(path, str(band)), 1) for band in bands or RGB]
    if not path.is_file():
        raise DataError(
            f"no scene {path}: expected {LAYOUTS} (SETUP.md, Map a scene; PROFILE = 'demo' makes"
            " one)"
        )
    if bands is None:
        with _open(path) as file:
            named = set(RGB) <= {str(name) for name in file.descriptions}
            if not named and file.count < 3:
                raise DataError(
                    f"{path} has {file.count} band(s), expected red, green and blue: give --bands"
                )
        bands = RGB if named else (1, 2, 3)
    return [(path, band) for band in bands]


def _band_file(folder: Path, band: str) -> Path:
    name = re.compile(rf"(^|_){re.escape(band)}(_10m)?\.(tif|tiff|jp2)$", re.IGNORECASE)
    inside = "**/IMG_DATA/**/*" if _metadata(folder) else "*"
    # previews and masks of a SAFE folder lie elsewhere, or end otherwise (_20m)
    files = [file for file in sorted(folder.glob(inside)) if name.search(file.name)]
    if len(files) != 1:
        there = "none" if not files else ", ".join(file.name for file in files)
        raise DataError(
            f"{folder}: expected one 10 m file of band {band} (such as {band}.tif), found {there}"
        )
    return files[0]


def _number(file: rasterio.DatasetReader, band: str | int) -> int:
    """Position from 1 of a band given by number or by the name the file gives it."""
    numbers = {str(n): n for n in file.indexes} | {
        name: n for name, n in zip(file.descriptions, file.indexes, strict=True) if name
    }
    if str(band) not in numbers:
        raise DataError(
            f"{file.name} has no band {band!r}; there is: {', '.join(numbers)}. Give --bands"
        )
    return numbers[str(band)]


def _check_grids(path: Path, files: list[rasterio.DatasetReader]) -> None:
    if files[0].crs is None:
        raise DataError(
            f"{path} has no CRS, so it lies nowhere: give it one (rio edit-info --crs EPSG:…"
            " file.tif)"
        )
    grids = {(file.crs, file.transform, file.width, file.height) for file in files}
    if len(grids) > 1:
        sizes = sorted({f"{file.width}×{file.height}" for file in files})
        raise DataError(
            f"{path}: the bands lie on different grids ({', '.join(sizes)}); take those of 10 m:"
            " B02…B04, B08"
        )


def _metadata(folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob("MTD_MSIL*.xml"))), None)


def _offset(path: Path) -> float:
    """What the producer added, of a SAFE folder's metadata; 0 where there is none."""
    file = _metadata(path) if path.is_dir() else None
    if file is None:
        return 0.0
    tags = ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET")  # level 2A, level 1C
    offsets = {
        -float(e.text) for e in ElementTree.parse(file).iter() if e.tag.split("}")[-1] in tags
    }
    if len(offsets) > 1:
        raise DataError(
            f"{file} gives the bands different offsets {sorted(offsets)}: give --offset"
        )
    return offsets.pop() if offsets else 0.0
