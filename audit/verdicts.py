"""What the intervals say, in words, by one rule and nothing else.

A primary claim *holds* where its difference lies on the side it names and p, adjusted for the five
of them (Holm 1979), is below 0.05; it *does not hold* where that is so of the other side. All
others are exploratory: the data *point that way*, or the other way, where the 95 % interval of the
difference lies wholly on one side of 0. Else, or with one seed, it *cannot be told here*.
"""

from typing import Any

import numpy as np
import pandas as pd

from audit.claims import (
    ACCURACY,
    LEVEL,
    METRIC_NAMES,
    PRIMARY,
    Claim,
    details,
    paired,
    published,
    suspected,
)
from audit.records import Record
from audit.tables import ACCURACIES, Difference, as_text, holm
from src.results import MISSING, both_readings, runs_table

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told here"
TOWARDS, AGAINST = "points that way", "points the other way"  # of the exploratory
NAMED = "named before the runs"
FINDINGS, CAUSES = "the study's findings", "what may have made pretraining look worse"
SIDES = {1: "Above 0", -1: "Below 0", 0: "Not told apart from 0"}


def verdict(difference: Difference, sign: int) -> str:
    """Of an exploratory claim, by the rule above; `MISSING` where nothing was run."""
    if difference.n == 0:
        return MISSING
    return {0: OPEN, sign: TOWARDS}.get(difference.side, AGAINST)


def primary_verdict(difference: Difference, sign: int, adjusted_p: float) -> str:
    """Of a primary claim, by the rule above; `MISSING` where nothing was run."""
    if difference.n == 0:
        return MISSING
    if not adjusted_p < LEVEL:
        return OPEN
    return HOLDS if np.sign(difference.mean) == sign else FAILS


# --- every claim ---


def verdict_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row a claim: letter, finding, the difference with its interval, verdict; and the bare
    numbers for a plot.
    """
    labels = table.loc[table["letter"] == "f", "arm"].str.split().str[-1]
    few = min((int(n) for n in labels if n != "all"), default=10)
    rows = [*_primary_rows(table), *_sign_rows()]
    rows += [_row(FINDINGS, claim, paired(table, claim)) for claim in published(few)]
    rows += [_row(CAUSES, claim, paired(table, claim)) for claim in suspected()]
    return pd.DataFrame(rows)


def _primary_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    differences = {claim: paired(table, claim) for claim in PRIMARY}
    adjusted = holm({claim.text: difference.p for claim, difference in differences.items()})
    rows = []
    for claim, difference in differences.items():
        p = adjusted[claim.text]
        answer = {"p, Holm": p, "verdict": primary_verdict(difference, claim.sign, p)}
        rows.append(_row(NAMED, claim, difference) | answer)
    return rows


def _row(group: str, claim: Claim, difference: Difference) -> dict[str, Any]:
    return {
        "group": group,
        "letter": claim.letter,
        "claim": claim.text,
        "metric": METRIC_NAMES[claim.metric],
        "difference": as_text(difference, claim.metric),
        "verdict": verdict(difference, claim.sign),
        "p, Holm": np.nan,
        "mean": difference.mean,
        "low": difference.low,
        "high": difference.high,
        "points": claim.metric in ACCURACIES,
    }


def _sign_rows() -> list[dict[str, Any]]:
    """What the study's own table says of MSP, read in the direction of the other scores:
    arithmetic, no runs.
    """
    rows = both_readings(runs_table([]))
    n, above = len(rows), (rows["auroc_one_minus_msp"] > 0.5).sum()
    printed = (rows["msp_as_printed_wins"] == "MI").sum()
    reversed_ = (rows["auroc_one_minus_msp_wins"] == "MI").sum()
    common = {"group": FINDINGS, "letter": "a", "metric": "the study's own table"}
    no_interval = {"mean": np.nan, "low": np.nan, "high": np.nan, "points": False}
    finds_nothing = {
        "claim": "MSP finds nothing (AUROC of 0.07 to 0.10)",
        "difference": f"turned round, above 0.5 in {above} of {n} rows",
        "verdict": FAILS if above > n / 2 else HOLDS,
    }
    is_beaten = {
        "claim": "MI beats MSP",
        "difference": f"in {printed} of {n} rows as printed, in {reversed_} turned round",
        "verdict": HOLDS if reversed_ > n / 2 else FAILS,
    }
    return [common | finds_nothing | no_interval, common | is_beaten | no_interval]


# --- one letter ---


def paragraph(table: pd.DataFrame, letter: str, encoder: str = "custom_cnn") -> str:
    """Every comparison of a letter, sorted by where its interval lies; Markdown."""
    by_side = {side: [] for side in SIDES}
    for claim in details(table, letter, encoder):
        difference = paired(table, claim)
        if difference.n:
            metric = METRIC_NAMES.get(claim.metric, "AUROC")
            text = f"{claim.text} ({metric} {as_text(difference, claim.metric)})"
            by_side[difference.side].append(text)
    sentences = [
        f"**{SIDES[side]}:** {'; '.join(texts)}." for side, texts in by_side.items() if texts
    ]
    return "\n\n".join(sentences) or "*Missing: no two arms of this section have been run.*"


def crossing(table: pd.DataFrame, encoder: str = "custom_cnn") -> str:
    """Between which numbers of labels the lead of the pretrained arm is lost, if the intervals
    tell.
    """
    runs = table[(table["letter"] == "f") & (table["encoder"] == encoder)]
    sides = {}
    for arm in runs["arm"].unique():
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
    more = "all" if behind == np.inf else behind
    return f"The arms cross between {ahead} and {more} labels a class."


def diverged(records: list[Record]) -> list[str]:
    """Runs whose loss was not finite."""
    return [
        f"{record['letter']}: {record['arm']}, seed {record['seed']}"
        for record in records
        if "diverged" in record["result"]
    ]
