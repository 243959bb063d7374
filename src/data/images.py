"""Labelled images in class folders, decoded into stores: EuroSAT (RGB or 13 bands) and UC Merced.

EuroSAT (Helber et al. 2019, arXiv 1709.00029): 27,000 images of 64×64 pixels at 10 m, ten classes.
UC Merced Land Use (Yang & Newsam 2010): 256×256 aerial TIFFs at 0.3 m, here the out-of-distribution
set.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from src.data.bands import ALL_BANDS
from src.data.store import PatchStore, open_or_build
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


ALLBANDS = (  # where the 13-band archive has its class folders
    "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"
)
# bands in the files: level 1C's 13, B8A last; B10 (cirrus, no ground in it) is dropped, the rest
# are put in order
FILE_BANDS = (
    "B01",
    "B02",
    "B03",
    "B04",
    "B05",
    "B06",
    "B07",
    "B08",
    "B09",
    "B10",
    "B11",
    "B12",
    "B8A",
)


def eurosat_store(root: str | Path, path: str | Path) -> PatchStore:
    """Open the store at `path`, building it from the class folders in `root` (`…/2750`) if it is
    not there yet.

    Images are (64, 64, 3) uint8, labels index `CLASSES`.

    Raises:
        DataError: folder missing, class missing or empty, a folder that is not a class, an
            unreadable image.
    """
    root = Path(root)
    return open_or_build(
        path,
        _eurosat_patches(root, "*.jpg", read_image),
        {"kind": "eurosat-rgb", "source": str(root.absolute()), "classes": list(CLASSES)},
    )


def eurosat_allbands_store(root: str | Path, path: str | Path) -> PatchStore:
    """Open the store at `path`, building it from class folders of 13-band GeoTIFFs if it is not
    there yet.

    Images are (64, 64, 12) uint16 digital numbers in the order of ALL_BANDS, labels index
    `CLASSES`; their order is that of `eurosat_store`, so that a split of one is the split of the
    other. They are level 1C, not corrected for the atmosphere; BigEarthNet is level 2A.

    Raises:
        DataError: see `eurosat_store`.
    """
    root = Path(root)
    meta = {
        "kind": "eurosat-all",
        "source": str(root.absolute()),
        "classes": list(CLASSES),
        "bands": list(ALL_BANDS),
    }
    return open_or_build(path, _eurosat_patches(root, "*.tif", read_allbands), meta)


def read_allbands(file: Path) -> np.ndarray:
    """(H, W, 12) uint16 of a 13-band GeoTIFF.

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


STUDY_CLASSES = ("airplane", "storagetanks", "tenniscourt")
SIZE = 256  # pixels; a few files of the set differ by some pixels and are resized


def ucmerced_store(
    root: str | Path, path: str | Path, classes: tuple[str, ...] = STUDY_CLASSES
) -> PatchStore:
    """Open the store at `path`, building it from `root` (`…/UCMerced_LandUse/Images`) if it is not
    there yet.

    Images are (256, 256, 3) uint8, labels index `classes`.

    Raises:
        DataError: folder missing, class missing or empty, an unreadable image.
    """
    root = Path(root)
    meta = {"kind": "ucmerced", "source": str(root.absolute()), "classes": list(classes)}
    return open_or_build(path, _ucmerced_patches(root, classes), meta)


def _eurosat_patches(root: Path, pattern: str, read: Callable[[Path], np.ndarray]):
    if not root.is_dir():
        raise DataError(
            f"EuroSAT not found: no folder {root}. SETUP.md says where to download it; "
            "without a download, run with PROFILE = 'demo'."
        )
    strangers = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name not in CLASSES)
    if strangers:
        raise DataError(
            f"{root} holds folders that are not EuroSAT classes: {strangers}. Expected"
            f" {list(CLASSES)}."
        )
    files = class_folders(root, CLASSES, pattern)
    progress = tqdm(total=sum(map(len, files.values())), desc="reading EuroSAT", unit="img")
    for label, name in enumerate(CLASSES):
        for file in files[name]:
            yield file.stem, label, read(file)
            progress.update()
    progress.close()


def _ucmerced_patches(root: Path, classes: tuple[str, ...]):
    if not root.is_dir():
        raise DataError(
            f"UC Merced not found: no folder {root}. SETUP.md says where to download it; "
            "without a download, run with PROFILE = 'demo'."
        )
    for label, (name, files) in enumerate(class_folders(root, classes, "*.tif").items()):
        for file in tqdm(files, desc=f"reading UC Merced {name}", unit="img", leave=False):
            image = read_image(file)
            if image.shape[:2] != (SIZE, SIZE):
                image = np.asarray(
                    Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
                )
            yield file.stem, label, image


def read_image(path: Path) -> np.ndarray:
    """Decode an 8-bit RGB image file to (H, W, 3) uint8.

    Raises:
        DataError: truncated, not an image, or not RGB.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            if image.mode != "RGB":
                raise DataError(f"{path}: expected an 8-bit RGB image, got mode {image.mode}")
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): download or extract it again") from error


def class_folders(root: Path, classes: Iterable[str], pattern: str) -> dict[str, list[Path]]:
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
