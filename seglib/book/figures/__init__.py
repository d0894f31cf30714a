"""The moving figures of the book, one function each."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from seglib.book.figures.element import Figure
from seglib.types import VOID, Category, Sample
from seglib.viz.colors import instance_colors, to_rgb8
from seglib.viz.overlay import panoptic_colors

__all__ = ["Figure", "mask_metrics", "pixel_probe", "receptive_field", "transposed_conv"]


def mask_metrics(
    *,
    width: int = 28,
    height: int = 20,
    truth: tuple[float, float, float, float] = (8, 2.75, 20, 17),
    prediction: tuple[float, float, float, float] = (11, 3.75, 23, 18),
) -> Figure:
    """A predicted mask to drag over the true one, with pixel accuracy, IoU and Dice live.

    A slider shrinks both masks: their IoU stays, up to rounding to cells, while the accuracy climbs towards 1.

    Args:
        width: cells per row.
        height: cells per column.
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
        stride: 1 to 3.
        kernel: 2 to 4, the side of the square kernel.
        padding: 0 to 2.
        weights: ``"ones"`` or ``"bilinear"``.

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


def pixel_probe(sample: Sample, categories: Sequence[Category], *, start: tuple[int, int] | None = None) -> Figure:
    """A cursor over one scene, and what its semantic, instance and panoptic annotation say about that pixel.

    Args:
        sample: a scene with all three annotations, at most 256 pixels a side (it travels in the page).
        categories: the class table.
        start: the pixel ``(x, y)`` asked first; by default the middle of the largest object, or of the image.

    Raises:
        ValueError: when an annotation is missing, the image is too large or ``start`` lies outside.
    """
    from PIL import Image

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
    photo = io.BytesIO()
    # 128 colours look the same at this size and halve the page.
    Image.fromarray(to_rgb8(sample.image)).quantize(128, dither=Image.Dither.NONE).save(photo, "PNG", optimize=True)
    data = base64.b64encode(photo.getvalue()).decode()
    image = f"data:image/png;base64,{data}"
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
        text="one pixel, asked three times",
        fallback=(
            f'<p><img src="{html.escape(image)}" width="{2 * width}" alt="The scene"><br>The scene (the cursor needs '
            f"JavaScript). It holds {len(masks)} objects and {len(segments)} segments.</p>"
        ),
    )


def _runs(values: np.ndarray) -> list[int]:
    """Run-length code of a flat map: value, run, value, run, …."""
    if values.size == 0:
        return []
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    runs = np.diff(np.append(starts, values.size))
    return np.stack([values[starts], runs], axis=1).ravel().tolist()
