"""BigEarthNet-S2 v1 (Sumbul et al. 2019, arXiv 1902.06148) and v2, reBEN (Clasen et al. 2024, arXiv
2407.03653): which patches, and from whatever form they lie in on disk into one store.

Command line: `python -m src.data.bigearthnet ROOT STORE --split train.csv`.
"""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from src.data.bands import BANDS, EUROSAT_STRETCH
from src.data.bigearthnet.patch import SIZE, read_patch
from src.data.bigearthnet.selection import OFFICIAL, account, select
from src.data.bigearthnet.sources import LAYOUTS, Archive, Folders, detect
from src.data.ingest import build
from src.data.store import PatchStore, open_if_there
from src.errors import DataError


def bigearthnet_store(
    root: str | Path,
    path: str | Path,
    split: str | Path | None = None,
    stretch: float | str = EUROSAT_STRETCH,
    max_unreadable: float = 0.01,
    *,
    bands: str = "rgb",
    metadata: str | Path | None = None,
    exclude: Sequence[str | Path] = (),
    countries: Sequence[str] = (),
    months: Sequence[int] = (),
    fraction: float = 1.0,
    seed: int = 0,
    layout: str = "auto",
    workers: int | None = None,
) -> PatchStore:
    """Open the store at `path`, building it from `root` if it is not there yet, or going on where a
    build was stopped.

    Rows are in the order of the split list (of `metadata`, or by name, where there is none),
    whatever `root` is. Unreadable patches are left out and listed with the reason in
    `<path>-unreadable.csv`: data is never made up.

    Args:
        root: folder of patch folders (v1, `…/BigEarthNet-v1.0`), of tile folders (v2,
            `…/BigEarthNet-S2`), or the archive itself (.tar.gz, .tar.zst), which is streamed and
            not extracted.
        split: list with one patch name per line, first column (the official lists, .bz2 and .gz
            too); or "train", "validation" or "test" of `metadata`; None takes every patch.
        stretch: of RGB, see `read_rgb`.
        max_unreadable: share of unreadable patches, in [0, 1], above which the build stops with an
            error.
        bands: "rgb", (120, 120, 3) uint8; or "all", (120, 120, 12) uint16 in the order of
            ALL_BANDS, coarser bands repeated to 10 m.
        metadata: v2's `metadata.parquet`, or a CSV with `patch_id` (or `s2_name`) and `country`.
            Patches that it flags as snow, cloud or shadow are excluded.
        exclude: more lists of patches to leave out (v1's snow and cloud lists).
        countries, months: take only these (months as 1…12, from the names); empty: all.
        fraction: take this share of what is left, drawn from `seed`.
        layout: "flat", "tiles" or "archive" where "auto" is wrong.
        workers: processes; None: as many as cores.

    Raises:
        DataError: data or list missing, too many unreadable patches, disk full; see
            `src.data.ingest.build`.
    """
    if stretch != "percentile" and not (isinstance(stretch, int | float) and stretch > 0):
        raise ValueError(f"stretch must be positive or 'percentile', got {stretch!r}")
    if bands not in BANDS:
        raise ValueError(f"bands must be one of {list(BANDS)}, got {bands!r}")
    root, path = Path(root), Path(path)
    asked: dict[str, Any] = {
        "split": Path(split).name if split else None,
        "selection": {
            "metadata": Path(metadata).name if metadata else None,
            "exclude": [Path(file).name for file in exclude],
            "countries": list(countries),
            "months": list(months),
            "fraction": fraction,
            "seed": seed,
        },
        "bands": list(BANDS[bands]),
        **({"stretch": stretch} if bands == "rgb" else {"resampling": "nearest"}),
    }
    if store := open_if_there(path, asked):
        return store
    source = detect(root, layout)
    tqdm.write(f"BigEarthNet from {source}")
    names, counts = select(source, split, metadata, exclude, countries, months, fraction, seed)
    release = "v2" if names[0].count("_") == 7 else "v1"  # v2 names tell orbit and tile too
    like = np.zeros((SIZE, SIZE, len(BANDS[bands])), np.uint8 if bands == "rgb" else np.uint16)
    store = build(
        path,
        names,
        functools.partial(source.tasks, bands=BANDS[bands]),
        functools.partial(
            read_patch, bands=BANDS[bands], stretch=stretch if bands == "rgb" else None
        ),
        # where it was read is not compared: a store begun from the archive may be finished from its
        # folders
        like,
        {"kind": f"bigearthnet-{release}-{bands}", **asked},
        {"source": str(root.absolute()), "counts": counts},
        max_unreadable=max_unreadable,
        workers=workers,
    )
    part = Path(split).name.split(".")[0].replace("validation", "val") if split else None
    tqdm.write(account(store.meta["counts"], OFFICIAL[release].get(part)))
    return store
