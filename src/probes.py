"""What a frozen encoder knows: features, kNN and linear probes on labelled images."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import davies_bouldin_score, silhouette_score
from sklearn.metrics.pairwise import cosine_distances
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize
from torch import nn

from src.augmentations.evaluation_transform import prepare
from src.augmentations.transfer import to_host
from src.checks import COUNT, check_images, check_labels, check_number
from src.encoders import statistics_of
from src.runs.runtime import Runtime, runtime_of


@contextmanager
def preserve_mode(model: nn.Module) -> Iterator[None]:
    """Give every module its own train or eval mode back: frozen stages differ from open ones."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@torch.inference_mode()
def embed(
    module: nn.Module,
    images: np.ndarray,
    size: int,
    runtime: Runtime | None = None,
    batch_size: int = 256,
    checked: bool = False,
) -> np.ndarray:
    """Run an encoder (or classifier) in eval mode over (N, H, W, C) images.

    They are normalised by the statistics that it was trained with, whatever set they are of.

    Args:
        size: pixels the network sees; images of another size are resized to it.
        runtime: see `runtime_of`: None computes where the module lies.
        batch_size: images at a time.
        checked: the set that these are of was looked at (`check_images`): a dark lake alone would
            be taken for 8-bit pictures.

    Returns:
        (N, D) float32 features, or logits.

    Raises:
        ValueError: no images, or what cannot be images (`check_images`).
    """
    check_number(batch_size, "batch_size", COUNT)
    if not checked:
        images = check_images(images)
    if len(images) == 0:
        raise ValueError("no images to run the network on")
    runtime, starts = runtime_of(module, runtime), range(0, len(images), batch_size)
    how = (size, runtime.device, statistics_of(module))
    with preserve_mode(module), runtime.autocast():
        module.eval()
        batches = (prepare(images[n : n + batch_size], *how) for n in starts)
        return torch.cat(to_host(module(batch).float() for batch in batches)).numpy()


def knn_accuracy(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    k: int = 20,
) -> float:
    """Accuracy in [0, 1] of the majority among the k nearest training features by cosine.

    Args:
        train, test: (N, D) features.
        train_labels, test_labels: (N,) class numbers.
        k: all training features, where there are fewer.
    """
    knn = KNeighborsClassifier(min(k, len(train)), metric="cosine").fit(train, train_labels)
    return float(knn.score(test, test_labels))


def linear_accuracy(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> float:
    """Accuracy in [0, 1] of logistic regression on standardised features.

    That is the linear evaluation of SimCLR §4. The arguments are those of `knn_accuracy`.
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(probe.fit(train, train_labels).score(test, test_labels))


def centroid_distances(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cosine distances in [0, 2], (C, C), between the class means of (N, D) unit features."""
    unit = normalize(features)
    means = np.stack([unit[labels == label].mean(0) for label in np.unique(labels)])
    return cosine_distances(means)


def separation(features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """How far apart the classes lie, measured on the embeddings and not on a picture of them.

    Args:
        features: (N, D) of held-out images, scaled to unit length here: only directions count, as
            in NT-Xent.
        labels: (N,) class numbers.

    Returns:
        `silhouette` (cosine; −1 to 1, higher is better; Rousseeuw 1987), `davies_bouldin` (from 0,
        lower is better; Davies & Bouldin 1979), `centroid_distance` (mean cosine distance between
        two class means, 0 to 2).

    Raises:
        ValueError: fewer than two classes, or as many as images.
    """
    unit = normalize(features)
    between = centroid_distances(features, labels)
    return {
        "silhouette": float(silhouette_score(unit, labels, metric="cosine")),
        "davies_bouldin": float(davies_bouldin_score(unit, labels)),
        "centroid_distance": float(between[np.triu_indices(len(between), 1)].mean()),
    }


def spread(embeddings: np.ndarray) -> dict[str, float]:
    """How far the (N, D) embeddings of different images lie apart: whether they collapse.

    Returns:
        `mean_cosine` of two images (near 1: all are one point), and `effective_rank` (1 to D): how
        many directions are used, as the exponent of the entropy of the singular values (RankMe,
        Garrido et al. 2023, arXiv 2210.02885).
    """
    unit, n = normalize(embeddings).astype(np.float64), len(embeddings)
    singular = np.linalg.svd(unit, compute_uv=False)
    share = singular[singular > 0] / singular.sum()
    cosine = (np.square(unit.sum(0)).sum() - n) / (n * (n - 1))
    rank = np.exp(-(share * np.log(share)).sum())
    return {"mean_cosine": float(cosine), "effective_rank": float(rank)}


def knn_probe(
    images: np.ndarray,
    labels: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    size: int,
    runtime: Runtime | None = None,
    limit: int = 5000,
) -> Callable[[nn.Module], float]:
    """A function encoder → kNN accuracy, for `pretrain` to call every few epochs.

    Args:
        images, labels: a labelled store's arrays.
        train, test: row numbers of the reference images and of the ones to classify (never the test
            split).
        size: of the views, pixels.
        limit: at most so many reference images, evenly spread over `train`, and a fifth as many to
            classify.

    Raises:
        ValueError: images or labels that cannot be what they say (`src.checks`).
    """
    images = check_images(images)
    labels = check_labels(labels, None, len(images))
    train, test = evenly_spread(train, limit), evenly_spread(test, limit // 5)
    train_images, test_images = images[train], images[test]

    def probe(encoder: nn.Module) -> float:
        train_features = embed(encoder, train_images, size, runtime)
        test_features = embed(encoder, test_images, size, runtime)
        return knn_accuracy(train_features, labels[train], test_features, labels[test])

    return probe


def evenly_spread(rows: np.ndarray, limit: int) -> np.ndarray:
    """At most `limit` of the rows, from the first to the last."""
    return rows[np.linspace(0, len(rows) - 1, min(limit, len(rows))).astype(int)]
