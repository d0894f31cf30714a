"""Cross-validation of volumes: the choice of a configuration, of an ensemble, and of what is removed from its answers.

::

    run of fold 0 ─► its validation cases ─┐
    run of fold 1 ─► its validation cases ─┼─► every case, predicted by a model that has not seen it ─► mean Dice
        …                                  ┘

All models of the chosen configurations then answer together for new cases. Keeping only the largest component of the
foreground, or of a class, is decided on the same predictions.

Source: Isensee et al., "nnU-Net", Nature Methods 2021, Methods, "Empirical parameters".
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seglib.files import atomic_path, read_json
from seglib.metrics.confusion import SemanticScores, confusion
from seglib.postprocess.components import keep_largest
from seglib.types import VOID

Groups = tuple[tuple[int, ...], ...]
"""Classes whose largest component is kept, as regions, in the order in which they are treated."""


@dataclass(frozen=True)
class FoldRun:
    """A model of one fold.

    Attributes:
        weights: its weights file.
        configuration: how it was trained, "3d_fullres" for example; models of all folds share it.
        plan: a digest of the plan behind it, or ``None``.
        fold: the fold whose cases it was not trained on.
        previous: the configuration from whose predictions it goes on, or ``None``.
    """

    weights: Path
    configuration: str
    plan: str | None
    fold: int
    previous: str | None = None

    @classmethod
    def of(cls, weights: Path, metadata: Mapping[str, Any]) -> FoldRun:
        """The run whose weights have these metadata.

        Raises:
            ValueError: when they are of no fold.
        """
        if metadata.get("fold") is None:
            raise ValueError(f"{weights} are of no fold; train with --fold on a data set that has folds, msd or nnunet")
        plan = metadata.get("plan") or {"configuration": metadata["model"], "digest": None}
        return cls(weights, plan["configuration"], plan["digest"], metadata["fold"], plan.get("previous"))


def by_configuration(runs: Sequence[FoldRun], folds: Sequence[int]) -> dict[str, dict[int, FoldRun]]:
    """The runs of each configuration, by fold.

    Args:
        runs: runs in any order.
        folds: the folds that every configuration must have; runs of others are left out.

    Raises:
        ValueError: when two runs are of one configuration and fold or of different plans, and, naming them, when folds
            are missing.
    """
    found: dict[str, dict[int, FoldRun]] = {}
    for run in runs:
        of_folds = found.setdefault(run.configuration, {})
        for other in of_folds.values():
            if other.plan != run.plan:
                raise ValueError(
                    f"{other.weights} and {run.weights} are both of {run.configuration}, but by different plans; train "
                    "all folds with one plan"
                )
        if run.fold in of_folds:
            raise ValueError(
                f"{of_folds[run.fold].weights} and {run.weights} are both of {run.configuration} and fold {run.fold}; "
                "pass one of them"
            )
        of_folds[run.fold] = run
    missing = {name: [f for f in folds if f not in of_folds] for name, of_folds in found.items()}
    if lacking := [f"{name} lacks fold {', '.join(map(str, absent))}" for name, absent in missing.items() if absent]:
        raise ValueError(f"{'; '.join(lacking)}; train them with --fold, or pass their runs")
    return {name: {f: of_folds[f] for f in folds} for name, of_folds in found.items()}


def candidates(configurations: Sequence[str]) -> list[tuple[str, ...]]:
    """What a choice is made from: each configuration alone, then each pair of them as an ensemble (nnU-Net's rule)."""
    return [(name,) for name in configurations] + list(combinations(configurations, 2))


def component_dice(labels: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Dice of a case by class, with and without smaller components.

    Args:
        labels: predicted class ids ``(D, H, W)``.
        target: true class ids ``(D, H, W)``; void (255) counts for nothing.
        num_classes: number of classes K.

    Returns:
        ``(2, 2, K − 1)`` float64. The first axis is 1 where only the largest component of all foreground is kept, the
        second, after that, where the largest of each class is. NaN where a class is in neither map.
    """
    foreground = range(1, num_classes)
    rows = []
    for whole in (labels, keep_largest(labels, foreground)):
        single = whole
        for c in foreground:
            single = keep_largest(single, [c])
        for found in (whole, single):
            counts = confusion(found, target, num_classes, VOID)
            rows.append(SemanticScores.from_counts(counts, VOID).dice[1:])
    return torch.stack(rows).view(2, 2, -1)


def mean_over_cases(dice: Tensor) -> Tensor:
    """The Dice of each class: its mean over the cases that have one, ``(N, …, K − 1)`` → ``(…, K − 1)``."""
    return dice.nanmean(0)


def choose_components(dice: Tensor) -> tuple[Groups, Tensor]:
    """Decide of which regions only the largest component is kept.

    First for all foreground as one region: it is, when the mean Dice rises and that of no class falls. Then for each
    class by itself: it is, when the Dice of the class rises. Removing voxels of a class touches the Dice of no other.

    Args:
        dice: :func:`component_dice` of all cases, ``(N, 2, 2, K − 1)``.

    Returns:
        The groups of classes to be treated, and the Dice of each class that results, ``(K − 1,)``.
    """
    (plain, plain_single), (whole, whole_single) = mean_over_cases(dice)  # (K − 1,) each
    kept: Groups = ()
    if whole.nanmean() > plain.nanmean() and not (whole < plain).any():
        kept = (tuple(range(1, len(plain) + 1)),)
        plain, plain_single = whole, whole_single
    better = plain_single > plain
    kept += tuple((c,) for c in (1 + better.nonzero()[:, 0]).tolist())
    return kept, torch.where(better, plain_single, plain)


@dataclass(frozen=True)
class Choice:
    """What ``seglib select`` found best.

    Attributes:
        configurations: one configuration, or two that answer together.
        weights: the weights of all their folds.
        previous: the weights of the stage before, of a cascade.
        largest: the groups of classes of which only the largest component is kept, in this order.
        classes: the names of the classes, the background first.
        scores: the mean Dice of every candidate, by its name, and of the best one after components are removed.
    """

    configurations: tuple[str, ...]
    weights: tuple[Path, ...]
    previous: tuple[Path, ...]
    largest: Groups
    classes: tuple[str, ...]
    scores: dict[str, float]


def write_choice(choice: Choice, path: Path) -> None:
    """Write a choice as JSON. Weights are named relative to its folder, so that both can be moved together."""

    def relative(files: Sequence[Path]) -> list[str]:
        return [Path(os.path.relpath(p.absolute(), path.absolute().parent)).as_posix() for p in files]

    content = {
        "configurations": list(choice.configurations),
        "weights": relative(choice.weights),
        "previous": relative(choice.previous),
        "largest_component": [[choice.classes[c] for c in group] for group in choice.largest],
        "classes": list(choice.classes),
        "mean_dice": choice.scores,
    }
    with atomic_path(path) as beside:
        beside.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_choice(path: Path) -> Choice:
    """Read what :func:`write_choice` wrote.

    Raises:
        FileNotFoundError: when there is no such file, or weights that it names are missing.
        ValueError: when it is no choice, or damaged.
    """
    try:
        content = read_json(path)
        classes = tuple(content["classes"])
        choice = Choice(
            configurations=tuple(content["configurations"]),
            weights=tuple(path.parent / name for name in content["weights"]),
            previous=tuple(path.parent / name for name in content["previous"]),
            largest=tuple(tuple(classes.index(name) for name in group) for group in content["largest_component"]),
            classes=classes,
            scores=dict(content["mean_dice"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no choice of `seglib select` ({error}); run it again") from error
    if not choice.weights:
        raise ValueError(f"{path} names no weights; run `seglib select` again")
    if missing := [p for p in (*choice.weights, *choice.previous) if not p.is_file()]:
        raise FileNotFoundError(
            f"{path} names {missing[0]}, which does not exist; copy the runs with it, or select again"
        )
    return choice
