"""The multimodal sequence: text and pictures, in any order, as one row of token ids; and every mask that follows from it.

A picture is written `[IMG] <image> x N [/IMG]`. The N `<image>` slots hold no word: the model overwrites their embeddings with
the picture's N visual embeddings. A whole sample is `<s> ... </s>`. What each position reads, says or regresses is decided here.

Axes   B rows   L positions
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minemu.config import LLMConfig, ObjectiveConfig
from minemu.errors import MinemuError

PAD, IMAGE_START, IMAGE_END, IMAGE = "[PAD]", "[IMG]", "[/IMG]", "<image>"
SPECIAL_TOKENS = (PAD, IMAGE_START, IMAGE_END, IMAGE)  # in the order of their ids, after the words (published: 32000 ... 32003)
FRAME = "[gIMG]"  # Emu2 only, the next id: the slot of a video frame, which Emu2-Chat pools to fewer embeddings
IGNORE = -100


@dataclass(frozen=True)
class TokenIds:
    """Ids of the tokens that carry structure."""

    bos: int
    eos: int
    pad: int
    image_start: int
    image_end: int
    image: int
    frame: int | None = None

    @property
    def structure(self) -> tuple[int, ...]:
        """Never targets of the text loss in the released code."""
        slots = (self.image,) if self.frame is None else (self.image, self.frame)
        return (self.pad, self.image_start, self.image_end, *slots)

    @classmethod
    def of(cls, llm: LLMConfig) -> TokenIds:
        """LLaMA's <s> and </s>, then ours right after the words."""
        return cls(1, 2, *range(llm.words, llm.words + len(SPECIAL_TOKENS) + llm.frame_slot))


class Picture:
    """Marks the place of one picture among the pieces of a sample."""


PICTURE = Picture()


@dataclass(frozen=True)
class Special:
    """A special token as an item of a sample, such as `Special("[USER]")`: inside a text it would be refused."""

    token: str


@dataclass(frozen=True)
class Video:
    """A video as an item of a sample: its frames, pictures or paths, in order of time."""

    frames: Sequence

    def __post_init__(self) -> None:
        if not len(self.frames):
            raise MinemuError("a video without frames; give its pictures in order of time")

    @classmethod
    def sampled(cls, frames: Sequence, count: int) -> Video:
        """At most `count` frames, the middle ones of as many equal parts."""
        if count < 1:
            raise MinemuError(f"{count} frames of a video are wanted; take 1 or more")
        step = max(len(frames) / count, 1.0)
        return cls([frames[int((part + 0.5) * step)] for part in range(min(count, len(frames)))])


def interleave(pieces: Sequence[list[int] | Picture], ids: TokenIds, n_image: int, eos: bool = False) -> list[int]:
    """Token ids of one sample. `pieces` are texts (already token ids) and pictures, in order."""
    row = [ids.bos]
    for piece in pieces:
        row += picture_ids(ids, n_image) if isinstance(piece, Picture) else piece
    return row + ([ids.eos] if eos else [])


def picture_ids(ids: TokenIds, n_image: int) -> list[int]:
    return [ids.image_start, *[ids.image] * n_image, ids.image_end]


def truncate(row: list[int], ids: TokenIds, max_length: int) -> list[int]:
    """Cut a row at `max_length`, but never inside a picture: that is an error, as half a picture means nothing."""
    if len(row) <= max_length:
        return row
    if row[max_length] in (ids.image, ids.frame, ids.image_end):
        raise MinemuError(
            f"a sequence of {len(row)} tokens cut at max_length={max_length} would cut a picture in two; "
            "raise max_length or leave out a picture"
        )
    return row[:max_length]


def pad_rows(rows: Sequence[list[int]], ids: TokenIds, side: str = "right") -> dict[str, Tensor]:
    """Rows of several lengths as one batch: input_ids and attention_mask (B, L). Right for the loss, left for generation."""
    length = max(len(row) for row in rows)
    input_ids = torch.full((len(rows), length), ids.pad)
    attention_mask = torch.zeros(len(rows), length, dtype=torch.long)
    for b, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(length - len(row), length)
        input_ids[b, place] = torch.tensor(row)
        attention_mask[b, place] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def pad_left(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move right padding to the left, so that every row ends where generation starts. (B, L), (B, L) -> the same shapes."""
    order = attention_mask.argsort(dim=1, stable=True)  # zeros first, the rest in its order
    return input_ids.gather(1, order), attention_mask.gather(1, order)


def pack_rows(rows: Sequence[list[int]], ids: TokenIds, length: int) -> dict[str, Tensor]:
    """Several samples in one row, first fit: input_ids, position_ids, segment_ids (B, length).

    `segment_ids` number the samples of a row from 1, 0 is padding; `position_ids` start anew in each sample.
    `order` lists the numbers of the rows as they come in the packed batch; give their pictures in that order.
    """
    bins: list[list[int]] = []  # indices into rows
    for index, row in enumerate(rows):
        if len(row) > length:
            raise MinemuError(
                f"sample {index} has {len(row)} tokens and does not fit a packed row of {length}; raise the length or shorten it"
            )
        target = next((b for b in bins if sum(len(rows[i]) for i in b) + len(row) <= length), None)
        if target is None:
            bins.append(target := [])
        target.append(index)
    packed = {
        "input_ids": torch.full((len(bins), length), ids.pad),
        "position_ids": torch.zeros(len(bins), length, dtype=torch.long),
        "segment_ids": torch.zeros(len(bins), length, dtype=torch.long),
        "order": torch.tensor([index for b in bins for index in b]),
    }
    for b, members in enumerate(bins):
        start = 0
        for segment, index in enumerate(members, start=1):
            stop = start + len(rows[index])
            packed["input_ids"][b, start:stop] = torch.tensor(rows[index])
            packed["position_ids"][b, start:stop] = torch.arange(stop - start)
            packed["segment_ids"][b, start:stop] = segment
            start = stop
    return packed


def block_mask(segment_ids: Tensor) -> Tensor:
    """Which position may read which when rows are packed: earlier ones of the same sample. (B, L) -> (B, 1, L, L) bool."""
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    causal = torch.ones(segment_ids.shape[1], segment_ids.shape[1], dtype=torch.bool, device=segment_ids.device).tril()
    return (same & causal)[:, None]


def positions(attention_mask: Tensor) -> Tensor:
    """Position of each token among the real ones of its row, whatever side the padding is on. (B, L) -> (B, L)."""
    return (attention_mask.cumsum(1) - 1).clamp(min=0)


@dataclass(frozen=True)
class Targets:
    """What each position has to say next; index t of every tensor speaks of predicting position t + 1. All (B, L - 1)."""

    text: Tensor  # the next token's id where text is classified, else IGNORE
    image: Tensor  # bool: the next *embedding* is regressed here


def targets(input_ids: Tensor, ids: TokenIds, objective: ObjectiveConfig, segment_ids: Tensor | None = None) -> Targets:
    """Positions and targets of the unified objective.

    Text: every real next token but [PAD], <image>, [IMG] and [/IMG] (`say_image` lets [IMG] through).
    Pictures: the N slots are predicted from {[IMG], slot 1 ... slot N-1}; with `end_of_image_pair` slot N also predicts
    the embedding of [/IMG], which makes the N + 1 pairs of the released code.
    """
    following = input_ids[:, 1:]
    unspoken = torch.tensor([i for i in ids.structure if not (objective.say_image and i == ids.image_start)], device=input_ids.device)
    silent = torch.isin(following, unspoken)
    silent |= following == ids.bos  # left padding puts a position before it
    if segment_ids is not None:  # the last token of one packed sample does not predict the first of the next
        silent |= segment_ids[:, 1:] != segment_ids[:, :-1]
    image = following == ids.image
    if objective.end_of_image_pair:
        image = image | ((following == ids.image_end) & (input_ids[:, :-1] == ids.image))  # a quoted [/IMG] closes no picture
    return Targets(text=following.masked_fill(silent, IGNORE), image=image)


def count_pictures(input_ids: Tensor, ids: TokenIds) -> int:
    return int(((input_ids[..., :-1] == ids.image_start) & (input_ids[..., 1:] == ids.image)).sum())  # a quoted [IMG] has no slots


def check_slots(input_ids: Tensor, ids: TokenIds, n: int, given: int, frames: bool = False) -> None:
    """Refuse more or fewer pictures (or video frames) than there is room for."""
    slot, token, what = (ids.frame, FRAME, "frames") if frames else (ids.image, IMAGE, "pictures")
    if slot is None:
        if given:
            raise MinemuError("this model reads the frames of a video as pictures; give them as images")
        return
    slots = int((input_ids == slot).sum())
    if slots != given * n:
        raise MinemuError(
            f"the text has {slots} {token} slots, room for {slots / n:g} {what} of {n}, but {given} {what} were given; "
            f"give as many {what} as there is room for"
        )
