"""One PNG, two palettes: how the book stores a figure for light and dark pages. `seglib.book.page_figures` draws it."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

DARK_CHUNK = "seglib-dark"
"""Name of the PNG's text chunk that holds the dark palette: base64 of 3 bytes a colour, in the palette's order."""

NARROW_CHUNK = "seglib-narrow"
"""Name of the text chunk that holds the narrow layout, as JSON (`seglib.book.panels.Narrow`)."""

COLORS = 256
CHART_COLORS = 96  # of them, at most, for what is drawn beside images


# Colours


def quantize(
    light: np.ndarray, dark: np.ndarray, images: np.ndarray, colors: int = COLORS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two images of the same shape as one map of indices and two palettes.

    What is drawn beside images and the images themselves get colours of their own, so that a photograph leaves a
    chart's few colours alone.

    Args:
        light: ``(H, W, 3)`` uint8.
        dark: ``(H, W, 3)`` uint8.
        images: ``(H, W)`` bool, the pixels of images.
        colors: length of the palettes, at most 256.

    Returns:
        Indices ``(H, W)`` uint8, and the palettes ``(P, 3)`` uint8, P ≤ ``colors``.
    """
    both = np.concatenate([light, dark], axis=2).reshape(-1, 6).astype(np.uint64)  # (H·W, 6)
    codes = both @ (np.uint64(256) ** np.arange(6, dtype=np.uint64))
    unique, first, inverse, counts = np.unique(codes, return_index=True, return_inverse=True, return_counts=True)
    pairs = both[first].astype(np.float64)  # (U, 6)
    if len(unique) <= colors:
        group, palette = np.arange(len(unique)), pairs
    else:
        beside = np.bincount(inverse.reshape(-1), weights=~images.reshape(-1)) > 0  # (U,) those that are drawn
        drawn, shown = int(beside.sum()), int((~beside).sum())
        for_drawn = min(drawn, max(CHART_COLORS, colors - shown) if shown else colors)
        group, palette = np.zeros(len(unique), dtype=int), np.zeros((0, 6))
        for chosen, count in ((beside, for_drawn), (~beside, colors - for_drawn)):
            if chosen.any():
                labels, means = _cut(pairs[chosen], counts[chosen], count)
                group[chosen] = len(palette) + labels
                palette = np.concatenate([palette, means])
    used = np.bincount(group, weights=counts, minlength=len(palette))
    order = np.argsort(-used, kind="stable")  # the paper first
    rank = np.empty(len(order), dtype=np.uint8)
    rank[order] = np.arange(len(order))
    palette = (palette[order] + 0.5).astype(np.uint8)
    return rank[group[inverse.reshape(-1)]].reshape(light.shape[:2]), palette[:, :3], palette[:, 3:]


def _cut(points: np.ndarray, counts: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Split ``(U, D)`` points into at most ``groups`` boxes of small spread, the widest first.

    A colour weighs as the square root of how often it occurs: a line's colour is worth keeping beside a large area.

    Returns:
        The box of each point, ``(U,)``, and the mean of every box, counted by occurrence, ``(G, D)``.
    """
    weight = np.sqrt(counts)

    def spread(members: np.ndarray) -> tuple[float, int, float]:
        w, p = weight[members], points[members]
        mean = w @ p / w.sum()
        variance = w @ (p - mean) ** 2
        axis = int(variance.argmax())
        return float(variance[axis]), axis, float(mean[axis])

    boxes = [np.arange(len(points))]
    spreads = [spread(boxes[0])]
    while len(boxes) < groups:
        widest = max(range(len(boxes)), key=lambda i: spreads[i][0])
        size, axis, middle = spreads[widest]
        if size <= 0:
            break
        members = boxes[widest]
        low = points[members, axis] <= middle
        for place, half in ((widest, members[low]), (len(boxes), members[~low])):
            boxes[place:] = [half] if place == len(boxes) else [half, *boxes[place + 1 :]]
            spreads[place:] = [spread(half)] if place == len(spreads) else [spread(half), *spreads[place + 1 :]]
    labels = np.empty(len(points), dtype=int)
    for label, members in enumerate(boxes):
        labels[members] = label
    means = np.stack([counts[members] @ points[members] / counts[members].sum() for members in boxes])
    return labels, means


# Files


def write_png(
    indices: np.ndarray, light: np.ndarray, dark: np.ndarray | None = None, narrow: str | None = None
) -> bytes:
    """A PNG of ``indices`` ``(H, W)`` into the palette ``light`` ``(P, 3)``, with the chunks that are given."""
    height, width = indices.shape
    image = Image.frombytes("P", (width, height), np.ascontiguousarray(indices).tobytes())
    image.putpalette(light.tobytes(), "RGB")
    info = PngInfo()
    if dark is not None:
        info.add_text(DARK_CHUNK, base64.b64encode(dark.tobytes()).decode())
    if narrow is not None:
        info.add_text(NARROW_CHUNK, narrow)
    buffer = io.BytesIO()
    image.save(buffer, "png", optimize=True, pnginfo=info)
    return buffer.getvalue()


@dataclass(frozen=True)
class PageFigure:
    """A PNG of `two_palettes`, read again.

    Attributes:
        indices: ``(H, W)`` uint8.
        light: its palette, ``(P, 3)`` uint8.
        dark: its palette on dark pages, ``(P, 3)`` uint8.
        narrow: the narrow layout, or None.
    """

    indices: np.ndarray
    light: np.ndarray
    dark: np.ndarray
    narrow: dict[str, Any] | None


def read_png(data: bytes) -> PageFigure | None:
    """The figure in a PNG file; ``None`` when it is any other PNG."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        chunk = image.info.get(DARK_CHUNK)
        if image.mode != "P" or chunk is None:
            return None
        light = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
        dark = np.frombuffer(base64.b64decode(chunk), dtype=np.uint8).reshape(-1, 3)
        narrow = image.info.get(NARROW_CHUNK)
        return PageFigure(np.array(image), light[: len(dark)], dark, None if narrow is None else json.loads(narrow))
