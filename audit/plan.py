"""What the audit runs: sizes, arms and their recipes, as plain data."""

from collections.abc import Iterator
from dataclasses import dataclass

LETTERS = (  # by what a run tells, so that an interrupted audit has done the most telling ones
    "fgihbced"
)
CONTROL = "cosine 0.5"  # the arm of b that the others of b to e are compared with
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


SIZES = {
    "demo": Size(
        per_class=20,
        held_out=4,
        short=2,
        long=4,
        epochs=3,
        max_epochs=6,
        labels=(5, 10),
        image_size=24,
        mc_samples=10,
        tuned="bc",
        batch_size=32,
    ),
    "cpu": Size(
        per_class=180,
        held_out=30,
        short=5,
        long=15,
        epochs=6,
        max_epochs=40,
        labels=(10, 50, 100),
        image_size=32,
        mc_samples=20,
        tuned="bcd",
    ),
    "gpu": Size(
        per_class=None,
        held_out=None,
        short=50,
        long=300,
        epochs=100,
        max_epochs=300,
        labels=(10, 50, 100, 500),
        image_size=64,
        mc_samples=50,
        tuned="bcde",
    ),
}


@dataclass(frozen=True)
class Recipe:
    """What one run does: pretrain or not, then measure the encoder, fine-tune it, score
    out-of-distribution images.
    """

    start: str | None  # pretraining: an arm of b to e; None: random weights
    long: bool = True  # the long or the short pretraining
    split: str = (
        "random"  # "random", or as many images a class of each from "even random" and "geographic"
    )
    labels: int | None = None  # a class; None: all
    kind: str | None = None  # of fine-tuning: "progressive", "full", "frozen"; None: none
    rate: float = RATE
    probe: bool = False  # loss, feature statistics, kNN and linear probe
    ood: bool = False


def arms(size: Size, letter: str) -> list[str]:
    """Names of a letter's arms, in the order they are run."""
    labels = ["all", *map(str, size.labels)]
    return {
        "b": [
            f"{kind} {t:g}"
            for t in sorted(size.temperatures, key=lambda t: t != 0.5)
            for kind in ("cosine", "dot")
        ],
        "c": ["histograms", "published rendering"],
        "d": ["18.75 m"],
        "e": [*(f"noise {share} %" for share in reversed(size.noise)), "fixed order", "neighbours"],
        "f": [
            f"{kind} {n}"
            for n in labels
            for kind in ("scratch", "progressive", "linear", "untrained")
        ],
        "g": [
            f"{kind} {rate:g}"
            for kind in ("scratch", "progressive", "full", "frozen")
            for rate in size.rates
        ],
        "h": [
            f"{split} {kind}"
            for split in ("geographic", "random")
            for kind in ("scratch", "progressive")
        ],
        "i": ["scratch", "pretrained", "pretrained, study's rate"],
    }[letter]


def recipe(size: Size, letter: str, arm: str) -> Recipe:
    """What the run of this arm does."""
    if letter in "bcde":
        tuned = letter in size.tuned and (letter != "b" or arm.endswith(" 0.5"))
        return Recipe(arm, long=False, kind="progressive" if tuned else None, probe=True)
    if letter == "i":
        rate = STUDY_RATE if arm.endswith("rate") else RATE
        return Recipe(
            None if arm == "scratch" else CONTROL,
            kind="full" if arm == "scratch" else "progressive",
            rate=rate,
            ood=True,
        )
    first, second = arm.split()
    kind = second if letter == "h" else first
    start, tuning = (None, "full") if kind in ("scratch", "untrained") else (CONTROL, kind)
    if letter == "h":
        return Recipe(start, split=f"even {first}" if first == "random" else first, kind=tuning)
    if letter == "g":
        return Recipe(start, kind=tuning, rate=float(second))
    labels = None if second == "all" else int(second)
    linear = kind in ("linear", "untrained")  # of a pretrained encoder, and of a random one
    return Recipe(start, labels=labels, kind=None if linear else tuning, probe=linear)


def plan(size: Size, letters: str, seeds: range) -> Iterator[tuple[str, str, int]]:
    """(letter, arm, seed) of every run: all letters with one seed before the next seed."""
    for seed in seeds:
        for letter in LETTERS:
            for arm in arms(size, letter):
                wanted = letter in letters or (arm == CONTROL and set(letters) & set("cde"))
                if wanted and (arm != "histograms" or seed == seeds[0]):
                    yield letter, arm, seed


def phases(kind: str, epochs: int) -> tuple[int, int, int]:
    """Progressive unfreezing in the study's proportion 10/10/80, or one kind of training
    throughout.
    """
    tenth = max(1, round(epochs / 10))
    return {
        "progressive": (tenth, tenth, epochs - 2 * tenth),
        "full": (0, 0, epochs),
        "frozen": (epochs, 0, 0),
    }[kind]
