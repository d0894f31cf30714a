"""Label maps of images of any size in bounded memory: overlapping tiles, blended, finished in bands of rows.

::

    image ── resized, strip by strip ─► model scale
                                          │ tiles, one at a time; each begins on the model's grid
                                          ▼
    tile   │ context │ ramp up │    whole weight    │ ramp down │ context │
    next                                            │ context │ ramp up │    whole weight …
                                          │ probabilities × weights, added up
                                          ▼
                          a band of rows, all its tiles in ─► resized back, 64 rows at a time ─► argmax ─► labels

The probabilities of the whole image, K·H·W floats, never exist: for 21 classes and 12 million pixels they would
take 1 GB, and as much again for each step that makes new ones. What exists is one band of tiles at model scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.ops.geometry import NATIVE, Geometry
from seglib.postprocess.semantic import PredictsSemantic, model_sizes, predict_probs

TILE = 1024
OVERLAP = 256
WHOLE = 2 * 1024 * 1024
"""Pixels that the model may see at once when no tile is asked for. Full HD fits."""

_ROWS = 64  # that are resized at once


@torch.inference_mode()
def predict_tiled(
    model: PredictsSemantic,
    image: Tensor,
    *,
    tile: int | None = None,
    overlap: int | None = None,
    geometry: Geometry = NATIVE,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    stride: int = 32,
) -> Tensor:
    """The labels of :func:`~seglib.postprocess.semantic.predict_semantic` in bounded memory.

    The image at model scale is cut into tiles that overlap. Tiles begin at multiples of ``stride``, so that the cells
    of the model's maps lie where they would lie for the whole image. Of the overlap, the outer 3/8 of each tile are
    context only: the model sees them, its answer there is not used. Over the quarter between, one tile's weight falls
    linearly from 1 to 0 while the other's rises. Borders of the image are not tapered.

    So for a model whose receptive field reaches at most 3/8 of the overlap to each side, the result does not depend on
    the tiles beyond rounding. Where it reaches further, a wide overlap makes little of it: ``fcn_tiny`` reaches up to
    176 pixels, and of a made 4000×3000 image it labels 0.004% of the pixels otherwise than in one go with the
    defaults, 0.07% with an overlap of 128, and 0.02% with tiles of 512. Two kinds of model are never quite independent
    of the tiles: with pooling over the whole image (DeepLab's image-level branch) a pixel depends on all of its tile,
    so tiles should be large enough to show the scene; and models that stretch their scores to the input's size
    (``DilatedFCN``) do so differently where the image is not a multiple of their stride.

    Memory, besides the image: what the model takes for one tile, and K·tile·w floats where w is the image's width at
    model scale. With scales above 1 the model sees tiles of ``scale · tile`` pixels.

    Args:
        model: any semantic model of the zoo.
        image: ``(3, H, W)`` float32 in [0, 1], on the model's device.
        tile: side of the tiles, in pixels at model scale. ``None`` predicts in one go where the model sees at most
            2 million pixels, and cuts larger images into tiles of 1024.
        overlap: pixels that neighbours share, at most half a tile; ``None`` is 256, or half a tile if that is less.
        geometry: how the image is resized for the model: ``model.geometry`` is what it was trained for.
        scales: average over views of the image at these scales, relative to the size that the geometry gives.
        flip: average over every view flipped left to right, too.
        stride: a multiple of the model's stride. 32 is one for every model of the zoo.

    Returns:
        Labels ``(H, W)`` uint8 on the CPU.

    Raises:
        ValueError: as ``predict_semantic``, and when ``tile`` is smaller than 2·``stride`` or ``overlap`` doesn't lie
            in 0..``tile`` / 2.
    """
    bands = label_bands(
        model, image, tile=tile, overlap=overlap, geometry=geometry, scales=scales, flip=flip, stride=stride
    )
    labels = torch.empty(image.shape[-2:], dtype=torch.uint8)
    for first, band in bands:
        labels[first : first + band.shape[0]] = band
    return labels


@torch.inference_mode()
def label_bands(
    model: PredictsSemantic,
    image: Tensor,
    *,
    tile: int | None = None,
    overlap: int | None = None,
    geometry: Geometry = NATIVE,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    stride: int = 32,
) -> Iterator[tuple[int, Tensor]]:
    """The bands of :func:`predict_tiled`, from the top, as soon as each is finished. Takes the same arguments.

    Yields:
        The first row, and labels ``(n, W)`` uint8 of that and the following rows.
    """
    size, views = model_sizes(image, geometry, scales)
    if tile is None:
        tile = max(*size, 2 * stride) if math.prod(max(size, *views)) <= WHOLE else TILE
    if tile < 2 * stride:
        raise ValueError(f"tile must be at least {2 * stride} pixels, got {tile}")
    overlap = min(OVERLAP, tile // 2) if overlap is None else overlap
    if not 0 <= overlap <= tile // 2:
        raise ValueError(f"overlap must lie in 0..{tile // 2}, half a tile of {tile}; got {overlap}")
    axes = [_Axis(n, tile, overlap, stride) for n in size]
    bands = _bands(model, image, size, views, flip, axes, geometry.antialias)
    if size != image.shape[-2:]:
        bands = _resized(bands, size, (image.shape[-2], image.shape[-1]))
    for first, probs in bands:
        yield first, probs.argmax(0).to("cpu", torch.uint8)


class _Axis:
    """How ``size`` pixels at model scale are cut into tiles, along one axis.

    A tile counts over its core, where its weight is above 0; the model sees ``margin`` pixels of context on either side
    of that. Cores begin at multiples of ``step`` and share ``ramp`` pixels with their neighbours.
    """

    def __init__(self, size: int, tile: int, overlap: int, stride: int) -> None:
        self.size = size
        self.stride = stride
        self.margin = 3 * overlap // 8
        self.ramp = overlap - 2 * self.margin
        self.step = (tile - overlap) // stride * stride
        self.tile = self.step + overlap
        count = math.ceil((size - self.ramp) / self.step) if size > tile else 1
        ends = [(i + 1) * self.step + self.ramp for i in range(count - 1)] + [size]
        self.cores = [(i * self.step, end) for i, end in enumerate(ends)]

    def weights(self, core: tuple[int, int], device: torch.device) -> Tensor:
        """The weight of each pixel of a core. Over all cores, those of a pixel add up to 1."""
        start, stop = core
        weights = torch.ones(stop - start, device=device)
        rise = (torch.arange(self.ramp, device=device) + 0.5) / self.ramp
        if start > 0:
            weights[: self.ramp] = rise
        if stop < self.size:
            weights[stop - start - self.ramp :] = rise.flip(0)
        return weights

    def region(self, core: tuple[int, int], view: int, flipped: bool = False) -> tuple[int, int]:
        """The pixels that the model sees for a core, of a view of the whole axis that has ``view`` pixels.

        They hold the core and the margin, and begin on the model's grid. Where the image ends and there is no margin
        they extend on the other side to the size of a tile: more context costs nothing there.
        """
        factor = view / self.size
        reach = self.margin + (view != self.size)  # one more to interpolate from
        start, stop = core[0] * factor - reach, core[1] * factor + reach
        if flipped:  # the grid begins at the other end
            start, stop = view - stop, view - start
        full = self.tile * factor
        start, stop = min(start, view - full), max(stop, max(start, 0) + full)
        first = max(0, math.floor(start / self.stride) * self.stride)
        last = min(view, math.ceil(stop / self.stride) * self.stride)
        return (view - last, view - first) if flipped else (first, last)


def _bands(
    model: PredictsSemantic,
    image: Tensor,
    size: tuple[int, int],
    views: list[tuple[int, int]],
    flip: bool,
    axes: list[_Axis],
    antialias: bool,
) -> Iterator[tuple[int, Tensor]]:
    """Finished probabilities at model scale: the first row, and ``(K, n, w)`` that the next band overwrites.

    They are summed over the views; to be the mean they lack a factor that is the same for all classes.
    """
    vertical, horizontal = axes
    band: Tensor | None = None  # (K, rows, w), from the first row of the core
    for down, following in zip(vertical.cores, [*vertical.cores[1:], (size[0], size[0])], strict=True):
        regions = [vertical.region(down, view[0]) for view in views]
        # (C, rows, w of view)
        strips = [_strip(image, view, rows, antialias) for view, rows in zip(views, regions, strict=True)]
        for across in horizontal.cores:
            weights = vertical.weights(down, image.device)[:, None] * horizontal.weights(across, image.device)  # (n, m)
            for view, rows, strip in zip(views, regions, strips, strict=True):
                for flipped in (False, True) if flip else (False,):
                    left, right = horizontal.region(across, view[1], flipped)
                    seen = strip[..., left:right]  # (C, rows, columns)
                    probs = predict_probs(model, seen.flip(-1) if flipped else seen)
                    probs = probs.flip(-1) if flipped else probs  # (K, rows, columns)
                    probs = _interpolated(probs, 1, _Taps(view[0], size[0], *down), rows[0])
                    probs = _interpolated(probs, 2, _Taps(view[1], size[1], *across), left)  # (K, n, m)
                    if band is None:
                        tallest = max(stop - start for start, stop in vertical.cores)
                        band = torch.zeros(len(probs), tallest, size[1], device=image.device)
                    band[:, : len(weights), across[0] : across[1]].addcmul_(probs, weights.expand_as(probs))
        assert band is not None  # an image has pixels
        finished, begun = following[0] - down[0], down[1] - following[0]
        for top in range(0, finished, _ROWS):
            yield down[0] + top, band[:, top : min(top + _ROWS, finished)]
        band[:, :begun] = band[:, finished : finished + begun].clone()
        band[:, begun:] = 0


class _Taps:
    """The two source pixels that make each pixel ``start`` to ``stop`` of a bilinear resize, and the second's share.

    Pixel centres lie at half integers and the border is repeated, as in ``F.interpolate`` with ``align_corners=False``.
    """

    def __init__(self, source: int, target: int, start: int, stop: int) -> None:
        self.same = source == target
        at = ((torch.arange(start, stop, dtype=torch.float64) + 0.5) * (source / target) - 0.5).clamp(min=0)
        self.low = at.long().clamp(max=source - 1)
        self.high = (self.low + 1).clamp(max=source - 1)
        self.share = (at - self.low).float()


def _interpolated(x: Tensor, dim: int, taps: _Taps, first: int) -> Tensor:
    """The pixels of ``taps`` along an axis of ``(C, H, W)`` that begins with source pixel ``first``."""
    if taps.same:
        return x.narrow(dim, int(taps.low[0]) - first, len(taps.low))
    low, high = (x.index_select(dim, (i - first).to(x.device)) for i in (taps.low, taps.high))
    share = taps.share.to(x.device)
    return low.lerp_(high, share[:, None] if dim == 1 else share)


def _resized(
    bands: Iterator[tuple[int, Tensor]], source: tuple[int, int], target: tuple[int, int]
) -> Iterator[tuple[int, Tensor]]:
    """The bands of a image of size ``source`` resized to ``target``, at most 64 rows at a time."""
    taps = _Taps(source[0], target[0], 0, target[0])
    kept, first, done = None, 0, 0  # rows that are still needed, the first of them, target rows that are out
    for start, probs in bands:
        kept = torch.cat([probs[:, :0] if kept is None else kept, probs], 1)
        ready = int((taps.high < start + probs.shape[1]).sum())
        while done < ready:
            stop = min(done + _ROWS, ready)
            part = _Taps(source[0], target[0], done, stop)
            rows = _interpolated(kept, 1, part, first)  # (K, n, w)
            yield done, F.interpolate(rows[None], size=(stop - done, target[1]), mode="bilinear")[0]  # (K, n, W)
            done = stop
        spent = min(int(taps.low[done]) - first, kept.shape[1]) if done < target[0] else 0
        kept, first = kept[:, spent:], first + spent


def _strip(image: Tensor, size: tuple[int, int], rows: tuple[int, int], antialias: bool) -> Tensor:
    """Some rows of ``F.interpolate(image, size, mode="bilinear", antialias=…)`` ``(C, *size)``, and no others.

    A target pixel is a mean of source pixels under a triangle around its centre, whose half-width is one target pixel
    where the image shrinks and one source pixel where it grows.
    """
    height, width = image.shape[-2:]
    if size == (height, width):
        return image[:, rows[0] : rows[1]]
    scale = height / size[0]
    reach = max(scale, 1.0) if antialias else 1.0
    parts = []
    for top in range(*rows, _ROWS):
        centres = (torch.arange(top, min(top + _ROWS, rows[1]), dtype=torch.float64) + 0.5) * scale
        first = max(0, math.floor(float(centres[0]) - reach))
        last = min(height, math.ceil(float(centres[-1]) + reach))
        away = torch.arange(first, last, dtype=torch.float64) + 0.5 - centres[:, None]  # (n, source rows)
        weights = (1 - away.abs() / reach).clamp(min=0)
        weights = (weights / weights.sum(1, keepdim=True)).to(image)
        part = (weights @ image[:, first:last])[None]  # (1, 3, n, W)
        parts.append(F.interpolate(part, size=(len(centres), size[1]), mode="bilinear", antialias=antialias)[0])
    return torch.cat(parts, 1)  # (3, rows, w)
