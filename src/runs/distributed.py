"""Several processes, one run: every rank takes its shard of a batch; they compute what one would.

The rule everywhere: each rank's loss is the loss of the *whole* batch, a gradient that crosses
ranks is summed over them, and DistributedDataParallel takes the mean over ranks of the weights'
gradients. The sum counts the same loss `size` times, the mean divides by `size`: what remains is
the gradient of one process on the whole batch.
"""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class World:
    """The processes of a run, and which of them this is; alone unless told otherwise."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Rank 0: the only one that writes files, prints and shows progress."""
        return self.rank == 0


ALONE = World()


def init_distributed(device: torch.device | None = None) -> World:
    """Meet the processes that `accelerate launch` or `torchrun` started together with this one.

    Call it before anything touches a GPU: it makes the GPU of the local rank the current one, so
    that plain "cuda" means another GPU in every process. They talk over nccl on GPUs and gloo on
    CPUs.

    Args:
        device: what the run computes on; None takes GPUs if there are any.

    Returns:
        World() if this process was started by itself.

    Raises:
        ValueError: one particular GPU was asked for all processes, or the launcher did not start
            them as one run.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    # `accelerate launch --cpu --num_processes 2` without mpirun starts one process and says nothing
    # (accelerate #2741)
    one_of_several = "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ
    if one_of_several and "WORLD_SIZE" not in os.environ:
        raise ValueError(
            "accelerate launch --cpu started one process where several were asked for: it starts"
            " more through mpirun only. Use `accelerate launch --multi_gpu --num_processes 2 …` (it"
            " runs on CPUs too), or torchrun"
        )
    if size == 1:
        return World()
    if device is not None and device.index is not None:
        raise ValueError(
            f"device {device} for {size} processes: ask for {device.type!r}, each takes a GPU of"
            " its own"
        )
    from accelerate import PartialState  # here, so that a plain run neither needs nor pays for it

    state = PartialState(
        cpu=not torch.cuda.is_available() if device is None else device.type == "cpu"
    )
    if state.num_processes != size:
        raise ValueError(
            f"WORLD_SIZE is {size}, but {state.num_processes} joined: use accelerate or torchrun"
        )
    return World(state.process_index, state.num_processes)


def shard(rows: Tensor, world: World) -> Tensor:
    """This rank's contiguous part of a batch: (B, …) → (B / size, …).

    Raises:
        ValueError: the batch does not divide among the ranks.
    """
    if len(rows) % world.size:
        raise ValueError(
            f"a batch of {len(rows)} does not divide among {world.size} processes: choose a"
            " multiple"
        )
    return rows.chunk(world.size)[world.rank]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z: Tensor, world: World) -> Tensor:
        ctx.world = world
        everyone = z.new_empty(world.size * len(z), *z.shape[1:])
        dist.all_gather_into_tensor(everyone, z.contiguous())
        return everyone

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        mine = grad.new_empty(len(grad) // ctx.world.size, *grad.shape[1:])
        dist.reduce_scatter_tensor(mine, grad.contiguous())
        return mine, None


def gather(z: Tensor, world: World) -> Tensor:
    """(n, …) of every rank, in rank order, as (size · n, …), with gradients; n must be the same
    everywhere.

    Backward sums what all ranks ask of this rank's rows. A plain all-gather has no gradient:
    NT-Xent over it shows a sound loss and learns nothing of the other ranks' negatives (lightly
    #1528, solo-learn #206).
    """
    return z if world.size == 1 else _Gather.apply(z, world)


class GlobalBatchNorm(_BatchNorm):
    """Batch norm over the rows of all ranks: takes the place of a BatchNorm1d or 2d, keys and all.

    `torch.nn.SyncBatchNorm` does the same faster, but on GPUs only. In eval mode it is the batch
    norm it replaced.
    """

    def __init__(self, local: _BatchNorm, world: World) -> None:
        # the very same parameters, buffers and settings
        self.__dict__ = {**local.__dict__, "world": world}

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() not in (2, 4):
            raise ValueError(f"expected (N, C) or (N, C, H, W), got {tuple(x.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        """(n, C) or (n, C, H, W) of this rank, normalised over the whole batch."""
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        rows = wide.transpose(0, 1).flatten(1)  # (C, everything else)
        local = torch.stack([rows.mean(1), rows.var(1, unbiased=False)])
        means, variances = gather(local[None], self.world).unbind(1)  # (size, C) each
        # ranks hold equally many rows, so this is the law of total variance
        mean, var = means.mean(0), variances.mean(0) + means.var(0, unbiased=False)
        self._remember(mean.detach(), var.detach(), count=self.world.size * rows.shape[1])
        scale = self.weight / (var + self.eps).sqrt()
        shift = self.bias - mean * scale
        shape = (1, -1, *(1 for _ in x.shape[2:]))
        return (x * scale.view(shape) + shift.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, var: Tensor, count: int) -> None:
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        unbiased = var * count / (count - 1)  # as BatchNorm keeps it
        self.running_var.lerp_(unbiased, self.momentum)


def sync_batch_norm(model: nn.Module, world: World) -> nn.Module:
    """Make the model's batch norms see the whole batch, in place; parameters and keys stay.

    Without it every rank would normalise by its own shard: another model than one process trains,
    and one in which NT-Xent can tell partners by the shard they were normalised in.
    """
    if world.size == 1:
        return model
    if isinstance(model, _BatchNorm):
        if model.running_mean.is_cuda:
            return nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return GlobalBatchNorm(model, world)
    for name, child in model.named_children():
        model.add_module(name, sync_batch_norm(child, world))
    return model


def wrap_ddp(model: nn.Module, world: World) -> nn.Module:
    """The model as a training step calls it: gradients averaged over ranks, rank 0's weights.

    Call it after `.to(device, memory_format)`, and after deciding what is frozen: both are read
    here. Save, load and probe the model itself, not what this returns, whose keys begin with
    `module.`.
    """
    if world.size == 1:
        return model
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def all_reduce_any(flag: bool, world: World) -> bool:
    """True on all ranks if true on one. All must call it at the same step."""
    if world.size == 1:
        return flag
    vote = torch.tensor(int(flag), device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(vote, op=dist.ReduceOp.MAX)
    return bool(vote.item())
