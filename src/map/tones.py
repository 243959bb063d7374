"""Which tones are usual: what is kept of the training images, and how a scene compares with it.

Two things are looked at, tile by tile. Means tell a wrong scale or offset; level 2A, which lacks
the air's light, is usual too. The order of bands is told by their contrasts (deviations within a
tile): air and offset add to a band and leave its contrast, so level 1C and 2A are alike in them.
"""

from itertools import permutations
from typing import Any

import numpy as np

from src.augmentations.tones import path_reflectance
from src.data.bands import RGB

FLAT = 0.3  # grey levels: deviations below are rounding
MARGIN = 1.0  # nats a tile by which another order must fit better; one class alone reaches 0.4


def usual_tones(images: np.ndarray) -> dict[str, Any]:
    """What is kept of (N, H, W, C) training images, as plain values.

    Returns:
        "tones": percentiles 1, 50 and 99 of their mean values, (3, C); of three bands "contrasts":
        mean and inverse covariance of `contrasts`.
    """
    chunks = [images[first : first + 1024] for first in range(0, len(images), 1024)]
    means_N_C = np.concatenate([chunk.mean((1, 2)) for chunk in chunks])
    kept = {"tones": np.percentile(means_N_C, (1, 50, 99), axis=0).tolist()}
    if images.shape[-1] == len(RGB):
        logs_N_2 = np.concatenate([contrasts(chunk) for chunk in chunks])
        precision = np.linalg.pinv(np.cov(logs_N_2.T))
        kept["contrasts"] = {"mean": logs_N_2.mean(0).tolist(), "precision": precision.tolist()}
    return kept


def contrasts(images: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) → (N, 2): log of the deviation of red over green's, of green over blue's."""
    deviations = np.log(np.maximum(images.std((1, 2), dtype=np.float64), FLAT))
    return deviations[:, :2] - deviations[:, 1:]


def strange_tones(images: np.ndarray, metadata: dict[str, Any]) -> str:
    """A sentence where most tiles are brighter or darker than usual, in level 1C or 2A; else "".

    Args:
        images: (N, H, W, C) tiles as the network sees them.
        metadata: of `Thresholds`.
    """
    low_C, median_C, high_C = np.array(metadata["tones"])
    means_N_C = images.mean((1, 2))
    low_C = low_C - _air(images, metadata)
    strange = ((means_N_C < low_C) | (means_N_C > high_C)).any(1).mean()
    if strange <= 0.5:
        return ""
    return (
        f"{strange:.0%} of sampled tiles are outside the tones of 98 % of the training images:"
        f" median grey level {_levels(np.median(means_N_C, 0))}, in training {_levels(median_C)}."
        " Is the stretch right (scale, offset)? Else the network has never seen the like"
    )


def _air(images: np.ndarray, metadata: dict[str, Any]) -> np.ndarray:
    """What level 2A lacks, in the units of the images."""
    bands = images.shape[-1]
    one = 255 / metadata["stretch"] * 10_000 if images.dtype == np.uint8 else 10_000.0
    return np.array(path_reflectance(bands)) * one if bands in (3, 12) else np.zeros(bands)


def _levels(values: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.0f}" for value in values) + ")"


def other_order(images: np.ndarray, metadata: dict[str, Any]) -> str:
    """A sentence where the contrasts fit the training images better in another order; else "".

    Args:
        images: (N, H, W, 3) tiles as the network sees them.
        metadata: of `Thresholds`; older files do not know of contrasts, and nothing is said.
    """
    if "contrasts" not in metadata or images.shape[-1] != len(RGB):
        return ""
    fit = {
        order: _fit(images[..., order], metadata["contrasts"]) for order in permutations(range(3))
    }
    best = max(fit, key=fit.__getitem__)
    if fit[best] - fit[0, 1, 2] <= MARGIN:
        return ""
    names = ("first", "second", "third")
    return (
        "the bands' contrasts fit the training images better in another order:"
        f" red {names[best[0]]}, green {names[best[1]]}, blue {names[best[2]]} of the bands as they"
        " were read. Are they in the right order (--bands)?"
    )


def _fit(images: np.ndarray, known: dict[str, Any]) -> float:
    """Median log-likelihood of the tiles' contrasts, without its constant."""
    off = contrasts(images) - known["mean"]
    return float(np.median(-0.5 * np.einsum("ni,ij,nj->n", off, np.array(known["precision"]), off)))
