"""What the audit asks, as data: the study's findings, what may have caused them, and every
comparison of a letter.
"""

from dataclasses import dataclass, replace

import pandas as pd

from audit.plan import CONTROL, PUBLISHED_HEAD, RATE, SPLITS, STUDY_RATE
from audit.stages import LONG_GROUND
from audit.tables import Difference, t_interval, values

ACCURACY, BALANCED, FROZEN = "test_accuracy", "balanced_accuracy", "linear"
MI, MSP = "auroc_mutual_information", "auroc_one_minus_msp"
MI_GAIN, PIXEL_GAIN = "mi_minus_msp", "mi_minus_pixels"
METRIC_NAMES = {
    ACCURACY: "test accuracy",
    BALANCED: "test accuracy, mean over classes",
    FROZEN: "linear probe",
    MI: "AUROC of MI",
    MSP: "AUROC of 1 − MSP",
    MI_GAIN: "AUROC of MI − AUROC of 1 − MSP",
    PIXEL_GAIN: "AUROC of MI − AUROC of pixel statistics",
}


@dataclass(frozen=True)
class Claim:
    """That a metric of an arm lies to one side of its control's; arms are written "letter/arm"."""

    text: str
    metric: str
    arm: str
    control: str | None  # None: the metric is a difference by itself
    sign: int = 0  # the side that is claimed; 0: none
    encoder: str = "custom_cnn"

    @property
    def letter(self) -> str:
        """Of the plan."""
        return self.arm[0]


def paired(table: pd.DataFrame, claim: Claim) -> Difference:
    """The claim's difference over the seeds that both arms have."""
    differences = values(table, claim.metric, claim.arm, claim.encoder)
    if claim.control is not None:
        control = values(table, claim.metric, claim.control, claim.encoder)
        differences = (differences - control).dropna()
    return t_interval(differences.to_numpy())


# --- the five that were named before any run of the size `full` was started ---

PRIMARY = (
    Claim("Pretraining lowers the Custom CNN's accuracy, each arm at its best rate",
          ACCURACY, "2/pretrained best", "2/scratch best", -1),
    Claim("Pretraining lowers the Custom CNN's accuracy, by the study's recipe",
          ACCURACY, "2/pretrained 0.0001", "2/scratch 0.001", -1),
    Claim("Pretraining lowers the Custom CNN's accuracy with 10 labels a class",
          ACCURACY, "3/pretrained 10", "3/scratch 10", -1),
    Claim("Pretraining lowers the AUROC of MI, over out-of-distribution sets",
          MI, "6/pretrained best of 2", "6/scratch best of 2", -1),
    Claim("Pretraining lowers ResNet-50's accuracy, each arm at its best rate",
          ACCURACY, "4/pretrained best", "4/scratch best", -1, "resnet50"),
)  # fmt: skip
LEVEL = 0.05  # of the five together, by Holm
# Three seeds each; more are run, up to five, while the interval of an accuracy is wider than this
# to either side: no seed is added or left out for what the mean says.
HALF_WIDTH = 0.01


def is_settled(difference: Difference) -> bool:
    """Whether a comparison needs no more seeds: see `HALF_WIDTH`."""
    return difference.n >= 3 and difference.half_width <= HALF_WIDTH


# --- with a side that is claimed, exploratory ---


def published(few: int) -> list[Claim]:
    """The study's findings, as claims about our small runs. few: the fewest labels a class."""
    study_recipe = f"g/progressive {STUDY_RATE:g}", f"g/scratch {RATE:g}"
    best, best_full = (f"g/{kind} best" for kind in ("progressive", "full"))
    few_labels, all_labels = ((f"f/progressive {n}", f"f/scratch {n}") for n in (few, "all"))
    blocks = "h/blocks progressive", "h/blocks scratch"
    scratch, recipe = "i/scratch", "i/pretrained, study's rate"
    ood = recipe, scratch
    unknown_scratch, unknown = "6/scratch best of 2", "6/pretrained best of 2"
    near, near_scratch = "6/near pretrained", "6/near scratch"
    raised = "Pretraining raises the AUROC of 1 − MSP (sign corrected), by the study's recipe"
    return [
        Claim("Pretraining lowers accuracy, by the study's recipe", ACCURACY, *study_recipe, -1),
        Claim("… and at the learning rate best for each", ACCURACY, best, "g/scratch best", -1),
        Claim("… and without unfreezing in phases", ACCURACY, best_full, "g/scratch best", -1),
        Claim(f"… and with {few} labels a class", ACCURACY, *few_labels, -1),
        Claim("… and on blocks of ground that training has not seen", BALANCED, *blocks, -1),
        Claim("Pretraining lowers the AUROC of MI, by the study's recipe", MI, *ood, -1),
        Claim(raised, MSP, *ood, 1),
        Claim("MI beats the softmax, from scratch", MI_GAIN, scratch, None, 1),
        Claim("MI beats the softmax, pretrained by the study's recipe", MI_GAIN, recipe, None, 1),
        Claim("MI beats eight pixel statistics, from scratch", PIXEL_GAIN, scratch, None, 1),
        Claim("Pretraining raises the AUROC of 1 − MSP, over out-of-distribution sets", MSP,
              unknown, unknown_scratch, 1),
        Claim("MI beats the softmax over out-of-distribution sets, from scratch", MI_GAIN,
              unknown_scratch, None, 1),
        Claim("MI beats the softmax over out-of-distribution sets, pretrained", MI_GAIN,
              unknown, None, 1),
        Claim("MI beats eight pixel statistics over these sets, pretrained", PIXEL_GAIN,
              unknown, None, 1),
        Claim("Pretraining lowers the AUROC of MI on classes left out of training", MI, near,
              near_scratch, -1),
        Claim("MI beats the softmax on classes left out, from scratch", MI_GAIN, near_scratch, None,
              1),
        Claim("MI beats the softmax on classes left out, pretrained", MI_GAIN, near, None, 1),
        Claim("Pretraining lowers ResNet-50's accuracy", ACCURACY, *all_labels, -1, "resnet50"),
        Claim("ViT-B/16 from scratch needs a lower rate than 1e-3", ACCURACY, "1/scratch 0.0001",
              "1/scratch 0.001", 1, "vit_b_16"),
    ]  # fmt: skip


def suspected() -> list[Claim]:
    """What may have made pretraining look worse, each as the claim that it costs something."""
    control, dark = f"b/{CONTROL}", "c/published rendering"
    heads = f"b/dot 0.5{PUBLISHED_HEAD}", f"b/{CONTROL}{PUBLISHED_HEAD}"
    fixed, neighbours = "e/fixed order", "e/neighbours"
    rates = f"g/progressive {STUDY_RATE:g}", f"g/progressive {RATE:g}"
    whole = f"2/pretrained {STUDY_RATE:g}", f"2/pretrained {RATE:g}"
    phases = "g/progressive best", "g/full best"
    same, aerial = "5/eurosat", {"RESISC45": "5/resisc45", "UC Merced": "5/ucmerced"}
    return [
        Claim("Plain dot products cost accuracy, with the published head (τ = 0.5)", FROZEN, *heads,
              -1),
        Claim("Near-black rendering costs accuracy", FROZEN, dark, control, -1),
        Claim("… also after fine-tuning", ACCURACY, dark, control, -1),
        Claim("18.75 m pixels cost accuracy", FROZEN, "d/18.75 m", control, -1),
        Claim("Half of the images left out cost accuracy", FROZEN, "e/left out 50 %", control, -1),
        *(Claim(f"{n} % noise pairs cost more than leaving these images out", FROZEN,
                f"e/noise {n} %", f"e/left out {n} %", -1) for n in (10, 50)),
        Claim("Noise pairs alone teach less than images", FROZEN, "e/noise 100 %", control, -1),
        Claim("The same batches every epoch cost accuracy", FROZEN, fixed, control, -1),
        Claim("Batches of neighbours cost more than that", FROZEN, neighbours, fixed, -1),
        Claim("Sentinel-2 of another region teaches less than EuroSAT's own images", FROZEN,
              "5/satlab", same, -1),
        Claim("… and rendered near-black less than in EuroSAT's tones", FROZEN, "5/satlab dark",
              "5/satlab", -1),
        *(Claim(f"Aerial pictures ({name}) teach less than EuroSAT's own images", FROZEN, arm,
                same, -1) for name, arm in aerial.items()),
        Claim("A tenth of the learning rate costs accuracy after 168 steps", ACCURACY, *rates, -1),
        Claim("… and on all images, after 20 epochs", ACCURACY, *whole, -1),
        Claim("Unfreezing in phases costs accuracy", ACCURACY, *phases, -1),
        *_of_ground(),
    ]  # fmt: skip


def _of_ground() -> list[Claim]:
    """What neighbours, and another region, make of an accuracy."""
    random, blocks, west = (f"h/{split} scratch" for split in SPLITS)
    all_random, all_blocks, all_west = (f"7/{split} scratch" for split in SPLITS)
    long_random, long_blocks, long_west = (f"7/{split} scratch {LONG_GROUND}" for split in SPLITS)
    gaps = "h/random gap", "h/blocks gap"
    return [
        Claim("Neighbours flatter: a random split against blocks of 0.5°", BALANCED, random, blocks,
              1),
        Claim("Neighbours flatter with all images, too", BALANCED, all_random, all_blocks, 1),
        Claim("… and after 20 epochs", BALANCED, long_random, long_blocks, 1),
        Claim("Another region costs more: blocks against one cut of longitude", BALANCED, blocks,
              west, 1),
        Claim("Another region costs more with all images, too", BALANCED, all_blocks, all_west, 1),
        Claim("… and after 20 epochs of them", BALANCED, long_blocks, long_west, 1),
        Claim("A random split makes pretraining look worse than blocks do", BALANCED, *gaps, -1),
    ]  # fmt: skip


# --- every comparison of a letter ---


def details(table: pd.DataFrame, letter: str, encoder: str = "custom_cnn") -> list[Claim]:
    """Every comparison of one letter between arms that were run of one encoder."""
    table = table[table["encoder"] == encoder]
    arms = list(dict.fromkeys(table.loc[table["letter"] == letter, "arm"]))
    if letter == "b":
        text = "dot products against cosine at τ = {}"
        claims = _against(arms, "dot", "cosine", FROZEN, text, letter)
    elif letter == "f":
        tuned = "pretrained against from scratch, {} labels"
        frozen = "frozen, pretrained against random weights, {} labels"
        claims = _against(arms, "progressive", "scratch", ACCURACY, tuned, letter)
        claims += _against(arms, "linear", "untrained", FROZEN, frozen, letter)
    elif letter == "g":
        claims = []
        for kind in ("progressive", "full", "frozen"):
            claims += _against(arms, kind, "scratch", ACCURACY, f"{kind} {{}}", letter)
    elif letter == "i":
        claims = _every_score(table)
    else:
        claims = [claim for claim in suspected() if claim.letter == letter]
    return [replace(claim, encoder=encoder) for claim in claims]


def _against(
    arms: list[str], first: str, second: str, metric: str, text: str, letter: str
) -> list[Claim]:
    """Arms whose names begin with `first`, each against the one that begins with `second` and goes
    on alike; the rest of the name fills the text.
    """
    claims = []
    for arm in arms:
        rest = arm.removeprefix(first)
        control = second + rest
        if arm.startswith(first) and control in arms:
            names = f"{letter}/{arm}", f"{letter}/{control}"
            claims.append(Claim(text.format(rest.strip()), metric, *names))
    return claims


def _every_score(table: pd.DataFrame) -> list[Claim]:
    """Pretrained against from scratch (i), of every detector."""
    scores = [name for name in table if name.startswith("auroc_") and "pixel" not in name]
    titles = [score.removeprefix("auroc_").replace("_", " ") for score in scores]
    return [
        Claim(title, score, "i/pretrained", "i/scratch")
        for title, score in zip(titles, scores, strict=True)
    ]
