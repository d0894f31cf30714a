"""The memory that a call takes, measured as the rise of a process's resident size."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

HANDED_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Environment in which glibc gives freed memory back at once: else a call fills what building the model left."""


def rise(small: Callable[[], object], call: Callable[[], object]) -> float:
    """By how many megabytes the resident size of this process rises during ``call``, after a ``small`` call.

    That is what the operating system saw, whoever allocated it. The small call loads kernels and code beforehand. Run
    it in a fresh process with :data:`HANDED_BACK` in its environment. Linux only (it reads ``/proc``), NaN elsewhere.
    """
    small()
    status, forget = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not status.exists():
        return math.nan
    forget.write_text("5")  # the largest resident size so far becomes the present one
    before = _megabytes(status, "VmRSS")
    call()
    return _megabytes(status, "VmHWM") - before


def _megabytes(status: Path, entry: str) -> float:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(entry)) / 1024
