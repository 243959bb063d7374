"""Rasters of a map: class, confidence, score and flags, as Cloud-Optimised GeoTIFFs."""

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from matplotlib.colors import to_rgb
from rasterio.windows import Window

from src.checkpoints import replacing
from src.map.scene import Scene
from src.map.tiles import TileGrid

BLOCK = 512  # pixels of a GeoTIFF's inner tiles
NO_CLASS = 255  # in class.tif and flagged.tif; NaN in the others
# name: (data type, how overviews are made)
RASTERS = {
    "class": ("uint8", "mode"),
    "confidence": ("float32", "average"),
    "score": ("float32", "average"),
    "flagged": ("uint8", "mode"),
}


def cell_values(means: np.ndarray, count: np.ndarray, threshold: float) -> dict[str, np.ndarray]:
    """What `blend` gave as one array a raster, (cell rows, cell columns) each."""
    probabilities, score, empty = means[..., :-1], means[..., -1], count == 0
    return {
        "class": np.where(empty, NO_CLASS, probabilities.argmax(-1)).astype(np.uint8),
        "confidence": probabilities.max(-1),
        "score": score,
        "flagged": np.where(empty, NO_CLASS, score > threshold).astype(np.uint8),
    }


def shares(cells: dict[str, np.ndarray], grid: TileGrid, classes: list[str]) -> dict[str, Any]:
    """Shares of the mapped pixels, each cell by its size; `mapped` is of all pixels."""
    heights, widths = (np.diff(edges) for edges in grid.edges)
    area = np.outer(heights, widths) * (cells["class"] != NO_CLASS)

    def share(where: np.ndarray) -> float:
        return float(area[where].sum() / area.sum())

    return {
        "mapped": float(area.sum() / (heights.sum() * widths.sum())),
        "flagged": share(cells["flagged"] == 1),
        "classes": {name: share(cells["class"] == n) for n, name in enumerate(classes)},
    }


def write_cog(
    path: Path, folder: Path, cells: np.ndarray, grid: TileGrid, scene: Scene, classes: list[str]
) -> None:
    """Write one raster of `RASTERS` on the scene's pixels, as a Cloud-Optimised GeoTIFF.

    Args:
        path: appears only when whole.
        folder: for the plain GeoTIFF from which it is made.
        cells: (cell rows, cell columns) of `cell_values`.
    """
    plain, (_, overviews) = folder / path.name, RASTERS[path.stem]
    with rasterio.open(plain, "w", **_profile(path.stem, scene)) as file:
        if path.stem == "class":
            _name_classes(file, classes)
        _paint(file, cells, grid)
    as_cog = {
        "driver": "COG",
        "compress": "DEFLATE",
        "predictor": "YES",
        "blocksize": BLOCK,
        "overview_resampling": overviews,
        "bigtiff": "IF_SAFER",
    }
    with replacing(path) as partial:
        rasterio.shutil.copy(plain, partial, **as_cog)


def _profile(name: str, scene: Scene) -> dict[str, Any]:
    dtype, _ = RASTERS[name]
    place = {key: getattr(scene.grid, key) for key in ("width", "height", "crs", "transform")}
    return place | {
        "driver": "GTiff",
        "count": 1,
        "dtype": dtype,
        "nodata": NO_CLASS if dtype == "uint8" else np.nan,
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "compress": "deflate",
        "BIGTIFF": "IF_SAFER",
    }


def _name_classes(file: rasterio.io.DatasetWriter, classes: list[str]) -> None:
    """Colours as in every figure, and names as tags."""
    colours = [to_rgb(f"C{n}") for n in range(len(classes))]
    eight_bit = {n: tuple(round(255 * v) for v in colour) for n, colour in enumerate(colours)}
    file.write_colormap(1, eight_bit)
    file.update_tags(**{f"CLASS_{n}": name for n, name in enumerate(classes)})


def _paint(file: rasterio.io.DatasetWriter, cells: np.ndarray, grid: TileGrid) -> None:
    """Every pixel gets its cell's value, one row of blocks at a time."""
    row, column = (np.repeat(np.arange(len(e) - 1), np.diff(e)) for e in grid.edges)
    for top in range(0, file.height, BLOCK):
        rows = row[top : top + BLOCK]
        file.write(cells[rows][:, column], 1, window=Window(0, top, file.width, len(rows)))
