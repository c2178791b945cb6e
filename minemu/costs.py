"""What the stages cost, from running them once on *fake* tensors, which have a shape and a type and no memory.

That gives the operations of a forward pass, and what autograd would keep for the backward pass, of the very code that will run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from minemu.causal_transformer import pool_features
from minemu.config import EmuConfig
from minemu.model import Emu
from minemu.visual_decoder import VisualDecoder, begins_as_sketch, build_sampler

COMPUTE = torch.bfloat16


@dataclass(frozen=True)
class Cost:
    """Of one forward pass: floating-point operations, and bytes that autograd keeps (the weights apart)."""

    flops: int
    kept: int


def measure(run: Callable[[], object], module: nn.Module) -> Cost:
    """The cost of `run`, which uses `module`; on fake tensors it takes no memory."""
    weights = {parameter.untyped_storage()._cdata for parameter in module.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    attention = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
    counter = FlopCounterMode(display=False, custom_mapping=attention)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), counter:
        run()
    return Cost(counter.get_total_flops(), sum(storage.nbytes() for storage in kept.values()))


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_, out_shape=None, **__) -> int:
    return sdpa_flop_count(query, key, value)


def fake(build: Callable[[], nn.Module], dtype: torch.dtype = COMPUTE) -> tuple[nn.Module, FakeTensorMode]:
    """A module whose weights are fake, and the mode in which to use it."""
    with init_empty_weights(include_buffers=True):
        module = build()
    with FakeTensorMode() as mode:
        for part in module.modules():
            for name, weight in part.named_parameters(recurse=False):
                setattr(part, name, nn.Parameter(torch.empty(weight.shape, dtype=dtype)))
            for name, buffer in part.named_buffers(recurse=False):
                setattr(
                    part, name, torch.empty(buffer.shape, dtype=dtype if buffer.is_floating_point() else buffer.dtype)
                )
    return module.train(), mode


def forward_costs(config: EmuConfig, batch: int, length: int, pictures: int) -> dict[str, Cost]:
    """One forward pass of `batch` sequences of `length` positions, each with `pictures` pictures among them."""
    model, mode = fake(lambda: Emu(config))
    vision, n = config.vision, batch * pictures
    with mode:
        images = torch.empty(n, 3, vision.image_size, vision.image_size, dtype=COMPUTE)
        features = torch.empty(n, 1 + vision.patches, vision.width, dtype=COMPUTE)
        words = torch.empty(batch, length, config.llm.width, dtype=COMPUTE)
        bridge = _causal if config.bridge.kind == "causal" else _pooled
        return {
            "visual encoder": measure(lambda: model.visual_encoder(images), model),
            "bridge": measure(lambda: bridge(model, features), model),
            "LLM": measure(lambda: model.llm.model(inputs_embeds=words, use_cache=False), model),
            "heads": measure(lambda: (model.llm.lm_head(words), model.regression_head(words)), model),
        }


def _causal(model: Emu, features: Tensor) -> Tensor:
    return model.causal_transformer(model.ln_visual(features))


def _pooled(model: Emu, features: Tensor) -> Tensor:
    return model.project_up(pool_features(features, model.config.bridge.n_image, model.config.vision))


def decoder_flops(config: EmuConfig) -> int:
    """Operations of drawing one picture: the passes of its sampler, each twice where guidance is on, and the codec's.

    A first pass from pure noise (see `predict`) is the sketch alone.
    """
    own = config.decoder
    decoder, mode = fake(lambda: VisualDecoder(own))
    side = own.image_size // own.patch
    with mode:
        noisy = torch.empty(1, own.latent_channels, side, side, dtype=COMPUTE)
        conditions = torch.empty(1, config.bridge.n_image, own.condition_width, dtype=COMPUTE)
        first = step = measure(lambda: decoder.predict(noisy, torch.tensor(0), conditions), decoder).flops
        if begins_as_sketch(own):
            first = measure(lambda: decoder.sketch(conditions), decoder).flops
        pixels = measure(lambda: decoder.codec.decode(noisy), decoder).flops
    sampler = build_sampler(own)
    sampler.set_timesteps(own.inference_steps)
    rows = 2 if own.guidance_scale != 1 else 1
    return (first + step * (len(sampler.timesteps) - 1)) * rows + pixels  # PNDM: one pass more than its steps


def count_parameters(config: EmuConfig) -> dict[str, int]:
    """Parameters of each part, and of the linear layers that quantisation makes small."""
    with init_empty_weights():
        model, decoder = Emu(config), VisualDecoder(config.decoder)
    counts = {name: _count(part) for name, part in model.named_children()}
    counts |= {"total": _count(model), "decoder": _count(decoder)}
    if config.llm.lora_rank:
        counts["LoRA factors"] = sum(p.numel() for name, p in model.named_parameters() if ".lora_" in name)
    counts["LLM linear layers"] = sum(_count(m) for m in model.llm.model.modules() if isinstance(m, nn.Linear))
    return counts


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
