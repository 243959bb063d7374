"""SimCLR pretraining: two views of every image, one forward pass, NT-Xent, Adam with a cosine schedule.

Command line: `python -m src.pretrain STORE --epochs 50 --out models`.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from src import checkpoints
from src.augmentations import SPECTRAL, SimCLRAugmentation
from src.encoders import ENCODERS, build_encoder, projection_head
from src.losses import nt_xent
from src.runtime import Runtime, generator, pick, record, seed_of


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
    augmentation: dict[str, Any] = field(default_factory=dict)  # changes to SimCLRAugmentation's defaults


@dataclass(frozen=True)
class Pretrained:
    encoder: nn.Module  # with the weights of the best epoch, in eval mode
    history: pd.DataFrame  # one row an epoch; row 0 is the untrained encoder
    checkpoint: Path  # best epoch, full name; the short alias lies beside it


def cosine(step: int, steps: int, lr: float) -> float:
    """Learning rate at a step (0 ≤ step < steps): lr at the first, towards 0 at the last."""
    return lr * 0.5 * (1 + math.cos(math.pi * step / steps))


def views(images: np.ndarray | torch.Tensor, rows: torch.Tensor, augment: SimCLRAugmentation,
          rng: torch.Generator, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Two independent views, (n, C, size, size) each, of these rows of a (N, H, W, C) array."""
    batch = torch.as_tensor(images[rows]).to(device, non_blocking=True).permute(0, 3, 1, 2)
    return augment(batch, rng), augment(batch, rng)


def shuffled(count: int, seed: int, epoch: int) -> torch.Tensor:
    """Row numbers in the order of an epoch, (count,): a fresh permutation each."""
    return torch.randperm(count, generator=generator(seed, epoch))


def untrained(config: PretrainConfig) -> nn.Module:
    """The encoder as `pretrain` starts it: the "before" of every comparison."""
    torch.manual_seed(seed_of(config.seed))
    return build_encoder(config.encoder, config.in_channels, config.image_size, config.dropout)


def pretrain(
    images: np.ndarray, config: PretrainConfig, out: str | Path, *,
    runtime: Runtime | None = None, probe: Callable[[nn.Module], float] | None = None, probe_every: int = 5,
    resume: bool = False, data: dict[str, Any] | None = None,
    loss: Callable[..., torch.Tensor] | None = None, order: Callable[..., torch.Tensor] | None = None,
    pairs: Callable[..., tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> Pretrained:  # fmt: skip
    """Pretrain an encoder on unlabelled images.

    Args:
        images: (N, H, W, C) uint8 or uint16, as a PatchStore keeps them; only read.
        config: the recipe.
        out: folder for checkpoints (names of `src.checkpoints`): the best epoch by training loss under its full
            name and its alias, the last epoch with its optimiser as `last_…` to resume from.
        runtime: device and precision; None picks.
        probe: encoder → kNN accuracy, called before training and every `probe_every` epochs.
        resume: continue from `last_…` in `out` if it is there; the result equals an uninterrupted run.
        data: description of the images, kept in the checkpoint.
        loss, order, pairs: in place of `nt_xent`, `shuffled` and `views`, with the same arguments; for experiments
            such as `src.audit`, which describes them in `data`.

    Raises:
        ValueError: batch larger than the data, no epochs, or wrong number of channels.
        FloatingPointError: the loss is not finite; the last good checkpoint stays.
        CheckpointError: asked to resume a run of another config or on other data.
    """
    out, runtime = Path(out), runtime or pick()
    if not 2 <= config.batch_size <= len(images):
        raise ValueError(f"batch_size {config.batch_size} for {len(images)} images: choose from 2 to {len(images)}")
    if config.epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {config.epochs}")
    if images.shape[-1] != config.in_channels:
        raise ValueError(f"images have {images.shape[-1]} channels, the config says in_channels={config.in_channels}")
    encoder = untrained(config)
    model = nn.Sequential(encoder, projection_head(encoder.feature_dim, config.projection))
    model.to(runtime.device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    last = out / checkpoints.contrastive_alias(config.epochs).replace("best", "last")
    about = {"kind": "simclr", "config": asdict(config), "data": data or {}, "versions": record(runtime)}

    history = _resume(last, about, model, optimizer) if resume and last.exists() else []
    if not history:
        history = [{"epoch": 0, "knn": probe(encoder) if probe else None}]
    on_device = _resident(images, runtime.device)
    steps, hooks = len(images) // config.batch_size, (loss or nt_xent, order or shuffled, pairs or views)
    with tqdm(total=config.epochs * steps, initial=(len(history) - 1) * steps, unit="step", mininterval=1) as bar:
        for epoch in range(len(history), config.epochs + 1):
            row = {"epoch": epoch, **_train_epoch(model, optimizer, on_device, config, runtime, epoch, bar, *hooks)}
            if probe and (epoch % probe_every == 0 or epoch == config.epochs):
                row["knn"] = probe(encoder)
            history.append(row)
            _save_epoch(out, last, model, optimizer, about, history)
    return _finish(out, config, encoder, history)


def _resident(images: np.ndarray, device: torch.device) -> torch.Tensor:
    """The images as one uint8 tensor: on the GPU if they take under half of its free memory, else where they are."""
    tensor = torch.as_tensor(images)
    if device.type == "cuda" and tensor.nbytes < 0.5 * torch.cuda.mem_get_info(device)[0]:
        return tensor.to(device)
    return tensor


def _train_epoch(model, optimizer, images, config: PretrainConfig, runtime: Runtime, epoch: int, bar, objective, order,
                 pairs) -> dict:  # fmt: skip
    augment = SimCLRAugmentation(config.image_size, **config.augmentation)
    order = order(len(images), config.seed, epoch)
    steps = len(images) // config.batch_size
    losses, started = [], time.perf_counter()
    model.train()
    for step in range(steps):
        lr = cosine((epoch - 1) * steps + step, config.epochs * steps, config.lr)
        for group in optimizer.param_groups:
            group["lr"] = lr
        # dropout draws from the global generator: seeding it here makes every step a function of its number
        torch.manual_seed(seed_of(config.seed, epoch, step, 1))
        rows = order[step * config.batch_size : (step + 1) * config.batch_size]
        pair = pairs(images, rows.to(images.device), augment, generator(config.seed, epoch, step), runtime.device)
        with runtime.autocast():
            z_i, z_j = model(torch.cat(pair)).chunk(2)
        loss = objective(z_i, z_j, config.temperature)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        bar.update()
    mean = torch.stack(losses).mean().item()  # the epoch's only wait for the device
    if not math.isfinite(mean):
        raise FloatingPointError(
            f"the loss of epoch {epoch} is {mean}: training stopped, checkpoints of earlier epochs are untouched. "
            f"Try a lower learning rate than {config.lr:g} or a higher temperature than {config.temperature:g}."
        )
    seconds = time.perf_counter() - started
    rate = steps * config.batch_size / seconds
    bar.set_description(f"epoch {epoch}/{config.epochs}")
    bar.set_postfix_str(f"loss {mean:.3f}, {rate:,.0f} images/s")
    return {"loss": mean, "lr": lr, "images_per_s": rate, "seconds": seconds}


def _save_epoch(out: Path, last: Path, model, optimizer, about: dict, history: list[dict]) -> None:
    state = {"encoder": checkpoints.clean_state(model[0]), "projection": checkpoints.clean_state(model[1])}
    about = {**about, "epoch": history[-1]["epoch"], "metrics": history[-1], "history": history}
    if history[-1]["loss"] <= min(row["loss"] for row in history[1:]):
        checkpoints.save(out / checkpoints.contrastive_alias(about["config"]["epochs"]), state, about)
    checkpoints.save(last, {**state, "optimizer": optimizer.state_dict()}, about)


def _resume(last: Path, about: dict, model, optimizer) -> list[dict]:
    state, saved = checkpoints.load(last)
    was = {**saved["config"], "data": saved["data"]}
    now = json.loads(json.dumps({**about["config"], "data": about["data"]}))  # tuples become lists, as in the file
    differs = {key: (was.get(key), value) for key, value in now.items() if was.get(key) != value}
    if differs:
        raise checkpoints.CheckpointError(
            f"{last} is of another run (was, now): {differs}. Delete it or use its config."
        )
    checkpoints.restore(model[0], state["encoder"], last)
    checkpoints.restore(model[1], state["projection"], last)
    optimizer.load_state_dict(state["optimizer"])
    return saved["history"]


def _finish(out: Path, config: PretrainConfig, encoder: nn.Module, history: list[dict]) -> Pretrained:
    alias = out / checkpoints.contrastive_alias(config.epochs)
    best, about = checkpoints.load(alias)
    name = checkpoints.contrastive_name(config.epochs, config.batch_size, about["metrics"]["loss"], datetime.now())
    checkpoints.restore(encoder, best["encoder"], alias)
    return Pretrained(encoder.eval(), pd.DataFrame(history), checkpoints.copy(alias, out / name))


def main() -> None:
    from src.data.store import DataError, PatchStore

    parser = argparse.ArgumentParser(prog="python -m src.pretrain", description="SimCLR pretraining on a PatchStore.")
    parser.add_argument("store", help="folder written by python -m src.data.bigearthnet")
    parser.add_argument("--out", default="models", help="folder for checkpoints")
    parser.add_argument("--encoder", default="custom_cnn", choices=ENCODERS)
    parser.add_argument("--resume", action="store_true", help="continue from the last epoch saved in --out")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=["auto", "bfloat16", "float32"])
    for name, kind in (("epochs", int), ("batch_size", int), ("lr", float), ("temperature", float),
                       ("image_size", int), ("seed", int)):  # fmt: skip
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=getattr(PretrainConfig, name))
    args = vars(parser.parse_args())
    store_path, out, resume = args.pop("store"), args.pop("out"), args.pop("resume")
    try:
        runtime = pick(args.pop("device"), args.pop("precision"))
        store = PatchStore.open(store_path)
        channels = store.images.shape[-1]
        config = PretrainConfig(**args, in_channels=channels, augmentation={} if channels == 3 else SPECTRAL)
        print(f"{len(store)} patches of {store.path} on {runtime}")
        result = pretrain(store.images, config, out, runtime=runtime, resume=resume, data=store.about)
    except (DataError, checkpoints.CheckpointError, ValueError, OSError, FloatingPointError) as error:
        raise SystemExit(f"error: {error}") from None
    print(f"best epoch: {result.checkpoint}")


if __name__ == "__main__":
    main()
