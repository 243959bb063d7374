"""Pictures of how well scores tell out-of-distribution images, and how true the confidence is."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from sklearn.metrics import roc_auc_score, roc_curve

from src.figures.canvas import axes_grid, legend_below, write_in_cells
from src.figures.palette import IN_COLOR, INK, OUT_COLOR, PALE, line_colors
from src.ood import DETECTORS

SCORE_NAMES = {name: detector.title for name, detector in DETECTORS.items()}
NAMES = ("EuroSAT", "UC Merced")  # in and out of distribution, where the caller names no others


def score_histograms(
    id_scores: pd.DataFrame,
    ood_scores: pd.DataFrame,
    title: str = "",
    *,
    names: tuple[str, str] = NAMES,
) -> Figure:
    """Distribution of each score in and out of distribution; apart is good, OOD to the right.

    Args:
        id_scores, ood_scores: one row an image, one column a score.
        names: of the two sets.
    """
    count = id_scores.shape[1]
    columns = min(4, count)
    figure, axes = axes_grid(-(-count // columns), columns, 2.7, 1.9, title)
    for axis in axes.flat[count:]:
        axis.axis("off")
    for axis, name in zip(axes.flat, id_scores, strict=False):
        values, is_ood = _pooled(id_scores[name], ood_scores[name])
        # numpy's edges have a width even where a score is constant
        bins = np.histogram_bin_edges(values.clip(max=np.quantile(values, 0.995)), 39)
        shown = values.clip(max=bins[-1])
        axis.hist(shown[~is_ood], bins, density=True, color=IN_COLOR)
        outline = {"histtype": "step", "color": OUT_COLOR, "lw": 1.2}
        axis.hist(shown[is_ood], bins, density=True, **outline)
        area = roc_auc_score(is_ood, values)
        axis.set_title(f"{SCORE_NAMES.get(name, name)}\nAUROC {area:.3f}", fontsize=8.5)
        axis.tick_params(labelsize=7)
        axis.locator_params(nbins=4)
    for axis in axes[:, 0]:
        axis.set_ylabel("density", fontsize=8)
    handles = [Patch(color=IN_COLOR), Line2D([], [], color=OUT_COLOR, lw=1.2)]
    counts = len(id_scores), len(ood_scores)
    sides = ("in", "out of distribution")
    labels = [f"{side}: {n}, n = {c:,}" for side, n, c in zip(sides, names, counts, strict=True)]
    legend_below(figure, handles, labels)
    return figure


def _pooled(id_scores: pd.Series, ood_scores: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """All scores, and which are out of distribution."""
    is_ood = np.repeat([False, True], [len(id_scores), len(ood_scores)])
    return np.concatenate([id_scores, ood_scores]), is_ood


def roc(
    id_scores: pd.DataFrame,
    ood_scores: pd.DataFrame,
    table: pd.DataFrame,
    title: str = "",
    *,
    names: tuple[str, str] = NAMES,
) -> Figure:
    """ROC curve of every score, the best first in the legend.

    Args:
        id_scores, ood_scores: one row an image, one column a score.
        table: the AUROC of each score (rows) with its interval (columns value, low, high).
        names: of the two sets.
    """
    figure, axes = axes_grid(1, 1, 9.2, 4.6, title)
    axis = axes[0, 0]
    colors = dict(zip(id_scores, line_colors(id_scores.shape[1]), strict=True))
    for place, name in enumerate(sorted(id_scores, key=lambda name: -table.loc[name, "value"])):
        values, is_ood = _pooled(id_scores[name], ood_scores[name])
        fpr, tpr, _ = roc_curve(is_ood, values)
        value, low, high = table.loc[name, ["value", "low", "high"]]
        interval = "" if np.isnan(low) else f" [{low:.3f}, {high:.3f}]"  # too few images for one
        label = f"{SCORE_NAMES.get(name, name)}: {value:.3f}{interval}"
        control = name == "pixel_mahalanobis"
        dashes = ":" if control else ("-", "--", "-.")[place % 3]
        axis.plot(fpr, tpr, dashes, label=label, color="k" if control else colors[name], lw=1.4)
    axis.plot([0, 1], [0, 1], color="0.7", lw=1)
    axis.set_xlabel(f"share of {names[0]} flagged (n = {len(id_scores):,})")
    axis.set_ylabel(f"share of {names[1]} flagged (n = {len(ood_scores):,})")
    axis.set(title="AUROC [95 % interval], best first", aspect="equal")
    # inside, a dozen scores would cover the curves
    figure.legend(fontsize=8, loc="outside right center", frameon=False)
    return figure


def score_heatmap(auroc: dict[str, pd.DataFrame], title: str = "") -> Figure:
    """AUROC of every detector in every setting: white is a guess, blue finds, red is the wrong way.

    Args:
        auroc: kind of setting → table of detectors (rows) by settings.
    """
    rows = pd.concat({kind: table.T for kind, table in auroc.items()})
    figure, axes = axes_grid(1, 1, 3.4 + 0.42 * rows.shape[1], 2.2 + 0.24 * rows.shape[0], title)
    axis = axes[0, 0]
    axis.imshow(rows, cmap="RdBu", vmin=0, vmax=1, aspect="auto")
    values = rows.to_numpy()
    texts = [[f"{value:.2f}".removeprefix("0") for value in row] for row in values]
    write_in_cells(axis, texts, ~(np.abs(values - 0.5) > 0.3), fontsize=7.5)
    for kind in auroc:
        first, last = np.flatnonzero(rows.index.get_level_values(0) == kind)[[0, -1]]
        axis.axhline(first - 0.5, color="k", lw=1.5)
        _write_beside(axis, kind, (first + last) / 2)
    axis.set_yticks(range(len(rows)), rows.index.get_level_values(1), fontsize=8)
    # the longest name would take a third of the height
    names = [SCORE_NAMES.get(name, name).replace(" (no", "\n(no") for name in rows.columns]
    axis.set_xticks(range(len(names)), names, rotation=60, ha="left", fontsize=8)
    axis.xaxis.tick_top()
    axis.set_xlabel("AUROC: white 0.5 is a guess, red is the wrong way", fontsize=8)
    return figure


def _write_beside(axis: Axes, text: str, row: float) -> None:
    """A text from top to bottom, right of the axes, at the height of a row."""
    axis.annotate(
        text,
        (1.015, row),
        xycoords=("axes fraction", "data"),
        rotation=-90,
        rotation_mode="default",
        fontsize=8,
        ha="left",
        va="center",
    )


def extremes(
    sets: dict[str, tuple[np.ndarray, np.ndarray]], n: int = 10, title: str = ""
) -> Figure:
    """The n least and n most out-of-distribution-looking images of each set, with their scores.

    Args:
        sets: name → (N, H, W, 3) uint8 images and their (N,) scores.
    """
    figure, axes = axes_grid(2 * len(sets), n, 0.9, 1.0, title)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], frame_on=False)
    rows_of_axes = iter(axes)
    for name, (images, scores) in sets.items():
        scores = np.asarray(scores)
        order = np.argsort(scores, kind="stable")
        for end, chosen in {"least": order[:n], "most": order[::-1][:n]}.items():
            row = next(rows_of_axes)
            row[0].set_ylabel(f"{name}\n{end}", fontsize=8)
            for axis, index in zip(row, chosen, strict=False):
                axis.imshow(images[index], interpolation="nearest")
                score = scores[index]
                text = f"{score:.0f}" if abs(score) >= 100 else f"{score:.3g}"
                axis.set_title(text, fontsize=7.5, pad=2)
    return figure


def reliability_diagram(tables: dict[str, pd.DataFrame], title: str = "") -> Figure:
    """Accuracy over confidence: below the diagonal is too sure, dots grow with bins.

    Args:
        tables: name → table of `src.ood.reliability`.
    """
    figure, axes = axes_grid(1, 1, 6.4, 4.4, title)
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1], color="0.7", lw=1)
    colors = line_colors(len(tables))
    for color, (name, table) in zip(colors, tables.items(), strict=True):
        share = table["count"] / table["count"].sum()
        confidence, accuracy = table["confidence"], table["accuracy"]
        gap = (share * (accuracy - confidence).abs()).sum()
        axis.plot(confidence, accuracy, color=color, label=f"{name}: ECE {gap:.3f}")
        axis.scatter(confidence, accuracy, s=10 + 150 * share, color=color, lw=0)
    axis.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
    count = max(int(table["count"].sum()) for table in tables.values())
    axis.set_title(f"is the confidence true? below the line: too sure; n = {count:,}", fontsize=9)
    axis.legend(fontsize=8, loc="upper left")
    return figure


def rejection_curves(curves: dict[str, pd.DataFrame], title: str = "") -> Figure:
    """Accuracy among the images kept: a useful uncertainty rises to the left.

    Args:
        curves: score → table of `src.ood.accuracy_rejection`.
    """
    figure, axes = axes_grid(1, 1, 6.4, 3.8, title)
    axis = axes[0, 0]
    for color, (name, curve) in zip(line_colors(len(curves)), curves.items(), strict=True):
        label = SCORE_NAMES.get(name, name)
        axis.plot(100 * curve["kept"], 100 * curve["accuracy"], label=label, color=color)
    axis.set_title("the least certain are left out: what is the accuracy of the rest?", fontsize=9)
    axis.set(xlabel="images kept, %", ylabel="accuracy among them, %")
    axis.legend(fontsize=8)
    return figure


def msp_both_ways(table: pd.DataFrame) -> Figure:
    """MSP as printed and 1 − MSP beside MI: mirror images about 0.5, no more.

    Args:
        table: from `src.results.both_readings`.
    """
    title = "Confidence read as printed, and turned round: which finds the unknown?"
    figure, axes = axes_grid(1, 1, 9.2, 1.4 + 0.27 * len(table), title)
    axis, rows = axes[0, 0], np.arange(len(table))[::-1]
    printed, turned = table["msp_as_printed"], table["auroc_one_minus_msp"]
    mi = table["auroc_mutual_information"]
    axis.hlines(rows, np.minimum(printed, turned), np.maximum(printed, turned), color="0.85", lw=2)
    dots = {"s": 55, "zorder": 3, "linewidths": 1.4}
    hollow = {"facecolors": "w", "edgecolors": PALE, "marker": "o"}
    axis.scatter(printed, rows, label="MSP as printed (confidence)", **hollow, **dots)
    axis.scatter(turned, rows, marker="o", color=INK, label="1 − MSP", **dots)
    color = line_colors(1)[0]
    axis.scatter(mi, rows, marker="D", color=color, label="mutual information", **dots)
    axis.axvline(0.5, color="0.4", ls=":", lw=1)
    length = table["epochs"].map(lambda epochs: f", {epochs} epochs" if epochs else "")
    names = table["source"] + ": " + table["encoder"] + ", " + table["configuration"] + length
    axis.set_yticks(rows, names, fontsize=8)
    axis.set(xlabel="AUROC", xlim=(0, 1))
    legend_below(figure, *axis.get_legend_handles_labels())
    return figure
