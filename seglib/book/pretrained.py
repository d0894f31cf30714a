"""Stored weights of the tiny systems: trained once by a stated command, loaded where a chapter needs a good model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seglib.book.results import stored_file
from seglib.models.base import Model
from seglib.weights import load_model, read_metadata


def stored_model(name: str) -> Model:
    """A tiny system of the zoo with its stored weights, in evaluation mode on the CPU.

    Args:
        name: name of the system in the zoo, such as ``"fcn_tiny"``.

    Raises:
        ValueError: when no weights of that name are stored.
    """
    return load_model(stored_file(f"weights/{name}.safetensors"))


def stored_weights(name: str) -> tuple[Path, dict[str, Any]]:
    """The file of a tiny system's stored weights, and its metadata (how it was trained, and its score)."""
    path = stored_file(f"weights/{name}.safetensors")
    return path, read_metadata(path)
