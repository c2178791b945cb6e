"""Prompts to learn from within one sequence: made-up names, blending, in-context drawing. All of it has a true answer.

names        "new names:" [picture] "this is a daff." [picture] "this is a wuzz." [picture] "this is a"  -> "daff"
blend        [a bear] [a snowflake]                                                       -> the polar bear
in context   "this is the first image:" [..] "this is the second image:" [..]
             "the drawing of the first image on the background of the second image:"      -> that picture
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import numpy as np

from minemu.data import samples
from minemu.data.documents import Document, pixels
from minemu.data.scene import BACKGROUNDS, SIZES, STYLES, Group, Scene
from minemu.data.world import SPLITS, ToyWorld, new_seed, pick
from minemu.errors import MinemuError, suggest


def _joined(*parts: str) -> tuple[str, ...]:
    """Every word that has one piece of each part, in their order."""
    return tuple(map("".join, product(*map(str.split, parts))))


NAMES = _joined("b bl d dr f g gr k l m n p pl r s t tr v w z", "a e i o u", "ff zz lg v rp bb")
CONSONANTS = "b c d f g h j k l m n p q r s t v w x y z"
LONG_NAMES = _joined(CONSONANTS, "a e i o u", CONSONANTS, "a e i o u", CONSONANTS)[::73]  # none of them a label's word
# Too many to know by heart, and of hundreds of tokens: who knew 600 by their few pieces did not copy others (docs/lab-notes.md).
ALL_NAMES = (*NAMES, *LONG_NAMES)
NEW_NAMES = "new names:"  # said first, else any picture might be followed by one
TEST_NAMES = ("sprock", "neem", "tulver", "jop", "quix", "fendle", "vash", "olmek")  # in no document of training


# ---- made-up names ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NamesEpisode:
    """`prompt` ends with the picture to name and "this is a"; the answer is one of `candidates`, each equally likely."""

    prompt: tuple[str | np.ndarray, ...]
    answer: str
    candidates: tuple[str, ...]
    labels: tuple[str, ...]  # what the candidates really are


def names_episode(world: ToyWorld, i: int, shots: int, ways: int = 2, one_style: bool = False) -> NamesEpisode:
    """Episode `i`: `shots` examples of each of `ways` new names, shuffled, then a drawing of one of them to name.

    No two pictures of an episode are alike: a concept comes in its styles (in one of them with `one_style`), at any size,
    on any background. To test with: `ToyWorld("new-concept")`, which has names of its own.
    """
    known = ALL_NAMES if world.split == "seen" else TEST_NAMES
    labels = sorted({label for label, _ in world.keys})
    most = min(len(known), len(labels))
    if not 2 <= ways <= most or shots < 0:
        raise MinemuError(f"{shots} shots of {ways} names: use 0 shots or more, and 2 to {most} names")
    rng = world.generator(i, "names")
    things = rng.permutation(labels)[:ways].tolist()
    names = rng.permutation(known)[:ways].tolist()
    drawn = {thing: [style for label, style in world.keys if label == thing] for thing in things}
    if one_style:
        drawn = {thing: [pick(rng, styles)] for thing, styles in drawn.items()}
    used: set[tuple] = set()
    examples = [
        (_unlike(world, rng, thing, drawn[thing], used), name)
        for thing, name in zip(things, names, strict=True)
        for _ in range(shots)
    ]
    answer = int(rng.integers(ways))
    query = _unlike(world, rng, things[answer], drawn[things[answer]], used)
    prompt: Document = [NEW_NAMES]
    for k in rng.permutation(len(examples)):
        scene, name = examples[k]
        prompt += [pixels(world, scene), f"this is a {name}."]
    prompt += [pixels(world, query), "this is a"]
    return NamesEpisode(tuple(prompt), names[answer], tuple(names), tuple(things))


def _unlike(world: ToyWorld, rng: np.random.Generator, label: str, styles: list[str], used: set[tuple]) -> Scene:
    """A picture of a concept that shows something else than all those used before; it is added to them."""
    looks = [(size, background, style) for style in styles for size in SIZES for background in BACKGROUNDS]
    scenes = [Scene((Group(label),), None, *look, new_seed(rng)) for look in looks]
    free = [scene for scene in scenes if world.owns(scene) and scene.shows() not in used]
    if not free:
        raise MinemuError(f"there are not enough pictures of '{label}' for so many shots: use fewer")
    scene = pick(rng, free)
    used.add(scene.shows())
    return scene


# ---- blending --------------------------------------------------------------------------------------------------------

SQUARES = {"black square": (40, 40, 44), "green square": (90, 180, 80), "brown square": (140, 90, 60)}


@dataclass(frozen=True)
class Blend:
    """Two pictures without words, and the picture that an artist drew of their sum. Each uint8 (S, S, 3)."""

    first: np.ndarray
    second: np.ndarray
    target: np.ndarray
    triple: samples.Triple
    style: str


@lru_cache(maxsize=1)
def blends() -> tuple[tuple[samples.Triple, str], ...]:
    """Every sum of pictures, in each style that has all three, as (triple, style). For evaluation: of all splits."""
    drawn = {key for world in _worlds(64) for key in world.drawings.files}
    return tuple(
        (triple, style)
        for triple in samples.load_triples()
        for style in STYLES
        if all((label, style) in drawn or label in SQUARES for label in triple[:3])
    )


def blend(i: int, background: str = "white", image_size: int = 64) -> Blend:
    """Blend `i` of `blends()`: drawings of medium size, alone, all on one background."""
    if not 0 <= i < len(blends()):
        raise MinemuError(f"there is no blend {i}: use 0 to {len(blends()) - 1}")
    triple, style = blends()[i]
    return Blend(*(_alone(label, style, background, image_size) for label in triple[:3]), triple, style)


@lru_cache(maxsize=2)
def _worlds(image_size: int) -> tuple[ToyWorld, ...]:
    return tuple(ToyWorld(split, core=False, image_size=image_size) for split in SPLITS)


def _alone(label: str, style: str, background: str, image_size: int) -> np.ndarray:
    worlds = _worlds(image_size)
    if label in SQUARES:
        canvas, edge = worlds[0].canvas(background), round(image_size * (1 - SIZES["medium"] / 64) / 2)
        canvas[edge:-edge, edge:-edge] = SQUARES[label]
        return canvas
    world = next(world for world in worlds if (label, style) in world.drawings.files)
    return pixels(world, Scene((Group(label),), None, "medium", background, style))


# ---- in-context drawing ----------------------------------------------------------------------------------------------

WISHES = {
    "background": "the drawing of the first image on the background of the second image:",
    "size": "the drawing of the first image in the size of the second image:",
    "beside": "the drawing of the first image left of the drawing of the second image:",
}


@dataclass(frozen=True)
class InContext:
    """Two pictures, what is wanted of them (`prompt`, which holds both), and the picture that is meant."""

    wish: str
    prompt: tuple[str | np.ndarray, ...]
    target: np.ndarray
    scenes: tuple[Scene, Scene, Scene]  # the first, the second, the wanted


def in_context(world: ToyWorld, i: int, wish: str | None = None) -> InContext:
    """Prompt `i` to draw from two pictures. The wanted picture is always one that the world may show.

    In training so are both given ones; in evaluation it is enough that the wanted one is held out.
    """
    if wish is not None and wish not in WISHES:
        raise MinemuError(f"no wish '{wish}' to draw in context: {suggest(wish, WISHES)}")
    rng = world.generator(i, "in context")
    wish = wish or pick(rng, tuple(WISHES))
    while True:
        first, second = _two_singles(world, rng)
        wanted = _wanted(first, second, wish)
        given_ok = world.held_out or (world.owns(first) and world.owns(second))
        if given_ok and world.owns(wanted) and wanted.shows() not in (first.shows(), second.shows()):
            break
    one, two, target = (pixels(world, scene) for scene in (first, second, wanted))
    prompt = ("this is the first image:", one, "this is the second image:", two, WISHES[wish])
    return InContext(wish, prompt, target, (first, second, wanted))


def _two_singles(world: ToyWorld, rng: np.random.Generator) -> tuple[Scene, Scene]:
    """Two different things of one style."""
    label, style = pick(rng, world.keys)
    other = pick(rng, [other for other, s in world.keys if s == style and other != label])
    looks = [(pick(rng, tuple(SIZES)), pick(rng, tuple(BACKGROUNDS))) for _ in range(2)]
    return tuple(
        Scene((Group(thing),), None, *look, style, new_seed(rng))
        for thing, look in zip((label, other), looks, strict=True)
    )


def _wanted(first: Scene, second: Scene, wish: str) -> Scene:
    match wish:
        case "background":
            return replace(first, background=second.background)
        case "size":
            return replace(first, size=second.size)
    return Scene((*first.groups, *second.groups), "left of", None, first.background, first.style, first.seed)
