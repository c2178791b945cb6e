"""Checks of notebook 10, instruction tuning."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from types import SimpleNamespace

import torch

from minemu.config import EmuConfig
from minemu.course import call, exercise, number, numbers, same, shaped
from minemu.sequence import IGNORE, TokenIds
from minemu.tokenizer import ASSISTANT
from minemu.training.instruct import InstructStage

IDS = TokenIds(bos=1, eos=2, pad=90, image_start=91, image_end=92, image=93)
USER_ID, OPENS, COLON = 94, 95, 7
COLONS = ([COLON], [COLON, 8])  # a tokenizer may cut ":" in two
TALKS = (  # system message, question, answer, twice; a cut one; a question alone
    [1, 30, 31, USER_ID, 7, 40, 41, OPENS, 7, 50, 51, 2, USER_ID, 7, 42, OPENS, 7, 52, 2],
    [1, USER_ID, 7, 91, 93, 93, 92, 40, OPENS, 7, 53, 54, 55],
    [1, USER_ID, 7, 40, 41, 42],
)


@exercise("10.answers", "write answers(row, opens, skip, eos): for each id of a row, whether it has to be said")
def answers(mine: Callable) -> str:
    for talk, colon in product(TALKS, COLONS):
        row = [i for token in talk for i in (colon if token == COLON else [token])]
        processor = SimpleNamespace(ids=IDS, special={ASSISTANT: OPENS}, encode=lambda text, colon=colon: colon)
        wanted = (
            InstructStage.answers(SimpleNamespace(processor=processor), torch.tensor([row]))[0] != IGNORE
        ).tolist()
        found = numbers(call(mine, list(row), OPENS, len(colon), IDS.eos), len(row), "what has to be said")
        for place, (said, right) in enumerate(zip(found, wanted, strict=True)):
            what = "</s>" if row[place] == IDS.eos else f"id {row[place]}"
            assert said == right, (
                f"in {row}, opened by {OPENS}: {what} at place {place} {'has to be said' if right else 'is only read'}"
            )
    return f"answers and the </s> after each, in {len(TALKS)} conversations, one of them cut off"


@exercise("10.count", "write count(config, rank): how many numbers the adapters of an LLM have")
def count(mine: Callable) -> str:
    for name, rank in (("emu-nano", 4), ("emu-tiny", 16), ("emu-14b", 16)):
        config = EmuConfig.preset(name).llm
        wanted = config.layers * 4 * rank * 2 * config.width
        found = number(call(mine, config, rank), "the count")
        assert found == wanted, (
            f"{name}, rank {rank}: {config.layers} layers of 4 matrices {config.width} x {config.width}, "
            f"each with an A and a B, make {wanted:,}, not {found:,}"
        )
    return f"{wanted:,} numbers for Emu-I at full size"


@exercise("10.unmerge", "write unmerged(weight, merged): A and B, as thin as can be, with merged = weight + B @ A")
def unmerge(mine: Callable) -> str:
    draw = torch.Generator().manual_seed(0)
    sizes = ((8, 8, 2), (12, 6, 3), (6, 10, 1))
    for outputs, inputs, rank in sizes:
        weight, a, b = (
            torch.randn(shape, generator=draw) for shape in ((outputs, inputs), (rank, inputs), (outputs, rank))
        )
        found = call(mine, weight.clone(), weight + b @ a)
        assert isinstance(found, (tuple, list)) and len(found) == 2, "two matrices are wanted: A and B"
        of = f"for a weight of shape ({outputs}, {inputs})"
        for factor, name in zip(found, "AB", strict=True):
            assert isinstance(factor, torch.Tensor) and factor.ndim == 2, f"{name} should be a matrix"
        shaped(found[0], (len(found[0]), inputs), f"A {of}")
        shaped(found[1], (outputs, len(found[0])), f"B {of}, where A has {len(found[0])} rows,")
        same(found[1] @ found[0], b @ a, f"B @ A {of}", tolerance=1e-3)
        assert len(found[0]) == rank, f"{of} {rank} rows of A are enough, not {len(found[0])}"
    return f"adapters of ranks {', '.join(str(rank) for *_, rank in sizes)} found again in the merged weights"
