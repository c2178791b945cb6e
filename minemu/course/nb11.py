"""Checks of notebook 11, evaluation."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from minemu.course import call, exercise, same
from minemu.evaluation.metrics import wilson
from minemu.retrieval import rices


@exercise(
    "11.enough", "return the smallest even n at which the interval of n / 2 right answers is narrower than `width`"
)
def enough(count: Callable) -> str:
    """`count(width)`: half right is the least certain of rates."""
    widths = (0.5, 0.2, 0.1)
    for width in widths:
        mine = call(count, width)
        assert mine == int(mine) and mine > 0 and mine % 2 == 0, f"n should be a positive even number, not {mine}"
        assert extent(int(mine)) < width, f"{int(mine)} samples leave an interval wider than {width}"
        fewer = int(mine) - 2
        assert fewer == 0 or extent(fewer) >= width, f"{fewer} samples would do for {width}"
    return f"the smallest n for {len(widths)} widths"


def extent(n: int) -> float:
    """Width of the interval of n / 2 right answers in n."""
    low, high = wilson([True, False] * (n // 2))
    return high - low


@exercise(
    "11.vqa",
    "return the VQA accuracy of an answer: the mean of min(agreeing / 3, 1) over the ten ways to leave one person out",
)
def vqa(accuracy: Callable) -> str:
    """`accuracy(said, people)`: `people` are the answers of ten."""
    agree = (0, 1, 2, 3, 4, 10)
    for number in agree:
        people = ["a llama"] * number + ["a camel"] * (10 - number)
        wanted = min(0.3 * number, 1.0)
        mine = float(call(accuracy, "a llama", people))
        assert abs(mine - wanted) < 1e-6, f"where {number} of ten agree it should be {wanted:.1f}, not {mine:.3f}"
    return f"right where {', '.join(map(str, agree))} of ten agree"


@exercise("11.rices", "return the numbers of the `shots` most similar of the pool, the most similar last")
def retrieve(choose: Callable) -> str:
    """`choose(query, pool, shots)`: unit vectors (E,) and (P, E)."""
    generator = torch.Generator().manual_seed(0)
    pool = F.normalize(torch.randn(32, 8, generator=generator), dim=1)
    queries = F.normalize(torch.randn(5, 8, generator=generator), dim=1)
    for query, wanted in zip(queries, rices(queries, pool, 4), strict=True):
        mine = torch.as_tensor(call(choose, query, pool, 4))
        assert mine.shape == (4,), f"4 numbers are wanted, not the shape {tuple(mine.shape)}"
        assert mine.tolist() != wanted[::-1], (
            "the order is turned round: the most similar stands last, next to the question"
        )
        same(mine.float(), torch.tensor(wanted).float(), "the list of examples", 0)
    return f"{len(queries)} questions get the examples that the package gives them"
