r"""How far two surfaces lie apart, in millimetres: Hausdorff distance, HD95, ASSD and normalised surface Dice.

Dice counts voxels. It hardly notices a far speck, or that a thin vessel is a voxel off. The scores here compare
surfaces. With S the elements of a surface, d(a, S) the distance of the element a to the nearest one of S, P the
prediction and T the target,

.. math::

    \begin{aligned}
    \text{HD}_q &= \max\big(\text{percentile}_q \{d(p, T) : p \in P\}, \;
    \text{percentile}_q \{d(t, P) : t \in T\}\big) \\
    \text{ASSD} &= \frac{\sum_P d(p, T) + \sum_T d(t, P)}{|P| + |T|} \\
    \text{NSD}_\tau &= \frac{|\{p : d(p, T) \le \tau\}| + |\{t : d(t, P) \le \tau\}|}{|P| + |T|}
    \end{aligned}

HD with q = 100 is the Hausdorff distance, HD95 leaves out the 5% of either surface that lie farthest from the other.

**Two surfaces.** ``weighting="voxels"`` takes the voxels of a mask that have a face neighbour outside it; beyond the
border of the volume is outside. All of them count alike, and percentiles interpolate linearly. These are MONAI's
``compute_hausdorff_distance``, ``compute_average_surface_distance`` (symmetric) and ``compute_surface_dice``.
``weighting="area"`` puts an element between every 2×2×2 neighbouring voxels that the mask divides, weighted by the
area of the surface within (2D: between 2×2 pixels, by the length of the contour). A percentile is then the smallest
distance that this share of the area keeps. These are DeepMind's ``surface-distance`` (Nikolov et al., 2018). A count
of voxels gives less weight to oblique surfaces, and with thick slices more to those that lie within a slice.

**Two percentiles.** MONAI and DeepMind take the larger of the two directed percentiles, the default here. MedPy pools
the distances of both directions before it takes one percentile (``pooled=True``). When a prediction has a speck 7 mm
off that makes up 8% of its surface, and is right elsewhere, the larger percentile is 7 mm and the pooled one is 0.
State the convention with the number.

**Empty masks.**

=====================  ====  ============================  =======================
mask                   Dice  HD, HD95, ASSD                NSD
=====================  ====  ============================  =======================
both empty             NaN   NaN                           NaN
one of them empty      0     the diagonal of the volume    0
=====================  ====  ============================  =======================

NaN is no score: means leave it out. A missed object has the worst score there is, so that missing it never improves a
mean. MONAI's HD95 with one empty mask is NaN (infinity at 100), and its means leave it out.

**Void voxels** are neither inside nor outside: a voxel is on the surface when a labelled neighbour (or the border of
the volume) is outside. So no score depends on what is predicted in void. Where the whole surface of the target lies in
void, there is nothing to compare with, and the score is NaN.

Source: Nikolov et al., "Deep learning to achieve clinically applicable segmentation of head and neck anatomy for
radiotherapy", arXiv:1809.04430, 2018 (surface Dice, surface elements); Reinke et al., "Understanding metric-related
pitfalls in image analysis validation", Nature Methods 2024 (what goes wrong).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Weighting = Literal["voxels", "area"]


@dataclass(frozen=True)
class SurfaceDistances:
    """The distances between the surfaces of a prediction and a target, from which all scores follow.

    Attributes:
        of_pred: distance of every element of the prediction's surface to the target's surface in mm, ``(P,)`` float64;
            infinite when the target has none.
        of_target: distance of every element of the target's surface to the prediction's surface in mm, ``(T,)``
            float64; infinite when the prediction has none.
        pred_weights: the area of every element of the prediction's surface in mm² (2D: its length in mm), ``(P,)``
            float64; 1 for voxels.
        target_weights: the area of every element of the target's surface, ``(T,)`` float64; 1 for voxels.
        diagonal: the diagonal of the volume in mm, from corner to corner; no distance within it is longer.
        weighting: what an element is, "voxels" or "area".
    """

    of_pred: Tensor
    of_target: Tensor
    pred_weights: Tensor
    target_weights: Tensor
    diagonal: float
    weighting: Weighting

    def hausdorff(self, percentile: float = 95.0, *, pooled: bool = False) -> float:
        """The Hausdorff distance in mm at a percentile; the module states the conventions.

        Args:
            percentile: share of either surface that the distance holds for, in percent, above 0 and at most 100.
            pooled: take one percentile of the distances in both directions, and not the larger of two.

        Raises:
            ValueError: when the percentile is out of range.
        """
        if not 0 < percentile <= 100:
            raise ValueError(f"a percentile is above 0 and at most 100, got {percentile}; HD95 has 95")
        sides = [(self.of_pred, self.pred_weights), (self.of_target, self.target_weights)]
        if pooled:
            sides = [self._both]
        found = [self._percentile(d, w, percentile) for d, w in sides if len(d)]
        return max(found, default=math.nan)

    def assd(self) -> float:
        """The average symmetric surface distance in mm: the mean over the elements of both surfaces."""
        distances, weights = self._both
        return float((distances.clamp(max=self.diagonal) * weights).sum() / weights.sum())  # 0 / 0 is NaN

    def surface_dice(self, tolerance: float) -> float:
        """The normalised surface Dice: the share of both surfaces that lies within ``tolerance`` mm of the other.

        "Within" includes the tolerance itself: a millionth of it is allowed for rounding, since three voxels of 0.1 mm
        are 0.30000000000000004 mm.

        Raises:
            ValueError: when the tolerance is negative or infinite.
        """
        if not 0 <= tolerance < math.inf:
            raise ValueError(f"the tolerance is a distance in mm, got {tolerance}; pass 0 or more")
        distances, weights = self._both
        return float(weights[distances <= tolerance * (1 + 1e-6)].sum() / weights.sum())  # 0 / 0 is NaN

    @property
    def _both(self) -> tuple[Tensor, Tensor]:
        """The distances in both directions, and their weights: ``(P + T,)`` each."""
        return torch.cat([self.of_pred, self.of_target]), torch.cat([self.pred_weights, self.target_weights])

    def _percentile(self, distances: Tensor, weights: Tensor, percentile: float) -> float:
        values = distances.clamp(max=self.diagonal).numpy()  # (N,)
        if self.weighting == "voxels":
            return float(np.percentile(values, percentile))
        areas = weights.numpy()
        order = np.lexsort((areas, values))  # the order of DeepMind's sums, so that ties round alike
        last = int(np.searchsorted(areas[order].cumsum() / areas[order].sum(), percentile / 100))
        return float(values[order][min(last, len(order) - 1)])


def surface_distances(
    pred: Tensor,
    target: Tensor,
    spacing: float | Sequence[float] = 1.0,
    *,
    weighting: Weighting = "voxels",
    void: Tensor | None = None,
) -> SurfaceDistances:
    """The distances between the surfaces of two masks, for several scores at once.

    They are exact Euclidean distances. A k-d tree of the elements finds the nearest ones: it holds surfaces, not
    volumes, so that a speck far from an organ costs nothing. A Euclidean distance transform gives the same numbers
    from an array over the whole box.

    Args:
        pred: the predicted mask, ``(D, H, W)`` or ``(H, W)`` bool.
        target: the true mask, the same shape.
        spacing: distance from voxel to voxel in mm, ``(z, y, x)`` or ``(y, x)``; one number for cubic voxels.
        weighting: "voxels" (MONAI's surface) or "area" (DeepMind's).
        void: where the target says nothing, a bool mask of the same shape; ``None`` when it says something everywhere.

    Raises:
        ValueError: when shapes or types differ from that, or the spacing isn't positive.
    """
    if weighting not in ("voxels", "area"):
        raise ValueError(f'weighting is "voxels" or "area", got {weighting!r}')
    p, t, v = check_masks(pred, target, void)
    step = _steps(spacing, t.ndim)  # (n,)
    diagonal = float(np.linalg.norm(t.shape * step))
    box = _box(p, t)
    v = v[box]
    p, t = p[box] & ~v, t[box] & ~v
    t_points, t_weights = _elements(t, v, step, weighting)
    p_points, p_weights = _elements(p, v & t.any(), step, weighting)  # void excuses no object where there is none
    if t.any() and not len(t_points):  # its surface lies in void: nothing to compare with
        p_points, p_weights = p_points[:0], p_weights[:0]
    return SurfaceDistances(
        of_pred=torch.from_numpy(_nearest(p_points, t_points)),
        of_target=torch.from_numpy(_nearest(t_points, p_points)),
        pred_weights=torch.from_numpy(p_weights),
        target_weights=torch.from_numpy(t_weights),
        diagonal=diagonal,
        weighting=weighting,
    )


def hausdorff(
    pred: Tensor,
    target: Tensor,
    spacing: float | Sequence[float] = 1.0,
    *,
    percentile: float = 95.0,
    pooled: bool = False,
    weighting: Weighting = "voxels",
    void: Tensor | None = None,
) -> float:
    """HD95 in mm, or the Hausdorff distance at another percentile; the module states the conventions.

    Args:
        pred: the predicted mask, ``(D, H, W)`` or ``(H, W)`` bool.
        target: the true mask, the same shape.
        spacing: distance from voxel to voxel in mm, ``(z, y, x)`` or ``(y, x)``; one number for cubic voxels.
        percentile: share of either surface that the distance holds for, in percent; 100 is the Hausdorff distance.
        pooled: take one percentile of the distances in both directions, and not the larger of two.
        weighting: "voxels" (MONAI's surface) or "area" (DeepMind's).
        void: where the target says nothing, a bool mask of the same shape; ``None`` when it says something everywhere.

    Returns:
        The distance in mm; the diagonal of the volume when one mask is empty, NaN when both are.

    Raises:
        ValueError: when an argument has another shape or type, the spacing isn't positive, or the percentile is out of
            range.
    """
    return surface_distances(pred, target, spacing, weighting=weighting, void=void).hausdorff(percentile, pooled=pooled)


def assd(
    pred: Tensor,
    target: Tensor,
    spacing: float | Sequence[float] = 1.0,
    *,
    weighting: Weighting = "voxels",
    void: Tensor | None = None,
) -> float:
    """The average symmetric surface distance in mm; the module states the formula and the conventions.

    The mean runs over the elements of both surfaces, as MONAI's. The mean of the two directed means is another number.

    Args:
        pred: the predicted mask, ``(D, H, W)`` or ``(H, W)`` bool.
        target: the true mask, the same shape.
        spacing: distance from voxel to voxel in mm, ``(z, y, x)`` or ``(y, x)``; one number for cubic voxels.
        weighting: "voxels" (MONAI's surface) or "area" (DeepMind's).
        void: where the target says nothing, a bool mask of the same shape; ``None`` when it says something everywhere.

    Returns:
        The distance in mm; the diagonal of the volume when one mask is empty, NaN when both are.

    Raises:
        ValueError: when an argument has another shape or type, or the spacing isn't positive.
    """
    return surface_distances(pred, target, spacing, weighting=weighting, void=void).assd()


def surface_dice(
    pred: Tensor,
    target: Tensor,
    tolerance: float,
    spacing: float | Sequence[float] = 1.0,
    *,
    weighting: Weighting = "voxels",
    void: Tensor | None = None,
) -> float:
    """The normalised surface Dice (NSD): the share of both surfaces within a tolerance of the other one.

    Args:
        pred: the predicted mask, ``(D, H, W)`` or ``(H, W)`` bool.
        target: the true mask, the same shape.
        tolerance: how far in mm a surface may lie from the other and still agree; what experts differ by is usual.
        spacing: distance from voxel to voxel in mm, ``(z, y, x)`` or ``(y, x)``; one number for cubic voxels.
        weighting: "voxels" (MONAI's surface) or "area" (DeepMind's).
        void: where the target says nothing, a bool mask of the same shape; ``None`` when it says something everywhere.

    Returns:
        The score in [0, 1]; 0 when one mask is empty, NaN when both are.

    Raises:
        ValueError: when an argument has another shape or type, the spacing isn't positive, or the tolerance is
            negative.
    """
    return surface_distances(pred, target, spacing, weighting=weighting, void=void).surface_dice(tolerance)


def check_masks(pred: Tensor, target: Tensor, void: Tensor | None) -> tuple[NDArray[np.bool_], ...]:
    """Both masks and void as bool arrays on the CPU, after checking that they fit.

    Raises:
        ValueError: when a mask isn't bool ``(D, H, W)`` or ``(H, W)``, or the shapes differ.
    """
    void = torch.zeros_like(target, dtype=torch.bool) if void is None else void
    masks = {"prediction": pred, "target": target, "void": void}
    for name, mask in masks.items():
        if mask.dtype != torch.bool or mask.ndim not in (2, 3):
            raise ValueError(
                f"a mask is bool (D, H, W) or (H, W), the {name} is {mask.dtype} {tuple(mask.shape)}; "
                "pass one class of one case, `labels == class_id`"
            )
        if mask.shape != target.shape:
            raise ValueError(
                f"the {name} has shape {tuple(mask.shape)} and the target {tuple(target.shape)}; "
                "resample the prediction to the target's grid"
            )
    return tuple(mask.cpu().numpy() for mask in masks.values())


def _steps(spacing: float | Sequence[float], dims: int) -> NDArray[np.float64]:
    """The spacing of every axis, ``(n,)``."""
    steps = np.asarray(spacing, np.float64)
    if steps.shape not in ((), (dims,)) or not ((steps > 0) & (steps < math.inf)).all():
        raise ValueError(
            f"spacing is {dims} distances in mm, all above 0, got {spacing}; read it from the file's affine"
        )
    return np.broadcast_to(steps, dims)


def _box(*masks: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The box of what is inside any of the masks, a voxel wider on every side as far as the volume goes."""
    axes, sides = range(masks[0].ndim), []
    for axis in axes:
        others = tuple(a for a in axes if a != axis)
        where = np.flatnonzero(np.logical_or.reduce([mask.any(others) for mask in masks]))
        sides.append(slice(max(0, where[0] - 1), where[-1] + 2) if len(where) else slice(0))
    return tuple(sides)


def _elements(
    mask: NDArray[np.bool_], void: NDArray[np.bool_], step: NDArray[np.float64], weighting: Weighting
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The places of the surface's elements in mm, ``(N, n)``, and their weights ``(N,)``."""
    mask, void = np.pad(mask, 1), np.pad(void, 1)  # beyond the border is outside
    if weighting == "voxels":
        on = _boundary(mask | void) & ~void
        weights = np.ones(np.count_nonzero(on))
    else:
        code = np.zeros(np.subtract(mask.shape, 1), np.uint8)  # a bit for each corner inside
        for bit, corner in enumerate(_corners(mask)):
            code |= corner.astype(np.uint8) << bit
        on = (code > 0) & (code < 2 ** (2**mask.ndim) - 1)
        if void.any():
            on &= ~np.logical_or.reduce(_corners(void))
        scale = step if mask.ndim == 2 else step.prod() / step  # of lengths, of areas perpendicular to the axes
        weights = np.linalg.norm(_pieces(mask.ndim) * scale, axis=2).sum(1)[code[on]]
    places = np.unravel_index(np.flatnonzero(on), on.shape)  # ten times as fast as argwhere
    return np.stack(places, 1) * step, weights


def _boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The voxels of a mask that have a face neighbour outside. The outermost voxels of the array are outside."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        along, kept = np.moveaxis(mask, axis, 0), np.moveaxis(inner, axis, 0)
        kept[1:] &= along[:-1]
        kept[:-1] &= along[1:]
    return mask & ~inner


def _corners(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The voxels at each corner of all 2×2×2 neighbourhoods: 2ⁿ views, one voxel shorter along every axis."""
    return [
        mask[tuple(slice(o, o + s - 1) for o, s in zip(offset, mask.shape, strict=True))]
        for offset in product((0, 1), repeat=mask.ndim)
    ]


def _nearest(points: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """The distance of each point ``(N, n)`` to the nearest of the others ``(M, n)``, infinite without any: ``(N,)``."""
    from scipy.spatial import cKDTree  # takes longer to import than the rest of this module

    # Concentric surfaces, where all distances are alike, take three times as long with the default tree.
    return cKDTree(others, leafsize=32, compact_nodes=False, balanced_tree=False).query(points)[0]


@cache
def _pieces(dims: int) -> NDArray[np.float64]:
    """The surface within a neighbourhood, for each way to be inside at its corners, as in marching cubes.

    Of the corners inside and those outside, the fewer are cut off: each group of them that is connected by edges, with
    a polygon through the midpoints of the edges that leave the group (Lorensen and Cline, 1987; 2D: a line).

    Returns:
        The vectors of the pieces in voxels, ``(2^(2^n), F, n)``, zeros where there are fewer than F. In 3D they are
        triangles' normals with the length of their areas, in 2D lines from end to end.
    """
    from scipy import ndimage

    table = np.zeros((2 ** (2**dims), 4, dims))
    for code in range(len(table)):
        cube = (code >> np.arange(2**dims) & 1).reshape((2,) * dims)
        groups, count = ndimage.label(cube if 2 * cube.sum() <= cube.size else 1 - cube)
        found = [piece for i in range(count) for piece in _cut(groups == i + 1)]
        table[code, : len(found)] = np.reshape(found, (-1, dims))
    return table


def _cut(group: NDArray[np.bool_]) -> NDArray[np.float64]:
    """What cuts a group of corners, bool ``(2,)*n``, off the others: the vectors of lines or triangles ``(F, n)``."""
    ends = [np.insert(np.argwhere(np.diff(group, axis=a).any(a)).astype(float), a, 0.5, 1) for a in range(group.ndim)]
    middles = np.concatenate(ends)  # (E, n): of the edges that leave the group
    if group.ndim == 2:
        return middles[1:] - middles[:1]  # (1, 2)
    outwards = np.argwhere(~group).mean(0) - np.argwhere(group).mean(0)
    spokes = middles - middles.mean(0)  # (E, 3)
    side = np.cross(outwards, spokes[0])
    around = np.arctan2(spokes @ side, spokes @ np.cross(side, outwards) / np.linalg.norm(outwards))
    ring = middles[np.argsort(around)]
    # A polygon of five or six corners need not be flat. Of the fans of triangles, the one with the greatest area for
    # cubic voxels follows its flat parts, and gives DeepMind's areas.
    fans = [np.roll(ring, -k, 0) for k in range(len(ring))]
    triangles = [np.cross(fan[1:-1] - fan[0], fan[2:] - fan[0]) / 2 for fan in fans]  # (E − 2, 3) each
    return max(triangles, key=lambda t: np.linalg.norm(t, axis=1).sum())
