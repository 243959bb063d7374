"""What the satellite makes of a painted scene: optics, haze, noise, and its twelve bands."""

import numpy as np
from scipy.ndimage import gaussian_filter

from src.data.bigearthnet.patch import PIXELS
from src.data.demo.paint import RNG


def simulate_sensor(rng: RNG, scene: np.ndarray) -> np.ndarray:
    """Scene (n, n, 4) as digital numbers: optics, sun, haze (mostly blue), sensor noise."""
    scene = gaussian_filter(scene, (0.45, 0.45, 0))
    mean = scene.mean((0, 1))
    # water among crops would be darker than black in the near infrared
    scene = (mean + (scene - mean) * rng.uniform(0.9, 1.4)).clip(0) * rng.uniform(0.8, 1.25)
    haze = np.array([560, 380, 230, 80]) * rng.uniform(0.7, 1.3)
    return (scene + haze + rng.normal(0, 15, scene.shape)).clip(1, 10_000)


def _block_mean(field: np.ndarray, factor: int) -> np.ndarray:
    n = len(field) // factor
    return field.reshape(n, factor, n, factor).mean((1, 3))


def mixed_bands(scene: np.ndarray) -> dict[str, np.ndarray]:
    """Mix B02, B03, B04, B08, (n, n, 4), into the twelve bands of level 2A, all at 10 m.

    The others are plausible, not physical.
    """
    blue, green, red, nir = np.moveaxis(scene, -1, 0)
    return {
        "B01": blue + 100,
        "B02": blue,
        "B03": green,
        "B04": red,
        "B05": 0.6 * red + 0.4 * nir,
        "B06": 0.35 * red + 0.65 * nir,
        "B07": 0.15 * red + 0.85 * nir,
        "B08": nir,
        "B8A": nir,
        "B09": 0.9 * nir,
        "B11": 0.5 * red + 0.4 * nir + 200,
        "B12": 0.7 * red + 0.15 * nir,
    }


def twelve_bands(scene: np.ndarray) -> dict[str, np.ndarray]:
    """Mix B02, B03, B04, B08, (120, 120, 4), into the twelve bands, uint16 at their own sizes."""
    bands = {}
    for name, band in mixed_bands(scene).items():
        coarse = _block_mean(band, len(band) // PIXELS[name])
        bands[name] = coarse.round().astype(np.uint16)
    return bands
