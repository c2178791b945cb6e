"""Muon: momentum, made orthogonal, for matrices. torch has the same with its orthogonalisation in bfloat16 always, which took
a processor without instructions for it six times as long as all the rest of a step.

    B_t = 0.95 B_{t-1} + 0.05 g_t             momentum
    O_t = NS(0.05 g_t + 0.95 B_t)             Newton-Schulz: all singular values near 1
    w_t = (1 - lr decay) w_{t-1} - 0.2 sqrt(max(rows, columns)) lr O_t        as large as a step of AdamW (arXiv 2502.16982)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
QUINTIC = (3.4445, -4.7750, 2.0315)  # a x + b x^3 + c x^5, steep at 0, near 1 from 0.7 to 1.2
STEPS = 5


def orthogonalised(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """U V^T of U S V^T, roughly: singular values come out between 0.7 and 1.2. Computed in `dtype`, and of that dtype."""
    a, b, c = QUINTIC
    x = matrix.to(dtype)
    tall = x.size(0) > x.size(1)
    x = x.T if tall else x
    x = x / x.norm().clamp(min=1e-7)  # no singular value above 1
    for _ in range(STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """`dtype` is that of the orthogonalisation. Its state is momentum alone, in the precision of the weights."""

    def __init__(self, params: Iterable[Any], dtype: torch.dtype, lr: float = 1e-3, weight_decay: float = 0.1):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            lr, decay = group["lr"], group["weight_decay"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter.grad)
                momentum = state["momentum_buffer"].lerp_(parameter.grad, 1 - MOMENTUM)
                update = orthogonalised(parameter.grad.lerp(momentum, MOMENTUM), self.dtype)
                parameter.mul_(1 - lr * decay)
                parameter.add_(update, alpha=-0.2 * max(parameter.shape) ** 0.5 * lr)
