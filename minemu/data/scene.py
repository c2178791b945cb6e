"""What one toy picture shows, and the closed vocabulary for saying it: styles, backgrounds, sizes, relations."""

from __future__ import annotations

from dataclasses import dataclass

STYLES = ("noto", "twemoji", "fluent", "flat")
STYLE_NAMES = {"noto": "Noto", "twemoji": "Twemoji", "fluent": "Fluent", "flat": "Flat"}

BACKGROUNDS = {  # RGB: soft, told apart at a glance, chosen so that as few drawings as possible fade into them
    "white": (250, 250, 250),
    "gray": (130, 132, 136),
    "yellow": (244, 244, 128),
    "orange": (252, 160, 108),
    "pink": (252, 172, 224),
    "green": (150, 226, 170),
    "blue": (140, 206, 246),
    "purple": (194, 158, 244),
}

SIZES = {"small": 30, "medium": 44, "big": 56}  # longer side of a drawing alone, in pixels of a 64-pixel picture
RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
KINDS = {"single": 0.5, "pair": 0.4, "count": 0.1}  # the mixture that training sees


@dataclass(frozen=True)
class Group:
    """`count` drawings (1 to 3) of the concept `label`."""

    label: str
    count: int = 1


@dataclass(frozen=True)
class Scene:
    """One picture of the toy world: one group, or two, the first of which is `relation` ("left of", ...) the second.

    `size` belongs to a drawing alone. `seed` moves the drawings by a few pixels. In a scene read from a text, None
    stands for what the text did not say.
    """

    groups: tuple[Group, ...]
    relation: str | None = None
    size: str | None = None
    background: str | None = None
    style: str | None = None
    seed: int = 0

    @property
    def alone(self) -> bool:
        """One single drawing: the only case that has a size."""
        return len(self.groups) == 1 and self.groups[0].count == 1

    @property
    def whole(self) -> bool:
        """Nothing is left open but where exactly the drawings stand."""
        return bool(self.background and self.style and (self.size or not self.alone))

    def turned(self) -> Scene:
        """The same picture told from its other side: 'X left of Y' becomes 'Y right of X'."""
        if self.relation is None:
            return self
        return Scene(self.groups[::-1], OPPOSITE[self.relation], self.size, self.background, self.style, self.seed)

    def shows(self) -> tuple:
        """What is to be seen, in one agreed form: without the seed, and pairs told from the left or from above."""
        scene = self.turned() if self.relation in ("right of", "below") else self
        size = (scene.size or "medium") if scene.alone else None
        return tuple((g.label, g.count) for g in scene.groups), scene.relation, size, scene.background, scene.style
