"""The exercises of chapter 4, "U-Net"."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.book.exercise import Exercise
from seglib.ops.borders import border_weights

Predict = Callable[[Tensor], Tensor]


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
        "sixteens": (
            (220, 132),
            "That works, but a smaller input does too: with three poolings the sizes lie 8 apart, not 16.",
        ),
    },
    hint="Minus 4 and half, three times, minus 4; then double and minus 4, three times. Every half must be whole.",
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


def _maps() -> Mapping[str, tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(4)
    return {
        "maps of 8 × 8 and 4 × 4": (torch.rand(1, 2, 8, 8, generator=g), torch.rand(1, 2, 4, 4, generator=g)),
        "maps of 10 × 16 and 8 × 8": (torch.rand(2, 3, 10, 16, generator=g), torch.rand(2, 3, 8, 8, generator=g)),
        "maps of equal size": (torch.rand(1, 1, 6, 6, generator=g), torch.rand(1, 1, 6, 6, generator=g)),
    }


CROP = Exercise(
    solution=crop_and_concatenate,
    wrong={
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
        "batch": (
            lambda skip, x: torch.cat([crop_and_concatenate(skip, x)[:, : x.shape[1]], x], 0),
            "You stack along the batch. Channels are dimension 1.",
        ),
    },
    probes=_maps,
    hint="(H − h) / 2 rows are cut off above and below, (W − w) / 2 columns at the left and right.",
)


# A sum in disguise ----------------------------------------------------------------------------------------------------


def sum_weight(channels: int) -> Tensor:
    """Weights ``(C, 2C, 1, 1)`` with which a convolution of the concatenation ``[a, b]`` gives ``a + b``."""
    return torch.eye(channels).repeat(1, 2)[..., None, None]


SUM = Exercise(
    solution=sum_weight,
    wrong={
        "first_only": (
            lambda c: torch.cat([torch.eye(c), torch.zeros(c, c)], 1)[..., None, None],
            "That lets the first map through and drops the second.",
        ),
        "second_only": (
            lambda c: torch.cat([torch.zeros(c, c), torch.eye(c)], 1)[..., None, None],
            "That lets the second map through and drops the first.",
        ),
        "mean": (lambda c: sum_weight(c) / 2, "That gives the mean of the two maps, half of their sum."),
        "difference": (
            lambda c: torch.cat([torch.eye(c), -torch.eye(c)], 1)[..., None, None],
            "That gives a − b.",
        ),
        "ones": (
            lambda c: torch.ones(c, 2 * c, 1, 1),
            "Every output channel adds up all channels of both maps. Channel i wants channel i of each, and no other.",
        ),
        "interleaved": (
            lambda c: torch.eye(c).repeat_interleave(2, 1)[..., None, None],
            "You pair neighbouring channels. After the concatenation channel i of the second map is channel C + i.",
        ),
        "matrix": (
            lambda c: sum_weight(c)[..., 0, 0],
            "The numbers are right. A 1 × 1 convolution wants the shape (C, 2C, 1, 1).",
        ),
        "turned": (
            lambda c: sum_weight(c).transpose(0, 1),
            "A convolution's weight has the outputs first: (C, 2C, 1, 1), not (2C, C, 1, 1).",
        ),
    },
    probes=lambda: {f"C = {c}": (c,) for c in (2, 3, 5)},
    hint="Row i of the weight has a 1 for channel i of the first map and one for channel i of the second.",
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


def _borders() -> Mapping[str, tuple[Tensor, float, float]]:
    masks = torch.zeros(3, 9, 12, dtype=torch.bool)
    masks[0, 1:5, 1:5], masks[1, 2:6, 6:9], masks[2, 7:, 2:11] = True, True, True
    return {
        "two cells, w0 = 10, sigma = 5": (masks[:2], 10.0, 5.0),
        "three cells, w0 = 4, sigma = 2": (masks, 4.0, 2.0),
        "one cell": (masks[:1], 10.0, 5.0),
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
    probes=_borders,
    hint="Sort the distances to all cells; the two smallest count. With fewer than two cells all weights are 0.",
)


# Tiles of an image ----------------------------------------------------------------------------------------------------


def predict_in_tiles(predict: Predict, image: Tensor, tile: int, margin: int) -> Tensor:
    """Labels ``(H, W)`` of an image ``(3, H, W)``, tile by tile; each is seen with ``margin`` more pixels."""
    return _tiled(predict, image, tile, (margin, margin))


def _tiled(predict: Predict, image: Tensor, tile: int, margins: tuple[int, int], *, shift: bool = True) -> Tensor:
    height, width = image.shape[-2:]
    before, behind = margins
    out = torch.zeros(height, width, dtype=torch.long)
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            y, x = max(0, top - before), max(0, left - before)
            labels = predict(image[:, y : top + tile + behind, x : left + tile + behind])
            h, w = min(tile, height - top), min(tile, width - left)
            dy, dx = (top - y, left - x) if shift else (0, 0)
            out[top : top + h, left : left + w] = labels[dy : dy + h, dx : dx + w]
    return out


def _reflected(predict: Predict, image: Tensor, tile: int, margin: int) -> Tensor:
    rim = F.pad(image[None], (margin,) * 4, mode="reflect")[0] if margin else image
    height, width = image.shape[-2:]
    return predict_in_tiles(predict, rim, tile, margin)[margin : margin + height, margin : margin + width]


def _whole_windows(predict: Predict, image: Tensor, tile: int, margin: int) -> Tensor:
    height, width = image.shape[-2:]
    out = torch.zeros(height, width, dtype=torch.long)
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            y, x = max(0, top - margin), max(0, left - margin)
            window = image[:, y : top + tile + margin, x : left + tile + margin]
            out[y : y + window.shape[1], x : x + window.shape[2]] = predict(window)
    return out


def _without_rest(predict: Predict, image: Tensor, tile: int, margin: int) -> Tensor:
    out = predict_in_tiles(predict, image, tile, margin)
    out[image.shape[1] // tile * tile :] = 0
    out[:, image.shape[2] // tile * tile :] = 0
    return out


def _local(image: Tensor) -> Tensor:
    """A predictor that sees two pixels far: is a pixel brighter than the mean of the 5 × 5 around it?"""
    grey = image.mean(0)[None]
    around = F.avg_pool2d(grey[None], 5, 1, padding=2, count_include_pad=False)[0]
    return (grey > around)[0].long() + 2 * (around > 0.5)[0].long()


def _global(image: Tensor) -> Tensor:
    """A predictor that sees all of its input: is a pixel brighter than the mean?"""
    grey = image.mean(0)
    return (8 * (grey - grey.mean())).round().long()


def _tile_images() -> Mapping[str, tuple[Predict, Tensor, int, int]]:
    image = torch.rand(3, 19, 26, generator=torch.Generator().manual_seed(5))
    return {
        "tiles of 8 with a margin of 2": (_local, image, 8, 2),
        "tiles of 8 with a margin of 3, and a predictor that sees its whole input": (_global, image, 8, 3),
        "tiles of 6 without a margin": (_local, image, 6, 0),
        "a tile larger than the image": (_local, image, 32, 4),
    }


TILES = Exercise(
    solution=predict_in_tiles,
    wrong={
        "no_margin": (
            lambda predict, image, tile, margin: predict_in_tiles(predict, image, tile, 0),
            "The margin is missing: show the predictor that many pixels more on every side.",
        ),
        "behind_only": (
            lambda predict, image, tile, margin: _tiled(predict, image, tile, (0, margin)),
            "Your windows grow to the right and below only. The margin belongs on all four sides.",
        ),
        "before_only": (
            lambda predict, image, tile, margin: _tiled(predict, image, tile, (margin, 0)),
            "Your windows grow to the left and above only. The margin belongs on all four sides.",
        ),
        "corner_of_the_window": (
            lambda predict, image, tile, margin: _tiled(predict, image, tile, (margin, margin), shift=False),
            "You keep the window's top left corner. The tile begins `margin` pixels further in, and at the image's "
            "own border at 0.",
        ),
        "reflected": (
            _reflected,
            "You extend the image by reflect padding and cut the tiles out of that. Here a window ends where the image "
            "ends.",
        ),
        "whole_windows": (
            _whole_windows,
            "You keep the margins too, so the later tile overwrites its neighbour. Keep the tile alone.",
        ),
        "rest_missing": (
            _without_rest,
            "The last rows and columns are missing: where the size is no multiple of `tile`, the last tiles are small.",
        ),
        "half_margin": (
            lambda predict, image, tile, margin: predict_in_tiles(predict, image, tile, margin // 2),
            "Your windows are `margin` pixels larger in all. It should be that many on every side.",
        ),
    },
    probes=_tile_images,
    hint="A window begins at max(0, top − margin); from its answer cut the tile out again, at top − that.",
)


EXERCISES = {
    "ch04.sizes": SIZES,
    "ch04.crop": CROP,
    "ch04.sum": SUM,
    "ch04.border_weights": WEIGHTS,
    "ch04.tiles": TILES,
}
