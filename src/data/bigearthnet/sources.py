"""The forms of BigEarthNet-S2 on disk: patch folders (v1), those in tile folders (v2), an archive.

Found in an outer folder too, and beside Sentinel-1's patches and the reference maps, which are no
part of it.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.data.bigearthnet.archives import Archive
from src.data.folders import holds, is_folder, is_hidden
from src.data.ingest import Task
from src.data.streams import is_stream
from src.errors import DataError

LAYOUTS = ("flat", "tiles", "archive")
SENTINEL_1 = ("S1A_", "S1B_", "S1C_")
LOOKED_AT = 50  # folders in a folder, to tell what it holds: some may be empty or damaged
DEPTH = 2  # outer folders


def detect(root: str | Path | Archive, layout: str = "auto") -> "Folders | Archive":
    """Tell what lies at `root`.

    Args:
        root: a folder, an archive, its address, or "-": standard input.
        layout: "auto" looks, also into folders inside; "flat" (v1 folders), "tiles" (v2 folders) or
            "archive" says it.

    Raises:
        DataError: nothing is there, it looks like none of them, or there are two.
        ValueError: no such layout.
    """
    if layout not in ("auto", *LAYOUTS):
        raise ValueError(f"layout must be 'auto' or one of {LAYOUTS}, not {layout!r}")
    archive = root if isinstance(root, Archive) else None
    if archive is None and is_stream(root):
        archive = Archive(root)
    if archive and layout in ("flat", "tiles"):
        raise DataError(f"{archive} is an archive, but layout={layout!r} means a folder")
    if archive and archive.is_stream:
        return archive
    root = Path(archive.root if archive else root)
    if not root.exists():
        raise DataError(
            f"BigEarthNet not found: no folder or archive {root}. SETUP.md says where to download"
            " it; without a download, run with PROFILE = 'demo'."
        )
    if root.name == "data.mdb" or (root / "data.mdb").is_file():
        raise DataError(
            f"{root} is an LMDB, as rico-hdl writes, of tensors without their GeoTIFFs: give the"
            " folder or the archive that it was made from"
        )
    if layout == "archive" or (layout == "auto" and root.is_file()):
        return archive or Archive(root)
    if archive:
        raise DataError(f"{root} is a folder: md5 and stop_when_complete are of an archive")
    if not root.is_dir():
        raise DataError(f"{root} is a file, but layout={layout!r} means a folder")
    return _find(root) if layout == "auto" else Folders(root, tiles=layout == "tiles")


def _find(root: Path) -> "Folders":
    """The folder of the patches, which is `root` or inside."""
    level = [root]
    for _ in range(DEPTH + 1):
        found = [(folder, tiles) for folder in level for tiles in _forms(folder)]
        if len(found) > 1:
            forms = ", ".join(f"{f} ({'v2, tile' if t else 'v1, patch'} folders)" for f, t in found)
            raise DataError(f"{root} holds BigEarthNet-S2 more than once: give one of {forms}")
        if found:
            return Folders(*found[0])
        level = [Path(path) for f in level for path in itertools.islice(_folders(f), LOOKED_AT)]
    packed = [name for name in sorted(os.listdir(root)) if name.endswith((".zip", ".gz", ".zst"))]
    if packed:
        raise DataError(f"{root} holds {packed[0]}: give that file itself")
    raise DataError(
        f"{root} holds no patches: expected <patch>/<patch>_B04.tif (v1) or"
        f" <tile>/<patch>/<patch>_B04.tif (v2), of Sentinel-2; {holds(root)}. Extract the archive"
        " again, or give the archive itself."
    )


def _forms(root: Path) -> Iterator[bool]:
    """Whether `root` holds patch folders (False), tile folders (True), or both, or neither."""
    some = list(itertools.islice(_folders(root), LOOKED_AT))
    if any(map(_is_patch, some)):
        yield False
    inner = ((tile, patch) for tile in some for patch in itertools.islice(_folders(tile), 3))
    if any(_tile(patch) == os.path.basename(tile) and _is_patch(patch) for tile, patch in inner):
        yield True


def _is_patch(folder: str) -> bool:
    start = f"{os.path.basename(folder)}_B"
    return any(name.startswith(start) and name.endswith(".tif") for name in os.listdir(folder))


def _tile(patch: str) -> str:
    """v2: the name of a patch's tile folder is its own without the last two fields."""
    return os.path.basename(patch).rsplit("_", 2)[0]


def _folders(root: str | Path) -> Iterator[str]:
    """The folders in a folder that may be of Sentinel-2."""
    with os.scandir(root) as entries:
        for entry in entries:
            unwanted = is_hidden(entry.name) or entry.name.startswith(SENTINEL_1)
            if is_folder(entry) and not unwanted:
                yield entry.path


@dataclass(frozen=True)
class Folders:
    """Patch folders, as extracted from the archive of a release."""

    root: Path
    tiles: bool  # v2: `<tile>/<patch>/`
    stream = digest = None  # see `Archive.stream`: of folders every file is good by itself

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
                tile = [_tile(name)] if self.tiles else []
                yield row, str(Path(self.root, *tile, name)), None
