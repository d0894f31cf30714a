"""How well boundaries agree: Boundary IoU and the boundary F1 score.

A region's IoU hardly notices its outline: the band that a blurred outline gets wrong grows with the perimeter, the
region with the area. Both scores look at the band along the outline only.

- Boundary IoU (Cheng et al., *Boundary IoU: Improving Object-Centric Image Segmentation Evaluation*, CVPR 2021,
  section 4): the IoU of the two regions, each cut down to its pixels within d of its own contour.
- Boundary F1 (Csurka et al., *What is a good evaluation measure for semantic segmentation?*, BMVC 2013, section 2.2):
  how much of either contour lies within a tolerance of the other.

Neither needs a mask per class. A pixel lies in the band of its own class exactly when another label occurs in the
square around it, so one maximum and one minimum filter over the label map give the bands of all K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from seglib.metrics.confusion import confusion
from seglib.metrics.streaming import StreamingCounts
from seglib.ops.labels import check_labels, require_integers
from seglib.types import VOID, Category

_NONE = -1  # void, or no contour: a label that no class has


def boundary_width(height: int, width: int, dilation_ratio: float = 0.02) -> int:
    """The d of Boundary IoU in pixels: ``dilation_ratio`` of the image diagonal, rounded, at least 1.

    Raises:
        ValueError: when the ratio isn't positive.
    """
    if not dilation_ratio > 0:
        raise ValueError(f"dilation_ratio is a positive share of the image diagonal, got {dilation_ratio}; try 0.02")
    return max(1, round(dilation_ratio * math.hypot(height, width)))


def boundary_region(mask: Tensor, width: int | None = None) -> Tensor:
    """The pixels of a mask within ``width`` pixels of its contour: the mask minus its erosion.

    The structuring element is the square of side 2·width + 1 (distances are Chebyshev's). Eroding ``width`` times by
    3×3, as the authors' code does, is the same thing. Beyond the image border is outside of every mask, so a mask
    that touches the border has a contour there.

    Args:
        mask: one mask or more, ``(…, H, W)`` bool.
        width: width of the band in pixels, at least 1; ``None`` takes that of :func:`boundary_width`.

    Returns:
        ``(…, H, W)`` bool.

    Raises:
        ValueError: when the mask isn't bool or the width isn't positive.
    """
    if mask.dtype != torch.bool or mask.ndim < 2:
        raise ValueError(f"a mask is bool (…, H, W), got {mask.dtype} {tuple(mask.shape)}; compare labels with a class")
    height, length = mask.shape[-2:]
    width = boundary_width(height, length) if width is None else width
    if width < 1:
        raise ValueError(f"the width of a boundary is at least 1 pixel, got {width}")
    if mask.numel() == 0:
        return mask.clone()
    width = min(width, max(height, length))  # wider reaches nothing more
    outside = F.pad((~mask).byte(), [width] * 4, value=1)  # (…, H + 2d, W + 2d)
    return mask & _window_max(outside, width).bool()


def _window_max(x: Tensor, radius: int) -> Tensor:
    """The largest value in the square of side 2r + 1 around every pixel: ``(…, H + 2r, W + 2r)`` to ``(…, H, W)``.

    Two windows of n pixels side by side or overlapping make one of up to 2n, so a side takes about log2(2r + 1)
    maxima. A max pooling layer of that kernel size would compare every pixel with all its neighbours.
    """
    full = 2 * radius + 1
    for dim in (-2, -1):
        size = 1
        while size < full:
            step = min(size, full - size)
            keep = x.shape[dim] - step
            x = torch.maximum(x.narrow(dim, 0, keep), x.narrow(dim, step, keep))
            size += step
    return x


def _near_another(labels: Tensor, radius: int, *, border: bool) -> Tensor:
    """Where another label lies within ``radius`` (Chebyshev). ``(B, H, W)`` labels, void is −1, to bool ``(B, H, W)``.

    Void is no label: it neither has a contour nor gives one to its neighbours. ``border`` tells whether beyond the
    image border counts as another label.
    """
    radius = min(radius, max(labels.shape[-2:]))
    top = torch.iinfo(labels.dtype).max
    around = [radius] * 4
    highest = _window_max(F.pad(labels, around, value=top if border else _NONE), radius)  # (B, H, W)
    negated = torch.where(labels == _NONE, -top, -labels)  # (B, H, W): void must not become the lowest label
    lowest = -_window_max(F.pad(negated, around, value=-top), radius)  # (B, H, W)
    return (labels != _NONE) & ((highest != labels) | (lowest != labels))


def _label_maps(pred: Tensor, target: Tensor, num_classes: int, ignore_index: int | None) -> tuple[Tensor, Tensor]:
    """Both maps as ``(B, H, W)`` int16 (int32 for very many classes), −1 in both where the target is void."""
    if pred.shape != target.shape or pred.ndim not in (2, 3):
        raise ValueError(
            f"prediction and target are both (H, W) or (B, H, W), got {tuple(pred.shape)} and {tuple(target.shape)}; "
            "resize the logits to the target's size before the argmax"
        )
    require_integers(pred, "predicted label")
    check_labels(target, num_classes, ignore_index, name="target label")
    pred, target = pred.long(), target.long()
    void = torch.zeros_like(target, dtype=torch.bool) if ignore_index is None else target == ignore_index
    check_labels(pred.masked_fill(void, 0), num_classes, name="predicted label")
    small = torch.int16 if num_classes < torch.iinfo(torch.int16).max else torch.int32  # the filters are memory-bound
    maps = [m.masked_fill(void, _NONE).to(small) for m in (pred, target)]  # (H, W) or (B, H, W)
    maps = [m if m.ndim == 3 else m[None] for m in maps]  # (B, H, W)
    return maps[0], maps[1]


def _count(labels: Tensor, where: Tensor, num_classes: int) -> Tensor:
    """How many pixels of ``where`` have each label: ``(K,)`` int64."""
    moved = labels.masked_fill(~where, num_classes)  # counting the rest as class K is faster than gathering ``where``
    return torch.bincount(moved.flatten(), minlength=num_classes + 1)[:num_classes]


@dataclass(frozen=True)
class BoundaryScores:
    """Boundary IoU per class, float64.

    Attributes:
        iou: Boundary IoU per class, ``(K,)``, NaN where a class is in neither map.
        miou: mean Boundary IoU over present classes; NaN without any.
        present: ``(K,)`` bool, whether a class is in the target or the prediction.
    """

    iou: Tensor
    miou: float
    present: Tensor


class BoundaryIoU(StreamingCounts):
    r"""Boundary IoU of a dataset of label maps, added up batch by batch.

    For the regions G_d and P_d of a class within d of their own contours, summed over images,

    .. math:: \text{Boundary IoU} = \frac{\sum |G_d \cap P_d|}{\sum |G_d \cup P_d|}

    Conventions: d is ``dilation_ratio`` of the diagonal of the maps as given, so pass images one by one when they
    were padded. The border of the image is a contour. Void has none: where the target is void the prediction is
    taken out too, so a prediction that is right on every labelled pixel scores 1. The paper scores instances, takes
    the smaller of mask and boundary IoU for Boundary AP, and doesn't treat void; here classes are scored over a
    dataset as in mIoU.

    Args:
        classes: the number of classes K, or the class table.
        ignore_index: the id of void in targets; ``None`` when every pixel counts.
        dilation_ratio: d as a share of the image diagonal.

    Attributes:
        counts: ``(3, K)`` int64 on the CPU: pixels in both bands, in the target's, in the prediction's.
    """

    def __init__(
        self,
        classes: int | Sequence[Category],
        ignore_index: int | None = VOID,
        *,
        dilation_ratio: float = 0.02,
    ) -> None:
        super().__init__(classes, ignore_index, rows=3)
        boundary_width(1, 1, dilation_ratio)  # raises now rather than at the first update
        self.dilation_ratio = dilation_ratio

    @property
    def settings(self) -> dict[str, object]:
        """What must agree for two tables to count the same thing."""
        return {**super().settings, "dilation_ratio": self.dilation_ratio}

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Count the boundary pixels of one image or batch.

        Args:
            pred: ``(H, W)`` or ``(B, H, W)`` predicted class ids, integers of any type.
            target: true class ids, the same shape.

        Raises:
            ValueError: when shapes differ or a label is neither a class nor void.
        """
        pred, target = _label_maps(pred, target, self.num_classes, self.ignore_index)  # (B, H, W)
        width = boundary_width(target.shape[-2], target.shape[-1], self.dilation_ratio)
        if target.numel() == 0:
            return
        k = self.num_classes
        p, t = (m.masked_fill(~_near_another(m, width, border=True), k) for m in (pred, target))  # K: in no band
        n = confusion(p, t, k + 1, None)  # (K + 1, K + 1)
        self._add(torch.stack([n.diag(), n.sum(1), n.sum(0)])[:, :k])  # (3, K)

    def compute(self) -> BoundaryScores:
        """The scores of everything counted so far."""
        both, in_target, in_pred = self.counts.double()  # (K,) each
        union = in_target + in_pred - both  # (K,)
        iou = torch.where(union > 0, both / union, torch.nan)  # (K,)
        return BoundaryScores(iou, float(iou.nanmean()), union > 0)


def boundary_iou(
    pred: Tensor,
    target: Tensor,
    num_classes: int,
    *,
    dilation_ratio: float = 0.02,
    ignore_index: int | None = VOID,
) -> Tensor:
    """Boundary IoU per class of one image or batch; :class:`BoundaryIoU` states the formula and the conventions.

    Args:
        pred: ``(H, W)`` or ``(B, H, W)`` predicted class ids, integers of any type.
        target: true class ids, the same shape.
        num_classes: K, the number of classes.
        dilation_ratio: the width of the band as a share of the image diagonal.
        ignore_index: the id of void in ``target``; ``None`` when there is none.

    Returns:
        ``(K,)`` float64 in [0, 1], NaN where a class is in neither map.

    Raises:
        ValueError: when shapes differ, a label is neither a class nor void, or the ratio isn't positive.
    """
    metric = BoundaryIoU(num_classes, ignore_index, dilation_ratio=dilation_ratio)
    metric.update(pred, target)
    return metric.compute().iou


@dataclass(frozen=True)
class BoundaryF1:
    """Precision, recall and F1 of contours per class, float64 in [0, 1].

    Attributes:
        precision: ``(K,)`` the share of predicted contour pixels that lie near the true contour, NaN without any.
        recall: ``(K,)`` the share of true contour pixels that lie near the predicted contour, NaN without any.
        f1: ``(K,)`` 2PR / (P + R); 0 when only one map has a contour of the class, NaN when neither has.
        mean_f1: the mean of ``f1`` over present classes; NaN without any.
        present: ``(K,)`` bool, whether a class has a contour in the target or the prediction.
    """

    precision: Tensor
    recall: Tensor
    f1: Tensor
    mean_f1: float
    present: Tensor


def boundary_f1(
    pred: Tensor,
    target: Tensor,
    num_classes: int,
    *,
    tolerance: float = 2,
    ignore_index: int | None = VOID,
) -> BoundaryF1:
    """How much of the contours of two label maps lies within ``tolerance`` of the other's contour of the same class.

    The contour of a class is its pixels with another class among their 8 neighbours. Distances are Euclidean between
    pixel centres, and "within" includes the tolerance itself. Two things differ from :func:`boundary_iou`: the image
    border is no contour, since every prediction that reaches it would match there for free, and void borders are
    none in both. A batch pools the contour pixels of its images. Csurka et al. average F1 over images and use a
    tolerance of 0.75% of the diagonal: call this per image for their number.

    Args:
        pred: ``(H, W)`` or ``(B, H, W)`` predicted class ids, integers of any type.
        target: true class ids, the same shape.
        num_classes: K, the number of classes.
        tolerance: how far a matching contour pixel may lie, in pixels, at least 0. The time grows with its square.
        ignore_index: the id of void in ``target``; ``None`` when there is none.

    Raises:
        ValueError: when shapes differ, a label is neither a class nor void, or the tolerance is negative.
    """
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"the tolerance is a distance in pixels, got {tolerance}; pass 0 or more")
    pred, target = _label_maps(pred, target, num_classes, ignore_index)  # (B, H, W)
    if target.numel() == 0:
        sizes = torch.zeros(4, num_classes, dtype=torch.float64)
    else:
        p = pred.masked_fill(~_near_another(pred, 1, border=False), _NONE)  # (B, H, W): class on its contour, else −1
        t = target.masked_fill(~_near_another(target, 1, border=False), _NONE)  # (B, H, W)
        found = [(p, p >= 0), (p, _same_within(p, t, tolerance)), (t, t >= 0), (t, _same_within(t, p, tolerance))]
        sizes = torch.stack([_count(labels, where, num_classes) for labels, where in found]).cpu().double()  # (4, K)
    precision, recall = sizes[1] / sizes[0], sizes[3] / sizes[2]  # (K,) each, 0 / 0 is NaN
    present = sizes[0] + sizes[2] > 0
    hits, sides = precision * recall, precision + recall
    f1 = torch.where(sides > 0, 2 * hits / sides, 0.0)  # (K,): no match, or a contour on one side only
    f1 = torch.where(present, f1, torch.nan)
    return BoundaryF1(precision, recall, f1, float(f1.nanmean()), present)


def _same_within(a: Tensor, b: Tensor, distance: float) -> Tensor:
    """Where a contour pixel of ``a`` has one of the same class in ``b`` within a disc: ``(B, H, W)`` bool."""
    height, width = a.shape[-2:]
    r = min(int(distance), max(height, width))
    padded = F.pad(b, [r] * 4, value=_NONE)  # (B, H + 2r, W + 2r)
    near = torch.zeros_like(a, dtype=torch.bool)
    for dy in range(-r, r + 1):
        for dx in range(-r, r + 1):
            if dy * dy + dx * dx <= distance * distance:
                near |= a == padded[:, r + dy : r + dy + height, r + dx : r + dx + width]
    return near & (a != _NONE)
