"""Images, volumes and label maps at another size; pixel centres lie at half integers in all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def resize_image(image: Tensor, size: Sequence[int], *, antialias: bool = True) -> Tensor:
    """The image at another size, bilinear; a volume trilinear.

    Args:
        image: float ``(C, H, W)``, or ``(C, D, H, W)``, in any range.
        size: the new ``(H, W)`` or ``(D, H, W)``.
        antialias: low-pass filter an image that shrinks, so that thin lines don't vanish. Volumes have no such filter.

    Returns:
        ``(C, *size)`` in the image's own range.
    """
    if tuple(image.shape[1:]) == tuple(size):
        return image
    if image.ndim == 4:
        return F.interpolate(image[None], tuple(size), mode="trilinear")[0]  # (C, D', H', W')
    out = F.interpolate(image[None], tuple(size), mode="bilinear", antialias=antialias)[0]  # (C, H', W')
    low, high = image.aminmax()
    return out.clamp_(low, high)  # the weights sum to 1 only up to rounding


def resize_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Label maps or masks at another size: an output pixel takes the label of the input pixel that its centre lies in.

    Row i of H' reads row ``floor((i + 0.5) * H / H')``. These are the same half-pixel centres as in
    :func:`resize_image`, so image and labels stay aligned.

    Args:
        labels: ``(..., H, W)`` of any type, or ``(..., D, H, W)``.
        size: the new size of the last two axes, or three.

    Returns:
        ``(..., *size)`` of the same type.
    """
    old = tuple(labels.shape[-len(size) :])
    if old == tuple(size):
        return labels
    for axis, (before, after) in enumerate(zip(old, size, strict=True), start=-len(size)):
        # In integers, because (i + 0.5) * H / H' in floats may fall just short of a whole number.
        index = (2 * torch.arange(after, device=labels.device) + 1) * before // (2 * after)
        labels = labels.index_select(axis, index)
    return labels


def crop_to(maps: Tensor, size: Sequence[int]) -> Tensor:
    """The part of ``maps`` ``(…, H, W)`` at the origin with ``size`` rows and columns; of volumes slices, too.

    It undoes :func:`~seglib.layers.normalize.pad_to_multiple`. Maps that fit already are returned as they are: the
    gradient of a slice fills a map of zeros.
    """
    whole = tuple(maps.shape[-len(size) :])
    if any(isinstance(n, torch.SymInt) for n in (*whole, *size)):
        # an exported model takes images of any size: a slice would tie it to sizes that are padded, or to others
        for axis, n in zip(range(-len(size), 0), size, strict=True):
            maps = maps.index_select(axis, torch.arange(n, device=maps.device))
        return maps
    if whole == tuple(size):
        return maps
    corner: tuple[Any, ...] = (..., *(slice(n) for n in size))
    return maps[corner]


def aligned_bilinear(x: Tensor, factor: int) -> Tensor:
    r"""Bilinear upsampling in which coarse cell i stays at fine cell :math:`i f + \lfloor f / 2 \rfloor`.

    Detectors without anchors place cell i of a map of stride s at pixel i·s + s // 2; this keeps every cell there. The
    row (0, 1) becomes 0, 0, ½, 1 at factor 2, where half-pixel centres (``align_corners=False``) give 0, ¼, ¾, 1: these
    lie half a fine cell aside. Beyond the outermost cells values repeat.

    Source: Tian et al., "Conditional Convolutions for Instance Segmentation", ECCV 2020, in its published code.

    Args:
        x: maps ``(B, C, H, W)``; B may be 0.
        factor: upsampling factor f, at least 1.

    Returns:
        ``(B, C, f·H, f·W)``.

    Raises:
        ValueError: for a factor below 1.
    """
    if factor < 1:
        raise ValueError(f"factor must be at least 1, got {factor}")
    height, width = x.shape[-2:]
    if factor == 1 or x.numel() == 0:
        return x if factor == 1 else x.new_zeros(*x.shape[:2], factor * height, factor * width)
    rim = F.pad(x, (1, 1, 1, 1), mode="replicate")  # (B, C, H + 2, W + 2)
    size = ((height + 1) * factor + 1, (width + 1) * factor + 1)
    fine = F.interpolate(rim, size, mode="bilinear", align_corners=True)  # fine cell o is coarse cell o / f − 1
    start = factor - factor // 2
    return fine[..., start : start + factor * height, start : start + factor * width]
