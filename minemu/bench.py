"""Timings as ratios: two ways to do the same, side by side in one run, several times, with the spread."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from minemu import sequence
from minemu.config import EmuConfig
from minemu.errors import MinemuError
from minemu.model import Emu

RUNS = 3
PARITY = 1e-5  # largest error of float32
PICTURES, WORDS = 4, 24  # the prompt: four pictures with six words before each

ROWS = {
    "image-embeds-n32": "cached generation of 32 visual embeddings against recomputing the prefix for each, float32",
    "image-embeds-n64": "the same for 64",
    "image-embeds-n32-bf16": "cached generation of 32 in bfloat16 against recomputing in float32; the error is stated",
    "image-embeds-n64-bf16": "the same for 64",
}


def run_bench(rows: list[str]) -> dict[str, Any]:
    """`{"machine", "rows": {NAME: {"ratio", "min", "max", "runs", "against", ...}}}`; prints each row as it is known."""
    found = {}
    for row in rows:
        _, _, count, *low = row.split("-")
        found[row] = image_embeds(int(count[1:]), torch.bfloat16 if low else torch.float32)
        entry = found[row]
        spread = f"{entry['min']:.1f} to {entry['max']:.1f} in {entry['runs']} runs"
        errors = f"{entry['error']:.1e} on equal prefixes, {entry['drift']:.1e} with own predictions fed back"
        print(f"{row:24} {entry['ratio']:.1f} x  ({spread}), largest error {errors}")
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    return {"machine": machine, "rows": found}


def image_embeds(n: int, dtype: torch.dtype) -> dict[str, Any]:
    """A LLaMA of 12 layers and width 576, batch 1, a prompt of four pictures; random weights."""
    torch.manual_seed(0)
    config = EmuConfig.preset("emu-nano").override({
        "bridge.n_image": n, "llm.layers": 12, "llm.width": 576, "llm.heads": 9, "llm.ff_width": 1536, "llm.context": 2048,
        "decoder.condition_width": 576,
    })  # fmt: skip
    model = Emu(config).eval()
    fast = model if dtype == torch.float32 else Emu(config).eval()
    if fast is not model:
        fast.load_state_dict(model.state_dict())
        fast.to(dtype)
    words = torch.randint(3, config.llm.words, (WORDS,), generator=torch.Generator().manual_seed(0)).tolist()
    each = WORDS // PICTURES
    pieces = [piece for k in range(PICTURES) for piece in (words[k * each : (k + 1) * each], sequence.PICTURE)]
    row = torch.tensor([sequence.interleave(pieces, model.ids, n)])
    embeds = 0.5 * torch.randn(PICTURES, n, 576, generator=torch.Generator().manual_seed(1))
    slow_seconds, fast_seconds = [], []
    fast.generate_image_embeds(row, image_embeds=embeds.to(dtype))  # warm up
    for _ in range(RUNS):
        expected = _timed(slow_seconds, lambda: recompute(model, row, embeds))
        cached = _timed(fast_seconds, lambda: fast.generate_image_embeds(row, image_embeds=embeds.to(dtype)))
    error = (cached.float() - recompute(model, row, embeds, cached.float())).abs().max().item()
    if dtype == torch.float32 and error > PARITY:
        raise MinemuError(
            f"cached and recomputed embeddings differ by {error:.1e}: the cache is wrong, do not trust its speed"
        )
    ratios = [slow / quick for slow, quick in zip(slow_seconds, fast_seconds, strict=True)]
    return {
        "ratio": statistics.median(ratios), "min": min(ratios), "max": max(ratios), "runs": RUNS, "error": error,
        "drift": (cached.float() - expected).abs().max().item(),
        "seconds": statistics.median(fast_seconds),
        "against": "recomputing the prefix for each embedding in float32, as the released code does",
    }  # fmt: skip


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


def _timed(into: list[float], call: Callable[[], Tensor]) -> Tensor:
    started = time.perf_counter()
    result = call()
    into.append(time.perf_counter() - started)
    return result
