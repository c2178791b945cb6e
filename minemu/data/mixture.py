"""Emu's pretraining mixture: five sources, each with its weight, from the toy world or from data in the papers' formats.

    source        stands for         a document is
    labels        LAION-2B           a picture and a short label
    scenes        LAION-COCO         a picture and its full caption
    interleaved   MMC4               several pictures and sentences
    clips         WebVid-10M         8 frames and what happens in them
    storyboards   YT-Storyboard-1B   scenes and timed sentences that follow one another

Seven more, the lessons, are the toy world's alone: copying, recall, names, questions, in_context, drawings, texts (data/lessons.py).

Document `i` of a mixture is a pure function of (seed, i), so a run resumes at the exact document.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Protocol

import numpy as np

from minemu.data import captions, movies, storyboards
from minemu.data.documents import Document, beside, interleaved, pixels
from minemu.data.lessons import LESSONS
from minemu.data.video import FRAMES
from minemu.data.world import ToyWorld
from minemu.errors import MinemuError, suggest


@dataclass(frozen=True)
class MixtureConfig:
    """How many documents of each source stand in a block of the mixture: the paper's batch sizes, divided by 16."""

    labels: int = 8
    scenes: int = 8
    interleaved: int = 4
    clips: int = 1
    storyboards: int = 1
    # The lessons, of which the paper has none.
    copying: int = 0
    recall: int = 0
    names: int = 0
    questions: int = 0
    in_context: int = 0
    drawings: int = 0
    texts: int = 0

    def __post_init__(self) -> None:
        for name, weight in asdict(self).items():
            if weight < 0:
                raise MinemuError(f"train.mixture.{name}={weight} is negative: give a whole number, 0 or more")


class Source(Protocol):
    """Endless documents by number: the same number, the same document."""

    def document(self, number: int) -> Document: ...


SOURCES = tuple(field.name for field in fields(MixtureConfig) if field.name not in LESSONS)
ALL_SOURCES = (*SOURCES, *LESSONS)


@dataclass(frozen=True)
class ToySource:
    """One of the sources or lessons, drawn from a toy world. A world with `held_out=False` shows nothing that evaluation owns."""

    name: str
    world: ToyWorld
    frames: int = FRAMES  # of a clip

    def __post_init__(self) -> None:
        if self.name not in ALL_SOURCES:
            raise MinemuError(f"no source '{self.name}' in the mixture: {suggest(self.name, ALL_SOURCES)}")

    def document(self, number: int) -> Document:
        """Pictures are uint8 (S, S, 3)."""
        rng = self.world.generator(number, self.name)
        match self.name:
            case "labels":
                return _label(self.world, rng)
            case "scenes":
                return _scene(self.world, rng)
            case "interleaved":
                return interleaved(self.world, rng)
            case "clips":
                return _clip(self.world, rng, self.frames)
            case "storyboards":
                return storyboards.as_document(self.world, storyboards.storyboard(self.world, rng))
            case _:
                return LESSONS[self.name](self.world, number)


def _label(world: ToyWorld, rng: np.random.Generator) -> Document:
    scene = world.draw(rng, "single")
    return beside(pixels(world, scene), captions.noun_phrase(scene.groups[0]), rng.random() < 0.5)


def _scene(world: ToyWorld, rng: np.random.Generator) -> Document:
    """After the picture the full caption; before it a prompt, which leaves parts out as people do."""
    scene = world.draw(rng)
    picture_first = rng.random() < 0.5
    text = captions.caption(scene) if picture_first else captions.prompt(scene, rng)
    return beside(pixels(world, scene), text, picture_first)


def _clip(world: ToyWorld, rng: np.random.Generator, frames: int) -> Document:
    """Three in four clips are toy movies (outside split "seen" all are), the rest animations from the repository."""
    if rng.random() < 0.75 or world.split != "seen":
        movie = movies.any_movie(world, rng)
        pictures, text = movies.frames(world, movie, frames, rng), movies.caption(movie)
    else:
        pictures, text = movies.animation(world, rng, frames)
    return [*pictures, text] if rng.random() < 0.5 else [text, *pictures]


class Mixture:
    """Documents of several sources in a fixed proportion.

    sources   by name, each with `document(number)`; a source of weight 0 may be left out
    weights   whole numbers by name: in every block of `sum(weights)` documents each source has exactly its share,
              in an order that the seed and the block number decide. So a source is read from its first document on,
              none left out, and where it stands follows from the document's number alone.
    """

    def __init__(self, sources: Mapping[str, Source], weights: Mapping[str, int], seed: int = 0):
        for name, weight in weights.items():
            if isinstance(weight, bool) or not isinstance(weight, int) or weight < 0:
                raise MinemuError(f"the weight of source '{name}' is {weight!r}: give a whole number, 0 or more")
            if weight and name not in sources:
                raise MinemuError(f"source '{name}' has weight {weight} but no data: {suggest(name, sources)}")
        if not any(weights.values()):
            raise MinemuError("every source of the mixture has weight 0: give one of them more")
        if seed < 0:
            raise MinemuError(f"seed {seed} of the mixture is negative: use 0 or more")
        self.sources, self.seed = dict(sources), seed
        shrink = math.gcd(*weights.values())
        self.weights = {name: weight // shrink for name, weight in weights.items() if weight}
        self._block = lru_cache(maxsize=8)(self._shuffled_block)

    def place(self, index: int) -> tuple[str, int]:
        """Where document `index` comes from: the name of a source and the number within it."""
        block, offset = divmod(index, sum(self.weights.values()))
        names = self._block(block)
        name = names[offset]
        return name, block * self.weights[name] + names[:offset].count(name)

    def document(self, index: int) -> Document:
        """Text and pictures in order."""
        name, number = self.place(index)
        return self.sources[name].document(number)

    def _shuffled_block(self, block: int) -> list[str]:
        names = [name for name, weight in self.weights.items() for _ in range(weight)]
        order = np.random.Generator(np.random.PCG64([self.seed, block])).permutation(len(names))
        return [names[k] for k in order]


def toy_mixture(world: ToyWorld, config: MixtureConfig | None = None, frames: int = FRAMES, seed: int = 0) -> Mixture:
    """The sources from a toy world; without `config` the paper's five in the paper's proportion."""
    sources = {name: ToySource(name, world, frames) for name in ALL_SOURCES}
    return Mixture(sources, asdict(config or MixtureConfig()), seed)
