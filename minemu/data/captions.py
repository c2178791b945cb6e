"""Toy scenes as English and back: `parse` reads every text that `caption` and `prompt` can write.

    [size] label [relation label] [on a COLOUR background][, STYLE style]

"a big llama on a green background, Twemoji style"
"two llamas above a kick scooter on a blue background, Noto style"
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from minemu.data.scene import BACKGROUNDS, OPPOSITE, RELATIONS, SIZES, STYLE_NAMES, Group, Scene
from minemu.errors import MinemuError, suggest

NUMBERS = {"two": 2, "three": 3}
NUMBER_WORDS = {number: word for word, number in NUMBERS.items()}
KEPT = 0.7  # how often a prompt keeps its size, its background, its style

IRREGULAR = {
    "bison": "bison", "calf": "calves", "child": "children", "deer": "deer", "die": "dice", "elf": "elves",
    "fish": "fish", "foot": "feet", "goose": "geese", "half": "halves", "hoof": "hooves", "knife": "knives",
    "leaf": "leaves", "loaf": "loaves", "man": "men", "merman": "mermen", "moose": "moose", "mouse": "mice",
    "ox": "oxen", "person": "people", "policeman": "policemen", "scarf": "scarves", "sheep": "sheep",
    "shelf": "shelves", "shrimp": "shrimp", "snowman": "snowmen", "squid": "squid", "tooth": "teeth",
    "wife": "wives", "wolf": "wolves", "woman": "women", "blowfish": "blowfish", "jellyfish": "jellyfish",
    "cactus": "cacti", "potato": "potatoes", "tomato": "tomatoes", "volcano": "volcanoes", "mango": "mangoes",
    "mosquito": "mosquitoes", "hero": "heroes", "superhero": "superheroes", "tornado": "tornadoes",
}  # fmt: skip
PLURAL_ONLY = {"dice", "men", "people", "skis", "teeth", "women"}  # beside most words in -s (see `is_uncounted`)
SINGULAR_IN_S = {"atlas", "canvas", "christmas", "gas", "lens", "rhinoceros"}
MASS = {
    "bacon", "badminton", "beer", "bowling", "bread", "broccoli", "butter", "candy", "cheese", "clothing", "coffee",
    "corn", "dango", "dna", "fire", "fog", "food", "furniture", "garlic", "ginger", "hockey", "ice", "juice",
    "lacrosse", "luggage", "milk", "money", "oden", "popcorn", "rice", "sake", "salt", "snow", "soap", "spaghetti",
    "sushi", "tea", "tennis", "thread", "water", "wood", "yarn",
}  # fmt: skip
AN_BEFORE = ("hour", "honest", "x-ray")
A_BEFORE = ("uni", "uku", "euro", "one", "use", "uti")
# The head of a label ends before "with ...", "of ...", ": ...", "lifting ..."
_PREPOSITIONS = "with|without|of|in|on|at|to|over|under|from|behind|between"
_PARTICIPLES = "savoring|holding|lifting|showing|blowing|screaming|feeding|pointing|shaking"
HEAD_ENDS = re.compile(rf"(?=: | (?:{_PREPOSITIONS}|{_PARTICIPLES}) )|$")


# ---- nouns -----------------------------------------------------------------------------------------------------------


def is_uncounted(label: str) -> bool:
    """True for "grapes" and "bread": no article before it, and never counted."""
    words = _head(label).split(" ")
    word = words[-1]
    if word in MASS or word in PLURAL_ONLY or words[0] in PLURAL_ONLY:
        return True
    return word.endswith("s") and not word.endswith(("ss", "us", "is", "'s", "’s")) and word not in SINGULAR_IN_S


def is_countable(label: str) -> bool:
    """True where "two ..." is good English: not for "grapes", "bread", "couch and lamp"."""
    return not is_uncounted(label) and " and " not in label


def article(phrase: str) -> str:
    """By how the phrase sounds: "a unicorn", "an hourglass"."""
    vowel = phrase.startswith(("a", "e", "i", "o", "u"))
    return "an" if phrase.startswith(AN_BEFORE) or (vowel and not phrase.startswith(A_BEFORE)) else "a"


def plural(label: str) -> str:
    """The plural of a label: its last word's ("kick scooters"), or its head's ("bowls with spoon")."""
    if is_uncounted(label):
        return label
    head = _head(label)
    before, space, word = head.rpartition(" ")
    return before + space + _plural_word(word) + label[len(head) :]


def _head(label: str) -> str:
    return label[: HEAD_ENDS.search(label).start()]


def _plural_word(word: str) -> str:
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


# ---- scene -> text ---------------------------------------------------------------------------------------------------


def caption(scene: Scene) -> str:
    """The full form: all that can be said. A medium drawing has no size word."""
    text = noun_phrase(scene.groups[0], scene.size)
    if scene.relation is not None:
        text += f" {scene.relation} {noun_phrase(scene.groups[1])}"
    return text + look(scene.background, scene.style)


def prompt(scene: Scene, rng: np.random.Generator) -> str:
    """A form that people write: see `left_open`."""
    return caption(left_open(scene, rng))


def left_open(scene: Scene, rng: np.random.Generator) -> Scene:
    """What people say of a scene: size, background and style are each kept with 70 %, else None; a pair is told from either side."""
    keep = rng.random(4)
    return replace(
        scene.turned() if keep[3] < 0.5 else scene,
        size=scene.size if keep[0] < KEPT else None,
        background=scene.background if keep[1] < KEPT else None,
        style=scene.style if keep[2] < KEPT else None,
    )


def look(background: str | None, style: str | None) -> str:
    """The end of a caption: " on a blue background, Noto style"."""
    where = f" on {article(background)} {background} background" if background else ""
    return where + (f", {STYLE_NAMES[style]} style" if style else "")


def noun_phrase(group: Group, size: str | None = None) -> str:
    """Words for one group: "a big llama", "two llamas", "grapes"."""
    if group.count > 1:
        return f"{NUMBER_WORDS[group.count]} {plural(group.label)}"
    phrase = group.label if size in (None, "medium") else f"{size} {group.label}"
    return phrase if is_uncounted(group.label) else f"{article(phrase)} {phrase}"


# ---- text -> scene ---------------------------------------------------------------------------------------------------

_STYLE_OF = {name.lower(): style for style, name in STYLE_NAMES.items()}
_STYLE = re.compile(rf",? (?:in )?({'|'.join(_STYLE_OF)}) style$")
_BACKGROUND = re.compile(rf" on an? ({'|'.join(BACKGROUNDS)}) background$")
_RELATION = re.compile(rf" ({'|'.join(RELATIONS)}) ")
_ARTICLE = re.compile(r"(?:an?|the) ")
_SIZE = re.compile(rf"({'|'.join(SIZES)}) ")


@dataclass(frozen=True)
class _Nouns:
    singular: dict[str, str]  # as written -> label
    plural: dict[str, str]


@lru_cache(maxsize=16)
def _nouns(labels: tuple[str, ...]) -> _Nouns:
    one = {label.lower(): label for label in labels}
    uncounted_first = sorted(labels, key=is_uncounted, reverse=True)  # "musical notes" are several of "musical note"
    return _Nouns(one, {plural(label).lower(): label for label in uncounted_first})


def parse(text: str, labels: Sequence[str]) -> Scene | None:
    """Read a caption or prompt back; None for any other text, other labels, or more than fits a picture (two in each half
    of it). What the text leaves out is None."""
    nouns = _nouns(tuple(labels))
    rest = " ".join(str(text).lower().split()).removesuffix(".")
    style, rest = _cut(_STYLE, rest)
    background, rest = _cut(_BACKGROUND, rest)
    style = _STYLE_OF[style] if style else None

    noun = _read_noun(rest, nouns)
    if noun is not None:
        group, size = noun
        return Scene((group,), None, size, background, style)
    for match in _RELATION.finditer(rest):
        first, second = _read_noun(rest[: match.start()], nouns), _read_noun(rest[match.end() :], nouns)
        if first and second and first[1] is None and second[1] is None and max(first[0].count, second[0].count) <= 2:
            return Scene((first[0], second[0]), match[1], None, background, style)
    return None


def _cut(pattern: re.Pattern, text: str) -> tuple[str | None, str]:
    match = pattern.search(text)
    return (match[1], text[: match.start()]) if match else (None, text)


def _read_noun(phrase: str, nouns: _Nouns) -> tuple[Group, str | None] | None:
    number, _, rest = phrase.partition(" ")
    if number in NUMBERS and rest in nouns.plural:
        return Group(nouns.plural[rest], NUMBERS[number]), None
    found = _ARTICLE.match(phrase)
    rest = phrase[found.end() :] if found else phrase
    if rest in nouns.singular and (found or is_uncounted(nouns.singular[rest])):
        return Group(nouns.singular[rest]), None
    sized = _SIZE.match(rest)
    if sized and rest[sized.end() :] in nouns.singular:
        label = nouns.singular[rest[sized.end() :]]
        return (Group(label), sized[1]) if found or is_uncounted(label) else None
    return None


FIELDS = ("groups", "relation", "size", "background", "style")


def unsaid(parsed: Scene) -> tuple[str, ...]:
    """What a text left out, ready for `same(scene, parsed, ignore=unsaid(parsed))`: is all that it says true?"""
    return tuple(field for field in ("size", "background", "style") if getattr(parsed, field) is None)


def same(scene: Scene, parsed: Scene | None, ignore: Iterable[str] = ()) -> bool:
    """Do both tell of one picture? "X left of Y" equals "Y right of X", no size word means medium, seeds are free."""
    ignore = tuple(ignore)
    for field in ignore:
        if field not in FIELDS:
            raise MinemuError(f"cannot ignore '{field}' when scenes are compared: {suggest(field, FIELDS)}")
    if parsed is None:
        return False
    pairs = zip(FIELDS, scene.shows(), parsed.shows(), strict=True)
    return all(mine == theirs for field, mine, theirs in pairs if field not in ignore)


# ---- words -----------------------------------------------------------------------------------------------------------


def tokenizer_corpus(labels: Iterable[str] | None = None) -> list[str]:
    """Captions with every word that captions have, to train a tokenizer on. Labels default to those of split "seen"."""
    if labels is None:
        from minemu.data.samples import load_emoji

        labels = set(load_emoji("seen")["label"])
    backgrounds, styles, sizes, relations = list(BACKGROUNDS), list(STYLE_NAMES), list(SIZES), list(OPPOSITE)
    labels = sorted(labels)
    texts = []
    for i, label in enumerate(labels):
        group, other = Group(label), Group(labels[i - 1])
        look = {"background": backgrounds[i % len(backgrounds)], "style": styles[i % len(styles)]}
        texts.append(caption(Scene((group,), size=sizes[i % len(sizes)], **look)))
        texts.append(caption(Scene((group, other), relations[i % len(relations)], **look)))
        texts.append(caption(Scene((Group(label, 2 + i % 2),), **look)))
    return texts
