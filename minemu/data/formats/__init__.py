"""The formats of the papers' data: `open_source` makes an endless, seeded source of documents of any of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from minemu.data.conversations import Conversation
from minemu.data.formats.chats import Chats
from minemu.data.formats.mmc4 import MMC4, MMC4Config
from minemu.data.formats.pairs import Parquet, WebDataset
from minemu.data.formats.reading import Shuffled, files
from minemu.data.formats.storyboards import Storyboards, videos
from minemu.data.formats.webvid import WebVid
from minemu.data.video import FRAMES
from minemu.errors import MinemuError, suggest

__all__ = ["FORMATS", "READ_BY", "DataConfig", "MMC4Config", "listing", "open_source"]

FORMATS = {
    "webdataset": "tar shards of image-text pairs (LAION-2B, LAION-COCO)",
    "parquet": "parquet files of image-text pairs",
    "mmc4": "JSON lines of MMC4 and a folder of pictures",
    "webvid": "CSV of WebVid and a folder of clips",
    "storyboards": "a folder of YT-Storyboard-1B",
    "chats": "JSON of LLaVA, VideoChat, Alpaca or ShareGPT, and a folder of pictures and clips",
}


@dataclass(frozen=True)
class DataConfig:
    """One data set on disk."""

    format: str  # one of FORMATS
    path: str  # a file, a pattern ("laion/*.tar", "laion/{000..231}.tar"), or for storyboards a folder
    folder: str = "."  # where the pictures or clips lie that the files name
    max_bad: float = 0.05  # share of bad samples at which the run stops
    mmc4: MMC4Config = MMC4Config()
    frames: int = FRAMES  # of a clip; of a storyboard at most
    random_frames: bool = True  # as in training; else evenly spread


READ_BY = {  # which formats read a setting
    "folder": ("mmc4", "webvid", "chats"),
    **{f"mmc4.{field.name}": ("mmc4",) for field in fields(MMC4Config)},
    "frames": ("webvid", "storyboards", "chats"),
    "random_frames": ("webvid", "chats"),
    "max_bad": tuple(FORMATS),
}


def open_source(
    config: DataConfig,
    length: Callable[[str], int],
    n_image: int,
    seed: int = 0,
    on_skip: Callable[[int, str], None] | None = None,
    name: str = "",
) -> Shuffled:
    """A source for `Mixture`: `document(number)` gives a list of text and PIL pictures, "chats" gives a `Conversation`.

    length    tokens of a text, such as `lambda text: len(processor.encode(text))`; what it raises makes a sample a bad one
    n_image   embeddings of a picture
    on_skip   is told the number of each bad sample, and why
    name      of the source: of one seed, sources of other names make other choices
    """
    if config.format not in FORMATS:
        raise MinemuError(f"no data format '{config.format}': {suggest(config.format, FORMATS)}")
    if config.frames < 1:
        raise MinemuError(f"frames={config.frames}: take 1 or more of each clip")
    folder = Path(config.folder)
    if config.format in READ_BY["folder"] and not folder.is_dir():  # else each sample would be filtered
        raise MinemuError(f"folder={config.folder} is no folder; name the one that holds the pictures or clips")
    match config.format:
        case "webdataset":
            reader = WebDataset(files(config.path))
        case "parquet":
            reader = Parquet(files(config.path))
        case "mmc4":
            reader = MMC4(files(config.path), folder, length, n_image + 2, config.mmc4)
        case "webvid":
            reader = WebVid(files(config.path), folder, config.frames, config.random_frames)
        case "storyboards":
            reader = Storyboards(Path(config.path), config.frames)
        case "chats":
            reader = Chats(files(config.path), folder, config.frames, config.random_frames)

    def check(document: Any) -> None:
        texts = document.texts() if isinstance(document, Conversation) else document
        for text in texts:
            if isinstance(text, str):
                length(text)  # a tokenizer may have more special tokens than readers know, and refuses them

    return Shuffled(reader, seed, config.max_bad, on_skip, check, name)


def listing(config: DataConfig) -> dict[str, Any]:
    """The files that the path of a data set names: how many, their bytes, and a digest of their names and sizes.

    Which sample a number stands for follows from them. Pictures and clips in `folder` are not looked at.
    """
    found = videos(Path(config.path)) if config.format == "storyboards" else files(config.path)
    sizes = [path.stat().st_size for path in found]
    lines = "".join(f"{path} {size}\n" for path, size in zip(found, sizes, strict=True))
    return {"files": len(found), "bytes": sum(sizes), "sha256": hashlib.sha256(lines.encode()).hexdigest()}
