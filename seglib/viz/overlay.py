"""Annotations painted over images, as arrays: what ``seglib predict`` writes and what the figures show."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from seglib.types import VOID, Category, Instances, Panoptic
from seglib.viz.colors import colorize, hatch, instance_colors, shades, to_array, to_rgb8

_ROWS = 256  # painted at once: an image of 12 million pixels would take 0.8 GB


def boundaries(ids: np.ndarray) -> np.ndarray:
    """Pixels whose right or lower neighbour has another id, ``(H, W)`` bool: a line one pixel wide."""
    edge = np.zeros(ids.shape, dtype=bool)
    edge[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    edge[:-1] |= ids[:-1] != ids[1:]
    return edge


def outline(mask: np.ndarray) -> np.ndarray:
    """The pixels of a bool ``(H, W)`` mask that touch its outside (the image border counts as outside)."""
    p = np.pad(mask, 1)
    return mask & ~(p[:-2, 1:-1] & p[2:, 1:-1] & p[1:-1, :-2] & p[1:-1, 2:])


def _base(image: Tensor | np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    """The image as float ``(H, W, 3)`` in [0, 255], or a light plain ground where there is no image."""
    if image is None:
        return np.full((*size, 3), 235, dtype=np.float32)
    rgb = to_rgb8(image).astype(np.float32)
    if rgb.shape[:2] != size:
        raise ValueError(f"the image is {rgb.shape[:2]} and its annotation {size} (H, W); resize one to the other")
    return rgb


def _to_uint8(rgb: np.ndarray) -> np.ndarray:
    """Rounded; ``rgb`` is used up, since a large photo in floats takes 300 MB."""
    rgb += 0.5
    return rgb.clip(0, 255, out=rgb).astype(np.uint8)


def overlay(
    image: Tensor | np.ndarray | None,
    labels: Tensor | np.ndarray,
    categories: Sequence[Category],
    alpha: float = 0.55,
) -> np.ndarray:
    """A semantic map laid over its image: class colours, darker boundaries, void as a striped grey image.

    Args:
        image: image to paint on, float ``(3, H, W)`` in [0, 1] or uint8 ``(H, W, 3)``; ``None`` for the bare map.
        labels: label map ``(H, W)`` of category ids, 255 is void.
        categories: the class table.
        alpha: opacity of the colours in [0, 1]; 1 hides the image.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ValueError: when the sizes differ, a label is outside the table or ``alpha`` is outside [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
    ids = to_array(labels)
    pixels = None if image is None else to_array(image)
    last = pixels is not None and pixels.dtype == np.uint8  # channels are last, not first
    fits = pixels is None or (pixels.shape[:2] if last else pixels.shape[-2:]) == ids.shape
    plain = ids.ndim == 2 and ids.dtype.kind in "iu" and bool(((ids >= 0) & (ids < len(categories))).all())
    if not (fits and plain):  # the stripes of void, and what an error says, are those of the whole map
        return _painted(pixels, ids, categories, alpha)
    out = np.empty((*ids.shape, 3), dtype=np.uint8)
    for top in range(0, len(ids), _ROWS):
        rows = slice(top, top + _ROWS + 1)  # one more, to see where the last one's boundaries are
        part = pixels if pixels is None else pixels[rows] if last else pixels[..., rows, :]
        band = out[top : top + _ROWS]
        band[:] = _painted(part, ids[rows], categories, alpha)[: len(band)]
    return out


def _painted(image: np.ndarray | None, ids: np.ndarray, categories: Sequence[Category], alpha: float) -> np.ndarray:
    """What :func:`overlay` returns, all rows at once: takes some 20 times the bytes of the image."""
    colors = colorize(ids, categories).astype(np.float32)  # (H, W, 3)
    if image is None:
        base, alpha = colors, 1.0
    else:
        base = _base(image, ids.shape)
    void = ids == VOID
    out = (1 - alpha) * base + alpha * colors
    grey = base.mean(axis=2, keepdims=True)  # (H, W, 1)
    out[void] = (0.5 * grey + 0.5 * colors)[void]
    out[boundaries(ids)] *= 0.55
    return _to_uint8(out)


def overlay_instances(
    image: Tensor | np.ndarray | None,
    instances: Instances,
    *,
    colors: np.ndarray | None = None,
    alpha: float = 0.55,
) -> np.ndarray:
    """Instance masks laid over the image, one colour and outline each; crowds are striped.

    Large masks are painted first, so that a small object on a large one stays visible.

    Args:
        image: image to paint on, float ``(3, H, W)`` in [0, 1] or uint8 ``(H, W, 3)``; ``None`` for a plain ground.
        instances: the N objects to paint; N may be 0.
        colors: colour of each instance, ``(N, 3)`` uint8; by default every instance gets its own.
        alpha: opacity of the masks in [0, 1].

    Returns:
        ``(H, W, 3)`` uint8.
    """
    n, (height, width) = len(instances), instances.size
    paint = instance_colors(n) if colors is None else colors
    out = _base(image, (height, width))
    crowd = np.zeros(n, dtype=bool) if instances.iscrowd is None else to_array(instances.iscrowd)
    stripes = hatch(height, width) if crowd.any() else None
    areas = np.array([int(one.masks.sum()) for one in instances], dtype=np.int64)  # one mask at a time is unpacked
    for i in np.argsort(-areas, kind="stable"):
        if areas[i] == 0:
            continue
        mask = to_array(instances[int(i)].masks)[0]  # (H, W)
        place = _around(mask)
        mask, part = mask[place], out[place]  # a view of what the object covers
        fill = mask & stripes[place] if stripes is not None and crowd[i] else mask
        part[fill] = (1 - alpha) * part[fill] + alpha * paint[i]
        part[outline(mask)] = paint[i] * 0.55
    return _to_uint8(out)


def _around(mask: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns of a mask that is not empty, and two more on each side, within the image."""
    ends = [np.flatnonzero(mask.any(axis))[[0, -1]] for axis in (1, 0)]
    rows, columns = (slice(max(0, int(first) - 2), int(last) + 3) for first, last in ends)
    return rows, columns


def panoptic_colors(panoptic: Panoptic, categories: Sequence[Category]) -> dict[int, np.ndarray]:
    """The colour of every segment id: stuff in its class colour, things in shades of theirs.

    Raises:
        ValueError: when a segment's category is not in the table.
    """
    by_class: dict[int, list[int]] = defaultdict(list)
    for s in panoptic.segments:
        if not 0 <= s.category_id < len(categories):
            raise ValueError(f"segment {s.id} has category {s.category_id}, which is not in 0..{len(categories) - 1}")
        by_class[s.category_id].append(s.id)
    colors: dict[int, np.ndarray] = {}
    for category_id, segment_ids in by_class.items():
        category = categories[category_id]
        n = len(segment_ids)
        palette = shades(category.color, n) if category.isthing else np.array([category.color] * n, dtype=np.uint8)
        colors.update(zip(segment_ids, palette, strict=True))
    return colors


def overlay_panoptic(
    image: Tensor | np.ndarray | None,
    panoptic: Panoptic,
    categories: Sequence[Category],
    alpha: float = 0.65,
) -> np.ndarray:
    """A panoptic map laid over its image: stuff in class colours, things in shades of theirs, void striped.

    Args:
        image: image to paint on, float ``(3, H, W)`` in [0, 1] or uint8 ``(H, W, 3)``; ``None`` for the bare map.
        panoptic: the map of segment ids and its segments.
        categories: the class table.
        alpha: opacity of the colours in [0, 1].

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ValueError: when the map holds an id that no segment describes, or the sizes differ.
    """
    ids = to_array(panoptic.map)
    colors = panoptic_colors(panoptic, categories)
    # Void first: the label map 255 everywhere is the striped ground that segments are painted on.
    flat = colorize(np.full(ids.shape, VOID), categories).astype(np.float32)  # (H, W, 3)
    for segment_id in np.unique(ids):
        if segment_id == 0:
            continue
        if int(segment_id) not in colors:
            raise ValueError(f"the map holds segment {int(segment_id)}, which panoptic.segments does not describe")
        flat[ids == segment_id] = colors[int(segment_id)]
    if image is None:
        out = flat
    else:
        out = (1 - alpha) * _base(image, ids.shape) + alpha * flat
    out[boundaries(ids)] *= 0.5
    return _to_uint8(out)
