"""Masks of objects, ``(N, H, W)``: the boxes around them, their overlap, and pasting small ones into an image."""

from __future__ import annotations

import torch
from torch import Tensor


def masks_to_boxes(masks: Tensor) -> Tensor:
    """The tightest box around every mask: ``x1 = min x``, ``x2 = max x + 1``, and so for y.

    The pixel in column x covers [x, x + 1], so a mask of one pixel has a box of width 1.
    ``torchvision.ops.masks_to_boxes`` counts pixel indices instead and returns ``x2 = max x``.

    Args:
        masks: masks of objects, ``(N, H, W)`` bool. N may be 0.

    Returns:
        ``(N, 4)`` float32 ``xyxy`` in pixels; zeros where a mask is empty.

    Raises:
        ValueError: when masks are not bool or don't have three dimensions.
    """
    if masks.ndim != 3 or masks.dtype != torch.bool:
        raise ValueError(
            f"masks must be bool (N, H, W), got {masks.dtype} {tuple(masks.shape)}; threshold scores first"
        )
    count, height, width = masks.shape
    if masks.numel() == 0:
        return torch.zeros(count, 4, device=masks.device)  # (N, 4)
    as_bytes = masks.view(torch.uint8)  # (N, H, W); the maximum of bytes is several times as fast as any() of bools
    columns, rows = as_bytes.amax(1), as_bytes.amax(2)  # (N, W), (N, H): 1 where the mask has a pixel
    x1, y1 = columns.argmax(1), rows.argmax(1)  # (N,) the first that is occupied
    x2, y2 = width - columns.flip(1).argmax(1), height - rows.flip(1).argmax(1)  # (N,) one past the last
    boxes = torch.stack([x1, y1, x2, y2], 1).float()  # (N, 4)
    return boxes * columns.amax(1, keepdim=True)


def mask_iou(a: Tensor, b: Tensor, iscrowd: Tensor | None = None) -> Tensor:
    """Intersection over union of every mask of ``a`` with every mask of ``b``.

    Args:
        a: N masks, ``(N, H, W)`` bool.
        b: M masks, ``(M, H, W)`` bool.
        iscrowd: ``(M,)`` bool, whether a mask of ``b`` is a crowd: for it the denominator is the area of the mask of
            ``a`` alone (COCO's rule), since one object among many can't cover it.

    Returns:
        ``(N, M)`` float32 in [0, 1]; 0 where both masks are empty.

    Raises:
        ValueError: when the masks aren't bool or have different sizes.
    """
    if a.dtype != torch.bool or b.dtype != torch.bool or a.ndim != 3 or a.shape[1:] != b.shape[1:]:
        raise ValueError(
            f"expected bool masks (N, H, W) and (M, H, W), got {a.dtype} {tuple(a.shape)} and {b.dtype} "
            f"{tuple(b.shape)}; threshold scores and bring both to one size first"
        )
    x, y = a.flatten(1).float(), b.flatten(1).float()  # float32 counts pixels exactly up to 2^24
    inter = x @ y.T  # (N, M)
    areas = x.sum(1)[:, None]
    union = areas + y.sum(1) - inter
    if iscrowd is not None:
        union = torch.where(iscrowd, areas, union)
    return torch.where(union > 0, inter / union.clamp(min=1), 0)


def crop_masks(masks: Tensor, boxes: Tensor) -> Tensor:
    """The masks with everything outside their boxes set to 0; a pixel is inside when its centre is.

    Args:
        masks: masks of objects, ``(N, H, W)`` of any type.
        boxes: box of each mask, ``(N, 4)`` xyxy.

    Returns:
        ``(N, H, W)`` of the same type; gradients pass inside.
    """
    height, width = masks.shape[1:]
    x, y = torch.arange(width, device=masks.device) + 0.5, torch.arange(height, device=masks.device) + 0.5
    columns = (x > boxes[:, 0:1]) & (x < boxes[:, 2:3])  # (N, W)
    rows = (y > boxes[:, 1:2]) & (y < boxes[:, 3:4])  # (N, H)
    return masks.masked_fill(~(rows[:, :, None] & columns[:, None, :]), 0)
