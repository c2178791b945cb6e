"""The checks of notebook 14, claims and open questions.

Axes   n pictures   N embeddings   E regressed width
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minemu.ablations import differs
from minemu.course import call, exercise, number


@exercise(
    "14.differs", "return True only if the means are further apart than three times the larger standard deviation"
)
def check_differs(answer: Callable) -> str:
    cases = {
        "far apart": ([0.50, 0.52, 0.54], [0.60, 0.62, 0.64]),
        "far apart, the other way round": ([0.60, 0.62, 0.64], [0.50, 0.52, 0.54]),
        "close together": ([0.50, 0.52, 0.54], [0.51, 0.53, 0.55]),
        "far apart, but one of them is scattered": ([0.50, 0.52, 0.54], [0.50, 0.62, 0.74]),
        "further apart than three times the mean of two deviations": ([0.44, 0.50, 0.56], [0.63, 0.65, 0.67]),
        "further apart than each deviation asks for, not both together": ([0.50, 0.52, 0.54], [0.57, 0.59, 0.61]),
        "just enough only for a deviation that divides by n, not by n - 1": ([0.0, 0.1, 0.2], [0.28, 0.38, 0.48]),
    }
    for what, (a, b) in cases.items():
        mine = call(answer, list(a), list(b))
        assert isinstance(mine, (bool, np.bool_)) or (isinstance(mine, Tensor) and mine.dtype == torch.bool), (
            f"return True or False, not {type(mine).__name__}"
        )
        assert bool(mine) == differs(a, b), f"two variants {what}: {a} and {b} should give {differs(a, b)}"
    return "a difference has to stand out of the scatter of both variants, whichever is higher"


@exercise(
    "14.nearest",
    "return the share of imagined pictures (n, N, E) whose own true one is nearest by angle, both means taken off",
)
def check_nearest(answer: Callable) -> str:
    def noise(seed: int) -> Tensor:
        return torch.randn(64, 4, 8, generator=torch.Generator().manual_seed(seed))

    true, other = noise(0), noise(1)
    imagined = true + 3 * other
    a, b = (F.normalize(x.flatten(1) - x.flatten(1).mean(0), dim=1) for x in (imagined, true))
    way = 5 * noise(2)[0]  # (N, E), one for all pictures
    wanted = ((a @ b.T).argmax(1) == torch.arange(64)).float().mean().item()
    for what, scale, shift, aside in (
        ("as they are", 1.0, 0.0, 0.0),
        ("ten times as long", 10.0, 0.0, 0.0),
        ("all moved the same way", 1.0, 1.0, 0.0),
        ("as they are and the true ones all moved the same way", 1.0, 0.0, 1.0),
    ):
        mine = number(call(answer, scale * imagined + shift * way, true + aside * way), "the share")
        assert 0 <= mine <= 1, f"a share is between 0 and 1, not {mine:.3g}"
        assert abs(mine - wanted) < 1e-6, (
            f"with the imagined embeddings {what} the share should be {wanted:.3f}, not {mine:.3f}"
        )
    return f"{wanted:.0%} of them, however long or shifted the embeddings are; chance is {1 / 64:.1%}"
