"""Where labels and thumbnails go on a panel of points, so that none covers another."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from src.data.bands import as_rgb

ACROSS = 8  # thumbnails at most across a panel, and as many down


def place_labels(axis: Axes, anchors: np.ndarray, texts: list[str], colors: list[str]) -> None:
    """A framed text near each anchor, none over another, tied to it by a line where it had to move.

    Args:
        anchors: (n, 2) in the units of the axes.
        colors: of the frames.
    """
    figure = axis.figure
    figure.draw_without_rendering()  # settles the layout: sizes are known from here on
    inside, placed = axis.get_window_extent(), []
    pixel = figure.dpi / 72  # of a point
    for anchor, text, color in zip(anchors, texts, colors, strict=True):
        box = {"boxstyle": "round,pad=0.2", "fc": "w", "ec": color, "lw": 1.5, "alpha": 0.9}
        tie = {"arrowstyle": "-", "color": color, "lw": 1, "shrinkA": 0, "shrinkB": 0}
        label = axis.annotate(
            text,
            anchor,
            (0, 0),
            textcoords="offset points",
            fontsize=8,
            ha="center",
            va="center",
            zorder=6,
            bbox=box,
            arrowprops=tie,
        )
        size = Text.get_window_extent(label)  # without the line
        width, height = size.width + 6 * pixel, size.height + 6 * pixel  # with its frame
        centre = axis.transData.transform(anchor)
        middle = _free_place(centre, width, height, inside, placed)
        placed.append(Bbox.from_bounds(*(middle - [width / 2, height / 2]), width, height))
        label.set_position((middle - centre) / pixel)


def _free_place(
    centre: np.ndarray, width: float, height: float, inside: Bbox, placed: list[Bbox]
) -> np.ndarray:
    """The middle of the free box nearest to a centre; the centre itself where none is free."""
    steps = np.arange(0, max(inside.width, inside.height), height / 2)
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    half = np.array([width / 2, height / 2])
    around = np.stack([np.cos(angles), np.sin(angles)], -1)
    for middle in (centre + steps[:, None, None] * around).reshape(-1, 2):
        low, high = middle - half, middle + half
        fits = (low >= inside.min).all() and (high <= inside.max).all()
        if fits and not any(Bbox([low, high]).overlaps(other) for other in placed):
            return middle
    return centre


def draw_thumbnails(
    axis: Axes, points: pd.DataFrame, images: Sequence[np.ndarray], colors: list[str]
) -> None:
    """Images at some of the points, none over another: as many as a coarse grid has cells.

    Args:
        points: with columns x, y, label (−1: the last colour) and row.
        images: N of (H, W, C), of any sizes; `row` numbers them.
        colors: of the frames, by label.

    Raises:
        ValueError: the points name no rows, or rows that these images have not.
    """
    if "row" not in points or points["row"].max() >= len(images):
        raise ValueError(
            f"thumbnails need the rows of {len(images)} images in the coordinates: draw them from"
            " what `project` returned for these images"
        )
    axis.margins(0.08)
    axis.figure.draw_without_rendering()
    xy = points[["x", "y"]].to_numpy()
    low, high = np.array([axis.get_xlim(), axis.get_ylim()]).T
    unit = ACROSS * (xy - low) / (high - low)
    cells = pd.Series(np.abs(unit % 1 - 0.5).max(1)).groupby([*unit.astype(int).T])
    panel = axis.get_window_extent()
    side = 0.8 * min(panel.width, panel.height) / ACROSS * 72 / axis.figure.dpi  # points
    taken = np.empty((0, 2))
    for chosen in cells.idxmin():
        if (np.abs(taken - unit[chosen]) < 0.9).all(1).any():
            continue
        taken = np.vstack([taken, unit[chosen]])
        point = points.iloc[chosen]
        picture = as_rgb(images[point["row"]])
        zoom = side / max(picture.shape[:2])
        frame = {"ec": colors[point["label"]], "lw": 1.5}
        box = AnnotationBbox(
            OffsetImage(picture, zoom=zoom), xy[chosen], pad=0.05, bboxprops=frame, zorder=4
        )
        axis.add_artist(box)
