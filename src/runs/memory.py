"""How much of a GPU's memory a training step takes: counted, on tensors that hold no numbers."""

import copy
import warnings
import weakref

import torch
from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from src.losses import nt_xent
from src.runs.batches import free_memory
from src.runs.runtime import Runtime


class _Live(TorchDispatchMode):
    """Bytes of the tensors alive, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.peak, self._known = 0, 0, weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.add(tensor)
        return result

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        self.bytes += storage.nbytes()
        weakref.finalize(storage, self._freed, storage.nbytes())
        self.peak = max(self.peak, self.bytes)

    def _freed(self, size: int) -> None:
        self.bytes -= size


def step_memory(model: nn.Module, shape: tuple[int, ...], runtime: Runtime) -> int:
    """Bytes that a pretraining step holds at most: weights, gradients, Adam's moments, and what
    forward keeps for backward.

    Not counted: the images, the making of their views, and what cuDNN works in. Nothing is
    computed, and the model stays as it is.

    Args:
        model: encoder and head, on the device.
        shape: (2n, C, size, size) of both views.
    """
    weights = sum(parameter.nbytes for parameter in model.parameters())
    given = detect_fake_mode(list(model.parameters()))  # where no run is more than counted
    with given or FakeTensorMode(allow_non_fake_inputs=True) as fake:
        with FakeCopyMode(fake):
            model = copy.deepcopy(model).train()
        blocks = model[0].blocks
        with _Live() as live:
            grown = [_grown(block, live) for block in blocks]
            both = torch.empty(shape, dtype=runtime.dtype, device=runtime.device)
            with runtime.autocast():
                z_i, z_j = model(both.contiguous(memory_format=torch.channels_last)).chunk(2)
            loss = nt_xent(z_i, z_j)
            kept = live.bytes if loss.requires_grad else 0
    if runtime.recompute:  # of all blocks the outputs, and all of one
        kept -= sum(size - output for size, output in map(tuple, grown))
        kept += max(size - output for size, output in map(tuple, grown))
    return kept + 4 * weights


def _grown(block: nn.Module, live: _Live) -> list[int]:
    """Is filled, when the block runs, with the bytes that it keeps, and of these its output's."""
    block.__dict__.pop("forward", None)  # which would keep less: see `recompute_activations`
    sizes: list[int] = []
    block.register_forward_pre_hook(lambda *_: sizes.append(live.bytes))
    block.register_forward_hook(
        lambda _, __, output: sizes.__setitem__(slice(None), [live.bytes - sizes[0], output.nbytes])
    )
    return sizes


def warn_if_too_large(model: nn.Module, shape: tuple[int, ...], runtime: Runtime) -> None:
    """Say before a run starts that its steps will not fit into the GPU's memory, and the remedy."""
    if runtime.device.type != "cuda":
        return
    needed, free = step_memory(model, shape, runtime), free_memory(runtime.device)
    if needed > free:
        remedy = "a smaller batch" if runtime.recompute else "recompute=True, or a smaller batch"
        warnings.warn(
            f"a step of {shape[0] // 2} images will need about {needed / 1e9:.1f} GB of the GPU's"
            f" memory, free are {free / 1e9:.1f} GB: use {remedy}",
            stacklevel=3,
        )
