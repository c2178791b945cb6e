"""The one training loop. Every stage is a `Stage`; what differs between stages is in its `batch` and its `loss`.

Batch number i is a pure function of i, of the world's seed and, with a mixture, of the stage's; the random generator is set from
(stage's seed, step) before each step. So a run that was killed and resumed does the very same arithmetic as one that was not, and
ends with the same bits (on a CPU; the sums of a GPU have no fixed order).
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from minemu.errors import MinemuError
from minemu.training import checkpoint
from minemu.training.ahead import read_ahead
from minemu.training.machine import bfloat16_cost, peak_memory_gb
from minemu.training.muon import Muon
from minemu.training.run import RunLog


@dataclass(frozen=True)
class TrainConfig:
    """How one stage is trained."""

    steps: int = 1000
    restarts: tuple[int, ...] = ()  # steps at which the schedule begins anew: how a finished run is lengthened
    batch_size: int = 64  # pictures, texts or documents a micro step
    accumulate: int = 1  # micro steps an update
    lr: float = 1e-3
    lr_vision: float | None = None  # None: lr; 0: frozen. The paper: ViT 4e-5, Causal Transformer 1e-4, LLaMA 3e-5
    lr_bridge: float | None = None
    only: str = ""  # of stages `imagine` and `emu`: the one module that learns, such as llm.lm_head; empty: all
    warmup: int = 100
    final_lr: float = 0.05  # share of lr at the last step, reached along a cosine
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    weight_decay: float = 0.05
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: for the matrices of repeated blocks, AdamW for the rest
    clip: float = 1.0
    # bfloat16: autocast, and in Muon; weights and moments stay float32.
    precision: Literal["float32", "bfloat16"] = "float32"
    ema_decay: float | None = None
    checkpoint_every: int = 200
    log_every: int = 20
    preview_every: int = 0  # steps between sample pictures; 0: none
    seed: int = 0

    def __post_init__(self) -> None:
        least = {
            "batch_size": 1,
            "accumulate": 1,
            "checkpoint_every": 1,
            "log_every": 1,
            "steps": 0,
            "warmup": 0,
            "preview_every": 0,
            "seed": 0,
        }
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise MinemuError(
                    f"the training setting {name}={getattr(self, name)} is too small: give {bound} or more"
                )
        for name in ("lr", "eps", "clip", "lr_vision", "lr_bridge", "weight_decay", "final_lr"):
            if not math.isfinite(getattr(self, name) or 0):
                raise MinemuError(f"the training setting {name}={getattr(self, name)} is not finite: give a number")
        for name in ("lr", "eps", "clip"):
            if getattr(self, name) <= 0:
                raise MinemuError(f"the training setting {name}={getattr(self, name)} is too small: give more than 0")
        for name in ("lr_vision", "lr_bridge", "weight_decay", "final_lr"):
            if (getattr(self, name) or 0) < 0:
                raise MinemuError(f"the training setting {name}={getattr(self, name)} is negative: give 0 or more")
        for name in ("beta1", "beta2", "ema_decay"):
            if not 0 <= (getattr(self, name) or 0) < 1:
                raise MinemuError(
                    f"the training setting {name}={getattr(self, name)} is no share: give 0 or more, below 1"
                )
        if list(self.restarts) != sorted(set(self.restarts)):
            raise MinemuError(
                f"the training setting restarts={self.restarts} should rise: give each step once, in order"
            )


SLOW_BFLOAT16 = 2.0  # times float32: without instructions for it a processor may take 85 or 400
PLAIN = (SDPBackend.MATH,)  # on CPUs the backward pass of the fused attention is slow at toy lengths
FUSED = (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH)  # for long rows, and where much has no backward pass


class Stage:
    """What the loop needs to know of a stage. Subclasses fill these in."""

    name: str
    module: nn.Module  # holds all that is trained; `parameter_lrs` may freeze parts of it
    terms: Mapping[str, float] = {"loss": 1.0}  # of what `loss` gives, what is learnt from, and its weight
    attention: tuple[SDPBackend, ...] = PLAIN  # on CPUs
    device = torch.device("cpu")
    forks = True  # whether other processes can make its batches

    def to(self, device: str | torch.device) -> Stage:
        """Move all that the stage computes with; batches follow one by one."""
        self.device = torch.device(device)
        for name, value in vars(self).items():
            setattr(self, name, moved(value, self.device))
        return self

    def parameter_lrs(self, config: TrainConfig) -> dict[nn.Parameter, float]:
        """Peak learning rate of each parameter; 0 freezes it."""
        return dict.fromkeys(self.module.parameters(), config.lr)

    def layers(self) -> Iterable[nn.Module]:
        """What `--compile` compiles: the layers of an LLM. Of a tower, a sketch or a U-Net it made nothing faster."""
        return ()

    def batch(self, index: int) -> Any:
        """Micro batch `index`: a pure function of seeds and index."""
        raise NotImplementedError

    def loss(self, batch: Any) -> dict[str, Tensor]:
        """`{"loss": ..., other scalars to log}`."""
        raise NotImplementedError

    def targets(self, batch: Any) -> dict[str, int]:
        """Of how many targets each of the `terms` is the mean; by default micro batches weigh alike."""
        return dict.fromkeys(self.terms, 1)

    def preview(self, folder: Path, step: int) -> None:
        """Optional: write sample pictures to `folder`."""

    def finish(self, folder: Path) -> None:
        """Write what the next stages read. `self.module` holds the final (or averaged) weights."""
        raise NotImplementedError


def moved(value: Any, device: torch.device) -> Any:
    """Tensors and modules on `device`, those in dictionaries, tuples and lists too; whatever else as it is."""
    if isinstance(value, (Tensor, nn.Module)):
        return value.to(device)
    if isinstance(value, dict):
        return {key: moved(item, device) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(moved(item, device) for item in value)
    return value


def lr_factor(step: int, config: TrainConfig) -> float:
    """Share of the peak rate at `step`: linear warm-up, then a cosine down to `final_lr`; anew at each restart (SGDR, arXiv 1608.03983)."""
    restarts = [restart for restart in config.restarts if restart < config.steps]  # one beyond the end changes nothing
    begin = max((restart for restart in restarts if restart <= step), default=0)
    end = min((restart for restart in restarts if restart > step), default=config.steps)
    since, length = step - begin, end - begin
    if since < config.warmup:
        return (since + 1) / config.warmup
    progress = (since - config.warmup) / max(1, length - config.warmup)
    return config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def make_optimizers(stage: Stage, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW with one group per (rate, decay); vectors (norms, biases) are not decayed; rate 0 freezes.

    With optimizer=muon (arXiv 2502.16982), Muon beside it for the matrices of repeated blocks, its steps as large as AdamW's.
    """
    orthogonal = block_matrices(stage.module) if config.optimizer == "muon" else set()
    groups: dict[bool, dict[tuple[float, float], list[nn.Parameter]]] = {False: {}, True: {}}
    for parameter, lr in stage.parameter_lrs(config).items():
        parameter.requires_grad_(lr > 0)
        if lr > 0:
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups[parameter in orthogonal].setdefault((lr, decay), []).append(parameter)
    optimizers: list[torch.optim.Optimizer] = []
    if with_adamw := _groups(groups[False]):
        betas = (config.beta1, config.beta2)
        optimizers.append(torch.optim.AdamW(with_adamw, betas=betas, eps=config.eps, fused=True))
    if with_muon := _groups(groups[True]):
        optimizers.append(Muon(with_muon, getattr(torch, config.precision)))
    return optimizers


def _groups(of: dict[tuple[float, float], list[nn.Parameter]]) -> list[dict[str, Any]]:
    return [{"params": params, "lr": lr, "peak": lr, "weight_decay": decay} for (lr, decay), params in of.items()]


def block_matrices(module: nn.Module) -> set[nn.Parameter]:
    """The matrices inside lists of blocks: attention and MLP, but no embedding, no head, no convolution."""
    lists = (part for part in module.modules() if isinstance(part, nn.ModuleList))
    return {parameter for part in lists for parameter in part.parameters() if parameter.ndim == 2}


def train(
    stage: Stage,
    config: TrainConfig,
    folder: Path,
    log: RunLog,
    stop_after: int | None = None,
    workers: int = 0,
    compiled: bool = False,
) -> bool:
    """Train `stage` in `folder` up to `config.steps` (or `stop_after`), resuming from its newest checkpoint. True when complete.

    A thread makes the next batch during a step; with `workers`, that many processes do. `compiled`: see `compile_layers`.
    """
    if config.steps == 0:  # nothing to train, such as a linear codec
        stage.finish(folder)
        return True
    _tell_of_slow_bfloat16(stage, config)
    checkpoints = folder / "checkpoints"
    optimizers = make_optimizers(stage, config)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    trained = [parameter for group in groups for parameter in group["params"]]
    state = stage.module.state_dict() if config.ema_decay else {}
    average = {name: tensor.detach().clone() for name, tensor in state.items()}
    step = 0
    if newest := checkpoint.latest(checkpoints):
        step = checkpoint.load(newest, stage.module, optimizers, average)["step"]
    log.rewind(step)
    end = config.steps if stop_after is None else min(config.steps, stop_after)
    stage.module.train()
    if compiled:
        compile_layers(stage.layers(), stage.device)
    bar = tqdm(total=config.steps, initial=step, desc=stage.name, unit="step", dynamic_ncols=True, mininterval=1.0)
    ahead = read_ahead(stage, step * config.accumulate, end * config.accumulate, workers)
    with closing(ahead), bar, _attention_of(stage):
        while step < end:
            started = time.perf_counter()
            torch.manual_seed(config.seed * 1_000_003 + step)
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            means, waited = backward(stage, config, step, ahead, checkpoints)
            norm = nn.utils.clip_grad_norm_(trained, config.clip)
            _refuse_non_finite(norm, stage, _batches(step, config), checkpoints)
            factor = lr_factor(step, config)
            for group in groups:
                group["lr"] = group["peak"] * factor
            for optimizer in optimizers:
                optimizer.step()
            step += 1
            if average:
                update_average(average, stage.module, config.ema_decay, step)
            bar.update()
            if step % config.log_every == 0 or step == config.steps:
                bar.set_postfix({name: f"{value:.4g}" for name, value in means.items()}, refresh=False)
                log.write({
                    "stage": stage.name, "step": step, **means, "lr": config.lr * factor, "grad_norm": norm.item(),
                    "seconds": time.perf_counter() - started, "data_wait": waited, "peak_gb": peak_memory_gb(),
                })  # fmt: skip
            if step % config.checkpoint_every == 0 or step == end:
                checkpoint.save(checkpoints, step, stage.module, optimizers, average, {"stage": stage.name})
            if config.preview_every and (step % config.preview_every == 0 or step == config.steps):
                with _averaged(stage, average):
                    stage.preview(folder, step)
    if step < config.steps:
        return False
    with _averaged(stage, average):
        stage.finish(folder)
    return True


def backward(
    stage: Stage, config: TrainConfig, step: int, ahead: Iterator[Any], checkpoints: Path
) -> tuple[dict[str, float], float]:
    """Sum up the gradients of one update over its micro batches. Returns the mean of each loss, and the seconds spent waiting for data.

    Each term weighs by its share of the update's targets, so that the sum is the gradient of one large batch.
    """
    found: dict[str, list[float]] = {}
    asked = time.perf_counter()
    batches = [moved(next(ahead), stage.device) for _ in range(config.accumulate)]
    waited = time.perf_counter() - asked
    counts = [stage.targets(batch) for batch in batches]
    totals = {term: max(1, sum(count[term] for count in counts)) for term in stage.terms}
    for micro, (batch, count) in enumerate(zip(batches, counts, strict=True), step * config.accumulate):
        with computing_in(config.precision, stage.device):
            losses = stage.loss(batch)
        _refuse_non_finite(losses["loss"], stage, f"batch {micro}", checkpoints)
        shares = {term: weight * count[term] / totals[term] for term, weight in stage.terms.items()}
        sum(share * losses[term] for term, share in shares.items()).backward()
        for name, value in losses.items():
            found.setdefault(name, []).append(value.item())
    return {name: sum(values) / len(values) for name, values in found.items()}, waited  # a batch may lack some


def _batches(step: int, config: TrainConfig) -> str:
    """Which micro batches an update is made of."""
    first, last = step * config.accumulate, (step + 1) * config.accumulate - 1
    return f"batch {first}" if first == last else f"batches {first} to {last}"


def compile_layers(layers: Iterable[nn.Module], device: torch.device) -> None:
    """Fuse what lies between a layer's matrix products: casts, norms, rotations, activations. The sums come out the same but for
    their last bits, so a run that is resumed must be compiled again to end with the same bits.
    """
    on_gpu = device.type == "cuda"
    if not (find_spec("triton") if on_gpu else cpp_compiler()):
        needed = "Triton (pip install triton)" if on_gpu else "a C++ compiler (install g++, or name one in CXX)"
        raise MinemuError(f"--compile needs {needed}; or leave it out")
    for layer in layers:
        layer.compile(dynamic=True)


def cpp_compiler() -> str | None:
    """As torch.compile looks for one."""
    names = (os.environ.get("CXX"), "g++", "clang++", "cl")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def computing_in(precision: str, device: torch.device) -> AbstractContextManager:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def _attention_of(stage: Stage) -> AbstractContextManager:
    return sdpa_kernel(list(stage.attention)) if stage.device.type == "cpu" else nullcontext()


def update_average(average: dict[str, Tensor], module: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of the weights; early on a shorter memory, so that the random start is forgotten."""
    decay = min(decay, (1 + step) / (10 + step))
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            average[name].lerp_(tensor, 1 - decay)
        else:
            average[name].copy_(tensor)


@contextmanager
def _averaged(stage: Stage, average: dict[str, Tensor]) -> Iterator[None]:
    """Eval mode, with the averaged weights in place where there are any."""
    own = {name: tensor.clone() for name, tensor in stage.module.state_dict().items()} if average else {}
    if average:
        stage.module.load_state_dict(average)
    stage.module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if own:
            stage.module.load_state_dict(own)
        stage.module.train()


def _refuse_non_finite(value: Tensor, stage: Stage, where: str, checkpoints: Path) -> None:
    if not torch.isfinite(value):
        kept = checkpoint.latest(checkpoints)
        raise MinemuError(
            f"stage {stage.name}: loss or gradient is {value.item()} in {where}; stopped before the update. "
            f"Last good checkpoint: {kept.name if kept else 'none yet'}. "
            "The same settings would do it again: train the stage anew with a lower lr or clip, or with precision=float32"
        )


def _tell_of_slow_bfloat16(stage: Stage, config: TrainConfig) -> None:
    """A recipe names a precision, so that it makes the same model everywhere; where that is a bad choice, say it at the start."""
    if config.precision == "bfloat16" and (cost := bfloat16_cost(stage.device)) > SLOW_BFLOAT16:
        tqdm.write(
            f"stage {stage.name}: bfloat16 takes {cost:.0f} times as long as float32 on this machine; "
            f"another run folder with --precision float32 is faster"
        )
