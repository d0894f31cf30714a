"""The pieces of chapter 8 that the reader writes in "From scratch", from rounding a box to pasting its mask back.

The rule of levels, a piece too, stands in ``ch08``. So do the exercises of station 8, but for the open one, ``TWINS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align as torchvision_roi_align

from seglib.book.exercise import Exercise, difference, expect
from seglib.ops.boxes import box_iou
from seglib.ops.paste import paste_probs
from seglib.ops.roi import bilinear_sample
from seglib.ops.roi import roi_align as seglib_roi_align

Bins = list[tuple[int, int]]

# Bins of whole cells --------------------------------------------------------------------------------------------------


def _half_up(v: float) -> int:
    return math.floor(v + 0.5)


def bins(start: float, end: float, P: int, n: int) -> Bins:
    """First cell and end of each of P bins that RoI Pooling cuts along an axis of n cells."""
    return _cut(start, end, P, n)


def _cut(
    start: float,
    end: float,
    P: int,
    n: int,
    *,
    nearest: Callable[[float], int] = _half_up,
    more: int = 1,
    begin: Callable[[float], int] = math.floor,
    stop: Callable[[float], int] = math.ceil,
    low: int = 0,
    beyond: float = 0,
    whole: bool = False,
    from_zero: bool = False,
    last: int = 0,
) -> Bins:
    """Bins with another rounding, end, overlap, or clipping."""
    first, final = nearest(start), nearest(end)
    width: float = (final - first + more) / P
    if whole:
        width = max(1, int(width))
    found = []
    for p in range(P):
        ends = [(0 if from_zero else first) + part for part in (begin(p * width), stop((p + 1) * width))]
        a, b = (int(min(max(v, low), n + beyond)) for v in ends)
        found.append((a, b - last))
    return found


def _bins(**changes: Any) -> Callable[[float, float, int, int], Bins]:
    return lambda start, end, P, n: _cut(start, end, P, n, **changes)


def _bins_by_integers(start: float, end: float, P: int, n: int) -> list[list[int]]:
    """Rounds with integer division, without a float."""
    first = _half_up(start)
    count = _half_up(end) + 1 - first
    found = []
    for p in range(P):
        a, b = first + p * count // P, first - (-(p + 1) * count // P)
        found.append([sorted((0, a, n))[1], sorted((0, b, n))[1]])
    return found


def _bins_with_numpy(start: float, end: float, P: int, n: int) -> np.ndarray:
    first, final = np.floor(np.array([start, end]) + 0.5)
    width, p = (final - first + 1) / P, np.arange(P)
    ends = first + np.stack([np.floor(p * width), np.ceil((p + 1) * width)], 1)
    return ends.clip(0, n).astype(int)


def _bins_as_tensor(start: float, end: float, P: int, n: int) -> Tensor:
    first = math.floor(start + 0.5)
    edges = torch.arange(P + 1, dtype=torch.float64) * (math.floor(end + 0.5) - first + 1) / P
    return torch.stack([edges[:-1].floor(), edges[1:].ceil()], 1).add_(first).clamp_(0, n).long()


def _spans() -> Mapping[str, tuple[float, float, int, int]]:
    return {
        "the box of station 2": (0.35, 2.45, 2, 4),
        "the same, a tenth of a cell later": (0.45, 2.55, 2, 4),
        "ends in the middle between two cells": (0.5, 2.5, 2, 6),
        "ends in the middle again": (1.5, 4.5, 2, 8),
        "four cells in four bins": (2.1, 4.9, 4, 9),
        "five cells in two bins": (2.3, 6.2, 2, 12),
        "seven cells in four bins": (1.2, 6.9, 4, 12),
        "fewer cells than bins": (3.2, 4.1, 4, 12),
        "one cell": (3.0, 3.2, 2, 12),
        "a box that leaves the map on the left": (-2.8, 2.2, 3, 8),
        "a box that leaves the map on the right": (5.2, 9.3, 2, 8),
        "a box off the map": (9.2, 11.4, 2, 8),
        "a box left of the map": (-6.0, -3.4, 2, 8),
    }


BINS = Exercise(
    solution=bins,
    wrong={
        "half_to_even": (
            _bins(nearest=round),
            "Python's round takes a half to the *even* number: 2.5 becomes 2. Here a half goes up: ⌊v + ½⌋.",
        ),
        "floored": (
            _bins(nearest=math.floor),
            "You round the ends down. Each goes to the nearest cell.",
        ),
        "outwards": (
            lambda start, end, P, n: _cut(math.floor(start), math.ceil(end), P, n),
            "You round outwards. Each end goes to the nearest cell.",
        ),
        "truncated": (
            _bins(nearest=lambda v: int(v + 0.5)),
            "int() cuts towards 0, so negative ends come out one too high. Use math.floor.",
        ),
        "last_left_out": (
            _bins(more=0),
            "The last cell counts: from cell 2 to cell 4 there are three cells.",
        ),
        "no_overlap": (
            _bins(stop=math.floor),
            "Your bins never share a cell. A bin ends at its last cell rounded *up*.",
        ),
        "begins_up": (
            _bins(begin=math.ceil),
            "A bin begins at its first cell rounded *down*, so that it may share a cell with the bin before.",
        ),
        "nearest_edges": (
            _bins(begin=_half_up, stop=_half_up),
            "You round the bins' edges to the nearest cell. They begin rounded down and end rounded up.",
        ),
        "whole_width": (
            _bins(whole=True),
            "You round the width of a bin. It stays a fraction; what you round are the bins' ends.",
        ),
        "unclipped": (
            _bins(low=-99, beyond=99),
            "Some of your bins lie off the map. Clip them to 0 and n.",
        ),
        "negative": (
            _bins(low=-99),
            "You clip at n but not at 0. A negative index counts from the end.",
        ),
        "past_the_end": (
            _bins(beyond=99),
            "You clip at 0 but not at n.",
        ),
        "clipped_early": (
            _bins(beyond=-1),
            "You clip at n − 1. The end of a bin is the cell behind its last one, which may be n.",
        ),
        "last_cells": (
            _bins(last=1),
            "You return the last cell of each bin. Return its end, one further, as slices want it.",
        ),
        "from_zero": (
            _bins(from_zero=True),
            "Your bins begin at cell 0. They begin at the first cell of the box.",
        ),
    },
    right={
        "whole numbers, lists": _bins_by_integers,
        "NumPy": _bins_with_numpy,
        "a tensor": _bins_as_tensor,
    },
    probes=_spans,
    hint="With `count` cells from the first to the last, bin p begins at first + ⌊p · count / P⌋ and ends at "
    "first + ⌈(p + 1) · count / P⌉.",
    sketch="""
        first, last = the nearest cell of start, of end
        width = (last − first + …) / P
        for each bin p:
            begins at first + p · width, rounded …; ends at first + (p + 1) · width, rounded …
            both clipped to 0 and …
    """,
)

# A bilinear sample ----------------------------------------------------------------------------------------------------


def sample(X: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Map ``(C, H, W)`` at a point in cells, from middle to middle, ``(C,)``."""
    return bilinear_sample(X, y, x)


def _read(
    X: Tensor,
    y: Tensor,
    x: Tensor,
    *,
    reach: float = 1.0,
    closed: bool = True,
    padded: bool = False,
    shift: float = 0.0,
    share: Callable[[Tensor], Tensor] = lambda f: f,
    swapped: bool = False,
) -> Tensor:
    """A sample with another border, another place, or other shares."""
    _, H, W = X.shape
    y, x = torch.as_tensor(y) + shift, torch.as_tensor(x) + shift
    inside = [
        (v >= -reach) & (v <= n - 1 + reach) if closed else (v > -reach) & (v < n - 1 + reach)
        for v, n in ((y, H), (x, W))
    ]
    if not all(bool(v) for v in inside):
        return X.new_zeros(len(X))
    if padded:
        X, y, x, H, W = F.pad(X, (1, 1, 1, 1)), y + 1, x + 1, H + 2, W + 2
    y, x = y.clamp(0, H - 1), x.clamp(0, W - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, H - 1), min(left + 1, W - 1)
    fy, fx = share(y - top), share(x - left)
    if swapped:
        fy, fx = fx, fy
    upper = (1 - fx) * X[:, top, left] + fx * X[:, top, right]
    lower = (1 - fx) * X[:, bottom, left] + fx * X[:, bottom, right]
    return (1 - fy) * upper + fy * lower


def _sample(**changes: Any) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda X, y, x: _read(X, y, x, **changes)


def _sample_by_hats(X: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """A hat on every cell of the map, in place."""
    _, H, W = X.shape
    if y < -1 or y > H or x < -1 or x > W:
        return X.new_zeros(len(X))
    rows = (1 - (y.clamp(0, H - 1) - torch.arange(H)).abs()).clamp(min=0)
    columns = (1 - (x.clamp(0, W - 1) - torch.arange(W)).abs()).clamp(min=0)
    X *= rows[:, None] * columns
    return X.sum((1, 2))


def _sample_by_loops(X: Tensor, y: Tensor, x: Tensor) -> list[float]:
    C, H, W = X.shape
    v, u = float(y), float(x)
    if not (-1 <= v <= H and -1 <= u <= W):
        return [0.0] * C
    v, u = sorted((0.0, v, H - 1.0))[1], sorted((0.0, u, W - 1.0))[1]
    found = []
    for channel in X.tolist():
        total = 0.0
        for i, row in enumerate(channel):
            for j, value in enumerate(row):
                total += max(0.0, 1 - abs(v - i)) * max(0.0, 1 - abs(u - j)) * value
        found.append(total)
    return found


def _sample_with_numpy(X: Tensor, y: Tensor, x: Tensor) -> np.ndarray:
    values = X.double().numpy()
    H, W = values.shape[1:]
    if not (-1 <= float(y) <= H and -1 <= float(x) <= W):
        return np.zeros(len(values))
    rows = [np.interp(float(x), np.arange(W), row) for row in values.reshape(-1, W)]
    columns = np.array(rows).reshape(len(values), H)
    return np.array([np.interp(float(y), np.arange(H), column) for column in columns])


def _places() -> Mapping[str, tuple[Tensor, Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(21)
    values = torch.rand(3, 4, 6, generator=draw)
    places = {
        "a point between four cells": (0.25, 1.5), "another one": (1.7, 3.2), "the middle of a cell": (2.0, 1.0),
        "a point of the last row": (3.0, 2.4), "the last cell": (3.0, 5.0), "half a cell above row 0": (-0.5, 2.3),
        "0.9 cells beyond the last column": (1.4, 5.9), "beyond a corner": (-0.7, -0.2),
        "exactly a cell beyond the first row": (-1.0, 2.0), "exactly a cell beyond the last column": (1.0, 6.0),
        "more than a cell above": (-1.2, 2.0), "more than a cell to the right": (1.0, 6.3), "below and far": (9.0, 1.0),
    }  # fmt: skip
    return {f"{name}, y = {y}, x = {x}": (values, torch.tensor(y), torch.tensor(x)) for name, (y, x) in places.items()}


BILINEAR = Exercise(
    solution=sample,
    wrong={
        "swapped": (
            lambda X, y, x: sample(X, x, y),
            "You swap y and x: y counts rows, the middle axis of (C, H, W).",
        ),
        "nearest": (
            _sample(share=torch.round),
            "You take the nearest cell. Mix the four cells around the point.",
        ),
        "mean": (
            _sample(share=lambda f: torch.full_like(f, 0.5)),
            "You take the mean of the four cells. The nearer the cell, the larger its share.",
        ),
        "upper_left": (
            _sample(share=torch.zeros_like),
            "You take the upper left cell. Mix the four cells around the point.",
        ),
        "turned": (
            _sample(share=lambda f: 1 - f),
            "Your shares are the wrong way round: a cell's share falls with its distance.",
        ),
        "other_axis": (
            _sample(swapped=True),
            "You mix the rows by f_x and the columns by f_y.",
        ),
        "half_a_cell": (
            _sample(shift=-0.5),
            "You take off half a cell. y and x count from middle to middle already.",
        ),
        "zeros_around": (
            _sample(padded=True),
            "Past the outer middles your values fall to 0. There the border's value holds, up to one cell beyond.",
        ),
        "no_limit": (
            _sample(reach=1e9),
            "A point more than a cell beyond the outer middles sees 0, not the border.",
        ),
        "strict": (
            _sample(reach=0.0),
            "You return 0 beyond the outer middles. Up to one cell further the border's value holds.",
        ),
        "half_reach": (
            _sample(reach=0.5),
            "You return 0 from half a cell beyond the outer middles. The border holds for a whole cell.",
        ),
        "open_end": (
            _sample(closed=False),
            "A point *exactly* one cell beyond still sees the border's value.",
        ),
        "first_channel": (
            lambda X, y, x: sample(X, y, x)[0],
            "You return one channel. All C come back, (C,).",
        ),
        "summed": (
            lambda X, y, x: sample(X, y, x).sum(),
            "You sum over the channels. Each has its own value.",
        ),
    },
    right={
        "hats, in place": _sample_by_hats,
        "loops": _sample_by_loops,
        "NumPy, float64": _sample_with_numpy,
    },
    probes=_places,
    hint="If the point is too far out, 0. Else clamp it to the outer middles, and mix the four cells around it.",
    sketch="""
        if y or x is more than … beyond the outer middles: return zeros (C,)
        y, x = clamped to 0 … H − 1, 0 … W − 1
        top, left = …, …; the next row and column, if there are any
        f_y, f_x = y − top, …
        return the mix of equation 1
    """,
)

# RoIAlign -------------------------------------------------------------------------------------------------------------


def align(X: Tensor, box: Tensor, P: int, s: float, S: int = 2) -> Tensor:
    """Map ``(C, H, W)`` of stride s and a box ``(4,)`` in pixels → ``(C, P, P)``, means of S × S samples."""
    images = torch.zeros(1, dtype=torch.int64)
    return seglib_roi_align(X[None], box[None], images, P, strides=s, sampling_ratio=S, impl="torch")[0]


def _aligned(
    X: Tensor,
    box: Tensor,
    P: int,
    s: float,
    S: int = 2,
    *,
    cells: Callable[[Tensor, float], Tensor] = lambda box, s: box / s - 0.5,
    inside: Callable[[int, int], float] = lambda i, S: (i + 0.5) / S,
    ratio: Callable[[int], int] = lambda S: S,
    mixed: Callable[[Tensor], Tensor] = lambda samples: samples.mean(0),
    gap: Callable[[int], int] = lambda P: P,
) -> Tensor:
    """RoIAlign with other indices, samples, means, or bins."""
    x0, y0, x1, y1 = cells(box, s)
    S, found = ratio(S), []
    h, w = (y1 - y0) / gap(P), (x1 - x0) / gap(P)
    steps = [inside(i, S) for i in range(S)]
    for p in range(P):
        for q in range(P):
            samples = [sample(X, y0 + (p + i) * h, x0 + (q + j) * w) for i in steps for j in steps]
            found.append(mixed(torch.stack(samples)))
    return torch.stack(found, 1).view(len(X), P, P)


def _align(**changes: Any) -> Callable[..., Tensor]:
    return lambda X, box, P, s, S=2: _aligned(X, box, P, s, S, **changes)


def _align_by_torchvision(X: Tensor, box: Tensor, P: int, s: float, S: int = 2) -> Tensor:
    return torchvision_roi_align(X[None], [box[None]], P, 1 / s, S, aligned=True)[0]


def _align_fine(X: Tensor, box: Tensor, P: int, s: float, S: int = 2) -> Tensor:
    """S × S bins of one sample for every bin, then means; turns the box into cells in place."""
    box /= s
    box -= 0.5
    return F.avg_pool2d(_aligned(X, box, P * S, 1.0, 1, cells=lambda box, s: box)[None], S)[0]


def _align_with_numpy(X: Tensor, box: Tensor, P: int, s: float, S: int = 2) -> np.ndarray:
    x0, y0, x1, y1 = box.double().numpy() / s - 0.5
    at = (np.arange(P * S) + 0.5) / (P * S)
    fine = np.zeros((len(X), P * S, P * S))
    for i, y in enumerate(y0 + at * (y1 - y0)):
        for j, x in enumerate(x0 + at * (x1 - x0)):
            fine[:, i, j] = _sample_with_numpy(X, torch.tensor(y), torch.tensor(x))
    return fine.reshape(len(X), P, S, P, S).mean((2, 4))


def _patches() -> Mapping[str, tuple[Tensor, Tensor, int, float, int]]:
    draw = torch.Generator().manual_seed(22)
    X = torch.rand(2, 7, 9, generator=draw)
    return {
        "one bin with one sample": (X, torch.tensor([1.3, 2.1, 4.2, 6.8]), 1, 1.0, 1),
        "a box at stride 8": (X, torch.tensor([9.3, 12.9, 55.0, 41.2]), 3, 8.0, 2),
        "a flat box at stride 4": (X, torch.tensor([3.5, 9.0, 33.0, 13.7]), 2, 4.0, 3),
        "a box at the map's corner": (X, torch.tensor([-6.0, -3.0, 14.0, 11.0]), 2, 8.0, 2),
        "a box beyond the map": (X, torch.tensor([50.0, 40.0, 95.0, 80.0]), 3, 8.0, 2),
        "a box narrower than a cell": (X, torch.tensor([20.0, 21.0, 25.0, 24.5]), 2, 16.0, 1),
    }


ALIGN = Exercise(
    solution=align,
    wrong={
        "no_half": (
            _align(cells=lambda box, s: box / s),
            "You leave out the half cell: pixel position u is the index u / s − ½.",
        ),
        "half_up": (
            _align(cells=lambda box, s: box / s + 0.5),
            "You add half a cell. Cell 0 has its middle at s / 2, so the index is u / s − ½.",
        ),
        "half_first": (
            _align(cells=lambda box, s: (box - 0.5) / s),
            "You take half a *pixel* off before you divide. It is half a cell, after the division.",
        ),
        "rounded": (
            _align(cells=lambda box, s: torch.round(box / s - 0.5)),
            "You round the box to whole cells. RoIAlign rounds nothing.",
        ),
        "no_stride": (
            _align(cells=lambda box, s: box - 0.5),
            "The box is in pixels and the map in cells: divide by the stride.",
        ),
        "bin_corners": (
            _align(inside=lambda i, S: i / S),
            "Your samples begin at the corner of a bin. Each lies in the middle of its part: (i + ½) / S.",
        ),
        "bin_ends": (
            _align(inside=lambda i, S: (i + 1) / (S + 1)),
            "Your samples divide a bin at i / (S + 1). They lie in the middles of S equal parts: (i + ½) / S.",
        ),
        "one_sample": (
            _align(ratio=lambda S: 1),
            "You take one sample in a bin. There are S × S of them.",
        ),
        "two_samples": (
            _align(ratio=lambda S: 2),
            "You always take 2 × 2 samples. S is an argument.",
        ),
        "summed": (
            _align(mixed=lambda samples: samples.sum(0)),
            "You sum the samples of a bin. Take their mean.",
        ),
        "largest": (
            _align(mixed=lambda samples: samples.amax(0)),
            "You take the largest sample of a bin, as RoI Pooling would. Take their mean.",
        ),
        "turned": (
            lambda X, box, P, s, S=2: align(X, box, P, s, S).mT,
            "Your patch is turned: rows of the patch are rows of the map.",
        ),
        "box_order": (
            lambda X, box, P, s, S=2: align(X, box[[1, 0, 3, 2]], P, s, S),
            "You swap x and y: a box is (x₀, y₀, x₁, y₁).",
        ),
        "channels_last": (
            lambda X, box, P, s, S=2: align(X, box, P, s, S).movedim(0, -1),
            "The channels come first: (C, P, P).",
        ),
        "size": (
            lambda X, box, P, s, S=2: align(X, torch.cat([box[:2], box[:2] + box[2:]]), P, s, S),
            "You take the last two numbers for width and height. They are the right and the lower edge.",
        ),
    },
    right={
        "torchvision": _align_by_torchvision,
        "fine bins, in place": _align_fine,
        "NumPy, float64": _align_with_numpy,
    },
    probes=_patches,
    hint="In cells a bin is (y1 − y0) / P high; sample i of bin p lies at y0 + (p + (i + ½) / S) of such heights.",
    sketch="""
        x0, y0, x1, y1 = box / s − …                        # indices
        h, w = height and width of a bin
        for each bin (p, q), for each of its S × S samples (i, j):
            y = y0 + (p + (i + ½) / S) * h
            x = …
        patch[:, p, q] = the … of bilinear(X, y, x)
    """,
)

# A matrix of weights --------------------------------------------------------------------------------------------------


def hats(start: Tensor, end: Tensor, P: int, S: int, n: int) -> Tensor:
    """The weight of each of n cells in each of P bins from start to end, ``(P, n)``."""
    return _weights(start, end, P, S, n)


def _weights(
    start: Tensor,
    end: Tensor,
    P: int,
    S: int,
    n: int,
    *,
    place: Callable[[Tensor, int], Tensor] = lambda i, count: (i + 0.5) / count,
    border: bool = True,
    reach: float = 1.0,
    mixed: Callable[[Tensor], Tensor] = lambda hat: hat.mean(1),
    width: float = 1.0,
    interleaved: bool = False,
) -> Tensor:
    """Weights from samples at other places, with another border, sum or hat."""
    t = start + place(torch.arange(P * S, dtype=start.dtype), P * S) * (end - start)
    near = (t >= -reach) & (t <= n - 1 + reach)
    clamped = t.clamp(0, n - 1) if border else t
    hat = (1 - (clamped[:, None] - torch.arange(n)).abs() / width).clamp(min=0) * near[:, None]
    return mixed(hat.view(S, P, n).transpose(0, 1) if interleaved else hat.view(P, S, n))


def _hats(**changes: Any) -> Callable[..., Tensor]:
    return lambda start, end, P, S, n: _weights(start, end, P, S, n, **changes)


def _hats_by_loops(start: Tensor, end: Tensor, P: int, S: int, n: int) -> Tensor:
    out = torch.zeros(P, n, dtype=start.dtype)
    a, b = start.item(), end.item()
    for k in range(P * S):
        t = a + (k + 0.5) / (P * S) * (b - a)
        if -1 <= t <= n:
            t = min(max(t, 0.0), n - 1.0)
            left = min(int(t), n - 1)
            out[k // S, left] += (1 - (t - left)) / S
            if left + 1 < n:
                out[k // S, left + 1] += (t - left) / S
    return out


def _hats_with_numpy(start: Tensor, end: Tensor, P: int, S: int, n: int) -> np.ndarray:
    t = np.linspace(float(start), float(end), 2 * P * S + 1)[1::2]
    rows = np.array([np.interp(v, np.arange(n), row) for v in t for row in np.eye(n)]).reshape(-1, n)
    rows[(t < -1) | (t > n)] = 0
    return rows.reshape(P, S, n).mean(1)


def _hats_by_samples(start: Tensor, end: Tensor, P: int, S: int, n: int) -> list[Tensor]:
    """Samples a map that is 1 in one cell of each channel."""
    rows = torch.eye(n, dtype=start.dtype)[:, None]  # (n, 1, n)
    step = (end - start) / (P * S)
    t = [start + (k + 0.5) * step for k in range(P * S)]
    return [
        torch.stack([sample(rows, torch.zeros_like(v), v) for v in t[p * S : (p + 1) * S]]).mean(0) for p in range(P)
    ]


def _axes() -> Mapping[str, tuple[Tensor, Tensor, int, int, int]]:
    cases = {
        "one bin with one sample": (1.3, 3.5, 1, 1, 6),
        "one bin with two samples": (0.7, 3.1, 1, 2, 6),
        "three bins with two samples": (0.4, 6.3, 3, 2, 8),
        "two bins with three samples": (2.2, 3.3, 2, 3, 5),
        "samples on the middles of cells": (0.5, 4.5, 4, 1, 6),
        "a box that leaves the map on the left": (-2.9, 2.2, 4, 2, 6),
        "a box that leaves the map on the right": (3.1, 9.4, 3, 2, 6),
        "samples exactly one cell beyond": (-2.0, 6.0, 4, 1, 4),
        "a box off the map": (9.5, 12.0, 2, 2, 6),
    }
    return {
        name: (torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64), P, S, n)
        for name, (a, b, P, S, n) in cases.items()
    }


def _keeps_dtype(attempt: Callable[..., Any]) -> None:
    """Tensors in another precision than ``start`` would not multiply with a map; NumPy's have no such trouble."""
    for arguments in _axes().values():
        start, end, *rest = arguments
        for dtype in (torch.float64, torch.float32):
            answer = attempt(start.to(dtype), end.to(dtype), *rest)
            if isinstance(answer, Tensor):
                expect(
                    answer.dtype == dtype,
                    "The weights must have the dtype of `start`: give it to torch.arange, whose numbers are "
                    "integers, then float32.",
                )
            wanted = hats(start, end, *rest)
            if dtype == torch.float64 and difference(answer, wanted) is None:
                expect(
                    difference(answer, wanted, tolerance=1e-10) is None,
                    "That is right to 7 digits, but `start` has 16: you compute in float32 and convert at the end.",
                )


HATS = Exercise(
    solution=hats,
    wrong={
        "ends": (
            _hats(place=lambda i, count: i / max(count - 1, 1)),
            "Your samples reach from start to end. They lie in the middles of P · S equal parts.",
        ),
        "begins": (
            _hats(place=lambda i, count: i / count),
            "Your samples lie where the parts begin. They lie in the middles of P · S equal parts.",
        ),
        "zeros_around": (
            _hats(border=False),
            "Beyond the outer middles your weights fall off. There a sample sees the border's cell alone.",
        ),
        "no_limit": (
            _hats(reach=1e9),
            "A sample more than a cell beyond the outer middles counts 0.",
        ),
        "strict": (
            _hats(reach=0.0),
            "A sample up to one cell beyond the outer middles sees the border's cell; you let it count 0.",
        ),
        "open_end": (
            _hats(reach=1 - 1e-7),
            "A sample *exactly* one cell beyond still sees the border's cell.",
        ),
        "summed": (
            _hats(mixed=lambda hat: hat.sum(1)),
            "You sum the hats of a bin. Take their mean over the S samples.",
        ),
        "largest": (
            _hats(mixed=lambda hat: hat.amax(1)),
            "You take the largest weight of a bin's samples. Take their mean.",
        ),
        "first": (
            _hats(mixed=lambda hat: hat[:, 0]),
            "You take the first sample of each bin. Take the mean of all S.",
        ),
        "normalised": (
            lambda *a: hats(*a) / hats(*a).sum(1, keepdim=True).clamp(min=1e-12),
            "You scale each row to a sum of 1. A sample off the map counts 0, so its bin's weights sum to less.",
        ),
        "wide": (
            _hats(width=2.0),
            "Your hats reach two cells far. A weight is 1 − |t − i| up to one cell.",
        ),
        "interleaved": (
            _hats(interleaved=True),
            "You give sample k to bin k mod P. A bin has S samples side by side.",
        ),
        "turned": (
            lambda *a: hats(*a).mT,
            "Rows are bins and columns cells: (P, n).",
        ),
        "all_samples": (
            _hats(mixed=lambda hat: hat.flatten(0, 1)),
            "You return a row for each sample. Take the mean over the S samples of a bin: (P, n).",
        ),
        "half_a_cell": (
            lambda start, end, P, S, n: hats(start - 0.5, end - 0.5, P, S, n),
            "You take off half a cell. start and end count from middle to middle already.",
        ),
        "float32_inside": (
            lambda start, end, P, S, n: hats(start.float(), end.float(), P, S, n).to(start.dtype),
            "That is right to 7 digits, but `start` has 16: you compute in float32 and convert at the end.",
        ),
        "float32": (
            lambda start, end, P, S, n: hats(start.double(), end.double(), P, S, n).float(),
            "The weights must have the dtype of `start`: give it to torch.arange, whose numbers are integers, "
            "then float32.",
        ),
    },
    right={
        "loops": _hats_by_loops,
        "NumPy": _hats_with_numpy,
        "samples of single cells, a list": _hats_by_samples,
    },
    probes=_axes,
    verify=_keeps_dtype,
    hint="Lay P · S samples, give each cell the weight max(0, 1 − |t − i|), and take means of S rows at a time.",
    sketch="""
        t = start + (… + ½) / (P · S) * (end − start)       # (P·S,)
        near = −1 <= t <= n
        hat = max(0, 1 − |t clamped to … − each cell|)      # (P·S, n), 0 where t is not near
        return the mean over each bin's S rows              # (P, n)
    """,
)

# Back into the image --------------------------------------------------------------------------------------------------


def paste(mask: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask ``(M, M)`` over its box ``(4,)`` in an image of ``size``, ``(H, W)``, 0 around it."""
    return paste_probs(mask[None], box[None], size)[0]


def _pasted(
    mask: Tensor,
    box: Tensor,
    size: tuple[int, int],
    *,
    middle: float = 0.5,
    shift: float = -0.5,
    border: bool = False,
    cut: bool = False,
    nearest: bool = False,
    last: int = 0,
) -> Tensor:
    """Pasting with other pixel centres, cell centres, borders or sampling."""
    M = len(mask)

    def weights(low: Tensor, high: Tensor, n: int) -> Tensor:
        pixel = torch.arange(n) + middle
        t = (pixel - low) / (high - low) * (M - last) + shift
        inside = (pixel >= low) & (pixel < high)
        if border:
            t = t.clamp(0, M - 1)
        if nearest:
            t = torch.round(t)
        hat = (1 - (t[:, None] - torch.arange(M)).abs()).clamp(min=0)
        return hat * inside[:, None] if cut or border else hat

    return weights(box[1], box[3], size[0]) @ mask @ weights(box[0], box[2], size[1]).mT


def _paste(**changes: Any) -> Callable[..., Tensor]:
    return lambda mask, box, size: _pasted(mask, box, size, **changes)


def _paste_by_loops(mask: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
    """Pads the mask with zeros and reads it pixel by pixel."""
    M, (x0, y0, x1, y1), out = len(mask), box.tolist(), torch.zeros(size)
    padded = F.pad(mask[None], (1, 1, 1, 1))
    for i in range(size[0]):
        for j in range(size[1]):
            y = torch.tensor((i + 0.5 - y0) / (y1 - y0) * M + 0.5)  # counted in the padded mask
            x = torch.tensor((j + 0.5 - x0) / (x1 - x0) * M + 0.5)
            out[i, j] = sample(padded, y, x)[0]
    return out


def _paste_by_grid_sample(mask: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
    y = (torch.arange(size[0]) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
    x = (torch.arange(size[1]) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
    grid = torch.stack(torch.broadcast_tensors(x[None], y[:, None]), -1)
    return F.grid_sample(mask[None, None], grid[None], padding_mode="zeros", align_corners=False)[0, 0]


def _paste_with_numpy(mask: Tensor, box: Tensor, size: tuple[int, int]) -> np.ndarray:
    values = np.pad(mask.double().numpy(), 1)
    x0, y0, x1, y1 = box.double().numpy()
    M = len(mask)
    at = np.arange(-1, M + 1)
    for low, high, n in ((y0, y1, size[0]), (x0, x1, size[1])):
        t = (np.arange(n) + 0.5 - low) / (high - low) * M - 0.5
        values = np.stack([np.interp(t, at, column) for column in values.T])  # turns the axes, twice
    return values


def _masks() -> Mapping[str, tuple[Tensor, Tensor, tuple[int, int]]]:
    draw = torch.Generator().manual_seed(23)
    ones, some = torch.ones(4, 4), torch.rand(5, 5, generator=draw)
    return {
        "a mask as large as its box": (some, torch.tensor([2.0, 1, 7, 6]), (8, 10)),
        "the same, half a pixel to the right": (some, torch.tensor([2.5, 1, 7.5, 6]), (8, 10)),
        "a mask of ones, stretched": (ones, torch.tensor([1.0, 1, 9, 9]), (10, 10)),
        "a mask that is stretched to a flat box": (some, torch.tensor([1.3, 2.2, 13.9, 6.1]), (9, 16)),
        "a mask that shrinks": (some, torch.tensor([3.1, 2.6, 5.4, 6.3]), (9, 8)),
        "a box that leaves the image": (some, torch.tensor([-3.4, 4.0, 5.2, 14.5]), (11, 7)),
        "a box off the image": (some, torch.tensor([30.0, 4, 40, 9]), (8, 9)),
    }


PASTE = Exercise(
    solution=paste,
    wrong={
        "pixel_corners": (
            _paste(middle=0.0),
            "You read the mask at the corners of the pixels. Their centres lie at + ½.",
        ),
        "cell_corners": (
            _paste(shift=0.0),
            "You leave out the mask's half cell: its left edge is −½, counted from middle to middle.",
        ),
        "no_half_at_all": (
            _paste(middle=0.0, shift=0.0),
            "Two halves are missing: a pixel's centre lies at + ½, and the mask's left edge is −½.",
        ),
        "corners_aligned": (
            _paste(shift=0.0, last=1),
            "You stretch the mask from the middle of its first cell to that of its last. Its *edges* lie on the box's.",
        ),
        "border": (
            _paste(border=True),
            "You repeat the mask's border within the box. Around the mask there are zeros: between its border and them "
            "the values fall.",
        ),
        "cut": (
            _paste(cut=True),
            "You cut the mask off at the box. Its outer cells fall to 0 within half a cell, beyond the box.",
        ),
        "nearest": (
            _paste(nearest=True),
            "You take the nearest cell of the mask. Sample bilinearly.",
        ),
        "rounded": (
            lambda mask, box, size: paste(mask, torch.round(box), size),
            "You round the box to whole pixels. It stays as it is.",
        ),
        "clipped": (
            lambda mask, box, size: paste(
                mask, torch.stack([box[k].clamp(0, size[1 - k % 2]) for k in range(4)]), size
            ).nan_to_num(0),
            "You cut the box at the image's border and squeeze the whole mask into the rest. The part of the mask that "
            "lies outside is not seen.",
        ),
        "thresholded": (
            lambda mask, box, size: (paste(mask, box, size) >= 0.5).float(),
            "You apply a threshold. Return the values themselves.",
        ),
        "turned": (
            lambda mask, box, size: paste(mask.mT, box, size),
            "You turn the mask: its rows run along y.",
        ),
        "box_order": (
            lambda mask, box, size: paste(mask, box[[1, 0, 3, 2]], size),
            "You swap x and y: a box is (x₀, y₀, x₁, y₁).",
        ),
        "size_turned": (
            lambda mask, box, size: paste(mask, box, (size[1], size[0])),
            "Your image is turned: size is (H, W).",
        ),
        "box_only": (
            lambda mask, box, size: paste(mask, box - box[:2].floor().repeat(2), (max(1, int(box[3] - box[1])),) * 2),
            "You return the box alone. Return the whole image, (H, W), with zeros around the mask.",
        ),
        "sizes": (
            lambda mask, box, size: paste(mask, torch.cat([box[:2], box[:2] + box[2:]]), size),
            "You take the last two numbers for width and height. They are the right and the lower edge.",
        ),
    },
    right={
        "pixel by pixel": _paste_by_loops,
        "grid_sample": _paste_by_grid_sample,
        "NumPy, float64": _paste_with_numpy,
    },
    probes=_masks,
    hint="Where does the pixel's centre lie in the mask? At (x + ½ − x₀) / (x₁ − x₀) · M − ½, from middle to middle.",
    sketch="""
        along each axis: t = (pixel centres − low) / (high − low) * M − …      # (n,)
        weights = max(0, 1 − |t − each cell of the mask|)                      # (n, M)
        return weights along y @ mask @ weights along x, turned
    """,
)

# Two boxes, one patch -------------------------------------------------------------------------------------------------

STRIDE, CELLS, LEAST, MOST = 16, 12, 16.0, 0.15


def _read_by_pooling(box: Tensor) -> list[int]:
    """First and last cell along x and y."""
    return [_half_up(v) for v in (box / STRIDE).tolist()]


def _look_alike(attempt: Any) -> None:
    parts = attempt if isinstance(attempt, tuple | list | Tensor | np.ndarray) else ()
    expect(len(parts) == 2, "Give two boxes, (x0, y0, x1, y1) each.")
    try:
        boxes = torch.stack([torch.as_tensor(np.asarray(box, dtype=np.float64)) for box in parts])
    except (TypeError, ValueError, RuntimeError):
        boxes = torch.zeros(0)
    expect(boxes.shape == (2, 4), "A box is four numbers: x0, y0, x1, y1.")
    expect(
        bool((boxes >= 0).all() and (boxes <= STRIDE * CELLS).all()), "A box leaves the image: stay within 0 and 192."
    )
    expect(bool((boxes[:, 2:] - boxes[:, :2] >= LEAST).all()), "A side is shorter than 16 pixels.")
    expect(
        _read_by_pooling(boxes[0]) == _read_by_pooling(boxes[1]),
        "RoI Pooling reads other cells for the one than for the other. Divide both by 16 and round.",
    )
    expect(
        bool(box_iou(boxes[:1], boxes[1:]).item() <= MOST),
        "They look the same to RoI Pooling, but they overlap by more than 0.15. How far can each edge move before it "
        "rounds to another cell?",
    )


TWINS = Exercise(
    solution=([40.0, 40, 87.9, 87.9], [55.9, 55.9, 72.0, 72.0]),
    compared=False,
    verify=_look_alike,
    wrong={
        "one_box": ([40.0, 40, 88, 88], "Give two boxes, (x0, y0, x1, y1) each."),
        "three_numbers": (([40.0, 40, 88], [56.0, 56, 72]), "A box is four numbers: x0, y0, x1, y1."),
        "outside": (
            ([-8.0, 40, 40, 88], [7.0, 56, 24, 72]),
            "A box leaves the image: stay within 0 and 192.",
        ),
        "narrow": (
            ([40.0, 40, 56.1, 56.1], [55.0, 55, 56, 56]),
            "A side is shorter than 16 pixels.",
        ),
        "just_over": (
            ([40.0, 40, 88, 88], [56.0, 56, 72, 72]),
            "RoI Pooling reads other cells for the one than for the other. Divide both by 16 and round.",
        ),
        "one_edge": (
            ([40.0, 40, 87, 87], [55.0, 40, 87, 87]),
            "They look the same to RoI Pooling, but they overlap by more than 0.15. How far can each edge move before "
            "it rounds to another cell?",
        ),
    },
    right={
        "a tensor": torch.tensor([[56.0, 72, 103.5, 119.5], [71.5, 87.5, 88.0, 104.0]]),
        "NumPy, the smaller one first": np.array([[23.5, 119.5, 40.0, 136.0], [8.0, 104.0, 55.5, 151.5]]),
        "whole numbers": [[40, 40, 87, 87], [55, 55, 72, 72]],
    },
    hint="An edge may move by almost a cell before it rounds to another one.",
    sketch="""
        x0 in [(k − ½) · 16, (k + ½) · 16)  reads from cell k on;  x1 in [(l − ½) · 16, …)  reads to cell l
        the largest box of these cells:   x0 = …, x1 = just under …
        the smallest:                     x0 = just under …, x1 = …
    """,
)

PIECES: Mapping[str, Exercise] = {
    "ch08.bins": BINS,
    "ch08.bilinear": BILINEAR,
    "ch08.align": ALIGN,
    "ch08.hats": HATS,
    "ch08.paste": PASTE,
}
"""The pieces in the order of the chapter."""
