"""What all readers share: samples by number, an order for each epoch, bad samples skipped, and text and pictures checked.

Every file is indexed once, when it is opened; after that a sample is read from its place, whatever was read before. So
document n of a source is a pure function of (seed, n), and resuming needs no state.
"""

from __future__ import annotations

import glob
import io
import logging
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from minemu.errors import MinemuError
from minemu.processor import BROKEN_PICTURE, read_picture
from minemu.sequence import SPECIAL_TOKENS
from minemu.tokenizer import ASSISTANT, GROUNDING, USER, VIDEO

log = logging.getLogger("minemu.data")
BOM = b"\xef\xbb\xbf"  # what Windows writes before UTF-8
TRIED_AT_LEAST = 100  # samples before a share of bad ones means anything
FORBIDDEN = ("<s>", "</s>", "<unk>", USER, ASSISTANT, VIDEO, GROUNDING, *SPECIAL_TOKENS)


class Filtered(MinemuError):
    """A sound sample that a setting leaves out, such as a page whose pictures fit too badly: it counts as if it were not there."""


class Reader(Protocol):
    """A data set on disk. A sample that cannot be read raises a `MinemuError` that names it; one left out, `Filtered`."""

    blocks: Sequence[int]  # numbers of samples that are cheap to read one after another: a shard, a row group, a file

    def read(self, k: int, rng: np.random.Generator) -> Any:
        """Sample `k`, counted through all blocks. The generator serves for random frames, sides, subsequences."""


class Shuffled:
    """Endless documents of a reader: each epoch shuffles the blocks, and the samples within each block.

    A bad sample is named in the log and counted, once each, in `bad`, and told to `on_skip` (its number, and why); the next
    good one of the epoch takes its place. More than `max_bad` of what was tried (of 100 samples at least) stops the run.
    A filtered one is replaced too, but in silence, and counts neither as bad nor as tried. `check` may refuse what was read.
    """

    def __init__(
        self,
        reader: Reader,
        seed: int = 0,
        max_bad: float = 0.05,
        on_skip: Callable[[int, str], None] | None = None,
        check: Callable[[Any], Any] = lambda document: None,
    ):
        if not 0 <= max_bad <= 1 or seed < 0:
            raise MinemuError(f"max_bad={max_bad:g}, seed={seed}: use a share from 0 to 1, and a seed of 0 or more")
        self.reader, self.seed, self.max_bad, self.on_skip, self.check = reader, seed, max_bad, on_skip, check
        self.sizes = np.asarray(reader.blocks, dtype=np.int64)
        self.starts = np.cumsum(self.sizes) - self.sizes
        self.bad: dict[int, str] = {}
        self.tried = 0
        self._blocks = lru_cache(maxsize=2)(self._shuffled_blocks)
        self._within = lru_cache(maxsize=4)(self._shuffled_within)

    def __len__(self) -> int:
        """Samples of an epoch."""
        return int(self.sizes.sum())

    def document(self, number: int) -> Any:
        """Document `number`, of epoch `number // len(self)`."""
        if not len(self):
            raise MinemuError("the data set holds no samples; check the path")
        epoch, place = divmod(number, len(self))
        for step in range(len(self)):
            k = self.sample(epoch, (place + step) % len(self))
            self.tried += 1
            try:
                document = self.reader.read(k, np.random.Generator(np.random.PCG64([self.seed, number])))
                self.check(document)
                return document
            except Filtered as error:
                self.tried -= 1
                filtered = str(error)
            except MinemuError as error:
                self._skip(k, error)
        why = next(iter(self.bad.values())) if self.bad else filtered
        raise MinemuError(f"none of the {len(self)} samples can be used; one of them: {why}")

    def sample(self, epoch: int, place: int) -> int:
        """Which sample stands at a place of an epoch."""
        order, ends = self._blocks(epoch)
        b = int(np.searchsorted(ends, place, side="right"))
        block = int(order[b])
        return int(self.starts[block] + self._within(epoch, block)[place - (ends[b] - self.sizes[block])])

    def _shuffled_blocks(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        order = np.random.Generator(np.random.PCG64([self.seed, epoch])).permutation(len(self.sizes))
        return order, np.cumsum(self.sizes[order])

    def _shuffled_within(self, epoch: int, block: int) -> np.ndarray:
        return np.random.Generator(np.random.PCG64([self.seed, epoch, block + 1])).permutation(self.sizes[block])

    def _skip(self, k: int, error: MinemuError) -> None:
        if k in self.bad:
            return
        self.bad[k] = str(error)
        log.warning("bad sample %d skipped: %s", k, error)
        if self.on_skip:
            self.on_skip(k, str(error))
        if len(self.bad) > self.max_bad * max(self.tried, TRIED_AT_LEAST):
            raise MinemuError(
                f"{len(self.bad)} of {self.tried} samples are bad, more than max_bad={self.max_bad:g} allows; the last: "
                f"{error}. Repair the data, or raise max_bad"
            ) from None


# ---- files, text, pictures -------------------------------------------------------------------------------------------


def files(pattern: str | os.PathLike) -> list[Path]:
    """The files that a path or a pattern ("laion/*.tar") names, sorted; none is an error."""
    found = [str(pattern)] if os.path.exists(pattern) else sorted(glob.glob(str(pattern)))
    if not found:
        raise MinemuError(f"no file matches {pattern}; check the path")
    return [Path(path) for path in found]


def locate(blocks: Sequence[int], k: int) -> tuple[int, int]:
    """Which block sample `k` is in, and its place there."""
    ends = np.cumsum(blocks)
    block = int(np.searchsorted(ends, k, side="right"))
    return block, k - int(ends[block] - blocks[block])


def checked_text(text: Any, name: str) -> str:
    """Text as it is; nothing at all, no text, and text that would forge special tokens are refused."""
    if not isinstance(text, str) or not text.strip():
        raise MinemuError(f"{name} has no text")
    for token in FORBIDDEN:
        if token in text:
            raise MinemuError(f"{name}: the text contains the special token {token!r}")
    return text.strip()


def clean_text(text: Any, name: str) -> str:
    """Checked text on one line, with single spaces."""
    return " ".join(checked_text(text, name).split())


def decode_picture(data: bytes, name: str) -> Image.Image:
    """A picture file's bytes as upright RGB."""
    try:
        return read_picture(Image.open(io.BytesIO(data)))
    except MinemuError as error:
        raise MinemuError(f"{name}: {error}") from None
    except BROKEN_PICTURE:
        raise MinemuError(f"{name}: the picture cannot be read, it is damaged or of an unknown format") from None
