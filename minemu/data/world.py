"""The toy world: endless pictures of drawings on a coloured background, each with a caption that is true and complete.

Sample `i` is a pure function of the world's arguments and of `i`: any process can draw any sample, in any order.
"""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import numpy as np
from PIL import Image

from minemu.data import captions, samples
from minemu.data.scene import (
    BACKGROUNDS,
    KINDS,
    OPPOSITE,
    RELATIONS,
    SIZES,
    STYLE_NAMES,
    STYLES,
    Group,
    Scene,
)
from minemu.errors import MinemuError, suggest

__all__ = [
    "BACKGROUNDS",
    "KINDS",
    "OPPOSITE",
    "RELATIONS",
    "SIZES",
    "SPLITS",
    "STYLES",
    "STYLE_NAMES",
    "Group",
    "Sample",
    "Scene",
    "ToyWorld",
    "is_held_out",
]

SPLITS = ("seen", "new-drawing", "new-concept")
HELD_OUT = 0.05  # share of the scenes of split "seen" that training never shows
CANVAS = 64  # all sizes below are pixels of a picture this wide
PAIR, PAIR_OF_TWO = 28, 24  # a drawing of a pair; where its half holds two
ROW = {2: 28, 3: 19}  # drawings in a row
JITTER = 1  # no text says where exactly a drawing stands, so a model that regresses from words blurs what moves
TWO_IN_PAIR = 0.25  # share of pairs in which one group, if countable, has two drawings

Box = tuple[str, int, int, int, int]  # label, x0, y0, x1, y1; x1 and y1 are the first pixels outside


class Shown(Protocol):
    """A scene, or a clip of scenes: `shows()` is all that is to be seen, in one agreed form."""

    def shows(self) -> tuple: ...


def is_held_out(scene: Shown) -> bool:
    """Does evaluation own this scene? Decided by sha256 of what it shows: nobody chose, and there is no list."""
    digest = hashlib.sha256(json.dumps(scene.shows()).encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT * 2**32


@dataclass(frozen=True)
class Sample:
    """One picture and two ways to say it: `caption` in full, and `prompt` without parts picked at random, which are None in `told`."""

    picture: Image.Image  # RGB
    pixels: np.ndarray  # (S, S, 3) uint8
    caption: str
    prompt: str
    scene: Scene
    told: Scene
    boxes: list[Box]


class Drawings:
    """The drawings of a split by (label, style): decoded when first asked for, resized copies kept."""

    def __init__(self, split: str, core: bool):
        table = samples.load_emoji(split, core=True if core else None)
        rows = zip(table["label"], table["style"], _encoded(table), strict=True)
        self.files = {(label, style): data for label, style, data in rows}
        labels = set(table["label"])
        self.keys = sorted(key for key in self.files if not _says_its_size(key[0], labels))
        common = {label for label, is_core in zip(table["label"], table["core"], strict=True) if is_core}
        self.countable = {label for label in common if captions.is_countable(label)}
        self.resized: dict[tuple[str, str, int], tuple[np.ndarray, np.ndarray, tuple[int, ...]]] = {}

    def get(self, label: str, style: str, px: int) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
        """A drawing with longer side `px`: colour x alpha (h, w, 3), 255 - alpha (h, w, 1), box of what is visible."""
        key = (label, style, px)
        if key not in self.resized:
            self.resized[key] = _resize(_trimmed(self.files[label, style]), px)
        return self.resized[key]


def _encoded(table) -> list[bytes]:
    from datasets import Image as ImageFeature

    return [row["bytes"] for row in table.cast_column("image", ImageFeature(decode=False))["image"]]


def _trimmed(data: bytes) -> Image.Image:
    """RGBa (premultiplied, so that resizing does not bleed) cut to what is visible."""
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    visible = picture.getchannel("A").point(lambda alpha: 255 * (alpha > 16)).getbbox()
    return picture.crop(visible).convert("RGBa")


def _resize(picture: Image.Image, px: int) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    scale = px / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS), dtype=np.uint16)
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    ys, xs = np.nonzero(alpha[..., 0] > 16)
    box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
    return np.minimum(colour, alpha), 255 - alpha, box


@lru_cache(maxsize=8)
def _drawings(split: str, core: bool) -> Drawings:
    return Drawings(split, core)


class ToyWorld:
    """Scenes of one split.

    split     "seen": known drawings; "new-drawing": a known concept in a style of it never shown; "new-concept".
    core      only the common concepts (250 in split "seen"), or all.
    kinds     any of "single", "pair", "count"; None: all three in split "seen", else "single".
    held_out  split "seen" only: False never yields a scene that evaluation owns, True yields nothing else.

    `labels` are all that its texts can name. Only drawings of split "seen" are ever opened for that split.
    """

    def __init__(
        self,
        split: str = "seen",
        core: bool = True,
        seed: int = 0,
        image_size: int = CANVAS,
        kinds: Sequence[str] | None = None,
        held_out: bool = False,
    ):
        if split not in SPLITS:
            raise MinemuError(f"no split '{split}' in the toy world: {suggest(split, SPLITS)}")
        kinds = tuple(kinds) if kinds is not None else tuple(KINDS) if split == "seen" else ("single",)
        for kind in kinds:
            if kind not in KINDS:
                raise MinemuError(f"no kind of scene '{kind}' in the toy world: {suggest(kind, KINDS)}")
        if not kinds:
            raise MinemuError(f"a toy world needs at least one kind of scene: {', '.join(KINDS)}")
        if seed < 0:
            raise MinemuError(f"seed {seed} of the toy world is negative: use 0 or more")
        if image_size < 16:
            raise MinemuError(f"image_size {image_size} is too small to draw in: use 16 or more")
        self.split, self.core, self.seed, self.image_size = split, core, seed, image_size
        self.kinds, self.held_out = kinds, held_out
        shares = np.array([KINDS[kind] for kind in kinds])
        self.kind_limits = (np.cumsum(shares) / shares.sum())[:-1]

        self.drawings = _drawings(split, core)
        # Where the world's kinds have pairs, the second of a pair is a seen drawing, also where the first is new.
        self.others = self.drawings if split == "seen" or "pair" not in kinds else _drawings("seen", core)
        self.keys = self.drawings.keys
        self.labels = sorted({label for label, _ in {*self.keys, *self.others.keys}})
        self.countable = self.drawings.countable | self.others.countable
        self.countable_keys = [key for key in self.keys if key[0] in self.countable]
        self.by_style = {style: [label for label, s in self.others.keys if s == style] for style in STYLES}
        self.stream = [int(seed), SPLITS.index(split), int(held_out)]

    # ---- what is shown -------------------------------------------------------------------------------------------

    def scene(self, i: int) -> Scene:
        """The i-th scene: drawn again until it is on the wanted side of `is_held_out`."""
        return self.draw(self.generator(i))

    def draw(self, rng: np.random.Generator, kind: str | None = None) -> Scene:
        """A scene of one kind, unless given by the shares of the world's kinds."""
        while True:
            scene = self._draw(rng, kind or self.kinds[int(np.searchsorted(self.kind_limits, rng.random(), "right"))])
            if self.owns(scene):
                return scene

    def owns(self, scene: Shown) -> bool:
        """May this world show it? Split "seen" is shared between training and evaluation, the others are evaluation's."""
        return self.split != "seen" or is_held_out(scene) == self.held_out

    def generator(self, i: int, purpose: str = "") -> np.random.Generator:
        """The random numbers of sample `i`: others for every world, and for every `purpose` within it."""
        salt = [zlib.crc32(purpose.encode())] if purpose else []
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([*self.stream, i, *salt])))

    def _draw(self, rng: np.random.Generator, kind: str) -> Scene:
        background = pick(rng, tuple(BACKGROUNDS))
        if kind == "single":
            label, style = pick(rng, self.keys)
            return Scene((Group(label),), None, pick(rng, tuple(SIZES)), background, style, new_seed(rng))
        if kind == "count":
            label, style = pick(rng, self.countable_keys)
            return Scene((Group(label, pick(rng, (2, 3))),), None, None, background, style, new_seed(rng))
        return self._draw_pair(rng, background)

    def _draw_pair(self, rng: np.random.Generator, background: str) -> Scene:
        label, style = pick(rng, self.keys)
        other = label
        while other == label:
            other = pick(rng, self.by_style[style])
        pair = [Group(label), Group(other)]
        if rng.random() < TWO_IN_PAIR:
            many = pick(rng, (0, 1))
            if pair[many].label in self.countable:
                pair[many] = Group(pair[many].label, 2)
        if rng.random() < 0.5:
            pair.reverse()
        return Scene(tuple(pair), pick(rng, RELATIONS), None, background, style, new_seed(rng))

    # ---- pictures ------------------------------------------------------------------------------------------------

    def render(self, scene: Scene) -> tuple[Image.Image, list[Box]]:
        """The picture (RGB, image_size wide and high) and, in the order of the groups, a box around each drawing."""
        pixels, boxes = self._paint(scene)
        return Image.fromarray(pixels), boxes

    def picture(self, i: int) -> Image.Image:
        """Only the picture of sample `i`."""
        return self.render(self.scene(i))[0]

    def completed(self, told: Scene, rng: np.random.Generator) -> Scene:
        """A scene that `told` fits, with what it leaves open (None) drawn at random, and always where exactly its drawings stand."""
        styles = [
            style for style in STYLES if all((group.label, style) in self.drawings.files for group in told.groups)
        ]
        while True:
            scene = replace(
                told,
                size=told.size or (pick(rng, tuple(SIZES)) if told.alone else None),
                background=told.background or pick(rng, tuple(BACKGROUNDS)),
                style=told.style or pick(rng, styles),
                seed=new_seed(rng),
            )
            if told.whole or self.owns(scene):
                return scene

    def mean_picture(self, told: Scene, count: int) -> np.ndarray:
        """The mean of `count` pictures that `told` fits, uint8 (S, S, 3): what is left open differs, and so is blurred.

        All but the places: no text tells them, and with each drawing in the middle of its own the picture fits as well, and is sharp.
        """
        rng = np.random.Generator(np.random.PCG64([told.seed, 2]))
        scenes = [told] if told.whole else [self.completed(told, rng) for _ in range(count)]
        return np.mean([self._paint(scene, jitter=0)[0] for scene in scenes], 0).round().astype(np.uint8)

    def sample(self, i: int) -> Sample:
        """Sample `i`: picture, texts, truth."""
        scene = self.scene(i)
        pixels, boxes = self._paint(scene)
        told = captions.left_open(scene, np.random.Generator(np.random.PCG64([scene.seed, 1])))
        return Sample(
            Image.fromarray(pixels), pixels, captions.caption(scene), captions.caption(told), scene, told, boxes
        )

    def _paint(self, scene: Scene, jitter: float = JITTER) -> tuple[np.ndarray, list[Box]]:
        check_drawable(scene)
        rng = np.random.Generator(np.random.PCG64([scene.seed, 0]))
        canvas = self.canvas(scene.background)
        boxes = []
        for label, x, y, px in _layout(scene):
            dx, dy = (2 * rng.random(2) - 1) * jitter
            boxes.append(self.place(canvas, label, scene.style, x + dx, y + dy, px))
        return canvas, boxes

    def canvas(self, background: str) -> np.ndarray:
        """An empty picture, uint8 (S, S, 3)."""
        return np.full((self.image_size, self.image_size, 3), BACKGROUNDS[background], np.uint8)

    def place(self, canvas: np.ndarray, label: str, style: str, x: float, y: float, px: int) -> Box:
        """Draw on a canvas (S, S, 3) around (x, y), longer side `px`, both in pixels of a 64-pixel picture; its box."""
        side, scale = self.image_size, self.image_size / CANVAS
        colour, clear, visible = self._find(label, style).get(label, style, max(1, round(px * scale)))
        height, width = colour.shape[:2]
        left = min(max(0, round(x * scale - width / 2)), side - width)
        top = min(max(0, round(y * scale - height / 2)), side - height)
        spot = canvas[top : top + height, left : left + width]
        spot[:] = colour + (spot * clear + 127) // 255
        x0, y0, x1, y1 = visible
        return label, left + x0, top + y0, left + x1, top + y1

    def _find(self, label: str, style: str) -> Drawings:
        for drawings in (self.drawings, self.others):
            if (label, style) in drawings.files:
                return drawings
        labels = {label for label, _ in self.drawings.files}
        if label in labels:
            raise MinemuError(f"split '{self.split}' has no {style} drawing of '{label}': take another style of it")
        near = suggest(label, labels)
        fix = near if near.startswith("did you mean") else f"choose one of the {len(labels)} labels in ToyWorld.labels"
        raise MinemuError(f"split '{self.split}' has no drawing of '{label}': {fix}")


def check_drawable(scene: Scene) -> None:
    """Refuse a scene of which no picture can be made."""
    if scene.background is None or scene.style is None:
        raise MinemuError("a scene without background or style cannot be drawn: set both (a text may leave them out)")
    known = {"background": BACKGROUNDS, "style": STYLES, "size": SIZES, "relation": RELATIONS}
    for field, values in known.items():
        if (value := getattr(scene, field)) is not None and value not in values:
            raise MinemuError(f"a scene's {field} is '{value}': {suggest(value, values)}")
    if len(scene.groups) != (1 if scene.relation is None else 2):
        raise MinemuError(
            f"a scene has one group, or two and a relation, not {len(scene.groups)} with {scene.relation}"
        )
    most = max(ROW) if scene.relation is None else 2
    for group in scene.groups:
        if not 1 <= group.count <= most:
            raise MinemuError(f"{group.count} drawings of '{group.label}' do not fit the picture: take 1 to {most}")


def _says_its_size(label: str, labels: set[str]) -> bool:
    """True for "small airplane" beside "airplane": a text could not tell the label from the size."""
    size, _, rest = label.partition(" ")
    return size in SIZES and rest in labels


def pick(rng: np.random.Generator, items: Sequence):
    """One of the items, each equally likely; one number of the generator is used."""
    return items[int(rng.random() * len(items))]


def new_seed(rng: np.random.Generator) -> int:
    """A seed for a scene: where exactly its drawings stand."""
    return int(rng.random() * 2**32)


def _layout(scene: Scene) -> list[tuple[str, float, float, int]]:
    """(label, centre x, centre y, longer side) of each drawing, in pixels of a 64-pixel canvas."""
    if scene.alone:
        return [(scene.groups[0].label, CANVAS / 2, CANVAS / 2, SIZES[scene.size or "medium"])]
    if scene.relation is None:
        group = scene.groups[0]
        step = CANVAS / group.count
        return [(group.label, step * (k + 0.5), CANVAS / 2, ROW[group.count]) for k in range(group.count)]

    places = []
    for group, near in zip(scene.groups, _halves(scene.relation), strict=True):
        across = [CANVAS / 2] if group.count == 1 else [CANVAS / 4, 3 * CANVAS / 4]
        px = PAIR if group.count == 1 else PAIR_OF_TWO
        for far in across:
            x, y = (near, far) if scene.relation in ("left of", "right of") else (far, near)
            places.append((group.label, x, y, px))
    return places


def _halves(relation: str) -> tuple[float, float]:
    """Centres of the two groups along the axis of the relation."""
    first, second = CANVAS / 4, 3 * CANVAS / 4
    return (first, second) if relation in ("left of", "above") else (second, first)
