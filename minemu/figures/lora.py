"""Low-rank adapters: the matrices themselves, and how many directions they use.

show_low_rank   W + (alpha / r) B A, all four drawn from their numbers: W and what is added to one scale
show_spectrum   singular values of a weight and of what is added to it

Axes   O outputs   I inputs   r rank
"""

from __future__ import annotations

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from minemu.drawing import FAINT, LINE, MONO, REGRESSES, SAYS, STYLE, add_heat, canvas
from minemu.errors import MinemuError
from minemu.figures.charts import charts, label, legend


def show_low_rank(weight: Tensor, b: Tensor, a: Tensor, scale: float, width: float = 760) -> Figure:
    """weight (O, I), b (O, r), a (r, I), and what is added: scale * b @ a (O, I). White is zero, the two hues are the signs.

    W and what is added have one scale, so that they can be compared; B and A each have their own.
    """
    if weight.shape != (b.shape[0], a.shape[1]) or b.shape[1] != a.shape[0]:
        raise MinemuError(
            f"W {tuple(weight.shape)}, B {tuple(b.shape)} and A {tuple(a.shape)} do not fit: (O, I), (O, r), (r, I)"
        )
    tensors = {"W": weight, "B": b, "A": a, "B A": scale * b @ a}
    outputs, inputs = weight.shape
    unit = (width - 190) / (3 * inputs + b.shape[1])  # points a number
    tall, y = outputs * unit, 34.0
    with rc_context(STYLE):
        figure, axes = canvas(width, tall + 66)
        x = 14.0
        for name, before in (("W", ""), ("B", f"+ {scale:g} ×"), ("A", "×"), ("B A", f"added:\n{scale:g} × B A")):
            x += 24 if before == "×" else 56 if before else 0
            axes.text(x - 8, y + tall / 2, before, ha="right", va="center", size=9 if name != "B A" else 8.5)
            values = tensors[name].detach().float().cpu()
            wide, high = values.shape[1] * unit, values.shape[0] * unit
            top = y + (tall - high) / 2
            heat = add_heat(axes, values.numpy(), x, top, wide, high)
            if name == "W":
                limits = heat.get_clim()
            elif name == "B A":
                heat.set_clim(*limits)
            axes.add_patch(_frame(x, top, wide, high))
            axes.text(x + wide / 2, top - 9, name, weight="bold", ha="center", va="center", size=10)
            shape = f"{values.shape[0]} x {values.shape[1]}" + ("\nown scale" if name in ("A", "B") else "")
            axes.text(x + wide / 2, top + high + 11, shape, family=MONO, size=8, color=FAINT, ha="center", va="center")
            x += wide
    return figure


def _frame(x: float, y: float, width: float, height: float) -> Rectangle:
    return Rectangle((x, y), width, height, facecolor="none", edgecolor=LINE, lw=0.6, zorder=3)


def show_spectrum(weight: Tensor, added: Tensor, rank: int, width: float = 480) -> Figure:
    """Singular values of `weight` and of what is `added` to it, both (O, I), the largest first."""
    if weight.shape != added.shape:
        raise MinemuError(
            f"weight has shape {tuple(weight.shape)} and what is added {tuple(added.shape)}; they must agree"
        )
    figure, (axes,) = charts(width, 230, 1)
    values = {
        name: torch.linalg.svdvals(t.detach().double().cpu()).numpy() for name, t in (("W", weight), ("added", added))
    }
    floor = values["W"].max() * 1e-5  # below, only rounding is left
    axes.semilogy(
        range(1, len(values["W"]) + 1), values["W"].clip(floor), color=REGRESSES, ls="--", lw=1.6, label="W, frozen"
    )
    kept = values["added"][values["added"] > floor]
    axes.semilogy(range(1, len(kept) + 1), kept, "o", color=SAYS, ms=3.5, label="what is added")
    axes.axvline(rank + 0.5, color=FAINT, lw=0.9, ls=":")
    axes.text(rank + 3, axes.get_ylim()[0] * 1.5, f"rank {rank}", color=FAINT, va="bottom", size=8)
    label(axes, "singular value, by size", "value")
    legend(axes, handlelength=2.0)
    return figure
