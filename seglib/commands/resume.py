"""``seglib train --resume``: a run goes on with the options that it was started with, which need not be repeated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seglib.files import read_json

FREE = ("steps", "workers", "save_every")
"""Options that may differ from those of the start: they change no number of the steps that are done."""
OF_EACH_CALL = ("out", "resume", "as_json")
FLAGS = ("pretrained", "skip_bad")
"""Options that are off when not given; of all others 0 and "no" are answers like any other."""
DATA = ("root", "annotations", "images", "val_annotations")
PATHS = (*DATA, "plan", "cache", "weights", "encoder")
"""Options that are a path, and of these where the data lie."""


def as_stored(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a command as they are kept in the run's ``config.json``; paths are absolute."""
    return {
        name: _plain(value)
        for name, value in given.items()
        if name not in OF_EACH_CALL and value is not None and (value or name not in FLAGS)
    }


def with_those_of_the_start(given: dict[str, Any], out: Path) -> dict[str, Any]:
    """The options with which a run goes on: those given now, and of all others those that it was started with.

    Args:
        given: options by the names of the command's arguments.
        out: the run's folder.

    Raises:
        ValueError: when an option differs that would change numbers; the message has both values.
    """
    config = out / "config.json"
    asked = read_json(config).get("asked", {}) if config.exists() else {}
    now = as_stored(given)
    for name, value in asked.items():
        moved = name in DATA and not Path(value).exists()  # the same data at another place
        if name in now and now[name] != value and name not in FREE and not moved:
            option = {"model": "the model", "settings": "--set"}.get(name, f"--{name.replace('_', '-')}")
            raise ValueError(
                f"{option} {_shown(now[name])} is not what the run in {out} was started with ({_shown(value)}); leave "
                f"it out, or start a new run in another --out, from its weights if you like (--weights {out})"
            )
    back = {name: _as_option(name, value) for name, value in asked.items() if name not in now}
    return given | back | {"out": out}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.absolute())
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _as_option(name: str, value: Any) -> Any:
    if name == "previous":
        return [Path(one) for one in value]
    return Path(value) if name in PATHS else value


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
