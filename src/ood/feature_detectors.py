"""Detectors that measure how far features, or pixel statistics, are from those of training.

Plain functions in float64; higher = more out-of-distribution. They are fitted on the
in-distribution training split and nothing else. The lines "Formula" and "Paper" of a docstring are
what `src.ood.detectors` shows in its table.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp
from sklearn.covariance import EmpiricalCovariance
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from src.checks import as_float64, check_labels
from src.encoders import Classifier
from src.ood.outputs import last_layer, penultimate
from src.runs.runtime import Runtime


@dataclass(frozen=True)
class Train:
    """What detectors are fitted on, of the training split, and the layer behind the features."""

    features_N_D: np.ndarray
    labels_N: np.ndarray
    weight_C_D: np.ndarray  # of the last linear layer, for ViM
    bias_C: np.ndarray

    @classmethod
    def of(
        cls,
        model: Classifier,
        images: np.ndarray,
        labels: np.ndarray,
        runtime: Runtime | None = None,
    ) -> "Train":
        """The features of a classifier on (N, H, W, C) training images.

        Raises:
            ValueError: images or labels that cannot be what they say (`src.checks`).
        """
        labels = check_labels(labels, None, len(images))
        return cls(penultimate(model, images, runtime), labels, *last_layer(model))

    def __post_init__(self) -> None:
        # distances and logarithms of sums in half precision are not worth having
        for name in ("features_N_D", "weight_C_D", "bias_C"):
            object.__setattr__(self, name, as_float64(getattr(self, name)))

    def logits(self, features_N_D: np.ndarray) -> np.ndarray:
        """What the last layer makes of features: (N, C)."""
        return features_N_D @ self.weight_C_D.T + self.bias_C


NEIGHBOURS = 50  # of the kNN detector


def check_neighbours(count: int) -> None:
    """Raise ValueError where so few training images have no neighbour of that number."""
    if count < NEIGHBOURS:
        raise ValueError(
            f"{count} training images: the distance to the {NEIGHBOURS}th nearest needs as many;"
            " take more (a smaller STEP), or leave out train_labels"
        )


def knn(train: Train, features_N_D: np.ndarray, k: int = NEIGHBOURS) -> np.ndarray:
    """Distance to the k-th neighbour; 50 as the paper has it for ten classes.

    Formula: distance to the 50th nearest training feature, all of unit length
    Paper: Sun et al. 2022, arXiv 2204.06507
    """
    nearest = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(normalize(train.features_N_D))
    distances_N_k, _ = nearest.kneighbors(normalize(as_float64(features_N_D)))
    return distances_N_k[:, -1]


def mahalanobis(train_N_D: np.ndarray, test_N_D: np.ndarray) -> np.ndarray:
    """Squared distance of each test row from the mean and covariance of the training rows."""
    train_N_D, test_N_D = as_float64(train_N_D), as_float64(test_N_D)
    return EmpiricalCovariance().fit(train_N_D).mahalanobis(test_N_D)


def class_mahalanobis(train: Train, features_N_D: np.ndarray) -> np.ndarray:
    """Squared distance to the nearest class mean, one covariance within classes for all.

    Formula: min_c (z − μ_c)ᵀ Σ⁻¹ (z − μ_c), Σ within classes
    Paper: Lee et al. 2018, arXiv 1807.03888
    """
    features_N_D = as_float64(features_N_D)
    classes, labels = np.unique(train.labels_N, return_inverse=True)
    means = np.stack([train.features_N_D[labels == c].mean(0) for c in range(len(classes))])
    within = EmpiricalCovariance(assume_centered=True).fit(train.features_N_D - means[labels])
    return np.min([within.mahalanobis(features_N_D - mean) for mean in means], axis=0)


def relative_mahalanobis(train: Train, features_N_D: np.ndarray) -> np.ndarray:
    """How much farther the nearest class is than the training split as a whole.

    Formula: Mahalanobis − (z − μ)ᵀ Σ₀⁻¹ (z − μ), Σ₀ of all
    Paper: Ren et al. 2021, arXiv 2106.09022
    """
    return class_mahalanobis(train, features_N_D) - mahalanobis(train.features_N_D, features_N_D)


def vim(train: Train, features_N_D: np.ndarray) -> np.ndarray:
    """ViM: what lies outside the space that training features fill, as one more logit.

    The principal space has half of the dimensions that the training features fill: the paper names
    512 and 1000 for wider features, and ReLU leaves some of ours at 0 on every image.

    Formula: α ‖residual of z outside the principal space‖ − log Σ_c exp f_c
    Paper: Wang et al. 2022, arXiv 2203.10807
    """
    features_N_D = as_float64(features_N_D)
    origin = -np.linalg.pinv(train.weight_C_D) @ train.bias_C
    centred = train.features_N_D - origin
    spread, axes = np.linalg.eigh(centred.T @ centred)  # ascending: the first are the least used
    filled = (spread > spread[-1] * len(spread) * np.finfo(np.float64).eps).sum()
    unused = axes[:, : len(spread) - filled // 2]
    train_residual = np.linalg.norm(centred @ unused, axis=1)
    residual = np.linalg.norm((features_N_D - origin) @ unused, axis=1)
    alpha = train.logits(train.features_N_D).max(1).mean() / train_residual.mean()
    return alpha * residual - logsumexp(train.logits(features_N_D), axis=-1)


def pixel_mahalanobis(train_N_S: np.ndarray, test_N_S: np.ndarray) -> np.ndarray:
    """The control without a network: `mahalanobis` of `src.ood.pixel_statistics`.

    Formula: Mahalanobis of eight channel means, deviations and gradients
    Paper: the control
    """
    return mahalanobis(train_N_S, test_N_S)
