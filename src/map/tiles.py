"""Tiles over a scene: where they lie, what the network says of each, and their blend.

Between two edges of tiles the same ones cover every pixel, so all pixels of such a cell get the
same mean: a scene has few cells, and what is worked out for pixels is worked out once for a cell.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rasterio.windows import Window
from scipy.special import softmax

from src.data.bars import bar
from src.encoders import Classifier
from src.errors import DataError
from src.map.scene import Scene
from src.map.scene_checks import fill_missing
from src.map.thresholds import Thresholds
from src.ood import penultimate
from src.runs.runtime import Runtime

STRIP_TILES = 2048  # tiles between two notes of what is done: 10 to 20 s on two CPU cores


# --- where tiles lie ---


@dataclass(frozen=True)
class TileGrid:
    """Square tiles in rows and columns, from one end of a scene to the other."""

    tops: np.ndarray  # first pixel row of each row of tiles, ascending
    lefts: np.ndarray  # first pixel column of each column of tiles, ascending
    tile: int  # pixels along a side

    @classmethod
    def over(cls, shape: tuple[int, int], tile: int, stride: int) -> "TileGrid":
        """Tiles every `stride` pixels over a scene of `shape` (height, width)."""
        tops, lefts = (tile_starts(length, tile, stride) for length in shape)
        return cls(tops, lefts, tile)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return len(self.tops), len(self.lefts)

    @property
    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Where cells begin and end, down and across; the first edge is 0, the last the length."""
        return cell_edges(self.tops, self.tile), cell_edges(self.lefts, self.tile)


def tile_starts(length: int, tile: int, stride: int) -> np.ndarray:
    """First pixels of the tiles along an axis.

    The last tile ends with the scene, wherever the stride would put it.
    """
    return np.unique([*range(0, length - tile, stride), length - tile])


def cell_edges(starts: np.ndarray, tile: int) -> np.ndarray:
    """Where, along an axis, the tiles over a pixel change."""
    return np.unique([starts, starts + tile])


# --- what the network says of each tile ---


def predict_tiles(
    model: Classifier,
    thresholds: Thresholds,
    scores: Sequence[str],
    runtime: Runtime,
    images: np.ndarray,
) -> np.ndarray:
    """(N, H, W, C) images → (N, classes + scores): softmax probabilities, and last OOD scores."""
    features = penultimate(model, images, runtime, checked=True)
    probabilities = softmax(thresholds.train(model).logits(features), axis=-1)
    found = [thresholds.score(score, model, features, images) for score in scores]
    return np.column_stack([probabilities, *found])


def score_tiles(
    scene: Scene,
    grid: TileGrid,
    render: Callable[[np.ndarray], np.ndarray],
    predict: Callable[[np.ndarray], np.ndarray],
    folder: Path,
) -> np.ndarray:
    """What `predict` says of every tile (rows, columns, K), NaN where too many pixels are missing.

    Done strip by strip, each noted when it is written, so that a killed run continues.

    Args:
        render: digital numbers → what the network was trained on.
        predict: (N, tile, tile, C) → (N, K).
        folder: holds `tiles.npy`, float32 (rows, columns, K), `done.npy`, bool (rows,), and
            `valid.npy`, which pixels are not missing, eight in a byte along a row.

    Raises:
        DataError: no tile of the whole scene has enough pixels.
    """
    tiles, done, valid = (
        np.lib.format.open_memmap(folder / f"{name}.npy", "r+")
        for name in ("tiles", "done", "valid")
    )
    pixels = np.diff([*grid.tops, scene.grid.height]) * scene.grid.width  # of each row of tiles
    progress = {"total": pixels.sum(), "initial": pixels[done].sum(), "desc": scene.path.name}
    with bar(**progress, unit="px", unit_scale=True) as shown:
        for rows in _strips(grid):
            if done[rows].all():
                continue
            strip = TileGrid(grid.tops[rows], grid.lefts, grid.tile)
            tiles[rows] = _score_strip(scene, strip, render, predict, tiles, valid)
            tiles.flush()
            valid.flush()
            done[rows] = True  # after what it says is written
            done.flush()
            shown.update(pixels[rows].sum())
    if np.isnan(tiles[..., 0]).all():
        size, missing = f"{grid.tile}×{grid.tile}", 1 - np.unpackbits(valid).sum() / pixels.sum()
        raise DataError(
            f"{scene.path} has no {size} pixels in one piece of which at most"
            f" {scene.options.missing:.0%} are missing ({missing:.0%} of the scene are: no data is"
            f" {scene.nodata} in all bands): nothing to map"
        )
    return tiles


def _strips(grid: TileGrid) -> list[slice]:
    rows, columns = grid.shape
    height = max(1, STRIP_TILES // columns)
    return [slice(first, first + height) for first in range(0, rows, height)]


def _score_strip(
    scene: Scene,
    strip: TileGrid,
    render: Callable[[np.ndarray], np.ndarray],
    predict: Callable[[np.ndarray], np.ndarray],
    tiles: np.ndarray,
    valid_packed: np.ndarray,
) -> np.ndarray:
    first, tile = strip.tops[0], strip.tile
    height = strip.tops[-1] + tile - first
    numbers, valid = scene.read(Window(0, first, scene.grid.width, height))
    valid_packed[first : first + height] = np.packbits(valid, axis=1)
    corners = [(top - first, left) for top in strip.tops for left in strip.lefts]
    views = [(slice(y, y + tile), slice(x, x + tile)) for y, x in corners]
    enough = np.array([1 - valid[view].mean() <= scene.options.missing for view in views])
    predicted = np.full((len(corners), tiles.shape[-1]), np.nan, np.float32)
    if enough.any():
        kept = [view for view, is_enough in zip(views, enough, strict=True) if is_enough]
        filled = np.stack([fill_missing(numbers[view], valid[view]) for view in kept])
        predicted[enough] = predict(render(filled))
    return predicted.reshape(*strip.shape, -1)


# --- from tiles to cells ---


def blend(tiles: np.ndarray, grid: TileGrid) -> tuple[np.ndarray, np.ndarray]:
    """Means over the tiles that cover each cell: exact for every pixel.

    Args:
        tiles: (rows, columns, K) values, NaN where there is none.

    Returns:
        (cell rows, cell columns, K) means, NaN where no tile lies; and how many tiles lie there.
    """
    down, across = (_covers(starts, grid.tile) for starts in (grid.tops, grid.lefts))
    known = np.isfinite(tiles[..., 0])
    count = down @ known.astype(np.float32) @ across.T
    values = np.where(known[..., None], tiles, 0)
    sums = np.einsum("ai,ijk,bj->abk", down, values, across, optimize=True)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that is meant
        return sums / count[..., None], count


def _covers(starts: np.ndarray, tile: int) -> np.ndarray:
    """(cells, tiles) along an axis: 1 where the tile lies over the cell, else 0."""
    cells = cell_edges(starts, tile)[:-1, None]
    return ((starts <= cells) & (cells < starts + tile)).astype(np.float32)
