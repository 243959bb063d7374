"""How well a score tells out-of-distribution (label 1) from in-distribution (label 0), and how true the confidence is.

Everything in float64; ties in a score are one threshold.
"""

import itertools

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax


def _rates(scores_: np.ndarray, is_ood: np.ndarray, weights_B_N: np.ndarray) -> dict[str, np.ndarray]:
    """AUROC, AUPR and FPR for B weightings of the N scores at once: B bootstrap samples in one sweep."""
    order = np.argsort(-scores_, kind="stable")
    last_of_ties = np.append(np.flatnonzero(np.diff(scores_[order])), len(order) - 1)
    w, ood = weights_B_N[:, order], is_ood[order]
    tp, fp = (np.cumsum(w * side, axis=1)[:, last_of_ties] for side in (ood, ~ood))
    zero, P, N = np.zeros((len(w), 1)), tp[:, -1:], fp[:, -1:]
    tpr, fpr = np.hstack([zero, tp / P]), np.hstack([zero, fp / N])
    # the in-distribution side is swept from the other end: positives are the low scores
    tp_in, fp_in = np.hstack([N - fp[:, -2::-1], N]), np.hstack([P - tp[:, -2::-1], P])
    return {
        "auroc": np.trapezoid(tpr, fpr, axis=1),
        "aupr_out": _average_precision(tp, fp),
        "aupr_in": _average_precision(tp_in, fp_in),
        "fpr95": np.take_along_axis(fpr, np.argmax(tpr >= 0.95 - 1e-12, axis=1)[:, None], axis=1)[:, 0],
    }


def _average_precision(tp: np.ndarray, fp: np.ndarray) -> np.ndarray:
    recall_steps = np.diff(tp, axis=1, prepend=0) / tp[:, -1:]
    found = tp + fp
    return (recall_steps * np.divide(tp, found, out=np.zeros_like(tp), where=found > 0)).sum(1)


def _resample(n_id: int, n_ood: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Resampling each set with replacement = weighting its members by multinomial counts: (count, n_id + n_ood)."""
    return np.hstack([rng.multinomial(n, np.full(n, 1 / n), size=count) for n in (n_id, n_ood)]).astype(np.float64)


def _bootstrap(
    id_scores: np.ndarray, ood_scores: np.ndarray, bootstrap: int, seed: int
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Metrics of one score, and of it on B resamples, which depend on the two sizes and the seed alone: for every
    score the same images are drawn, so that differences between scores are paired."""
    if bootstrap < 1:
        raise ValueError(f"bootstrap must be at least 1, got {bootstrap}")
    id_scores, ood_scores = (np.asarray(s, np.float64).ravel() for s in (id_scores, ood_scores))
    if len(id_scores) == 0 or len(ood_scores) == 0:
        raise ValueError(f"need scores of both sets, got {len(id_scores)} ID and {len(ood_scores)} OOD")
    values = np.concatenate([id_scores, ood_scores])
    if not np.isfinite(values).all():
        raise ValueError(f"{(~np.isfinite(values)).sum()} scores are NaN or infinite")
    is_ood = np.arange(len(values)) >= len(id_scores)
    rng = np.random.default_rng(seed)
    point = {name: rate[0] for name, rate in _rates(values, is_ood, np.ones((1, len(values)))).items()}
    blocks = [
        _rates(values, is_ood, _resample(len(id_scores), len(ood_scores), count, rng))
        for count in np.diff([*range(0, bootstrap, 100), bootstrap])
    ]  # in blocks: N × bootstrap can outgrow memory
    return point, {name: np.concatenate([block[name] for block in blocks]) for name in point}


def metrics(id_scores: np.ndarray, ood_scores: np.ndarray, bootstrap: int = 1000, seed: int = 0) -> pd.DataFrame:
    """How well one score tells the two sets apart.

    Returns:
        A table with columns value, low, high (95 % percentile bootstrap, both sets resampled) and rows auroc;
        aupr_out and aupr_in (average precision with OOD, or ID, as the positive class: read them with the
        prevalence); fpr95 (share of ID taken for OOD at the threshold that finds 95 % of the OOD); prevalence
        (share of OOD: the aupr_out of a guess).

    Raises:
        ValueError: a set is empty, a score is not finite, or bootstrap < 1.
    """
    point, resampled = _bootstrap(id_scores, ood_scores, bootstrap, seed)
    rows = {name: [value, *np.quantile(resampled[name], [0.025, 0.975])] for name, value in point.items()}
    prevalence = len(ood_scores) / (len(id_scores) + len(ood_scores))
    rows["prevalence"] = [prevalence] * 3  # every resample keeps the two sizes
    return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"])


def compare(
    id_scores: pd.DataFrame, ood_scores: pd.DataFrame, metric: str = "auroc", bootstrap: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Does one score beat another? Differences of a metric between every two columns, on the same resamples.

    Returns:
        Rows (a, b), a having the higher value; columns value (a − b), low, high (95 %). The two differ where 0 is
        outside the interval.
    """
    runs = {name: _bootstrap(id_scores[name], ood_scores[name], bootstrap, seed) for name in id_scores}
    ranked = sorted(runs, key=lambda name: -runs[name][0][metric])
    rows = {
        (a, b): [runs[a][0][metric] - runs[b][0][metric],
                 *np.quantile(runs[a][1][metric] - runs[b][1][metric], [0.025, 0.975])]
        for a, b in itertools.combinations(ranked, 2)
    }  # fmt: skip
    index = pd.MultiIndex.from_tuples(rows, names=["a", "b"])
    return pd.DataFrame(list(rows.values()), index=index, columns=["value", "low", "high"])


# --- is the confidence true? ---


def reliability(
    confidence_N: np.ndarray, correct_N: np.ndarray, bins: int = 15, equal_mass: bool = False
) -> pd.DataFrame:
    """Mean confidence, accuracy and count of every bin that holds an image.

    Args:
        confidence_N: in [0, 1]; 0.0 falls into the first bin and 1.0 into the last.
        correct_N: whether each prediction is right.
        equal_mass: bins of as many images each (equal confidences stay together), not of equal width.

    Raises:
        ValueError: no images, lengths that differ, or a confidence that is NaN or outside [0, 1].
    """
    confidence, correct = np.asarray(confidence_N, np.float64), np.asarray(correct_N, np.float64)
    if confidence.ndim != 1 or confidence.shape != correct.shape or len(confidence) == 0:
        raise ValueError(f"expected as many confidences as answers, got {confidence.shape} and {correct.shape}")
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("confidences must lie in [0, 1]")
    place = np.searchsorted(np.sort(confidence), confidence) / len(confidence) if equal_mass else confidence
    number = np.minimum((place * bins).astype(int), bins - 1)
    frame = pd.DataFrame({"confidence": confidence, "accuracy": correct, "count": 1.0})
    return frame.groupby(number).agg({"confidence": "mean", "accuracy": "mean", "count": "sum"})


def ece(confidence_N: np.ndarray, correct_N: np.ndarray, bins: int = 15, equal_mass: bool = False) -> float:
    """Expected calibration error (Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599), in [0, 1]."""
    table = reliability(confidence_N, correct_N, bins, equal_mass)
    return float(np.average((table["confidence"] - table["accuracy"]).abs(), weights=table["count"]))


def calibration(logits_N_C: np.ndarray, labels_N: np.ndarray, temperature: float = 1.0, bins: int = 15) -> pd.Series:
    """Of softmax(logits / temperature): accuracy, NLL in nats, Brier score (sum over classes, in [0, 2]), both ECEs."""
    log_probs = log_softmax(np.asarray(logits_N_C, np.float64) / temperature, axis=1)
    probs, truth = np.exp(log_probs), np.eye(log_probs.shape[1])[labels_N]
    confidence, correct = probs.max(1), probs.argmax(1) == labels_N
    return pd.Series({
        "accuracy": correct.mean(),
        "nll": -(log_probs * truth).sum(1).mean(),
        "brier": ((probs - truth) ** 2).sum(1).mean(),
        "ece": ece(confidence, correct, bins),
        "ece_equal_mass": ece(confidence, correct, bins, equal_mass=True),
    })  # fmt: skip


def fit_temperature(val_logits_N_C: np.ndarray, val_labels_N: np.ndarray) -> float:
    """The temperature with the lowest NLL on val (Guo et al. 2017, arXiv 1706.04599): above 1 the network was too sure.

    Raises:
        ValueError: no minimum in 0.05 … 20, as when every image of val is classified right with room to spare.
    """

    def nll(log_temperature: float) -> float:
        return calibration(val_logits_N_C, val_labels_N, np.exp(log_temperature))["nll"]

    low, high = np.log([0.05, 20])
    found = minimize_scalar(nll, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x
    if not nll(found) < min(nll(low), nll(high)):
        raise ValueError(f"no temperature in 0.05 … 20 fits these {len(val_labels_N)} images: use more, or harder ones")
    return float(np.exp(found))


def accuracy_rejection(uncertainty_N: np.ndarray, correct_N: np.ndarray) -> pd.DataFrame:
    """Accuracy among the images kept when the most uncertain are rejected: columns kept (share, rising) and accuracy.

    Images of equal uncertainty are kept or rejected together.
    """
    uncertainty, correct = np.asarray(uncertainty_N, np.float64), np.asarray(correct_N, np.float64)
    if uncertainty.shape != correct.shape or len(correct) == 0 or not np.isfinite(uncertainty).all():
        raise ValueError(f"expected finite uncertainties and as many answers, got {uncertainty.shape}, {correct.shape}")
    order = np.argsort(uncertainty, kind="stable")
    last = np.append(np.flatnonzero(np.diff(uncertainty[order])), len(order) - 1)
    return pd.DataFrame({
        "kept": (last + 1) / len(order), "accuracy": np.cumsum(correct[order])[last] / (last + 1),
    })  # fmt: skip
