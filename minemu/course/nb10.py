"""Checks of notebook 10, instruction tuning."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch

from minemu.config import EmuConfig
from minemu.course import call, exercise, number, numbers, same
from minemu.sequence import IGNORE, TokenIds
from minemu.tokenizer import ASSISTANT
from minemu.training.instruct import InstructStage

IDS = TokenIds(bos=1, eos=2, pad=90, image_start=91, image_end=92, image=93)
USER_ID, OPENS, COLON = 94, 95, [7]
TALKS = (  # system message, question, answer, twice; a cut one; a question alone
    [1, 30, 31, USER_ID, 7, 40, 41, OPENS, 7, 50, 51, 2, USER_ID, 7, 42, OPENS, 7, 52, 2],
    [1, USER_ID, 7, 91, 93, 93, 92, 40, OPENS, 7, 53, 54, 55],
    [1, USER_ID, 7, 40, 41, 42],
)


@exercise("10.answers", "write answers(row, opens, skip, eos): for each id of a row, whether it has to be said")
def answers(mine: Callable) -> str:
    processor = SimpleNamespace(ids=IDS, special={ASSISTANT: OPENS}, encode=lambda text: COLON)
    for row in TALKS:
        wanted = (
            InstructStage.answers(SimpleNamespace(processor=processor), torch.tensor([row]))[0] != IGNORE
        ).tolist()
        found = numbers(call(mine, list(row), OPENS, len(COLON), IDS.eos), len(row), "what has to be said")
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


@exercise("10.merge", "write merged(weight, a, b, alpha): one matrix that does what W and its adapter do")
def merge(mine: Callable) -> str:
    draw = torch.Generator().manual_seed(0)
    for outputs, inputs, rank, alpha in ((8, 8, 2, 16.0), (12, 6, 3, 3.0)):
        weight, a, b, x = (
            torch.randn(shape, generator=draw)
            for shape in ((outputs, inputs), (rank, inputs), (outputs, rank), (5, inputs))
        )
        found = call(mine, weight.clone(), a, b, alpha)
        same(found, weight + alpha / rank * b @ a, f"the merged matrix (rank {rank}, alpha {alpha:g})")
        same(x @ found.T, x @ weight.T + alpha / rank * (x @ a.T) @ b.T, "its output", tolerance=1e-3)
    return "one matrix, the same outputs, and nothing more to compute"
