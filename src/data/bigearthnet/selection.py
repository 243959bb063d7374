"""Which patches of BigEarthNet: split lists, metadata, exclusions, and where each one went."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class Selection:
    """Which patches of BigEarthNet to take, each field narrowing what those before it leave.

    Raises:
        ValueError: fraction not in (0, 1].
    """

    # list with one patch name per line, first column (the official lists, .bz2 and .gz too); or
    # "train", "validation" or "test" of `metadata`; None: every patch
    split: str | Path | None = None
    # v2's metadata.parquet, or a CSV with `patch_id` (or `s2_name`) and `country`; patches that it
    # flags as snow, cloud or shadow are left out
    metadata: str | Path | None = None
    exclude: Sequence[str | Path] = ()  # more lists of patches to leave out (v1's snow and clouds)
    countries: Sequence[str] = ()  # only these; empty: all
    months: Sequence[int] = ()  # only these, 1 to 12, as the patches' names have it; empty: all
    fraction: float = 1.0  # of what is left, drawn from `seed`
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], got {self.fraction}")

    def recorded(self) -> dict[str, Any]:
        """What a store's `meta.json` says of it: files by name, not by place."""
        return {
            "split": _file_name(self.split),
            "selection": {
                "metadata": _file_name(self.metadata),
                "exclude": [_file_name(file) for file in self.exclude],
                "countries": list(self.countries),
                "months": list(self.months),
                "fraction": self.fraction,
                "seed": self.seed,
            },
        }


EVERY_PATCH = Selection()
Criterion = Callable[[pd.Series], pd.Series]  # (n,) names that are left → (n,) bool, those to keep


def _file_name(file: str | Path | None) -> str | None:
    return Path(file).name if file else None


def select(source: Folders | Archive, wanted: Selection) -> tuple[list[str], dict[str, int]]:
    """Names of the patches to read, in their order, and how many each step left out.

    Raises:
        DataError: a list or a column is missing, or nothing is left.
    """
    table = _metadata(wanted.metadata)
    names = _listed(source, wanted.split, table)
    counts = {"listed": len(names)}
    for what, criterion in _criteria(wanted, table):
        kept = criterion(names).to_numpy()
        counts[what] = int((~kept).sum())
        names = names[kept].reset_index(drop=True)
    if names.empty:
        steps = ", ".join(f"{count:,} {what}" for what, count in counts.items())
        raise DataError(f"no patches to read from {source}: {steps}")
    return names.tolist(), counts


def _criteria(wanted: Selection, table: pd.DataFrame) -> Iterator[tuple[str, Criterion]]:
    """What each step leaves out, as the store's counts call it, and how to tell what it keeps."""
    if wanted.exclude:
        excluded = pd.concat([read_list(file) for file in wanted.exclude])
        yield "on exclusion lists", lambda names: ~names.isin(excluded)
    for flag in FLAGS:
        if flag in table:
            yield flag, lambda names, flag=flag: ~names.map(table[flag]).eq(True)
    if wanted.countries:
        countries = _column(table, "country", wanted.metadata)
        yield "other countries", lambda names: names.map(countries).isin(wanted.countries)
    if wanted.months:
        yield "other months", lambda names: _month(names).isin(wanted.months)
    if wanted.fraction < 1:
        yield "not drawn", lambda names: _drawn(len(names), wanted.fraction, wanted.seed)


def _month(names: pd.Series) -> pd.Series:
    """1 to 12, of the date that is the third field of a name."""
    return names.str.split("_").str[2].str[4:6].astype(int)


def _drawn(count: int, fraction: float, seed: int) -> pd.Series:
    rank = np.random.default_rng(seed).permutation(count)
    return pd.Series(rank < round(fraction * count))


def _listed(source: Folders | Archive, split: str | Path | None, table: pd.DataFrame) -> pd.Series:
    """Names of the split: of the metadata's if it has it, else of a list; without one, of all."""
    if split is not None and "split" in table and not Path(split).is_file():
        wanted = "validation" if split == "val" else split
        names = pd.Series(table.index[table["split"] == wanted], dtype=str)
        if names.empty:
            known = sorted(table["split"].unique())
            raise DataError(f"no split {split!r} in the metadata: it has {known}")
        return names
    if split is not None:
        return read_list(split)
    # object: the strings themselves, and not a copy of each
    return pd.Series(table.index if len(table) else source.names(), dtype=object)


def read_list(file: str | Path) -> pd.Series:
    """Read the patch names of a list: one a line, first column.

    The lists for both sensors have Sentinel-1's patches in a second.

    Raises:
        DataError: there is no such file.
    """
    if not Path(file).is_file():
        raise DataError(
            f"split list {file} is missing: expected a text file with one patch name per line"
        )
    try:
        table = pd.read_csv(file, header=None, usecols=[0], dtype=str, skip_blank_lines=True)
    except pd.errors.EmptyDataError:
        return pd.Series(dtype=str)
    names = table[0].str.strip()
    return names[names.fillna("") != ""].reset_index(drop=True)


def _metadata(file: str | Path | None) -> pd.DataFrame:
    """v2's metadata.parquet, or a CSV with the same columns, by patch name; without a file, empty.

    The table of bigearthnet-common calls the patches `s2_name`.
    """
    if file is None:
        return pd.DataFrame()
    if not Path(file).is_file():
        raise DataError(f"metadata {file} is missing. SETUP.md says where to download it.")
    wanted = ("patch_id", "s2_name", "split", "country", *FLAGS)
    if Path(file).suffix == ".parquet":
        table = _read_parquet(file, wanted)
    else:
        table = pd.read_csv(file, usecols=lambda name: name in wanted)
    table = table.rename(columns={"s2_name": "patch_id"})
    return table.set_index(_column(table, "patch_id", file)).drop(columns="patch_id")


def _read_parquet(file: str | Path, wanted: Sequence[str]) -> pd.DataFrame:
    import pyarrow
    import pyarrow.parquet

    try:
        columns = [name for name in pyarrow.parquet.read_schema(file).names if name in wanted]
        return pd.read_parquet(file, columns=columns)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"metadata {file} cannot be read ({error}): download it again") from error


def _column(table: pd.DataFrame, name: str, file: str | Path | None) -> pd.Series:
    if name not in table:
        raise DataError(
            f"no column {name!r} in {file or 'the metadata, which was not given'}: it is needed to"
            " choose"
        )
    return table[name]


def account(counts: dict[str, int], official: int | None = None) -> str:
    """Say in one line where every listed patch went, and what an official total has besides."""
    left_out = {what: count for what, count in counts.items() if what != "listed" and count}
    stored, listed = counts["listed"] - sum(left_out.values()), counts["listed"]
    terms = [f"{listed:,} listed", *(f"{count:,} {what}" for what, count in left_out.items())]
    line = f"{stored:,} patches stored = {' − '.join(terms)}"
    if official is None:
        return line
    if stored == official:
        return f"{line} (the official number)"
    line = f"{line}; officially {official:,}"
    unlisted = official - listed
    return f"{line}, of which {unlisted:,} were not listed" if unlisted else line
