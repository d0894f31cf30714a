"""The exercises of chapter 8, "RoIAlign"."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align as torchvision_roi_align

from seglib.book.exercise import Exercise, expect
from seglib.book.exercises.ch08_pieces import PIECES, TWINS
from seglib.ops.roi import bilinear_sample, roi_align, roi_levels, roi_pool

Pool = Callable[[Tensor], Tensor]


# Which columns a bin reads --------------------------------------------------------------------------------------------

COLUMNS = Exercise(
    solution=(2, 3, 3, 4),
    wrong={
        "exclusive": (
            (2, 2, 2, 3),
            "You leave out a column: the box counts both its first and its last cell, so it is last − first + 1 wide.",
        ),
        "disjoint": (
            (3, 3, 3, 4),
            "Bins may share a cell: the first one of a bin is rounded down, the last one up. 1.5 columns a bin is one "
            "such case.",
        ),
        "floored": (
            (2, 3, 2, 3),
            "You round the box down. RoI Pooling rounds to the nearest cell: 3.49 becomes 3 and 3.51 becomes 4.",
        ),
        "first_bin": (
            (1, 2, 1, 2),
            "Those are the columns of the left bin. It does not change; the right one does.",
        ),
        "all": (
            (1, 3, 1, 4),
            "Those are the columns of the whole box, before and after. The right bin is asked for.",
        ),
        "rounded_up": (
            (3, 4, 3, 4),
            "You round 3.49 up. To the nearest cell it is 3, and the shift takes it over the half.",
        ),
        "half_open": (
            (2, 4, 3, 5),
            "You give the column behind the last one. The last column that the bin reads is asked for.",
        ),
        "from_one": (
            (3, 4, 4, 5),
            "You count the columns from 1. They are counted from 0.",
        ),
        "turned": (
            (3, 4, 2, 3),
            "Those are the right columns with before and after swapped.",
        ),
    },
    right={
        "a list": [2, 3, 3, 4],
        "a tensor": torch.tensor([2, 3, 3, 4]),
        "floats": (2.0, 3.0, 3.0, 4.0),
        "NumPy": np.array([2, 3, 3, 4]),
    },
    hint="Divide by 16 and round: first and last column of the box. Then cut last − first + 1 columns into two bins; a "
    "bin's first column is rounded down and its end up.",
    sketch="""
        columns of the box:  round(14 / 16) = … to round(55.9 / 16) = …, that is … columns
        the right bin begins … columns after the first, rounded down, and ends … after it, rounded up
        the same for 14.2 and 56.1
    """,
)


# The gradient of a bilinear sample ------------------------------------------------------------------------------------


def slope(values: Tensor, y: float, x: float) -> tuple[Tensor, Tensor]:
    """The derivatives of a bilinear sample of ``values`` (C, H, W) inside the map: along y and along x, (C,) each."""
    return _slope_at(values, y, x, int(y), int(x))


def _slope_at(values: Tensor, y: float, x: float, top: int, left: int) -> tuple[Tensor, Tensor]:
    """The slopes of the bilinear surface over the four cells whose first one is (top, left)."""
    fy, fx = y - top, x - left
    a, b = values[:, top, left], values[:, top, left + 1]
    c, d = values[:, top + 1, left], values[:, top + 1, left + 1]
    return (1 - fx) * (c - a) + fx * (d - b), (1 - fy) * (b - a) + fy * (d - c)


def _slope_from(first: Callable[[float, int], int]) -> Callable[[Tensor, float, float], tuple[Tensor, Tensor]]:
    """``slope`` with another choice of the first cell along an axis, from the position and the axis's length."""

    def answer(values: Tensor, y: float, x: float) -> tuple[Tensor, Tensor]:
        return _slope_at(values, y, x, first(y, values.shape[1]), first(x, values.shape[2]))

    return answer


def _differences(left: float, right: float, *, dtype: torch.dtype = torch.float64) -> Any:
    """Slopes as the difference of two samples, ``left`` before the point and ``right`` behind it."""

    def answer(values: Tensor, y: float, x: float) -> tuple[Tensor, ...]:
        wide, slopes = values.to(dtype), []
        for dy, dx in ((1, 0), (0, 1)):
            low, high = (
                bilinear_sample(wide, torch.tensor(y + s * dy, dtype=dtype), torch.tensor(x + s * dx, dtype=dtype))
                for s in (-left, right)
            )
            slopes.append((high - low) / (left + right))
        return tuple(slopes)

    return answer


def _nearest_slope(values: Tensor, y: float, x: float) -> tuple[Tensor, Tensor]:
    top, left = int(y), int(x)
    corner = values[:, top, left]
    return values[:, top + 1, left] - corner, values[:, top, left + 1] - corner


def _same_share(values: Tensor, y: float, x: float) -> tuple[Tensor, Tensor]:
    """Weighs the differences along an axis by the share along the same axis."""
    top, left = int(y), int(x)
    fy, fx = y - top, x - left
    a, b = values[:, top, left], values[:, top, left + 1]
    c, d = values[:, top + 1, left], values[:, top + 1, left + 1]
    return (1 - fy) * (c - a) + fy * (d - b), (1 - fx) * (b - a) + fx * (d - c)


def _weights_turned(values: Tensor, y: float, x: float) -> tuple[Tensor, Tensor]:
    top, left = int(y), int(x)
    fy, fx = y - top, x - left
    a, b = values[:, top, left], values[:, top, left + 1]
    c, d = values[:, top + 1, left], values[:, top + 1, left + 1]
    return fx * (c - a) + (1 - fx) * (d - b), fy * (b - a) + (1 - fy) * (d - c)


def _slope_by_autograd(values: Tensor, y: float, x: float) -> list[Tensor]:
    """The formula of the sample in float64, derived by autograd, one channel after the other."""
    point = torch.tensor([y, x], dtype=torch.float64, requires_grad=True)
    top, left = int(y), int(x)
    fy, fx = (point - torch.tensor([top, left])).unbind()
    a, b = values.double()[:, top, left : left + 2].unbind(1)
    c, d = values.double()[:, top + 1, left : left + 2].unbind(1)
    sample = (1 - fy) * ((1 - fx) * a + fx * b) + fy * ((1 - fx) * c + fx * d)  # (C,)
    slopes = torch.stack([torch.autograd.grad(v, point, retain_graph=True)[0] for v in sample])  # (C, 2)
    return list(slopes.T)


def _slope_with_numpy(values: Tensor, y: float, x: float) -> tuple[list[float], list[float]]:
    v, top, left = values.numpy(), math.floor(y), math.floor(x)
    patch = v[:, top : top + 2, left : left + 2]
    along_y, along_x = np.diff(patch, axis=1)[:, 0], np.diff(patch, axis=2)[:, :, 0]
    fy, fx = y - top, x - left
    return (along_y @ [1 - fx, fx]).tolist(), (along_x @ [1 - fy, fy]).tolist()


def _slope_in_place(values: Tensor, y: float, x: float) -> Tensor:
    """Overwrites the map by its differences."""
    top, left = int(y), int(x)
    fy, fx = y - top, x - left
    along_x = values[:, :, 1:] - values[:, :, :-1]
    values[:, :-1] -= values[:, 1:].clone()
    return torch.stack(
        [
            -(1 - fx) * values[:, top, left] - fx * values[:, top, left + 1],
            along_x[:, top, left].lerp(along_x[:, top + 1, left], fy),
        ]
    )


def _points() -> Mapping[str, tuple[Tensor, float, float]]:
    values = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(8)).round(decimals=1)
    places = [
        (1.25, 2.5), (0.0, 3.75), (2.9, 0.1), (1.0, 1.0), (1.75, 2.6), (0.4, 3.2), (2.0, 1.3), (1.6, 3.0), (2.5, 1.5),
    ]  # fmt: skip
    return {f"the point (y, x) = {place}": (values, *place) for place in places}


def _clamped(whole: Callable[[float], int]) -> Callable[[float, int], int]:
    return lambda v, n: min(max(whole(v), 0), n - 2)


SLOPE = Exercise(
    solution=slope,
    wrong={
        "swapped": (
            lambda v, y, x: slope(v, y, x)[::-1],
            "You return (x, y). The derivative along y, down the rows, comes first.",
        ),
        "sign": (
            lambda v, y, x: tuple(-s for s in slope(v, y, x)),
            "The signs are turned: towards the right the weight of the right cell grows.",
        ),
        "nearest": (
            _nearest_slope,
            "You use one pair of cells. There are two pairs along each axis, and both count.",
        ),
        "same_share": (
            _same_share,
            "The differences along y are weighed by how far the point is along x, and the other way round.",
        ),
        "weights_turned": (
            _weights_turned,
            "The weights are turned: the nearer pair of cells counts more. fx is the share of the right column.",
        ),
        "rounded": (
            _slope_from(_clamped(round)),
            "You round the point to its nearest cell. The first of the four cells is the one above and to the left: "
            "round down.",
        ),
        "rounded_half_up": (
            _slope_from(_clamped(lambda v: math.floor(v + 0.5))),
            "You round halves up to find the first cell. It lies above and to the left of the point: round down.",
        ),
        "rounded_up": (
            _slope_from(_clamped(math.ceil)),
            "You round the point up. The first of the four cells lies above and to the left of it: round down.",
        ),
        "other_side": (
            _slope_from(_clamped(lambda v: math.ceil(v) - 1)),
            "In the middle of a cell you take the side to the left and above. To the right and below is asked for.",
        ),
        "both_sides": (
            _differences(1e-3, 1e-3),
            "You take both sides of the point. In the middle of a cell the slope jumps: take the side to the right and "
            "below.",
        ),
        "a_cell_on": (
            lambda v, y, x: _differences(0.0, 1.0)(v, y, x),
            "You subtract the samples of two points that lie a cell apart. The slope is that at the point itself.",
        ),
        "summed": (
            lambda v, y, x: tuple(s.sum() for s in slope(v, y, x)),
            "You sum over the channels. Each channel has its own slope: return (C,) twice.",
        ),
        "first_channel": (
            lambda v, y, x: tuple(s[:1] for s in slope(v, y, x)),
            "You return the first channel alone. Each channel has its own slope: return (C,) twice.",
        ),
    },
    right={
        "NumPy": _slope_with_numpy,
        "in place, one tensor": _slope_in_place,
        "autograd, float64": _slope_by_autograd,
        "a small step to the right and below": _differences(0.0, 1e-4),
    },
    probes=_points,
    hint="Write the sample as (1 − fy)·((1 − fx)·a + fx·b) + fy·((1 − fx)·c + fx·d), and take the derivatives by fy "
    "and fx.",
    sketch="""
        top, left = …                                # the cell above and to the left
        f_y, f_x = y − top, x − left
        a, b, c, d = the four cells, (C,) each
        along_y = (1 − f_x) * (…) + f_x * (…)
        along_x = …
        return along_y, along_x
    """,
)


# The level that serves a box ------------------------------------------------------------------------------------------


def levels(boxes: Tensor, count: int) -> Tensor:
    """The level of each box, 0 for the finest of ``count`` (stride 4); 224 pixels belong to level 2."""
    return roi_levels(boxes, count)


def _sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
    return width, height


def _from_size(size: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, int], Tensor]:
    """``levels`` with another size of a box, from its width and height."""

    def answer(boxes: Tensor, count: int) -> Tensor:
        return torch.floor(2 + torch.log2(size(*_sides(boxes)) / 224 + 1e-8)).clamp(0, count - 1).long()

    return answer


def _levels_with(
    to_whole: Callable[[Tensor], Tensor] = torch.floor,
    *,
    low: float = 0,
    high: float | None = None,
    add: float = 2,
    log: Callable[[Tensor], Tensor] = torch.log2,
    nudge: float = 1e-8,
) -> Callable[[Tensor, int], Tensor]:
    def answer(boxes: Tensor, count: int) -> Tensor:
        size = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
        return to_whole(add + log(size / 224 + nudge)).clamp(low, count - 1 if high is None else high).long()

    return answer


def _levels_by_loops(boxes: Tensor, count: int) -> list[int]:
    found = []
    for x0, y0, x1, y1 in boxes.tolist():
        size, k = math.sqrt((x1 - x0) * (y1 - y0)), 0
        while k < count - 1 and size >= 112 * 2**k:
            k += 1
        found.append(k)
    return found


def _levels_with_numpy(boxes: Tensor, count: int) -> np.ndarray:
    b = boxes.double().numpy()
    area = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    return np.clip(np.floor(4 + np.log2(area / 224**2) / 2) - 2, 0, count - 1).astype(np.int64)


def _levels_in_place(boxes: Tensor, count: int) -> Tensor:
    """Turns the boxes that it is given into widths and heights."""
    boxes[:, 2:] -= boxes[:, :2]
    size = boxes[:, 2:].prod(1).sqrt()
    return torch.bucketize(size, 112 * 2.0 ** torch.arange(count - 1), right=True)


def _whole_numbers(attempt: Callable[[Tensor, int], Any]) -> None:
    found = attempt(torch.tensor([[0.0, 0, 224, 224], [0, 0, 50, 60]]), 4)
    array = np.asarray(found) if not isinstance(found, Tensor) else found.detach().cpu().numpy()
    expect(
        array.dtype.kind in "iu",
        "Your levels are not whole numbers by type. They are used as indices: return int64.",
    )


def _boxes() -> Mapping[str, tuple[Tensor, int]]:
    sides = {
        "a box of 224 × 224": (224, 224), "one of 112 × 448": (112, 448), "one of 100 × 100": (100, 100),
        "one of 223 × 223": (223, 223), "one of 8 × 8": (8, 8), "one of 700 × 800": (700, 800),
        "one of 300 × 60": (300, 60), "one of 400 × 400": (400, 400), "one of 112 × 112": (112, 112),
        "one of 448 × 448": (448, 448), "one of 500 × 56": (500, 56), "one of 170 × 170": (170, 170),
        "one of 450 × 170": (450, 170), "one of 60 × 320": (60, 320),
    }  # fmt: skip
    cases = {name: (torch.tensor([[10.0, 20.0, 10 + w, 20 + h]]), 4) for name, (w, h) in sides.items()}
    far = torch.tensor([[300.0, 400, 330, 440], [500, 10, 760, 300], [0, 0, 640, 640], [7, 7, 131, 120]])
    return cases | {
        "a box of 700 × 800 with 3 levels": (torch.tensor([[0.0, 0, 700, 800]]), 3),
        "a box of 1000 × 1000 with 5 levels": (torch.tensor([[0.0, 0, 1000, 1000]]), 5),
        "four boxes": (far, 4),
        "a single level": (far, 1),
    }


LEVELS = Exercise(
    solution=levels,
    wrong={
        "paper_number": (
            lambda boxes, count: levels(boxes, count) + 2,
            "You return the k of the paper, 2 for P2. Return the index in the list of levels, 0 for P2.",
        ),
        "area": (
            _from_size(lambda w, h: w * h / 224),
            "You take the area. The formula has its root: twice the side is one level up, not two.",
        ),
        "longest": (
            _from_size(torch.maximum),
            "You take the longer side. The size of a box is the root of its area.",
        ),
        "shortest": (
            _from_size(torch.minimum),
            "You take the shorter side. The size of a box is the root of its area.",
        ),
        "width": (
            _from_size(lambda w, h: w),
            "You take the width alone. The size of a box is the root of its area.",
        ),
        "mean_side": (
            _from_size(lambda w, h: (w + h) / 2),
            "You take the mean of both sides. The size of a box is the root of its area.",
        ),
        "diagonal": (
            _from_size(torch.hypot),
            "You take the diagonal. The size of a box is the root of its area.",
        ),
        "corners": (
            lambda boxes, count: roi_levels(torch.cat([0 * boxes[:, :2], boxes[:, 2:]], 1), count),
            "You take the right and the lower edge for width and height. A box is (x0, y0, x1, y1).",
        ),
        "with_one": (
            lambda boxes, count: roi_levels(boxes + torch.tensor([0.0, 0, 1, 1]), count),
            "You add 1 to the sides. With continuous corners a width is x1 − x0.",
        ),
        "rounded": (
            _levels_with(torch.round),
            "You round to the nearest level. The formula rounds down: 223 pixels are one level below 224.",
        ),
        "rounded_up": (
            _levels_with(torch.ceil, nudge=0),
            "You round up. The formula rounds down: 223 pixels are one level below 224.",
        ),
        "just_below": (
            _levels_with(nudge=-1e-5),
            "A box of exactly 224 pixels falls to the level below in your version. It belongs to P4 itself.",
        ),
        "natural_log": (
            _levels_with(log=torch.log),
            "You take the natural logarithm. Twice the side is one level up with the logarithm to base 2.",
        ),
        "log10": (
            _levels_with(log=torch.log10),
            "You take the logarithm to base 10. Twice the side is one level up with the one to base 2.",
        ),
        "unclamped": (
            _levels_with(low=-9, high=99),
            "Some boxes get a level that is not there, below the finest or above the coarsest. Clamp.",
        ),
        "no_lowest": (
            _levels_with(low=-9),
            "A small box gets a level below the finest. Clamp to the levels that there are.",
        ),
        "no_highest": (
            _levels_with(high=99),
            "A large box gets a level above the coarsest. Clamp to the levels that there are.",
        ),
        "one_too_many": (
            lambda boxes, count: _levels_with(high=count)(boxes, count),
            "You clamp at the number of levels. The last of them has the index count − 1.",
        ),
        "always_four": (
            lambda boxes, count: roi_levels(boxes, 4),
            "You clamp at 3. The number of levels is an argument.",
        ),
        "canonical": (
            _levels_with(add=4),
            "224 pixels belong to P4, which is index 2 in a list that starts with P2.",
        ),
    },
    right={
        "loops, a list": _levels_by_loops,
        "NumPy, float64": _levels_with_numpy,
        "in place, by bins": _levels_in_place,
        "int32": lambda boxes, count: levels(boxes, count).int(),
    },
    probes=_boxes,
    verify=_whole_numbers,
    hint="⌊4 + log2(√(wh) / 224)⌋ is the paper's level; P2 is index 0.",
    sketch="""
        size = the root of width × height            # (R,)
        k = 4 + log2(size / 224), rounded …          # 4 for 224 pixels
        index = k − …                                # 0 for P2
        return index, not below … and not above …, as whole numbers
    """,
)


# RoIAlign by grid_sample ----------------------------------------------------------------------------------------------


def by_grid_sample(features: Tensor, box: Tensor, size: int, stride: float) -> Tensor:
    """RoIAlign, aligned, with one sample in the middle of each bin: features (C, H, W), box (4,) → (C, P, P)."""
    return _sampled(features, box, size, stride)


def _sampled(
    features: Tensor,
    box: Tensor,
    size: int,
    stride: float,
    *,
    inside: float = 0.5,
    order: tuple[int, int] = (0, 1),
    align_corners: bool = False,
    moved: float = 0.0,
    padding: str = "border",
    mode: str = "bilinear",
    swapped: bool = False,
    ends: bool = False,
) -> Tensor:
    height, width = features.shape[1:]
    if swapped:
        height, width = width, height
    middle = torch.linspace(0, 1, size) if ends else (torch.arange(size) + inside) / size
    x = box[0] + middle * (box[2] - box[0]) + moved * stride
    y = box[1] + middle * (box[3] - box[1]) + moved * stride
    u, v = 2 * x / (width * stride) - 1, 2 * y / (height * stride) - 1  # (P,) from −1 to 1 across the image
    grid = torch.stack(torch.broadcast_tensors(u[None, :], v[:, None]), -1)[..., list(order)]  # (P, P, 2)
    how = {"mode": mode, "padding_mode": padding, "align_corners": align_corners}
    return F.grid_sample(features[None], grid[None].to(features.dtype), **how)[0]  # type: ignore[arg-type]


def _rounded_box(features: Tensor, box: Tensor, size: int, stride: float) -> Tensor:
    return _sampled(features, torch.round(box / stride) * stride, size, stride)


def _four_samples(features: Tensor, box: Tensor, size: int, stride: float) -> Tensor:
    fine = _sampled(features, box, 2 * size, stride)
    return F.avg_pool2d(fine[None], 2)[0]


def _halves(features: Tensor, box: Tensor, size: int, stride: float) -> Tensor:
    """Positions from 0 to 1 instead of −1 to 1."""
    grown = torch.cat([box[:2], box[2:]]) / 2 + torch.tensor(features.shape[1:][::-1]).repeat(2) * stride / 2
    return _sampled(features, grown, size, stride)


def _by_affine_grid(features: Tensor, box: Tensor, size: int, stride: float) -> Tensor:
    """The positions from torch's own affine_grid, a scale and a shift of the whole image."""
    height, width = features.shape[1:]
    across = torch.tensor([width * stride, height * stride], dtype=box.dtype)
    scale, shift = (box[2:] - box[:2]) / across, (box[2:] + box[:2]) / across - 1
    theta = torch.stack([torch.tensor([scale[0], 0, shift[0]]), torch.tensor([0, scale[1], shift[1]])])
    grid = F.affine_grid(theta[None].to(features.dtype), [1, 1, size, size], align_corners=False)
    return F.grid_sample(features[None], grid, padding_mode="border", align_corners=False)[0]


def _by_points(features: Tensor, box: Tensor, size: int, stride: float) -> np.ndarray:
    """Point by point in float64; changes the box that it is given into cells."""
    box /= stride
    x0, y0, x1, y1 = box.tolist()
    wide, patch = features.double(), np.zeros((len(features), size, size))
    for p in range(size):
        for q in range(size):
            y, x = y0 + (p + 0.5) / size * (y1 - y0) - 0.5, x0 + (q + 0.5) / size * (x1 - x0) - 0.5
            patch[:, p, q] = bilinear_sample(wide, torch.tensor(y).double(), torch.tensor(x).double()).numpy()
    return patch


def _by_torchvision(features: Tensor, box: Tensor, size: int, stride: float) -> Tensor:
    return torchvision_roi_align(features[None], [box[None]], size, 1 / stride, sampling_ratio=1, aligned=True)[0]


def _by_corners(features: Tensor, box: Tensor, size: int, stride: float) -> Tensor:
    """align_corners=True, with −1 and 1 at the middles of the outer cells."""
    height, width = features.shape[1:]
    middle = (torch.arange(size) + 0.5) / size
    x = (box[0] + middle * (box[2] - box[0])) / stride - 0.5
    y = (box[1] + middle * (box[3] - box[1])) / stride - 0.5
    v, u = torch.meshgrid(2 * y / (height - 1) - 1, 2 * x / (width - 1) - 1, indexing="ij")
    grid = torch.stack([u, v], -1).to(features.dtype)
    return F.grid_sample(features[None], grid[None], padding_mode="border", align_corners=True)[0]


def _patches() -> Mapping[str, tuple[Tensor, Tensor, int, float]]:
    features = torch.randn(2, 9, 12, generator=torch.Generator().manual_seed(18))
    return {
        "a box inside the map": (features, torch.tensor([10.3, 12.9, 61.0, 50.2]), 4, 8.0),
        "one bin": (features, torch.tensor([30.0, 20.0, 41.0, 44.0]), 1, 8.0),
        "a wide box at stride 4": (features, torch.tensor([3.0, 14.5, 44.0, 21.0]), 3, 4.0),
        "a box at the image's corner": (features, torch.tensor([0.0, 0.0, 12.0, 9.0]), 5, 8.0),
        "the other corner": (features, torch.tensor([80.0, 60.0, 96.0, 72.0]), 4, 8.0),
    }


BY_GRID_SAMPLE = Exercise(
    solution=by_grid_sample,
    wrong={
        "align_corners": (
            lambda *a: _sampled(*a, align_corners=True),
            "With align_corners=True −1 and 1 are the middles of the outer cells. Here they must be the borders.",
        ),
        "row_first": (
            lambda *a: _sampled(*a, order=(1, 0)),
            "The last axis of a grid is (x, y), not (row, column).",
        ),
        "bin_corner": (
            lambda *a: _sampled(*a, inside=0.0),
            "You sample the top left corner of each bin. Its middle is half a bin further.",
        ),
        "bin_end": (
            lambda *a: _sampled(*a, inside=1.0),
            "You sample the lower right corner of each bin. Its middle is half a bin before.",
        ),
        "box_ends": (
            lambda *a: _sampled(*a, ends=True),
            "Your samples reach from edge to edge of the box. They lie in the middles of the bins.",
        ),
        "half_twice": (
            lambda *a: _sampled(*a, moved=-0.5),
            "You subtract half a cell. With align_corners=False grid_sample does that itself.",
        ),
        "not_aligned": (
            lambda *a: _sampled(*a, moved=0.5),
            "All samples lie half a cell too far right and down: that is aligned=False.",
        ),
        "stride_forgotten": (
            lambda f, b, p, s: _sampled(f, b, p, 1.0),
            "You divide pixels by the number of cells. The map covers width · stride pixels.",
        ),
        "sides_swapped": (
            lambda *a: _sampled(*a, swapped=True),
            "You divide x by the height and y by the width.",
        ),
        "from_zero": (
            _halves,
            "Your positions run from 0 to 1 across the map. They run from −1 to 1.",
        ),
        "zeros": (
            lambda *a: _sampled(*a, padding="zeros"),
            'At the image\'s border your samples mix with 0. Let padding_mode be "border".',
        ),
        "nearest": (
            lambda *a: _sampled(*a, mode="nearest"),
            "You take the nearest cell. RoIAlign samples bilinearly.",
        ),
        "rounded_box": (
            _rounded_box,
            "You round the box to cells. RoIAlign leaves it as it is.",
        ),
        "four_samples": (
            _four_samples,
            "You take the mean of 2 × 2 samples a bin. Here one sample in the middle is asked for.",
        ),
        "transposed": (
            lambda *a: _sampled(*a).mT,
            "Rows and columns of your patch are swapped: the first axis of the grid is that of the rows.",
        ),
        "batched": (
            lambda *a: _sampled(*a)[None],
            "Your patch still has the axis of the batch. Return (C, size, size).",
        ),
    },
    right={
        "affine_grid": _by_affine_grid,
        "loops, in place, NumPy, float64": _by_points,
        "torchvision": _by_torchvision,
        "align_corners=True, rescaled": _by_corners,
    },
    probes=_patches,
    hint="Sample the middles of the bins; −1 is the image's left border, 1 its right one.",
    sketch="""
        middle = the middles of the bins as shares of the box, (arange(size) + …) / size
        x, y = the pixels where they lie                                  # (size,) each
        x, y = the same from −1 to 1: 2 · x / (…) − 1
        grid = pairs (x, y) for every row and column                      # (size, size, 2)
        return F.grid_sample(…, mode="bilinear", padding_mode="border", align_corners=…)[0]
    """,
    tolerance=1e-4,
)


# How far a patch jumps ------------------------------------------------------------------------------------------------


def largest_jump(pool: Pool, box: Tensor, step: float, steps: int) -> Tensor:
    """The largest mean change of a patch while its box moves right in small steps."""
    return _changes(pool, box, step, steps).abs().mean(1).max()


def _changes(
    pool: Pool,
    box: Tensor,
    step: float,
    steps: int,
    *,
    along: tuple[float, ...] = (1, 0, 1, 0),
    first: int = 0,
    last: int = 0,
) -> Tensor:
    """The changes of the patch from place to place, ``(steps, C·P·P)``."""
    places = range(first, steps + 1 + last)
    patches = torch.stack([pool(box + step * i * torch.tensor(along)) for i in places])  # (steps + 1, C, P, P)
    return (patches[1:] - patches[:-1]).flatten(1)


def _moved(**changes: Any) -> Callable[[Pool, Tensor, float, int], Tensor]:
    return lambda *a: _changes(*a, **changes).abs().mean(1).max()


def _from_start(pool: Pool, box: Tensor, step: float, steps: int) -> Tensor:
    patches = torch.stack([pool(box + step * i * torch.tensor([1.0, 0, 1, 0])) for i in range(steps + 1)])
    return (patches[1:] - patches[0]).abs().flatten(1).mean(1).max()


def _summed_up(reduce: Callable[[Tensor], Tensor]) -> Callable[[Pool, Tensor, float, int], Tensor]:
    """``largest_jump`` with another summary of the changes ``(steps, C·P·P)``."""
    return lambda *a: reduce(_changes(*a))


def _jump_in_place(pool: Pool, box: Tensor, step: float, steps: int) -> float:
    """Moves the box that it is given."""
    before, largest = pool(box), 0.0
    for _ in range(steps):
        box[0] += step
        box[2] += step
        patch = pool(box)
        largest = max(largest, float((patch - before).abs().mean()))
        before = patch
    return largest


def _jump_with_numpy(pool: Pool, box: Tensor, step: float, steps: int) -> np.floating[Any]:
    places = box.numpy() + step * np.arange(steps + 1)[:, None] * np.array([1, 0, 1, 0])
    patches = np.stack([pool(torch.tensor(b, dtype=torch.float32)).double().numpy() for b in places])
    return np.abs(np.diff(patches, axis=0)).reshape(steps, -1).mean(1).max()


def _pools() -> Mapping[str, tuple[Pool, Tensor, float, int]]:
    features = torch.randn(1, 3, 8, 10, generator=torch.Generator().manual_seed(28))
    first = torch.tensor([0])
    pools: dict[str, Pool] = {
        "RoI Pooling": lambda box: roi_pool(features, box[None], first, 3, strides=8.0)[0],
        "RoIAlign": lambda box: roi_align(features, box[None], first, 3, strides=8.0)[0],
        # counts its steps from the left: the jump into the last place is the largest
        "a patch that is the square of the box's left side": lambda box: box[0].square().view(1, 1, 1),
        # and here the jump out of the first place
        "a patch that is the root of the box's left side": lambda box: (box[0] - 10).sqrt().expand(2, 1, 1),
    }
    box = torch.tensor([10.2, 15.1, 43.7, 50.0])
    return {f"{name}, {steps} steps of {step}": (pool, box, step, steps) for name, pool in pools.items()
            for step, steps in ((0.5, 12), (1.5, 5), (2.0, 1))}  # fmt: skip


JUMP = Exercise(
    solution=largest_jump,
    wrong={
        "from_start": (
            _from_start,
            "You compare with the patch of the first box. Compare each patch with the one before it.",
        ),
        "mean_step": (
            _summed_up(lambda change: change.abs().mean(1).mean()),
            "That is the mean over the steps. A jump hides in a mean: take the largest.",
        ),
        "smallest_step": (
            _summed_up(lambda change: change.abs().mean(1).min()),
            "That is the smallest step. The largest is asked for.",
        ),
        "largest_number": (
            _summed_up(lambda change: change.abs().max()),
            "You take the largest change of one number. Take the mean over the patch, then the largest over the steps.",
        ),
        "summed": (
            _summed_up(lambda change: change.abs().sum(1).max()),
            "You sum over the patch. Take the mean, so that patches of any size compare.",
        ),
        "squared": (
            _summed_up(lambda change: change.square().mean(1).sqrt().max()),
            "You take the root of the mean square. The mean absolute change is asked for.",
        ),
        "mean_square": (
            _summed_up(lambda change: change.square().mean(1).max()),
            "You take squares. The mean absolute change is asked for.",
        ),
        "signed": (
            _summed_up(lambda change: change.mean(1).max()),
            "Rises and falls cancel in your mean. Take the absolute change of every number first.",
        ),
        "late_absolute": (
            _summed_up(lambda change: change.mean(1).abs().max()),
            "You take the mean first and its absolute value then. Take the absolute change of every number first.",
        ),
        "downwards": (
            _moved(along=(0, 1, 0, 1)),
            "Your box moves down. x is the first and the third number of a box.",
        ),
        "leftwards": (
            _moved(along=(-1, 0, -1, 0)),
            "Your box moves to the left: add the steps to x.",
        ),
        "aslant": (
            _moved(along=(1, 1, 1, 1)),
            "Your box moves right and down. Only x changes.",
        ),
        "grown": (
            _moved(along=(0, 0, 1, 0)),
            "Your box grows: its left side must move too.",
        ),
        "shrunk": (
            _moved(along=(1, 0, 0, 0)),
            "Your box shrinks: its right side must move too.",
        ),
        "one_short": (
            lambda *a: _changes(*a, last=-1).abs().mean(1).max() if a[3] > 1 else torch.tensor(0.0),
            "You make one step too few: n steps visit n + 1 places.",
        ),
        "one_more": (
            _moved(last=1),
            "You make one step too many: n steps visit n + 1 places.",
        ),
        "first_left_out": (
            lambda *a: _changes(*a, first=1).abs().mean(1).max() if a[3] > 1 else torch.tensor(0.0),
            "You leave out the box where it stands: the first step leads away from it.",
        ),
        "step_ignored": (
            lambda pool, box, step, steps: largest_jump(pool, box, 1.0, steps),
            "Your steps are 1 pixel long. Their length is an argument.",
        ),
    },
    right={
        "in place": _jump_in_place,
        "NumPy": _jump_with_numpy,
        "a list of numbers": lambda pool, box, step, steps: max(
            _changes(pool, box, step, steps).abs().double().mean(1).tolist()
        ),
    },
    probes=_pools,
    hint="Pool at every place, subtract neighbours, take the mean size of the change in each step, then the maximum.",
    sketch="""
        patches = pool at every place: box + i · step · (1, 0, 1, 0) for i = 0 … steps
        changes = each patch minus …
        one number for each step: the mean of …
        return the …
    """,
)


EXERCISES = {
    **PIECES,
    "ch08.columns": COLUMNS,
    "ch08.slope": SLOPE,
    "ch08.levels": LEVELS,
    "ch08.grid_sample": BY_GRID_SAMPLE,
    "ch08.jump": JUMP,
    "ch08.twins": TWINS,
}
