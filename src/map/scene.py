"""A Sentinel-2 scene on disk, read by windows.

It is one GeoTIFF, a folder of band files, or a SAFE folder as downloaded. `chosen_bands` says which
of its bands are read, `products` what it says of itself, `values` how its values are read.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import MaskFlags
from rasterio.windows import Window

from src.errors import DataError
from src.map import values as values_of
from src.map.chosen_bands import LAYOUTS, Chosen, files_of_bands, numbers_of_bands
from src.map.products import Product, describe
from src.map.values import Values

RADIOMETRY = ("as-is", "haze", "match")
EACH_WAY = 8  # windows sampled along each axis
LEAST = -1000.0  # digital number 0 of a product that 1000 was added to: nothing measured lies below
SATURATED = 65535


@dataclass(frozen=True)
class SceneOptions:
    """How the files of a scene are read: which bands, and how values become digital numbers.

    Raises:
        ValueError: scale or white not positive, a share out of range, or unknown radiometry.
    """

    # names (B04) or numbers from 1, in the order the network was trained with; None: red, green and
    # blue by the names of files and bands, by colour interpretation, or the first three of three or
    # four (with a warning)
    bands: Sequence[str | int] | None = None
    # 10,000 for reflectance in 0…1; None: by the file's tags, or told from the values
    scale: float | None = None
    # digital numbers that the producer added; None: what tags, metadata and names say (1000 since
    # processing baseline 04.00, January 2022), else guessed from the values (with a warning)
    offset: float | None = None
    # value of missing pixels where the files declare none; 0 in all bands is none always
    nodata: float | None = None
    # digital number that an 8-bit picture shows as 255; None: 2750 as EuroSAT's, TCI by its level
    white: float | None = None
    # share of a tile's pixels that may be missing
    missing: float = 0.05
    # what is done to the tones besides: nothing, air added as level 1C has it, or the scene's means
    # shifted to EuroSAT's
    radiometry: str = "as-is"

    def __post_init__(self) -> None:
        for name in ("scale", "white"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if not 0 <= self.missing < 1:
            raise ValueError(f"missing is a share from 0 to below 1, got {self.missing}")
        if self.radiometry not in RADIOMETRY:
            raise ValueError(f"radiometry is one of {RADIOMETRY}, not {self.radiometry!r}")


@dataclass(frozen=True)
class Scene:
    """Open bands of one grid. Values come out as digital numbers: 10,000 is reflectance 1."""

    path: Path
    # file and number in it, in the network's order
    bands: tuple[tuple[rasterio.DatasetReader, int], ...]
    options: SceneOptions
    product: Product
    values: Values
    doubts: tuple[str, ...]  # about how it is read, one sentence each

    @property
    def grid(self) -> rasterio.DatasetReader:
        """Has the scene's `.crs`, `.transform`, `.width`, `.height`."""
        return self.bands[0][0]

    @property
    def nodata(self) -> list[float]:
        """Values that in all bands mean no data: 0, and what is declared or given."""
        declared = [file.nodatavals[number - 1] for file, number in self.bands]
        known = {0.0, *(v for v in (*declared, self.options.nodata) if v is not None)}
        return sorted(value for value in known if not np.isnan(value))

    @property
    def reading(self) -> dict[str, Any]:
        """How it is read, as plain values for `map.json`."""
        names = ("red", "green", "blue") if len(self.bands) == 3 else range(1, len(self.bands) + 1)
        return {
            "bands": {
                str(name): f"{Path(file.name).name}, band {number}{_called(file, number)}"
                for name, (file, number) in zip(names, self.bands, strict=True)
            },
            "scale": _one_or_all(self.values.scale_C),
            "scale_from": self.values.scale_from,
            "offset": _one_or_all(self.values.offset_C),
            "offset_from": self.values.offset_from,
            "level": self.product.level,
            "nodata": self.nodata,
            "radiometry": self.options.radiometry,
        }

    def described(self) -> str:
        """`reading` in lines for people."""
        read = self.reading
        bands = "; ".join(f"{name}: {band}" for name, band in read["bands"].items())
        air = read["level"] == "L2A" and read["radiometry"] == "as-is"
        hint = " (EuroSAT is of level 1C: --radiometry haze adds the air's light)" if air else ""
        return (
            f"{bands}\nscale {read['scale']} ({read['scale_from']}), offset {read['offset']}"
            f" ({read['offset_from']}), level {read['level'] or 'not known'}{hint},"
            f" radiometry {read['radiometry']}"
        )

    def read(
        self, window: Window | None = None, shape: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (h, w, C) and where they are valid (h, w).

        Pixels are uint16 digital numbers; those of a uint8 file that is taken as it is are uint8.

        Args:
            window: None is the whole scene.
            shape: (h, w) to be thinned out to, for a picture.

        Raises:
            DataError: a file cannot be read.
        """
        values, valid = self.read_values(window, shape)
        if values.dtype in (np.uint8, np.uint16) and self.values.as_they_are:
            return values, valid
        numbers = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
        numbers = numbers * self.values.scale_C - np.array(self.values.offset_C)
        if values.dtype not in (np.uint8, np.uint16):
            valid = valid & ~(numbers < LEAST - 0.5).any(-1) & ~(numbers <= LEAST + 0.5).all(-1)
        return numbers.round().clip(0, 65535).astype(np.uint16), valid

    def read_values(
        self, window: Window | None = None, shape: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Values (h, w, C) as the files have them, and where they are valid (h, w)."""
        part = {"window": window, "out_shape": shape}
        try:
            values = np.stack([file.read(number, **part) for file, number in self.bands], -1)
            masks = [
                file.read_masks(number, **part) for file, number in self.bands if _masked(file)
            ]
        except rasterio.errors.RasterioError as error:
            raise DataError(
                f"{self.path} cannot be read ({error}): download or copy it again"
            ) from error
        # all bands: one dark band alone is water, not nothing
        valid = ~np.isin(values, self.nodata).all(-1)
        for mask in masks:
            valid &= mask > 0
        if values.dtype.kind != "u":
            valid &= np.isfinite(values).all(-1) & ~(values < LEAST).any(-1)
        if values.dtype != np.uint8:
            valid &= ~(values >= SATURATED).all(-1)
        return values, valid

    def sampled(self, tile: int) -> Iterator[Window]:
        """Windows of (tile, tile) pixels evenly spread over the scene."""
        height, width = (max(0, n - tile) for n in self.grid.shape)
        for top in _spread(height):
            for left in _spread(width):
                yield Window(left, top, min(tile, self.grid.width), min(tile, self.grid.height))


def _spread(last: int) -> np.ndarray:
    return np.unique(np.linspace(0, last, EACH_WAY).astype(int))


def _masked(file: rasterio.DatasetReader) -> bool:
    """Whether it has a mask of its own: alpha, or beside its values; not just a declared value."""
    flags = file.mask_flag_enums[0]
    return MaskFlags.per_dataset in flags or MaskFlags.alpha in flags


def _called(file: rasterio.DatasetReader, number: int) -> str:
    name = file.descriptions[number - 1]
    return f" ({name})" if name else ""


def _one_or_all(numbers_C: tuple[float, ...]) -> float | list[float]:
    return numbers_C[0] if len(set(numbers_C)) == 1 else list(numbers_C)


@contextmanager
def open_scene(path: str | Path, options: SceneOptions | None = None) -> Iterator[Scene]:
    """Open a scene for as long as the `with` lasts.

    Args:
        path: a GeoTIFF, a folder of single-band files whose names hold B04, B03 … or red, green …,
            or a SAFE folder or any folder inside (its 10 m bands).
        options: how it is read.

    Raises:
        DataError: nothing there, a band missing or not told, no CRS, bands of different grids,
            damaged metadata, or values that may mean more than one thing.
        ValueError: scale or offset for an 8-bit file.
    """
    path, options = Path(path), options or SceneOptions()
    with ExitStack() as stack:
        chosen = files_of_bands(path, options.bands)
        files = dict.fromkeys(file for file, _ in chosen)  # a GeoTIFF of many bands only once
        opened = {file: stack.enter_context(_open(file)) for file in files}
        bands, doubts = _open_bands(chosen, opened)
        _check_grids(path, [file for file, _ in bands])
        product = describe(Path(bands[0][0].name), options.offset is None)
        unread = Values((1.0,) * len(bands), (0.0,) * len(bands), "", "")
        scene = Scene(path, bands, options, product, unread, ())
        values = _values(scene)
        yield replace(scene, values=values, doubts=(*doubts, *values.doubts))


def _open(file: Path) -> rasterio.DatasetReader:
    try:
        return rasterio.open(file)
    except rasterio.errors.RasterioError as error:
        raise DataError(f"{file} cannot be read ({error}): expected {LAYOUTS}") from error


def _open_bands(
    chosen: Chosen, opened: dict[Path, rasterio.DatasetReader]
) -> tuple[tuple[tuple[rasterio.DatasetReader, int], ...], list[str]]:
    if len(opened) == 1:
        (file,) = opened.values()
        numbers, doubt = numbers_of_bands(file, [band for _, band in chosen])
        return tuple((file, number) for number in numbers), [doubt] if doubt else []
    for file in opened.values():
        if file.count != 1:
            raise DataError(
                f"{file.name} has {file.count} bands where a file a band is expected: give the file"
                " itself in place of its folder"
            )
    return tuple((opened[file], 1) for file, _ in chosen), []


# --- do they belong together, and what do their values mean? ---


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


def _values(scene: Scene) -> Values:
    options, path = scene.options, scene.path
    types = {file.dtypes[number - 1] for file, number in scene.bands}
    tags = [(file.scales[n - 1], file.offsets[n - 1]) for file, n in scene.bands]
    if types == {"uint8"} and set(tags) == {(1.0, 0.0)}:
        if options.scale not in (None, 1) or options.offset:
            raise ValueError(
                f"{path} has 8-bit bands, which are pictures: no scale, no offset, but --white, the"
                " digital number that they show as 255"
            )
        names = {Path(file.name).stem for file, _ in scene.bands}
        return values_of.of_pictures(names, scene.product.level, options.white, len(tags))
    if "uint8" in types and len(types) > 1:
        raise ValueError(
            f"{path} has 8-bit bands beside {sorted(types - {'uint8'})}: give one type"
        )
    is_float = any("float" in name for name in types)
    told = options.scale is not None and options.offset is not None
    sample_N_C = np.zeros((0, len(tags))) if told else _sample(scene)
    return values_of.of_numbers(
        sample_N_C, is_float, tags, scene.product, options.scale, options.offset
    )


def _sample(scene: Scene) -> np.ndarray:
    """Values (N, C) of valid pixels from all over the scene."""
    read = [scene.read_values(window) for window in scene.sampled(64)]
    return np.concatenate([values[valid].astype(np.float64) for values, valid in read])
