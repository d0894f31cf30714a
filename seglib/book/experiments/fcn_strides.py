"""How much do skips sharpen? The same network, data, seeds and budget, with the finest scored map at stride 32 … 4.

Claim of Long, Shelhamer and Darrell (CVPR 2015, section 4.2 and table 2): adding scores of shallower maps refines the
prediction. They report a mean IU of 59.4, 62.4 and 62.7 for FCN-32s, -16s and -8s on a subset of the PASCAL VOC 2011
validation set.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from seglib.book.experiments.compare import compare
from seglib.data.scenes import CATEGORIES
from seglib.models.fcn import fcn_tiny

PAPER = {"32": 0.594, "16": 0.624, "8": 0.627}
"""Mean IU by stride as the paper reports it (its table 2)."""


def run(
    *, seeds: Sequence[int], steps: int, strides: Sequence[int] = (32, 16, 8, 4), **settings: Any
) -> dict[str, Any]:
    """Train ``fcn_tiny`` once for every seed and stride, and score it on held-out scenes.

    With one seed all strides start from the same encoder.

    Args:
        seeds: one run per seed; a seed sets the model's initialisation and the order of the scenes.
        steps: optimiser steps of each run.
        strides: strides of the finest map that is scored, each of them 32, 16, 8, 4 or 2.
        **settings: further arguments of :func:`~seglib.book.experiments.compare.compare`.

    Returns:
        What ``compare`` returns, with ``stride`` in each run.

    Raises:
        ValueError: without steps or scenes, or for a stride that the encoder does not have.
    """
    builders = {stride: partial(fcn_tiny, len(CATEGORIES), stride=stride) for stride in strides}
    found = compare(builders, key="stride", seeds=seeds, steps=steps, **settings)
    return {"model": "fcn_tiny", "paper_miou": PAPER, **found}
