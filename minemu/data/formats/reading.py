"""What all readers share: samples by number, an order for each epoch, bad samples skipped, and text and pictures checked.

Every file is indexed once, when it is opened; after that a sample is read from its place, whatever was read before. So
document n of a source is a pure function of (seed, name of the source, n), and resuming needs no state.
"""

from __future__ import annotations

import glob
import io
import logging
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from minemu.errors import MinemuError
from minemu.processor import BROKEN_PICTURE, read_picture
from minemu.sequence import SPECIAL_TOKENS

log = logging.getLogger("minemu.data")
BOM = b"\xef\xbb\xbf"  # what Windows writes before UTF-8
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
TRIED_AT_LEAST = 100  # samples before a share of bad ones means anything
# Whatever the model; what else its tokenizer reserves, `check` refuses.
FORBIDDEN = ("<s>", "</s>", "<unk>", *SPECIAL_TOKENS)


class Filtered(MinemuError):
    """A sample that is left out for no fault of its file: a setting says so, as of a page whose pictures fit too badly, or its
    link was dead and it is not on disk. It counts neither as bad nor as tried."""


class Reader(Protocol):
    """A data set on disk. A sample that cannot be read raises a `MinemuError` or an `OSError`; one left out, `Filtered`."""

    blocks: Sequence[int]  # numbers of samples that are cheap to read one after another: a shard, a row group, a file

    def read(self, k: int, rng: np.random.Generator) -> Any:
        """Sample `k`, counted through all blocks. The generator serves for random frames, sides, subsequences."""

    def name(self, k: int) -> str:
        """For messages, counted from 0 as `k` is: "row 3 of a.csv"."""


EPOCHS, DOCUMENTS, REPLACEMENTS = range(3)  # streams of random numbers, each for itself


class Shuffled:
    """Endless documents of a reader: each epoch shuffles the blocks, and the samples within each block.

    A bad sample is named in the log and counted, once each, in `bad`, and told to `on_skip` (its number, and why). More than
    `max_bad` of what was tried (of 100 samples at least) stops the run. A filtered one is only counted. `check` may refuse what
    was read. In the place of either stands a sample from a random place of the block, or where none there is good, of the
    epoch: so an epoch holds a good sample once at its own place, and once more wherever it stands in for another.

    name   of the source: of one seed, sources of other names make other choices
    """

    def __init__(
        self,
        reader: Reader,
        seed: int = 0,
        max_bad: float = 0.05,
        on_skip: Callable[[int, str], None] | None = None,
        check: Callable[[Any], Any] = lambda document: None,
        name: str = "",
    ):
        if not 0 <= max_bad <= 1 or seed < 0:
            raise MinemuError(f"max_bad={max_bad:g}, seed={seed}: use a share from 0 to 1, and a seed of 0 or more")
        self.reader, self.seed, self.max_bad, self.on_skip, self.check = reader, seed, max_bad, on_skip, check
        self.salt = zlib.crc32(name.encode())
        self.sizes = np.asarray(reader.blocks, dtype=np.int64)
        self.starts = np.cumsum(self.sizes) - self.sizes
        self.bad: dict[int, str] = {}
        self.tried = self.filtered = 0
        self.has_told = False
        self._blocks = lru_cache(maxsize=2)(self._shuffled_blocks)
        self._within = lru_cache(maxsize=4)(self._shuffled_within)

    def __len__(self) -> int:
        """Documents of an epoch: as many as there are samples, those included that are bad or filtered."""
        return int(self.sizes.sum())

    def document(self, number: int) -> Any:
        """Document `number`, of epoch `number // len(self)`."""
        if not len(self):
            raise MinemuError("the data set holds no samples; check the path")
        epoch, own = divmod(number, len(self))
        for attempt, place in enumerate(self._places(epoch, own, number)):
            k = self.sample(epoch, place)
            try:
                document = self.reader.read(k, self._random(DOCUMENTS, number))
                self.check(document)
            except Filtered as error:
                self.filtered += 1
                why = self._named(k, error)
            except (MinemuError, OSError) as error:
                self.tried += 1
                why = self._named(k, error)
                self._skip(k, why)
            else:
                self.tried += 1
                return document
            if attempt == TRIED_AT_LEAST and not self.has_told:
                self.has_told = True
                log.warning("none of %d samples that were tried in a row can be used; the last: %s", attempt + 1, why)
        why = next(iter(self.bad.values()), why)
        raise MinemuError(f"none of the {len(self)} samples can be used; one of them: {why}")

    def sample(self, epoch: int, place: int) -> int:
        """Which sample stands at a place of an epoch."""
        block, first = self._block_at(epoch, place)
        return int(self.starts[block] + self._within(epoch, block)[place - first])

    def _places(self, epoch: int, own: int, number: int) -> Iterator[int]:
        """Where a document is looked for: at its own place, at random ones of the same block, which are cheap to read, then of
        the epoch, and at last, so that it ends, at every one."""
        yield own
        rng = self._random(REPLACEMENTS, number)
        block, first = self._block_at(epoch, own)
        for _ in range(min(int(self.sizes[block]), TRIED_AT_LEAST)):
            yield first + int(rng.integers(self.sizes[block]))
        for _ in range(len(self)):
            yield int(rng.integers(len(self)))
        yield from range(len(self))

    def _block_at(self, epoch: int, place: int) -> tuple[int, int]:
        """The block at a place of an epoch, and the place at which it begins."""
        order, ends = self._blocks(epoch)
        b = int(np.searchsorted(ends, place, side="right"))
        return int(order[b]), int(ends[b] - self.sizes[order[b]])

    def _shuffled_blocks(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        order = self._random(EPOCHS, epoch).permutation(len(self.sizes))
        return order, np.cumsum(self.sizes[order])

    def _shuffled_within(self, epoch: int, block: int) -> np.ndarray:
        return self._random(EPOCHS, epoch, block + 1).permutation(self.sizes[block])

    def _random(self, *stream: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self.seed, self.salt, *stream]))

    def _named(self, k: int, error: Exception) -> str:
        """What is wrong with sample `k`; what `check` or the system says does not name it."""
        name, why = self.reader.name(k), str(error)
        return why if name in why else f"{name}: {why}"

    def _skip(self, k: int, why: str) -> None:
        if k in self.bad:
            return
        self.bad[k] = why
        log.warning("bad sample %d skipped: %s", k, why)
        if self.on_skip:
            self.on_skip(k, why)
        if len(self.bad) > self.max_bad * max(self.tried, TRIED_AT_LEAST):
            raise MinemuError(
                f"{len(self.bad)} of {self.tried} samples are bad, more than max_bad={self.max_bad:g} allows; the last: "
                f"{why}. Repair the data, or raise max_bad"
            ) from None


# ---- files, text, pictures -------------------------------------------------------------------------------------------


def files(pattern: str | os.PathLike) -> list[Path]:
    """The files that a path or a pattern ("laion/*.tar", "laion/{00000..00231}.tar") names, sorted; none is an error."""
    found = sorted({path for one in _expanded(str(pattern)) for path in _matches(one)})
    for path in found:
        if os.path.isdir(path):
            raise MinemuError(f"{path} is a folder; name the files in it with a pattern, such as {path}/*.json")
    return [Path(path) for path in found]


def _expanded(pattern: str) -> list[str]:
    """A range of numbers as a shell and webdataset read it: "{08..10}.tar" is 08.tar, 09.tar and 10.tar."""
    found = RANGE.search(pattern)
    if not found or os.path.exists(pattern):
        return [pattern]
    first, last = found.groups()
    numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    return [one for number in numbers for one in _expanded(pattern[: found.start()] + number + pattern[found.end() :])]


def _matches(pattern: str) -> list[str]:
    found = [pattern] if os.path.exists(pattern) else glob.glob(pattern)
    if not found:
        raise MinemuError(f"no file matches {pattern}; check the path")
    return found


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
