"""Exercises of notebook 01: one sequence of words and pictures."""

from __future__ import annotations

from minemu.config import LLMConfig, ObjectiveConfig
from minemu.course import call, exercise, same, shaped
from minemu.sequence import IGNORE, PICTURE, TokenIds, interleave, pack_rows, pad_rows, targets

IDS = TokenIds.of(LLMConfig(words=100))
ROWS = (
    interleave([[5, 6], PICTURE, [7]], IDS, 4, eos=True),
    interleave([PICTURE, [8, 9, 10], PICTURE], IDS, 4, eos=True),
    interleave([[11]], IDS, 4, eos=True),
)


@exercise("01.text_targets", "return the target of the LM head at each position, (B, L - 1), -100 where there is none")
def text_targets(answer) -> str:
    input_ids = pad_rows(ROWS, IDS)["input_ids"]
    wanted = targets(input_ids, IDS, ObjectiveConfig()).text
    mine = call(answer, input_ids, IDS)
    shaped(mine, wanted.shape, "the targets")
    spoken = (mine != IGNORE) & (wanted == IGNORE)
    assert not spoken.any(), f"token {int(input_ids[:, 1:][spoken][0])} is never classified, but is a target of yours"
    wrong = int((mine != wanted).sum())
    assert wrong == 0, f"{wrong} of {wanted.numel()} targets differ"
    return f"{int((wanted != IGNORE).sum())} tokens to classify in 3 rows"


@exercise("01.positions", "return the position of each token within its own sample, (B, L)")
def positions(answer) -> str:
    for length in (20, sum(map(len, ROWS))):  # two rows, and all three samples in one
        packed = pack_rows(ROWS, IDS, length)
        real = packed["segment_ids"] > 0
        mine = call(answer, packed["segment_ids"])
        shaped(mine, real.shape, "the positions")
        same(mine[real], packed["position_ids"][real], "the positions of real tokens")
    return f"{int(real.sum())} tokens of 3 samples know their place, in two rows and in one"
