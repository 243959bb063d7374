"""The two newest states of a run: whatever happens while one is written, the other is whole."""

import errno
import shutil
import warnings
from pathlib import Path
from typing import Any

from src import checkpoints
from src.errors import CheckpointError

State = tuple[dict[str, Any], dict[str, Any]]  # as `checkpoints.load` gives it


def require_room(folder: Path, needed: int, what: str) -> None:
    """Raise OSError where a disk has not so many bytes left for `what`.

    Asked before the work and not after it; and a memory map that finds no room ends the process.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{what} needs {needed / 1e9:.2f} GB, free are {free / 1e9:.2f} GB: make room, or give"
            " another folder",
            str(folder),
        )


class SavedStates:
    """`last.pth` and `previous.pth` of a run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last, self.previous = folder / "last.pth", folder / "previous.pth"
        self._damaged = False  # whether the newest could not be read

    def newest(self) -> State | None:
        """The newest state that can be read, or None if there is none at all.

        Raises:
            CheckpointError: there are states, and none can be read.
        """
        damage = None
        for file in filter(Path.exists, (self.last, self.previous)):
            try:
                return checkpoints.load(file)
            except CheckpointError as error:
                warnings.warn(f"{error}. Trying the state saved before it.", stacklevel=4)
                damage, self._damaged = error, self._damaged or file == self.last
        if damage:
            raise CheckpointError(
                f"no state in {self.folder} can be read: delete it to start anew"
            ) from damage
        return None

    def save(self, state: dict[str, Any], metadata: dict[str, Any]) -> None:
        """Write the state as `last.pth`; the one before becomes `previous.pth`.

        Raises:
            CheckpointError: it could not be written; the state before it is kept.
        """
        try:
            with checkpoints.writing(self.last):
                if self.last.exists() and not self._damaged:  # which must not replace the good one
                    self.last.replace(self.previous)
            checkpoints.save(self.last, state, metadata)
            self._damaged = False
        except CheckpointError as error:
            raise CheckpointError(f"{error}: it goes on from {self.previous}") from error

    def require_space(self, weights: int) -> None:
        """Refuse to start where the states of a run, whose weights are so many bytes, will not fit.

        Raises:
            CheckpointError: too little room on that disk.
        """
        # a state is the weights, Adam's two moments and the best weights; two are kept while a
        # third is written
        kept = [file.stat().st_size for file in (self.last, self.previous) if file.exists()]
        needed, free = 12 * weights - sum(kept), shutil.disk_usage(self.folder).free
        if free < needed:
            raise CheckpointError(
                f"{self.folder}: the run's checkpoints need {needed / 1e9:.2f} GB, free are "
                f"{free / 1e9:.2f} GB. Make room there, or keep the runs on another disk."
            )

    def remove_partial(self) -> None:
        """Remove what a save that was killed has left."""
        for partial in self.folder.glob(".*.partial-*"):
            partial.unlink()

    def clear(self) -> None:
        """Remove the states, for a new start."""
        for file in (self.last, self.last.with_suffix(".json"), self.previous):
            file.unlink(missing_ok=True)
