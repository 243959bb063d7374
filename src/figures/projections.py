"""Pictures of feature spaces: UMAP panels, class regions and centres.

Projections are for looking: nothing is measured on two-dimensional coordinates.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

from src.figures.canvas import axes_grid, write_in_cells
from src.probes import centroid_distances

OOD_NAME = "out of distribution"
LEGEND = {"fontsize": 8, "markerscale": 2, "frameon": False}


def project(
    features: dict[str, np.ndarray], labels: dict[str, np.ndarray], seed: int = 0, limit: int = 2000
) -> pd.DataFrame:
    """One UMAP of several feature sets, so that their panels share axes.

    Args:
        features: panel name → (N, D) features, one D for all; scaled to unit length, reduced by PCA
            to 50 (UMAP's neighbours are the same and the time is a tenth).
        labels: panel name → (N,) class numbers, −1 for out of distribution.
        limit: at most so many points a panel, evenly spread.

    Returns:
        One row a point: columns panel, label, x, y.
    """
    import umap  # compiles for seconds: only when a picture needs it

    points, shown = [], []
    for panel, values in features.items():
        rows = np.linspace(0, len(values) - 1, min(limit, len(values))).astype(int)
        shown.append(values[rows])
        points.append(pd.DataFrame({"panel": panel, "label": labels[panel][rows]}))
    stacked = normalize(np.concatenate(shown))
    reduced = PCA(min(50, *stacked.shape), random_state=seed).fit_transform(stacked)
    # a seeded UMAP runs on one core; saying so silences its warning
    reducer = umap.UMAP(n_neighbors=15, min_dist=0.1, random_state=seed, n_jobs=1)
    xy = reducer.fit_transform(reduced)
    return pd.concat(points).reset_index(drop=True).assign(x=xy[:, 0], y=xy[:, 1])


def umap_panels(
    coordinates: pd.DataFrame,
    classes: list[str],
    captions: dict[str, str] | None = None,
    title: str = "",
) -> Figure:
    """The panels of a projection side by side.

    Args:
        coordinates: from `project`.
        captions: numbers measured on the features, to go under the panels.
    """
    panels = list(dict.fromkeys(coordinates["panel"]))
    figure, axes = axes_grid(1, len(panels), 4.4, 4.6, title, sharex=True, sharey=True)
    for axis, panel in zip(axes.flat, panels, strict=True):
        _scatter(axis, coordinates[coordinates["panel"] == panel], classes)
        axis.set(title=panel, xlabel=(captions or {}).get(panel, ""))
    handles, names = axes[0, -1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=6, **LEGEND)
    return figure


def separation_captions(measured: dict[str, dict[str, float]]) -> dict[str, str]:
    """What goes under each panel: its kNN accuracy and the class separation of the features."""
    return {
        panel: (
            f"kNN {values['knn_accuracy']:.1%}, silhouette {values['silhouette']:.3f}, "
            f"Davies–Bouldin {values['davies_bouldin']:.2f}"
        )
        for panel, values in measured.items()
    }


def umap_grid(
    rows: dict[str, tuple[pd.DataFrame, dict[str, dict[str, float]]] | None], classes: list[str]
) -> Figure:
    """One row of panels an encoder, each a projection of its own: they share no axes.

    Args:
        rows: encoder → its coordinates and the separation of each panel, or None if it was not run.
    """
    run = [points for points, _ in filter(None, rows.values())]
    columns = max((points["panel"].nunique() for points in run), default=2)
    figure, axes = axes_grid(len(rows), columns, 4.4, 4.1)
    for row_axes, (name, row) in zip(axes, rows.items(), strict=True):
        first = row_axes[0]
        first.set_ylabel(name, fontsize=12)
        for axis in row_axes:
            axis.set(xticks=[], yticks=[])
        if row is None:
            first.text(0.5, 0.5, "not run", transform=first.transAxes, ha="center", color="0.4")
        else:
            _panels_of_a_row(row_axes, *row, classes)
    labelled = {}
    for axis in axes.flat:
        handles, names = axis.get_legend_handles_labels()
        labelled |= dict(zip(names, handles, strict=True))
    figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=5, **LEGEND)
    return figure


def _panels_of_a_row(
    axes: np.ndarray,
    coordinates: pd.DataFrame,
    measured: dict[str, dict[str, float]],
    classes: list[str],
) -> None:
    captions = separation_captions(measured)
    panels = coordinates.groupby("panel", sort=False)
    for axis, (panel, points) in zip(axes, panels, strict=False):
        _scatter(axis, points, classes)
        axis.set_title(panel)
        axis.set_xlabel(captions.get(panel, ""), fontsize=8)


def _scatter(axis: Axes, points: pd.DataFrame, classes: list[str]) -> None:
    # few points must be seen, many must not hide each other
    size = np.clip(9000 / len(points), 6, 20)
    for label in sorted(points["label"].unique(), key=lambda value: (value < 0, value)):
        of_class = points[points["label"] == label]
        color, name = ("k", OOD_NAME) if label < 0 else (f"C{label}", classes[label])
        axis.scatter(of_class["x"], of_class["y"], s=size, c=color, label=name, lw=0, alpha=0.7)
    axis.set(xticks=[], yticks=[])


def class_boundaries(points: pd.DataFrame, classes: list[str], title: str) -> Figure:
    """One panel of a projection over the regions of the classes.

    A region is where its class is the majority of the 15 nearest points.
    """
    points = points[points["label"] >= 0]
    xy = points[["x", "y"]].to_numpy()
    margin = 0.05 * np.ptp(xy, axis=0)
    x, y = np.linspace(xy.min(0) - margin, xy.max(0) + margin, 250).T
    grid = np.stack(np.meshgrid(x, y), -1)
    knn = KNeighborsClassifier(min(15, len(points))).fit(xy, points["label"])
    regions = knn.predict(grid.reshape(-1, 2)).reshape(grid.shape[:2])
    figure, axes = axes_grid(1, 1, 6.4, 5.2)
    axis = axes[0, 0]
    colors = ListedColormap([f"C{number}" for number in range(len(classes))])
    shade = {"alpha": 0.18, "lw": 0, "rasterized": True}
    axis.pcolormesh(x, y, regions, cmap=colors, vmin=0, vmax=len(classes) - 1, **shade)
    _scatter(axis, points, classes)
    axis.set_title(title)
    figure.legend(loc="outside right center", **LEGEND)
    return figure


def class_centroids(
    points: pd.DataFrame,
    features: np.ndarray,
    labels: np.ndarray,
    classes: list[str],
    title: str = "",
) -> Figure:
    """Class centres on one panel of a projection, beside the distances between the true centres.

    Args:
        points: one panel's, from `project`.
        features, labels: (N, D) and (N,), of which the cosine distances are measured.
    """
    figure, axes = axes_grid(1, 2, 5.6, 5.0, title)
    projection, matrix = axes[0]
    _draw_centres(projection, points[points["label"] >= 0], classes)
    distances = centroid_distances(features, labels)
    matrix.imshow(distances, cmap="viridis")
    texts = [[f"{distance:.2f}" for distance in row] for row in distances]
    write_in_cells(matrix, texts, distances > 0.6 * distances.max(), fontsize=6.5)
    matrix.set_xticks(range(len(classes)), classes, rotation=60, ha="right", fontsize=8)
    matrix.set_yticks(range(len(classes)), classes, fontsize=8)
    matrix.set_title("cosine distance between class centres of the features")
    return figure


def _draw_centres(axis: Axes, points: pd.DataFrame, classes: list[str]) -> None:
    _scatter(axis, points, classes)
    centred = {"ha": "center", "va": "center"}
    for label, centre in points.groupby("label")[["x", "y"]].median().iterrows():
        box = {"boxstyle": "round", "fc": "w", "ec": f"C{label}", "alpha": 0.85}
        name = classes[label]
        axis.annotate(name, centre, fontsize=8, weight="bold", zorder=5, bbox=box, **centred)
    axis.set_title("class medians on the projection")
