"""What does masked attention bring? ``mask2former_tiny`` with and without it.

Both networks have the same parameters, and with one seed the same initialisation and batches. Without the mask every
query attends to the whole map in every layer. Cheng et al. (CVPR 2022, table 4a) compare the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from seglib.book.experiments.compare import every_run
from seglib.book.experiments.queries import NUM_THINGS, differences, score_panoptic, train_queries
from seglib.data.scenes import CATEGORIES, Scenes
from seglib.models.mask2former import mask2former_tiny

VARIANTS = {"masked": True, "open": False}
"""Name of a variant → whether queries look only where their masks are."""

SCORES = ("pq", "pq_things", "pq_stuff", "miou", "ap", "ap50")

PAPER = {"masked": {"ap": 43.7, "pq": 51.9, "miou": 47.2}, "open": {"ap": 37.8, "pq": 47.1, "miou": 45.5}}
"""ResNet-50: mask AP and PQ on COCO, mIoU on ADE20K (Cheng et al. 2022, table 4a)."""


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    scenes: int = 1000,
    val_scenes: int = 200,
    batch_size: int = 8,
    data: tuple[Scenes, Scenes] | None = None,
    keep: Path | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train both networks once for every seed, and score them for three tasks.

    Args:
        seeds: one run per seed; a seed sets the initialisation of what isn't the encoder, and the order of the scenes.
        steps: optimiser steps of each network.
        scenes: number of scenes to train on, when ``data`` is not given.
        val_scenes: number of held-out scenes to score on, when ``data`` is not given.
        batch_size: scenes per step.
        data: training and held-out scenes with all annotations.
        keep: a file of finished runs; those that are in it are not made again.
        report: function that is called with a line of text after every run.

    Returns:
        The settings, the paper's numbers, ``runs``: one dict per seed and ``variant`` with ``curve`` (mean loss of each
        twentieth of the steps), ``seconds`` (CPU time of training) and the scores; and ``differences``: score → mean
        over the seeds of masked minus open, and the ends of its 95% t-interval (left out for a single seed).

    Raises:
        ValueError: without steps or scenes.
    """
    if steps < 1 or scenes < 1 or val_scenes < 1:
        raise ValueError(f"steps and scenes must be positive, got {steps}, {scenes} and {val_scenes}")
    train, val = data or (Scenes(scenes, split="train"), Scenes(val_scenes, split="val"))
    settings = {"scenes": len(train), "val_scenes": len(val), "steps": steps, "batch_size": batch_size}
    runs = every_run(
        VARIANTS, partial(_train_and_score, train=train, val=val, steps=steps, batch_size=batch_size),
        key="variant", seeds=seeds, shown=("loss", *SCORES), report=report, keep=keep, settings=settings,
    )  # fmt: skip
    return {
        "model": "mask2former_tiny", "data": "scenes", **settings, "paper": PAPER, "runs": runs,
        "differences": differences(runs, ("masked", "open"), SCORES),
    }  # fmt: skip


def _train_and_score(
    masked: bool, seed: int, *, train: Scenes, val: Scenes, steps: int, batch_size: int
) -> dict[str, Any]:
    build = partial(mask2former_tiny, len(CATEGORIES), num_things=NUM_THINGS, masked_attention=masked)
    model, facts = train_queries(build, train, steps=steps, seed=seed, batch_size=batch_size)
    return {"seed": seed, **facts, **score_panoptic(model, val)}
