"""Maps as small PNG files in base64: few colours, rounded numbers, so that the same numbers give the same bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.ops.resize import resize_labels
from seglib.types import VOID, Category, Instances, Panoptic, Regions, Semantic
from seglib.viz.colors import to_array, to_rgb8
from seglib.viz.overlay import outline, overlay_panoptic

MAP, IMAGE = 64, 128
"""Most cells of a map, and pixels of an image, along a side."""

_VIRIDIS = (
    "440154 481a6c 472f7d 414487 39568c 31688e 2a788e 23888e 1f988b 22a884 35b779 54c568 7ad151 a5db36 d2e21b fde725"
)
VIRIDIS = tuple(tuple(bytes.fromhex(color)) for color in _VIRIDIS.split())
"""Sixteen steps of the book's colour map: a map needs no more, and the files stay small."""


def middle_slice(x: Tensor) -> Tensor:
    """The slice in the middle of a volume or a map: ``(…, D, H, W)`` → ``(…, H, W)``."""
    return x[..., x.shape[-3] // 2, :, :]


def middle_image(image: Tensor) -> Tensor:
    """An image as it is; of a volume ``(C, D, H, W)`` the middle slice, from its 1st to its 99th percentile."""
    if image.ndim == 3:
        return image
    x = middle_slice(image)  # (C, H, W)
    low, high = (x.flatten(1).quantile(q, 1)[:, None, None] for q in (0.01, 0.99))
    return ((x - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)


def encode(indices: np.ndarray, palette: Sequence[Sequence[int]], alpha: Sequence[int] | None = None) -> str:
    """Indices ``(h, w)`` into a palette of RGB colours as a PNG in base64.

    Args:
        indices: ``(h, w)`` uint8.
        palette: the colours, at most 256.
        alpha: opacity of each colour, 0 to 255; ``None`` means opaque.
    """
    from PIL import Image

    file, image = io.BytesIO(), Image.fromarray(np.ascontiguousarray(indices, dtype=np.uint8), "P")
    image.putpalette(bytes(int(v) for color in palette for v in color))
    extra = {} if alpha is None else {"transparency": bytes(alpha)}
    image.save(file, "PNG", optimize=True, **extra)
    return base64.b64encode(file.getvalue()).decode()


def shrink(x: Tensor, most: int) -> Tensor:
    """``(C, H, W)`` or ``(H, W)`` with at most ``most`` cells a side, by means over areas."""
    flat = x.reshape(1, -1, *x.shape[-2:]).float()
    if max(flat.shape[-2:]) > most:
        step = max(flat.shape[-2:]) / most
        height, width = (max(1, round(n / step)) for n in flat.shape[-2:])
        flat = F.adaptive_avg_pool2d(flat, (height, width))
    return flat.reshape(*x.shape[:-2], *flat.shape[-2:])


def strength(x: Tensor) -> Tensor:
    """Mean absolute value over the channels: ``(C, H, W)`` → ``(H, W)``."""
    return x.abs().mean(0)


def channels_of(x: Tensor, count: int = 3) -> list[int]:
    """The channels of ``(C, H, W)`` that vary most over the map, strongest first."""
    spread = x.flatten(1).std(1, correction=0)  # (C,)
    # rounded, so that the last digits of another machine do not decide
    order = sorted(range(len(spread)), key=lambda i: (-float(f"{float(spread[i]):.3g}"), i))
    return [i for i in order[:count] if float(spread[i]) > 0]


def heat(x: Tensor, most: int = MAP) -> str:
    """A map ``(H, W)`` from dark to bright; the lowest and the highest 2% of its values saturate, dark ones spread."""
    a = to_array(shrink(x, most)).astype(np.float64)
    low, high = (float(f"{v:.4g}") for v in np.quantile(a, (0.02, 0.98)))
    scaled = (a - low) / (high - low) if high > low else np.zeros_like(a)
    steps = np.floor(scaled.round(4).clip(0, 1) ** 0.7 * len(VIRIDIS)).clip(0, len(VIRIDIS) - 1)
    return encode(steps.astype(np.uint8), VIRIDIS)


def thumbnail(image: Tensor, colors: int = 64, most: int = IMAGE) -> str:
    """An image ``(C, H, W)`` in [0, 1]; of more than three channels the mean."""
    if len(image) not in (1, 3):
        image = image.mean(0, keepdim=True)
    return rgb(to_rgb8(shrink(image, most)), colors)


def rgb(pixels: np.ndarray, colors: int = 64) -> str:
    """Pixels ``(h, w, 3)`` uint8 with few colours."""
    from PIL import Image

    image = Image.fromarray(pixels).quantize(colors, dither=Image.Dither.NONE)
    table = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    indices = np.array(image)
    return encode(indices, table[: int(indices.max()) + 1].tolist())


def classes(labels: Tensor, categories: Sequence[Category], most: int = IMAGE) -> str:
    """A label map ``(H, W)`` in its classes' colours, grey where void."""
    a = to_array(labels)
    step = max(1.0, max(a.shape) / most)
    rows, columns = (((np.arange(round(n / step)) + 0.5) * step).astype(int).clip(0, n - 1) for n in a.shape)
    a = a[rows][:, columns]
    used = sorted(set(a.ravel().tolist()))
    palette = [(178, 178, 178) if k == VOID else categories[k].color for k in used]
    return encode(np.searchsorted(used, a), palette)


def class_map(prediction: Semantic | Regions) -> Tensor:
    """The label of every pixel, ``(H, W)``; of overlapping regions the most probable one that holds it, or void."""
    if isinstance(prediction, Semantic):
        return prediction.labels
    best = prediction.probs.where(prediction.masks, -1.0).max(0)
    return best.indices.where(best.values >= 0, VOID)


def instances(found: Instances, categories: Sequence[Category]) -> str:
    """Objects as a transparent layer over their image: class colours, dark outlines."""
    labels = found.labels.tolist()
    height, width = shrink(torch.zeros(1, *found.size), IMAGE).shape[-2:]
    masks = shrink(found.masks.float(), IMAGE) >= 0.5 if labels else found.masks
    layer = np.zeros((height, width), dtype=np.uint8)
    used = sorted(set(labels))
    palette, alpha = [(0, 0, 0)], [0]
    for k in used:
        color = categories[k].color
        palette += [color, tuple(v // 3 for v in color)]
        alpha += [165, 255]
    # large ones first, so that small ones stay visible
    order = sorted(range(len(labels)), key=lambda i: (-int(masks[i].sum()), i))
    for i in order:
        mask = to_array(masks[i])
        layer[mask] = 1 + 2 * used.index(labels[i])
        layer[outline(mask)] = 2 + 2 * used.index(labels[i])
    return encode(layer, palette, alpha)


def panoptic(found: Panoptic, categories: Sequence[Category]) -> str:
    """A panoptic map: stuff in class colours, things in shades of theirs, void striped."""
    step = max(1.0, max(found.map.shape) / IMAGE)
    small = resize_labels(found.map, [max(1, round(n / step)) for n in found.map.shape])
    return rgb(overlay_panoptic(None, Panoptic(small, found.segments), categories))


BLUE, ORANGE = (86, 180, 233), (230, 120, 0)


def frames(boxes: Sequence[tuple[Tensor, tuple[int, int, int]]], size: tuple[int, int]) -> str:
    """Boxes ``(N, 4)`` of several colours as a transparent layer over an image of ``size``; later ones on top."""
    scale = min(1.0, IMAGE / max(size))
    height, width = (max(1, round(n * scale)) for n in size)
    layer = np.zeros((height, width), dtype=np.uint8)
    for index, (group, _) in enumerate(boxes, 1):
        for x0, y0, x1, y1 in (group * scale).round().int().tolist():
            left, top = max(0, min(x0, width - 1)), max(0, min(y0, height - 1))
            right, bottom = max(left, min(x1, width) - 1), max(top, min(y1, height) - 1)
            layer[[top, bottom], left : right + 1] = index
            layer[top : bottom + 1, [left, right]] = index
    return encode(layer, [(0, 0, 0), *(color for _, color in boxes)], [0, *([255] * len(boxes))])


def grid(values: Tensor) -> Tensor:
    """Numbers ``(N,)`` row by row in a matrix that is about square; what is missing at the end is the lowest."""
    columns = max(1, round(len(values) ** 0.5))
    rows = -(-len(values) // columns)
    return torch.cat([values, values.min().expand(rows * columns - len(values))]).view(rows, columns)


def sheet(x: Tensor, columns: int, rows: int, gap: float = 0.0) -> Tensor:
    """The first maps of ``(N, …, h, w)`` side by side, one cell apart: ``(…, H, W)``, with ``gap`` between them."""
    height, width = (n + 1 for n in x.shape[-2:])
    found = x.new_full((*x.shape[1:-2], rows * height - 1, columns * width - 1), gap)
    for i, one in enumerate(x[: rows * columns]):
        top, left = i // columns * height, i % columns * width
        found[..., top : top + height - 1, left : left + width - 1] = one
    return found


def montage(x: Tensor, columns: int, rows: int) -> Tensor:
    """The first maps of ``(N, h, w)``, each from 0 to 1, side by side with a gap: ``(H, W)``."""
    low, high = x.amin((1, 2), keepdim=True), x.amax((1, 2), keepdim=True)
    return sheet((x - low) / (high - low).clamp(min=1e-12), columns, rows)
