"""Rasters of a map: class, confidence, score and flags, as Cloud-Optimised GeoTIFFs."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from matplotlib.colors import to_rgb
from rasterio.windows import Window

from src.checkpoints import replacing
from src.figures.palette import class_colors
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
    "flagged_by": ("uint8", "mode"),
}


def cell_values(
    means: np.ndarray, count: np.ndarray, thresholds: Sequence[float]
) -> dict[str, np.ndarray]:
    """What `blend` gave as one array a raster, (cell rows, cell columns) each.

    Args:
        means: (cell rows, cell columns, classes + scores).
        thresholds: of each score.
    """
    probabilities, scores = np.split(means, [means.shape[-1] - len(thresholds)], axis=-1)
    empty, above = count == 0, scores > np.array(thresholds)
    by = (above << np.arange(len(thresholds))).sum(-1)

    def numbered(values: np.ndarray) -> np.ndarray:
        return np.where(empty, NO_CLASS, values).astype(np.uint8)

    return {
        "class": numbered(probabilities.argmax(-1)),
        "confidence": probabilities.max(-1),
        "score": scores[..., 0],
        "flagged": numbered(by > 0),
        "flagged_by": numbered(by),
    }


def shares(
    cells: dict[str, np.ndarray],
    grid: TileGrid,
    valid: np.ndarray,
    classes: list[str],
    scores: Sequence[str],
) -> dict[str, Any]:
    """Shares of the mapped pixels, each cell by how many it has; `mapped` is of all pixels.

    Args:
        valid: of `score_tiles`.
    """
    pixels, mapped = _pixels(grid, valid), cells["class"] != NO_CLASS
    area, total = pixels * mapped, grid.edges[0][-1] * grid.edges[1][-1]

    def share(where: np.ndarray) -> float:
        return float(area[where].sum() / area.sum())

    by = cells["flagged_by"]
    return {
        "mapped": float(area.sum() / total),
        "unmapped": {
            "missing pixels": float(1 - pixels.sum() / total),
            "beside too many missing pixels": float((pixels * ~mapped).sum() / total),
        },
        "flagged": share(cells["flagged"] == 1),
        "flagged_by": {name: share(mapped & (by >> n & 1 == 1)) for n, name in enumerate(scores)},
        "classes": {name: share(cells["class"] == n) for n, name in enumerate(classes)},
    }


def _pixels(grid: TileGrid, valid: np.ndarray) -> np.ndarray:
    """(cell rows, cell columns): how many pixels of each cell are not missing."""
    down, across = grid.edges
    rows = [
        np.unpackbits(valid[top:bottom], axis=1, count=across[-1]).sum(0, dtype=np.int64)
        for top, bottom in pairwise(down)
    ]
    return np.add.reduceat(np.stack(rows), across[:-1], axis=1)


def write_cog(
    path: Path, folder: Path, cells: np.ndarray, grid: TileGrid, scene: Scene, classes: list[str]
) -> None:
    """Write one raster of `RASTERS` on the scene's pixels, as a Cloud-Optimised GeoTIFF.

    Args:
        path: appears only when whole.
        folder: has `valid.npy` of `score_tiles`; and is for the plain GeoTIFF that it is made from.
        cells: (cell rows, cell columns) of `cell_values`.
    """
    plain, (_, overviews) = folder / path.name, RASTERS[path.stem]
    with rasterio.open(plain, "w", **_profile(path.stem, scene)) as file:
        if path.stem == "class":
            _name_classes(file, classes)
        _paint(file, cells, grid, np.load(folder / "valid.npy", mmap_mode="r"))
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
    colours = [to_rgb(color) for color in class_colors(classes)]
    eight_bit = {n: tuple(round(255 * v) for v in colour) for n, colour in enumerate(colours)}
    file.write_colormap(1, eight_bit)
    file.update_tags(**{f"CLASS_{n}": name for n, name in enumerate(classes)})


def _paint(
    file: rasterio.io.DatasetWriter, cells: np.ndarray, grid: TileGrid, valid: np.ndarray
) -> None:
    """Every pixel gets its cell's value, missing ones none, one row of blocks at a time."""
    row, column = (np.repeat(np.arange(len(e) - 1), np.diff(e)) for e in grid.edges)
    for top in range(0, file.height, BLOCK):
        rows = row[top : top + BLOCK]
        known = np.unpackbits(valid[top : top + BLOCK], axis=1, count=file.width).astype(bool)
        values = np.where(known, cells[rows][:, column], cells.dtype.type(file.nodata))
        file.write(values, 1, window=Window(0, top, file.width, len(rows)))
