"""What happens in the language model: slots overwritten, attention, two heads that take turns.

Axes   L positions   D LLM width   layers of the LLM
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from minemu.drawing import INK, LINE, MONO, REGRESSES, SAYS, STYLE, add_heat, canvas
from minemu.errors import MinemuError
from minemu.figures.charts import BLUES, NEVER, charts, label, legend


@dataclass(frozen=True)
class Turn:
    """One sequence: its tokens (L), and how right each head is at position t about position t + 1, nan where it is silent."""

    words: Sequence[str]
    said: Tensor  # (L - 1,) probability of the true next word
    regressed: Tensor  # (L - 1,) 1 - squared error / squared error of the mean embedding


def show_overwrite(before: Tensor, after: Tensor, words: Sequence[str]) -> Figure:
    """The input of the LLM before and after the slots are overwritten: both (L, D), a column a position, with its token.

    Each column is scaled to a mean square of one, as words and pictures may differ in length; RMSNorm does so too.
    """
    if before.shape != after.shape or before.ndim != 2 or len(words) != len(before):
        raise MinemuError(
            f"two matrices {tuple(before.shape)}, {tuple(after.shape)} and {len(words)} words do not belong together; "
            "give (L, D), (L, D) and L words"
        )
    left, width, tall = 96, 640, 96
    cell = width / len(words)
    below = 10 + 4.7 * max(map(len, words))
    changed = (before != after).any(1).tolist()
    with rc_context(STYLE):
        figure, axes = canvas(left + width + 14, 14 + 2 * (tall + 10) + below)
        for row, (name, values) in enumerate({"word embeddings": before, "what the LLM\nreads": after}.items()):
            y = 12 + row * (tall + 10)
            scaled = values.detach().float() / values.detach().float().square().mean(1, keepdim=True).sqrt().clamp(
                min=1e-9
            )
            add_heat(axes, scaled.cpu().numpy().T, left, y, width, tall)
            axes.text(left - 8, y + tall / 2, name, ha="right", va="center")
        y = 12 + 2 * (tall + 10)
        for position, (word, new) in enumerate(zip(words, changed, strict=True)):
            axes.text(
                left + (position + 0.5) * cell, y, word, family=MONO, size=min(7.5, cell * 0.7), rotation=90,
                ha="center", va="top", color=REGRESSES if new else INK,
            )  # fmt: skip
    return figure


def show_attention(weights: Tensor, words: Sequence[str], slots: Sequence[bool]) -> Figure:
    """Attention of each layer, (layers, L, L) mean of its heads: a row reads its columns. `slots` (L) marks the picture."""
    if weights.ndim != 3 or weights.shape[1] != weights.shape[2] or weights.shape[1] != len(words):
        raise MinemuError(
            f"attention of shape {tuple(weights.shape)} does not fit {len(words)} words; give (layers, L, L)"
        )
    values = weights.detach().float().cpu().numpy()
    future = np.triu(np.ones(values.shape[1:], dtype=bool), 1)
    marked = np.flatnonzero(np.asarray(slots, dtype=bool))
    columns = min(2, len(values))
    rows = -(-len(values) // columns)
    figure, grid = charts(380 * columns, 372 * rows, columns, rows)
    for layer, axes in enumerate(grid):
        if layer >= len(values):
            axes.set_visible(False)
            continue
        axes.set_facecolor(NEVER)
        axes.imshow(
            np.where(future, np.nan, values[layer]),
            cmap=BLUES,
            vmin=0,
            vmax=1,
            interpolation="nearest",
            aspect="auto",
        )
        label(axes, title=f"layer {layer + 1}")
        size = min(7.0, 220 / len(words))
        axes.set_xticks(range(len(words)), words, rotation=90, family=MONO, size=size)
        axes.set_yticks(range(len(words)), words, family=MONO, size=size)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        if len(marked):
            low, high = marked[0] - 0.5, marked[-1] + 0.5
            axes.plot(
                [low, high, high, low, low], [low, low, high, high, low], color=REGRESSES, lw=1.4, label="the picture"
            )
            legend(axes, loc="upper right")
    return figure


def show_turns(turns: Sequence[Turn]) -> Figure:
    """A plot a sequence: at each position the head that has to speak, and how right it is about the next position."""
    if not turns:
        raise MinemuError("there is no sequence to show; give at least one Turn")
    figure, grid = charts(760, 196 * len(turns), rows=len(turns))
    for axes, turn in zip(grid, turns, strict=True):
        if not len(turn.words) - 1 == len(turn.said) == len(turn.regressed):
            raise MinemuError(
                f"{len(turn.words)} words need {len(turn.words) - 1} values of each head, position t speaks of t + 1; "
                f"got {len(turn.said)} and {len(turn.regressed)}"
            )
        _turn(axes, turn)
    legend(grid[0], loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, borderaxespad=0.2)
    return figure


def _turn(axes: Axes, turn: Turn) -> None:
    across = np.arange(len(turn.said))
    for values, colour, hatch, name in (
        (turn.said, SAYS, "", "LM head: probability of the true next word"),
        (turn.regressed, REGRESSES, "////", "regression head: 1 - error / error of the mean embedding"),
    ):
        heights = values.detach().float().cpu().numpy()
        axes.bar(
            across, np.clip(np.nan_to_num(heights), 0, 1), width=0.8, color=colour, hatch=hatch,
            edgecolor="white", lw=0, label=name,
        )  # fmt: skip
    axes.set_xticks(range(len(turn.words)), turn.words, rotation=90, family=MONO, size=min(8.0, 330 / len(turn.words)))
    axes.set_xlim(-0.6, len(turn.words) - 0.4)
    axes.set_ylim(0, 1.02)
    axes.set_yticks([0, 0.5, 1])
    axes.grid(axis="y", color=LINE, lw=0.5)
    label(axes, y="how right about\nthe next position")
