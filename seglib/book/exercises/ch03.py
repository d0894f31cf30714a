"""The exercises of chapter 3, "Fully convolutional networks"."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.book.exercise import Exercise
from seglib.book.exercises import ch03_head
from seglib.layers.upsample import bilinear_kernel

Layers = Sequence[tuple[int, int, int]]
Predict = Callable[[Tensor], Tensor]


# The size of the output -----------------------------------------------------------------------------------------------

SIZES = Exercise(
    solution=(15, 14, 56),
    wrong={
        "stride_times_input": (
            (14, 14, 56),
            "Only where k − 2p = s is the output s times the input. In general the last stamp starts at s(n − 1) and "
            "is k long.",
        ),
        "one_stamp_too_many": (
            (17, 16, 64),
            "You start the last stamp at s·n. The first one starts at 0, so the n-th starts at s(n − 1).",
        ),
        "padding_added": (
            (15, 18, 72),
            "Your padding makes the output larger. Here it is cut off: p cells at both ends.",
        ),
        "padding_once": ((15, 15, 60), "The padding is cut off at both ends: 2p cells, not p."),
        "padding_ignored": ((15, 16, 64), "The padding is missing: it cuts p cells off at both ends."),
        "convolution": (
            (3, 3, 0),
            "That is the size after a convolution, which goes the other way. A transposed convolution upsamples.",
        ),
        "chained": (
            (15, 30, 240),
            "You apply the three one after the other. Each of them starts from the map with 7 cells.",
        ),
        "whole_map": ((225, 196, 3136), "You count the cells of a square map. Count along one axis."),
        "kernel_forgotten": ((12, 10, 40), "The last stamp starts at s(n − 1), and it is k cells long: add k."),
        "one_cell_long": ((13, 11, 41), "You count the last stamp as one cell. It is k cells long."),
    },
    right={
        "list": [15, 14, 56],
        "floats": (15.0, 14.0, 56.0),
        "tensor": torch.tensor([15, 14, 56]),
        "array": np.array([15.0, 14.0, 56.0]),
    },
    hint="Where does the last stamp start, how long is it, and what does the padding cut off?",
    sketch="The last stamp starts at s · (n − 1); add its length …; then take away what is cut at both ends, …",
)


# Gathering instead of stamping ----------------------------------------------------------------------------------------


def gather(x: Tensor, w: Tensor, stride: int, padding: int) -> Tensor:
    """A transposed convolution along one axis, ``x (n,)`` and ``w (k,)``: every output collects what reaches it."""
    out = [
        sum((x[i] * w[t] for i in range(len(x)) if 0 <= (t := o + padding - stride * i) < len(w)), torch.tensor(0.0))
        for o in range(stride * (len(x) - 1) + len(w) - 2 * padding)
    ]
    return torch.stack([torch.as_tensor(v, dtype=x.dtype) for v in out])


def _place(x: Tensor, w: Tensor, stride: int, padding: int, weight: Callable[[int, int], Tensor | float]) -> Tensor:
    """Σ_i x_i · weight(o, i) for every output cell o."""
    size = stride * (len(x) - 1) + len(w) - 2 * padding
    return torch.tensor([sum(float(x[i] * weight(o, i)) for i in range(len(x))) for o in range(size)])


def _at(w: Tensor, t: int, low: int = 0, high: int = 0) -> Tensor | float:
    """Weight t, or 0 outside of ``low`` … k − 1 − ``high``."""
    return w[t] if low <= t < len(w) - high else 0.0


def _last_wins(x: Tensor, w: Tensor, stride: int, padding: int) -> Tensor:
    out = torch.zeros(stride * (len(x) - 1) + len(w))
    for i, value in enumerate(x):
        out[stride * i : stride * i + len(w)] = value * w
    return out[padding : len(out) - padding]


def _averaged(x: Tensor, w: Tensor, stride: int, padding: int) -> Tensor:
    count = gather(torch.ones_like(x), torch.ones_like(w), stride, padding)
    return gather(x, w, stride, padding) / count.clamp(min=1)


def _every_tap(x: Tensor, w: Tensor, stride: int, padding: int) -> Tensor:
    """Divides o + p − t by the stride without asking whether it goes in whole."""
    size = stride * (len(x) - 1) + len(w) - 2 * padding
    places = [[(o + padding - t) // stride for t in range(len(w))] for o in range(size)]
    return torch.tensor([sum(float(x[i] * w[t]) for t, i in enumerate(p) if 0 <= i < len(x)) for p in places])


def _minus_padding(x: Tensor, w: Tensor, stride: int, padding: int) -> Tensor:
    return gather(x, w, stride, 0)[padding:-padding]  # empty without padding


def _with_zeros(x: Tensor, w: Tensor, stride: int, padding: int) -> Tensor:
    """Zeros between the cells, then a convolution with the flipped kernel."""
    spread = torch.zeros(stride * (len(x) - 1) + 1)
    spread[::stride] = x
    full = F.pad(spread, (len(w) - 1, len(w) - 1)).unfold(0, len(w), 1) @ w.flip(0)
    return full[padding : len(full) - padding]


def _in_numpy(x: Tensor, w: Tensor, stride: int, padding: int) -> np.ndarray:
    spread = np.zeros(stride * (len(x) - 1) + 1)
    spread[::stride] = x.numpy()
    full = np.convolve(spread, w.numpy())
    return full[padding : len(full) - padding]


def _in_lists(x: Tensor, w: Tensor, stride: int, padding: int) -> list[float]:
    size = stride * (len(x) - 1) + len(w) - 2 * padding
    out = []
    for o in range(size):
        reaching = [i for i in range(len(x)) if stride * i <= o + padding < stride * i + len(w)]
        out.append(sum(x[i].item() * w[o + padding - stride * i].item() for i in reaching))
    return out


def _consuming(x: Tensor, w: Tensor, stride: int, padding: int) -> Tensor:
    """Stamps cell after cell and wipes it out of x."""
    out = torch.zeros(stride * (len(x) - 1) + len(w), dtype=torch.float64)
    for i in range(len(x)):
        out[stride * i : stride * i + len(w)].add_(x[i] * w)
        x[i] = 0
    return out[padding : len(out) - padding]


def _lines() -> Mapping[str, tuple[Tensor, Tensor, int, int]]:
    x = torch.tensor([1.0, -2.0, 4.0, 3.0])
    return {
        "k = 3, stride 2, padding 0": (x, torch.tensor([1.0, 5.0, 2.0]), 2, 0),
        "k = 4, stride 2, padding 1": (x, torch.tensor([1.0, 3.0, 2.0, 7.0]), 2, 1),
        "k = 5, stride 3, padding 1": (x, torch.tensor([1.0, 0.0, 2.0, 6.0, 1.0]), 3, 1),
        "k = 2, stride 3, padding 0 (gaps)": (x, torch.tensor([2.0, 5.0]), 3, 0),
        "k = 5, stride 1, padding 2": (x, torch.tensor([1.0, 4.0, 2.0, 6.0, 3.0]), 1, 2),
        "a single cell": (x[2:3], torch.tensor([1.5, 2.5, 3.5]), 2, 0),
    }


GATHER = Exercise(
    solution=gather,
    wrong={
        "flipped": (
            lambda x, w, s, p: _place(x, w, s, p, lambda o, i: _at(w.flip(0), o + p - s * i)),
            "Your kernel is flipped. The stamp of cell i starts at s·i, so t grows with o.",
        ),
        "wraps_round": (
            lambda x, w, s, p: _place(
                x, w, s, p, lambda o, i: w[o + p - s * i] if -len(w) <= o + p - s * i < len(w) else 0.0
            ),
            "A negative index wraps round in Python: w[-1] is the last weight. A stamp that starts after o does not "
            "reach it; demand 0 ≤ t < k.",
        ),
        "first_weight_lost": (
            lambda x, w, s, p: _place(x, w, s, p, lambda o, i: _at(w, o + p - s * i, low=1)),
            "You leave out t = 0. The first weight of a stamp counts too: 0 ≤ t < k.",
        ),
        "last_weight_lost": (
            lambda x, w, s, p: _place(x, w, s, p, lambda o, i: _at(w, o + p - s * i, high=1)),
            "You leave out t = k − 1. The last weight of a stamp counts too: 0 ≤ t < k.",
        ),
        "every_tap": (
            _every_tap,
            "You divide by the stride and drop the rest. Where o + p − t is no multiple of s, no stamp puts weight t "
            "on that cell.",
        ),
        "padding_forgotten": (
            lambda x, w, s, p: _place(x, w, s, p, lambda o, i: _at(w, o - s * i)),
            "You cut the right end only. After the padding is cut, output cell o was cell o + p before.",
        ),
        "padding_left_only": (
            lambda x, w, s, p: gather(x, w, s, 0)[p:],
            "You cut the left end only. p cells are cut off at the right end too.",
        ),
        "padding_twice": (
            lambda x, w, s, p: _place(x, w, s, p, lambda o, i: _at(w, o + 2 * p - s * i)),
            "You cut all 2p cells at the left. p of them are cut at either end, so output cell o was cell o + p "
            "before.",
        ),
        "padding_sign": (
            lambda x, w, s, p: _place(x, w, s, p, lambda o, i: _at(w, o - p - s * i)),
            "The sign of the padding is wrong: cutting p cells at the left means that output o was cell o + p before.",
        ),
        "minus_padding": (
            _minus_padding,
            "Without padding your slice [p : −p] is [0 : 0], which is empty. Cut up to the length less p.",
        ),
        "stride_one": (
            lambda x, w, s, p: _place(x, w, s, p, lambda o, i: _at(w, o + p - i)),
            "Your stamps lie 1 apart. The stamp of cell i starts at s·i.",
        ),
        "not_cut": (
            lambda x, w, s, _: gather(x, w, s, 0),
            "The padding is missing: it cuts p cells off at both ends, so s(n − 1) + k − 2p are left.",
        ),
        "backwards": (
            lambda x, w, s, p: _place(x, w, s, p, lambda o, i: _at(w, s * i - o - p)),
            "The sign of your t is wrong: t counts from the start of the stamp, s·i, to the output cell, so it grows "
            "with o.",
        ),
        "last_wins": (
            _last_wins,
            "Where stamps overlap you keep the last one. They add up.",
        ),
        "averaged": (
            _averaged,
            "Where stamps overlap you take their mean. They add up.",
        ),
    },
    right={
        "zeros between the cells": _with_zeros,
        "numpy": _in_numpy,
        "lists": _in_lists,
        "float64, wiping out the input": _consuming,
        "torch's own": lambda x, w, s, p: F.conv_transpose1d(x[None, None], w[None, None], stride=s, padding=p)[0, 0],
    },
    probes=_lines,
    hint="Which weight of the stamp of cell i lies on output cell o?",
    sketch="for every output cell o: for every cell i: t = … (o, p, s and i); if t lies in 0 … k − 1: add x[i] · w[t].",
)


# The bilinear kernel --------------------------------------------------------------------------------------------------


def kernel_for(factor: int) -> Tensor:
    """The bilinear kernel for any factor: ``(2f, 2f)`` for even f, ``(2f − 1, 2f − 1)`` for odd f."""
    return bilinear_kernel(1, 1, 2 * factor - factor % 2)[0, 0]


def _square(weights: Tensor) -> Tensor:
    return torch.outer(weights, weights)


def _line(factor: int) -> Tensor:
    """The right weights along one axis."""
    size = 2 * factor - factor % 2
    return _tent(size, (size - 1) / 2, factor)


def _tent(size: int, centre: float, slope: float) -> Tensor:
    return (1 - (torch.arange(size) - centre).abs() / slope).clamp(min=0)


def _kernel_in_loops(factor: int) -> list[list[float]]:
    """Weight by weight: how far is the centre of a pixel from that of cell 0, in cells?"""
    first = min(o for o in range(-2 * factor, factor) if abs((o + 0.5) / factor - 0.5) < 1)
    size = sum(abs((o + 0.5) / factor - 0.5) < 1 for o in range(-2 * factor, 3 * factor))
    line = [1 - abs((first + t + 0.5) / factor - 0.5) for t in range(size)]
    return [[a * b for b in line] for a in line]


def _kernel_as_response(factor: int) -> Tensor:
    """What ``interpolate`` makes of a single 1: its bilinear kernel, cut out."""
    impulse = torch.zeros(1, 1, 5, 5)
    impulse[0, 0, 2, 2] = 1
    full = F.interpolate(impulse, scale_factor=factor, mode="bilinear")[0, 0]
    rows, columns = full.amax(1) > 0, full.amax(0) > 0
    return full[rows][:, columns]


def _kernel_in_numpy(factor: int) -> np.ndarray:
    size = 2 * factor if factor % 2 == 0 else 2 * factor - 1
    row, column = np.ogrid[:size, :size]
    centre = (size - 1) / 2
    return (1 - abs(row - centre) / factor) * (1 - abs(column - centre) / factor)


BILINEAR = Exercise(
    solution=kernel_for,
    wrong={
        "even_only": (
            lambda f: _square(_tent(2 * f, f - 0.5, f)),
            "Right for even factors. For an odd factor a pixel of the large map lies on the centre of a cell: the "
            "kernel has 2f − 1 weights, and the middle one is 1.",
        ),
        "odd_only": (
            lambda f: _square(_tent(2 * f - 1, f - 1, f)),
            "Right for odd factors. For an even factor no pixel lies on the centre of a cell: the kernel has 2f "
            "weights, symmetric about its middle.",
        ),
        "half_pixel": (
            lambda f: _square(_tent(2 * f - f % 2, f - 0.5 if f % 2 else f, f)),
            "Your kernel is not symmetric: it is half a pixel off. Pixel t has its centre at t + ½, not at t.",
        ),
        "nearest": (
            lambda f: torch.ones(f, f),
            "That copies each cell f × f times: nearest neighbour. Bilinear weights reach to the neighbours' centres.",
        ),
        "slope": (
            lambda f: _square(_tent(2 * f - f % 2, (2 * f - f % 2 - 1) / 2, (2 * f - f % 2) / 2 + 0.5)),
            "The sides of your tent have the wrong slope: the weights that meet in a pixel must sum to 1. They fall "
            "by 1/f a pixel.",
        ),
        "ends_at_zero": (
            lambda f: _square(_tent(2 * f + f % 2, (2 * f + f % 2 - 1) / 2, f)),
            "For odd factors the ends of your kernel are 0: they lie on the neighbours' centres. Leave them out; "
            "2f − 1 weights remain.",
        ),
        "pyramid": (
            lambda f: torch.minimum(
                *torch.meshgrid(*[_tent(2 * f - f % 2, (2 * f - f % 2 - 1) / 2, f)] * 2, indexing="ij")
            ),
            "You take the smaller of the two weights. Bilinear weights multiply: rows times columns.",
        ),
        "sum": (
            lambda f: _line(f)[:, None] + _line(f)[None, :],
            "You add the weights of the two axes. Bilinear weights multiply: rows times columns.",
        ),
        "odd_slope": (
            lambda f: _square(_tent(2 * f - f % 2, (2 * f - f % 2 - 1) / 2, (2 * f - f % 2) / 2)),
            "For odd factors the sides of your tent are too steep: half of 2f − 1 is not f. They fall by 1/f a pixel "
            "for every factor.",
        ),
        "rounded": (
            lambda f: kernel_for(f).round(decimals=1),
            "Your weights are rounded, so those that meet in a pixel no longer sum to 1.",
        ),
        "one_axis": (
            lambda f: _tent(2 * f - f % 2, (2 * f - f % 2 - 1) / 2, f),
            "Those are the weights along one axis. The kernel is their outer product, rows times columns.",
        ),
        "normalised": (
            lambda f: kernel_for(f) / kernel_for(f).sum(),
            "Your weights sum to 1 over the kernel, so the upsampled map is f² times too dark. They must sum to 1 in "
            "every *pixel*: the whole kernel sums to f².",
        ),
    },
    right={
        "loops over pixel centres": _kernel_in_loops,
        "the response to a single 1": _kernel_as_response,
        "numpy": _kernel_in_numpy,
        "float64": lambda f: kernel_for(f).double(),
    },
    probes=lambda: {f"f = {f}": (f,) for f in (2, 3, 4, 5, 8)},
    hint="The weights that reach one pixel, from all cells, must sum to 1.",
    sketch="k = …, which depends on whether f is odd; line = 1 − (distance of weight t from the middle, …) / f; the "
    "kernel is the outer product of line with itself.",
)


# The receptive field --------------------------------------------------------------------------------------------------


def receptive_field(layers: Layers) -> tuple[int, int]:
    """Field and jump in pixels behind layers of ``(kernel, stride, dilation)``."""
    field, jump = 1, 1
    for kernel, stride, dilation in layers:
        field += dilation * (kernel - 1) * jump
        jump *= stride
    return field, jump


def _walk(
    layers: Layers, grow: Callable[[int, int, int, int], int], widen: Callable[[int, int, int], int]
) -> tuple[int, int]:
    """Field and jump when a layer adds ``grow(k, s, d, j)`` to the field and makes the jump ``widen(j, s, d)``."""
    field, jump = 1, 1
    for k, s, d in layers:
        field, jump = field + grow(k, s, d, jump), widen(jump, s, d)
    return field, jump


def _field_from_the_top(layers: Layers) -> list[int]:
    """From the output down: r cells of a layer's output need s(r − 1) + d(k − 1) + 1 cells of its input."""
    field = 1
    for kernel, stride, dilation in reversed(layers):
        field = stride * (field - 1) + dilation * (kernel - 1) + 1
    return [field, int(np.prod([stride for _, stride, _ in layers]))]


def _field_in_numpy(layers: Layers) -> np.ndarray:
    k, s, d = np.array(layers, dtype=float).reshape(-1, 3).T
    jumps = np.cumprod([1, *s])  # before each layer, and behind the last
    return np.array([1 + (d * (k - 1) * jumps[:-1]).sum(), jumps[-1]])


def _field_consuming(layers: list[tuple[int, int, int]]) -> Tensor:
    field, jump = 1, 1
    while layers:
        kernel, stride, dilation = layers.pop(0)
        for _ in range(kernel - 1):  # tap by tap
            field += dilation * jump
        jump *= stride
    return torch.tensor([field, jump])


def _stacks() -> Mapping[str, tuple[Layers]]:
    return {
        "three 3 × 3 layers": ([(3, 1, 1)] * 3,),
        "strides 2 and 2, then 3 × 3": ([(4, 2, 1), (3, 2, 1), (3, 1, 1)],),
        "stride 2, then dilations 2 and 4": ([(3, 2, 1), (3, 1, 2), (3, 1, 4)],),
        "a strided layer with dilation 2": ([(3, 2, 2), (3, 1, 1)],),
        "a last layer with stride 2": ([(5, 1, 3), (2, 2, 1)],),
        "a 1 × 1 layer with stride 2 and dilation 4": ([(1, 2, 4), (3, 1, 3)],),
    }


RECEPTIVE_FIELD = Exercise(
    solution=receptive_field,
    wrong={
        "dilation_ignored": (
            lambda layers: _walk(layers, lambda k, s, d, j: (k - 1) * j, lambda j, s, d: j * s),
            "The dilation is missing: the k taps of a dilated kernel lie d cells apart and span d(k − 1) + 1 cells.",
        ),
        "kernel_not_minus_one": (
            lambda layers: _walk(layers, lambda k, s, d, j: d * k * j, lambda j, s, d: j * s),
            "Each layer adds a little too much: k taps have k − 1 gaps between them.",
        ),
        "dilated_size": (
            lambda layers: _walk(layers, lambda k, s, d, j: (d * k - 1) * j, lambda j, s, d: j * s),
            "k taps that lie d apart span d(k − 1) + 1 cells, not d·k: there are k − 1 gaps.",
        ),
        "own_stride_first": (
            lambda layers: _walk(layers, lambda k, s, d, j: d * (k - 1) * j * s, lambda j, s, d: j * s),
            "You widen the jump before you grow the field. A layer's kernel steps over its *input*, whose jump does "
            "not know this layer's stride yet.",
        ),
        "no_jump": (
            lambda layers: _walk(layers, lambda k, s, d, j: d * (k - 1), lambda j, s, d: j * s),
            "The jump is missing in the field: after a stride of 2 neighbouring cells lie 2 pixels apart, so a kernel "
            "spans twice as many pixels.",
        ),
        "strides_added": (
            lambda layers: _walk(layers, lambda k, s, d, j: d * (k - 1) * j, lambda j, s, d: j + s - 1),
            "Strides multiply: two layers of stride 2 make a jump of 4, three of them 8.",
        ),
        "dilation_in_jump": (
            lambda layers: _walk(layers, lambda k, s, d, j: d * (k - 1) * j, lambda j, s, d: j * s * d),
            "Dilation spreads the taps of one kernel; it does not move the outputs apart. Leave it out of the jump.",
        ),
        "jump_before_the_last": (
            lambda layers: (receptive_field(layers)[0], receptive_field(layers[:-1])[1]),
            "Your jump is that of the last layer's input. Its own stride counts too.",
        ),
        "one_each": (
            lambda layers: _walk(layers, lambda k, s, d, j: d * (k - 1) * j + 1, lambda j, s, d: j * s),
            "You add 1 for every layer. The 1 is counted once, for the first pixel.",
        ),
        "from_zero": (
            lambda layers: (receptive_field(layers)[0] - 1, receptive_field(layers)[1]),
            "Your field starts at 0. Before the first layer a cell sees one pixel: itself.",
        ),
        "radius": (
            lambda layers: _walk(layers, lambda k, s, d, j: d * (k // 2) * j, lambda j, s, d: j * s),
            "You add the taps on one side of the middle. All k − 1 gaps count.",
        ),
        "dilated_twice": (
            lambda layers: _walk(layers, lambda k, s, d, j: d * d * (k - 1) * j, lambda j, s, d: j * s),
            "The dilation counts once: the k taps lie d cells apart.",
        ),
        "swapped": (
            lambda layers: receptive_field(layers)[::-1],
            "The two numbers are swapped: first the field, then the jump.",
        ),
    },
    right={
        "from the output down": _field_from_the_top,
        "numpy": _field_in_numpy,
        "taking the layers out of the list": _field_consuming,
        "a list": lambda layers: list(receptive_field(layers)),
    },
    probes=_stacks,
    hint="A kernel of k taps, d apart, spans d(k − 1) + 1 cells of its input; cells lie one jump apart.",
    sketch="field = jump = 1; for every layer: field += (what its taps span beyond the first, in cells) · …; "
    "jump = jump · ….",
)


# The same image, moved ------------------------------------------------------------------------------------------------


def shift_agreement(predict: Predict, image: Tensor, shift: int) -> Tensor:
    """Share of pixels whose label survives when the image ``(3, H, W)`` moves under the network's grid."""
    width = image.shape[-1] - shift
    one, two = predict(image[..., :width]), predict(image[..., shift:])  # (H, W − shift) each
    return (one[:, shift:] == two[:, : width - shift]).double().mean()


def _shift_unaligned(predict: Predict, image: Tensor, shift: int) -> Tensor:
    width = image.shape[-1] - shift
    return (predict(image[..., :width]) == predict(image[..., shift:])).double().mean()


def _shift_backwards(predict: Predict, image: Tensor, shift: int) -> Tensor:
    width = image.shape[-1] - shift
    one, two = predict(image[..., :width]), predict(image[..., shift:])
    return (one[:, : width - shift] == two[:, shift:]).double().mean()


def _shift_rows(predict: Predict, image: Tensor, shift: int) -> Tensor:
    return shift_agreement(lambda x: predict(x.transpose(1, 2)).T, image.transpose(1, 2), shift)


def _shift_rolled(predict: Predict, image: Tensor, shift: int) -> Tensor:
    return (predict(image).roll(-shift, 1) == predict(image.roll(-shift, 2))).double().mean()


def _shift_whole(predict: Predict, image: Tensor, shift: int) -> Tensor:
    return (predict(image)[:, shift:] == predict(image[..., shift:])).double().mean()


def _shift_half(predict: Predict, image: Tensor, shift: int) -> Tensor:
    width = image.shape[-1] // 2
    one, two = predict(image[..., :width]), predict(image[..., shift : shift + width])
    return (one[:, shift:] == two[:, : width - shift]).double().mean()


def _shift_all_pixels(predict: Predict, image: Tensor, shift: int) -> Tensor:
    width = image.shape[-1] - shift
    return shift_agreement(predict, image, shift) * (width - shift) / width


def _shift_once(predict: Predict, image: Tensor, shift: int) -> Tensor:
    labels = predict(image)
    width = image.shape[-1] - shift
    one, two = labels[:, :width], labels[:, shift:]
    return (one[:, shift:] == two[:, : width - shift]).double().mean()


def _shift_minus(predict: Predict, image: Tensor, shift: int) -> Tensor:
    one, two = predict(image[..., :-shift]), predict(image[..., shift:])  # empty when nothing moves
    return (one[:, shift:] == two[:, :-shift]).double().mean()


def _shift_one_too_far(predict: Predict, image: Tensor, shift: int) -> Tensor:
    return shift_agreement(predict, image, shift + 1)


def _shift_count(predict: Predict, image: Tensor, shift: int) -> Tensor:
    return shift_agreement(predict, image, shift) * image.shape[-2] * (image.shape[-1] - 2 * shift)


def _shift_in_numpy(predict: Predict, image: Tensor, shift: int) -> float:
    first = predict(image[:, :, : image.shape[2] - shift]).numpy()
    second = predict(image[:, :, shift:]).numpy()
    return float(np.mean(first[:, shift:] == second[:, : second.shape[1] - shift]))


def _shift_in_loops(predict: Predict, image: Tensor, shift: int) -> float:
    width = image.shape[-1]
    first, second = predict(image[..., : width - shift]), predict(image[..., shift:])
    same = total = 0
    for row in range(image.shape[1]):
        for column in range(shift, width - shift):  # columns of the image that lie in both windows
            same += int(first[row, column] == second[row, column - shift])
            total += 1
    return same / total


def _shift_on_a_canvas(predict: Predict, image: Tensor, shift: int) -> Tensor:
    """Lays both label maps on canvases of the image's size, and wipes the image out."""
    height, width = image.shape[1:]
    one, two = torch.full((height, width), -1), torch.full((height, width), -2)
    one[:, : width - shift] = predict(image[..., : width - shift])
    two[:, shift:] = predict(image[..., shift:])
    image.zero_()
    both = (one >= 0) & (two >= 0)
    return (one[both] == two[both]).float().mean()


def _blocks(image: Tensor) -> Tensor:
    """A predictor with a grid of 4 pixels: every block gets the id of its mean brightness."""
    means = F.avg_pool2d(image.mean(0)[None, None], 4, ceil_mode=True)[0, 0]  # (⌈H/4⌉, ⌈W/4⌉)
    full = means.repeat_interleave(4, 0).repeat_interleave(4, 1)[: image.shape[1], : image.shape[2]]
    return (full * 40).long()


def _pixels(image: Tensor) -> Tensor:
    """A predictor without a grid: every pixel on its own."""
    return (image.mean(0) * 5).long()


def _images() -> Mapping[str, tuple[Predict, Tensor, int]]:
    g = torch.Generator().manual_seed(3)
    coarse = torch.rand(1, 3, 6, 9, generator=g)
    image = F.interpolate(coarse, size=(24, 36), mode="bilinear")[0]  # (3, H, W)
    return {
        "a predictor that reads single pixels, moved by 3": (_pixels, image, 3),
        "a predictor with a grid of 4 pixels, moved by 3": (_blocks, image, 3),
        "a predictor with a grid of 4 pixels, moved by 4": (_blocks, image, 4),
        "a predictor with a grid of 4 pixels, not moved": (_blocks, image, 0),
        "a predictor with a grid of 4 pixels, moved by 10": (_blocks, image, 10),
    }


SHIFT = Exercise(
    solution=shift_agreement,
    wrong={
        "unaligned": (
            _shift_unaligned,
            "You compare the two label maps as they are. Column 0 of the moved image is column `shift` of the first: "
            "compare the same things.",
        ),
        "backwards": (
            _shift_backwards,
            "You aligned the maps in the wrong direction: drop the first columns of the first map and the last ones "
            "of the second.",
        ),
        "rows": (
            _shift_rows,
            "You moved the image along its rows' axis, up and down. Move it sideways, along the last axis.",
        ),
        "rolled": (
            _shift_rolled,
            "torch.roll brings in the opposite edge, which the network then sees. Crop two windows instead.",
        ),
        "disagreement": (
            lambda predict, image, shift: 1 - shift_agreement(predict, image, shift),
            "That is the share of pixels that change. Return the share that stays.",
        ),
        "whole": (
            _shift_whole,
            "Your first window is the whole image. Cut both: the image without its last `shift` columns, and "
            "without its first.",
        ),
        "half": (
            _shift_half,
            "Your windows are narrower than they can be: each is the width of the image less `shift`.",
        ),
        "all_pixels": (
            _shift_all_pixels,
            "You divide by all pixels of a window. Divide by those that lie in both windows.",
        ),
        "one_prediction": (
            _shift_once,
            "Your answer is always 1: you compare one prediction, or the pixels, with itself. Cut the image twice, "
            "predict each window and compare the labels.",
        ),
        "minus_shift": (
            _shift_minus,
            "For shift 0 your slice [: −shift] is [: 0], which is empty. Cut up to the width less the shift.",
        ),
        "one_too_far": (_shift_one_too_far, "You move by one pixel more than `shift`."),
        "count": (_shift_count, "That is the number of pixels that agree. Divide by the number of pixels compared."),
        "percent": (
            lambda predict, image, shift: 100 * shift_agreement(predict, image, shift),
            "That is a percentage. Return a share between 0 and 1.",
        ),
        "rounded": (
            lambda predict, image, shift: round(float(shift_agreement(predict, image, shift)), 2),
            "Your share is rounded. Return it as it is.",
        ),
    },
    right={
        "numpy": _shift_in_numpy,
        "loops": _shift_in_loops,
        "on a canvas, in float32, wiping out the image": _shift_on_a_canvas,
    },
    probes=_images,
    hint="The two windows share all columns but the first `shift` of one and the last `shift` of the other.",
    sketch="one = predict(the image without its last `shift` columns); two = predict(the image without its first); "
    "column c of two shows the same things as column … of one; compare the columns that both have.",
)


EXERCISES = {
    **ch03_head.EXERCISES,
    "ch03.sizes": SIZES,
    "ch03.gather": GATHER,
    "ch03.bilinear": BILINEAR,
    "ch03.receptive_field": RECEPTIVE_FIELD,
    "ch03.shift_agreement": SHIFT,
}
