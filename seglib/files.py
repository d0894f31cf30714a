"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside ``path``: renamed to it when the block succeeds, removed when it fails.

    Readers see the old file or the whole new one, never half of it, also when the process is interrupted by an
    exception or Ctrl-C. The temporary name keeps the ending, so writers that choose a format by it work. Missing
    folders are made.

    Args:
        path: the final path.

    Yields:
        The path to write to.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    # The same folder, because a rename is atomic only within one file system.
    temporary = final.with_name(f".{final.stem}.{uuid.uuid4().hex[:12]}{final.suffix}")
    try:
        yield temporary
        mask = os.umask(0)  # can only be read by setting it
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # safetensors makes files that nobody but their owner may read
        os.replace(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)
