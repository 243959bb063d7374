"""Fill a store from a great many small files: on all cores, in bounded memory, safe to kill.

While it is being built a store is the folder `<path>.building`: `store/images.npy` has a row for
every selected patch, written in place by the reading processes, and `done.txt` says which rows are
on disk. Started again, the build reads only the others. At the end the rows of unreadable patches
are closed up, and `store/` gets its place in one rename.
"""

import collections
import contextlib
import errno
import functools
import itertools
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from src.data.bars import bar
from src.data.building import Building, Plan, write_at
from src.data.locks import locked
from src.data.store import PatchStore, open_if_there
from src.errors import AbsentError, DamagedError, DataError

# One patch to read: its row; its folder, for messages; its files by suffix, or None: they are still
# to be read from the folder, or an error: what is wrong with them.
Files = dict[str, bytes] | DataError | None
Task = tuple[int, str, Files]
# (name → row, (N,) bool of the rows to do) → those to do, in any order
Tasks = Callable[[dict[str, int], np.ndarray], Iterable[Task]]
# (folder, files) → an image, perhaps with a note of what is odd about it, or DataError; runs in
# other processes
Decode = Callable[[str, Files], np.ndarray | tuple[np.ndarray, str]]
CHUNK = 64  # patches handed to a process at a time: about 6 MB when they come out of an archive
REMEDIES = {
    errno.ENOSPC: "Make room on that disk",
    errno.EDQUOT: "Make room in your quota",
    errno.EACCES: "Change its permissions",
    errno.EPERM: "Change its permissions",
    errno.EROFS: "That disk is read-only: write the store elsewhere",
}


def build(
    path: Path,
    plan: Plan,
    tasks: Tasks,
    decode: Decode,
    *,
    max_unreadable: float = 0.01,
    workers: int | None = None,
    wait: float = 0.0,
    replace: bool = False,
) -> PatchStore:
    """Build the store at `path`, or go on building it.

    Patches that cannot be read are left out and listed with the reason in `<path>-unreadable.csv`;
    a name that comes again counts as unreadable.

    Args:
        plan: its rows are the store's, in whatever order tasks come in; a build begun with another
            plan is refused.
        tasks: gives the patches to read, see `src.data.bigearthnet.sources.Folders.tasks`.
        decode: gives an image like `plan.like`, see `src.data.bigearthnet.patch.read_patch`.
        max_unreadable: share of `plan.names`, in [0, 1], above which the build stops.
        workers: processes; None: one a core, but no more than one for every five thousand patches:
            one starts in the time that reading so many takes.
        wait: seconds for another process that builds this store; what it has built is opened. At 0
            a store that is there already is an error.
        replace: the store that is there gives way to the new one once that is whole.

    Raises:
        ValueError: max_unreadable is not in [0, 1], or fewer than one worker.
        DataError: too much is unreadable, or all; another process builds it; or it is the machine's
            fault: disk full, permissions. What was read is kept for the next start.
    """
    if not 0 <= max_unreadable <= 1:
        raise ValueError(f"max_unreadable must be in [0, 1], got {max_unreadable}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be 1 or more, got {workers}")
    if path.exists() and not (replace or wait):
        raise DataError(f"{path} exists already: open it, or delete it to build it again")
    workers = workers or max(1, min(os.cpu_count() or 1, len(plan.names) // 5000))
    folder = path.with_name(f"{path.name}.building")
    with _remedies(folder), locked(folder / "lock", "building this store", wait):
        ours = replace or not path.exists()  # else another process has built it meanwhile
        if ours:
            report = Report(path, plan.names, max_unreadable)
            with Building(folder, plan) as building:
                _read(building, report, tasks, decode, workers)
                store = _finish(building, report)
            if replace:
                shutil.rmtree(path, ignore_errors=True)
            store.rename(path)
        shutil.rmtree(folder, ignore_errors=True)  # whoever waited for the lock does the same
    return PatchStore.open(path) if ours else open_if_there(path, plan.meta)


def _finish(building: Building, report: "Report") -> Path:
    if report.failures:
        report.write()
        tqdm.write(f"Left out: {report.summary()}")
    notes = building.plan.notes
    if "counts" in notes:
        odd = collections.Counter(building.odd.values())
        notes = {**notes, "counts": {**notes["counts"], **report.counts(), **odd}}
    return building.finish(report.failures, notes)


@contextlib.contextmanager
def _remedies(folder: Path) -> Iterator[None]:
    """Errors of the machine as DataErrors that say what to do."""
    try:
        yield
    except BrokenProcessPool as error:
        raise DataError(
            f"a reading process was killed (memory?). What was read is kept in {folder}: run"
            " again, with fewer workers if it happens again. (A script must build below `if"
            " __name__ == '__main__':`.)"
        ) from error
    except OSError as error:
        remedy = REMEDIES.get(error.errno, "Mend it")
        raise DataError(
            f"{error}. {remedy}, then run again: what was read is kept in {folder}."
        ) from error


@dataclass(frozen=True)
class Failure:
    """Why a patch is not in the store."""

    reason: str
    absent: bool  # whether there is no file of it at all


class Report:
    """The patches that cannot be read, by row, and `<path>-unreadable.csv`, which lists them."""

    def __init__(self, path: Path, names: list[str], max_unreadable: float):
        self.file = path.with_name(f"{path.name}-unreadable.csv")
        self.names, self.max_unreadable = names, max_unreadable
        self.file.unlink(missing_ok=True)  # of an earlier try: the data may have been mended since
        self.failures: dict[int, Failure] = {}

    def write(self) -> None:
        """Write the list, in the order of the rows."""
        table = [(self.names[row], self.failures[row].reason) for row in sorted(self.failures)]
        pd.DataFrame(table, columns=["name", "reason"]).to_csv(self.file, index=False)

    def summary(self) -> str:
        """Say how many, and the reason of the first."""
        return (
            f"{len(self.failures)} of {len(self.names)} patches unreadable, listed in {self.file};"
            f" the first: {self.failures[min(self.failures)].reason}"
        )

    def counts(self) -> dict[str, int]:
        """How many are absent, and how many are there but unreadable."""
        absent = sum(failure.absent for failure in self.failures.values())
        return {"absent": absent, "unreadable": len(self.failures) - absent}

    def stop_if_too_many(self) -> None:
        """Write the list and raise DataError, if more than `max_unreadable` of the patches fail."""
        if len(self.failures) > self.max_unreadable * len(self.names):
            self.write()
            limit = f"More than {100 * self.max_unreadable:g}%: mend the data, or raise"
            mend = f"{limit} max_unreadable," if self.max_unreadable else "Mend it"
            raise DataError(f"{self.summary()}. {mend} and run again. What was read is kept.")


def _read(building: Building, report: Report, tasks: Tasks, decode: Decode, workers: int) -> None:
    """Write every row that is not on disk yet, or report why it cannot be."""
    plan, failures = building.plan, report.failures
    names = plan.names
    rows: dict[str, int] = {}
    for row, name in enumerate(names):
        if rows.setdefault(name, row) != row:
            failures[row] = Failure(f"{name} is listed more than once: the first is kept", False)
    todo = ~building.done
    todo[list(failures)] = False
    read = functools.partial(
        _read_chunk, building.file, building.offset, decode, building.plan.like
    )
    chunks = _chunks(tasks(rows, todo))
    with bar(total=len(names), initial=int((~todo).sum()), desc="reading", unit="patch") as shown:
        try:
            for written, odd, failed in _in_processes(read, chunks, workers):
                building.add(written, odd)
                failures.update(failed)
                shown.update(len(written) + len(failed))
                report.stop_if_too_many()
        except DamagedError:
            building.forget()
            raise
    for row in np.flatnonzero(todo & ~building.done).tolist():
        if row not in failures:
            reason = f"{names[row]} is missing: listed, but nowhere in the archive"
            failures[row] = Failure(reason, absent=True)
    report.stop_if_too_many()


def _chunks(tasks: Iterable[Task]) -> Iterator[list[Task]]:
    tasks = iter(tasks)
    while chunk := list(itertools.islice(tasks, CHUNK)):
        yield chunk


def _read_chunk(
    file: Path, offset: int, decode: Decode, like: np.ndarray, tasks: list[Task]
) -> tuple[list[int], dict[int, str], dict[int, Failure]]:
    """Decode patches and write each to its row.

    The rows written, what is odd about some, and why others failed.
    """
    written, odd, failed = [], {}, {}
    with open(file, "r+b", buffering=0) as images:
        for row, folder, files in tasks:
            image = _decoded(decode, folder, files, like)
            if isinstance(image, Failure):
                failed[row] = image
                continue
            if isinstance(image, tuple):
                image, odd[row] = image
            write_at(images.fileno(), image.tobytes(), offset + row * image.nbytes)
            written.append(row)
    return written, odd, failed


def _decoded(
    decode: Decode, folder: str, files: Files, like: np.ndarray
) -> np.ndarray | tuple[np.ndarray, str] | Failure:
    """An image like the others, perhaps with a note; or why there is none."""
    try:
        decoded = decode(folder, files)
    except DataError as error:
        return Failure(str(error), isinstance(error, AbsentError))
    except OSError:  # the machine's fault, not the patch's
        raise
    except Exception as error:  # a decoder that damage has confused may raise whatever it likes
        return Failure(f"{folder} cannot be read ({error!r})", False)
    image = decoded[0] if isinstance(decoded, tuple) else decoded
    if (image.shape, image.dtype) != (like.shape, like.dtype):
        expected = f"expected {like.shape} {like.dtype}, got {image.shape} {image.dtype}"
        return Failure(f"{folder}: {expected}", False)
    return decoded


def _in_processes(function: Callable, tasks: Iterable, workers: int) -> Iterator:
    """Results in the order in which they come; at most two tasks a process are under way."""
    if workers == 1:
        yield from map(function, tasks)
        return
    # spawn: a forked child of a process with threads (torch, a notebook) can hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_follow_parent) as pool:
        pending = set()
        for task in tasks:
            pending.add(pool.submit(function, task))
            if len(pending) >= 2 * workers:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        for future in pending:
            yield future.result()


def _follow_parent() -> None:
    """A reading process ends when the one that started it is killed, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
