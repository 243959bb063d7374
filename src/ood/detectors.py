"""All detectors: the one table of them, and the scores of those that work on arrays."""

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from src.checks import as_float64, check_labels
from src.ood.feature_detectors import (
    Train,
    class_mahalanobis,
    knn,
    pixel_mahalanobis,
    relative_mahalanobis,
    vim,
)
from src.ood.prediction_detectors import (
    energy,
    expected_entropy,
    generalised_entropy,
    max_logit,
    mutual_information,
    odin,
    one_minus_msp,
    predictive_entropy,
    predictive_variance,
    variation_ratio,
)


@dataclass(frozen=True)
class Detector:
    """A function that scores images, under the name it has in tables and figures."""

    score: Callable[..., np.ndarray]
    title: str
    # "MC samples", "logits", "features" (and the training split's), "gradients" or "pixels"
    needs: str

    @property
    def formula(self) -> str:
        """Of one image, from the docstring of `score`."""
        return self._line_of_the_docstring("Formula")

    @property
    def paper(self) -> str:
        """Where it comes from, from the docstring of `score`."""
        return self._line_of_the_docstring("Paper")

    def _line_of_the_docstring(self, name: str) -> str:
        lines = (inspect.getdoc(self.score) or "").splitlines()
        return next((line[len(name) + 2 :] for line in lines if line.startswith(f"{name}: ")), "")


# by the name of the function
DETECTORS = {
    detector.score.__name__: detector
    for detector in (
        Detector(mutual_information, "mutual information", "MC samples"),
        Detector(predictive_entropy, "predictive entropy", "MC samples"),
        Detector(expected_entropy, "expected entropy", "MC samples"),
        Detector(predictive_variance, "predictive variance", "MC samples"),
        Detector(variation_ratio, "variation ratio", "MC samples"),
        Detector(one_minus_msp, "1 − MSP", "logits"),
        Detector(energy, "energy", "logits"),
        Detector(max_logit, "max logit", "logits"),
        Detector(generalised_entropy, "generalised entropy", "logits"),
        Detector(knn, "kNN", "features"),
        Detector(class_mahalanobis, "Mahalanobis", "features"),
        Detector(relative_mahalanobis, "relative Mahalanobis", "features"),
        Detector(vim, "ViM", "features"),
        Detector(odin, "ODIN", "gradients"),
        Detector(pixel_mahalanobis, "pixel statistics (no network)", "pixels"),
    )
}


def detector_table() -> pd.DataFrame:
    """What there is: one row a detector; columns needs, formula, paper."""
    rows = {
        detector.title: [detector.needs, detector.formula, detector.paper]
        for detector in DETECTORS.values()
    }
    columns = ["needs", "formula", "paper"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("detector")


def scores(
    log_probs_T_N_C: np.ndarray,
    logits_N_C: np.ndarray,
    features_N_D: np.ndarray | None = None,
    train: Train | None = None,
) -> pd.DataFrame:
    """OOD scores of N images, one column for each of `DETECTORS` that these arrays suffice for.

    Args:
        log_probs_T_N_C: from `mc_dropout`. With T = 1 mutual information and variance are 0 by
            definition: a warning.
        logits_N_C: of the deterministic pass.
        features_N_D: from `penultimate`; None, with `train`, leaves out the detectors on features.
        train: the training split's, from `Train.of`.

    Raises:
        ValueError: shapes don't fit, or a value is NaN or infinite.
    """
    log_probs_T_N_C, logits_N_C = as_float64(log_probs_T_N_C), as_float64(logits_N_C)
    if log_probs_T_N_C.ndim != 3 or log_probs_T_N_C.shape[1:] != logits_N_C.shape:
        raise ValueError(
            f"expected (T, N, C) and (N, C), got {log_probs_T_N_C.shape} and {logits_N_C.shape}"
        )
    if not (log_probs_T_N_C < np.inf).all() or not np.isfinite(logits_N_C).all():
        raise ValueError(
            "log probabilities or logits hold NaN or infinite values: look at the model's training"
            " loss"
        )
    if (features_N_D is None) != (train is None):
        raise ValueError("features and the training split belong together: give both or neither")
    if len(log_probs_T_N_C) == 1:
        warnings.warn(
            "one MC sample: mutual information and variance are 0 by definition", stacklevel=2
        )
    given = {"MC samples": (log_probs_T_N_C,), "logits": (logits_N_C,)}
    if train is not None:
        features_N_D = as_float64(features_N_D)
        _check_features(features_N_D, train, logits_N_C.shape)
        given["features"] = (train, features_N_D)
    return pd.DataFrame(
        {name: d.score(*given[d.needs]) for name, d in DETECTORS.items() if d.needs in given}
    )


def _check_features(features_N_D: np.ndarray, train: Train, shape: tuple[int, int]) -> None:
    check_labels(train.labels_N, shape[1], what="training labels")
    expected = (shape[0], train.features_N_D.shape[1])
    if features_N_D.shape != expected or len(train.labels_N) != len(train.features_N_D):
        raise ValueError(
            f"expected features of shape {expected} and {len(train.features_N_D)} training labels, "
            f"got {features_N_D.shape} and {len(train.labels_N)}"
        )
    if not np.isfinite(features_N_D).all() or not np.isfinite(train.features_N_D).all():
        raise ValueError("features hold NaN or infinite values: look at the model's training loss")
