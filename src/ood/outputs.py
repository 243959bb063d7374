"""What detectors work on: MC-Dropout samples, features, the last layer, and pixel statistics."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from src.augmentations.evaluation_transform import prepare
from src.augmentations.resampling import resize, to_unit
from src.augmentations.transfer import to_host
from src.checks import COUNT, Range, check_images, check_number
from src.encoders import Classifier, statistics_of
from src.probes import embed, preserve_mode
from src.runs.runtime import Runtime, runtime_of, seed_of

MASKED = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
DROPOUT = (*MASKED, nn.AlphaDropout, nn.FeatureAlphaDropout)
# of the features that MC Dropout copies for passes side by side: 64 MB in float32
PASS_ELEMENTS = 2**24


@torch.inference_mode()
def mc_dropout(
    model: Classifier,
    images: np.ndarray,
    samples: int = 50,
    *,
    runtime: Runtime | None = None,
    batch_size: int = 128,
    seed: int = 0,
) -> np.ndarray:
    """Monte-Carlo dropout (Gal & Ghahramani 2016, arXiv 1506.02142): T stochastic passes.

    Only dropout is stochastic; batch norm keeps its running statistics. Everything before the first
    dropout layer is the same in every pass and runs once. The passes behind it run side by side, as
    one larger batch.

    Args:
        model: a classifier; its modes are restored afterwards.
        images: (N, H, W, C) uint8, as a PatchStore keeps them, in or out of distribution: resized
            to the model's size by the one transform of evaluation.
        samples: T, the number of passes over each image.
        runtime: None computes where the model lies; with one, the model is moved to its device.
        batch_size: images at a time; the masks drawn for one seed depend on it.

    Returns:
        log_probs_T_N_C, float64: log p(class | image, dropout mask t).

    Raises:
        ValueError: no dropout in the model (every pass would be the same), no images or what cannot
            be images (`check_images`), or samples < 1.
    """
    images = check_images(images)
    check_number(samples, "samples", Range(whole=True))
    check_number(batch_size, "batch_size", COUNT)
    if samples < 1 or len(images) == 0:
        raise ValueError(
            f"expected at least one sample and one image, got {samples} and {len(images)}"
        )
    runtime = runtime_of(model, runtime)
    trunk, tail = _split_at_the_first_dropout(model)
    device = runtime.device
    how = (model.encoder.image_size, device, statistics_of(model))
    with _only_dropout_stochastic(model), runtime.autocast(), _seeded(seed, device):
        starts = range(0, len(images), batch_size)
        batches = (prepare(images[n : n + batch_size], *how) for n in starts)
        logits = to_host(_passes(tail, trunk(batch), samples) for batch in batches)
    log_probs = [logits_T_n_C.double().log_softmax(-1).numpy() for logits_T_n_C in logits]
    return np.concatenate(log_probs, axis=1)


def _split_at_the_first_dropout(model: Classifier) -> tuple[nn.Module, nn.Module]:
    """The layers that are the same in every pass, and those from the first dropout on."""
    layers = model.layers()
    for number, layer in enumerate(layers):
        if any(isinstance(module, DROPOUT) and module.p > 0 for module in layer.modules()):
            return nn.Sequential(*layers[:number]), nn.Sequential(*layers[number:])
    raise ValueError(
        "the model has no dropout above 0: MC Dropout would give T times the same answer"
    )


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Global random numbers from a seed; afterwards they go on as if nothing had been drawn."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed_of(seed))
        yield


@contextmanager
def _only_dropout_stochastic(model: nn.Module) -> Iterator[None]:
    """Dropout drops, everything else is in eval mode; afterwards the model is as it was."""
    with preserve_mode(model):
        handles = []
        for module in model.modules():
            module.training = isinstance(module, nn.AlphaDropout | nn.FeatureAlphaDropout)
            if isinstance(module, MASKED) and module.p > 0:
                handles.append(
                    module.register_forward_hook(lambda layer, _, x: x * dropout_mask(layer, x))
                )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def dropout_mask(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A mask for the inputs x (n, …) of a dropout layer: 0 with probability p, else 1 / (1 − p).

    One number for each value, or for each channel of Dropout1d … 3d. Four of 16 bits are cut out of
    every random number of 64, so p is rounded to the nearest 1/65,536: drawing the masks of torch's
    own dropout was a quarter of ResNet-50's time on a CPU.
    """
    by_value = isinstance(layer, nn.Dropout)
    shape = x.shape if by_value else (*x.shape[:2], *[1] * (x.dim() - 2))
    count = math.prod(shape)
    if x.device.type == "mps":  # where torch draws no more than 32 of 64 bits
        uniform = torch.randint(-(2**15), 2**15, shape, dtype=torch.int16, device=x.device)
    else:
        words = torch.randint(-(2**63), 2**63 - 1, (math.ceil(count / 4),), device=x.device)
        uniform = words.view(torch.int16)[:count].view(shape)  # in −2¹⁵ … 2¹⁵ − 1
    kept = uniform >= round(layer.p * 2**16) - 2**15
    return kept.to(x.dtype) / (1 - layer.p)


def _passes(tail: nn.Module, features: torch.Tensor, samples: int) -> torch.Tensor:
    """(n, …) features → (samples, n, C) logits.

    As many copies of the features run side by side in one batch as `PASS_ELEMENTS` allows.
    """
    at_once = max(1, PASS_ELEMENTS // features.numel())
    logits = []
    for done in range(0, samples, at_once):
        copies = min(at_once, samples - done)
        together = tail(torch.cat([features] * copies))
        logits.append(together.unflatten(0, (copies, len(features))))
    return torch.cat(logits)


def penultimate(
    model: Classifier, images: np.ndarray, runtime: Runtime | None = None, checked: bool = False
) -> np.ndarray:
    """(N, H, W, C) uint8 → features_N_D, float64: what the last linear layer sees.

    checked: as in `embed`, which also says what it raises.
    """
    runtime = runtime_of(model, runtime)  # the whole model: its last layer moves with it
    body, size = nn.Sequential(model.encoder, model.head[:-1]), model.encoder.image_size
    return embed(body, images, size, runtime, checked=checked).astype(np.float64)


def last_layer(model: Classifier) -> tuple[np.ndarray, np.ndarray]:
    """weight_C_D and bias_C, float64: logits_N_C = features_N_D @ weight_C_D.T + bias_C."""
    linear = model.head[-1]
    weight, bias = (p.detach().cpu().double().numpy() for p in (linear.weight, linear.bias))
    return weight, bias


def pixel_statistics(images: np.ndarray, size: int) -> np.ndarray:
    """What can be known without any network: the control every OOD number should stand beside.

    Args:
        images: (N, H, W, C) uint8, or uint16 digital numbers.
        size: pixels that the network sees: images are first resized to it, else the gradients would
            measure the resizing.

    Returns:
        (N, 2C + 2): channel means, channel deviations, mean absolute gradient down and across.
    """
    statistics = []
    for start in range(0, len(images), 256):
        x = resize(to_unit(torch.as_tensor(images[start : start + 256]).permute(0, 3, 1, 2)), size)
        gradients = [x.diff(dim=axis).abs().mean((1, 2, 3))[:, None] for axis in (2, 3)]
        statistics.append(torch.cat([x.mean((2, 3)), x.std((2, 3)), *gradients], dim=1))
    return torch.cat(statistics).numpy()
