"""Mean and deviation of a store's bands, measured over its training rows and kept in the store.

Command line: `python -m src.data.statistics STORE`. Training takes them from the store
(`PatchStore.statistics`), and everything after it from the checkpoint.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from src.augmentations.normalisation import Statistics
from src.augmentations.resampling import to_unit
from src.checks import check_images
from src.data.locks import locked
from src.data.splits import read_split, stratified_split
from src.data.store import PatchStore, write_meta
from src.errors import DataError, exit_with_message

BLOCK = 2**18  # pixel values worked on at a time: they stay in a core's caches


def measure(images: np.ndarray, rows: np.ndarray) -> Statistics:
    """Mean and deviation of each band over all pixels of these rows, in float64.

    Args:
        images: (N, H, W, C) of a store, a memory map: read in blocks.
        rows: (n,) row numbers.

    Returns:
        (C,) means and (C,) deviations on the scale that networks see: uint8 divided by 255, digital
        numbers (uint16) by 10,000 and cut off at 1.
    """
    count, mean, squares = 0, torch.zeros(()).double(), torch.zeros(()).double()
    step = max(1, BLOCK // images[0].size)
    for start in tqdm(range(0, len(rows), step), desc="measuring", unit="block"):
        block = to_unit(torch.as_tensor(images[rows[start : start + step]])).double().flatten(0, 2)
        # two sets become one (Chan, Golub & LeVeque 1979): no difference of large sums
        own, share = block.mean(0), len(block) / (count + len(block))
        shift = own - mean
        squares = squares + block.sub_(own).square_().sum(0) + shift.square() * count * share
        count, mean = count + len(block), mean + shift * share
    return tuple(mean.tolist()), tuple((squares / count).sqrt().tolist())


def measure_store(
    path: str | Path, split: Sequence[str | Path] = (), seed: int = 0
) -> dict[str, Any]:
    """Measure a store's training rows, and keep what comes out in its `meta.json`.

    Args:
        path: of the store; without labels all of its rows are for training.
        split: a CSV, or three lists, see `read_split`; none: drawn from the seed.
        seed: of the split that training will draw.

    Returns:
        What is kept under "statistics": mean, std, which rows these are of, and how many.

    Raises:
        DataError: no store, an unusable split, a band that is the same everywhere, or another
            process builds this store.
        ValueError: images that cannot be what they say (`check_images`).
        OSError: the store cannot be written to.
    """
    store = PatchStore.open(path)
    check_images(store.images, str(path))
    rows, of = _training_rows(store, split, seed)
    mean, std = measure(store.images, rows)
    if flat := [band for band, value in enumerate(std, 1) if value == 0]:
        raise DataError(
            f"{path}: band {flat[0]} of {len(std)} has the same value in all pixels of"
            f" {len(rows):,} images and tells nothing: build the store without it (--bands)"
        )
    kept = {"mean": list(mean), "std": list(std), "rows": of, "count": len(rows)}
    _keep(store, kept)
    return kept


def _training_rows(
    store: PatchStore, split: Sequence[str | Path], seed: int
) -> tuple[np.ndarray, str]:
    """Row numbers, and what they are."""
    if split:
        source = split[0] if len(split) == 1 else split
        return read_split(store, source).train, f"train of {Path(split[0]).name}"
    if store.labels is None:
        return np.arange(len(store)), "all"
    return stratified_split(store, seed).train, f"train, seed {seed}"


def _keep(store: PatchStore, statistics: dict[str, Any]) -> None:
    building = store.path.with_name(f"{store.path.name}.building")
    with locked(building / "lock", "building this store"):
        meta = dict(PatchStore.open(store.path).meta)
        if (meta["shape"], meta.get("sha256")) != (store.meta["shape"], store.meta.get("sha256")):
            raise DataError(f"{store.path} was built anew meanwhile: measure it again")
        shape, sha256 = meta.pop("shape"), meta.pop("sha256", None)
        write_meta(store.path, {**meta, "statistics": statistics}, shape, sha256)
        if [file.name for file in building.iterdir()] == ["lock"]:
            shutil.rmtree(building)


def main() -> None:
    """Measure the store that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m src.data.statistics",
        description="Measure mean and deviation of each band over the training rows of a store.",
    )
    add = parser.add_argument
    add("store", help="folder of a store")
    add("--split", nargs="+", default=(), help="CSV of name and split, or three lists")
    add("--seed", type=int, default=0, help="of the split that is drawn (default: %(default)s)")
    with exit_with_message():
        args = parser.parse_args()
        kept = measure_store(args.store, args.split, args.seed)
        for band, values in enumerate(zip(kept["mean"], kept["std"], strict=True), 1):
            print(f"band {band:2}: mean {values[0]:.4f}, deviation {values[1]:.4f}")
        print(f"{args.store}: of {kept['count']:,} images ({kept['rows']}), kept in meta.json")


if __name__ == "__main__":
    main()
