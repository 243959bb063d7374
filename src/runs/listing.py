"""The runs below a folder, as a table."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

MEASURED = ("loss", "knn", "val_accuracy")


def table(folder: Path) -> pd.DataFrame:
    """One row for every run below a folder, newest first."""
    rows = [_row(file, folder) for file in folder.rglob("run.json")]
    return pd.DataFrame(rows).sort_values("updated", ascending=False) if rows else pd.DataFrame()


def _row(file: Path, folder: Path) -> dict[str, Any]:
    name = str(file.parent.relative_to(folder))
    try:
        return {"run": name} | _described(json.loads(file.read_text(encoding="utf-8")), file)
    # of a power cut, or somebody's editor: the others are listed all the same
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {"run": name, "status": "run.json is damaged", "updated": ""}


def _described(run: dict[str, Any], file: Path) -> dict[str, Any]:
    config, versions = run.get("config", {}), run.get("versions", {})
    metrics = run.get("metrics") or {}
    return {
        "kind": run.get("kind"),
        "encoder": config.get("encoder"),
        "status": _status(str(run["status"]), file.parent / "lock"),
        "epoch": run.get("epoch"),
        "epochs": config.get("epochs") or sum(config.get("phases", [])),
        **{key: value for key, value in metrics.items() if key in MEASURED},
        "hardware": versions.get("hardware"),
        "commit": versions.get("commit"),
        "updated": str(run["updated"]),
    }


def _status(noted: str, lock: Path) -> str:
    """A run that was killed could not note it: it says "running", but nobody holds its lock."""
    if noted != "running" or not lock.exists():
        return noted
    try:
        with FileLock(lock, timeout=0):
            return "killed"
    except (Timeout, OSError):  # held, or in a folder that may only be read
        return noted
