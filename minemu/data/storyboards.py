"""Toy storyboards: a few scenes that follow one another, each with a timed sentence, as thumbnails and subtitles of a video."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from minemu.data import captions
from minemu.data.documents import Document, by_time, pixels
from minemu.data.scene import BACKGROUNDS, RELATIONS, SIZES, Group, Scene
from minemu.data.world import ToyWorld, new_seed, pick

INTERVAL = 5.0  # seconds between thumbnails, the same throughout a video as on YouTube
LEAST, MOST = 3, 5  # scenes
TITLE = (
    "a story:"  # begins a document, so that its first picture is not taken for one that stands alone, with a caption
)


@dataclass(frozen=True)
class Storyboard:
    """Scenes and sentences, each with its second; a sentence may begin before or after the thumbnail that it is about."""

    thumbnails: tuple[tuple[float, Scene], ...]
    subtitles: tuple[tuple[float, str], ...]


def storyboard(world: ToyWorld, rng: np.random.Generator) -> Storyboard:
    """One thing of one style is shown, then meets others, multiplies, grows, goes elsewhere."""
    scene = _opening(world, rng)
    thing = scene.groups[0].label
    told = [(scene, f"this is {captions.noun_phrase(Group(thing))}.")]
    for _ in range(int(rng.integers(LEAST, MOST + 1)) - 1):
        told.append(_next(world, rng, thing, told[-1][0]))
    spoken = pick(rng, (0.0, 2.0))  # the speaker runs ahead of the pictures, or behind them
    return Storyboard(
        tuple((INTERVAL * k + 1.0, scene) for k, (scene, _) in enumerate(told)),
        tuple((INTERVAL * k + spoken, text) for k, (_, text) in enumerate(told)),
    )


def as_document(world: ToyWorld, story: Storyboard) -> Document:
    """A title, then pictures and sentences in the order of their times."""
    shown = [(time, pixels(world, scene)) for time, scene in story.thumbnails]
    return by_time(shown, [(-1.0, TITLE), *story.subtitles])


# ---- what may happen -------------------------------------------------------------------------------------------------


def _opening(world: ToyWorld, rng: np.random.Generator) -> Scene:
    while True:
        label, style = pick(rng, world.countable_keys)
        scene = Scene((Group(label),), None, "medium", pick(rng, tuple(BACKGROUNDS)), style, new_seed(rng))
        if world.owns(scene):
            return scene


def _next(world: ToyWorld, rng: np.random.Generator, thing: str, before: Scene) -> tuple[Scene, str]:
    """The scene that follows and its sentence: another picture than the one before, and one that the world may show."""
    while True:
        scene, text = pick(rng, EVENTS)(world, rng, thing, before)
        if scene.shows() != before.shows() and world.owns(scene):
            return scene, text


def _meets(world: ToyWorld, rng: np.random.Generator, thing: str, before: Scene) -> tuple[Scene, str]:
    other = pick(rng, [label for label, style in world.keys if style == before.style and label != thing])
    relation = pick(rng, RELATIONS)
    scene = Scene((Group(thing), Group(other)), relation, None, before.background, before.style, new_seed(rng))
    return scene, f"the {thing} is {relation} {captions.noun_phrase(Group(other))}."


def _multiplies(world: ToyWorld, rng: np.random.Generator, thing: str, before: Scene) -> tuple[Scene, str]:
    many = Group(thing, pick(rng, (2, 3)))
    scene = Scene((many,), None, None, before.background, before.style, new_seed(rng))
    return scene, f"now there are {captions.noun_phrase(many)}."


def _resizes(world: ToyWorld, rng: np.random.Generator, thing: str, before: Scene) -> tuple[Scene, str]:
    size = pick(rng, [size for size in SIZES if size != "medium"])
    scene = Scene((Group(thing),), None, size, before.background, before.style, new_seed(rng))
    return scene, f"now there is {captions.noun_phrase(Group(thing), size)}."


def _goes_elsewhere(world: ToyWorld, rng: np.random.Generator, thing: str, before: Scene) -> tuple[Scene, str]:
    background = pick(rng, [name for name in BACKGROUNDS if name != before.background])
    return replace(before, background=background), f"now the background is {background}."


EVENTS: tuple[Callable[[ToyWorld, np.random.Generator, str, Scene], tuple[Scene, str]], ...] = (
    _meets,
    _multiplies,
    _resizes,
    _goes_elsewhere,
)
