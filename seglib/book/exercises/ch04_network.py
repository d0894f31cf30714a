"""Chapter 4, "U-Net": the pieces of section 3 that become the reader's own network, and exercises on its arithmetic."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from seglib.book.exercise import Exercise, difference, expect, own
from seglib.book.exercises.verify import keeps_float64, trains_all
from seglib.book.experiments.unet_cells import draw_cells, score_cells, touching_pairs

Layer = Callable[[Tensor], Tensor]

_NO_GRADIENT = "The numbers are right, but no full gradient reaches {}. Train with it and nothing is learnt there."


def _noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class _Calls(TorchFunctionMode):
    """The names of the functions of torch that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


# The up-convolution ---------------------------------------------------------------------------------------------------


def up_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x (B, C, h, w)``, ``weight (C, O, 2, 2)``, ``bias (O,)`` → ``(B, O, 2h, 2w)``: every cell becomes 2 × 2."""
    blocks = torch.einsum("bchw,coij->bohiwj", x, weight)  # (B, O, h, 2, w, 2)
    return blocks.flatten(4, 5).flatten(2, 3) + bias[:, None, None]


def _up_shuffled(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 1 × 1 convolution to 4 O channels, which are laid out as blocks."""
    kernel = weight.permute(1, 2, 3, 0).flatten(0, 2)  # (O · 4, C)
    return F.pixel_shuffle(F.conv2d(x, kernel[:, :, None, None], bias.repeat_interleave(4)), 2)


def _up_strided(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out = x.new_zeros(len(x), weight.shape[1], 2 * x.shape[2], 2 * x.shape[3])
    for i, j in itertools.product(range(2), repeat=2):
        out[:, :, i::2, j::2] = F.conv2d(x, weight[:, :, i, j].T[:, :, None, None], bias)
    return out


def _up_numpy(x: Tensor, weight: Tensor, bias: Tensor) -> np.ndarray:
    wide = np.repeat(np.repeat(x.numpy(), 2, 2), 2, 3)  # (B, C, 2h, 2w)
    tiled = np.tile(weight.numpy(), (1, 1, *x.shape[2:]))  # (C, O, 2h, 2w)
    return np.einsum("bchw,cohw->bohw", wide, tiled) + bias.numpy()[:, None, None]


def _up_flipped(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return up_conv(x, weight.flip(-2, -1), bias)


def _up_tiled(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Lays four small maps beside each other in place of interleaving them."""
    parts = [[F.conv2d(x, weight[:, :, i, j].T[:, :, None, None], bias) for j in range(2)] for i in range(2)]
    return torch.cat([torch.cat(row, 3) for row in parts], 2)


def _up_repeated(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return up_conv(x, weight.mean((2, 3), keepdim=True).expand_as(weight), bias)


def _up_gapped(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    out = up_conv(x, weight, bias)
    out[:, :, 1::2] = bias[:, None, None]
    out[:, :, :, 1::2] = bias[:, None, None]
    return out


def _ups() -> Mapping[str, tuple[Tensor, Tensor, Tensor]]:
    return {
        "3 channels to 2": (_noise(0, 2, 3, 2, 4), _noise(1, 3, 2, 2, 2), _noise(2, 2)),
        "2 channels to 2": (_noise(3, 1, 2, 3, 3), _noise(4, 2, 2, 2, 2), _noise(5, 2)),
        "a single cell": (_noise(6, 1, 1, 1, 1), _noise(7, 1, 3, 2, 2), _noise(8, 3)),
    }


UP_READY_MADE = "The numbers are right, but torch's own transposed convolution made them. Section 4 compares with it."
_up_trains = trains_all(up_conv, _ups, [_NO_GRADIENT.format(f"`{n}`") for n in ("x", "weight", "bias")])
UP_DIGITS = (
    "In float32 it is right, but in float64 your code raises or loses digits. Take the type of `x`; section 4 compares "
    "in float64."
)
_up_digits = keeps_float64(up_conv, _ups, UP_DIGITS)


def _own_up(attempt: Callable[..., Any]) -> None:
    case = next(iter(_ups().values()))
    with _Calls() as calls:
        answer = attempt(*map(own, case))
    if difference(answer, up_conv(*case), tolerance=1e-4) is None:
        expect(not any("conv_transpose" in name for name in calls.names), UP_READY_MADE)
        _up_trains(attempt)
        _up_digits(attempt)


UP = Exercise(
    solution=up_conv,
    wrong={
        "flipped": (
            _up_flipped,
            "Your blocks are turned by half a turn. weight[:, :, 0, 0] belongs to the top left pixel of a block.",
        ),
        "transposed": (
            lambda x, w, b: up_conv(x, w.mT, b),
            "Rows and columns of your blocks are swapped: weight[:, :, i, j] belongs to row i and column j of a block.",
        ),
        "channels_swapped": (
            lambda x, w, b: up_conv(x, w.transpose(0, 1), b),
            "`weight` is (C, O, 2, 2): the channels of x come first, unlike in a convolution.",
        ),
        "no_bias": (lambda x, w, b: up_conv(x, w, 0 * b), "The bias is missing."),
        "bias_in_corner": (
            lambda x, w, b: up_conv(x, w, 0 * b) + b[:, None, None] * _corners(x),
            "The bias is added to one pixel of each block. It is added to all four.",
        ),
        "bias_four_times": (
            lambda x, w, b: up_conv(x, w, 4 * b),
            "The bias is added four times. Each pixel of a block gets it once.",
        ),
        "tiled": (
            _up_tiled,
            "You lay four maps beside each other. They are interleaved: one cell becomes a block of 2 × 2 pixels.",
        ),
        "repeated": (
            _up_repeated,
            "All four pixels of a block get the same number. Each has weights of its own.",
        ),
        "gaps": (
            _up_gapped,
            "Three of four pixels hold the bias alone. Each cell gives all pixels of its block.",
        ),
        "averaged": (
            lambda x, w, b: up_conv(x, w / len(w), b),
            "You take the mean over the input channels. They add up.",
        ),
        "float32": (lambda x, w, b: up_conv(x.float(), w.float(), b.float()), UP_DIGITS),
        "ready_made": (lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2), UP_READY_MADE),
        "weights_detached": (lambda x, w, b: up_conv(x, w.detach(), b), _NO_GRADIENT.format("`weight`")),
    },
    right={"shuffled pixels": _up_shuffled, "every second row and column": _up_strided, "numpy": _up_numpy},
    probes=_ups,
    verify=_own_up,
    hint="Pixel (2y + i, 2x + j) of the output is cell (y, x), over all channels, times weight[:, :, i, j].",
    sketch="for i in 0, 1 and j in 0, 1: out[:, :, i::2, j::2] = the sum over the channels of x · weight[:, :, …, …]; "
    "add the bias.",
)


def _corners(x: Tensor) -> Tensor:
    out = torch.zeros(2 * x.shape[2], 2 * x.shape[3])
    out[::2, ::2] = 1
    return out


# Down and up again ----------------------------------------------------------------------------------------------------


def _middle(x: Tensor, like: Tensor) -> Tensor:
    (H, W), (h, w) = x.shape[-2:], like.shape[-2:]
    top, left = (H - h) // 2, (W - w) // 2
    return x[..., top : top + h, left : left + w]


def _walk(
    x: Tensor,
    down: Sequence[Layer],
    ups: Sequence[Layer],
    joins: Sequence[Layer],
    *,
    pool: Layer = lambda x: F.max_pool2d(x, 2),
    keep: Layer = lambda x: x,
    cut: Callable[[Tensor, Tensor], Tensor] = _middle,
    lift: Layer = lambda x: x,
    stack: Callable[[Tensor, Tensor], Tensor] = lambda skip, x: torch.cat([skip, x], 1),
) -> Tensor:
    kept: list[Tensor] = []
    for layer in down:
        kept.append(keep(x))
        x = layer(pool(x))
    for up, join in zip(ups, joins, strict=True):
        x = lift(up(x))
        x = join(stack(cut(kept.pop(), x), x))
    return x


def u_path(x: Tensor, down: Sequence[Layer], ups: Sequence[Layer], joins: Sequence[Layer]) -> Tensor:
    """From the map after the first double convolution down to the lowest, and up again with the skips."""
    return _walk(x, down, ups, joins)


def _recursive(x: Tensor, down: Sequence[Layer], ups: Sequence[Layer], joins: Sequence[Layer]) -> Tensor:
    if not down:
        return x
    below = _recursive(down[0](F.max_pool2d(x, 2)), down[1:], ups[:-1], joins[:-1])
    risen = ups[-1](below)
    return joins[-1](torch.cat([_middle(x, risen), risen], 1))


def _by_index(x: Tensor, down: Sequence[Layer], ups: Sequence[Layer], joins: Sequence[Layer]) -> Tensor:
    """Pools by unfolding, and finds its skips by their number."""
    maps, depth = [x], len(down)
    for layer in down:
        blocks = maps[-1].unfold(2, 2, 2).unfold(3, 2, 2)  # (B, C, h, w, 2, 2)
        maps.append(layer(blocks.amax((-2, -1))))
    x = maps[depth]
    for n in range(depth):
        x = ups[n](x)
        cut = [(a - b) // 2 for a, b in zip(maps[depth - 1 - n].shape[2:], x.shape[2:], strict=True)]
        skip = F.pad(maps[depth - 1 - n], (-cut[1], -cut[1], -cut[0], -cut[0]))
        x = joins[n](torch.cat((skip, x), dim=1))
    return x


def _emptying(x: Tensor, down: list[Layer], ups: list[Layer], joins: list[Layer]) -> Tensor:
    """Takes the lists apart."""
    kept: list[Tensor] = []
    while down:
        kept.insert(0, x)
        x = down.pop(0)(F.max_pool2d(x, 2))
    while ups:
        x = ups.pop(0)(x)
        x = joins.pop(0)(torch.cat([_middle(kept.pop(0), x), x], 1))
    return x


def _double(seed: int, c_in: int, c_out: int) -> Layer:
    one, two = _noise(seed, c_out, c_in, 3, 3) / (3 * c_in**0.5), _noise(seed + 1, c_out, c_out, 3, 3) / 3
    return lambda x: F.conv2d(F.conv2d(x, one).relu(), two).relu()


def _rise(seed: int, c_in: int, c_out: int) -> Layer:
    weight = _noise(seed, c_in, c_out, 2, 2)
    return lambda x: F.conv_transpose2d(x, weight, stride=2)


def _nets() -> Mapping[str, tuple[Tensor, list[Layer], list[Layer], list[Layer]]]:
    def case(seed: int, depth: int, height: int, width: int) -> Any:
        w = [2 + level for level in range(depth + 1)]
        pairs = list(itertools.pairwise(w))
        down = [_double(seed + 10 * n, c, deep) for n, (c, deep) in enumerate(pairs)]
        ups = [_rise(seed + 10 * n + 5, deep, c) for n, (c, deep) in enumerate(reversed(pairs))]
        joins = [_double(seed + 10 * n + 7, 2 * c, c) for n, (c, _) in enumerate(reversed(pairs))]
        return _noise(seed, 2, 2, height, width), down, ups, joins

    return {
        "two poolings": case(0, 2, 44, 52),
        "one pooling": case(100, 1, 18, 14),
        "three poolings": case(200, 3, 88, 96),
        "no pooling": case(300, 0, 5, 6),
    }


PATH = Exercise(
    solution=u_path,
    wrong={
        "mean_pooling": (
            lambda x, d, u, j: _walk(x, d, u, j, pool=lambda z: F.avg_pool2d(z, 2)),
            "You pool by the mean. The paper takes the maximum of 2 × 2 cells.",
        ),
        "every_second": (
            lambda x, d, u, j: _walk(x, d, u, j, pool=lambda z: z[..., ::2, ::2]),
            "You take every second cell. Pooling takes the maximum of each 2 × 2 cells.",
        ),
        "corner": (
            lambda x, d, u, j: _walk(x, d, u, j, cut=lambda z, like: z[..., : like.shape[2], : like.shape[3]]),
            "You cut out the top left corner of the skip. Cut out its middle.",
        ),
        "resized": (
            lambda x, d, u, j: _walk(x, d, u, j, cut=lambda z, like: F.interpolate(z, like.shape[2:])),
            "You resize the skip. Cut out its middle: its pixels are as large as those of the other map.",
        ),
        "other_order": (
            lambda x, d, u, j: _walk(x, d, u, j, stack=lambda skip, z: torch.cat([z, skip], 1)),
            "The map from below stands first in your concatenation. The skip comes first: the weights of `joins` fit "
            "that order.",
        ),
        "twice": (
            lambda x, d, u, j: _walk(x, d, u, j, stack=lambda _, z: torch.cat([z, z], 1)),
            "The map from below stands in both halves of your concatenation. One half is the skip.",
        ),
        "skip_alone": (
            lambda x, d, u, j: _walk(x, d, u, j, stack=lambda skip, _: torch.cat([skip, skip], 1)),
            "The skip stands in both halves of your concatenation. One half is the map from below.",
        ),
        "activated": (
            lambda x, d, u, j: _walk(x, d, u, j, lift=lambda z: z.relu()),
            "You put a ReLU behind the up-convolution. Nothing follows it.",
        ),
        "silent": (
            lambda x, d, u, j: _walk(x, d, u, j, keep=lambda z: 0 * z),
            "Your skips hold zeros. Keep each map before it is pooled.",
        ),
        "repeated": (
            lambda x, d, u, j: _walk(x, d, [_repeating(n) for n in _widths(d, x)], j),
            "You repeat cells on the way up. Use the layers in `ups`.",
        ),
        "added": (
            lambda x, d, u, j: _walk(x, d, u, j, stack=lambda skip, z: skip + z),
            "You add the two maps, as FCN does with scores. Put them side by side along the channels.",
        ),
        "skip_untrained": (
            lambda x, d, u, j: _walk(x, d, u, j, keep=lambda z: z.detach()),
            _NO_GRADIENT.format("`x`"),
        ),
    },
    right={"recursion": _recursive, "skips by number": _by_index, "emptying the lists": _emptying},
    probes=_nets,
    verify=trains_all(u_path, _nets, [_NO_GRADIENT.format("`x`")]),
    hint="Keep every map before it is pooled. On the way up the last one that was kept is the first one needed.",
    sketch="kept = []; for each layer of `down`: keep x, x = layer(pooled x); for each up and join: x = up(x), "
    "x = join(the … of the last kept map, then …).",
    tolerance=1e-4,
)


def _widths(down: Sequence[Layer], x: Tensor) -> list[int]:
    return [x.shape[1] + n for n in reversed(range(len(down)))]


def _repeating(channels: int) -> Layer:
    return lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :channels]


# Which widths fit -----------------------------------------------------------------------------------------------------


def fitting(n: int, poolings: int, convs: int, kernel: int) -> tuple[int, int]:
    """The smallest input width of at least n that a U-Net without padding takes, and the width of its answer."""
    return _fitting(n, poolings, convs * (kernel - 1))


def _fitting(n: int, poolings: int, lost: int, *, empty: bool = False) -> tuple[int, int]:
    """``lost`` cells go in every group of convolutions; the input is 2^P b + lost (2^P − 1)."""
    scale = 2**poolings
    for b in itertools.count(lost + 1 if not empty else 0):
        width, out = scale * b + lost * (scale - 1), scale * (b - lost) - lost * (scale - 1)
        if width >= n and (out > 0 or empty):
            return width, out
    raise AssertionError


def _fitting_by_trying(n: int, poolings: int, convs: int, kernel: int) -> list[int]:
    lost = convs * (kernel - 1)
    while True:
        width, fits = n, True
        for _ in range(poolings):
            width -= lost
            fits &= width % 2 == 0 and width > 0
            width //= 2
        for _ in range(poolings):
            width = 2 * (width - lost)
            fits &= width > 0
        width -= lost
        if fits and width > 0:
            return [n, width]
        n += 1


def _fitting_in_numpy(n: int, poolings: int, convs: int, kernel: int) -> np.ndarray:
    lost, scale = convs * (kernel - 1), 2**poolings
    b = np.arange(n + 4 * lost + 8)
    inputs, outputs = scale * b + lost * (scale - 1), scale * (b - lost) - lost * (scale - 1)
    first = np.flatnonzero((inputs >= n) & (outputs >= 1))[0]
    return np.array([inputs[first], outputs[first]])


def _all_lost(poolings: int, lost: int) -> int:
    return lost * (2**poolings + 2 * (2**poolings - 1))


FITTING = Exercise(
    solution=fitting,
    wrong={
        "two_convolutions": (
            lambda n, p, c, k: fitting(n, p, 2, k),
            "You take two convolutions in a group whatever `convs` says.",
        ),
        "kernel_three": (
            lambda n, p, c, k: fitting(n, p, c, 3),
            "You take 2 cells a convolution. A kernel of k cells takes k − 1.",
        ),
        "kernel_half": (
            lambda n, p, c, k: _fitting(n, p, c * (k // 2)),
            "You count what a convolution takes on one side. It takes k − 1 in all.",
        ),
        "four_poolings": (
            lambda n, p, c, k: fitting(n, 4, c, k),
            "You pool four times whatever `poolings` says.",
        ),
        "larger": (
            lambda n, p, c, k: fitting(n + 1, p, c, k),
            "Your input is always larger than n. Where n itself fits, it is the answer.",
        ),
        "empty": (
            lambda n, p, c, k: _fitting(n, p, c * (k - 1), empty=True),
            "For some networks your answer has no pixel. The smallest input must leave at least one.",
        ),
        "multiple": (
            lambda n, p, c, k: (-(-n // 2**p) * 2**p, -(-n // 2**p) * 2**p - _all_lost(p, c * (k - 1))),
            "You round up to a multiple of a power of 2, as for a network with padding. Here the convolutions come "
            "before the pooling.",
        ),
        "padded": (
            lambda n, p, c, k: (fitting(n, p, c, k)[0],) * 2,
            "The inputs are right. Nothing is padded, so the answer is smaller than the input.",
        ),
        "unscaled": (
            lambda n, p, c, k: (fitting(n, p, c, k)[0], fitting(n, p, c, k)[0] - (2 * p + 1) * c * (k - 1)),
            "The inputs are right. A cell that is lost below a pooling is worth two above it.",
        ),
        "down_only": (
            lambda n, p, c, k: (fitting(n, p, c, k)[0], fitting(n, p, c, k)[0] - c * (k - 1) * (2 ** (p + 1) - 1)),
            "The inputs are right. The convolutions on the way up take cells as well.",
        ),
        "no_bottom": (
            lambda n, p, c, k: (fitting(n, p, c, k)[0], fitting(n, p, c, k)[1] + c * (k - 1) * 2**p),
            "The inputs are right. The lowest level has a group of convolutions too.",
        ),
        "swapped": (
            lambda n, p, c, k: fitting(n, p, c, k)[::-1],
            "The two numbers are swapped: first the input, then the answer.",
        ),
    },
    right={"trying width after width": _fitting_by_trying, "numpy": _fitting_in_numpy},
    probes=lambda: {
        f"n = {n}, {p} poolings, {c} convolutions of {k}": (n, p, c, k)
        for n, p, c, k in ((500, 4, 2, 3), (572, 4, 2, 3), (200, 3, 1, 5), (101, 2, 3, 3), (1, 3, 2, 3), (7, 0, 2, 3))
    },
    hint="Follow one width down and up; or begin with b cells at the bottom and go up to the input.",
    sketch="for every width from n on: go down (what the convolutions take, …, half), through the bottom, and up again "
    "(…, what the convolutions take); return the first that works, and what is left of it.",
)


# A convolution of two maps --------------------------------------------------------------------------------------------


def conv_of_both(skip: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The convolution of ``[skip, x]`` along the channels, without padding."""
    return _two_convs(skip, x, weight, bias)


def _two_convs(skip: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    c = skip.shape[1]
    return F.conv2d(skip, weight[:, :c], bias) + F.conv2d(x, weight[:, c:])


def _in_the_middle(skip: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    half = weight.shape[1] // 2
    return F.conv2d(skip, weight[:, :half], bias) + F.conv2d(x, weight[:, half:])


def _x_first(skip: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return _two_convs(skip, x, weight.roll(-x.shape[1], 1), bias)


def _channel_by_channel(skip: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    channels = [*skip.unbind(1), *x.unbind(1)]
    terms = [F.conv2d(z[:, None], weight[:, n : n + 1]) for n, z in enumerate(channels)]
    return torch.stack(terms).sum(0) + bias.view(-1, 1, 1)


def _unfolded(skip: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    k, c = weight.shape[-1], skip.shape[1]
    size = (skip.shape[2] - k + 1, skip.shape[3] - k + 1)
    one = weight[:, :c].flatten(1) @ F.unfold(skip, k)
    two = weight[:, c:].flatten(1) @ F.unfold(x, k)
    return (one + two + bias[:, None]).unflatten(2, size)


def _both_in_numpy(skip: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> np.ndarray:
    k, total = weight.shape[-1], bias.numpy()[:, None, None]
    for part, w in ((skip, weight[:, : skip.shape[1]]), (x, weight[:, skip.shape[1] :])):
        windows = np.lib.stride_tricks.sliding_window_view(part.numpy(), (k, k), (2, 3))
        total = total + np.einsum("bchwij,ocij->bohw", windows, w.numpy())
    return total


def _pairs() -> Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor]]:
    return {
        "2 and 4 channels, 3 × 3": (_noise(0, 2, 2, 5, 6), _noise(1, 2, 4, 5, 6), _noise(2, 3, 6, 3, 3), _noise(3, 3)),
        "3 and 3 channels, 1 × 1": (_noise(4, 1, 3, 4, 4), _noise(5, 1, 3, 4, 4), _noise(6, 2, 6, 1, 1), _noise(7, 2)),
        "5 and 1 channels, 3 × 3": (
            _noise(8, 1, 5, 4, 3),
            _noise(9, 1, 1, 4, 3),
            _noise(10, 2, 6, 3, 3),
            _noise(11, 2),
        ),
    }


CONCATENATED = (
    "The numbers are right, but you build the concatenation, or another map that holds both. Convolve each map with "
    "its own part of the weights."
)
_both_train = trains_all(conv_of_both, _pairs, [_NO_GRADIENT.format(f"`{n}`") for n in ("skip", "x", "weight", "bias")])


def _no_concatenation(attempt: Callable[..., Any]) -> None:
    case = next(iter(_pairs().values()))
    with _Calls() as calls:
        answer = attempt(*map(own, case))
    if difference(answer, conv_of_both(*case), tolerance=1e-4) is None:
        expect(not {"cat", "concat", "concatenate", "hstack", "pad"} & set(calls.names), CONCATENATED)
        _both_train(attempt)


BOTH = Exercise(
    solution=conv_of_both,
    wrong={
        "bias_twice": (
            lambda s, x, w, b: conv_of_both(s, x, w, 2 * b),
            "Both of your convolutions add the bias. It is added once.",
        ),
        "no_bias": (lambda s, x, w, b: conv_of_both(s, x, w, 0 * b), "The bias is missing."),
        "in_the_middle": (
            _in_the_middle,
            "You cut the weights in the middle. The first part has as many channels as `skip`.",
        ),
        "x_first": (
            _x_first,
            "Your code takes `x` for the first channels of the concatenation. They are those of `skip`.",
        ),
        "skip_only": (
            lambda s, x, w, b: conv_of_both(s, 0 * x, w, b),
            "`x` plays no part in your answer.",
        ),
        "x_only": (
            lambda s, x, w, b: conv_of_both(0 * s, x, w, b),
            "`skip` plays no part in your answer.",
        ),
        "mean": (
            lambda s, x, w, b: (conv_of_both(s, x, w, 0 * b)) / 2 + b[:, None, None],
            "You take the mean of the two convolutions. They add up.",
        ),
        "padded": (
            lambda s, x, w, b: F.conv2d(torch.cat([s, x], 1), w, b, padding=w.shape[-1] // 2),
            "You pad. Nothing is padded here: the map loses k − 1 cells.",
        ),
        "concatenated": (lambda s, x, w, b: F.conv2d(torch.cat([s, x], 1), w, b), CONCATENATED),
        "detached": (lambda s, x, w, b: conv_of_both(s.detach(), x, w, b), _NO_GRADIENT.format("`skip`")),
    },
    right={"channel by channel": _channel_by_channel, "unfold": _unfolded, "numpy": _both_in_numpy},
    probes=_pairs,
    verify=_no_concatenation,
    hint="Which input channels of the weights read `skip`, and which read `x`?",
    sketch="C = channels of skip; a convolution of skip with weight[:, …], one of x with weight[:, …]; their sum; the "
    "bias ….",
    tolerance=1e-4,
)


# Break the IoU --------------------------------------------------------------------------------------------------------

LEAST, MOST = 0.99, 0.4


def _test_ids() -> list[Tensor]:
    return list(draw_cells(3, size=64, seed=11).ids)


def _score(mask: Any, ids: Tensor) -> dict[str, Any]:
    return score_cells(1 - mask.long()[None], ids[None])


_SHAPE = "Return two masks, each a bool tensor or array of the shape of `ids`."
_LOW = f"The IoU of your first mask is below {LEAST}. How few pixels join two cells?"
_APART = "In your first mask some touching pair is apart, or a cell is not found. Join each pair."
_HIGH = f"The IoU of your second mask is above {MOST}. Cells may lose pixels, and background may be called cell."
_JOINED = "In your second mask some touching pair is not apart: its cells share an object, or half of one is missing."


def _breaks_iou(attempt: Callable[..., Any]) -> None:
    for ids in _test_ids():
        answer = attempt(own(ids))
        expect(isinstance(answer, tuple | list) and len(answer) == 2, _SHAPE)
        masks = [torch.as_tensor(np.asarray(mask)) for mask in answer]
        expect(all(mask.shape == ids.shape and mask.dtype == torch.bool for mask in masks), _SHAPE)
        first, second = (_score(mask, ids) for mask in masks)
        expect(first["merged"] == 1, _APART)
        expect(first["iou"] >= LEAST, _LOW)
        expect(second["split"] == 1, _JOINED)
        expect(second["iou"] <= MOST, _HIGH)


def _bridged(ids: Tensor) -> Tensor:
    """All cells, and one path of pixels between the two cells of each touching pair."""
    mask = ids > 0
    for a, b in touching_pairs(ids):
        one, two = (ids == a).nonzero().double(), (ids == b).nonzero().double()
        nearest = int(torch.cdist(one, two).argmin())
        (y, x), (v, u) = one[nearest // len(two)].long().tolist(), two[nearest % len(two)].long().tolist()
        mask[min(y, v) : max(y, v) + 1, x] = True
        mask[v, min(x, u) : max(x, u) + 1] = True
    return mask


def _grown(mask: Tensor, steps: int = 1) -> Tensor:
    return F.max_pool2d(mask[None].float(), 2 * steps + 1, 1, steps)[0].bool()


def _cores(ids: Tensor, share: float = 0.6) -> Tensor:
    """The innermost pixels of each cell."""
    from scipy.ndimage import distance_transform_edt

    mask = torch.zeros_like(ids, dtype=torch.bool)
    for n in range(1, int(ids.max()) + 1):
        depth = torch.from_numpy(distance_transform_edt((ids == n).numpy()))
        mask |= (ids == n) & (depth >= depth[ids == n].quantile(1 - share))
    return mask


def _cores_and_far(ids: Tensor) -> Tensor:
    return _cores(ids) | ~_grown(ids > 0)


BREAK = Exercise(
    solution=lambda ids: (_bridged(ids), _cores_and_far(ids)),
    wrong={
        "truth": (lambda ids: (ids > 0, _cores_and_far(ids)), _APART),
        "everything": (lambda ids: (ids >= 0, _cores_and_far(ids)), _LOW),
        "far_only": (
            lambda ids: (_bridged(ids), (ids > 0) | ~_grown(ids > 0)),
            _HIGH,
        ),
        "joined": (lambda ids: (_bridged(ids), ids >= 0), _JOINED),
        "one_mask": (_bridged, _SHAPE),
    },
    right={
        "bridges, in numpy": lambda ids: [_bridged(ids).numpy(), _cores_and_far(ids).numpy()],
        "smaller cores": lambda ids: (_bridged(ids), _cores(ids, 0.52) | ~_grown(ids > 0)),
        "larger cores": lambda ids: (_bridged(ids), _cores(ids, 0.65) | ~_grown(ids > 0)),
    },
    verify=_breaks_iou,
    compared=False,
    hint="One pixel of a wall joins two cells. What may change in a mask without joining or losing a cell?",
    sketch="first = the cells, and for each touching pair … pixels of the wall; second = more than half of the pixels "
    "of each cell, …, and all background that is … from every cell.",
)


EXERCISES = {
    "ch04.up": UP,
    "ch04.path": PATH,
    "ch04.fitting": FITTING,
    "ch04.both": BOTH,
    "ch04.break": BREAK,
}
