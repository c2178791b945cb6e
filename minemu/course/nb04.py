"""The checks of notebook 04, the language model.

Axes   B rows   L positions   D LLM width   N embeddings a picture   E regressed width
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minemu.config import EmuConfig
from minemu.course import call, exercise, number, same
from minemu.model import Emu

NANO = "emu-nano"


def small_model() -> Emu:
    """A nano Emu with random weights, the same at each call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Emu(EmuConfig.preset(NANO)).eval()


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@exercise("04.swiglu", "return down(silu(gate(x)) * up(x)), a tensor of the shape of x")
@torch.no_grad()
def check_swiglu(answer: Callable) -> str:
    mlp = small_model().llm.model.layers[0].mlp
    x = noise(2, 5, EmuConfig.preset(NANO).llm.width)
    mine = call(answer, x, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    if isinstance(mine, Tensor) and mine.shape == x.shape:
        swapped = mlp.down_proj(mlp.gate_proj(x) * torch.nn.functional.silu(mlp.up_proj(x)))
        assert not torch.allclose(mine.float(), swapped, atol=1e-6), "SiLU goes around the gate, not around up"
    same(mine, mlp(x), "SwiGLU", 1e-5)
    return "the feed-forward half of a LLaMA layer, on 10 positions"


def scores(start: int, n: int, cached: bool) -> int:
    """Query-key scores of one head of one layer while n embeddings are generated after `start` positions."""
    if cached:
        return sum(range(1, start + n))
    return sum(sum(range(1, start + k + 1)) for k in range(n))


@exercise("04.scores", "return an integer: how many query-key scores one head computes for the n embeddings")
def check_scores(answer: Callable) -> str:
    for start, n in ((1, 1), (3, 2), (31, 64)):
        for cached in (False, True):
            mine, wanted = number(call(answer, start, n, cached), "the count"), scores(start, n, cached)
            assert mine == wanted, f"for start={start}, n={n}, cached={cached} it should be {wanted}, not {mine}"
    without, within = scores(31, 64, False), scores(31, 64, True)
    return f"31 positions and 64 embeddings take {without:,} scores without a cache, {within:,} with one"


@exercise("04.cached", "return the N embeddings (1, N, E), and let each position pass through the LLM once")
@torch.no_grad()
def check_cached(answer: Callable) -> str:
    model = small_model()
    inputs, n = noise(1, 6, model.config.llm.width), model.config.bridge.n_image
    passed: list[int] = []
    hook = model.llm.model.layers[0].register_forward_pre_hook(
        lambda _, arguments: passed.append(arguments[0].shape[1])
    )
    try:
        mine = call(answer, model, inputs.clone())
    finally:
        hook.remove()
    same(mine, recomputed(model, inputs), "the sequence of embeddings", 1e-4)
    fewest = inputs.shape[1] + n - 1
    assert sum(passed) == fewest, (
        f"the embeddings are right, but {sum(passed)} positions passed through the LLM; {fewest} are enough: "
        "after the first step give it only what is new"
    )
    return f"{n} embeddings after {inputs.shape[1]} positions, and only {fewest} positions processed"


def recomputed(model: Emu, inputs: Tensor) -> Tensor:
    """The whole prefix anew for each embedding: (1, L, D) -> (1, N, E)."""
    predicted: list[Tensor] = []
    for _ in range(model.config.bridge.n_image):
        hidden = model.llm.model(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, -1:]
        predicted.append(model.regression_head(hidden))
        inputs = torch.cat([inputs, model.into_llm(predicted[-1])], 1)
    return torch.cat(predicted, 1)
