"""Supervised fine-tuning with progressive unfreezing, and the from-scratch baseline beside it."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src import checkpoints
from src.augmentations import random_dihedral
from src.augmentations.evaluation_transform import prepare
from src.augmentations.tones import draw_tones
from src.data.splits import Split
from src.encoders import Classifier, build_encoder
from src.probes import embed
from src.runs import Run, RunSettings, fingerprint, weights_fingerprint
from src.runs.batches import batches, to_device_if_it_fits
from src.runs.loop import Loop, Schedule
from src.runs.runtime import Runtime, generator, pick, record, seed_of

IMAGENET = "imagenet"  # in place of a pretraining checkpoint: timm's weights


@dataclass(frozen=True)
class FinetuneConfig:
    """Everything that decides what a run computes; the defaults are the study's pretrained arm."""

    encoder: str = "custom_cnn"
    # epochs with: the encoder frozen, its last stage open, everything open
    phases: tuple[int, int, int] = (10, 10, 80)
    batch_size: int = 64
    lr: float = 1e-4  # at the first step; falls to 0 along a cosine
    weight_decay: float = 1e-4
    image_size: int = 64  # pixels
    in_channels: int = 3
    dropout: float = 0.1
    seed: int = 0
    tones: float = 0.0  # share of images in tones between level 1C and 2A, see `draw_tones`

    @property
    def epochs(self) -> int:
        """Of all phases together."""
        return sum(self.phases)

    def from_scratch(self) -> "FinetuneConfig":
        """The baseline: as many epochs, everything open from the first, ten times the rate."""
        return replace(self, phases=(0, 0, self.epochs), lr=10 * self.lr)


@dataclass(frozen=True)
class Finetuned:
    """What a fine-tuning run leaves."""

    model: Classifier  # with the weights of the epoch best on val, in eval mode
    history: pd.DataFrame  # one row an epoch
    val_accuracy: float  # of the selected epoch; it was selected on, so it flatters
    test_accuracy: float
    test_logits: np.ndarray  # (n, classes) float32
    checkpoint: Path


# --- progressive unfreezing: a pure function of the epoch ---


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

    Without eval mode a frozen stage would still move its batch-norm averages with every batch
    (pytorch #86590).
    """
    model.train()
    for number, stage in enumerate(model.stages):
        stage.requires_grad_(number in open_).train(number in open_)


def phase_table(model: Classifier, phases: tuple[int, int, int]) -> pd.DataFrame:
    """Which stages learn from which epoch on, one row a stage with its number of parameters."""
    stages = model.stages
    names = [f"stage {number}" for number in range(1, len(stages))] + ["head"]
    sizes = [sum(p.numel() for p in stage.parameters()) for stage in stages]
    table = pd.DataFrame({"parameters": sizes}, names)
    # a phase of no epochs has no column
    for start in dict.fromkeys((0, phases[0], phases[0] + phases[1])):
        open_ = open_stages(start, phases, len(stages))
        states = ["learns" if number in open_ else "frozen" for number in range(len(stages))]
        table[f"from epoch {start + 1}"] = states
    return table


# --- where fine-tuning starts ---


def starting_points(
    names: list[str], models: Path, schedules: dict[str, int], encoder: str
) -> dict[str, Path | str]:
    """Name of an arm → what `finetune` takes as `pretrained`.

    Args:
        names: of schedules ("long", "short": their pretraining epochs' alias), of checkpoints, or
            `IMAGENET`.
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
        known = name in schedules
        file = models / (checkpoints.contrastive_alias(schedules[name]) if known else name)
        _, metadata = checkpoints.load_encoder(file, expect=encoder)
        arm = f"pretrained {metadata['config']['epochs']}"
        arms[arm if arm not in arms else f"{arm} ({file.stem})"] = file
    return arms


def starting_encoder(config: FinetuneConfig, pretrained: str | Path | None) -> nn.Module:
    """The encoder as `finetune` starts it: random from the seed, or of `pretrained`."""
    torch.manual_seed(seed_of(config.seed))
    shape = (config.encoder, config.in_channels, config.image_size, config.dropout)
    encoder = build_encoder(*shape, imagenet=pretrained == IMAGENET)
    if pretrained and pretrained != IMAGENET:
        source, _ = checkpoints.load_encoder(pretrained, expect=config.encoder)
        checkpoints.restore(encoder, source.state_dict(), pretrained)
    return encoder


def _starting_classifier(
    config: FinetuneConfig, classes: list[str], pretrained: str | Path | None
) -> Classifier:
    if pretrained not in (None, IMAGENET) and "classifier" in checkpoints.load(pretrained)[0]:
        model, known = checkpoints.load_classifier(pretrained, expect=config.encoder)
        if known["classes"] != list(classes):
            raise checkpoints.CheckpointError(f"{pretrained} is of other classes")
        return model.to(memory_format=torch.channels_last)  # goes on, head and all
    encoder = starting_encoder(config, pretrained)
    torch.manual_seed(seed_of(config.seed, 1))  # the same head for every arm of one seed
    return Classifier(encoder, len(classes), config.dropout).to(memory_format=torch.channels_last)


# --- the run ---


def finetune(
    images: np.ndarray,
    labels: np.ndarray,
    split: Split,
    classes: list[str],
    config: FinetuneConfig,
    out: str | Path,
    *,
    pretrained: str | Path | None = None,
    settings: RunSettings = RunSettings(),
) -> Finetuned:
    """Train a classifier on the training rows, select its epoch on val, and test it once.

    Args:
        images, labels: (N, H, W, C) uint8 and (N,) int64 of a labelled store.
        split: rows for training, selection and test.
        classes: their names, in the order of the labels.
        config: the recipe; `config.from_scratch()` for the baseline.
        out: folder for the checkpoint of the best epoch.
        pretrained: pretraining checkpoint for the encoder, a classifier of the same classes to go
            on with, or `IMAGENET`; None starts from random weights.
        settings: device, saving and resuming; this run's folder is
            `<encoder>_<from_scratch or what it starts from>_<epochs>ep_seed<seed>`.

    Raises:
        ValueError: a label outside the classes, a batch larger than the training set, or nothing to
            select on.
        CheckpointError: the pretraining checkpoint is unusable or of another encoder, or as
            `pretrain`.
        ConnectionError: the ImageNet weights could not be fetched.
        FloatingPointError: the loss is not finite.
        Stopped: a signal came; the run is saved.
    """
    out, runtime = Path(out), settings.runtime or pick()
    _check(labels, split, classes, config)
    model = _starting_classifier(config, classes, pretrained).to(runtime.device)
    data = to_device_if_it_fits(images, runtime.device)
    targets = torch.as_tensor(labels, device=runtime.device)
    train_rows, steps = torch.as_tensor(split.train), len(split.train) // config.batch_size
    schedule = Schedule(config.epochs, steps, config.batch_size, config.lr)
    metadata = _metadata(model, config, classes, pretrained, settings)
    metadata["images"] = fingerprint(images, labels, split.train, split.val, split.test)
    with Run(_folder(config, pretrained, out, settings), metadata, settings) as run:
        optimizer, parts = _optimizer(model, config), {"classifier": model}
        loop = Loop(run, parts, optimizer, schedule, monitor="val_accuracy", mode="max")
        for epoch in loop.epochs(settings.resume):
            open_ = open_stages(epoch - 1, config.phases, len(model.stages))
            set_open(model, open_)
            order = torch.randperm(len(train_rows), generator=generator(config.seed, epoch - 1))
            rows_S_n = train_rows[order][: steps * config.batch_size].view(steps, -1)[loop.step :]
            for step, (batch, target) in loop.steps(_labelled(data, targets, rows_S_n)):
                torch.manual_seed(seed_of(config.seed, epoch - 1, step, 1))  # dropout's
                batch = draw_tones(batch, generator(config.seed, epoch - 1, step, 2), config.tones)
                batch = prepare(batch.permute(0, 2, 3, 1), config.image_size, runtime.device)
                batch = random_dihedral(batch, generator(config.seed, epoch - 1, step))
                with runtime.autocast():
                    logits = model(batch)
                loop.update(F.cross_entropy(logits, target))
            accuracy = _accuracy(model, images, labels, split.val, runtime)[0]
            loop.end_epoch(open=len(open_), val_accuracy=accuracy)
        checkpoints.restore(model, loop.progress.best_state["classifier"], run.states.last)
        return _finish(loop, out, *_accuracy(model, images, labels, split.test, runtime))


def _optimizer(model: Classifier, config: FinetuneConfig) -> torch.optim.Optimizer:
    # one group a stage from the first step: a stage that opens later finds its Adam state in place
    groups = [{"params": list(stage.parameters())} for stage in model.stages]
    return torch.optim.Adam(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)


def _labelled(images: Tensor, targets: Tensor, rows_S_n: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The images and the labels of each step; the labels lie on the device of training."""
    device = targets.device
    return zip(batches(images, rows_S_n, device), targets[rows_S_n.to(device)], strict=True)


def _accuracy(
    model: Classifier, images: np.ndarray, labels: np.ndarray, rows: np.ndarray, runtime: Runtime
) -> tuple[float, np.ndarray]:
    """Share of these rows that is classified right, and their logits (n, classes)."""
    logits = embed(model, images[rows], model.encoder.image_size, runtime)
    return float((logits.argmax(1) == labels[rows]).mean()), logits


def _check(labels: np.ndarray, split: Split, classes: list[str], config: FinetuneConfig) -> None:
    if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(
            f"labels run from {labels.min()} to {labels.max()}, but there are {len(classes)} "
            "classes"
        )
    if config.epochs < 1 or not len(split.val) or not len(split.test):
        raise ValueError(
            f"need epochs, val and test images; got {config.epochs}, {len(split.val)}, "
            f"{len(split.test)}"
        )
    if not 1 <= config.batch_size <= len(split.train):
        raise ValueError(
            f"batch_size {config.batch_size} for {len(split.train)} training images: choose a "
            "smaller one"
        )


def _folder(
    config: FinetuneConfig, pretrained: str | Path | None, out: Path, settings: RunSettings
) -> Path:
    origin = Path(pretrained).stem if pretrained else "from_scratch"
    name = f"{config.encoder}_{origin}_{config.epochs}ep_seed{config.seed}"
    return Path(settings.runs or out / "runs") / name


def _metadata(
    model: Classifier,
    config: FinetuneConfig,
    classes: list[str],
    pretrained: str | Path | None,
    settings: RunSettings,
) -> dict[str, Any]:
    return {
        "kind": "classifier",
        "config": asdict(config),
        "classes": list(classes),
        "data": settings.provenance or {},
        "pretrained": Path(pretrained).name if pretrained else None,
        "start": weights_fingerprint(model),
        "versions": record(settings.runtime or pick()),
    }


def _finish(loop: Loop, out: Path, test_accuracy: float, test_logits: np.ndarray) -> Finetuned:
    model, best = loop.parts["classifier"], loop.progress.best["val_accuracy"]
    arm = "progressive_unfr" if loop.run.metadata["pretrained"] else "from_scratch"
    name = checkpoints.supervised_name(best, datetime.now(), arm)
    metrics = {"val_accuracy": best, "test_accuracy": test_accuracy}
    checkpoint, history = loop.publish(out / name, metrics), pd.DataFrame(loop.progress.history)
    return Finetuned(model.eval(), history, best, test_accuracy, test_logits, checkpoint)
