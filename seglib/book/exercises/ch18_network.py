"""Chapter 18, "nnU-Net": the pieces and exercises on the network: its patch, strides and kernels, and its outputs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seglib.book.exercise import Exercise

# Piece 2: the patch to begin with ------------------------------------------------------------------------------------


def initial_patch(spacing: Sequence[float], size: Sequence[int]) -> list[int]:
    """256³ voxels, of about equal extent in mm along all axes, clipped to the median size in voxels."""
    return _initial_patch(spacing, size)


def _shaped(spacing: Sequence[float], voxels: float = 256**3) -> list[float]:
    unit = (voxels * math.prod(spacing)) ** (1 / 3)  # the side of a cube of so many voxels, in mm
    return [unit / s for s in spacing]


def _initial_patch(
    spacing: Sequence[float],
    size: Sequence[int],
    *,
    shape: Callable[[Sequence[float]], list[float]] = _shaped,
    whole: Callable[[float], float] = round,
    clip: Callable[[list[float], Sequence[int]], list[float]] = lambda patch, size: list(map(min, patch, size)),
) -> list[Any]:
    """``initial_patch`` with some steps exchanged."""
    return clip([whole(v) for v in shape(spacing)], size)


def _patches(**changes: Any) -> Callable[[Sequence[float], Sequence[int]], list[Any]]:
    return lambda spacing, size: _initial_patch(spacing, size, **changes)


def _regrown(spacing: Sequence[float], size: Sequence[int]) -> list[int]:
    """What is lost to clipping goes to the other axes."""
    patch, free = list(size), [0, 1, 2]
    while free:
        left = 256**3 / math.prod(patch[a] for a in range(3) if a not in free)
        unit = (left * math.prod(spacing[a] for a in free)) ** (1 / len(free))
        clipped = [a for a in free if unit / spacing[a] > size[a]]
        if not clipped:
            return [round(unit / spacing[a]) if a in free else patch[a] for a in range(3)]
        free = [a for a in free if a not in clipped]
    return patch


def _patch_numpy(spacing: Sequence[float], size: Sequence[int]) -> np.ndarray:
    shape = 1 / np.array(spacing)
    shape *= 256 / np.exp(np.log(shape).mean())
    return np.minimum(np.floor(shape + 0.5), size)


def _patch_in_torch(spacing: Any, size: Sequence[int]) -> Tensor:
    side = torch.tensor(spacing, dtype=torch.float64).reciprocal()
    return (side * (256**3 / side.prod()) ** (1 / 3)).round().long().minimum(torch.tensor(size))


def _patch_by_loop(spacing: list[Any], size: Sequence[int]) -> list[Any]:
    middle = (spacing[0] * spacing[1] * spacing[2]) ** (1 / 3)
    for axis in range(3):
        spacing[axis] = round(256 * middle / spacing[axis])
        if spacing[axis] > size[axis]:
            spacing[axis] = size[axis]
    return spacing


INITIAL_PATCH = Exercise(
    solution=initial_patch,
    wrong={
        "cube": (
            _patches(shape=lambda s: [256.0] * 3),
            "Your patch is a cube of voxels. Its shape follows 1 / spacing: about the same extent in mm on each axis.",
        ),
        "by_spacing": (
            _patches(shape=lambda s: _shaped([1 / v for v in s])),
            "Your patch has more voxels along coarse axes. Its shape follows 1 / spacing.",
        ),
        "not_scaled": (
            _patches(shape=lambda s: [256 / v for v in s]),
            "Your patch has 256 mm along each axis. Scale 1 / spacing so that the product is 256³ voxels.",
        ),
        "by_coarsest": (
            _patches(shape=lambda s: [256 * max(s) / v for v in s]),
            "Your coarsest axis has 256 voxels. The product of all three is 256³.",
        ),
        "by_finest": (
            _patches(shape=lambda s: [256 * min(s) / v for v in s]),
            "Your finest axis has 256 voxels. The product of all three is 256³.",
        ),
        "by_mean": (
            _patches(shape=lambda s: [256 * sum(s) / 3 / v for v in s]),
            "You scale by the mean spacing. The product is 256³ voxels only with the geometric mean, a cube root.",
        ),
        "sum": (
            _patches(shape=lambda s: [768 / v / sum(1 / w for w in s) for v in s]),
            "Your three sides sum to 3 · 256. Their product is 256³.",
        ),
        "half_the_side": (
            _patches(shape=lambda s: _shaped(s, 128**3)),
            "Your patch has 128³ voxels. It begins with 256³.",
        ),
        "double_side": (
            _patches(shape=lambda s: _shaped(s, 512**3)),
            "Your patch has 512³ voxels. It begins with 256³.",
        ),
        "rounded_down": (_patches(whole=math.floor), "You round the sides down. Round to the nearest whole number."),
        "rounded_up": (_patches(whole=math.ceil), "You round the sides up. Round to the nearest whole number."),
        "not_rounded": (_patches(whole=lambda v: v), "A side has whole voxels: round it."),
        "not_clipped": (
            _patches(clip=lambda patch, size: patch),
            "Your patch may be larger than the image. Clip each side to the median size.",
        ),
        "at_least": (
            _patches(clip=lambda patch, size: list(map(max, patch, size))),
            "You take the larger of side and size. A side is at most the median size: the lesser of the two.",
        ),
        "shortest_axis": (
            _patches(clip=lambda patch, size: [min(v, *size) for v in patch]),
            "You clip all sides to the shortest axis of the image. Each side has its own limit.",
        ),
        "longest_axis": (
            _patches(clip=lambda patch, size: [min(v, max(size)) for v in patch]),
            "You clip all sides to the longest axis of the image. Each side has its own limit.",
        ),
        "first_axis": (
            _patches(clip=lambda patch, size: [min(patch[0], size[0]), *patch[1:]]),
            "You clip the first axis alone. Each side is at most the median size along its axis.",
        ),
        "scaled_to_fit": (
            _patches(
                clip=lambda patch, size: [
                    round(v * min(1, *(n / p for n, p in zip(size, patch, strict=True)))) for v in patch
                ]
            ),
            "You shrink the whole patch until it fits. Only the side that is too long is clipped.",
        ),
        "regrown": (_regrown, "Clip last: what one axis loses does not go to the others."),
        "the_whole_image": (
            lambda spacing, size: list(size),
            "That is the whole image. Three sides share 256³ voxels: the factor is a cube root.",
        ),
        "reversed": (
            lambda spacing, size: initial_patch(spacing, size)[::-1],
            "Your axes are reversed. The patch has the order of the spacing.",
        ),
        "spacing_reversed": (
            lambda spacing, size: initial_patch(spacing[::-1], size),
            "You read the spacing in the reverse order. Spacing and size have the same order of axes.",
        ),
    },
    right={"NumPy": _patch_numpy, "PyTorch": _patch_in_torch, "a loop, in place": _patch_by_loop},
    probes=lambda: {
        "an isotropic image": ([1.0, 1.0, 1.0], [300, 400, 500]),
        "an image of half a millimetre": ([0.5, 0.5, 0.5], [300, 400, 500]),
        "thick slices": ([5.0, 0.8, 0.7], [400, 900, 1200]),
        "thick slices, few of them": ([5.0, 0.8, 0.7], [30, 900, 1200]),
        "a small image": ([1.2, 0.9, 1.0], [35, 51, 40]),
        "a coarse last axis": ([0.6, 0.7, 2.0], [800, 350, 90]),
        "sides that lie just below a whole number": ([1.5, 1.1, 1.3], [400, 280, 290]),
        "one voxel along the middle axis": ([1.0, 1.0, 1.0], [180, 1, 256]),
    },
    hint="Sides 1 / spacing, times one factor that makes their product 256³; round; clip each to the size.",
    sketch="""
        shape = 1 / np.array(spacing)
        shape *= (256**3 / ...) ** ...                       # then shape.prod() is 256³
        return [min(round(v), ...) for v, n in zip(shape, size)]
    """,
)


# Piece 3: poolings and kernels ---------------------------------------------------------------------------------------

Topology = tuple[list[list[int]], list[list[int]], list[int]]


def topology(spacing: Sequence[float], patch: Sequence[int]) -> Topology:
    """The strides of all poolings, the kernels of all levels, and the patch padded to what the strides divide."""
    return _topology(spacing, patch)


def _poolable(spacing: Sequence[float], size: Sequence[int]) -> list[int]:
    """The axes that the next pooling halves."""
    long = [a for a in range(3) if size[a] >= 8]
    return [a for a in long if spacing[a] / min(spacing[b] for b in long) < 2]


def _opened(kernel: list[int], spacing: Sequence[float], poolable: list[int]) -> list[int]:
    """The kernel of a level: 3 along every axis whose spacing is within a factor of 2 of the finest, and ever after."""
    return [3 if k == 3 or s / min(spacing) < 2 else 1 for k, s in zip(kernel, spacing, strict=True)]


def _multiples(strides: list[list[int]]) -> list[int]:
    return [math.prod(s[a] for s in strides) for a in range(3)]


def _padded(patch: Sequence[int], multiples: Sequence[int]) -> list[int]:
    return [-(-p // m) * m for p, m in zip(patch, multiples, strict=True)]


def _topology(
    spacing: Sequence[float],
    patch: Sequence[int],
    *,
    poolable: Callable[[Sequence[float], Sequence[int]], list[int]] = _poolable,
    lone: Callable[[list[int], Sequence[int]], bool] = lambda axes, size: len(axes) == 1 and size[axes[0]] < 12,
    opened: Callable[[list[int], Sequence[float], list[int]], list[int]] = _opened,
    late: bool = False,
    halve: Callable[[int], int] = lambda n: -(-n // 2),
    double: Callable[[float], float] = lambda s: 2 * s,
    deepest: int = 99,
    bottleneck: Callable[[list[list[int]]], list[list[int]]] = lambda kernels: [*kernels, [3, 3, 3]],
    multiples: Callable[[list[list[int]]], list[int]] = _multiples,
    pad: Callable[[Sequence[int], Sequence[int]], list[int]] = _padded,
) -> Topology:
    """``topology`` with some steps exchanged."""
    spacing, size = list(spacing), list(patch)
    strides: list[list[int]] = []
    kernels: list[list[int]] = []
    kernel = [1, 1, 1]
    while len(strides) < deepest:
        axes = poolable(spacing, size)
        if not axes or lone(axes, size):
            break
        if not late:
            kernel = opened(kernel, spacing, axes)
        strides.append([2 if a in axes else 1 for a in range(3)])
        for a in axes:
            spacing[a], size[a] = double(spacing[a]), halve(size[a])
        if late:
            kernel = opened(kernel, spacing, axes)
        kernels.append(kernel)
    return strides, bottleneck(kernels), pad(patch, multiples(strides))


def _topologies(**changes: Any) -> Callable[[Sequence[float], Sequence[int]], Topology]:
    return lambda spacing, patch: _topology(spacing, patch, **changes)


def _pools(
    size: Callable[[int], bool] = lambda n: n >= 8,
    near: Callable[[float, float], bool] = lambda s, finest: s / finest < 2,
    of_all: bool = False,
) -> Callable[[Sequence[float], Sequence[int]], list[int]]:
    """The axes to pool, with some steps exchanged."""

    def axes(spacing: Sequence[float], sizes: Sequence[int]) -> list[int]:
        long = [a for a in range(3) if size(sizes[a])]
        finest = min((spacing[a] for a in (range(3) if of_all else long)), default=1.0)
        return [a for a in long if near(spacing[a], finest)]

    return axes


def _kernels_within_long(spacing: Sequence[float], patch: Sequence[int]) -> Topology:
    """The kernels' spacing is compared with that of the axes that are long enough to pool."""
    strides, kernels, padded = topology(spacing, patch)
    mm, size, kernel = list(spacing), list(patch), [1, 1, 1]
    for level, stride in enumerate(strides):
        finest = min(m for m, n in zip(mm, size, strict=True) if n >= 8)
        kernel = [3 if k == 3 or m / finest < 2 else 1 for k, m in zip(kernel, mm, strict=True)]
        kernels[level] = kernel
        mm = [m * s for m, s in zip(mm, stride, strict=True)]
        size = [math.ceil(n / s) for n, s in zip(size, stride, strict=True)]
    return strides, kernels, padded


def _topology_numpy(spacing: Any, patch: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mm, size = np.array(spacing, float), np.array(patch)
    strides, kernels, multiple, open_ = [], [], np.ones(3, int), np.zeros(3, bool)
    while (size >= 8).any():
        pool = (size >= 8) & (mm < 2 * mm[size >= 8].min())
        if pool.sum() == 1 and size[pool].item() < 12:
            break
        open_ |= mm < 2 * mm.min()
        kernels.append(np.where(open_, 3, 1))
        strides.append(1 + pool)
        mm[pool] *= 2
        size[pool] = (size[pool] + 1) // 2
        multiple[pool] *= 2
    kernels.append(np.full(3, 3))
    return np.array(strides), np.array(kernels), np.ceil(np.array(patch) / multiple) * multiple


def _topology_by_recursion(spacing: Sequence[float], patch: Sequence[int]) -> tuple[Any, Any, Any]:
    def levels(mm: tuple[float, ...], size: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[tuple[Any, ...], ...]:
        long = [a for a, n in enumerate(size) if n > 7]
        pool = {a for a in long if all(mm[a] < 2 * mm[b] for b in long)}
        if not pool or (len(pool) == 1 and max(size[a] for a in pool) <= 11):
            return (), ((3, 3, 3),)
        here = tuple(max(k, 3 * all(m < 2 * other for other in mm)) or 1 for k, m in zip(kernel, mm, strict=True))
        stride = tuple(2 if a in pool else 1 for a in range(3))
        coarser = tuple(m * s for m, s in zip(mm, stride, strict=True))
        halves = tuple(math.ceil(n / s) for n, s in zip(size, stride, strict=True))
        strides, kernels = levels(coarser, halves, here)
        return (stride, *strides), (here, *kernels)

    strides, kernels = levels(tuple(spacing), tuple(patch), (1, 1, 1))
    padded = []
    for axis, n in enumerate(patch):
        m = 2 ** sum(s[axis] == 2 for s in strides)
        padded.append(n if n % m == 0 else n + m - n % m)
    return strides, kernels, padded


def _lists(value: Any) -> Any:
    """Arrays, tensors and tuples as lists: an answer without any pooling may have any shape."""
    if isinstance(value, np.ndarray | Tensor):
        value = value.tolist()
    return [_lists(v) for v in value] if isinstance(value, list | tuple) else value


def _grids() -> Mapping[str, tuple[list[float], list[int]]]:
    return {
        "an isotropic patch": ([1.0, 1.0, 1.0], [128, 128, 128]),
        "thick slices": ([3.0, 1.0, 1.0], [40, 160, 192]),
        "very thick slices": ([8.0, 0.7, 0.7], [20, 250, 310]),
        "sides that no power of 2 divides": ([1.2, 1.0, 0.8], [61, 58, 29]),
        "slices of exactly twice the spacing": ([2.0, 1.0, 1.0], [24, 100, 77]),
        "slices of 2.5 times the spacing": ([2.5, 1.0, 1.0], [64, 64, 64]),
        "a long patch": ([1.0, 0.9, 1.0], [48, 512, 480]),
        "sides of 8 and 7": ([1.0, 1.0, 1.0], [8, 8, 7]),
        "sides of 15, 16 and 9": ([1.0, 1.0, 1.0], [15, 16, 9]),
        "one axis of 11 voxels left": ([1.0, 1.0, 1.0], [11, 5, 6]),
        "one axis of 12 voxels left": ([1.0, 1.0, 1.0], [12, 5, 6]),
        "one axis of 23 voxels left": ([1.0, 1.0, 1.0], [6, 23, 5]),
        "one axis of 14 voxels left": ([1.0, 1.0, 1.0], [5, 14, 6]),
        "no axis of 8 voxels": ([1.0, 1.0, 1.0], [7, 6, 5]),
        "one voxel along the middle axis": ([1.0, 1.0, 1.0], [64, 1, 80]),
        "a fine axis that is too short to pool": ([0.3, 1.0, 1.0], [5, 64, 96]),
        "a fine axis of 10 voxels": ([0.4, 1.0, 1.2], [10, 64, 96]),
        "a fine axis of 16 voxels": ([0.5, 1.0, 1.0], [16, 64, 64]),
        "three different spacings": ([4.0, 1.0, 2.0], [40, 150, 90]),
        "one short axis": ([1.0, 1.0, 1.0], [16, 128, 96]),
        "a coarse last axis": ([0.8, 0.9, 3.5], [130, 120, 18]),
    }


TOPOLOGY = Exercise(
    solution=topology,
    wrong={
        "above_8": (
            _topologies(poolable=_pools(lambda n: n > 8)),
            "An axis of exactly 8 voxels can be pooled: ≥, not >.",
        ),
        "from_4": (
            _topologies(poolable=_pools(lambda n: n >= 4)),
            "You pool axes of 4 voxels. At least 4 must be left after pooling: it needs 8 before.",
        ),
        "from_16": (
            _topologies(poolable=_pools(lambda n: n >= 16)),
            "You stop too early: an axis can be pooled while it has 8 voxels, and 4 are left.",
        ),
        "from_7": (
            _topologies(poolable=_pools(lambda n: n >= 7)),
            "You pool an axis of 7 voxels, as its half rounds up to 4. It needs 8 voxels.",
        ),
        "at_twice": (
            _topologies(poolable=_pools(near=lambda s, finest: s / finest <= 2)),
            "An axis of exactly twice the finest spacing waits: less than 2 times, not ≤.",
        ),
        "at_thrice": (
            _topologies(poolable=_pools(near=lambda s, finest: s / finest < 3)),
            "You pool axes within a factor of 3 of the finest. The factor is 2.",
        ),
        "all_long_axes": (
            _topologies(poolable=_pools(near=lambda s, finest: True)),
            "You pool coarse axes at once. They wait until their spacing is less than 2 times the finest.",
        ),
        "finest_alone": (
            _topologies(poolable=_pools(near=lambda s, finest: s == finest)),
            "You pool the axis of the finest spacing alone. All axes of less than 2 times that spacing are pooled.",
        ),
        "finest_of_all": (
            _topologies(poolable=_pools(of_all=True)),
            "You compare with the finest of all axes. An axis of fewer than 8 voxels no longer counts there.",
        ),
        "all_or_none": (
            _topologies(poolable=lambda spacing, size: [0, 1, 2] if min(size) >= 8 else []),
            "You pool all axes or none. Each axis decides by its own size and spacing.",
        ),
        "old_spacing": (
            _topologies(double=lambda s: s),
            "Pooling doubles the spacing of an axis; yours stays that of the image.",
        ),
        "no_lone_rule": (
            _topologies(lone=lambda axes, size: False),
            "Where only one axis would be pooled it needs 12 voxels. Otherwise the network ends there.",
        ),
        "lone_above_12": (
            _topologies(lone=lambda axes, size: len(axes) == 1 and size[axes[0]] <= 12),
            "A lone axis of exactly 12 voxels is pooled: ≥, not >.",
        ),
        "lone_never": (
            _topologies(lone=lambda axes, size: len(axes) == 1),
            "You never pool one axis alone. With 12 voxels or more it is.",
        ),
        "lone_16": (
            _topologies(lone=lambda axes, size: len(axes) == 1 and size[axes[0]] < 16),
            "A lone axis needs 12 voxels, not 16.",
        ),
        "all_need_12": (
            _topologies(lone=lambda axes, size: any(size[a] < 12 for a in axes)),
            "You ask 12 voxels of every axis. Only an axis that would be pooled alone needs them.",
        ),
        "lone_by_size": (
            _topologies(lone=lambda axes, size: sum(n >= 8 for n in size) == 1 and size[axes[0]] < 12),
            "You count the axes of at least 8 voxels. Lone is an axis that is left after the test of the spacing, too.",
        ),
        "rounded_down": (
            _topologies(halve=lambda n: n // 2),
            "You round half of an odd side down, or keep the fraction. The patch is padded later: round up.",
        ),
        "rounded_even": (
            _topologies(halve=lambda n: round(n / 2)),
            "`round` takes 14.5 to 14. The patch is padded later, so half of an odd side is rounded up.",
        ),
        "five_poolings": (
            _topologies(deepest=5),
            "You stop after five poolings. There is no such limit: go on while an axis can be pooled.",
        ),
        "four_poolings": (
            _topologies(deepest=4),
            "You stop after four poolings. There is no such limit: go on while an axis can be pooled.",
        ),
        "kernels_of_3": (
            _topologies(opened=lambda kernel, spacing, axes: [3, 3, 3]),
            "All your kernels are 3 × 3 × 3. Along an axis of 2 times the finest spacing or more the kernel is 1.",
        ),
        "kernels_of_1": (
            _topologies(opened=lambda kernel, spacing, axes: [1, 1, 1]),
            "All your kernels but the lowest are 1 × 1 × 1. They are 3 along axes of less than 2 times the finest "
            "spacing.",
        ),
        "kernel_at_thrice": (
            _topologies(
                opened=lambda kernel, spacing, axes: [
                    3 if k == 3 or s / min(spacing) < 3 else 1 for k, s in zip(kernel, spacing, strict=True)
                ]
            ),
            "Your kernel is 3 within a factor of 3 of the finest spacing. The factor is 2.",
        ),
        "kernel_at_twice": (
            _topologies(
                opened=lambda kernel, spacing, axes: [
                    3 if k == 3 or s / min(spacing) <= 2 else 1 for k, s in zip(kernel, spacing, strict=True)
                ]
            ),
            "At exactly twice the finest spacing the kernel is still 1: less than 2 times, not ≤.",
        ),
        "kernel_of_pooled": (
            _topologies(
                opened=lambda kernel, spacing, axes: [3 if k == 3 or a in axes else 1 for a, k in enumerate(kernel)]
            ),
            "Your kernel is 3 along the axes that are pooled. It asks for the spacing alone: an axis that is too short "
            "to pool still gets 3.",
        ),
        "kernel_of_poolable": (
            _kernels_within_long,
            "For kernels you compare with the finest spacing of the axes of 8 voxels. Compare with the finest of all.",
        ),
        "kernel_forgets": (
            _topologies(opened=lambda kernel, spacing, axes: [3 if s / min(spacing) < 2 else 1 for s in spacing]),
            "Your kernel goes back to 1. Once it is 3 along an axis it stays 3.",
        ),
        "kernel_late": (
            _topologies(late=True),
            "Your kernels are those of the next level: set the kernel before the spacing is doubled.",
        ),
        "kernel_from_the_start": (
            lambda spacing, patch: (
                topology(spacing, patch)[0],
                [*[_opened([1, 1, 1], spacing, [])] * len(topology(spacing, patch)[0]), [3, 3, 3]],
                topology(spacing, patch)[2],
            ),
            "Your kernels are those of the image's spacing on all levels. Pooling changes the spacing.",
        ),
        "no_bottleneck": (
            _topologies(bottleneck=lambda kernels: kernels),
            "The lowest level lacks its kernel: there is one level more than there are poolings, 3 × 3 × 3.",
        ),
        "bottleneck_repeated": (
            _topologies(bottleneck=lambda kernels: [*kernels, kernels[-1] if kernels else [1, 1, 1]]),
            "The lowest level's kernel is 3 along all axes, whatever the spacing.",
        ),
        "bottleneck_first": (
            _topologies(bottleneck=lambda kernels: [[3, 3, 3], *kernels]),
            "The kernel of 3 × 3 × 3 belongs to the lowest level, the last one.",
        ),
        "with_ones": (
            lambda spacing, patch: ([[1, 1, 1], *topology(spacing, patch)[0]], *topology(spacing, patch)[1:]),
            "Your strides begin with (1, 1, 1). List the poolings alone, one fewer than there are levels.",
        ),
        "not_padded": (
            _topologies(pad=lambda patch, multiples: list(patch)),
            "The patch must be padded: along each axis to a multiple of 2 to the power of its poolings.",
        ),
        "cut": (
            _topologies(pad=lambda patch, multiples: [p // m * m for p, m in zip(patch, multiples, strict=True)]),
            "You cut the patch down to a multiple. Pad it up to the next one.",
        ),
        "nearest_multiple": (
            _topologies(pad=lambda patch, multiples: [round(p / m) * m for p, m in zip(patch, multiples, strict=True)]),
            "You take the nearest multiple. Pad the patch up to the next one.",
        ),
        "one_more": (
            _topologies(pad=lambda patch, multiples: [(p // m + 1) * m for p, m in zip(patch, multiples, strict=True)]),
            "A side that is a multiple already stays as it is; you pad it by one more.",
        ),
        "one_multiple": (
            _topologies(pad=lambda patch, multiples: _padded(patch, [max(multiples)] * 3)),
            "You pad all axes to the multiple of the deepest one. Each axis has its own number of poolings.",
        ),
        "all_levels": (
            _topologies(
                multiples=lambda strides: [2 ** len(strides)] * 3,
            ),
            "You pad by the number of levels. Each axis has its own number of poolings.",
        ),
        "twice_the_poolings": (
            _topologies(multiples=lambda strides: [2 * (m.bit_length() - 1) or 1 for m in _multiples(strides)]),
            "An axis that is pooled k times needs a multiple of 2 to the power of k, not of 2 · k.",
        ),
        "multiples": (
            lambda spacing, patch: (
                *topology(spacing, patch)[:2],
                _multiples(topology(spacing, patch)[0]),
            ),
            "The third answer is the padded patch, not the multiples.",
        ),
        "lowest_map": (
            lambda spacing, patch: (
                *topology(spacing, patch)[:2],
                [
                    n // m
                    for n, m in zip(topology(spacing, patch)[2], _multiples(topology(spacing, patch)[0]), strict=True)
                ],
            ),
            "The third answer is the size of the lowest level. Return the padded patch.",
        ),
        "strides_of_2": (
            lambda spacing, patch: ([[2, 2, 2] for _ in topology(spacing, patch)[0]], *topology(spacing, patch)[1:]),
            "All your strides are 2. Along an axis that is not pooled the stride is 1.",
        ),
        "counts": (
            lambda spacing, patch: (
                [sum(s[a] == 2 for s in topology(spacing, patch)[0]) for a in range(3)],
                *topology(spacing, patch)[1:],
            ),
            "You return the number of poolings of each axis. Return the strides of each pooling: 1 or 2 an axis.",
        ),
        "kernels_first": (
            lambda spacing, patch: tuple(topology(spacing, patch)[i] for i in (1, 0, 2)),
            "The strides come first, then the kernels, then the patch.",
        ),
        "patch_first": (
            lambda spacing, patch: tuple(topology(spacing, patch)[i] for i in (2, 0, 1)),
            "The patch comes last: strides, kernels, patch.",
        ),
    },
    right={"NumPy": _topology_numpy, "a recursion": _topology_by_recursion},
    probes=_grids,
    run=lambda attempt, spacing, patch: _lists(attempt(spacing, patch)),
    hint="Size, then spacing among those axes, then the lone axis; the kernel; only then the halving.",
    sketch="""
        size, kernel = list(patch), [1, 1, 1]
        while True:
            long = [a for a in range(3) if size[a] ...]
            pool = [a for a in long if spacing[a] / min(spacing[b] for b in ...) < 2]
            if not pool or (len(pool) == 1 and ...):
                break
            kernel = [3 if k == 3 or ... else 1 for k, s in zip(kernel, spacing)]
            kernels.append(kernel)
            strides.append([... for a in range(3)])
            for a in pool:
                spacing[a], size[a] = ..., math.ceil(...)
        kernels.append(...)                                  # the lowest level
    """,
)


# Piece 4: the numbers in all feature maps ----------------------------------------------------------------------------


def feature_maps(patch: Sequence[int], strides: Sequence[Sequence[int]], widths: Sequence[int], classes: int) -> int:
    """How many numbers the feature maps of one patch hold: nnU-Net's measure of memory."""
    return _feature_maps(patch, strides, widths, classes)


def _feature_maps(
    patch: Sequence[int],
    strides: Sequence[Sequence[int]],
    widths: Sequence[int],
    classes: int,
    *,
    encoder: int = 2,
    decoder: int = 2,
    up: Callable[[int, int], int] = lambda here, below: here,
    up_low: bool = False,
    lowest: bool = False,
    scores: Callable[[int, int], bool] = lambda level, levels: level == 0,
    sizes: Callable[[Sequence[int], Sequence[Sequence[int]]], list[int]] | None = None,
) -> int:
    """``feature_maps`` with some steps exchanged."""
    voxels = (sizes or _sizes)(patch, strides)  # of each level
    last = len(widths) - 1
    total = 0
    for level, (width, n) in enumerate(zip(widths, voxels, strict=True)):
        total += encoder * width * n
        if level < last:
            total += decoder * width * n + up(width, widths[level + 1]) * voxels[level + up_low]
        elif lowest:
            total += (decoder + 1) * width * n
        total += classes * n * scores(level, last)
    return total


def _sizes(patch: Sequence[int], strides: Sequence[Sequence[int]]) -> list[int]:
    return [math.prod(patch) // p for p in itertools.accumulate(map(math.prod, strides), int.__mul__, initial=1)]


def _counts(**changes: Any) -> Callable[..., int]:
    return lambda patch, strides, widths, classes: _feature_maps(patch, strides, widths, classes, **changes)


def _maps_by_stack(patch: Any, strides: Any, widths: Any, classes: int) -> float:
    """Down and up again, one map after the other."""
    size, maps, skips = np.array(patch, float), [], []
    for width, stride in zip(widths, [(1, 1, 1), *strides], strict=True):
        size /= stride
        maps += [width * size.prod()] * 2
        skips.append(maps[-1])
    for skip in skips[-2::-1]:
        maps += [skip, skip, skip]
    return sum(maps) + classes * float(np.prod(patch))


def _maps_in_torch(patch: Any, strides: Any, widths: Any, classes: int) -> Tensor:
    steps = torch.tensor([[1, 1, 1], *strides]).prod(1).cumprod(0)  # (levels,)
    per_level = torch.tensor(widths) * (math.prod(patch) // steps)
    times = torch.full_like(per_level, 5)
    times[-1] = 2
    return (times * per_level).sum() + classes * math.prod(patch)


def _maps_by_recursion(patch: Any, strides: Any, widths: Any, classes: int) -> int:
    d, h, w = patch
    here, scores = d * h * w * widths[0], d * h * w * classes
    if not strides:
        return 2 * here + scores
    below = [n // s for n, s in zip(patch, strides[0], strict=True)]
    return 5 * here + scores + _maps_by_recursion(below, strides[1:], widths[1:], 0)


def _networks() -> Mapping[str, tuple[list[int], list[list[int]], list[int], int]]:
    return {
        "three levels": ([16, 16, 16], [[2, 2, 2], [2, 2, 2]], [4, 8, 16], 3),
        "thick slices": ([5, 32, 24], [[1, 2, 2], [1, 2, 2], [1, 2, 2]], [2, 4, 8, 16], 2),
        "widths that stop growing": ([8, 16, 16], [[1, 2, 2], [2, 2, 2]], [5, 10, 10], 4),
        "two levels": ([4, 6, 8], [[2, 1, 2]], [3, 7], 5),
        "one level": ([7, 6, 5], [], [4], 2),
        "128³ voxels": ([128, 128, 128], [[2, 2, 2]] * 5, [32, 64, 128, 256, 320, 320], 3),
    }


FEATURE_MAPS = Exercise(
    solution=feature_maps,
    wrong={
        "encoder_alone": (
            lambda patch, strides, widths, classes: (
                feature_maps(patch, strides, widths, classes)
                - sum(3 * w * n for w, n in zip(widths[:-1], _sizes(patch, strides)[:-1], strict=True))
            ),
            "You count the encoder alone. The decoder has three maps at each level but the lowest.",
        ),
        "no_transposed": (
            _counts(up=lambda here, below: 0),
            "Each level of the decoder has three maps: of the transposed convolution and of two more.",
        ),
        "transposed_is_wide": (
            _counts(up=lambda here, below: below),
            "The transposed convolution gives as many channels as its own level has, not as the one below.",
        ),
        "transposed_below": (
            _counts(up=lambda here, below: below, up_low=True),
            "The map of the transposed convolution has the size of the level that it goes up to, and its width.",
        ),
        "transposed_is_small": (
            _counts(up_low=True),
            "The map of the transposed convolution has the size of the level that it goes up to.",
        ),
        "concatenated": (
            _counts(up=lambda here, below: 3 * here),
            "You count the concatenated maps, too. Only results of convolutions count.",
        ),
        "decoder_at_the_bottom": (
            _counts(lowest=True),
            "The lowest level has no decoder: two maps alone.",
        ),
        "one_convolution": (
            _counts(encoder=1, decoder=1),
            "A block has two convolutions, in the encoder and in the decoder.",
        ),
        "one_in_the_encoder": (_counts(encoder=1), "The encoder has two convolutions at each level."),
        "three_in_the_encoder": (
            _counts(encoder=3),
            "You count three maps in the encoder: the input of a block is the map of another level. There are two.",
        ),
        "three_in_the_decoder": (
            _counts(decoder=3),
            "You count four maps at each level of the decoder: there are two convolutions and the transposed one.",
        ),
        "no_scores": (
            _counts(scores=lambda level, last: False),
            "The map of class scores is missing: `classes` channels at full resolution.",
        ),
        "scores_everywhere": (
            _counts(scores=lambda level, last: level < last or last == 0),
            "You count class scores at every level of the decoder. They count once, at full resolution.",
        ),
        "scores_at_all_levels": (
            _counts(scores=lambda level, last: True),
            "You count class scores at every level. They count once, at full resolution.",
        ),
        "scores_below": (
            _counts(scores=lambda level, last: level == last),
            "You count class scores at the lowest level. They lie at full resolution.",
        ),
        "without_background": (
            lambda patch, strides, widths, classes: feature_maps(patch, strides, widths, classes - 1),
            "You leave the background out. `classes` counts it: it has a channel of its own.",
        ),
        "one_score": (
            lambda patch, strides, widths, classes: feature_maps(patch, strides, widths, 1),
            "The map of class scores has `classes` channels, not one.",
        ),
        "not_pooled": (
            _counts(sizes=lambda patch, strides: [math.prod(patch)] * (len(strides) + 1)),
            "Your maps all have full size. Each pooling divides it by its strides.",
        ),
        "pooled_at_once": (
            lambda patch, strides, widths, classes: (
                _feature_maps(
                    patch, strides, widths, classes, sizes=lambda p, s: [*_sizes(p, s)[1:], _sizes(p, s)[-1] // 8]
                )
                + classes * (math.prod(patch) - _sizes(patch, [*strides, [2, 2, 2]])[1])
            ),
            "You pool before the first level. Level 0 has full resolution.",
        ),
        "not_cumulative": (
            _counts(sizes=lambda patch, strides: [math.prod(patch) // math.prod(s) for s in [[1, 1, 1], *strides]]),
            "Poolings add up: the strides of all levels above divide the size.",
        ),
        "always_8": (
            _counts(sizes=lambda patch, strides: [math.prod(patch) // 8**i for i in range(len(strides) + 1)]),
            "You divide by 8 at each pooling. An axis of stride 1 keeps its size.",
        ),
        "halved": (
            _counts(sizes=lambda patch, strides: [math.prod(patch) // 2**i for i in range(len(strides) + 1)]),
            "You halve the number of voxels at each pooling. It is divided by the product of the strides.",
        ),
        "no_channels": (
            lambda patch, strides, widths, classes: feature_maps(patch, strides, [1] * len(widths), classes),
            "You count voxels. A map has `widths[level]` channels at each voxel.",
        ),
        "first_width": (
            lambda patch, strides, widths, classes: feature_maps(patch, strides, [widths[0]] * len(widths), classes),
            "All your levels have the first width. Each level has its own.",
        ),
        "doubled_widths": (
            lambda patch, strides, widths, classes: feature_maps(
                patch, strides, [widths[0] * 2**i for i in range(len(widths))], classes
            ),
            "You double the width at each level. Take `widths`: it stops growing.",
        ),
        "bytes": (
            lambda patch, strides, widths, classes: 4 * feature_maps(patch, strides, widths, classes),
            "Those are bytes. Count the numbers.",
        ),
    },
    right={"one map after the other": _maps_by_stack, "PyTorch": _maps_in_torch, "a recursion": _maps_by_recursion},
    probes=_networks,
    hint="Each level: voxels × width × (2 in the encoder + 3 in the decoder, not at the lowest). Plus class scores.",
    sketch="""
        total, voxels = classes * ..., math.prod(patch)
        for level, width in enumerate(widths):
            if level:
                voxels //= math.prod(...)
            total += ... * width * voxels                    # fewer at the lowest level
        return total
    """,
)


# Weights of deep supervision -----------------------------------------------------------------------------------------


def supervision_weights(outputs: int) -> list[float]:
    """The weights of the losses of ``outputs`` outputs, that of full resolution first."""
    return _supervision_weights(outputs)


def _normalised(weights: list[float]) -> list[float]:
    return [w / sum(weights) for w in weights]


def _supervision_weights(
    outputs: int,
    *,
    weight: Callable[[int], float] = lambda level: 0.5**level,
    one: float = 1.0,
    normalise: Callable[[list[float]], list[float]] = _normalised,
) -> list[float]:
    """``supervision_weights`` with some steps exchanged."""
    if outputs == 1:
        return [one]
    return normalise([*map(weight, range(outputs - 1)), 0.0])


def _weights(**changes: Any) -> Callable[[int], list[float]]:
    return lambda outputs: _supervision_weights(outputs, **changes)


def _weights_in_torch(outputs: int) -> Tensor:
    weights = 0.5 ** torch.arange(outputs)
    weights[1:][outputs - 2 :] = 0
    weights /= weights.sum()
    return weights


def _weights_by_sum(outputs: int) -> np.ndarray:
    """By the sum of the series: 1 + ½ + … + 2^−(n − 2) is 2 − 2^−(n − 2)."""
    weights = np.zeros(outputs)
    n = max(outputs - 1, 1)
    weights[:n] = 0.5 ** np.arange(n) / (2 - 0.5 ** (n - 1))
    return weights


def _weights_by_loop(outputs: int) -> tuple[float, ...]:
    weights = [2.0 ** (outputs - i) for i in range(outputs)]
    if len(weights) > 1:
        weights[-1] = 0
    total = sum(weights)
    return tuple(w / total for w in weights)


SUPERVISION = Exercise(
    solution=supervision_weights,
    wrong={
        "lowest_counts": (
            lambda outputs: _normalised([0.5**i for i in range(outputs)]),
            "The lowest output counts in your loss. Its weight is 0.",
        ),
        "normalised_first": (
            lambda outputs: (
                [1.0]
                if outputs == 1
                else [*(0.5**i / sum(0.5**j for j in range(outputs)) for i in range(outputs - 1)), 0.0]
            ),
            "Your weights no longer sum to 1. Set the lowest to 0 before you divide by the sum.",
        ),
        "not_normalised": (
            _weights(normalise=lambda w: w),
            "Your weights sum to more than 1. Divide them by their sum.",
        ),
        "by_number": (
            _weights(normalise=lambda w: [v / len(w) for v in w]),
            "You divide by the number of outputs. Divide by the sum of the weights.",
        ),
        "by_largest": (
            _weights(weight=lambda level: 0.5 ** (level + 1), normalise=lambda w: w),
            "Your weights begin at ½ and sum to less than 1. Divide them by their sum.",
        ),
        "reversed": (
            lambda outputs: supervision_weights(outputs)[::-1],
            "Full resolution comes first, with the largest weight.",
        ),
        "first_is_0": (
            lambda outputs: [1.0] if outputs == 1 else [0.0, *supervision_weights(outputs)[:-1]],
            "The output of full resolution has weight 0 in your list. The lowest one has.",
        ),
        "growing": (
            _weights(weight=lambda level: 2.0**level),
            "Your weights grow from level to level. They are halved.",
        ),
        "harmonic": (
            _weights(weight=lambda level: 1 / (level + 1)),
            "Your weights are 1, ½, ⅓ …. They are halved from level to level: 1, ½, ¼ ….",
        ),
        "by_voxels": (
            _weights(weight=lambda level: 0.125**level),
            "Your weights are divided by 8 from level to level. They are halved: 1, ½, ¼ ….",
        ),
        "quartered": (
            _weights(weight=lambda level: 0.25**level),
            "Your weights are quartered from level to level. They are halved: 1, ½, ¼ ….",
        ),
        "equal": (_weights(weight=lambda level: 1.0), "All your outputs count the same. Halve the weight each time."),
        "one_too_few": (
            lambda outputs: supervision_weights(outputs)[:-1] if outputs > 1 else [1.0],
            "Your list is one too short: the lowest output is in it, with weight 0.",
        ),
        "one_too_many": (
            lambda outputs: [*supervision_weights(outputs), 0.0],
            "Your list is one too long: the lowest of the `outputs` outputs is the one with weight 0.",
        ),
        "two_zeros": (
            lambda outputs: [*supervision_weights(outputs - 1), 0.0] if outputs > 1 else [1.0],
            "Two of your weights are 0. Only the lowest one is.",
        ),
        "zero_alone": (
            _weights(one=0.0),
            "A network with one output has nothing else to train by: its weight is 1.",
        ),
        "nan_alone": (
            _weights(one=math.nan),
            "With one output the lowest is also the highest: setting it to 0 leaves 0 / 0. Its weight is 1.",
        ),
        "divides_by_zero": (
            lambda outputs: supervision_weights(outputs) if outputs > 1 else 1 / 0,
            "With one output the lowest is also the highest, so nothing is left to divide by. Its weight is 1.",
        ),
    },
    right={"PyTorch, in place": _weights_in_torch, "the series": _weights_by_sum, "a loop, a tuple": _weights_by_loop},
    probes=lambda: {f"{n} output{'s' * (n > 1)}": (n,) for n in (6, 5, 3, 2, 1)},
    hint="1, ½, ¼ …, the lowest 0, all divided by their sum; with one output [1].",
    sketch="""
        weights = [... for level in range(outputs)]
        if outputs > 1:
            weights[...] = 0
        return [w / ... for w in weights]
    """,
)
