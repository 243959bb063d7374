"""What the runs that are left will take, before they are begun."""

import tempfile

from audit.data import Study, draw
from audit.plan import HISTOGRAMS, Run, recipe_of
from audit.steps import finetuning, pretraining
from src.pretrain import PretrainConfig, pretrain
from src.runs import RunSettings


def forecast(study: Study, runs: list[Run]) -> dict[str, float]:
    """Minutes a letter, in the order of the runs: a step that two letters share counts for the
    first.
    """
    done, speed = set(), views_per_second(study)
    minutes = dict.fromkeys((run.letter for run in runs), 0.0)
    for run in runs:
        minutes[run.letter] += training_views(study, run, done) / speed / 60
    return minutes


def views_per_second(study: Study) -> float:
    """Of pretraining, measured on a few steps: the best of three times, for the first one warms
    up.
    """
    size = study.size
    config = PretrainConfig(study.encoder, 3, size.batch_size, image_size=size.image_size)
    images, settings = study.store.images[: 8 * size.batch_size], RunSettings(runtime=study.runtime)
    with tempfile.TemporaryDirectory() as folder:
        history = pretrain(images, config, folder, settings=settings).history
    return 2 * float(history["images_per_s"].max())


def training_views(study: Study, run: Run, done: set[str]) -> float:
    """About how many training views a run costs; a forward pass alone counts a third of one.

    done: names of steps that cost nothing more; gets those of this run.
    """
    if run.arm == HISTOGRAMS:
        return 0.0
    recipe, views = recipe_of(study.size, run.letter, run.arm), 0.0
    if recipe.start:
        config, rows, folder = pretraining(study, recipe, run.seed)
        if folder.name not in done and not (folder / "done").exists():
            views += 2 * config.epochs * len(rows)
        done.add(folder.name)
    split = draw(study, run.seed, recipe.split, recipe.labels)
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
