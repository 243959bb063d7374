"""Is a scene read rightly, however it was written, and does the tone check see where it was not?

    python benchmarks/map_readings.py MODEL.pth data/stores/eurosat eurosat_latlon.csv SCENE…

EuroSAT's 400 test images of `map_mosaic.py` as one scene, written in every spelling, order, type,
scale and offset: the accuracy as it is read, or why it is refused, and whether there is a warning
(`results/map_readings.csv`). Then the tone check alone, on the mosaic and on real scenes that are
read wrongly on purpose (`results/map_tone_check.csv`).
"""

import argparse
import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
from map_mosaic import PROFILE, SIDE, neighbours, numbers_of
from rasterio.enums import ColorInterp

from src.checkpoints import load_classifier
from src.data.known import data_of
from src.errors import DataError
from src.map import SceneOptions, Thresholds, differences, open_scene
from src.map.scene_checks import rendered, sampled_tiles
from src.map.tones import other_order, strange_tones
from src.probes import embed
from src.runs.runtime import pick

B432 = ("B4", "B3", "B2")
SPELLINGS = {
    "B04": ("B04", "B03", "B02"),
    "b4": ("b4", "b3", "b2"),
    "B04_10m": ("B04_10m", "B03_10m", "B02_10m"),
    "B04 (665 nm)": ("B04 (665 nm)", "B03 (560 nm)", "B02 (490 nm)"),
    "red": ("red", "green", "blue"),
    "Red 4": ("Red 4", "Green 3", "Blue 2"),
    "FRE_B4": ("FRE_B4", "FRE_B3", "FRE_B2"),
    "B04_(Raw)": ("B04_(Raw)", "B03_(Raw)", "B02_(Raw)"),
    "none": None,
    "Band 1": ("Band 1", "Band 2", "Band 3"),
    "B1 B2 B3": ("B1", "B2", "B3"),
}
ORDERS = {"RGB": (0, 1, 2), "BGR": (2, 1, 0), "GRB": (1, 0, 2), "GBR": (1, 2, 0)}
# value = digital number × factor + added; tags as GDAL has them
WRITTEN = {
    "uint16": ("uint16", 1, 0, None),
    "int16": ("int16", 1, 0, None),
    "int32": ("int32", 1, 0, None),
    "float32": ("float32", 1, 0, None),
    "float64": ("float64", 1, 0, None),
    "float32, 0…1": ("float32", 1e-4, 0, None),
    "uint16, 1000 added": ("uint16", 1, 1000, None),
    "float32, 0…1, 1000 added": ("float32", 1e-4, 0.1, None),
    "uint16, tags 0.0001, −0.1": ("uint16", 1, 1000, (1e-4, -0.1)),
    "int16, tags 0.0001, 0": ("int16", 1, 0, (1e-4, 0.0)),
    "uint16, tags 1, −1000": ("uint16", 1, 1000, (1.0, -1000.0)),
    "float32, per cent": ("float32", 1e-2, 0, None),
    "uint16, full range": ("uint16", 6.5535, 0, None),
    "int16, 1000 taken off twice": ("int16", 1, -1000, None),
    "uint8 as EuroSAT's": ("uint8", 255 / 2750, 0, None),
    "uint8 as level 2A's TCI": ("uint8", 255 / 2000, 0, None),
    "uint8 as level 1C's TCI": ("uint8", 255 / 3558, 0, None),
}


def write(path: Path, numbers: np.ndarray, how: tuple, names=None, colours=None) -> Path:
    """(3, H, W) digital numbers as a GeoTIFF, written in one of these ways."""
    dtype, factor, added, tags = how
    values = numbers.astype(np.float64) * factor + added
    if dtype == "uint8":
        values = np.floor(values + 1e-6).clip(0, 255)
    elif "int" in dtype:
        values = values.round().clip(np.iinfo(dtype).min, np.iinfo(dtype).max)
    shape = {"height": numbers.shape[1], "width": numbers.shape[2], "dtype": dtype}
    with rasterio.open(path, "w", **{**PROFILE, **shape}) as file:
        file.write(values.astype(dtype))
    with rasterio.open(path, "r+") as file:
        if names:
            file.descriptions = names
        if colours:
            file.colorinterp = [ColorInterp[colour] for colour in colours]
        if tags:
            file.scales, file.offsets = [tags[0]] * 3, [tags[1]] * 3
    return path


def readings(folder: Path, numbers: np.ndarray) -> dict[str, tuple[Path, SceneOptions]]:
    """What is tried: name → a file and how it is opened."""
    made, plain = {}, WRITTEN["uint16"]
    for order, bands in ORDERS.items():
        for spelling, names in SPELLINGS.items():
            given = None if names is None else tuple(names[band] for band in bands)
            given = names if spelling in ("Band 1", "B1 B2 B3") else given
            path = folder / f"{len(made)}.tif"
            made[f"order {order}, names {spelling}"] = write(path, numbers[[*bands]], plain, given)
        colours = tuple(("red", "green", "blue")[band] for band in bands)
        path = folder / f"{len(made)}.tif"
        made[f"order {order}, colour interpretation"] = write(
            path, numbers[[*bands]], plain, None, colours
        )
    for name, how in WRITTEN.items():
        made[name] = write(folder / f"{len(made)}.tif", numbers, how, B432)
    for name in ("S2A_MSIL2A_20230821T1_N0509_R1", "S2A_MSIL2A_20200821T1_N0214_R1"):
        for added in (0, 1000):
            (folder / f"{name}{added}").mkdir()
            path, how = folder / f"{name}{added}" / "scene.tif", ("uint16", 1, added, None)
            made[f"{name[-8:-3]} in a folder's name, {added} added"] = write(
                path, numbers, how, B432
            )
    tried = {name: (path, SceneOptions()) for name, path in made.items()}
    for offset in (0, 1000):
        given = SceneOptions(offset=offset)
        tried[f"1000 added, --offset {offset}"] = (made["uint16, 1000 added"], given)
        tried[f"nothing added, --offset {offset}"] = (made["uint16"], given)
    tried["BGR without names, --bands 3 2 1"] = (
        made["order BGR, names none"],
        SceneOptions(bands=(3, 2, 1)),
    )
    return tried


def outcome(
    path: Path, options: SceneOptions, accuracy: Callable[[np.ndarray], float], known: dict
) -> dict:
    """Accuracy of the images as they are read, or the refusal; and the warnings."""
    try:
        with open_scene(path, options) as scene:
            images, doubts = rendered(scene.read()[0], known), differences(scene, known)
    except (DataError, ValueError) as error:
        return {"outcome": "refused", "said": str(error).replace(str(path), path.name)}
    tile = known["tile"]
    images = images.reshape(SIDE, tile, SIDE, tile, 3).swapaxes(1, 2).reshape(-1, tile, tile, 3)
    warned = "warned" if doubts else "silent"
    return {"outcome": warned, "accuracy": accuracy(images), "said": " | ".join(doubts)}


def accuracy_of(model, truth: np.ndarray) -> Callable[[np.ndarray], float]:
    """Share of images that the model gets right; the same pixels are asked about once."""
    known: dict[bytes, float] = {}

    def accuracy(images: np.ndarray) -> float:
        key = hashlib.sha256(images.tobytes()).digest()
        if key not in known:
            predicted = embed(model, images, model.encoder.image_size, pick()).argmax(1)
            known[key] = float((predicted == truth).mean())
        return known[key]

    return accuracy


def wrong(numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Digital numbers (N, H, W, 3) as they come out where a scene is read wrongly."""
    shown = {"right": numbers}
    shown |= {f"order {o}": numbers[..., [*b]] for o, b in ORDERS.items() if o != "RGB"}
    changed = {
        "1000 left in": numbers + 1000.0,
        "1000 taken off too much": numbers - 1000.0,
        "level 2A's TCI as EuroSAT's 8 bit": numbers * (2750 / 2000),
        "level 1C's TCI as EuroSAT's 8 bit": numbers * (2750 / 3558),
        "16 bit, full range": numbers * 6.5535,
        "reflectance in 0…1 as numbers": numbers / 1e4,
        "reversed, 1000 left in": numbers[..., ::-1] + 1000.0,
    }
    return shown | {name: x.round().clip(0, 65535).astype(np.uint16) for name, x in changed.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("checkpoint", "store", "coordinates"):
        parser.add_argument(name)
    parser.add_argument("scenes", nargs="*")
    args = parser.parse_args()
    model, metadata = load_classifier(args.checkpoint)
    known = Thresholds.beside(args.checkpoint).metadata
    store, split = data_of(metadata, args.checkpoint, args.store)
    test = split.test
    places = pd.read_csv(args.coordinates).set_index("name").loc[store.names[test]]
    rows = test[neighbours(places[["latitude", "longitude"]].to_numpy())].ravel()
    images = store.images[rows].reshape(SIDE, SIDE, *store.images.shape[1:])
    numbers = numbers_of(images, known["stretch"])
    results = Path(__file__).with_name("results")
    accuracy = accuracy_of(model, store.labels[rows])
    with tempfile.TemporaryDirectory() as folder:
        tried = readings(Path(folder), numbers)
        found = {
            name: outcome(path, options, accuracy, known) for name, (path, options) in tried.items()
        }
    table = pd.DataFrame.from_dict(found, orient="index").rename_axis("reading")
    table.round(4).to_csv(results / "map_readings.csv")
    print(table.drop(columns="said").round(4).to_string())
    tile = known["tile"]
    tiles = numbers.reshape(3, SIDE, tile, SIDE, tile).transpose(1, 3, 2, 4, 0)
    sets = {"EuroSAT mosaic": tiles.reshape(-1, tile, tile, 3)}
    for scene in args.scenes:
        with open_scene(scene) as opened:
            sets[opened.path.name] = sampled_tiles(opened, tile)
    checks = {}
    for name, tiles in sets.items():
        for reading, read in wrong(tiles).items():
            seen = rendered(read, known)
            tones = "tones" if strange_tones(seen, known) else ""
            checks.setdefault(reading, {})[name] = tones or (
                "order" if other_order(seen, known) else "silent"
            )
    table = pd.DataFrame.from_dict(checks, orient="index").rename_axis("read")
    table.to_csv(results / "map_tone_check.csv")
    print(table.to_string())


if __name__ == "__main__":
    main()
