"""Prompts as published: how Emu, Emu-I and Emu2 were asked, with their decoding settings and the cleaning of answers.

    prompt = PROMPTS["emu2-vqa"]
    said = pipe.chat(prompt.fill(image=img, question="how many llamas are there?"), **prompt.decoding).text
    answer = prompt.clean(said)

A small difference costs much: with another prompt a reader measured a CIDEr of 77 where 117.7 is published (baaivision/Emu, thread 33).
The words are those of the released code and the papers (arXiv 2307.05222, 2312.13286); what is from elsewhere says so.
Conversations of any length are `minemu.chat`'s.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minemu.errors import MinemuError, suggest
from minemu.sequence import Special

# System messages. Emu-I's hold a picture's tokens, with no picture between them.
EMU_I_IMAGE = (
    "You will be presented with an image: [IMG]ImageContent[/IMG]. You will be able to see the image after I provide it to you. "
    "Please answer my questions based on the given image."
)
EMU_I_VIDEO = (
    "You are a helpful assistant and you will be presented with a video consisting of multiple chronological images: "
    "[IMG]ImageContent[/IMG]. You will be able to see the video after I provide it to you. "
    "Please answer my questions based on the given video."
)
EMU2_CHAT = "You are a helpful assistant, dedicated to delivering comprehensive and meticulous responses."
EMU2_ACADEMIC = "You are a helpful assistant, dedicated to provide concise and efficient answers."
SYSTEM_MESSAGES = (EMU_I_IMAGE, EMU_I_VIDEO, EMU2_CHAT, EMU2_ACADEMIC)

# Without any prompt: the released generate()'s own defaults.
DESCRIBE = {"num_beams": 5, "max_new_tokens": 50, "length_penalty": 0.0}
CAPTION = {"num_beams": 5, "max_new_tokens": 20, "min_new_tokens": 8, "length_penalty": -1.0}
EMU_I_ANSWER = {"num_beams": 5, "max_new_tokens": 20, "min_new_tokens": 1, "length_penalty": -1.0}
EMU2_ANSWER = {"num_beams": 5, "max_new_tokens": 10, "min_new_tokens": 1, "length_penalty": -1.0}
EMU_I_VIDEO_CHAT = {"num_beams": 5, "max_new_tokens": 50, "length_penalty": 1.0}
EMU_FRAMES, EMU2_CHAT_FRAMES = 8, 16  # of a video that are looked at

_PLACES = re.compile(r"(\{\w+\}|\[/?[A-Z]+\]|</?\w+>)")  # {name}, [USER], </s>: what is no plain text in a template


def first_sentence(text: str) -> str:
    """The first sentence of the first line, without its full stop: a base model goes on after its answer (thread 77)."""
    line = next(iter(text.strip().splitlines()), "")
    return re.split(r"\.(?:\s|$)", line, maxsplit=1)[0].strip("\"',;: ")


def caption(text: str) -> str:
    """The first sentence in lower case: what the caption metrics are given."""
    return first_sentence(text).lower()


def fill(template: str, **values: Any) -> list:
    """A published text as a sample: its special tokens as such, {name} replaced by a value, neighbouring texts joined.

    Only the template may hold special tokens; the processor refuses them in values.
    """
    sample: list = []
    for part in filter(None, _PLACES.split(template)):
        if part == "{image}":
            sample.append(Path(values["image"]) if isinstance(values["image"], str) else values["image"])
        elif part.startswith("{"):
            sample.append(values[part.strip("{}")])
        else:
            sample.append(Special(part) if _PLACES.fullmatch(part) else part)
    return join_texts(sample)


def join_texts(sample: Sequence) -> list:
    """The sample with neighbouring texts joined: a tokenizer reads them differently apart."""
    joined: list = []
    for item in sample:
        if joined and isinstance(item, str) and isinstance(joined[-1], str):
            joined[-1] += item
        else:
            joined.append(item)
    return joined


@dataclass(frozen=True)
class Prompt:
    """Words around what is asked, transformers' generation keywords, and how the answer is cut out of what is said."""

    template: str
    decoding: Mapping[str, Any]
    clean: Callable[[str], str] = str.strip
    choices: tuple[str, ...] = ()  # where there are any, nothing else may be answered (`EmuProcessor.only`)

    def fill(self, **values: Any) -> list:
        """The prompt as a sample for `EmuProcessor` and `EmuPipeline.chat`: a picture for {image}, a clip for {video}, else text."""
        needed = re.findall(r"\{(\w+)\}", self.template)
        for name in values:
            if name not in needed:
                raise MinemuError(f"the prompt has no place for '{name}': {suggest(name, needed)}")
        if lacking := [name for name in needed if name not in values]:
            raise MinemuError(f"the prompt also needs {', '.join(lacking)}; give it as {lacking[0]}=...")
        if "video" in values:
            from minemu.data.video import as_video

            values["video"] = as_video(values["video"], EMU_FRAMES)
        return fill(self.template, **values)


_EMU_I_QUESTION = (
    EMU_I_IMAGE + " [USER]: {image} based on the content of the image and common sense, "
    "please provide an accurate answer consisting of only one word or phrase. {question}"
)
_IN_CONTEXT = "{image} based on the picture, {question} short answer:"

PROMPTS: dict[str, Prompt] = {
    # The base model, as a third party asks it; the question comes after the caption.
    "emu-caption": Prompt("{image} describing the image in detail. the image shows", CAPTION, caption),
    "emu-vqa": Prompt("{image} a picture of {caption}. based on the picture, {question} short answer:", EMU_I_ANSWER, first_sentence),
    "emu-i-caption": Prompt(
        EMU_I_IMAGE + " [USER]: {image} please provide an accurate and concise description of the given image. "
        "[ASSISTANT]: the image depicts a photo of",
        CAPTION,
        caption,
    ),
    "emu-i-vqa": Prompt(_EMU_I_QUESTION + " [ASSISTANT]: the answer is:", EMU_I_ANSWER, first_sentence),
    "emu-i-answerable": Prompt(
        _EMU_I_QUESTION + ", is the answer known? [ASSISTANT]:", EMU_I_ANSWER, first_sentence, ("yes.", "no.")
    ),
    "emu-i-video": Prompt(EMU_I_VIDEO + " [USER]: {video} {question} [ASSISTANT]:", EMU_I_VIDEO_CHAT),
    "emu2-vqa": Prompt(
        "{image} based on the picture, answer in one word or phrase. {question} short answer:", EMU2_ANSWER, first_sentence
    ),
    "emu2-few-shot": Prompt(_IN_CONTEXT, EMU2_ANSWER, first_sentence),  # `few_shot` puts the examples before it
}  # fmt: skip


def few_shot(examples: Sequence[tuple[Any, str, str]], image: Any, question: str) -> list:
    """Emu2's question after examples of (image, question, answer). Emu's few-shot prompts are plain lists of text and pictures."""
    sample: list = []
    for shown, asked, answer in examples:
        sample += [*fill(_IN_CONTEXT, image=shown, question=asked), f" {answer}. "]
    return join_texts([*sample, *fill(_IN_CONTEXT, image=image, question=question)])


def dialogue(image: Any, history: Sequence[tuple[str, str]], question: str) -> list:
    """Emu-I's question after (question, answer) pairs about one picture, as for VisDial; options are ranked by their mean loss."""
    sample = fill(EMU_I_IMAGE + " [USER]: {image}</s>", image=image)
    for asked, answer in history:
        sample += fill(" [USER]: {question}? [ASSISTANT]: {answer}.</s>", question=asked, answer=answer)
    return join_texts([*sample, *fill(" [USER]: {question}? [ASSISTANT]:", question=question)])
