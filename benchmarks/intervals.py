"""How often a 95 % interval holds the truth, by the number of out-of-distribution images.

    python benchmarks/intervals.py [--repeats 400]

Scores are drawn from two normal distributions of one width, 300 in distribution and n out of it.
The truth is that of 20,000 evenly spread quantiles of each, the second ones weighing n / 300.
`src.ood.evaluation.FEWEST` and `auroc_interval` follow from
this table, in percent, of 200 repeats (so ± 3):

                    auroc  aupr_out  aupr_in  fpr95  auroc, Newcombe
    true AUROC n
    0.60       1       14         7        8      4               97
               2       55        48       52     14               96
               5       85        78       81     32               96
               10      89        85       84     57               94
               20      94        88       92     73               96
               30      92        84       91     84               94
               50      92        91       91     92               94
               100     96        94       94     94               97
               300     93        93       93     96               94
    0.80       1       12        13       12      2               95
               2       55        58       48     14               94
               5       78        82       70     24               98
               10      85        88       81     47               94
               20      91        92       85     66               96
               30      92        88       88     88               94
               50      92        92       90     96               95
               100     96        93       94     94               96
               300     95        92       92     94               97
    0.95       1       14        36       11      3               97
               2       54        68       49     14               94
               5       64        88       60     28               96
               10      82        92       77     55               96
               20      84        90       80     73               97
               30      90        91       84     86               97
               50      90        92       88     94               98
               100     94        92       90     93               96
               300     93        94       92     94               96
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
