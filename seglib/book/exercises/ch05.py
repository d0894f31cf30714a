"""The exercises of chapter 5, "Atrous convolution"."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.book.exercise import Exercise, expect
from seglib.book.exercises import ch05_layers
from seglib.book.exercises.ch05_layers import taps

Layers = Sequence[tuple[int, int, int]]
Rebuilt = list[tuple[int, int]]
Predict = Callable[[Tensor], Tensor]


# Six numbers ----------------------------------------------------------------------------------------------------------


def _but(place: int, value: float) -> tuple[float, ...]:
    """The right numbers but for one."""
    numbers: list[float] = [4096, 4, 32, 36, 73, 2]
    numbers[place] = value
    return tuple(numbers)


NUMBERS = Exercise(
    solution=(4096, 4, 32, 36, 73, 2),
    wrong={
        "stride_32": (
            _but(0, 256),
            "The first: that is the map at stride 32. Output stride 8 keeps one cell for 8 × 8.",
        ),
        "stride_16": (_but(0, 1024), "The first: two strides are taken out, so the side is 4 times that at stride 32."),
        "side": (_but(0, 64), "The first: that is a side of the map. Count all of its cells."),
        "one_stride": (_but(1, 2), "The second: two strides of 2 are gone before these layers. They multiply."),
        "eight": (
            _but(1, 8),
            "The second: 8 is the stride that stays. The dilation is the product of those that went.",
        ),
        "no_dilation": (
            _but(1, 1),
            "The second: without dilation these layers would read pixels a quarter as far apart.",
        ),
        "in_cells": (_but(2, 4), "The third: that is in cells of the map. Each is 8 pixels wide."),
        "holes": (_but(2, 24), "The third: you leave the last cell out. From tap to tap are all 4 of them."),
        "old_rate": (_but(3, 18), "The fourth: 18 cells at stride 8 reach half as many pixels as at stride 16."),
        "halved": (_but(3, 9), "The fourth: the cells are half as wide, so the same reach needs more of them."),
        "one_side": (_but(4, 37), "The fifth: both outer taps count, one to each side of the middle."),
        "three_rates": (_but(4, 108), "The fifth: three taps have two distances between them."),
        "no_middle": (_but(4, 72), "The fifth: the middle cell counts too."),
        "added": (_but(5, 3), "The sixth: rows and columns multiply."),
        "middle": (_but(5, 1), "The sixth: 10 + 36 is still a row of the map."),
        "both_rows": (_but(5, 4), "The sixth: 30 + 36 is beyond the last column, and 30 − 36 before the first."),
        "all_nine": (_but(5, 9), "The sixth: 10 − 36 is above the map. Which rows and columns are left?"),
    },
    right={
        "computed": [64**2, 2 * 2, 4 * 8, 18 * 16 // 8, 3 + 2 * 35, 2 * 1],
        "a tensor": torch.tensor([4096, 4, 32, 36, 73, 2]),
        "an array of floats": np.array([4096.0, 4, 32, 36, 73, 2]),
    },
    hint="Write down a table: layer, stride that stays, dilation, cells. Then each number is one step.",
    sketch="""
        cells: (512 / output stride) squared
        dilation: the product of the strides that were taken out ...
        pixels: dilation · ...
        rate: 18 · 16 = rate · ...
        effective size: 3 + 2 · (rate − ...)
        taps: (rows on the map) · (columns on the map)
    """,
)


# Stop at a stride -----------------------------------------------------------------------------------------------------


def rebuild(strides: Sequence[int], output_stride: int) -> Rebuilt:
    """``(stride, dilation)`` of every layer: the first strides stay up to ``output_stride``, later ones are taken out.

    Raises:
        ValueError: when no product of the first strides is ``output_stride``.
    """
    return _rebuilt(strides, output_stride)


def _rebuilt(
    strides: Sequence[int],
    output_stride: int,
    *,
    before: bool = True,
    grow: Callable[[int, int], int] = lambda dilation, stride: dilation * stride,
    stays: Callable[[int, int, int], bool] = lambda jump, stride, target: jump < target,
    fails: Callable[[int, int], bool] = lambda jump, target: jump != target,
) -> Rebuilt:
    """``rebuild`` with some of its steps exchanged."""
    out, jump, dilation = [], 1, 1
    for stride in strides:
        if stays(jump, stride, output_stride):
            jump *= stride
            out.append((stride, dilation))
        else:
            now = dilation
            dilation = grow(dilation, stride)
            out.append((1, now if before else dilation))
    if fails(jump, output_stride):
        raise ValueError(f"no product of the first strides of {list(strides)} is {output_stride}")
    return out


def _changed(**changes: Any) -> Callable[[Sequence[int], int], Rebuilt]:
    return lambda strides, output_stride: _rebuilt(strides, output_stride, **changes)


def _last_first(strides: Sequence[int], output_stride: int) -> Rebuilt:
    """Strides of the first layers taken out, those of the last kept."""
    rebuild(strides, output_stride)
    excess, out, dilation = math.prod(strides) // output_stride, [], 1
    for stride in strides:
        if excess % stride == 0 and excess > 1:
            excess //= stride
            out.append((1, dilation))
            dilation *= stride
        else:
            out.append((stride, dilation))
    return out


def _all_strides(strides: Sequence[int], output_stride: int) -> Rebuilt:
    """A dilation that counts the strides that stay as well."""
    before = [math.prod(strides[:i]) for i in range(len(strides))]
    return [(s, d) for (s, _), d in zip(rebuild(strides, output_stride), before, strict=True)]


def _rebuild_numpy(strides: Sequence[int], output_stride: int) -> Any:
    jumps = np.cumprod([1, *strides])
    if output_stride not in jumps:
        raise ValueError("this stride does not occur")
    return [
        (min(int(jumps[i + 1]), output_stride) // min(int(jumps[i]), output_stride), max(jumps[i] // output_stride, 1))
        for i in range(len(strides))
    ]


def _rebuild_cut(strides: list[int], output_stride: int) -> Any:
    """The two parts one by one, in lists."""
    n = next((n for n in range(len(strides) + 1) if math.prod(strides[:n]) == output_stride), None)
    if n is None:
        raise ValueError(output_stride)
    rest = strides[n:]
    return [[s, 1] for s in strides[:n]] + [[1, math.prod(rest[:i])] for i in range(len(rest))]


def _rebuild_popping(strides: list[int], output_stride: int) -> Any:
    out, left, dilation = [], output_stride, 1
    while strides:
        stride = strides.pop(0)
        if left == 1:
            out.append((1, dilation))
            dilation *= stride
        elif left % stride:
            raise ValueError("does not fit")
        else:
            left //= stride
            out.append((stride, 1))
    if left > 1:
        raise ValueError("too few strides")
    return out


REBUILD = Exercise(
    solution=rebuild,
    wrong={
        "dense": (
            lambda strides, output_stride: rebuild(strides, 1),
            "You take out every stride. The first ones stay, up to the output stride.",
        ),
        "own_stride": (
            _changed(before=False),
            "A layer that loses its stride keeps the dilation so far. Only the layers behind it are dilated more.",
        ),
        "last_only": (
            _changed(grow=lambda dilation, stride: max(stride, 1) if stride > 1 else dilation),
            "Your dilation knows the last removed stride alone. All removed strides multiply.",
        ),
        "added": (
            _changed(grow=lambda dilation, stride: dilation + stride - 1),
            "Removed strides multiply: behind two of 3 the taps lie 9 cells apart.",
        ),
        "all_strides": (
            _all_strides,
            "Your dilation counts strides that stay too. A stride that stays makes the cells wide by itself.",
        ),
        "first_ones": (
            _last_first,
            "You take out the first strides and keep the last. The shallow, large maps would cost most.",
        ),
        "no_dilation": (
            lambda strides, output_stride: [(s, 1) for s, _ in rebuild(strides, output_stride)],
            "Without dilation the layers behind a removed stride read too near.",
        ),
        "dilation_alone": (
            lambda strides, output_stride: [d for _, d in rebuild(strides, output_stride)],
            "Return a pair for each layer: its stride, and its dilation.",
        ),
        "swapped": (
            lambda strides, output_stride: [(d, s) for s, d in rebuild(strides, output_stride)],
            "Your pairs are (dilation, stride). The stride comes first.",
        ),
        "not_raised": (
            _changed(fails=lambda jump, target: False),
            "No product of the first strides may be the output stride: raise ValueError then.",
        ),
        "too_few": (
            _changed(fails=lambda jump, target: jump > target),
            "All strides together may be less than the output stride. That is a ValueError too.",
        ),
        "passed_by": (
            _changed(fails=lambda jump, target: jump < target),
            "The product may jump over the output stride, as 2, 3 over 4. That is a ValueError too.",
        ),
        "skipping": (
            _changed(stays=lambda jump, stride, target: target % (jump * stride) == 0 and jump < target),
            "You leave a stride out and keep a later one. The first strides stay, without an exception.",
        ),
        "outermost": (
            lambda strides, output_stride: rebuild(strides, output_stride) if strides else [(1, 1)],
            "Without layers, and with output stride 1, the list is empty.",
        ),
    },
    right={"NumPy": _rebuild_numpy, "cut in two": _rebuild_cut, "popping": _rebuild_popping},
    probes=lambda: {
        f"strides {list(strides)}, output stride {target}": (list(strides), target)
        for strides, target in [
            ((2, 2, 2, 2, 2), 8), ((4, 1, 2, 1, 2, 1, 2, 1), 8), ((2, 3, 1, 3, 3, 1), 2), ((2, 2, 2), 1),
            ((2, 1, 2), 4), ((2, 3, 2), 4), ((2, 2), 8), ((3, 2, 3, 2, 1), 6), ((), 1), ((), 2), ((1, 2, 1, 4, 1), 2),
            ((2, 3, 2, 1), 4),
        ]
    },
    hint="Walk through the layers with two numbers: the product of the strides that stayed, and of those that went.",
    sketch="""
        jump = dilation = 1
        for stride in strides:
            if jump is still less than output_stride:  the stride stays, jump *= ...
            else:  append (1, ...), and only then dilation *= ...
        raise ValueError unless jump is ...
    """,
)  # fmt: skip


# Unread behind strides ------------------------------------------------------------------------------------------------


def unread(layers: Layers) -> int:
    """Input cells between the first and the last that one output reads, but that it does not read."""
    read = _inputs(layers)
    return max(read) - min(read) + 1 - len(read)


def _inputs(layers: Layers, jump_of: Callable[[int, int], int] = lambda jump, stride: jump * stride) -> set[int]:
    """Input cells that output 0 reads through layers ``(kernel, stride, dilation)`` without padding."""
    read, jump = {0}, 1
    for kernel, stride, dilation in layers:
        read = {cell + jump * dilation * tap for cell in read for tap in range(kernel)}
        jump = jump_of(jump, stride)
    return read


def _gaps_of(read: set[int]) -> int:
    return max(read) - min(read) + 1 - len(read)


def _unread_backwards(layers: Layers) -> int:
    """From the output down to the input: the cells of each map in turn."""
    cells = [0]
    for kernel, stride, dilation in reversed(layers):
        cells = sorted({stride * cell + dilation * tap for cell in cells for tap in range(kernel)})
    return cells[-1] - cells[0] + 1 - len(cells)


def _unread_torch(layers: Layers) -> Tensor:
    """By the gradient of one output with kernels of ones."""
    size = 1
    for kernel, stride, dilation in reversed(layers):
        size = (size - 1) * stride + dilation * (kernel - 1) + 1
    x = torch.zeros(1, 1, size, dtype=torch.float64, requires_grad=True)
    z = x * 1
    for kernel, stride, dilation in layers:
        z = F.conv1d(z, torch.ones(1, 1, kernel, dtype=torch.float64), stride=stride, dilation=dilation)
    z[..., 0].sum().backward()
    assert x.grad is not None
    return (x.grad == 0).sum()


def _unread_numpy(layers: Layers) -> Any:
    paths, jump = np.ones(1), 1
    for kernel, stride, dilation in layers:
        row = np.zeros(jump * dilation * (kernel - 1) + 1)
        row[:: jump * dilation] = 1
        paths, jump = np.convolve(paths, row), jump * stride
    return np.count_nonzero(paths == 0)


UNREAD = Exercise(
    solution=unread,
    wrong={
        "no_strides": (
            lambda layers: _gaps_of(_inputs(layers, lambda jump, stride: 1)),
            "You leave the strides out. Behind a stride of s neighbours lie s input cells apart.",
        ),
        "own_stride": (
            lambda layers: _gaps_of(
                {
                    sum(taps)
                    for taps in itertools.product(
                        *[
                            [d * t * math.prod(s for _, s, _ in layers[: i + 1]) for t in range(k)]
                            for i, (k, _, d) in enumerate(layers)
                        ]
                    )
                }
            ),
            "A layer's own stride acts on what follows. Its taps lie as far apart as the strides before it say.",
        ),
        "last_stride": (
            lambda layers: _gaps_of(_inputs(layers, lambda jump, stride: stride)),
            "Only the stride right before a layer counts in your code. All strides before it multiply.",
        ),
        "added": (
            lambda layers: _gaps_of(_inputs(layers, lambda jump, stride: jump + stride - 1)),
            "Strides multiply: behind two of 3 cells lie 9 apart.",
        ),
        "three_taps": (
            lambda layers: unread([(3, s, d) for _, s, d in layers]),
            "Your kernels all have three taps. The first number of a layer says how many it has.",
        ),
        "no_dilation": (
            lambda layers: unread([(k, s, 1) for k, s, _ in layers]),
            "You leave the dilations out: the taps of a layer lie d of its cells apart.",
        ),
        "from_last": (
            lambda layers: unread(layers[::-1]),
            "You take the layers in the wrong order. The first in the list reads the input.",
        ),
        "read": (lambda layers: len(_inputs(layers)), "That is how many cells are read. Return how many are not."),
        "field": (
            lambda layers: max(_inputs(layers)) + 1,
            "That is the size of the receptive field. Return how many of its cells are not read.",
        ),
        "ends": (
            lambda layers: unread(layers) - 1,
            "Your field lacks a cell: from the first to the last, both included.",
        ),
        "none": (
            lambda layers: unread(layers) if layers else 1,
            "Without layers the output is the input's cell, which is read: 0.",
        ),
        "paths": (
            lambda layers: max(_inputs(layers)) + 1 - math.prod(k for k, _, _ in layers),
            "You count paths. Several may end at one cell: count cells.",
        ),
    },
    right={"from the output down": _unread_backwards, "torch": _unread_torch, "NumPy": _unread_numpy},
    probes=lambda: {
        (f"layers {', '.join(map(str, layers))}" if layers else "no layers"): (list(layers),)
        for layers in [
            [(3, 2, 1), (3, 1, 2)], [(3, 1, 1), (3, 2, 2), (2, 1, 3)], [(2, 2, 1), (2, 2, 1), (3, 1, 2)], [(3, 4, 1)],
            [(5, 3, 2), (3, 3, 1), (2, 1, 1)], [(1, 2, 1), (3, 1, 1)], [(3, 1, 2), (3, 1, 2)], [(4, 1, 3)], [],
            [(7, 2, 1), (3, 2, 1), (3, 1, 4)],
        ]
    },
    hint="How many input cells apart are two neighbours of the map that a layer reads? Its taps lie d of these apart.",
    sketch="""
        read, jump = {0}, 1
        for k, s, d in layers:
            read = {cell + ... * t for cell in read for t in range(k)}
            jump *= ...
        return (last − first + 1) − ...
    """,
)  # fmt: skip


# Valid weights --------------------------------------------------------------------------------------------------------


def mean_valid(height: int, width: int, rate: int) -> float:
    """How many of nine weights meet a map of ``height`` × ``width`` cells, on average over its cells."""
    return _share(height, rate) * _share(width, rate)


def _share(size: int, rate: int) -> float:
    """The mean number of three taps that lie on an axis of ``size`` cells."""
    return 1 + 2 * max(0, size - rate) / size


def _axes(mean: Callable[[int, int], float]) -> Callable[[int, int, int], float]:
    return lambda height, width, rate: mean(height, rate) * mean(width, rate)


def _mean_of_map(height: int, width: int, rate: int) -> Tensor:
    return taps(height, width, rate).mean()


def _mean_valid_numpy(height: int, width: int, rate: int) -> Any:
    sizes = np.array([height, width], dtype=float)
    return np.prod(1 + 2 * np.clip(1 - rate / sizes, 0, None))


def _mean_valid_summed(height: int, width: int, rate: int) -> float:
    """The centre, four sides and four corners."""
    down, across = (max(0, n - rate) / n for n in (height, width))
    return 1 + 2 * down + 2 * across + 4 * down * across


VALID = Exercise(
    solution=mean_valid,
    wrong={
        "map": (
            _mean_of_map,
            "A map of that size fits into no memory. Count along one axis, and write the count as a formula.",
        ),
        "no_floor": (
            _axes(lambda n, d: 1 + 2 * (n - d) / n),
            "A rate beyond the size gives you less than one weight. The centre always meets the map.",
        ),
        "both_sides_at_once": (
            _axes(lambda n, d: 1 + 2 * max(0, n - 2 * d) / n),
            "You drop a pair of taps as soon as one of them leaves the map. Each leaves alone.",
        ),
        "one_axis": (
            lambda height, width, rate: _share(height, rate),
            "That is the mean along one axis, of three weights. Rows and columns multiply.",
        ),
        "square": (
            lambda height, width, rate: _share(height, rate) ** 2,
            "You take the map for a square. Its width has a mean of its own.",
        ),
        "added": (
            lambda height, width, rate: _share(height, rate) + _share(width, rate),
            "You add the means of the axes. Each tap of a column meets each of a row: they multiply.",
        ),
        "share": (
            lambda height, width, rate: mean_valid(height, width, rate) / 9,
            "That is the share of the nine weights. Return their number.",
        ),
        "all_or_nothing": (
            lambda height, width, rate: 9 * max(0, height - 2 * rate) * max(0, width - 2 * rate) / (height * width),
            "You count only the cells where all nine weights meet the map. The others use some of them too.",
        ),
        "tripled": (
            _axes(lambda n, d: 3 * max(0, n - d) / n),
            "The centre tap never leaves the map: per axis it is 1 + 2 · share, not 3 · share.",
        ),
        "in_the_middle": (
            _axes(lambda n, d: 1 + 2 * (d <= n // 2)),
            "That is the number for the cell in the middle. Take the mean over all cells.",
        ),
        "floor_of_the_whole": (
            _axes(lambda n, d: max(0.0, 1 + 2 * (n - d) / n)),
            "Your floor holds for the sum. It is the share of cells with a valid tap that never falls below 0.",
        ),
        "one_too_many": (
            _axes(lambda n, d: 1 + 2 * min(max(0, n - d + 1), n) / n),
            "One cell too many: the tap d to the right of cell c lies on the map while c + d ≤ n − 1.",
        ),
        "one_too_few": (
            _axes(lambda n, d: 1 + 2 * max(0, n - d - 1) / n),
            "One cell too few: cells 0 to n − 1 − d have a valid right tap, which are n − d cells.",
        ),
        "integer_division": (
            _axes(lambda n, d: 1 + 2 * (max(0, n - d) // n)),
            "You divide with //, which throws the fraction away. Divide with /.",
        ),
        "rounded": (
            lambda height, width, rate: round(mean_valid(height, width, rate)),
            "You round to a whole number of weights. The mean over the cells is a fraction.",
        ),
        "two_decimals": (
            lambda height, width, rate: round(mean_valid(height, width, rate), 2),
            "You round to two decimals. Return the mean itself.",
        ),
        "cross": (
            lambda height, width, rate: _share(height, rate) + _share(width, rate) - 1,
            "You count a cross of five weights. The four corners are missing.",
        ),
        "one_side": (
            _axes(lambda n, d: 1 + max(0, n - d) / n),
            "You count one outer tap per axis. There is one to the left and one to the right.",
        ),
    },
    right={
        "centre, sides, corners": _mean_valid_summed,
        "NumPy": _mean_valid_numpy,
        "a tensor": lambda height, width, rate: (
            1 + 2 * (1 - rate / torch.tensor([height, width], dtype=torch.float64)).clamp(min=0)
        ).prod(),
    },
    probes=lambda: {
        f"rate {d} on {h} × {w} cells": (h, w, d)
        for h, w, d in [
            (65, 65, 6), (33, 25, 18), (12, 16, 12), (9, 9, 8), (9, 40, 20), (9, 9, 13), (8, 6, 1), (7, 5, 3),
            (1, 1, 1), (10**18, 3 * 10**17, 10**17),
        ]
    },
    hint="Along one axis: for how many of the n cells does the tap that is d further still lie on the map?",
    sketch="share = (cells of n whose right tap lies on the map, never below 0) / n; per axis 1 (the middle) + ... · "
    "share; rows and columns ...",
)  # fmt: skip


# Four rates -----------------------------------------------------------------------------------------------------------

LAYERS, FIELD, LEAST, MOST = 4, 41, 2, 4


def _paths(rates: Sequence[int]) -> Mapping[int, int]:
    """On how many paths each cell is read by a stack of 3-tap layers: distance from the output → paths."""
    return Counter(sum(moves) for moves in itertools.product(*[(-d, 0, d) for d in rates]))


_FOUR = "Give four rates, whole numbers from 1 on, in a list."


def _shares_work(answer: Any) -> None:
    """Rejects rates whose field is small or has gaps, and those that read some cells too seldom or too often."""
    answer = answer.tolist() if isinstance(answer, Tensor | np.ndarray) else answer
    rates = list(answer) if isinstance(answer, tuple | list) else []
    expect(len(rates) == LAYERS, _FOUR)
    expect(all(isinstance(d, int | float | np.number) and d >= 1 and int(d) == d for d in rates), _FOUR)
    rates = [int(d) for d in rates]
    reach = sum(rates)
    expect(1 + 2 * reach >= FIELD, "The field is too small: 1 + 2 · (the sum of the rates) must be at least 41.")
    expect(reach <= 1000, "That field is too wide for 81 paths: some cell stays unread.")
    paths = _paths(rates)
    expect(all(paths[c] for c in range(-reach, reach + 1)), "There is a gap: some cell of the field is not read.")
    expect(max(paths.values()) <= MOST, "Some cell is read on more than four paths. Which moves cancel each other?")
    inner = [c for c in range(-reach, reach + 1) if 2 * abs(c) <= reach]
    expect(
        min(paths[c] for c in inner) >= LEAST,
        "Some cell of the inner half is read on a single path. In a smaller field there are more paths to a cell.",
    )


STACK = Exercise(
    solution=[1, 3, 8, 12],
    wrong={
        "three": ([1, 3, 9], _FOUR),
        "small": ([1, 2, 4, 8], "The field is too small: 1 + 2 · (the sum of the rates) must be at least 41."),
        "gap": ([2, 4, 6, 12], "There is a gap: some cell of the field is not read."),
        "too_wide": ([1, 2, 3, 5000], "That field is too wide for 81 paths: some cell stays unread."),
        "too_often": ([1, 3, 8, 8], "Some cell is read on more than four paths. Which moves cancel each other?"),
        "once": (
            [1, 3, 9, 27],
            "Some cell of the inner half is read on a single path. In a smaller field there are more paths to a cell.",
        ),
    },
    right={
        "another order": (12, 1, 8, 3),
        "a tensor": torch.tensor([1, 3, 9, 13]),
        "others": [1, 2, 7, 10],
        "an array": np.array([13, 4, 3, 1]),
    },
    verify=_shares_work,
    compared=False,
    hint="Start from rates that leave no gap, and draw the last ones nearer.",
    sketch="rates 1, 3, 9, 27 read 81 cells, each on one path: 81 paths in all. Let the last rates shrink until paths "
    "meet; try rates with `read_along_an_axis`, and count the sums with a `Counter`.",
)


# How much context a label needs ---------------------------------------------------------------------------------------


def _seen(image: Tensor, row: int, column: int, radius: int, fill: float = 0.5) -> Tensor:
    """The image ``(3, H, W)``, grey outside the square window of ``2 · radius + 1`` pixels around one pixel."""
    out = torch.full_like(image, fill)
    rows, columns = slice(max(row - radius, 0), row + radius + 1), slice(max(column - radius, 0), column + radius + 1)
    out[:, rows, columns] = image[:, rows, columns]
    return out


def context(predict: Predict, image: Tensor, row: int, column: int, radii: Sequence[int]) -> int:
    """The smallest radius from which on the label of one pixel is that of the whole image; else the last radius."""
    label, needed = predict(image)[row, column], radii[-1]
    for radius in reversed(radii):
        if predict(_seen(image, row, column, radius))[row, column] != label:
            break
        needed = radius
    return needed


def _first_match(predict: Predict, image: Tensor, row: int, column: int, radii: Sequence[int]) -> int:
    label = predict(image)[row, column]
    found = [r for r in radii if predict(_seen(image, row, column, r))[row, column] == label]
    return found[0] if found else radii[-1]


def _last_mismatch(predict: Predict, image: Tensor, row: int, column: int, radii: Sequence[int]) -> int:
    label = predict(image)[row, column]
    wrong = [r for r in radii if predict(_seen(image, row, column, r))[row, column] != label]
    return wrong[-1] if wrong else radii[0]


def _black(predict: Predict, image: Tensor, row: int, column: int, radii: Sequence[int]) -> int:
    return _with(lambda r: _seen(image, row, column, r, 0.0), predict, image, row, column, radii)


def _disc(predict: Predict, image: Tensor, row: int, column: int, radii: Sequence[int]) -> int:
    y, x = torch.meshgrid(*[torch.arange(n) for n in image.shape[1:]], indexing="ij")
    distance = (y - row) ** 2 + (x - column) ** 2  # (H, W)
    return _with(lambda r: image.where(distance <= r**2, 0.5), predict, image, row, column, radii)


def _swapped(predict: Predict, image: Tensor, row: int, column: int, radii: Sequence[int]) -> int:
    return _with(lambda r: _seen(image, column, row, r), predict, image, row, column, radii)


def _narrow(predict: Predict, image: Tensor, row: int, column: int, radii: Sequence[int]) -> int:
    def seen(radius: int) -> Tensor:
        out = torch.full_like(image, 0.5)
        rows, columns = slice(max(row - radius, 0), row + radius), slice(max(column - radius, 0), column + radius)
        out[:, rows, columns] = image[:, rows, columns]
        return out

    return _with(seen, predict, image, row, column, radii)


def _with(
    seen: Callable[[int], Tensor], predict: Predict, image: Tensor, row: int, column: int, radii: Sequence[int]
) -> int:
    """``context`` with another way to hide what is far."""
    label, needed = predict(image)[row, column], radii[-1]
    for radius in reversed(radii):
        if predict(seen(radius))[row, column] != label:
            break
        needed = radius
    return needed


def _mean_over(size: int) -> Predict:
    """A predictor that labels by the mean brightness of a square of ``size`` pixels around each pixel, zero padded."""

    def predict(image: Tensor) -> Tensor:
        grey = image.mean(0)[None, None] - 0.5
        return (F.avg_pool2d(grey, size, 1, size // 2)[0, 0] * 40).round().long()

    return predict


def _corner(image: Tensor) -> Tensor:
    """A predictor that reads a single pixel 4 rows above and 4 columns to the left."""
    return (F.pad(image.mean(0), (4, 0, 4, 0), value=0.5)[: image.shape[1], : image.shape[2]] * 10).long()


def _ripple(image: Tensor) -> Tensor:
    """A predictor whose answer changes with the number of bright pixels, up and down."""
    return ((image.mean(0) > 0.6).sum() % 3).expand(image.shape[1:])


def _overall(image: Tensor) -> Tensor:
    """A predictor that gives all pixels one label, by the mean of the image."""
    return (image.mean() * 100).round().long().expand(image.shape[1:])


def _by_side(matching: Mapping[int, bool]) -> Predict:
    """A predictor whose answer depends on how many rows are not grey: which radii match can be written down."""

    def predict(image: Tensor) -> Tensor:
        rows = int((image != 0.5).any(0).any(1).sum())
        whole = rows == image.shape[1]
        return torch.full(image.shape[1:], int(whole or matching.get((rows - 1) // 2, False)))

    return predict


def _one_label_moves(image: Tensor) -> Tensor:
    """A predictor that gives every pixel its own brightness, but the last pixel the mean of the image."""
    labels = (image[0] * 9).long()
    labels[-1, -1] = (image.mean() * 100).round().long()
    return labels


def _last_column(image: Tensor) -> Tensor:
    """A predictor that tells whether any pixel of the last column is not grey, and gives all pixels that label."""
    return (image[:, :, -1] != 0.5).any().long().expand(image.shape[1:])


def _images() -> Mapping[str, tuple[Predict, Tensor, int, int, list[int]]]:
    g = torch.Generator().manual_seed(5)
    image = torch.rand(3, 24, 30, generator=g).round(decimals=3)
    image[:, :12] = image[:, :12] * 0.4 + 0.6
    image[:, 14, 3] = 0.55  # grey, like what is hidden
    bright = (image * 0.5 + 0.5).clamp(0.51, 1)
    radii = [0, 1, 2, 3, 4, 6, 9, 30]
    up_and_down = _by_side({0: True, 1: False, 2: True, 3: True, 4: False, 6: True, 9: True})
    return {
        "a predictor that reads 3 pixels far": (_mean_over(7), image, 10, 17, radii),
        "the same predictor in a corner of the image": (_mean_over(7), image, 1, 2, radii),
        "the same predictor at the other corner": (_mean_over(7), bright, 22, 28, radii),
        "a predictor that reads a pixel 4 rows above and 4 columns to the left": (_corner, image, 9, 12, radii),
        "the same one where that pixel is grey": (_corner, image, 18, 7, radii),
        "the same one with radii of 1, 2 and 3, which are all too small": (_corner, image, 9, 12, [1, 2, 3]),
        "a predictor that reads single pixels": (lambda x: (x[0] * 9).long(), image, 5, 20, radii),
        "the same one with radii of 2 and 5": (lambda x: (x[0] * 9).long(), image, 5, 20, [2, 5]),
        "a predictor whose other labels change": (_one_label_moves, image, 5, 20, radii),
        "a predictor that counts bright pixels everywhere": (_ripple, image, 12, 6, radii),
        "a predictor that reads the last column, for a pixel near the first": (_last_column, bright, 1, 2, radii),
        "a predictor that takes the mean of the image": (_overall, image, 12, 6, radii),
        "a predictor whose label matches at some radii and not at others": (up_and_down, bright, 12, 15, radii),
        "a single radius": (_mean_over(7), image, 10, 17, [30]),
    }


def _labels_match(image: Tensor, predict: Predict, row: int, column: int, radii: Sequence[int]) -> list[bool]:
    label = predict(image)[row, column]
    return [bool(predict(_seen(image, row, column, r))[row, column] == label) for r in radii]


def _with_negative_start(predict: Predict, image: Tensor, row: int, column: int, radii: Sequence[int]) -> int:
    def seen(radius: int) -> Tensor:
        out = torch.full_like(image, 0.5)
        rows, columns = slice(row - radius, row + radius + 1), slice(column - radius, column + radius + 1)
        out[:, rows, columns] = image[:, rows, columns]
        return out

    return _with(seen, predict, image, row, column, radii)


def _wrapped(predict: Predict, image: Tensor, row: int, column: int, radii: Sequence[int]) -> int:
    def seen(radius: int) -> Tensor:
        out = torch.full_like(image, 0.5)
        reach = torch.arange(-radius, radius + 1)
        rows, columns = (row + reach) % image.shape[1], (column + reach) % image.shape[2]
        out[:, rows[:, None], columns] = image[:, rows[:, None], columns]
        return out

    return _with(seen, predict, image, row, column, radii)


def _cropped(predict: Predict, image: Tensor, row: int, column: int, radii: Sequence[int]) -> int:
    label, needed = predict(image)[row, column], radii[-1]
    for r in reversed(radii):
        top, left = max(row - r, 0), max(column - r, 0)
        part = image[:, top : row + r + 1, left : column + r + 1]
        if predict(part)[row - top, column - left] != label:
            break
        needed = r
    return needed


def _whole_map(predict: Predict, image: Tensor, row: int, column: int, radii: Sequence[int]) -> int:
    labels, needed = predict(image), radii[-1]
    for r in reversed(radii):
        if not torch.equal(predict(_seen(image, row, column, r)), labels):
            break
        needed = r
    return needed


def _spoilt(predict: Predict, image: Tensor, row: int, column: int, radii: Sequence[int]) -> int:
    label, found = predict(image)[row, column], []
    for r in radii:  # from the smallest up, in the image itself: nothing but the first window is left
        image.copy_(_seen(image, row, column, r))
        found.append(bool(predict(image)[row, column] == label))
    return _from_which_on(found, radii)


def _from_which_on(matches: Sequence[bool], radii: Sequence[int]) -> int:
    needed = radii[-1]
    for r, match in zip(reversed(radii), reversed(matches), strict=True):
        if not match:
            break
        needed = r
    return needed


def _pair(predict: Predict, image: Tensor, row: int, column: int, radii: Sequence[int]) -> int:
    found = [*_labels_match(image, predict, row, column, radii), True]
    return next((r for r, a, b in zip(radii, found, found[1:], strict=False) if a and b), radii[-1])


def _none_for_none(predict: Predict, image: Tensor, row: int, column: int, radii: Sequence[int]) -> int | None:
    found = _labels_match(image, predict, row, column, radii)
    return _from_which_on(found, radii) if found[-1] else None


def _zero_for_none(predict: Predict, image: Tensor, row: int, column: int, radii: Sequence[int]) -> int:
    return _none_for_none(predict, image, row, column, radii) or 0


def _next_radius(predict: Predict, image: Tensor, row: int, column: int, radii: Sequence[int]) -> int:
    found = _labels_match(image, predict, row, column, radii)
    return radii[max((i for i, match in enumerate(found) if not match), default=-1) + 1]


def _context_in_place(predict: Predict, image: Tensor, row: int, column: int, radii: Sequence[int]) -> int:
    label, needed = predict(image)[row, column].clone(), radii[-1]
    for r in radii[::-1]:  # from the largest down every window holds the next one
        image[:, : max(row - r, 0)] = 0.5
        image[:, row + r + 1 :] = 0.5
        image[:, :, : max(column - r, 0)] = 0.5
        image[:, :, column + r + 1 :] = 0.5
        if predict(image)[row, column] != label:
            return needed
        needed = r
    return needed


def _context_where(predict: Predict, image: Tensor, row: int, column: int, radii: Sequence[int]) -> Tensor:
    far = torch.maximum(
        (torch.arange(image.shape[1]) - row).abs()[:, None], (torch.arange(image.shape[2]) - column).abs()
    )
    match = (
        torch.stack([predict(image.where(far <= r, 0.5))[row, column] for r in radii]) == predict(image)[row, column]
    )
    stays = match.flip(0).cumprod(0).flip(0).bool()
    return torch.tensor(radii)[stays][0] if stays.any() else torch.tensor(radii[-1])


CONTEXT = Exercise(
    solution=context,
    wrong={
        "first_match": (
            _first_match,
            "You return the first radius with the right label. It may change again: return the one from which on it "
            "stays.",
        ),
        "last_mismatch": (
            _last_mismatch,
            "That is the last radius at which the label still differs. Return the next one.",
        ),
        "black": (
            _black,
            "You hide with black. For the network black is a colour; grey (0.5) is the middle of its range.",
        ),
        "disc": (
            _disc,
            "You keep a disc. Keep a square window: |rows| and |columns| up to the radius.",
        ),
        "row_and_column": (
            _swapped,
            "Your window is around (column, row). A tensor's first image axis is the row.",
        ),
        "narrow": (
            _narrow,
            "Your window lacks its last row and column: a slice ends before its end, and 2r + 1 pixels are wanted.",
        ),
        "position": (
            lambda predict, image, row, column, radii: list(radii).index(context(predict, image, row, column, radii)),
            "You return the position in the list. Return the radius.",
        ),
        "negative_start": (
            _with_negative_start,
            "Near the border your window begins below 0, and a slice then counts from the far end. Begin at 0.",
        ),
        "wrapped": (
            _wrapped,
            "Near the border your window goes on at the other side of the image. It must end at the border.",
        ),
        "cropped": (
            _cropped,
            "You cut the window out. Keep the image's size and make what lies outside the window grey.",
        ),
        "whole_map": (_whole_map, "You compare all labels. Only that of the one pixel counts."),
        "spoilt": (
            _spoilt,
            "You hide pixels in the image itself, from the smallest window up: the larger windows find nothing left. "
            "Hide them in a copy.",
        ),
        "pair": (
            _pair,
            "You stop where two radii in a row match. It must hold for all larger ones in the list.",
        ),
        "none": (
            _none_for_none,
            "Where the label differs even at the last radius, return the last radius.",
        ),
        "zero": (
            _zero_for_none,
            "Where the label differs at the last radius you return 0. Return the last radius.",
        ),
        "next_radius": (
            _next_radius,
            "You look one place behind the last radius that differs. There is none when that is the last in the list: "
            "return the last radius.",
        ),
        "mean_grey": (
            lambda predict, image, row, column, radii: _with(
                lambda r: _seen(image, row, column, r, float(image.mean())), predict, image, row, column, radii
            ),
            "You hide with the mean of the image. The text says grey, 0.5.",
        ),
        "wide": (
            lambda predict, image, row, column, radii: _with(
                lambda r: _seen(image, row, column, r + 1), predict, image, row, column, radii
            ),
            "Your window is a pixel too wide on each side: r = 0 shows the pixel alone.",
        ),
        "side": (
            lambda predict, image, row, column, radii: _with(
                lambda r: _seen(image, row, column, r // 2), predict, image, row, column, radii
            ),
            "You take r for the side of the window. It is the radius: the side is 2r + 1.",
        ),
    },
    right={
        "in place": _context_in_place,
        "one mask per radius": _context_where,
        "all radii first": lambda predict, image, row, column, radii: _from_which_on(
            _labels_match(image, predict, row, column, radii), radii
        ),
        "as a float": lambda predict, image, row, column, radii: float(context(predict, image, row, column, radii)),
    },
    probes=_images,
    hint="Hide everything outside the window, compare with the whole image's label, and go from the largest radius "
    "down.",
    sketch="label = predict(image)[row, column]; needed = radii[-1]; for r in reversed(radii): window = a grey image; "
    "copy rows ... to ... and columns ... to ... of the image into it; stop where its label differs, else needed = r",
)


EXERCISES = {
    **ch05_layers.EXERCISES,
    "ch05.numbers": NUMBERS,
    "ch05.rebuild": REBUILD,
    "ch05.unread": UNREAD,
    "ch05.valid": VALID,
    "ch05.stack": STACK,
    "ch05.context": CONTEXT,
}
