"""What do U-Net's skips bring? The same encoder and decoder with and without them, beside an FCN that adds scores.

=================  ============================================================================================
skips              ``unet_tiny``: each step up is concatenated with the encoder's map of that size
no skips           ``unet_tiny(skips=False)``: the decoder has the deepest map alone
added scores       ``fcn_tiny``: the same encoder; scores of its maps are added on the way up
=================  ============================================================================================

Ronneberger, Fischer and Brox (MICCAI 2015) say what the skips are for and do not measure it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from seglib.book.experiments.compare import compare, only
from seglib.data.scenes import CATEGORIES
from seglib.models.base import Model
from seglib.models.fcn import fcn_tiny
from seglib.models.unet import unet_tiny

VARIANTS: dict[str, Callable[[], Model]] = {
    "skips": partial(unet_tiny, len(CATEGORIES)),
    "no skips": partial(unet_tiny, len(CATEGORIES), skips=False),
    "added scores": partial(fcn_tiny, len(CATEGORIES)),
}


def run(
    *, seeds: Sequence[int], steps: int, variants: Sequence[str] = tuple(VARIANTS), **settings: Any
) -> dict[str, Any]:
    """Train every variant once for every seed, and score it on held-out scenes.

    With one seed all variants see the same batches and their encoders start alike.

    Args:
        seeds: one run per seed; a seed sets the model's initialisation and the order of the scenes.
        steps: optimiser steps of each run.
        variants: names in `VARIANTS`.
        **settings: further arguments of :func:`~seglib.book.experiments.compare.compare`.

    Returns:
        What ``compare`` returns, with ``variant`` in each run, and ``parameters``: the weights of each variant.

    Raises:
        ValueError: without steps or scenes, or for an unknown variant.
    """
    builders = only(variants, VARIANTS)
    parameters = {name: sum(p.numel() for p in build().parameters()) for name, build in builders.items()}
    found = compare(builders, key="variant", seeds=seeds, steps=steps, **settings)
    return {"model": "unet_tiny", "parameters": parameters, **found}
