"""The tasks on captions (of clips, too) and drawings, the list of all tasks, and which of them a checkpoint was trained for.

Each asks a pipeline for answers about fresh held-out samples of the toy world and scores them (`base` says beside what).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from minemu import adapters
from minemu.data import captions, movies
from minemu.data.episodes import blends
from minemu.data.world import BACKGROUNDS, SIZES, SPLITS, STYLES, Sample, ToyWorld
from minemu.errors import MinemuError, suggest
from minemu.evaluation import abilities, composing
from minemu.evaluation.base import SHOWN, Question, Result, Task
from minemu.evaluation.composing import draw
from minemu.evaluation.judge import Judge, as_tensors, background_name
from minemu.evaluation.likelihood import concept_scores
from minemu.evaluation.metrics import frechet_distance, rate, ratio_interval, wilson
from minemu.files import read_object
from minemu.model import LOGS, local_folder, read_config
from minemu.prompts import DESCRIBE
from minemu.sequence import Video

if TYPE_CHECKING:
    from minemu.pipeline import EmuPipeline

CAPTION_BATCH, CAPTION_TOKENS = 32, 64
CLIP_BATCH = 8  # clips are as long as eight pictures


# ---- reading ---------------------------------------------------------------------------------------------------------


def say(question: Question, shown: Sequence[Image.Image | Video], size: int = CAPTION_BATCH) -> list[str]:
    """A caption of each picture or clip, `size` at a time, decoded as `EmuPipeline.caption` does."""
    said: list[str] = []
    for batch in question.batches(shown, size):
        answers = question.pipe.chat_batch([[one] for one in batch], **{**DESCRIBE, "max_new_tokens": CAPTION_TOKENS})
        said += [answer.text for answer in answers]
    return said


def caption_exact(question: Question, kind: str) -> Result:
    """Captions that say all of a scene correctly, and nothing else."""
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


def clip_caption(question: Question) -> Result:
    """Captions of eight frames that get right all that happens; also of a still, as in `abilities.clip_questions`.

    In training a question and its answer may also follow a clip, so `is_caption` tells how many answers are captions at all.
    """
    world = question.world()
    asked = [movies.any_movie(world, world.generator(i, "clip caption")) for i in range(question.n + 1)]
    clips = [abilities.as_sample(movies.frames(world, movie)) for movie in asked[:-1]]
    stills = [[frames[len(frames) // 2]] * len(frames) for frames in clips]
    told = [movies.caption(movie) for movie in asked]
    said, of_one = (say(question, [Video(frames) for frames in part], CLIP_BATCH) for part in (clips, stills))
    true, next_true = _with_neighbours(told)
    right, blind, still = (_same_words(*pair) for pair in ((said, true), (said, next_true), (of_one, true)))
    examples = [{"true": text, "said": one} for text, one in zip(told[:SHOWN], said, strict=False)]
    return question.result(
        right, 1 / _clip_captions(world), blind, **_parts_right(said, true),
        single_frame=rate(still), single_frame_interval=list(wilson(still)), examples=examples,
    )  # fmt: skip


def _same_words(said: Sequence[str], true: Sequence[str]) -> list[bool]:
    return [abilities.clean(one) == abilities.clean(text) for one, text in zip(said, true, strict=True)]


def _clip_captions(world: ToyWorld) -> int:
    """How many captions a movie can have: what can happen to each look of a thing."""
    things, backgrounds = len({label for label, _ in world.countable_keys}), len(BACKGROUNDS)
    changes = (backgrounds - 1) + 2 + (things - 1) + 1  # of the background, of the size, of the drawing, none
    return len(world.countable_keys) * backgrounds * (len(movies.DIRECTIONS) + changes)


def _parts_right(said: Sequence[str], true: Sequence[str]) -> dict[str, Any]:
    read, wanted = ([movies.parse(abilities.clean(text)) for text in part] for part in (said, true))
    right = {
        part: rate([own is not None and own[k] == one[k] for own, one in zip(read, wanted, strict=True)])
        for k, part in enumerate(movies.PARTS)
    }
    return {"parts": right, "is_caption": rate([own is not None for own in read])}


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
        marks = {
            name: [s == scene.style for s, scene in zip(found, scenes, strict=True)] for name, found in styles.items()
        }
        details |= {
            "style": min(1.0, rate(marks["style"]) / rate(marks["real_style"])) if any(marks["real_style"]) else 0.0,
            "style_interval": list(ratio_interval(marks["style"], marks["real_style"])),
            "style_upper_bound": rate(marks["real_style"]),
        }
    return question.result(right, (1 / len(judge.labels)) ** len(scenes[0].groups), blind, bound, **details)


# ---- the list --------------------------------------------------------------------------------------------------------


def _caption(question: Question) -> Result:
    return name_new_drawing(question) if question.split == "new-drawing" else caption_exact(question, "single")


@lru_cache(maxsize=1)
def core_judge() -> Judge:
    return Judge()


@lru_cache(maxsize=1)
def world_judge() -> Judge:
    """A judge among all concepts of all splits: blends show rare ones too."""
    return Judge(core=False, splits=SPLITS)


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
        lambda q: judged(q, "single", lambda sample: [sample.caption]), core_judge,
    ),
    "scene-to-image": Task(
        "two drawings from their caption: the judge names both, each in its half", ("seen",), 200,
        lambda q: judged(q, "pair", lambda sample: [sample.caption]), core_judge,
    ),
    "autoencode": Task(
        "one drawing rebuilt from its visual embeddings: the judge names the concept", ("seen", "new-drawing"), 200,
        lambda q: judged(q, "single", lambda sample: [sample.picture]), core_judge,
    ),
    "vqa": Task(
        "questions about a picture: what, kind, group, count, colour, style, relation, yes or no",
        ("seen", "new-drawing"), 400, abilities.visual_questions, needs=("questions", "conversations"),
    ),
    "video-qa": Task(
        "questions about 8 frames of a clip: direction, order, what changed; beside it a still of the middle one, and that frame alone",
        ("seen",), 240, abilities.clip_questions, needs=("questions", "conversations"),
    ),
    "video-caption": Task(
        "8 frames of a clip: what is seen, what happens, background and style exact; beside it a still of the middle one",
        ("seen",), 240, clip_caption, needs=("clips",),
    ),
    "form": Task(
        "questions of which the answer shall be one word, a sentence or a list: has it that form?",
        ("seen",), 300, abilities.forms, needs=("conversations",),
    ),
    "dialogue": Task(
        "several questions about one picture, in turn: 100 answers to the last ranked by likelihood, NDCG",
        ("seen",), 200, abilities.dialogues, needs=("questions", "conversations"),
    ),
    "few-shot-names": Task(
        "two new names for new concepts, each from K drawings in the prompt: which is the next?",
        ("new-concept",), 200, abilities.new_names, needs=("names",), shots=(1, 4),
    ),
    "few-shot-vqa": Task(
        "questions about a picture after K examples by RICES, beside it at random; after none, beside it two without pictures",
        ("seen",), 200, abilities.few_shot_questions, needs=("questions",), shots=(0, 2, 4, 8),
    ),
    "blend": Task(
        "one picture out of two, without words: the judge has the true sum of the two among its first five",
        ("all",), 200, composing.blended, world_judge, needs=("interleaved",), most=lambda: len(blends()),
    ),
    "in-context-draw": Task(
        "the drawing of one given picture with background, size or place by another: among the judge's first five, as told",
        ("seen",), 200, composing.drawn_in_context, core_judge, needs=("in_context",),
    ),
    "interleaved": Task(
        "continue a document of text and pictures: the right number of pictures at the right places",
        ("seen",), 50, composing.continued, needs=("say_image",),
    ),
    "attributes": Task("colour, count, size and place in drawn pictures"),
    "visual-prompt": Task("follow marks drawn into a picture"),
    "grounding": Task("words to boxes and boxes to words"),
    "subject": Task("the same subject in another scene"),
    "edit": Task("change a picture as told"),
}  # fmt: skip


def trained_on(checkpoint: str | os.PathLike) -> set[str]:
    """The sources of data in a checkpoint's training records, and "say_image" if its config says so.

    Stages `emu` and `instruct` record their mixture; `instruct` has conversations too. An adapter knows what its base knows.
    """
    folder = local_folder(checkpoint)
    base = adapters.base_folder(folder) if adapters.is_adapter(folder) else folder
    found: set[str] = {"say_image"} if read_config(base).objective.say_image else set()
    for path in sorted({*(base / LOGS).glob("*.json"), *(folder / LOGS).glob("*.json")}):
        record = read_object(path, "stage")
        weights = record.get("data", {}).get("mixture", {})
        found |= {name for name, weight in weights.items() if weight}
        found |= {"conversations"} if record["stage"] == "instruct" else set()
    return found


def trained(known: Collection[str]) -> list[str]:
    """The tasks that a checkpoint can be held to, of which `trained_on` says this."""
    return [name for name, task in TASKS.items() if task.run and (not task.needs or set(task.needs) & set(known))]


def check_trained(task: str, checkpoint: str | os.PathLike) -> None:
    """One clear error unless the checkpoint was trained for the task."""
    if task not in (known := trained(trained_on(checkpoint))):
        needs = " or ".join(f"'{name}'" for name in TASKS[task].needs)
        tuned = Path(f"{checkpoint}-instruct")
        better = adapters.is_adapter(tuned) and task in trained(trained_on(tuned))
        raise MinemuError(
            f"task '{task}' is not trained yet in {checkpoint}: no training record of it names {needs}; "
            + (f"its adapter is trained for it: {tuned}" if better else f"take one of {', '.join(known)}")
        )


def numbers_of_examples(task: str, shots: int | None = None) -> tuple[int | None, ...]:
    """With how many examples `--all` runs a task: those of the task, or `shots`; (None,) where it takes none."""
    own = TASKS[task].shots
    if not own:
        return (None,)
    return own if shots is None else (shots,)


def at_most(task: str, limit: int | None) -> int | None:
    """`limit`, or all that there are of a task with fewer samples: how `--all` reads it."""
    most = TASKS[task].most
    return limit if limit is None or most is None else min(limit, most())


def check(
    task: str, split: str | None = None, n: int | None = None, shots: int | None = None
) -> tuple[Task, str, int, int]:
    """The task with its split, number of samples and of examples filled in, or one clear error."""
    if task not in TASKS:
        raise MinemuError(f"unknown task '{task}': {suggest(task, TASKS)}")
    found = TASKS[task]
    if found.run is None:
        known = ", ".join(name for name, other in TASKS.items() if other.run)
        raise MinemuError(f"task '{task}' is not trained yet; take one of {known}")
    split = split or found.splits[0]
    if split not in found.splits:
        raise MinemuError(f"task '{task}' has no split '{split}': {suggest(split, found.splits)}")
    n = found.n if n is None else n
    if n < 1:
        raise MinemuError(f"--limit {n} is too few to measure anything; give 1 or more")
    if found.most is not None and n > found.most():
        raise MinemuError(f"--limit {n} is more than the {found.most()} samples that task '{task}' has; use fewer")
    if shots is not None and not found.shots:
        few = ", ".join(name for name, other in TASKS.items() if other.shots)
        raise MinemuError(f"task '{task}' takes no --shots; leave it out, or take one of {few}")
    if shots is None:
        shots = found.shots[-1] if found.shots else 0
    if shots < 0:
        raise MinemuError(f"--shots {shots} is negative; give 0 or more")
    return found, split, n, shots


def evaluate(
    pipe: EmuPipeline,
    task: str,
    split: str | None = None,
    n: int | None = None,
    seed: int = 0,
    judge: Judge | None = None,
    shots: int | None = None,
) -> Result:
    """Run one task. A fresh seed draws fresh held-out samples; `split`, `n` and `shots` default to the task's own.

    It also measures what a checkpoint was not trained for; the command line refuses that.
    """
    found, split, n, shots = check(task, split, n, shots)
    if seed < 0:
        raise MinemuError(f"--seed {seed} is negative: give 0 or more")
    judge = judge or (found.judge() if found.judge else None)
    return found.run(Question(pipe, task, split, n, seed, judge, shots))
