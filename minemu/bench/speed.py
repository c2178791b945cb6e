"""How fast: what minemu does against the plain way to do the same, or against what the machine could do at best."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from minemu import sequence
from minemu.config import EmuConfig
from minemu.costs import measure
from minemu.errors import MinemuError
from minemu.loading import cast_weights
from minemu.model import Emu
from minemu.training.loop import compile_layers
from minemu.visual_decoder import VisualDecoder

RUNS = 3
PARITY = 1e-5  # largest error of float32
PICTURES, WORDS = 4, 24  # the prompt: four pictures with six words before each
LARGE = 2048  # side of a matrix product that nothing but its operations limits
DRAWN = 4  # pictures that are drawn with guidance


def small(n: int) -> Emu:
    """A LLaMA of 12 layers and width 576 with `n` embeddings a picture and random weights."""
    torch.manual_seed(0)
    config = EmuConfig.preset("emu-nano").override({
        "bridge.n_image": n, "llm.layers": 12, "llm.width": 576, "llm.heads": 9, "llm.ff_width": 1536, "llm.context": 2048,
        "decoder.condition_width": 576,
    })  # fmt: skip
    return Emu(config).eval()


def prompt(config: EmuConfig, deviation: float = 0.5) -> tuple[Tensor, Tensor]:
    """Four pictures with words before each: ids (1, L), and what may be their embeddings (4, N, E)."""
    n, generator = config.bridge.n_image, torch.Generator().manual_seed(0)
    words = torch.randint(3, config.llm.words, (WORDS,), generator=generator).tolist()
    each = WORDS // PICTURES
    pieces = [piece for k in range(PICTURES) for piece in (words[k * each : (k + 1) * each], sequence.PICTURE)]
    embeds = deviation * torch.randn(PICTURES, n, config.embed_width, generator=torch.Generator().manual_seed(1))
    return torch.tensor([sequence.interleave(pieces, sequence.TokenIds.of(config.llm), n)]), embeds


def image_embeds(n: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Cached generation of `n` embeddings in `dtype` after a prompt of four pictures, batch 1."""
    model = small(n)
    fast = model if dtype == torch.float32 else small(n)
    cast_weights(fast, dtype)
    row, embeds = prompt(model.config)
    slow_seconds, fast_seconds = [], []
    fast.generate_image_embeds(row, image_embeds=embeds.to(dtype)), recompute(model, row, embeds)  # warm up
    for _ in range(RUNS):
        expected = _timed(slow_seconds, lambda: recompute(model, row, embeds))
        cached = _timed(fast_seconds, lambda: fast.generate_image_embeds(row, image_embeds=embeds.to(dtype)))
    error = (cached.float() - recompute(model, row, embeds, cached.float())).abs().max().item()
    if dtype == torch.float32 and error > PARITY:
        raise MinemuError(
            f"cached and recomputed embeddings differ by {error:.1e}: the cache is wrong, do not trust its speed"
        )
    drift = (cached.float() - expected).abs().max().item()
    errors = f"largest error {error:.1e} on equal prefixes, {drift:.1e} with own predictions fed back"
    against = "recomputing the prefix for each embedding in float32, as the released code does"
    return ratios(slow_seconds, fast_seconds, against, errors, error=error, drift=drift)


@torch.no_grad()
def recompute(model: Emu, input_ids: Tensor, image_embeds: Tensor, fed: Tensor | None = None) -> Tensor:
    """The released way: the whole prefix anew for each of the N embeddings. (1, L), (n, N, E) -> (1, N, E).

    With `fed` (1, N, E) these are fed back in place of its own predictions: so two ways are compared on the same prefixes,
    and a last digit that differs is not blown up step by step by random weights.
    """
    start = input_ids.new_full((1, 1), model.ids.image_start)
    inputs = torch.cat([model.embed(input_ids, image_embeds), model.embed(start)], 1)
    predicted: list[Tensor] = []
    for _ in range(model.config.bridge.n_image):
        hidden = model.llm.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
        predicted.append(model.regression_head(hidden[:, -1:]))
        back = predicted[-1] if fed is None else fed[:, len(predicted) - 1 : len(predicted)]
        inputs = torch.cat([inputs, model.into_llm(back)], 1)
    return torch.cat(predicted, 1)


@torch.no_grad()
def image_embeds_bound(n: int) -> dict[str, Any]:
    """What of cached generation its linear layers alone take: each once for the prompt, and once for each embedding."""
    model = small(n)
    row, embeds = prompt(model.config)
    linear = [module for module in model.llm.model.modules() if isinstance(module, nn.Linear)]

    def products() -> Tensor:
        for length in (row.shape[1] + 1, *[1] * (n - 1)):
            inputs = {width: torch.ones(1, length, width) for width in {module.in_features for module in linear}}
            for module in linear:
                found = module(inputs[module.in_features])
        return found

    whole, alone = [], []
    model.generate_image_embeds(row, image_embeds=embeds), products()  # warm up
    for _ in range(RUNS):
        _timed(alone, products)
        _timed(whole, lambda: model.generate_image_embeds(row, image_embeds=embeds))
    return ratios(alone, whole, "all of it: 1 is the bound")


def documents_of(model: Emu, count: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """`count` documents of one to five pictures with words before each, packed into long rows and padded in one row each."""
    config, ids, generator = model.config, model.ids, torch.Generator().manual_seed(0)
    rows, pictures = [], []
    for number in range(count):
        many = number % 5 + 1
        embeds = torch.randn(many, config.bridge.n_image, config.embed_width, generator=generator)
        words = torch.randint(3, config.llm.words, (many, 12), generator=generator).tolist()
        pieces = [piece for text in words for piece in (text, sequence.PICTURE)]
        rows.append(sequence.interleave(pieces, ids, embeds.shape[1]))
        pictures.append(embeds)
    packed = sequence.pack_rows(rows, ids, 2 * max(map(len, rows)))
    packed["image_embeds"] = torch.cat([pictures[i] for i in packed.pop("order")])
    return packed, {**sequence.pad_rows(rows, ids), "image_embeds": torch.cat(pictures)}


def step(model: Emu, batch: dict[str, Tensor], low: bool = False) -> Tensor:
    """Forward and backward, with `low` in bfloat16; the loss."""
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
        loss = model(**batch).loss
    loss.backward()
    return loss.detach()


def train_step(way: Literal["packed", "bf16", "compiled"], documents: int = 64) -> dict[str, Any]:
    """A step of emu-tiny's LLM, "packed", in "bf16" or with its layers "compiled" too, against the same without that."""
    torch.manual_seed(0)
    model = Emu(EmuConfig.preset("emu-tiny"))
    packed, padded = documents_of(model, documents)
    quick = model
    if way == "compiled":
        quick = copy.deepcopy(model)
        compile_layers(quick.llm.model.layers, quick.device)
    plain: Callable[[], Tensor]
    against, plain = {
        "packed": ("each document in a padded row of its own", lambda: step(model, padded)),
        "bf16": ("the same step in float32", lambda: step(model, packed)),
        "compiled": ("the same step in bfloat16 as it is", lambda: step(model, packed, low=True)),
    }[way]
    slow_seconds, quick_seconds = [], []
    plain(), step(quick, packed, way != "packed")  # warm up
    for _ in range(RUNS):
        expected = _timed(slow_seconds, plain)
        found = _timed(quick_seconds, lambda: step(quick, packed, way != "packed"))
    error = (found - expected).abs().item()
    return ratios(slow_seconds, quick_seconds, against, f"losses differ by {error:.1e}", error=error)


def matmul_share(size: Literal["tiny", "small"]) -> dict[str, Any]:
    """How much of a training step could be matrix products at full speed: its operations a second against a large product's."""
    model = Emu(EmuConfig.preset("emu-tiny")) if size == "tiny" else small(32)
    batch, _ = documents_of(model, 64 if size == "tiny" else 8)
    large = torch.ones(LARGE, LARGE)
    operations = measure(lambda: step(model, batch), model).flops
    best, seconds = [], []
    large @ large  # warm up
    for _ in range(RUNS):
        _timed(best, lambda: large @ large)
        _timed(seconds, lambda: step(model, batch))
    at_best = [each * operations / (2 * LARGE**3) for each in best]
    rate = operations / statistics.median(seconds) / 1e9
    said = f"{operations / 1e9:,.0f} GFLOP a step, {rate:,.0f} GFLOP/s"
    return ratios(at_best, seconds, f"a product of {LARGE} x {LARGE} matrices", said)


@torch.no_grad()
def guidance() -> dict[str, Any]:
    """Drawing with guidance by emu-tiny's decoder, random weights, a step: both conditions as one batch, as `decode` does it."""
    torch.manual_seed(0)
    decoder = VisualDecoder(EmuConfig.preset("emu-tiny").decoder).eval()
    cells, scale = decoder.config.condition_grid**2, 2.0
    conditions, null = (
        torch.randn(DRAWN, cells, decoder.config.condition_width),
        torch.zeros(1, cells, decoder.config.condition_width),
    )
    noise, t = decoder.initial_noise(DRAWN, torch.Generator().manual_seed(0)), torch.tensor(500)

    def both() -> Tensor:
        rows = torch.cat([null.expand_as(conditions), conditions])
        without, having = decoder.predict(torch.cat([noise, noise]), t, rows).chunk(2)
        return without + scale * (having - without)

    def each() -> Tensor:
        without, having = (decoder.predict(noise, t, rows) for rows in (null.expand_as(conditions), conditions))
        return without + scale * (having - without)

    apart, together = [], []
    both(), each()  # warm up
    for _ in range(RUNS):
        expected = _timed(apart, each)
        found = _timed(together, both)
    error = (found - expected).abs().max().item()
    return ratios(apart, together, "a pass for each of the two conditions", error=error)


def ratios(slow: list[float], quick: list[float], against: str, said: str = "", **more: Any) -> dict[str, Any]:
    """A row of the table, from seconds of each run."""
    found = [a / b for a, b in zip(slow, quick, strict=True)]
    spread = f"{min(found):.2f} to {max(found):.2f} in {len(found)} runs"
    return {
        "ratio": statistics.median(found), "min": min(found), "max": max(found), "runs": len(found),
        "seconds": statistics.median(quick), "against": against, "said": f"{spread}, {said}" if said else spread, **more,
    }  # fmt: skip


def _timed(into: list[float], call: Callable[[], Tensor]) -> Tensor:
    started = time.perf_counter()
    result = call()
    into.append(time.perf_counter() - started)
    return result
