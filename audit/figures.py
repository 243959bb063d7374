"""Pictures of the audit, from its tables. Each function draws and returns one matplotlib figure.

Small dots are single seeds, lines and large dots their means. Tables are of one encoder, but for
`forest` and `over_labels`.
"""

from collections.abc import Iterable
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from audit.plan import PUBLISHED_HEAD
from audit.tables import ACCURACIES
from audit.verdicts import AGAINST, FAILS, HOLDS, OPEN, TOWARDS
from src.figures.canvas import WIDTH, axes_grid, legend_below
from src.figures.detection import SCORE_NAMES
from src.figures.palette import INK, PALE, arm_colors, line_colors
from src.results import ENCODER_NAMES

# shape and filling of the mark of a verdict, which stands in words beside it
MARKS = {HOLDS: ("o", True), FAILS: ("X", True), TOWARDS: ("^", True), AGAINST: ("v", True)}
MARKS[OPEN] = ("o", False)


# --- the verdict ---


def forest(verdicts: pd.DataFrame) -> Figure:
    """Every claim's difference and 95 % interval, from `verdict_table`, in its groups: accuracies
    above, AUROCs below; the verdict stands beside the row.
    """
    drawn = verdicts.dropna(subset=["mean"])
    panels = {
        "difference of accuracy, percentage points": (drawn[drawn["points"]], 100),
        "difference of AUROC": (drawn[~drawn["points"]], 1),
    }
    panels = {xlabel: panel for xlabel, panel in panels.items() if len(panel[0])}
    if not panels:
        return not_run()
    lines = [len(claims) + claims["group"].nunique() for claims, _ in panels.values()]
    figure, axes = axes_grid(len(panels), 1, WIDTH, 1.0, height_ratios=[n + 1.5 for n in lines])
    figure.set_size_inches(WIDTH, 0.27 * sum(lines) + 0.75 * len(panels))
    for axis, (xlabel, (claims, factor)) in zip(axes[:, 0], panels.items(), strict=True):
        _intervals(axis, claims, factor, xlabel)
    return figure


def _intervals(axis: Axes, claims: pd.DataFrame, factor: float, xlabel: str) -> None:
    row, ticks, names = 0, [], []
    beside = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 8.5}
    for group, of_group in claims.groupby("group", sort=False):
        axis.annotate(group, (0.01, row), weight="bold", ha="left", **beside)
        row -= 1
        for claim in of_group.itertuples():
            marker, filled = MARKS[claim.verdict]
            color = INK if filled else PALE
            axis.plot([factor * claim.low, factor * claim.high], [row, row], color=color, lw=2)
            fill = color if filled else "w"
            axis.plot(factor * claim.mean, row, marker, color=color, mfc=fill, ms=7)
            axis.annotate(claim.verdict, (1.02, row), color=color, annotation_clip=False, **beside)
            ticks.append(row)
            names.append(f"{claim.claim}\N{NO-BREAK SPACE}({claim.letter})")
            row -= 1
    axis.axvline(0, color="0.4", ls=":", lw=1, zorder=0)
    axis.set_yticks(ticks, ["\n".join(wrap(name, 46)) for name in names], fontsize=8)
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(row + 0.4, 0.6)
    axis.set_xlabel(f"{xlabel}, with its 95 % interval", fontsize=9)


# --- one letter each ---


def temperatures(table: pd.DataFrame) -> Figure:
    """Cosine and dot-product NT-Xent over temperature, behind either head (b): loss and floor, the
    temperature it amounts to, linear probe.
    """
    runs = table[(table["letter"] == "b") & table["linear"].notna()]
    if runs.empty:
        return not_run()
    runs = _split_arm(runs, "kind", "temperature")
    runs["temperature"] = runs["temperature"].astype(float)
    heads = runs["arm"].str.endswith(PUBLISHED_HEAD).map({True: PUBLISHED_HEAD, False: ""})
    runs["kind"] += heads
    floor = runs.groupby("temperature")["floor"].mean()
    title = "Cosine or plain dot products: loss, own temperature, linear probe over τ"
    figure, axes = axes_grid(1, 3, 4.2, 3.4, title)
    loss, equivalent, probe = axes[0]
    colors = line_colors(runs["kind"].nunique())
    for color, (kind, of_kind) in zip(colors, runs.groupby("kind"), strict=True):
        _seeds(loss, of_kind, "temperature", "loss", color, kind)
        if kind.startswith("dot"):
            _seeds(equivalent, of_kind, "temperature", "own_temperature", color)
        _seeds(probe, of_kind, "temperature", "linear", color, kind)
    loss.plot(floor.index, floor, "--", color="k", label="left: floor for unit vectors")
    loss.set(ylabel="NT-Xent, last epoch", yscale="symlog")
    equivalent.plot(floor.index, floor.index, ":", color="0.4", label="middle: as cosines at τ")
    equivalent.set(ylabel="dot products: τ / length²", yscale="log")
    probe.set(ylabel="linear probe, %")
    for axis in axes[0]:
        axis.set(xlabel="temperature τ", xscale="log")
        _tick_each(axis, floor.index)
    shown = [axis.get_legend_handles_labels() for axis in (loss, equivalent)]
    legend_below(figure, *(first + second for first, second in zip(*shown, strict=True)))
    return figure


def grey_levels(histograms: dict[str, Any]) -> Figure:
    """Share of the pixels at each grey level, every data set and rendering, from the record of c's
    histograms.
    """
    if not histograms:
        return not_run()
    title = "How bright the pixels are: each data set, as published and in EuroSAT's tones"
    figure, axes = axes_grid(1, 1, 8.0, 3.6, title)
    axis = axes[0, 0]
    colors = line_colors(-(-len(histograms) // 2))
    for number, (name, histogram) in enumerate(histograms.items()):
        share = 100 * np.array(histogram["share"])
        levels = (np.arange(len(share)) + 0.5) * 256 / len(share)
        dashes, color = "--" if "published" in name else "-", colors[number // 2]
        label = f"{name}: {histogram['images']} images, mean {np.mean(histogram['mean']):.0f}"
        axis.plot(levels, share, dashes, color=color, label=label)
    axis.set(xlabel="grey level", ylabel="share of pixels, %", xlim=(0, 256))
    axis.legend(fontsize=8)
    return figure


def arms(
    table: pd.DataFrame, names: list[str], metrics: dict[str, str], *, title: str = ""
) -> Figure:
    """Some arms ("letter/arm") side by side, one panel a metric; lines join the runs of one seed.

    metrics: column → title. title: what the arms are tried for.
    """
    key = "dots: runs, joined where the seed is the same; bars: means over seeds"
    title = f"{title}\n{key}" if title else key
    rows = {name: len(names) - number for number, name in enumerate(names)}
    runs = table.assign(row=(table["letter"] + "/" + table["arm"]).map(rows)).dropna(subset=["row"])
    if runs[[*metrics]].isna().all(axis=None):
        return not_run()
    width = 5.0 if len(metrics) > 1 else 7.0
    figure, axes = axes_grid(1, len(metrics), width, 1.6 + 0.3 * len(names), title, sharey=True)
    thin = {"color": PALE, "ms": 4, "lw": 0.7, "alpha": 0.7}
    for axis, (metric, xlabel) in zip(axes[0], metrics.items(), strict=True):
        measured = runs.dropna(subset=[metric]).sort_values("row")
        values = measured.assign(value=_factor(metric) * measured[metric])
        for _, of_seed in values.groupby(["encoder", "seed"]):
            axis.plot(of_seed["value"], of_seed["row"], "o-", **thin)
        mean = values.groupby("row")["value"].mean()
        axis.plot(mean, mean.index, "|", color=INK, ms=16, mew=2)
        axis.set(xlabel=xlabel)
    labels = [name.split("/")[1] for name in names]
    axes[0, 0].set_yticks(list(rows.values()), labels, fontsize=8)
    return figure


LABEL_KINDS = {
    "scratch": "from scratch",
    "progressive": "pretrained, unfreezing",
    "linear": "pretrained, linear probe",
    "untrained": "random weights, linear probe",
}


def over_labels(table: pd.DataFrame, all_labels: int) -> Figure:
    """Test accuracy over labels a class (f), one panel an encoder. all_labels: how many "all"
    are.
    """
    runs = _split_arm(table[table["letter"] == "f"], "kind", "labels")
    runs["labels"] = runs["labels"].replace("all", str(all_labels)).astype(int)
    runs["test_accuracy"] = runs["test_accuracy"].fillna(runs["linear"])
    return _accuracy_curves(runs, "labels", LABEL_KINDS, "labels a class")


def over_budgets(table: pd.DataFrame) -> Figure:
    """The same on all of EuroSAT (3): linear probes, and what was fine-tuned on the fewest
    labels; each dot is a seed's mean over draws of the labels.
    """
    runs = table[table["letter"] == "3"]
    probed = [name for name in runs if name.startswith("linear_") and runs[name].notna().any()]
    index = ["encoder", "seed", "arm"]
    probes = runs[[*index, *probed]].melt(index, probed, "labels", "test_accuracy").dropna()
    kinds = {"linear pretrained": "linear", "linear untrained": "untrained"}
    probes = probes.assign(kind=probes["arm"].map(kinds))
    tuned = _split_arm(runs[~runs["arm"].str.contains("linear|draw")], "kind", "labels")
    tuned = tuned.replace({"kind": {"pretrained": "progressive"}})
    both = pd.concat([tuned, probes], ignore_index=True)
    both["labels"] = both["labels"].str.removeprefix("linear_").astype(int)
    return _accuracy_curves(both, "labels", LABEL_KINDS, "labels a class")


def over_rates(table: pd.DataFrame) -> Figure:
    """Test accuracy over the learning rate of fine-tuning (g)."""
    runs = table[(table["letter"] == "g") & ~table["arm"].str.endswith("best")]
    runs = _split_arm(runs, "kind", "rate")
    runs["rate"] = runs["rate"].astype(float)
    names = {
        "scratch": "from scratch",
        "progressive": "pretrained, in phases",
        "full": "pretrained, all open",
        "frozen": "pretrained, head only",
    }
    return _accuracy_curves(runs, "rate", names, "learning rate at the first step")


def detectors(table: pd.DataFrame) -> Figure:
    """AUROC of every score on UC Merced, one colour an arm (i)."""
    runs = table[table["letter"] == "i"]
    if runs.empty:
        return not_run()
    scored = [f"auroc_{score}" for score in SCORE_NAMES]  # and not those of stage 6 by set
    columns = [column for column in scored if column in runs]
    rows = np.arange(len(columns))[::-1]
    title = "Which score tells UC Merced from EuroSAT, pretrained or not?"
    figure, axes = axes_grid(1, 1, 8.0, 1.5 + 0.3 * len(columns), title)
    axis = axes[0, 0]
    colors = arm_colors(sorted(runs["arm"].unique()))
    for number, (arm, of_arm) in enumerate(runs.groupby("arm")):
        color, heights = colors[arm], rows + 0.2 * (1 - number)
        areas = of_arm[columns]
        spread = np.broadcast_to(heights, areas.shape)
        axis.scatter(areas, spread, s=9, color=color, alpha=0.6, lw=0)
        axis.scatter(areas.mean(), heights, s=45, marker="|", color=color, label=arm)
    axis.axvline(0.5, color="0.4", ls=":", lw=1)
    names = [SCORE_NAMES[column.removeprefix("auroc_")] for column in columns]
    axis.set_yticks(rows, names, fontsize=8)
    axis.set(xlabel="AUROC", xlim=(0, 1))
    legend_below(figure, *axis.get_legend_handles_labels())
    return figure


# --- what they share ---


def _factor(metric: str) -> int:
    return 100 if metric in ACCURACIES else 1


def _split_arm(runs: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """With a column for each word of the arm's name."""
    words = runs["arm"].str.split()
    return runs.assign(**{column: words.str[number] for number, column in enumerate(columns)})


def _seeds(
    axis: Axes, runs: pd.DataFrame, x: str, metric: str, color: str, label: str | None = None
) -> None:
    runs = runs.dropna(subset=[metric]).sort_values(x)
    mean = _factor(metric) * runs.groupby(x)[metric].mean()
    axis.scatter(runs[x], _factor(metric) * runs[metric], s=9, color=color, alpha=0.6, lw=0)
    axis.plot(mean.index, mean, "o-", ms=4, color=color, label=label)


def _tick_each(axis: Axes, values: Iterable[float]) -> None:
    """A tick with its number at each value that was tried, along a logarithmic axis."""
    axis.set_xticks([*values], [f"{value:g}" for value in values])
    axis.set_xticks([], minor=True)


def _accuracy_curves(runs: pd.DataFrame, x: str, names: dict[str, str], xlabel: str) -> Figure:
    """Test accuracy over `x`, one panel an encoder and one curve a kind. names: kind → legend."""
    encoders = [name for name in ENCODER_NAMES if (runs["encoder"] == name).any()]
    if not encoders:
        return not_run()
    title = f"Test accuracy over the {xlabel}"
    figure, axes = axes_grid(1, len(encoders), 6.4, 3.8, title, sharey=True)
    colors = arm_colors(names.values())
    for axis, encoder in zip(axes[0], encoders, strict=True):
        of_encoder = runs[runs["encoder"] == encoder]
        for kind, name in names.items():
            of_kind = of_encoder[of_encoder["kind"] == kind]
            _seeds(axis, of_kind, x, "test_accuracy", colors[name], name)
        axis.set(xlabel=xlabel, xscale="log")
        axis.set_title(ENCODER_NAMES[encoder], fontsize=9)
        _tick_each(axis, sorted(of_encoder[x].unique()))
    axes[0, 0].set_ylabel("test accuracy, %")
    axes[0, 0].legend(fontsize=8)
    return figure


def not_run() -> Figure:
    """In the place of a figure that there are no runs for."""
    figure, axes = axes_grid(1, 1, 5.6, 1.0)
    axes[0, 0].axis("off")
    axes[0, 0].text(0.5, 0.5, "not run", ha="center", color="0.4")
    return figure
