"""What a map must know of the classifier's own data: where a score stops being usual, and what
usual tones are.

Worked out once from EuroSAT and kept in one `.npz` (arrays and JSON, no pickle): a map needs no
EuroSAT after that.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from src import runs
from src.checkpoints import replacing
from src.data.bands import EUROSAT_STRETCH
from src.data.splits import Split
from src.data.store import PatchStore
from src.encoders import Classifier
from src.errors import DataError
from src.ood import DETECTORS, Train, penultimate, pixel_statistics
from src.ood.outputs import last_layer
from src.runs.runtime import Runtime, pick

FORMAT_VERSION = 1
DEFAULT_SCORE = "energy"
# what one pass gives; MC Dropout takes T of them, and ODIN a gradient
SCORES = tuple(
    name
    for name, detector in DETECTORS.items()
    if detector.needs in ("logits", "features", "pixels")
)


@dataclass(frozen=True)
class Thresholds:
    about: dict[
        str, Any
    ]  # plain values: checkpoint, data, tile, stretch, threshold and share of test flagged by score
    features_N_D: np.ndarray  # of the training images, float32; none where only logits are scored
    labels_N: np.ndarray
    pixels_N_S: np.ndarray  # statistics of the training images, see `pixel_statistics`

    def train(self, model: Classifier) -> Train:
        return Train(self.features_N_D.astype(np.float64), self.labels_N, *last_layer(model))

    def score(
        self, name: str, model: Classifier, features_N_D: np.ndarray, images: np.ndarray
    ) -> np.ndarray:
        """(N,) OOD scores of images (N, H, W, C) and their `penultimate` features; higher = more
        OOD.
        """
        train = self.train(model)
        given = {
            "logits": lambda: (train.logits(features_N_D),),
            "features": lambda: (train, features_N_D),
            "pixels": lambda: (self.pixels_N_S, pixel_statistics(images, model.encoder.image_size)),
        }
        return DETECTORS[name].score(*given[DETECTORS[name].needs]())

    def save(self, path: str | Path) -> Path:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial, open(partial, "wb") as file:
            np.savez(
                file,
                about=json.dumps(self.about),
                features=self.features_N_D,
                labels=self.labels_N,
                pixels=self.pixels_N_S,
            )
        return path

    @classmethod
    def load(
        cls, path: str | Path, checkpoint: str | Path, score: str = DEFAULT_SCORE
    ) -> "Thresholds":
        """Open a calibration, having made sure that it is of this checkpoint and knows this score.

        Raises:
            DataError: missing, damaged, of another checkpoint, or without the score.
        """
        path, again = Path(path), "calibrate again: python -m src.map … --store STORE"
        if not path.is_file():
            raise DataError(f"no calibration {path}: {again}")
        try:
            with np.load(path, allow_pickle=False) as file:
                about = json.loads(str(file["about"]))
                found = cls(about, *(file[name] for name in ("features", "labels", "pixels")))
        except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
            raise DataError(
                f"{path} is not a calibration, or damaged ({error}): {again}"
            ) from error
        if about["format"] > FORMAT_VERSION:
            raise DataError(
                f"{path} has calibration format {about['format']}, this code reads"
                f" {FORMAT_VERSION}: {again}"
            )
        if about["checkpoint_sha256"] != fingerprint(checkpoint):
            raise DataError(
                f"{path} is of the checkpoint {about['checkpoint']}, not of"
                f" {Path(checkpoint).name}: {again}"
            )
        if score not in about["thresholds"]:
            raise DataError(
                f"{path} knows no threshold of {score!r} but of {', '.join(about['thresholds'])}:"
                f" {again}"
            )
        return found


def thresholds_path(checkpoint: str | Path) -> Path:
    """Beside the checkpoint, where `python -m src.map` looks for it and puts it."""
    return Path(checkpoint).with_suffix(".calibration.npz")


def fingerprint(file: str | Path) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def fit_thresholds(
    model: Classifier,
    about: dict[str, Any],
    checkpoint: str | Path,
    store: PatchStore,
    split: Split,
    scores: Sequence[str] = (DEFAULT_SCORE,),
    *,
    keep: float = 0.95,
    runtime: Runtime | None = None,
) -> "Thresholds":
    """Thresholds from the validation images, and what the detectors are fitted on from the training
    images.

    The threshold of a score is the value that `keep` of the validation images do not exceed. The
    epoch was selected on them too, which flatters a little; so the share of *test* images above it
    is worked out and kept beside it.

    Args:
        model, about, checkpoint: of `checkpoints.load_classifier`, and its file.
        store, split: the data it was trained with.
        scores: of `SCORES`; those that need features take one pass over the training images and 22
            MB of file.
        keep: share in (0, 1).

    Raises:
        ValueError: a score that one pass does not give, or a share out of range.
        DataError: the classifier was trained on other data, or on another split of it.
    """
    if strangers := set(scores) - set(SCORES):
        raise ValueError(f"no map by {sorted(strangers)}; one pass gives: {', '.join(SCORES)}")
    if not 0 < keep < 1:
        raise ValueError(f"keep must lie between 0 and 1, got {keep}")
    _check_data(about, checkpoint, store, split)
    runtime = runtime or pick()
    model = model.to(runtime.device)
    train, fitted = (
        store.images[split.train],
        any(DETECTORS[name].needs == "features" for name in scores),
    )
    features = (
        penultimate(model, train, runtime) if fitted else np.zeros((0, model.head[-1].in_features))
    )
    pixels = pixel_statistics(train, model.encoder.image_size)
    bare = Thresholds(
        {},
        features.astype(np.float32),
        store.labels[split.train] if fitted else np.zeros(0, int),
        pixels,
    )
    val, test = (
        {
            name: bare.score(name, model, penultimate(model, images, runtime), images)
            for name in scores
        }
        for images in (store.images[split.val], store.images[split.test])
    )
    thresholds = {name: float(np.quantile(val[name], keep, method="higher")) for name in scores}
    return Thresholds(
        {
            "format": FORMAT_VERSION,
            "checkpoint": Path(checkpoint).name,
            "checkpoint_sha256": fingerprint(checkpoint),
            "classes": list(about["classes"]),
            "data": store.about,
            "seed": about["config"]["seed"],
            "tile": store.images.shape[1],
            "dtype": str(store.images.dtype),
            "stretch": (about["data"] or {}).get("stretch", EUROSAT_STRETCH),
            "keep": keep,
            "thresholds": thresholds,
            "test_flagged": {
                name: float((test[name] > thresholds[name]).mean()) for name in scores
            },
            "tones": tones(train).tolist(),
        },
        bare.features_N_D,
        bare.labels_N,
        pixels,
    )


def _check_data(
    about: dict[str, Any], checkpoint: str | Path, store: PatchStore, split: Split
) -> None:
    trained = (
        about["data"] or {}
    )  # a classifier may have been trained on arrays, with nothing said of them
    same = all(
        trained.get(key, store.meta.get(key)) == store.meta.get(key)
        for key in ("kind", "sha256", "shape")
    )
    if not same or list(about["classes"]) != store.meta.get("classes"):
        raise DataError(
            f"{checkpoint} was trained on {trained.get('kind')} {trained.get('shape')},"
            f" {store.path} holds {store.meta.get('kind')} {store.meta.get('shape')} or other"
            " pixels: give the store it was trained with"
        )
    images = runs.fingerprint(store.images, store.labels, split.train, split.val, split.test)
    if about.get("images", images) != images:  # older checkpoints do not say
        raise DataError(
            f"{checkpoint} was trained on another split of {store.path}: give the one it was"
            " trained with"
        )


def tones(images: np.ndarray) -> np.ndarray:
    """(N, H, W, C) images → (3, C): percentiles 1, 50 and 99 of the images' mean values."""
    means = np.concatenate([images[n : n + 1024].mean((1, 2)) for n in range(0, len(images), 1024)])
    return np.percentile(means, (1, 50, 99), axis=0)
