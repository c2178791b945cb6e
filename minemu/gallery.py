"""The gallery of `minemu demo`: results and pictures as one page (`index.html`) and one contact sheet (`gallery.png`).

Both are drawn from the folder's `pictures/` and from the dict that is saved as `results.json`, and from nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from minemu.errors import MinemuError
from minemu.files import write_json

REAL = "a real drawing"
FILES = ("index.html", "gallery.png", "results.json", "pictures")


@dataclass(frozen=True)
class Tile:
    """One picture with words below it. `made`: which of the two the model made, "picture" or "text"."""

    picture: str  # path inside the gallery
    text: str
    shows: str  # what the picture is, for whoever cannot see it
    made: str | None = None
    note: str = ""
    right: bool | None = None  # None: not judged
    split: str = "seen"


@dataclass(frozen=True)
class Section:
    name: str
    note: str
    rows: list[list[Tile]]


def check_folder(out: Path) -> None:
    """Refuse to replace a folder that holds anything but an earlier gallery."""
    if out.exists() and not out.is_dir():
        raise MinemuError(f"{out} is a file; choose another folder with --out")
    strange = sorted(entry.name for entry in out.iterdir() if entry.name not in FILES) if out.exists() else []
    if strange:
        raise MinemuError(
            f"{out} holds '{strange[0]}', which is no part of a gallery; choose another folder with --out"
        )


def write_gallery(folder: Path, results: dict[str, Any]) -> None:
    """Write results.json, index.html and gallery.png beside the pictures that `results` names."""
    write_json(folder / "results.json", results)
    sections = describe(results)
    (folder / "index.html").write_text(page(results, sections), encoding="utf-8")
    contact_sheet(folder, sections).save(folder / "gallery.png", optimize=True)


def describe(results: dict[str, Any]) -> list[Section]:
    """What is shown, in order, and how it is called."""
    seen, new = results["summary"]["captions"]["seen"], results["summary"]["captions"]["new-drawing"]
    read = [
        Tile(one["picture"], one["answer"], f"given: {one['truth']}", "text", _truth(one), one["right"], one["split"])
        for one in results["captions"]
    ]
    drawn = [
        [
            Tile(one["picture"], one["prompt"], f"drawn from: {one['prompt']}", "picture", _novelty(one["split"])),
            Tile(one["real"], REAL, f"a real drawing: {one['prompt']}"),
        ]
        for one in results["drawings"]
    ]
    rebuilt = [
        [
            Tile(one["original"], one["truth"], f"given: {one['truth']}"),
            Tile(one["picture"], "rebuilt", f"rebuilt from its embeddings: {one['truth']}", "picture"),
        ]
        for one in results["rebuilt"]
    ]
    blends = [
        [
            Tile(one["first"], one["first_truth"], f"given: {one['first_truth']}"),
            Tile(one["second"], one["second_truth"], f"given: {one['second_truth']}"),
            Tile(one["picture"], "blend", f"blend of {one['first_truth']} and {one['second_truth']}", "picture"),
        ]
        for one in results["blends"]
    ]
    return [
        Section(
            "Reads",
            f"pictures never shown in training, captioned: {seen['right']} of {seen['of']} right in scenes of known drawings, "
            f"{new['right']} of {new['of']} in drawings of a style new to their concept",
            [read],
        ),
        Section("Draws", "from words alone; beside it the same of real drawings", drawn),
        Section(
            "Continues",
            "a document of words and pictures, with a picture or with words",
            [_document(one) for one in results["documents"]],
        ),
        Section("Rebuilds", f"pictures from their {results['embeddings_a_picture']} embeddings", rebuilt),
        Section("Blends", "two pictures and no words, which it was never trained for", blends),
    ]


def _truth(one: dict[str, Any]) -> str:
    return "" if one["right"] else f"truth: {one['truth']}"


def _novelty(split: str) -> str:
    return "in a style it never saw this in" if split == "new-drawing" else ""


def _document(one: dict[str, Any]) -> list[Tile]:
    """Pairs of picture and words, whichever came first, after a title; in the last pair one of the two is the model's."""
    made = one["continues_with"]
    title, *items = [*one["items"], {made: one["answer"]}]
    pairs = [first | second for first, second in zip(items[::2], items[1::2], strict=True)]
    pairs[0]["text"] = f"{title['text']} {pairs[0]['text']}"
    tiles = [
        Tile(pair["picture"], pair["text"], f"picture {place} of a document") for place, pair in enumerate(pairs, 1)
    ]
    note = f"truth: {one['truth']}" if one["right"] is False else ""
    tiles[-1] = replace(tiles[-1], made=made, note=note, right=one["right"])
    if made == "text":
        return tiles
    return [
        *tiles[:-1],
        replace(tiles[-1], shows="drawn to continue it"),
        Tile(one["truth"], REAL, "a real drawing of the same"),
    ]


# ---- the page ----------------------------------------------------------------------------------------------------------

STYLE = """
:root { color-scheme: light dark; --ink: #1f2933; --faint: #66727f; --page: #fff; --card: #f5f7fa;
  --made: #2563c9; --bad: #c2410c; --good: #15803d }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaee; --faint: #98a3af; --page: #14181d; --card: #1e242b;
  --made: #7fb0ff; --bad: #fb923c; --good: #4ade80 } }
body { font: 16px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 1180px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 0 .3rem }
h2 { font-size: 1.15rem; margin: 2.2rem 0 0 }
p { margin: .2rem 0 .9rem; color: var(--faint) }
.rows { display: flex; flex-wrap: wrap; gap: 14px }
.row { display: flex; flex-wrap: wrap; gap: 10px; padding: 10px; border-radius: 8px; background: var(--card) }
figure { margin: 0; width: 192px }
img { width: 192px; height: 192px; display: block; border-radius: 4px; image-rendering: pixelated }
img.made { outline: 3px solid var(--made); outline-offset: -3px }
figcaption { font-size: .86rem; margin-top: 5px }
figcaption small { display: block; color: var(--faint) }
.made.text { color: var(--made); font-style: italic }
.good { color: var(--good) }
.bad { color: var(--bad) }
"""


def page(results: dict[str, Any], sections: Sequence[Section]) -> str:
    facts = f"seed {results['seed']}, {results['seconds']:.0f} seconds, commit {results['commit'][:12]}"
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width">\n'
        f"<title>minemu demo</title>\n<style>{STYLE}</style>\n<main>\n<h1>What {escape(results['preset'])} reads and draws</h1>\n"
        "<p>Blue is what the model made: framed pictures, slanted words. Nothing is picked. Every input and output is in "
        f"results.json ({escape(facts)}).</p>\n{''.join(map(_section, sections))}</main>\n</html>\n"
    )


def _section(section: Section) -> str:
    rows = section.rows if len(section.rows) > 1 else [[tile] for tile in section.rows[0]]
    cards = "".join(f'<div class="row">{"".join(map(_figure, row))}</div>\n' for row in rows)
    return f'<section>\n<h2>{section.name}</h2>\n<p>{escape(section.note)}</p>\n<div class="rows">\n{cards}</div>\n</section>\n'


def _figure(tile: Tile) -> str:
    text = escape(tile.text) or "(nothing)"
    made = ' class="made"' if tile.made == "picture" else ""
    picture = f'<img src="{escape(tile.picture)}" alt="{escape(tile.shows)}"{made}>'
    words = f'<span class="made text">{text}</span>' if tile.made == "text" else text
    marks = {True: ("good", "right", "✓"), False: ("bad", "wrong", "✗")}
    mark = "" if tile.right is None else ' <b class="{}" role="img" aria-label="{}">{}</b>'.format(*marks[tile.right])
    note = f"<small>{escape(tile.note)}</small>" if tile.note else ""
    return f"<figure>{picture}<figcaption>{words}{mark}{note}</figcaption></figure>"


# ---- the contact sheet -------------------------------------------------------------------------------------------------

SIDE, GAP, MARGIN, COLUMNS, LINE, LINES = 192, 16, 26, 6, 24, 4
INK, FAINT, MADE, GOOD, BAD, EDGE = "#1f2933", "#66727f", "#2563c9", "#15803d", "#c2410c", "#cbd2d9"


def contact_sheet(folder: Path, sections: Sequence[Section]) -> Image.Image:
    """The first of each section, six in a row: read, drawn, continued, rebuilt (beside the original). Nothing is picked."""
    rows_of = {section.name: section.rows for section in sections}
    read = {split: [tile for tile in rows_of["Reads"][0] if tile.split == split] for split in ("seen", "new-drawing")}
    drawn = [row[0] for row in rows_of["Draws"]]
    rebuilt = [replace(tile, text="") for row in rows_of["Rebuilds"][: COLUMNS // 2] for tile in row]
    bands = [
        (
            "reads pictures that it was never shown; the last two in a style new to the thing",
            [read["seen"][:4] + read["new-drawing"][:2]],
        ),
        ("draws from words", [drawn[:COLUMNS], drawn[COLUMNS : 2 * COLUMNS]]),
        ("continues a document of words and pictures", [[tile for row in rows_of["Continues"] for tile in row[:3]]]),
        ("rebuilds a picture from its embeddings", [rebuilt]),
    ]
    heights = [[_height(row) for row in rows] for _, rows in bands]
    width = 2 * MARGIN + COLUMNS * (SIDE + GAP) - GAP
    sheet = Image.new("RGB", (width, MARGIN + sum(40 + sum(rows) for rows in heights)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((width - MARGIN, MARGIN + 5), "blue: made by the model", MADE, _font(17), anchor="ra")
    y = MARGIN
    for (label, rows), tall in zip(bands, heights, strict=True):
        draw.text((MARGIN, y), label, INK, _font(24))
        y += 40
        for row, height in zip(rows, tall, strict=True):
            for column, tile in enumerate(row):
                _place(sheet, draw, folder, tile, MARGIN + column * (SIDE + GAP), y)
            y += height
    return sheet


@lru_cache(maxsize=2)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _lines(text: str) -> list[str]:
    """`text` in at most LINES lines, none wider than a picture; "…" where it was cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if _fits(longer):
            lines[-1] = longer
        else:
            lines.append(word)
    shown = [line if _fits(line) else _cut(line) for line in lines if line]
    return shown if len(shown) <= LINES else [*shown[: LINES - 1], _cut(shown[LINES - 1].removesuffix("…"))]


def _cut(line: str) -> str:
    """The line, or its beginning, with "…" behind it."""
    while not _fits(f"{line}…"):
        line = line[:-1]
    return f"{line}…"


def _fits(line: str) -> bool:
    return _font(17).getlength(line) <= SIDE


def _height(row: Sequence[Tile]) -> int:
    longest = max((len(_lines(tile.text)) for tile in row), default=0)
    return SIDE + GAP + (LINE * longest + 8 if longest else 0)


def _place(sheet: Image.Image, draw: ImageDraw.ImageDraw, folder: Path, tile: Tile, x: int, y: int) -> None:
    with Image.open(folder / tile.picture) as picture:
        sheet.paste(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST), (x, y))
    made = tile.made == "picture"
    draw.rectangle((x, y, x + SIDE - 1, y + SIDE - 1), outline=MADE if made else EDGE, width=3 if made else 1)
    for number, line in enumerate(_lines(tile.text)):
        draw.text((x, y + SIDE + 6 + LINE * number), line, MADE if tile.made == "text" else INK, _font(17))
    if tile.right is not None:
        _mark(draw, x + SIDE - 24, y + SIDE - 24, tile.right)


def _mark(draw: ImageDraw.ImageDraw, x: int, y: int, right: bool) -> None:
    """A tick or a cross on a white disc of 20 pixels."""
    draw.ellipse((x, y, x + 20, y + 20), fill="white")
    if right:
        draw.line((x + 5, y + 10, x + 9, y + 14, x + 15, y + 6), GOOD, 3)
    else:
        draw.line((x + 6, y + 6, x + 14, y + 14), BAD, 3)
        draw.line((x + 6, y + 14, x + 14, y + 6), BAD, 3)
