"""What a key-value cache saves: positions processed for N embeddings, counted and measured.

Axes   N embeddings to be generated
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from minemu.drawing import FAINT, LINE, REGRESSES, SAYS, rgb
from minemu.errors import MinemuError
from minemu.figures.charts import SERIES, charts, label, legend

AGAIN, ONCE = REGRESSES, SAYS  # positions that are processed again, and those that are processed once


@dataclass(frozen=True)
class SpeedUp:
    """One row of the benchmark: how many times faster, in several runs, and how many times fewer positions."""

    name: str
    ratio: float  # the median of the runs
    least: float
    most: float
    counted: float


def show_tokens_processed(prompt: int, n: int, totals: Mapping[str, Sequence[int]], counts: Sequence[int]) -> Figure:
    """Left: which positions each of `n` steps processes after `prompt` positions. Right: `totals` by name, for each of `counts`."""
    if prompt < 1 or n < 1:
        raise MinemuError(f"prompt={prompt} and n={n} must be at least 1")
    if any(len(values) != len(counts) for values in totals.values()) or len(totals) != 2:
        raise MinemuError(
            f"give two rows of {len(counts)} totals, without and with the cache, one for each of the counts"
        )
    figure, (steps, sums) = charts(760, 270, 2, ratios=[1.25, 1])
    steps.imshow(_staircase(prompt, n), interpolation="nearest", aspect="auto", zorder=1)
    steps.set_xticks([0, prompt - 1, prompt + n - 2], ["1", str(prompt), str(prompt + n - 1)])
    steps.set_yticks([0, n - 1], ["1", str(n)])
    label(
        steps,
        "position in the sequence",
        "step: embedding to be predicted",
        f"after {prompt} positions, {n} embeddings",
    )
    steps.text(
        0.33,
        0.45,
        "processed again at each step,\nwithout a cache",
        transform=steps.transAxes,
        ha="center",
        va="center",
        color="white",
    )
    steps.text(0.99, 0.93, "processed once,\nwith a cache", transform=steps.transAxes, ha="right", va="top", color=ONCE)
    for (name, values), (colour, dashes, marker) in zip(totals.items(), (SERIES[1], SERIES[0]), strict=True):
        sums.plot(counts, values, color=colour, ls=dashes, marker=marker, ms=5, lw=1.6)
        sums.annotate(
            f"{name}: {values[-1]:,}", (counts[-1], values[-1]), xytext=(-8, 6), textcoords="offset points",
            ha="right", size=8, color=colour,
        )  # fmt: skip
    sums.set_xticks(list(counts))
    label(sums, "N, embeddings a picture", title="positions processed for one picture")
    sums.set_ylim(0, 1.12 * max(max(values) for values in totals.values()))
    sums.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    sums.grid(axis="y", color=LINE, lw=0.5)
    return figure


def _staircase(prompt: int, n: int) -> np.ndarray:
    """Colours (n, prompt + n - 1, 3): row k is the step that predicts embedding k + 1."""
    again, once = np.array(rgb(AGAIN)) / 255, np.array(rgb(ONCE)) / 255
    cells = np.ones((n, prompt + n - 1, 3))
    for step in range(n):
        cells[step, : prompt + step] = again
        cells[step, (0 if step == 0 else prompt + step - 1) : prompt + step] = once
    return cells


def show_speedups(rows: Sequence[SpeedUp]) -> Figure:
    """Measured speed-up (dot and range of the runs) beside the ratio of positions processed (hollow square)."""
    if not rows:
        raise MinemuError("there is no row of a benchmark to show; give at least one")
    figure, (axes,) = charts(600, 62 + 34 * len(rows))
    places = np.arange(len(rows))[::-1]
    axes.hlines(places, [row.least for row in rows], [row.most for row in rows], color=SAYS, lw=4, alpha=0.35)
    axes.plot(
        [row.ratio for row in rows], places, "o", color=SAYS, ms=7, label="measured: times faster (median, range)"
    )
    axes.plot(
        [row.counted for row in rows], places, "s", color=REGRESSES, mfc="white", mew=1.6, ms=8,
        label="counted: times fewer positions",
    )  # fmt: skip
    for row, place in zip(rows, places, strict=True):
        axes.annotate(
            f"{row.ratio:.1f}", (row.ratio, place), xytext=(0, 8), textcoords="offset points", ha="center", size=8
        )
        axes.annotate(
            f"{row.counted:.0f}", (row.counted, place), xytext=(0, 8), textcoords="offset points", ha="center", size=8,
            color=FAINT,
        )  # fmt: skip
    axes.set_yticks(places, [row.name for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.3)
    axes.set_xlim(0, 1.08 * max(max(row.most, row.counted) for row in rows))
    label(axes, "ratio")
    axes.grid(axis="x", color=LINE, lw=0.5)
    legend(axes, loc="upper center", bbox_to_anchor=(0.5, -0.32 if len(rows) < 3 else -0.22), ncols=2)
    return figure
