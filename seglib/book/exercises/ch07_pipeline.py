"""The pieces of chapter 7 that the reader writes in "From scratch": from two boxes to a list of proposals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seglib.book.exercise import Exercise, expect
from seglib.losses.assign import BACKGROUND, IGNORE, match_boxes
from seglib.ops.boxes import box_iou
from seglib.ops.nms import nms as seglib_nms

# Every box with every box ---------------------------------------------------------------------------------------------


def _sides(a: Tensor, b: Tensor) -> Tensor:
    """Width and height of every pair's intersection ``(N, M, 2)``, negative where the boxes are apart."""
    return torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2])


def _areas(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The areas ``(N, 1)`` and ``(M,)``."""
    return (a[:, 2:] - a[:, :2]).prod(1)[:, None], (b[:, 2:] - b[:, :2]).prod(1)


def _overlap_by(value: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """An overlap from the intersection ``(N, M)`` and both areas, ``(N, 1)`` and ``(M,)``."""
    return lambda a, b: value(_sides(a, b).clamp(min=0).prod(2), *_areas(a, b))


def _from_inter(inter: Tensor, a: Tensor, b: Tensor) -> Tensor:
    own, other = _areas(a, b)
    return inter / (own + other - inter)


def _plus_one(a: Tensor, b: Tensor) -> Tensor:
    one = torch.tensor([0.0, 0, 1, 1])
    return box_iou(a + one, b + one)


def _as_sizes(a: Tensor, b: Tensor) -> Tensor:
    """Takes the last two numbers for width and height."""
    return box_iou(torch.cat([a[:, :2], a[:, :2] + a[:, 2:]], 1), torch.cat([b[:, :2], b[:, :2] + b[:, 2:]], 1))


def _stacked_rows(a: Tensor, b: Tensor) -> Tensor:
    """Row by row, and a stack of no rows raises."""
    return torch.stack([box_iou(row[None], b)[0] for row in a])


def _paired(a: Tensor, b: Tensor) -> Tensor:
    """Box n of one set with box n of the other."""
    n = min(len(a), len(b))
    return box_iou(a[:n], b[:n]).diagonal()


def _overlap_by_loops(a: Tensor, b: Tensor) -> Tensor:
    out = torch.zeros(len(a), len(b))
    for n, (x0, y0, x1, y1) in enumerate(a.tolist()):
        for m, (u0, v0, u1, v1) in enumerate(b.tolist()):
            inter = max(0.0, min(x1, u1) - max(x0, u0)) * max(0.0, min(y1, v1) - max(y0, v0))
            out[n, m] = inter / ((x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - inter)
    return out


def _overlap_with_numpy(a: Tensor, b: Tensor) -> np.ndarray:
    p, q = a.double().numpy()[:, None], b.double().numpy()[None]
    inter = np.prod(np.clip(np.minimum(p[..., 2:], q[..., 2:]) - np.maximum(p[..., :2], q[..., :2]), 0, None), -1)
    own, other = np.prod(p[..., 2:] - p[..., :2], -1), np.prod(q[..., 2:] - q[..., :2], -1)
    return inter / (own + other - inter)


def _overlap_in_place(a: Tensor, b: Tensor) -> Tensor:
    """Turns its arguments into corners and sizes."""
    end_a, end_b = a[:, 2:].clone(), b[:, 2:].clone()
    a[:, 2:] -= a[:, :2]
    b[:, 2:] -= b[:, :2]
    low = torch.where(a[:, None, :2] > b[:, :2], a[:, None, :2], b[:, :2])
    high = torch.where(end_a[:, None] < end_b, end_a[:, None], end_b)
    inter = (high - low).relu_().prod(2)
    return inter.div_(a[:, 2:].prod(1)[:, None] + b[:, 2:].prod(1) - inter)


def _some_boxes(count: int, generator: torch.Generator) -> Tensor:
    corner = 30 * torch.rand(count, 2, generator=generator)
    return torch.cat([corner, corner + 2 + 18 * torch.rand(count, 2, generator=generator)], 1)


def _box_sets() -> Mapping[str, tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(11)
    one = torch.tensor([[1.0, 1, 5, 4]])
    return {
        "two boxes that overlap": (one, torch.tensor([[3.0, 2, 7, 6]])),
        "boxes that are apart along both axes": (one, torch.tensor([[7.0, 8, 9, 10], [-4, -5, -1, -2]])),
        "a box beside": (one, torch.tensor([[7.0, 2, 9, 3], [1, 6, 5, 9]])),
        "boxes that touch": (one, torch.tensor([[5.0, 1, 9, 4], [1, 4, 5, 8], [5, 4, 6, 6]])),
        "a box within another, and the box itself": (one, torch.tensor([[2.0, 2, 3, 3], [1, 1, 5, 4]])),
        "four boxes and seven": (_some_boxes(4, draw), _some_boxes(7, draw)),
        "five boxes and five": (_some_boxes(5, draw), _some_boxes(5, draw)),
        "no box and three": (torch.zeros(0, 4), _some_boxes(3, draw)),
        "two boxes and none": (_some_boxes(2, draw), torch.zeros(0, 4)),
    }


OVERLAP = Exercise(
    solution=box_iou,
    wrong={
        "negative_sides": (
            lambda a, b: _from_inter(_sides(a, b).prod(2), a, b),
            "Boxes that are apart have negative sides: cut each side off at 0 before you multiply.",
        ),
        "cut_too_late": (
            lambda a, b: _from_inter(_sides(a, b).prod(2).clamp(min=0), a, b),
            "You cut the product off at 0. Boxes that are apart along *both* axes have two negative sides, with a "
            "positive product: cut each side.",
        ),
        "absolute": (
            lambda a, b: _from_inter(_sides(a, b).abs().prod(2), a, b),
            "A negative side means that the boxes are apart: make it 0, not positive.",
        ),
        "plus_one": (
            _plus_one,
            "You count pixels with + 1. Corners are continuous here: a width is x₁ − x₀.",
        ),
        "sum_of_areas": (
            _overlap_by(lambda inter, own, other: inter / (own + other)),
            "Your union counts the intersection twice: subtract it once.",
        ),
        "dice": (
            _overlap_by(lambda inter, own, other: 2 * inter / (own + other)),
            "That is Dice. IoU divides the intersection by the union.",
        ),
        "of_the_first": (
            _overlap_by(lambda inter, own, other: inter / (own + 0 * other)),
            "You divide by the area of the first box alone.",
        ),
        "of_the_second": (
            _overlap_by(lambda inter, own, other: inter / (0 * own + other)),
            "You divide by the area of the second box alone.",
        ),
        "of_the_smaller": (
            _overlap_by(lambda inter, own, other: inter / torch.minimum(own, other)),
            "You divide by the smaller area. A box within another would have an IoU of 1.",
        ),
        "intersection": (
            _overlap_by(lambda inter, own, other: inter),
            "That is the area of the intersection. Divide it by the union.",
        ),
        "hull": (
            lambda a, b: (
                _sides(a, b).clamp(min=0).prod(2)
                / (torch.maximum(a[:, None, 2:], b[:, 2:]) - torch.minimum(a[:, None, :2], b[:, :2])).prod(2)
            ),
            "You divide by the box around both. The union is the sum of the areas less the intersection.",
        ),
        "turned": (
            lambda a, b: box_iou(b, a),
            "Rows belong to a and columns to b: the shape is (N, M).",
        ),
        "pairs": (
            _paired,
            "You compare box n with box n. Every box of a meets every box of b.",
        ),
        "sizes": (
            _as_sizes,
            "You take the last two numbers for width and height. They are the right and the lower edge.",
        ),
        "stacked": (
            _stacked_rows,
            "N or M may be 0, and a stack of nothing is not defined. Broadcast, or fill zeros of shape (N, M).",
        ),
    },
    right={
        "loops": _overlap_by_loops,
        "NumPy, float64": _overlap_with_numpy,
        "in place": _overlap_in_place,
    },
    probes=_box_sets,
    hint="The intersection reaches from the larger left edge to the smaller right one, and from the larger upper edge "
    "to the smaller lower one.",
    sketch="""
        low = the larger of the left and upper corners, a[:, None, :2] and …   # (N, M, 2)
        high = the smaller of the right and lower corners                      # (N, M, 2)
        inter = the product of (high − low), each side at least …              # (N, M)
        return inter / (area of a + area of b − …)
    """,
)


# From deltas to boxes -------------------------------------------------------------------------------------------------


def decode(t: Tensor, anchors: Tensor) -> Tensor:
    """Boxes ``(N, 4)`` that deltas ``(N, 4)`` make of anchors ``(N, 4)``, without a limit."""
    return _decoded(t, anchors)


def _decoded(
    t: Tensor,
    anchors: Tensor,
    *,
    scale: Callable[[Tensor], Tensor] = torch.exp,
    shift: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda t, size_a, size: t * size_a,
    start: Callable[[Tensor, Tensor], Tensor] = lambda corner, size: corner + size / 2,
    box: Callable[[Tensor, Tensor], Tensor] = lambda centre, size: torch.cat([centre - size / 2, centre + size / 2], 1),
) -> Tensor:
    """Decoding with another scale, shift, place of the anchor, or form of the box."""
    size_a = anchors[:, 2:] - anchors[:, :2]
    size = size_a * scale(t[:, 2:])
    return box(start(anchors[:, :2], size_a) + shift(t[:, :2], size_a, size), size)


def _decode(**changes: Any) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda t, anchors: _decoded(t, anchors, **changes)


def _decode_corners(t: Tensor, anchors: Tensor) -> Tensor:
    """Moves the two corners by two deltas each."""
    size = (anchors[:, 2:] - anchors[:, :2]).repeat(1, 2)
    return anchors + t * size


def _first_box_only(t: Tensor, anchors: Tensor) -> Tensor:
    return decode(t[:1], anchors[:1])


def _decode_by_loops(t: Tensor, anchors: Tensor) -> Tensor:
    out = torch.zeros(len(t), 4)
    for n, ((tx, ty, tw, th), (x0, y0, x1, y1)) in enumerate(zip(t.double().tolist(), anchors.tolist(), strict=True)):
        x, w = (x0 + x1) / 2 + tx * (x1 - x0), (x1 - x0) * float(np.exp(tw))
        y, h = (y0 + y1) / 2 + ty * (y1 - y0), (y1 - y0) * float(np.exp(th))
        out[n] = torch.tensor([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return out


def _decode_with_numpy(t: Tensor, anchors: Tensor) -> np.ndarray:
    d, a = t.double().numpy(), anchors.double().numpy()
    size = a[:, 2:] - a[:, :2]
    centre, half = a[:, :2] + size * (0.5 + d[:, :2]), size * np.exp(d[:, 2:]) / 2
    return np.hstack([centre - half, centre + half])


def _decode_in_place(t: Tensor, anchors: Tensor) -> Tensor:
    """Turns the anchors into the boxes, and the deltas into their sizes."""
    size = anchors[:, 2:] - anchors[:, :2]
    t[:, :2] *= size
    t[:, 2:].exp_().mul_(size)
    anchors[:, :2] += size / 2 + t[:, :2] - t[:, 2:] / 2
    anchors[:, 2:] = anchors[:, :2] + t[:, 2:]
    return anchors


def _deltas() -> Mapping[str, tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(12)
    four = torch.tensor([[2.0, 2, 6, 6]])
    return {
        "deltas of 0": (torch.zeros(1, 4), four),
        "a shift to the right alone": (torch.tensor([[0.75, 0.0, 0, 0]]), four),
        "a flat anchor that moves": (torch.tensor([[0.5, -0.5, 0, 0]]), torch.tensor([[0.0, 0, 8, 2]])),
        "twice as wide, half as high": (torch.tensor([[0.0, 0, 2, 0.5]]).log().nan_to_num(neginf=0.0), four),
        "the example of station 2": (torch.tensor([[0.75, 0.25, 0.6931472, -0.6931472]]), four),
        "six random ones": (0.7 * torch.randn(6, 4, generator=draw), _some_boxes(6, draw)),
        "a scale of e⁵": (torch.tensor([[0.1, 0.2, 5, -3]]), four),
        "no anchor": (torch.zeros(0, 4), torch.zeros(0, 4)),
    }


DECODE = Exercise(
    solution=decode,
    wrong={
        "corner": (
            _decode(start=lambda corner, size: corner),
            "You move the anchor's upper left corner. The shift is one of the centres.",
        ),
        "from_the_corner": (
            _decode(
                start=lambda corner, size: corner,
                box=lambda corner, size: torch.cat([corner, corner + size], 1),
            ),
            "Your box keeps the anchor's corner where the size changes. Sizes change around the *centre*.",
        ),
        "pixels": (
            _decode(shift=lambda t, size_a, size: t),
            "You add t_x and t_y as pixels. They are shares of the anchor's width and height.",
        ),
        "new_size": (
            _decode(shift=lambda t, size_a, size: t * size),
            "You multiply the shift by the *new* size. Equation 1 divides by the anchor's.",
        ),
        "one_side": (
            _decode(shift=lambda t, size_a, size: t * size_a[:, :1]),
            "You multiply both shifts by the anchor's width. t_y is a share of its height.",
        ),
        "other_side": (
            _decode(shift=lambda t, size_a, size: t * size_a.flip(1)),
            "You multiply t_x by the height and t_y by the width.",
        ),
        "no_exponential": (
            _decode(scale=lambda t: t),
            "You multiply the size by t_w itself. t_w is a logarithm: a t_w of 0 leaves the size as it is.",
        ),
        "linear": (
            _decode(scale=lambda t: 1 + t),
            "1 + t_w is the exponential for small t_w alone. Undo the logarithm.",
        ),
        "base_two": (
            _decode(scale=lambda t: 2**t),
            "You take 2 to the power of t_w. The logarithm is the natural one.",
        ),
        "shrinks": (
            _decode(scale=lambda t: torch.exp(-t)),
            "Your boxes shrink where they should grow: t_w is the logarithm of the object's size over the anchor's.",
        ),
        "swapped": (
            _decode(scale=lambda t: t.flip(1).exp()),
            "You swap t_w and t_h. The order is x, y, width, height.",
        ),
        "whole_size": (
            _decode(box=lambda centre, size: torch.cat([centre - size, centre + size], 1)),
            "Your boxes are twice as large: from the centre it is half a size to each side.",
        ),
        "centre_and_size": (
            _decode(box=lambda centre, size: torch.cat([centre, size], 1)),
            "Those are centre and size. Return the corners: x₀, y₀, x₁, y₁.",
        ),
        "corner_and_size": (
            _decode(box=lambda centre, size: torch.cat([centre - size / 2, size], 1)),
            "Those are the upper left corner and the size. Return two corners.",
        ),
        "corners_moved": (
            _decode_corners,
            "You move each corner by two of the deltas. The first two move the centre, the others scale the size.",
        ),
        "limited": (
            _decode(scale=lambda t: t.clamp(max=4.135166556742356).exp()),
            "You limit the exponent, as libraries do (station 7). Here nothing is limited.",
        ),
        "first_only": (
            _first_box_only,
            "You return one box. Every anchor gets one.",
        ),
        "stacked": (
            lambda t, anchors: torch.stack([decode(d[None], a[None])[0] for d, a in zip(t, anchors, strict=True)]),
            "N may be 0, and a stack of nothing is not defined. Work on all rows at once.",
        ),
    },
    right={
        "loops, float64": _decode_by_loops,
        "NumPy, float64": _decode_with_numpy,
        "in place": _decode_in_place,
    },
    probes=_deltas,
    hint="Solve equation 1 for x, y, w and h, then turn the centre and the size into two corners.",
    sketch="""
        size_a = the anchors' widths and heights                           # (N, 2)
        centre = the anchors' centres + t[:, :2] * …                       # (N, 2)
        size = size_a * … of t[:, 2:]                                      # (N, 2)
        return torch.cat([centre − …, centre + …], 1)
    """,
)


# The anchors of a grid ------------------------------------------------------------------------------------------------


def grid(height: int, width: int, stride: int, cell: Tensor, offset: float = 0.5) -> Tensor:
    """``cell (A, 4)`` at every cell of a map: row, column, anchor, ``(H·W·A, 4)``."""
    return _laid(height, width, stride, cell, offset)


def _laid(
    height: int,
    width: int,
    stride: int,
    cell: Tensor,
    offset: float,
    *,
    at: Callable[[Tensor, int, float], Tensor] = lambda i, stride, offset: stride * (i + offset),
    order: str = "row, column, anchor",
    shift: Callable[[Tensor, Tensor], Tensor] = lambda x, y: torch.stack([x, y, x, y], -1),
) -> Tensor:
    """Anchors with other centres, in another order, or moved otherwise."""
    y, x = torch.meshgrid(
        at(torch.arange(height), stride, offset), at(torch.arange(width), stride, offset), indexing="ij"
    )
    boxes = shift(x.float(), y.float())[:, :, None] + cell  # (H, W, A, 4)
    names = ["row", "column", "anchor"]
    return boxes.permute(*[names.index(name) for name in order.split(", ")], 3).reshape(-1, 4)


def _grid(**changes: Any) -> Callable[..., Tensor]:
    return lambda height, width, stride, cell, offset=0.5: _laid(height, width, stride, cell, offset, **changes)


def _grid_by_loops(height: int, width: int, stride: int, cell: Tensor, offset: float = 0.5) -> list[list[float]]:
    found = []
    for row in range(height):
        for column in range(width):
            x, y = stride * (column + offset), stride * (row + offset)
            found += [[x0 + x, y0 + y, x1 + x, y1 + y] for x0, y0, x1, y1 in cell.tolist()]
    return found


def _grid_with_numpy(height: int, width: int, stride: int, cell: Tensor, offset: float = 0.5) -> np.ndarray:
    rows, columns = np.divmod(np.arange(height * width), width)
    centre = np.stack([columns, rows, columns, rows], 1) * stride + stride * offset
    return (centre[:, None] + cell.numpy()).reshape(-1, 4)


def _grid_by_repeats(height: int, width: int, stride: int, cell: Tensor, offset: float = 0.5) -> Tensor:
    """Fills a copy in place."""
    boxes = cell.repeat(height * width, 1)
    x = (torch.arange(width) + offset).mul(stride).repeat_interleave(len(cell)).repeat(height)
    y = (torch.arange(height) + offset).mul(stride).repeat_interleave(len(cell) * width)
    boxes[:, 0::2] += x[:, None]
    boxes[:, 1::2] += y[:, None]
    return boxes


def _grids() -> Mapping[str, tuple[int, int, int, Tensor, float]]:
    square = torch.tensor([[-3.0, -3, 3, 3]])
    two = torch.tensor([[-4.0, -2, 4, 2], [-2, -4, 2, 4]])
    three = torch.tensor([[-8.5, -4.25, 8.5, 4.25], [-6, -6, 6, 6], [-4.25, -8.5, 4.25, 8.5]])
    return {
        "one cell": (1, 1, 4, square, 0.5),
        "two rows and three columns": (2, 3, 8, square, 0.5),
        "three rows, two columns, two anchors": (3, 2, 4, two, 0.5),
        "an offset of 0": (2, 2, 16, three, 0.0),
        "an offset of a quarter": (2, 4, 2, two, 0.25),
        "four rows and four columns of three anchors": (4, 4, 2, three, 0.5),
    }


GRID = Exercise(
    solution=grid,
    wrong={
        "columns_first": (
            _grid(order="column, row, anchor"),
            "You go down the columns. The order is row by row: the columns of row 0 come first.",
        ),
        "anchor_first": (
            _grid(order="anchor, row, column"),
            "You list the whole grid for the first anchor, then for the next. All anchors of a cell stand together.",
        ),
        "row_anchor": (
            _grid(order="row, anchor, column"),
            "Within a row you go anchor by anchor. Take all anchors of a cell before the next cell.",
        ),
        "swapped": (
            _grid(shift=lambda x, y: torch.stack([y, x, y, x], -1)),
            "You swap x and y: a *column* says how far to the right an anchor lies.",
        ),
        "other_map": (
            lambda height, width, stride, cell, offset=0.5: grid(width, height, stride, cell, offset),
            "Your map has `width` rows and `height` columns. Height is the number of rows.",
        ),
        "no_offset": (
            _grid(at=lambda i, stride, offset: stride * i.float()),
            "You leave the offset out: the centre of cell i lies at stride · (i + offset).",
        ),
        "pixels": (
            _grid(at=lambda i, stride, offset: stride * i + offset),
            "You add the offset in pixels. It counts in cells: stride · (i + offset).",
        ),
        "half": (
            _grid(at=lambda i, stride, offset: stride * (i + 0.5)),
            "You always take ½. The offset is an argument.",
        ),
        "no_stride": (
            _grid(at=lambda i, stride, offset: i + offset),
            "You count in cells. Boxes are in pixels: multiply by the stride.",
        ),
        "whole_pixels": (
            _grid(at=lambda i, stride, offset: (stride * (i + offset)).floor()),
            "You round the centres. They need not be whole pixels.",
        ),
        "corner": (
            _grid(shift=lambda x, y: torch.stack([x, y, 0 * x, 0 * y], -1)),
            "You move the upper left corner alone. Both corners move by (x, y).",
        ),
        "from_the_corner": (
            lambda height, width, stride, cell, offset=0.5: grid(
                height, width, stride, cell - cell[:, :2].repeat(1, 2), offset
            ),
            "Your anchors begin at the centre of their cell. They lie around it: `cell` has its centre at 0.",
        ),
        "one_anchor": (
            lambda height, width, stride, cell, offset=0.5: grid(height, width, stride, cell[:1], offset),
            "You lay the first anchor alone. A cell gets all A of them.",
        ),
        "not_flat": (
            lambda height, width, stride, cell, offset=0.5: grid(height, width, stride, cell, offset).view(
                height, width, -1, 4
            ),
            "Return one list of boxes, (H · W · A, 4).",
        ),
        "centres": (
            lambda height, width, stride, cell, offset=0.5: (
                lambda boxes: torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)
            )(grid(height, width, stride, cell, offset)),
            "Those are centres and sizes. Return corners.",
        ),
    },
    right={
        "loops, a list": _grid_by_loops,
        "NumPy": _grid_with_numpy,
        "repeated, in place": _grid_by_repeats,
    },
    probes=_grids,
    hint="Cell (row, column) has its centre at x = stride · (column + offset), y = stride · (row + offset).",
    sketch="""
        found = []
        for row in range(height):
            for column in range(width):
                x, y = stride * (… + offset), …
                found.append(cell + torch.tensor([…]))                     # (A, 4)
        return torch.cat(found)
    """,
)


# Which anchor answers for which object? -------------------------------------------------------------------------------


def match(iou: Tensor, foreground_iou: float, background_iou: float, allow_low_quality_matches: bool = True) -> Tensor:
    """The object of each anchor ``(A,)`` from the IoU ``(N, A)``, −1 for background, −2 for anchors to ignore."""
    return match_boxes(
        iou,
        foreground_iou=foreground_iou,
        background_iou=background_iou,
        allow_low_quality_matches=allow_low_quality_matches,
    )


def _matched(
    iou: Tensor,
    foreground_iou: float,
    background_iou: float,
    allow: bool = True,
    *,
    foreground: Callable[[Tensor, float], Tensor] = torch.ge,
    background: Callable[[Tensor, float], Tensor] = torch.lt,
    last: bool = False,
    forced: bool = False,
    one: bool = False,
    guarded: bool = True,
    lifts: Callable[[Tensor, float], Tensor] = lambda best, threshold: torch.ones_like(best, dtype=torch.bool),
    always: bool | None = None,
    empty: int = BACKGROUND,
    between: int = IGNORE,
    below: int = BACKGROUND,
) -> Tensor:
    """Matching with another comparison, choice in a tie, rule for low quality, or mark."""
    objects, count = iou.shape
    if objects == 0:
        return torch.full((count,), empty)
    best, index = iou.max(0)
    if last:
        index = objects - 1 - iou.flip(0).argmax(0)
    found = torch.full((count,), between)
    found[background(best, background_iou)] = below
    taken = foreground(best, foreground_iou)
    found[taken] = index[taken]
    if allow if always is None else always:
        for n, row in enumerate(iou):
            if guarded and row.max() <= 0:
                continue
            lifted = row == row.max()
            if one:
                lifted = torch.arange(count) == row.argmax()
            lifted &= lifts(best, background_iou)
            found[lifted] = n if forced else index[lifted]
    return found


def _match(**changes: Any) -> Callable[..., Tensor]:
    def answer(iou: Tensor, foreground_iou: float, background_iou: float, allow_low_quality_matches: bool = True):
        return _matched(iou, foreground_iou, background_iou, allow_low_quality_matches, **changes)

    return answer


def _by_object(
    iou: Tensor, foreground_iou: float, background_iou: float, allow_low_quality_matches: bool = True
) -> Tensor:
    """The best anchor of each object, if it is good enough: the other anchors have no say."""
    found = torch.full((iou.shape[1],), BACKGROUND)
    for n, row in enumerate(iou):
        if row.max() >= foreground_iou or (allow_low_quality_matches and row.max() > 0):
            found[row.argmax()] = n
    return found


def _crashes_when_empty(
    iou: Tensor, foreground_iou: float, background_iou: float, allow_low_quality_matches: bool = True
) -> Tensor:
    iou.max(0)
    return match(iou, foreground_iou, background_iou, allow_low_quality_matches)


def _match_by_loops(
    iou: Tensor, foreground_iou: float, background_iou: float, allow_low_quality_matches: bool = True
) -> list[int]:
    rows = iou.tolist()
    found = []
    for a in range(iou.shape[1]):
        column = [row[a] for row in rows]
        best = max(column, default=0.0)
        lifted = allow_low_quality_matches and any(row[a] == max(row) > 0 for row in rows)
        if lifted or (rows and best >= foreground_iou):
            found.append(column.index(best))
        else:
            found.append(-1 if not rows or best < background_iou else -2)
    return found


def _match_with_numpy(
    iou: Tensor, foreground_iou: float, background_iou: float, allow_low_quality_matches: bool = True
) -> np.ndarray:
    values = iou.numpy()
    # one object more, which overlaps nothing, stands for the background
    best = np.concatenate([values, np.zeros((1, values.shape[1]), values.dtype)]).max(0)
    index = np.concatenate([values, np.full((1, values.shape[1]), -1, values.dtype)]).argmax(0)
    found = np.select([best >= np.float32(foreground_iou), best < np.float32(background_iou)], [index, -1], -2)
    if len(values) == 0:
        return np.full(values.shape[1], -1)
    if allow_low_quality_matches:
        highest = values.max(1, keepdims=True)
        lifted = ((values == highest) & (highest > 0)).any(0)
        found[lifted] = index[lifted]
    return found


def _match_in_place(
    iou: Tensor, foreground_iou: float, background_iou: float, allow_low_quality_matches: bool = True
) -> Tensor:
    """Raises the IoU of the best anchors to 1 in the argument, after each anchor's object is known."""
    if len(iou) == 0:
        return iou.new_full((iou.shape[1],), -1).long()
    best, index = iou.max(0)
    if allow_low_quality_matches:
        top = iou.max(1).values
        for n in range(len(iou)):
            if top[n] > 0:
                best[iou[n] == top[n]] = 1.0
    index[(best < foreground_iou) & (best >= background_iou)] = -2
    index[(best < foreground_iou) & (best < background_iou)] = -1
    return index


def _ious() -> Mapping[str, tuple[Tensor, float, float, bool]]:
    draw = torch.Generator().manual_seed(13)

    def table(*rows: list[float]) -> Tensor:
        return torch.tensor(rows)

    several = (torch.rand(4, 12, generator=draw) ** 2).round(decimals=2)
    return {
        "an object with a good anchor": (table([0.8, 0.4, 0.1]), 0.7, 0.3, True),
        "IoUs that equal the thresholds": (table([0.75, 0.25, 0.125, 0.5]), 0.5, 0.25, False),
        "an object whose best anchor is below both": (table([0.1, 0.2, 0.0]), 0.7, 0.3, True),
        "an object whose best anchor lies between": (table([0.2, 0.4, 0.1]), 0.7, 0.3, True),
        "the same without low-quality matches": (table([0.2, 0.4, 0.1]), 0.7, 0.3, False),
        "two best anchors in a tie": (table([0.25, 0.25, 0.1]), 0.7, 0.3, True),
        "two objects that want one anchor": (table([0.9, 0.4, 0.0], [0.5, 0.1, 0.0]), 0.7, 0.3, True),
        "the same, objects swapped": (table([0.5, 0.1, 0.0], [0.9, 0.4, 0.0]), 0.7, 0.3, True),
        "an anchor that two objects overlap alike": (table([0.8, 0.1], [0.8, 0.2]), 0.7, 0.3, False),
        "an object that touches nothing": (table([0.8, 0.1, 0.0], [0.0, 0.0, 0.0]), 0.7, 0.3, True),
        "no object": (torch.zeros(0, 3), 0.7, 0.3, True),
        "four objects and twelve anchors": (several, 0.5, 0.25, True),
        "four objects and twelve anchors, without low-quality matches": (several, 0.5, 0.25, False),
    }


MATCH = Exercise(
    solution=match,
    wrong={
        "above": (
            _match(foreground=torch.gt),
            "An anchor whose best IoU *equals* the foreground threshold is foreground.",
        ),
        "up_to": (
            _match(background=torch.le),
            "An anchor whose best IoU equals the background threshold is not below it: it is ignored.",
        ),
        "none_ignored": (
            _match(background=lambda best, threshold: torch.ones_like(best, dtype=torch.bool)),
            "Anchors between the thresholds are ignored (−2), not background.",
        ),
        "swapped": (
            _match(between=BACKGROUND, below=IGNORE),
            "You swap −1 and −2: −1 is background, −2 is ignored.",
        ),
        "forced": (
            _match(forced=True),
            "You give a best anchor to the object that asked for it. It answers for the one that *it* overlaps most.",
        ),
        "one_best": (
            _match(one=True),
            "Of several best anchors in a tie you take one. All of them count.",
        ),
        "no_guard": (
            _match(guarded=False),
            "An object that touches no anchor makes every anchor foreground: its highest IoU is 0. Leave it out.",
        ),
        "always": (
            _match(always=True),
            "Low-quality matches happen only if `allow_low_quality_matches` is true.",
        ),
        "never": (
            _match(always=False),
            "The low-quality matches are missing: every object also gets the anchors that overlap it most.",
        ),
        "only_between": (
            _match(lifts=torch.ge),
            "A low-quality match may lie below the background threshold, however small its IoU is.",
        ),
        "only_below": (
            _match(lifts=torch.lt),
            "A best anchor between the thresholds is a low-quality match too.",
        ),
        "last_object": (
            _match(last=True),
            "Of two objects that an anchor overlaps alike, take the first.",
        ),
        "ignored_when_empty": (
            _match(empty=IGNORE),
            "Without any object every anchor is background.",
        ),
        "zero_when_empty": (
            _match(empty=0),
            "Without any object there is no object 0: every anchor is background.",
        ),
        "crashes": (
            _crashes_when_empty,
            "N may be 0, and the largest of nothing is not defined: then every anchor is background.",
        ),
        "by_object": (
            _by_object,
            "You go through the objects alone. First every anchor is judged by its best IoU; then come the low-quality "
            "matches.",
        ),
        "yes_or_no": (
            lambda iou, foreground_iou, background_iou, allow=True: match(
                iou, foreground_iou, background_iou, allow
            ).clamp(max=0),
            "You mark foreground with 0. Give the index of the object.",
        ),
    },
    right={
        "loops, a list": _match_by_loops,
        "NumPy": _match_with_numpy,
        "best IoUs raised": _match_in_place,
    },
    probes=_ious,
    hint="First every anchor by its best IoU and the two thresholds; then the best anchors of every object, each with "
    "the object that it overlaps most itself.",
    sketch="""
        found = −2 everywhere
        best, index = the highest IoU of each anchor, and its object       # (A,)
        found[best < …] = −1
        found[best >= …] = index there
        if allow_low_quality_matches:
            for each object: highest = its largest IoU
                if highest is not 0: found[its IoU == highest] = …
        return found
    """,
)


# Non-maximum suppression ----------------------------------------------------------------------------------------------


def greedy(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    """The indices that NMS keeps, by falling score."""
    return seglib_nms(boxes, scores, threshold, impl="reference").tolist()


def _greedy_by(
    boxes: Tensor,
    scores: Tensor,
    threshold: float,
    *,
    drops: Callable[[Tensor, float], Tensor] = torch.gt,
    order: Callable[[Tensor], Tensor] = lambda scores: scores.argsort(descending=True, stable=True),
    overlap: Callable[[Tensor, Tensor], Tensor] = box_iou,
    dead_drop: bool = False,
    rounds: int = 1000,
) -> list[int]:
    """NMS with another comparison, order or overlap, or where dropped boxes drop others."""
    left, kept = order(scores).tolist(), []
    pairs = drops(overlap(boxes, boxes), threshold)
    if dead_drop:
        return [i for n, i in enumerate(left) if not any(pairs[j, i] for j in left[:n])]
    while left:
        best = left.pop(0)
        kept.append(best)
        if rounds:
            left = [i for i in left if not pairs[best, i]]
            rounds -= 1
    return kept


def _greedy(**changes: Any) -> Callable[[Tensor, Tensor, float], list[int]]:
    return lambda boxes, scores, threshold: _greedy_by(boxes, scores, threshold, **changes)


def _crashes_without_boxes(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    scores.argmax()
    return greedy(boxes, scores, threshold)


def _neighbours(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    """Compares each box with the last one that was kept alone."""
    kept: list[int] = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if not kept or box_iou(boxes[kept[-1:]], boxes[i, None]).item() <= threshold:
            kept.append(i)
    return kept


def _greedy_with_numpy(boxes: Tensor, scores: Tensor, threshold: float) -> np.ndarray:
    overlap = box_iou(boxes, boxes).numpy()
    order = np.argsort(-scores.numpy(), kind="stable")
    kept = []
    while order.size:
        kept.append(order[0])
        order = order[1:][overlap[order[0], order[1:]] <= threshold]
    return np.array(kept, dtype=np.int64)


def _greedy_marked(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Writes −∞ into the scores that are done with."""
    kept = []
    while (scores > -torch.inf).any():
        best = int(scores.argmax())
        kept.append(best)
        scores[box_iou(boxes[best, None], boxes)[0] > threshold] = -torch.inf
        scores[best] = -torch.inf
    return torch.tensor(kept, dtype=torch.long)


def _greedy_from_kept(boxes: Tensor, scores: Tensor, threshold: float) -> tuple[int, ...]:
    """Each box by falling score is compared with all that were kept."""
    kept: list[int] = []
    ranked = sorted(range(len(scores)), key=lambda i: -float(scores[i]))
    for i in ranked:
        if all(box_iou(boxes[k, None], boxes[i, None]).item() <= threshold for k in kept):
            kept.append(i)
    return tuple(kept)


def _piles() -> Mapping[str, tuple[Tensor, Tensor, float]]:
    draw = torch.Generator().manual_seed(14)
    row = torch.tensor(
        [[0.0, 0, 12, 10], [4, 0, 16, 10], [8, 0, 20, 10]]
    )  # IoU 1/2 with the neighbour, 1/5 with the end
    twins = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [40, 0, 50, 10], [41, 0, 51, 10]])
    within = torch.tensor([[0.0, 0, 10, 10], [3, 3, 6, 6]])  # IoU 0.09
    many = _some_boxes(14, draw)
    return {
        "three boxes in a row, the first one best": (row, torch.tensor([0.9, 0.8, 0.7]), 0.4),
        "three boxes in a row, the middle one best": (row, torch.tensor([0.7, 0.9, 0.8]), 0.4),
        "three boxes in a row, at exactly their IoU": (row, torch.tensor([0.9, 0.8, 0.7]), 0.5),
        "two pairs, with equal scores": (twins, torch.tensor([0.5, 0.5, 0.75, 0.75]), 0.5),
        "two pairs, the later ones better": (twins, torch.tensor([0.2, 0.6, 0.3, 0.9]), 0.5),
        "a small box within a large one": (within, torch.tensor([0.9, 0.8]), 0.3),
        "fourteen boxes": (many, torch.rand(14, generator=draw), 0.3),
        "fourteen boxes, a low threshold": (many, torch.rand(14, generator=draw), 0.1),
        "one box": (row[:1], torch.tensor([0.3]), 0.5),
        "no box": (torch.zeros(0, 4), torch.zeros(0), 0.5),
    }


NMS = Exercise(
    solution=greedy,
    wrong={
        "dead_boxes": (
            _greedy(dead_drop=True),
            "A box that is dropped drops others in your version. Only boxes that are kept drop others.",
        ),
        "at_the_threshold": (
            _greedy(drops=torch.ge),
            "A box whose IoU *equals* the threshold stays: only more than the threshold is dropped.",
        ),
        "lowest_first": (
            _greedy(order=lambda scores: scores.argsort(stable=True)),
            "You begin with the lowest score. The highest comes first.",
        ),
        "as_listed": (
            _greedy(order=lambda scores: torch.arange(len(scores))),
            "You go through the boxes as they are listed. Go by falling score.",
        ),
        "later_first": (
            _greedy(order=lambda scores: len(scores) - 1 - scores.flip(0).argsort(descending=True, stable=True)),
            "Of two equal scores you take the later box first. The earlier one comes first.",
        ),
        "sorted": (
            lambda boxes, scores, threshold: sorted(greedy(boxes, scores, threshold)),
            "The right boxes, in the order of their indices. Return them by falling score.",
        ),
        "one_round": (
            _greedy(rounds=1),
            "Only the best box drops others in your version. Every box that is kept does.",
        ),
        "nothing_dropped": (
            _greedy(rounds=0),
            "You drop nothing: these are all boxes by falling score.",
        ),
        "last_kept": (
            _neighbours,
            "You compare a box with the last one that was kept. Compare it with all that were kept.",
        ),
        "opposite": (
            _greedy(drops=torch.lt),
            "You drop the boxes that overlap *less* than the threshold.",
        ),
        "of_the_smaller": (
            _greedy(overlap=_overlap_by(lambda inter, own, other: inter / torch.minimum(own, other))),
            "A small box within a large one is dropped in your version: use the IoU, not the share of the smaller box.",
        ),
        "one_half": (
            lambda boxes, scores, threshold: greedy(boxes, scores, 0.5),
            "You compare with 0.5. The threshold is an argument.",
        ),
        "best_alone": (
            lambda boxes, scores, threshold: greedy(boxes, scores, threshold)[:1],
            "You keep the best box alone. Go on with what is left until nothing is.",
        ),
        "dropped": (
            lambda boxes, scores, threshold: [
                i for i in range(len(boxes)) if i not in greedy(boxes, scores, threshold)
            ],
            "Those are the boxes that are dropped. Return the ones that are kept.",
        ),
        "mask": (
            lambda boxes, scores, threshold: [i in greedy(boxes, scores, threshold) for i in range(len(boxes))],
            "You return yes or no for each box. Return the indices of the boxes that are kept.",
        ),
        "boxes": (
            lambda boxes, scores, threshold: boxes[greedy(boxes, scores, threshold)],
            "You return the boxes. Return their indices.",
        ),
        "crashes": (
            _crashes_without_boxes,
            "N may be 0: then nothing is kept, and the list is empty.",
        ),
    },
    right={
        "NumPy": _greedy_with_numpy,
        "scores crossed out in place": _greedy_marked,
        "compared with all kept ones": _greedy_from_kept,
    },
    probes=_piles,
    hint="Take the best box that is left, keep it, and cross out what overlaps it by more than the threshold; repeat.",
    sketch="""
        left, kept = all indices by falling score, []
        while left:
            best = the first of left; take it out and keep it
            left = those i in left whose IoU with best is …
        return kept
    """,
)


# A threshold that keeps fewer -----------------------------------------------------------------------------------------

LOW, HIGH, MOST = 0.4, 0.6, 6


def _boxes_and_scores(attempt: Any) -> tuple[Tensor, Tensor]:
    boxes, scores = attempt
    return torch.as_tensor(np.asarray(boxes, dtype=np.float32)), torch.as_tensor(np.asarray(scores, dtype=np.float32))


def _keeps_fewer(attempt: Any) -> None:
    expect(
        isinstance(attempt, tuple | list) and len(attempt) == 2 and not isinstance(attempt[0], str | int | float),
        "Give two things: the boxes (N, 4) and their scores (N,).",
    )
    try:
        boxes, scores = _boxes_and_scores(attempt)
    except (TypeError, ValueError):
        boxes, scores = torch.zeros(0), torch.zeros(0)
    expect(boxes.ndim == 2 and boxes.shape[-1] == 4, "A box is four numbers: x0, y0, x1, y1.")
    expect(scores.shape == boxes.shape[:1], "Every box needs one score.")
    expect(len(boxes) <= MOST, f"At most {MOST} boxes are allowed.")
    expect(bool(torch.isfinite(boxes).all() and torch.isfinite(scores).all()), "All numbers must be finite.")
    expect(
        bool((boxes[:, 2:] > boxes[:, :2]).all()),
        "A box has no width or no height: x1 must exceed x0, and y1 exceed y0.",
    )
    expect(len(scores.unique()) == len(scores), "Two scores are equal. Make them all different.")
    kept = {threshold: len(greedy(boxes, scores, threshold)) for threshold in (LOW, HIGH)}
    expect(
        kept[HIGH] != kept[LOW],
        "Both thresholds keep equally many boxes. Which box would drop two others if it were kept?",
    )
    expect(
        kept[HIGH] < kept[LOW],
        "The higher threshold keeps more boxes, as you would expect. You want a box that is dropped at 0.4 alone and "
        "that would drop several others.",
    )


# A drops B at 0.4 alone (IoU 0.5). B would drop its upper and its lower part, C and D (IoU 0.65), which overlap A and
# each other by less than 0.4.
_A, _B, _C, _D = [0.0, 0, 12, 10], [4.0, 0, 16, 10], [4.0, 0, 16, 6.5], [4.0, 3.5, 16, 10]


def _upright() -> tuple[Tensor, Tensor]:
    """The same with x and y swapped, twice as large, far away and in another order."""
    boxes = 2 * torch.tensor([_D, _A, _C, _B])[:, [1, 0, 3, 2]] + 500
    return boxes, torch.tensor([-3.0, 5.0, 0.5, 1.5])


FEWER = Exercise(
    solution=([_A, _B, _C, _D], [0.9, 0.8, 0.7, 0.6]),
    compared=False,
    verify=_keeps_fewer,
    wrong={
        "one_thing": (
            torch.tensor([_A, _B, _C, _D]),
            "Give two things: the boxes (N, 4) and their scores (N,).",
        ),
        "three_numbers": (
            ([[0.0, 0, 12], [4, 0, 16]], [0.9, 0.8]),
            "A box is four numbers: x0, y0, x1, y1.",
        ),
        "too_few_scores": (([_A, _B, _C, _D], [0.9, 0.8, 0.7]), "Every box needs one score."),
        "too_many": (
            ([[20.0 * i, 0, 20 * i + 10, 10] for i in range(7)], [0.1 * i for i in range(7)]),
            "At most 6 boxes are allowed.",
        ),
        "infinite": (
            ([_A, [4.0, 0, float("inf"), 10]], [0.9, 0.8]),
            "All numbers must be finite.",
        ),
        "turned": (
            ([_A, [16.0, 0, 4, 10]], [0.9, 0.8]),
            "A box has no width or no height: x1 must exceed x0, and y1 exceed y0.",
        ),
        "equal_scores": (
            ([_A, _B, [40.0, 0, 50, 10]], [0.9, 0.8, 0.8]),
            "Two scores are equal. Make them all different.",
        ),
        "chain_of_three": (
            ([_A, _B, [8.0, 0, 20, 10]], [0.9, 0.8, 0.7]),
            "The higher threshold keeps more boxes, as you would expect. You want a box that is dropped at 0.4 alone "
            "and that would drop several others.",
        ),
        "one_victim": (
            ([_A, _B, _C], [0.9, 0.8, 0.7]),
            "Both thresholds keep equally many boxes. Which box would drop two others if it were kept?",
        ),
    },
    right={
        "tensors, upright": _upright(),
        "NumPy": (np.array([_A, _B, _C, _D]), np.array([4, 3, 1, 2])),
        "six boxes": ([_A, _B, _C, _D, [60, 0, 70, 9], [80, 0, 81, 1]], [6, 5, 4, 3, 2, 1]),
    },
    hint="Draw a best box A, a box B that it drops at 0.4 alone, and boxes that B would drop.",
    sketch="""
        A has the highest score;     IoU of A and B: between … and …
        B comes next;                IoU of B and C, of B and D: above …
        C and D come last;           IoU of A and C, of A and D, of C and D: at most …
        my_boxes = [A, B, C, D], [four scores]
    """,
)


PIPELINE: Mapping[str, Exercise] = {
    "ch07.overlap": OVERLAP,
    "ch07.decode": DECODE,
    "ch07.grid": GRID,
    "ch07.match": MATCH,
    "ch07.nms": NMS,
}
"""The pieces in the order of the chapter."""
