"""Does speed cost quality? kNN accuracy after pretraining on the demo data, fast and exact, on
three seeds.

`python benchmarks/quality.py` writes results/quality.csv. Fast: the precision `pick` chooses and
the fused colours; exact: float32 and colours op by op. Nothing else differs: the same seeds, the
same batches, the same random views.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.exact_colours import exact_pairs
from src.pretrain import Hooks, PretrainConfig, pretrain
from src.probes import knn_probe
from src.profiles import open_profile
from src.runs import RunSettings
from src.runs.runtime import pick, record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", default=ROOT / "benchmarks/results/quality.csv")
    args = parser.parse_args()
    profile, rows = open_profile("demo"), []
    images = profile.unlabelled("bigearthnet").images
    for seed in args.seeds:
        store, split = profile.labelled(seed=seed)
        held_out = np.concatenate([split.val, split.test])
        for name, runtime, hooks in (
            ("fast", pick(), Hooks()),
            ("exact", pick(precision="float32"), Hooks(pairs=exact_pairs)),
        ):
            probe = knn_probe(
                store.images, store.labels, split.train, held_out, profile.image_size, runtime
            )
            config = PretrainConfig(
                epochs=profile.epochs["long"],
                batch_size=profile.batch_size,
                seed=seed,
                image_size=profile.image_size,
            )
            with tempfile.TemporaryDirectory() as out:
                result = pretrain(
                    images, config, out, settings=RunSettings(runtime=runtime), hooks=hooks
                )
            loss = result.history["loss"].min()
            rows.append(
                {
                    "way": name,
                    "seed": seed,
                    "knn": probe(result.encoder),
                    "loss": loss,
                    **record(runtime),
                }
            )
            print({key: rows[-1][key] for key in ("way", "seed", "knn", "loss")}, flush=True)
    table = pd.DataFrame(rows)
    print(table.groupby("way")["knn"].agg(["mean", "std"]))
    table.to_csv(args.out, index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
