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


def shown_as_rgb(count: int) -> list[int]:
    """Positions of the bands to look at: of Sentinel-2's twelve or thirteen red, green and blue.

    Of others the first three, or the last of fewer again.
    """
    if count in (len(ALL_BANDS), len(ALL_BANDS) + 1):  # B10 is behind all three
        return [ALL_BANDS.index(band) for band in RGB]
    return [min(n, count - 1) for n in range(3)]


def as_rgb(images: np.ndarray, stretch: float = EUROSAT_STRETCH) -> np.ndarray:
    """(…, C) images as (…, 3) RGB to be looked at; those of three channels as they are.

    Digital numbers (uint16) become uint8, reflectances (floats) stay floats in [0, 1].
    """
    if images.shape[-1] == 3 and images.dtype != np.uint16:
        return images
    rgb = images[..., shown_as_rgb(images.shape[-1])]
    if rgb.dtype == np.uint8:
        return rgb
    return to_uint8(rgb, stretch) if rgb.dtype == np.uint16 else (rgb * 10_000 / stretch).clip(0, 1)
