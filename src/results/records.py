"""One JSON a run: written when it is finished, read by the results page."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import binomtest

# of the pretraining that a fine-tuning started from
ORIGIN = ("checkpoint", "config", "data", "metrics", "versions", "seconds")


def write_record(
    folder: str | Path, checkpoint: Path, pretrained: Path | str | None = None, **measured: Any
) -> Path:
    """Write what is known of a finished run as one JSON, kept where weights would be too large.

    Args:
        folder: gets `<encoder>_<checkpoint's name>.json`.
        checkpoint: of the run; the `.json` beside it gives config, data, history, metrics and
            versions.
        pretrained: the pretraining checkpoint it started from, or the name of other weights; None:
            from scratch.
        measured: more JSON values, such as `ood` and `separation`.
    """
    if isinstance(pretrained, Path):
        origin = _metadata(pretrained)
        pretrained = {key: origin[key] for key in ORIGIN}
    record = _metadata(checkpoint) | {"pretraining": pretrained, **measured}
    path = Path(folder) / f"{record['config']['encoder']}_{checkpoint.stem}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def _metadata(checkpoint: Path) -> dict[str, Any]:
    metadata = json.loads(checkpoint.with_suffix(".json").read_text())
    # the epochs of a run that was stopped and resumed add up; row 0 of a pretraining has no time
    seconds = sum(row.get("seconds", 0.0) for row in metadata["history"])
    return {**metadata, "checkpoint": checkpoint.name, "seconds": seconds}


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
            raise ValueError(
                f"{path} is not a run record ({error!r}): delete it, or run its notebook again"
            ) from error
        records.append(record)
    return records


def metrics_as_json(table: pd.DataFrame) -> dict[str, dict[str, list[float]]]:
    """The table of `src.ood.evaluate` as score → metric → [value, low, high]."""
    by_score = table.groupby(level="score", sort=False)
    return {score: rows.droplevel(0).T.to_dict("list") for score, rows in by_score}


def wilson(correct: int, total: int) -> list[float]:
    """95 % interval of a share (Wilson 1927), both ends in [0, 1]."""
    interval = binomtest(correct, total).proportion_ci(method="wilson")
    return [interval.low, interval.high]
