"""The numbers of one trained model: what it reads, imagines, sees in clips and learns from examples, on scenes held out from training.

Axes   n pictures   N embeddings a picture   E regressed width   R rows   L positions
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from itertools import count, cycle
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from minemu.ablations.variants import GROUP, FewThings
from minemu.data import movies, questions
from minemu.data.world import Sample, ToyWorld
from minemu.model import Emu
from minemu.pipeline import EmuPipeline
from minemu.processor import EmuProcessor

HELD_OUT, KNOWN, ASKED = 256, 512, 96  # scenes to measure on, scenes that the mean predictor has seen, questions
BATCH = 64  # samples read at once
SHOTS = 4
ASKS = ("colour", "style", "what", "count")  # what the sentences of the examples say
EVALUATION_SEED = 1000


@torch.no_grad()
def measure(model: Emu, processor: EmuProcessor, seed: int = 0, documents: bool = False) -> dict[str, Any]:
    """All numbers of one model, on held-out scenes that are the same for all models; `documents`: also on clips and examples."""
    world = FewThings(EVALUATION_SEED, processor.image_size, held_out=True)
    known = FewThings(seed, processor.image_size)
    samples, train = distinct(world, HELD_OUT), [known.sample(i) for i in range(KNOWN)]
    found = {**reading(model, processor, samples, train), **writing(model, processor, samples, train)}
    if documents:
        found |= {**watching(model, processor, world), **learning_from_examples(model, processor, world)}
    return found


def distinct(world: ToyWorld, n: int) -> list[Sample]:
    """The first n samples that show different things, so that no picture is a second one's right answer."""
    found: dict[tuple, Sample] = {}
    i = 0
    while len(found) < n:
        sample = world.sample(i)
        found.setdefault(sample.scene.shows(), sample)
        i += 1
    return list(found.values())


def last_text_loss(model: Emu, processor: EmuProcessor, samples: Sequence[Sequence], total: bool = False) -> Tensor:
    """Loss of the words of the last text of each sample, given all before it: (n,). Their mean, or their total."""
    found = []
    for start in range(0, len(samples), BATCH):
        some = samples[start : start + BATCH]
        batch = processor(some)
        logits = model(**batch).logits[:, :-1]  # (R, L - 1, words)
        ids, mask = batch["input_ids"][:, 1:], batch["attention_mask"]
        loss = F.cross_entropy(logits.transpose(1, 2), ids, reduction="none")  # (R, L - 1)
        words = torch.tensor([len(processor.encode(sample[-1])) for sample in some])[:, None]  # (R, 1)
        ends = mask.sum(1, keepdim=True) - 1
        place = torch.arange(ids.shape[1])
        told = (place >= ends - words) & (place < ends)
        found.append((loss * told).sum(1) / (1 if total else told.sum(1)))
    return torch.cat(found)


def turned(items: Sequence) -> list:
    """Each one's neighbour: what a blind baseline is shown."""
    return [*items[1:], items[0]]


def reading(model: Emu, processor: EmuProcessor, samples: Sequence[Sample], train: Sequence[Sample]) -> dict[str, Any]:
    """The loss of captions after their pictures, after other pictures, and for a model that knows only how frequent words are."""
    pictures, texts = [s.picture for s in samples], [s.caption for s in samples]
    said = torch.tensor([word for sample in train for word in processor.encode(sample.caption)])
    frequency = (said.bincount(minlength=len(processor.tokenizer)) + 1.0).div(len(said)).log()
    alone = torch.stack([-frequency[processor.encode(text)].mean() for text in texts])
    shown = last_text_loss(model, processor, list(zip(pictures, texts, strict=True)))
    blind = last_text_loss(model, processor, list(zip(turned(pictures), texts, strict=True)))
    return {"caption_loss": mean(shown), "caption_blind": mean(blind), "caption_unigram": mean(alone)}


def writing(model: Emu, processor: EmuProcessor, samples: Sequence[Sample], train: Sequence[Sample]) -> dict[str, Any]:
    """What is imagined from captions: the share of variance explained, by index, and how often its own picture is nearest."""
    pipe = EmuPipeline(model, processor, decoder=None)
    true = pipe.encode([s.picture for s in samples])  # (n, N, E)
    average = pipe.encode([s.picture for s in train]).mean(0)  # (N, E)
    batch = processor([[s.caption, s.picture] for s in samples])
    out = model(batch["input_ids"], batch["attention_mask"], image_embeds=true)
    forced = out.predictions[:, :-1][batch["input_ids"][:, 1:] == processor.ids.image].view_as(true)
    free = model.generate_image_embeds(**processor([[s.caption] for s in samples]))  # (n, N, E)
    spread = (true - average).square().sum((0, 2))  # (N,)
    found: dict[str, Any] = {
        "nearest": nearest(free, true),
        "nearest_forced": nearest(forced, true),
        "nearest_chance": 1 / GROUP,
    }
    for name, predicted in (("forced", forced), ("free", free)):
        missed = (predicted - true).square().sum((0, 2))
        found[f"explained_{name}"] = 1 - (missed.sum() / spread.sum()).item()
        found[f"{name}_by_index"] = (1 - missed / spread).tolist()
    deviation, size = true.var(0).mean().sqrt(), true.square().mean().sqrt()
    return {**found, "apart": (deviation / size).item(), "deviation": deviation.item()}


def nearest(imagined: Tensor, true: Tensor, group: int = GROUP) -> float:
    """How often an imagined picture (n, N, E) has its own true one nearest among a group, by the angle after both means are taken off.

    So neither the length nor the offset of embeddings counts, and spaces of different kinds can be compared.
    """
    hits = []
    for some, others in zip(imagined.flatten(1).split(group), true.flatten(1).split(group), strict=True):
        a, b = F.normalize(some - some.mean(0), dim=1), F.normalize(others - others.mean(0), dim=1)
        hits.append((a @ b.T).argmax(1) == torch.arange(len(a)))
    return mean(torch.cat(hits).float())


def watching(model: Emu, processor: EmuProcessor, world: ToyWorld) -> dict[str, Any]:
    """Held-out clips of 8 frames: the loss of what is said of them, and how often the right one of four directions is the likeliest."""
    clips = [movies.any_movie(world, world.generator(i, "clip")) for i in range(ASKED)]
    frames, told = [frames_of(world, movie) for movie in clips], [movies.caption(movie) for movie in clips]
    moving = [
        movies.moving(world, world.generator(i, "moving"), way)
        for i, way in zip(range(ASKED), cycle(movies.DIRECTIONS))
    ]
    moves = [frames_of(world, movie) for movie in moving]
    by_lot = np.random.default_rng(0).permutation(len(moves))  # the next one always moves another way
    return {
        "clip_loss": mean(last_text_loss(model, processor, appended(frames, told))),
        "clip_blind": mean(last_text_loss(model, processor, appended(turned(frames), told))),
        "direction": directions_right(model, processor, moving, moves),
        "direction_blind": directions_right(model, processor, moving, [moves[i] for i in by_lot]),
        "direction_chance": 1 / len(movies.DIRECTIONS),
    }


def frames_of(world: ToyWorld, movie: movies.Movie) -> list[Image.Image]:
    return [Image.fromarray(frame) for frame in movies.frames(world, movie)]


def appended(before: Sequence[Sequence], texts: Sequence[str]) -> list[list]:
    """Samples that end in these texts."""
    return [[*some, text] for some, text in zip(before, texts, strict=True)]


def directions_right(
    model: Emu, processor: EmuProcessor, moving: Sequence[movies.Movie], shown: Sequence[Sequence]
) -> float:
    """Of the four captions that differ only in where the thing moves: how often the right one is the likeliest."""
    rows = [
        [*frames, movies.caption(replace(movie, direction=way))]
        for movie, frames in zip(moving, shown, strict=True)
        for way in movies.DIRECTIONS
    ]
    losses = last_text_loss(model, processor, rows, total=True).view(len(moving), len(movies.DIRECTIONS))
    ways = tuple(movies.DIRECTIONS)
    return statistics.mean(
        float(ways[of.argmin()] == movie.direction) for movie, of in zip(moving, losses, strict=True)
    )


def learning_from_examples(model: Emu, processor: EmuProcessor, world: ToyWorld) -> dict[str, Any]:
    """The loss of sentences such as "the background is green." of a picture: alone, and after four pictures with such sentences.

    Blind: the same, but the last picture is another one. What is gained there comes from the form of the sentences.
    """
    rows = [unlike(world, i, ASKS[i % len(ASKS)]) for i in range(ASKED)]
    pairs = [[(Image.fromarray(q.pictures[0]), q.sentence) for q in row] for row in rows]
    before = [[piece for pair in row[:-1] for piece in pair] for row in pairs]
    pictures, sentences = [row[-1][0] for row in pairs], [row[-1][1] for row in pairs]
    shown = [[*some, picture] for some, picture in zip(before, pictures, strict=True)]
    blind = [[*some, picture] for some, picture in zip(before, turned(pictures), strict=True)]
    none = mean(last_text_loss(model, processor, appended([[picture] for picture in pictures], sentences)))
    four = mean(last_text_loss(model, processor, appended(shown, sentences)))
    other = mean(last_text_loss(model, processor, appended(blind, sentences)))
    return {"sentence_loss": none, "sentence_loss_4": four, "sentence_blind_4": other, "gain": none - four}


def unlike(world: ToyWorld, i: int, asks: str) -> list[questions.Question]:
    """Five questions of one sort about five pictures that show different things: none holds the answer to another."""
    found: dict[tuple, questions.Question] = {}
    for k in count(100 * i):
        one = questions.question(world, k, asks)
        found.setdefault(one.about.shows(), one)
        if len(found) > SHOTS:
            return list(found.values())


def mean(values: Tensor) -> float:
    return values.mean().item()
