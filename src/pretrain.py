"""SimCLR pretraining: two views of every image, one forward pass, NT-Xent, Adam with a cosine
schedule.

Command line: `python -m src.pretrain STORE --epochs 50 --out models`.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim import Adam

from src import checkpoints
from src.augmentations import SPECTRAL, SimCLRAugmentation
from src.encoders import ENCODERS, build_encoder, projection_head
from src.losses import nt_xent
from src.runs.batches import batches, to_device_if_it_fits
from src.runs.distributed import (
    World,
    all_reduce_any,
    gather,
    init_distributed,
    shard,
    sync_batch_norm,
    wrap_ddp,
)
from src.runs.fingerprints import fingerprint
from src.runs.loop import Progress, Row, Training, train
from src.runs.run import ALONE, RESUME, Run, Stopped
from src.runs.runtime import Runtime, generator, pick, record, seed_of


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that decides what a pretraining run computes; the defaults are the study's."""

    encoder: str = "custom_cnn"
    epochs: int = 50
    batch_size: int = 64  # images; each makes two views
    lr: float = 1e-3  # at the first step; falls to 0 along a cosine
    temperature: float = 0.5
    projection: tuple[int, ...] = (512, 512, 128)
    image_size: int = 64  # pixels of a view
    in_channels: int = 3
    dropout: float = 0.1
    seed: int = 0
    augmentation: dict[str, Any] = field(
        default_factory=dict
    )  # changes to SimCLRAugmentation's defaults


@dataclass(frozen=True)
class Pretrained:
    encoder: nn.Module  # with the weights of the best epoch, in eval mode
    history: pd.DataFrame  # one row an epoch; row 0 is the untrained encoder
    checkpoint: Path  # best epoch, full name; the short alias lies beside it


def views(
    batch: Tensor, augment: SimCLRAugmentation, rng: torch.Generator, world: World = ALONE
) -> tuple[Tensor, Tensor]:
    """Two independent views, (n, C, size, size) each, of this process's part (n, C, H, W) of a
    batch.
    """
    part = (world.rank, world.size)
    return augment(batch, rng, part), augment(batch, rng, part)


def shuffled(count: int, seed: int, epoch: int) -> Tensor:
    """Row numbers in the order of an epoch, (count,): a fresh permutation each."""
    return torch.randperm(count, generator=generator(seed, epoch))


def untrained(config: PretrainConfig) -> nn.Module:
    """The encoder as `pretrain` starts it: the "before" of every comparison."""
    torch.manual_seed(seed_of(config.seed))
    return build_encoder(config.encoder, config.in_channels, config.image_size, config.dropout)


def pretrain(
    images: np.ndarray,
    config: PretrainConfig,
    out: str | Path,
    *,
    runtime: Runtime | None = None,
    probe: Callable[[nn.Module], float] | None = None,
    probe_every: int = 5,
    data: dict[str, Any] | None = None,
    runs: str | Path | None = None,
    resume: str | bool = "auto",
    save_minutes: float = 5.0,
    save_steps: int | None = None,
    loss: Callable[..., Tensor] | None = None,
    order: Callable[..., Tensor] | None = None,
    pairs: Callable[..., tuple[Tensor, Tensor]] | None = None,
) -> Pretrained:
    """Pretrain an encoder on unlabelled images.

    Args:
        images: (N, H, W, C) uint8 or uint16, as a PatchStore keeps them; only read.
        config: the recipe.
        out: folder for the best epoch by training loss, under its full name and its alias
            (`src.checkpoints`).
        runtime: device and precision; None picks.
        probe: encoder → kNN accuracy, called before training and every `probe_every` epochs.
        data: description of the images, kept in the checkpoint.
        runs: folder of run folders (`src.runs`); None: `runs` in `out`. This run's:
            `<encoder>_<epochs>ep_seed<seed>`.
        resume: "auto" goes on where the run was stopped, and returns a finished one as it is;
            "force" goes on with another config too; False starts anew.
        save_minutes, save_steps: how often a state is saved to go on from; the steps in addition,
            if given.
        loss, order, pairs: what stands in for `nt_xent`, `shuffled` and `views`, with the same
            arguments, in experiments such as `src.audit`, which describes it in `data`.

    Raises:
        ValueError: batch larger than the data, no epochs, or wrong number of channels.
        FloatingPointError: the loss is not finite; what was saved before stays.
        CheckpointError: the run in that folder is of another config or other data, or cannot be
            written or read.
        Stopped: a signal came; the run is saved.
    """
    out, runtime = Path(out), runtime or pick()
    if not 2 <= config.batch_size <= len(images):
        raise ValueError(
            f"batch_size {config.batch_size} for {len(images)} images: choose from 2 to"
            f" {len(images)}"
        )
    if config.epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {config.epochs}")
    if images.shape[-1] != config.in_channels:
        raise ValueError(
            f"images have {images.shape[-1]} channels, the config says"
            f" in_channels={config.in_channels}"
        )
    world = init_distributed(runtime.device)
    if config.batch_size % world.size:
        raise ValueError(
            f"batch_size {config.batch_size} does not divide among {world.size} processes"
        )
    encoder = untrained(config)
    head = projection_head(encoder.feature_dim, config.projection)
    model = nn.Sequential(encoder, head).to(runtime.device, memory_format=torch.channels_last)
    bands = "" if config.in_channels == 3 else f"_{config.in_channels}bands"
    folder = (
        Path(runs or out / "runs") / f"{config.encoder}{bands}_{config.epochs}ep_seed{config.seed}"
    )
    about = {
        "kind": "simclr",
        "config": asdict(config),
        "data": data or {},
        "images": fingerprint(images),
        "versions": record(runtime),
    }
    model = sync_batch_norm(model, world)
    with Run(folder, about, save_minutes, save_steps, world) as run:
        training = _training(
            images,
            config,
            model,
            runtime,
            world,
            probe,
            probe_every,
            (loss or nt_xent, order or shuffled, pairs or views),
        )
        progress = train(
            run,
            training,
            resume,
            lambda: {"epoch": 0, "knn": probe(encoder) if probe and world.first else None},
        )
        checkpoints.restore(encoder, progress.best_state["encoder"], run.last)
        return Pretrained(
            encoder.eval(), pd.DataFrame(progress.history), _finish(run, out, config, progress)
        )


def _training(
    images, config: PretrainConfig, model, runtime: Runtime, world: World, probe, probe_every, hooks
) -> Training:
    (encoder, head), (objective, order, pairs) = model, hooks
    augment = SimCLRAugmentation(config.image_size, **config.augmentation)
    steps = len(images) // config.batch_size
    data, several = to_device_if_it_fits(images, runtime.device), wrap_ddp(model, world)
    own = (world.rank,) if world.size > 1 else ()

    def rows(epoch: int, first: int) -> Iterator[Tensor]:
        model.train()
        rows_N = order(len(images), config.seed, epoch)[: steps * config.batch_size]
        rows_S_n = rows_N.view(steps, config.batch_size)
        return batches(data, shard(rows_S_n[first:].T, world).T, runtime.device)

    def loss(epoch: int, step: int, batch: Tensor) -> Tensor:
        pair = pairs(batch, augment, generator(config.seed, epoch, step), world)
        # dropout draws from the global generator: seeding it here makes every step a function of
        # its number
        torch.manual_seed(seed_of(config.seed, epoch, step, 1, *own))
        with runtime.autocast():
            z_i, z_j = several(torch.cat(pair)).chunk(2)
        return objective(gather(z_i, world), gather(z_j, world), config.temperature)

    def judge(epoch: int, row: Row) -> Row:
        due = probe and world.first and (epoch % probe_every == 0 or epoch == config.epochs)
        return {"knn": probe(encoder)} if due else {}

    return Training(
        {"encoder": encoder, "projection": head},
        Adam(model.parameters(), lr=config.lr, fused=True),
        config.epochs,
        steps,
        config.batch_size,
        config.lr,
        rows,
        loss,
        judge,
        badness=lambda row: row["loss"],
        advice=(
            f"Try a lower learning rate than {config.lr:g} or a higher temperature than"
            f" {config.temperature:g}."
        ),
        rate=("views/s", 2),
    )


def _finish(run: Run, out: Path, config: PretrainConfig, progress: Progress) -> Path:
    if run.checkpoint and Path(run.checkpoint).is_file():
        print(f"{run.folder}: this run is finished already; resume=False would train it again")
        if run.world.first:  # another run of as many epochs may have taken the short name
            checkpoints.copy(
                Path(run.checkpoint), out / checkpoints.contrastive_alias(config.epochs)
            )
        all_reduce_any(False, run.world)
        return Path(run.checkpoint)
    if not run.world.first:
        all_reduce_any(False, run.world)  # the first has written it
        return Path(run.finished_checkpoint())
    best, alias = progress.best, out / checkpoints.contrastive_alias(config.epochs)
    name = checkpoints.contrastive_name(
        config.epochs, config.batch_size, best["loss"], datetime.now()
    )
    about = {**run.about, "epoch": best["epoch"], "metrics": best, "history": progress.history}
    file = checkpoints.save(out / name, progress.best_state, about)
    checkpoints.copy(file, alias)
    run.finish(file)
    all_reduce_any(False, run.world)
    return file


def main() -> None:
    from src.data.store import PatchStore
    from src.errors import DataError

    parser = argparse.ArgumentParser(
        prog="python -m src.pretrain", description="SimCLR pretraining on a PatchStore."
    )
    parser.add_argument("store", help="folder written by python -m src.data.bigearthnet")
    parser.add_argument("--out", default="models", help="folder for checkpoints")
    parser.add_argument("--encoder", default="custom_cnn", choices=ENCODERS)
    parser.add_argument("--runs", default="runs", help="folder of run folders")
    parser.add_argument(
        "--resume",
        default="auto",
        choices=[str(r).lower() for r in RESUME],
        help="false: start anew",
    )
    parser.add_argument(
        "--save-minutes", type=float, default=5.0, help="at most so much is lost by a kill"
    )
    parser.add_argument("--save-steps", type=int, help="save every so many steps besides")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=["auto", "bfloat16", "float32"])
    for name, kind in (
        ("epochs", int),
        ("batch_size", int),
        ("lr", float),
        ("temperature", float),
        ("image_size", int),
        ("seed", int),
    ):
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=kind, default=getattr(PretrainConfig, name)
        )
    args = vars(parser.parse_args())
    store_path, out, resume = args.pop("store"), args.pop("out"), args.pop("resume")
    saving = {key: args.pop(key) for key in ("runs", "save_minutes", "save_steps")}
    resume = False if resume == "false" else resume
    try:
        world = init_distributed(
            torch.device("cpu") if args["device"] == "cpu" else None
        )  # before anything touches a GPU
        runtime = pick(args.pop("device"), args.pop("precision"))
        store = PatchStore.open(store_path)
        channels = store.images.shape[-1]
        config = PretrainConfig(
            **args, in_channels=channels, augmentation={} if channels == 3 else SPECTRAL
        )
        if world.first:
            print(f"{len(store)} patches of {store.path} on {runtime}")
        result = pretrain(
            store.images, config, out, runtime=runtime, resume=resume, data=store.about, **saving
        )
    except (
        DataError,
        checkpoints.CheckpointError,
        ValueError,
        OSError,
        FloatingPointError,
    ) as error:
        raise SystemExit(f"error: {error}") from None
    except Stopped as stopped:
        raise SystemExit(str(stopped)) from None
    if world.first:
        print(f"best epoch: {result.checkpoint}")


if __name__ == "__main__":
    main()
