"""The losses of SOLOv2: is an object of this class centred in the cell, and which pixels does its kernel draw.

Source: Wang et al., "SOLO", ECCV 2020, section 3.3.2; "SOLOv2", NeurIPS 2020, section 3.3.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from seglib.losses.overlapping import sigmoid_focal_loss
from seglib.losses.region import mask_dice_loss

DICE_EPS = 0.001
"""What is added to each of the two sums of squares in Dice's denominator, in the published models."""


def category_loss(logits: Tensor, labels: Tensor, positives: int, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss of every class in every cell, summed, over the number of positive cells plus 1.

    Args:
        logits: class logits of the cells, ``(B, S, K)``.
        labels: class of each cell, ``(B, S)`` int64, −1 where no object is centred.
        positives: number of positive cells of the batch, each counted for every object that claims it.
        alpha: weight of the positive class; negatives weigh 1 − alpha.
        gamma: how strongly the focal loss fades out what is right already.
    """
    classes = logits.shape[-1]
    target = F.one_hot(labels + 1, classes + 1)[..., 1:].to(logits.dtype)  # (B, S, K)
    return sigmoid_focal_loss(logits, target, alpha=alpha, gamma=gamma).sum() / (positives + 1)


def mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Dice loss of each mask with its sums squared, averaged over the masks; 0 without masks.

    Args:
        logits: mask logits of the positive cells, ``(P, h, w)``.
        target: true mask of each, ``(P, h, w)`` bool.
    """
    if len(logits) == 0:
        return logits.sum()
    return mask_dice_loss(logits, target.to(logits.dtype), eps=DICE_EPS, eps_each=True).mean()
