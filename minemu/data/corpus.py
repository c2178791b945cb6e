"""Every wording of the toy world, to train a tokenizer on: documents, questions, answers, conversations, new names."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np

from minemu import prompts
from minemu.data import conversations, dialogues, episodes, lessons, questions
from minemu.data.mixture import SOURCES, ToySource
from minemu.data.world import Box, ToyWorld


class Unpainted(ToyWorld):
    """A world for its texts: its drawings, which take most of the time, are left out."""

    def place(self, canvas: np.ndarray, label: str, style: str, x: float, y: float, px: int) -> Box:
        return label, 0, 0, 1, 1


def corpus(world: ToyWorld, each: int = 200) -> list[str]:
    """Texts of `each` samples of every source and every kind of question, from what training may show, and each new name once.

    What is always worded the same (titles, wishes, system messages) comes with each sample, so `each` times. Beside
    `captions.tokenizer_corpus`, which names every label.
    """
    world = Unpainted(world.split, world.core, world.seed, world.image_size, world.kinds, world.held_out)
    named = [f"this is a {name}." for name in episodes.NAMES]
    return [*(text for i in range(each) for text in _texts(world, i)), *named]


def _texts(world: ToyWorld, i: int) -> Iterator[str]:
    documents = chain.from_iterable(ToySource(name, world, frames=1).document(i) for name in SOURCES)
    yield from (piece for piece in documents if isinstance(piece, str))
    asked = [questions.question(world, i, asks) for asks in questions.ASKS]
    asked += [questions.clip_question(world, i, asks, frames=1) for asks in questions.CLIP_ASKS]
    for question in asked:
        yield from (question.text, question.answer, question.sentence)
    for message in (conversations.SYSTEM_IMAGE, conversations.SYSTEM_VIDEO):
        yield from (piece for piece in prompts.fill(message) if isinstance(piece, str))
    yield from conversations.conversation(world, i).texts()
    yield from (turn.answer for turn in dialogues.dialogue(world, i).history)
    yield from (lessons.QUESTIONS, episodes.NEW_NAMES)
    yield from ("this is the first image:", "this is the second image:", *episodes.WISHES.values())
