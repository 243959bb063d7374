"""Can the network be asked about this scene? What is known before any tile is mapped."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from src.augmentations.tones import path_reflectance, transmittance
from src.data.bands import to_uint8
from src.errors import DataError
from src.map.scene import Scene
from src.map.tones import other_order, strange_tones

GROUND = 10.0  # metres a pixel of EuroSAT


@dataclass(frozen=True)
class Radiometry:
    """What is done to digital numbers before they are rendered: number × gain + shift, by band."""

    gain_C: np.ndarray
    shift_C: np.ndarray

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """Digital numbers (…, C) → the same, uint16."""
        return (numbers * self.gain_C + self.shift_C).round().clip(0, 65535).astype(np.uint16)


def radiometry(scene: Scene, metadata: dict[str, Any]) -> Radiometry | None:
    """As the scene's options ask; None leaves the numbers as they are.

    Args:
        metadata: of `Thresholds`.

    Raises:
        DataError: air is to be added to a scene of level 1C, which has it.
        ValueError: of bands whose air is not known.
    """
    kind, bands = scene.options.radiometry, len(scene.bands)
    if kind == "as-is":
        return None
    if kind == "haze":
        if scene.product.level == "L1C":
            raise DataError(
                f"{scene.path} is of level 1C, which has the air's light already: radiometry as-is"
            )
        return Radiometry(np.array(transmittance(bands)), 1e4 * np.array(path_reflectance(bands)))
    numbers = as_numbers(sampled_tiles(scene, metadata["tile"]), metadata)
    if not len(numbers):
        return None
    usual_C = np.array(metadata["tones"][1])
    usual_C = usual_C * metadata["stretch"] / 255 if metadata["dtype"] == "uint8" else usual_C
    return Radiometry(np.ones(bands), usual_C - np.median(numbers.mean((1, 2)), axis=0))


def as_numbers(numbers: np.ndarray, metadata: dict[str, Any]) -> np.ndarray:
    """An 8-bit picture, as the training images are rendered, as digital numbers; others as is."""
    if numbers.dtype != np.uint8:
        return numbers
    return np.ceil(numbers * (float(metadata["stretch"]) / 255)).astype(np.uint16)


def rendered(
    numbers: np.ndarray, metadata: dict[str, Any], tone: Radiometry | None = None
) -> np.ndarray:
    """Digital numbers as the checkpoint's training images had them.

    That is as grey levels by its stretch, or left as they are.

    Args:
        numbers: (…, C) of `Scene.read`.
        metadata: of `Thresholds`.
        tone: of `radiometry`.
    """
    if tone is not None:
        numbers = tone(as_numbers(numbers, metadata))
    if metadata["dtype"] != "uint8":
        return as_numbers(numbers, metadata)
    return numbers if numbers.dtype == np.uint8 else to_uint8(numbers, metadata["stretch"])


def differences(scene: Scene, metadata: dict[str, Any]) -> list[str]:
    """What is doubtful of a scene: how it is read, and what is far from the training data.

    Args:
        metadata: of `Thresholds`.

    Returns:
        One sentence each.
    """
    numbers = sampled_tiles(scene, metadata["tile"])
    found = [*scene.doubts, _strange_pixel_size(scene)]
    if len(numbers):
        images = rendered(numbers, metadata, radiometry(scene, metadata))
        # what is too bright or too dark has contrasts of another kind
        found.append(strange_tones(images, metadata) or other_order(images, metadata))
    return [sentence for sentence in found if sentence]


def sampled_tiles(scene: Scene, tile: int) -> np.ndarray:
    """Digital numbers (N, tile, tile, C) of tiles evenly spread over the scene, those with enough
    pixels.
    """
    tiles = []
    for window in scene.sampled(tile):
        numbers, valid = scene.read(window)
        if valid.shape == (tile, tile) and (~valid).mean() <= scene.options.missing:
            tiles.append(fill_missing(numbers, valid))
    return np.stack(tiles) if tiles else np.zeros((0, tile, tile, len(scene.bands)), np.uint16)


def fill_missing(pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(h, w, C) with each band's median of the valid pixels where (h, w) are not.

    So that a tile with a few gaps can be asked about; the gaps themselves are never mapped.
    """
    if valid.all():
        return pixels
    return np.where(valid[..., None], pixels, np.median(pixels[valid], axis=0).astype(pixels.dtype))


def _strange_pixel_size(scene: Scene) -> str:
    projected, (width, height) = scene.grid.crs.is_projected, scene.grid.res
    if projected and max(abs(width - GROUND), abs(height - GROUND)) <= 0.5:
        return ""
    unit = scene.grid.crs.linear_units if projected else "degrees"
    return f"pixels of {width:g} × {height:g} {unit}: the network learnt on {GROUND:g} m"
