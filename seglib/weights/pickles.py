"""Pickles that hold NumPy arrays and nothing else, as Detectron2 publishes its weights, read without running them.

A pickle is a program that may name any function to call. Here the few names that arrays need are the only ones that
mean something; at any other the file is refused before anything happens.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

_RECONSTRUCT, _FROM_BUFFER = (np.zeros(1).__reduce_ex__(protocol)[0] for protocol in (2, 5))

_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    # before and since NumPy 2
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _RECONSTRUCT for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FROM_BUFFER for core in ("core", "_core")},
}


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
