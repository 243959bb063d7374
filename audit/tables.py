"""Records of the audit as one table, and paired differences over seeds with t-intervals."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from audit.plan import HISTOGRAMS
from audit.records import Record, read_records
from src.results import MISSING

ACCURACIES = ("test_accuracy", "linear", "knn")  # shares, shown in percentage points
# that every table has, whatever was run
COLUMNS = (
    *("encoder", "letter", "arm", "seed", "seconds"),
    *("loss", "floor", "feature_length", "embedding_length", "own_temperature"),
    *ACCURACIES,
    "val_accuracy",
    *("auroc_mutual_information", "auroc_one_minus_msp", "auroc_pixel_mahalanobis"),
    *("mi_minus_msp", "mi_minus_pixels"),
)


@dataclass(frozen=True)
class Difference:
    """arm − control over n seeds: mean and 95 % t-interval (NaN with one seed)."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def side(self) -> int:
        """1 or −1 where the interval lies above or below 0, 0 where that cannot be told."""
        return int(self.low > 0) - int(self.high < 0)


def t_interval(differences: np.ndarray) -> Difference:
    """Mean of (n,) differences and its 95 % interval by Student's t with n − 1 degrees of
    freedom.
    """
    differences = np.asarray(differences, float)
    n = len(differences)
    mean, low, high = differences.mean() if n else np.nan, np.nan, np.nan
    if n > 1:
        # identical differences are an interval of no width: scipy warns of lost precision
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
            low, high = stats.ttest_1samp(differences, 0).confidence_interval()
    return Difference(mean, low, high, n)


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
    return pd.concat([table, *_best_rates(table), *_gaps(table)], ignore_index=True), records


def _row(record: Record) -> dict[str, Any]:
    result = record["result"]
    row = {key: record[key] for key in ("encoder", "letter", "arm", "seed", "seconds")}
    row |= {key: value for key, value in result.items() if key not in ("ood", "phases")}
    if "ood" in result:
        auroc = {score: metrics["auroc"][0] for score, metrics in result["ood"].items()}
        row |= {f"auroc_{score}": value for score, value in auroc.items()}
        row["mi_minus_msp"] = auroc["mutual_information"] - auroc["one_minus_msp"]
        row["mi_minus_pixels"] = auroc["mutual_information"] - auroc["pixel_mahalanobis"]
    return row


def _best_rates(table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Of each kind of g the run with the rate best on val, as the arm "<kind> best"."""
    sweep = table[table["letter"] == "g"]
    kind = sweep["arm"].str.split().str[0]
    for (_, _, name), runs in sweep.groupby(["encoder", "seed", kind]):
        yield runs.loc[[runs["val_accuracy"].idxmax()]].assign(arm=f"{name} best")


def _gaps(table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Pretrained − from scratch on each split of h, as the arm "<split> gap"."""
    runs, index = table[table["letter"] == "h"], ["encoder", "seed"]
    accuracy = runs.pivot_table("test_accuracy", index, "arm", dropna=False)
    for split in ("random", "geographic"):
        pretrained, scratch = f"{split} progressive", f"{split} scratch"
        if {pretrained, scratch} <= set(accuracy):
            gap = (accuracy[pretrained] - accuracy[scratch]).rename("test_accuracy").dropna()
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
    """What was run, on what and when, from the records; Markdown."""
    if not records:
        return "**Missing: no run of the audit has left a record yet.** `make audit` makes them."
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
    column = column.dropna() * (100 if metric in ACCURACIES else 1)
    if column.empty:
        return MISSING
    spread = f" ± {column.std():.3g}" if len(column) > 1 else ""
    return f"{column.mean():.3g}{spread} ({len(column)})"
