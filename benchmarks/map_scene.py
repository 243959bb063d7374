"""How fast is a scene mapped, and in how much memory? Made scenes of growing size, a process each.

    python benchmarks/map_scene.py MODEL.pth CALIBRATION.npz [--sizes 2745 10980] [--stride 64]

The scene is the demo's, repeated; only its size matters here. Writes `results/map_scene.csv`.
"""

import argparse
import multiprocessing
import resource
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
from rasterio.transform import from_origin

from src.data.demo import write_scene
from src.map.scene_map import map_scene
from src.map.thresholds import Thresholds

COLUMNS = ("tile", "stride", "score", "tiles", "seconds", "pixels_per_s")


def write_repeated(path: Path, size: int) -> None:
    """Red, green and blue of the demo's scene side by side until (size, size) is full, in
    strips.
    """
    write_scene(path.parent / "square", np.random.default_rng(0))
    layers = [
        rasterio.open(path.parent / f"square/{band}.tif").read(1)[:, :550]
        for band in ("B04", "B03", "B02")
    ]
    strip = np.tile(np.stack(layers), (1, 1, -(-size // 550)))[..., :size]
    profile = {
        "driver": "GTiff",
        "dtype": "uint16",
        "count": 3,
        "height": size,
        "width": size,
        "tiled": True,
        "compress": "deflate",
        "crs": "EPSG:32633",
        "transform": from_origin(300_000, 5_300_000, 10, 10),
    }
    with rasterio.open(path, "w", **profile) as file:
        for top in range(0, size, 500):
            rows = min(500, size - top)
            file.write(strip[:, :rows], window=rasterio.windows.Window(0, top, size, rows))


def measure(checkpoint: str, calibration: str, size: int, stride: int, results) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{size}.tif"
        maker = multiprocessing.get_context("spawn").Process(
            target=write_repeated, args=(path, size)
        )
        maker.start()  # in a process of its own, so that its memory is not counted
        maker.join()
        warnings.simplefilter("ignore")
        known = Thresholds.load(calibration, checkpoint)
        summary = map_scene(path, checkpoint, Path(folder) / "out", known, stride=stride)
        made = sum(file.stat().st_size for file in (Path(folder) / "out").glob("*.tif"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2  # Linux counts in KiB
    row = {
        "size": size,
        **{name: summary[name] for name in COLUMNS},
        "peak_memory_GiB": round(peak, 2),
    }
    results.put(row | {"rasters_MB": round(made / 1e6, 1), **summary["versions"]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("calibration")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[2745, 10980], help="pixels; a whole tile is 10980"
    )
    parser.add_argument("--stride", type=int, default=64)
    args = parser.parse_args()
    context, rows = multiprocessing.get_context("spawn"), []
    for size in args.sizes:
        results = context.Queue()
        process = context.Process(
            target=measure, args=(args.checkpoint, args.calibration, size, args.stride, results)
        )
        process.start()
        rows.append(results.get())
        process.join()
        print(rows[-1])
    out = Path(__file__).with_name("results") / "map_scene.csv"
    pd.DataFrame(rows).to_csv(out, index=False)
    print(out)


if __name__ == "__main__":
    main()
