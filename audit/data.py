"""What the audit trains and tests on: the images of each run, and where on the ground they lie."""

import importlib.util
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from audit.plan import SIZES, Recipe, Size
from src.data.splits import Split
from src.data.store import PatchStore
from src.errors import DataError
from src.profiles import Profile
from src.runs.runtime import Runtime, pick

BLOCK = 0.5  # degrees
FEW_VAL = 30  # val images a class where labels are few: an epoch is a step or two


@dataclass(frozen=True)
class Study:
    """What all runs of one size and encoder share."""

    size_name: str
    size: Size
    encoder: str
    runtime: Runtime
    profile: Profile
    store: PatchStore
    places: np.ndarray  # (N, 2) longitude and latitude in degrees, or stand-ins: see `place_table`
    place_kind: str  # which of the two
    work: Path  # for what runs share
    # those drawn so far, by the arguments of `draw`
    splits: dict[tuple, Split] = field(default_factory=dict, init=False, repr=False)

    def adapted(self, recipe: Recipe) -> "Study":
        """The study with the encoder and the image size of a recipe that has its own."""
        encoder, image_size = recipe.encoder or self.encoder, recipe.image_size
        size = replace(self.size, image_size=image_size) if image_size else self.size
        return replace(self, encoder=encoder, size=size)


def open_study(
    profile: Profile,
    size_name: str,
    work: Path,
    *,
    encoder: str = "custom_cnn",
    coordinates: Path | None = None,
    runtime: Runtime | None = None,
) -> Study:
    """Open the data.

    Args:
        size_name: one of `SIZES`.
        work: folder for what runs share.
        coordinates: see `place_table`.

    Raises:
        DataError: data or coordinates are missing.
    """
    store, _ = profile.labelled()
    places, kind = place_table(store.names, coordinates)
    size, runtime = SIZES[size_name], runtime or pick()
    return Study(size_name, size, encoder, runtime, profile, store, places, kind, work)


# --- where images lie ---


def place_table(names: np.ndarray, coordinates: Path | None) -> tuple[np.ndarray, str]:
    """Where each image lies, (N, 2), and what the two numbers are: "longitude and latitude", or
    "class and number", with which neighbours are neighbours in the store.

    Args:
        names: (N,) of the images, `<Class>_<number>`.
        coordinates: CSV of name, latitude, longitude; None: ten times the rank of an image's number
            within its class, in (0, 1], stands for the longitude, and its class for the latitude.

    Raises:
        DataError: the CSV is missing, has other columns, or lacks an image.
    """
    if coordinates is None:
        files = pd.Series(names).str.rsplit("_", n=1, expand=True)
        rank = files[1].astype(int).groupby(files[0]).rank(pct=True)
        return np.stack([10 * rank, pd.factorize(files[0])[0]], axis=1), "class and number"
    try:
        table = pd.read_csv(coordinates).set_index("name").reindex(names)[["longitude", "latitude"]]
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{coordinates}: expected a CSV with columns name, latitude, longitude ({error})"
        ) from error
    missing = table.index[table.isna().any(axis=1)]
    if len(missing):
        raise DataError(
            f"{coordinates} has no place for {list(missing[:3])} …: give a row for every image of"
            " the store"
        )
    return table.to_numpy(), "longitude and latitude"


def geographic_split(longitude: np.ndarray) -> Split:
    """60/20/20 from west to east: another region as well as no neighbours."""
    west, east = np.quantile(longitude, [0.6, 0.8])
    part = (longitude > west).astype(int) + (longitude > east)
    return Split(*(np.flatnonzero(part == number) for number in range(3)))


def block_split(places: np.ndarray, seed: int) -> Split:
    """60/20/20 of the images in whole blocks, dealt at random: the same regions, few neighbours.

    Args:
        places: (N, 2); a block is `BLOCK` on both axes.
        seed: of the deal, which is another for every seed.
    """
    _, block = np.unique(np.floor(places / BLOCK), axis=0, return_inverse=True)
    sizes = np.bincount(block)
    order = np.random.default_rng([seed, 5]).permutation(len(sizes))
    before = np.empty(len(sizes))
    before[order] = (np.cumsum(sizes[order]) - sizes[order] / 2) / len(places)
    part = np.digitize(before[block], [0.6, 0.8])
    return Split(*(np.flatnonzero(part == number) for number in range(3)))


# --- which images a run has ---


def draw(study: Study, seed: int, kind: str, labels: int | None = None, number: int = 0) -> Split:
    """The images of a run: of each class the first so many of one shuffle, so that few labels are
    among more.

    Args:
        kind: "random" is the profile's 80/10/10 split of this seed; "geographic" has the
            westernmost 60 % for training, the next 20 % for val and the rest for test; "blocks" has
            60/20/20 in whole blocks. These two and "even random" have the same number of images of
            each class for training and for val.
        labels: training images a class; None: as many as the size says.
        number: of the draw of few labels.
    """
    key = (seed, kind, labels, number)
    if key not in study.splits:
        study.splits[key] = _draw(study, *key)
    return study.splits[key]


def _draw(study: Study, seed: int, kind: str, labels: int | None, number: int) -> Split:
    random, size = study.profile.labelled(seed=seed)[1], study.size
    pools = {"random": random}
    if kind != "random":
        pools |= {"even random": random, "geographic": geographic_split(study.places[:, 0])}
        if kind == "blocks" or size.test_all:  # the first records knew no blocks
            pools["blocks"] = block_split(study.places, seed)
    few_val = FEW_VAL if labels and size.test_all else None  # as few labels to choose by
    limits = {"train": labels or size.per_class, "val": size.held_out or few_val}
    if not size.test_all:
        limits["test"] = size.held_out and 3 * size.held_out
    parts = {}
    for part, limit in limits.items():
        counts = _fewest(study.store.labels, [getattr(pool, part) for pool in pools.values()])
        counts = counts if limit is None else np.minimum(counts, limit)
        key = [seed, 3, number] if part == "train" and number else [seed, 3]
        parts[part] = _first(study.store.labels, getattr(pools[kind], part), counts, key)
    if size.test_all:
        # with few labels, too, no test image is one that the encoder was pretrained on
        seen = draw(study, seed, kind).train if labels else parts["train"]
        used = np.concatenate([seen, parts["train"], parts["val"]])
        parts["test"] = _unused(pools[kind], kind, used)
    return Split(**parts)


def _unused(pool: Split, kind: str, used: np.ndarray) -> np.ndarray:
    """Of a random split all images that are not used, of another all of its own for test."""
    if "random" not in kind:
        return pool.test
    rows = np.concatenate([pool.train, pool.val, pool.test])
    return np.setdiff1d(rows, used)


def _fewest(labels: np.ndarray, pools: list[np.ndarray]) -> np.ndarray:
    """(C,) images of each class in the pool that has fewest of it."""
    counts = [np.bincount(labels[rows], minlength=labels.max() + 1) for rows in pools]
    return np.min(counts, axis=0)


def _first(labels: np.ndarray, rows: np.ndarray, counts: np.ndarray, key: list[int]) -> np.ndarray:
    """Of each class the first `counts` (C,) of a shuffle of the rows, in ascending order."""
    rows = rows[np.random.default_rng(key).permutation(len(rows))]
    chosen = [rows[labels[rows] == label][:count] for label, count in enumerate(counts)]
    return np.sort(np.concatenate(chosen))


def sample_patches(profile: Profile) -> Path | None:
    """BigEarthNet patches to look at: the profile's own, or the six that come with the package
    bigearthnet-common; None without either.
    """
    patches = profile.data / "BigEarthNet-v1.0"
    if patches.is_dir():
        return patches
    # found and never imported: it makes folders in the user's home
    package = importlib.util.find_spec("bigearthnet_common")
    return Path(package.origin).with_name("BigEarthNet-S2-Example.tar.bz2") if package else None
