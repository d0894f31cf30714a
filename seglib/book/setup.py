"""What every chapter does first: seeds, device, figure style, and the one switch between a small and a full run."""

from __future__ import annotations

import base64
import os
import platform
import random
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

PAGES = "SEGLIB_PAGES"
"""Name of the environment variable that is ``1`` while `seglib.book.notebooks` runs a chapter for the book's pages."""

_PACKAGES = ("seglib", "torch", "torchvision", "numpy", "matplotlib")


@dataclass(frozen=True)
class Setup:
    """What `setup` found and chose.

    Its text form names the seed alone, because outputs are stored in the notebooks and must read the same on every
    machine. Ask for ``.device`` and ``.versions`` to see the rest.

    Attributes:
        seed: random seed given to Python, NumPy and torch.
        device: device on which the chapter's models run: ``cuda``, ``mps`` or ``cpu``.
        full: whether `budget` chooses the full run.
        versions: version of Python and of each package that changes numbers.
    """

    seed: int
    device: torch.device
    full: bool
    versions: dict[str, str] = field(repr=False)

    def __repr__(self) -> str:
        return f"Setup(seed={self.seed})"


def setup(seed: int = 0) -> Setup:
    """Prepare a notebook: fix the seeds, pick the device and apply the book's figure style.

    Prints one line that is the same on every machine.

    Args:
        seed: random seed, a whole number from 0 to 2**32 - 1.

    Raises:
        ValueError: when ``seed`` is outside that range.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must lie in 0..{2**32 - 1} (NumPy's range), got {seed}")
    import numpy as np
    import torch

    from seglib import viz

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries that a reader adds may still draw from the global generator
    torch.manual_seed(seed)  # also seeds CUDA and MPS
    viz.style()
    _figures_for_pages()
    print(f"Ready: random seed {seed}, figures in the book's style.")
    return Setup(seed, _device(), full_run(), _versions())


def budget(*, fast: T, full: T) -> T:
    """``fast`` on a CPU and in tests, ``full`` on a GPU. It is the only such switch in the book.

    The environment variable ``SEGLIB_BUDGET`` (``fast`` or ``full``) overrules the choice.

    Example:
        ``steps = budget(fast=300, full=20_000)``

    Raises:
        ValueError: when ``SEGLIB_BUDGET`` holds anything else.
    """
    return full if full_run() else fast


def full_run() -> bool:
    """Whether chapters run at full size here (see `budget`).

    Raises:
        ValueError: when ``SEGLIB_BUDGET`` is neither ``fast`` nor ``full``.
    """
    wish = os.environ.get("SEGLIB_BUDGET", "")
    if wish:
        if wish not in ("fast", "full"):
            raise ValueError(f"SEGLIB_BUDGET={wish!r} is not known; set it to 'fast' or 'full', or unset it")
        return wish == "full"
    # CI is set by every common CI service, PYTEST_VERSION by pytest (so also under nbval).
    tested = os.environ.get("CI", "").lower() in ("1", "true") or "PYTEST_VERSION" in os.environ
    return not tested and _device().type != "cpu"


def _figures_for_pages() -> None:
    """Where a chapter runs for the book, let IPython show figures as `seglib.book.page_figures` draws them."""
    if os.environ.get(PAGES) != "1":
        return
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    if shell is None:
        return
    import matplotlib_inline.backend_inline  # noqa: F401 - it registers a format for figures: ours comes after it
    from matplotlib.figure import Figure

    from seglib.book.page_figures import two_palettes

    def encoded(figure: Figure) -> str:
        return base64.b64encode(two_palettes(figure)).decode()

    assert shell.display_formatter is not None
    shell.display_formatter.formatters["image/png"].for_type(Figure, encoded)


def _device() -> torch.device:
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a package put on the path by hand has no metadata
            found[name] = "unknown"
    return found
