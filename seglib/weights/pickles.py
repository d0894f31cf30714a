"""Pickles of plain data, read without running them: NumPy arrays as Detectron2 publishes them, and torch's files.

A pickle is a program that may name any function to call. Here the few names that arrays need are the only ones that
mean something; at any other the file is refused before anything happens.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

_RECONSTRUCT, _FROM_BUFFER = (np.zeros(1).__reduce_ex__(protocol)[0] for protocol in (2, 5))

_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    # before and since NumPy 2
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _RECONSTRUCT for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FROM_BUFFER for core in ("core", "_core")},
}

_SCALARS: list[Any] = [
    np.dtype,
    *{type(np.dtype(letter)) for letter in "?bBhHiIlLqQefd"},
    # before and since NumPy 2
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
"""What the numbers need that NumPy hands out one by one, as in a log of scores."""


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # how old protocols store bytes: text in Latin-1
            return _latin1
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it calls {module}.{name}")
        return _ALLOWED[module, name]


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes bytes as {encoding}")
    return text.encode("latin1")


def read_arrays(path: str | Path) -> Any:
    """The plain containers, numbers, text and arrays that a pickle holds.

    Raises:
        ValueError: when it holds anything else, or is damaged; nothing of it was run.
    """
    try:
        with open(path, "rb") as file:
            return _ArraysOnly(file, encoding="latin1").load()
    except Exception as error:  # damaged bytes raise whatever they lead to
        raise ValueError(
            f"{path} can't be read safely ({error}): it is damaged or holds more than arrays; "
            "save the state dict alone with torch.save(model.state_dict(), …)"
        ) from error


def read_torch(path: str | Path) -> Any:
    """What a file of ``torch.save`` holds, if that is tensors, plain containers, text and numbers, also NumPy's.

    It is read with ``weights_only=True``, which runs nothing that the file contains.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it holds anything else, or is damaged.
    """
    with open(path, "rb") as file, torch.serialization.safe_globals(_SCALARS):
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged zip or pickle raises whatever its bytes lead to
            raise ValueError(
                f"{path} can't be read safely ({type(error).__name__}): it is damaged or holds more than tensors; "
                f"save its state dict alone with torch.save(model.state_dict(), …)"
            ) from error
