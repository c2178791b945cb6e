"""Exercises of notebook 03: the buckets of T5's bias, the causal mask, Emu2's pooling."""

from __future__ import annotations

import torch

from minemu.causal_transformer import RelativePositionBias, pool_features
from minemu.config import BridgeConfig, VisionConfig
from minemu.course import call, exercise, same, shaped

LENGTH = 200


@exercise("03.bucket", "return the bucket of each distance back: (n,) integers -> (n,) integers")
def bucket(number) -> str:
    config = BridgeConfig(width=4, heads=1, position_buckets=32, position_distance=128)
    table = RelativePositionBias(config)
    with torch.no_grad():
        table.bias.weight.copy_(torch.arange(32.0)[:, None])  # now the bias is the number of the bucket
        wanted = table(LENGTH)[0, 0, -1].flip(0).long()  # the last row, from distance 0 on
    mine = call(number, torch.arange(LENGTH))
    shaped(mine, wanted.shape, "the buckets")
    assert not mine.dtype.is_floating_point, (
        f"a bucket is an integer, not {mine.dtype}; round towards zero with .long()"
    )
    wrong = (mine != wanted).nonzero().flatten().tolist()
    assert not wrong, f"distance {wrong[0]} belongs in bucket {wanted[wrong[0]]}, not {mine[wrong[0]]}"
    return f"{LENGTH} distances share {int(wanted.max()) + 1} buckets"


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
