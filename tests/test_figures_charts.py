"""The charts that many notebooks need show the values that they were given, each line in a style of its own."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from minemu.errors import MinemuError
from minemu.figures.charts import SERIES, add_curves, charts, rule, show_curves, show_matrices


def drawn(figure):
    """How many colours the figure has when Agg draws it."""
    assert isinstance(figure, Figure)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return len(np.unique(np.asarray(canvas.buffer_rgba()).view(np.uint32)))


def test_charts_stand_in_a_grid_row_by_row():
    figure, found = charts(300, 200, columns=3, rows=2)
    places = [(axes.get_subplotspec().rowspan.start, axes.get_subplotspec().colspan.start) for axes in found]
    assert places == [(row, column) for row in range(2) for column in range(3)]
    assert figure.get_size_inches().tolist() == pytest.approx([300 / 72, 200 / 72])


def test_no_two_lines_look_alike():
    figure, (axes,) = charts(300, 200)
    add_curves(axes, [1, 2], {f"{i}": torch.tensor([i, i + 1.0], requires_grad=True) for i in range(5)}, marked=True)
    for styles in zip(*((a.get_color(), str(a.get_linestyle()), a.get_marker()) for a in axes.lines), strict=True):
        assert len(set(styles)) >= 4  # matplotlib calls both lists of dashes "--"
    assert len({*map(repr, SERIES)}) == 5 and drawn(figure) > 10
    with pytest.raises(MinemuError, match="6 curves do not fit in one chart; give 1 to 5"):
        add_curves(axes, [1], {str(i): [i] for i in range(6)})
    with pytest.raises(MinemuError, match=r"'a' has values of shape \(2, 2\) for 2 places"):
        add_curves(axes, [1, 2], {"a": torch.zeros(2, 2)})


def test_a_rule_lies_where_it_was_asked_for():
    _, (axes,) = charts(300, 200)
    rule(axes, 0.25, "chance")
    assert set(axes.lines[0].get_ydata()) == {0.25} and axes.texts[0].get_text() == "chance"


def test_curves_are_what_was_given():
    figure = show_curves({"a": {"x": [1.0, 2.0], "y": [3.0, 4.0]}, "b": {"z": [5.0, 6.0]}}, at=[10, 20], log=True)
    shown = [(axes.get_title("left"), [list(line.get_ydata()) for line in axes.lines]) for axes in figure.axes]
    assert shown == [("a", [[1.0, 2.0], [3.0, 4.0]]), ("b", [[5.0, 6.0]])]
    assert all(list(line.get_xdata()) == [10, 20] for axes in figure.axes for line in axes.lines)
    assert all(axes.get_yscale() == "log" for axes in figure.axes) and drawn(figure) > 10


def test_levels_are_named_beside_the_curves():
    figure = show_curves({"loss": {"a": [3, 1, 2], "b": [1, 1, 1]}}, x="block", levels={"chance": 3.5})
    axes = figure.axes[0]
    a, b, level = axes.lines
    assert a.get_linestyle() != b.get_linestyle() and a.get_xdata().tolist() == [0, 1, 2]
    assert set(level.get_ydata()) == {3.5} and [text.get_text() for text in axes.texts] == ["chance"]
    assert axes.get_xlabel() == "block" and axes.get_ylim()[0] == 0 and axes.get_ylim()[1] > 3.5


def test_curves_have_to_fit():
    with pytest.raises(MinemuError, match="no curve to show; give at least one"):
        show_curves({"a": {}})
    with pytest.raises(MinemuError, match="for 3 places on the x axis; give one for each"):
        show_curves({"a": {"x": [1.0, 2.0]}}, at=[1, 2, 3])


@pytest.mark.parametrize("shared", [True, False])
def test_matrices_show_the_values_given(shared):
    small, large = torch.tensor([[0.5, -torch.inf], [-1.0, 0.0]]), torch.full((2, 3), 4.0)
    figure = show_matrices({"small": small, "large": large}, "column", "row", shared=shared, signed=True)
    first, second = (axes.images[0] for axes in figure.axes)
    assert np.array_equal(np.ma.filled(first.get_array(), -np.inf), small.numpy())
    assert first.get_clim() == ((-4, 4) if shared else (-1, 1)) and second.get_clim() == (-4, 4)
    assert [axes.get_title() for axes in figure.axes] == ["small", "large"] and drawn(figure) > 10


def test_rows_and_columns_of_one_name_share_it():
    figure = show_matrices({"a": torch.eye(3), "b": torch.eye(3)}, "column", "row", names=["blue", "blue", "gray"])
    first, second = figure.axes
    assert first.get_xticks().tolist() == [0.5, 2] and len(first.lines) == 2
    for axes, down in ((first, ["blue", "gray"]), (second, ["", ""])):
        assert [label.get_text() for label in axes.get_xticklabels()] == ["blue", "gray"]
        assert [label.get_text() for label in axes.get_yticklabels()] == down
    with pytest.raises(MinemuError, match="3 names do not fit a matrix of 2 rows and 2 columns"):
        show_matrices({"a": torch.eye(2)}, "column", "row", names=["a", "b", "c"])


def test_what_is_no_matrix_is_refused():
    with pytest.raises(MinemuError, match="no matrix to show; give at least one"):
        show_matrices({}, "a", "b")
    with pytest.raises(MinemuError, match=r"'heads' has shape \(1, 2, 2\); give a matrix"):
        show_matrices({"heads": torch.zeros(1, 2, 2)}, "a", "b")
    with pytest.raises(MinemuError, match="no entry of 'x' is a finite number"):
        show_matrices({"x": torch.full((2, 2), -torch.inf)}, "a", "b")
