"""Checks of notebook 06, pretraining."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from types import SimpleNamespace

from minemu.config import EmuConfig
from minemu.course import attempt, call, exercise, number
from minemu.data.mixture import Mixture, MixtureConfig, toy_mixture
from minemu.data.world import ToyWorld
from minemu.model import Emu
from minemu.training.emu import EmuStage
from minemu.training.loop import TrainConfig, lr_factor

MIXTURES = (MixtureConfig(), MixtureConfig(labels=2, scenes=14), MixtureConfig(labels=1, scenes=3, interleaved=0))
PAPER = TrainConfig(lr=3e-5, lr_vision=4e-5, lr_bridge=1e-4)


@exercise(
    "06.place", "write place(index, names_of): the source of document `index`, and the document's number within it"
)
def place(mine: Callable) -> str:
    world, told = ToyWorld("seen"), 0
    for config in MIXTURES:
        mixture = toy_mixture(world, config)
        size = sum(mixture.weights.values())
        for index in (*range(2 * size), 7 * size + 3, 1000 * size - 1):
            answer = call(mine, index, lambda block, m=mixture: names_of(m, block))
            wanted = mixture.place(index)
            assert isinstance(answer, tuple) and len(answer) == 2, "return two things: the source's name and a number"
            assert answer[0] == wanted[0], (
                f"document {index}, blocks of {size}: it comes from '{wanted[0]}', not '{answer[0]}'"
            )
            assert answer[1] == wanted[1], (
                f"document {index}, blocks of {size}, source '{wanted[0]}': it is number {wanted[1]} there, not {answer[1]}"
            )
            told += 1
    return f"{told} documents of {len(MIXTURES)} mixtures are where the package finds them"


def names_of(mixture: Mixture, block: int) -> list[str]:
    """The sources of the documents of one block, in order."""
    size = sum(mixture.weights.values())
    return [mixture.place(index)[0] for index in range(block * size, (block + 1) * size)]


@exercise("06.schedule", "write share(step, warmup, steps, final): the share of the peak rate at a step")
def schedule(mine: Callable) -> str:
    shapes = ((10_000, 2_000, 0.0), (1000, 100, 0.05), (60, 1, 0.1))
    for steps, warmup, final in shapes:
        config = TrainConfig(steps=steps, warmup=warmup, final_lr=final)
        for step in (0, warmup - 1, warmup, (warmup + steps) // 2, steps - 1):
            answer, wanted = number(call(mine, step, warmup, steps, final), "the share"), lr_factor(step, config)
            assert abs(answer - wanted) < 1e-6, (
                f"step {step} of {steps}, warm-up {warmup}, final {final}: the share is {wanted:.6f}, not {answer:.6f}"
            )
    return f"the same rates as the package's in {len(shapes)} schedules, at their corners and between"


@exercise("06.rates", "write rate_of(name, config): the peak learning rate of the parameter called `name`")
def rates(mine: Callable) -> str:
    modules = [Emu(EmuConfig.preset(preset)) for preset in ("emu-nano", "emu2-nano")]
    configs = (PAPER, TrainConfig(), TrainConfig(lr=1e-3, lr_vision=0.0, lr_bridge=0.0))
    for module, config in product(modules, configs):
        wanted = EmuStage.parameter_lrs(SimpleNamespace(module=module), config)
        for name, parameter in module.named_parameters():
            found = (call if config is PAPER else attempt)(mine, name, config)  # later None is an answer, a wrong one
            answer = number(found, f"the rate of {name} with lr_vision={config.lr_vision}")
            assert answer == wanted[parameter], (
                f"{name} with lr={config.lr}, lr_vision={config.lr_vision}, lr_bridge={config.lr_bridge}: "
                f"the rate is {wanted[parameter]}, not {answer}"
            )
    return f"every parameter has its rate in {len(configs)} configurations, the paper's among them"
