"""The checks of notebook 07, drawing in embedding space.

Axes   n pictures   N embeddings a picture   E regressed width
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minemu.course import call, exercise, same, shaped

PICTURES, INDICES, WIDTH = 40, 4, 8


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@exercise(
    "07.rank",
    "return for each imagined picture the place of its own among the true ones, 1 for the nearest: integers (n,)",
)
def check_rank(answer: Callable) -> str:
    true = noise(PICTURES, INDICES, WIDTH)
    imagined = true + 2.5 * noise(PICTURES, INDICES, WIDTH, seed=1)
    mine = call(answer, imagined.clone(), true.clone())
    distances = torch.cdist(imagined.flatten(1), true.flatten(1))  # (n, n)
    wanted = (distances < distances.diagonal()[:, None]).sum(1) + 1
    if isinstance(mine, Tensor) and mine.shape == wanted.shape:
        assert (mine + 1 != wanted).any(), "the nearest has place 1, not 0"
        other = torch.lt(distances.T, distances.diagonal()[:, None]).sum(1) + 1
        assert (mine != other).any(), "for each imagined one rank the true ones, not the other way round"
    same(mine, wanted, "the place of each picture", 0)
    return f"the places of {PICTURES} pictures, from {int(wanted.min())} to {int(wanted.max())}"


@exercise("07.text", "return the best prediction for each picture if only its text is known: (n, E)")
def check_text(answer: Callable) -> str:
    texts = torch.arange(PICTURES) % 5
    embeds = noise(PICTURES, WIDTH) + 3 * noise(5, WIDTH, seed=1)[texts]
    mine = call(answer, embeds.clone(), texts.clone())
    wanted = torch.stack([embeds[texts == text].mean(0) for text in texts])
    if isinstance(mine, Tensor) and mine.shape == wanted.shape:
        assert not torch.allclose(mine.float(), embeds), (
            "a text is all that is known: pictures of one text get one prediction"
        )
    same(mine, wanted, "the prediction", 1e-4)
    left = (embeds - mine).square().sum()
    kept = (mine - embeds.mean(0)).square().sum()
    torch.testing.assert_close(left + kept, (embeds - embeds.mean(0)).square().sum())
    return "what it predicts and what it misses add up to the variance of the embeddings"


@exercise(
    "07.mix",
    "return embeds of which a share `signal` is left and noise has taken the rest, of the same mean and variance",
)
def check_mix(answer: Callable) -> str:
    count = 20_000
    embeds, other = noise(count, 1, 2), noise(count, 1, 2, seed=1)
    for share in (0.0, 0.3, 0.8, 1.0):
        mine = call(answer, embeds.clone(), other.clone(), torch.full((count, 1, 1), share))
        shaped(mine, embeds.shape, "the mixture")
        left = (mine * embeds).mean().item()
        assert abs(left - share) < 0.05, (
            f"the embeddings should be scaled by signal, {share} here, but {left:.2f} of them is left"
        )
        spread = mine.float().var().item()
        assert abs(spread - 1) < 0.05, f"with signal {share} the variance should stay 1, but it is {spread:.2f}"
        same(mine, share * embeds + (1 - share**2) ** 0.5 * other, f"the mixture at signal {share}", 1e-4)
    return "the words are all that is left at signal 0, and mean and variance of a channel do not give that away"
