"""How often a network pools along each axis, and with which kernels: from the spacing and the patch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from seglib.types import Size

MIN_EDGE = 4
"""The voxels that an axis keeps at least when it is pooled: an edge of twice as many can be."""

LONE_EDGE = 3 * MIN_EDGE
"""The voxels that an axis needs when it would be pooled alone."""

SIMILAR = 2
"""Voxels that differ in spacing by less than this factor are pooled together, and seen by one kernel."""


@dataclass(frozen=True)
class Topology:
    """The shape of a U-Net.

    Attributes:
        patch: voxels of its input, a multiple of the product of its strides along each axis.
        kernels: kernel size of each level, the finest first.
        strides: stride with which each level but the first is entered.
    """

    patch: Size
    kernels: tuple[Size, ...]
    strides: tuple[Size, ...]

    @property
    def multiple(self) -> Size:
        """The product of the strides along each axis, of which the patch is a multiple."""
        return tuple(math.prod(stride[axis] for stride in self.strides) for axis in range(len(self.patch)))

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Voxels of the maps of each level."""
        sizes = [self.patch]
        for stride in self.strides:
            sizes.append(tuple(n // s for n, s in zip(sizes[-1], stride, strict=True)))
        return tuple(sizes)


def poolable(spacing: Sequence[float], size: Sequence[float]) -> tuple[int, ...]:
    """The axes that are halved next.

    They have at least 8 voxels left, and a spacing within a factor of 2 of the smallest among such axes. One axis alone
    needs 12 voxels.

    Args:
        spacing: mm along each axis, 2 or 3.
        size: voxels along each axis.
    """
    large = [axis for axis, n in enumerate(size) if n >= 2 * MIN_EDGE]
    finest = min((spacing[axis] for axis in large), default=0.0)
    axes = tuple(axis for axis in large if spacing[axis] / finest < SIMILAR)
    return () if len(axes) == 1 and size[axes[0]] < LONE_EDGE else axes


def topology(spacing: Sequence[float], patch: Sequence[float]) -> Topology:
    """Kernels and strides for a patch, which is padded to a multiple of the strides.

    Level by level the axes of :func:`poolable` are halved: the fine ones first, until their voxels are about as thick
    as those of the coarse ones. A kernel is 3 along the axes whose spacing is within a factor of 2 of the finest, once
    and for all further levels, and 1 along the others. The lowest level has kernels of 3 along all axes.

    Args:
        spacing: mm along each axis, 2 or 3.
        patch: voxels along each axis; where the median case ends in half a voxel, a patch may, too.
    """
    voxel, size, kernel = list(spacing), list(patch), [1] * len(spacing)
    kernels, strides = [], []
    while axes := poolable(voxel, size):
        kernel = [3 if k == 3 or v / min(voxel) < SIMILAR else 1 for k, v in zip(kernel, voxel, strict=True)]
        kernels.append(tuple(kernel))
        stride = tuple(2 if axis in axes else 1 for axis in range(len(voxel)))
        strides.append(stride)
        voxel = [v * s for v, s in zip(voxel, stride, strict=True)]
        size = [math.ceil(n / 2) if axis in axes else n for axis, n in enumerate(size)]  # 7.5 stays 7.5
    kernels.append((3,) * len(voxel))
    multiple = [math.prod(stride[axis] for stride in strides) for axis in range(len(voxel))]
    padded = tuple(math.ceil(n / m) * m for n, m in zip(patch, multiple, strict=True))
    return Topology(padded, tuple(kernels), tuple(strides))
