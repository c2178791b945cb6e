"""Exercises of notebook 00: start here."""

from __future__ import annotations

import torch

from minemu.config import LLMConfig, ObjectiveConfig
from minemu.course import call, exercise, number, same
from minemu.sequence import PICTURE, TokenIds, interleave, pad_rows, targets

IDS = TokenIds.of(LLMConfig(words=100))


@exercise("00.length", "return how many positions a sample takes, <s> and </s> included")
def length(answer) -> str:
    cases = [(words, pictures, n) for words in (0, 7) for pictures in (0, 1, 5) for n in (4, 32)]
    for words, pictures, n in cases:
        wanted = len(interleave([[5] * words, *[PICTURE] * pictures], IDS, n, eos=True))
        mine = number(call(answer, words, pictures, n), "the length")
        assert mine == wanted, f"{words} words and {pictures} pictures of {n} take {wanted} positions, not {mine}"
    return f"{len(cases)} samples have the length you say"


@exercise("00.regressed", "return a boolean tensor of shape (B, L - 1)")
def regressed(answer) -> str:
    rows = [interleave([[5, 6], PICTURE], IDS, 4, eos=True), interleave([PICTURE, [7], PICTURE, [8]], IDS, 4)]
    input_ids = pad_rows(rows, IDS)["input_ids"]
    wanted = targets(input_ids, IDS, ObjectiveConfig(end_of_image_pair=False)).image
    same(call(answer, input_ids, IDS), wanted, "the mask")
    assert torch.equal(wanted.sum(1), torch.tensor([4, 8]))
    return f"{int(wanted.sum())} embeddings to regress in 3 pictures of 4"
