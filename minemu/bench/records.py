"""What training logs tell, and how long a command of the README takes."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from minemu.errors import MinemuError
from minemu.model import LOGS

TRAIN_LIMIT = 4.0  # GB


def logged(checkpoint: Path) -> dict[str, list[dict[str, Any]]]:
    """The lines of each stage's log, beside a checkpoint; a stage that only fits something has none."""
    found = {path.stem: path.read_text().splitlines() for path in sorted((checkpoint / LOGS).glob("*.jsonl"))}
    if not found:
        raise MinemuError(f"{checkpoint} has no training logs; run it where data_samples is")
    return {stage: [json.loads(line) for line in lines] for stage, lines in found.items() if lines}


def train_peak(checkpoint: Path) -> dict[str, Any]:
    """The largest `peak_gb` in the logs of a checkpoint's training, and of its adapter's if that is beside it."""
    adapter = checkpoint.with_name(f"{checkpoint.name}-instruct")
    logs = logged(checkpoint) | (logged(adapter) if adapter.exists() else {})
    peaks = {stage: max(line["peak_gb"] for line in lines) for stage, lines in logs.items()}
    stage = max(peaks, key=peaks.__getitem__)
    said = f"{peaks[stage]:.2f} GB, stage {stage}"
    return {**_once(peaks[stage] / TRAIN_LIMIT, f"{TRAIN_LIMIT:g} GB", said), "gb": peaks}


def data_wait(checkpoint: Path) -> dict[str, Any]:
    """The share of its logged steps that a stage waited for its batches, of the stage that waited longest."""
    shares = {
        stage: sum(line["data_wait"] for line in lines) / sum(line["seconds"] for line in lines)
        for stage, lines in logged(checkpoint).items()
    }
    stage = max(shares, key=shares.__getitem__)
    return {**_once(shares[stage], "the whole step", f"{shares[stage]:.1%}, stage {stage}"), "shares": shares}


def make_target(target: str, limit: int) -> dict[str, Any]:
    """A limit of seconds over the time that `make TARGET` takes; what it sets up is set up before."""
    for what in ("setup", target):
        started = time.perf_counter()
        done = subprocess.run(["make", what], capture_output=True, text=True)
        seconds = time.perf_counter() - started
        if done.returncode:
            last = (done.stdout + done.stderr).strip().splitlines()[-1:]
            raise MinemuError(f"make {what} failed: {' '.join(last)} (it is run in the folder that this is started in)")
    return {**_once(limit / seconds, f"{limit // 60} minutes, its limit", f"{seconds:.0f} s"), "seconds": seconds}


def _once(ratio: float, against: str, said: str) -> dict[str, Any]:
    return {"ratio": ratio, "min": ratio, "max": ratio, "runs": 1, "against": against, "said": said}
