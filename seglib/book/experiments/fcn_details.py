"""What do the details of the FCN paper do? One change at a time to ``fcn_tiny`` with stride 8, same seeds and budget.

======================  ===============================================================================
as in the paper         learnable upsampling that starts as bilinear, score layers that start at zero
fixed upsampling        the bilinear weights stay as they are
random upsampling       the upsampling kernels start with PyTorch's random default
random scores           the score layers start with PyTorch's random default
======================  ===============================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from seglib.book.experiments.compare import compare, only
from seglib.data.scenes import CATEGORIES
from seglib.models.fcn import FCN, fcn_tiny

STRIDE = 8


def as_in_the_paper(model: FCN) -> None:
    """No change."""


def fixed_upsampling(model: FCN) -> None:
    """Bilinear interpolation for good."""
    model.upsample.requires_grad_(False)


def random_upsampling(model: FCN) -> None:
    """Transposed convolutions as PyTorch starts them."""
    for layer in model.upsample.values():
        nn.ConvTranspose2d.reset_parameters(layer)  # type: ignore[arg-type]


def random_scores(model: FCN) -> None:
    """Score layers as PyTorch starts them."""
    for layer in model.score.values():
        layer.reset_parameters()  # type: ignore[operator]


VARIANTS: dict[str, Callable[[FCN], None]] = {
    "as in the paper": as_in_the_paper,
    "fixed upsampling": fixed_upsampling,
    "random upsampling": random_upsampling,
    "random scores": random_scores,
}


def run(
    *, seeds: Sequence[int], steps: int, variants: Sequence[str] = tuple(VARIANTS), **settings: Any
) -> dict[str, Any]:
    """Train every variant once for every seed and score it on held-out scenes.

    Args:
        seeds: one run per seed; a seed sets the model's initialisation and the order of the scenes.
        steps: optimiser steps of each run.
        variants: names in `VARIANTS`.
        **settings: further arguments of :func:`~seglib.book.experiments.compare.compare`.

    Returns:
        What ``compare`` returns, with ``variant`` in each run.

    Raises:
        ValueError: without steps or scenes, or for an unknown variant.
    """

    def build(change: Callable[[FCN], None]) -> FCN:
        model = fcn_tiny(len(CATEGORIES), stride=STRIDE)
        change(model)
        return model

    builders = {name: partial(build, change) for name, change in only(variants, VARIANTS).items()}
    found = compare(builders, key="variant", seeds=seeds, steps=steps, **settings)
    return {"model": f"fcn_tiny, stride {STRIDE}", **found}
