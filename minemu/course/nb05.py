"""Exercises of notebook 05: one objective, two losses.

Axes   P pairs   N embeddings of one picture   D their width
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from minemu.course import call, exercise, same

PAIRS, WIDTH = 5, 8


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@exercise(
    "05.cosine",
    "return the gradient of the cosine distance with respect to the predictions, (P, D)",
)
def cosine(answer: Callable) -> str:
    predicted, following = 3 * noise(PAIRS, WIDTH), noise(PAIRS, WIDTH, seed=1)
    own = predicted.clone().requires_grad_()
    with torch.enable_grad():
        (1 - F.cosine_similarity(own, following, dim=-1)).mean().backward()
    mine = call(answer, predicted.clone(), following.clone())
    if isinstance(mine, Tensor) and mine.shape == predicted.shape:
        along = (mine * predicted).sum(-1).abs().max()
        assert along < 1e-4, "a step along the gradient should not change the length of a prediction, but here it does"
    same(mine, own.grad, "the gradient", 1e-5)
    return "at right angles to every prediction: the cosine has nothing to say about length"


@exercise("05.both_roles", "return the gradient of the loss with respect to the embeddings, (N, D)")
def both_roles(answer: Callable) -> str:
    embeds, weight = noise(PAIRS, WIDTH), noise(WIDTH, WIDTH, seed=1)
    wanted = {attached: gradient(embeds, weight, attached) for attached in (False, True)}
    for attached, told in ((False, "through the inputs alone"), (True, "with attached targets")):
        mine = call(answer, embeds.clone(), weight.clone(), attached)
        if attached and isinstance(mine, Tensor) and mine.shape == embeds.shape:
            assert not torch.allclose(mine, wanted[False]), "with attached targets the gradient as targets is added"
        same(mine, wanted[attached], f"the gradient {told}", 1e-5)
    still = int((wanted[False] != 0).any(1).sum())
    return f"detached targets, and yet {still} of {len(embeds)} embeddings are moved by the image loss"


def gradient(embeds: Tensor, weight: Tensor, attached: bool) -> Tensor:
    """Of the distance between `weight` times each embedding and the next one, (N, D)."""
    own = embeds.clone().requires_grad_()
    with torch.enable_grad():
        following = own[1:] if attached else own[1:].detach()
        F.mse_loss(own[:-1] @ weight.T, following).backward()
    return own.grad
