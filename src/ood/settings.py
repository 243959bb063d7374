"""What a detector is asked: held-out classes (near), shifted images, and controls without meaning.

A setting is a dict of named image sets; `evaluate` scores them all against one in-distribution set.
The far setting, UC Merced, is a data set of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from src.augmentations.resampling import resize, to_unit
from src.checks import check_images, check_labels, check_split
from src.data.splits import Split

# --- near: same sensor, other meaning ---


@dataclass(frozen=True)
class HeldOut:
    """A labelled store without some classes, for training, and their test images, now OOD."""

    rows: np.ndarray  # of the store: the images of the classes kept
    labels: np.ndarray  # of those, counted anew from 0
    split: Split  # positions within `rows`
    classes: list[str]  # kept, in the order of the labels
    id_test: np.ndarray  # rows of the store: test images of the classes kept
    ood_test: np.ndarray  # rows of the store: test images of the classes held out


def hold_out(
    labels: np.ndarray, split: Split, classes: list[str], held: tuple[str, ...]
) -> HeldOut:
    """Take classes (any pair of them, or more) out of training, val and test.

    `finetune(store.images[h.rows], h.labels, h.split, h.classes, …)` then trains a classifier that
    never saw them.

    Args:
        labels: (N,) class numbers of a store.
        split: rows of the store.
        classes: names of all classes, in the order of the labels.
        held: names of those to take out.

    Raises:
        ValueError: an unknown class, a name in place of a list, fewer than two classes left, or
            labels or rows that cannot be what they say (`src.checks`).
    """
    if isinstance(held, str):
        raise ValueError(f"give the classes to hold out as a list: [{held!r}]")
    labels = check_labels(labels, classes)
    split = Split(*check_split(split.train, split.val, split.test, len(labels)))
    unknown = set(held) - set(classes)
    kept = [name for name in classes if name not in held]
    if unknown or len(kept) < 2 or not held:
        raise ValueError(
            f"hold out some of {list(classes)} and keep two at least; got {list(held)}"
        )
    new_number = np.array([kept.index(name) if name in kept else -1 for name in classes])
    new_labels = new_number[labels]  # −1 for what is held out
    parts = [part[new_labels[part] >= 0] for part in (split.train, split.val, split.test)]
    rows = np.concatenate(parts)
    positions = np.split(np.arange(len(rows)), np.cumsum([len(part) for part in parts])[:-1])
    ood_test = split.test[new_labels[split.test] < 0]
    return HeldOut(rows, new_labels[rows], Split(*positions), kept, parts[2], ood_test)


# --- covariate shift: same meaning, other picture ---


def _blur(x: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    return gaussian_filter(x, (0, sigma, sigma, 0))


def _noise(x: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    return x + sigma * rng.normal(size=x.shape)


def _haze(x: np.ndarray, thickness: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth white veil, thickest at `thickness` (share of the light): thin cloud."""
    n, height, width, _ = x.shape
    veil = rng.normal(size=(n, height, width))
    veil = gaussian_filter(veil, (0, height / 8, width / 8), mode="wrap")
    low, high = veil.min((1, 2), keepdims=True), veil.max((1, 2), keepdims=True)
    alpha = (thickness * (veil - low) / (high - low))[..., None]
    return x * (1 - alpha) + alpha


def _stripes(x: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """A push-broom scanner's detectors each draw one column of each band, with their offsets."""
    n, _, width, channels = x.shape
    return x + sigma * rng.normal(size=(n, 1, width, channels))


def _brightness(x: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    return x * factor


def _jpeg(x: np.ndarray, quality: int, rng: np.random.Generator) -> np.ndarray:
    return jpeg(_to_uint8(x), quality) / 255


# name: function of x in [0, 1] (N, H, W, C), a strength and a generator; three strengths from mild
# to strong
SHIFTS = {
    "blur": (_blur, (0.5, 1.0, 2.0)),  # σ, pixels
    "noise": (_noise, (0.02, 0.05, 0.1)),
    "haze": (_haze, (0.2, 0.4, 0.7)),
    "stripes": (_stripes, (0.01, 0.03, 0.06)),
    "brightness": (_brightness, (1.2, 1.5, 2.0)),
    "JPEG": (_jpeg, (75, 40, 15)),
}


def shifts(
    images: np.ndarray, kinds: Sequence[str] = tuple(SHIFTS), seed: int = 0
) -> dict[str, np.ndarray]:
    """In-distribution images in every kind of shift at three strengths: "blur 1" … "JPEG 3".

    One kind's random numbers are the same at every strength, and depend on the seed and the kind
    alone.

    Args:
        images: (N, H, W, 3) uint8.
        kinds: of `SHIFTS`.

    Raises:
        ValueError: an unknown kind.
    """
    if unknown := set(kinds) - set(SHIFTS):
        raise ValueError(f"unknown shifts {sorted(unknown)}; there are: {', '.join(SHIFTS)}")
    x = _uint8(images) / np.float32(255)
    shifted = {}
    for kind in kinds:
        shift, strengths = SHIFTS[kind]
        for level, strength in enumerate(strengths, 1):
            rng = np.random.default_rng([seed, list(SHIFTS).index(kind)])
            shifted[f"{kind} {level}"] = _to_uint8(shift(x, strength, rng))
    return shifted


def _uint8(images: np.ndarray) -> np.ndarray:
    images = check_images(images)
    if images.dtype != np.uint8:
        raise ValueError(f"expected uint8 images, got {images.dtype}")
    return images


def _to_uint8(x: np.ndarray) -> np.ndarray:
    return np.round(255 * np.clip(x, 0, 1)).astype(np.uint8)


# --- controls: what of the far setting is not meaning ---


def jpeg(images: np.ndarray, quality: int = 100) -> np.ndarray:
    """(N, H, W, 3) uint8 through JPEG with halved colour.

    Quality 100 is EuroSAT's own: all 27,000 files carry quantisation tables of ones and 4:2:0
    subsampling. UC Merced was never compressed.
    """
    return np.stack([np.asarray(Image.open(encode_jpeg(image, quality))) for image in images])


def encode_jpeg(image: np.ndarray, quality: int) -> BytesIO:
    """One (H, W, 3) uint8 image as a JPEG file with 4:2:0 subsampling."""
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file


def match_channel_statistics(images: np.ndarray, like: np.ndarray, seed: int = 0) -> np.ndarray:
    """Give each image the channel means and deviations of a random image of `like`.

    As Reinhard et al. 2001 transfer colour, here in RGB. What is left to tell the two sets apart by
    is the arrangement of the pixels, no longer the sensor's colours. It errs both ways: the tones
    of an almost flat image (open sea) hide what was there, and strange tones are themselves a
    shift, as in-distribution images treated alike will show.

    Args:
        images, like: (N, H, W, C) uint8 each.
    """
    chosen = like[np.random.default_rng(seed).integers(len(like), size=len(images))]
    x, target = _uint8(images) / 255, _uint8(chosen) / 255
    mean, std = x.mean((1, 2), keepdims=True), x.std((1, 2), keepdims=True)
    new_mean, new_std = target.mean((1, 2), keepdims=True), target.std((1, 2), keepdims=True)
    return _to_uint8((x - mean) / np.maximum(std, 1e-6) * new_std + new_mean)


def controls(
    images: np.ndarray,
    like: np.ndarray,
    size: int,
    seed: int = 0,
    metres: float = 10.0,
    native: float = 0.3,
) -> dict[str, np.ndarray]:
    """The far set with what is not meaning taken away step by step.

    Every step ends as EuroSAT does, in its JPEG. "ground sampling" averages to `metres` a pixel,
    then enlarges to `size` again. An image of UC Merced is 77 m wide, so at 10 m it is 8 × 8 pixels
    and no object survives: a detector that still finds these images does not find them for their
    meaning. (At 10 m a pixel the 64 pixels of the network would take 640 m of ground.)

    Args:
        images: (N, H, W, 3) uint8, far from the training set.
        like: in-distribution training images, for the tones.
        size: pixels the network sees.
        metres: a pixel after averaging.
        native: metres a pixel of `images`.
    """
    small = _resized(_uint8(images), size)
    coarse = _resized(images, max(1, round(images.shape[1] * native / metres)), size)
    return {
        "as shipped": images,
        "re-encoded": jpeg(small),
        "tones": jpeg(match_channel_statistics(small, like, seed)),
        "ground sampling": jpeg(coarse),
        "tones, ground sampling": jpeg(match_channel_statistics(coarse, like, seed)),
    }


def _resized(images: np.ndarray, *sizes: int) -> np.ndarray:
    x = to_unit(torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2))
    for size in sizes:
        x = resize(x, size)
    return _to_uint8(x.permute(0, 2, 3, 1).numpy())
