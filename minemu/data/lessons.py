"""Documents to learn from prompts by: what stands in the first pieces is needed for the last.

In the paper, web pages teach that by themselves. A few hundred thousand toy pages do not, so here some documents are
examples in a row. Each is a pure function of the world and its number, and shows nothing that evaluation owns.

    copying       words in a row, again and again, often of few kinds: with many, or with one distance from copy to copy, nothing was
                  learnt of looking back for what came before (docs/lab-notes.md), and all of `names` needs that
    recall        a few words, each with a value some words after it, again and again; at last as "a bee: this is a daff.": the step from
                  copying what stands next to what was last read, to what stands near it, as a name does behind its picture
    names         "new names:" [picture] "this is a daff." [picture] "this is a wuzz." [picture] "this is a daff."; from what is
                  easiest to find again to what is not: the very same picture each time, the thing in one style, in any
    questions     one to nine pictures, or a clip, each with a question and its answer; most begin with "questions:", so that a
                  picture or clip alone is still followed by its caption
    in_context    two pictures, and a third with something of each
    drawings      a full caption and its picture: what a thing looks like in each style takes longest to learn, and of the prompts
                  of `scenes`, which leave parts out, fewer than half say all of it
    texts         a conversation without its pictures: LLaMA had read all words before it met Emu; ours would unlearn those that
                  no other document says, and an adapter cannot bring them back, as it leaves the LM head alone
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minemu.data import captions
from minemu.data import questions as asked
from minemu.data.conversations import conversation
from minemu.data.documents import Document, pixels
from minemu.data.episodes import ALL_NAMES, NAMES, NEW_NAMES, names_episode
from minemu.data.episodes import in_context as two_pictures
from minemu.data.scene import Group
from minemu.data.world import ToyWorld, pick

ROW = 40  # words of a row
FEWEST = 8  # kinds of words that it is drawn from
RECALLED = 12  # keys said in a row, with their values
MOST_KEYS = 6  # of them are different, or fewer, down to two
GAP = 4  # words between a key and its value, or fewer
SHOTS = (2, 3, 4)  # pictures of each new name beside the last; after the first of them there is one example
WAYS = (2, 3)  # new names of a document
QUESTIONS = "questions:"
UNTITLED = 0.1  # share of the documents with questions that begin with a picture, as in evaluation
MAX_QUESTIONS = 9  # of a document: after eight examples, as they are asked in evaluation
CLIPS = 0.5  # share of the documents with questions
ASKED = (*asked.ASKS, "relation", "yes-no")  # these two are learnt last, so they come twice
ASKED_OF_CLIPS = (*asked.CLIP_ASKS, "change", "change")  # the last that is learnt


def _words(world: ToyWorld) -> list[str]:
    """The words of labels, each one token to `emu-tiny`."""
    return sorted({word for label in world.labels for word in label.split()})


def copying(world: ToyWorld, number: int) -> Document:
    """A few words, said again and again: labels' words or made-up names, mostly of two or three."""
    rng = world.generator(number, "copying")
    words = NAMES if number % 2 else _words(world)
    kinds = round(np.exp(rng.uniform(np.log(FEWEST), np.log(len(words)))))
    period = rng.integers(2, ROW // 3)
    return [" ".join(np.resize(rng.choice(words[:kinds], period), ROW))]


def recall(world: ToyWorld, number: int) -> Document:
    """Keys and their values with the same words between, again and again: the second time, the value can be known."""
    rng = world.generator(number, "recall")
    if number % 4 > 1:
        return [_told(world, rng)]
    words, many = _words(world), int(rng.integers(2, MOST_KEYS + 1))
    kinds = round(np.exp(rng.uniform(np.log(GAP + 2 * MOST_KEYS + FEWEST), np.log(len(words)))))
    picked = rng.permutation(words[:kinds])
    between, keys = picked[: rng.integers(GAP + 1)], picked[GAP:][:many]
    values = rng.permutation(ALL_NAMES)[:many] if number % 2 else picked[-many:]
    order = rng.permutation(np.resize(np.arange(many), RECALLED))
    return [" ".join(word for k in order for word in (keys[k], *between, values[k]))]


def _told(world: ToyWorld, rng: np.random.Generator) -> str:
    """New names as `names` gives them, with words in place of the pictures."""
    many = int(rng.integers(2, MOST_KEYS + 1))
    things, said = rng.permutation(world.labels)[:many].tolist(), rng.permutation(ALL_NAMES)[:many]
    examples = [
        f"{captions.noun_phrase(Group(thing))}: this is a {name}." for thing, name in zip(things, said, strict=True)
    ]
    return " ".join([NEW_NAMES, *rng.permutation(np.resize(examples, RECALLED))])


def names(world: ToyWorld, number: int) -> Document:
    """Examples of new names, and one more drawing, named. What is shown for a name is found again more or less easily."""
    rng, how = world.generator(number, "shots"), number % 3
    episode = names_episode(world, number, pick(rng, SHOTS), pick(rng, WAYS), one_style=how == 1)
    shown = episode.prompt[1::2]
    said = [*episode.prompt[2:-1:2], f"{episode.prompt[-1]} {episode.answer}."]
    if how == 0:
        first = dict(zip(reversed(said), reversed(shown), strict=True))
        shown = [first[text] for text in said]
    return [NEW_NAMES, *(piece for pair in zip(shown, said, strict=True) for piece in pair)]


def questions(world: ToyWorld, number: int) -> Document:
    """Pictures, each followed by a question and its answer; or one clip with both."""
    rng = world.generator(number, "lesson")
    if rng.random() < CLIPS:
        shown = [asked.clip_question(world, number, pick(rng, ASKED_OF_CLIPS), random_frames=True)]
    else:
        many = int(rng.integers(1, MAX_QUESTIONS + 1))
        shown = [asked.question(world, number * MAX_QUESTIONS + k, pick(rng, ASKED)) for k in range(many)]
    title = [] if rng.random() < UNTITLED else [QUESTIONS]
    return [*title, *(piece for one in shown for piece in (*one.pictures, f"{one.text} {one.answer}."))]


def in_context(world: ToyWorld, number: int) -> Document:
    """Two pictures, what is wanted of them, and the picture that is meant."""
    wished = two_pictures(world, number)
    return [*wished.prompt, wished.target]


def drawings(world: ToyWorld, number: int) -> Document:
    """A full caption (a pair told from either side) and its picture."""
    rng = world.generator(number, "drawing")
    scene = world.draw(rng)
    return [captions.caption(scene.turned() if rng.random() < 0.5 else scene), pixels(world, scene)]


def texts(world: ToyWorld, number: int) -> Document:
    """What is said in a conversation, as one text."""
    return [" ".join(conversation(world, number).texts())]


LESSONS: dict[str, Callable[[ToyWorld, int], Document]] = {
    "copying": copying,
    "recall": recall,
    "names": names,
    "questions": questions,
    "in_context": in_context,
    "drawings": drawings,
    "texts": texts,
}
