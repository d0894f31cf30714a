"""Dice, HD95 and normalised surface Dice of volumes: per class, the mean over cases, then over classes.

Every case has scores of its own, since distances do not add up over cases; a mean over the voxels of a whole dataset
would be decided by its largest organs. The mean over cases comes first: a class that few cases have counts as much as
one that all have (nnU-Net's order).

A class that neither the prediction nor the target of a case has says nothing, and the case does not count for it. A
class that only one of them has gets the worst scores there are, Dice 0, surface Dice 0 and the diagonal of the volume
as HD95. So a missed object never improves a mean. :mod:`seglib.metrics.surface` states the conventions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seglib.metrics.confusion import SemanticScores, confusion
from seglib.metrics.streaming import StreamingCounts
from seglib.metrics.surface import check_masks, surface_distances
from seglib.types import VOID, Category


def dice(pred: Tensor, target: Tensor, *, void: Tensor | None = None) -> float:
    r"""The Dice score of two masks.

    .. math:: \text{Dice} = \frac{2\, |P \cap T|}{|P| + |T|}

    Args:
        pred: the predicted mask, ``(D, H, W)`` or ``(H, W)`` bool.
        target: the true mask, the same shape.
        void: where the target says nothing, a bool mask of the same shape; its voxels are not counted.

    Returns:
        The score in [0, 1]; 0 when one mask is empty, NaN when both are (other tools say 1, or 0).

    Raises:
        ValueError: when a mask isn't bool, or the shapes differ.
    """
    p, t, v = check_masks(pred, target, void)
    total = (p & ~v).sum() + (t & ~v).sum()
    return float(2 * (p & t & ~v).sum() / total) if total else float("nan")


@dataclass(frozen=True)
class VolumeScores:
    """Scores per class without the background, float64.

    Attributes:
        dice: Dice per class, ``(K − 1,)`` in [0, 1]; NaN where a class is in no case.
        hd95: the 95th percentile of the Hausdorff distance per class in mm, ``(K − 1,)``; NaN where a class is in no
            case.
        nsd: normalised surface Dice per class, ``(K − 1,)`` in [0, 1]; NaN where a class is in no case.
        mean_dice: mean of ``dice`` over the classes that have one; NaN when none has.
        mean_hd95: mean of ``hd95`` over the classes that have one; NaN when none has.
        mean_nsd: mean of ``nsd`` over the classes that have one; NaN when none has.
        cases: number of cases that count for a class's Dice, ``(K − 1,)`` int64.
    """

    dice: Tensor
    hd95: Tensor
    nsd: Tensor
    mean_dice: float
    mean_hd95: float
    mean_nsd: float
    cases: Tensor


def volume_scores(
    labels: Tensor,
    target: Tensor,
    num_classes: int,
    spacing: float | Sequence[float],
    *,
    tolerance: float = 1.0,
    ignore_index: int | None = VOID,
) -> Tensor:
    """Dice, HD95 and surface Dice of one case, per class.

    Args:
        labels: predicted class ids, ``(D, H, W)`` or ``(H, W)`` integers.
        target: true class ids, the same shape.
        num_classes: number of classes K; class 0 is the background, and has no scores.
        spacing: distance from voxel to voxel in mm, ``(z, y, x)`` or ``(y, x)``; one number for cubic voxels.
        tolerance: the tolerance of the surface Dice in mm.
        ignore_index: the id of void in ``target``, whose voxels count for nothing; ``None`` when there is none.

    Returns:
        ``(3, K − 1)`` float64, the rows are Dice in [0, 1], HD95 in mm and surface Dice in [0, 1]; NaN where neither
        map has the class.

    Raises:
        ValueError: when shapes differ, a label is neither a class nor void, the spacing isn't positive, or the
            tolerance is negative.
    """
    counts = confusion(labels, target, num_classes, ignore_index)  # (K, K), checks the labels as well
    overlap = SemanticScores.from_counts(counts, ignore_index).dice
    scores = torch.full((3, num_classes - 1), torch.nan, dtype=torch.float64)
    labels, target = labels.cpu(), target.cpu()
    void = None if ignore_index is None else target == ignore_index
    for c in range(1, num_classes):
        distances = surface_distances(labels == c, target == c, spacing, void=void)
        values = [overlap[c], distances.hausdorff(), distances.surface_dice(tolerance)]
        scores[:, c - 1] = torch.tensor(values, dtype=torch.float64)
    return scores


class VolumeMetrics(StreamingCounts):
    """Dice, HD95 and surface Dice of a dataset, case by case.

    Args:
        classes: the number of classes K, or the class table. Class 0 is the background, and isn't scored.
        ignore_index: the id of void in targets; ``None`` when every voxel counts.
        tolerance: the tolerance of the surface Dice in mm.

    Attributes:
        counts: ``(6, K − 1)`` float64 on the CPU: the sums of Dice, HD95 and surface Dice over the cases that have
            one, and how many these are.

    Raises:
        ValueError: when there is no class besides the background.

    Example:
        >>> metric = VolumeMetrics(2)
        >>> metric.update(torch.tensor([[[0, 1, 1, 0]]]), torch.tensor([[[0, 1, 0, 0]]]), (2.0, 1.0, 1.0))
        >>> metric.compute().mean_dice
        0.6666666666666666
    """

    def __init__(
        self,
        classes: int | Sequence[Category],
        ignore_index: int | None = VOID,
        *,
        tolerance: float = 1.0,
    ) -> None:
        k = classes if isinstance(classes, int) else len(classes)
        if k < 2:
            raise ValueError(f"class 0 is the background, so there must be at least 2 classes, got {k}")
        super().__init__(classes, ignore_index, rows=6, columns=k - 1, dtype=torch.float64)
        self.tolerance = tolerance

    @property
    def settings(self) -> dict[str, object]:
        """What must agree for two tables to count the same thing."""
        return {**super().settings, "tolerance": self.tolerance}

    def update(self, labels: Tensor, target: Tensor, spacing: float | Sequence[float]) -> None:
        """Score one case.

        Args:
            labels: predicted class ids, ``(D, H, W)`` or ``(H, W)`` integers, on any device.
            target: true class ids, the same shape.
            spacing: distance from voxel to voxel in mm, ``(z, y, x)`` or ``(y, x)``; one number for cubic voxels.

        Raises:
            ValueError: as :func:`volume_scores`.
        """
        scores = volume_scores(
            labels, target, self.num_classes, spacing, tolerance=self.tolerance, ignore_index=self.ignore_index
        )  # (3, K − 1)
        self._add(torch.cat([scores.nan_to_num(0.0), ~scores.isnan()]))

    def compute(self) -> VolumeScores:
        """The scores of everything counted so far."""
        sums, cases = self.counts.view(2, 3, -1)  # (3, K − 1) each
        dices, hd95, nsd = sums / cases  # (K − 1,) each; 0 / 0 is NaN
        mean_dice, mean_hd95, mean_nsd = (float(values.nanmean()) for values in (dices, hd95, nsd))
        return VolumeScores(dices, hd95, nsd, mean_dice, mean_hd95, mean_nsd, cases[0].long())
