"""nnU-Net as a black box: its modules, imported without what it prints and warns of."""

import contextlib
import importlib
import io
import tempfile
import warnings
from types import ModuleType

import pytest


def nnunet(name: str) -> ModuleType:
    """``nnunetv2.NAME`` or, of its own packages beside it, NAME; the test is skipped where nnU-Net is not installed."""
    pytest.importorskip("batchgeneratorsv2")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            patch.setenv(variable, tempfile.gettempdir())  # read on import, and used by its experiments alone
        with contextlib.redirect_stdout(io.StringIO()):
            pytest.importorskip("nnunetv2")
            own = name.split(".")[0] in ("batchgeneratorsv2", "dynamic_network_architectures")
            return importlib.import_module(name if own else f"nnunetv2.{name}")
