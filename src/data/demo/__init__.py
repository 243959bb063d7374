"""Made data for a run without a download: Sentinel-2-like scenes in the real on-disk formats, the
same for one seed.

What `src.data.paint` paints is written as BigEarthNet v1 folders, EuroSAT JPEGs and GeoTIFFs and UC
Merced TIFFs, so that the demo takes the road real data takes.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image
from rasterio.transform import from_origin
from tqdm.auto import tqdm

from src.data.demo.aerial import aerial, foreign
from src.data.demo.observe import mixed_bands, observe, twelve_bands
from src.data.demo.paint import PAINTERS, RNG, axes
from src.data.images import ALLBANDS, FILE_BANDS

GENERATOR_VERSION = 5


def _write_patch(folder: Path, rng: RNG, number: int) -> None:
    classes = list(PAINTERS)
    first, second = rng.permutation(len(classes))[:2]
    scene, labels = PAINTERS[classes[first]][0](rng, 120), [PAINTERS[classes[first]][1]]
    if rng.uniform() < 0.4:  # real patches are multi-label
        u, _ = axes(rng, 120)
        beyond = u > rng.uniform(-25, 25)
        scene[beyond] = PAINTERS[classes[second]][0](rng, 120)[beyond]
        labels.append(PAINTERS[classes[second]][1])
    left, top = 300_000 + 1200 * (number % 75), 5_300_000 - 1200 * (number // 75)
    folder.mkdir(parents=True)
    crs = rasterio.CRS.from_epsg(32633)
    for name, band in twelve_bands(observe(rng, scene)).items():
        size = len(band)
        profile = {
            "driver": "GTiff",
            "dtype": "uint16",
            "count": 1,
            "height": size,
            "width": size,
            "crs": crs,
            "transform": from_origin(left, top, 1200 / size, 1200 / size),
        }
        with rasterio.open(folder / f"{folder.name}_{name}.tif", "w", **profile) as file:
            file.write(band, 1)
    about = {
        "labels": sorted(labels),
        "coordinates": {"ulx": left, "uly": top, "lrx": left + 1200, "lry": top - 1200},
        "projection": crs.to_wkt(),
        "tile_source": "made by src/data/demo.py",
        "acquisition_date": "2017-06-13 10:10:31",
    }
    (folder / f"{folder.name}_labels_metadata.json").write_text(json.dumps(about))


def _tasks(
    root: Path, seed: int, bigearthnet: int, eurosat: int, ucmerced: int
) -> Iterator[Callable[[], None]]:
    # a generator of its own for every image: no image depends on how many were made before it
    names = [f"S2A_MSIL2A_20170613T101031_{n % 75}_{n // 75}" for n in range(bigearthnet)]
    for number, name in enumerate(names):
        yield lambda n=number, name=name: _write_patch(
            root / "BigEarthNet-v1.0" / name, np.random.default_rng([seed, 0, n]), n
        )
    for label, (name, (paint, _)) in enumerate(PAINTERS.items()):
        for n in range(1, eurosat + 1):
            yield lambda f=f"{name}/{name}_{n}", p=paint, r=[seed, 1, label, n]: _write_eurosat(
                root / "eurosat", f, p, np.random.default_rng(r)
            )
    for label, name in enumerate(("airplane", "storagetanks", "tenniscourt")):
        for n in range(ucmerced):
            # two files of other sizes, as the real set has
            size = {0: (256, 253), 1: (247, 256)}.get(n, (256, 256)) if label == 0 else (256, 256)
            file = root / "UCMerced_LandUse/Images" / name / f"{name}{n:02d}.tif"
            yield lambda f=file, k=name, s=size, r=[seed, 2, label, n]: _write_tiff(
                f, k, s, np.random.default_rng(r)
            )
    yield lambda: write_scene(root / "scenes/made_scene", np.random.default_rng([seed, 3]))
    (root / "splits").mkdir(parents=True)
    (root / "splits/train.csv").write_text("".join(f"{name}\n" for name in names))


def _write_eurosat(
    root: Path, name: str, paint: Callable[[RNG, int], np.ndarray], rng: RNG
) -> None:
    """One scene as EuroSAT has it twice: an RGB JPEG, and a GeoTIFF of 13 bands."""
    scene = observe(rng, paint(rng, 64))
    jpeg, tiff = root / "2750" / f"{name}.jpg", root / ALLBANDS / f"{name}.tif"
    for file in (jpeg, tiff):
        file.parent.mkdir(parents=True, exist_ok=True)
    rgb = scene[..., [2, 1, 0]] / 2750 * 255
    Image.fromarray(rgb.clip(0, 255).astype(np.uint8)).save(jpeg, quality=95)
    bands = {**mixed_bands(scene), "B10": np.full((64, 64), 12.0)}  # cirrus, no ground in it
    profile = {
        "driver": "GTiff",
        "dtype": "uint16",
        "count": 13,
        "height": 64,
        "width": 64,
        "interleave": "pixel",
        "crs": rasterio.CRS.from_epsg(32633),
        "transform": from_origin(300_000, 5_300_000, 10, 10),
    }
    with rasterio.open(tiff, "w", **profile) as file:
        file.write(np.stack([bands[band] for band in FILE_BANDS]).round().astype(np.uint16))


def write_scene(folder: Path, rng: RNG, n: int = 128) -> None:
    """One scene as Sentinel-2 bands, 620 × 500 pixels: all classes in three rows of squares, in the
    fourth what is none of them; its right edge, as a swath's, is slanted and 0 beyond."""
    covers = [paint(rng, n) for paint, _ in PAINTERS.values()]
    rows = [
        covers[:5],
        covers[5:],
        [paint(rng, n) for paint, _ in list(PAINTERS.values())[::2]],
        [foreign(rng, number, n) for number in range(5)],
    ]
    scene = observe(rng, np.concatenate([np.concatenate(row, axis=1) for row in rows]))[:500, :620]
    y, x = np.mgrid[:500, :620]
    scene[x > 610 - y / 10] = 0
    folder.mkdir(parents=True)
    profile = {
        "driver": "GTiff",
        "dtype": "uint16",
        "count": 1,
        "height": 500,
        "width": 620,
        "tiled": True,
        "compress": "deflate",
        "crs": rasterio.CRS.from_epsg(32633),
        "transform": from_origin(300_000, 5_300_000, 10, 10),
    }
    for number, name in enumerate(("B02", "B03", "B04", "B08")):
        with rasterio.open(folder / f"{name}.tif", "w", **profile) as file:
            file.write(scene[..., number].round().astype(np.uint16), 1)


def _write_tiff(file: Path, kind: str, size: tuple[int, int], rng: RNG) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    aerial(rng, kind, size).save(file)


def make_demo(
    root: str | Path = "data/demo",
    *,
    seed: int = 0,
    bigearthnet: int = 600,
    eurosat_per_class: int = 120,
    ucmerced_per_class: int = 30,
    progress: bool = True,
) -> Path:
    """Make the demo data under `root` unless it is there already with these very arguments.

    Args:
        bigearthnet: patches. eurosat_per_class, ucmerced_per_class: images in each of the ten, and
            three, classes.

    Returns:
        `root`, holding `BigEarthNet-v1.0/`, `splits/train.csv`, `eurosat/2750/` (and all bands,
        where EuroSAT's archive has them), `UCMerced_LandUse/Images/`, `scenes/made_scene/B04.tif` …
        and `demo.json`. It appears only when whole.

    Raises:
        FileExistsError: `root` holds something that this function did not make.
    """
    root = Path(root)
    marker = {
        "generator_version": GENERATOR_VERSION,
        "seed": seed,
        "bigearthnet": bigearthnet,
        "eurosat_per_class": eurosat_per_class,
        "ucmerced_per_class": ucmerced_per_class,
    }
    if (root / "demo.json").is_file():
        if json.loads((root / "demo.json").read_text()) == marker:
            return root
    elif root.exists() and any(root.iterdir()):
        raise FileExistsError(
            f"{root} holds files but no demo.json: not ours to replace. Give another folder."
        )
    partial = root.with_name(f"{root.name}.partial-{os.getpid()}")
    try:
        tasks = list(_tasks(partial, seed, bigearthnet, eurosat_per_class, ucmerced_per_class))
        for task in tqdm(
            tasks, desc="making demo data", unit="file", mininterval=0.5, disable=not progress
        ):
            task()
        (partial / "demo.json").write_text(json.dumps(marker))
        if root.exists():
            shutil.rmtree(root)
        partial.rename(root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root
