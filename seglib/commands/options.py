"""What options of the command line mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MOST_OVERLAP = 0.9
"""Of sliding windows on the command line: then 1,000 windows lie where one would."""


def sides(text: str | None, option: str, axes: int) -> Any:
    """The whole numbers of an option such as 180x240; one number stands for all axes."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) == 1:
        parts *= axes
    if len(parts) != axes or not all(p.isdecimal() and int(p) > 0 for p in parts):
        form = {2: "HEIGHTxWIDTH, e.g. 180x240", 3: "DEPTHxHEIGHTxWIDTH, e.g. 32x64x64"}[axes]
        raise ValueError(f"{option} {text!r} is no {form}")
    return tuple(int(p) for p in parts)


def window(text: str | None, option: str) -> Any:
    """The sides of a patch or a window: of few slices perhaps, but a network of stride 8 must see something in them."""
    found = sides(text, option, 3)
    if found is not None and sorted(found)[1] < 8:
        raise ValueError(
            f"{option} {text!r} is too small: at least two sides need 8 voxels, the stride of most networks"
        )
    return found


def scales(text: str) -> tuple[float, ...]:
    """The positive numbers of an option such as 0.5,1,1.5."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < scale < float("inf") for scale in found):
        raise ValueError(f"--scales {text!r} is no list of positive numbers, e.g. 0.5,1,1.5")
    return found


def numbers(text: str, option: str, form: str) -> tuple[float, ...]:
    """The numbers of an option such as 120,80, as many as its form has parts: "x,y"."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) != len(form.split(",")) or not all(abs(number) < float("inf") for number in found):
        raise ValueError(f"{option} {text!r} is no {form}; write numbers in pixels, without spaces")
    return found


def check_overlap(overlap: float | None) -> None:
    """Refuse an overlap at which windows become countless."""
    if overlap is not None and not 0 <= overlap <= MOST_OVERLAP:
        raise ValueError(f"--overlap {overlap:g} is not in 0..{MOST_OVERLAP}; above it windows become countless")


def refuse(reason: str, **options: Any) -> None:
    """Raise for the first option that was given although it has no use here."""
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"--{name.replace('_', '-')} has no use: {reason}")


def check_effect(config: Any, *, momentum: float | None, warmup: int | None, eval_every: int | None) -> None:
    """Raise for an option of training that was given and changes nothing.

    Args:
        config: the training configuration that the options lead to.
        momentum: what was given to ``--momentum``.
        warmup: what was given to ``--warmup``.
        eval_every: what was given to ``--eval-every``.
    """
    if config.optimizer != "sgd":
        refuse(f"{config.optimizer} has its own; pass --optimizer sgd", momentum=momentum)
    if warmup is not None and warmup >= config.steps:
        raise ValueError(f"--warmup {warmup} does not end within the {config.steps} steps; pass a smaller one")
    if eval_every is not None and eval_every > config.steps:
        raise ValueError(f"--eval-every {eval_every} has no use: the run has {config.steps} steps, scored at the end")


def check_there(**paths: Path | None) -> None:
    """Raise for the first option that names a path where nothing is, by the names of the options.

    Raises:
        ValueError: naming the option and the folder that is there.
    """
    for name, path in paths.items():
        if path is not None and not (path.is_dir() if name == "root" else path.exists()):
            there = next(p for p in path.absolute().parents if p.exists())
            problem = "is no folder" if name == "root" else "does not exist"
            raise ValueError(f"--{name} {path} {problem} (what exists is {there}); check the path")


def alone(paths: Sequence[Path], what: str) -> Path:
    """The only one of the paths.

    Raises:
        ValueError: when there are several.
    """
    if len(paths) > 1:
        raise ValueError(f"{len(paths)} paths were given, and these weights take {what}; pass them one by one")
    return paths[0]


def check_writable(path: Path | None) -> None:
    """Raise unless a file or folder can be made at ``path``, before the work whose result goes there.

    Raises:
        ValueError: when what is to hold it is no folder, or may not be written to.
    """
    import os

    if path is None:
        return
    holder = next(p for p in path.absolute().parents if p.exists())
    if path.is_dir():
        holder = path
    if not holder.is_dir():
        raise ValueError(f"{path} cannot be written: {holder} is a file; choose another place")
    if not os.access(holder, os.W_OK | os.X_OK):
        raise ValueError(f"{path} cannot be written: you may not write in {holder}; choose another place")


def dataset_name(data: str | None, model: str, volumes: bool) -> str:
    """The dataset that was asked for, or the synthetic one, after checking that it suits a model."""
    from seglib.data.catalog import VOLUMES

    data = data or ("volumes" if volumes else "scenes")
    if volumes and data not in VOLUMES:
        raise ValueError(f"{model} is for volumes, and {data!r} has none; choose one of {', '.join(VOLUMES)}")
    if not volumes and data in VOLUMES:
        raise ValueError(f"{model} is for images, and {data!r} has volumes; train unet3d_tiny, or choose other data")
    return data


def shorter(geometry: Any, size: int) -> Any:
    """The geometry with another shorter side and no limit on the longer one; with 0 images keep their own size."""
    if size == 0:
        return replace(geometry, mode="native", size=None, longest=None)
    return replace(geometry, mode="shorter", size=size, longest=None)


def letterboxed(shape: tuple[int, int] | None, geometry: Any, model: str) -> tuple[int, int]:
    """The size at which to read images for a model of one size: its square, or one that fills it along a side."""
    if shape is not None and max(shape) != geometry.size:
        raise ValueError(
            f"--size {shape[0]}x{shape[1]} does not fit: the longer side of what {model} sees has {geometry.size} "
            "pixels; leave --size out, or pass one with that side"
        )
    return shape or (geometry.size, geometry.size)


def device(name: str) -> torch.device:
    """The device of that name, if this machine has it; "auto" is the fastest that it has."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    usable = [device_type for device_type, is_there in there.items() if is_there]
    if name == "auto":
        return torch.device(usable[0])
    device_type, _, number = name.partition(":")
    exists = not number or (number.isdecimal() and int(number) < max(1, torch.cuda.device_count()))
    if device_type not in usable or not exists:
        raise ValueError(f"device {name!r} is not on this machine; choose one of auto, {', '.join(usable)}")
    return torch.device(name)
