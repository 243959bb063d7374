"""Does the demo learn? Pretraining, fine-tuning and OOD detection at the demo's size, on several
seeds.

`python benchmarks/demo_seeds.py` writes benchmarks/results/demo_seeds.csv. Checkpoints go to a
temporary folder.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from src.finetune import FinetuneConfig, finetune
from src.ood import evaluate
from src.pretrain import PretrainConfig, pretrain
from src.probes import knn_probe
from src.profiles import Profile, open_profile
from src.runs import RunSettings
from src.runs.runtime import Runtime, pick, record


def run(profile: Profile, runtime: Runtime, seed: int, out: str) -> dict[str, float]:
    store, split = profile.labelled(seed=seed)
    size, held_out = profile.image_size, np.concatenate([split.val, split.test])
    images = profile.unlabelled("bigearthnet").images
    probe = knn_probe(store.images, store.labels, split.train, held_out, size, runtime)
    config = PretrainConfig(
        epochs=profile.epochs["long"], batch_size=profile.batch_size, image_size=size, seed=seed
    )
    settings = RunSettings(runtime=runtime)
    pretrained = pretrain(
        images, config, out, settings=settings, probe=probe, probe_every=config.epochs
    )
    recipe = FinetuneConfig(
        phases=profile.phases,
        lr=profile.lr_finetune,
        batch_size=profile.batch_size,
        image_size=size,
        seed=seed,
    )
    tuned = finetune(
        store.images,
        store.labels,
        split,
        store.meta["classes"],
        recipe,
        out,
        pretrained=pretrained.checkpoint,
        settings=settings,
    )
    ood = evaluate(
        tuned.model,
        store.images[split.train],
        store.images[split.test],
        profile.out_of_distribution().images,
        profile.mc_samples,
        runtime,
        seed,
    )
    auroc = ood.table.xs("auroc", level="metric")["value"].rename(lambda name: f"auroc_{name}")
    return {
        "seed": seed,
        "knn_untrained": pretrained.history["knn"].iloc[0],
        "knn_pretrained": probe(pretrained.encoder),
        "test_accuracy": tuned.test_accuracy,
        **auroc,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    profile, runtime = open_profile("demo"), pick()
    with tempfile.TemporaryDirectory() as out:
        table = pd.DataFrame([run(profile, runtime, seed, out) for seed in seeds])
    print(table.round(3).to_string(index=False))
    path = Path(__file__).parent / "results/demo_seeds.csv"
    table.assign(**record(runtime)).to_csv(path, index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
