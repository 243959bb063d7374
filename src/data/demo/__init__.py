"""Made data for a run without a download: Sentinel-2-like scenes, the same for one seed.

What `src.data.demo.paint` paints is written in the real sets' formats, as BigEarthNet v1 folders,
EuroSAT JPEGs and GeoTIFFs and UC Merced TIFFs, so that the demo takes the road real data takes.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from src.data.bars import bar
from src.data.demo.aerial import KINDS, aerial_picture, foreign
from src.data.demo.observe import mixed_bands, simulate_sensor, twelve_bands
from src.data.demo.paint import PAINTERS, RNG, axes
from src.data.images import ALLBANDS, FILE_BANDS
from src.data.locks import WAIT, locked

GENERATOR_VERSION = 6
EPSG = 32633  # of UTM zone 33 north


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
        bigearthnet: patches.
        eurosat_per_class: images in each of the ten classes.
        ucmerced_per_class: images in each of the three classes.
        progress: say how far it is.

    Returns:
        `root`, holding `BigEarthNet-v1.0/`, `splits/train.csv`, `eurosat/2750/` (and all bands,
        where EuroSAT's archive has them), `UCMerced_LandUse/Images/`, `scenes/made_scene/B04.tif` …
        and `demo.json`. It appears only when whole.

    Raises:
        FileExistsError: `root` holds something that this function did not make.
    """
    root = Path(root)
    arguments = {
        "generator_version": GENERATOR_VERSION,
        "seed": seed,
        "bigearthnet": bigearthnet,
        "eurosat_per_class": eurosat_per_class,
        "ucmerced_per_class": ucmerced_per_class,
    }
    folder = root.with_name(f"{root.name}.partial")
    while not _is_made(root, arguments):
        with contextlib.ExitStack() as stack:
            # of two that want it first, one makes it, and the other waits and finds it
            try:
                stack.enter_context(locked(folder / "lock", "making the demo data", WAIT))
            except FileNotFoundError:  # the lock went with the folder of who had it
                continue
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            if not _is_made(root, arguments):
                _replace(root, folder / "made", arguments, progress)
    return root


def _is_made(root: Path, arguments: dict[str, int]) -> bool:
    if (root / "demo.json").is_file():
        try:
            return json.loads((root / "demo.json").read_text(encoding="utf-8")) == arguments
        except ValueError:  # cut off or written over: it is made again
            return False
    if root.exists() and any(root.iterdir()):
        raise FileExistsError(
            f"{root} holds files but no demo.json: not ours to replace. Give another folder."
        )
    return False


def _replace(root: Path, partial_root: Path, arguments: dict[str, int], progress: bool) -> None:
    shutil.rmtree(partial_root, ignore_errors=True)  # of one that was killed
    _make(partial_root, arguments, progress)
    if root.exists():
        shutil.rmtree(root)
    partial_root.rename(root)


def _make(root: Path, arguments: dict[str, int], progress: bool) -> None:
    seed = arguments["seed"]
    tasks = [
        *_patches(root, seed, arguments["bigearthnet"]),
        *_eurosat(root / "eurosat", seed, arguments["eurosat_per_class"]),
        *_ucmerced(root / "UCMerced_LandUse/Images", seed, arguments["ucmerced_per_class"]),
        partial(write_scene, root / "scenes/made_scene", np.random.default_rng([seed, 3])),
    ]
    for task in bar(tasks, "making demo data", unit="file", disable=not progress):
        task()
    (root / "demo.json").write_text(json.dumps(arguments))


# A task writes one image. Each has a generator of its own: no image depends on how many were made
# before it.
Tasks = Iterator[Callable[[], None]]


def _patches(root: Path, seed: int, count: int) -> Tasks:
    """BigEarthNet v1: a folder of twelve GeoTIFFs and a JSON a patch, and the list of all."""
    names = [f"S2A_MSIL2A_20170613T101031_{n % 75}_{n // 75}" for n in range(count)]
    for number, name in enumerate(names):
        rng = np.random.default_rng([seed, 0, number])
        yield partial(_write_patch, root / "BigEarthNet-v1.0" / name, rng, number)
    yield partial(_write_list, root / "splits/train.csv", names)


def _eurosat(root: Path, seed: int, per_class: int) -> Tasks:
    """EuroSAT: a scene as it has it twice, an RGB JPEG and a GeoTIFF of 13 bands."""
    for label, (name, (paint, _)) in enumerate(PAINTERS.items()):
        for number in range(1, per_class + 1):
            file, rng = f"{name}/{name}_{number}", np.random.default_rng([seed, 1, label, number])
            yield partial(_write_eurosat, root, file, paint, rng)


def _ucmerced(root: Path, seed: int, per_class: int) -> Tasks:
    """UC Merced: TIFFs, two of other sizes, as the real set has some."""
    sizes = {("airplane", 0): (256, 253), ("airplane", 1): (247, 256)}
    for label, kind in enumerate(KINDS):
        for number in range(per_class):
            file = root / kind / f"{kind}{number:02d}.tif"
            rng = np.random.default_rng([seed, 2, label, number])
            yield partial(_write_aerial, file, kind, sizes.get((kind, number), (256, 256)), rng)


def _write_list(file: Path, names: list[str]) -> None:
    file.parent.mkdir(parents=True)
    file.write_text("".join(f"{name}\n" for name in names))


def _write_patch(folder: Path, rng: RNG, number: int) -> None:
    from rasterio import CRS, Affine  # here: training on a store does without

    (paint, label), (paint_other, other_label) = _two_classes(rng)
    scene, labels = paint(rng, 120), [label]
    if rng.uniform() < 0.4:  # real patches are multi-label
        u, _ = axes(rng, 120)
        beyond = u > rng.uniform(-25, 25)
        scene[beyond] = paint_other(rng, 120)[beyond]
        labels.append(other_label)
    folder.mkdir(parents=True)
    left, top = 300_000 + 1200 * (number % 75), 5_300_000 - 1200 * (number // 75)
    for name, band in twelve_bands(simulate_sensor(rng, scene)).items():
        pixel = 1200 / len(band)
        place = Affine(pixel, 0, left, 0, -pixel, top)
        _write_geotiff(folder / f"{folder.name}_{name}.tif", band[None], transform=place)
    metadata = {
        "labels": sorted(labels),
        "coordinates": {"ulx": left, "uly": top, "lrx": left + 1200, "lry": top - 1200},
        "projection": CRS.from_epsg(EPSG).to_wkt(),
        "tile_source": "made by src/data/demo.py",
        "acquisition_date": "2017-06-13 10:10:31",
    }
    (folder / f"{folder.name}_labels_metadata.json").write_text(json.dumps(metadata))


def _two_classes(rng: RNG) -> list[tuple[Callable[[RNG, int], np.ndarray], str]]:
    painters = list(PAINTERS.values())
    return [painters[number] for number in rng.permutation(len(painters))[:2]]


def _write_eurosat(
    root: Path, name: str, paint: Callable[[RNG, int], np.ndarray], rng: RNG
) -> None:
    scene = simulate_sensor(rng, paint(rng, 64))
    jpeg, tiff = root / "2750" / f"{name}.jpg", root / ALLBANDS / f"{name}.tif"
    for file in (jpeg, tiff):
        file.parent.mkdir(parents=True, exist_ok=True)
    rgb = scene[..., [2, 1, 0]] / 2750 * 255
    Image.fromarray(rgb.clip(0, 255).astype(np.uint8)).save(jpeg, quality=95)
    bands = {**mixed_bands(scene), "B10": np.full((64, 64), 12.0)}  # cirrus, no ground in it
    stacked = np.stack([bands[band] for band in FILE_BANDS]).round().astype(np.uint16)
    _write_geotiff(tiff, stacked, interleave="pixel")


def _write_aerial(file: Path, kind: str, size: tuple[int, int], rng: RNG) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    aerial_picture(rng, kind, size).save(file)


def write_scene(folder: Path, rng: RNG) -> None:
    """Write one scene as Sentinel-2 bands, 620 × 500 pixels of 10 m.

    It has all classes in three rows of squares, in the fourth what is none of them; its right edge,
    as a swath's, is slanted and 0 beyond.
    """
    covers = [paint(rng, 128) for paint, _ in PAINTERS.values()]
    rows = [
        covers[:5],
        covers[5:],
        [paint(rng, 128) for paint, _ in list(PAINTERS.values())[::2]],
        [foreign(rng, number, 128) for number in range(5)],
    ]
    land = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    scene = simulate_sensor(rng, land)[:500, :620]
    y, x = np.mgrid[:500, :620]
    scene[x > 610 - y / 10] = 0
    folder.mkdir(parents=True)
    for number, name in enumerate(("B02", "B03", "B04", "B08")):
        band = scene[None, ..., number].round().astype(np.uint16)
        _write_geotiff(folder / f"{name}.tif", band, tiled=True, compress="deflate")


def _write_geotiff(file: Path, bands: np.ndarray, **options: Any) -> None:
    """Write (count, H, W) uint16; options are GDAL's, and replace the place, which is 10 m."""
    import rasterio

    count, height, width = bands.shape
    profile = {
        "driver": "GTiff",
        "dtype": "uint16",
        "count": count,
        "height": height,
        "width": width,
        "crs": rasterio.CRS.from_epsg(EPSG),
        "transform": rasterio.Affine(10, 0, 300_000, 0, -10, 5_300_000),
    }
    with rasterio.open(file, "w", **{**profile, **options}) as image:
        image.write(bands)
