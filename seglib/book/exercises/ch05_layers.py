"""Chapter 5, "Atrous convolution": the pieces of section 3, from which the reader's own ASPP is built."""

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

Map = Callable[[Tensor], Tensor]

# Reading with a step -------------------------------------------------------------------------------------------------


def atrous(x: Tensor, w: Tensor, d: int) -> Tensor:
    """Dilated convolution of ``x`` ``(B, C, H, W)`` with ``w`` ``(O, C, k, k)``, k odd, zero padding; H and W stay."""
    return F.conv2d(x, w, padding=d * (w.shape[-1] // 2), dilation=d)


def _shifted(x: Tensor, w: Tensor, d: int, pad: Callable[[Tensor, int], Tensor] | None = None) -> Tensor:
    """A sum over the taps of moved maps; ``pad`` puts a rim of so many cells around the map."""
    (height, width), k = x.shape[2:], w.shape[-1]
    rim = d * (k // 2)
    padded = F.pad(x, [rim] * 4) if pad is None else pad(x, rim)
    total = x.new_zeros(len(x), len(w), height, width)
    for i, j in itertools.product(range(k), repeat=2):
        part = padded[:, :, i * d : i * d + height, j * d : j * d + width]
        total = total + torch.einsum("bchw,oc->bohw", part, w[:, :, i, j])
    return total


def _unfolded(x: Tensor, w: Tensor, d: int) -> Tensor:
    k = w.shape[-1]
    columns = F.unfold(x, k, dilation=d, padding=d * (k // 2))  # (B, C·k·k, H·W)
    return (w.flatten(1) @ columns).unflatten(2, x.shape[2:])


def _inflated(x: Tensor, w: Tensor, d: int) -> Tensor:
    """The holes written into the kernel as zeros."""
    side = d * (w.shape[-1] - 1) + 1
    full = w.new_zeros(*w.shape[:2], side, side)
    full[..., ::d, ::d] = w
    return F.conv2d(x, full, padding=side // 2)


def _atrous_numpy(x: Tensor, w: Tensor, d: int) -> np.ndarray:
    k, rim = w.shape[-1], d * (w.shape[-1] // 2)
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (rim, rim), (rim, rim)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (d * (k - 1) + 1,) * 2, (2, 3))
    return np.einsum("bchwij,ocij->bohw", windows[..., ::d, ::d], w.numpy())


def _cell_by_cell(x: Tensor, w: Tensor, d: int) -> Tensor:
    rim, k = d * (w.shape[-1] // 2), w.shape[-1]
    padded = F.pad(x, [rim] * 4)
    rows = [
        torch.stack([torch.einsum("bcij,ocij->bo", padded[:, :, r : r + d * k : d, c : c + d * k : d][..., :k, :k], w)
                     for c in range(x.shape[3])], -1)
        for r in range(x.shape[2])
    ]  # fmt: skip
    return torch.stack(rows, 2)


def _valid_only(x: Tensor, w: Tensor, d: int) -> Tensor:
    return F.conv2d(x, w, dilation=d)


def _padded_by_rate(x: Tensor, w: Tensor, d: int) -> Tensor:
    side = d * (w.shape[-1] - 1) + 1
    full = w.new_zeros(*w.shape[:2], side, side)
    full[..., ::d, ::d] = w
    return F.conv2d(x, full, padding=d)


def _from_first_tap(x: Tensor, w: Tensor, d: int) -> Tensor:
    rim = d * (w.shape[-1] - 1)
    return F.conv2d(F.pad(x, (0, rim, 0, rim)), w, dilation=d)


def _maps() -> Mapping[str, tuple[Tensor, Tensor, int]]:
    g = torch.Generator().manual_seed(3)

    def case(b: int, c: int, o: int, size: tuple[int, int], k: int, d: int) -> tuple[Tensor, Tensor, int]:
        whole = [torch.randint(-9, 10, shape, generator=g).float() for shape in ((b, c, *size), (o, c, k, k))]
        return whole[0], whole[1], d

    return {
        "3 × 3 taps, dilation 2": case(2, 3, 4, (7, 9), 3, 2),
        "5 × 5 taps, dilation 3": case(1, 2, 3, (13, 8), 5, 3),
        "no holes": case(1, 2, 2, (5, 6), 3, 1),
        "a kernel of one tap": case(2, 3, 2, (4, 5), 1, 4),
        "a rate larger than the map": case(1, 2, 2, (3, 4), 3, 6),
        "three images": case(3, 1, 1, (6, 6), 3, 2),
    }


class _Calls(TorchFunctionMode):
    """How many functions of torch are called, and whether a convolution among them is dilated."""

    calls = 0
    dilated = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        if getattr(func, "__name__", "") in ("conv1d", "conv2d"):
            rate = (kwargs or {}).get("dilation", args[5] if len(args) > 5 else 1)
            self.dilated |= max(rate) > 1 if isinstance(rate, tuple | list) else rate > 1
        return func(*args, **(kwargs or {}))


READY_MADE = (
    "The numbers are right, but torch's own dilated convolution made them. Write it yourself: section 4 compares "
    "the two."
)
CELLS = (
    "The numbers are right, but on a larger map your code makes more calls: it goes through the cells one by one. Loop "
    "over the k² taps at most."
)
_NO_GRADIENT = "The numbers are right, but no full gradient reaches {}. Train with it and nothing is learnt there."
DIGITS = (
    "In float32 it is right, but with `x` in float64 your code raises or loses digits: somewhere a tensor is float32 "
    "whatever `x` is. Take the type of `x`; section 4 compares in float64."
)


def _exact_map() -> tuple[Tensor, Tensor, int]:
    g = torch.Generator().manual_seed(7)
    x, w = (torch.rand(shape, generator=g, dtype=torch.float64) for shape in ((2, 2, 5, 6), (3, 2, 3, 3)))
    return x, w, 2


_exact = keeps_float64(atrous, _maps, DIGITS, _exact_map)
_trained = trains_all(atrous, _maps, [_NO_GRADIENT.format("`x`"), _NO_GRADIENT.format("`w`")])


def _own_and_without_cells(attempt: Callable[..., Any]) -> None:
    """Rejects right answers that torch computes, that loop over the cells, or that cut the gradient."""
    calls, cases = [], []
    for side in (6, 9):
        g = torch.Generator().manual_seed(side)
        cases.append((torch.randn(2, 2, side, side, generator=g), torch.randn(3, 2, 3, 3, generator=g), 2))
    for case in cases:
        with _Calls() as counter:
            answer = attempt(*map(own, case))
        if difference(answer, atrous(*case), tolerance=1e-4) is not None:
            return
        expect(not counter.dilated, READY_MADE)
        calls.append(counter.calls)
    expect(calls[0] == calls[1], CELLS)
    _trained(attempt)
    _exact(attempt)


ATROUS = Exercise(
    solution=_shifted,
    wrong={
        "ready_made": (atrous, READY_MADE),
        "cell_by_cell": (_cell_by_cell, CELLS),
        "float32": (lambda x, w, d: _shifted(x.float(), w.float(), d).to(x.dtype), DIGITS),
        "gradient_of_x": (lambda x, w, d: _shifted(x.detach(), w, d), _NO_GRADIENT.format("`x`")),
        "gradient_of_w": (lambda x, w, d: _shifted(x, w.detach(), d), _NO_GRADIENT.format("`w`")),
        "flipped": (
            lambda x, w, d: _shifted(x, w.flip(2, 3), d),
            "Your kernel is flipped. Tap (0, 0) reads above and to the left of the output.",
        ),
        "turned": (
            lambda x, w, d: _shifted(x, w.mT, d),
            "Rows and columns of your taps are exchanged: the third dimension of w counts rows.",
        ),
        "no_holes": (
            lambda x, w, d: _shifted(x, w, 1),
            "Your taps are neighbours, whatever d is. They lie d cells apart.",
        ),
        "one_more": (
            lambda x, w, d: _shifted(x, w, d + 1),
            "Your taps lie d + 1 cells apart: d counts the step, not the holes between two taps.",
        ),
        "smaller": (
            _valid_only,
            "Your map is smaller than x. Zeros around x keep its size, d · (k − 1) / 2 on each side.",
        ),
        "first_tap": (
            _from_first_tap,
            "Your first tap lies on the output's own cell. It is the middle tap that does.",
        ),
        "pad_d": (
            _padded_by_rate,
            "Padding of d fits 3 × 3 taps alone. It is d · (k − 1) / 2.",
        ),
        "replicated": (
            lambda x, w, d: _shifted(x, w, d, lambda x, n: F.pad(x, [n] * 4, mode="replicate")),
            "You repeat the border. What falls off the map counts as zero.",
        ),
        "wrapped": (
            lambda x, w, d: sum(
                torch.einsum(
                    "bchw,oc->bohw",
                    x.roll((d * (w.shape[-1] // 2 - i), d * (w.shape[-1] // 2 - j)), (2, 3)),
                    w[:, :, i, j],
                )
                for i, j in itertools.product(range(w.shape[-1]), repeat=2)
            ),
            "Your map goes on at its other side: `roll` wraps around. What falls off counts as zero.",
        ),
        "first_image": (
            lambda x, w, d: _shifted(x[:1], w, d),
            "You return the first image alone. All B images come back.",
        ),
        "each_channel": (
            lambda x, w, d: torch.stack([_shifted(x[:, [c]], w[:, [c]], d) for c in range(x.shape[1])], 2),
            "You keep the input channels apart. Their products are added up.",
        ),
    },
    right={
        "F.unfold": _unfolded,
        "holes written as zeros": _inflated,
        "NumPy": _atrous_numpy,
    },
    probes=_maps,
    verify=_own_and_without_cells,
    tolerance=1e-4,
    hint="Pad the map, then read it with a step of d.",
    sketch="""
        k_eff = ...
        x = F.pad(x, [...] * 4)                   # zeros on all four sides
        windows = x.unfold(2, k_eff, 1).unfold(3, k_eff, 1)
        taps = windows[..., ...]                  # every d-th row and column
        return torch.einsum("bchwij,ocij->bohw", taps, w)
    """,
)


# On every sub-grid ---------------------------------------------------------------------------------------------------


def on_grids(x: Tensor, d: int, f: Map) -> Tensor:
    """``f`` on each of the d × d sub-grids of ``x`` ``(B, C, H, W)``, interleaved again: ``(B, O, H, W)``."""
    return _interleaved(x, d, f)


def _interleaved(
    x: Tensor,
    d: int,
    f: Map,
    *,
    put: Callable[[int, int, int], tuple[slice, slice]] = lambda top, left, d: (
        slice(top, None, d),
        slice(left, None, d),
    ),
) -> Tensor:
    out = None
    for top, left in itertools.product(range(min(d, x.shape[2])), range(min(d, x.shape[3]))):
        part = f(x[:, :, top::d, left::d])
        if out is None:
            out = part.new_zeros(*part.shape[:2], *x.shape[2:])
        rows, columns = put(top, left, d)
        out[:, :, rows, columns] = part
    assert out is not None
    return out


def _in_blocks(x: Tensor, d: int, f: Map) -> Tensor:
    """Neighbouring cells in one part: tiles."""
    rows = [torch.cat([f(tile) for tile in strip.chunk(d, 3)], 3) for strip in x.chunk(d, 2)]
    return torch.cat(rows, 2)


def _diagonal(x: Tensor, d: int, f: Map) -> Tensor:
    whole = f(x)
    out = torch.zeros_like(whole)
    for n in range(min(d, *x.shape[2:])):
        out[:, :, n::d, n::d] = f(x[:, :, n::d, n::d])
    return out


def _rows_alone(x: Tensor, d: int, f: Map) -> Tensor:
    out = torch.zeros_like(f(x))
    for n in range(min(d, x.shape[2])):
        out[:, :, n::d] = f(x[:, :, n::d])
    return out


def _with_empty_grids(x: Tensor, d: int, f: Map) -> Tensor:
    parts = {(t, s): f(x[:, :, t::d, s::d]) for t in range(d) for s in range(d)}
    out = x.new_zeros(*parts[0, 0].shape[:2], *x.shape[2:])
    for (t, s), part in parts.items():
        out[:, :, t::d, s::d] = part
    return out


def _same_channels(x: Tensor, d: int, f: Map) -> Tensor:
    out = torch.zeros_like(x)
    for t, s in itertools.product(range(min(d, x.shape[2])), range(min(d, x.shape[3]))):
        out[:, :, t::d, s::d] = f(x[:, :, t::d, s::d])
    return out


def _padded_grids(x: Tensor, d: int, f: Map) -> Tensor:
    """All sub-grids of one size, filled up with zeros that ``f`` sees."""
    height, width = x.shape[2:]
    full = F.pad(x, (0, -width % d, 0, -height % d))
    return _with_empty_grids(full, d, f)[..., :height, :width]


def _cut_to_size(x: Tensor, d: int, f: Map) -> Tensor:
    height, width = (n // d * d for n in x.shape[2:])
    return _with_empty_grids(x[..., :height, :width], d, f)


def _pixel_shuffled(x: Tensor, d: int, f: Map) -> Tensor:
    b, c, height, width = x.shape
    parts = F.pixel_unshuffle(x, d).unflatten(1, (c, d * d)).movedim(2, 0)  # (d·d, B, C, H/d, W/d)
    out = torch.stack([f(part) for part in parts], 2)
    return F.pixel_shuffle(out.flatten(1, 2), d)


def _grids_by_index(x: Tensor, d: int, f: Map) -> Tensor:
    """Every sub-grid through lists of rows and columns, put together from flat cells."""
    height, width = x.shape[2:]
    cells, places = [], []
    index = torch.arange(height * width).view(height, width)
    for top in range(d):
        for left in range(d):
            at = index[top::d, left::d].flatten()
            if len(at):
                cells.append(f(x[:, :, top::d, left::d]).flatten(2))
                places.append(at)
    order = torch.cat(places).argsort()
    return torch.cat(cells, 2)[:, :, order].unflatten(2, (height, width))


def _grids_by_rows(x: Tensor, d: int, f: Map) -> Tensor:
    """A list of rows of cells, stacked at the end."""
    height, width = x.shape[2:]
    parts = {
        (t, s): f(x[:, :, t::d, s::d]) for t in range(d) for s in range(d) if t < height and s < width
    }  # fmt: skip
    rows = [
        torch.stack([parts[r % d, c % d][:, :, r // d, c // d] for c in range(width)], -1) for r in range(height)
    ]  # fmt: skip
    return torch.stack(rows, 2)


def _mean_of_grid(x: Tensor) -> Tensor:
    """A map that sees its whole sub-grid: each cell less the mean."""
    return x - x.mean((2, 3), keepdim=True)


def _ranked(x: Tensor) -> Tensor:
    """Three channels from any number of them: the sum, its running sum along the rows, and a count of the cells."""
    total = x.sum(1, keepdim=True)
    return torch.cat([total, total.cumsum(3), torch.ones_like(total).cumsum(2)], 1)


def _two_layers(x: Tensor) -> Tensor:
    """Two ordinary convolutions with a ReLU between them."""
    g = torch.Generator().manual_seed(8)
    first, second = torch.randn(4, x.shape[1], 3, 3, generator=g), torch.randn(2, 4, 3, 3, generator=g)
    bias = torch.ones(4)
    return F.conv2d(F.conv2d(x, first, bias, padding=1).relu(), second, padding=1)


def _gridded() -> Mapping[str, tuple[Tensor, int, Map]]:
    g = torch.Generator().manual_seed(4)

    def numbers(*shape: int) -> Tensor:
        return torch.randint(0, 10, shape, generator=g).float()

    return {
        "d = 2, and f takes the mean off": (numbers(2, 3, 7, 9), 2, _mean_of_grid),
        "d = 3, and f adds up from left to right": (numbers(1, 2, 8, 6), 3, _ranked),
        "d = 2, and f is two convolutions": (numbers(2, 2, 6, 7), 2, _two_layers),
        "d = 1": (numbers(1, 2, 4, 5), 1, _mean_of_grid),
        "d = 4 on a map of 3 × 5 cells": (numbers(1, 2, 3, 5), 4, _two_layers),
        "d = 3 on a map of 6 × 9 cells": (numbers(2, 1, 6, 9), 3, _mean_of_grid),
    }


_NO_GRADIENT_TO_GRIDS = "The numbers are right, but no full gradient reaches `x` through your code. Don't detach."

GRIDS = Exercise(
    solution=on_grids,
    wrong={
        "detached": (lambda x, d, f: on_grids(x.detach(), d, f).requires_grad_(), _NO_GRADIENT_TO_GRIDS),
        "whole": (lambda x, d, f: f(x), "You give f the whole map. It gets one sub-grid at a time."),
        "blocks": (
            _in_blocks,
            "You cut the map into tiles of neighbours. A sub-grid takes every d-th row and every d-th column.",
        ),
        "diagonal": (
            _diagonal,
            "You begin at the same row and column, which gives d sub-grids. All d² pairs of row and column begin one.",
        ),
        "rows": (_rows_alone, "You part the rows alone. A sub-grid also takes every d-th column alone."),
        "two": (
            lambda x, d, f: on_grids(x, 2, f),
            "Your code always takes every second cell. The step is d.",
        ),
        "turned": (
            lambda x, d, f: _interleaved(x, d, f, put=lambda t, s, d: (slice(s, None, d), slice(t, None, d))),
            "You put each answer back to exchanged rows and columns: it belongs where its sub-grid was.",
        ),
        "empty": (
            _with_empty_grids,
            "With d larger than the map some sub-grids have no cell. Don't give those to f.",
        ),
        "channels": (
            _same_channels,
            "f may change the number of channels. Make the output after its first answer.",
        ),
        "padded": (
            _padded_grids,
            "You fill the map up so that all sub-grids have one size, and f sees the filling. Their sizes may differ.",
        ),
        "cut": (_cut_to_size, "Your map is smaller than x. Where d does not divide its size, the last cells stay too."),
        "shuffled": (
            _pixel_shuffled,
            "`pixel_unshuffle` needs sizes that d divides. Slices with a step take any size.",
        ),
        "not_back": (
            lambda x, d, f: [f(x[:, :, t::d, s::d]) for t in range(d) for s in range(d) if x[:, :, t::d, s::d].numel()],
            "You return the d² answers in a list. Interleave them again, each cell where it was.",
        ),
        "first_image": (
            lambda x, d, f: on_grids(x[:1], d, f),
            "You return the first image alone. All B images come back.",
        ),
    },
    right={"places sorted": _grids_by_index, "row by row": _grids_by_rows},
    probes=_gridded,
    verify=trains_all(on_grids, _gridded, [_NO_GRADIENT_TO_GRIDS]),
    tolerance=1e-4,
    hint="Which rows and columns does a sub-grid that begins in row `top` and column `left` hold?",
    sketch="""
        for top in range(...):
            for left in range(...):               # no sub-grid without cells
                part = f(x[:, :, ..., ...])
                (make `joined` once the channels of `part` are known)
                joined[:, :, ..., ...] = part
    """,
)


# No gap --------------------------------------------------------------------------------------------------------------


def hdc(rates: Sequence[int]) -> int:
    """M₂ of the recursion, for two or more rates that rise from layer to layer."""
    return _recursion(rates[1:])


def _recursion(rates: Sequence[int], step: Callable[[int, int], int] | None = None) -> int:
    distance = rates[-1]
    for d in reversed(rates[:-1]):
        distance = max(distance - 2 * d, 2 * d - distance, d) if step is None else step(distance, d)
    return distance


def _counted(rates: Sequence[int]) -> int:
    """The largest distance between neighbours among the cells that layers 2 to n read."""
    read = sorted({sum(moves) for moves in itertools.product(*[(-d, 0, d) for d in rates[1:]])})
    return max(b - a for a, b in itertools.pairwise(read))


def _by_popping(rates: Sequence[int]) -> int:
    left = list(rates)
    distance = left.pop()
    while len(left) > 1:
        d = left.pop()
        distance = max(abs(distance - 2 * d), d)
    return distance


def _down_from(rates: Sequence[int], i: int = 1) -> int:
    """The recursion as one: layer i of the layers counted from 0."""
    if i == len(rates) - 1:
        return rates[i]
    after = _down_from(rates, i + 1)
    return int(np.max([after - 2 * rates[i], 2 * rates[i] - after, rates[i]]))


HDC = Exercise(
    solution=hdc,
    wrong={
        "first_too": (
            lambda rates: _recursion(rates),
            "You go down to the first layer, to M₁. The condition needs M₂: stop before it.",
        ),
        "from_first": (
            lambda rates: _recursion(list(rates[1:])[::-1]),
            "You begin with the second layer. The recursion begins with the last one and goes down.",
        ),
        "without_last_term": (
            lambda rates: _recursion(rates[1:], lambda m, d: abs(m - 2 * d)),
            "The third term is missing: beyond the outermost cells the next ones are up to d away.",
        ),
        "second_term": (
            lambda rates: _recursion(rates[1:], lambda m, d: max(2 * d - m, d)),
            "M − 2d is missing: with a large M a wide distance is left between the two new cells.",
        ),
        "one_d": (
            lambda rates: _recursion(rates[1:], lambda m, d: max(m - d, d)),
            "You take d off once. Both neighbours put a cell between them: M − 2d.",
        ),
        "largest": (
            lambda rates: max(rates),
            "That is the largest rate. The layers in front of the last one fill a part of its gaps.",
        ),
        "last_step": (
            lambda rates: _recursion(rates[1:3]),
            "You use layers 2 and 3 alone. M₃ comes from all layers behind.",
        ),
        "minimum": (
            lambda rates: _recursion(rates[1:], lambda m, d: min(abs(m - 2 * d), d)),
            "You take the least of the distances. The widest one decides.",
        ),
        "verdict": (
            lambda rates: hdc(rates) <= 3,
            "Return M₂ itself. Whether it is small enough depends on the kernel.",
        ),
        "two_rates": (
            lambda rates: hdc(rates) if len(rates) > 2 else rates[0],
            "With two layers no step is left to do: M₂ is the rate of the second.",
        ),
    },
    right={"distances counted": _counted, "from a list, popping": _by_popping, "recursive, NumPy": _down_from,
        "without 2d − M, which never exceeds d": lambda rates: _recursion(rates[1:], lambda m, d: max(m - 2 * d, d))},
    probes=lambda: {
        f"rates {', '.join(map(str, rates))}": (rates,)
        for rates in [
            (1, 2, 5), (1, 2, 9), (1, 4), (1, 1, 2, 9), (1, 4, 5, 6), (1, 2, 5, 17), (1, 3, 4, 20), (1, 5, 6, 7, 8),
            (1, 1, 1), (2, 5, 9), (1, 3, 12, 13),
        ]
    },
    hint="M of the last layer is its rate. Then one step for every layer in front of it, but for the first.",
    sketch="""
        M = rates[-1]
        for d in ...:                             # from the last but one down to the second
            M = max(..., ..., d)
        return M
    """,
)  # fmt: skip


# Five branches, side by side -----------------------------------------------------------------------------------------


def pyramid(x: Tensor, branches: Sequence[Map], pooled: Map, project: Map) -> Tensor:
    """The answers of all branches and that for the mean of the map, concatenated and mixed by ``project``."""
    return _pyramid(x, branches, pooled, project)


def _pyramid(
    x: Tensor,
    branches: Sequence[Map],
    pooled: Map,
    project: Map,
    *,
    mean: Map = lambda x: x.mean((2, 3), keepdim=True),
    order: Callable[[list[Tensor], Tensor], list[Tensor]] = lambda answers, last: [*answers, last],
    last: Callable[[Tensor, Tensor], Tensor] = lambda one, x: one.expand(-1, -1, *x.shape[2:]),
    join: Callable[[list[Tensor]], Tensor] = lambda parts: torch.cat(parts, 1),
) -> Tensor:
    answers = [branch(x) for branch in branches]
    return project(join(order(answers, last(pooled(mean(x)), x))))


def _changed(**changes: Any) -> Callable[..., Tensor]:
    return lambda x, branches, pooled, project: _pyramid(x, branches, pooled, project, **changes)


def _one_after_another(x: Tensor, branches: Sequence[Map], pooled: Map, project: Map) -> Tensor:
    answers, z = [], x
    for branch in branches:
        z = branch(z)
        answers.append(z)
    return project(torch.cat([*answers, pooled(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])], 1))


def _pyramid_in_place(x: Tensor, branches: Sequence[Map], pooled: Map, project: Map) -> Tensor:
    """All answers written into one map."""
    one = pooled(F.adaptive_avg_pool2d(x, 1))
    width = one.shape[1]
    joined = x.new_empty(len(x), (len(branches) + 1) * width, *x.shape[2:])
    for n, branch in enumerate(branches):
        joined[:, n * width : (n + 1) * width] = branch(x)
    joined[:, len(branches) * width :] = one
    return project(joined)


def _pyramid_repeated(x: Tensor, branches: Sequence[Map], pooled: Map, project: Map) -> Tensor:
    height, width = x.shape[2:]
    total = x.flatten(2).sum(2) / (height * width)  # (B, C)
    return project(
        torch.cat([*[branch(x) for branch in branches], pooled(total[..., None, None]).repeat(1, 1, height, width)], 1)
    )


def _dilated(w: Tensor, d: int) -> Map:
    def branch(x: Tensor) -> Tensor:
        return F.conv2d(x, w, padding=d * (w.shape[-1] // 2), dilation=d).relu()

    return branch


def _pyramids(dtype: torch.dtype = torch.float32) -> Mapping[str, tuple[Tensor, list[Map], Map, Map]]:
    g = torch.Generator().manual_seed(6)

    def case(b: int, c: int, width: int, size: tuple[int, int], kernels: Sequence[tuple[int, int]]) -> tuple[Any, ...]:
        def weights(out: int, into: int, k: int) -> Tensor:
            return torch.randn(out, into, k, k, generator=g).round(decimals=1).to(dtype)

        branches = [_dilated(weights(width, c, k), d) for k, d in kernels]
        pooled, mixer = _dilated(weights(width, c, 1), 1), weights(width, (len(kernels) + 1) * width, 1)
        return torch.randn(b, c, *size, generator=g).to(dtype), branches, pooled, lambda z: F.conv2d(z, mixer)

    return {
        "five branches": case(2, 4, 4, (6, 9), [(1, 1), (3, 1), (3, 2), (3, 4)]),
        "three branches on a small map": case(3, 3, 2, (4, 3), [(1, 1), (3, 6)]),
        "one image": case(1, 4, 3, (5, 7), [(3, 2), (1, 1), (3, 3)]),
        "no branch but the mean": case(2, 3, 2, (3, 5), []),
    }


_NO_GRADIENT_TO_MAP = (
    "The numbers are right, but no full gradient reaches `x`: the encoder in front of it would not learn from all "
    "branches. Don't detach."
)

_pyramid_trains = trains_all(pyramid, _pyramids, [_NO_GRADIENT_TO_MAP])
_pyramid_digits = keeps_float64(pyramid, _pyramids, DIGITS, lambda: next(iter(_pyramids(torch.float64).values())))


def _trains_and_keeps_digits(attempt: Callable[..., Any]) -> None:
    _pyramid_trains(attempt)
    _pyramid_digits(attempt)


def _joined_in_float32(x: Tensor, branches: Sequence[Map], pooled: Map, project: Map) -> Tensor:
    return _pyramid(x, branches, pooled, project, join=lambda parts: torch.cat(parts, 1).float().to(x.dtype))


PYRAMID = Exercise(
    solution=pyramid,
    wrong={
        "detached_mean": (
            _changed(mean=lambda x: x.detach().mean((2, 3), keepdim=True)),
            _NO_GRADIENT_TO_MAP,
        ),
        "float32": (_joined_in_float32, DIGITS),
        "one_after_another": (
            _one_after_another,
            "Each of your branches reads the one before. In ASPP all read x, side by side.",
        ),
        "mean_first": (
            _changed(order=lambda answers, last: [last, *answers]),
            "Your mean comes first. Its answer stands behind those of the branches.",
        ),
        "reversed": (
            _changed(order=lambda answers, last: [*answers[::-1], last]),
            "Your branches stand in reverse order. The weights of `project` count on theirs.",
        ),
        "without_mean": (
            lambda x, branches, pooled, project: project(
                torch.cat([*[branch(x) for branch in branches], torch.zeros_like(pooled(x))], 1)
            ),
            "The answer for the mean is missing.",
        ),
        "pooled_late": (
            lambda x, branches, pooled, project: _pyramid(
                x, branches, lambda x: pooled(x).mean((2, 3), keepdim=True), project, mean=lambda x: x
            ),
            "You take the mean of `pooled(x)`. It is the other way round: `pooled` reads the mean.",
        ),
        "whole_batch": (
            _changed(mean=lambda x: x.mean((0, 2, 3), keepdim=True).expand(len(x), -1, 1, 1)),
            "Your mean is one for the whole batch. Every image has its own.",
        ),
        "of_channels": (
            _changed(mean=lambda x: x.mean((1, 2, 3), keepdim=True).expand(-1, x.shape[1], 1, 1)),
            "You average over the channels too. Every channel keeps its own mean.",
        ),
        "largest": (
            _changed(mean=lambda x: x.amax((2, 3), keepdim=True)),
            "You take the largest value of the map. Take the mean.",
        ),
        "summed_up": (
            _changed(mean=lambda x: x.sum((2, 3), keepdim=True)),
            "You take the sum over the map. Take the mean, which does not grow with it.",
        ),
        "of_rows": (
            _changed(mean=lambda x: x.mean(3, keepdim=True)),
            "You average over the columns alone. The mean is over both: (B, C, 1, 1).",
        ),
        "one_cell": (
            _changed(last=lambda one, x: F.pad(one, (0, x.shape[3] - 1, 0, x.shape[2] - 1))),
            "The answer for the mean stands in one cell alone. All cells get it.",
        ),
        "added": (
            _changed(join=lambda parts: torch.stack(parts).sum(0)),
            "`project` gets too few channels. The answers are concatenated along dimension 1, not added up.",
        ),
        "not_projected": (
            lambda x, branches, pooled, project: _pyramid(x, branches, pooled, lambda z: z),
            "`project` is missing: it mixes the concatenated answers.",
        ),
        "flat_mean": (
            lambda x, branches, pooled, project: project(
                torch.cat([*[b(x) for b in branches], pooled(x.mean((2, 3))).expand(-1, -1, *x.shape[2:])], 1)
            ),
            "`pooled` is a convolution and wants a map of one cell: (B, C, 1, 1), not (B, C).",
        ),
        "like_first": (
            lambda x, branches, pooled, project: _pyramid(
                x, branches, pooled, project, order=lambda answers, last: [*answers, last.expand_as(answers[0])]
            ),
            "There may be no branch besides the mean. Take the size from x, not from the first answer.",
        ),
    },
    right={"in place": _pyramid_in_place, "repeated": _pyramid_repeated},
    probes=_pyramids,
    verify=_trains_and_keeps_digits,
    tolerance=1e-4,
    hint="All branches read x. The mean is (B, C, 1, 1), and what `pooled` makes of it goes to all cells.",
    sketch="""
        answers = [... for branch in branches]    # (B, D, H, W) each
        mean = x.mean(..., keepdim=True)          # (B, C, 1, 1)
        answers.append(pooled(mean).expand(...))  # (B, D, H, W), all cells alike
        return project(torch.cat(answers, ...))
    """,
)


# Weights that meet the map -------------------------------------------------------------------------------------------


def taps(height: int, width: int, d: int) -> Tensor:
    """How many of nine taps at rate ``d`` meet the map, at every cell ``(height, width)``."""
    return _axis(height, d)[:, None] * _axis(width, d)


def _axis(size: int, d: int) -> Tensor:
    """Taps of three that lie on the map, at every cell of an axis ``(size,)``."""
    cells = torch.arange(size)
    return 1.0 + (cells >= d) + (cells + d < size)


def _along(count: Callable[[int, int], Tensor]) -> Callable[[int, int, int], Tensor]:
    return lambda height, width, d: count(height, d)[:, None] * count(width, d)


def _taps_by_loops(height: int, width: int, d: int) -> list[list[int]]:
    return [
        [
            sum(0 <= r + i < height and 0 <= c + j < width for i in (-d, 0, d) for j in (-d, 0, d))
            for c in range(width)
        ]
        for r in range(height)
    ]  # fmt: skip


def _taps_numpy(height: int, width: int, d: int) -> np.ndarray:
    counts = []
    for size in (height, width):
        line = np.ones(size, dtype=int)
        if d < size:
            line[d:] += 1
            line[: size - d] += 1
        counts.append(line)
    return np.outer(*counts)


TAPS = Exercise(
    solution=taps,
    wrong={
        "inner": (
            _along(lambda n, d: 1.0 + 2 * ((torch.arange(n) >= d) & (torch.arange(n) + d < n))),
            "You drop both outer taps as soon as one of them leaves the map. Each leaves alone.",
        ),
        "one_too_far": (
            _along(lambda n, d: 1.0 + (torch.arange(n) >= d) + (torch.arange(n) + d <= n)),
            "Your map has a cell too many: the last one is n − 1.",
        ),
        "one_too_near": (
            _along(lambda n, d: 1.0 + (torch.arange(n) > d) + (torch.arange(n) + d < n - 1)),
            "A tap in the first or the last cell is on the map too.",
        ),
        "without_middle": (
            _along(lambda n, d: (torch.arange(n) >= d).float() + (torch.arange(n) + d < n)),
            "The middle tap is missing. It lies on the map at every cell.",
        ),
        "outer": (
            lambda height, width, d: taps(height, width, d) - 1,
            "You count the eight outer taps. The one in the middle counts too.",
        ),
        "cross": (
            lambda height, width, d: _axis(height, d)[:, None] + _axis(width, d) - 1,
            "You count a cross of five taps. There are four more in the corners: rows times columns.",
        ),
        "neighbours": (
            lambda height, width, d: taps(height, width, 1),
            "Your taps are neighbours. They lie d cells apart.",
        ),
        "turned": (
            lambda height, width, d: taps(width, height, d),
            "Height and width are exchanged.",
        ),
        "all_nine": (
            lambda height, width, d: torch.full((height, width), 9.0),
            "Near the border taps fall off the map: count those that don't.",
        ),
        "off": (lambda height, width, d: 9 - taps(height, width, d), "You count the taps that fall off."),
        "share": (lambda height, width, d: taps(height, width, d) / 9, "That is their share. Return their number."),
        "mean": (
            lambda height, width, d: taps(height, width, d).mean(),
            "That is the mean. Return one number for every cell.",
        ),
        "wrapped": (
            _along(lambda n, d: 1.0 + (torch.arange(n) >= d) + (torch.arange(n) < (n - d) % n)),
            "With a rate beyond the map's size n − d is below 0. No cell has an outer tap then.",
        ),
    },
    right={
        "four loops": _taps_by_loops,
        "NumPy": _taps_numpy,
        "a map of ones": lambda height, width, d: F.conv2d(
            torch.ones(1, 1, height, width), torch.ones(1, 1, 3, 3), padding=d, dilation=d
        )[0, 0],
    },
    probes=lambda: {
        f"a map of {h} × {w} at rate {d}": (h, w, d)
        for h, w, d in [(7, 7, 2), (6, 9, 4), (5, 5, 5), (4, 7, 9), (3, 8, 1), (1, 1, 1), (9, 9, 5)]
    },
    hint="Take one axis: which of the three taps lie on it? Then rows and columns multiply.",
    sketch="""
        cells = torch.arange(n)                   # one axis, height and width alike
        count = 1 + (the left tap is on the map) + (the right one is)
        return ... * ...                          # rows times columns
    """,
)


EXERCISES = {
    "ch05.atrous": ATROUS,
    "ch05.grids": GRIDS,
    "ch05.hdc": HDC,
    "ch05.pyramid": PYRAMID,
    "ch05.taps": TAPS,
}
