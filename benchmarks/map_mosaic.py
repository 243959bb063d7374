"""Is a map right where the truth is known? EuroSAT's test images side by side as one scene.

    python benchmarks/map_mosaic.py MODEL.pth CALIBRATION.npz data/stores/eurosat eurosat_latlon.csv

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
from src.data.splits import stratified_split
from src.data.store import PatchStore
from src.map.scene_map import map_scene
from src.map.thresholds import Thresholds
from src.probes import embed
from src.runs.runtime import pick

SIDE = 20  # images


def neighbours(places: np.ndarray) -> np.ndarray:
    """Rows of the SIDE² places (latitude, longitude) closest to one another, (SIDE, SIDE), north up
    and east right.
    """
    distance, rows = BallTree(np.radians(places), metric="haversine").query(
        np.radians(places), k=SIDE**2
    )
    closest = rows[distance[:, -1].argmin()]
    north_first = closest[np.argsort(-places[closest, 0])].reshape(SIDE, SIDE)
    return np.take_along_axis(north_first, places[north_first, 1].argsort(1), 1)


def write_scene(path: Path, images: np.ndarray, stretch: float) -> None:
    """(SIDE, SIDE, H, W, 3) uint8 images as one scene of digital numbers that render to them
    again.
    """
    numbers = np.searchsorted(
        to_uint8(np.arange(65536, dtype=np.uint16), stretch), np.arange(256)
    ).astype(np.uint16)
    scene = numbers[images].transpose(4, 0, 2, 1, 3).reshape(3, SIDE * images.shape[2], -1)
    assert (to_uint8(scene, stretch) == images.transpose(4, 0, 2, 1, 3).reshape(scene.shape)).all()
    profile = {
        "driver": "GTiff",
        "dtype": "uint16",
        "count": 3,
        "height": scene.shape[1],
        "width": scene.shape[2],
        "crs": "EPSG:32633",
        "transform": from_origin(300_000, 5_300_000, 10, 10),
    }
    with rasterio.open(path, "w", **profile) as file:
        file.write(scene)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("checkpoint", "calibration", "store", "coordinates"):
        parser.add_argument(name)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    model, about = load_classifier(args.checkpoint)
    known, store, runtime = (
        Thresholds.load(args.calibration, args.checkpoint),
        PatchStore.open(args.store),
        pick(),
    )
    test = stratified_split(store, about["config"]["seed"]).test
    places = (
        pd.read_csv(args.coordinates)
        .set_index("name")
        .loc[store.names[test], ["latitude", "longitude"]]
    )
    rows = test[neighbours(places.to_numpy())]
    images, truth, tile = store.images[rows.ravel()], store.labels[rows], known.about["tile"]
    alone = embed(model, images, tile, runtime).argmax(1).reshape(SIDE, SIDE)
    made = []
    with tempfile.TemporaryDirectory() as folder:
        write_scene(
            Path(folder) / "mosaic.tif",
            images.reshape(SIDE, SIDE, *images.shape[1:]),
            known.about["stretch"],
        )
        for stride in (tile, tile // 2):
            out = Path(folder) / str(stride)
            summary = map_scene(
                Path(folder) / "mosaic.tif", args.checkpoint, out, known, stride=stride
            )
            classes = rasterio.open(out / "class.tif").read(1).reshape(SIDE, tile, SIDE, tile)
            made.append(
                {
                    "stride": stride,
                    "images": SIDE**2,
                    "pixels_of_the_class_given_alone": (classes == alone[:, None, :, None]).mean(),
                    "accuracy_alone": (alone == truth).mean(),
                    "accuracy_of_pixels": (classes == truth[:, None, :, None]).mean(),
                    "score": summary["score"],
                    "flagged": summary["flagged"],
                    **summary["versions"],
                }
            )
            print(made[-1])
    out = Path(__file__).with_name("results") / "map_mosaic.csv"
    pd.DataFrame(made).to_csv(out, index=False)
    print(out)


if __name__ == "__main__":
    main()
