"""A live forward pass, recorded: the tensors between the stages, with real shapes and parameter counts.

Axes   L positions   P patches   N embeddings a picture   E regressed width   D LLM width   S side of a picture in pixels
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from minemu import sequence
from minemu.errors import MinemuError
from minemu.model import EmuOutput
from minemu.pipeline import EmuPipeline, to_pil
from minemu.processor import unnormalise


@dataclass(frozen=True)
class Stage:
    """One station of the model: what it is, the shape of its output, how many parameters it has."""

    name: str
    gloss: str
    shape: tuple[int, ...]
    parameters: int = 0


@dataclass(frozen=True)
class Trace:
    """One sample on its way through all stages."""

    preset: str
    stages: dict[str, Stage]  # picture, encoder, bridge, sequence, llm, lm_head, regression_head, decoder, drawn
    picture: np.ndarray  # (S, S, 3) uint8, the last picture of the sample
    features: np.ndarray  # (side, side, 3) uint8, its encoder tokens: three main directions as red, green, blue
    embeds: np.ndarray  # (N, E), its visual embeddings
    hidden: np.ndarray  # (L, D), what the LLM makes of the sequence
    said: list[int]  # the LM head's likeliest token wherever a word has to be said
    predicted: np.ndarray  # (N, E), the regression head's embeddings of the picture, each from the true ones before it
    latents: np.ndarray  # (s, s, 3) uint8, what the decoder makes of `predicted`, painted as `features` are
    drawn: np.ndarray  # (S, S, 3) uint8, the picture decoded from `predicted`

    @property
    def parameters(self) -> int:
        return sum(stage.parameters for stage in self.stages.values())


@torch.no_grad()
def trace(pipe: EmuPipeline, batch: dict[str, Tensor], generator: torch.Generator | None = None) -> Trace:
    """Send the first sample of `batch` through the model and decode the picture that the regression head predicts."""
    pipe.check_draws()
    model, ids = pipe.model, pipe.processor.ids
    row = batch["input_ids"][:1][:, batch["attention_mask"][0].bool()]  # (1, L)
    count = sequence.count_pictures(row, ids)
    if not count:
        raise MinemuError('the first sample has no picture; give one that has: processor([["a llama", picture]])')
    images = batch["images"][:count]

    passed: dict[str, Tensor] = {}
    modules = {"encoder": model.visual_encoder, "llm": model.llm.model}
    hooks = [
        module.register_forward_hook(_recorder(passed, name), with_kwargs=True) for name, module in modules.items()
    ]
    try:
        embeds = model.encode_images(images)  # (n, N, E)
        out = model(row, image_embeds=embeds)
        goals = sequence.targets(row, ids, model.config.objective)
        predicted = out.predictions[0, :-1][row[0, 1:] == ids.image][-embeds.shape[1] :]  # (N, E)
    finally:
        for hook in hooks:
            hook.remove()
    null = pipe.null_embeds(autoencode=False)
    latents = pipe.decoder.denoise(predicted[None], null, generator=generator)  # (1, K, s, s)
    pixels = pipe.decoder.to_pixels(latents)  # (1, 3, S, S)
    return Trace(
        preset=model.config.name,
        stages=_stages(pipe, images[-1:], passed, embeds[-1:], out, predicted, latents, pixels),
        picture=unnormalise(images[-1:])[0],
        features=_main_directions(passed["encoder"][-1, 1:]),
        embeds=embeds[-1].float().cpu().numpy(),
        hidden=out.hidden[0].float().cpu().numpy(),
        said=out.logits[0, :-1].argmax(-1)[goals.text[0] != sequence.IGNORE].tolist(),
        predicted=predicted.float().cpu().numpy(),
        latents=_main_directions(latents[0].flatten(1).T),
        drawn=np.asarray(to_pil(pixels)[0]),
    )


def _recorder(passed: dict[str, Tensor], name: str):
    def record(module: nn.Module, args: tuple, kwargs: dict, output) -> None:
        passed[name] = output if isinstance(output, Tensor) else output[0]
        if "inputs_embeds" in kwargs:
            passed.setdefault("sequence", kwargs["inputs_embeds"])

    return record


def _stages(
    pipe: EmuPipeline,
    image: Tensor,
    passed: dict[str, Tensor],
    embeds: Tensor,
    out: EmuOutput,
    predicted: Tensor,
    latents: Tensor,
    pixels: Tensor,
) -> dict[str, Stage]:
    """Every parameter of the pipeline is counted in exactly one stage."""
    steps = pipe.decoder.config.inference_steps
    drawn_by = "sketch and U-Net" if pipe.decoder.config.condition_grid else "latent diffusion"
    model, config = pipe.model, pipe.model.config
    words = model.llm.get_input_embeddings()
    causal = config.bridge.kind == "causal"
    bridge = [model.ln_visual, model.causal_transformer] if causal else [model.project_up]
    return {
        "picture": Stage("picture", "CLIP-normalised pixels", tuple(image.shape)),
        "encoder": Stage(
            "1  Visual Encoder",
            f"EVA ViT, {config.vision.layers} layers",
            tuple(passed["encoder"][-1:].shape),
            _count(model.visual_encoder),
        ),
        "bridge": Stage(
            "2  Causal Transformer" if causal else "2  pooling",
            f"{embeds.shape[1]} visual embeddings, one by one" if causal else f"{embeds.shape[1]} visual embeddings",
            tuple(embeds.shape),
            _count(*bridge),
        ),
        "sequence": Stage(
            "one sequence",
            "words from a table, pictures in their slots",
            tuple(passed["sequence"].shape),
            _count(words),
        ),
        "llm": Stage(
            "3  Multimodal LLM",
            f"LLaMA, {config.llm.layers} layers",
            tuple(out.hidden.shape),
            _count(model.llm.model) - _count(words),
        ),
        "lm_head": Stage(
            "LM head", "each next word, from what is before it", tuple(out.logits.shape), _count(model.llm.lm_head)
        ),
        "regression_head": Stage(
            "regression head", "the next embedding", tuple(predicted[None].shape), _count(model.regression_head)
        ),
        "decoder": Stage(
            "4  Visual Decoder",
            f"{drawn_by}, {steps} step{'s' if steps > 1 else ''}",
            tuple(latents.shape),
            _count(pipe.decoder),
        ),
        "drawn": Stage("picture", "decoded", tuple(pixels.shape)),
    }


def _count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def _main_directions(tokens: Tensor) -> np.ndarray:
    """Tokens of a square grid (side * side, width) as a picture (side, side, 3): their first three principal components."""
    tokens = tokens.detach().float().cpu()
    centred = tokens - tokens.mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    parts = centred @ directions[:3].T  # (side * side, 3)
    low, high = parts.quantile(0.02, 0), parts.quantile(0.98, 0)
    side = round(len(tokens) ** 0.5)
    return ((parts - low) / (high - low).clamp(min=1e-8) * 255).clamp(0, 255).byte().reshape(side, side, 3).numpy()
