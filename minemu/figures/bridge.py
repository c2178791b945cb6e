"""What stage 2 does: where each query looks, and what a pooling cell averages.

Axes   N queries or cells   G side of the patch grid   S side of a picture in pixels
"""

from __future__ import annotations

import math

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from minemu.drawing import FAINT, INK, LINE, SAYS, STYLE, add_picture, canvas
from minemu.errors import MinemuError
from minemu.figures.vision import spotlight


def show_queries(pixels: np.ndarray, allowed: Tensor, maps: Tensor) -> Figure:
    """Left: which embedding may look at which, `allowed` (N, N), bool. Right: where each looks, maps (N, G, G), over the picture.

    Every map is scaled to its own largest value.
    """
    n = len(maps)
    if maps.ndim != 3 or tuple(allowed.shape) != (n, n):
        raise MinemuError(
            f"a mask of shape {tuple(allowed.shape)} and maps of shape {tuple(maps.shape)} do not belong together; "
            "give (N, N) and (N, G, G)"
        )
    weights = maps.detach().float().cpu().numpy()
    weights = weights.clip(0) / np.maximum(weights.max((1, 2), keepdims=True), 1e-12)
    columns = math.isqrt(n - 1) + 1
    lines = -(-n // columns)
    side, gap, left, top, small = 432 / columns - 8, 8, 264, 26, 208
    below = top + small + 34
    with rc_context(STYLE):
        figure, axes = canvas(
            left + 40 + columns * (side + gap), max(top + lines * (side + 14 + gap), below + small + 10)
        )
        axes.text(28, 13, "self-attention: row may look at column", va="center")
        _mask(axes, allowed.cpu().numpy(), 28, top, small)
        add_picture(axes, pixels, 28, below, small)
        axes.text(left + 40, 13, "cross-attention: looks at", va="center")
        for number in range(n):
            x = left + 40 + number % columns * (side + gap)
            y = top + number // columns * (side + 14 + gap)
            add_picture(axes, spotlight(pixels, weights[number]), x, y, side)
            axes.text(x + side / 2, y + side + 7, str(number + 1), ha="center", va="center", size=7.5, color=FAINT)
    return figure


def _mask(axes: Axes, allowed: np.ndarray, x: float, y: float, side: float) -> None:
    """Rows look, columns are looked at; a filled square is allowed."""
    n = len(allowed)
    cell = side / n
    for row, column in np.ndindex(n, n):
        place = (x + column * cell + 0.5, y + row * cell + 0.5)
        colour = SAYS if allowed[row, column] else "#eef1f4"
        axes.add_patch(Rectangle(place, cell - 1, cell - 1, facecolor=colour, edgecolor="none"))
    for number in sorted({1, n // 2, n}):
        at = (number - 0.5) * cell
        axes.text(x - 6, y + at, str(number), ha="right", va="center", size=7.5, color=FAINT)
        axes.text(x + at, y + side + 8, str(number), ha="center", va="center", size=7.5, color=FAINT)


def show_cells(pixels: np.ndarray, grid: int, side: int) -> Figure:
    """Mean pooling of a grid x grid of patches to side x side cells: what each averages, and the order in which they are read."""
    if grid % side or len(pixels) % grid:
        raise MinemuError(f"{grid} x {grid} patches do not pool to {side} x {side} cells; use a divisor of {grid}")
    wide, top, gap = 232, 26, 44
    with rc_context(STYLE):
        figure, axes = canvas(2 * wide + gap + 24, top + wide + 12)
        for x, name in (
            (12, f"{grid} x {grid} patches"),
            (12 + wide + gap, f"{side} x {side} cells, one embedding each"),
        ):
            axes.text(x, 13, name, va="center")
        add_picture(axes, pixels, 12, top, wide)
        _lines(axes, 12, top, wide, grid, "white", 0.8)
        _lines(axes, 12, top, wide, side, INK, 1.6)
        cell = wide / side
        x0 = 12 + wide + gap
        add_picture(axes, _averaged(pixels, side), x0, top, wide)
        _lines(axes, x0, top, wide, side, INK, 1.6)
        for number in range(side * side):
            row, column = divmod(number, side)
            axes.text(
                x0 + (column + 0.5) * cell, top + (row + 0.5) * cell, str(number + 1), ha="center", va="center",
                size=min(11.0, cell * 0.35), bbox={"facecolor": "white", "edgecolor": LINE, "pad": 1.8, "lw": 0.5}, zorder=5,
            )  # fmt: skip
    return figure


def _lines(axes: Axes, x: float, y: float, wide: float, count: int, colour: str, thick: float) -> None:
    for line in range(count + 1):
        at = line * wide / count
        axes.plot([x + at, x + at], [y, y + wide], color=colour, lw=thick, zorder=3, solid_capstyle="projecting")
        axes.plot([x, x + wide], [y + at, y + at], color=colour, lw=thick, zorder=3, solid_capstyle="projecting")


def _averaged(pixels: np.ndarray, side: int) -> np.ndarray:
    """The mean colour of each cell: uint8 (side, side, 3)."""
    cell = len(pixels) // side
    return pixels.reshape(side, cell, side, cell, 3).mean((1, 3)).round().astype(np.uint8)
