"""How much memory: of converting a checkpoint that is larger than the machine, and of a loss over words alone."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minemu import sequence
from minemu.bench.speed import documents_of
from minemu.config import EmuConfig
from minemu.convert import convert, split_by_size
from minemu.costs import measure
from minemu.errors import MinemuError
from minemu.files import read_json, write_json
from minemu.model import Emu
from minemu.objective import text_loss
from minemu.official import our_shapes, published_name
from minemu.shards import write_index, write_shard
from minemu.training.machine import memory


def convert_peak(layers: int = 6, changes: dict[str, Any] | None = None, shard_bytes: int = 2**30) -> dict[str, Any]:
    """Peak memory of converting a sharded bfloat16 checkpoint of emu-14b's widths and `layers` blocks in each stage.

    It is measured in a process of its own, above what that holds before it begins. Pages of the input that are mapped count too.
    """
    depth = {f"{part}.layers": layers for part in ("vision", "bridge", "llm")}
    config = EmuConfig.preset("emu-14b").override({**depth, **(changes or {})})
    with tempfile.TemporaryDirectory() as folder:
        shards = write_published(Path(folder) / "published", config, shard_bytes)
        write_json(Path(folder) / "config.json", config.to_dict())
        command = [sys.executable, "-c", "from minemu.bench import memory; memory.print_peak()", folder]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"it ended with status {done.returncode}"]
        raise MinemuError(f"the conversion to be measured failed: {last[0]}; free memory and disk space")
    peak, largest, whole = json.loads(done.stdout)["peak"], max(shards), sum(shards)
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
    # ru_maxrss would also remember the process that started this one.
    print(json.dumps({"peak": memory("VmHWM") - before}))


def logit_memory(documents: int = 64) -> dict[str, Any]:
    """What cross-entropy keeps for its backward pass, over all positions and, as in minemu, over those alone that say a word.

    There are logits of all positions in both; where a picture is, minemu spares their float32 copy and its log-softmax.
    """
    model = Emu(EmuConfig.preset("emu-tiny"))
    _, padded = documents_of(model, documents)
    targets = sequence.targets(padded["input_ids"], model.ids, model.config.objective)
    logits = torch.randn(*padded["input_ids"].shape, model.config.llm.vocab_size, requires_grad=True)

    def plain() -> Tensor:
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.text.flatten(), ignore_index=sequence.IGNORE)

    def ours() -> Tensor:
        return text_loss(logits, targets)

    kept = [measure(loss, nn.Module()).kept for loss in (plain, ours)]
    ratio = kept[0] / kept[1]
    return {
        "ratio": ratio, "min": ratio, "max": ratio, "runs": 1, "against": "the logits of all positions",
        "error": (plain() - ours()).abs().item(), "said": " and ".join(f"{size / 2**20:,.1f}" for size in kept) + " MiB",
    }  # fmt: skip
