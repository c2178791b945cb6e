"""Checks of notebook 08, the Visual Decoder."""

from __future__ import annotations

from collections.abc import Callable

import torch

from minemu.config import DecoderConfig
from minemu.course import call, exercise, number, same
from minemu.visual_decoder import TRAIN_STEPS, build_scheduler


def latents(seed: int) -> torch.Tensor:
    """(2, 4, 3, 3)."""
    return torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(seed))


@exercise("08.noise", "return the latents z0 with noise added, given alpha, the share of z0 in the variance")
def noise(add: Callable) -> str:
    """`add(z0, noise, alpha)` must do what the scheduler does."""
    scheduler, z0, drawn = build_scheduler(DecoderConfig()), latents(0), latents(1)
    levels = (0, TRAIN_STEPS // 2, TRAIN_STEPS - 1)
    for t in levels:
        wanted = scheduler.add_noise(z0, drawn, torch.tensor([t, t]))
        same(call(add, z0, drawn, scheduler.alphas_cumprod[t]), wanted, f"the noisy latents at t = {t}")
    return f"noise is added as the scheduler adds it, at {len(levels)} noise levels"


@exercise(
    "08.guide",
    "return the guidance scale w, given the prediction without the condition, the one with it, and the one used",
)
def guide(scale_of: Callable) -> str:
    """`scale_of(without, with_condition, used)` solves classifier-free guidance for its scale."""
    without, told = latents(2), latents(3)
    told[:, 0] = without[:, 0]  # where the condition changes nothing, nothing can be divided by
    scales = (0.0, 1.0, 3.0, -0.5)
    for scale in scales:
        used = without + scale * (told - without)
        mine = number(call(scale_of, without, told, used), "the scale")
        assert abs(mine - scale) < 1e-4, f"guidance with w = {scale:g} gives back {mine:.4g}"
    return (
        f"w is found for {', '.join(f'{scale:g}' for scale in scales)}, also where predictions agree at some positions"
    )


@exercise(
    "08.ddim", "return the latents at the next, lower noise level, given z, the predicted z0, alpha and alpha_next"
)
def ddim(step: Callable) -> str:
    """`step(z, z0, alpha, alpha_next)` is one step of DDIM, without fresh noise."""
    scheduler, z, guess = build_scheduler(DecoderConfig(prediction="sample")), latents(4), latents(5)
    scheduler.set_timesteps(10)
    for index in (0, 4, 9):
        t = int(scheduler.timesteps[index])
        after = t - TRAIN_STEPS // 10
        alpha_next = scheduler.alphas_cumprod[after] if after >= 0 else torch.tensor(1.0)
        mine = call(step, z, guess, scheduler.alphas_cumprod[t], alpha_next)
        same(mine, scheduler.step(guess, t, z).prev_sample, f"the latents after t = {t}")
    return "the first, a middle and the last of 10 steps agree with the scheduler"
