"""What the charts share: axes in the style of every figure, and lines that differ by more than their colour."""

from __future__ import annotations

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minemu.drawing import FAINT, INK, LINE, POINTS, REGRESSES, SAYS, STYLE

SERIES = (  # colour, dashes, marker: any two lines differ in all three
    (SAYS, "-", "o"),
    (REGRESSES, "--", "s"),
    ("#0b7a5e", "-.", "^"),
    ("#7b3f98", ":", "D"),
    (INK, (0, (5, 1, 1, 1, 1, 1)), "v"),
)


def charts(width: float, height: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure measured in points with `panels` charts side by side."""
    with rc_context(STYLE):
        figure = Figure(figsize=(width / POINTS, height / POINTS), dpi=110, facecolor="white", layout="constrained")
        found = [figure.add_subplot(1, panels, 1 + panel) for panel in range(panels)]
    for axes in found:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(LINE)
        axes.tick_params(colors=FAINT, labelcolor=INK, labelsize=8)
        axes.set_axisbelow(True)
    return figure, found


def label(axes: Axes, x: str = "", y: str = "", title: str = "") -> None:
    """Axis names, and the title flush left."""
    axes.set_xlabel(x, color=INK, size=8.5)
    axes.set_ylabel(y, color=INK, size=8.5)
    axes.set_title(title, loc="left", color=INK, size=9, weight="bold")


def legend(axes: Axes, **places: object) -> None:
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, handlelength=2.6, **places)
