"""What a visual encoder sees: patches, weights over a picture, nearest pictures.

Axes   S side of a picture in pixels   G side of the patch grid   P = G * G patches   R rows   C columns   n pictures   k neighbours
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from minemu.drawing import (
    CHIP,
    FAINT,
    INK,
    LINE,
    MONO,
    REGRESSES,
    SAYS,
    STYLE,
    add_arrow,
    add_box,
    add_picture,
    canvas,
    drawable,
    rgb,
)
from minemu.errors import MinemuError

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels of the picture
GREYED = 0.55  # how far a picture goes towards white before colour is laid over it
TOKENS_A_LINE = 16


def show_patches(pixels: np.ndarray, patch: int) -> Figure:
    """A picture (S, S, 3), uint8, with its patch grid, and the same patches as a line of tokens behind the class token."""
    size = len(pixels)
    if pixels.shape != (size, size, 3) or size % patch:
        raise MinemuError(
            f"a picture of shape {tuple(pixels.shape)} has no grid of {patch}-pixel patches; give a square one"
        )
    grid, left, step, top = size // patch, 176, 33, 26
    lines = -(-grid * grid // TOKENS_A_LINE)
    x0 = 12 + left + 66
    with rc_context(STYLE):
        figure, axes = canvas(x0 + TOKENS_A_LINE * step + 8, max(top + left, top + lines * 46) + 12)
        axes.text(12, 13, f"{grid} x {grid} patches of {patch} x {patch} pixels", va="center")
        add_picture(axes, pixels, 12, top, left)
        for line in range(grid + 1):
            at = line * left / grid
            axes.plot([12 + at, 12 + at], [top, top + left], color="white", lw=0.9, zorder=3)
            axes.plot([12, 12 + left], [top + at, top + at], color="white", lw=0.9, zorder=3)
        add_arrow(axes, (12 + left + 4, top + 15), (12 + left + 20, top + 15))
        axes.text(x0, 13, f"{1 + grid * grid} tokens, in reading order", va="center")
        add_box(axes, x0 - 40, top, 34, 30, CHIP["word"])
        axes.text(x0 - 23, top + 15, "class", ha="center", va="center", size=8)
        axes.text(x0 - 23, top + 37, "0", ha="center", va="center", size=6.5, color=FAINT)
        for number in range(grid * grid):
            row, column = divmod(number, grid)
            x, y = x0 + number % TOKENS_A_LINE * step, top + number // TOKENS_A_LINE * 46
            cut = pixels[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            add_picture(axes, cut, x, y, 30)
            axes.add_patch(Rectangle((x, y), 30, 30, fill=False, edgecolor=LINE, lw=0.6, zorder=3))
            axes.text(x + 15, y + 37, str(1 + number), ha="center", va="center", size=6.5, color=FAINT)
    return figure


# ---- weights over a picture ------------------------------------------------------------------------------------------


def spotlight(pixels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """A picture (S, S, 3) in light grey, orange where `weights` (G, G), 0 to 1, are large: uint8 (S, S, 3)."""
    size, grid = len(pixels), len(weights)
    if weights.shape != (grid, grid) or size % grid:
        raise MinemuError(
            f"weights of shape {tuple(weights.shape)} do not tile a picture {size} pixels wide; give (G, G)"
        )
    grey = pixels.astype(float) @ (0.299, 0.587, 0.114)
    grey = (grey + GREYED * (255 - grey))[..., None]
    cell = size // grid
    opacity = 0.85 * np.clip(weights, 0, 1).repeat(cell, 0).repeat(cell, 1)[..., None]
    return ((1 - opacity) * grey + opacity * np.array(rgb(REGRESSES))).round().astype(np.uint8)


def patch_box(number: int, grid: int, size: int) -> Box:
    """The pixels of patch `number`, counted from 0 in reading order."""
    row, column = divmod(number, grid)
    cell = size / grid
    return column * cell, row * cell, (column + 1) * cell, (row + 1) * cell


def show_maps(
    pictures: np.ndarray,
    maps: Tensor,
    row_names: Sequence[str],
    column_names: Sequence[str],
    marks: Sequence[Sequence[Box | None]] | None = None,
    picture_name: str = "picture",
) -> Figure:
    """Each row: a picture (R, S, S, 3), and weights over it, maps (R, C, G, G), orange where they are large.

    Every map is scaled to its own largest value; what is negative counts as nothing. `marks` (R, C): a box to outline.
    """
    weights = maps.detach().float().cpu().numpy()
    if weights.ndim != 4 or weights.shape[:2] != (len(pictures), len(column_names)) or len(row_names) != len(pictures):
        raise MinemuError(
            f"maps of shape {tuple(weights.shape)} do not fit {len(pictures)} pictures, {len(row_names)} rows and "
            f"{len(column_names)} columns; give (rows, columns, G, G)"
        )
    rows, columns = weights.shape[:2]
    weights = weights.clip(0) / np.maximum(weights.max((2, 3), keepdims=True), 1e-12)
    left, side, gap, top = 14 + 6.0 * max(map(len, row_names)), min(128.0, 720 / (columns + 1) - 8), 8, 26
    with rc_context(STYLE):
        figure, axes = canvas(left + (columns + 1) * (side + gap) + 6, top + rows * (side + gap))
        for column, name in enumerate([picture_name, *column_names]):
            axes.text(left + column * (side + gap) + side / 2, 13, drawable(name), ha="center", va="center")
        for row in range(rows):
            y = top + row * (side + gap)
            axes.text(left - 8, y + side / 2, drawable(row_names[row]), ha="right", va="center")
            add_picture(axes, pictures[row], left, y, side)
            for column in range(columns):
                x = left + (column + 1) * (side + gap)
                add_picture(axes, spotlight(pictures[row], weights[row, column]), x, y, side)
                if marks is not None and (box := marks[row][column]) is not None:
                    _outline(axes, box, x, y, side / len(pictures[row]))
    return figure


def _outline(axes: Axes, box: Box, x: float, y: float, scale: float) -> None:
    x0, y0, x1, y1 = (value * scale for value in box)
    axes.add_patch(Rectangle((x + x0, y + y0), x1 - x0, y1 - y0, fill=False, edgecolor="white", lw=3, zorder=3))
    axes.add_patch(Rectangle((x + x0, y + y0), x1 - x0, y1 - y0, fill=False, edgecolor=INK, lw=1.4, zorder=4))


# ---- nearest pictures ------------------------------------------------------------------------------------------------


def show_neighbours(
    pictures: Sequence[np.ndarray], names: Sequence[set[str]], queries: Sequence[int], nearest: Tensor
) -> Figure:
    """A row for each query: its picture, then its k nearest, `nearest` (queries, k), numbers of `pictures`.

    Below each stand the names of what it shows; a bar marks the neighbours that share a name with the query.
    """
    if len(names) != len(pictures) or len(nearest) != len(queries):
        raise MinemuError(
            f"{len(pictures)} pictures with {len(names)} sets of names, {len(queries)} queries with {len(nearest)} rows "
            "of neighbours; give one for each"
        )
    side, gap, below, top = 92, 10, 22, 26
    with rc_context(STYLE):
        width = 12 + (1 + nearest.shape[1]) * (side + gap) + 22
        figure, axes = canvas(width, top + len(queries) * (side + below + gap))
        axes.text(12, 13, "asked", va="center")
        axes.text(12 + side + gap + 22, 13, "nearest first", va="center")
        for row, (query, found) in enumerate(zip(queries, nearest.tolist(), strict=True)):
            y = top + row * (side + below + gap)
            for column, number in enumerate([query, *found]):
                x = 12 + column * (side + gap) + 22 * (column > 0)
                add_picture(axes, pictures[number], x, y, side)
                shared = column > 0 and bool(names[number] & names[query])
                text = drawable(_shorten(", ".join(sorted(names[number]))))
                axes.text(
                    x + side / 2, y + side + 11, text, family=MONO, size=6.8, ha="center", va="center",
                    color=INK if shared or column == 0 else FAINT,
                )  # fmt: skip
                if shared:
                    axes.plot([x, x + side], [y + side + 2.5, y + side + 2.5], color=SAYS, lw=3, solid_capstyle="butt")
    return figure


def _shorten(text: str, most: int = 22) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
