"""What people see of a run while it trains: a line an epoch, its curves, and TensorBoard."""

import time
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from src.runs.settings import RunSettings

REDRAW_SECONDS = 10  # at least: to draw takes a third of a second
NAMES = {"knn": "kNN", "val_accuracy": "val accuracy"}  # of what a line gives in percent


def duration(seconds: float) -> str:
    """Such as "40 s", "12 min" or "1 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


class Watch:
    """Tells how a run is getting on; decides nothing of what it computes.

    Args:
        folder: of the run, for `curves.png` and TensorBoard's files.
        metadata: of the run: its kind and config.
        settings: whether there is TensorBoard, and who is shown the curves.
        steps, done: of the whole run, and done before.
        speak: whether this process is the one that tells.

    Raises:
        ValueError: TensorBoard is asked for and not installed.
    """

    def __init__(
        self,
        folder: Path,
        metadata: dict[str, Any],
        settings: RunSettings,
        steps: int,
        done: int,
        speak: bool,
    ) -> None:
        self.curves, self.metadata, self.show = folder / "curves.png", metadata, settings.show
        self.board = _board(folder) if settings.tensorboard and speak else None
        self.speak, self._steps, self._before, self._done = speak, steps, done, done
        self._begun = self._drawn = time.monotonic()
        # a bar is for a terminal: in a log, or a notebook that papermill runs, it is rubbish
        hidden = None if speak else True
        options = {"unit": "step", "mininterval": 1, "leave": False, "disable": hidden}
        self._bar = tqdm(total=steps, initial=done, **options)

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def step(self) -> None:
        """One more step is done."""
        self._done += 1
        self._bar.update()

    def epoch(self, epochs: int, history: list[dict[str, Any]], unit: str) -> None:
        """Print a line about the last epoch of a history, and draw all of it if that is due.

        Args:
            epochs: of the whole run.
            unit: what is counted a second: "images", or "views", of which each image makes two.
        """
        if not self.speak:
            return
        row, last = history[-1], history[-1]["epoch"] == epochs
        with self._bar.external_write_mode():
            print(self._line(row, epochs, unit), flush=True)
        if self.board:
            for key in (key for key, value in row.items() if value is not None):
                self.board.add_scalar(key, row[key], row["epoch"])
            self.board.flush()
        due = time.monotonic() - self._drawn > REDRAW_SECONDS
        if due or (last and self.curves.exists()):
            self._redraw(pd.DataFrame(history))

    def _line(self, row: dict[str, Any], epochs: int, unit: str) -> str:
        left, here = self._steps - self._done, self._done - self._before
        seconds_a_step = row["seconds"] * epochs / self._steps
        if here:  # with what lies between the steps; none if an epoch was done but for its end
            seconds_a_step = (time.monotonic() - self._begun) / here
        known = [f"{name} {row[key]:.1%}" for key, name in NAMES.items() if row.get(key)]
        rate = row["images_per_s"] * (2 if unit == "views" else 1)
        return ", ".join(
            [
                f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.3f}",
                *known,
                f"{rate:,.0f} {unit}/s",
                f"{row['data_share']:.0%} of the time waiting for data",
                f"{duration(left * seconds_a_step)} left" if left else "done",
            ]
        )

    def _redraw(self, history: pd.DataFrame) -> None:
        from src import figures  # and matplotlib: not before there is something to draw

        config = self.metadata["config"]
        if self.metadata["kind"] == "simclr":
            pairs = (config["batch_size"], config["temperature"])
            figure = figures.pretraining_curves(history, *pairs)
        else:
            arm = self.metadata["pretrained"] or "from scratch"
            figure = figures.finetuning_curves({arm: history})
        figures.save(figure, self.curves)
        if self.show:
            self.show(figure)
        self._drawn = time.monotonic()


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise ValueError(
            "files for TensorBoard need it: pip install tensorboard, or do not ask for them"
        ) from error
    return SummaryWriter(folder / "tensorboard")
