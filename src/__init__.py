"""Contrastive pretraining and out-of-distribution detection on Sentinel-2 imagery."""

__version__ = "0.1.0"
