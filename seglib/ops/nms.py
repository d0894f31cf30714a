"""Non-maximum suppression: of boxes that overlap much, keep the one with the highest score."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms as torchvision_nms

from seglib.ops.boxes import box_iou

IMPLEMENTATIONS = ("torchvision", "reference")


def nms(boxes: Tensor, scores: Tensor, threshold: float, *, impl: str = "torchvision") -> Tensor:
    """Greedy NMS: take boxes by falling score, drop every later one whose IoU with a taken box exceeds ``threshold``.

    Args:
        boxes: boxes to choose from, ``(N, 4)`` xyxy.
        scores: score of each box, ``(N,)``. Of equal scores the earlier box comes first.
        threshold: IoU above which a box is dropped, in [0, 1]; at exactly this IoU it is kept.
        impl: ``"torchvision"`` runs its kernel, ``"reference"`` the loop that the book derives.

    Returns:
        ``(M,)`` int64 indices of the boxes that are kept, by falling score.

    Raises:
        ValueError: for shapes that don't match, a threshold out of range or an unknown ``impl``.
    """
    _check(boxes, scores, threshold, impl)
    if impl == "torchvision":
        return _traced_nms(boxes, scores, threshold)
    order = scores.argsort(descending=True, stable=True)  # (N,)
    kept = []
    while len(order) > 0:
        best, rest = order[0], order[1:]
        kept.append(best)
        overlap = box_iou(boxes[best, None], boxes[rest])[0]  # (rest,)
        order = rest[overlap <= threshold]
    return torch.stack(kept) if kept else order


def batched_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, *, impl: str = "torchvision"
) -> Tensor:
    """NMS within each group; boxes of different groups (classes, levels, images) don't suppress each other.

    On a GPU one pass serves all groups: each is moved to a place of its own, so that no box meets one of another group.
    The moved coordinates are float64, where adding 10⁶ pixels leaves them exact to 10⁻¹⁰; in float32 they would be
    rounded to a sixteenth of a pixel and boxes at the threshold would change sides. The CPU's kernel compares all boxes
    with all, so there many boxes go group by group.

    Args:
        boxes: boxes to choose from, ``(N, 4)`` xyxy.
        scores: score of each box, ``(N,)``.
        groups: group of each box, ``(N,)`` int64, any ids.
        threshold: IoU above which a box of the same group is dropped, in [0, 1].
        impl: ``"torchvision"`` runs its kernel, ``"reference"`` the book's loop group by group.

    Returns:
        ``(M,)`` int64 indices of the boxes that are kept, by falling score.

    Raises:
        ValueError: for shapes that don't match, a threshold out of range or an unknown ``impl``.
    """
    _check(boxes, scores, threshold, impl)
    if groups.shape != scores.shape:
        raise ValueError(f"{len(scores)} scores need as many groups, got {tuple(groups.shape)}")
    if impl == "torchvision" and (boxes.is_cuda or torch.compiler.is_compiling() or len(boxes) < 500):
        wide = boxes.double()
        # an extra number keeps the extremes defined when there is no box
        low, high = torch.cat([wide.flatten(), wide.new_zeros(1)]).aminmax()
        return _traced_nms(wide + (groups * (high - low + 1))[:, None], scores.double(), threshold)
    parts = [(groups == g).nonzero()[:, 0] for g in groups.unique()]
    kept = [part[nms(boxes[part], scores[part], threshold, impl=impl)] for part in parts]
    found = torch.cat([groups.new_zeros(0), *kept]).sort().values
    return found[scores[found].argsort(descending=True, stable=True)]


def soft_nms(boxes: Tensor, scores: Tensor, *, sigma: float = 0.5, threshold: float = 0.001) -> tuple[Tensor, Tensor]:
    """Gaussian soft-NMS: a box isn't dropped but loses score the more it overlaps the taken ones.

    After each taken box every remaining score is multiplied by exp(−IoU² / σ). Objects that overlap keep a chance.
    Source: Bodla et al., "Soft-NMS — Improving Object Detection With One Line of Code", ICCV 2017, eq. 3.

    Args:
        boxes: boxes to choose from, ``(N, 4)`` xyxy.
        scores: score of each box, ``(N,)``.
        sigma: σ, above 0; the larger, the less overlaps cost.
        threshold: score below which a box is dropped, in [0, 1).

    Returns:
        ``(M,)`` int64 indices in the order in which they were taken, and their lowered scores ``(M,)``, which fall.

    Raises:
        ValueError: for shapes that don't match or arguments out of range.
    """
    _check(boxes, scores, 0.5, "reference")
    if not sigma > 0 or not 0 <= threshold < 1:
        raise ValueError(f"soft-NMS needs sigma > 0 and threshold in [0, 1), got {sigma} and {threshold}")
    left = scores.clone()
    taken, lowered = [], []
    # every box taken changes the scores of all that remain, so the loop over boxes is the algorithm itself
    for _ in range(len(scores)):
        best = left.argmax()
        if left[best] < threshold:
            break
        taken.append(best)
        lowered.append(left[best])
        overlap = box_iou(boxes[best, None], boxes)[0]  # (N,)
        left = left * torch.exp(-(overlap**2) / sigma)
        left[best] = -1.0
    if not taken:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device), scores.new_zeros(0)
    return torch.stack(taken), torch.stack(lowered)


@torch.library.custom_op("seglib::nms", mutates_args=())
def _nms_op(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """The kernel of torchvision as an operator whose result has a fixed size: −1 fills up ``(N,)``."""
    kept = torchvision_nms(boxes, scores, threshold)
    return torch.cat([kept, kept.new_full((len(boxes) - len(kept),), -1)])


@_nms_op.register_fake
def _(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    return scores.new_empty(scores.shape, dtype=torch.int64)


def _traced_nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """The kernel of torchvision, in a form that ``torch.compile`` and ``torch.export`` can follow."""
    if not torch.compiler.is_compiling():
        return torchvision_nms(boxes, scores, threshold)
    kept = _nms_op(boxes, scores, threshold)
    return kept[kept >= 0]


def _check(boxes: Tensor, scores: Tensor, threshold: float, impl: str) -> None:
    if boxes.ndim != 2 or boxes.shape[-1] != 4 or scores.shape != boxes.shape[:1]:
        raise ValueError(
            f"NMS takes boxes (N, 4) and one score each (N,), got {tuple(boxes.shape)} and {tuple(scores.shape)}"
        )
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is an IoU in [0, 1], got {threshold}")
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl {impl!r} is unknown; choose one of {', '.join(IMPLEMENTATIONS)}")
