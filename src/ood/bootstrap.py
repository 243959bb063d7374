"""Rates of scores, and of the same scores on resampled images: what intervals are made of.

Everything in float64; ties in a score are one threshold.
"""

import numpy as np

from src.checks import COUNT, as_float64, check_number

Pairs = dict[str, tuple[np.ndarray, np.ndarray]]  # score → its numbers of ID and of OOD images
Rates = dict[str, np.ndarray]  # auroc, aupr_out, aupr_in and fpr95, (B,) each


def rates(pairs: Pairs) -> dict[str, dict[str, float]]:
    """Score → its auroc, aupr_out, aupr_in and fpr95 (see `metrics`).

    Raises:
        ValueError: a set is empty, or a score is not finite.
    """
    found = {}
    for name, (id_scores, ood_scores) in pairs.items():
        values_N, is_ood_N = _both(id_scores, ood_scores)
        once = _weighted_rates(values_N, is_ood_N, np.ones((1, len(values_N))))
        found[name] = {metric: rate.item() for metric, rate in once.items()}
    return found


def resampled_rates(pairs: Pairs, bootstrap: int, seed: int) -> dict[str, Rates]:
    """Score → its rates on B resamples of both sets.

    The resamples depend on the two sizes and the seed alone: the same images are drawn for every
    score, so that differences between scores are paired, and they are drawn once for all.

    Args:
        pairs: all of the same two sets of images.
        bootstrap: B.

    Raises:
        ValueError: bootstrap < 1, a set is empty, or a score is not finite.
    """
    check_number(bootstrap, "bootstrap", COUNT)
    values = {name: _both(*pair) for name, pair in pairs.items()}
    n_id, n_ood = map(len, next(iter(pairs.values())))
    rng, blocks = np.random.default_rng(seed), {name: [] for name in pairs}
    for count in np.diff([*range(0, bootstrap, 100), bootstrap]):  # N × B can outgrow memory
        weights_B_N = _resample(n_id, n_ood, count, rng)
        for name, of_score in values.items():
            blocks[name].append(_weighted_rates(*of_score, weights_B_N))
    return {
        name: {metric: np.concatenate([block[metric] for block in some]) for metric in some[0]}
        for name, some in blocks.items()
    }


def _both(id_scores: np.ndarray, ood_scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scores of both sets, (N,), and which are of the second."""
    id_scores, ood_scores = as_float64(id_scores), as_float64(ood_scores)
    n_id, n_ood = len(id_scores), len(ood_scores)
    if id_scores.size != n_id or ood_scores.size != n_ood:
        raise ValueError(f"expected one score an image: {id_scores.shape}, {ood_scores.shape}")
    if n_id == 0 or n_ood == 0:
        raise ValueError(f"need scores of both sets, got {n_id} ID and {n_ood} OOD")
    values = np.concatenate([id_scores.ravel(), ood_scores.ravel()])
    if not np.isfinite(values).all():
        raise ValueError(f"{(~np.isfinite(values)).sum()} scores are NaN or infinite")
    return values, np.arange(n_id + n_ood) >= n_id


def _resample(n_id: int, n_ood: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Weights (count, n_id + n_ood): how often each image is drawn, with replacement, in its set.

    Drawing n of n images is weighting them by multinomial counts.
    """
    weights = [rng.multinomial(n, np.full(n, 1 / n), size=count) for n in (n_id, n_ood)]
    return np.hstack(weights).astype(np.float64)


def _weighted_rates(
    scores_N: np.ndarray, is_ood_N: np.ndarray, weights_B_N: np.ndarray
) -> dict[str, np.ndarray]:
    """AUROC, AUPR and FPR, (B,) each, for B weightings of the N scores in one sweep.

    The threshold falls from the highest score to the lowest: one step for each distinct score.
    """
    order = np.argsort(-scores_N, kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(scores_N[order])), len(order) - 1)
    weights, is_ood = weights_B_N[:, order], is_ood_N[order]
    tp = np.cumsum(weights * is_ood, axis=1)[:, last_of_ties]
    fp = np.cumsum(weights * ~is_ood, axis=1)[:, last_of_ties]
    positives, negatives = tp[:, -1:], fp[:, -1:]
    origin = np.zeros((len(weights), 1))
    tpr, fpr = np.hstack([origin, tp / positives]), np.hstack([origin, fp / negatives])
    # with ID as the positive class the sweep is the same from the other end
    tp_in = np.hstack([negatives - fp[:, -2::-1], negatives])
    fp_in = np.hstack([positives - tp[:, -2::-1], positives])
    first_95 = np.argmax(tpr >= 0.95 - 1e-12, axis=1)
    return {
        "auroc": np.trapezoid(tpr, fpr, axis=1),
        "aupr_out": _average_precision(tp, fp),
        "aupr_in": _average_precision(tp_in, fp_in),
        "fpr95": np.take_along_axis(fpr, first_95[:, None], axis=1)[:, 0],
    }


def _average_precision(tp: np.ndarray, fp: np.ndarray) -> np.ndarray:
    recall_steps = np.diff(tp, axis=1, prepend=0) / tp[:, -1:]
    flagged = tp + fp
    precision = np.divide(tp, flagged, out=np.zeros_like(tp), where=flagged > 0)
    return (recall_steps * precision).sum(1)
