"""Stage 1: the EVA-CLIP Vision Transformer (EVA: arXiv 2211.07636; EVA-CLIP: arXiv 2303.15389).

Emu uses EVA-01-CLIP-g (pre-norm), Emu2 EVA-02-CLIP-E-plus (post-norm). Both hand on the *raw* output of the last block,
class token first; no final norm. Quirks of EVA: queries and values have biases and keys have none; positions are learned
and absolute.

Axes   B pictures   S side of a picture in pixels   P patches   T = 1 + P tokens   D width   H heads   K head width
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minemu.config import VisionConfig

INIT_STD = 0.02


class ConvStem(nn.Module):
    """Strided 3x3 convolutions in place of one patch projection: an inductive bias that pays with few pictures (arXiv 2106.14881)."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        halvings = config.patch_size.bit_length() - 1
        widths = [3, *(config.width >> (halvings - 1 - i) for i in range(halvings))]
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(after // 8, after), nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], config.width, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels)  # (B, D, S / patch, S / patch)


class Attention(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(config.width))
        self.v_bias = nn.Parameter(torch.zeros(config.width))
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])  # no bias for keys
        qkv = F.linear(x, self.qkv.weight, bias)                                     # (B, T, 3 D)
        q, k, v = rearrange(qkv, "b t (three h k) -> three b h t k", three=3, h=self.heads)
        x = F.scaled_dot_product_attention(q, k, v)                                  # (B, H, T, K)
        return self.proj(rearrange(x, "b h t k -> b t (h k)"))                       # (B, T, D)


class MLP(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.post_norm = config.post_norm
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        if self.post_norm:  # Emu2: normalise what a sub-layer says, not what it reads
            x = x + self.norm1(self.attn(x))
            return x + self.norm2(self.mlp(x))
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class EVAVisionTransformer(nn.Module):
    """Pictures (B, 3, S, S), CLIP-normalised -> tokens (B, 1 + P, D): the raw last block, class token first."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.config = config
        if config.stem == "conv":
            self.patch_embed: nn.Module = ConvStem(config)
        else:
            self.patch_embed = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.patches, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.cls_token, std=INIT_STD)
        nn.init.trunc_normal_(self.pos_embed, std=INIT_STD)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INIT_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for depth, block in enumerate(self.blocks, start=1):  # BEiT's rescaling: deeper residual branches start smaller
            block.attn.proj.weight.data.div_((2 * depth) ** 0.5)
            block.mlp.fc2.weight.data.div_((2 * depth) ** 0.5)

    def forward(self, pixels: Tensor) -> Tensor:
        x = rearrange(self.patch_embed(pixels), "b d h w -> b (h w) d")            # (B, P, D)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1).to(x.dtype), x], 1)   # (B, T, D)
        x = x + self.pos_embed                                                     # (B, T, D)
        for block in self.blocks:
            x = block(x)                                                           # (B, T, D)
        return x
