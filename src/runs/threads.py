"""How many threads a CPU computes with: as many as it has cores to itself."""

import functools
import os
import time
from pathlib import Path

import torch

LOOK = 0.25  # seconds
LIMIT = Path("/sys/fs/cgroup/cpu.max")  # a container's: "max 100000", or so many of so many µs


@functools.cache
def settle_threads() -> str:
    """Take no more threads than there are free cores; say so if these are fewer. Once a process.

    Threads wait for one another after every small operation, so one that must share its core holds
    up all: see `benchmarks/busy.py`. OMP_NUM_THREADS is kept.
    """
    threads = torch.get_num_threads()
    if threads == 1 or "OMP_NUM_THREADS" in os.environ:
        return ""
    cores, taken = usable_cores(), taken_cores()
    free = max(1, round(cores - taken))
    if free >= threads:
        return ""
    torch.set_num_threads(free)
    return f"{free} of {threads} threads: others use {taken:.1f} of {cores:g} cores"


def use_threads(number: int) -> None:
    """Compute with as many threads as a run was begun with, so that it goes on to the same bits."""
    if number <= usable_cores() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(number)


def usable_cores() -> float:
    """Cores that this process may use: its affinity, or a container's share of time."""
    known = hasattr(os, "sched_getaffinity")
    cores: float = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    if LIMIT.is_file():
        quota, period = LIMIT.read_text().split()
        cores = cores if quota == "max" else min(cores, int(quota) / int(period))
    return cores


def taken_cores() -> float:
    """Cores that other processes keep busy now; those that are niced give way and don't count.

    0 where the system doesn't say.
    """
    stat = Path("/proc/stat")
    if not stat.is_file():
        return 0.0
    before = _ticks(stat)
    time.sleep(LOOK)
    user, _, system, *_ = (b - a for a, b in zip(before, _ticks(stat), strict=True))
    return (user + system) / os.sysconf("SC_CLK_TCK") / LOOK


def _ticks(stat: Path) -> list[int]:
    """Time of all cores together: user, niced, system, …"""
    return [int(number) for number in stat.read_text().split("\n", 1)[0].split()[1:]]
