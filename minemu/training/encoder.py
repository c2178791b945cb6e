"""Stages `encoder`, `names` and `bridge`: what stands between a picture and the LLM, before the LLM reads it.

`encoder` pretrains the toy EVA-CLIP tower, which the authors of Emu took ready-made. EVA learns by rebuilding pictures and CLIP
by telling matching captions from others; here one loss does both:

    L = contrastive(class token, caption) + PIXEL_WEIGHT x MSE(patch tokens -> the pixels of their patch)

The second term keeps in the tokens what a caption does not say and a decoder will need. In a batch of 128, background, style and
size nearly tell the right caption: after 800 steps 97 % matched, but given all of these only 40 % of the names. `names` goes on
with every second caption a bare name. `bridge` gives the Causal Transformer
the same start on top of the frozen tower: the mean of its N embeddings matches the caption, each embedding its cell of the
picture. Emu starts it at random; at toy size that cost 600 steps without one concept learnt (VL-GPT, arXiv 2312.09251, also
trains it first).
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minemu.causal_transformer import CausalTransformer
from minemu.config import EmuConfig, VisionConfig
from minemu.data import captions
from minemu.data.datasets import batch_samples
from minemu.data.world import Sample, ToyWorld
from minemu.errors import MinemuError
from minemu.files import atomic_write
from minemu.processor import EmuProcessor, normalise
from minemu.sequence import pad_rows
from minemu.training.loop import Stage, TrainConfig
from minemu.visual_encoder import EVAVisionTransformer
from minemu.weights import load_strict, load_tensors, save_tensors

PIXEL_WEIGHT = 0.5
MAX_ANGLE = 15.0  # degrees
MAX_ZOOM, MAX_SHIFT, MAX_TINT = 0.12, 0.06, 0.08  # shares of the size, of the size, of a channel's value


class TextTower(nn.Module):
    """Captions (B, L) -> one vector each (B, D): a small bidirectional Transformer, mean over the words."""

    def __init__(self, vocab_size: int, width: int, layers: int = 2, max_length: int = 64):
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Parameter(torch.randn(max_length, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, max(1, width // 48), 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.tokens(input_ids) + self.positions[: input_ids.shape[1]]  # (B, L, D)
        x = self.encoder(x, src_key_padding_mask=attention_mask == 0)  # (B, L, D)
        real = attention_mask[..., None]
        return (x * real).sum(1) / real.sum(1)  # (B, D)


class ContrastivePretraining(nn.Module):
    """The tower with what only its pretraining needs."""

    def __init__(self, vision: VisionConfig, vocab_size: int):
        super().__init__()
        self.visual_encoder = EVAVisionTransformer(vision)
        self.norm = nn.LayerNorm(vision.width)
        self.image_head = nn.Linear(vision.width, vision.width, bias=False)
        self.text_tower = TextTower(vocab_size, vision.width)
        self.pixel_head = nn.Linear(vision.width, 3 * vision.patch_size**2)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.side = vision.grid

    def forward(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        features = self.norm(self.visual_encoder(pixels))  # (B, 1 + P, D)
        image = F.normalize(self.image_head(features[:, 0]).float(), dim=-1)  # (B, D)
        text = F.normalize(self.text_tower(input_ids, attention_mask).float(), dim=-1)  # (B, D)
        match, right = contrastive(self.log_scale.exp() * image @ text.T, input_ids)
        pixel = F.mse_loss(self.pixel_head(features[:, 1:]).float(), cells(pixels, self.side))
        return {"loss": match + PIXEL_WEIGHT * pixel, "contrastive": match, "pixel": pixel, "right": right}


class BridgePretraining(nn.Module):
    """The Causal Transformer with what only its pretraining needs; tower and text tower are frozen and kept outside."""

    def __init__(self, config: EmuConfig):
        super().__init__()
        vision, bridge, width = config.vision, config.bridge, config.llm.width
        if bridge.kind != "causal":
            raise MinemuError("bridge.kind=pool has nothing to pretrain; leave out stage bridge")
        self.side = math.isqrt(bridge.n_image)
        if self.side**2 != bridge.n_image or vision.image_size % self.side:
            raise MinemuError(
                f"bridge.n_image={bridge.n_image} embeddings do not tile a picture of {vision.image_size}; use a square number that does"
            )
        self.ln_visual = nn.LayerNorm(vision.width, eps=vision.norm_eps)
        self.causal_transformer = CausalTransformer(bridge, vision.width, width)
        self.image_head = nn.Linear(width, vision.width, bias=False)
        self.pixel_head = nn.Linear(width, 3 * (vision.image_size // self.side) ** 2)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, features: Tensor, pixels: Tensor, text: Tensor, input_ids: Tensor) -> dict[str, Tensor]:
        embeds = self.causal_transformer(self.ln_visual(features))  # (B, N, D)
        image = F.normalize(self.image_head(embeds.mean(1)).float(), dim=-1)  # (B, V)
        match, right = contrastive(self.log_scale.exp() * image @ text.T, input_ids)
        pixel = F.mse_loss(self.pixel_head(embeds).float(), cells(pixels, self.side))
        return {"loss": match + PIXEL_WEIGHT * pixel, "contrastive": match, "pixel": pixel, "right": right}


def contrastive(logits: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
    """CLIP's loss of scaled similarities (B, B), both ways, and the share of pictures whose own caption is nearest."""
    logits = logits.clamp(-100, 100)
    same = (input_ids[:, None] == input_ids[None]).all(-1).float()  # equal captions are all right answers
    answers = same / same.sum(1, keepdim=True)
    loss = (F.cross_entropy(logits, answers) + F.cross_entropy(logits.T, answers)) / 2
    return loss, (logits.argmax(1) == torch.arange(len(logits), device=logits.device)).float().mean()


def cells(pixels: Tensor, side: int) -> Tensor:
    """The pixels of side x side cells of each picture: (B, 3, S, S) -> (B, side^2, values of a cell)."""
    return rearrange(pixels, "b c (h p) (w q) -> b (h w) (p q c)", h=side, w=side)


def augment(pixels: Tensor) -> Tensor:
    """Turn, zoom, shift and tint every second picture a little, so that a new drawing of a known thing is not so new. (B, 3, S, S)."""
    pixels, kept = pixels[::2], pixels
    n = len(pixels)
    draw = lambda limit: (2 * torch.rand(n) - 1) * limit  # noqa: E731
    angle, zoom = draw(math.radians(MAX_ANGLE)), 1 + draw(MAX_ZOOM)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    shift = torch.stack([draw(MAX_SHIFT * 2), draw(MAX_SHIFT * 2)], -1)
    rows = torch.stack(
        [torch.stack([cos, -sin, shift[:, 0]], -1), torch.stack([sin, cos, shift[:, 1]], -1)], 1
    )  # (B, 2, 3)
    grid = F.affine_grid(rows, list(pixels.shape), align_corners=False)
    turned = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    tint = 1 + (2 * torch.rand(n, 3, 1, 1) - 1) * MAX_TINT
    return torch.stack([turned * tint, kept[1::2]], 1).flatten(0, 1)


class EncoderStage(Stage):
    name = "encoder"

    def __init__(self, config: EmuConfig, train: TrainConfig, processor: EmuProcessor, world: ToyWorld):
        torch.manual_seed(train.seed)
        self.config, self.train, self.processor, self.world = config, train, processor, world
        self.module = ContrastivePretraining(config.vision, config.llm.vocab_size)

    def text(self, sample: Sample) -> str:
        return sample.caption

    def batch(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        size = self.train.batch_size
        samples = batch_samples(self.world, index * size, size)
        pixels = torch.stack([torch.from_numpy(sample.pixels) for sample in samples])
        text = pad_rows([self.processor.encode(self.text(sample)) for sample in samples], self.processor.ids)
        return pixels, text["input_ids"], text["attention_mask"]

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        pixels, input_ids, attention_mask = batch
        return self.module(augment(normalise(pixels)), input_ids, attention_mask)

    def finish(self, folder: Path) -> None:
        with atomic_write(folder / "contrastive.safetensors") as temporary:
            save_tensors(self.module.state_dict(), temporary)


class NamesStage(EncoderStage):
    """The encoder goes on with harder pairs: every second caption is a bare name, so that backgrounds and styles give nothing away."""

    name = "names"
    begins_with = "encoder"  # the stage whose weights it goes on from

    def __init__(self, config: EmuConfig, train: TrainConfig, processor: EmuProcessor, world: ToyWorld, root: Path):
        super().__init__(config, train, processor, world)
        load_strict(
            self.module, load_tensors(root / self.begins_with / "contrastive.safetensors"), f"stage {self.begins_with}"
        )

    def text(self, sample: Sample) -> str:
        if sample.scene.seed % 2:
            return sample.caption
        return captions.caption(replace(sample.scene, size=None, background=None, style=None))


class BridgeStage(NamesStage):
    name = "bridge"
    begins_with = "names"

    def __init__(self, config: EmuConfig, train: TrainConfig, processor: EmuProcessor, world: ToyWorld, root: Path):
        super().__init__(config, train, processor, world, root)
        self.frozen = self.module.eval().requires_grad_(False)
        self.module = BridgePretraining(config)

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        pixels, input_ids, attention_mask = batch
        pixels = augment(normalise(pixels))
        with torch.no_grad():
            features = self.frozen.visual_encoder(pixels)  # (B, 1 + P, V)
            text = F.normalize(self.frozen.text_tower(input_ids, attention_mask).float(), dim=-1)  # (B, V)
        return self.module(features, pixels, text, input_ids)

    def finish(self, folder: Path) -> None:
        with atomic_write(folder / "bridge.safetensors") as temporary:
            save_tensors(self.module.state_dict(), temporary)
