"""The two questions of a fine-tuning run, answered from its own numbers in words."""

import math
from typing import Any

import numpy as np
from scipy.stats import norm

from src.ood.evaluation import Evaluation, compare

NOTHING = "cannot be told from these images"


def paired_difference(a_correct: np.ndarray, b_correct: np.ndarray) -> list[float]:
    """Accuracy of a minus that of b on the same images, with its 95 % interval.

    Args:
        a_correct, b_correct: (n,) whether each image was classified right.

    Returns:
        [value, low, high], by Agresti and Min (2005): half an image is added to each way in which
        two classifiers may agree or differ, so that the interval holds for few images too.
    """
    a, b = np.asarray(a_correct, bool), np.asarray(b_correct, bool)
    if a.shape != b.shape or not len(a):
        raise ValueError(f"expected the same images, got {a.shape} and {b.shape}")
    n, only_a, only_b = len(a), int((a & ~b).sum()), int((b & ~a).sum())
    p, q = (only_a + 0.5) / (n + 2), (only_b + 0.5) / (n + 2)
    half = norm.ppf(0.975) * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return [(only_a - only_b) / n, max(p - q - half, -1.0), min(p - q + half, 1.0)]


def against(correct: dict[str, np.ndarray]) -> dict[str, Any]:
    """What `did_it_help` takes, of two arms → (n,) whether each test image was classified right.

    The first is the baseline, the second the pretrained one.
    """
    (baseline, theirs), (arm, ours) = correct.items()
    accuracies = [float(np.mean(ours)), float(np.mean(theirs))]
    difference = paired_difference(ours, theirs)
    names = {"arms": [arm, baseline], "images": len(ours)}
    return {**names, "accuracies": accuracies, "difference": difference}


def did_it_help(against: dict[str, Any]) -> str:
    """Whether pretraining helped, in two sentences; of what the function `against` gives."""
    (arm, baseline), (mine, other) = against["arms"], against["accuracies"]
    value, low, high = (100 * number for number in against["difference"])
    first = (
        f"Of {against['images']:,} test images {arm} gets {mine:.1%} right and {baseline} "
        f"{other:.1%}: {value:+.1f} points [{low:+.1f}, {high:+.1f}]."
    )
    if low > 0:
        return f"{first} Pretraining helped in this run; another seed may say otherwise."
    if high < 0:
        return f"{first} Pretraining hurt in this run; another seed may say otherwise."
    return f"{first} Whether pretraining helped {NOTHING}."


def which_score_works(detection: dict[str, Any]) -> str:
    """Whether mutual information or the softmax knows the unknown better, in two sentences.

    Args:
        detection: `names` of the two sets, `auroc` (score → [value, low, high]) and `difference`
            (AUROC of mutual information minus that of 1 − MSP on the same images, likewise; None
            where they are too few for an interval).
    """
    known, unknown = detection["names"]
    areas = {name: _area(values) for name, values in detection["auroc"].items()}
    first = (
        f"{unknown} is told from {known} by mutual information with AUROC "
        f"{areas['mutual_information']}, by 1 − MSP with {areas['one_minus_msp']}, and by eight "
        f"pixel statistics without a network with {areas['pixel_mahalanobis']}."
    )
    if detection["difference"] is None:
        return f"{first} Which of the two is better {NOTHING}: they are too few."
    value, low, high = detection["difference"]
    difference = f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"
    if low > 0:
        return f"{first} Mutual information is ahead here, by {difference}."
    if high < 0:
        return f"{first} 1 − MSP is ahead here: mutual information minus it is {difference}."
    return f"{first} Which of the two is better {NOTHING} ({difference})."


def detection(evaluation: Evaluation, known: str, unknown: str) -> dict[str, Any]:
    """What `which_score_works` takes, of the evaluation of one set that is called `unknown`."""
    pair = ["mutual_information", "one_minus_msp"]
    compared = compare(evaluation.id_scores[pair], evaluation.ood_scores[pair])
    (ahead, _), (value, low, high) = compared.index[0], compared.iloc[0].tolist()
    difference = [value, low, high] if ahead == pair[0] else [-value, -high, -low]
    area = evaluation.table.xs("auroc", level="metric")
    scores = [*pair, "pixel_mahalanobis"]
    return {
        "names": [known, unknown],
        "auroc": {name: area.loc[name, ["value", "low", "high"]].tolist() for name in scores},
        "difference": None if math.isnan(low) else difference,
    }


def _area(values: list[float]) -> str:
    value, low, high = values
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def answers(record: dict[str, Any]) -> list[str]:
    """What the record of a fine-tuning run says to the two questions, as far as it says anything.

    Its `against` and `detection` are what those functions gave.
    """
    told = []
    if record.get("against"):
        told.append(did_it_help(record["against"]))
    if record.get("detection"):
        told.append(which_score_works(record["detection"]))
    return told
