"""The detectors. Every one is a plain function of cached arrays in float64; higher = more
out-of-distribution.

Those that are fitted see the in-distribution training split and nothing else. `DETECTORS` is the
one table of what there is: name → what it needs, formula, paper, function; `detector_table()` shows
it.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.special import logsumexp, softmax
from sklearn.covariance import EmpiricalCovariance
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from src.augmentations import IMAGENET_STD
from src.augmentations.evaluation_transform import prepare
from src.encoders import Classifier
from src.ood.outputs import last_layer, penultimate
from src.probes import preserve_mode
from src.runs.runtime import Runtime, pick


@dataclass(frozen=True)
class Train:
    """What detectors are fitted on, of the in-distribution training split only, and the layer
    behind the features.
    """

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
        return cls(penultimate(model, images, runtime), np.asarray(labels), *last_layer(model))

    def logits(self, features_N_D: np.ndarray) -> np.ndarray:
        return features_N_D @ self.weight_C_D.T + self.bias_C


# --- from MC samples ---


def entropy(log_probs: np.ndarray) -> np.ndarray:
    """Entropy over the last axis in nats; 0·log 0 counts as 0."""
    probs = np.exp(log_probs)
    return -np.sum(probs * np.where(probs > 0, log_probs, 0.0), axis=-1)


def predictive_entropy(log_probs_T_N_C: np.ndarray) -> np.ndarray:
    return entropy(logsumexp(log_probs_T_N_C, axis=0) - np.log(len(log_probs_T_N_C)))


def expected_entropy(log_probs_T_N_C: np.ndarray) -> np.ndarray:
    return entropy(log_probs_T_N_C).mean(0)


def mutual_information(log_probs_T_N_C: np.ndarray) -> np.ndarray:
    # rounding can leave −1e-17 where all samples agree
    return np.maximum(predictive_entropy(log_probs_T_N_C) - expected_entropy(log_probs_T_N_C), 0.0)


def predictive_variance(log_probs_T_N_C: np.ndarray) -> np.ndarray:
    return np.exp(log_probs_T_N_C).var(0).sum(-1)


def variation_ratio(log_probs_T_N_C: np.ndarray) -> np.ndarray:
    votes_N_C = np.eye(log_probs_T_N_C.shape[-1])[log_probs_T_N_C.argmax(-1)].mean(0)
    return 1 - votes_N_C.max(-1)


# --- from logits ---


def _probs_and_rest(logits_N_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p and 1 − p, the latter summed from the other classes: a sure network's p rounds to 1, and
    all would tie.
    """
    probs = softmax(logits_N_C, axis=-1)
    return probs, probs @ (1 - np.eye(probs.shape[-1]))


def one_minus_msp(logits_N_C: np.ndarray) -> np.ndarray:
    return _probs_and_rest(logits_N_C)[1].min(-1)


def energy(logits_N_C: np.ndarray) -> np.ndarray:
    return -logsumexp(logits_N_C, axis=-1)


def max_logit(logits_N_C: np.ndarray) -> np.ndarray:
    return -logits_N_C.max(-1)


def generalised_entropy(logits_N_C: np.ndarray, gamma: float = 0.1) -> np.ndarray:
    """All classes are summed: the paper's cut to the 100 likeliest matters for a thousand classes,
    not for ten.
    """
    probs, rest = _probs_and_rest(logits_N_C)
    return ((probs * rest) ** gamma).sum(-1)


# --- from features, fitted on the training split ---


def knn(train: Train, features_N_D: np.ndarray, k: int = 50) -> np.ndarray:
    """k = 50 as the paper has it for ten classes."""
    neighbours = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(
        normalize(train.features_N_D)
    )
    return neighbours.kneighbors(normalize(features_N_D))[0][:, -1]


def mahalanobis(train_N_D: np.ndarray, test_N_D: np.ndarray) -> np.ndarray:
    """Squared Mahalanobis distance of each test row from the mean and covariance of the training
    rows.
    """
    train_N_D, test_N_D = (np.asarray(x, np.float64) for x in (train_N_D, test_N_D))
    return EmpiricalCovariance().fit(train_N_D).mahalanobis(test_N_D)


def class_mahalanobis(train: Train, features_N_D: np.ndarray) -> np.ndarray:
    """Squared distance to the nearest class mean, one covariance within classes for all."""
    classes, labels = np.unique(train.labels_N, return_inverse=True)
    means = np.stack([train.features_N_D[labels == c].mean(0) for c in range(len(classes))])
    within = EmpiricalCovariance(assume_centered=True).fit(train.features_N_D - means[labels])
    return np.min([within.mahalanobis(features_N_D - mean) for mean in means], axis=0)


def relative_mahalanobis(train: Train, features_N_D: np.ndarray) -> np.ndarray:
    return class_mahalanobis(train, features_N_D) - mahalanobis(train.features_N_D, features_N_D)


def vim(train: Train, features_N_D: np.ndarray) -> np.ndarray:
    """The principal space has half of the dimensions that the training features fill (the paper
    names 512 and 1000 for wider features; ReLU leaves some of ours at 0 on every image)."""
    origin = -np.linalg.pinv(train.weight_C_D) @ train.bias_C
    centred = train.features_N_D - origin
    spread, axes = np.linalg.eigh(centred.T @ centred)  # ascending: the first are the least used
    filled = (spread > spread[-1] * len(spread) * np.finfo(np.float64).eps).sum()
    unused = axes[:, : len(spread) - filled // 2]
    residual, virtual = (
        np.linalg.norm(x @ unused, axis=1) for x in (centred, features_N_D - origin)
    )
    alpha = train.logits(train.features_N_D).max(1).mean() / residual.mean()
    return alpha * virtual + energy(train.logits(features_N_D))


# --- from gradients ---


def odin(
    model: Classifier,
    images: np.ndarray,
    runtime: Runtime | None = None,
    temperature: float = 1000.0,
    epsilon: float = 0.0014,
    batch_size: int = 64,
) -> np.ndarray:
    """One small step that makes the prediction surer, then 1 − MSP at a high temperature.

    Always in float32: bfloat16 would round the step away. Temperature and epsilon are the paper's
    for ten classes, not tuned here: that would take out-of-distribution images.

    Args:
        images: (N, H, W, C) uint8.
        epsilon: the step in units of pixels in [0, 1].
    """
    device = (runtime or pick()).device
    step = epsilon / torch.tensor(IMAGENET_STD, device=device).view(1, -1, 1, 1)
    logits = []
    with preserve_mode(model):
        model.eval()
        for start in range(0, len(images), batch_size):
            x = prepare(
                images[start : start + batch_size], model.encoder.image_size, device
            ).requires_grad_()
            loss = -(model(x) / temperature).log_softmax(-1).amax(-1).sum()
            (gradient,) = torch.autograd.grad(loss, x)
            with torch.no_grad():
                logits.append(model(x - step * gradient.sign()).cpu().double().numpy())
    return one_minus_msp(np.concatenate(logits) / temperature)


# --- all of them ---


@dataclass(frozen=True)
class Detector:
    title: str
    # "MC samples", "logits", "features" (and the training split's), "gradients" or "pixels"
    needs: str
    formula: str
    paper: str
    score: Callable[..., np.ndarray]


DETECTORS = {
    name: Detector(title, needs, formula, paper, score)
    for name, title, needs, formula, paper, score in [
        (
            "mutual_information",
            "mutual information",
            "MC samples",
            "H[E p] − E H[p]; 0 when T = 1",
            "Houlsby et al. 2011, arXiv 1112.5745",
            mutual_information,
        ),
        (
            "predictive_entropy",
            "predictive entropy",
            "MC samples",
            "H[E p]",
            "Gal 2016, thesis §3.3",
            predictive_entropy,
        ),
        (
            "expected_entropy",
            "expected entropy",
            "MC samples",
            "E H[p]",
            "Depeweg et al. 2018, arXiv 1710.07283",
            expected_entropy,
        ),
        (
            "predictive_variance",
            "predictive variance",
            "MC samples",
            "Σ_c Var p_c; 0 when T = 1",
            "Kendall et al. 2015, arXiv 1511.02680",
            predictive_variance,
        ),
        (
            "variation_ratio",
            "variation ratio",
            "MC samples",
            "1 − share of passes that vote for the modal class",
            "Freeman 1965; Gal 2016, thesis §3.3",
            variation_ratio,
        ),
        (
            "one_minus_msp",
            "1 − MSP",
            "logits",
            "1 − max_c p_c",
            "Hendrycks & Gimpel 2017, arXiv 1610.02136",
            one_minus_msp,
        ),
        (
            "energy",
            "energy",
            "logits",
            "−log Σ_c exp f_c",
            "Liu et al. 2020, arXiv 2010.03759",
            energy,
        ),
        (
            "max_logit",
            "max logit",
            "logits",
            "−max_c f_c",
            "Hendrycks et al. 2022, arXiv 1911.11132",
            max_logit,
        ),
        (
            "generalised_entropy",
            "generalised entropy",
            "logits",
            "Σ_c (p_c (1 − p_c))^0.1",
            "Liu et al. 2023 (GEN), CVPR",
            generalised_entropy,
        ),
        (
            "knn",
            "kNN",
            "features",
            "distance to the 50th nearest training feature, all of unit length",
            "Sun et al. 2022, arXiv 2204.06507",
            knn,
        ),
        (
            "class_mahalanobis",
            "Mahalanobis",
            "features",
            "min_c (z − μ_c)ᵀ Σ⁻¹ (z − μ_c), Σ within classes",
            "Lee et al. 2018, arXiv 1807.03888",
            class_mahalanobis,
        ),
        (
            "relative_mahalanobis",
            "relative Mahalanobis",
            "features",
            "Mahalanobis − (z − μ)ᵀ Σ₀⁻¹ (z − μ), Σ₀ of all",
            "Ren et al. 2021, arXiv 2106.09022",
            relative_mahalanobis,
        ),
        (
            "vim",
            "ViM",
            "features",
            "α ‖residual of z outside the principal space‖ − log Σ_c exp f_c",
            "Wang et al. 2022, arXiv 2203.10807",
            vim,
        ),
        (
            "odin",
            "ODIN",
            "gradients",
            "1 − max_c p_c(x + ε sign ∇ log max_c p_c; temperature 1000), ε 0.0014",
            "Liang et al. 2018, arXiv 1706.02690",
            odin,
        ),
        (
            "pixel_mahalanobis",
            "pixel statistics (no network)",
            "pixels",
            "Mahalanobis of eight channel means, deviations and gradients",
            "the control",
            mahalanobis,
        ),
    ]
}


def detector_table() -> pd.DataFrame:
    """What there is, for the documentation and the notebooks: one row a detector; needs, formula,
    paper.
    """
    rows = {
        d.title: {"needs": d.needs, "formula": d.formula, "paper": d.paper}
        for d in DETECTORS.values()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("detector")


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
        features_N_D, train: from `penultimate` and of the training split; None leaves out the
            detectors on features.

    Raises:
        ValueError: shapes don't fit, or a value is NaN or infinite.
    """
    if log_probs_T_N_C.ndim != 3 or log_probs_T_N_C.shape[1:] != logits_N_C.shape:
        raise ValueError(
            f"expected (T, N, C) and (N, C), got {log_probs_T_N_C.shape} and {logits_N_C.shape}"
        )
    if not (log_probs_T_N_C < np.inf).all() or not np.isfinite(logits_N_C).all():
        raise ValueError(
            "log probabilities or logits hold NaN or infinite values: look at the model's training"
            " loss"
        )
    if len(log_probs_T_N_C) == 1:
        warnings.warn(
            "one MC sample: mutual information and variance are 0 by definition", stacklevel=2
        )
    given = {"MC samples": (log_probs_T_N_C,), "logits": (logits_N_C.astype(np.float64),)}
    if (features_N_D is None) != (train is None):
        raise ValueError("features and the training split belong together: give both or neither")
    if train is not None:
        given["features"] = (train, _fitting(features_N_D, train, len(logits_N_C)))
    return pd.DataFrame(
        {name: d.score(*given[d.needs]) for name, d in DETECTORS.items() if d.needs in given}
    )


def _fitting(features_N_D: np.ndarray, train: Train, count: int) -> np.ndarray:
    expected = (count, train.features_N_D.shape[1])
    if features_N_D.shape != expected or len(train.labels_N) != len(train.features_N_D):
        raise ValueError(
            f"expected features of shape {expected} and {len(train.features_N_D)} training labels, "
            f"got {features_N_D.shape} and {len(train.labels_N)}"
        )
    if not np.isfinite(features_N_D).all() or not np.isfinite(train.features_N_D).all():
        raise ValueError("features hold NaN or infinite values: look at the model's training loss")
    return features_N_D.astype(np.float64)
