"""How fast BigEarthNet gets into a store, and a batch out of it, beside the obvious loop and
torchgeo.

`python benchmarks/ingest.py [--torchgeo PYTHON]` writes `results/ingest.json`; minutes. It needs
bigearthnet-common (in the dev extra), whose six real patches are hard-linked under other names to
archives of 2,000 and 20,000 patches. All files are therefore in memory: what is compared is the
work of reading, not the disk. torchgeo (the bench extra) may live in another environment, whose
Python is then given.
"""

import argparse
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

from src.data.bands import ALL_BANDS, RGB
from src.data.bigearthnet import bigearthnet_store  # noqa: E402
from src.data.bigearthnet.patch import read_rgb  # noqa: E402
from src.data.bigearthnet.selection import OFFICIAL
from src.data.store import PatchStore  # noqa: E402

LIST = "bigearthnet-train.csv"  # the name torchgeo wants


def make_archive(root: Path, count: int) -> Path:
    """`count` patch folders in v1's layout, all thirteen files each, and the lists that torchgeo
    wants.
    """
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


def rasterio_patch(folder: Path, bands=RGB) -> np.ndarray:
    layers = []
    for band in bands:
        with rasterio.open(folder / f"{folder.name}_{band}.tif") as file:
            layers.append(file.read(1, out_shape=(120, 120)))
    image = np.stack(layers, -1)
    return image if len(bands) > 3 else (image / 2750 * 255).clip(0, 255).astype(np.uint8)


def the_loop(root: Path, out: Path, bands: str) -> PatchStore:
    """What one writes first: one patch after another, one band after another."""
    folders = sorted(root.iterdir())
    wanted = RGB if bands == "rgb" else ALL_BANDS
    return PatchStore.write(
        out, ((folder.name, None, rasterio_patch(folder, wanted)) for folder in folders), {}
    )


def torchgeo_loader(root: Path, workers: int) -> int:
    """Every patch once through torchgeo's BigEarthNet (twelve bands and labels, as it reads them)
    and a DataLoader.
    """
    from torch.utils.data import DataLoader
    from torchgeo.datasets import BigEarthNet

    loader = DataLoader(
        BigEarthNet(root.parent, "train", bands="s2"), batch_size=64, num_workers=workers
    )
    return sum(len(batch["image"]) for batch in loader)


def run(task: str, *args: str | Path, python: str = sys.executable) -> dict[str, float]:
    """Run one of the tasks below in a process of its own: seconds by its own clock, peak memory
    with its children.
    """
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


def task(name: str, args: list[str]) -> None:
    root, started = Path(args[0]), time.perf_counter()
    if name == "ours":
        store = bigearthnet_store(root, args[1], *args[4:], bands=args[2], workers=int(args[3]))
        done, checksum = len(store), store.meta["sha256"]
    elif name == "loop":
        store = the_loop(root, Path(args[1]), args[2])
        done, checksum = len(store), store.meta["sha256"]
    else:
        done, checksum = torchgeo_loader(root, int(args[1])), None
    seconds = time.perf_counter() - started
    print(
        json.dumps(
            {
                "patches_per_s": round(done / seconds, 1),
                "seconds": round(seconds, 2),
                "sha256": checksum,
            }
        )
    )


def median(runs: list[dict]) -> dict:
    rates = [run["patches_per_s"] for run in runs]
    return {
        "patches_per_s": statistics.median(rates),
        "patches_per_s_all": rates,
        "peak_mb": statistics.median(run["peak_mb"] for run in runs),
    }


def batches(store: PatchStore, root: Path, repeats: int) -> dict[str, float]:
    """Milliseconds to get 256 random patches, from the store and from GeoTIFFs, taking turns."""
    rng, times = np.random.default_rng(0), {"store": [], "rasterio": [], "our GeoTIFF reader": []}
    for _ in range(repeats):
        rows = rng.choice(len(store), 256, replace=False)
        folders = [root / name for name in store.names[rows]]
        for name in times:
            started = time.perf_counter()
            if name == "store":
                images = np.asarray(store.images[rows])
            else:
                images = np.stack(
                    [
                        (rasterio_patch if name == "rasterio" else read_rgb)(folder)
                        for folder in folders
                    ]
                )
            times[name].append(1000 * (time.perf_counter() - started))
            assert images.shape == (256, 120, 120, 3)
    return {name: round(statistics.median(values), 2) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", type=int, default=2000)
    parser.add_argument("--large", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument(
        "--torchgeo", default=sys.executable, help="Python of the environment that has torchgeo"
    )
    parser.add_argument("--out", default=ROOT / "benchmarks/results/ingest.json")
    parser.add_argument("--task", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        task(args.task[0], args.task[1:])
        return
    has_torchgeo = subprocess.run(
        [args.torchgeo, "-c", "import torchgeo"], capture_output=True, check=False
    )
    load = os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="ingest-") as folder:
        work = Path(folder)
        small, large = (
            make_archive(work / size, getattr(args, size)) for size in ("small", "large")
        )
        runs: dict[str, list[dict]] = {}
        few, many = f"{args.small:,}", f"{args.large:,}"
        for _ in range(args.repeats):  # all take turns, so that a busy minute hits all
            for name, kind, root, *rest in (
                ("loop, rgb", "loop", small, "rgb"),
                ("loop, all", "loop", small, "all"),
                (f"ours, rgb, {few}", "ours", small, "rgb", args.workers),
                (f"ours, rgb, {many}", "ours", large, "rgb", args.workers),
                (f"ours, rgb, {many}, one process", "ours", large, "rgb", 1),
                (f"ours, all, {many}", "ours", large, "all", args.workers),
                ("torchgeo DataLoader, all and labels", "torchgeo", small, args.workers),
            ):
                if kind == "torchgeo":
                    if has_torchgeo.returncode == 0:
                        runs.setdefault(name, []).append(
                            run(kind, root, *rest, python=args.torchgeo)
                        )
                    continue
                out = work / "stores" / name
                shutil.rmtree(out, ignore_errors=True)
                runs.setdefault(name, []).append(run(kind, root, out, *rest))
                print(name, runs[name][-1], flush=True)
        same = {runs[name][0]["sha256"] for name in ("loop, rgb", f"ours, rgb, {few}")}
        assert len(same) == 1, "the loop and we do not read the same pixels"
        with tarfile.open(work / "v1.tar.gz", "w:gz", compresslevel=1, dereference=True) as tar:
            tar.add(small, small.name)
        runs[f"ours, rgb, {few} from .tar.gz"] = [
            run(
                "ours",
                work / "v1.tar.gz",
                work / f"stores/tar{n}",
                "rgb",
                args.workers,
                small.parent / LIST,
            )
            for n in range(args.repeats)
        ]
        store = PatchStore.open(work / f"stores/ours, rgb, {many}")
        batch = batches(store, large, 11)
        size = sum(file.stat().st_size for file in store.path.iterdir())
    rate = median(runs[f"ours, rgb, {many}"])["patches_per_s"]
    total = OFFICIAL["v1"][None]
    result = {
        "patches": {"small": args.small, "large": args.large},
        "runs": {name: median(some) for name, some in runs.items()},
        "times the loop, rgb": round(rate / median(runs["loop, rgb"])["patches_per_s"], 2),
        "times the loop, all": round(
            median(runs[f"ours, all, {many}"])["patches_per_s"]
            / median(runs["loop, all"])["patches_per_s"],
            2,
        ),
        f"peak memory, {many} over {few}": round(
            median(runs[f"ours, rgb, {many}"])["peak_mb"]
            / median(runs[f"ours, rgb, {few}"])["peak_mb"],
            3,
        ),
        "store bytes, large": size,
        "ms for a batch of 256": batch,
        "store over rasterio, batch": round(batch["rasterio"] / batch["store"], 1),
        "projected": (
            f"{total:,} patches / {rate:,.0f} patches/s = {total / rate / 60:.1f} min, files in"
            f" memory; store {total * 43200 / 1e9:.2f} GB"
        ),
        "torchgeo": "compared" if has_torchgeo.returncode == 0 else "not installed: left out",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "workers": args.workers,
        "load before": [round(x, 2) for x in load],
        "load after": [round(x, 2) for x in os.getloadavg()],
        "versions": (
            {name: importlib.metadata.version(name) for name in ("numpy", "rasterio", "pandas")}
            | {"python": platform.python_version()}
        ),
        "date": date.today().isoformat(),
        "commit": (
            subprocess.run(
                ["git", "describe", "--always", "--dirty"],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            ).stdout.strip()
        ),
    }
    if has_torchgeo.returncode == 0:
        code = "import importlib.metadata as m; print(m.version('torchgeo'))"
        version = subprocess.run(
            [args.torchgeo, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        result["versions"]["torchgeo"] = version
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


if __name__ == "__main__":
    main()
