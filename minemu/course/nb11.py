"""Checks of notebook 11, evaluation."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from minemu.course import call, exercise, number, numbers
from minemu.evaluation.metrics import wilson
from minemu.retrieval import rices


@exercise(
    "11.enough", "return the smallest even n at which the interval of n / 2 right answers is narrower than `width`"
)
def enough(count: Callable) -> str:
    """`count(width)`: half right is the least certain of rates."""
    widths = (0.5, 0.2, 0.1)
    for width in widths:
        mine = number(call(count, width), "n")
        assert mine > 0 and mine % 2 == 0, f"n should be a positive even number, not {mine}"
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
    for alike in agree:
        people = ["a llama"] * alike + ["a camel"] * (10 - alike)
        wanted = min(0.3 * alike, 1.0)
        mine = number(call(accuracy, "a llama", people), "the accuracy")
        assert abs(mine - wanted) < 1e-6, f"where {alike} of ten agree it should be {wanted:.1f}, not {mine:.3f}"
    return f"right where {', '.join(map(str, agree))} of ten agree"


@exercise("11.rices", "return the numbers of the `shots` most similar of the pool, the most similar last")
def retrieve(choose: Callable) -> str:
    """`choose(query, pool, shots)`: unit vectors (E,) and (P, E)."""
    generator = torch.Generator().manual_seed(0)
    pool = F.normalize(torch.randn(32, 8, generator=generator), dim=1)
    queries = F.normalize(torch.randn(5, 8, generator=generator), dim=1)
    for query, wanted in zip(queries, rices(queries, pool, 4), strict=True):
        mine = numbers(call(choose, query, pool, 4), 4, "the list of examples")
        assert mine != wanted[::-1], "the order is turned round: the most similar stands last, next to the question"
        assert mine == wanted, f"the examples should be {wanted}, not {mine}"
    return f"{len(queries)} questions get the examples that the package gives them"
