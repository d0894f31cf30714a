"""Resampling of volumes to another spacing as nnU-Net does it: images by cubic splines, logits and labels linearly.

A spline of several axes is a product of splines of one axis, and one of one axis is linear: m new values are a matrix
``(m, n)`` times n old ones. ::

    (C, D, H, W) ── along the axis that shrinks most ──► … ── along the one that grows most ──► (C, d, h, w)

So a value costs n products for each axis instead of 4³ taps at once, and matrix products are what processors are
fastest at.

Pixel centres lie at +0.5, as everywhere in this package: new voxel i lies at ``(i + ½) · n / m − ½`` of the old ones.
Beyond the border the last value goes on. Along a *separate* axis, whose slices are far apart, the nearest slice is
taken.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from seglib.ops.labels import require_integers

ANISOTROPY = 3.0
"""Slices further apart than this many times the distance of pixels are not interpolated between (nnU-Net)."""

_TIE = 1e-5  # shares of a class that differ by less are equal: those of float32 have errors of about 1e-7


def resampled_size(size: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> tuple[int, ...]:
    """Voxels along each axis at another spacing: ``round(n · spacing / target)``, at least 1.

    A half is rounded to the even number, as nnU-Net rounds it.

    Args:
        size: voxels along each axis.
        spacing: their distance in mm.
        target: the new distance in mm.
    """
    return tuple(max(1, round(s / t * n)) for n, s, t in zip(size, spacing, target, strict=True))


def separate_axis(spacing: Sequence[float], target: Sequence[float]) -> int | None:
    """The axis along which nearest slices are taken, and slices resampled each for itself; ``None`` without such.

    It is the axis with the largest spacing, where that is more than 3 times the lowest: a spline between distant slices
    would mix anatomy that is not connected. The present spacing decides; if that is not so anisotropic, the target. Two
    axes with the largest spacing, in-plane pixels of a thin slab, are not separate.

    Args:
        spacing: present spacing in mm, ``(z, y, x)``.
        target: new spacing in mm.

    Source: Isensee et al., "nnU-Net", Nature Methods 2021, Methods, "Resampling".
    """
    for mm in (spacing, target):
        if max(mm) / min(mm) > ANISOTROPY:
            coarse = [axis for axis, s in enumerate(mm) if s == max(mm)]
            return coarse[0] if len(coarse) == 1 else None
    return None


def resample_cubic(
    image: Tensor, size: Sequence[int], *, separate: int | None = None, out: Tensor | None = None
) -> Tensor:
    """An image on a grid of another size, interpolated by cubic splines.

    A spline overshoots at edges; values are clipped to the range of the channel, or of the slice of a separate axis, as
    skimage's ``resize`` and nnU-Net clip them. An axis that keeps its length costs nothing.

    Args:
        image: ``(C, D, H, W)``, any dtype.
        size: ``(d, h, w)``, each at least 1.
        separate: the axis, 0 to 2, along which the nearest slice is taken; see :func:`separate_axis`.
        out: ``(C, d, h, w)`` float32 to write into.

    Returns:
        ``(C, d, h, w)`` float32, which is ``out`` if it was given.

    Raises:
        ValueError: when the image is no volume with voxels, or a side of the size is below 1.
    """
    _check(image.shape[1:], size)
    if out is None:
        out = image.new_empty((len(image), *size), dtype=torch.float32)
    if image.shape == out.shape:
        return out.copy_(image)
    in_plane = [axis for axis in range(3) if axis != separate]
    changed = [axis for axis in in_plane if size[axis] != image.shape[1 + axis]]
    changed.sort(key=lambda axis: size[axis] / image.shape[1 + axis])  # what shrinks comes first: less is left to do
    splines = {axis: _spline(image.shape[1 + axis], size[axis]).to(image.device) for axis in changed}
    for channel, result in zip(image, out, strict=True):
        x = channel.float()  # (D, H, W)
        if separate is not None and x.shape[separate] != size[separate]:
            x = x.index_select(separate, _nearest(x.shape[separate], size[separate]).to(x.device))
        low, high = x.amin(in_plane, True), x.amax(in_plane, True)
        for axis, spline in splines.items():
            x = _along(x, spline, axis)
        torch.clamp(x, low, high, out=result)
    return out


def resample_linear(
    values: Tensor, size: Sequence[int], *, separate: int | None = None, slices: slice = slice(None)
) -> Tensor:
    """Values such as logits on a grid of another size, interpolated linearly.

    Args:
        values: ``(K, D, H, W)``, any dtype.
        size: ``(d, h, w)``, each at least 1.
        separate: the axis, 0 to 2, along which the nearest slice is taken; see :func:`separate_axis`.
        slices: a range along the first axis of the result, where only these slices are wanted.

    Returns:
        ``(K, d, h, w)`` float32, or as many of its slices as ``slices`` has.

    Raises:
        ValueError: when the values are no volume with voxels, or a side of the size is below 1.
    """
    _check(values.shape[1:], size)
    d, h, w = size
    index, weight = (t[:, slices].to(values.device) for t in _taps(values.shape[1], d, separate == 0))
    out = values.new_empty((len(values), index.shape[1], h, w), dtype=torch.float32)
    for channel, result in zip(values, out, strict=True):
        x = channel[index[0]].float()  # (d, H, W)
        if len(index) == 2:
            x = torch.lerp(x, channel[index[1]].float(), weight[1, :, None, None])
        if separate in (1, 2):
            x = x.index_select(separate, _nearest(x.shape[separate], size[separate]).to(x.device))
        result.copy_(F.interpolate(x[None], (h, w), mode="bilinear")[0])
    return out


def resample_labels(labels: Tensor, size: Sequence[int], *, separate: int | None = None) -> Tensor:
    """Labels on a grid of another size: the class with the largest share, each interpolated linearly.

    Each class is interpolated by itself, as a mask of 0 and 1, so that no label arises between two others and void
    (255) stays void. Of classes with equal shares that of the nearest voxel wins, else the lowest id. This is nnU-Net's
    rule, up to shares that are equal but for rounding: there its rounding decides, here they are equal.

    Only where labels meet is there anything to compute; all else is the label of the nearest voxel.

    Args:
        labels: ``(D, H, W)`` integers.
        size: ``(d, h, w)``, each at least 1.
        separate: the axis, 0 to 2, along which the nearest slice is taken; see :func:`separate_axis`.

    Returns:
        Labels ``(d, h, w)`` of the same dtype, on the CPU.

    Raises:
        ValueError: when the labels are no integers or no volume with voxels, or a side of the size is below 1.
    """
    require_integers(labels)
    _check(labels.shape, size)
    labels = labels.cpu()
    if labels.shape == tuple(size):
        return labels.clone()
    (iz, wz), (iy, wy), (ix, wx) = (
        _taps(n, m, axis == separate) for axis, (n, m) in enumerate(zip(labels.shape, size, strict=True))
    )
    nz, ny, nx = (_nearest(n, m) for n, m in zip(labels.shape, size, strict=True))
    out = torch.empty(tuple(size), dtype=labels.dtype)
    for z, plane in enumerate(out):  # (h, w)
        torch.index_select(labels[nz[z]][ny], 1, nx, out=plane)
        rows = labels[iz[:, z]]  # (a, H, W)
        low, high = rows.amin(0), rows.amax(0)
        low, high = low[iy].amin(0), high[iy].amax(0)  # (h, W)
        low = low.index_select(1, ix.flatten()).view(len(low), *ix.shape).amin(1)
        high = high.index_select(1, ix.flatten()).view(len(high), *ix.shape).amax(1)
        y, x = (low != high).nonzero(as_tuple=True)  # (N,)
        found = rows[:, iy[:, None, y], ix[None, :, x]]  # (a, b, c, N)
        weight = wz[:, z, None, None, None] * wy[:, None, y] * wx[:, x]
        plane[y, x] = _largest_share(found.flatten(0, 2), weight.flatten(0, 2), plane[y, x])
    return out


def _largest_share(found: Tensor, weight: Tensor, nearest: Tensor) -> Tensor:
    """The label ``(N,)`` with the largest sum of weights among t labels ``(t, N)``, the nearest among equals."""
    share = (weight * (found == found[:, None])).sum(1)  # (t, N)
    share += 2 * _TIE * (found == nearest)
    return found.masked_fill(share < share.amax(0) - _TIE, torch.iinfo(found.dtype).max).amin(0)


def _check(shape: Sequence[int], size: Sequence[int]) -> None:
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"expected a volume (D, H, W) with voxels, got {tuple(shape)}")
    if len(size) != 3 or min(size) < 1:
        raise ValueError(f"the new size is three numbers of voxels (d, h, w), at least 1, got {tuple(size)}")


def _places(n: int, m: int) -> Tensor:
    """Where m new voxels lie among n old ones, ``(m,)`` float64 from −½ to n − ½."""
    return (torch.arange(m, dtype=torch.float64) + 0.5) * (n / m) - 0.5


def _nearest(n: int, m: int) -> Tensor:
    """The old voxel that is nearest to each new one, ``(m,)``; halfway the later one."""
    return (_places(n, m) + 0.5).floor().long().clamp(0, n - 1)


def _taps(n: int, m: int, nearest: bool) -> tuple[Tensor, Tensor]:
    """The old voxels that a new one is a mean of, and their weights, each ``(t, m)``: two, or one where that is all."""
    if nearest or n == m:
        return _nearest(n, m)[None], torch.ones(1, m)
    at = _places(n, m).clamp_(0, n - 1)
    index = torch.stack((at.floor(), (at.floor() + 1).clamp_(max=n - 1))).long()
    later = at - index[0]
    return index, torch.stack((1 - later, later)).float()


def _spline(n: int, m: int) -> Tensor:
    """The cubic spline through n values, at m places: ``(m, n)`` float32, whose columns are what unit vectors give."""
    matrix = ndimage.zoom(np.eye(n), (m / n, 1), order=3, mode="nearest", grid_mode=True)
    return torch.from_numpy(matrix.astype(np.float32))


def _along(x: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """A matrix ``(m, n)`` times each line along an axis of a volume."""
    if axis == 2:
        return x @ matrix.T
    return (matrix @ x.flatten(axis + 1)).unflatten(-1, x.shape[axis + 1 :])
