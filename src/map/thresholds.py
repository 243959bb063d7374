"""Where a score stops being usual, and what usual tones are: what a map must know of EuroSAT.

Worked out once and kept in one `.npz` (arrays and JSON, no pickle): a map needs no EuroSAT after
that.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from src.checkpoints import load_classifier, replacing
from src.data.bands import EUROSAT_STRETCH
from src.data.splits import Split
from src.data.store import PatchStore
from src.encoders import Classifier
from src.errors import DataError
from src.ood import DETECTORS, Train, penultimate, pixel_statistics
from src.ood.outputs import last_layer
from src.runs import is_fingerprint_of
from src.runs.runtime import Runtime, pick

FORMAT_VERSION = 1
DEFAULT_SCORE = "energy"
# what one pass gives; MC Dropout takes T of them, and ODIN a gradient
ONE_PASS = ("logits", "features", "pixels")
SCORES = tuple(name for name, detector in DETECTORS.items() if detector.needs in ONE_PASS)
REMEDY = "fit them again: python -m src.map … --store STORE"


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of one classifier, and what its detectors are fitted on."""

    # plain values: checkpoint, data, tile, stretch, tones; by score its threshold and the share of
    # test images above it
    metadata: dict[str, Any]
    features_N_D: np.ndarray  # of the training images, float32; none where only logits are scored
    labels_N: np.ndarray  # of the same images
    pixels_N_S: np.ndarray  # statistics of the training images, see `pixel_statistics`

    def train(self, model: Classifier) -> Train:
        """What detectors on features are fitted on; its `logits` are those of the model."""
        return Train(self.features_N_D.astype(np.float64), self.labels_N, *last_layer(model))

    def score(
        self, name: str, model: Classifier, features_N_D: np.ndarray, images: np.ndarray
    ) -> np.ndarray:
        """(N,) OOD scores, higher = more OOD.

        Args:
            name: one of `SCORES`.
            features_N_D: of the images, from `penultimate`.
            images: (N, H, W, C), as the model was trained on.
        """
        detector = DETECTORS[name]
        if detector.needs == "pixels":
            statistics = pixel_statistics(images, model.encoder.image_size)
            return detector.score(self.pixels_N_S, statistics)
        train = self.train(model)
        if detector.needs == "features":
            return detector.score(train, features_N_D)
        return detector.score(train.logits(features_N_D))

    def save(self, path: str | Path) -> Path:
        """Write all of it as one `.npz`, which appears only when whole."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {
            "about": json.dumps(self.metadata),
            "features": self.features_N_D,
            "labels": self.labels_N,
            "pixels": self.pixels_N_S,
        }
        with replacing(path) as partial, open(partial, "wb") as file:
            np.savez(file, **arrays)
        return path

    @classmethod
    def load(
        cls, path: str | Path, checkpoint: str | Path, score: str = DEFAULT_SCORE
    ) -> "Thresholds":
        """Open a file of thresholds, having made sure that it is of this checkpoint and score.

        Raises:
            DataError: missing, damaged, of another checkpoint, or without the score.
        """
        path = Path(path)
        thresholds = cls._read(path)
        metadata = thresholds.metadata
        if metadata["format"] > FORMAT_VERSION:
            raise DataError(
                f"{path} has format {metadata['format']} of thresholds, this code reads up to"
                f" {FORMAT_VERSION}: {REMEDY}"
            )
        if metadata["checkpoint_sha256"] != _sha256(checkpoint):
            raise DataError(
                f"{path} is of the checkpoint {metadata['checkpoint']}, not of"
                f" {Path(checkpoint).name}: {REMEDY}"
            )
        if not math.isfinite(metadata["thresholds"].get(score, 0)):  # nothing is above NaN
            raise DataError(f"{path}: the threshold of {score} is no number: {REMEDY}")
        if score not in metadata["thresholds"]:
            known = ", ".join(metadata["thresholds"])
            raise DataError(f"{path} knows no threshold of {score!r} but of {known}: {REMEDY}")
        return thresholds

    @classmethod
    def _read(cls, path: Path) -> "Thresholds":
        if not path.is_file():
            raise DataError(f"no thresholds {path}: {REMEDY}")
        try:
            # opened here: numpy leaves what it cannot read open
            with open(path, "rb") as bytes_, np.load(bytes_, allow_pickle=False) as file:
                metadata = json.loads(str(file["about"]))
                return cls(metadata, file["features"], file["labels"], file["pixels"])
        except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
            raise DataError(
                f"{path} holds no thresholds, or is damaged ({error}): {REMEDY}"
            ) from error


def thresholds_path(checkpoint: str | Path) -> Path:
    """Beside the checkpoint, where `python -m src.map` looks for it and puts it."""
    return Path(checkpoint).with_suffix(".thresholds.npz")


def _sha256(file: str | Path) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


# --- fitting ---


def fit_thresholds(
    checkpoint: str | Path,
    store: PatchStore,
    split: Split,
    scores: Sequence[str] = (DEFAULT_SCORE,),
    *,
    keep: float = 0.95,
    runtime: Runtime | None = None,
) -> Thresholds:
    """Thresholds from validation images, and what detectors are fitted on from training images.

    The threshold of a score is the value that `keep` of the validation images do not exceed. The
    epoch was selected on them too, which flatters a little; so the share of *test* images above it
    is worked out and kept beside it.

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
    model, trained = load_classifier(checkpoint)
    _check_data(trained, checkpoint, store, split)
    runtime = runtime or pick()
    model = model.to(runtime.device)
    training = _training_statistics(model, store, split.train, scores, runtime)

    def score_rows(rows: np.ndarray) -> dict[str, np.ndarray]:
        images = store.images[rows]
        features = penultimate(model, images, runtime)
        return {name: training.score(name, model, features, images) for name in scores}

    val, test = score_rows(split.val), score_rows(split.test)
    thresholds = {name: float(np.quantile(val[name], keep, method="higher")) for name in scores}
    flagged = {name: float((test[name] > thresholds[name]).mean()) for name in scores}
    metadata = _origin(checkpoint, trained, store) | {
        "keep": keep,
        "thresholds": thresholds,
        "test_flagged": flagged,
        "tones": _tones(store.images[split.train]).tolist(),
    }
    return replace(training, metadata=metadata)


def _check_request(scores: Sequence[str], keep: float) -> None:
    if strangers := set(scores) - set(SCORES):
        raise ValueError(f"no map by {sorted(strangers)}; one pass gives: {', '.join(SCORES)}")
    if not 0 < keep < 1:
        raise ValueError(f"keep must lie between 0 and 1, got {keep}")


def _check_data(
    trained: dict[str, Any], checkpoint: str | Path, store: PatchStore, split: Split
) -> None:
    # a classifier may have been trained on arrays, with nothing said of them
    data, meta = trained["data"] or {}, store.meta
    same = all(data.get(key, meta.get(key)) == meta.get(key) for key in ("kind", "sha256", "shape"))
    if not same or list(trained["classes"]) != meta.get("classes"):
        raise DataError(
            f"{checkpoint} was trained on {data.get('kind')} {data.get('shape')}, {store.path}"
            f" holds {meta.get('kind')} {meta.get('shape')} or other pixels: give the store it was"
            " trained with"
        )
    data, known = (store.images, store.labels, *vars(split).values()), trained.get("images")
    if known is not None and not is_fingerprint_of(known, *data):  # older checkpoints do not say
        raise DataError(
            f"{checkpoint} was trained on another split of {store.path}: give the one it was"
            " trained with"
        )


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
        "checkpoint_sha256": _sha256(checkpoint),
        "classes": list(trained["classes"]),
        "data": store.provenance,
        "seed": trained["config"]["seed"],
        "tile": store.images.shape[1],
        "dtype": str(store.images.dtype),
        "stretch": (trained["data"] or {}).get("stretch", EUROSAT_STRETCH),
    }


def _tones(images: np.ndarray) -> np.ndarray:
    """(N, H, W, C) images → (3, C): percentiles 1, 50 and 99 of the images' mean values."""
    chunks = [images[first : first + 1024] for first in range(0, len(images), 1024)]
    means_N_C = np.concatenate([chunk.mean((1, 2)) for chunk in chunks])
    return np.percentile(means_N_C, (1, 50, 99), axis=0)
