"""What the audit runs: sizes, arms and their recipes, as plain data."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

# by what a run tells, so that an interrupted audit has done the most telling ones
LETTERS = "fgihbced"
REPAIRED = "bcdeh"  # letters of the size "repair": their first design changed two things at a time
STAGES = "1234567"  # of the size "full", see `audit.stages`
PUBLISHED_HEAD = " published head"  # what ends the name of an arm of b with that head
CONTROL = "cosine 0.5"  # the arm of b that the others of b to e are compared with
HISTOGRAMS = "histograms"  # the arm of c that trains nothing
# splits that are compared, on as many images of each class (`audit.data.draw`): word → its kind
SPLITS = {"random": "even random", "blocks": "blocks", "geographic": "geographic"}
RATE, STUDY_RATE = 1e-3, 1e-4  # of fine-tuning: from scratch, and from pretraining in the study


@dataclass(frozen=True)
class Size:
    """How much of everything; one row of `SIZES`."""

    per_class: int | None  # training images a class, also those pretrained on; None: all
    held_out: int | None  # val images, and three times as many test images, a class; None: all
    short: int  # epochs of pretraining in b to e, where many are compared
    long: int  # epochs of pretraining in f to i
    epochs: int  # of fine-tuning on all labels
    max_epochs: int  # with few labels, where an epoch is few steps
    labels: tuple[int, ...]  # a class, besides all of them
    image_size: int  # pixels
    mc_samples: int
    tuned: str  # letters of b to e whose encoders are fine-tuned too; b: at temperature 0.5
    temperatures: tuple[float, ...] = (0.07, 0.1, 0.2, 0.5, 1.0)
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3)
    noise: tuple[int, ...] = (10, 50, 100)  # percent of the images
    batch_size: int = 64  # images
    test_all: bool = False  # test on every labelled image that is not for training or choosing


SIZES = {
    "demo": Size(per_class=20, held_out=4, short=1, long=2, epochs=3, max_epochs=6,
                 labels=(5, 10), image_size=16, mc_samples=10, tuned="bc", temperatures=(0.1, 0.5),
                 rates=(1e-4, 1e-3), batch_size=32),
    "cpu": Size(per_class=180, held_out=30, short=5, long=15, epochs=6, max_epochs=40,
                labels=(10, 50, 100), image_size=32, mc_samples=20, tuned="bcd"),
    "repair": Size(per_class=180, held_out=30, short=5, long=15, epochs=6, max_epochs=40,
                   labels=(), image_size=32, mc_samples=20, tuned="bcd", temperatures=(0.1, 0.5),
                   test_all=True),
    "full": Size(per_class=None, held_out=None, short=40, long=40, epochs=20, max_epochs=300,
                 labels=(), image_size=64, mc_samples=20, tuned="", test_all=True),
    "gpu": Size(per_class=None, held_out=None, short=50, long=300, epochs=100, max_epochs=300,
                labels=(10, 50, 100, 500), image_size=64, mc_samples=50, tuned="bcde"),
}  # fmt: skip


class Run(NamedTuple):
    """One run: an arm of a letter, with one seed."""

    letter: str
    arm: str
    seed: int


@dataclass(frozen=True)
class Start:
    """A pretraining."""

    arm: str  # of b to e: what it changes
    epochs: int
    lr: float = 1e-3
    warmup_epochs: float = 0.0
    source: str | None = None  # of `audit.sources`; None: the training images


@dataclass(frozen=True)
class Recipe:
    """What a run does: pretrain, measure the encoder, fine-tune it, score other data; any of it."""

    start: Start | None  # None: random weights
    # "random"; or of each class as many images from "even random", "geographic" and "blocks"
    split: str = "random"
    labels: int | None = None  # a class; None: all
    draw: int = 0  # of the labels
    finetune: str | None = None  # "progressive", "full" or "frozen"; None: not fine-tuned
    rate: float = RATE  # of fine-tuning
    epochs: int | None = None  # of fine-tuning; None: the size's, more with few labels
    held_out: tuple[str, ...] = ()  # classes never trained on, which are then out of distribution
    encoder: str | None = None  # None: the study's
    image_size: int | None = None  # pixels; None: the size's
    probe: bool = False  # loss, feature statistics, kNN and linear probe
    budgets: bool = False  # linear probes over numbers of labels
    ood: bool = False  # scores of out-of-distribution images
    keep: bool = False  # the classifier's weights, for another run's scores


def arms(size: Size, letter: str) -> list[str]:
    """Names of a letter's arms, in the order they are run."""
    temperatures = sorted(size.temperatures, key=lambda t: t != 0.5)  # the study's first
    labels, probes = ("all", *size.labels), ("linear", "untrained")
    starts, tunings = ("scratch", "progressive"), ("scratch", "progressive", "full", "frozen")
    return {
        "b": [
            f"{loss} {t:g}{head}"
            for t in temperatures
            for head in ("", PUBLISHED_HEAD)
            for loss in ("cosine", "dot")
        ],
        "c": [HISTOGRAMS, "published rendering"],
        "d": ["18.75 m"],
        "e": [
            *(f"noise {share} %" for share in reversed(size.noise)),
            *(f"left out {share} %" for share in reversed(size.noise) if share < 100),
            *("fixed order", "neighbours"),
        ],
        "f": [f"{kind} {n}" for n in labels for kind in starts + probes],
        "g": [f"{kind} {rate:g}" for kind in tunings for rate in size.rates],
        "h": [f"{split} {kind}" for split in ("blocks", "geographic", "random") for kind in starts],
        "i": ["scratch", "pretrained", "pretrained, study's rate"],
    }[letter]


def recipe_of(size: Size, letter: str, arm: str) -> Recipe:
    """What the runs of an arm do."""
    if letter in STAGES:
        from audit import stages  # which is written with the classes of this room

        return stages.recipe_of(letter, arm)
    if letter in "bcde":
        tuned = letter in size.tuned and (letter != "b" or arm.endswith(" 0.5"))
        finetune = "progressive" if tuned else None
        return Recipe(Start(arm, size.short), finetune=finetune, probe=True)
    if letter == "i":
        start, finetune = _start(size, "scratch" if arm == "scratch" else "progressive")
        rate = STUDY_RATE if arm.endswith("rate") else RATE
        return Recipe(start, finetune=finetune, rate=rate, ood=True)
    first, second = arm.split()
    start, finetune = _start(size, second if letter == "h" else first)
    if letter == "h":
        return Recipe(start, split=SPLITS[first], finetune=finetune)
    if letter == "g":
        return Recipe(start, finetune=finetune, rate=float(second))
    labels = None if second == "all" else int(second)
    if first in ("linear", "untrained"):
        return Recipe(start, labels=labels, probe=True)
    return Recipe(start, labels=labels, finetune=finetune)


def _start(size: Size, kind: str) -> tuple[Start | None, str]:
    """Pretraining and fine-tuning that the first or last word of an arm's name stands for."""
    return (None, "full") if kind in ("scratch", "untrained") else (Start(CONTROL, size.long), kind)


def planned_runs(size: Size, letters: str, seeds: range) -> Iterator[Run]:
    """All letters with one seed before the next seed; b to e bring the control along. Of stages, a
    stage with all seeds before the next stage.
    """
    if set(letters) <= set(STAGES):
        from audit import stages

        yield from stages.planned_runs(letters, seeds)
        return
    for seed in seeds:
        for letter in LETTERS:
            for arm in arms(size, letter):
                wanted = letter in letters or (arm == CONTROL and set(letters) & set("cde"))
                if wanted and (arm != HISTOGRAMS or seed == seeds[0]):
                    yield Run(letter, arm, seed)


def phases(kind: str, epochs: int) -> tuple[int, int, int]:
    """Epochs of `FinetuneConfig.phases`: "progressive" unfreezing in the study's proportion
    10/10/80, or one kind of training throughout, "full" or "frozen".
    """
    tenth = max(1, round(epochs / 10))
    return {
        "progressive": (tenth, tenth, epochs - 2 * tenth),
        "full": (0, 0, epochs),
        "frozen": (epochs, 0, 0),
    }[kind]
