"""Lines over steps or positions, told apart by colour and by dashes.

show_curves   one panel, or several side by side
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from minemu.drawing import FAINT, LINE, POINTS, STYLE
from minemu.errors import MinemuError

COLOURS = ("#2563c9", "#d9730d", "#1f2933", "#0e9384")
DASHES = ("-", (0, (5, 2)), (0, (1.2, 1.4)), (0, (6, 2, 1.2, 2)))
Curves = Mapping[str, Sequence[float]]


def show_curves(
    panels: Mapping[str, Curves], x: str = "step", log: bool = False, at: Sequence[float] | None = None
) -> Figure:
    """`panels` name -> curves, curve name -> values. `at` are the places of the values on the x axis, else 0, 1, 2, ..."""
    if not panels or not all(panels.values()):
        raise MinemuError("there is no curve to show; give at least one in each panel")
    longest = max(len(values) for curves in panels.values() for values in curves.values())
    at = list(range(longest)) if at is None else list(at)
    if any(len(values) != len(at) for curves in panels.values() for values in curves.values()):
        raise MinemuError(f"the curves do not all have {len(at)} values; give one for each place on the x axis")
    width = 760 if len(panels) > 1 else 520
    with rc_context({**STYLE, "axes.edgecolor": LINE, "xtick.color": FAINT, "ytick.color": FAINT}):
        figure = Figure(figsize=(width / POINTS, 250 / POINTS), dpi=110, facecolor="white", layout="constrained")
        for axes, (title, curves) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            _panel(axes, title, curves, at, x, log)
    return figure


def _panel(axes: Axes, title: str, curves: Curves, at: Sequence[float], x: str, log: bool) -> None:
    for index, (name, values) in enumerate(curves.items()):
        style = {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index % len(DASHES)]}
        axes.plot(at, list(values), label=name, lw=1.8, **style)
    axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold")
    axes.set_xlabel(x)
    if all(float(place).is_integer() for place in at):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_yscale("log") if log else axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.grid(axis="y", color=LINE, lw=0.5, alpha=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, handlelength=3)
