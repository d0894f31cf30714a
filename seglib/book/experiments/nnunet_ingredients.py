"""What is each ingredient of nnU-Net's training worth? The whole recipe, and the recipe without one of its parts.

The network, the patches and the optimiser are those of the plan of the synthetic volumes; there are few training cases,
as there are in medicine. A variant lacks one ingredient and is trained on the same patches with the same seed:

- no deep supervision: the loss sees the last output alone;
- no foreground patches: all places of a patch are equally likely;
- no augmentation: patches are as they are;
- cross-entropy alone, Dice loss alone: the loss has one of its two terms.

Mirroring at test time needs no training: the networks of the whole recipe are scored with one view and with eight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from seglib.book.experiments.compare import every_run
from seglib.book.experiments.nnunet import by_class, dice_of_cases, plan_of_volumes, prepared_cases, train_planned
from seglib.book.experiments.queries import differences
from seglib.data.cases import StoredCases
from seglib.data.volumes import CATEGORIES, Volumes
from seglib.losses.pixel import cross_entropy
from seglib.losses.region import dice_loss
from seglib.models.semantic import Criterion
from seglib.planning.plan import Plan

WHOLE, MIRRORED = "the whole recipe", "mirroring at test time"
SCORES: Sequence[str] = ("mean_dice", *(f"dice_{c.name}" for c in CATEGORIES[1:]))


@dataclass(frozen=True)
class Ingredients:
    """Which parts of the recipe a variant has."""

    deep_supervision: bool = True
    foreground: bool = True
    augmentation: bool = True
    criterion: Criterion | None = None


VARIANTS = {
    WHOLE: Ingredients(),
    "no deep supervision": Ingredients(deep_supervision=False),
    "no foreground patches": Ingredients(foreground=False),
    "no augmentation": Ingredients(augmentation=False),
    "cross-entropy alone": Ingredients(criterion=cross_entropy),
    "Dice loss alone": Ingredients(criterion=partial(dice_loss, absent="count", include_background=False)),
}


def run(
    *,
    seeds: Sequence[int],
    steps: int,
    scenes: int = 16,
    val_scenes: int = 30,
    keep: Path | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train every variant once for every seed, and score it on whole held-out volumes.

    Args:
        seeds: one run per seed; a seed sets the initialisation, the patches and their augmentation.
        steps: optimiser steps of each network.
        scenes: number of volumes to train on.
        val_scenes: number of held-out volumes to score on.
        keep: a file of finished runs; those that are in it are not made again.
        report: function that is called with a line of text after every run.

    Returns:
        The settings; ``runs``: one dict per seed and ``variant`` with what training tells and the Dice of each class,
        the whole recipe's also with ``mirrored``, the same with eight views; and ``differences``: a list of ``a``,
        ``b`` and for each score the mean over the seeds of a minus b with the ends of its 95% t-interval.

    Raises:
        ValueError: without steps or volumes.
    """
    if scenes < 1 or val_scenes < 1:
        raise ValueError(f"the numbers of volumes must be positive, got {scenes} and {val_scenes}")
    plan = plan_of_volumes(scenes)
    train = prepared_cases(Volumes(scenes, split="train"), plan)
    val = StoredCases(Volumes(val_scenes, split="val"))
    settings = {"volumes": scenes, "val_volumes": val_scenes, "steps": steps}
    runs = every_run(
        VARIANTS, partial(_train_and_score, plan=plan, train=train, val=val, steps=steps),
        key="variant", seeds=seeds, shown=SCORES, report=report, keep=keep, settings=settings,
    )  # fmt: skip
    both = [*runs, *({**r["mirrored"], "variant": MIRRORED, "seed": r["seed"]} for r in runs if r["variant"] == WHOLE)]
    pairs = [(WHOLE, name) for name in VARIANTS if name != WHOLE] + [(MIRRORED, WHOLE)]
    found = [{"a": a, "b": b, **differences(both, (a, b), SCORES)} for a, b in pairs]
    return {"data": "volumes", **settings, "variants": list(VARIANTS), "runs": runs, "differences": found}


def _train_and_score(
    ingredients: Ingredients, seed: int, *, plan: Plan, train: StoredCases, val: StoredCases, steps: int
) -> dict[str, Any]:
    model, facts = train_planned(
        plan, train, steps=steps, seed=seed, deep_supervision=ingredients.deep_supervision,
        foreground=ingredients.foreground, augmentation=ingredients.augmentation, criterion=ingredients.criterion,
    )  # fmt: skip
    row = {"seed": seed, **facts, **by_class(dice_of_cases(model, val))}
    if ingredients == Ingredients():
        row["mirrored"] = by_class(dice_of_cases(model, val, flips=(0, 1, 2)))
    return row
