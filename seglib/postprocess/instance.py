"""From scored and moved boxes to the detections of each image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seglib.ops.boxes import clip_boxes
from seglib.ops.nms import batched_nms


@torch.no_grad()
def detect(
    boxes: Tensor,
    scores: Tensor,
    size: Sequence[int],
    *,
    threshold: float = 0.05,
    nms: float = 0.5,
    count: int = 100,
    smallest: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """The detections of a batch: every box whose score for a class is high enough, without near-duplicates of a class.

    A box can be found as several classes. All images and classes go through NMS at once, and nothing loops.

    Args:
        boxes: ``(B, R, K, 4)`` xyxy, one for each class; ``(B, R, 1, 4)`` when all classes share it.
        scores: ``(B, R, K)``; 0 for boxes that only fill up the batch.
        size: ``(H, W)`` of the image; boxes are cut at its borders.
        threshold: scores must exceed it, in [0, 1).
        nms: IoU above which a box of the same class with a lower score is dropped.
        count: D, how many detections of an image are kept at most.
        smallest: boxes with a side of at most this many pixels are dropped.

    Returns:
        ``(B, D, 4)`` boxes, ``(B, D)`` labels and ``(B, D)`` scores, by falling score; zeros fill up.
    """
    batch, _, classes = scores.shape
    boxes = clip_boxes(boxes, size).expand(-1, -1, classes, -1)
    solid = (boxes[..., 2:] - boxes[..., :2] > smallest).all(-1)  # (B, R, K), false for NaN
    image, region, label = ((scores > threshold) & solid).nonzero().unbind(1)  # (N,) each
    box, score = boxes[image, region, label], scores[image, region, label]
    kept = batched_nms(box, score, image * classes + label, nms)  # (M,) by falling score
    image, label, box, score = image[kept], label[kept], box[kept], score[kept]
    # the place of each among the detections of its image: how many of that image came before
    before = (image[:, None] == torch.arange(batch, device=image.device)).cumsum(0)  # (M, B)
    place = before.gather(1, image[:, None])[:, 0] - 1  # (M,)
    # what comes too late goes to a place behind the last, which is cut off
    place = place.clamp(max=count)
    out_boxes, out_labels = boxes.new_zeros(batch, count + 1, 4), label.new_zeros(batch, count + 1)
    out_scores = scores.new_zeros(batch, count + 1)
    out_boxes[image, place], out_labels[image, place], out_scores[image, place] = box, label, score
    return out_boxes[:, :count], out_labels[:, :count], out_scores[:, :count]
