"""BigEarthNet-S2 from whatever form it lies in on disk into one store.

Both releases: v1 (Sumbul et al. 2019, arXiv 1902.06148) and v2, reBEN (Clasen et al. 2024, arXiv
2407.03653). Command line: `python -m src.data.bigearthnet ROOT STORE --split train.csv`.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from src.data.bands import BANDS, EUROSAT_STRETCH
from src.data.bigearthnet.patch import SIZE, read_patch
from src.data.bigearthnet.selection import EVERY_PATCH, OFFICIAL, Selection, account, select
from src.data.bigearthnet.sources import Archive, Folders, detect
from src.data.building import Plan
from src.data.ingest import Decode, build
from src.data.store import PatchStore, open_if_there
from src.data.streams import is_stream, place
from src.errors import DataError


def bigearthnet_store(
    root: str | Path | Archive,
    path: str | Path,
    selection: Selection = EVERY_PATCH,
    *,
    bands: str = "rgb",
    stretch: float | str = EUROSAT_STRETCH,
    layout: str = "auto",
    max_unreadable: float = 0.01,
    workers: int | None = None,
) -> PatchStore:
    """Open the store at `path`, or build it from `root`, going on where a build was stopped.

    Rows are in the order of the selection's split list (of its metadata, or by name, where there is
    none), whatever `root` is. Unreadable patches are left out and listed with the reason in
    `<path>-unreadable.csv`: data is never made up. A store of a folder in which some of these can
    be read by now is built again; without a list also where patches were added, and it is refused
    where any are gone.

    Args:
        root: folder of patch folders (v1, `…/BigEarthNet-v1.0`), of tile folders (v2,
            `…/BigEarthNet-S2`), a folder around it, or the archive itself (.tar.gz, .tar.zst,
            .zip), which is streamed and not extracted; or its address (https://…) or "-", standard
            input, which are read as they come and kept nowhere. An `Archive` says its MD5, and
            whether to stop when complete.
        bands: "rgb", (120, 120, 3) uint8; or "all", (120, 120, 12) uint16 in the order of
            ALL_BANDS, coarser bands repeated to 10 m.
        stretch: of RGB: the digital number that becomes white, or "percentile"; see
            `src.data.bands.to_uint8`.
        layout: "flat", "tiles" or "archive" where "auto" is wrong.
        max_unreadable: share of unreadable patches, in [0, 1], above which the build stops with an
            error.
        workers: processes; None: see `src.data.ingest.build`.

    Raises:
        DataError: data or list missing, too many unreadable patches, disk full; see
            `src.data.ingest.build`.
        ValueError: bands, stretch or layout make no sense.
    """
    path = Path(path)
    wanted = {**selection.recorded(), **_rendering(bands, stretch)}
    rendered = {"bands": BANDS[bands], "stretch": stretch if bands == "rgb" else None}
    read = functools.partial(read_patch, **rendered)
    store = open_if_there(path, wanted)
    if store and not (_is_folder(root) and _outdated(store, detect(root, layout), selection, read)):
        return store
    source = detect(root, layout)
    tqdm.write(f"BigEarthNet from {source}")
    names, counts = select(source, selection)
    release = _release(names)
    like = np.zeros((SIZE, SIZE, len(BANDS[bands])), np.uint8 if bands == "rgb" else np.uint16)
    # not from where: a store begun from the archive may be finished from its folders
    kind = {"kind": f"bigearthnet-{release}-{bands}"}
    notes = {"source": _origin(root), "counts": counts}
    plan = Plan(names, like, kind | wanted, notes=notes, stream=source.stream, digest=source.digest)
    store = build(
        path,
        plan,
        functools.partial(source.tasks, bands=BANDS[bands]),
        read,
        max_unreadable=max_unreadable,
        workers=workers,
        replace=store is not None,
    )
    tqdm.write(account(store.meta["counts"], _official(release, selection)))
    return store


def _is_folder(root: str | Path | Archive) -> bool:
    return not isinstance(root, Archive) and not is_stream(root) and Path(root).is_dir()


def _origin(root: str | Path | Archive) -> str:
    """What `meta.json` says of where the images are from."""
    root = root.root if isinstance(root, Archive) else root
    return place(root) if is_stream(root) else str(Path(root).absolute())


def _outdated(
    store: PatchStore, source: Folders | Archive, selection: Selection, read: Decode
) -> bool:
    """Whether the folders hold patches by now that the store lacks. DataError: some are gone."""
    have, report = set(store.names), store.path.with_name(f"{store.path.name}-unreadable.csv")
    table = pd.read_csv(report, dtype=str) if report.is_file() else {"name": ()}
    left_out = {name: row for row, name in enumerate(table["name"]) if name not in have}
    todo = np.ones(len(table["name"]), bool)
    new = sum(_is_readable(read, folder) for _, folder, _ in source.tasks(left_out, todo, ()))
    if selection.split is None and selection.metadata is None:
        now = set(select(source, selection)[0])
        if gone := have - now:
            raise DataError(
                f"{source} has changed since {store.path} was built from it: {len(gone)} patches"
                f" are gone, {min(gone)} first. Delete the store to build it anew, or open it by"
                " itself, `PatchStore.open`."
            )
        new += len(now - have - set(left_out))
    if new:
        tqdm.write(f"{store.path} lacks {new:,} patches that {source} has: it is built anew")
    return bool(new)


def _is_readable(read: Decode, folder: str) -> bool:
    try:
        read(folder, None)
    except DataError:
        return False
    return True


def _release(names: list[str]) -> str:
    """ "v1" or "v2", whose patches' names have orbit and tile too. DataError: both."""
    releases = {"v2" if name.count("_") == 7 else "v1": name for name in reversed(names)}
    if len(releases) > 1:
        raise DataError(
            f"patches of both releases, such as {releases['v1']} (v1) and {releases['v2']} (v2):"
            " build a store of each"
        )
    return next(iter(releases))


def _rendering(bands: str, stretch: float | str) -> dict[str, Any]:
    """What `meta.json` says of how the images were made."""
    if stretch != "percentile" and not (isinstance(stretch, int | float) and stretch > 0):
        raise ValueError(f"stretch must be positive or 'percentile', got {stretch!r}")
    if bands not in BANDS:
        raise ValueError(f"bands must be one of {list(BANDS)}, got {bands!r}")
    how = {"stretch": stretch} if bands == "rgb" else {"resampling": "nearest"}
    return {"bands": list(BANDS[bands]), **how}


def _official(release: str, selection: Selection) -> int | None:
    """Patches in the release's official split of this name; None: it has none of this name."""
    split = selection.split and Path(selection.split).name.split(".")[0]
    return OFFICIAL[release].get(split and split.replace("validation", "val"))
