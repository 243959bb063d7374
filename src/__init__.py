"""Contrastive pretraining and out-of-distribution detection on Sentinel-2 imagery."""

import os

__version__ = "0.1.0"

# libgomp reads this when torch is imported. Its own 300,000 spins hold a core that another process
# could use, and lose more for it: benchmarks/busy.py.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
