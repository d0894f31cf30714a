"""Which prediction answers for which object, and which predictions a loss looks at."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from seglib.ops.boxes import box_area

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


def match_anchors(iou: Tensor, *, foreground_iou: float, background_iou: float) -> Tensor:
    """The object that each anchor stands for, by two thresholds, and one anchor forced for every object.

    First as in :func:`match_boxes`; then every object gets an anchor of its own, whatever their IoU: of all pairs that
    are left the one with the highest IoU is taken, then neither is free any more, and so on. Two objects that like the
    same anchor best thus get one each, where low-quality matches would give it to one of them. An object that touches
    no free anchor stays without.

    A pair that is the best of both its object and its anchor is taken before any pair that it competes with, so all
    such pairs are taken at once. That needs as many rounds as objects push each other aside, one or two as a rule, not
    one for each object.

    Source: Liu et al., "SSD", ECCV 2016, section 2.2; greedy over pairs in YOLACT's code.

    Args:
        iou: IoU of M objects with N anchors, ``(M, N)``. M may be 0.
        foreground_iou: IoU threshold from which an anchor takes an object, in (0, 1].
        background_iou: IoU threshold below which an anchor is background, in [0, foreground_iou].

    Returns:
        ``(N,)`` int64: the index of the object, −1 for background, −2 for anchors to ignore.

    Raises:
        ValueError: when the thresholds are out of range.
    """
    matches = match_boxes(iou, foreground_iou=foreground_iou, background_iou=background_iou)
    if iou.numel() == 0:
        return matches
    free = iou.clone()  # (M, N), 0 where object or anchor is taken
    objects = torch.arange(len(iou), device=iou.device)
    while True:
        highest, anchor = free.max(1)  # (M,) what each object likes best
        taken = (free[:, anchor].argmax(0) == objects) & (highest > 0)  # (M,) and whether it is liked back
        if not bool(taken.any()):
            return matches
        matches[anchor[taken]] = objects[taken]
        free[taken] = 0
        free[:, anchor[taken]] = 0


def ignore_crowds(matches: Tensor, anchors: Tensor, crowds: Tensor, share: float = 0.7) -> Tensor:
    """The matches, with background that lies in a crowd left out: there may well be an object.

    Args:
        matches: match of each anchor, ``(N,)`` as :func:`match_anchors` returns them.
        anchors: anchors ``(N, 4)`` xyxy.
        crowds: boxes ``(C, 4)`` xyxy around crowds. C may be 0.
        share: the share of its area beyond which an anchor lies in a crowd, in [0, 1].

    Returns:
        ``(N,)`` int64: −2 where background lies in a crowd, else as before.
    """
    low, high = torch.maximum(anchors[:, None, :2], crowds[:, :2]), torch.minimum(anchors[:, None, 2:], crowds[:, 2:])
    inside = (high - low).clamp(min=0).prod(-1) > share * box_area(anchors)[:, None]  # (N, C)
    return torch.where((matches == BACKGROUND) & inside.any(1), IGNORE, matches)


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
