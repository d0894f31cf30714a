"""How many slices must an expert annotate? The same network, trained from some of the 32 slices of each volume.

All other voxels are void: they weigh nothing in the cross-entropy and in the Dice loss, but the network sees them
(Çiçek et al. 2016, section 3.3). Training volumes, steps and patches are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from seglib.book.experiments.compare import every_run
from seglib.book.experiments.queries import differences
from seglib.book.experiments.volumes import (
    PATCH,
    SCORES,
    ct_intensity,
    score_volumes,
    seeded,
    small_unet3d,
    train_on_patches,
    volumes_to_train_and_score,
)
from seglib.data.cases import StoredCases

COUNTS = {"1 slice": 1, "2 slices": 2, "4 slices": 4, "all slices": 32}
PAIRS = tuple(("all slices", name) for name in list(COUNTS)[:-1])


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    scenes: int = 100,
    val_scenes: int = 30,
    keep: Path | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train the network once for every seed and number of slices, and score it on whole volumes.

    Args:
        seeds: one run per seed; a seed sets the initialisation, the patches and their flips.
        steps: optimiser steps of each network.
        scenes: number of volumes to train on.
        val_scenes: number of held-out volumes to score on.
        keep: a file of finished runs; those that are in it are not made again.
        report: function that is called with a line of text after every run.

    Returns:
        The settings, ``counts``; ``runs``: one dict per seed and ``variant`` with what training tells and the scores;
        and ``differences``: a list of ``a``, ``b`` and for each score the mean over the seeds of a minus b with the
        ends of its 95% t-interval (left out for a single seed).

    Raises:
        ValueError: without steps or volumes.
    """
    val = volumes_to_train_and_score(scenes, val_scenes)[1]
    cases = {name: volumes_to_train_and_score(scenes, 1, annotated=n)[0] for name, n in COUNTS.items()}
    settings = {"volumes": scenes, "val_volumes": val_scenes, "steps": steps, "patch": list(PATCH), "batch_size": 2}
    runs = every_run(
        cases, partial(_train_and_score, full=cases["all slices"], val=val, steps=steps),
        key="variant", seeds=seeds, shown=("loss", "dice_organ", "dice_vessel", "dice_lesion"), report=report,
        keep=keep, settings=settings,
    )  # fmt: skip
    return {
        "data": "volumes", **settings, "counts": COUNTS,
        "runs": runs, "differences": [{"a": a, "b": b, **differences(runs, (a, b), SCORES)} for a, b in PAIRS],
    }  # fmt: skip


def _train_and_score(
    train: StoredCases, seed: int, *, full: StoredCases, val: StoredCases, steps: int
) -> dict[str, Any]:
    model, intensity = seeded(small_unet3d, seed), ct_intensity(full)  # one scaling, so that labels alone differ
    facts = train_on_patches(model, train, steps=steps, seed=seed, intensity=intensity)
    return {"seed": seed, **facts, **score_volumes(model, val, intensity)}
