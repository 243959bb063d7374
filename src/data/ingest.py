"""Fill a store from a great many small files: on all cores, in bounded memory, and safe to kill at
any moment.

While it is being built a store is the folder `<path>.building`: `store/images.npy` has a row for
every selected patch, written in place by the reading processes, and `done.txt` says which rows are
on disk. Started again, the build reads only the others. At the end the rows of unreadable patches
are closed up, and `store/` gets its place in one rename.
"""

import errno
import itertools
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from src.data.bigearthnet.sources import Task
from src.data.building import Failures, _Building, _pwrite
from src.data.store import PatchStore
from src.errors import AbsentError, DataError

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
    names: list[str],
    tasks: Callable[[dict[str, int], np.ndarray], Iterable[Task]],
    decode: Callable[..., np.ndarray],
    like: np.ndarray,
    meta: dict[str, Any],
    notes: dict[str, Any],
    *,
    max_unreadable: float = 0.01,
    workers: int | None = None,
) -> PatchStore:
    """Build the store at `path`, or go on building it; its rows are in the order of `names`,
    however tasks come in.

    Patches that cannot be read are left out and listed with the reason in `<path>-unreadable.csv`.

    Args:
        names: of the patches; a name that comes again counts as unreadable.
        tasks: (name → row, (N,) bool of rows to do) → tasks of `src.data.sources`.
        decode: (folder, files) → an image like `like`, or DataError; runs in other processes.
        meta: what decides the images; a build begun with another `meta` or other names is refused.
        notes: what else `meta.json` shall say; its "counts" get those of absent and unreadable
            patches added.
        max_unreadable: share of `names`, in [0, 1], above which the build stops.
        workers: processes; None: one a core, but no more than one for every five thousand patches:
            one starts in the time that reading so many takes.

    Raises:
        DataError: too much is unreadable, or all; another process builds it; or it is the machine's
            fault: disk full, permissions. What was read is kept for the next start.
    """
    if path.exists():
        raise DataError(f"{path} exists already: open it, or delete it to build it again")
    rows: dict[str, int] = {}
    failures: Failures = {}
    for row, name in enumerate(names):
        if rows.setdefault(name, row) != row:
            failures[row] = (f"{name} is listed more than once: the first is kept", False)
    workers = workers or max(1, min(os.cpu_count() or 1, len(names) // 5000))
    building = path.with_name(f"{path.name}.building")
    try:
        with _Building(building, names, like, meta) as state:
            _report_file(path).unlink(
                missing_ok=True
            )  # of an earlier try: the data may have been mended since
            todo = ~state.done
            todo[list(failures)] = False
            work = (
                (decode, state.file, state.offset, chunk) for chunk in _chunks(tasks(rows, todo))
            )
            with tqdm(
                total=len(names), initial=len(names) - int(todo.sum()), desc="reading", unit="patch"
            ) as bar:
                for results in _map(_read_chunk, work, workers):
                    failures.update({row: failure for row, failure in results if failure})
                    state.add([row for row, failure in results if not failure])
                    bar.update(len(results))
                    _stop_if_too_many(path, names, failures, max_unreadable)
            for row in np.flatnonzero(todo & ~state.done).tolist():
                if row not in failures:
                    failures[row] = (
                        f"{names[row]} is missing: listed, but nowhere in the archive",
                        True,
                    )
            _stop_if_too_many(path, names, failures, max_unreadable)
            if failures:
                _report(path, names, failures)
                tqdm.write(f"Left out: {_told(path, names, failures)}")
            absent = sum(absent for _, absent in failures.values())
            counts = {**notes["counts"], "absent": absent, "unreadable": len(failures) - absent}
            state.finish(failures, {**meta, **notes, "counts": counts}).rename(path)
    except BrokenProcessPool as error:
        raise DataError(
            f"a reading process was killed (memory?). What was read is kept in {building}: run"
            " again, with fewer workers if it happens again. (A script must build below `if"
            " __name__ == '__main__':`.)"
        ) from error
    except OSError as error:
        remedy = REMEDIES.get(error.errno, "Mend it")
        raise DataError(
            f"{error}. {remedy}, then run again: what was read is kept in {building}."
        ) from error
    shutil.rmtree(building)
    return PatchStore.open(path)


def _chunks(tasks: Iterable[Task]) -> Iterator[list[Task]]:
    tasks = iter(tasks)
    while chunk := list(itertools.islice(tasks, CHUNK)):
        yield chunk


def _read_chunk(work: tuple) -> list[tuple[int, tuple[str, bool] | None]]:
    """Decode patches and write each to its row; row and failure (None: it is written) of each."""
    decode, file, offset, tasks = work
    results = []
    with open(file, "r+b", buffering=0) as images:
        for row, folder, files in tasks:
            try:
                image = decode(folder, files)
            except DataError as error:
                results.append((row, (str(error), isinstance(error, AbsentError))))
                continue
            _pwrite(images.fileno(), image.tobytes(), offset + row * image.nbytes)
            results.append((row, None))
    return results


def _map(function: Callable, tasks: Iterable, workers: int) -> Iterator:
    """Results in the order in which they come; at most two tasks a process are under way, however
    many there are.
    """
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


def _report_file(path: Path) -> Path:
    return path.with_name(f"{path.name}-unreadable.csv")


def _report(path: Path, names: list[str], failures: Failures) -> None:
    table = [(names[row], failures[row][0]) for row in sorted(failures)]
    pd.DataFrame(table, columns=["name", "reason"]).to_csv(_report_file(path), index=False)


def _told(path: Path, names: list[str], failures: Failures) -> str:
    first = failures[min(failures)][0]
    return (
        f"{len(failures)} of {len(names)} patches unreadable, listed in {_report_file(path)}; the"
        f" first: {first}"
    )


def _stop_if_too_many(
    path: Path, names: list[str], failures: Failures, max_unreadable: float
) -> None:
    if len(failures) > max_unreadable * len(names):
        _report(path, names, failures)
        raise DataError(
            f"{_told(path, names, failures)}. More than {100 * max_unreadable:g}%: mend the data,"
            " or raise max_unreadable, and run again. What was read is kept."
        )
