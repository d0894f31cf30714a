"""The pieces and exercises of chapter 1, "One scene, four answers".

The pieces that the reader writes in "From scratch" are formats: run lengths there and back, ids as colours, the merge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seglib.book.exercise import Exercise, difference, expect, own
from seglib.book.exercises import ch01_open
from seglib.types import VOID


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


# A mask as run lengths ------------------------------------------------------------------------------------------------


def encode_rle(mask: Tensor) -> list[int]:
    """A bool mask ``(H, W)`` → the lengths of its runs, column by column, zeros first."""
    return _run_lengths(mask.T.flatten().tolist())


def _run_lengths(line: Sequence[bool], value: bool = False) -> list[int]:
    counts, run = [], 0
    for pixel in line:
        if pixel != value:
            counts.append(run)
            value, run = pixel, 0
        run += 1
    return [*counts, run]


def _small_masks() -> Mapping[str, tuple[Tensor]]:
    g = torch.Generator().manual_seed(1)
    block = torch.zeros(4, 6, dtype=torch.bool)
    block[1:3, 1:3] = True
    return {
        "a block of 2 × 2 in 4 × 6": (block,),
        "a mask of 4 × 6 that starts with a one": (~block,),
        "a mask of 2 × 3 that ends with a one": (torch.tensor([[0, 1, 0], [0, 0, 1]]).bool(),),
        "an empty mask of 2 × 3": (torch.zeros(2, 3, dtype=torch.bool),),
        "a full mask of 3 × 2": (torch.ones(3, 2, dtype=torch.bool),),
        "random pixels, 5 × 7": (torch.rand(5, 7, generator=g) < 0.5,),
    }


def _encode_without_the_last(mask: Tensor) -> list[int]:
    """Appends a run where a value changes alone, so that the run that is open at the end is lost."""
    return encode_rle(mask)[:-1]


def _encode_positions(mask: Tensor) -> list[int]:
    return np.cumsum(encode_rle(mask)).tolist()


def _encode_changes(mask: Tensor) -> list[int]:
    """Differences of the places where the value changes, without the beginning and the end."""
    line = mask.T.flatten().numpy()
    return np.diff(np.flatnonzero(line[1:] != line[:-1]) + 1).tolist()


def _encode_with_groupby(mask: Tensor) -> list[int]:
    lengths = [len(list(run)) for _, run in groupby(mask.T.flatten().tolist())]
    return [0, *lengths] if mask[0, 0] else lengths


def _encode_with_numpy(mask: Tensor) -> np.ndarray:
    line = np.concatenate([[0], mask.numpy().ravel(order="F")])
    return np.diff(np.flatnonzero(np.diff(line)), prepend=0, append=mask.numel())


def _encode_in_place(mask: Tensor) -> list[int]:
    """Walks with indices and clears the mask as it goes."""
    counts = [0]
    height, width = mask.shape
    for k in range(height * width):
        y, x = k % height, k // height
        if bool(mask[y, x]) != (len(counts) % 2 == 0):
            counts.append(0)
        counts[-1] += 1
        mask[y, x] = False
    return counts


ENCODE_RLE = Exercise(
    solution=encode_rle,
    probes=_small_masks,
    wrong={
        "rows_first": (
            lambda mask: _run_lengths(mask.flatten().tolist()),
            "You walk along the rows. COCO walks down the columns: flatten the transposed mask.",
        ),
        "first_value": (
            lambda mask: _run_lengths(mask.T.flatten().tolist(), bool(mask[0, 0])),
            "The first run counts zeros. Where the mask starts with a one, the list starts with a 0.",
        ),
        "ones_first": (
            lambda mask: _run_lengths((~mask).T.flatten().tolist()),
            "Your first run counts ones. It counts zeros.",
        ),
        "always_a_zero": (
            lambda mask: [0, *encode_rle(mask)],
            "You put a 0 before every list. It stands there only when the mask starts with a one.",
        ),
        "last_run": (
            _encode_without_the_last,
            "The last run is missing: it is still open when the pixels end. Together the runs hold all pixels.",
        ),
        "closing_zero": (
            lambda mask: (runs := encode_rle(mask)) + [0] * (len(runs) % 2 == 0),
            "You add a 0 behind masks that end with a one. No run but the first may be 0 long.",
        ),
        "positions": (_encode_positions, "Those are the places where runs end. Return how long each run is."),
        "inner_runs": (
            _encode_changes,
            "You measure between changes alone, so the first and the last run are missing.",
        ),
        "one_short": (
            lambda mask: [count - 1 for count in encode_rle(mask)],
            "Every run is one too short: the pixel where a run begins counts too.",
        ),
        "ones_alone": (
            lambda mask: encode_rle(mask)[1::2],
            "You list the runs of ones alone. The runs of zeros between them say where they lie.",
        ),
        "with_values": (
            lambda mask: [(i % 2, count) for i, count in enumerate(encode_rle(mask))],
            "You return pairs. The values alternate, so the lengths alone are enough.",
        ),
        "largest": (
            lambda mask: sorted(encode_rle(mask)),
            "The lengths are right, in another order. Keep the order in which the runs come.",
        ),
    },
    right={
        "itertools' groupby": _encode_with_groupby,
        "NumPy's diff": _encode_with_numpy,
        "in place, with indices": _encode_in_place,
    },
    hint="Walk down the columns and count how many equal pixels come in a row. The first run counts zeros.",
    sketch="""
    value, run = ...                  # the first run counts zeros, and none so far
    for pixel in ...:                 # down the columns
        if pixel != value:            # a run ends: keep its length, and begin the next
            ...
        run += 1
    return ...                        # which run is still open?
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


# The merge ------------------------------------------------------------------------------------------------------------

Merged = tuple[Tensor, dict[int, int]]


def merge(semantic: Tensor, masks: Tensor, labels: Tensor, scores: Tensor, stuff: Sequence[int]) -> Merged:
    """A class map ``(H, W)`` and masks ``(N, H, W)`` → the map of segments ``(H, W)`` and the class of each id."""
    return _claim(_things(masks, labels, _by_score(scores)) + _areas(semantic, stuff))


def _by_score(scores: Tensor) -> list[int]:
    return scores.argsort(descending=True, stable=True).tolist()


def _things(masks: Tensor, labels: Tensor, order: Sequence[int]) -> list[tuple[Tensor, int]]:
    return [(masks[i], int(labels[i])) for i in order]


def _areas(semantic: Tensor, stuff: Sequence[int]) -> list[tuple[Tensor, int]]:
    return [(semantic == c, c) for c in stuff]


def _claim(claims: Sequence[tuple[Tensor, int]], empty: bool = False, over: bool = False, first: int = 1) -> Merged:
    """Segments that take what is free, in this order.

    Args:
        claims: mask and class of each segment.
        empty: whether a segment without a free pixel gets an id too.
        over: whether a segment takes pixels that are not free.
        first: the first id.
    """
    panoptic = torch.zeros(claims[0][0].shape, dtype=torch.int32)
    classes: dict[int, int] = {}
    for claim, c in claims:
        free = claim & ((panoptic == 0) | over)
        if free.any() or empty:
            classes[len(classes) + first] = c
            panoptic[free] = len(classes) + first - 1
    return panoptic, classes


def _crowded() -> Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor, list[int]]]:
    semantic = torch.tensor([[4, 4, 4, 4, 4, 4], [4, 0, 0, 1, 1, 4], [3, 0, 0, 1, 1, VOID], [3, 3, 0, 3, 3, 3]])
    masks = torch.zeros(4, 4, 6, dtype=torch.bool)
    masks[0, 1:3, 1:4] = masks[1, 1:3, 2:5] = masks[2, 1:2, 2:4] = True
    masks[3, :2, 4:] = True  # on the sky, and on a part of mask 1
    labels = torch.tensor([0, 1, 1, 0])
    return {
        "two masks with scores 0.9, 0.6": (semantic, masks[:2], labels[:2], torch.tensor([0.9, 0.6]), [3, 4]),
        "two masks with scores 0.6, 0.9": (semantic, masks[:2], labels[:2], torch.tensor([0.6, 0.9]), [3, 4]),
        "a mask that is covered by two others": (semantic, masks[:3], labels[:3], torch.tensor([0.9, 0.8, 0.3]), [3]),
        "four masks": (semantic, masks, labels, torch.tensor([0.2, 0.5, 0.4, 0.8]), [4, 3]),
        "four masks in another order": (
            semantic,
            masks.flip(0),
            labels.flip(0),
            torch.tensor([0.3, 0.9, 0.6, 0.7]),
            [3, 4],
        ),
        "two masks with equal scores": (semantic, masks[1:3], labels[:2], torch.tensor([0.5, 0.5]), [3, 4]),
        "many masks with equal scores": (
            semantic,
            torch.stack([semantic.flip(0) == 4, *[semantic == 0] * 19]),
            torch.arange(20) % 3,
            torch.full((20,), 0.5),
            [3, 4],
        ),
        "stuff that has no pixel": (semantic, masks[:1], labels[:1], torch.tensor([0.7]), [3, 2, 4]),
        "no mask at all": (semantic, masks[:0], labels[:0], torch.zeros(0), [3, 4]),
    }


def _stuff_first(semantic: Tensor, masks: Tensor, labels: Tensor, scores: Tensor, stuff: Sequence[int]) -> Merged:
    return _claim(_areas(semantic, stuff) + _things(masks, labels, _by_score(scores)))


def _ordered(order: Callable[[Tensor, Tensor], Sequence[int]]) -> Callable[..., Merged]:
    return lambda semantic, masks, labels, scores, stuff: _claim(
        _things(masks, labels, order(masks, scores)) + _areas(semantic, stuff)
    )


def _drops_overlapping(semantic: Tensor, masks: Tensor, labels: Tensor, scores: Tensor, stuff: Sequence[int]) -> Merged:
    """A mask that overlaps a better one goes as a whole."""
    kept: list[int] = []
    for i in _by_score(scores):
        if not any((masks[i] & masks[j]).any() for j in kept):
            kept.append(i)
    return _claim(_things(masks, labels, kept) + _areas(semantic, stuff))


def _by_mask(semantic: Tensor, masks: Tensor, labels: Tensor, scores: Tensor, stuff: Sequence[int]) -> Merged:
    """Things keep the numbers that they came in with; stuff follows."""
    panoptic, classes = merge(semantic, masks, labels, scores, stuff)
    order = [i for i in _by_score(scores) if (panoptic[masks[i]] > 0).any()]
    things = [k for k in classes if classes[k] not in stuff]
    new = {k: i + 1 for k, i in zip(things, order, strict=False)}
    new |= {k: len(masks) + j for j, k in enumerate([k for k in classes if k not in new], 1)}
    out = torch.zeros_like(panoptic)
    for old, name in new.items():
        out[panoptic == old] = name
    return out, {name: classes[old] for old, name in new.items()}


def _merge_with_numpy(
    semantic: Tensor, masks: Tensor, labels: Tensor, scores: Tensor, stuff: Sequence[int]
) -> tuple[np.ndarray, dict[int, int]]:
    """The worst is painted first, and the segments are numbered afterwards."""
    order = np.argsort(-scores.numpy(), kind="stable")
    top = np.full(semantic.shape, -1)
    for c in reversed(stuff):
        top[semantic.numpy() == c] = len(masks) + list(stuff).index(c)
    for rank, i in reversed(list(enumerate(order))):
        top[masks[int(i)].numpy()] = rank
    found = [int(v) for v in np.unique(top) if v >= 0]
    names = {v: k for k, v in enumerate(found, 1)}
    kept = [*labels[torch.from_numpy(order)].tolist(), *stuff]
    return np.vectorize(lambda v: names.get(v, 0))(top), {names[v]: int(kept[v]) for v in found}


def _merge_by_pixel(
    semantic: Tensor, masks: Tensor, labels: Tensor, scores: Tensor, stuff: Sequence[int]
) -> tuple[list[list[int]], dict[int, int]]:
    """Every pixel asks who claims it, and empties the masks."""
    height, width = semantic.shape
    ranked = sorted(range(len(masks)), key=lambda i: -float(scores[i]))
    owner = [[-1] * width for _ in range(height)]
    for y in range(height):
        for x in range(width):
            claims = [r for r, i in enumerate(ranked) if masks[i, y, x]]
            claims += [len(ranked) + j for j, c in enumerate(stuff) if semantic[y, x] == c]
            owner[y][x] = claims[0] if claims else -1
            masks[:, y, x] = False
    there = sorted({r for row in owner for r in row} - {-1})
    names = {r: k for k, r in enumerate(there, 1)}
    kept = [int(labels[i]) for i in ranked] + list(stuff)
    return [[names.get(r, 0) for r in row] for row in owner], {k: kept[r] for r, k in names.items()}


MERGE = Exercise(
    solution=merge,
    probes=_crowded,
    wrong={
        "lowest_first": (
            _ordered(lambda masks, scores: scores.argsort(stable=True).tolist()),
            "The mask with the lowest score goes first in yours. The highest goes first.",
        ),
        "as_they_come": (
            _ordered(lambda masks, scores: range(len(masks))),
            "Your masks go in the order in which they come in. The highest score goes first.",
        ),
        "by_area": (
            _ordered(lambda masks, scores: masks.flatten(1).sum(1).argsort(descending=True, stable=True).tolist()),
            "In yours the largest mask goes first. The score decides.",
        ),
        "ties_backwards": (
            _ordered(
                lambda masks, scores: (
                    scores.flip(0).argsort(descending=True, stable=True).neg().add(len(scores) - 1).tolist()
                )
            ),
            "Of two masks with equal scores the earlier one goes first: sort with `stable=True`.",
        ),
        "painted_over": (
            lambda semantic, masks, labels, scores, stuff: _claim(
                _things(masks, labels, _by_score(scores)) + _areas(semantic, stuff), over=True
            ),
            "Later segments paint over earlier ones in yours. What is taken stays: keep only the pixels that are "
            "still 0.",
        ),
        "whole_masks": (
            _drops_overlapping,
            "You drop a mask as soon as a better one covers a part of it. It keeps the pixels that are left.",
        ),
        "id_for_nothing": (
            lambda semantic, masks, labels, scores, stuff: _claim(
                _things(masks, labels, _by_score(scores)) + _areas(semantic, stuff), empty=True
            ),
            "A segment without a pixel gets an id in yours. A mask or a class with nothing left gets none.",
        ),
        "stuff_first": (
            _stuff_first,
            "Stuff goes first in yours, and masks get what is left. Masks come first; stuff fills the rest.",
        ),
        "no_stuff": (
            lambda semantic, masks, labels, scores, stuff: _claim(
                _things(masks, labels, _by_score(scores)) + [(torch.zeros_like(semantic).bool(), 0)]
            ),
            "The stuff is missing: each class of `stuff` takes the pixels of the class map that are still 0.",
        ),
        "things_of_the_map": (
            lambda semantic, masks, labels, scores, stuff: _claim(
                _things(masks, labels, _by_score(scores))
                + _areas(semantic, stuff)
                + _areas(semantic, [c for c in semantic.unique().tolist() if c not in stuff and c != VOID])
            ),
            "You make a segment of thing pixels that no mask claims. They stay 0: nobody knows whose they are.",
        ),
        "void_as_stuff": (
            lambda semantic, masks, labels, scores, stuff: _claim(
                _things(masks, labels, _by_score(scores)) + _areas(semantic, [*stuff, VOID])
            ),
            "Void (255) becomes a segment in yours. It is in no list of stuff and stays 0.",
        ),
        "sorted_stuff": (
            lambda semantic, masks, labels, scores, stuff: merge(semantic, masks, labels, scores, sorted(stuff)),
            "You sort the classes of stuff. They get their ids in the order of the list.",
        ),
        "from_zero": (
            lambda semantic, masks, labels, scores, stuff: _claim(
                _things(masks, labels, _by_score(scores)) + _areas(semantic, stuff), first=0
            ),
            "Your ids begin at 0. Here 0 means that a pixel has no segment: begin at 1.",
        ),
        "numbers_of_masks": (
            _by_mask,
            "Your ids are the numbers of the masks. Count the segments as you place them: 1, 2, 3, …",
        ),
        "class_of_another": (
            lambda semantic, masks, labels, scores, stuff: (
                merge(semantic, masks, labels, scores, stuff)[0],
                merge(
                    semantic, masks, labels[torch.tensor(_by_score(scores), dtype=torch.long)].flip(0), scores, stuff
                )[1],
            ),
            "The map is right, the classes are not: the class of a segment is the label of *its* mask.",
        ),
        "map_alone": (
            lambda *given: merge(*given)[0],
            "The map alone does not say which class a segment has. Return it and the dict of classes.",
        ),
        "a_list_of_classes": (
            lambda *given: (merge(*given)[0], list(merge(*given)[1].values())),
            "The classes come as a dict, id → class.",
        ),
    },
    right={
        "NumPy, the worst painted first": _merge_with_numpy,
        "a loop over pixels that empties the masks": _merge_by_pixel,
    },
    hint="Place the masks from the highest score down, each on the pixels that are still 0; then the classes of stuff.",
    sketch="""
    panoptic, classes = ..., {}          # zeros (H, W); id → class
    for i in ...:                        # from the highest score down
        free = ...                       # the mask's pixels that are still 0
        if ...:
            classes[...], panoptic[free] = ...
    for c in stuff:
        ...                              # the same, with the pixels of class c in the class map
    return panoptic, classes
    """,
)


EXERCISES = {
    "ch01.encode_rle": ENCODE_RLE,
    "ch01.decode_rle": DECODE_RLE,
    "ch01.rgb_to_ids": RGB_TO_IDS,
    "ch01.merge": MERGE,
    "ch01.which_task": WHICH_TASK,
    "ch01.rle_iou": ch01_open.RLE_IOU,
    "ch01.two_answers": ch01_open.TWO_ANSWERS,
    "ch01.lucky_count": ch01_open.LUCKY_COUNT,
    "ch01.separate": ch01_open.SEPARATE,
}
