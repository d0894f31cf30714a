"""The spacing that all cases are resampled to, and the order of the axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ANISOTROPY = 3
"""An axis is coarse when its spacing is more than this times the others', and its voxels fewer by the same factor."""

COARSE_PERCENTILE = 10
"""The percentile of the spacings that a coarse axis gets; the others get the median."""

STEP = 1.03
"""The factor by which the spacing of 3d_lowres grows, step by step."""


def coarse_axis(spacing: Sequence[float], size: Sequence[float]) -> int | None:
    """The axis along which a data set is sampled so coarsely that its median spacing would lose detail.

    Args:
        spacing: median spacing of the cases in mm, 3 numbers.
        size: median size of the cases in voxels, 3 numbers.

    Returns:
        The axis with the largest spacing, if that is more than :data:`ANISOTROPY` times the next one and the axis has
        less than 1 / :data:`ANISOTROPY` of the voxels of each other; else ``None``.
    """
    worst = int(np.argmax(spacing))
    others = [axis for axis in range(len(spacing)) if axis != worst]
    far = spacing[worst] > ANISOTROPY * max(spacing[axis] for axis in others)
    few = size[worst] * ANISOTROPY < min(size[axis] for axis in others)
    return worst if far and few else None


def target_spacing(spacings: Sequence[Sequence[float]], sizes: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The spacing that cases are resampled to: the median of each axis, and a finer one along a coarse axis.

    Where slices lie far apart, resampling to the median would throw away slices of half of the cases. A coarse axis
    gets the 10th percentile of its spacings, but never less than the largest of the other two, plus 1e-5.

    Args:
        spacings: the spacing of each case in mm, ``(z, y, x)``.
        sizes: the size of each case in voxels, ``(D, H, W)``.

    Returns:
        Three numbers in mm, in the order of the axes of the cases.
    """
    target: list[float] = np.median(spacings, axis=0).tolist()
    axis = coarse_axis(target, np.median(sizes, axis=0).tolist())
    if axis is not None:
        fine = float(np.percentile([spacing[axis] for spacing in spacings], COARSE_PERCENTILE))
        others = max(target[:axis] + target[axis + 1 :])
        target[axis] = fine if fine >= others else others + 1e-5
    return tuple(target)


def transposition(spacing: Sequence[float]) -> tuple[int, int, int]:
    """The order of the axes: the one with the largest spacing first, so that 2D slices lie in the fine plane.

    Returns:
        The axis of the case that becomes the first, second and third; ``(0, 1, 2)`` changes nothing.
    """
    first = int(np.argmax(spacing))
    second, third = (axis for axis in range(3) if axis != first)
    return first, second, third


def coarser(spacing: Sequence[float]) -> tuple[float, ...]:
    """The next spacing to try for 3d_lowres: 3 % larger along the axes that are finer than half of the coarsest.

    Where no axis is that much finer, all of them grow.
    """
    fine = [max(spacing) / s > 2 for s in spacing]
    return tuple(s * STEP if grows or not any(fine) else s for s, grows in zip(spacing, fine, strict=True))
