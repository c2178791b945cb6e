"""Stage 2: from encoder features to visual embeddings that a language model can read, and regress, left to right.

Emu: the Causal Transformer turns 1 + P features without an order into N embeddings *with* one: N learned queries in a
decoder whose self-attention is causal, so embedding n sees embeddings < n and, through cross-attention, the whole picture.
It is a T5 decoder stack (RMS norm first, no 1/sqrt(d) in attention, one relative position bias shared by all layers,
ReLU, no biases). Emu2 drops it for mean pooling and a linear map.

Axes   B pictures   P patches   T = 1 + P features   N visual embeddings   H heads   K head width
       V encoder width   C width here   D LLM width
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from minemu.config import BridgeConfig, VisionConfig


class RelativePositionBias(nn.Module):
    """T5's bias (arXiv 1910.10683): one learned number per head and bucket of distance; past only, logarithmic beyond half the buckets."""

    def __init__(self, config: BridgeConfig):
        super().__init__()
        self.buckets, self.distance = config.position_buckets, config.position_distance
        self.bias = nn.Embedding(config.position_buckets, config.heads)

    def forward(self, length: int) -> Tensor:
        position = torch.arange(length, device=self.bias.weight.device)
        back = (position[:, None] - position[None, :]).clamp(min=0)                        # (N, N) how far back the key lies
        exact = self.buckets // 2
        log_step = torch.log(back.clamp(min=1).float() / exact) / math.log(self.distance / exact)
        far = (exact + (log_step * (self.buckets - exact)).long()).clamp(max=self.buckets - 1)
        bucket = torch.where(back < exact, back, far)                                      # (N, N)
        bias = rearrange(self.bias(bucket), "q k h -> 1 h q k")
        future = torch.ones(length, length, dtype=torch.bool, device=bias.device).triu(1)
        return bias.masked_fill(future, float("-inf"))                                     # (1, H, N, N), the causal mask included


class T5Attention(nn.Module):
    """Attention without biases and without 1/sqrt(K): T5 folds that factor into its initialisation."""

    def __init__(self, config: BridgeConfig, source_width: int):
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        inner = config.heads * config.key_width
        self.q = nn.Linear(config.width, inner, bias=False)
        self.k = nn.Linear(source_width, inner, bias=False)
        self.v = nn.Linear(source_width, inner, bias=False)
        self.o = nn.Linear(inner, config.width, bias=False)

    def forward(self, x: Tensor, source: Tensor, bias: Tensor | None = None) -> Tensor:
        q = rearrange(self.q(x), "b n (h k) -> b h n k", h=self.heads)       # (B, H, N, K)
        k = rearrange(self.k(source), "b t (h k) -> b h t k", h=self.heads)  # (B, H, T, K)
        v = rearrange(self.v(source), "b t (h k) -> b h t k", h=self.heads)  # (B, H, T, K)
        dropout = self.dropout if self.training else 0.0
        bias = None if bias is None else bias.to(q.dtype)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=1.0)
        return self.o(rearrange(x, "b h n k -> b n (h k)"))                  # (B, N, C)


class CausalBlock(nn.Module):
    """Causal self-attention, cross-attention to the picture, feed-forward; each x + f(norm(x))."""

    def __init__(self, config: BridgeConfig, source_width: int):
        super().__init__()
        self.self_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.self_attention = T5Attention(config, config.width)
        self.cross_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.cross_attention = T5Attention(config, source_width)
        self.ff_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.wi = nn.Linear(config.width, config.ff_width, bias=False)
        self.wo = nn.Linear(config.ff_width, config.width, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, source: Tensor, bias: Tensor) -> Tensor:
        y = self.self_norm(x)
        x = x + self.dropout(self.self_attention(y, y, bias))                          # (B, N, C)
        x = x + self.dropout(self.cross_attention(self.cross_norm(x), source))         # (B, N, C)
        y = self.wo(self.dropout(F.relu(self.wi(self.ff_norm(x)))))
        return x + self.dropout(y)                                                     # (B, N, C)


class CausalTransformer(nn.Module):
    """Features (B, T, V) -> N causal visual embeddings (B, N, D)."""

    def __init__(self, config: BridgeConfig, vision: VisionConfig, out_width: int):
        super().__init__()
        self.config, source_width = config, vision.width
        if config.source_positions:
            self.source_positions = nn.Parameter(torch.empty(1, 1 + vision.patches, vision.width))
        self.queries = nn.Parameter(torch.empty(1, config.n_image, config.width))
        self.position_bias = RelativePositionBias(config)
        self.blocks = nn.ModuleList(CausalBlock(config, source_width) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.projection = nn.Linear(config.width, out_width)
        self.reset_parameters(config, source_width)

    def reset_parameters(self, config: BridgeConfig, source_width: int) -> None:
        """T5's initialisation: q carries the missing 1/sqrt(K).

        The queries start at a deviation of 1, as T5's words do, unless `query_std` says otherwise. Emu's 0.02 drowns in what
        cross-attention adds to all of them alike: at toy size the N embeddings of a picture stayed nearly one and the same vector.
        """
        nn.init.normal_(self.queries, std=config.query_std)
        if config.source_positions:
            nn.init.normal_(self.source_positions, std=0.5)
        nn.init.normal_(self.position_bias.bias.weight, std=config.width**-0.5)
        for block in self.blocks:
            for attention, source in ((block.self_attention, config.width), (block.cross_attention, source_width)):
                nn.init.normal_(attention.q.weight, std=(config.width * config.key_width) ** -0.5)
                nn.init.normal_(attention.k.weight, std=source**-0.5)
                nn.init.normal_(attention.v.weight, std=source**-0.5)
                nn.init.normal_(attention.o.weight, std=(config.heads * config.key_width) ** -0.5)
            nn.init.normal_(block.wi.weight, std=config.width**-0.5)
            nn.init.normal_(block.wo.weight, std=config.ff_width**-0.5)

    def forward(self, features: Tensor) -> Tensor:
        x = self.dropout(self.queries.expand(len(features), -1, -1))  # (B, N, C)
        bias = self.position_bias(x.shape[1])                         # (1, H, N, N)
        if self.config.source_positions:
            features = features + self.source_positions               # (B, T, V)
        for block in self.blocks:
            x = block(x, features, bias)                              # (B, N, C)
        return self.projection(self.dropout(self.norm(x)))            # (B, N, D)


def pool_features(features: Tensor, n: int, config: VisionConfig) -> Tensor:
    """Emu2: drop the class token, mean-pool the patch grid to n tokens. (B, 1 + P, V) -> (B, n, V)."""
    side = round(n**0.5)
    cell = config.grid // side
    return reduce(features[:, 1:], "b (h i w j) v -> b (h w) v", "mean", h=side, i=cell, w=side, j=cell)
