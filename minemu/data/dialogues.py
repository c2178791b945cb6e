"""Toy dialogues about one picture, with candidate answers to rank by likelihood, after VisDial."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minemu.data import kinds, questions
from minemu.data.conversations import Turn
from minemu.data.documents import pixels
from minemu.data.questions import Asked
from minemu.data.scene import Scene
from minemu.data.world import ToyWorld
from minemu.errors import MinemuError

CANDIDATES = 100  # at most, as in VisDial
NEARLY = 0.5  # relevance of an answer that is true but says less than was asked


@dataclass(frozen=True)
class Dialogue:
    """A picture (S, S, 3), what was said about it, a last question, and answers with their relevance (0 ... 1) for NDCG."""

    picture: np.ndarray
    history: tuple[Turn, ...]
    question: str
    candidates: tuple[str, ...]
    relevance: tuple[float, ...]
    scene: Scene


def dialogue(world: ToyWorld, i: int, turns: int = 3, candidates: int = CANDIDATES) -> Dialogue:
    """Dialogue `i`: up to `turns` different questions about one picture, the last of which is open."""
    if turns < 1 or not 4 <= candidates <= CANDIDATES:
        raise MinemuError(
            f"a dialogue of {turns} turns with {candidates} candidates: use 1 turn or more, and 4 to {CANDIDATES} candidates"
        )
    rng = world.generator(i, "dialogue")
    scene = world.draw(rng)
    asks = _asks(scene)
    names = rng.permutation(list(asks)).tolist()[:turns]
    *said, last = [asks[name](world, scene, rng) for name in names]
    options = _options(world, rng, scene, last, candidates)
    history = tuple(Turn((asked.text,), asked.say(asked.answer)) for asked in said)
    return Dialogue(pixels(world, scene), history, last.text, tuple(options), tuple(options.values()), scene)


def _asks(scene: Scene) -> dict[str, questions.Ask]:
    """Each about something else, so that no answer follows from those before it, as "yes" or "a mammal" could."""
    return {name: ask for name, ask in questions.askable(scene).items() if name not in ("yes-no", "kind", "group")}


def _options(world: ToyWorld, rng: np.random.Generator, scene: Scene, asked: Asked, most: int) -> dict[str, float]:
    """Answers and their relevance, in random order: true ones in two wordings, nearly true ones, then wrong ones.

    Wrong answers to this very question come before answers to others, and have the same two wordings as the true ones:
    the wording gives nothing away.
    """
    options = dict.fromkeys((asked.answer, asked.say(asked.answer)), 1.0)
    if asked.text == "what is this?" and (kind := kinds.kind(asked.answer)):
        options |= dict.fromkeys((kind, asked.say(kind)), NEARLY)
    wrong = [answer for answer in asked.candidates if answer not in options]
    others = [answer for ask in _asks(scene).values() for answer in ask(world, scene, rng).candidates]
    texts = [text for answer in rng.permutation(wrong).tolist() for text in (answer, asked.say(answer))]
    for text in [*texts, *rng.permutation(others + world.labels).tolist()]:
        if len(options) < most:
            options.setdefault(text, 0.0)
    return {text: options[text] for text in rng.permutation(list(options)).tolist()}
