"""Labelled images in class folders, decoded into stores: EuroSAT (RGB or 13 bands) and UC Merced.

EuroSAT (Helber et al. 2019, arXiv 1709.00029): 27,000 images of 64×64 pixels at 10 m, ten classes.
UC Merced Land Use (Yang & Newsam 2010): 256×256 aerial TIFFs at 0.3 m, here the out-of-distribution
set.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from src.data.bands import ALL_BANDS
from src.data.store import Patch, PatchStore, open_or_build
from src.errors import DataError

CLASSES = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)
STUDY_CLASSES = ("airplane", "storagetanks", "tenniscourt")  # of UC Merced's 21
# where the 13-band archive has its class folders
ALLBANDS = "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"
# the bands in its files: level 1C's 13, B8A last
FILE_BANDS = (*(f"B{number:02}" for number in range(1, 13)), "B8A")


def read_image(file: Path, size: int | None = None) -> np.ndarray:
    """Decode an 8-bit RGB image file to (H, W, 3) uint8, resized to (size, size, 3) if need be.

    Raises:
        DataError: truncated, not an image, or not RGB.
    """
    try:
        with Image.open(file) as image:
            image.load()
            if image.mode != "RGB":
                raise DataError(f"{file}: expected an 8-bit RGB image, got mode {image.mode}")
            if size and image.size != (size, size):
                image = image.resize((size, size), Image.Resampling.BILINEAR)
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{file} cannot be read ({error}): download or extract it again") from error


def read_allbands(file: Path) -> np.ndarray:
    """Decode a 13-band GeoTIFF to (H, W, 12) uint16 in the order of ALL_BANDS.

    B10 is left out: cirrus, with no ground in it.

    Raises:
        DataError: unreadable, or not 13 bands of uint16.
    """
    import rasterio

    try:
        with rasterio.open(file) as image:
            if (image.count, set(image.dtypes)) != (len(FILE_BANDS), {"uint16"}):
                raise DataError(
                    f"{file}: expected 13 bands of uint16, got {image.count} of {set(image.dtypes)}"
                )
            return image.read([FILE_BANDS.index(band) + 1 for band in ALL_BANDS]).transpose(1, 2, 0)
    except rasterio.errors.RasterioError as error:
        raise DataError(f"{file} cannot be read ({error}): download or extract it again") from error


@dataclass(frozen=True)
class ImageSet:
    """What there is to know of a set of images in class folders."""

    title: str  # in messages
    kind: str  # in meta.json
    pattern: str  # of the files in a class folder
    read: Callable[[Path], np.ndarray]  # a file → (H, W, C), of one shape in the whole set
    bands: tuple[str, ...] = ()  # where they are not red, green and blue
    complete: bool = False  # whether a folder that is none of the classes is an error


EUROSAT = ImageSet("EuroSAT", "eurosat-rgb", "*.jpg", read_image, complete=True)
EUROSAT_ALLBANDS = ImageSet(
    "EuroSAT", "eurosat-all", "*.tif", read_allbands, ALL_BANDS, complete=True
)
# a few files of the set differ from 256 pixels by some and are resized
UCMERCED = ImageSet("UC Merced", "ucmerced", "*.tif", functools.partial(read_image, size=256))


def eurosat_store(root: str | Path, path: str | Path) -> PatchStore:
    """Open EuroSAT's store at `path`, building it from `root` (`…/2750`) if it is not there yet.

    Images are (64, 64, 3) uint8, labels index `CLASSES`.

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


def ucmerced_store(
    root: str | Path, path: str | Path, classes: Sequence[str] = STUDY_CLASSES
) -> PatchStore:
    """Open UC Merced's store at `path`, building it from `root` if it is not there yet.

    Images are (256, 256, 3) uint8, labels index `classes`; `root` is `…/UCMerced_LandUse/Images`.

    Raises:
        DataError: see `class_folder_store`.
    """
    return class_folder_store(UCMERCED, classes, root, path)


def class_folder_store(
    images: ImageSet, classes: Sequence[str], root: str | Path, path: str | Path
) -> PatchStore:
    """Open the store at `path`, building it from `root` (`root/<class>/<file>`) if it is not there.

    Rows are by class in the order of `classes`, within a class in natural order; a file's name
    without its suffix is the patch's, labels index `classes`.

    Raises:
        DataError: folder missing, class missing or empty, a folder that is no class of a complete
            set, an unreadable image, one of another shape, or a store that was built otherwise.
    """
    root = Path(root)
    meta = {"kind": images.kind, "source": str(root.absolute()), "classes": list(classes)}
    if images.bands:
        meta["bands"] = list(images.bands)
    return open_or_build(path, _labelled(images, classes, root), meta)


def _labelled(images: ImageSet, classes: Sequence[str], root: Path) -> Iterator[Patch]:
    if not root.is_dir():
        raise DataError(
            f"{images.title} not found: no folder {root}. SETUP.md says where to download it;"
            " without a download, run with PROFILE = 'demo'."
        )
    others = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name not in classes)
    if images.complete and others:
        raise DataError(
            f"{root} holds folders that are not {images.title} classes: {others}. Expected"
            f" {list(classes)}."
        )
    files = class_folders(root, classes, images.pattern)
    labelled = [(label, file) for label, name in enumerate(classes) for file in files[name]]
    for label, file in tqdm(labelled, desc=f"reading {images.title}", unit="img"):
        yield file.stem, label, images.read(file)


def class_folders(root: Path, classes: Sequence[str], pattern: str) -> dict[str, list[Path]]:
    """The image files of each class folder, in natural order (name_2 before name_10).

    Raises:
        DataError: a folder is missing or empty.
    """
    files = {}
    for name in classes:
        files[name] = sorted((root / name).glob(pattern), key=lambda p: (len(p.name), p.name))
        if not files[name]:
            state = "is empty" if (root / name).is_dir() else "is missing"
            raise DataError(
                f"{root / name} {state}: expected {pattern} images there. See SETUP.md for the"
                " download."
            )
    return files
