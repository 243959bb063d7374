"""Run records, one JSON a run, and the tables made from them with the study's numbers beside ours.

A run that does not exist is shown as missing; nothing is filled in.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import binomtest

ENCODER_NAMES = {"custom_cnn": "Custom CNN", "resnet50": "ResNet-50", "vit_b_16": "ViT-B/16"}
DATA_NAMES = {
    "bigearthnet-v1-rgb": "BigEarthNet", "bigearthnet-v1-all": "BigEarthNet, 12 bands",
    "bigearthnet-v2-rgb": "reBEN", "bigearthnet-v2-all": "reBEN, 12 bands",
    "eurosat-rgb": "EuroSAT train", "eurosat-all": "EuroSAT train, 12 bands",
}  # fmt: skip
SCRATCH = "from scratch"
METRICS = {
    "val_accuracy": "val accuracy, %", "auroc_mutual_information": "AUROC, mutual information",
    "auroc_one_minus_msp": "AUROC, 1 − MSP",
}  # fmt: skip
MISSING = "missing"  # not run by us
NOT_IN_STUDY = "–"

# The study's README, with its MSP column as it is printed: the confidence itself scored as "out of distribution".
STUDY = pd.DataFrame(
    [
        ("Custom CNN", SCRATCH, 98.13, 0.9255, 0.0994, "4–6"),
        ("Custom CNN", "pretrained 50", 92.86, 0.8145, 0.0701, "8 + 2"),
        ("Custom CNN", "pretrained 300", 93.74, 0.8291, 0.0745, "50 + 2"),
        ("ResNet-50", SCRATCH, 97.78, 0.8954, 0.0812, "8–10"),
        ("ResNet-50", "pretrained 300", 93.22, 0.8367, 0.0689, "70 + 3"),
        ("ViT-B/16", SCRATCH, 50.31, 0.5231, 0.5145, "12–15"),
        ("ViT-B/16", "pretrained 300", 90.98, 0.8725, 0.0823, "100 + 4"),
    ],
    columns=["encoder", "configuration", "val_accuracy", "auroc_mutual_information", "msp_as_printed", "hours"],
).set_index(["encoder", "configuration"])
STUDY["auroc_one_minus_msp"] = 1 - STUDY["msp_as_printed"]  # the same detector read the right way round


def _about(checkpoint: Path) -> dict[str, Any]:
    about = json.loads(checkpoint.with_suffix(".json").read_text())
    # the epochs of a run that was stopped and resumed add up; row 0 of a pretraining has no time
    seconds = sum(row.get("seconds", 0.0) for row in about["history"])
    return {**about, "checkpoint": checkpoint.name, "seconds": seconds}


def write_record(folder: str | Path, checkpoint: Path, pretrained: Path | str | None = None, **measured: Any) -> Path:
    """Write what is known of a finished run as one JSON: small, readable, and kept where the weights are too large.

    Args:
        folder: gets `<encoder>_<checkpoint's name>.json`.
        checkpoint: of the run; the `.json` beside it gives config, data, history, metrics and versions.
        pretrained: the pretraining checkpoint it started from, or the name of other weights; None: from scratch.
        measured: more JSON values, such as `ood` and `separation`.
    """
    record = _about(checkpoint)
    if isinstance(pretrained, Path):
        origin = _about(pretrained)
        pretrained = {key: origin[key] for key in ("checkpoint", "config", "data", "metrics", "versions", "seconds")}
    record |= {"pretraining": pretrained, **measured}
    path = Path(folder) / f"{record['config']['encoder']}_{checkpoint.stem}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def read_records(folder: str | Path) -> list[dict[str, Any]]:
    """All records of a folder, in the order of their names; none is an empty list.

    Raises:
        ValueError: a file is not a record.
    """
    records = []
    for path in sorted(Path(folder).glob("*.json")):
        try:
            record = json.loads(path.read_text())
            record["kind"], record["config"]["encoder"], record["versions"]["hardware"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a run record ({error!r}): delete it, or run its notebook again") from error
        records.append(record)
    return records


def metrics_as_json(table: pd.DataFrame) -> dict[str, dict[str, list[float]]]:
    """The table of `src.ood.evaluate` as score → metric → [value, low, high]."""
    return {score: rows.droplevel(0).T.to_dict("list") for score, rows in table.groupby(level="score", sort=False)}


def wilson(correct: int, total: int) -> list[float]:
    """95 % interval of a share (Wilson 1927), both ends in [0, 1]."""
    interval = binomtest(correct, total).proportion_ci(method="wilson")
    return [interval.low, interval.high]


def runs_table(records: list[dict[str, Any]]) -> pd.DataFrame:
    """One row a fine-tuning run: what it was, and what it reached (accuracies in percent)."""
    rows = [_row(record) for record in records if record["kind"] == "classifier"]
    columns = ["encoder", "configuration", "pretrained_on", "epochs", "seed", *METRICS, "test_accuracy",
               "auroc_pixel_mahalanobis", "hours", "hardware", "date"]  # fmt: skip
    rows.sort(key=lambda row: (_place(row["encoder"], row["configuration"]), row["seed"]))
    return pd.DataFrame(rows, columns=columns)


def _place(encoder: str, configuration: str) -> tuple[int, int]:
    return list(ENCODER_NAMES.values()).index(encoder), sort_key(configuration)


def sort_key(configuration: str) -> int:
    """Order of configurations: from scratch, other weights, then by epochs of pretraining."""
    last = configuration.split()[-1]
    return int(last) if last.isdigit() else -1 if configuration == SCRATCH else 0


def _row(record: dict[str, Any]) -> dict[str, Any]:
    origin, hours, phases = record["pretraining"], f"{record['seconds'] / 3600:.2f}", record["config"]["phases"]
    configuration, source = (SCRATCH, "") if origin is None else ("ImageNet", "ImageNet")
    if isinstance(origin, dict):
        configuration, source = f"pretrained {origin['config']['epochs']}", DATA_NAMES[origin["data"]["kind"]]
        hours = f"{origin['seconds'] / 3600:.2f} + {hours}"
    return {
        "encoder": ENCODER_NAMES[record["config"]["encoder"]], "configuration": configuration, "pretrained_on": source,
        "epochs": "+".join(map(str, phases if any(phases[:2]) else phases[2:])), "seed": record["config"]["seed"],
        "val_accuracy": 100 * record["metrics"]["val_accuracy"],
        "test_accuracy": 100 * record["metrics"]["test_accuracy"],
        **{f"auroc_{score}": values["auroc"][0] for score, values in record["ood"]["scores"].items()},
        "hours": hours, "hardware": record["versions"]["hardware"], "date": record["versions"]["date"],
    }  # fmt: skip


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
    """Every configuration of the study and of ours, one row each, as text; what was not run is `missing`."""
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
        for column, title in (("hours", "hours"), ("epochs", "fine-tuned epochs"), ("pretrained_on", "pretrained on")):
            row[title, "ours"] = ", ".join(dict.fromkeys(ours[column])) if len(ours) else MISSING
        rows[encoder, configuration] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["encoder", "configuration"])


def both_readings(runs: pd.DataFrame) -> pd.DataFrame:
    """MSP as the study prints it (the confidence) and turned round, beside MI: the study's rows, then ours.

    Reversing a score mirrors its AUROC about 0.5, so nothing of the study is needed but its printed table.
    """
    theirs = STUDY.reset_index().assign(source="study")
    ours = runs.assign(source="ours", msp_as_printed=1 - runs["auroc_one_minus_msp"])
    shown = ["source", "encoder", "configuration", "auroc_mutual_information", "msp_as_printed", "auroc_one_minus_msp"]
    table = pd.concat([frame[shown] for frame in (theirs, ours) if len(frame)], ignore_index=True)
    for reading in ("msp_as_printed", "auroc_one_minus_msp"):
        wins = table[reading] > table["auroc_mutual_information"]
        table[f"{reading}_wins"] = wins.map({True: "MSP", False: "MI"})
    return table


def differences(runs: pd.DataFrame, base: str, other: str) -> pd.DataFrame:
    """`other` − `base` as text, for every encoder of which the study or we have both; none is an empty table.

    Ours are paired by seed and by fine-tuning length, so that a short run is not compared with a long one; phases add
    up to the length from scratch.
    """
    rows = {}
    for encoder in ENCODER_NAMES.values():
        ours = [_paired(runs[runs["encoder"] == encoder], name) for name in (base, other)]
        theirs = [STUDY[STUDY.index == (encoder, name)].reset_index(drop=True) for name in (base, other)]
        row = {
            (title, who): _told(second[metric] - first[metric], _digits(metric), absent, "+")
            for metric, title in METRICS.items()
            for who, (first, second), absent in (("study", theirs, NOT_IN_STUDY), ("ours", ours, MISSING))
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
        (ENCODER_NAMES[record["config"]["encoder"]], record["config"]["epochs"], DATA_NAMES[record["data"]["kind"]],
         record["config"]["seed"], panel): values
        for record in _pretrainings(records)
        for panel, values in record["separation"].items()
    }  # fmt: skip
    names = ["encoder", "epochs", "pretrained on", "seed", "features"]
    index = pd.MultiIndex.from_tuples(rows, names=names) if rows else pd.MultiIndex.from_arrays([[]] * 5, names=names)
    return pd.DataFrame(list(rows.values()), index=index)


def longest_projection(
    records: list[dict[str, Any]], encoder: str, figures: Path
) -> tuple[pd.DataFrame, dict[str, dict[str, float]]] | None:
    """UMAP coordinates and class separation of the longest pretraining of an encoder; None if it was not run."""
    mine = [record for record in _pretrainings(records) if record["config"]["encoder"] == encoder]
    if not mine:
        return None
    longest = max(mine, key=lambda record: (record["config"]["epochs"], record["versions"]["date"]))
    return pd.read_csv(figures / longest["umap"]), longest["separation"]
