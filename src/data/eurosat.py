"""EuroSAT (Helber et al. 2019, arXiv 1709.00029): 27,000 images of 64×64 pixels at 10 m, ten classes, as RGB JPEGs and
as 13-band GeoTIFFs.

Command line: `python -m src.data.eurosat FOLDER data/eurosat_latlon.csv` writes where each image lies.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split
from tqdm.auto import tqdm

from src.data.patch import ALL_BANDS
from src.data.store import DataError, PatchStore, class_folders, open_or_build, read_image

CLASSES = (
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial",
    "Pasture", "PermanentCrop", "Residential", "River", "SeaLake",
)  # fmt: skip


ALLBANDS = "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"  # where the 13-band archive has its class folders
# bands in the files: level 1C's 13, B8A last; B10 (cirrus, no ground in it) is dropped, the rest are put in order
FILE_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")


def eurosat_store(root: str | Path, path: str | Path) -> PatchStore:
    """Open the store at `path`, building it from the class folders in `root` (`…/2750`) if it is not there yet.

    Images are (64, 64, 3) uint8, labels index `CLASSES`.

    Raises:
        DataError: folder missing, class missing or empty, a folder that is not a class, an unreadable image.
    """
    root = Path(root)
    return open_or_build(
        path, _patches(root, "*.jpg", read_image),
        {"kind": "eurosat-rgb", "source": str(root.absolute()), "classes": list(CLASSES)},
    )  # fmt: skip


def eurosat_allbands_store(root: str | Path, path: str | Path) -> PatchStore:
    """Open the store at `path`, building it from class folders of 13-band GeoTIFFs if it is not there yet.

    Images are (64, 64, 12) uint16 digital numbers in the order of ALL_BANDS, labels index `CLASSES`; their order is
    that of `eurosat_store`, so that a split of one is the split of the other. They are level 1C, not corrected for
    the atmosphere; BigEarthNet is level 2A.

    Raises:
        DataError: see `eurosat_store`.
    """
    root = Path(root)
    meta = {"kind": "eurosat-all", "source": str(root.absolute()), "classes": list(CLASSES), "bands": list(ALL_BANDS)}
    return open_or_build(path, _patches(root, "*.tif", read_allbands), meta)


def read_allbands(file: Path) -> np.ndarray:
    """(H, W, 12) uint16 of a 13-band GeoTIFF.

    Raises:
        DataError: unreadable, or not 13 bands of uint16.
    """
    import rasterio

    try:
        with rasterio.open(file) as image:
            if (image.count, set(image.dtypes)) != (len(FILE_BANDS), {"uint16"}):
                raise DataError(f"{file}: expected 13 bands of uint16, got {image.count} of {set(image.dtypes)}")
            return image.read([FILE_BANDS.index(band) + 1 for band in ALL_BANDS]).transpose(1, 2, 0)
    except rasterio.errors.RasterioError as error:
        raise DataError(f"{file} cannot be read ({error}): download or extract it again") from error


def coordinates(root: str | Path) -> pd.DataFrame:
    """name, latitude, longitude (of the centre, degrees, WGS 84) of 13-band GeoTIFFs in the class folders of `root`.

    The JPEGs have no place; their names and numbers are the same, so this places them too.

    Raises:
        DataError: folder or class missing or empty, a file that is unreadable or has no place.
    """
    import rasterio
    from rasterio.warp import transform

    places = []
    for file in (file for files in class_folders(Path(root), CLASSES, "*.tif").values() for file in files):
        try:
            with rasterio.open(file) as image:
                (x, y), crs = image.xy((image.height - 1) / 2, (image.width - 1) / 2), image.crs
        except rasterio.errors.RasterioError as error:
            raise DataError(f"{file} cannot be read ({error}): download or extract it again") from error
        if crs is None:
            raise DataError(f"{file} has no coordinate system: download or extract it again")
        (longitude,), (latitude,) = transform(crs, "EPSG:4326", [x], [y])
        places.append((file.stem, round(latitude, 5), round(longitude, 5)))
    return pd.DataFrame(places, columns=["name", "latitude", "longitude"])


def _patches(root: Path, pattern: str, read: Callable[[Path], np.ndarray]):
    if not root.is_dir():
        raise DataError(
            f"EuroSAT not found: no folder {root}. SETUP.md says where to download it; "
            "without a download, run with PROFILE = 'demo'."
        )
    strangers = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name not in CLASSES)
    if strangers:
        raise DataError(f"{root} holds folders that are not EuroSAT classes: {strangers}. Expected {list(CLASSES)}.")
    files = class_folders(root, CLASSES, pattern)
    progress = tqdm(total=sum(map(len, files.values())), desc="reading EuroSAT", unit="img")
    for label, name in enumerate(CLASSES):
        for file in files[name]:
            yield file.stem, label, read(file)
            progress.update()
    progress.close()


@dataclass(frozen=True)
class Split:
    """Row numbers of a store, (n,) int64 each; no row is in two of them."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def stratified_split(store: PatchStore, seed: int = 0) -> Split:
    """80/10/10 per class from a fixed seed, written to `split_seed<seed>.csv` in the store and read from there after.

    Raises:
        DataError: the store has no labels, the file lists other patches, or a class has fewer than ten.
    """
    if store.labels is None:
        raise DataError(f"{store.path} has no labels to stratify by")
    file = store.path / f"split_seed{seed}.csv"
    if not file.exists():
        parts = _draw(store, seed)
        partial = file.with_suffix(".partial")
        pd.DataFrame({"name": store.names, "split": parts}).to_csv(partial, index=False)
        partial.replace(file)
    written = pd.read_csv(file, dtype=str, keep_default_na=False)
    if list(written["name"]) != list(store.names):
        raise DataError(f"{file} lists other patches than the store: delete it to draw the split again")
    return Split(*(np.flatnonzero(written["split"] == part) for part in ("train", "val", "test")))


def _draw(store: PatchStore, seed: int) -> np.ndarray:
    if np.bincount(store.labels).min() < 10:
        raise DataError(f"{store.path}: an 80/10/10 split needs ten images of every class")
    rows = np.arange(len(store))
    train, rest = train_test_split(rows, train_size=0.8, stratify=store.labels, random_state=seed)
    val, _ = train_test_split(rest, train_size=0.5, stratify=store.labels[rest], random_state=seed)
    parts = np.full(len(store), "test ")
    parts[train], parts[val] = "train", "val"
    return np.char.strip(parts)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m src.data.eurosat", description="Where each image of EuroSAT lies.")
    parser.add_argument("folder", type=Path, help="class folders of the 13-band GeoTIFFs")
    parser.add_argument("csv", type=Path, help="name, latitude, longitude; the audit looks for data/eurosat_latlon.csv")
    args = parser.parse_args()
    try:
        coordinates(args.folder).to_csv(args.csv, index=False)
    except (DataError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    print(args.csv)


if __name__ == "__main__":
    main()
