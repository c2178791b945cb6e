"""The pretraining mixture: its documents, the order of its sources, and how they fill a batch.

show_documents   one document of each source, pictures and texts in reading order
show_mixture     which source each document comes from, a row a block
show_rows        batches as rows of positions: words, visual embeddings, padding

Axes   B rows   L positions   S side of a picture in pixels
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from minemu.data.documents import Document
from minemu.data.mixture import ALL_SOURCES
from minemu.drawing import CHIP, FAINT, LINE, STYLE, add_box, add_picture, canvas, drawable, rgb
from minemu.errors import MinemuError
from minemu.sequence import TokenIds

COLOURS = (
    "#d6e4f7", "#9fbfe8", "#f6d9a8", "#e3b7d3", "#a9dccb", "#f7f1e3", "#bcc98f", "#eef0b4", "#cfd6dd", "#c9b8e6", "#f2c4bc", "#e8d2bd",
)  # fmt: skip
SHADES = dict(zip(ALL_SOURCES, COLOURS, strict=True))
SIDE, LETTER, LINE_HEIGHT = 44.0, 4.5, 10.5  # of a picture; of a letter and a line of text, in points
WIDEST = 32  # documents in a line
KINDS = {"word": "#5b8fd6", "visual embedding": "#e8994a", "structure": "#3e4c59", "padding": "#eceff2"}


def show_documents(documents: Mapping[str, Document], width: float = 760) -> Figure:
    """Each document by the name of its source: pictures and texts from left to right, as they are read."""
    if not documents:
        raise MinemuError("there is no document to show; give at least one")
    placed = {name: _flow(document, width - 120) for name, document in documents.items()}
    with rc_context(STYLE):
        figure, axes = canvas(width, 10 + sum(height + 16 for _, height in placed.values()))
        y = 12.0
        for name, (pieces, height) in placed.items():
            axes.text(12, y + SIDE / 2, name, weight="bold", size=9, va="center")
            for piece, dx, dy, wide in pieces:
                _piece(axes, piece, 108 + dx, y + dy, wide)
            y += height + 16
            axes.plot([12, width - 12], [y - 8, y - 8], color=LINE, lw=0.5)
    return figure


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(drawable(text), max(24, -(-len(text) // 3)))


def _flow(document: Document, width: float) -> tuple[list[tuple[str | np.ndarray, float, float, float]], float]:
    """Pieces in lines of `width`: (piece, x, y, its width), and the height of all."""
    placed, x, y = [], 0.0, 0.0
    for piece in document:
        wide = max(map(len, _wrapped(piece))) * LETTER + 14 if isinstance(piece, str) else SIDE
        if x and x + wide > width:
            x, y = 0.0, y + SIDE + 8
        placed.append((piece, x, y, wide))
        x += wide + 8
    return placed, y + SIDE


def _piece(axes: Axes, piece: str | np.ndarray, x: float, y: float, wide: float) -> None:
    if not isinstance(piece, str):
        add_picture(axes, np.asarray(piece), x, y, SIDE)
        return
    lines = _wrapped(piece)
    tall = len(lines) * LINE_HEIGHT + 7
    add_box(axes, x, y + (SIDE - tall) / 2, wide, tall, CHIP["word"])
    axes.text(x + 7, y + SIDE / 2, "\n".join(lines), size=8, va="center", linespacing=1.15)


def show_mixture(places: Sequence[tuple[str, int]], block: int, width: float = 760) -> Figure:
    """`places` as `Mixture.place` gives them, `block` a row: the source's first letters and the document's number in it."""
    unknown = {name for name, _ in places} - SHADES.keys()
    if unknown or not places or block < 1:
        raise MinemuError(f"give places of the sources {', '.join(ALL_SOURCES)}, and a block of 1 or more")
    left, tall = 92.0, 30.0
    lines = -(-block // WIDEST)  # that a block takes
    across = -(-block // lines)
    cell, rows = (width - 104) / across, -(-len(places) // block) * lines
    seen = {name for name, _ in places}
    shades = {name: shade for name, shade in SHADES.items() if name in seen}
    with rc_context(STYLE):
        figure, axes = canvas(width, 26 + rows * (tall + 6) + legend_height(shades, left, width))
        for index, (name, number) in enumerate(places):
            line, column = divmod(index % block, across)
            x, y = left + column * cell, 12 + (index // block * lines + line) * (tall + 6)
            axes.add_patch(Rectangle((x, y), cell - 1.5, tall, facecolor=SHADES[name], edgecolor="none"))
            letters = "".join(word[0] for word in name.split("_")) if "_" in name else name[:2]
            axes.text(x + cell / 2 - 0.7, y + 10, letters, size=min(8.0, cell * 0.36), ha="center", va="center")
            axes.text(x + cell / 2 - 0.7, y + 22, str(number), size=min(7.0, cell * 0.3), ha="center", va="center")
        for row in range(rows):
            begins = row // lines * block
            first = begins + row % lines * across
            text = f"{first} to {min(first + across, begins + block, len(places)) - 1}"
            axes.text(left - 8, 12 + row * (tall + 6) + tall / 2, text, color=FAINT, ha="right", va="center")
        legend_of(axes, shades, left, 12 + rows * (tall + 6) + 10, width)
    return figure


def legend_of(axes: Axes, shades: Mapping[str, str], x: float, y: float, width: float) -> None:
    """Swatches with their names, in as many lines as they need."""
    for name, (left, below) in _legend_places(shades, x, width).items():
        axes.add_patch(Rectangle((left, y + below - 5), 14, 10, facecolor=shades[name], edgecolor=LINE, lw=0.4))
        axes.text(left + 19, y + below, name, color=FAINT, va="center")


def legend_height(shades: Mapping[str, str], x: float, width: float) -> float:
    return 14 + max(below for _, below in _legend_places(shades, x, width).values())


def _legend_places(shades: Mapping[str, str], x: float, width: float) -> dict[str, tuple[float, float]]:
    places, left, below = {}, x, 0.0
    for name in shades:
        wide = 19 + len(name) * 5.2 + 18
        if left + wide > width and left > x:
            left, below = x, below + 16
        places[name] = left, below
        left += wide
    return places


def kinds_of(input_ids: Tensor, ids: TokenIds) -> np.ndarray:
    """What stands at each position, as an index into `KINDS`. (B, L) -> (B, L)."""
    given = input_ids.cpu().numpy()
    structure = np.isin(given, (ids.bos, ids.eos, ids.image_start, ids.image_end))
    return np.select([given == ids.pad, given == ids.image, structure], [3, 1, 2], 0)


def show_rows(batches: Mapping[str, Tensor], ids: TokenIds, width: float = 760, tall: float = 8.0) -> Figure:
    """Batches of `input_ids` (B, L), all to one scale: a line a row, a cell a position, coloured by what stands there."""
    if not batches or any(tensor.ndim != 2 for tensor in batches.values()):
        raise MinemuError("give batches of input_ids, each of shape (B, L)")
    palette = np.array([rgb(colour) for colour in KINDS.values()], dtype=np.uint8)
    cell = (width - 24) / max(tensor.shape[1] for tensor in batches.values())
    with rc_context(STYLE):
        figure, axes = canvas(width, 34 + sum(len(tensor) * tall + 30 for tensor in batches.values()))
        y = 18.0
        for name, tensor in batches.items():
            high, wide = len(tensor) * tall, tensor.shape[1] * cell
            axes.text(12, y, f"{name}: {len(tensor)} x {tensor.shape[1]}", weight="bold", va="center")
            extent = (12, 12 + wide, y + 10 + high, y + 10)
            axes.imshow(palette[kinds_of(tensor, ids)], extent=extent, aspect="auto", interpolation="nearest", zorder=2)
            for row in range(1, len(tensor)):
                axes.plot([12, 12 + wide], [y + 10 + row * tall] * 2, color="white", lw=1.2, zorder=3)
            y += high + 30
        legend_of(axes, KINDS, 12, y + 2, width)
    return figure
