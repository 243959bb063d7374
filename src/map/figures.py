"""Pictures of mapped scenes: the scene, its classes, how unusual it looks, and where the map is not
to be believed.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from src.data.bands import ALL_BANDS, RGB, as_rgb
from src.figures.canvas import _axes
from src.figures.detection import SCORE_NAMES
from src.map.scene import Scene, open_scene
from src.map.scene_checks import rendered
from src.map.tiles import NO_CLASS

PIXELS = 300  # of a picture's longer side: a scene is read no finer, and a notebook stays small


def _panels(count: int, shape: tuple[int, int]) -> tuple[Figure, np.ndarray]:
    height, width = 3.6 * shape[0] / max(shape), 3.6 * shape[1] / max(shape)
    figure, axes = _axes(1, count, width + 0.35, height + 1.0)
    for axis in axes[0]:
        axis.set(xticks=[], yticks=[])
    return figure, axes[0]


def _preview(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    step = max(scene.grid.width, scene.grid.height) / PIXELS
    shape = tuple(max(1, round(n / max(step, 1))) for n in (scene.grid.height, scene.grid.width))
    numbers, valid = scene.read(None, shape)
    return numbers if numbers.shape[-1] >= 3 else numbers[..., :1].repeat(3, -1), valid


def _for_the_eye(numbers: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Digital numbers between the scene's own percentiles 2 and 98, square root so that ground
    shows beside cloud: colours for people, not the network's."""
    rgb = numbers[
        ..., [ALL_BANDS.index(band) for band in RGB] if numbers.shape[-1] == 12 else slice(3)
    ]
    low, high = np.percentile(rgb[valid], (2, 98))
    grey = (255 * ((rgb.astype(float) - low) / max(high - low, 1)).clip(0, 1) ** 0.5).astype(
        np.uint8
    )
    return np.where(valid[..., None], grey, 255)


def scene_both_ways(scene: Scene, about: dict) -> Figure:
    """The scene stretched for the eye, and as the network sees it.

    Args:
        about: of the calibration.
    """
    numbers, valid = _preview(scene)
    figure, axes = _panels(2, valid.shape)
    axes[0].imshow(_for_the_eye(numbers, valid), interpolation="nearest")
    axes[0].set_title("stretched for the eye", fontsize=9)
    seen = rendered(numbers, about)
    axes[1].imshow(seen if seen.dtype == np.uint8 else as_rgb(seen), interpolation="nearest")
    axes[1].set_title(f"as the network sees it (white = DN {about['stretch']:g})", fontsize=9)
    return figure


def map_panels(
    path: str | Path,
    out: str | Path,
    bands: Sequence[str | int] | None = None,
    **options: float | None,
) -> Figure:
    """Scene, classes with their legend, score, and what is flagged, side by side, of a finished
    `map_scene`.

    Args:
        path, bands, options: of the scene, as `open_scene` takes them. out: what `map_scene` wrote.
    """
    out, summary = Path(out), json.loads((Path(out) / "map.json").read_text())
    with open_scene(path, bands, **options) as scene:
        picture = _for_the_eye(*_preview(scene))
    rasters = {name: _raster(out, name, picture) for name in ("class", "score", "flagged")}
    figure, (seen, classes, score, flagged) = _panels(4, picture.shape[:2])
    seen.imshow(picture, interpolation="nearest")
    seen.set_title(f"{summary['scene']}\n(stretched for the eye)", fontsize=9)
    _draw_classes(figure, classes, rasters["class"], summary["classes"])
    drawn = score.imshow(rasters["score"], cmap="magma", interpolation="nearest")
    bar = figure.colorbar(drawn, ax=score, orientation="horizontal", fraction=0.05, pad=0.02)
    bar.ax.axvline(summary["threshold"], color="c", lw=2)
    bar.ax.tick_params(labelsize=7)
    score.set_title(
        f"{SCORE_NAMES[summary['score']]}: bright = unlike EuroSAT\n(line: the threshold)",
        fontsize=9,
    )
    _draw_flags(flagged, picture, rasters["flagged"])
    flagged.set_title(
        f"do not trust the map here: {summary['flagged']:.1%}\n"
        f"(of EuroSAT's validation tiles: {1 - summary['keep']:.0%})",
        fontsize=9,
    )
    return figure


def flag_panels(
    path: str | Path, outs: dict[str, Path], bands: Sequence[str | int] | None = None, **options
) -> Figure:
    """What each score flags of one scene, side by side; `outs`: what `map_scene` wrote for it, by
    score.
    """
    with open_scene(path, bands, **options) as scene:
        picture = _for_the_eye(*_preview(scene))
    figure, axes = _panels(len(outs), picture.shape[:2])
    for axis, (name, out) in zip(axes, outs.items(), strict=True):
        share = json.loads((out / "map.json").read_text())["flagged"]
        _draw_flags(axis, picture, _raster(out, "flagged", picture))
        axis.set_title(f"{SCORE_NAMES[name]}: {share:.1%}", fontsize=9)
    return figure


def _raster(out: Path, name: str, picture: np.ndarray) -> np.ma.MaskedArray:
    with rasterio.open(out / f"{name}.tif") as file:
        return file.read(1, out_shape=picture.shape[:2], masked=True)


def _draw_flags(axis: Axes, picture: np.ndarray, flagged: np.ma.MaskedArray) -> None:
    axis.imshow(picture, interpolation="nearest")
    flags = np.ma.masked_where(flagged.filled(0) != 1, flagged)
    axis.imshow(
        flags, cmap=ListedColormap(["red"]), vmin=0, vmax=1, alpha=0.45, interpolation="nearest"
    )


def _draw_classes(
    figure: Figure, axis: Axes, numbers: np.ma.MaskedArray, shares: dict[str, float]
) -> None:
    colors = ListedColormap([f"C{n}" for n in range(len(shares))])  # as in every other figure
    numbers = np.ma.masked_equal(numbers, NO_CLASS)
    axis.imshow(numbers, cmap=colors, vmin=-0.5, vmax=len(shares) - 0.5, interpolation="nearest")
    axis.set_title("classes (no truth is known)", fontsize=9)
    there = [(n, name, share) for n, (name, share) in enumerate(shares.items()) if share > 0]
    handles = [
        Patch(color=f"C{n}", label=f"{name} {share:.0%}" if share >= 0.005 else f"{name} <1%")
        for n, name, share in there
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
