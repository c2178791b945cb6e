"""What scores are worth: how sure they are, what they stand beside, and what a judge mixes up.

show_intervals    the 95 % interval of a rate against the number of samples
show_coverage     how often an interval holds the true rate, for two ways of computing it
show_scores       each score with its interval, chance, blind baseline and upper bound
show_bars         values by name, one or two series
show_differences  differences of pairs by name, their mean and its interval
show_matrix       similarities of named things
show_frechet      the Frechet distance of two samples of one distribution, against their size

Axes   M names
"""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from torch import Tensor

from minemu.drawing import FAINT, INK, LINE, drawable
from minemu.errors import MinemuError
from minemu.figures.charts import SERIES, add_curves, charts, label, legend

Ends = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Score:
    """A line of `show_scores`; all between 0 and 1. `blind` and `bound` may be unknown."""

    name: str
    score: float
    interval: tuple[float, float]
    chance: float
    blind: float | None = None
    bound: float | None = None


def show_intervals(n: Sequence[int], intervals: Mapping[str, Ends]) -> Figure:
    """The interval of each rate at each number of samples n, as a band around the rate that it narrows to."""
    for name, ends in intervals.items():
        if len(ends) != len(n):
            raise MinemuError(f"{len(n)} numbers of samples but {len(ends)} intervals for '{name}'; give one for each")
    figure, (axes,) = charts(560, 230)
    for (name, ends), (colour, dash, _) in zip(intervals.items(), SERIES, strict=False):
        low, high = zip(*ends, strict=True)
        axes.fill_between(n, low, high, color=colour, alpha=0.15, lw=0)
        axes.plot(n, low, ls=dash, color=colour, lw=1.2)
        axes.plot(n, high, ls=dash, color=colour, lw=1.2, label=name)
    axes.set_xscale("log")
    axes.set_xticks(list(n), [str(count) for count in n])
    axes.minorticks_off()
    axes.set_ylim(0, 1.02)
    label(axes, "samples n", "95 % interval of the true rate")
    legend(axes, loc="lower right")
    return figure


def show_coverage(rates: Sequence[float], coverage: Mapping[str, Sequence[float]], wanted: float = 0.95) -> Figure:
    """How often each kind of interval holds the true rate, at each true rate; the dotted line is what it promises."""
    figure, (axes,) = charts(560, 200)
    add_curves(axes, rates, coverage)
    axes.axhline(wanted, color=FAINT, lw=1, ls=":", label=f"promised: {wanted:.0%}")
    label(axes, "true rate", "share of samplings\nwhose interval holds it")
    legend(axes, loc="lower center")
    return figure


def show_scores(scores: Sequence[Score], x: str = "") -> Figure:
    """A bar for each score with its interval; marks for chance, the blind baseline and the upper bound. `x` says what a score is."""
    if not scores:
        raise MinemuError("there is no score to show; give at least one")
    figure, (axes,) = charts(760, 46 + 27 * len(scores))
    colour = SERIES[0][0]
    y = list(range(len(scores)))
    axes.barh(y, [one.score for one in scores], height=0.52, color=colour, alpha=0.35, label="score")
    for place, one in enumerate(scores):
        axes.plot(
            one.interval, (place, place), color=colour, lw=2, solid_capstyle="butt", label="95 % interval" * (not place)
        )
        axes.plot(one.chance, place, ls="", marker="|", ms=13, mew=1.6, color=INK, label="chance" * (not place))
    for marker, shade, name, values in (
        ("x", SERIES[1][0], "blind", [one.blind for one in scores]),
        ("D", SERIES[2][0], "upper bound", [one.bound for one in scores]),
    ):
        known = [(value, place) for place, value in enumerate(values) if value is not None]
        if known:
            axes.plot(
                *zip(*known, strict=True), ls="", marker=marker, ms=5, mew=1.6, mfc="none", color=shade, label=name
            )
    axes.set_yticks(y, [textwrap.fill(drawable(one.name), 46) for one in scores])
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(-0.01, 1.02)
    axes.set_ylim(len(scores) - 0.4, -0.6)
    axes.grid(axis="x", color=LINE, lw=0.4)
    label(axes, x)
    handles, names = axes.get_legend_handles_labels()
    shown = {name: handle for handle, name in zip(handles, names, strict=True) if name}
    legend(figure, [*shown.values()], [*shown], loc="outside upper left", ncols=5)
    return figure


def show_bars(
    names: Sequence[str],
    series: Mapping[str, Sequence[float]],
    y: str,
    chance: Sequence[float] = (),
    interval: Mapping[str, Ends] | None = None,
) -> Figure:
    """One bar a name (M) and series, side by side; short black lines mark `chance` (M).

    interval   of each series that has any: the ends (M) of a thin line on each of its bars
    """
    interval = interval or {}
    for what, values in (*series.items(), ("chance", chance or names), *interval.items()):
        if len(values) != len(names):
            raise MinemuError(f"{len(names)} names but {len(values)} values for '{what}'; give one for each")
    if unknown := set(interval) - set(series):
        raise MinemuError(f"there are intervals for {', '.join(sorted(unknown))}, but no such series; name them alike")
    figure, (axes,) = charts(max(430, 120 + 70 * len(names)), 210)
    width = 0.7 / len(series)
    for number, ((name, values), (colour, _, _)) in enumerate(zip(series.items(), SERIES, strict=False)):
        places = [place + (number - (len(series) - 1) / 2) * width for place in range(len(names))]
        hatch = ("", "///")[number % 2]
        axes.bar(
            places, values, width * 0.92, color=colour, alpha=0.75, hatch=hatch, edgecolor="white", lw=0.5, label=name
        )
        for place, ends in zip(places, interval.get(name, ()), strict=False):
            axes.plot((place, place), ends, color=INK, lw=1.1, marker="_", ms=6)
    for place, value in enumerate(chance):
        axes.plot(
            (place - 0.42, place + 0.42), (value, value), color=INK, lw=1.6, label="chance" if place == 0 else None
        )
    axes.set_xticks(range(len(names)), names)
    axes.tick_params(axis="x", length=0)
    label(axes, y=y)
    if len(series) > 1 or chance:
        legend(axes, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def show_differences(differences: Mapping[str, Sequence[float]], x: str, z: float = 1.96) -> Figure:
    """The mean of each list of differences, less and plus `z` of its standard errors, beside a line at zero."""
    if not differences or min(map(len, differences.values())) < 2:
        raise MinemuError("there is no interval to show; give a list of two differences or more for each name")
    figure, (axes,) = charts(560, 70 + 26 * len(differences))
    for place, values in enumerate(differences.values()):
        mean, half = statistics.mean(values), z * statistics.stdev(values) / math.sqrt(len(values))
        axes.plot([mean - half, mean + half], [place, place], color=SERIES[0][0], lw=1.6)
        axes.plot([mean], [place], "o", color=SERIES[0][0], ms=6)
    axes.axvline(0, color=INK, lw=0.8, zorder=0)
    axes.set_yticks(range(len(differences)), list(differences))
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(differences) - 0.5, -0.5)
    label(axes, x)
    return figure


def show_matrix(values: Tensor, names: Sequence[str]) -> Figure:
    """Similarities (M, M) as shades, dark is alike; each number is written in its cell."""
    if values.shape != (len(names), len(names)):
        raise MinemuError(
            f"{len(names)} names take a matrix of shape ({len(names)}, {len(names)}), not {tuple(values.shape)}"
        )
    side = 34 * len(names)
    figure, (axes,) = charts(side + 130, side + 90)
    numbers = values.detach().cpu().numpy()
    low, high = numbers.min().item(), numbers.max().item()
    axes.imshow(numbers, cmap="Blues", vmin=low, vmax=high)
    for r, row in enumerate(numbers.tolist()):
        for c, value in enumerate(row):
            dark = value > (low + high) / 2
            axes.text(
                c,
                r,
                f"{value:.2f}".removeprefix("0"),
                ha="center",
                va="center",
                size=7.5,
                color="white" if dark else INK,
            )
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def show_frechet(n: Sequence[int], distances: Mapping[str, Sequence[float]]) -> Figure:
    """Distances at each number of samples n; the true distance of two samples of one distribution is 0."""
    figure, (axes,) = charts(560, 210)
    add_curves(axes, n, distances, marked=True)
    axes.axhline(0, color=FAINT, lw=1, ls=":")
    axes.set_xscale("log")
    axes.set_xticks(list(n), [str(count) for count in n])
    axes.minorticks_off()
    label(axes, "samples n in each set", "Frechet distance")
    legend(axes, loc="upper right")
    return figure
