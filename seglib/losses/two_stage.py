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

CHUNK = 2**24
"""Pixels of masks that are cast to floats at once for mask targets: 64 MB of float32."""
BOX_LOSSES = ("smooth_l1", "giou")
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""The factors on the deltas of the second stage, whose errors are smaller than those of anchors."""


def rpn_loss(
    objectness: Tensor, deltas: Tensor, anchors: Tensor, boxes: Tensor, foreground: Tensor, *, beta: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Is an object there, and where: both divided by the number of sampled anchors, foreground or not.

    Args:
        objectness: ``(S,)`` logits of the sampled anchors of the whole batch.
        deltas: ``(S, 4)`` deltas predicted for the sampled anchors.
        anchors: sampled anchors, ``(S, 4)`` xyxy.
        boxes: ``(S, 4)`` xyxy, box of the object that each anchor is matched with; unused where there is none.
        foreground: ``(S,)`` bool, whether an anchor is matched with an object.
        beta: error at which the pieces of :func:`~seglib.losses.box.smooth_l1` meet; 0 is L1.

    Returns:
        Two scalars, 0 without samples.
    """
    count = max(1, len(objectness))
    target = encode_boxes(boxes[foreground], anchors[foreground])
    found = F.binary_cross_entropy_with_logits(objectness, foreground.to(objectness.dtype), reduction="sum")
    return found / count, smooth_l1(deltas[foreground], target, beta) / count


def roi_loss(
    logits: Tensor,
    deltas: Tensor,
    rois: Tensor,
    labels: Tensor,
    boxes: Tensor,
    *,
    beta: float = 0.0,
    box_loss: str = "smooth_l1",
) -> tuple[Tensor, Tensor]:
    """Which class is it, and where: both divided by the number of sampled RoIs, foreground or not.

    Args:
        logits: class logits of the sampled RoIs, ``(S, K + 1)``, background last.
        deltas: predicted deltas ``(S, K, 4)``, of which only the object's class is trained; or ``(S, 1, 4)``.
        rois: sampled RoIs, ``(S, 4)`` xyxy.
        labels: class of each RoI, ``(S,)`` int64, K for background.
        boxes: ``(S, 4)`` xyxy, box of the object that each RoI is matched with; unused for background.
        beta: error at which the pieces of :func:`~seglib.losses.box.smooth_l1` meet; 0 is L1.
        box_loss: loss of the boxes: "smooth_l1" compares deltas, "giou" the decoded boxes.

    Returns:
        Two scalars, 0 without samples.
    """
    count = max(1, len(logits))
    classes = F.cross_entropy(logits, labels, reduction="sum") / count
    chosen = (labels < logits.shape[1] - 1).nonzero()[:, 0]  # (F,) foreground
    own = labels[chosen] if deltas.shape[1] > 1 else torch.zeros_like(chosen)
    moved = deltas[chosen, own]  # (F, 4)
    if box_loss == "giou":
        return classes, giou_loss(decode_boxes(moved, rois[chosen], BOX_WEIGHTS), boxes[chosen]) / count
    target = encode_boxes(boxes[chosen], rois[chosen], BOX_WEIGHTS)
    return classes, smooth_l1(moved, target, beta) / count


def mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy over the pixels of all masks; 0 without masks.

    Args:
        logits: mask logits ``(N, M, M)`` of each object's own class: no other class is trained.
        target: true masks, ``(N, M, M)`` in [0, 1].
    """
    if logits.numel() == 0:
        return logits.sum()
    return F.binary_cross_entropy_with_logits(logits, target)


def mask_targets(masks: Tensor, matches: Tensor, boxes: Tensor, size: int, *, aligned: bool, binary: bool) -> Tensor:
    """What the mask of each RoI should be: the object's mask, cut out by the RoI and resized as features are.

    Masks are cast to floats a few at a time, and only as far right and down as their RoIs reach. (A window cut out of
    its middle would do, too, but rounds the samples' positions in another way, and a share of exactly ½ could end up on
    the other side of the threshold.)

    Args:
        masks: masks of all objects, ``(G, H, W)`` bool.
        matches: index of the object that each RoI is matched with, ``(N,)`` int64.
        boxes: the RoIs, ``(N, 4)`` xyxy.
        size: number of cells M along a side of a target.
        aligned: whether pixel i lies at i + ½ (:func:`~seglib.ops.roi.roi_align`).
        binary: whether targets are thresholded at ½, as Detectron2 does; otherwise shares of cells, as torchvision
            does.

    Returns:
        ``(N, M, M)`` of the boxes' type.
    """
    cut = boxes.new_zeros(len(boxes), size, size)
    used, own = matches.unique(return_inverse=True)  # objects that some RoI is matched with; (N,) index into them
    step = max(1, CHUNK // max(1, masks.shape[1] * masks.shape[2]))
    for begin in range(0, len(used), step):
        picked = ((own >= begin) & (own < begin + step)).nonzero()[:, 0]  # (n,)
        some, index = boxes[picked], own[picked] - begin
        right, bottom = (some[:, 2:].amax(0).ceil().long() + 2).tolist()  # more than the last sample reads
        cast = masks[used[begin : begin + step], None, :bottom, :right].to(boxes.dtype)  # (g, 1, h, w)
        cut[picked] = roi_align(cast, some, index, size, strides=1.0, sampling_ratio=0, aligned=aligned)[:, 0]
    return (cut >= 0.5).to(cut.dtype) if binary else cut
