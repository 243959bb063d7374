"""Tiles over a scene: what the network says of each, blended into pixels, painted into
Cloud-Optimised GeoTIFFs.
"""

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from matplotlib.colors import to_rgb
from rasterio.windows import Window
from scipy.special import softmax
from tqdm.auto import tqdm

from src.checkpoints import replacing
from src.encoders import Classifier
from src.errors import DataError
from src.map.scene import Scene
from src.map.scene_checks import rendered
from src.map.thresholds import Thresholds
from src.ood import penultimate
from src.runs.runtime import Runtime

STRIP_TILES = 2048  # tiles between two notes of what is done: 10 to 20 s on two CPU cores
BLOCK = 512  # pixels of a GeoTIFF's inner tiles
NO_CLASS = 255  # in class.tif and flagged.tif; NaN in the others
# name: (data type, how overviews are made)
RASTERS = {
    "class": ("uint8", "mode"),
    "confidence": ("float32", "average"),
    "score": ("float32", "average"),
    "flagged": ("uint8", "mode"),
}


def tile_starts(length: int, tile: int, stride: int) -> np.ndarray:
    """First pixels of the tiles along an axis; the last one ends with the scene, wherever the
    stride would put it.
    """
    return np.unique([*range(0, length - tile, stride), length - tile])


def score_tiles(
    scene: Scene,
    model: Classifier,
    calibration: Thresholds,
    score: str,
    tops: np.ndarray,
    lefts: np.ndarray,
    work: Path,
    runtime: Runtime,
) -> np.ndarray:
    """(rows, columns, C + 1) softmax probabilities and OOD score of every tile, NaN where it has a
    missing pixel.

    Raises:
        DataError: no tile of the whole scene is without missing pixels.
    """
    tiles, done = (
        np.lib.format.open_memmap(work / f"{name}.npy", "r+") for name in ("tiles", "done")
    )
    step = max(1, STRIP_TILES // len(lefts))
    pixels = np.diff([*tops, scene.grid.height]) * scene.grid.width
    with tqdm(
        total=pixels.sum(),
        initial=pixels[done].sum(),
        unit="px",
        unit_scale=True,
        desc=scene.path.name,
    ) as bar:
        for first in range(0, len(tops), step):
            rows = slice(first, first + step)
            if not done[rows].all():
                tiles[rows] = _score_strip(
                    scene, model, calibration, score, tops[rows], lefts, runtime
                )
                tiles.flush()
                done[rows] = True  # after what it says is written
                done.flush()
                bar.update(pixels[rows].sum())
    if np.isnan(tiles[..., 0]).all():
        size = calibration.about["tile"]
        raise DataError(
            f"{scene.path} has no {size}×{size} pixels in one piece without missing ones: nothing"
            " to map"
        )
    return tiles


def _score_strip(
    scene: Scene,
    model: Classifier,
    calibration: Thresholds,
    score: str,
    tops: np.ndarray,
    lefts: np.ndarray,
    runtime: Runtime,
) -> np.ndarray:
    tile, classes = calibration.about["tile"], len(calibration.about["classes"])
    numbers, valid = scene.read(Window(0, tops[0], scene.grid.width, tops[-1] + tile - tops[0]))
    pixels = rendered(numbers, calibration.about)
    places = [(y, x) for y in tops - tops[0] for x in lefts]
    whole = np.array([valid[y : y + tile, x : x + tile].all() for y, x in places])
    said = np.full((len(places), classes + 1), np.nan, np.float32)
    if whole.any():
        images = np.stack(
            [
                pixels[y : y + tile, x : x + tile]
                for (y, x), ok in zip(places, whole, strict=True)
                if ok
            ]
        )
        features = penultimate(model, images, runtime)
        said[whole, :-1] = softmax(calibration.train(model).logits(features), axis=-1)
        said[whole, -1] = calibration.score(score, model, features, images)
    return said.reshape(len(tops), len(lefts), classes + 1)


# --- from tiles to pixels ---


def cell_edges(starts: np.ndarray, tile: int) -> np.ndarray:
    """Where, along an axis, the tiles over a pixel change: between two edges the same tiles cover
    every pixel.
    """
    return np.unique([starts, starts + tile])


def blend(
    tiles: np.ndarray, tops: np.ndarray, lefts: np.ndarray, tile: int
) -> tuple[np.ndarray, np.ndarray]:
    """Means over the tiles that cover each cell between the edges: exact for every pixel, and a
    scene has few cells.

    Args:
        tiles: (rows, columns, K) values, NaN where there is none.

    Returns:
        (cell rows, cell columns, K) means, NaN where no tile lies; and how many tiles lie there.
    """
    over = [
        ((s <= e[:-1, None]) & (e[:-1, None] < s + tile)).astype(np.float32)
        for s, e in ((tops, cell_edges(tops, tile)), (lefts, cell_edges(lefts, tile)))
    ]
    there = np.isfinite(tiles[..., 0])
    count = over[0] @ there.astype(np.float32) @ over[1].T
    sums = np.einsum(
        "ai,ijk,bj->abk", over[0], np.where(there[..., None], tiles, 0), over[1], optimize=True
    )
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that is meant
        return sums / count[..., None], count


def cells_of(means: np.ndarray, count: np.ndarray, threshold: float) -> dict[str, np.ndarray]:
    probabilities, score, nothing = means[..., :-1], means[..., -1], count == 0
    return {
        "class": np.where(nothing, NO_CLASS, probabilities.argmax(-1)).astype(np.uint8),
        "confidence": probabilities.max(-1),
        "score": score,
        "flagged": np.where(nothing, NO_CLASS, score > threshold).astype(np.uint8),
    }


def write_cog(
    path: Path,
    work: Path,
    cells: np.ndarray,
    edges: tuple[np.ndarray, np.ndarray],
    grid: rasterio.DatasetReader,
    classes: list[str],
) -> None:
    """Paint the cells on the scene's pixels, block row by block row, then turn the file into a
    COG.
    """
    dtype, overviews = RASTERS[path.stem]
    profile = {
        "driver": "GTiff",
        "width": grid.width,
        "height": grid.height,
        "count": 1,
        "dtype": dtype,
        "crs": grid.crs,
        "transform": grid.transform,
        "nodata": NO_CLASS if dtype == "uint8" else np.nan,
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "compress": "deflate",
        "BIGTIFF": "IF_SAFER",
    }
    row, column = (np.searchsorted(e, np.arange(e[-1]), "right") - 1 for e in edges)
    with rasterio.open(work / path.name, "w", **profile) as file:
        if path.stem == "class":
            file.write_colormap(
                1, {n: tuple(round(255 * v) for v in to_rgb(f"C{n}")) for n in range(len(classes))}
            )
            file.update_tags(**{f"CLASS_{n}": name for n, name in enumerate(classes)})
        for top in range(0, grid.height, BLOCK):
            rows = row[top : top + BLOCK]
            file.write(cells[rows][:, column], 1, window=Window(0, top, grid.width, len(rows)))
    with replacing(path) as partial:
        rasterio.shutil.copy(
            work / path.name,
            partial,
            driver="COG",
            compress="DEFLATE",
            predictor="YES",
            blocksize=BLOCK,
            overview_resampling=overviews,
            bigtiff="IF_SAFER",
        )


def shares(
    cells: dict[str, np.ndarray], edges: tuple[np.ndarray, np.ndarray], classes: list[str]
) -> dict[str, Any]:
    """Shares of the mapped pixels, each cell by its size."""
    area = np.outer(*(np.diff(e) for e in edges)) * (cells["class"] != NO_CLASS)
    return {
        "mapped": float(area.sum() / (edges[0][-1] * edges[1][-1])),
        "flagged": float(area[cells["flagged"] == 1].sum() / area.sum()),
        "classes": {
            name: float(area[cells["class"] == n].sum() / area.sum())
            for n, name in enumerate(classes)
        },
    }
