"""Figures of what the encoder and the bridge see: the data shown is the data given."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from minemu.data.world import ToyWorld
from minemu.errors import MinemuError
from minemu.figures.bridge import show_cells, show_queries
from minemu.figures.vision import patch_box, show_maps, show_neighbours, show_patches, spotlight

SIZE, GRID = 32, 4


@pytest.fixture(scope="module")
def pictures():
    return np.stack([ToyWorld(image_size=SIZE).sample(i).pixels for i in range(3)])


def drawn(figure):
    """How many colours the figure has when Agg draws it."""
    assert isinstance(figure, Figure)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return len(np.unique(np.asarray(canvas.buffer_rgba()).view(np.uint32)))


def shown(figure):
    return [image.get_array() for image in figure.axes[0].images]


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_patches_are_those_of_the_picture_in_reading_order(pictures):
    figure = show_patches(pictures[0], 8)
    whole, *patches = shown(figure)
    assert np.array_equal(whole, pictures[0]) and len(patches) == GRID**2
    for number, patch in enumerate(patches):
        x0, y0, x1, y1 = map(int, patch_box(number, GRID, SIZE))
        assert np.array_equal(patch, pictures[0][y0:y1, x0:x1])
    assert [str(number) for number in range(17)] == [text for text in texts(figure) if text.isdigit()]
    assert drawn(figure) > 50
    with pytest.raises(MinemuError, match="no grid of 7-pixel patches; give a square one"):
        show_patches(pictures[0], 7)


def test_the_spotlight_leaves_grey_and_adds_orange(pictures):
    weights = np.zeros((GRID, GRID))
    weights[1, 2] = 1
    lit = spotlight(pictures[0], weights).astype(int)
    x0, y0, x1, y1 = map(int, patch_box(6, GRID, SIZE))
    orange = np.ptp(lit, axis=-1) > 60
    assert orange[y0:y1, x0:x1].all() and orange.sum() == 64
    dark = np.ones_like(orange)
    dark[y0:y1, x0:x1] = False
    assert (np.ptp(lit, axis=-1)[dark] == 0).all()
    with pytest.raises(MinemuError, match="do not tile a picture 32 pixels wide"):
        spotlight(pictures[0], np.zeros((5, 5)))


def test_maps_are_scaled_each_to_its_own_largest_weight(pictures):
    maps = torch.rand(3, 2, GRID, GRID)
    marks = [[patch_box(0, GRID, SIZE), None]] * 3
    figure = show_maps(pictures, maps, ["a", "b", "c"], ["one", "two"], marks)
    images = shown(figure)
    for row in range(3):
        picture, *lit = images[3 * row : 3 * row + 3]
        assert np.array_equal(picture, pictures[row])
        for column in range(2):
            weights = maps[row, column] / maps[row, column].max()
            assert np.array_equal(lit[column], spotlight(pictures[row], weights.numpy()))
    assert sum(isinstance(patch, Rectangle) for patch in figure.axes[0].patches) == 2 * 3  # white below black
    assert {"a", "b", "c", "one", "two", "picture"} == set(texts(figure)) and drawn(figure) > 50
    with pytest.raises(MinemuError, match=r"maps of shape \(3, 2, 4, 4\) do not fit"):
        show_maps(pictures, maps, ["a", "b", "c"], ["one"])


def test_neighbours_are_marked_where_they_share_a_name(pictures):
    names = [{"dog"}, {"dog", "cat"}, {"cat"}]
    figure = show_neighbours(list(pictures), names, [0], torch.tensor([[1, 2]]))
    for image, number in zip(shown(figure), (0, 1, 2), strict=True):
        assert np.array_equal(image, pictures[number])
    assert len(figure.axes[0].lines) == 1 and "cat, dog" in texts(figure) and drawn(figure) > 50
    with pytest.raises(MinemuError, match="2 queries with 1 rows of neighbours; give one for each"):
        show_neighbours(list(pictures), names, [0, 1], torch.tensor([[1, 2]]))


def test_queries_stand_beside_their_mask(pictures):
    maps, allowed = torch.rand(4, GRID, GRID), torch.ones(4, 4, dtype=torch.bool).tril()
    figure = show_queries(pictures[0], allowed, maps)
    picture, *lit = shown(figure)
    assert np.array_equal(picture, pictures[0])
    for image, weights in zip(lit, maps, strict=True):
        assert np.array_equal(image, spotlight(pictures[0], (weights / weights.max()).numpy()))
    squares = [patch.get_facecolor() for patch in figure.axes[0].patches]
    filled = [colour == squares[0] for colour in squares]  # the first embedding may look at itself
    assert filled == allowed.flatten().tolist() and drawn(figure) > 50
    with pytest.raises(MinemuError, match=r"give \(N, N\) and \(N, G, G\)"):
        show_queries(pictures[0], allowed[:3], maps)


def test_cells_show_the_mean_colour_in_reading_order(pictures):
    figure = show_cells(pictures[0], GRID, 2)
    picture, means = shown(figure)
    assert np.array_equal(picture, pictures[0])
    assert np.abs(means[1, 0] - pictures[0][16:, :16].mean((0, 1))).max() <= 0.5
    assert [text for text in texts(figure) if text.isdigit()] == ["1", "2", "3", "4"] and drawn(figure) > 50
    with pytest.raises(MinemuError, match="4 x 4 patches do not pool to 3 x 3 cells; use a divisor of 4"):
        show_cells(pictures[0], GRID, 3)
