"""Training: learning rates, losses and what a model says as it learns.

show_schedule   learning rates against the step
show_losses     a few short runs, their spread, and the log of a long one
show_targets    what happens to the image loss and to its targets
show_stages     the loss of every stage of a recipe
show_progress   what a model says of the same pictures after more and more steps
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from minemu.drawing import FAINT, INK, LINE, REGRESSES, SAYS, STYLE, add_picture, canvas, drawable
from minemu.errors import MinemuError
from minemu.figures.charts import SERIES, charts, label, legend

Log = Sequence[Mapping[str, float]]  # the entries of a log.jsonl


def show_schedule(panels: Mapping[str, Mapping[str, Sequence[float]]], width: float = 760) -> Figure:
    """In each panel, lines by name: the learning rate of step 0, 1, 2, ..."""
    if not panels or not all(panels.values()):
        raise MinemuError("give each panel at least one line of learning rates")
    figure, found = charts(width, 230, len(panels))
    for axes, (title, lines) in zip(found, panels.items(), strict=True):
        for (name, rates), (colour, dashes, _) in zip(lines.items(), SERIES, strict=False):
            axes.plot(rates, color=colour, ls=dashes, lw=1.8, label=name)
        label(axes, "step", "learning rate", title)
        axes.set_ylim(0, axes.get_ylim()[1] * 1.4)  # room for the legend above the peaks
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        axes.yaxis.get_offset_text().set_size(8)
        legend(axes, loc="upper right", handlelength=2.8)
    return figure


def series(log: Log, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of `name` in a log."""
    entries = [entry for entry in log if name in entry]
    if not entries:
        raise MinemuError(f"no entry of the log has '{name}'; read the log of another stage")
    return np.array([entry["step"] for entry in entries]), np.array([entry[name] for entry in entries])


def averaged(values: np.ndarray, window: int) -> np.ndarray:
    """Means of `window` entries after one another; an incomplete last window is left out."""
    whole = len(values) // window * window
    return values[:whole].reshape(-1, window).mean(1)


def show_losses(
    runs: Sequence[Log],
    names: Sequence[str],
    long: Log = (),
    run: str = "a run here",
    window: int = 1,
    width: float = 760,
) -> Figure:
    """A panel a loss: each short run as a thin line, their range as a band, and a long run's log beside them. Steps on a log axis.

    Each point of a short run is the mean of `window` entries of its log.
    """
    if not runs or not names or min(map(len, runs)) < window:
        raise MinemuError(f"give at least one run with {window} entries, and the name of one of its losses")
    figure, found = charts(width, 250, len(names))
    for axes, name in zip(found, names, strict=True):
        values = np.stack([averaged(series(log, name)[1], window) for log in runs])  # (runs, points)
        steps = averaged(series(runs[0], name)[0], window)
        if len(runs) > 1:
            low, high = values.min(0), values.max(0)
            axes.fill_between(steps, low, high, color=SAYS, alpha=0.2, lw=0, label=f"range of {len(runs)} seeds")
        for number, line in enumerate(values):
            axes.plot(steps, line, color=SAYS, lw=1.0, label=run if number == 0 else None)
        if any(name in entry for entry in long):
            axes.plot(*series(long, name), color=REGRESSES, ls="--", lw=1.4, label="the shipped run")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda step, _: f"{step:g}")
        axes.xaxis.set_minor_formatter(lambda step, _: "")
        axes.set_xlim(left=min(1.0, steps.min()) if window == 1 else steps.min() * 0.8)
        axes.set_ylim(0, axes.get_ylim()[1] * 1.1)
        label(axes, "step", title=name.replace("_", " "))
        legend(axes, handlelength=2.8)
    return figure


def show_targets(runs: Mapping[str, Log], apart: Mapping[str, float], window: int = 1, width: float = 760) -> Figure:
    """The image loss of each run, and beside it how far the embeddings of different pictures are apart in each."""
    if not runs or runs.keys() != apart.keys():
        raise MinemuError("give the same runs twice: their logs, and how far their embeddings are apart")
    figure, (left, right) = charts(width, 220, 2)
    for (name, log), (colour, dashes, _) in zip(runs.items(), SERIES, strict=False):
        steps, losses = (averaged(values, window) for values in series(log, "image_loss"))
        left.plot(steps, losses, color=colour, ls=dashes, lw=1.6, label=name)
    left.set_ylim(bottom=0)
    label(left, "step", title="image loss")
    legend(left, handlelength=2.8)
    right.barh(list(apart), list(apart.values()), color=[colour for colour, *_ in SERIES[: len(apart)]], height=0.5)
    right.bar_label(right.containers[0], fmt="%.2g", padding=4, fontsize=8, color=INK)
    right.set_xlim(0, max(apart.values()) * 1.15)
    right.invert_yaxis()
    label(right, "standard deviation over pictures, as a share of their size", title="how far embeddings are apart")
    return figure


def show_stages(logs: Mapping[str, Log], columns: int = 3, width: float = 760) -> Figure:
    """The loss of each stage, with its steps, time and peak memory beside it."""
    if not logs:
        raise MinemuError("there is no log to show; a checkpoint keeps those of its stages in its folder training/")
    rows = -(-len(logs) // columns)
    figure, found = charts(width, 160 * rows, columns, rows)
    for axes, (stage, log) in zip(found, logs.items(), strict=False):
        steps, losses = series(log, "loss")
        axes.plot(steps, losses, color=SAYS, lw=1.3)
        axes.set_ylim(bottom=0)
        label(axes, "step", "loss", stage)
        axes.set_title(cost_of(log), loc="right", color=FAINT, size=8)  # above the axes, where no line runs
    for axes in found[len(logs) :]:
        axes.set_axis_off()
    return figure


def cost_of(log: Log) -> str:
    """What a stage took, by its log: steps, hours, memory."""
    steps = int(log[-1]["step"])
    hours = float(np.mean([entry["seconds"] for entry in log])) * steps / 3600
    time = f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.0f} min"
    return f"{steps} steps, {time}, {max(entry['peak_gb'] for entry in log):.1f} GB"


def show_progress(pictures: Sequence[Image.Image], said: Mapping[str, Sequence[str]], width: float = 760) -> Figure:
    """Pictures in a line; below them, a row a name, what was said of each."""
    if not pictures or any(len(texts) != len(pictures) for texts in said.values()):
        raise MinemuError(f"give each row {len(pictures)} texts, one a picture")
    left, side = 100.0, 84.0
    column = (width - left - 12) / len(pictures)
    letters = int((column - 10) / 4.5)
    cells = {
        name: [textwrap.fill(drawable(" ".join(text.split())) or "(nothing)", letters) for text in texts]
        for name, texts in said.items()
    }
    heights = {name: max(text.count("\n") + 1 for text in texts) * 11.5 + 12 for name, texts in cells.items()}
    with rc_context(STYLE):
        figure, axes = canvas(width, 24 + side + sum(heights.values()))
        for number, picture in enumerate(pictures):
            add_picture(axes, np.asarray(picture.convert("RGB")), left + number * column, 10, side)
        y = side + 18
        for name, texts in cells.items():
            axes.plot([12, width - 12], [y, y], color=LINE, lw=0.5)
            axes.text(12, y + 6, name, weight="bold", va="top")
            for number, text in enumerate(texts):
                axes.text(left + number * column, y + 6, text, va="top", linespacing=1.2)
            y += heights[name]
    return figure
