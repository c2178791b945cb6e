"""Conversations to tune Emu-I on: the published template, toy conversations about pictures and clips, and the asked form.

<system message> [USER]: <instruction> [ASSISTANT]: <answer></s> [USER]: ...
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from minemu.data import captions, questions
from minemu.data.documents import Document, Picture, pixels
from minemu.data.scene import STYLE_NAMES, Scene
from minemu.data.world import ToyWorld, pick
from minemu.errors import MinemuError, suggest
from minemu.prompts import EMU_I_IMAGE as SYSTEM_IMAGE
from minemu.prompts import EMU_I_VIDEO as SYSTEM_VIDEO


@dataclass(frozen=True)
class Turn:
    """What the user gives, text and pictures in order, and the answer."""

    user: tuple[str | Picture, ...]
    answer: str


@dataclass(frozen=True)
class Conversation:
    """One or more turns. The system message is empty where there is nothing to see."""

    system: str
    turns: tuple[Turn, ...]

    def texts(self) -> list[str]:
        """What is said, without the system message."""
        said = [(*turn.user, turn.answer) for turn in self.turns]
        return [piece for pieces in said for piece in pieces if isinstance(piece, str)]

    def messages(self) -> list[dict[str, Any]]:
        """The same as `EmuProcessor.apply_chat_template` takes it; the frames of a clip are one video."""
        messages: list[dict[str, Any]] = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns:
            shown = [_as_pil(piece) for piece in turn.user if not isinstance(piece, str)]
            if self.system == SYSTEM_VIDEO and shown:
                content = [{"type": "video", "video": shown}]
                content += [{"type": "text", "text": piece} for piece in turn.user if isinstance(piece, str)]
            else:
                content = [
                    {"type": "text", "text": piece}
                    if isinstance(piece, str)
                    else {"type": "image", "image": _as_pil(piece)}
                    for piece in turn.user
                ]
            messages += [{"role": "user", "content": content}, {"role": "assistant", "content": turn.answer}]
        return messages


def _as_pil(picture: Picture) -> Image.Image:
    return Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture


# ---- the form of an answer -------------------------------------------------------------------------------------------

FORMS = {
    "word": "answer in one word.",
    "sentence": "answer in a sentence.",
    "list": "list all that is in the picture.",
}


def follows(form: str, answer: str) -> bool:
    """Has the answer the form that was asked for: one word, a sentence, a list "1. ... 2. ..." of two things or more?"""
    answer = answer.strip()
    match form:
        case "word":
            return re.fullmatch(r"[^\s.,]+\.?", answer) is not None
        case "sentence":
            return re.fullmatch(r"(?!\d)\S+( \S+){2,}\.", answer) is not None
        case "list":
            numbers = [int(number) for number in re.findall(r"(?:^|\s)(\d+)\. \S", answer)]
            return answer.startswith("1. ") and numbers == list(range(1, len(numbers) + 1)) and len(numbers) > 1
    raise MinemuError(f"no form of answer '{form}': {suggest(form, FORMS)}")


def inventory(scene: Scene) -> str:
    """All that is in a picture: "1. a llama 2. a fox 3. a green background 4. Noto style"."""
    things = [captions.noun_phrase(group, scene.size if scene.alone else None) for group in scene.groups]
    look = [f"{captions.article(scene.background)} {scene.background} background", f"{STYLE_NAMES[scene.style]} style"]
    return " ".join(f"{number}. {thing}" for number, thing in enumerate([*things, *look], start=1))


# ---- toy conversations -----------------------------------------------------------------------------------------------


def conversation(world: ToyWorld, i: int) -> Conversation:
    """Conversation `i` of one to three turns: three in five about a picture, the others about a clip."""
    rng = world.generator(i, "conversation")
    return _about_picture(world, rng) if rng.random() < 0.6 else _about_clip(world, rng, i)


def _about_picture(world: ToyWorld, rng: np.random.Generator) -> Conversation:
    """The first question is of a sort drawn by lot, and its answer too; what else may be asked of that scene follows."""
    first = pick(rng, tuple(questions.ASKS))
    draw, _ = questions.ASKS[first]
    scene = draw(world, rng)
    others = [name for name in questions.askable(scene) if name != first]
    turns: list[Turn] = []
    for name in [first, *rng.permutation(others).tolist()][: int(rng.integers(1, 4))]:
        turn = _turn(questions.ASKS[name][1](world, scene, rng), scene, rng)
        if turn not in turns:  # a list of all there is may be asked for once
            turns.append(turn)
    opening = Turn((pixels(world, scene), *turns[0].user), turns[0].answer)
    return Conversation(SYSTEM_IMAGE, (opening, *turns[1:]))


def _turn(asked: questions.Asked, scene: Scene, rng: np.random.Generator, forms: Sequence[str] = tuple(FORMS)) -> Turn:
    """One question in one of the forms; an answer of several words is never asked for in one."""
    form = pick(rng, [form for form in forms if form != "word" or " " not in asked.answer])
    if form == "list":
        return Turn((FORMS["list"],), inventory(scene))
    return Turn((f"{asked.text} {FORMS[form]}",), asked.answer if form == "word" else asked.say(asked.answer))


def _about_clip(world: ToyWorld, rng: np.random.Generator, i: int) -> Conversation:
    """First what only the frames together tell; then up to two questions about what stays the same in all of them."""
    question = questions.clip_question(world, i, random_frames=True)
    form = pick(rng, ("sentence",) if " " in question.answer else ("word", "sentence"))
    user: Document = [*question.pictures, f"{question.text} {FORMS[form]}"]
    turns = [Turn(tuple(user), question.answer if form == "word" else question.sentence)]
    movie = question.about
    lasting = ["style", *(["colour"] if movie.change != "background" else [])]
    for name in rng.permutation(lasting).tolist()[: int(rng.integers(0, 3))]:
        asked = questions.ASKS[name][1](world, movie.first, rng)
        turns.append(_turn(asked, movie.first, rng, ("word", "sentence")))
    return Conversation(SYSTEM_VIDEO, tuple(turns))
