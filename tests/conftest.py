"""What every test runs under: no hub, no display, no GPU (recorded losses are of CPUs), one thread (the workers share the cores).

With a GPU: `MINEMU_TEST_GPU=0 pytest tests/test_gpu.py`, where 0 is its number.
"""

import os
from collections.abc import Iterator

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

from minemu.config import EmuConfig
from minemu.data import samples
from minemu.data import world as world_module
from minemu.data.captions import tokenizer_corpus
from minemu.data.scene import Scene
from minemu.data.world import ToyWorld
from minemu.processor import EmuProcessor
from minemu.tokenizer import train_tokenizer
from minemu.training import recipe

settings.register_profile("here", deadline=None, derandomize=True)  # on any machine, however busy, the same examples
settings.load_profile("here")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def texts_are_made_once() -> Iterator[None]:
    """What a tokenizer and a language model learn from follows from the world alone, and takes seconds."""
    made, make = {}, recipe.corpus

    def once(world: ToyWorld, each: int = 200) -> list[str]:
        key = (type(world), world.split, world.core, world.seed, world.image_size, world.kinds, world.held_out, each)
        if key not in made:
            made[key] = make(world, each)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "corpus", once)
        yield


@pytest.fixture(scope="session")
def processor() -> EmuProcessor:
    """Of the nano models: a tokenizer of the toy world's captions, pictures of 32 pixels, four embeddings each."""
    config = EmuConfig.preset("emu-nano")
    tokenizer = train_tokenizer(tokenizer_corpus(ToyWorld().labels), config.llm.vocab_size)
    return EmuProcessor(tokenizer, config.vision.image_size, config.bridge.n_image)


@pytest.fixture
def shown(monkeypatch) -> list[Scene]:
    """Every scene that is rendered."""
    scenes, paint = [], ToyWorld._paint

    def spy(self, scene, **how):
        scenes.append(scene)
        return paint(self, scene, **how)

    monkeypatch.setattr(ToyWorld, "_paint", spy)
    return scenes


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The splits whose files are opened, in order."""
    names, load = [], samples.load_emoji

    def spy(split, core=None):
        names.append(split)
        return load(split, core)

    monkeypatch.setattr(samples, "load_emoji", spy)
    world_module._drawings.cache_clear()
    return names
