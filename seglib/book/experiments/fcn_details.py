"""What do the details of the FCN paper do? One change at a time to ``fcn_tiny`` with stride 8, same seeds and budget.

======================  ================================================================================================
as in the paper         upsampling starts as bilinear; the intermediate layers learn, the final one stays fixed; score
                        layers start at zero
all fixed               all upsampling stays bilinear, as in the released networks
all learned             the final upsampling learns too, as in ``seglib``
random upsampling       the intermediate layers start with PyTorch's random default and learn
random scores           the score layers start with PyTorch's random default
======================  ================================================================================================

Long, Shelhamer and Darrell (CVPR 2015, section 4.3): "Final layer deconvolutional filters are fixed to bilinear
interpolation, while intermediate upsampling layers are initialized to bilinear upsampling, and then learned"; random
scores gave "neither better performance nor faster convergence". The authors' released networks fix all filters and
their notes report no significant difference.
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
    """The final upsampling stays bilinear, the intermediate layers learn."""
    model.upsample["image"].requires_grad_(False)


def all_fixed(model: FCN) -> None:
    """Bilinear interpolation at every level, as in the authors' released networks."""
    model.upsample.requires_grad_(False)


def all_learned(model: FCN) -> None:
    """No change to ``seglib``'s model: every upsampling layer learns."""


def random_upsampling(model: FCN) -> None:
    """Intermediate transposed convolutions as PyTorch starts them; the final one as in the paper."""
    as_in_the_paper(model)
    for level, layer in model.upsample.items():
        if level != "image":
            nn.ConvTranspose2d.reset_parameters(layer)  # type: ignore[arg-type]


def random_scores(model: FCN) -> None:
    """Score layers as PyTorch starts them; upsampling as in the paper."""
    as_in_the_paper(model)
    for layer in model.score.values():
        layer.reset_parameters()  # type: ignore[operator]


def changed(change: Callable[[FCN], None]) -> FCN:
    """A new ``fcn_tiny`` with stride 8 for the scenes, after ``change`` was applied to it."""
    model = fcn_tiny(len(CATEGORIES), stride=STRIDE)
    change(model)
    return model


VARIANTS: dict[str, Callable[[FCN], None]] = {
    "as in the paper": as_in_the_paper,
    "all fixed": all_fixed,
    "all learned": all_learned,
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
    builders = {name: partial(changed, change) for name, change in only(variants, VARIANTS).items()}
    found = compare(builders, key="variant", seeds=seeds, steps=steps, **settings)
    return {"model": f"fcn_tiny, stride {STRIDE}", **found}
