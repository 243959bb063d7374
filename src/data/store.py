"""PatchStore: a data set decoded once into one array on disk, memory-mapped, with an index.

A store is a folder: `images.npy` (N, H, W, C), `index.csv` (name, label), `meta.json` (what it was
made from, and how). N×H×W×C on disk is channels_last on the device: permuted, never copied.
"""

import csv
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from src.errors import DataError

FORMAT_VERSION = 1
Patch = tuple[str, int | None, np.ndarray]  # name, label and (H, W, C) image


@dataclass(frozen=True)
class PatchStore:
    """An open store; rows of `images`, `labels` and `names` belong together."""

    path: Path
    # (N, H, W, C), memory-mapped copy-on-write: the file cannot be changed through it
    images: np.ndarray
    labels: np.ndarray | None  # (N,) int64 indices into meta["classes"], or None
    names: np.ndarray  # (N,) str
    meta: dict[str, Any]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def provenance(self) -> dict[str, Any]:
        """What a checkpoint remembers of its data: `meta` without the folder on this machine."""
        return {key: value for key, value in self.meta.items() if key != "source"}

    @classmethod
    def open(cls, path: str | Path) -> "PatchStore":
        """Open a store.

        Raises:
            DataError: no store there, written by a newer format, or its files don't fit together.
        """
        path = Path(path)
        meta = _read_meta(path)
        try:
            images = np.load(path / "images.npy", mmap_mode="c")
            names, labels = _read_index(path / "index.csv")
        except (OSError, EOFError, KeyError, ValueError) as error:
            raise DataError(f"{path}: {error}. Delete the folder and build it again.") from error
        if list(images.shape) != meta["shape"] or len(names) != len(images):
            raise DataError(
                f"{path}: meta.json says {meta['shape']}, images.npy holds {list(images.shape)} and"
                f" index.csv {len(names)} rows. Delete the folder and build it again."
            )
        return cls(path, images, labels, names, meta)

    @classmethod
    def write(
        cls, path: str | Path, patches: Iterable[Patch], meta: dict[str, Any]
    ) -> "PatchStore":
        """Write patches, all images of one (H, W, C) shape and dtype, and open the result.

        The folder appears under its name only when it is whole: an error on the way leaves nothing
        behind.

        Raises:
            DataError: there were no patches, or the path is taken. Errors of the iterable pass
                through.
        """
        path = Path(path)
        if path.exists():
            raise DataError(f"{path} exists already: open it, or delete it to build it again")
        patches = iter(patches)
        first = next(patches, None)  # missing data is reported before any folder is made
        if first is None:
            raise DataError(f"no readable patches for {path.name}: nothing to store")
        partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
        partial.mkdir(parents=True)
        try:
            shape, sha256 = _write_arrays(partial, itertools.chain([first], patches), like=first[2])
            write_meta(partial, meta, shape, sha256)
            partial.rename(path)
        except BaseException:  # a keyboard interrupt too must not leave half a store
            shutil.rmtree(partial)
            raise
        return cls.open(path)


def _read_meta(path: Path) -> dict[str, Any]:
    if not (path / "meta.json").is_file():
        raise DataError(f"{path} is not a store: it has no meta.json. Build it as SETUP.md says.")
    try:
        meta = json.loads((path / "meta.json").read_text())
        version, _ = meta["format"], meta["shape"]
    except (ValueError, KeyError) as error:
        raise DataError(
            f"{path}/meta.json is damaged ({error!r}). Delete the folder and build it again."
        ) from error
    if version > FORMAT_VERSION:
        raise DataError(
            f"{path} was written in store format {version}, this code reads up to {FORMAT_VERSION}:"
            " update ood-satellite, or delete the folder and build it again"
        )
    return meta


def _read_index(file: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Names and labels; labels are None unless every row has one."""
    index = pd.read_csv(
        file,
        dtype={"name": object},  # names are text, whatever they look like
        keep_default_na=False,
        na_values={"label": [""]},
    )
    names, labels = index["name"].to_numpy(str), index["label"].astype(np.float64)
    return names, None if labels.isna().any() else labels.to_numpy(np.int64)


def write_meta(folder: Path, meta: dict[str, Any], shape: list[int], sha256: str) -> None:
    """Write `meta.json`, whose presence says that a store is whole.

    Args:
        shape: [N, H, W, C].
        sha256: of the bytes of the images, without the header of their file.
    """
    meta = {"format": FORMAT_VERSION, **meta, "shape": shape, "sha256": sha256}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))


def _write_arrays(
    folder: Path, patches: Iterable[Patch], like: np.ndarray
) -> tuple[list[int], str]:
    """Write images and index; the shape, and the SHA-256 of the images' bytes.

    That checksum is the fingerprint of the data in every run's record.
    """
    count, digest = 0, hashlib.sha256()
    with (
        open(folder / "images.npy", "wb") as images,
        open(folder / "index.csv", "w", newline="") as index_file,
    ):
        index = csv.writer(index_file)
        index.writerow(["name", "label"])
        write_header(images, 0, like.shape, like.dtype)
        for name, label, image in patches:
            if image.shape != like.shape or image.dtype != like.dtype:
                raise DataError(
                    f"{name}: expected {like.shape} {like.dtype} as the first patch, got"
                    f" {image.shape} {image.dtype}"
                )
            pixels = np.ascontiguousarray(image).tobytes()
            images.write(pixels)
            digest.update(pixels)
            index.writerow([name, "" if label is None else label])
            count += 1
        # numpy pads the header so that the first axis can grow: the true count fits in its place
        images.seek(0)
        write_header(images, count, like.shape, like.dtype)
    return [count, *like.shape], digest.hexdigest()


def write_header(file: BinaryIO, count: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Write the header of an .npy file of `count` arrays; its length is the same for any count."""
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (count, *shape),
    }
    np.lib.format.write_array_header_1_0(file, header)


def open_or_build(path: str | Path, patches: Iterable[Patch], meta: dict[str, Any]) -> PatchStore:
    """Open the store if it is there and was made as `meta` says, else write it.

    Raises:
        DataError: a store is there, but made from something else or in another way.
    """
    return open_if_there(path, meta) or PatchStore.write(path, patches, meta)


def open_if_there(path: str | Path, meta: dict[str, Any]) -> PatchStore | None:
    """Open the store if there is one; None if not.

    Raises:
        DataError: a store is there, but made from something else or in another way than `meta`
            says.
    """
    if not (Path(path) / "meta.json").is_file():
        return None
    store = PatchStore.open(path)
    differences = [
        f"{key} was {store.meta.get(key)!r}, now {value!r}"
        for key, value in meta.items()
        if store.meta.get(key) != value
    ]
    if differences:
        raise DataError(
            f"{path} was built otherwise ({'; '.join(differences)}). Delete it, or build under"
            " another name."
        )
    return store
