"""A run is a folder, and nothing in it is lost when the machine is: the same call goes on.

| file | what it holds |
|---|---|
| `run.json` | what was asked for, on which data, by which code and hardware, and how far it is |
| `history.csv` | one row an epoch |
| `last.pth`, `previous.pth` | the two newest states (`src.runs.states`) |
| `lock` | held by the process that trains |
"""

import json
import signal
import threading
import time
import warnings
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout

from src import checkpoints
from src.errors import CheckpointError
from src.runs.distributed import ALONE, World, all_reduce_any
from src.runs.fingerprints import fingerprint, sampled_fingerprint
from src.runs.settings import RESUME, RunSettings, check_settings
from src.runs.states import SavedStates, State
from src.runs.threads import use_threads

# several processes ask one another every so many steps whether to stop: asking waits for the device
STEPS_BETWEEN_VOTES = 10


class Stopped(KeyboardInterrupt):
    """A signal (Ctrl-C, a notebook's stop, a scheduler's SIGTERM) ended a run, saved first."""


class Run:
    """The folder of a run while it is trained: its lock, its saves, and the signals to stop.

    Args:
        folder: made if it is not there.
        metadata: kind, config, data … of plain values; all of it but "versions" must be the same
            for a resumed run.
        settings: how often to save.
        world: the processes that train it together; the first alone writes, all stop at one step.
        arrays: images, labels, split …: every byte of them is part of what the run is.
    """

    def __init__(
        self,
        folder: Path,
        metadata: dict[str, Any],
        settings: RunSettings | None = None,
        world: World = ALONE,
        arrays: tuple[np.ndarray, ...] = (),
    ) -> None:
        check_settings(settings or RunSettings())
        images = {"images": fingerprint(*arrays)} if arrays else {}
        self._sampled = sampled_fingerprint(*arrays)
        self.folder, self.settings, self.world = folder, settings or RunSettings(), world
        # as a file has it: tuples become lists
        self.metadata = json.loads(json.dumps(metadata | images))
        self.states = SavedStates(folder)
        self.checkpoint: str | None = None  # of the finished run
        self.stopping, self._begun, self._calls = False, False, 0
        self.signal: int | None = None  # that asked this process to stop

    def __enter__(self) -> "Run":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.folder / "lock", timeout=0)
        if self.world.first:
            try:
                self._lock.acquire()
            except Timeout as error:
                raise CheckpointError(
                    f"{self.folder}: another process is training this run; wait for it, or give "
                    "yours a folder of its own"
                ) from error
            self.states.remove_partial()
        self._handlers = {}
        if threading.current_thread() is threading.main_thread():  # others get no signals
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._on_signal)
        self._reset_clock()
        return self

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, self._handlers[number])  # a second one is not waited for

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        try:
            # one that was refused has nothing to say about the run in this folder
            if kind is not None and self._begun:
                reason = next(iter(str(error).splitlines()), kind.__name__)
                stopped = issubclass(kind, KeyboardInterrupt)
                self._note("stopped" if stopped else f"failed: {reason}")
        finally:
            self._lock.release()

    # --- going on ---

    def resume(self, mode: str | bool = "auto") -> State | None:
        """The newest state saved and what is known about it, or None to start anew.

        Args:
            mode: "auto" (or True) goes on with a run of the same config and data; "force" with one
                of another too; False starts anew.

        Raises:
            CheckpointError: the unfinished run in this folder is another one (the message has the
                differences), or neither of its states can be read.
        """
        if mode is not True and mode not in RESUME:
            raise ValueError(f"resume must be 'auto', 'force' or False, not {mode!r}")
        saved, status = self.states.newest() if mode else None, self._read_json()
        finished = status.get("status") == "finished"
        if saved is not None and not self._is_same_run(saved[1], mode == "force"):
            if not finished:
                raise CheckpointError(
                    f"{self.folder} holds an unfinished run of another config or other data (was, "
                    f"now): {self._differences(saved[1])}. Use its values, delete the folder, or "
                    "resume='force' to go on with the new ones; resume=False starts anew."
                )
            saved = None  # its checkpoint has a name of its own: nothing is lost
        if saved is not None:
            self._take_environment(saved[1]["versions"])
        all_reduce_any(False, self.world)  # all have read, so the first may write
        if saved is None:
            self._clear()
        if saved is not None and finished and isinstance(status.get("checkpoint"), str):
            self.checkpoint = status["checkpoint"]
        else:
            self._note("running")
        self._begun = True
        return saved

    def _clear(self) -> None:
        if self.world.first:
            self.states.clear()  # first: none may outlive what tells of it
            for name in ("history.csv", "run.json"):
                (self.folder / name).unlink(missing_ok=True)

    def _differences(self, saved: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Key → (was, now), of everything but the versions."""
        compared = [key for key in self.metadata if key != "versions"]
        was, now = (
            pd.json_normalize({key: m.get(key) for key in compared}, max_level=2).iloc[0].to_dict()
            for m in (saved, self.metadata)
        )
        # an option that did not exist when the run began was off
        config, known = self.metadata.get("config", {}), saved.get("config", {})
        off = {f"config.{key}" for key in config.keys() - known.keys() if not config[key]}
        # code of before knew no hooks, and the images by a sample; and a set's name is no data
        off |= {"data.title"} | ({"hooks"} - saved.keys())
        off |= {"images"} if saved.get("images") == self._sampled else set()
        differing = (key for key in now | was if was.get(key) != now.get(key) and key not in off)
        return {key: (was.get(key), now.get(key)) for key in differing}

    def _is_same_run(self, saved: dict[str, Any], forced: bool) -> bool:
        differences = self._differences(saved)
        if differences and forced:
            warnings.warn(
                f"{self.folder} goes on, as forced, with (was, now): {differences}", stacklevel=3
            )
            self.metadata["forced"] = [*saved.get("forced", []), str(differences)]
        return not differences or forced

    def _take_environment(self, was: dict[str, str]) -> None:
        """As many threads as the run was begun with; a warning, of what else is another."""
        now = self.metadata["versions"]
        if "threads" in now and "threads" in was:
            use_threads(int(was["threads"]))
            now["threads"] = str(torch.get_num_threads())
        was = {"threads": now.get("threads"), **was}  # older runs do not say
        differing = (key for key in now if key != "date" and was.get(key) != now[key])
        differences = {key: (was.get(key), now[key]) for key in differing}
        if differences:
            warnings.warn(
                f"{self.folder} goes on in another environment (was, now): {differences}. The "
                "numbers may differ from those of an uninterrupted run.",
                stacklevel=3,
            )

    # --- saving and stopping ---

    def _reset_clock(self) -> None:
        self._saved, self._steps = time.monotonic(), 0

    def due(self) -> bool:
        """Called once a step: whether it is time to save."""
        self._steps, self._calls = self._steps + 1, self._calls + 1
        if self.world.size == 1 or self._calls % STEPS_BETWEEN_VOTES == 0:
            self.stopping = all_reduce_any(self.signal is not None, self.world)
        late = time.monotonic() - self._saved > 60 * self.settings.save_minutes
        every = self.settings.save_steps
        due = late or self.stopping or bool(every and self._steps >= every)
        if due and not self.world.first:  # the others do not save: they would be due at every step
            self._reset_clock()
        return due

    def save(
        self, state: dict[str, Any], history: list[dict[str, Any]], progress: dict[str, Any]
    ) -> None:
        """Write a state to go on from. Raises CheckpointError: see `SavedStates.save`."""
        self._reset_clock()
        self.states.save(state, {**self.metadata, **progress, "history": history})

    def require_space(self, weights: int) -> None:
        """Refuse to start where too little room is left: see `SavedStates.require_space`."""
        self.states.require_space(weights)

    def stop_if_asked(self) -> None:
        """Raise Stopped if a signal came to any of the processes; the state must be saved."""
        if self.stopping:
            # the launcher ends all when one ends: not before the first has saved
            all_reduce_any(False, self.world)
            name = signal.Signals(self.signal or signal.SIGTERM).name
            raise Stopped(
                f"stopped by {name}; saved in {self.states.last}. Run the same again to go on."
            )

    # --- what people read ---

    def note(self, history: list[dict[str, Any]], unfinished: dict[str, Any] | None = None) -> None:
        """Write down where the run is, for people: its epochs, and the one that is under way."""
        if not self.world.first:
            return
        rows = [*history, unfinished] if unfinished else history
        with checkpoints.replacing(self.folder / "history.csv") as partial:
            pd.DataFrame(rows).to_csv(partial, index=False)
        done = history[-1] if history else {"epoch": 0}
        self._note("running", epoch=done["epoch"], metrics=done)

    def finish(self, checkpoint: Path) -> None:
        """The run is done, and this is what came out; called by the first process."""
        self.checkpoint = str(checkpoint)
        self.states.previous.unlink(missing_ok=True)
        self._note("finished", checkpoint=self.checkpoint)

    def finished_checkpoint(self) -> str:
        """What the first process gave to `finish`."""
        return self._read_json()["checkpoint"]

    def _read_json(self) -> dict[str, Any]:
        """What is noted for people; of a damaged file nothing: the states have all that counts."""
        file = self.folder / "run.json"
        try:
            note = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        except (ValueError, RecursionError) as error:
            note = str(error)
        if not isinstance(note, dict):
            warnings.warn(f"{file} is damaged and is written anew", stacklevel=3)
        return note if isinstance(note, dict) else {}

    def _note(self, status: str, **more: Any) -> None:
        if not self.world.first:
            return
        kept = ("epoch", "metrics", "checkpoint")
        known = {key: value for key, value in self._read_json().items() if key in kept}
        now = datetime.now().isoformat(timespec="seconds")
        note = {**known, **self.metadata, "status": status, "updated": now, **more}
        with checkpoints.replacing(self.folder / "run.json") as partial:
            partial.write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
