"""The loop that pretraining and fine-tuning share: steps, epochs, the best of them, and going on
after a stop.

Everything a step does is a function of (seed, epoch, step), so a run that goes on in the middle of
an epoch ends with the same weights, bit for bit, as one that was never stopped.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from src import checkpoints
from src.runs.run import Run

Row = dict[str, Any]  # of the history: one epoch


@dataclass
class Progress:
    """Where a run is."""

    history: list[Row]
    best: Row | None = None  # the row of the best epoch
    best_state: dict[str, dict[str, Tensor]] = field(
        default_factory=dict
    )  # and its weights, by part
    epoch: int = 1  # under way
    step: int = 0  # of that epoch, done
    losses: list[Tensor] = field(default_factory=list)  # of those steps
    seconds: float = 0.0  # that they took
    waited: float = 0.0  # of that, for data


@dataclass(frozen=True)
class Training:
    """What a kind of training must say of itself for `train`."""

    parts: dict[str, nn.Module]  # what a state consists of
    optimizer: torch.optim.Optimizer
    epochs: int
    steps: int  # in an epoch
    images: int  # in a step
    lr: float  # at the first step; falls to 0 along a cosine
    batches: Callable[
        [int, int], Iterable[Any]
    ]  # (epoch, first step) → what `loss` takes, step by step
    loss: Callable[[int, int, Any], Tensor]  # (epoch, step, batch) → scalar
    judge: Callable[[int, Row], Row]  # (epoch, row) → more columns
    badness: Callable[[Row], float]  # the best epoch has the least
    advice: str  # when the loss is not finite
    rate: tuple[str, int] = (
        "images/s",
        1,
    )  # for the epoch's line: unit, and how many an image makes


def cosine(step: int, steps: int, lr: float) -> float:
    """Learning rate at a step (0 ≤ step < steps): lr at the first, towards 0 at the last."""
    return lr * 0.5 * (1 + math.cos(math.pi * step / steps))


def train(
    run: Run, training: Training, resume: str | bool, first: Callable[[], Row] | None = None
) -> Progress:
    """Train to the end, from the start or from what `run` has saved.

    Args:
        first: makes the history's row 0, before any training.

    Raises:
        Stopped: a signal came; the state is saved.
        FloatingPointError: the loss is not finite; states saved before stay.
        CheckpointError: see `Run.resume` and `Run.save`.
    """
    saved = run.resume(resume)
    if run.checkpoint is None:  # a finished run is only read
        run.require_space(
            sum(p.nbytes for part in training.parts.values() for p in part.parameters())
        )
    progress = _restore(run, training, *saved) if saved else Progress([first()] if first else [])
    done = (progress.epoch - 1) * training.steps + progress.step
    with tqdm(
        total=training.epochs * training.steps,
        initial=done,
        unit="step",
        mininterval=1,
        disable=not run.world.first,
    ) as bar:
        while progress.epoch <= training.epochs:
            row = _epoch(run, training, progress, bar)
            row |= training.judge(progress.epoch, row)
            progress.history.append(row)
            if progress.best is None or training.badness(row) < training.badness(progress.best):
                progress.best = row
                progress.best_state = {
                    name: checkpoints.clean_state(part) for name, part in training.parts.items()
                }
            progress.epoch, progress.step, progress.losses = progress.epoch + 1, 0, []
            progress.seconds = progress.waited = 0.0
            run.note(progress.history)
            if run.due():
                _save(run, training, progress)
                run.stop_if_asked()
    if not saved or done < training.epochs * training.steps:
        _save(run, training, progress)
    return progress


def _epoch(run: Run, training: Training, progress: Progress, bar: tqdm) -> Row:
    epoch, first = progress.epoch, progress.step
    ready = time.perf_counter()
    for step, batch in enumerate(training.batches(epoch, first), first):
        started = time.perf_counter()
        progress.waited += started - ready
        for group in training.optimizer.param_groups:
            group["lr"] = _rate(training, epoch, step)
        loss = training.loss(epoch, step, batch)
        training.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        training.optimizer.step()
        progress.losses.append(loss.detach())
        bar.update()
        progress.step = step + 1
        progress.seconds += time.perf_counter() - ready
        if run.due():
            _mean_loss(training, progress)  # never save what a broken step has spoilt
            _save(run, training, progress)
            run.stop_if_asked()
        ready = time.perf_counter()
    mean = _mean_loss(training, progress)  # the epoch's only wait for the device, but for saves
    lr = _rate(training, epoch, training.steps - 1)
    seconds = progress.seconds + time.perf_counter() - ready
    images = training.steps * training.images / seconds
    share = progress.waited / seconds
    unit, each = training.rate
    bar.set_description(f"epoch {epoch}/{training.epochs}")
    bar.set_postfix_str(
        f"loss {mean:.3f}, {each * images:,.0f} {unit}, {share:.0%} of the time waiting for data"
    )
    return {
        "epoch": epoch,
        "loss": mean,
        "lr": lr,
        "images_per_s": images,
        "data_share": share,
        "seconds": seconds,
    }


def _rate(training: Training, epoch: int, step: int) -> float:
    return cosine(
        (epoch - 1) * training.steps + step, training.epochs * training.steps, training.lr
    )


def _mean_loss(training: Training, progress: Progress) -> float:
    mean = torch.stack(progress.losses).mean().item()
    if not math.isfinite(mean):
        raise FloatingPointError(
            f"the loss of epoch {progress.epoch} is {mean}: training stopped, what was saved before"
            f" is untouched. {training.advice}"
        )
    return mean


def _save(run: Run, training: Training, progress: Progress) -> None:
    if not run.world.first:
        return
    state = {name: checkpoints.clean_state(part) for name, part in training.parts.items()}
    state["best"] = progress.best_state
    if progress.epoch <= training.epochs:  # a finished run is only read again
        state["optimizer"] = training.optimizer.state_dict()
    state["losses"] = [loss.cpu() for loss in progress.losses]
    about = {key: getattr(progress, key) for key in ("epoch", "step", "seconds", "waited", "best")}
    run.save(state, progress.history, about)


def _restore(
    run: Run, training: Training, state: dict[str, Any], about: dict[str, Any]
) -> Progress:
    for name, part in training.parts.items():
        checkpoints.restore(part, state[name], run.last)
    if "optimizer" in state:
        training.optimizer.load_state_dict(state["optimizer"])
    device = next(next(iter(training.parts.values())).parameters()).device
    return Progress(
        about["history"],
        about["best"],
        state["best"],
        about["epoch"],
        about["step"],
        [loss.to(device) for loss in state["losses"]],
        about["seconds"],
        about["waited"],
    )
