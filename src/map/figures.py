"""Pictures of mapped scenes: the scene, its classes, its scores, and what is flagged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from src.data.bands import as_rgb, shown_as_rgb
from src.figures.canvas import WIDTH, axes_grid
from src.figures.detection import SCORE_NAMES
from src.figures.palette import class_colormap, class_colors
from src.map.rasters import NO_CLASS
from src.map.scene import Scene, SceneOptions, open_scene
from src.map.scene_checks import radiometry, rendered

PIXELS = 300  # of a picture's longer side: a scene is read no finer, and a notebook stays small


def scene_panels(scene: Scene, metadata: dict[str, Any]) -> Figure:
    """The scene stretched for the eye, and beside it as the network sees it.

    Args:
        metadata: of `Thresholds`.
    """
    numbers, valid = _preview(scene)
    figure, (for_the_eye, for_the_network) = _panels(2, valid.shape)
    _show(for_the_eye, _stretched(numbers, valid), "stretched for the eye")
    seen = as_rgb(rendered(numbers, metadata, radiometry(scene, metadata)))
    title = f"as the network sees it (white = DN {metadata['stretch']:g})"
    _show(for_the_network, seen, title)
    return figure


def map_panels(path: str | Path, out: str | Path, options: SceneOptions | None = None) -> Figure:
    """Scene, classes, score, and what is flagged, side by side, of a finished `map_scene`.

    Args:
        path, options: of the scene, as `open_scene` takes them.
        out: what `map_scene` wrote.
    """
    summary, picture = _summary(out), _picture(path, options)
    class_, score, flagged = (_raster(out, name, picture) for name in ("class", "score", "flagged"))
    figure, axes = _panels(4, picture.shape[:2])
    _show(axes[0], picture, f"{summary['scene']}\n(stretched for the eye)")
    _draw_classes(figure, axes[1], class_, summary["classes"])
    _draw_score(figure, axes[2], score, summary)
    _draw_flags(axes[3], picture, flagged)
    axes[3].set_title(
        f"do not trust the map here: {summary['flagged']:.1%}\n"
        f"(of {summary['trained_on']}'s validation tiles: {1 - summary['keep']:.0%})",
        fontsize=9,
    )
    return figure


def class_panels(outs: dict[str, Path]) -> Figure:
    """The classes of several maps of one scene, side by side under their names.

    Args:
        outs: name → what `map_scene` wrote.
    """
    summaries = {name: _summary(out) for name, out in outs.items()}
    with rasterio.open(Path(next(iter(outs.values()))) / "class.tif") as file:
        step = max(max(file.shape) / PIXELS, 1)
        blank = np.zeros([max(1, round(length / step)) for length in file.shape])
    figure, axes = _panels(len(outs), blank.shape)
    occurring: set[str] = set()
    for axis, (name, out) in zip(axes, outs.items(), strict=True):
        shares = summaries[name]["classes"]
        _show_classes(axis, _raster(out, "class", blank), list(shares))
        occurring |= {class_ for class_, share in shares.items() if share > 0}
        axis.set_title(f"{name}: {summaries[name]['flagged']:.1%} flagged", fontsize=9)
    _draw_legend(figure, list(shares), {c: c for c in shares if c in occurring})
    return figure


def flag_panels(
    path: str | Path, outs: dict[str, Path], options: SceneOptions | None = None
) -> Figure:
    """What each score flags of one scene, side by side.

    Args:
        path, options: of the scene, as `open_scene` takes them.
        outs: name of a mask → what `map_scene` wrote with it.
    """
    picture = _picture(path, options)
    figure, axes = _panels(len(outs), picture.shape[:2])
    for axis, out in zip(axes, outs.values(), strict=True):
        summary = _summary(out)
        _draw_flags(axis, picture, _raster(out, "flagged", picture))
        names = " or ".join(SCORE_NAMES[name].split(" (")[0] for name in summary["thresholds"])
        axis.set_title(f"{names}: {summary['flagged']:.1%}", fontsize=9)
    return figure


# --- what is drawn ---


def _picture(path: str | Path, options: SceneOptions | None) -> np.ndarray:
    with open_scene(path, options) as scene:
        return _stretched(*_preview(scene))


def _preview(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Digital numbers (h, w, 3 or 12), thinned out to `PIXELS`, and where they are valid."""
    height, width = scene.grid.height, scene.grid.width
    step = max(max(width, height) / PIXELS, 1)
    shape = max(1, round(height / step)), max(1, round(width / step))
    numbers, valid = scene.read(None, shape)
    if numbers.shape[-1] < 3:
        numbers = numbers[..., :1].repeat(3, -1)
    return numbers, valid


def _stretched(numbers: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8, between the scene's own percentiles 2 and 98; white where it has no data.

    Square root, so that ground shows beside cloud: colours for people, not the network's.
    """
    rgb = numbers[..., shown_as_rgb(numbers.shape[-1])]
    low, high = np.percentile(rgb[valid], (2, 98))
    unit = ((rgb.astype(float) - low) / max(high - low, 1)).clip(0, 1)
    return np.where(valid[..., None], (255 * unit**0.5).astype(np.uint8), 255)


def _summary(out: str | Path) -> dict[str, Any]:
    summary = json.loads((Path(out) / "map.json").read_text())
    return {"trained_on": "its data", **summary}  # older ones do not say


def _raster(out: str | Path, name: str, picture: np.ndarray) -> np.ma.MaskedArray:
    """A raster of `map_scene` at the size of the picture."""
    with rasterio.open(Path(out) / f"{name}.tif") as file:
        return file.read(1, out_shape=picture.shape[:2], masked=True)


# --- how it is drawn ---


def _panels(count: int, shape: tuple[int, int]) -> tuple[Figure, np.ndarray]:
    width = min(3.6, WIDTH / count - 0.1)
    height = min(3.6, width * shape[0] / shape[1])
    figure, axes = axes_grid(1, count, width + 0.1, height + 1.3)
    for axis in axes[0]:
        axis.set(xticks=[], yticks=[], anchor="N")
    return figure, axes[0]


def _show(axis: Axes, picture: np.ndarray, title: str) -> None:
    axis.imshow(picture, interpolation="nearest")
    axis.set_title(title, fontsize=9)


def _draw_classes(
    figure: Figure, axis: Axes, numbers: np.ma.MaskedArray, shares: dict[str, float]
) -> None:
    """Classes in the colours of `class_colors`, with a legend of those that occur."""
    _show_classes(axis, numbers, list(shares))
    axis.set_title("classes (no truth is known)", fontsize=9)
    percents = {n: f"{share:.0%}" if share >= 0.005 else "<1%" for n, share in shares.items()}
    labels = {name: f"{name} {percents[name]}" for name, share in shares.items() if share > 0}
    _draw_legend(figure, list(shares), labels)


def _show_classes(axis: Axes, numbers: np.ma.MaskedArray, classes: list[str]) -> None:
    colors, last = class_colormap(classes), len(classes) - 0.5
    numbers = np.ma.masked_equal(numbers, NO_CLASS)
    axis.imshow(numbers, cmap=colors, vmin=-0.5, vmax=last, interpolation="nearest")


def _draw_legend(figure: Figure, classes: list[str], labels: dict[str, str]) -> None:
    colours = dict(zip(classes, class_colors(classes), strict=True))
    handles = [Patch(color=colours[name], label=label) for name, label in labels.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8, frameon=False)


def _draw_score(
    figure: Figure, axis: Axes, score: np.ma.MaskedArray, summary: dict[str, Any]
) -> None:
    drawn = axis.imshow(score, cmap="magma", interpolation="nearest")
    # at the top like its neighbours, not down at its bar
    place = {"orientation": "horizontal", "fraction": 0.05, "pad": 0.02, "panchor": (0.5, 1.0)}
    bar = figure.colorbar(drawn, ax=axis, **place)
    bar.ax.axvline(summary["threshold"], color="c", lw=2)
    bar.ax.tick_params(labelsize=7)
    name = SCORE_NAMES[summary["score"]]
    known = summary["trained_on"]
    axis.set_title(f"{name}: bright = unlike {known}\n(line: the threshold)", fontsize=9)


def _draw_flags(axis: Axes, picture: np.ndarray, flagged: np.ma.MaskedArray) -> None:
    """The picture, red where 1."""
    axis.imshow(picture, interpolation="nearest")
    flags = np.ma.masked_where(flagged.filled(0) != 1, flagged)
    red = ListedColormap(["red"])
    axis.imshow(flags, cmap=red, vmin=0, vmax=1, alpha=0.45, interpolation="nearest")
