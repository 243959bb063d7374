"""How a scene's values become digital numbers (10,000 is reflectance 1): told, known or guessed."""

from dataclasses import dataclass

import numpy as np

from src.errors import DataError
from src.map.products import Product

REFLECTANCE = 10_000.0
ADDED = 1000.0  # digital numbers, by products since baseline 04.00
WHITES = {
    "L1C": 3558.0,
    "L2A": 2000.0,
}  # digital number that a true-colour image (TCI) shows as 255
AS_EUROSAT = "8-bit values are taken as they are, white being digital number 2750 as in EuroSAT"


@dataclass(frozen=True)
class Values:
    """digital number = value × scale − offset, each band by its own."""

    scale_C: tuple[float, ...]
    offset_C: tuple[float, ...]
    scale_from: str  # where each of them is from, for people
    offset_from: str
    doubts: tuple[str, ...] = ()

    @property
    def as_they_are(self) -> bool:
        """Whether values are digital numbers already."""
        return set(self.scale_C) == {1.0} and set(self.offset_C) == {0.0}


def of_pictures(names: set[str], level: str | None, white: float | None, bands: int) -> Values:
    """Of 8-bit files: as EuroSAT's, or stretched otherwise where `white` or the name (TCI) says so.

    Args:
        names: of the files.
        white: digital number shown as 255, if told.
    """
    if white is not None:
        scale, origin, doubt = white / 255, f"white is digital number {white:g}, as given", ""
    elif any("TCI" in name.upper() or "VISUAL" in name.upper() for name in names):
        assumed = WHITES[level or "L2A"]
        scale, origin = assumed / 255, f"a true-colour image, white is digital number {assumed:g}"
        origin += f" ({level})" if level else ", as of level 2A"
        doubt = f"{origin}; of level 1C it is {WHITES['L1C']:g} (--white)" if not level else ""
    else:
        scale, origin = 1.0, AS_EUROSAT
        whites = " and ".join(f"{value:g} ({name})" for name, value in WHITES.items())
        doubt = f"{AS_EUROSAT}; a true-colour image (TCI) has {whites}: give --white"
    doubts = (doubt,) if doubt else ()
    return Values((scale,) * bands, (0.0,) * bands, origin, "none in 8-bit pictures", doubts)


def of_numbers(
    sample_N_C: np.ndarray,
    is_float: bool,
    tags_C: list[tuple[float, float]],
    product: Product,
    scale: float | None,
    offset: float | None,
) -> Values:
    """Of all other files.

    Args:
        sample_N_C: some of the scene's values, those of whole pixels.
        tags_C: scale and offset of each band by GDAL's tags, (1, 0) where there are none.
        product: what is known of where they come from.
        scale, offset: as told; None: by the tags, the product, and last by the values themselves.

    Raises:
        DataError: neither reflectance in 0…1 nor digital numbers.
    """
    tagged = scale is None and any(tag != (1.0, 0.0) for tag in tags_C)
    scale_C, offset_C = np.array(tags_C).T if tagged else np.array([(1.0, 0.0)] * len(tags_C)).T
    unit, scale_from = _unit(sample_N_C * scale_C + offset_C, is_float or tagged, scale)
    scale_from = f"tags of the file, {scale_from}" if tagged else scale_from
    scale_C, added_C = scale_C * unit, -offset_C * unit
    doubts: tuple[str, ...] = ()
    if offset is not None:
        added_C, offset_from = np.full(len(tags_C), offset), "given"
    elif tagged and added_C.any():
        offset_from = "tags of the file"
    elif product.offset is not None:
        added_C, offset_from = np.full(len(tags_C), product.offset), product.source
    else:
        guess, offset_from, doubts = _guessed_offset(sample_N_C * scale_C)
        added_C = np.full(len(tags_C), guess)
    if offset is None and not doubts:
        doubts = _contradictions(sample_N_C * scale_C, added_C, offset_from)
    return Values(_plain(scale_C), _plain(added_C), scale_from, offset_from, doubts)


def _plain(values_C: np.ndarray) -> tuple[float, ...]:
    return tuple(float(f"{value:.9g}") for value in values_C)


def _unit(
    values_N_C: np.ndarray, may_be_reflectance: bool, scale: float | None
) -> tuple[float, str]:
    """What values are multiplied by to be digital numbers, and why."""
    if scale is not None:
        return scale, "given"
    if not len(values_N_C):
        return 1.0, "digital numbers"
    bright = float(np.percentile(values_N_C, 98))
    if may_be_reflectance and 0.005 < bright <= 2:
        return REFLECTANCE, "reflectance in 0…1"
    if bright <= 2 or (bright <= 255 and (may_be_reflectance or values_N_C.max() <= 255)):
        raise DataError(
            f"values are neither digital numbers (10,000 = reflectance 1) nor reflectance in 0…1:"
            f" 98 % of them lie below {bright:.4g}. Give --scale (SCALE in notebook 10), what they"
            " are multiplied by: 10000 for reflectance in 0…1, 100 for per cent, 1 for dark digital"
            " numbers"
        )
    return 1.0, "digital numbers"


# --- was 1000 added? ---


def _guessed_offset(numbers_N_C: np.ndarray) -> tuple[float, str, tuple[str, ...]]:
    """By the darkest band's 2nd percentile: where nothing is dark, 1000 was probably added."""
    if not len(numbers_N_C):
        return 0.0, "nothing to tell it from", ()
    dark = float(np.percentile(numbers_N_C, 2, axis=0).min())
    usual = float(np.median(numbers_N_C, axis=0).min())
    if dark < 0.7 * ADDED or usual < ADDED:
        return 0.0, "the values: some are dark", ()
    guess = ADDED if dark >= ADDED else 0.0
    origin = f"a guess: the darkest band's 2nd percentile is {dark:.0f}"
    return guess, origin, (_both_readings(numbers_N_C, guess, origin),)


def _both_readings(numbers_N_C: np.ndarray, taken: float, reason: str) -> str:
    medians = [np.median(numbers_N_C, axis=0) - offset for offset in (0.0, ADDED)]
    as_is, less = ("(" + ", ".join(f"{value:.0f}" for value in m) + ")" for m in medians)
    return (
        f"the file does not say whether 1000 was added to it (products since baseline 04.00, 2022);"
        f" read with offset {taken:g} ({reason}). With --offset 0 the median digital numbers are"
        f" {as_is}, with --offset 1000 {less}; EuroSAT's are near (900, 1000, 1100)"
    )


def _contradictions(numbers_N_C: np.ndarray, offset_C: np.ndarray, origin: str) -> tuple[str, ...]:
    """What is taken off must have been there."""
    if not len(numbers_N_C):
        return ()
    below = float(((numbers_N_C - offset_C) < 0).any(1).mean())
    if below <= 0.1:
        return ()
    taken = ", ".join(f"{value:g}" for value in sorted(set(offset_C)))
    remedy = (
        "already? Then give --offset 0" if offset_C.any() else "twice? Then give --offset -1000"
    )
    return (
        f"{below:.0%} of the pixels have a reflectance below 0 with offset {taken} (from {origin}):"
        f" was 1000 taken off {remedy}",
    )
