"""Views whose colours change op by op, clamped after each, as torchvision's do.

What `SimCLRAugmentation` is held against: by the tests, for what it leaves out, and by the
benchmarks, for what that brings and costs.
"""

import torch
from torch import Tensor

from src.augmentations import SimCLRAugmentation
from src.augmentations.colours import adjust_hue, grayscale, random_jitter
from src.pretrain import views
from src.runs.distributed import World


def color_jitter(images: Tensor, factors: Tensor, hue: Tensor, order: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue, each image in its own order.

    Args:
        factors: (N, 3) of brightness, contrast, saturation.
        hue: (N,) shift.
        order: (N, 4) permutation of 0 brightness, 1 contrast, 2 saturation, 3 hue.
    """
    hue_at = (order == 3).int().argmax(1)
    # Every image has its hue turned exactly once, so it is done once for all of them, between the
    # operations that come before it and those that come after.
    for position in range(3):
        images = _operation(images, factors, order[:, position], position < hue_at)
    images = adjust_hue(images, hue)
    for position in range(1, 4):
        images = _operation(images, factors, order[:, position], position > hue_at)
    return images


def _operation(images: Tensor, factors: Tensor, operation: Tensor, active: Tensor) -> Tensor:
    """One of 0 … 2 on each image that is active; a factor of 1 leaves the others as they are."""
    factor = factors.gather(1, operation.clamp(max=2)[:, None])[:, 0].where(active, 1.0)
    factor, operation = factor.view(-1, 1, 1, 1), operation.view(-1, 1, 1, 1)
    gray = grayscale(images)
    target = gray.where(operation == 2, gray.mean((2, 3), keepdim=True)).where(operation > 0, 0.0)
    return (factor * images + (1 - factor) * target).clamp(0, 1)


class ExactColours(SimCLRAugmentation):
    """The same views of RGB images, from the same random numbers, with exact colours."""

    def colour_parameters(self, drawn: dict[str, Tensor]) -> dict[str, Tensor]:
        factors, hue, order = random_jitter(drawn["jitter"], self.jitter, self.jitter_p)
        gray = (drawn["gray"] < self.gray_p)[..., None, None]
        return {"factors": factors, "hue": hue, "order": order, "gray": gray}

    def colours(self, x: Tensor, params: dict[str, Tensor]) -> Tensor:
        x = color_jitter(x, params["factors"], params["hue"], params["order"])
        return torch.where(params["gray"], grayscale(x), x)


def exact_pairs(
    batch: Tensor, augment: SimCLRAugmentation, rng: torch.Generator, world: World
) -> tuple[Tensor, Tensor]:
    """`src.pretrain.views` with exact colours, for its hook of that name."""
    return views(batch, ExactColours(**vars(augment)), rng, world)
