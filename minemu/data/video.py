"""Clips as pictures: which frames of a clip are taken, and how they are read from disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from minemu.errors import MinemuError
from minemu.processor import BROKEN_PICTURE, PICTURE_SUFFIXES, VIDEO_SUFFIXES, Item, is_picture_path, read_picture
from minemu.sequence import Video

FRAMES = 8  # a clip, as in Emu
ANIMATED = (".webp", ".gif", ".png")


def frame_numbers(total: int, count: int = FRAMES, rng: np.random.Generator | None = None) -> list[int]:
    """Which `count` of `total` frames to take, in order: at random with a generator (training), else spread evenly.

    A clip with fewer frames than `count` shows some of them more than once, and drawn at random perhaps not all.
    """
    if total < 1:
        raise MinemuError("the clip has no frames; give one that has at least one")
    if count < 1:
        raise MinemuError(f"{count} frames of a clip are wanted; take 1 or more")
    if rng is None:
        return [int((k + 0.5) * total / count) for k in range(count)]
    return sorted(rng.choice(total, count, replace=total < count).tolist())


def read_frames(
    path: str | os.PathLike, count: int = FRAMES, rng: np.random.Generator | None = None
) -> list[Image.Image]:
    """`count` frames (RGB) of an animated WebP, GIF or PNG, of a film, or of a folder of pictures in order of their names."""
    path = Path(path)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES)
        if not files:
            raise MinemuError(f"the clip {path} has no frames: the folder holds no picture; put its frames there")
        return [read_picture(files[k]) for k in frame_numbers(len(files), count, rng)]
    if not path.exists():
        raise MinemuError(f"the clip {path} does not exist; check the path")
    if path.suffix.lower() not in (*ANIMATED, *VIDEO_SUFFIXES):
        raise MinemuError(
            f"the clip {path} is no animated WebP, GIF or PNG, and no film ({', '.join(VIDEO_SUFFIXES)}); "
            f"{_to_folder(path)}"
        )
    try:
        return (_film if path.suffix.lower() in VIDEO_SUFFIXES else _animated)(path, count, rng)
    except MinemuError:
        raise
    except BROKEN_PICTURE:
        raise MinemuError(f"the clip {path} is broken; fetch it again or leave it out") from None


def as_item(item: Item, count: int = FRAMES) -> Item:
    """An item of a sample as it is read: the path of a clip as a video of `count` frames, anything else as it is."""
    is_path = isinstance(item, os.PathLike) or (isinstance(item, str) and is_picture_path(item))
    return Video(read_frames(item, count)) if is_path and is_clip(item) else item


def as_video(shown: Video | Sequence | str | os.PathLike, count: int = FRAMES) -> Video:
    """`count` frames of a clip at a path, some of a short one more than once; of a `Video` or a list of pictures at most as many."""
    if isinstance(shown, (str, os.PathLike)):
        return Video(read_frames(shown, count))
    frames = shown.frames if isinstance(shown, Video) else shown
    if not isinstance(frames, (list, tuple)):
        raise MinemuError(f"a video is a list of pictures, a Video or a path, not a {type(shown).__name__}")
    return Video.sampled(frames, count)


def is_clip(path: str | os.PathLike) -> bool:
    """Whether a path shows what moves: a picture of more than one frame, a film, a folder of frames.

    What cannot be read is left to whoever reads it.
    """
    path = Path(path)
    if path.is_dir() or path.suffix.lower() in VIDEO_SUFFIXES:
        return True
    if path.suffix.lower() not in ANIMATED:
        return False
    try:
        with Image.open(path) as picture:
            return getattr(picture, "n_frames", 1) > 1
    except BROKEN_PICTURE:
        return False


def _animated(path: Path, count: int, rng: np.random.Generator | None) -> list[Image.Image]:
    with Image.open(path) as clip:
        frames = []
        for k in frame_numbers(getattr(clip, "n_frames", 1), count, rng):
            clip.seek(k)
            frames.append(read_picture(clip.copy()))
        return frames


def _film(path: Path, count: int, rng: np.random.Generator | None) -> list[Image.Image]:
    """Decoded twice, to count the frames and to take some of them: the number that stands in the file may be wrong."""
    try:
        import av
    except ImportError:
        raise MinemuError(
            f'the clip {path} needs a video decoder: pip install "minemu[video]"; or {_to_folder(path)}'
        ) from None
    try:
        with av.open(str(path)) as film:
            total = sum(1 for _ in film.decode(video=0))
        if not total:
            raise MinemuError(f"the clip {path} has no frames; fetch it again or leave it out")
        numbers = frame_numbers(total, count, rng)
        with av.open(str(path)) as film:
            frames = {k: frame.to_image() for k, frame in enumerate(film.decode(video=0)) if k in numbers}
    except (av.FFmpegError, IndexError):  # damaged, or without pictures
        raise MinemuError(f"the clip {path} is broken; fetch it again or leave it out") from None
    return [read_picture(frames[k]) for k in numbers]


def _to_folder(path: Path) -> str:
    return f"make a folder of frames: mkdir {path.stem}; ffmpeg -i {path.name} {path.stem}/%05d.png"
