"""The exercises of chapter 5, "Atrous convolution"."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.book.exercise import Exercise

Strided = Sequence[tuple[int, int, int]]
Dense = tuple[list[tuple[int, int, int]], int]
Predict = Callable[[Tensor], Tensor]


# Field and cells that are read ----------------------------------------------------------------------------------------

REACH = Exercise(
    solution=(19, 7, 27, 27),
    wrong={
        "filled": (
            (19, 19, 27, 27),
            "You take both fields as filled. With rates 3, 3, 3 every sum of taps is a multiple of 3.",
        ),
        "both_gaps": (
            (19, 7, 27, 7),
            "With rates 1, 3, 9 the sums of taps differ: −1, 0, 1 plus −3, 0, 3 already gives nine distances.",
        ),
        "dilation_ignored": (
            (7, 7, 7, 7),
            "Those are the numbers without dilation: the taps of a layer with rate d lie d cells apart.",
        ),
        "times_kernel": (
            (27, 7, 39, 27),
            "Three taps have two gaps between them: a layer adds 2d to the field, not 3d.",
        ),
        "own_cell": ((18, 7, 26, 27), "Your fields miss a cell: 2d per layer, and the output's own cell."),
        "one_side": ((10, 4, 14, 14), "You count one side only. The taps lie on both sides of the middle."),
        "plane": ((361, 49, 729, 729), "Those are the numbers in the plane. Along one axis it is their root."),
        "paths": (
            (19, 27, 27, 27),
            "With rates 3, 3, 3 there are 3 · 3 · 3 paths, but many end at the same cell. Count cells.",
        ),
        "taps": (
            (19, 9, 27, 9),
            "You count the weights of the three layers. A path adds one move per layer: count the sums.",
        ),
        "span": ((9, 9, 13, 13), "The moves go up to ±(d₁ + d₂ + d₃): a layer adds 2d cells, not d, to 1."),
    },
    right={
        "a list": [19, 7, 27, 27],
        "a tensor": torch.tensor([19, 7, 27, 27]),
        "floats": (19.0, 7.0, 27.0, 27.0),
        "an array": np.array([19, 7, 27, 27]),
    },
    hint="Along one axis a layer with rate d moves by −d, 0 or d. Which sums of three such moves are there?",
    sketch="Field: 1 + 2d for every layer, added up. Read: list the sums a + b + c with a in {−d₁, 0, d₁}, b in "
    "{−d₂, 0, d₂}, c in {−d₃, 0, d₃}, and count the different ones.",
)


# The dense twin -------------------------------------------------------------------------------------------------------


def dense(layers: Strided) -> Dense:
    """``(kernel, stride, padding)`` of every layer → ``(kernel, dilation, padding)`` without strides, and the step."""
    twin, step = [], 1
    for kernel, stride, padding in layers:
        twin.append((kernel, step, step * padding))
        step *= stride
    return twin, step


def _networks() -> Mapping[str, tuple[Strided]]:
    return {
        "one stride": ([(3, 2, 1), (3, 1, 1)],),
        "strides 2, 2 and 3": ([(7, 2, 3), (3, 1, 1), (3, 2, 1), (5, 3, 2), (3, 1, 1)],),
        "no stride": ([(3, 1, 1), (3, 1, 1)],),
        "a stride of 4": ([(5, 4, 2), (3, 1, 1), (3, 2, 0), (1, 1, 0)],),
        "a stride in the last layer": ([(3, 1, 1), (3, 2, 1), (3, 1, 2), (3, 3, 1)],),
        "one layer": ([(2, 2, 0)],),
        "no layers": ([],),
    }


def _twin(layers: Strided, dilate: Callable[[int, int], tuple[int, int]], pad: Callable[[int, int], int]) -> Dense:
    """A twin: ``dilate(step, stride)`` gives a layer's dilation and the next step, ``pad(dilation, p)`` its padding."""
    twin, step = [], 1
    for kernel, stride, padding in layers:
        dilation, step = dilate(step, stride)
        twin.append((kernel, dilation, pad(dilation, padding)))
    return twin, step


def _dense_in_place(layers: list[Any]) -> Any:
    step = 1
    for i in range(len(layers)):
        kernel, stride, padding = layers[i]
        layers[i] = (kernel, step, step * padding)
        step = step * stride
    return layers, step


def _dense_numpy(layers: Strided) -> Any:
    steps = np.cumprod([1] + [stride for _, stride, _ in layers])
    return [(k, steps[i], steps[i] * p) for i, (k, _, p) in enumerate(layers)], steps[-1]


def _dense_product(layers: Strided) -> Any:
    before = [math.prod(stride for _, stride, _ in layers[:i]) for i in range(len(layers) + 1)]
    return [(k, d, d * p) for (k, _, p), d in zip(layers, before, strict=False)], before[-1]


DENSE = Exercise(
    solution=dense,
    wrong={
        "own_stride": (
            lambda layers: _twin(layers, lambda j, s: (j * s, j * s), lambda d, p: d * p),
            "A layer is dilated by the strides *before* it. Its own stride acts on what follows.",
        ),
        "padding": (
            lambda layers: _twin(layers, lambda j, s: (j, j * s), lambda d, p: p),
            "The padding must grow with the dilation: d times as many cells reach over the border.",
        ),
        "last_only": (
            lambda layers: _twin(layers, lambda j, s: (j, s), lambda d, p: d * p),
            "Only the stride right before a layer counts in your version. All strides before it multiply.",
        ),
        "added": (
            lambda layers: _twin(layers, lambda j, s: (j, j + s - 1), lambda d, p: d * p),
            "Strides multiply: behind two strides of 2 cells lie 4 apart.",
        ),
        "same_padding": (
            lambda layers: ([(k, d, d * (k // 2)) for k, d, _ in dense(layers)[0]], dense(layers)[1]),
            "You choose a padding that keeps the size. A network without padding must stay without: take d · p.",
        ),
        "kernels": (
            lambda layers: ([(d * (k - 1) + 1, d, p) for k, d, p in dense(layers)[0]], dense(layers)[1]),
            "The kernel keeps its k weights. Its effective size grows through the dilation alone.",
        ),
        "swapped": (
            lambda layers: dense(layers)[::-1],
            "Return the layers first, then the step.",
        ),
        "last_dilation": (
            lambda layers: (dense(layers)[0], dense(layers)[0][-1][1] if layers else 1),
            "Your step is the last layer's dilation. A stride in the last layer thins out the old answers too: the "
            "step is the product of all strides.",
        ),
        "largest_stride": (
            lambda layers: (dense(layers)[0], max((s for _, s, _ in layers), default=1)),
            "Your step is the largest stride. Behind strides of 2, 2 and 3 only every 12th answer is an old one.",
        ),
        "empty": (
            lambda layers: dense(layers) if layers else ([], 0),
            "Without layers nothing is thinned out: every output is an old one, so the step is 1.",
        ),
        "effective_padding": (
            lambda layers: (
                [
                    (k, d, p + (d - 1) * (k - 1) // 2)
                    for (k, d, _), (*_, p) in zip(dense(layers)[0], layers, strict=True)
                ],
                dense(layers)[1],
            ),
            "You add what the effective kernel grows by. That is right only for padding (k − 1)/2; in general the "
            "padding is d · p.",
        ),
        "point_kernels": (
            lambda layers: ([(k, d if k > 1 else 1, p) for k, d, p in dense(layers)[0]], dense(layers)[1]),
            "A 1 × 1 kernel gets its dilation as well, as the text says, though it makes no difference to it.",
        ),
        "strides_stay": (
            lambda layers: ([(k, s, p) for k, s, p in layers], dense(layers)[1]),
            "You return the strides. The second number of each layer is to be its dilation.",
        ),
    },
    right={
        "in place": _dense_in_place,
        "NumPy": _dense_numpy,
        "from behind": _dense_product,
        "tuples": lambda layers: (tuple(map(tuple, dense(layers)[0])), dense(layers)[1]),
        "lists": lambda layers: [[list(layer) for layer in dense(layers)[0]], dense(layers)[1]],
    },
    probes=_networks,
    hint="Walk through the layers with one number: how many cells of the dense map lie between two strided cells?",
    sketch="twin, step = [], 1; for kernel, stride, padding in layers: append (kernel, ..., ...), both from step; "
    "then let step take the layer's own stride; return twin, step",
)


# Gaps -----------------------------------------------------------------------------------------------------------------


def gaps(rates: Sequence[int]) -> int:
    """Cells in the field of a stack of 3-tap layers along one axis that no path reaches."""
    read = {0}
    for d in rates:
        read = {cell + move for cell in read for move in (-d, 0, d)}
    return 1 + 2 * sum(rates) - len(read)


def _only_common_divisor(rates: Sequence[int]) -> int:
    field = 1 + 2 * sum(rates)
    return field - (1 + (field - 1) // math.gcd(*rates))


def _side_by_side(rates: Sequence[int]) -> int:
    return 1 + 2 * max(rates) - len({move for d in rates for move in (-d, 0, d)})


def _outer_taps(rates: Sequence[int]) -> int:
    read = {0}
    for d in rates:
        read = {cell + move for cell in read for move in (-d, d)}
    return 1 + 2 * sum(rates) - len(read)


def _widest_gap(rates: Sequence[int]) -> int:
    read = sorted(sum(moves) for moves in itertools.product(*[(-d, 0, d) for d in rates]))
    return max((b - a for a, b in itertools.pairwise(read)), default=0)


def _gaps_popping(rates: list[int]) -> int:
    field, read = 1, {0}
    while rates:
        d = rates.pop()
        field += 2 * d
        read |= {cell - d for cell in read} | {cell + d for cell in read}
    return field - len(read)


def _numpy_paths(rates: Sequence[int]) -> np.ndarray:
    paths = np.ones(1, dtype=np.int64)
    for d in rates:
        kernel = np.zeros(2 * d + 1, dtype=np.int64)
        kernel[[0, d, 2 * d]] = 1
        paths = np.convolve(paths, kernel)
    return paths


def _gaps_of_products(rates: Sequence[int]) -> int:
    cells = {sum(moves) for moves in itertools.product(*[(-d, 0, d) for d in rates])}
    return sum(cell not in cells for cell in range(-sum(rates), sum(rates) + 1))


def _gaps_by_convolution(rates: Sequence[int]) -> Tensor:
    reach = sum(rates)
    line = torch.zeros(1, 1, 2 * reach + 1)
    line[..., reach] = 1
    for d in rates:
        line = F.conv1d(line, torch.ones(1, 1, 3), padding=d, dilation=d)
    return (line == 0).sum()


GAPS = Exercise(
    solution=gaps,
    wrong={
        "read_instead": (
            lambda rates: 1 + 2 * sum(rates) - gaps(rates),
            "That is how many cells are read. Return how many of the field are not.",
        ),
        "common_divisor": (
            _only_common_divisor,
            "A common divisor always leaves gaps, but there are others: look at 1, 2, 9.",
        ),
        "side_by_side": (
            _side_by_side,
            "Your layers lie side by side, as in ASPP. One after another their moves add up.",
        ),
        "without_centre": (
            _outer_taps,
            "A kernel of three taps also has one in the middle: a layer may move by 0.",
        ),
        "paths": (
            lambda rates: 3 ** len(rates) - (1 + 2 * sum(rates) - gaps(rates)),
            "You count paths: several may end at the same cell. Count cells.",
        ),
        "plane": (
            lambda rates: (1 + 2 * sum(rates)) ** 2 - (1 + 2 * sum(rates) - gaps(rates)) ** 2,
            "Those are the gaps in the plane. The exercise asks for one axis.",
        ),
        "plain_layers": (
            lambda rates: gaps([1] * len(rates)),
            "Your layers are not dilated: layer i moves by −dᵢ, 0 or dᵢ.",
        ),
        "one_side": (
            lambda rates: gaps(rates) / 2,
            "You count one side of the middle only. The field reaches to both sides.",
        ),
        "off_by_one": (
            lambda rates: gaps(rates) - 1,
            "Your field lacks the output's own cell: it has 1 + 2 · Σd cells.",
        ),
        "each_rate_once": (
            lambda rates: gaps(list(dict.fromkeys(rates))),
            "You use a rate once, however many layers have it. Every layer moves.",
        ),
        "multiplied": (
            lambda rates: gaps([math.prod(rates[: i + 1]) for i in range(len(rates))]),
            "You multiply the rates of the layers. A rate counts cells of the map itself; only moves add up.",
        ),
        "no_layers": (
            lambda rates: gaps(rates) if rates else 1,
            "Without layers the field is the output's own cell, which is read: no gap.",
        ),
        "widest_gap": (
            _widest_gap,
            "That is the largest distance between neighbours that are read. Count the cells that are not.",
        ),
    },
    right={
        "in place": _gaps_popping,
        "NumPy": lambda rates: np.count_nonzero(_numpy_paths(rates) == 0),
        "all paths": _gaps_of_products,
        "torch": _gaps_by_convolution,
    },
    probes=lambda: {
        (f"rates {', '.join(map(str, rates))}" if rates else "no layers"): (rates,)
        for rates in ([1, 1, 1], [2, 2, 2], [1, 2, 5], [1, 2, 9], [4], [3, 2], [1, 2, 4, 8], [36, 1], [9, 2, 1], [])
    },
    hint="Collect the set of distances that a path can have, layer by layer.",
    sketch="read = {0}; for every rate d: read = the cells of read moved by −d, by 0 and by d; "
    "return (the cells of the field) − len(read)",
)


# Valid weights --------------------------------------------------------------------------------------------------------


def mean_valid(size: int, rate: int) -> float:
    """How many of nine weights meet a map of ``size`` × ``size`` cells, on average over its cells."""
    return (1 + 2 * max(0, size - rate) / size) ** 2


def _mean_valid_counted(size: int, rate: int) -> float:
    count = 0
    for row, column in itertools.product(range(size), repeat=2):
        for down, across in itertools.product((-rate, 0, rate), repeat=2):
            count += 0 <= row + down < size and 0 <= column + across < size
    return count / size**2


VALID = Exercise(
    solution=mean_valid,
    wrong={
        "no_floor": (
            lambda size, rate: (1 + 2 * (size - rate) / size) ** 2,
            "A rate beyond the size gives you less than one weight. The centre always meets the map.",
        ),
        "both_sides_at_once": (
            lambda size, rate: (1 + 2 * max(0, size - 2 * rate) / size) ** 2,
            "You drop a pair of taps as soon as one of them leaves the map. Each leaves alone.",
        ),
        "one_axis": (
            lambda size, rate: 1 + 2 * max(0, size - rate) / size,
            "That is the mean along one axis, of three weights. Rows and columns multiply.",
        ),
        "share": (
            lambda size, rate: mean_valid(size, rate) / 9,
            "That is the share of the nine weights. Return their number.",
        ),
        "all_or_nothing": (
            lambda size, rate: 9 * max(0, size - 2 * rate) ** 2 / size**2,
            "You count only the cells where all nine weights meet the map. The others use some of them too.",
        ),
        "tripled": (
            lambda size, rate: (3 * max(0, size - rate) / size) ** 2,
            "The centre tap never leaves the map: per axis it is 1 + 2 · share, not 3 · share.",
        ),
        "in_the_middle": (
            lambda size, rate: (1 + 2 * (rate <= size // 2)) ** 2,
            "That is the number for the cell in the middle. Take the mean over all cells.",
        ),
        "floor_of_the_whole": (
            lambda size, rate: max(0.0, 1 + 2 * (size - rate) / size) ** 2,
            "Your floor holds for the sum. It is the share of cells with a valid tap that never falls below 0.",
        ),
        "one_too_many": (
            lambda size, rate: (1 + 2 * min(max(0, size - rate + 1), size) / size) ** 2,
            "One cell too many: the tap d to the right of cell c lies on the map while c + d ≤ n − 1.",
        ),
        "one_too_few": (
            lambda size, rate: (1 + 2 * max(0, size - rate - 1) / size) ** 2,
            "One cell too few: cells 0 to n − 1 − d have a valid right tap, which are n − d cells.",
        ),
        "integer_division": (
            lambda size, rate: (1 + 2 * (max(0, size - rate) // size)) ** 2,
            "You divide with //, which throws the fraction away. Divide with /.",
        ),
        "rounded": (
            lambda size, rate: round(mean_valid(size, rate)),
            "You round to a whole number of weights. The mean over the cells is a fraction.",
        ),
        "two_decimals": (
            lambda size, rate: round(mean_valid(size, rate), 2),
            "You round to two decimals. Return the mean itself.",
        ),
        "corners_like_sides": (
            lambda size, rate: 1 + 8 * max(0, size - rate) / size,
            "You treat all eight outer taps alike. A corner tap must stay on the map along both axes, so its share "
            "is squared.",
        ),
        "one_side": (
            lambda size, rate: (1 + max(0, size - rate) / size) ** 2,
            "You count one outer tap per axis. There is one to the left and one to the right.",
        ),
    },
    right={
        "counted cell by cell": _mean_valid_counted,
        "multiplied out": lambda size, rate: 1 + 4 * (s := max(0, size - rate) / size) + 4 * s * s,
        "with a map": lambda size, rate: F.conv2d(
            torch.ones(1, 1, size, size), torch.ones(1, 1, 3, 3), padding=rate, dilation=rate
        ).mean(),
        "NumPy": lambda size, rate: (1 + 2 * np.mean(np.arange(size) + rate < size)) ** 2,
    },
    probes=lambda: {
        f"rate {d} on {n} × {n} cells": (n, d)
        for n, d in [(65, 6), (33, 18), (16, 12), (9, 9), (9, 8), (9, 20), (9, 13), (8, 1), (7, 3), (1, 1)]
    },
    hint="Along one axis: for how many of the n cells does the tap that is d further still lie on the map?",
    sketch="share = (cells whose right tap lies on the map, never below 0) / size; per axis 1 (the middle) + ... · "
    "share; rows and columns ...",
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
    "ch05.reach": REACH,
    "ch05.dense": DENSE,
    "ch05.gaps": GAPS,
    "ch05.valid": VALID,
    "ch05.context": CONTEXT,
}
