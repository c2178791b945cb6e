"""Ablations: one idea of Emu changed at a time, each trained anew from several seeds, measured on scenes that training never showed.

    seed 0   encoder, language, bridge          trained once, then shared by all variants that do not change them
             emu as published                   the baseline
             emu with cosine distance, ...      one setting changed each; same start, same data in the same order

All of it goes through `train_stage`. The world is the toy world with 12 things in it, the model a little larger than `emu-nano`, so
that one training takes a quarter of a minute and still learns to read and to imagine. `minemu ablate` runs them and writes the numbers.

Axes   n pictures   N embeddings a picture   E regressed width   R rows   L positions
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from minemu.config import EmuConfig
from minemu.data import movies, questions
from minemu.data.world import Sample, ToyWorld
from minemu.errors import MinemuError, suggest
from minemu.evaluation.report import provenance
from minemu.files import read_json, write_json
from minemu.model import Emu
from minemu.processor import EmuProcessor
from minemu.tokenizer import load_tokenizer
from minemu.training.recipe import SECTIONS, make_processor, needs, resolve, train_stage

Found = dict[str, dict[str, dict[str, Any]]]  # variant -> seed -> numbers

PRESET = "emu-nano"
THINGS = (  # each drawn in all four styles
    "butterfly", "cactus", "carrot", "cat", "elephant", "guitar", "llama", "pizza", "strawberry", "tractor", "umbrella", "whale",
)  # fmt: skip
SETTINGS: dict[str, Any] = {  # what all variants share
    "vision.width": 64, "vision.head_width": 32, "vision.mlp_width": 128,
    "bridge.n_image": 16, "bridge.n_frame": 16, "bridge.width": 64, "bridge.ff_width": 128, "bridge.source_positions": True,
    "llm.width": 64, "llm.ff_width": 128, "decoder.condition_width": 64,
    "train.source": "mixture", "train.mixture.labels": 0, "train.mixture.scenes": 1,
    "train.mixture.interleaved": 0, "train.mixture.clips": 0, "train.mixture.storyboards": 0,
    "train.encoder.steps": 300, "train.encoder.batch_size": 32, "train.encoder.lr": 2e-3,
    "train.bridge.steps": 200, "train.bridge.batch_size": 32, "train.bridge.lr": 2e-3,
    "train.language.steps": 200, "train.language.batch_size": 32, "train.language.lr": 3e-3,
    "train.emu.steps": 300, "train.emu.batch_size": 24, "train.emu.lr": 1e-2,
    "train.emu.lr_vision": 1e-4, "train.emu.lr_bridge": 3e-4, "objective.hide_written": 0.5,
}  # fmt: skip
for _stage in ("encoder", "bridge", "language", "emu"):
    SETTINGS |= {
        f"train.{_stage}.warmup": 20,
        f"train.{_stage}.checkpoint_every": 100_000,
        f"train.{_stage}.log_every": 20,
    }
BEFORE = ("encoder", "language", "bridge")  # the stages that variants may share
DOCUMENTS = {"train.mixture.scenes": 6, "train.mixture.interleaved": 1, "train.mixture.clips": 1}

GROUP = 64  # pictures that an imagined one is looked for among
HELD_OUT, KNOWN, ASKED = 256, 512, 96  # scenes to measure on, scenes that the mean predictor has seen, questions
SHOTS = 4
ASKS = ("colour", "style", "what", "count")  # what the sentences of the examples say
EVALUATION_SEED = 1000


@dataclass(frozen=True)
class Variant:
    """One thing changed. `question` names the question that it answers, `says` is its name in that question's figure."""

    name: str
    question: str
    says: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Measure:
    """A number of a model, what it is called, and what it stands beside: another number of the model, or a constant.

    A figure says of what is below `least` only that it is.
    """

    title: str
    beside: str | float | None = None
    beside_says: str = ""
    least: float = -math.inf


MEASURES = {
    "caption_loss": Measure("loss of captions", "caption_blind", "of another picture"),
    "explained_free": Measure("variance explained,\nfree running", 0.0, "the mean picture", -0.5),
    "explained_forced": Measure("variance explained,\nteacher-forced", 0.0, "the mean picture", -0.5),
    "nearest": Measure(f"own picture nearest\namong {GROUP}", "nearest_chance", "chance"),
    "apart": Measure("how far embeddings\nare apart", 0.0, "all alike"),
    "clip_loss": Measure("loss of clip captions", "clip_blind", "of another clip"),
    "direction": Measure("right direction\nof four", "direction_chance", "chance"),
    "gain": Measure("loss that four\nexamples save", 0.0, "none"),
}


@dataclass(frozen=True)
class Question:
    """What is asked, what was published, what the baseline is and is called here, and which measures are shown."""

    asks: str
    published: str
    says: str
    measures: tuple[str, ...] = ("caption_loss", "explained_free", "nearest")
    baseline: str = "base"
    by_index: bool = False  # also the share explained at each index of the embeddings


QUESTIONS = {
    "video": Question(
        "Do storyboards help to understand clips, and to learn from examples?",
        "yes, both: the paper's only published ablation",
        "with storyboards",
        ("clip_loss", "direction", "gain"),
        baseline="stories",
    ),
    "weight": Question("How much should the regression loss weigh?", "not published", "1"),
    "target": Question(
        "Regress the embeddings as they are now, with or without the gradient, or as they were?",
        "not published; the released code detaches",
        "detached",
        ("caption_loss", "explained_free", "nearest", "apart"),
    ),
    "count": Question("How many embeddings does a picture need?", "32 in Emu, 64 in Emu2, not compared", "N = 16"),
    "bridge": Question("Causal Transformer or pooling?", "Emu has the one, Emu2 the other, not compared", "causal"),
    "loss": Question("Squared error or cosine distance?", "Emu2: squared error, not compared", "squared error"),
    "exposure": Question(
        "What is lost when a model reads its own embeddings?",
        "not published; readers asked",
        "half of them hidden",
        ("explained_forced", "explained_free", "nearest"),
        by_index=True,
    ),
}

VARIANTS = (
    Variant("base", "", "the baseline"),
    Variant("stories", "video", "with storyboards", {**DOCUMENTS, "train.mixture.storyboards": 2}),
    Variant("no-stories", "video", "without", DOCUMENTS),
    Variant("weight-0", "weight", "0", {"objective.image_loss_weight": 0.0}),
    Variant("weight-0.1", "weight", "0.1", {"objective.image_loss_weight": 0.1}),
    Variant("weight-10", "weight", "10", {"objective.image_loss_weight": 10.0}),
    Variant("attached", "target", "attached", {"objective.targets": "attached"}),
    Variant("frozen", "target", "frozen copy", {"objective.targets": "frozen"}),
    Variant("fast", "target", "detached, all at one rate", {"train.emu.lr_vision": 1e-2, "train.emu.lr_bridge": 1e-2}),
    Variant("fixed", "target", "visual side fixed", {"train.emu.lr_vision": 0.0, "train.emu.lr_bridge": 0.0}),
    Variant("n-4", "count", "N = 4", {"bridge.n_image": 4, "bridge.n_frame": 4}),
    Variant("n-64", "count", "N = 64", {"bridge.n_image": 64, "bridge.n_frame": 64}),
    Variant("random", "bridge", "causal, random start", {"train.bridge.steps": 0, "train.emu.lr_bridge": 3e-3}),
    Variant(
        "pool",
        "bridge",
        "pooling",
        {  # as in Emu2; its way into the LLM begins at random, so it learns as fast as the LLM
            "bridge.kind": "pool",
            "decoder.condition_width": 64,
            "objective.end_of_image_pair": False,
            "train.emu.lr_bridge": 1e-2,
        },
    ),
    Variant("cosine", "loss", "cosine", {"objective.image_loss": "cosine"}),
    Variant("shown", "exposure", "true ones are read", {"objective.hide_written": 0.0}),
)


class FewThings(ToyWorld):
    """The toy world with `THINGS` in it and no others."""

    def __init__(self, seed: int = 0, image_size: int = 32, held_out: bool = False):
        super().__init__("seen", seed=seed, image_size=image_size, held_out=held_out)
        self.labels = sorted(THINGS)
        self.keys = [key for key in self.keys if key[0] in THINGS]
        self.countable_keys = [key for key in self.keys if key[0] in self.countable]
        self.by_style = {style: [label for label in found if label in THINGS] for style, found in self.by_style.items()}


def variants_of(question: str) -> list[Variant]:
    """The baseline of a question, and what is compared with it."""
    if question not in QUESTIONS:
        raise MinemuError(f"no question '{question}' among the ablations: {suggest(question, QUESTIONS)}")
    baseline = QUESTIONS[question].baseline
    return [v for v in VARIANTS if v.name == baseline or (v.question == question and v.name != baseline)]


# ---- training --------------------------------------------------------------------------------------------------------


def ablate(
    names: Sequence[str],
    run_dir: str | Path,
    seeds: int = 3,
    changes: dict[str, Any] | None = None,
    report: Callable[[Found], None] = lambda found: None,
) -> Found:
    """Train and measure every variant of some questions from `seeds` seeds: variant -> seed -> numbers.

    What is finished in `run_dir` is not run again. `changes` are settings for all variants; `report` gets all that is known so far
    after each training.
    """
    if seeds < 1:
        raise MinemuError(f"--seeds {seeds} is too few; give 1 or more, 3 to see a spread")
    wanted = {variant.name: variant for name in names for variant in variants_of(name)}
    found: Found = {name: {} for name in wanted}
    for seed in range(seeds):
        for name, variant in wanted.items():
            found[name][str(seed)] = run_variant(variant, Path(run_dir), seed, changes)
            report(found)
    return found


def run_variant(variant: Variant, run_dir: Path, seed: int, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Train one variant from one seed and measure it, unless that is done already."""
    start, folder = run_dir / f"seed-{seed}" / "start", run_dir / f"seed-{seed}" / variant.name
    common = {**SETTINGS, **(changes or {}), **_seeded(seed)}
    settings = {**common, **variant.settings}
    config, _ = resolve(PRESET, settings)
    world = FewThings(seed, config.vision.image_size)
    root = folder / PRESET
    make_processor(start / PRESET, *resolve(PRESET, common), world)
    if not (root / "tokenizer.json").exists():
        tokenizer = load_tokenizer(start / PRESET)
        EmuProcessor(tokenizer, config.vision.image_size, config.bridge.n_image).save_pretrained(root)
    own = own_stages(variant)
    for stage in shared_stages(config):
        if stage in own:
            train_stage(PRESET, stage, folder, settings, world=world)
        else:
            train_stage(PRESET, stage, start, common, world=world)
            if not (root / stage).exists():
                (root / stage).symlink_to(os.path.relpath(start / PRESET / stage, root), target_is_directory=True)
    train_stage(PRESET, "emu", folder, settings, world=world)
    if not (root / "measured.json").exists():
        model, processor = Emu.from_pretrained(root / "emu").eval(), EmuProcessor.from_pretrained(root)
        numbers = {
            **measure(model, processor, seed, variant.question == "video"),
            "seconds": read_json(root / "emu" / "done.json")["seconds_of_last_run"],
        }
        write_json(root / "measured.json", {name: rounded(value) for name, value in numbers.items()})
    return read_json(root / "measured.json")


def own_stages(variant: Variant) -> set[str]:
    """The stages before `emu` that the variant trains itself, since it changes what they depend on."""
    config, _ = resolve(PRESET, {**SETTINGS, **variant.settings})
    own: set[str] = set()
    for stage in shared_stages(config):
        parts = (*SECTIONS[stage], f"train.{stage}")
        changed = any(key.startswith(f"{part}.") for part in parts for key in variant.settings)
        if changed or own & set(needs(stage, config)):
            own.add(stage)
    return own


def shared_stages(config: EmuConfig) -> list[str]:
    """The stages before `emu`, each after those that it needs."""
    return [stage for stage in BEFORE if stage in needs("emu", config)]


def _seeded(seed: int) -> dict[str, Any]:
    """Another start, and other data in another order."""
    return {"train.world_seed": seed, **{f"train.{stage}.seed": seed for stage in (*BEFORE, "emu")}}


def rounded(value: Any) -> Any:
    """Five digits are more than a spread of seeds needs."""
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.5g}")


# ---- measuring -------------------------------------------------------------------------------------------------------


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
    for start in range(0, len(samples), GROUP):
        some = samples[start : start + GROUP]
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
    true = encode(model, processor, [s.picture for s in samples])  # (n, N, E)
    average = encode(model, processor, [s.picture for s in train]).mean(0)  # (N, E)
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


def encode(model: Emu, processor: EmuProcessor, pictures: Sequence[Image.Image]) -> Tensor:
    """Visual embeddings (n, N, E)."""
    return model.encode_images(torch.stack([processor.preprocess(picture) for picture in pictures]))


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
    return {
        "clip_loss": mean(last_text_loss(model, processor, appended(frames, told))),
        "clip_blind": mean(last_text_loss(model, processor, appended(turned(frames), told))),
        "direction": directions_right(model, processor, moving, moves),
        "direction_blind": directions_right(model, processor, moving, turned(moves)),
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
    rows = [
        [questions.question(world, (SHOTS + 1) * i + k, ASKS[i % len(ASKS)]) for k in range(SHOTS + 1)]
        for i in range(ASKED)
    ]
    pairs = [[(Image.fromarray(q.pictures[0]), q.sentence) for q in row] for row in rows]
    before = [[piece for pair in row[:-1] for piece in pair] for row in pairs]
    pictures, sentences = [row[-1][0] for row in pairs], [row[-1][1] for row in pairs]
    shown = [[*some, picture] for some, picture in zip(before, pictures, strict=True)]
    blind = [[*some, picture] for some, picture in zip(before, turned(pictures), strict=True)]
    none = mean(last_text_loss(model, processor, appended([[picture] for picture in pictures], sentences)))
    four = mean(last_text_loss(model, processor, appended(shown, sentences)))
    other = mean(last_text_loss(model, processor, appended(blind, sentences)))
    return {"sentence_loss": none, "sentence_loss_4": four, "sentence_blind_4": other, "gain": none - four}


def mean(values: Tensor) -> float:
    return values.mean().item()


# ---- results ---------------------------------------------------------------------------------------------------------


def collect(found: Found, names: Sequence[str], changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """All numbers as one JSON object, with what a reader needs to get them again."""
    variants = {variant.name: variant for variant in VARIANTS}
    return {
        **provenance(),
        "seeds": sorted({int(seed) for runs in found.values() for seed in runs}),
        "things": len(THINGS),
        "settings": {**SETTINGS, **(changes or {})},
        "questions": {name: asdict(QUESTIONS[name]) for name in names},
        "variants": {name: {**asdict(variants[name]), "runs": runs} for name, runs in found.items()},
    }


def read_ablations(path: str | os.PathLike) -> dict[str, Any]:
    """What `minemu ablate --out` wrote."""
    if not Path(path).exists():
        raise MinemuError(f"there is no results file {path}; write one with: minemu ablate --out {path}")
    results = read_json(path)
    if not isinstance(results, dict) or "variants" not in results:
        raise MinemuError(f"{path} holds no ablations; write them with: minemu ablate --out {path}")
    return results


def values(results: dict[str, Any], variant: str, measure: str) -> list[Any]:
    """The numbers of one measure, one a seed."""
    runs = results["variants"].get(variant, {}).get("runs", {})
    found = [numbers[measure] for numbers in runs.values() if measure in numbers]
    if not found:
        raise MinemuError(f"no run of variant '{variant}' has '{measure}': run minemu ablate for its question first")
    return found


def compared(results: dict[str, Any], question: str) -> dict[str, str]:
    """The variants of a question that were run, the baseline first: name -> what it is called there."""
    if question not in results["questions"]:
        raise MinemuError(f"no question '{question}' in these results: {suggest(question, results['questions'])}")
    asked = results["questions"][question]
    others = [v for v in results["variants"].values() if v["question"] == question and v["name"] != asked["baseline"]]
    return {asked["baseline"]: asked["says"], **{variant["name"]: variant["says"] for variant in others}}


def differs(a: Sequence[float], b: Sequence[float], factor: float = 3.0) -> bool:
    """Is the difference of two variants more than the luck of their seeds?

    Only if their means are further apart than `factor` times the larger standard deviation. One seed has none, so it shows nothing.
    """
    if min(len(a), len(b)) < 2:
        return False
    return abs(statistics.mean(a) - statistics.mean(b)) > factor * max(statistics.stdev(a), statistics.stdev(b))


def lines(results: dict[str, Any], question: str) -> list[str]:
    """A question and its numbers for a person to read: mean, standard deviation, and whether it differs from the baseline."""
    asked = results["questions"][question]
    said = [f"{question}: {asked['asks']}"]
    for name, says in compared(results, question).items():
        cells = []
        for measure in asked["measures"]:
            mine, base = (values(results, which, measure) for which in (name, asked["baseline"]))
            spread = f" ± {statistics.stdev(mine):.3f}" if len(mine) > 1 else ""
            mark = " *" if differs(mine, base) else ""
            cells.append(f"{measure} {statistics.mean(mine):.3f}{spread}{mark}")
        said.append(f"  {says:26} {';  '.join(cells)}")
    return said
