"""Figures of the Visual Decoder: they show the numbers they were given, and refuse what does not fit."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from minemu.errors import MinemuError
from minemu.figures.diffusion import show_by_noise, show_kept, show_leak, show_schedules, show_training
from minemu.figures.grid import show_grid


def painted(figure):
    """A figure that also draws without complaint."""
    assert isinstance(figure, Figure)
    FigureCanvasAgg(figure).draw()
    return figure


def lines(axes):
    return {line.get_label(): np.asarray(line.get_ydata(), dtype=float) for line in axes.lines}


def test_grid_shows_each_picture_in_its_place():
    pictures = torch.rand(2, 3, 3, 8, 8) * 2 - 1
    figure = painted(show_grid(pictures, ["a", "b", "c"], ["one\nrow", "another"], note="a note"))
    shown = figure.axes[0].images
    assert len(shown) == 6
    for picture, image in zip(pictures.flatten(0, 1), shown, strict=True):
        np.testing.assert_allclose(image.get_array(), ((picture + 1) / 2).permute(1, 2, 0), atol=0.5 / 63 + 1e-6)
    places = np.array([image.get_extent() for image in shown])
    assert (places[:3, 2] == places[0, 2]).all() and (np.diff(places[:3, 0]) > 0).all()
    assert {text.get_text() for text in figure.axes[0].texts} == {"a", "b", "c", "one\nrow", "another", "a note"}


@pytest.mark.parametrize(
    ("shape", "columns", "rows"), [((3, 3, 8, 8), (), ()), ((2, 3, 3, 8, 8), ["a"], ()), ((2, 3, 3, 8, 8), (), ["a"])]
)
def test_grid_refuses_what_does_not_fit(shape, columns, rows):
    with pytest.raises(MinemuError):
        show_grid(torch.zeros(shape), columns, rows)


def test_kept_is_the_curve():
    figure = painted(show_kept({1: 0.5, 3: 0.9, 6: 0.99}, used=3))
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), [0.5, 0.9, 0.99])
    with pytest.raises(MinemuError):
        show_kept({}, used=3)


def test_schedules_end_where_there_is_no_signal():
    alphas = torch.tensor([0.9, 0.5, 0.0])
    left, right = painted(show_schedules({"mine": alphas})).axes
    np.testing.assert_allclose(lines(left)["mine"], alphas.double().sqrt())
    np.testing.assert_allclose(lines(right)["mine"], [np.log10(9), 0], atol=1e-6)
    with pytest.raises(MinemuError):
        show_schedules({})


def test_leak_says_the_correlation():
    true = torch.tensor([0.0, 1.0, 2.0])
    figure = painted(show_leak(true, {"all": 3 * true, "none": torch.tensor([1.0, -1.0, 1.0])}))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[0].endswith("1.00") and titles[1].endswith("0.00")
    with pytest.raises(MinemuError):
        show_leak(true, {"short": true[:2]})


def test_training_shows_every_step():
    figure = painted(show_training([1.0, 0.5, 0.25]))
    shown = lines(figure.axes[0])
    np.testing.assert_allclose(shown["each step"], [1.0, 0.5, 0.25])
    assert shown["running mean"][0] == 1 and (np.diff(shown["running mean"]) < 0).all()
    with pytest.raises(MinemuError):
        show_training([1.0])


def test_by_noise_shows_each_condition():
    t = torch.tensor([0, 500, 999])
    figure = painted(show_by_noise(t, {"own": torch.tensor([0.1, 0.2, 0.3]), "null": torch.tensor([0.1, 0.3, 0.9])}))
    np.testing.assert_allclose(lines(figure.axes[0])["null"], [0.1, 0.3, 0.9], atol=1e-6)
    with pytest.raises(MinemuError):
        show_by_noise(t, {"own": torch.zeros(2)})
    with pytest.raises(MinemuError):
        show_by_noise(t, {})
