"""The pieces and exercises of chapter 13, "Panoptic quality".

The first six are the pieces that the reader writes in "From scratch"; the others stand in "Exercises".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from seglib.book.exercise import Exercise, difference, expect, own

# From a PNG to places in the list ------------------------------------------------------------------------------------


def place_in_list(rgb: Tensor, ids: Sequence[int]) -> Tensor:
    """Colours ``(H, W, 3)`` and the ids of the list → the place of each pixel's segment, ``(H, W)``; 0 is void."""
    number = (rgb.long() * torch.tensor([1, 256, 256**2])).sum(2)  # (H, W)
    here = number[..., None] == torch.tensor([0, *ids])  # (H, W, 1 + S)
    if not bool(here.any(2).all()):
        raise ValueError("an id of the map is not in the list")
    return here.long().argmax(2)


def _by_base(rgb: Tensor, ids: Sequence[int], weights: Sequence[int]) -> Tensor:
    """Reads the colours with other weights; what isn't in the list becomes void."""
    number = (rgb.long() * torch.tensor(weights)).sum(2)
    return (number[..., None] == torch.tensor([0, *ids])).long().argmax(2)


def _in_order_of_ids(rgb: Tensor, ids: Sequence[int]) -> Tensor:
    return place_in_list(rgb, sorted(ids))


def _of_those_that_occur(rgb: Tensor, ids: Sequence[int]) -> Tensor:
    """Numbers the ids of the map, whatever the list says."""
    number = (rgb.long() * torch.tensor([1, 256, 256**2])).sum(2)
    return number.unique(return_inverse=True)[1].view(number.shape)


def _without_gaps(rgb: Tensor, ids: Sequence[int]) -> Tensor:
    """Leaves segments out that have no pixel."""
    number = (rgb.long() * torch.tensor([1, 256, 256**2])).sum(2)
    return place_in_list(rgb, [i for i in ids if bool((number == i).any())])


def _unknown_is_void(rgb: Tensor, ids: Sequence[int]) -> Tensor:
    return _by_base(rgb, ids, (1, 256, 256**2))


def _red_alone_that_raises(rgb: Tensor, ids: Sequence[int]) -> Tensor:
    """Multiplies in 8 bits, and raises for what it then doesn't find."""
    r, g, b = rgb.unbind(2)
    here = (r + 256 * g + 256**2 * b)[..., None] == torch.tensor([0, *ids])
    if not bool(here.any(2).all()):
        raise ValueError("an id of the map is not in the list")
    return here.long().argmax(2)


def _raises_if(missing: Callable[[set[int], set[int]], bool]) -> Callable[[Tensor, Sequence[int]], Tensor]:
    """Raises when the ids of the map and those of the list, as sets, are what ``missing`` says."""

    def answer(rgb: Tensor, ids: Sequence[int]) -> Tensor:
        number = (rgb.long() * torch.tensor([1, 256, 256**2])).sum(2)
        if missing(set(number.unique().tolist()), set(ids)):
            raise ValueError("the ids of the map are not those of the list")
        return place_in_list(rgb, ids)

    return answer


def _searched_without_void(rgb: Tensor, ids: Sequence[int]) -> Tensor:
    """Looks for the ids in a list without 0."""
    number = (rgb.long() * torch.tensor([1, 256, 256**2])).sum(2)
    return torch.where(number == 0, 0, 1 + (number[..., None] == torch.tensor(ids)).long().argmax(2))


def _index_by_dict(rgb: Tensor, ids: Sequence[int]) -> list[list[int]]:
    """Right, but for an unknown id it raises what a dict raises."""
    place = {0: 0} | {number: i for i, number in enumerate(ids, 1)}
    return [[place[r + 256 * g + 65536 * b] for r, g, b in row] for row in rgb.tolist()]


def _index_numpy(rgb: Tensor, ids: Sequence[int]) -> np.ndarray:
    r, g, b = rgb.numpy().astype(np.int64).transpose(2, 0, 1)
    place = {0: 0} | {number: i for i, number in enumerate(ids, 1)}
    try:
        return np.vectorize(place.__getitem__)(r + 256 * g + 65536 * b)
    except KeyError as error:
        raise ValueError(f"the id {error} is not in the list") from error


def _index_searched(rgb: Tensor, ids: Sequence[int]) -> Tensor:
    """By searching in the sorted ids, undone by their order."""
    r, g, b = rgb.int().unbind(2)
    number = r | g << 8 | b << 16
    known, order = torch.tensor([0, *ids], dtype=torch.int32).sort()
    at = torch.searchsorted(known, number).clamp(max=len(known) - 1)
    if bool((known[at] != number).any()):
        raise ValueError("unknown")
    return order[at]


def _index_pixel_by_pixel(rgb: Tensor, ids: Sequence[int]) -> list[list[int]]:
    return [
        [0 if not any(c) else list(ids).index(c[0] + 256 * c[1] + 65536 * c[2]) + 1 for c in r] for r in rgb.tolist()
    ]


def _colours(*rows: Sequence[int]) -> Tensor:
    ids = torch.tensor(rows)
    return torch.stack([ids % 256, ids // 256 % 256, ids // 256**2], 2).to(torch.uint8)


def _pngs() -> Mapping[str, tuple[Tensor, list[int]]]:
    return {
        "ids that are not sorted": (_colours([0, 7, 7], [70_000, 300, 0]), [70_000, 7, 300]),
        "a colour, and the same with R and B exchanged": (_colours([1, 65_536]), [1, 65_536]),
        "two ids of which G differs alone": (_colours([10, 266, 522]), [10, 266, 522]),
        "two ids of which B differs alone": (_colours([10, 65_546]), [10, 65_546]),
        "the largest id": (_colours([16_777_215, 0]), [16_777_215]),
        "a segment without a pixel": (_colours([5, 300], [300, 300]), [9, 5, 12, 300]),
        "no void": (_colours([3], [2]), [2, 3]),
        "only void": (_colours([0, 0]), [5]),
        "an empty list": (_colours([0, 0], [0, 0]), []),
    }


def _refuses_unknown_ids(attempt: Callable[..., Any]) -> None:
    """Rejects right values of a function that takes an id that the list doesn't have."""
    if any(difference(attempt(*own(case)), place_in_list(*own(case))) for case in _pngs().values()):
        return  # it's wrong, which is said first
    for rgb, ids in ((_colours([1, 2]), [1]), (_colours([300]), [44]), (_colours([8]), [])):
        try:
            attempt(rgb, ids)
        except ValueError:
            continue
        except Exception as error:
            expect(False, f"For an id that the list doesn't have, raise ValueError; you raise {type(error).__name__}.")
        expect(False, "For an id of the map that the list doesn't have, raise a ValueError: it's a broken file.")


INDEX = Exercise(
    solution=place_in_list,
    wrong={
        "blue_first": (
            lambda rgb, ids: _by_base(rgb, ids, (256**2, 256, 1)),
            "You read the colours as B, G, R. Red counts once, green 256 times, blue 256² times.",
        ),
        "red_alone": (
            lambda rgb, ids: _by_base(rgb, ids, (1, 0, 0)),
            "Only red arrives: in 8 bits 256 · G is 0. Convert the colours to a wider type before you multiply.",
        ),
        "red_alone_that_raises": (
            _red_alone_that_raises,
            "Your ids are wrong: in 8 bits 256 · G is 0. Convert the colours to a wider type before you multiply.",
        ),
        "without_blue": (
            lambda rgb, ids: _by_base(rgb, ids, (1, 256, 0)),
            "Blue is missing. It counts 256² times, which doesn't fit into 16 bits either.",
        ),
        "added": (
            lambda rgb, ids: _by_base(rgb, ids, (1, 1, 1)),
            "The sum of the three colours is no id. Green counts 256 times, blue 256² times.",
        ),
        "base_255": (
            lambda rgb, ids: _by_base(rgb, ids, (1, 255, 255**2)),
            "The base is 256: one more than the largest value of a colour.",
        ),
        "sorted": (
            _in_order_of_ids,
            "You number the segments by rising id. Number them in the order of the list.",
        ),
        "those_that_occur": (
            _of_those_that_occur,
            "You number the ids that occur in the map. The list decides, and 0 stays void even where there is none.",
        ),
        "gaps": (
            _without_gaps,
            "A segment without a pixel keeps its place: the numbers of those after it must not change.",
        ),
        "from_zero": (
            lambda rgb, ids: place_in_list(rgb, ids) - 1,
            "You count from 0, and void is −1. Void is 0, and the first segment of the list is 1.",
        ),
        "first_is_void": (
            lambda rgb, ids: (place_in_list(rgb, ids) - 1).clamp(min=0),
            "Void and the first segment of the list are both 0. Count the segments from 1.",
        ),
        "void_last": (
            lambda rgb, ids: (place_in_list(rgb, ids) - 1) % (len(ids) + 1),
            "You count from 0, and void comes last. Void is 0, and the first segment of the list is 1.",
        ),
        "ids": (
            lambda rgb, ids: (rgb.long() * torch.tensor([1, 256, 256**2])).sum(2),
            "These are the ids. Return each one's place in the list, counted from 1.",
        ),
        "empty": (
            lambda rgb, ids: place_in_list(rgb, ids).clamp(max=max(ids) + len(ids)),
            "The list may be empty: then the map has void alone, and a maximum over nothing is an error.",
        ),
        "empty_search": (
            _searched_without_void,
            "The list may be empty, and there is no largest entry of nothing. Put 0 in front of the list.",
        ),
        "void_is_unknown": (
            _raises_if(lambda there, listed: not there <= listed),
            "The id 0 is void and stands in no list: it is no error.",
        ),
        "unused_is_an_error": (
            _raises_if(lambda there, listed: there - {0} != listed),
            "A listed segment without a pixel is no error. Only an id of the map that the list doesn't have is one.",
        ),
        "unknown_is_void": (
            _unknown_is_void,
            "For an id of the map that the list doesn't have, raise a ValueError: it's a broken file.",
        ),
        "another_error": (
            _index_by_dict,
            "For an id that the list doesn't have, raise ValueError; you raise KeyError.",
        ),
    },
    right={
        "NumPy, a dict": _index_numpy,
        "a search in sorted ids": _index_searched,
        "pixel by pixel, lists": _index_pixel_by_pixel,
    },
    probes=_pngs,
    verify=_refuses_unknown_ids,
    hint="First the id of every pixel, then its place in the list [0, *ids].",
    sketch="""
        r, g, b = rgb.long().unbind(2)           # long first: 256 doesn't fit into 8 bits
        number = r + 256 * ... + ...             # (H, W) ids
        here = number[..., None] == torch.tensor([0, *ids])  # (H, W, 1 + S)
        if ...: raise ValueError(...)            # an id that is nowhere in the list
        return here.long().argmax(...)
    """,
)


# The table of intersections ------------------------------------------------------------------------------------------


def pixel_table(pred: Tensor, true: Tensor, P: int, T: int) -> Tensor:
    """Pixels that predicted and true segments have in common, ``(1 + P, 1 + T)``; row and column 0 are void."""
    both = pred.long() * (1 + T) + true.long()  # (H, W)
    return both.flatten().bincount(minlength=(1 + P) * (1 + T)).view(1 + P, 1 + T)


def _as_wide_as_seen(pred: Tensor, true: Tensor, P: int, T: int) -> Tensor:
    return pixel_table(pred, true, int(pred.max()), int(true.max()))


def _without_minlength(pred: Tensor, true: Tensor, P: int, T: int) -> Tensor:
    return (pred.long() * (1 + T) + true.long()).flatten().bincount().view(1 + P, 1 + T)


def _numbered(of_row: Callable[[int, int], int]) -> Callable[[Tensor, Tensor, int, int], Tensor]:
    """Numbers pairs as ``of_row(P, T)`` · predicted + true."""

    def answer(pred: Tensor, true: Tensor, P: int, T: int) -> Tensor:
        counts = (pred.long() * of_row(P, T) + true.long()).flatten().bincount(minlength=(1 + P) * (1 + T))
        return counts[: (1 + P) * (1 + T)].view(1 + P, 1 + T)

    return answer


def _rows_for_columns(pred: Tensor, true: Tensor, P: int, T: int) -> Tensor:
    """Counts with the true segments as rows, and reads them as if they were columns."""
    return pixel_table(true, pred, T, P).reshape(1 + P, 1 + T)


def _in_eight_bits(pred: Tensor, true: Tensor, P: int, T: int) -> Tensor:
    """Computes in the type of the maps."""
    both = pred * (1 + T) + true
    return both.long().flatten().bincount(minlength=(1 + P) * (1 + T))[: (1 + P) * (1 + T)].view(1 + P, 1 + T)


def _segments_from_zero(pred: Tensor, true: Tensor, P: int, T: int) -> Tensor:
    """Counts P and T segments from 0, so that void is one of them and the last one is missing."""
    return torch.stack([torch.stack([((pred == p) & (true == t)).sum() for t in range(T)]) for p in range(P)])


def _pairs_that_occur(pred: Tensor, true: Tensor, P: int, T: int) -> Tensor:
    """Counts only pairs that occur."""
    return (pred.long() * (1 + T) + true.long()).unique(return_counts=True)[1].view(1 + P, 1 + T)


def _table_numpy(pred: Tensor, true: Tensor, P: int, T: int) -> np.ndarray:
    table = np.zeros((1 + P, 1 + T), dtype=np.int64)
    np.add.at(table, (pred.numpy(), true.numpy()), 1)
    return table


def _table_by_matmul(pred: Tensor, true: Tensor, P: int, T: int) -> Tensor:
    """A product of one-hot matrices."""
    a, b = (F.one_hot(v.long().flatten(), n).double() for v, n in ((pred, 1 + P), (true, 1 + T)))
    return a.T @ b


def _table_segment_by_segment(pred: Tensor, true: Tensor, P: int, T: int) -> list[list[Tensor]]:
    return [[((pred == p) & (true == t)).sum() for t in range(1 + T)] for p in range(1 + P)]


def _two_maps() -> Mapping[str, tuple[Tensor, Tensor, int, int]]:
    def case(pred: Any, true: Any, P: int, T: int, dtype: torch.dtype = torch.int64) -> tuple[Tensor, Tensor, int, int]:
        return torch.tensor(pred, dtype=dtype), torch.tensor(true, dtype=dtype), P, T

    g = torch.Generator().manual_seed(0)
    pred, true = (torch.randint(n, (20, 30), generator=g).to(torch.uint8) for n in (41, 31))
    return {
        "two predicted and one true segment": case([[0, 1, 1], [2, 2, 1]], [[1, 1, 1], [1, 0, 0]], 2, 1),
        "one predicted and three true segments": case([[1, 1, 0, 1]], [[3, 2, 1, 3]], 1, 3),
        "three of each": case([[1, 2, 3], [3, 3, 0]], [[2, 2, 1], [3, 1, 0]], 3, 3),
        "the last segments have no pixel": case([[1, 0, 1]], [[0, 1, 1]], 3, 2),
        "no predicted segment": case([[0, 0]], [[1, 0]], 0, 1),
        "no true segment": case([[1, 2], [2, 2]], [[0, 0], [0, 0]], 2, 0),
        "nothing on either side": case([[0, 0, 0]], [[0, 0, 0]], 0, 0),
        "maps of int32": case([[1, 2], [1, 1]], [[2, 2], [0, 1]], 2, 2, torch.int32),
        "40 predicted and 30 true segments in uint8": (pred, true, 40, 30),
    }


TABLE = Exercise(
    solution=pixel_table,
    wrong={
        "turned": (
            lambda a, b, P, T: pixel_table(b, a, T, P),
            "Your table has a row for each *true* segment. Rows are the predicted ones, columns the true ones.",
        ),
        "rows_for_columns": (
            _rows_for_columns,
            "The numbers stand in the order of true · (1 + P) + predicted, but you read them as rows of 1 + T.",
        ),
        "without_void": (
            lambda a, b, P, T: pixel_table(a, b, P, T)[1:, 1:],
            "Row 0 and column 0, void, are missing. Void counts as a segment here: later steps need its pixels.",
        ),
        "from_zero": (
            _segments_from_zero,
            "You count P and T places from 0. Place 0 is void, so there are 1 + P and 1 + T of them.",
        ),
        "void_is_empty": (
            lambda a, b, P, T: F.pad(pixel_table(a, b, P, T)[1:, 1:], (1, 0, 1, 0)),
            "Pixels that are void on one side aren't counted. Row 0 and column 0 need them.",
        ),
        "pairs_that_occur": (
            _pairs_that_occur,
            "`unique` counts only pairs that occur. Those without a pixel need a 0 in the table.",
        ),
        "as_wide_as_seen": (
            _as_wide_as_seen,
            "You take the largest numbers of the maps for P and T. Segments without a pixel have a row or column, too.",
        ),
        "without_minlength": (
            _without_minlength,
            "Counting stops at the last pair that occurs. Pass `minlength`, so that all "
            "(1 + P)(1 + T) pairs are there.",
        ),
        "row_of_T": (
            _numbered(lambda P, T: T),
            "With predicted · T + true two pairs share a number. A row has 1 + T entries, because void is one.",
        ),
        "row_of_P": (
            _numbered(lambda P, T: 1 + P),
            "With predicted · (1 + P) + true two pairs may share a number. A row has as many entries as there are "
            "*true* segments, and void.",
        ),
        "sum": (
            _numbered(lambda P, T: 1),
            "Predicted + true is no number of a pair: (0, 1) and (1, 0) get the same. Take predicted · (1 + T) + true.",
        ),
        "decimal": (
            _numbered(lambda P, T: 10),
            "10 · predicted + true is read in rows of ten. A row has 1 + T entries.",
        ),
        "eight_bits": (
            _in_eight_bits,
            "The maps may be 8-bit integers, and the number of a pair overflows them. Convert to int64 first.",
        ),
        "empty": (
            lambda a, b, P, T: pixel_table(a, b, P, T) if P and T else torch.zeros(P, T),
            "P or T may be 0. Void stays: the table has at least one row and one column.",
        ),
        "whether": (
            lambda a, b, P, T: pixel_table(a, b, P, T) > 0,
            "You say whether two segments meet. Say in how many pixels. (`table[pred, true] += 1` adds 1 to a pair, "
            "however many pixels it has.)",
        ),
        "share": (
            lambda a, b, P, T: pixel_table(a, b, P, T) / a.numel(),
            "You return shares of the image. Return numbers of pixels.",
        ),
        "flat": (
            lambda a, b, P, T: pixel_table(a, b, P, T).flatten(),
            "The numbers are right. Give them the shape (1 + P, 1 + T).",
        ),
    },
    right={
        "NumPy, added up at places": _table_numpy,
        "a product of one-hot matrices": _table_by_matmul,
        "segment by segment, lists": _table_segment_by_segment,
    },
    probes=_two_maps,
    hint="Give every pair (predicted, true) a number of its own, count the numbers, and view the counts as a table.",
    sketch="""
        both = pred.long() * ... + true.long()   # (H, W) the number of each pixel's pair
        counts = both.flatten().bincount(minlength=...)
        return counts.view(1 + P, 1 + T)
    """,
)


# IoU with void -------------------------------------------------------------------------------------------------------


def iou_with_void(table: Tensor) -> Tensor:
    """IoU of P predicted with T true segments, ``(P, T)``, from ``(1 + P, 1 + T)``; true void leaves the union."""
    shared = table[1:, 1:].double()  # (P, T)
    predicted, true = table[1:, 1:].sum(1), table[:, 1:].sum(0)  # (P,) without true void, (T,)
    union = predicted[:, None] + true - shared
    return shared / union.clamp(min=1)


def _iou_of(*, void: bool = False, void_of_truth: bool = True, empty: float = 0.0) -> Callable[[Tensor], Tensor]:
    """IoU that keeps true void in the union (``void``), or takes predicted void out (not ``void_of_truth``)."""

    def answer(table: Tensor) -> Tensor:
        shared = table[1:, 1:].double()
        predicted = table[1:].sum(1) if void else table[1:, 1:].sum(1)
        true = table[:, 1:].sum(0) if void_of_truth else table[1:, 1:].sum(0)
        union = predicted[:, None] + true - shared
        return torch.where(union > 0, shared / union, empty)

    return answer


def _areas_on_one_axis(table: Tensor) -> Tensor:
    """Adds both areas along the same axis."""
    shared = table[1:, 1:].double()
    return shared / (table[1:, 1:].sum(1) + table[:, 1:].sum(0) - shared).clamp(min=1)


def _void_taken_off_twice(table: Tensor) -> Tensor:
    shared = table[1:, 1:].double()
    return shared / (shared.sum(1)[:, None] + table[:, 1:].sum(0) - shared - table[1:, :1]).clamp(min=1)


def _iou_numpy(table: Tensor) -> np.ndarray:
    t = table.numpy().astype(float)
    union = t[1:].sum(1, keepdims=True) - t[1:, :1] + t[:, 1:].sum(0, keepdims=True) - t[1:, 1:]
    return np.divide(t[1:, 1:], union, out=np.zeros_like(union), where=union > 0)


def _iou_one_by_one(table: Tensor) -> Tensor:
    rows, columns = table.shape
    result = torch.zeros(rows - 1, columns - 1)
    for p in range(1, rows):
        for t in range(1, columns):
            union = sum(table[p, 1:]) + sum(table[:, t]) - table[p, t]
            if union > 0:
                result[p - 1, t - 1] = table[p, t] / union
    return result


def _iou_in_place(table: Tensor) -> Tensor:
    """Empties the column of void first."""
    table[:, 0] = 0
    union = table.sum(1, keepdim=True) + table.sum(0, keepdim=True) - table
    return (table.float() / union.clamp(min=1))[1:, 1:]


def _tables() -> Mapping[str, tuple[Tensor]]:
    def case(*rows: Sequence[int]) -> tuple[Tensor]:
        return (torch.tensor(rows),)

    return {
        "no void": case([0, 0, 0], [0, 8, 2], [0, 4, 6]),
        "a prediction that lies partly in true void": case([0, 0], [5, 10]),
        "a true segment that is partly predicted as void": case([0, 5], [0, 10]),
        "void on both sides": case([7, 3, 1], [4, 6, 0], [2, 1, 9]),
        "more predicted than true segments": case([1, 2], [3, 4], [0, 5], [6, 0]),
        "one predicted segment, three true ones": case([2, 1, 0, 3], [3, 4, 5, 6]),
        "segments without a pixel": case([0, 0, 4], [0, 0, 0], [0, 0, 5]),
        "a prediction in true void alone, and a true segment without a pixel": case([0, 0], [9, 0]),
        "no predicted segment": case([3, 4, 5]),
        "no true segment": case([3], [4]),
    }


IOU = Exercise(
    solution=iou_with_void,
    wrong={
        "void_in_the_union": (
            _iou_of(void=True),
            "Pixels of the prediction in *true* void are still in the union. Nobody knows what is there: leave them "
            "out.",
        ),
        "void_of_both": (
            _iou_of(void_of_truth=False),
            "You also leave out true pixels that are *predicted* as void. Those are missed, and stay in the union.",
        ),
        "void_of_the_prediction": (
            _iou_of(void=True, void_of_truth=False),
            "You leave the wrong void out: pixels of the truth that are predicted as void stay in the union, pixels of "
            "the prediction in true void leave it.",
        ),
        "dice": (
            lambda t: 2 * t[1:, 1:] / (t[1:, 1:].sum(1)[:, None] + t[:, 1:].sum(0)).clamp(min=1),
            "That is Dice. The IoU divides by the union, in which the intersection counts once.",
        ),
        "sum": (
            lambda t: t[1:, 1:] / (t[1:, 1:].sum(1)[:, None] + t[:, 1:].sum(0)).clamp(min=1),
            "The sum of both areas counts the intersection twice. Take it off once.",
        ),
        "void_taken_off_twice": (
            _void_taken_off_twice,
            "You take the pixels in true void off twice. `table[1:, 1:].sum(1)` is already without them; "
            "`table[1:].sum(1)` is with them.",
        ),
        "one_axis": (
            _areas_on_one_axis,
            "The areas of the predictions (P,) and of the truths (T,) stand on one axis. Write `[:, None]` behind the "
            "first, so that they add up to (P, T).",
        ),
        "of_the_truth": (
            lambda t: t[1:, 1:] / t[:, 1:].sum(0).clamp(min=1),
            "You divide by the true segment's area. Divide by the union.",
        ),
        "of_the_prediction": (
            lambda t: t[1:, 1:] / t[1:, 1:].sum(1)[:, None].clamp(min=1),
            "You divide by the predicted segment's area. Divide by the union.",
        ),
        "with_void": (
            lambda t: t / (t.sum(1)[:, None] + t.sum(0) - t).clamp(min=1),
            "Void is no segment: the result has the shape (P, T), without row 0 and column 0.",
        ),
        "turned": (lambda t: iou_with_void(t).T, "Your result has the shape (T, P). Rows are predicted segments."),
        "nan": (
            _iou_of(empty=math.nan),
            "Where neither segment has a pixel that counts, the union is 0 and 0 / 0 is NaN. Let the IoU be 0 there.",
        ),
        "one": (
            _iou_of(empty=1.0),
            "Two segments without a pixel don't match. Let their IoU be 0.",
        ),
        "empty": (
            lambda t: iou_with_void(t).clamp(max=t[1:, 1:].amax()),
            "There may be no predicted or no true segment: the result then has a side of 0, and no largest entry.",
        ),
        "whole": (
            lambda t: t[1:, 1:] // (t[1:, 1:].sum(1)[:, None] + t[:, 1:].sum(0) - t[1:, 1:]).clamp(min=1),
            "`//` rounds down to whole numbers. Divide with `/`.",
        ),
    },
    right={
        "NumPy": _iou_numpy,
        "one by one": _iou_one_by_one,
        "in place": _iou_in_place,
    },
    probes=_tables,
    hint="union = predicted pixels outside true void + all true pixels − shared pixels.",
    sketch="""
        shared = table[1:, 1:]                   # (P, T)
        predicted = table[1:, ...].sum(1)        # (P,) without the pixels in true void
        true = table[..., 1:].sum(0)             # (T,) all its pixels
        union = predicted[:, None] + true - ...
        return shared / union.clamp(min=1)
    """,
)


# Matches -------------------------------------------------------------------------------------------------------------


def matched_pairs(iou: Tensor, pred_class: Tensor, true_class: Tensor, crowd: Tensor) -> Tensor:
    """Pairs (p, t) that match, ``(M, 2)``, by rising p: same class, no crowd, IoU above ½."""
    return ((iou > 0.5) & (pred_class[:, None] == true_class) & ~crowd).nonzero()


Matcher = Callable[[Tensor, Tensor, Tensor, Tensor], Any]


def _pairs_if(
    *, above: Callable[[Tensor], Tensor] = lambda iou: iou > 0.5, classes: bool = True, crowds: bool = False
) -> Matcher:
    def answer(iou: Tensor, pred_class: Tensor, true_class: Tensor, crowd: Tensor) -> Tensor:
        good = above(iou)
        if classes:
            good &= pred_class[:, None] == true_class
        return (good if crowds else good & ~crowd).nonzero()

    return answer


def _best_of_each(iou: Tensor, pred_class: Tensor, true_class: Tensor, crowd: Tensor) -> list[tuple[int, int]]:
    """The true segment that overlaps each prediction most, however little."""
    allowed = _allowed(iou, pred_class, true_class, crowd)
    return [(p, int(row.argmax())) for p, row in enumerate(allowed) if len(row) and row.max() > 0]


def _best_at_half(iou: Tensor, pred_class: Tensor, true_class: Tensor, crowd: Tensor) -> list[tuple[int, int]]:
    """Each prediction takes a true segment that is still free, from an IoU of ½ on."""
    allowed, taken, pairs = _allowed(iou, pred_class, true_class, crowd), set[int](), []
    for p, row in enumerate(allowed):
        for t in row.argsort(descending=True).tolist():
            if row[t] >= 0.5 and t not in taken:
                pairs.append((p, t))
                taken.add(t)
                break
    return pairs


def _allowed(iou: Tensor, pred_class: Tensor, true_class: Tensor, crowd: Tensor) -> Tensor:
    return torch.where((pred_class[:, None] == true_class) & ~crowd, iou, 0)


def _by_true_segment(iou: Tensor, pred_class: Tensor, true_class: Tensor, crowd: Tensor) -> Tensor:
    pairs = matched_pairs(iou, pred_class, true_class, crowd)
    return pairs[pairs[:, 1].argsort(stable=True)]


def _match_numpy(iou: Tensor, pred_class: Tensor, true_class: Tensor, crowd: Tensor) -> np.ndarray:
    same = pred_class.numpy()[:, None] == true_class.numpy()[None]
    return np.argwhere(same & ~crowd.numpy()[None] & (iou.numpy() > 0.5))


def _match_loop(iou: Tensor, pred_class: Tensor, true_class: Tensor, crowd: Tensor) -> list[list[int]]:
    pairs = []
    for p in range(len(pred_class)):
        for t in range(len(true_class)):
            if pred_class[p] == true_class[t] and not crowd[t] and iou[p, t] > 0.5:
                pairs.append([p, t])
    return pairs


def _match_in_place(iou: Tensor, pred_class: Tensor, true_class: Tensor, crowd: Tensor) -> tuple[tuple[int, int], ...]:
    """Clears what may not match; above ½ the largest IoU of a row is the only one."""
    iou[:, crowd] = 0
    iou[pred_class[:, None] != true_class] = 0
    return tuple((p, int(row.argmax())) for p, row in enumerate(iou) if row.numel() and row.max() > 0.5)


def _overlaps() -> Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor]]:
    def case(
        iou: Any, pred_class: list[int], true_class: list[int], crowd: Collection[int] = ()
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        table = torch.tensor(iou, dtype=torch.float64).view(len(pred_class), len(true_class))
        marked = torch.tensor([t in crowd for t in range(len(true_class))], dtype=torch.bool)
        return table, torch.tensor(pred_class, dtype=torch.int64), torch.tensor(true_class, dtype=torch.int64), marked

    return {
        "two matches": case([[0.7, 0.1], [0.0, 0.9]], [3, 3], [3, 3]),
        "matches in another order": case([[0, 0.6, 0], [0, 0, 0.8], [0.7, 0, 0]], [1, 1, 1], [1, 1, 1]),
        "an IoU of exactly ½, twice": case([[0.5], [0.5]], [2, 2], [2]),
        "an IoU right above ½": case([[0.5001]], [2], [2]),
        "an IoU of 0.4": case([[0.4, 0.3], [0.0, 0.45]], [1, 1], [1, 1]),
        "a match of another class": case([[0.9, 0.0], [0.0, 0.6]], [1, 2], [2, 2]),
        "a crowd": case([[0.8, 0.0], [0.1, 0.7]], [0, 0], [0, 0], crowd=[0]),
        "more predicted than true segments": case([[0.6], [0.2], [0.0]], [4, 4, 4], [4]),
        "a prediction without any overlap": case([[0.0, 0.0], [0.0, 1.0]], [0, 0], [0, 0]),
        "no match": case([[0.2]], [1], [1]),
        "no prediction": case([], [], [1, 2]),
        "no true segment": case([], [1, 2], []),
    }


def _as_pairs(attempt: Matcher, *arguments: Tensor) -> list[tuple[int, ...]]:
    """The pairs as tuples, so that a list and a tensor without any compare equal."""
    return [tuple(map(int, pair)) for pair in attempt(*arguments)]


MATCH = Exercise(
    solution=matched_pairs,
    run=_as_pairs,
    wrong={
        "at_least": (
            _pairs_if(above=lambda iou: iou >= 0.5),
            "An IoU of exactly ½ is no match: two predictions may reach it with one true segment.",
        ),
        "any_class": (
            _pairs_if(classes=False),
            "Two segments of different classes never match, however well they overlap.",
        ),
        "crowds": (_pairs_if(crowds=True), "A crowd never matches, however well it is covered."),
        "crowds_alone": (
            lambda i, p, t, c: matched_pairs(i, p, t, ~c),
            "You keep the crowds and leave out everything else. Turn `crowd` around with `~`.",
        ),
        "one_axis": (
            lambda i, p, t, c: ((i > 0.5) & (p == t) & ~c).nonzero(),
            "`pred_class == true_class` compares the first with the first, the second with the second. Write `[:, "
            "None]` behind `pred_class`, so that every pair is compared, (P, T).",
        ),
        "with_iou": (
            lambda *a: [(p, t, a[0][p, t]) for p, t in matched_pairs(*a).tolist()],
            "Return two numbers for each pair: the prediction and the true segment.",
        ),
        "best_at_half": (
            _best_at_half,
            "An IoU of exactly ½ is no match, also when it is the best one of its segment.",
        ),
        "any_overlap": (
            _pairs_if(above=lambda iou: iou > 0),
            "You match whatever overlaps. The IoU must be above ½.",
        ),
        "best_of_each": (
            _best_of_each,
            "You give each prediction its best true segment, however little they overlap. The IoU must be above ½.",
        ),
        "by_true_segment": (_by_true_segment, "The pairs are right. Return them by rising number of the prediction."),
        "true_first": (
            lambda *a: matched_pairs(*a).flip(1),
            "You return (true, predicted). The predicted segment comes first.",
        ),
        "from_one": (lambda *a: matched_pairs(*a) + 1, "You count segments from 1. Row 0 of `iou` is segment 0 here."),
        "columns": (
            lambda *a: matched_pairs(*a).T,
            "You return all predictions, then all true segments. Return one row for each pair, (M, 2).",
        ),
        "table": (
            lambda i, p, t, c: (i > 0.5) & (p[:, None] == t) & ~c,
            "That is a table of True and False. Return the places of the matches: `nonzero` finds them.",
        ),
        "empty": (
            lambda *a: torch.stack([torch.stack([p, t]) for p, t in matched_pairs(*a)]),
            "There may be no match: return a result without rows. Stacking nothing is an error.",
        ),
        "predictions_alone": (
            lambda *a: matched_pairs(*a)[:, :1],
            "You return the predictions alone. Return pairs: which true segment does each of them match?",
        ),
    },
    right={
        "NumPy": _match_numpy,
        "two loops, a list": _match_loop,
        "in place, the largest of each row": _match_in_place,
    },
    probes=_overlaps,
    hint="A pair matches when three things hold: IoU above ½, the same class, no crowd.",
    sketch="""
        same = pred_class[:, None] == ...        # (P, T)
        good = (iou > ...) & same & ...          # (P, T)
        return good.nonzero()                    # (M, 2)
    """,
)


# What is ignored -----------------------------------------------------------------------------------------------------


def ignored_predictions(table: Tensor, pred_class: Tensor, true_class: Tensor, crowd: Tensor) -> Tensor:
    """Predictions of which more than half lies in void and in the crowd of their class, bool ``(P,)``."""
    own_crowd = (pred_class[:, None] == true_class) & crowd  # (P, T)
    unjudged = table[1:, 0] + (table[1:, 1:] * own_crowd).sum(1)  # (P,)
    return 2 * unjudged > table[1:].sum(1)


Judge = Callable[[Tensor, Tensor, Tensor, Tensor], Any]


def _shares(table: Tensor, pred_class: Tensor, true_class: Tensor, crowd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels in void, in the crowd of the own class, and in all, ``(P,)`` each."""
    own_crowd = (pred_class[:, None] == true_class) & crowd
    return table[1:, 0], (table[1:, 1:] * own_crowd).sum(1), table[1:].sum(1)


def _ignored_if(rule: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Judge:
    return lambda *arguments: rule(*_shares(*arguments))


def _unless_matched(table: Tensor, pred_class: Tensor, true_class: Tensor, crowd: Tensor) -> Tensor:
    matched = matched_pairs(iou_with_void(table), pred_class, true_class, crowd)[:, 0]
    return ignored_predictions(table, pred_class, true_class, crowd).index_fill(0, matched, False)


def _ignored_numpy(table: Tensor, pred_class: Tensor, true_class: Tensor, crowd: Tensor) -> np.ndarray:
    t = table.numpy()
    mask = (pred_class.numpy()[:, None] == true_class.numpy()[None]) & crowd.numpy()[None]
    return (t[1:, 0] + np.where(mask, t[1:, 1:], 0).sum(1)) / t[1:].sum(1) > 0.5


def _ignored_loop(table: Tensor, pred_class: Tensor, true_class: Tensor, crowd: Tensor) -> list[bool]:
    result = []
    for p, row in enumerate(table[1:].tolist()):
        pixels = row[0]
        for t, count in enumerate(row[1:]):
            if crowd[t] and true_class[t] == pred_class[p]:
                pixels += count
        result.append(pixels > sum(row) / 2)
    return result


def _ignored_in_place(table: Tensor, pred_class: Tensor, true_class: Tensor, crowd: Tensor) -> Tensor:
    """Empties what is judged, and compares what is left with the area."""
    area = table[1:].sum(1)
    judged = (pred_class[:, None] != true_class) | ~crowd
    table[1:, 1:][judged] = 0
    return table[1:].sum(1) * 2 > area


def _crowded() -> Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor]]:
    def case(
        table: list[list[int]], pred_class: list[int], true_class: list[int], crowd: Collection[int] = ()
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        marked = torch.tensor([t in crowd for t in range(len(true_class))], dtype=torch.bool)
        found, true = (torch.tensor(c, dtype=torch.int64) for c in (pred_class, true_class))
        return torch.tensor(table), found, true, marked

    return {
        "void alone": case([[0, 4], [6, 4], [3, 7], [5, 5]], [1, 1, 1], [1]),
        "exactly half in void": case([[9, 0], [5, 5]], [1], [1]),
        "a crowd of the class": case([[0, 3, 1], [0, 6, 4], [0, 4, 6]], [2, 2], [2, 2], crowd=[0]),
        "exactly half in void and crowd": case([[0, 0, 0], [2, 3, 5]], [2], [2, 2], crowd=[0]),
        "void and crowd together": case([[0, 0, 0], [3, 4, 3], [4, 3, 3]], [2, 2], [2, 2], crowd=[0]),
        "a crowd of another class": case([[0, 0], [1, 9], [0, 9]], [1, 2], [2], crowd=[0]),
        "crowds of two classes": case([[0, 0, 0], [0, 8, 2], [0, 8, 2]], [1, 2], [1, 2], crowd=[0, 1]),
        "true segments of the class that are no crowd": case([[0, 1], [1, 9]], [3], [3]),
        "a small prediction in a large crowd": case([[0, 90], [0, 5], [4, 5]], [0, 0], [0], crowd=[0]),
        "a prediction that covers a crowd": case([[0, 0, 0], [0, 10, 90]], [0], [0, 0], crowd=[0]),
        "much void elsewhere": case([[90, 0], [4, 6]], [0], [0]),
        "a prediction in void alone": case([[0, 1], [9, 0]], [0], [0]),
        "a match that lies mostly in void": case([[0, 0], [6, 4]], [1], [1]),
        "no true segment": case([[4], [3]], [1], []),
        "no prediction": case([[4, 2]], [], [0]),
    }


IGNORED = Exercise(
    solution=ignored_predictions,
    wrong={
        "at_least": (
            _ignored_if(lambda void, crowd, area: 2 * (void + crowd) >= area),
            "Exactly half is not *more than* half: such a prediction counts.",
        ),
        "void_alone": (
            _ignored_if(lambda void, crowd, area: 2 * void > area),
            "You look at void alone. Pixels in the crowd of the prediction's class aren't judged either.",
        ),
        "crowd_alone": (
            _ignored_if(lambda void, crowd, area: 2 * crowd > area),
            "You look at the crowd alone. Pixels in void aren't judged either.",
        ),
        "one_or_the_other": (
            _ignored_if(lambda void, crowd, area: (2 * void > area) | (2 * crowd > area)),
            "You ask for more than half in void, or more than half in the crowd. Add the pixels of both first.",
        ),
        "any_crowd": (
            lambda table, p, t, crowd: 2 * (table[1:, 0] + table[1:, 1:][:, crowd].sum(1)) > table[1:].sum(1),
            "A crowd of another class excuses nothing: the prediction calls its pixels something else.",
        ),
        "any_segment": (
            lambda table, p, t, crowd: (
                2 * (table[1:, 0] + (table[1:, 1:] * (p[:, None] == t)).sum(1)) > table[1:].sum(1)
            ),
            "You add all true segments of the class. Add those that are marked as a crowd.",
        ),
        "of_the_judged": (
            _ignored_if(lambda void, crowd, area: 2 * (void + crowd) > area - void),
            "You compare with the area outside void. Compare with the prediction's whole area.",
        ),
        "of_the_crowd": (
            lambda table, p, t, crowd: (
                2
                * (
                    table[1:, 0] / table[:, 0].sum().clamp(min=1)
                    + ((table[1:, 1:] / table[:, 1:].sum(0).clamp(min=1)) * ((p[:, None] == t) & crowd)).sum(1)
                )
                > 1
            ),
            "You take shares of the void and of the crowd. Take the share of the *prediction's* area.",
        ),
        "any_pixel": (
            _ignored_if(lambda void, crowd, area: void + crowd > 0),
            "One pixel in void or crowd isn't enough. Ignore a prediction when more than half of it lies there.",
        ),
        "all_pixels": (
            _ignored_if(lambda void, crowd, area: void + crowd == area),
            "You ask that the whole prediction lies there. More than half is enough.",
        ),
        "counted": (
            _ignored_if(lambda void, crowd, area: 2 * (void + crowd) <= area),
            "You return the predictions that count. Return those that are ignored.",
        ),
        "matches_left_out": (
            _unless_matched,
            "You leave out predictions that have a match. Matches don't matter here: a later step looks at them.",
        ),
        "numbers": (
            lambda *a: ignored_predictions(*a).nonzero()[:, 0],
            "You return numbers of predictions. Return one True or False for each of them, (P,).",
        ),
        "share": (
            _ignored_if(lambda void, crowd, area: (void + crowd) / area),
            "You return the share. Return whether it is more than half.",
        ),
        "empty": (
            lambda *a: torch.stack(list(ignored_predictions(*a))),
            "There may be no prediction: return a result of length 0. Stacking nothing is an error.",
        ),
        "with_void": (
            lambda table, p, t, crowd: torch.cat(
                [torch.zeros(1, dtype=torch.bool), ignored_predictions(table, p, t, crowd)]
            ),
            "Void is no prediction: return P answers, without one for row 0.",
        ),
    },
    right={
        "NumPy, shares": _ignored_numpy,
        "a loop over predictions": _ignored_loop,
        "in place": _ignored_in_place,
    },
    probes=_crowded,
    hint="Pixels in void + pixels in the crowd of the class, against half of the prediction's area.",
    sketch="""
        own_crowd = (pred_class[:, None] == true_class) & ...  # (P, T)
        unjudged = table[1:, 0] + (table[1:, 1:] * ...).sum(1)  # (P,)
        return unjudged > 0.5 * ...              # half of its area, void included
    """,
)


# PQ of every class ---------------------------------------------------------------------------------------------------


def pq_of_classes(iou: Tensor, tp: Tensor, fp: Tensor, fn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """PQ, SQ and RQ of K classes, ``(K,)`` each, from sums of matched IoUs and counts; NaN for a class without any."""
    weight = tp + fp / 2 + fn / 2  # (K,)
    sq = iou.double() / tp.clamp(min=1)
    rq = tp / weight.double()
    return torch.where(weight > 0, sq * rq, torch.nan), torch.where(weight > 0, sq, torch.nan), rq


Scorer = Callable[[Tensor, Tensor, Tensor, Tensor], Any]


def _scored(
    sq: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = lambda iou, tp, fp, fn: iou / tp.clamp(min=1),
    rq: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda tp, fp, fn: tp / (tp + fp / 2 + fn / 2),
) -> Scorer:
    def answer(iou: Tensor, tp: Tensor, fp: Tensor, fn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        quality, recognition = sq(iou, tp, fp, fn), rq(tp, fp, fn)
        quality = torch.where(tp + fp + fn > 0, quality, torch.nan)
        return quality * recognition, quality, recognition

    return answer


def _absent_is(value: float) -> Scorer:
    return lambda *a: tuple(part.nan_to_num(value) for part in pq_of_classes(*a))


def _pq_numpy(iou: Tensor, tp: Tensor, fp: Tensor, fn: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    i, t, p, n = (v.numpy().astype(float) for v in (iou, tp, fp, fn))
    with np.errstate(invalid="ignore", divide="ignore"):
        rq = 2 * t / (2 * t + p + n)
        pq = 2 * i / (2 * t + p + n)
        sq = np.where(t > 0, i / t, 0 * rq)  # 0 · NaN stays NaN where the class is absent
    return pq, sq, rq


def _pq_one_by_one(iou: Tensor, tp: Tensor, fp: Tensor, fn: Tensor) -> list[list[float]]:
    rows = []
    for i, t, p, n in zip(iou.tolist(), tp.tolist(), fp.tolist(), fn.tolist(), strict=True):
        if t + p + n == 0:
            rows.append([math.nan] * 3)
        else:
            sq, rq = (i / t if t else 0.0), t / (t + 0.5 * (p + n))
            rows.append([sq * rq, sq, rq])
    return [[row[part] for row in rows] for part in range(3)]


def _counts() -> Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor]]:
    def case(iou: list[float], tp: list[int], fp: list[int], fn: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        a, b, c = (torch.tensor(v, dtype=torch.int64) for v in (tp, fp, fn))
        return torch.tensor(iou, dtype=torch.float64), a, b, c

    return {
        "one class, all matched": case([1.6], [2], [0], [0]),
        "false positives": case([2.4], [3], [2], [0]),
        "false negatives": case([2.4], [3], [0], [1]),
        "both": case([4.5], [6], [3], [2]),
        "a class without a match": case([0.0, 0.0, 0.0], [0, 0, 0], [2, 0, 1], [0, 3, 1]),
        "a class without anything": case([0.9, 0.0], [1, 0], [0, 0], [1, 0]),
        "four classes": case([0.7, 0.0, 3.2, 0.0], [1, 0, 4, 0], [1, 1, 0, 0], [2, 0, 2, 0]),
        "no class": case([], [], [], []),
    }


PQ = Exercise(
    solution=pq_of_classes,
    wrong={
        "whole": (
            _scored(rq=lambda tp, fp, fn: tp / (tp + fp + fn)),
            "Each FP and each FN counts *half* in the denominator of RQ.",
        ),
        "precision": (
            _scored(rq=lambda tp, fp, fn: torch.where(tp + fp + fn > 0, tp / (tp + fp).clamp(min=1), torch.nan)),
            "Your RQ is the precision. False negatives count, too.",
        ),
        "recall": (
            _scored(rq=lambda tp, fp, fn: torch.where(tp + fp + fn > 0, tp / (tp + fn).clamp(min=1), torch.nan)),
            "Your RQ is the recall. False positives count, too.",
        ),
        "sq_nan": (
            _scored(sq=lambda iou, tp, fp, fn: iou / tp),
            "For a class without a match SQ is 0 / 0. Let SQ be 0 there, as long as the class has an FP or FN.",
        ),
        "sq_nan_alone": (
            lambda iou, tp, fp, fn: (pq_of_classes(iou, tp, fp, fn)[0], iou / tp, pq_of_classes(iou, tp, fp, fn)[2]),
            "PQ and RQ are right. SQ is 0 / 0 for a class without a match: let it be 0, if the class has an FP or FN.",
        ),
        "nan_without_match": (
            lambda iou, tp, fp, fn: tuple(
                torch.where(tp > 0, part, torch.nan) for part in pq_of_classes(iou, tp, fp, fn)
            ),
            "A class that has an FP or FN, but no match, was found nowhere: all three are 0. NaN would keep it out of "
            "the mean.",
        ),
        "absent_sq_zero": (
            lambda *a: (pq_of_classes(*a)[0], pq_of_classes(*a)[1].nan_to_num(0), pq_of_classes(*a)[2]),
            "PQ and RQ are right. SQ must be NaN, too, for a class without TP, FP and FN.",
        ),
        "whole_halves": (
            _scored(rq=lambda tp, fp, fn: tp / (tp + (fp + fn) // 2)),
            "`//` rounds the half of an odd number down. Divide with `/`.",
        ),
        "sq_one": (
            _scored(sq=lambda iou, tp, fp, fn: torch.where(tp > 0, iou / tp, 1.0)),
            "For a class without a match SQ is 0, not 1.",
        ),
        "sq_of_all": (
            _scored(sq=lambda iou, tp, fp, fn: iou / (tp + fp + fn).clamp(min=1)),
            "SQ is the mean over the *matched* pairs: divide by TP.",
        ),
        "sum": (
            _scored(sq=lambda iou, tp, fp, fn: iou),
            "Your SQ is the sum of the IoUs. It is their mean: divide by TP.",
        ),
        "absent_zero": (
            _absent_is(0.0),
            "A class without TP, FP and FN isn't in the data. NaN, not 0, keeps it out of the mean.",
        ),
        "absent_one": (
            _absent_is(1.0),
            "A class without TP, FP and FN isn't in the data. NaN, not 1, keeps it out of the mean.",
        ),
        "left_out": (
            lambda iou, tp, fp, fn: tuple(part[tp + fp + fn > 0] for part in pq_of_classes(iou, tp, fp, fn)),
            "You leave out classes without anything. Return K numbers each, NaN for these classes.",
        ),
        "order": (
            lambda *a: tuple(pq_of_classes(*a)[i] for i in (1, 2, 0)),
            "You return SQ, RQ, PQ. The order is PQ, SQ, RQ.",
        ),
        "rq_second": (
            lambda *a: tuple(pq_of_classes(*a)[i] for i in (0, 2, 1)),
            "You return PQ, RQ, SQ. The order is PQ, SQ, RQ.",
        ),
        "empty": (
            lambda *a: torch.stack([torch.stack(row) for row in zip(*pq_of_classes(*a), strict=True)], 1),
            "There may be no class: return three results of length 0. Stacking nothing is an error.",
        ),
        "pq_alone": (lambda *a: pq_of_classes(*a)[0], "You return PQ alone. Return PQ, SQ and RQ."),
        "means": (
            lambda *a: tuple(part.nanmean() for part in pq_of_classes(*a)),
            "You take the mean over classes. Return K numbers each.",
        ),
        "percent": (lambda *a: tuple(100 * part for part in pq_of_classes(*a)), "Return numbers from 0 to 1."),
        "average": (
            lambda *a: (
                (pq_of_classes(*a)[1] + pq_of_classes(*a)[2]) / 2,
                *pq_of_classes(*a)[1:],
            ),
            "Your PQ is the mean of SQ and RQ. It is their product.",
        ),
    },
    right={
        "NumPy": _pq_numpy,
        "class by class, lists": _pq_one_by_one,
        "rows of a tensor": lambda *a: torch.stack(list(pq_of_classes(*a))),
    },
    probes=_counts,
    hint="SQ = sum of IoUs / TP, RQ = TP / (TP + ½ FP + ½ FN), PQ their product; NaN where all three counts are 0.",
    sketch="""
        weight = tp + ... + ...                  # (K,)
        sq = iou / tp.clamp(min=1)               # 0 without a match
        rq = tp / weight                         # 0 / 0 is NaN: nothing there
        return ..., torch.where(weight > 0, sq, torch.nan), rq
    """,
)


# Six predictions, by hand --------------------------------------------------------------------------------------------

LEDGER = Exercise(
    solution=(1, 2, 2, 0.8 / 3),
    wrong={
        "half_is_enough": (
            (2, 1, 1, 1.3 / 3),
            "The IoU of q with B is exactly ½, and a match needs more.",
        ),
        "classes": (
            (2, 2, 1, 1.7 / 3.5),
            "The prediction u is called a tree. Segments of two classes never match, so C is missed.",
        ),
        "tree_counts": (
            (1, 3, 2, 0.8 / 3.5),
            "The prediction u is a false positive of class *tree*, not of class person.",
        ),
        "crowd_counts": (
            (1, 4, 2, 0.8 / 4),
            "The predictions r and s lie mostly in a crowd of their class: they are ignored.",
        ),
        "everything_counts": (
            (1, 5, 2, 0.8 / 4.5),
            "Three predictions too many: r and s are ignored because of the crowd, and u is a matter of class tree.",
        ),
        "crowd_missed": (
            (1, 2, 3, 0.8 / 3.5),
            "A crowd is never missed, so it is no false negative.",
        ),
        "half_in_void": (
            (1, 1, 2, 0.8 / 2.5),
            "Of t exactly half lies in void. It is ignored only when *more* than half does.",
        ),
        "half_is_enough_twice": (
            (2, 0, 1, 1.3 / 2.5),
            "Exactly ½ appears twice, and it is never enough: q doesn't match B, and t isn't ignored.",
        ),
        "c_found": (
            (1, 2, 1, 0.8 / 2.5),
            "No *person* matches C: the prediction u is called a tree. So C is missed.",
        ),
        "percent": ((1, 2, 2, 80 / 3), "Give PQ as a number from 0 to 1."),
        "full_weight": (
            (1, 2, 2, 0.8 / 5),
            "Each FP and FN counts half in the denominator.",
        ),
        "quality": ((1, 2, 2, 0.8), "That is SQ. PQ = SQ · RQ."),
        "recognition": ((1, 2, 2, 1 / 3), "That is RQ. PQ = SQ · RQ."),
    },
    right={
        "two digits": (1, 2, 2, 0.27),
        "three digits, a list": [1, 2, 2, 0.267],
        "a tensor": torch.tensor([1, 2, 2, 0.2667]),
    },
    tolerance=5e-3,
    hint="Take the predictions one by one: matched, ignored or neither? Then the true persons.",
    sketch="""
        p: matched with A (0.8)                  # TP
        q: IoU with B is not above ...           # so B is ...
        r, s: more than half in ...              # ...
        t: ... in void
        u: another class                         # so C is ...
        PQ = sum of IoUs / (TP + FP / 2 + FN / 2)
    """,
)


# Segments of Cityscapes ----------------------------------------------------------------------------------------------


def cityscapes_segments(ids: Tensor, things: Sequence[int], stuff: Sequence[int]) -> list[tuple[int, int, bool]]:
    """The segments (id, class, is a crowd) of a map of Cityscapes' ids, by rising id."""
    found = []
    for number in sorted(set(ids.flatten().tolist())):
        label = number // 1000 if number >= 1000 else number
        if label in things or label in stuff:
            found.append((number, label, label in things and number < 1000))
    return found


Reader = Callable[[Tensor, Sequence[int], Sequence[int]], Any]


def _cityscapes_if(
    *,
    label: Callable[[int], int] = lambda n: n // 1000 if n >= 1000 else n,
    crowd: Callable[[int, bool], bool] = lambda n, thing: thing and n < 1000,
    void: bool = False,
    in_order: bool = True,
) -> Reader:
    def answer(ids: Tensor, things: Sequence[int], stuff: Sequence[int]) -> list[tuple[int, int, bool]]:
        numbers = ids.flatten().tolist()
        numbers = sorted(set(numbers)) if in_order else list(dict.fromkeys(numbers))
        classes = [(n, label(n)) for n in numbers]
        return [(n, k, crowd(n, k in things)) for n, k in classes if void or k in things or k in stuff]

    return answer


def _cityscapes_numpy(ids: Tensor, things: Sequence[int], stuff: Sequence[int]) -> list[list[Any]]:
    numbers = np.unique(ids.numpy())
    labels = np.where(numbers < 1000, numbers, numbers // 1000)
    kept = np.isin(labels, [*things, *stuff])
    crowd = np.isin(labels, list(things)) & (numbers < 1000)
    return [[n, k, c] for n, k, c in zip(numbers[kept], labels[kept], crowd[kept], strict=True)]


def _cityscapes_pixel_by_pixel(ids: Tensor, things: Sequence[int], stuff: Sequence[int]) -> list[tuple[int, int, bool]]:
    seen: set[tuple[int, int, bool]] = set()
    for row in ids.tolist():
        for n in row:
            if n >= 1000 and n // 1000 in things:
                seen.add((n, n // 1000, False))
            elif n in stuff or n in things:
                seen.add((n, n, n in things))
    return sorted(seen)


def _streets() -> Mapping[str, tuple[Tensor, list[int], list[int]]]:
    things, stuff = [24, 26, 1], [7, 23, 8]
    return {
        "a road, the sky, two people": (torch.tensor([[23, 23], [24_001, 24_000], [7, 7]]), things, stuff),
        "a group of people": (torch.tensor([[24, 24], [24_003, 7]]), things, stuff),
        "void": (torch.tensor([[0, 4, 23], [-1, 3, 26_002]]), things, stuff),
        "ids that appear in falling order": (torch.tensor([[26_001, 26_000], [24_000, 8]]), things, stuff),
        "an id twice": (torch.tensor([[26_001, 7, 26_001]]), things, stuff),
        "a class of one digit": (torch.tensor([[1_000, 1_012]]), things, stuff),
        "an object with a number of three digits": (torch.tensor([[26_123, 24_100]]), things, stuff),
        "objects of a class that is void": (torch.tensor([[9_001, 30_002, 23]]), things, stuff),
        "only void": (torch.tensor([[0, 0]]), things, stuff),
    }


CITYSCAPES = Exercise(
    solution=cityscapes_segments,
    wrong={
        "remainder": (
            _cityscapes_if(label=lambda n: n % 1000 if n >= 1000 else n),
            "The remainder is the number of the object. The class is what stands before it: id // 1000.",
        ),
        "ids_as_classes": (
            _cityscapes_if(label=lambda n: n),
            "From 1000 on the id is class · 1000 + number. The class is id // 1000.",
        ),
        "always_divided": (
            _cityscapes_if(label=lambda n: n // 1000),
            "Below 1000 the id is the class itself: stuff, and groups of things.",
        ),
        "two_digits": (
            _cityscapes_if(label=lambda n: int(str(abs(n))[:2])),
            "You take the first two digits for the class. A class may have one digit, as in 1000 or 1012.",
        ),
        "hundreds": (
            _cityscapes_if(label=lambda n: n // 1000 if n > 1000 else n),
            "1000 itself is class 1, object 0: an object is an id of *at least* 1000.",
        ),
        "no_crowd": (
            _cityscapes_if(crowd=lambda n, thing: False),
            "A thing class below 1000 has no number: several objects under one id, a crowd.",
        ),
        "number_0": (
            _cityscapes_if(crowd=lambda n, thing: thing and (n < 1000 or n % 1000 == 0)),
            "24000 is object 0 of class 24, no crowd: numbers begin at 0. A crowd has an id below 1000.",
        ),
        "stuff_as_crowd": (
            _cityscapes_if(crowd=lambda n, thing: n < 1000),
            "Stuff is never a crowd. A crowd is a *thing* class without an object's number.",
        ),
        "things_as_crowds": (
            _cityscapes_if(crowd=lambda n, thing: thing),
            "An id of 1000 or more is one object, no crowd.",
        ),
        "void": (
            _cityscapes_if(void=True),
            "Ids whose class is in neither list are void: leave them out.",
        ),
        "zero_and_below": (
            lambda ids, things, stuff: [s for s in _cityscapes_if(void=True)(ids, things, stuff) if s[0] > 0],
            "Not only 0 and −1 are void: so is every id whose class is in neither list.",
        ),
        "things_alone": (
            lambda ids, things, stuff: cityscapes_segments(ids, things, []),
            "Stuff is missing. A class in `stuff` is a segment, too.",
        ),
        "stuff_alone": (
            lambda ids, things, stuff: cityscapes_segments(ids, [], stuff),
            "Things are missing. A class in `things` is a segment, too.",
        ),
        "groups_left_out": (
            lambda ids, things, stuff: [s for s in cityscapes_segments(ids, things, stuff) if not s[2]],
            "You leave out groups of things. They are segments that are marked as a crowd.",
        ),
        "order": (
            _cityscapes_if(in_order=False),
            "The segments are right. Return them by rising id.",
        ),
        "things_first": (
            lambda *a: sorted(cityscapes_segments(*a), key=lambda s: s[1] not in a[1]),
            "The segments are right, but things come first. Return all of them by rising id.",
        ),
        "every_pixel": (
            lambda ids, things, stuff: [
                s
                for n in sorted(ids.flatten().tolist())
                for s in cityscapes_segments(torch.tensor([[n]]), things, stuff)
            ],
            "You list a segment for every pixel. An id is one segment, however often it occurs.",
        ),
        "class_first": (
            lambda ids, things, stuff: [(k, n, c) for n, k, c in cityscapes_segments(ids, things, stuff)],
            "The order is id, class, crowd.",
        ),
    },
    right={
        "NumPy, rows as lists": _cityscapes_numpy,
        "pixel by pixel, a set": _cityscapes_pixel_by_pixel,
    },
    probes=_streets,
    hint="For every id once: its class, whether that is a thing, stuff or void, and whether it has an object's number.",
    sketch="""
        found = []
        for number in sorted(set(...)):
            label = number // 1000 if ... else number
            if label in things or label in stuff:
                found.append((number, label, ...))
        return found
    """,
)


# PQ without classes --------------------------------------------------------------------------------------------------


def agnostic_pq(pred: Tensor, true: Tensor) -> float:
    """PQ of two maps of ids ``(H, W)``, 0 = void, as if all segments had one class; NaN when there is no segment."""
    p, t = (v.unique(return_inverse=True) for v in (_with_void(pred), _with_void(true)))
    P, T = len(p[0]) - 1, len(t[0]) - 1
    table = pixel_table(p[1][1:], t[1][1:], P, T)  # the first pixel is the void that was put in
    iou = iou_with_void(table)
    good = iou > 0.5
    no_class = torch.zeros(P, dtype=torch.int64)
    ignored = ignored_predictions(table, no_class, torch.zeros(T, dtype=torch.int64), torch.zeros(T, dtype=torch.bool))
    tp = int(good.sum())
    fp = int((~good.any(1) & ~ignored).sum())
    weight = tp + (fp + T - tp) / 2
    return float(iou[good].sum()) / weight if weight else math.nan


def _with_void(ids: Tensor) -> Tensor:
    """The ids in one row behind a void pixel, so that void is their first value."""
    return torch.cat([ids.new_zeros(1), ids.flatten()])


def _agnostic(
    *,
    void: bool = False,
    void_of_truth: bool = True,
    above: Callable[[float], bool] = lambda iou: iou > 0.5,
    ignored: Callable[[int, int], bool] = lambda void, area: 2 * void > area,
    score: Callable[[list[float], int, int], float] | None = None,
    empty: float = math.nan,
) -> Callable[[Tensor, Tensor], float]:
    """Segment by segment, with one rule changed."""

    def answer(pred: Tensor, true: Tensor) -> float:
        ps, ts = ([i for i in v.unique().tolist() if i] for v in (pred, true))
        matched: list[float] = []
        hit, fp = set(), 0
        for p in ps:
            mine = pred == p
            found = False
            for t in ts:
                own_ = true == t
                union = mine | (own_ if void_of_truth else own_ & (pred != 0))
                union = union if void else union & (true != 0)
                iou = int((mine & own_).sum()) / max(1, int(union.sum()))
                if above(iou):
                    matched.append(iou)
                    hit.add(t)
                    found = True
            fp += not found and not ignored(int((mine & (true == 0)).sum()), int(mine.sum()))
        fn = len([t for t in ts if t not in hit and (void_of_truth or bool(((true == t) & (pred != 0)).any()))])
        if score is not None:
            return score(matched, fp, fn)
        weight = len(matched) + (fp + fn) / 2
        return sum(matched) / weight if weight else empty

    return answer


def _ignored_first(pred: Tensor, true: Tensor) -> float:
    """Leaves out what is mostly void before it matches."""
    mostly_void = [p for p in pred.unique().tolist() if p and 2 * (true[pred == p] == 0).sum() > (pred == p).sum()]
    return agnostic_pq(torch.where(torch.isin(pred, torch.tensor(mostly_void)), 0, pred), true)


def _void_cut_off(pred: Tensor, true: Tensor) -> float:
    """Takes true void out of the prediction, so that no prediction lies in it any more."""
    return agnostic_pq(pred.where(true != 0, 0), true)


def _over_all_ids(pred: Tensor, true: Tensor) -> float:
    """A table with a row and a column for every number up to the largest id."""
    n = 1 + int(torch.stack([pred, true]).max())
    torch.zeros(n, n)
    return agnostic_pq(pred, true)


def _agnostic_numpy(pred: Tensor, true: Tensor) -> float:
    a, b = pred.numpy(), true.numpy()
    pairs, counts = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1, return_counts=True)
    area, size = ({int(i): int(n) for i, n in zip(*np.unique(v, return_counts=True), strict=True)} for v in (a, b))
    shared = {(int(p), int(t)): int(n) for p, t, n in zip(*pairs, counts, strict=True)}
    total, tp, left, missed = 0.0, 0, set(area) - {0}, set(size) - {0}
    for (p, t), n in shared.items():
        if p and t and n / (area[p] - shared.get((p, 0), 0) + size[t] - n) > 0.5:
            total += n / (area[p] - shared.get((p, 0), 0) + size[t] - n)
            tp += 1
            left.discard(p)
            missed.discard(t)
    fp = sum(shared.get((p, 0), 0) <= area[p] / 2 for p in left)
    return total / (tp + 0.5 * fp + 0.5 * len(missed)) if tp + fp + len(missed) else float("nan")


def _agnostic_in_place(pred: Tensor, true: Tensor) -> Tensor:
    """Empties true void in the prediction, once it is clear what is ignored."""
    void = true == 0
    kept = [int(p) for p in pred.unique() if p]
    ignored = {p for p in kept if int(((pred == p) & void).sum()) * 2 > int((pred == p).sum())}
    pred[void] = 0
    ts = [int(t) for t in true.unique() if t]
    iou = torch.tensor(
        [[float(((pred == p) & (true == t)).sum() / ((pred == p) | (true == t)).sum()) for t in ts] for p in kept]
    ).view(len(kept), len(ts))
    good = iou > 0.5
    fp = sum(not bool(row.any()) and p not in ignored for p, row in zip(kept, good, strict=True))
    return iou[good].sum() / (good.sum() + 0.5 * fp + 0.5 * (len(ts) - good.sum()))


def _maps() -> Mapping[str, tuple[Tensor, Tensor]]:
    def case(pred: Any, true: Any) -> tuple[Tensor, Tensor]:
        return torch.tensor(pred), torch.tensor(true)

    g = torch.Generator().manual_seed(3)
    true = torch.randint(4, (4, 5), generator=g).repeat_interleave(6, 0).repeat_interleave(6, 1)  # blocks, 0 to 3
    pred = torch.where(torch.rand(true.shape, generator=g) < 0.15, 0, true * 1000).roll(1, 1)
    return {
        "two segments, one pixel wrong": case([[1, 1, 1, 2], [1, 1, 2, 2]], [[1, 1, 2, 2], [1, 1, 2, 2]]),
        "other ids than the truth's": case([[16_000_000, 16_000_000, 9, 9]], [[4, 4, 300, 300]]),
        "ids that agree in their last 8 bits": case([[7, 7, 256, 256]], [[300, 300, 44, 44]]),
        "an IoU of exactly ½": case([[1, 1, 2, 2]], [[1, 1, 1, 1]]),
        "a prediction without a partner": case([[1, 1, 1, 1, 2]], [[1, 1, 1, 1, 1]]),
        "a true segment that is missed": case([[1, 1, 1, 1, 1]], [[1, 1, 1, 1, 2]]),
        "true void in a prediction": case([[1, 1, 1, 1, 1]], [[1, 1, 1, 0, 0]]),
        "a true segment partly predicted as void": case([[1, 1, 1, 0]], [[1, 1, 1, 1]]),
        "a true segment predicted as void alone": case([[1, 1, 0, 0]], [[1, 1, 2, 2]]),
        "a prediction mostly in void": case([[1, 1, 2, 2, 2]], [[1, 1, 1, 0, 0]]),
        "a match that lies mostly in void": case([[1, 1, 1, 1]], [[1, 0, 0, 0]]),
        "a prediction half in void": case([[1, 1, 1, 2, 2]], [[1, 1, 1, 1, 0]]),
        "a prediction with a third in void": case([[1, 1, 1, 1, 1, 2, 2, 2]], [[1, 1, 1, 1, 1, 1, 1, 0]]),
        "blocks moved by a pixel": (pred, true),
        "no prediction": case([[0, 0]], [[1, 1]]),
        "no true segment": case([[1, 1]], [[0, 0]]),
        "nothing at all": case([[0, 0]], [[0, 0]]),
    }


AGNOSTIC = Exercise(
    solution=agnostic_pq,
    wrong={
        "void_in_the_union": (
            _agnostic(void=True),
            "Pixels of a prediction in true void are still in the union. Leave them out.",
        ),
        "void_of_both": (
            _agnostic(void_of_truth=False),
            "You also leave out what is *predicted* as void. Those pixels of the truth are missed and stay.",
        ),
        "at_least": (_agnostic(above=lambda iou: iou >= 0.5), "An IoU of exactly ½ is no match."),
        "never_ignored": (
            _agnostic(ignored=lambda void, area: False),
            "A prediction without a match of which more than half lies in void is ignored, no false positive.",
        ),
        "ignored_first": (
            _ignored_first,
            "You ignore predictions before they match. Only those that match nothing are ignored.",
        ),
        "void_cut_off": (
            _void_cut_off,
            "You take void out of the predictions first, and then no prediction lies in void. Count it before.",
        ),
        "over_all_ids": (
            _over_all_ids,
            "Ids may be large, and a table of all numbers up to the largest one doesn't fit. Take the ids that occur "
            "(`unique`).",
        ),
        "ignored_at_half": (
            _agnostic(ignored=lambda void, area: 2 * void >= area),
            "Exactly half in void is not more than half: such a prediction is a false positive.",
        ),
        "ignored_by_a_pixel": (
            _agnostic(ignored=lambda void, area: void > 0),
            "A single pixel in void doesn't excuse a prediction. More than half of it must lie there.",
        ),
        "sq": (
            _agnostic(score=lambda m, fp, fn: sum(m) / max(1, len(m)) if m or fp or fn else math.nan),
            "That is SQ, the mean IoU of the matches. Divide by TP + ½ FP + ½ FN.",
        ),
        "rq": (
            _agnostic(score=lambda m, fp, fn: len(m) / (len(m) + (fp + fn) / 2) if m or fp or fn else math.nan),
            "That is RQ. Add up the IoUs of the matches, don't count them.",
        ),
        "whole": (
            _agnostic(score=lambda m, fp, fn: sum(m) / (len(m) + fp + fn) if m or fp or fn else math.nan),
            "FP and FN count half each.",
        ),
        "without_fp": (
            _agnostic(score=lambda m, fp, fn: sum(m) / (len(m) + fn / 2) if m or fn else 0.0 if fp else math.nan),
            "False positives are missing in the denominator.",
        ),
        "without_fn": (
            _agnostic(score=lambda m, fp, fn: sum(m) / (len(m) + fp / 2) if m or fp else 0.0 if fn else math.nan),
            "False negatives are missing in the denominator.",
        ),
        "zero_for_nothing": (
            _agnostic(empty=0.0),
            "Without any TP, FP and FN there is nothing to score: return NaN, not 0.",
        ),
        "one_for_nothing": (
            _agnostic(empty=1.0),
            "Without any TP, FP and FN there is nothing to score: return NaN, not 1.",
        ),
        "ids_must_agree": (
            lambda pred, true: agnostic_pq(
                torch.where(pred == true, pred, torch.where(pred > 0, pred + 10**6, 0)), true
            ),
            "You compare the segments with one id. The ids of two maps have nothing to do with each other.",
        ),
        "eight_bits": (
            lambda pred, true: agnostic_pq(pred % 256, true % 256),
            "Ids may be larger than 255. In 8 bits two of them become one, or void.",
        ),
        "swapped": (
            lambda pred, true: agnostic_pq(true, pred),
            "You treat void the other way round. Only *true* void leaves the union.",
        ),
    },
    right={
        "NumPy, pairs of ids": _agnostic_numpy,
        "in place": _agnostic_in_place,
        "segment by segment": _agnostic(),
    },
    probes=_maps,
    hint="Table, IoU with void, matches above ½, ignored predictions, then the sum of IoUs over TP + ½ FP + ½ FN.",
    sketch="""
        p = pred.unique(); p = p[p != 0]         # and t likewise
        inside = ...                             # (P, T) shared pixels
        union = ...                              # true void is left out
        iou = inside / union
        good = iou > ...
        fp = predictions without a match, unless ... lies in void
        return iou[good].sum() / (good.sum() + fp / 2 + ... / 2)
    """,
)


# Break this metric ---------------------------------------------------------------------------------------------------

LETTERS = "GWRB"
"""The classes of the map that readers break: grass, water, road, bird."""

RIVER = (
    "GGGGGGGWWGGGGGGG",
    "GGGGGGGWWGGGGGGG",
    "GGGGGGGWWGGGGGGG",
    "RRRRRRRRRRRRRRRR",
    "RRRRRRRWWRRRRRRR",
    "GGGGGGGWWGGGGGGG",
    "GGGGGGGWWGGGGGGG",
    "GGGGGGGWWGGGGGGG",
    "GGGGGGGWWGGGGGGG",
)
"""A road over a river: the bridge is one pixel wide."""


def class_map(rows: Sequence[str]) -> Tensor:
    """Rows of letters as classes ``(H, W)``."""
    return torch.tensor([[LETTERS.index(letter) for letter in row] for row in rows])


def river_pq(rows: Sequence[str]) -> float:
    """PQ of a map whose classes are one segment each, against :data:`RIVER`."""
    K = len(LETTERS)
    table = pixel_table(class_map(rows) + 1, class_map(RIVER) + 1, K, K)
    there = table.sum(1)[1:] > 0, table.sum(0)[1:] > 0
    iou = iou_with_void(table).diagonal()
    tp = (iou > 0.5).long()
    fp, fn = (side.long() - tp for side in there)
    return float(pq_of_classes(iou * tp, tp, fp, fn)[0].nanmean())


def can_cross(rows: Sequence[str]) -> bool:
    """Whether road leads from the first to the last column; steps go to the four neighbours."""
    shapes, _ = ndimage.label([[letter == "R" for letter in row] for row in rows])
    return bool(set(shapes[:, 0]) & set(shapes[:, -1]) - {0})


def _breaks(attempt: Any) -> None:
    form = f"Give two maps, each a list of {len(RIVER)} texts of {len(RIVER[0])} letters."
    expect(isinstance(attempt, tuple | list) and len(attempt) == 2, form)
    expect(
        all(isinstance(part, str | tuple | list | np.ndarray) for part in attempt),
        "Each map is a list of texts, one for each row.",
    )
    maps = [part.split() if isinstance(part, str) else ["".join(map(str, row)) for row in part] for part in attempt]
    for rows in maps:
        expect(len(rows) == len(RIVER) and all(len(row) == len(RIVER[0]) for row in rows), form)
        expect(not set("".join(rows)) - set(LETTERS), f"The letters are {', '.join(LETTERS)}.")
    harmless, fatal = maps
    wrong = sum(a != b for one, other in zip(harmless, RIVER, strict=True) for a, b in zip(one, other, strict=True))
    expect(wrong == 1, f"The first map must differ from the truth in exactly one pixel, not in {wrong}.")
    expect(can_cross(harmless), "In the first map the road must still lead across.")
    expect(
        river_pq(harmless) <= 0.75,
        "The first map's PQ is above 0.75: the pixel costs its two classes a little IoU. Which change adds a segment "
        "that matches nothing?",
    )
    expect(
        not can_cross(fatal),
        "In the second map the road still leads from left to right. Cut it.",
    )
    expect(
        river_pq(fatal) >= 0.95,
        f"The second map has a PQ of {river_pq(fatal):.3f}, and 0.95 is wanted. Cut the road where it costs least.",
    )


def _painted(*changes: tuple[int, int, str]) -> list[str]:
    """:data:`RIVER` with some pixels changed: (row, column, letter)."""
    rows = [list(row) for row in RIVER]
    for row, column, letter in changes:
        rows[row][column] = letter
    return ["".join(row) for row in rows]


_BIRD, _CUT = _painted((1, 2, "B")), _painted((3, 7, "W"))

BREAK = Exercise(
    solution=(_BIRD, _CUT),
    wrong={
        "one_map": ((_BIRD,), "Give two maps, each a list of 9 texts of 16 letters."),
        "pq": ((0.7, 0.96), "Each map is a list of texts, one for each row."),
        "another_letter": (
            (_painted((0, 0, "X")), _CUT),
            "The letters are G, W, R, B.",
        ),
        "two_pixels": (
            (_painted((1, 2, "B"), (1, 3, "B")), _CUT),
            "The first map must differ from the truth in exactly one pixel, not in 2.",
        ),
        "no_pixel": (
            (list(RIVER), _CUT),
            "The first map must differ from the truth in exactly one pixel, not in 0.",
        ),
        "harm": ((_painted((3, 8, "B")), _CUT), "In the first map the road must still lead across."),
        "known_class": (
            (_painted((1, 2, "W")), _CUT),
            "The first map's PQ is above 0.75: the pixel costs its two classes a little IoU. Which change adds a "
            "segment that matches nothing?",
        ),
        "still_crossing": (
            (_BIRD, _painted((4, 6, "W"))),
            "In the second map the road still leads from left to right. Cut it.",
        ),
        "too_much": (
            (_BIRD, _painted(*((row, column, "W") for row in (3, 4) for column in (6, 7, 8, 9)))),
            "The second map has a PQ of 0.842, and 0.95 is wanted. Cut the road where it costs least.",
        ),
        "a_bird_on_the_bridge": (
            (_BIRD, _painted((3, 7, "B"))),
            "The second map has a PQ of 0.742, and 0.95 is wanted. Cut the road where it costs least.",
        ),
    },
    right={
        "a bird in the sky's place, grass on the bridge": (_painted((8, 15, "B")), _painted((3, 8, "G"))),
        "texts with line breaks": ("\n".join(_painted((0, 7, "B"))), "\n".join(_CUT)),
        "lists of letters": ([list(row) for row in _painted((8, 0, "B"))], np.array([list(row) for row in _CUT])),
        "tuples, a cut beside the bridge": (
            tuple(_painted((4, 0, "B"))),
            tuple(_painted((3, 9, "G"), (4, 9, "G"))),
        ),
    },
    verify=_breaks,
    compared=False,
    hint="A class that isn't in the truth gets a PQ of 0; the narrowest place of the road has few pixels.",
    sketch="""
        harmless = the truth with one pixel of the class that ...
        fatal = the truth with the pixels of the ... as water or grass
        my_maps = (harmless, fatal)
    """,
)


EXERCISES: dict[str, Exercise] = {
    "ch13.index": INDEX,
    "ch13.table": TABLE,
    "ch13.iou": IOU,
    "ch13.match": MATCH,
    "ch13.ignored": IGNORED,
    "ch13.pq": PQ,
    "ch13.ledger": LEDGER,
    "ch13.cityscapes": CITYSCAPES,
    "ch13.agnostic": AGNOSTIC,
    "ch13.break": BREAK,
}
