"""How well scores tell out-of-distribution images (label 1) from in-distribution ones (label 0)."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import norm

from src.checks import COUNT, check_images, check_labels, check_number
from src.encoders import Classifier
from src.ood.bootstrap import Pairs, rates, resampled_rates
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
    return _all_metrics({"": (id_scores, ood_scores)}, bootstrap, seed).loc[""]


def _all_metrics(pairs: Pairs, bootstrap: int, seed: int) -> pd.DataFrame:
    """The tables of `metrics` of all scores of two sets, rows (score, metric)."""
    resampled = resampled_rates(pairs, bootstrap, seed)
    n_id, n_ood = map(len, next(iter(pairs.values())))
    rows = {}
    for score, point in rates(pairs).items():
        for metric, value in point.items():
            few = min(n_id, n_ood) < FEWEST[metric]
            rows[score, metric] = [value, *_interval(resampled[score][metric], few)]
        if min(n_id, n_ood) < FEWEST["auroc"]:
            rows[score, "auroc"][1:] = auroc_interval(point["auroc"], n_id, n_ood)
        # every resample keeps the two sizes
        rows[score, "prevalence"] = [n_ood / (n_id + n_ood)] * 3
    index = pd.MultiIndex.from_tuples(rows, names=["score", "metric"])
    return pd.DataFrame(list(rows.values()), index, ["value", "low", "high"])


def bootstrap_intervals(
    id_scores: np.ndarray, ood_scores: np.ndarray, bootstrap: int = 1000, seed: int = 0
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Metrics, and their 95 % percentile bootstrap [low, high], both sets resampled.

    Of few images it is far too short: one image out of distribution is drawn every time.
    """
    pairs = {"": (id_scores, ood_scores)}
    resampled = resampled_rates(pairs, bootstrap, seed)[""]
    return rates(pairs)[""], {name: _interval(values) for name, values in resampled.items()}


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
    pairs = _pairs(id_scores, ood_scores)
    resampled = {
        name: drawn[metric] for name, drawn in resampled_rates(pairs, bootstrap, seed).items()
    }
    point = {name: found[metric] for name, found in rates(pairs).items()}
    rows = {
        (a, b): [point[a] - point[b], *_interval(resampled[a] - resampled[b], few)]
        for a, b in itertools.combinations(sorted(point, key=lambda name: -point[name]), 2)
    }
    index = pd.MultiIndex.from_tuples(rows, names=["a", "b"])
    return pd.DataFrame(list(rows.values()), index=index, columns=["value", "low", "high"])


def _pairs(id_scores: pd.DataFrame, ood_scores: pd.DataFrame) -> Pairs:
    return {name: (id_scores[name], ood_scores[name]) for name in ood_scores}


def _interval(resampled_B: np.ndarray, few: bool = False) -> np.ndarray:
    return np.full(2, np.nan) if few else np.quantile(resampled_B, [0.025, 0.975])


# --- all detectors of a classifier ---


@dataclass(frozen=True)
class Evaluation:
    """The scores of a classifier's detectors, and their metrics."""

    id_scores: pd.DataFrame  # one row an image, one column a score
    ood_scores: pd.DataFrame  # the same; rows (set, image) where several sets were given
    seed: int = 0  # of the resamples

    @cached_property
    def table(self) -> pd.DataFrame:
        """Rows (score, metric), or (set, score, metric); columns value, low, high, as `metrics`
        has them. Resampled when it is first asked for.
        """
        tables = {name: _all_metrics(pairs, 1000, self.seed) for name, pairs in self._sets()}
        return pd.concat(tables, names=["set"]) if self._of_several else tables[""]

    @cached_property
    def auroc(self) -> pd.DataFrame:
        """Of several sets: detectors × sets, in the order given, the heat map's numbers."""
        areas = {
            name: {score: found["auroc"] for score, found in rates(pairs).items()}
            for name, pairs in self._sets()
        }
        return pd.DataFrame(areas).rename_axis(index="score", columns="set")

    @property
    def _of_several(self) -> bool:
        return isinstance(self.ood_scores.index, pd.MultiIndex)

    def _sets(self) -> Iterator[tuple[str, Pairs]]:
        """Each set's name, and its scores beside those of the in-distribution images."""
        if not self._of_several:
            yield "", _pairs(self.id_scores, self.ood_scores)
            return
        for name, of_set in self.ood_scores.groupby(level="set", sort=False):
            yield name, _pairs(self.id_scores, of_set)


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
        return Evaluation(id_scores, ood_scores, seed)
    sets = {name: score(images) for name, images in ood_images.items()}
    return Evaluation(id_scores, pd.concat(sets, names=["set", "image"]), seed)


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
