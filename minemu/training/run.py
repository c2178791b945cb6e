"""What a run leaves behind: `run.json` (what was run, by which code and versions), `log.jsonl` (one line an entry), and
`skipped.jsonl` (one line a bad sample, where there were any)."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from minemu.errors import MinemuError, suggest
from minemu.files import append_json, atomic_write, read_json, write_json

PACKAGES = ("torch", "transformers", "diffusers", "datasets", "tokenizers", "numpy", "pillow")
LOGGERS = ("tensorboard", "wandb", "trackio")


def commit() -> str:
    """Commit of the code that runs, with `+changes` if the tree differs from it; "unknown" outside a checkout."""
    here = Path(__file__).resolve().parent
    if not (here.parents[1] / ".git").exists():  # installed, be it within a repository of something else
        return "unknown"
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
        return head + ("+changes" if changed.stdout.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


given: list[str] | None = None  # the arguments of `minemu`, where it runs


def command() -> str:
    """The command line that runs; from Python there is none."""
    return "from Python" if given is None else shlex.join(["minemu", *given])


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def describe(folder: Path, **facts: Any) -> None:
    """Write `run.json`: the resolved configuration and what a reader needs to run the same again.

    Of a run that was resumed by other code, elsewhere or otherwise, the commits, devices and commands before are kept too, and of one
    that was lengthened whose weights it began with.
    """
    before = read_json(folder / "run.json") if (folder / "run.json").exists() else {}
    now = {"command": command(), "commit": commit(), "device": facts.pop("device", "cpu")}
    earlier = {}
    for what, one in now.items():
        known = [*before.get(f"earlier_{what}s", []), before.get(what, one)]
        if others := [other for other in dict.fromkeys(known) if other != one]:
            earlier[f"earlier_{what}s"] = others
    write_json(
        folder / "run.json",
        {
            **now,
            **earlier,
            **({"weights_of": before["weights_of"]} if "weights_of" in before else {}),
            "versions": versions(),
            "threads": os.environ.get("OMP_NUM_THREADS"),
            **facts,
        },
    )


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep a second process out of a stage's folder: two would write one log and take each other's checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise MinemuError(f"another process trains in {folder}; wait until it ends, or use another --run-dir") from None
    try:
        yield
    finally:
        lock.release()


def refuse_other_files(folder: Path, listed: dict[str, dict[str, Any]]) -> None:
    """A run goes on only with the files that it began with: with others a number would stand for another sample.

    Of a run whose version of the code did not list them, any will do.
    """
    before = read_json(folder / "run.json").get("listed", {}) if (folder / "run.json").exists() else {}
    for source, now in listed.items():
        began = before.get(source, now)
        if began != now:
            raise MinemuError(
                f"{folder} was begun with other files of {source}: {began['files']} with {began['bytes']:,} bytes, now "
                f"{now['files']} with {now['bytes']:,} (names count too); put back what was there, or use another --run-dir"
            )


class RunLog:
    """Appends JSON lines; mirrors the numbers to one tracker if asked for."""

    def __init__(self, path: Path, log_to: str | None = None):
        self.path = path
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        self.tracker, self.close = _tracker(log_to, path.parent) if log_to else (None, _nothing)

    def rewind(self, step: int) -> None:
        """Drop entries after `step`: a resumed run writes them again."""
        kept = [line for line in self.path.read_text().splitlines() if _step(line) <= step]
        with atomic_write(self.path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept))

    def write(self, entry: dict[str, Any]) -> None:
        append_json(self.path, {key: _round(value) for key, value in entry.items()})
        if self.tracker:
            self.tracker({key: value for key, value in entry.items() if isinstance(value, float)}, entry["step"])


class SkipList:
    """The bad samples that a run met, each once over all its starts (of batches that `workers` make, once for each process). It is
    there to be read: no document depends on it.

    Batches are read ahead, so a sample may stand here a batch before the step that would have had it.
    """

    def __init__(self, path: Path):
        self.path, self.known = path, set()
        if path.exists():
            whole = path.read_text().rpartition("\n")[0]  # a last line may be half-written
            self.known = set(whole.splitlines())
            with atomic_write(path) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in whole.splitlines()))

    def __call__(self, source: str, sample: int, why: str) -> None:
        entry = {"source": source, "sample": sample, "why": why}
        if (line := json.dumps(entry)) not in self.known:
            self.known.add(line)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append_json(self.path, entry)


def _step(line: str) -> int:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return sys.maxsize  # a half-written last line


def _round(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _nothing() -> None:
    pass


def check_logger(name: str | None) -> None:
    """Refuse a tracker that is unknown or not installed."""
    if name is not None and name not in LOGGERS:
        raise MinemuError(f"unknown logger '{name}': {suggest(name, LOGGERS)}")
    if name is not None and not (sys.modules.get(name) or importlib.util.find_spec(name)):
        raise MinemuError(f"--log-to {name} needs the package {name}: pip install {name}")


def _tracker(name: str, folder: Path) -> tuple[Callable[[dict[str, float], int], Any], Callable[[], Any]]:
    """How to log to a tracker, and how to end its run: each stage is one of its own."""
    check_logger(name)
    try:
        if name == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            writer = SummaryWriter(folder / "tensorboard")
            return lambda values, step: [
                writer.add_scalar(key, value, step) for key, value in values.items()
            ], writer.close
        module = importlib.import_module(name)  # wandb and trackio share this much of an interface
    except ImportError:
        raise MinemuError(f"--log-to {name} needs the package {name}: pip install {name}") from None
    module.init(project="minemu", name=folder.name)
    return lambda values, step: module.log(values, step=step), module.finish
