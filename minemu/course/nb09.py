"""Checks of notebook 09, what one model can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from PIL import Image

from minemu.course import call, exercise
from minemu.data.questions import Question, question
from minemu.data.world import ToyWorld


@exercise(
    "09.blind", "return the same questions, each with the pictures of the next one; the last takes the first one's"
)
def blind(swap: Callable) -> str:
    """`swap(asked)`: a list of `minemu.data.questions.Question`."""
    world = ToyWorld("seen", held_out=True, image_size=32)
    asked = [question(world, i, asks="colour") for i in range(4)]
    mine = call(swap, list(asked))
    assert isinstance(mine, list) and len(mine) == len(asked), f"{len(asked)} questions go in and come out, as a list"
    assert all(isinstance(one, Question) for one in mine), "each entry of the list should be a Question"
    for own, other, after in zip(asked, mine, asked[1:] + asked[:1], strict=True):
        assert replace(other, pictures=own.pictures) == own, (
            "only pictures change: all else of a question stays its own"
        )
        assert other.pictures is not own.pictures, "a question still has its own picture: the answer could be seen"
        assert other.pictures is after.pictures, "each question takes the pictures of the one after it"
    return f"{len(asked)} questions, none with its own picture"


@exercise(
    "09.prompt", "return [picture, 'question answer.', ..., picture, question]; without `shown` no pictures of examples"
)
def prompt(build: Callable) -> str:
    """`build(examples, picture, question, shown)`: `examples` are (picture, question, answer)."""
    one, two, last = (Image.new("RGB", (8, 8), colour) for colour in ("white", "gray", "black"))
    examples = [(one, "what is this?", "llama"), (two, "which style is this drawn in?", "Noto")]
    wanted = [one, "what is this? llama.", two, "which style is this drawn in? Noto.", last, "what is this?"]
    mine = call(build, examples, last, "what is this?", True)
    _same_sample(mine, wanted)
    _same_sample(call(build, examples, last, "what is this?", False), [wanted[1], wanted[3], *wanted[4:]])
    _same_sample(call(build, [], last, "what is this?", True), wanted[4:])
    return f"a prompt with {len(examples)} examples, the same without their pictures, and one without examples"


def _same_sample(mine: list, wanted: list) -> None:
    assert isinstance(mine, list), f"a sample is a list, not {type(mine).__name__}"
    told = ["a picture" if isinstance(item, Image.Image) else repr(item) for item in wanted]
    assert len(mine) == len(wanted), f"{len(wanted)} items are wanted, not {len(mine)}: {', '.join(told)}"
    for place, (item, right) in enumerate(zip(mine, wanted, strict=True)):
        good = item is right if isinstance(right, Image.Image) else item == right
        assert good, f"item {place} should be {told[place]}" + (
            "" if isinstance(right, str) else ", the one that was given"
        )


@exercise("09.copy", "return for each query the answer of the most similar example")
def copy(answer: Callable) -> str:
    """`answer(queries, pool, answers)`: unit vectors (n, E) and (P, E), and the P answers of the pool."""
    generator = torch.Generator().manual_seed(0)
    pool = F.normalize(torch.randn(24, 8, generator=generator), dim=1)
    chosen = torch.randperm(24, generator=generator)[:6]
    queries = F.normalize(pool[chosen] + 0.01 * torch.randn(6, 8, generator=generator), dim=1)
    answers = [f"answer {number}" for number in range(24)]
    mine = call(answer, queries, pool, answers)
    assert isinstance(mine, (list, tuple)), f"the answers should be a list, not {type(mine).__name__}"
    assert len(mine) == len(queries), f"{len(queries)} answers are wanted, one for each query, not {len(mine)}"
    assert all(isinstance(one, str) for one in mine), "give the answers themselves, not their numbers"
    wrong = sum(one != answers[k] for one, k in zip(mine, chosen.tolist(), strict=True))
    assert wrong == 0, f"{wrong} of {len(mine)} answers are not those of the most similar example"
    return f"{len(queries)} queries get the answer of their nearest example"
