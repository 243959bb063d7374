"""What images, labels and splits must be, looked at where they come in and nowhere else.

Every public function that takes them calls these first: what cannot be what it says it is would
train, or score, without a word, and wrongly.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

FLOATS = ("float16", "bfloat16", "float32", "float64")
ROUNDING = 1e-3  # floats may leave [0, 1] by so much: resizing and half precision round
BRIGHT = 20_000  # digital number that no set has on average: snow and cloud have 10,000
BLOCK = 2**24  # pixel values looked at in one go: a memory map is never read as a whole


def check_images(
    images: Any, what: str = "images", channels: int | None = None
) -> np.ndarray | Tensor:
    """A batch of four axes whose pixels can lie in the range that its type stands for.

    uint8 is taken as it is. uint16 are digital numbers, 10,000 = reflectance 1, so that a set in
    which none is above 255 is an 8-bit picture in another type. Floats lie in [0, 1]. A float that
    is on a GPU makes the host wait: look at the array before it goes there.

    Args:
        channels: how many the last axis must have; None does not ask.

    Returns:
        The images, a list of them as one array.

    Raises:
        ValueError: another number of axes, another type, or values out of that range.
    """
    images = images.detach() if isinstance(images, Tensor) else as_array(images, what)
    if images.ndim != 4 or 0 in images.shape[1:]:
        hint = ": give one image as a batch of one, images[None]" if images.ndim == 3 else ""
        raise ValueError(f"{what}: expected four axes of pixels, got {tuple(images.shape)}{hint}")
    if channels is not None and images.shape[-1] != channels:
        raise ValueError(
            f"{what} have {images.shape[-1]} channels, the config says in_channels={channels}:"
            " (N, H, W, C) is the order"
        )
    kind = str(images.dtype).removeprefix("torch.")
    if kind == "uint16":
        _check_digital_numbers(images, what)
    elif kind in FLOATS:
        _check_unit_range(images, what)
    elif kind != "uint8":
        raise ValueError(
            f"{what}: expected uint8, uint16 or float images, got {kind}: stretch reflectances to"
            " uint8 first"
        )
    return images


def _check_digital_numbers(images: np.ndarray | Tensor, what: str) -> None:
    brightest, mean = 0, 0.0
    for block in _blocks(images):
        brightest, mean = max(brightest, int(block.max())), float(block.mean())
        if brightest > 255:
            break
    told = f"{what}: uint16 are digital numbers, 10,000 = reflectance 1, and the"
    if 0 < brightest <= 255:
        raise ValueError(
            f"{told} brightest of these is {brightest}: give 8-bit pictures as uint8, and digital"
            " numbers that are really so dark divided by 10,000, as floats"
        )
    if mean > BRIGHT:
        raise ValueError(
            f"{told} mean of these is {mean:,.0f}, brighter than anything on Earth: divide pictures"
            " of 16 bits by 65,535, as floats"
        )


def _check_unit_range(images: np.ndarray | Tensor, what: str) -> None:
    for block in _blocks(images):
        low, high = float(block.min()), float(block.max())  # of NaN, NaN
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise ValueError(
                f"{what}: float images lie in [0, 1], these have {low:.4g} … {high:.4g}: divide"
                " 8-bit pictures by 255, digital numbers by 10,000, and leave out what is missing"
            )


def _blocks(images: np.ndarray | Tensor) -> Iterator[np.ndarray | Tensor]:
    step = max(1, BLOCK // max(1, int(np.prod(images.shape[1:]))))
    for start in range(0, len(images), step):
        block = images[start : start + step]
        # torch does little with uint16
        is_uint16 = isinstance(block, Tensor) and block.dtype == torch.uint16
        yield block.cpu().numpy() if is_uint16 else block


def as_array(values: Any, what: str = "values") -> np.ndarray:
    """A tensor or list as an array. ValueError: masked values, whose mask would be lost."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    if np.ma.is_masked(values):
        count = np.ma.count_masked(values)
        raise ValueError(f"{what}: {count} values are masked: leave these out, or fill them")
    return np.asarray(values)


def as_float64(values: Any) -> np.ndarray:
    """An array, tensor or list in float64: in half precision entropies of two passes are equal.

    Raises:
        ValueError: complex numbers, of which the real part would be taken, texts, or masked values.
    """
    values = as_array(values)
    if values.dtype.kind not in "biufO":
        raise ValueError(f"expected numbers, got {values.dtype}")
    return values.astype(np.float64)


def check_labels(
    labels: Any, classes: int | Sequence | None, count: int | None = None, what: str = "labels"
) -> np.ndarray:
    """Labels as (N,) int64.

    Args:
        labels: whole numbers from 0, of any type.
        classes: their number, or their names; None: as many as there are.
        count: of the images that they belong to; None does not ask.

    Raises:
        ValueError: not one whole number an image, or one that is no class: the row is named; or
            names that are no text, or are there twice.
    """
    if classes is not None and not isinstance(classes, int):
        _check_names(classes)
        classes = len(classes)
    classes = 2**31 if classes is None else classes
    values = as_array(labels, what)
    if values.ndim != 1 or (values.dtype.kind not in "iuf" and len(values)):
        raise ValueError(
            f"{what}: expected one class number an image, got {values.dtype} of shape"
            f" {values.shape}"
        )
    if count is not None and len(values) != count:
        raise ValueError(f"{what}: {len(values)} for {count} images")
    with np.errstate(invalid="ignore"):
        known = (values >= 0) & (values < classes) & (values == np.floor(values))
    if not known.all():
        row = int(np.argmin(known))
        raise ValueError(
            f"{what} run from {values.min()} to {values.max()}, but there are {classes} classes:"
            f" row {row} has {values[row]}, expected 0 to {classes - 1} ({(~known).sum()} such)"
        )
    return values.astype(np.int64)


def _check_names(classes: Sequence) -> None:
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise ValueError(f"classes: expected a list of names, got {classes!s:.100}")
    if twice := [name for name, count in Counter(classes).items() if count > 1]:
        raise ValueError(f"classes: {twice[0]!r} is there twice: one would hide the other")


def check_split(
    train: Any, val: Any, test: Any, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows for training, selection and test of `count` images, (n,) int64 each.

    Raises:
        ValueError: rows that are not there, are no row numbers, or are in two of them or twice in
            one; an empty part.
    """
    parts = {"train": train, "val": val, "test": test}
    rows = {name: _rows(part, count, f"split, {name}") for name, part in parts.items()}
    if empty := [name for name, part in rows.items() if not len(part)]:
        raise ValueError(f"split: no images in {' and '.join(empty)}")
    found, times = np.unique(np.concatenate(list(rows.values())), return_counts=True)
    if len(twice := found[times > 1]):
        where = [name for name, part in rows.items() if twice[0] in part]
        raise ValueError(
            f"split: row {twice[0]} is there {times[times > 1][0]} times, in {' and '.join(where)}"
            f" ({len(twice)} such row(s)): an image is in one part, once"
        )
    return rows["train"], rows["val"], rows["test"]


def _rows(part: Any, count: int, what: str) -> np.ndarray:
    rows = as_array(part, what)
    if rows.ndim != 1 or (rows.dtype.kind not in "iu" and len(rows)):
        hint = ": of a mask give np.flatnonzero(mask)" if rows.dtype == bool else ""
        raise ValueError(f"{what}: expected row numbers, got {rows.dtype} {rows.shape}{hint}")
    outside = (rows < 0) | (rows >= count) if len(rows) else np.zeros(0, bool)
    if outside.any():
        raise ValueError(
            f"{what}: row {rows[np.argmax(outside)]}, but the {count} images are 0 to {count - 1}"
        )
    return rows.astype(np.int64)


# --- numbers ---


@dataclass(frozen=True)
class Range:
    """Of a number: from `low` on, or above it, and below `high`, or up to it."""

    low: float = -math.inf
    above: bool = False  # whether `low` itself is left out
    high: float = math.inf
    up_to: bool = False  # whether `high` itself is one of them
    whole: bool = False

    def __str__(self) -> str:
        limits = [f"{'above' if self.above else 'at least'} {self.low:g}"] * math.isfinite(self.low)
        limits += [f"{'up to' if self.up_to else 'below'} {self.high:g}"] * math.isfinite(self.high)
        kind = "a whole number" if self.whole else "a number"
        return f"{kind} {' and '.join(limits)}".rstrip()


COUNT, RATE, SHARE = Range(1, whole=True), Range(0, above=True), Range(0, high=1, up_to=True)
# by its name in configs; in notebooks in capitals
RANGES = {
    "epochs": COUNT,
    "lr": RATE,
    "temperature": RATE,
    "stretch": RATE,
    "warmup_epochs": Range(0),
    "weight_decay": Range(0),
    "dropout": Range(0, high=1),
    "image_size": Range(8, whole=True),
    "seed": Range(0, whole=True),
    "tones": SHARE,
    "batch_size": Range(whole=True),  # its limits depend on the images
    **dict.fromkeys(("in_channels", "mc_samples", "samples", "probe_every", "step"), COUNT),
}


def check_number(value: Any, what: str, allowed: Range) -> int | float:
    """The value as a plain number: numpy's too, and 3.0 where it is to be whole.

    Raises:
        ValueError: no finite number, or none that is allowed.
    """
    number = value.item() if isinstance(value, np.generic) else value
    fits = isinstance(number, int | float) and not isinstance(number, bool)
    if fits and (fits := math.isfinite(number)):
        fits = number > allowed.low if allowed.above else number >= allowed.low
        fits &= number <= allowed.high if allowed.up_to else number < allowed.high
    if not fits or (allowed.whole and number != int(number)):
        raise ValueError(f"{what} must be {allowed}, got {value!r}")
    return int(number) if allowed.whole else number


def check_config(config: Any) -> Any:
    """A config, its numbers as plain ones.

    Raises:
        ValueError: a number that is none of `RANGES`, phases or widths that are none, or what is
            neither True nor False where one of them is asked for.
    """
    plain: dict[str, Any] = {}
    for name, value in vars(config).items():
        if name in RANGES:
            plain[name] = check_number(value, name, RANGES[name])
        elif name == "phases":
            plain[name] = check_phases(value, name)
        elif name == "projection":
            if not isinstance(value, list | tuple):
                raise ValueError(f"{name} must be the widths of its layers, got {value!r}")
            plain[name] = tuple(check_number(width, f"a width of {name}", COUNT) for width in value)
        elif isinstance(getattr(type(config), name, None), bool):
            check_switch(value, name)
    return replace(config, **plain)


def check_switch(value: Any, what: str) -> None:
    """Raise ValueError where a value is neither True nor False: "no" would be taken for yes."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{what} must be True or False, got {value!r}")


def check_phases(phases: Any, what: str = "phases") -> list[int] | tuple[int, ...]:
    """Phases as plain numbers, in a list where they came in one.

    Raises:
        ValueError: not three numbers of epochs, or none that is above 0.
    """
    if not isinstance(phases, list | tuple) or len(phases) != 3:
        raise ValueError(
            f"{what} must be three numbers of epochs (head, last stage, everything), got {phases!r}"
        )
    plain = [check_number(phase, f"each of {what}", Range(0, whole=True)) for phase in phases]
    if not sum(plain):
        raise ValueError(f"{what} {plain} are no epochs at all")
    return plain if isinstance(phases, list) else tuple(plain)
