"""Is learned upsampling worth it? ``fcn_tiny`` with stride 8 in four ways, same seeds, batches and budget.

====================  ==================================================================================================
all fixed             all transposed convolutions stay bilinear, as in the released networks
half learned          the intermediate ones start as bilinear and learn, the final one stays bilinear, as in the paper
all learned           all start as bilinear and learn, as in ``seglib``
all learned, random   all start with PyTorch's random default and learn
====================  ==================================================================================================

Long, Shelhamer and Darrell (CVPR 2015, section 4.3): "Final layer deconvolutional filters are fixed to bilinear
interpolation, while intermediate upsampling layers are initialized to bilinear upsampling, and then learned". The
authors' released networks fix all of them, and their notes report no significant difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from seglib.book.experiments.compare import compare, only
from seglib.book.experiments.fcn_details import STRIDE, all_fixed, all_learned, as_in_the_paper, changed
from seglib.book.experiments.semantic import SceneTensors
from seglib.layers.upsample import bilinear_kernel
from seglib.models.base import Model
from seglib.models.fcn import FCN


def all_random(model: FCN) -> None:
    """Every upsampling layer starts with PyTorch's random default and learns."""
    for layer in model.upsample.values():
        nn.ConvTranspose2d.reset_parameters(layer)  # type: ignore[arg-type]


VARIANTS: dict[str, Callable[[FCN], None]] = {
    "all fixed": all_fixed,
    "half learned": as_in_the_paper,
    "all learned": all_learned,
    "all learned, random": all_random,
}


@torch.no_grad()
def distance_to_bilinear(model: Model, _: SceneTensors | None = None) -> dict[str, Any]:
    r"""How far every upsampling layer is from bilinear interpolation, and how much of that is between classes.

    With the weights :math:`w` of a layer and the bilinear ones :math:`b`, ``moved`` is
    :math:`\lVert w - b \rVert / \lVert b \rVert`, and ``mixing`` the share of :math:`\lVert w - b \rVert^2` in kernels
    that lead from one class to another; there :math:`b = 0`. It is 0 for a layer that did not move.

    Args:
        model: an FCN.
    """
    assert isinstance(model, FCN)
    moved, mixing = {}, {}
    for level, layer in model.upsample.items():
        assert isinstance(layer, nn.ConvTranspose2d)
        weight = layer.weight.cpu()  # (K, K, k, k)
        bilinear = bilinear_kernel(*weight.shape[:3])
        change = (weight - bilinear).square().sum((2, 3))  # (K, K)
        moved[level] = float(change.sum().sqrt() / bilinear.norm())
        mixing[level] = 1 - float(change.diagonal().sum() / change.sum()) if change.any() else 0.0
    return {"moved": moved, "mixing": mixing}


def run(
    *, seeds: Sequence[int], steps: int, variants: Sequence[str] = tuple(VARIANTS), **settings: Any
) -> dict[str, Any]:
    """Train every variant once for every seed and score it on held-out scenes.

    With one seed all variants start from the same encoder and see the same batches.

    Args:
        seeds: one run per seed; a seed sets the model's initialisation and the order of the scenes.
        steps: optimiser steps of each run.
        variants: names in `VARIANTS`.
        **settings: further arguments of :func:`~seglib.book.experiments.compare.compare`.

    Returns:
        What ``compare`` returns, with ``variant`` and the answers of :func:`distance_to_bilinear` in each run.

    Raises:
        ValueError: without steps or scenes, or for an unknown variant.
    """
    builders = {name: partial(changed, change) for name, change in only(variants, VARIANTS).items()}
    found = compare(builders, key="variant", seeds=seeds, steps=steps, measure=distance_to_bilinear, **settings)
    return {"model": f"fcn_tiny, stride {STRIDE}", **found}
