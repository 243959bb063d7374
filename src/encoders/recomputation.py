"""Activation checkpointing: less memory for more time, and the same training."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recompute_activations(encoder: nn.Module) -> None:
    """Of each block keep only the input for the backward pass, which computes the rest again.

    Chen et al. 2016, arXiv 1604.06174. Loss, gradients and batch norm's averages are the same; a
    step computes a third more. timm's own (`set_grad_checkpointing`) moves the averages twice.
    """
    for block in encoder.blocks:
        block.forward = partial(_recomputed, block, block.forward)


def _recomputed(block: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if not (block.training and torch.is_grad_enabled()):
        return forward(x)

    def of_both_times() -> tuple:
        return nullcontext(), _averages_kept(block)

    return checkpoint(forward, x, use_reentrant=False, context_fn=of_both_times)


@contextmanager
def _averages_kept(block: nn.Module) -> Iterator[None]:
    """What runs a second time must not move the averages of batch norm again."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
