"""Timing by turns, and results as JSON and as markdown tables."""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

REPEATS = 3


def by_turns(
    candidates: dict[str, Callable], device: torch.device, seconds: float = 1.0
) -> dict[str, list[float]]:
    """Seconds a call of each candidate, three times over: the median of as many calls as fit into
    `seconds`.

    One warm-up call each; then A B C, B C A, C A B …, so that a busy minute, or what one leaves in
    the caches, falls on all alike.
    """
    for call in candidates.values():
        _clock(call, device)
    once = {name: _clock(call, device) for name, call in candidates.items()}
    rounds = max(1, min(200, int(seconds / sum(once.values()))))
    names, medians = list(once), {name: [] for name in once}
    for _ in range(REPEATS):
        times: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                times[name].append(_clock(candidates[name], device))
        for name in names:
            medians[name].append(statistics.median(times[name]))
    return medians


def _clock(call: Callable, device: torch.device) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - started


def rows(
    medians: dict[str, list[float]], ours: str, unit: str, of: Callable[[float], float]
) -> list[dict]:
    """One row a candidate: its number (`of` seconds), the spread over the repeats, and its time
    over that of `ours`.
    """
    best = statistics.median(medians[ours])
    return [
        {
            "what": name,
            unit: of(statistics.median(some)),
            "spread": (max(some) - min(some)) / statistics.median(some),
            f"{ours} is faster by": statistics.median(some) / best,
        }
        for name, some in medians.items()
    ]


def markdown(tables: dict[str, dict]) -> str:
    """Title → table, each with what it ran on below."""
    return "\n\n".join(_table(title, table) for title, table in tables.items())


def _table(title: str, table: dict) -> str:
    columns = list(dict.fromkeys(key for row in table["rows"] for key in row))
    lines = [
        "| " + " | ".join(columns) + " |",
        "|---" + "|--:" * (len(columns) - 1) + "|",
        *(
            "| " + " | ".join(_cell(key, row.get(key)) for key in columns) + " |"
            for row in table["rows"]
        ),
    ]
    about = table["about"]
    threads = f", threads: {about['threads']}" if "threads" in about else ""
    foot = (
        f"{about['hardware']}{threads}; networks in {about['precision']}, torch {about['torch']};"
        f" {about['commit']}, {about['date']}, {table['seconds']:.0f} s."
    )
    return "\n".join(
        [
            f"### {title}",
            "",
            table["how"],
            "",
            *lines,
            *(f"\n{note}" for note in (*table["notes"], foot)),
        ]
    )


def _cell(column: str, value) -> str:
    if value is None:
        return "–"
    if isinstance(value, str | int):
        return f"{value:,}" if isinstance(value, int) else value
    if column == "spread" or "share" in column:
        return f"{value:.1%}"
    text = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return f"{text} ×" if "faster" in column or "times" in column else text


def write(tables: dict[str, dict], path: Path, readme: Path | None) -> None:
    """Title → table as JSON, over older ones of the same titles; and all into the README, between
    this file's markers. A table says what it ran on: others may be of another machine.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        tables = json.loads(path.read_text()) | tables
    path.write_text(json.dumps(tables, indent=1, ensure_ascii=False) + "\n")
    if readme is None:
        return
    start, end = f"<!-- {path.stem} -->\n", f"<!-- end of {path.stem} -->\n"
    text = readme.read_text()
    if start not in text or end not in text:
        raise SystemExit(
            f"error: {readme} has no lines {start.strip()!r} and {end.strip()!r} to put tables"
            " between"
        )
    before, rest = text.split(start)
    readme.write_text(before + start + "\n" + markdown(tables) + "\n\n" + end + rest.split(end)[1])
