"""Pictures of how well scores tell out-of-distribution images, and how true the confidence is."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from src.figures.canvas import _axes
from src.ood import DETECTORS

SCORE_NAMES = {name: detector.title for name, detector in DETECTORS.items()}


def score_histograms(id_scores: pd.DataFrame, ood_scores: pd.DataFrame, title: str = "") -> Figure:
    """Distribution of each score in and out of distribution; apart is good, OOD to the right is
    right.
    """
    columns = min(5, id_scores.shape[1])
    figure, axes = _axes(-(-id_scores.shape[1] // columns), columns, 2.7, 2.7, title)
    for axis in axes.flat[id_scores.shape[1] :]:
        axis.axis("off")
    for axis, name in zip(axes.flat, id_scores, strict=False):
        both = np.concatenate([id_scores[name], ood_scores[name]])
        # numpy's edges have a width even where a score is constant
        bins = np.histogram_bin_edges(both.clip(max=np.quantile(both, 0.995)), 39)
        for scores, label, color in (
            (id_scores, "in (EuroSAT)", "C0"),
            (ood_scores, "out (UC Merced)", "C3"),
        ):
            axis.hist(
                scores[name].clip(upper=bins[-1]),
                bins,
                density=True,
                alpha=0.55,
                color=color,
                label=label,
            )
        axis.set(title=SCORE_NAMES.get(name, name), yticks=[], xlabel="score")
        axis.title.set_fontsize(9)
    axes[0, 0].legend(fontsize=7)
    return figure


def roc(
    id_scores: pd.DataFrame, ood_scores: pd.DataFrame, table: pd.DataFrame, title: str = ""
) -> Figure:
    """ROC curve of every score; `table` has its AUROC with interval (columns value, low, high)."""
    figure, axes = _axes(1, 1, 8.2, 4.4, title)
    axis = axes[0, 0]
    is_ood = np.repeat([0, 1], [len(id_scores), len(ood_scores)])
    for name in id_scores:
        false, true, _ = roc_curve(is_ood, np.concatenate([id_scores[name], ood_scores[name]]))
        area = table.loc[name]
        label = (
            f"{SCORE_NAMES.get(name, name)}: {area['value']:.3f} [{area['low']:.3f},"
            f" {area['high']:.3f}]"
        )
        control = {"ls": "--", "color": "k"} if name == "pixel_mahalanobis" else {}
        axis.plot(false, true, label=label, **control)
    axis.plot([0, 1], [0, 1], color="0.7", lw=1)
    axis.set(
        xlabel="share of EuroSAT flagged",
        ylabel="share of UC Merced flagged",
        title="AUROC [95 % interval]",
    )
    axis.set_aspect("equal")
    figure.legend(
        fontsize=8, loc="outside right center", frameon=False
    )  # a dozen scores would cover the curves
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
        axis.text(
            column,
            row,
            f"{value:.2f}".removeprefix("0"),
            ha="center",
            va="center",
            fontsize=7.5,
            color="w" if abs(value - 0.5) > 0.3 else "k",
        )
    for kind in auroc:
        first, last = np.flatnonzero(rows.index.get_level_values(0) == kind)[[0, -1]]
        axis.axhline(first - 0.5, color="k", lw=1.5)
        axis.annotate(
            kind,
            (1.015, (first + last) / 2),
            xycoords=("axes fraction", "data"),
            rotation=-90,
            fontsize=8,
            ha="left",
            va="center",
            rotation_mode="default",
        )
    axis.set_yticks(range(len(rows)), rows.index.get_level_values(1), fontsize=8)
    names = [SCORE_NAMES.get(name, name) for name in rows.columns]
    axis.set_xticks(range(len(names)), names, rotation=60, ha="left", fontsize=8)
    axis.xaxis.tick_top()
    axis.set_xlabel("AUROC: white 0.5 is a guess, red is the wrong way", fontsize=8)
    return figure


def extremes(
    sets: dict[str, tuple[np.ndarray, np.ndarray]], n: int = 16, title: str = ""
) -> Figure:
    """The n least and n most out-of-distribution-looking images of each set, with their scores.

    Args:
        sets: name → (N, H, W, 3) uint8 images and their (N,) scores.
    """
    figure, axes = _axes(2 * len(sets), n, 0.8, 0.95, title)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], frame_on=False)
    for number, (name, (images, scores)) in enumerate(sets.items()):
        order = np.argsort(np.asarray(scores), kind="stable")
        for row, rows, end in (
            (2 * number, order[:n], "least"),
            (2 * number + 1, order[::-1][:n], "most"),
        ):
            axes[row, 0].set_ylabel(f"{name}\n{end}", fontsize=7)
            for axis, index in zip(axes[row], rows, strict=False):
                axis.imshow(images[index], interpolation="nearest")
                score = np.asarray(scores)[index]
                axis.set_title(
                    f"{score:.0f}" if abs(score) >= 100 else f"{score:.3g}", fontsize=6, pad=2
                )
    return figure


def reliability_diagram(tables: dict[str, pd.DataFrame], title: str = "") -> Figure:
    """Accuracy over confidence, from `src.ood.reliability`; below the diagonal is too sure, dots
    grow with bins.
    """
    figure, axes = _axes(1, 1, 4.8, 4.2, title)
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1], color="0.7", lw=1)
    for number, (name, table) in enumerate(tables.items()):
        share = table["count"] / table["count"].sum()
        gap = (share * (table["accuracy"] - table["confidence"]).abs()).sum()
        axis.plot(
            table["confidence"],
            table["accuracy"],
            color=f"C{number}",
            label=f"{name}: ECE {gap:.3f}",
        )
        axis.scatter(
            table["confidence"], table["accuracy"], s=10 + 150 * share, color=f"C{number}", lw=0
        )
    axis.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
    axis.legend(fontsize=8, loc="upper left")
    return figure


def rejection_curves(curves: dict[str, pd.DataFrame], title: str = "") -> Figure:
    """Accuracy among the images kept, from `src.ood.accuracy_rejection`: a useful uncertainty rises
    to the left.
    """
    figure, axes = _axes(1, 1, 4.8, 3.8, title)
    for name, curve in curves.items():
        axes[0, 0].plot(
            100 * curve["kept"], 100 * curve["accuracy"], label=SCORE_NAMES.get(name, name)
        )
    axes[0, 0].set(xlabel="images kept, %", ylabel="accuracy among them, %")
    axes[0, 0].legend(fontsize=8)
    return figure


def msp_both_ways(table: pd.DataFrame) -> Figure:
    """MSP as printed and 1 − MSP beside MI, from `src.results.both_readings`: mirror images about
    0.5, no more.
    """
    figure, axes = _axes(1, 1, 6.4, 1.2 + 0.3 * len(table))
    axis, rows = axes[0, 0], np.arange(len(table))[::-1]
    printed, turned, mi = (
        table[c] for c in ("msp_as_printed", "auroc_one_minus_msp", "auroc_mutual_information")
    )
    axis.hlines(rows, np.minimum(printed, turned), np.maximum(printed, turned), color="0.85", lw=2)
    for values, marker, color, label in (
        (printed, "o", "0.6", "MSP as printed (confidence)"),
        (turned, "o", "C0", "1 − MSP"),
        (mi, "|", "C3", "mutual information"),
    ):
        axis.scatter(values, rows, marker=marker, color=color, s=60, label=label, zorder=3)
    axis.axvline(0.5, color="0.4", ls=":", lw=1)
    names = table["source"] + ": " + table["encoder"] + ", " + table["configuration"]
    axis.set_yticks(rows, names, fontsize=8)
    axis.set(xlabel="AUROC", xlim=(0, 1))
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return figure
