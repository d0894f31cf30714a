"""The exercises of chapter 5, "Atrous convolution"."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

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
    },
    hint="Along one axis a layer with rate d moves by −d, 0 or d. Which sums of three such moves are there?",
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
    }


def _twin(layers: Strided, dilate: Callable[[int, int], tuple[int, int]], pad: Callable[[int, int], int]) -> Dense:
    """A twin: ``dilate(step, stride)`` gives a layer's dilation and the next step, ``pad(dilation, p)`` its padding."""
    twin, step = [], 1
    for kernel, stride, padding in layers:
        dilation, step = dilate(step, stride)
        twin.append((kernel, dilation, pad(dilation, padding)))
    return twin, step


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
    },
    probes=_networks,
    hint="Walk through the layers with one number: how many cells of the dense map lie between two strided cells?",
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
    },
    probes=lambda: {
        f"rates {', '.join(map(str, rates))}": (rates,)
        for rates in ([1, 1, 1], [2, 2, 2], [1, 2, 5], [1, 2, 9], [4], [3, 2], [1, 2, 4, 8])
    },
    hint="Collect the set of distances that a path can have, layer by layer.",
)


# Valid weights --------------------------------------------------------------------------------------------------------


def mean_valid(size: int, rate: int) -> float:
    """How many of nine weights meet a map of ``size`` × ``size`` cells, on average over its cells."""
    return (1 + 2 * max(0, size - rate) / size) ** 2


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
    },
    probes=lambda: {
        f"rate {d} on {n} × {n} cells": (n, d) for n, d in [(65, 6), (33, 18), (16, 12), (9, 9), (9, 20), (8, 1)]
    },
    hint="Along one axis: for how many of the n cells does the tap that is d further still lie on the map?",
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


def _images() -> Mapping[str, tuple[Predict, Tensor, int, int, list[int]]]:
    g = torch.Generator().manual_seed(5)
    image = torch.rand(3, 24, 30, generator=g).round(decimals=3)
    image[:, :12] = image[:, :12] * 0.4 + 0.6
    image[:, 14, 3] = 0.55  # grey, like what is hidden
    radii = [0, 1, 2, 3, 4, 6, 9, 30]
    return {
        "a predictor that reads 3 pixels far": (_mean_over(7), image, 10, 17, radii),
        "a predictor that reads a pixel 4 rows above and 4 columns to the left": (_corner, image, 9, 12, radii),
        "the same one where that pixel is grey": (_corner, image, 18, 7, radii),
        "a predictor that reads single pixels": (lambda x: (x[0] * 9).long(), image, 5, 20, radii),
        "a predictor that counts bright pixels everywhere": (_ripple, image, 12, 6, radii),
    }


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
    },
    probes=_images,
    hint="Hide everything outside the window, compare with the whole image's label, and go from the largest radius "
    "down.",
)


EXERCISES = {
    "ch05.reach": REACH,
    "ch05.dense": DENSE,
    "ch05.gaps": GAPS,
    "ch05.valid": VALID,
    "ch05.context": CONTEXT,
}
