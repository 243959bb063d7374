"""Sentinel-2 bands: their names and orders, and how digital numbers are rendered as grey levels."""

import functools

import numpy as np

RGB = ("B04", "B03", "B02")
# all that level 2A has, by wavelength; EuroSAT's 13 are read in this order too, without B10
ALL_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
BANDS = {"rgb": RGB, "all": ALL_BANDS}
EUROSAT_STRETCH = 2750.0  # reflectance DN shown as white: how EuroSAT's JPEGs were rendered


def to_uint8(image: np.ndarray, stretch: float | str) -> np.ndarray:
    """Digital numbers as grey levels: clip(DN / stretch × 255), rounded down.

    Args:
        image: uint16, of any shape.
        stretch: the digital number (10,000 = reflectance 1) that becomes 255, or "percentile": from
            the 2nd to the 98th percentile of the image, over its bands together so that colours
            keep their balance.
    """
    low, high = np.percentile(image, (2, 98)) if stretch == "percentile" else (0.0, float(stretch))
    return _grey_levels(low, max(high - low, 1.0))[image]


@functools.lru_cache(maxsize=1)
def _grey_levels(low: float, span: float) -> np.ndarray:
    """The grey level of every uint16: to look them up is several times faster than to compute."""
    return ((np.arange(65536) - low) / span * 255).clip(0, 255).astype(np.uint8)


def as_rgb(images: np.ndarray, stretch: float = EUROSAT_STRETCH) -> np.ndarray:
    """(…, 12) images as (…, 3) RGB to be looked at; those of three channels as they are.

    Of any other number of bands the first three are shown, of one or two the first, in grey.
    Digital numbers (uint16) become uint8, reflectances (floats) stay floats in [0, 1].
    """
    channels = images.shape[-1]
    if channels == 3 and images.dtype != np.uint16:
        return images
    shown = [ALL_BANDS.index(band) for band in RGB] if channels == len(ALL_BANDS) else [0, 1, 2]
    rgb = images[..., shown if channels > 2 else [0, 0, 0]]
    if rgb.dtype == np.uint8:
        return rgb
    return to_uint8(rgb, stretch) if rgb.dtype == np.uint16 else (rgb * 10_000 / stretch).clip(0, 1)
