"""Bytes as they come, from a file, a pipe or an address, counted and hashed on the way.

What was read is good once the checksum of all of it was right. A reading that was stopped notes
how many bytes it had seen and their MD5; the next compares when it comes by there, so that what it
need not read again is known to be of the same bytes.
"""

import functools
import hashlib
import http.client
import io
import sys
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from tqdm.auto import tqdm

from src.data.connections import BUSY, FAILURES, SCHEMES, Answer, ask, refusal, shown, total_of
from src.errors import DamagedError, DataError

STANDARD_INPUT = "-"
READ = 1 << 20  # bytes at a time
PAUSES = (1, 2, 5, 15, 60)  # seconds before a connection is tried again, so often
PROGRESS = 16 << 20  # bytes after which those tries are counted anew
AGAIN = "Run again to read it anew: nothing that was read of it counts"


class Digest:
    """Number and MD5 of the bytes read so far, and whether they were right.

    `marks` are those of readings before, position → MD5: they are compared on the way.
    """

    def __init__(self, name: str) -> None:
        self.name = name  # for messages
        self.begin({})

    def begin(self, marks: dict[int, str]) -> None:
        """Set all back to the beginning of the stream."""
        self._md5, self.size = hashlib.md5(usedforsecurity=False), 0
        self.marks = dict(marks)
        # what `meta.json` shall say
        self.account = "not seen: the reading ended when every selected patch was in"

    def update(self, block: bytes) -> None:
        """Take in the bytes that come next.

        Raises:
            DamagedError: they are not those that a reading before has read.
        """
        for position in sorted(self.marks):
            if position > self.size + len(block):
                break
            before, block = block[: position - self.size], block[position - self.size :]
            self._add(before)
            if self.marks.pop(position) != self.hexdigest():
                raise DamagedError(
                    f"{self.name}: the first {position:,} bytes are not those that were read"
                    f" before: another file, or damaged on the way. {AGAIN}."
                )
        self._add(block)

    def _add(self, block: bytes) -> None:
        self._md5.update(block)
        self.size += len(block)

    def hexdigest(self) -> str:
        """MD5 of the bytes so far."""
        return self._md5.hexdigest()

    def recorded(self) -> dict[int, str]:
        """The marks of this reading, and of those before that it has not come by yet."""
        return {**self.marks, self.size: self.hexdigest()}

    def check(self, md5: str | None) -> None:
        """At the end of the stream: what came must be all of it and have this MD5, if it is known.

        Raises:
            DamagedError: it is not.
        """
        if self.marks:
            raise DamagedError(
                f"{self.name} ends after {self.size:,} bytes, {max(self.marks):,} were read before:"
                f" another file. {AGAIN}."
            )
        if md5 not in (None, self.hexdigest()):
            raise DamagedError(
                f"{self.name} has {self.size:,} bytes with MD5 {self.hexdigest()}, expected {md5}:"
                f" damaged on the way, or another file (--md5 says which is right). {AGAIN}."
            )
        self.account = f"md5 {self.hexdigest()}, {'as expected' if md5 else 'compared with none'}"


def is_stream(root: object) -> bool:
    """Whether this is no path, but an address or standard input.

    Raises:
        DataError: an address of a kind that is not read.
    """
    scheme, found, _ = str(root).partition("://")
    if not found or not isinstance(root, str):
        return root == STANDARD_INPUT
    if scheme.lower() not in SCHEMES or not urlsplit(root).hostname:
        raise DataError(
            f"{shown(root)} is no address that is read: expected http://host/… or https://host/…,"
            f" the path of a file or folder, or {STANDARD_INPUT} (standard input)"
        )
    return True


def place(root: str | Path) -> str:
    """What messages and records call it: an address without user, password and query."""
    if not is_stream(root):
        return str(root)
    return "standard input" if root == STANDARD_INPUT else shown(root)


def open_stream(root: str | Path, digest: Digest | None) -> io.BufferedReader:
    """Open a file, an address or standard input, to be read from beginning to end.

    What goes wrong with a connection is a DataError of what is read then, if trying again does not
    help; see `Digest.update` too, which is told of every byte.
    """
    if not is_stream(root):
        blocks = _file_blocks(Path(root))
    elif root == STANDARD_INPUT:
        blocks = _standard_input_blocks()
    else:
        return io.BufferedReader(_Blocks(http_blocks(root, digest)), READ)
    return io.BufferedReader(_Blocks(_hashed(blocks, digest) if digest else blocks), READ)


class _Blocks(io.RawIOBase):
    """Blocks as a file, whose `peek` shows its beginning however small the first of them are."""

    def __init__(self, blocks: Iterator[bytes]):
        self.blocks, self.rest = blocks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        filled = 0
        while filled < len(buffer):
            self.rest = self.rest or memoryview(next(self.blocks, b""))
            taken = self.rest[: len(buffer) - filled]
            if not taken:
                break
            buffer[filled : filled + len(taken)] = taken
            filled, self.rest = filled + len(taken), self.rest[len(taken) :]
        return filled

    def close(self) -> None:
        self.blocks.close()  # and the connection with it
        super().close()


def _file_blocks(file: Path) -> Iterator[bytes]:
    with open(file, "rb") as content:
        yield from iter(functools.partial(content.read, READ), b"")


def _standard_input_blocks() -> Iterator[bytes]:
    if sys.stdin is None or sys.stdin.isatty():
        raise DataError("nothing comes from standard input: pipe the archive in (curl … | …)")
    yield from iter(functools.partial(sys.stdin.buffer.read1, READ), b"")


def _hashed(blocks: Iterator[bytes], digest: Digest) -> Iterator[bytes]:
    for block in blocks:
        digest.update(block)
        yield block


def http_blocks(url: str, digest: Digest) -> Iterator[bytes]:
    """Yield a file from an address; where a connection breaks or stalls, from the next one.

    Raises:
        DataError: no connection, the server refuses, or tries enough were in vain.
        DamagedError: the file is another by now.
    """
    first, tries, progress = None, 0, 0
    while True:
        try:
            answer = ask(url, digest.size, first and first.version)
            first = first or answer
            with answer.response:
                yield from _from_there_on(answer, first, digest, url)
            return
        except urllib.error.HTTPError as error:
            with error:  # it holds the connection
                if error.code == 416 and digest.size:  # there is nothing beyond what we have
                    if total_of(error) in (None, digest.size):
                        return
                    raise _changed(url) from error
                if error.code not in BUSY:
                    raise DataError(refusal(error, url)) from error
                reason = refusal(error, url)
        except FAILURES as error:
            reason = f"no connection to {shown(url)} ({error or type(error).__name__})"
        if digest.size >= progress + PROGRESS:
            tries, progress = 0, digest.size
        if first is None or tries == len(PAUSES):
            raise DataError(f"{reason}. Run again: what was read is kept.")
        tqdm.write(f"{reason}: on from byte {digest.size:,} in {PAUSES[tries]:g} s")
        time.sleep(PAUSES[tries])
        tries += 1


def _from_there_on(answer: Answer, first: Answer, digest: Digest, url: str) -> Iterator[bytes]:
    """The bytes of a file that `digest` has not seen."""
    known = ((first.version, answer.version), (first.total, answer.total))
    if any(None not in pair and len(set(pair)) == 2 for pair in known):
        raise _changed(url)
    again = digest.size - answer.begins
    if again:
        tqdm.write(f"{shown(url)} is served from its start only: {again:,} bytes are skipped")
    skipped = hashlib.md5(usedforsecurity=False)
    for block in answer.blocks():
        if again:
            before, block = block[:again], block[again:]
            again -= len(before)
            skipped.update(before)
            if not again and skipped.hexdigest() != digest.hexdigest():
                raise _changed(url)
        if block:
            digest.update(block)
            yield block
    if again:
        raise http.client.IncompleteRead(b"", again)


def _changed(url: str) -> DamagedError:
    return DamagedError(f"{shown(url)} has changed while it was read. {AGAIN}.")
