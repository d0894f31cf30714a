"""Files that appear whole or not at all, and JSON as people have it."""

from __future__ import annotations

import gc
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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

    Raises:
        OSError: with the final path in ``filename`` where the system names none, of a full disk for example.
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
    except OSError as error:
        # a full disk tells while writing, when nobody knows the file any more
        if error.errno is not None and error.filename is None:
            error.filename = str(final)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file in UTF-8, with or without the byte order mark that Windows writes.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no JSON, or cut off; the message names the file.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        with collecting_nothing():
            return json.loads(text)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist; check the path") from None
    except ValueError as error:  # no JSON, or not even text
        raise ValueError(f"{path} is no JSON file ({error}); check that it is complete, and saved as UTF-8") from error


@contextmanager
def collecting_nothing() -> Iterator[None]:
    """Keeps Python's cycle collector from running inside the block.

    It runs after so many new objects, and every time it goes through all that there are. A block that makes millions of
    objects and no cycles would spend most of its time on that.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
