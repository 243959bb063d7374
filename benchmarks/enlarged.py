"""How much of "another region" is enlargement: SatLab's patches have 32 pixels, and the networks
see 64.

    python benchmarks/enlarged.py data/stores/eurosat models/final_supervised_model_….pth …

Takes a quarter of EuroSAT's own test images, which the network enlarges alike, and tells them from
other test images, whole: AUROC with its bootstrap interval (four minutes of one core a network).
Above 0.5 is what such patches (less ground, enlarged) give away on land that the network knows.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from audit.sources import quarters
from src.checkpoints import load_classifier
from src.data.known import data_of
from src.ood import mc_dropout, metrics, scores
from src.probes import embed
from src.runs.runtime import Runtime, add_arguments, from_arguments

WHOLE, QUARTERS, SAMPLES = 900, 500, 20
SCORES = ["mutual_information", "predictive_entropy", "one_minus_msp", "energy"]


def scored(model: torch.nn.Module, images: np.ndarray, runtime: Runtime) -> pd.DataFrame:
    """Every score of the predictions, a row an image."""
    passes = mc_dropout(model, images, SAMPLES, runtime=runtime)
    return scores(passes, embed(model, images, model.encoder.image_size, runtime))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", help="EuroSAT's")
    parser.add_argument("classifiers", type=Path, nargs="+")
    add_arguments(parser)
    args = parser.parse_args()
    runtime = from_arguments(args)
    for file in args.classifiers:
        model, metadata = load_classifier(file)
        store, split = data_of(metadata, file, args.store)
        rng = np.random.default_rng(0)
        rows = rng.permutation(split.test)[: WHOLE + QUARTERS]
        known = scored(model, store.images[rows[:WHOLE]], runtime)
        enlarged = scored(model, quarters(store.images[rows[WHOLE:]], rng), runtime)
        areas = {name: metrics(known[name], enlarged[name]).loc["auroc"] for name in SCORES}
        print(f"{file.name}\n{pd.DataFrame(areas).T.round(3)}", flush=True)


if __name__ == "__main__":
    main()
