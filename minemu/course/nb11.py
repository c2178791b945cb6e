"""Checks of notebook 11, evaluation."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

from minemu.course import call, exercise, number, numbers
from minemu.evaluation.metrics import wilson


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
    "11.paired",
    "return both ends of the mean difference of two models on the same questions, less and plus 1.96 standard errors",
)
def paired(ends: Callable) -> str:
    """`ends(old, new)`: lists of right and wrong answers to the same questions."""
    cases = {"one better": (12, 2, 0, 6), "one worse": (160, 4, 20, 16), "as many won as lost": (20, 5, 5, 10)}
    for what, (both, won, lost, neither) in cases.items():
        old = [True] * (both + lost) + [False] * (won + neither)
        new = [True] * both + [False] * lost + [True] * won + [False] * neither
        mine = numbers(call(ends, list(old), list(new)), 2, "the interval")
        change = [b - a for a, b in zip(old, new, strict=True)]
        half = 1.96 * statistics.stdev(change) / math.sqrt(len(change))
        wanted = [statistics.mean(change) - half, statistics.mean(change) + half]
        off = max(abs(a - b) for a, b in zip(mine, wanted, strict=True))
        assert off < 1e-4, (
            f"{what}, {won} won and {lost} lost of {len(change)}: "
            f"the interval should be {wanted[0]:.3f} to {wanted[1]:.3f}, not {mine[0]:.3f} to {mine[1]:.3f}"
        )
    return f"the interval of the difference in {len(cases)} cases; only what was won or lost moves it"


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
