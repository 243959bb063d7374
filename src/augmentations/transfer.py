"""Numbers brought to a device and back without making the host wait for what a GPU has to do."""

from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor


@cache
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """These numbers as a tensor on the device, copied there once for all calls."""
    # it may be asked for first in inference, and later in training
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)


def to_device(numbers: Tensor, device: torch.device) -> Tensor:
    """From the CPU to a GPU by way of pinned memory: the host goes on."""
    if device.type == "cuda" and numbers.device.type == "cpu":
        return numbers.pin_memory().to(device, non_blocking=True)
    return numbers.to(device)


def draw_normal(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """Standard normal numbers on the device; on a GPU drawn there, from a seed that a generator on
    the CPU draws, so that they are a function of its state still.
    """
    if device.type == "cuda" and generator.device.type == "cpu":
        seed = torch.randint(2**62, (1,), generator=generator).item()
        there = torch.Generator(device).manual_seed(seed)
        return torch.randn(shape, generator=there, device=device)
    return torch.randn(shape, generator=generator, device=generator.device).to(device)


def to_host(parts: Iterable[Tensor]) -> list[Tensor]:
    """What a network makes of batch after batch, on the CPU: the host waits once, at the end.

    parts: made one by one as they are asked for; a GPU works on the next while it sends the last.
    """
    there, device = [], torch.device("cpu")
    for part in parts:
        device = part.device
        there.append(part.to("cpu", non_blocking=device.type == "cuda"))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return there
