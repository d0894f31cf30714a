"""Dice and IoU of regions that may overlap, pooled over a dataset."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seglib.metrics.streaming import StreamingCounts
from seglib.ops.labels import check_regions
from seglib.types import VOID


@dataclass(frozen=True)
class OverlapScores:
    """Scores of K regions.

    Attributes:
        dice: ``(K,)`` in [0, 1], 2·TP / (2·TP + FP + FN) in pixels; NaN where a region is neither predicted nor there.
        iou: ``(K,)`` in [0, 1], TP / (TP + FP + FN) in pixels; NaN where a region is neither predicted nor there.
        mean_dice: mean Dice over the regions that have one; NaN when none has.
        mean_iou: mean IoU over the regions that have one; NaN when none has.
    """

    dice: Tensor
    iou: Tensor
    mean_dice: float
    mean_iou: float


class RegionOverlap(StreamingCounts):
    """Counts the pixels of predicted regions, of true regions, and of both.

    Args:
        regions: number of regions K.

    Raises:
        ValueError: when there is no region.
    """

    def __init__(self, regions: int) -> None:
        super().__init__(regions, VOID, rows=3)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count one image.

        Args:
            prediction: predicted regions, ``(K, …)`` bool.
            target: true regions, ``(K, …)`` integers: 1 inside the region, 0 outside, 255 void, where nothing counts.

        Raises:
            ValueError: when shapes, types or values differ from that.
        """
        if prediction.dtype != torch.bool or prediction.shape != target.shape or len(target) != self.num_classes:
            raise ValueError(
                f"expected bool regions ({self.num_classes}, …) and a target of that shape, got {prediction.dtype} "
                f"{tuple(prediction.shape)} and {tuple(target.shape)}"
            )
        check_regions(target)
        known = (target != VOID).flatten(1)  # (K, N)
        predicted, true = prediction.flatten(1) & known, (target == 1).flatten(1)
        self._add(torch.stack([(predicted & true).sum(1), predicted.sum(1), true.sum(1)]))

    def compute(self) -> OverlapScores:
        """The scores of everything counted so far."""
        both, predicted, true = self.counts.double()
        dice, iou = 2 * both / (predicted + true), both / (predicted + true - both)  # 0 / 0 is NaN
        return OverlapScores(dice, iou, float(dice.nanmean()), float(iou.nanmean()))
