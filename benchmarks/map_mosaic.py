"""Is a map right where the truth is known? EuroSAT's test images side by side as one scene.

    python benchmarks/map_mosaic.py MODEL.pth THRESHOLDS.npz data/stores/eurosat eurosat_latlon.csv

The 400 test images that lie closest together (by the CSV of name, latitude, longitude), north up,
are written as a GeoTIFF of reflectances that render to the same pixels. At a stride of one image
each must get the class that the classifier gives it alone, and about 5 % be flagged; at half of it
tiles also straddle neighbours, as in any scene. Writes `results/map_mosaic.csv`.
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
from rasterio.transform import from_origin
from sklearn.neighbors import BallTree

from src.checkpoints import load_classifier
from src.data.bands import to_uint8
from src.data.known import data_of
from src.map import Thresholds, map_scene
from src.map.thresholds import DEFAULT_MASK
from src.probes import embed
from src.runs.runtime import pick

SIDE = 20  # images
PROFILE = {
    "driver": "GTiff",
    "dtype": "uint16",
    "count": 3,
    "crs": "EPSG:32633",
    "transform": from_origin(300_000, 5_300_000, 10, 10),
}


def neighbours(places: np.ndarray) -> np.ndarray:
    """Rows of the SIDE² places closest to one another, (SIDE, SIDE), north up and east right.

    Args:
        places: (N, 2) latitude and longitude in degrees.
    """
    tree = BallTree(np.radians(places), metric="haversine")
    distance, rows = tree.query(np.radians(places), k=SIDE**2)
    closest = rows[distance[:, -1].argmin()]
    north_first = closest[np.argsort(-places[closest, 0])].reshape(SIDE, SIDE)
    return np.take_along_axis(north_first, places[north_first, 1].argsort(1), 1)


def numbers_of(images: np.ndarray, stretch: float) -> np.ndarray:
    """(SIDE, SIDE, H, W, 3) uint8 images as one scene (3, …) of digital numbers that render to
    them; 1 in place of 0, which is no data where all bands have it, and renders to 0 too.
    """
    pixels = images.transpose(4, 0, 2, 1, 3).reshape(3, SIDE * images.shape[2], -1)
    rendered = to_uint8(np.arange(65536, dtype=np.uint16), stretch)
    numbers = np.searchsorted(rendered, np.arange(256)).clip(1).astype(np.uint16)[pixels]
    assert (to_uint8(numbers, stretch) == pixels).all()
    return numbers


def write_mosaic(path: Path, images: np.ndarray, stretch: float) -> None:
    """Write `numbers_of` images as a GeoTIFF that names its bands."""
    numbers = numbers_of(images, stretch)
    height, width = numbers.shape[1:]
    with rasterio.open(path, "w", height=height, width=width, **PROFILE) as file:
        file.write(numbers)
        file.descriptions = ("B04", "B03", "B02")


def compare(out: Path, summary: dict, alone: np.ndarray, truth: np.ndarray) -> dict:
    """What `map_scene` made beside what the classifier says of each image alone, and the truth."""
    with rasterio.open(out / "class.tif") as file:
        classes = file.read(1).reshape(SIDE, summary["tile"], SIDE, summary["tile"])
    return {
        "stride": summary["stride"],
        "images": SIDE**2,
        "pixels_of_the_class_given_alone": (classes == alone[:, None, :, None]).mean(),
        "accuracy_alone": (alone == truth).mean(),
        "accuracy_of_pixels": (classes == truth[:, None, :, None]).mean(),
        "score": " or ".join(summary["thresholds"]),
        "flagged": summary["flagged"],
        "flagged_by": str(summary["flagged_by"]),
        **summary["versions"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("checkpoint", "thresholds", "store", "coordinates"):
        parser.add_argument(name)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    model, metadata = load_classifier(args.checkpoint)
    thresholds = Thresholds.load(args.thresholds, args.checkpoint, DEFAULT_MASK)
    store, split = data_of(metadata, args.checkpoint, args.store)
    tile, test = thresholds.metadata["tile"], split.test
    coordinates = pd.read_csv(args.coordinates).set_index("name")
    places = coordinates.loc[store.names[test], ["latitude", "longitude"]].to_numpy()
    rows = test[neighbours(places)]
    images, truth = store.images[rows.ravel()], store.labels[rows]
    size = model.encoder.image_size
    alone = embed(model, images, size, pick()).argmax(1).reshape(SIDE, SIDE)
    made = []
    with tempfile.TemporaryDirectory() as folder:
        mosaic = Path(folder) / "mosaic.tif"
        images = images.reshape(SIDE, SIDE, *images.shape[1:])
        write_mosaic(mosaic, images, thresholds.metadata["stretch"])
        for stride in (tile, tile // 2):
            out = Path(folder) / str(stride)
            summary = map_scene(mosaic, args.checkpoint, out, thresholds, stride=stride)
            made.append(compare(out, summary, alone, truth))
            print(made[-1])
    out = Path(__file__).with_name("results") / "map_mosaic.csv"
    pd.DataFrame(made).to_csv(out, index=False)
    print(out)


if __name__ == "__main__":
    main()
