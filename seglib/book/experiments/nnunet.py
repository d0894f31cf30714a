"""What the experiments on nnU-Net share: the plan of the synthetic volumes, training by it, and Dice case by case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from seglib.book.experiments.training import timed
from seglib.data.cases import StoredCases
from seglib.data.nnunet_transforms import nnunet_transform
from seglib.data.patches import Patches
from seglib.data.prepared import PreparedCases
from seglib.data.volumes import CATEGORIES, Volumes
from seglib.metrics.volumes import dice
from seglib.models.nnunet import NNUNet, nnunet_tiny
from seglib.models.semantic import Criterion
from seglib.planning.fingerprint import fingerprint
from seglib.planning.plan import Plan, plan
from seglib.postprocess.whole_cases import label_case
from seglib.train.loop import fit
from seglib.train.recipes import recipe
from seglib.train.volume_task import VolumeTask
from seglib.types import VOID

CONFIGURATION = "3d_fullres"
WIDTH = 8
"""Channels of the finest level: two thirds of those of ``nnunet_tiny``, so that an experiment takes an hour."""

MEMORY = 0.1
"""GB to plan for; at this width it gives the patch of 32×56×56 voxels that ``nnunet_tiny`` is made for."""


def plan_of_volumes(count: int) -> Plan:
    """The plan of the first synthetic training volumes, for the memory that ``nnunet_tiny`` is made for."""
    return plan(fingerprint(Volumes(count, split="train"), "volumes"), memory=MEMORY, width=WIDTH)


def prepared_cases(volumes: Volumes, plan: Plan) -> StoredCases:
    """The volumes as a model sees them, in memory."""
    return StoredCases(PreparedCases(volumes, plan.preparation(CONFIGURATION)))


def train_planned(
    plan: Plan,
    cases: StoredCases,
    *,
    steps: int,
    seed: int,
    indices: Sequence[int] | None = None,
    deep_supervision: bool = True,
    foreground: bool = True,
    augmentation: bool = True,
    criterion: Criterion | None = None,
) -> tuple[NNUNet, dict[str, Any]]:
    """Train the network of a plan with nnU-Net's recipe, or without some of its ingredients.

    Args:
        plan: the plan of the volumes.
        cases: prepared volumes to train on.
        steps: optimiser steps.
        seed: sets the initialisation, the places of the patches and their augmentation.
        indices: the cases to train on, all when not given.
        deep_supervision: whether the coarser outputs are trained, too.
        foreground: whether a share of the patches is centred on the foreground, as the plan says.
        augmentation: whether patches are augmented.
        criterion: the loss; ``None`` is cross-entropy plus Dice loss.

    Returns:
        The model, and what :func:`~seglib.book.experiments.training.timed` tells of its training.
    """
    configuration = plan.configurations[CONFIGURATION]
    patch = configuration.patch
    transform = nnunet_transform(patch) if augmentation else None
    share = configuration.foreground if foreground else 0.0
    patches: Any = Patches(cases, patch, foreground=share, transform=transform)
    if indices is not None:
        patches = Subset(patches, indices)
    torch.manual_seed(seed)
    model = nnunet_tiny(len(CATEGORIES), width=WIDTH, aux_outputs=None if deep_supervision else 0)
    model.preparation = plan.preparation(CONFIGURATION)
    if criterion is not None:
        model.criterion = criterion
    config = replace(recipe("nnunet_tiny"), steps=steps, batch_size=configuration.batch_size, seed=seed, eval_every=0)
    task = VolumeTask(CATEGORIES, patch)
    facts = timed(lambda: list(fit(model, patches, task=task, config=config).losses.values()))
    return model, facts


def dice_of_cases(
    model: torch.nn.Module, cases: StoredCases, *, indices: Sequence[int] | None = None, flips: Sequence[int] = ()
) -> Tensor:
    """Dice of every case and class but the background, ``(N, K − 1)``; NaN where neither map has the class.

    Args:
        model: a planned model, or an ensemble.
        cases: whole volumes, as they are.
        indices: the cases to score, all when not given.
        flips: test-time flips.
    """
    rows = []
    for i in range(len(cases)) if indices is None else indices:
        sample = cases[i]
        assert sample.semantic is not None
        labels = label_case(model, sample.image, sample.spacing, None, flips=flips)
        target, void = sample.semantic, sample.semantic == VOID
        rows.append([dice(labels == c.id, target == c.id, void=void) for c in CATEGORIES[1:]])
    return torch.tensor(rows, dtype=torch.float64)


def by_class(dice: Tensor) -> dict[str, float]:
    """Dice of each class, the mean over the cases ``(N, K − 1)`` that have one, and ``mean_dice`` over classes."""
    per_class = dice.nanmean(0)
    names = [c.name for c in CATEGORIES[1:]]
    found = {f"dice_{name}": round(float(v), 5) for name, v in zip(names, per_class, strict=True)}
    return {"mean_dice": round(float(per_class.nanmean()), 5), **found}
