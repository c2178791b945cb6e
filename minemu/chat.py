"""Conversations as Emu-I and Emu2-Chat were taught to read them, from messages as transformers' processors take them.

    messages = [{"role": "user", "content": [{"type": "image", "image": img}, {"type": "text", "text": "how many llamas?"}]}]
    processor.apply_chat_template(messages, add_generation_prompt=True)                  # the text, to look at
    batch = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)
    processor.batch_decode(model.generate(**batch, **CHAT_TEMPLATES["emu-i"].decoding))

Both write `<system message> [USER]: <instruction> [ASSISTANT]: <answer>`, and learn from the answer only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import BatchFeature

from minemu import prompts, sequence
from minemu.errors import MinemuError, suggest
from minemu.sequence import Special, Video
from minemu.tokenizer import ASSISTANT, GROUNDING, USER, VIDEO

EOS = "</s>"
ANSWERED = "assistant:"


@dataclass(frozen=True)
class ChatTemplate:
    """What differs between the two models."""

    text: str  # the system messages of a conversation without pictures, with pictures, with a video, about places
    image: str
    video: str
    grounding: str
    between: str  # what stands between an answer's </s> and the next question
    frames: int  # of a video that are looked at, at most
    decoding: dict[str, Any]  # transformers' generation keywords


CHAT_TEMPLATES = {
    "emu-i": ChatTemplate(
        text="",
        image=prompts.EMU_I_IMAGE,
        video=prompts.EMU_I_VIDEO,
        grounding="",
        between=" ",
        frames=prompts.EMU_FRAMES,
        decoding={"num_beams": 5, "max_new_tokens": 128, "length_penalty": 1.0},
    ),
    "emu2-chat": ChatTemplate(
        text=prompts.EMU2_CHAT,
        image=prompts.EMU2_CHAT,
        video=prompts.EMU2_CHAT,
        grounding=prompts.EMU2_ACADEMIC,
        between="",
        frames=prompts.EMU2_CHAT_FRAMES,
        decoding={"num_beams": 5, "max_new_tokens": 1024, "length_penalty": 2.0},
    ),
}


class ChatTemplates:
    """The part of `EmuProcessor` that writes conversations."""

    def apply_chat_template(
        self,
        conversation: Sequence[dict] | Sequence[Sequence[dict]],
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = False,
        grounding: bool = False,
        **kwargs: Any,
    ) -> str | list[str] | BatchFeature:
        """One conversation, or a list of them: as text, or with `tokenize` as a batch that `Emu.generate` takes.

        conversation           {"role": "system" | "user" | "assistant", "content": text, or a list of {"type": "text", "text": ...},
                               {"type": "image", "image": PIL picture or path}, {"type": "video", "video": list of frames or path}};
                               of a long video 8 frames are taken (Emu2-Chat: 16), at equal distances
        chat_template          "emu-i" or "emu2-chat"; without it, the one whose tokens the tokenizer has
        add_generation_prompt  end with [ASSISTANT]: so that an answer follows
        continue_final_message leave the last answer open, to be gone on with: "the answer is:"
        grounding              Emu2-Chat: ask for places; <grounding> stands before the answer
        kwargs                 those of calling the processor (padding_side, max_length)

        Without a system message the published one is put in its place. The text leaves out <s>, which tokenising adds.
        """
        template = self._chat_template(chat_template)
        if isinstance(conversation, dict):
            raise MinemuError("a conversation is a list of messages: put this one in brackets")
        single = not conversation or isinstance(conversation[0], dict)
        samples = [
            read_conversation(part, template, add_generation_prompt, continue_final_message, grounding)
            for part in ([conversation] if single else conversation)
        ]
        if tokenize:
            kwargs.pop("return_dict", None)  # transformers' users pass it; ours is always one
            return self(samples, **kwargs)
        texts = [self.as_text(sample) for sample in samples]
        return texts[0] if single else texts

    def read_messages(self, messages: Sequence[dict]) -> list:
        """A conversation that waits for its answer, as one sample, in the template whose tokens the tokenizer has."""
        return read_conversation(messages, self._chat_template(None), add_generation_prompt=True)

    def as_text(self, sample: Sequence) -> str:
        """A sample as the text that the tokenizer would see, with <image> slots for each picture."""
        from minemu.data.video import as_item  # they read pictures with the processor, which imports this
        from minemu.processor import is_picture_path

        parts = []
        for item in map(as_item, sample):
            if isinstance(item, Special):
                parts.append(item.token)
            elif isinstance(item, Video) and self.ids.frame is not None:
                parts += [VIDEO, *[_block(sequence.FRAME, self.n_frame)] * len(item.frames)]
            elif isinstance(item, Video):
                parts += [_block(sequence.IMAGE, self.n_image)] * len(item.frames)
            else:
                is_text = isinstance(item, str) and not is_picture_path(item)
                parts.append(item if is_text else _block(sequence.IMAGE, self.n_image))
        return "".join(parts)

    def only(self, choices: Sequence[str]) -> Callable[[int, Tensor], list[int]]:
        """`prefix_allowed_tokens_fn` for `generate`: the answer is one of `choices`, and then </s>."""
        rows = [[*self.encode(choice), self.ids.eos] for choice in choices]

        def allowed(_: int, said: Tensor) -> list[int]:
            so_far = said.tolist()
            following = {row[len(so_far)] for row in rows if row[: len(so_far)] == so_far and len(row) > len(so_far)}
            return sorted(following) or [self.ids.eos]

        return allowed

    def _chat_template(self, name: str | None) -> ChatTemplate:
        if USER not in self.special:
            raise MinemuError(
                f"this tokenizer has no {USER} token: chat templates are Emu-I's and Emu2-Chat's; "
                "ask a base model with a plain list of text and pictures"
            )
        if name is None:
            name = "emu2-chat" if VIDEO in self.special else "emu-i"
        if name not in CHAT_TEMPLATES:
            raise MinemuError(f"unknown chat template '{name}': {suggest(name, CHAT_TEMPLATES)}")
        return CHAT_TEMPLATES[name]


def user_message(sample: Sequence) -> dict:
    """Words, pictures and videos as one message of the user."""
    from minemu.processor import is_picture_path  # it imports this module

    parts: list[dict] = []
    for item in sample:
        if isinstance(item, Video):
            parts.append({"type": "video", "video": item.frames})
        else:
            kind = "text" if isinstance(item, str) and not is_picture_path(item) else "image"
            parts.append({"type": kind, kind: item})
    return {"role": "user", "content": parts}


def as_messages(sample: Sequence) -> list[dict]:
    """Words, pictures and videos as a conversation: a text that begins with "assistant:" is an answer that was given before."""
    messages: list[dict] = []
    asked: list = []
    for item in sample:
        if isinstance(item, str) and item.startswith(ANSWERED):
            messages += [user_message(asked)] if asked else []
            messages.append({"role": "assistant", "content": item.removeprefix(ANSWERED).strip()})
            asked = []
        else:
            asked.append(item)
    return [*messages, user_message(asked)] if asked else messages


def read_conversation(
    messages: Sequence[dict],
    template: ChatTemplate,
    add_generation_prompt: bool = False,
    continue_final_message: bool = False,
    grounding: bool = False,
) -> list:
    """Messages as one sample for `EmuProcessor`; see `apply_chat_template`."""
    if grounding and not template.grounding:
        raise MinemuError("grounding=True is for Emu2-Chat; leave it out, or use chat_template='emu2-chat'")
    if add_generation_prompt and continue_final_message:
        raise MinemuError(
            "add_generation_prompt begins an answer and continue_final_message goes on with one; choose one"
        )
    system, turns = _split(messages)
    if add_generation_prompt and turns[-1]["role"] != "user":
        raise MinemuError(
            "the conversation does not end with the user: leave its last answer out, or ask something more"
        )
    if continue_final_message and turns[-1]["role"] != "assistant":
        raise MinemuError("continue_final_message needs a last message of the assistant, such as 'the answer is:'")
    contents = [_content(message, template) for message in turns]
    sample = _system(system, template, grounding, [item for content in contents for item in content])
    for message, content in zip(turns, contents, strict=True):
        if message["role"] == "user":
            space = template.between if message is not turns[0] else " " if sample else ""
            sample += [space, Special(USER), ": ", *content]
        else:
            sample += [" ", Special(ASSISTANT), ": ", *content, Special(EOS)]
    if continue_final_message:
        sample.pop()
    if add_generation_prompt:
        sample += [" ", Special(ASSISTANT), ":", *([Special(GROUNDING)] if grounding else [])]
    return prompts.join_texts([item for item in sample if not (isinstance(item, str) and item == "")])


def _split(messages: Sequence[dict]) -> tuple[dict | None, list[dict]]:
    """The system message, if there is one, and the turns: user and assistant one after the other."""
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise MinemuError(f'message {number} is not of the form {{"role": "user", "content": ...}}')
    system = messages[0] if messages and messages[0]["role"] == "system" else None
    turns = list(messages[1:] if system else messages)
    if not turns:
        raise MinemuError('a conversation needs at least one message: [{"role": "user", "content": "hello"}]')
    for number, message in enumerate(turns):
        expected = ("user", "assistant")[number % 2]
        if message["role"] != expected:
            raise MinemuError(
                f"message {number + bool(system)} has role '{message['role']}' where '{expected}' should follow; "
                "user and assistant take turns, and a system message comes first"
            )
    return system, turns


def _content(message: dict, template: ChatTemplate) -> list:
    """Texts, pictures and videos of one message, with a space where a text stands beside another item."""
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, (list, tuple)):
        raise MinemuError(f"the content of a message is a {type(content).__name__}; give text, or a list of parts")
    items: list = []
    for part in parts:
        item = _item(part, template)
        if items and (isinstance(item, str) or isinstance(items[-1], str)):
            items.append(" ")
        items.append(item)
    return items


def _item(part: dict, template: ChatTemplate) -> Any:
    if not isinstance(part, dict):
        raise MinemuError(
            f"a part of a message is a {type(part).__name__}: write {{'type': 'text', 'text': ...}} or {{'type': 'image', 'image': ...}}"
        )
    kind = part.get("type")
    if kind not in ("text", "image", "video"):
        raise MinemuError(f"a part of a message has type {kind!r}; use text, image or video")
    if kind not in part and not (kind != "text" and "path" in part):
        raise MinemuError(f"a part of type '{kind}' has no {kind}: write {{'type': '{kind}', '{kind}': ...}}")
    if kind == "text":
        if not isinstance(part["text"], str):
            raise MinemuError(f"a part of type 'text' holds a {type(part['text']).__name__}; give a text")
        return part["text"].strip()
    from minemu.data.video import as_item, as_video

    shown = part.get(kind, part.get("path"))
    if kind == "video":
        return as_video(shown, template.frames)
    return as_item(Path(shown), template.frames) if isinstance(shown, (str, os.PathLike)) else shown


def _system(message: dict | None, template: ChatTemplate, grounding: bool, items: Sequence) -> list:
    """The given system message, or the published one for what the conversation holds."""
    if message is None:
        if grounding:
            return prompts.fill(template.grounding)
        if any(isinstance(item, Video) for item in items):
            return prompts.fill(template.video)
        pictures = any(not isinstance(item, str) for item in items)
        return prompts.fill(template.image if pictures else template.text)
    match message["content"]:  # only the published ones may hold special tokens
        case str(text) | [{"type": "text", "text": str(text)}] if text in prompts.SYSTEM_MESSAGES:
            return prompts.fill(text)
    return _content(message, template)


def _block(slot: str, n: int) -> str:
    return sequence.IMAGE_START + slot * n + sequence.IMAGE_END
