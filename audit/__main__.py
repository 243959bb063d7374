"""Command line: `python -m audit --profile paper --size cpu`. One JSON a run under
`models/records/audit/`.

A run that has its record is not repeated, so the command may be stopped and started again, and run
in several processes at once: each leaves to the others what they are making.
"""

import argparse
import time
from collections import deque
from pathlib import Path

from audit.data import Study, open_study
from audit.forecast import forecast, lock_folder, standing
from audit.one_run import perform
from audit.plan import LETTERS, REPAIRED, SIZES, STAGES, Run, planned_runs
from audit.records import finished, write_record
from audit.steps import Busy, exclusive
from src.encoders import ENCODERS
from src.errors import exit_with_message
from src.profiles import ROOT, open_profile
from src.runs.runtime import Runtime, add_arguments, from_arguments

POLL_SECONDS = 5.0  # where other processes are making everything that is left


def main() -> None:
    """Do what is left of the plan, as the command line says."""
    arguments, started = _parser().parse_args(), time.monotonic()
    with exit_with_message():
        runtime = from_arguments(arguments)
        size = _size_name(arguments, runtime)
        letters = _letters(arguments.only, size)  # before any data is looked for
        runs = list(planned_runs(SIZES[size], letters, range(arguments.seeds)))
        runs = _of_arms(runs, arguments.arm)
        study = _open(arguments, size, runtime)
        if arguments.status:
            print(*standing(study, runs), sep="\n")
            return
        left = [run for run in runs if not finished(study, run)]
        print(
            f"{len(left)} of {len(runs)} runs to do, on {study.runtime}; places by"
            f" {study.place_kind}",
            flush=True,
        )
        if left:
            for letter, minutes in forecast(study, left).items():
                print(f"  {letter}: about {minutes:.1f} minutes", flush=True)
        perform_all(study, left, started + 60 * arguments.minutes)


def _letters(only: str | None, size: str) -> str:
    usual = {"full": STAGES, "repair": REPAIRED}.get(size, LETTERS)
    letters = usual if only is None else only.replace(",", "")
    if unknown := sorted(set(letters) - set(usual)):
        known = ", ".join(sorted(usual))
        raise ValueError(f"--only {only}: there is no letter {unknown}, choose from {known}")
    return letters


def _of_arms(runs: list[Run], arms: list[str] | None) -> list[Run]:
    known = dict.fromkeys(run.arm for run in runs)
    for arm in arms or ():
        if arm not in known:
            raise ValueError(f'--arm "{arm}": there is none, choose from {", ".join(known)}')
    return [run for run in runs if not arms or run.arm in arms]


def _size_name(arguments: argparse.Namespace, runtime: Runtime) -> str:
    if arguments.size is None and arguments.profile == "demo":
        return "demo"
    return arguments.size or ("gpu" if runtime.device.type == "cuda" else "cpu")


def _open(arguments: argparse.Namespace, size: str, runtime: Runtime) -> Study:
    profile = open_profile(arguments.profile, arguments.workspace, arguments.encoder)
    coordinates, usual = arguments.coordinates, profile.data / "eurosat_latlon.csv"
    if coordinates is None and usual.is_file():
        coordinates = usual
    runs = (arguments.workspace or ROOT) / "runs/audit"
    work = runs / arguments.profile / size / arguments.encoder
    options = {"encoder": arguments.encoder, "coordinates": coordinates, "runtime": runtime}
    return open_study(profile, size, work, **options)


def perform_all(study: Study, runs: list[Run], deadline: float) -> None:
    """Do runs and write their records; what another process is doing comes last.

    deadline: of `time.monotonic`, after which no run is begun.
    """
    queue, refused = deque(runs), 0  # refused: runs in a row that others are doing
    while queue:
        if time.monotonic() > deadline:
            print(f"the time is over: {len(queue)} runs are left for another time")
            return
        run = queue.popleft()
        try:
            seconds = _perform(study, run)
        except Busy:
            queue.append(run)
            refused += 1
            if refused >= len(queue):
                time.sleep(POLL_SECONDS)
            continue
        refused = 0
        if seconds is not None:
            count = f"{len(runs) - len(queue)}/{len(runs)}"
            print(f"{count} seed {run.seed}, {run.letter}: {run.arm} ({seconds:.0f} s)", flush=True)


def _perform(study: Study, run: Run) -> float | None:
    """Seconds that a run took; None if another process has done it meanwhile. Raises Busy."""
    with exclusive(lock_folder(study, run)):
        if finished(study, run):
            return None
        started = time.perf_counter()
        result = perform(study, run)
        seconds = time.perf_counter() - started
        write_record(study, run, result, seconds)
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m audit", description="Do the runs of the audit that have no record yet."
    )
    add, default = parser.add_argument, "(default: %(default)s)"
    smaller = "default: demo for the demo, else gpu where there is one, or cpu"
    letters = "letters of the plan, such as b,f, or stages of the size full (default: all)"
    arm = "only this one of their arms; may be given again (default: all)"
    status = "say what is done, running and left, and how long it will take; do nothing"
    seeds = f"how many, from 0 {default}"
    minutes = f"start no new run after so many {default}"
    csv = "CSV of name, latitude, longitude (default: data/eurosat_latlon.csv, if it is there)"
    workspace = "folder of data/, models/ and runs/ (default: the checkout)"
    add("--profile", default="paper", choices=["paper", "demo"], help=f"whose data {default}")
    add("--size", choices=SIZES, help=f"how much of everything ({smaller})")
    add("--encoder", default="custom_cnn", choices=ENCODERS, help=f"network {default}")
    add("--only", metavar="LETTERS", help=letters)
    add("--arm", metavar="NAME", action="append", help=arm)
    add("--status", action="store_true", help=status)
    add("--seeds", type=int, default=3, help=seeds)
    add("--minutes", type=float, default=float("inf"), help=minutes)
    add("--coordinates", type=Path, help=csv)
    add("--workspace", type=Path, help=workspace)
    add_arguments(parser)
    return parser


if __name__ == "__main__":
    main()
