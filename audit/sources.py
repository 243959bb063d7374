"""Images beside EuroSAT: what else to pretrain on, and what no class of EuroSAT is.

| set | folder under `data/` | files |
|---|---|---|
| UC Merced (Yang & Newsam 2010) | `UCMerced_LandUse/Images/<class>/` | TIFF, 256 × 256, 0.3 m |
| RESISC45 (Cheng et al. 2017) | `NWPU-RESISC45/<class>/` | JPEG, 256 × 256, 0.2 to 30 m |
| SatLab | `SatLab/` | GeoTIFF, 32 × 32, 10 m: Sentinel-2 B02, B03, B04, B8A of Argentina |
"""

from pathlib import Path

import numpy as np
import torch

from audit.changes import AS_PUBLISHED
from audit.stages import PATCH
from src.augmentations.resampling import resize, to_unit
from src.data.bands import EUROSAT_STRETCH, to_uint8
from src.data.folders import is_hidden, subfolders
from src.data.images import read_image
from src.errors import DataError

FOLDERS = {"ucmerced": "UCMerced_LandUse/Images", "resisc45": "NWPU-RESISC45", "satlab": "SatLab"}


def found_sets(data: Path) -> list[str]:
    """Names of the sets whose folder is there."""
    return [name for name, folder in FOLDERS.items() if (data / folder).is_dir()]


def ood_images(data: Path, name: str, limit: int = 100) -> dict[str, np.ndarray]:
    """Class → (n, 64, 64, 3) uint8 images of a set, at most so many a class: aerial pictures are
    reduced to EuroSAT's size.

    SatLab has no classes, and is one, "Argentina", of five times as many, of 32 pixels.

    Raises:
        DataError: the set is not there, or a file of it cannot be read.
    """
    if name == "satlab":
        return {"Argentina": _satlab(data, EUROSAT_STRETCH)[: 5 * limit]}
    return _classes(data, name, limit)


def pretraining_patches(data: Path, name: str, eurosat: np.ndarray, seed: int) -> np.ndarray:
    """(N, 32, 32, 3) uint8 patches to pretrain on, shuffled, of a set or of EuroSAT's own images.

    Images of EuroSAT's size, to which the aerial ones are reduced, are cut into quarters: of
    EuroSAT one each is taken, of the others, which are fewer, all four.

    Args:
        name: "eurosat", "satlab", "satlab dark" (rendered as published), "resisc45", "ucmerced".
        eurosat: (n, 64, 64, 3) uint8, the training images.
    """
    rng = np.random.default_rng([seed, 4])
    if name.startswith("satlab"):
        patches = _satlab(data, AS_PUBLISHED if name.endswith("dark") else EUROSAT_STRETCH)
    elif name == "eurosat":
        patches = quarters(eurosat, rng)
    else:
        patches = _quarters(np.concatenate(list(_classes(data, name).values())))
    return patches[rng.permutation(len(patches))]


def quarters(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One quarter of each, drawn at random: (N, 64, 64, 3) → (N, 32, 32, 3)."""
    every = _quarters(images).reshape(4, len(images), PATCH, PATCH, 3)
    return every[rng.integers(4, size=len(images)), np.arange(len(images))]


def _classes(data: Path, name: str, limit: int | None = None) -> dict[str, np.ndarray]:
    """Class → (n, 64, 64, 3) uint8 of its first images, or of all."""
    folder = data / FOLDERS[name]
    classes = [folder / name for name in subfolders(folder)] if folder.is_dir() else []
    if not classes:
        raise DataError(f"{name} not found: expected folders of classes in {folder}")
    suffixes = (".tif", ".jpg")
    found = {}
    for path in classes:
        files = [file for file in sorted(path.iterdir()) if file.suffix.lower() in suffixes]
        files = [file for file in files if not is_hidden(file.name)][:limit]
        found[path.name] = _reduced(np.stack([read_image(file, 256) for file in files]))
    return found


def _satlab(data: Path, stretch: float) -> np.ndarray:
    import rasterio

    files = sorted((data / FOLDERS["satlab"]).glob("*.tif"))
    if not files:
        raise DataError(f"satlab not found: expected GeoTIFFs in {data / FOLDERS['satlab']}")
    patches = []
    for file in files:
        with rasterio.open(file) as image:
            patches.append(image.read([3, 2, 1]).transpose(1, 2, 0))  # B04, B03, B02
    distinct = {patch.tobytes(): patch for patch in patches}  # some lie there twice
    return np.stack([to_uint8(patch, stretch) for patch in distinct.values()])


def _reduced(images: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) uint8 → (N, 64, 64, 3)."""
    unit = to_unit(torch.as_tensor(images).permute(0, 3, 1, 2))
    return (255 * resize(unit, 2 * PATCH)).round().byte().permute(0, 2, 3, 1).numpy()


def _quarters(images: np.ndarray) -> np.ndarray:
    """(N, 64, 64, 3) → (4 N, 32, 32, 3): all upper left ones, then all upper right ones, …"""
    corners = [(y, x) for y in (0, PATCH) for x in (0, PATCH)]
    return np.concatenate([images[:, y : y + PATCH, x : x + PATCH] for y, x in corners])
