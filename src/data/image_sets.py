"""A set of images into a store, by the one mechanism that BigEarthNet is built by as well."""

import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from src.data.building import Plan
from src.data.folders import SUFFIXES, Listing
from src.data.ingest import Files, Task, build
from src.data.locks import WAIT
from src.data.store import PatchStore, open_if_there
from src.errors import DataError

TRIED = 1000  # images, to find one that says what all are like
A_PROCESS = 30_000  # images: one starts in the time that decoding so many small ones takes


@dataclass(frozen=True)
class ImageSet:
    """What there is to know of a set of images in class folders."""

    title: str  # in messages
    kind: str  # in meta.json
    read: Callable[[Path], np.ndarray]  # a file → (H, W, C), of one shape in the whole set
    suffixes: tuple[str, ...] = SUFFIXES  # of its files, in small letters
    meta: dict[str, Any] = field(default_factory=dict)  # what else meta.json says: bands, size
    official: dict[str, int] = field(default_factory=dict)  # images of each class, where known
    complete: bool = False  # whether a folder that is none of the classes is an error


def open_or_build(
    images: ImageSet,
    listing: Listing,
    path: Path,
    wanted: dict[str, Any],
    max_unreadable: float = 0.0,
    workers: int | None = None,
) -> PatchStore:
    """Open the store that is there, if it is up to date, else build it: the one way of every set.

    Args:
        listing: the images that there are.
        wanted: what must stand in the store's meta.
        max_unreadable: share of unreadable images, in [0, 1], above which the build stops.
        workers: processes; None: no more than one for 30,000 images.

    Raises:
        DataError: too much is unreadable, images are gone that the store has, or the store was
            built otherwise; see `src.data.ingest.build`.
    """
    counted, official = account(images, listing)
    store = open_if_there(path, wanted)
    if store and not _outdated(store, listing):
        if not official:
            tell_once(counted)
        return store
    tell_once(counted)
    plan = Plan(
        listing.names,
        _first_readable(images, listing.files),
        {**wanted, "files": listing.recorded()},
        listing.labels,
        {"source": str(listing.root.absolute()), "title": images.title},
    )
    return build(
        path,
        plan,
        functools.partial(_tasks, listing.files),
        functools.partial(_read, images.read),
        max_unreadable=max_unreadable,
        workers=workers or max(1, min(os.cpu_count() or 1, len(listing.files) // A_PROCESS)),
        wait=WAIT,
        replace=store is not None,
    )


def _outdated(store: PatchStore, listing: Listing) -> bool:
    """Whether the folder has images that the store has not. DataError: or not those any more."""
    now, built = listing.recorded(), store.meta.get("files")
    if now == built or (built is None and listing.names == store.names.tolist()):
        return False
    new, gone = set(listing.names) - set(store.names), set(store.names) - set(listing.names)
    if gone or not new:
        how = f"{len(gone)} images are gone, {min(gone)} first" if gone else "files are others"
        raise DataError(
            f"{listing.root} has changed since {store.path} was built from it ({how}). Delete the"
            " store to build it anew, or open it by itself, `PatchStore.open`."
        )
    tqdm.write(f"{store.path} lacks {len(new)} images that {listing.root} has: it is built anew")
    return True


def _first_readable(images: ImageSet, files: list[Path]) -> np.ndarray:
    """What all images have to be like; those that cannot be read are reported when it is built."""
    errors = []
    for file in files[:TRIED]:
        try:
            return images.read(file)
        except DataError as error:
            errors.append(error)
    raise DataError(f"none of the first {len(errors)} images can be read; {errors[0]}")


def _tasks(files: list[Path], rows: dict[str, int], todo: np.ndarray) -> Iterator[Task]:
    return ((row, str(files[row]), None) for row in np.flatnonzero(todo).tolist())


def _read(read: Callable[[Path], np.ndarray], file: str, _: Files) -> np.ndarray:
    return read(Path(file))


@functools.cache
def tell_once(text: str) -> None:
    """Say it, but not at every opening of a set in one process."""
    tqdm.write(text)


def account(images: ImageSet, listing: Listing) -> tuple[str, bool]:
    """Say how many images there are, and tell whether no other number is the official one."""
    counts, total = listing.counts(), len(listing.files)
    line = f"{images.title}: {total:,} images"
    if not counts:
        return f"{line} without classes, from {listing.root}", True
    line = f"{line} of {len(counts)} classes, from {listing.root}"
    if not images.official:
        fewest, most = min(counts.values()), max(counts.values())
        each = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
        return f"{line} ({each} a class)", True
    official = {name: images.official[name] for name in counts if name in images.official}
    other = [
        f"{name} {count:,} of {official[name]:,}"
        for name, count in counts.items()
        if count != official.get(name, count)
    ]
    if not other:
        return f"{line} (the official number)", True
    return f"{line}; officially {sum(official.values()):,}: {', '.join(other)}", False
