"""The figures of notebooks 04 and 07 show the numbers that they are given, and refuse what does not fit together."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from minemu.errors import MinemuError
from minemu.figures.cache import SpeedUp, show_speedups, show_tokens_processed
from minemu.figures.heads import Turn, show_attention, show_overwrite, show_turns
from minemu.figures.imagined import show_by_index, show_imagined, show_retrieval

WORDS = ["<s>", "[IMG]", "<image>", "<image>", "[/IMG]", "·a", "</s>"]
NAN = float("nan")


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def drawn(figure):
    """It can be drawn; its axes."""
    FigureCanvasAgg(figure).draw()
    return figure.axes


def curves(axes):
    return {line.get_label(): line.get_ydata().tolist() for line in axes.lines if not line.get_label().startswith("_")}


def test_overwritten_slots_are_the_columns_that_changed():
    before = noise(7, 8)
    after = before.clone()
    after[2:4] = 5.0
    (axes,) = drawn(show_overwrite(before, after, WORDS))
    top, below = (np.asarray(image.get_array()).T for image in axes.images)
    assert np.allclose(np.square(top).mean(1), 1, atol=1e-5)
    assert (top != below).any(1).nonzero()[0].tolist() == [2, 3]
    marked = [text.get_text() for text in axes.texts if text.get_color() == "#d9730d"]
    assert marked == ["<image>", "<image>"]
    with pytest.raises(MinemuError, match="do not belong together"):
        show_overwrite(before, after, WORDS[:-1])


def test_attention_is_shown_layer_by_layer_without_the_future():
    weights = noise(3, 7, 7).tril().softmax(-1)
    panels = drawn(show_attention(weights, WORDS, [w == "<image>" for w in WORDS]))
    shown = [np.ma.filled(axes.images[0].get_array(), np.nan) for axes in panels if axes.get_visible()]
    assert len(shown) == 3
    for values, layer in zip(shown, weights.numpy(), strict=True):
        past = np.tril(np.ones((7, 7), dtype=bool))
        assert np.allclose(values[past], layer[past]) and np.isnan(values[~past]).all()
    with pytest.raises(MinemuError, match="does not fit 6 words"):
        show_attention(weights, WORDS[:-1], [False] * 6)


def test_each_head_has_a_bar_where_it_speaks():
    said = torch.tensor([NAN, NAN, NAN, NAN, 0.5, 1.0])
    regressed = torch.tensor([NAN, 0.25, 0.75, -3.0, NAN, NAN])
    (axes,) = drawn(show_turns([Turn(WORDS, said, regressed)]))
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == [0, 0, 0, 0, 0.5, 1.0] + [0, 0.25, 0.75, 0, 0, 0]
    with pytest.raises(MinemuError, match="need 6 values of each head"):
        show_turns([Turn(WORDS, said[:-1], regressed)])
    with pytest.raises(MinemuError, match="at least one"):
        show_turns([])


def test_the_staircase_has_as_many_cells_as_positions_are_processed():
    prompt, n = 5, 3
    totals = {"without": [18, 50], "with": [7, 9]}
    steps, sums = drawn(show_tokens_processed(prompt, n, totals, [3, 5]))
    cells = np.asarray(steps.images[0].get_array())
    filled = (cells != 1).any(-1)
    blue = filled & (cells[..., 2] > cells[..., 0])
    assert filled.sum() == n * prompt + n * (n - 1) // 2
    assert blue.sum() == prompt + n - 1
    assert [list(line.get_ydata()) for line in sums.lines] == list(totals.values())
    with pytest.raises(MinemuError, match="must be at least 1"):
        show_tokens_processed(0, 3, totals, [3, 5])
    with pytest.raises(MinemuError, match="two rows of 3 totals"):
        show_tokens_processed(5, 3, totals, [3, 5, 7])


def test_speedups_are_those_of_the_file():
    rows = [SpeedUp("N = 32", 5.0, 4.5, 5.5, 29.0), SpeedUp("N = 64", 9.0, 8.0, 9.5, 58.0)]
    (axes,) = drawn(show_speedups(rows))
    measured, counted = axes.lines
    assert list(measured.get_xdata()) == [5.0, 9.0] and list(counted.get_xdata()) == [29.0, 58.0]
    with pytest.raises(MinemuError, match="no row"):
        show_speedups([])


def test_errors_are_drawn_by_index():
    values = {"teacher forcing": torch.tensor([0.5, 0.25]), "free running": torch.tensor([0.5, 0.75])}
    panels = drawn(show_by_index({"one": values, "two": values}, "relative error", level=(1.0, "the mean")))
    assert len(panels) == 2
    for axes in panels:
        assert curves(axes) == {name: curve.tolist() for name, curve in values.items()}
        assert axes.get_ylim()[0] == 0 and axes.get_ylim()[1] > 1
    with pytest.raises(MinemuError, match=r"give one for each"):
        show_by_index({"one": {"wrong": noise(2, 2)}}, "error")
    with pytest.raises(MinemuError, match="at least one panel"):
        show_by_index({}, "error")


def test_imagined_embeddings_share_one_scale_less_the_centre():
    rows, centre = {"true": noise(4, 6), "imagined": 2 * noise(4, 6)}, torch.ones(4, 6)
    pictures = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    (axes,) = drawn(show_imagined(rows, pictures, centre))
    first, red, second, blue = axes.images
    assert np.allclose(first.get_array(), rows["true"] - 1) and np.allclose(second.get_array(), rows["imagined"] - 1)
    assert first.get_clim() == second.get_clim()
    assert red.get_array()[0, 0].tolist() == [255, 0, 0] and blue.get_array()[0, 0].tolist() == [0, 0, 255]
    with pytest.raises(MinemuError, match="2 rows but 1 pictures"):
        show_imagined(rows, pictures[:1])
    with pytest.raises(MinemuError, match="all of one shape"):
        show_imagined({"a": noise(4, 6), "b": noise(3, 6)})


def test_retrieval_counts_and_rings_the_nearest():
    true = noise(5, 2, 3)
    imagined = true[[0, 1, 2, 4, 4]]
    axes = drawn(show_retrieval(imagined, true))[0]
    assert axes.get_title("left") == "4 of 5 are nearest to their own picture"
    own, another = axes.lines
    assert own.get_ydata().tolist() == own.get_xdata().tolist() == [0, 1, 2, 4]
    assert (another.get_xdata().tolist(), another.get_ydata().tolist()) == ([4], [3])
    with pytest.raises(MinemuError, match="differ"):
        show_retrieval(imagined[:3], true)
