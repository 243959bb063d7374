"""The size `full`: the runs that answer the central question, in stages that are each useful alone.

Their order is that of the queue. Everything is at EuroSAT's 64 pixels on all of its training
images, but for the patches of 32 pixels that other sources have as well.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from audit.plan import CONTROL, RATE, SPLITS, STUDY_RATE, Recipe, Run, Start

TITLES = {
    "1": "rates of the ViT",
    "2": "Custom CNN, from scratch and pretrained",
    "3": "few labels",
    "4": "ResNet-50, from scratch and pretrained",
    "5": "which images to pretrain on",
    "6": "out of distribution",
    "7": "ground that training has not seen",
}
KINDS = ("scratch", "pretrained")
VIT_RATES = (1e-4, 3e-4, 1e-3)
VIT_WARMUP = 0.25  # epochs, of one
# from scratch at two rates; pretrained at the rate from scratch, and at the study's
NETWORKS = {"scratch": (1e-3, 3e-4), "pretrained": (RATE, STUDY_RATE)}
NETWORK_ARMS = [f"{kind} {rate:g}" for kind in KINDS for rate in NETWORKS[kind]]
ENCODERS = {"2": "custom_cnn", "4": "resnet50"}
EPOCHS = {"2": (40, 20), "4": (20, 10)}  # of pretraining, of fine-tuning
BUDGETS = (10, 20, 50, 100, 200, 500, 1000, 2160)  # labels a class
BUDGET_DRAWS = 20  # of the labels of each
FEW, FEW_DRAWS = 10, 5  # labels a class that networks are fine-tuned on, and draws of them
FEW_EPOCHS = 100  # two steps each
SOURCES = ("eurosat", "satlab", "satlab dark", "resisc45", "ucmerced")
PATCH = 32  # pixels of a patch to pretrain on: SatLab's, and a quarter of a EuroSAT image
SOURCE_COUNT = 1984  # patches of each: 31 batches, so that counts and steps are equal
# classes held out, for near out-of-distribution images
PAIRS = (
    ("PermanentCrop", "River"),
    ("AnnualCrop", "Highway"),
    ("Forest", "SeaLake"),
    ("HerbaceousVegetation", "Residential"),
    ("Industrial", "Pasture"),
)
NEAR_LABELS, NEAR_EPOCHS = 540, 10  # a class, of the networks that never saw a pair
GROUND_EPOCHS = 5  # of fine-tuning, in stage 7, where an arm says no other
LONG_GROUND = EPOCHS["2"][1]  # as many as in stage 2


def arms(stage: str) -> list[str]:
    """Names of a stage's arms, in the order they are run."""
    return {
        "1": [
            *("untrained", *(f"scratch {rate:g}" for rate in VIT_RATES)),
            *(f"pretrain {rate:g}{how}" for rate, how in product(VIT_RATES, ("", " warm-up"))),
        ],
        "2": NETWORK_ARMS,
        "3": [
            *("linear untrained", "linear pretrained"),
            *(f"{kind} {FEW} draw {draw}" for draw, kind in product(range(FEW_DRAWS), KINDS)),
        ],
        "4": NETWORK_ARMS,
        "5": ["untrained", *SOURCES],
        "6": [
            *(f"{arm} of {stage}" for stage, arm in product("24", NETWORK_ARMS)),
            *(f"near {number} {kind}" for number, kind in product(range(len(PAIRS)), KINDS)),
        ],
        "7": [
            *(f"{split} scratch" for split in SPLITS),
            *(f"{split} scratch {LONG_GROUND}" for split in SPLITS),
        ],
    }[stage]


def recipe_of(stage: str, arm: str) -> Recipe:
    """What the runs of an arm do."""
    words = arm.split()
    if stage == "1":
        return _vit(words)
    if stage in "24":
        return _network(stage, words[0], float(words[1]))
    if stage == "5":
        start = Start(CONTROL, EPOCHS["2"][0], source=arm) if arm != "untrained" else None
        return Recipe(start, image_size=PATCH, probe=True)
    if stage == "7":
        epochs = int(words[2]) if len(words) > 2 else GROUND_EPOCHS
        return Recipe(None, split=SPLITS[words[0]], finetune="full", epochs=epochs)
    if stage == "6" and words[0] == "near":
        return _near(PAIRS[int(words[1])], words[2])
    if stage == "6":
        return replace(_network(words[3], words[0], float(words[1])), ood=True)
    start = _start("2") if words[-1] == "pretrained" or words[0] == "pretrained" else None
    if words[0] == "linear":
        return Recipe(start, budgets=True)
    finetune = "progressive" if start else "full"
    few = {"labels": FEW, "draw": int(words[3]), "epochs": FEW_EPOCHS}
    return Recipe(start, finetune=finetune, **few)


def _start(stage: str) -> Start:
    return Start(CONTROL, EPOCHS[stage][0])


def _start_of(kind: str, stage: str) -> tuple[Start | None, str]:
    """Pretraining and fine-tuning of one of `KINDS`."""
    return (None, "full") if kind == "scratch" else (_start(stage), "progressive")


def _network(stage: str, kind: str, rate: float) -> Recipe:
    """Of stages 2 and 4: all labels."""
    start, finetune = _start_of(kind, stage)
    how = {"epochs": EPOCHS[stage][1], "encoder": ENCODERS[stage], "keep": True}
    return Recipe(start, finetune=finetune, rate=rate, **how)


def _vit(words: list[str]) -> Recipe:
    """Of stage 1: one epoch of pretraining, or three from scratch."""
    recipe = Recipe(None, encoder="vit_b_16")
    if words == ["untrained"]:
        return replace(recipe, probe=True)
    kind, rate, *warmup = words
    if kind == "scratch":
        return replace(recipe, finetune="full", rate=float(rate), epochs=3)
    start = Start(CONTROL, 1, float(rate), VIT_WARMUP if warmup else 0.0)
    return replace(recipe, start=start, probe=True)


def _near(pair: tuple[str, ...], kind: str) -> Recipe:
    """Of stage 6: a network fine-tuned without two of the classes, scored on them.

    A pretrained one has seen training images of them, without their labels.
    """
    start, finetune = _start_of(kind, "2")
    few = {"labels": NEAR_LABELS, "epochs": NEAR_EPOCHS, "held_out": pair}
    return Recipe(start, finetune=finetune, ood=True, **few)


def planned_runs(stages: str, seeds: range) -> Iterator[Run]:
    """Stage by stage, each with one seed before the next; pretraining the ViT takes one seed."""
    for stage in sorted(stages):
        for seed in seeds:
            for arm in arms(stage):
                once = stage == "1" and not arm.startswith("scratch")
                if seed == seeds[0] or not once:
                    yield Run(stage, arm, seed)
