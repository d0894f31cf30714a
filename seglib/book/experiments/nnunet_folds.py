"""What do five folds bring? Five networks, each trained on four fifths of the cases, alone and as an ensemble.

Every training case is left out by one of the networks, so the scores of all of them cost no case. On test cases the
five networks answer together: the mean of their logits, with one view of each case and with eight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from seglib.book.experiments.nnunet import by_class, dice_of_cases, plan_of_volumes, prepared_cases, train_planned
from seglib.data.cases import StoredCases
from seglib.data.volumes import Volumes
from seglib.models.base import Model
from seglib.postprocess.whole_cases import Ensemble
from seglib.viz.charts import interval95

FOLDS = 5
FLIPS = (0, 1, 2)


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    scenes: int = 40,
    val_scenes: int = 40,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train a network for each fold, and score it on the cases that it has not seen.

    Args:
        seeds: the first one is that of all networks.
        steps: optimiser steps of each network.
        scenes: number of volumes that are dealt to the folds, at least 5.
        val_scenes: number of test volumes.
        report: function that is called with a line of text after every fold.

    Returns:
        The settings; ``folds``: one dict per fold with what training tells, ``left_out`` (Dice of each class on the
        cases of the fold) and ``test`` (on the test volumes); ``out_of_fold``: the Dice of each class over all cases,
        each predicted by the network that has not seen it; ``ensemble`` and ``mirrored``: that of the five networks
        together on the test volumes, with one view and with eight; and ``gain`` and ``mirrored_gain``: the mean over
        test volumes of the ensemble's mean Dice minus that of the five networks' average, and of eight views minus
        one, with the ends of their paired 95% t-intervals.

    Raises:
        ValueError: without steps, or with too few volumes.
    """
    if scenes < FOLDS or val_scenes < 2:
        raise ValueError(f"{FOLDS} folds need as many volumes, and two test volumes, got {scenes} and {val_scenes}")
    plan = plan_of_volumes(scenes)
    volumes = Volumes(scenes, split="train")
    prepared, cases = prepared_cases(volumes, plan), StoredCases(volumes)
    test = StoredCases(Volumes(val_scenes, split="test"))
    models: list[Model] = []
    rows, left_out, alone = [], [], []
    for fold in range(FOLDS):
        inside = [i for i in range(scenes) if i % FOLDS != fold]
        outside = [i for i in range(scenes) if i % FOLDS == fold]
        model, facts = train_planned(plan, prepared, indices=inside, steps=steps, seed=seeds[0])
        models.append(model)
        left_out.append(dice_of_cases(model, cases, indices=outside))  # (n, K − 1)
        alone.append(dice_of_cases(model, test))  # (N, K − 1)
        rows.append({"fold": fold, **facts, "left_out": by_class(left_out[-1]), "test": by_class(alone[-1])})
        if report is not None:
            report(f"fold {fold}: left out {rows[-1]['left_out']['mean_dice']:.3f}, {facts['seconds']:.0f} s")
    together = Ensemble(models, [None] * FOLDS)
    ensemble, mirrored = dice_of_cases(together, test), dice_of_cases(together, test, flips=FLIPS)
    return {
        "data": "volumes", "volumes": scenes, "test_volumes": val_scenes, "steps": steps, "folds": rows,
        "out_of_fold": by_class(torch.cat(left_out)), "ensemble": by_class(ensemble), "mirrored": by_class(mirrored),
        "gain": _paired(ensemble, *alone), "mirrored_gain": _paired(mirrored, ensemble),
    }  # fmt: skip


def _paired(one: Tensor, *others: Tensor) -> list[float]:
    """Mean over cases of one Dice ``(N, K − 1)`` minus the mean of others, and its 95% interval."""
    rest = torch.stack([other.nanmean(1) for other in others]).mean(0)  # (N,)
    mean, half = interval95((one.nanmean(1) - rest)[:, None])
    return [round(float(v), 5) for v in (mean[0], mean[0] - half[0], mean[0] + half[0])]
