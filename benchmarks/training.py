"""Whole training steps: how near `pretrain` comes to the network alone, and what each change
brings.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.peers import PilPairs, study_loss
from benchmarks.timing import REPEATS
from src.augmentations import SimCLRAugmentation
from src.augmentations.transfer import to_device
from src.encoders import projection_head
from src.losses import nt_xent
from src.pretrain import PretrainConfig, pretrain, untrained
from src.runs import RunSettings
from src.runs.compiling import compiled
from src.runs.runtime import Runtime, generator

VIEWS = 300 * 269_695 * 2  # of the study's pretraining


def network(
    config: PretrainConfig, device: torch.device, layout: torch.memory_format
) -> nn.Sequential:
    encoder = untrained(config)
    return nn.Sequential(encoder, projection_head(encoder.feature_dim, config.projection)).to(
        device, memory_format=layout
    )


def ceiling(config: PretrainConfig, runtime: Runtime) -> Callable[[], None]:
    """The same forward, loss, backward and optimiser step on one batch that is there already: no
    data, no views. Compiled where the runtime says so, as `pretrain` is.
    """
    model = network(config, runtime.device, torch.channels_last).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, **fused(runtime.device))
    shape = (2 * config.batch_size, config.in_channels, config.image_size, config.image_size)
    dtype = runtime.dtype if runtime.device.type == "cuda" else torch.float32
    batch = torch.randn(shape, device=runtime.device).to(dtype, memory_format=torch.channels_last)
    forward, loss = compiled(model, nt_xent, runtime, shape)

    def step() -> None:
        with runtime.autocast():
            z_i, z_j = forward(batch).chunk(2)
        value = loss(z_i, z_j, config.temperature)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()

    return step


def fused(device: torch.device) -> dict[str, bool]:
    """The optimiser of the ceiling is the fastest there is, so that the ceiling is one."""
    return {"fused": True} if device.type in ("cuda", "cpu") else {}


def in_a_row(step: Callable[[], None], count: int, device: torch.device) -> float:
    """Seconds a step of so many, one after the other: the host runs ahead, and waits at the end."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    for _ in range(count):
        step()
    wait()
    return (time.perf_counter() - started) / count


def pretrain_rates(images: np.ndarray, config: PretrainConfig, runtime: Runtime) -> list[float]:
    """Views a second of each epoch of `pretrain` itself but the first, by its own history: the one
    place that calls it.
    """
    with tempfile.TemporaryDirectory() as out:
        history = pretrain(images, config, out, settings=RunSettings(runtime=runtime)).history
        return (2 * history["images_per_s"].iloc[2:]).tolist()


def end_to_end(
    images: np.ndarray, config: PretrainConfig, runtime: Runtime, steps: int
) -> dict[str, float]:
    """`pretrain` against the network alone over as many steps, in views a second.

    steps: at least so many of each, in three parts.
    """
    epochs = 1 + max(REPEATS, -(-steps * config.batch_size // len(images)))
    step, views = ceiling(config, runtime), 2 * config.batch_size
    for _ in range(3):
        step()
    alone = [
        views / in_a_row(step, max(1, steps // REPEATS), runtime.device) for _ in range(REPEATS)
    ]
    ours = pretrain_rates(images, replace(config, epochs=epochs), runtime)
    best, mine = float(np.median(alone)), float(np.median(ours))
    return {
        "network alone, views/s": best,
        "pretrain, views/s": mine,
        "share of the ceiling": mine / best,
        "spread": float(np.ptp(ours) / mine),
        "hours for 161.8 M views": VIEWS / mine / 3600,
    }


# --- the published pipeline, one change a row ---

PUBLISHED = {
    "views": "workers",
    "loss": study_loss,
    "passes": 2,
    "layout": torch.contiguous_format,
    "precision": "float32",
    "item": True,
    "fused": False,
    "compile": None,
}
CHANGES = [
    (
        (
            "published: PIL in DataLoader workers, loss by rows, two passes, float32, .item() each"
            " step"
        ),
        {},
    ),
    ("views of the whole batch on the device", {"views": "batch"}),
    ("loss as one matrix product", {"loss": nt_xent}),
    ("both views in one forward pass", {"passes": 1}),
    ("channels_last", {"layout": torch.channels_last}),
    ("bfloat16 where the device has it", {"precision": "runtime"}),
    ("no .item() in the loop", {"item": False}),
    ("fused Adam", {"fused": True}),
]
ON_A_GPU = [
    ("torch.compile of network and views", {"compile": "default"}),
    ("CUDA graphs (compile, reduce-overhead)", {"compile": "reduce-overhead"}),
]


def waterfall_steps(
    images: np.ndarray, batch_size: int, runtime: Runtime, workers: int
) -> dict[str, Callable]:
    """Row → a training step of the Custom CNN with the changes down to this row."""
    changes = [*CHANGES, *(ON_A_GPU if runtime.device.type == "cuda" else [])]
    how, steps = dict(PUBLISHED), {}
    for name, change in changes:
        how |= change
        steps[name] = training_step(images, batch_size, runtime, workers, SimpleNamespace(**how))
    return steps


def training_step(
    images: np.ndarray, batch_size: int, runtime: Runtime, workers: int, how: SimpleNamespace
) -> Callable:
    """A step of the Custom CNN, each call on the next batch; `how` has the keys of `PUBLISHED`."""
    config = PretrainConfig(batch_size=batch_size)
    model = network(config, runtime.device, how.layout).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, fused=how.fused)
    forward = torch.compile(model, mode=how.compile) if how.compile else model
    if how.views == "workers":
        pairs = loaded(images, batch_size, workers, runtime)
    else:
        pairs = batched(images, batch_size, runtime, how.layout, how.compile is not None)
    autocast = runtime.autocast if how.precision == "runtime" else contextlib.nullcontext

    def step() -> float | None:
        pair = next(pairs)
        with autocast():
            if how.passes == 1:
                z = forward(torch.cat(pair)).chunk(2)
            else:
                z = [forward(view) for view in pair]
        value = how.loss(*z, config.temperature)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        return value.item() if how.item else None

    return step


def loaded(images: np.ndarray, batch_size: int, workers: int, runtime: Runtime):
    """Endless pairs of views from PIL in worker processes, as a DataLoader gives them."""
    loader = DataLoader(
        PilPairs(images),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    for pair in (pair for _ in cycle([0]) for pair in loader):
        yield [view.to(runtime.device) for view in pair]


def batched(
    images: np.ndarray,
    batch_size: int,
    runtime: Runtime,
    layout: torch.memory_format,
    compile: bool,
):
    """Endless pairs of views of whole batches, made on the device, of images that lie there."""
    augment, rng = SimCLRAugmentation(compile=compile), generator(0)
    there = torch.as_tensor(images).to(runtime.device)
    while True:
        rows = torch.randint(len(there), (batch_size,), generator=rng)
        rows = to_device(rows, runtime.device)
        batch: Tensor = there[rows].permute(0, 3, 1, 2)
        yield [augment(batch, rng).contiguous(memory_format=layout) for _ in range(2)]
