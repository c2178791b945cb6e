"""Stages `language`, `imagine` and `emu`: the toy LLaMA on captions alone, then on what captions look like, then Emu's unified
pretraining on pictures and text."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from minemu.config import EmuConfig
from minemu.data import captions
from minemu.data.datasets import batch_samples
from minemu.data.documents import Document
from minemu.data.mixture import Mixture, MixtureConfig, toy_mixture
from minemu.data.scene import Scene
from minemu.data.world import Sample, ToyWorld
from minemu.errors import MinemuError
from minemu.model import Emu, build_llama
from minemu.objective import text_loss
from minemu.processor import EmuProcessor, normalise
from minemu.sequence import IGNORE, PICTURE, Picture, TokenIds, interleave, pack_rows, pad_rows, targets
from minemu.training import checkpoint
from minemu.training.loop import FUSED, Stage, TrainConfig
from minemu.training.ready_made import read_llama
from minemu.weights import load_strict, part_of

GIVEN = "this is the "  # begins the text before a picture that is there to be read
CONDITIONS = "conditions.safetensors"  # kept beside the weights: what stages `sketch` and `decoder` are trained on
# What stage `imagine` learns from.
LOOKS = MixtureConfig(labels=0, scenes=0, interleaved=0, clips=0, storyboards=0, drawings=8, in_context=1, texts=1)
PACKED_LENGTH = 160  # of a packed row at least; more where a document is longer


class LanguageStage(Stage):
    """A small LLaMA that knows how captions are worded, and `wordings` where given; the authors took LLaMA-13B here.

    `ready_made`, a checkpoint of a LLaMA, is what it begins with.
    """

    name = "language"

    def __init__(
        self,
        config: EmuConfig,
        train: TrainConfig,
        processor: EmuProcessor,
        world: ToyWorld,
        wordings: Sequence[str] = (),
        ready_made: str = "",
    ):
        torch.manual_seed(train.seed)
        self.config, self.train, self.processor, self.world = config, train, processor, world
        self.wordings = wordings
        self.module = build_llama(config.llm, TokenIds.of(config.llm))
        if ready_made:
            load_strict(self.module, read_llama(ready_made, config.llm, processor), f"train.llm={ready_made}")

    def layers(self) -> Iterable[nn.Module]:
        return self.module.model.layers

    def batch(self, index: int) -> dict[str, Tensor]:
        size, ids = self.train.batch_size, self.processor.ids
        scenes = [self.world.scene(i) for i in range(index * size, (index + 1) * size)]
        rows = [interleave([self.processor.encode(self.text(scene))], ids, 0, eos=True) for scene in scenes]
        return pad_rows(rows, ids)

    def text(self, scene: Scene) -> str:
        """A caption or a prompt; half of the time one of the wordings."""
        rng = np.random.default_rng(scene.seed)
        if self.wordings and rng.random() < 0.5:
            return self.wordings[rng.integers(len(self.wordings))]
        return captions.caption(scene) if scene.seed % 2 else captions.prompt(scene, rng)

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        logits = self.module(**batch).logits
        return {"loss": text_loss(logits, targets(batch["input_ids"], self.processor.ids, self.config.objective))}

    def targets(self, batch: dict[str, Tensor]) -> dict[str, int]:
        said = targets(batch["input_ids"], self.processor.ids, self.config.objective).text != IGNORE
        return {"loss": int(said.sum())}

    def finish(self, folder: Path) -> None:
        checkpoint.leave(self.name, folder, self.module.state_dict())


def caption_documents(samples: list[Sample]) -> list[Document]:
    """Each picture before its caption or after its prompt: most documents hold one, about one in eight holds two or three.

    Not more: in those a text may follow a picture that it does not describe, which slows learning to read.
    """
    made, start = [], 0
    while start < len(samples):
        length = {0: 2, 1: 3}.get(samples[start].scene.seed // 2 % 16, 1)
        group = samples[start : start + length]
        if group[0].scene.seed % 2 == 0:
            made.append([piece for sample in group for piece in (sample.pixels, sample.caption)])
        else:
            made.append([piece for sample in group for piece in (sample.prompt, sample.pixels)])
        start += length
    return made


Pieces = list[list[int] | Picture]


def tokenise(document: Document, processor: EmuProcessor, context: int) -> tuple[Pieces, list[Tensor], bool]:
    """A document as texts in token ids and pictures, the pictures uint8 (S, S, 3), and whether all of it fits the context.

    What does not fit is cut off: within a text, but never within a picture.
    """
    pieces: Pieces = []
    pictures: list[Tensor] = []
    room = context - 2  # <s> and </s>
    for piece in document:
        if isinstance(piece, str):
            text = processor.encode(piece)
            pieces.append(text[:room])
            room -= len(text)
        else:
            room -= processor.n_image + 2
            if room >= 0:
                picture = Image.fromarray(piece) if isinstance(piece, np.ndarray) else piece
                pieces.append(PICTURE)
                pictures.append(processor.pixels(picture))
        if room < 0:
            return pieces, pictures, False
    return pieces, pictures, True


def follow_text(document: Document) -> list[bool]:
    """For each picture, whether it is written after its text rather than read.

    Where a text ends the document, the texts are taken to follow their pictures; a title may still stand before all of them.
    A picture announced as in "this is the first image:" is given.
    """
    after, before = [], ""
    for piece in document:
        if isinstance(piece, str):
            before = piece
        else:
            after.append(before != "" and not before.startswith(GIVEN) and not isinstance(document[-1], str))
    return after


def pack_documents(documents: list[Document], processor: EmuProcessor, config: EmuConfig) -> dict[str, Tensor]:
    """Documents as packed rows, with their pictures in reading order: uint8 "pixels" and, for each, whether it comes "after_text"."""
    ids, n_image, context = processor.ids, config.bridge.n_image, config.llm.context
    tokenised = [tokenise(document, processor, context) for document in documents]
    rows = [interleave(pieces, ids, n_image, eos=whole) for pieces, _, whole in tokenised]
    packed = pack_rows(rows, ids, max(PACKED_LENGTH, *map(len, rows)))
    pixels, after = [], []
    for i in packed.pop("order"):
        shown = tokenised[i][1]
        pixels += shown
        after += follow_text(documents[i])[: len(shown)]
    if not pixels:  # texts alone, as small batches of real data may be
        return packed
    return {**packed, "pixels": torch.stack(pixels), "after_text": torch.tensor(after)}


def hide(embeds: Tensor, where: Tensor, share: float) -> Tensor:
    """Against exposure bias: put noise in the place of embeddings (B, N, E) of pictures that follow a text, `where` (B,).

    In training each embedding is predicted from the true ones before it, in generation from predicted ones. One true
    embedding tells nearly all of the others, so the words would not be read at all. Here a `share` of these pictures loses
    all of its signal and each of the others a part, drawn at random; mean and variance stay. A share of 0 hides nothing.
    """
    if share == 0:
        return embeds
    strength, lot = (torch.rand(len(embeds), 1, 1, device=embeds.device) for _ in range(2))
    signal = strength * (lot >= share)
    signal = torch.where(where[:, None, None], signal, 1.0)
    mean, std = embeds.mean((0, 1)).detach(), embeds.std((0, 1)).detach()
    noise = mean + std * torch.randn_like(embeds)
    return mean + signal * (embeds - mean) + (1 - signal**2).sqrt() * (noise - mean)


def begin(config: EmuConfig, root: Path, imagined: bool) -> Emu:
    """An Emu of what stage `imagine` left in `root`, if there was one, else of what `encoder`, `bridge` and `language` did."""
    model = Emu(config)
    if imagined:
        load_strict(model, checkpoint.left_by("imagine", root), "stage imagine")
        return model
    encoder = checkpoint.left_by("encoder", root)
    load_strict(model.visual_encoder, part_of(encoder, "visual_encoder"), "stage encoder")
    if config.bridge.kind == "causal":  # pooling has nothing to load; its way into the LLM begins at random
        bridge = checkpoint.left_by("bridge", root)
        for name in ("ln_visual", "causal_transformer"):
            load_strict(model.get_submodule(name), part_of(bridge, name), "stage bridge")
    load_strict(model.llm, checkpoint.left_by("language", root), "stage language")
    return model


class EmuStage(Stage):
    """Unified pretraining: in each row pictures stand before or after their texts at random, and both losses act on it.

    After the picture the full caption is to be said; before it, a prompt from which parts are left out at random.
    With a mixture its documents take the place of the captions, `batch_size` of them a micro step.
    """

    name = "emu"
    attention = FUSED

    def __init__(
        self,
        config: EmuConfig,
        train: TrainConfig,
        processor: EmuProcessor,
        world: ToyWorld,
        root: Path,
        mixture: Mixture | None = None,
        imagined: bool = False,
    ):
        torch.manual_seed(train.seed)
        self.config, self.train, self.processor, self.world = config, train, processor, world
        self.mixture = mixture
        self.hidden = config.objective.hide_written
        self.module = begin(config, root, imagined)
        self.teacher = None
        if config.objective.targets == "frozen":  # regress what the visual side said when this stage began
            without = {id(self.module.llm): nn.Identity()}  # what `deepcopy` puts in its place
            self.teacher = copy.deepcopy(self.module, without).eval().requires_grad_(False)

    def parameter_lrs(self, config: TrainConfig) -> dict[nn.Parameter, float]:
        """Per-module rates, as in the paper: ViT 4e-5, Causal Transformer 1e-4, LLaMA 3e-5."""
        rates = {
            "visual_encoder": config.lr_vision,
            "ln_visual": config.lr_bridge,
            "causal_transformer": config.lr_bridge,
            "project_up": config.lr_bridge,
        }
        lrs = {}
        for name, parameter in self.module.named_parameters():
            learns = not config.only or f"{name}.".startswith(f"{config.only}.")
            rate = rates.get(name.split(".")[0])
            lrs[parameter] = 0.0 if not learns else config.lr if rate is None else rate
        if not any(lrs.values()):
            raise MinemuError(f"only={config.only} leaves nothing that learns; name a module, such as only=llm.lm_head")
        return lrs

    def layers(self) -> Iterable[nn.Module]:
        return self.module.llm.model.layers

    def documents(self, index: int) -> list[Document]:
        """The documents of micro batch `index`."""
        size = self.train.batch_size
        if self.mixture is not None:
            return [self.mixture.document(i) for i in range(index * size, (index + 1) * size)]
        return caption_documents(batch_samples(self.world, index * size, size))

    def batch(self, index: int) -> dict[str, Tensor]:
        return pack_documents(self.documents(index), self.processor, self.config)

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        shown = {}
        if "pixels" in batch:
            images, after = normalise(batch.pop("pixels")), batch.pop("after_text")
            embeds = self.encode(images, after)  # (B, N, E)
            aims = embeds
            if self.teacher is not None:
                with torch.no_grad():
                    aims = self.teacher.encode_images(images)
            shown = {"image_embeds": hide(embeds, after, self.hidden), "image_targets": aims}
        out = self.module(**batch, **shown)
        return {"loss": out.loss, "text_loss": out.text_loss, "image_loss": out.image_loss}

    @property
    def terms(self) -> dict[str, float]:
        return {"text_loss": 1.0, "image_loss": self.config.objective.image_loss_weight}

    def targets(self, batch: dict[str, Tensor]) -> dict[str, int]:
        wanted = targets(batch["input_ids"], self.processor.ids, self.config.objective, batch["segment_ids"])
        return {"text_loss": int((wanted.text != IGNORE).sum()), "image_loss": int(wanted.image.sum())}

    def encode(self, images: Tensor, after: Tensor) -> Tensor:
        """Visual embeddings of pictures (B, 3, S, S) -> (B, N, E).

        Unless targets are attached, only pictures that are read teach the visual side, not those written `after` (B,) a text: targets are
        detached, hidden inputs teach little, and half of the tower's backward pass is saved.
        """
        embeds = images.new_empty(len(images), self.config.bridge.n_image, self.config.embed_width)
        for which, taught in ((after, self.config.objective.targets == "attached"), (~after, True)):
            if which.any():
                with torch.set_grad_enabled(taught):
                    embeds[which] = self.module.encode_images(images[which]).to(embeds.dtype)
        return embeds

    def finish(self, folder: Path) -> None:
        (folder / CONDITIONS).unlink(missing_ok=True)  # imagined by a shorter run
        self.module.save_pretrained(folder)


class ImagineStage(EmuStage):
    """Pictures for full captions, by the same objective: what things look like, before there is anything else to learn.

    In the mixture words outweigh pictures: 64 thousand drawings alone teach about as much as 300 thousand in it. One document in
    ten wants something of two pictures, and one is a text, so that no word is pushed out of the vocabulary; what other sources say of
    pictures is unlearnt all the same (docs/lab-notes.md). What is written is hidden as a whole, so
    that it follows from what is read alone.
    """

    name = "imagine"

    def __init__(self, config: EmuConfig, train: TrainConfig, processor: EmuProcessor, world: ToyWorld, root: Path):
        super().__init__(config, train, processor, world, root, toy_mixture(world, LOOKS))
        self.hidden = 1.0
