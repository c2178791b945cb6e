"""The Visual Decoder's numbers: what the codec keeps, how noise grows, how the loss falls and where it lies.

show_kept       share of variance that K channels keep
show_schedules  the picture's part of noisy latents, and the ratio of signal to noise, by noise level
show_leak       what of a picture can still be read at the last noise level
show_training   the loss of each step, and its running mean
show_by_noise   the loss at each noise level, a line for each condition

Axes   T noise levels   P pictures
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from minemu.drawing import FAINT, LINE, SAYS
from minemu.errors import MinemuError
from minemu.figures.charts import SERIES, add_curves, charts, label, legend

SMOOTHED = 0.15  # share of the new value in the running mean


def show_kept(kept: Mapping[int, float], used: int) -> Figure:
    """Share of the variance of patches that K channels keep; `used` is the K of this decoder."""
    if not kept:
        raise MinemuError("there is no share to show; give {channels: share}")
    figure, (axes,) = charts(520, 190)
    add_curves(axes, list(kept), {"kept": list(kept.values())}, marked=True)
    axes.axvline(used, color=FAINT, lw=1, ls=":")
    axes.annotate(
        f"K = {used}, as here", (used, min(kept.values())), (5, 0), textcoords="offset points", color=FAINT, size=8
    )
    axes.grid(axis="y", color=LINE, lw=0.4)
    label(axes, "channels K of each latent position", "share of the variance kept")
    return figure


def show_schedules(schedules: Mapping[str, Tensor]) -> Figure:
    """From each schedule's cumulative alphas (T,): how much of the picture is left at each noise level, and log10 of the SNR.

    A level that is all noise has no logarithm: there the line ends.
    """
    if not 1 <= len(schedules) <= len(SERIES):
        raise MinemuError(f"{len(schedules)} schedules do not fit in one figure; show 1 to {len(SERIES)}")
    figure, (left, right) = charts(760, 220, 2)
    for (name, alphas), (colour, dash, _) in zip(schedules.items(), SERIES, strict=False):
        alphas = alphas.cpu().double()  # a scheduler of diffusers takes them where it adds noise
        snr = torch.log10(alphas / (1 - alphas))
        t = torch.arange(len(alphas))
        left.plot(t, alphas.sqrt(), ls=dash, color=colour, lw=1.6, label=name)
        right.plot(t[snr.isfinite()], snr[snr.isfinite()], ls=dash, color=colour, lw=1.6, label=name)
    right.axhline(0, color=LINE, lw=0.8, zorder=0)
    right.annotate("as much noise as picture", (0, 0), (4, -10), textcoords="offset points", color=FAINT, size=7.5)
    label(left, "noise level t", r"$\sqrt{\bar\alpha_t}$", "how much of the picture is left")
    label(right, "noise level t", r"$\log_{10}$ SNR", "signal to noise")
    legend(left)
    return figure


def show_leak(true: Tensor, read: Mapping[str, Tensor]) -> Figure:
    """A quantity of each picture (P,) against what is read of it from latents that should be pure noise, a panel a schedule."""
    for name, values in read.items():
        if values.shape != true.shape:
            raise MinemuError(
                f"{len(true)} pictures but values of shape {tuple(values.shape)} for '{name}'; give one for each"
            )
    figure, panels = charts(320 * len(read), 210, len(read))
    most = 1.1 * max(values.abs().max().item() for values in read.values())
    for axes, (name, values) in zip(panels, read.items(), strict=True):
        found = torch.corrcoef(torch.stack([true, values]))[0, 1].item()
        axes.scatter(true.cpu(), values.cpu(), s=12, color=SAYS, alpha=0.7, edgecolors="none")
        axes.axhline(0, color=LINE, lw=0.8, zorder=0)
        axes.set_ylim(-most, most)
        label(axes, "mean of the picture's latents", "mean of the noisy latents", f"{name}\ncorrelation {found:.2f}")
    return figure


def show_training(losses: Sequence[float]) -> Figure:
    """The loss of each step, faint, and its running mean."""
    if len(losses) < 2:
        raise MinemuError(f"{len(losses)} losses make no curve; give at least two")
    mean, smooth = losses[0], []
    for loss in losses:
        mean += SMOOTHED * (loss - mean)
        smooth.append(mean)
    figure, (axes,) = charts(520, 180)
    axes.plot(losses, color=LINE, lw=0.8, label="each step")
    axes.plot(smooth, color=SAYS, lw=1.8, label="running mean")
    axes.set_yscale("log")
    label(axes, "step", "loss")
    legend(axes, loc="upper right")
    return figure


def show_by_noise(t: Tensor, losses: Mapping[str, Tensor]) -> Figure:
    """The loss (T,) at each of the noise levels t (T,), a line for each condition."""
    figure, (axes,) = charts(620, 220)
    add_curves(axes, t, losses, marked=True)
    axes.grid(axis="y", color=LINE, lw=0.4)
    axes.set_ylim(bottom=0)
    label(axes, "noise level t  (little noise on the left, nothing but noise on the right)", "mean squared error")
    legend(axes, loc="upper left", title="the U-Net is told", title_fontsize=8, alignment="left")
    return figure
