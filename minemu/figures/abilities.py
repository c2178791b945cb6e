"""What one model can do, with verdicts.

show_gallery     rows of pictures, each with words; what the model made is blue
show_questions   pictures or clips with a question, and the answers that it got under several conditions
show_document    text and pictures in order: what was given, and what the model went on with
show_blends      two pictures, the model's one and an artist's one, and how near the model's is to each
show_rates       shares of right answers with their intervals, beside chance and a blind guess
show_shots       such shares against the number of examples, or turn by turn

Lengths are in points, y grows downwards (`minemu.drawing.canvas`).
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from minemu.drawing import FAINT, INK, LINE, REGRESSES, SAYS, STYLE, add_box, add_picture, canvas, drawable
from minemu.errors import MinemuError
from minemu.evaluation.metrics import rate, wilson
from minemu.figures.charts import add_curves, charts, label, legend, rule

MARKS = {True: ("\u2713", SAYS), False: ("\u2717", REGRESSES), None: ("", INK)}  # a tick or a cross, never colour alone
GLUE = "\u00a0"  # a space at which no line breaks
GIVEN, MADE = "#f5f7fa", "#e3ecf9"
WIDTH, MARGIN, STEP = 760.0, 12.0, 11.5  # of a figure, around it, from one line of text to the next
DOTS = 88  # an inch


@dataclass(frozen=True)
class Card:
    """A picture with words below it. `made`: which of the two the model made, "picture" or "text"."""

    picture: Image.Image
    text: str
    made: str | None = None
    right: bool | None = None  # None: not judged
    note: str = ""


@dataclass(frozen=True)
class Answer:
    """What was said to a question, and under which condition it was asked."""

    condition: str
    text: str
    right: bool | None = None


@dataclass(frozen=True)
class Asked:
    """A question about a picture, or about the frames of a clip; a `truth` of "" is not shown."""

    pictures: tuple[Image.Image, ...]
    question: str
    truth: str
    answers: tuple[Answer, ...]
    others: tuple[Image.Image, ...] = ()  # what it was asked about besides: beside its picture, or below the frames


@dataclass(frozen=True)
class Blended:
    """Two pictures, the model's one of them, an artist's, and the cosine of the model's to each of the three by name."""

    first: Image.Image
    second: Image.Image
    drawn: Image.Image
    artists: Image.Image
    near: Mapping[str, float]
    near_others: Mapping[str, float]  # the same of the other rows' pictures: what nearness comes to by chance


@dataclass(frozen=True)
class Rate:
    """Right and wrong answers to one task, and what stands beside their share; `blind` where it was measured."""

    name: str
    right: list[bool]
    chance: float
    blind: list[bool] | None = None


def sheet(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """A canvas coarser than others, for pictures in a row make a notebook large."""
    figure, axes = canvas(width, height)
    figure.set_dpi(DOTS)
    return figure, axes


def some(items: Sequence, what: str) -> None:
    if not len(items):
        raise MinemuError(f"there is no {what} to show; give at least one")


def lines_of(text: str, letters: int, most: int = 6) -> list[str]:
    """`text` in at most `most` lines of at most so many letters."""
    text = re.sub(r"[ \t\r\n]+", " ", drawable(text)).strip() or "(nothing)"
    return textwrap.wrap(text, letters, max_lines=most, placeholder=" ...")


def add_lines(axes: Axes, x: float, y: float, lines: Sequence[str], **style) -> float:
    """Lines of text from y downwards; where the next one would begin."""
    for line in lines:
        axes.text(x, y, line, va="top", **style)
        y += STEP
    return y


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB"))


def add_framed(axes: Axes, picture: Image.Image, x: float, y: float, side: float, made: bool = False) -> None:
    add_picture(axes, pixels(picture), x, y, side)
    edge, width = (SAYS, 2.2) if made else (LINE, 0.6)
    axes.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor=edge, lw=width, zorder=3))


# ---- a gallery -------------------------------------------------------------------------------------------------------


def show_gallery(rows: Sequence[Sequence[Card]], titles: Sequence[str] | None = None, columns: int = 6) -> Figure:
    """Rows of cards, `columns` of them over the whole width; `titles` stand above the rows. Empty columns are cut off."""
    some([card for row in rows for card in row], "picture")
    if titles is not None and len(titles) != len(rows):
        raise MinemuError(f"{len(rows)} rows but {len(titles)} titles; give one title for each row")
    if max(map(len, rows)) > columns:
        raise MinemuError(f"a row of {max(map(len, rows))} cards does not fit in {columns} columns; make more rows")
    gap = 12.0
    side = (WIDTH - 2 * MARGIN - (columns - 1) * gap) / columns
    letters = int(side / 4.9)
    above = 18.0 if titles is not None else 0.0
    wide = max(map(len, rows)) * (side + gap) - gap + 2 * MARGIN
    if titles is not None:
        wide = max(wide, 5.4 * max(map(len, titles)) + 2 * MARGIN)
    heights = [above + side + 8 + STEP * max(_count(card, letters) for card in row) + 10 for row in rows]
    with rc_context(STYLE):
        figure, axes = sheet(MARGIN + sum(heights), min(wide, WIDTH))
        y = MARGIN
        for number, (row, height) in enumerate(zip(rows, heights, strict=True)):
            if titles is not None:
                axes.text(MARGIN, y, titles[number], va="top", weight="bold")
            for column, card in enumerate(row):
                _add_card(axes, card, MARGIN + column * (side + gap), y + above, side, letters)
            y += height
    return figure


def _count(card: Card, letters: int) -> int:
    """How many lines of text stand below a card."""
    return len(_words(card, letters)) + (len(lines_of(card.note, letters)) if card.note else 0)


def _words(card: Card, letters: int) -> list[str]:
    mark = MARKS[card.right][0]
    text = f"{card.text}{GLUE}{mark}" if mark else card.text
    return lines_of(text, letters) if text else []


def _add_card(axes: Axes, card: Card, x: float, y: float, side: float, letters: int) -> None:
    add_framed(axes, card.picture, x, y, side, made=card.made == "picture")
    colour = SAYS if card.made == "text" else INK
    below = add_lines(axes, x, y + side + 5, _words(card, letters), color=colour)
    if card.note:
        add_lines(axes, x, below, lines_of(card.note, letters), color=FAINT)


# ---- questions -------------------------------------------------------------------------------------------------------


def show_questions(asked: Sequence[Asked]) -> Figure:
    """Each question beside its picture, in two columns; or, if any is about a clip, beside its frames, in one."""
    some(asked, "question")
    frames = max(len(one.pictures) for one in asked)
    columns, side = (2, 76.0) if frames == 1 else (1, min(58.0, 480.0 / frames))
    if twins := any(one.others for one in asked):
        side = min(side, 58.0)
    wide = (WIDTH - 2 * MARGIN - (columns - 1) * 12) / columns
    beside = twins and frames == 1
    left = (2 if beside else frames) * (side + 3) + 10  # where the text begins
    letters = int((wide - left - 8) / 5.0)
    shown = side if beside or not twins else 2 * side + 3
    tall = max(max(shown, _text_height(one, letters)) for one in asked) + 16
    rows = -(-len(asked) // columns)
    with rc_context(STYLE):
        figure, axes = sheet(2 * MARGIN + rows * (tall + 8) - 8)
        for number, one in enumerate(asked):
            x, y = MARGIN + number % columns * (wide + 12), MARGIN + number // columns * (tall + 8)
            add_box(axes, x, y, wide, tall, GIVEN, radius=5)
            for k, picture in enumerate(one.pictures):
                add_framed(axes, picture, x + 8 + k * (side + 3), y + 8, side)
            for k, picture in enumerate(one.others):
                across, down = (1, 0) if beside else (k, 1)
                add_framed(axes, picture, x + 8 + across * (side + 3), y + 8 + down * (side + 3), side)
            _add_answers(axes, one, x + left + 4, y + 8, letters)
    return figure


def _told(one: Asked, letters: int) -> tuple[float, list[tuple[str, list[str], bool | None]]]:
    """How far to the right answers begin, and the truth and each answer: condition, lines, verdict."""
    told = [Answer("truth", one.truth)] * bool(one.truth) + list(one.answers)
    shift = 5.0 * max(len(answer.condition) for answer in told) + 6
    room = max(10, letters - int(shift / 5.0) - 2)
    return shift, [(answer.condition, lines_of(answer.text, room, most=3), answer.right) for answer in told]


def _text_height(one: Asked, letters: int) -> float:
    lines = sum(len(lines) for _, lines, _ in _told(one, letters)[1])
    return STEP * (len(lines_of(one.question, letters)) + lines) + 5


def _add_answers(axes: Axes, one: Asked, x: float, y: float, letters: int) -> None:
    y = add_lines(axes, x, y, lines_of(one.question, letters), weight="bold") + 2
    shift, told = _told(one, letters)
    for condition, lines, right in told:
        mark, colour = MARKS[right]
        add_lines(axes, x, y, [condition], color=FAINT)
        y = add_lines(axes, x + shift, y, [*lines[:-1], f"{lines[-1]} {mark}".rstrip()], color=colour)


# ---- documents -------------------------------------------------------------------------------------------------------

Piece = str | Image.Image
TALL, TEXT_WIDE = 72.0, 104.0  # of a piece, and of one of text


def show_document(given: Sequence[Piece], made: Sequence[Piece] = ()) -> Figure:
    """Text and pictures one after another; what the model made is blue."""
    some([*given, *made], "piece")
    pieces = [(piece, False) for piece in given] + [(piece, True) for piece in made]
    placed, x, y = [], MARGIN, MARGIN
    for piece, is_made in pieces:
        wide = _wide(piece)
        if x > MARGIN and x + wide > WIDTH - MARGIN:
            x, y = MARGIN, y + TALL + 10
        placed.append((piece, is_made, x, y, wide))
        x += wide + 6
    with rc_context(STYLE):
        figure, axes = sheet(y + TALL + 30)
        for piece, is_made, x, top, wide in placed:
            if not isinstance(piece, str):
                add_framed(axes, piece, x, top, TALL, made=is_made)
                continue
            add_box(axes, x, top, wide, TALL, MADE if is_made else GIVEN)
            lines = lines_of(piece, int((wide - 8) / 4.9))
            start = top + (TALL - STEP * len(lines)) / 2
            add_lines(axes, x + 6, start, lines, color=SAYS if is_made else INK)
        _add_key(axes, y + TALL + 16, bool(made))
    return figure


def _wide(piece: Piece) -> float:
    if not isinstance(piece, str):
        return TALL
    return min(TEXT_WIDE, 4.9 * max(map(len, lines_of(piece, int((TEXT_WIDE - 8) / 4.9)))) + 14)


def _add_key(axes: Axes, y: float, made: bool) -> None:
    axes.add_patch(Rectangle((MARGIN, y - 4), 8, 8, facecolor=GIVEN, edgecolor=LINE, lw=0.6))
    axes.text(MARGIN + 13, y, "given", color=FAINT, va="center")
    if made:
        axes.add_patch(Rectangle((MARGIN + 60, y - 4), 8, 8, facecolor=MADE, edgecolor=SAYS, lw=1.4))
        axes.text(MARGIN + 73, y, "made by the model", color=FAINT, va="center")


# ---- blends ----------------------------------------------------------------------------------------------------------


def show_blends(blends: Sequence[Blended]) -> Figure:
    """A row for each blend: its four pictures, and bars of how near the drawn one is to the others in the judge's eyes."""
    some(blends, "blend")
    side, gap = 84.0, 12.0
    heads = ("given", "given", "drawn by the model", "drawn by an artist")
    bars_at, bars_wide = MARGIN + 4 * (side + gap) + 76, 220.0
    with rc_context(STYLE):
        figure, axes = sheet(30 + len(blends) * (side + gap) + 22)
        for k, head in enumerate(heads):
            axes.text(MARGIN + k * (side + gap) + side / 2, 14, head, ha="center", va="center", color=FAINT)
        axes.text(bars_at, 14, "cosine of the drawn picture to", va="center", color=FAINT)
        for number, one in enumerate(blends):
            y = 28 + number * (side + gap)
            for k, picture in enumerate((one.first, one.second, one.drawn, one.artists)):
                add_framed(axes, picture, MARGIN + k * (side + gap), y, side, made=k == 2)
            _add_bars(axes, one, bars_at, y + 12, bars_wide)
        end = 28 + len(blends) * (side + gap) + 6
        axes.plot([bars_at, bars_at], [end - 5, end + 5], color=INK, lw=1.6)
        axes.text(bars_at + 8, end, "the same for another row's pictures: chance", color=FAINT, va="center")
    return figure


def _add_bars(axes: Axes, one: Blended, x: float, y: float, wide: float) -> None:
    """Bars from 0 to 1, each with a stroke where chance is."""
    for k, (name, value) in enumerate(one.near.items()):
        top = y + 22 * k
        axes.text(x - 8, top + 6, name, ha="right", va="center")
        axes.add_patch(Rectangle((x, top), wide, 12, facecolor=GIVEN))
        axes.add_patch(Rectangle((x, top), wide * max(0.0, value), 12, facecolor=SAYS, alpha=0.7))
        chance = x + wide * one.near_others[name]
        axes.plot([chance, chance], [top - 2, top + 14], color=INK, lw=1.6)
        axes.text(x + wide + 8, top + 6, f"{value:.2f}", va="center")


# ---- rates -----------------------------------------------------------------------------------------------------------


def show_rates(rates: Sequence[Rate], x: str = "right answers in %") -> Figure:
    """A line for each task: the share of right answers with its 95 % interval, chance and the blind share beside it."""
    some(rates, "rate")
    figure, (axes,) = charts(620, 84 + 26 * len(rates))
    for y, one in enumerate(rates):
        low, high = wilson(one.right)
        axes.plot([100 * low, 100 * high], [y, y], color=SAYS, lw=5, alpha=0.3, solid_capstyle="butt")
        axes.plot(
            100 * rate(one.right), y, "o", color=SAYS, ms=7, label="measured, with 95 % interval" if not y else None
        )
        axes.plot(100 * one.chance, y, "|", color=INK, ms=13, mew=2, label="chance" if not y else None)
    seen = [(100 * rate(one.blind), y) for y, one in enumerate(rates) if one.blind is not None]
    if seen:
        axes.plot(*zip(*seen, strict=True), "D", mfc="white", mec=REGRESSES, mew=1.6, ms=6, ls="", label="blind")
    axes.set_yticks(range(len(rates)), [f"{one.name}  (n = {len(one.right)})" for one in rates])
    axes.set(xlim=(-2, 102), ylim=(len(rates) - 0.5, -0.5))
    axes.grid(axis="x", color=LINE, lw=0.5)
    label(axes, x)
    legend(figure, loc="outside upper center", ncols=3)
    return figure


def show_shots(
    shots: Sequence[int],
    curves: Mapping[str, Sequence[list[bool]]],
    chance: float | None = None,
    x: str = "examples of each name",
) -> Figure:
    """Shares of right answers against the number of examples, or of turns: a line for each name, its 95 % interval as a shade."""
    some(curves, "curve")
    for name, marks in curves.items():
        if len(marks) != len(shots):
            raise MinemuError(
                f"'{name}' has {len(marks)} values for {len(shots)} places on the x axis; give one for each"
            )
    figure, (axes,) = charts(460, 224)
    places = range(len(shots))
    add_curves(axes, places, {name: [100 * rate(one) for one in marks] for name, marks in curves.items()}, marked=True)
    for line, marks in zip(list(axes.lines), curves.values(), strict=True):
        low, high = zip(*(wilson(one) for one in marks), strict=True)
        shade = {"color": line.get_color(), "alpha": 0.15, "lw": 0}
        axes.fill_between(places, [100 * end for end in low], [100 * end for end in high], **shade)
    if chance is not None:
        rule(axes, 100 * chance, "chance")
    axes.set_xticks(places, [str(number) for number in shots])
    axes.set_ylim(0, 104)
    axes.grid(axis="y", color=LINE, lw=0.5)
    label(axes, x, "right answers in %")
    legend(axes, loc="lower left" if chance is None else "lower right")
    return figure
