"""Can the network be asked about this scene? What is known before any tile is mapped."""

from typing import Any

import numpy as np
from rasterio.windows import Window

from src.data.bands import to_uint8
from src.errors import DataError
from src.map.scene import Scene

GROUND = 10.0  # metres a pixel of EuroSAT
EACH_WAY = 8  # tiles sampled along each axis


def rendered(numbers: np.ndarray, metadata: dict[str, Any]) -> np.ndarray:
    """Digital numbers as the checkpoint's training images had them.

    That is as grey levels by its stretch, or left as they are.

    Args:
        numbers: (…, C) of `Scene.read`.
        metadata: of `Thresholds`.
    """
    if numbers.dtype == np.uint8 or metadata["dtype"] != "uint8":
        return numbers
    return to_uint8(numbers, metadata["stretch"])


def differences(scene: Scene, metadata: dict[str, Any]) -> list[str]:
    """What of the scene is far from the training data, one sentence each.

    Args:
        metadata: of `Thresholds`.

    Raises:
        DataError: values in 0…1 where digital numbers are expected.
    """
    numbers = _sampled_tiles(scene, metadata["tile"])
    found = [_strange_pixel_size(scene)]
    if len(numbers):
        _check_unit(scene, numbers)
        found.append(_strange_tones(rendered(numbers, metadata), metadata["tones"]))
        found.append(_forgotten_offset(scene, numbers))
    return [sentence for sentence in found if sentence]


def _sampled_tiles(scene: Scene, tile: int) -> np.ndarray:
    """Digital numbers (N, tile, tile, C) of tiles evenly spread over the scene, without gaps."""
    tiles = []
    for top in _spread(scene.grid.height - tile):
        for left in _spread(scene.grid.width - tile):
            numbers, valid = scene.read(Window(left, top, tile, tile))
            if valid.all():
                tiles.append(numbers)
    return np.stack(tiles) if tiles else np.zeros((0, tile, tile, len(scene.bands)), np.uint16)


def _spread(last: int) -> np.ndarray:
    return np.unique(np.linspace(0, last, EACH_WAY).astype(int))


def _check_unit(scene: Scene, numbers: np.ndarray) -> None:
    if "float" in scene.grid.dtypes[0] and numbers.max() <= 2:
        raise DataError(
            f"{scene.path} holds no value above 2 where digital numbers are expected (10,000 ="
            " reflectance 1): for reflectance in 0…1 give --scale 10000"
        )


def _strange_pixel_size(scene: Scene) -> str:
    projected, (width, height) = scene.grid.crs.is_projected, scene.grid.res
    if projected and max(abs(width - GROUND), abs(height - GROUND)) <= 0.5:
        return ""
    unit = scene.grid.crs.linear_units if projected else "degrees"
    return f"pixels of {width:g} × {height:g} {unit}: the network learnt on {GROUND:g} m"


def _strange_tones(images: np.ndarray, tones: list[list[float]]) -> str:
    means_N_C = images.mean((1, 2))
    low_C, median_C, high_C = np.array(tones)
    strange = ((means_N_C < low_C) | (means_N_C > high_C)).any(1).mean()
    if strange <= 0.5:
        return ""
    return (
        f"{strange:.0%} of sampled tiles are outside the tones of 98 % of the training images:"
        f" median grey level {_levels(np.median(means_N_C, 0))}, in training {_levels(median_C)}."
        " Is the stretch right (scale, offset)?"
    )


def _levels(values: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.0f}" for value in values) + ")"


def _forgotten_offset(scene: Scene, numbers: np.ndarray) -> str:
    if scene.offset != 0 or numbers.dtype == np.uint8 or numbers.min() < 1000:
        return ""
    return (
        f"the darkest sampled pixel is {numbers.min()}: products since processing baseline 04.00"
        " (2022) carry 1000 that must be taken off (offset 1000); a bare GeoTIFF does not say"
        " whether it is one"
    )
