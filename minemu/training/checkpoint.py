"""Exact training checkpoints: everything a step depends on, in safetensors and JSON, never pickle.

What a step draws at random is a function of (seed, step) and so is its batch (see `loop.py`), so the step number *is* the state
of the data and of every random generator; weights, optimizer moments and the moving average are tensors.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minemu.errors import MinemuError
from minemu.files import atomic_dir, atomic_write, read_json, write_json
from minemu.weights import load_strict, load_tensors, save_tensors

KEEP = 2  # checkpoints of a stage that stay on disk
LEFT_BY = {  # what later stages read of a finished one; `emu` leaves a checkpoint as `Emu.save_pretrained` does, and so does `imagine`
    "encoder": "contrastive.safetensors",
    "bridge": "bridge.safetensors",
    "language": "llm.safetensors",
    "imagine": "model.safetensors",
    "codec": "codec.safetensors",
    "sketch": "sketch.safetensors",
}


def leave(stage: str, folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write to the stage's folder what it has learnt."""
    with atomic_write(folder / LEFT_BY[stage]) as temporary:
        save_tensors(state, temporary)


def left_by(stage: str, root: Path) -> dict[str, Tensor]:
    """What a stage has left in the run folder `root`."""
    return load_tensors(root / stage / LEFT_BY[stage])


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`, or None. Half-written ones carry another name and are never seen."""
    found = sorted(folder.glob("step-*"), key=lambda path: int(path.name.split("-")[1]))
    return found[-1] if found else None


def save(
    folder: Path,
    step: int,
    module: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    average: dict[str, Tensor],
    meta: dict[str, Any],
) -> Path:
    """Write `folder/step-N`, whole or not at all, and drop the oldest ones."""
    path = folder / f"step-{step:07d}"
    with atomic_dir(path) as temporary:
        save_tensors(module.state_dict(), temporary / "model.safetensors")
        save_tensors(_optimizer_tensors(optimizers), temporary / "optimizer.safetensors")
        if average:
            save_tensors(average, temporary / "average.safetensors")
        write_json(temporary / "meta.json", {"step": step, **meta})
    for old in sorted(folder.glob("step-*"))[:-KEEP]:
        shutil.rmtree(
            old.rename(folder / f".{old.name}.tmp")
        )  # first out of sight: a kill leaves no half checkpoint, and `sweep` removes the rest
    return path


def load(
    path: Path, module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], average: dict[str, Tensor]
) -> dict[str, Any]:
    """Restore everything that `save` wrote and return its meta data."""
    meta = read_json(path / "meta.json")
    try:
        weights, moments = load_tensors(path / "model.safetensors"), load_tensors(path / "optimizer.safetensors")
        averaged = load_tensors(path / "average.safetensors") if average else {}
    except MinemuError as error:
        raise MinemuError(f"{error}, or delete {path} to go on from the checkpoint before it") from None
    load_strict(module, weights, str(path))
    _load_optimizers(optimizers, moments, path)
    for name, tensor in averaged.items():
        average[name].copy_(tensor)
    return meta


def _states(optimizers: Sequence[torch.optim.Optimizer]) -> list[tuple[nn.Parameter, dict[str, Tensor]]]:
    """Each parameter with what its optimizer remembers of it, in their order."""
    return [
        (parameter, optimizer.state[parameter])
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]


def _optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    return {
        f"{index}.{key}": value for index, (_, state) in enumerate(_states(optimizers)) for key, value in state.items()
    }


def _load_optimizers(optimizers: Sequence[torch.optim.Optimizer], tensors: dict[str, Tensor], path: Path) -> None:
    states = _states(optimizers)
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        if int(index) >= len(states):
            raise MinemuError(
                f"{path}: the optimizer has {len(states)} parameters but the file knows of number {index}; "
                "the stage was changed, start it afresh"
            )
        parameter, state = states[int(index)]
        state[key] = tensor.to(parameter.device)
