"""What a task is run on, what comes of it, and how a task is described.

Every score stands beside three others:
    chance       what a guess among all answers would get
    blind        what is right about another sample: the answers against its truth, or the question asked about its picture. A model
                 that tells the truth about that other picture is wrong by it, so blind may fall below chance
    upper_bound  for pictures, the judge's rate on the real pictures of the same scenes. Pictures are scored as a share of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count, islice
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from minemu.data.world import Sample, ToyWorld
from minemu.evaluation.judge import Judge
from minemu.evaluation.metrics import rate, ratio_interval, wilson

if TYPE_CHECKING:
    from minemu.pipeline import EmuPipeline

SHOWN = 8  # answers that are kept for a reader


@dataclass(frozen=True)
class Result:
    """One measurement. `score` is between 0 and 1; `blind` and `chance` are in its unit."""

    task: str
    split: str
    n: int
    seed: int
    score: float
    chance: float
    blind: float
    upper_bound: float
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Question:
    """What a task is run on."""

    pipe: EmuPipeline
    task: str
    split: str
    n: int
    seed: int
    judge: Judge | None = None
    shots: int = 0

    def world(self, kinds: Sequence[str] | None = None) -> ToyWorld:
        """Samples of the split that training never shows."""
        held_out, size = self.split == "seen", self.pipe.processor.image_size
        return ToyWorld(self.split, seed=self.seed, kinds=kinds, held_out=held_out, image_size=size)

    def samples(self, kind: str) -> tuple[ToyWorld, list[Sample]]:
        """The first n + 1 samples of a kind that training never shows (of pairs, those with two drawings).

        Answers are asked for the first n; the last one is the neighbour that the n-th is scored against for `blind`.
        """
        world = self.world((kind,))
        scenes = ((i, world.scene(i)) for i in count())
        wanted = (i for i, scene in scenes if all(group.count == 1 for group in scene.groups))
        return world, [world.sample(i) for i in islice(wanted, self.n + 1)]

    def result(
        self, right: list[bool], chance: float, blind: list[bool], real: list[bool] | None = None, **details: Any
    ) -> Result:
        """Scores as they are, or as a share of the rate `real` that real pictures reach."""
        bound = rate(real) if real is not None else 1.0
        share = lambda value: min(1.0, value / bound) if bound else 0.0  # noqa: E731
        interval = wilson(right) if real is None else ratio_interval(right, real)
        return Result(
            self.task, self.split, self.n, self.seed, share(rate(right)), share(chance), share(rate(blind)), bound,
            {"rate": rate(right), "interval": list(interval), **details},
        )  # fmt: skip

    def batches(self, items: Sequence[Any], size: int) -> Any:
        chunks = [items[i : i + size] for i in range(0, len(items), size)]
        return tqdm(chunks, desc=f"{self.task} {self.split}", unit="batch", leave=False)


@dataclass(frozen=True)
class Task:
    """One line of `minemu evaluate --list`. Without `run` it is not trained yet in any checkpoint.

    judge   makes the judge of its pictures
    needs   one of these sources a checkpoint must have been trained on (see `tasks.trained_on`)
    shots   how many examples stand in the prompt unless --shots says otherwise: the last of these; --all takes each. ():
            it takes none
    most    how many samples there are, where their number is limited
    """

    about: str
    splits: tuple[str, ...] = ()
    n: int = 200
    run: Callable[[Question], Result] | None = None
    judge: Callable[[], Judge] | None = None
    needs: tuple[str, ...] = ()
    shots: tuple[int, ...] = ()
    most: Callable[[], int] | None = None
