"""Which prediction answers for which object, and which predictions a loss looks at."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

BACKGROUND = -1
"""The match of a box that is no object."""
IGNORE = -2
"""The match of a box between the thresholds: neither object nor background."""


def match_boxes(
    iou: Tensor, *, foreground_iou: float, background_iou: float, allow_low_quality_matches: bool = False
) -> Tensor:
    """The object that each box stands for, by two thresholds on the IoU.

    A box whose best IoU is at least the foreground threshold takes that object, one below the background threshold is
    background, and one between them is left out. An object that no box reaches would be lost: low-quality matches also
    give the boxes with the highest IoU that an object has to the object that these boxes overlap most, as the published
    detectors do. (There, an object that touches no box at all makes every box a match; here it stays without one.)

    Source: Ren et al., "Faster R-CNN", section 3.1.2.

    Args:
        iou: IoU of M objects with N boxes, ``(M, N)``. M may be 0.
        foreground_iou: IoU threshold from which a box takes an object, in (0, 1].
        background_iou: IoU threshold below which a box is background, in [0, foreground_iou].
        allow_low_quality_matches: whether to give every object that touches a box its best boxes, however low their
            IoU.

    Returns:
        ``(N,)`` int64: the index of the object, −1 for background, −2 for boxes to ignore.

    Raises:
        ValueError: when the thresholds are out of range.
    """
    if not 0 <= background_iou <= foreground_iou <= 1 or foreground_iou == 0:
        raise ValueError(
            "matching needs 0 <= background_iou <= foreground_iou <= 1 and foreground_iou > 0, got background_iou "
            f"{background_iou} and foreground_iou {foreground_iou}"
        )
    objects, count = iou.shape
    if objects == 0:
        return torch.full((count,), BACKGROUND, device=iou.device)
    best, index = iou.max(0)  # (N,)
    matches = torch.where(best >= foreground_iou, index, torch.where(best < background_iou, BACKGROUND, IGNORE))
    if allow_low_quality_matches:
        highest = iou.amax(1, keepdim=True)  # (M, 1)
        lifted = ((iou == highest) & (highest > 0)).any(0)  # (N,)
        matches = torch.where(lifted, index, matches)
    return matches


class Sampler(Protocol):
    """Which boxes of one image a loss looks at; :func:`sample_balanced` is one. Called for image after image."""

    def __call__(self, matches: Tensor, batch_size: int, positive_fraction: float) -> Tensor:
        """Matches ``(N,)`` of :func:`match_boxes` → indices ``(S,)`` int64 of at most ``batch_size`` boxes."""


def sample_balanced(matches: Tensor, batch_size: int, positive_fraction: float) -> Tensor:
    """A random choice of boxes, of which no more than a fraction is foreground.

    Where foreground is too little, background takes its place. Draws from torch's generator.

    Args:
        matches: match of each box, ``(N,)`` as :func:`match_boxes` returns them.
        batch_size: largest number of boxes that are chosen, at least 1.
        positive_fraction: largest share of foreground among the chosen boxes, in [0, 1].

    Returns:
        ``(S,)`` int64 indices: first foreground, then background.
    """
    foreground, background = (matches >= 0).nonzero()[:, 0], (matches == BACKGROUND).nonzero()[:, 0]
    take = min(int(batch_size * positive_fraction), len(foreground))
    foreground = foreground[torch.randperm(len(foreground), device=matches.device)[:take]]
    background = background[torch.randperm(len(background), device=matches.device)[: batch_size - take]]
    return torch.cat([foreground, background])
