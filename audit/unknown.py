"""What networks make of images that are of no class they know (stage 6): by set and by class.

Networks and classes are both drawn from many, so a mean has an interval over either (Student's t).
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from audit.claims import MI_GAIN
from audit.figures import not_run
from audit.tables import as_text, t_interval
from src.figures.canvas import axes_grid, legend_below
from src.figures.detection import SCORE_NAMES
from src.figures.palette import INK, PALE, line_colors
from src.results import MISSING

# name → "letter/arm"; of the Custom CNN where it names no other
ARMS = {"from scratch": "6/scratch best of 2", "pretrained": "6/pretrained best of 2"}
RESNET_ARMS = {
    "ResNet-50, from scratch": "6/scratch best of 4",
    "ResNet-50, pretrained": "6/pretrained best of 4",
}
NEAR_ARMS = {
    "from scratch, two classes left out": "6/near scratch",
    "pretrained, two classes left out": "6/near pretrained",
}
SETS = {"ucmerced": "UC Merced", "resisc45": "RESISC45", "satlab": "SatLab", "near": "EuroSAT"}
MI, MSP, PIXELS = "mutual_information", "one_minus_msp", "pixel_mahalanobis"
# of RESISC45: what EuroSAT has a class of as well, seen by another sensor
KNOWN = ("farmland", "forest", "industrial_area", "lake", "residential", "river")


def by_class(table: pd.DataFrame, arm: str) -> pd.DataFrame:
    """AUROC of every score (columns), of each network of an arm ("letter/arm") on each class: rows
    (seed, set, class). Those of "near <kind>" are of the pairs that were run. Empty where none was.

    An arm of stage 6 is of one encoder.
    """
    letter, name = arm.split("/")
    names = table["arm"].str.replace(r"^near \d+", "near", regex=True)
    chosen = (table["letter"] == letter) & (names == name)
    scored = table[chosen].set_index("seed")["ood_classes"].dropna()
    rows = {
        (seed, *label.split("/")): areas
        for seed, classes in scored.items()
        for label, areas in classes.items()
    }
    index = pd.MultiIndex.from_tuples(rows, names=["seed", "set", "class"]) if rows else None
    return pd.DataFrame(list(rows.values()), index)


def by_set(areas: pd.DataFrame) -> pd.DataFrame:
    """Mean AUROC over the classes of each set, with its 95 % interval over networks, as text: one
    row a score, one column a set.

    areas: of `by_class`.
    """
    table = pd.DataFrame(index=pd.Index(map(SCORE_NAMES.get, areas), name="score"))
    for name, of_set in areas.groupby("set", sort=False) if len(areas) else ():
        means = _over_classes(of_set)
        table[f"{SETS[name]}, n = {len(means)}"] = [_as_text(means[score]) for score in means]
    return table


def mi_against_msp(table: pd.DataFrame) -> pd.DataFrame:
    """AUROC of mutual information − that of 1 − MSP, as text, a row an arm and set: the mean with
    its interval over networks (means over classes) and over classes (means over networks), and in
    how many classes the mean over networks is above 0.
    """
    rows = {}
    for title, arm in (ARMS | RESNET_ARMS | NEAR_ARMS).items():
        areas = by_class(table, arm)
        if areas.empty:
            rows[title, ""] = [MISSING] * 3
            continue
        for name, gain in (areas[MI] - areas[MSP]).groupby("set", sort=False):
            classes = gain.groupby("class").mean()
            samples = _over_classes(gain), classes
            texts = [as_text(t_interval(sample), MI_GAIN) for sample in samples]
            rows[title, SETS[name]] = [*texts, f"{(classes > 0).sum()} of {len(classes)}"]
    index = pd.MultiIndex.from_tuples(rows, names=["network", "set"])
    columns = ["over networks", "over classes", "above 0 in"]
    return pd.DataFrame(list(rows.values()), index, columns)


def _over_classes(of_set: pd.Series | pd.DataFrame) -> pd.Series | pd.DataFrame:
    """Mean over the classes of a set, of each network. One that was scored on fewer of them than
    another is left out: classes differ more than networks do.
    """
    of_seed = of_set.groupby("seed")
    scored = of_seed.size()
    return of_seed.mean()[scored == scored.max()]


def blind_spots(areas: pd.DataFrame) -> pd.DataFrame:
    """Where a score is the wrong way round: each class and score whose AUROC is below 0.5 in the
    mean over networks, the lowest first, with its interval over networks, as text.

    areas: of `by_class`.
    """
    by_network = _by_network(areas)
    low = by_network[by_network.mean(axis=1) < 0.5]
    rows = [
        (SETS[name], label, SCORE_NAMES[score], _as_text(found))
        for (name, label, score), found in low.loc[low.mean(axis=1).sort_values().index].iterrows()
    ]
    return pd.DataFrame(rows, columns=["set", "class", "score", "AUROC"])


def _by_network(areas: pd.DataFrame) -> pd.DataFrame:
    """The same with a column a network: rows (set, class, score)."""
    if areas.empty:
        return areas
    long = areas.reset_index().melt(["seed", "set", "class"], var_name="score")
    return long.pivot_table("value", ["set", "class", "score"], "seed", sort=False)


def _as_text(areas: pd.Series) -> str:
    """For example "0.926 [0.907, 0.945]"; of one network without an interval."""
    found = t_interval(areas)
    low, high = np.clip([found.low, found.high], 0, 1)  # Student's t knows no bounds
    interval = f" [{low:.3f}, {high:.3f}]" if found.n > 1 else ""
    return f"{found.mean:.3f}{interval}"


def on_classes(areas: dict[str, pd.DataFrame], title: str = "") -> Figure:
    """AUROC of mutual information, of 1 − MSP and of pixel statistics on every class: one panel an
    arm, small dots single networks. A star marks what EuroSAT has a class of too.

    areas: name of an arm → `by_class`.
    """
    shown = {name: found for name, found in areas.items() if len(found)}
    if not shown:
        return not_run()
    networks = {name: _by_network(found) for name, found in shown.items()}
    classes = pd.concat(found.xs(MI, level="score") for found in networks.values()).index.unique()
    rows = np.arange(len(classes))[::-1]
    shape = (1, len(shown), 7.0, 1.2 + 0.24 * len(rows))
    figure, axes = axes_grid(*shape, title, sharex=True, sharey=True)
    marks = {MI: ("D", line_colors(1)[0]), MSP: ("o", INK), PIXELS: ("x", PALE)}
    for axis, (name, found) in zip(axes[0], networks.items(), strict=True):
        for score, (marker, color) in marks.items():
            of_score = found.xs(score, level="score").reindex(classes)
            spread = np.broadcast_to(rows[:, None], of_score.shape)
            axis.scatter(of_score, spread, s=8, color=color, alpha=0.5, lw=0)
            fill = {"color": color} if marker != "o" else {"facecolors": "w", "edgecolors": color}
            look = {"marker": marker, "s": 36, "label": SCORE_NAMES[score], **fill}
            axis.scatter(of_score.mean(axis=1), rows, **look)
        axis.axvline(0.5, color="0.4", ls=":", lw=1)
        axis.set_title(f"{name}, n = {found.shape[1]}", fontsize=9)
        axis.set(xlabel="AUROC", ylim=(-0.7, len(rows) - 0.3))
    names = [f"{SETS[s]}: {label}{' *' * (label in KNOWN)}" for s, label in classes]
    axes[0, 0].set_yticks(rows, names, fontsize=8)
    legend_below(figure, *axes[0, 0].get_legend_handles_labels())
    return figure
