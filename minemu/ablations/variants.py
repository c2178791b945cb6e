"""What the ablations ask and what each variant changes, as lists of data. The settings and the small world are what all variants share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from minemu.data.world import Shown, ToyWorld
from minemu.errors import MinemuError, suggest

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
    "train.emu.steps": 600, "train.emu.batch_size": 24, "train.emu.lr": 1e-2,
    "train.emu.lr_vision": 1e-4, "train.emu.lr_bridge": 3e-4, "objective.hide_written": 0.5,
}  # fmt: skip
for _stage in ("encoder", "bridge", "language", "emu"):
    SETTINGS |= {
        f"train.{_stage}.warmup": 20,
        f"train.{_stage}.checkpoint_every": 100_000,
        f"train.{_stage}.log_every": 20,
    }
DOCUMENTS = {"train.mixture.scenes": 6, "train.mixture.interleaved": 1, "train.mixture.clips": 1}

GROUP = 64  # pictures that an imagined one is looked for among: chance is 1 in so many


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
    Variant("n-8", "count", "N = 8", {"bridge.n_image": 8, "bridge.n_frame": 8}),
    Variant("n-32", "count", "N = 32", {"bridge.n_image": 32, "bridge.n_frame": 32}),
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

    def owns(self, scene: Shown) -> bool:
        """Of animations too, which are drawn from all until one is owned."""
        return super().owns(scene) and all(group.label in THINGS for group in getattr(scene, "groups", ()))


def variants_of(question: str) -> list[Variant]:
    """The baseline of a question, and what is compared with it."""
    if question not in QUESTIONS:
        raise MinemuError(f"no question '{question}' among the ablations: {suggest(question, QUESTIONS)}")
    baseline = QUESTIONS[question].baseline
    return [v for v in VARIANTS if v.name == baseline or (v.question == question and v.name != baseline)]
