"""The moving figure about prompts: what a promptable model answers to clicks, boxes and corrections."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from seglib.book.figures.architecture.paint import shrink
from seglib.book.figures.element import Figure
from seglib.book.figures.images import pack_masks, png
from seglib.data.prompts import LEVELS, at_level
from seglib.models.sam import Sam
from seglib.ops.clicks import answer_iou, centre_points, error_clicks
from seglib.ops.masks import mask_iou, masks_to_boxes
from seglib.postprocess.prompt import Predictor
from seglib.types import Category, Sample

PIXELS, CELLS = 192, 96
"""Most pixels of the image, and most cells of a mask, along a side of what the page holds."""
MODELS, GRID, OBJECTS = 3, 20, 32
"""Most models, clicks along a side and objects: more makes the page heavy."""
BATCH = 64
"""Prompts that are answered at once."""


class _Maps(Figure):
    """A figure that paints small maps."""

    shared = ("maps",)


def prompt_explorer(
    models: Mapping[str, Sam],
    sample: Sample,
    categories: Sequence[Category],
    *,
    grid: int = 16,
    start: tuple[int, int] | None = None,
) -> Figure:
    """A scene to click on, and the masks that promptable models answer with, beside their true IoU.

    Three prompts can be chosen. *One click*: the reader moves over a grid of clicks and sees the three masks of each,
    with their predicted IoU; the mask with the highest one is the answer. *A box*: for an object its centre, its box,
    and both. *More clicks*: for an object the answers after one, two and three clicks, each new one in the largest
    error of the mask before it. All of it is computed here and stored in the page, masks at 96 cells a side.

    Args:
        models: promptable models by the names that the reader chooses from, 1 to 3.
        sample: a scene with instances, whose image is ``(3, H, W)`` in [0, 1].
        categories: the class table.
        grid: clicks along each side of the image, 2 to 20.
        start: pixel ``(x, y)`` that is clicked first; by default the centre of the largest object.

    Raises:
        ValueError: when there are no models or too many, the sample has no objects or too many, or a number lies
            outside its range.
    """
    if not 1 <= len(models) <= MODELS:
        raise ValueError(f"pass 1 to {MODELS} models by name, got {len(models)}: {list(models)}")
    if sample.instances is None:
        raise ValueError(f"sample {sample.id!r} has no instances to compare masks with; data.scenes draws them")
    image, objects = sample.image, sample.instances[sample.instances.masks.flatten(1).any(1)]  # those with pixels
    if not 1 <= len(objects) <= OBJECTS:
        raise ValueError(
            f"the figure shows 1 to {OBJECTS} objects, sample {sample.id!r} has {len(objects)}; choose another scene"
        )
    if not 2 <= grid <= GRID:
        raise ValueError(f"grid must be 2 to {GRID}, got {grid}")
    height, width = image.shape[1:]
    centres = centre_points(objects.masks)  # (N, 2)
    if start is None:
        x, y = centres[int(objects.masks.flatten(1).sum(1).argmax())].tolist()
        start = (int(x), int(y))
    if not (0 <= start[0] < width and 0 <= start[1] < height):
        raise ValueError(f"start {start} lies outside the {width} × {height} image; it is (x, y)")
    truth = torch.stack([at_level(objects, level) for level in LEVELS])  # (L, N, H, W)
    points = _grid(grid, width, height)  # (grid², 2)
    x, y = points.long().unbind(1)
    hits = objects.masks[:, y, x]  # (N, grid²)
    under = hits.int().argmax(0).where(hits.any(0), -1)  # (grid²,)
    names = [categories[k].name for k in objects.labels.tolist()]
    small = shrink(image, PIXELS)
    return _Maps(
        "prompt_explorer",
        {
            "image": png(small),
            "view": tuple(small.shape[1:]),
            "size": (height, width),
            "cells": tuple(_cells(truth[0, :1]).shape[1:]),
            "grid": grid,
            "start": [min(grid - 1, v * grid // n) for v, n in zip(start, (width, height), strict=True)],
            "under": under.tolist(),
            "levels": LEVELS,
            "truth": pack_masks(torch.stack([_cells(t) for t in truth])),
            "names": names,
            "centres": centres.tolist(),
            "boxes": masks_to_boxes(objects.masks).tolist(),
            "models": [_answers(name, model, image, truth, points, under) for name, model in models.items()],
        },
        text=f"what a promptable model answers to {grid} × {grid} clicks, to boxes and to corrections",
        fallback=(
            f'<p><img src="{html.escape(png(small))}" width="240" alt="The scene"><br>A scene to click on: three masks '
            "for each click with their predicted and their true IoU, the masks of boxes, and those after more clicks "
            f"(needs JavaScript). It holds {len(names)} objects: {html.escape(', '.join(names))}.</p>"
        ),
    )


def _grid(count: int, width: int, height: int) -> Tensor:
    """The pixels in the middle of each of ``count`` × ``count`` parts of the image, row by row, (x, y)."""
    x, y = (((torch.arange(count) + 0.5) * n / count).floor() for n in (width, height))
    return torch.stack([x.repeat(count), y.repeat_interleave(count)], 1)  # (count², 2)


def _answers(name: str, model: Sam, image: Tensor, truth: Tensor, points: Tensor, under: Tensor) -> dict[str, Any]:
    """What the page holds of one model."""
    predictor = Predictor(model)
    predictor.set_image(image)
    masks, said, true = [], [], []
    for chunk, who in zip(points.split(BATCH), under.split(BATCH), strict=True):
        found = predictor.predict(points=chunk[:, None])  # (n, 3, …)
        masks.append(_cells(found.masks.flatten(0, 1)))
        said += _percent(found.iou)
        ious = mask_iou(found.masks.flatten(0, 1), truth.flatten(0, 1))  # (n·3, L·N)
        ious = ious.view(len(chunk), 3, *truth.shape[:2])
        true += [_percent(iou[..., i]) if i >= 0 else None for iou, i in zip(ious, who.tolist(), strict=True)]
    rows = math.isqrt(len(points))  # of the grid: a long narrow sheet of masks would be too high for a browser
    known = [(p, [levels[0] for levels in t]) for p, t in zip(said, true, strict=True) if t]
    chosen = [ious[p.index(max(p))] for p, ious in known]
    best = [max(ious) for _, ious in known]
    steps, stages = _objects(predictor, truth[0])
    return {
        "name": name,
        "clicks": pack_masks(torch.cat(masks).unflatten(0, (rows, -1))),  # (grid, grid·3, h, w)
        "said": said,
        "true": true,
        "mean": [round(sum(v) / len(v)) if v else None for v in (chosen, best)],
        "on": len(known),
        "stages": pack_masks(stages),
        "steps": steps,
    }


def _objects(predictor: Predictor, truth: Tensor) -> tuple[list[dict[str, Any]], Tensor]:
    """The answers to five prompts for each object ``(N, H, W)``, in percent, and their masks ``(N, 5, h, w)``.

    The prompts: the object's centre; two clicks; three clicks; its box; its box and its centre.
    """
    clicks, labels = centre_points(truth)[:, None], torch.ones(len(truth), 1, dtype=torch.int64)
    rows = torch.arange(len(truth))
    found = predictor.predict(points=clicks, labels=labels)
    best = found.iou.argmax(1)
    masks, said, logits = [found.masks[rows, best]], [found.iou[rows, best]], found.logits[rows, best]
    for _ in range(2):
        point, label = error_clicks(masks[-1], truth, where="centre")
        clicks, labels = torch.cat([clicks, point[:, None]], 1), torch.cat([labels, label[:, None]], 1)
        found = predictor.predict(points=clicks, labels=labels, masks=logits, several=False)
        masks, said, logits = [*masks, found.masks[:, 0]], [*said, found.iou[:, 0]], found.logits[:, 0]
    boxes = masks_to_boxes(truth)
    alone = predictor.predict(boxes=boxes, several=False)
    both = predictor.predict(points=clicks[:, :1], labels=labels[:, :1], boxes=boxes, several=False)
    masks, said = [*masks, alone.masks[:, 0], both.masks[:, 0]], [*said, alone.iou[:, 0], both.iou[:, 0]]
    shown = torch.stack(masks, 1)  # (N, 5, H, W)
    asked = torch.cat([clicks, labels[..., None]], 2)  # (N, 3, 3)
    steps = [
        {"clicks": c, "said": s, "true": t}
        for c, s, t in zip(
            asked.tolist(), _percent(torch.stack(said, 1)), _percent(answer_iou(shown, truth)), strict=True
        )
    ]
    return steps, _cells(shown.flatten(0, 1)).unflatten(0, (-1, 5))


def _cells(masks: Tensor) -> Tensor:
    """Masks ``(N, H, W)`` at so few cells that the page holds them: bool, true where half of a cell is."""
    return shrink(masks, CELLS) >= 0.5


def _percent(values: Tensor) -> Any:
    """Numbers in hundredths, as lists: the page stays small."""
    return (100 * values.double()).round().int().tolist()
