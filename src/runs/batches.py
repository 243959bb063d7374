"""Batches on the device: from its own memory if the data fits, else streamed in as it computes."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from src.augmentations.transfer import to_device

BLOCK = 16  # batches that are copied, or worked on, at a time
ELEMENTS = 2**27  # that a GPU works on at a time: of float32 half a gigabyte
SHARE = 0.5  # of the device's free memory that data may take; the rest is the network's


def to_device_if_it_fits(images: np.ndarray, device: torch.device, share: float = SHARE) -> Tensor:
    """(N, H, W, C) as one tensor: on the GPU if it takes less than `share` of its free memory."""
    tensor = torch.as_tensor(images)
    if device.type == "cuda" and tensor.nbytes < share * free_memory(device):
        return tensor.to(device)
    return tensor


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU that tensors may still take: the driver's free ones, and what PyTorch keeps
    for itself of those that it has freed.
    """
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached


def batches(
    images: Tensor, rows_S_n: Tensor, device: torch.device, stream: bool | None = None
) -> Iterator[Tensor]:
    """The images of each step, (n, C, H, W) on the device; the same ones wherever they lie.

    Args:
        images: (N, H, W, C) as `to_device_if_it_fits` gives it.
        rows_S_n: row numbers, one line a step.
        stream: copy blocks of batches from a second thread while the device works; None: if the
            images are not there.
    """
    # rows are picked as int16: torch does little with uint16, and copying needs no more
    raw = images.view(torch.int16) if images.dtype == torch.uint16 else images
    if stream if stream is not None else images.device.type != device.type:
        chosen = _streamed(raw, rows_S_n, device)
    else:
        chosen = _picked(raw, to_device(rows_S_n, images.device))
    for batch in chosen:
        yield batch.view(images.dtype).permute(0, 3, 1, 2)


def steps_at_once(elements: int) -> int:
    """How many steps are worked on in one pass, each having so many elements."""
    return max(1, min(BLOCK, ELEMENTS // elements))


def _picked(images: Tensor, rows_S_n: Tensor) -> Iterator[Tensor]:
    elements = rows_S_n.shape[1] * images[0].numel()
    # a CPU has its batch in the caches when it is made; a GPU has fewer launches
    at_once = 1 if images.device.type == "cpu" else steps_at_once(elements)
    for rows in rows_S_n.split(at_once):
        yield from images[rows]


def _streamed(images: Tensor, rows_S_n: Tensor, device: torch.device) -> Iterator[Tensor]:
    cuda = device.type == "cuda"
    longest = min(BLOCK, len(rows_S_n)) * rows_S_n.shape[1]
    buffer = torch.empty((longest, *images.shape[1:]), dtype=images.dtype, pin_memory=cuda)
    side = torch.cuda.Stream(device) if cuda else None

    def load(rows: Tensor) -> Tensor:
        flat = rows.flatten()
        torch.index_select(images, 0, flat, out=buffer[: len(flat)])
        with torch.cuda.stream(side) if cuda else contextlib.nullcontext():
            block = buffer[: len(flat)].to(device, non_blocking=cuda, copy=True)
        if cuda:
            # in this thread: the buffer is free again, and the other thread goes on
            side.synchronize()
        return block.unflatten(0, rows.shape)

    with ThreadPoolExecutor(1) as pool:
        blocks = rows_S_n.split(BLOCK)
        coming = pool.submit(load, blocks[0])
        for following in (*blocks[1:], None):
            block = coming.result()
            if following is not None:
                coming = pool.submit(load, following)
            if cuda:
                # made on one stream, used on another
                block.record_stream(torch.cuda.current_stream(device))
            yield from block
