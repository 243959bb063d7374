"""A store that is being built, and which of its rows are on disk: safe to kill at any moment."""

import contextlib
import csv
import errno
import hashlib
import io
import itertools
import json
import os
import shutil
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from src.data.store import checksum_of_pixels, write_header, write_meta
from src.data.streams import Digest
from src.errors import DataError

COMMIT_SECONDS = 5.0  # so much work is lost when the build is killed
MARKS = "marks.json"  # see `src.data.streams.Digest`


@dataclass(frozen=True)
class Plan:
    """What decides a store: a build begun with one plan does not go on with another."""

    names: list[str]  # of the patches, in the order of the rows
    like: np.ndarray  # an array of the shape and type of every image
    # what else decides the images: bands, rendering, selection …; and "files", if it is known which
    # they are (see `src.data.folders`): when those change, a build begun before begins anew
    meta: dict[str, Any]
    labels: list[int] | None = None  # of the rows
    # what else `meta.json` shall say, in which a build may go on with another; of its "counts", if
    # it has them, those of absent and unreadable patches will be part
    notes: dict[str, Any] = field(default_factory=dict)
    # which file a compressed archive is: what was read of it is good once its checksum, at its very
    # end, was right; a build that goes on with another file reads everything again
    stream: str | None = None
    # of a stream that is no file: what was read of it is told by its bytes
    digest: Digest | None = None

    def recorded(self) -> dict[str, Any]:
        """As JSON holds it; names and labels by their checksum."""
        meta = {**self.meta, "names": checksum(self.names)}
        if self.labels is not None:
            meta["labels"] = checksum(map(str, self.labels))
        return json.loads(json.dumps(meta))


def checksum(lines: Iterable[str]) -> str:
    """SHA-256 of lines of text."""
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


class Building:
    """The folder of a store that is not whole yet; a context for whoever holds its `lock`.

    `store/images.npy` has a row for every name of the plan, `done.txt` says which are on disk (and
    what was odd about them), and `plan.json` what the plan was. Once it is entered, `done` says as
    (N,) bool which rows are written, and `odd` what is odd about some.
    """

    def __init__(self, folder: Path, plan: Plan):
        self.folder, self.plan = folder, plan
        self.file = folder / "store/images.npy"
        self.offset = len(self._header(len(plan.names)))  # of the first row, in bytes

    def __enter__(self) -> "Building":
        self._check_plan()
        self._check_stream()
        self.file.parent.mkdir(exist_ok=True)
        with contextlib.ExitStack() as stack:
            self.log = stack.enter_context(open(self.folder / "done.txt", "a+b", buffering=0))
            self._resume()
            self.resources = stack.pop_all()
        return self

    def __exit__(self, *_) -> None:
        try:
            if self.uncommitted:
                self.commit()
        finally:
            self.resources.close()

    def _check_plan(self) -> None:
        file, plan = self.folder / "plan.json", self.plan.recorded()
        begun = self._begun(file)
        if begun is not None and begun.get("files", {}) != plan.get("files", {}):
            tqdm.write(f"{self.folder}: the files have changed since it was begun; it begins anew")
            self.forget()
            begun = None
        if begun is None:
            file.with_suffix(".new").write_text(json.dumps(plan, indent=1))
            file.with_suffix(".new").replace(file)
            return
        differences = [
            f"{key} was {begun.get(key)!r}, now {value!r}"
            for key, value in plan.items()
            if begun.get(key) != value
        ]
        if differences:
            raise DataError(
                f"{self.folder} was begun otherwise ({'; '.join(differences)}). Delete it, or build"
                " under another name."
            )

    def _check_stream(self) -> None:
        """Forget what was read of another stream; of the same, know what it was."""
        stream, digest = self.folder / "stream.txt", self.plan.digest
        begun = stream.read_text() if stream.exists() else None
        # a checksum of all that is read says nothing of what came from elsewhere, good as it may be
        if begun != self.plan.stream and (begun is not None or digest is not None):
            if (self.folder / "done.txt").exists():
                tqdm.write(f"{self.folder} was begun from another source: all is read again")
            self.forget()
        if self.plan.stream is not None:
            stream.write_text(self.plan.stream)
        if digest is not None:
            marks = self._begun(self.folder / MARKS) or {}
            digest.begin({int(position): md5 for position, md5 in marks.items()})

    def forget(self) -> None:
        """Read everything again the next time: nothing that was read is to be trusted."""
        self.uncommitted = []
        for name in ("done.txt", "stream.txt", MARKS):
            (self.folder / name).unlink(missing_ok=True)

    @staticmethod
    def _begun(file: Path) -> dict[str, Any] | None:
        """What a file says of the build that was begun; None: there was none."""
        if not file.exists():
            return None
        try:
            begun = json.loads(file.read_text())
        except ValueError as error:
            raise DataError(f"{file} is damaged ({error}): delete {file.parent}") from error
        return begun if isinstance(begun, dict) else {}

    def _resume(self) -> None:
        """Read from the log which rows are done, but for those that the file is too short for."""
        self.log.seek(0)
        text = self.log.read()
        whole = text.rfind(b"\n") + 1  # a kill may have cut the last line
        self.log.truncate(whole)
        length = self.file.stat().st_size if self.file.exists() else 0
        self.done, self.odd = np.zeros(len(self.plan.names), bool), {}
        for line in text[:whole].decode(errors="replace").splitlines():
            number, _, oddity = line.partition(" ")
            if not (number.isascii() and number.isdigit()):
                raise DataError(f"{self.log.name} is damaged ({line!r}): delete {self.folder}")
            if self.position(int(number) + 1) <= length:
                self.done[int(number)] = True
                self.odd |= {int(number): oddity} if oddity else {}
        self.uncommitted: list[int] = []
        self.committed = time.monotonic()
        self._set_length(len(self.plan.names))

    def position(self, row: int) -> int:
        """Where a row begins in the file, in bytes."""
        return self.offset + row * self.plan.like.nbytes

    def _header(self, count: int) -> bytes:
        header = io.BytesIO()
        write_header(header, count, self.plan.like.shape, self.plan.like.dtype)
        return header.getvalue()

    def _set_length(self, count: int) -> None:
        """Make the file hold `count` rows; those not written yet take no room."""
        with open(self.file, "r+b" if self.file.exists() else "w+b") as file:
            used = os.fstat(file.fileno()).st_blocks * 512
            needed = count * self.plan.like.nbytes - used
            free = shutil.disk_usage(self.folder).free
            if needed > free:
                raise OSError(
                    errno.ENOSPC,
                    f"{needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free",
                    str(self.file),
                )
            file.write(self._header(count))
            file.truncate(self.position(count))

    def _line(self, row: int) -> str:
        return f"{row} {self.odd[row]}\n" if row in self.odd else f"{row}\n"

    def add(self, rows: list[int], odd: dict[int, str]) -> None:
        """Note rows as written, and what is odd about some; now and then make that last."""
        self.done[rows] = True
        self.odd |= odd
        self.uncommitted += rows
        if time.monotonic() - self.committed > COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Make the rows noted so far outlast a power cut."""
        with open(self.file, "rb") as file:
            os.fsync(file.fileno())  # pixels first: a row is never said to be there before it is
        if self.plan.digest is not None:  # nor before it is known of which bytes it was read
            with open(self.folder / f"{MARKS}.new", "w") as file:
                json.dump(self.plan.digest.recorded(), file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(file.name, self.folder / MARKS)
        self.log.write("".join(map(self._line, self.uncommitted)).encode())
        os.fsync(self.log.fileno())
        self.uncommitted, self.committed = [], time.monotonic()

    def finish(self, left_out: Collection[int], notes: dict[str, Any]) -> Path:
        """Close up the rows that are left out, write index and meta.

        Args:
            left_out: row numbers.
            notes: what `meta.json` says beside the plan's meta.

        Returns:
            The folder that is the store now.

        Raises:
            DataError: all rows are left out.
        """
        self.commit()
        keep = [row for row in range(len(self.plan.names)) if row not in left_out]
        if not keep:
            raise DataError(f"no readable patches for {self.folder.stem}: nothing to store")
        if left_out:
            self._close_up(keep)
        with open(self.file.with_name("index.csv"), "w", newline="", encoding="utf-8") as file:
            labels = self.plan.labels or itertools.repeat("", len(self.plan.names))
            rows = zip(self.plan.names, labels, strict=True)
            rows = (row for number, row in enumerate(rows) if number not in left_out)
            csv.writer(file).writerows(itertools.chain([("name", "label")], rows))
        shape = [len(keep), *self.plan.like.shape]
        with open(self.file, "rb") as file:
            os.fsync(file.fileno())
        sha256 = checksum_of_pixels(self.file, self.offset)
        if self.plan.digest is not None:
            notes = {**notes, "checksum": self.plan.digest.account}
        write_meta(self.file.parent, {**self.plan.meta, **notes}, shape, sha256)
        return self.file.parent

    def _close_up(self, keep: list[int]) -> None:
        # Moved rows are no longer where `done.txt` says: it forgets them first, and a kill in
        # between costs reading them again, but never mixes them up.
        moved = next((new for new, row in enumerate(keep) if new != row), len(keep))
        remaining = self.folder / "done.new"
        remaining.write_text("".join(map(self._line, keep[:moved])))
        remaining.replace(self.folder / "done.txt")
        with open(self.file, "r+b", buffering=0) as file:
            for new, row in enumerate(keep[moved:], moved):
                image = os.pread(file.fileno(), self.plan.like.nbytes, self.position(row))
                write_at(file.fileno(), image, self.position(new))
        self._set_length(len(keep))


def write_at(file: int, data: bytes, position: int) -> None:
    """Write all of `data` into an open file (its descriptor) at a position in bytes."""
    while data:  # a disk that fills up takes a part first, and says why the next time
        written = os.pwrite(file, data, position)
        data, position = data[written:], position + written
