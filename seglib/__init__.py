"""seglib: image segmentation models, metrics and training that equal their references and read like the book.

``import seglib`` loads nothing heavy. Submodules are imported on first use: ``seglib.models``, ``seglib.data``, ….
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULES = frozenset(
    {
        "book",
        "cli",
        "data",
        "files",
        "layers",
        "losses",
        "metrics",
        "models",
        "ops",
        "postprocess",
        "train",
        "types",
        "viz",
        "weights",
    }
)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"seglib.{name}")
    raise AttributeError(f"module 'seglib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_MODULES | {"__version__"})
