"""What `make demo` finds on several seeds: accuracy and OOD detection, scratch and pretrained.

`python benchmarks/demo_seeds.py` trains as notebooks 02 and 05 do in the demo, and writes
benchmarks/results/demo_seeds.csv: one row a seed and arm. A seed draws the split, the weights and
the batches; the made images are the demo's. Checkpoints go to a temporary folder.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from src.data.splits import Split
from src.data.store import PatchStore
from src.finetune import FinetuneConfig, finetune
from src.ood import evaluate
from src.pretrain import PretrainConfig, pretrain
from src.probes import knn_probe
from src.profiles import Profile, open_profile
from src.runs import RunSettings
from src.runs.runtime import Runtime, pick, record

Labelled = tuple[PatchStore, Split]


def run(profile: Profile, runtime: Runtime, seed: int, out: str) -> Iterator[dict]:
    """Rows of both arms: the network from scratch, and after the demo's pretraining."""
    data, size = profile.labelled(seed=seed), profile.image_size
    store, split = data
    held_out = np.concatenate([split.val, split.test])
    probe = knn_probe(store.images, store.labels, split.train, held_out, size, runtime)
    config = PretrainConfig(
        epochs=profile.epochs["short"], batch_size=profile.batch_size, image_size=size, seed=seed
    )
    settings = RunSettings(runtime=runtime)
    pretrained = pretrain(
        profile.unlabelled().images,
        config,
        out,
        settings=settings,
        probe=probe,
        probe_every=config.epochs,
    )
    recipe = FinetuneConfig(
        phases=profile.phases,
        lr=profile.lr_finetune,
        batch_size=profile.batch_size,
        image_size=size,
        seed=seed,
    )
    knn = {"untrained": pretrained.history["knn"].iloc[0], "after": probe(pretrained.encoder)}
    arms = {
        "from scratch": (recipe.from_scratch(), None, knn["untrained"]),
        "pretrained": (recipe, pretrained.checkpoint, knn["after"]),
    }
    for arm, (recipe, start, knn_before) in arms.items():
        row = {"seed": seed, "arm": arm, "knn_before_tuning": knn_before}
        yield row | tune(profile, data, recipe, start, settings, out)


def tune(
    profile: Profile,
    data: Labelled,
    recipe: FinetuneConfig,
    start: Path | None,
    settings: RunSettings,
    out: str,
) -> dict[str, float]:
    """Test accuracy, and the AUROC of every score."""
    store, split = data
    tuned = finetune(
        store.images,
        store.labels,
        split,
        store.meta["classes"],
        recipe,
        out,
        pretrained=start,
        settings=settings,
    )
    ood = evaluate(
        tuned.model,
        store.images[split.train],
        store.images[split.test],
        profile.out_of_distribution().images,
        profile.mc_samples,
        settings.runtime,
        recipe.seed,
    )
    auroc = ood.table.xs("auroc", level="metric")["value"].rename(lambda name: f"auroc_{name}")
    return {"test_accuracy": tuned.test_accuracy, **auroc}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    seeds = parser.parse_args().seeds
    profile, runtime = open_profile("demo"), pick()
    path, rows = Path(__file__).parent / "results/demo_seeds.csv", []
    with tempfile.TemporaryDirectory() as out:
        for seed in seeds:
            for row in run(profile, runtime, seed, out):
                rows.append(row)  # what is done is kept, should the next be stopped
                table = pd.DataFrame(rows)
                table.assign(**record(runtime)).to_csv(path, index=False, float_format="%.4f")
    print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
