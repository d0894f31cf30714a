"""Predictions of volumes of any size in bounded memory: overlapping windows, blended, finished slab by slab.

::

    case (C, D, H, W), on disk perhaps ── a window, scaled ─► predictor ─► logits · weights
                                                                              │ added up
      slices      ├──────── windows that begin at z ────────┤                 ▼
         │                     ├──── windows that begin at z + step ────┤   sums (K, d, H, W)
         ▼        ├─ finished ─┤                                              │
                  as no later window reaches them ◄─────────────────────── / sum of weights

The logits of the whole case, K·D·H·W floats, need not exist: for three classes and 512×512×800 voxels they would take
2.5 GB. What exists is as many slices as a window is deep.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seglib.ops.inference import evaluating
from seglib.ops.intensity import Scaling
from seglib.ops.labels import labels_of
from seglib.types import DenseOutput

BLENDS = ("gaussian", "constant")

Predictor = Callable[[Tensor], Tensor]
"""Windows ``(B, C, d, h, w)`` float32, which may be a view of the case → logits ``(B, K, d, h, w)``."""

_SIGMA = 0.125  # of the Gaussian, as a share of the window's side
_LEAST = 1e-3  # weight: products of three tails underflow, and a voxel that only corners reach needs some


@torch.no_grad()
def sliding_window(
    predictor: Predictor,
    image: Tensor,
    window: Sequence[int],
    *,
    overlap: float = 0.5,
    blend: str = "gaussian",
    batch_size: int = 1,
    scaling: Scaling | None = None,
    device: torch.device | str | None = None,
    accumulate_on: torch.device | str | None = None,
) -> Tensor:
    r"""The logits of a whole case, as a weighted mean over overlapping windows.

    .. math:: L(v) = \frac{\sum_i w(v - s_i)\, f(x_{s_i})(v - s_i)}{\sum_i w(v - s_i)}

    Windows begin at :math:`s_i`, every ``max(1, int(side · (1 − overlap)))`` voxels along an axis; the last one ends
    where the case ends. An axis shorter than the window is padded with zeros, after scaling, half on either side. The
    Gaussian weight is 1 in the middle of a window, with a standard deviation of 1/8 of its side along each axis, and
    never below 0.001: near the border of a window the network lacks context, and its answer counts less.

    Positions, padding and weights are those of MONAI's ``sliding_window_inference``, and the result differs by rounding
    only. Half precision is added up in float32 here. NaN that the predictor returns stays NaN.

    The result, ``K·D·H·W`` floats, exists as a whole; where that is too much, see :func:`sliding_window_slabs` and
    :func:`label_volume`.

    Args:
        predictor: maps windows ``(B, C, d, h, w)`` to logits ``(B, K, d, h, w)``; what is averaged is what it returns.
        image: the case ``(C, D, H, W)``, any dtype; it may be memory-mapped, as only windows are read.
        window: what the predictor sees at once, ``(d, h, w)`` voxels.
        overlap: share of a window's side that neighbours have in common, in [0, 1).
        blend: "gaussian", or "constant" for the plain mean.
        batch_size: windows that the predictor sees at once. All windows of a batch begin at one slice.
        scaling: how the case's voxels are scaled, ``intensity.of(image)``; ``None`` takes them as they are, in float32.
        device: where the predictor runs; ``None`` is where the image is.
        accumulate_on: where logits are added up and returned; ``None`` is where the predictor runs.

    Returns:
        Logits ``(K, D, H, W)`` float32.

    Raises:
        ValueError: when the image has another shape or an empty axis, the window is not three positive numbers,
            overlap, blend or batch size are out of range, or the predictor returns something else than logits of its
            window.
    """
    device = image.device if device is None else torch.device(device)
    grid = _Grid(image, window, overlap, blend, device if accumulate_on is None else accumulate_on)
    in_plane = grid.in_plane_sum()
    for first, count, total in _totals(predictor, image, grid, batch_size, scaling, device, whole=True):
        for z in range(first, first + count):
            total[:, z].div_(grid.weight_of(z, in_plane))
    return total  # (K, D, H, W)


@torch.no_grad()
def sliding_window_slabs(
    predictor: Predictor,
    image: Tensor,
    window: Sequence[int],
    *,
    overlap: float = 0.5,
    blend: str = "gaussian",
    batch_size: int = 1,
    scaling: Scaling | None = None,
    device: torch.device | str | None = None,
    accumulate_on: torch.device | str | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """The slices of :func:`sliding_window`, from the first, as soon as each is finished. Takes the same arguments.

    Memory, besides the image and what the predictor takes: ``(K + 1)·d·H·W`` floats for a window of depth d.

    Yields:
        The first slice, and logits ``(K, n, H, W)`` of that and the following slices. They are overwritten when the
        next slab is asked for.
    """
    device = image.device if device is None else torch.device(device)
    grid = _Grid(image, window, overlap, blend, device if accumulate_on is None else accumulate_on)
    in_plane = grid.in_plane_sum()
    for first, count, total in _totals(predictor, image, grid, batch_size, scaling, device):
        for i in range(count):
            total[:, i].div_(grid.weight_of(first + i, in_plane))
        yield first, total[:, :count]


def label_volume(
    model: nn.Module,
    image: Tensor,
    window: Sequence[int] | None,
    *,
    overlap: float = 0.5,
    flips: Sequence[int] = (),
    blend: str = "gaussian",
    batch_size: int = 1,
    scaling: Scaling | None = None,
    accumulate_on: torch.device | str | None = None,
    regions: Sequence[int] | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """The most probable class of every voxel of a case, found slab by slab.

    Memory, besides the image, the labels and what the model takes for a window of depth d: ``K·d·H·W`` floats.

    Args:
        model: a model of volumes; it runs where its weights are, in evaluation mode, and has its own mode back
            afterwards.
        image: the case ``(C, D, H, W)``, any dtype; it may be memory-mapped, as only windows are read.
        window: what the model sees at once, ``(d, h, w)`` voxels; ``None`` predicts the whole case in one go.
        overlap: share of a window's side that neighbours have in common, in [0, 1).
        flips: test-time flips, some of the axes 0, 1 and 2 of ``(D, H, W)``. The model sees each window flipped over
            every subset of them, 2 to 8 views, and their logits are averaged.
        blend: "gaussian" or "constant", see :func:`sliding_window`.
        batch_size: windows that the model sees at once.
        scaling: how the case's voxels are scaled, ``model.intensity.of(image)``; ``None`` takes them as they are.
        accumulate_on: where logits are added up; ``None`` is where the model runs.
        regions: the label that each class of a model of regions writes where its logit is above 0, see
            :func:`~seglib.ops.labels.labels_of`; regions may overlap.
        out: uint8 ``(D, H, W)`` on the CPU, to be written into; memory-mapped, the labels need no memory.

    Returns:
        Labels ``(D, H, W)`` uint8 on the CPU: ``out`` if it was given.

    Raises:
        ValueError: as :func:`sliding_window`; when the model takes images or other channels, or predicts regions and
            ``regions`` doesn't say what they write; when it returns NaN; when flips or ``out`` don't fit.
    """
    normalize = getattr(model, "normalize", None)
    if normalize is None or normalize.dims != 3:
        raise ValueError(f"expected a model of volumes such as unet3d, got {type(model).__name__}")
    if getattr(model, "overlapping", False) and regions is None:
        raise ValueError(
            "classes of this model overlap, so a voxel has no single label; say with `regions` what each writes, or "
            "threshold the sigmoid of sliding_window_slabs(lambda x: model(x).logits, …) at 1/2"
        )
    _check_case(image)
    if len(image) != len(normalize.mean):
        raise ValueError(
            f"the model takes {len(normalize.mean)} channels, the case has {len(image)}; pick the channels it was "
            "trained on, or build the model with in_channels"
        )
    size = image.shape[1:]
    if out is None:
        out = torch.empty(size, dtype=torch.uint8)
    elif out.shape != size or out.dtype != torch.uint8 or out.device.type != "cpu":
        raise ValueError(f"out must be uint8 {tuple(size)} on the CPU, got {out.dtype} {tuple(out.shape)}")
    if window is None:
        window, blend = size, "constant"
    device = normalize.mean.device
    grid = _Grid(image, window, overlap, blend, device if accumulate_on is None else accumulate_on)
    predictor = over_flips(lambda windows: _logits(model, windows), flips)
    with evaluating(model):
        for first, count, total in _totals(predictor, image, grid, batch_size, scaling, device):
            for i in range(count):
                best, labels = total[:, i].max(0)  # (H, W); of sums: a division by their weight changes no order
                if best.isnan().any():
                    raise ValueError(
                        f"the model returns nan in slice {first + i}; look for nan or very large voxels, for weights "
                        "of a training that diverged, or predict in float32"
                    )
                out[first + i] = labels if regions is None else labels_of(total[:, i] > 0, regions)
    return out


def over_flips(predictor: Predictor, flips: Sequence[int]) -> Predictor:
    """A predictor whose logits are the mean over views of each window, flipped over every subset of some axes.

    Args:
        predictor: maps windows ``(B, C, d, h, w)`` to logits ``(B, K, d, h, w)``.
        flips: some of the axes 0, 1 and 2 of ``(D, H, W)``; without any the predictor itself is returned.

    Raises:
        ValueError: when ``flips`` holds something else, or an axis twice.
    """
    if len(set(flips)) != len(flips) or not set(flips) <= {0, 1, 2}:
        raise ValueError(f"flips are some of the axes 0, 1 and 2 (D, H, W), each once; got {tuple(flips)}")
    if not flips:
        return predictor
    views = [[2 + axis for axis in axes] for n in range(len(flips) + 1) for axes in combinations(flips, n)]

    def mean(windows: Tensor) -> Tensor:
        total = predictor(windows).float()
        for axes in views[1:]:
            total = total + predictor(windows.flip(axes)).flip(axes)
        return total / len(views)

    return mean


@dataclass(frozen=True, slots=True)
class _Axis:
    """Where windows lie along an axis: each covers ``length`` voxels of the case, with zeros before and after them."""

    starts: list[int]
    length: int
    before: int = 0
    after: int = 0


class _Grid:
    """Where the windows of a case lie, and how each of their voxels counts.

    All windows cover the same number of voxels of the case, as only an axis with a single window is padded.
    """

    def __init__(
        self, image: Tensor, window: Sequence[int], overlap: float, blend: str, device: torch.device | str
    ) -> None:
        _check_case(image)
        sides = tuple(int(n) for n in window) if isinstance(window, Sequence) else ()
        if len(sides) != 3 or min(sides) < 1 or sides != tuple(window):
            raise ValueError(f"window must be three positive whole numbers (d, h, w), got {window}")
        if not 0 <= overlap < 1:
            raise ValueError(f"overlap is a share of the window in [0, 1), got {overlap}")
        if blend not in BLENDS:
            raise ValueError(f"blend is one of {', '.join(BLENDS)}; got {blend!r}")
        self.size = tuple(image.shape[1:])
        self.axes = [_axis(n, side, overlap) for n, side in zip(self.size, sides, strict=True)]
        self.padding = [n for axis in reversed(self.axes) for n in (axis.before, axis.after)]  # as F.pad takes it
        self.inside: tuple[Any, ...] = (..., *(slice(axis.before, axis.before + axis.length) for axis in self.axes))
        z, y, x = (_gaussian(side) if blend == "gaussian" else torch.ones(side) for side in sides)
        self.weights = (z[:, None, None] * y[:, None] * x).clamp_(min=_LEAST)[self.inside].to(device)  # (d, h, w)

    def in_plane_sum(self) -> Tensor:
        """The sum of weights over the windows that begin at one slice, ``(d, H, W)``: it is the same for every slice.

        It isn't a product over axes, because small weights are clamped.
        """
        _, ys, xs = self.axes
        total = _zeros(len(self.weights), *self.size[1:], device=self.weights.device)
        for y, x in product(ys.starts, xs.starts):
            total[:, y : y + ys.length, x : x + xs.length] += self.weights
        return total

    def weight_of(self, z: int, in_plane: Tensor) -> Tensor:
        """The sum of weights over all windows, of slice z, ``(H, W)``."""
        zs = self.axes[0]
        return torch.stack([in_plane[z - start] for start in zs.starts if 0 <= z - start < zs.length]).sum(0)


def _axis(size: int, window: int, overlap: float) -> _Axis:
    if size <= window:
        before = (window - size) // 2
        return _Axis([0], size, before, window - size - before)
    step = max(1, int(window * (1 - overlap)))
    count = math.ceil((size - window) / step) + 1
    return _Axis([min(i * step, size - window) for i in range(count)], window)


def _gaussian(side: int) -> Tensor:
    """``exp(−½ (x / σ)²)`` at the voxels' distance from the middle of a window, σ = side / 8."""
    x = torch.arange(side) - (side - 1) / 2
    return (-0.5 * (x / (_SIGMA * side)).square()).exp()


def _zeros(*shape: int, device: torch.device) -> Tensor:
    """Float32 zeros. NumPy gets them from the system as huge pages; ``torch.zeros`` writes them, 6 times slower."""
    return torch.from_numpy(np.zeros(shape, np.float32)) if device.type == "cpu" else torch.zeros(shape, device=device)


def _totals(
    predictor: Predictor,
    image: Tensor,
    grid: _Grid,
    batch_size: int,
    scaling: Scaling | None,
    device: torch.device,
    *,
    whole: bool = False,
) -> Iterator[tuple[int, int, Tensor]]:
    """Sums of weighted logits: the first slice that is finished now, how many are, and all the sums that exist.

    Those are ``(K, d, H, W)`` from the first finished slice, which the next windows overwrite; or, with ``whole``,
    ``(K, D, H, W)``.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    scaling = scaling or Scaling()
    zs, ys, xs = grid.axes
    places = list(product(ys.starts, xs.starts))
    total: Tensor | None = None
    for z, following in zip(zs.starts, [*zs.starts[1:], grid.size[0]], strict=True):
        top = z if whole else 0
        for i in range(0, len(places), batch_size):
            batch = places[i : i + batch_size]
            parts = [image[:, z : z + zs.length, y : y + ys.length, x : x + xs.length] for y, x in batch]
            parts = [scaling(part.to(device)) for part in parts]
            windows = parts[0][None] if len(parts) == 1 else torch.stack(parts)  # a single one need not be copied
            if any(grid.padding):
                windows = F.pad(windows, grid.padding)
            logits = predictor(windows)
            _check_logits(logits, windows)
            if total is None:
                depth = grid.size[0] if whole else zs.length
                total = _zeros(logits.shape[1], depth, *grid.size[1:], device=grid.weights.device)
            for (y, x), part in zip(batch, logits[grid.inside].to(total.device), strict=True):
                area = total[:, top : top + zs.length, y : y + ys.length, x : x + xs.length]
                area.addcmul_(part, grid.weights)
            del parts, windows, logits, part  # so that the next windows take their place in memory
        assert total is not None  # a case has voxels
        finished = following - z
        yield z, finished, total
        if not whole and following < grid.size[0]:
            begun = zs.length - finished
            for start in range(0, begun, finished):  # piece by piece: source and target overlap
                stop = min(start + finished, begun)
                total[:, start:stop] = total[:, start + finished : stop + finished]
            total[:, begun:] = 0


def _check_case(image: Tensor) -> None:
    if image.ndim == 4 and image.numel():
        return
    remedy = "; add the channel axis with image[None]" if image.ndim == 3 else ""
    raise ValueError(f"expected one case (C, D, H, W) with voxels, got shape {tuple(image.shape)}{remedy}")


def _check_logits(logits: Tensor, windows: Tensor) -> None:
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"the predictor must return logits, got {type(logits).__name__}; of a model pass lambda x: model(x).logits"
        )
    batch, _, *size = windows.shape
    if logits.ndim != 5 or len(logits) != batch or list(logits.shape[2:]) != size:
        raise ValueError(
            f"the predictor must return logits (B, K, d, h, w) at the size of its windows, got {tuple(logits.shape)} "
            f"for windows {tuple(windows.shape)}; let it pad its input, or resize its output"
        )


def _logits(model: nn.Module, windows: Tensor) -> Tensor:
    out = model(windows)
    if not isinstance(out, DenseOutput):
        raise ValueError(f"expected a semantic model, which returns DenseOutput; this returns {type(out).__name__}")
    return out.logits
