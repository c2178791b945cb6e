"""Checks of notebook 08, the Visual Decoder."""

from __future__ import annotations

from collections.abc import Callable

import torch

from minemu.config import DecoderConfig
from minemu.course import call, exercise, same
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
    "08.guide", "return the guided prediction, given the one without the condition, the one with it, and the scale"
)
def guide(guided: Callable) -> str:
    """`guided(without, with_condition, scale)` is classifier-free guidance."""
    without, told = latents(2), latents(3)
    same(call(guided, without, told, 0.0), without, "the prediction at scale 0, which should ignore the condition,")
    same(call(guided, without, told, 1.0), told, "the prediction at scale 1, which should follow the condition alone,")
    same(call(guided, without, told, 3.0), 3 * told - 2 * without, "the prediction at scale 3")
    return "scale 0 ignores the condition, 1 follows it, 3 goes beyond it"


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
