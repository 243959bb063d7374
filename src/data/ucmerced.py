"""UC Merced Land Use (Yang & Newsam 2010): 256×256 aerial TIFFs at 0.3 m, here the out-of-distribution set."""

from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from src.data.store import DataError, PatchStore, class_folders, open_or_build, read_image

STUDY_CLASSES = ("airplane", "storagetanks", "tenniscourt")
SIZE = 256  # pixels; a few files of the set differ by some pixels and are resized


def ucmerced_store(root: str | Path, path: str | Path, classes: tuple[str, ...] = STUDY_CLASSES) -> PatchStore:
    """Open the store at `path`, building it from `root` (`…/UCMerced_LandUse/Images`) if it is not there yet.

    Images are (256, 256, 3) uint8, labels index `classes`.

    Raises:
        DataError: folder missing, class missing or empty, an unreadable image.
    """
    root = Path(root)
    meta = {"kind": "ucmerced", "source": str(root.absolute()), "classes": list(classes)}
    return open_or_build(path, _patches(root, classes), meta)


def _patches(root: Path, classes: tuple[str, ...]):
    if not root.is_dir():
        raise DataError(
            f"UC Merced not found: no folder {root}. SETUP.md says where to download it; "
            "without a download, run with PROFILE = 'demo'."
        )
    for label, (name, files) in enumerate(class_folders(root, classes, "*.tif").items()):
        for file in tqdm(files, desc=f"reading UC Merced {name}", unit="img", leave=False):
            image = read_image(file)
            if image.shape[:2] != (SIZE, SIZE):
                image = np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
            yield file.stem, label, image
