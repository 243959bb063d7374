"""SimCLR pretraining: two views of every image, NT-Xent, Adam with a cosine schedule.

Command line: `python -m src.pretrain DATA --epochs 50 --out models` (`src.runs.commands`).
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim import Adam

from src import checkpoints
from src.augmentations import SimCLRAugmentation, augmentation
from src.augmentations.blocks import two_views, views
from src.augmentations.normalisation import Statistics
from src.checks import RANGES, check_config, check_images, check_number
from src.encoders import build_encoder, projection_head
from src.encoders.recomputation import recompute_activations
from src.losses import nt_xent
from src.probes import evenly_spread, preserve_mode, spread
from src.runs import Run, RunSettings, changed_functions
from src.runs.batches import batches, to_device_if_it_fits
from src.runs.compiling import compiled
from src.runs.distributed import World, gather, init_distributed, shard, sync_batch_norm, wrap_ddp
from src.runs.loop import Loop, Row, Schedule
from src.runs.memory import warn_if_too_large
from src.runs.runtime import Runtime, generator, pick, record, seed_of

SHOWN = 256  # images of which it is told how far apart they lie


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that decides what a pretraining run computes; the defaults are the study's."""

    encoder: str = "custom_cnn"
    epochs: int = 50
    batch_size: int = 64  # images; each makes two views
    lr: float = 1e-3  # the highest; falls to 0 along a cosine
    scale_lr: bool = False  # lr is for batches of 64, and grows with the root of the batch
    warmup_epochs: float = 0.0  # in which the rate rises to its highest in a straight line
    weight_decay: float = 0.0  # decoupled (Loshchilov & Hutter 2019, arXiv 1711.05101)
    temperature: float = 0.5
    projection: tuple[int, ...] = (512, 512, 128)
    plain_head: bool = False  # no batch norm in it; as published with projection (256, 128)
    image_size: int = 64  # pixels of a view
    in_channels: int = 3
    dropout: float = 0.1
    seed: int = 0
    # changes to SimCLRAugmentation's defaults
    augmentation: dict[str, Any] = field(default_factory=dict)
    # of the bands, `PatchStore.statistics`; None: the usual ones of RGB and of twelve bands
    statistics: Statistics | None = None

    def augment(self) -> SimCLRAugmentation:
        """What makes the random views."""
        own = dict(zip(("mean", "std"), self.statistics or (), strict=False))
        if own and own.keys() & self.augmentation.keys():
            raise ValueError("mean and std stand in augmentation and in statistics: give one")
        changes = {**self.augmentation, **own} if own else self.augmentation
        return augmentation(self.image_size, changes)


@dataclass(frozen=True)
class Pretrained:
    """What a pretraining run leaves."""

    encoder: nn.Module  # with the weights of the best epoch, in eval mode
    history: pd.DataFrame  # one row an epoch; row 0 is the untrained encoder
    checkpoint: Path  # best epoch, full name; the short alias lies beside it


def shuffled(count: int, seed: int, epoch: int) -> Tensor:
    """Row numbers in the order of an epoch, (count,): a fresh permutation each."""
    return torch.randperm(count, generator=generator(seed, epoch))


@dataclass(frozen=True)
class Hooks:
    """What stands in for a part of a step, with the same arguments.

    They serve the audit alone, which says in the provenance what it changed.
    """

    loss: Callable[[Tensor, Tensor, float], Tensor] = nt_xent
    order: Callable[[int, int, int], Tensor] = shuffled
    pairs: Callable[..., tuple[Tensor, Tensor]] = views


def untrained(config: PretrainConfig) -> nn.Module:
    """The encoder as `pretrain` starts it: the "before" of every comparison."""
    torch.manual_seed(seed_of(config.seed))
    shape = (config.in_channels, config.image_size, config.dropout)
    return build_encoder(config.encoder, *shape, statistics=config.statistics)


def pretrain(
    images: np.ndarray,
    config: PretrainConfig,
    out: str | Path,
    *,
    settings: RunSettings = RunSettings(),
    probe: Callable[[nn.Module], float] | None = None,
    probe_every: int = 5,
    hooks: Hooks = Hooks(),
) -> Pretrained:
    """Pretrain an encoder on unlabelled images.

    Args:
        images: (N, H, W, C) uint8 or uint16, as a PatchStore keeps them; only read.
        config: the recipe.
        out: folder for the best epoch by training loss, under its full name and its alias
            (`src.checkpoints`).
        settings: device, saving and resuming; the run's folder is
            `<encoder>_<epochs>ep_seed<seed>`.
        probe: encoder → kNN accuracy, called before training and every `probe_every` epochs.
        hooks: of the audit.

    Raises:
        ValueError: batch larger than the data, no epochs, or wrong number of channels.
        FloatingPointError: the loss is not finite; what was saved before stays.
        CheckpointError: the run in that folder is of another config or other data, or cannot be
            written or read.
        Stopped: a signal came; the run is saved.
    """
    out, runtime, config = Path(out), settings.runtime or pick(), check_config(config)
    world = init_distributed(runtime.device)
    images, augment = _checked(images, config, probe_every, world)
    encoder, head, model = _build(config, runtime, world)
    step_functions = cache(partial(compiled, model, hooks.loss, runtime, _shape(config, world)))
    how = {"augment": augment, "world": world, "dtype": runtime.dtype, "pairs": hooks.pairs}
    data, steps = to_device_if_it_fits(images, runtime.device), len(images) // config.batch_size
    measured = partial(_measured, encoder, head, images, augment, runtime, probe)

    def validate(epoch: int) -> Row:
        due = epoch % probe_every == 0 or epoch == config.epochs
        return measured() if due and world.first else {}

    folder, metadata = _folder(config, out, settings), _metadata(config, hooks, settings)
    with Run(folder, metadata, settings, world, (images,)) as run, runtime.reproducible():
        parts, optimizer = {"encoder": encoder, "projection": head}, _optimizer(model, config)
        loop = Loop(run, parts, optimizer, _schedule(config, steps), monitor="loss", views=2)
        for epoch in loop.epochs(settings.resume, lambda: {"epoch": 0, "knn": None} | validate(0)):
            model.train()
            network, loss = step_functions()
            rows_S_n = _rows(hooks, config, len(images), epoch, world)[loop.step :]
            pairs = partial(two_views, key=(config.seed, epoch, loop.step), **how)
            for step, both in loop.steps(batches(data, rows_S_n, runtime.device), pairs):
                _seed_dropout(config.seed, epoch, step, world)
                with runtime.autocast():
                    z_i, z_j = network(both).chunk(2)  # of the one view, and of the other
                z_i, z_j = gather(z_i, world), gather(z_j, world)
                loop.update(loss(z_i, z_j, config.temperature))
            loop.end_epoch(**validate(epoch))
        return _finish(loop, encoder, config, out)


def _build(
    config: PretrainConfig, runtime: Runtime, world: World
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """The encoder, its projection head, and both in one as a training step calls them."""
    encoder = untrained(config)
    if runtime.recompute:
        recompute_activations(encoder)
    head = projection_head(encoder.feature_dim, config.projection, config.plain_head)
    model = nn.Sequential(encoder, head).to(runtime.device, memory_format=torch.channels_last)
    warn_if_too_large(model, _shape(config, world), runtime)
    return encoder, head, wrap_ddp(sync_batch_norm(model, world), world)


def _rows(hooks: Hooks, config: PretrainConfig, count: int, epoch: int, world: World) -> Tensor:
    """Row numbers of this process's part of every batch of an epoch, (steps, n)."""
    steps = count // config.batch_size
    rows_N = hooks.order(count, config.seed, epoch)[: steps * config.batch_size]
    return shard(rows_N.view(steps, -1).T, world).T


def _measured(
    encoder: nn.Module,
    head: nn.Module,
    images: np.ndarray,
    augment: SimCLRAugmentation,
    runtime: Runtime,
    probe: Callable[[nn.Module], float] | None,
) -> Row:
    """Between epochs: the probe, and how far views of different images lie apart."""
    sample = images[evenly_spread(np.arange(len(images)), SHOWN)]
    batch = torch.as_tensor(sample).permute(0, 3, 1, 2).to(runtime.device)
    numbers = augment.draw(batch.shape[:2], generator(0), (0, 1), batch.device)  # always the same
    model = nn.Sequential(encoder, head)
    with torch.inference_mode(), preserve_mode(model), runtime.autocast():
        embeddings = model.eval()(augment.apply(batch, numbers)).float().cpu().numpy()
    return ({"knn": probe(encoder)} if probe else {}) | spread(embeddings)


def _shape(config: PretrainConfig, world: World) -> tuple[int, int, int, int]:
    """What the model sees in a step of this process: both views of its images."""
    size = config.image_size
    return 2 * config.batch_size // world.size, config.in_channels, size, size


def _finish(loop: Loop, encoder: nn.Module, config: PretrainConfig, out: Path) -> Pretrained:
    best, alias = loop.progress.best, out / checkpoints.contrastive_alias(config.epochs)
    checkpoints.restore(encoder, loop.progress.best_state["encoder"], loop.run.states.last)
    shape = (config.epochs, config.batch_size, best["loss"])
    name = checkpoints.contrastive_name(*shape, datetime.now())
    checkpoint = loop.publish(out / name, best, alias)
    return Pretrained(encoder.eval(), pd.DataFrame(loop.progress.history), checkpoint)


def _checked(
    images: np.ndarray, config: PretrainConfig, probe_every: int, world: World
) -> tuple[np.ndarray, SimCLRAugmentation]:
    check_number(probe_every, "probe_every", RANGES["probe_every"])
    images = check_images(images, channels=config.in_channels)
    augment = config.augment()
    augment.check(torch.empty(0, config.in_channels, 1, 1))
    count, batch_size, epochs = len(images), config.batch_size, config.epochs
    if not 2 <= batch_size <= count:
        raise ValueError(f"batch_size {batch_size} for {count} images: choose from 2 to {count}")
    if not config.warmup_epochs < epochs:
        raise ValueError(
            f"epochs must be more than warmup_epochs, got {epochs} and {config.warmup_epochs}"
        )
    if batch_size % world.size:
        raise ValueError(f"batch_size {batch_size} does not divide among {world.size} processes")
    return images, augment


def _seed_dropout(seed: int, epoch: int, step: int, world: World) -> None:
    """Dropout draws from the global generator: seeded here, a step is a function of its number."""
    rank = (world.rank,) if world.size > 1 else ()
    torch.manual_seed(seed_of(seed, epoch, step, 1, *rank))


def _optimizer(model: nn.Module, config: PretrainConfig) -> Adam:
    decay = {"weight_decay": config.weight_decay, "decoupled_weight_decay": config.weight_decay > 0}
    return Adam(model.parameters(), lr=config.lr, fused=True, **decay)


def _schedule(config: PretrainConfig, steps: int) -> Schedule:
    lr = config.lr * (math.sqrt(config.batch_size / 64) if config.scale_lr else 1)
    warmup = round(config.warmup_epochs * steps)
    return Schedule(config.epochs, steps, config.batch_size, lr, warmup)


def _metadata(config: PretrainConfig, hooks: Hooks, settings: RunSettings) -> dict[str, Any]:
    return {
        "kind": "simclr",
        "config": asdict(config),
        "data": settings.provenance or {},
        "hooks": changed_functions(hooks),
        "versions": record(settings.runtime or pick()),
    }


def _folder(config: PretrainConfig, out: Path, settings: RunSettings) -> Path:
    bands = "" if config.in_channels == 3 else f"_{config.in_channels}bands"
    name = f"{config.encoder}{bands}_{config.epochs}ep_seed{config.seed}"
    return Path(settings.runs or out / "runs") / name


def main() -> None:
    """Pretrain on a data set, as the command line says."""
    from src.runs.commands import pretrain_on_data  # which imports this module

    pretrain_on_data()


if __name__ == "__main__":
    main()
