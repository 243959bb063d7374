"""Painted land: Sentinel-2-like scenes of EuroSAT's ten classes.

Scenes are (n, n, 4) reflectances (digital numbers, 10,000 = reflectance 1; B02, B03, B04, B08) at
10 m. A class has a structure and the grounds that it is mostly made of, as EuroSAT's have: forests
are dark green, fields brown and green. Grounds, sun and haze overlap: by colour alone (means and
deviations) a nearest-mean classifier is right for 57 % of them, and for 39 % of EuroSAT's.
"""

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import KDTree

RNG = np.random.Generator
# reflectances of B02, B03, B04, B08
TONES = np.array(
    [
        [700, 900, 1250, 2200],  # bare soil
        [550, 700, 760, 2400],  # dry grass
        [340, 560, 400, 3200],  # green crops
        [420, 620, 540, 2900],  # meadow
        [260, 380, 290, 2600],  # trees
        [950, 1240, 1800, 2500],  # pale, dry soil
    ],
    float,
)
# how much of each tone a class's ground has: concentrations of a Dirichlet distribution. Small sums
# give purer tones, and so more contrast
FIELDS = (0.4, 0.05, 0.4, 0.1, 0.05, 0.4)
ORCHARDS = (0.4, 0.2, 0.1, 0.1, 0.3, 0.6)
MEADOWS = (0.05, 0.2, 1.5, 2.0, 0.1, 0.05)
TREES = (0.05, 0.05, 0.1, 0.2, 4.0, 0.05)
HEATH = (0.1, 1.5, 0.1, 0.2, 0.6, 0.1)
BANKS = (0.2, 0.6, 0.3, 0.5, 0.2, 0.2)
GARDENS = (0.3, 0.8, 0.3, 0.6, 0.5, 0.2)
VERGES = (0.2, 0.4, 0.5, 0.6, 0.5, 0.1)
ANY = (0.4,) * 6
ROOFS = np.array(
    [
        [650, 800, 1350, 1900],
        [1100, 1130, 1150, 1500],
        [450, 480, 500, 800],
        [1700, 1750, 1800, 2200],
    ],
    float,
)
ASPHALT, WATER = np.array([700, 730, 760, 1100.0]), np.array([500, 460, 280, 150.0])


def noise(rng: RNG, n: int, scale: float) -> np.ndarray:
    """Smooth noise (n, n) of zero mean and unit deviation; `scale` in pixels."""
    field = gaussian_filter(rng.normal(size=(n, n)), scale, mode="wrap")
    return (field - field.mean()) / field.std()


def axes(rng: RNG, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates (n, n) each around the centre, turned by a random angle."""
    y, x = np.mgrid[:n, :n] - (n - 1) / 2
    angle = rng.uniform(0, 2 * np.pi)
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _tones(rng: RNG, mix: np.ndarray, ground: tuple[float, ...]) -> np.ndarray:
    """(n, n) mixing weights → (n, n, 4) reflectances between two ground tones of this image."""
    pairs = rng.dirichlet(ground, (3, 2)) @ TONES
    visible_contrast = np.abs(np.diff(pairs, axis=1))[..., :3].sum((1, 2))
    a, b = pairs[visible_contrast.argmax()]
    return a + (b - a) * np.clip(mix, 0, 1)[..., None]


def _parcels(rng: RNG, n: int, size: float) -> np.ndarray:
    """(n, n) parcel numbers: Voronoi cells in stretched coordinates, about `size` pixels wide."""
    u, v = axes(rng, n)
    seeds = rng.uniform(-n, n, (int(6 * (n / size) ** 2) + 4, 2))
    stretch = rng.uniform(1.2, 2.2)
    return KDTree(seeds).query(np.stack([u, stretch * v], -1))[1]


def _fields(rng: RNG, n: int) -> np.ndarray:
    """(n, n) mixing weights: one tone to a parcel, and a little texture."""
    parcels = _parcels(rng, n, 26)
    return rng.beta(0.5, 0.5, parcels.max() + 1)[parcels] + 0.06 * noise(rng, n, 1.5)


def _band(rng: RNG, n: int, bend: float) -> np.ndarray:
    """Distance in pixels from a curve across the image."""
    u, v = axes(rng, n)
    wave = bend * np.sin(2 * np.pi * u / rng.uniform(50, 110) + rng.uniform(0, 6.3))
    return np.abs(v - wave - rng.uniform(-0.2, 0.2) * min(n, 64))


# --- the ten classes: (generator, pixels) → a scene ---


def annual_crop(rng: RNG, n: int) -> np.ndarray:
    """Paint parcels of one tone each."""
    return _tones(rng, _fields(rng, n), FIELDS)


def permanent_crop(rng: RNG, n: int) -> np.ndarray:
    """Paint rows of plants, in another direction in every parcel."""
    parcels = _parcels(rng, n, 45)
    rows = np.zeros((n, n))
    for parcel in np.unique(parcels):
        u, _ = axes(rng, n)
        rows = np.where(parcels == parcel, np.sin(2 * np.pi * u / rng.uniform(7, 10)), rows)
    mix = 0.5 + rng.uniform(-0.3, 0.3, parcels.max() + 1)[parcels]
    return _tones(rng, mix + rng.uniform(0.3, 0.45) * rows + 0.12 * noise(rng, n, 1), ORCHARDS)


def pasture(rng: RNG, n: int) -> np.ndarray:
    """Paint smooth ground with a few trees and hedges."""
    woody = noise(rng, n, 2) > rng.uniform(1.8, 2.6)
    for _ in range(rng.integers(1, 5)):
        woody |= _band(rng, n, rng.uniform(0, 4)) < 0.9
    scene = _tones(rng, 0.5 + 0.2 * noise(rng, n, rng.uniform(6, 14)), MEADOWS)
    scene[woody] = TONES[4] * rng.uniform(0.8, 1.3)
    return scene


def forest(rng: RNG, n: int) -> np.ndarray:
    """Paint crowns of a pixel or so, which vary slowly."""
    crowns = 1 + rng.uniform(0.12, 0.2) * noise(rng, n, 1.4)
    return _tones(rng, 0.5 + 0.2 * noise(rng, n, 8), TREES) * crowns.clip(0.5)[..., None]


def herbaceous(rng: RNG, n: int) -> np.ndarray:
    """Paint soft patches of some pixels."""
    patches = 0.3 * noise(rng, n, rng.uniform(3.5, 6))
    return _tones(rng, 0.5 + patches + 0.12 * noise(rng, n, 1), HEATH)


def highway(rng: RNG, n: int) -> np.ndarray:
    """Paint fields with one or two roads across."""
    scene = _tones(rng, _fields(rng, n), VERGES)
    for _ in range(rng.integers(1, 3)):
        tone = ASPHALT * rng.uniform(1.1, 1.8)
        scene[_band(rng, n, rng.uniform(0, 5)) < rng.uniform(1.5, 2.4)] = tone
    return scene


def river(rng: RNG, n: int) -> np.ndarray:
    """Paint a winding band of water with uneven banks."""
    scene = _tones(rng, 0.5 + 0.25 * noise(rng, n, rng.uniform(2, 8)), BANKS)
    water = WATER + rng.uniform(0, 0.25) * (TONES[0] - WATER)
    scene[_band(rng, n, rng.uniform(6, 12)) + noise(rng, n, 5) < rng.uniform(6, 11)] = water
    return scene


def residential(rng: RNG, n: int) -> np.ndarray:
    """Paint small houses in cells of a grid, and streets between them."""
    scene, (u, v) = _tones(rng, 0.4 + 0.25 * noise(rng, n, 1.5), GARDENS), axes(rng, n)
    cell = rng.uniform(7, 10)
    column, row = np.floor(u / cell).astype(int), np.floor(v / cell).astype(int)
    kind = rng.integers(0, 5, (40, 40))[column % 40, row % 40]
    house = (np.abs(u / cell % 1 - 0.5) < 0.3) & (np.abs(v / cell % 1 - 0.5) < 0.3) & (kind < 4)
    scene[house] = (ROOFS * rng.uniform(0.8, 1.1))[kind[house]]
    scene[(row % rng.integers(3, 5) == 0) | (column % 5 == 0)] = ASPHALT
    return scene


def industrial(rng: RNG, n: int) -> np.ndarray:
    """Paint large halls on sealed ground, all at right angles."""
    sealed = ASPHALT * rng.uniform(0.6, 1.1) * (1 + 0.2 * noise(rng, n, 1)[..., None])
    scene = sealed + 0.3 * _tones(rng, noise(rng, n, 4), ANY)
    u, v = axes(rng, n)
    for _ in range(int(14 * (n / 64) ** 2)):
        half_u, half_v = rng.uniform(3, 11, 2)
        at_u, at_v = rng.uniform(-0.5, 0.5, 2) * n
        roof = (np.abs(u - at_u) < half_u) & (np.abs(v - at_v) < half_v)
        scene[roof] = ROOFS[rng.integers(4)] * rng.uniform(0.7, 1.1)
    return scene


def sea_lake(rng: RNG, n: int) -> np.ndarray:
    """Paint water with swell, in some scenes with a shore."""
    u, _ = axes(rng, n)
    swell = np.sin(2 * np.pi * u / rng.uniform(12, 30)) + noise(rng, n, 4)
    water = WATER + rng.uniform(0, 0.35) * (TONES[rng.integers(1, 4)] - WATER)
    scene = water * (1 + 0.04 * swell[..., None])
    if rng.uniform() < 0.3:
        shore = u + 2 * noise(rng, n, 4) > rng.uniform(0.2, 0.45) * n
        scene[shore] = _tones(rng, 0.5 + 0.25 * noise(rng, n, 3), ANY)[shore]
    return scene


# EuroSAT class → (painter, the CORINE label BigEarthNet would carry)
PAINTERS: dict[str, tuple[Callable[[RNG, int], np.ndarray], str]] = {
    "AnnualCrop": (annual_crop, "Non-irrigated arable land"),
    "Forest": (forest, "Mixed forest"),
    "HerbaceousVegetation": (herbaceous, "Natural grassland"),
    "Highway": (highway, "Road and rail networks and associated land"),
    "Industrial": (industrial, "Industrial or commercial units"),
    "Pasture": (pasture, "Pastures"),
    "PermanentCrop": (permanent_crop, "Vineyards"),
    "Residential": (residential, "Discontinuous urban fabric"),
    "River": (river, "Water courses"),
    "SeaLake": (sea_lake, "Water bodies"),
}
