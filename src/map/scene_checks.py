"""Is a scene one that the network can be asked about? What is told before any tile is mapped."""

from typing import Any

import numpy as np
from rasterio.windows import Window

from src.data.bands import to_uint8
from src.errors import DataError
from src.map.scene import Scene

GROUND = 10.0  # metres a pixel of EuroSAT


# --- is a scene one the network can be asked about? ---


def rendered(numbers: np.ndarray, about: dict[str, Any]) -> np.ndarray:
    """Digital numbers as the checkpoint's training images had them: grey levels by its stretch, or
    left as they are.
    """
    if numbers.dtype == np.uint8 or about["dtype"] != "uint8":
        return numbers
    return to_uint8(numbers, about["stretch"])


def sample(scene: Scene, about: dict[str, Any], each_way: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Whole tiles evenly spread over the scene (N, tile, tile, C), as digital numbers and as the
    network sees them.
    """
    tile, found = about["tile"], []
    for top in _spread(scene.grid.height - tile, each_way):
        for left in _spread(scene.grid.width - tile, each_way):
            numbers, valid = scene.read(Window(left, top, tile, tile))
            found += [numbers] if valid.all() else []
    numbers = np.stack(found) if found else np.zeros((0, tile, tile, len(scene.bands)), np.uint16)
    return numbers, rendered(numbers, about)


def _spread(last: int, count: int) -> np.ndarray:
    return np.unique(np.linspace(0, last, count).astype(int))


def differences(scene: Scene, about: dict[str, Any]) -> list[str]:
    """What of the scene is far from the training data before any network is asked: one sentence
    each.

    Raises:
        DataError: values in 0…1 where digital numbers are expected.
    """
    said, (width, height) = [], scene.grid.res
    unit = scene.grid.crs.linear_units if scene.grid.crs.is_projected else "degrees"
    if not scene.grid.crs.is_projected or max(abs(width - GROUND), abs(height - GROUND)) > 0.5:
        said.append(f"pixels of {width:g} × {height:g} {unit}: the network learnt on {GROUND:g} m")
    numbers, images = sample(scene, about)
    if not len(numbers):
        return said
    if "float" in scene.grid.dtypes[0] and numbers.max() <= 2:
        raise DataError(
            f"{scene.path} holds no value above 2 where digital numbers are expected (10,000 ="
            " reflectance 1): for reflectance in 0…1 give --scale 10000"
        )
    (low, usual, high), means = np.array(about["tones"]), images.mean((1, 2))
    strange = ((means < low) | (means > high)).any(1).mean()
    if strange > 0.5:
        said.append(
            f"{strange:.0%} of sampled tiles are outside the tones of 98 % of the training images:"
            f" median grey level {_levels(np.median(means, 0))}, in training {_levels(usual)}. Is"
            " the stretch right (scale, offset)?"
        )
    if scene.offset == 0 and numbers.dtype != np.uint8 and numbers.min() >= 1000:
        said.append(
            f"the darkest sampled pixel is {numbers.min()}: products since processing baseline"
            " 04.00 (2022) carry 1000 that must be taken off (offset 1000); a bare GeoTIFF does"
            " not say whether it is one"
        )
    return said


def _levels(values: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.0f}" for value in values) + ")"
