"""Which patches of BigEarthNet: split lists, metadata, exclusions, and where each one went."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from src.data.bigearthnet.archives import Archive
from src.data.bigearthnet.patch import DAMAGED_LABELS
from src.data.bigearthnet.sources import Folders
from src.errors import DataError

# patches of the official splits; v1's lists leave out 61,707 with seasonal snow and 9,280 with
# clouds or shadows
OFFICIAL = {
    "v1": {"train": 269_695, "val": 123_723, "test": 125_866, None: 590_326},
    "v2": {"train": 237_871, "val": 122_342, "test": 119_825, None: 549_488},
}
SPLITS = ("train", "val", "validation", "test")  # of v2's metadata
COUNTRIES = (
    *("Austria", "Belgium", "Finland", "Ireland", "Kosovo", "Lithuania", "Luxembourg"),
    *("Portugal", "Serbia", "Switzerland"),
)
FLAG_WORDS = {
    **dict.fromkeys(("true", "yes", "1", "1.0", "t", "y"), True),
    **dict.fromkeys(("false", "no", "0", "0.0", "f", "n"), False),
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
    names = _listed(source, wanted.split, table, wanted.metadata)
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
        known = {*COUNTRIES, *countries}
        _check_known(wanted.countries, known, "country", wanted.metadata)
        yield "other countries", lambda names: names.map(countries).isin(wanted.countries)
    if wanted.months:
        yield "other months", lambda names: _month(names).isin(wanted.months)
    if wanted.fraction < 1:
        yield "not drawn", lambda names: _drawn(len(names), wanted.fraction, wanted.seed)


def _check_known(
    wanted: Iterable[str], known: Iterable[str], what: str, file: str | Path | None
) -> None:
    known = sorted(map(str, known))
    for name in wanted:
        if name not in known:
            raise DataError(f"no {what} {name!r} in the metadata {file}: it has {known}")


def _month(names: pd.Series) -> pd.Series:
    """1 to 12, of the date that is the third field of a name."""
    months = names.str.split("_").str[2].str[4:6]
    if not (dated := months.str.fullmatch(r"\d\d").eq(True)).all():
        raise DataError(f"no date in the name {names[~dated].iloc[0]!r}: months cannot be chosen")
    return months.astype(int)


def _drawn(count: int, fraction: float, seed: int) -> pd.Series:
    rank = np.random.default_rng(seed).permutation(count)
    return pd.Series(rank < round(fraction * count))


def _listed(
    source: Folders | Archive,
    split: str | Path | None,
    table: pd.DataFrame,
    file: str | Path | None,
) -> pd.Series:
    """Names of the split: of the metadata's if it has it, else of a list; without one, of all."""
    if split is not None and not Path(split).is_file() and str(split) in SPLITS:
        if not len(table):
            raise DataError(
                f"{split!r} is a split of the metadata, which was not given: give it (--metadata"
                " metadata.parquet), or the path of a list of patches"
            )
        parts, wanted = _column(table, "split", file), "validation" if split == "val" else split
        _check_known([wanted], parts.unique(), "split", file)
        return pd.Series(table.index[parts == wanted], dtype=str)
    if split is not None:
        if not Path(split).is_file() and "split" in table:
            _check_known([str(split)], table["split"].unique(), "split", file)
        names = read_list(split)
        if len(table) and not (known := names.isin(table.index)).all():
            raise DataError(
                f"{int((~known).sum())} patches of {split} are not in the metadata {file},"
                f" {names[~known].iloc[0]} first: they are of two releases, or one is cut off"
            )
        return names
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
        table = pd.read_csv(
            file, header=None, usecols=[0], dtype=str, skip_blank_lines=True, encoding="utf-8-sig"
        )
    except pd.errors.EmptyDataError:
        return pd.Series(dtype=str)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(
            f"split list {file} cannot be read ({error}): expected a text file with one patch name"
            " per line"
        ) from error
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
        table = _read_csv(file, wanted)
    if "patch_id" not in table:
        table = table.rename(columns={"s2_name": "patch_id"})
    names = _column(table, "patch_id", file)
    if names.duplicated().any():
        row = int(names.duplicated().to_numpy().argmax())
        raise DataError(f"metadata {file}, row {row + 1}: {names[row]} for the second time")
    for flag in FLAGS:
        if flag in table:
            table[flag] = _flags(table[flag], names, file)
    return table.set_index("patch_id")


def _flags(column: pd.Series, names: pd.Series, file: str | Path) -> pd.Series:
    """(N,) bool of a column of true and false, yes and no, 1 and 0."""
    flags = column.astype(str).str.strip().str.lower().map(FLAG_WORDS)
    if flags.isna().any():
        row = int(flags.isna().to_numpy().argmax())
        raise DataError(
            f"metadata {file}, row {row + 1} ({names[row]}): {column.name} is {column[row]!r},"
            f" expected one of {', '.join(FLAG_WORDS)}"
        )
    return flags.astype(bool)


def _read_csv(file: str | Path, wanted: Sequence[str]) -> pd.DataFrame:
    try:
        return pd.read_csv(
            file,
            usecols=lambda name: name in wanted,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
        )
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"metadata {file} cannot be read ({error}): download it again") from error


def _read_parquet(file: str | Path, wanted: Sequence[str]) -> pd.DataFrame:
    import pyarrow
    import pyarrow.parquet

    try:
        columns = [name for name in pyarrow.parquet.read_schema(file).names if name in wanted]
        return pd.read_parquet(file, columns=columns)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
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
    kept = ("listed", DAMAGED_LABELS)
    left_out = {what: count for what, count in counts.items() if what not in kept and count}
    stored, listed = counts["listed"] - sum(left_out.values()), counts["listed"]
    terms = [f"{listed:,} listed", *(f"{count:,} {what}" for what, count in left_out.items())]
    line = f"{stored:,} patches stored = {' − '.join(terms)}"
    if DAMAGED_LABELS in counts:
        line = f"{line}; {counts[DAMAGED_LABELS]:,} of them with {DAMAGED_LABELS}, not needed here"
    if official is None:
        return line
    if stored == official:
        return f"{line} (the official number)"
    line = f"{line}; officially {official:,}"
    unlisted = official - listed
    return f"{line}, of which {unlisted:,} were not listed" if unlisted else line
