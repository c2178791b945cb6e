"""What every test runs under: no hub, no display, no GPU (recorded losses are of CPUs), one thread (the workers share the cores).

With a GPU: `MINEMU_TEST_GPU=0 pytest tests/test_gpu.py`, where 0 is its number.
"""

import os

os.environ.update(
    HF_HUB_OFFLINE="1",
    CUDA_VISIBLE_DEVICES=os.environ.get("MINEMU_TEST_GPU", ""),
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
)

import pytest
import torch
from hypothesis import settings

from minemu.data.scene import Scene
from minemu.data.world import ToyWorld

settings.register_profile("here", deadline=None, derandomize=True)  # on any machine, however busy, the same examples
settings.load_profile("here")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def shown(monkeypatch) -> list[Scene]:
    """Every scene that is rendered."""
    scenes, paint = [], ToyWorld._paint

    def spy(self, scene):
        scenes.append(scene)
        return paint(self, scene)

    monkeypatch.setattr(ToyWorld, "_paint", spy)
    return scenes
