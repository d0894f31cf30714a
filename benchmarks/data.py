"""How many synthetic scenes a second one core draws, with every annotation: ``python benchmarks/data.py``.

The clock is this process's CPU time on one thread, so that other work on the machine does not count.
"""

from __future__ import annotations

import os
import platform
import statistics
import time

import numpy as np
import torch

from seglib.data.scenes import make_scene


def rate(size: int, scenes: int = 100, runs: int = 7) -> list[float]:
    """Samples a second of CPU time in each of several runs over the same scenes."""
    for index in range(10):
        make_scene(0, index, size=size)
    rates = []
    for _ in range(runs):
        start = time.process_time()
        for index in range(scenes):
            make_scene(0, index, size=size)
        rates.append(scenes / (time.process_time() - start))
    return rates


def main() -> None:
    torch.set_num_threads(1)
    processor = platform.processor() or platform.machine()
    print(f"{processor}, {os.cpu_count()} cores (1 used), Python {platform.python_version()}, ", end="")
    print(f"NumPy {np.__version__}, torch {torch.__version__}")
    for size, scenes in ((128, 100), (256, 40)):
        rates = rate(size, scenes)
        print(f"scenes {size} x {size}: {statistics.median(rates):6.1f} samples/s", end="")
        print(f"   (median of {len(rates)} runs, {min(rates):.1f} to {max(rates):.1f})")


if __name__ == "__main__":
    main()
