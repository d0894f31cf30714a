"""The body in a synthetic volume: the share of every tissue in every voxel, and the label of the voxel.

What fills the body is measured in fractions of the field of view; details (vessels, lesions, ribs) in the grid's unit,
which grows with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seglib.data._noise import Draws, Floats
from seglib.data._volume_shapes import (
    Grid,
    Point,
    clipped,
    curve,
    ellipsoid,
    grow_tree,
    paint_blob,
    paint_tube,
    smooth_field,
    smooth_minimum,
    three,
    tilted_axes,
    unit_vector,
)

FRONT_TO_BACK = (
    "vessel", "lesion", "speck", "patch", "cyst", "organ", "neighbour", "gas", "bowel", "marrow", "canal", "bone",
    "viscera", "inner fat", "muscle", "fat",
)  # fmt: skip
"""The tissues: what one covers is lost to all behind it. Behind them all is air."""

_ORGAN, _VESSELS, _SPECKS, _FAINT, _BOWEL, _FRAME = range(6)  # streams of draws
_LARGE, _SMALL, _DENTS, _GIRTH, _MIX = range(10, 15)  # streams of smooth fields


@dataclass(frozen=True)
class Organ:
    """The organ's implicit surface.

    Attributes:
        field: below 0 inside, about -1 at the centre; one value for each cell.
        centre: mm ``(z, y, x)``.
        radii: half axes in mm along z, y and x, before the surface was deformed.
    """

    field: Floats
    centre: Point
    radii: Point

    def point(self, draws: Draws, grid: Grid, margin: float) -> Point:
        """A random point where the field is below ``-margin``; the centre where 40 trials find none."""
        for _ in range(40):
            point = three(c + r * 1.3 * draws(-1, 1) for c, r in zip(self.centre, self.radii, strict=True))
            if self.field[grid.index(point)] < -margin:
                return point
        return self.centre


def tissue_shares(key: int, grid: Grid) -> tuple[dict[str, Floats], NDArray[np.int64]]:
    """Tissue → its share in every voxel ``(D, H, W)``; and the labels ``(D, H, W)``, the class of the largest share."""
    organ = _organ(key, grid)
    covers = {"organ": clipped(organ.field * (-min(organ.radii) / grid.step) + 0.5)}
    covers["vessel"] = _vessels(key, grid, organ)
    covers["speck"] = _specks(key, grid, organ)
    covers |= {name: cover * covers["organ"] for name, cover in _faint(key, grid, organ).items()}
    covers |= _bowel(key, grid)
    covers |= _frame(key, grid)

    shares: dict[str, Floats] = {}
    left = np.ones(grid.shape, np.float32)
    for tissue in FRONT_TO_BACK:
        taken = left * covers[tissue]
        left -= taken
        shares[tissue] = grid.voxels(taken)
    shares["air"] = grid.voxels(left)

    vessel, lesion = shares["vessel"], shares["lesion"]
    # A speck is part of the organ where it lies in it.
    organ_share = grid.voxels(covers["organ"] * (1 - covers["vessel"]) * (1 - covers["lesion"]))
    classes = np.stack([1 - organ_share - vessel - lesion, organ_share, vessel, lesion])  # (4, D, H, W)
    return shares, np.argmax(classes, axis=0)


def thinnest(grid: Grid) -> float:
    """The least radius of a vessel in mm: where voxels are coarse, what still fills most of one."""
    return max(1.15 * grid.unit, 0.8 * grid.step)


def _blank(grid: Grid) -> Floats:
    return np.zeros(grid.shape, np.float32)


def _organ(key: int, grid: Grid) -> Organ:
    """Two ellipsoids that flow into each other, dented at two scales."""
    draws = Draws(key, _ORGAN)
    depth, height, width = grid.extent
    scale = draws(1.0, 1.12)
    centre = (depth * draws(0.42, 0.58), height * draws(0.43, 0.53), width * draws(0.40, 0.50))
    radii = (depth * draws(0.29, 0.38) * scale, height * draws(0.25, 0.33) * scale, width * draws(0.25, 0.33) * scale)
    lobe = (
        centre[0] + radii[0] * draws(-0.5, 0.5),
        centre[1] + radii[1] * draws(-0.5, 0.5),
        centre[2] + radii[2] * draws(0.3, 0.8),
    )
    part = draws(0.5, 0.75)
    field = smooth_minimum(
        ellipsoid(grid, centre, tilted_axes(draws, 0.5), radii),
        ellipsoid(grid, lobe, tilted_axes(draws, 0.5), (radii[0] * part, radii[1] * part, radii[2] * part)),
        0.3,
    )
    field += smooth_field(key, _LARGE, grid.shape, (2.7, 2.7, 2.7)) * 0.26
    field += smooth_field(key, _SMALL, grid.shape, (7.3, 7.3, 7.3)) * 0.07
    field -= 1
    return Organ(field, centre, radii)


def _vessels(key: int, grid: Grid, organ: Organ) -> Floats:
    """Two trees that enter the organ on any side, mostly along z, and spread in it."""
    draws = Draws(key, _VESSELS)
    cover = _blank(grid)
    thin = thinnest(grid)
    for tips in (18, 11):
        side = 1 if draws() < 0.5 else -1
        ahead = unit_vector(side * draws(0.6, 1.0), draws(-0.6, 0.6), draws(-0.6, 0.6))
        root, far = organ.centre, draws(0.4, 0.7)
        for n in range(1, 60):
            root = three(c + a * n * 0.04 * r for c, a, r in zip(organ.centre, ahead, organ.radii, strict=True))
            if organ.field[grid.index(root)] > 0.08:
                break
        trunk = three(c - a * far * r for c, a, r in zip(organ.centre, ahead, organ.radii, strict=True))
        ends = [trunk, *(organ.point(draws, grid, 0.08) for _ in range(tips))]
        for branch in grow_tree(draws, root, ends, thin * draws(1.9, 2.6), thin, 5 * grid.unit):
            for p, q in zip(branch, branch[1:], strict=False):
                paint_tube(cover, grid, p.point, q.point, p.radius, q.radius)
    return cover


def _specks(key: int, grid: Grid, organ: Organ) -> Floats:
    """What looks like the section of a vessel in one slice, and ends there or in the next."""
    draws = Draws(key, _SPECKS)
    cover = _blank(grid)
    thick = grid.spacing[0]
    for _ in range(draws.whole(70, 110)):
        r = thinnest(grid) * draws(1.0, 2.0)
        flat = max(min(r, thick), thick * draws(0.5, 0.7))
        centre = organ.point(draws, grid, 0.05)
        paint_blob(cover, grid, centre, (flat, r * draws(0.8, 1.4), r * draws(0.8, 1.4)))
    return cover


def _faint(key: int, grid: Grid, organ: Organ) -> dict[str, Floats]:
    """Lesions, none in one case of four; patches as faint and as wide that are a slice thick; cysts."""
    draws = Draws(key, _FAINT)
    covers = {name: _blank(grid) for name in ("lesion", "patch", "cyst")}
    dents = smooth_field(key, _DENTS, grid.shape, (11.3, 11.3, 11.3)) * 0.3
    for _ in range(draws.whole(0, 3)):
        r = draws(3.0, 6.5) * grid.unit
        radii = (r * draws(0.8, 1.2), r * draws(0.8, 1.2), r * draws(0.8, 1.2))
        paint_blob(covers["lesion"], grid, organ.point(draws, grid, 0.25), radii, dents)
    for _ in range(draws.whole(4, 9)):
        r = draws(2.5, 6.0) * grid.unit
        radii = (grid.spacing[0] * 0.55, r * draws(0.7, 1.3), r * draws(0.7, 1.3))
        paint_blob(covers["patch"], grid, organ.point(draws, grid, 0.1), radii, dents)
    for _ in range(draws.whole(0, 4)):
        r = draws(1.5, 3.0) * grid.unit
        paint_blob(covers["cyst"], grid, organ.point(draws, grid, 0.1), (r, r, r))
    return covers


def _bowel(key: int, grid: Grid) -> dict[str, Floats]:
    """A second organ on the other side, much like the first; bowel loops in front, some with gas."""
    draws = Draws(key, _BOWEL)
    depth, height, width = grid.extent
    neighbour = ellipsoid(
        grid,
        (depth * draws(0.3, 0.7), height * draws(0.5, 0.65), width * draws(0.78, 0.86)),
        tilted_axes(draws, 0.4),
        (depth * draws(0.18, 0.26), height * draws(0.12, 0.18), width * draws(0.09, 0.14)),
    )
    bowel, gas = _blank(grid), _blank(grid)
    start = (depth * draws(-0.1, 0.3), height * draws(0.12, 0.3), width * draws(0.5, 0.8))
    for _ in range(3):
        end = (start[0] + depth * draws(0.15, 0.35), height * draws(0.12, 0.3), width * draws(0.2, 0.85))
        bend = ((start[0] + end[0]) / 2, height * draws(0.1, 0.4), width * draws(0.2, 0.8))
        r = draws(2.5, 4.5) * grid.unit
        bubble = draws(-1.5, 0.75) * r
        up = (r - bubble) * 0.9  # gas rises to the front of a patient who lies on the back
        loop = curve(start, bend, end, 6)
        for p, q in zip(loop, loop[1:], strict=False):
            paint_tube(bowel, grid, p, q, r, r)
            if bubble > 0:
                paint_tube(gas, grid, (p[0], p[1] - up, p[2]), (q[0], q[1] - up, q[2]), bubble, bubble)
        start = end
    return {"neighbour": clipped((1 - neighbour) * (0.12 * width / grid.step) + 0.5), "bowel": bowel, "gas": gas}


def _frame(key: int, grid: Grid) -> dict[str, Floats]:
    """Skin fat, the muscular wall with ribs, the spine, and what fills the inside: fat and soft tissue."""
    draws = Draws(key, _FRAME)
    depth, height, width = grid.extent
    centre = (depth * 0.5, height * draws(0.49, 0.51), width * draws(0.49, 0.51))
    girth = (depth * 4, height * draws(0.47, 0.53), width * draws(0.49, 0.55))  # nearly a cylinder
    wall = draws(0.07, 0.12)
    bone, marrow, canal = _blank(grid), _blank(grid), _blank(grid)

    y, x = height * draws(0.8, 0.84), width * draws(0.46, 0.54)
    for cover, back, r in ((bone, 0.0, 0.085), (marrow, 0.0, 0.062), (bone, 0.1, 0.05), (canal, 0.085, 0.025)):
        low, high = (-9 * grid.unit, y + back * height, x), (depth + 9 * grid.unit, y + back * height, x)
        paint_tube(cover, grid, low, high, r * width, r * width)
    shell, above = 1 - wall * 1.5, draws(0, 0.25)
    for level in range(5):
        for side in (-1, 1):  # ribs go from the spine round the body and down
            rib: list[Point] = []
            for n in range(9):
                _, back, out = unit_vector(0.0, 0.8 - 0.2 * n, 1.2 - 0.2 * abs(n - 4))
                z = depth * ((level + above) * 0.27 - 0.05 * n)
                rib.append((z, centre[1] + back * girth[1] * shell, centre[2] + side * out * girth[2] * shell))
            for p, q in zip(rib, rib[1:], strict=False):
                paint_tube(bone, grid, p, q, 1.5 * grid.unit, 1.5 * grid.unit)

    body = ellipsoid(grid, centre, ((1, 0, 0), (0, 1, 0), (0, 0, 1)), girth)
    body += smooth_field(key, _GIRTH, grid.shape, (1.7, 3.1, 3.1)) * 0.04
    slope = 0.5 * min(height, width) / grid.step
    inner = clipped((1 - wall * 2 - body) * slope)
    mix = clipped(smooth_field(key, _MIX, grid.shape, (5.1, 5.1, 5.1)) * 3 + draws(0.2, 1.0))
    return {
        "bone": bone,
        "marrow": marrow,
        "canal": canal,
        "viscera": inner * mix,
        "inner fat": inner,
        "muscle": clipped((1 - wall - body) * slope),
        "fat": clipped((1 - body) * slope),
    }
