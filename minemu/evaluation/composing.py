"""Tasks that make a picture out of two, or go on with a document in text and pictures.

The judge ranks all concepts it knows by how near their real drawings come; right is a wanted one among its first five. Beside it
stands how near the drawn picture is to both that were given, against two that were given for another: `nearer_than_chance`. A copy
of one of the two is nearer as well, two times in three, so its rate is what has to be beaten: that is the chance of this number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from minemu.data.documents import MAX_PICTURES, interleaved
from minemu.data.episodes import Blend, InContext, blend, blends, in_context
from minemu.data.world import BACKGROUNDS, SIZES, Scene, ToyWorld, pick
from minemu.evaluation.abilities import as_sample
from minemu.evaluation.base import SHOWN, Question, Result
from minemu.evaluation.judge import Judge, as_tensors, background_name, halves, size_name
from minemu.evaluation.metrics import rate, wilson

BATCH = 16
TOP = 5


def draw(question: Question, prompts: Sequence[list[Any]]) -> Tensor:
    """One picture for each prompt: (n, 3, S, S) in [-1, 1]."""
    generator = torch.Generator().manual_seed(question.seed)
    drawn = [
        question.pipe(list(batch), generator=generator, output_type="pt").images.cpu()  # in [0, 1]
        for batch in question.batches(prompts, BATCH)
    ]
    return 2 * torch.cat(drawn) - 1


Pair = tuple[Image.Image, Image.Image]


def nearness(
    judge: Judge, drawn: Tensor, real: Sequence[Image.Image], given: Sequence[Pair], others: Sequence[Pair]
) -> dict[str, Any]:
    """How near each drawn picture is to the less near of its two given ones (cosine), and to that of two others.

    Beside the rate at which it is nearer to its own: that of copies of a given picture, and that of the `real` ones.
    """
    firsts, seconds = (judge.features(list(part)) for part in zip(*given, *others, strict=True))  # (2n, F) each

    def less_near(looks: Tensor) -> tuple[Tensor, ...]:
        """(n, F) -> nearness to the own two and to the two others, (n,) each."""
        twice = looks.repeat(2, 1)
        return torch.minimum((twice * firsts).sum(1), (twice * seconds).sum(1)).chunk(2)

    def is_nearer(looks: Tensor) -> list[bool]:
        return torch.gt(*less_near(looks)).tolist()

    looks, n = judge.features(drawn), len(given)  # (n, F)
    own, chance = less_near(looks)
    nearer = is_nearer(looks)
    return {
        "nearness": float(own.mean()), "chance_nearness": float(chance.mean()),
        "nearer_than_chance": rate(nearer), "nearer_than_chance_interval": list(wilson(nearer)),
        "nearer_than_chance_n": n,
        "nearer_than_chance_chance": max(rate(is_nearer(copies[:n])) for copies in (firsts, seconds)),
        "nearer_than_chance_upper_bound": rate(is_nearer(judge.features(list(real)))),
    }  # fmt: skip


# ---- blending --------------------------------------------------------------------------------------------------------


def blended(question: Question) -> Result:
    """Two pictures and no words; an artist has drawn the sum of the two, and the judge looks for that.

    Some sums look like one of the two, so beside it stands how often a copy of the first or of the second, whichever more often,
    is taken for the sum.
    """
    judge, asked = question.judge, _blends(question)
    own, others = [one for one, _ in asked], [other for _, other in asked]
    given, other_pairs = ([tuple(as_sample([one.first, one.second])) for one in part] for part in (own, others))
    drawn = draw(question, [list(pair) for pair in given])
    real = [Image.fromarray(one.target) for one in own]
    ranked = judge.likeliest(drawn, TOP)
    right, blind = (_named(part, ranked) for part in (own, others))
    bound = _named(own, judge.likeliest(real, TOP))
    copied = max((_named(own, judge.likeliest(list(part), TOP)) for part in zip(*given, strict=True)), key=rate)
    examples = [
        {"given": [one.triple.a, one.triple.b], "true": one.triple.result, "likeliest": top}
        for one, top in zip(own[:SHOWN], ranked, strict=False)
    ]
    return question.result(
        right, TOP / len(judge.labels), blind, bound, copied=rate(copied), copied_interval=list(wilson(copied)),
        **nearness(judge, drawn, real, given, other_pairs), examples=examples,
    )  # fmt: skip


def _blends(question: Question) -> list[tuple[Blend, Blend]]:
    """n of all sums of pictures in random order, each on a background of its own; and beside each the next one that has none of its
    things, in its style and on its background, so that these two tell nothing."""
    rng = np.random.default_rng(question.seed)
    order = rng.permutation(len(blends())).tolist()
    size = question.pipe.processor.image_size
    asked = []
    for place, i in enumerate(order[: question.n]):
        (triple, style), background = blends()[i], pick(rng, tuple(BACKGROUNDS))
        later = (blends()[j] + (j,) for j in order[place + 1 :] + order[:place])
        other = next(j for its, in_style, j in later if in_style == style and not {*its[:3]} & {*triple[:3]})
        asked.append((blend(i, background, size), blend(other, background, size)))
    return asked


def _named(asked: Sequence[Blend], likeliest: Sequence[list[str]]) -> list[bool]:
    """Whether each sum is among what a picture is likeliest of."""
    return [one.triple.result in labels for one, labels in zip(asked, likeliest, strict=True)]


# ---- drawing in context ----------------------------------------------------------------------------------------------


def drawn_in_context(question: Question) -> Result:
    """A prompt with two pictures that says what to take from each; drawing, background and size or place must be right."""
    judge, world = question.judge, question.world()
    made = [in_context(world, i) for i in range(question.n + 1)]
    own = made[:-1]
    drawn = draw(question, [as_sample(one.prompt) for one in own])
    right, blind = _fulfils(judge, drawn, own), _fulfils(judge, drawn, made[1:])
    real = [Image.fromarray(one.target) for one in own]
    bound = _fulfils(judge, real, own)
    shown = [tuple(as_sample(piece for piece in one.prompt if not isinstance(piece, str))) for one in made]
    wishes = {
        wish: rate([mark for mark, one in zip(right, own, strict=True) if one.wish == wish])
        for wish in dict.fromkeys(one.wish for one in own)
    }
    chance = sum(_chance(judge, one) for one in own) / len(own)
    return question.result(
        right, chance, blind, bound, wishes=wishes, **nearness(judge, drawn, real, shown[:-1], shown[1:])
    )


def _fulfils(judge: Judge, drawn: Tensor | list[Image.Image], asked: Sequence[InContext]) -> list[bool]:
    """Is each wanted drawing among the judge's five, on the wanted background, and of the wanted size?"""
    pictures = as_tensors(drawn)
    wanted = [one.scenes[2] for one in asked]
    parts = [part for pair in zip(pictures, wanted, strict=True) for part in _parts(*pair)]
    groups = [(number, group.label) for number, scene in enumerate(wanted) for group in scene.groups]
    ranked = judge.likeliest(parts, TOP)
    missed = {number for (number, label), top in zip(groups, ranked, strict=True) if label not in top}
    return [
        number not in missed
        and background_name(picture) == scene.background
        and scene.size in (None, size_name(picture))
        for number, (picture, scene) in enumerate(zip(pictures, wanted, strict=True))
    ]


def _parts(picture: Tensor, scene: Scene) -> tuple[Tensor, ...]:
    return (picture,) if scene.relation is None else halves(picture, scene.relation)


def _chance(judge: Judge, one: InContext) -> float:
    wanted = one.scenes[2]
    sizes = 1 if wanted.size is None else len(SIZES)
    return (TOP / len(judge.labels)) ** len(wanted.groups) / len(BACKGROUNDS) / sizes


# ---- text and pictures coming out ------------------------------------------------------------------------------------

LEFT = (1, 2, 3, 4, 5, 6)  # pieces of a document that are cut off
TEXT_TOKENS = 96  # of the three texts among them


def continued(question: Question) -> Result:
    """Documents with as many pictures as any has, so that their end is known, cut somewhere: do the right pieces follow?"""
    world = question.world()
    made = [_cut(world, i) for i in range(question.n + 1)]
    asked, true = [start for start, _ in made], [kinds for _, kinds in made]
    said = [
        _kinds(question.pipe.continue_document(prompt, max_new_tokens=TEXT_TOKENS))
        for batch in question.batches(asked[:-1], 1)
        for prompt in batch
    ]
    right, blind = ([one == kinds for one, kinds in zip(said, part, strict=True)] for part in (true[:-1], true[1:]))
    numbers = [one.count("picture") == kinds.count("picture") for one, kinds in zip(said, true, strict=False)]
    return question.result(
        right, 1 / (2 * len(LEFT)), blind, right_number=rate(numbers),
        examples=[{"true": kinds, "said": one} for kinds, one in zip(true[:SHOWN], said, strict=False)],
    )  # fmt: skip


def _cut(world: ToyWorld, i: int) -> tuple[list[Any], list[str]]:
    """Document i without its last pieces, and of what kinds those were."""
    rng = world.generator(i, "interleaved")
    while True:
        document = interleaved(world, rng)
        if sum(not isinstance(piece, str) for piece in document) == MAX_PICTURES:
            break
    left = pick(rng, LEFT)
    return as_sample(document[:-left]), _kinds(document[-left:])


def _kinds(document: Sequence[Any]) -> list[str]:
    return ["text" if isinstance(piece, str) else "picture" for piece in document]
