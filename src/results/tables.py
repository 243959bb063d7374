"""Run records, one JSON a run, and the tables made from them with the study's numbers beside ours.

A run that does not exist is shown as missing; nothing is filled in.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from src.results.study import (
    DATA_NAMES,
    ENCODER_NAMES,
    METRICS,
    MISSING,
    NOT_IN_STUDY,
    SCRATCH,
    STUDY,
)


def runs_table(records: list[dict[str, Any]]) -> pd.DataFrame:
    """One row a fine-tuning run: what it was, and what it reached (accuracies in percent)."""
    rows = [_row(record) for record in records if record["kind"] == "classifier"]
    columns = [
        "encoder",
        "configuration",
        "pretrained_on",
        "epochs",
        "seed",
        *METRICS,
        "test_accuracy",
        "auroc_pixel_mahalanobis",
        "hours",
        "hardware",
        "date",
    ]
    rows.sort(key=lambda row: (_place(row["encoder"], row["configuration"]), row["seed"]))
    return pd.DataFrame(rows, columns=columns)


def _place(encoder: str, configuration: str) -> tuple[int, int]:
    return list(ENCODER_NAMES.values()).index(encoder), sort_key(configuration)


def sort_key(configuration: str) -> int:
    """Order of configurations: from scratch, other weights, then by epochs of pretraining."""
    last = configuration.split()[-1]
    return int(last) if last.isdigit() else -1 if configuration == SCRATCH else 0


def _row(record: dict[str, Any]) -> dict[str, Any]:
    origin, hours, phases = (
        record["pretraining"],
        f"{record['seconds'] / 3600:.2f}",
        record["config"]["phases"],
    )
    configuration, source = (SCRATCH, "") if origin is None else ("ImageNet", "ImageNet")
    if isinstance(origin, dict):
        configuration, source = (
            f"pretrained {origin['config']['epochs']}",
            DATA_NAMES[origin["data"]["kind"]],
        )
        hours = f"{origin['seconds'] / 3600:.2f} + {hours}"
    return {
        "encoder": ENCODER_NAMES[record["config"]["encoder"]],
        "configuration": configuration,
        "pretrained_on": source,
        "epochs": "+".join(map(str, phases if any(phases[:2]) else phases[2:])),
        "seed": record["config"]["seed"],
        "val_accuracy": 100 * record["metrics"]["val_accuracy"],
        "test_accuracy": 100 * record["metrics"]["test_accuracy"],
        **{
            f"auroc_{score}": values["auroc"][0]
            for score, values in record["ood"]["scores"].items()
        },
        "hours": hours,
        "hardware": record["versions"]["hardware"],
        "date": record["versions"]["date"],
    }


def _told(values: pd.Series, digits: int, absent: str, sign: str = "") -> str:
    """Mean, and with several seeds their standard deviation and number; `absent` without any."""
    values = values.dropna()
    if values.empty:
        return absent
    spread = f" ± {values.std():.{digits}f} (n = {len(values)})" if len(values) > 1 else ""
    return f"{values.mean():{sign}.{digits}f}{spread}"


def _digits(metric: str) -> int:
    return 2 if metric == "val_accuracy" else 3


def beside_study(runs: pd.DataFrame) -> pd.DataFrame:
    """Every configuration of the study and of ours, one row each, as text; what was not run is
    `missing`.
    """
    keys = dict.fromkeys([*STUDY.index, *zip(runs["encoder"], runs["configuration"], strict=True)])
    rows = {}
    for encoder, configuration in sorted(keys, key=lambda key: _place(*key)):
        ours = runs[(runs["encoder"] == encoder) & (runs["configuration"] == configuration)]
        theirs = STUDY.loc[STUDY.index == (encoder, configuration)]
        row = {
            (title, who): _told(source[metric], _digits(metric), absent)
            for metric, title in METRICS.items()
            for who, source, absent in (("study", theirs, NOT_IN_STUDY), ("ours", ours, MISSING))
        }
        for column, title in (
            ("hours", "hours"),
            ("epochs", "fine-tuned epochs"),
            ("pretrained_on", "pretrained on"),
        ):
            row[title, "ours"] = ", ".join(dict.fromkeys(ours[column])) if len(ours) else MISSING
        rows[encoder, configuration] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["encoder", "configuration"])


def both_readings(runs: pd.DataFrame) -> pd.DataFrame:
    """MSP as the study prints it (the confidence) and turned round, beside MI: the study's rows,
    then ours.

    Reversing a score mirrors its AUROC about 0.5, so nothing of the study is needed but its printed
    table.
    """
    theirs = STUDY.reset_index().assign(source="study")
    ours = runs.assign(source="ours", msp_as_printed=1 - runs["auroc_one_minus_msp"])
    shown = [
        "source",
        "encoder",
        "configuration",
        "auroc_mutual_information",
        "msp_as_printed",
        "auroc_one_minus_msp",
    ]
    table = pd.concat([frame[shown] for frame in (theirs, ours) if len(frame)], ignore_index=True)
    for reading in ("msp_as_printed", "auroc_one_minus_msp"):
        wins = table[reading] > table["auroc_mutual_information"]
        table[f"{reading}_wins"] = wins.map({True: "MSP", False: "MI"})
    return table


def differences(runs: pd.DataFrame, base: str, other: str) -> pd.DataFrame:
    """`other` − `base` as text, for every encoder of which the study or we have both; none is an
    empty table.

    Ours are paired by seed and by fine-tuning length, so that a short run is not compared with a
    long one; phases add up to the length from scratch.
    """
    rows = {}
    for encoder in ENCODER_NAMES.values():
        ours = [_paired(runs[runs["encoder"] == encoder], name) for name in (base, other)]
        theirs = [
            STUDY[STUDY.index == (encoder, name)].reset_index(drop=True) for name in (base, other)
        ]
        row = {
            (title, who): _told(second[metric] - first[metric], _digits(metric), absent, "+")
            for metric, title in METRICS.items()
            for who, (first, second), absent in (
                ("study", theirs, NOT_IN_STUDY),
                ("ours", ours, MISSING),
            )
        }
        if not {*row.values()} <= {NOT_IN_STUDY, MISSING}:  # a pair that neither has says nothing
            rows[encoder, f"{other} − {base}"] = row
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.rename_axis(["encoder", "difference"]) if rows else table


def _paired(runs: pd.DataFrame, configuration: str) -> pd.DataFrame:
    mine = runs[runs["configuration"] == configuration]
    length = mine["epochs"].map(lambda phases: sum(map(int, phases.split("+"))))
    return mine.assign(length=length).groupby(["seed", "length"])[list(METRICS)].mean()


def _pretrainings(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record for record in records if record["kind"] == "simclr"]


def separation_table(records: list[dict[str, Any]]) -> pd.DataFrame:
    """Class separation before and after every pretraining run, on its frozen features."""
    rows = {
        (
            ENCODER_NAMES[record["config"]["encoder"]],
            record["config"]["epochs"],
            DATA_NAMES[record["data"]["kind"]],
            record["config"]["seed"],
            panel,
        ): values
        for record in _pretrainings(records)
        for panel, values in record["separation"].items()
    }
    names = ["encoder", "epochs", "pretrained on", "seed", "features"]
    index = (
        pd.MultiIndex.from_tuples(rows, names=names)
        if rows
        else pd.MultiIndex.from_arrays([[]] * 5, names=names)
    )
    return pd.DataFrame(list(rows.values()), index=index)


def longest_projection(
    records: list[dict[str, Any]], encoder: str, figures: Path
) -> tuple[pd.DataFrame, dict[str, dict[str, float]]] | None:
    """UMAP coordinates and class separation of the longest pretraining of an encoder; None if it
    was not run.
    """
    mine = [record for record in _pretrainings(records) if record["config"]["encoder"] == encoder]
    if not mine:
        return None
    longest = max(mine, key=lambda record: (record["config"]["epochs"], record["versions"]["date"]))
    return pd.read_csv(figures / longest["umap"]), longest["separation"]
