"""A published checkpoint -> a minemu folder, and back, one output file after another.

Only one tensor is read and written at a time, with the factors that are merged into it in float32, beside the memory map of one
input file. Each output file appears whole or not at all, and config.json (for the way back: the index) comes last, so a folder
without it is no model yet. Stopped, the same command goes on.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from minemu.config import EmuConfig
from minemu.errors import MinemuError
from minemu.files import atomic_write, read_object, sweep, write_json
from minemu.model import Emu, read_config
from minemu.official import Mapping, Shape, map_names, published_name
from minemu.pipeline import DECODER_FOLDER
from minemu.shards import DTYPES, RECORD, Shards, write_index, write_shard
from minemu.weights import load_strict

TOKENIZERS = ("tokenizer.model", "tokenizer.json")
MAX_FILE_BYTES = 4 * 1024**3


@dataclass(frozen=True)
class Piece:
    """One tensor to write: where it is read from, and the low-rank factors that are merged into it."""

    source: str
    lora: tuple[str, str] | None = None
    lora_alpha: float = 0.0

    def read(self, shards: Shards) -> Tensor:
        weight = shards.read(self.source)
        if self.lora is None:
            return weight
        a, b = (shards.read(name).float() for name in self.lora)  # (rank, in), (out, rank)
        return weight.float() + self.lora_alpha / len(a) * b @ a


def pieces_of(mapping: Mapping) -> dict[str, Piece]:
    """Our name -> what it is read from."""
    alpha = mapping.config.llm.lora_alpha
    return {name: Piece(published, mapping.lora.get(name), alpha) for name, published in mapping.loaded.items()}


def load_official(source: str | os.PathLike, config: EmuConfig, keep_lora: bool = False) -> Emu:
    """A published checkpoint as a model in memory, in float32; LoRA is merged unless it is kept."""
    shards = Shards(source)
    mapping = map_names(shards.shapes, config, keep_lora).require_complete(str(source))
    model = Emu(mapping.config)
    load_strict(model, {name: piece.read(shards) for name, piece in pieces_of(mapping).items()}, str(source))
    return model.eval()


def convert(
    source: str | os.PathLike,
    config: EmuConfig,
    out: str | os.PathLike,
    dtype: torch.dtype | None = None,
    keep_lora: bool = False,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> Mapping:
    """Write a published checkpoint as a folder that `Emu.from_pretrained` loads; a tokenizer beside it comes along.

    `dtype` None keeps each tensor's own. Raises `MinemuError` for what is not the checkpoint of `config`, and for a folder that
    holds something else.
    """
    shards, out = Shards(source), Path(out)
    mapping = map_names(shards.shapes, config, keep_lora).require_complete(str(source))
    _write(shards, pieces_of(mapping), out, dtype, max_file_bytes, config=mapping.config.to_dict())
    for name in TOKENIZERS:
        if (shards.source.parent / name).exists():
            with atomic_write(out / name) as temporary:
                shutil.copyfile(shards.source.parent / name, temporary)
    write_json(out / "config.json", {"model_type": "emu", **mapping.config.to_dict()})
    return mapping


def convert_back(
    folder: str | os.PathLike,
    out: str | os.PathLike,
    dtype: torch.dtype | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> int:
    """Write a minemu folder under the published names, LoRA in the style of early peft. Returns the number of tensors."""
    config, out = read_config(Path(folder)), Path(out)
    shards = Shards(folder)
    pieces = {published_name(name, config): Piece(name) for name in shards.where}
    _write(shards, pieces, out, dtype, max_file_bytes, config=config.to_dict(), back=True)
    return len(pieces)


def _record(shards: Shards, **choices: Any) -> dict[str, Any]:
    """What must be the same for an unfinished conversion to go on."""
    files = sorted(set(shards.where.values()))
    stamps = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    return json.loads(json.dumps({**choices, "source": str(shards.source), "files": stamps}))  # as it will be read


def _begin(out: Path, record: dict[str, Any]) -> None:
    """Make `out` ready: new, or left unfinished by the same conversion."""
    if (out / RECORD).exists():
        if (before := read_object(out / RECORD)) != record:
            raise MinemuError(
                f"{out} holds another conversion, of {before.get('source')}; delete it or choose another folder"
            )
        sweep(out)  # what was being written when it was stopped
    elif out.exists() and any(path.name != DECODER_FOLDER for path in out.iterdir()):
        raise MinemuError(f"{out} is not empty; choose another folder for the converted checkpoint")
    else:
        write_json(out / RECORD, record)


def _targets(
    shards: Shards, pieces: dict[str, Piece], dtype: torch.dtype | None
) -> dict[str, tuple[Shape, torch.dtype]]:
    """Shape and type of what will be written, in the order of the input files."""
    order = {name: place for place, name in enumerate(shards.where)}
    targets = {}
    for name in sorted(pieces, key=lambda name: order[pieces[name].source]):
        source = pieces[name].source
        if (
            str(shards.dtypes[source]).removeprefix("torch.") not in DTYPES
            or not shards.dtypes[source].is_floating_point
        ):
            raise MinemuError(
                f"{source} is {shards.dtypes[source]}, so the checkpoint is quantised; convert the unquantised one"
            )
        targets[name] = shards.shapes[source], dtype or shards.dtypes[source]
    return targets


def _write(
    shards: Shards, pieces: dict[str, Piece], out: Path, dtype: torch.dtype | None, max_bytes: int, **choices: Any
) -> None:
    """Write the files that are not there yet, then the index."""
    targets = _targets(shards, pieces, dtype)
    groups = split_by_size(
        {name: math.prod(shape) * kind.itemsize for name, (shape, kind) in targets.items()}, max_bytes
    )
    _begin(out, _record(shards, dtype=str(dtype).removeprefix("torch."), max_file_bytes=max_bytes, **choices))
    files = {f"model-{i:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups, start=1)}
    if len(groups) == 1:
        files = {"model.safetensors": groups[0]}
    for file, names in tqdm(files.items(), desc="convert", unit="file", disable=None):
        if not (out / file).exists():
            write_shard(out / file, {name: targets[name] for name in names}, lambda name: pieces[name].read(shards))
    if len(files) > 1:
        total = sum((out / file).stat().st_size for file in files)
        write_index(out, {name: file for file, names in files.items() for name in names}, total)


def split_by_size(sizes: dict[str, int], limit: int) -> list[list[str]]:
    """Names in order, cut into groups of at most `limit` bytes (a larger tensor gets a group of its own)."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups
