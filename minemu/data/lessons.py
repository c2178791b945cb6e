"""Documents to learn from prompts by: what stands in the first pieces is needed for the last.

In the paper, web pages teach that by themselves. A few hundred thousand toy pages do not, so here some documents are
examples in a row. Each is a pure function of the world and its number, and shows nothing that evaluation owns.

    names         "new names:" [picture] "this is a daff." [picture] "this is a wuzz." [picture] "this is a daff."; in every
                  second document each thing keeps its style, so that looking back pays before other styles are known again
    questions     one to four pictures, or a clip, each with a question and its answer; most begin with "questions:", so that a
                  picture or clip alone is still followed by its caption
    in_context    two pictures, and a third with something of each
    drawings      a full caption and its picture: what a thing looks like in each style takes longest to learn, and of the prompts
                  of `scenes`, which leave parts out, fewer than half say all of it
    texts         a conversation without its pictures: LLaMA had read all words before it met Emu; ours would unlearn those that
                  no other document says, and an adapter cannot bring them back, as it leaves the LM head alone
"""

from __future__ import annotations

from collections.abc import Callable

from minemu.data import captions
from minemu.data import questions as asked
from minemu.data.conversations import conversation
from minemu.data.documents import Document, pixels
from minemu.data.episodes import in_context as two_pictures
from minemu.data.episodes import names_episode
from minemu.data.world import ToyWorld, pick

SHOTS = (1, 2, 4)  # examples of each new name
QUESTIONS = "questions:"
UNTITLED = 0.25  # share of the documents with questions that begin with a picture, as in evaluation
MAX_QUESTIONS = 4  # of a document
CLIPS = 0.25  # share of the documents with questions
ASKED = (*asked.ASKS, "relation", "yes-no")  # these two are learnt last, so they come twice
ASKED_OF_CLIPS = (*asked.CLIP_ASKS, "change")


def names(world: ToyWorld, number: int) -> Document:
    """Examples of two new names, and one more drawing, named."""
    shots = pick(world.generator(number, "shots"), SHOTS)
    episode = names_episode(world, number, shots, one_style=number % 2 == 0)
    *examples, begun = episode.prompt
    return [*examples, f"{begun} {episode.answer}."]


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
    "names": names,
    "questions": questions,
    "in_context": in_context,
    "drawings": drawings,
    "texts": texts,
}
