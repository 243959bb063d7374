"""BigEarthNet-S2 v1 (Sumbul et al. 2019, arXiv 1902.06148) and v2, reBEN (Clasen et al. 2024, arXiv 2407.03653): which
patches, and from whatever form they lie in on disk into one store.

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

from src.data.ingest import build
from src.data.patch import BANDS, EUROSAT_STRETCH, SIZE, read_patch
from src.data.sources import LAYOUTS, Archive, Folders, detect
from src.data.store import DataError, PatchStore, open_if_there

# patches of the official splits; v1's lists leave out 61,707 with seasonal snow and 9,280 with clouds or shadows
OFFICIAL = {
    "v1": {"train": 269_695, "val": 123_723, "test": 125_866, None: 590_326},
    "v2": {"train": 237_871, "val": 122_342, "test": 119_825, None: 549_488},
}
FLAGS = ("contains_seasonal_snow", "contains_cloud_or_shadow")  # columns of v2's metadata


def bigearthnet_store(
    root: str | Path, path: str | Path, split: str | Path | None = None,
    stretch: float | str = EUROSAT_STRETCH, max_unreadable: float = 0.01, *,
    bands: str = "rgb", metadata: str | Path | None = None, exclude: Sequence[str | Path] = (),
    countries: Sequence[str] = (), months: Sequence[int] = (), fraction: float = 1.0, seed: int = 0,
    layout: str = "auto", workers: int | None = None,
) -> PatchStore:  # fmt: skip
    """Open the store at `path`, building it from `root` if it is not there yet, or going on where a build was stopped.

    Rows are in the order of the split list (of `metadata`, or by name, where there is none), whatever `root` is.
    Unreadable patches are left out and listed with the reason in `<path>-unreadable.csv`: data is never made up.

    Args:
        root: folder of patch folders (v1, `…/BigEarthNet-v1.0`), of tile folders (v2, `…/BigEarthNet-S2`), or the
            archive itself (.tar.gz, .tar.zst), which is streamed and not extracted.
        split: list with one patch name per line, first column (the official lists, .bz2 and .gz too); or "train",
            "validation" or "test" of `metadata`; None takes every patch.
        stretch: of RGB, see `read_rgb`.
        max_unreadable: share of unreadable patches, in [0, 1], above which the build stops with an error.
        bands: "rgb", (120, 120, 3) uint8; or "all", (120, 120, 12) uint16 in the order of ALL_BANDS, coarser bands
            repeated to 10 m.
        metadata: v2's `metadata.parquet`, or a CSV with `patch_id` (or `s2_name`) and `country`. Patches that it flags
            as snow, cloud or shadow are excluded.
        exclude: more lists of patches to leave out (v1's snow and cloud lists).
        countries, months: take only these (months as 1…12, from the names); empty: all.
        fraction: take this share of what is left, drawn from `seed`.
        layout: "flat", "tiles" or "archive" where "auto" is wrong.
        workers: processes; None: as many as cores.

    Raises:
        DataError: data or list missing, too many unreadable patches, disk full; see `src.data.ingest.build`.
    """
    if stretch != "percentile" and not (isinstance(stretch, int | float) and stretch > 0):
        raise ValueError(f"stretch must be positive or 'percentile', got {stretch!r}")
    if bands not in BANDS:
        raise ValueError(f"bands must be one of {list(BANDS)}, got {bands!r}")
    root, path = Path(root), Path(path)
    asked: dict[str, Any] = {
        "split": Path(split).name if split else None,
        "selection": {
            "metadata": Path(metadata).name if metadata else None, "exclude": [Path(file).name for file in exclude],
            "countries": list(countries), "months": list(months), "fraction": fraction, "seed": seed,
        },
        "bands": list(BANDS[bands]),
        **({"stretch": stretch} if bands == "rgb" else {"resampling": "nearest"}),
    }  # fmt: skip
    if store := open_if_there(path, asked):
        return store
    source = detect(root, layout)
    tqdm.write(f"BigEarthNet from {source}")
    names, counts = select(source, split, metadata, exclude, countries, months, fraction, seed)
    release = "v2" if names[0].count("_") == 7 else "v1"  # v2 names tell orbit and tile too
    like = np.zeros((SIZE, SIZE, len(BANDS[bands])), np.uint8 if bands == "rgb" else np.uint16)
    store = build(
        path, names, functools.partial(source.tasks, bands=BANDS[bands]),
        functools.partial(read_patch, bands=BANDS[bands], stretch=stretch if bands == "rgb" else None),
        # where it was read is not compared: a store begun from the archive may be finished from its folders
        like, {"kind": f"bigearthnet-{release}-{bands}", **asked}, {"source": str(root.absolute()), "counts": counts},
        max_unreadable=max_unreadable, workers=workers,
    )  # fmt: skip
    part = Path(split).name.split(".")[0].replace("validation", "val") if split else None
    tqdm.write(account(store.meta["counts"], OFFICIAL[release].get(part)))
    return store


def select(
    source: Folders | Archive, split: str | Path | None, metadata: str | Path | None, exclude: Sequence[str | Path],
    countries: Sequence[str], months: Sequence[int], fraction: float, seed: int,
) -> tuple[list[str], dict[str, int]]:  # fmt: skip
    """Names of the patches to read, in their order, and how many each step left out; see `bigearthnet_store`.

    Raises:
        DataError: a list or a column is missing, or nothing is left.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}")
    table = _metadata(metadata)
    names = _listed(source, split, table)
    counts = {"listed": len(names)}

    def keep(what: str, good: pd.Series) -> None:
        nonlocal names
        counts[what], names = int((~good).sum()), names[good.to_numpy()].reset_index(drop=True)

    if exclude:
        keep("on exclusion lists", ~names.isin(pd.concat([read_list(file) for file in exclude])))
    for flag in [flag for flag in FLAGS if flag in table]:
        keep(flag, ~names.map(table[flag]).eq(True))
    if countries:
        keep("other countries", names.map(_column(table, "country", metadata)).isin(countries))
    if months:
        keep("other months", names.str.split("_").str[2].str[4:6].astype(int).isin(months))
    if fraction < 1:
        chosen = np.random.default_rng(seed).permutation(len(names)) < round(fraction * len(names))
        keep("not drawn", pd.Series(chosen))
    if names.empty:
        told = ", ".join(f"{count:,} {what}" for what, count in counts.items())
        raise DataError(f"no patches to read from {source}: {told}")
    return names.tolist(), counts


def _listed(source: Folders | Archive, split: str | Path | None, table: pd.DataFrame) -> pd.Series:
    if split is not None and "split" in table and not Path(split).is_file():
        names = pd.Series(table.index[table["split"] == ("validation" if split == "val" else split)], dtype=str)
        if names.empty:
            raise DataError(f"no split {split!r} in the metadata: it has {sorted(table['split'].unique())}")
        return names
    if split is not None:
        return read_list(split)
    # object: the strings themselves, and not a copy of each
    return pd.Series(table.index if len(table) else source.names(), dtype=object)


def read_list(file: str | Path) -> pd.Series:
    """Patch names of a list file: one a line, first column; the lists for both sensors have Sentinel-1 in a second."""
    if not Path(file).is_file():
        raise DataError(f"split list {file} is missing: expected a text file with one patch name per line")
    try:
        names = pd.read_csv(file, header=None, usecols=[0], dtype=str, skip_blank_lines=True)[0].str.strip()
    except pd.errors.EmptyDataError:
        names = pd.Series(dtype=str)
    return names[names.fillna("") != ""].reset_index(drop=True)


def _metadata(file: str | Path | None) -> pd.DataFrame:
    """v2's metadata.parquet, or a CSV with the same columns, indexed by patch name; without a file, empty."""
    if file is None:
        return pd.DataFrame()
    if not Path(file).is_file():
        raise DataError(f"metadata {file} is missing. SETUP.md says where to download it.")
    wanted = ("patch_id", "s2_name", "split", "country", *FLAGS)
    if Path(file).suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            columns = [name for name in pyarrow.parquet.read_schema(file).names if name in wanted]
            table = pd.read_parquet(file, columns=columns)
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise DataError(f"metadata {file} cannot be read ({error}): download it again") from error
    else:
        table = pd.read_csv(file, usecols=lambda name: name in wanted)
    table = table.rename(columns={"s2_name": "patch_id"})  # as the table of bigearthnet-common calls it
    return table.set_index(_column(table, "patch_id", file)).drop(columns="patch_id")


def _column(table: pd.DataFrame, name: str, file: str | Path | None) -> pd.Series:
    if name not in table:
        raise DataError(f"no column {name!r} in {file or 'the metadata, which was not given'}: it is needed to choose")
    return table[name]


def account(counts: dict[str, int], official: int | None = None) -> str:
    """One line that says where every listed patch went, and how that explains the distance from an official total."""
    left = {what: count for what, count in counts.items() if what != "listed" and count}
    stored = counts["listed"] - sum(left.values())
    line = " − ".join([f"{counts['listed']:,} listed", *(f"{count:,} {what}" for what, count in left.items())])
    line = f"{stored:,} patches stored = {line}"
    if official is None or stored == official:
        return line + (" (the official number)" if official else "")
    unlisted = official - counts["listed"]
    return f"{line}; officially {official:,}, of which {unlisted:,} were not listed" if unlisted else (
        f"{line}; officially {official:,}"
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m src.data.bigearthnet", description="Build a PatchStore.")
    parser.add_argument("root", help="folder of patches (v1), of tiles (v2), or the archive itself")
    parser.add_argument("store", help="folder to write")
    parser.add_argument("--split", help="list with one patch name per line, or a split of --metadata; default: all")
    parser.add_argument("--bands", choices=BANDS, default="rgb", help="rgb: uint8; all: twelve, uint16")
    parser.add_argument("--stretch", default=EUROSAT_STRETCH, help="DN shown as white, or percentile",
                        type=lambda text: text if text == "percentile" else float(text))  # fmt: skip
    parser.add_argument("--metadata", help="v2's metadata.parquet, or a CSV with names and countries")
    parser.add_argument("--exclude", nargs="+", default=(), help="lists of patches to leave out (snow, clouds)")
    parser.add_argument("--countries", nargs="+", default=(), help="only these")
    parser.add_argument("--months", nargs="+", type=int, default=(), help="only these, 1 to 12")
    parser.add_argument("--fraction", type=float, default=1.0, help="random share of what is left")
    parser.add_argument("--seed", type=int, default=0, help="of that share")
    parser.add_argument("--layout", choices=("auto", *LAYOUTS), default="auto", help="of root, where auto is wrong")
    parser.add_argument("--workers", type=int, help="processes; default: one a core")
    parser.add_argument("--max-unreadable", type=float, default=0.01, help="share of unreadable patches tolerated")
    args = vars(parser.parse_args())
    try:
        store = bigearthnet_store(args.pop("root"), args.pop("store"), **args)
    except (DataError, ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{store.path}: {len(store)} patches, {store.images.nbytes / 1e9:.2f} GB, sha256 {store.meta['sha256']}")


if __name__ == "__main__":
    main()
