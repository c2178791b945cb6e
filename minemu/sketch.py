"""What visual embeddings say of a picture's latents before any noise comes in: their regression, which the U-Net then sharpens.

The N = g x g embeddings of a picture are read as a grid of its cells, and each is spread over its own cell. A linear map, found
by least squares, copies what an embedding holds of its cell. A small Transformer over all of them adds what no single embedding
holds: that together they mean a llama, and how a llama looks. Each of its outputs is a whole cell. What it has to know by heart is
how some thousand drawings look; with a map of its own for each cell (`cell_maps`) the layers before need to know which drawing it
is, and not how it looks in this cell, for hardly more arithmetic.

Axes   B rows   N = g x g embeddings   D their width   W width of the Transformer   K latent channels   s latent positions a side
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor, nn

from minemu.config import DecoderConfig, VisionConfig
from minemu.errors import MinemuError
from minemu.visual_encoder import INIT_STD, Block
from minemu.weights import load_strict

RIDGE = 1e-3


class Sketch(nn.Module):
    """Normalised embeddings (B, N, D) -> latents (B, K, s, s). `fit` starts the linear part; then all parts train."""

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
        self.blocks, self.own = nn.ModuleList(), None
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
            if config.cell_maps:                                                 # at first they add nothing
                self.own = nn.Parameter(torch.zeros(self.grid**2, width, self.spread.out_features))

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
            x = self.norm(x)
            cells = cells + self.leave(x)                                        # (B, N, K cell^2)
            if self.own is not None:
                cells = cells + einsum(x, self.own, "b n w, n w o -> b n o")     # (B, N, K cell^2)
        return rearrange(cells, "b (h w) (k i j) -> b k (h i) (w j)", h=self.grid, i=self.cell, j=self.cell)  # (B, K, s, s)

    def fit(self, conditions: Tensor, latents: Tensor) -> float:
        """Ridge regression of the linear part, from (B, N, D) and (B, K, s, s); the share of variance that it explains."""
        known = F.pad(conditions.flatten(0, 1), (0, 1), value=1.0).double()      # (B N, D + 1)
        wanted = rearrange(latents, "b k (h i) (w j) -> (b h w) (k i j)", h=self.grid, w=self.grid).double()
        gram = known.T @ known
        gram.diagonal().add_(RIDGE * len(known))
        solution = torch.linalg.solve(gram, known.T @ wanted)                    # (D + 1, K cell^2)
        with torch.no_grad():
            self.spread.weight.copy_(solution[:-1].T)
            self.spread.bias.copy_(solution[-1])
        return 1 - ((known @ solution - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()).item()


def grown(sketch: Sketch, config: DecoderConfig) -> Sketch:
    """The same sketch with the maps for its cells that `config` has and it lacks; they begin at zero, so no output changes."""
    larger = Sketch(config)
    begun = {name: tensor for name, tensor in larger.state_dict().items() if name == "own"}
    load_strict(larger, begun | sketch.state_dict(), "the sketch to go on with")
    return larger
