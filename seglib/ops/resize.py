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
    if tuple(maps.shape[-len(size) :]) == tuple(size):
        return maps
    corner: tuple[Any, ...] = (..., *(slice(n) for n in size))
    return maps[corner]
