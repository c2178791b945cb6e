"""What the notebooks share: where a notebook starts, and the checks of its exercises.

    pipe, world = start("emu-tiny")          the shipped checkpoint and scenes that training never showed
    check("01.mask", answer)                 "right: ...", "not yet: what is wrong", or "not done yet: what to write"

The checks of notebook 01 are in `minemu.course.nb01`, and so on. A check asserts, with a message that helps; a test solves every
exercise with the solution that its notebook prints, and tries answers that are nearly right.
"""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Callable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import torch

from minemu.config import EmuConfig
from minemu.data.captions import tokenizer_corpus
from minemu.data.samples import data_dir
from minemu.data.world import ToyWorld
from minemu.errors import MinemuError, suggest
from minemu.loading import device_of
from minemu.model import Emu
from minemu.pipeline import EmuPipeline
from minemu.processor import EmuProcessor
from minemu.tokenizer import train_tokenizer
from minemu.visual_decoder import VisualDecoder

SHIPPED = "emu-tiny"
CHECKPOINT = "MINEMU_CHECKPOINT"  # environment variable: another checkpoint than the shipped one
Check = Callable[[Any], str]
_CHECKS: dict[str, tuple[str, Check]] = {}


class NotDone(Exception):
    """The reader has not written anything yet."""


def start(preset: str = "emu-tiny") -> tuple[EmuPipeline, ToyWorld]:
    """A pipeline on the GPU if there is one, and held-out scenes for it.

    "emu-tiny" is trained (or what the environment variable MINEMU_CHECKPOINT names), and so is "emu-tiny-instruct", the adapter
    beside it; any other preset has random weights.
    """
    if preset.startswith(SHIPPED):
        folder = Path(os.environ.get(CHECKPOINT, data_dir() / SHIPPED))
        pipe = EmuPipeline.from_pretrained(folder.with_name(folder.name + preset.removeprefix(SHIPPED)))
    else:
        pipe = untrained(EmuConfig.preset(preset))
    at = device_of(None)
    # Else a GPU may read ten bits of a number, and cells that compare two ways to compute would not agree.
    if at.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return pipe.to(at), ToyWorld("seen", held_out=True, image_size=pipe.processor.image_size)


def untrained(config: EmuConfig) -> EmuPipeline:
    """All four stages with random weights, and a tokenizer for the toy world's captions."""
    tokenizer = train_tokenizer(tokenizer_corpus(ToyWorld("seen").labels), config.llm.vocab_size)
    processor = EmuProcessor(tokenizer, config.vision.image_size, config.bridge.n_image)
    return EmuPipeline(Emu(config).eval(), processor, VisualDecoder(config.decoder).eval())


def exercise(name: str, task: str) -> Callable[[Check], Check]:
    """Register the check of exercise `name`, "01.mask". It asserts, and returns what the reader has now shown; `task` is its one line."""

    def register(function: Check) -> Check:
        if name in _CHECKS:
            raise MinemuError(f"there are two exercises '{name}'; rename one")
        _CHECKS[name] = (task, function)
        return function

    return register


def check(name: str, answer: Any) -> None:
    """Say whether `answer` solves exercise `name`."""
    task, function = find(name)
    try:
        if answer is None:
            raise NotDone
        print("right:", function(answer))
    except NotDone:
        print("not done yet:", task)
    except AssertionError as wrong:
        print("not yet:", wrong)


def find(name: str) -> tuple[str, Check]:
    """Task and check of an exercise."""
    notebook = name.partition(".")[0]
    try:
        importlib.import_module(f"minemu.course.nb{notebook}")
    except ModuleNotFoundError:
        raise MinemuError(f"no notebook '{notebook}' has exercises; exercise names look like 01.mask") from None
    if name not in _CHECKS:
        own = [known for known in _CHECKS if known.startswith(f"{notebook}.")]
        raise MinemuError(f"notebook {notebook} has no exercise '{name}': {suggest(name, own)}")
    return _CHECKS[name]


def call(function: Callable, *arguments: Any, **named: Any) -> Any:
    """What the reader's function returns; an unwritten one returns None."""
    answer = attempt(function, *arguments, **named)
    if answer is None:
        raise NotDone
    return answer


def attempt(function: Callable, *arguments: Any, **named: Any) -> Any:
    """What the reader's function returns, None too. Its errors are wrong answers; those of a check remain errors."""
    assert callable(function), (
        f"hand over the function itself, not what it returns (here of type {type(function).__name__})"
    )
    try:
        answer = function(*arguments, **named)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)[1:]  # without the line above
        own = [frame.line for frame in frames if frame.filename == frames[0].filename and frame.line]
        told = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
        raise AssertionError(f"your function raised {told}" + (f" (in `{own[-1]}`)" if own else "")) from error
    return answer.cpu() if isinstance(answer, torch.Tensor) else answer


def shaped(mine: Any, shape: Sequence[int], what: str) -> None:
    """Assert that the answer is a tensor of this shape."""
    assert isinstance(mine, torch.Tensor), f"{what} should be a tensor, not {type(mine).__name__}"
    assert mine.shape == tuple(shape), f"the shape of {what} should be {tuple(shape)}, not {tuple(mine.shape)}"


def number(mine: Any, what: str) -> Any:
    """The answer as a number of Python; a tensor that holds one is one."""
    if isinstance(mine, torch.Tensor) and mine.numel() == 1:
        mine = mine.item()
    assert isinstance(mine, Real), f"{what} should be a number, not {type(mine).__name__}"
    return mine


def numbers(mine: Any, count: int, what: str) -> list:
    """The answer, a list or a tensor of `count` numbers, as a list."""
    assert isinstance(mine, (list, tuple)) or (isinstance(mine, torch.Tensor) and mine.ndim == 1), (
        f"{what} should be a list or a tensor of one axis, not {type(mine).__name__}"
    )
    assert len(mine) == count, f"{what} should have {count} entries, not {len(mine)}"
    return [number(one, f"each entry of {what}") for one in mine]


def same(mine: torch.Tensor, wanted: torch.Tensor, what: str, tolerance: float = 1e-4) -> None:
    """Assert that two tensors agree, and say in words where they do not."""
    shaped(mine, wanted.shape, what)
    if wanted.dtype == torch.bool:
        assert mine.dtype == torch.bool, f"{what} should be boolean, not {mine.dtype}"
        wrong = int((mine != wanted).sum())
        assert wrong == 0, f"{wrong} of {wanted.numel()} entries of {what} differ"
        return
    error = (mine.double() - wanted.double()).abs().max().item()
    assert error <= tolerance, f"{what} is off by up to {error:.3g}"
