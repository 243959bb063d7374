"""Command line: `python -m src.audit --profile paper --size cpu`. One JSON a run under
`models/records/audit/`.

A run that has its record is not repeated, so the command may be stopped and started again, and run
in several processes at once: each leaves to the others what they are making.
"""

import argparse
import json
import re
import shlex
import sys
import tempfile
import time
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Any

from audit.one_run import (
    Busy,
    Study,
    alone,
    draw,
    histograms,
    measure,
    open_study,
    pretraining,
    sample_patches,
    tuning,
)
from audit.plan import LETTERS, SIZES, plan, recipe
from src.checkpoints import replacing
from src.encoders import ENCODERS
from src.errors import CheckpointError, DataError
from src.pretrain import PretrainConfig, pretrain
from src.profiles import ROOT, open_profile
from src.runs.runtime import pick, record

Run = tuple[str, str, int]  # letter, arm, seed


def record_file(folder: Path, size_name: str, encoder: str, run: Run) -> Path:
    letter, arm, seed = run
    plain = "-".join(re.findall(r"[\w.]+", arm))
    return folder / f"{encoder}_{size_name}_{letter}_{plain}_s{seed}.json"


def settings(study: Study) -> dict[str, Any]:
    """What must agree between records that are read together."""
    return json.loads(
        json.dumps({**asdict(study.size), "places": study.place_names, "data": study.store.about})
    )


def finished(file: Path, study: Study) -> bool:
    """Whether a run has its record.

    Raises:
        ValueError: it was made with other settings or on other data.
    """
    if not file.exists():
        return False
    was, now = json.loads(file.read_text())["settings"], settings(study)
    if differs := {
        key: (was.get(key), value) for key, value in now.items() if was.get(key) != value
    }:
        hint = (
            " See SETUP.md for EuroSAT's coordinates, or"
            if "places" in differs
            else " To run anew,"
        )
        raise ValueError(
            f"{file} was made with other settings (was, now): {differs}.{hint} move the records"
            " away."
        )
    return True


def perform(study: Study, size_name: str, run: Run, folder: Path) -> Path:
    """Do one run and write its record, which appears under its name only when whole."""
    (letter, arm, seed), started = run, time.perf_counter()
    if arm == "histograms":
        result = histograms(study, sample_patches(study.profile), seed)
    else:
        result = measure(study, recipe(study.size, letter, arm), seed)
    about = {
        "letter": letter,
        "arm": arm,
        "seed": seed,
        "encoder": study.encoder,
        "size": size_name,
        "result": result,
        "seconds": time.perf_counter() - started,
        "settings": settings(study),
        "command": shlex.join(["python", "-m", "src.audit", *sys.argv[1:]]),
        "versions": record(study.runtime),
    }
    file = record_file(folder, size_name, study.encoder, run)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial:
        partial.write_text(json.dumps(about, indent=1) + "\n")
    return file


# --- what it will take ---


def work(study: Study, run: Run, seen: set[str]) -> float:
    """About how many training views a run costs beyond the steps in `seen`, to which it adds its
    own.

    A forward pass alone counts a third of a training step.
    """
    letter, arm, seed = run
    if arm == "histograms":
        return 0.0
    job, total = recipe(study.size, letter, arm), 0.0
    if job.start:
        config, rows, name = pretraining(study, job, seed)
        total += 0 if _seen(study, name, seen) else 2 * config.epochs * len(rows)
    split = draw(study, seed, job.split, job.labels)
    if job.kind:
        config, split, name = tuning(study, job, seed)
        frozen, last, everything = config.phases
        epochs = config.epochs * len(split.val) / 3 + (frozen / 3 + last / 2 + everything) * len(
            split.train
        )
        total += 0 if _seen(study, name, seen) else epochs
    passes = (
        0.6 * study.size.mc_samples + 8 if job.ood else 1
    )  # MC Dropout's first stage runs once; ODIN's gradients
    return total + (passes * len(split.test) + len(split.train)) / 3


def _seen(study: Study, name: str, seen: set[str]) -> bool:
    known = (
        name in seen
        or (study.work / name / "done").exists()
        or any((study.work / name).glob("final*.json"))
    )
    seen.add(name)
    return known


def views_per_second(study: Study) -> float:
    """Of pretraining, measured on a few steps: the best of three times, for the first one warms
    up.
    """
    config = PretrainConfig(
        study.encoder, 3, study.size.batch_size, image_size=study.size.image_size
    )
    with tempfile.TemporaryDirectory() as folder:
        history = pretrain(
            study.store.images[: 8 * config.batch_size], config, folder, runtime=study.runtime
        ).history
    return 2 * float(history["images_per_s"].max())


def forecast(study: Study, runs: list[Run]) -> dict[str, float]:
    """Minutes a letter, in the order of the runs: a step that two letters share counts for the
    first.
    """
    seen, minutes, speed = (
        set(),
        dict.fromkeys((letter for letter, _, _ in runs), 0.0),
        views_per_second(study),
    )
    for run in runs:
        minutes[run[0]] += work(study, run, seen) / speed / 60
    return minutes


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m src.audit", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--profile", default="paper", choices=["paper", "demo"])
    parser.add_argument(
        "--size",
        choices=SIZES,
        help="default: demo for the demo; else gpu where there is one, or cpu",
    )
    parser.add_argument("--encoder", default="custom_cnn", choices=ENCODERS)
    parser.add_argument(
        "--only", default=LETTERS, help="letters, such as b,f; all of b to i unless told"
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--minutes", type=float, help="start no new run after so many")
    places = (
        "CSV of name, latitude, longitude of EuroSAT's images; default: data/eurosat_latlon.csv, if"
        " it is there"
    )
    parser.add_argument("--coordinates", type=Path, help=places)
    parser.add_argument(
        "--workspace", type=Path, help="folder of data/ and models/; default: the checkout"
    )
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    try:
        audit(args)
    except (DataError, CheckpointError, ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None


def audit(args: argparse.Namespace) -> None:
    """Do what is left of the plan, as the command line asks."""
    letters, started = args.only.replace(",", ""), time.monotonic()
    if unknown := set(letters) - set(LETTERS):
        raise ValueError(
            f"--only {args.only}: there is no letter {sorted(unknown)}, choose from"
            f" {', '.join(sorted(LETTERS))}"
        )
    runtime, profile = pick(args.device), open_profile(args.profile, args.workspace, args.encoder)
    size_name = args.size or (
        "demo" if args.profile == "demo" else "gpu" if runtime.device.type == "cuda" else "cpu"
    )
    scratch = (args.workspace or ROOT) / "runs/audit" / args.profile / size_name / args.encoder
    usual = profile.data / "eurosat_latlon.csv"
    coordinates = args.coordinates or (usual if usual.is_file() else None)
    study = open_study(profile, SIZES[size_name], scratch, args.encoder, coordinates, runtime)
    folder = profile.records / "audit"
    runs = list(plan(study.size, letters, range(args.seeds)))
    left = [
        run
        for run in runs
        if not finished(record_file(folder, size_name, args.encoder, run), study)
    ]
    print(
        f"{len(left)} of {len(runs)} runs to do, on {runtime}; places by {study.place_names}",
        flush=True,
    )
    for letter, minutes in forecast(study, left).items() if left else ():
        print(f"  {letter}: about {minutes:.1f} minutes", flush=True)
    queue, busy = deque(left), 0
    while queue:
        if args.minutes is not None and time.monotonic() - started > 60 * args.minutes:
            print(f"{args.minutes:g} minutes are over: {len(queue)} runs are left for another time")
            return
        run = queue.popleft()
        file = record_file(folder, size_name, args.encoder, run)
        try:
            with alone(study.work / "locks" / file.stem):
                if finished(file, study):
                    continue  # by another process beside this one
                perform(study, size_name, run, folder)
        except Busy:
            queue.append(run)
            busy += 1
            if busy >= len(queue):  # nothing else is left
                time.sleep(5)
            continue
        busy, seconds = 0, json.loads(file.read_text())["seconds"]
        print(
            f"{len(left) - len(queue)}/{len(left)} seed {run[2]}, {run[0]}: {run[1]}"
            f" ({seconds:.0f} s)",
            flush=True,
        )


if __name__ == "__main__":
    main()
