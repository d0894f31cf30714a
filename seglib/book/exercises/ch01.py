"""The exercises of chapter 1, "One scene, four answers"."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from seglib.book.exercise import Exercise, expect

# Which task? ----------------------------------------------------------------------------------------------------------

_TASKS = ("instance", "semantic", "panoptic", "volume")
_TASK_HINTS = (
    "Question 1 counts cells and sizes each one: you need every object apart, and nothing about the background.",
    "Question 2 asks for a share of the area. Forest is stuff: nothing is counted, so a class per pixel settles it.",
    "Question 3 wants both at once: every pixel explained (stuff too) and each person apart.",
    "Question 4 asks for millilitres: a single slice has an area, only a stack with its spacing has a volume.",
)


def _each_task(attempt: object) -> None:
    expect(isinstance(attempt, tuple | list) and len(attempt) == 4, "Four names are wanted, one for each question.")
    assert isinstance(attempt, tuple | list)
    for given, right, hint in zip(attempt, _TASKS, _TASK_HINTS, strict=True):
        known = isinstance(given, str) and given.strip().casefold() in _TASKS
        expect(known, f"{given!r} is none of {', '.join(_TASKS)}.")
        expect(str(given).strip().casefold() == right, hint)


WHICH_TASK = Exercise(
    solution=_TASKS,
    wrong={
        "counting_by_class": (("semantic", "semantic", "panoptic", "volume"), _TASK_HINTS[0]),
        "stuff_as_objects": (("instance", "instance", "panoptic", "volume"), _TASK_HINTS[1]),
        "robot_without_stuff": (("instance", "semantic", "instance", "volume"), _TASK_HINTS[2]),
        "one_slice": (("instance", "semantic", "panoptic", "semantic"), _TASK_HINTS[3]),
    },
    verify=_each_task,
)


# Run lengths ----------------------------------------------------------------------------------------------------------


def decode_rle(counts: list[int], height: int, width: int) -> Tensor:
    """COCO's run lengths → a bool mask ``(H, W)``."""
    return _runs(counts, first=0).reshape(width, height).T.bool()


def _runs(counts: list[int], first: int) -> Tensor:
    values = (torch.arange(len(counts)) + first) % 2
    return values.repeat_interleave(torch.tensor(counts))


def _lengths() -> Mapping[str, tuple[list[int], int, int]]:
    return {
        "counts [5, 2, 2, 2, 13] on 4 × 6": ([5, 2, 2, 2, 13], 4, 6),
        "counts [0, 3, 4, 2] on 3 × 3": ([0, 3, 4, 2], 3, 3),
        "an empty mask of 2 × 3": ([6], 2, 3),
    }


DECODE_RLE = Exercise(
    solution=decode_rle,
    probes=_lengths,
    wrong={
        "rows_first": (
            lambda counts, height, width: _runs(counts, 0).reshape(height, width).bool(),
            "You walk along the rows. COCO walks down the columns: fill a (width, height) array and transpose it.",
        ),
        "ones_first": (
            lambda counts, height, width: _runs(counts, 1).reshape(width, height).T.bool(),
            "Your mask is inverted: the first run counts zeros, even when it is 0 long.",
        ),
        "not_transposed": (
            lambda counts, height, width: _runs(counts, 0).reshape(width, height).bool(),
            "You filled the columns but returned them as rows: the mask is (width, height). Transpose it.",
        ),
        "flat": (
            lambda counts, height, width: _runs(counts, 0).bool(),
            "The values are right, but the mask is still flat: give it its height and width.",
        ),
    },
    hint="Repeat 0, 1, 0, 1, … as often as the counts say, then put the line into columns.",
)


# Ids as colours -------------------------------------------------------------------------------------------------------


def rgb_to_ids(rgb: Tensor) -> Tensor:
    """Colours ``(H, W, 3)`` uint8 → ``R + 256 G + 256² B``, ``(H, W)``."""
    r, g, b = rgb.long().unbind(-1)
    return r + 256 * g + 256**2 * b


def _colours() -> Mapping[str, tuple[Tensor]]:
    return {
        "the colour (7, 0, 0)": (torch.tensor([[[7, 0, 0]]], dtype=torch.uint8),),
        "the colours (1, 2, 3) and (255, 255, 255)": (torch.tensor([[[1, 2, 3], [255, 255, 255]]], dtype=torch.uint8),),
    }


def _overflowing(rgb: Tensor) -> Tensor:
    r, g, b = rgb.unbind(-1)
    return r + g * 256 + b * 256**2  # stays uint8, so both products are 0


RGB_TO_IDS = Exercise(
    solution=rgb_to_ids,
    probes=_colours,
    wrong={
        "overflow": (
            _overflowing,
            "Only R reaches your ids, so none is above 255. Either G and B are missing, or you calculate in uint8, "
            "where 256 · G is 0: convert to int first.",
        ),
        "bgr": (
            lambda rgb: rgb_to_ids(rgb.flip(-1)),
            "You read the channels as blue, green, red. R is the lowest digit and comes first.",
        ),
        "base_255": (
            lambda rgb: (rgb.long() * torch.tensor([1, 255, 255**2])).sum(-1),
            "The digits have 256 values, 0 to 255, so the base is 256, not 255.",
        ),
        "added_up": (
            lambda rgb: rgb.long().sum(-1),
            "You add the channels. They are digits: G is worth 256 and B 256².",
        ),
    },
    hint="id = R + 256 G + 256² B.",
)


# Who wins? ------------------------------------------------------------------------------------------------------------


def winner(masks: Tensor, scores: Tensor) -> Tensor:
    """The number (from 1) of the best mask over each pixel, 0 where there is none, ``(H, W)``."""
    return _paint(masks, scores.argsort().tolist())


def _paint(masks: Tensor, order: list[int], offset: int = 1) -> Tensor:
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


def _overlaps() -> Mapping[str, tuple[Tensor, Tensor]]:
    masks = torch.zeros(3, 4, 6, dtype=torch.bool)
    masks[0, :3, :3] = masks[1, 1:4, 2:5] = masks[2, 2:, 1:3] = True
    return {
        "three masks with scores 0.5, 0.9, 0.7": (masks, torch.tensor([0.5, 0.9, 0.7])),
        "two masks with scores 0.8, 0.6": (masks[:2], torch.tensor([0.8, 0.6])),
    }


WINNER = Exercise(
    solution=winner,
    probes=_overlaps,
    wrong={
        "lowest_wins": (
            lambda masks, scores: _paint(masks, scores.argsort(descending=True).tolist()),
            "The lowest score wins in yours: you paint the best mask first and the others over it.",
        ),
        "last_wins": (
            lambda masks, scores: _paint(masks, list(range(len(masks)))),
            "In yours the last mask wins, whatever its score. Sort by score first.",
        ),
        "ranks": (_ranks, "The right masks win, but you number them by rank. Keep the numbers they came in with."),
        "from_zero": (
            lambda masks, scores: _paint(masks, scores.argsort().tolist(), offset=0),
            "You number masks from 0, so the first one looks like empty background. Count from 1.",
        ),
        "no_ground": (_no_zero, "Pixels that no mask covers must be 0; argmax over zeros answers the first mask."),
    },
    hint="Paint the masks in the order of their scores, the best one last.",
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


def _drawings() -> Mapping[str, tuple[Tensor, int]]:
    mask = torch.zeros(8, 10, dtype=torch.bool)
    mask[0:2, 0:2] = mask[2:5, 2:4] = True  # 4 and 6 pixels, corner to corner
    mask[0, 7] = mask[6:8, 0:2] = mask[6:8, 6:9] = True  # 1, 4 and 6 pixels
    return {
        "shapes of 4, 6, 1, 4 and 6 pixels, min_size 1": (mask, 1),
        "shapes of 4, 6, 1, 4 and 6 pixels, min_size 4": (mask, 4),
        "an empty mask": (torch.zeros(3, 3, dtype=torch.bool), 1),
    }


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
        "outside": (
            lambda mask, min_size: count_shapes(mask, min_size) + 1,
            "One too many: the outside (label 0) is no shape.",
        ),
        "pixels": (_counted(lambda sizes, s: sizes * (sizes >= s)), "That is a number of pixels, not of shapes."),
    },
    hint="Label the connected shapes, count the pixels of each, and keep those that are large enough.",
)


EXERCISES = {
    "ch01.which_task": WHICH_TASK,
    "ch01.decode_rle": DECODE_RLE,
    "ch01.rgb_to_ids": RGB_TO_IDS,
    "ch01.winner": WINNER,
    "ch01.count": COUNT,
}
