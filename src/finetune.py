"""Supervised fine-tuning with progressive unfreezing, and the from-scratch baseline it is compared with."""

import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from src import checkpoints
from src.augmentations import random_dihedral
from src.data.eurosat import Split
from src.encoders import Classifier, build_encoder
from src.pretrain import cosine
from src.probes import embed, prepare
from src.runtime import Runtime, generator, pick, record, seed_of

IMAGENET = "imagenet"  # in place of a pretraining checkpoint: timm's weights


@dataclass(frozen=True)
class FinetuneConfig:
    """Everything that decides what a fine-tuning run computes; the defaults are the study's pretrained arm."""

    encoder: str = "custom_cnn"
    phases: tuple[int, int, int] = (10, 10, 80)  # epochs: encoder frozen, its last stage open, everything open
    batch_size: int = 64
    lr: float = 1e-4  # at the first step; falls to 0 along a cosine
    weight_decay: float = 1e-4
    image_size: int = 64  # pixels
    in_channels: int = 3
    dropout: float = 0.1
    seed: int = 0

    @property
    def epochs(self) -> int:
        return sum(self.phases)

    def from_scratch(self) -> "FinetuneConfig":
        """The baseline's recipe: as many epochs, everything open from the first, ten times the learning rate."""
        return FinetuneConfig(**{**asdict(self), "phases": (0, 0, self.epochs), "lr": 10 * self.lr})


@dataclass(frozen=True)
class Finetuned:
    model: Classifier  # with the weights of the epoch best on val, in eval mode
    history: pd.DataFrame  # one row an epoch
    val_accuracy: float  # of the selected epoch; it was selected on, so it flatters
    test_accuracy: float
    test_logits: np.ndarray  # (n, classes) float32
    checkpoint: Path


def open_stages(epoch: int, phases: tuple[int, int, int], n_stages: int) -> range:
    """Which of a classifier's stages (the head is the last) learn in this epoch, counted from 0.

    Phase 1: the head. Phase 2: the head and the encoder's last stage. Phase 3: everything.
    """
    if epoch < phases[0]:
        return range(n_stages - 1, n_stages)
    if epoch < phases[0] + phases[1]:
        return range(n_stages - 2, n_stages)
    return range(n_stages)


def set_open(model: Classifier, open_: range) -> None:
    """Put the open stages in training and freeze the others: no gradients, and eval mode.

    Without eval mode a frozen stage would still move its batch-norm averages with every batch (pytorch #86590).
    """
    model.train()
    for number, stage in enumerate(model.stages):
        stage.requires_grad_(number in open_).train(number in open_)


def starting_points(names: list[str], models: Path, schedules: dict[str, int], encoder: str) -> dict[str, Path | str]:
    """Name of an arm → what `finetune` takes as `pretrained`.

    Args:
        names: of schedules ("long", "short": their pretraining epochs' alias), of checkpoints, or `IMAGENET`.
        models: folder of the checkpoints.
        schedules: pretraining epochs of each schedule.
        encoder: what the checkpoints must hold.

    Raises:
        CheckpointError: one of them is missing, damaged or of another encoder.
    """
    arms: dict[str, Path | str] = {}
    for name in names:
        if name == IMAGENET:
            arms["ImageNet"] = IMAGENET
            continue
        file = models / (checkpoints.contrastive_alias(schedules[name]) if name in schedules else name)
        arm = f"pretrained {checkpoints.load_encoder(file, expect=encoder)[1]['config']['epochs']}"
        arms[arm if arm not in arms else f"{arm} ({file.stem})"] = file
    return arms


def starting_encoder(config: FinetuneConfig, pretrained: str | Path | None) -> nn.Module:
    """The encoder as `finetune` starts it: random from the seed, or with the weights of `pretrained`."""
    torch.manual_seed(seed_of(config.seed))
    shape = (config.encoder, config.in_channels, config.image_size, config.dropout)
    encoder = build_encoder(*shape, imagenet=pretrained == IMAGENET)
    if pretrained and pretrained != IMAGENET:
        source, _ = checkpoints.load_encoder(pretrained, expect=config.encoder)
        checkpoints.restore(encoder, source.state_dict(), pretrained)
    return encoder


def phase_table(model: Classifier, phases: tuple[int, int, int]) -> pd.DataFrame:
    """Which stages learn from which epoch on, one row a stage with its number of parameters."""
    names = [f"stage {number}" for number in range(1, len(model.stages))] + ["head"]
    table = pd.DataFrame({"parameters": [sum(p.numel() for p in stage.parameters()) for stage in model.stages]}, names)
    for start in dict.fromkeys((0, phases[0], phases[0] + phases[1])):  # a phase of no epochs has no column
        open_ = open_stages(start, phases, len(names))
        table[f"from epoch {start + 1}"] = ["learns" if number in open_ else "frozen" for number in range(len(names))]
    return table


def finetune(
    images: np.ndarray, labels: np.ndarray, split: Split, classes: list[str], config: FinetuneConfig, out: str | Path,
    *, pretrained: str | Path | None = None, runtime: Runtime | None = None, data: dict[str, Any] | None = None,
) -> Finetuned:  # fmt: skip
    """Train a classifier on the training rows, select its epoch on val, and test it once.

    Args:
        images, labels: (N, H, W, C) uint8 and (N,) int64 of a labelled store.
        split: rows for training, selection and test.
        classes: their names, in the order of the labels.
        config: the recipe; `config.from_scratch()` for the baseline.
        out: folder for the checkpoint of the best epoch.
        pretrained: pretraining checkpoint for the encoder, or `IMAGENET`; None starts from random weights.
        runtime: device and precision; None picks.
        data: description of the images, kept in the checkpoint.

    Raises:
        ValueError: a label outside the classes, a batch larger than the training set, or nothing to select on.
        CheckpointError: the pretraining checkpoint is unusable or of another encoder.
        ConnectionError: the ImageNet weights could not be fetched.
        FloatingPointError: the loss is not finite.
    """
    runtime = runtime or pick()
    if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, but there are {len(classes)} classes")
    if config.epochs < 1 or not len(split.val) or not len(split.test):
        raise ValueError(f"need epochs, val and test images; got {config.epochs}, {len(split.val)}, {len(split.test)}")
    if not 1 <= config.batch_size <= len(split.train):
        raise ValueError(f"batch_size {config.batch_size} for {len(split.train)} training images: choose a smaller one")
    model = _build(config, len(classes), pretrained).to(runtime.device, memory_format=torch.channels_last)
    # one group a stage from the first step: stages that open later find their Adam state where it belongs
    groups = [{"params": list(stage.parameters())} for stage in model.stages]
    optimizer = torch.optim.Adam(groups, lr=config.lr, weight_decay=config.weight_decay)
    targets = torch.as_tensor(labels[split.train])
    train, val = images[split.train], images[split.val]

    history, best = [], {"val_accuracy": -1.0}
    steps = len(train) // config.batch_size
    with tqdm(total=config.epochs * steps, unit="step", mininterval=1) as bar:
        for epoch in range(config.epochs):
            set_open(model, open_stages(epoch, config.phases, len(model.stages)))
            row = _train_epoch(model, optimizer, train, targets, config, runtime, epoch, bar)
            accuracy = float((embed(model, val, config.image_size, runtime).argmax(1) == labels[split.val]).mean())
            history.append({"epoch": epoch + 1, "open": len(open_stages(epoch, config.phases, len(model.stages))),
                            **row, "val_accuracy": accuracy})  # fmt: skip
            if accuracy > best["val_accuracy"]:
                best = {"epoch": epoch + 1, "val_accuracy": accuracy, "state": checkpoints.clean_state(model)}
            bar.set_description(f"epoch {epoch + 1}/{config.epochs}")
            bar.set_postfix_str(f"loss {row['loss']:.3f}, val {accuracy:.1%}, {row['images_per_s']:,.0f} images/s")

    model.load_state_dict(best["state"])
    logits = embed(model, images[split.test], config.image_size, runtime)
    test_accuracy = float((logits.argmax(1) == labels[split.test]).mean())
    about = {
        "kind": "classifier", "config": asdict(config), "classes": list(classes), "data": data or {},
        "pretrained": Path(pretrained).name if pretrained else None, "versions": record(runtime),
        "epoch": best["epoch"], "history": history,
        "metrics": {"val_accuracy": best["val_accuracy"], "test_accuracy": test_accuracy},
    }  # fmt: skip
    arm = "progressive_unfr" if pretrained else "from_scratch"
    name = checkpoints.supervised_name(best["val_accuracy"], datetime.now(), arm)
    file = checkpoints.save(Path(out) / name, {"classifier": best["state"]}, about)
    return Finetuned(model.eval(), pd.DataFrame(history), best["val_accuracy"], test_accuracy, logits, file)


def _build(config: FinetuneConfig, classes: int, pretrained: str | Path | None) -> Classifier:
    encoder = starting_encoder(config, pretrained)
    torch.manual_seed(seed_of(config.seed, 1))  # the same head for every arm of one seed
    return Classifier(encoder, classes, config.dropout)


def _train_epoch(model, optimizer, images, targets, config: FinetuneConfig, runtime: Runtime, epoch: int, bar) -> dict:
    order = torch.randperm(len(images), generator=generator(config.seed, epoch))
    steps = len(images) // config.batch_size
    losses, started = [], time.perf_counter()
    for step in range(steps):
        lr = cosine(epoch * steps + step, config.epochs * steps, config.lr)
        for group in optimizer.param_groups:
            group["lr"] = lr
        torch.manual_seed(seed_of(config.seed, epoch, step, 1))  # dropout: a function of the step, as in pretraining
        rows = order[step * config.batch_size : (step + 1) * config.batch_size]
        batch = prepare(images[rows.numpy()], config.image_size, runtime.device)
        batch = random_dihedral(batch, generator(config.seed, epoch, step))
        with runtime.autocast():
            logits = model(batch)
        loss = F.cross_entropy(logits, targets[rows].to(runtime.device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        bar.update()
    mean = torch.stack(losses).mean().item()
    if not np.isfinite(mean):
        raise FloatingPointError(
            f"the loss of epoch {epoch + 1} is {mean}: training stopped, no checkpoint was written"
        )
    seconds = time.perf_counter() - started
    return {"loss": mean, "lr": lr, "images_per_s": steps * config.batch_size / seconds, "seconds": seconds}
