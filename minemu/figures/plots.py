"""Empty plots in the style of the course, for the figures of other modules to fill."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minemu.drawing import FAINT, INK, LINE, POINTS, STYLE


def plots(
    width: float, height: float, columns: int = 1, rows: int = 1, ratios: Sequence[float] | None = None, **shared
) -> tuple[Figure, list[Axes]]:
    """A figure of `width` x `height` points with a grid of plots, row by row; `ratios` are the widths of its columns."""
    with rc_context({**STYLE, "axes.edgecolor": LINE, "axes.labelcolor": INK}):
        figure = Figure(figsize=(width / POINTS, height / POINTS), dpi=110, facecolor="white", layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"width_ratios": ratios}, **shared)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(color=LINE, labelcolor=INK, labelsize=8)
        axes.set_axisbelow(True)
    return figure, list(grid.flat)


def rule(axes: Axes, height: float, text: str = "", at: float = 1.0) -> None:
    """A faint horizontal line to compare with, its name above it, ending at the share `at` of its length."""
    axes.axhline(height, color=FAINT, lw=0.9, ls=(0, (4, 3)), zorder=0)
    axes.annotate(
        text, (at, height), xycoords=("axes fraction", "data"), xytext=(-2, 3), textcoords="offset points",
        ha="right", color=FAINT, size=8, zorder=1,
    )  # fmt: skip
