"""One run at a time in a folder: two would mix their states, weights and curves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def only_run_in(folder: Path | None) -> Iterator[None]:
    """Hold the folder of a run inside the block. The system gives it back when the process ends, however it does.

    Args:
        folder: the run's folder, in which a file ``.lock`` stays; ``None`` holds nothing.

    Raises:
        ValueError: when another process holds it.
    """
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"another process is training in {folder}; wait for it or stop it, or choose another folder (--out)"
        ) from error
    except NotImplementedError:  # a file system without locks, as some of clusters are
        yield
        return
    try:
        yield
    finally:
        lock.release()
