"""Out-of-distribution detection: MC Dropout, detectors, metrics, settings and controls.

One convention everywhere: a higher score means more out-of-distribution, and label 1 is
out-of-distribution. Shapes are in the names: T samples, N images, C classes, D features, B
bootstrap resamples.
"""

from src.ood.confidence import (
    NoTemperatureError,
    accuracy_rejection,
    calibration,
    ece,
    fit_temperature,
    reliability,
)
from src.ood.detectors import DETECTORS, detector_table, scores
from src.ood.evaluation import Evaluation, compare, evaluate, metrics
from src.ood.feature_detectors import Train, check_neighbours, mahalanobis
from src.ood.outputs import mc_dropout, penultimate, pixel_statistics
from src.ood.prediction_detectors import entropy, odin
from src.ood.settings import (
    SHIFTS,
    HeldOut,
    controls,
    hold_out,
    jpeg,
    match_channel_statistics,
    shifts,
)

__all__ = [
    "DETECTORS",
    "SHIFTS",
    "Evaluation",
    "HeldOut",
    "NoTemperatureError",
    "Train",
    "accuracy_rejection",
    "calibration",
    "check_neighbours",
    "compare",
    "controls",
    "detector_table",
    "ece",
    "entropy",
    "evaluate",
    "fit_temperature",
    "hold_out",
    "jpeg",
    "mahalanobis",
    "match_channel_statistics",
    "mc_dropout",
    "metrics",
    "odin",
    "penultimate",
    "pixel_statistics",
    "reliability",
    "scores",
    "shifts",
]
