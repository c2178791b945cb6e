"""Instruction data for Emu-I: LLaVA, VideoChat, Alpaca and ShareGPT as JSON lists (or JSON lines) -> conversations.

LLaVA      {"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\n..."}, {"from": "gpt", "value": ...}, ...]}
VideoChat  {"video": "a.mp4", "QA": [{"i": instruction, "q": question, "a": answer}, ...]}
Alpaca     {"instruction": ..., "input": ..., "output": ...}
ShareGPT   {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}, ...]}
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minemu.data.conversations import SYSTEM_IMAGE, SYSTEM_VIDEO, Conversation, Turn
from minemu.data.documents import Picture
from minemu.data.formats.reading import checked_text
from minemu.data.formats.records import Records
from minemu.data.video import ANIMATED, FRAMES, read_frames
from minemu.errors import MinemuError
from minemu.processor import read_picture

USERS, ASSISTANTS = ("human", "user"), ("gpt", "chatgpt", "assistant")
PLACEHOLDERS = ("<image>", "<video>")  # where LLaVA's text says that a picture stands: ours stands before the text


class Chats:
    """Conversations of all four kinds, told apart by their fields (null is none); pictures and clips lie in `folder`."""

    def __init__(self, paths: Sequence[Path], folder: Path, frames: int = FRAMES, random_frames: bool = True):
        self.records, self.folder = Records(paths), Path(folder)
        self.frames, self.random_frames = frames, random_frames
        self.blocks = self.records.blocks
        self.name = self.records.name

    def read(self, k: int, rng: np.random.Generator) -> Conversation:
        """Pictures, or the frames of a clip, stand before the first question."""
        name, record = self.name(k), self.records[k]
        try:
            said = _turns(record)
            texts = [(checked_text(question, name), checked_text(answer, name)) for question, answer in said]
            system, seen = self._seen(record, rng)
        except MinemuError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError):  # a field is missing, or of another type, or no path
            raise MinemuError(
                f"{name} is no LLaVA, VideoChat, Alpaca or ShareGPT conversation; check its fields"
            ) from None
        if not texts:
            raise MinemuError(f"{name} has no turn that is answered")
        turns = [Turn((question,), answer) for question, answer in texts]
        return Conversation(system, (Turn((*seen, *turns[0].user), turns[0].answer), *turns[1:]))

    def _seen(self, record: dict[str, Any], rng: np.random.Generator) -> tuple[str, list[Picture]]:
        """The system message that fits, and what there is to see."""
        if record.get("image") is not None:
            return SYSTEM_IMAGE, [read_picture(self.folder / record["image"])]
        if record.get("video") is not None:
            clip = self._clip(self.folder / record["video"])
            return SYSTEM_VIDEO, read_frames(clip, self.frames, rng if self.random_frames else None)
        return "", []

    def _clip(self, named: Path) -> Path:
        """A clip that is listed as a.mp4 may lie there as the folder a, or as a.webp (which beside a.mp4 is its thumbnail)."""
        options = (named, named.with_suffix(""), *(named.with_suffix(suffix) for suffix in ANIMATED))
        return next((path for path in options if path.exists()), named)


def _turns(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Questions and answers. What follows the last answer, and what an assistant says unasked at the start, is left out."""
    if record.get("QA") is not None:
        return [(" ".join(qa[part] for part in ("i", "q") if qa.get(part)), qa["a"]) for qa in record["QA"]]
    if record.get("instruction") is not None:
        return [(" ".join(filter(None, (record["instruction"], record.get("input")))), record["output"])]
    lines = [(line["from"], _without_placeholders(line["value"])) for line in record["conversations"]]
    pairs = zip(lines, lines[1:], strict=False)
    return [(question, answer) for (who, question), (other, answer) in pairs if who in USERS and other in ASSISTANTS]


def _without_placeholders(text: str) -> str:
    for placeholder in PLACEHOLDERS:
        text = text.replace(placeholder, " ")
    return text
