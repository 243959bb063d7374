"""Is the confidence true? Calibration error, temperature, and accuracy among the images kept."""

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from src.checks import COUNT, RATE, as_float64, check_labels, check_number


def reliability(
    confidence_N: np.ndarray, correct_N: np.ndarray, bins: int = 15, equal_mass: bool = False
) -> pd.DataFrame:
    """Mean confidence, accuracy and count of every bin that holds an image.

    Args:
        confidence_N: in [0, 1]; 0.0 falls into the first bin and 1.0 into the last.
        correct_N: whether each prediction is right.
        equal_mass: bins of as many images each (equal confidences stay together), not of equal
            width.

    Raises:
        ValueError: no images, lengths that differ, a confidence that is NaN or outside [0, 1], or
            fewer than one bin.
    """
    confidence, correct = as_float64(confidence_N), as_float64(correct_N)
    check_number(bins, "bins", COUNT)
    if confidence.ndim != 1 or confidence.shape != correct.shape or len(confidence) == 0:
        raise ValueError(
            f"expected as many confidences as answers, got {confidence.shape} and {correct.shape}"
        )
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("confidences must lie in [0, 1]")
    place = confidence
    if equal_mass:  # the share of images that are less confident
        place = np.searchsorted(np.sort(confidence), confidence) / len(confidence)
    number = np.minimum((place * bins).astype(int), bins - 1)
    frame = pd.DataFrame({"confidence": confidence, "accuracy": correct, "count": 1.0})
    return frame.groupby(number).agg({"confidence": "mean", "accuracy": "mean", "count": "sum"})


def ece(
    confidence_N: np.ndarray, correct_N: np.ndarray, bins: int = 15, equal_mass: bool = False
) -> float:
    """Expected calibration error in [0, 1] (Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599).

    Arguments and errors are those of `reliability`.
    """
    table = reliability(confidence_N, correct_N, bins, equal_mass)
    gap = (table["confidence"] - table["accuracy"]).abs()
    return float(np.average(gap, weights=table["count"]))


def calibration(
    logits_N_C: np.ndarray, labels_N: np.ndarray, temperature: float = 1.0, bins: int = 15
) -> pd.Series:
    """How true the probabilities softmax(logits / temperature) are.

    Returns:
        accuracy; nll in nats; brier (summed over classes, in [0, 2]); ece and ece_equal_mass.

    Raises:
        ValueError: no images, logits that are not finite (N, C), labels that are no classes (see
            `check_labels`), or a temperature that is not positive.
    """
    check_number(temperature, "temperature", RATE)
    logits_N_C = as_float64(logits_N_C)
    if logits_N_C.ndim != 2 or not logits_N_C.size or not np.isfinite(logits_N_C).all():
        raise ValueError(f"expected finite (N, C) logits, got {logits_N_C.shape}")
    labels_N = check_labels(labels_N, logits_N_C.shape[1], len(logits_N_C))
    log_probs = log_softmax(logits_N_C / temperature, axis=1)
    probs, truth = np.exp(log_probs), np.eye(log_probs.shape[1])[labels_N]
    confidence, correct = probs.max(1), probs.argmax(1) == labels_N
    return pd.Series(
        {
            "accuracy": correct.mean(),
            "nll": -(log_probs * truth).sum(1).mean(),
            "brier": ((probs - truth) ** 2).sum(1).mean(),
            "ece": ece(confidence, correct, bins),
            "ece_equal_mass": ece(confidence, correct, bins, equal_mass=True),
        }
    )


class NoTemperatureError(ValueError):
    """The images that a temperature was to be fitted on have no best one."""


def fit_temperature(val_logits_N_C: np.ndarray, val_labels_N: np.ndarray) -> float:
    """The temperature with the lowest NLL on val (Guo et al. 2017, arXiv 1706.04599).

    Above 1 the network was too sure.

    Raises:
        NoTemperatureError: no minimum in 0.05 … 20, as when every image of val is classified right
            with room to spare.
        ValueError: see `calibration`.
    """

    def nll(log_temperature: float) -> float:
        return calibration(val_logits_N_C, val_labels_N, np.exp(log_temperature))["nll"]

    low, high = np.log([0.05, 20])
    best = minimize_scalar(nll, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x
    if not nll(best) < min(nll(low), nll(high)):
        raise NoTemperatureError(
            f"no temperature in 0.05 … 20 fits these {len(val_labels_N)} images: use more, or"
            " harder ones"
        )
    return float(np.exp(best))


def accuracy_rejection(uncertainty_N: np.ndarray, correct_N: np.ndarray) -> pd.DataFrame:
    """Accuracy among the images kept when the most uncertain are rejected.

    Returns:
        Columns kept (share, rising) and accuracy. Images of equal uncertainty are kept or rejected
        together.

    Raises:
        ValueError: no images, lengths that differ, or an uncertainty that is not finite.
    """
    uncertainty, correct = as_float64(uncertainty_N), as_float64(correct_N)
    fits = uncertainty.shape == correct.shape and len(correct) > 0
    if not fits or not np.isfinite(uncertainty).all():
        raise ValueError(
            f"expected finite uncertainties and as many answers, got {uncertainty.shape},"
            f" {correct.shape}"
        )
    order = np.argsort(uncertainty, kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(uncertainty[order])), len(order) - 1)
    kept = last_of_ties + 1
    right = np.cumsum(correct[order])[last_of_ties]
    return pd.DataFrame({"kept": kept / len(order), "accuracy": right / kept})
