"""One JSON a run: written when it is finished, read by the results page."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import binomtest

from src.checkpoints import load, replacing
from src.errors import CheckpointError

# of the pretraining that a fine-tuning started from
ORIGIN = ("checkpoint", "config", "data", "metrics", "versions", "seconds")


def write_record(
    folder: str | Path, checkpoint: Path, pretrained: Path | str | None = None, **measured: Any
) -> Path:
    """Write what is known of a finished run as one JSON, kept where weights would be too large.

    Args:
        folder: gets `<encoder>_<checkpoint's name>.json`.
        checkpoint: of the run; it holds config, data, history, metrics and versions.
        pretrained: the pretraining checkpoint it started from, or the name of other weights; None:
            from scratch.
        measured: more JSON values, such as `ood` and `separation`.

    Raises:
        CheckpointError: an unusable checkpoint.
        ValueError: measured values that are no JSON.
    """
    if isinstance(pretrained, Path):
        origin = _metadata(pretrained)
        pretrained = {key: origin[key] for key in ORIGIN}
    elif pretrained is not None:  # weights of elsewhere, whose folder is this machine's
        pretrained = Path(pretrained).name
    record = _metadata(checkpoint) | {"pretraining": pretrained, **measured}
    path = Path(folder) / f"{record['config']['encoder']}_{checkpoint.stem}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def _metadata(checkpoint: Path) -> dict[str, Any]:
    _, metadata = load(checkpoint)  # what the `.json` beside it says, which may not have come along
    # the epochs of a run that was stopped and resumed add up; row 0 of a pretraining has no time
    try:
        seconds = sum(row.get("seconds", 0.0) for row in metadata["history"])
        metadata["config"]["encoder"]
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{checkpoint} is of no run ({error!r}): expected its config and history in it"
        ) from error
    return {**metadata, "checkpoint": checkpoint.name, "seconds": seconds}


def read_records(folder: str | Path) -> list[dict[str, Any]]:
    """All records of a folder, in the order of their names; none is an empty list.

    Raises:
        ValueError: a file is not a record.
    """
    records = []
    for path in sorted(Path(folder).glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            record["kind"], record["config"]["encoder"], record["versions"]["hardware"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is not a run record ({error!r}): delete it, or run its notebook again"
            ) from error
        records.append(record)
    return records


def metrics_as_json(table: pd.DataFrame) -> dict[str, dict[str, list[float]]]:
    """The table of `src.ood.evaluate` as score → metric → [value, low, high].

    What has no interval has None for its ends: NaN is no JSON.
    """
    table = table.astype(object).where(table.notna(), None)
    by_score = table.groupby(level="score", sort=False)
    return {score: rows.droplevel(0).T.to_dict("list") for score, rows in by_score}


def wilson(correct: int, total: int) -> list[float]:
    """95 % interval of a share (Wilson 1927), both ends in [0, 1]."""
    interval = binomtest(correct, total).proportion_ci(method="wilson")
    return [interval.low, interval.high]
