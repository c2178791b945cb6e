"""The glosses: WordNet's definition of a label, in the sense that the drawing shows.

"seal" has nine senses, and a drawing among the mammals means the last of them. WordNet files every sense under a kind
(animal, food, ...), and Unicode's subgroups say what kind of thing is drawn: the first sense of that kind is taken.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from packages import DebianPackage
from splits import Concept

PACKAGE = DebianPackage(
    "wordnet-base",
    "1:3.0-37",
    "pool/main/w/wordnet/wordnet-base_3.0-37_all.deb",
    "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
)
WIDER_TERMS = 6

# The numbers of WordNet's lexicographer files (`man lexnames`).
ACT, ANIMAL, ARTIFACT, BODY, COMMUNICATION, FOOD = 4, 5, 6, 8, 10, 13
LOCATION, OBJECT, PERSON, PHENOMENON, PLANT = 15, 17, 18, 19, 20

# The first pattern that "group/subgroup" begins with decides; kinds are tried from the left.
KINDS = (
    ("animals-nature/animal", (ANIMAL,)),
    ("animals-nature/plant", (PLANT,)),
    ("food-drink/dishware", (ARTIFACT,)),
    ("food-drink", (FOOD, PLANT)),
    ("people-body/(body|hand)", (BODY,)),
    ("people-body", (PERSON,)),
    ("travel-places/sky", (OBJECT, PHENOMENON)),
    ("travel-places/place-building", (ARTIFACT,)),
    ("travel-places", (ARTIFACT, OBJECT, LOCATION)),
    ("activities/sport", (ACT, ARTIFACT)),
    ("activities|smileys-emotion|objects/(music|other)", (ARTIFACT, COMMUNICATION)),
    ("objects", (ARTIFACT,)),
)

# Left out by hand: the sense found is not what is drawn ("crown": a wreath), or says little about it.
LEFT_OUT = {
    *("abacus", "bank", "black cat", "cityscape", "coconut", "collision", "construction", "crown", "dolphin", "dragon"),
    *("family", "fountain", "ghost", "hammer", "headstone", "hedgehog", "hook", "hot springs", "hut", "ice"),
    *("joystick", "keyboard", "lollipop", "merman", "middle finger", "notebook", "peacock", "pick", "purple heart"),
    *("ribbon", "rosette", "skull and crossbones", "tent", "toilet", "wood"),
    *("t-shirt", "yo-yo"),  # these are right, but the checkpoints were trained on a file without them
}


def find_glosses(package: Path, concepts: Iterable[Concept]) -> dict[str, dict]:
    """{code: {"label": ..., "gloss": ..., "hypernyms": [nearest, ...]}}"""
    folder = package / "usr/share/wordnet"
    senses = read_index((folder / "index.noun").read_text(encoding="utf-8"))
    data = (folder / "data.noun").read_bytes()
    glosses = {}
    for concept in concepts:
        if concept.label in LEFT_OUT:
            continue
        found = [Sense(data, at) for at in senses.get(concept.label.replace("’", "'"), ())]
        sense = next((s for kind in kinds(concept) for s in found if s.kind == kind), None)
        if sense:
            wider = [s.word.lower() for s in wider_senses(data, sense)]
            glosses[concept.code] = {"label": concept.label, "gloss": sense.gloss, "hypernyms": wider}
    return glosses


def kinds(concept: Concept) -> tuple[int, ...]:
    return next(kinds for pattern, kinds in KINDS if re.match(pattern, f"{concept.group}/{concept.subgroup}"))


def wider_senses(data: bytes, sense: "Sense") -> list["Sense"]:
    found: list[Sense] = []
    while len(found) < WIDER_TERMS and sense.wider is not None:
        sense = Sense(data, sense.wider)
        found.append(sense)
    return found


def read_index(text: str) -> dict[str, list[int]]:
    """{noun: where its senses are in data.noun, the most frequent first} (`man wndb`); the licence is indented."""
    senses = {}
    for line in text.splitlines():
        if not line.startswith(" "):
            fields = line.split()
            senses[fields[0].replace("_", " ")] = [int(at) for at in fields[-int(fields[2]) :]]
    return senses


class Sense:
    """One line of data.noun: offset, kind, "n", number of words, words, number of pointers, pointers | gloss."""

    def __init__(self, data: bytes, at: int):
        head, _, gloss = data[at : data.index(b"\n", at)].decode("utf-8").partition(" | ")
        fields = head.split()
        pointers = fields[4 + 2 * int(fields[3], 16) + 1 :]  # each one: symbol, offset, part of speech, words
        self.kind = int(fields[1])
        self.word = fields[4].replace("_", " ")
        self.gloss = re.split(r'[;:] "', gloss)[0].strip()  # without examples
        wider = (int(pointers[i + 1]) for i in range(0, len(pointers), 4) if pointers[i] in ("@", "@i"))
        self.wider = next(wider, None)
