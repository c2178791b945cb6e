"""Pictures <-> the latents in which the Visual Decoder works: Stable Diffusion's `AutoencoderKL`, or a linear code.

The linear one is for the toy world: it is fitted in a second and loses little.

Axes   B rows   S side of a picture   p patch: pixels a latent position   s = S / p   K latent channels
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from einops import rearrange
from torch import Tensor, nn

from minemu.config import DecoderConfig
from minemu.errors import MinemuError

KL_WEIGHT = 1e-6  # arXiv 2112.10752, appendix G


class PatchCodec(nn.Module):
    """A linear autoencoder: each p x p square of pixels <-> its K leading principal components.

    The best linear code there is, fitted in closed form (`fit`). Each channel is divided by the square root of its standard
    deviation: pixels would give the mean colour nearly all of the loss, whitened channels would give it to invisible detail.
    """

    def __init__(self, config: DecoderConfig):
        super().__init__()
        size = 3 * config.patch**2
        if config.latent_channels > size:
            patch = f"{config.patch} x {config.patch} x 3 = {size}"
            raise MinemuError(f"decoder.latent_channels={config.latent_channels} is more than the {patch} values of a patch; lower it")
        self.patch = config.patch
        random_basis = torch.linalg.qr(torch.randn(size, config.latent_channels)).Q.T
        self.register_buffer("basis", random_basis.reshape(-1, 3, config.patch, config.patch))  # (K, 3, p, p), orthonormal
        self.register_buffer("mean", torch.zeros(1, 3, config.patch, config.patch))
        self.register_buffer("scale", torch.ones(1, config.latent_channels, 1, 1))

    def fit(self, images: Tensor) -> float:
        """Principal components of the patches of `images` (B, 3, S, S). Returns the share of their variance that is kept."""
        patches = rearrange(images.double(), "b c (h i) (w j) -> (b h w) (c i j)", i=self.patch, j=self.patch)
        mean = patches.mean(0)
        variance, directions = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))  # ascending
        order = variance.argsort(descending=True)[: len(self.basis)]
        deviation = variance[order].clamp(min=1e-8).sqrt()
        scale = deviation.sqrt()
        scale *= (deviation / scale).square().mean().sqrt()                      # latents of unit variance, on average
        self.basis.copy_(directions[:, order].T.reshape_as(self.basis))
        self.mean.copy_(mean.reshape_as(self.mean))
        self.scale.copy_(scale.reshape_as(self.scale))
        return (variance[order].sum() / variance.sum()).item()

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, K, s, s)."""
        offset = (self.basis * self.mean).sum((1, 2, 3))                         # (K,)
        return F.conv2d(images, self.basis, -offset, stride=self.patch) / self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """(B, K, s, s) -> (B, 3, S, S)."""
        grid = latents.shape[-2:]
        return F.conv_transpose2d(latents * self.scale, self.basis, stride=self.patch) + self.mean.tile(1, 1, *grid)


class VAECodec(nn.Module):
    """The variational autoencoder of latent diffusion; `scale` brings its latents to unit variance (0.18215 in Stable Diffusion)."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        halvings = config.patch.bit_length() - 1
        if 2**halvings != config.patch:
            raise MinemuError(f"decoder.patch={config.patch} must be a power of two for decoder.codec=vae, which halves pictures")
        widths = [config.vae_width * min(2**level, 4) for level in range(halvings + 1)]
        self.vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            block_out_channels=widths,
            layers_per_block=config.layers_per_block,
            latent_channels=config.latent_channels,
            norm_num_groups=math.gcd(config.norm_groups, config.vae_width),
            sample_size=config.image_size,
        )
        self.register_buffer("scale", torch.ones(()))

    def loss(self, images: Tensor) -> dict[str, Tensor]:
        """What the codec is trained with, before the U-Net: absolute error of the pixels and a little KL."""
        posterior = self.vae.encode(images).latent_dist
        rebuilt = self.vae.decode(posterior.sample()).sample
        pixels, kl = (rebuilt.float() - images).abs().mean(), posterior.kl().mean()
        return {"loss": pixels + KL_WEIGHT * kl, "pixel_loss": pixels, "kl": kl}

    @torch.no_grad()
    def fit(self, images: Tensor) -> float:
        """Set `scale` so that the latents of `images` have unit variance; the weights stay. Returns that scale."""
        latents = torch.cat([self.vae.encode(part).latent_dist.mean for part in images.split(64)])
        self.scale.copy_(1 / latents.std())
        return self.scale.item()

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, K, s, s)."""
        return self.vae.encode(images).latent_dist.mode() * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """(B, K, s, s) -> (B, 3, S, S)."""
        return self.vae.decode(latents / self.scale).sample


def build_codec(config: DecoderConfig) -> PatchCodec | VAECodec:
    return PatchCodec(config) if config.codec == "patch" else VAECodec(config)
