"""How fast, against whom, and against what the hardware allows: one table a question.

`make bench`, or `python benchmarks/speed.py [--device cuda] [--small] [--only loss …]`; writes
results/<device>.json, and the tables of benchmarks/README.md. Every row is measured in turn with
the others, three times over.
"""

import argparse
import itertools
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import estimate, launches, peers, training
from benchmarks.exact_colours import ExactColours
from benchmarks.timing import by_turns, rows, write
from src import figures
from src.augmentations import SimCLRAugmentation
from src.augmentations.evaluation_transform import prepare
from src.augmentations.resampling import to_unit
from src.encoders import ENCODERS, Classifier, build_encoder
from src.losses import nt_xent
from src.ood import mc_dropout
from src.pretrain import PretrainConfig
from src.probes import embed
from src.runs.runtime import Runtime, generator, pick, record

LIMIT = 4e9  # bytes: a peer that needs more for one call is left out, and the table says so
FULL = {
    "seconds": 3.0,
    "pairs": (64, 256, 1024, 4096),
    "mc_images": 32,
    "mc_samples": 50,
    "umap": (5000, 2048),
    "encoders": ENCODERS,
    "images": {"custom_cnn": 256, "resnet50": 256, "vit_b_16": 128},
    "batch": 64,
    "batches": (64, 256, 1024),  # on a GPU, and counted
    "steps": 9,
}
SMALL = FULL | {
    "seconds": 0.3,
    "pairs": (64, 256),
    "mc_images": 4,
    "mc_samples": 10,
    "umap": (300, 64),
    "encoders": ("custom_cnn",),
    "images": {"custom_cnn": 64},
    "batch": 16,
    "batches": (64,),
    "steps": 3,
}


def patches(count: int, size: int = 120) -> np.ndarray:
    """Made patches, (count, size, size, 3) uint8, smooth as land is: the work does not depend on
    what they show.
    """
    coarse = torch.rand(count, 3, 15, 15, generator=generator(0))
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    return (255 * smooth).byte().permute(0, 2, 3, 1).contiguous().numpy()


def present(candidates: dict[str, Callable[[], Callable]]) -> tuple[dict[str, Callable], list[str]]:
    """Build each; those whose library is missing become a note under the table."""
    there, notes = {}, []
    for name, build in candidates.items():
        try:
            there[name] = build()
        except ImportError as error:
            notes.append(
                f"{name}: not measured, {error.name} is not installed (`pip install -e"
                " '.[bench]'`)."
            )
    return there, notes


def augmentation(size: dict, runtime: Runtime) -> dict:
    images, device, threads = patches(64), runtime.device, torch.get_num_threads()
    there, rng = torch.as_tensor(images).to(device).permute(0, 3, 1, 2), generator(0)
    pils, pil = [peers.Image.fromarray(image) for image in images], peers.pil_transform()

    def kornia(antialias: bool) -> Callable:
        views = peers.kornia_views(antialias).to(device)
        return lambda: views(to_unit(there).contiguous())

    def ours(augment: SimCLRAugmentation) -> Callable:
        return lambda: augment(there, rng)

    compiled = SimCLRAugmentation(compile=True)
    candidates, notes = present(
        {
            "ours": lambda: ours(SimCLRAugmentation()),
            "ours, exact colours": lambda: ours(ExactColours()),
            **({"ours, compile=True": lambda: ours(compiled)} if device.type == "cuda" else {}),
            "kornia": lambda: kornia(False),
            "kornia, its crop antialiased": lambda: kornia(True),
            "torchvision on PIL (CPU)": lambda: lambda: [pil(image) for image in pils],
        }
    )
    torch.set_num_threads(1)  # what one core does, as a DataLoader worker has one
    medians = by_turns(candidates, device, size["seconds"])
    torch.set_num_threads(threads)
    notes.append(
        "Ours and PIL's crops are antialiased; kornia's is not, but the function behind it can be"
        " asked to."
    )
    change = difference(there)
    notes.append(
        f"Fused and exact colours differ by {change['mean']:.2f} grey levels of 255 on average and"
        f" {change['max']:.0f} at most, by more than half a level in {change['share']:.1%} of the"
        " values (these patches, not normalised)."
    )
    how = (
        "64 uint8 patches of 120 px to 64 px views, the study's recipe, one CPU core (or the GPU)."
    )
    return {"how": how, "rows": rows(medians, "ours", "views/s", lambda s: 64 / s), "notes": notes}


def difference(images: Tensor) -> dict[str, float]:
    """What the missing clamps of the fused colours change: the same views both ways, grey
    levels.
    """
    plain = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    fused, exact = (
        kind(**plain)(images, generator(1)) for kind in (SimCLRAugmentation, ExactColours)
    )
    gap = 255 * (fused - exact).abs()
    return {
        "mean": gap.mean().item(),
        "max": gap.max().item(),
        "share": (gap > 0.5).float().mean().item(),
    }


def loss(size: dict, runtime: Runtime) -> dict:
    table, notes, device = [], [], runtime.device
    for n in size["pairs"]:
        z = torch.randn(2, n, 128, generator=generator(n)).to(device).requires_grad_()
        needs = {
            "the study's, by rows": 4 * 3 * (2 * n) ** 2 * 128,
            "pytorch-metric-learning": 4 * 3 * (2 * n) ** 3,
        }
        builders = {
            "ours": lambda: nt_xent,
            "the study's, by rows": lambda: peers.study_loss,
            "lightly": peers.lightly_loss,
            "pytorch-metric-learning": peers.metric_learning_loss,
        }
        for name in [name for name, needed in needs.items() if needed > LIMIT]:
            notes.append(
                f"{name}, N = {n:,}: not measured, it would take about {needs[name] / 1e9:,.0f} GB."
            )
            del builders[name]
        losses, missing = present(builders)
        notes += [note for note in missing if note not in notes]
        calls = {
            name: lambda f=f, z=z: torch.autograd.grad(f(z[0], z[1]), z)
            for name, f in losses.items()
        }
        medians = by_turns(calls, device, size["seconds"])
        made = rows(medians, "ours", "ms", lambda s: 1000 * s)
        kept = {name: saved_bytes(f, z) / 1e6 for name, f in losses.items()}
        table += [
            {**row, "what": f"N = {n:,}: {row['what']}", "kept for backward, MB": kept[row["what"]]}
            for row in made
        ]
    wide = (
        torch.randn(2, size["pairs"][1], 1024, generator=generator(0), device="cpu")
        .to(device)
        .requires_grad_()
    )
    narrow = wide[..., :128].detach().requires_grad_()
    notes.append(
        f"Ours keeps {saved_bytes(nt_xent, narrow) / 1e6:.2f} MB at N = {size['pairs'][1]} and D ="
        f" 128, {saved_bytes(nt_xent, wide) / 1e6:.2f} MB at D = 1,024: embeddings grow with D, the"
        " (2N)² matrix does not."
    )
    return {
        "how": "Forward and backward of NT-Xent on N pairs, D = 128, float32.",
        "rows": table,
        "notes": notes,
    }


def saved_bytes(function: Callable, z: Tensor) -> int:
    """Bytes autograd keeps for the backward pass, each storage counted once."""
    storages = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = function(z[0], z[1])
    return sum(storages.values()) if kept is not None else 0


def dropout(size: dict, runtime: Runtime) -> dict:
    table, samples = [], size["mc_samples"]
    images = patches(size["mc_images"], 64)
    for name in size["encoders"]:
        model = Classifier(build_encoder(name), 10).to(
            runtime.device, memory_format=torch.channels_last
        )
        batch = prepare(images, 64, runtime.device)

        def naive(model=model, batch=batch) -> Tensor:
            with runtime.autocast():
                return peers.naive_mc_dropout(model, batch, samples).cpu()

        medians = by_turns(
            {
                "one forward pass": lambda model=model: embed(model, images, 64, runtime),
                f"mc_dropout, T = {samples}": lambda model=model: mc_dropout(
                    model, images, samples, runtime=runtime
                ),
            },
            runtime.device,
            size["seconds"],
        )
        medians |= by_turns(
            {f"{samples} forward passes": naive}, runtime.device, 0
        )  # far slower: by itself
        one = np.median(medians["one forward pass"])
        table += [
            {
                "what": f"{name}: {what}",
                "ms": 1000 * float(np.median(some)),
                "spread": float(np.ptp(some) / np.median(some)),
                "times one forward pass": float(np.median(some) / one),
            }
            for what, some in medians.items()
        ]
    how = (
        f"{len(images)} images of 64 px. The naive loop is timed after the other two, three times."
    )
    return {"how": how, "rows": table, "notes": []}


def look(size: dict, runtime: Runtime) -> dict:
    count, width = size["umap"]
    features = {"a": np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)}
    labels = {"a": np.zeros(count, int)}
    figures.project({"a": features["a"][:200]}, labels)  # compiles
    umap = by_turns(
        {"umap": lambda: figures.project(features, labels, limit=count)}, torch.device("cpu"), 0.1
    )["umap"]
    code = """
import importlib, pkgutil, time, torch
start = time.perf_counter()
import src
last = "src.encoders.timm_based"
for name in (module.name for module in pkgutil.walk_packages(src.__path__, "src.")):
    if name != last:
        importlib.import_module(name)
ours = time.perf_counter()
importlib.import_module(last)
print(ours - start, time.perf_counter() - ours)
"""
    ours, timm = zip(
        *(
            map(float, subprocess.check_output([sys.executable, "-c", code], cwd=ROOT).split())
            for _ in range(3)
        ),
        strict=True,
    )
    made = {
        f"UMAP of {count:,} × {width:,} features": umap,
        "import of every src module but the next, torch being there": ours,
        "import of timm_based after these: only where ResNet-50 or ViT-B/16 is built": timm,
    }
    table = [
        {"what": what, "s": float(np.median(some)), "spread": float(np.ptp(some) / np.median(some))}
        for what, some in made.items()
    ]
    return {
        "how": "After one warm-up projection; imports each in a process of its own.",
        "rows": table,
        "notes": [],
    }


def end_to_end(name: str, size: dict, runtime: Runtime) -> dict:
    cuda, rows, notes = runtime.device.type == "cuda", [], []
    # on a CPU an epoch is a few steps; on a GPU it would be over before it has begun
    count = 20_480 if cuda else size["images"][name]
    images = np.resize(patches(min(count, 256)), (count, 120, 120, 3))
    ways = {"compiled": True, "eager": False} if runtime.compile else {"eager": False}
    batches = size["batches"] if cuda else (size["batch"],)
    for batch, (way, compile) in itertools.product(batches, ways.items()):
        what = f"{name}, batch {batch}, {way}"
        if time.perf_counter() > size.get("deadline", math.inf):
            notes.append(f"{what}: not measured, the time was over.")
            continue
        config = PretrainConfig(encoder=name, batch_size=batch)
        how = replace(runtime, compile=compile)
        steps = 300 if cuda else size["steps"]
        rows.append({"what": what} | training.end_to_end(images, config, how, steps))
    how = (
        "Network alone: forward, loss, backward and fused Adam on one fixed batch that is already"
        " on the device, step after step without waiting, compiled where ours is. pretrain:"
        " `src.pretrain.pretrain` itself, the epochs behind the first, checkpoints not counted."
    )
    return {"how": how, "rows": rows, "notes": notes}


def counted(size: dict, runtime: Runtime) -> dict:
    rows = launches.table(size["encoders"], size["batches"])
    how = (
        "Counted on tensors without numbers that say they are on a GPU, not timed on one: an"
        " operation is one launch; not compiled. Before: two calls a step for views. Host: a step's"
        " views of one image of 8 px, which leaves nothing to compute, on one core here. The last"
        " columns: views/s if each launch takes 5 µs of the host and nothing else counts."
    )
    return {"how": how, "rows": rows, "notes": []}


def memory(size: dict, runtime: Runtime) -> dict:
    rows = launches.memory_table(size["encoders"], size["batches"])
    how = (
        "GB of a pretraining step in bfloat16, counted on the same tensors: weights, gradients,"
        " Adam's moments and what forward keeps for backward. Not counted: images, the making of"
        " views (at most about 2 GB), cuDNN's workspace, CUDA's own half gigabyte."
    )
    return {"how": how, "rows": rows, "notes": []}


def waterfall(size: dict, runtime: Runtime) -> dict:
    images, batch = patches(size["images"]["custom_cnn"]), size["batch"]
    workers = os.cpu_count() or 1
    steps = training.waterfall_steps(images, batch, runtime, workers)
    medians = by_turns(steps, runtime.device, 4 * size["seconds"])
    first = np.median(next(iter(medians.values())))
    table = [
        {
            "what": name,
            "views/s": 2 * batch / float(np.median(some)),
            "spread": float(np.ptp(some) / np.median(some)),
            "faster than published by": float(first / np.median(some)),
        }
        for name, some in medians.items()
    ]
    how = (
        f"A step of the Custom CNN, batch {batch}; each row keeps the changes above it; {workers}"
        " workers in row 1, "
    )
    how += "which fill their queue again while the next row runs."
    notes = (
        []
        if runtime.device.type == "cuda"
        else ["torch.compile and CUDA graphs: on a GPU only, not measured."]
    )
    return {"how": how, "rows": table, "notes": notes}


def arithmetic(size: dict, runtime: Runtime) -> dict:
    how = (
        "Counted, not timed: operations by torch's counter (forward and backward at 64 px), bytes"
        " as outputs of all layers in bfloat16 written and read once each way; peaks from the"
        " makers' data sheets (989 TFLOP/s and 3.35 TB/s, 71 TFLOP/s and 0.94 TB/s, dense"
        f" bfloat16). That {estimate.REACHED:.0%} of the peak is reached is a guess."
    )
    table = estimate.table(size["encoders"])
    need = 45_000 * table[0]["GFLOP/view"] / 1000
    note = (
        f"The study's 161.8 M views in an hour are 45,000 views/s: for the Custom CNN {need:,.0f}"
        f" TFLOP/s, {need / 989:.0%} of an H100's peak, and {45e-3 * table[0]['MB/view']:.2f} TB/s,"
        f" {45e-3 * table[0]['MB/view'] / 3.35:.0%} of its bandwidth."
    )
    return {"how": how, "rows": table, "notes": [note]}


# the most wanted first: each is written when it is made
TABLES = {
    **{
        f"train_{e}": (f"Training against the network alone: {e}", partial(end_to_end, e))
        for e in ENCODERS
    },
    "augmentation": ("Views, one core", augmentation),
    "dropout": ("MC Dropout", dropout),
    "loss": ("Loss", loss),
    "waterfall": ("From the published pipeline to ours, one change a row", waterfall),
    "launches": ("Launches, counted", counted),
    "memory": ("A GPU's memory, counted", memory),
    "arithmetic": ("What arithmetic allows", arithmetic),
    "look": ("Pictures and imports", look),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument(
        "--small",
        action="store_true",
        help="a minute on a CPU, to see that it runs: writes no README",
    )
    parser.add_argument(
        "--only", nargs="+", choices=TABLES, default=list(TABLES), help="tables to make anew"
    )
    parser.add_argument("--minutes", type=float, help="begin nothing later than that (on a GPU: 7)")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks/results", help="folder for <device>.json"
    )
    args = parser.parse_args()
    try:
        runtime = pick(args.device, args.precision)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    started, size = time.perf_counter(), SMALL if args.small else FULL
    if runtime.device.type == "cuda":
        args.minutes = args.minutes or 7
    deadline = started + 60 * args.minutes if args.minutes else math.inf
    path = args.out / f"{runtime.device.type}{'-small' if args.small else ''}.json"
    readme = None if args.small else ROOT / "benchmarks/README.md"
    for name in args.only:
        if name.startswith("train_") and name.removeprefix("train_") not in size["encoders"]:
            continue
        title = TABLES[name][0]
        if time.perf_counter() > deadline:
            print(f"{title}: left out, {args.minutes:g} minutes are over (--only {name})")
            continue
        about = record(runtime)
        table = timed(name, size | {"deadline": deadline}, runtime) | {"about": about}
        write({title: table}, path, readme)
        title += f": {time.perf_counter() - started:.0f} s so far"
        print(title, *table["rows"], *table["notes"], sep="\n  ", flush=True)
    print(path)


def timed(name: str, size: dict, runtime: Runtime) -> dict:
    """A table, and the seconds it took; empty, with a note, where a library is missing."""
    began, make = time.perf_counter(), TABLES[name][1]
    try:
        table = make(size, runtime)
    except ModuleNotFoundError as error:
        table = {"how": "", "rows": [], "notes": [f"Not measured: {error.name} is not installed."]}
    return table | {"seconds": time.perf_counter() - began}


if __name__ == "__main__":
    main()
