"""The sequence, position by position: spans and loss masks, padding against packing.

show_spans     token ids, spans and both loss masks of one row
show_packing   the same samples padded and packed, and which position may read which

Axes   B rows   L positions
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from minemu.config import ObjectiveConfig
from minemu.drawing import CHIP, FAINT, LINE, REGRESSES, SAYS, STYLE, add_strip, canvas
from minemu.errors import MinemuError
from minemu.sequence import IGNORE, TokenIds, block_mask, targets

SPANS = {"text": "#cfe0fa", "picture": "#f8cfa4", "padding": "#eef1f4"}
SAMPLES = ("#9ec9ec", "#f2bd83", "#a9d8c3", "#e6b8d0", "#f1e08f", "#c3bde8")  # light tints of Okabe and Ito's colours
LEFT, WIDTH, GAP = 112, 780, 7


def show_spans(
    input_ids: Tensor, words: Sequence[str], ids: TokenIds, objective: ObjectiveConfig | None = None
) -> Figure:
    """One row (L,) as a strip: ids, what they stand for, spans, and the target of each position under the head that has to give it.

    Position t predicts what stands at t + 1, so each target is drawn one place to the left of where it stands itself.
    """
    if input_ids.ndim != 1 or len(words) != len(input_ids):
        raise MinemuError(
            f"input_ids of shape {tuple(input_ids.shape)} and {len(words)} words; give one row (L,) and L words"
        )
    row = input_ids.tolist()
    goals = targets(input_ids[None].cpu(), ids, objective or ObjectiveConfig())
    says = [*(goals.text[0] != IGNORE).tolist(), False]
    regresses = [*goals.image[0].tolist(), False]
    kinds = [_kind(token, ids) for token in row]
    cell = min(24.0, (WIDTH - LEFT - 12) / len(row))
    height = {"ids": max(26.0, 4.6 * max(len(str(t)) for t in row) + 6), "words": 4.6 * max(map(len, words)) + 8}
    with rc_context(STYLE):
        figure, axes = canvas(LEFT + cell * len(row) + 12, 62 + height["ids"] + 3 * height["words"] + 14)
        for position in range(0, len(row), 1 if cell > 14 else 5):
            axes.text(LEFT + (position + 0.5) * cell, 12, str(position), size=6.5, color=FAINT, ha="center")
        fills = [CHIP["pad" if kind == "padding" else "picture" if kind == "picture" else "word"] for kind in kinds]
        add_strip(axes, "position\ntoken id", (LEFT, 20), cell, height["ids"], [*map(str, row)], fills)
        y = 20 + height["ids"] + GAP
        add_strip(axes, "token", (LEFT, y), cell, height["words"], words, fills)
        y = _spans(axes, kinds, y + height["words"] + GAP, cell, _pictures(row, ids))
        following = [*words[1:], ""]
        for name, told, colour in (
            ("LM head\nclassifies", says, SAYS),
            ("regression head\nregresses", regresses, REGRESSES),
        ):
            marked = [word if goal else "" for word, goal in zip(following, told, strict=True)]
            fills, inks = [colour if goal else None for goal in told], ["white"] * len(told)
            add_strip(axes, name, (LEFT, y), cell, height["words"], marked, fills, inks)
            y += height["words"] + GAP
    return figure


def _kind(token: int, ids: TokenIds) -> str:
    if token == ids.pad:
        return "padding"
    return "picture" if token in (ids.image_start, ids.image, ids.image_end) else "text"


def _pictures(row: list[int], ids: TokenIds) -> list[int]:
    """For each position, how many pictures have begun."""
    return torch.tensor([token == ids.image_start for token in row]).cumsum(0).tolist()


def _spans(axes: Axes, kinds: list[str], y: float, cell: float, pictures: list[int]) -> float:
    axes.text(LEFT - 8, y + 9, "span", ha="right", va="center")
    start = 0
    for stop in range(1, len(kinds) + 1):
        here = (kinds[start], pictures[start] if kinds[start] == "picture" else None)
        there = None
        if stop < len(kinds):
            there = (kinds[stop], pictures[stop] if kinds[stop] == "picture" else None)
        if here == there:
            continue
        x, width = LEFT + start * cell, (stop - start) * cell - 1
        axes.add_patch(Rectangle((x, y), width, 18, facecolor=SPANS[kinds[start]], edgecolor="white", lw=0.5))
        text = f"picture {pictures[start]}" if kinds[start] == "picture" else kinds[start]
        if width > 4.6 * len(text):
            axes.text(x + width / 2, y + 9, text, ha="center", va="center", size=7.5)
        start = stop
    return y + 25


def show_packing(attention_mask: Tensor, packed: dict[str, Tensor], row: int = 0) -> Figure:
    """The same samples twice, (B, L) padded and packed (`sequence.pack_rows`), and the block mask of packed row `row`."""
    segments, order = packed["segment_ids"].cpu(), packed["order"].tolist()
    if len(order) != len(attention_mask):
        raise MinemuError(
            f"{len(attention_mask)} padded rows but {len(order)} packed ones; pack the rows that were padded"
        )
    if not 0 <= row < len(segments):
        raise MinemuError(f"there is no packed row {row}; choose one of 0 ... {len(segments) - 1}")
    padded = [[b if real else None for real in mask] for b, mask in enumerate(attention_mask.tolist())]
    counted = iter(order)
    rows = []
    for line in segments.tolist():
        names = {segment: next(counted) for segment in range(1, max(line) + 1)}
        rows.append([names.get(segment) for segment in line])
    length = max(attention_mask.shape[1], segments.shape[1])
    unit, side = (430 - 20) / length, 260
    with rc_context(STYLE):
        figure, axes = canvas(WIDTH, max(80 + 20 * (len(padded) + len(rows)), side + 58))
        used = sum(sample is not None for line in padded for sample in line)
        y = 24.0
        for title, lines in (("padded", padded), ("packed", rows)):
            cells = sum(map(len, lines))
            axes.text(14, y - 8, f"{title}: {used} of {cells} positions are real", weight="bold", va="center")
            for line in lines:
                _segments(axes, line, 14, y, unit)
                y += 20
            y += 26
        _mask(axes, block_mask(segments[row : row + 1])[0, 0], rows[row], 490, 44, side)
        axes.text(490, 16, f"block mask of packed row {row}", weight="bold", va="center")
        axes.text(490, 32, "column: read, row: reads; dark: allowed", color=FAINT, va="center")
    return figure


def _segments(axes: Axes, line: list[int | None], x: float, y: float, unit: float) -> None:
    """Runs of one sample as bars with its number; padding is hatched."""
    start = 0
    for stop in range(1, len(line) + 1):
        if stop < len(line) and line[stop] == line[start]:
            continue
        sample, left, width = line[start], x + start * unit, (stop - start) * unit
        colour = "white" if sample is None else SAMPLES[sample % len(SAMPLES)]
        axes.add_patch(
            Rectangle((left, y), width, 16, facecolor=colour, edgecolor=LINE, lw=0.6, hatch="////" if sample is None else None)
        )  # fmt: skip
        if sample is not None:
            axes.text(left + width / 2, y + 8, f"sample {sample}", ha="center", va="center", size=7.5)
        start = stop


def _mask(axes: Axes, allowed: Tensor, line: list[int | None], x: float, y: float, side: float) -> None:
    """(L, L) bool; the samples are named along the diagonal, to the right of their blocks."""
    axes.imshow(
        allowed.float().numpy(), extent=(x, x + side, y + side, y), aspect="auto", interpolation="nearest", cmap="Greys",
        vmin=0, vmax=1.5, zorder=2,
    )  # fmt: skip
    axes.add_patch(Rectangle((x, y), side, side, facecolor="none", edgecolor=LINE, lw=0.8, zorder=3))
    unit = side / len(line)
    for sample in dict.fromkeys(line):
        places = [position for position, here in enumerate(line) if here == sample]
        right, middle = x + (places[-1] + 1) * unit, y + (places[0] + places[-1] + 1) / 2 * unit
        text = "padding" if sample is None else f"sample {sample}"
        fits = right + 52 < x + side
        axes.text(
            right + 5 if fits else x + places[0] * unit - 5, middle, text, size=7.5, va="center", zorder=4,
            ha="left" if fits else "right",
        )  # fmt: skip
