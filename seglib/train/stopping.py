"""Stopping a run from outside: Ctrl-C and SIGTERM let the step in hand end and the state be saved."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import Accelerator


class Interrupted(KeyboardInterrupt):
    """The run was told to stop (Ctrl-C or SIGTERM) and has saved its state."""


@contextmanager
def told_to_stop() -> Iterator[threading.Event]:
    """Turns Ctrl-C and SIGTERM into an event, so that the step in hand ends and the state is saved.

    A second Ctrl-C leaves at once, for a step or an evaluation that takes too long. It must come a second later,
    because launchers hand the first one on to their processes, which have it from the terminal already.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # Python delivers signals to the main thread only
        return
    first = math.inf

    def tell(number: int, frame: object) -> None:
        nonlocal first
        if number == signal.SIGINT and time.monotonic() > first + 1:
            raise KeyboardInterrupt
        first = min(first, time.monotonic())
        event.set()

    old = {s: signal.signal(s, tell) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def all_told(stop: threading.Event, accelerator: Accelerator) -> bool:
    """Whether any process was told to stop: they must leave after the same step, or the others wait for ever."""
    if accelerator.num_processes == 1:
        return stop.is_set()
    if stop.is_set():
        accelerator.set_trigger()
    return accelerator.check_trigger()


def leave_signals_to_the_trainer(worker: int) -> None:
    """A signal often goes to the whole process group; workers live on until the trainer has saved and ends them."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
