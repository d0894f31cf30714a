"""Fixtures and settings that several test files share."""

import ctypes
import gc
import sys

import pytest
from hypothesis import settings

pytest_plugins = ["browser"]

# A busy machine makes single examples slow now and then; pytest's own timeout guards against real hangs.
settings.register_profile("seglib", deadline=None)
settings.load_profile("seglib")


@pytest.fixture(scope="module", autouse=True)
def give_memory_back():
    """After each file, memory that Python and the C library keep for later goes back to the system.

    A worker runs many files; without this it grows to the sum of what they needed, above 3 GB.
    """
    yield
    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].reset()  # compiled graphs hold their models
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
        if trim is not None:
            trim(0)
