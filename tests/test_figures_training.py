"""Figures of pretraining show what is in documents, batches and logs, and refuse what they cannot show."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from minemu.errors import MinemuError
from minemu.figures.mixture import KINDS, kinds_of, show_documents, show_mixture, show_rows
from minemu.figures.training import (
    cost_of,
    series,
    show_losses,
    show_progress,
    show_schedule,
    show_stages,
    show_targets,
)
from minemu.sequence import TokenIds

IDS = TokenIds(bos=1, eos=2, pad=8, image_start=9, image_end=10, image=11)
PIXELS = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
LOG = [{"step": 2 * i, "loss": 4.0 / i, "text_loss": 3.0 / i, "seconds": 0.5, "peak_gb": 1.5} for i in range(1, 6)]


def drawn(figure):
    assert isinstance(figure, Figure)
    FigureCanvasAgg(figure).draw()
    return figure


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_documents_are_shown_piece_by_piece():
    figure = drawn(show_documents({"scenes": [PIXELS, "a llama"], "clips": [*[PIXELS] * 8, "it moves", PIXELS]}))
    pictures = figure.axes[0].images
    assert len(pictures) == 10 and np.array_equal(np.asarray(pictures[0].get_array()), PIXELS)
    assert {"scenes", "clips", "a llama", "it moves"} <= set(texts(figure))
    for picture in pictures:
        left, right, *_ = picture.get_extent()
        assert 0 <= left < right <= 760
    with pytest.raises(MinemuError, match="no document to show"):
        show_documents({})


def test_the_mixture_is_shown_in_blocks():
    places = [("labels", 0), ("scenes", 0), ("scenes", 1), ("labels", 1), ("scenes", 2), ("scenes", 3)]
    figure = drawn(show_mixture(places, 3))
    shown = texts(figure)
    assert shown.count("sc") == 4 and shown.count("la") == 2 and "0 to 2" in shown and "3 to 5" in shown
    assert sum(isinstance(patch, Rectangle) for patch in figure.axes[0].patches) == 6 + 2  # a legend
    for wrong in (([("lables", 0)], 3), ([], 3), (places, 0)):
        with pytest.raises(MinemuError, match="give places of the sources labels"):
            show_mixture(*wrong)


def test_rows_are_coloured_by_what_stands_there():
    ids = torch.tensor([[1, 5, 9, 11, 11, 10, 2, 8], [1, 5, 6, 7, 2, 8, 8, 8]])
    kinds = [list(KINDS)[k] for k in kinds_of(ids, IDS)[0]]
    embeddings = ["visual embedding"] * 2
    assert kinds == ["structure", "word", "structure", *embeddings, "structure", "structure", "padding"]
    figure = drawn(show_rows({"a row each": ids, "packed": ids[:1]}, IDS))
    assert [image.get_array().shape[:2] for image in figure.axes[0].images] == [(2, 8), (1, 8)]
    assert "a row each: 2 x 8" in texts(figure)
    with pytest.raises(MinemuError, match="of shape"):
        show_rows({"flat": ids[0]}, IDS)


def test_schedules_and_losses_are_the_given_numbers():
    figure = drawn(show_schedule({"paper": {"LLM": [0.1, 0.2], "ViT": [0.3, 0.1]}, "here": {"LLM": [1.0]}}))
    assert [list(line.get_ydata()) for line in figure.axes[0].lines] == [[0.1, 0.2], [0.3, 0.1]]
    other = [{**entry, "loss": entry["loss"] + 1} for entry in LOG]
    figure = drawn(show_losses([LOG, other], ["loss", "text_loss"], long=LOG))
    runs = figure.axes[0].lines
    assert len(runs) == 3 and list(runs[1].get_ydata()) == [entry["loss"] for entry in other]
    assert len(figure.axes[0].collections) == 1 and figure.axes[1].get_title(loc="left") == "text loss"
    assert len(drawn(show_losses([LOG], ["loss"])).axes[0].lines) == 1
    (mean,) = drawn(show_losses([LOG], ["loss"], window=2)).axes[0].lines
    assert list(mean.get_xdata()) == [3, 7] and mean.get_ydata()[0] == (LOG[0]["loss"] + LOG[1]["loss"]) / 2
    for wrong in (
        lambda: show_losses([LOG], ["loss"], window=9),
        lambda: show_schedule({}),
        lambda: show_losses([], ["loss"]),
        lambda: series(LOG, "image_loss"),
    ):
        with pytest.raises(MinemuError):
            wrong()


def test_each_stage_has_its_panel_and_what_it_cost():
    assert cost_of(LOG) == "10 steps, 0 min, 1.5 GB"
    figure = drawn(show_stages({"encoder": LOG, "bridge": LOG, "language": LOG, "emu": LOG}))
    assert [axes.get_title(loc="left") for axes in figure.axes][:4] == ["encoder", "bridge", "language", "emu"]
    assert list(figure.axes[3].lines[0].get_ydata()) == [entry["loss"] for entry in LOG]
    with pytest.raises(MinemuError, match="no log to show"):
        show_stages({})


def test_targets_have_a_line_and_a_bar_each():
    log = [{"step": i, "image_loss": 1.0 / i} for i in (1, 2, 3, 4)]
    figure = drawn(show_targets({"frozen": log, "free": log}, {"frozen": 0.5, "free": 0.1}, window=2))
    assert [list(line.get_xdata()) for line in figure.axes[0].lines] == [[1.5, 3.5]] * 2
    assert [bar.get_width() for bar in figure.axes[1].patches] == [0.5, 0.1]
    with pytest.raises(MinemuError, match="the same runs twice"):
        show_targets({"frozen": log}, {"free": 0.1})


def test_progress_has_a_text_under_each_picture():
    pictures = [Image.fromarray(PIXELS)] * 2
    figure = drawn(show_progress(pictures, {"step 0": ["", "a fox"], "true": ["a llama", "a fox"]}))
    assert len(figure.axes[0].images) == 2 and texts(figure).count("a fox") == 2 and "(nothing)" in texts(figure)
    with pytest.raises(MinemuError, match="2 texts"):
        show_progress(pictures, {"step 0": ["a fox"]})
