"""The views of several steps in one pass, where a GPU would wait for one step's launches.

On a CPU each step is by itself: what is worked on at a time must stay in a core's caches.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor

from src.augmentations import SimCLRAugmentation
from src.runs.batches import steps_at_once
from src.runs.distributed import ALONE, World
from src.runs.runtime import generator

IN_BLOCKS = {"cuda"}  # kinds of devices on which the views of several steps are made at once

Pairs = Callable[..., tuple[Tensor, Tensor]]  # as `views`


def views(
    batch: Tensor, augment: SimCLRAugmentation, rng: torch.Generator, world: World = ALONE
) -> tuple[Tensor, Tensor]:
    """Two views, (n, C, size, size) each, of this process's part (n, C, H, W) of a batch."""
    part = (world.rank, world.size)
    drawn = (augment.draw(batch.shape[:2], rng, part, batch.device) for _ in range(2))
    # not by calling `augment`, which would look at the pixels again: they are known to be sound
    view_i, view_j = (augment.apply(batch, numbers) for numbers in drawn)
    return view_i, view_j


def two_views(
    batches: Iterable[Tensor],
    key: tuple[int, int, int],
    augment: SimCLRAugmentation,
    world: World = ALONE,
    dtype: torch.dtype = torch.float32,
    pairs: Pairs = views,
) -> Iterator[Tensor]:
    """Both views of each batch, (2n, C, size, size), the first n the one, the rest the other.

    Each step's random numbers come from its own generator, so that the views of a step do not
    depend on which others are made with it.

    Args:
        batches: (n, C, H, W) on the device, a step each.
        key: run seed, epoch and number of the first step.
        dtype: of the views on a GPU: what the network would make of them anyway.
        pairs: stands in for `views`, which alone knows how to work on several steps at once.
    """
    seed, epoch, step = key
    for batch in (batches := iter(batches)):
        if pairs is not views or batch.device.type not in IN_BLOCKS:
            yield torch.cat(pairs(batch, augment, generator(seed, epoch, step), world))
            step += 1
            continue
        count, channels, height, width = batch.shape
        at_once = steps_at_once(2 * count * channels * max(height * width, augment.size**2))
        # the blocks of a run that goes on begin where those of an uninterrupted one do
        block = [batch, *islice(batches, at_once - 1 - step % at_once)]
        steps = range(step, step + len(block))
        generators = [generator(seed, epoch, number) for number in steps]
        yield from _of_block(block, augment, generators, world, dtype)
        step = steps.stop


def _of_block(
    batches: list[Tensor],
    augment: SimCLRAugmentation,
    generators: list[torch.Generator],
    world: World,
    dtype: torch.dtype,
) -> Iterator[Tensor]:
    """The views of these steps as `views` would make them one after the other."""
    count, device = len(batches[0]), batches[0].device
    shape, part = batches[0].shape[:2], (world.rank, world.size)
    twice = [rng for rng in generators for _ in range(2)]
    drawn = augment.draw(shape, twice, part, device)
    kind = batches[0].dtype  # torch does little with uint16
    raw = [x.view(torch.int16) if kind == torch.uint16 else x for x in batches]
    # channels last in memory, as the batches are
    images = torch.cat([x.permute(0, 2, 3, 1) for x in raw for _ in range(2)]).view(kind)
    made = augment.apply(images.permute(0, 3, 1, 2), drawn, dtype)
    yield from made.split(2 * count)
