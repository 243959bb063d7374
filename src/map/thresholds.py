"""Where a score stops being usual, and what usual tones are: what a map must know of EuroSAT.

Worked out once and kept in one `.npz` (arrays and JSON, no pickle): a map needs no EuroSAT after
that.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from src.checkpoints import replacing
from src.encoders import Classifier
from src.errors import CheckpointError, DataError
from src.ood import DETECTORS, Train, pixel_statistics
from src.ood.outputs import last_layer

FORMAT_VERSION = 1
DEFAULT_SCORE = "energy"
# the default mask: the network's score or the pixel statistics, each at half the share
DEFAULT_MASK = (DEFAULT_SCORE, "pixel_mahalanobis")
# what one pass gives; MC Dropout takes T of them, and ODIN a gradient
ONE_PASS = ("logits", "features", "pixels")
SCORES = tuple(name for name, detector in DETECTORS.items() if detector.needs in ONE_PASS)
# a file of thresholds of these is small: it needs no features of the training images
WITHOUT_FEATURES = tuple(name for name in SCORES if DETECTORS[name].needs != "features")
REMEDY = "fit them again: python -m src.map … --store STORE"


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of one classifier, and what its detectors are fitted on."""

    # plain values: checkpoint, data, tile, stretch, tones; by score its threshold alone and at half
    # the share, and the share of test images above it
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

    def of(self, scores: Sequence[str]) -> list[float]:
        """The threshold of each score: one alone, or of two each at half the share.

        Raises:
            DataError: a score that is not known, or two and only thresholds alone (older files).
            ValueError: more than two, or one twice.
        """
        if not 1 <= len(scores) <= 2 or len({*scores}) != len(scores):
            raise ValueError(f"a mask is of one score or of two different ones, not of {scores}")
        known = self.metadata["thresholds"] if len(scores) == 1 else self.metadata.get("half", {})
        if strangers := [score for score in scores if score not in known]:
            alone = "" if len(scores) == 1 else " at half the share"
            raise DataError(
                f"of {self.metadata['checkpoint']} is known no threshold of {strangers[0]!r}{alone}"
                f" but of {', '.join(known) or 'nothing'}: {REMEDY}"
            )
        if not all(math.isfinite(known[score]) for score in scores):  # nothing is above NaN
            raise DataError(f"the threshold of {' or '.join(scores)} is no number: {REMEDY}")
        return [known[score] for score in scores]

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
        cls, path: str | Path, checkpoint: str | Path, score: str | Sequence[str] = DEFAULT_SCORE
    ) -> "Thresholds":
        """Open a file of thresholds, having made sure that it is of this checkpoint and score.

        Args:
            score: one, or the two of a mask.

        Raises:
            CheckpointError: no such checkpoint.
            DataError: missing, damaged, of another checkpoint, or without the score.
        """
        path = Path(path)
        check_exists(checkpoint)
        thresholds = cls._read(path)
        metadata = thresholds.metadata
        if metadata["format"] > FORMAT_VERSION:
            raise DataError(
                f"{path} has format {metadata['format']} of thresholds, this code reads up to"
                f" {FORMAT_VERSION}: {REMEDY}"
            )
        if metadata["checkpoint_sha256"] != file_sha256(checkpoint):
            raise DataError(
                f"{path} is of the checkpoint {metadata['checkpoint']}, not of"
                f" {Path(checkpoint).name}: {REMEDY}"
            )
        thresholds.of(as_scores(score))
        return thresholds

    @classmethod
    def beside(
        cls, checkpoint: str | Path, score: str | Sequence[str] = DEFAULT_MASK
    ) -> "Thresholds":
        """Those beside the checkpoint: as they were fitted here, else as shipped with it.

        Raises:
            CheckpointError, DataError: as `load`.
        """
        own, shipped = thresholds_path(checkpoint), shipped_path(checkpoint)
        if not shipped.is_file():
            return cls.load(own, checkpoint, score)
        try:
            return cls.load(own if own.is_file() else shipped, checkpoint, score)
        except DataError:  # fitted by an older version, or for other scores
            return cls.load(shipped, checkpoint, score)

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


def as_scores(score: str | Sequence[str]) -> tuple[str, ...]:
    """One score or several, as a tuple."""
    return (score,) if isinstance(score, str) else tuple(score)


def check_exists(checkpoint: str | Path) -> None:
    """Raise CheckpointError, which names what is there instead, where there is no such file."""
    checkpoint = Path(checkpoint)
    if not checkpoint.is_file():
        folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
        there = ", ".join(sorted(f.name for f in folder.glob("final_supervised_model_*.pth")))
        raise CheckpointError(
            f"no checkpoint {checkpoint}; in {folder} there is: {there or 'none'}"
        )


def thresholds_path(checkpoint: str | Path) -> Path:
    """Beside the checkpoint, where `python -m src.map` looks for it and puts it."""
    return Path(checkpoint).with_suffix(".thresholds.npz")


def shipped_path(checkpoint: str | Path) -> Path:
    """Beside the checkpoint: thresholds that came with it, of the scores without features."""
    return Path(checkpoint).with_suffix(".shipped.thresholds.npz")


def file_sha256(file: str | Path) -> str:
    """Of a checkpoint: thresholds are of one alone."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()
