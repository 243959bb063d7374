"""PatchStore: a data set decoded once into one array on disk, memory-mapped, with an index.

A store is a folder: `images.npy` (N, H, W, C), `index.csv` (name, label), `meta.json` (what it was
made from, and how; `sha256` of the pixels) and `SHA256SUMS` of the two small files, as `sha256sum
-c` reads it. N×H×W×C on disk is channels_last on the device: permuted, never copied. Opening writes
nothing, so a store may lie where one may only read.
"""

import csv
import hashlib
import itertools
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from src.data.locks import locked, write_whole
from src.data.titles import title_of
from src.errors import DataError

FORMAT_VERSION = 1
DTYPES = ("uint8", "uint16", "float32")
VERIFIED_BYTES = 500_000_000  # images up to this are checked whenever a store is opened: a second
SUMS = "SHA256SUMS"
# keys of `meta` that say nothing about the data: where it lay, and what was measured of it since
NOT_THE_DATA = ("source", "files", "statistics")
REBUILD = "Delete the folder and build it again."
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
    def title(self) -> str:
        """Its name in pictures, tables and messages."""
        return title_of({"title": self.path.name, **self.meta})

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and deviation of each band in [0, 1], if `src.data.statistics` measured them."""
        kept = self.meta.get("statistics")
        return kept and (tuple(kept["mean"]), tuple(kept["std"]))

    @property
    def provenance(self) -> dict[str, Any]:
        """What a checkpoint remembers of its data: `meta` without the folder on this machine."""
        return {key: value for key, value in self.meta.items() if key not in NOT_THE_DATA}

    @classmethod
    def open(cls, path: str | Path) -> "PatchStore":
        """Open a store.

        Pixels are compared with their checksum up to 500 MB, index and meta always.

        Raises:
            DataError: no store there, written by a newer format, damaged (a label that is no class
                is named with its row), or its files don't fit together.
        """
        meta = _read_meta(path := Path(path))
        try:
            images = np.lib.format.open_memmap(path / "images.npy", mode="c")
            names, labels = _read_index(path / "index.csv", meta.get("classes"))
        except Exception as error:  # numpy's reader of headers may raise whatever Python's does
            raise DataError(f"{path}: {error}. {REBUILD}") from error
        if list(images.shape) != meta["shape"] or len(names) != len(images):
            raise DataError(
                f"{path}: meta.json says {meta['shape']}, images.npy holds {list(images.shape)} and"
                f" index.csv {len(names)} rows. {REBUILD}"
            )
        if images.dtype.name not in DTYPES or not images.dtype.isnative:
            raise DataError(f"{path}: images.npy holds {images.dtype.str}, not {DTYPES}. {REBUILD}")
        _verify(path, images, meta.get("sha256"))
        return cls(path, images, labels, names, meta)

    @classmethod
    def write(
        cls, path: str | Path, patches: Iterable[Patch], meta: dict[str, Any]
    ) -> "PatchStore":
        """Write patches, all images of one (H, W, C) shape and dtype, and open the result.

        The folder appears under its name only when it is whole: an error on the way leaves nothing
        behind, and what a kill left is replaced by the next try.

        Raises:
            DataError: there were no patches, the path is taken, or another process writes this
                store. Errors of the iterable pass through.
        """
        if (path := Path(path)).exists():
            raise DataError(f"{path} exists already: open it, or delete it to build it again")
        patches = iter(patches)
        first = next(patches, None)  # missing data is reported before any folder is made
        if first is None:
            raise DataError(f"no readable patches for {path.name}: nothing to store")
        folder = path.with_name(f"{path.name}.partial")
        partial = folder / "store"
        with locked(folder / "lock", "writing this store"):
            try:
                shutil.rmtree(partial, ignore_errors=True)  # of a try that was killed
                partial.mkdir(parents=True)
                patches = itertools.chain([first], patches)
                shape, sha256 = _write_arrays(partial, patches, like=first[2])
                write_meta(partial, meta, shape, sha256)
                partial.rename(path)
            finally:  # a keyboard interrupt too must not leave half a store
                shutil.rmtree(folder)
        return cls.open(path)


def _read_meta(path: Path) -> dict[str, Any]:
    if not (path / "meta.json").is_file():
        raise DataError(
            f"{path} is not a store: it has no meta.json. A folder of images becomes one by"
            " `python -m src.data.images FOLDER STORE`, BigEarthNet by `python -m"
            " src.data.bigearthnet`; see SETUP.md."
        )
    try:
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}/meta.json is damaged ({error!r}). {REBUILD}") from error
    if fault := _fault(meta):
        raise DataError(f"{path}/meta.json is damaged: {fault}. {REBUILD}")
    if meta["format"] > FORMAT_VERSION:
        raise DataError(
            f"{path} was written in store format {meta['format']}, this code reads up to"
            f" {FORMAT_VERSION}: update ood-satellite. {REBUILD}"
        )
    return meta


def _fault(meta: Any) -> str | None:
    """What is wrong with what stands in a `meta.json`; None: nothing."""
    if not isinstance(meta, dict):
        return f"expected an object, got {type(meta).__name__}"
    if type(meta.get("format")) is not int or meta["format"] < 1:
        return f"format is {meta.get('format')!r}, expected a whole number"
    shape, classes = meta.get("shape"), meta.get("classes", [])
    if not isinstance(shape, list) or len(shape) != 4 or {type(n) for n in shape} != {int}:
        return f"shape is {shape!r}, expected [N, H, W, C]"
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        return f"classes is {classes!r}, expected a list of names"
    kept = meta.get("statistics", {"mean": [], "std": []})
    lists = [kept.get(key) for key in ("mean", "std")] if isinstance(kept, dict) else [None]
    if not all(isinstance(values, list) for values in lists):
        return f"statistics is {kept!r}, expected mean and std of each band"
    return None


def _read_index(file: Path, classes: list[str] | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Names and labels; labels are None if no row has one. ValueError: a label that is no class."""
    # names are text, whatever they look like; and what a label is, is decided here
    index = pd.read_csv(file, dtype={"name": object, "label": object}, keep_default_na=False)
    names, written = index["name"].to_numpy(str), index["label"]
    if (written == "").all():
        return names, None
    labels = pd.to_numeric(written, errors="coerce").to_numpy(np.float64)
    end = len(classes) if classes is not None else np.inf
    with np.errstate(invalid="ignore"):
        good = (labels >= 0) & (labels < end) & (labels % 1 == 0)
    good &= ~written.isin(["True", "False"]).to_numpy()
    if not good.all():
        row = int(np.argmin(good))
        known = f"0 to {end - 1}" if classes is not None else "0 upwards"
        raise ValueError(
            f"{file.name}, row {row + 1} ({names[row]}): label {written[row]!r} is none of the"
            f" whole numbers from {known}, which every row or none must have"
        )
    return names, labels.astype(np.int64)


def _verify(path: Path, images: np.ndarray, sha256: str | None) -> None:
    """Compare the files with what they were when they were written, as far as the store says."""
    file, verifiable = path / "images.npy", sha256 is not None and images.nbytes <= VERIFIED_BYTES
    if verifiable and checksum_of_pixels(file, images.offset) != sha256:
        raise DataError(f"{file} is not what was written: damaged. {REBUILD}")
    while (written := _written_sums(path)) not in (None, _sums(path)):
        if written == _written_sums(path):  # else `write_meta` was at work in between
            raise DataError(
                f"{path}: index.csv or meta.json is not what was written (see {SUMS}). {REBUILD} If"
                f" you changed them on purpose, delete {SUMS}."
            )


def _written_sums(path: Path) -> bytes | None:
    """What `SHA256SUMS` says; None: there is none, as in stores of a version that wrote none."""
    try:
        return (path / SUMS).read_bytes()
    except FileNotFoundError:
        return None


def checksum_of_pixels(file: Path, offset: int) -> str:
    """SHA-256 of an .npy file without its header, read in pieces: it may not fit into memory."""
    digest = hashlib.sha256()
    with open(file, "rb") as content:
        content.seek(offset)
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sums(folder: Path) -> bytes:
    files = (folder / "index.csv", folder / "meta.json")
    lines = (f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    return "".join(lines).encode()


def write_meta(folder: Path, meta: dict[str, Any], shape: list[int], sha256: str) -> None:
    """Write `meta.json`, whose presence says that a store is whole, and `SHA256SUMS`.

    Args:
        folder: with `index.csv` in it already.
        shape: [N, H, W, C].
        sha256: of the bytes of the images, without the header of their file.
    """
    meta = {"format": FORMAT_VERSION, **meta, "shape": shape, "sha256": sha256}
    (folder / SUMS).unlink(missing_ok=True)  # first: a store without it is whole as well
    write_whole(folder / "meta.json", json.dumps(meta, indent=1).encode())
    write_whole(folder / SUMS, _sums(folder))


def _write_arrays(
    folder: Path, patches: Iterable[Patch], like: np.ndarray
) -> tuple[list[int], str]:
    """Write images and index; the shape, and the SHA-256 of the images' bytes.

    That checksum is the fingerprint of the data in every run's record.
    """
    count, digest = 0, hashlib.sha256()
    with (
        open(folder / "images.npy", "wb") as images,
        open(folder / "index.csv", "w", newline="", encoding="utf-8") as index_file,
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
