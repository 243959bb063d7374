"""Supervised fine-tuning with progressive unfreezing, and the from-scratch baseline beside it.

Command line: `python -m src.finetune DATA --pretrained models/….pth --ood DATA`
(`src.runs.commands`).
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from src import checkpoints
from src.augmentations import random_dihedral
from src.augmentations.evaluation_transform import prepare
from src.augmentations.normalisation import Statistics, as_statistics
from src.augmentations.tones import draw_tones
from src.augmentations.transfer import to_device
from src.checks import check_config, check_images, check_labels, check_split
from src.data.splits import Split
from src.encoders import Classifier, statistics_of
from src.encoders.foreign import file_record, short_name
from src.encoders.starting import starting_classifier
from src.probes import embed
from src.runs import Run, RunSettings, weights_fingerprint
from src.runs.batches import batches, to_device_if_it_fits
from src.runs.loop import Loop, Schedule
from src.runs.runtime import Runtime, generator, pick, record, seed_of


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
    # of the bands, `PatchStore.statistics`; None: those of the checkpoint it starts from, else the
    # usual ones of RGB and of twelve bands
    statistics: Statistics | None = None

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
            on with, a file of other code's weights or a name of timm's (`src.encoders.foreign`), or
            `IMAGENET`; None starts from random weights.
        settings: device, saving and resuming; this run's folder is
            `<encoder>_<from_scratch or what it starts from>_<epochs>ep_seed<seed>`.

    Raises:
        ValueError: images, labels, split or config that cannot be what they say (`src.checks`).
        CheckpointError: the pretraining checkpoint is unusable or of another encoder, or as
            `pretrain`.
        ConnectionError: timm's weights could not be fetched.
        FloatingPointError: the loss is not finite.
        Stopped: a signal came; the run is saved.
    """
    out, runtime, config = Path(out), settings.runtime or pick(), check_config(config)
    images, labels, split = check_training(images, labels, split, classes, config)
    model = starting_classifier(config, classes, pretrained, runtime)
    data, targets = _on_device(images, labels, runtime.device)
    how = (config.image_size, runtime.device, statistics_of(model))
    steps = len(split.train) // config.batch_size
    schedule = Schedule(config.epochs, steps, config.batch_size, config.lr)
    metadata = _metadata(model, config, classes, pretrained, settings)
    folder, parts = _folder(config, pretrained, out, settings), (split.train, split.val, split.test)
    run = Run(folder, metadata, settings, arrays=(images, labels, *parts))
    with run, runtime.reproducible():
        optimizer, parts = _optimizer(model, config), {"classifier": model}
        loop = Loop(run, parts, optimizer, schedule, monitor="val_accuracy", mode="max")
        for epoch in loop.epochs(settings.resume):
            open_ = open_stages(epoch - 1, config.phases, len(model.stages))
            set_open(model, open_)
            rows_S_n = _rows(split.train, config, epoch - 1)[loop.step :]
            for step, (batch, target) in loop.steps(_labelled(data, targets, rows_S_n)):
                torch.manual_seed(seed_of(config.seed, epoch - 1, step, 1))  # dropout's
                batch = draw_tones(batch, generator(config.seed, epoch - 1, step, 2), config.tones)
                batch = prepare(batch.permute(0, 2, 3, 1), *how)
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


def _on_device(images: np.ndarray, labels: np.ndarray, device: torch.device) -> list[Tensor]:
    return [to_device_if_it_fits(images, device), torch.as_tensor(labels, device=device)]


def _rows(train: np.ndarray, config: FinetuneConfig, epoch: int) -> Tensor:
    """Row numbers of every batch of an epoch, (steps, n)."""
    order = torch.randperm(len(train), generator=generator(config.seed, epoch))
    steps = len(train) // config.batch_size
    return torch.as_tensor(train)[order][: steps * config.batch_size].view(steps, -1)


def _labelled(images: Tensor, targets: Tensor, rows_S_n: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The images and the labels of each step; the labels lie on the device of training."""
    device = targets.device
    there = targets[to_device(rows_S_n, device)]
    return zip(batches(images, rows_S_n, device), there, strict=True)


def _accuracy(
    model: Classifier, images: np.ndarray, labels: np.ndarray, rows: np.ndarray, runtime: Runtime
) -> tuple[float, np.ndarray]:
    """Share of these rows that is classified right, and their logits (n, classes)."""
    logits = embed(model, images[rows], model.encoder.image_size, runtime)
    return float((logits.argmax(1) == labels[rows]).mean()), logits


def check_training(
    images: np.ndarray, labels: np.ndarray, split: Split, classes: list[str], config: FinetuneConfig
) -> tuple[np.ndarray, np.ndarray, Split]:
    """What `finetune` trains on, or the ValueError that it would raise before."""
    check_config(config)
    as_statistics(config.in_channels, config.statistics)
    images = check_images(images, channels=config.in_channels)
    labels = check_labels(labels, classes, len(images))
    split = Split(*check_split(split.train, split.val, split.test, len(images)))
    # of one image of 32 pixels ResNet-50's last batch norm sees one value a channel
    least = 2 if config.encoder == "resnet50" and config.image_size <= 32 else 1
    size, count = config.batch_size, len(split.train)
    if not least <= size <= count:
        limits = f"choose from {least} to {count}"
        raise ValueError(f"batch_size {size} for {count} training images: {limits}")
    if len(np.unique(labels[split.train])) < 2:
        raise ValueError("the training images are all of one class: there is nothing to tell apart")
    return images, labels, split


def _folder(
    config: FinetuneConfig, pretrained: str | Path | None, out: Path, settings: RunSettings
) -> Path:
    start = short_name(pretrained) if pretrained else "from_scratch"
    name = f"{config.encoder}_{start}_{config.epochs}ep_seed{config.seed}"
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
        "config": asdict(config) | {"statistics": statistics_of(model)},
        "classes": list(classes),
        "data": settings.provenance or {},
        "pretrained": Path(pretrained).name if pretrained else None,
        **file_record(pretrained),
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


def main() -> None:
    """Fine-tune on a labelled data set, as the command line says."""
    from src.runs.commands import finetune_on_data  # which imports this module

    finetune_on_data()


if __name__ == "__main__":
    main()
