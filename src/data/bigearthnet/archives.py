"""BigEarthNet's archive, read as a stream from end to end and never extracted nor kept.

Damage is found, not passed over: checksums are compared at the end of the stream, a header that
cannot be read ends the reading with an error (Python's tarfile takes it for the end of the
archive), and so does an end without a tar's end blocks.
"""

import contextlib
import functools
import io
import itertools
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from src.data.bands import ALL_BANDS
from src.data.bigearthnet.packed import PACKED, UNPACKING, unpacked
from src.data.bigearthnet.patch import LABELS, MAX_BYTES
from src.data.connections import is_web_page
from src.data.ingest import Task
from src.data.remotes import known_md5
from src.data.streams import READ, Digest, is_stream, open_stream, place
from src.errors import DamagedError, DataError

BLOCK = tarfile.BLOCKSIZE
MAX_HEADER = 1 << 20  # bytes of an extended header of a tar: a name, a few numbers
EXTENDED = b"xgXLK"  # types of those
ZIP = (b"PK\3\4", b"PK\5\6")
# what reading a cut or damaged archive raises
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, *UNPACKING)
KNOWN = {*(f"{band}.tif" for band in ALL_BANDS), LABELS}  # what a patch of Sentinel-2 consists of
# of a file in an archive: folder, patch, suffix, and if it is wanted its bytes or what is wrong
Member = tuple[str, str, str, bytes | DataError | None]
Wanted = Callable[[str, str], bool]  # (patch, suffix)


@dataclass(frozen=True)
class Archive:
    """The archive of a release: .tar, .tar.gz, .tar.zst … or, of a file only, .zip.

    Raises:
        DataError: an address that is not http:// or https://.
        ValueError: that is no MD5.
    """

    root: str | Path  # a file, an address, or "-": standard input
    # 32 hexadecimal digits, what the whole must have; None: of an address what is known of its file
    md5: str | None = None
    stop_when_complete: bool = False  # end before the end, and without its checksum

    def __post_init__(self) -> None:
        if self.md5 is not None and not re.fullmatch("[0-9a-fA-F]{32}", self.md5):
            raise ValueError(f"md5 must be 32 hexadecimal digits, got {self.md5!r}")
        is_stream(self.root)

    def __str__(self) -> str:
        how = "as it comes, kept nowhere" if self.is_stream else "streamed without extracting"
        return f"{self.place} (archive, {how})"

    @property
    def is_stream(self) -> bool:
        """Whether it comes once, from an address or standard input, and is no file."""
        return is_stream(self.root)

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return place(self.root)

    @property
    def expected(self) -> str | None:
        """The MD5 that the whole must have, if one is known."""
        if self.md5 is not None or not self.is_stream:
            return self.md5 and self.md5.lower()
        return known_md5(str(self.root))

    @functools.cached_property
    def digest(self) -> Digest | None:
        """What has been read of it; None: a file that is not compared with an MD5."""
        hashed = self.is_stream or self.md5 is not None or self.stop_when_complete
        return Digest(self.place) if hashed else None

    @property
    def stream(self) -> str | None:
        """Which file this is, if what is read of it is good only after its end; else None."""
        if self.is_stream:
            return "a stream, known by its bytes"
        with open(self.root, "rb") as file:
            start = file.read(8)
        if not start.startswith(tuple(PACKED)) and self.md5 is None:
            return None
        status = Path(self.root).stat()
        return f"{status.st_size} {status.st_mtime_ns}"

    def names(self) -> list[str]:
        """List every patch there is, sorted; takes a pass over the whole archive.

        Raises:
            DataError: it comes only once.
        """
        if self.is_stream:
            raise DataError(
                f"which patches there are is known only at the end of {self.place}, and it comes"
                " once: give a list of them (--split), or v2's metadata.parquet (--metadata)"
            )
        return sorted({patch for _, patch, _, _ in Archive(self.root)._members(lambda *_: False)})

    def tasks(self, rows: dict[str, int], todo: np.ndarray, bands: Sequence[str]) -> Iterator[Task]:
        """Yield the patches still to do as they come by, each with the bytes of its wanted files.

        A patch that comes by twice is an error: nobody knows which copy is meant. Ends where the
        archive does, for its checksum is there, unless told to stop when complete. Arguments as
        those of `Folders.tasks`; `bands` are wanted, and the labels.
        """
        left = int(todo.sum())
        self._say(len(rows) - left)
        if self.stop_when_complete and not left:
            return
        suffixes = {*(f"{band}.tif" for band in bands), LABELS}
        seen: set[str] = set()
        name = self.place.rpartition("/")[2]
        with contextlib.closing(
            self._members(lambda patch, suffix: patch in rows and suffix in suffixes)
        ) as members:
            # the files of one patch follow one another
            for (folder, patch), group in itertools.groupby(members, key=lambda m: m[:2]):
                files = [(suffix, data) for _, _, suffix, data in group if data is not None]
                if patch not in rows:
                    continue
                row, where = rows[patch], f"{name}/{folder}"
                faults = [data for _, data in files if isinstance(data, DataError)]
                if patch in seen or len(files) > len(dict(files)):
                    again = f"{where} is in {name} more than once: leave one copy"
                    yield row, where, DataError(again)
                elif todo[row]:
                    yield row, where, faults[0] if faults else dict(files)
                left -= int(todo[row] and patch not in seen)
                seen.add(patch)
                if self.stop_when_complete and not left:
                    return

    def _say(self, done: int) -> None:
        """What there is to know before hours of reading."""
        if done:
            tqdm.write(f"{done:,} patches are there already; {self.place} is read from its start")
        if self.stop_when_complete:
            tqdm.write("it ends when all selected patches are in, without the archive's checksum")
        elif self.is_stream and self.expected is None:
            tqdm.write("no MD5 is known of it (--md5): only the format's own checksums count")

    def _members(self, wanted: Wanted) -> Iterator[Member]:
        """Every file of every patch of Sentinel-2, in their order."""
        at = "its beginning"
        with open_stream(self.root, self.digest) as content:
            try:
                for path, size, read in self._entries(content):
                    folder, patch, suffix = split_path(path)
                    if suffix not in KNOWN:
                        continue
                    data = None
                    if wanted(patch, suffix):
                        data = _claims_too_much(path, size) if size >= MAX_BYTES else read()
                    at = path
                    yield folder, patch, suffix, data
                while self.digest is not None and content.read(READ):
                    pass  # whatever follows: the checksum is of all
            except DAMAGE as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise  # the machine's fault
                raise self._damage(error, at, content) from error
        if self.digest is not None:
            self.digest.check(self.expected)

    def _entries(self, content: io.BufferedReader) -> Iterator[tuple[str, int, "Read"]]:
        start = content.peek()
        if is_web_page(start):
            raise DataError(f"{self.place} is a web page, not an archive")
        if not start.startswith(ZIP):
            return _tar(content)
        if self.digest is not None:
            raise DataError(
                f"{self.place} is a .zip, which cannot be read as it comes: what is in it is said"
                " at its end, and every file has a checksum of its own. Download it and give the"
                " file, without --md5 or --stop-when-complete."
            )
        return _zip(self.root)

    def _damage(self, error: Exception, at: str, content: io.BufferedReader) -> DataError:
        """What is wrong; of a stream that broke off, which marks guard, rows are kept."""
        broken = isinstance(error, EOFError | tarfile.ReadError) and not content.peek()
        if self.is_stream and broken:
            return DataError(
                f"{self.place} broke off after {self.digest.size:,} bytes, after {at} ({error})."
                " Run again: what was read is kept."
            )
        kind = DamagedError if self.stream else DataError
        return kind(
            f"{self.place} is damaged or cut off after {at} ({error}): check its checksum and"
            " download it again"
        )


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


def _tar(content: io.BufferedReader) -> Iterator[tuple[str, int, Read]]:
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(unpacked(content))
        # "r|": read from beginning to end, as a stream is; its own small buffer: tarfile copies
        # what is left of that at every header and every file
        tar = stack.enter_context(tarfile.open(fileobj=stream, mode="r|", tarinfo=_StrictMember))
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
