"""The moving figures of the book, one function each."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from seglib.book.figures.detection import ROI_MAP, matcher, nms, paste_back, precision_recall, roi_bins
from seglib.book.figures.dynamic import dynamic_filter, dynamic_filter_of, prototypes, prototypes_of
from seglib.book.figures.element import Figure
from seglib.book.figures.exploring import explorer
from seglib.book.figures.images import png
from seglib.book.figures.measuring import conventions
from seglib.book.figures.merging import panoptic_merge
from seglib.book.figures.panoptic import PANOPTIC_CATEGORIES, panoptic_quality, panoptic_scene
from seglib.book.figures.planner import PLAN_PRESETS, plan_explorer
from seglib.book.figures.playing import playground
from seglib.book.figures.prompts import prompt_explorer
from seglib.book.figures.queries import MATCHINGS, hungarian, masked_attention
from seglib.book.figures.stepper import detector_stepper
from seglib.book.figures.striding import stride_dilation
from seglib.book.figures.upsampling import bilinear_stamps
from seglib.book.figures.volumes import SURFACE_PRESETS, slices, surface_distance
from seglib.types import VOID, Category, Sample
from seglib.viz.colors import instance_colors
from seglib.viz.overlay import panoptic_colors

__all__ = [
    "MATCHINGS", "PANOPTIC_CATEGORIES", "PLAN_PRESETS", "ROI_MAP", "SURFACE_PRESETS", "Figure", "bilinear_stamps",
    "conventions", "detector_stepper", "dilation", "dynamic_filter", "dynamic_filter_of", "explorer", "hungarian",
    "loss_gradient", "mask_metrics", "masked_attention", "matcher", "nms", "panoptic_merge", "panoptic_quality",
    "panoptic_scene", "paste_back", "pixel_probe", "plan_explorer", "playground", "precision_recall",
    "prompt_explorer", "prototypes", "prototypes_of", "receptive_field", "roi_bins", "slices", "stride_dilation",
    "surface_distance", "transposed_conv", "valid_tiles",
]  # fmt: skip


def mask_metrics(
    *,
    width: int = 28,
    height: int = 20,
    truth: tuple[float, float, float, float] = (8, 2.75, 20, 17),
    prediction: tuple[float, float, float, float] = (11, 3.75, 23, 18),
) -> Figure:
    """A predicted mask to drag over the true one, with pixel accuracy, IoU and Dice live.

    A slider shrinks both masks: their IoU stays, because areas are exact, while the accuracy climbs towards 1.

    Args:
        width: number of cells per row.
        height: number of cells per column.
        truth: the box of the true mask, ``xyxy`` in cells.
        prediction: the box of the predicted mask at the start.

    Raises:
        ValueError: when a box is empty or leaves the grid.
    """
    for x0, y0, x1, y1 in (truth, prediction):
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise ValueError(f"box {(x0, y0, x1, y1)} is empty or leaves the grid of {width} × {height} cells (xyxy)")
    return Figure(
        "mask_metrics",
        {"width": width, "height": height, "truth": truth, "prediction": prediction},
        text="drag a mask, watch pixel accuracy, IoU and Dice",
        fallback=(
            "<p>A mask to drag over the true one (needs JavaScript). With TP hits, FP false alarms, FN misses and TN "
            "the rest: pixel accuracy = (TP + TN) / all, IoU = TP / (TP + FP + FN), Dice = 2 TP / (2 TP + FP + FN). "
            "Only accuracy counts TN, so it nears 1 for any small object, found or not.</p>"
        ),
    )


def loss_gradient(
    probabilities: Sequence[float] = (0.75, 0.25, 0.5, 0.2, 0.1, 0.2), truth: Sequence[int] = (1, 1, 0, 0, 0, 0)
) -> Figure:
    """Six pixels whose probabilities follow the reader: four losses, and the gradient of each at every pixel.

    A slider lets each background pixel stand for 10, 100 or 1000, so that the object becomes rare.

    Args:
        probabilities: probability of object for each of the six pixels, 0.01 to 0.99.
        truth: label of each of the six pixels, 1 on the object and 0 elsewhere; at least one is 1.

    Raises:
        ValueError: when there are not six of each, a value is out of range or no pixel is object.
    """
    if len(probabilities) != 6 or len(truth) != 6:
        raise ValueError(f"the figure shows six pixels, got {len(probabilities)} probabilities and {len(truth)} truths")
    if any(not 0.01 <= p <= 0.99 for p in probabilities):
        raise ValueError(f"probabilities must be 0.01 to 0.99, got {tuple(probabilities)}")
    if any(t not in (0, 1) for t in truth) or 1 not in truth:
        raise ValueError(f"truth holds 0 and 1, with at least one 1, got {tuple(truth)}")
    rows = "".join(f"<td>{v}</td>" for v in truth) + "</tr><tr><th>p</th>"
    rows += "".join(f"<td>{v}</td>" for v in probabilities)
    return Figure(
        "loss_gradient",
        {"p": list(probabilities), "y": list(truth)},
        text="six pixels, four losses, and the gradient of each",
        fallback=(
            f"<table><tr><th>y</th>{rows}</tr></table><p>Six pixels with draggable probabilities (needs JavaScript). "
            "The gradient of cross-entropy at a pixel is its own error, divided by the number of pixels: the fewer "
            "pixels the object has, the smaller its part. Dice and Lovász judge the object as a whole.</p>"
        ),
    )


def transposed_conv(
    input: Sequence[Sequence[float]] = ((1, 2, 1), (0, 3, 2), (2, 1, 4)),
    *,
    stride: int = 2,
    kernel: int = 3,
    padding: int = 0,
    weights: str = "ones",
) -> Figure:
    """Transposed convolution as stamping, cell by cell, with sliders for stride, kernel and padding.

    Args:
        input: square grid of at most 4 × 4 numbers, 0 or more.
        stride: stride at the start, 1 to 3.
        kernel: side of the square kernel at the start, 2 to 4.
        padding: cells cut off at each border at the start, 0 to 2.
        weights: values of the kernel, ``"ones"`` or ``"bilinear"``.

    Raises:
        ValueError: when a value is out of range or nothing of the output is left.
    """
    n = len(input)
    if not 1 <= n <= 4 or any(len(row) != n for row in input):
        raise ValueError(f"input must be a square grid of 1 to 4 rows, got rows of lengths {[len(r) for r in input]}")
    for name, value, low, high in (("stride", stride, 1, 3), ("kernel", kernel, 2, 4), ("padding", padding, 0, 2)):
        if not low <= value <= high:
            raise ValueError(f"{name} must be {low} to {high}, got {value}")
    if weights not in ("ones", "bilinear"):
        raise ValueError(f"weights must be 'ones' or 'bilinear', got {weights!r}")
    size = (n - 1) * stride - 2 * padding + kernel
    if size < 1:
        raise ValueError(f"padding {padding} leaves no output: (n − 1)·s − 2·p + k = {size}; take a smaller padding")
    return Figure(
        "transposed_conv",
        {"input": input, "stride": stride, "kernel": kernel, "padding": padding, "weights": weights},
        text="transposed convolution, stamp by stamp",
        fallback=(
            "<p>Transposed convolution, stamp by stamp (needs JavaScript). Every input cell multiplies the kernel and "
            "adds it to the output, s cells further each time: (n − 1)·s − 2·p + k = "
            f"({n} − 1)·{stride} − 2·{padding} + {kernel} = {size} cells a side. "
            "Where k is not a multiple of s, cells get different numbers of stamps: a checkerboard.</p>"
        ),
    )


def receptive_field(layers: Sequence[tuple[int, int]] = ((3, 2), (3, 2), (3, 1)), *, cells: int = 32) -> Figure:
    """Which input cells one output cell reads through a stack of convolutions, with receptive field and jump per layer.

    Args:
        layers: ``(kernel, stride)`` from the input up, 1 to 5 of them; kernels 1, 2, 3, 5 or 7, strides 1 or 2.
        cells: number of input cells, 16 to 64.

    Raises:
        ValueError: when a layer or the number of cells is outside these.
    """
    if not 1 <= len(layers) <= 5:
        raise ValueError(f"the figure shows 1 to 5 layers, got {len(layers)}")
    for k, s in layers:
        if k not in (1, 2, 3, 5, 7) or s not in (1, 2):
            raise ValueError(f"layer {(k, s)} must be (kernel, stride) with kernel 1, 2, 3, 5 or 7 and stride 1 or 2")
    if not 16 <= cells <= 64:
        raise ValueError(f"cells must be 16 to 64, got {cells}")
    field, jump, rows = 1, 1, []
    for k, s in layers:
        field, jump = field + (k - 1) * jump, jump * s
        rows.append(f"<li>kernel {k}, stride {s}: field {field}, jump {jump}</li>")
    return Figure(
        "receptive_field",
        {"layers": layers, "cells": cells},
        text="the receptive field of one output cell",
        fallback=(
            "<p>What one output cell reads (needs JavaScript). Every layer widens the receptive field by (k − 1) jumps "
            f"and multiplies the jump by its stride:</p><ol>{''.join(rows)}</ol>"
        ),
    )


def dilation(rates: Sequence[int] = (2, 2, 2), *, parallel: bool = False, cells: int = 33) -> Figure:
    """Which input cells one output cell reads through dilated 3 × 3 convolutions, and on how many paths.

    Args:
        rates: dilation of each layer, 1 to 4 of them, each 1 to 36.
        parallel: the layers are branches beside a 1 × 1 convolution, as in ASPP, instead of one after another.
        cells: side of the square map, 9 to 41.

    Raises:
        ValueError: when the rates or the number of cells are outside these.
    """
    if not 1 <= len(rates) <= 4 or any(not 1 <= d <= 36 for d in rates):
        raise ValueError(f"the figure shows 1 to 4 layers with rates of 1 to 36, got {tuple(rates)}")
    if not 9 <= cells <= 41:
        raise ValueError(f"cells must be 9 to 41, got {cells}")
    side = 1 + 2 * (max(rates) if parallel else sum(rates))
    order = "side by side" if parallel else "one after another"
    return Figure(
        "dilation",
        {"rates": rates, "parallel": parallel, "cells": cells},
        text="what a stack of dilated convolutions reads",
        fallback=(
            f"<p>What 3 × 3 convolutions with rates {', '.join(map(str, rates))}, {order}, read (needs JavaScript). "
            "One after another each layer adds 2·d cells to the receptive field, side by side the widest decides: "
            f"here it is {side} cells wide. Where all rates share a common divisor above 1, the field has gaps.</p>"
        ),
    )


def pixel_probe(sample: Sample, categories: Sequence[Category], *, start: tuple[int, int] | None = None) -> Figure:
    """A cursor over one scene, and what its class map, instances, panoptic map and a prompt say about that pixel.

    Args:
        sample: a scene with all three annotations, at most 256 pixels a side (it travels in the page).
        categories: the class table.
        start: the pixel ``(x, y)`` asked first; by default the middle of the largest object, or of the image.

    Raises:
        ValueError: when an annotation is missing, the image is too large or ``start`` lies outside.
    """
    if sample.semantic is None or sample.instances is None or sample.panoptic is None:
        raise ValueError(f"sample {sample.id!r} needs semantic, instances and panoptic; data.scenes draws all three")
    height, width = sample.image.shape[1:]
    if max(height, width) > 256:
        raise ValueError(f"a {height} × {width} image makes the page heavy; take a scene of at most 256 pixels a side")
    masks = sample.instances.masks.cpu().numpy().reshape(-1, height * width)  # (N, H·W)
    if start is None:
        largest = (
            masks[masks.sum(axis=1).argmax()] if len(masks) and masks.any() else np.ones(height * width, dtype=bool)
        )
        middle = np.flatnonzero(largest)[int(largest.sum()) // 2]
        start = (int(middle) % width, int(middle) // width)
    if not (0 <= start[0] < width and 0 <= start[1] < height):
        raise ValueError(f"start {start} lies outside the {width} × {height} image; it is (x, y)")

    # Masks may overlap: every pixel refers to one of the sets of objects ("stacks") that occur in the image.
    stacks, stack = np.unique(masks.T, axis=0, return_inverse=True)  # (S, N), (H·W,)
    segments = sample.panoptic.segments
    colors = panoptic_colors(sample.panoptic, categories)
    position = {0: 0} | {s.id: i for i, s in enumerate(segments, 1)}  # 0 is void
    described = [
        {"id": s.id, "category": s.category_id, "thing": s.isthing, "color": colors[s.id].tolist()} for s in segments
    ]
    values, inverse = np.unique(sample.panoptic.map.cpu().numpy().ravel(), return_inverse=True)
    segment = np.array([position[int(v)] for v in values], dtype=np.int64)[inverse]  # (H·W,)
    image = png(sample.image)
    params: dict[str, Any] = {
        "width": width,
        "height": height,
        "start": start,
        "void": VOID,
        "image": image,
        "categories": [{"name": c.name, "thing": c.isthing, "color": c.color} for c in categories],
        "labels": sample.instances.labels.tolist(),
        "instanceColors": instance_colors(len(masks)).tolist(),
        "stacks": [np.flatnonzero(row).tolist() for row in stacks],
        "segments": [None, *described],
        "semantic": _runs(sample.semantic.cpu().numpy().ravel()),
        "stack": _runs(stack.ravel()),
        "segment": _runs(segment),
    }
    return Figure(
        "pixel_probe",
        params,
        text="one pixel, asked four times",
        fallback=(
            f'<p><img src="{html.escape(image)}" width="{2 * width}" alt="The scene"><br>The scene (the cursor needs '
            f"JavaScript). It holds {len(masks)} objects and {len(segments)} segments.</p>"
        ),
    )


def valid_tiles(image: Tensor, *, size: int = 512, depth: int = 4, bottom: int = 32) -> Figure:
    """A tile to drag over an image: what a U-Net without padding reads for it, with the sizes of all its maps.

    Args:
        image: image under the tile, ``(3, H, W)`` in [0, 1], square, at most 160 pixels a side (the page holds it).
        size: side in pixels of the image that the shown one stands for.
        depth: number of poolings at the start, 1 to 4.
        bottom: side of the lowest level's map before its convolutions, at the start.

    Raises:
        ValueError: when the image is not square or too large, or the tile leaves the image.
    """
    if image.ndim != 3 or image.shape[1] != image.shape[2] or image.shape[1] > 160:
        raise ValueError(f"image must be (3, H, H) with H of at most 160, got {tuple(image.shape)}")
    if not 1 <= depth <= 4:
        raise ValueError(f"depth must be 1 to 4, got {depth}")
    lost = 12 * 2**depth - 8  # at both ends together
    read = (bottom + 4) * 2**depth - 4  # two convolutions take 4 cells a level on the way down
    if not 0 < read - lost <= size:
        raise ValueError(
            f"depth {depth} with {bottom} cells at the bottom answers for {read - lost} pixels, which does not fit an "
            f"image of {size}; change bottom"
        )
    return Figure(
        "valid_tiles",
        {"image": png(image), "size": size, "depth": depth, "bottom": bottom},
        text="the tile of a U-Net without padding, and the window that it reads",
        fallback=(
            f'<p><img src="{html.escape(png(image))}" width="256" alt="The image"><br>A tile to drag over the '
            f"image (needs JavaScript). With {depth} poolings a U-Net without padding reads {read} × {read} pixels, "
            f"and answers for the {read - lost} × {read - lost} in the middle: {lost // 2} more on every side.</p>"
        ),
    )


def _runs(values: np.ndarray) -> list[int]:
    """Run-length code of a flat map: value, run, value, run, …."""
    if values.size == 0:
        return []
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    runs = np.diff(np.append(starts, values.size))
    return np.stack([values[starts], runs], axis=1).ravel().tolist()
