"""Pictures of how well scores tell out-of-distribution images, and how true the confidence is."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from src.figures.canvas import axes_grid, write_in_cells
from src.ood import DETECTORS

SCORE_NAMES = {name: detector.title for name, detector in DETECTORS.items()}


def score_histograms(id_scores: pd.DataFrame, ood_scores: pd.DataFrame, title: str = "") -> Figure:
    """Distribution of each score in and out of distribution; apart is good, OOD to the right."""
    count = id_scores.shape[1]
    columns = min(5, count)
    figure, axes = axes_grid(-(-count // columns), columns, 2.7, 2.7, title)
    for axis in axes.flat[count:]:
        axis.axis("off")
    sides = {"in (EuroSAT)": (id_scores, "C0"), "out (UC Merced)": (ood_scores, "C3")}
    for axis, name in zip(axes.flat, id_scores, strict=False):
        pooled = np.concatenate([id_scores[name], ood_scores[name]])
        # numpy's edges have a width even where a score is constant
        bins = np.histogram_bin_edges(pooled.clip(max=np.quantile(pooled, 0.995)), 39)
        for label, (scores, color) in sides.items():
            shown = scores[name].clip(upper=bins[-1])
            axis.hist(shown, bins, density=True, alpha=0.55, color=color, label=label)
        axis.set(title=SCORE_NAMES.get(name, name), yticks=[], xlabel="score")
        axis.title.set_fontsize(9)
    axes[0, 0].legend(fontsize=7)
    return figure


def roc(
    id_scores: pd.DataFrame, ood_scores: pd.DataFrame, table: pd.DataFrame, title: str = ""
) -> Figure:
    """ROC curve of every score.

    Args:
        id_scores, ood_scores: one row an image, one column a score.
        table: the AUROC of each score (rows) with its interval (columns value, low, high).
    """
    figure, axes = axes_grid(1, 1, 8.2, 4.4, title)
    axis = axes[0, 0]
    is_ood = np.repeat([0, 1], [len(id_scores), len(ood_scores)])
    for name in id_scores:
        fpr, tpr, _ = roc_curve(is_ood, np.concatenate([id_scores[name], ood_scores[name]]))
        value, low, high = table.loc[name, ["value", "low", "high"]]
        interval = "" if np.isnan(low) else f" [{low:.3f}, {high:.3f}]"  # too few images for one
        label = f"{SCORE_NAMES.get(name, name)}: {value:.3f}{interval}"
        control = {"ls": "--", "color": "k"} if name == "pixel_mahalanobis" else {}
        axis.plot(fpr, tpr, label=label, **control)
    axis.plot([0, 1], [0, 1], color="0.7", lw=1)
    axis.set(xlabel="share of EuroSAT flagged", ylabel="share of UC Merced flagged")
    axis.set(title="AUROC [95 % interval]", aspect="equal")
    # inside, a dozen scores would cover the curves
    figure.legend(fontsize=8, loc="outside right center", frameon=False)
    return figure


def score_heatmap(auroc: dict[str, pd.DataFrame], title: str = "") -> Figure:
    """AUROC of every detector in every setting: white is a guess, blue finds, red is the wrong way.

    Args:
        auroc: kind of setting → table of detectors (rows) by settings.
    """
    rows = pd.concat({kind: table.T for kind, table in auroc.items()})
    figure, axes = axes_grid(1, 1, 3.4 + 0.42 * rows.shape[1], 1.8 + 0.27 * rows.shape[0], title)
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
    names = [SCORE_NAMES.get(name, name) for name in rows.columns]
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
    sets: dict[str, tuple[np.ndarray, np.ndarray]], n: int = 16, title: str = ""
) -> Figure:
    """The n least and n most out-of-distribution-looking images of each set, with their scores.

    Args:
        sets: name → (N, H, W, 3) uint8 images and their (N,) scores.
    """
    figure, axes = axes_grid(2 * len(sets), n, 0.8, 0.95, title)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], frame_on=False)
    rows_of_axes = iter(axes)
    for name, (images, scores) in sets.items():
        scores = np.asarray(scores)
        order = np.argsort(scores, kind="stable")
        for end, chosen in {"least": order[:n], "most": order[::-1][:n]}.items():
            row = next(rows_of_axes)
            row[0].set_ylabel(f"{name}\n{end}", fontsize=7)
            for axis, index in zip(row, chosen, strict=False):
                axis.imshow(images[index], interpolation="nearest")
                score = scores[index]
                text = f"{score:.0f}" if abs(score) >= 100 else f"{score:.3g}"
                axis.set_title(text, fontsize=6, pad=2)
    return figure


def reliability_diagram(tables: dict[str, pd.DataFrame], title: str = "") -> Figure:
    """Accuracy over confidence: below the diagonal is too sure, dots grow with bins.

    Args:
        tables: name → table of `src.ood.reliability`.
    """
    figure, axes = axes_grid(1, 1, 4.8, 4.2, title)
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1], color="0.7", lw=1)
    for number, (name, table) in enumerate(tables.items()):
        share = table["count"] / table["count"].sum()
        confidence, accuracy, color = table["confidence"], table["accuracy"], f"C{number}"
        gap = (share * (accuracy - confidence).abs()).sum()
        axis.plot(confidence, accuracy, color=color, label=f"{name}: ECE {gap:.3f}")
        axis.scatter(confidence, accuracy, s=10 + 150 * share, color=color, lw=0)
    axis.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
    axis.legend(fontsize=8, loc="upper left")
    return figure


def rejection_curves(curves: dict[str, pd.DataFrame], title: str = "") -> Figure:
    """Accuracy among the images kept: a useful uncertainty rises to the left.

    Args:
        curves: score → table of `src.ood.accuracy_rejection`.
    """
    figure, axes = axes_grid(1, 1, 4.8, 3.8, title)
    axis = axes[0, 0]
    for name, curve in curves.items():
        label = SCORE_NAMES.get(name, name)
        axis.plot(100 * curve["kept"], 100 * curve["accuracy"], label=label)
    axis.set(xlabel="images kept, %", ylabel="accuracy among them, %")
    axis.legend(fontsize=8)
    return figure


def msp_both_ways(table: pd.DataFrame) -> Figure:
    """MSP as printed and 1 − MSP beside MI: mirror images about 0.5, no more.

    Args:
        table: from `src.results.both_readings`.
    """
    figure, axes = axes_grid(1, 1, 6.4, 1.2 + 0.3 * len(table))
    axis, rows = axes[0, 0], np.arange(len(table))[::-1]
    printed, turned = table["msp_as_printed"], table["auroc_one_minus_msp"]
    mi = table["auroc_mutual_information"]
    axis.hlines(rows, np.minimum(printed, turned), np.maximum(printed, turned), color="0.85", lw=2)
    dots = {"s": 60, "zorder": 3}
    label = "MSP as printed (confidence)"
    axis.scatter(printed, rows, marker="o", color="0.6", label=label, **dots)
    axis.scatter(turned, rows, marker="o", color="C0", label="1 − MSP", **dots)
    axis.scatter(mi, rows, marker="|", color="C3", label="mutual information", **dots)
    axis.axvline(0.5, color="0.4", ls=":", lw=1)
    names = table["source"] + ": " + table["encoder"] + ", " + table["configuration"]
    axis.set_yticks(rows, names, fontsize=8)
    axis.set(xlabel="AUROC", xlim=(0, 1))
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return figure
