"""What tests/test_parallel.py has two processes do together, and one process alone: the same
functions for both.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path

import torch
from torch import Tensor, nn

from src.augmentations import SimCLRAugmentation
from src.encoders import build_encoder, projection_head
from src.losses import nt_xent
from src.pretrain import Hooks, PretrainConfig, pretrain
from src.runs import RunSettings
from src.runs.distributed import (
    World,
    all_reduce_any,
    gather,
    init_distributed,
    shard,
    sync_batch_norm,
    wrap_ddp,
)
from src.runs.runtime import generator, pick

torch.set_num_threads(1)
BATCH, STEPS = 8, 3
IMAGES = (255 * torch.rand(STEPS * BATCH + 5, 3, 20, 20, generator=generator(7))).byte()
RUNS = {
    "SGD, float64": (lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9), torch.float64),
    "Adam, float64": (lambda weights: torch.optim.Adam(weights, lr=1e-3), torch.float64),
    "Adam, float32": (lambda weights: torch.optim.Adam(weights, lr=1e-3), torch.float32),
}


def build(dtype: torch.dtype) -> nn.Module:
    """The Custom CNN with a projection head, for small images; no dropout, whose masks are each
    rank's own.
    """
    torch.manual_seed(0)
    head = projection_head(256, (64, 32))
    if dtype == torch.float64:
        head = nn.Sequential(
            *head
        )  # its layers as they are: Head itself computes in float32 whatever comes in
    model = nn.Sequential(build_encoder("custom_cnn", image_size=16, dropout=0.0), head)
    return model.to(dtype=dtype, memory_format=torch.channels_last)


def batches(epoch: int) -> Tensor:
    """(STEPS, BATCH) rows of an epoch: one permutation, the same on every rank."""
    return torch.randperm(len(IMAGES), generator=generator(0, epoch))[: STEPS * BATCH].view(
        STEPS, BATCH
    )


def train(world: World, run: str) -> dict[str, list]:
    """Three SimCLR steps as src.pretrain does them: the loss and the gradients of each, and the
    state after it.
    """
    make_optimizer, dtype = RUNS[run]
    model = sync_batch_norm(build(dtype), world)
    parallel = wrap_ddp(model, world)
    optimizer = make_optimizer(model.parameters())
    augment = SimCLRAugmentation(
        16, jitter_p=0.0
    )  # jitter cuts off at black and white: flat areas, ties in max-pool
    done = {"loss": [], "gradient": [], "state": [copies(model.state_dict())]}
    for step, rows in enumerate(batches(epoch=1)):
        rng = generator(0, 1, step)
        pair = [
            augment(IMAGES[shard(rows, world)], rng, part=(world.rank, world.size))
            for _ in range(2)
        ]
        z_i, z_j = parallel(torch.cat(pair).to(dtype)).chunk(2)
        loss = nt_xent(gather(z_i, world), gather(z_j, world))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        done["loss"].append(loss.item())
        done["gradient"].append(
            copies({name: weight.grad for name, weight in model.named_parameters()})
        )
        done["state"].append(copies(model.state_dict()))
    return done


def copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def pretrained(out: Path, seed: int, loss=nt_xent) -> dict[str, list]:
    """The history of a run of src.pretrain of two epochs of three steps; goes on with it if it was
    begun.

    A hundredth of the usual learning rate: where a gradient is 0 but for rounding, Adam steps by ±
    lr all the same.
    """
    config = PretrainConfig(
        epochs=2,
        batch_size=BATCH,
        image_size=16,
        projection=(64, 32),
        dropout=0.0,
        lr=1e-5,
        seed=seed,
    )
    images = IMAGES.permute(0, 2, 3, 1).numpy()
    settings = RunSettings(runtime=pick("cpu", "float32"), save_steps=1)
    hooks = Hooks(loss=loss)
    return pretrain(images, config, out, settings=settings, hooks=hooks).history.to_dict("list")


def deadly(step: int, note: Path) -> Callable[..., Tensor]:
    """A loss in whose step so many this process is killed, as by the kernel that needs memory."""
    steps = iter(range(step))

    @wraps(nt_xent)  # it is that loss: another would be another run
    def loss(*arguments) -> Tensor:
        if next(steps, None) is None:
            note.write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)
        return nt_xent(*arguments)

    return loss


def written() -> set[str]:
    """The names, as they come to be, of the files this process opens for writing from now on."""
    names = set()

    def listen(event: str, arguments: tuple) -> None:
        if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
            names.add(Path(os.fsdecode(arguments[0])).name)

    sys.addaudithook(listen)
    return names


def main(out: Path) -> None:
    world = init_distributed(torch.device("cpu"))
    done = {"world": (world.rank, world.size, world.first)}
    done |= {run: train(world, run) for run in RUNS}
    done["rows"] = [torch.cat([shard(rows, world) for rows in batches(epoch)]) for epoch in (1, 2)]
    done["agree"] = [
        all_reduce_any(flag, world) for flag in (False, world.rank == 0, world.rank == 1, True)
    ]
    names = written()
    done["history"] = pretrained(out, seed=1)
    done["written"] = sorted(names)
    torch.save(done, out / f"rank{world.rank}.pt")
    all_reduce_any(False, world)  # both have written
    pretrained(out, seed=2, loss=deadly(4, out / "killed") if world.rank == 1 else nt_xent)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
