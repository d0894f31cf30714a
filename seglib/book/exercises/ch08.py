"""The exercises of chapter 8, "RoIAlign"."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.book.exercise import Exercise
from seglib.ops.roi import roi_align, roi_levels, roi_pool

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
    },
    hint="Divide by 16 and round: first and last column of the box. Then cut last − first + 1 columns into two bins; a "
    "bin's first column is rounded down and its end up.",
)


# The gradient of a bilinear sample ------------------------------------------------------------------------------------


def slope(values: Tensor, y: float, x: float) -> tuple[Tensor, Tensor]:
    """The derivatives of a bilinear sample of ``values`` (C, H, W) inside the map: along y and along x, (C,) each."""
    top, left = int(y), int(x)
    fy, fx = y - top, x - left
    a, b = values[:, top, left], values[:, top, left + 1]
    c, d = values[:, top + 1, left], values[:, top + 1, left + 1]
    return (1 - fx) * (c - a) + fx * (d - b), (1 - fy) * (b - a) + fy * (d - c)


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


def _points() -> Mapping[str, tuple[Tensor, float, float]]:
    values = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(8)).round(decimals=1)
    places = [(1.25, 2.5), (0.0, 3.75), (2.9, 0.1), (1.0, 1.0)]
    return {f"the point (y, x) = {place}": (values, *place) for place in places}


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
        "summed": (
            lambda v, y, x: tuple(s.sum() for s in slope(v, y, x)),
            "You sum over the channels. Each channel has its own slope: return (C,) twice.",
        ),
    },
    probes=_points,
    hint="Write the sample as (1 − fy)·((1 − fx)·a + fx·b) + fy·((1 − fx)·c + fx·d), and take the derivatives by fy "
    "and fx.",
)


# The level that serves a box ------------------------------------------------------------------------------------------


def levels(boxes: Tensor, count: int) -> Tensor:
    """The level of each box, 0 for the finest of ``count`` (stride 4); 224 pixels belong to level 2."""
    return roi_levels(boxes, count)


def _from_size(size: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, int], Tensor]:
    """``levels`` with another size of a box, from its width and height."""

    def answer(boxes: Tensor, count: int) -> Tensor:
        width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
        return torch.floor(2 + torch.log2(size(width, height) / 224 + 1e-8)).clamp(0, count - 1).long()

    return answer


def _levels_with(to_whole: Callable[[Tensor], Tensor], low: float, add: float) -> Callable[[Tensor, int], Tensor]:
    def answer(boxes: Tensor, count: int) -> Tensor:
        size = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
        return to_whole(add + torch.log2(size / 224 + 1e-8)).clamp(low, count - 1).long()

    return answer


def _boxes() -> Mapping[str, tuple[Tensor, int]]:
    sides = {
        "a box of 224 × 224": (224, 224), "one of 112 × 448": (112, 448), "one of 100 × 100": (100, 100),
        "one of 223 × 223": (223, 223), "one of 8 × 8": (8, 8), "one of 700 × 800": (700, 800),
        "one of 300 × 60": (300, 60), "one of 400 × 400": (400, 400),
    }  # fmt: skip
    return {name: (torch.tensor([[10.0, 20.0, 10 + w, 20 + h]]), 4) for name, (w, h) in sides.items()} | {
        "a box of 700 × 800 with 3 levels": (torch.tensor([[0.0, 0, 700, 800]]), 3)
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
        "rounded": (
            _levels_with(torch.round, 0, 2),
            "You round to the nearest level. The formula rounds down: 223 pixels are one level below 224.",
        ),
        "unclamped": (
            _levels_with(torch.floor, -9, 2),
            "A small box gets a level below the finest. Clamp to the levels that there are.",
        ),
        "canonical": (
            _levels_with(torch.floor, 0, 4),
            "224 pixels belong to P4, which is index 2 in a list that starts with P2.",
        ),
    },
    probes=_boxes,
    hint="⌊4 + log2(√(wh) / 224)⌋ is the paper's level; P2 is index 0.",
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
) -> Tensor:
    height, width = features.shape[1:]
    middle = (torch.arange(size) + inside) / size
    x = box[0] + middle * (box[2] - box[0]) + moved * stride
    y = box[1] + middle * (box[3] - box[1]) + moved * stride
    u, v = 2 * x / (width * stride) - 1, 2 * y / (height * stride) - 1  # (P,) from −1 to 1 across the image
    grid = torch.stack(torch.broadcast_tensors(u[None, :], v[:, None]), -1)[..., list(order)]  # (P, P, 2)
    how = {"mode": "bilinear", "padding_mode": "border", "align_corners": align_corners}
    return F.grid_sample(features[None], grid[None].to(features.dtype), **how)[0]  # type: ignore[arg-type]


def _patches() -> Mapping[str, tuple[Tensor, Tensor, int, float]]:
    features = torch.randn(2, 9, 12, generator=torch.Generator().manual_seed(18))
    return {
        "a box inside the map": (features, torch.tensor([10.3, 12.9, 61.0, 50.2]), 4, 8.0),
        "one bin": (features, torch.tensor([30.0, 20.0, 41.0, 44.0]), 1, 8.0),
        "a wide box at stride 4": (features, torch.tensor([3.0, 14.5, 44.0, 21.0]), 3, 4.0),
        "a box at the image's corner": (features, torch.tensor([0.0, 0.0, 12.0, 9.0]), 5, 8.0),
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
        "transposed": (
            lambda *a: _sampled(*a).mT,
            "Rows and columns of your patch are swapped: the first axis of the grid is that of the rows.",
        ),
    },
    probes=_patches,
    hint="Sample the middles of the bins; −1 is the image's left border, 1 its right one.",
    tolerance=1e-4,
)


# How far a patch jumps ------------------------------------------------------------------------------------------------


def largest_jump(pool: Pool, box: Tensor, step: float, steps: int) -> Tensor:
    """The largest mean change of a patch while its box moves right in small steps."""
    patches = torch.stack([pool(box + step * i * torch.tensor([1.0, 0, 1, 0])) for i in range(steps + 1)])
    return (patches[1:] - patches[:-1]).abs().flatten(1).mean(1).max()


def _moved(
    pool: Pool, box: Tensor, step: float, steps: int, *, along: tuple[float, ...] = (1, 0, 1, 0), last: int = 1
) -> Tensor:
    places = range(steps + last)
    patches = torch.stack([pool(box + step * i * torch.tensor(along)) for i in places])  # (steps + 1, C, P, P)
    return (patches[1:] - patches[:-1]).abs().flatten(1).mean(1).max()


def _from_start(pool: Pool, box: Tensor, step: float, steps: int) -> Tensor:
    patches = torch.stack([pool(box + step * i * torch.tensor([1.0, 0, 1, 0])) for i in range(steps + 1)])
    return (patches[1:] - patches[0]).abs().flatten(1).mean(1).max()


def _over_patches(
    reduce: Callable[[Tensor], Tensor], absolute: bool = True
) -> Callable[[Pool, Tensor, float, int], Tensor]:
    """``largest_jump`` with another summary of the changes ``(steps, C·P·P)``."""

    def answer(pool: Pool, box: Tensor, step: float, steps: int) -> Tensor:
        places = (box + step * i * torch.tensor([1.0, 0, 1, 0]) for i in range(steps + 1))
        patches = torch.stack([pool(place) for place in places])
        change = (patches[1:] - patches[:-1]).flatten(1)
        return reduce(change.abs() if absolute else change)

    return answer


def _pools() -> Mapping[str, tuple[Pool, Tensor, float, int]]:
    features = torch.randn(1, 3, 8, 10, generator=torch.Generator().manual_seed(28))
    first = torch.tensor([0])
    pools: dict[str, Pool] = {
        "RoI Pooling": lambda box: roi_pool(features, box[None], first, 3, strides=8.0)[0],
        "RoIAlign": lambda box: roi_align(features, box[None], first, 3, strides=8.0)[0],
        # counts its steps from the left: the jump into the last place is the largest
        "a patch that is the square of the box's left side": lambda box: box[0].square().view(1, 1, 1),
    }
    box = torch.tensor([10.2, 15.1, 43.7, 50.0])
    return {f"{name}, {steps} steps of {step}": (pool, box, step, steps) for name, pool in pools.items()
            for step, steps in ((0.5, 12), (1.5, 5))}  # fmt: skip


JUMP = Exercise(
    solution=largest_jump,
    wrong={
        "from_start": (
            _from_start,
            "You compare with the patch of the first box. Compare each patch with the one before it.",
        ),
        "mean_step": (
            _over_patches(lambda change: change.mean(1).mean()),
            "That is the mean over the steps. A jump hides in a mean: take the largest.",
        ),
        "largest_number": (
            _over_patches(lambda change: change.max()),
            "You take the largest change of one number. Take the mean over the patch, then the largest over the steps.",
        ),
        "signed": (
            _over_patches(lambda change: change.mean(1).max(), absolute=False),
            "Rises and falls cancel in your mean. Take the absolute change of every number first.",
        ),
        "downwards": (
            lambda *a: _moved(*a, along=(0, 1, 0, 1)),
            "Your box moves down. x is the first and the third number of a box.",
        ),
        "grown": (
            lambda *a: _moved(*a, along=(0, 0, 1, 0)),
            "Your box grows: its left side must move too.",
        ),
        "one_short": (
            lambda *a: _moved(*a, last=0),
            "You make one step too few: n steps visit n + 1 places.",
        ),
    },
    probes=_pools,
    hint="Pool at every place, subtract neighbours, take the mean size of the change in each step, then the maximum.",
)


EXERCISES = {
    "ch08.columns": COLUMNS,
    "ch08.slope": SLOPE,
    "ch08.levels": LEVELS,
    "ch08.grid_sample": BY_GRID_SAMPLE,
    "ch08.jump": JUMP,
}
