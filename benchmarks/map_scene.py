"""How fast is a scene mapped, and in how much memory? Made scenes of growing size, a process each.

    python benchmarks/map_scene.py MODEL.pth THRESHOLDS.npz [--sizes 2745 10980] [--stride 64]

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
from rasterio.windows import Window

from src.data.demo import write_scene
from src.map import Thresholds, map_scene

COLUMNS = ("tile", "stride", "score", "tiles", "seconds", "pixels_per_s")
PERIOD, STRIP = 550, 500  # pixels: width of what is repeated, height of what is repeated
PROFILE = {
    "driver": "GTiff",
    "dtype": "uint16",
    "count": 3,
    "tiled": True,
    "compress": "deflate",
    "crs": "EPSG:32633",
    "transform": from_origin(300_000, 5_300_000, 10, 10),
}


def write_repeated(path: Path, size: int) -> None:
    """Red, green and blue of the demo's scene side by side until (size, size) is full."""
    write_scene(path.parent / "square", np.random.default_rng(0))
    files = [path.parent / f"square/{band}.tif" for band in ("B04", "B03", "B02")]
    square = np.stack([rasterio.open(file).read(1)[:, :PERIOD] for file in files])
    strip = np.tile(square, (1, 1, -(-size // PERIOD)))[..., :size]
    with rasterio.open(path, "w", width=size, height=size, **PROFILE) as file:
        for top in range(0, size, STRIP):
            rows = min(STRIP, size - top)
            file.write(strip[:, :rows], window=Window(0, top, size, rows))


def measure(checkpoint: str, thresholds: str, size: int, stride: int, results) -> None:
    warnings.simplefilter("ignore")
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / f"{size}.tif", Path(folder) / "out"
        maker = context.Process(target=write_repeated, args=(path, size))
        maker.start()  # in a process of its own, so that its memory is not counted
        maker.join()
        known = Thresholds.load(thresholds, checkpoint)
        summary = map_scene(path, checkpoint, out, known, stride=stride)
        written = sum(file.stat().st_size for file in out.glob("*.tif"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2  # Linux counts in KiB
    row = {"size": size} | {name: summary[name] for name in COLUMNS}
    row |= {"peak_memory_GiB": round(peak, 2), "rasters_MB": round(written / 1e6, 1)}
    results.put(row | summary["versions"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    sizes = "pixels; a whole tile is 10980 (default: %(default)s)"
    add("checkpoint")
    add("thresholds")
    add("--sizes", type=int, nargs="+", default=[2745, 10980], help=sizes)
    add("--stride", type=int, default=64, help="pixels (default: %(default)s)")
    args = parser.parse_args()
    context, rows = multiprocessing.get_context("spawn"), []
    for size in args.sizes:
        results = context.Queue()
        inputs = (args.checkpoint, args.thresholds, size, args.stride, results)
        process = context.Process(target=measure, args=inputs)
        process.start()
        rows.append(results.get())
        process.join()
        print(rows[-1])
    out = Path(__file__).with_name("results") / "map_scene.csv"
    pd.DataFrame(rows).to_csv(out, index=False)
    print(out)


if __name__ == "__main__":
    main()
