"""Tasks that are answered in words: questions about pictures and clips, dialogue, and what can be learnt from a prompt.

The answers are generated and compared after the published cleaning (first sentence, no full stop), in lower case and without an
article. A single word and the whole sentence are both right. `blind` asks the same about another sample's picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from minemu import prompts, retrieval
from minemu.chat import CHAT_TEMPLATES, read_conversation
from minemu.data import questions
from minemu.data.conversations import FORMS, Turn, follows
from minemu.data.dialogues import Dialogue, dialogue
from minemu.data.documents import Document
from minemu.data.episodes import names_episode
from minemu.data.movies import Movie
from minemu.data.world import ToyWorld
from minemu.errors import MinemuError
from minemu.evaluation.base import SHOWN, Question, Result
from minemu.evaluation.metrics import mean_interval, ndcg, ndcg_by_chance, rate, wilson
from minemu.tokenizer import USER

if TYPE_CHECKING:
    from minemu.pipeline import EmuPipeline

BATCH = 16
ANSWER_TOKENS = 20  # as published
POOL = 256  # examples from training's side of the world that few-shot prompts choose from
POOL_FROM = 10**9  # number of the first; no document of training reaches it, so none is known by heart
ARTICLES = ("a", "an", "the")
MANY_WORDS = ("what", "kind", "group")  # sorts of questions whose answer may be several words
TEXT_SHOTS = 2  # of the published text-only prompts

Prompts = Sequence[list[Any]]


# ---- prompts and answers ---------------------------------------------------------------------------------------------


def as_sample(document: Sequence[str | np.ndarray]) -> list[Any]:
    """A document of the toy world as the pipeline takes it: arrays become pictures."""
    return [piece if isinstance(piece, str) else Image.fromarray(piece) for piece in document]


def asking(pipe: EmuPipeline, asked: questions.Question) -> list[Any]:
    """Pictures and question as the model was taught: Emu reads on after the question, Emu-I answers in the asked form."""
    pictures = as_sample(asked.pictures)
    if USER not in pipe.processor.special:
        return [*pictures, asked.text]
    form = "sentence" if any(" " in answer for answer in asked.candidates) else "word"
    return in_form(asked, form)


def in_form(asked: questions.Question, form: str) -> list[Any]:
    """Picture or clip (be it of one frame) and the question in Emu-I's template, with the form that its answer shall have."""
    pictures = as_sample(asked.pictures)
    is_clip = isinstance(asked.about, Movie)
    shown = {"type": "video", "video": pictures} if is_clip else {"type": "image", "image": pictures[0]}
    text = FORMS[form] if form == "list" else f"{asked.text} {FORMS[form]}"
    content = [shown, {"type": "text", "text": text}]
    return read_conversation(
        [{"role": "user", "content": content}], CHAT_TEMPLATES["emu-i"], add_generation_prompt=True
    )


def check_length(question: Question, asked: Prompts, room: int) -> None:
    """Prompt and answer must fit in the model's context."""
    processor, context = question.pipe.processor, question.pipe.model.config.llm.context
    piece = lambda item: len(processor.encode(item)) if isinstance(item, str) else processor.n_image + 2  # noqa: E731
    longest = 1 + max(sum(map(piece, prompt)) for prompt in asked) + room
    if longest > context:
        raise MinemuError(
            f"--shots {question.shots} makes {longest} tokens with the answer, and this model reads {context}; use fewer shots"
        )


def answers(question: Question, asked: Prompts) -> list[str]:
    """What the model says next, by the likeliest word each time."""
    said: list[str] = []
    for batch in question.batches(asked, BATCH):
        said += [answer.text for answer in question.pipe.chat_batch(batch, max_new_tokens=ANSWER_TOKENS)]
    return said


def clean(answer: str) -> str:
    """An answer in the form in which it is compared."""
    words = prompts.first_sentence(answer).lower().split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ARTICLES else words)


def is_right(asked: questions.Question, said: str) -> bool:
    return clean(said) in (clean(asked.answer), clean(asked.sentence))


def _marks(asked: Sequence[questions.Question], said: Sequence[str]) -> list[bool]:
    return [is_right(one, text) for one, text in zip(asked, said, strict=True)]


def _score(
    question: Question,
    asked: list[questions.Question],
    said: list[str],
    blind: list[str],
    beside: dict[str, list[str]] | None = None,
    **details: Any,
) -> Result:
    """Of all and of each sort of question; `beside`, by name, what was said when the questions were asked in another way."""
    right, unseen = _marks(asked, said), _marks(asked, blind)
    others = {name: _marks(asked, texts) for name, texts in (beside or {}).items()}
    parts: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(one.asks for one in asked):
        numbers = [i for i, one in enumerate(asked) if one.asks == name]
        of_name = [right[i] for i in numbers]
        parts[name] = {
            "n": len(of_name), "rate": rate(of_name), "interval": list(wilson(of_name)),
            "chance": _chance([asked[i] for i in numbers]), "blind": rate([unseen[i] for i in numbers]),
        }  # fmt: skip
        for other, marks in others.items():
            parts[name] |= _rate_of(other, [marks[i] for i in numbers])
    examples = [
        {"asked": one.text, "true": one.answer, "said": text} for one, text in zip(asked[:SHOWN], said, strict=False)
    ]
    for name, marks in others.items():
        details |= _rate_of(name, marks)
    return question.result(right, _chance(asked), unseen, parts=parts, **details, examples=examples)


def _chance(asked: Sequence[questions.Question]) -> float:
    return sum(1 / len(one.candidates) for one in asked) / len(asked)


def _rate_of(name: str, right: list[bool]) -> dict[str, Any]:
    return {name: rate(right), f"{name}_interval": list(wilson(right))}


# ---- questions -------------------------------------------------------------------------------------------------------


def visual_questions(question: Question) -> Result:
    """Questions of every sort in turn, each about its picture."""
    asked, others = _in_turn(question, questions.ASKS, questions.question)
    return _score(question, asked, *(answers(question, _all(question, part)) for part in (asked, others)))


def clip_questions(question: Question) -> Result:
    """Questions about eight frames, evenly spread; and the same about the middle one of them, in two ways.

    Eight times that frame is a clip in which nothing happens, so "nothing" is said of it too often to be as good as chance. The frame
    alone is another sort of prompt, which the model answers as it does a question about a picture; hence it may only choose, between
    the answers that there are.
    """
    asked, others = _in_turn(question, questions.CLIP_ASKS, questions.clip_question)
    middle = [one.pictures[len(one.pictures) // 2] for one in asked]
    still = [replace(one, pictures=(frame,) * len(one.pictures)) for one, frame in zip(asked, middle, strict=True)]
    said, blind, of_still = (answers(question, _all(question, part)) for part in (asked, others, still))
    alone = [replace(one, pictures=(frame,)) for one, frame in zip(asked, middle, strict=True)]
    chosen = [_chosen(question.pipe, one) for one in _each(question, alone)]
    return _score(question, asked, said, blind, {"single_frame": of_still, "ranked_frame": chosen})


def _chosen(pipe: EmuPipeline, one: questions.Question) -> str:
    """The likeliest of the answers that a question has."""
    prompt = in_form(one, "word") if USER in pipe.processor.special else asking(pipe, one)
    return _likeliest(pipe, prompt, one.candidates)


def _all(question: Question, asked: Sequence[questions.Question]) -> Prompts:
    return [asking(question.pipe, one) for one in asked]


def _in_turn(question: Question, asks: dict, make: Any) -> tuple[list[questions.Question], list[questions.Question]]:
    """n questions, sort after sort, and the same ones with the pictures of the next question of their sort."""
    world, sorts = question.world(), list(asks)
    made = [make(world, i, sorts[i % len(sorts)]) for i in range(question.n + len(sorts))]
    asked = made[: question.n]
    others = [replace(one, pictures=made[i + len(sorts)].pictures) for i, one in enumerate(asked)]
    return asked, others


def forms(question: Question) -> Result:
    """Questions whose answer is one word, with the asked forms in turn. `blind`: the same answers, had the next form been asked for."""
    world, wanted = question.world(), list(FORMS)
    sorts = [name for name in questions.ASKS if name not in MANY_WORDS]
    asked = [questions.question(world, i, sorts[i // len(wanted) % len(sorts)]) for i in range(question.n)]
    of = [wanted[i % len(wanted)] for i in range(question.n + 1)]
    said = answers(question, [in_form(one, form) for one, form in zip(asked, of, strict=False)])
    right, blind = ([follows(form, text) for form, text in zip(part, said, strict=False)] for part in (of, of[1:]))
    parts = {form: rate([mark for mark, own in zip(right, of, strict=False) if own == form]) for form in wanted}
    examples = [
        {"form": form, "asked": one.text, "said": text}
        for form, one, text in zip(of, asked[:SHOWN], said, strict=False)
    ]
    return question.result(right, 1 / len(wanted), blind, parts=parts, examples=examples)


# ---- dialogue --------------------------------------------------------------------------------------------------------


def dialogues(question: Question) -> Result:
    """Up to a hundred answers ranked by their mean log-likelihood after a picture and what was said about it."""
    world = question.world()
    made = [dialogue(world, i) for i in range(question.n + 1)]
    asked, others = made[:-1], [replace(one, picture=after.picture) for one, after in zip(made, made[1:], strict=False)]
    gained, blind = ([_ndcg_of(question.pipe, one) for one in _each(question, part)] for part in (asked, others))
    chance = sum(ndcg_by_chance(one.relevance) for one in asked) / question.n
    return Result(
        question.task, question.split, question.n, question.seed, sum(gained) / question.n, chance,
        sum(blind) / question.n, 1.0,
        {"interval": list(mean_interval(gained)), "candidates": len(asked[0].candidates)},
    )  # fmt: skip


def _each(question: Question, items: list[Any]) -> Any:
    return (item for batch in question.batches(items, 1) for item in batch)


def _ndcg_of(pipe: EmuPipeline, asked: Dialogue) -> float:
    scores = pipe.log_likelihoods(dialogue_prompt(pipe, asked), asked.candidates, mean=True)
    return ndcg([asked.relevance[i] for i in scores.argsort(descending=True).tolist()])


def dialogue_prompt(pipe: EmuPipeline, asked: Dialogue) -> list[Any]:
    """Emu-I's turns as published for VisDial, or for Emu the words one after another."""
    picture = Image.fromarray(asked.picture)
    said = [(_question_of(turn), turn.answer) for turn in asked.history]
    if USER in pipe.processor.special:
        bare = [(text.rstrip("?"), answer.rstrip(".")) for text, answer in said]
        return prompts.dialogue(picture, bare, asked.question.rstrip("?"))
    return [picture, " ".join([*(f"{text} {answer}" for text, answer in said), asked.question])]


def _question_of(turn: Turn) -> str:
    return " ".join(piece for piece in turn.user if isinstance(piece, str))


# ---- learning from the prompt ----------------------------------------------------------------------------------------


def new_names(question: Question) -> Result:
    """`shots` examples of each of two made-up names: which of the two is likelier for one more drawing?"""
    world = question.world()
    episodes = [names_episode(world, i, question.shots) for i in range(question.n + 1)]
    asked = [as_sample(episode.prompt) for episode in episodes]
    others = [[*own[:-2], *other[-2:]] for own, other in zip(asked, asked[1:], strict=False)]
    check_length(question, asked, ANSWER_TOKENS)
    right, blind = (
        [
            _likeliest(question.pipe, prompt, episode.candidates) == episode.answer
            for prompt, episode in _each(question, list(zip(part, episodes, strict=False)))
        ]
        for part in (asked[:-1], others)
    )
    ways = len(episodes[0].candidates)
    return question.result(right, 1 / ways, blind, shots=question.shots, ways=ways)


def _likeliest(pipe: EmuPipeline, prompt: list[Any], names: Sequence[str]) -> str:
    return names[int(pipe.log_likelihoods(prompt, [f"{name}." for name in names], mean=True).argmax())]


def few_shot_questions(question: Question) -> Result:
    """Questions after `shots` examples by RICES, and beside it examples at random.

    Without any, beside it two examples without their pictures: the paper's prompt for "zero-shot" scores of the base. The examples
    are from training's side of the world, with plain concatenation in place of a template, as the authors say.
    """
    if question.shots > POOL:
        raise MinemuError(f"--shots {question.shots} is more than the {POOL} examples there are; use fewer shots")
    asked, others = _in_turn(question, questions.ASKS, questions.question)
    train = ToyWorld("seen", seed=question.seed, image_size=question.pipe.processor.image_size)
    pool = [questions.question(train, POOL_FROM + i) for i in range(POOL)]
    of_asked, of_others, of_pool = (
        question.pipe.features([as_sample(q.pictures)[0] for q in part]) for part in (asked, others, pool)
    )
    beside = "random" if question.shots else "text_only"
    drawn = retrieval.at_random(question.n, len(pool), question.shots or TEXT_SHOTS, question.seed)
    prompts_of = {
        "rices": _after(asked, pool, retrieval.rices(of_asked, of_pool, question.shots)),
        "blind": _after(others, pool, retrieval.rices(of_others, of_pool, question.shots)),
        beside: _after(asked, pool, drawn, shown=beside == "random"),
    }
    for some in prompts_of.values():
        check_length(question, some, ANSWER_TOKENS)
    said = {name: answers(question, some) for name, some in prompts_of.items()}
    return _score(question, asked, said["rices"], said["blind"], {beside: said[beside]}, shots=question.shots)


def _after(
    asked: Sequence[questions.Question], pool: Sequence[questions.Question], chosen: list[list[int]], shown: bool = True
) -> Prompts:
    """Each question after its examples: [picture] "what is this? llama." [picture] "what is this?"."""
    found = []
    for one, numbers in zip(asked, chosen, strict=True):
        document: Document = []
        for example in (pool[k] for k in numbers):
            document += [*(example.pictures if shown else ()), f"{example.text} {example.answer}."]
        found.append(as_sample([*document, *one.pictures, one.text]))
    return found
