"""Small masks of objects, put back into the image: an M×M grid of probabilities is stretched over its box.

Bilinear interpolation is a product of one along the rows and one along the columns, so a pasted mask is a product of
three matrices, ``(H, M) (M, M) (M, W)``, and all masks are one batched product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seglib.ops.precision import at_least_float32

CHUNK = 2**26
"""Pixels that are pasted at once: 256 MB of float32. Thousands of masks take no more than that beside the result."""


@dataclass(frozen=True, eq=False)
class MaskGrids:
    """Masks of N objects as grids over their boxes: :class:`~seglib.types.PackedMasks`.

    A hundred grids of 28×28 take 0.3 MB, whatever the size of the image. Picking objects and moving them to another
    device touch the grids alone; :meth:`dense` pastes them.

    Attributes:
        probs: probabilities of each object's grid, ``(N, M, M)`` in [0, 1].
        boxes: boxes over which the grids are stretched, ``(N, 4)`` xyxy in pixels of the image.
        size: size ``(H, W)`` of the image.
        rounded: whether grids are stretched over whole pixels, torchvision's way (:func:`paste_probs`).
        threshold: the probability from which a pixel belongs to the object, in (0, 1].

    Raises:
        ValueError: when shapes don't match or the threshold isn't in (0, 1].
    """

    probs: Tensor
    boxes: Tensor
    size: tuple[int, int]
    rounded: bool = False
    threshold: float = 0.5

    def __post_init__(self) -> None:
        _check(self.probs, self.boxes, self.threshold)

    def __len__(self) -> int:
        return len(self.probs)

    def __getitem__(self, index: Tensor | slice) -> MaskGrids:
        """The objects picked by a slice, a bool mask ``(N,)`` or int indices, still as grids."""
        return self._map(lambda values: values[index])

    def dense(self) -> Tensor:
        """The masks pasted into the image, bool ``(N, H, W)``."""
        return paste_masks(self.probs, self.boxes, self.size, threshold=self.threshold, rounded=self.rounded)

    def _map(self, change: Callable[[Tensor], Tensor]) -> MaskGrids:
        return replace(self, probs=change(self.probs), boxes=change(self.boxes))


def paste_masks(
    probs: Tensor, boxes: Tensor, size: Sequence[int], *, threshold: float = 0.5, rounded: bool = False
) -> Tensor:
    """Stretch masks over their boxes in an image of ``size`` and threshold them there.

    Args:
        probs: probabilities of each object's grid, ``(N, M, M)`` in [0, 1].
        boxes: box of each grid, ``(N, 4)`` xyxy in pixels of the image; parts outside are cut off.
        size: size ``(H, W)`` of the image.
        threshold: the probability from which a pixel belongs to the object, in (0, 1].
        rounded: whether grids are stretched over whole pixels, torchvision's way (:func:`paste_probs`).

    Returns:
        ``(N, H, W)`` bool.

    Raises:
        ValueError: when shapes don't match or the threshold isn't in (0, 1].
    """
    _check(probs, boxes, threshold)
    height, width = size
    step = max(1, CHUNK // max(1, height * width))
    out = torch.empty(len(probs), height, width, dtype=torch.bool, device=probs.device)
    for begin in range(0, len(probs), step):
        part = slice(begin, begin + step)
        torch.ge(paste_probs(probs[part], boxes[part], size, rounded=rounded), threshold, out=out[part])
    return out


def paste_probs(probs: Tensor, boxes: Tensor, size: Sequence[int], *, rounded: bool = False) -> Tensor:
    """The probabilities ``(N, M, M)`` stretched over their boxes, 0 outside them: ``(N, H, W)``. Gradients pass.

    The centre of a pixel, at +0.5, is looked up where it lies in the box: cell i of the mask is centred on (i + ½) / M
    of the box's side, and beyond the outer cells' centres values fall to 0 within half a cell.

    Args:
        probs: probabilities of each object's grid, ``(N, M, M)``.
        boxes: box of each grid, ``(N, 4)`` xyxy in pixels of the image.
        size: size ``(H, W)`` of the image.
        rounded: whether to paste torchvision's way: the mask gets a rim of zeros, the box grows alike, is cut to whole
            pixels, counts both its first and its last one, and the mask is resized to that many pixels.
    """
    height, width = size
    probs = at_least_float32(probs)
    side = probs.shape[-1]
    columns = _weights(boxes[:, 0], boxes[:, 2], side, width, rounded)  # (N, W, M)
    rows = _weights(boxes[:, 1], boxes[:, 3], side, height, rounded)  # (N, H, M)
    return rows.to(probs.dtype) @ probs @ columns.mT.to(probs.dtype)  # (N, H, W)


def _check(probs: Tensor, boxes: Tensor, threshold: float) -> None:
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is a probability in (0, 1], got {threshold}; 0 would fill the image")
    if probs.ndim != 3 or boxes.shape != (probs.shape[0], 4):
        raise ValueError(
            f"expected masks (N, M, M) and boxes (N, 4), got {tuple(probs.shape)} and {tuple(boxes.shape)}"
        )


def _weights(low: Tensor, high: Tensor, side: int, length: int, rounded: bool) -> Tensor:
    """What each of ``side`` cells gives to each of ``length`` pixels along one axis: ``(N, length, side)``."""
    low, high = at_least_float32(low)[:, None], at_least_float32(high)[:, None]  # (N, 1)
    pixel = torch.arange(length, device=low.device, dtype=low.dtype)
    if rounded:
        grown = (side + 2) / side * 0.5 * (high - low)
        middle = 0.5 * (high + low)
        first, last = (middle - grown).trunc(), (middle + grown).trunc()
        count = (last - first + 1).clamp(min=1)  # (N, 1) pixels
        position = ((pixel + 0.5 - first) * (side + 2) / count - 0.5).clamp(0, side + 1) - 1  # (N, length), rim at −1
        inside = (pixel >= first) & (pixel < first + count)
    else:
        extent = (high - low).clamp(min=torch.finfo(low.dtype).tiny)
        position = (pixel + 0.5 - low) / extent * side - 0.5
        inside = high > low
    cell = torch.arange(side, device=low.device, dtype=low.dtype)
    hat = (1 - (position[..., None] - cell).abs()).clamp(min=0)  # (N, length, side)
    return hat * inside[..., None]
