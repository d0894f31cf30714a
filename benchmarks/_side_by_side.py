"""What the benchmarks share: two sides that take turns, and the memory that one side takes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from seglib.book.experiments.memory import HANDED_BACK, rise

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Median milliseconds of both sides, and quartiles of ours / reference over the rounds: below 1 ours is faster."""

    ours: float
    reference: float
    low: float
    ratio: float
    high: float

    def __str__(self) -> str:
        ours, reference = (f"{t:8.0f}" if t >= 10 else f"{t:8.2f}" for t in (self.ours, self.reference))
        return f"{ours} ms {reference} ms   {self.ratio:5.2f} ({self.low:.2f} to {self.high:.2f})"


_PRINTED = re.compile(r"\s*(.*?)\s+([\d.]+) ms +([\d.]+) ms +([\d.]+) \(([\d.]+) to ([\d.]+)\)")


def read_comparison(line: str) -> tuple[str, Comparison] | None:
    """The name and the comparison of a line ``NAME COMPARISON`` that a benchmark printed; ``None`` for other lines."""
    found = _PRINTED.match(line)
    if found is None:
        return None
    ours, reference, ratio, low, high = (float(v) for v in found.groups()[1:])
    return found[1], Comparison(ours, reference, low, ratio, high)


def compare(ours: Call, reference: Call, *, rounds: int, warmup: int = 2, device: str = "cpu") -> Comparison:
    """Both sides warm up, then take turns, so that whatever else the machine does hits both.

    On "cuda" a time ends when the GPU has done what the call asked of it.
    """
    for _ in range(warmup):
        ours(), reference()
    turns = [[seconds(ours, device), seconds(reference, device)] for _ in range(rounds)]
    times = torch.tensor(turns, dtype=torch.float64)  # (R, 2)
    a, b = (1e3 * times).median(0).values.tolist()
    quartiles = (times[:, 0] / times[:, 1]).quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    return Comparison(a, b, *quartiles.tolist())


def seconds(call: Call, device: str = "cpu") -> float:
    """Seconds of one call. The GPU works on while Python goes ahead, so on "cuda" both ends wait for it."""
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def cuda_peak(call: Call) -> float:
    """Megabytes of GPU memory that torch allocates at most during ``call``, beyond what is allocated already."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def peak(file: str, *arguments: str) -> float:
    """Megabytes that ``python FILE --peak ARGUMENTS`` prints: one side, measured in a process of its own."""
    command = [sys.executable, "-W", "ignore", file, "--peak", *arguments]
    found = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | HANDED_BACK)
    return float(found.stdout.split()[-1])


def print_peak(small: Call, call: Call) -> None:
    """Print by how many megabytes the resident size of this process rises during ``call``, after a ``small`` call."""
    torch.set_num_threads(1)
    print(rise(small, call))
