"""Bool masks of objects, ``(N, H, W)``: the boxes around them."""

from __future__ import annotations

import torch
from torch import Tensor


def masks_to_boxes(masks: Tensor) -> Tensor:
    """The tightest box around every mask: ``x1 = min x``, ``x2 = max x + 1``, and so for y.

    The pixel in column x covers [x, x + 1], so a mask of one pixel has a box of width 1. ``torchvision.ops.masks_to_boxes``
    counts pixel indices instead and returns ``x2 = max x``.

    Args:
        masks: ``(N, H, W)`` bool. N may be 0.

    Returns:
        ``(N, 4)`` float32 ``xyxy`` in pixels; zeros where a mask is empty.

    Raises:
        ValueError: when masks don't have three dimensions.
    """
    if masks.ndim != 3:
        raise ValueError(f"masks must have shape (N, H, W), got {tuple(masks.shape)}; add the dimension of objects")
    boxes = torch.zeros(len(masks), 4, device=masks.device)  # (N, 4)
    if masks.numel() == 0:
        return boxes
    for axis, occupied in enumerate((masks.any(1), masks.any(2))):  # (N, W), then (N, H)
        occupied = occupied.to(torch.uint8)
        boxes[:, axis] = occupied.argmax(1)  # the first column (row) that is occupied
        boxes[:, axis + 2] = occupied.shape[1] - occupied.flip(1).argmax(1)  # one past the last
    boxes[~masks.flatten(1).any(1)] = 0
    return boxes
