"""Image-text pairs (LAION-2B, LAION-COCO) as img2dataset writes them: webdataset tar shards, or parquet files.

https://github.com/rom1504/img2dataset
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from minemu.data.documents import Document, beside
from minemu.data.formats.reading import Filtered, clean_text, decode_picture, locate, log
from minemu.errors import MinemuError

PICTURES = ("jpg", "jpeg", "png", "webp")
TEXTS = ("txt", "json")  # a json's field "caption" counts where there is no txt
PICTURE_COLUMNS = ("jpg", "png", "webp", "image")
TEXT_COLUMNS = ("caption", "top_caption", "text", "TEXT", "txt")  # in LAION-COCO's TEXT stands what the web said
MISSING = (0, 0)


class WebDataset:
    """Tar shards. Files of one sample stand together and share their name up to its first dot: 00042.jpg, 00042.txt."""

    def __init__(self, shards: Sequence[Path]):
        self.shards = list(shards)
        self.index = [_index(shard) for shard in self.shards]
        self.blocks = [len(entries) for entries in self.index]

    def name(self, k: int) -> str:
        shard, place = locate(self.blocks, k)
        return f"sample {place} of {self.shards[shard]}"

    def read(self, k: int, rng: np.random.Generator) -> Document:
        """The picture before or after its text."""
        name = self.name(k)
        shard, place = locate(self.blocks, k)
        picture, text, is_json = np.split(self.index[shard][place], (2, 4))
        with open(self.shards[shard], "rb") as file:
            data = _bytes(file, picture, f"{name}: the picture")
            words = _bytes(file, text, f"{name}: the text").decode("utf-8", errors="replace")
        if is_json[0]:
            words = _caption(words, name)
        return beside(decode_picture(data, name), clean_text(words, name), rng.random() < 0.5)


def _bytes(file, span: np.ndarray, name: str) -> bytes:
    start, size = span.tolist()
    if not size:
        raise MinemuError(f"{name} is missing")
    file.seek(start)
    data = file.read(size)
    if len(data) < size:
        raise MinemuError(f"{name} is cut off")
    return data


def _caption(text: str, name: str) -> str | None:
    try:
        return json.loads(text)["caption"]
    except (ValueError, KeyError, TypeError):
        raise MinemuError(f"{name}: its json has no field 'caption'") from None


def _index(shard: Path) -> np.ndarray:
    """Of each sample the place and size of picture and text, and whether the text is json: int64 (samples, 5)."""
    samples: list[dict[str, tuple[int, int]]] = []
    last = None
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                folder, _, file = member.name.rpartition("/")
                key, _, suffix = file.partition(".")
                if not member.isfile():
                    continue
                if (folder, key) != last or suffix.lower() in samples[-1]:  # keys begin anew where shards were joined
                    samples.append({})
                    last = folder, key
                samples[-1][suffix.lower()] = (member.offset_data, member.size)
            _check_end(tar)
    except (tarfile.TarError, OSError) as error:
        if not samples:
            raise MinemuError(
                f"{shard} is no tar shard ({error}); unpack it if it is compressed, or fetch it again"
            ) from None
        log.warning("%s is cut off after %d samples (%s): fetch it again", shard, len(samples), error)
    return np.array([_entry(parts) for parts in samples], dtype=np.int64).reshape(-1, 5)


def _check_end(tar: tarfile.TarFile) -> None:
    """After its last file a whole archive has zeros. Where it has none, tarfile stops at a header that is cut off, and says nothing."""
    tar.fileobj.seek(tar.offset)
    end = tar.fileobj.read(tarfile.BLOCKSIZE)
    if not end:
        raise tarfile.ReadError("it ends without the zeros that close an archive")
    if any(end):
        raise tarfile.ReadError("a header is damaged or cut off")


def _entry(parts: dict[str, tuple[int, int]]) -> tuple[int, ...]:
    picture = next((parts[suffix] for suffix in PICTURES if suffix in parts), MISSING)
    text = next((suffix for suffix in TEXTS if suffix in parts), None)
    return (*picture, *parts.get(text, MISSING), text == "json")


class Parquet:
    """Parquet files with a column of encoded pictures and a column of texts; one row group is in memory at a time."""

    def __init__(self, paths: Sequence[Path]):
        self.groups: list[tuple[Path, int]] = []
        self.columns: dict[Path, tuple[str, str]] = {}
        self.blocks: list[int] = []
        for path in paths:
            try:
                metadata = pq.read_metadata(path)
                names = pq.read_schema(path).names
            except (pa.ArrowInvalid, OSError) as error:
                raise MinemuError(f"{path} is no parquet file ({str(error).splitlines()[0]}); fetch it again") from None
            self.columns[path] = _column(PICTURE_COLUMNS, names, path), _column(TEXT_COLUMNS, names, path)
            self.groups += [(path, group) for group in range(metadata.num_row_groups)]
            self.blocks += [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._group = lru_cache(maxsize=1)(self._read_group)

    def name(self, k: int) -> str:
        block, row = locate(self.blocks, k)
        path, group = self.groups[block]
        return f"row {row} of row group {group} of {path}"

    def read(self, k: int, rng: np.random.Generator) -> Document:
        """The picture before or after its text."""
        name = self.name(k)
        block, row = locate(self.blocks, k)
        try:
            pictures, texts = self._group(*self.groups[block])
        except (pa.ArrowException, OSError) as error:
            raise MinemuError(f"{name} cannot be read ({str(error).splitlines()[0]})") from None
        data = pictures[row].as_py()
        data = data.get("bytes") if isinstance(data, dict) else data
        if not data:
            raise Filtered(f"{name}: the picture is missing")  # img2dataset's row of a link that was dead
        if not isinstance(data, bytes):
            raise MinemuError(
                f"{name}: the picture is no encoded file but a {type(data).__name__}; put the files' bytes there"
            )
        return beside(decode_picture(data, name), clean_text(texts[row].as_py(), name), rng.random() < 0.5)

    def _read_group(self, path: Path, group: int) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
        with pq.ParquetFile(path) as file:
            table = file.read_row_group(group, columns=list(self.columns[path]))
        picture, text = self.columns[path]
        return table[picture], table[text]


def _column(wanted: Sequence[str], names: Sequence[str], path: Path) -> str:
    for name in wanted:
        if name in names:
            return name
    links = wanted is PICTURE_COLUMNS and next((name for name in names if name.lower() == "url"), None)
    fix = f"'{links}' holds links: fetch the pictures with img2dataset first" if links else "Rename one"
    raise MinemuError(f"{path} has no column {' or '.join(wanted)}; its columns: {', '.join(names)}. {fix}")
