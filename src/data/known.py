"""Data sets by name, folder or store: what a notebook or a command may be given as its data."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from src.data.bands import ALL_BANDS, EUROSAT_STRETCH
from src.data.bigearthnet import Selection, bigearthnet_store
from src.data.folders import find_class_folders, subfolders
from src.data.image_sets import ImageSet, tell_once
from src.data.images import (
    RESISC45,
    UCMERCED,
    class_folder_store,
    eurosat_allbands_store,
    eurosat_store,
    image_folder_store,
)
from src.data.locks import WAIT, locked
from src.data.splits import Split, read_split, stratified_split
from src.data.store import PatchStore
from src.data.titles import title_of
from src.errors import DataError
from src.runs.fingerprints import is_fingerprint_of

KNOWN = ("eurosat", "ucmerced", "resisc45", "bigearthnet", "bigearthnet-v2")


def open_data(
    what: str | Path,
    data: str | Path = "data",
    *,
    classes: Sequence[str] = (),
    bands: str = "rgb",
    stretch: float = EUROSAT_STRETCH,
) -> PatchStore:
    """Open a data set; where it is no store yet, one is built under `<data>/stores`.

    Args:
        what: one of `KNOWN`, whose files lie under `data` (see data/README.md); a store; or a
            folder of images, in class folders or without classes (`src.data.images` has options for
            those of several sizes or of other bands). A folder that is named as a known set is
            given as `./name`.
        classes: only images of these, in this order; empty: all there are.
        bands, stretch: of EuroSAT and BigEarthNet: "rgb" (uint8; the digital number shown as white)
            or "all" (twelve, uint16).

    Raises:
        DataError: it isn't there, is damaged, or lacks a class.
    """
    data, where = Path(data), Path(what or "no name")
    if what in KNOWN:
        store = _known(str(what), data, tuple(classes), bands, stretch)
        return store if not classes or what in _CLASS_FOLDERS else of_classes(store, classes)
    if (where / "meta.json").is_file():
        return of_classes(PatchStore.open(where), classes)
    if not where.is_dir():
        raise DataError(
            f"{str(what)!r} is no data: expected {', '.join(KNOWN)}, a folder of images, or a store"
        )
    key = hashlib.sha256(str(where.resolve()).encode()).hexdigest()[:8]
    path = data / "stores" / f"{where.resolve().name}-{key}"
    try:
        store = image_folder_store(where, path, max_unreadable=0)
    except DataError as error:
        raise DataError(
            f"{error} Where images differ in size or bands: `python -m src.data.images FOLDER STORE"
            " --size …` or `--bands …`, then give that store."
        ) from error
    return of_classes(store, classes)


def data_of(
    classifier: dict[str, Any], checkpoint: str | Path, what: str | Path, data: str | Path = "data"
) -> tuple[PatchStore, Split]:
    """The data that a classifier was trained with, split as it was then.

    So nothing that it has learnt from is taken for new.

    Args:
        classifier: the metadata of `checkpoint`.
        what, data: see `open_data`.

    Raises:
        DataError: the data isn't there, or is other data, or another split of it.
    """
    config = classifier["config"]
    bands = "all" if config["in_channels"] == len(ALL_BANDS) else "rgb"
    store, file = open_data(what, data, bands=bands), (classifier["data"] or {}).get("split")
    split = read_split(store, file) if file else stratified_split(store, config["seed"])
    check_data(classifier, checkpoint, store, split)
    return store, split


def check_data(
    classifier: dict[str, Any], checkpoint: str | Path, store: PatchStore, split: Split
) -> None:
    """Raise DataError, unless a classifier was trained with this store, split like this."""
    # it may have been trained on arrays, with nothing said of them
    data, meta = classifier["data"] or {}, store.meta
    same = all(data.get(key, meta.get(key)) == meta.get(key) for key in ("kind", "sha256", "shape"))
    if not same or list(classifier["classes"]) != meta.get("classes"):
        raise DataError(
            f"{checkpoint} was trained on {title_of(data)} {data.get('shape')}, {store.path} holds"
            f" {store.title} {meta.get('shape')} or other pixels: give the data it was trained with"
        )
    arrays = (store.images, store.labels, *vars(split).values())
    known = classifier.get("images")  # older checkpoints do not say
    if known is not None and not is_fingerprint_of(known, *arrays):
        raise DataError(
            f"{checkpoint} was trained on another split of {store.path}: give the one it was"
            " trained with"
        )


def of_classes(store: PatchStore, classes: Sequence[str]) -> PatchStore:
    """The rows of a store that are of these classes, labelled in their order; all if none is given.

    Raises:
        DataError: the store has no such class.
    """
    if not classes:
        return store
    known = store.meta.get("classes") or []
    if unknown := [name for name in classes if name not in known]:
        there = f"there are {', '.join(known)}" if known else "it has none"
        raise DataError(f"{store.path} has no class {unknown[0]!r}: {there}")
    new = np.full(len(known), -1)
    new[[known.index(name) for name in classes]] = np.arange(len(classes))
    labels = new[store.labels]
    rows = np.flatnonzero(labels >= 0)
    return replace(
        store,
        images=store.images[rows],
        labels=labels[rows],
        names=store.names[rows],
        meta={**store.meta, "classes": list(classes)},
    )


def _known(
    name: str, data: Path, classes: tuple[str, ...], bands: str, stretch: float
) -> PatchStore:
    stores = data / "stores"
    if name in _CLASS_FOLDERS:
        images, folder = _CLASS_FOLDERS[name]
        file = "-".join((name, *classes))
        return class_folder_store(
            images, classes or _present(images, data / folder), data / folder, stores / file
        )
    if name == "eurosat" and bands == "all":
        return eurosat_allbands_store(data / "eurosat", stores / "eurosat_all")
    if name == "eurosat":
        return eurosat_store(data / "eurosat", stores / "eurosat")
    rendering = f"_{stretch:g}" if bands == "rgb" else ""
    options = {"bands": bands, "stretch": stretch}
    if name == "bigearthnet":
        archive = data / "BigEarthNet-S2-v1.0.tar.gz"
        root = archive if archive.exists() else data / "BigEarthNet-v1.0"
        selection = Selection(data / "splits/train.csv")
        path = stores / f"bigearthnet_train_{bands}{rendering}"
    else:
        archive = data / "BigEarthNet-S2.tar.zst"
        root = archive if archive.exists() else data / "BigEarthNet-S2"
        selection = Selection("train", metadata=data / "metadata.parquet")
        path = stores / f"bigearthnet_v2_train_{bands}{rendering}"
    if path.exists() or not root.exists():  # nothing to build, or nothing to build it from
        return bigearthnet_store(root, path, selection, **options)
    # of two notebooks that want it first, one builds it, and the other waits and finds it
    with locked(path.with_name(f".{path.name}.lock"), f"building {path.name}", WAIT):
        return bigearthnet_store(root, path, selection, **options)


# in class folders, of which some are enough: the set, and its folder
_CLASS_FOLDERS: dict[str, tuple[ImageSet, str]] = {
    "ucmerced": (UCMERCED, "UCMerced_LandUse"),
    "resisc45": (RESISC45, "NWPU-RESISC45"),
}


def _present(images: ImageSet, root: Path) -> tuple[str, ...]:
    """The classes that have a folder: official ones in their order, then others, which are told."""
    if not root.exists():  # a store that is there may do without
        return tuple(images.official)
    folder = find_class_folders(root, tuple(images.official), images.suffixes, images.title)
    there = subfolders(folder)
    if others := [name for name in there if name not in images.official]:
        tell_once(
            f"{images.title}: {', '.join(others)} are no official classes, taken all the same"
        )
    return (*(name for name in images.official if name in there), *others)
