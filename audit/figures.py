"""Pictures of the audit, from the tables of `src.audit`. Each function draws and returns one
matplotlib figure.

Small dots are single seeds, lines and large dots their means. Tables are of one encoder, but for
`forest` and `over_labels`.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from audit.tables import POINTS
from audit.verdicts import FAILS, HOLDS, OPEN
from src.figures.canvas import _axes
from src.figures.detection import SCORE_NAMES
from src.results.study import ENCODER_NAMES

VERDICT_COLORS = {HOLDS: "C2", FAILS: "C3", OPEN: "0.5"}


def forest(verdicts: pd.DataFrame) -> Figure:
    """Every claim's difference and 95 % interval, from `verdict_table`: accuracies left, AUROCs
    right.
    """
    drawn = verdicts.dropna(subset=["mean"])
    parts = [
        (drawn[drawn["points"]], 100, "difference, percentage points"),
        (drawn[~drawn["points"]], 1, "difference of AUROC"),
    ]
    figure, axes = _axes(1, 2, 6.6, 1.4 + 0.24 * max(1, *(len(part) for part, _, _ in parts)))
    for axis, (part, factor, title) in zip(axes[0], parts, strict=True):
        rows = np.arange(len(part))[::-1]
        for row, (_, claim) in zip(rows, part.iterrows(), strict=True):
            color = VERDICT_COLORS[claim["verdict"]]
            axis.plot(
                [factor * claim["low"], factor * claim["high"]], [row, row], color=color, lw=2
            )
            axis.plot(factor * claim["mean"], row, "o", color=color, ms=5)
        axis.axvline(0, color="0.4", ls=":", lw=1)
        axis.set_yticks(rows, part["letter"] + ": " + part["claim"], fontsize=8)
        axis.set(xlabel=title, ylim=(-0.7, len(part) - 0.3))
    for name, color in VERDICT_COLORS.items():
        axes[0, 0].plot([], [], "o-", color=color, label=f"the claim {name}")
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return figure


def _seeds(
    axis: Axes, runs: pd.DataFrame, x: str, metric: str, color: str, label: str | None = None
) -> None:
    runs = runs.dropna(subset=[metric]).sort_values(x)
    factor = 100 if metric in POINTS else 1
    mean = factor * runs.groupby(x)[metric].mean()
    axis.scatter(runs[x], factor * runs[metric], s=9, color=color, alpha=0.6, lw=0)
    axis.plot(mean.index, mean, "o-", ms=4, color=color, label=label)


def _not_run() -> Figure:
    figure, axes = _axes(1, 1, 5.6, 1.0)
    axes[0, 0].axis("off")
    axes[0, 0].text(0.5, 0.5, "not run", ha="center", color="0.4")
    return figure


def temperatures(table: pd.DataFrame) -> Figure:
    """Cosine and dot-product NT-Xent over temperature: loss and floor, the temperature it amounts
    to, linear probe.
    """
    runs = table[(table["letter"] == "b") & table["linear"].notna()]
    if runs.empty:
        return _not_run()
    runs = runs.assign(
        kind=runs["arm"].str.split().str[0],
        temperature=runs["arm"].str.split().str[1].astype(float),
    )
    figure, axes = _axes(1, 3, 4.2, 3.4)
    for color, (kind, mine) in zip(("C0", "C1"), runs.groupby("kind"), strict=False):
        _seeds(axes[0, 0], mine, "temperature", "loss", color, kind)
        _seeds(axes[0, 1], mine[mine["kind"] == "dot"], "temperature", "own_temperature", color)
        _seeds(axes[0, 2], mine, "temperature", "linear", color, kind)
    floor = runs.groupby("temperature")["floor"].mean()
    axes[0, 0].plot(floor.index, floor, "--", color="C3", label="floor for unit vectors")
    axes[0, 0].set(ylabel="NT-Xent, last epoch", yscale="symlog")
    axes[0, 1].plot(floor.index, floor.index, ":", color="0.4", label="the same")
    axes[0, 1].set(ylabel="dot products: τ / length²", yscale="log")
    axes[0, 2].set(ylabel="linear probe, %")
    for axis in axes[0]:
        axis.set(xlabel="temperature τ", xscale="log")
        axis.legend(fontsize=8)
    return figure


def grey_levels(histograms: dict[str, Any]) -> Figure:
    """Share of the pixels at each grey level, every data set and rendering, from the record of c's
    histograms.
    """
    figure, axes = _axes(1, 1, 6.4, 3.2)
    for number, (name, values) in enumerate(histograms.items()):
        levels = (np.arange(len(values["share"])) + 0.5) * 256 / len(values["share"])
        dashes = "--" if "published" in name else "-"
        label = f"{name}: {values['images']} images, mean {np.mean(values['mean']):.0f}"
        axes[0, 0].plot(
            levels, 100 * np.array(values["share"]), dashes, color=f"C{number // 2}", label=label
        )
    axes[0, 0].set(xlabel="grey level", ylabel="share of pixels, %", xlim=(0, 256))
    axes[0, 0].legend(fontsize=8)
    return figure


def arms(table: pd.DataFrame, places: list[str], metrics: dict[str, str]) -> Figure:
    """Some arms ("letter/arm") side by side, one panel a metric; lines join the runs of one seed.

    metrics: column → title.
    """
    figure, axes = _axes(1, len(metrics), 5.0, 1.3 + 0.3 * len(places), sharey=True)
    rows = {place: len(places) - number for number, place in enumerate(places)}
    runs = table.assign(row=(table["letter"] + "/" + table["arm"]).map(rows)).dropna(subset=["row"])
    for axis, (metric, title) in zip(axes[0], metrics.items(), strict=True):
        factor = 100 if metric in POINTS else 1
        for _, mine in runs.dropna(subset=[metric]).sort_values("row").groupby(["encoder", "seed"]):
            axis.plot(factor * mine[metric], mine["row"], "o-", color="C0", ms=4, lw=0.7, alpha=0.5)
        mean = factor * runs.groupby("row")[metric].mean().dropna()
        axis.plot(mean, mean.index, "|", color="k", ms=16)
        axis.set(xlabel=title)
    axes[0, 0].set_yticks(
        list(rows.values()), [place.split("/")[1] for place in places], fontsize=8
    )
    return figure


def over_labels(table: pd.DataFrame, all_labels: int) -> Figure:
    """Test accuracy over labels a class (f), one panel an encoder. all_labels: how many "all"
    are.
    """
    runs = table[table["letter"] == "f"]
    kinds, labels = (
        runs["arm"].str.split().str[0],
        runs["arm"].str.split().str[1].replace("all", str(all_labels)),
    )
    runs = runs.assign(
        kind=kinds,
        labels=labels.astype(int),
        accuracy=100 * runs["test_accuracy"].fillna(runs["linear"]),
    )
    names = {
        "scratch": "from scratch",
        "progressive": "pretrained, unfreezing",
        "linear": "pretrained, linear probe",
        "untrained": "random weights, linear probe",
    }
    return _curves(runs, "labels", "accuracy", names, "labels a class", "test accuracy, %")


def over_rates(table: pd.DataFrame) -> Figure:
    """Test accuracy over the learning rate of fine-tuning (g)."""
    runs = table[(table["letter"] == "g") & ~table["arm"].str.endswith("best")]
    runs = runs.assign(
        kind=runs["arm"].str.split().str[0], rate=runs["arm"].str.split().str[1].astype(float)
    )
    names = {
        "scratch": "from scratch",
        "progressive": "pretrained, in phases",
        "full": "pretrained, all open",
        "frozen": "pretrained, head only",
    }
    return _curves(
        runs, "rate", "test_accuracy", names, "learning rate at the first step", "test accuracy, %"
    )


def _curves(
    runs: pd.DataFrame, x: str, metric: str, names: dict[str, str], xlabel: str, ylabel: str
) -> Figure:
    encoders = [name for name in ENCODER_NAMES if (runs["encoder"] == name).any()]
    if not encoders:
        return _not_run()
    figure, axes = _axes(1, len(encoders), 5.6, 3.8, sharey=True)
    for axis, encoder in zip(axes[0], encoders, strict=True):
        mine = runs[runs["encoder"] == encoder]
        for number, (kind, name) in enumerate(names.items()):
            _seeds(axis, mine[mine["kind"] == kind], x, metric, f"C{number}", name)
        axis.set(xlabel=xlabel, xscale="log", title=ENCODER_NAMES[encoder])
    axes[0, 0].set_ylabel(ylabel)
    axes[0, 0].legend(fontsize=8)
    return figure


def detectors(table: pd.DataFrame) -> Figure:
    """AUROC of every score on UC Merced, one colour an arm (i)."""
    runs = table[table["letter"] == "i"]
    if runs.empty:
        return _not_run()
    scores = [column.removeprefix("auroc_") for column in runs if column.startswith("auroc_")]
    figure, axes = _axes(1, 1, 6.4, 1.2 + 0.3 * len(scores))
    rows = np.arange(len(scores))[::-1]
    for number, (arm, mine) in enumerate(runs.groupby("arm", sort=False)):
        for row, score in zip(rows, scores, strict=True):
            area, height = mine[f"auroc_{score}"], row + 0.2 * (1 - number)
            axes[0, 0].scatter(
                area, np.full(len(area), height), s=9, color=f"C{number}", alpha=0.6, lw=0
            )
            axes[0, 0].scatter(
                area.mean(),
                height,
                s=45,
                marker="|",
                color=f"C{number}",
                label=arm if row == rows[0] else None,
            )
    axes[0, 0].axvline(0.5, color="0.4", ls=":", lw=1)
    axes[0, 0].set_yticks(rows, [SCORE_NAMES[score] for score in scores], fontsize=8)
    axes[0, 0].set(xlabel="AUROC", xlim=(0, 1))
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return figure
