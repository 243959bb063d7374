"""What the published code does otherwise, each as one change that an arm of the audit makes.

Nothing else uses them.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from src.augmentations import SimCLRAugmentation
from src.augmentations.resampling import resize, to_unit
from src.data.bigearthnet import EUROSAT_STRETCH
from src.pretrain import Hooks, shuffled, views
from src.runs.distributed import World
from src.runs.runtime import generator

AS_PUBLISHED = 10_000  # digital number that the published code renders as white
SHRINK = 120 / 64  # the published code shrinks 120 pixels of 10 m to 64 of 18.75 m


def dot_product_loss(z_i: Tensor, z_j: Tensor, temperature: float) -> Tensor:
    """NT-Xent as published: plain dot products in place of cosines, otherwise `src.losses.nt_xent`.

    Nothing bounds it from below: long embeddings make it as small as one likes, whatever the
    temperature.
    """
    z = torch.cat([z_i, z_j]).float()
    self_pairs = torch.eye(len(z), dtype=torch.bool, device=z.device)
    partners = torch.arange(len(z), device=z.device).roll(len(z_i))
    return F.cross_entropy((z @ z.T / temperature).masked_fill(self_pairs, -torch.inf), partners)


def darkened(images: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) uint8 with digital number 2750 as white → as the published code renders them:
    10000 as white, and truncated.
    """
    return (images * (EUROSAT_STRETCH / AS_PUBLISHED)).astype(np.uint8)


def coarsened(images: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) uint8 of 10 m pixels → 18.75 m pixels, as shrinking BigEarthNet's 120 pixels to
    64 makes them.
    """
    unit = to_unit(torch.as_tensor(images).permute(0, 3, 1, 2))
    small = resize(unit, round(images.shape[1] / SHRINK))
    return (255 * small).round().byte().permute(0, 2, 3, 1).numpy()


def unreadable(count: int, percent: int, seed: int) -> np.ndarray:
    """Which of so many images cannot be read, (count,) bool: a random share.

    Shares of one seed are nested: the 10 % are among the 50 %.
    """
    shuffle = torch.randperm(count, generator=generator(seed, 2))
    return (shuffle < round(count * percent / 100)).numpy()


def noise_pairs(
    batch: Tensor, augment: SimCLRAugmentation, rng: torch.Generator, world: World
) -> tuple[Tensor, Tensor]:
    """`src.pretrain.views`, but both views of an all-black image are one tensor of standard normal
    noise, new each time: so the published error path answers an unreadable patch.
    """
    pair = views(batch, augment, rng, world)
    noise = torch.randn(pair[0].shape, generator=rng).to(batch.device)
    broken = (batch == 0).all(dim=(1, 2, 3)).view(-1, 1, 1, 1)
    return tuple(torch.where(broken, noise, view) for view in pair)


def by_place(places: np.ndarray) -> np.ndarray:
    """Row numbers (N,) of (N, 2) places along a Z-shaped curve (Morton 1966), on which neighbours
    on the ground are mostly neighbours.
    """
    low, high = places.min(0), places.max(0)
    cells = (1023 * (places - low) / np.where(high > low, high - low, 1)).astype(np.int64)
    code = np.zeros(len(places), np.int64)
    for bit in range(10):
        for axis in range(2):
            code |= ((cells[:, axis] >> bit) & 1) << (2 * bit + axis)
    return np.argsort(code, kind="stable")


def always(order: Tensor) -> Callable[[int, int, int], Tensor]:
    """For `Hooks.order`: one order, (N,) row numbers, in every epoch."""
    return lambda count, seed, epoch: order


def change(images: np.ndarray, places: np.ndarray, arm: str, seed: int) -> tuple[np.ndarray, Hooks]:
    """What an arm pretrains on, and by which hooks its training differs from the control's.

    Args:
        images: (N, H, W, 3) uint8 that the control pretrains on.
        places: (N, 2) of them.
        arm: a name of `audit.plan.arms`, letters b to e.
        seed: of the run.
    """
    kind = arm.split()[0]
    if kind == "dot":
        return images, Hooks(loss=dot_product_loss)
    if kind == "published":
        return darkened(images), Hooks()
    if kind == "18.75":
        return coarsened(images), Hooks()
    if kind in ("noise", "left"):  # the same images, as noise or not at all
        percent = int(arm.split()[-2])
        lost = unreadable(len(images), percent, seed)
        if kind == "left":
            return images[~lost], Hooks()
        black = np.where(lost[:, None, None, None], 0, images).astype(np.uint8)
        return black, Hooks(pairs=noise_pairs)
    # The published loader never shuffles: the same batches every epoch, of neighbours. To tell both
    # apart, the same batches also at random.
    if kind == "fixed":
        return images, Hooks(order=always(shuffled(len(images), seed, 1)))
    if kind == "neighbours":
        return images, Hooks(order=always(torch.as_tensor(by_place(places))))
    return images, Hooks()
