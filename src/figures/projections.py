"""Pictures of feature spaces: UMAP panels, class regions and centres.

Projections are for looking: nothing is measured on two-dimensional coordinates.
"""

import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

from src.figures.canvas import _axes
from src.probes import centroid_distances

OOD_NAME = "out of distribution"


def project(
    features: dict[str, np.ndarray], labels: dict[str, np.ndarray], seed: int = 0, limit: int = 2000
) -> pd.DataFrame:
    """One UMAP of several feature sets, so that their panels share axes: columns panel, label, x,
    y.

    Args:
        features: panel name → (N, D) features, one D for all; scaled to unit length, reduced by PCA
            to 50 (UMAP's neighbours are the same and the time is a tenth).
        labels: panel name → (N,) class numbers, −1 for out of distribution.
        limit: at most so many points a panel, evenly spread.
    """
    import umap  # compiles for seconds: only when a picture needs it

    rows = {
        panel: np.linspace(0, len(f) - 1, min(limit, len(f))).astype(int)
        for panel, f in features.items()
    }
    stacked = normalize(np.concatenate([features[panel][keep] for panel, keep in rows.items()]))
    reduced = PCA(min(50, *stacked.shape), random_state=seed).fit_transform(stacked)
    # a seeded UMAP runs on one core; saying so silences its warning
    xy = umap.UMAP(n_neighbors=15, min_dist=0.1, random_state=seed, n_jobs=1).fit_transform(reduced)
    frame = pd.concat(
        [
            pd.DataFrame({"panel": panel, "label": labels[panel][keep]})
            for panel, keep in rows.items()
        ]
    )
    return frame.reset_index(drop=True).assign(x=xy[:, 0], y=xy[:, 1])


def umap_panels(
    coordinates: pd.DataFrame,
    classes: list[str],
    captions: dict[str, str] | None = None,
    title: str = "",
) -> Figure:
    """The panels of a projection side by side; captions (numbers measured on the features) go under
    them.
    """
    panels = list(dict.fromkeys(coordinates["panel"]))
    figure, axes = _axes(1, len(panels), 4.4, 4.6, title, sharex=True, sharey=True)
    for axis, panel in zip(axes.flat, panels, strict=True):
        _scatter(axis, coordinates[coordinates["panel"] == panel], classes)
        axis.set(title=panel, xlabel=(captions or {}).get(panel, ""))
    handles, names = axes[0, -1].get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=6,
        fontsize=8,
        markerscale=2,
        frameon=False,
    )
    return figure


def separation_captions(measured: dict[str, dict[str, float]]) -> dict[str, str]:
    """What goes under each panel: its kNN accuracy and the class separation, measured on the
    features.
    """
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
    """One row of panels an encoder: its coordinates and the separation of each panel, or None if it
    was not run.

    Every row is a projection of its own, for features of different networks share no axes.
    """
    columns = max(
        (points["panel"].nunique() for points, _ in filter(None, rows.values())), default=2
    )
    figure, axes = _axes(len(rows), columns, 4.4, 4.1)
    for row_axes, (name, row) in zip(axes, rows.items(), strict=True):
        row_axes[0].set_ylabel(name, fontsize=12)
        for axis in row_axes:
            axis.set(xticks=[], yticks=[])
        if row is None:
            row_axes[0].text(
                0.5, 0.5, "not run", transform=row_axes[0].transAxes, ha="center", color="0.4"
            )
            continue
        points, captions = row[0], separation_captions(row[1])
        for axis, (panel, mine) in zip(row_axes, points.groupby("panel", sort=False), strict=False):
            _scatter(axis, mine, classes)
            axis.set_title(panel)
            axis.set_xlabel(captions.get(panel, ""), fontsize=8)
    handles = {
        name: handle
        for axis in axes.flat
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=5,
        fontsize=8,
        markerscale=2,
        frameon=False,
    )
    return figure


def _scatter(axis, points: pd.DataFrame, classes: list[str]) -> None:
    size = np.clip(
        9000 / len(points), 6, 20
    )  # few points must be seen, many must not hide each other
    for label in sorted(points["label"].unique(), key=lambda value: (value < 0, value)):
        mine = points[points["label"] == label]
        color, name = ("k", OOD_NAME) if label < 0 else (f"C{label}", classes[label])
        axis.scatter(mine["x"], mine["y"], s=size, c=color, label=name, lw=0, alpha=0.7)
    axis.set(xticks=[], yticks=[])


def class_boundaries(points: pd.DataFrame, classes: list[str], title: str) -> Figure:
    """One panel of a projection over the regions where each class is the majority of the 15 nearest
    points.
    """
    points = points[points["label"] >= 0]
    figure, axes = _axes(1, 1, 6.4, 5.2)
    axis = axes[0, 0]
    margin = 0.05 * np.ptp(points[["x", "y"]].to_numpy(), axis=0)
    low, high = points[["x", "y"]].min() - margin, points[["x", "y"]].max() + margin
    grid = np.stack(
        np.meshgrid(np.linspace(low["x"], high["x"], 250), np.linspace(low["y"], high["y"], 250)),
        -1,
    )
    knn = KNeighborsClassifier(min(15, len(points))).fit(
        points[["x", "y"]].to_numpy(), points["label"]
    )
    regions = knn.predict(grid.reshape(-1, 2)).reshape(grid.shape[:2])
    colors = ListedColormap([f"C{number}" for number in range(len(classes))])
    axis.pcolormesh(
        grid[..., 0],
        grid[..., 1],
        regions,
        cmap=colors,
        vmin=0,
        vmax=len(classes) - 1,
        alpha=0.18,
        lw=0,
        rasterized=True,
    )
    _scatter(axis, points, classes)
    axis.set_title(title)
    figure.legend(loc="outside right center", fontsize=8, markerscale=2, frameon=False)
    return figure


def class_centroids(
    points: pd.DataFrame,
    features: np.ndarray,
    labels: np.ndarray,
    classes: list[str],
    title: str = "",
) -> Figure:
    """Class centres on one panel of a projection, and the cosine distances between centres of the
    features.
    """
    figure, axes = _axes(1, 2, 5.6, 5.0, title)
    projection, matrix = axes[0]
    points = points[points["label"] >= 0]
    _scatter(projection, points, classes)
    for label, centre in points.groupby("label")[["x", "y"]].median().iterrows():
        projection.annotate(
            classes[label],
            centre,
            ha="center",
            va="center",
            fontsize=8,
            weight="bold",
            zorder=5,
            bbox={"boxstyle": "round", "fc": "w", "ec": f"C{label}", "alpha": 0.85},
        )
    projection.set_title("class medians on the projection")
    distances = centroid_distances(features, labels)
    matrix.imshow(distances, cmap="viridis")
    for row, column in np.ndindex(distances.shape):
        bright = distances[row, column] > 0.6 * distances.max()
        matrix.text(
            column,
            row,
            f"{distances[row, column]:.2f}",
            ha="center",
            va="center",
            fontsize=6.5,
            color="k" if bright else "w",
        )
    matrix.set_xticks(range(len(classes)), classes, rotation=60, ha="right", fontsize=8)
    matrix.set_yticks(range(len(classes)), classes, fontsize=8)
    matrix.set_title("cosine distance between class centres of the features")
    return figure
