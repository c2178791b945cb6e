"""Figures show what is really in the tensors: pixels, targets, shapes and parameter counts."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyArrowPatch, Rectangle

from minemu import figures, sequence
from minemu.config import EmuConfig, ObjectiveConfig
from minemu.data.world import ToyWorld
from minemu.errors import MinemuError
from minemu.model import Emu
from minemu.pipeline import EmuPipeline
from minemu.trace import trace
from minemu.visual_decoder import VisualDecoder


@pytest.fixture(scope="module")
def world():
    return ToyWorld(image_size=32)


@pytest.fixture(scope="module", params=["emu-nano", "emu2-nano"])
def pipe(request, processor):
    torch.manual_seed(0)
    config = EmuConfig.preset(request.param)
    return EmuPipeline(Emu(config), processor, VisualDecoder(config.decoder))


@pytest.fixture(scope="module")
def samples(world):
    return [world.sample(i) for i in range(3)]


def colours(figure):
    """How many colours the figure has when Agg draws it."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return len(np.unique(np.asarray(canvas.buffer_rgba()).view(np.uint32)))


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_pictures_are_shown_unchanged(samples):
    figure = figures.show_pictures([s.picture for s in samples], [s.caption for s in samples], columns=2)
    shown = [image.get_array() for image in figure.axes[0].images]
    assert all(np.array_equal(a, s.pixels) for a, s in zip(shown, samples, strict=True))
    assert [" ".join(text.split()) for text in texts(figure)] == [s.caption for s in samples]
    assert colours(figure) > 100


def test_a_title_may_hold_any_character(samples):
    figure = figures.show_pictures([samples[0].picture], ["it says: \x02\ufffd日ñ"])
    assert texts(figure) == ["it says: ?\ufffd?ñ"] and colours(figure) > 100


def test_pictures_and_titles_must_match(samples):
    with pytest.raises(MinemuError, match="no picture to show; give at least one"):
        figures.show_pictures([])
    with pytest.raises(MinemuError, match="1 pictures but 2 titles; give one title for each"):
        figures.show_pictures([samples[0].picture], ["a", "b"])


def test_the_batch_viewer_decodes_the_tensors_back(samples, processor):
    a, b, c = samples
    batch = processor([[a.picture, a.caption], [b.caption, b.picture, c.picture]], eos=True)
    figure = figures.show_batch(batch, processor)
    shown = [image.get_array() for image in figure.axes[0].images]
    for image, sample in zip(shown, samples, strict=True):
        assert np.abs(image.astype(int) - sample.pixels).max() <= 1
    written = texts(figure)
    for sample in (a, b):
        tokens = processor.tokenizer.convert_ids_to_tokens(processor.encode(sample.caption))
        assert all(token.replace("▁", "·") in written for token in tokens)
    padding = int((batch["attention_mask"] == 0).sum())
    assert sum(int(text.split(" x ")[1]) for text in written if text.startswith("[PAD]")) == padding
    assert colours(figure) > 100


@pytest.mark.parametrize("objective", [ObjectiveConfig(), ObjectiveConfig(end_of_image_pair=False, say_image=True)])
def test_the_batch_viewer_marks_every_target(samples, processor, objective):
    batch = processor([[s.picture, s.caption] for s in samples] + [[samples[0].caption, samples[0].picture]], eos=True)
    goals = sequence.targets(batch["input_ids"], processor.ids, objective)
    axes = figures.show_batch(batch, processor, objective).axes[0]
    legend = 2
    assert len(axes.lines) - legend == int((goals.text != sequence.IGNORE).sum())
    assert sum(isinstance(patch, FancyArrowPatch) for patch in axes.patches) == int(goals.image.sum())


def test_text_alone_is_a_batch_too(processor):
    figure = figures.show_batch(processor([["two dogs"], ["a llama on a blue background"]]), processor)
    assert not figure.axes[0].images and len(texts(figure)) > 8


def test_the_strip_says_what_each_position_predicts(samples, processor):
    batch = processor([[samples[0].caption, samples[0].picture], ["a much longer text " * 4]], eos=True)
    figure = figures.show_sequence(batch, processor)
    length = batch["input_ids"].shape[1]
    cells = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert len(cells) == 4 * length
    goals = sequence.targets(batch["input_ids"][:1], processor.ids, ObjectiveConfig())
    filled = [patch.get_facecolor()[:3] != (1, 1, 1) for patch in cells]
    _, mask, says, regresses = (filled[k * length : (k + 1) * length] for k in range(4))
    assert mask == batch["attention_mask"][0].bool().tolist()
    assert says == [*(goals.text[0] != sequence.IGNORE).tolist(), False]
    assert regresses == [*goals.image[0].tolist(), False]
    with pytest.raises(MinemuError, match=r"no row 2; choose one of 0 ... 1"):
        figures.show_sequence(batch, processor, row=2)


def test_the_model_picture_has_the_real_numbers(pipe, samples):
    batch = pipe.processor([["a llama", samples[0].picture], [samples[1].caption, samples[1].picture]], eos=True)
    figure = figures.show_model(pipe, batch, torch.Generator().manual_seed(0))
    written = texts(figure)
    model = pipe.model

    def count(*modules):
        return sum(p.numel() for module in modules for p in module.parameters())

    for number in (
        count(model.visual_encoder),
        count(model.llm.lm_head),
        count(model.regression_head),
        count(pipe.decoder),
    ):
        assert f"{number:,} parameters" in written
    assert f"{model.config.name}: {count(model, pipe.decoder):,} parameters in all" in written
    length, bridge = int(batch["attention_mask"][0].sum()), model.config.bridge.n_image
    for shape in (
        (1, 3, 32, 32),
        (1, 1 + model.config.vision.patches, model.config.vision.width),
        (1, bridge, model.config.embed_width),
        (1, length, model.config.llm.width),
        (1, length, model.config.llm.vocab_size),
    ):
        assert " x ".join(map(str, shape)) in written
    assert colours(figure) > 100


def test_a_trace_leaves_no_hook_and_counts_each_parameter_once(pipe, samples):
    batch = pipe.processor([["a llama", samples[0].picture, "a dog", samples[1].picture]])
    seen = trace(pipe, batch, torch.Generator().manual_seed(0))
    assert seen.parameters == sum(p.numel() for m in (pipe.model, pipe.decoder) for p in m.parameters())
    assert not any(module._forward_hooks for m in (pipe.model, pipe.decoder) for module in m.modules())
    assert np.abs(seen.picture.astype(int) - samples[1].pixels).max() <= 1
    embeds = pipe.encode([samples[1].picture])[0].numpy()
    torch.testing.assert_close(torch.tensor(seen.embeds), torch.tensor(embeds), atol=1e-5, rtol=1e-4)
    assert seen.predicted.shape == embeds.shape


def test_the_model_picture_needs_a_picture(pipe):
    with pytest.raises(MinemuError, match="the first sample has no picture; give one that has"):
        figures.show_model(pipe, pipe.processor([["a llama"]]))
