"""Pictures in rows and columns that have names.

Axes   R rows   C columns   S side of a picture in pixels
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from minemu.drawing import FAINT, STYLE, add_picture, canvas, drawable
from minemu.errors import MinemuError

GAP = 5
SHADES = 63  # steps of each colour, which the eye cannot tell from 255 and which keep notebooks small
LETTER = 4.9  # points, of an average letter in the font of the names


def show_grid(
    pictures: Tensor, columns: Sequence[str] = (), rows: Sequence[str] = (), side: float = 64, note: str = ""
) -> Figure:
    """Pictures (R, C, 3, S, S) in [-1, 1], pixels kept sharp; a name above each column and left of each row, a note below."""
    if pictures.ndim != 5 or pictures.shape[2] != 3:
        raise MinemuError(f"a grid shows pictures of shape (rows, columns, 3, S, S), not {tuple(pictures.shape)}")
    for what, names, count in (("rows", rows, pictures.shape[0]), ("columns", columns, pictures.shape[1])):
        if names and len(names) != count:
            raise MinemuError(f"{count} {what} of pictures but {len(names)} names; give one name for each")
    names = ["\n".join(map(drawable, name.split("\n"))) for name in (*rows, *columns)]
    row_names, column_names = names[: len(rows)], names[len(rows) :]
    left = 6 + max((LETTER * max(map(len, name.split("\n"))) + 6 for name in row_names), default=0.0)
    top = 6 + max((11 * (name.count("\n") + 1) + 3 for name in column_names), default=0.0)
    below = 6 + (11 * (note.count("\n") + 1) + 4 if note else 0)
    shades = ((pictures.detach().float().cpu().clamp(-1, 1) + 1) / 2 * SHADES).round() / SHADES
    pixels = shades.permute(0, 1, 3, 4, 2).numpy()
    high, wide = (count * (side + GAP) - GAP for count in pictures.shape[:2])
    with rc_context(STYLE):
        figure, axes = canvas(left + wide + 6, top + high + below)
        for r, row in enumerate(pixels):
            for c, picture in enumerate(row):
                add_picture(axes, picture, left + c * (side + GAP), top + r * (side + GAP), side)
        for c, name in enumerate(column_names):
            axes.text(left + c * (side + GAP) + side / 2, top - 4, name, ha="center", va="bottom", linespacing=1.2)
        for r, name in enumerate(row_names):
            axes.text(left - 7, top + r * (side + GAP) + side / 2, name, ha="right", va="center", linespacing=1.2)
        if note:
            axes.text(left, top + high + 6, note, color=FAINT, va="top", linespacing=1.2)
    return figure
