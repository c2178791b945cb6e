"""Stage 4: the Visual Decoder, a latent diffusion model (arXiv 2112.10752) whose cross-attention reads visual embeddings.

    picture --codec.encode--> latents z0 --noise--> zt --U-Net(zt, t, embeddings)--> prediction of z0, of the noise, or of v
    noise zT --sampler, guided by the embeddings (arXiv 2010.02502, 2207.12598)--> z0 --codec.decode--> picture

Emu took Stable Diffusion v1.5 and trained its U-Net with the words' 77 x 768 replaced by the 32 x 5120 visual embeddings. Emu2 took
SDXL (arXiv 2307.01952): 64 x 1792 embeddings, their mean as the pooled condition, and the sizes that SDXL is told about.

One addition, off in the published models' presets: where the N = g x g embeddings of a picture are a grid of its cells, a sketch
regressed from them (`sketch.py`) is K more input channels of the U-Net; a U-Net that predicts clean latents corrects the sketch.

Axes   B rows   S side of a picture   p patch: pixels a latent position   s = S / p   K latent channels   N embeddings   D their width
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from tqdm import tqdm

from minemu.codec import build_codec
from minemu.config import DecoderConfig, VisionConfig, from_dict
from minemu.errors import MinemuError
from minemu.files import atomic_write, read_object, write_json
from minemu.loading import choose_dtype, load_module, read_dtype
from minemu.sketch import Sketch
from minemu.weights import load_strict, load_tensors, save_tensors

TRAIN_STEPS = 1000  # T, noise levels
BETAS = (0.00085, 0.012)  # Stable Diffusion's, for the schedules "linear" and "scaled_linear"
PREDICTIONS = {"v": "v_prediction", "epsilon": "epsilon", "sample": "sample"}  # our names -> those of diffusers
SIZE_WAVES = 256  # width of the embedding of each of SDXL's six sizes
POSITION_WAVES = (0.5, 1.0, 2.0)  # half periods across a picture, of the position channels
Generators = torch.Generator | Sequence[torch.Generator] | None  # one for all pictures, or one for each


class VisualDecoder(nn.Module):
    """`loss` trains the U-Net, `decode` draws. Pictures are in [-1, 1]; the codec is frozen here."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        check(config)
        self.config = config
        self.codec = build_codec(config).requires_grad_(False)
        self.unet = build_unet(config)
        with torch.device("cpu"):
            self.scheduler = build_scheduler(config)
        if config.position_channels:
            self.register_buffer("positions", position_channels(config.image_size // config.patch), persistent=False)
        self.register_buffer("condition_mean", torch.zeros(config.condition_width))
        self.register_buffer("condition_std", torch.ones(config.condition_width))
        if config.condition_grid:
            self.sketch = Sketch(config)
            self.register_buffer("signal", self.scheduler.alphas_cumprod.sqrt(), persistent=False)  # sqrt(alpha_bar_t), (T,)
            for parameter in self.unet.conv_out.parameters() if config.prediction == "sample" else ():
                nn.init.zeros_(parameter)  # the sketch as it is, to begin with

    # ---- conditions ----------------------------------------------------------------------------------------------------

    def fit_conditions(self, conditions: Tensor) -> None:
        """Remember mean and standard deviation of each dimension of visual embeddings (B, N, D); call before training."""
        self.condition_mean.copy_(conditions.float().mean((0, 1)))
        self.condition_std.copy_(conditions.float().std((0, 1)).clamp(min=1e-4))

    def normalise(self, conditions: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D) of about zero mean and unit variance."""
        if conditions.ndim != 3 or conditions.shape[-1] != self.config.condition_width:
            raise MinemuError(
                f"the decoder reads visual embeddings of shape (B, N, {self.config.condition_width}), not {tuple(conditions.shape)}; "
                "use the decoder of the same checkpoint as the embeddings"
            )
        return (conditions.to(self.condition_mean) - self.condition_mean) / self.condition_std

    # ---- training ------------------------------------------------------------------------------------------------------

    def loss(
        self, images: Tensor, conditions: Tensor, null: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Denoising loss, a scalar. images (B, 3, S, S) in [-1, 1], conditions (B, N, D).

        For classifier-free guidance a share of the rows loses its condition and gets one of `null` (M, N, D) instead, or the
        mean condition where `null` is not given.
        """
        config, device, rows = self.config, images.device, len(images)
        self.check_pairs(images, conditions)
        conditions = self.disturb(conditions, generator)                                        # (B, N, D)
        null = torch.zeros_like(conditions[:1]) if null is None else self.normalise(null)       # (M, N, D)
        instead = null[torch.randint(len(null), (rows,), generator=generator, device=device)]   # (B, N, D)
        dropped = torch.rand(rows, 1, 1, generator=generator, device=device) < config.condition_dropout
        conditions = torch.where(dropped, instead, conditions)

        latents = self.encode(images)                                                           # (B, K, s, s)
        noise = torch.randn(latents.shape, generator=generator, device=device)
        if config.noise_offset:                                                                 # Emu2: the mean is noisy too
            noise += config.noise_offset * torch.randn(*noise.shape[:2], 1, 1, generator=generator, device=device)
        t = torch.randint(TRAIN_STEPS, (rows,), generator=generator, device=device)             # (B,)
        noisy = self.scheduler.add_noise(latents, noise, t)
        target = {"sample": latents, "epsilon": noise, "v": self.scheduler.get_velocity(latents, noise, t)}[config.prediction]
        error = (self.predict(noisy, t, conditions).float() - target).square().mean((1, 2, 3))  # (B,)
        return (error * self.loss_weights(t)).mean()

    def sketch_loss(self, images: Tensor, conditions: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Squared error of the sketch, a scalar. images (B, 3, S, S) in [-1, 1], conditions (B, N, D)."""
        self.check_pairs(images, conditions)
        return F.mse_loss(self.sketch(self.disturb(conditions, generator)).float(), self.encode(images))

    def check_pairs(self, images: Tensor, conditions: Tensor) -> None:
        side = self.config.image_size
        if self.condition_mean.dtype != torch.float32:
            raise MinemuError("the decoder learns with float32 weights; load it without dtype, and compute in bfloat16 by torch.autocast")
        if images.shape[1:] != (3, side, side):
            raise MinemuError(
                f"the decoder learns from pictures of shape (B, 3, {side}, {side}), not {tuple(images.shape)}; "
                "resize them or set decoder.image_size"
            )
        if len(conditions) != len(images):
            raise MinemuError(f"{len(images)} pictures but {len(conditions)} conditions; give the embeddings of each picture")

    def disturb(self, conditions: Tensor, generator: torch.Generator | None) -> Tensor:
        """Normalised conditions with a little noise, as those of another picture may be a little off. (B, N, D) -> (B, N, D)."""
        conditions = self.normalise(conditions)
        noise = torch.randn(conditions.shape, generator=generator, device=conditions.device)
        return conditions + self.config.condition_noise * noise

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """The latents to be learnt, in full precision: (B, 3, S, S) -> (B, K, s, s)."""
        with torch.autocast(images.device.type, enabled=False):
            return self.codec.encode(images)

    def loss_weights(self, t: Tensor) -> Tensor:
        """Weight of each noise level: 1, or min-SNR-gamma (arXiv 2303.09556). (B,) -> (B,)."""
        gamma = self.config.min_snr_gamma
        if gamma is None:
            return torch.ones(t.shape, device=t.device)
        alphas = self.scheduler.alphas_cumprod.to(t.device)[t]
        snr = alphas / (1 - alphas)
        weight = snr.clamp(max=gamma)                                            # for z0's error; noise's is snr x, v's snr+1 x
        return {"sample": weight, "epsilon": weight / snr, "v": weight / (snr + 1)}[self.config.prediction]

    def predict(self, noisy: Tensor, t: Tensor, conditions: Tensor) -> Tensor:
        """The U-Net: noisy latents (B, K, s, s), noise levels () or (B,), normalised conditions (B, N, D) -> (B, K, s, s)."""
        if self.config.condition_grid:
            sketch = self.sketch(conditions).to(noisy.dtype)                                    # (B, K, s, s)
            noisy = torch.cat([noisy, sketch], 1)                                               # (B, 2K, s, s)
        if self.config.position_channels:
            noisy = torch.cat([noisy, self.positions.expand(len(noisy), -1, -1, -1)], 1)        # + 12 channels
        pooled = conditions.mean(1) if self.config.pooled_condition else None                   # (B, D)
        told: dict = {"class_labels": pooled}
        if self.config.size_condition:
            side = self.config.image_size                                                       # original size, crop, target size
            sizes = conditions.new_tensor([side, side, 0, 0, side, side]).expand(len(noisy), -1)    # (B, 6)
            told = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}
        if not (self.config.condition_grid and self.config.prediction == "sample"):
            return self.unet(noisy, t, encoder_hidden_states=conditions, **told).sample
        signal = self.signal[t].view(-1, 1, 1, 1).to(noisy)                                     # 0 where all is noise
        if not torch.is_grad_enabled() and not signal.any():
            return sketch                                                                       # the U-Net has nothing to say
        return sketch + signal * self.unet(noisy, t, encoder_hidden_states=conditions, **told).sample  # corrected, not drawn anew

    # ---- drawing -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def decode(
        self,
        conditions: Tensor,
        null: Tensor | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: Generators = None,
        progress: bool = False,
    ) -> Tensor:
        """Draw the pictures of visual embeddings, (B, N, D) -> (B, 3, S, S) in [-1, 1], as `denoise` says."""
        return self.to_pixels(self.denoise(conditions, null, num_inference_steps, guidance_scale, generator, progress))

    def to_pixels(self, latents: Tensor) -> Tensor:
        """(B, K, s, s) -> (B, 3, S, S) in [-1, 1]."""
        return self.codec.decode(latents.to(self.codec.scale)).clamp(-1, 1)

    @torch.no_grad()
    def denoise(
        self,
        conditions: Tensor,
        null: Tensor | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: Generators = None,
        progress: bool = False,
    ) -> Tensor:
        """The latents of the pictures of visual embeddings: (B, N, D) -> (B, K, s, s).

        In one unguided step a decoder that `begins_as_sketch` gives the sketch, which no seed changes. Guidance moves away from `null`
        (1 or B, N, D; default: the mean condition); a scale of 1 leaves it out. Published nulls: the embeddings of an all-zero
        picture to rebuild, those imagined from "" to draw from a prompt.
        """
        config = self.config
        steps = config.inference_steps if num_inference_steps is None else num_inference_steps
        scale = config.guidance_scale if guidance_scale is None else guidance_scale
        if not (isinstance(steps, int) and 1 <= steps <= TRAIN_STEPS):
            raise MinemuError(f"num_inference_steps={steps!r} is no whole number between 1 and {TRAIN_STEPS}")
        if not (isinstance(scale, (int, float)) and 0 <= scale < math.inf):
            raise MinemuError(f"guidance_scale={scale!r} should be a number, 0 or more; 1 is no guidance")
        conditions = self.normalise(conditions)                                                 # (B, N, D)
        rows, guided = len(conditions), scale != 1
        if guided:
            null = torch.zeros_like(conditions[:1]) if null is None else self.normalise(null)
            if null.shape[0] not in (1, rows) or null.shape[1:] != conditions.shape[1:]:
                raise MinemuError(
                    f"null embeddings of shape {tuple(null.shape)} do not fit conditions of shape {tuple(conditions.shape)}; "
                    "give one row, or one for each"
                )
            conditions = torch.cat([null.expand_as(conditions), conditions])                    # (2B, N, D): both in one pass
        latents = self.initial_noise(rows, generator)                                           # (B, K, s, s)
        sampler = build_sampler(config)
        sampler.set_timesteps(steps, device=latents.device)
        latents = latents * sampler.init_noise_sigma
        for t in tqdm(sampler.timesteps, desc="decode", disable=not progress):
            noisy = sampler.scale_model_input(latents, t)
            predicted = self.predict(torch.cat([noisy, noisy]) if guided else noisy, t, conditions)
            if guided:
                without, with_condition = predicted.chunk(2)
                predicted = without + scale * (with_condition - without)
            latents = sampler.step(predicted, t, latents).prev_sample
        return latents

    def initial_noise(self, rows: int, generator: Generators) -> Tensor:
        """(B, K, s, s), drawn in float32 where the generator lives, so that a seed gives the same picture in any precision.

        Each generator of a list draws its own row, so that a picture is the same alone and among others.
        """
        if isinstance(generator, (list, tuple)):
            if len(generator) != rows:
                raise MinemuError(f"{len(generator)} generators were given for {rows} pictures; give one for each, or one for all")
            return torch.cat([self.initial_noise(1, one) for one in generator])
        if not isinstance(generator, torch.Generator | None):
            raise MinemuError(f"generator={generator!r} is none; give torch.Generator().manual_seed(0)")
        side = self.config.image_size // self.config.patch
        home = generator.device if generator is not None else self.condition_mean.device
        noise = torch.randn(rows, self.config.latent_channels, side, side, generator=generator, device=home)
        return noise.to(self.condition_mean)

    # ---- files ---------------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | os.PathLike, dtype: torch.dtype | str | None = None) -> None:
        """Write config.json and model.safetensors (in `dtype`, default: as it is)."""
        folder, dtype = Path(folder), None if dtype is None else read_dtype(dtype)
        with atomic_write(folder / "model.safetensors") as temporary:
            save_tensors(self.state_dict(), temporary, dtype)
        write_json(folder / "config.json", {"model_type": "emu_visual_decoder", **asdict(self.config)})

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike, dtype: torch.dtype | str = torch.float32) -> VisualDecoder:
        """Load what `save_pretrained` wrote, in `dtype` ("auto": the file's own). Strict: every tensor has its place and its shape."""
        folder = Path(folder)
        values = read_object(folder / "config.json")
        if values.pop("model_type", None) != "emu_visual_decoder":
            raise MinemuError(f"{folder / 'config.json'} is not of a visual decoder (model_type is not 'emu_visual_decoder')")
        config = from_dict(DecoderConfig, values, "decoder.")
        tensors = load_tensors(folder / "model.safetensors")
        dtype = choose_dtype(dtype, tensors)
        decoder = load_module(lambda: cls(config), tensors, str(folder), dtype)
        decoder.to(dtype)  # the position channels too, which no file holds
        if dtype == torch.float16:
            decoder.codec.float()  # SDXL's autoencoder overflows in half precision
        return decoder

    @classmethod
    def from_diffusers(cls, folder: str | os.PathLike, config: DecoderConfig) -> VisualDecoder:
        """The published decoder of Emu or Emu2-Gen: a folder of diffusers with unet/ and vae/. Conditions are read as they come."""
        if config.codec != "vae":
            raise MinemuError("a decoder of diffusers comes with an autoencoder: give a configuration with decoder.codec=vae")
        folder, decoder = Path(folder), cls(config)
        for name, kind, own in (("unet", UNet2DConditionModel, decoder.unet), ("vae", AutoencoderKL, decoder.codec.vae)):
            try:
                part = kind.from_pretrained(folder / name, local_files_only=True)
            except (OSError, ValueError) as error:
                reason = str(error).splitlines()[0]
                raise MinemuError(f"{folder / name} is no {kind.__name__} of diffusers ({reason}); fetch it again") from None
            load_strict(own, part.state_dict(), str(folder / name))
        decoder.codec.scale.fill_(part.config.scaling_factor)
        return decoder.eval()


def begins_as_sketch(config: DecoderConfig) -> bool:
    """Whether the first of its steps, from pure noise, is the sketch alone."""
    return bool(config.condition_grid) and config.prediction == "sample" and config.zero_terminal_snr


def check(config: DecoderConfig) -> None:
    """Refuse what no U-Net can be built from, with the fields by name."""
    if config.imagined < 1 and config.conditions == "both":
        raise MinemuError(f"decoder.imagined={config.imagined} is too few: give 1 or more, or decoder.conditions=encoder")
    levels = len(config.unet_channels)
    if not levels or min(*config.unet_channels, *config.unet_heads, *config.unet_depths, 1) < 1:
        raise MinemuError("decoder.unet_channels, unet_heads and unet_depths take numbers of 1 or more, one for each level")
    for field in ("unet_attention", "unet_heads", "unet_depths"):
        values = getattr(config, field)
        if len(values) != levels and not (field == "unet_depths" and not values):
            raise MinemuError(f"decoder.{field} has {len(values)} values and decoder.unet_channels {levels}; give one for each level")
    coarsest = config.patch * 2 ** (levels - 1)
    if config.image_size % coarsest:
        raise MinemuError(
            f"decoder.image_size={config.image_size} is not a multiple of {coarsest}, what the U-Net's last level needs; "
            "change it, decoder.patch, or the number of levels"
        )
    for channels, heads in zip(config.unet_channels, config.unet_heads, strict=True):
        for field, divisor in (("norm_groups", config.norm_groups), ("unet_heads", heads)):
            if channels % divisor:
                raise MinemuError(f"decoder.unet_channels={channels} is not a multiple of decoder.{field}={divisor}; change one of them")
    if config.condition_grid and config.sketch_layers and config.sketch_width % VisionConfig.head_width:
        raise MinemuError(f"decoder.sketch_width={config.sketch_width} is not a multiple of {VisionConfig.head_width}; change it")
    if config.condition_grid and config.cell_maps and not config.sketch_layers:
        raise MinemuError("decoder.cell_maps reads what a Transformer sketches: set decoder.sketch_layers, or cell_maps=false")
    if config.size_condition and not config.pooled_condition:
        raise MinemuError("decoder.size_condition joins the pooled condition: set decoder.pooled_condition=true")
    if config.sampler != "ddim" and (config.prediction == "sample" or config.zero_terminal_snr):
        raise MinemuError(f"decoder.sampler={config.sampler} does not go with zero terminal SNR or prediction=sample; set sampler=ddim")
    if config.prediction == "epsilon" and config.zero_terminal_snr:
        raise MinemuError(
            "decoder.prediction=epsilon says nothing where all is noise: set decoder.zero_terminal_snr=false, or predict v or sample"
        )


def position_channels(side: int) -> Tensor:
    """Where each latent position is, as waves along x and y: (1, 4 x waves, s, s). Pure noise alone would not tell the U-Net."""
    place = (torch.arange(side) + 0.5) / side                                    # (s,), in (0, 1)
    angles = math.pi * torch.tensor(POSITION_WAVES)[:, None] * place             # (waves, s)
    waves = torch.cat([angles.sin(), angles.cos()])                              # (2 waves, s)
    across, down = waves[:, None, :].expand(-1, side, -1), waves[:, :, None].expand(-1, -1, side)
    return torch.cat([across, down])[None].contiguous()


def build_unet(config: DecoderConfig) -> UNet2DConditionModel:
    """The U-Net of Stable Diffusion v1.5 or SDXL in any size; level i has cross-attention where `unet_attention[i]`, the middle always.

    The mean embedding joins the time embedding, alone or with the sizes as in SDXL. Two additions, off in the published models'
    presets: channels that say where a position is, and time that scales as well as shifts.
    """
    attention, width = config.unet_attention, config.condition_width
    alone = config.pooled_condition and not config.size_condition
    pooled_width = width if alone else width + 6 * SIZE_WAVES if config.size_condition else None
    return UNet2DConditionModel(
        sample_size=config.image_size // config.patch,
        in_channels=config.latent_channels * (2 if config.condition_grid else 1)
        + (4 * len(POSITION_WAVES) if config.position_channels else 0),
        out_channels=config.latent_channels,
        block_out_channels=config.unet_channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if here else "DownBlock2D" for here in attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attention)),
        layers_per_block=config.layers_per_block,
        transformer_layers_per_block=config.unet_depths or 1,
        use_linear_projection=config.linear_projection,
        cross_attention_dim=width,
        attention_head_dim=config.unet_heads,  # what diffusers calls so is the number of heads
        norm_num_groups=config.norm_groups,
        resnet_time_scale_shift="scale_shift" if config.adaptive_norm else "default",
        class_embed_type="projection" if alone else None,
        addition_embed_type="text_time" if config.size_condition else None,
        addition_time_embed_dim=SIZE_WAVES if config.size_condition else None,
        projection_class_embeddings_input_dim=pooled_width,
    )


def build_scheduler(config: DecoderConfig) -> DDIMScheduler:
    """Noise levels for training and drawing. Steps trail: the first one starts from pure noise (arXiv 2305.08891)."""
    return DDIMScheduler(
        num_train_timesteps=TRAIN_STEPS,
        beta_start=BETAS[0],
        beta_end=BETAS[1],
        beta_schedule=config.schedule,
        prediction_type=PREDICTIONS[config.prediction],
        rescale_betas_zero_snr=config.zero_terminal_snr,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def build_sampler(config: DecoderConfig) -> DDIMScheduler | PNDMScheduler | EulerDiscreteScheduler:
    """How pictures are drawn: DDIM on the training's noise levels, or as published with PNDM (Emu) or Euler (Emu2)."""
    if config.sampler == "ddim":
        return build_scheduler(config)
    published = {"pndm": PNDMScheduler, "euler": EulerDiscreteScheduler}[config.sampler]
    alone = {"skip_prk_steps": True, "set_alpha_to_one": False} if config.sampler == "pndm" else {}
    return published(
        num_train_timesteps=TRAIN_STEPS,
        beta_start=BETAS[0],
        beta_end=BETAS[1],
        beta_schedule=config.schedule,
        prediction_type=PREDICTIONS[config.prediction],
        timestep_spacing="leading",
        steps_offset=1,
        **alone,
    )
