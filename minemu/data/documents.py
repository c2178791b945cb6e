"""Documents: lists of text and pictures, as MMC4 holds them; here built around the toy world's drawings and their metadata."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image

from minemu.data import captions, kinds
from minemu.data.scene import BACKGROUNDS, SIZES, STYLE_NAMES, Group, Scene
from minemu.data.world import ToyWorld, new_seed, pick

Picture = np.ndarray | Image.Image  # uint8 (S, S, 3), or PIL
Document = list[str | Picture]

MAX_PICTURES = 5  # of a document, as in Emu
COUNTS = ("one", "two", "three", "four", "five")


def beside(picture: Picture, text: str, picture_first: bool) -> Document:
    """The picture before or after its text."""
    return [picture, text] if picture_first else [text, picture]


def by_time(pictures: Iterable[tuple[float, Picture]], subtitles: Iterable[tuple[float, str]]) -> Document:
    """Pictures and subtitles in the order of their times in seconds; neighbouring subtitles become one text.

    Like YT-Storyboard-1B (Emu1/data/yt-sb-1b of the authors' code), except that there the seconds between two thumbnails are
    rounded to a whole number. At equal times the picture comes first.
    """
    timeline = sorted([*pictures, *subtitles], key=lambda item: (item[0], isinstance(item[1], str)))
    document: Document = []
    for _, piece in timeline:
        if isinstance(piece, str) and document and isinstance(document[-1], str):
            document[-1] += " " + piece
        else:
            document.append(piece)
    return document


def pixels(world: ToyWorld, scene: Scene) -> np.ndarray:
    """The picture of a scene, uint8 (S, S, 3); a copy, which may be written to and given to torch."""
    return np.array(world.render(scene)[0])


def interleaved(world: ToyWorld, rng: np.random.Generator) -> Document:
    """One document of a random form; every scene in it is one that the world may show."""
    return pick(rng, FORMS)(world, rng)


# ---- the forms -------------------------------------------------------------------------------------------------------


def _sentences(world: ToyWorld, rng: np.random.Generator) -> Document:
    """Two to five scenes, each with its sentence: "two pictures:" "a llama on a green background, Noto style." [picture] ..."""
    picture_first = rng.random() < 0.5
    scenes = [world.draw(rng) for _ in range(_how_many(rng))]
    texts = [captions.caption(scene) if picture_first else captions.prompt(scene, rng) for scene in scenes]
    return _in_turn(world, [(scene, text + ".") for scene, text in zip(scenes, texts, strict=True)], picture_first)


def _list_of_kind(world: ToyWorld, rng: np.random.Generator) -> Document:
    """Things of one kind: "two pictures of fruits:" [picture] "a banana" [picture] "a pear"."""
    kind = pick(rng, kinds.asked(world))
    style = pick(rng, [style for label, style in world.keys if kinds.kind(label) == kind])
    keys = [key for key in world.keys if key[1] == style and kinds.kind(key[0]) == kind]
    scenes = _singles(world, rng, keys, _how_many(rng))
    if not scenes:
        return _list_of_kind(world, rng)
    named = [(scene, captions.noun_phrase(scene.groups[0])) for scene in scenes]
    return _in_turn(world, named, rng.random() < 0.5, f" of {captions.plural(kind)}")


def _in_styles(world: ToyWorld, rng: np.random.Generator) -> Document:
    """One concept in all its styles: "three pictures of a llama:" [picture] "Noto style" [picture] "Twemoji style" ..."""
    label, _ = pick(rng, world.keys)
    scenes = _singles(world, rng, [key for key in world.keys if key[0] == label])
    if not scenes:
        return _in_styles(world, rng)
    named = [(scene, f"{STYLE_NAMES[scene.style]} style") for scene in scenes]
    return _in_turn(world, named, rng.random() < 0.5, f" of {captions.noun_phrase(Group(label))}")


def _gloss(world: ToyWorld, rng: np.random.Generator) -> Document:
    """A picture and what a dictionary says: [picture] "llama: wild or domesticated South American cud-chewing animal"."""
    glosses = kinds.glosses()
    scenes = _singles(world, rng, [pick(rng, [key for key in world.keys if key[0] in glosses])])
    if not scenes:
        return _gloss(world, rng)
    label = scenes[0].groups[0].label
    return beside(pixels(world, scenes[0]), f"{label}: {glosses[label]}.", rng.random() < 0.5)


FORMS: tuple[Callable[[ToyWorld, np.random.Generator], Document], ...] = (_sentences, _list_of_kind, _in_styles, _gloss)


def _how_many(rng: np.random.Generator) -> int:
    return int(rng.integers(2, MAX_PICTURES + 1))


def title(pictures: int, of: str = "") -> str:
    """What a document of several pictures begins with, so that its end can be known: "three pictures of fruits:"."""
    return f"{COUNTS[pictures - 1]} picture{'s' * (pictures > 1)}{of}:"


def _in_turn(world: ToyWorld, named: list[tuple[Scene, str]], picture_first: bool, of: str = "") -> Document:
    """After a title each picture with its text."""
    return [
        title(len(named), of),
        *(piece for scene, text in named for piece in beside(pixels(world, scene), text, picture_first)),
    ]


def _singles(
    world: ToyWorld, rng: np.random.Generator, keys: list[tuple[str, str]], most: int = MAX_PICTURES
) -> list[Scene]:
    """Up to `most` of the drawings (label, style), each alone, in random order, at any size on any background.

    A drawing is left out if the world may show it in no such way, as happens on evaluation's side of split "seen".
    """
    scenes = []
    for k in rng.permutation(len(keys)):
        if len(scenes) == most:
            break
        label, style = keys[k]
        looks = [(size, background) for size in SIZES for background in BACKGROUNDS]
        allowed = [look for look in looks if world.owns(Scene((Group(label),), None, *look, style))]
        if allowed:
            scenes.append(Scene((Group(label),), None, *pick(rng, allowed), style, new_seed(rng)))
    return scenes
