"""What the benchmarks share: two sides that take turns, and the memory of one side in a process of its own."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Median milliseconds of both sides, and quartiles of ours / theirs over the rounds: below 1 ours is faster."""

    ours: float
    theirs: float
    low: float
    ratio: float
    high: float

    def __str__(self) -> str:
        times = f"{self.ours:8.0f} ms {self.theirs:8.0f} ms"
        return f"{times}   {self.ratio:5.2f} ({self.low:.2f} to {self.high:.2f})"


def compare(ours: Call, theirs: Call, *, rounds: int, warmup: int = 2) -> Comparison:
    """Both sides warm up, then take turns, so that whatever else the machine does hits both."""
    for _ in range(warmup):
        ours(), theirs()
    times = torch.tensor([[_seconds(ours), _seconds(theirs)] for _ in range(rounds)], dtype=torch.float64)  # (R, 2)
    a, b = (1e3 * times).median(0).values.tolist()
    quartiles = (times[:, 0] / times[:, 1]).quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    return Comparison(a, b, *quartiles.tolist())


def _seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def peak(file: str, *arguments: str) -> float:
    """Megabytes that ``python FILE --peak ARGUMENTS`` prints: one side, measured in a process of its own."""
    command = [sys.executable, "-W", "ignore", file, "--peak", *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def print_peak(small: Call, call: Call) -> None:
    """Print by how many megabytes the resident size of this process rises during ``call``, after a ``small`` call.

    That is what the operating system saw, whoever allocated it. The small call loads kernels and code beforehand.
    Linux only (it reads ``/proc``), NaN elsewhere.
    """
    torch.set_num_threads(1)
    small()
    status, forget = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not status.exists():
        print(math.nan)
        return
    forget.write_text("5")  # the largest resident size so far becomes the present one
    before = _megabytes(status, "VmRSS")
    call()
    print(_megabytes(status, "VmHWM") - before)


def _megabytes(status: Path, entry: str) -> float:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(entry)) / 1024
