"""Weights of ours on disk: safetensors only, loaded strictly. The one place where a state dict meets a model."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minemu.errors import MinemuError
from minemu.shards import INDEX, Shards, refuse_pointer


def save_tensors(
    tensors: dict[str, Tensor], path: Path, dtype: torch.dtype | None = None, metadata: dict[str, str] | None = None
) -> None:
    """Write tensors; `dtype` converts the floating-point ones, to half the size with float16. OSError where there is no room."""
    plain = {name: _plain(tensor, dtype) for name, tensor in tensors.items()}
    storages: set[int] = set()
    for name, tensor in plain.items():
        if (storage := tensor.untyped_storage().data_ptr()) in storages:
            plain[name] = tensor.clone()  # safetensors refuses tensors that share memory, as tied weights do
        storages.add(storage)
    path = Path(path)
    path.touch()
    mode = path.stat().st_mode  # as any file here gets it; the library's could be read by its owner alone
    try:
        save_file(plain, path, metadata)
    except SafetensorError as error:  # what the library makes of a full disk
        raise OSError(str(error)) from error
    path.chmod(mode)


def _plain(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach().cpu()
    return (tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor).contiguous()


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file; a missing or truncated one is one clear line."""
    try:
        refuse_pointer(Path(path))
        return load_file(path)
    except (FileNotFoundError, SafetensorError, OSError) as error:
        reason = "missing" if not Path(path).exists() else f"damaged ({error})"
        raise MinemuError(f"{path} is {reason}: fetch or copy it again") from None


def load_folder(folder: Path) -> dict[str, Tensor]:
    """Tensors of a folder: its model.safetensors, or several files with an index. They are mapped, not read, until they are copied."""
    if not (folder / INDEX).exists():
        return load_tensors(folder / "model.safetensors")
    shards = Shards(folder / INDEX)
    return {name: shards.read(name) for name in shards.where}


def part_of(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of the submodule `name`, under their names inside it."""
    return {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}


def load_strict(module: nn.Module, tensors: dict[str, Tensor], what: str) -> None:
    """Load every tensor into its place; a missing, unexpected or misshapen one is an error that names it."""
    check_strict(module, tensors, what)
    module.load_state_dict(tensors)


def check_strict(module: nn.Module, tensors: dict[str, Tensor], what: str) -> None:
    """Refuse tensors that are not exactly those of the module, by name and shape; the module may be on the meta device."""
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    wrong = sorted(name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape)
    if wrong:
        name = wrong[0]
        raise MinemuError(
            f"{what}: {name} has shape {tuple(tensors[name].shape)} but this configuration needs {tuple(own[name].shape)} "
            f"({len(wrong)} such); it is a checkpoint of another preset, load it with its own config.json"
        )
    if missing or unexpected:
        example = f"missing {missing[0]}" if missing else f"unexpected {unexpected[0]}"
        raise MinemuError(
            f"{what}: {len(missing)} tensors missing and {len(unexpected)} unexpected (first: {example}); "
            "it is a checkpoint of another preset or of another version"
        )
