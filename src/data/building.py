"""A store that is being built, and which of its rows are on disk: safe to kill at any moment."""

import contextlib
import csv
import errno
import fcntl
import hashlib
import io
import itertools
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from src.data.store import write_header, write_meta
from src.errors import DataError

COMMIT_SECONDS = 5.0  # so much work is lost when the build is killed
Failures = dict[int, tuple[str, bool]]  # row → reason, and whether the patch is absent altogether


class _Building:
    """A store that is not whole yet, and which of its rows are on disk."""

    def __init__(self, folder: Path, names: list[str], like: np.ndarray, meta: dict[str, Any]):
        self.folder, self.names, self.like, self.meta = folder, names, like, meta
        self.file = folder / "store/images.npy"
        self.offset = len(self._header(len(names)))

    def __enter__(self) -> "_Building":
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            lock = stack.enter_context(open(self.folder / "lock", "w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DataError(
                    f"{self.folder}: another process is building this store; wait for it"
                ) from error
            self._same_plan()
            self.log = stack.enter_context(open(self.folder / "done.txt", "a+b", buffering=0))
            self._resume()
            self.open_files = stack.pop_all()
        return self

    def _resume(self) -> None:
        self.log.seek(0)
        text = self.log.read()
        whole = text.rfind(b"\n") + 1  # a kill may have cut the last line
        self.log.truncate(whole)
        length = self.file.stat().st_size if self.file.exists() else 0
        self.done = np.zeros(len(self.names), bool)
        self.done[[row for row in map(int, text[:whole].split()) if self._end(row) <= length]] = (
            True
        )
        self.new: list[int] = []
        self.committed = time.monotonic()
        self._set_length(len(self.names))

    def _end(self, row: int) -> int:
        return self.offset + (row + 1) * self.like.nbytes

    def _same_plan(self) -> None:
        plan = json.loads(
            json.dumps(
                {**self.meta, "names": hashlib.sha256("\n".join(self.names).encode()).hexdigest()}
            )
        )
        file = self.folder / "plan.json"
        if not file.exists():
            file.with_suffix(".new").write_text(json.dumps(plan, indent=1))
            file.with_suffix(".new").replace(file)
        was = json.loads(file.read_text())
        differs = [
            f"{key} was {was.get(key)!r}, now {plan[key]!r}"
            for key in plan
            if was.get(key) != plan[key]
        ]
        if differs:
            raise DataError(
                f"{self.folder} was begun otherwise ({'; '.join(differs)}). Delete it, or build"
                " under another name."
            )

    def _set_length(self, count: int) -> None:
        """Make the file hold `count` rows; those not written yet take no room."""
        with open(self.file, "r+b" if self.file.exists() else "w+b") as file:
            used = os.fstat(file.fileno()).st_blocks * 512
            needed, free = count * self.like.nbytes - used, shutil.disk_usage(self.folder).free
            if needed > free:
                raise OSError(
                    errno.ENOSPC,
                    f"{needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free",
                    str(self.file),
                )
            file.write(self._header(count))
            file.truncate(self._end(count - 1))

    def _header(self, count: int) -> bytes:
        header = io.BytesIO()
        write_header(header, count, self.like.shape, self.like.dtype)
        return header.getvalue()

    def add(self, rows: list[int]) -> None:
        """Note rows as written; now and then make that last."""
        self.done[rows] = True
        self.new += rows
        if time.monotonic() - self.committed > COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        with open(self.file, "rb") as file:
            os.fsync(file.fileno())  # pixels first: a row is never said to be there before it is
        self.log.write("".join(f"{row}\n" for row in self.new).encode())
        os.fsync(self.log.fileno())
        self.new, self.committed = [], time.monotonic()

    def finish(self, failures: Failures, meta: dict[str, Any]) -> Path:
        """Close up the rows of failures, write index and meta; the folder that is the store now."""
        self.commit()
        keep = [row for row in range(len(self.names)) if row not in failures]
        if not keep:
            raise DataError(f"no readable patches for {self.folder.stem}: nothing to store")
        if failures:
            self._close_up(keep)
        with open(self.file.with_name("index.csv"), "w", newline="") as file:
            csv.writer(file).writerows(
                itertools.chain([("name", "label")], ((self.names[row], "") for row in keep))
            )
        write_meta(self.file.parent, meta, [len(keep), *self.like.shape], self._checksum())
        return self.file.parent

    def _close_up(self, keep: list[int]) -> None:
        # Moved rows are no longer where `done.txt` says: it forgets them first, and a kill in
        # between costs reading them again, but never mixes them up.
        moved = next((new for new, row in enumerate(keep) if new != row), len(keep))
        remaining = self.folder / "done.new"
        remaining.write_text("".join(f"{row}\n" for row in keep[:moved]))
        remaining.replace(self.folder / "done.txt")
        size = self.like.nbytes
        with open(self.file, "r+b", buffering=0) as file:
            for new, row in enumerate(keep[moved:], moved):
                _pwrite(
                    file.fileno(),
                    os.pread(file.fileno(), size, self.offset + row * size),
                    self.offset + new * size,
                )
        self._set_length(len(keep))

    def _checksum(self) -> str:
        digest = hashlib.sha256()
        with open(self.file, "rb") as file:
            file.seek(self.offset)
            while block := file.read(1 << 20):
                digest.update(block)
            os.fsync(file.fileno())
        return digest.hexdigest()

    def __exit__(self, *_) -> None:
        try:
            if self.new:
                self.commit()
        finally:
            self.open_files.close()


def _pwrite(file: int, data: bytes, at: int) -> None:
    while data:  # a disk that fills up takes a part first, and says why the next time
        written = os.pwrite(file, data, at)
        data, at = data[written:], at + written
