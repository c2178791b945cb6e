"""Plain panels that several notebooks need: curves, and matrices beside each other.

Axes   R rows and C columns of a matrix
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from torch import Tensor

from minemu.drawing import FAINT, INK, LINE, POINTS, REGRESSES, SAYS, STYLE
from minemu.errors import MinemuError

LINES = ((SAYS, "-"), (REGRESSES, "--"), (INK, "-."), ("#0f9b8e", ":"))  # told apart by dashes as well as by hue
ONE_SIGN = LinearSegmentedColormap.from_list("orange", ["#ffffff", "#fbe0c3", REGRESSES, "#6b3606"])
NEVER = "#e4e7eb"


def show_lines(
    curves: Mapping[str, Sequence[float]],
    across: str,
    up: str,
    levels: Mapping[str, float] | None = None,
    log: bool = False,
) -> Figure:
    """Curves by name over 0, 1, 2, ...; `levels` are horizontal lines to compare with, by name."""
    if not 1 <= len(curves) <= len(LINES):
        raise MinemuError(f"{len(curves)} curves do not fit in one panel; give 1 to {len(LINES)}")
    with rc_context(STYLE):
        figure = Figure(figsize=(560 / POINTS, 230 / POINTS), dpi=110, facecolor="white", layout="constrained")
        axes = figure.add_subplot()
        for (name, values), (colour, dashes) in zip(curves.items(), LINES, strict=False):
            axes.plot(np.asarray(values, dtype=float), color=colour, ls=dashes, lw=1.8, label=name)
        for name, height in (levels or {}).items():
            axes.axhline(height, color=FAINT, lw=1, zorder=0)
            axes.annotate(
                name, (1, height), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
                color=FAINT, ha="left", va="center",
            )  # fmt: skip
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.spines[["top", "right"]].set_visible(False)
        if len(curves) > 1:
            figure.legend(loc="outside right upper", frameon=False, handlelength=3.2)
    return figure


def show_matrices(
    matrices: Mapping[str, Tensor], across: str, down: str, shared: bool = False, first: int = 1, signed: bool = False
) -> Figure:
    """Matrices (R, C) by title. White is zero, darker is more; grey is -inf or nan: never.

    shared   one scale of colour for all of them, else each has its own
    signed   two hues for the two signs
    first    the number of the first row and column
    """
    if not matrices:
        raise MinemuError("there is no matrix to show; give at least one")
    values = {title: _finite(title, matrix) for title, matrix in matrices.items()}
    tops = {title: float(np.nanmax(np.abs(array))) or 1.0 for title, array in values.items()}
    side = min(210.0, 736 / len(values))
    with rc_context(STYLE):
        width = side * len(values) + 24
        figure = Figure(
            figsize=(width / POINTS, (side + 26) / POINTS), dpi=110, facecolor="white", layout="constrained"
        )
        for column, (title, array) in enumerate(values.items()):
            axes = figure.add_subplot(1, len(values), column + 1, facecolor=NEVER)
            top = max(tops.values()) if shared else tops[title]
            low, colours = (-top, "PuOr_r") if signed else (0.0, ONE_SIGN)
            axes.imshow(array, cmap=colours, vmin=low, vmax=top, interpolation="nearest")
            axes.set_title(title, size=8.5)
            axes.set_xlabel(across)
            if column == 0:
                axes.set_ylabel(down)
            _number(axes, array.shape, first)
    return figure


def _finite(title: str, matrix: Tensor) -> np.ndarray:
    array = matrix.detach().float().cpu().numpy()
    if array.ndim != 2:
        raise MinemuError(f"'{title}' has shape {tuple(array.shape)}; give a matrix, such as one head of it")
    array = np.where(np.isfinite(array), array, np.nan)
    if np.isnan(array).all():
        raise MinemuError(f"no entry of '{title}' is a finite number; nothing can be drawn")
    return array


def _number(axes: Axes, shape: tuple[int, ...], first: int) -> None:
    """The first and last row and column, and thin lines around the cells of small matrices."""
    rows, columns = shape
    axes.set_xticks([0, columns - 1], [str(first), str(first + columns - 1)])
    axes.set_yticks([0, rows - 1], [str(first), str(first + rows - 1)])
    axes.tick_params(length=0, labelsize=7.5, labelcolor=FAINT)
    axes.spines[:].set_color(LINE)
    if max(shape) <= 40:
        axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", lw=0.5)
        axes.tick_params(which="minor", length=0)
