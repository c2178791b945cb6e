"""Conversations: what the loss acts on, and scores before and after tuning.

show_spoken      one conversation as chips; those that are learnt from are blue and underlined
show_change      scores before and after, with their intervals

Axes   B rows   L positions
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from minemu.drawing import (
    CHIP,
    FAINT,
    LINE,
    REGRESSES,
    SAYS,
    STYLE,
    Chip,
    add_box,
    add_chips,
    canvas,
    chips_of_batch,
    lay_out,
)  # fmt: skip
from minemu.errors import MinemuError
from minemu.figures.charts import charts, label, legend
from minemu.processor import EmuProcessor
from minemu.sequence import IGNORE
from minemu.tokenizer import ASSISTANT, USER

# ---- the loss mask ---------------------------------------------------------------------------------------------------


def show_spoken(
    batch: dict[str, Tensor], answers: Tensor, processor: EmuProcessor, row: int = 0, width: float = 760
) -> Figure:
    """Row `row` of a batch. `answers` (B, L) are the ids that the loss acts on, IGNORE elsewhere."""
    if answers.shape != batch["input_ids"].shape:
        raise MinemuError(
            f"answers have shape {tuple(answers.shape)}, not {tuple(batch['input_ids'].shape)} as input_ids"
        )
    spoken = answers[row] != IGNORE
    chips = [_told_apart(chip, spoken) for chip in chips_of_batch(batch, processor)[row] if chip.text[:5] != "[PAD]"]
    none = spoken.new_zeros(len(spoken) - 1)
    with rc_context(STYLE):
        figure, axes = canvas(width, lay_out(chips, width - 24)[1] + 40)
        add_chips(axes, chips, 12, 12, width - 24, spoken[1:], none)
        y = lay_out(chips, width - 24)[1] + 22
        add_box(axes, 12, y - 6, 16, 12, CHIP["word"])
        axes.plot([14, 26], [y + 9, y + 9], color=SAYS, lw=2)
        axes.text(34, y, f"the loss acts here: {int(spoken.sum())} positions", va="center", color=FAINT)
        add_box(axes, 230, y - 6, 16, 12, CHIP["pad"])
        axes.text(252, y, "read, not learnt", va="center", color=FAINT)
    return figure


def _told_apart(chip: Chip, spoken: Tensor) -> Chip:
    """Blue where the loss acts, orange for roles and pictures, grey for the rest."""
    if chip.pixels is not None or chip.text in (USER, ASSISTANT):
        return replace(chip, kind="structure")
    return replace(chip, kind="word" if spoken[chip.start] else "pad")


# ---- scores ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """A score between 0 and 1 and its 95 % interval."""

    score: float
    low: float
    high: float


def show_change(rows: Sequence[tuple[str, Measured, Measured]], width: float = 760) -> Figure:
    """A line a task (title, before, after): two marks with their intervals, joined."""
    if not rows:
        raise MinemuError("there is no score to show; give at least one task measured before and after")
    figure, (axes,) = charts(width, 70 + 30 * len(rows), 1)
    for place, (_, before, after) in enumerate(rows):
        axes.plot([before.score, after.score], [place, place], color=LINE, lw=2, zorder=1)
        for measured, shift, colour, mark in ((before, 0.13, REGRESSES, "o"), (after, -0.13, SAYS, "s")):
            y = place + shift
            axes.plot([measured.low, measured.high], [y, y], color=colour, lw=1.4, zorder=2)
            axes.plot(measured.score, y, mark, color=colour, ms=6, zorder=3, label=None if place else _WHEN[mark])
    axes.set_yticks(range(len(rows)), [textwrap.fill(title, 44) for title, *_ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    label(axes, "score, with its 95 % interval")
    legend(axes, ncols=2, loc="lower right", bbox_to_anchor=(1, 1), handlelength=2.0)
    return figure


_WHEN = {"o": "base", "s": "with the adapter"}
