"""Pictures of feature spaces: UMAP panels, class regions and centres.

Projections are for looking: nothing is measured on two-dimensional coordinates.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import mode
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from src.figures.canvas import MANY, axes_grid, draw_matrix, legend_below
from src.figures.palette import OUT_COLOR, class_colormap, class_colors
from src.figures.placing import draw_thumbnails, place_labels
from src.figures.umap_cache import cached_umap
from src.probes import centroid_distances

OOD_NAME = "out of distribution"
MARKERS = "osD^v"  # the fifteen colours after the first are no longer told apart by colour alone


def project(
    features: dict[str, np.ndarray], labels: dict[str, np.ndarray], seed: int = 0, limit: int = 2000
) -> pd.DataFrame:
    """One UMAP of several feature sets, so that their panels share one projection.

    Args:
        features: panel name → (N, D) features, one D for all; scaled to unit length, reduced by PCA
            to 50 (UMAP's neighbours are the same and the time is a tenth).
        labels: panel name → (N,) class numbers, −1 for out of distribution.
        limit: at most so many points a panel, evenly spread.

    Returns:
        One row a point: columns panel, label, row (of the panel's features), x, y.
    """
    points, shown = [], []
    for panel, values in features.items():
        rows = np.linspace(0, len(values) - 1, min(limit, len(values))).astype(int)
        shown.append(values[rows])
        points.append(pd.DataFrame({"panel": panel, "label": labels[panel][rows], "row": rows}))
    stacked = normalize(np.concatenate(shown))
    reduced = PCA(min(50, *stacked.shape), random_state=seed).fit_transform(stacked)
    # a seeded UMAP runs on one core; saying so silences its warning
    reducer = cached_umap().UMAP(n_neighbors=15, min_dist=0.1, random_state=seed, n_jobs=1)
    xy = reducer.fit_transform(reduced)
    return pd.concat(points).reset_index(drop=True).assign(x=xy[:, 0], y=xy[:, 1])


def umap_panels(
    coordinates: pd.DataFrame,
    classes: list[str],
    captions: dict[str, str] | None = None,
    title: str = "",
    *,
    thumbnails: Sequence[np.ndarray] | None = None,
    ood_name: str = OOD_NAME,
) -> Figure:
    """The panels of one projection side by side, each drawn to the limits of its own points.

    Args:
        coordinates: from `project`.
        captions: numbers measured on the features, to go under the panels.
        thumbnails: N images (H, W, C), of any sizes, whose `row` the coordinates name: some of them
            are drawn at their points, framed in the colour of their class.
        ood_name: of the points that have no class.

    Raises:
        ValueError: thumbnails, and coordinates that name no rows.
    """
    panels = list(dict.fromkeys(coordinates["panel"]))
    figure, axes = axes_grid(1, len(panels), 4.4, 3.6, title)
    for axis, panel in zip(axes.flat, panels, strict=True):
        points = coordinates[coordinates["panel"] == panel]
        _scatter(axis, points, classes)
        _name_panel(axis, panel, points, (captions or {}).get(panel, ""))
        if thumbnails is not None:
            draw_thumbnails(axis, points, thumbnails, [*class_colors(classes), OUT_COLOR])
    legend_below(figure, *_legend(coordinates["label"], classes, ood_name))
    return figure


def separation_captions(measured: dict[str, dict[str, float]]) -> dict[str, str]:
    """What goes under each panel: its kNN accuracy and the class separation of the features."""
    return {
        panel: (
            f"kNN {values['knn_accuracy']:.1%}, silhouette {values['silhouette']:.3f},\n"
            f"Davies–Bouldin {values['davies_bouldin']:.2f}"
        ).replace("-", "−")
        for panel, values in measured.items()
    }


def umap_grid(
    rows: dict[str, tuple[pd.DataFrame, dict[str, dict[str, float]]] | None],
    classes: list[str],
    *,
    ood_name: str = OOD_NAME,
) -> Figure:
    """One row of panels an encoder, each row one projection.

    Args:
        rows: encoder → its coordinates and the separation of each panel, or None if it was not run.
        ood_name: of the points that have no class.
    """
    run = [points for points, _ in filter(None, rows.values())]
    columns = max((points["panel"].nunique() for points in run), default=2)
    figure, axes = axes_grid(len(rows), columns, 4.4, 3.3)
    for row_axes, (name, row) in zip(axes, rows.items(), strict=True):
        first = row_axes[0]
        first.set_ylabel(name, fontsize=11)
        for axis in row_axes:
            axis.set(xticks=[], yticks=[])
        if row is None:
            first.text(0.5, 0.5, "not run", transform=first.transAxes, ha="center", color="0.4")
            continue
        coordinates, captions = row[0], separation_captions(row[1])
        panels = coordinates.groupby("panel", sort=False)
        for axis, (panel, points) in zip(row_axes, panels, strict=False):
            _scatter(axis, points, classes)
            _name_panel(axis, panel, points, captions.get(panel, ""))
    labels = [label for points in run for label in points["label"].unique()]
    legend_below(figure, *_legend(labels, classes, ood_name))
    return figure


def _name_panel(axis: Axes, panel: str, points: pd.DataFrame, caption: str) -> None:
    out = (points["label"] < 0).sum()
    count = f"n = {len(points) - out:,}" + (f" + {out:,} out" if out else "")
    axis.set_title(f"{panel}, {count}", fontsize=9)
    axis.set_xlabel(caption, fontsize=8)


def _scatter(axis: Axes, points: pd.DataFrame, classes: list[str]) -> None:
    # few points must be seen, many must not hide each other
    size = np.clip(9000 / len(points), 6, 20)
    colors = class_colors(classes)
    for label in _in_order(points["label"]):
        of_class = points[points["label"] == label]
        color = OUT_COLOR if label < 0 else colors[label]
        look = {"marker": _marker(label), "c": color, "lw": 0, "alpha": 0.75}
        axis.scatter(of_class["x"], of_class["y"], s=size, **look)
    axis.set(xticks=[], yticks=[])


def _marker(label: int) -> str:
    return "X" if label < 0 else MARKERS[label // 15 % len(MARKERS)]


def _in_order(labels: Iterable[int]) -> list[int]:
    """Those that occur, out of distribution last: it is drawn above the others."""
    return sorted(set(labels), key=lambda value: (value < 0, value))


def _legend(
    labels: Iterable[int], classes: list[str], ood_name: str = OOD_NAME
) -> tuple[list[Line2D], list[str]]:
    labels, colors = _in_order(labels), class_colors(classes)
    handles = [
        Line2D([], [], ls="", marker=_marker(n), ms=5, color=OUT_COLOR if n < 0 else colors[n])
        for n in labels
    ]
    return handles, [ood_name if n < 0 else classes[n] for n in labels]


def class_boundaries(points: pd.DataFrame, classes: list[str], title: str) -> Figure:
    """One panel of a projection over the regions of the classes.

    A region is where its class is the majority of the 15 nearest points; ground without points
    near by belongs to none.
    """
    points = points[points["label"] >= 0]
    xy = points[["x", "y"]].to_numpy()
    extent = np.ptp(xy, axis=0)
    extent = np.where(extent > 0, extent, 1)
    x, y = np.linspace(xy.min(0) - 0.05 * extent, xy.max(0) + 0.05 * extent, 250).T
    grid = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    # in units of the panel, so that "near" is what it is for the eye
    search = NearestNeighbors(n_neighbors=min(15, len(points))).fit(xy / extent)
    distances, nearest = search.kneighbors(grid / extent)
    regions = mode(points["label"].to_numpy()[nearest], axis=1).mode.astype(float)
    third = min(3, len(points)) - 1  # a lone point claims nothing
    regions[distances[:, third] > 0.03] = np.nan
    figure, axes = axes_grid(1, 1, 8.0, 5.4, title)
    axis = axes[0, 0]
    shade = {"alpha": 0.28, "lw": 0, "rasterized": True, "cmap": class_colormap(classes)}
    regions = regions.reshape(len(y), len(x))
    axis.pcolormesh(x, y, regions, vmin=-0.5, vmax=len(classes) - 0.5, **shade)
    _scatter(axis, points, classes)
    shaded = "shaded: the class of most of the 15 nearest points, where there are points"
    axis.set_title(f"{shaded}; n = {len(points):,}", fontsize=9)
    legend_below(figure, *_legend(points["label"], classes))
    return figure


def class_centroids(
    points: pd.DataFrame,
    features: np.ndarray,
    labels: np.ndarray,
    classes: list[str],
    title: str = "",
) -> Figure:
    """Class centres on one panel of a projection, beside the distances between the true centres.

    Of many classes the panel shows the numbers that stand before their names at the matrix.

    Args:
        points: one panel's, from `project`.
        features, labels: (N, D) and (N,), of which the cosine distances are measured.
    """
    many = len(classes) > MANY
    numbered = [f"{number} {name}" for number, name in enumerate(classes)] if many else classes
    if many:
        figure, axes = axes_grid(2, 1, 9.2, 6.4, title, height_ratios=[4, 6])
    else:
        figure, axes = axes_grid(1, 2, 4.6, 4.4, title)
    projection, matrix = axes.flat
    distances = centroid_distances(features, labels)
    names = [numbered[label] for label in np.unique(labels)]
    draw_matrix(matrix, distances, (names, names), "viridis", ".2f", (0, distances.max()))
    matrix.set_title("cosine distance of class centres, measured on the features", fontsize=9)
    points = points[points["label"] >= 0]
    _scatter(projection, points, classes)
    projection.set_title(f"class medians on the projection, n = {len(points):,}", fontsize=9)
    centres = points.groupby("label")[["x", "y"]].median()
    texts = {label: str(label) if many else classes[label] for label in centres.index}
    place_labels(projection, centres.to_numpy(), list(texts.values()), _colors_of(texts, classes))
    return figure


def _colors_of(labels: Iterable[int], classes: list[str]) -> list[str]:
    colors = class_colors(classes)
    return [colors[label] for label in labels]
