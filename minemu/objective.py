"""The unified objective of Emu: one sequence, two ways to predict what comes next.

    L = CE(next token | what came before) + w * mean((next visual embedding - prediction)^2)

Sun et al. 2023, eq. 1-2; the mean is over the E numbers of an embedding too. The released code builds the pairs of the second
term but never computes it.

Axes   B rows   L positions   E width of the visual embeddings, which are regressed   W vocabulary
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from minemu.config import ObjectiveConfig
from minemu.sequence import IGNORE, Targets


def text_loss(logits: Tensor, targets: Targets) -> Tensor:
    """Mean cross-entropy of the classified tokens; logits (B, L, W)."""
    said = targets.text != IGNORE
    if not said.any():
        return logits[:0].sum()
    said = said.to(logits.device)  # with a device map the last layer may be elsewhere
    return F.cross_entropy(logits[:, :-1][said].float(), targets.text.to(logits.device)[said])


def image_loss(predictions: Tensor, embeddings: Tensor, targets: Targets, objective: ObjectiveConfig) -> Tensor:
    """Mean distance of regressed embeddings from what really comes next; both (B, L, E)."""
    if not targets.image.any():
        return predictions[:0].sum()
    regressed = targets.image.to(predictions.device)
    predicted = predictions[:, :-1][regressed].float()                          # (pairs, E)
    following = embeddings.to(predictions.device)[:, 1:][regressed].float()     # (pairs, E)
    if objective.targets != "attached":
        following = following.detach()
    if objective.image_loss == "cosine":
        return (1 - F.cosine_similarity(predicted, following, dim=-1)).mean()
    return F.mse_loss(predicted, following)


def unified_loss(text: Tensor, image: Tensor, objective: ObjectiveConfig) -> Tensor:
    return text + objective.image_loss_weight * image.to(text.device)  # a device map may part the two heads
