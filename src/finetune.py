"""Supervised fine-tuning with progressive unfreezing, and the from-scratch baseline it is compared
with.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
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
from src.data.splits import Split
from src.encoders import Classifier, build_encoder
from src.probes import embed
from src.runs.batches import batches, to_device_if_it_fits
from src.runs.fingerprints import fingerprint, weights_fingerprint
from src.runs.loop import Progress, Row, Training, train
from src.runs.run import Run
from src.runs.runtime import Runtime, generator, pick, record, seed_of

IMAGENET = "imagenet"  # in place of a pretraining checkpoint: timm's weights


@dataclass(frozen=True)
class FinetuneConfig:
    """Everything that decides what a fine-tuning run computes; the defaults are the study's
    pretrained arm.
    """

    encoder: str = "custom_cnn"
    phases: tuple[int, int, int] = (
        10,
        10,
        80,
    )  # epochs: encoder frozen, its last stage open, everything open
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
        """The baseline's recipe: as many epochs, everything open from the first, ten times the
        learning rate.
        """
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

    Without eval mode a frozen stage would still move its batch-norm averages with every batch
    (pytorch #86590).
    """
    model.train()
    for number, stage in enumerate(model.stages):
        stage.requires_grad_(number in open_).train(number in open_)


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
        file = models / (
            checkpoints.contrastive_alias(schedules[name]) if name in schedules else name
        )
        arm = f"pretrained {checkpoints.load_encoder(file, expect=encoder)[1]['config']['epochs']}"
        arms[arm if arm not in arms else f"{arm} ({file.stem})"] = file
    return arms


def starting_encoder(config: FinetuneConfig, pretrained: str | Path | None) -> nn.Module:
    """The encoder as `finetune` starts it: random from the seed, or with the weights of
    `pretrained`.
    """
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
    table = pd.DataFrame(
        {"parameters": [sum(p.numel() for p in stage.parameters()) for stage in model.stages]},
        names,
    )
    for start in dict.fromkeys(
        (0, phases[0], phases[0] + phases[1])
    ):  # a phase of no epochs has no column
        open_ = open_stages(start, phases, len(names))
        table[f"from epoch {start + 1}"] = [
            "learns" if number in open_ else "frozen" for number in range(len(names))
        ]
    return table


def finetune(
    images: np.ndarray,
    labels: np.ndarray,
    split: Split,
    classes: list[str],
    config: FinetuneConfig,
    out: str | Path,
    *,
    pretrained: str | Path | None = None,
    runtime: Runtime | None = None,
    data: dict[str, Any] | None = None,
    runs: str | Path | None = None,
    resume: str | bool = "auto",
    save_minutes: float = 5.0,
    save_steps: int | None = None,
) -> Finetuned:
    """Train a classifier on the training rows, select its epoch on val, and test it once.

    Args:
        images, labels: (N, H, W, C) uint8 and (N,) int64 of a labelled store.
        split: rows for training, selection and test.
        classes: their names, in the order of the labels.
        config: the recipe; `config.from_scratch()` for the baseline.
        out: folder for the checkpoint of the best epoch.
        pretrained: pretraining checkpoint for the encoder, or `IMAGENET`; None starts from random
            weights.
        runtime: device and precision; None picks.
        data: description of the images, kept in the checkpoint.
        runs, resume, save_minutes, save_steps: as in `src.pretrain.pretrain`; this run's folder is
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
    runtime = runtime or pick()
    if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(
            f"labels run from {labels.min()} to {labels.max()}, but there are {len(classes)}"
            " classes"
        )
    if config.epochs < 1 or not len(split.val) or not len(split.test):
        raise ValueError(
            f"need epochs, val and test images; got {config.epochs}, {len(split.val)},"
            f" {len(split.test)}"
        )
    if not 1 <= config.batch_size <= len(split.train):
        raise ValueError(
            f"batch_size {config.batch_size} for {len(split.train)} training images: choose a"
            " smaller one"
        )
    model = _build(config, len(classes), pretrained).to(
        runtime.device, memory_format=torch.channels_last
    )
    about = {
        "kind": "classifier",
        "config": asdict(config),
        "classes": list(classes),
        "data": data or {},
        "pretrained": Path(pretrained).name if pretrained else None,
        "start": weights_fingerprint(model),
        "images": fingerprint(images, labels, split.train, split.val, split.test),
        "versions": record(runtime),
    }
    origin = Path(pretrained).stem if pretrained else "from_scratch"
    folder = (
        Path(runs or Path(out) / "runs")
        / f"{config.encoder}_{origin}_{config.epochs}ep_seed{config.seed}"
    )
    with Run(folder, about, save_minutes, save_steps) as run:
        progress = train(run, _training(images, labels, split, config, model, runtime), resume)
        checkpoints.restore(model, progress.best_state["classifier"], run.last)
        logits = embed(model, images[split.test], config.image_size, runtime)
        accuracy = float((logits.argmax(1) == labels[split.test]).mean())
        file = _finish(
            run, Path(out), progress, accuracy, "progressive_unfr" if pretrained else "from_scratch"
        )
    history = pd.DataFrame(progress.history)
    return Finetuned(model.eval(), history, progress.best["val_accuracy"], accuracy, logits, file)


def _build(config: FinetuneConfig, classes: int, pretrained: str | Path | None) -> Classifier:
    encoder = starting_encoder(config, pretrained)
    torch.manual_seed(seed_of(config.seed, 1))  # the same head for every arm of one seed
    return Classifier(encoder, classes, config.dropout)


def _training(
    images, labels, split: Split, config: FinetuneConfig, model: Classifier, runtime: Runtime
) -> Training:
    # one group a stage from the first step: stages that open later find their Adam state where it
    # belongs
    groups = [{"params": list(stage.parameters())} for stage in model.stages]
    optimizer = torch.optim.Adam(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    rows, val = torch.as_tensor(split.train), images[split.val]
    targets = torch.as_tensor(labels, device=runtime.device)
    data, steps = to_device_if_it_fits(images, runtime.device), len(rows) // config.batch_size

    def pairs(epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        set_open(model, open_stages(epoch - 1, config.phases, len(model.stages)))
        order = rows[torch.randperm(len(rows), generator=generator(config.seed, epoch - 1))]
        rows_S_n = order[: steps * config.batch_size].view(steps, config.batch_size)[first:]
        return zip(
            batches(data, rows_S_n, runtime.device),
            targets[rows_S_n.to(runtime.device)],
            strict=True,
        )

    def loss(epoch: int, step: int, pair: tuple[Tensor, Tensor]) -> Tensor:
        torch.manual_seed(
            seed_of(config.seed, epoch - 1, step, 1)
        )  # dropout: a function of the step
        batch = prepare(pair[0].permute(0, 2, 3, 1), config.image_size, runtime.device)
        batch = random_dihedral(batch, generator(config.seed, epoch - 1, step))
        with runtime.autocast():
            logits = model(batch)
        return F.cross_entropy(logits, pair[1])

    def judge(epoch: int, row: Row) -> Row:
        right = embed(model, val, config.image_size, runtime).argmax(1) == labels[split.val]
        open_ = len(open_stages(epoch - 1, config.phases, len(model.stages)))
        return {"open": open_, "val_accuracy": float(right.mean())}

    return Training(
        {"classifier": model},
        optimizer,
        config.epochs,
        steps,
        config.batch_size,
        config.lr,
        pairs,
        loss,
        judge,
        badness=lambda row: -row["val_accuracy"],
        advice=f"Try a lower learning rate than {config.lr:g}.",
    )


def _finish(run: Run, out: Path, progress: Progress, test_accuracy: float, arm: str) -> Path:
    if run.checkpoint and Path(run.checkpoint).is_file():
        print(f"{run.folder}: this run is finished already; resume=False would train it again")
        return Path(run.checkpoint)
    accuracy = progress.best["val_accuracy"]
    about = {
        **run.about,
        "epoch": progress.best["epoch"],
        "history": progress.history,
        "metrics": {"val_accuracy": accuracy, "test_accuracy": test_accuracy},
    }
    name = checkpoints.supervised_name(accuracy, datetime.now(), arm)
    run.finish(checkpoints.save(out / name, progress.best_state, about))
    return out / name
