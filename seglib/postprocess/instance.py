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
    size: Sequence[int] | Tensor,
    *,
    threshold: float = 0.05,
    nms: float = 0.5,
    max_detections: int = 100,
    min_size: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """The detections of a batch: every box whose score for a class is high enough, without near-duplicates of a class.

    A box can be found as several classes. All images and classes go through NMS at once, and nothing loops.

    Args:
        boxes: ``(B, R, K, 4)`` xyxy, one for each class; ``(B, R, 1, 4)`` when all classes share it.
        scores: ``(B, R, K)``; 0 for padding.
        size: ``(H, W)`` of the images, or a tensor ``(B, 2)`` of each one's; boxes are cut at its borders.
        threshold: scores must exceed it, in [0, 1).
        nms: IoU above which a box of the same class with a lower score is dropped.
        max_detections: D, how many detections of an image are kept at most.
        min_size: boxes with a side of at most this many pixels are dropped.

    Returns:
        ``(B, D, 4)`` boxes, ``(B, D)`` labels and ``(B, D)`` scores, by falling score; padding is zeros.
    """
    batch, _, classes = scores.shape
    boxes = clip_boxes(boxes, size).expand(-1, -1, classes, -1)
    solid = (boxes[..., 2:] - boxes[..., :2] > min_size).all(-1)  # (B, R, K), false for NaN
    image, roi, label = ((scores > threshold) & solid).nonzero().unbind(1)  # (N,) each
    box, score = boxes[image, roi, label], scores[image, roi, label]
    kept = batched_nms(box, score, image * classes + label, nms)  # (M,) by falling score
    image, label, box, score = image[kept], label[kept], box[kept], score[kept]
    # the place of each among the detections of its image: how many of that image came before
    before = (image[:, None] == torch.arange(batch, device=image.device)).cumsum(0)  # (M, B)
    place = before.gather(1, image[:, None])[:, 0] - 1  # (M,)
    # what comes too late goes to a place behind the last, which is cut off
    place = place.clamp(max=max_detections)
    out_boxes, out_labels = boxes.new_zeros(batch, max_detections + 1, 4), label.new_zeros(batch, max_detections + 1)
    out_scores = scores.new_zeros(batch, max_detections + 1)
    out_boxes[image, place], out_labels[image, place], out_scores[image, place] = box, label, score
    return out_boxes[:, :max_detections], out_labels[:, :max_detections], out_scores[:, :max_detections]
