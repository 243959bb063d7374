"""What is left of pretraining's speed beside one other busy process?

`python benchmarks/busy.py` writes benchmarks/results/busy.csv (half an hour; nothing else may
run). Each row is a process of its own: the Custom CNN on random patches of 120 px, views of 32 px.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).parents[1]
BUSY = [sys.executable, "-c", "while True: pass"]
OWN, OURS = "300,000 spins", "10,000 spins"  # libgomp's own, and what `src` sets
# how a thread waits for another
WAITS = {
    OWN: {"GOMP_SPINCOUNT": "300000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    OURS: {"GOMP_SPINCOUNT": "10000"},
}


def measure(steps: int) -> None:
    """Print views/s of the last of three epochs."""
    from src.pretrain import PretrainConfig, pretrain
    from src.runs import RunSettings
    from src.runs.runtime import pick

    images = np.random.default_rng(0).integers(0, 255, (32 * steps, 120, 120, 3), np.uint8)
    config = PretrainConfig(epochs=3, batch_size=32, image_size=32)
    with tempfile.TemporaryDirectory() as out:
        settings = RunSettings(runtime=pick("cpu"))
        history = pretrain(images, config, out, settings=settings).history
    print("views/s", 2 * len(images) / history["seconds"].iloc[-1])


def row(threads: int | None, wait: str, busy: bool, steps: int) -> dict:
    """One process, perhaps beside a busy one; threads None: as `src.runs.threads` decides."""
    set_here = {"OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
    environment = {key: value for key, value in os.environ.items() if key not in set_here}
    environment |= WAITS[wait] | {"PYTHONPATH": str(ROOT)}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    other = subprocess.Popen(BUSY) if busy else None
    try:
        ours = [sys.executable, __file__, "--measure", "--steps", str(steps)]
        told = subprocess.run(ours, env=environment, capture_output=True, text=True, check=True)
    finally:
        if other:
            other.kill()
            other.wait()
    speed = float(told.stdout.rsplit("views/s", 1)[1])
    asked = threads or "decided"
    return {"threads": asked, "wait": wait, "beside": "busy" if busy else "idle", "views/s": speed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true", help="(what each process runs)")
    parser.add_argument("--steps", type=int, default=40, help="of an epoch (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=2, help="(default: %(default)s)")
    args = parser.parse_args()
    if args.measure:
        measure(args.steps)
        return
    kinds = [*itertools.product((2, 1), WAITS), (None, OURS)]
    cases = [(*kind, busy) for _ in range(args.repeats) for kind in kinds for busy in (False, True)]
    table = pd.DataFrame([row(*case, args.steps) for case in cases])
    keys = ["threads", "wait"]
    best = table.pivot_table("views/s", keys, "beside", aggfunc="max", sort=False)
    best["share of idle"] = best["busy"] / best.loc[(2, OWN), "idle"]
    print(best.round(2))
    from src.runs.runtime import pick, record

    path = Path(__file__).parent / "results/busy.csv"
    told = {key: value for key, value in record(pick("cpu")).items() if key != "threads"}
    best.reset_index().assign(**told).to_csv(path, index=False, float_format="%.3f")


if __name__ == "__main__":
    main()
