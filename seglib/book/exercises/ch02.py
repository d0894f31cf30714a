"""The exercises of chapter 2, "Measuring segmentation"."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.book.exercise import Exercise
from seglib.metrics.boundary import boundary_region
from seglib.metrics.confusion import confusion
from seglib.types import VOID

NAN = float("nan")


# Everywhere class 0 ---------------------------------------------------------------------------------------------------

EVERYWHERE = Exercise(
    solution=(0.70, 0.175),
    wrong={
        "only_the_predicted_class": (
            (0.70, 0.70),
            "The accuracy is right. The mean runs over all four classes; the three that are never said have IoU 0.",
        ),
        "mean_recall": (
            (0.70, 0.25),
            "The accuracy is right. (1 + 0 + 0 + 0)/4 is the mean recall: the union of class 0 also holds the pixels "
            "of the other classes, which are all predicted as 0.",
        ),
        "percent": ((70.0, 17.5), "Right, but as percentages: give fractions between 0 and 1."),
        "swapped": ((0.175, 0.70), "The two numbers are swapped: accuracy comes first."),
        "accuracy_per_class": (
            (0.25, 0.175),
            "The mIoU is right. Accuracy counts pixels, not classes: which share of the pixels is labelled right?",
        ),
    },
    hint="Two numbers, accuracy first. Accuracy is the share of class 0. For the mIoU write down intersection and "
    "union of each class.",
    tolerance=5e-4,
)


# Mean IoU from Dice scores --------------------------------------------------------------------------------------------


def mean_iou_from_dice(dices: Tensor) -> Tensor:
    """The mean IoU of masks whose Dice scores ``(N,)`` are known."""
    return (dices / (2 - dices)).mean()


def _dice_lists() -> Mapping[str, tuple[Tensor]]:
    return {
        "[1.0, 0.6]": (torch.tensor([1.0, 0.6]),),
        "[0.9, 0.5, 0.1]": (torch.tensor([0.9, 0.5, 0.1]),),
        "[0.8]": (torch.tensor([0.8]),),
    }


MEAN_IOU_FROM_DICE = Exercise(
    solution=mean_iou_from_dice,
    wrong={
        "convert_the_mean": (
            lambda d: d.mean() / (2 - d.mean()),
            "You convert the mean. The relation is a curve and holds mask by mask: convert first, then take the mean.",
        ),
        "inverted": (
            lambda d: (2 * d / (1 + d)).mean(),
            "That is Dice from IoU. Solve D = 2J/(1 + J) for J; IoU is never above Dice.",
        ),
        "half": (
            lambda d: (d / 2).mean(),
            "Half the Dice is the IoU of nearly disjoint masks only; at D = 1 it is 1. Solve D = 2J/(1 + J) for J.",
        ),
        "sign": (
            lambda d: (d / (2 + d)).mean(),
            "Check the sign in the denominator: at D = 1 the IoU must be 1.",
        ),
        "per_score": (lambda d: d / (2 - d), "The conversion is right; the mean over the scores is missing."),
        "sum": (lambda d: (d / (2 - d)).sum(), "The conversion is right, but you return the sum, not the mean."),
        "not_converted": (lambda d: d.mean(), "That is the mean Dice. Convert each score to IoU first."),
        "wrong_denominator": (
            lambda d: (d / (1 + d)).mean(),
            "Check your formula at D = 1: the IoU must be 1 there. Solve D = 2J/(1 + J) for J.",
        ),
        "numerator": (
            lambda d: (2 * d / (2 - d)).mean(),
            "One factor 2 too many: check your formula at D = 1, where the IoU must be 1.",
        ),
    },
    probes=_dice_lists,
    hint="Solve D = 2J/(1 + J) for J, convert each score, then take the mean.",
)


# IoU of every class ---------------------------------------------------------------------------------------------------


def iou_per_class(pred: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """IoU ``(K,)`` of label maps ``(H, W)``: void pixels of the target do not count, absent classes are NaN."""
    m = confusion(pred, target, num_classes).double()  # (K, K)
    inter = m.diagonal()  # (K,)
    return inter / (m.sum(0) + m.sum(1) - inter)


def _sets(pred: Tensor, target: Tensor, k: int, skip_void: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Intersection, predicted area and true area of every class, each ``(K,)``."""
    keep = target != VOID if skip_void else torch.ones_like(target, dtype=torch.bool)
    p = torch.stack([(pred == c) & keep for c in range(k)]).flatten(1)  # (K, H·W)
    t = torch.stack([target == c for c in range(k)]).flatten(1)  # (K, H·W)
    return (p & t).sum(1).double(), p.sum(1).double(), t.sum(1).double()


def _iou_void_counted(pred: Tensor, target: Tensor, k: int) -> Tensor:
    inter, p, t = _sets(pred, target, k, skip_void=False)
    return inter / (p + t - inter)


def _iou_absent_zero(pred: Tensor, target: Tensor, k: int) -> Tensor:
    return iou_per_class(pred, target, k).nan_to_num(0.0)


def _iou_absent_one(pred: Tensor, target: Tensor, k: int) -> Tensor:
    return iou_per_class(pred, target, k).nan_to_num(1.0)


def _iou_sum_for_union(pred: Tensor, target: Tensor, k: int) -> Tensor:
    inter, p, t = _sets(pred, target, k)
    return inter / (p + t)


def _iou_dice(pred: Tensor, target: Tensor, k: int) -> Tensor:
    inter, p, t = _sets(pred, target, k)
    return 2 * inter / (p + t)


def _iou_recall(pred: Tensor, target: Tensor, k: int) -> Tensor:
    inter, _, t = _sets(pred, target, k)
    return inter / t


def _iou_precision(pred: Tensor, target: Tensor, k: int) -> Tensor:
    inter, p, _ = _sets(pred, target, k)
    return inter / p


def _iou_void_is_class_0(pred: Tensor, target: Tensor, k: int) -> Tensor:
    void = target == VOID
    return iou_per_class(pred.masked_fill(void, 0), target.masked_fill(void, 0), k)


def _iou_errors_for_union(pred: Tensor, target: Tensor, k: int) -> Tensor:
    inter, p, t = _sets(pred, target, k)
    return inter / (p + t - 2 * inter)


def _iou_mean_with_zeros(pred: Tensor, target: Tensor, k: int) -> Tensor:
    return _iou_absent_zero(pred, target, k).mean()


def _iou_mean(pred: Tensor, target: Tensor, k: int) -> Tensor:
    return iou_per_class(pred, target, k).nanmean()


def _label_maps() -> Mapping[str, tuple[Tensor, Tensor, int]]:
    g = torch.Generator().manual_seed(2)
    target = torch.randint(0, 3, (6, 7), generator=g)  # (H, W)
    pred = torch.where(torch.rand(6, 7, generator=g) < 0.7, target, torch.randint(0, 4, (6, 7), generator=g))
    with_void = target.clone()
    with_void[:2, 3:] = VOID
    return {
        "maps without void": (pred, target, 4),
        "maps with void pixels": (pred, with_void, 4),
        "maps where class 4 is in neither": (pred, target, 5),
    }


IOU_PER_CLASS = Exercise(
    solution=iou_per_class,
    wrong={
        "void_counted": (
            _iou_void_counted,
            "Void pixels count in your unions: what is predicted where the target is 255 becomes a false positive. "
            "Leave these pixels out first.",
        ),
        "absent_zero": (
            _iou_absent_zero,
            "A class that is in neither map has no IoU: 0/0 is NaN, not 0. A zero would lower the mean for nothing.",
        ),
        "absent_one": (
            _iou_absent_one,
            "A class that is in neither map has no IoU: 0/0 is NaN, not 1. A one would lift the mean for nothing.",
        ),
        "sum_for_union": (
            _iou_sum_for_union,
            "You divide by |P| + |T|, which counts the intersection twice: the union is |P| + |T| − |P ∩ T|.",
        ),
        "dice": (_iou_dice, "That is Dice, 2|P ∩ T|/(|P| + |T|). IoU divides |P ∩ T| by the union."),
        "recall": (_iou_recall, "You divide by the target's area alone: that is recall, blind to false positives."),
        "precision": (
            _iou_precision,
            "You divide by the predicted area alone: that is precision, blind to what was missed.",
        ),
        "mean": (_iou_mean, "You return the mean; one value for every class, shape (K,), is wanted."),
        "mean_with_zeros": (
            _iou_mean_with_zeros,
            "You return the mean, with 0 for absent classes. One value for every class, shape (K,), is wanted, and "
            "NaN where the class is in neither map.",
        ),
        "void_is_class_0": (
            _iou_void_is_class_0,
            "You set void pixels to 0, but 0 is a class: they become hits of class 0. Leave them out of both masks.",
        ),
        "errors_for_union": (
            _iou_errors_for_union,
            "You divide by the pixels that are in one mask only. The union also holds those that are in both.",
        ),
    },
    probes=_label_maps,
    hint="For each class divide the pixels in both masks by the pixels in at least one, void pixels left out.",
)


# Labels to another size -----------------------------------------------------------------------------------------------


def resize_labels(labels: Tensor, height: int, width: int) -> Tensor:
    """``(H, W)`` int64 → ``(height, width)`` int64: each pixel takes the label that lies at its centre."""
    resized = F.interpolate(labels[None, None].double(), size=(height, width), mode="nearest-exact")
    return resized[0, 0].long()


def _resize(labels: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    corners = None if mode.startswith("nearest") else False
    return F.interpolate(labels[None, None].double(), size=size, mode=mode, align_corners=corners)[0, 0]


def _resize_corners(labels: Tensor, height: int, width: int) -> Tensor:
    rows = torch.linspace(0, labels.shape[0] - 1, height).round().long()
    columns = torch.linspace(0, labels.shape[1] - 1, width).round().long()
    return labels[rows][:, columns]


def _ramps() -> Mapping[str, tuple[Tensor, int, int]]:
    g = torch.Generator().manual_seed(4)
    labels = torch.randint(0, 6, (8, 12), generator=g)  # (H, W)
    labels[5:, 8:] = VOID
    return {
        "8 × 12 to 4 × 6": (labels, 4, 6),
        "8 × 12 to 16 × 36": (labels, 16, 36),
        "8 × 12 to 5 × 7": (labels, 5, 7),
    }


RESIZE_LABELS = Exercise(
    solution=resize_labels,
    wrong={
        "bilinear": (
            lambda x, h, w: _resize(x, (h, w), "bilinear").round().long(),
            "Your map holds ids that are means of its neighbours' ids: labels are names, they cannot be averaged. "
            "Take the nearest one.",
        ),
        "bilinear_not_rounded": (
            lambda x, h, w: _resize(x, (h, w), "bilinear"),
            "Your map holds fractions between ids: labels are names, they cannot be averaged. Take the nearest one.",
        ),
        "half_pixel": (
            lambda x, h, w: _resize(x, (h, w), "nearest").long(),
            "Half a pixel off: mode='nearest' of torch looks at the top left corner of a pixel, not at its centre. "
            "'nearest-exact' looks at the centre.",
        ),
        "swapped_axes": (
            lambda x, h, w: resize_labels(x, w, h),
            "Height and width are swapped: F.interpolate takes size=(height, width); Pillow takes (width, height).",
        ),
        "corners_aligned": (
            _resize_corners,
            "You spread the samples from the first to the last pixel. Centres lie at (i + 0.5)·H/height, so that every "
            "new pixel covers an equal part of the old map.",
        ),
    },
    probes=_ramps,
    hint="Each new pixel takes the label that lies at its centre; between two pixels, that of the right or lower one. "
    "The answer has two axes, (height, width).",
)


# The boundary region --------------------------------------------------------------------------------------------------


def _reach(mask: Tensor, width: int) -> Tensor:
    """``mask`` grown by ``width`` pixels, ``(H, W)`` bool; nothing comes in from beyond the border."""
    return F.max_pool2d(mask[None, None].double(), 2 * width + 1, stride=1, padding=width)[0, 0] > 0


def _region_cross(mask: Tensor, width: int) -> Tensor:
    eroded = F.pad(mask, [1] * 4)  # (H + 2, W + 2)
    for _ in range(width):
        p = F.pad(eroded, [1] * 4)
        eroded = eroded & p[:-2, 1:-1] & p[2:, 1:-1] & p[1:-1, :-2] & p[1:-1, 2:]
    return mask & ~eroded[1:-1, 1:-1]


def _masks() -> Mapping[str, tuple[Tensor, int]]:
    inside = torch.zeros(12, 14, dtype=torch.bool)  # (H, W)
    inside[2:10, 3:12] = True
    inside[2, 3] = False
    touching = torch.zeros(12, 14, dtype=torch.bool)
    touching[4:, :9] = True
    return {
        "a block inside the image, width 1": (inside, 1),
        "a block inside the image, width 2": (inside, 2),
        "a block that touches the border, width 2": (touching, 2),
        "an empty mask, width 1": (torch.zeros(5, 5, dtype=torch.bool), 1),
    }


BOUNDARY_REGION = Exercise(
    solution=boundary_region,
    wrong={
        "outside": (
            lambda m, w: _reach(m, w) & ~m,
            "Your band lies outside the mask. The region is the part of the mask itself that is near its outline.",
        ),
        "both_sides": (
            lambda m, w: _reach(m, w) & _reach(~m, w),
            "Your band lies on both sides of the outline. Keep the part inside the mask.",
        ),
        "border_forgotten": (
            lambda m, w: m & _reach(~m, w),
            "Where the mask touches the border of the image your region has a gap: beyond the border is outside too. "
            "Pad with True before you grow the outside.",
        ),
        "diameter": (
            lambda m, w: boundary_region(m, 2 * w),
            "Your band is twice as wide: a window of 2·width + 1 pixels reaches `width` pixels to each side.",
        ),
        "one_too_thin": (
            lambda m, w: boundary_region(m, w - 1) if w > 1 else torch.zeros_like(m),
            "Your band is one pixel too thin: pixels whose distance to the outside equals `width` belong to it.",
        ),
        "cross": (
            _region_cross,
            "You step up, down, left and right only. A diagonal step counts as one too: the window is a square.",
        ),
        "one_step": (
            lambda m, _: boundary_region(m, 1),
            "You erode once. Erode `width` times, each time what the step before has left.",
        ),
        "last_step": (
            lambda m, w: boundary_region(m, w) & ~boundary_region(m, w - 1) if w > 1 else boundary_region(m, w),
            "You return what the last step removed. All steps together make the region: compare with the first mask.",
        ),
        "interior": (
            lambda m, w: m & ~boundary_region(m, w),
            "That is the eroded mask, the part that the region leaves out. Return what erosion removes.",
        ),
    },
    probes=_masks,
)


# What a stride costs --------------------------------------------------------------------------------------------------


def stride_ceiling(mask: Tensor, stride: int) -> Tensor:
    """The IoU of a mask ``(H, W)`` with itself after one majority vote per ``stride`` × ``stride`` block."""
    vote = F.avg_pool2d(mask[None, None].double(), stride)[0, 0] >= 0.5  # (H / s, W / s)
    return _iou(_spread(vote, stride), mask)


def _spread(coarse: Tensor, stride: int) -> Tensor:
    return coarse.repeat_interleave(stride, 0).repeat_interleave(stride, 1)


def _iou(a: Tensor, b: Tensor) -> Tensor:
    return (a & b).sum().double() / (a | b).sum()


def _ceiling_coarse(mask: Tensor, stride: int) -> Tensor:
    vote = F.avg_pool2d(mask[None, None].double(), stride)[0, 0] >= 0.5
    return _iou(vote, mask[::stride, ::stride])


def _ceiling_corner(mask: Tensor, stride: int) -> Tensor:
    return _iou(_spread(mask[::stride, ::stride], stride), mask)


def _ceiling_any(mask: Tensor, stride: int) -> Tensor:
    some = F.max_pool2d(mask[None, None].double(), stride)[0, 0] > 0
    return _iou(_spread(some, stride), mask)


def _ceiling_accuracy(mask: Tensor, stride: int) -> Tensor:
    vote = F.avg_pool2d(mask[None, None].double(), stride)[0, 0] >= 0.5
    return (_spread(vote, stride) == mask).double().mean()


def _ceiling_strict(mask: Tensor, stride: int) -> Tensor:
    vote = F.avg_pool2d(mask[None, None].double(), stride)[0, 0] > 0.5
    return _iou(_spread(vote, stride), mask)


def _ceiling_dice(mask: Tensor, stride: int) -> Tensor:
    iou = stride_ceiling(mask, stride)
    return 2 * iou / (1 + iou)


def _ceiling_smooth(mask: Tensor, stride: int) -> Tensor:
    shares = F.avg_pool2d(mask[None, None].double(), stride)
    return _iou(F.interpolate(shares, scale_factor=stride, mode="bilinear")[0, 0] >= 0.5, mask)


def _discs() -> Mapping[str, tuple[Tensor, int]]:
    y, x = torch.arange(32.0)[:, None], torch.arange(48.0)[None]
    disc = (y - 15.3) ** 2 + (x - 22.1) ** 2 < 11.0**2  # (H, W)
    bar = ((x - 20.0) + 0.3 * y).abs() < 4.0
    return {"a disc at stride 4": (disc, 4), "a disc at stride 8": (disc, 8), "a slanted bar at stride 4": (bar, 4)}


STRIDE_CEILING = Exercise(
    solution=stride_ceiling,
    wrong={
        "coarse_target": (
            _ceiling_coarse,
            "You compare on the coarse grid, where the target has lost its details too. Bring the coarse mask back to "
            "full size and compare with the full mask.",
        ),
        "corner": (
            _ceiling_corner,
            "mask[::stride, ::stride] takes the top left pixel of each block: the mask moves by half a block. "
            "Let the majority of the block decide.",
        ),
        "any": (
            _ceiling_any,
            "A block is on when any of its pixels is; it should be on when at least half of them are.",
        ),
        "accuracy": (
            _ceiling_accuracy,
            "That is pixel accuracy, which the empty part of the image flatters. Return the IoU.",
        ),
        "strict": (_ceiling_strict, "A block in which exactly half of the pixels are on counts as on: use ≥."),
        "dice": (_ceiling_dice, "That is Dice. Return the IoU: divide the intersection by the union."),
        "smooth": (
            _ceiling_smooth,
            "You upsample the shares smoothly, so a block is no longer one decision. Decide first, then repeat each "
            "decision stride × stride times.",
        ),
    },
    probes=_discs,
    hint="One vote for each block, each vote repeated over its block, then the IoU with the full mask.",
)


EXERCISES = {
    "ch02.everywhere": EVERYWHERE,
    "ch02.mean_iou_from_dice": MEAN_IOU_FROM_DICE,
    "ch02.iou_per_class": IOU_PER_CLASS,
    "ch02.resize_labels": RESIZE_LABELS,
    "ch02.boundary_region": BOUNDARY_REGION,
    "ch02.stride_ceiling": STRIDE_CEILING,
}
