"""Prompts drawn on an image, as arrays: clicks that shape and colour tell apart, and boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

ON_OBJECT = (0, 114, 178)
BACKGROUND = (213, 94, 0)
BOX = (0, 114, 178)
"""Blue and vermilion of Okabe and Ito: nobody mixes them up, and the signs plus and minus say the same."""

_WHITE, _DARK = (255, 255, 255), (30, 30, 30)


def draw_prompts(
    rgb: np.ndarray,
    points: Tensor | np.ndarray | Sequence[Sequence[float]] = (),
    labels: Tensor | np.ndarray | Sequence[int] = (),
    boxes: Tensor | np.ndarray | Sequence[Sequence[float]] = (),
) -> np.ndarray:
    """An image with prompts on it: blue discs with a plus on the object, vermilion squares with a minus, box outlines.

    Args:
        rgb: image to draw on, ``(H, W, 3)`` uint8; it is left as it is.
        points: clicks ``(P, 2)``, x and y in pixels; the centre of the first pixel is (0, 0), as models take them.
        labels: 1 for a click on the object, 0 for one on the background, ``(P,)``.
        boxes: boxes ``(N, 4)``, ``xyxy`` in the coordinates of the points.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ValueError: when there is not one label for each point.
    """
    clicks = torch.as_tensor(points).cpu().numpy().reshape(-1, 2)
    signs = torch.as_tensor(labels).cpu().numpy().reshape(-1)
    if len(clicks) != len(signs):
        raise ValueError(f"every point needs a label, 1 or 0; got {len(clicks)} points and {len(signs)} labels")
    out = rgb.copy()
    unit = min(rgb.shape[:2]) / 400  # pixels: a large photo is shown small, and lines must still be seen
    line, rim = max(1, round(3 * unit)), max(1, round(unit))
    for box in torch.as_tensor(boxes).cpu().numpy().reshape(-1, 4):
        for width, color in ((line + 2 * rim, _WHITE), (line, BOX)):
            _draw_outline(out, box, width, color)
    for (x, y), sign in zip(clicks, signs, strict=True):
        _draw_marker(out, x, y, max(5.0, 6 * unit), sign == 1)
    return out


def _draw_outline(out: np.ndarray, box: np.ndarray, width: int, color: tuple[int, int, int]) -> None:
    """Paint the four sides of a box, lines of ``width`` pixels."""
    left, top, right, bottom = (int(side) - width // 2 for side in np.floor(box + 0.5))  # where the lines begin
    for rows, columns in (
        ((top, top + width), (left, right + width)),
        ((bottom, bottom + width), (left, right + width)),
        ((top, bottom + width), (left, left + width)),
        ((top, bottom + width), (right, right + width)),
    ):
        out[max(0, rows[0]) : max(0, rows[1]), max(0, columns[0]) : max(0, columns[1])] = color


def _draw_marker(out: np.ndarray, x: float, y: float, radius: float, on_object: bool) -> None:
    """Paint a disc with a plus, or a square with a minus, around a point; edges are smoothed over one pixel."""
    reach = 1.5 * radius
    rows, columns = (slice(max(0, int(c - reach)), max(0, int(c + reach) + 2)) for c in (y, x))
    part = out[rows, columns]
    dy = np.abs(np.arange(part.shape[0]) + rows.start - y)[:, None]  # (h, 1)
    dx = np.abs(np.arange(part.shape[1]) + columns.start - x)[None]  # (1, w)
    away = np.hypot(dx, dy) if on_object else np.maximum(dx, dy) * 1.1  # (h, w) a square of about the same area
    minus = np.maximum(dx - 0.6 * radius, dy - 0.16 * radius)  # (h, w) below 0 inside
    plus = np.minimum(minus, np.maximum(dx - 0.16 * radius, dy - 0.6 * radius))
    painted = part.astype(np.float32)
    for distance, color in (
        (away - 1.4 * radius, _DARK),
        (away - 1.25 * radius, _WHITE),
        (away - radius, ON_OBJECT if on_object else BACKGROUND),
        (plus if on_object else minus, _WHITE),
    ):
        cover = (0.5 - distance).clip(0, 1)[..., None]  # (h, w, 1)
        painted += cover * (np.array(color, np.float32) - painted)
    part[:] = (painted + 0.5).astype(np.uint8)
