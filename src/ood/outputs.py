"""What a network says of images: MC-Dropout samples, features, its last layer; and what pixels say
without one.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from src.augmentations.evaluation_transform import prepare
from src.augmentations.resampling import resize, to_unit
from src.encoders import Classifier
from src.probes import embed, preserve_mode
from src.runs.runtime import Runtime, pick, seed_of

MASKED = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
DROPOUT = (*MASKED, nn.AlphaDropout, nn.FeatureAlphaDropout)
PASS_ELEMENTS = (
    2**24
)  # of the features that MC Dropout copies for passes side by side: 64 MB in float32


def _drops(module: nn.Module) -> bool:
    return any(isinstance(m, DROPOUT) and m.p > 0 for m in module.modules())


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
    """Monte-Carlo dropout (Gal & Ghahramani 2016, arXiv 1506.02142): T stochastic passes over every
    image.

    Only dropout is stochastic; batch norm keeps its running statistics. Everything before the first
    dropout layer is the same in every pass, and runs once; the passes behind it run side by side,
    as one larger batch.

    Args:
        model: a classifier; its modes are restored afterwards.
        images: (N, H, W, C) uint8, as a PatchStore keeps them, in or out of distribution: resized
            to the model's size by the one transform of evaluation.
        samples: T, the number of passes.
        batch_size: images at a time; the masks drawn for one seed depend on it.

    Returns:
        log_probs_T_N_C, float64: log p(class | image, dropout mask t).

    Raises:
        ValueError: no dropout in the model (every pass would be the same), no images, or samples <
            1.
    """
    runtime = runtime or pick()
    if samples < 1 or len(images) == 0:
        raise ValueError(
            f"expected at least one sample and one image, got {samples} and {len(images)}"
        )
    layers = model.layers()
    first = next((n for n, layer in enumerate(layers) if _drops(layer)), None)
    if first is None:
        raise ValueError(
            "the model has no dropout above 0: MC Dropout would give T times the same answer"
        )
    trunk, tail = nn.Sequential(*layers[:first]), nn.Sequential(*layers[first:])
    log_probs = []
    cuda = [runtime.device] if runtime.device.type == "cuda" else []
    with _dropping(model), runtime.autocast(), torch.random.fork_rng(cuda):
        torch.manual_seed(seed_of(seed))
        for start in range(0, len(images), batch_size):
            shared = trunk(
                prepare(
                    images[start : start + batch_size], model.encoder.image_size, runtime.device
                )
            )
            logits_T_n_C = _passes(tail, shared, samples)
            log_probs.append(logits_T_n_C.cpu().double().log_softmax(-1).numpy())
    return np.concatenate(log_probs, axis=1)


@contextmanager
def _dropping(model: nn.Module) -> Iterator[None]:
    """Dropout drops, everything else is in eval mode; afterwards the model is as it was."""
    with preserve_mode(model):
        handles = []
        for module in model.modules():
            module.training = isinstance(module, nn.AlphaDropout | nn.FeatureAlphaDropout)
            if isinstance(module, MASKED) and module.p > 0:
                handles.append(
                    module.register_forward_hook(lambda layer, _, x: x * _mask(layer, x))
                )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _mask(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """0 or 1 / (1 − p) for every value, or for every channel of Dropout1d … 3d, p to the nearest 1
    / 65,536.

    Every number of 64 bits decides four: with torch's own dropout they were a quarter of
    ResNet-50's time on a CPU.
    """
    shape = x.shape if isinstance(layer, nn.Dropout) else (*x.shape[:2], *[1] * (x.dim() - 2))
    count = math.prod(shape)
    drawn = torch.randint(-(2**63), 2**63 - 1, (-(-count // 4),), device=x.device).view(
        torch.int16
    )[:count]
    kept = drawn.view(shape) >= round(layer.p * 2**16) - 2**15
    return kept.to(x.dtype) / (1 - layer.p)


def _passes(tail: nn.Module, shared: torch.Tensor, samples: int) -> torch.Tensor:
    """(n, …) features → (samples, n, C) logits: as many copies side by side in one batch as fit
    `PASS_ELEMENTS`.
    """
    together = max(1, PASS_ELEMENTS // shared.numel())
    sizes = [min(together, samples - done) for done in range(0, samples, together)]
    return torch.cat(
        [tail(torch.cat([shared] * size)).unflatten(0, (size, len(shared))) for size in sizes]
    )


def penultimate(
    model: Classifier, images: np.ndarray, runtime: Runtime | None = None
) -> np.ndarray:
    """(N, H, W, C) uint8 → features_N_D, float64: what the last linear layer sees, so that it makes
    the logits.
    """
    body = nn.Sequential(model.encoder, model.head[:-1])
    return embed(body, images, model.encoder.image_size, runtime or pick()).astype(np.float64)


def last_layer(model: Classifier) -> tuple[np.ndarray, np.ndarray]:
    """weight_C_D and bias_C, float64: logits_N_C = features_N_D @ weight_C_D.T + bias_C."""
    weight, bias = (
        p.detach().cpu().double().numpy() for p in (model.head[-1].weight, model.head[-1].bias)
    )
    return weight, bias


def pixel_statistics(images: np.ndarray, size: int) -> np.ndarray:
    """Channel means, channel deviations, mean absolute gradient down and across: (N, H, W, C) uint8
    → (N, 2C + 2).

    What can be known without any network: the control every OOD number should stand beside. Images
    are first resized to the `size` (pixels) that the network sees, else the gradients would measure
    the resizing.
    """
    statistics = []
    for start in range(0, len(images), 256):
        x = resize(to_unit(torch.as_tensor(images[start : start + 256]).permute(0, 3, 1, 2)), size)
        gradients = [x.diff(dim=axis).abs().mean((1, 2, 3))[:, None] for axis in (2, 3)]
        statistics.append(torch.cat([x.mean((2, 3)), x.std((2, 3)), *gradients], dim=1))
    return torch.cat(statistics).numpy()
