"""How a run is done, none of which decides what it computes; and the options of commands for it."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.checks import COUNT, Range, check_number
from src.runs.runtime import Runtime, add_arguments, from_arguments

RESUME = ("auto", "force", False)


@dataclass(frozen=True)
class RunSettings:
    """How a run is done, none of which decides what it computes.

    Attributes:
        runs: folder of run folders; None: `runs` in the folder of the checkpoints.
        resume: "auto" goes on where the run was stopped, and returns a finished one as it is;
            "force" goes on with another config too; False starts anew.
        save_minutes: at most so much work is lost when the machine dies.
        save_steps: save every so many steps besides.
        runtime: device and precision; None picks.
        provenance: of the images (`PatchStore.provenance`), kept in the checkpoint.
        tensorboard: write files for TensorBoard into the run's folder.
        show: given the run's curves, a matplotlib figure, each time they are drawn anew.
    """

    runs: str | Path | None = None
    resume: str | bool = "auto"
    save_minutes: float = 5.0
    save_steps: int | None = None
    runtime: Runtime | None = None
    provenance: dict[str, Any] | None = None
    tensorboard: bool = False
    show: Callable[[Any], None] | None = None

    @classmethod
    def from_arguments(
        cls, arguments: argparse.Namespace, provenance: dict[str, Any]
    ) -> "RunSettings":
        """What a command was given for the options of `add_run_arguments`."""
        return cls(
            arguments.runs,
            False if arguments.resume == "false" else arguments.resume,
            arguments.save_minutes,
            arguments.save_steps,
            from_arguments(arguments),
            provenance,
            arguments.tensorboard,
        )


def check_settings(settings: RunSettings) -> None:
    """Raise ValueError where a run would be saved never, or at every negative step."""
    check_number(settings.save_minutes, "save_minutes", Range(0))
    if settings.save_steps is not None:
        check_number(settings.save_steps, "save_steps", COUNT)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a command the options that `RunSettings.from_arguments` reads."""
    minutes, resume = RunSettings.save_minutes, [str(mode).lower() for mode in RESUME]
    parser.add_argument("--runs", default="runs", help="folder of run folders")
    parser.add_argument("--resume", default="auto", choices=resume, help="false: start anew")
    parser.add_argument("--save-minutes", type=float, default=minutes, help="a kill costs no more")
    parser.add_argument("--save-steps", type=int, help="save every so many steps besides")
    board = "write files for TensorBoard into the run's folder"
    parser.add_argument("--tensorboard", action="store_true", help=board)
    same = "the same bits each time on a GPU too, which is slower"
    parser.add_argument("--deterministic", action="store_true", help=same)
    how = "by torch.compile; without either: on a GPU"
    less = "keep less for backward and compute it again: 0.6 to a sixth of the GPU's memory"
    parser.add_argument("--recompute", action="store_true", help=less)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help=how)
    add_arguments(parser)
