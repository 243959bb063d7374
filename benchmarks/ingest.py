"""How fast BigEarthNet gets into a store, and a batch out of it, beside a loop and torchgeo.

`python benchmarks/ingest.py [--torchgeo PYTHON]` writes `results/ingest.json`; minutes. It needs
bigearthnet-common (in the dev extra), whose six real patches are hard-linked under other names to
archives of 2,000 and 20,000 patches. All files are therefore in memory: what is compared is the
work of reading, not the disk. torchgeo (the bench extra) may live in another environment, whose
Python is then given.
"""

import argparse
import functools
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import rasterio

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from src.data.bands import ALL_BANDS, EUROSAT_STRETCH, RGB
from src.data.bigearthnet import Selection, bigearthnet_store
from src.data.bigearthnet.patch import SIZE, read_patch
from src.data.bigearthnet.selection import OFFICIAL
from src.data.store import PatchStore

LIST = "bigearthnet-train.csv"  # the name torchgeo wants


def make_archive(root: Path, count: int) -> Path:
    """`count` patch folders in v1's layout, thirteen files each, and the lists torchgeo wants."""
    package = Path(importlib.util.find_spec("bigearthnet_common").origin)
    with tarfile.open(package.with_name("BigEarthNet-S2-Example.tar.bz2")) as tar:
        tar.extractall(root / "real", filter="data")
    sources = sorted((root / "real/BigEarthNet-S2-Example").iterdir())
    names = [f"S2A_MSIL2A_20170613T101031_{n // 100}_{n % 100}" for n in range(count)]
    for n, name in enumerate(names):
        folder, source = root / "BigEarthNet-v1.0" / name, sources[n % len(sources)]
        folder.mkdir(parents=True)
        for file in source.iterdir():
            os.link(file, folder / file.name.replace(source.name, name))
    for split in ("train", "val", "test"):
        (root / f"bigearthnet-{split}.csv").write_text("".join(f"{name},S1\n" for name in names))
    return root / "BigEarthNet-v1.0"


def rasterio_patch(folder: Path, bands: tuple[str, ...] = RGB) -> np.ndarray:
    layers = []
    for band in bands:
        with rasterio.open(folder / f"{folder.name}_{band}.tif") as file:
            layers.append(file.read(1, out_shape=(SIZE, SIZE)))
    image = np.stack(layers, -1)
    return image if bands != RGB else (image / 2750 * 255).clip(0, 255).astype(np.uint8)


def our_patch(folder: Path) -> np.ndarray:
    return read_patch(folder, None, RGB, EUROSAT_STRETCH)


def the_loop(root: Path, out: Path, bands: str) -> PatchStore:
    """What one writes first: one patch after another, one band after another."""
    wanted = RGB if bands == "rgb" else ALL_BANDS
    folders = sorted(root.iterdir())
    patches = ((folder.name, None, rasterio_patch(folder, wanted)) for folder in folders)
    return PatchStore.write(out, patches, {})


def torchgeo_loader(root: Path, workers: int) -> int:
    """Every patch once through torchgeo's BigEarthNet (twelve bands, labels) and a DataLoader."""
    from torch.utils.data import DataLoader
    from torchgeo.datasets import BigEarthNet

    dataset = BigEarthNet(root.parent, "train", bands="s2")
    loader = DataLoader(dataset, batch_size=64, num_workers=workers)
    return sum(len(batch["image"]) for batch in loader)


def run(task: str, *args: str | Path, python: str = sys.executable) -> dict[str, float]:
    """Run a task in a process of its own: what it says, and its peak memory with its children."""
    process = subprocess.Popen(
        [python, __file__, "--task", task, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(_memory(pid) for pid in _family(process.pid)))
        time.sleep(0.02)
    out, error = process.communicate()
    if process.returncode:
        raise SystemExit(f"{task} {args} failed:\n{error}")
    return {**json.loads(out.splitlines()[-1]), "peak_mb": round(peak / 1e6, 1)}


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has just ended
        return []
    return [pid, *(member for child in children for member in _family(int(child)))]


def _memory(pid: int) -> int:
    """Bytes, those shared with other processes in equal parts (PSS)."""
    try:
        return 1024 * int(Path(f"/proc/{pid}/smaps_rollup").read_text().split("Pss:")[1].split()[0])
    except (OSError, IndexError):  # it has just ended
        return 0


def task(name: str, root: Path, *args: str) -> dict[str, float]:
    """One of the things that are compared; patches a second by its own clock, without imports."""
    started, store = time.perf_counter(), None
    if name == "ours":
        out, bands, workers, *split = args
        store = bigearthnet_store(root, out, Selection(*split), bands=bands, workers=int(workers))
    elif name == "loop":
        store = the_loop(root, Path(args[0]), args[1])
    count = len(store) if store else torchgeo_loader(root, int(args[0]))
    seconds = time.perf_counter() - started
    return {
        "patches_per_s": round(count / seconds, 1),
        "seconds": round(seconds, 2),
        "sha256": store and store.meta["sha256"],
    }


def median(runs: list[dict]) -> dict:
    rates = [run["patches_per_s"] for run in runs]
    return {
        "patches_per_s": statistics.median(rates),
        "patches_per_s_all": rates,
        "peak_mb": statistics.median(run["peak_mb"] for run in runs),
    }


def batches(store: PatchStore, root: Path, repeats: int = 11) -> dict[str, float]:
    """Milliseconds to get 256 random patches, from the store and from GeoTIFFs, taking turns."""
    ways = {
        "store": lambda rows: store.images[rows],
        "rasterio": lambda rows: [rasterio_patch(root / name) for name in store.names[rows]],
        "our GeoTIFF reader": lambda rows: [our_patch(root / name) for name in store.names[rows]],
    }
    rng, times = np.random.default_rng(0), {name: [] for name in ways}
    for _ in range(repeats):
        rows = rng.choice(len(store), 256, replace=False)
        for name, read in ways.items():
            started = time.perf_counter()
            images = np.asarray(read(rows))
            times[name].append(1000 * (time.perf_counter() - started))
            assert images.shape == (256, SIZE, SIZE, 3)
    return {name: round(statistics.median(values), 2) for name, values in times.items()}


def ingestions(work: Path, small: Path, large: Path, args: argparse.Namespace) -> dict[str, list]:
    """Every way to read the patches, as often as told, taking turns: a busy minute hits all."""
    few, many, cores = f"{args.small:,}", f"{args.large:,}", args.workers
    ways = {
        "loop, rgb": ("loop", small, "rgb"),
        "loop, all": ("loop", small, "all"),
        f"ours, rgb, {few}": ("ours", small, "rgb", cores),
        f"ours, rgb, {many}": ("ours", large, "rgb", cores),
        f"ours, rgb, {many}, one process": ("ours", large, "rgb", 1),
        f"ours, all, {many}": ("ours", large, "all", cores),
    }
    runs: dict[str, list[dict]] = {}
    for _ in range(args.repeats):
        for name, (kind, root, *rest) in ways.items():
            out = work / "stores" / name
            shutil.rmtree(out, ignore_errors=True)
            runs.setdefault(name, []).append(run(kind, root, out, *rest))
            print(name, runs[name][-1], flush=True)
        if torchgeo_version(args.torchgeo):
            theirs = run("torchgeo", small, cores, python=args.torchgeo)
            runs.setdefault("torchgeo DataLoader, all and labels", []).append(theirs)
    same = {runs[name][0]["sha256"] for name in ("loop, rgb", f"ours, rgb, {few}")}
    assert len(same) == 1, "the loop and we do not read the same pixels"
    archive, split = work / "v1.tar.gz", small.parent / LIST
    with tarfile.open(archive, "w:gz", compresslevel=1, dereference=True) as tar:
        tar.add(small, small.name)
    runs[f"ours, rgb, {few} from .tar.gz"] = [
        run("ours", archive, work / f"stores/tar{n}", "rgb", cores, split)
        for n in range(args.repeats)
    ]
    return runs


def measure(args: argparse.Namespace) -> dict:
    few, many, total = f"{args.small:,}", f"{args.large:,}", OFFICIAL["v1"][None]
    with tempfile.TemporaryDirectory(prefix="ingest-") as folder:
        work = Path(folder)
        small = make_archive(work / "small", args.small)
        large = make_archive(work / "large", args.large)
        runs = ingestions(work, small, large, args)
        store = PatchStore.open(work / f"stores/ours, rgb, {many}")
        batch = batches(store, large)
        size = sum(file.stat().st_size for file in store.path.iterdir())
    runs = {name: median(some) for name, some in runs.items()}

    def ratio(what: str, ours: str, theirs: str) -> float:
        return runs[ours][what] / runs[theirs][what]

    rgb, rate = f"ours, rgb, {many}", runs[f"ours, rgb, {many}"]["patches_per_s"]
    every, memory = f"ours, all, {many}", f"peak memory, {many} over {few}"
    return {
        "patches": {"small": args.small, "large": args.large},
        "runs": runs,
        "times the loop, rgb": round(ratio("patches_per_s", rgb, "loop, rgb"), 2),
        "times the loop, all": round(ratio("patches_per_s", every, "loop, all"), 2),
        memory: round(ratio("peak_mb", rgb, f"ours, rgb, {few}"), 3),
        "store bytes, large": size,
        "ms for a batch of 256": batch,
        "store over rasterio, batch": round(batch["rasterio"] / batch["store"], 1),
        "projected": (
            f"{total:,} patches / {rate:,.0f} patches/s = {total / rate / 60:.1f} min, files in"
            f" memory; store {total * 43200 / 1e9:.2f} GB"
        ),
    }


def environment(args: argparse.Namespace, load: tuple[float, ...]) -> dict:
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "rasterio", "pandas")}
    versions["python"] = platform.python_version()
    if torchgeo := torchgeo_version(args.torchgeo):
        versions["torchgeo"] = torchgeo
    return {
        "torchgeo": "compared" if torchgeo else "not installed: left out",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "workers": args.workers,
        "load before": [round(x, 2) for x in load],
        "load after": [round(x, 2) for x in os.getloadavg()],
        "versions": versions,
        "date": date.today().isoformat(),
        "commit": _output("git", "describe", "--always", "--dirty"),
    }


@functools.cache
def torchgeo_version(python: str) -> str:
    """Of the environment of that Python; "": it has none."""
    return _output(python, "-c", "import torchgeo; print(torchgeo.__version__)")


def _output(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--small", type=int, default=2000, help="patches, for the slow ways")
    parser.add_argument("--large", type=int, default=20_000, help="patches, for ours")
    parser.add_argument("--repeats", type=int, default=3, help="of everything")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument(
        "--torchgeo", default=sys.executable, help="Python of the environment that has torchgeo"
    )
    out = ROOT / "benchmarks/results/ingest.json"
    parser.add_argument("--out", type=Path, default=out, help="where the result goes")
    parser.add_argument("--task", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        name, root, *rest = args.task
        print(json.dumps(task(name, Path(root), *rest)))
        return
    load = os.getloadavg()
    result = {**measure(args), **environment(args, load)}
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
