"""One record a run, and the tables made from them with the study's numbers beside ours.

`python -m src.results [FOLDER]` prints the table of the runs whose records lie there.
"""

from src.results.records import metrics_as_json, read_records, wilson, write_record
from src.results.study import DATA_NAMES, ENCODER_NAMES, METRICS, MISSING, SCRATCH, STUDY
from src.results.tables import (
    beside_study,
    both_readings,
    differences,
    longest_projection,
    runs_table,
    separation_table,
    sort_key,
)

__all__ = [
    "DATA_NAMES",
    "ENCODER_NAMES",
    "METRICS",
    "MISSING",
    "SCRATCH",
    "STUDY",
    "beside_study",
    "both_readings",
    "differences",
    "longest_projection",
    "metrics_as_json",
    "read_records",
    "runs_table",
    "separation_table",
    "sort_key",
    "wilson",
    "write_record",
]
