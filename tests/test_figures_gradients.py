"""Pairs of the objective and gradient lengths are drawn as they are."""

import math

import pytest
from matplotlib.patches import FancyArrowPatch

from minemu.config import ObjectiveConfig
from minemu.data.world import ToyWorld
from minemu.errors import MinemuError
from minemu.figures.gradients import show_gradients, show_pairs
from minemu.sequence import IGNORE, targets

NORMS = {"text": {"LLM": 2.0, "LM head": 1.0}, "image": {"LLM": 0.5, "LM head": 0.0}}


@pytest.mark.parametrize("objective", [ObjectiveConfig(), ObjectiveConfig(end_of_image_pair=False)])
def test_an_arrow_for_each_pair(objective, processor):
    sample = ToyWorld(image_size=32).sample(0)
    input_ids = processor([[sample.prompt, sample.picture], [sample.picture]], eos=True)["input_ids"]
    for row in range(2):
        figure = show_pairs(input_ids, processor, objective, row)
        goals = targets(input_ids[row : row + 1], processor.ids, objective)
        arrows = [patch for patch in figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]
        assert len(arrows) == int((goals.text != IGNORE).sum()) + int(goals.image.sum())
    with pytest.raises(MinemuError, match=r"no row 2; choose one of 0 ... 1"):
        show_pairs(input_ids, processor, objective, 2)


def test_dots_are_where_the_gradients_are():
    axes = show_gradients(NORMS).axes[0]
    lengths = [line.get_xdata().tolist() for line in axes.lines]
    assert lengths[0] == [2.0, 1.0] and lengths[1][0] == 0.5 and math.isnan(lengths[1][1])
    assert [text.get_text() for text in axes.texts] == ["none"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["LLM", "LM head"]


def test_gradients_have_to_be_there():
    with pytest.raises(MinemuError, match="no gradient to show; give norms"):
        show_gradients({})
    with pytest.raises(MinemuError, match="name different modules; give the same ones"):
        show_gradients({"text": {"LLM": 1.0}, "image": {"head": 1.0}})
    with pytest.raises(MinemuError, match=r"every gradient is zero; call backward\(\)"):
        show_gradients({"text": {"LLM": 0.0}})
