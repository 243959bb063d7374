"""How many threads a CPU computes with beside others."""

import os
import subprocess
import sys
import time

import pytest
import torch

from src.runs import threads
from src.runs.runtime import pick, record

BUSY = [sys.executable, "-c", "print('busy', flush=True)\nwhile True: pass"]


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads.settle_threads.cache_clear()
    yield
    torch.set_num_threads(before)
    threads.settle_threads.cache_clear()


@pytest.mark.parametrize(
    ("cores", "taken", "left"), [(2, 0, 2), (2, 0.4, 2), (2, 1, 1), (2, 2, 1), (1, 0, 1), (8, 5, 2)]
)
def test_as_many_threads_as_there_are_free_cores(monkeypatch, cores, taken, left):
    monkeypatch.setattr(threads, "usable_cores", lambda: cores)
    monkeypatch.setattr(threads, "taken_cores", lambda: taken)
    runtime = pick("cpu")
    assert torch.get_num_threads() == left
    assert record(runtime)["threads"] == str(left)
    said = f"{left} of 2 threads: others use {taken:.1f} of {cores} cores"
    assert (said in str(runtime)) == (left < 2)


def test_a_number_that_was_asked_for_is_kept(monkeypatch):
    monkeypatch.setattr(threads, "taken_cores", lambda: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads.settle_threads() == "" and torch.get_num_threads() == 2
    threads.use_threads(1)
    assert torch.get_num_threads() == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says what is busy")
@pytest.mark.skipif(hasattr(os, "nice") and os.nice(0) > 0, reason="who gives way does not count")
def test_a_busy_process_is_seen(monkeypatch):
    monkeypatch.setattr(threads, "LOOK", 0.1)
    with subprocess.Popen(BUSY, stdout=subprocess.PIPE) as other:
        try:
            other.stdout.readline()
            # shares two cores with whatever else runs: at least something is seen, at best a core
            seen = max(threads.taken_cores() for _ in range(5))
            start = time.process_time()
            assert seen > 0.3 and time.process_time() - start < 1
        finally:
            other.kill()


def test_a_share_of_a_container_counts(tmp_path, monkeypatch):
    file = tmp_path / "cpu.max"
    monkeypatch.setattr(threads, "LIMIT", file)
    without = threads.usable_cores()
    file.write_text("max 100000\n")
    assert threads.usable_cores() == without >= 1
    file.write_text("50000 100000\n")
    assert threads.usable_cores() == 0.5


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="torch has libgomp on Linux")
@pytest.mark.parametrize(
    ("asked", "spins"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, "0")],
)
def test_threads_spin_shortly_where_nothing_else_is_asked(asked, spins):
    """What libgomp itself says that it does."""
    own = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
    environment = {key: value for key, value in os.environ.items() if key not in own}
    environment |= asked | {"OMP_DISPLAY_ENV": "verbose"}
    command = [sys.executable, "-c", "import src, torch"]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert f"GOMP_SPINCOUNT = '{spins}'" in told.stderr
