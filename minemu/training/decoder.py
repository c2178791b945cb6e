"""Stages `codec` and `decoder`: the latent space, then the U-Net that draws in it what visual embeddings say.

In the paper the conditions are the embeddings that the frozen LLM *generates* from a caption. `decoder.conditions` says which
are used: "generated", those of the "encoder" (as Emu2 does), or "both" in turn, so that one decoder draws from words and rebuilds pictures.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.models.attention_processor import AttnProcessor
from safetensors import safe_open
from torch import Tensor
from tqdm import tqdm

from minemu.config import EmuConfig
from minemu.data.datasets import batch_samples
from minemu.data.world import Sample, ToyWorld
from minemu.files import atomic_write
from minemu.model import Emu
from minemu.pipeline import DECODER_FOLDER, EmuPipeline, sheet, to_pil
from minemu.processor import EmuProcessor, normalise
from minemu.training.loop import Stage, TrainConfig
from minemu.visual_decoder import VisualDecoder, build_codec
from minemu.weights import load_strict, load_tensors, save_tensors

FIT_PICTURES = 2048  # for statistics: principal components, scales
CACHE_BATCH = 256
PREVIEWED = 32


def pixels_of(samples: list[Sample]) -> Tensor:
    """uint8 (B, S, S, 3)."""
    return torch.stack([torch.from_numpy(sample.pixels) for sample in samples])


def to_range(pixels: Tensor) -> Tensor:
    """uint8 (B, S, S, 3) -> float32 (B, 3, S, S) in [-1, 1]."""
    return (pixels.float() / 127.5 - 1).permute(0, 3, 1, 2).contiguous()


class CodecStage(Stage):
    """Pixels <-> latents. The linear codec is fitted in closed form and has nothing to train; the VAE trains."""

    name = "codec"

    def __init__(self, config: EmuConfig, train: TrainConfig, processor: EmuProcessor, world: ToyWorld):
        torch.manual_seed(train.seed)
        self.config, self.train, self.world = config, train, world
        self.module = build_codec(config.decoder)

    def batch(self, index: int) -> Tensor:
        size = self.train.batch_size
        return pixels_of(batch_samples(self.world, index * size, size))

    def loss(self, batch: Tensor) -> dict[str, Tensor]:
        return self.module.loss(to_range(batch))

    def finish(self, folder: Path) -> None:
        self.module.fit(to_range(pixels_of(batch_samples(self.world, 0, FIT_PICTURES))))
        with atomic_write(folder / "codec.safetensors") as temporary:
            save_tensors(self.module.state_dict(), temporary)


class DecoderStage(Stage):
    """The U-Net, with the codec and all of Emu frozen. Conditions of `cached` samples are computed once and kept on disk."""

    name = "decoder"

    def __init__(self, config: EmuConfig, train: TrainConfig, processor: EmuProcessor, world: ToyWorld, root: Path):
        torch.manual_seed(train.seed)
        self.config, self.train, self.world = config, train, world
        self.module = VisualDecoder(config.decoder)
        self.module.unet.set_attn_processor(AttnProcessor())  # on a CPU plain attention is a fifth faster than fused
        load_strict(self.module.codec, load_tensors(root / "codec" / "codec.safetensors"), "stage codec")
        self.pipe = EmuPipeline(Emu.from_pretrained(root / "emu"), processor, self.module)
        self.cache = root / self.name / "conditions.safetensors"
        if not self.cache.exists():
            self.write_cache()
        with safe_open(self.cache, "pt") as file:
            self.conditions = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        self.fit()
        self.null = torch.cat([self.pipe.null_embeds(autoencode=True), self.pipe.null_embeds(autoencode=False)])

    def fit(self) -> None:
        """What is known in closed form: statistics of the conditions, and the best linear sketch from them."""
        parts = [part[:FIT_PICTURES].float() for part in self.conditions.values()]
        self.module.fit_conditions(torch.cat(parts))
        if self.config.decoder.condition_grid:
            pictures = to_range(pixels_of(batch_samples(self.world, 0, len(parts[0]))))
            self.module.fit_sketch(torch.cat([pictures] * len(parts)), torch.cat(parts))

    @torch.no_grad()
    def write_cache(self) -> None:
        """Visual embeddings of the first `decoder.cached` samples, (cached, N, D) in half precision, of each kind that is used."""
        config, kinds = self.config.decoder, {}
        for start in tqdm(range(0, config.cached, CACHE_BATCH), desc="conditions", unit="batch"):
            samples = batch_samples(self.world, start, min(CACHE_BATCH, config.cached - start))
            if config.conditions != "generated":
                embeds = self.pipe.model.encode_images(normalise(pixels_of(samples)))
                kinds.setdefault("encoder", []).append(embeds.half())
            if config.conditions != "encoder":
                texts = [[sample.caption if sample.scene.seed % 2 else sample.prompt] for sample in samples]
                kinds.setdefault("generated", []).append(self.pipe.imagine(texts).half())
        with atomic_write(self.cache) as temporary:
            save_tensors({name: torch.cat(parts) for name, parts in kinds.items()}, temporary)

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        size, cached = self.train.batch_size, self.config.decoder.cached
        numbers = [i % cached for i in range(index * size, (index + 1) * size)]
        kinds = list(self.conditions.values())
        lap = index * size // cached  # each time round, a sample meets its other kind of condition
        conditions = torch.stack([kinds[(i + lap) % len(kinds)][i] for i in numbers])
        return pixels_of([self.world.sample(i) for i in numbers]), conditions.float()

    def loss(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        pixels, conditions = batch
        return {"loss": self.module.loss(to_range(pixels), conditions, self.null)}

    def preview(self, folder: Path, step: int) -> None:
        """A sheet of training scenes: the real picture above what is drawn from each kind of condition."""
        rows = [to_pil(to_range(pixels_of(batch_samples(self.world, 0, PREVIEWED))))]
        for conditions in self.conditions.values():
            generator = torch.Generator().manual_seed(0)
            rows.append(to_pil(self.module.decode(conditions[:PREVIEWED].float(), self.null[:1], generator=generator)))
        sheet(rows).save(folder / f"preview-{step:06d}.png")

    def finish(self, folder: Path) -> None:
        self.module.save_pretrained(folder / DECODER_FOLDER)
