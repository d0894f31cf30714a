"""The exercises of chapter 4, "U-Net"."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.book.exercise import Exercise
from seglib.book.exercises import ch04_network, ch04_windows
from seglib.book.exercises.verify import all_of, keeps_float64, trains_all
from seglib.ops.borders import border_weights

# Sizes without padding ------------------------------------------------------------------------------------------------

SIZES = Exercise(
    solution=(204, 116),
    wrong={
        "multiple_of_8": (
            (200, 112),
            "200 can be halved three times, but the convolutions come first: 200 − 4 = 196, 98 − 4 = 94, 47 − 4 = 43, "
            "and 43 cannot be halved.",
        ),
        "first_pooling_only": (
            (202, 114),
            "202 passes the first pooling (198 is even), not the second: 99 − 4 is odd.",
        ),
        "same_padding": (
            (204, 204),
            "The input is right. Nothing is padded here, so the output is smaller than the input.",
        ),
        "four_poolings": (
            (204, 20),
            "The input is right. 184 pixels are lost with four poolings; here there are three.",
        ),
        "two_poolings": (
            (204, 164),
            "The input is right. 40 pixels are lost with two poolings; here there are three.",
        ),
        "unscaled": (
            (204, 176),
            "The input is right. You take 4 pixels for each of the seven double convolutions. Below a pooling a pixel "
            "is worth two above it, so 4 lost there are 8 above.",
        ),
        "down_only": (
            (204, 144),
            "The input is right. You count what is lost on the way down and at the bottom; the convolutions on the way "
            "up lose as much again.",
        ),
        "one_side": (
            (204, 160),
            "The input is right. You subtract what is lost on one side; it is lost on both.",
        ),
        "no_bottom": (
            (204, 148),
            "The input is right. The two convolutions at the bottom are missing: their 4 pixels are 32 of the input.",
        ),
        "below_200": (
            (196, 108),
            "196 works, but it is below 200: at least 200 pixels are asked for.",
        ),
        "next_but_one": (
            (212, 124),
            "212 works, but it is not the smallest: the sizes that work lie 8 apart.",
        ),
        "answer_of_200": (
            (292, 204),
            "That is the smallest input whose *answer* has at least 200 pixels. The input is to have them.",
        ),
        "swapped": ((116, 204), "The two numbers are swapped: first the input, then the answer."),
        "sixteens": (
            (220, 132),
            "That works, but a smaller input does too: with three poolings the sizes lie 8 apart, not 16.",
        ),
    },
    right={
        "list": [204, 116],
        "floats": (204.0, 116.0),
        "tensor": torch.tensor([204, 116]),
        "array": np.array([204, 116]),
    },
    hint="Minus 4 and half, three times, minus 4; then double and minus 4, three times. Every half must be whole.",
    sketch="From below: the lowest map has b cells before its convolutions; one level up it had 2 · b + …; three "
    "levels up that is the input. What is lost grows by … and a factor of … with every level.",
)


# Crop and concatenate -------------------------------------------------------------------------------------------------


def crop_and_concatenate(skip: Tensor, x: Tensor) -> Tensor:
    """The middle of ``skip (B, C, H, W)``, then ``x (B, C', h, w)``, channels after channels."""
    top, left = (skip.shape[-2] - x.shape[-2]) // 2, (skip.shape[-1] - x.shape[-1]) // 2
    return torch.cat([skip[..., top : top + x.shape[-2], left : left + x.shape[-1]], x], 1)


def _corner(skip: Tensor, x: Tensor) -> Tensor:
    return skip[..., : x.shape[-2], : x.shape[-1]]


def _padded(skip: Tensor, x: Tensor) -> Tensor:
    tall, wide = skip.shape[-2] - x.shape[-2], skip.shape[-1] - x.shape[-1]
    return torch.cat([skip, F.pad(x, (wide // 2, wide - wide // 2, tall // 2, tall - tall // 2))], 1)


def _by_rows(skip: Tensor, x: Tensor) -> Tensor:
    """Cuts a square, as wide as x is high."""
    side = x.shape[-2]
    top, left = (skip.shape[-2] - side) // 2, (skip.shape[-1] - side) // 2
    return torch.cat([skip[..., top : top + side, left : left + side], x], 1)


def _one_offset(skip: Tensor, x: Tensor) -> Tensor:
    """Takes the rows' offset for the columns too."""
    top = (skip.shape[-2] - x.shape[-2]) // 2
    return torch.cat([skip[..., top : top + x.shape[-2], top : top + x.shape[-1]], x], 1)


def _minus_slices(skip: Tensor, x: Tensor) -> Tensor:
    top, left = (skip.shape[-2] - x.shape[-2]) // 2, (skip.shape[-1] - x.shape[-1]) // 2
    return torch.cat([skip[..., top:-top, left:-left], x], 1)  # empty where nothing is to be cut


def _full_difference(skip: Tensor, x: Tensor) -> Tensor:
    return torch.cat([skip[..., -x.shape[-2] :, -x.shape[-1] :], x], 1)


def _interleaved(skip: Tensor, x: Tensor) -> Tensor:
    cut = crop_and_concatenate(skip, x)[:, : x.shape[1]]
    return torch.stack([cut, x], 2).flatten(1, 2)


def _join_in_numpy(skip: Tensor, x: Tensor) -> np.ndarray:
    dy, dx = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
    cut = skip.numpy()[:, :, dy // 2 : skip.shape[2] - dy // 2, dx // 2 : skip.shape[3] - dx // 2]
    return np.concatenate([cut, x.numpy()], axis=1)


def _join_by_padding(skip: Tensor, x: Tensor) -> Tensor:
    dy, dx = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
    return torch.cat([F.pad(skip, (-(dx // 2), -(dx // 2), -(dy // 2), -(dy // 2))), x], dim=-3)


def _join_row_by_row(skip: Tensor, x: Tensor) -> Tensor:
    """Fills a new map cell by cell, in float64."""
    b, c, h, w = x.shape
    top, left = (skip.shape[2] - h) // 2, (skip.shape[3] - w) // 2
    out = torch.zeros(b, 2 * c, h, w, dtype=torch.float64)
    for i in range(h):
        for j in range(w):
            out[:, :c, i, j] = skip[:, :, top + i, left + j]
            out[:, c:, i, j] = x[:, :, i, j]
    return out


def _maps() -> Mapping[str, tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(4)
    return {
        "maps of 8 × 8 and 4 × 4": (torch.rand(1, 2, 8, 8, generator=g), torch.rand(1, 2, 4, 4, generator=g)),
        "maps of 10 × 16 and 8 × 8": (torch.rand(2, 3, 10, 16, generator=g), torch.rand(2, 3, 8, 8, generator=g)),
        "maps of 9 × 14 and 5 × 6": (torch.rand(1, 2, 9, 14, generator=g), torch.rand(1, 2, 5, 6, generator=g)),
        "maps of 12 × 7 and 8 × 5": (torch.rand(2, 1, 12, 7, generator=g), torch.rand(2, 1, 8, 5, generator=g)),
        "maps of equal size": (torch.rand(1, 1, 6, 6, generator=g), torch.rand(1, 1, 6, 6, generator=g)),
    }


def _exact_maps() -> tuple[Tensor, ...]:
    """Maps in float64 whose numbers float32 cannot hold."""
    return tuple(maps.double() / 3 for maps in next(iter(_maps().values())))


_UNTRAINED = "The numbers are right, but no full gradient reaches {}. Train with it and nothing is learnt there."

_DIGITS = (
    "In float32 it is right, but with maps in float64 your code raises or loses digits. Take the type of the maps; "
    "section 4 compares in float64."
)

CROP = Exercise(
    solution=crop_and_concatenate,
    verify=all_of(
        trains_all(crop_and_concatenate, _maps, [_UNTRAINED.format("the skip"), _UNTRAINED.format("`x`")]),
        keeps_float64(crop_and_concatenate, _maps, _DIGITS, _exact_maps),
    ),
    wrong={
        "float32": (lambda skip, x: crop_and_concatenate(skip.float(), x.float()), _DIGITS),
        "detached": (lambda skip, x: crop_and_concatenate(skip.detach(), x), _UNTRAINED.format("the skip")),
        "corner": (
            lambda skip, x: torch.cat([_corner(skip, x), x], 1),
            "You cut out the top left corner. The map from below lost as much on every side: its place is the middle.",
        ),
        "resized": (
            lambda skip, x: torch.cat([F.interpolate(skip, x.shape[-2:], mode="bilinear"), x], 1),
            "You shrink the wide map. Its pixels are as large as those of the other: cut, do not resize.",
        ),
        "padded": (
            _padded,
            "You pad the small map to the wide one. The paper cuts the wide one, so that no answer rests on zeros.",
        ),
        "added": (
            lambda skip, x: crop_and_concatenate(skip, x)[:, : x.shape[1]] + x,
            "You add the maps, as FCN does with scores. Here both are kept: 2C channels.",
        ),
        "other_order": (
            lambda skip, x: crop_and_concatenate(skip, x).roll(x.shape[1], 1),
            "The map from below stands first. Either order works in a network that is trained so, but weights fit one "
            "only; here the skip comes first.",
        ),
        "other_corner": (
            _full_difference,
            "You cut out the bottom right corner. Half of what is too much is cut off on every side.",
        ),
        "square": (
            _by_rows,
            "You cut a square. The map from below need not be square: take its height for the rows and its width for "
            "the columns.",
        ),
        "one_offset": (
            _one_offset,
            "You use the rows' offset for the columns. They differ where the maps are not square.",
        ),
        "minus_slices": (
            _minus_slices,
            "Where nothing is to be cut your slice is [0 : −0], which is empty. Let it end at its start plus the "
            "height or width.",
        ),
        "interleaved": (
            _interleaved,
            "You mix the channels: first, first, second, second. All channels of the skip come first, then all of x.",
        ),
        "skip_alone": (
            lambda skip, x: crop_and_concatenate(skip, x)[:, : x.shape[1]],
            "You return the crop alone. The map from below belongs behind it.",
        ),
        "batch": (
            lambda skip, x: torch.cat([crop_and_concatenate(skip, x)[:, : x.shape[1]], x], 0),
            "You stack along the batch. Channels are dimension 1.",
        ),
    },
    right={
        "numpy": _join_in_numpy,
        "negative padding": _join_by_padding,
        "cell by cell, in float64": _join_row_by_row,
    },
    probes=_maps,
    sketch="top = half of what the skip is too high, left = half of what it is too wide; "
    "torch.cat([skip[…, top : top + …, left : left + …], x], …).",
    hint="(H − h) / 2 rows are cut off above and below, (W − w) / 2 columns at the left and right.",
)


# The weight map -------------------------------------------------------------------------------------------------------


def _distances(masks: Tensor, p: float = 2.0) -> Tensor:
    """From every pixel to every mask, ``(N, H, W)``, in the p-norm."""
    height, width = masks.shape[1:]
    grid = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), -1)
    places = grid.view(-1, 2).double()
    return torch.stack([torch.cdist(places, m.nonzero().double(), p=p).amin(1).view(height, width) for m in masks])


def _weigh(
    masks: Tensor,
    w0: float,
    sigma: float,
    total: Callable[[Tensor], Tensor],
    *,
    p: float = 2.0,
    factor: float = 2.0,
    everywhere: bool = False,
) -> Tensor:
    """w₀ exp(−total(sorted distances)² / factor · σ²) on the background."""
    if len(masks) < 2:
        return torch.zeros(masks.shape[1:])
    d = _distances(masks, p).sort(0).values  # (N, H, W), nearest first
    weights = w0 * torch.exp(-(total(d) ** 2) / (factor * sigma**2))
    return (weights if everywhere else weights * (d[0] > 0)).float()


def _of_one_too(masks: Tensor, w0: float, sigma: float) -> Tensor:
    """Takes 0 for the distance to a second cell that isn't there."""
    if len(masks) == 0:
        return torch.zeros(masks.shape[1:])
    if len(masks) == 1:
        d = _distances(masks)[0]
        return (w0 * torch.exp(-(d**2) / (2 * sigma**2)) * (d > 0)).float()
    return border_weights(masks, w0=w0, sigma=sigma)


def _needs_two(masks: Tensor, w0: float, sigma: float) -> Tensor:
    d = _distances(masks).sort(0).values  # stack of nothing raises, and so does d[1] of one
    return (w0 * torch.exp(-((d[0] + d[1]) ** 2) / (2 * sigma**2)) * (d[0] > 0)).float()


def _needs_one(masks: Tensor, w0: float, sigma: float) -> Tensor:
    return torch.zeros(masks.shape[1:]) if len(masks) == 1 else _needs_two(masks, w0, sigma)


def _inside_out(masks: Tensor, w0: float, sigma: float) -> Tensor:
    """The distance transform of the masks themselves: how deep inside a cell a pixel lies."""
    if len(masks) < 2:
        return torch.zeros(masks.shape[1:])
    d = torch.stack([_distances(~m[None])[0] * m for m in masks]).sort(0).values
    return (w0 * torch.exp(-((d[0] + d[1]) ** 2) / (2 * sigma**2)) * ~masks.any(0)).float()


def _by_transform(masks: Tensor, w0: float, sigma: float) -> np.ndarray:
    from scipy.ndimage import distance_transform_edt

    if len(masks) < 2:
        return np.zeros(masks.shape[1:])
    far = np.sort(np.stack([distance_transform_edt(~m) for m in masks.numpy()]), axis=0)
    weights = w0 * np.exp(-((far[0] + far[1]) ** 2) / (2 * sigma**2))
    weights[masks.any(0).numpy()] = 0
    return weights


def _keeping_two(masks: Tensor, w0: float, sigma: float) -> Tensor:
    """Keeps the two smallest distances while it goes through the cells, in float64, and empties the masks."""
    free = ~masks.any(0)
    first = torch.full(masks.shape[1:], math.inf, dtype=torch.float64)
    second = first.clone()
    for n in range(len(masks)):
        d = _distances(masks[n : n + 1])[0]
        second = torch.minimum(second, torch.maximum(first, d))
        first = torch.minimum(first, d)
        masks[n] = False
    return w0 * torch.exp(-((first + second) ** 2) / (2 * sigma**2)) * free


def _pixel_by_pixel(masks: Tensor, w0: float, sigma: float) -> list[list[float]]:
    cells = [m.nonzero().tolist() for m in masks]
    out = [[0.0] * masks.shape[2] for _ in range(masks.shape[1])]
    for row in range(masks.shape[1]):
        for column in range(masks.shape[2]):
            near = sorted(min(math.hypot(row - y, column - x) for y, x in cell) for cell in cells)
            if len(near) > 1 and near[0] > 0:
                out[row][column] = w0 * math.exp(-((near[0] + near[1]) ** 2) / (2 * sigma**2))
    return out


def _borders() -> Mapping[str, tuple[Tensor, float, float]]:
    masks = torch.zeros(3, 9, 12, dtype=torch.bool)
    masks[0, 1:5, 1:5], masks[1, 2:6, 6:9], masks[2, 7:, 2:11] = True, True, True
    touching = torch.zeros(2, 4, 7, dtype=torch.bool)
    touching[0, :3, :3], touching[1, :, 3:5] = True, True
    return {
        "two cells, w0 = 10, sigma = 5": (masks[:2], 10.0, 5.0),
        "three cells, w0 = 4, sigma = 2": (masks, 4.0, 2.0),
        "two cells that touch, w0 = 3, sigma = 1.5": (touching, 3.0, 1.5),
        "one cell": (masks[:1], 10.0, 5.0),
        "no cell": (masks[:0], 10.0, 5.0),
    }


WEIGHTS = Exercise(
    solution=lambda masks, w0, sigma: border_weights(masks, w0=w0, sigma=sigma),
    wrong={
        "nearest_only": (
            lambda m, w0, s: _weigh(m, w0, s, lambda d: d[0]),
            "You use the nearest cell alone, so every cell gets a bright rim. The weight is for the gap between *two* "
            "cells: d₁ + d₂.",
        ),
        "farthest": (
            lambda m, w0, s: _weigh(m, w0, s, lambda d: d[0] + d[-1]),
            "d₂ belongs to the second nearest cell, not to the farthest. With two cells these are the same.",
        ),
        "squares": (
            lambda m, w0, s: _weigh(m, w0, s, lambda d: (d[0] ** 2 + d[1] ** 2).sqrt()),
            "You add the squares of the distances. The formula squares their sum.",
        ),
        "all_cells": (
            lambda m, w0, s: _weigh(m, w0, s, lambda d: d.sum(0)),
            "You add the distances to all cells. Only the two smallest count.",
        ),
        "second_only": (
            lambda m, w0, s: _weigh(m, w0, s, lambda d: 2 * d[1]),
            "You use the second nearest cell alone. The weight falls with d₁ + d₂.",
        ),
        "not_squared": (
            lambda m, w0, s: _weigh(m, w0, s, lambda d: (d[0] + d[1]).sqrt()),
            "The sum of the distances is squared in the formula: (d₁ + d₂)².",
        ),
        "sigma_not_squared": (
            lambda m, w0, s: _weigh(m, w0, s**0.5, lambda d: d[0] + d[1]),
            "σ is squared in the formula: 2σ².",
        ),
        "from_edges": (
            lambda m, w0, s: _weigh(m, w0, s, lambda d: d[0] + d[1] - 1),
            "You measure to the edge of a cell's pixel, half a pixel less. `distance_transform_edt` and the chapter "
            "measure from pixel centre to pixel centre.",
        ),
        "inside_out": (
            _inside_out,
            "Your distances are 0 outside of the cells: the transform measures from non-zero pixels to zeros, so give "
            "it the mask's opposite.",
        ),
        "one_cell_too": (
            _of_one_too,
            "A single cell has no second one to be separated from: all weights are 0.",
        ),
        "needs_two": (
            _needs_two,
            "With fewer than two cells all weights are 0: handle that case first.",
        ),
        "needs_one": (
            _needs_one,
            "Without any cell, too, all weights are 0.",
        ),
        "no_two": (
            lambda m, w0, s: _weigh(m, w0, s, lambda d: d[0] + d[1], factor=1.0),
            "The 2 in 2σ² is missing.",
        ),
        "product": (
            lambda m, w0, s: _weigh(m, w0, s, lambda d: d[0] * d[1]),
            "You multiply the distances. They are added, then squared.",
        ),
        "chessboard": (
            lambda m, w0, s: _weigh(m, w0, s, lambda d: d[0] + d[1], p=float("inf")),
            "Your distances are those of a king on a chessboard. Take Euclidean ones: √(Δx² + Δy²).",
        ),
        "taxi": (
            lambda m, w0, s: _weigh(m, w0, s, lambda d: d[0] + d[1], p=1.0),
            "Your distances go along rows and columns. Take Euclidean ones: √(Δx² + Δy²).",
        ),
        "inside": (
            lambda m, w0, s: _weigh(m, w0, s, lambda d: d[0] + d[1], everywhere=True),
            "Pixels of a cell get a weight too: there d₁ is 0. The extra weight is for the background alone.",
        ),
        "no_w0": (
            lambda m, w0, s: _weigh(m, 1.0, s, lambda d: d[0] + d[1]),
            "The factor w₀ is missing.",
        ),
        "plus_one": (
            lambda m, w0, s: 1 + border_weights(m, w0=w0, sigma=s),
            "You added the class weight (1) already. Return the border term alone.",
        ),
    },
    right={
        "scipy and numpy": _by_transform,
        "keeping two distances, emptying the masks": _keeping_two,
        "pixel by pixel, as lists": _pixel_by_pixel,
    },
    probes=_borders,
    hint="Sort the distances to all cells; the two smallest count. With fewer than two cells all weights are 0.",
    sketch="fewer than two cells: zeros. Else one map of distances per cell, (N, H, W); sort over the cells; d1, d2 = "
    "the first two; w0 · exp(…); 0 where d1 is ….",
)


EXERCISES = {
    **ch04_network.EXERCISES,
    "ch04.sizes": SIZES,
    "ch04.crop": CROP,
    "ch04.border_weights": WEIGHTS,
    "ch04.tiles": ch04_windows.TILES,
}
