"""Which rows of a store are for training, for choosing and for testing."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from src.data.store import PatchStore
from src.errors import DataError


@dataclass(frozen=True)
class Split:
    """Row numbers of a store, (n,) int64 each; no row is in two of them."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def stratified_split(store: PatchStore, seed: int = 0) -> Split:
    """Draw 80/10/10 of every class from a seed, once: what is written in the store is read after.

    The file is `split_seed<seed>.csv`: name, split.

    Raises:
        DataError: the store has no labels, the file lists other patches, or a class has fewer than
            ten.
    """
    if store.labels is None:
        raise DataError(f"{store.path} has no labels to stratify by")
    file = store.path / f"split_seed{seed}.csv"
    if not file.exists():
        partial = file.with_suffix(".partial")
        table = pd.DataFrame({"name": store.names, "split": _draw(store, seed)})
        table.to_csv(partial, index=False)
        partial.replace(file)
    written = pd.read_csv(file, dtype=str, keep_default_na=False)
    if list(written["name"]) != list(store.names):
        raise DataError(
            f"{file} lists other patches than the store: delete it to draw the split again"
        )
    return Split(*(np.flatnonzero(written["split"] == part) for part in ("train", "val", "test")))


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
