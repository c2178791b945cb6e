"""Figures of what a model can do: they show the given pictures, words and verdicts, and refuse what cannot be shown."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from minemu.drawing import REGRESSES, SAYS
from minemu.errors import MinemuError
from minemu.evaluation.metrics import wilson
from minemu.figures.abilities import (
    Answer,
    Asked,
    Blended,
    Card,
    Rate,
    show_blends,
    show_document,
    show_gallery,
    show_questions,
    show_rates,
    show_shots,
)

COLOURS = ("red", "green", "blue", "white", "gray", "black", "orange", "purple")
PICTURES = [Image.new("RGB", (16, 16), colour) for colour in COLOURS]


def texts(figure):
    return [text.get_text().replace("\u00a0", " ") for text in figure.axes[0].texts]


def shown(figure):
    """The pictures in a figure, in the order in which they were drawn."""
    return [np.asarray(image.get_array()) for image in figure.axes[0].images]


def same_pictures(figure, pictures):
    found = shown(figure)
    assert len(found) == len(pictures)
    for mine, wanted in zip(found, pictures, strict=True):
        assert np.array_equal(mine, np.asarray(wanted))


def nothing_is_cut(figure):
    """All texts lie inside of the figure when Agg draws it."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    whole = figure.bbox
    for axes in figure.axes:
        for text in axes.texts:
            box = text.get_window_extent(canvas.get_renderer())
            assert box.x0 >= whole.x0 - 1 and box.x1 <= whole.x1 + 1, text.get_text()
            assert box.y0 >= whole.y0 - 1 and box.y1 <= whole.y1 + 1, text.get_text()


def test_a_gallery_shows_pictures_words_and_verdicts():
    cards = [
        Card(PICTURES[0], "a llama on a green background, Noto style", "text", True),
        Card(PICTURES[1], "a fox", "picture", False, "the judge: dog"),
        Card(PICTURES[2], "a dog"),
    ]
    figure = show_gallery([cards, [Card(picture, "") for picture in PICTURES[:2]]], ["read", "drawn"])
    same_pictures(figure, [*PICTURES[:3], *PICTURES[:2]])
    written = texts(figure)
    assert {"read", "drawn", "a fox \u2717", "the judge: dog"} <= set(written)
    assert any(text.endswith("\u2713") for text in written)
    assert "a dog" in written  # no mark where nothing was judged
    frames = [patch for patch in figure.axes[0].patches if patch.get_linewidth() > 2]
    assert len(frames) == 1  # only one picture was made by the model
    nothing_is_cut(figure)


def test_questions_stand_beside_their_pictures():
    answers = (Answer("its picture", "left", True), Answer("another picture", "right", False))
    asked = [Asked((picture,), f"where is number {k}?", "left", answers) for k, picture in enumerate(PICTURES[:5])]
    figure = show_questions(asked)
    same_pictures(figure, PICTURES[:5])
    written = texts(figure)
    assert sum(text == "left \u2713" for text in written) == sum(text == "right \u2717" for text in written) == 5
    assert {f"where is number {k}?" for k in range(5)} <= set(written)
    right = next(text for text in figure.axes[0].texts if "\u2713" in text.get_text())
    wrong = next(text for text in figure.axes[0].texts if "\u2717" in text.get_text())
    assert (right.get_color(), wrong.get_color()) == (SAYS, REGRESSES)
    nothing_is_cut(figure)


def test_a_clip_shows_all_its_frames():
    long = " and on" * 60
    figure = show_questions([Asked(tuple(PICTURES), "what changes?", "nothing", (Answer("eight frames", long),))])
    same_pictures(figure, PICTURES)
    assert any(text.rstrip().endswith("...") for text in texts(figure))
    nothing_is_cut(figure)


def test_other_pictures_stand_beside_the_own_one_or_below_the_frames():
    answers = (Answer("its own", "left", True),)
    figure = show_questions([Asked((PICTURES[0],), "where?", "left", answers, (PICTURES[1],))] * 2)
    same_pictures(figure, PICTURES[:2] * 2)
    nothing_is_cut(figure)
    figure = show_questions([Asked(tuple(PICTURES[:4]), "what changes?", "nothing", answers, tuple(PICTURES[4:8]))])
    same_pictures(figure, PICTURES[:8])
    nothing_is_cut(figure)


def test_empty_columns_of_a_gallery_are_cut_off():
    one, full = (show_gallery([[Card(picture, "a fox") for picture in PICTURES[:k]]]) for k in (1, 6))
    assert one.get_figwidth() < full.get_figwidth() / 4
    nothing_is_cut(one)
    named = show_gallery([[Card(PICTURES[0], "a fox")]], ["a long title " * 4])
    assert one.get_figwidth() < named.get_figwidth() < full.get_figwidth()
    nothing_is_cut(named)


def test_a_document_tells_what_was_given_from_what_was_made():
    given = ["this is a dax.", PICTURES[0], "a very long text " * 20, *PICTURES[1:6]]
    made = [PICTURES[6], "a wug"]
    figure = show_document(given, made)
    same_pictures(figure, PICTURES[:7])
    colours = {text.get_text(): text.get_color() for text in figure.axes[0].texts}
    assert colours["a wug"] == SAYS != colours["this is a dax."]
    assert "made by the model" in colours
    assert "made by the model" not in texts(show_document(given))
    nothing_is_cut(figure)


def test_bars_of_a_blend_are_as_long_as_its_cosines():
    near = {"the first": 0.75, "the second": 0.5, "the artist's": 0.25}
    figure = show_blends([Blended(*PICTURES[:4], near, dict.fromkeys(near, 0.1))] * 2)
    same_pictures(figure, PICTURES[:4] * 2)
    bars = [patch.get_width() for patch in figure.axes[0].patches if patch.get_alpha() == 0.7]
    assert np.allclose(np.array(bars) / bars[0], np.array([0.75, 0.5, 0.25] * 2) / 0.75)
    assert {"0.75", "0.50", "0.25"} <= set(texts(figure))
    nothing_is_cut(figure)


def test_rates_are_drawn_with_interval_chance_and_blind():
    right = [True] * 6 + [False] * 2
    figure = show_rates([Rate("one", right, 0.25, [True] + [False] * 7), Rate("two", [False] * 4, 0.5)])
    (axes,) = figure.axes
    lines = [np.asarray(line.get_xdata(), float).ravel() for line in axes.lines]
    assert np.allclose(lines[0], [100 * end for end in wilson(right)])
    assert [float(line[0]) for line in lines[1:3]] == [75.0, 25.0]
    assert lines[-1].tolist() == [12.5]  # blind, of the only one that has it
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one  (n = 8)", "two  (n = 4)"]
    nothing_is_cut(figure)


def test_shots_are_drawn_as_they_are():
    curves = {"prompt": [[True, False], [True, True]], "probe": [[False, False], [True, False]]}
    (axes,) = show_shots((1, 4), curves, chance=0.5).axes
    heights = [list(map(float, line.get_ydata())) for line in axes.lines]
    assert heights[:2] == [[50.0, 100.0], [0.0, 50.0]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "4"]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: show_gallery([[]]), "no picture to show"),
        (lambda: show_gallery([[Card(PICTURES[0], "")]], ["a", "b"]), "1 rows but 2 titles"),
        (lambda: show_gallery([[Card(PICTURES[0], "")] * 7]), "7 cards does not fit in 6 columns"),
        (lambda: show_questions([]), "no question to show"),
        (lambda: show_document([]), "no piece to show"),
        (lambda: show_blends([]), "no blend to show"),
        (lambda: show_rates([]), "no rate to show"),
        (lambda: show_shots((1, 2), {"a": [[True]]}, 0.5), "'a' has 1 values for 2 places"),
    ],
)
def test_what_cannot_be_shown_is_refused(draw, message):
    with pytest.raises(MinemuError, match=message):
        draw()
