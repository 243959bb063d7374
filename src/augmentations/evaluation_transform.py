"""The one transform of evaluation: nothing random, the same in and out of distribution."""

import numpy as np
import torch
from torch import Tensor

from src.augmentations.normalisation import Statistics, normalize
from src.augmentations.resampling import resize, to_unit
from src.augmentations.transfer import to_device


def prepare(
    images: np.ndarray | Tensor,
    size: int,
    device: torch.device,
    statistics: Statistics | None = None,
) -> Tensor:
    """Images as every network sees them in evaluation.

    Args:
        images: (N, H, W, C) uint8, or uint16 digital numbers.
        size: pixels the network sees.
        statistics: those it was trained with (`src.encoders.statistics_of`); None: the usual ones
            of so many channels.

    Returns:
        (N, C, size, size) float32, normalised, channels last in memory.
    """
    batch = to_device(torch.as_tensor(images), torch.device(device)).permute(0, 3, 1, 2)
    # resizing is a matrix product: keep it in float32
    with torch.autocast(batch.device.type, enabled=False):
        normalised = normalize(resize(to_unit(batch), size), *(statistics or ()))
    return normalised.contiguous(memory_format=torch.channels_last)
