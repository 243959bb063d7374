"""Fitting thresholds: what is usual, from the validation images of the data trained with."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from src.checkpoints import load_classifier
from src.data.bands import EUROSAT_STRETCH
from src.data.known import check_data
from src.data.splits import Split
from src.data.store import PatchStore
from src.encoders import Classifier
from src.map.thresholds import (
    DEFAULT_MASK,
    FORMAT_VERSION,
    SCORES,
    Thresholds,
    check_exists,
    file_sha256,
)
from src.map.tones import usual_tones
from src.ood import DETECTORS, penultimate, pixel_statistics
from src.runs.runtime import Runtime, pick


def fit_thresholds(
    checkpoint: str | Path,
    store: PatchStore,
    split: Split,
    scores: Sequence[str] = DEFAULT_MASK,
    *,
    keep: float = 0.95,
    runtime: Runtime | None = None,
) -> Thresholds:
    """Thresholds from validation images, and what detectors are fitted on from training images.

    The threshold of a score is the value that `keep` of the validation images do not exceed; at
    half the share ("half"), for a mask of two scores, half as many do. The epoch was selected on
    them too, which flatters a little; so the share of *test* images above it is worked out and kept
    beside it.

    Args:
        checkpoint: of a fine-tuned classifier.
        store, split: the data it was trained with.
        scores: of `SCORES`; those that need features take one pass over the training images and 22
            MB of file.
        keep: share in (0, 1).

    Raises:
        ValueError: a score that one pass does not give, or a share out of range.
        CheckpointError: an unusable checkpoint.
        DataError: the classifier was trained on other data, or on another split of it.
    """
    _check_request(scores, keep)
    check_exists(checkpoint)
    model, trained = load_classifier(checkpoint)
    check_data(trained, checkpoint, store, split)
    runtime = runtime or pick()
    model = model.to(runtime.device)
    training = _training_statistics(model, store, split.train, scores, runtime)

    def score_rows(rows: np.ndarray) -> dict[str, np.ndarray]:
        images = store.images[rows]
        features = penultimate(model, images, runtime)
        return {name: training.score(name, model, features, images) for name in scores}

    val, test = score_rows(split.val), score_rows(split.test)
    alone, half = _quantiles(val, keep), _quantiles(val, (1 + keep) / 2)
    metadata = _origin(checkpoint, trained, store) | {
        "keep": keep,
        "thresholds": alone,
        "half": half,
        "test_flagged": {name: float((test[name] > alone[name]).mean()) for name in scores},
        "test_flagged_by_two": {
            f"{a} or {b}": float(((test[a] > half[a]) | (test[b] > half[b])).mean())
            for a, b in combinations(scores, 2)
        },
        **usual_tones(store.images[split.train]),
    }
    return replace(training, metadata=metadata)


def _quantiles(scores: dict[str, np.ndarray], keep: float) -> dict[str, float]:
    return {name: float(np.quantile(s, keep, method="higher")) for name, s in scores.items()}


def _check_request(scores: Sequence[str], keep: float) -> None:
    if strangers := set(scores) - set(SCORES):
        raise ValueError(f"no map by {sorted(strangers)}; one pass gives: {', '.join(SCORES)}")
    if not 0 < keep < 1:
        raise ValueError(f"keep must lie between 0 and 1, got {keep}")


def _training_statistics(
    model: Classifier, store: PatchStore, rows: np.ndarray, scores: Sequence[str], runtime: Runtime
) -> Thresholds:
    """Thresholds that can score already, but know of no threshold yet."""
    images = store.images[rows]
    pixels = pixel_statistics(images, model.encoder.image_size)
    if not any(DETECTORS[name].needs == "features" for name in scores):
        nothing = np.zeros((0, model.head[-1].in_features), np.float32)
        return Thresholds({}, nothing, np.zeros(0, int), pixels)
    features = penultimate(model, images, runtime).astype(np.float32)
    return Thresholds({}, features, store.labels[rows], pixels)


def _origin(checkpoint: str | Path, trained: dict[str, Any], store: PatchStore) -> dict[str, Any]:
    """What the thresholds are of: which checkpoint, which data, and how its pixels were made."""
    return {
        "format": FORMAT_VERSION,
        "checkpoint": Path(checkpoint).name,
        "checkpoint_sha256": file_sha256(checkpoint),
        "classes": list(trained["classes"]),
        "data": store.provenance,
        "seed": trained["config"]["seed"],
        "tile": store.images.shape[1],
        "dtype": str(store.images.dtype),
        "stretch": (trained["data"] or {}).get("stretch", EUROSAT_STRETCH),
    }
