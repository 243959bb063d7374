"""What the runs that are left will take, before they are begun; and where all of them stand."""

import tempfile
from collections import Counter
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from audit.data import Study, draw
from audit.plan import HISTOGRAMS, Run, recipe_of
from audit.records import finished, record_file
from audit.stages import SOURCE_COUNT
from audit.steps import Busy, exclusive, finetuning, pretraining
from src.pretrain import PretrainConfig, pretrain
from src.runs import RunSettings


def forecast(study: Study, runs: list[Run]) -> dict[str, float]:
    """Minutes a letter, in the order of the runs, for one process.

    A step that two letters share counts for the first.
    """
    done, speeds = set(), {}
    minutes = dict.fromkeys((run.letter for run in runs), 0.0)
    for run in runs:
        if run.arm == HISTOGRAMS:
            continue
        adapted = study.adapted(recipe_of(study.size, run.letter, run.arm))
        network = adapted.encoder, adapted.size.image_size
        if network not in speeds:
            speeds[network] = views_per_second(adapted)
        minutes[run.letter] += training_views(adapted, run, done) / speeds[network] / 60
    return minutes


def views_per_second(study: Study) -> float:
    """Of pretraining, measured on a few steps: the best of three times; the first one warms up."""
    size = study.size
    config = PretrainConfig(study.encoder, 3, size.batch_size, image_size=size.image_size)
    images, settings = study.store.images[: 4 * size.batch_size], RunSettings(runtime=study.runtime)
    # nobody asked for these epochs
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        history = pretrain(images, config, folder, settings=settings).history
    return 2 * float(history["images_per_s"].max())


def training_views(study: Study, run: Run, done: set[str]) -> float:
    """About how many training views a run costs; a forward pass alone counts a third of one.

    done: names of steps that cost nothing more; gets those of this run.
    """
    recipe, views = recipe_of(study.size, run.letter, run.arm), 0.0
    if recipe.start:
        config, rows, folder = pretraining(study, recipe, run.seed)
        if folder.name not in done and not (folder / "done").exists():
            views += 2 * config.epochs * (SOURCE_COUNT if recipe.start.source else len(rows))
        done.add(folder.name)
    split = draw(study, run.seed, recipe.split, recipe.labels, recipe.draw)
    if recipe.finetune:
        config, _, folder = finetuning(study, recipe, run.seed)
        if folder.name not in done and not any(folder.glob("final*.json")):
            frozen, last, everything = config.phases
            views += (frozen / 3 + last / 2 + everything) * len(split.train)
            views += config.epochs * len(split.val) / 3
        done.add(folder.name)
    # MC Dropout's first stage runs once; ODIN takes gradients
    passes = 0.6 * study.size.mc_samples + 8 if recipe.ood else 1
    return views + (passes * len(split.test) + len(split.train)) / 3


def standing(study: Study, runs: list[Run]) -> list[str]:
    """One line a letter: how many of its runs are done, running and left, and how long that takes.

    A run is running where another process holds its lock.
    """
    done = [run for run in runs if finished(study, run)]
    left = [run for run in runs if run not in set(done)]
    running = [run for run in left if _is_running(study, run)]
    minutes = forecast(study, left) if left else {}
    lines, counts = [], [Counter(run.letter for run in some) for some in (done, running, left)]
    for letter in dict.fromkeys(run.letter for run in runs):
        n_done, n_running, n_left = (count[letter] for count in counts)
        hours = f", about {minutes[letter] / 60:.1f} h of one process" if n_left else ""
        waiting = n_left - n_running
        lines.append(f"  {letter}: {n_done} done, {n_running} running, {waiting} left{hours}")
    lines += [f"  running: seed {run.seed}, {run.letter}: {run.arm}" for run in running]
    return lines


def _is_running(study: Study, run: Run) -> bool:
    try:
        with exclusive(lock_folder(study, run)):
            return False
    except Busy:
        return True


def lock_folder(study: Study, run: Run) -> Path:
    """Whose lock is held by the process that does a run."""
    return study.work / "locks" / record_file(study, run).stem
