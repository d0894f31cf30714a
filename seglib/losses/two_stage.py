"""The losses of a two-stage detector: of its proposals, of its boxes and of its masks.

Each takes what was matched and sampled, so the random choice stays outside and the loss is a plain function.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.losses.box import giou_loss, smooth_l1
from seglib.ops.boxes import decode_boxes, encode_boxes
from seglib.ops.roi import roi_align

BOX_LOSSES = ("smooth_l1", "giou")
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""The factors on the deltas of the second stage, whose errors are smaller than those of anchors."""


def rpn_loss(
    objectness: Tensor, deltas: Tensor, anchors: Tensor, boxes: Tensor, is_object: Tensor, *, beta: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Is an object there, and where: both divided by the number of sampled anchors, objects or not.

    Args:
        objectness: ``(S,)`` logits of the sampled anchors of the whole batch.
        deltas: ``(S, 4)``.
        anchors: ``(S, 4)``.
        boxes: ``(S, 4)`` of the matched object; unused where there is none.
        is_object: ``(S,)`` bool.
        beta: of :func:`~seglib.losses.box.smooth_l1`.

    Returns:
        Two scalars, 0 without samples.
    """
    count = max(1, len(objectness))
    target = encode_boxes(boxes[is_object], anchors[is_object])
    found = F.binary_cross_entropy_with_logits(objectness, is_object.to(objectness.dtype), reduction="sum")
    return found / count, smooth_l1(deltas[is_object], target, beta) / count


def region_loss(
    logits: Tensor,
    deltas: Tensor,
    regions: Tensor,
    labels: Tensor,
    boxes: Tensor,
    *,
    beta: float = 0.0,
    kind: str = "smooth_l1",
) -> tuple[Tensor, Tensor]:
    """Which class is it, and where: both divided by the number of sampled regions, objects or not.

    Args:
        logits: ``(S, K + 1)``, background last.
        deltas: ``(S, K, 4)``, of which only those of the object's class are trained; or ``(S, 1, 4)``.
        regions: ``(S, 4)``.
        labels: ``(S,)`` int64, K for background.
        boxes: ``(S, 4)`` of the matched object; unused for background.
        beta: of :func:`~seglib.losses.box.smooth_l1`.
        kind: "smooth_l1" compares deltas, "giou" the decoded boxes.

    Returns:
        Two scalars, 0 without samples.
    """
    count = max(1, len(logits))
    classes = F.cross_entropy(logits, labels, reduction="sum") / count
    chosen = (labels < logits.shape[1] - 1).nonzero()[:, 0]  # (F,)
    own = labels[chosen] if deltas.shape[1] > 1 else torch.zeros_like(chosen)
    moved = deltas[chosen, own]  # (F, 4)
    if kind == "giou":
        return classes, giou_loss(decode_boxes(moved, regions[chosen], BOX_WEIGHTS), boxes[chosen]) / count
    target = encode_boxes(boxes[chosen], regions[chosen], BOX_WEIGHTS)
    return classes, smooth_l1(moved, target, beta) / count


def mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy over the pixels of all masks; 0 without masks.

    Args:
        logits: ``(N, M, M)`` of each object's own class: no other class learns from it.
        target: ``(N, M, M)`` in [0, 1].
    """
    if logits.numel() == 0:
        return logits.sum()
    return F.binary_cross_entropy_with_logits(logits, target)


def mask_targets(masks: Tensor, matches: Tensor, boxes: Tensor, size: int, *, aligned: bool, binary: bool) -> Tensor:
    """What the mask of each region should be: the object's mask, cut out by the region and resized as features are.

    Args:
        masks: ``(G, H, W)`` bool of all objects.
        matches: ``(N,)`` int64, the object that each region stands for.
        boxes: ``(N, 4)`` of the regions.
        size: M.
        aligned: see :func:`~seglib.ops.roi.roi_align`.
        binary: threshold at ½, as Detectron2 does; otherwise shares of cells, as torchvision does.

    Returns:
        ``(N, M, M)`` of the boxes' type.
    """
    if len(matches) == 0:
        return boxes.new_zeros(0, size, size)
    objects = masks[:, None].to(boxes.dtype)  # (G, 1, H, W)
    cut = roi_align(objects, boxes, matches, size, strides=1.0, sampling_ratio=0, aligned=aligned)[:, 0]
    return (cut >= 0.5).to(cut.dtype) if binary else cut
