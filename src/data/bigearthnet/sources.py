"""The forms of BigEarthNet-S2 on disk: patch folders (v1), those in tile folders (v2), an archive.

An archive (.tar, .tar.gz, .tar.zst …) is streamed from end to end and never extracted; only wanted
bands are decoded.
"""

import contextlib
import itertools
import lzma
import os
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from src.data.bigearthnet.patch import LABELS
from src.data.ingest import Task
from src.errors import DataError

LAYOUTS = ("flat", "tiles", "archive")
# what reading a cut or damaged archive raises
DAMAGE = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError)


def detect(root: str | Path, layout: str = "auto") -> "Folders | Archive":
    """Tell what lies at `root`.

    Args:
        layout: "auto" looks; "flat" (v1 folders), "tiles" (v2 folders) or "archive" says it.

    Raises:
        DataError: nothing is there, or it looks like none of them.
        ValueError: no such layout.
    """
    root = Path(root)
    if layout not in ("auto", *LAYOUTS):
        raise ValueError(f"layout must be 'auto' or one of {LAYOUTS}, not {layout!r}")
    if not root.exists():
        raise DataError(
            f"BigEarthNet not found: no folder or archive {root}. SETUP.md says where to download"
            " it; without a download, run with PROFILE = 'demo'."
        )
    if layout == "archive" or (layout == "auto" and root.is_file()):
        return Archive(root)
    if not root.is_dir():
        raise DataError(f"{root} is a file, but layout={layout!r} means a folder")
    return Folders(root, tiles=_has_tiles(root) if layout == "auto" else layout == "tiles")


def _has_tiles(root: Path) -> bool:
    """Whether the first folder in `root` that holds anything holds folders."""
    for folder in _folders(root):
        with os.scandir(folder) as entries:
            first = next(entries, None)
        if first is not None:
            return first.is_dir()
    raise DataError(
        f"{root} holds no patches: expected <patch>/<patch>_B04.tif (v1) or"
        " <tile>/<patch>/<patch>_B04.tif (v2). Extract the archive again, or give the archive"
        " itself."
    )


def _folders(root: str | Path) -> Iterator[str]:
    with os.scandir(root) as entries:
        yield from (entry.path for entry in entries if entry.is_dir())


@dataclass(frozen=True)
class Folders:
    """Patch folders, as extracted from the archive of a release."""

    root: Path
    tiles: bool  # v2: `<tile>/<patch>/`, the tile being the patch name without its last two fields

    def __str__(self) -> str:
        return f"{self.root} ({'patch folders in tile folders' if self.tiles else 'patch folders'})"

    def names(self) -> list[str]:
        """List every patch there is, sorted."""
        parents = _folders(self.root) if self.tiles else [self.root]
        return sorted(os.path.basename(folder) for parent in parents for folder in _folders(parent))

    def tasks(self, rows: dict[str, int], todo: np.ndarray, bands: Sequence[str]) -> Iterator[Task]:
        """Yield the patches still to do; they are read where they are decoded.

        Args:
            rows: of the patches by name.
            todo: (N,) bool by row.
        """
        for name, row in rows.items():
            if todo[row]:
                tile = [name.rsplit("_", 2)[0]] if self.tiles else []
                yield row, str(Path(self.root, *tile, name)), None


@dataclass(frozen=True)
class Archive:
    """The archive of a release as downloaded."""

    root: Path

    def __str__(self) -> str:
        return f"{self.root} (archive, streamed without extracting)"

    def names(self) -> list[str]:
        """List every patch there is, sorted; takes a pass over the whole archive."""
        return sorted({patch for _, patch, _, _ in self._files(lambda *_: False)})

    def tasks(self, rows: dict[str, int], todo: np.ndarray, bands: Sequence[str]) -> Iterator[Task]:
        """Yield the patches still to do as they come by, each with the bytes of its wanted files.

        A patch that comes by twice is an error: nobody knows which copy is meant. Ends when all
        were met. Arguments as those of `Folders.tasks`; `bands` are wanted, and the labels.
        """
        suffixes = {*(f"{band}.tif" for band in bands), LABELS}
        members = self._files(lambda patch, suffix: patch in rows and suffix in suffixes)
        seen: set[str] = set()
        # the files of one patch follow one another
        for (folder, patch), group in itertools.groupby(members, key=lambda member: member[:2]):
            files = [(suffix, data) for _, _, suffix, data in group if data is not None]
            if patch not in rows:
                continue
            row, where = rows[patch], f"{self.root.name}/{folder}"
            if patch in seen or len(files) > len(dict(files)):
                again = f"{where} is in {self.root.name} more than once: leave one copy"
                yield row, where, DataError(again)
            elif todo[row]:
                yield row, where, dict(files)
            seen.add(patch)
            if len(seen) == len(rows):
                return

    def _files(
        self, wanted: Callable[[str, str], bool]
    ) -> Iterator[tuple[str, str, str, bytes | None]]:
        """Folder, patch, suffix and (if wanted) bytes of every patch's files, in their order."""
        at = "its beginning"
        try:
            with contextlib.ExitStack() as stack:
                tar = _open_tar(self.root, stack)
                while (member := tar.next()) is not None:
                    tar.members.clear()  # or it would remember all 7.7 million of them
                    folder, patch, suffix = _split(member.name)
                    if patch and member.isfile():
                        data = tar.extractfile(member).read() if wanted(patch, suffix) else None
                        at = member.name
                        yield folder, patch, suffix, data
        except _damage() as error:
            raise DataError(
                f"{self.root} is damaged or cut off after {at} ({error}): check its checksum and"
                " download it again"
            ) from error


def _split(path: str) -> tuple[str, str, str]:
    """Folder, patch and suffix of a file: `…/<patch>`, `<patch>`, `B04.tif`.

    Patch and suffix are empty if it is no patch's: its name does not begin with its folder's.
    """
    folder, _, file = path.rpartition("/")
    patch = folder.rpartition("/")[2]
    if not patch or not file.startswith(f"{patch}_"):
        return folder, "", ""
    return folder, patch, file[len(patch) + 1 :]


def _damage() -> tuple[type[Exception], ...]:
    zstandard = sys.modules.get("zstandard")  # imported where an archive needs it
    return (*DAMAGE, *([zstandard.ZstdError] if zstandard else []))


def _open_tar(path: Path, stack: contextlib.ExitStack) -> tarfile.TarFile:
    file: BinaryIO = stack.enter_context(path.open("rb"))
    magic = file.read(4)
    file.seek(0)
    if magic == b"\x28\xb5\x2f\xfd":  # Python reads zstd by itself from 3.14 on
        import zstandard

        file = stack.enter_context(
            zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        )
        return stack.enter_context(tarfile.open(fileobj=file, mode="r|"))
    return stack.enter_context(tarfile.open(fileobj=file, mode="r|*"))
