"""What the audit asks, as data: the study's findings, what may have caused them, and every
comparison of a letter.
"""

from dataclasses import dataclass, replace

import pandas as pd

from audit.plan import CONTROL, RATE, STUDY_RATE
from audit.tables import Difference, t_interval, values

ACCURACY, FROZEN, MI, MSP = (
    "test_accuracy",
    "linear",
    "auroc_mutual_information",
    "auroc_one_minus_msp",
)
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
        return self.arm[0]


def paired(table: pd.DataFrame, claim: Claim) -> Difference:
    """The claim's difference over the seeds that both arms have."""
    own = values(table, claim.metric, claim.arm, claim.encoder)
    if claim.control is not None:
        own = (own - values(table, claim.metric, claim.control, claim.encoder)).dropna()
    return t_interval(own.to_numpy())


def published(few: int) -> list[Claim]:
    """The study's findings, as claims about our runs. few: the fewest labels a class that were
    tried.
    """
    recipe = f"g/progressive {STUDY_RATE:g}", f"g/scratch {RATE:g}"
    full = "f/progressive all", "f/scratch all"
    return [
        Claim("Pretraining lowers accuracy, by the study's recipe", ACCURACY, *recipe, -1),
        Claim(
            "… and at the learning rate best for each",
            ACCURACY,
            "g/progressive best",
            "g/scratch best",
            -1,
        ),
        Claim("… and without unfreezing in phases", ACCURACY, "g/full best", "g/scratch best", -1),
        Claim(
            f"… and with {few} labels a class",
            ACCURACY,
            f"f/progressive {few}",
            f"f/scratch {few}",
            -1,
        ),
        Claim(
            "… and on a geographic split",
            ACCURACY,
            "h/geographic progressive",
            "h/geographic scratch",
            -1,
        ),
        Claim("Longer pretraining helps", FROZEN, "f/linear all", f"b/{CONTROL}", 1),
        Claim("Pretraining lowers the AUROC of MI", MI, "i/pretrained", "i/scratch", -1),
        Claim(
            "Pretraining raises the AUROC of 1 − MSP (sign corrected)",
            MSP,
            "i/pretrained",
            "i/scratch",
            1,
        ),
        Claim("MI beats the softmax, from scratch", "mi_minus_msp", "i/scratch", None, 1),
        Claim("MI beats the softmax, pretrained", "mi_minus_msp", "i/pretrained", None, 1),
        Claim(
            "MI beats eight pixel statistics, from scratch", "mi_minus_pixels", "i/scratch", None, 1
        ),
        Claim("Pretraining lowers ResNet-50's accuracy", ACCURACY, *full, -1, "resnet50"),
        Claim("Pretraining raises ViT-B/16's accuracy", ACCURACY, *full, 1, "vit_b_16"),
    ]


def suspected() -> list[Claim]:
    """What may have made pretraining look worse than it is, each as the claim that it costs
    something.
    """
    control, dark = f"b/{CONTROL}", "c/published rendering"
    return [
        Claim("Plain dot products cost accuracy (τ = 0.5)", FROZEN, "b/dot 0.5", control, -1),
        Claim("Near-black rendering costs accuracy", FROZEN, dark, control, -1),
        Claim("… also after fine-tuning", ACCURACY, dark, control, -1),
        Claim("18.75 m pixels cost accuracy", FROZEN, "d/18.75 m", control, -1),
        *(
            Claim(f"{n} % noise pairs cost accuracy", FROZEN, f"e/noise {n} %", control, -1)
            for n in (10, 50, 100)
        ),
        Claim("The same batches every epoch cost accuracy", FROZEN, "e/fixed order", control, -1),
        Claim(
            "Batches of neighbours cost more than that", FROZEN, "e/neighbours", "e/fixed order", -1
        ),
        Claim(
            "A tenth of the learning rate costs accuracy",
            ACCURACY,
            f"g/progressive {STUDY_RATE:g}",
            f"g/progressive {RATE:g}",
            -1,
        ),
        Claim(
            "Unfreezing in phases costs accuracy", ACCURACY, "g/progressive best", "g/full best", -1
        ),
        Claim(
            "A random split flatters (from scratch)",
            ACCURACY,
            "h/random scratch",
            "h/geographic scratch",
            1,
        ),
        Claim(
            "A random split makes pretraining look worse",
            ACCURACY,
            "h/random gap",
            "h/geographic gap",
            -1,
        ),
    ]


def details(table: pd.DataFrame, letter: str, encoder: str = "custom_cnn") -> list[Claim]:
    """Every comparison of one letter between arms that were run of one encoder."""
    return [
        replace(claim, encoder=encoder)
        for claim in _details(table[table["encoder"] == encoder], letter)
    ]


def _details(table: pd.DataFrame, letter: str) -> list[Claim]:
    arms = list(dict.fromkeys(table.loc[table["letter"] == letter, "arm"]))

    def against(metric: str, first: str, second: str, text: str) -> list[Claim]:
        """Arms whose names begin with `first`, each against the one that begins with `second` and
        goes on alike.
        """
        tails = [arm.removeprefix(first) for arm in arms if arm.startswith(first)]
        return [
            Claim(
                text.format(tail.strip()),
                metric,
                f"{letter}/{first}{tail}",
                f"{letter}/{second}{tail}",
            )
            for tail in tails
            if f"{second}{tail}" in arms
        ]

    if letter == "b":
        return against(FROZEN, "dot", "cosine", "dot products against cosine at τ = {}")
    if letter == "f":
        random = against(
            FROZEN, "linear", "untrained", "frozen, pretrained against random weights, {} labels"
        )
        return (
            against(
                ACCURACY, "progressive", "scratch", "pretrained against from scratch, {} labels"
            )
            + random
        )
    if letter == "g":
        kinds = ("progressive", "full", "frozen")
        return [
            claim for kind in kinds for claim in against(ACCURACY, kind, "scratch", f"{kind} {{}}")
        ]
    if letter == "i":
        scores = [
            column for column in table if column.startswith("auroc_") and "pixel" not in column
        ]
        names = {score: score.removeprefix("auroc_").replace("_", " ") for score in scores}
        return [Claim(names[score], score, "i/pretrained", "i/scratch") for score in scores]
    return [claim for claim in suspected() if claim.letter == letter]
