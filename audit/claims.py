"""What the audit asks, as data: the study's findings, what may have caused them, and every
comparison of a letter.
"""

from dataclasses import dataclass, replace

import pandas as pd

from audit.plan import CONTROL, RATE, STUDY_RATE
from audit.tables import Difference, t_interval, values

ACCURACY, FROZEN = "test_accuracy", "linear"
MI, MSP = "auroc_mutual_information", "auroc_one_minus_msp"
METRIC_NAMES = {
    ACCURACY: "test accuracy",
    FROZEN: "linear probe",
    MI: "AUROC of MI",
    MSP: "AUROC of 1 − MSP",
    "mi_minus_msp": "AUROC of MI − AUROC of 1 − MSP",
    "mi_minus_pixels": "AUROC of MI − AUROC of pixel statistics",
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


# --- with a side that is claimed ---


def published(few: int) -> list[Claim]:
    """The study's findings, as claims about our runs. few: the fewest labels a class that were
    tried.
    """
    study_recipe = f"g/progressive {STUDY_RATE:g}", f"g/scratch {RATE:g}"
    best, best_full = (f"g/{kind} best" for kind in ("progressive", "full"))
    few_labels, all_labels = ((f"f/progressive {n}", f"f/scratch {n}") for n in (few, "all"))
    geographic = "h/geographic progressive", "h/geographic scratch"
    scratch, pretrained = "i/scratch", "i/pretrained"
    ood = pretrained, scratch
    raised = "Pretraining raises the AUROC of 1 − MSP (sign corrected)"
    return [
        Claim("Pretraining lowers accuracy, by the study's recipe", ACCURACY, *study_recipe, -1),
        Claim("… and at the learning rate best for each", ACCURACY, best, "g/scratch best", -1),
        Claim("… and without unfreezing in phases", ACCURACY, best_full, "g/scratch best", -1),
        Claim(f"… and with {few} labels a class", ACCURACY, *few_labels, -1),
        Claim("… and on a geographic split", ACCURACY, *geographic, -1),
        Claim("Longer pretraining helps", FROZEN, "f/linear all", f"b/{CONTROL}", 1),
        Claim("Pretraining lowers the AUROC of MI", MI, *ood, -1),
        Claim(raised, MSP, *ood, 1),
        Claim("MI beats the softmax, from scratch", "mi_minus_msp", scratch, None, 1),
        Claim("MI beats the softmax, pretrained", "mi_minus_msp", pretrained, None, 1),
        Claim("MI beats eight pixel statistics, from scratch", "mi_minus_pixels", scratch, None, 1),
        Claim("Pretraining lowers ResNet-50's accuracy", ACCURACY, *all_labels, -1, "resnet50"),
        Claim("Pretraining raises ViT-B/16's accuracy", ACCURACY, *all_labels, 1, "vit_b_16"),
    ]


def suspected() -> list[Claim]:
    """What may have made pretraining look worse than it is, each as the claim that it costs
    something.
    """
    control, dark = f"b/{CONTROL}", "c/published rendering"
    fixed, neighbours = "e/fixed order", "e/neighbours"
    rates = f"g/progressive {STUDY_RATE:g}", f"g/progressive {RATE:g}"
    phases = "g/progressive best", "g/full best"
    splits, gaps = ((f"h/random {what}", f"h/geographic {what}") for what in ("scratch", "gap"))
    return [
        Claim("Plain dot products cost accuracy (τ = 0.5)", FROZEN, "b/dot 0.5", control, -1),
        Claim("Near-black rendering costs accuracy", FROZEN, dark, control, -1),
        Claim("… also after fine-tuning", ACCURACY, dark, control, -1),
        Claim("18.75 m pixels cost accuracy", FROZEN, "d/18.75 m", control, -1),
        *(
            Claim(f"{n} % noise pairs cost accuracy", FROZEN, f"e/noise {n} %", control, -1)
            for n in (10, 50, 100)
        ),
        Claim("The same batches every epoch cost accuracy", FROZEN, fixed, control, -1),
        Claim("Batches of neighbours cost more than that", FROZEN, neighbours, fixed, -1),
        Claim("A tenth of the learning rate costs accuracy", ACCURACY, *rates, -1),
        Claim("Unfreezing in phases costs accuracy", ACCURACY, *phases, -1),
        Claim("A random split flatters (from scratch)", ACCURACY, *splits, 1),
        Claim("A random split makes pretraining look worse", ACCURACY, *gaps, -1),
    ]


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
