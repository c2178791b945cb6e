"""Batches made ahead of the training: by a thread beside it or, where a GPU waits for them, by processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset

from minemu.errors import MinemuError

if TYPE_CHECKING:
    from minemu.training.loop import Stage

AHEAD = 4  # batches that each process has ready


class Batches(Dataset):
    """A stage's micro batches by number, for processes."""

    def __init__(self, stage: Stage):
        self.stage = stage

    def __getitem__(self, index: int) -> Any:
        try:
            return self.stage.batch(index)
        except MinemuError as error:  # raised here it would come with the process's whole traceback in its text
            return error


def read_ahead(stage: Stage, first: int, end: int, workers: int = 0) -> Iterator[Any]:
    """Micro batches `first` to `end` of a stage, in order: the same with any number of `workers`, as each follows from its number."""
    if first >= end:
        return
    if workers and "fork" not in multiprocessing.get_all_start_methods():
        raise MinemuError("--workers needs processes that fork, which this system does not know: leave it out")
    if workers and stage.forks:
        # Forked, so that nothing is copied; they do not touch a GPU. With a generator of its own, for its seed is drawn from one.
        loader = DataLoader(
            Batches(stage), batch_size=None, sampler=range(first, end), num_workers=workers, prefetch_factor=AHEAD,
            multiprocessing_context="fork", generator=torch.Generator(),
        )  # fmt: skip
        for batch in loader:
            if isinstance(batch, MinemuError):
                raise batch
            yield batch
        return
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(stage.batch, first)
        for index in range(first + 1, end + 1):
            batch = ahead.result()
            if index < end:
                ahead = reader.submit(stage.batch, index)
            yield batch
