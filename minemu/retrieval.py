"""Which examples stand in a few-shot prompt: some at random, or by RICES those whose pictures are most like the one asked about.

RICES: retrieval of in-context examples by similarity (arXiv 2109.05014, used by Flamingo and Emu). The similarity is that of the
model's own visual embeddings (`EmuPipeline.features`); which features Emu took was not published.

Axis letters: n pictures, E width of their features, P examples in the pool, K shots.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor


def rices(queries: Tensor, pool: Tensor, shots: int) -> list[list[int]]:
    """For each query (n, E) the numbers of the `shots` most similar of the pool (P, E); the most similar stands last."""
    order = (queries @ pool.T).topk(shots, dim=1).indices  # (n, K), the most similar first
    return order.flip(1).tolist()


def at_random(n: int, size: int, shots: int, seed: int) -> list[list[int]]:
    """For each of n queries, `shots` different numbers below `size`."""
    rng = np.random.default_rng(seed)
    return [rng.choice(size, shots, replace=False).tolist() for _ in range(n)]
