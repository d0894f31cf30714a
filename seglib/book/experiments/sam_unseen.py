"""Does a click find what training never asked for? ``sam_tiny`` trained on all things, and without two classes.

Both networks start from nothing: the encoder of ``fcn_tiny`` has seen all classes. They see windows of the same
scenes, cars and balloons included; one is never asked for these two. Both are scored on the same objects of whole
scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from seglib.book.experiments.compare import every_run
from seglib.book.experiments.instances import THINGS
from seglib.book.experiments.prompts import (
    SCORES,
    SIZE,
    WINDOW,
    few_prompts,
    intervals,
    mean_scores,
    objects_of,
    scenes_to_prompt,
    train_prompts,
)
from seglib.data.prompts import OnlyObjects
from seglib.data.scenes import Scenes
from seglib.models.sam import Sam, sam_tiny

UNSEEN = ("car", "balloon")
WITHOUT, ALL = f"without {' and '.join(UNSEEN)}", "all classes"
VARIANTS = {WITHOUT: tuple(c.name for c in THINGS if c.name not in UNSEEN), ALL: tuple(c.name for c in THINGS)}


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    scenes: int = 1000,
    val_scenes: int = 60,
    batch_size: int = 16,
    data: tuple[Scenes, Scenes] | None = None,
    keep: Path | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train both networks once for every seed, and score them on objects of seen and of unseen classes.

    Args:
        seeds: one run per seed; a seed sets the initialisation, the order of the scenes and the prompts of training.
        steps: optimiser steps of each network.
        scenes: number of scenes to train on, when ``data`` is not given.
        val_scenes: number of held-out scenes to score on, when ``data`` is not given.
        batch_size: windows of scenes per step.
        data: training and held-out scenes with instances.
        keep: a file of finished runs; those that are in it are not made again.
        report: function that is called with a line of text after every run.

    Returns:
        The settings, ``unseen`` (names of the two classes), the number of ``objects`` of seen and of unseen classes
        that are scored; ``runs``: one dict per seed and ``variant`` with what training tells, the mean IoU after one
        and after five clicks and with a box (``seen_at_1``, …, ``unseen_box``), and the same of each class in
        ``classes``; and ``differences``: for each score the network that was not asked for them minus the other, a mean
        over the objects and the seeds, with the ends of its 95% interval, a bootstrap over scenes. It says how far the
        score depends on the scenes, not on the seeds.

    Raises:
        ValueError: without steps or scenes.
    """
    if steps < 1:
        raise ValueError(f"steps must be positive, got {steps}")
    train, val = data or (scenes_to_prompt(scenes, "train", window=WINDOW), scenes_to_prompt(val_scenes, "val"))
    settings = {"scenes": len(train), "val_scenes": len(val), "steps": steps, "batch_size": batch_size}
    each = [objects_of(val[i]).labels for i in range(len(val))]
    counts, labels = [len(own) for own in each], torch.cat(each)
    unseen = torch.tensor([THINGS[label].name in UNSEEN for label in labels.tolist()])

    def build() -> Sam:
        model = sam_tiny()
        model.training_settings = replace(model.training_settings, windows=True)
        return model

    def train_and_score(classes: Sequence[str], seed: int) -> dict[str, Any]:
        asked = OnlyObjects(train, classes=classes)
        model, facts = train_prompts(build, asked, steps=steps, seed=seed, batch_size=batch_size)
        ious = torch.cat(few_prompts(model, val))  # (N, 3)
        groups = mean_scores(ious[~unseen], "seen_") | mean_scores(ious[unseen], "unseen_")
        of_class = {c.name: mean_scores(ious[labels == c.id]) for c in THINGS if (labels == c.id).any()}
        every = [[round(v, 4) for v in row] for row in ious.tolist()]
        return {"seed": seed, **facts, **groups, "classes": of_class, "ious": every}

    shown = ("loss", "seen_at_1", "seen_at_5", "unseen_at_1", "unseen_at_5", "unseen_box")
    runs = every_run(
        VARIANTS, train_and_score, key="variant", seeds=seeds, shown=shown, report=report, keep=keep, settings=settings
    )
    ious = {v: torch.tensor([r["ious"] for r in runs if r["variant"] == v]).mean(0) for v in VARIANTS}  # (N, 3) each
    gains = (ious[WITHOUT] - ious[ALL]).split(counts)  # (n, 3) for each scene
    rows = {
        group: intervals([g[c] for g, c in zip(gains, chosen.split(counts), strict=True)], resamples=1000, seed=0)
        for group, chosen in (("seen", ~unseen), ("unseen", unseen))
    }
    return {
        "model": "sam_tiny", "data": "scenes", "size": SIZE, "window": WINDOW, **settings, "unseen": list(UNSEEN),
        "objects": {"seen": int((~unseen).sum()), "unseen": int(unseen.sum())},
        "runs": [{k: v for k, v in r.items() if k != "ious"} for r in runs],
        "differences": {f"{g}_{s}": row for g, found in rows.items() for s, row in zip(SCORES, found, strict=True)},
    }  # fmt: skip
