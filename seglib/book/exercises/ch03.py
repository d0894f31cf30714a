"""The exercises of chapter 3, "Fully convolutional networks"."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.book.exercise import Exercise
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
    },
    hint="Where does the last stamp start, how long is it, and what does the padding cut off?",
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


def _at(w: Tensor, t: int) -> Tensor | float:
    return w[t] if 0 <= t < len(w) else 0.0


def _last_wins(x: Tensor, w: Tensor, stride: int, padding: int) -> Tensor:
    out = torch.zeros(stride * (len(x) - 1) + len(w))
    for i, value in enumerate(x):
        out[stride * i : stride * i + len(w)] = value * w
    return out[padding : len(out) - padding]


def _lines() -> Mapping[str, tuple[Tensor, Tensor, int, int]]:
    x = torch.tensor([1.0, 2.0, 4.0, 3.0])
    return {
        "k = 3, stride 2, padding 0": (x, torch.tensor([1.0, 5.0, 2.0]), 2, 0),
        "k = 4, stride 2, padding 1": (x, torch.tensor([1.0, 3.0, 2.0, 7.0]), 2, 1),
        "k = 5, stride 3, padding 1": (x, torch.tensor([1.0, 0.0, 2.0, 6.0, 1.0]), 3, 1),
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
        "padding_forgotten": (
            lambda x, w, s, p: _place(x, w, s, p, lambda o, i: _at(w, o - s * i)),
            "You cut the right end only. After the padding is cut, output cell o was cell o + p before.",
        ),
        "padding_sign": (
            lambda x, w, s, p: _place(x, w, s, p, lambda o, i: _at(w, o - p - s * i)),
            "The sign of the padding is wrong: cutting p cells at the left means that output o was cell o + p before.",
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
    },
    probes=_lines,
    hint="Which weight of the stamp of cell i lies on output cell o?",
)


# The bilinear kernel --------------------------------------------------------------------------------------------------


def kernel_for(factor: int) -> Tensor:
    """The bilinear kernel for any factor: ``(2f, 2f)`` for even f, ``(2f − 1, 2f − 1)`` for odd f."""
    return bilinear_kernel(1, 1, 2 * factor - factor % 2)[0, 0]


def _square(weights: Tensor) -> Tensor:
    return torch.outer(weights, weights)


def _tent(size: int, centre: float, slope: float) -> Tensor:
    return (1 - (torch.arange(size) - centre).abs() / slope).clamp(min=0)


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
    probes=lambda: {f"f = {f}": (f,) for f in (2, 3, 4, 5)},
    hint="The weights that reach one pixel, from all cells, must sum to 1.",
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


def _stacks() -> Mapping[str, tuple[Layers]]:
    return {
        "three 3 × 3 layers": ([(3, 1, 1)] * 3,),
        "strides 2 and 2, then 3 × 3": ([(4, 2, 1), (3, 2, 1), (3, 1, 1)],),
        "stride 2, then dilations 2 and 4": ([(3, 2, 1), (3, 1, 2), (3, 1, 4)],),
        "a strided layer with dilation 2": ([(3, 2, 2), (3, 1, 1)],),
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
        "swapped": (
            lambda layers: receptive_field(layers)[::-1],
            "The two numbers are swapped: first the field, then the jump.",
        ),
    },
    probes=_stacks,
    hint="A kernel of k taps, d apart, spans d(k − 1) + 1 cells of its input; cells lie one jump apart.",
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
    },
    probes=_images,
    hint="The two windows share all columns but the first `shift` of one and the last `shift` of the other.",
)


EXERCISES = {
    "ch03.sizes": SIZES,
    "ch03.gather": GATHER,
    "ch03.bilinear": BILINEAR,
    "ch03.receptive_field": RECEPTIVE_FIELD,
    "ch03.shift_agreement": SHIFT,
}
