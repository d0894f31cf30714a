"""The losses of FCOS: what class a location sees, how far its object's sides are, and how central it lies.

Source: Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.losses.overlapping import sigmoid_focal_loss
from seglib.ops.precision import at_least_float32
from seglib.ops.processes import mean_over_processes


def centerness(distances: Tensor) -> Tensor:
    r"""How central a location lies in its box: 1 in the middle, 0 on a side.

    .. math:: \sqrt{\frac{\min(l, r)}{\max(l, r)} \cdot \frac{\min(t, b)}{\max(t, b)}}

    Args:
        distances: distances (l, t, r, b) from locations to the sides of their boxes, ``(…, 4)``, above 0.

    Returns:
        ``(…)`` in [0, 1].
    """
    across, along = distances[..., 0::2], distances[..., 1::2]  # (…, 2): l, r and t, b
    return (across.amin(-1) / across.amax(-1) * (along.amin(-1) / along.amax(-1))).sqrt()


def distance_giou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    r"""1 − GIoU of pairs of boxes around one location, with 1 added to both areas of the IoU, as published.

    .. math:: 1 - \frac{I + 1}{U + 1} + \frac{H - U}{H}

    with I, U and H the areas of the intersection, the union and the smallest box around both. In units of the stride
    a small box covers one cell, so the 1 weighs. The formula for boxes is :func:`~seglib.losses.box.giou_loss`.

    Args:
        predicted: distances (l, t, r, b) that are predicted, ``(N, 4)``, at least 0.
        target: true distances, ``(N, 4)``, above 0.

    Returns:
        ``(N,)``.

    Raises:
        ValueError: when there are not as many of both.
    """
    if predicted.shape != target.shape:
        raise ValueError(f"GIoU loss takes pairs (N, 4), got {tuple(predicted.shape)} and {tuple(target.shape)}")
    both, hull = torch.minimum(predicted, target), torch.maximum(predicted, target)  # (N, 4)
    inter = _area(both)
    union = _area(predicted) + _area(target) - inter
    around = _area(hull)
    return 1 - (inter + 1) / (union + 1) + (around - union) / around


def fcos_loss(
    logits: Tensor, distances: Tensor, centerness_logits: Tensor, labels: Tensor, target: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Focal loss of all locations; of the positive ones GIoU, weighted by centerness, and centerness itself.

    The class loss is summed over locations and classes and divided by the number P of positive locations; the box loss
    is divided by the sum of the centerness targets, the centerness loss by P. Without a positive location the first is
    divided by 1 and both others are 0. P and the sum are means over processes, as in the published code, so that
    several processes give the loss of one with all images.

    Args:
        logits: class logits of the locations of the whole batch, ``(N, K)``.
        distances: predicted distances (l, t, r, b) of the positive locations in units of their strides, ``(P, 4)``.
        centerness_logits: predicted logits of the positive locations, ``(P,)``.
        labels: class of each location, ``(N,)`` int64, K for background.
        target: true distances of the positive locations in units of their strides, ``(P, 4)``.

    Returns:
        Class, box and centerness loss, three scalars.
    """
    logits, distances = at_least_float32(logits), at_least_float32(distances)
    classes = logits.shape[-1]
    wanted = F.one_hot(labels, classes + 1)[:, :classes].to(logits.dtype)  # (N, K)
    positives = mean_over_processes(logits.new_tensor(len(target))).clamp(min=1)
    found = sigmoid_focal_loss(logits, wanted, alpha=0.25, gamma=2.0).sum() / positives
    central = centerness(target)  # (P,)
    # every positive location lies strictly inside its box, so the sum is 0 only without one
    weight = mean_over_processes(central.sum()).clamp(min=1e-6)
    box = (distance_giou_loss(distances, target) * central).sum() / weight
    middle = F.binary_cross_entropy_with_logits(at_least_float32(centerness_logits), central, reduction="sum")
    return found, box, middle / positives


def _area(distances: Tensor) -> Tensor:
    """Areas ``(…)`` of the boxes with these distances ``(…, 4)`` around a location."""
    return (distances[..., 0] + distances[..., 2]) * (distances[..., 1] + distances[..., 3])
