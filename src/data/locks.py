"""One process at a time where two would spoil each other's work: builds, downloads, made data."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import filelock
from tqdm.auto import tqdm

from src.errors import DataError

WAIT = 3600.0  # seconds for what another process makes in seconds or minutes


@contextlib.contextmanager
def locked(file: Path, doing: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock that is this file; it ends with the process, however that ends.

    Args:
        doing: what the other process is told to be doing, "building this store".
        wait: seconds to wait for it; whoever waited looks first whether there is still work to do.

    Raises:
        DataError: another process has it (still, after `wait`).
    """
    lock = filelock.FileLock(file)
    try:
        try:
            _acquire(lock, file, 0.0)
        except filelock.Timeout:
            if wait:
                tqdm.write(f"{file.parent}: another process is {doing}; waiting for it")
            _acquire(lock, file, wait)
    except filelock.Timeout as error:
        raise DataError(f"{file.parent}: another process is {doing}; wait for it") from error
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: filelock.FileLock, file: Path, timeout: float) -> None:
    """Whoever had the lock may remove its folder when done: then it is made again."""
    for _ in range(100):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=timeout)
            return
        except FileNotFoundError:
            continue
    raise DataError(f"{file.parent} is removed again and again: what else works there?")


def write_whole(file: Path, content: bytes) -> None:
    """Whole or not at all; of two processes that write the same, either may be the last."""
    handle, partial = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        os.fchmod(handle, 0o644)
        with open(handle, "wb") as written:
            written.write(content)
            written.flush()
            os.fsync(written.fileno())
        os.replace(partial, file)
    except BaseException:
        os.unlink(partial)
        raise
