"""Exercises of notebook 05: one objective, two losses."""

from __future__ import annotations

import torch

from minemu.config import LLMConfig, ObjectiveConfig
from minemu.course import call, exercise, same, shaped
from minemu.objective import image_loss
from minemu.sequence import PICTURE, Targets, TokenIds, interleave, pad_rows, targets

IDS = TokenIds.of(LLMConfig(words=100))
WIDTH = 8


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Predictions and inputs (B, L, D), and which positions regress (B, L - 1)."""
    rows = [interleave([[5, 6], PICTURE], IDS, 4, eos=True), interleave([PICTURE, [7]], IDS, 4, eos=True)]
    input_ids = pad_rows(rows, IDS)["input_ids"]
    draw = torch.Generator().manual_seed(0)
    made = [torch.randn(*input_ids.shape, WIDTH, generator=draw).requires_grad_() for _ in range(2)]
    return made[0], made[1], targets(input_ids, IDS, ObjectiveConfig()).image


@exercise("05.image_loss", "return the mean squared distance of the regressed pairs, the targets detached")
def loss(answer) -> str:
    predictions, inputs, regress = example()
    pairs = int(regress.sum())
    with torch.enable_grad():
        mine = call(answer, predictions, inputs, regress)
        shaped(mine, (), "the loss")
        goals = Targets(text=torch.zeros_like(regress, dtype=torch.long), image=regress)
        wanted = image_loss(predictions, inputs, goals, ObjectiveConfig())
        same(mine.detach(), wanted.detach(), "the loss")
        assert mine.requires_grad, "no gradient reaches the predictions; detach the targets only"
        mine.backward()
    assert inputs.grad is None or not inputs.grad.any(), "a gradient reaches the targets; detach them"
    assert predictions.grad is not None, "no gradient reaches the predictions"
    return f"{pairs} pairs, and the targets stay where they are"


@exercise("05.target_gradient", "return the gradient of the loss with respect to the targets, (P, D)")
def target_gradient(answer) -> str:
    draw = torch.Generator().manual_seed(0)
    predicted, following = (torch.randn(5, WIDTH, generator=draw) for _ in range(2))
    following.requires_grad_()
    with torch.enable_grad():
        torch.nn.functional.mse_loss(predicted, following).backward()
    same(call(answer, predicted, following.detach()), following.grad, "the gradient")
    return "each target is pulled towards its prediction, as strongly as the prediction towards it"
