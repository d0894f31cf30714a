"""Implicit shapes in millimetres on a grid that is finer than the voxels: ellipsoids, tubes and branching trees.

A shape becomes the share of each fine cell that it covers, from its signed distance: half at the surface, one half a
cell inside, nothing half a cell outside. The mean over the cells of a voxel is the voxel's share (partial volume).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

from seglib.data._noise import Draws, Floats, hashed

Point = tuple[float, float, float]
"""Millimetres ``(z, y, x)``."""

T = TypeVar("T")

_FINEST = 4  # cells of one voxel along one axis, at most


@dataclass(frozen=True)
class Grid:
    """Cells that divide the voxels of a volume, along each axis into as many as make them about cubes.

    Attributes:
        size: voxels ``(D, H, W)``.
        spacing: millimetres from voxel to voxel ``(z, y, x)``.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]

    @cached_property
    def extent(self) -> Point:
        """Millimetres from border to border."""
        return three(n * s for n, s in zip(self.size, self.spacing, strict=True))

    @cached_property
    def unit(self) -> float:
        """The length in mm in which details are measured: 1 in the default field of view, in proportion in others."""
        z, y, x = self.extent
        return math.sqrt((z * z + y * y + x * x) / (80.0 * 80 + 64 * 64 + 64 * 64))

    @cached_property
    def step(self) -> float:
        """The width of a cell across which a surface is smoothed."""
        return min(self.spacing)

    @cached_property
    def factors(self) -> tuple[int, int, int]:
        """Cells of a voxel along each axis."""
        return three(min(_FINEST, max(1, math.floor(s / self.step))) for s in self.spacing)

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Cells along each axis."""
        return three(n * f for n, f in zip(self.size, self.factors, strict=True))

    @cached_property
    def pitch(self) -> tuple[float, float, float]:
        """Millimetres from cell to cell."""
        return three(s / f for s, f in zip(self.spacing, self.factors, strict=True))

    def index(self, point: Point) -> tuple[int, int, int]:
        """The cell of a point, or the nearest one."""
        cells = zip(point, self.pitch, self.shape, strict=True)
        return three(min(max(math.floor(p / h), 0), n - 1) for p, h, n in cells)

    def window(self, low: Point, high: Point) -> tuple[slice, slice, slice]:
        """The cells whose centre may lie in a box; a side can be empty."""
        sides = zip(low, high, self.pitch, self.shape, strict=True)
        return three(slice(max(math.floor(a / h), 0), max(min(math.floor(b / h) + 1, n), 0)) for a, b, h, n in sides)

    def offsets(self, window: tuple[slice, slice, slice], origin: Point) -> tuple[Floats, Floats, Floats]:
        """Millimetres from ``origin`` to the cells' centres: ``(D, 1, 1)``, ``(1, H, 1)`` and ``(1, 1, W)``."""
        axes = []
        for axis, (cells, p, h) in enumerate(zip(window, origin, self.pitch, strict=True)):
            line = ((np.arange(cells.start, max(cells.start, cells.stop)) + 0.5) * h - p).astype(np.float32)
            axes.append(line.reshape([-1 if a == axis else 1 for a in range(3)]))
        return three(axes)

    def voxels(self, cells: Floats) -> Floats:
        """The mean of the cells of each voxel, ``(D, H, W)``."""
        for axis, factor in enumerate(self.factors):
            if factor > 1:
                parts = [cells[(slice(None),) * axis + (slice(n, None, factor),)] for n in range(factor)]
                total = parts[0] + parts[1]
                for part in parts[2:]:
                    total += part
                cells = total * (1 / factor)
        return cells


def three(values: Iterable[T]) -> tuple[T, T, T]:
    """The values along z, y and x as a tuple."""
    z, y, x = values
    return z, y, x


def smooth_field(key: int, stream: int, shape: tuple[int, int, int], cells: tuple[float, float, float]) -> Floats:
    """Value noise ``(D, H, W)`` in [-1, 1] with ``cells`` lattice cells along each axis, smooth in between."""
    lattice = tuple(math.floor(c) + 2 for c in cells)
    values = (hashed(key, stream, math.prod(lattice)) >> np.uint32(8)).astype(np.float32)
    field = (values * np.float32(2.0**-23) - np.float32(1)).reshape(lattice)
    for axis in (2, 1, 0):  # the first axis last: whole slices are copied, which is fast
        place = ((np.arange(shape[axis]) + 0.5) * (cells[axis] / shape[axis])).astype(np.float32)
        i = np.floor(place).astype(np.intp)
        f = place - i.astype(np.float32)
        f = (f * f * (3 - 2 * f)).reshape([-1 if a == axis else 1 for a in range(3)])
        low = np.take(field, i, axis)
        high = np.take(field, i + 1, axis)
        high -= low
        high *= f
        high += low
        field = high
    return field


def clipped(values: Floats) -> Floats:
    """Values held between 0 and 1, in place."""
    np.maximum(values, 0, out=values)
    return np.minimum(values, 1, out=values)


def ellipsoid(grid: Grid, centre: Point, axes: tuple[Point, Point, Point], radii: Point) -> Floats:
    """How far every cell is from the centre of an ellipsoid, 1 on its surface."""
    z, y, x = grid.offsets(three(slice(0, n) for n in grid.shape), centre)
    total = np.zeros(grid.shape, np.float32)
    for axis, radius in zip(axes, radii, strict=True):
        a = (z * (axis[0] / radius) + y * (axis[1] / radius)) + x * (axis[2] / radius)
        a *= a
        total += a
    return np.sqrt(total, out=total)


def smooth_minimum(a: Floats, b: Floats, width: float) -> Floats:
    """The lesser of two fields, rounded where they differ by less than ``width``."""
    h = clipped((b - a) * (0.5 / width) + 0.5)
    return b + (a - b) * h - h * (1 - h) * width


def paint_blob(cover: Floats, grid: Grid, centre: Point, radii: Point, dents: Floats | None = None) -> None:
    """Add an ellipsoid along the axes to the covered shares; ``dents`` moves its surface, in parts of its radii."""
    edge = grid.step * 1.5
    reach = [r * (1.5 if dents is not None else 1) + edge for r in radii]
    low = three(c - r for c, r in zip(centre, reach, strict=True))
    high = three(c + r for c, r in zip(centre, reach, strict=True))
    window = grid.window(low, high)
    if cover[window].size == 0:
        return
    q = [o * (1 / r) for o, r in zip(grid.offsets(window, centre), radii, strict=True)]
    k0 = np.sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2])
    n = [o * (1 / r) for o, r in zip(q, radii, strict=True)]
    k1 = np.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]) + np.float32(1e-6)
    inside = 1 - k0 if dents is None else 1 - k0 + dents[window]
    share = clipped(inside * k0 / k1 * (1 / grid.step) + 0.5)  # distance: Quilez' bound for ellipsoids
    share[k0 < 0.3] = 1
    np.maximum(cover[window], share, out=cover[window])


def paint_tube(cover: Floats, grid: Grid, start: Point, end: Point, radius: float, end_radius: float) -> None:
    """Add a round cone between two points, with round ends, to the covered shares."""
    reach = max(radius, end_radius) + grid.step * 1.5
    low = three(min(a, b) - reach for a, b in zip(start, end, strict=True))
    high = three(max(a, b) + reach for a, b in zip(start, end, strict=True))
    window = grid.window(low, high)
    if cover[window].size == 0:
        return
    z, y, x = grid.offsets(window, start)
    dz, dy, dx = (b - a for a, b in zip(start, end, strict=True))
    length = 1 / max(dz * dz + dy * dy + dx * dx, 1e-6)
    t = clipped((z * (dz * length) + y * (dy * length)) + x * (dx * length))
    a, b, c = z - t * dz, y - t * dy, x - t * dx
    away = np.sqrt(a * a + b * b + c * c)
    share = clipped((t * (end_radius - radius) + radius - away) * (1 / grid.step) + 0.5)
    np.maximum(cover[window], share, out=cover[window])


def unit_vector(z: float, y: float, x: float) -> Point:
    """The vector of length 1 in a direction."""
    length = math.sqrt(z * z + y * y + x * x) or 1.0
    return z / length, y / length, x / length


def tilted_axes(draws: Draws, tilt: float) -> tuple[Point, Point, Point]:
    """Three vectors at right angles, near those of the grid."""
    a = unit_vector(1.0, draws(-tilt, tilt), draws(-tilt, tilt))
    by, bx = 1.0, draws(-tilt, tilt)
    along = a[1] * by + a[2] * bx
    b = unit_vector(-along * a[0], by - along * a[1], bx - along * a[2])
    c = (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
    return a, b, c


def curve(start: Point, bend: Point, end: Point, count: int) -> list[Point]:
    """``count + 1`` points of the quadratic Bézier curve from ``start`` to ``end``."""
    points = []
    for n in range(count + 1):
        t = n / count
        u, v, w = (1 - t) * (1 - t), 2 * t * (1 - t), t * t
        points.append(three(a * u + b * v + c * w for a, b, c in zip(start, bend, end, strict=True)))
    return points


@dataclass(frozen=True)
class Node:
    """A point of a tree, the direction in which its branch goes on and the branch's radius there."""

    point: Point
    ahead: Point
    radius: float


def grow_tree(
    draws: Draws, root: Point, tips: list[Point], radius: float, thinnest: float, length: float
) -> list[list[Node]]:
    """Branches of a tree: each leads from the nearest node of the tree so far to one of the tips, in their order.

    Args:
        draws: random numbers.
        root: where the trunk starts.
        tips: where the branches end; the first is the trunk's.
        radius: the trunk's radius in mm.
        thinnest: the least radius in mm.
        length: the length of the pieces that are straight, in mm.
    """
    nodes = [Node(root, unit_vector(*(b - a for a, b in zip(root, tips[0], strict=True))), radius)]
    branches: list[list[Node]] = []
    for tip in tips:
        # Steps along z count half, so most branches run across the slices.
        near = min(nodes, key=lambda node: _gap((node.point[0] * 0.5, *node.point[1:]), (tip[0] * 0.5, *tip[1:])))
        far = _gap(near.point, tip)
        ahead = zip(near.point, near.ahead, strict=True)
        bend = three(p + a * far * 0.45 + draws(-0.12, 0.12) * far for p, a in ahead)
        points = curve(near.point, bend, tip, max(2, math.floor(far / length) + 1))
        first = radius if not branches else max(thinnest, near.radius * 0.78)
        last = max(thinnest, first * 0.7)
        branch = []
        for n, point in enumerate(points):
            before, after = points[max(n - 1, 0)], points[min(n + 1, len(points) - 1)]
            along = unit_vector(*(b - a for a, b in zip(before, after, strict=True)))
            branch.append(Node(point, along, first + (last - first) * n / (len(points) - 1)))
        branches.append(branch)
        nodes += branch[1:]
    return branches


def _gap(a: Point, b: Point) -> float:
    return math.sqrt((a[0] - b[0]) * (a[0] - b[0]) + (a[1] - b[1]) * (a[1] - b[1]) + (a[2] - b[2]) * (a[2] - b[2]))
