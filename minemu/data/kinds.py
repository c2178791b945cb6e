"""What the concepts are: Unicode's subgroups in plain words, and WordNet's glosses."""

from __future__ import annotations

from functools import lru_cache

from minemu.data import samples
from minemu.data.world import ToyWorld

KIND_NAMES = {  # of the subgroups with five or more of the common concepts; not of weather, say, which is no kind of thing
    "animal-mammal": "mammal",
    "animal-bird": "bird",
    "animal-bug": "bug",
    "animal-marine": "sea animal",
    "animal-reptile": "reptile",
    "plant-flower": "flower",
    "plant-other": "plant",
    "food-fruit": "fruit",
    "food-vegetable": "vegetable",
    "food-prepared": "prepared food",
    "food-sweet": "sweet",
    "transport-ground": "ground vehicle",
    "game": "game",
    "sport": "sport",
    "clothing": "clothing",
    "tool": "tool",
    "household": "household thing",
    "musical-instrument": "musical instrument",
}
GROUPS = {
    "animals-nature": "nature",
    "food-drink": "food and drink",
    "travel-places": "travel and places",
    "activities": "activities",
    "objects": "objects",
}


@lru_cache(maxsize=3)
def _concepts(split: str) -> dict[str, tuple[str, str]]:
    table = samples.load_emoji(split)
    return dict(zip(table["label"], zip(table["subgroup"], table["group"], strict=True), strict=True))


@lru_cache(maxsize=4096)
def _concept(label: str) -> tuple[str, str]:
    """Subgroup and group. Training names only seen concepts, so it finds them all before another split is opened."""
    return next(concepts[label] for split in samples.SPLITS if label in (concepts := _concepts(split)))


def kind(label: str) -> str | None:
    """The kind of a concept ("mammal"), or None if it is of no kind that is asked for."""
    return KIND_NAMES.get(_concept(label)[0])


def group(label: str) -> str | None:
    """The wider group ("nature"), or None."""
    return GROUPS.get(_concept(label)[1])


@lru_cache(maxsize=8)
def asked(world: ToyWorld) -> tuple[str, ...]:
    """The kinds that a world has drawings of, sorted."""
    return tuple(sorted({kind(label) for label, _ in world.keys} - {None}))


@lru_cache(maxsize=8)
def groups_asked(world: ToyWorld) -> tuple[str, ...]:
    """The groups that a world has drawings of, sorted."""
    return tuple(sorted({group(label) for label, _ in world.keys} - {None}))


@lru_cache(maxsize=1)
def glosses() -> dict[str, str]:
    """WordNet's definitions by label."""
    return {row["label"]: row["gloss"] for row in samples.load_glosses().values()}
