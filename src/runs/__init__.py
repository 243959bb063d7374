"""A training run: what it runs on, the folder it survives in, its loop, its processes.

`run` is the folder, `states` what is saved in it, `loop` the steps that resume, `batches` what they
are fed, `distributed` several processes, `runtime` device, precision and random numbers,
`compiling` a network by torch.compile, `memory` what a step of it takes.
"""

from src.runs.fingerprints import (
    changed_functions,
    fingerprint,
    is_fingerprint_of,
    weights_fingerprint,
)
from src.runs.listing import table
from src.runs.run import Run, Stopped
from src.runs.settings import RESUME, RunSettings

__all__ = [
    "RESUME",
    "Run",
    "RunSettings",
    "Stopped",
    "changed_functions",
    "fingerprint",
    "is_fingerprint_of",
    "table",
    "weights_fingerprint",
]
