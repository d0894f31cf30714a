"""What chapters need beside the models: `setup`, `budget`, `progress`, `live`, `check` and the moving ``figures``.

Nothing else in the package imports this one.
"""

from seglib.book.live import live
from seglib.book.progress import progress
from seglib.book.setup import Setup, budget, setup

__all__ = ["Setup", "budget", "check", "figures", "live", "progress", "setup"]


def __getattr__(name: str) -> object:
    # The exercise checks and the moving figures are loaded when a chapter first uses them.
    if name == "check":
        from seglib.book.checks import check

        return check
    if name == "figures":
        import importlib

        return importlib.import_module("seglib.book.figures")
    raise AttributeError(f"module 'seglib.book' has no attribute {name!r}")
