"""One record a run: a JSON under `models/records/audit/`, what was measured, on what, and how."""

import json
import re
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from audit.data import Study
from audit.plan import HISTOGRAMS, SIZES, Run, Size, recipe_of
from src.checkpoints import replacing
from src.runs import runtime

Record = dict[str, Any]
KEYS = ("size", "letter", "arm", "seed", "result", "settings")


def record_file(study: Study, run: Run) -> Path:
    """Where the record of a run lies, or will lie."""
    arm = "-".join(re.findall(r"[\w.]+", run.arm))
    encoder = encoder_of(study, run)
    name = f"{encoder}_{study.size_name}_{run.letter}_{arm}_s{run.seed}.json"
    return study.profile.records / "audit" / name


def encoder_of(study: Study, run: Run) -> str:
    """The encoder of a run: its recipe's own, or the study's."""
    if run.arm == HISTOGRAMS:
        return study.encoder
    return recipe_of(study.size, run.letter, run.arm).encoder or study.encoder


def settings(study: Study) -> dict[str, Any]:
    """What must agree between records that are read together, as JSON holds it."""
    data = {"places": study.place_kind, "data": study.store.provenance}
    return json.loads(json.dumps({**asdict(study.size), **data}))


def finished(study: Study, run: Run) -> bool:
    """Whether a run has its record.

    Raises:
        ValueError: it was made with other settings or on other data.
    """
    file = record_file(study, run)
    if not file.exists():
        return False
    was, now = _untitled(json.loads(file.read_text())["settings"]), _untitled(settings(study))
    was = {key: getattr(Size, key, None) for key in now} | was  # what is newer than a record is off
    differing = {key: (was[key], now[key]) for key in now if was[key] != now[key]}
    if differing:
        remedy = "To run anew,"
        if "places" in differing:
            remedy = "See SETUP.md for EuroSAT's coordinates, or"
        raise ValueError(
            f"{file} was made with other settings (was, now): {differing}. {remedy} move the"
            " records away."
        )
    return True


def _untitled(settings: dict[str, Any]) -> dict[str, Any]:
    """Without the name by which people know the data: older stores have none."""
    data = {key: value for key, value in settings["data"].items() if key != "title"}
    return {**settings, "data": data}


def write_record(study: Study, run: Run, result: dict[str, Any], seconds: float) -> None:
    """Write the record of a run, which appears under its name only when whole."""
    record = {
        **run._asdict(),
        "encoder": encoder_of(study, run),
        "size": study.size_name,
        "result": result,
        "seconds": seconds,
        "settings": settings(study),
        "command": shlex.join(["python", "-m", "audit", *sys.argv[1:]]),
        "versions": runtime.record(study.runtime),
    }
    file = record_file(study, run)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial:
        partial.write_text(json.dumps(record, indent=1) + "\n")


def read_records(folder: str | Path, size: str | None = None) -> list[Record]:
    """All records of one size, in the order of their names.

    size: None: of each letter the records of the largest size that it was run at; a repaired
        letter's control comes along with it.

    Raises:
        ValueError: a file is not such a record.
    """
    records = [_read(file) for file in sorted(Path(folder).glob("*.json"))]
    order = [size] if size else list(SIZES)
    largest = {}
    for record in records:
        if record["size"] in order:
            letter = record["letter"]
            largest[letter] = max(largest.get(letter, 0), order.index(record["size"]))
    return [
        record
        for record in records
        if record["size"] in order and order.index(record["size"]) == largest[record["letter"]]
    ]


def _read(file: Path) -> Record:
    try:
        record = json.loads(file.read_text())
        missing = [key for key in KEYS if key not in record]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is not a record of the audit ({error}): move it away") from error
    if missing:
        raise ValueError(f"{file} is not a record of the audit (no {missing}): move it away")
    return record
