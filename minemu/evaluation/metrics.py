"""Numbers about answers: how sure a rate is, how good a ranking, and how far two sets of pictures lie apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def rate(right: list[bool]) -> float:
    """Share of right answers, 0 of none."""
    return sum(right) / len(right) if right else 0.0


def wilson(right: list[bool], z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a rate: with z = 1.96 it holds the true rate in 95 % of samplings."""
    n, p = len(right), rate(right)
    if n == 0:
        return 0.0, 1.0
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def newcombe(old: Sequence[float], new: Sequence[float]) -> tuple[float, float]:
    """Interval of the difference new - old of two rates, each with the ends of its interval: (rate, low, high).

    Statistics in Medicine 17, 873-890. It takes the two as independent; for two models asked the same, compare case by case.
    """
    (p, low_p, high_p), (q, low_q, high_q) = old, new
    return q - p - math.hypot(q - low_q, high_p - p), q - p + math.hypot(high_q - q, p - low_p)


def ratio_interval(right: list[bool], real: list[bool]) -> tuple[float, float]:
    """Interval of rate(right) / rate(real), cut at 1, from the Wilson intervals of both (MOVER-R, Donner and Zou 2012).

    It takes the two for independent. The same scenes are judged twice, which makes the true interval narrower, if anything.
    """
    p, q, (low, high), (q_low, q_high) = rate(right), rate(real), wilson(right), wilson(real)

    def end(limit: float, other: float, sign: int) -> float:
        spread = (p * q) ** 2 - limit * other * (2 * p - limit) * (2 * q - other)
        return (p * q + sign * math.sqrt(max(0.0, spread))) / (other * (2 * q - other))

    if not 0 < q_low < 2 * q:
        return 0.0, 1.0
    return max(0.0, end(low, q_high, -1)), min(1.0, end(high, q_low, 1))


def mean_interval(values: Sequence[float], z: float = 1.96) -> tuple[float, float]:
    """The mean of values between 0 and 1, minus and plus z standard errors."""
    n, mean = len(values), sum(values) / len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / max(1, n - 1) / n)
    return max(0.0, mean - z * spread), min(1.0, mean + z * spread)


def ndcg(ranked: Sequence[float]) -> float:
    """Normalised discounted cumulative gain of relevances (0 ... 1) in the order of a ranking, as VisDial has it.

    Only the first k places count, as many as there are relevant answers; the relevance at place p is divided by log2(p + 1).
    """
    ideal = _gain(sorted(ranked, reverse=True), ranked)
    return _gain(ranked, ranked) / ideal if ideal else 0.0


def ndcg_by_chance(relevance: Sequence[float]) -> float:
    """What a ranking at random gets on average: at every place the mean relevance."""
    ideal = _gain(sorted(relevance, reverse=True), relevance)
    mean = sum(relevance) / len(relevance)
    return _gain([mean] * len(relevance), relevance) / ideal if ideal else 0.0


def _gain(ranked: Sequence[float], relevance: Sequence[float]) -> float:
    places = sum(value > 0 for value in relevance)
    return sum(value / math.log2(place + 2) for place, value in enumerate(ranked[:places]))


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Frechet distance of two Gaussians fitted to features (n, F) and (m, F): |mean a - mean b|^2 + tr(A + B - 2 (A B)^(1/2)).

    With centred X and Y, A = X'X / (n - 1) and B = Y'Y / (m - 1), the last trace is the sum of the singular values of X Y' over
    sqrt((n - 1)(m - 1)); no F x F matrix is needed. On EfficientNet-Lite0 features this is a "Lite0 Frechet distance", not FID.
    """
    if len(a) < 2 or len(b) < 2:
        return math.nan
    a, b = a.double(), b.double()
    x, y = (a - a.mean(0)) / math.sqrt(len(a) - 1), (b - b.mean(0)) / math.sqrt(len(b) - 1)
    cross = torch.linalg.svdvals(x @ y.T).sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + x.square().sum() + y.square().sum() - 2 * cross)
