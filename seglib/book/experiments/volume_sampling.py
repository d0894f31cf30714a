"""How should patches be chosen when the class that matters is small? Foreground oversampling, from none to always.

The same network is trained on small patches, of which none, a third or all are centred on the foreground: on a random
voxel of a random class of the case, so that lesions, where there are any, come up as often as the organ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from seglib.book.experiments.compare import every_run
from seglib.book.experiments.queries import differences
from seglib.book.experiments.volumes import (
    SCORES,
    ct_intensity,
    score_volumes,
    seeded,
    small_unet3d,
    train_on_patches,
    volumes_to_train_and_score,
)
from seglib.data.cases import StoredCases

SHARES = {"none": 0.0, "a third": 1 / 3, "all": 1.0}
PAIRS = (("a third", "none"), ("all", "none"), ("all", "a third"))
SMALL_PATCH = (16, 32, 32)
BATCH_SIZE = 4


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    scenes: int = 200,
    val_scenes: int = 30,
    keep: Path | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train the network once for every seed and share, and score it on whole volumes.

    Args:
        seeds: one run per seed; a seed sets the initialisation, the patches and their flips.
        steps: optimiser steps of each network.
        scenes: number of volumes to train on.
        val_scenes: number of held-out volumes to score on.
        keep: a file of finished runs; those that are in it are not made again.
        report: function that is called with a line of text after every run.

    Returns:
        The settings, ``shares``; ``runs``: one dict per seed and ``variant`` with what training tells and the scores;
        and ``differences``: a list of ``a``, ``b`` and for each score the mean over the seeds of a minus b with the
        ends of its 95% t-interval (left out for a single seed).

    Raises:
        ValueError: without steps or volumes.
    """
    train, val = volumes_to_train_and_score(scenes, val_scenes)
    settings = {"volumes": scenes, "val_volumes": val_scenes, "steps": steps, "patch": list(SMALL_PATCH)}
    settings |= {"batch_size": BATCH_SIZE}
    runs = every_run(
        SHARES, partial(_train_and_score, train=train, val=val, steps=steps),
        key="variant", seeds=seeds, shown=("loss", "dice_organ", "dice_vessel", "dice_lesion"), report=report,
        keep=keep, settings=settings,
    )  # fmt: skip
    return {
        "data": "volumes", **settings, "shares": SHARES,
        "runs": runs, "differences": [{"a": a, "b": b, **differences(runs, (a, b), SCORES)} for a, b in PAIRS],
    }  # fmt: skip


def _train_and_score(share: float, seed: int, *, train: StoredCases, val: StoredCases, steps: int) -> dict[str, Any]:
    model, intensity = seeded(small_unet3d, seed), ct_intensity(train)
    facts = train_on_patches(
        model, train, steps=steps, seed=seed, batch_size=BATCH_SIZE, patch=SMALL_PATCH, foreground=share,
        intensity=intensity,
    )  # fmt: skip
    return {"seed": seed, **facts, **score_volumes(model, val, intensity)}
