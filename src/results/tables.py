"""Tables of run records, with the study's numbers beside ours.

A run that does not exist is shown as missing; nothing is filled in.
"""

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from src.data.titles import title_of
from src.encoders.foreign import short_name
from src.encoders.starting import IMAGENET
from src.results.study import ENCODER_NAMES, METRICS, MISSING, NOT_IN_STUDY, SCRATCH, STUDY

Record = dict[str, Any]
# of one run: what it was, what it reached, and what it took
HOW = ["encoder", "configuration"]
RUN = ["data", "ood", *HOW, "pretrained_on", "epochs", "lr", "seed"]
OF_STUDY = ("EuroSAT", "UC Merced")  # its data, in and out of distribution
REACHED = [*METRICS, "test_accuracy", "auroc_pixel_mahalanobis"]
TOOK = ["hours", "hardware", "date"]
# shown of ours alone, in `beside_study`
OURS_ALONE = {
    "hours": "hours",
    "epochs": "fine-tuned epochs",
    "lr": "at rate",
    "pretrained_on": "pretrained on",
}


# --- one row a run ---


def runs_table(records: list[Record]) -> pd.DataFrame:
    """One row a fine-tuning run: what it was, and what it reached (accuracies in percent)."""
    rows = [_row(record) for record in records if record["kind"] == "classifier"]
    rows.sort(key=lambda row: (_order(row["encoder"], row["configuration"]), row["seed"]))
    return pd.DataFrame(rows, columns=RUN + REACHED + TOOK)


def _row(record: Record) -> dict[str, Any]:
    config, metrics, phases = record["config"], record["metrics"], record["config"]["phases"]
    configuration, source, hours = _start(record)
    asked = {"data": {}, "scores": {}} | record.get("ood", {})
    return {
        "data": title_of(record["data"]),
        "ood": title_of(asked["data"]) if asked["scores"] else "",
        "encoder": ENCODER_NAMES[config["encoder"]],
        "configuration": configuration,
        "pretrained_on": source,
        "epochs": "+".join(map(str, phases if any(phases[:2]) else phases[2:])),
        "lr": f"{config['lr']:g}",
        "seed": config["seed"],
        "val_accuracy": 100 * metrics["val_accuracy"],
        "test_accuracy": 100 * metrics["test_accuracy"],
        **{f"auroc_{score}": values["auroc"][0] for score, values in asked["scores"].items()},
        "hours": hours,
        "hardware": record["versions"]["hardware"],
        "date": record["versions"]["date"],
    }


def _start(record: Record) -> tuple[str, str, str]:
    """Configuration and data of what the run started from, and the hours of both together."""
    origin, hours = record["pretraining"], f"{record['seconds'] / 3600:.2f}"
    if origin is None:
        return SCRATCH, "", hours
    if not isinstance(origin, dict):
        if origin == IMAGENET:
            return "ImageNet", "ImageNet", hours
        return short_name(origin), "elsewhere", hours
    configuration = f"pretrained {origin['config']['epochs']}"
    hours = f"{origin['seconds'] / 3600:.2f} + {hours}"
    return configuration, pretrained_on(origin["data"]), hours


def pretrained_on(data: dict[str, Any]) -> str:
    """What a record says of the data of a pretraining, in a word or two."""
    return title_of(data) + (" train" if "subset" in data else "")


def _order(encoder: str, configuration: str) -> tuple[int, int]:
    return list(ENCODER_NAMES.values()).index(encoder), sort_key(configuration)


def sort_key(configuration: str) -> int:
    """Order of configurations: from scratch, other weights, then by epochs of pretraining."""
    if configuration == SCRATCH:
        return -1
    last = configuration.split()[-1]
    return int(last) if last.isdigit() else 0


# --- beside the study ---


def beside_study(runs: pd.DataFrame) -> pd.DataFrame:
    """Every configuration of the study and of ours on its data, as text; of ours one row for each
    length and rate of fine-tuning.

    What we did not run is `missing`.
    """
    runs = _of_study_data(runs)
    groups = [*HOW, "epochs", "lr"]  # runs of other lengths or rates are no repetitions
    ours = {key: rows for key, rows in runs.groupby(groups, sort=False)}
    missing = [(*key, "", "") for key in STUDY.index if key not in {key[:2] for key in ours}]
    rows = {}
    for key in sorted([*ours, *missing], key=lambda key: _order(*key[:2])):
        mine = ours.get(key, runs.iloc[:0])
        row = _side_by_side(STUDY[STUDY.index == key[:2]], mine)
        for column, title in OURS_ALONE.items():
            row[title, "ours"] = ", ".join(dict.fromkeys(mine[column])) if len(mine) else MISSING
        rows[key] = row
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.set_axis(pd.MultiIndex.from_tuples([key[:2] for key in rows], names=HOW))


def both_readings(runs: pd.DataFrame) -> pd.DataFrame:
    """MSP as the study prints it (the confidence) and turned round, beside mutual information.

    The study's rows come first, then ours. Reversing a score mirrors its AUROC about 0.5, so
    nothing of the study is needed but its printed table.
    """
    readings = ["msp_as_printed", "auroc_one_minus_msp"]
    study, runs = STUDY.reset_index().assign(source="study", epochs=""), _of_study_data(runs)
    ours = runs.assign(source="ours", msp_as_printed=1 - runs["auroc_one_minus_msp"])
    shown = ["source", *HOW, "epochs", "auroc_mutual_information", *readings]
    table = pd.concat([frame[shown] for frame in (study, ours) if len(frame)], ignore_index=True)
    for reading in readings:
        wins = table[reading] > table["auroc_mutual_information"]
        table[f"{reading}_wins"] = wins.map({True: "MSP", False: "MI"})
    return table


def differences(runs: pd.DataFrame, base: str, other: str) -> pd.DataFrame:
    """`other` − `base` as text, for every encoder of which the study or we have both.

    Ours are paired by seed and by fine-tuning length, so that a short run is not compared with a
    long one; phases add up to the length from scratch. Other rates are a row of their own. Without
    any pair the table is empty.
    """
    index, rows, runs = [], [], _of_study_data(runs)
    for encoder in ENCODER_NAMES.values():
        ours = runs[runs["encoder"] == encoder]
        study = _of_study(encoder, other) - _of_study(encoder, base)
        for rates, measured in _paired(ours, base, other):
            row = _side_by_side(study, measured, sign="+")
            if {*row.values()} <= {NOT_IN_STUDY, MISSING}:  # what neither has says nothing
                continue
            index.append((encoder, f"{other} − {base}"))
            rows.append({**row, ("rates", "ours"): rates})
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame.from_dict(dict(enumerate(rows)), orient="index")
    return table.set_axis(pd.MultiIndex.from_tuples(index, names=["encoder", "difference"]))


def _of_study_data(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[(runs["data"] == OF_STUDY[0]) & (runs["ood"] == OF_STUDY[1])]


def _paired(runs: pd.DataFrame, base: str, other: str) -> list[tuple[str, pd.DataFrame]]:
    """The two rates, and `other` − `base` of each seed and length that both have."""
    length = runs["epochs"].map(lambda phases: sum(map(int, phases.split("+"))))
    each = ["configuration", "lr", "seed", "length"]
    means = runs.assign(length=length).groupby(each)[list(METRICS)].mean()
    arms = [means[means.index.get_level_values(0) == name].groupby("lr") for name in (other, base)]
    found = []
    for (rate, ours), (base_rate, theirs) in product(*arms):
        measured = ours.droplevel([0, 1]).sub(theirs.droplevel([0, 1])).dropna(how="all")
        if len(measured):
            found.append((f"{rate} − {base_rate}", measured))
    return found or [(MISSING, means.iloc[:0])]


def _of_study(encoder: str, configuration: str) -> pd.DataFrame:
    rows = STUDY[STUDY.index == (encoder, configuration)]
    return rows[list(METRICS)].reset_index(drop=True)


def _side_by_side(
    study: pd.DataFrame, ours: pd.DataFrame, sign: str = ""
) -> dict[tuple[str, str], str]:
    """(title of a metric, whose) → its values as text."""
    row = {}
    for metric, title in METRICS.items():
        digits = 2 if metric == "val_accuracy" else 3
        row[title, "study"] = _as_text(study[metric], digits, sign) or NOT_IN_STUDY
        row[title, "ours"] = _as_text(ours[metric], digits, sign) or MISSING
    return row


def _as_text(values: pd.Series, digits: int, sign: str) -> str:
    """Mean, and with several seeds their standard deviation and number; empty without any."""
    values = values.dropna()
    if values.empty:
        return ""
    spread = f" ± {values.std():.{digits}f} (n = {len(values)})" if len(values) > 1 else ""
    return f"{values.mean():{sign}.{digits}f}{spread}"


# --- pretrainings ---


def separation_table(records: list[Record]) -> pd.DataFrame:
    """Class separation before and after every pretraining run, on its frozen features."""
    names = ["encoder", "epochs", "pretrained on", "seed", "features"]
    index, rows = [], []
    for record in _pretrainings(records):
        config, source = record["config"], pretrained_on(record["data"])
        run = ENCODER_NAMES[config["encoder"]], config["epochs"], source, config["seed"]
        for features, values in record["separation"].items():
            index.append((*run, features))
            rows.append(values)
    if not rows:
        return pd.DataFrame(index=pd.MultiIndex.from_arrays([[]] * len(names), names=names))
    return pd.DataFrame(rows, index=pd.MultiIndex.from_tuples(index, names=names))


def longest_projection(
    records: list[Record], encoder: str, figures: Path
) -> tuple[pd.DataFrame, dict[str, dict[str, float]]] | None:
    """UMAP coordinates and class separation of the longest pretraining of an encoder.

    None if it was not run.
    """
    mine = [record for record in _pretrainings(records) if record["config"]["encoder"] == encoder]
    if not mine:
        return None
    longest = max(mine, key=lambda record: (record["config"]["epochs"], record["versions"]["date"]))
    return pd.read_csv(figures / longest["umap"]), longest["separation"]


def _pretrainings(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if record["kind"] == "simclr"]
