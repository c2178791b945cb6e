"""Ratios: two ways to do the same, side by side in one run, several times, with the spread; and memory against what it should be.

speed     drawing with the cache, steps of training, what of them are matrix products, guidance
memory    of a conversion, and of the text loss
records   what the shipped checkpoint's training logs tell, and how long the README's commands take
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from minemu.bench.memory import convert_peak, logit_memory
from minemu.bench.records import data_wait, make_target, train_peak
from minemu.bench.speed import guidance, image_embeds, image_embeds_bound, matmul_share, train_step

CHECKPOINT = Path("data_samples/emu-tiny")

ROWS: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {  # what it is, and what measures it
    "image-embeds-n32": (
        "cached generation of 32 visual embeddings against recomputing the prefix for each, float32",
        partial(image_embeds, 32),
    ),
    "image-embeds-n64": ("the same for 64", partial(image_embeds, 64)),
    "image-embeds-n32-bf16": (
        "cached generation of 32 in bfloat16 against recomputing in float32; the error is stated",
        partial(image_embeds, 32, torch.bfloat16),
    ),
    "image-embeds-n64-bf16": ("the same for 64", partial(image_embeds, 64, torch.bfloat16)),
    "image-embeds-bound": (
        "the share of cached generation of 32, float32, that its matrix products alone take; the rest is the most that could be saved",
        partial(image_embeds_bound, 32),
    ),
    "packing": (
        "a training step of emu-tiny's LLM on packed rows against the same documents padded, float32",
        partial(train_step, "packed"),
    ),
    "train-step-bf16": ("the packed step in bfloat16 autocast against float32", partial(train_step, "bf16")),
    "train-step-compiled": (
        "the packed step in bfloat16 with the LLM's layers compiled against that without",
        partial(train_step, "compiled"),
    ),
    "matmul-share-tiny": (
        "operations a second of the packed step of emu-tiny's LLM against those of a large matrix product, float32",
        partial(matmul_share, "tiny"),
    ),
    "matmul-share-small": (
        "the same for the LLM of the rows about drawing: 12 layers, width 576",
        partial(matmul_share, "small"),
    ),
    "logit-memory": (
        "what a loss over all positions keeps for its backward pass against minemu's, over those that say a word",
        logit_memory,
    ),
    "guidance": ("guided drawing with both conditions in one pass against a pass for each, float32", guidance),
    "convert-peak": (
        "memory that converting a sharded checkpoint of 5 GB takes, against its largest shard",
        convert_peak,
    ),
    "train-peak": (
        "memory of the largest stage of the shipped checkpoint, by its logs, against 4 GB",
        partial(train_peak, CHECKPOINT),
    ),
    "data-wait": (
        "the share of a step that waits for its batch, in the stage of the shipped checkpoint that waits longest, by its logs",
        partial(data_wait, CHECKPOINT),
    ),
    "make-demo": ("3 minutes against `make demo` after its set-up", partial(make_target, "demo", 3 * 60)),
    "make-test": ("12 minutes against `make test` after its set-up", partial(make_target, "test", 12 * 60)),
}


def run_bench(rows: list[str], keep: Callable[[dict[str, Any]], None] = lambda found: None) -> dict[str, Any]:
    """`{"machine", "rows": {NAME: {"ratio", "min", "max", "runs", "against", ...}}}`; prints each row as it is known.

    `keep` gets what is known after each row: one that fails does not take those before with it.
    """
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    found: dict[str, Any] = {}
    for row in rows:
        _, measure = ROWS[row]
        entry = found[row] = measure()
        print(f"{row:24} {entry['ratio']:.2f} x  ({entry['said']})")
        keep({"machine": machine, "rows": found})
    return {"machine": machine, "rows": found}
