"""Multi-scale deformable attention: every query reads a few points of several maps, and nothing else.

The reference path is the formula in loops; the fast path gives the same values and runs on every device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from seglib.ops.precision import at_least_float32

IMPLEMENTATIONS = ("fast", "reference")


def deformable_attention(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor, *, impl: str = "fast"
) -> Tensor:
    r"""Weighted sums of bilinear samples, one for every query and head.

    .. math:: \mathrm{out}_{nm} = \sum_{l=1}^{L} \sum_{p=1}^{P} A_{nmlp} \, V_{ml}(x_{nmlp})

    A are the weights, x the locations, and :math:`V_{ml}(x)` is the value of head m on level l at x, bilinear between
    the centres of the cells. What lies outside a map counts as 0. Computes in float32 at least, under autocast too.

    Source: Zhu et al., "Deformable DETR", ICLR 2021, eq. 3. The projections around it belong to the layer.

    Args:
        value: values of all cells, ``(B, S, M, d)`` for M heads: level after level, each row by row.
        shapes: height and width of every level in cells; S is the sum of their products.
        locations: xy of the points, ``(B, N, M, L, P, 2)``: 0 is the left or upper border of a level, 1 the right or
            lower one, so the centre of column j of w lies at (j + ½) / w. Points may lie outside.
        weights: attention weights, ``(B, N, M, L, P)``; a softmax makes them sum to 1 for every query and head.
        impl: ``"fast"``, or ``"reference"`` for the formula in loops. Equal to rounding.

    Returns:
        ``(B, N, M·d)``, head after head, of the dtype of ``value``. Gradients pass to value, locations and weights.

    Raises:
        ValueError: when the shapes don't fit each other, or for an unknown ``impl``.
    """
    _check(value, shapes, locations, weights, impl)
    run = _by_loops if impl == "reference" else _by_rows
    with torch.autocast(value.device.type, enabled=False):
        wide = at_least_float32(value)
        return run(wide, shapes, locations.to(wide.dtype), weights.to(wide.dtype)).to(value.dtype)


def _by_loops(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    batch, queries, heads, _, points = weights.shape
    out = []
    for b in range(batch):
        for n in range(queries):
            for m in range(heads):
                total = value.new_zeros(value.shape[-1])  # (d,)
                start = 0  # of the level in S
                for level, (height, width) in enumerate(shapes):
                    for p in range(points):
                        x, y = locations[b, n, m, level, p] * value.new_tensor([width, height]) - 0.5
                        left, top = math.floor(x.item()), math.floor(y.item())
                        for row in (top, top + 1):
                            for column in (left, left + 1):
                                if 0 <= row < height and 0 <= column < width:
                                    share = (1 - (x - column).abs()) * (1 - (y - row).abs())
                                    cell = value[b, start + row * width + column, m]  # (d,)
                                    total = total + weights[b, n, m, level, p] * share * cell
                    start += height * width
                out.append(total)
    return torch.stack(out).view(batch, queries, -1) if out else value.flatten(2)[:, :0]


def _by_rows(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """All levels in one table of rows of d numbers: each level in a frame of zeros, all of one width, stacked.

    So the four cells around a point always lie at the same distances in the table, and every query and head is one
    weighted sum of its rows.
    """
    batch, _, heads, channels = value.shape
    width = max(w for _, w in shapes) + 2
    levels = value.flatten(2).split([h * w for h, w in shapes], 1)  # L of (B, h·w, M·d)
    framed = [
        F.pad(level.unflatten(1, (h, w)), (0, 0, 1, width - w - 1, 1, 1))  # (B, h + 2, W, M·d)
        for level, (h, w) in zip(levels, shapes, strict=True)
    ]
    table = torch.cat(framed, 1)

    size = torch.tensor([(w, h) for h, w in shapes], device=value.device)  # (L, 2) xy
    top = (size[:, 1] + 2).cumsum(0) - size[:, 1] - 1  # (L,) line of the table where a level begins, below its frame
    size, top = (x.int().repeat_interleave(weights.shape[-1], 0) for x in (size, top))  # of each of the K = L·P points
    position = locations.flatten(3, 4) * size - 0.5  # (B, N, M, K, 2) in cells, of which the first has its centre at 0
    # a point outside is moved into the frame. fmin takes a NaN there too: the result is NaN, but no row is missing
    low = position.detach().floor().fmin(size - 1).clamp(min=-1)
    right, lower = (position - low).clamp(0, 1).unbind(-1)  # shares of the cells on the right and of the lower cells
    weights = weights.flatten(3)  # (B, N, M, K)
    below = weights * lower
    above = weights - below
    corners = torch.stack([above - above * right, above * right, below - below * right, below * right], 3)

    image, head = (torch.arange(n, device=value.device, dtype=torch.int32) for n in (batch, heads))
    line = (image[:, None] * table.shape[1] + top)[:, None, None]  # (B, 1, 1, K)
    origin = (line * width + 1) * heads + head[:, None]  # (B, 1, M, K) row of the first cell of the level
    column, row = low.int().unbind(-1)  # (B, N, M, K)
    first = (origin + row * (width * heads) + column * heads).flatten(0, 2)  # row in the table of the upper left cell
    steps = (0, heads, width * heads, (width + 1) * heads)
    out = _WeightedRows.apply(table.view(-1, channels), first, corners.flatten(0, 2), steps)
    return out.view(batch, -1, heads * channels)


class _WeightedRows(torch.autograd.Function):
    r"""Weighted sums of rows of a table: :math:`\sum_{jk} w_{ijk} \, t_{f_{ik} + s_j}`.

    Args: table ``(R, d)``, first row of every sample ``(n, K)`` int32, weights ``(n, J, K)``, J steps. → ``(n, d)``.

    The gradient of the table sums rows of the gradient that comes in, by the same kernel. PyTorch's own backward pass
    of ``embedding_bag`` sorts all n·J·K rows for that; here it is ``first`` that is sorted, a quarter of them.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, first: Tensor, weights: Tensor, steps: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(table, first, weights)
        ctx.steps = steps
        rows = _rows(first, steps).flatten(1)
        return F.embedding_bag(rows, table, mode="sum", per_sample_weights=weights.flatten(1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, None]:
        table, first, weights = ctx.saved_tensors
        grad = grad.contiguous()  # (n, d)
        n, samples = first.shape
        rows = _rows(first, ctx.steps)  # (n, J, K)
        each = len(ctx.steps) * samples
        bag = torch.arange(n, device=grad.device, dtype=first.dtype)
        grad_weights = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            grad, table, rows.flatten(), bag * each, bag.repeat_interleave(each), 0
        )
        cells, order = first.flatten().sort(stable=True)
        every = torch.arange(len(table), device=grad.device, dtype=first.dtype)
        starts = torch.searchsorted(cells, every, out_int32=True)  # (R,)
        read = order.int() // samples  # row of `grad` that each sorted sample adds to
        grad_table = torch.zeros_like(table)
        for step, weight in zip(ctx.steps, weights.unbind(1), strict=True):
            sorted_weight = weight.flatten().index_select(0, order)
            sums = F.embedding_bag(read, grad, starts, mode="sum", per_sample_weights=sorted_weight)
            grad_table[step:] += sums[: len(table) - step]
        return grad_table, None, grad_weights.view_as(weights), None


def _rows(first: Tensor, steps: tuple[int, ...]) -> Tensor:
    """Row of the table for each step of each sample, ``(n, J, K)``."""
    return first[:, None] + first.new_tensor(steps)[:, None]


def _check(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor, impl: str) -> None:
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl {impl!r} is unknown; choose from {', '.join(IMPLEMENTATIONS)}")
    if value.ndim != 4 or locations.ndim != 6:
        raise ValueError(
            f"value is (B, S, M, d) and locations are (B, N, M, L, P, 2), got {tuple(value.shape)} and "
            f"{tuple(locations.shape)}"
        )
    batch, cells, heads, _ = value.shape
    needed = sum(h * w for h, w in shapes)
    if not shapes or needed != cells:
        raise ValueError(f"value has {cells} cells, the levels {list(shapes)} have {needed}; pass (h, w) of each level")
    queries, points = locations.shape[1], locations.shape[4]
    expected = (batch, queries, heads, len(shapes), points)
    if locations.shape != (*expected, 2) or weights.shape != expected:
        raise ValueError(
            f"for value {tuple(value.shape)} and {len(shapes)} levels, locations are ({batch}, N, {heads}, "
            f"{len(shapes)}, P, 2) and weights the same without the 2; got {tuple(locations.shape)} and "
            f"{tuple(weights.shape)}"
        )
