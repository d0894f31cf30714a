"""Painters that several drawings of detectors share: a block's value → ``(h, w, 3)`` uint8."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.book.figures.architecture import paint
from seglib.book.figures.architecture.parts import Scene
from seglib.viz.colors import to_array, to_rgb8

COLUMNS, ROWS = 3, 2
"""Things that are shown of many: as many as stand side by side, and rows of them."""


def on_scale(x: Tensor, most: int = paint.MAP) -> np.ndarray:
    """``(H, W)`` in [0, 1] in the colours of the maps, the same scale for all."""
    a = to_array(paint.shrink(x, most)).round(4)
    return np.array(paint.VIRIDIS, dtype=np.uint8)[(a * 16).astype(int).clip(0, 15)]


def dim(scene: Scene) -> np.ndarray:
    """The image, small and pale, for boxes on top: ``(h, w, 3)``."""
    return (to_rgb8(paint.shrink(scene.image, paint.IMAGE)).astype(np.float32) * 0.75 + 40).astype(np.uint8)


def frame(pixels: np.ndarray, box: Sequence[float], color: Sequence[int], scale: float) -> None:
    """One box ``xyxy`` in the image's pixels, in place; what lies outside is not drawn."""
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = (round(v * scale) for v in box)
    x1, y1 = x1 - 1, y1 - 1
    rows_, columns = np.arange(max(0, y0), min(height, y1 + 1)), np.arange(max(0, x0), min(width, x1 + 1))
    for x in (x0, x1):
        if 0 <= x < width:
            pixels[rows_, x] = color
    for y in (y0, y1):
        if 0 <= y < height:
            pixels[y, columns] = color


def dot(pixels: np.ndarray, at: Sequence[float], color: Sequence[int], side: int = 3) -> None:
    """A square of pixels with its middle at x and y, in place; what lies outside is not drawn."""
    left, top = (int(v) - side // 2 for v in at)
    pixels[max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)] = color


def boxes(value: tuple[Tensor, ...], scene: Scene) -> np.ndarray:
    """Detections in class colours; a value is (all boxes, boxes to draw, their labels)."""
    _, boxes, labels = value
    pixels = dim(scene)
    scale = pixels.shape[0] / scene.image.shape[1]
    for box, label in reversed(list(zip(boxes.tolist(), labels.tolist(), strict=True))):
        frame(pixels, box, scene.categories[label].color, scale)
    return pixels


def patches(value: Tensor, scene: Scene) -> np.ndarray:
    """The first patches ``(R, C, P, P)`` of all, mean absolute value over the channels."""
    return on_scale(paint.montage(value.abs().mean(1), COLUMNS, ROWS))


def masks(value: Tensor, scene: Scene) -> np.ndarray:
    """The first masks ``(D, M, M)`` of all, logits, as probabilities on one scale."""
    return probabilities(value[: COLUMNS * ROWS].sigmoid(), scene)


def probabilities(value: Tensor, scene: Scene) -> np.ndarray:
    """The first maps ``(D, h, w)`` of all, in [0, 1], on one scale."""
    sheet = paint.sheet(value, COLUMNS, ROWS)
    return on_scale(sheet, max(sheet.shape) if max(sheet.shape) <= paint.IMAGE else paint.IMAGE)


def channels(value: Tensor, scene: Scene) -> np.ndarray:
    """The first sixteen channels of ``(1, C, h, w)``, each on a scale of its own."""
    count = min(16, value.shape[1])
    columns = math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    most = (paint.IMAGE - columns + 1) // columns
    small = paint.shrink(value[0], most)
    return on_scale(paint.montage(small, columns, rows), paint.IMAGE)


def matrix(value: Tensor, scene: Scene) -> np.ndarray:
    """A matrix: the first things are rows, features columns."""
    x = value[:24, :48].abs()
    return on_scale((x / x.max().clamp(min=1e-12)).sqrt() if x.numel() else x.new_zeros(1, 1))


def best_level(value: tuple[Tensor, Tensor], scene: Scene) -> np.ndarray:
    """The second part of the value, a map ``(h, w)`` in [0, 1]."""
    return on_scale(value[1])


def best_of(maps: Sequence[Tensor]) -> Tensor:
    """The largest of maps ``(h_i, w_i)`` of several sizes at every cell of the first one."""
    size = maps[0].shape
    return torch.stack([F.interpolate(m[None, None], size, mode="nearest")[0, 0] for m in maps]).amax(0)
