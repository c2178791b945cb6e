"""Checkpoints of one or several files, read and written tensor by tensor: a model far larger than memory passes through.

Read: .safetensors; .pt, .pth, .bin (memory-mapped, and never unpickled: `weights_only=True`); several files with an index json; a
dictionary wrapped in another, `{"module": ...}`. Written: safetensors, one file or several with an index.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from minemu.errors import MinemuError
from minemu.files import atomic_write, read_json, read_object, write_json

INDEX = "model.safetensors.index.json"
POINTER = b"version https://git-lfs"  # what a clone without git-lfs has in place of a file
RECORD = "conversion.json"  # what a converted folder is made from; stays in it
TORCH_SUFFIXES = (".pt", ".pth", ".bin")
WRAPPERS = ("module", "state_dict", "model")
DTYPES = {  # torch's names; safetensors' names
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "uint8": "U8",
    "bool": "BOOL",
}


class Shards:
    """The tensors of a checkpoint by name. Only one file is open at a time, and only what is asked for is read.

    `source` is a file, an index json, or a folder with either. Raises `MinemuError` for what is missing, damaged, or no checkpoint.
    """

    def __init__(self, source: str | os.PathLike):
        self.source = find_checkpoint(Path(source))
        self.where: dict[str, Path] = {}  # name -> file, in the order of the files
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self._open: tuple[Path, Any] | None = None
        promised = _read_index(self.source) if self.source.suffix == ".json" else None
        for file in sorted(set(promised.values())) if promised else [self.source]:
            for name, tensor in self._tensors(file):
                if promised and promised.get(name) != file:
                    continue  # some published shards repeat a tensor; the index says which copy counts
                self.where[name], self.shapes[name], self.dtypes[name] = file, tuple(tensor.shape), tensor.dtype
        if promised and (lost := sorted(promised.keys() - self.where.keys())):
            raise MinemuError(
                f"{promised[lost[0]]} lacks {lost[0]}, which {self.source.name} promises; fetch that file again"
            )

    def read(self, name: str) -> Tensor:
        """One tensor; it may share the memory map of its file."""
        return self._file(self.where[name])[name]

    def _file(self, path: Path) -> Any:
        if self._open is None or self._open[0] != path:
            self._open = None  # the file before this one is closed first
            refuse_pointer(path)
            self._open = path, _SafetensorsFile(path) if path.suffix == ".safetensors" else _load_torch(path)
        return self._open[1]

    def _tensors(self, path: Path) -> Iterable[tuple[str, Tensor]]:
        for name, tensor in self._file(path).items():
            if not isinstance(tensor, Tensor):
                raise MinemuError(
                    f"{path} holds a {type(tensor).__name__} under '{name}': it is no state dict; save only that"
                )
            yield name, tensor


class _SafetensorsFile:
    """A safetensors file as a mapping; `items` gives tensors on the meta device, for their shapes and types."""

    def __init__(self, path: Path):
        try:
            self.file = safe_open(path, "pt")
        except (SafetensorError, OSError) as error:
            raise _damaged(path, error) from None
        self.path = path

    def __getitem__(self, name: str) -> Tensor:
        return self.file.get_tensor(name)

    def items(self) -> Iterable[tuple[str, Tensor]]:
        torch_names = {theirs: getattr(torch, ours) for ours, theirs in DTYPES.items()}
        for name in self.file.keys():  # noqa: SIM118 (no mapping)
            part = self.file.get_slice(name)
            if part.get_dtype() not in torch_names:
                raise MinemuError(
                    f"{self.path} holds {name} as {part.get_dtype()}, an unknown dtype; convert it to one of {', '.join(torch_names)}"
                )
            yield name, torch.empty(part.get_shape(), dtype=torch_names[part.get_dtype()], device="meta")


def _load_torch(path: Path) -> dict[str, Tensor]:
    """A file of `torch.save`, mapped rather than read; its state dict, whatever it is wrapped in."""
    try:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            content = torch.load(path, map_location="cpu", weights_only=True)  # the format before torch 1.6
    except FileNotFoundError:
        raise
    except Exception as error:  # truncated archives and forbidden objects raise many kinds
        if "Unsupported" in str(error) or "weights_only" in str(error):
            raise MinemuError(
                f"{path} holds more than tensors, or is no checkpoint, and nothing is ever unpickled here; "
                "save its state dict as safetensors"
            ) from None
        raise _damaged(path, error) from None
    while isinstance(content, dict):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            return content
        content = inner
    raise MinemuError(f"{path} holds a {type(content).__name__}, no state dict; save model.state_dict() in it")


def _damaged(path: Path, error: Exception) -> MinemuError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return MinemuError(f"{path} is damaged or truncated ({reason}); fetch it again")


def refuse_pointer(path: Path) -> None:
    """A clone without git-lfs has a few lines of text in place of each large file."""
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise MinemuError(f"{path} is a pointer of git-lfs, not the file itself; fetch that with: git lfs pull")


def find_checkpoint(path: Path) -> Path:
    """The file that a path means: itself, or in a folder its index, or its only weights file."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise MinemuError(f"there is no checkpoint {path}; check the path")
    if indices := sorted(path.glob("*.index.json")):
        return indices[0]
    weights = sorted(file for file in path.iterdir() if file.suffix in (".safetensors", *TORCH_SUFFIXES))
    if len(weights) != 1:
        found = f"{len(weights)} weights files and no index" if weights else "no weights file"
        raise MinemuError(f"{path} has {found}; name one file, or add the checkpoint's *.index.json")
    return weights[0]


def _read_index(path: Path) -> dict[str, Path]:
    """Name -> file of a sharded checkpoint; a shard that is not there is named."""
    index = read_object(path).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise MinemuError(f"{path} has no weight_map, so it is no index of a checkpoint; fetch it again")
    if strange := [name for name, file in index.items() if not isinstance(file, str)]:
        raise MinemuError(f"{path} names no file for {strange[0]} in its weight_map; fetch it again")
    files = {name: path.parent / file for name, file in index.items()}
    for file in sorted(set(files.values())):
        if not file.exists():
            raise MinemuError(f"the shard {file} is missing, which {path.name} names; fetch it too")
    return files


def read_table(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of a checkpoint, or of a table that says so in JSON."""
    if path.suffix != ".json" or path.name.endswith(".index.json"):
        return Shards(path).shapes
    table = read_json(path)
    if not isinstance(table, dict) or not all(
        isinstance(shape, list) and all(isinstance(size, int) for size in shape) for shape in table.values()
    ):
        raise MinemuError(f"{path} is no table of names and shapes; it should read {{'name': [size, ...], ...}}")
    return {name: tuple(shape) for name, shape in table.items()}


def write_shard(
    path: Path, tensors: dict[str, tuple[tuple[int, ...], torch.dtype]], read: Callable[[str], Tensor]
) -> None:
    """Write a safetensors file, atomically, with one tensor in memory at a time. tensors: name -> shape, dtype."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, (shape, dtype) in tensors.items():
        stop = start + math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": DTYPES[str(dtype).removeprefix("torch.")],
            "shape": list(shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8 bytes
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, (_, dtype) in tensors.items():
            data = read(name).to(dtype).contiguous().reshape(-1)
            file.write(data.view(torch.uint8).numpy().data)


def write_index(folder: Path, where: dict[str, str], total_bytes: int) -> None:
    """Name -> file of a sharded folder, as transformers writes it."""
    write_json(folder / INDEX, {"metadata": {"total_size": total_bytes}, "weight_map": where})
