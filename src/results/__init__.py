"""One record a run, and the tables made from them with the study's numbers beside ours.

`python -m src.results [FOLDER]` prints the table of the runs whose records lie there.
"""

from src.results.questions import (
    against,
    answers,
    detection,
    did_it_help,
    paired_difference,
    which_score_works,
)
from src.results.records import metrics_as_json, read_records, wilson, write_record
from src.results.study import ENCODER_NAMES, METRICS, MISSING, SCRATCH, STUDY
from src.results.tables import (
    beside_study,
    both_readings,
    differences,
    longest_projection,
    pretrained_on,
    runs_table,
    separation_table,
    sort_key,
)

__all__ = [
    "ENCODER_NAMES",
    "METRICS",
    "MISSING",
    "SCRATCH",
    "STUDY",
    "against",
    "answers",
    "beside_study",
    "both_readings",
    "detection",
    "did_it_help",
    "differences",
    "longest_projection",
    "metrics_as_json",
    "paired_difference",
    "pretrained_on",
    "read_records",
    "runs_table",
    "separation_table",
    "sort_key",
    "which_score_works",
    "wilson",
    "write_record",
]
