"""Strips and packed rows show the tensors that they were given."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from minemu import sequence
from minemu.config import LLMConfig, ObjectiveConfig
from minemu.drawing import REGRESSES, SAYS
from minemu.errors import MinemuError
from minemu.figures.sequences import show_packing, show_spans
from minemu.sequence import IGNORE, PICTURE, TokenIds, block_mask, interleave, pack_rows, pad_rows

IDS = TokenIds.of(LLMConfig(words=100))
ROWS = [interleave(pieces, IDS, 3, eos=True) for pieces in ([[5, 6], PICTURE], [[7]], [PICTURE, [8, 9], PICTURE])]


def cells(figure, colour):
    return sum(
        isinstance(patch, Rectangle) and np.allclose(patch.get_facecolor()[:3], to_rgb(colour))
        for patch in figure.axes[0].patches
    )


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize("objective", [ObjectiveConfig(), ObjectiveConfig(end_of_image_pair=False, say_image=True)])
def test_the_strip_marks_every_target(objective):
    row = torch.tensor(ROWS[2])
    figure = show_spans(row, [f"t{token}" for token in ROWS[2]], IDS, objective)
    goals = sequence.targets(row[None], IDS, objective)
    assert isinstance(figure, Figure)
    assert cells(figure, SAYS) == int((goals.text != IGNORE).sum())
    assert cells(figure, REGRESSES) == int(goals.image.sum())
    assert [t for t in texts(figure) if t.startswith("picture ")] == ["picture 1", "picture 2"]
    assert all(str(token) in texts(figure) for token in ROWS[2])


def test_the_strip_needs_one_row_and_its_words():
    with pytest.raises(MinemuError, match=r"input_ids of shape \(2,\) and 1 words; give one row"):
        show_spans(torch.tensor([1, 2]), ["<s>"], IDS)


def test_packing_shows_every_sample_twice_and_the_mask_itself():
    packed, padded = pack_rows(ROWS, IDS, 20), pad_rows(ROWS, IDS)
    figure = show_packing(padded["attention_mask"], packed)
    for sample in range(len(ROWS)):
        assert texts(figure).count(f"sample {sample}") >= 2
    (mask,) = figure.axes[0].images
    assert np.array_equal(mask.get_array().astype(bool), block_mask(packed["segment_ids"])[0, 0].numpy())
    used = sum(map(len, ROWS))
    assert f"padded: {used} of {padded['input_ids'].numel()} positions are real" in texts(figure)
    assert f"packed: {used} of {packed['input_ids'].numel()} positions are real" in texts(figure)


def test_packing_refuses_other_rows():
    packed, padded = pack_rows(ROWS, IDS, 20), pad_rows(ROWS[:2], IDS)
    with pytest.raises(MinemuError, match="2 padded rows but 3 packed ones; pack the rows that were padded"):
        show_packing(padded["attention_mask"], packed)
    with pytest.raises(MinemuError, match="no packed row 9; choose one of 0"):
        show_packing(pad_rows(ROWS, IDS)["attention_mask"], packed, row=9)
