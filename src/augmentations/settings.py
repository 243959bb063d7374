"""What the settings of an augmentation may be."""

from collections.abc import Sequence
from typing import Any

from src.checks import COUNT, RATE, SHARE, Range, check_number, check_switch

PROBABILITIES = (
    *("hflip", "vflip", "jitter_p", "gray_p", "band_drop_p"),
    *("solarize_p", "noise_p", "cutout_p"),
)
FACTOR = Range(0)  # a strength s makes factors of 1 − s to 1 + s, but none below 0
TURN = Range(0, high=0.5, up_to=True)  # of the hue, in circles


def check_settings(augmentation: Any) -> None:
    """Raise ValueError where a setting of a `SimCLRAugmentation` cannot be, by its name."""
    settings = vars(augmentation)
    for name in PROBABILITIES:
        check_number(settings[name], name, SHARE)
    check_number(settings["size"], "size", COUNT)
    for name in ("rotate", "compile"):
        check_switch(settings[name], name)
    for name in ("scale", "ratio", *(["blur_sigma"] if settings["blur_sigma"] else [])):
        low, _ = _numbers(settings[name], name, (RATE, RATE))
        _numbers(settings[name], name, (RATE, Range(low)))
    check_number(settings["scale"][1], "scale[1]", SHARE)
    _numbers(settings["jitter"], "jitter", (FACTOR, FACTOR, FACTOR, TURN))
    if settings["band_jitter"]:
        _numbers(settings["band_jitter"], "band_jitter", (FACTOR, FACTOR))


def _numbers(values: Any, name: str, allowed: Sequence[Range]) -> list[int | float]:
    """As many numbers as there are ranges, each within its own."""
    if not isinstance(values, list | tuple) or len(values) != len(allowed):
        raise ValueError(f"{name} must be {len(allowed)} numbers, got {values!r}")
    places = enumerate(zip(values, allowed, strict=True))
    return [check_number(value, f"{name}[{n}]", range_) for n, (value, range_) in places]
