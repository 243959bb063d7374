"""BigEarthNet's archive as downloaded, read as a stream from end to end and never extracted.

Damage is found, not passed over: checksums are compared at the end of the stream, a header that
cannot be read ends the reading with an error (Python's tarfile takes it for the end of the
archive), and so does an end without a tar's end blocks.
"""

import bz2
import contextlib
import functools
import gzip
import itertools
import lzma
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from src.data.bands import ALL_BANDS
from src.data.bigearthnet.patch import LABELS, MAX_BYTES
from src.data.ingest import Task
from src.errors import DamagedError, DataError

BLOCK = tarfile.BLOCKSIZE
READ = 1 << 20  # bytes at a time
MAX_HEADER = 1 << 20  # bytes of an extended header of a tar: a name, a few numbers
EXTENDED = b"xgXLK"  # types of those
# first bytes → how to read what is packed so; each checks the checksums that its format has
PACKED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
ZSTD, ZIP = b"\x28\xb5\x2f\xfd", (b"PK\3\4", b"PK\5\6")
# what reading a cut or damaged archive raises; OSError: from gzip and bz2, without a number
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, OSError)
KNOWN = {*(f"{band}.tif" for band in ALL_BANDS), LABELS}  # what a patch of Sentinel-2 consists of
# of a file in an archive: folder, patch, suffix, and if it is wanted its bytes or what is wrong
Member = tuple[str, str, str, bytes | DataError | None]
Wanted = Callable[[str, str], bool]  # (patch, suffix)


@dataclass(frozen=True)
class Archive:
    """The archive of a release as downloaded: .tar, .tar.gz, .tar.zst, .zip …"""

    root: Path

    def __str__(self) -> str:
        return f"{self.root} (archive, streamed without extracting)"

    @property
    def stream(self) -> str | None:
        """Which file this is, if what is read of it is good only after its end; else None."""
        start = self._start()
        if not start.startswith((ZSTD, *PACKED)):
            return None
        status = self.root.stat()
        return f"{status.st_size} {status.st_mtime_ns}"

    def _start(self) -> bytes:
        with open(self.root, "rb") as file:
            return file.read(8)

    def names(self) -> list[str]:
        """List every patch there is, sorted; takes a pass over the whole archive."""
        return sorted({patch for _, patch, _, _ in self._members(lambda *_: False)})

    def tasks(self, rows: dict[str, int], todo: np.ndarray, bands: Sequence[str]) -> Iterator[Task]:
        """Yield the patches still to do as they come by, each with the bytes of its wanted files.

        A patch that comes by twice is an error: nobody knows which copy is meant. Ends where the
        archive does, for its checksum is there. Arguments as those of `Folders.tasks`; `bands` are
        wanted, and the labels.
        """
        suffixes = {*(f"{band}.tif" for band in bands), LABELS}
        members = self._members(lambda patch, suffix: patch in rows and suffix in suffixes)
        seen: set[str] = set()
        # the files of one patch follow one another
        for (folder, patch), group in itertools.groupby(members, key=lambda member: member[:2]):
            files = [(suffix, data) for _, _, suffix, data in group if data is not None]
            if patch not in rows:
                continue
            row, where = rows[patch], f"{self.root.name}/{folder}"
            faults = [data for _, data in files if isinstance(data, DataError)]
            if patch in seen or len(files) > len(dict(files)):
                again = f"{where} is in {self.root.name} more than once: leave one copy"
                yield row, where, DataError(again)
            elif todo[row]:
                yield row, where, faults[0] if faults else dict(files)
            seen.add(patch)

    def _members(self, wanted: Wanted) -> Iterator[Member]:
        """Every file of every patch of Sentinel-2, in their order."""
        zipped = self._start().startswith(ZIP)
        at = "its beginning"
        try:
            for path, size, read in _zip(self.root) if zipped else _tar(self.root):
                folder, patch, suffix = split_path(path)
                if suffix not in KNOWN:
                    continue
                data = None
                if wanted(patch, suffix):
                    data = _claims_too_much(path, size) if size >= MAX_BYTES else read()
                at = path
                yield folder, patch, suffix, data
        except (*DAMAGE, *_zstd_errors()) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the machine's fault
            kind = DamagedError if self.stream else DataError
            raise kind(
                f"{self.root} is damaged or cut off after {at} ({error}): check its checksum and"
                " download it again"
            ) from error


def split_path(path: str) -> tuple[str, str, str]:
    """Folder, patch and suffix of a file: `…/<patch>`, `<patch>`, `B04.tif`.

    Patch and suffix are empty if it is no patch's: its name does not begin with its folder's.
    """
    folder, _, file = path.rpartition("/")
    patch = folder.rpartition("/")[2]
    if not patch or not file.startswith(f"{patch}_"):
        return folder, "", ""
    return folder, patch, file[len(patch) + 1 :]


def _claims_too_much(path: str, size: int) -> DataError:
    return DataError(f"{path} cannot be read ({size:,} bytes, more than {MAX_BYTES:,}): damaged")


# path, size in bytes, and how to read it now, before the next
Read = Callable[[], bytes | DataError]


def _zip(file: Path) -> Iterator[tuple[str, int, Read]]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            yield info.filename, info.file_size, functools.partial(_from_zip, archive, info)


def _from_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes | DataError:
    """The bytes of a member, whose checksum is its own: damage of one is no other's."""
    try:
        return archive.read(info)
    except (*DAMAGE, RuntimeError, NotImplementedError) as error:  # those: a password, a method
        if isinstance(error, OSError) and error.errno is not None:
            raise
        return DataError(f"{info.filename} is damaged in {archive.filename} ({error})")


def _tar(file: Path) -> Iterator[tuple[str, int, Read]]:
    with contextlib.ExitStack() as stack:
        stream = _unpacked(file, stack)
        # "r|": read from beginning to end, as a stream is
        options = {"mode": "r|", "bufsize": READ, "tarinfo": _StrictMember}
        tar = stack.enter_context(tarfile.open(fileobj=stream, **options))
        while (member := tar.next()) is not None:
            tar.members.clear()  # or it would remember all 7.7 million of them
            if member.isfile():
                yield member.name, member.size, lambda m=member: tar.extractfile(m).read()
        while rest := tar.fileobj.read(READ):  # to the very end, where checksums are
            if rest.count(0) < len(rest):
                raise tarfile.ReadError("more follows its end blocks")


class _StrictMember(tarfile.TarInfo):
    """A member whose header must be whole: tarfile takes a damaged one for the archive's end."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> "_StrictMember":
        """Decode a header block; see `tarfile.TarInfo.frombuf`."""
        if len(buf) == BLOCK and buf.count(0) == BLOCK:
            return super().frombuf(buf, encoding, errors)  # raises what says that this is the end
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no whole header, no end blocks: {error}") from error
        if member.size < 0 or (member.type in EXTENDED and member.size > MAX_HEADER):
            raise tarfile.ReadError(f"a header claims {member.size:,} bytes")
        return member


def _unpacked(file: Path, stack: contextlib.ExitStack) -> BinaryIO:
    content: BinaryIO = stack.enter_context(file.open("rb"))
    start = content.read(8)
    content.seek(0)
    if start.startswith(ZSTD):  # Python reads zstd by itself from 3.14 on
        import zstandard

        decompressor = zstandard.ZstdDecompressor()
        return stack.enter_context(decompressor.stream_reader(content, read_across_frames=True))
    opener = next((opener for magic, opener in PACKED.items() if start.startswith(magic)), None)
    return stack.enter_context(opener(content)) if opener else content


def _zstd_errors() -> tuple[type[Exception], ...]:
    """The package is needed for `.tar.zst` alone."""
    module = sys.modules.get("zstandard")
    return (module.ZstdError,) if module else ()
