"""The shipped mapping weights: the Custom CNN, three epochs more in tones between L1C and L2A.

    python benchmarks/mapping_weights.py data/stores/eurosat [--out models]

Goes on with the shipped classifier, head and all.
"""

import argparse
from pathlib import Path

from src.data.splits import stratified_split
from src.data.store import PatchStore
from src.finetune import FinetuneConfig, finetune
from src.runs import RunSettings
from src.runs.runtime import add_arguments, from_arguments

START = Path("models/final_supervised_model_from_scratch_acc88.59_20261124_051725.pth")
RECIPE = FinetuneConfig(phases=(0, 0, 3), lr=5e-4, tones=0.75)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", help="EuroSAT's")
    parser.add_argument("--out", default="models", help="folder (default: %(default)s)")
    add_arguments(parser)
    args = parser.parse_args()
    store = PatchStore.open(args.store)
    split = stratified_split(store, RECIPE.seed)
    data = (store.images, store.labels, split, store.meta["classes"])
    settings = RunSettings("runs", runtime=from_arguments(args), provenance=store.provenance)
    done = finetune(*data, RECIPE, args.out, pretrained=START, settings=settings)
    print(f"{done.checkpoint}: val {done.val_accuracy:.4f}, test {done.test_accuracy:.4f}")


if __name__ == "__main__":
    main()
