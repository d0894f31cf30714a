"""RoI Pooling and RoIAlign: a patch of fixed size from every box on a feature map.

Each function has three paths with the same values: ``"reference"``, the loops that the book derives; ``"torch"``,
vectorised; and ``"torchvision"``, its C++ and CUDA kernels. ``"auto"`` takes the fastest for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align as torchvision_roi_align
from torchvision.ops import roi_pool as torchvision_roi_pool

from seglib.ops.precision import at_least_float32

IMPLEMENTATIONS = ("auto", "torch", "torchvision", "reference")


def roi_levels(
    boxes: Tensor, num_levels: int, *, lowest: int = 2, canonical_size: float = 224, canonical_level: int = 4
) -> Tensor:
    r"""The pyramid level that serves each box.

    .. math:: k = \left\lfloor 4 + \log_2 \frac{\sqrt{w h}}{224} \right\rfloor

    within the levels that there are.

    A box of 224 pixels, the size of ImageNet's crops, goes to P4, one of half that size to P3.
    Source: Lin et al., "Feature Pyramid Networks", CVPR 2017, eq. 1.

    Args:
        boxes: RoIs, ``(R, 4)`` xyxy in pixels.
        num_levels: number of levels of the pyramid.
        lowest: the level of the finest map: 2 for P2, of stride 4.
        canonical_size: the side of a square box, in pixels, that goes to the canonical level.
        canonical_level: the level that serves boxes of the canonical size: 4 for P4.

    Returns:
        ``(R,)`` int64, 0 for the finest map. A box without area goes there.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).float()
    size = (sides[:, 0] * sides[:, 1]).sqrt()  # (R,)
    # an edge of exactly 224 must not fall to P3 by rounding
    level = torch.floor(canonical_level + torch.log2(size / canonical_size + 1e-8)) - lowest
    return level.clamp(0, num_levels - 1).long()


def roi_align(
    features: Tensor | Sequence[Tensor],
    boxes: Tensor,
    images: Tensor,
    output_size: int,
    *,
    strides: float | Sequence[float],
    levels: Tensor | None = None,
    sampling_ratio: int = 2,
    aligned: bool = True,
    impl: str = "auto",
) -> Tensor:
    """RoIAlign: the mean of bilinear samples in each of P×P bins of each box; nothing is rounded.

    Samples lie in a regular grid inside a bin. One beyond the border by at most a cell takes the border's value, one
    further out counts as 0. Source: He et al., "Mask R-CNN", ICCV 2017, section 3; ``aligned`` is from Detectron2.

    Args:
        features: feature map ``(B, C, H, W)``, or such maps of several levels, finest first.
        boxes: RoIs, ``(R, 4)`` xyxy in pixels of the image.
        images: ``(R,)`` int64, index in the batch of each box's image.
        output_size: number of bins P along each side of a patch.
        strides: pixels per cell, one number for each level.
        levels: ``(R,)`` int64, the level that serves each box; needed with more than one.
        sampling_ratio: number of samples per bin along each axis. 0 takes as many as a bin is cells wide, rounded up,
            so that no cell is passed over.
        aligned: whether cell i of a map lies at (i + ½) strides, as pixel centres do. Otherwise it lies at i strides,
            half a cell off, and boxes smaller than a cell are widened to it: the first implementations' way.
        impl: path to take: "auto", "torch", "torchvision" or "reference". Only "torch" and "reference" pass gradients
            to the boxes.

    Returns:
        ``(R, C, P, P)``.

    Raises:
        ValueError: for shapes that don't match, levels that are missing, or a setting out of range.
    """
    maps, each = _check(features, boxes, images, output_size, strides, levels, impl)
    if sampling_ratio < 0:
        raise ValueError(f"sampling_ratio is at least 0 (0: as many as cells), got {sampling_ratio}")
    if impl == "auto":
        # on the CPU gathering rows is several times as fast as torchvision's kernel (benchmarks/roi.py)
        impl = "torch" if sampling_ratio > 0 and not boxes.is_cuda else "torchvision"
    if impl == "torch":
        return _align_by_rows(maps, boxes, images, output_size, each, levels, sampling_ratio, aligned)

    def one_level(level: Tensor, boxes: Tensor, images: Tensor, stride: float) -> Tensor:
        if impl == "reference":
            return _align_by_loops(level, boxes, images, output_size, 1 / stride, sampling_ratio, aligned)
        wide, rois = _for_torchvision(level, boxes, images)
        return torchvision_roi_align(wide, rois, output_size, 1 / stride, sampling_ratio, aligned).to(level.dtype)

    return _each_level(one_level, maps, boxes, images, output_size, each, levels)


def roi_pool(
    features: Tensor | Sequence[Tensor],
    boxes: Tensor,
    images: Tensor,
    output_size: int,
    *,
    strides: float | Sequence[float],
    levels: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """RoI Pooling: the box is rounded to whole cells, split into P×P bins of whole cells, and each gives its maximum.

    Source: Girshick, "Fast R-CNN", ICCV 2015, section 2.1. Both roundings move what is pooled by up to half a cell,
    which is 16 pixels at stride 32: the reason for :func:`roi_align`.

    Args:
        features: feature map ``(B, C, H, W)``, or such maps of several levels, finest first.
        boxes: RoIs, ``(R, 4)`` xyxy in pixels of the image.
        images: ``(R,)`` int64, index in the batch of each box's image.
        output_size: number of bins P along each side of a patch.
        strides: pixels per cell, one number for each level.
        levels: ``(R,)`` int64, the level that serves each box; needed with more than one.
        impl: path to take: "auto" (torchvision's kernel), "torch", "torchvision" or "reference".

    Returns:
        ``(R, C, P, P)``; 0 in bins without a cell.

    Raises:
        ValueError: as :func:`roi_align`.
    """
    maps, each = _check(features, boxes, images, output_size, strides, levels, impl)

    def one_level(level: Tensor, boxes: Tensor, images: Tensor, stride: float) -> Tensor:
        if impl in ("auto", "torchvision"):
            wide, rois = _for_torchvision(level, boxes, images)
            return torchvision_roi_pool(wide, rois, output_size, 1 / stride).to(level.dtype)
        pool = _pool_by_loops if impl == "reference" else _pool_by_masks
        return pool(level, boxes, images, output_size, 1 / stride)

    return _each_level(one_level, maps, boxes, images, output_size, each, levels)


def bilinear_sample(values: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The map between its cells: the mean of the four cells around a point, weighted by nearness.

    The reference path of :func:`roi_align`, for one point.

    Args:
        values: the map, ``(C, H, W)``.
        y: vertical position of the point in cells; row i lies at y = i.
        x: horizontal position of the point in cells; column j lies at x = j.

    Returns:
        ``(C,)``; beyond the border by up to one cell the border's value, further out 0.
    """
    height, width = values.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return values.new_zeros(values.shape[0])
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    fy, fx = y - top, x - left  # how far towards bottom and right, in [0, 1)
    upper = (1 - fx) * values[:, top, left] + fx * values[:, top, right]  # (C,)
    lower = (1 - fx) * values[:, bottom, left] + fx * values[:, bottom, right]
    return (1 - fy) * upper + fy * lower


def _align_by_loops(
    features: Tensor, boxes: Tensor, images: Tensor, size: int, scale: float, ratio: int, aligned: bool
) -> Tensor:
    patches = []
    for box, image in zip(boxes, images.tolist(), strict=True):
        x1, y1, x2, y2 = box * scale - (0.5 if aligned else 0.0)
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = width.clamp(min=1), height.clamp(min=1)
        bin_h, bin_w = height / size, width / size
        rows = ratio or max(0, math.ceil(float(bin_h)))
        columns = ratio or max(0, math.ceil(float(bin_w)))
        bins = []
        for p in range(size):
            for q in range(size):
                total = features.new_zeros(features.shape[1])  # (C,)
                for i in range(rows):
                    for j in range(columns):
                        y = y1 + (p + (i + 0.5) / rows) * bin_h
                        x = x1 + (q + (j + 0.5) / columns) * bin_w
                        total = total + bilinear_sample(features[image], y, x)
                bins.append(total / max(rows * columns, 1))
        patches.append(torch.stack(bins, 1).view(-1, size, size))  # (C, P, P)
    return torch.stack(patches) if patches else features.new_zeros(0, features.shape[1], size, size)


def _align_by_rows(
    maps: list[Tensor],
    boxes: Tensor,
    images: Tensor,
    size: int,
    strides: list[float],
    levels: Tensor | None,
    ratio: int,
    aligned: bool,
) -> Tensor:
    """All levels at once: a table with one row of C numbers per cell, of which every bin is a weighted sum.

    The weights of a bin are products of one for its rows and one for its columns, because a bilinear sample is.
    """
    batch, channels = maps[0].shape[:2]
    table = torch.cat([level.permute(0, 2, 3, 1).reshape(-1, channels) for level in maps])  # (cells, C)
    device = boxes.device
    heights = torch.tensor([m.shape[2] for m in maps], device=device)
    widths = torch.tensor([m.shape[3] for m in maps], device=device)
    cells = heights * widths  # (levels,) of one image
    first = batch * (cells.cumsum(0) - cells)  # (levels,) row of the table where a level begins
    level = torch.zeros_like(images) if levels is None else levels  # (R,)
    scale = 1 / torch.tensor(strides, dtype=boxes.dtype, device=device)[level]  # (R,)
    scaled = boxes * scale[:, None] - (0.5 if aligned else 0.0)  # (R, 4) in cells
    start, side = scaled[:, :2], scaled[:, 2:] - scaled[:, :2]  # (R, 2) x, y
    if not aligned:
        side = side.clamp(min=1)
    x_cells, x_weights = _taps(start[:, 0], side[:, 0], size, widths[level], ratio)  # (R, P, 2S)
    y_cells, y_weights = _taps(start[:, 1], side[:, 1], size, heights[level], ratio)
    begin = first[level] + images * cells[level]  # (R,)
    rows = begin[:, None, None] + y_cells * widths[level][:, None, None]  # (R, P, 2S)
    index = rows[:, :, None, :, None] + x_cells[:, None, :, None, :]  # (R, P, P, 2S, 2S)
    weights = y_weights[:, :, None, :, None] * x_weights[:, None, :, None, :]
    taps = index.shape[-1] * index.shape[-2]
    weights = weights.reshape(-1, taps).to(table.dtype)  # (R·P·P, taps)
    bins = F.embedding_bag(index.reshape(-1, taps), table, mode="sum", per_sample_weights=weights)  # (R·P·P, C)
    patches = bins.view(-1, size, size, channels).permute(0, 3, 1, 2)  # (R, C, P, P), channels last in memory
    # a compiler that doesn't know R can't tell that order from the usual one
    return patches.contiguous() if torch.compiler.is_compiling() else patches


def _taps(start: Tensor, side: Tensor, size: int, length: Tensor, ratio: int) -> tuple[Tensor, Tensor]:
    """The cells that the samples of each bin touch along one axis, and their weights, both ``(R, P, 2S)``."""
    device = start.device
    bin_side = side / size  # (R,)
    if ratio:
        most, count = ratio, torch.full_like(start, ratio)
    else:
        count = bin_side.detach().ceil().clamp(min=1)  # (R,)
        most = int(count.max()) if len(count) else 1
    sample = torch.arange(most, device=device)  # (S,)
    inside = (sample + 0.5) / count[:, None]  # (R, S) position in the bin, beyond 1 where there are fewer samples
    bins = torch.arange(size, device=device)[:, None]  # (P, 1)
    position = start[:, None, None] + (bins + inside[:, None, :]) * bin_side[:, None, None]  # (R, P, S)
    length = length[:, None, None]
    counts = (position >= -1) & (position <= length) & (sample < count[:, None])[:, None, :]
    position = torch.minimum(position.clamp(min=0), length - 1)
    low = position.detach().floor().long()  # (R, P, S)
    high = torch.minimum(low + 1, length - 1)
    share = position - low  # of the higher cell
    weights = torch.stack([1 - share, share], -1) * (counts / count[:, None, None])[..., None]  # (R, P, S, 2)
    if not ratio:
        weights = weights * (bin_side > 0)[:, None, None, None]  # no sample fits into a bin without width
    return torch.stack([low, high], -1).flatten(2), weights.flatten(2)


def _pool_by_loops(features: Tensor, boxes: Tensor, images: Tensor, size: int, scale: float) -> Tensor:
    height, width = features.shape[2:]
    patches = []
    for box, image in zip(boxes, images.tolist(), strict=True):
        x1, y1, x2, y2 = (_round(float(v * scale)) for v in box)
        bin_h, bin_w = max(y2 - y1 + 1, 1) / size, max(x2 - x1 + 1, 1) / size
        bins = []
        for p in range(size):
            top = min(max(math.floor(p * bin_h) + y1, 0), height)
            bottom = min(max(math.ceil((p + 1) * bin_h) + y1, 0), height)
            for q in range(size):
                left = min(max(math.floor(q * bin_w) + x1, 0), width)
                right = min(max(math.ceil((q + 1) * bin_w) + x1, 0), width)
                cells = features[image, :, top:bottom, left:right].flatten(1)  # (C, cells)
                bins.append(cells.max(1).values if cells.shape[1] else features.new_zeros(features.shape[1]))
        patches.append(torch.stack(bins, 1).view(-1, size, size))
    return torch.stack(patches) if patches else features.new_zeros(0, features.shape[1], size, size)


def _pool_by_masks(features: Tensor, boxes: Tensor, images: Tensor, size: int, scale: float) -> Tensor:
    """A maximum over a rectangle is one over its columns and then over its rows."""
    corners = _round(boxes * scale)  # (R, 4)
    values = features[images]  # (R, C, H, W)
    for axis, begin, end in ((3, corners[:, 0], corners[:, 2]), (2, corners[:, 1], corners[:, 3])):
        length = features.shape[axis]
        bin_side = (end - begin + 1).clamp(min=1)[:, None] / size  # (R, 1)
        bins = torch.arange(size, device=boxes.device)  # (P,)
        low = torch.floor(bins * bin_side) + begin[:, None]  # (R, P)
        high = torch.ceil((bins + 1) * bin_side) + begin[:, None]
        cell = torch.arange(length, device=boxes.device)
        inside = (cell >= low[..., None]) & (cell < high[..., None])  # (R, P, length)
        shape = (-1, 1, 1, length) if axis == 3 else (-1, 1, length, 1)
        parts = [values.masked_fill(~inside[:, p].view(shape), -math.inf).max(axis).values for p in range(size)]
        values = torch.stack(parts, axis)  # (R, C, H, P), then (R, C, P, P)
    return values.masked_fill(values == -math.inf, 0)


def _for_torchvision(level: Tensor, boxes: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """The map and the boxes ``(R, 5)``, image first, in one type, as the kernels want them: float32 at least."""
    wide = at_least_float32(level)
    return wide, torch.cat([images[:, None].to(boxes.dtype), boxes], 1).to(wide.dtype)


def _round(value: Any) -> Any:
    """A number or tensor to the nearest whole one, halves away from zero as in C (Python's go to the even one)."""
    if isinstance(value, Tensor):
        return torch.sign(value) * torch.floor(value.abs() + 0.5)
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def _each_level(
    one_level: Callable[[Tensor, Tensor, Tensor, float], Tensor],
    maps: list[Tensor],
    boxes: Tensor,
    images: Tensor,
    size: int,
    strides: list[float],
    levels: Tensor | None,
) -> Tensor:
    """``one_level`` on the boxes of each level, put back in their order."""
    if levels is None:
        return one_level(maps[0], boxes, images, strides[0])
    out = maps[0].new_zeros(len(boxes), maps[0].shape[1], size, size)
    for i, (level, stride) in enumerate(zip(maps, strides, strict=True)):
        picked = (levels == i).nonzero()[:, 0]
        out = out.index_copy(0, picked, one_level(level, boxes[picked], images[picked], stride))
    return out


def _check(
    features: Tensor | Sequence[Tensor],
    boxes: Tensor,
    images: Tensor,
    size: int,
    strides: float | Sequence[float],
    levels: Tensor | None,
    impl: str,
) -> tuple[list[Tensor], list[float]]:
    """The levels' maps and strides as lists, after checking what the user passed."""
    maps = [features] if isinstance(features, Tensor) else list(features)
    each = [float(strides)] * len(maps) if isinstance(strides, int | float) else [float(s) for s in strides]
    if len(each) != len(maps) or min(each, default=0) <= 0:
        raise ValueError(f"{len(maps)} levels need as many strides above 0, got {each}")
    if any(m.ndim != 4 for m in maps) or len({m.shape[:2] for m in maps}) != 1:
        raise ValueError(
            f"features are (B, C, H, W) with one B and C for all levels, got {[tuple(m.shape) for m in maps]}"
        )
    if boxes.ndim != 2 or boxes.shape[-1] != 4 or images.shape != boxes.shape[:1]:
        raise ValueError(
            f"expected boxes (R, 4) and the image of each (R,), got {tuple(boxes.shape)} and {tuple(images.shape)}"
        )
    if len(maps) > 1 and (levels is None or levels.shape != images.shape):
        raise ValueError(f"{len(maps)} levels need `levels` (R,), the level of each box; see roi_levels")
    if size < 1:
        raise ValueError(f"output_size is at least 1, got {size}")
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl {impl!r} is unknown; choose one of {', '.join(IMPLEMENTATIONS)}")
    return maps, each
