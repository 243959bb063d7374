"""Tones between level 1C (light from ground and air) and level 2A (the air's part taken away).

EuroSAT is level 1C: the air adds blue. A classifier that saw no other tones takes a clear level 2A
scene for something else. The air is Rayleigh's: what molecules scatter, which is known.
"""

import math

import torch
from torch import Tensor

from src.augmentations.resampling import REFLECTANCE, to_unit
from src.augmentations.transfer import to_device
from src.data.bands import ALL_BANDS, EUROSAT_STRETCH, RGB

# micrometres, central, Sentinel-2A (ESA, Sentinel-2 User Handbook, table 1); as ALL_BANDS
WAVELENGTHS = (0.443, 0.492, 0.560, 0.665, 0.704, 0.741, 0.783, 0.833, 0.865, 0.945, 1.614, 2.202)
SUN = 0.766  # cosine of the sun's distance from the zenith, 40°: Europe's summer mornings
# drawn for each image that gets strange tones
THICKNESS = (-0.3, 1.4)  # of the air taken away: 1 is Rayleigh's, below 0 there is more of it
GAIN = (0.8, 1.3)  # of all bands together
GAIN_OF_BAND = (0.92, 1.08)  # of each band besides


def path_reflectance(bands: int) -> tuple[float, ...]:
    """Reflectance that clean air adds to red, green and blue (3 bands) or to `ALL_BANDS` (12).

    Single scattering at nadir: τ P / (4 μ), τ as Hansen & Travis 1974 (Space Sci. Rev. 16, eq.
    2.30) for sea level, P = ¾ (1 + μ²), μ the cosine of the sun's zenith angle.

    Raises:
        ValueError: another number of bands.
    """
    return tuple(depth * 0.75 * (1 + SUN**2) / (4 * SUN) for depth in _depths(bands))


def transmittance(bands: int) -> tuple[float, ...]:
    """Share of the ground's light that reaches the satellite through the same air, by band.

    exp(−τ (1 / μ + 1) / 2): half of what is scattered goes on in its direction.
    """
    return tuple(math.exp(-depth * (1 / SUN + 1) / 2) for depth in _depths(bands))


def _depths(bands: int) -> tuple[float, ...]:
    """Optical depth τ of the air for red, green and blue, or for `ALL_BANDS`."""
    if bands not in (len(RGB), len(ALL_BANDS)):
        raise ValueError(f"the air of {bands} bands is not known, only of 3 (RGB) or 12")
    micrometres = dict(zip(ALL_BANDS, WAVELENGTHS, strict=True))
    chosen = [micrometres[name] for name in (RGB if bands == len(RGB) else ALL_BANDS)]
    return tuple(0.008569 * at**-4 * (1 + 0.0113 * at**-2 + 0.00013 * at**-4) for at in chosen)


def draw_tones(images: Tensor, generator: torch.Generator, share: float) -> Tensor:
    """Each image (x − air) · gain with its own air and gains, as another level, sun or air would.

    Args:
        images: (N, C, H, W) uint8, rendered as EuroSAT is, or uint16 digital numbers; C is 3 or 12.
        share: probability of each image to get strange tones.

    Returns:
        (N, C, H, W) float32 in [0, 1]; the images themselves where the share is 0.

    Raises:
        ValueError: another number of bands.
    """
    if not share:
        return images
    count, bands = images.shape[:2]
    white = EUROSAT_STRETCH / REFLECTANCE if images.dtype == torch.uint8 else 1.0
    path = torch.tensor(path_reflectance(bands), device=images.device) / white
    drawn = torch.rand(count, 3 + bands, generator=generator, device=generator.device)
    strange, air, gain, gains = to_device(drawn, images.device).split([1, 1, 1, bands], dim=1)
    haze = _between(air, THICKNESS) * path
    gain = _between(gain, GAIN) * _between(gains, GAIN_OF_BAND)
    x = to_unit(images)
    toned = ((x - haze[..., None, None]) * gain[..., None, None]).clamp(0, 1)
    return torch.where((strange < share)[..., None, None], toned, x)


def _between(uniform: Tensor, ends: tuple[float, float]) -> Tensor:
    return ends[0] + (ends[1] - ends[0]) * uniform
