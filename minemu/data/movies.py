"""Toy clips: a drawing moves across the picture, or one thing about a picture changes; with a caption that is true of it.

A movie shows only scenes that its world may show, so what evaluation owns never moves in training either.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from minemu.data import captions, samples
from minemu.data.documents import pixels
from minemu.data.scene import BACKGROUNDS, SIZES, Group, Scene
from minemu.data.video import FRAMES, frame_numbers
from minemu.data.world import CANVAS, ToyWorld, new_seed, pick

LENGTH = 16  # frames of a movie, of which 8 are taken
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
WAYS = {"left": "to the left", "right": "to the right", "up": "up", "down": "down"}
TRAVEL = 20  # pixels from the first frame to the last, of a picture 64 wide
# Range of a drawing's centre halfway, on both axes, so that the middle frame hardly tells its direction.
MIDDLE = (25, 39)
CHANGES = ("background", "size", "drawing")


@dataclass(frozen=True)
class Movie:
    """What a clip shows: `first` moving in a `direction`, or `first` turning into `last`, or nothing happening at all."""

    first: Scene
    last: Scene
    direction: str | None = None

    @property
    def change(self) -> str | None:
        """What differs between the first scene and the last: "background", "size", "drawing" or nothing."""
        looks = (self.first.background, self.last.background), (self.first.size, self.last.size)
        differ = [one != two for one, two in (*looks, (self.first.groups, self.last.groups))]
        return next((change for change, differs in zip(CHANGES, differ, strict=True) if differs), None)

    def shows(self) -> tuple:
        """All that is to be seen, in one agreed form."""
        return self.first.shows(), self.last.shows(), self.direction


# ---- drawing movies --------------------------------------------------------------------------------------------------


def any_movie(world: ToyWorld, rng: np.random.Generator) -> Movie:
    """Half of the movies move, three in eight change, one in eight do neither."""
    if rng.random() < 0.5:
        return moving(world, rng, pick(rng, tuple(DIRECTIONS)))
    return changing(world, rng, pick(rng, (*CHANGES, None)))


def moving(world: ToyWorld, rng: np.random.Generator, direction: str) -> Movie:
    """A small drawing moves to the left, ..."""
    while True:
        scene = replace(_single(world, rng), size="small")
        if world.owns(scene):
            return Movie(scene, scene, direction)


def changing(world: ToyWorld, rng: np.random.Generator, change: str | None) -> Movie:
    """Halfway, the background, the size or the drawing changes; with None nothing does."""
    while True:
        first = _single(world, rng)
        last = CHANGED[change](world, rng, first) if change else first
        if world.owns(first) and world.owns(last):
            return Movie(first, last)


def _single(world: ToyWorld, rng: np.random.Generator) -> Scene:
    label, style = pick(rng, world.countable_keys)
    size, background = pick(rng, tuple(SIZES)), pick(rng, tuple(BACKGROUNDS))
    return Scene((Group(label),), None, size, background, style, new_seed(rng))


def _other_background(world: ToyWorld, rng: np.random.Generator, scene: Scene) -> Scene:
    return replace(scene, background=pick(rng, [name for name in BACKGROUNDS if name != scene.background]))


def _other_size(world: ToyWorld, rng: np.random.Generator, scene: Scene) -> Scene:
    return replace(scene, size=pick(rng, [size for size in SIZES if size != scene.size]))


def _other_drawing(world: ToyWorld, rng: np.random.Generator, scene: Scene) -> Scene:
    others = [key for key in world.countable_keys if key[1] == scene.style and key[0] != scene.groups[0].label]
    return replace(scene, groups=(Group(pick(rng, others)[0]),))


CHANGED: dict[str, Callable[[ToyWorld, np.random.Generator, Scene], Scene]] = {
    "background": _other_background,
    "size": _other_size,
    "drawing": _other_drawing,
}


# ---- words -----------------------------------------------------------------------------------------------------------


PARTS = ("thing", "event", "look")  # of a caption
_EVENTS = (
    rf" moves (?:{'|'.join(WAYS.values())})| grows| shrinks| stays still| turns into .+?| on an? \w+ background, then"
)
_CAPTION = re.compile(rf"(.+?)({_EVENTS})( on an? \w+ background, \w+ style)")


def caption(movie: Movie) -> str:
    """What happens: "a snail moves to the left on a green background, Noto style"."""
    first, last = movie.first, movie.last
    thing, look = captions.noun_phrase(first.groups[0]), captions.look(last.background, last.style)
    return f"{thing}{_event(movie)}{look}"


def _event(movie: Movie) -> str:
    first, last = movie.first, movie.last
    if movie.direction:
        return f" moves {WAYS[movie.direction]}"
    match movie.change:
        case "background":
            return f"{captions.look(first.background, None)}, then"
        case "size":
            return " grows" if SIZES[last.size] > SIZES[first.size] else " shrinks"
        case "drawing":
            return f" turns into {captions.noun_phrase(last.groups[0])}"
    return " stays still"


def parse(text: str) -> tuple[str, ...] | None:
    """The three parts of a caption, what is seen, what happens and how it looks (at the end); None of any other text."""
    found = _CAPTION.fullmatch(" ".join(text.split()))
    return found.groups() if found else None


# ---- frames ----------------------------------------------------------------------------------------------------------


def frames(
    world: ToyWorld, movie: Movie, count: int = FRAMES, rng: np.random.Generator | None = None
) -> list[np.ndarray]:
    """`count` frames, each uint8 (S, S, 3): at random moments with a generator, else evenly spread."""
    moments = frame_numbers(LENGTH, count, rng)
    if movie.direction:
        return [_moved(world, movie, moment) for moment in moments]
    first, last = (pixels(world, scene) for scene in (movie.first, movie.last))
    return [first if moment < LENGTH // 2 else last for moment in moments]


def _moved(world: ToyWorld, movie: Movie, moment: int) -> np.ndarray:
    scene = movie.first
    x, y = np.random.Generator(np.random.PCG64([scene.seed, 2])).uniform(*MIDDLE, 2)
    dx, dy = DIRECTIONS[movie.direction]
    way = TRAVEL * (moment / (LENGTH - 1) - 0.5)
    canvas = world.canvas(scene.background)
    world.place(canvas, scene.groups[0].label, scene.style, x + dx * way, y + dy * way, SIZES[scene.size])
    return canvas


# ---- the shipped animations ------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _clips() -> list[samples.Clip]:
    return samples.load_clips()


def animation(
    world: ToyWorld, rng: np.random.Generator, count: int = FRAMES, random_frames: bool = True
) -> tuple[list[np.ndarray], str]:
    """`count` frames of a real animated drawing on a coloured background, and its caption, which names the thing.

    The clips are drawings of split "seen": not for worlds of another split.
    """
    while True:
        clip = pick(rng, _clips())
        scene = Scene((Group(clip.label),), None, "big", pick(rng, tuple(BACKGROUNDS)), "fluent")
        if world.owns(scene):
            break
    numbers = frame_numbers(len(clip.frames), count, rng if random_frames else None)
    return [_on_background(world, clip, k, scene) for k in numbers], captions.caption(scene)


def _on_background(world: ToyWorld, clip: samples.Clip, number: int, scene: Scene) -> np.ndarray:
    side = world.image_size
    frame = clip.frames[number].resize((side, side)) if side != CANVAS else clip.frames[number]
    rgba = np.asarray(frame, np.float32)
    colour, alpha = rgba[..., :3], rgba[..., 3:] / 255
    return np.rint(colour * alpha + world.canvas(scene.background) * (1 - alpha)).astype(np.uint8)
