"""Aerial pictures of things that are no land-use class, as UC Merced has them."""

import numpy as np
from PIL import Image, ImageDraw

from src.data.demo.paint import RNG, _noise


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill) -> None:
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=fill)


def aerial(rng: RNG, kind: str, size: tuple[int, int]) -> Image.Image:
    """A UC Merced-like picture (0.3 m pixels) of something that is no land-use class; size is
    (width, height).
    """
    ground = np.array([[130, 128, 122], [150, 140, 118], [105, 115, 95]])[
        rng.integers(3)
    ] * rng.uniform(0.75, 1.2)
    texture = 1 + 0.05 * _noise(rng, 256, 0.7)[..., None] + 0.06 * _noise(rng, 256, 20)[..., None]
    image = Image.fromarray((ground * texture).clip(0, 255).astype(np.uint8))
    draw, shadow = ImageDraw.Draw(image), (45, 45, 50)
    side = 3 if kind == "storagetanks" else 2
    spots = rng.permutation(side**2)[: {"airplane": 2, "storagetanks": 7, "tenniscourt": 3}[kind]]
    for spot in spots:  # cells of a grid, for things on the ground do not overlap
        x, y = (np.array(divmod(spot, side)) + 0.5) * 256 / side + rng.uniform(-8, 8, 2)
        light = tuple(
            int(v) for v in rng.uniform(195, 250) * np.array([1, 1, rng.uniform(0.92, 1)])
        )
        if kind == "storagetanks":
            radius = rng.uniform(12, 30)
            _disc(draw, x + 0.35 * radius, y + 0.35 * radius, radius, shadow)
            _disc(draw, x, y, radius, light)
            _disc(draw, x, y, 0.85 * radius, tuple(int(0.88 * v) for v in light))
            continue
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(40, 65)
        along, across = (
            np.array([np.cos(angle), np.sin(angle)]),
            np.array([-np.sin(angle), np.cos(angle)]),
        )

        def shape(*points, at=(x, y), a=along, b=across, unit=length):
            return [tuple(np.array(at) + unit * (p * a + q * b)) for p, q in points]

        if kind == "airplane":
            outline = (
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
            outline = (*outline, *((p, -q) for p, q in reversed(outline)))
            draw.polygon(shape(*outline, at=(x + 7, y + 7)), fill=shadow)
            draw.polygon(shape(*outline), fill=light)
        else:
            court = [(60, 110, 80), (60, 90, 140), (150, 85, 70)][rng.integers(3)]
            draw.polygon(shape((-1, -0.5), (1, -0.5), (1, 0.5), (-1, 0.5)), fill=court)
            for p, q in ((0.75, 0.33), (0.75, 0.25), (0.4, 0.25), (0.4, 0)):
                draw.line(
                    shape((-p, -q), (p, -q), (p, q), (-p, q), (-p, -q)),
                    fill=(235, 235, 235),
                    width=2,
                )
    return image.crop((0, 0, *size)) if size != (256, 256) else image


def foreign(rng: RNG, number: int, n: int) -> np.ndarray:
    """(n, n, 4) reflectances of what no class of EuroSAT is: things seen from an aeroplane, and
    cloud.
    """
    kinds = ("airplane", "storagetanks", "tenniscourt")
    if number >= len(kinds):
        return (
            5000
            * (1 + 0.25 * _noise(rng, n, n / 8) + 0.03 * _noise(rng, n, 1))[..., None]
            * np.ones(4)
        )
    rgb = np.asarray(aerial(rng, kinds[number], (256, 256)), float)[:n, :n] / 255 * 2750
    return rgb[..., [2, 1, 0, 0]]
