"""Stages `encoder` and `bridge`: what stands between a picture and the LLM, before the LLM reads it.

`encoder` pretrains the toy EVA-CLIP tower, which the authors of Emu took ready-made. EVA learns by rebuilding pictures and CLIP by
telling matching captions from others; one loss does both here, and asks what is where, as RegionCLIP does (arXiv 2112.09106):

    L = contrastive(class token, caption) + CE(name of a region) + CE(its style) / 2 + w MSE(patch tokens -> their latents)

A region is one drawing: the mean of the patch tokens under its box. Its name is picked among all names of the world, each the text
tower's vector of "a llama". Without the region terms background, style and size tell the captions of a batch apart: 97 % matched
after 1,100 steps, but only 40 % of the names were right. The last term keeps what a caption does not say and a decoder will need:
the latents of a linear code of each patch. Its pixels would do worse, as their mean colour is nearly all of the error.

`bridge` gives the Causal Transformer the same start on the frozen tower: its N embeddings are a grid of cells, and the same terms act
on them. Emu starts it at random; at toy size that cost 600 steps without one concept learnt (VL-GPT, arXiv 2312.09251, also trains
it first).

Axes   B pictures   S their side   P patches   D width   E width of the text tower   R regions   W names or styles
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor, nn

from minemu.causal_transformer import CausalTransformer
from minemu.codec import PatchCodec
from minemu.config import DecoderConfig, EmuConfig, VisionConfig
from minemu.data import captions
from minemu.data.datasets import batch_samples, pixels_of
from minemu.data.scene import STYLE_NAMES, STYLES, Group, Scene
from minemu.data.world import Sample, ToyWorld
from minemu.errors import MinemuError
from minemu.processor import EmuProcessor, normalise
from minemu.sequence import pad_rows
from minemu.training import checkpoint
from minemu.training.loop import Stage, TrainConfig
from minemu.visual_encoder import EVAVisionTransformer
from minemu.weights import load_strict

LATENT_WEIGHT = 32.0  # what the tower and the bridge forget, nothing after them can draw
CODE = DecoderConfig(patch=4, latent_channels=20)  # of the linear code that they are asked for
FIT_PICTURES = 512
STYLE_WEIGHT = 0.5
MAX_ANGLE = 15.0  # degrees
TEXT_LAYERS, TEXT_LENGTH = 2, 64  # of the text tower
MAX_ZOOM, MAX_SHIFT, MAX_TINT = 0.12, 0.06, 0.12  # shares of the size, of the size, of a channel's value


class TextTower(nn.Module):
    """Captions (B, L) -> one vector each (B, E): a small bidirectional Transformer, mean over the words."""

    def __init__(self, vocab_size: int, width: int):
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Parameter(torch.randn(TEXT_LENGTH, width) * 0.02)
        heads = next(heads for heads in range(max(1, width // 48), 0, -1) if width % heads == 0)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, TEXT_LAYERS, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.tokens(input_ids) + self.positions[: input_ids.shape[1]]  # (B, L, E)
        x = self.encoder(x, src_key_padding_mask=attention_mask == 0)  # (B, L, E)
        real = attention_mask[..., None]
        return F.normalize(((x * real).sum(1) / real.sum(1)).float(), dim=-1)  # (B, E)


class Alignment(nn.Module):
    """The four terms, for any features that form a grid; what they need beside the features is dropped after pretraining."""

    def __init__(self, width: int, text_width: int, grid: tuple[int, int], size: int, code: PatchCodec):
        """`grid`: rows and columns of the features of a picture that is `size` pixels wide."""
        super().__init__()
        if any(size % (code.patch * side) for side in grid):
            raise MinemuError(
                f"{grid[0]} x {grid[1]} cells of a picture of {size} pixels hold no whole squares of {code.patch}; "
                f"make vision.patch_size a multiple of {code.patch}, or bridge.n_image smaller"
            )
        self.grid, self.code = grid, code
        self.norm = nn.LayerNorm(width)
        self.image_head = nn.Linear(width, text_width, bias=False)
        self.region_head = nn.Linear(width, text_width, bias=False)
        self.latent_head = nn.Linear(width, len(code.basis) * (size // code.patch) ** 2 // math.prod(grid))
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(
        self, whole: Tensor, grid: Tensor, batch: dict[str, Tensor], text: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """whole (B, D) and grid (B, P, D) of pictures `batch["pixels"]`; `text`: unit vectors of captions, names and styles."""
        scale = self.log_scale.exp().clamp(max=100)
        grid = self.norm(grid)
        image = F.normalize(self.image_head(self.norm(whole)).float(), dim=-1)  # (B, E)
        match, matched = contrastive(scale * image @ text["captions"].T, batch["input_ids"])

        picture, cover = batch["picture"], batch["cover"]  # (R,), (R, P)
        region = einsum(grid[picture].float(), cover, "r p d, r p -> r d")  # (R, D)
        region = F.normalize(self.region_head(region).float(), dim=-1)  # (R, E)
        names, styles = scale * region @ text["names"].T, scale * region @ text["styles"].T  # (R, W)
        name, style = F.cross_entropy(names, batch["name"]), F.cross_entropy(styles, batch["style"])
        latents = cells(self.code.encode(batch["pixels"]), *self.grid)  # (B, P, latents of a cell)
        latent = F.mse_loss(self.latent_head(grid).float(), latents)
        return {
            "loss": match + name + STYLE_WEIGHT * style + LATENT_WEIGHT * latent,
            "contrastive": match, "name": name, "style": style, "latent": latent, "matched": matched,
            "named": (names.argmax(1) == batch["name"]).float().mean(),
        }  # fmt: skip


class EncoderPretraining(nn.Module):
    """The tower with what only its pretraining needs."""

    def __init__(self, vision: VisionConfig, vocab_size: int, code: PatchCodec):
        super().__init__()
        self.visual_encoder = EVAVisionTransformer(vision)
        self.text_tower = TextTower(vocab_size, vision.width)
        self.alignment = Alignment(vision.width, vision.width, (vision.grid,) * 2, vision.image_size, code)

    def read(self, texts: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
        """Unit vectors of each kind of text."""
        return {kind: self.text_tower(**rows) for kind, rows in texts.items()}

    def forward(self, batch: dict[str, Tensor], texts: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
        features = self.visual_encoder(batch["pixels"])  # (B, 1 + P, D)
        return self.alignment(features[:, 0], features[:, 1:], batch, self.read(texts))


class BridgePretraining(nn.Module):
    """The Causal Transformer with what only its pretraining needs; tower and text tower are frozen and kept outside."""

    def __init__(self, config: EmuConfig, code: PatchCodec):
        super().__init__()
        vision, bridge, width = config.vision, config.bridge, config.llm.width
        if bridge.kind != "causal":
            raise MinemuError("bridge.kind=pool has nothing to pretrain; leave out stage bridge")
        self.ln_visual = nn.LayerNorm(vision.width, eps=vision.norm_eps)
        self.causal_transformer = CausalTransformer(bridge, vision, width)
        self.alignment = Alignment(width, vision.width, bridge_grid(config), vision.image_size, code)

    def forward(self, features: Tensor, batch: dict[str, Tensor], text: dict[str, Tensor]) -> dict[str, Tensor]:
        embeds = self.causal_transformer(self.ln_visual(features))  # (B, N, D)
        return self.alignment(embeds.mean(1), embeds, batch, text)


def bridge_grid(config: EmuConfig) -> tuple[int, int]:
    """Rows and columns of cells that the N embeddings of a picture are taken as: 4 x 4 for 16, 4 x 8 for 32."""
    n, size = config.bridge.n_image, config.vision.image_size
    rows = next(rows for rows in range(math.isqrt(n), 0, -1) if n % rows == 0)
    if size % rows or size % (n // rows):
        raise MinemuError(f"bridge.n_image={n} embeddings do not tile a picture of {size}; use a power of two")
    return rows, n // rows


def contrastive(logits: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
    """CLIP's loss of scaled similarities (B, B), both ways, and the share of pictures whose own caption is nearest."""
    same = (input_ids[:, None] == input_ids[None]).all(-1).float()  # equal captions are all right answers
    answers = same / same.sum(1, keepdim=True)
    loss = (F.cross_entropy(logits, answers) + F.cross_entropy(logits.T, answers)) / 2
    return loss, (logits.argmax(1) == torch.arange(len(logits), device=logits.device)).float().mean()


def linear_code(world: ToyWorld) -> PatchCodec:
    """The latents that towers are asked for: principal components of patches, fitted on pictures as the tower sees them."""
    code = PatchCodec(CODE)
    code.fit(normalise(pixels_of(batch_samples(world, 0, FIT_PICTURES))))
    return code


def cells(values: Tensor, rows: int, columns: int) -> Tensor:
    """What rows x columns cells of each picture hold: (B, C, S, S) -> (B, cells, values of a cell)."""
    return rearrange(values, "b c (h p) (w q) -> b (h w) (p q c)", h=rows, w=columns)


def box_masks(boxes: Tensor, size: int) -> Tensor:
    """How much of each pixel of a picture `size` wide lies in boxes (R, 4) of x0, y0, x1, y1 in pixels: (R, 1, S, S)."""
    edges = torch.arange(size + 1, device=boxes.device)

    def along(begin: Tensor, end: Tensor) -> Tensor:
        inside = torch.minimum(end[:, None], edges[1:]) - torch.maximum(begin[:, None], edges[:-1])
        return inside.clamp(min=0)  # (R, S)

    left, top, right, bottom = boxes.unbind(1)
    return rearrange(along(top, bottom), "r h -> r 1 h 1") * rearrange(along(left, right), "r w -> r 1 1 w")


def cover(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """How much of each region, (R, 1, S, S), lies in each cell of a grid: (R, P). Sums to 1, or to 0 if nothing is left of it."""
    share = F.adaptive_avg_pool2d(masks, grid).flatten(1)
    return share / share.sum(1, keepdim=True).clamp(min=1e-6)


def augment(pixels: Tensor, masks: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
    """Turn, zoom, shift and tint every second picture a little, so that a new drawing of a known thing is not so new.

    pixels (B, 3, S, S); the masks (R, 1, S, S) of regions move along, each with the picture that it is of, (R,).
    """
    n = len(pixels[::2])
    draw = lambda limit: (2 * torch.rand(n, device=pixels.device) - 1) * limit  # noqa: E731
    angle, zoom = draw(math.radians(MAX_ANGLE)), 1 + draw(MAX_ZOOM)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    shift = torch.stack([draw(MAX_SHIFT * 2), draw(MAX_SHIFT * 2)], -1)
    moves = torch.stack(
        [torch.stack([cos, -sin, shift[:, 0]], -1), torch.stack([sin, cos, shift[:, 1]], -1)], 1
    )  # (B / 2, 2, 3)
    tint = 1 + (2 * torch.rand(n, 3, 1, 1, device=pixels.device) - 1) * MAX_TINT
    pixels, masks = pixels.clone(), masks.clone()
    pixels[::2] = moved(pixels[::2], moves, "border") * tint
    moving = picture % 2 == 0
    masks[moving] = moved(masks[moving], moves[picture[moving] // 2], "zeros")
    return pixels, masks


def moved(pictures: Tensor, moves: Tensor, beyond: str) -> Tensor:
    """Pictures (B, C, S, S) under affine maps (B, 2, 3) from where a pixel goes to where it comes from."""
    grid = F.affine_grid(moves, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode=beyond, align_corners=False)


class EncoderStage(Stage):
    name = "encoder"

    def __init__(self, config: EmuConfig, train: TrainConfig, processor: EmuProcessor, world: ToyWorld):
        torch.manual_seed(train.seed)
        self.config, self.train, self.processor, self.world = config, train, processor, world
        self.module: nn.Module = EncoderPretraining(config.vision, len(processor.tokenizer), linear_code(world))
        self.grid = (config.vision.grid, config.vision.grid)
        self.number = {label: i for i, label in enumerate(world.labels)}
        self.names = self.rows([captions.caption(Scene((Group(label),))) for label in world.labels])
        self.styles = self.rows([f"{STYLE_NAMES[style]} style" for style in STYLES])

    def rows(self, texts: list[str]) -> dict[str, Tensor]:
        return pad_rows([self.processor.encode(text) for text in texts], self.processor.ids)

    def text(self, sample: Sample) -> str:
        """Every second caption is a bare name, so that backgrounds and styles give nothing away."""
        if sample.scene.seed % 2:
            return sample.caption
        return captions.caption(replace(sample.scene, size=None, background=None, style=None))

    def batch(self, index: int) -> dict[str, Tensor]:
        size = self.train.batch_size
        samples = batch_samples(self.world, index * size, size)
        boxes = [
            (b, *box, STYLES.index(sample.scene.style)) for b, sample in enumerate(samples) for box in sample.boxes
        ]
        return {
            "pixels": pixels_of(samples),  # (B, S, S, 3)
            **self.rows([self.text(sample) for sample in samples]),  # (B, L)
            "picture": torch.tensor([b for b, *_ in boxes]),  # (R,)
            "boxes": torch.tensor([box[2:6] for box in boxes], dtype=torch.float32),  # (R, 4)
            "name": torch.tensor([self.number[label] for _, label, *_ in boxes]),
            "style": torch.tensor([style for *_, style in boxes]),
        }

    def texts(self, batch: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        own = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return {"captions": own, "names": self.names, "styles": self.styles}

    def changed(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """As the tower is shown it: augmented, and how much of each region lies in each cell then."""
        masks = box_masks(batch["boxes"], self.world.image_size)
        pixels, masks = augment(normalise(batch["pixels"]), masks, batch["picture"])
        return {**batch, "pixels": pixels, "cover": cover(masks, self.grid)}

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.module(self.changed(batch), self.texts(batch))

    def finish(self, folder: Path) -> None:
        checkpoint.leave(self.name, folder, self.module.state_dict())


class BridgeStage(EncoderStage):
    name = "bridge"

    def __init__(self, config: EmuConfig, train: TrainConfig, processor: EmuProcessor, world: ToyWorld, root: Path):
        super().__init__(config, train, processor, world)
        load_strict(self.module, checkpoint.left_by("encoder", root), "stage encoder")
        self.frozen = self.module.eval().requires_grad_(False)
        self.grid = bridge_grid(config)
        self.module = BridgePretraining(config, self.frozen.alignment.code)

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        batch = self.changed(batch)
        with torch.no_grad():
            features = self.frozen.visual_encoder(batch["pixels"])  # (B, 1 + P, V)
            text = self.frozen.read(self.texts(batch))
        return self.module(features, batch, text)
