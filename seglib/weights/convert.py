"""Weights of other codebases become seglib's: one explicit table of origins."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seglib.models.zoo import build
from seglib.weights import torchvision
from seglib.weights.load import mismatch, read_checkpoint


@dataclass(frozen=True, slots=True)
class Origin:
    """Where weights come from.

    Attributes:
        builder: the model of the zoo that takes them.
        convert: their state dict → ours and the metadata.
        fetch: gets the published state dict, from a cache or the network.
    """

    builder: str
    convert: Callable[[Mapping[str, Tensor]], tuple[dict[str, Tensor], dict[str, Any]]]
    fetch: Callable[[], dict[str, Tensor]]


ORIGINS: dict[str, Origin] = {
    "torchvision:fcn_resnet50": Origin("fcn_resnet50", torchvision.convert_fcn_resnet, torchvision.fetch_fcn_resnet50),
    "torchvision:fcn_resnet101": Origin(
        "fcn_resnet101", torchvision.convert_fcn_resnet, torchvision.fetch_fcn_resnet101
    ),
}


def read_published(origin: str, file: str | Path | None = None) -> dict[str, Tensor]:
    """The state dict of an origin, under its own names.

    Args:
        origin: a key of :data:`ORIGINS`.
        file: the published checkpoint, when it is on disk already; otherwise it is taken from its publisher.

    Raises:
        FileNotFoundError: when the file is missing, or it is not given and can't be downloaded.
        ValueError: when the origin is unknown, or the file damaged or unsafe.
    """
    known = _find(origin)
    return known.fetch() if file is None else read_checkpoint(file)


def convert(origin: str, state: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    """Turn the state dict of another codebase into seglib's.

    Args:
        origin: a key of :data:`ORIGINS`.
        state: the state dict under the origin's names.

    Returns:
        The name of the model in the zoo, its state dict, and the metadata for :func:`save_weights` (``model``,
        ``num_classes``, ``arguments`` for its builder, ``categories``, ``origin``).

    Raises:
        ValueError: when the origin is unknown, or a tensor is missing, left over or of another shape.
    """
    known = _find(origin)
    converted, metadata = known.convert(state)
    with torch.device("meta"):  # names and shapes without memory
        model = build(known.builder, metadata["num_classes"], **metadata["arguments"])
    problem = mismatch(model, converted)
    if problem:
        raise ValueError(f"these are not the weights of {origin}: {problem}; check that the file belongs to the origin")
    return known.builder, converted, {"model": known.builder, "origin": origin, **metadata}


def _find(origin: str) -> Origin:
    if origin not in ORIGINS:
        close = difflib.get_close_matches(origin, ORIGINS, n=3)
        remedy = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(ORIGINS)}"
        raise ValueError(f"no origin is called {origin!r}; {remedy}")
    return ORIGINS[origin]
