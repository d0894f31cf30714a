"""Which prediction answers for which object, and which predictions a loss looks at."""

from __future__ import annotations

import torch
from torch import Tensor

BACKGROUND = -1
"""The match of a box that is no object."""
IGNORE = -2
"""The match of a box between the thresholds: neither object nor background."""


def match_boxes(iou: Tensor, *, high: float, low: float, rescue: bool = False) -> Tensor:
    """The object that each box stands for, by IoU.

    A box whose best IoU is at least ``high`` takes that object, one below ``low`` is background, between them it is
    left out. An object that no box reaches would be lost: ``rescue`` also gives the boxes with the highest IoU that an
    object has to the object that these boxes overlap most, as the published detectors do. (There, an object that
    touches no box at all makes every box a match; here it stays without one.)

    Source: Ren et al., "Faster R-CNN", section 3.1.2.

    Args:
        iou: ``(M, N)`` of M objects with N boxes. M may be 0.
        high: in (0, 1].
        low: in [0, high].
        rescue: see above.

    Returns:
        ``(N,)`` int64: the index of the object, −1 for background, −2 for boxes to ignore.

    Raises:
        ValueError: when the thresholds are out of range.
    """
    if not 0 <= low <= high <= 1 or high == 0:
        raise ValueError(f"matching needs 0 <= low <= high <= 1 and high > 0, got low {low} and high {high}")
    objects, count = iou.shape
    if objects == 0:
        return torch.full((count,), BACKGROUND, device=iou.device)
    best, index = iou.max(0)  # (N,)
    matches = torch.where(best >= high, index, torch.where(best < low, BACKGROUND, IGNORE))
    if rescue:
        highest = iou.amax(1, keepdim=True)  # (M, 1)
        lifted = ((iou == highest) & (highest > 0)).any(0)  # (N,)
        matches = torch.where(lifted, index, matches)
    return matches


def sample_balanced(matches: Tensor, count: int, positive: float) -> Tensor:
    """A random choice of at most ``count`` boxes of which at most the share ``positive`` are objects.

    Where objects are too few, background fills up. Draws from torch's generator.

    Args:
        matches: ``(N,)`` of :func:`match_boxes`.
        count: at least 1.
        positive: in [0, 1].

    Returns:
        ``(S,)`` int64 indices: first those of objects, then background.
    """
    objects, background = (matches >= 0).nonzero()[:, 0], (matches == BACKGROUND).nonzero()[:, 0]
    take = min(int(count * positive), len(objects))
    objects = objects[torch.randperm(len(objects), device=matches.device)[:take]]
    background = background[torch.randperm(len(background), device=matches.device)[: count - take]]
    return torch.cat([objects, background])
