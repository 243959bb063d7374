"""Out-of-distribution detection: MC Dropout, scores, metrics.

One convention everywhere: a higher score means more out-of-distribution, and label 1 is out-of-distribution.
Shapes are in the names: T samples, N images, C classes, D features.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.special import logsumexp, softmax
from sklearn.covariance import EmpiricalCovariance
from torch import nn

from src.augmentations import resize, to_unit
from src.encoders import Classifier
from src.probes import embed, modes_kept, prepare
from src.runtime import Runtime, pick, seed_of

DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def _drops(module: nn.Module) -> bool:
    return any(isinstance(m, DROPOUT) and m.p > 0 for m in module.modules())


@torch.inference_mode()
def mc_dropout(
    model: Classifier, images: np.ndarray, samples: int = 50, *,
    runtime: Runtime | None = None, batch_size: int = 128, seed: int = 0,
) -> np.ndarray:  # fmt: skip
    """Monte-Carlo dropout (Gal & Ghahramani 2016, arXiv 1506.02142): T stochastic passes over every image.

    Only dropout is stochastic; batch norm keeps its running statistics. Everything before the first dropout layer is
    the same in every pass, and runs once.

    Args:
        model: a classifier; its modes are restored afterwards.
        images: (N, H, W, C) uint8, as a PatchStore keeps them, in or out of distribution: resized to the model's
            size by the one transform of evaluation.
        samples: T, the number of passes.
        batch_size: images at a time; the masks drawn for one seed depend on it.

    Returns:
        log_probs_T_N_C, float64: log p(class | image, dropout mask t).

    Raises:
        ValueError: no dropout in the model (every pass would be the same), no images, or samples < 1.
    """
    runtime = runtime or pick()
    if samples < 1 or len(images) == 0:
        raise ValueError(f"expected at least one sample and one image, got {samples} and {len(images)}")
    layers = model.layers()
    first = next((n for n, layer in enumerate(layers) if _drops(layer)), None)
    if first is None:
        raise ValueError("the model has no dropout above 0: MC Dropout would give T times the same answer")
    trunk, tail = nn.Sequential(*layers[:first]), nn.Sequential(*layers[first:])
    log_probs = []
    cuda = [runtime.device] if runtime.device.type == "cuda" else []
    with modes_kept(model), runtime.autocast(), torch.random.fork_rng(cuda):
        for module in model.modules():
            module.training = isinstance(module, DROPOUT)
        torch.manual_seed(seed_of(seed))
        for start in range(0, len(images), batch_size):
            shared = trunk(prepare(images[start : start + batch_size], model.encoder.image_size, runtime.device))
            # .clone(): an in-place layer of the tail must not change what the next pass starts from
            logits_T_n_C = torch.stack([tail(shared.clone()) for _ in range(samples)])
            log_probs.append(logits_T_n_C.double().log_softmax(-1).cpu().numpy())
    return np.concatenate(log_probs, axis=1)


def entropy(log_probs: np.ndarray) -> np.ndarray:
    """Entropy over the last axis in nats; 0·log 0 counts as 0."""
    probs = np.exp(log_probs)
    return -np.sum(probs * np.where(probs > 0, log_probs, 0.0), axis=-1)


def scores(log_probs_T_N_C: np.ndarray, logits_N_C: np.ndarray) -> pd.DataFrame:
    """OOD scores of N images, one column each, higher = more out-of-distribution.

    - `mutual_information`: H[E p] − E H[p], in nats (BALD, Houlsby et al. 2011, arXiv 1112.5745); 0 when T = 1.
    - `predictive_entropy`: H[E p], in nats.
    - `predictive_variance`: variance of p over the samples, summed over classes.
    - `one_minus_msp`: 1 − maximum softmax probability without dropout (Hendrycks & Gimpel 2017, arXiv 1610.02136).

    Args:
        log_probs_T_N_C: from `mc_dropout`.
        logits_N_C: of the deterministic pass.

    Raises:
        ValueError: shapes don't fit, or a value is NaN.
    """
    if log_probs_T_N_C.ndim != 3 or log_probs_T_N_C.shape[1:] != logits_N_C.shape:
        raise ValueError(f"expected (T, N, C) and (N, C), got {log_probs_T_N_C.shape} and {logits_N_C.shape}")
    if not (log_probs_T_N_C < np.inf).all() or not np.isfinite(logits_N_C).all():
        raise ValueError("log probabilities or logits hold NaN or infinite values: look at the model's training loss")
    mean_N_C = logsumexp(log_probs_T_N_C, axis=0) - np.log(len(log_probs_T_N_C))
    total = entropy(mean_N_C)
    return pd.DataFrame({
        # rounding can leave −1e-17 where all samples agree
        "mutual_information": np.maximum(total - entropy(log_probs_T_N_C).mean(0), 0.0),
        "predictive_entropy": total,
        "predictive_variance": np.exp(log_probs_T_N_C).var(0).sum(-1),
        # the sum of the others, not 1 − the largest: a sure network's largest rounds to 1, and all would tie
        "one_minus_msp": np.sort(softmax(logits_N_C.astype(np.float64), axis=-1), axis=-1)[:, :-1].sum(-1),
    })  # fmt: skip


def pixel_statistics(images: np.ndarray, size: int) -> np.ndarray:
    """Channel means, channel deviations, mean absolute gradient down and across: (N, H, W, C) uint8 → (N, 2C + 2).

    What can be known without any network: the control every OOD number should stand beside. Images are first
    resized to the `size` (pixels) that the network sees, else the gradients would measure the resizing.
    """
    statistics = []
    for start in range(0, len(images), 256):
        x = resize(to_unit(torch.as_tensor(images[start : start + 256]).permute(0, 3, 1, 2)), size)
        gradients = [x.diff(dim=axis).abs().mean((1, 2, 3))[:, None] for axis in (2, 3)]
        statistics.append(torch.cat([x.mean((2, 3)), x.std((2, 3)), *gradients], dim=1))
    return torch.cat(statistics).numpy()


def mahalanobis(train_N_D: np.ndarray, test_N_D: np.ndarray) -> np.ndarray:
    """Squared Mahalanobis distance of each test row from the mean and covariance of the training rows."""
    return EmpiricalCovariance().fit(train_N_D).mahalanobis(test_N_D)


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


def metrics(id_scores: np.ndarray, ood_scores: np.ndarray, bootstrap: int = 1000, seed: int = 0) -> pd.DataFrame:
    """How well a score tells out-of-distribution (label 1) from in-distribution (label 0).

    Returns:
        A table with columns value, low, high (95 % percentile bootstrap, both sets resampled) and rows auroc;
        aupr_out and aupr_in (average precision with OOD, or ID, as the positive class: read them with the
        prevalence); fpr95 (share of ID taken for OOD at the threshold that finds 95 % of the OOD); prevalence
        (share of OOD: the aupr_out of a guess).

    Raises:
        ValueError: a set is empty, a score is not finite, or bootstrap < 1.
    """
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
    point = _rates(values, is_ood, np.ones((1, len(values))))
    resampled = [
        _rates(values, is_ood, _resample(len(id_scores), len(ood_scores), count, rng))
        for count in np.diff([*range(0, bootstrap, 100), bootstrap])
    ]  # in blocks: N × bootstrap can outgrow memory
    table = pd.DataFrame(index=list(point), columns=["value", "low", "high"], dtype=np.float64)
    for name in point:
        interval = np.quantile(np.concatenate([block[name] for block in resampled]), [0.025, 0.975])
        table.loc[name] = [point[name][0], *interval]
    table.loc["prevalence"] = is_ood.mean()
    return table


@dataclass(frozen=True)
class Evaluation:
    id_scores: pd.DataFrame  # one row an image, one column a score
    ood_scores: pd.DataFrame
    table: pd.DataFrame  # rows (score, metric), columns value, low, high


def evaluate(
    model: Classifier, train_images: np.ndarray, id_images: np.ndarray, ood_images: np.ndarray, samples: int = 50,
    runtime: Runtime | None = None, seed: int = 0,
) -> Evaluation:  # fmt: skip
    """Every score of a classifier, and the pixel control fitted on its training images, with all metrics.

    Args:
        train_images, id_images, ood_images: (N, H, W, C) uint8 each, of any size; the same transform for all.
        samples: T of MC Dropout.
    """
    runtime, size = runtime or pick(), model.encoder.image_size
    train_statistics = pixel_statistics(train_images, size)
    sides = []
    for images in (id_images, ood_images):
        log_probs_T_N_C = mc_dropout(model, images, samples, runtime=runtime, seed=seed)
        side = scores(log_probs_T_N_C, embed(model, images, size, runtime))
        sides.append(side.assign(pixel_mahalanobis=mahalanobis(train_statistics, pixel_statistics(images, size))))
    per_score = {name: metrics(sides[0][name], sides[1][name], seed=seed) for name in sides[0]}
    return Evaluation(*sides, pd.concat(per_score, names=["score", "metric"]))
