"""Records of JSON lines and of JSON lists, by number, without loading a file: an index of where each record stands."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from minemu.data.formats.reading import BOM, locate
from minemu.errors import MinemuError

STRING_OR_BRACKET = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)
UNPACKERS = {".gz": "gunzip", ".zip": "unzip"}  # MMC4 comes as .jsonl.zip


class Records:
    """JSON objects of several files, numbered through. A list is told from lines by its first character, '['."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = list(paths)
        self.spans = [_spans(path) for path in self.paths]

    @cached_property
    def blocks(self) -> list[int]:
        return [len(spans) for spans in self.spans]

    def name(self, k: int) -> str:
        """For messages: "record 3 of docs.jsonl"."""
        block, place = locate(self.blocks, k)
        return f"record {place} of {self.paths[block]}"

    def __getitem__(self, k: int) -> dict[str, Any]:
        block, place = locate(self.blocks, k)
        start, stop = self.spans[block][place]
        with open(self.paths[block], "rb") as file:
            file.seek(start)
            data = file.read(stop - start)
        try:
            record = json.loads(data)
        except ValueError as error:
            raise MinemuError(f"{self.name(k)} is not valid JSON ({error})") from None
        if not isinstance(record, dict):
            raise MinemuError(f"{self.name(k)} is not a JSON object")
        return record


def _spans(path: Path) -> np.ndarray:
    """Where each record begins and ends, in bytes: int64 (records, 2)."""
    if path.suffix in UNPACKERS:
        unpack = f"{UNPACKERS[path.suffix]} {path.name}"
        raise MinemuError(f"{path} is compressed and cannot be read by record; unpack it: {unpack}")
    with open(path, "rb") as file:
        if not path.stat().st_size:
            raise MinemuError(f"{path} is empty; fetch it again or leave it out")
        head = file.read(64)
        is_list = head.removeprefix(BOM).lstrip()[:1] == b"["
        file.seek(len(BOM) if head.startswith(BOM) else 0)
        spans = _list_spans(file, path) if is_list else _line_spans(file)
    return np.array(spans, dtype=np.int64).reshape(-1, 2)


def _line_spans(file) -> list[tuple[int, int]]:
    spans, start = [], file.tell()
    for line in file:
        if line.strip():
            spans.append((start, start + len(line)))
        start += len(line)
    return spans


def _list_spans(file, path: Path) -> list[tuple[int, int]]:
    """Brackets outside strings tell where the objects of the list are."""
    spans, depth, start = [], 0, 0
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for token in STRING_OR_BRACKET.finditer(data):
            if token[0] in (b"{", b"["):
                if depth == 1:
                    start = token.start()
                depth += 1
            elif token[0] in (b"}", b"]"):
                depth -= 1
                if depth == 1:
                    spans.append((start, token.end()))
    if depth:
        raise MinemuError(f"{path} is cut off: its list does not end; fetch it again")
    return spans
