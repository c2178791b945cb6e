"""The objective: which position predicts which target, and which module learns from which loss.

show_pairs       prediction at position t, target at t + 1, for both heads
show_gradients   length of the gradient of each loss on each module
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from torch import Tensor

from minemu.config import ObjectiveConfig
from minemu.drawing import CHIP, FAINT, INK, LINE, REGRESSES, SAYS, STYLE, add_strip, canvas, token_words
from minemu.errors import MinemuError
from minemu.figures.charts import SERIES, charts, label, legend
from minemu.processor import EmuProcessor
from minemu.sequence import IGNORE, targets


def show_pairs(
    input_ids: Tensor, processor: EmuProcessor, objective: ObjectiveConfig | None = None, row: int = 0
) -> Figure:
    """Row `row` of (B, L) twice: the upper one is what stands at t, the lower what stands at t + 1; arrows are the pairs of the loss."""
    if not 0 <= row < len(input_ids):
        raise MinemuError(f"the batch has no row {row}; choose one of 0 ... {len(input_ids) - 1}")
    line = input_ids[row : row + 1].cpu()
    goals = targets(line, processor.ids, objective or ObjectiveConfig())
    says, regresses = (goals.text[0] != IGNORE).tolist(), goals.image[0].tolist()
    words, structure = token_words(line[0].tolist(), processor), set(processor.ids.structure)
    kinds = ["pad" if t == processor.ids.pad else "picture" if t in structure else "word" for t in line[0].tolist()]
    fills = [CHIP[kind] for kind in kinds]
    left, cell = 96, min(26.0, 660 / len(words))
    tall = 5.0 * max(map(len, words)) + 8
    with rc_context(STYLE):
        figure, axes = canvas(left + cell * len(words) + 14, 2 * tall + 116)
        top, low = 24, 24 + tall + 56
        style = {"edge": LINE, "size": min(7.5, (cell - 1) * 0.6)}
        add_strip(axes, "the model reads", (left, top), cell, tall, words, fills, **style)
        asked = [False, *(say or regress for say, regress in zip(says, regresses, strict=True))]
        shown = [fill if ask else None for fill, ask in zip(fills, asked, strict=True)]
        inks = [INK if ask else LINE for ask in asked]
        add_strip(axes, "it has to predict", (left, low), cell, tall, words, shown, inks, **style)
        for position in range(len(words)):
            axes.text(left + (position + 0.5) * cell, 13, str(position), size=6.5, color=FAINT, ha="center")
        for position, (say, regress) in enumerate(zip(says, regresses, strict=True)):
            if say or regress:
                start = (left + (position + 0.5) * cell, top + tall + 2)
                stop = (left + (position + 1.5) * cell, low - 2)
                _pair(axes, start, stop, SAYS if say else REGRESSES, dashed=regress)
        _legend(axes, left, low + tall + 24)
    return figure


def _pair(axes: Axes, start: tuple[float, float], stop: tuple[float, float], colour: str, dashed: bool) -> None:
    axes.add_patch(
        FancyArrowPatch(
            start, stop, arrowstyle="-|>", mutation_scale=7, color=colour, lw=1.3, shrinkA=0, shrinkB=0,
            linestyle=(0, (3, 1.2)) if dashed else "-",
        )
    )  # fmt: skip


def _legend(axes: Axes, x: float, y: float) -> None:
    axes.plot([x, x + 22], [y, y], color=SAYS, lw=1.6)
    axes.text(x + 28, y, "classified: LM head, cross-entropy", va="center")
    axes.plot([x + 220, x + 242], [y, y], color=REGRESSES, lw=1.6, linestyle=(0, (3, 1.2)))
    axes.text(x + 248, y, "regressed: regression head, distance", va="center")


def show_gradients(norms: Mapping[str, Mapping[str, float]], title: str = "length of the gradient") -> Figure:
    """`norms`: loss -> module -> length of its gradient. Dots on a logarithmic scale; a module without any gradient says "none"."""
    if not norms or not all(norms.values()):
        raise MinemuError("there is no gradient to show; give norms as {loss: {module: length}}")
    modules = list(next(iter(norms.values())))
    if any(list(of) != modules for of in norms.values()):
        raise MinemuError("the losses name different modules; give the same ones for each loss")
    found = [value for of in norms.values() for value in of.values() if value > 0]
    if not found:
        raise MinemuError("every gradient is zero; call backward() before you measure")
    floor = 10.0 ** np.floor(np.log10(min(found)) - 0.5)
    high = 0.8 / len(norms)
    figure, (axes,) = charts(760, 70 + 14 * len(norms) * len(modules))
    for index, (loss, of) in enumerate(norms.items()):
        places = np.arange(len(modules)) + (index - (len(norms) - 1) / 2) * high
        colour, _, marker = SERIES[index % len(SERIES)]
        lengths = [of[module] or np.nan for module in modules]
        axes.plot(lengths, places, ls="", marker=marker, ms=6.5, color=colour, label=loss)
        for place, module in zip(places, modules, strict=True):
            if of[module] == 0:
                axes.text(floor * 1.08, place, "none", va="center", size=7.5, color=colour)
    axes.set(xscale="log", xlim=(floor, max(found) * 1.6), yticks=range(len(modules)), yticklabels=modules)
    axes.set_ylim(len(modules) - 0.5, -0.5)
    axes.hlines(np.arange(1, len(modules)) - 0.5, floor, max(found) * 1.6, color=LINE, lw=0.5)
    axes.grid(axis="x", color=LINE, lw=0.5)
    label(axes, title=title)
    legend(figure, loc="outside lower center", ncols=len(norms))
    return figure
