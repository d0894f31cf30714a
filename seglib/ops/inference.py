"""Run a model for its answers only: leave it as it was, or compile it for nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch._inductor.config as inductor
from torch import nn

COMPILERS = ("g++", "clang++", "c++", "cl")
"""Names of C++ compilers, one of which torch needs to compile for a CPU."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients inside the block; afterwards every submodule has its own mode back.

    The mode is restored module by module because parts of a model may differ on purpose, e.g. frozen batch norms in
    evaluation mode within a model that trains.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def compile_frozen(model: nn.Module) -> None:
    """Compile a model for prediction, in place: its weights become constants, its batch norms parts of convolutions.

    The first prediction of each size then takes up to a minute, and later ones less time than before: it pays where
    many images have one size. After eight sizes others run as they are. Weights that change afterwards are not
    seen, so load them before.

    Args:
        model: module that is called without gradients, as ``predict`` and ``evaluate`` do.

    Raises:
        ValueError: when the model is on the CPU and there is no C++ compiler.
    """
    device = next(model.parameters()).device
    if device.type == "cpu" and not ("CXX" in os.environ or any(map(shutil.which, COMPILERS))):
        raise ValueError("compiling for a CPU needs a C++ compiler; install g++ or clang++, or do without compiling")
    model.compile(dynamic=False)
    compiled = model._compiled_call_impl
    assert compiled is not None

    def frozen(*args: Any, **kwargs: Any) -> Any:
        with inductor.patch(freezing=True):  # torch.compile's own options come too late: weights would stay inputs
            return compiled(*args, **kwargs)

    model._compiled_call_impl = frozen
