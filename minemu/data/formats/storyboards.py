"""YT-Storyboard-1B: thumbnails of videos in sheets, and subtitles with their times: the files of the authors' tools, in three folders.

    FOLDER/storyboard/KEY.json        {"url": ...watch?v=ID, "yt_meta_dict": {"sb": {"0": [w, h, columns, rows, thumbnails], ...}}}
    FOLDER/storyboard/KEY_0.webp      a sheet of thumbnails, left to right, top to bottom; KEY_1.webp, ...
    FOLDER/subtitle/ID.json           [{"text": ..., "start": seconds, "duration": seconds}, ...]
    FOLDER/label/ID.json              {"duration": seconds, ...}

https://github.com/baaivision/Emu, Emu1/data/yt-sb-1b

Those tools leave sheets and their descriptions in a folder for each shard, and subtitles and labels elsewhere: bring them together
as above. Their maker of documents counts the thumbnails of the sheets that are on disk, and rounds the seconds between two of them
to a whole number; here all sheets count, a video that lacks one that is to be shown is left out, and nothing is rounded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from minemu.data.documents import Document, by_time
from minemu.data.formats.reading import Filtered, clean_text, files, locate
from minemu.errors import MinemuError
from minemu.processor import read_picture

Sheet = tuple[int, int, int]  # columns, rows, thumbnails


class Storyboards:
    """Videos as thumbnails and subtitles in the order of their times; `pictures` that follow one another of each."""

    def __init__(self, folder: Path, pictures: int = 8):
        self.folder, self.pictures = Path(folder), pictures
        self.videos = videos(self.folder)
        self.blocks = [len(self.videos)]

    def name(self, k: int) -> str:
        return str(self.videos[k])

    def read(self, k: int, rng: np.random.Generator) -> Document:
        """A random part of the video: neighbouring subtitles are one text."""
        video = self.videos[k]
        sheets, duration, subtitles = self._described(video)
        total = sum(count for _, _, count in sheets)
        interval = duration / total  # thumbnails are taken at equal times, the first at 0
        near = int(subtitles[int(rng.integers(len(subtitles)))][0] / interval)  # a thumbnail at which someone speaks
        first = int(rng.integers(max(0, near - self.pictures + 1), near + 1))
        numbers = range(first, min(total, first + self.pictures))
        spoken = [(time, text) for time, text in subtitles if numbers[0] <= int(time / interval) <= numbers[-1]]
        times = [number * interval for number in numbers]
        return by_time(zip(times, _thumbnails(video, sheets, numbers), strict=True), spoken)

    def _described(self, video: Path) -> tuple[list[Sheet], float, list[tuple[float, str]]]:
        """The sheets, the duration in seconds, and when which subtitle begins: one at least, while the video runs."""
        try:
            board = _json(video)
            name = f"{board['url'].rpartition('watch?v=')[2]}.json"
            grids = _in_order(board["yt_meta_dict"]["sb"])
            sheets = [(int(grid[2]), int(grid[3]), int(grid[4])) for grid in grids]
            lines = [line for line in _json(self.folder / "subtitle" / name) if line["text"].strip()]
            subtitles = [(float(line["start"]), clean_text(line["text"], str(video))) for line in lines]
            duration = float(_json(self.folder / "label" / name)["duration"])
        except MinemuError:
            raise
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            raise MinemuError(f"{video}, its subtitle or its label is not as it should be ({error!r})") from None
        if not sheets or any(not 0 < count <= columns * rows for columns, rows, count in sheets):
            raise MinemuError(f"the clip {video} has no frames, or more than its sheets hold; leave it out")
        subtitles = [(time, text) for time, text in subtitles if 0 <= time < duration]
        if not subtitles:
            raise MinemuError(f"{video} has no subtitle from second 0 to {duration:g}; leave it out")
        return sheets, duration, subtitles


def _in_order(grids: dict[str, list[int]]) -> list[list[int]]:
    """What is said of each sheet: that of KEY_0.webp is named "0"; without such names it is the first."""
    return [grids[str(sheet)] for sheet in range(len(grids))] if "0" in grids else list(grids.values())


def _thumbnails(video: Path, sheets: list[Sheet], numbers: Sequence[int]) -> list[Image.Image]:
    """Thumbnails by their numbers; a sheet is read once, whatever is taken of it."""
    places = [locate([count for _, _, count in sheets], number) for number in numbers]
    pictures = {sheet: _sheet(video, sheet) for sheet in dict.fromkeys(sheet for sheet, _ in places)}
    return [_cut_out(pictures[sheet], sheets[sheet], place) for sheet, place in places]


def _sheet(video: Path, sheet: int) -> Image.Image:
    path = video.with_name(f"{video.stem}_{sheet}.webp")
    if not path.is_file():
        raise Filtered(f"{path} is missing")
    return read_picture(path)


def _cut_out(picture: Image.Image, sheet: Sheet, place: int) -> Image.Image:
    columns, rows, _ = sheet
    width, height = picture.width // columns, picture.height // rows
    x, y = place % columns * width, place // columns * height
    return read_picture(picture.crop((x, y, x + width, y + height)))


def videos(folder: Path) -> list[Path]:
    """The description of each video."""
    return files(folder / "storyboard" / "*.json")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Filtered(f"{path} is missing") from None
    except ValueError as error:
        raise MinemuError(f"{path} is not valid JSON ({error})") from None
