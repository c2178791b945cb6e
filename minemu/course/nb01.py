"""Exercises of notebook 01: one sequence of words and pictures."""

from __future__ import annotations

from itertools import product

import torch

from minemu.config import LLMConfig, ObjectiveConfig
from minemu.course import call, exercise, number, same, shaped
from minemu.sequence import IGNORE, PICTURE, TokenIds, interleave, pack_rows, targets

IDS = TokenIds.of(LLMConfig(words=100))
ROWS = (
    interleave([[5, 6], PICTURE, [7]], IDS, 4, eos=True),
    interleave([PICTURE, [8, 9, 10], PICTURE], IDS, 4, eos=True),
    interleave([[11]], IDS, 4, eos=True),
)


@exercise("01.idle", "return how many positions of a row from <s> to </s> have nothing to predict")
def idle(answer) -> str:
    for pictures, say, end in product((0, 1, 3), (False, True), (False, True)):
        row = interleave([[5, 6], *[PICTURE] * pictures, [7]], IDS, 4, eos=True)
        goals = targets(torch.tensor([row]), IDS, ObjectiveConfig(say_image=say, end_of_image_pair=end))
        wanted = len(row) - int(((goals.text != IGNORE) | goals.image).sum())
        mine = number(call(answer, pictures, say, end), "the number of positions")
        choices = f"say_image={say} and end_of_image_pair={end}"
        assert mine == wanted, f"with {choices} a row with {pictures} pictures has {wanted} such positions, not {mine}"
    return "rows with 0, 1 and 3 pictures have as many idle positions as you say, whatever the objective asks for"


@exercise("01.positions", "return the position of each token within its own sample, (B, L)")
def positions(answer) -> str:
    for length in (20, sum(map(len, ROWS))):  # two rows, and all three samples in one
        packed = pack_rows(ROWS, IDS, length)
        real = packed["segment_ids"] > 0
        mine = call(answer, packed["segment_ids"])
        shaped(mine, real.shape, "the positions")
        same(mine[real], packed["position_ids"][real], "the positions of real tokens")
    return f"{int(real.sum())} tokens of 3 samples know their place, in two rows and in one"
