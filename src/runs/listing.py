"""The runs below a folder, as a table."""

import fcntl
import json
from pathlib import Path

import pandas as pd


def table(folder: Path) -> pd.DataFrame:
    """One row for every run below a folder, newest first."""
    rows = []
    for file in folder.rglob("run.json"):
        run = json.loads(file.read_text())
        config, versions = run.get("config", {}), run.get("versions", {})
        measured = {
            k: v
            for k, v in (run.get("metrics") or {}).items()
            if k in ("loss", "knn", "val_accuracy")
        }
        rows.append(
            {
                "run": str(file.parent.relative_to(folder)),
                "kind": run.get("kind"),
                "encoder": config.get("encoder"),
                "status": _status(run["status"], file.parent / "lock"),
                "epoch": run.get("epoch"),
                "epochs": config.get("epochs") or sum(config.get("phases", [])),
                **measured,
                "hardware": versions.get("hardware"),
                "commit": versions.get("commit"),
                "updated": run["updated"],
            }
        )
    return pd.DataFrame(rows).sort_values("updated", ascending=False) if rows else pd.DataFrame()


def _status(noted: str, lock: Path) -> str:
    """A run that was killed could not note it: it says "running", but nobody holds its lock."""
    if noted != "running" or not lock.exists():
        return noted
    with open(lock) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return noted
    return "killed"
