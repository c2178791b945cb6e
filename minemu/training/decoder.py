"""Stages `codec`, `sketch` and `decoder`: the latent space, its regression from visual embeddings, and the U-Net that draws in it.

In the paper the conditions are the embeddings that the frozen LLM *generates* from a caption. `decoder.conditions` says which
are used: "generated", those of the "encoder" (as Emu2 does), or "both" in turn, so that one decoder draws from words and rebuilds pictures.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn
from tqdm import tqdm

from minemu.config import DecoderConfig, EmuConfig
from minemu.data.datasets import batch_samples, pixels_of
from minemu.data.episodes import in_context
from minemu.data.scene import Scene
from minemu.data.world import ToyWorld
from minemu.files import atomic_write
from minemu.model import Emu
from minemu.pipeline import DECODER_FOLDER, EmuPipeline, sheet, to_pil
from minemu.processor import EmuProcessor, normalise
from minemu.training import checkpoint
from minemu.training.emu import CONDITIONS
from minemu.training.loop import Stage, TrainConfig, computing_in
from minemu.visual_decoder import VisualDecoder, build_codec
from minemu.weights import load_strict, load_tensors, save_tensors

FIT_PICTURES = 2048  # for statistics: principal components, scales
CACHE_BATCH = 256
PREVIEWED = 32


class Wish(NamedTuple):
    """A prompt, the picture that is meant, uint8 (S, S, 3), and its scene as far as words and given pictures tell; None: left open."""

    prompt: list[str | Image.Image]
    picture: np.ndarray
    told: Scene


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
        self.module.fit(to_range(pixels_of(batch_samples(self.world, 0, FIT_PICTURES))).to(self.device))
        checkpoint.leave(self.name, folder, self.module.state_dict())


class Conditions:
    """Blocks of `decoder.cached` samples of the world with their visual embeddings, kept beside stage `emu` while they are used.

    The first block serves for all of the training, or with `decoder.laps` for so many laps: a sketch learns by heart what it
    meets too often, and imagined embeddings are wrong in another way for each sample.

    pixels   uint8 (cached, S, S, 3)
    means    only if `averaged`: for each sample the mean of `decoder.averaged` pictures that fit the same words, the target of what
             is imagined. A short text leaves much open; where exactly things stand none says, so they are in the middle
    kinds    embeddings of each kind that is used, half precision (cached, N, D): the encoder's, and those imagined from prompts
    """

    def __init__(
        self,
        config: DecoderConfig,
        pipe: EmuPipeline,
        world: ToyWorld,
        root: Path,
        imagine_on: str | torch.device = "cpu",
        averaged: bool = False,
        precision: str = "float32",
    ):
        self.precision = precision
        self.averaged = averaged and config.averaged > 1 and config.conditions != "encoder"
        self.names = ["encoder", "generated"] if config.conditions == "both" else [config.conditions]
        self.turns = [0, *[1] * config.imagined] if config.conditions == "both" else [0]  # which kind, in turn
        self.config, self.cached, self.world = config, config.cached, world
        self.pipe, self.imagine_on = pipe, imagine_on
        self.path, self.block = root / "emu" / CONDITIONS, -1
        if config.laps:  # the block in use depends on how far training is; the head must not
            self.head = self.make(0, min(FIT_PICTURES, self.cached))
        else:
            self.hold(0)
            self.head = {"pixels": self.pixels, **dict(zip(self.names, self.kinds, strict=True))}

    def hold(self, block: int) -> None:
        """Have a block of samples at hand: from the file if they are in it, else made anew."""
        if block == self.block:
            return
        world, config = self.world, self.config
        made_from = (
            f"seed {world.seed}, {len(world.labels)} things, {world.image_size} pixels, captioned {config.captioned}, "
            f"in context {config.in_context}, averaged {config.averaged} in mid place, from sample {block * self.cached} on"
        )
        if not self.suffices(made_from):
            self.pixels, self.pictures, self.kinds = torch.empty(0), [], []  # no two blocks in memory
            with atomic_write(self.path) as temporary:
                save_tensors(self.make(block * self.cached, self.cached), temporary, metadata={"made_from": made_from})
        tensors = load_tensors(self.path)
        self.pixels = tensors["pixels"][: self.cached]
        means = tensors["means"][: self.cached] if self.averaged else self.pixels
        self.pictures = [self.pixels if name == "encoder" else means for name in self.names]  # to learn, of each kind
        self.kinds = [tensors[name][: self.cached] for name in self.names]
        self.block = block

    def suffices(self, made_from: str) -> bool:
        if not self.path.exists():
            return False
        with safe_open(self.path, "pt") as file:
            known = {"pixels", *self.names, *(["means"] if self.averaged else [])} <= set(file.keys())
            same = (file.metadata() or {}).get("made_from") == made_from
            return known and same and file.get_slice("pixels").get_shape()[0] >= self.cached

    @torch.no_grad()
    def make(self, first: int, count: int) -> dict[str, Tensor]:
        made: dict[str, Tensor] = {}
        self.pipe.model.to(self.imagine_on)
        for start in tqdm(range(0, count, CACHE_BATCH), desc="conditions", unit="batch"):
            wishes = [self.wish(first + i) for i in range(start, min(start + CACHE_BATCH, count))]
            with computing_in(self.precision, self.pipe.model.device):
                found = self.of_wishes(wishes)
            for name, rows in found.items():
                if name not in made:  # once: they are large
                    made[name] = torch.empty(count, *rows.shape[1:], dtype=rows.dtype)
                made[name][start : start + len(rows)] = rows
        self.pipe.model.to("cpu")
        return made

    def of_wishes(self, wishes: list[Wish]) -> dict[str, Tensor]:
        """The pictures that are wished for, and their embeddings of each kind."""
        model, found = self.pipe.model, {"pixels": torch.stack([torch.from_numpy(wish.picture) for wish in wishes])}
        if self.averaged:
            means = [self.world.mean_picture(wish.told, self.config.averaged) for wish in wishes]
            found["means"] = torch.stack([torch.from_numpy(mean) for mean in means])
        if "encoder" in self.names:
            found["encoder"] = model.encode_images(normalise(found["pixels"]).to(model.device)).half()
        if "generated" in self.names:
            found["generated"] = self.pipe.imagine([wish.prompt for wish in wishes]).half()
        return found

    def wish(self, i: int) -> Wish:
        """Sample `i`: what its picture is imagined from, and the picture. What the words leave open can only be averaged."""
        if i % 100 < 100 * self.config.in_context:
            wanted = in_context(self.world, i)
            prompt = [piece if isinstance(piece, str) else Image.fromarray(piece) for piece in wanted.prompt]
            return Wish(prompt, wanted.target, wanted.scenes[-1])
        sample = self.world.sample(i)
        if sample.scene.seed % 100 < 100 * self.config.captioned:
            return Wish([sample.caption], sample.pixels, sample.scene)
        return Wish([sample.prompt], sample.pixels, sample.told)

    def first(self, count: int) -> tuple[Tensor, Tensor]:
        """Pictures (kinds x count, 3, S, S) in [-1, 1] and their embeddings (kinds x count, N, D), one kind after the other."""
        pictures = to_range(self.head["pixels"][:count])
        kinds = [self.head[name][:count].float() for name in self.names]
        return torch.cat([pictures] * len(kinds)), torch.cat(kinds)

    def batch(self, index: int, size: int) -> tuple[Tensor, Tensor]:
        """Micro batch `index`: pixels uint8 (size, S, S, 3), embeddings (size, N, D). Each lap has an order of its own, and
        a sample meets both kinds of embeddings in turn."""
        places = [divmod(i, self.cached) for i in range(index * size, (index + 1) * size)]
        self.hold(places[0][0] // self.config.laps if self.config.laps else 0)
        found = [(lap, shuffled(lap, self.cached)[place]) for lap, place in places]
        found = [(self.turns[(lap + i) % len(self.turns)], i) for lap, i in found]
        pictures, embeds = (torch.stack([of[kind][i] for kind, i in found]) for of in (self.pictures, self.kinds))
        return pictures, embeds.float()


@lru_cache(maxsize=2)  # of a function, as that of a method would keep the samples in memory while later stages train
def shuffled(lap: int, count: int) -> list[int]:
    return np.random.default_rng(lap).permutation(count).tolist()


def prepare(
    config: EmuConfig,
    processor: EmuProcessor,
    world: ToyWorld,
    root: Path,
    imagine_on: str | torch.device,
    averaged: bool,
    precision: str,
) -> tuple[VisualDecoder, EmuPipeline, Conditions]:
    """A decoder with all that is known before it trains: codec and statistics of the conditions."""
    decoder = VisualDecoder(config.decoder)
    load_strict(decoder.codec, checkpoint.left_by("codec", root), "stage codec")
    pipe = EmuPipeline(Emu.from_pretrained(root / "emu"), processor, decoder)
    conditions = Conditions(config.decoder, pipe, world, root, imagine_on, averaged, precision)
    _, embeds = conditions.first(FIT_PICTURES)
    decoder.fit_conditions(embeds)
    return decoder, pipe, conditions


def save_preview(folder: Path, step: int, rows: list[list[Image.Image]]) -> None:
    with atomic_write(folder / f"preview-{step:06d}.png") as temporary:
        sheet(rows).save(temporary, format="PNG")


class DrawingStage(Stage):
    """What sketch and U-Net have in common: pictures, and the visual embeddings to draw them from. All else is frozen."""

    forks = False  # all that a batch takes is in this process's memory
    averaged = False  # whether it learns means of pictures

    def __init__(
        self,
        config: EmuConfig,
        train: TrainConfig,
        processor: EmuProcessor,
        world: ToyWorld,
        root: Path,
        imagine_on: str | torch.device = "cpu",
    ):
        torch.manual_seed(train.seed)
        self.train = train
        self.decoder, pipe, self.conditions = prepare(
            config, processor, world, root, imagine_on, self.averaged, train.precision
        )
        self.begin(pipe, root)

    def begin(self, pipe: EmuPipeline, root: Path) -> None:
        """Set `module`, and whatever else the stage begins with."""
        raise NotImplementedError

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        return self.conditions.batch(index, self.train.batch_size)


class SketchStage(DrawingStage):
    """The regression of latents from visual embeddings. Cheap: N positions a picture, and no noise."""

    name = "sketch"
    averaged = True

    def begin(self, pipe: EmuPipeline, root: Path) -> None:
        self.module = self.decoder.sketch
        pictures, embeds = self.conditions.first(FIT_PICTURES)
        self.module.fit(self.decoder.normalise(embeds), self.decoder.encode(pictures))

    def loss(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        pixels, conditions = batch
        return {"loss": self.decoder.sketch_loss(to_range(pixels), conditions)}

    def preview(self, folder: Path, step: int) -> None:
        """A sheet of training scenes: the real picture above the sketch from each kind of embeddings."""
        pictures, embeds = self.conditions.first(PREVIEWED)
        embeds = self.decoder.normalise(embeds.to(self.device))
        drawn = self.decoder.codec.decode(self.module(embeds)).clamp(-1, 1)
        kinds = drawn.chunk(len(self.conditions.names))
        save_preview(folder, step, [to_pil(pictures[: len(kinds[0])]), *map(to_pil, kinds)])

    def finish(self, folder: Path) -> None:
        checkpoint.leave(self.name, folder, self.module.state_dict())


class DecoderStage(DrawingStage):
    """The U-Net, with the codec and the sketch frozen too."""

    name = "decoder"

    def begin(self, pipe: EmuPipeline, root: Path) -> None:
        self.module = self.decoder
        if self.module.config.condition_grid:
            load_strict(self.module.sketch, checkpoint.left_by("sketch", root), "stage sketch")
        self.module.unet.set_attn_processor(AttnProcessor())  # on a CPU plain attention is a fifth faster than fused
        self.null = torch.cat([pipe.null_embeds(autoencode=True), pipe.null_embeds(autoencode=False)])

    def parameter_lrs(self, config: TrainConfig) -> dict[nn.Parameter, float]:
        trained = set(self.module.unet.parameters())
        return {parameter: config.lr * (parameter in trained) for parameter in self.module.parameters()}

    def loss(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        pixels, conditions = batch
        return {"loss": self.module.loss(to_range(pixels), conditions, self.null)}

    def preview(self, folder: Path, step: int) -> None:
        """A sheet of training scenes: the real picture above what is drawn from each kind of embeddings."""
        pictures, embeds = self.conditions.first(PREVIEWED)
        rows = [to_pil(pictures[: len(pictures) // len(self.conditions.names)])]
        for name, conditions in zip(self.conditions.names, embeds.chunk(len(self.conditions.names)), strict=True):
            null = self.null[:1] if name == "encoder" else self.null[1:]
            generator = torch.Generator().manual_seed(0)
            rows.append(to_pil(self.module.decode(conditions.to(self.device), null, generator=generator)))
        save_preview(folder, step, rows)

    def finish(self, folder: Path) -> None:
        self.module.save_pretrained(folder / DECODER_FOLDER)
