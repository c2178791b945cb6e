"""What visual embeddings say of a picture's latents before any noise comes in: their regression, which the U-Net then sharpens.

The N = g x g embeddings of a picture are read as a grid of its cells, and each is spread over its own cell. A linear map, found
by least squares, copies what an embedding holds of its cell. A small Transformer over all of them adds what no single embedding
holds: that together they mean a llama, and how a llama looks.

Axes   B rows   N = g x g embeddings   D their width   W width of the Transformer   K latent channels   s latent positions a side
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from minemu.config import DecoderConfig, VisionConfig
from minemu.errors import MinemuError
from minemu.visual_encoder import INIT_STD, Block

RIDGE = 1e-3


class Sketch(nn.Module):
    """Normalised embeddings (B, N, D) -> latents (B, K, s, s). `fit` finds the linear part, training the rest."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.grid, self.channels = config.condition_grid, config.latent_channels
        side = config.image_size // config.patch
        if side % self.grid:
            raise MinemuError(
                f"decoder.condition_grid={self.grid} does not divide the {side} latent positions along a picture; change one of them"
            )
        self.cell = side // self.grid                                            # latent positions along a cell
        self.spread = nn.Linear(config.condition_width, self.channels * self.cell**2)
        self.blocks = nn.ModuleList()
        if config.sketch_layers:
            width = config.sketch_width
            blocks = VisionConfig(width=width, layers=config.sketch_layers, mlp_width=4 * width)
            self.enter = nn.Linear(config.condition_width, width)
            self.positions = nn.Parameter(torch.randn(self.grid**2, width) / 2)
            self.blocks.extend(Block(blocks) for _ in range(config.sketch_layers))
            self.norm = nn.LayerNorm(width)
            self.leave = nn.Linear(width, self.spread.out_features)
            for parameter in (*self.blocks.parameters(), self.leave.weight):
                if parameter.ndim == 2:
                    nn.init.trunc_normal_(parameter, std=INIT_STD)

    def forward(self, conditions: Tensor) -> Tensor:
        if conditions.shape[1] != self.grid**2:
            raise MinemuError(
                f"decoder.condition_grid={self.grid} takes {self.grid**2} visual embeddings a picture, not {conditions.shape[1]}; "
                "use the decoder of the same checkpoint as the embeddings"
            )
        cells = self.spread(conditions)                                          # (B, N, K cell^2)
        if self.blocks:
            x = self.enter(conditions) + self.positions                          # (B, N, W)
            for block in self.blocks:
                x = block(x)                                                     # (B, N, W)
            cells = cells + self.leave(self.norm(x))                             # (B, N, K cell^2)
        return rearrange(                                                        # (B, K, s, s)
            cells, "b (h w) (k i j) -> b k (h i) (w j)", h=self.grid, k=self.channels, i=self.cell
        )

    def fit(self, conditions: Tensor, latents: Tensor) -> float:
        """Least squares for the linear part, from (B, N, D) and (B, K, s, s); the share of variance that it explains."""
        known = F.pad(conditions.flatten(0, 1), (0, 1), value=1.0).double()      # (B N, D + 1)
        wanted = rearrange(latents, "b k (h i) (w j) -> (b h w) (k i j)", h=self.grid, w=self.grid).double()
        gram = known.T @ known
        gram.diagonal().add_(RIDGE * len(known))
        solution = torch.linalg.solve(gram, known.T @ wanted)                    # (D + 1, K cell^2)
        with torch.no_grad():
            self.spread.weight.copy_(solution[:-1].T)
            self.spread.bias.copy_(solution[-1])
        return 1 - ((known @ solution - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()).item()
