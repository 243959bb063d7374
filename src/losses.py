"""NT-Xent, the contrastive loss of SimCLR (Chen et al. 2020, arXiv 2002.05709), and its floor."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def nt_xent(z_i: Tensor, z_j: Tensor, temperature: float = 0.5) -> Tensor:
    """Normalised temperature-scaled cross-entropy over a batch of N positive pairs (Eq. 1).

    For each of the 2N embeddings: cross-entropy of picking its partner among the 2N − 1 others, by
    cosine similarity / temperature, averaged over both directions.

    Args:
        z_i, z_j: (N, D) embeddings of the two views; row n of one is the positive of row n of the
            other. Any float dtype; the loss is computed in float32 (float64 stays float64).
        temperature: τ > 0.

    Returns:
        Scalar, between `nt_xent_floor(N, τ)` and 2/τ + log(2N − 1); log(2N − 1) for embeddings that
        tell nothing apart.

    Raises:
        ValueError: shapes differ or are not (N, D), or the temperature is not positive.
    """
    shape_i, shape_j = tuple(z_i.shape), tuple(z_j.shape)
    if shape_i != shape_j or len(shape_i) != 2 or len(z_i) == 0:
        raise ValueError(f"expected two (N, D) batches of one shape, got {shape_i} and {shape_j}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    # autocast would multiply in bfloat16: in 8 bits the similarities of near twins tie
    with torch.autocast(z_i.device.type, enabled=False):
        z = torch.cat([z_i, z_j])
        z = F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=1)
        similarity = z @ (z / temperature).T
        # −inf, not e^(1/τ) subtracted afterwards: a masked self-pair must carry no gradient either
        similarity.fill_diagonal_(-torch.inf)
        positive = torch.arange(len(z), device=z.device).roll(len(z_i))
        return F.cross_entropy(similarity, positive)


def nt_xent_floor(n_pairs: int, temperature: float = 0.5) -> float:
    """The lowest value `nt_xent` can take for N pairs: log(1 + (2N − 2)·exp((−1/(N − 1) − 1)/τ)).

    Reached when partners coincide and the N directions form a regular simplex (cosine −1/(N − 1)
    between all others), by Jensen's inequality. A loss below it was not computed on unit vectors.

    Raises:
        ValueError: no pair, or the temperature is not positive.
    """
    if n_pairs < 1 or not temperature > 0:
        raise ValueError(
            f"expected n_pairs >= 1 and temperature > 0, got {n_pairs} and {temperature}"
        )
    if n_pairs == 1:
        return 0.0
    return math.log1p((2 * n_pairs - 2) * math.exp((-1 / (n_pairs - 1) - 1) / temperature))
