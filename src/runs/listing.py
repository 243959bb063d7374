"""The runs below a folder, as a table."""

import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from src.runs.watching import duration

MEASURED = ("loss", "knn", "val_accuracy")
BARS = "▁▂▃▄▅▆▇█"
SHOWN_EPOCHS = 10


def table(folder: Path) -> pd.DataFrame:
    """One row for every run below a folder, newest first."""
    rows = [_row(file, folder) for file in folder.rglob("run.json")]
    return pd.DataFrame(rows).sort_values("updated", ascending=False) if rows else pd.DataFrame()


def progress(folder: Path) -> pd.DataFrame:
    """What one wants to know of the runs that go on, newest first: trend, hours, time left."""
    runs = table(folder)
    if runs.empty:
        return runs
    going = runs[runs["status"] == "running"]
    return pd.DataFrame([_progress(folder, run) for run in going.to_dict("records")])


def _history(file: Path) -> pd.DataFrame:
    """Its numbers; of a damaged or missing file none: it is written anew at the next epoch."""
    columns = ["epoch", "loss", "seconds"]
    try:
        history = pd.read_csv(file)
    except (OSError, ValueError):
        history = pd.DataFrame()
    return history.reindex(columns=columns).apply(pd.to_numeric, errors="coerce")


def _progress(folder: Path, run: dict[str, Any]) -> dict[str, Any]:
    history = _history(folder / run["run"] / "history.csv")
    trained = history[history["epoch"] > 0]
    seconds, state = trained["seconds"].dropna(), folder / run["run"] / "last.pth"
    left = seconds.mean() * (run["epochs"] - len(seconds)) if len(seconds) else None
    saved = duration(time.time() - state.stat().st_mtime) + " ago" if state.exists() else "not yet"
    return {
        "run": run["run"],
        "epoch": f"{run['epoch'] or 0}/{run['epochs']}",
        "loss": trained["loss"].iloc[-1] if len(trained) else None,
        "trend": sparkline(trained["loss"].tail(SHOWN_EPOCHS)),
        "hours": round(seconds.sum() / 3600, 2),
        "left": duration(left) if left is not None else "after an epoch",
        "saved": saved,
    }


def sparkline(values: pd.Series) -> str:
    """Numbers as bars from their least to their greatest."""
    low, high = values.min(), values.max()
    steps = (values - low) / ((high - low) or 1) * (len(BARS) - 1)
    return "".join(BARS[round(step)] for step in steps)


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
