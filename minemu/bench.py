"""Ratios: two ways to do the same, side by side in one run, several times, with the spread; and memory against what it should be."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minemu import sequence
from minemu.config import EmuConfig
from minemu.convert import convert, split_by_size
from minemu.errors import MinemuError
from minemu.files import read_json, write_json
from minemu.loading import cast_weights
from minemu.model import LOGS, Emu
from minemu.official import our_shapes, published_name
from minemu.shards import write_index, write_shard
from minemu.training.machine import memory

RUNS = 3
PARITY = 1e-5  # largest error of float32
PICTURES, WORDS = 4, 24  # the prompt: four pictures with six words before each

ROWS = {
    "image-embeds-n32": "cached generation of 32 visual embeddings against recomputing the prefix for each, float32",
    "image-embeds-n64": "the same for 64",
    "image-embeds-n32-bf16": "cached generation of 32 in bfloat16 against recomputing in float32; the error is stated",
    "image-embeds-n64-bf16": "the same for 64",
    "train-step-packed": "a training step of emu-tiny's LLM on packed rows against the same documents padded, float32",
    "train-step-bf16": "the packed step in bfloat16 autocast against float32",
    "convert-peak": "memory that converting a sharded checkpoint of 5 GB takes, against its largest shard",
    "train-peak": "memory of the largest stage of the shipped checkpoint, by its logs, against 4 GB",
    "make-demo": "3 minutes against `make demo` after its set-up",
    "make-test": "12 minutes against `make test` after its set-up",
}
LIMITS = {"make-demo": 3 * 60, "make-test": 12 * 60}  # seconds
TRAIN_LIMIT = 4.0  # GB


def run_bench(rows: list[str]) -> dict[str, Any]:
    """`{"machine", "rows": {NAME: {"ratio", "min", "max", "runs", "against", ...}}}`; prints each row as it is known."""
    found = {}
    for row in rows:
        entry = _measured(row)
        found[row] = entry
        print(f"{row:24} {entry['ratio']:.1f} x  ({entry['said']})")
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    return {"machine": machine, "rows": found}


def _measured(row: str) -> dict[str, Any]:
    if row.startswith("train-step"):
        return train_step(row.removeprefix("train-step-"))
    if row in LIMITS:
        return make_target(row.removeprefix("make-"), LIMITS[row])
    if row == "train-peak":
        return train_peak(Path("data_samples/emu-tiny"))
    return convert_peak() if row == "convert-peak" else _image_embeds_row(row)


def _image_embeds_row(row: str) -> dict[str, Any]:
    _, _, count, *low = row.split("-")
    entry = image_embeds(int(count[1:]), torch.bfloat16 if low else torch.float32)
    spread = f"{entry['min']:.1f} to {entry['max']:.1f} in {entry['runs']} runs"
    errors = f"{entry['error']:.1e} on equal prefixes, {entry['drift']:.1e} with own predictions fed back"
    return {**entry, "said": f"{spread}, largest error {errors}"}


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
        cast_weights(fast, dtype)
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


def train_step(way: str, documents: int = 64) -> dict[str, Any]:
    """Forward and backward of emu-tiny's LLM on documents of one to five pictures, "packed" or in "bf16", against the plainer way."""
    torch.manual_seed(0)
    model = Emu(EmuConfig.preset("emu-tiny"))
    config, ids, generator = model.config, model.ids, torch.Generator().manual_seed(0)
    rows, pictures = [], []
    for number in range(documents):
        count = number % 5 + 1
        embeds = torch.randn(count, config.bridge.n_image, config.embed_width, generator=generator)
        words = torch.randint(3, config.llm.words, (count, 12), generator=generator).tolist()
        rows.append(
            sequence.interleave([piece for text in words for piece in (text, sequence.PICTURE)], ids, embeds.shape[1])
        )
        pictures.append(embeds)
    packed = sequence.pack_rows(rows, ids, 2 * max(map(len, rows)))
    packed["image_embeds"] = torch.cat([pictures[i] for i in packed.pop("order")])
    padded = {**sequence.pad_rows(rows, ids), "image_embeds": torch.cat(pictures)}

    def step(batch: dict[str, Tensor], low: bool = False) -> Tensor:
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            loss = model(**batch).loss
        loss.backward()
        return loss.detach()

    slow, quick = (padded, packed) if way == "packed" else (packed, packed)
    slow_seconds, quick_seconds = [], []
    step(slow), step(quick, way == "bf16")  # warm up
    for _ in range(RUNS):
        expected = _timed(slow_seconds, lambda: step(slow))
        found = _timed(quick_seconds, lambda: step(quick, way == "bf16"))
    ratios = [a / b for a, b in zip(slow_seconds, quick_seconds, strict=True)]
    error = (found - expected).abs().item()
    return {
        "ratio": statistics.median(ratios), "min": min(ratios), "max": max(ratios), "runs": RUNS, "error": error,
        "seconds": statistics.median(quick_seconds),
        "against": "each document in a padded row of its own" if way == "packed" else "the same step in float32",
        "said": f"{min(ratios):.1f} to {max(ratios):.1f} in {RUNS} runs, losses differ by {error:.1e}",
    }  # fmt: skip


def convert_peak(layers: int = 6, changes: dict[str, Any] | None = None, shard_bytes: int = 2**30) -> dict[str, Any]:
    """Peak memory of converting a sharded bfloat16 checkpoint of emu-14b's widths and `layers` blocks in each stage.

    It is measured in a process of its own, above what that holds before it begins. Pages of the input that are mapped count too.
    """
    depth = {f"{part}.layers": layers for part in ("vision", "bridge", "llm")}
    config = EmuConfig.preset("emu-14b").override({**depth, **(changes or {})})
    with tempfile.TemporaryDirectory() as folder:
        shards = write_published(Path(folder) / "published", config, shard_bytes)
        write_json(Path(folder) / "config.json", config.to_dict())
        command = [sys.executable, "-c", "from minemu import bench; bench.print_peak()", folder]
        printed = subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent
        ).stdout
    peak, largest, whole = json.loads(printed)["peak"], max(shards), sum(shards)
    ratio = peak / largest
    return {
        "ratio": ratio, "min": ratio, "max": ratio, "runs": 1, "against": "its largest shard; all of it would not fit a small machine",
        "peak_bytes": peak, "largest_shard_bytes": largest, "checkpoint_bytes": whole,
        "said": f"peak {peak / 2**20:,.0f} MiB, largest shard {largest / 2**20:,.0f} MiB, checkpoint {whole / 2**20:,.0f} MiB",
    }  # fmt: skip


def write_published(folder: Path, config: EmuConfig, shard_bytes: int) -> list[int]:
    """A sharded checkpoint of random bfloat16 numbers under the published names. Returns the size of each file."""
    shapes = {published_name(name, config): shape for name, shape in our_shapes(config).items()}
    sizes = {name: 2 * torch.Size(shape).numel() for name, shape in shapes.items()}
    files = {
        f"pytorch_model-{i:05d}.safetensors": names for i, names in enumerate(split_by_size(sizes, shard_bytes), 1)
    }
    for file, names in files.items():
        wanted = {name: (shapes[name], torch.bfloat16) for name in names}
        write_shard(folder / file, wanted, lambda name: torch.randn(shapes[name], dtype=torch.bfloat16))
    write_index(folder, {name: file for file, names in files.items() for name in names}, sum(sizes.values()))
    return [(folder / file).stat().st_size for file in files]


def print_peak() -> None:
    """Convert the checkpoint in the folder that is named on the command line, and print the memory that it took."""
    folder = Path(sys.argv[1])
    config = EmuConfig.from_dict(read_json(folder / "config.json"))
    our_shapes(config)  # what is imported and built for any checkpoint does not count
    before = memory("VmRSS")
    convert(folder / "published", config, folder / "converted")
    print(
        json.dumps({"peak": memory("VmHWM") - before})
    )  # ru_maxrss would also remember the process that started this one


def train_peak(checkpoint: Path) -> dict[str, Any]:
    """The largest `peak_gb` in the logs of a checkpoint's training."""
    logs = sorted((checkpoint / LOGS).glob("*.jsonl"))
    if not logs:
        raise MinemuError(f"{checkpoint} has no training logs; run it where data_samples is")
    peaks = {
        log.stem: max(json.loads(line)["peak_gb"] for line in log.read_text().splitlines())
        for log in logs
        if log.stat().st_size
    }
    stage = max(peaks, key=peaks.__getitem__)
    ratio = peaks[stage] / TRAIN_LIMIT
    said = f"{peaks[stage]:.2f} GB, stage {stage}"
    return {
        "ratio": ratio,
        "min": ratio,
        "max": ratio,
        "runs": 1,
        "gb": peaks,
        "against": f"{TRAIN_LIMIT:g} GB",
        "said": said,
    }


def make_target(target: str, limit: int) -> dict[str, Any]:
    """A limit of seconds over the time that `make TARGET` takes; what it sets up is set up before."""
    for what in ("setup", target):
        started = time.perf_counter()
        done = subprocess.run(["make", what], capture_output=True, text=True)
        seconds = time.perf_counter() - started
        if done.returncode:
            last = (done.stdout + done.stderr).strip().splitlines()[-1:]
            raise MinemuError(f"make {what} failed: {' '.join(last)} (it is run in the folder that this is started in)")
    ratio, said = limit / seconds, f"{seconds:.0f} s"
    against = f"{limit // 60} minutes, its limit"
    return {"ratio": ratio, "min": ratio, "max": ratio, "runs": 1, "seconds": seconds, "against": against, "said": said}


def _timed(into: list[float], call: Callable[[], Tensor]) -> Tensor:
    started = time.perf_counter()
    result = call()
    into.append(time.perf_counter() - started)
    return result
