"""A small painter: anti-aliased shapes on an RGB image together with the map of who owns each pixel.

A shape is a signed distance in pixels (negative inside), evaluated only in its bounding box. Its coverage
``clip(0.5 - distance, 0, 1)`` blends the colour into the image, so edges are smooth; where the coverage is at least one
half the pixel's owner becomes the shape's ``tag``. A shape without a tag (a window, a shadow) paints and owns nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seglib.data._colors import Color, planes
from seglib.data._noise import Floats

Window = tuple[slice, slice]


class Canvas:
    """An image, its owners and the coordinates of its pixel centres.

    Attributes:
        image: ``(3, H, W)`` float32, about [0, 1] (clipped at the very end).
        owner: ``(H, W)`` uint8, 0 where nobody owns the pixel.
        x: ``(1, W)`` and y: ``(H, 1)`` float32 pixel centres.
        grain: ``(H, W)`` float32 in [-1, 1], the fine texture that shapes borrow for leaves, walls and asphalt.
        sun: from -1 (light from the left) to 1 (from the right).
    """

    def __init__(self, height: int, width: int, grain: Floats, sun: float) -> None:
        self.height, self.width, self.short = height, width, min(height, width)
        self.image: Floats = np.zeros((3, height, width), np.float32)
        self.owner: NDArray[np.uint8] = np.zeros((height, width), np.uint8)
        self.x = (np.arange(width, dtype=np.float32) + np.float32(0.5))[None, :]
        self.y = (np.arange(height, dtype=np.float32) + np.float32(0.5))[:, None]
        self.grain = grain
        self.sun = sun

    def window(self, x0: float, y0: float, x1: float, y1: float, twin: float | None = None) -> Window | None:
        """The pixels that the box touches, half a pixel of smooth edge included; ``None`` outside the image.

        With ``twin`` the box grows to hold its reflection about that column as well.
        """
        if twin is not None:
            x0, x1 = min(x0, 2 * twin - x1), max(x1, 2 * twin - x0)
        left, right = max(math.floor(x0 - 0.5), 0), min(math.floor(x1 + 0.5) + 1, self.width)
        top, bottom = max(math.floor(y0 - 0.5), 0), min(math.floor(y1 + 0.5) + 1, self.height)
        if left >= right or top >= bottom:
            return None
        return slice(top, bottom), slice(left, right)

    def columns(self, window: Window, twin: float | None) -> Floats:
        """The x of the window's pixels, ``(1, w)``; with ``twin`` the left side is folded onto the right one."""
        x = self.x[:, window[1]]
        return x if twin is None else abs(x - twin) + twin

    def paint(self, window: Window, cover: Floats, color: Color | Floats, tag: int = 0) -> None:
        """Blend a colour, one or ``(3, h, w)``, into the window with a coverage ``(h, w)``."""
        image = self.image[:, window[0], window[1]]  # (3, h, w)
        step = (planes(color) if isinstance(color, tuple) else color) - image
        step *= cover
        image += step
        if tag:
            np.copyto(self.owner[window], np.uint8(tag), where=cover >= 0.5)

    def cover(self, window: Window, distance: Floats, rough: float = 0.0) -> Floats:
        """Coverage in [0, 1] of a signed distance in pixels; ``rough`` frays the edge by that many pixels."""
        cover = 0.5 - distance
        if rough:
            cover -= self.grain[window] * rough
        np.maximum(cover, 0, out=cover)
        return np.minimum(cover, 1, out=cover)

    def textured(self, window: Window, color: Color, grain: float) -> Floats:
        """The colour, made lighter and darker by the grain: ``(3, h, w)``."""
        return planes(color) * (1 + self.grain[window] * grain)

    def box(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        color: Color,
        tag: int = 0,
        *,
        grain: float = 0.0,
        twin: float | None = None,
    ) -> None:
        """An axis-aligned box, with the exact coverage of its border pixels."""
        if twin is not None:
            self.box(2 * twin - x1, y0, 2 * twin - x0, y1, color, tag, grain=grain)
        columns, across = _overlap(x0, x1, self.width)  # (w,)
        rows, down = _overlap(y0, y1, self.height)  # (h,)
        if across.size and down.size:
            window = rows, columns
            self.paint(window, down[:, None] * across, self.textured(window, color, grain) if grain else color, tag)

    def ellipse(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        color: Color,
        tag: int = 0,
        *,
        relief: float = 0.0,
        rough: float = 0.0,
        grain: float = 0.0,
        twin: float | None = None,
    ) -> None:
        """An ellipse; ``relief`` lights it like a ball, ``rough`` frays its edge, ``grain`` gives it a texture."""
        window = self.window(x - rx - rough, y - ry - rough, x + rx + rough, y + ry + rough, twin)
        if window is None:
            return
        u, v = self.columns(window, twin) - x, self.y[window[0]] - y  # (1, w), (h, 1)
        # With q = |(u / rx, v / ry)|, (q² - 1) / 2 equals q - 1 to first order at the border, and needs no square root.
        half = 0.5 * min(rx, ry)
        distance = u * u * (half / (rx * rx)) + (v * v * (half / (ry * ry)) - half)
        paint: Color | Floats = color
        if relief or grain:
            light = u * (relief * self.sun / rx) + (1 - v * (relief * 0.8 / ry))
            if grain:
                light += self.grain[window] * grain
            paint = planes(color) * light
        self.paint(window, self.cover(window, distance, rough), paint, tag)

    def line(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        thick: float,
        color: Color,
        tag: int = 0,
        *,
        twin: float | None = None,
    ) -> None:
        """A stroke with round ends, at least one pixel thick so that it never vanishes."""
        half = max(thick, 1.0) / 2
        window = self.window(min(x0, x1) - half, min(y0, y1) - half, max(x0, x1) + half, max(y0, y1) + half, twin)
        if window is None:
            return
        dx, dy = x1 - x0, y1 - y0
        u, v = self.columns(window, twin) - x0, self.y[window[0]] - y0
        inverse = 1 / max(dx * dx + dy * dy, 1e-6)
        t = u * (dx * inverse) + v * (dy * inverse)
        np.maximum(t, 0, out=t)
        np.minimum(t, 1, out=t)
        u, v = u - t * dx, v - t * dy
        u *= u
        v *= v
        u += v
        self.paint(window, self.cover(window, np.sqrt(u, out=u) - half), color, tag)

    def polygon(
        self,
        points: Sequence[tuple[float, float]],
        color: Color,
        tag: int = 0,
        *,
        rough: float = 0.0,
        grain: float = 0.0,
    ) -> None:
        """A convex polygon, its corners in either order: the largest of its edges' half-plane distances."""
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        window = self.window(min(xs) - rough, min(ys) - rough, max(xs) + rough, max(ys) + rough)
        if window is None:
            return
        x, y = self.x[:, window[1]], self.y[window[0]]
        area = 0.0
        for i in range(len(points)):
            area += xs[i - 1] * ys[i] - xs[i] * ys[i - 1]
        turn = 1.0 if area > 0 else -1.0
        normals = []
        for i in range(len(points)):
            dx, dy = xs[i] - xs[i - 1], ys[i] - ys[i - 1]
            unit = turn / max(math.sqrt(dx * dx + dy * dy), 1e-6)
            normals.append((dy * unit, -dx * unit, (xs[i] * dy - ys[i] * dx) * unit))
        n = np.array(normals, np.float32)[:, :, None, None]  # (E, 3, 1, 1)
        distance = ((x * n[:, 0] - n[:, 2]) + y * n[:, 1]).max(0)  # (h, w)
        paint = self.textured(window, color, grain) if grain else color
        self.paint(window, self.cover(window, distance, rough), paint, tag)


def _overlap(low: float, high: float, size: int) -> tuple[slice, Floats]:
    """Which of ``size`` unit cells the interval touches, and how much of each it covers."""
    first, last = max(math.floor(low), 0), min(math.ceil(high), size)
    if first >= last:
        return slice(0, 0), np.zeros(0, np.float32)
    cover = np.ones(last - first, np.float32)
    cover[0] -= max(low - first, 0)
    cover[-1] -= max(last - high, 0)
    return slice(first, last), cover
