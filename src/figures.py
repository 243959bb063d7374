"""Every picture of the project. Each function draws and returns one matplotlib figure; `save` writes it.

Projections are for looking: nothing is measured on two-dimensional coordinates.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.decomposition import PCA
from sklearn.metrics import ConfusionMatrixDisplay, roc_curve
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

from src.augmentations import STATISTICS, SimCLRAugmentation
from src.data.patch import as_rgb
from src.losses import nt_xent_floor
from src.ood import DETECTORS
from src.pretrain import views
from src.probes import centroid_distances

OOD_NAME = "out of distribution"
SCORE_NAMES = {name: detector.title for name, detector in DETECTORS.items()}


def save(figure: Figure, path: str | Path, coordinates: pd.DataFrame | None = None) -> Path:
    """Write a PNG and, for projections, the coordinates as a CSV of the same name beside it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    if coordinates is not None:
        coordinates.to_csv(path.with_suffix(".csv"), index=False, float_format="%.4f")
    return path


def _axes(
    rows: int, columns: int, width: float, height: float, title: str = "", **options
) -> tuple[Figure, np.ndarray]:
    size = (columns * width, rows * height)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **options)
    if title:
        figure.suptitle(title, fontsize=10)
    plt.close(figure)  # a returned figure is shown by the notebook once, not twice
    return figure, axes


def samples(images: np.ndarray, titles: list[str], columns: int = 10) -> Figure:
    """A contact sheet of (n, H, W, 3) uint8 images, or of (n, H, W, 12) reflectances, shown as RGB."""
    rows = -(-len(images) // columns)
    figure, axes = _axes(rows, columns, 1.15, 1.35)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, as_rgb(images), titles, strict=False):
        axis.imshow(image, interpolation="nearest")
        axis.set_title(title, fontsize=7)
    return figure


def view_pairs(images: np.ndarray, augment: SimCLRAugmentation, seed: int = 0) -> Figure:
    """Each image over its two views, what the loss calls the same; twelve bands are shown as RGB."""
    rng = torch.Generator().manual_seed(seed)
    pair = views(torch.as_tensor(images).permute(0, 3, 1, 2), augment, rng)
    mean, std = (np.array(value) for value in STATISTICS[images.shape[-1]])
    unit = [(v.permute(0, 2, 3, 1).numpy() * std + mean).clip(0, 1) for v in pair]
    rows = [as_rgb(x) for x in (images, *unit)]
    figure, axes = _axes(3, len(images), 1.3, 1.35)
    for row_axes, row, name in zip(axes, rows, ("patch", "view i", "view j"), strict=True):
        for axis, image in zip(row_axes, row, strict=True):
            axis.imshow(image, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        row_axes[0].set_ylabel(name)
    return figure


def pretraining_curves(history: pd.DataFrame, n_pairs: int, temperature: float) -> Figure:
    """Loss between its floor and chance, and the kNN probe: the first may look stuck while the second climbs."""
    figure, axes = _axes(1, 2, 4.8, 3.4)
    loss, knn = axes[0]
    trained = history[history["epoch"] > 0]
    loss.plot(trained["epoch"], trained["loss"], marker="o", ms=3, color="C0", label="training loss")
    chance, floor = np.log(2 * n_pairs - 1), nt_xent_floor(n_pairs, temperature)
    loss.axhline(chance, color="0.4", ls=":", label=f"chance, log(2N − 1) = {chance:.2f}")
    loss.axhline(floor, color="C3", ls="--", label=f"floor for unit vectors = {floor:.2f}")
    loss.set(xlabel="epoch", ylabel="NT-Xent", title=f"loss, N = {n_pairs}, τ = {temperature}")
    probed = history.dropna(subset=["knn"]) if "knn" in history else history.iloc[:0]
    knn.plot(probed["epoch"], 100 * probed["knn"], marker="o", ms=3, color="C2", label="this encoder")
    if len(probed):
        knn.axhline(100 * probed["knn"].iloc[0], color="0.4", ls=":", label="untrained encoder")
    knn.set(xlabel="epoch", ylabel="accuracy, %", title="kNN probe on EuroSAT (val)")
    for axis in (loss, knn):
        axis.legend(fontsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def finetuning_curves(histories: dict[str, pd.DataFrame]) -> Figure:
    """Validation accuracy of every arm over its learning rate; shading tells how much of a pretrained arm is open."""
    figure, axes = _axes(2, 1, 8.0, 1.9, sharex=True, height_ratios=[2, 1])
    accuracy, rate = axes[:, 0]
    for number, (arm, history) in enumerate(histories.items()):
        accuracy.plot(history["epoch"], 100 * history["val_accuracy"], marker="o", ms=3, color=f"C{number}", label=arm)
        rate.plot(history["epoch"], history["lr"], color=f"C{number}")
    unfrozen = max(histories.values(), key=lambda history: history["open"].nunique())
    for number, (stages, epochs) in enumerate(unfrozen.groupby("open")["epoch"]):
        for axis in (accuracy, rate):
            axis.axvspan(epochs.min() - 0.5, epochs.max() + 0.5, color="k", alpha=0.11 - 0.05 * number, lw=0)
        learns = {1: "head only", 2: "head, last stage"}.get(stages, "everything open")
        accuracy.annotate(learns, (epochs.mean(), 1.03), fontsize=8, xycoords=("data", "axes fraction"), ha="center")
    accuracy.set(ylabel="val accuracy, %")
    accuracy.legend(fontsize=8, loc="lower right")
    lowest = min(history["lr"].iloc[0] for history in histories.values())
    rate.xaxis.set_major_locator(MaxNLocator(integer=True))
    rate.set(ylabel="learning rate", yscale="log", ylim=(lowest / 100, None))  # the cosine ends near 0
    rate.set_xlabel("epoch (shading: what learns in a pretrained arm; from scratch everything does)")
    return figure


def confusion(labels: np.ndarray, predictions: np.ndarray, classes: list[str], title: str) -> Figure:
    """Confusion matrix in percent of the true class."""
    figure, axes = _axes(1, 1, 6.2, 5.4)
    ConfusionMatrixDisplay.from_predictions(
        labels, predictions, labels=range(len(classes)), display_labels=classes, normalize="true", values_format=".0%",
        ax=axes[0, 0], colorbar=False, cmap="Blues", text_kw={"fontsize": 7},
    )  # fmt: skip
    axes[0, 0].set_xticks(range(len(classes)), classes, rotation=60, ha="right")
    axes[0, 0].set_title(title)
    return figure


def score_histograms(id_scores: pd.DataFrame, ood_scores: pd.DataFrame, title: str = "") -> Figure:
    """Distribution of each score in and out of distribution; apart is good, OOD to the right is right."""
    columns = min(5, id_scores.shape[1])
    figure, axes = _axes(-(-id_scores.shape[1] // columns), columns, 2.7, 2.7, title)
    for axis in axes.flat[id_scores.shape[1] :]:
        axis.axis("off")
    for axis, name in zip(axes.flat, id_scores, strict=False):
        both = np.concatenate([id_scores[name], ood_scores[name]])
        # numpy's edges have a width even where a score is constant
        bins = np.histogram_bin_edges(both.clip(max=np.quantile(both, 0.995)), 39)
        for scores, label, color in ((id_scores, "in (EuroSAT)", "C0"), (ood_scores, "out (UC Merced)", "C3")):
            axis.hist(scores[name].clip(upper=bins[-1]), bins, density=True, alpha=0.55, color=color, label=label)
        axis.set(title=SCORE_NAMES.get(name, name), yticks=[], xlabel="score")
        axis.title.set_fontsize(9)
    axes[0, 0].legend(fontsize=7)
    return figure


def roc(id_scores: pd.DataFrame, ood_scores: pd.DataFrame, table: pd.DataFrame, title: str = "") -> Figure:
    """ROC curve of every score; `table` has its AUROC with interval (columns value, low, high)."""
    figure, axes = _axes(1, 1, 8.2, 4.4, title)
    axis = axes[0, 0]
    is_ood = np.repeat([0, 1], [len(id_scores), len(ood_scores)])
    for name in id_scores:
        false, true, _ = roc_curve(is_ood, np.concatenate([id_scores[name], ood_scores[name]]))
        area = table.loc[name]
        label = f"{SCORE_NAMES.get(name, name)}: {area['value']:.3f} [{area['low']:.3f}, {area['high']:.3f}]"
        control = {"ls": "--", "color": "k"} if name == "pixel_mahalanobis" else {}
        axis.plot(false, true, label=label, **control)
    axis.plot([0, 1], [0, 1], color="0.7", lw=1)
    axis.set(xlabel="share of EuroSAT flagged", ylabel="share of UC Merced flagged", title="AUROC [95 % interval]")
    axis.set_aspect("equal")
    figure.legend(fontsize=8, loc="outside right center", frameon=False)  # a dozen scores would cover the curves
    return figure


def project(features: dict[str, np.ndarray], labels: dict[str, np.ndarray], seed: int = 0,
            limit: int = 2000) -> pd.DataFrame:  # fmt: skip
    """One UMAP of several feature sets, so that their panels share axes: columns panel, label, x, y.

    Args:
        features: panel name → (N, D) features, one D for all; scaled to unit length, reduced by PCA to 50 (UMAP's
            neighbours are the same and the time is a tenth).
        labels: panel name → (N,) class numbers, −1 for out of distribution.
        limit: at most so many points a panel, evenly spread.
    """
    import umap  # compiles for seconds: only when a picture needs it

    rows = {panel: np.linspace(0, len(f) - 1, min(limit, len(f))).astype(int) for panel, f in features.items()}
    stacked = normalize(np.concatenate([features[panel][keep] for panel, keep in rows.items()]))
    reduced = PCA(min(50, *stacked.shape), random_state=seed).fit_transform(stacked)
    # a seeded UMAP runs on one core; saying so silences its warning
    xy = umap.UMAP(n_neighbors=15, min_dist=0.1, random_state=seed, n_jobs=1).fit_transform(reduced)
    frame = pd.concat([pd.DataFrame({"panel": panel, "label": labels[panel][keep]}) for panel, keep in rows.items()])
    return frame.reset_index(drop=True).assign(x=xy[:, 0], y=xy[:, 1])


def umap_panels(
    coordinates: pd.DataFrame, classes: list[str], captions: dict[str, str] | None = None, title: str = ""
) -> Figure:
    """The panels of a projection side by side; captions (numbers measured on the features) go under them."""
    panels = list(dict.fromkeys(coordinates["panel"]))
    figure, axes = _axes(1, len(panels), 4.4, 4.6, title, sharex=True, sharey=True)
    for axis, panel in zip(axes.flat, panels, strict=True):
        _scatter(axis, coordinates[coordinates["panel"] == panel], classes)
        axis.set(title=panel, xlabel=(captions or {}).get(panel, ""))
    handles, names = axes[0, -1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=6, fontsize=8, markerscale=2, frameon=False)
    return figure


def separation_captions(measured: dict[str, dict[str, float]]) -> dict[str, str]:
    """What goes under each panel: its kNN accuracy and the class separation, measured on the features."""
    return {
        panel: f"kNN {values['knn_accuracy']:.1%}, silhouette {values['silhouette']:.3f}, "
               f"Davies–Bouldin {values['davies_bouldin']:.2f}"
        for panel, values in measured.items()
    }  # fmt: skip


def umap_grid(rows: dict[str, tuple[pd.DataFrame, dict[str, dict[str, float]]] | None], classes: list[str]) -> Figure:
    """One row of panels an encoder: its coordinates and the separation of each panel, or None if it was not run.

    Every row is a projection of its own, for features of different networks share no axes.
    """
    columns = max((points["panel"].nunique() for points, _ in filter(None, rows.values())), default=2)
    figure, axes = _axes(len(rows), columns, 4.4, 4.1)
    for row_axes, (name, row) in zip(axes, rows.items(), strict=True):
        row_axes[0].set_ylabel(name, fontsize=12)
        for axis in row_axes:
            axis.set(xticks=[], yticks=[])
        if row is None:
            row_axes[0].text(0.5, 0.5, "not run", transform=row_axes[0].transAxes, ha="center", color="0.4")
            continue
        points, captions = row[0], separation_captions(row[1])
        for axis, (panel, mine) in zip(row_axes, points.groupby("panel", sort=False), strict=False):
            _scatter(axis, mine, classes)
            axis.set_title(panel)
            axis.set_xlabel(captions.get(panel, ""), fontsize=8)
    handles = {
        name: handle for axis in axes.flat for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, fontsize=8, markerscale=2,
                  frameon=False)  # fmt: skip
    return figure


def _scatter(axis, points: pd.DataFrame, classes: list[str]) -> None:
    size = np.clip(9000 / len(points), 6, 20)  # few points must be seen, many must not hide each other
    for label in sorted(points["label"].unique(), key=lambda value: (value < 0, value)):
        mine = points[points["label"] == label]
        color, name = ("k", OOD_NAME) if label < 0 else (f"C{label}", classes[label])
        axis.scatter(mine["x"], mine["y"], s=size, c=color, label=name, lw=0, alpha=0.7)
    axis.set(xticks=[], yticks=[])


def class_boundaries(points: pd.DataFrame, classes: list[str], title: str) -> Figure:
    """One panel of a projection over the regions where each class is the majority of the 15 nearest points."""
    points = points[points["label"] >= 0]
    figure, axes = _axes(1, 1, 6.4, 5.2)
    axis = axes[0, 0]
    margin = 0.05 * np.ptp(points[["x", "y"]].to_numpy(), axis=0)
    low, high = points[["x", "y"]].min() - margin, points[["x", "y"]].max() + margin
    grid = np.stack(np.meshgrid(np.linspace(low["x"], high["x"], 250), np.linspace(low["y"], high["y"], 250)), -1)
    knn = KNeighborsClassifier(min(15, len(points))).fit(points[["x", "y"]].to_numpy(), points["label"])
    regions = knn.predict(grid.reshape(-1, 2)).reshape(grid.shape[:2])
    colors = ListedColormap([f"C{number}" for number in range(len(classes))])
    axis.pcolormesh(grid[..., 0], grid[..., 1], regions, cmap=colors, vmin=0, vmax=len(classes) - 1, alpha=0.18, lw=0,
                    rasterized=True)  # fmt: skip
    _scatter(axis, points, classes)
    axis.set_title(title)
    figure.legend(loc="outside right center", fontsize=8, markerscale=2, frameon=False)
    return figure


def class_centroids(
    points: pd.DataFrame, features: np.ndarray, labels: np.ndarray, classes: list[str], title: str = ""
) -> Figure:
    """Class centres on one panel of a projection, and the cosine distances between centres of the features."""
    figure, axes = _axes(1, 2, 5.6, 5.0, title)
    projection, matrix = axes[0]
    points = points[points["label"] >= 0]
    _scatter(projection, points, classes)
    for label, centre in points.groupby("label")[["x", "y"]].median().iterrows():
        projection.annotate(classes[label], centre, ha="center", va="center", fontsize=8, weight="bold", zorder=5,
                            bbox={"boxstyle": "round", "fc": "w", "ec": f"C{label}", "alpha": 0.85})  # fmt: skip
    projection.set_title("class medians on the projection")
    distances = centroid_distances(features, labels)
    matrix.imshow(distances, cmap="viridis")
    for row, column in np.ndindex(distances.shape):
        bright = distances[row, column] > 0.6 * distances.max()
        matrix.text(column, row, f"{distances[row, column]:.2f}", ha="center", va="center", fontsize=6.5,
                    color="k" if bright else "w")  # fmt: skip
    matrix.set_xticks(range(len(classes)), classes, rotation=60, ha="right", fontsize=8)
    matrix.set_yticks(range(len(classes)), classes, fontsize=8)
    matrix.set_title("cosine distance between class centres of the features")
    return figure


def score_heatmap(auroc: dict[str, pd.DataFrame], title: str = "") -> Figure:
    """AUROC of every detector in every setting: white is a guess, blue finds, red is the wrong way.

    Args:
        auroc: kind of setting → table of detectors (rows) by settings.
    """
    rows = pd.concat({kind: table.T for kind, table in auroc.items()})
    figure, axes = _axes(1, 1, 3.4 + 0.42 * rows.shape[1], 1.8 + 0.27 * rows.shape[0], title)
    axis = axes[0, 0]
    axis.imshow(rows, cmap="RdBu", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(rows.shape):
        value = rows.iloc[row, column]
        axis.text(column, row, f"{value:.2f}".removeprefix("0"), ha="center", va="center", fontsize=7.5,
                  color="w" if abs(value - 0.5) > 0.3 else "k")  # fmt: skip
    for kind in auroc:
        first, last = np.flatnonzero(rows.index.get_level_values(0) == kind)[[0, -1]]
        axis.axhline(first - 0.5, color="k", lw=1.5)
        axis.annotate(kind, (1.015, (first + last) / 2), xycoords=("axes fraction", "data"), rotation=-90, fontsize=8,
                      ha="left", va="center", rotation_mode="default")  # fmt: skip
    axis.set_yticks(range(len(rows)), rows.index.get_level_values(1), fontsize=8)
    names = [SCORE_NAMES.get(name, name) for name in rows.columns]
    axis.set_xticks(range(len(names)), names, rotation=60, ha="left", fontsize=8)
    axis.xaxis.tick_top()
    axis.set_xlabel("AUROC: white 0.5 is a guess, red is the wrong way", fontsize=8)
    return figure


def extremes(sets: dict[str, tuple[np.ndarray, np.ndarray]], n: int = 16, title: str = "") -> Figure:
    """The n least and n most out-of-distribution-looking images of each set, with their scores.

    Args:
        sets: name → (N, H, W, 3) uint8 images and their (N,) scores.
    """
    figure, axes = _axes(2 * len(sets), n, 0.8, 0.95, title)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], frame_on=False)
    for number, (name, (images, scores)) in enumerate(sets.items()):
        order = np.argsort(np.asarray(scores), kind="stable")
        for row, rows, end in ((2 * number, order[:n], "least"), (2 * number + 1, order[::-1][:n], "most")):
            axes[row, 0].set_ylabel(f"{name}\n{end}", fontsize=7)
            for axis, index in zip(axes[row], rows, strict=False):
                axis.imshow(images[index], interpolation="nearest")
                score = np.asarray(scores)[index]
                axis.set_title(f"{score:.0f}" if abs(score) >= 100 else f"{score:.3g}", fontsize=6, pad=2)
    return figure


def reliability_diagram(tables: dict[str, pd.DataFrame], title: str = "") -> Figure:
    """Accuracy over confidence, from `src.ood.reliability`; below the diagonal is too sure, dots grow with bins."""
    figure, axes = _axes(1, 1, 4.8, 4.2, title)
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1], color="0.7", lw=1)
    for number, (name, table) in enumerate(tables.items()):
        share = table["count"] / table["count"].sum()
        gap = (share * (table["accuracy"] - table["confidence"]).abs()).sum()
        axis.plot(table["confidence"], table["accuracy"], color=f"C{number}", label=f"{name}: ECE {gap:.3f}")
        axis.scatter(table["confidence"], table["accuracy"], s=10 + 150 * share, color=f"C{number}", lw=0)
    axis.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
    axis.legend(fontsize=8, loc="upper left")
    return figure


def rejection_curves(curves: dict[str, pd.DataFrame], title: str = "") -> Figure:
    """Accuracy among the images kept, from `src.ood.accuracy_rejection`: a useful uncertainty rises to the left."""
    figure, axes = _axes(1, 1, 4.8, 3.8, title)
    for name, curve in curves.items():
        axes[0, 0].plot(100 * curve["kept"], 100 * curve["accuracy"], label=SCORE_NAMES.get(name, name))
    axes[0, 0].set(xlabel="images kept, %", ylabel="accuracy among them, %")
    axes[0, 0].legend(fontsize=8)
    return figure


def msp_both_ways(table: pd.DataFrame) -> Figure:
    """MSP as printed and 1 − MSP beside MI, from `src.results.both_readings`: mirror images about 0.5, no more."""
    figure, axes = _axes(1, 1, 6.4, 1.2 + 0.3 * len(table))
    axis, rows = axes[0, 0], np.arange(len(table))[::-1]
    printed, turned, mi = (table[c] for c in ("msp_as_printed", "auroc_one_minus_msp", "auroc_mutual_information"))
    axis.hlines(rows, np.minimum(printed, turned), np.maximum(printed, turned), color="0.85", lw=2)
    for values, marker, color, label in ((printed, "o", "0.6", "MSP as printed (confidence)"),
                                         (turned, "o", "C0", "1 − MSP"),
                                         (mi, "|", "C3", "mutual information")):  # fmt: skip
        axis.scatter(values, rows, marker=marker, color=color, s=60, label=label, zorder=3)
    axis.axvline(0.5, color="0.4", ls=":", lw=1)
    names = table["source"] + ": " + table["encoder"] + ", " + table["configuration"]
    axis.set_yticks(rows, names, fontsize=8)
    axis.set(xlabel="AUROC", xlim=(0, 1))
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return figure
