"""Chapter 13: the exercises on matching: intersections, IoU with void, matches, what is ignored."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.book.exercise import Exercise

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
