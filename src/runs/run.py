"""A run is a folder, and nothing in it is lost when the machine is: the same call goes on where it
stopped.

    run.json                    what was asked for, on which data, by which code and hardware, and
    how far it is history.csv                 one row an epoch
    last.pth, previous.pth      the two newest states; whatever happens while one is written, the
    other is whole

Command line: `python -m src.runs [FOLDER]` lists the runs below a folder.
"""

import fcntl
import json
import shutil
import signal
import threading
import time
import warnings
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

import pandas as pd

from src import checkpoints
from src.errors import CheckpointError
from src.runs.distributed import World, all_reduce_any

RESUME = ("auto", "force", False)
ALONE = World()
# several processes ask one another every so many steps whether to stop: asking waits for the device
AGREE_STEPS = 10


class Stopped(KeyboardInterrupt):
    """Ctrl-C, the notebook's stop button or a scheduler's SIGTERM ended a run, which was saved
    first.
    """


class Run:
    """The folder of one run while it is trained: its lock, its saves, and the signals that ask it
    to stop.

    Args:
        folder: made if it is not there.
        about: kind, config, data … of plain values; all of it but "versions" must be the same for a
            resumed run.
        save_minutes: at most so much work is lost when the machine dies.
        save_steps: save every so many steps besides.
        world: the processes that train it together; the first alone writes, all stop at the same
            step.
    """

    def __init__(
        self,
        folder: Path,
        about: dict[str, Any],
        save_minutes: float = 5.0,
        save_steps: int | None = None,
        world: World = ALONE,
    ) -> None:
        self.folder, self.about = (
            folder,
            json.loads(json.dumps(about)),
        )  # as a file gives it back: tuples become lists
        self.save_minutes, self.save_steps = save_minutes, save_steps
        self.last, self.previous = folder / "last.pth", folder / "previous.pth"
        self.checkpoint: str | None = None  # of the finished run
        self.world, self.stopping, self._begun, self._calls = world, False, False, 0
        self.asked: int | None = None  # the signal that asked this process to stop
        self._damaged = False  # whether the newest state could not be read

    def __enter__(self) -> "Run":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.folder / "lock", "a")
        try:
            if self.world.first:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise CheckpointError(
                f"{self.folder}: another process is training this run; wait for it, or give yours a"
                " folder of its own"
            ) from error
        if self.world.first:
            for partial in self.folder.glob(".*.partial-*"):  # a save that was killed
                partial.unlink()
        self._handlers = {}
        if threading.current_thread() is threading.main_thread():  # others get no signals
            self._handlers = {
                s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)
            }
        self._saved, self._steps = time.monotonic(), 0
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = number
        signal.signal(number, self._handlers[number])  # a second one is not waited for

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        try:
            if (
                kind is not None and self._begun
            ):  # one that was refused has nothing to say about the run in this folder
                told = next(iter(str(error).splitlines()), kind.__name__)
                self._note("stopped" if issubclass(kind, KeyboardInterrupt) else f"failed: {told}")
        finally:
            self._lock.close()

    def resume(self, mode: str | bool = "auto") -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The newest state saved and what is known about it, or None to start anew.

        Args:
            mode: "auto" (or True) goes on with a run of the same config and data; "force" with one
                of another too; False starts anew.

        Raises:
            CheckpointError: the unfinished run in this folder is another one (the differences are
                told), or neither of its states can be read.
        """
        if mode is not True and mode not in RESUME:
            raise ValueError(f"resume must be 'auto', 'force' or False, not {mode!r}")
        found = self._newest() if mode else None
        status = self._read_json()
        if found is not None and not self._same(found[1], mode == "force"):
            if status.get("status") != "finished":
                raise CheckpointError(
                    f"{self.folder} holds an unfinished run of another config or other data (was,"
                    f" now): {self._differences(found[1])}. Use its values, delete the folder, or"
                    " resume='force' to go on with the new ones; resume=False starts anew."
                )
            # its checkpoint has a name of its own: nothing is lost by using the folder again
            found = None
        if found is not None:
            self._tell_versions(found[1]["versions"])
        all_reduce_any(False, self.world)  # all have read, so the first may write
        if found is None and self.world.first:  # states first: none may outlive what it is told by
            for name in ("last.pth", "last.json", "previous.pth", "history.csv", "run.json"):
                (self.folder / name).unlink(missing_ok=True)
        if found is None or status.get("status") != "finished":
            self._note("running")
        else:
            self.checkpoint = status["checkpoint"]
        self._begun = True
        return found

    def _newest(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        damaged = None
        for file in filter(Path.exists, (self.last, self.previous)):
            try:
                return checkpoints.load(file)
            except CheckpointError as error:
                warnings.warn(f"{error}. Trying the state saved before it.", stacklevel=4)
                damaged, self._damaged = error, self._damaged or file == self.last
        if damaged:
            raise CheckpointError(
                f"no state in {self.folder} can be read: delete it to start anew"
            ) from damaged
        return None

    def _differences(self, saved: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        was, now = (
            pd.json_normalize({k: a.get(k) for k in self.about if k != "versions"}, max_level=2)
            .iloc[0]
            .to_dict()
            for a in (saved, self.about)
        )
        return {
            key: (was.get(key), now.get(key)) for key in now | was if was.get(key) != now.get(key)
        }

    def _same(self, saved: dict[str, Any], forced: bool) -> bool:
        differs = self._differences(saved)
        if differs and forced:
            warnings.warn(
                f"{self.folder} goes on, as forced, with (was, now): {differs}", stacklevel=3
            )
            self.about["forced"] = [*saved.get("forced", []), str(differs)]
        return not differs or forced

    def _tell_versions(self, was: dict[str, str]) -> None:
        now = self.about["versions"]
        differs = {
            key: (was.get(key), now[key])
            for key in now
            if key != "date" and was.get(key) != now[key]
        }
        if differs:
            warnings.warn(
                f"{self.folder} goes on in another environment (was, now): {differs}. The numbers"
                " may differ from those of an uninterrupted run.",
                stacklevel=3,
            )

    def due(self) -> bool:
        """Called once a step: whether it is time to save."""
        self._steps, self._calls = self._steps + 1, self._calls + 1
        if self.world.size == 1 or self._calls % AGREE_STEPS == 0:
            self.stopping = all_reduce_any(self.asked is not None, self.world)
        late = time.monotonic() - self._saved > 60 * self.save_minutes
        due = late or self.stopping or bool(self.save_steps and self._steps >= self.save_steps)
        if (
            due and not self.world.first
        ):  # which `save` does not see: without this it would be due at every step
            self._saved, self._steps = time.monotonic(), 0
        return due

    def save(
        self, state: dict[str, Any], history: list[dict[str, Any]], progress: dict[str, Any]
    ) -> None:
        """Write the state as `last.pth`; the one before becomes `previous.pth`.

        Raises:
            CheckpointError: it could not be written; the state before it is kept.
        """
        self._saved, self._steps = time.monotonic(), 0
        try:
            if self.last.exists() and not self._damaged:  # which must not replace the good one
                self.last.replace(self.previous)
            checkpoints.save(self.last, state, {**self.about, **progress, "history": history})
            self._damaged = False
        except (OSError, RuntimeError) as error:  # a full disk is a RuntimeError of torch's
            raise CheckpointError(
                f"{self.last} could not be written ({str(error).splitlines()[0]}). Make room or"
                f" change its permissions, then run again: it goes on from {self.previous}."
            ) from error

    def require_space(self, weights: int) -> None:
        """Refuse to start where the states of a run, whose weights are so many bytes, will not fit.

        Raises:
            CheckpointError: too little room on that disk.
        """
        # a state is the weights, Adam's two moments and the best weights; two are kept while a
        # third is written
        needed = 12 * weights - sum(
            file.stat().st_size for file in (self.last, self.previous) if file.exists()
        )
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise CheckpointError(
                f"{self.folder}: the run's checkpoints need {needed / 1e9:.2f} GB, free are"
                f" {free / 1e9:.2f} GB. Make room there, or keep the runs on another disk."
            )

    def note(self, history: list[dict[str, Any]]) -> None:
        """Write down where the run is, for people."""
        if not self.world.first:
            return
        table = pd.DataFrame(history)
        with checkpoints.replacing(self.folder / "history.csv") as partial:
            table.to_csv(partial, index=False)
        self._note("running", epoch=history[-1]["epoch"], metrics=history[-1])

    def stop_if_asked(self) -> None:
        """Raise Stopped if a signal came to any of the processes; call it when the state is
        saved.
        """
        if self.stopping:
            all_reduce_any(
                False, self.world
            )  # the launcher ends all when one ends: not before the first has saved
            name = signal.Signals(self.asked or signal.SIGTERM).name
            raise Stopped(f"stopped by {name}; saved in {self.last}. Run the same again to go on.")

    def finish(self, checkpoint: Path) -> None:
        """The run is done, and this is what came out; called by the first process."""
        self.checkpoint = str(checkpoint)
        self.previous.unlink(missing_ok=True)
        self._note("finished", checkpoint=self.checkpoint)

    def finished_checkpoint(self) -> str:
        """What the first process gave to `finish`."""
        return self._read_json()["checkpoint"]

    def _read_json(self) -> dict[str, Any]:
        file = self.folder / "run.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def _note(self, status: str, **more: Any) -> None:
        if not self.world.first:
            return
        known = {
            key: value
            for key, value in self._read_json().items()
            if key in ("epoch", "metrics", "checkpoint")
        }
        now = datetime.now().isoformat(timespec="seconds")
        with checkpoints.replacing(self.folder / "run.json") as partial:
            text = json.dumps(
                {**known, **self.about, "status": status, "updated": now, **more}, indent=1
            )
            partial.write_text(text + "\n")
