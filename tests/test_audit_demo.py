"""The audit by the command of `make audit PROFILE=demo`, on one seed, in two processes."""

import json
import re
import subprocess

import pytest

from audit import tables
from audit.data import open_study
from audit.plan import HISTOGRAMS, LETTERS, SIZES, planned_runs, recipe_of
from audit.steps import finetuning, pretraining, pretraining_images
from src.data.demo import GENERATOR_VERSION, make_demo
from src.profiles import open_profile

SHARED = "i"  # pretraining that is shared, fine-tuning, scores; test_audit.py runs every letter


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Demo data that says it is the whole: a third of EuroSAT, and a hundredth of BigEarthNet, for
    half a minute less. What the audit takes of each class is there.
    """
    folder = tmp_path_factory.mktemp("demo")
    counts = {"bigearthnet": 6, "eurosat_per_class": 40, "ucmerced_per_class": 4}
    file = make_demo(folder / "data/demo", **counts, progress=False) / "demo.json"
    usual = {key: make_demo.__kwdefaults__[key] for key in ("seed", *counts)}
    file.write_text(json.dumps({"generator_version": GENERATOR_VERSION, **usual}))
    open_profile("demo", folder).labelled()  # a store has one builder
    assert len(list((folder / "data/demo/BigEarthNet-v1.0").iterdir())) == 6
    return folder


def test_every_letter_has_the_images_it_needs_on_the_demo(workspace):
    study = open_study(open_profile("demo", workspace), "demo", workspace)
    for run in planned_runs(study.size, LETTERS, range(2)):
        if run.arm == HISTOGRAMS:
            continue
        recipe = recipe_of(study.size, run.letter, run.arm)
        if recipe.start:
            config, _, _ = pretraining(study, recipe, run.seed)
            images, _ = pretraining_images(study, recipe, run.seed)
            assert 2 <= config.batch_size <= len(images) and config.epochs >= 1, run
        if recipe.finetune:
            config, split, _ = finetuning(study, recipe, run.seed)
            assert 1 <= config.batch_size <= len(split.train) and config.epochs >= 1, run
            assert len(split.val) and len(split.test), run


def test_two_processes_share_the_runs_of_the_demo(workspace, command):
    options = ("--profile", "demo", "--workspace", workspace, "--seeds", 1, "--device", "cpu")
    audit = command("audit", *options, "--only", SHARED)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(**audit, **pipes) for _ in range(2)]
    outputs = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    first, second = ({*re.findall(r"^\d+/\d+ (.+) \(", out, re.M)} for out, _ in outputs)
    # both did some, none did what the other had done
    assert first and second and not first & second
    _, records = tables.read(open_profile("demo", workspace).records / "audit")
    done = [(record["letter"], record["arm"], record["seed"]) for record in records]
    assert sorted(done) == sorted(planned_runs(SIZES["demo"], SHARED, range(1)))
