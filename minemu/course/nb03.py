"""Exercises of notebook 03: distances that share a bucket of T5's bias, the causal mask, Emu2's pooling."""

from __future__ import annotations

import torch

from minemu.causal_transformer import RelativePositionBias, pool_features
from minemu.config import BridgeConfig, VisionConfig
from minemu.course import call, exercise, number, same, shaped


@exercise("03.shared", "return the smallest number of embeddings at which two distances share a bucket")
def shared(first) -> str:
    for buckets, distance in ((32, 128), (32, 20), (64, 128), (8, 16)):
        found = _buckets(buckets, distance)
        wanted = 1 + next(d for d in range(1, len(found)) if found[d] in found[:d])  # distances 0 ... wanted - 1
        mine, what = number(call(first, buckets, distance), "N"), f"{buckets} buckets and distances up to {distance}"
        assert mine != wanted - 1, f"with {what} distance {mine} shares one; how many embeddings have such a distance?"
        assert mine == wanted, f"with {what} N is not {mine}"
    return "with 32 buckets and distances up to 128 it is 18: distances 16 and 17 share one"


@torch.no_grad()
def _buckets(buckets: int, distance: int, length: int = 100) -> list[float]:
    """The bucket of each distance 0, 1, ..., as the package has it."""
    config = BridgeConfig(width=4, heads=1, position_buckets=buckets, position_distance=distance)
    table = RelativePositionBias(config)
    table.bias.weight.copy_(torch.arange(float(buckets))[:, None])  # now the bias is the number of the bucket
    return table(length)[0, 0, -1].flip(0).tolist()  # the last row, from distance 0 on


@exercise("03.mask", "return a boolean (n, n): True where embedding i (row) may look at embedding j (column)")
def mask(allowed) -> str:
    for n in (1, 4, 7):
        mine = call(allowed, n)
        wanted = torch.ones(n, n, dtype=torch.bool).tril()
        if isinstance(mine, torch.Tensor) and mine.shape == wanted.shape and mine.dtype == torch.bool and n > 1:
            assert mine.diagonal().all(), "an embedding may look at itself"
            assert not torch.equal(mine, wanted.T), "rows and columns are swapped: this looks at what comes later"
        same(mine, wanted, f"the mask of {n}")
    return "7 embeddings, 28 of 49 pairs allowed"


@exercise("03.pool", "return (B, n, V): the class token dropped, the patch grid averaged to n cells in reading order")
def pool(average) -> str:
    for grid, n in ((4, 4), (6, 9), (4, 16)):
        config = VisionConfig(image_size=8 * grid, patch_size=8)
        features = torch.arange(2.0 * (1 + grid**2) * 3).view(2, 1 + grid**2, 3)
        features[:, 0] = 1e6  # the class token: seen at once where it was not dropped
        mine = call(average, features, n)
        what, wanted = f"the {n} cells of {grid} x {grid} patches", pool_features(features, n, config)
        shaped(mine, wanted.shape, what)
        assert float(mine.max()) < 1e4, "the class token is in the mean; drop it first"
        same(mine, wanted, what, tolerance=1e-3)
    return "grids of 4 x 4 and 6 x 6 patches pooled to 4, 9 and 16 cells"
