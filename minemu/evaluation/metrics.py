"""Numbers about answers: how sure a rate is, and how far two sets of pictures lie apart."""

from __future__ import annotations

import math

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
