"""Aerial pictures of things that are no land-use class, as UC Merced has them."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from src.data.demo.paint import RNG, noise

Colour = tuple[int, ...]  # red, green, blue
Points = tuple[tuple[float, float], ...]
PIXELS = 256  # of 0.3 m
GROUNDS = np.array([[130, 128, 122], [150, 140, 118], [105, 115, 95]])
COURTS = ((60, 110, 80), (60, 90, 140), (150, 85, 70))
SHADOW, LINES = (45, 45, 50), (235, 235, 235)
# one half of an aeroplane from nose to tail, in half lengths: (along, across)
PLANE = (
    (1, 0),
    (0.85, 0.09),
    (0.25, 0.1),
    (-0.15, 0.85),
    (-0.35, 0.85),
    (-0.1, 0.1),
    (-0.7, 0.07),
    (-0.9, 0.35),
    (-1, 0.35),
    (-0.92, 0),
)


def aerial_picture(rng: RNG, kind: str, size: tuple[int, int]) -> Image.Image:
    """Draw some of a kind of things on bare ground.

    Args:
        kind: one of `KINDS`.
        size: (width, height) in pixels of 0.3 m, each at most 256.
    """
    ground = GROUNDS[rng.integers(3)] * rng.uniform(0.75, 1.2)
    fine, coarse = noise(rng, PIXELS, 0.7)[..., None], noise(rng, PIXELS, 20)[..., None]
    pixels = ground * (1 + 0.05 * fine + 0.06 * coarse)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw_thing, side, count = KINDS[kind]
    # cells of a grid, for things on the ground do not overlap
    for cell in rng.permutation(side**2)[:count]:
        centre = (np.array(divmod(cell, side)) + 0.5) * PIXELS / side + rng.uniform(-8, 8, 2)
        light = rng.uniform(195, 250) * np.array([1, 1, rng.uniform(0.92, 1)])
        draw_thing(rng, ImageDraw.Draw(image), centre, tuple(int(v) for v in light))
    return image if size == (PIXELS, PIXELS) else image.crop((0, 0, *size))


def _storage_tank(rng: RNG, draw: ImageDraw.ImageDraw, centre: np.ndarray, light: Colour) -> None:
    radius = rng.uniform(12, 30)
    _disc(draw, centre + 0.35 * radius, radius, SHADOW)
    _disc(draw, centre, radius, light)
    _disc(draw, centre, 0.85 * radius, tuple(int(0.88 * v) for v in light))


def _disc(draw: ImageDraw.ImageDraw, centre: np.ndarray, radius: float, fill: Colour) -> None:
    draw.ellipse([*(centre - radius), *(centre + radius)], fill=fill)


def _airplane(rng: RNG, draw: ImageDraw.ImageDraw, centre: np.ndarray, light: Colour) -> None:
    turned = rng.uniform(0, 2 * np.pi), rng.uniform(40, 65)
    outline = (*PLANE, *((along, -across) for along, across in reversed(PLANE)))
    draw.polygon(_place(outline, centre + 7, *turned), fill=SHADOW)
    draw.polygon(_place(outline, centre, *turned), fill=light)


def _tennis_court(rng: RNG, draw: ImageDraw.ImageDraw, centre: np.ndarray, _: Colour) -> None:
    turned = rng.uniform(0, 2 * np.pi), rng.uniform(40, 65)
    colour = COURTS[rng.integers(3)]
    draw.polygon(_place(_rectangle(1, 0.5), centre, *turned), fill=colour)
    for half_sides in ((0.75, 0.33), (0.75, 0.25), (0.4, 0.25), (0.4, 0)):
        corners = _place(_rectangle(*half_sides), centre, *turned)
        draw.line([*corners, corners[0]], fill=LINES, width=2)


def _rectangle(p: float, q: float) -> Points:
    return (-p, -q), (p, -q), (p, q), (-p, q)


def _place(points: Points, centre: np.ndarray, angle: float, length: float) -> list[tuple]:
    """Points (along, across) in units of `length`, turned by `angle`, as pixels (x, y)."""
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-np.sin(angle), np.cos(angle)])
    return [tuple(centre + length * (p * along + q * across)) for p, q in points]


# what UC Merced's folders call it → (how it is drawn, cells along a side of the grid, how many)
KINDS: dict[str, tuple[Callable[..., None], int, int]] = {
    "airplane": (_airplane, 2, 2),
    "storagetanks": (_storage_tank, 3, 7),
    "tenniscourt": (_tennis_court, 2, 3),
}


def foreign(rng: RNG, number: int, n: int) -> np.ndarray:
    """Reflectances (n, n, 4) of what no class of EuroSAT is.

    Args:
        number: 0, 1 and 2 give the `KINDS` as if they were seen at 10 m, more gives cloud.
        n: pixels, at most 256.
    """
    kinds = list(KINDS)
    if number >= len(kinds):
        brightness = 1 + 0.25 * noise(rng, n, n / 8) + 0.03 * noise(rng, n, 1)
        return 5000 * brightness[..., None] * np.ones(4)
    picture = np.asarray(aerial_picture(rng, kinds[number], (PIXELS, PIXELS)), float)
    rgb = picture[:n, :n] / 255 * 2750
    return rgb[..., [2, 1, 0, 0]]
