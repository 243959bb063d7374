"""What the intervals say, in words, by one rule and nothing else.

A claim *holds* where the 95 % interval of its difference lies wholly on the side it names, *does
not hold* where it lies wholly on the other, and *cannot be told here* where it includes 0 or there
is one seed.
"""

from typing import Any

import numpy as np
import pandas as pd

from audit.claims import ACCURACY, METRIC_NAMES, Claim, details, paired, published, suspected
from audit.tables import POINTS, Difference, told
from src.results.study import MISSING
from src.results.tables import both_readings

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told here"
FINDINGS, CAUSES = "the study's findings", "what may have made pretraining look worse"


def verdict(difference: Difference, sign: int) -> str:
    """By the rule above."""
    if difference.n == 0:
        return MISSING
    return {0: OPEN, sign: HOLDS}.get(difference.side, FAILS)


def verdict_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row a claim: letter, finding, the difference with its interval, verdict; and the bare
    numbers for a plot.
    """
    labels = table.loc[table["letter"] == "f", "arm"].str.split().str[-1]
    few = min((int(n) for n in labels if n != "all"), default=10)
    rows = _signs()
    for group, claims in ((FINDINGS, published(few)), (CAUSES, suspected())):
        for claim in claims:
            difference = paired(table, claim)
            rows.append(
                {
                    "group": group,
                    "letter": claim.letter,
                    "claim": claim.text,
                    "metric": METRIC_NAMES[claim.metric],
                    "difference": told(difference, claim.metric),
                    "verdict": verdict(difference, claim.sign),
                    "mean": difference.mean,
                    "low": difference.low,
                    "high": difference.high,
                    "points": claim.metric in POINTS,
                }
            )
    return pd.DataFrame(rows)


def _signs() -> list[dict[str, Any]]:
    """What the study's own table says of MSP, read in the direction of the other scores:
    arithmetic, no runs.
    """
    no_runs = pd.DataFrame(
        columns=["encoder", "configuration", "auroc_mutual_information", "auroc_one_minus_msp"]
    )
    rows = both_readings(no_runs)
    found, half = (rows["auroc_one_minus_msp"] > 0.5).sum(), len(rows) / 2
    printed, turned = (
        (rows[f"{name}_wins"] == "MI").sum() for name in ("msp_as_printed", "auroc_one_minus_msp")
    )
    common = {
        "group": FINDINGS,
        "letter": "a",
        "metric": "the study's own table",
        "mean": np.nan,
        "points": False,
    }
    return [
        {
            **common,
            "claim": "MSP finds nothing (AUROC of 0.07 to 0.10)",
            "verdict": FAILS if found > half else HOLDS,
            "difference": f"turned round, above 0.5 in {found} of {len(rows)} rows",
        },
        {
            **common,
            "claim": "MI beats MSP",
            "verdict": HOLDS if turned > half else FAILS,
            "difference": f"in {printed} of {len(rows)} rows as printed, in {turned} turned round",
        },
    ]


def paragraph(table: pd.DataFrame, letter: str, encoder: str = "custom_cnn") -> str:
    """Every comparison of a letter, sorted by where its interval lies; Markdown."""
    found = {claim: paired(table, claim) for claim in details(table, letter, encoder)}
    found = {claim: difference for claim, difference in found.items() if difference.n}
    if not found:
        return "*Missing: no two arms of this section have been run.*"
    sentences = []
    for side, name in ((1, "Above 0"), (-1, "Below 0"), (0, "Not told apart from 0")):
        mine = [
            _told(claim, difference)
            for claim, difference in found.items()
            if difference.side == side
        ]
        sentences += [f"**{name}:** {'; '.join(mine)}."] if mine else []
    return "\n\n".join(sentences)


def _told(claim: Claim, difference: Difference) -> str:
    return (
        f"{claim.text} ({METRIC_NAMES.get(claim.metric, 'AUROC')} {told(difference, claim.metric)})"
    )


def crossing(table: pd.DataFrame, encoder: str = "custom_cnn") -> str:
    """Between which numbers of labels the lead of the pretrained arm is lost, if the intervals
    tell.
    """
    sides = {}
    for arm in dict.fromkeys(
        table.loc[(table["letter"] == "f") & (table["encoder"] == encoder), "arm"]
    ):
        kind, labels = arm.split()
        if kind == "progressive":
            claim = Claim("", ACCURACY, f"f/{arm}", f"f/scratch {labels}", encoder=encoder)
            sides[np.inf if labels == "all" else int(labels)] = paired(table, claim).side
    ahead = max((labels for labels, side in sides.items() if side > 0), default=np.inf)
    behind = min((labels for labels, side in sides.items() if side < 0), default=-np.inf)
    if ahead >= behind:
        return (
            "No crossing can be told: it takes an interval above 0 at few labels and one below 0 at"
            " more."
        )
    return (
        f"The arms cross between {ahead} and {'all' if behind == np.inf else behind} labels a"
        " class."
    )


def diverged(records: list[dict[str, Any]]) -> list[str]:
    """Runs whose loss was not finite."""
    return [
        f"{r['letter']}: {r['arm']}, seed {r['seed']}" for r in records if "diverged" in r["result"]
    ]
