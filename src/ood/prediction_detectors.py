"""Detectors that read a network's predictions: MC-Dropout samples, logits, or their gradient.

Plain functions in float64; higher = more out-of-distribution. None of them is fitted on anything.
The lines "Formula" and "Paper" of a docstring are what `src.ood.detectors` shows in its table.
"""

import numpy as np
import torch
from scipy.special import logsumexp, softmax

from src.augmentations import check_statistics
from src.augmentations.evaluation_transform import prepare
from src.augmentations.transfer import constant, to_host
from src.checks import COUNT, RATE, Range, as_float64, check_images, check_number
from src.encoders import Classifier, statistics_of
from src.probes import preserve_mode
from src.runs.runtime import Runtime, runtime_of

# --- from MC samples ---


def entropy(log_probs: np.ndarray) -> np.ndarray:
    """Entropy over the last axis in nats; 0·log 0 counts as 0."""
    log_probs = as_float64(log_probs)
    probs = np.exp(log_probs)
    return -np.sum(probs * np.where(probs > 0, log_probs, 0.0), axis=-1)


def mutual_information(log_probs_T_N_C: np.ndarray) -> np.ndarray:
    """Mutual information of class and dropout mask, in nats: how much the passes disagree.

    Formula: H[E p] − E H[p]; 0 when T = 1
    Paper: Houlsby et al. 2011, arXiv 1112.5745
    """
    information = predictive_entropy(log_probs_T_N_C) - expected_entropy(log_probs_T_N_C)
    return np.maximum(information, 0.0)  # rounding can leave −1e-17 where all samples agree


def predictive_entropy(log_probs_T_N_C: np.ndarray) -> np.ndarray:
    """Entropy of the mean prediction, in nats: how unsure the passes are together.

    Formula: H[E p]
    Paper: Gal 2016, thesis §3.3
    """
    log_probs_T_N_C = as_float64(log_probs_T_N_C)
    return entropy(logsumexp(log_probs_T_N_C, axis=0) - np.log(len(log_probs_T_N_C)))


def expected_entropy(log_probs_T_N_C: np.ndarray) -> np.ndarray:
    """Mean entropy of the passes, in nats: how unsure a single one is.

    Formula: E H[p]
    Paper: Depeweg et al. 2018, arXiv 1710.07283
    """
    return entropy(log_probs_T_N_C).mean(0)


def predictive_variance(log_probs_T_N_C: np.ndarray) -> np.ndarray:
    """Variance over the passes, summed over the classes.

    Formula: Σ_c Var p_c; 0 when T = 1
    Paper: Kendall et al. 2015, arXiv 1511.02680
    """
    return np.exp(as_float64(log_probs_T_N_C)).var(0).sum(-1)


def variation_ratio(log_probs_T_N_C: np.ndarray) -> np.ndarray:
    """How many passes vote against the majority.

    Formula: 1 − share of passes that vote for the modal class
    Paper: Freeman 1965; Gal 2016, thesis §3.3
    """
    log_probs_T_N_C = as_float64(log_probs_T_N_C)
    votes_N_C = np.eye(log_probs_T_N_C.shape[-1])[log_probs_T_N_C.argmax(-1)].mean(0)
    return 1 - votes_N_C.max(-1)


# --- from logits ---


def _probs_and_rest(logits_N_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p and 1 − p, the latter summed from the other classes.

    A sure network's p rounds to 1, and all of 1 − p would tie at 0.
    """
    probs = softmax(as_float64(logits_N_C), axis=-1)
    return probs, probs @ (1 - np.eye(probs.shape[-1]))


def one_minus_msp(logits_N_C: np.ndarray) -> np.ndarray:
    """How far the maximum softmax probability is from 1.

    Formula: 1 − max_c p_c
    Paper: Hendrycks & Gimpel 2017, arXiv 1610.02136
    """
    return _probs_and_rest(logits_N_C)[1].min(-1)


def energy(logits_N_C: np.ndarray) -> np.ndarray:
    """Free energy of the logits at temperature 1.

    Formula: −log Σ_c exp f_c
    Paper: Liu et al. 2020, arXiv 2010.03759
    """
    return -logsumexp(as_float64(logits_N_C), axis=-1)


def max_logit(logits_N_C: np.ndarray) -> np.ndarray:
    """The largest logit, its sign turned.

    Formula: −max_c f_c
    Paper: Hendrycks et al. 2022, arXiv 1911.11132
    """
    return -as_float64(logits_N_C).max(-1)


def generalised_entropy(logits_N_C: np.ndarray, gamma: float = 0.1) -> np.ndarray:
    """GEN: an entropy that small probabilities weigh more in, for a small `gamma`.

    All classes are summed: the paper's cut to the 100 likeliest matters for a thousand classes, not
    for ten.

    Formula: Σ_c (p_c (1 − p_c))^0.1
    Paper: Liu et al. 2023 (GEN), CVPR
    """
    probs, rest = _probs_and_rest(logits_N_C)
    return ((probs * rest) ** gamma).sum(-1)


# --- from gradients ---


def odin(
    model: Classifier,
    images: np.ndarray,
    runtime: Runtime | None = None,
    temperature: float = 1000.0,
    epsilon: float = 0.0014,
    batch_size: int = 64,
) -> np.ndarray:
    """ODIN: one small step that makes the prediction surer, then 1 − MSP at a high temperature.

    Always in float32: bfloat16 would round the step away. Temperature and epsilon are the paper's
    for ten classes, not tuned here: that would take out-of-distribution images.

    Formula: 1 − max_c p_c(x + ε sign ∇ log max_c p_c; temperature 1000), ε 0.0014
    Paper: Liang et al. 2018, arXiv 1706.02690

    Args:
        images: (N, H, W, C) uint8, or uint16 digital numbers.
        runtime: as in `mc_dropout`; only its device counts.
        temperature: above 0.
        epsilon: the step in units of pixels in [0, 1].
        batch_size: images at a time.

    Raises:
        ValueError: no images or what cannot be images (`check_images`), or a temperature that is
            not positive.
    """
    device, size = runtime_of(model, runtime).device, model.encoder.image_size
    images = check_images(images)
    check_number(temperature, "temperature", RATE)
    check_number(epsilon, "epsilon", Range(0))
    check_number(batch_size, "batch_size", COUNT)
    if not len(images):
        raise ValueError("no images to run the network on")
    statistics = statistics_of(model)
    _, std = check_statistics(images.shape[-1], *(statistics or ()))
    step = epsilon / constant(tuple(std), device).view(1, -1, 1, 1)

    def logits(images: np.ndarray) -> torch.Tensor:
        x = prepare(images, size, device, statistics).requires_grad_()
        loss = -(model(x) / temperature).log_softmax(-1).amax(-1).sum()
        (gradient,) = torch.autograd.grad(loss, x)
        with torch.no_grad():
            return model(x - step * gradient.sign())

    starts = range(0, len(images), batch_size)
    # gradients are what it works on, whatever the caller has switched off
    with preserve_mode(model), torch.inference_mode(False), torch.enable_grad():
        model.eval()
        logits_N_C = to_host(logits(images[start : start + batch_size]) for start in starts)
    return one_minus_msp(torch.cat(logits_N_C).double().numpy() / temperature)
