"""The shipped mapping weights: the Custom CNN, one epoch more in tones between L1C and L2A.

    python benchmarks/mapping_weights.py data/stores/eurosat [--out models]

Goes on with the shipped classifier, head and all, and with its seed: another seed's split would
train on its test images.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from src.checkpoints import load
from src.data.known import data_of
from src.finetune import FinetuneConfig, finetune
from src.runs import RunSettings
from src.runs.runtime import add_arguments, from_arguments

START = Path("models/final_supervised_model_progressive_unfr_acc97.96_20261126_035528.pth")
RECIPE = FinetuneConfig(phases=(0, 0, 1), lr=5e-4, tones=0.75)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", help="EuroSAT's")
    parser.add_argument("--out", default="models", help="folder (default: %(default)s)")
    add_arguments(parser)
    args = parser.parse_args()
    known = load(START)[1]
    store, split = data_of(known, START, args.store)
    recipe = replace(RECIPE, seed=known["config"]["seed"])
    data = (store.images, store.labels, split, store.meta["classes"])
    settings = RunSettings("runs", runtime=from_arguments(args), provenance=store.provenance)
    done = finetune(*data, recipe, args.out, pretrained=START, settings=settings)
    print(f"{done.checkpoint}: val {done.val_accuracy:.4f}, test {done.test_accuracy:.4f}")


if __name__ == "__main__":
    main()
