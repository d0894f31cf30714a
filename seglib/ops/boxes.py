"""Boxes ``(N, 4)``, ``xyxy`` in continuous pixel coordinates: overlap, the deltas that move one onto another, clipping.

A box covers [x1, x2] × [y1, y2], so its width is ``x2 - x1``, without the "+ 1" of older code. Everything here works
for N = 0 and passes gradients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from seglib.ops.precision import at_least_float32

LARGEST_LOG_RATIO = math.log(1000 / 16)
"""The largest dw and dh that are decoded: an anchor of 16 pixels can grow to 1000. Beyond, exp would overflow."""


def check_boxes(boxes: Tensor, name: str = "boxes") -> None:
    """Raise when ``boxes`` can't be the boxes of objects: for ground truth, whose values are known on the host.

    Args:
        boxes: boxes of objects, ``(N, 4)`` xyxy.
        name: name of the boxes in the message.

    Raises:
        ValueError: for another shape or integers, NaN or infinite coordinates, or a width or height that isn't
            positive. The message names the first such box.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise ValueError(f"{name} must be floats (N, 4) xyxy, got {boxes.dtype} {tuple(boxes.shape)}")
    finite = boxes.isfinite().all(1)  # (N,)
    solid = (boxes[:, 2:] > boxes[:, :2]).all(1)  # (N,)
    good = finite & solid
    if bool(good.all()):
        return
    i = int((~good).nonzero()[0])
    values = [round(v, 3) for v in boxes[i].tolist()]
    if not bool(finite[i]):
        raise ValueError(f"{name}[{i}] is {values}, which isn't finite; look for a division by zero where it was made")
    raise ValueError(
        f"{name}[{i}] is {values}, without width or height; boxes are x1, y1, x2, y2 with x2 > x1 and y2 > y1: drop "
        "objects without a pixel, and convert boxes that are x, y, width, height"
    )


def box_area(boxes: Tensor) -> Tensor:
    """Areas ``(…)`` of boxes ``(…, 4)`` in pixels²; negative sides count as 0."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)  # (…, 2)
    return sides[..., 0] * sides[..., 1]


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every box of ``a`` with every box of ``b``.

    Args:
        a: N boxes ``(N, 4)`` xyxy, or a batch ``(…, N, 4)``.
        b: M boxes ``(M, 4)`` xyxy, or a batch ``(…, M, 4)``.

    Returns:
        ``(…, N, M)`` in [0, 1]; 0 where both boxes have no area.
    """
    inter, union = _inter_union(a[..., :, None, :], b[..., None, :, :])
    return _ratio(inter, union)


def generalized_box_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU of pairs of boxes: IoU minus the share of the enclosing box that neither covers.

    Where boxes don't touch the IoU is 0 everywhere and has no gradient; GIoU keeps falling with the distance.
    Source: Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019, algorithm 1.

    Args:
        a: boxes ``(…, 4)`` xyxy.
        b: boxes ``(…, 4)`` xyxy, broadcast against ``a``: pass ``a[:, None]`` and ``b[None]`` for all pairs.

    Returns:
        ``(…)`` in [-1, 1].
    """
    inter, union = _inter_union(a, b)
    low, high = torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])
    hull = box_area(torch.cat([low, high], -1))
    return _ratio(inter, union) - _ratio(hull - union, hull)


def encode_boxes(boxes: Tensor, anchors: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    r"""The deltas that :func:`decode_boxes` turns back into ``boxes``.

    .. math:: d_x = w_x\, \frac{x - x_a}{w_a} \qquad d_w = w_w \log \frac{w}{w_a}

    and so for y and h, with x, y the centres: shifts are measured in sizes of the anchor, scales as logarithms, so that
    one regression serves small and large objects.
    Source: Girshick et al., "Rich Feature Hierarchies" (R-CNN), CVPR 2014, appendix C.

    Args:
        boxes: target boxes ``(…, 4)`` xyxy, with positive sides.
        anchors: anchors ``(…, 4)`` xyxy, with positive sides.
        weights: the factors wx, wy, ww, wh, which bring the targets to about unit variance.

    Returns:
        ``(…, 4)`` deltas (dx, dy, dw, dh).
    """
    size, size_a = boxes[..., 2:] - boxes[..., :2], anchors[..., 2:] - anchors[..., :2]  # (…, 2)
    centre, centre_a = boxes[..., :2] + 0.5 * size, anchors[..., :2] + 0.5 * size_a
    deltas = torch.cat([(centre - centre_a) / size_a, torch.log(size / size_a)], -1)  # (…, 4)
    return deltas * deltas.new_tensor(weights)


def decode_boxes(deltas: Tensor, anchors: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Move anchors by deltas; the inverse of :func:`encode_boxes`.

    dw and dh are clamped at log(1000 / 16) (:data:`LARGEST_LOG_RATIO`).

    Args:
        deltas: deltas (dx, dy, dw, dh), ``(…, 4)``.
        anchors: anchors ``(…, 4)`` xyxy, broadcast against ``deltas``: for deltas of K classes pass
            ``anchors[:, None]``.
        weights: the factors wx, wy, ww, wh with which the deltas were encoded.

    Returns:
        ``(…, 4)`` boxes, float32 at least.
    """
    deltas, anchors = at_least_float32(deltas), at_least_float32(anchors)
    deltas = deltas / deltas.new_tensor(weights)
    size_a = anchors[..., 2:] - anchors[..., :2]  # (…, 2)
    centre = anchors[..., :2] + 0.5 * size_a + deltas[..., :2] * size_a
    half = 0.5 * size_a * torch.exp(deltas[..., 2:].clamp(max=LARGEST_LOG_RATIO))
    return torch.cat([centre - half, centre + half], -1)


def clip_boxes(boxes: Tensor, size: Sequence[int] | Tensor) -> Tensor:
    """Boxes cut at the borders of their image; one that lies outside gets no area.

    Args:
        boxes: boxes of one image ``(…, 4)`` xyxy, or of a batch ``(B, …, 4)``.
        size: size ``(H, W)`` of the image, or a tensor ``(B, 2)`` with the height and width of each image of the batch.

    Returns:
        Boxes of the same shape.
    """
    if isinstance(size, Tensor):
        of_each = size.to(boxes.dtype).view(len(size), *(1,) * (boxes.ndim - 2), 2)  # (B, 1, …, 2)
        limit = of_each.flip(-1)  # width, height
    else:
        limit = boxes.new_tensor([size[1], size[0]])
    corners = torch.minimum(boxes.unflatten(-1, (2, 2)).clamp(min=0), limit[..., None, :])  # (…, 2, 2)
    return corners.flatten(-2)


def _inter_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of intersection and union of boxes that broadcast against each other."""
    ax1, ay1, ax2, ay2 = a.movedim(-1, 0).contiguous()  # (…) each; apart, pairs are compared twice as fast
    bx1, by1, bx2, by2 = b.movedim(-1, 0).contiguous()
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)  # (…)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    inter = width * height
    return inter, box_area(a) + box_area(b) - inter


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """``part / whole``, and 0 (without NaN in the gradient) where there is no whole."""
    empty = whole <= 0
    return torch.where(empty, 0, part / torch.where(empty, 1, whole))
