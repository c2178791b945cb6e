"""What a stage takes of the machine: memory, and how fast it multiplies in bfloat16."""

from __future__ import annotations

import ctypes
import resource
import sys
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import torch


def forget_peak_memory() -> None:
    """Let the peak begin with this stage, where the system can: a recipe trains all of them in one process.

    What earlier stages freed is given back first; glibc would keep it.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def memory(field: str) -> int:
    """Bytes that Linux notes for this process: VmRSS is what it holds, VmHWM the most it held. OSError elsewhere."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def peak_memory_gb() -> float:
    """Largest resident size of this process, in 10^9 bytes: since `forget_peak_memory` on Linux, elsewhere of its whole life."""
    with suppress(OSError, ValueError):  # not every Linux notes it
        return memory("VmHWM") / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


@lru_cache
def bfloat16_cost(device: torch.device) -> float:
    """How long a matrix product in bfloat16 takes on this machine, a float32 one taking 1."""
    best = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(256, 256, dtype=dtype, device=device)
        times = []
        for _ in range(3):
            started = time.perf_counter()
            (a @ a)[0, 0].item()  # a GPU is waited for
            times.append(time.perf_counter() - started)
        best[dtype] = min(times)
    return best[torch.bfloat16] / best[torch.float32]
