"""Chapter 3, "Fully convolutional networks": the pieces of section 3, which become the reader's own FCN, and a hunt."""

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
from seglib.book.exercises.verify import all_of, keeps_float64, trains_all
from seglib.layers.upsample import bilinear_kernel

_NO_GRADIENT = "The numbers are right, but no full gradient reaches {}. Train with it and nothing is learnt there."

_DIGITS = (
    "In float32 it is right, but in float64 your code raises or loses digits: somewhere a tensor is float32 whatever "
    "goes in. Take the type of {}; section 4 compares in float64."
)


def _noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# A fully connected layer on every window ------------------------------------------------------------------------------


def slide(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The layer ``weight (O, C·k·k)``, ``bias (O,)`` on each k × k window of ``x (B, C, H, W)``."""
    return F.conv2d(x, _kernel(x, weight), bias)


def _side(x: Tensor, weight: Tensor) -> int:
    return round((weight.shape[1] / x.shape[1]) ** 0.5)


def _kernel(x: Tensor, weight: Tensor) -> Tensor:
    side = _side(x, weight)
    return weight.view(len(weight), x.shape[1], side, side)


def _slide_unfolded(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    k = _side(x, weight)
    windows = x.unfold(2, k, 1).unfold(3, k, 1).permute(0, 2, 3, 1, 4, 5)  # (B, h, w, C, k, k)
    return F.linear(windows.flatten(3), weight, bias).movedim(-1, 1)


def _slide_in_loops(x: Tensor, weight: Tensor, bias: Tensor) -> list[Any]:
    k = _side(x, weight)
    high, wide = x.shape[2] - k + 1, x.shape[3] - k + 1
    cells = [[x[:, :, i : i + k, j : j + k].flatten(1) @ weight.T + bias for j in range(wide)] for i in range(high)]
    return torch.stack([torch.stack(row, -1) for row in cells], -2).tolist()


def _slide_in_numpy(x: Tensor, weight: Tensor, bias: Tensor) -> np.ndarray:
    k = _side(x, weight)
    windows = np.lib.stride_tricks.sliding_window_view(x.numpy(), (k, k), (2, 3))
    answers = np.einsum("bcijuv,ocuv->boij", windows, _kernel(x, weight).numpy())
    return answers + bias.numpy()[:, None, None]


def _cells() -> Mapping[str, tuple[Tensor, Tensor, Tensor]]:
    return {
        "2 channels, a window of 3": (_noise(0, 2, 2, 5, 7), _noise(1, 4, 18), _noise(2, 4)),
        "5 channels, a window of 1": (_noise(3, 1, 5, 3, 2), _noise(4, 3, 5), _noise(5, 3)),
        "a window of 2": (_noise(6, 2, 3, 4, 3), _noise(7, 1, 12), _noise(8, 1)),
        "a window as large as the map": (_noise(9, 3, 2, 4, 4), _noise(10, 2, 32), _noise(11, 2)),
    }


SLIDE = Exercise(
    solution=slide,
    wrong={
        "channels_last": (
            lambda x, w, b: F.conv2d(x, w.view(len(w), _side(x, w), _side(x, w), -1).movedim(-1, 1), b),
            "The columns of the weights are in another order: `flatten` goes through the channels first, and within a "
            "channel row by row.",
        ),
        "transposed": (
            lambda x, w, b: F.conv2d(x, _kernel(x, w).mT, b),
            "Rows and columns of the window are swapped: within a channel `flatten` goes row by row.",
        ),
        "flipped": (
            lambda x, w, b: F.conv2d(x, _kernel(x, w).flip(-2, -1), b),
            "Your kernel is flipped. torch's convolution does not flip: weight (0, 0) meets the window's first cell.",
        ),
        "padded": (
            lambda x, w, b: F.conv2d(x, _kernel(x, w), b, padding=_side(x, w) // 2),
            "You pad the map. The layer answers for windows that lie on the map wholly: H − k + 1 rows.",
        ),
        "apart": (
            lambda x, w, b: F.conv2d(x, _kernel(x, w), b, stride=_side(x, w)),
            "Your windows lie side by side. They overlap: each begins one cell after the last.",
        ),
        "no_bias": (lambda x, w, b: F.conv2d(x, _kernel(x, w)), "The bias is missing."),
        "one_window": (
            lambda x, w, b: slide(x[..., : _side(x, w), : _side(x, w)], w, b),
            "That is the answer for the first window alone. There is one for each window.",
        ),
        "every_window": (
            lambda x, w, b: slide(x, w, b).flatten(2),
            "Your answers stand in one row. Give them back their places: (B, O, rows, columns).",
        ),
        "first_image": (
            lambda x, w, b: slide(x[:1], w, b),
            "You answer for the first image of the batch alone.",
        ),
        "detached": (lambda x, w, b: slide(x, w.detach(), b), _NO_GRADIENT.format("`weight`")),
        "float32": (lambda x, w, b: slide(x.float(), w.float(), b.float()), _DIGITS.format("`x`")),
    },
    right={"windows times weights": _slide_unfolded, "loops": _slide_in_loops, "numpy": _slide_in_numpy},
    probes=_cells,
    verify=all_of(
        keeps_float64(slide, _cells, _DIGITS.format("`x`")),
        trains_all(slide, _cells, [_NO_GRADIENT.format(f"`{n}`") for n in ("x", "weight", "bias")]),
    ),
    hint="One row of the weights, given the shape of a window, is the kernel of one output channel.",
    sketch="k² = (columns of the weights) / (channels of x); kernel = the weights, in the shape (O, C, …, …); a "
    "convolution with kernel and bias.",
)


# Spread, then convolve ------------------------------------------------------------------------------------------------


def _spread(x: Tensor, step: int, tail: int = 0) -> Tensor:
    """Zeros between the cells; ``tail`` more behind the last."""
    b, c, h, w = x.shape
    out = x.new_zeros(b, c, step * (h - 1) + 1 + tail, step * (w - 1) + 1 + tail)
    out[:, :, : step * (h - 1) + 1 : step, : step * (w - 1) + 1 : step] = x
    return out


def _turned(w: Tensor) -> Tensor:
    return w.flip(-2, -1).transpose(0, 1)


def transposed(x: Tensor, w: Tensor, stride: int, padding: int) -> Tensor:
    """``x (B, C, H, W)``, ``w (C, O, k, k)`` → ``(B, O, s(H − 1) + k − 2p, …)``: spread, then convolve."""
    return F.conv2d(_spread(x, stride), _turned(w), padding=w.shape[-1] - 1 - padding)


def _tap_by_tap(x: Tensor, w: Tensor, stride: int, padding: int) -> Tensor:
    """One strided addition for each of the k² weights."""
    (h, wide), k = x.shape[2:], w.shape[-1]
    out = x.new_zeros(len(x), w.shape[1], stride * (h - 1) + k, stride * (wide - 1) + k)
    for u, v in itertools.product(range(k), repeat=2):
        part = torch.einsum("bchw,co->bohw", x, w[:, :, u, v])
        out[:, :, u : u + stride * (h - 1) + 1 : stride, v : v + stride * (wide - 1) + 1 : stride] += part
    return out[:, :, padding : out.shape[2] - padding, padding : out.shape[3] - padding]


def _folded(x: Tensor, w: Tensor, stride: int, padding: int) -> Tensor:
    (h, wide), k = x.shape[2:], w.shape[-1]
    columns = torch.einsum("bcn,com->bomn", x.flatten(2), w.flatten(2)).flatten(1, 2)
    size = (stride * (h - 1) + k - 2 * padding, stride * (wide - 1) + k - 2 * padding)
    return F.fold(columns, size, k, padding=padding, stride=stride)


def _transposed_numpy(x: Tensor, w: Tensor, stride: int, padding: int) -> np.ndarray:
    k = w.shape[-1]
    full = np.pad(_spread(x, stride).numpy(), [(0, 0), (0, 0), (k - 1, k - 1), (k - 1, k - 1)])
    windows = np.lib.stride_tricks.sliding_window_view(full, (k, k), (2, 3))
    out = np.einsum("bchwij,coij->bohw", windows, w.numpy()[:, :, ::-1, ::-1])
    return out[:, :, padding : out.shape[2] - padding, padding : out.shape[3] - padding]


def _cell_by_cell(x: Tensor, w: Tensor, stride: int, padding: int) -> Tensor:
    (h, wide), k = x.shape[2:], w.shape[-1]
    out = x.new_zeros(len(x), w.shape[1], stride * (h - 1) + k, stride * (wide - 1) + k)
    for i, j in itertools.product(range(h), range(wide)):
        stamp = torch.einsum("bc,couv->bouv", x[:, :, i, j], w)
        out[:, :, stride * i : stride * i + k, stride * j : stride * j + k] += stamp
    return out[:, :, padding : out.shape[2] - padding, padding : out.shape[3] - padding]


def _maps() -> Mapping[str, tuple[Tensor, Tensor, int, int]]:
    return {
        "k = 4, stride 2, padding 1": (_noise(0, 2, 2, 3, 4), _noise(1, 2, 3, 4, 4), 2, 1),
        "k = 3, stride 2, padding 0": (_noise(2, 2, 3, 4, 3), _noise(3, 3, 3, 3, 3), 2, 0),
        "k = 5, stride 3, padding 2": (_noise(4, 1, 1, 3, 2), _noise(5, 1, 2, 5, 5), 3, 2),
        "k = 2, stride 3, padding 0 (gaps)": (_noise(6, 2, 2, 2, 3), _noise(7, 2, 1, 2, 2), 3, 0),
        "k = 3, stride 1, padding 2": (_noise(8, 1, 2, 5, 4), _noise(9, 2, 2, 3, 3), 1, 2),
        "a map of one cell": (_noise(10, 1, 2, 1, 1), _noise(11, 2, 2, 3, 3), 2, 0),
    }


class _Calls(TorchFunctionMode):
    """How many functions of torch are called, and whether torch's transposed convolution is among them."""

    calls = 0
    ready_made = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        self.ready_made |= "transpose" in getattr(func, "__name__", "") and "conv" in getattr(func, "__name__", "")
        return func(*args, **(kwargs or {}))


_READY_MADE = "The numbers are right, but torch's own transposed convolution made them. Section 4 compares with it."
_BY_CELLS = (
    "The numbers are right, but on a larger map your code makes more calls: it goes through the cells one by one. Put "
    "all cells on the spread map at once."
)
_transposed_learns = all_of(
    keeps_float64(transposed, _maps, _DIGITS.format("`x`")),
    trains_all(transposed, _maps, [_NO_GRADIENT.format("`x`"), _NO_GRADIENT.format("`w`")]),
)


def _all_cells_at_once(attempt: Callable[..., Any]) -> None:
    calls = []
    for side in (4, 7):
        case = _noise(side, 2, 2, side, side), _noise(1, 2, 3, 4, 4), 2, 1
        with _Calls() as counter:
            answer = attempt(*map(own, case))
        if difference(answer, transposed(*case), tolerance=1e-4) is not None:
            return
        expect(not counter.ready_made, _READY_MADE)
        calls.append(counter.calls)
    expect(calls[0] == calls[1], _BY_CELLS)
    _transposed_learns(attempt)


TRANSPOSED = Exercise(
    solution=transposed,
    wrong={
        "not_flipped": (
            lambda x, w, s, p: F.conv2d(_spread(x, s), w.transpose(0, 1), padding=w.shape[-1] - 1 - p),
            "Your kernel is not flipped. Seen from an output cell the stamps lie the other way round.",
        ),
        "channels_swapped": (
            lambda x, w, s, p: F.conv2d(_spread(x, s), w.flip(-2, -1), padding=w.shape[-1] - 1 - p),
            "`w` is (C, O, k, k), and a convolution of torch wants (O, C, k, k): swap the first two axes.",
        ),
        "rotated": (
            lambda x, w, s, p: F.conv2d(_spread(x, s), _turned(w).mT, padding=w.shape[-1] - 1 - p),
            "Rows and columns of your kernel are swapped. Flip both axes; don't swap them.",
        ),
        "flipped_once": (
            lambda x, w, s, p: F.conv2d(_spread(x, s), w.flip(-1).transpose(0, 1), padding=w.shape[-1] - 1 - p),
            "Your kernel is flipped along one axis. Flip it along both.",
        ),
        "padding_ignored": (
            lambda x, w, s, p: F.conv2d(_spread(x, s), _turned(w), padding=w.shape[-1] - 1),
            "The padding is missing: it cuts p cells off on every side.",
        ),
        "padding_added": (
            lambda x, w, s, p: F.conv2d(_spread(x, s), _turned(w), padding=w.shape[-1] - 1 + p),
            "Your padding makes the map larger. In a transposed convolution it is cut off.",
        ),
        "narrow_rim": (
            lambda x, w, s, p: F.conv2d(F.pad(_spread(x, s), [p] * 4), _turned(w)),
            "The rim of zeros is too narrow: without padding, the first output cell sees only the first cell of x, so "
            "k − 1 zeros lie before it.",
        ),
        "minus_padding": (
            lambda x, w, s, p: F.conv2d(_spread(x, s), _turned(w), padding=w.shape[-1] - 1)[:, :, p:-p, p:-p],
            "Without padding your slice [p : −p] is [0 : 0], which is empty.",
        ),
        "zeros_behind": (
            lambda x, w, s, p: F.conv2d(_spread(x, s, s - 1), _turned(w), padding=w.shape[-1] - 1 - p),
            "You put zeros behind the last cell too. They lie *between* cells: the spread map has s(H − 1) + 1 rows.",
        ),
        "one_zero_more": (
            lambda x, w, s, p: F.conv2d(_spread(x, s + 1), _turned(w), padding=w.shape[-1] - 1 - p),
            "You put s zeros between two cells. Stamps lie s apart, so s − 1 cells lie between them.",
        ),
        "repeated": (
            lambda x, w, s, p: F.conv2d(
                x.repeat_interleave(s, 2).repeat_interleave(s, 3), _turned(w), padding=w.shape[-1] - 1 - p
            ),
            "You repeat the cells. Between them lie zeros.",
        ),
        "averaged": (
            lambda x, w, s, p: transposed(x, w, s, p) / x.shape[1],
            "You take the mean over the input channels. Their stamps add up.",
        ),
        "ready_made": (lambda x, w, s, p: F.conv_transpose2d(x, w, stride=s, padding=p), _READY_MADE),
        "by_cells": (_cell_by_cell, _BY_CELLS),
        "detached": (lambda x, w, s, p: transposed(x.detach(), w, s, p), _NO_GRADIENT.format("`x`")),
        "float32": (lambda x, w, s, p: transposed(x.float(), w.float(), s, p), _DIGITS.format("`x`")),
    },
    right={"weight by weight": _tap_by_tap, "torch's fold": _folded, "numpy": _transposed_numpy},
    probes=_maps,
    verify=_all_cells_at_once,
    hint="Which cells of the spread map lie under the kernel when output cell o is computed, and with which weights?",
    sketch="spread = zeros of s(H − 1) + 1 rows …; every s-th row and column of it = x; kernel = w, turned round in "
    "… and with … swapped; a convolution with a padding of … (k and p).",
)


# The weights of an upsampling layer -----------------------------------------------------------------------------------


def layer_weights(channels: int, factor: int) -> Tensor:
    """The bilinear weights ``(K, K, 2f, 2f)`` of a layer that upsamples each of K channels on its own, f even."""
    return bilinear_kernel(channels, channels, 2 * factor)


def _square(factor: int) -> Tensor:
    return bilinear_kernel(1, 1, 2 * factor)[0, 0]


def _weights_in_loops(channels: int, factor: int) -> list[Any]:
    line = [1 - abs(t + 0.5 - factor) / factor for t in range(2 * factor)]
    square, nothing = [[a * b for b in line] for a in line], [[0.0] * len(line) for _ in line]
    return [[square if i == o else nothing for o in range(channels)] for i in range(channels)]


def _weights_in_numpy(channels: int, factor: int) -> np.ndarray:
    line = np.minimum(np.arange(2 * factor) + 0.5, np.arange(2 * factor)[::-1] + 0.5) / factor
    return np.einsum("io,u,v->iouv", np.eye(channels), line, line)


WEIGHTS = Exercise(
    solution=layer_weights,
    wrong={
        "every_channel": (
            lambda K, f: _square(f).expand(K, K, -1, -1),
            "Each channel stamps into all channels, so every class gets the sum of all scores. Channel i goes into "
            "channel i alone; the other kernels are 0.",
        ),
        "shared": (
            lambda K, f: _square(f).expand(K, 1, -1, -1),
            "That is the layout of a layer with groups. Here every channel has a kernel for every channel, (K, K, …), "
            "and most of them are 0.",
        ),
        "one_kernel": (lambda K, f: _square(f), "That is one kernel. The layer has K × K of them."),
        "normalised": (
            lambda K, f: layer_weights(K, f) / f**2,
            "Your kernel sums to 1, so the upsampled scores are f² times too small. The weights that meet in one "
            "pixel sum to 1; a whole kernel sums to f².",
        ),
        "added": (
            lambda K, f: torch.eye(K)[:, :, None, None] * (_square(f).sum(0) + _square(f).sum(0)[:, None]) / f,
            "You add the weights of the two axes. They multiply: rows times columns.",
        ),
        "rows": (
            lambda K, f: torch.eye(K)[:, :, None, None] * _square(f).sum(0) / f * torch.ones(2 * f, 1),
            "Your kernel is a tent along one axis. It falls along both: rows times columns.",
        ),
        "nearest": (
            lambda K, f: torch.eye(K)[:, :, None, None] * torch.ones(f, f),
            "That copies each cell f × f times: nearest neighbour. A tent has 2f weights along an axis.",
        ),
        "last_channel": (
            lambda K, f: layer_weights(K, f).flip(1),
            "Your kernels stand on the other diagonal: channel i stamps into the channel K − 1 − i.",
        ),
    },
    right={
        "loops": _weights_in_loops,
        "numpy": _weights_in_numpy,
        "the identity times the square": lambda K, f: torch.eye(K)[:, :, None, None] * _square(f),
    },
    probes=lambda: {f"K = {K}, f = {f}": (K, f) for K, f in ((2, 2), (3, 4), (1, 2), (4, 8))},
    hint="Kernel (i, o) says what input channel i stamps into output channel o.",
    sketch="weights = zeros of shape (K, K, 2f, 2f); for every channel i: weights[…, …] = rows of the tent times "
    "columns.",
)


# The sum of a skip ----------------------------------------------------------------------------------------------------


def skip_sum(coarse: Tensor, fine: Tensor, offset: int) -> Tensor:
    """Sum on the cells that both have; cell (0, 0) of ``coarse`` lies on cell (offset, offset) of ``fine``."""
    fine, coarse = fine[..., max(offset, 0) :, max(offset, 0) :], coarse[..., max(-offset, 0) :, max(-offset, 0) :]
    rows, columns = (min(a, b) for a, b in zip(fine.shape[2:], coarse.shape[2:], strict=True))
    return coarse[..., :rows, :columns] + fine[..., :rows, :columns]


def _wrapping(coarse: Tensor, fine: Tensor, offset: int) -> Tensor:
    return skip_sum(coarse, fine[..., offset:, offset:], 0)


def _middle(coarse: Tensor, fine: Tensor, offset: int) -> Tensor:
    rows, columns = (min(a, b) for a, b in zip(fine.shape[2:], coarse.shape[2:], strict=True))
    parts = []
    for z in (coarse, fine):
        top, left = (z.shape[2] - rows) // 2, (z.shape[3] - columns) // 2
        parts.append(z[..., top : top + rows, left : left + columns])
    return parts[0] + parts[1]


def _resized(coarse: Tensor, fine: Tensor, offset: int) -> Tensor:
    return F.interpolate(coarse, fine.shape[2:], mode="bilinear") + fine


def _square_cut(coarse: Tensor, fine: Tensor, offset: int) -> Tensor:
    full = skip_sum(coarse, fine, offset)
    side = min(full.shape[2:])
    return full[..., :side, :side]


def _rows_only(coarse: Tensor, fine: Tensor, offset: int) -> Tensor:
    low, high = max(offset, 0), max(-offset, 0)
    return skip_sum(coarse[..., high:, :], fine[..., low:, :], 0)


def _as_large_as_coarse(coarse: Tensor, fine: Tensor, offset: int) -> Tensor:
    """Zeros where the fine map has no cell."""
    out = coarse.clone()
    low, high = max(offset, 0), max(-offset, 0)
    part = fine[..., low : low + out.shape[2] - high, low : low + out.shape[3] - high]
    out[..., high : high + part.shape[2], high : high + part.shape[3]] += part
    return out


def _in_coordinates(coarse: Tensor, fine: Tensor, offset: int) -> list[Any]:
    """Cell by cell, in the coordinates of the fine map."""
    rows, columns = ([i for i in range(fine.shape[axis]) if 0 <= i - offset < coarse.shape[axis]] for axis in (2, 3))
    return [
        [
            [[float(f[i, j] + c[i - offset, j - offset]) for j in columns] for i in rows]
            for f, c in zip(fs, cs, strict=True)
        ]
        for fs, cs in zip(fine, coarse, strict=True)
    ]


def _in_place(coarse: Tensor, fine: Tensor, offset: int) -> Tensor:
    high, wide = (min(f, c + offset) - max(0, offset) for f, c in zip(fine.shape[2:], coarse.shape[2:], strict=True))
    one = fine.narrow(2, max(0, offset), high).narrow(3, max(0, offset), wide)
    two = coarse.narrow(2, max(0, -offset), high).narrow(3, max(0, -offset), wide)
    return one.add_(two)


def _by_padding(coarse: Tensor, fine: Tensor, offset: int) -> np.ndarray:
    top, bottom = max(0, offset), min(fine.shape[2], coarse.shape[2] + offset)
    left, right = max(0, offset), min(fine.shape[3], coarse.shape[3] + offset)
    moved = coarse.numpy()[:, :, top - offset : bottom - offset, left - offset : right - offset]
    return fine.numpy()[:, :, top:bottom, left:right] + moved


def _pairs() -> Mapping[str, tuple[Tensor, Tensor, int]]:
    return {
        "offset 0, one map a row and a column larger": (_noise(0, 2, 3, 6, 8), _noise(1, 2, 3, 5, 7), 0),
        "offset 5, as in the released FCN-16s": (_noise(2, 1, 2, 6, 4), _noise(3, 1, 2, 15, 12), 5),
        "offset 2, and the fine map ends first": (_noise(4, 2, 1, 6, 5), _noise(5, 2, 1, 7, 9), 2),
        "offset −1": (_noise(6, 1, 2, 6, 7), _noise(7, 1, 2, 4, 9), -1),
        "the same size": (_noise(8, 1, 2, 3, 4), _noise(9, 1, 2, 3, 4), 0),
    }


SKIP = Exercise(
    solution=skip_sum,
    wrong={
        "offset_ignored": (
            lambda coarse, fine, offset: skip_sum(coarse, fine, 0),
            "The offset is missing: the first cell of `coarse` lies on cell (offset, offset) of `fine`.",
        ),
        "other_sign": (
            lambda coarse, fine, offset: skip_sum(coarse, fine, -offset),
            "The sign of the offset is turned round. With a positive offset it is the fine map that loses its first "
            "rows.",
        ),
        "wraps": (
            _wrapping,
            "For a negative offset your slice counts from the end: x[−1:] is the last row. Then the *coarse* map "
            "loses its first rows.",
        ),
        "middle": (
            _middle,
            "You cut the middle out. Where the maps lie on each other says the offset, not their size.",
        ),
        "resized": (
            _resized,
            "You resize the coarse map, which moves its cells. Cut both maps to the cells that both have.",
        ),
        "square": (_square_cut, "Your sum is square. Height and width are cut each on its own."),
        "rows_only": (_rows_only, "You shift the rows alone. The offset holds for the columns too."),
        "zeros": (
            _as_large_as_coarse,
            "You keep coarse cells that the fine map does not reach. Keep the cells that *both* have.",
        ),
        "mean": (
            lambda coarse, fine, offset: skip_sum(coarse, fine, offset) / 2,
            "You take the mean of the two scores. FCN adds them.",
        ),
        "concatenated": (
            lambda coarse, fine, offset: torch.cat(
                [skip_sum(coarse, torch.zeros_like(fine), offset), skip_sum(torch.zeros_like(coarse), fine, offset)], 1
            ),
            "You put the maps side by side, as U-Net does. FCN adds the scores of a class.",
        ),
        "detached": (
            lambda coarse, fine, offset: skip_sum(coarse, fine.detach(), offset),
            _NO_GRADIENT.format("`fine`"),
        ),
        "float32": (
            lambda coarse, fine, offset: skip_sum(coarse.float(), fine.float(), offset),
            _DIGITS.format("`fine`"),
        ),
    },
    right={"cell by cell": _in_coordinates, "in place": _in_place, "numpy": _by_padding},
    probes=_pairs,
    verify=all_of(
        keeps_float64(skip_sum, _pairs, _DIGITS.format("`fine`")),
        trains_all(skip_sum, _pairs, [_NO_GRADIENT.format(f"`{n}`") for n in ("coarse", "fine")]),
    ),
    hint="In rows of the fine map the coarse one covers offset … offset + h. Which of these does the fine map have?",
    sketch="cut the first rows and columns of whichever map begins too early; then cut both to the smaller …, and to "
    "the smaller …; add.",
)


# The head -------------------------------------------------------------------------------------------------------------


def _upsampled(x: Tensor, up: Tensor) -> Tensor:
    factor = up.shape[-1] // 2
    return F.conv_transpose2d(x, up, stride=factor, padding=factor // 2)


def head(maps: Sequence[Tensor], scorers: Sequence[Tensor], uppers: Sequence[Tensor]) -> Tensor:
    """Maps ``(B, C, h, w)``, coarsest first, their 1 × 1 scorers, and the weights of the upsampling layers → logits."""
    return _head(maps, scorers, uppers)


def _head(
    maps: Sequence[Tensor],
    scorers: Sequence[Tensor],
    uppers: Sequence[Tensor],
    join: Callable[[Tensor, Tensor], Tensor] = lambda coarse, fine: skip_sum(coarse, fine, 0),
    up: Callable[[Tensor, Tensor], Tensor] = _upsampled,
) -> Tensor:
    scores = F.conv2d(maps[0], scorers[0])
    for cells, scorer, weights in zip(maps[1:], scorers[1:], uppers, strict=False):
        scores = join(up(scores, weights), F.conv2d(cells, scorer))
    return up(scores, uppers[-1])


def _recursive(maps: Sequence[Tensor], scorers: Sequence[Tensor], uppers: Sequence[Tensor]) -> Tensor:
    """From the finest map down."""
    own_scores = torch.einsum("bchw,kc->bkhw", maps[-1], scorers[-1][:, :, 0, 0])
    if len(maps) > 1:
        below = _recursive(maps[:-1], scorers[:-1], uppers[:-1])
        rows, columns = (min(a, b) for a, b in zip(below.shape[2:], own_scores.shape[2:], strict=True))
        own_scores = own_scores[:, :, :rows, :columns] + below[:, :, :rows, :columns]
    return _upsampled(own_scores, uppers[-1])


def _consuming(maps: list[Tensor], scorers: list[Tensor], uppers: list[Tensor]) -> Tensor:
    """Takes the lists apart, and wipes the maps out."""
    scores = None
    while maps:
        cells = maps.pop(0)
        found = F.conv2d(cells.double(), scorers.pop(0).double())
        cells.detach().zero_()
        scores = found if scores is None else skip_sum(scores, found, 0)
        scores = _upsampled(scores, uppers.pop(0).double())
    assert scores is not None
    return scores


def _head_in_numpy(maps: Sequence[Tensor], scorers: Sequence[Tensor], uppers: Sequence[Tensor]) -> np.ndarray:
    scores: Any = None
    for cells, scorer, weights in zip(maps, scorers, uppers, strict=True):
        found = np.einsum("bchw,kc->bkhw", cells.numpy(), scorer.numpy()[:, :, 0, 0])
        if scores is not None:
            rows, columns = min(scores.shape[2], found.shape[2]), min(scores.shape[3], found.shape[3])
            found = scores[:, :, :rows, :columns] + found[:, :, :rows, :columns]
        factor = weights.shape[-1] // 2
        scores = _transposed_numpy(torch.from_numpy(found), weights, factor, factor // 2)
    return scores


def _parts() -> Mapping[str, tuple[list[Tensor], list[Tensor], list[Tensor]]]:
    def case(seed: int, sizes: Sequence[tuple[int, int]], factors: Sequence[int]) -> Any:
        maps = [_noise(seed + i, 2, 4 - i, *size) for i, size in enumerate(sizes)]
        scorers = [_noise(seed + 10 + i, 3, 4 - i, 1, 1) for i in range(len(sizes))]
        uppers = [_noise(seed + 20 + i, 3, 3, 2 * f, 2 * f) / f for i, f in enumerate(factors)]
        return maps, scorers, uppers

    return {
        "three maps, as in FCN-8s": case(0, [(2, 3), (4, 6), (8, 12)], [2, 2, 4]),
        "two maps, as in FCN-16s": case(30, [(2, 2), (4, 4)], [2, 8]),
        "one map, as in FCN-32s": case(60, [(2, 3)], [8]),
        "maps of an image with odd sizes": case(90, [(2, 3), (3, 5), (5, 10)], [2, 2, 4]),
        "a skip with the factor 4": case(120, [(1, 2), (4, 8)], [4, 2]),
    }


def _doubled_parts() -> tuple[list[Tensor], ...]:
    first = next(iter(_parts().values()))
    return tuple([t.double() for t in part] for part in first)


HEAD = Exercise(
    solution=head,
    wrong={
        "no_skips": (
            lambda m, s, u: _head(m, s, u, join=lambda coarse, fine: skip_sum(coarse, 0 * fine, 0)),
            "Only the coarsest map is scored. Each finer map adds its scores.",
        ),
        "fine_only": (
            lambda m, s, u: _head(m, s, u, join=lambda coarse, fine: skip_sum(0 * coarse, fine, 0)),
            "You overwrite the scores from below in each round. Add the finer ones to them.",
        ),
        "probabilities": (
            lambda m, s, u: _head(m, s, u, join=lambda coarse, fine: skip_sum(coarse.softmax(1), fine.softmax(1), 0)),
            "You turn the scores into probabilities before they are added. FCN adds scores.",
        ),
        "relu": (
            lambda m, s, u: _head(m, s, u, join=lambda coarse, fine: skip_sum(coarse, fine, 0).relu()),
            "There is no ReLU between the sums: scores may be negative.",
        ),
        "nearest": (
            lambda m, s, u: _head(
                m, s, u, up=lambda x, w: x.repeat_interleave(w.shape[-1] // 2, 2).repeat_interleave(w.shape[-1] // 2, 3)
            ),
            "You repeat the cells. Upsample with the weights in `uppers`.",
        ),
        "bilinear": (
            lambda m, s, u: _head(
                m, s, u, up=lambda x, w: F.interpolate(x, scale_factor=w.shape[-1] // 2, mode="bilinear")
            ),
            "You upsample with fixed weights. Those in `uppers` are learnt: use them.",
        ),
        "last_missing": (
            lambda m, s, u: _head(m, s, [*u[:-1], torch.eye(3)[:, :, None, None]], up=_up_or_not),
            "The last step is missing: the sum of the scores is still coarse. The last of `uppers` takes it to the "
            "image.",
        ),
        "mean": (
            lambda m, s, u: _head(m, s, u, join=lambda coarse, fine: skip_sum(coarse, fine, 0) / 2),
            "You take means of the scores. FCN adds them.",
        ),
        "skip_untrained": (
            lambda m, s, u: _head(m, [s[0], *(w.detach() for w in s[1:])], u),
            _NO_GRADIENT.format("`scorers`"),
        ),
        "float32": (
            lambda *parts: head(*([t.float() for t in part] for part in parts)),
            _DIGITS.format("`maps`"),
        ),
    },
    right={
        "from the finest map down": _recursive,
        "float64, taking the lists apart": _consuming,
        "numpy": _head_in_numpy,
    },
    probes=_parts,
    verify=all_of(
        keeps_float64(head, _parts, _DIGITS.format("`maps`"), _doubled_parts),
        trains_all(head, _parts, [_NO_GRADIENT.format(f"`{n}`") for n in ("maps", "scorers", "uppers")]),
    ),
    hint="Score, upsample with the next weights, add the next scores; at last upsample to the image.",
    sketch="scores = score of the first map; for each further map: scores = (scores, upsampled with the next of "
    "`uppers`) + …; return …",
    tolerance=1e-4,
)


def _up_or_not(x: Tensor, w: Tensor) -> Tensor:
    return x if w.shape[-1] == 1 else _upsampled(x, w)


# The hunt -------------------------------------------------------------------------------------------------------------


def fcn16(
    pool4: Tensor, fc7: Tensor, w4: Tensor, w7: Tensor, up2: Tensor, up16: Tensor, size: tuple[int, int]
) -> Tensor:
    """The released FCN-16s behind its encoder, without biases; ``size`` is the image's (height, width)."""
    return _fcn16(pool4, fc7, w4, w7, up2, up16, size)


BUGS = ("probabilities", "wrong_end", "unfused", "swapped")


def _fcn16(
    pool4: Tensor,
    fc7: Tensor,
    w4: Tensor,
    w7: Tensor,
    up2: Tensor,
    up16: Tensor,
    size: tuple[int, int],
    *,
    bugs: Sequence[str] = (),
) -> Tensor:
    """The forward pass with any of the faults of the hunt."""
    height, width = size
    score = F.conv2d(fc7, w7)
    if "probabilities" in bugs:
        score = score.softmax(1)
    score = F.conv_transpose2d(score, up2, stride=2)
    h, w = score.shape[2:]
    fine = F.conv2d(pool4, w4)
    fine = fine[:, :, -h:, -w:] if "wrong_end" in bugs else fine[:, :, 5 : 5 + h, 5 : 5 + w]
    fused = score + fine
    full = F.conv_transpose2d(score if "unfused" in bugs else fused, up16, stride=16)
    if "swapped" in bugs:
        height, width = width, height
    return full[:, :, 27 : 27 + height, 27 : 27 + width]


def _released() -> Mapping[str, tuple[Any, ...]]:
    """Maps of the sizes that padding by 100 gives: pool4 has 5 cells on either side of the upsampled scores, and 1."""

    def case(seed: int, height: int, width: int) -> tuple[Any, ...]:
        # conv1_1 padded by 100, four poolings rounded up, the fifth, then 7 × 7
        fours = [-(-(n + 198) // 16) for n in (height, width)]
        sevens = [-(-n // 2) - 6 for n in fours]
        weights = _noise(seed + 2, 3, 4, 1, 1), _noise(seed + 3, 3, 5, 1, 1)
        ups = _noise(seed + 4, 3, 3, 4, 4), _noise(seed + 5, 3, 3, 32, 32) / 16
        return _noise(seed, 1, 4, *fours), _noise(seed + 1, 1, 5, *sevens), *weights, *ups, (height, width)

    return {"a square image": case(0, 40, 40), "a wide image": case(10, 33, 70), "a tall image": case(20, 61, 35)}


def _fcn16_cut_first(
    pool4: Tensor, fc7: Tensor, w4: Tensor, w7: Tensor, up2: Tensor, up16: Tensor, size: Sequence[int]
) -> Tensor:
    """Crops the map before it is scored, and lets the padding of the last layer cut the first 27 rows."""
    score = F.conv_transpose2d(F.conv2d(fc7, w7), up2, stride=2)
    fine = F.conv2d(pool4.narrow(2, 5, score.shape[2]).narrow(3, 5, score.shape[3]), w4)
    full = F.conv_transpose2d(score.add_(fine), up16, stride=16, padding=(27, 27), output_padding=0)
    missing = [max(0, n - m) for n, m in zip(size, full.shape[2:], strict=True)]
    if any(missing):  # the padding cuts the far end too
        full = F.conv_transpose2d(score, up16, stride=16)[..., 27:, 27:]
    return full[..., : size[0], : size[1]]


def _fcn16_as_head(
    pool4: Tensor, fc7: Tensor, w4: Tensor, w7: Tensor, up2: Tensor, up16: Tensor, size: Sequence[int]
) -> Tensor:
    score = transposed(torch.einsum("bchw,kc->bkhw", fc7, w7[:, :, 0, 0]), up2, 2, 0)
    fused = skip_sum(score, F.conv2d(pool4, w4), 5)
    return transposed(fused.double(), up16.double(), 16, 0)[:, :, 27:, 27:][:, :, : size[0], : size[1]]


def _uncropped(*a: Any) -> Tensor:
    return _fcn16(a[0], a[1], a[2], a[3], a[4], a[5], (10**6, 10**6))


def _with_bugs(*bugs: str) -> Callable[..., Tensor]:
    return lambda *arguments: _fcn16(*arguments, bugs=bugs)


HUNT = Exercise(
    solution=fcn16,
    wrong={
        "as_it_was": (
            _with_bugs(*BUGS),
            "It still computes what it computed before. Follow one tensor from line to line, with its shape.",
        ),
        "probabilities": (
            _with_bugs("probabilities"),
            "One fault is left: one of the two maps that are added does not hold scores.",
        ),
        "wrong_end": (
            _with_bugs("wrong_end"),
            "One fault is left: the crop of the fine scores. Where does it begin, seen from the left?",
        ),
        "unfused": (
            _with_bugs("unfused"),
            "One fault is left: a result is computed, and nothing reads it.",
        ),
        "swapped": (
            _with_bugs("swapped"),
            "One fault is left, and a square image does not show it.",
        ),
        "middle": (
            lambda p, *a: _fcn16(p.roll((5 - _low(p, a[0], 2), 5 - _low(p, a[0], 3)), (2, 3)), *a),
            "The crop of the fine scores now begins in the middle. The text gives the number.",
        ),
        "both_probabilities": (
            lambda p, f, w4, w7, u2, u16, size: _fused_probabilities(p, f, w4, w7, u2, u16, size),
            "Now both maps hold probabilities when they are added. Both are to hold scores.",
        ),
        "last_rows": (
            lambda *a: _uncropped(*a)[..., -a[-1][0] :, -a[-1][1] :],
            "The last crop now takes the end of the map. It begins at row and column 27.",
        ),
        "resized": (
            lambda *a: F.interpolate(_uncropped(*a), a[-1], mode="bilinear"),
            "You resize to the image's size, which moves every pixel. Crop, from row and column 27 on.",
        ),
    },
    right={
        "cropped before it is scored": _fcn16_cut_first,
        "with the pieces of section 3, in float64": _fcn16_as_head,
        "narrow": lambda *a: _uncropped(*a).narrow(2, 0, a[-1][0]).narrow(3, 0, a[-1][1]),
    },
    probes=_released,
    hint="More than one fault is left. Check for each line: does it hold scores or probabilities, where does its crop "
    "begin, who reads its result, and does it still fit when height and width differ?",
    sketch="Four lines are wrong. Name what every line should hold: scores (B, K, h, w); upsampled scores; fine scores "
    "from row and column … on; their sum; the upsampled …; its rows from … to …, and its columns from … to ….",
    tolerance=1e-4,
)


def _low(pool4: Tensor, fc7: Tensor, axis: int) -> int:
    return (pool4.shape[axis] - (2 * fc7.shape[axis] + 2)) // 2


def _fused_probabilities(
    pool4: Tensor, fc7: Tensor, w4: Tensor, w7: Tensor, up2: Tensor, up16: Tensor, size: Sequence[int]
) -> Tensor:
    score = F.conv_transpose2d(F.conv2d(fc7, w7).softmax(1), up2, stride=2)
    fused = skip_sum(score, F.conv2d(pool4, w4).softmax(1), 5)
    return F.conv_transpose2d(fused, up16, stride=16)[:, :, 27 : 27 + size[0], 27 : 27 + size[1]]


EXERCISES = {
    "ch03.slide": SLIDE,
    "ch03.transposed": TRANSPOSED,
    "ch03.weights": WEIGHTS,
    "ch03.skip": SKIP,
    "ch03.head": HEAD,
    "ch03.hunt": HUNT,
}
