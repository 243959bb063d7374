"""The forms in which BigEarthNet-S2 lies on disk: patch folders (v1), patch folders in tile folders
(v2), an archive.

An archive (.tar, .tar.gz, .tar.zst …) is streamed from end to end and never extracted; only wanted
bands are decoded.
"""

import contextlib
import itertools
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import zstandard

from src.data.bigearthnet.patch import LABELS
from src.errors import DataError

LAYOUTS = ("flat", "tiles", "archive")
# row, where the patch is, its files by suffix (None: a folder, still to be read; an error: what is
# wrong with it)
Task = tuple[int, str, dict[str, bytes] | DataError | None]


def detect(root: str | Path, layout: str = "auto") -> "Folders | Archive":
    """What lies at `root`; `layout` other than "auto" says it: "flat" (v1 folders), "tiles" (v2
    folders), "archive".

    Raises:
        DataError: nothing is there, or it looks like none of them.
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
    root: Path
    tiles: bool  # v2: `<tile>/<patch>/`, the tile being the patch name without its last two fields

    def __str__(self) -> str:
        return f"{self.root} ({'patch folders in tile folders' if self.tiles else 'patch folders'})"

    def names(self) -> list[str]:
        """Every patch there is, sorted."""
        parents = _folders(self.root) if self.tiles else [self.root]
        return sorted(os.path.basename(folder) for parent in parents for folder in _folders(parent))

    def tasks(self, rows: dict[str, int], todo: np.ndarray, bands: Sequence[str]) -> Iterator[Task]:
        """The patches still to do, (N,) bool by row; they are read where they are decoded."""
        for name, row in rows.items():
            if todo[row]:
                tile = [name.rsplit("_", 2)[0]] if self.tiles else []
                yield row, str(Path(self.root, *tile, name)), None


@dataclass(frozen=True)
class Archive:
    root: Path

    def __str__(self) -> str:
        return f"{self.root} (archive, streamed without extracting)"

    def names(self) -> list[str]:
        """Every patch there is, sorted; takes a pass over the whole archive."""
        return sorted({patch for _, patch, _, _ in self._files(lambda *_: False)})

    def tasks(self, rows: dict[str, int], todo: np.ndarray, bands: Sequence[str]) -> Iterator[Task]:
        """The patches still to do as they come by, each with the bytes of its wanted files.

        A patch that comes by twice is an error: nobody knows which copy is meant. Ends when all
        were met.
        """
        wanted = {*(f"{band}.tif" for band in bands), LABELS}
        seen: set[str] = set()
        # files of one patch follow one another
        files = self._files(lambda patch, suffix: patch in rows and suffix in wanted)
        for (folder, patch), members in itertools.groupby(files, key=lambda file: file[:2]):
            found = [(suffix, data) for _, _, suffix, data in members if data is not None]
            if patch not in rows:
                continue
            where = f"{self.root.name}/{folder}"
            if patch in seen or len(found) > len(dict(found)):
                yield (
                    rows[patch],
                    where,
                    DataError(f"{where} is in {self.root.name} more than once: leave one copy"),
                )
            elif todo[rows[patch]]:
                yield rows[patch], where, dict(found)
            seen.add(patch)
            if len(seen) == len(rows):
                return

    def _files(
        self, wanted: Callable[[str, str], bool]
    ) -> Iterator[tuple[str, str, str, bytes | None]]:
        """Folder, patch and suffix of every patch file, in the archive's order, and its bytes if
        they are wanted.
        """
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
        except (
            tarfile.TarError,
            EOFError,
            zlib.error,
            lzma.LZMAError,
            zstandard.ZstdError,
        ) as error:
            raise DataError(
                f"{self.root} is damaged or cut off after {at} ({error}): check its checksum and"
                " download it again"
            ) from error


def _split(path: str) -> tuple[str, str, str]:
    """`…/<patch>/<patch>_B04.tif` → its folder, `<patch>`, `B04.tif`; for other files the last two
    are empty.
    """
    folder, _, file = path.rpartition("/")
    patch = folder.rpartition("/")[2]
    return (
        (folder, patch, file[len(patch) + 1 :])
        if patch and file.startswith(f"{patch}_")
        else (folder, "", "")
    )


def _open_tar(path: Path, stack: contextlib.ExitStack) -> tarfile.TarFile:
    file: BinaryIO = stack.enter_context(path.open("rb"))
    magic = file.read(4)
    file.seek(0)
    if magic == b"\x28\xb5\x2f\xfd":  # Python reads zstd by itself from 3.14 on
        file = stack.enter_context(
            zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        )
        return stack.enter_context(tarfile.open(fileobj=file, mode="r|"))
    return stack.enter_context(tarfile.open(fileobj=file, mode="r|*"))
