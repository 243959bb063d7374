"""A Sentinel-2 scene on disk, read by windows.

It is one GeoTIFF, a folder of band files, or a SAFE folder as downloaded.
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
class SceneOptions:
    """How the files of a scene are read: which bands, and how values become digital numbers.

    Raises:
        ValueError: scale not positive.
    """

    # names (B04) or numbers from 1, in the order the network was trained with; None: B04, B03, B02,
    # or the first three of a GeoTIFF that does not name its bands
    bands: Sequence[str | int] | None = None
    # 10,000 for reflectance in 0…1
    scale: float = 1.0
    # digital numbers that the producer added; None: what a SAFE folder's metadata says (1000 since
    # processing baseline 04.00, January 2022), else 0, for a bare GeoTIFF does not tell
    offset: float | None = None
    # value of missing pixels where the files declare none; None: 0 in all bands of 16-bit files, as
    # ESA has it
    nodata: float | None = None

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"scale must be positive, got {self.scale}")


@dataclass(frozen=True)
class Scene:
    """Open bands of one grid. Values come out as digital numbers: 10,000 is reflectance 1."""

    path: Path
    # file and number in it, in the network's order
    bands: tuple[tuple[rasterio.DatasetReader, int], ...]
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
        """Pixels (h, w, C) and where all bands are valid (h, w).

        Pixels are uint16 digital numbers; those of a uint8 file are as it has them.

        Args:
            window: None is the whole scene.
            shape: (h, w) to be thinned out to, for a picture.

        Raises:
            DataError: a file cannot be read.
        """
        part = {"window": window, "out_shape": shape}
        try:
            values = np.stack([file.read(number, **part) for file, number in self.bands], -1)
            masks = [file.read_masks(number, **part) > 0 for file, number in self.bands]
        except rasterio.errors.RasterioError as error:
            raise DataError(
                f"{self.path} cannot be read ({error}): download or copy it again"
            ) from error
        valid = np.all(masks, axis=0) & np.isfinite(values).all(-1)
        if self.nodata is not None:  # all bands: one dark band alone is water, not nothing
            valid &= ~(values == self.nodata).all(-1)
        return self._digital_numbers(values), valid

    def _digital_numbers(self, values: np.ndarray) -> np.ndarray:
        as_they_are = values.dtype == np.uint16 and self.scale == 1 and not self.offset
        if as_they_are or values.dtype == np.uint8:
            return values
        numbers = np.nan_to_num(values.astype(np.float64)) * self.scale - self.offset
        return numbers.round().clip(0, 65535).astype(np.uint16)


@contextmanager
def open_scene(path: str | Path, options: SceneOptions | None = None) -> Iterator[Scene]:
    """Open a scene for as long as the `with` lasts.

    Args:
        path: a GeoTIFF, a folder of single-band files whose names hold B04, B03 …, or a SAFE folder
            (its 10 m bands).
        options: how it is read.

    Raises:
        DataError: nothing there, a band missing, no CRS, or bands of different grids.
        ValueError: scale or offset for an 8-bit file.
    """
    path, options = Path(path), options or SceneOptions()
    with ExitStack() as stack:
        wanted = _band_files(path, options.bands)
        files = dict.fromkeys(file for file, _ in wanted)  # a GeoTIFF of many bands only once
        opened = {file: stack.enter_context(_open(file)) for file in files}
        bands = tuple((opened[file], _band_number(opened[file], band)) for file, band in wanted)
        _check_grids(path, [file for file, _ in bands])
        types = {file.dtypes[number - 1] for file, number in bands}
        _check_types(path, types, options)
        offset = _declared_offset(path) if options.offset is None else options.offset
        nodata = 0 if options.nodata is None and types == {"uint16"} else options.nodata
        yield Scene(path, bands, options.scale, offset, nodata)


def _open(file: Path) -> rasterio.DatasetReader:
    try:
        return rasterio.open(file)
    except rasterio.errors.RasterioError as error:
        raise DataError(f"{file} cannot be read ({error}): expected {LAYOUTS}") from error


# --- which bands ---


def _band_files(path: Path, bands: Sequence[str | int] | None) -> list[tuple[Path, str | int]]:
    """The file of each band, and the band's name or number in it."""
    if path.is_dir():
        return [(_file_of_band(path, str(band)), 1) for band in bands or RGB]
    if not path.is_file():
        raise DataError(
            f"no scene {path}: expected {LAYOUTS} (SETUP.md, Map a scene; PROFILE = 'demo' makes"
            " one)"
        )
    return [(path, band) for band in bands or _red_green_blue(path)]


def _red_green_blue(path: Path) -> tuple[str | int, ...]:
    """B04, B03, B02 where the file names its bands so, else the first three."""
    with _open(path) as file:
        if set(RGB) <= {str(name) for name in file.descriptions}:
            return RGB
        if file.count < 3:
            raise DataError(
                f"{path} has {file.count} band(s), expected red, green and blue: give --bands"
            )
    return (1, 2, 3)


def _file_of_band(folder: Path, band: str) -> Path:
    name = re.compile(rf"(^|_){re.escape(band)}(_10m)?\.(tif|tiff|jp2)$", re.IGNORECASE)
    # previews and masks of a SAFE folder lie elsewhere, or end otherwise (_20m)
    pattern = "**/IMG_DATA/**/*" if _product_metadata(folder) else "*"
    files = [file for file in sorted(folder.glob(pattern)) if name.search(file.name)]
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise DataError(
            f"{folder}: expected one 10 m file of band {band} (such as {band}.tif), found {found}"
        )
    return files[0]


def _band_number(file: rasterio.DatasetReader, band: str | int) -> int:
    """Position from 1 of a band given by number or by the name the file gives it."""
    numbers = {str(number): number for number in file.indexes}
    named = zip(file.descriptions, file.indexes, strict=True)
    numbers |= {name: number for name, number in named if name}
    if str(band) not in numbers:
        raise DataError(
            f"{file.name} has no band {band!r}; there is: {', '.join(numbers)}. Give --bands"
        )
    return numbers[str(band)]


# --- do they belong together, and what was added to them? ---


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


def _check_types(path: Path, types: set[str], options: SceneOptions) -> None:
    if "uint8" in types and (options.scale != 1 or options.offset or len(types) > 1):
        raise ValueError(
            f"{path} has 8-bit bands, which are taken as they are: no scale, no offset, no other"
            " type"
        )


def _product_metadata(folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob("MTD_MSIL*.xml"))), None)


def _declared_offset(path: Path) -> float:
    """What the producer added, of a SAFE folder's metadata; 0 where there is none."""
    file = _product_metadata(path) if path.is_dir() else None
    if file is None:
        return 0.0
    tags = ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET")  # level 2A, level 1C
    elements = ElementTree.parse(file).iter()
    offsets = {-float(e.text) for e in elements if e.tag.split("}")[-1] in tags}
    if len(offsets) > 1:
        raise DataError(
            f"{file} gives the bands different offsets {sorted(offsets)}: give --offset"
        )
    return offsets.pop() if offsets else 0.0
