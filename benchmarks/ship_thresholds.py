"""The thresholds that travel with the shipped classifiers: of all scores that need no features.

    python benchmarks/ship_thresholds.py data/stores/eurosat models/final_supervised_model_….pth …

Writes `….shipped.thresholds.npz` beside each, less than a megabyte: a map then needs no EuroSAT.
"""

import argparse

from src.checkpoints import load
from src.data.known import data_of
from src.map import fit_thresholds
from src.map.thresholds import WITHOUT_FEATURES, shipped_path
from src.runs.runtime import add_arguments, from_arguments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", help="EuroSAT's")
    parser.add_argument("checkpoints", nargs="+")
    add_arguments(parser)
    args = parser.parse_args()
    runtime = from_arguments(args)
    for checkpoint in args.checkpoints:
        known = data_of(load(checkpoint)[1], checkpoint, args.store)
        fitted = fit_thresholds(checkpoint, *known, WITHOUT_FEATURES, runtime=runtime)
        print(fitted.save(shipped_path(checkpoint)), fitted.metadata["test_flagged_by_two"])


if __name__ == "__main__":
    main()
