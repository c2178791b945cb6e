"""The toy world as data sets: samples by number, a PyTorch data set, a Hugging Face data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import Dataset

from minemu.data.world import Sample, ToyWorld

if TYPE_CHECKING:
    import datasets


def batch_samples(world: ToyWorld, start: int, count: int) -> list[Sample]:
    """Samples start ... start + count - 1: pure, so a run resumes at a sample number and needs no saved iterator."""
    return [world.sample(i) for i in range(start, start + count)]


def pixels_of(samples: list[Sample]) -> Tensor:
    """uint8 (B, S, S, 3)."""
    return torch.stack([torch.from_numpy(sample.pixels) for sample in samples])


@dataclass(frozen=True)
class CaptionDataset(Dataset):
    """`length` samples of a world from number `start` on; give the loader `collate_fn=list`."""

    world: ToyWorld
    length: int
    start: int = 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if not -self.length <= index < self.length:
            raise IndexError(f"sample {index} of a data set of {self.length}")
        return self.world.sample(self.start + index % self.length)


def as_hf_dataset(world: ToyWorld, n: int, start: int = 0) -> datasets.Dataset:
    """`n` samples with columns image, caption, prompt, labels, boxes (x0, y0, x1, y1 in pixels), background, style."""
    import datasets

    features = datasets.Features(
        {
            "image": datasets.Image(),
            "caption": datasets.Value("string"),
            "prompt": datasets.Value("string"),
            "labels": datasets.List(datasets.Value("string")),
            "boxes": datasets.List(datasets.List(datasets.Value("int32"))),
            "background": datasets.Value("string"),
            "style": datasets.Value("string"),
        }
    )
    rows = [
        {
            "image": sample.picture,
            "caption": sample.caption,
            "prompt": sample.prompt,
            "labels": [box[0] for box in sample.boxes],
            "boxes": [list(box[1:]) for box in sample.boxes],
            "background": sample.scene.background,
            "style": sample.scene.style,
        }
        for sample in batch_samples(world, start, n)
    ]
    return datasets.Dataset.from_list(rows, features=features)
