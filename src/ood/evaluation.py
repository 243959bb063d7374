"""How well a score tells out-of-distribution (label 1) from in-distribution (label 0), and how true
the confidence is.

Everything in float64; ties in a score are one threshold.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd

from src.encoders import Classifier
from src.ood.detectors import Train, mahalanobis, odin, scores
from src.ood.outputs import last_layer, mc_dropout, penultimate, pixel_statistics
from src.runs.runtime import Runtime, pick


def _rates(
    scores_: np.ndarray, is_ood: np.ndarray, weights_B_N: np.ndarray
) -> dict[str, np.ndarray]:
    """AUROC, AUPR and FPR for B weightings of the N scores at once: B bootstrap samples in one
    sweep.
    """
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
        "fpr95": np.take_along_axis(fpr, np.argmax(tpr >= 0.95 - 1e-12, axis=1)[:, None], axis=1)[
            :, 0
        ],
    }


def _average_precision(tp: np.ndarray, fp: np.ndarray) -> np.ndarray:
    recall_steps = np.diff(tp, axis=1, prepend=0) / tp[:, -1:]
    found = tp + fp
    return (recall_steps * np.divide(tp, found, out=np.zeros_like(tp), where=found > 0)).sum(1)


def _resample(n_id: int, n_ood: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Resampling each set with replacement = weighting its members by multinomial counts: (count,
    n_id + n_ood).
    """
    return np.hstack(
        [rng.multinomial(n, np.full(n, 1 / n), size=count) for n in (n_id, n_ood)]
    ).astype(np.float64)


def _bootstrap(
    id_scores: np.ndarray, ood_scores: np.ndarray, bootstrap: int, seed: int
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Metrics of one score, and of it on B resamples, which depend on the two sizes and the seed
    alone: for every score the same images are drawn, so that differences between scores are
    paired."""
    if bootstrap < 1:
        raise ValueError(f"bootstrap must be at least 1, got {bootstrap}")
    id_scores, ood_scores = (np.asarray(s, np.float64).ravel() for s in (id_scores, ood_scores))
    if len(id_scores) == 0 or len(ood_scores) == 0:
        raise ValueError(
            f"need scores of both sets, got {len(id_scores)} ID and {len(ood_scores)} OOD"
        )
    values = np.concatenate([id_scores, ood_scores])
    if not np.isfinite(values).all():
        raise ValueError(f"{(~np.isfinite(values)).sum()} scores are NaN or infinite")
    is_ood = np.arange(len(values)) >= len(id_scores)
    rng = np.random.default_rng(seed)
    point = {
        name: rate[0] for name, rate in _rates(values, is_ood, np.ones((1, len(values)))).items()
    }
    blocks = [
        _rates(values, is_ood, _resample(len(id_scores), len(ood_scores), count, rng))
        for count in np.diff([*range(0, bootstrap, 100), bootstrap])
    ]  # in blocks: N × bootstrap can outgrow memory
    return point, {name: np.concatenate([block[name] for block in blocks]) for name in point}


def metrics(
    id_scores: np.ndarray, ood_scores: np.ndarray, bootstrap: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """How well one score tells the two sets apart.

    Returns:
        A table with columns value, low, high (95 % percentile bootstrap, both sets resampled) and
        rows auroc; aupr_out and aupr_in (average precision with OOD, or ID, as the positive class:
        read them with the prevalence); fpr95 (share of ID taken for OOD at the threshold that finds
        95 % of the OOD); prevalence (share of OOD: the aupr_out of a guess).

    Raises:
        ValueError: a set is empty, a score is not finite, or bootstrap < 1.
    """
    point, resampled = _bootstrap(id_scores, ood_scores, bootstrap, seed)
    rows = {
        name: [value, *np.quantile(resampled[name], [0.025, 0.975])]
        for name, value in point.items()
    }
    prevalence = len(ood_scores) / (len(id_scores) + len(ood_scores))
    rows["prevalence"] = [prevalence] * 3  # every resample keeps the two sizes
    return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"])


def compare(
    id_scores: pd.DataFrame,
    ood_scores: pd.DataFrame,
    metric: str = "auroc",
    bootstrap: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Does one score beat another? Differences of a metric between every two columns, on the same
    resamples.

    Returns:
        Rows (a, b), a having the higher value; columns value (a − b), low, high (95 %). The two
        differ where 0 is outside the interval.
    """
    runs = {
        name: _bootstrap(id_scores[name], ood_scores[name], bootstrap, seed) for name in id_scores
    }
    ranked = sorted(runs, key=lambda name: -runs[name][0][metric])
    rows = {
        (a, b): [
            runs[a][0][metric] - runs[b][0][metric],
            *np.quantile(runs[a][1][metric] - runs[b][1][metric], [0.025, 0.975]),
        ]
        for a, b in itertools.combinations(ranked, 2)
    }
    index = pd.MultiIndex.from_tuples(rows, names=["a", "b"])
    return pd.DataFrame(list(rows.values()), index=index, columns=["value", "low", "high"])


@dataclass(frozen=True)
class Evaluation:
    id_scores: pd.DataFrame  # one row an image, one column a score
    ood_scores: pd.DataFrame  # the same; rows (set, image) where several sets were asked for
    table: pd.DataFrame  # rows (score, metric), or (set, score, metric); columns value, low, high

    @property
    def auroc(self) -> pd.DataFrame:
        """Of several sets: detectors × sets, both in the order they were given, the heat map's
        numbers.
        """
        area = self.table.xs("auroc", level="metric").reset_index()
        return area.pivot_table("value", "score", "set", sort=False)


def evaluate(
    model: Classifier,
    train_images: np.ndarray,
    id_images: np.ndarray,
    ood_images: np.ndarray | dict[str, np.ndarray],
    samples: int = 50,
    runtime: Runtime | None = None,
    seed: int = 0,
    train_labels: np.ndarray | None = None,
) -> Evaluation:
    """Every detector of a classifier, and the pixel control, on one set of OOD images or on
    several, with all metrics.

    The training features and the in-distribution side are computed once, whatever the number of
    sets. Nine tenths of the time is the network's: for each image T passes behind the first
    dropout, and about four for ODIN.

    Args:
        train_images, id_images, ood_images: (N, H, W, C) uint8 each, of any size; the same
            transform for all.
        samples: T of MC Dropout.
        train_labels: of the training images; None leaves out the detectors fitted on features.
    """
    runtime, size = runtime or pick(), model.encoder.image_size
    train = None if train_labels is None else Train.of(model, train_images, train_labels, runtime)
    weight_C_D, bias_C = last_layer(model)
    train_statistics = pixel_statistics(train_images, size)

    def score(images: np.ndarray) -> pd.DataFrame:
        log_probs_T_N_C = mc_dropout(model, images, samples, runtime=runtime, seed=seed)
        features_N_D = penultimate(model, images, runtime)
        logits_N_C = features_N_D @ weight_C_D.T + bias_C
        table = scores(log_probs_T_N_C, logits_N_C, None if train is None else features_N_D, train)
        return table.assign(
            odin=odin(model, images, runtime),
            pixel_mahalanobis=mahalanobis(train_statistics, pixel_statistics(images, size)),
        )

    inside = score(id_images)
    sets = ood_images if isinstance(ood_images, dict) else {"": ood_images}
    outside = {name: score(images) for name, images in sets.items()}
    tables = {
        name: pd.concat(
            {d: metrics(inside[d], side[d], seed=seed) for d in side}, names=["score", "metric"]
        )
        for name, side in outside.items()
    }
    if not isinstance(ood_images, dict):
        return Evaluation(inside, outside[""], tables[""])
    return Evaluation(
        inside, pd.concat(outside, names=["set", "image"]), pd.concat(tables, names=["set"])
    )
