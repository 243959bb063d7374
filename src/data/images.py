"""Labelled images in class folders, decoded into stores: EuroSAT, UC Merced, any other set.

EuroSAT (Helber et al. 2019, arXiv 1709.00029): 27,000 images of 64×64 pixels at 10 m, ten classes.
UC Merced Land Use (Yang & Newsam 2010): 256×256 aerial TIFFs at 0.3 m, here the out-of-distribution
set. NWPU-RESISC45 (Cheng et al. 2017, arXiv 1703.00121): 256×256 at 0.2 to 30 m, 45 classes. Any
folder of class folders, or of images without classes, becomes a store by `python -m src.data.images
FOLDER STORE`.
"""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm

from src.data.bands import ALL_BANDS
from src.data.decoding import FILE_BANDS, read_allbands, read_bands, read_image
from src.data.folders import find_class_folders, list_images, require_folder, subfolders
from src.data.image_sets import ImageSet, open_or_build
from src.data.store import PatchStore, open_if_there
from src.errors import DataError, exit_with_message

__all__ = ["FILE_BANDS", "read_allbands", "read_image"]  # from here, too

# images of each class
EUROSAT_COUNTS = {
    "AnnualCrop": 3000,
    "Forest": 3000,
    "HerbaceousVegetation": 3000,
    "Highway": 2500,
    "Industrial": 2500,
    "Pasture": 2000,
    "PermanentCrop": 2500,
    "Residential": 3000,
    "River": 2500,
    "SeaLake": 3000,
}
CLASSES = tuple(EUROSAT_COUNTS)
UCMERCED_CLASSES = (
    *("agricultural", "airplane", "baseballdiamond", "beach", "buildings", "chaparral"),
    *("denseresidential", "forest", "freeway", "golfcourse", "harbor", "intersection"),
    *("mediumresidential", "mobilehomepark", "overpass", "parkinglot", "river", "runway"),
    *("sparseresidential", "storagetanks", "tenniscourt"),
)
STUDY_CLASSES = ("airplane", "storagetanks", "tenniscourt")  # of these
RESISC45_CLASSES = (
    *("airplane", "airport", "baseball_diamond", "basketball_court", "beach", "bridge"),
    *("chaparral", "church", "circular_farmland", "cloud", "commercial_area", "dense_residential"),
    *("desert", "forest", "freeway", "golf_course", "ground_track_field", "harbor"),
    *("industrial_area", "intersection", "island", "lake", "meadow", "medium_residential"),
    *("mobile_home_park", "mountain", "overpass", "palace", "parking_lot", "railway"),
    *("railway_station", "rectangular_farmland", "river", "roundabout", "runway", "sea_ice"),
    *("ship", "snowberg", "sparse_residential", "stadium", "storage_tank", "tennis_court"),
    *("terrace", "thermal_power_station", "wetland"),
)
# where the 13-band archive has its class folders
ALLBANDS = "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"


EUROSAT = ImageSet(
    "EuroSAT",
    "eurosat-rgb",
    read_image,
    (".jpg", ".jpeg", ".png"),
    official=EUROSAT_COUNTS,
    complete=True,
)
EUROSAT_ALLBANDS = ImageSet(
    "EuroSAT in 13 bands",
    "eurosat-all",
    read_allbands,
    (".tif", ".tiff"),
    {"bands": list(ALL_BANDS)},
    EUROSAT_COUNTS,
    complete=True,
)
# a few files of the set differ from 256 pixels by some and are resized
UCMERCED = ImageSet(
    "UC Merced",
    "ucmerced",
    functools.partial(read_image, size=256),
    official=dict.fromkeys(UCMERCED_CLASSES, 100),
)
RESISC45 = ImageSet(
    "NWPU-RESISC45",
    "resisc45",
    functools.partial(read_image, size=256),
    official=dict.fromkeys(RESISC45_CLASSES, 700),
)


def eurosat_store(root: str | Path, path: str | Path) -> PatchStore:
    """Open EuroSAT's store at `path`, building it from `root` if it is not there yet.

    Images are (64, 64, 3) uint8, labels index `CLASSES`; `root` is `…/2750`, or a folder around it.

    Raises:
        DataError: see `class_folder_store`.
    """
    return class_folder_store(EUROSAT, CLASSES, root, path)


def eurosat_allbands_store(root: str | Path, path: str | Path) -> PatchStore:
    """Open the store of EuroSAT's 13-band GeoTIFFs at `path`, building it if it is not there yet.

    Images are (64, 64, 12) uint16 digital numbers in the order of ALL_BANDS, labels index
    `CLASSES`; their order is that of `eurosat_store`, so that a split of one is the split of the
    other. They are level 1C, not corrected for the atmosphere; BigEarthNet is level 2A.

    Raises:
        DataError: see `class_folder_store`.
    """
    return class_folder_store(EUROSAT_ALLBANDS, CLASSES, root, path)


def class_folder_store(
    images: ImageSet, classes: Sequence[str], root: str | Path, path: str | Path
) -> PatchStore:
    """Open the store of a known set at `path`, building it from `root` if it is not there.

    Rows are by class in the order of `classes`, within a class in natural order; a file's name
    without its suffix is the patch's, labels index `classes`. The class folders are found in
    `root` or in a folder inside it, and compared with what a store that is there was built from: it
    is built again where images have been added, and refused where any are gone. Without `root`, a
    store that is there is opened as it is.

    Raises:
        DataError: folder missing, class missing or empty, a folder that is no class of a complete
            set, an unreadable image, one of another shape, or a store that was built otherwise.
    """
    root, path = Path(root), Path(path)
    wanted = {"kind": images.kind, "classes": list(classes), **images.meta}
    if not root.exists() and (store := open_if_there(path, wanted)):
        tqdm.write(f"{images.title}: no folder {root}; the store {path} is used as it is")
        return store
    folder = find_class_folders(root, classes, images.suffixes, images.title)
    listing = list_images(folder, classes, images.suffixes)
    if images.complete:
        _refuse_strangers(folder, classes, images.title)
    return open_or_build(images, listing, path, wanted)


def _refuse_strangers(root: Path, classes: Sequence[str], title: str) -> None:
    if others := [name for name in subfolders(root) if name not in classes]:
        raise DataError(
            f"{root} holds folders that are not {title} classes: {others}. Expected"
            f" {list(classes)}. Other class folders become a store by `python -m src.data.images"
            " FOLDER STORE`."
        )


def image_folder_store(
    root: str | Path,
    path: str | Path,
    *,
    size: int | None = None,
    bands: Sequence[int] = (),
    max_unreadable: float = 0.01,
    workers: int | None = None,
) -> PatchStore:
    """Open the store of any folder of images at `path`, building it if it is not there.

    Args:
        root: folders of images, each a class (labels index their names, sorted), or images without
            folders: a store without labels.
        size: pixels across; images of other sizes are resized. None: all must be of one size.
        bands: numbers from 1 of those to take of TIFFs of more or other bands than 8-bit RGB, which
            are then kept as they are, uint8 or uint16; not with `size`.
        max_unreadable: share of unreadable images, in [0, 1], above which the build stops.
        workers: processes; None: no more than one for 30,000 images.

    Raises:
        ValueError: size with bands, or either makes no sense.
        DataError: no images, too many unreadable ones, or a store that was built otherwise.
    """
    root, path = Path(root), Path(path)
    if size is not None and (size < 1 or bands):
        raise ValueError(f"size must be positive and without bands, got {size} and {bands}")
    if bands and (min(bands) < 1 or len(set(bands)) < len(bands)):
        raise ValueError(f"bands must be different numbers from 1, got {list(bands)}")
    require_folder(root, "the images")
    meta = {"size": size, "bands": list(bands)} if bands else {"size": size}
    read = functools.partial(read_image, size=size)
    if bands:
        read = functools.partial(read_bands, bands=tuple(bands))
    images = ImageSet(root.absolute().name, "images", read, meta=meta)
    listing = list_images(root)
    wanted = {"kind": images.kind, **meta}
    if listing.classes:
        wanted["classes"] = list(listing.classes)
    return open_or_build(images, listing, path, wanted, max_unreadable, workers)


def main() -> None:
    """Build a store of any folder of images, or open the one that is there."""
    parser = argparse.ArgumentParser(
        prog="python -m src.data.images", description="Build a PatchStore of a folder of images."
    )
    add = parser.add_argument
    add("folder", help="class folders of JPEG, PNG or TIFF, or images without classes")
    add("store", help="folder to write")
    add("--size", type=int, help="pixels across to resize to (default: all must be of one size)")
    add("--bands", type=int, nargs="+", default=(), help="of TIFFs, from 1 (default: 8-bit RGB)")
    add("--workers", type=int, help="reading processes (default: one for 30,000 images)")
    add("--max-unreadable", type=float, default=0.01, help="share left out (default: %(default)s)")
    args = vars(parser.parse_args())
    with exit_with_message():
        store = image_folder_store(args.pop("folder"), args.pop("store"), **args)
    labels = f"{len(store.meta['classes'])} classes" if store.labels is not None else "unlabelled"
    print(
        f"{store.path}: {len(store)} images {store.images.shape[1:]}, {labels}, sha256"
        f" {store.meta['sha256']}"
    )


if __name__ == "__main__":
    main()
