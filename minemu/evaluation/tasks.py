"""The tasks: each asks a pipeline for answers about fresh held-out samples of the toy world and scores them.

Every score stands beside three others:
    chance       what a blind guess among all answers would get
    blind        the very same answers scored against the *next* sample: right without having looked
    upper_bound  for pictures, the judge's rate on the real pictures of the same scenes. Pictures are scored as a share of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from minemu.data import captions
from minemu.data.world import BACKGROUNDS, SIZES, STYLES, Sample, ToyWorld
from minemu.errors import MinemuError, suggest
from minemu.evaluation.judge import Judge, as_tensors, background_name
from minemu.evaluation.likelihood import concept_scores
from minemu.evaluation.metrics import frechet_distance, rate, wilson

if TYPE_CHECKING:
    from minemu.pipeline import EmuPipeline

CAPTION_BATCH, PICTURE_BATCH = 32, 16
CAPTION_TOKENS = 64
SHOWN = 8  # answers that are kept for a reader


@dataclass(frozen=True)
class Result:
    """One measurement. `score` is between 0 and 1; `blind` and `chance` are in its unit."""

    task: str
    split: str
    n: int
    seed: int
    score: float
    chance: float
    blind: float
    upper_bound: float
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Question:
    """What a task is run on."""

    pipe: EmuPipeline
    task: str
    split: str
    n: int
    seed: int
    judge: Judge | None

    def samples(self, kind: str) -> tuple[ToyWorld, list[Sample]]:
        """The first n + 1 samples of a kind that training never shows (of pairs, those with two drawings).

        Answers are asked for the first n; the last one is the neighbour that the n-th is scored against for `blind`.
        """
        held_out = self.split == "seen"
        world = ToyWorld(
            self.split, seed=self.seed, kinds=(kind,), held_out=held_out, image_size=self.pipe.processor.image_size
        )
        scenes = ((i, world.scene(i)) for i in count())
        wanted = (i for i, scene in scenes if all(group.count == 1 for group in scene.groups))
        return world, [world.sample(i) for i in islice(wanted, self.n + 1)]

    def result(
        self, right: list[bool], chance: float, blind: list[bool], real: list[bool] | None = None, **details: Any
    ) -> Result:
        """Scores as they are, or as a share of the rate `real` that real pictures reach."""
        bound = rate(real) if real is not None else 1.0
        share = lambda value: min(1.0, value / bound) if bound else 0.0  # noqa: E731
        return Result(
            self.task, self.split, self.n, self.seed, share(rate(right)), share(chance), share(rate(blind)), bound,
            {"rate": rate(right), "interval": [share(end) for end in wilson(right)], **details},
        )  # fmt: skip

    def batches(self, items: Sequence[Any], size: int) -> Any:
        chunks = [items[i : i + size] for i in range(0, len(items), size)]
        return tqdm(chunks, desc=f"{self.task} {self.split}", unit="batch", leave=False)


# ---- reading ---------------------------------------------------------------------------------------------------------


def say(question: Question, pictures: Sequence[Image.Image]) -> list[str]:
    """A caption of each picture, by the likeliest next word each time."""
    said: list[str] = []
    for batch in question.batches(pictures, CAPTION_BATCH):
        answers = question.pipe.chat_batch([[picture] for picture in batch], max_new_tokens=CAPTION_TOKENS)
        said += [answer.text for answer in answers]
    return said


def caption_exact(question: Question, kind: str) -> Result:
    """Captions that say all of a scene, and nothing else, right."""
    world, samples = question.samples(kind)
    said = say(question, [sample.picture for sample in samples[:-1]])
    read = [captions.parse(text, world.labels) for text in said]
    scenes, next_scenes = _with_neighbours([sample.scene for sample in samples])
    right = [captions.same(scene, answer) for scene, answer in zip(scenes, read, strict=True)]
    blind = [captions.same(scene, answer) for scene, answer in zip(next_scenes, read, strict=True)]
    looks = len(BACKGROUNDS) * len(STYLES)
    concepts = len(world.labels)
    answers = concepts * len(SIZES) * looks if kind == "single" else concepts**2 * 2 * looks
    parts = {
        part: rate([captions.same(scene, answer, _all_but(part)) for scene, answer in zip(scenes, read, strict=True)])
        for part in ("groups", "background", "style", "size" if kind == "single" else "relation")
    }
    shown = [
        {"true": sample.caption, "said": text} for sample, text in zip(samples[:SHOWN], said[:SHOWN], strict=False)
    ]
    return question.result(right, 1 / answers, blind, parts=parts, examples=shown)


def _with_neighbours(items: list[Any]) -> tuple[list[Any], list[Any]]:
    return items[:-1], items[1:]


def _all_but(part: str) -> tuple[str, ...]:
    return tuple(name for name in captions.FIELDS if name != part)


def name_new_drawing(question: Question) -> Result:
    """Known concepts in a style of theirs never shown: is the right name the likeliest, or among the five likeliest?"""
    _, samples = question.samples("single")
    labels = ToyWorld("seen").labels
    true, next_true = _with_neighbours([sample.scene.groups[0].label for sample in samples])
    ranked: list[list[str]] = []
    for batch in question.batches(samples[:-1], 1):
        order = concept_scores(question.pipe, batch[0].picture, labels).argsort(descending=True)[:5]
        ranked.append([labels[i] for i in order.tolist()])
    first = [label == names[0] for label, names in zip(true, ranked, strict=True)]
    five = [label in names for label, names in zip(true, ranked, strict=True)]
    blind = [label == names[0] for label, names in zip(next_true, ranked, strict=True)]
    return question.result(
        first, 1 / len(labels), blind,
        top5=rate(five), top5_interval=list(wilson(five)), top5_chance=5 / len(labels),
        top5_blind=rate([label in names for label, names in zip(next_true, ranked, strict=True)]),
        examples=[{"true": label, "likeliest": names} for label, names in islice(zip(true, ranked, strict=True), SHOWN)],
    )  # fmt: skip


# ---- drawing ---------------------------------------------------------------------------------------------------------


def draw(question: Question, prompts: Sequence[list[Any]]) -> Tensor:
    """One picture for each prompt: (n, 3, S, S) in [-1, 1]."""
    generator = torch.Generator().manual_seed(question.seed)
    drawn = [
        question.pipe(list(batch), generator=generator, output_type="pt").images.cpu()
        for batch in question.batches(prompts, PICTURE_BATCH)
    ]
    return torch.cat(drawn)


def judged(question: Question, kind: str, prompt: Callable[[Sample], list[Any]]) -> Result:
    """Draw what each prompt asks for; the judge names the drawn pictures and, as the bound, the real ones."""
    judge = question.judge
    _, samples = question.samples(kind)
    scenes, next_scenes = _with_neighbours([sample.scene for sample in samples])
    real = [sample.picture for sample in samples[:-1]]
    drawn = draw(question, [prompt(sample) for sample in samples[:-1]])
    right, bound = judge.shows(drawn, scenes), judge.shows(real, scenes)
    blind = judge.shows(drawn, next_scenes)
    details: dict[str, Any] = {
        "real_rate": rate(bound),
        "background": rate(
            [background_name(p) == scene.background for p, scene in zip(as_tensors(drawn), scenes, strict=True)]
        ),
        "lite0_frechet_distance": frechet_distance(judge.features(drawn), judge.features(real)),
    }
    if kind == "single":
        styles = {
            name: [style for _, style in judge.nearest(pictures)]
            for name, pictures in (("style", drawn), ("real_style", real))
        }
        details |= {
            name: rate([s == scene.style for s, scene in zip(found, scenes, strict=True)])
            for name, found in styles.items()
        }
    return question.result(right, (1 / len(judge.labels)) ** len(scenes[0].groups), blind, bound, **details)


# ---- the list --------------------------------------------------------------------------------------------------------


def _caption(question: Question) -> Result:
    return name_new_drawing(question) if question.split == "new-drawing" else caption_exact(question, "single")


@dataclass(frozen=True)
class Task:
    """One line of `minemu evaluate --list`. Without `run` it is not trained yet."""

    about: str
    splits: tuple[str, ...] = ()
    n: int = 200
    run: Callable[[Question], Result] | None = None
    judged: bool = False


TASKS: dict[str, Task] = {
    "caption": Task(
        "one drawing: the whole caption exact (seen); the concept likeliest, and among the five likeliest (new-drawing)",
        ("seen", "new-drawing"), 400, _caption,
    ),
    "scene-caption": Task(
        "two drawings: concepts, relation, background and style exact", ("seen",), 400, lambda q: caption_exact(q, "pair")
    ),
    "text-to-image": Task(
        "one drawing from its caption: the judge names the concept", ("seen", "new-drawing"), 200,
        lambda q: judged(q, "single", lambda sample: [sample.caption]), judged=True,
    ),
    "scene-to-image": Task(
        "two drawings from their caption: the judge names both, each in its half", ("seen",), 200,
        lambda q: judged(q, "pair", lambda sample: [sample.caption]), judged=True,
    ),
    "autoencode": Task(
        "one drawing rebuilt from its visual embeddings: the judge names the concept", ("seen", "new-drawing"), 200,
        lambda q: judged(q, "single", lambda sample: [sample.picture]), judged=True,
    ),
    "vqa": Task("questions about a picture"),
    "video-qa": Task("questions about a clip"),
    "dialogue": Task("several questions about one picture, in turn"),
    "few-shot-names": Task("names for new concepts from K examples in the prompt"),
    "few-shot-vqa": Task("questions about a picture after K examples in the prompt"),
    "blend": Task("one picture out of two"),
    "in-context-draw": Task("draw a thing that the prompt introduced by a picture"),
    "interleaved": Task("continue a document of text and pictures"),
    "attributes": Task("colour, count, size and place in drawn pictures"),
    "visual-prompt": Task("follow marks drawn into a picture"),
    "grounding": Task("words to boxes and boxes to words"),
    "subject": Task("the same subject in another scene"),
    "edit": Task("change a picture as told"),
}  # fmt: skip

ALL = [(name, split) for name, task in TASKS.items() if task.run for split in task.splits]


def check(task: str, split: str | None = None, n: int | None = None) -> tuple[Task, str, int]:
    """The task with its split and number of samples filled in, or one clear error."""
    if task not in TASKS:
        raise MinemuError(f"unknown task '{task}': {suggest(task, TASKS)}")
    found = TASKS[task]
    if found.run is None:
        trained = ", ".join(name for name, other in TASKS.items() if other.run)
        raise MinemuError(f"task '{task}' is not trained yet; take one of {trained}")
    split = split or found.splits[0]
    if split not in found.splits:
        raise MinemuError(f"task '{task}' has no split '{split}': {suggest(split, found.splits)}")
    n = found.n if n is None else n
    if n < 1:
        raise MinemuError(f"--limit {n} is too few to measure anything; give 1 or more")
    return found, split, n


def evaluate(
    pipe: EmuPipeline,
    task: str,
    split: str | None = None,
    n: int | None = None,
    seed: int = 0,
    judge: Judge | None = None,
) -> Result:
    """Run one task. A fresh seed draws fresh held-out samples; `split` and `n` default to the task's own."""
    found, split, n = check(task, split, n)
    return found.run(Question(pipe, task, split, n, seed, judge or (Judge() if found.judged else None)))
