"""Which band is red, green, blue? What people and programs call the bands of Sentinel-2."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from src.augmentations.tones import WAVELENGTHS
from src.data.bands import ALL_BANDS, RGB

COLOURS = dict(zip(("red", "green", "blue"), RGB, strict=True))
CENTRES = dict(zip(ALL_BANDS, WAVELENGTHS, strict=True)) | {"B10": 1.374}  # micrometres
NEAR = 0.015  # micrometres: Planet's and Landsat's red lie as near, and are red too
# of other satellites, whose numbers mean other bands: Landsat 4 to 7 call their near infrared B4
STRANGERS = re.compile(r"(?<![a-z0-9])(L[CETM]0[4-9]|SR_B\d|PSScene|AnalyticMS|sur_refl)", re.I)
NUMBER = re.compile(r"(?<![a-z0-9])b(0?[1-9]|1[0-2]|8a)(?![a-z0-9])", re.I)
POSITION = re.compile(r"(?:layer|band)[ _-]?0*(\d+)", re.I)
B_AND_POSITION = re.compile(r"b[ _-]?([1-9]\d*)", re.I)
NANOMETRES = re.compile(r"(\d+(?:\.\d+)?)\s*(nm\b|nanomet|µm|um\b|micromet)", re.I)
NOT_RED = re.compile(r"(red[ _-]?edge|infra[ _-]?red|near[ _-]?red|re\d)", re.I)


@dataclass(frozen=True)
class Understood:
    """What a name says, each part None where it does not say it."""

    number: str | None  # B01 … B12, B8A, by the number in the name
    light: str | None  # the same, by colour word or wavelength

    @property
    def contradicts_itself(self) -> bool:
        """Whether the number is not Sentinel-2's: Planet's "B1 blue"."""
        return None not in (self.number, self.light) and self.number != self.light


def understand(name: str) -> Understood:
    """Read `B4 B04 b04 B04_10m "B04 (665 nm)" red "Red 4" FRE_B4 B04_(Raw) …`, else nothing.

    A name with several bands in it (`B04_B03_B02`) says nothing.
    """
    numbers = {_canonical(number) for number in NUMBER.findall(name)}
    return Understood(_only(numbers), _by_wavelength(name) or _by_colour(name))


def _canonical(number: str) -> str:
    return "B8A" if number.upper() == "8A" else f"B{int(number):02}"


def _only(found: set[str]) -> str | None:
    return found.pop() if len(found) == 1 else None


def _by_wavelength(name: str) -> str | None:
    found = set()
    for value, unit in NANOMETRES.findall(name):
        micrometres = float(value) / (1000 if unit.lower().startswith("n") else 1)
        distance, nearest = min((abs(at - micrometres), band) for band, at in CENTRES.items())
        # a wavelength of no band at all is told too: it is not what the number says
        found.add(nearest if distance <= NEAR else f"{micrometres:g} µm")
    return _only(found)


def _by_colour(name: str) -> str | None:
    words = re.split(r"[^a-z]+", NOT_RED.sub(" edge ", name).lower())
    if {"edge", "nir", "coastal"} & set(words):
        return None
    return _only({COLOURS[word] for word in words if word in COLOURS})


def canonical(band: str) -> str:
    """What a user calls a band as B04 …, or as it is where it is no band of Sentinel-2."""
    read = understand(band)
    return read.light or read.number or band


def bands_of(names: Sequence[str]) -> list[str | None]:
    """Band of each name (B04 …), None where it is not understood.

    Where one name's number contradicts its own colour or wavelength, the numbers are another
    satellite's, and only colours and wavelengths count; where a name is a stranger's, none does.
    Nor do B1, B2, B3, B4: Sentinel-2's red is the last of them, Planet's and Landsat 5's the third.
    """
    few = len(names) < len(ALL_BANDS)
    if any(STRANGERS.search(name) for name in names) or (few and _count(names, B_AND_POSITION)):
        return [None] * len(names)
    letters = dict(zip("rgb", RGB, strict=True))
    if set(letters) <= {name.lower() for name in names}:
        return [letters.get(name.lower()) for name in names]
    read = [understand(name) for name in names]
    if any(one.contradicts_itself for one in read):
        return [one.light for one in read]
    return [one.light or one.number for one in read]


def only_positions(names: Sequence[str]) -> bool:
    """Whether names say no more than positions do: Band 1, Band 2, …"""
    return _count(names, POSITION)


def _count(names: Sequence[str], pattern: re.Pattern) -> bool:
    counted = [pattern.fullmatch(name.strip()) for name in names]
    return all(match and int(match[1]) == n for n, match in enumerate(counted, 1))
