"""Losses between boxes, or between the deltas that encode them."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from seglib.ops.boxes import generalized_box_iou


def smooth_l1(predicted: Tensor, target: Tensor, beta: float = 0.0) -> Tensor:
    r"""Smooth L1, summed: squared for small errors, linear for outliers. With d the differences,

    .. math::

        L = \sum_d \begin{cases}
            d^2 / 2\beta & \text{where } |d| < \beta \\
            |d| - \beta / 2 & \text{elsewhere}
        \end{cases}

    Args:
        predicted: predicted numbers of any shape.
        target: true numbers in the shape of ``predicted``.
        beta: error at which the two pieces meet, at least 0; 0 is L1. The published detectors take 0 (Detectron2) or
            1/9 (torchvision's RPN and box head).

    Returns:
        A scalar, the sum, not the mean, because the detectors divide by a count of their own.

    Raises:
        ValueError: when beta is negative, or the shapes differ.
    """
    if predicted.shape != target.shape:
        raise ValueError(f"smooth L1 compares equal shapes, got {tuple(predicted.shape)} and {tuple(target.shape)}")
    if beta < 0:
        raise ValueError(f"beta is at least 0, got {beta}")
    return F.smooth_l1_loss(predicted, target, reduction="sum", beta=beta)


def giou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """The sum of 1 − GIoU over pairs of boxes ``(N, 4)`` xyxy (:func:`~seglib.ops.boxes.generalized_box_iou`).

    Raises:
        ValueError: when there are not as many of both.
    """
    if predicted.shape != target.shape or predicted.shape[-1:] != (4,):
        raise ValueError(f"GIoU loss takes pairs (N, 4), got {tuple(predicted.shape)} and {tuple(target.shape)}")
    return (1 - generalized_box_iou(predicted, target)).sum()
