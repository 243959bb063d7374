"""The one transform of evaluation, in and out of distribution alike: nothing random, the same for
every image.
"""

import numpy as np
import torch
from torch import Tensor

from src.augmentations import normalize
from src.augmentations.resampling import resize, to_unit


def prepare(images: np.ndarray | Tensor, size: int, device: torch.device) -> Tensor:
    """Images as every network is asked about them: (N, H, W, C) integers → (N, C, size, size)
    normalised.
    """
    cuda = torch.device(device).type == "cuda"
    batch = torch.as_tensor(images).to(device, non_blocking=cuda).permute(0, 3, 1, 2)
    # resizing is a matrix product: keep it in float32
    with torch.autocast(batch.device.type, enabled=False):
        return normalize(resize(to_unit(batch), size)).contiguous(memory_format=torch.channels_last)
