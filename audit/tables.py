"""Records of the audit as one table, and paired differences over seeds with t-intervals."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from audit import stages
from audit.plan import HISTOGRAMS, SPLITS
from audit.records import Record, read_records
from audit.stages import FEW_DRAWS, PAIRS
from src.results import MISSING

# shares, shown in percentage points
ACCURACIES = ("test_accuracy", "balanced_accuracy", "linear", "knn")
# that every table has, whatever was run
COLUMNS = (
    *("encoder", "letter", "arm", "seed", "seconds"),
    *("loss", "floor", "feature_length", "embedding_length", "own_temperature"),
    *ACCURACIES,
    *("val_accuracy", "ood_classes"),
    *("auroc_mutual_information", "auroc_one_minus_msp", "auroc_pixel_mahalanobis"),
    *("mi_minus_msp", "mi_minus_pixels"),
)


@dataclass(frozen=True)
class Difference:
    """arm − control over n seeds: mean, 95 % t-interval and p (NaN with one seed)."""

    mean: float
    low: float
    high: float
    n: int
    p: float = np.nan  # of a mean of 0, two-sided

    @property
    def side(self) -> int:
        """1 or −1 where the interval lies above or below 0, 0 where that cannot be told."""
        return int(self.low > 0) - int(self.high < 0)

    @property
    def half_width(self) -> float:
        """Of the interval."""
        return (self.high - self.low) / 2


def t_interval(differences: np.ndarray) -> Difference:
    """Mean of (n,) differences and its 95 % interval by Student's t with n − 1 degrees of
    freedom.
    """
    differences = np.asarray(differences, float)
    n = len(differences)
    mean, low, high, p = differences.mean() if n else np.nan, np.nan, np.nan, np.nan
    if n > 1:
        # identical differences are an interval of no width: scipy warns of lost precision
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
            test = stats.ttest_1samp(differences, 0)
            low, high = test.confidence_interval()
            p = test.pvalue
    return Difference(mean, low, high, n, p)


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """p of each of several comparisons, adjusted for their number (Holm 1979).

    One that was not made (NaN) stays so, and counts as one of them all the same.
    """
    adjusted, largest = {}, 0.0
    ranked = sorted(p_values, key=lambda name: (np.isnan(p_values[name]), p_values[name]))
    for rank, name in enumerate(ranked):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = np.nan if np.isnan(p_values[name]) else largest
    return adjusted


# --- one row a run ---


def read(folder: str | Path, size: str | None = None) -> tuple[pd.DataFrame, list[Record]]:
    """One row a run of the audit, and the records themselves.

    size: None: the largest there are records of.

    Raises:
        ValueError: a file is not such a record.
    """
    records = read_records(folder, size)
    table = pd.DataFrame([_row(record) for record in records if record["arm"] != HISTOGRAMS])
    missing = [column for column in COLUMNS if column not in table]
    table = table.reindex(columns=[*table.columns, *missing])
    if table.empty:
        return table.astype({"letter": str, "arm": str}), records
    derived = (*_best_rates(table), *_gaps(table), *_over_draws(table))
    return pd.concat([table, *derived], ignore_index=True), records


def _row(record: Record) -> dict[str, Any]:
    result = record["result"]
    row = {key: record[key] for key in ("encoder", "letter", "arm", "seed", "seconds")}
    plain = {key: value for key, value in result.items() if not isinstance(value, dict | list)}
    row |= {key: value for key, value in plain.items() if key != "correct"}
    if "ood" in result:
        auroc = {score: metrics["auroc"][0] for score, metrics in result["ood"].items()}
        row |= {f"auroc_{score}": value for score, value in auroc.items()}
        row["mi_minus_msp"] = auroc["mutual_information"] - auroc["one_minus_msp"]
        row["mi_minus_pixels"] = auroc["mutual_information"] - auroc["pixel_mahalanobis"]
    for labels, values in result.get("budgets", {}).items():
        row[f"linear_{labels}"] = np.mean(values)
    classes = result.get("ood_classes")
    return row | {"ood_classes": classes} | _over_sets(classes or {})


def _over_sets(classes: dict[str, dict[str, float]]) -> dict[str, float]:
    """Mean AUROC over the classes of each set, "auroc_<set>_<score>", and over the far sets."""
    if not classes:
        return {}
    table = pd.DataFrame(classes)  # scores × "set/class"
    sets = table.T.groupby(table.columns.str.split("/").str[0]).mean()
    row = {f"auroc_{name}_{score}": sets.loc[name, score] for name in sets.index for score in sets}
    row |= {f"auroc_{score}": sets[score].mean() for score in sets}
    row["mi_minus_msp"] = row["auroc_mutual_information"] - row["auroc_one_minus_msp"]
    row["mi_minus_pixels"] = row["auroc_mutual_information"] - row["auroc_pixel_mahalanobis"]
    return row


def _best_rates(table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Of each kind of g, 1, 2 and 4 the run with the rate best on val, as the arm "<kind> best";
    and what stage 6 measured of that network. Of a stage only when all its rates were run.
    """
    sweep = table[table["letter"].isin(["g", "1", "2", "4"])]
    kind = sweep["arm"].str.split().str[0]
    for (_, seed, letter, name), runs in sweep.groupby(["encoder", "seed", "letter", kind]):
        planned = stages.arms(letter) if letter in stages.TITLES else ()
        complete = len(runs) >= sum(arm.split()[0] == name for arm in planned)
        if not complete or runs["val_accuracy"].isna().all():
            continue
        best = runs.loc[[runs["val_accuracy"].idxmax()]]
        yield best.assign(arm=f"{name} best")
        scored = f"{best['arm'].item()} of {letter}"
        same = (table["letter"] == "6") & (table["seed"] == seed) & (table["arm"] == scored)
        yield table[same].assign(arm=f"{name} best of {letter}")


def _over_draws(table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The mean of runs that are repeated within a seed, when all were run: of stage 3 over its
    draws of labels, as "<kind> <labels>", of stage 6 over its pairs of classes, as "near <kind>".
    """
    repeated = {"3": (r" draw \d+$", "", FEW_DRAWS), "6": (r"^near \d+", "near", len(PAIRS))}
    for letter, (pattern, name, count) in repeated.items():
        drawn = table[(table["letter"] == letter) & table["arm"].str.contains(pattern)]
        arms = drawn["arm"].str.replace(pattern, name, regex=True)
        for (encoder, seed, arm), runs in drawn.groupby(["encoder", "seed", arms]):
            if len(runs) == count:
                row = runs.drop(columns=["seed", "seconds"]).mean(numeric_only=True).to_dict()
                row |= {"encoder": encoder, "letter": letter, "arm": arm, "seed": seed}
                yield pd.DataFrame([row])


def _gaps(table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Pretrained − from scratch on each split of h, as the arm "<split> gap"."""
    runs, index = table[table["letter"] == "h"], ["encoder", "seed"]
    for metric in ("test_accuracy", "balanced_accuracy"):
        accuracy = runs.pivot_table(metric, index, "arm", dropna=False)
        for split in SPLITS:
            pretrained, scratch = f"{split} progressive", f"{split} scratch"
            if {pretrained, scratch} <= set(accuracy):
                gap = (accuracy[pretrained] - accuracy[scratch]).rename(metric).dropna()
                yield gap.reset_index().assign(letter="h", arm=f"{split} gap")


def values(table: pd.DataFrame, metric: str, arm: str, encoder: str = "custom_cnn") -> pd.Series:
    """Of one arm, "letter/arm", by seed; empty where it was not run, or did not get so far."""
    if metric not in table:
        return pd.Series(dtype=float)
    letter, name = arm.split("/")
    chosen = (table["letter"] == letter) & (table["arm"] == name) & (table["encoder"] == encoder)
    return table[chosen].set_index("seed")[metric].dropna().astype(float)


# --- as text ---


def summary(records: list[Record]) -> str:
    """What was run, on what and when, from the records, a paragraph a size; Markdown."""
    if not records:
        return "**Missing: no run of the audit has left a record yet.** `make audit` makes them."
    sizes = dict.fromkeys(record["size"] for record in records)
    return "\n\n".join(
        _of_size([record for record in records if record["size"] == size]) for size in sizes
    )


def _of_size(records: list[Record]) -> str:
    size = records[0]["settings"]
    per_class = size["per_class"]
    images = "all training images" if per_class is None else f"{per_class} training images a class"
    seeds = ", ".join(map(str, sorted({record["seed"] for record in records})))
    hardware, dates = (
        ", ".join(sorted({record["versions"][key] for record in records}))
        for key in ("hardware", "date")
    )
    minutes = sum(record["seconds"] for record in records) / 60
    return (
        f"**{len(records)} runs, size `{records[0]['size']}`**, seeds {seeds}:"
        f" {images}, views of {size['image_size']} pixels, {size['long']} epochs of pretraining"
        f" ({size['short']} in b to e), {size['epochs']} of fine-tuning; data"
        f" `{size['data']['kind']}`, places by {size['places']}; {hardware}, {dates},"
        f" {minutes:.0f} minutes in all."
    )


def as_text(difference: Difference, metric: str) -> str:
    """For example "−3.2 [−5.0, −1.4] points, n = 3"."""
    if difference.n == 0:
        return MISSING
    factor, digits, unit = (100, 1, " points") if metric in ACCURACIES else (1, 3, "")
    mean, low, high = (
        f"{factor * value:+.{digits}f}".replace("-", "−")
        for value in (difference.mean, difference.low, difference.high)
    )
    interval = f" [{low}, {high}]" if difference.n > 1 else ""
    return f"{mean}{interval}{unit}, n = {difference.n}"


def means(table: pd.DataFrame, letter: str, metrics: dict[str, str]) -> pd.DataFrame:
    """Mean ± standard deviation (number of seeds) of each arm, as text. metrics: column → title."""
    arms = table[table["letter"] == letter].groupby(["encoder", "arm"], sort=False)
    rows = {
        arm: {title: _mean(runs[metric], metric) for metric, title in metrics.items()}
        for arm, runs in arms
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def _mean(column: pd.Series, metric: str) -> str:
    return mean_as_text(column.dropna() * (100 if metric in ACCURACIES else 1), ".3g")


def mean_as_text(values: pd.Series, form: str) -> str:
    """For example "97.5 ± 0.1 (3)": mean, deviation and number of seeds. form: of a number."""
    if values.empty:
        return MISSING
    spread = f" ± {values.std():{form}}" if len(values) > 1 else ""
    return f"{values.mean():{form}}{spread} ({len(values)})"
