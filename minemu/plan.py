"""What a configuration needs, before anything is allocated: memory of training and of inference on each device, and what fits.

The operations and the activations are measured (`minemu.costs`); what stays in memory beside them is arithmetic:

    training, sharded over n devices (FSDP)   float32 weights 4 P / n, gradients 4 Q / n, AdamW's two moments 8 Q / n,
                                              the bfloat16 weights that are gathered, activations, logits
    inference, spread over n devices          weights / n, key-value cache / n, and the decoder

P parameters, of which Q learn (with LoRA the factors alone), n devices; minemu itself trains on one. All sizes are bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from minemu.config import EmuConfig
from minemu.costs import COMPUTE, Cost, count_parameters, decoder_flops, forward_costs
from minemu.errors import MinemuError

DECIMAL = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS = {**DECIMAL, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
MOST_MEMORY = 2**60  # of a device
DEVICES = [2**k for k in range(11)]  # numbers of devices that are tried
MOST = 10_000_000  # of anything that is asked about: beyond it numbers overflow
VISUAL = ("visual_encoder", "ln_visual", "causal_transformer", "project_up")
TRAINING_PARTS = ("weights", "gradients", "moments", "gathered", "activations", "logits")
INFERENCE_PARTS = ("weights", "cache", "decoder")
# Bytes a weight. Quantised ones carry scales: those of bitsandbytes' 4 bits are one float32 for 64 weights.
WEIGHT_BYTES = {"float32": 4.0, "bfloat16": 2.0, "8-bit LLM": 1.0, "4-bit LLM": 0.5 + 4 / 64}
HOW = {
    "bfloat16": "dtype='bfloat16'",
    "8-bit LLM": "dtype='bfloat16', quantization_config=BitsAndBytesConfig(load_in_8bit=True)",
    "4-bit LLM": "dtype='bfloat16', quantization_config=BitsAndBytesConfig(load_in_4bit=True)",
}


def read_size(text: str) -> int:
    """`"80GiB"` in bytes."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    if not match or match[2] not in UNITS:
        raise MinemuError(f"'{text}' is no size of memory; write it as 80GiB, 24GB or 512MiB")
    size = float(match[1]) * UNITS[match[2]]
    if size > MOST_MEMORY:
        raise MinemuError(f"'{text[:20]}' is more memory than any device has; write it as 80GiB, 24GB or 512MiB")
    return int(size)


# ---- what a device has to hold ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Load:
    """What each device works on: sequences, positions in each, pictures in each."""

    batch: int
    length: int
    pictures: int


@dataclass(frozen=True)
class Training:
    """Bytes on each device while training everything."""

    checkpointing: bool
    weights: float
    gradients: float
    moments: float
    gathered: float  # the weights in the precision of computing: all of them, or with sharding what is in use
    activations: float
    logits: float

    @property
    def total(self) -> float:
        return sum(getattr(self, part) for part in TRAINING_PARTS)


def training_memory(
    config: EmuConfig, counts: dict[str, int], costs: dict[str, Cost], devices: int, load: Load, checkpointing: bool
) -> Training:
    """`costs` are those of the load of one device.

    With checkpointing each layer keeps its input only, and one is run anew at a time.
    """
    total, llm = counts["total"], config.llm
    learnt = counts.get("LoRA factors", total)
    copied = sum(counts.get(name, 0) for name in VISUAL) if config.objective.targets == "frozen" else 0  # the teacher
    in_use = 2 * llm.vocab_size * llm.width  # embedding and LM head, which FSDP keeps gathered
    in_use += 2 * counts["LLM linear layers"] / llm.layers  # the layer that runs, and the next one
    logit_bytes = COMPUTE.itemsize + 4 + 4  # a logit, its float32 log-probability, the gradient of that
    return Training(
        checkpointing,
        weights=4 * (total + copied) / devices,
        gradients=4 * learnt / devices,
        moments=8 * learnt / devices,
        gathered=COMPUTE.itemsize * (total if devices == 1 else min(in_use, total)),
        activations=_activations(config, costs, load, checkpointing),
        logits=load.batch * load.length * llm.vocab_size * logit_bytes,
    )


def _activations(config: EmuConfig, costs: dict[str, Cost], load: Load, checkpointing: bool) -> float:
    if not checkpointing:
        return sum(cost.kept for cost in costs.values())
    vision, llm = config.vision, config.llm
    tokens = {"visual encoder": load.batch * load.pictures * (1 + vision.patches), "LLM": load.batch * load.length}
    stacks = {"visual encoder": vision, "LLM": llm}
    inputs = sum(stack.layers * stack.width * tokens[name] * COMPUTE.itemsize for name, stack in stacks.items())
    rerun = max(costs[name].kept / stack.layers for name, stack in stacks.items())
    return inputs + rerun + costs["bridge"].kept + costs["heads"].kept


@dataclass(frozen=True)
class Inference:
    """Bytes on each device while generating; the decoder is whole, on the first one."""

    weights_in: str
    weights: float
    cache: float
    decoder: float

    @property
    def total(self) -> float:
        return sum(getattr(self, part) for part in INFERENCE_PARTS)


def inference_memory(config: EmuConfig, counts: dict[str, int], devices: int, load: Load, weights_in: str) -> Inference:
    size = 4 if weights_in == "float32" else COMPUTE.itemsize
    small = counts["LLM linear layers"]
    weights = small * WEIGHT_BYTES[weights_in] + (counts["total"] - small) * size
    cache = 2 * config.llm.layers * load.batch * load.length * config.llm.kv_width * size  # keys and values
    return Inference(weights_in, weights / devices, cache / devices, counts["decoder"] * size)


# ---- the plan --------------------------------------------------------------------------------------------------------------


def plan(config: EmuConfig, devices: int, memory: int, load: Load) -> dict[str, Any]:
    """As one JSON object: what it costs, what fits `memory` bytes on each device, and what to change where it does not."""
    _check(config, devices, load)
    counts = count_parameters(config)
    costs = forward_costs(config, load.batch, load.length, load.pictures)

    def training(checkpointing: bool, n: int) -> Training:
        return training_memory(config, counts, costs, n, load, checkpointing)

    def inference(weights_in: str, n: int) -> Inference:
        return inference_memory(config, counts, n, load, weights_in)

    forward = sum(cost.flops for cost in costs.values())
    result = {
        "preset": config.name,
        "devices": devices,
        "memory": memory,
        **asdict(load),
        "parameters": counts,
        "forward_flops": {**{name: cost.flops for name, cost in costs.items()}, "total": forward},
        "training_step_flops": {"plain": 3 * forward, "checkpointing": 4 * forward},
        "decoder_flops_a_picture": decoder_flops(config),
        "training": _rows(training, (False, True), devices, memory),
        "inference": _rows(inference, WEIGHT_BYTES, devices, memory),
    }
    return {**result, "advice": [_advice_training(result), _advice_inference(result)]}


def _check(config: EmuConfig, devices: int, load: Load) -> None:
    for name, value in (("devices", devices), ("batch", load.batch), ("length", load.length)):
        if value < 1:
            raise MinemuError(f"--{name} {value} is too few; give 1 or more")
        if value > MOST:
            raise MinemuError(f"--{name} {value} is more than {MOST:,}; give fewer")
    if load.length > (context := config.llm.context):
        raise MinemuError(
            f"--length {load.length} is more than the context of {context}; shorten it or --set llm.context"
        )
    most = load.length // (config.bridge.n_image + 2)
    if not 0 <= load.pictures <= most:
        raise MinemuError(
            f"--pictures {load.pictures} do not go into {load.length} positions; give 0 to {most}, or raise --length"
        )


def _rows(
    needs: Callable[[Any, int], Training | Inference], choices: Iterable, devices: int, memory: int
) -> list[dict[str, Any]]:
    """What each of `devices` holds by each choice, and on how many it fits: the fewest of DEVICES, or None."""
    rows = []
    for choice in choices:
        row = needs(choice, devices)
        enough = [n for n in DEVICES if needs(choice, n).total <= memory]
        needed = enough[0] if enough else None
        rows.append({**asdict(row), "total": row.total, "fits": row.total <= memory, "devices_needed": needed})
    return rows


def _advice_training(found: dict[str, Any]) -> str:
    plain, checkpointed = found["training"]
    where, several = f"{found['devices']} x {_gib(found['memory'])}", found["devices"] > 1
    if plain["fits"]:
        return f"training fits {where}, without activation checkpointing{_not_here(sharded=several)}"
    if checkpointed["fits"]:
        return f"training fits {where} with activation checkpointing{_not_here(several, checkpointed=True)}"
    if (needed := checkpointed["devices_needed"]) is not None:
        return (
            f"training does not fit {where}: take {needed} such devices with FSDP and activation checkpointing"
            f"{_not_here(sharded=True, checkpointed=True)}, or train LoRA adapters alone"
        )
    kept = _gib(sum(checkpointed[part] for part in ("gathered", "activations", "logits")))
    return f"training does not fit {where}: what is not sharded is {kept} a device; lower --batch or --length"


def _not_here(sharded: bool, checkpointed: bool = False) -> str:
    """What of it other code has to do: minemu trains on one device, and keeps all activations."""
    lacks = [name for name, asked in (("FSDP", sharded), ("activation checkpointing", checkpointed)) if asked]
    return f" (not in minemu: {', '.join(lacks)})" if lacks else ""


def _advice_inference(found: dict[str, Any]) -> str:
    where = f"{found['devices']} x {_gib(found['memory'])}"
    rows = {row["weights_in"]: row for row in found["inference"]}
    fitting = next((name for name in HOW if rows[name]["fits"]), None)
    if fitting is None:
        needed = rows["4-bit LLM"]["devices_needed"]
        decoder = rows["4-bit LLM"]["decoder"]
        more = (
            f"take {needed} devices with 4-bit weights"
            if needed
            else f"the decoder alone is {_gib(decoder)}, take a larger first one"
        )
        return (
            f"inference does not fit {where}: {more}, or let device_map='auto' leave the rest to memory and disk (slow)"
        )
    return f"inference fits {where}: Emu.from_pretrained(folder, {HOW[fitting]}, device_map='auto')"


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**29 else f"{size / 2**20:.1f} MiB"


def lines(found: dict[str, Any]) -> list[str]:
    """The plan for people."""
    load = f"{found['batch']} x {found['length']} positions, {found['pictures']} pictures in each"
    return [
        f"{found['preset']} on {found['devices']} x {_gib(found['memory'])}; load of a device: {load}",
        "\nparameters",
        *(f"  {name:18} {count:>18,}" for name, count in found["parameters"].items()),
        "\nGFLOPs of a forward pass",
        *(f"  {name:18} {flops / 1e9:>18,.3f}" for name, flops in found["forward_flops"].items()),
        f"  {'one drawn picture':18} {found['decoder_flops_a_picture'] / 1e9:>18,.3f}",
        "\na device holds, training everything with AdamW",
        *(_row("checkpointing" if row["checkpointing"] else "plain", row, TRAINING_PARTS) for row in found["training"]),
        "\na device holds, generating",
        *(_row(row["weights_in"], row, INFERENCE_PARTS) for row in found["inference"]),
        "",
        *found["advice"],
    ]


def _row(name: str, row: dict[str, Any], parts: tuple[str, ...]) -> str:
    held = ", ".join(f"{part} {_gib(row[part])}" for part in parts)
    verdict = "fits" if row["fits"] else f"fits on {row['devices_needed']}" if row["devices_needed"] else "never fits"
    return f"  {name:14} {_gib(row['total']):>10}  {verdict:12} {held}"
