"""A scene in; a land-cover map, and where not to believe it, out.

Tiles of EuroSAT's size slide over the scene, and what the network says of each is kept (the long
part, in strips, each noted when done, so that a killed run continues). A pixel then gets the mean
of all tiles over it. A tile counts where at most a small share of its pixels is missing
(`SceneOptions.missing`): the network is then shown each band's median in their place. Missing
pixels themselves have no data in the map, nor have pixels that no such tile covers.
"""

import json
import math
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from src.checkpoints import load_classifier, replacing
from src.data.locks import locked
from src.data.titles import title_of
from src.errors import DataError
from src.map.rasters import RASTERS, cell_values, shares, write_cog
from src.map.scene import Scene, SceneOptions, open_scene
from src.map.scene_checks import differences, radiometry, rendered
from src.map.thresholds import DEFAULT_MASK, Thresholds, as_scores
from src.map.tiles import TileGrid, blend, predict_tiles, score_tiles
from src.runs.runtime import Runtime, pick, record

# MB of raster blocks that GDAL keeps: its own default is 5 % of the machine's memory. Set before a
# process first reads a raster it holds; later it has no effect
GDAL_CACHE = 256
UNFINISHED = ".unfinished"  # folder within `out`, while a map is being made


def map_scene(
    path: str | Path,
    checkpoint: str | Path,
    out: str | Path,
    thresholds: Thresholds,
    options: SceneOptions | None = None,
    *,
    score: str | Sequence[str] = DEFAULT_MASK,
    stride: int = 32,
    runtime: Runtime | None = None,
) -> dict[str, Any]:
    """Map one scene. Stopped or killed, call it again: it continues, and the rasters are the same.

    Writes into `out`, on the scene's grid: `class.tif` (number in the checkpoint's classes, 255 no
    data), `confidence.tif` (largest mean softmax probability, 0…1), `score.tif` (mean OOD score,
    higher = more OOD), `flagged.tif` (1 where a mean is above its threshold, 0 else, 255 no data),
    `flagged_by.tif` (1 by the first score, 2 by the second, 3 by both), and last `map.json`, which
    is returned: how the scene was read, settings, shares, doubts, speed.

    Args:
        path, options: see `open_scene`.
        checkpoint: of a fine-tuned classifier.
        thresholds: of that checkpoint.
        score: one that the thresholds know, at its threshold; or two, each at half the share, so
            that of known ground as much is flagged in all. `score.tif` is of the first.
        stride: pixels from tile to tile, from a sixteenth of the tile to the tile. At the tile's
            own size every pixel has one score, as the thresholds had; smaller is finer, and takes
            (tile / stride)² times as long.

    Raises:
        DataError: an unusable scene, or an `out` that holds another map.
        CheckpointError: an unusable checkpoint.
        ValueError: stride out of range, or another number of bands than the network's.
    """
    begun, out, runtime = time.perf_counter(), Path(out), runtime or pick()
    model, trained = load_classifier(checkpoint)
    known = thresholds.metadata
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE), open_scene(path, options) as scene:
        _check_scene(scene, trained["config"]["in_channels"], known["tile"], stride)
        scores = as_scores(score)
        settings = _settings(scene, thresholds, scores, stride, runtime)
        if (finished := _finished(out, settings)) is not None:
            return finished
        doubts = differences(scene, known)
        for doubt in doubts:
            warnings.warn(doubt, stacklevel=2)
        grid = TileGrid.over(scene.grid.shape, known["tile"], stride)
        predict = partial(predict_tiles, model.to(runtime.device), thresholds, scores, runtime)
        with locked(out / UNFINISHED / "lock", "making this map"):
            found, pixels = _make_rasters(scene, grid, predict, known, settings, out)
    summary = settings | found | {"warnings": doubts, "tiles": math.prod(grid.shape)}
    seconds = time.perf_counter() - begun
    summary |= {"seconds": round(seconds, 1), "pixels_per_s": round(pixels / seconds)}
    summary |= {"versions": record(runtime)}
    with replacing(out / "map.json") as file:
        file.write_text(json.dumps(summary, indent=1) + "\n")
    shutil.rmtree(out / UNFINISHED)
    return summary


def _check_scene(scene: Scene, channels: int, tile: int, stride: int) -> None:
    if not -(-tile // 16) <= stride <= tile:
        raise ValueError(
            f"stride must lie between {-(-tile // 16)} and {tile} pixels, got {stride}"
        )
    if len(scene.bands) != channels:
        raise ValueError(
            f"the network takes {channels} bands, got {len(scene.bands)}: give --bands in its order"
        )
    width, height = scene.grid.width, scene.grid.height
    if min(width, height) < tile:
        raise DataError(f"{scene.path} is {width}×{height} pixels, smaller than a tile of {tile}")


def _make_rasters(
    scene: Scene,
    grid: TileGrid,
    predict: Callable[[np.ndarray], np.ndarray],
    known: dict[str, Any],
    settings: dict[str, Any],
    out: Path,
) -> tuple[dict[str, Any], float]:
    """Make what is missing; shares of the mapped pixels, and how many the network was asked about.

    Pixels that an earlier call had asked about are not counted: they took no time.
    """
    classes, thresholds = known["classes"], settings["thresholds"]
    folder = _workspace(out, settings, (*grid.shape, len(classes) + len(thresholds)), scene)
    left = 1 - np.load(folder / "done.npy").mean()
    render = partial(rendered, metadata=known, tone=radiometry(scene, known))
    tiles = score_tiles(scene, grid, render, predict, folder)
    cells = cell_values(*blend(tiles, grid), list(thresholds.values()))
    for name in RASTERS:
        write_cog(out / f"{name}.tif", folder, cells[name], grid, scene, classes)
    valid = np.load(folder / "valid.npy", mmap_mode="r")
    found = shares(cells, grid, valid, classes, list(thresholds))
    found["trained_on"] = title_of(known["data"])
    return found, left * scene.grid.width * scene.grid.height


# --- what is done already ---


def _settings(
    scene: Scene, thresholds: Thresholds, scores: Sequence[str], stride: int, runtime: Runtime
) -> dict[str, Any]:
    """Everything the rasters depend on, as plain values that compare equal after JSON."""
    files, known = dict.fromkeys(Path(file.name) for file, _ in scene.bands), thresholds.metadata
    limits = dict(zip(scores, thresholds.of(scores), strict=True))
    return {
        "scene": scene.path.name,
        # changed files are another scene, and another map
        "files": {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in files},
        **scene.reading,
        "missing": scene.options.missing,
        "stretch": known["stretch"],
        "checkpoint": known["checkpoint"],
        "checkpoint_sha256": known["checkpoint_sha256"],
        "score": scores[0],
        "threshold": limits[scores[0]],
        "thresholds": limits,
        "keep": known["keep"],
        "tile": known["tile"],
        "stride": stride,
        "precision": str(runtime.dtype).removeprefix("torch."),
    }


def _finished(out: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """What `map.json` says, if these settings were mapped already."""
    if not (out / "map.json").is_file():
        return None
    summary = json.loads((out / "map.json").read_text())
    _check_same(out, summary, settings)
    return summary


def _workspace(
    out: Path, settings: dict[str, Any], shape: tuple[int, int, int], scene: Scene
) -> Path:
    """The folder of an unfinished map: its settings, and what `score_tiles` keeps."""
    folder = out / UNFINISHED
    begun = folder / "settings.json"
    if begun.is_file():
        _check_same(out, json.loads(begun.read_text()), settings)
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    # written, not mapped: a map on a disk that is full ends the process without a word
    np.save(folder / "tiles.npy", np.full(shape, np.nan, np.float32))
    np.save(folder / "done.npy", np.zeros(shape[0], bool))
    packed = scene.grid.height, -(-scene.grid.width // 8)
    np.save(folder / "valid.npy", np.zeros(packed, np.uint8))
    with replacing(begun) as file:  # its presence says that the rest is there
        file.write_text(json.dumps(settings))
    return folder


def _check_same(out: Path, was: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [key for key in now if was.get(key) != now[key]]
    if changed:
        message = "; ".join(f"{key} was {was.get(key)!r}, now {now[key]!r}" for key in changed)
        raise DataError(
            f"{out} holds a map begun otherwise ({message}). Delete it, or give another folder."
        )
