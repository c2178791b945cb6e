"""A published model at its full size on one GPU, with random weights: what it holds and how long it takes, beside what `minemu plan` says.

Nothing is downloaded, so nothing is shown of quality; the code is that which runs with the published weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from minemu import sequence
from minemu.adapters import instruct_config
from minemu.bench.speed import PICTURES, prompt, recompute
from minemu.config import EmuConfig
from minemu.costs import count_parameters
from minemu.errors import MinemuError
from minemu.loading import load_module
from minemu.model import Emu, add_lora
from minemu.plan import Load, plan
from minemu.visual_decoder import VisualDecoder

SAID = 64  # tokens after the prompt
DEVIATION = 0.02  # of random weights, and of the prompt's embeddings
DTYPE = torch.bfloat16
MEMORY = 80 * 10**9  # bytes of the GPU


def run_full_scale(
    preset: str,
    device: str | torch.device,
    length: int = 1024,
    keep: Callable[[dict[str, Any]], None] = lambda found: None,
) -> dict[str, Any]:
    """`{"machine", "preset", "rows": {NAME: {"seconds", "bytes", "planned_bytes", "said", ...}}}`; prints each row as it is known.

    `length` is that of the training rows, which hold all gradients of the model, and no optimizer. `keep` gets what is known after
    each row: one that does not fit does not take those before with it.
    """
    config, device = EmuConfig.preset(preset), torch.device(device)
    if 2 * DTYPE.itemsize * count_parameters(config)["total"] > MEMORY:  # weights and gradients
        raise MinemuError(f"{preset} does not fit one GPU of {MEMORY / 1e9:.0f} GB; take emu-14b")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    machine, rows = {"device": name, "torch": torch.__version__}, {}
    found = {"machine": machine, "preset": preset, "length": length, "rows": rows}

    def tell(name: str, row: dict[str, Any]) -> None:
        rows[name] = row
        print(f"{name:17} {row['said']}", flush=True)
        keep(found)

    torch.manual_seed(0)
    row, embeds = prompt(config, DEVIATION)
    row, embeds = row.to(device), embeds.to(device, DTYPE)
    planned = plan(config, 1, 0, Load(1, row.shape[1] + SAID, PICTURES))
    weights = next(entry for entry in planned["inference"] if entry["weights_in"] == "bfloat16")
    model = with_random_weights(lambda: Emu(config), device)
    decoder = with_random_weights(lambda: VisualDecoder(config.decoder), device)
    decoder.to(DTYPE)  # buffers too, as it loads itself
    tell("weights", _memory(device, weights["weights"] + weights["decoder"]))
    tell("words", say(model, row, device, weights["total"]))
    tell("visual embeddings", imagine(model, row, embeds, device))
    tell("picture", draw(decoder, config, device, planned["decoder_flops_a_picture"]))
    del decoder
    tell("training step", step(model, plan(config, 1, 0, Load(1, length, 1)), length, device))
    model.zero_grad(set_to_none=True)
    tell("Emu-I step", instruct_step(model, length, device))
    return found


def with_random_weights(build: Callable[[], nn.Module], device: torch.device) -> nn.Module:
    """The module as `load_module` makes it of a checkpoint; the checkpoint's numbers are random, and never on the CPU."""
    with init_empty_weights(include_buffers=True):
        shapes = {name: tensor.shape for name, tensor in build().state_dict().items()}
    tensors = {name: _random(name, shape, device) for name, shape in shapes.items()}
    return load_module(build, tensors, "random weights", DTYPE, device_map=device)


def _random(name: str, shape: torch.Size, device: torch.device) -> Tensor:
    if len(shape) == 1:  # of norms, and of what is normalised
        return torch.full(shape, float(not name.endswith(("bias", "mean"))), dtype=DTYPE, device=device)
    return torch.randn(shape, dtype=DTYPE, device=device).mul_(DEVIATION)


# ---- what it does ----------------------------------------------------------------------------------------------------------


def say(model: Emu, row: Tensor, device: torch.device, planned: float) -> dict[str, Any]:
    """Encode four pictures and say 64 tokens about them."""
    side = model.config.vision.image_size
    images = torch.randn(PICTURES, 3, side, side, dtype=DTYPE, device=device)
    seconds, _ = timed(device, lambda: model.encode_images(images))
    found = {}
    for tokens in (1, SAID):
        keywords = {"min_new_tokens": tokens, "max_new_tokens": tokens, "do_sample": False}
        found[tokens], _ = timed(device, lambda keywords=keywords: model.generate(row, images=images, **keywords))
    rate = (SAID - 1) / (found[SAID] - found[1])
    memory = _memory(device, planned)
    said = f"{rate:.1f} tokens a second, the first after {found[1]:.2f} s with four pictures read in {seconds:.3f} s; {memory['said']}"
    return {**memory, "seconds": found[SAID], "tokens_a_second": rate, "encode_seconds": seconds, "said": said}


def imagine(model: Emu, row: Tensor, embeds: Tensor, device: torch.device) -> dict[str, Any]:
    """The N embeddings of a next picture with a cache, and with the prefix anew for each."""
    seconds, cached = timed(device, lambda: model.generate_image_embeds(row, image_embeds=embeds))
    slow, again = timed(device, lambda: recompute(model, row, embeds, cached))
    error = ((cached - again).float().square().mean().sqrt() / again.float().std()).item()
    ratio = slow / seconds
    said = f"{seconds:.2f} s for {cached.shape[1]}, {ratio:.1f} x as fast as without a cache, {error:.1%} of their deviation apart"
    return {"seconds": seconds, "ratio": ratio, "error": error, "said": said}


def draw(decoder: VisualDecoder, config: EmuConfig, device: torch.device, flops: int) -> dict[str, Any]:
    """One picture from its embeddings, all steps, guided."""
    embeds = torch.randn(2, 1, config.bridge.n_image, config.decoder.condition_width, dtype=DTYPE, device=device)
    seconds, _ = timed(device, lambda: decoder.decode(embeds[0], embeds[1]))
    rate = flops / seconds / 1e12
    side = config.decoder.image_size
    said = f"{seconds:.2f} s for {side} x {side} pixels in {config.decoder.inference_steps} steps, {rate:.1f} TFLOP/s"
    return {"seconds": seconds, "tflops_a_second": rate, "said": said}


def step(model: Emu, planned: dict[str, Any], length: int, device: torch.device) -> dict[str, Any]:
    """Forward and backward of everything, with the gradients of the step before in memory: those and the weights in bfloat16."""
    model.train().requires_grad_(True)
    batch = _example(model, length, device)

    def run() -> Tensor:
        loss = model(**batch).loss
        loss.backward()
        return loss.detach()

    seconds, loss = timed(device, run)
    _check_finite(loss)
    plain = planned["training"][0]
    size = sum(parameter.nbytes for parameter in model.parameters())
    memory = _memory(device, 2 * size + plain["activations"] + plain["logits"])
    rate = planned["training_step_flops"]["plain"] / seconds / 1e12
    return {
        **memory,
        "seconds": seconds,
        "tflops_a_second": rate,
        "said": f"{seconds:.2f} s for {length} positions, {rate:.0f} TFLOP/s; {memory['said']}",
    }


def instruct_step(model: Emu, length: int, device: torch.device) -> dict[str, Any]:
    """A step of Emu-I: forward and backward through the frozen model into its adapters, and AdamW on these."""
    model.requires_grad_(False)
    config = instruct_config(model.config)
    model.llm = add_lora(model.llm, config.llm).to(device)
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=1e-4)
    batch = _example(model, length, device)

    def run() -> Tensor:
        optimizer.zero_grad()
        loss = model(**batch).text_loss
        loss.backward()
        optimizer.step()
        return loss.detach()

    seconds, loss = timed(device, run)
    _check_finite(loss)
    count, memory = sum(parameter.numel() for parameter in learnt), _memory(device)
    said = f"{seconds:.2f} s for {length} positions, {count:,} parameters learn; {memory['said']}"
    return {**memory, "seconds": seconds, "learnt": count, "said": said}


def _example(model: Emu, length: int, device: torch.device) -> dict[str, Tensor]:
    """A row of `length` positions: a picture, then words."""
    config = model.config
    n, side = config.bridge.n_image, config.vision.image_size
    words = torch.randint(3, config.llm.words, (length - n - 3,)).tolist()
    row = sequence.interleave([sequence.PICTURE, words], model.ids, n)
    return {
        "input_ids": torch.tensor([row], device=device),
        "images": torch.randn(1, 3, side, side, dtype=DTYPE, device=device),
    }


# ---- clocks and scales -----------------------------------------------------------------------------------------------------


def timed(device: torch.device, call: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Seconds of a second call, as the first also chooses kernels; and what it gave. Peak memory is that of both."""
    _forget_peak(device)
    call()
    _wait(device)
    started = time.perf_counter()
    result = call()
    _wait(device)
    return time.perf_counter() - started, result


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _memory(device: torch.device, planned: float | None = None) -> dict[str, Any]:
    """Most bytes of tensors on the GPU since the last call of `timed`, beside those planned; of a CPU nothing is said."""
    held = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    parts = [f"{held / 2**30:.1f} GiB"] if held is not None else []
    parts += [f"{planned / 2**30:.1f} GiB planned"] if planned is not None else []
    return {"bytes": held, "planned_bytes": planned, "said": ", ".join(parts)}


def _check_finite(loss: Tensor) -> None:
    if not loss.isfinite():
        raise MinemuError(f"the loss is {loss.item()}; what was timed was no training step")
