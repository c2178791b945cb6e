"""WebVid-10M: a CSV (videoid, contentUrl, duration, page_dir, name) and clips at `page_dir/videoid` in a folder.

https://github.com/m-bain/webvid
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from minemu.data.documents import Document
from minemu.data.formats.reading import BOM, Filtered, clean_text, locate
from minemu.data.video import ANIMATED, FRAMES, read_frames
from minemu.errors import MinemuError

NEEDED = ("videoid", "page_dir", "name")
SUFFIXES = (".mp4", *ANIMATED)  # of a clip; beside a film a picture of its name is a thumbnail


class WebVid:
    """Clips with captions. A clip is a folder of frames, an animated picture or a film (which needs `minemu[video]`):
    page_dir/videoid/, page_dir/videoid.webp or page_dir/videoid.mp4.
    """

    def __init__(self, paths: Sequence[Path], folder: Path, frames: int = FRAMES, random_frames: bool = True):
        self.paths, self.folder = list(paths), Path(folder)
        self.frames, self.random_frames = frames, random_frames
        self.rows = [_rows(path) for path in self.paths]
        self.blocks = [len(starts) for _, starts in self.rows]

    def name(self, k: int) -> str:
        block, place = locate(self.blocks, k)
        return f"row {place} of {self.paths[block]}"

    def read(self, k: int, rng: np.random.Generator) -> Document:
        """`frames` frames before or after the caption."""
        name, row = self.name(k), self._row(*locate(self.blocks, k))
        text = clean_text(row["name"], name)
        pictures = read_frames(self._clip(row, name), self.frames, rng if self.random_frames else None)
        return [*pictures, text] if rng.random() < 0.5 else [text, *pictures]

    def _row(self, block: int, place: int) -> dict[str, str]:
        columns, starts = self.rows[block]
        with open(self.paths[block], "rb") as file:
            file.seek(starts[place])
            values = _next_row(csv.reader(map(_text, file))) or []
        return dict(zip(columns, values, strict=False)) | dict.fromkeys(columns[len(values) :], "")

    def _clip(self, row: dict[str, str], name: str) -> Path:
        if not row["videoid"]:
            raise MinemuError(f"{name} has no videoid")
        stem = self.folder / row["page_dir"] / row["videoid"]
        for path in (stem, *(stem.with_name(stem.name + suffix) for suffix in SUFFIXES)):
            if path.exists():
                return path
        raise Filtered(f"{name}: the clip {stem} is missing (a folder of frames, or {', '.join(SUFFIXES)})")


def _rows(path: Path) -> tuple[list[str], np.ndarray]:
    """The columns, and where each row starts in bytes, but for empty ones. A quoted caption may span lines."""
    at = 0

    def lines(file) -> Iterator[str]:
        nonlocal at
        for line in file:
            at += len(line)
            yield _text(line)

    with open(path, "rb") as file:
        table = csv.reader(lines(file))
        columns = _next_row(table) or []
        starts, start = [], at
        while (row := _next_row(table)) is not None:
            if any(map(str.strip, row)):
                starts.append(start)
            start = at
    if lacking := [name for name in NEEDED if name not in columns]:
        raise MinemuError(f"{path} has no column {', '.join(lacking)}; a WebVid CSV begins with a line of column names")
    return columns, np.array(starts, dtype=np.int64)


def _text(line: bytes) -> str:
    return line.removeprefix(BOM).decode("utf-8", errors="replace")


def _next_row(table: Iterator[list[str]]) -> list[str] | None:
    """None at the end. A row that is no CSV has one cell, which is not enough, so that it is refused when it is read."""
    try:
        return next(table, None)
    except csv.Error:
        return ["?"]
