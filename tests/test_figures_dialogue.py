"""Figures of conversations and adapters show the tokens, answers, matrices and scores that they are given."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from minemu.chat import CHAT_TEMPLATES, read_conversation
from minemu.config import EmuConfig
from minemu.errors import MinemuError
from minemu.figures.dialogue import Measured, show_change, show_spoken
from minemu.figures.lora import show_low_rank, show_spectrum
from minemu.processor import EmuProcessor
from minemu.sequence import IGNORE
from minemu.tokenizer import special_tokens

PICTURE = Image.new("RGB", (32, 32), "red")


@pytest.fixture(scope="module")
def processor(processor, tmp_path_factory):
    """With the tokens of turns."""
    folder = tmp_path_factory.mktemp("tokenizer")
    processor.save_pretrained(folder)
    return EmuProcessor.of(EmuConfig.preset("emu-nano").override({"llm.special_tokens": 6}), folder)


def drawn(figure):
    assert isinstance(figure, Figure)
    FigureCanvasAgg(figure).draw()
    return figure


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_what_is_learnt_from_is_underlined(processor):
    assert "[USER]" in special_tokens(6)
    user = {"role": "user", "content": [{"type": "image", "image": PICTURE}, {"type": "text", "text": "a llama"}]}
    sample = read_conversation([user, {"role": "assistant", "content": "yes"}], CHAT_TEMPLATES["emu-i"])
    batch = processor([sample, ["a llama"]])
    answers = torch.full_like(batch["input_ids"], IGNORE)
    answers[0, -3:] = batch["input_ids"][0, -3:]
    figure = drawn(show_spoken(batch, answers, processor))
    assert len(figure.axes[0].lines) == 3 + 1  # an underline each, and the legend's
    assert "the loss acts here: 3 positions" in texts(figure) and "[USER]" in texts(figure)
    assert len(figure.axes[0].images) == 1
    padded = drawn(show_spoken({"input_ids": batch["input_ids"][1:]}, answers[1:], processor))
    assert not any("[PAD]" in text for text in texts(padded))
    with pytest.raises(MinemuError, match="answers have shape"):
        show_spoken(batch, answers[:1], processor)


def test_a_change_shows_both_scores():
    rows = [("caption", Measured(0.9, 0.8, 0.95), Measured(0.7, 0.6, 0.8))] * 2
    figure = drawn(show_change(rows))
    values = [float(line.get_xdata()[0]) for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    assert values == [0.9, 0.7] * 2
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["caption"] * 2
    with pytest.raises(MinemuError, match="no score to show"):
        show_change([])


def test_the_added_matrix_is_the_product():
    torch.manual_seed(0)
    weight, b, a = torch.randn(12, 8), torch.randn(12, 2), torch.randn(2, 8)
    figure = drawn(show_low_rank(weight, b, a, 0.5))
    shown = [np.asarray(image.get_array()) for image in figure.axes[0].images]
    for values, wanted in zip(shown, (weight, b, a, 0.5 * b @ a), strict=True):
        np.testing.assert_allclose(values, wanted.numpy(), rtol=1e-5)
    assert "12 x 8" in texts(figure) and "2 x 8\nown scale" in texts(figure)
    own = [image.get_clim() for image in figure.axes[0].images]
    assert own[0] == own[3] and own[1] != own[2]
    with pytest.raises(MinemuError, match="do not fit"):
        show_low_rank(weight, a, b, 1.0)
    spectrum = drawn(show_spectrum(weight, b @ a, 2)).axes[0]
    assert len(spectrum.lines[0].get_xdata()) == 8 and len(spectrum.lines[1].get_xdata()) == 2
    with pytest.raises(MinemuError, match="must agree"):
        show_spectrum(weight, a, 2)
