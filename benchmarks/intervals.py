"""How often a 95 % interval holds the truth, by the number of out-of-distribution images.

    python benchmarks/intervals.py [--repeats 400]

Scores are drawn from two normal distributions of one width, 300 in distribution and n out of it. The
truth is that of 20,000 evenly spread quantiles of each, n of the second counting as 300 of the first
do. `src.ood.evaluation.FEWEST` and `auroc_interval` follow from this table:

TABLE
"""

import argparse

import numpy as np
import pandas as pd
from scipy.stats import norm
from sklearn.metrics import average_precision_score

from src.ood.evaluation import auroc_interval, bootstrap_intervals

COUNTS, AREAS, N_ID = (1, 2, 5, 10, 20, 30, 50, 100, 300), (0.6, 0.8, 0.95), 300


def truth(shift: float, n_ood: int) -> dict[str, float]:
    quantiles, is_ood = norm.ppf((np.arange(20_000) + 0.5) / 20_000), np.repeat([0, 1], 20_000)
    scores = np.append(quantiles, quantiles + shift)
    weights = np.where(is_ood, n_ood / N_ID, 1.0)
    return {
        "auroc": norm.cdf(shift / np.sqrt(2)),
        "aupr_out": average_precision_score(is_ood, scores, sample_weight=weights),
        "aupr_in": average_precision_score(1 - is_ood, -scores, sample_weight=weights),
        "fpr95": norm.sf(shift + norm.ppf(0.05)),
    }


def coverage(n_ood: int, area: float, repeats: int) -> dict[str, float]:
    shift, rng = np.sqrt(2) * norm.ppf(area), np.random.default_rng([n_ood, int(100 * area)])
    true, held = truth(shift, n_ood), {}
    for seed in range(repeats):
        scores = rng.normal(size=N_ID), rng.normal(shift, size=n_ood)
        point, intervals = bootstrap_intervals(*scores, bootstrap=400, seed=seed)
        intervals["auroc, Newcombe"] = auroc_interval(point["auroc"], N_ID, n_ood)
        for name, (low, high) in intervals.items():
            held.setdefault(name, []).append(low <= true[name.split(",")[0]] <= high)
    return {name: float(np.mean(values)) for name, values in held.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=400)
    repeats = parser.parse_args().repeats
    rows = {(area, n): coverage(n, area, repeats) for area in AREAS for n in COUNTS}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["true AUROC", "n"])
    print((100 * table).round(0).astype(int).to_string())


if __name__ == "__main__":
    main()
