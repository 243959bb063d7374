"""Records of the audit as one table, and paired differences over seeds with t-intervals."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from audit.plan import SIZES
from src.results.study import MISSING

POINTS = ("test_accuracy", "linear", "knn")  # shares, told in percentage points
COLUMNS = (
    "encoder",
    "letter",
    "arm",
    "seed",
    "seconds",
    "loss",
    "floor",
    "feature_length",
    "embedding_length",
    "own_temperature",
    *POINTS,
    "val_accuracy",
    "auroc_mutual_information",
    "auroc_one_minus_msp",
    "auroc_pixel_mahalanobis",
    "mi_minus_msp",
    "mi_minus_pixels",
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


def t_interval(values: np.ndarray) -> Difference:
    """Mean of (n,) differences and its 95 % interval by Student's t with n − 1 degrees of
    freedom.
    """
    values = np.asarray(values, float)
    n = len(values)
    if n < 2:
        return Difference(values.mean() if n else np.nan, np.nan, np.nan, n)
    mean, half = values.mean(), stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return Difference(mean, mean - half, mean + half, n)


def read(folder: str | Path, size: str | None = None) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """One row a run of the audit, and the records themselves; of the largest size there are records
    of, unless told.

    Raises:
        ValueError: a file is not such a record.
    """
    records = []
    for file in sorted(Path(folder).glob("*.json")):
        try:
            record = json.loads(file.read_text())
            (
                record["size"],
                record["letter"],
                record["arm"],
                record["seed"],
                record["result"],
                record["settings"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file} is not a record of the audit ({error!r}): move it away"
            ) from error
        records.append(record)
    size = size or next((s for s in reversed(SIZES) if any(r["size"] == s for r in records)), None)
    records = [record for record in records if record["size"] == size]
    table = pd.DataFrame([_row(record) for record in records if record["arm"] != "histograms"])
    missing = [column for column in COLUMNS if column not in table]
    table = table.reindex(columns=[*table.columns, *missing])
    return _derived(table) if len(table) else table.astype({"letter": str, "arm": str}), records


def about(records: list[dict[str, Any]]) -> str:
    """What was run, on what and when, from the records; Markdown."""
    if not records:
        return "**Missing: no run of the audit has left a record yet.** `make audit` makes them."
    size, seeds = records[0]["settings"], sorted({record["seed"] for record in records})
    where = (
        ", ".join(sorted({record["versions"][key] for record in records}))
        for key in ("hardware", "date")
    )
    images = (
        "all training images"
        if size["per_class"] is None
        else f"{size['per_class']} training images a class"
    )
    return (
        f"**{len(records)} runs, size `{records[0]['size']}`**, seeds {', '.join(map(str, seeds))}:"
        f" {images}, views of {size['image_size']} pixels, {size['long']} epochs of pretraining"
        f" ({size['short']} in b to e), {size['epochs']} of fine-tuning; data"
        f" `{size['data']['kind']}`, places by {size['places']}; {', '.join(where)},"
        f" {sum(record['seconds'] for record in records) / 60:.0f} minutes in all."
    )


def _row(record: dict[str, Any]) -> dict[str, Any]:
    result = record["result"]
    row = {key: record[key] for key in ("encoder", "letter", "arm", "seed", "seconds")}
    row |= {key: value for key, value in result.items() if key not in ("ood", "phases")}
    if "ood" in result:
        area = {score: metrics["auroc"][0] for score, metrics in result["ood"].items()}
        row |= {f"auroc_{score}": value for score, value in area.items()}
        row["mi_minus_msp"] = area["mutual_information"] - area["one_minus_msp"]
        row["mi_minus_pixels"] = area["mutual_information"] - area["pixel_mahalanobis"]
    return row


def _derived(table: pd.DataFrame) -> pd.DataFrame:
    """With rows made of several runs: of each kind the rate best on val (g), of each split the gap
    of the arms (h).
    """
    sweep = table[table["letter"] == "g"].assign(kind=lambda rows: rows["arm"].str.split().str[0])
    rows = [table]
    for (_, _, kind), runs in sweep.groupby(["encoder", "seed", "kind"]):
        rows.append(
            runs.loc[[runs["val_accuracy"].idxmax()]]
            .assign(arm=f"{kind} best")
            .drop(columns="kind")
        )
    accuracy = table[table["letter"] == "h"].pivot_table(
        "test_accuracy", ["encoder", "seed"], "arm", dropna=False
    )
    for split in ("random", "geographic"):
        if {f"{split} progressive", f"{split} scratch"} <= set(accuracy):
            gap = (
                (accuracy[f"{split} progressive"] - accuracy[f"{split} scratch"])
                .rename("test_accuracy")
                .dropna()
            )
            rows.append(gap.reset_index().assign(letter="h", arm=f"{split} gap"))
    return pd.concat(rows, ignore_index=True)


def values(table: pd.DataFrame, metric: str, where: str, encoder: str = "custom_cnn") -> pd.Series:
    """Of one arm, "letter/arm", by seed; empty where it was not run, or did not get so far."""
    letter, arm = where.split("/")
    mine = table[
        (table["letter"] == letter) & (table["arm"] == arm) & (table["encoder"] == encoder)
    ]
    return (
        mine.set_index("seed")[metric].dropna().astype(float)
        if metric in mine
        else pd.Series(dtype=float)
    )


def told(difference: Difference, metric: str) -> str:
    """For example "−3.2 [−5.0, −1.4] points, n = 3"."""
    if difference.n == 0:
        return MISSING
    factor, digits, unit = (100, 1, " points") if metric in POINTS else (1, 3, "")
    numbers = (factor * value for value in (difference.mean, difference.low, difference.high))
    mean, low, high = (f"{number:+.{digits}f}".replace("-", "−") for number in numbers)
    return f"{mean}{f' [{low}, {high}]' if difference.n > 1 else ''}{unit}, n = {difference.n}"


def means(table: pd.DataFrame, letter: str, metrics: dict[str, str]) -> pd.DataFrame:
    """Mean ± standard deviation (number of seeds) of each arm, as text. metrics: column → title."""
    mine = table[table["letter"] == letter]
    rows = {}
    for (encoder, arm), runs in mine.groupby(["encoder", "arm"], sort=False):
        rows[encoder, arm] = {title: _mean(runs, metric) for metric, title in metrics.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def _mean(runs: pd.DataFrame, metric: str) -> str:
    column = (
        runs[metric].dropna() * (100 if metric in POINTS else 1)
        if metric in runs
        else pd.Series(dtype=float)
    )
    if column.empty:
        return MISSING
    spread = f" ± {column.std():.3g}" if len(column) > 1 else ""
    return f"{column.mean():.3g}{spread} ({len(column)})"
