"""A network and its loss by torch.compile; as they are where that fails."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from src.runs.runtime import Runtime

Loss = Callable[[Tensor, Tensor, float], Tensor]


def compiled(
    model: nn.Module, loss: Loss, runtime: Runtime, shape: tuple[int, ...]
) -> tuple[Callable[[Tensor], Tensor], Loss]:
    """The model and the loss as a training step calls them: compiled, if the runtime says so.

    Compiling happens at the first call: it is tried here, forward and backward, so that a machine
    on which it fails goes on without, and says so in one line. The model stays as it was. Several
    processes do not compile, as their gradients are sent while backward still runs; nor does what
    recomputes its activations.

    Args:
        shape: of what the model sees in a step, the two views behind one another.
    """
    several = isinstance(model, DistributedDataParallel)
    if not runtime.compile or runtime.recompute or several:
        return model, loss
    network, fast = torch.compile(model, dynamic=False), torch.compile(loss, dynamic=False)
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.train()
    dtype = runtime.dtype if runtime.device.type == "cuda" else torch.float32
    both = torch.zeros(shape, device=runtime.device, dtype=dtype)
    try:
        with warnings.catch_warnings():
            # a hint to compute the loss, which is in float32 on purpose, with fewer bits
            warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")
            with runtime.autocast():
                z_i, z_j = network(both.contiguous(memory_format=torch.channels_last)).chunk(2)
            fast(z_i, z_j, 0.5).backward()
    except Exception as error:  # of whichever compiler: what is wrong otherwise fails below again
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        warnings.warn(
            f"training goes on without torch.compile, which failed: {reason}", stacklevel=3
        )
        return model, loss
    finally:
        for buffer, kept in buffers:  # the averages of batch norm
            buffer.copy_(kept)
        model.zero_grad(set_to_none=True)
    return network, fast
