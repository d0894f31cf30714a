"""Chapter 13: the exercises on the score: PQ of counts, by hand, without classes, and how to break it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from seglib.book.exercise import Exercise, expect
from seglib.book.exercises.ch13_matching import ignored_predictions, iou_with_void, pixel_table

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
