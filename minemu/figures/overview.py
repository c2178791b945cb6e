"""Pictures, batches, sequences and the whole model.

show_pictures   pictures in a grid
show_batch      what the model sees, decoded back from the tensors
show_sequence   one sequence, position by position: inputs, mask, both kinds of targets
show_model      the whole model in one picture, drawn from a live forward pass

Axes   B rows   L positions   n pictures   N embeddings a picture   S side of a picture in pixels
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from minemu import sequence
from minemu.config import ObjectiveConfig
from minemu.drawing import (
    CHIP,
    FAINT,
    MONO,
    SAYS,
    STYLE,
    add_arrow,
    add_box,
    add_chips,
    add_heat,
    add_legend,
    add_picture,
    add_strip,
    canvas,
    chips_of_batch,
    drawable,
    lay_out,
    token_words,
)
from minemu.errors import MinemuError
from minemu.pipeline import EmuPipeline
from minemu.processor import EmuProcessor
from minemu.trace import Stage, Trace, trace


def show_pictures(pictures: Sequence[Image.Image], titles: Sequence[str] | None = None, columns: int = 6) -> Figure:
    """Pictures in a grid, pixels kept sharp, each with its title below."""
    if not len(pictures):
        raise MinemuError("there is no picture to show; give at least one")
    if titles is not None and len(titles) != len(pictures):
        raise MinemuError(f"{len(pictures)} pictures but {len(titles)} titles; give one title for each picture")
    texts = (
        [textwrap.fill(drawable(str(title)), 22) for title in titles] if titles is not None else [""] * len(pictures)
    )
    columns = min(columns, len(pictures))
    side, gap = 112, 12
    below = 8 + 11 * max(text.count("\n") + 1 for text in texts) if titles is not None else 0
    rows = -(-len(pictures) // columns)
    with rc_context(STYLE):
        figure, axes = canvas(gap + columns * (side + gap), gap + rows * (side + below + gap))
        for index, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
            x, y = gap + index % columns * (side + gap), gap + index // columns * (side + below + gap)
            add_picture(axes, np.asarray(picture.convert("RGB")), x, y, side)
            axes.text(x + side / 2, y + side + 5, text, ha="center", va="top", linespacing=1.25)
    return figure


# ---- the batch viewer --------------------------------------------------------------------------------------------------


def show_batch(
    batch: dict[str, Tensor], processor: EmuProcessor, objective: ObjectiveConfig | None = None, width: float = 760
) -> Figure:
    """What the model sees, decoded back from `input_ids` and `images`: a line of token chips for each sample.

    Words that the LM head has to say are underlined; an arc ends at each embedding that the regression head has to
    predict and starts where it is predicted. Anything else is context only.
    """
    ids = batch["input_ids"]
    spoken = sequence.targets(ids, processor.ids, objective or ObjectiveConfig())
    chips = chips_of_batch(batch, processor)
    with rc_context(STYLE):
        heights = [lay_out(row, width - 72)[1] for row in chips]
        figure, axes = canvas(width, 16 + sum(height + 22 for height in heights) + 20)
        y = 16.0
        for b, (row, height) in enumerate(zip(chips, heights, strict=True)):
            axes.text(12, y + 11, f"sample {b}", color=FAINT, va="center")
            add_chips(axes, row, 60, y, width - 72, spoken.text[b] != sequence.IGNORE, spoken.image[b])
            y += height + 22
        add_legend(axes, 60, y + 4)
    return figure


# ---- one sequence, position by position --------------------------------------------------------------------------------


def show_sequence(
    batch: dict[str, Tensor], processor: EmuProcessor, objective: ObjectiveConfig | None = None, row: int = 0
) -> Figure:
    """Row `row` of a batch as a strip: what stands at each position, what is real, and what each position has to predict."""
    if not 0 <= row < len(batch["input_ids"]):
        raise MinemuError(f"the batch has no row {row}; choose one of 0 ... {len(batch['input_ids']) - 1}")
    ids = batch["input_ids"][row : row + 1]
    goals = sequence.targets(ids, processor.ids, objective or ObjectiveConfig())
    words = token_words(ids[0].tolist(), processor)
    nothing = [("", None)]
    structure, pad = processor.ids.structure, processor.ids.pad
    kinds = ["pad" if i == pad else "structure" if i in structure else "word" for i in ids[0].tolist()]
    strips = {
        "input": [(word, CHIP[kind]) for word, kind in zip(words, kinds, strict=True)],
        "attention mask": [(str(m), "#dfe5ea" if m else None) for m in batch["attention_mask"][row].tolist()],
        "LM head: next word": [
            (word, "#cfe0fa") if goal != sequence.IGNORE else nothing[0]
            for word, goal in zip(words[1:], goals.text[0].tolist(), strict=True)
        ]
        + nothing,
        "regression head:\nnext embedding": [
            (word, "#f8cfa4") if goal else nothing[0]
            for word, goal in zip(words[1:], goals.image[0].tolist(), strict=True)
        ]
        + nothing,
    }
    return _draw_strips(strips, len(words))


def _draw_strips(strips: dict[str, list[tuple[str, str | None]]], length: int) -> Figure:
    """Rows of cells (text, colour; None: an empty cell) under the position numbers."""
    cell, left, top = min(max(700 / length, 9.0), 22.0), 104, 24
    longest = {name: max(len(text) for text, _ in cells) for name, cells in strips.items()}
    heights = {name: max(22.0, longest[name] * 4.4 + 8) for name in strips}
    with rc_context(STYLE):
        figure, axes = canvas(left + cell * length + 12, top + sum(heights.values()) + 6 * len(strips) + 6)
        for position in range(0, length, 1 if cell > 14 else 5):
            axes.text(left + (position + 0.5) * cell, top - 8, str(position), size=6.5, color=FAINT, ha="center")
        y = top
        for name, cells in strips.items():
            texts, fills = zip(*cells, strict=True)
            rotation = 0 if longest[name] == 1 else 90
            add_strip(axes, name, (left, y), cell, heights[name], texts, fills, rotation=rotation)
            y += heights[name] + 6
    return figure


# ---- the whole model ---------------------------------------------------------------------------------------------------


PLACES = {  # x, y, width, height of each card: the upper row runs to the right, the lower one back, under its own input
    "picture": (14, 14, 112, 208),
    "encoder": (158, 14, 152, 208),
    "bridge": (342, 14, 176, 208),
    "sequence": (550, 14, 268, 208),
    "llm": (550, 258, 268, 208),
    "lm_head": (342, 258, 176, 99),
    "regression_head": (342, 367, 176, 99),
    "decoder": (158, 258, 152, 208),
    "drawn": (14, 258, 112, 208),
}
PLAIN, VISION, BRIDGE, LLM, DECODER = "#f5f7fa", "#e6f4ea", "#e0f2f1", "#ece8f9", "#fdeee0"
COLOURS = {
    "picture": PLAIN,
    "encoder": VISION,
    "bridge": BRIDGE,
    "sequence": PLAIN,
    "llm": LLM,
    "lm_head": LLM,
    "regression_head": LLM,
    "decoder": DECODER,
    "drawn": PLAIN,
}
FLOW = (  # arrows between the cards
    ((130, 118), (154, 118)),
    ((314, 118), (338, 118)),
    ((522, 118), (546, 118)),
    ((684, 226), (684, 254)),
    ((546, 340), (522, 312)),
    ((546, 384), (522, 412)),
    ((338, 412), (314, 384)),
    ((154, 362), (130, 362)),
)


def show_model(pipe: EmuPipeline, batch: dict[str, Tensor], generator: torch.Generator | None = None) -> Figure:
    """The whole model in one picture, drawn from a live forward pass of `batch` (its first sample, with a picture in it).

    Shapes are those of the tensors that passed by; parameter counts are those of the modules and add up to all there are.
    The picture below the input is decoded from what the regression head predicted, each embedding from the true ones before.
    """
    seen = trace(pipe, batch, generator)
    with rc_context(STYLE):
        figure, axes = canvas(832, 492)
        for name, place in PLACES.items():
            _card(axes, seen.stages[name], *place, COLOURS[name])
        _art(axes, seen, batch, pipe.processor)
        for start, stop in FLOW:
            add_arrow(axes, start, stop)
        axes.text(14, 482, f"{seen.preset}: {seen.parameters:,} parameters in all", color=FAINT, va="center")
    return figure


def _card(axes: Axes, stage: Stage, x: float, y: float, width: float, height: float, colour: str) -> None:
    add_box(axes, x, y, width, height, colour, radius=6)
    axes.text(x + 9, y + 15, stage.name, weight="bold", size=9.5, va="center")
    axes.text(x + 9, y + 29, stage.gloss, color=FAINT, size=7.5, va="center")
    shape = " x ".join(str(side) for side in stage.shape)
    axes.text(x + 9, y + height - 11, shape, family=MONO, size=8, va="center")
    if stage.parameters:
        text = f"{stage.parameters:,} parameters"
        fits = len(shape) * 4.9 + len(text) * 4.4 + 24 < width
        axes.text(
            x + 9 if not fits else x + width - 9,
            y + height - (11 if fits else 24),
            text,
            color=FAINT,
            size=7.5,
            ha="right" if fits else "left",
            va="center",
        )


def _art(axes: Axes, seen: Trace, batch: dict[str, Tensor], processor: EmuProcessor) -> None:
    """Inside the cards: the tensors themselves."""
    for name, pixels in {
        "picture": seen.picture,
        "encoder": seen.features,
        "decoder": seen.latents,
        "drawn": seen.drawn,
    }.items():
        x, y, width, _ = PLACES[name]
        add_picture(axes, pixels, x + (width - 94) / 2, y + 48, 94)
    for name, values, above, below in (
        ("bridge", seen.embeds, 48, 46),
        ("llm", seen.hidden.T, 48, 30),
        ("regression_head", seen.predicted, 38, 24),
    ):
        x, y, width, height = PLACES[name]
        add_heat(axes, values, x + 9, y + above, width - 18, height - above - below)
    x, y, *_ = PLACES["lm_head"]
    said = " ".join(token_words(seen.said, processor)) or "(no word has to be said here)"
    text = textwrap.fill(said, 30, max_lines=3, placeholder=" ...")
    axes.text(x + 9, y + 57, text, family=MONO, size=6.8, va="center", color=SAYS)
    first = {"input_ids": batch["input_ids"][:1][:, batch["attention_mask"][0].bool()], "images": batch["images"]}
    x, y, width, _ = PLACES["sequence"]
    none = torch.zeros(first["input_ids"].shape[1], dtype=torch.bool)
    add_chips(axes, chips_of_batch(first, processor)[0], x + 9, y + 42, width - 14, none, none)
