"""Masks of objects, ``(N, H, W)``: the boxes around them, their overlap, cropping, and copies at another size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.ops.precision import widest_float

CHUNK = 2**24
"""Pixels, of all masks together, that are cast to floats at once: 64 MB of float32."""


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


def centres_of_mass(masks: Tensor) -> tuple[Tensor, Tensor]:
    """The mean column and row *number* of each mask's pixels, and its area.

    The pixel in column 3 counts as 3, where this package's coordinates have its centre at 3.5: the detectors that
    assign objects by their centre of mass were trained so.

    Args:
        masks: masks of objects, ``(N, H, W)`` bool. N may be 0.

    Returns:
        Centres (x, y), ``(N, 2)`` float64 (float32 on a device without it), 0 for an empty mask; and areas ``(N,)``
        int64 in pixels.
    """
    columns, rows = masks.sum(1), masks.sum(2)  # (N, W), (N, H): pixels in each column and row
    area = rows.sum(1)  # (N,)
    x = torch.arange(masks.shape[2], device=masks.device)
    y = torch.arange(masks.shape[1], device=masks.device)
    total = torch.stack([(columns * x).sum(1), (rows * y).sum(1)], 1)  # (N, 2) exact: integers
    return total.to(widest_float(total.device)) / area.clamp(min=1)[:, None], area


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
        ValueError: when the masks aren't bool or have different sizes, or ``iscrowd`` isn't one bool for each of ``b``.
    """
    if iscrowd is not None and (iscrowd.shape != (len(b),) or iscrowd.dtype != torch.bool):
        raise ValueError(f"{len(b)} masks need iscrowd bool ({len(b)},), got {iscrowd.dtype} {tuple(iscrowd.shape)}")
    if a.dtype != torch.bool or b.dtype != torch.bool or a.ndim != 3 or a.shape[1:] != b.shape[1:]:
        raise ValueError(
            f"expected bool masks (N, H, W) and (M, H, W), got {a.dtype} {tuple(a.shape)} and {b.dtype} "
            f"{tuple(b.shape)}; threshold scores and bring both to one size first"
        )
    x, y = a.flatten(1), b.flatten(1)  # (N, H·W), (M, H·W)
    step = max(1, CHUNK // max(1, len(x) + len(y)))
    inter = torch.zeros(len(x), len(y), dtype=widest_float(a.device), device=a.device)  # (N, M)
    for begin in range(0, x.shape[1], step):  # float32 counts the pixels of a part exactly
        part = x[:, begin : begin + step].float()
        inter += part @ (part if a is b else y[:, begin : begin + step].float()).T
    areas = (inter.diagonal() if a is b else x.sum(1))[:, None]
    union = areas + (areas[:, 0] if a is b else y.sum(1)) - inter
    if iscrowd is not None:
        union = torch.where(iscrowd, areas, union)
    return torch.where(union > 0, inter / union.clamp(min=1), 0).float()


def crop_masks(masks: Tensor, boxes: Tensor, *, padding: float = 0.0, by_index: bool = False) -> Tensor:
    """The masks with everything outside their boxes set to 0.

    Args:
        masks: masks of objects, ``(N, H, W)`` of any type.
        boxes: box of each mask, ``(N, 4)`` xyxy in pixels of the masks.
        padding: pixels that each box is widened by on every side.
        by_index: what of a pixel must lie in the box: its centre, or, as YOLACT has it, its index i, with x1 ≤ i < x2.

    Returns:
        ``(N, H, W)`` of the same type; gradients pass inside.

    Raises:
        ValueError: when there is not one box for each mask.
    """
    if masks.ndim != 3 or boxes.shape != (len(masks), 4):
        raise ValueError(
            f"masks (N, H, W) need boxes (N, 4), got {tuple(masks.shape)} and {tuple(boxes.shape)}; boxes[index] "
            "gives each mask its own"
        )
    height, width = masks.shape[1:]
    x, y = torch.arange(width, device=masks.device), torch.arange(height, device=masks.device)
    low, high = boxes[:, :2] - padding, boxes[:, 2:] + padding  # (N, 2)
    if by_index:
        columns = (x >= low[:, :1]) & (x < high[:, :1])  # (N, W)
        rows = (y >= low[:, 1:]) & (y < high[:, 1:])  # (N, H)
    else:
        columns = (x + 0.5 > low[:, :1]) & (x + 0.5 < high[:, :1])
        rows = (y + 0.5 > low[:, 1:]) & (y + 0.5 < high[:, 1:])
    return masks.masked_fill(~(rows[:, :, None] & columns[:, None, :]), 0)


@torch.no_grad()
def resize_masks(
    masks: Tensor, size: Sequence[int], *, canvas: Sequence[int] | None = None, half_inside: bool = False
) -> Tensor:
    """Masks at the size of a map: bilinear without a filter, then thresholded at ½.

    A cell that is four pixels wide reads the two in its middle and doesn't look at the others, so a thin mask can
    vanish.

    Args:
        masks: masks of objects, ``(N, H, W)`` bool. N may be 0.
        size: rows and columns ``(h, w)`` of the map.
        canvas: size ``(H, W)`` in pixels that the map covers, at least that of the masks, which lie at its top left;
            by default their own.
        half_inside: whether a cell of exactly ½ is inside. SOLOv2 has it so, YOLACT doesn't.

    Returns:
        ``(N, h, w)`` bool.
    """
    height, width = masks.shape[1:]
    bottom, right = canvas or (height, width)
    if (height, width) == (bottom, right) == tuple(size):
        return masks
    step = max(1, CHUNK // max(1, bottom * right))
    out = torch.empty(len(masks), *size, dtype=torch.bool, device=masks.device)
    for begin in range(0, len(masks), step):
        part = F.pad(masks[begin : begin + step].float(), (0, right - width, 0, bottom - height))  # (n, H, W)
        part = F.interpolate(part[None], tuple(size), mode="bilinear")[0]  # (n, h, w)
        out[begin : begin + step] = part >= 0.5 if half_inside else part > 0.5
    return out
