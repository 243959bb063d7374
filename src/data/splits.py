"""Which rows of a store are for training, for choosing and for testing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split
from tqdm.auto import tqdm

from src.data.folders import SUFFIXES
from src.data.locks import write_whole
from src.data.store import PatchStore
from src.errors import DataError

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Row numbers of a store, (n,) int64 each; no row is in two of them."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def stratified_split(store: PatchStore, seed: int = 0) -> Split:
    """Draw 80/10/10 of every class from a seed, once: what is written in the store is read after.

    The file is `split_seed<seed>.csv`: name, split. In a store that one may only read none is
    written: the split follows from the seed.

    Raises:
        DataError: the store has no labels, the file lists other patches, has a word that is no part
            or leaves a part empty, or a class has fewer than ten.
    """
    if store.labels is None:
        raise DataError(f"{store.path} has no labels to stratify by")
    file = store.path / f"split_seed{seed}.csv"
    if file.exists():
        return read_split(store, file)
    parts = _draw(store, seed)
    table = pd.DataFrame({"name": store.names, "split": parts})
    try:
        write_whole(file, table.to_csv(index=False).encode())
    except OSError as error:
        tqdm.write(f"{file} cannot be written ({error.strerror}): the split is drawn, not kept")
    return _split(parts)


def read_split(store: PatchStore, source: str | Path | Sequence[str | Path]) -> Split:
    """Read a split that somebody else has drawn, such as torchgeo's by longitude.

    Args:
        source: a CSV with the columns `name` and `split` (train, val, test), or three lists of
            names, one a line: of training, validation and test, as `eurosat-spatial-train.txt` …
            are. Names may have folders in front and an image's suffix behind.

    Raises:
        DataError: a file is missing or damaged; a row has an unknown word or name or comes twice; a
            row of the store is missing; or a part is empty. The row is named.
    """
    if isinstance(source, str | Path):
        table, where = _read_csv(Path(source)), str(source)
    else:
        if len(source) != len(PARTS):
            raise ValueError(f"a split has three lists, {', '.join(PARTS)}; got {len(source)}")
        lists = zip(PARTS, map(Path, source), strict=True)
        table = pd.concat([_read_list(file, part) for part, file in lists], ignore_index=True)
        where = ", ".join(map(str, source))
    return _split(_in_order(store, table, where))


def _read_csv(file: Path) -> pd.DataFrame:
    try:
        options = {"dtype": str, "keep_default_na": False, "index_col": False}
        table = pd.read_csv(file, encoding="utf-8-sig", **options)
    except (OSError, ValueError) as error:
        raise DataError(
            f"split {file} cannot be read ({error}): expected a CSV of name and split"
        ) from error
    if missing := {"name", "split"} - set(table):
        raise DataError(f"split {file} has no column {min(missing)!r}: expected name and split")
    table["where"] = [f"{file}, row {row}" for row in range(1, len(table) + 1)]
    return table


def _read_list(file: Path, part: str) -> pd.DataFrame:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"list {file} cannot be read ({error}): expected a name a line") from error
    names = [(line.strip(), f"{file}, line {n}") for n, line in enumerate(lines, 1) if line.strip()]
    return pd.DataFrame(names, columns=["name", "where"]).assign(split=part)


def _in_order(store: PatchStore, table: pd.DataFrame, where: str) -> np.ndarray:
    """(N,) "train", "val" or "test", one a row of the store."""
    rows = {name: row for row, name in enumerate(store.names.tolist())}
    parts = np.full(len(store), "", dtype="U5")
    for name, part, place in zip(table["name"], table["split"], table["where"], strict=True):
        row = rows[name] if name in rows else rows.get(_bare(name))
        if part not in PARTS:
            fault = f"{part!r} is none of {', '.join(PARTS)}"
        elif row is None:
            fault = f"{where} lists other patches than the store, which has no such row"
        elif parts[row]:
            fault = "it is listed for the second time"
        else:
            parts[row] = part
            continue
        raise DataError(f"{place} ({name}): {fault}. Mend it, or delete it to draw a split.")
    if missing := [name for name, row in rows.items() if not parts[row]]:
        raise DataError(
            f"{where} lists other patches than the store: {len(missing)} of {len(store)} are"
            f" missing, {missing[0]} first. Mend it, or delete it to draw a split."
        )
    for part in PARTS:
        if not (parts == part).any():
            raise DataError(f"{where} has no row of {part!r}: all three parts are needed")
    return parts


def _bare(name: str) -> str:
    """A name without folders and an image's suffix."""
    path = Path(name.strip())
    return path.stem if path.suffix.lower() in SUFFIXES else path.name


def _split(parts: np.ndarray) -> Split:
    return Split(*(np.flatnonzero(parts == part) for part in PARTS))


def _draw(store: PatchStore, seed: int) -> np.ndarray:
    """(N,) "train", "val" or "test"."""
    if np.bincount(store.labels).min() < 10:
        raise DataError(f"{store.path}: an 80/10/10 split needs ten images of every class")
    rows = np.arange(len(store))
    train, rest = train_test_split(rows, train_size=0.8, stratify=store.labels, random_state=seed)
    val, _ = train_test_split(rest, train_size=0.5, stratify=store.labels[rest], random_state=seed)
    parts = np.full(len(store), "test", dtype="U5")
    parts[train], parts[val] = "train", "val"
    return parts
