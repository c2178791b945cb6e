"""Ablations: what each variant of a question measured, seed by seed.

show_ablation   one question: a panel a measure, a line a variant, a point a seed

Axes   N embeddings a picture
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from minemu.ablations import MEASURES, compared, differs, in_order, values
from minemu.drawing import FAINT, INK, LINE, REGRESSES, SAYS
from minemu.errors import MinemuError
from minemu.figures.charts import SERIES, charts, label, legend, rule


def show_ablation(results: Mapping[str, Any], question: str, width: float = 760) -> Figure:
    """Points are seeds, strokes their means; the baseline has a colour of its own. Filled: differs by more than the luck of seeds.

    Variants called by a number stand in its order, else the baseline comes first.
    A triangle at the left end is a number below what the panel shows.
    """
    variants = in_order(compared(results, question))
    asked = results["questions"][question]
    measures = asked["measures"]
    names = {name: says for name, says in variants.items() if name in results["variants"]}
    if not names:
        raise MinemuError(f"no variant of question '{question}' was run; run minemu ablate {question}")
    rows = 2 if asked["by_index"] else 1
    height = 92 + 24 * len(names)
    figure, found = charts(width, height if rows == 1 else height + 210, len(measures), rows)
    for column, measure in enumerate(measures):
        _dots(found[column], results, asked["baseline"], names, measure, named=column == 0)
    if asked["by_index"]:
        panels = found[len(measures) :]
        for axes, (name, says) in zip(panels, names.items(), strict=False):
            _by_index(axes, results, name, says)
        for axes in panels[1 : len(names)]:
            axes.sharey(panels[0])
        for axes in panels[len(names) :]:
            axes.set_axis_off()
    filled, hollow = (
        Line2D([], [], ls="", marker="o", ms=6, color=REGRESSES, mfc=face) for face in (REGRESSES, "white")
    )
    first = Line2D([], [], ls="", marker="o", ms=6, color=SAYS)
    stroke = Line2D([], [], ls="", marker="|", ms=12, mew=2, color=INK)
    handles = [first, filled, hollow, stroke]
    texts = ["baseline", "a seed, differs from it", "a seed, no difference", "mean"]
    if any(line.get_marker() == "<" for axes in found for line in axes.lines):
        handles.append(Line2D([], [], ls="", marker="<", ms=6, color=REGRESSES, mfc="white"))
        texts.append("further below")
    legend(figure, handles, texts, loc="outside lower left", ncols=len(texts), handlelength=1.2)
    return figure


def _dots(
    axes: Axes, results: Mapping[str, Any], baseline: str, names: Mapping[str, str], measure: str, named: bool
) -> None:
    """One measure: a line a variant."""
    base, least = values(results, baseline, measure), MEASURES[measure].least
    every: list[float] = []
    for place, name in enumerate(names):
        found = values(results, name, measure)
        colour = SAYS if name == baseline else REGRESSES
        face = colour if name == baseline or differs(found, base) else "white"
        for one in found:
            every.append(max(one, least))
            marker = "o" if one >= least else "<"
            axes.plot(every[-1], place, ls="", marker=marker, ms=6, mew=1.3, color=colour, mfc=face)
        middle = mean(found)
        mark = {"marker": "|", "ms": 17, "mew": 2} if middle >= least else {"marker": "<", "ms": 6}
        axes.plot(max(middle, least), place, ls="", color=INK, zorder=3, **mark)
    axes.axvline(mean(base), color=SAYS, lw=0.8, zorder=0)
    axes.set_yticks(range(len(names)), list(names.values()) if named else [""] * len(names))
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", color=LINE, lw=0.4)
    axes.locator_params(axis="x", nbins=5)
    label(axes, _beside(axes, results, baseline, measure, every), title=MEASURES[measure].title)
    axes.xaxis.label.set_color(FAINT)


def _beside(axes: Axes, results: Mapping[str, Any], baseline: str, measure: str, every: list[float]) -> str:
    """What the measure stands beside, in words; a dashed line shows it where it is near."""
    beside = MEASURES[measure].beside
    if beside is None:
        return ""
    level = beside if isinstance(beside, float) else mean(values(results, baseline, beside))
    low, high = min(every), max(every)
    room = 0.6 * (high - low) + 0.02
    near = low - room <= level <= high + room
    if near:
        axes.axvline(level, color=FAINT, lw=1.2, ls=(0, (4, 3)), zorder=0)
    return f"{'dashed, ' * near}{MEASURES[measure].beside_says}: {level:.2g}"


def _by_index(axes: Axes, results: Mapping[str, Any], name: str, says: str) -> None:
    """The share of variance explained at each index, teacher-forced and free-running: thin lines are seeds."""
    for (what, measure), (colour, dashes, _) in zip(
        {"teacher-forced": "forced_by_index", "free running": "free_by_index"}.items(), SERIES, strict=False
    ):
        found = np.array(values(results, name, measure))  # (seeds, N)
        index = np.arange(1, found.shape[1] + 1)
        for one in found:
            axes.plot(index, one, color=colour, lw=0.6, alpha=0.6)
        axes.plot(index, found.mean(0), color=colour, ls=dashes, lw=1.8, label=what)
    rule(axes, 0.0)
    axes.set_ylim(-1.0, 1.0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    label(axes, "index of the embedding", "share of variance explained", says)
    legend(axes, loc="best")
