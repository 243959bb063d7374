"""The two long steps of a run, pretraining and fine-tuning, each done once for all runs that share
it.

A step's folder is named by a hash of everything that decides it, so runs that agree find the same.
"""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from audit.changes import change
from audit.data import Study, draw
from audit.plan import PUBLISHED_HEAD, Recipe, phases
from audit.sources import pretraining_patches
from audit.stages import SOURCE_COUNT
from src import checkpoints
from src.data.splits import Split
from src.errors import DataError
from src.finetune import FinetuneConfig, finetune
from src.ood import hold_out
from src.pretrain import Hooks, PretrainConfig, pretrain
from src.runs import RunSettings

# Settings of pretraining that are younger than the first folders: off, they change no name.
YOUNGER = ("scale_lr", "warmup_epochs", "weight_decay", "plain_head", "statistics")
PUBLISHED_WIDTHS = (256, 128)  # of the published projection head
CORRECT = "correct.npy"  # beside a classifier: which test images it gets right, eight in a byte


class Busy(Exception):
    """Another process is making what this run needs: do another one first."""


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder, which is made. Raises Busy where one is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / "lock").acquire(timeout=0)
    except Timeout as error:
        raise Busy(str(folder)) from error
    with lock:
        yield


class Pretraining(NamedTuple):
    """What decides a pretraining."""

    config: PretrainConfig
    rows: np.ndarray  # (n,) of the store
    folder: Path


class Finetuning(NamedTuple):
    """What decides a fine-tuning."""

    config: FinetuneConfig
    split: Split
    folder: Path


def pretraining(study: Study, recipe: Recipe, seed: int) -> Pretraining:
    """The pretraining of a run, whose recipe has one."""
    start, rows = recipe.start, draw(study, seed, recipe.split).train
    words = start.arm.split()
    published = start.arm.endswith(PUBLISHED_HEAD)
    config = PretrainConfig(
        study.encoder,
        start.epochs,
        min(study.size.batch_size, len(rows)),
        start.lr,
        warmup_epochs=start.warmup_epochs,
        projection=PUBLISHED_WIDTHS if published else PretrainConfig.projection,
        plain_head=published,
        image_size=study.size.image_size,
        temperature=float(words[1]) if words[0] in ("cosine", "dot") else 0.5,
        seed=seed,
    )
    source = (start.source,) if start.source else ()
    name = _name("pretrain", config, start.arm, rows.tobytes(), *source)
    return Pretraining(config, rows, study.work / name)


def pretraining_images(study: Study, recipe: Recipe, seed: int) -> tuple[np.ndarray, Hooks]:
    """What a pretraining is trained on, (N, H, W, 3) uint8, and by which hooks it differs."""
    rows, start = draw(study, seed, recipe.split).train, recipe.start
    images = study.store.images[rows]
    if start.source is None:
        return change(images, study.places[rows], start.arm, seed)
    patches = pretraining_patches(study.profile.data, start.source, images, seed)
    if len(patches) < SOURCE_COUNT:
        raise DataError(
            f"{start.source} has {len(patches):,} patches: sources are compared at {SOURCE_COUNT:,}"
        )
    return patches[:SOURCE_COUNT], Hooks()


def pretrained(study: Study, recipe: Recipe, seed: int) -> Path:
    """The checkpoint of a run's pretraining, made on first use.

    Raises:
        FloatingPointError: the loss is not finite.
        Busy: another process is making it.
    """
    config, rows, folder = pretraining(study, recipe, seed)
    checkpoint = folder / checkpoints.contrastive_alias(config.epochs)
    with exclusive(folder):
        if (folder / "done").exists():
            return checkpoint
        images, hooks = pretraining_images(study, recipe, seed)
        subset = f"{len(rows)} images of the {recipe.split} training split, labels unused"
        if recipe.start.source:
            subset = f"{len(images)} patches of {recipe.start.source}"
        provenance = {**study.store.provenance, "subset": subset, "audit": recipe.start.arm}
        settings = RunSettings(runtime=study.runtime, provenance=provenance)
        pretrain(images, config, folder, settings=settings, hooks=hooks)
        (folder / "done").touch()
        shutil.rmtree(folder / "runs")
        for file in folder.glob("*BS_Loss*"):  # the same under its long name
            file.unlink()
    return checkpoint


def finetuning(study: Study, recipe: Recipe, seed: int) -> Finetuning:
    """The fine-tuning of a run, whose recipe has one; with few labels more epochs, so that the
    steps are about as many.
    """
    size, split = study.size, draw(study, seed, recipe.split, recipe.labels, recipe.draw)
    n_all, n_train = len(draw(study, seed, recipe.split).train), len(split.train)
    epochs = min(max(size.max_epochs, size.epochs), round(size.epochs * n_all / n_train))
    config = FinetuneConfig(
        study.encoder,
        phases(recipe.finetune, recipe.epochs or epochs),
        min(size.batch_size, n_train // 2),
        recipe.rate,
        image_size=size.image_size,
        seed=seed,
    )
    start = pretraining(study, recipe, seed).folder.name if recipe.start else None
    held_out = (recipe.held_out,) if recipe.held_out else ()
    rows = split.train.tobytes(), split.test.tobytes()
    name = _name("tune", config, start, *rows, *held_out)
    return Finetuning(config, split, study.work / name)


def finetuned(study: Study, recipe: Recipe, seed: int) -> Path:
    """The JSON beside the checkpoint of a run's classifier, made on first use.

    The weights stay where they are small, or still needed for out-of-distribution scores.

    Raises:
        FloatingPointError: the loss is not finite.
        Busy: another process is making it.
    """
    config, split, folder = finetuning(study, recipe, seed)
    with exclusive(folder):
        file = next(folder.glob("*.json"), None)
        missing = file is None or (recipe.ood and not file.with_suffix(".pth").exists())
        # of a run whose classifier was written when a kill came, the rest is still to be kept
        if missing or (folder / "runs").exists():
            start = pretrained(study, recipe, seed) if recipe.start else None
            settings = RunSettings(runtime=study.runtime, provenance=study.store.provenance)
            images, labels, split, classes = labelled(study, split, recipe.held_out)
            data = (images, labels, split, classes)
            done = finetune(*data, config, folder, pretrained=start, settings=settings)
            correct = done.test_logits.argmax(1) == labels[split.test]
            np.save(folder / CORRECT, np.packbits(correct))
            shutil.rmtree(folder / "runs")
            file = done.checkpoint.with_suffix(".json")
        if study.encoder != "custom_cnn" and not (recipe.ood or recipe.keep):
            file.with_suffix(".pth").unlink(missing_ok=True)
    return file


def labelled(
    study: Study, split: Split, held_out: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray, Split, list[str]]:
    """Images, labels, split and classes to fine-tune on, without the classes that are held out."""
    images, labels, classes = study.store.images, study.store.labels, study.store.meta["classes"]
    if not held_out:
        return images, labels, split, classes
    kept = hold_out(labels, split, classes, held_out)
    return images[kept.rows], kept.labels, kept.split, kept.classes


def _name(kind: str, config: PretrainConfig | FinetuneConfig, *more: Any) -> str:
    decided = ", ".join([_as_text(config), *map(repr, more)])
    digest = hashlib.sha256(f"({decided})".encode()).hexdigest()
    return f"{kind}_s{config.seed}_{digest[:12]}"


def _as_text(config: PretrainConfig | FinetuneConfig) -> str:
    """Its repr, but for the younger settings that are off."""
    younger = YOUNGER if isinstance(config, PretrainConfig) else ("tones", "statistics")
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    shown = [f"{key}={value!r}" for key, value in values.items() if value or key not in younger]
    return f"{type(config).__name__}({', '.join(shown)})"
