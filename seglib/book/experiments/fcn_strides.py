"""How much do skips sharpen? The same network, data, seeds and budget, with the finest scored map at stride 32 … 4.

Claim of Long, Shelhamer and Darrell (CVPR 2015, section 4.2 and table 2): adding scores of shallower maps refines the
prediction. They report a mean IU of 59.4, 62.4 and 62.7 for FCN-32s, -16s and -8s on a subset of the PASCAL VOC 2011
validation set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from seglib.book.experiments.semantic import SceneTensors, load_scenes, train_and_score
from seglib.data.scenes import CATEGORIES
from seglib.models.fcn import fcn_tiny

PAPER = {"32": 0.594, "16": 0.624, "8": 0.627}
"""Mean IU by stride as the paper reports it (its table 2)."""


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    strides: Sequence[int] = (32, 16, 8, 4),
    scenes: int = 2000,
    val_scenes: int = 200,
    batch_size: int = 16,
    data: tuple[SceneTensors, SceneTensors] | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train ``fcn_tiny`` once for every seed and stride, and score it on held-out scenes.

    With one seed all strides start from the same encoder and see the same batches.

    Args:
        seeds: of the weights and of the order of the scenes.
        steps: optimiser steps of each run.
        strides: of the finest map that is scored: 32, 16, 8, 4 or 2.
        scenes: number of scenes to train on, when ``data`` is not given.
        val_scenes: number of scenes to score on, when ``data`` is not given.
        batch_size: scenes per step.
        data: training and held-out scenes that are in memory already.
        report: called with a line of text after every run.

    Returns:
        The settings and ``runs``: one dict per run with ``stride``, ``seed``, ``first_loss``, ``loss`` and the scores.

    Raises:
        ValueError: without steps or scenes, or for a stride that the encoder does not have.
    """
    train, val = data or load_scenes(scenes, val_scenes)
    runs: list[dict[str, Any]] = []
    for seed in seeds:
        for stride in strides:
            build = partial(fcn_tiny, len(CATEGORIES), stride=stride)
            found = train_and_score(build, train, val, seed=seed, steps=steps, batch_size=batch_size)
            runs.append({"stride": stride} | found)
            if report is not None:
                scores = ", ".join(f"{name} {found[name]:.3f}" for name in ("miou", "boundary_iou", "thin_iou"))
                report(f"seed {seed}, stride {stride}: {scores}")
    settings = {"model": "fcn_tiny", "data": "scenes", "scenes": len(train), "val_scenes": len(val)}
    return {
        **settings,
        "steps": steps,
        "batch_size": batch_size,
        "strides": list(strides),
        "paper_miou": PAPER,
        "runs": runs,
    }
