"""Maps read at single points: bilinear samples, and the points at which a loss is worth its memory.

Points are ``(x, y)`` in [0, 1] of a map's width and height, so that one set of points reads maps of any resolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.ops.deform_attn import deformable_attention
from seglib.ops.precision import at_least_float32


def sample_at_points(maps: Tensor, points: Tensor) -> Tensor:
    """The maps between their cells: bilinear samples at points.

    The centre of the cell in column j and row i is ((j + ½) / W, (i + ½) / H). What lies beyond the border counts as
    0, so a sample within half a cell of it fades. Samples of masks are fractional where an edge runs between cells.
    Computes in float32 at least.

    Args:
        maps: maps or masks, ``(N, C, H, W)`` of any type.
        points: points on each of the N, ``(N, P, 2)`` xy in [0, 1].

    Returns:
        ``(N, C, P)``, float32 or float64. Gradients reach maps and points.

    Raises:
        ValueError: when shapes don't fit.
    """
    if maps.ndim != 4 or points.ndim != 3 or points.shape[2] != 2 or len(maps) != len(points):
        raise ValueError(
            f"maps (N, C, H, W) need points (N, P, 2) of the same N, got {tuple(maps.shape)} and {tuple(points.shape)}"
        )
    maps, points = at_least_float32(maps), at_least_float32(points)
    dtype = torch.promote_types(maps.dtype, points.dtype)
    grid = 2 * points[:, :, None].to(dtype) - 1  # (N, P, 1, 2) in [-1, 1]
    return F.grid_sample(maps.to(dtype), grid, padding_mode="zeros", align_corners=False)[..., 0]


def features_at_points(features: Tensor, points: Tensor) -> Tensor:
    """What :func:`sample_at_points` gives, channels last; five times as fast for hundreds of channels.

    The channels of a cell lie side by side here, so that a sample reads four rows in place of four numbers a channel.

    Args:
        features: feature map of one image, ``(C, H, W)``.
        points: points on it, ``(P, 2)`` xy in [0, 1].

    Returns:
        ``(P, C)``.
    """
    value = features.flatten(1).mT[None, :, None]  # (1, H·W, 1, C): one head whose every token looks at one point
    locations, weights = points[None, :, None, None, None], points.new_ones(1, len(points), 1, 1, 1)
    shape = (features.shape[1], features.shape[2])
    return deformable_attention(value, [shape], locations, weights)[0]


def uniform_points(n: int, count: int, device: torch.device | str | None = None) -> Tensor:
    """Points drawn uniformly from [0, 1)², ``(n, count, 2)`` float32, from torch's generator."""
    return torch.rand(n, count, 2, device=device)


@torch.no_grad()
def uncertain_points(
    logits_at: Callable[[Tensor], Tensor],
    n: int,
    count: int,
    *,
    oversample: float = 3.0,
    share: float = 0.75,
    device: torch.device | str | None = None,
    known_at: Callable[[Tensor], Tensor] | None = None,
    uniform: Callable[[int, int, torch.device | str | None], Tensor] = uniform_points,
) -> Tensor:
    """Random points, most of them where a mask is uncertain: where its logit is near 0.

    Of ⌊oversample · P⌋ uniform candidates the ⌊share · P⌋ whose logits are nearest to 0 are kept; uniform points fill
    up to P. Source: Kirillov et al., "PointRend", CVPR 2020, section 3.1, "Training". The paper has no void: here
    candidates that touch it are taken only when no others are left, because they train nothing.

    Args:
        logits_at: gives the mask logits ``(n, P')`` at points ``(n, P', 2)``. No gradient flows through the choice.
        n: number of masks; may be 0.
        count: number of points P of each mask.
        oversample: candidates per point, at least 1.
        share: share of points that are chosen by uncertainty, in [0, 1].
        device: device of the points.
        known_at: gives ``(n, P')`` at points: 1 where the truth is known, less where void or padding plays a part.
            Sample the map of void and subtract it from 1: samples of the map of known pixels fade at the border.
        uniform: source of random points, ``(n, count, device)`` → ``(n, count, 2)``, called for the candidates and
            then for the rest.

    Returns:
        ``(n, P, 2)`` xy in [0, 1]: the most uncertain first, the uniform ones last.

    Raises:
        ValueError: for a setting out of range.
    """
    if count < 0 or not (1 <= oversample < math.inf and 0 <= share <= 1):
        raise ValueError(
            "uncertain_points takes count of at least 0, a finite oversample of at least 1 and share in [0, 1], "
            f"got {count}, {oversample} and {share}"
        )
    kept = int(share * count)
    candidates = uniform(n, int(oversample * count), device)  # (n, P', 2)
    certainty = at_least_float32(logits_at(candidates)).abs()  # (n, P')
    if known_at is not None:
        certainty = torch.where(known_at(candidates) < 1, math.inf, certainty)
    chosen = certainty.topk(kept, largest=False).indices[..., None].expand(-1, -1, 2)  # (n, kept, 2)
    return torch.cat([candidates.gather(1, chosen), uniform(n, count - kept, device)], 1)
