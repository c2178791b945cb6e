"""What figures are made of: a canvas measured in points, pictures, matrices, arrows, and lines of token chips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.image import AxesImage
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from torch import Tensor

from minemu.processor import EmuProcessor, unnormalise

INK, FAINT, LINE = "#1f2933", "#66727f", "#cbd2d9"
SAYS, REGRESSES = "#2563c9", "#d9730d"  # the two kinds of targets
CHIP = {"word": "#e3ecf9", "structure": "#fbe6d0", "picture": "#fbe6d0", "pad": "#f1f3f5"}
STYLE = {"font.family": "DejaVu Sans", "font.size": 8.5, "text.color": INK, "mathtext.fontset": "dejavusans"}
MONO = "DejaVu Sans Mono"
POINTS = 72  # a point is 1/72 inch; below, every length is in points and y grows downwards
CHIP_SIZE, LETTER = 8.0, 0.602 * 8.0  # font size of a chip and the width of one monospaced letter


# ---- shapes ----------------------------------------------------------------------------------------------------------


def drawable(text: str, font: str = "DejaVu Sans") -> str:
    """`text` with a question mark for each character that the font lacks: a model may say anything."""
    known = get_font(findfont(font))
    return "".join(letter if known.get_char_index(ord(letter)) else "?" for letter in text)


def rgb(colour: str) -> tuple[int, int, int]:
    """`"#2563c9"` as red, green and blue, 0 to 255 each."""
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure measured in points, y downwards."""
    figure = Figure(figsize=(width / POINTS, height / POINTS), dpi=110, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    axes.axis("off")
    return figure, axes


def add_box(axes: Axes, x: float, y: float, width: float, height: float, colour: str, radius: float = 3) -> None:
    shape = f"round,pad=0,rounding_size={radius}"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=shape, facecolor=colour, edgecolor=LINE, lw=0.6))


def add_picture(axes: Axes, pixels: np.ndarray, x: float, y: float, side: float) -> None:
    axes.imshow(pixels, extent=(x, x + side, y + side, y), aspect="auto", interpolation="nearest", zorder=2)


def add_heat(axes: Axes, values: np.ndarray, x: float, y: float, width: float, height: float) -> AxesImage:
    """A matrix of embeddings: white is zero, two hues are the two signs."""
    limit = np.quantile(np.abs(values), 0.98) or 1.0
    return axes.imshow(
        values, extent=(x, x + width, y + height, y), aspect="auto", interpolation="nearest", cmap="PuOr_r",
        vmin=-limit, vmax=limit, zorder=2,
    )  # fmt: skip


def add_arrow(axes: Axes, start: tuple[float, float], stop: tuple[float, float]) -> None:
    axes.add_patch(
        FancyArrowPatch(start, stop, arrowstyle="-|>", mutation_scale=10, color=FAINT, lw=1.4, shrinkA=0, shrinkB=0)
    )


def add_strip(
    axes: Axes,
    name: str,
    place: tuple[float, float],
    cell: float,
    height: float,
    texts: Sequence[str],
    fills: Sequence[str | None],
    inks: Sequence[str] | None = None,
    edge: str = "white",
    size: float = 7.0,
    rotation: float = 90,
) -> None:
    """A row of cells from `place` on, each a text on a colour, with the row's name before it. A cell without colour is outlined."""
    left, y = place
    axes.text(left - 8, y + height / 2, name, ha="right", va="center")
    inks = inks or [INK] * len(texts)
    for position, (text, fill, ink) in enumerate(zip(texts, fills, inks, strict=True)):
        x = left + position * cell
        shape = {"facecolor": fill or "white", "edgecolor": edge if fill else LINE}
        axes.add_patch(Rectangle((x, y), cell - 1, height, lw=0.5, **shape))
        axes.text(
            x + (cell - 1) / 2, y + height / 2, drawable(text, MONO), family=MONO, size=min(size, cell * 0.6),
            rotation=rotation, ha="center", va="center", color=ink,
        )  # fmt: skip


# ---- lines of token chips ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chip:
    """One word, or all N slots of a picture, or a run of padding: `count` positions from `start` on."""

    kind: str
    text: str
    start: int
    count: int = 1
    pixels: np.ndarray | None = None

    @property
    def width(self) -> float:
        return max(64.0, 8.0 * self.count) if self.pixels is not None else len(self.text) * LETTER + 8

    @property
    def height(self) -> float:
        return 64 + 14 if self.pixels is not None else 15

    def centre(self, position: int, x: float) -> float:
        """Where position `start <= position < start + count` lies when the chip begins at x."""
        return x + self.width * (position - self.start + 0.5) / self.count


def chips_of_batch(batch: dict[str, Tensor], processor: EmuProcessor) -> list[list[Chip]]:
    ids = processor.ids
    pictures = iter(unnormalise(batch["images"]) if "images" in batch else ())
    rows = []
    for row in batch["input_ids"].tolist():
        words = token_words(row, processor)
        chips: list[Chip] = []
        position = 0
        while position < len(row):
            token, count = row[position], 1
            if token in (ids.image, ids.pad):
                most = processor.n_image if token == ids.image else len(row)
                while count < most and position + count < len(row) and row[position + count] == token:
                    count += 1
            if token == ids.image:
                chips.append(Chip("picture", "", position, count, next(pictures)))
            elif token == ids.pad:
                chips.append(Chip("pad", f"{words[position]} x {count}", position, count))
            else:
                kind = "structure" if token in ids.structure else "word"  # <s> and </s> are of the vocabulary
                chips.append(Chip(kind, words[position], position))
            position += count
        rows.append(chips)
    return rows


def token_words(row: Sequence[int], processor: EmuProcessor) -> list[str]:
    """Tokens as they are written in figures: a leading space is a middle dot."""
    return [drawable(token.replace("▁", "·"), MONO) for token in processor.tokenizer.convert_ids_to_tokens(row)]


def lay_out(chips: Sequence[Chip], width: float) -> tuple[list[tuple[Chip, float, float]], float]:
    """Chips left to right in lines of `width`; [IMG], its slots and [/IMG] stay in one line. -> (chip, x, bottom), height."""
    groups: list[list[Chip]] = []
    for chip in chips:
        joins = bool(groups) and (chip.pixels is not None or groups[-1][-1].pixels is not None)
        groups[-1].append(chip) if joins else groups.append([chip])
    lines: list[list[Chip]] = [[]]
    used = 0.0
    for group in groups:
        wide = sum(chip.width + 4 for chip in group)
        if lines[-1] and used + wide > width:
            lines.append([])
            used = 0.0
        lines[-1] += group
        used += wide
    placed, y = [], 0.0
    for line in lines:
        bottom = y + max(chip.height for chip in line)
        x = 0.0
        for chip in line:
            placed.append((chip, x, bottom))
            x += chip.width + 4
        y = bottom + 14
    return placed, y


def add_chips(
    axes: Axes, chips: Sequence[Chip], x0: float, y0: float, width: float, says: Tensor, regresses: Tensor
) -> None:
    """`says`, `regresses` (L - 1,) bool: what position t has to predict about position t + 1."""
    centres: dict[int, tuple[float, float]] = {}
    for chip, dx, bottom in lay_out(chips, width)[0]:
        x, y = x0 + dx, y0 + bottom
        add_box(axes, x, y - chip.height, chip.width, chip.height, CHIP[chip.kind])
        centres |= {p: (chip.centre(p, x), y) for p in range(chip.start, chip.start + chip.count)}
        if chip.pixels is None:
            faint = chip.kind == "pad"
            axes.text(
                x + chip.width / 2, y - 7.5, chip.text, family=MONO, size=CHIP_SIZE, ha="center", va="center_baseline",
                color=FAINT if faint else INK,
            )  # fmt: skip
            if chip.start > 0 and says[chip.start - 1]:
                axes.plot([x + 3, x + chip.width - 3], [y + 2.5, y + 2.5], color=SAYS, lw=2, solid_capstyle="round")
            continue
        add_picture(axes, chip.pixels, x + (chip.width - 60) / 2, y - chip.height + 2, 60)
        step = chip.width / chip.count
        for slot in range(chip.count):
            axes.add_patch(Rectangle((x + slot * step + 0.8, y - 12), step - 1.6, 9, facecolor=REGRESSES, alpha=0.35))
    for position in regresses.nonzero().flatten().tolist():
        (xa, y), (xb, _) = centres[position], centres[position + 1]
        axes.add_patch(
            FancyArrowPatch(
                (xa, y), (xb, y), connectionstyle="arc3,rad=0.45", arrowstyle="-|>", mutation_scale=5,
                shrinkA=1, shrinkB=1, color=REGRESSES, lw=0.9,
            )
        )  # fmt: skip


def add_legend(axes: Axes, x: float, y: float) -> None:
    axes.plot([x, x + 16], [y, y], color=SAYS, lw=2)
    axes.text(x + 22, y, "has to be said (LM head)", va="center", color=FAINT)
    axes.plot([x + 160, x + 176], [y, y], color=REGRESSES, lw=2)
    axes.text(x + 182, y, "has to be regressed, from where the arc starts (regression head)", va="center", color=FAINT)
