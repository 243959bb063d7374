"""The tables of README, docs/audit.md and docs/ood.md, from the committed records.

`python -m audit.pages` writes them anew between their markers; a test holds both together.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from audit import stages, tables, unknown, verdicts
from src.profiles import ROOT
from src.results import ENCODER_NAMES, METRICS, MISSING, SCRATCH, STUDY
from src.results.study import NOT_IN_STUDY

RECORDS = ROOT / "models/records/audit"
# of the central table: arm → what it is, and the study's row beside it
NETWORKS = {
    "custom_cnn": {
        "2/scratch 0.001": ("from scratch, 1e-3", SCRATCH),
        "2/pretrained 0.0001": (
            "pretrained; fine-tuned by the study's recipe, 1e-4",
            "pretrained 300",
        ),
        "2/pretrained 0.001": ("the same pretrained; fine-tuned at 1e-3", None),
        "3/scratch 10": ("10 labels a class, from scratch", None),
        "3/pretrained 10": ("10 labels a class, pretrained", None),
    },
    "resnet50": {
        "4/scratch 0.001": ("from scratch, 1e-3", SCRATCH),
        "4/scratch 0.0003": ("from scratch, at its best rate, 3e-4", None),
        "4/pretrained 0.0001": ("pretrained; by the study's recipe, 1e-4", "pretrained 300"),
        "4/pretrained 0.001": ("the same pretrained; at 1e-3", None),
    },
    "vit_b_16": {
        "1/scratch 0.001": ("from scratch, 1e-3, 3 epochs", SCRATCH),
        "1/scratch 0.0001": ("from scratch, 1e-4, 3 epochs", None),
    },
}
REACHED = (unknown.MI, unknown.MSP)


def networks(table: pd.DataFrame) -> str:
    """Accuracy and AUROCs on UC Merced of every network beside the study's; Markdown."""
    titles = [
        "test accuracy, %",
        "AUROC of MI",
        "of 1 − MSP",
        "the study: val accuracy, MI, 1 − MSP",
    ]
    rows = [["encoder", "how it was trained", *titles]]
    for encoder, arms in NETWORKS.items():
        name = ENCODER_NAMES[encoder]
        for arm, (title, row) in arms.items():
            letter, trained = arm.split("/")
            accuracy = 100 * tables.values(table, "test_accuracy", arm, encoder)
            areas = _areas(table, f"{trained} of {letter}", encoder)
            reached = [tables.mean_as_text(accuracy, ".1f"), *areas]
            rows.append([name, title, *reached, _of_study(ENCODER_NAMES[encoder], row)])
            name = ""
    return as_markdown(rows)


def _areas(table: pd.DataFrame, arm: str, encoder: str) -> list[str]:
    """AUROC of each of `REACHED`, of an arm of stage 6; a dash where none is planned."""
    if arm not in stages.arms("6"):
        return [NOT_IN_STUDY] * len(REACHED)
    columns = [f"auroc_ucmerced_{score}" for score in REACHED]
    areas = [tables.values(table, column, f"6/{arm}", encoder) for column in columns]
    return [tables.mean_as_text(area, ".3f") for area in areas]


def _of_study(encoder: str, configuration: str | None) -> str:
    if configuration is None:
        return NOT_IN_STUDY
    accuracy, *areas = STUDY.loc[(encoder, configuration), list(METRICS)]
    return ", ".join([f"{accuracy:.1f}", *(f"{area:.4f}" for area in areas)])


def unknown_sets(table: pd.DataFrame) -> str:
    """AUROC of every score on every set of stage 6, and what mutual information gains over the
    softmax there; Markdown.
    """
    parts = []
    for title, arm in unknown.ARMS.items():
        found = unknown.by_set(unknown.by_class(table, arm))
        if len(found):
            rows = [[f"score, {title}", *found], *found.reset_index().to_numpy().tolist()]
            parts.append(as_markdown(rows))
    gain = unknown.mi_against_msp(table).reset_index()
    return "\n\n".join([*parts, as_markdown([[*gain], *gain.to_numpy().tolist()])])


def claims(table: pd.DataFrame) -> str:
    """Every claim of `verdict_table`, one table a group; Markdown."""
    columns, parts = ["letter", "claim", "metric", "difference", "p, Holm", "verdict"], []
    for group, of_group in verdicts.verdict_table(table).groupby("group", sort=False):
        header = [name for name in columns if group == verdicts.NAMED or name != "p, Holm"]
        p = of_group["p, Holm"].map(lambda p: MISSING if np.isnan(p) else f"{p:.3f}")
        rows = of_group.assign(**{"p, Holm": p})[header].to_numpy().tolist()
        parts.append(f"**{group[0].upper()}{group[1:]}**\n\n{as_markdown([header, *rows])}")
    return "\n\n".join(parts)


def as_markdown(rows: list[list[str]]) -> str:
    """A table whose first row is its header."""
    header, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([header, "| --- " * len(rows[0]) + "|", *body])


PAGES = {
    ROOT / "README.md": networks,
    ROOT / "docs/audit.md": claims,
    ROOT / "docs/ood.md": unknown_sets,
}


def written_anew(page: Path, table: pd.DataFrame) -> str:
    """The page's text with its table made from the records again."""
    text, made = page.read_text(encoding="utf-8"), PAGES[page](table)
    pattern = r"(<!-- records: .*? -->\n).*?(<!-- end of records -->)"
    found, count = re.subn(pattern, lambda marks: f"{marks[1]}{made}\n{marks[2]}", text, flags=re.S)
    if count != 1:
        raise ValueError(
            f"{page}: expected one table between the markers of records, found {count}"
        )
    return found


if __name__ == "__main__":
    table = tables.read(RECORDS)[0]
    for page in PAGES:
        page.write_text(written_anew(page, table), encoding="utf-8")
