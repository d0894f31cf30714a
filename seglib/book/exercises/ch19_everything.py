"""Chapter 19, "SAM": the exercises on everything mode: how stable a mask is, and masks that cover each other."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.book.exercise import Exercise
from seglib.book.exercises.ch01 import typed
from seglib.postprocess.everything import stability_score

# The stability score -------------------------------------------------------------------------------------------------


def stability(logits: Tensor, threshold: float, offset: float) -> Tensor:
    """Logits ``(N, h, w)`` → how many pixels of a mask stay when the threshold rises, ``(N,)`` in [0, 1]."""
    return stability_score(logits, offset, threshold)


def _count(mask: Tensor) -> Tensor:
    return mask.flatten(1).sum(1).float()


def _stability(
    logits: Tensor,
    threshold: float,
    offset: float,
    *,
    above: Callable[[Tensor, float], Tensor] = torch.gt,
    inner: Callable[[float, float], float] = lambda t, o: t + o,
    outer: Callable[[float, float], float] = lambda t, o: t - o,
    ratio: Callable[[Tensor, Tensor], Tensor] = lambda a, b: a / b.clamp(min=1),
) -> Tensor:
    """``stability`` with some steps exchanged."""
    return ratio(_count(above(logits, inner(threshold, offset))), _count(above(logits, outer(threshold, offset))))


def _stable(**changes: Any) -> Callable[[Tensor, float, float], Tensor]:
    return lambda logits, threshold, offset: _stability(logits, threshold, offset, **changes)


def _stability_numpy(logits: Tensor, threshold: float, offset: float) -> np.ndarray:
    z = logits.numpy().reshape(len(logits), math.prod(logits.shape[1:]))
    a, b = (np.count_nonzero(z > t, axis=1) for t in (threshold + offset, threshold - offset))
    return np.divide(a, b, out=np.zeros(len(z)), where=b > 0)


def _stability_by_loops(logits: Tensor, threshold: float, offset: float) -> list[float]:
    scores = []
    for mask in logits.tolist():
        values = [z - threshold for row in mask for z in row if z - threshold > -offset]
        scores.append(sum(z > offset for z in values) / len(values) if values else 0.0)
    return scores


def _stability_in_place(logits: Tensor, threshold: float, offset: float) -> Tensor:
    logits -= threshold
    a, b = (logits > offset).float(), (logits > -offset).float()
    return ((a * b).sum((1, 2)) / (a + b).clamp_(max=1).sum((1, 2))).nan_to_num(0.0)


@functools.cache
def _logits() -> Mapping[str, tuple[Tensor, float, float]]:
    draw = torch.Generator().manual_seed(25)
    steps = torch.arange(-4.0, 5).expand(2, 3, 9)  # whole numbers
    return {
        "three masks": (3 * torch.randn(3, 6, 5, generator=draw), 0.0, 1.0),
        "another threshold": (2 * torch.randn(2, 7, 4, generator=draw), 0.75, 1.0),
        "a larger offset": (4 * torch.randn(2, 5, 8, generator=draw), -0.5, 2.0),
        "whole numbers": (steps, 0.0, 1.0),
        "whole numbers, another threshold": (steps, 1.0, 2.0),
        "no offset": (torch.randn(2, 4, 4, generator=draw), 0.0, 0.0),
        "a single pixel": (torch.tensor([[[2.0, -8.0, -8.0]]]), 0.0, 1.5),
        "an empty mask": (torch.stack([torch.full((4, 4), -9.0), torch.full((4, 4), 9.0)]), 0.0, 1.0),
        "a mask that is never sure": (torch.zeros(1, 4, 4), 0.0, 1.0),
        "no mask": (torch.zeros(0, 4, 4), 0.0, 1.0),
    }


STABILITY = Exercise(
    solution=stability,
    wrong={
        "inverted": (
            _stable(ratio=lambda a, b: b / a.clamp(min=1)),
            "Your fraction is upside down: the cells that stay, of those of the larger mask.",
        ),
        "at_least": (
            _stable(above=torch.ge),
            "A cell whose logit equals a threshold is outside: >, not ≥.",
        ),
        "not_a_number": (
            _stable(ratio=torch.div),
            "0 / 0 is NaN. A mask without a cell above the lower threshold scores 0.",
        ),
        "empty_is_stable": (
            _stable(ratio=lambda a, b: torch.where(b > 0, a / b, 1.0)),
            "A mask without a cell above the lower threshold scores 1 in your code. It scores 0.",
        ),
        "smoothed": (
            _stable(ratio=lambda a, b: (a + 1) / (b + 1)),
            "You add 1 to both counts. Only 0 / 0 needs a rule: it is 0.",
        ),
        "a_little_more": (
            _stable(ratio=lambda a, b: a / (b + 1e-2)),
            "You add a small number below the line, and every score changes. Only 0 / 0 needs a rule: it is 0.",
        ),
        "threshold_ignored": (
            _stable(inner=lambda t, o: o, outer=lambda t, o: -o),
            "You leave out the threshold: compare with threshold + offset and threshold − offset.",
        ),
        "offset_of_1": (
            _stable(inner=lambda t, o: t + 1, outer=lambda t, o: t - 1),
            "Your offset is always 1. Take `offset`.",
        ),
        "no_lower": (
            _stable(outer=lambda t, o: t),
            "Your larger mask lies above the threshold itself. It lies above threshold − offset.",
        ),
        "no_upper": (
            _stable(inner=lambda t, o: t),
            "Your smaller mask lies above the threshold itself. It lies above threshold + offset.",
        ),
        "half_the_offset": (
            _stable(inner=lambda t, o: t + o / 2, outer=lambda t, o: t - o / 2),
            "You take half the offset up and half down. Take the whole offset both ways.",
        ),
        "scaled": (
            _stable(inner=lambda t, o: t * (1 + o), outer=lambda t, o: t * (1 - o)),
            "You multiply the threshold. The offset is added and subtracted.",
        ),
        "probabilities": (
            lambda logits, threshold, offset: _stability(logits.sigmoid(), threshold, offset),
            "You compare probabilities. Threshold and offset are in logits.",
        ),
        "of_sure_cells": (
            lambda logits, threshold, offset: ((logits - threshold).abs() > offset).flatten(1).float().mean(1),
            "You give the share of cells that are far from the threshold. Background doesn't count: IoU of two masks.",
        ),
        "of_the_image": (
            _stable(ratio=lambda a, b: a / 20 if len(a) else a),
            "Divide by the number of cells in the larger mask.",
        ),
        "difference": (_stable(ratio=lambda a, b: b - a), "You subtract. The score is a fraction: an IoU."),
        "dice": (
            _stable(ratio=lambda a, b: 2 * a / (a + b).clamp(min=1)),
            "That is the Dice of the two masks. The score is their IoU.",
        ),
        "one_number": (
            lambda logits, threshold, offset: (
                (logits > threshold + offset).sum() / (logits > threshold - offset).sum().clamp(min=1)
            ),
            "You count the cells of all masks together. Each mask has a score of its own.",
        ),
        "mean": (
            lambda logits, threshold, offset: stability(logits, threshold, offset).mean(),
            "You return the mean of the scores. Return all N.",
        ),
        "percent": (
            lambda logits, threshold, offset: 100 * stability(logits, threshold, offset),
            "Those are percentages. A score lies between 0 and 1.",
        ),
        "of_rows": (
            lambda logits, threshold, offset: (
                (logits > threshold + offset).sum(1) / (logits > threshold - offset).sum(1).clamp(min=1)
            ),
            "You count along one axis. Count over height and width.",
        ),
    },
    right={"NumPy": _stability_numpy, "loops": _stability_by_loops, "in place": _stability_in_place},
    probes=_logits,
    hint="Cells above threshold + offset, divided by those above threshold − offset; 0 / 0 is 0.",
    sketch="""
        inner = (logits > ...).sum((1, 2))                   # (N,)
        outer = (logits > ...).sum((1, 2))
        return inner / outer.clamp(...)
    """,
)


# Masks that cover each other -----------------------------------------------------------------------------------------


def paint(masks: Tensor) -> Tensor:
    """Masks ``(N, H, W)`` bool → for each pixel the index of the mask of least area there, or −1, ``(H, W)`` int64."""
    return _paint(masks)


def _areas(masks: Tensor) -> Tensor:
    return masks.flatten(1).sum(1)


def _paint(
    masks: Tensor,
    *,
    order: Callable[[Tensor], Tensor] = lambda masks: _areas(masks).flip(0).argsort(descending=True, stable=True),
    name: Callable[[int, int], int] = lambda index, rank: index,
    nothing: int = -1,
    written: Callable[[Tensor, Tensor], Tensor] = lambda mask, out: mask,
) -> Tensor:
    """``paint`` with some steps exchanged: masks are written one after the other, in the order of the reversed ones."""
    out = torch.full(masks.shape[1:], nothing)
    last = len(masks) - 1
    for rank, i in enumerate((last - order(masks)).tolist()):
        out[written(masks[i], out)] = name(i, last - rank)
    return out


def _paints(**changes: Any) -> Callable[[Tensor], Tensor]:
    return lambda masks: _paint(masks, **changes)


def _largest_on_top(masks: Tensor) -> Tensor:
    return _areas(masks).flip(0).argsort(stable=True)


def _later_of_equals(masks: Tensor) -> Tensor:
    return len(masks) - 1 - _areas(masks).argsort(descending=True, stable=True)


def _by_box(masks: Tensor) -> Tensor:
    sides = [masks.any(a).sum(1) for a in (1, 2)]
    return (sides[0] * sides[1]).flip(0).argsort(descending=True, stable=True)


def _without_any(masks: Tensor) -> Tensor:
    return paint(masks) if len(masks) else torch.zeros(masks.shape[1:], dtype=torch.int64)


def _argmin_alone(masks: Tensor) -> Tensor:
    """The least area of each pixel's masks; mask 0 where there is none."""
    if not len(masks):
        return paint(masks)
    return torch.where(masks, _areas(masks)[:, None, None], 10**6).argmin(0)


def _raises_without_masks(masks: Tensor) -> Tensor:
    area = torch.where(masks, _areas(masks)[:, None, None], 10**6)
    return torch.where(masks.any(0), area.min(0).indices, -1)


def _by_argmin(masks: Tensor) -> Tensor:
    areas = torch.where(masks, _areas(masks)[:, None, None], 10**9)  # (N, H, W)
    nothing = torch.full((1, *masks.shape[1:]), 10**9 - 1)
    return torch.cat([nothing, areas]).argmin(0) - 1


def _paint_numpy(masks: Tensor) -> np.ndarray:
    m = masks.numpy()
    out = np.full(m.shape[1:], -1)
    area = m.sum((1, 2))
    for i in np.lexsort((-np.arange(len(m)), -area)):  # largest first; of equals the highest index first
        np.copyto(out, i, where=m[i])
    return out


def _paint_by_loops(masks: Tensor) -> list[list[int]]:
    areas = _areas(masks).tolist()
    return [
        [
            min((i for i in range(len(masks)) if masks[i, y, x]), key=lambda i: (areas[i], i), default=-1)
            for x in range(masks.shape[2])
        ]
        for y in range(masks.shape[1])
    ]


def _paint_in_place(masks: Tensor) -> Tensor:
    """From the smallest mask on; a pixel that has a mask is taken out of all others."""
    out = torch.zeros(masks.shape[1:], dtype=torch.int64) - 1
    for i in _areas(masks).argsort(stable=True).tolist():
        out += masks[i] * (i + 1)
        masks &= ~masks[i].clone()
    return out


@functools.cache
def _masks() -> Mapping[str, tuple[Tensor]]:
    def boxes(*corners: tuple[int, int, int, int]) -> Tensor:
        """Masks (7, 9) that are boxes x, y to x, y."""
        out = torch.zeros(len(corners), 7, 9, dtype=torch.bool)
        for mask, (left, top, right, bottom) in zip(out, corners, strict=True):
            mask[top:bottom, left:right] = True
        return out

    ring = boxes((1, 1, 8, 6)) ^ boxes((2, 2, 7, 5))  # fewer pixels than the box inside of it, in a larger box
    empty = torch.zeros(1, 7, 9, dtype=torch.bool)
    draw = torch.Generator().manual_seed(26)
    return {
        "a wheel of a car in a street": (boxes((2, 2, 8, 5), (3, 3, 5, 5), (0, 1, 9, 6)),),
        "the street first": (boxes((0, 0, 9, 5), (1, 1, 6, 4), (2, 2, 4, 3)),),
        "masks of one area": (boxes((0, 0, 4, 3), (2, 1, 6, 4), (3, 2, 7, 5)),),
        "a ring and a box across it": (torch.cat([boxes((1, 1, 6, 6)), ring]),),
        "an empty mask": (torch.cat([empty, boxes((1, 1, 4, 4)), empty, boxes((3, 3, 5, 4))]),),
        "a small mask that is hidden by a smaller one": (
            boxes((2, 2, 5, 4), (1, 1, 5, 4), (2, 2, 4, 4), (4, 2, 8, 6)),
        ),
        "five random masks": (F.max_pool2d(torch.rand(5, 7, 9, generator=draw), 3, 1, 1) > 0.9,),
        "one mask": (boxes((0, 0, 9, 7)),),
        "no mask": (empty[:0],),
    }


PAINT = Exercise(
    solution=paint,
    wrong={
        "largest_on_top": (
            _paints(order=_largest_on_top),
            "Where masks cover each other you keep the largest, and it hides its parts. Keep the smallest.",
        ),
        "last_on_top": (
            _paints(order=lambda masks: torch.arange(len(masks)).flip(0)),
            "Where masks cover each other you keep the last one. Keep the one with the fewest pixels.",
        ),
        "first_on_top": (
            _paints(order=lambda masks: torch.arange(len(masks))),
            "Where masks cover each other you keep the first one. Keep the one with the fewest pixels.",
        ),
        "later_of_equals": (
            _paints(order=_later_of_equals),
            "Of masks of one area you keep the last. Keep the one with the lower index.",
        ),
        "by_box": (
            _paints(order=_by_box),
            "You compare the boxes. The area of a mask is the number of its pixels.",
        ),
        "ids_from_1": (
            _paints(name=lambda i, rank: i + 1),
            "Your first mask has the number 1. An index counts from 0.",
        ),
        "ids_from_1_background_0": (
            _paints(name=lambda i, rank: i + 1, nothing=0),
            "You count masks from 1, with 0 for no mask. Count from 0, with −1 for no mask.",
        ),
        "background_is_0": (
            _paints(nothing=0),
            "Where no mask is you write 0, which is the first mask. Write −1.",
        ),
        "background_is_void": (_paints(nothing=255), "Where no mask is you write 255. Write −1."),
        "background_is_n": (
            lambda masks: torch.where(paint(masks) < 0, len(masks), paint(masks)),
            "Where no mask is you write N. Write −1.",
        ),
        "argmin": (
            _argmin_alone,
            "`argmin` gives 0 where no mask is, which is the first mask. Write −1 there.",
        ),
        "ranks": (
            _paints(name=lambda i, rank: rank),
            "You write the place in the order of areas. Write the index in `masks`.",
        ),
        "areas": (
            lambda masks: torch.where(paint(masks) < 0, -1, F.pad(_areas(masks), (0, 1))[paint(masks)]),
            "You write areas. Write the index of the mask.",
        ),
        "no_masks_are_0": (
            _without_any,
            "Without any mask every pixel is −1, not 0.",
        ),
        "raises": (
            _raises_without_masks,
            "N may be 0: the least of no areas does not exist. Every pixel is −1 then.",
        ),
        "only_one": (
            lambda masks: torch.where(masks.sum(0) == 1, paint(masks), -1),
            "Pixels of several masks are −1 in your map. The smallest of the masks has them.",
        ),
        "number_of_masks": (lambda masks: masks.sum(0), "You count masks. Write the index of the smallest."),
        "flat": (lambda masks: paint(masks).flatten(), "Your map is flat. Return (H, W)."),
        "turned": (lambda masks: paint(masks).T, "You swapped height and width. Return (H, W)."),
        "floats": (lambda masks: paint(masks).float(), "The map holds indices: integers."),
    },
    right={
        "NumPy": _paint_numpy,
        "loops": _paint_by_loops,
        "in place, smallest first": _paint_in_place,
        "argmin": _by_argmin,
    },
    probes=_masks,
    verify=typed(paint, _masks, "iu", "The map holds indices: integers."),
    hint="Write the masks into a map of −1, the largest first, so that smaller ones lie on top; mind equal areas.",
    sketch="""
        areas = masks.flatten(1).sum(1)
        out = torch.full(masks.shape[1:], ...)
        for i in sorted(range(len(masks)), key=lambda i: (..., ...), reverse=True):
            out[masks[i]] = i
        return out
    """,
)
