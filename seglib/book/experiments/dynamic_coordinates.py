"""What do coordinates bring to generated filters? ``condinst_tiny`` and ``solov2_tiny`` with and without them.

CondInst's filters see where a cell lies relative to their object. SOLOv2's kernels see features alone: explicit
coordinates enter the branch that makes kernels, the features, both or neither. Wang et al. (NeurIPS 2020, table 3b)
report the mask AP of SOLOv2 on COCO: 37.8 with both, 37.1 in the features alone, 36.3 in the kernels alone, and 36.3
with none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from seglib.book.experiments.compare import only
from seglib.book.experiments.instances import NUM_CLASSES, compare_objects
from seglib.data.scenes import Scenes
from seglib.models.base import Model
from seglib.models.condinst import condinst_tiny
from seglib.models.solov2 import solov2_tiny

VARIANTS: dict[str, Callable[[], Model]] = {
    "CondInst, relative": partial(condinst_tiny, NUM_CLASSES),
    "CondInst, none": partial(condinst_tiny, NUM_CLASSES, relative_coordinates=False),
    "SOLOv2, both": partial(solov2_tiny, NUM_CLASSES),
    "SOLOv2, kernel": partial(solov2_tiny, NUM_CLASSES, coordinates=("kernel",)),
    "SOLOv2, feature": partial(solov2_tiny, NUM_CLASSES, coordinates=("feature",)),
    "SOLOv2, none": partial(solov2_tiny, NUM_CLASSES, coordinates=()),
}

PAPER = {
    "SOLOv2, both": [0.378, 0.585, 0.404],
    "SOLOv2, kernel": [0.363, 0.573, 0.385],
    "SOLOv2, feature": [0.371, 0.580, 0.394],
    "SOLOv2, none": [0.363, 0.574, 0.386],
}
"""Mask AP, AP50 and AP75 on COCO as Wang et al. report them in table 3b."""


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    variants: Sequence[str] = tuple(VARIANTS),
    scenes: int = 1000,
    val_scenes: int = 100,
    batch_size: int = 4,
    data: tuple[Scenes, Scenes] | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train every variant once for every seed, and score its masks.

    With one seed all variants see the same batches and start from the same encoder.

    Args:
        seeds: one run per seed; a seed sets the initialisation and the order of the scenes.
        steps: optimiser steps of each run.
        variants: names of the variants to train, out of `VARIANTS`.
        scenes: number of scenes to train on, when ``data`` is not given.
        val_scenes: number of held-out scenes to score on, when ``data`` is not given.
        batch_size: scenes per step.
        data: training and held-out scenes.
        report: function that is called with a line of text after every run.

    Returns:
        The settings, the paper's numbers, and ``runs``: one dict per run with ``variant`` and what
        :func:`~seglib.book.experiments.instances.train_and_score` gives.

    Raises:
        ValueError: without steps or scenes, or for an unknown variant.
    """
    builders: Mapping[str, Callable[[], Model]] = only(variants, VARIANTS)
    found = compare_objects(
        builders, key="variant", seeds=seeds, steps=steps, scenes=scenes, val_scenes=val_scenes,
        batch_size=batch_size, data=data, report=report,
    )  # fmt: skip
    runs = found.pop("runs")
    return {"model": "condinst_tiny, solov2_tiny", **found, "paper": PAPER, "runs": runs}
