"""An independent judge of pictures: which real drawing looks most like this one?

EfficientNet-Lite0 features (ImageNet weights, never trained on these drawings) of every real drawing of the core concepts, held out
or not, form a gallery; a picture is named after its nearest neighbour by cosine. The judge shares nothing with the models it judges.

Size and place would weigh more than the drawing itself, so each picture is first cut to its content and centred on its own background.
On real pictures of the toy world the judge then names nearly all concepts right, in whole pictures and in halves of two-drawing
scenes alike; without the cut only 9 in 10 and 3 in 4. `minemu evaluate` measures that bound anew in each run.

Axis letters: B pictures, G gallery drawings, H and W height and width, F features.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from minemu.data.world import BACKGROUNDS, CANVAS, SIZES, Group, Scene, ToyWorld
from minemu.errors import MinemuError
from minemu.evaluation import efficientnet
from minemu.files import atomic_write

LOOK_SIZE = 128  # 64-pixel drawings gain nothing from the network's 224, and it would cost three times as much
GALLERY_BACKGROUNDS = ("white", "blue")
CONTENT_THRESHOLD = 0.12  # of the range [-1, 1]: this far from the background is part of a drawing
MARGIN = 0.06
BATCH = 16

Pictures = Sequence[Image.Image | Tensor] | Tensor  # tensors: (3, H, W) each, or (B, 3, H, W)


def as_tensors(pictures: Pictures) -> list[Tensor]:
    """PIL pictures, or tensors (3, H, W) in [-1, 1] of any sizes, as a list of such tensors."""
    return [_as_tensor(picture) for picture in pictures]


def _as_tensor(picture: Image.Image | Tensor) -> Tensor:
    if isinstance(picture, Tensor):
        return picture.detach().float().cpu().clamp(-1, 1)
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)


def background(picture: Tensor) -> Tensor:
    """Colour of the background, (3,): the median of the border of (3, H, W)."""
    border = torch.cat([picture[:, 0], picture[:, -1], picture[:, :, 0], picture[:, :, -1]], dim=1)
    return border.median(dim=1).values


def background_name(picture: Tensor) -> str:
    """The toy world's background that is nearest to this picture's."""
    colours = torch.tensor(list(BACKGROUNDS.values())) / 127.5 - 1
    return list(BACKGROUNDS)[int((colours - background(picture)).square().sum(1).argmin())]


def content(picture: Tensor) -> tuple[slice, slice] | None:
    """Rows and columns of (3, H, W) that differ from its background; None if none does."""
    distance = (picture - background(picture)[:, None, None]).abs().amax(0)[None]
    smooth = F.avg_pool2d(distance, 3, stride=1, padding=1, count_include_pad=False)[0]
    ys, xs = torch.nonzero(smooth > CONTENT_THRESHOLD, as_tuple=True)
    if len(ys) == 0:
        return None
    return slice(int(ys.min()), int(ys.max()) + 1), slice(int(xs.min()), int(xs.max()) + 1)


def size_name(picture: Tensor) -> str | None:
    """The toy world's size ("small", ...) that is nearest to the longer side of what (3, H, W) shows; None if it is empty."""
    found = content(picture)
    if found is None:
        return None
    side = max(part.stop - part.start for part in found) * CANVAS / picture.shape[-1]
    return min(SIZES, key=lambda name: abs(SIZES[name] - side))


def crop_to_content(picture: Tensor) -> Tensor:
    """Cut (3, H, W) to what differs from its background and centre that on a square of the same background, with a small margin."""
    found = content(picture)
    if found is None:
        return picture
    cut = picture[:, found[0], found[1]]
    height, width = cut.shape[1:]
    side = max(height, width)
    side += 2 * (1 + round(MARGIN * side))
    top, left = (side - height) // 2, (side - width) // 2
    square = background(picture)[:, None, None].repeat(1, side, side)
    square[:, top : top + height, left : left + width] = cut
    return square


def halves(picture: Tensor, relation: str) -> tuple[Tensor, Tensor]:
    """The half where the first group of a scene should stand and the half of the second, from (3, H, W)."""
    dim = 2 if relation in ("left of", "right of") else 1
    first, second = picture.chunk(2, dim=dim)
    return (first, second) if relation in ("left of", "above") else (second, first)


def _looks(pictures: Pictures) -> Tensor:
    """What the network is shown of each picture: its content, enlarged. (B, 3, LOOK_SIZE, LOOK_SIZE) in [-1, 1]."""
    size = (LOOK_SIZE, LOOK_SIZE)
    cut = (crop_to_content(picture)[None] for picture in as_tensors(pictures))
    return torch.cat([F.interpolate(one, size, mode="bicubic", antialias=True).clamp(-1, 1) for one in cut])


class Judge:
    """Names the concept and the style of pictures.

    Args:
        core: judge among the drawings of the common concepts only, as the core world shows, or of all.
        splits: whose drawings are in the gallery.
        labels: only these concepts.
        cache: folder that keeps the gallery's features between runs, "" for none; default MINEMU_CACHE or ~/.cache/minemu.
    """

    def __init__(
        self,
        core: bool = True,
        splits: Sequence[str] = ("seen", "new-drawing"),
        labels: Sequence[str] | None = None,
        cache: str | os.PathLike | None = None,
    ) -> None:
        self.net = efficientnet.pretrained().to(memory_format=torch.channels_last)
        worlds = [ToyWorld(split, core=core) for split in splits]
        wanted = set(labels) if labels is not None else {label for world in worlds for label in world.labels}
        if missing := wanted - {label for world in worlds for label in world.labels}:
            raise MinemuError(
                f"no drawing of '{min(missing)}' in {', '.join(splits)}: the judge can only name what is there"
            )
        keys = [(world, label, style) for world in worlds for label, style in world.keys if label in wanted]
        self.labels = sorted(wanted)
        drawings = [(label, style) for _, label, style in keys]
        self.gallery_names = drawings * len(GALLERY_BACKGROUNDS)  # (label, style) of each of G
        cache = os.environ.get("MINEMU_CACHE", "~/.cache/minemu") if cache is None else cache
        self.gallery = self._gallery(keys, Path(cache))

    def _gallery(self, keys: list[tuple[ToyWorld, str, str]], cache: Path) -> Tensor:
        """Unit features of every drawing on every gallery background, (G, F)."""
        pictures = [
            world.render(Scene((Group(label),), size="big", background=name, style=style))[0]
            for name in GALLERY_BACKGROUNDS
            for world, label, style in keys
        ]
        if cache == Path(""):
            return self.features(pictures)
        digest = hashlib.sha256(_looks(pictures[:BATCH]).numpy().tobytes())  # changes with the way of looking,
        for weight in self.net.state_dict().values():
            digest.update(weight.contiguous().numpy().tobytes())  # with the network,
        for picture in pictures:
            digest.update(picture.tobytes())  # and with any drawing
        path = cache.expanduser() / f"judge-{digest.hexdigest()[:16]}.safetensors"
        if not path.exists():
            with atomic_write(path) as temporary:
                save_file({"features": self.features(pictures)}, temporary)
        return load_file(path)["features"]

    @torch.no_grad()
    def features(self, pictures: Pictures) -> Tensor:
        """Unit features of the content of each picture: (B, F)."""
        parts = (_looks(pictures[i : i + BATCH]) for i in range(0, len(pictures), BATCH))
        found = [self.net.features(part.contiguous(memory_format=torch.channels_last)) for part in parts]
        return F.normalize(torch.cat(found), dim=1)

    def nearest(self, pictures: Pictures) -> list[tuple[str, str]]:
        """(label, style) of the real drawing that is nearest to each picture."""
        indices = (self.features(pictures) @ self.gallery.T).argmax(dim=1)
        return [self.gallery_names[i] for i in indices.tolist()]

    def likeliest(self, pictures: Pictures, most: int) -> list[list[str]]:
        """The `most` concepts whose real drawings come nearest to each picture, the nearest first."""
        order = (self.features(pictures) @ self.gallery.T).argsort(dim=1, descending=True).tolist()
        return [list(dict.fromkeys(self.gallery_names[i][0] for i in row))[:most] for row in order]

    def names(self, pictures: Pictures) -> list[str]:
        """The concept that each picture shows, in this judge's eyes."""
        return [label for label, _ in self.nearest(pictures)]

    def shows(self, pictures: Pictures, scenes: Sequence[Scene]) -> list[bool]:
        """Does each picture show its scene's concepts, each in the half where the scene puts it?"""
        parts: list[Tensor] = []
        for tensor, scene in zip(as_tensors(pictures), scenes, strict=True):
            parts += [tensor] if scene.relation is None else halves(tensor, scene.relation)
        found = iter(self.names(parts))
        return [[next(found) for _ in scene.groups] == [group.label for group in scene.groups] for scene in scenes]
