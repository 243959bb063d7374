"""Mean and deviation of the channels, and the normalisation every image goes through."""

import math
from typing import Any

from torch import Tensor

from src.augmentations.resampling import REFLECTANCE
from src.augmentations.transfer import constant

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Of reflectance in BigEarthNet-S2 v1, bands as src.data.bands.ALL_BANDS: measured over the whole
# set by its authors (BAND_STATS_S2 of bigearthnet-common), here in digital numbers.
BANDS_MEAN = tuple(
    dn / REFLECTANCE for dn in (341, 430, 614, 590, 951, 1792, 2075, 2219, 2266, 2246, 1594, 1009)
)
BANDS_STD = tuple(
    dn / REFLECTANCE for dn in (555, 572, 583, 676, 730, 1096, 1273, 1365, 1356, 1302, 1079, 819)
)
Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation of each channel
# the usual ones of so many channels
STATISTICS = {3: (IMAGENET_MEAN, IMAGENET_STD), 12: (BANDS_MEAN, BANDS_STD)}

MEASURE = (
    ": RGB and twelve bands have usual ones; of others measure the store's by `python -m"
    " src.data.statistics STORE` and give statistics=store.statistics"
)


def normalize(
    images: Tensor,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    inplace: bool = False,
) -> Tensor:
    """(images − mean) / std for each channel of (N, C, H, W).

    Args:
        mean, std: of each channel; None takes ImageNet's for RGB, BigEarthNet's for twelve bands.
        inplace: whether the images may be overwritten.

    Raises:
        ValueError: as many values as channels are needed.
    """
    mean, std = check_statistics(images.shape[1], mean, std)
    offset = constant(tuple(mean), images.device).view(1, -1, 1, 1)
    scale = constant(tuple(1 / s for s in std), images.device).view(1, -1, 1, 1)
    return (images.sub_(offset) if inplace else images - offset).mul_(scale)


def check_statistics(
    channels: int, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None
) -> Statistics:
    """Mean and deviation of so many channels: one's own, else the usual ones.

    Raises:
        ValueError: as many finite values as channels are needed, deviations above 0.
    """
    usual_mean, usual_std = STATISTICS.get(channels, STATISTICS[3])
    hint = MEASURE if mean is None else ""
    mean, std = usual_mean if mean is None else mean, usual_std if std is None else std
    if not channels == len(mean) == len(std):
        raise ValueError(
            f"{channels}-channel images, but mean and std have {len(mean)} values{hint}"
        )
    if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise ValueError(f"mean {mean} and std {std}: expected finite values, and std above 0")
    return mean, std


def as_statistics(channels: int, given: Any) -> Statistics | None:
    """A store's, a config's or a checkpoint's own statistics; None stands for the usual ones.

    Raises:
        ValueError: no pair of means and deviations of so many channels.
    """
    if given is None:
        return None
    try:
        mean, std = (tuple(map(float, values)) for values in given)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"statistics are means and deviations of {channels} channels, got {str(given)[:100]}"
        ) from error
    return check_statistics(channels, mean, std)
