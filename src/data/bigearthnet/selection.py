"""Which patches of BigEarthNet: split lists, metadata, exclusions, and where every listed patch
went.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from src.data.bigearthnet.sources import Archive, Folders
from src.errors import DataError

# patches of the official splits; v1's lists leave out 61,707 with seasonal snow and 9,280 with
# clouds or shadows
OFFICIAL = {
    "v1": {"train": 269_695, "val": 123_723, "test": 125_866, None: 590_326},
    "v2": {"train": 237_871, "val": 122_342, "test": 119_825, None: 549_488},
}
FLAGS = ("contains_seasonal_snow", "contains_cloud_or_shadow")  # columns of v2's metadata


def select(
    source: Folders | Archive,
    split: str | Path | None,
    metadata: str | Path | None,
    exclude: Sequence[str | Path],
    countries: Sequence[str],
    months: Sequence[int],
    fraction: float,
    seed: int,
) -> tuple[list[str], dict[str, int]]:
    """Names of the patches to read, in their order, and how many each step left out; see
    `bigearthnet_store`.

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
        names = pd.Series(
            table.index[table["split"] == ("validation" if split == "val" else split)], dtype=str
        )
        if names.empty:
            raise DataError(
                f"no split {split!r} in the metadata: it has {sorted(table['split'].unique())}"
            )
        return names
    if split is not None:
        return read_list(split)
    # object: the strings themselves, and not a copy of each
    return pd.Series(table.index if len(table) else source.names(), dtype=object)


def read_list(file: str | Path) -> pd.Series:
    """Patch names of a list file: one a line, first column; the lists for both sensors have
    Sentinel-1 in a second.
    """
    if not Path(file).is_file():
        raise DataError(
            f"split list {file} is missing: expected a text file with one patch name per line"
        )
    try:
        names = pd.read_csv(file, header=None, usecols=[0], dtype=str, skip_blank_lines=True)[
            0
        ].str.strip()
    except pd.errors.EmptyDataError:
        names = pd.Series(dtype=str)
    return names[names.fillna("") != ""].reset_index(drop=True)


def _metadata(file: str | Path | None) -> pd.DataFrame:
    """v2's metadata.parquet, or a CSV with the same columns, indexed by patch name; without a file,
    empty.
    """
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
            raise DataError(
                f"metadata {file} cannot be read ({error}): download it again"
            ) from error
    else:
        table = pd.read_csv(file, usecols=lambda name: name in wanted)
    table = table.rename(
        columns={"s2_name": "patch_id"}
    )  # as the table of bigearthnet-common calls it
    return table.set_index(_column(table, "patch_id", file)).drop(columns="patch_id")


def _column(table: pd.DataFrame, name: str, file: str | Path | None) -> pd.Series:
    if name not in table:
        raise DataError(
            f"no column {name!r} in {file or 'the metadata, which was not given'}: it is needed to"
            " choose"
        )
    return table[name]


def account(counts: dict[str, int], official: int | None = None) -> str:
    """One line that says where every listed patch went, and how that explains the distance from an
    official total.
    """
    left = {what: count for what, count in counts.items() if what != "listed" and count}
    stored = counts["listed"] - sum(left.values())
    line = " − ".join(
        [f"{counts['listed']:,} listed", *(f"{count:,} {what}" for what, count in left.items())]
    )
    line = f"{stored:,} patches stored = {line}"
    if official is None or stored == official:
        return line + (" (the official number)" if official else "")
    unlisted = official - counts["listed"]
    return (
        f"{line}; officially {official:,}, of which {unlisted:,} were not listed"
        if unlisted
        else (f"{line}; officially {official:,}")
    )
