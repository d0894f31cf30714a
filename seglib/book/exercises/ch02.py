"""The pieces and exercises of chapter 2, "Measuring segmentation".

The pieces of "From scratch" are the boundary region, here, and those of ``ch02_pieces``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from seglib.book.exercise import Exercise, difference, expect, own
from seglib.book.exercises import ch02_pieces
from seglib.metrics.boundary import boundary_region
from seglib.types import VOID

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
        "mean_dice": (
            (0.70, 0.2059),
            "The accuracy is right. The other number is the mean Dice: IoU divides by the union, without the factor 2.",
        ),
        "weighted": (
            (0.70, 0.49),
            "The accuracy is right. You weigh each class by its share; in the mIoU every class counts the same.",
        ),
        "errors_for_union": (
            (0.70, 0.5833),
            "The accuracy is right. You divide by the wrong pixels; the union of class 0 holds the right ones too.",
        ),
    },
    right={
        "a list": [0.7, 0.175],
        "a tensor": torch.tensor([0.7, 0.175]),
        "an array": np.array([0.7, 0.175]),
    },
    hint="Two numbers, accuracy first. Accuracy is the share of class 0. For the mIoU write down intersection and "
    "union of each class.",
    sketch="""
    accuracy: pixels of class 0 / all pixels
    IoU of class 0: intersection / union, where everything is predicted as 0, so the union is ...
    IoU of classes 1, 2, 3: the intersection is ...
    mIoU: the mean of the ... values
    """,
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
        "[0.0, 1.0, 0.5, 0.5]": (torch.tensor([0.0, 1.0, 0.5, 0.5]),),
    }


def _by_score(dices: Tensor) -> float:
    return sum(d / (2 - d) for d in dices.tolist()) / len(dices)


def _over_itself(dices: Tensor) -> Tensor:
    dices /= 2 - dices
    return dices.mean()


def _with_numpy(dices: Tensor) -> np.floating:
    d = dices.numpy().astype(np.float64)
    return (1 / (2 / d[d > 0] - 1)).sum() / len(d)


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
        "median": (
            lambda d: (d / (2 - d)).quantile(0.5),
            "The conversion is right, but that is the median of the scores, not the mean.",
        ),
        "zeros_left_out": (
            lambda d: (d / (2 - d))[d > 0].mean(),
            "A Dice of 0 counts too: that mask has IoU 0 and stays in the mean.",
        ),
        "in_percent": (lambda d: 100 * (d / (2 - d)).mean(), "Right, but in percent: give a fraction."),
    },
    right={"a loop": _by_score, "in place": _over_itself, "NumPy, from 1/J = 2/D − 1": _with_numpy},
    sketch="""
    ious = ...        # (N,), one for each score; at D = 1 it is 1, at D = 2/3 it is 1/2
    return ...
    """,
    probes=_dice_lists,
    hint="Solve D = 2J/(1 + J) for J, convert each score, then take the mean.",
)


# Labels to another size -----------------------------------------------------------------------------------------------


def resize_labels(labels: Tensor, height: int, width: int) -> Tensor:
    """``(H, W)`` int64 → ``(height, width)`` int64: each pixel takes the label that lies at its centre."""
    rows = ((2 * torch.arange(height) + 1) * labels.shape[0] - 1) // (2 * height)  # (i + ½) · H / height, exactly
    columns = ((2 * torch.arange(width) + 1) * labels.shape[1] - 1) // (2 * width)
    return labels[rows][:, columns]


def _resize(labels: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    corners = None if mode.startswith("nearest") else False
    return F.interpolate(labels[None, None].double(), size=size, mode=mode, align_corners=corners)[0, 0]


def _resize_corners(labels: Tensor, height: int, width: int) -> Tensor:
    rows = torch.linspace(0, labels.shape[0] - 1, height).round().long()
    columns = torch.linspace(0, labels.shape[1] - 1, width).round().long()
    return labels[rows][:, columns]


def _at(labels: Tensor, height: int, width: int, rows: str, columns: str) -> Tensor:
    """Picks by centres, with a rule for ties on each axis: ``after``, ``before`` or ``even``."""

    def places(new: int, old: int, rule: str) -> Tensor:
        centres = (torch.arange(new).double() + 0.5) * old / new
        found = {"after": centres.floor(), "before": centres.ceil() - 1, "even": (centres - 0.5).round()}[rule]
        return found.long().clamp(0, old - 1)

    return labels[places(height, labels.shape[0], rows)][:, places(width, labels.shape[1], columns)]


def _resize_most_frequent(labels: Tensor, height: int, width: int) -> Tensor:
    values = labels.unique()
    shares = F.adaptive_avg_pool2d((labels == values[:, None, None]).double(), (height, width))  # (values, h, w)
    return values[shares.argmax(0)]


def _ramps() -> Mapping[str, tuple[Tensor, int, int]]:
    g = torch.Generator().manual_seed(4)
    labels = torch.randint(0, 6, (8, 12), generator=g)  # (H, W)
    labels[5:, 8:] = VOID
    return {
        "8 × 12 to 4 × 6": (labels, 4, 6),
        "8 × 12 to 16 × 36": (labels, 16, 36),
        "8 × 12 to 5 × 7": (labels, 5, 7),
        "8 × 12 to 8 × 12": (labels, 8, 12),
        "8 × 12 to 2 × 12": (labels, 2, 12),
        "8 × 12 to 8 × 3": (labels, 8, 3),
        "8 × 12 to 1 × 1": (labels, 1, 1),
        "2 × 3 to 3 × 5": (torch.tensor([[0, 1, 2], [3, 4, VOID]]), 3, 5),
    }


def _resize_by_loop(labels: Tensor, height: int, width: int) -> list[list[int]]:
    h, w = labels.shape
    return [
        [int(labels[math.ceil((i + 0.5) * h / height) - 1, math.ceil((j + 0.5) * w / width) - 1]) for j in range(width)]
        for i in range(height)
    ]


def _resize_in_place(labels: Tensor, height: int, width: int) -> Tensor:
    turned = labels.flip(0, 1)[None, None].double()  # seen from the other corner, ties go the other way
    exact = F.interpolate(turned, size=(height, width), mode="nearest-exact")[0, 0].flip(0, 1)
    labels.resize_(height, width).copy_(exact)
    return labels


def _resize_with_numpy(labels: Tensor, height: int, width: int) -> np.ndarray:
    rows = np.ceil((np.arange(height) + 0.5) * labels.shape[0] / height).astype(int) - 1
    columns = np.ceil((np.arange(width) + 0.5) * labels.shape[1] / width).astype(int) - 1
    return labels.numpy()[np.ix_(rows, columns)]


_INT64 = "The labels are right, but of another type: the result is int64 too, so that it can index and be compared."


def _is_int64(attempt: Callable[..., Any]) -> None:
    got = [attempt(*map(own, arguments)) for arguments in _ramps().values()]
    want = [resize_labels(*arguments) for arguments in _ramps().values()]
    if difference(got, want) is None:
        expect(all(np.asarray(g).dtype == np.int64 for g in got if isinstance(g, Tensor | np.ndarray)), _INT64)


RESIZE_LABELS = Exercise(
    solution=resize_labels,
    verify=_is_int64,
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
            "Half a pixel off: mode='nearest' of torch looks at the top left corner of a pixel, not at its centre.",
        ),
        "ties_after": (
            lambda x, h, w: _at(x, h, w, "after", "after"),
            "Where the centre falls exactly between two old pixels you take the right and the lower one. Take the left "
            "and the upper one: 'nearest-exact' and the whole part of (i + 0.5)·H/height do it the other way.",
        ),
        "ties_below": (
            lambda x, h, w: _at(x, h, w, "after", "before"),
            "Where the centre falls exactly between two rows you take the lower one. Take the upper one.",
        ),
        "ties_right": (
            lambda x, h, w: _at(x, h, w, "before", "after"),
            "Where the centre falls exactly between two columns you take the right one. Take the left one.",
        ),
        "ties_to_even": (
            lambda x, h, w: _at(x, h, w, "even", "even"),
            "round() takes the even number of two that are equally near, so your ties go left and right in turn. Take "
            "the left one of two.",
        ),
        "rounded": (
            lambda x, h, w: x[((torch.arange(h) + 0.5) * x.shape[0] / h).round().long().clamp(max=x.shape[0] - 1)][
                :, ((torch.arange(w) + 0.5) * x.shape[1] / w).round().long().clamp(max=x.shape[1] - 1)
            ],
            "You round (i + 0.5)·H/height. The pixel that covers a position is its whole part, at a tie one less.",
        ),
        "rows_only": (
            lambda x, h, w: resize_labels(x, h, x.shape[1])[:, (torch.arange(w) * x.shape[1] / w).long()],
            "Your columns are half a pixel off, your rows are right: add 0.5 on both axes.",
        ),
        "columns_only": (
            lambda x, h, w: resize_labels(x, x.shape[0], w)[(torch.arange(h) * x.shape[0] / h).long()],
            "Your rows are half a pixel off, your columns are right: add 0.5 on both axes.",
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
        "most_frequent": (
            _resize_most_frequent,
            "You take the most frequent label under each new pixel. Take the one at its centre.",
        ),
        "four_axes": (
            lambda x, h, w: resize_labels(x, h, w)[None, None],
            "The labels are right, but the result still has a batch's and a channel's axis: return (height, width).",
        ),
        "floats": (lambda x, h, w: resize_labels(x, h, w).float(), _INT64),
    },
    right={"a loop with lists": _resize_by_loop, "in place": _resize_in_place, "NumPy": _resize_with_numpy},
    probes=_ramps,
    hint="Each new pixel takes the label that lies at its centre; between two pixels, that of the left or upper one. "
    "The answer has two axes, (height, width).",
    sketch="""
    rows = ...          # (height,): which old row lies at the centre of each new row?  whole numbers
    columns = ...       # (width,)
    return labels[...]  # (height, width)
    """,
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
    beam = torch.zeros(8, 9, dtype=torch.bool)
    beam[1:7] = True  # from the left to the right border
    post = torch.zeros(9, 8, dtype=torch.bool)
    post[:, 1:7] = True  # from the upper to the lower border
    holed = torch.ones(11, 11, dtype=torch.bool)
    holed[5, 5] = False
    return {
        "a block inside the image, width 1": (inside, 1),
        "a block inside the image, width 2": (inside, 2),
        "a block that touches the border, width 2": (touching, 2),
        "a mask from the left to the right border, width 1": (beam, 1),
        "a mask from the upper to the lower border, width 2": (post, 2),
        "a full mask, width 2": (torch.ones(7, 6, dtype=torch.bool), 2),
        "a full mask with a hole, width 1": (holed, 1),
        "a full mask with a hole, width 3": (holed, 3),
        "a block inside the image, width 9": (inside, 9),
        "one pixel, width 1": (torch.eye(1, 3, dtype=torch.bool), 1),
        "an empty mask, width 1": (torch.zeros(5, 5, dtype=torch.bool), 1),
    }


def _region_rolled(mask: Tensor, width: int, axes: tuple[int, ...] = (0, 1)) -> Tensor:
    """Erosion whose neighbours come from ``torch.roll``; axes that are not rolled are padded with False."""
    inner = mask
    for _ in range(width):
        for axis in (0, 1):
            shifted = [inner.roll(step, axis) for step in (1, -1)]
            if axis not in axes:
                shifted[0].select(axis, 0)[...] = False
                shifted[1].select(axis, -1)[...] = False
            inner = inner & shifted[0] & shifted[1]
    return mask & ~inner


def _eroded_by(mask: Tensor, width: int, steps: list[tuple[int, int]]) -> Tensor:
    height, columns = mask.shape
    for _ in range(width):
        p = F.pad(mask, [1] * 4)
        for dy, dx in steps:
            mask = mask & p[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + columns]
    return mask


_RING = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]


def _region_of_neighbours(mask: Tensor, width: int) -> Tensor:
    """Erosion that asks the 8 neighbours but not the pixel itself, and compares with ``!=``."""
    inner = mask
    for _ in range(width):
        inner = _neighbours_inside(inner)
    return mask ^ inner


def _neighbours_inside(mask: Tensor) -> Tensor:
    p = F.pad(mask, [1] * 4)
    h, w = mask.shape
    return torch.stack([p[1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w] for dy, dx in _RING]).all(0)


def _region_while_scanning(mask: Tensor, width: int) -> Tensor:
    inner = F.pad(mask, [1] * 4)
    for _ in range(width):
        for y in range(1, inner.shape[0] - 1):
            for x in range(1, inner.shape[1] - 1):
                inner[y, x] = bool(inner[y - 1 : y + 2, x - 1 : x + 2].all())
    return mask & ~inner[1:-1, 1:-1]


def _region_with_scipy(mask: Tensor, width: int) -> np.ndarray:
    m = mask.numpy()
    return m & ~ndimage.binary_erosion(m, np.ones((3, 3)), iterations=width)


def _region_in_place(mask: Tensor, width: int) -> Tensor:
    before = mask.clone()
    for _ in range(width):
        padded = F.pad(mask, [1] * 4)
        for i in range(3):
            for j in range(3):
                mask &= padded[i : i + mask.shape[0], j : j + mask.shape[1]]
    return before ^ mask


def _region_by_distance(mask: Tensor, width: int) -> list[list[float]]:
    distance = ndimage.distance_transform_cdt(np.pad(mask.numpy(), 1), metric="chessboard")[1:-1, 1:-1]
    return ((distance > 0) & (distance <= width)).astype(np.float64).tolist()


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
        "around_the_border": (
            _region_rolled,
            "Your neighbours reach around the image: torch.roll brings the pixels of the other border. Beyond the "
            "border of the image is outside.",
        ),
        "around_left_and_right": (
            lambda m, w: _region_rolled(m, w, (1,)),
            "At the left and right border your neighbours come from the other side. Beyond the image is outside.",
        ),
        "around_top_and_bottom": (
            lambda m, w: _region_rolled(m, w, (0,)),
            "At the upper and lower border your neighbours come from the other side. Beyond the image is outside.",
        ),
        "while_scanning": (
            _region_while_scanning,
            "You return the whole mask. Perhaps you erode pixel by pixel in place, so that a pixel that has just been "
            "removed removes the next one: read from a copy.",
        ),
        "nothing": (
            lambda m, w: torch.zeros_like(m),
            "You return nothing. Perhaps you erode the mask in place and then compare it with itself: keep a copy.",
        ),
        "one_too_thick": (
            lambda m, w: boundary_region(m, w + 1),
            "Your band is one pixel too thick: erode exactly `width` times.",
        ),
        "itself_forgotten": (
            _region_of_neighbours,
            "A hole of one pixel comes back as a part of your region: a pixel stays only when it is inside itself.",
        ),
        "corners_only": (
            lambda m, w: m & ~_eroded_by(m, w, [(-1, -1), (-1, 1), (1, -1), (1, 1)]),
            "You ask the four diagonal neighbours only. Ask all eight.",
        ),
    },
    right={"scipy": _region_with_scipy, "in place": _region_in_place, "distances, as a list": _region_by_distance},
    probes=_masks,
    hint="Erode `width` times: a pixel stays when it and its 8 neighbours are inside. Return what is gone.",
    sketch="""
    inner = ...                      # the mask
    for _ in range(width):
        padded = ...                 # what lies beyond the border?
        inner = ...                  # True where all nine shifted copies are
    return ...                       # in the mask, not in inner
    """,
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
    half = torch.zeros(8, 12, dtype=torch.bool)
    half[:4, :2] = half[4:6, 4:8] = True  # exactly half of two blocks
    half[:, 8:] = True
    half[0, 8:11] = False
    thin = torch.zeros(12, 18, dtype=torch.bool)
    thin[:, 7] = True  # less than half of any block
    return {
        "a disc at stride 4": (disc, 4),
        "a disc at stride 8": (disc, 8),
        "a slanted bar at stride 4": (bar, 4),
        "blocks that are exactly half full, stride 4": (half, 4),
        "a line of one pixel, stride 6": (thin, 6),
        "a disc at stride 1": (disc, 1),
    }


def _ceiling_full(mask: Tensor, stride: int) -> Tensor:
    vote = F.avg_pool2d(mask[None, None].double(), stride)[0, 0] == 1
    return _iou(_spread(vote, stride), mask)


def _ceiling_tiled(mask: Tensor, stride: int) -> Tensor:
    vote = F.avg_pool2d(mask[None, None].double(), stride)[0, 0] >= 0.5
    return _iou(vote.repeat(stride, stride), mask)


def _ceiling_centre(mask: Tensor, stride: int) -> Tensor:
    return _iou(_spread(mask[stride // 2 :: stride, stride // 2 :: stride], stride), mask)


def _ceiling_best(mask: Tensor, stride: int) -> Tensor:
    """The best choice of blocks: sorted by their share, the prefix with the highest IoU."""
    inside = F.avg_pool2d(mask[None, None].double(), stride).flatten().sort(descending=True).values * stride**2
    blocks = torch.arange(1, len(inside) + 1)
    both = inside.cumsum(0)
    return (both / (blocks * stride**2 + mask.sum() - both)).max()


def _ceiling_recall(mask: Tensor, stride: int) -> Tensor:
    vote = F.avg_pool2d(mask[None, None].double(), stride)[0, 0] >= 0.5
    return (_spread(vote, stride) & mask).sum().double() / mask.sum()


def _vote_by_loop(mask: Tensor, stride: int) -> float:
    both = either = 0
    for y in range(0, mask.shape[0], stride):
        for x in range(0, mask.shape[1], stride):
            inside = int(mask[y : y + stride, x : x + stride].sum())
            on = 2 * inside >= stride * stride
            both += inside if on else 0
            either += stride * stride if on else inside
    return both / either


def _vote_in_place(mask: Tensor, stride: int) -> Tensor:
    before = mask.clone()
    for rows in mask.split(stride):
        for block in rows.split(stride, 1):
            block.fill_(bool(block.double().mean() >= 0.5))
    return _iou(mask, before)


def _vote_with_numpy(mask: Tensor, stride: int) -> np.floating:
    m = mask.numpy()
    h, w = m.shape
    on = m.reshape(h // stride, stride, w // stride, stride).mean((1, 3)) >= 0.5
    full = np.kron(on, np.ones((stride, stride), bool))
    return (full & m).sum() / (full | m).sum()


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
        "all": (_ceiling_full, "A block is on only when all of its pixels are; half of them are enough."),
        "tiled": (
            _ceiling_tiled,
            "You lay copies of the whole coarse mask side by side. Repeat each of its pixels: repeat_interleave, not "
            "repeat.",
        ),
        "centre": (
            _ceiling_centre,
            "You take the pixel in the middle of each block. Let the majority of the block decide.",
        ),
        "recall": (
            _ceiling_recall,
            "You divide by the mask's area: that is recall, and what the blocks add outside the mask costs nothing.",
        ),
        "best_blocks": (
            _ceiling_best,
            "That is the best choice of blocks, a higher number. Here the majority of each block decides.",
        ),
    },
    right={"a loop over blocks": _vote_by_loop, "in place": _vote_in_place, "NumPy": _vote_with_numpy},
    sketch="""
    share = ...                  # (H / s, W / s): the mean of each block
    full = ...                   # (H, W): each block's decision, repeated s times along both axes
    return ...                   # IoU of full and mask
    """,
    probes=_discs,
    hint="One vote for each block, each vote repeated over its block, then the IoU with the full mask.",
)


EXERCISES = {
    "ch02.confusion": ch02_pieces.CONFUSION,
    "ch02.scores": ch02_pieces.SCORES,
    "ch02.boundary_region": BOUNDARY_REGION,
    "ch02.boundary_iou": ch02_pieces.BOUNDARY_IOU,
    "ch02.everywhere": EVERYWHERE,
    "ch02.mean_iou_from_dice": MEAN_IOU_FROM_DICE,
    "ch02.resize_labels": RESIZE_LABELS,
    "ch02.break": ch02_pieces.BREAK,
    "ch02.stride_ceiling": STRIDE_CEILING,
}
