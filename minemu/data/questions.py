"""Questions about toy pictures and clips, with true answers that a blind guesser cannot know.

For each question the answer is drawn first, each equally likely, and then a scene that has it. So the answer follows from
nothing in the question, and `1 / len(candidates)` is what guessing earns. ("What is this?" draws one of the drawings, and a
label may have up to four: who knows which have most does a little better there.)

    asks       "what is this?"                                    the label
               "what kind of thing is this?"                      mammal, fruit, tool, ...
               "which group is this of?"                          nature, objects, ...
               "how many llamas are there?"                       one, two, three
               "what colour is the background?"                   green, ...
               "which style is this drawn in?"                    Noto, ...
               "where is the llama, seen from the fox?"           left, right, above, below
               "is this a llama?" "is the background green?" ...  yes, no
    asks of a  "which way does the snail move?"                   left, right, up, down
    clip       "which comes first, the snail or the fox?"         snail, fox
               "what changes?"                                    the background, the size, the drawing, nothing
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from minemu.data import captions, kinds, movies
from minemu.data.documents import pixels
from minemu.data.movies import Movie
from minemu.data.scene import BACKGROUNDS, RELATIONS, STYLE_NAMES, Group, Scene
from minemu.data.video import FRAMES
from minemu.data.world import ToyWorld, pick
from minemu.errors import MinemuError, suggest

NUMBERS = ("one", "two", "three")
SIDES = {"left of": "left", "right of": "right", "above": "above", "below": "below"}
RELATION_OF = {side: relation for relation, side in SIDES.items()}
YES_NO = ("yes", "no")
YES_NO_SENTENCES = {"yes": "yes, that is true.", "no": "no, that is not true."}


@dataclass(frozen=True)
class Question:
    """A question about one picture, or about the frames of a clip (each uint8 (S, S, 3)), and what it was made from."""

    asks: str
    pictures: tuple[np.ndarray, ...]
    text: str
    answer: str
    candidates: tuple[str, ...]  # among which the answer was drawn
    sentence: str  # the answer as a whole sentence
    about: Scene | Movie


@dataclass(frozen=True)
class Asked:
    """The words of a question; `say` puts any answer to it into a sentence, right or wrong."""

    text: str
    answer: str
    candidates: tuple[str, ...]
    say: Callable[[str], str]


Ask = Callable[[ToyWorld, Scene, np.random.Generator], Asked]


# ---- questions about a scene -----------------------------------------------------------------------------------------


def what(world: ToyWorld, scene: Scene, rng: np.random.Generator) -> Asked:
    return Asked("what is this?", scene.groups[0].label, tuple(world.labels), _this_is)


def kind(world: ToyWorld, scene: Scene, rng: np.random.Generator) -> Asked:
    answer = kinds.kind(scene.groups[0].label)
    return Asked("what kind of thing is this?", answer, kinds.asked(world), _this_is)


def group(world: ToyWorld, scene: Scene, rng: np.random.Generator) -> Asked:
    answer = kinds.group(scene.groups[0].label)
    return Asked("which group is this of?", answer, kinds.groups_asked(world), "this belongs to {}.".format)


def count(world: ToyWorld, scene: Scene, rng: np.random.Generator) -> Asked:
    thing = scene.groups[0]
    many = captions.plural(thing.label)

    def say(number: str) -> str:
        return f"there is one {thing.label}." if number == "one" else f"there are {number} {many}."

    return Asked(f"how many {many} are there?", NUMBERS[thing.count - 1], NUMBERS, say)


def colour(world: ToyWorld, scene: Scene, rng: np.random.Generator) -> Asked:
    say = "the background is {}.".format
    return Asked("what colour is the background?", scene.background, tuple(BACKGROUNDS), say)


def style(world: ToyWorld, scene: Scene, rng: np.random.Generator) -> Asked:
    names, say = tuple(STYLE_NAMES.values()), "this is drawn in {} style.".format
    return Asked("which style is this drawn in?", STYLE_NAMES[scene.style], names, say)


def relation(world: ToyWorld, scene: Scene, rng: np.random.Generator) -> Asked:
    told = pick(rng, (scene, scene.turned()))
    first, second = told.groups

    def say(side: str) -> str:
        return f"{the(first)} {verb(first)} {RELATION_OF[side]} {the(second)}."

    text = f"where {verb(first)} {the(first)}, seen from {the(second)}?"
    return Asked(text, SIDES[told.relation], tuple(SIDES.values()), say)


def yes_no(world: ToyWorld, scene: Scene, rng: np.random.Generator) -> Asked:
    """Half of the time of what is there, half of the time of something else that could be."""
    truth = rng.random() < 0.5
    ask = pick(rng, (_is_it_on,) if scene.relation is None and not scene.alone else (_is_it_on, _is_it_there))
    return Asked(ask(world, scene, rng, truth), YES_NO[not truth], YES_NO, YES_NO_SENTENCES.__getitem__)


def _is_it_on(world: ToyWorld, scene: Scene, rng: np.random.Generator, truth: bool) -> str:
    others = [name for name in BACKGROUNDS if name != scene.background]
    return f"is the background {scene.background if truth else pick(rng, others)}?"


def _is_it_there(world: ToyWorld, scene: Scene, rng: np.random.Generator, truth: bool) -> str:
    if scene.relation is not None:
        told = pick(rng, (scene, scene.turned()))
        first, second = told.groups
        side = told.relation if truth else pick(rng, [name for name in RELATIONS if name != told.relation])
        return f"{verb(first)} {the(first)} {side} {the(second)}?"
    label = scene.groups[0].label
    asked = label if truth else pick(rng, [key for key in world.keys if key[0] != label])[0]
    return f"is this {captions.noun_phrase(Group(asked))}?"


def _this_is(label: str) -> str:
    return f"this {verb(Group(label))} {captions.noun_phrase(Group(label))}.".replace("this are", "these are")


def the(group: Group) -> str:
    """Words for a group already known: "the llama", "the two llamas"."""
    if group.count == 1:
        return f"the {group.label}"
    return f"the {captions.NUMBER_WORDS[group.count]} {captions.plural(group.label)}"


def verb(group: Group) -> str:
    """The verb "is" or "are", as the group is one or many."""
    several = captions.is_uncounted(group.label) and group.label.split(" ")[-1] not in captions.MASS
    return "are" if group.count > 1 or several else "is"


def askable(scene: Scene) -> dict[str, Ask]:
    """The questions that make sense of a scene, by what they ask for; nothing is balanced here."""
    asks: dict[str, Ask] = {"colour": colour, "style": style, "yes-no": yes_no}
    if scene.relation is not None:
        return {**asks, "relation": relation}
    if not scene.alone:
        return {**asks, "count": count}
    label = scene.groups[0].label
    of_kind: dict[str, Ask] = {"kind": kind} if kinds.kind(label) else {}
    of_group: dict[str, Ask] = {"group": group} if kinds.group(label) else {}
    return {**asks, "what": what, **of_kind, **of_group}


# ---- scenes that have a given answer ---------------------------------------------------------------------------------


def _until(world: ToyWorld, rng: np.random.Generator, of_kind: str, wanted: Callable[[Scene], bool]) -> Scene:
    while True:
        scene = world.draw(rng, of_kind)
        if wanted(scene):
            return scene


def _with_any_label(world: ToyWorld, rng: np.random.Generator) -> Scene:
    return world.draw(rng, "single")


def _with_a_kind(world: ToyWorld, rng: np.random.Generator) -> Scene:
    answer = pick(rng, kinds.asked(world))
    return _until(world, rng, "single", lambda scene: kinds.kind(scene.groups[0].label) == answer)


def _with_a_group(world: ToyWorld, rng: np.random.Generator) -> Scene:
    answer = pick(rng, kinds.groups_asked(world))
    return _until(world, rng, "single", lambda scene: kinds.group(scene.groups[0].label) == answer)


def _with_a_count(world: ToyWorld, rng: np.random.Generator) -> Scene:
    answer = pick(rng, (1, 2, 3))
    if answer == 1:
        return _until(world, rng, "single", lambda scene: scene.groups[0].label in world.countable)
    return _until(world, rng, "count", lambda scene: scene.groups[0].count == answer)


def _with_a_background(world: ToyWorld, rng: np.random.Generator) -> Scene:
    answer = pick(rng, tuple(BACKGROUNDS))
    return _until(world, rng, "single", lambda scene: scene.background == answer)


def _with_a_style(world: ToyWorld, rng: np.random.Generator) -> Scene:
    answer = pick(rng, tuple(STYLE_NAMES))
    return _until(world, rng, "single", lambda scene: scene.style == answer)


def _with_a_relation(world: ToyWorld, rng: np.random.Generator) -> Scene:
    return world.draw(rng, "pair")


def _with_yes_or_no(world: ToyWorld, rng: np.random.Generator) -> Scene:
    return world.draw(rng, pick(rng, ("single", "pair")))


ASKS: dict[str, tuple[Callable[[ToyWorld, np.random.Generator], Scene], Ask]] = {
    "what": (_with_any_label, what),
    "kind": (_with_a_kind, kind),
    "group": (_with_a_group, group),
    "count": (_with_a_count, count),
    "colour": (_with_a_background, colour),
    "style": (_with_a_style, style),
    "relation": (_with_a_relation, relation),
    "yes-no": (_with_yes_or_no, yes_no),
}


def question(world: ToyWorld, i: int, asks: str | None = None) -> Question:
    """Question `i` about a picture of this world; `asks` fixes what is asked for. A pure function of the world and `i`."""
    rng = world.generator(i, "question")
    asks = _known(asks, ASKS) if asks else pick(rng, tuple(ASKS))
    draw, ask = ASKS[asks]
    scene = draw(world, rng)
    asked = ask(world, scene, rng)
    return _question(asks, (pixels(world, scene),), asked, scene)


def _question(asks: str, pictures: tuple[np.ndarray, ...], asked: Asked, about: Scene | Movie) -> Question:
    return Question(asks, pictures, asked.text, asked.answer, asked.candidates, asked.say(asked.answer), about)


def _known(asks: str, known: dict) -> str:
    if asks not in known:
        raise MinemuError(f"no questions that ask for '{asks}': {suggest(asks, known)}")
    return asks


# ---- questions about a clip ------------------------------------------------------------------------------------------


def direction(world: ToyWorld, rng: np.random.Generator) -> tuple[Movie, Asked]:
    answer = pick(rng, tuple(movies.DIRECTIONS))
    movie = movies.moving(world, rng, answer)
    thing = the(movie.first.groups[0])
    text = f"which way does {thing} move?"
    return movie, Asked(text, answer, tuple(movies.DIRECTIONS), lambda way: f"{thing} moves {movies.WAYS[way]}.")


def order(world: ToyWorld, rng: np.random.Generator) -> tuple[Movie, Asked]:
    """Which of two is named first in the question is drawn by lot."""
    movie = movies.changing(world, rng, "drawing")
    first, last = movie.first.groups[0].label, movie.last.groups[0].label
    named = pick(rng, ((first, last), (last, first)))
    text = f"which comes first, the {named[0]} or the {named[1]}?"
    return movie, Asked(text, first, named, "the {} comes first.".format)


CHANGE_NAMES = {"background": "the background", "size": "the size", "drawing": "the drawing", None: "nothing"}


def change(world: ToyWorld, rng: np.random.Generator) -> tuple[Movie, Asked]:
    answer = pick(rng, tuple(CHANGE_NAMES))
    movie = movies.changing(world, rng, answer)
    return movie, Asked(
        "what changes?", CHANGE_NAMES[answer], tuple(CHANGE_NAMES.values()), "{} changes in the clip.".format
    )


CLIP_ASKS: dict[str, Callable[[ToyWorld, np.random.Generator], tuple[Movie, Asked]]] = {
    "direction": direction,
    "order": order,
    "change": change,
}


def clip_question(
    world: ToyWorld, i: int, asks: str | None = None, frames: int = FRAMES, random_frames: bool = False
) -> Question:
    """Question `i` about a clip. Frames are evenly spread, or at random moments as in training.

    One frame alone helps with the order only, where the one in the middle shows what came second: in the middle of a movement it is
    the same whatever the direction, and a change shows only beside what was before.
    """
    rng = world.generator(i, "clip question")
    asks = _known(asks, CLIP_ASKS) if asks else pick(rng, tuple(CLIP_ASKS))
    movie, asked = CLIP_ASKS[asks](world, rng)
    pictures = tuple(movies.frames(world, movie, frames, rng if random_frames else None))
    return _question(asks, pictures, asked, movie)
