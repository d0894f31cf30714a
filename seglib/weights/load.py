"""Weights on disk: safetensors files that say in their header which model they are for. Nothing is ever unpickled."""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from seglib.files import atomic_path
from seglib.models.base import Model
from seglib.models.zoo import build, find
from seglib.ops.geometry import Geometry
from seglib.ops.intensity import Intensity
from seglib.ops.preparation import Preparation
from seglib.weights.pickles import read_arrays, read_torch

_HEADER = "seglib"  # the entry of the header that holds the metadata, as JSON
_SHOWN = 3  # keys named per kind of mismatch


def save_weights(model: nn.Module, path: str | Path, metadata: Mapping[str, Any]) -> None:
    """Write a model's parameters and buffers to a safetensors file, beside it first and then renamed.

    Args:
        model: the module whose parameters and buffers are written.
        path: the file, ending in ``.safetensors``. Its folder is made if it is missing.
        metadata: JSON-able facts to keep in the header. ``model`` (its name in the zoo) and ``arguments`` (all keywords
            of its builder) let :func:`load_model` build it again; ``geometry`` says at what size it sees images,
            ``intensity`` how volumes are scaled, ``preparation`` how they are resampled, and ``categories``,
            ``file_ids`` and ``void_id`` what its classes are called, here and in the files.

    Raises:
        ValueError: when the metadata is not JSON-able.
    """
    try:
        header = json.dumps(dict(metadata))
    except TypeError as error:
        raise ValueError(f"the metadata must be JSON-able: {error}; pass numbers and text only") from error
    # Copies, because safetensors refuses tensors that share memory.
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    write_tensors(tensors, path, {_HEADER: header})


def write_tensors(tensors: Mapping[str, Tensor], path: str | Path, header: Mapping[str, str]) -> None:
    """Write a safetensors file, beside it first and then renamed.

    Raises:
        OSError: naming the file, when the disk is full or the folder can't be written to.
    """
    with atomic_path(path) as beside:
        try:
            save_file(dict(tensors), beside, dict(header))
        except SafetensorError as error:  # of the system, too, and then with its number in the text alone
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise OSError(f"{path} can't be written ({error})") from error
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The facts in the header of a weights file; empty when another program wrote it.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is a pickle, damaged or no safetensors file.
    """
    with _open(path) as file:
        return _metadata(file, path)


def load_model(path: str | Path, device: str | torch.device = "cpu") -> Model:
    """The model that a weights file is for, with these weights, in evaluation mode.

    Args:
        path: a safetensors file that ``seglib train``, ``seglib convert`` or :func:`save_weights` wrote, or the folder
            of a run.
        device: the device that the model is put on.

    Returns:
        The model; its ``geometry``, ``intensity`` and ``preparation`` are those that were stored.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is a pickle or damaged, doesn't say which model it is for, or is for another version of it.
    """
    metadata = read_metadata(path)
    if "model" not in metadata or "arguments" not in metadata:
        raise ValueError(
            f"{path} doesn't say which model it is for; write it with `seglib train` or `seglib convert`, or build the "
            "model yourself and use load_weights"
        )
    try:
        model = build(metadata["model"], **without_download(metadata["model"], metadata["arguments"]))
        model.geometry = Geometry(**metadata.get("geometry", {}))
        model.intensity = Intensity(**metadata.get("intensity", {}))
        if metadata.get("preparation") is not None:
            model.preparation = Preparation.from_json(metadata["preparation"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} was written for another version of {metadata['model']} ({error})") from error
    load_weights(model, path)
    return model.to(device).eval()


def without_download(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a builder without the ImageNet weights that a file's own weights would replace.

    Args:
        name: the model in the zoo.
        arguments: keywords of its builder.
    """
    given = dict(arguments)
    if given.pop("pretrained", False) and given.get("frozen") is None:
        parameters = inspect.signature(find(name).builder()).parameters
        on_resnet = "swin" not in name and str(given.get("encoder", "resnet")).startswith("resnet")
        if "frozen" in parameters and on_resnet:  # it freezes what is pretrained
            given["frozen"] = True
    return given


def load_weights(model: nn.Module, path: str | Path) -> dict[str, Any]:
    """Load a weights file into a model. Every tensor must have its place, and every place its tensor.

    Args:
        model: a model built with the arguments that the file was saved with. It is left as it was when the file does
            not fit.
        path: the safetensors file to read.

    Returns:
        The metadata of the file.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is a pickle, damaged, no safetensors file, or for another model: the message lists missing,
            unexpected and mis-shaped keys and says which model the file is for.
    """
    with _open(path) as file:
        metadata = _metadata(file, path)
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    problem = mismatch(model, state)
    if problem:
        name, arguments = metadata.get("model"), metadata.get("arguments", {})
        given = ", ".join(f"{k}={v!r}" for k, v in arguments.items())
        saved = f"it is for {name!r} with {given}" if name else "it does not say which model it is for"
        raise ValueError(
            f"{path} does not fit this {type(model).__name__} ({saved}): {problem}; build the model it is for"
        )
    model.load_state_dict(state)
    return metadata


def mismatch(model: nn.Module, state: Mapping[str, Tensor]) -> str:
    """What keeps a state dict from fitting a model, in words; empty when it fits."""
    own = model.state_dict()
    missing = [k for k in own if k not in state]
    unexpected = [k for k in state if k not in own]
    shapes = [
        f"{k} is {tuple(state[k].shape)} in the file and {tuple(v.shape)} in the model"
        for k, v in own.items()
        if k in state and state[k].shape != v.shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    return "; ".join(f"{len(keys)} {problem} ({_some(keys)})" for problem, keys in problems.items() if keys)


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint of another codebase: safetensors, ``torch.save``, or a pickle of arrays (``.pkl``).

    ``torch.save`` files are read with ``weights_only=True``, which builds tensors and plain containers and runs nothing
    that the file contains; pickles of arrays by :func:`~seglib.weights.pickles.read_arrays`. A training checkpoint's
    weights are taken from its entry ``model`` or ``state_dict``.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is damaged, holds more than tensors, or no state dict.
    """
    path = weights_file(path)
    arrays = path.suffix == ".pkl"
    if not arrays and not _is_pickle(path):
        with _open(path) as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    content = read_arrays(path) if arrays else read_torch(path)
    for name in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if isinstance(content, Mapping):
        content = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in content.items()}
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path} holds no state dict; save one with torch.save(model.state_dict(), …)")
    return dict(content)


def _is_pickle(path: str | Path) -> bool:
    """Whether a file starts like one of ``torch.save``: a zip archive, or a bare pickle in older versions.

    A pickle starts with the byte 128, and so does a safetensors file whose header is 128 bytes long, or 384, and so on:
    it is told by the brace that opens the header behind the eight bytes of its length.
    """
    with open(path, "rb") as file:
        start = file.read(9)
    return start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[8:] != b"{")


def weights_file(path: str | Path) -> Path:
    """The weights file at a path: the file itself, or of the folder of a run its ``weights.safetensors``.

    Raises:
        ValueError: when a folder holds none.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    if not (path / "weights.safetensors").is_file():
        raise ValueError(
            f"{path} is a folder without weights.safetensors; pass the folder of a finished run, or a file"
        )
    return path / "weights.safetensors"


def _open(path: str | Path) -> Any:
    """The open safetensors file, or that in the folder of a run."""
    path = weights_file(path)
    if _is_pickle(path):
        raise ValueError(
            f"{path} is a pickle (.pth, .pt, .ckpt), which seglib does not load; "
            f"turn published weights into safetensors with `seglib convert ORIGIN OUT.safetensors --file {path}`"
        )
    try:
        return safe_open(path, "pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file or a damaged one ({error}); write or copy it again") from error


def _metadata(file: Any, path: str | Path) -> dict[str, Any]:
    try:
        return json.loads((file.metadata() or {}).get(_HEADER, "{}"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} has metadata that are no JSON ({error}); write it again with save_weights") from error


def _some(keys: Iterable[str]) -> str:
    keys = list(keys)
    return ", ".join(keys[:_SHOWN]) + (", …" if len(keys) > _SHOWN else "")
