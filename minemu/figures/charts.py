"""The house style of charts: empty axes, lines that differ by more than their colour, and the two charts that many notebooks need.

charts          empty charts in a grid
label, legend   names of the axes and of the lines
rule            a faint line to compare with
add_curves      named lines, each in a style of its own
show_curves     lines over steps or positions, one panel or several side by side
show_matrices   matrices beside each other

Axes   R rows and C columns of a matrix
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from torch import Tensor

from minemu.drawing import FAINT, INK, LINE, POINTS, REGRESSES, SAYS, STYLE
from minemu.errors import MinemuError

SERIES = (  # colour, dashes, marker: any two lines differ in all three
    (SAYS, "-", "o"),
    (REGRESSES, "--", "s"),
    ("#0b7a5e", "-.", "^"),
    ("#7b3f98", ":", "D"),
    (INK, (0, (5, 1, 1, 1, 1, 1)), "v"),
)
BLUES = LinearSegmentedColormap.from_list("blues", ["#ffffff", "#b9cff2", SAYS, "#12305f"])
ORANGES = LinearSegmentedColormap.from_list("oranges", ["#ffffff", "#fbe0c3", REGRESSES, "#6b3606"])
NEVER = "#e4e7eb"  # where a matrix has no number

Values = Sequence[float] | Tensor
Curves = Mapping[str, Values]


# ---- axes ------------------------------------------------------------------------------------------------------------


def charts(
    width: float, height: float, columns: int = 1, rows: int = 1, ratios: Sequence[float] | None = None, **shared
) -> tuple[Figure, list[Axes]]:
    """A figure of `width` x `height` points with a grid of charts, row by row; `ratios` are the widths of its columns."""
    with rc_context({**STYLE, "axes.edgecolor": LINE, "axes.labelcolor": INK, "hatch.linewidth": 0.6}):
        figure = Figure(figsize=(width / POINTS, height / POINTS), dpi=110, facecolor="white", layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"width_ratios": ratios}, **shared)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(which="both", color=LINE, labelcolor=INK, labelsize=8)
        axes.set_axisbelow(True)
    return figure, list(grid.flat)


def label(axes: Axes, x: str = "", y: str = "", title: str = "") -> None:
    """Axis names, and the title flush left."""
    axes.set_xlabel(x, color=INK, size=8.5)
    axes.set_ylabel(y, color=INK, size=8.5)
    axes.set_title(title, loc="left", color=INK, size=9, weight="bold")


def legend(where: Axes | Figure, *entries: Sequence, **places: object) -> None:
    """The names of what is drawn; `entries` are handles and names if not all are meant, `places` say where."""
    where.legend(*entries, **{"frameon": False, "fontsize": 8, "labelcolor": INK, "handlelength": 3.0, **places})


def rule(axes: Axes, height: float, text: str = "", at: float = 1.0) -> None:
    """A faint horizontal line to compare with, its name above it, ending at the share `at` of its length."""
    axes.axhline(height, color=FAINT, lw=0.9, ls=(0, (4, 3)), zorder=0)
    axes.annotate(
        text, (at, height), xycoords=("axes fraction", "data"), xytext=(-2, 3), textcoords="offset points",
        ha="right", color=FAINT, size=8, zorder=1,
    )  # fmt: skip


# ---- lines -----------------------------------------------------------------------------------------------------------


def add_curves(axes: Axes, at: Values, curves: Curves, marked: bool = False, lw: float = 1.6) -> None:
    """One line a name, through its values at the places `at` on the x axis; `marked` sets a marker at each value."""
    if not 1 <= len(curves) <= len(SERIES):
        raise MinemuError(f"{len(curves)} curves do not fit in one chart; give 1 to {len(SERIES)}")
    for (name, values), (colour, dashes, marker) in zip(curves.items(), SERIES, strict=False):
        places, heights = _array(at), _array(values)
        if heights.shape != places.shape:
            raise MinemuError(
                f"'{name}' has values of shape {heights.shape} for {len(places)} places on the x axis; give one for each"
            )
        style = {"color": colour, "ls": dashes, "lw": lw, "marker": marker if marked else "", "ms": 4.5}
        axes.plot(places, heights, label=name, **style)


def show_curves(
    panels: Mapping[str, Curves],
    x: str = "step",
    log: bool = False,
    at: Values | None = None,
    levels: Mapping[str, float] | None = None,
) -> Figure:
    """Lines in panels: title -> curves, name -> values.

    at       the places of the values on the x axis, else 0, 1, 2, ...
    levels   horizontal lines to compare with, by name
    """
    if not panels or not all(panels.values()):
        raise MinemuError("there is no curve to show; give at least one in each panel")
    if at is None:
        at = range(max(len(values) for curves in panels.values() for values in curves.values()))
    figure, found = charts(760 if len(panels) > 1 else 520, 250, len(panels))
    alike = len(panels) > 1 and len({tuple(curves) for curves in panels.values()}) == 1  # one legend serves all
    for axes, (title, curves) in zip(found, panels.items(), strict=True):
        add_curves(axes, at, curves, lw=1.8)
        label(axes, x, title=title)
        for name, height in (levels or {}).items():
            axes.axhline(height, color=FAINT, lw=1, zorder=0)
            axes.annotate(
                name, (1, height), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
                color=FAINT, size=8, ha="left", va="center",
            )  # fmt: skip
        if all(float(place).is_integer() for place in at):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _logarithmic(axes) if log else axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        axes.grid(axis="y", color=LINE, lw=0.5)
        if len(curves) > 1 and not alike:
            legend(axes)
    if alike:
        legend(figure, *axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(curves))
    return figure


def _logarithmic(axes: Axes) -> None:
    """A logarithmic y axis with plain numbers; where it spans little more than a decade, 2 and 5 are named too."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    named = "25" if high < 30 * low else ""
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda y, _: f"{y:g}" if f"{y:e}"[0] in named else ""))


def _array(values: Values) -> np.ndarray:
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=float)


# ---- matrices --------------------------------------------------------------------------------------------------------


def show_matrices(
    matrices: Mapping[str, Tensor],
    across: str,
    down: str,
    shared: bool = False,
    first: int = 1,
    signed: bool = False,
    names: Sequence[str] = (),
) -> Figure:
    """Matrices (R, C) by title. White is zero, darker is more; grey is -inf or nan: never.

    shared   one scale of colour for all of them, else each has its own
    signed   two hues for the two signs
    first    the number of the first row and column
    names    in place of numbers, one for each row and also for each column; neighbours of one name share it
    """
    if not matrices:
        raise MinemuError("there is no matrix to show; give at least one")
    values = {title: _finite(title, matrix) for title, matrix in matrices.items()}
    tops = {title: float(np.nanmax(np.abs(array))) or 1.0 for title, array in values.items()}
    side, room = min(210.0, 736 / len(values)), 5.0 * max(map(len, names), default=0)
    figure, found = charts(side * len(values) + 24 + room, side + 26 + room, len(values))
    for column, (axes, (title, array)) in enumerate(zip(found, values.items(), strict=True)):
        top = max(tops.values()) if shared else tops[title]
        low, colours = (-top, "PuOr_r") if signed else (0.0, ORANGES)
        axes.set_facecolor(NEVER)
        axes.imshow(array, cmap=colours, vmin=low, vmax=top, interpolation="nearest")
        label(axes, across, "" if column else down)
        axes.set_title(title, color=INK, size=8.5)
        _number(axes, array.shape, first)
        if names:
            _name(axes, array.shape, names, left=column == 0)
    return figure


def _finite(title: str, matrix: Tensor) -> np.ndarray:
    array = matrix.detach().float().cpu().numpy()
    if array.ndim != 2:
        raise MinemuError(f"'{title}' has shape {tuple(array.shape)}; give a matrix, such as one head of it")
    array = np.where(np.isfinite(array), array, np.nan)
    if np.isnan(array).all():
        raise MinemuError(f"no entry of '{title}' is a finite number; nothing can be drawn")
    return array


def _name(axes: Axes, shape: tuple[int, ...], names: Sequence[str], left: bool) -> None:
    """The name of each run of rows and columns at its middle, and lines between the runs."""
    if set(shape) != {len(names)}:
        raise MinemuError(f"{len(names)} names do not fit a matrix of {shape[0]} rows and {shape[1]} columns")
    starts = [i for i, name in enumerate(names) if not i or name != names[i - 1]]
    middles = [(start + stop - 1) / 2 for start, stop in zip(starts, [*starts[1:], len(names)], strict=True)]
    told = [names[start] for start in starts]
    axes.set_xticks(middles, told, rotation=90)
    axes.set_yticks(middles, told if left else [""] * len(told))
    for edge in starts[1:]:
        axes.axhline(edge - 0.5, color=FAINT, lw=0.8)
        axes.axvline(edge - 0.5, color=FAINT, lw=0.8)


def _number(axes: Axes, shape: tuple[int, ...], first: int) -> None:
    """The first and last row and column, and thin lines around the cells of small matrices."""
    rows, columns = shape
    axes.set_xticks([0, columns - 1], [str(first), str(first + columns - 1)])
    axes.set_yticks([0, rows - 1], [str(first), str(first + rows - 1)])
    axes.tick_params(length=0, labelsize=7.5, labelcolor=FAINT)
    axes.spines[:].set(visible=True, color=LINE)
    if max(shape) <= 40:
        axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
        axes.set_axisbelow(False)
        axes.grid(which="minor", color="white", lw=0.5)
        axes.tick_params(which="minor", length=0)
