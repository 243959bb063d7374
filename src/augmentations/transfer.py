"""Numbers brought to a device without making the host wait for what a GPU has still to do."""

from functools import cache

import torch
from torch import Tensor


@cache
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """These numbers as a tensor on the device, copied there once for all calls."""
    # it may be asked for first in inference, and later in training
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)


def to_device(drawn: Tensor, device: torch.device) -> Tensor:
    """Random numbers drawn on the CPU, to a GPU by way of pinned memory: the host goes on."""
    if device.type == "cuda" and drawn.device.type == "cpu":
        return drawn.pin_memory().to(device, non_blocking=True)
    return drawn.to(device)
