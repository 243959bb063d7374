"""How often a 95 % interval holds the truth, by the number of out-of-distribution images.

    python benchmarks/intervals.py [--repeats 400]

Scores are drawn from two normal distributions of one width, 300 in distribution and n out of it;
the truth is that of 20,000 + 20,000 such scores.
"""

import argparse

import numpy as np
import pandas as pd
from scipy.stats import norm

from src.ood.evaluation import auroc_interval, bootstrap_intervals, metrics

COUNTS, AREAS, N_ID = (1, 2, 5, 10, 20, 30, 50, 100, 300), (0.6, 0.8, 0.95), 300


def draw(rng: np.random.Generator, n_id: int, n_ood: int, shift: float) -> tuple:
    return rng.normal(size=n_id), rng.normal(shift, size=n_ood)


def coverage(n_ood: int, area: float, repeats: int) -> dict[str, float]:
    shift, rng = np.sqrt(2) * norm.ppf(area), np.random.default_rng([n_ood, int(100 * area)])
    truth = metrics(*draw(rng, 20_000, 20_000, shift), bootstrap=1)["value"]
    held: dict[str, list[bool]] = {}
    for seed in range(repeats):
        scores = draw(rng, N_ID, n_ood, shift)
        point, intervals = bootstrap_intervals(*scores, bootstrap=400, seed=seed)
        for name, (low, high) in intervals.items():
            held.setdefault(f"{name}, bootstrap", []).append(low <= truth[name] <= high)
        low, high = auroc_interval(point["auroc"], N_ID, n_ood)
        held.setdefault("auroc, Newcombe", []).append(low <= area <= high)
    return {name: float(np.mean(values)) for name, values in held.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=400)
    repeats = parser.parse_args().repeats
    rows = {(area, n_ood): coverage(n_ood, area, repeats) for area in AREAS for n_ood in COUNTS}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["true AUROC", "n"])
    print((100 * table).round(0).astype(int).to_string())


if __name__ == "__main__":
    main()
