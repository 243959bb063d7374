"""How well scores tell out-of-distribution images (label 1) from in-distribution ones (label 0).

Everything in float64; ties in a score are one threshold.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import norm

from src.checks import COUNT, as_float64, check_images, check_labels, check_number
from src.encoders import Classifier
from src.ood.detectors import scores
from src.ood.feature_detectors import Train, check_neighbours, pixel_mahalanobis
from src.ood.outputs import last_layer, mc_dropout, penultimate, pixel_statistics
from src.ood.prediction_detectors import odin
from src.runs.runtime import Runtime, runtime_of

# images that the smaller of the two sets must have for a bootstrap interval, by what it is of:
# benchmarks/intervals.py
FEWEST = {"auroc": 30, "aupr_out": 50, "aupr_in": 50, "fpr95": 50}

# --- metrics of one score, with intervals ---


def metrics(
    id_scores: np.ndarray, ood_scores: np.ndarray, bootstrap: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """How well one score tells the two sets apart.

    Args:
        id_scores, ood_scores: one number an image, higher = more out-of-distribution.
        bootstrap: resamples.

    Returns:
        A table with columns value, low, high (95 %: `bootstrap_intervals`, of an AUROC from few
        images `auroc_interval`; NaN where so few images allow none, see `FEWEST`) and rows auroc;
        aupr_out and aupr_in (average precision with OOD, or ID, as the positive class: read them
        with the prevalence); fpr95 (share of ID taken for OOD at the threshold that finds 95 % of
        the OOD); prevalence (share of OOD: the aupr_out of a guess).

    Raises:
        ValueError: a set is empty, a score is not finite, or bootstrap < 1.
    """
    n_id, n_ood = len(id_scores), len(ood_scores)
    point, intervals = bootstrap_intervals(id_scores, ood_scores, bootstrap, seed)
    rows = {name: [value, *intervals[name]] for name, value in point.items()}
    for name in intervals:
        if min(n_id, n_ood) < FEWEST[name]:
            rows[name][1:] = [np.nan, np.nan]
    if min(n_id, n_ood) < FEWEST["auroc"]:
        rows["auroc"][1:] = auroc_interval(point["auroc"], n_id, n_ood)
    prevalence = n_ood / (n_id + n_ood)
    rows["prevalence"] = [prevalence] * 3  # every resample keeps the two sizes
    return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"])


def bootstrap_intervals(
    id_scores: np.ndarray, ood_scores: np.ndarray, bootstrap: int = 1000, seed: int = 0
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Metrics, and their 95 % percentile bootstrap [low, high], both sets resampled.

    Of few images it is far too short: one image out of distribution is drawn every time.
    """
    point, resampled = _bootstrap(id_scores, ood_scores, bootstrap, seed)
    return point, {name: _interval(values) for name, values in resampled.items()}


def auroc_interval(area: float, n_id: int, n_ood: int) -> tuple[float, float]:
    """95 % interval of an AUROC from few images (Newcombe 2006, method 5).

    The areas that lie within 1.96 of their own standard deviations from the one found; a deviation
    is Hanley and McNeil's (1982), with the mean of the two counts. It needs no resampling, and
    never ends at the point: of one image that is found it is wide.
    """
    z, half = norm.ppf(0.975), (n_id + n_ood) / 2 - 1

    def beyond(true: float) -> float:
        spread = 1 + half * ((1 - true) / (2 - true) + true / (1 + true))
        return (true - area) ** 2 - z**2 * true * (1 - true) * spread / (n_id * n_ood)

    inside = min(max(area, 1e-12), 1 - 1e-12)  # where the difference is below its deviation
    low = brentq(beyond, 0, inside) if area > 0 else 0.0
    high = brentq(beyond, inside, 1) if area < 1 else 1.0
    return low, high


def compare(
    id_scores: pd.DataFrame,
    ood_scores: pd.DataFrame,
    metric: str = "auroc",
    bootstrap: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Does one score beat another? Differences of a metric on the same resamples.

    Args:
        id_scores, ood_scores: one row an image, one column a score.
        metric: a row of `metrics`.

    Returns:
        One row for every two columns (a, b), a having the higher value; columns value (a − b), low,
        high (95 %; NaN where a set has fewer images than `FEWEST`). The two differ where 0 is
        outside the interval.
    """
    if metric not in FEWEST:
        raise ValueError(f"metric must be one of {', '.join(FEWEST)}, got {metric!r}")
    few = min(len(id_scores), len(ood_scores)) < FEWEST[metric]
    point, resampled = {}, {}
    for name in id_scores:
        of_score = _bootstrap(id_scores[name], ood_scores[name], bootstrap, seed)
        point[name], resampled[name] = (values[metric] for values in of_score)
    rows = {
        (a, b): [point[a] - point[b], *_interval(resampled[a] - resampled[b], few)]
        for a, b in itertools.combinations(sorted(point, key=lambda name: -point[name]), 2)
    }
    index = pd.MultiIndex.from_tuples(rows, names=["a", "b"])
    return pd.DataFrame(list(rows.values()), index=index, columns=["value", "low", "high"])


def _interval(resampled_B: np.ndarray, few: bool = False) -> np.ndarray:
    return np.full(2, np.nan) if few else np.quantile(resampled_B, [0.025, 0.975])


def _bootstrap(
    id_scores: np.ndarray, ood_scores: np.ndarray, bootstrap: int, seed: int
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Metrics of one score, and of it on B resamples.

    The resamples depend on the two sizes and the seed alone: the same images are drawn for every
    score, so that differences between scores are paired.
    """
    check_number(bootstrap, "bootstrap", COUNT)
    id_scores, ood_scores = as_float64(id_scores), as_float64(ood_scores)
    n_id, n_ood = len(id_scores), len(ood_scores)
    if id_scores.size != n_id or ood_scores.size != n_ood:
        raise ValueError(f"expected one score an image: {id_scores.shape}, {ood_scores.shape}")
    if n_id == 0 or n_ood == 0:
        raise ValueError(f"need scores of both sets, got {n_id} ID and {n_ood} OOD")
    values = np.concatenate([id_scores.ravel(), ood_scores.ravel()])
    if not np.isfinite(values).all():
        raise ValueError(f"{(~np.isfinite(values)).sum()} scores are NaN or infinite")
    is_ood = np.arange(n_id + n_ood) >= n_id
    point = _rates(values, is_ood, np.ones((1, n_id + n_ood)))
    rng = np.random.default_rng(seed)
    blocks = []
    for count in np.diff([*range(0, bootstrap, 100), bootstrap]):  # N × B can outgrow memory
        blocks.append(_rates(values, is_ood, _resample(n_id, n_ood, count, rng)))
    resampled = {name: np.concatenate([block[name] for block in blocks]) for name in point}
    return {name: rate[0] for name, rate in point.items()}, resampled


def _resample(n_id: int, n_ood: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Weights (count, n_id + n_ood): how often each image is drawn, with replacement, in its set.

    Drawing n of n images is weighting them by multinomial counts.
    """
    weights = [rng.multinomial(n, np.full(n, 1 / n), size=count) for n in (n_id, n_ood)]
    return np.hstack(weights).astype(np.float64)


def _rates(
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


# --- all detectors of a classifier ---


@dataclass(frozen=True)
class Evaluation:
    """The scores of a classifier's detectors, and their metrics."""

    id_scores: pd.DataFrame  # one row an image, one column a score
    ood_scores: pd.DataFrame  # the same; rows (set, image) where several sets were given
    table: pd.DataFrame  # rows (score, metric), or (set, score, metric); columns value, low, high

    @property
    def auroc(self) -> pd.DataFrame:
        """Of several sets: detectors × sets, in the order given, the heat map's numbers."""
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
    """Every detector of a classifier, and the pixel control, with all metrics.

    The training features and the in-distribution side are computed once, whatever the number of
    sets. Nine tenths of the time is the network's: for each image T passes behind the first
    dropout, and about four for ODIN.

    Args:
        train_images, id_images: (N, H, W, C) uint8 each, of any size; the same transform for all.
        ood_images: one such set, or several by name.
        samples: T of MC Dropout.
        runtime: as in `mc_dropout`.
        train_labels: of the training images; None leaves out the detectors fitted on features.

    Raises:
        ValueError: images or labels that cannot be what they say (`check_images`, `check_labels`):
            before anything is computed.
    """
    runtime, size = runtime_of(model, runtime), model.encoder.image_size
    check_number(samples, "samples", COUNT)
    _check_sets(train_images, id_images, ood_images)
    if train_labels is not None:
        classes = model.head[-1].out_features
        train_labels = check_labels(train_labels, classes, len(train_images), "train_labels")
        check_neighbours(len(train_images))
    train = None if train_labels is None else Train.of(model, train_images, train_labels, runtime)
    train_statistics = pixel_statistics(train_images, size)

    def score(images: np.ndarray) -> pd.DataFrame:
        pixels = pixel_mahalanobis(train_statistics, pixel_statistics(images, size))
        table = _network_scores(model, images, train, samples, runtime, seed)
        return table.assign(pixel_mahalanobis=pixels)

    id_scores = score(id_images)
    if not isinstance(ood_images, dict):
        ood_scores = score(ood_images)
        return Evaluation(id_scores, ood_scores, _all_metrics(id_scores, ood_scores, seed))
    sets = {name: score(images) for name, images in ood_images.items()}
    tables = {name: _all_metrics(id_scores, ood_scores, seed) for name, ood_scores in sets.items()}
    return Evaluation(
        id_scores, pd.concat(sets, names=["set", "image"]), pd.concat(tables, names=["set"])
    )


def _check_sets(
    train_images: np.ndarray, id_images: np.ndarray, ood_images: np.ndarray | dict[str, np.ndarray]
) -> None:
    sets = ood_images if isinstance(ood_images, dict) else {"ood_images": ood_images}
    for name, images in {"train_images": train_images, "id_images": id_images, **sets}.items():
        if not len(check_images(images, name)):
            raise ValueError(f"{name}: no images")


def _network_scores(
    model: Classifier,
    images: np.ndarray,
    train: Train | None,
    samples: int,
    runtime: Runtime,
    seed: int,
) -> pd.DataFrame:
    """All detectors but the pixels': those on features where a training split is given."""
    log_probs_T_N_C = mc_dropout(model, images, samples, runtime=runtime, seed=seed)
    features_N_D = penultimate(model, images, runtime)
    weight_C_D, bias_C = last_layer(model)
    logits_N_C = features_N_D @ weight_C_D.T + bias_C
    table = scores(log_probs_T_N_C, logits_N_C, None if train is None else features_N_D, train)
    return table.assign(odin=odin(model, images, runtime))


def _all_metrics(id_scores: pd.DataFrame, ood_scores: pd.DataFrame, seed: int) -> pd.DataFrame:
    tables = {name: metrics(id_scores[name], ood_scores[name], seed=seed) for name in ood_scores}
    return pd.concat(tables, names=["score", "metric"])
