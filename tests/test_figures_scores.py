"""Figures of scores: they show the numbers they were given, and refuse what does not fit."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from minemu.ablations import MEASURES, QUESTIONS
from minemu.errors import MinemuError
from minemu.evaluation.published import PUBLISHED, PUBLISHED_ABLATIONS, TUNED, published_ablations, published_table
from minemu.evaluation.tasks import TASKS
from minemu.figures.scores import (
    Score,
    show_bars,
    show_coverage,
    show_differences,
    show_frechet,
    show_intervals,
    show_matrix,
    show_scores,
)


def painted(figure):
    """A figure that also draws without complaint."""
    assert isinstance(figure, Figure)
    FigureCanvasAgg(figure).draw()
    return figure


def lines(axes):
    return {line.get_label(): np.asarray(line.get_ydata(), dtype=float) for line in axes.lines}


def test_intervals_are_both_ends():
    figure = painted(show_intervals([10, 100], {"half": [(0.2, 0.8), (0.4, 0.6)]}))
    low, high = (line.get_ydata() for line in figure.axes[0].lines)
    np.testing.assert_allclose(low, [0.2, 0.4])
    np.testing.assert_allclose(high, [0.8, 0.6])
    with pytest.raises(MinemuError):
        show_intervals([10, 100], {"half": [(0.2, 0.8)]})


def test_coverage_stands_beside_what_is_promised():
    shown = lines(painted(show_coverage([0.1, 0.5], {"Wilson": [0.9, 0.96]}, wanted=0.9)).axes[0])
    np.testing.assert_allclose(shown["Wilson"], [0.9, 0.96])
    np.testing.assert_allclose(shown["promised: 90%"], 0.9)
    with pytest.raises(MinemuError):
        show_coverage([0.1, 0.5], {"Wilson": [0.9]})


def test_scores_show_all_that_stands_beside_them():
    scores = [Score("known", 0.6, (0.5, 0.7), 0.1, 0.2, 0.9), Score("bare", 0.3, (0.2, 0.4), 0.05)]
    axes = painted(show_scores(scores)).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.6, 0.3]
    shown = {line.get_label(): list(line.get_xdata()) for line in axes.lines if line.get_label()}
    assert shown["95 % interval"] == [0.5, 0.7] and shown["chance"] == [0.1]
    assert shown["blind"] == [0.2] and shown["upper bound"] == [0.9]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["known", "bare"]
    with pytest.raises(MinemuError):
        show_scores([])


def test_bars_are_as_high_as_the_values():
    axes = painted(show_bars(["a", "b"], {"one": [0.1, 0.2], "two": [0.3, 0.4]}, "rate", [0.5, 0.5])).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [0.1, 0.2, 0.3, 0.4]
    assert len(axes.lines) == 2
    with pytest.raises(MinemuError):
        show_bars(["a", "b"], {"one": [0.1]}, "rate")
    with pytest.raises(MinemuError):
        show_bars(["a", "b"], {"one": [0.1, 0.2]}, "rate", [0.5])


def test_bars_have_the_intervals_of_their_own_series():
    series, ends = {"one": [0.1, 0.2], "two": [0.3, 0.4]}, [(0.2, 0.4), (0.3, 0.5)]
    axes = painted(show_bars(["a", "b"], series, "rate", interval={"two": ends})).axes[0]
    bars = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches[2:]]
    assert [line.get_xdata()[0] for line in axes.lines] == pytest.approx(bars)
    assert [tuple(line.get_ydata()) for line in axes.lines] == ends
    for wrong in ({"two": ends[:1]}, {"three": ends}):
        with pytest.raises(MinemuError):
            show_bars(["a", "b"], series, "rate", interval=wrong)


def test_matrix_writes_its_numbers():
    values = torch.tensor([[1.0, 0.25], [0.25, 0.9]])
    axes = painted(show_matrix(values, ["a", "b"])).axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), values)
    assert [text.get_text() for text in axes.texts] == ["1.00", ".25", ".25", ".90"]
    with pytest.raises(MinemuError):
        show_matrix(values, ["a"])


def test_frechet_is_the_curve():
    shown = lines(painted(show_frechet([10, 100], {"16 features": [2.0, 0.5]})).axes[0])
    np.testing.assert_allclose(shown["16 features"], [2.0, 0.5])
    with pytest.raises(MinemuError):
        show_frechet([10, 100], {"16 features": [2.0]})


def test_published_scores_name_a_source_and_a_task():
    for one in PUBLISHED:
        assert one.source and float(one.value) > 0 and one.task in TASKS
    assert published_table().count("\n") == len(PUBLISHED) + 1
    seen = {
        "task": "few-shot-vqa",
        "split": "seen",
        "score": 0.9,
        "chance": 0.2,
        "blind": 0.25,
        "upper_bound": 1.0,
        "details": {"shots": 4},
    }
    others = [{**seen, "split": "new-drawing", "score": 0.5}, {**seen, "score": 0.6, "details": {"shots": 8}}]
    assert "`few-shot-vqa`: 90.0% (chance 20.0%, blind 25.0%, upper bound 100.0%) |" in published_table([seen, *others])


def test_tuned_models_have_the_adapters_scores_beside_them():
    result = {"task": "vqa", "split": "seen", "chance": 0.2, "blind": 0.25, "upper_bound": 1.0, "details": {}}
    rows = published_table([{**result, "score": 0.9}], [{**result, "score": 0.7}]).splitlines()
    for one, row in zip(PUBLISHED, rows[2:], strict=True):
        if one.task == "vqa":
            assert ("`vqa`: 70.0% (chance" if one.model in TUNED else "`vqa`: 90.0% (chance") in row


def test_published_ablations_name_a_source_a_question_and_a_measure():
    for one in PUBLISHED_ABLATIONS:
        assert one.source and one.question in QUESTIONS and one.here in ("", *MEASURES)
        assert float(one.without) < float(one.with_it)
    asked = [one for one in PUBLISHED_ABLATIONS if one.question == "video"]
    assert published_ablations("video").count("\n") == len(asked) + 1


def test_differences_are_drawn_with_their_intervals_beside_zero():
    axes = painted(show_differences({"none": [-1.0, 1.0, 0.0, 0.0], "less": [-1.0, -1.1, -0.9, -1.0]}, "loss")).axes[0]
    (none, _), (less, _) = (lines_of(axes, y) for y in (0, 1))
    assert none[0] < 0 < none[1] and less[1] < 0
    assert [text.get_text() for text in axes.get_yticklabels()] == ["none", "less"]
    for wrong in ({}, {"one": [1.0]}):
        with pytest.raises(MinemuError):
            show_differences(wrong, "loss")


def lines_of(axes, y):
    return [line.get_xdata() for line in axes.lines if set(line.get_ydata()) == {y}]
