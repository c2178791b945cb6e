"""Visual embeddings that the model imagined, beside the true ones: error by index, one sample, retrieval.

Axes   n pictures   N embeddings a picture   E regressed width
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from minemu.drawing import FAINT, INK, LINE, REGRESSES, STYLE, add_heat, add_picture, canvas
from minemu.errors import MinemuError
from minemu.figures.charts import BLUES, SERIES, add_curves, charts, label, legend, rule

NEAR = BLUES.reversed()


def show_by_index(
    panels: Mapping[str, Mapping[str, Tensor]],
    ylabel: str,
    level: tuple[float, str] | None = None,
) -> Figure:
    """Curves (N,) over the index of the visual embedding, by name, in panels of one scale; `level` is a line to compare with."""
    if not panels or any(not 1 <= len(curves) <= len(SERIES) for curves in panels.values()):
        raise MinemuError(f"give at least one panel, each with 1 to {len(SERIES)} curves")
    everything = torch.cat(
        [values.detach().float().flatten().cpu() for curves in panels.values() for values in curves.values()]
    )
    top = max(everything.nan_to_num(0).max().item(), level[0] if level else 0.0)
    width = 560 if len(panels) == 1 else 370 * len(panels)
    figure, grid = charts(width, 262, len(panels), sharey=True)
    for axes, (title, curves) in zip(grid, panels.items(), strict=True):
        count = max(map(len, curves.values()))
        add_curves(axes, range(1, count + 1), curves, marked=True)
        if level is not None:
            rule(axes, *level, at=_clearest(curves, level[0] + 0.04 * top))
        label(axes, "index of the visual embedding", title=title)
        axes.set_xticks(range(1, count + 1, 1 if count <= 20 else 5))
        axes.set_ylim(0, 1.08 * top)
        axes.grid(axis="y", color=LINE, lw=0.5)
    grid[0].set_ylabel(ylabel)
    handles, names = grid[0].get_legend_handles_labels()
    legend(figure, handles, names, loc="outside lower center", ncols=min(len(names), 3))
    return figure


def _clearest(curves: Mapping[str, Tensor], height: float) -> float:
    """Where a name at `height` is farthest from all curves (N,): the share of the panel's width at which it ends."""
    away = torch.stack(
        [(values.detach().float().cpu() - height).abs().nan_to_num(torch.inf) for values in curves.values()]
    )
    count = away.shape[1]
    span = min(max(2, round(0.3 * count)), count)
    start = int(away.amin(0).unfold(0, span, 1).amin(1).argmax())
    return 0.045 + (start + span - 1) / max(1, count - 1) / 1.1


def show_imagined(
    rows: Mapping[str, Tensor], pictures: Sequence[Image.Image] | None = None, centre: Tensor | None = None
) -> Figure:
    """The embeddings (N, E) of one picture in several versions, a row each, less `centre` (N, E); at the right what they decode to."""
    if not rows or len({tuple(values.shape) for values in rows.values()}) != 1:
        raise MinemuError("give at least one matrix of embeddings (N, E), all of one shape")
    if pictures is not None and len(pictures) != len(rows):
        raise MinemuError(f"{len(rows)} rows but {len(pictures)} pictures; give one picture for each row")
    left, side, gap, width = 118, 100, 14, 500
    shift = 0 if centre is None else centre
    values = {name: (matrix - shift).detach().float().cpu().numpy() for name, matrix in rows.items()}
    limit = np.quantile(np.abs(next(iter(values.values()))), 0.98) or 1.0
    with rc_context(STYLE):
        figure, axes = canvas(left + width + gap + side + 12, 12 + len(rows) * (side + gap) + 12)
        for row, (name, matrix) in enumerate(values.items()):
            y = 12 + row * (side + gap)
            add_heat(axes, matrix, left, y, width, side)
            axes.images[-1].set_clim(-limit, limit)  # one scale for all rows
            axes.text(left - 8, y + side / 2, name, ha="right", va="center")
            if pictures is not None:
                add_picture(axes, np.asarray(pictures[row].convert("RGB")), left + width + gap, y, side)
        y = 12 + len(rows) * (side + gap) - 4
        count, wide = next(iter(values.values())).shape
        text = (
            f"{count} embeddings downwards, {wide} channels across; white is {'zero' if centre is None else 'the mean'}"
        )
        axes.text(left, y, text, color=FAINT, va="center", size=8)
    return figure


def show_retrieval(imagined: Tensor, true: Tensor) -> Figure:
    """Distances between imagined and true embeddings, both (n, N, E); a ring marks the nearest true one of each row."""
    if imagined.shape != true.shape or imagined.ndim != 3:
        raise MinemuError(
            f"imagined {tuple(imagined.shape)} and true {tuple(true.shape)} differ; give two tensors (n, N, E)"
        )
    distances = torch.cdist(imagined.float().flatten(1), true.float().flatten(1)).cpu()
    nearest = distances.argmin(1)
    rows = torch.arange(len(nearest))
    own = int((nearest == rows).sum())
    figure, (axes,) = charts(430, 390)
    image = axes.imshow(distances.numpy(), cmap=NEAR, interpolation="nearest")
    for right, colour, name in ((True, "white", "its own picture"), (False, REGRESSES, "another one")):
        chosen = (nearest == rows) == right
        axes.plot(
            nearest[chosen].numpy(), rows[chosen].numpy(), "o", mfc="none", mec=colour, mew=1.3, ms=5.5, label=name
        )
    label(
        axes,
        "true embeddings of picture",
        "imagined from caption",
        f"{own} of {len(rows)} are nearest to their own picture",
    )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.75, pad=0.02)
    bar.set_label("distance", color=INK, size=8)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7.5, color=LINE, labelcolor=INK)
    legend(
        axes, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, frameon=True, facecolor="#9fb8e6", edgecolor="white",
        title="the nearest is", title_fontsize=8,
    )  # fmt: skip
    return figure
