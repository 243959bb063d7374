"""Steps and epochs of a run: `pretrain` and `finetune` write their loop, this resumes and saves it.

    loop = Loop(run, {"encoder": encoder}, optimizer, schedule, monitor="val_accuracy", mode="max")
    for epoch in loop.epochs(resume):
        for step, batch in loop.steps(batches(…)):
            loop.update(loss_of(batch))
        loop.end_epoch(val_accuracy=…)
    checkpoint = loop.publish(path, metrics)

Everything a step does must be a function of (seed, epoch, step): then a run that goes on in the
middle of an epoch ends with the same weights, bit for bit, as one that was never stopped.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from src import checkpoints
from src.runs.distributed import all_reduce_any
from src.runs.run import Run
from src.runs.watching import Watch

Row = dict[str, Any]  # of the history: one epoch


@dataclass(frozen=True)
class Schedule:
    """How long a run is, and its learning rate: a pure function of the step."""

    epochs: int
    steps_per_epoch: int
    batch_size: int  # images a step
    lr: float  # the highest
    warmup_steps: int = 0  # in which the rate rises to that, in a straight line

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.epochs * self.steps_per_epoch

    def lr_at(self, epoch: int, step: int) -> float:
        """Learning rate of a step (from 0) of an epoch (from 1): warm-up, then a cosine to 0."""
        done, warmup = (epoch - 1) * self.steps_per_epoch + step, self.warmup_steps
        if done < warmup:
            return self.lr * (done + 1) / warmup
        return self.lr * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (self.steps - warmup)))


@dataclass
class Progress:
    """Where a run is."""

    history: list[Row]
    best: Row | None = None  # the row of the best epoch
    best_state: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # its weights, by part
    epoch: int = 1  # under way
    step: int = 0  # of that epoch, done
    losses: list[Tensor] = field(default_factory=list)  # of those steps
    seconds: float = 0.0  # that they took
    waited: float = 0.0  # of that, for data


@dataclass
class Loop:
    """The steps of one run, from its start or from what `run` has saved."""

    run: Run
    parts: dict[str, nn.Module]  # what a state consists of
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    monitor: str  # column of the history by which the best epoch is chosen
    mode: Literal["min", "max"] = "min"  # whether the best has the least of it or the most
    views: int = 1  # of an image in a step; two or more are counted in place of images
    progress: Progress = field(init=False)

    def epochs(self, resume: str | bool, first: Callable[[], Row] | None = None) -> Iterator[int]:
        """Numbers of the epochs left, from 1; `first` makes the history's row 0, before training.

        Raises:
            CheckpointError: see `Run.resume` and `Run.save`.
        """
        saved = self.run.resume(resume)
        if self.run.checkpoint is None:  # a finished run is only read
            weights = (p for part in self.parts.values() for p in part.parameters())
            self.run.require_space(sum(p.nbytes for p in weights))
        self.progress = self._restored(*saved) if saved else Progress([first()] if first else [])
        total = self.schedule.steps
        done = (self.progress.epoch - 1) * self.schedule.steps_per_epoch + self.progress.step
        run = self.run
        watch = Watch(run.folder, run.metadata, run.settings, total, done, run.world.first)
        with watch as self.watch:
            while self.progress.epoch <= self.schedule.epochs:
                yield self.progress.epoch
        if not saved or done < total:
            self._save()

    @property
    def step(self) -> int:
        """The first step of this epoch that is still to do."""
        return self.progress.step

    def steps(
        self, batches: Iterable[Any], prepare: Callable[[Iterator[Any]], Iterable[Any]] = iter
    ) -> Iterator[tuple[int, Any]]:
        """The steps left in this epoch, each with what is prepared of its batch.

        prepare: batches → what the step works on; not counted as waiting for data.
        """
        self._ready = time.perf_counter()
        yield from enumerate(prepare(self._arriving(batches)), self.step)
        self._row = self._measured()  # before anything is validated, which is no training time

    def update(self, loss: Tensor) -> None:
        """Backward, a step of the optimizer at this step's learning rate, and a save if one is due.

        Raises:
            Stopped: a signal came; the state is saved.
            FloatingPointError: the loss is not finite; states saved before stay.
        """
        progress = self.progress
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.lr_at(progress.epoch, progress.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        progress.losses.append(loss.detach())
        progress.step += 1
        self.watch.step()
        progress.seconds += time.perf_counter() - self._ready
        if self.run.due():
            self._mean_loss()  # never save what a broken step has spoilt
            self._save()
            self.run.stop_if_asked()
        self._ready = time.perf_counter()

    def end_epoch(self, **validated: Any) -> None:
        """Add the epoch's row to the history, keep the best weights, save if that is due.

        Raises:
            FloatingPointError: a weight is not finite; states saved before stay.
        """
        self._check_weights()
        progress, row = self.progress, self._row | validated
        progress.history.append(row)
        if progress.best is None or self._better(row, progress.best):
            progress.best, progress.best_state = row, self._weights()
        progress.epoch, progress.step, progress.losses = progress.epoch + 1, 0, []
        progress.seconds = progress.waited = 0.0
        self.run.note(progress.history)
        unit = "images" if self.views == 1 else "views"
        self.watch.epoch(self.schedule.epochs, progress.history, unit)
        if self.run.due():
            self._save()
            self.run.stop_if_asked()

    def publish(self, path: Path, metrics: Row, alias: Path | None = None) -> Path:
        """Write the best epoch's weights as a checkpoint; of a finished run give what it left.

        Args:
            path: the checkpoint's full name.
            metrics: of the best epoch, kept in it.
            alias: a short name, which the run of as many epochs that was asked for last has.
        """
        run, progress = self.run, self.progress
        finished = run.checkpoint and Path(run.checkpoint).is_file()
        if finished:
            print(f"{run.folder}: this run is finished already; resume=False would train it again")
        if run.world.first:
            if not finished:
                best = {"epoch": progress.best["epoch"], "metrics": metrics}
                metadata = run.metadata | best | {"history": progress.history}
                run.finish(checkpoints.save(path, progress.best_state, metadata))
            if alias:
                checkpoints.copy(Path(run.checkpoint), alias)
        all_reduce_any(False, run.world)  # the first has written it
        return Path(run.finished_checkpoint())

    def _arriving(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches; how long each is waited for is noted."""
        batches, nothing = iter(batches), object()
        while True:
            asked = time.perf_counter()
            batch = next(batches, nothing)
            self.progress.waited += time.perf_counter() - asked
            if batch is nothing:
                return
            yield batch

    def _better(self, row: Row, best: Row) -> bool:
        value, least = row[self.monitor], best[self.monitor]
        return value < least if self.mode == "min" else value > least

    def _measured(self) -> Row:
        mean = self._mean_loss()  # the epoch's only wait for the device, but for saves
        epoch, last_step = self.progress.epoch, self.schedule.steps_per_epoch - 1
        seconds = self.progress.seconds + time.perf_counter() - self._ready
        images = self.schedule.steps_per_epoch * self.schedule.batch_size
        return {
            "epoch": epoch,
            "loss": mean,
            "lr": self.schedule.lr_at(epoch, last_step),
            "images_per_s": images / seconds,
            "data_share": self.progress.waited / seconds,
            "seconds": seconds,
        }

    def _mean_loss(self) -> float:
        mean = torch.stack(self.progress.losses).mean().item()
        if not math.isfinite(mean):
            raise FloatingPointError(
                f"the loss of epoch {self.progress.epoch} is {mean}: training stopped, what was "
                f"saved before is untouched. Try a lower learning rate than "
                f"{self.schedule.lr:g}."
            )
        return mean

    def _check_weights(self) -> None:
        """A loss may be finite where a weight is not: one that no image happens to meet."""
        named = [pair for part in self.parts.values() for pair in part.named_parameters()]
        broken = [(~torch.isfinite(parameter)).any() for _, parameter in named]
        if torch.stack(broken).any().item():  # one wait for the device, an epoch
            name = next(name for (name, _), bad in zip(named, broken, strict=True) if bad)
            raise FloatingPointError(
                f"{name} is NaN or infinite after epoch {self.progress.epoch}: training stopped, "
                "what was saved before is untouched. Try precision='float32', larger images or a "
                "lower learning rate."
            )

    def _weights(self) -> dict[str, dict[str, Tensor]]:
        return {name: checkpoints.clean_state(part) for name, part in self.parts.items()}

    def _save(self) -> None:
        if not self.run.world.first:
            return
        progress = self.progress
        if progress.step:  # people see an epoch that takes hours before it ends
            unfinished = {"epoch": progress.epoch, "loss": self._mean_loss()}
            self.run.note(progress.history, unfinished)
        state: dict[str, Any] = {**self._weights(), "best": progress.best_state}
        if progress.epoch <= self.schedule.epochs:  # a finished run is only read again
            state["optimizer"] = self.optimizer.state_dict()
        state["losses"] = [loss.cpu() for loss in progress.losses]
        known = {
            key: getattr(progress, key) for key in ("epoch", "step", "seconds", "waited", "best")
        }
        self.run.save(state, progress.history, known)

    def _restored(self, state: dict[str, Any], metadata: dict[str, Any]) -> Progress:
        for name, part in self.parts.items():
            checkpoints.restore(part, state[name], self.run.states.last)
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])
        device = next(next(iter(self.parts.values())).parameters()).device
        losses = [loss.to(device) for loss in state["losses"]]
        keys = ("history", "best", "epoch", "step", "seconds", "waited")
        known = {key: metadata[key] for key in keys}
        return Progress(best_state=state["best"], losses=losses, **known)
