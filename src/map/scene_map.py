"""A scene in; a land-cover map, and where not to believe it, out: Cloud-Optimised GeoTIFFs on the
scene's own pixels.

Tiles of EuroSAT's size slide over the scene, and what the network says of each is kept (the long
part, in strips, each noted when done, so that a killed run continues). A pixel then gets the mean
of all tiles over it. Only tiles without a missing pixel count: nothing is filled in, and where no
such tile lies the map has no data.
"""

import json
import shutil
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from src.checkpoints import load_classifier, replacing
from src.errors import DataError
from src.map.scene import Scene, open_scene
from src.map.scene_checks import differences
from src.map.thresholds import DEFAULT_SCORE, Thresholds
from src.map.tiles import (
    RASTERS,
    blend,
    cell_edges,
    cells_of,
    score_tiles,
    shares,
    tile_starts,
    write_cog,
)
from src.runs.runtime import Runtime, pick, record

# MB of raster blocks that GDAL keeps: its own default is 5 % of the machine's memory. Said before a
# process first reads a raster it holds; later it has no effect
CACHE = 256


def map_scene(
    path: str | Path,
    checkpoint: str | Path,
    out: str | Path,
    calibration: Thresholds,
    *,
    score: str = DEFAULT_SCORE,
    stride: int = 32,
    bands: Sequence[str | int] | None = None,
    scale: float = 1.0,
    offset: float | None = None,
    nodata: float | None = None,
    runtime: Runtime | None = None,
) -> dict[str, Any]:
    """Map one scene. Stopped or killed, call it again: it continues, and the rasters come out the
    same.

    Writes into `out`, on the scene's grid: `class.tif` (number in the checkpoint's classes, 255 no
    data), `confidence.tif` (largest mean softmax probability, 0…1), `score.tif` (mean OOD score,
    higher = more OOD), `flagged.tif` (1 where that mean is above the calibration's threshold, 0
    else, 255 no data), and last `map.json`, which is returned: settings, shares, doubts, speed.

    Args:
        path, bands, scale, offset, nodata: see `open_scene`.
        stride: pixels from tile to tile, from a sixteenth of the tile to the tile. At the tile's
            own size every pixel has one score, as in the calibration; smaller is finer, and takes
            (tile / stride)² times as long.

    Raises:
        DataError: an unusable scene or calibration, or an `out` that holds another map.
        CheckpointError: an unusable checkpoint.
        ValueError: stride out of range, or another number of bands than the network's.
    """
    out, runtime, begun = Path(out), runtime or pick(), time.perf_counter()
    model, trained = load_classifier(checkpoint)
    about, tile = calibration.about, calibration.about["tile"]
    if not -(-tile // 16) <= stride <= tile:
        raise ValueError(
            f"stride must lie between {-(-tile // 16)} and {tile} pixels, got {stride}"
        )
    with (
        rasterio.Env(GDAL_CACHEMAX=CACHE),
        open_scene(path, bands, scale=scale, offset=offset, nodata=nodata) as scene,
    ):
        _check(scene, trained["config"]["in_channels"], tile)
        settings = _settings(scene, about, score, stride, runtime)
        if (done := _finished(out, settings)) is not None:
            return done
        doubts = differences(scene, about)
        for doubt in doubts:
            warnings.warn(doubt, stacklevel=2)
        tops, lefts = (
            tile_starts(length, tile, stride) for length in (scene.grid.height, scene.grid.width)
        )
        work = _workspace(out, settings, (len(tops), len(lefts), len(about["classes"]) + 1))
        left = 1 - np.load(work / "done.npy").mean()
        tiles = score_tiles(
            scene, model.to(runtime.device), calibration, score, tops, lefts, work, runtime
        )
        cells = cells_of(*blend(tiles, tops, lefts, tile), about["thresholds"][score])
        edges = cell_edges(tops, tile), cell_edges(lefts, tile)
        for name in RASTERS:
            write_cog(out / f"{name}.tif", work, cells[name], edges, scene.grid, about["classes"])
        summary = (
            settings
            | shares(cells, edges, about["classes"])
            | {"warnings": doubts, "tiles": tiles[..., 0].size}
        )
        speed = (
            left * scene.grid.width * scene.grid.height / (seconds := time.perf_counter() - begun)
        )
    summary |= {
        "seconds": round(seconds, 1),
        "pixels_per_s": round(speed),
        "versions": record(runtime),
    }
    with replacing(out / "map.json") as partial:
        partial.write_text(json.dumps(summary, indent=1) + "\n")
    shutil.rmtree(work)
    return summary


def _check(scene: Scene, channels: int, tile: int) -> None:
    if len(scene.bands) != channels:
        raise ValueError(
            f"the network takes {channels} bands, got {len(scene.bands)}: give --bands in its order"
        )
    if min(scene.grid.width, scene.grid.height) < tile:
        raise DataError(
            f"{scene.path} is {scene.grid.width}×{scene.grid.height} pixels, smaller than a tile of"
            f" {tile}"
        )


# --- what is done already ---


def _settings(
    scene: Scene, about: dict[str, Any], score: str, stride: int, runtime: Runtime
) -> dict[str, Any]:
    """Everything the rasters depend on."""
    files = {Path(file.name): file for file, _ in scene.bands}
    nodata = (
        None if scene.nodata is None or np.isnan(scene.nodata) else scene.nodata
    )  # nan would differ from itself
    return {
        "scene": scene.path.name,
        "files": {
            f.name: [f.stat().st_size, f.stat().st_mtime_ns] for f in files
        },  # another scene, another map
        "bands": [
            number if len(files) == 1 else Path(file.name).stem for file, number in scene.bands
        ],
        "scale": scene.scale,
        "offset": scene.offset,
        "nodata": nodata,
        "stretch": about["stretch"],
        "checkpoint": about["checkpoint"],
        "checkpoint_sha256": about["checkpoint_sha256"],
        "score": score,
        "threshold": about["thresholds"][score],
        "keep": about["keep"],
        "tile": about["tile"],
        "stride": stride,
        "precision": str(runtime.dtype).removeprefix("torch."),
    }


def _finished(out: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    if not (out / "map.json").is_file():
        return None
    summary = json.loads((out / "map.json").read_text())
    _same(out / "map.json", {key: summary.get(key) for key in settings}, settings)
    return summary


def _same(file: Path, was: dict[str, Any], now: dict[str, Any]) -> None:
    told = "; ".join(
        f"{key} was {was.get(key)!r}, now {now[key]!r}" for key in now if was.get(key) != now[key]
    )
    if told:
        raise DataError(
            f"{file.parent} holds a map begun otherwise ({told}). Delete it, or give another"
            " folder."
        )


def _workspace(out: Path, settings: dict[str, Any], shape: tuple[int, int, int]) -> Path:
    """The folder of an unfinished map: what the network said of each tile, which strips are done,
    and the settings.
    """
    work = out / ".unfinished"
    if (work / "settings.json").is_file():
        _same(work, json.loads((work / "settings.json").read_text()), settings)
        return work
    work.mkdir(parents=True, exist_ok=True)
    tiles = np.lib.format.open_memmap(work / "tiles.npy", "w+", np.float32, shape)
    tiles[:] = np.nan
    tiles.flush()
    np.save(work / "done.npy", np.zeros(shape[0], bool))
    with replacing(work / "settings.json") as partial:  # its presence says that the rest is there
        partial.write_text(json.dumps(settings))
    return work
