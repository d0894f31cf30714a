"""The exercises of chapter 1, "One scene, four answers"."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from seglib.book.exercise import Exercise, difference, expect, own


def typed(
    solution: Callable[..., Any], probes: Callable[[], Mapping[str, tuple[Any, ...]]], good: str, hint: str
) -> Callable[[Callable[..., Any]], None]:
    """A ``verify`` for texts that name a dtype: rejects right values in a tensor or array of another type.

    Lists carry no dtype, so they pass.

    Args:
        solution: the exercise's solution.
        probes: the exercise's probes.
        good: NumPy's letters of the types that pass: ``b`` bool, ``i`` and ``u`` ints, ``f`` floats.
        hint: what to say about other types.
    """

    def verify(attempt: Callable[..., Any]) -> None:
        got = [attempt(*map(own, arguments)) for arguments in probes().values()]
        want = [solution(*map(own, arguments)) for arguments in probes().values()]
        if difference(got, want) is None:
            expect(all(np.asarray(g).dtype.kind in good for g in got if isinstance(g, Tensor | np.ndarray)), hint)

    return verify


# Which task? ----------------------------------------------------------------------------------------------------------

_TASKS = ("instance", "semantic", "panoptic", "volume")
_TASK_HINTS = (
    "Question 1 counts cells and sizes each one: you need every object apart, and nothing about the background.",
    "Question 2 asks for a share of the area. Forest is stuff: nothing is counted, so a class per pixel settles it.",
    "Question 3 wants both at once: every pixel explained (stuff too) and each person apart.",
    "Question 4 asks for millilitres: a single slice has an area, only a stack with its spacing has a volume.",
)


_NOT_SMALLEST = "A panoptic map settles it, but there is a smaller answer: "
_MORE_THAN_NEEDED = (
    f"{_NOT_SMALLEST}nobody asks what the background of the cells is, so the objects alone are enough.",
    f"{_NOT_SMALLEST}a share of the area needs no objects, so a class per pixel is enough.",
)


def _four_known_names(attempt: object) -> None:
    expect(isinstance(attempt, tuple | list) and len(attempt) == 4, "Four names are wanted, one for each question.")
    assert isinstance(attempt, tuple | list)
    for given in attempt:
        known = isinstance(given, str) and given.strip().casefold() in _TASKS
        expect(known, f"{given!r} is none of {', '.join(_TASKS)}.")


WHICH_TASK = Exercise(
    solution=_TASKS,
    verify=_four_known_names,
    wrong={
        "counting_by_class": (("semantic", "semantic", "panoptic", "volume"), _TASK_HINTS[0]),
        "more_than_the_cells": (("panoptic", "semantic", "panoptic", "volume"), _MORE_THAN_NEEDED[0]),
        "stuff_as_objects": (("instance", "instance", "panoptic", "volume"), _TASK_HINTS[1]),
        "more_than_the_forest": (("instance", "panoptic", "panoptic", "volume"), _MORE_THAN_NEEDED[1]),
        "robot_without_stuff": (("instance", "semantic", "instance", "volume"), _TASK_HINTS[2]),
        "robot_without_persons": (
            ("instance", "semantic", "semantic", "volume"),
            "In question 3 a class per pixel explains every pixel, but it merges persons who touch into one region.",
        ),
        "one_slice": (("instance", "semantic", "panoptic", "semantic"), _TASK_HINTS[3]),
        "three_names": (("instance", "semantic", "panoptic"), "Four names are wanted, one for each question."),
        "another_name": (
            ("instance", "semantic", "panoptic", "3D"),
            "'3D' is none of instance, semantic, panoptic, volume.",
        ),
    },
    right={
        "a list": list(_TASKS),
        "capital letters": ("Instance", "Semantic", "Panoptic", "Volume"),
        "with spaces": tuple(f" {task} " for task in _TASKS),
    },
    hint="Ask each question for objects one by one, for stuff, and for a size in space.",
    sketch="""
    For each question: does it ask for objects one by one?  for stuff?  for a size in space?
    only objects → ...    only areas of classes → ...    both → ...    millilitres → ...
    """,
)


# Run lengths ----------------------------------------------------------------------------------------------------------


def decode_rle(counts: list[int], height: int, width: int) -> Tensor:
    """COCO's run lengths → a bool mask ``(H, W)``."""
    return _runs(counts, first=0).reshape(width, height).T.bool()


def _runs(counts: Sequence[int], first: int) -> Tensor:
    values = (torch.arange(len(counts)) + first) % 2
    return values.repeat_interleave(torch.tensor(counts, dtype=torch.int64))


def _columns(flat: Tensor, height: int, width: int) -> Tensor:
    """A line of ``H · W`` values, or fewer, walked down the columns → ``(H, W)`` bool."""
    full = torch.zeros(height * width)
    full[: len(flat)] = flat[: height * width].float()
    return full.reshape(width, height).T.bool()


def _lengths() -> Mapping[str, tuple[list[int], int, int]]:
    return {
        "counts [5, 2, 2, 2, 13] on 4 × 6": ([5, 2, 2, 2, 13], 4, 6),
        "counts [0, 3, 4, 2] on 3 × 3": ([0, 3, 4, 2], 3, 3),
        "counts [3, 1, 4, 2] on 2 × 5": ([3, 1, 4, 2], 2, 5),
        "an empty mask of 2 × 3": ([6], 2, 3),
        "a full mask of 3 × 2": ([0, 6], 3, 2),
    }


def _decode_by_loop(counts: list[int], height: int, width: int) -> np.ndarray:
    mask, at = np.zeros((height, width), dtype=bool), 0
    for i, run in enumerate(counts):
        for k in range(at, at + run):
            mask[k % height, k // height] = i % 2 == 1
        at += run
    return mask


def _decode_by_popping(counts: list[int], height: int, width: int) -> list[list[bool]]:
    flat: list[bool] = []
    value = False
    while counts:
        flat += [value] * counts.pop(0)
        value = not value
    return [[flat[x * height + y] for x in range(width)] for y in range(height)]


def _decode_with_numpy(counts: list[int], height: int, width: int) -> np.ndarray:
    ends = np.cumsum(counts)
    return (np.searchsorted(ends, np.arange(height * width), side="right") % 2 == 1).reshape(height, width, order="F")


_BOOL = "The pixels are right, but the mask holds numbers: a bool mask is wanted, so that ~mask and image[mask] work."

DECODE_RLE = Exercise(
    solution=decode_rle,
    probes=_lengths,
    verify=typed(decode_rle, _lengths, "b", _BOOL),
    wrong={
        "rows_first": (
            lambda counts, height, width: _runs(counts, 0).reshape(height, width).bool(),
            "You walk along the rows. COCO walks down the columns: fill a (width, height) array and transpose it.",
        ),
        "ones_first": (
            lambda counts, height, width: _runs(counts, 1).reshape(width, height).T.bool(),
            "Your mask is inverted: the first run counts zeros, even when it is 0 long.",
        ),
        "zero_run_dropped": (
            lambda counts, height, width: decode_rle([c for c in counts if c], height, width),
            "When the first run is 0 long your mask is inverted. A run of length 0 still switches between 0 and 1.",
        ),
        "not_transposed": (
            lambda counts, height, width: _runs(counts, 0).reshape(width, height).bool(),
            "You filled the columns but returned them as rows: the mask is (width, height). Transpose it.",
        ),
        "swapped_sizes": (
            lambda counts, height, width: _runs(counts, 0).reshape(height, width).T.bool(),
            "You walk along rows and transpose afterwards: the array to fill is (width, height), not (height, width).",
        ),
        "flat": (
            lambda counts, height, width: _runs(counts, 0).bool(),
            "The values are right, but the mask is still flat: give it its height and width.",
        ),
        "last_run": (
            lambda counts, height, width: _columns(_runs(counts[:-1], 0), height, width),
            "The last run is missing: it may count ones.",
        ),
        "one_too_early": (
            lambda counts, height, width: _columns(_runs(counts, 0)[1:], height, width),
            "Everything is one pixel too early.",
        ),
        "one_too_late": (
            lambda counts, height, width: _columns(torch.cat([torch.zeros(1), _runs(counts, 0)]), height, width),
            "Everything is one pixel too late.",
        ),
        "positions": (
            lambda counts, height, width: _columns(
                torch.isin(torch.arange(height * width), torch.tensor(counts)), height, width
            ),
            "You read the counts as positions. Each count says how many pixels in a row have one value.",
        ),
        "numbers": (lambda counts, height, width: decode_rle(counts, height, width).int(), _BOOL),
    },
    right={
        "a loop over pixels": _decode_by_loop,
        "a list, emptying the counts": _decode_by_popping,
        "NumPy's searchsorted": _decode_with_numpy,
    },
    hint="Repeat 0, 1, 0, 1, … as often as the counts say, then put the line into columns.",
    sketch="""
    values = ...                      # 0, 1, 0, 1, …, one for each run
    line = ...                        # each value as often as its count says: (H · W,)
    return line.reshape(...)...       # which axis is filled first?
    """,
)


# Ids as colours -------------------------------------------------------------------------------------------------------


def rgb_to_ids(rgb: Tensor) -> Tensor:
    """Colours ``(H, W, 3)`` uint8 → ``R + 256 G + 256² B``, ``(H, W)``."""
    r, g, b = rgb.long().unbind(-1)
    return r + 256 * g + 256**2 * b


def _colours() -> Mapping[str, tuple[Tensor]]:
    g = torch.Generator().manual_seed(0)
    return {
        "the colour (7, 0, 0)": (torch.tensor([[[7, 0, 0]]], dtype=torch.uint8),),
        "the colours (1, 2, 3) and (255, 255, 255)": (torch.tensor([[[1, 2, 3], [255, 255, 255]]], dtype=torch.uint8),),
        "the colour (0, 200, 0)": (torch.tensor([[[0, 200, 0]]], dtype=torch.uint8),),
        "the colour (0, 0, 1)": (torch.tensor([[[0, 0, 1]]], dtype=torch.uint8),),
        "random colours, 3 × 4": (torch.randint(0, 256, (3, 4, 3), dtype=torch.uint8, generator=g),),
    }


def _digits(rgb: Tensor, r: int, g: int, b: int) -> Tensor:
    return (rgb.long() * torch.tensor([r, g, b])).sum(-1)


def _overflowing(rgb: Tensor) -> Tensor:
    r, g, b = rgb.unbind(-1)
    return r + g * 256 + b * 256**2  # stays uint8, so both products are 0


def _ids_by_loop(rgb: Tensor) -> list[list[int]]:
    return [[r + 256 * g + 65536 * b for r, g, b in row] for row in rgb.tolist()]


def _ids_in_place(rgb: Tensor) -> Tensor:
    out = rgb[..., 2].double()
    rgb[..., 2] = 0
    return out.mul_(256).add_(rgb[..., 1]).mul_(256).add_(rgb[..., 0])


def _ids_by_shifts(rgb: Tensor) -> np.ndarray:
    r, g, b = np.moveaxis(rgb.numpy().astype(np.uint32), -1, 0)
    return r | g << 8 | b << 16


RGB_TO_IDS = Exercise(
    solution=rgb_to_ids,
    probes=_colours,
    wrong={
        "overflow": (
            _overflowing,
            "Only R reaches your ids, so none is above 255. Either G and B are missing, or you calculate in uint8, "
            "where 256 · G is 0: convert to int first.",
        ),
        "int16": (
            lambda rgb: (rgb.short() * torch.tensor([1, 256, 0], dtype=torch.int16)).sum(-1, dtype=torch.int16),
            "16 bits with a sign end at 32,767, and ids need 24 bits: convert to int32 or int64.",
        ),
        "uint16": (
            lambda rgb: rgb_to_ids(rgb) % 2**16,
            "B never reaches your ids: it is missing, or 16 bits are too few. Ids need 24 bits: calculate in int32.",
        ),
        "no_green": (
            lambda rgb: _digits(rgb, 1, 0, 256**2),
            "G never reaches your ids: missing, or converted after the multiplication. It counts 256s.",
        ),
        "bgr": (
            lambda rgb: rgb_to_ids(rgb.flip(-1)),
            "You read the channels as blue, green, red. R is the lowest digit and comes first.",
        ),
        "green_and_blue": (
            lambda rgb: _digits(rgb, 1, 256**2, 256),
            "G and B have changed places: G counts 256s, B counts 256²s.",
        ),
        "one_power": (
            lambda rgb: _digits(rgb, 1, 256, 256),
            "B counts 256²s, not 256s: each digit is worth 256 times the one before.",
        ),
        "base_255": (
            lambda rgb: _digits(rgb, 1, 255, 255**2),
            "The digits have 256 values, 0 to 255, so the base is 256, not 255.",
        ),
        "thousands": (
            lambda rgb: _digits(rgb, 1, 1000, 1000**2),
            "You put decimal digits side by side. The base is 256.",
        ),
        "added_up": (
            lambda rgb: rgb.long().sum(-1),
            "You add the channels. They are digits: G is worth 256 and B 256².",
        ),
        "half": (
            lambda rgb: rgb.half() @ torch.tensor([1.0, 256.0, 65504.0], dtype=torch.half),
            "Half precision has 11 bits and ends at 65,504: ids need 24 bits. Use ints.",
        ),
        "channels_first": (
            lambda rgb: _digits(rgb.reshape(3, *rgb.shape[:2]).movedim(0, -1), 1, 256, 256**2),
            "You read the colours as (3, H, W). They lie in the last axis: (H, W, 3).",
        ),
        "transposed": (lambda rgb: rgb_to_ids(rgb).T, "Rows and columns are swapped: the ids are (H, W)."),
    },
    right={
        "a loop with lists": _ids_by_loop,
        "in place, in float64": _ids_in_place,
        "NumPy's shifts": _ids_by_shifts,
    },
    hint="id = R + 256 G + 256² B.",
    sketch="""
    r, g, b = ...        # (H, W) each, in a type that holds 16,777,215
    return r + ... * g + ... * b
    """,
)


# Who wins? ------------------------------------------------------------------------------------------------------------


def winner(masks: Tensor, scores: Tensor) -> Tensor:
    """The number (from 1) of the best mask over each pixel, 0 where there is none, ``(H, W)``."""
    return _paint(masks, scores.argsort().tolist())


def _paint(masks: Tensor, order: Sequence[int], offset: int = 1) -> Tensor:
    out = torch.zeros(masks.shape[1:], dtype=torch.int64)
    for i in order:
        out[masks[i]] = i + offset
    return out


def _ranks(masks: Tensor, scores: Tensor) -> Tensor:
    out = torch.zeros(masks.shape[1:], dtype=torch.int64)
    for rank, i in reversed(list(enumerate(scores.argsort(descending=True).tolist()))):
        out[masks[i]] = rank + 1
    return out


def _no_zero(masks: Tensor, scores: Tensor) -> Tensor:
    return (masks * scores[:, None, None]).argmax(0) + 1


def _by_area(masks: Tensor, scores: Tensor) -> Tensor:
    return _paint(masks, masks.flatten(1).sum(1).argsort().tolist())


def _whole_masks_drop(masks: Tensor, scores: Tensor) -> Tensor:
    out = torch.zeros(masks.shape[1:], dtype=torch.int64)
    for i in scores.argsort(descending=True).tolist():
        if not out[masks[i]].any():
            out[masks[i]] = i + 1
    return out


def _best_score(masks: Tensor, scores: Tensor) -> Tensor:
    return (masks * scores[:, None, None]).amax(0)


def _overlaps() -> Mapping[str, tuple[Tensor, Tensor]]:
    masks = torch.zeros(4, 4, 6, dtype=torch.bool)
    masks[0, :3, :3] = masks[1, 1:4, 2:5] = masks[2, 2:, 1:3] = True
    masks[3, 1:, :4] = True  # the largest, over all others
    return {
        "three masks with scores 0.5, 0.9, 0.7": (masks[:3], torch.tensor([0.5, 0.9, 0.7])),
        "two masks with scores 0.8, 0.6": (masks[:2], torch.tensor([0.8, 0.6])),
        "four masks with scores 0.3, 0.2, 0.8, 0.1": (masks, torch.tensor([0.3, 0.2, 0.8, 0.1])),
        "four masks with scores 0.2, 0.6, 0.3, 0.9": (masks, torch.tensor([0.2, 0.6, 0.3, 0.9])),
        "one mask, score 0.4": (masks[1:2], torch.tensor([0.4])),
    }


def _winner_by_argmax(masks: Tensor, scores: Tensor) -> Tensor:
    best = torch.where(masks, scores.double()[:, None, None], -1.0).argmax(0)
    return torch.where(masks.any(0), best + 1, 0)


def _winner_by_loop(masks: Tensor, scores: Tensor) -> list[list[int]]:
    n, height, width = masks.shape
    return [
        [
            max((i for i in range(n) if masks[i, y, x]), key=lambda i: float(scores[i]), default=-1) + 1
            for x in range(width)
        ]
        for y in range(height)
    ]


def _winner_in_place(masks: Tensor, scores: Tensor) -> np.ndarray:
    out = np.zeros(masks.shape[1:], dtype=np.int64)
    for _ in range(len(masks)):
        i = int(scores.argmax())
        out[masks[i].numpy()] = i + 1
        masks &= ~masks[i].clone()  # what is taken is free for nobody else
        scores[i] = -1.0
    return out


_INTS = "The numbers are right, but your map holds floats or bools: numbers of masks are ints."

WINNER = Exercise(
    solution=winner,
    probes=_overlaps,
    verify=typed(winner, _overlaps, "iu", _INTS),
    wrong={
        "lowest_wins": (
            lambda masks, scores: _paint(masks, scores.argsort(descending=True).tolist()),
            "The lowest score wins in yours: you paint the best mask first and the others over it.",
        ),
        "last_wins": (
            lambda masks, scores: _paint(masks, range(len(masks))),
            "In yours the last mask wins, whatever its score. Sort by score first.",
        ),
        "first_wins": (
            lambda masks, scores: _paint(masks, range(len(masks) - 1, -1, -1)),
            "In yours the first mask wins, whatever its score. Sort by score first.",
        ),
        "largest_wins": (_by_area, "In yours the largest mask wins. The score decides, not the area."),
        "smallest_wins": (
            lambda masks, scores: _paint(masks, masks.flatten(1).sum(1).argsort(descending=True).tolist()),
            "In yours the mask with the fewest pixels wins. The score decides, not the area.",
        ),
        "ranks": (_ranks, "The right masks win, but you number them by rank. Keep the numbers they came in with."),
        "from_zero": (
            lambda masks, scores: _paint(masks, scores.argsort().tolist(), offset=0),
            "You number masks from 0, so the first one looks like empty background. Count from 1.",
        ),
        "no_ground": (_no_zero, "Pixels that no mask covers must be 0; argmax over zeros answers the first mask."),
        "minus_one": (
            lambda masks, scores: winner(masks, scores) - 1,
            "You number masks from 0 and the ground −1. Count from 1; the ground is 0.",
        ),
        "whole_masks": (
            _whole_masks_drop,
            "You drop a mask as soon as a better one covers a part of it. It keeps the pixels that are left.",
        ),
        "best_score": (_best_score, "That is the highest score over each pixel. Return the number of its mask."),
        "count": (
            lambda masks, scores: masks.long().sum(0),
            "That is how many masks cover each pixel. Return the number of the best one.",
        ),
        "floats": (lambda masks, scores: winner(masks, scores).double(), _INTS),
    },
    right={
        "argmax, in float64": _winner_by_argmax,
        "a loop with lists": _winner_by_loop,
        "in place, best mask first": _winner_in_place,
    },
    hint="Paint the masks in the order of their scores, the best one last.",
    sketch="""
    winner = ...                     # zeros, (H, W), ints
    for i in ...:                    # in which order?
        winner[masks[i]] = ...
    return winner
    """,
)


# Counting -------------------------------------------------------------------------------------------------------------


def count_shapes(mask: Tensor, min_size: int) -> int:
    """The number of 4-connected shapes with at least ``min_size`` pixels."""
    return int((_sizes(mask) >= min_size).sum())


def _sizes(mask: Tensor, structure: np.ndarray | None = None) -> np.ndarray:
    shapes, count = ndimage.label(mask.numpy(), structure=structure)
    return np.bincount(shapes.ravel(), minlength=count + 1)[1:]


def _counted(condition: Callable[[np.ndarray, int], np.ndarray]) -> Callable[[Tensor, int], int]:
    return lambda mask, min_size: int(condition(_sizes(mask), min_size).sum())


def _outside_too(mask: Tensor, min_size: int) -> int:
    shapes, _ = ndimage.label(mask.numpy())
    return int((np.bincount(shapes.ravel()) >= min_size).sum())


def _first_size_dropped(mask: Tensor, min_size: int) -> int:
    sizes = np.unique(ndimage.label(mask.numpy())[0], return_counts=True)[1][1:]
    return int((sizes >= min_size).sum())


def _boxes(mask: Tensor, min_size: int) -> int:
    found = ndimage.find_objects(ndimage.label(mask.numpy())[0])
    return sum((y.stop - y.start) * (x.stop - x.start) >= min_size for y, x in found)


def _filled(mask: Tensor, min_size: int) -> int:
    return count_shapes(torch.from_numpy(ndimage.binary_fill_holes(mask.numpy())), min_size)


def _one_pass(mask: Tensor, min_size: int) -> int:
    """Labels from the left and upper neighbour alone: two arms that meet further down stay two shapes."""
    labels, sizes = np.zeros(mask.shape, dtype=int), [0]
    for y, x in np.argwhere(mask.numpy()):
        label = (x and labels[y, x - 1]) or (y and labels[y - 1, x]) or len(sizes)
        if label == len(sizes):
            sizes.append(0)
        labels[y, x] = label
        sizes[label] += 1
    return sum(size >= min_size for size in sizes[1:])


def _around_the_border(mask: Tensor, min_size: int) -> int:
    """Labels that spread with ``torch.roll``, so that the left border touches the right one."""
    labels = torch.arange(1, mask.numel() + 1).reshape(mask.shape) * mask
    for _ in range(mask.numel()):
        for axis in (0, 1):
            for step in (1, -1):
                labels = torch.maximum(labels, labels.roll(step, axis)) * mask
    sizes = torch.bincount(labels.flatten(), minlength=1)[1:]
    return int(((sizes >= min_size) & (sizes > 0)).sum())


def _drawings() -> Mapping[str, tuple[Tensor, int]]:
    mask = torch.zeros(8, 10, dtype=torch.bool)
    mask[0:2, 0:2] = mask[2:5, 2:4] = True  # 4 and 6 pixels, corner to corner
    mask[0, 7] = mask[6:8, 0:2] = mask[6:8, 6:9] = True  # 1, 4 and 6 pixels
    rings = torch.zeros(7, 9, dtype=torch.bool)
    rings[1:6, 1:6] = True
    rings[2:5, 2:5] = False  # a ring of 16 pixels in a box of 25
    rings[2:6, 6:9:2] = rings[5, 6:9] = False
    cup = torch.zeros(6, 7, dtype=torch.bool)
    cup[0:5, 1] = cup[0:5, 5] = cup[4, 1:6] = True  # one shape of 13 pixels whose two arms meet below
    sides = torch.zeros(5, 6, dtype=torch.bool)
    sides[1:4, 0] = sides[1:4, 5] = sides[0, 2:4] = sides[4, 2:4] = True  # 3 + 3 and 2 + 2 pixels at the borders
    return {
        "shapes of 4, 6, 1, 4 and 6 pixels, min_size 1": (mask, 1),
        "shapes of 4, 6, 1, 4 and 6 pixels, min_size 4": (mask, 4),
        "shapes of 4, 6, 1, 4 and 6 pixels, min_size 7": (mask, 7),
        "a ring of 16 pixels, min_size 20": (rings, 20),
        "a shape of 13 pixels like a U, min_size 1": (cup, 1),
        "a shape of 13 pixels like a U, min_size 10": (cup, 10),
        "a shape of 13 pixels like a U, min_size 20": (cup, 20),
        "shapes of 3, 3, 2 and 2 pixels at the borders, min_size 1": (sides, 1),
        "a full mask of 3 × 4, min_size 12": (torch.ones(3, 4, dtype=torch.bool), 12),
        "an empty mask": (torch.zeros(3, 3, dtype=torch.bool), 1),
    }


def _count_by_filling(mask: Tensor, min_size: int) -> int:
    """A flood fill that empties the mask."""
    count = 0
    for y, x in mask.nonzero().tolist():
        stack, size = [(y, x)], 0
        while stack:
            y, x = stack.pop()
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x]:
                mask[y, x] = False
                size += 1
                stack += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
        count += size > 0 and size >= min_size
    return count


def _count_by_spreading(mask: Tensor, min_size: int) -> Tensor:
    """Every pixel takes the largest label among its neighbours, until nothing changes."""
    labels = torch.arange(1.0, mask.numel() + 1, dtype=torch.float64).reshape(mask.shape) * mask
    for _ in range(mask.numel()):
        padded = torch.nn.functional.pad(labels, [1] * 4)
        near = [padded[1:-1, 1:-1], padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
        labels = torch.stack(near).amax(0) * mask
    sizes = labels[mask].unique(return_counts=True)[1]
    return (sizes >= min_size).sum()


COUNT = Exercise(
    solution=count_shapes,
    probes=_drawings,
    wrong={
        "corners_touch": (
            lambda mask, min_size: int((_sizes(mask, np.ones((3, 3))) >= min_size).sum()),
            "Two shapes that touch only at a corner are one in yours; here neighbours share an edge.",
        ),
        "specks": (_counted(lambda sizes, _: sizes > 0), "You count every speck: `min_size` has no effect."),
        "larger_than": (
            _counted(lambda sizes, s: sizes > s),
            "A shape of exactly `min_size` pixels counts too: use ≥.",
        ),
        "at_most": (_counted(lambda sizes, s: sizes <= s), "You count the shapes that are too small: use ≥."),
        "outside": (
            lambda mask, min_size: count_shapes(mask, min_size) + 1,
            "One too many: the outside (label 0) is no shape.",
        ),
        "outside_when_large": (
            _outside_too,
            "Where the outside has at least `min_size` pixels you count it as a shape. Leave label 0 out.",
        ),
        "first_size_dropped": (
            _first_size_dropped,
            "You drop the first size as that of the outside, but a full mask has no outside. Drop the size of label 0.",
        ),
        "pixels": (_counted(lambda sizes, s: sizes * (sizes >= s)), "That is a number of pixels, not of shapes."),
        "boxes": (_boxes, "You measure the box around each shape. Count the pixels of the shape itself."),
        "holes": (_filled, "You count the pixels of holes too. A hole is no part of its shape."),
        "one_pass": (
            _one_pass,
            "A shape like a U is two in yours: two arms that meet further down are connected, so their labels must "
            "be joined.",
        ),
        "around_the_border": (
            _around_the_border,
            "Shapes at opposite borders are one in yours: torch.roll carries a label around the image.",
        ),
    },
    right={
        "a flood fill that empties the mask": _count_by_filling,
        "labels that spread, in float64": _count_by_spreading,
    },
    hint="Label the connected shapes, count the pixels of each, and keep those that are large enough.",
    sketch="""
    shapes, n = ndimage.label(...)   # (H, W): 0 outside, 1 … n
    sizes = ...                      # how many pixels each label has; which one is no shape?
    return ...                       # how many are large enough
    """,
)


EXERCISES = {
    "ch01.which_task": WHICH_TASK,
    "ch01.decode_rle": DECODE_RLE,
    "ch01.rgb_to_ids": RGB_TO_IDS,
    "ch01.winner": WINNER,
    "ch01.count": COUNT,
}
