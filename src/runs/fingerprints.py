"""Short names for arrays and weights: two runs that differ in them are different runs."""

import hashlib

import numpy as np
from torch import nn


def fingerprint(*arrays: np.ndarray) -> str:
    """A short name for arrays: their shapes, types and 64 evenly spaced rows of each."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        rows = np.linspace(0, len(array) - 1, min(64, len(array))).astype(int)
        digest.update(np.ascontiguousarray(array[rows]).tobytes())
    return digest.hexdigest()[:16]


def weights_fingerprint(module: nn.Module) -> str:
    """A short name for a module's weights: runs that start from others are other runs."""
    digest = hashlib.sha256()
    for tensor in module.state_dict().values():
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
