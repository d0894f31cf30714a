"""The exercises of chapter 9, "Average precision"."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from seglib.book.exercise import Exercise
from seglib.book.exercises import ch09_curves
from seglib.metrics.ap_matching import IOU_THRESHOLDS

# One wrong detection among two right ones -----------------------------------------------------------------------------

ORDER = Exercise(
    solution=(2 / 3, 5 / 6, 1.0),
    wrong={
        "not_interpolated": (
            (7 / 12, 5 / 6, 1.0),
            "With the wrong one in front you took the precision at the first hit, 1/2. The interpolation takes the "
            "largest precision at that recall or a higher one.",
        ),
        "final_precision": (
            (2 / 3, 2 / 3, 2 / 3),
            "That is the precision of the whole list, which doesn't depend on the order. AP does.",
        ),
        "reversed": ((1.0, 5 / 6, 2 / 3), "The three numbers are in the reverse order: the wrong one in front first."),
        "over_detections": (
            (7 / 18, 13 / 18, 8 / 9),
            "You took the mean of the precision over the three detections. AP is a mean over recall, which moves at "
            "the hits only.",
        ),
        "percent": ((200 / 3, 250 / 3, 100.0), "Right, but as percentages: give fractions between 0 and 1."),
        "end_costs": (
            (2 / 3, 5 / 6, 2 / 3),
            "When the wrong one comes last both objects are found already: what does it change?",
        ),
        "first_hit": (
            (1 / 2, 1.0, 1.0),
            "You take the precision at the first hit for all recalls. It holds up to recall 1/2; beyond it the "
            "precision at the second hit counts.",
        ),
        "last_hit": (
            (0.6665, 0.6665, 1.0),
            "You take the precision at the last hit for all recalls. With the wrong one in the middle, what is the "
            "largest precision at a recall of up to 1/2?",
        ),
    },
    right={
        "fractions as a list": [2 / 3, 5 / 6, 1],
        "a tensor": torch.tensor([0.667, 0.833, 1.0]),
        "two digits": (0.67, 0.83, 1),
        "at 101 recalls": (2 / 3, (51 + 50 * 2 / 3) / 101, 1.0),
    },
    hint="Three numbers: the wrong one in front, in the middle, at the end. Write down precision at both hits, then "
    "replace it by the largest one from there on.",
    sketch="""
        recall up to 1/2: the largest precision at the first hit or later = ...
        recall up to 1:   the precision at the second hit = ...
        area = 1/2 · ... + 1/2 · ...
    """,
    tolerance=5e-3,
)


# Matching -------------------------------------------------------------------------------------------------------------


def _choices(iou: Tensor, threshold: float, *, again: bool = False, strict: bool = False) -> list[int]:
    """The object of every detection, −1 for none, best score first."""
    free, taken = set(range(iou.shape[1])), []
    for row in iou.tolist():
        wishes = [(row[g], g) for g in sorted(free) if (row[g] > threshold if strict else row[g] >= threshold)]
        g = max(wishes)[1] if wishes else -1
        if not again:
            free.discard(g)
        taken.append(g)
    return taken


def match_greedily(iou: Tensor, threshold: float) -> list[int]:
    """The object that every detection takes, −1 for none. Rows are detections by falling score."""
    return _choices(iou, threshold)


def _match_argmax(iou: Tensor, threshold: float) -> list[int]:
    """PASCAL VOC: the object of largest IoU or none."""
    used: set[int] = set()
    taken = []
    for row in iou:
        best = int(row.argmax()) if len(row) else -1
        fits = best >= 0 and float(row[best]) >= threshold and best not in used
        taken.append(best if fits else -1)
        if fits:
            used.add(best)
    return taken


def _match_first(iou: Tensor, threshold: float) -> list[int]:
    free, taken = list(range(iou.shape[1])), []
    for row in iou.tolist():
        g = next((g for g in free if row[g] >= threshold), -1)
        if g >= 0:
            free.remove(g)
        taken.append(g)
    return taken


def _match_objects_choose(iou: Tensor, threshold: float) -> list[int]:
    chosen = _choices(iou.T, threshold)  # for every object a detection
    return [chosen.index(d) if d in chosen else -1 for d in range(len(iou))]


def _match_optimal(iou: Tensor, threshold: float) -> list[int]:
    fits = iou >= threshold
    rows, columns = linear_sum_assignment(-(fits.double() * (1 + iou.double() / 100)).numpy())
    pairs = {int(d): int(g) for d, g in zip(rows, columns, strict=True) if fits[d, g]}
    return [pairs.get(d, -1) for d in range(len(iou))]


def _match_pairs(iou: Tensor, threshold: float) -> list[int]:
    """The pair of largest IoU first, whatever the scores."""
    taken = [-1] * len(iou)
    pairs = sorted(((float(v), d, g) for (d, g), v in np.ndenumerate(iou.double().numpy())), reverse=True)
    for value, d, g in pairs:
        if value >= threshold and taken[d] < 0 and g not in taken:
            taken[d] = g
    return taken


def _match_uses_up(iou: Tensor, threshold: float) -> list[int]:
    """A detection below the threshold takes its object out of the game."""
    left, taken = iou.double().clone(), []
    for row in left:
        g = int(row.argmax()) if len(row) else -1
        taken.append(g if g >= 0 and float(row[g]) >= threshold else -1)
        if g >= 0:
            left[:, g] = -1.0
    return taken


def _match_backwards(iou: Tensor, threshold: float) -> list[int]:
    return _choices(iou.flip(0), threshold)[::-1]


def _match_in_place(iou: Tensor, threshold: float) -> Tensor:
    """Crosses out the columns of its argument."""
    taken = torch.full((len(iou),), -1)
    for d in range(len(iou) if iou.shape[1] else 0):
        best, g = iou[d].max(0)
        if best >= threshold:
            taken[d] = g
            iou[:, g] = -1.0
    return taken


def _match_numpy(iou: Tensor, threshold: float) -> np.ndarray:
    table, free = iou.numpy(), np.ones(iou.shape[1], bool)
    out = np.full(len(table), -1)
    for d, row in enumerate(table):
        fits = np.flatnonzero(free & (row >= threshold))
        if len(fits):
            out[d] = fits[row[fits].argmax()]
            free[out[d]] = False
    return out


def _tables() -> Mapping[str, tuple[Tensor, float]]:
    second = torch.tensor([[0.8, 0.6], [0.7, 0.65], [0.9, 0.1]])  # its first wish is taken, it takes its second
    steal = torch.tensor([[0.55, 0.6, 0.0], [0.0, 0.7, 0.0], [0.1, 0.0, 0.5]])  # the best score takes the middle one
    below = torch.tensor([[0.4, 0.45], [0.75, 0.2]])
    needed = torch.tensor([[0.9, 0.8], [0.6, 0.0]])  # the best score takes what the other one needs
    return {
        "a detection whose best object is taken": (second, 0.5),
        "a detection that overlaps two objects": (steal, 0.5),
        "a detection that needs the object of a better one": (needed, 0.5),
        "an IoU of exactly the threshold": (torch.tensor([[0.5, 0.25], [0.0, 0.75]], dtype=torch.float64), 0.75),
        "overlaps below the threshold": (below, 0.5),
        "a detection below the threshold before one above": (torch.tensor([[0.45], [0.75]]), 0.5),
        "two detections of one object": (torch.tensor([[0.9], [0.6]]), 0.5),
        "an object whose best detection fits another better": (torch.tensor([[0.6, 0.9], [0.55, 0.0]]), 0.5),
        "a third detection of one object": (torch.tensor([[0.1, 0.9], [0.2, 0.85], [0.3, 0.95]]), 0.5),
        "no object": (torch.zeros(2, 0), 0.5),
        "no detection": (torch.zeros(0, 3), 0.5),
    }


MATCH = Exercise(
    solution=match_greedily,
    wrong={
        "taken_twice": (
            lambda iou, threshold: _choices(iou, threshold, again=True),
            "Two of your detections take the same object. Each object can be found once; what comes later must look "
            "for another one.",
        ),
        "strict": (
            lambda iou, threshold: _choices(iou, threshold, strict=True),
            "An IoU of exactly the threshold counts: ≥, not >.",
        ),
        "no_second_choice": (
            _match_argmax,
            "Your detection gives up when its best object is taken. That is PASCAL VOC's rule; in COCO it takes the "
            "best one among the *free* ones.",
        ),
        "first_that_fits": (
            _match_first,
            "Your detection takes the first free object that fits. It takes the one of largest IoU.",
        ),
        "objects_choose": (
            _match_objects_choose,
            "Your objects choose their detections. It is the detections that choose, best score first.",
        ),
        "optimal": (
            _match_optimal,
            "You look for the best assignment of all. COCO is greedy: a detection takes its object even if a later "
            "one needs it more.",
        ),
        "no_threshold": (
            lambda iou, threshold: _choices(iou, 0.0),
            "Your detections take objects that they hardly touch: an overlap below the threshold is none.",
        ),
        "pairs": (
            _match_pairs,
            "You take the pairs by falling IoU. The scores decide who chooses first: go through the rows in order.",
        ),
        "uses_up": (
            _match_uses_up,
            "A detection that overlaps too little gets nothing, and its object stays free.",
        ),
        "worst_first": (
            _match_backwards,
            "You begin with the lowest score. The rows stand by falling score: begin at the top.",
        ),
        "counted_from_one": (
            lambda iou, threshold: [g + (g >= 0) for g in match_greedily(iou, threshold)],
            "Objects are counted from 0, as columns are.",
        ),
        "right_or_wrong": (
            lambda iou, threshold: [g >= 0 for g in match_greedily(iou, threshold)],
            "You say whether a detection is right. Return its object, or −1.",
        ),
        "per_object": (
            lambda iou, threshold: [
                match_greedily(iou, threshold).index(g) if g in match_greedily(iou, threshold) else -1
                for g in range(iou.shape[1])
            ],
            "You return the detection of every object. Return the object of every detection.",
        ),
    },
    right={"crossing out in place": _match_in_place, "NumPy": _match_numpy},
    probes=_tables,
    hint="Go through the rows. Among the objects that are still free and overlap at least by the threshold take the "
    "one of largest IoU; else −1.",
    sketch="""
        free = set(range(...))
        for row in iou.tolist():
            wishes = [... for g in free if ...]   # free, and overlapped enough
            taken.append(...)                     # the best of them, or −1
            ...                                   # it is no longer free
    """,
)


# The other AP ---------------------------------------------------------------------------------------------------------


def _counts(iou: Tensor, thresholds: np.ndarray, *, strict: bool = False) -> np.ndarray:
    """True positives at every threshold ``(T,)``, for tables with at most one candidate per row and column."""
    table = iou.double().numpy()
    if not table.size:
        return np.zeros(len(thresholds))
    pairs = table[..., None] > thresholds if strict else table[..., None] >= thresholds  # (D, G, T)
    return pairs.any(1).sum(0).astype(float)


def other_ap(iou: Tensor) -> float:
    """The mean over ten thresholds of TP / (TP + FP + FN), for one image: IoU ``(D, G)``."""
    tp, (d, g) = _counts(iou, IOU_THRESHOLDS), iou.shape
    return float((tp / (d + g - tp)).mean())


def _other_over(denominator: str) -> object:
    def wrong(iou: Tensor) -> float:
        tp, (d, g) = _counts(iou, IOU_THRESHOLDS), iou.shape
        below = {"found": max(d, 1), "objects": g, "both": d + g}[denominator]
        return float((tp / below).mean())

    return wrong


def _other_f1(iou: Tensor) -> float:
    tp, (d, g) = _counts(iou, IOU_THRESHOLDS), iou.shape
    return float((2 * tp / (d + g)).mean())


def _other_at_half(iou: Tensor) -> float:
    tp, (d, g) = float(_counts(iou, IOU_THRESHOLDS[:1])[0]), iou.shape
    return tp / (d + g - tp)


def _other_strict(iou: Tensor) -> float:
    tp, (d, g) = _counts(iou, IOU_THRESHOLDS, strict=True), iou.shape
    return float((tp / (d + g - tp)).mean())


def _other_sums(iou: Tensor) -> float:
    tp, (d, g) = _counts(iou, IOU_THRESHOLDS), iou.shape
    return float(tp.sum() / (d + g - tp).sum())


def _other_thresholds(thresholds: Sequence[float] | np.ndarray) -> Callable[[Tensor], float]:
    def wrong(iou: Tensor) -> float:
        tp, (d, g) = _counts(iou, np.asarray(thresholds)), iou.shape
        return float((tp / (d + g - tp)).mean())

    return wrong


def _other_unmatched(iou: Tensor) -> float:
    """Every detection counts as right as soon as it overlaps something."""
    tp, (d, g) = float((iou > 0).any(1).sum()) if iou.numel() else 0.0, iou.shape
    return tp / (d + g - tp)


def _other_mean_iou(iou: Tensor) -> float:
    return float(iou.max(0).values.mean()) if iou.numel() else 0.0


def _other_loop(iou: Tensor) -> float:
    found = []
    for t in (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95):
        tp = sum(any(v >= t for v in row) for row in iou.tolist())
        found.append(tp / (tp + len(iou) - tp + iou.shape[1] - tp))
    return sum(found) / len(found)


def _other_assigned(iou: Tensor) -> np.floating:
    """With an optimal assignment, as StarDist does it."""
    found = []
    for t in IOU_THRESHOLDS:
        rows, columns = linear_sum_assignment(-(iou >= t).numpy().astype(float))
        tp = int((iou.numpy()[rows, columns] >= t).sum())
        found.append(tp / (sum(iou.shape) - tp))
    return np.mean(found)


def _cells() -> Mapping[str, tuple[Tensor]]:
    return {
        "three cells, two found and one invented": (
            torch.tensor([[0.93, 0.0, 0.0], [0.0, 0.62, 0.1], [0.0, 0.0, 0.3]]),
        ),
        "an IoU of exactly 0.75": (torch.tensor([[0.75, 0.0], [0.0, 0.97]]),),
        "one detection for four cells": (torch.tensor([[0.0, 0.82, 0.0, 0.0]]),),
        "three detections for one cell": (torch.tensor([[0.3], [0.04], [0.62]]),),
        "a perfect answer": (torch.eye(3),),
        "no detection": (torch.zeros(0, 2),),
    }


OTHER = Exercise(
    solution=other_ap,
    wrong={
        "precision": (
            _other_over("found"),
            "You divide by the detections: that is precision. The cells that were missed belong below the line too.",
        ),
        "recall": (
            _other_over("objects"),
            "You divide by the cells: that is recall. The detections of nothing belong below the line too.",
        ),
        "f1": (_other_f1, "That is F1, 2 TP / (2 TP + FP + FN). Here the hits count once, above and below."),
        "counted_twice": (
            _other_over("both"),
            "D + G counts every hit twice. TP + FP + FN is D + G − TP.",
        ),
        "at_half_only": (_other_at_half, "That is the value at IoU 0.5 alone. Take the mean over the ten thresholds."),
        "strict": (_other_strict, "An IoU of exactly the threshold counts here: ≥, not >."),
        "sums_first": (
            _other_sums,
            "You add up over the thresholds first and divide once. Divide at every threshold, then take the mean.",
        ),
        "nine": (
            _other_thresholds(IOU_THRESHOLDS[:-1]),
            "You stop before 0.95: there are ten thresholds, and 0.95 is the last.",
        ),
        "eleven": (
            _other_thresholds(np.linspace(0.5, 1.0, 11)),
            "You go on to 1.0: there are ten thresholds, and 0.95 is the last.",
        ),
        "tenths": (
            _other_thresholds((0.5, 0.6, 0.7, 0.8, 0.9)),
            "The thresholds stand 0.05 apart: 0.5, 0.55, 0.6, …",
        ),
        "any_overlap": (
            _other_unmatched,
            "You count each detection that touches a cell. A hit has an IoU of at least the threshold.",
        ),
        "mean_iou": (
            _other_mean_iou,
            "That is the mean over the cells of their largest IoU. Count hits at ten thresholds instead.",
        ),
        "percent": (
            lambda iou: 100 * other_ap(iou),
            "Right, but as a percentage: give a fraction between 0 and 1.",
        ),
    },
    right={
        "loops": _other_loop,
        "an assignment": _other_assigned,
        "a tensor in place of a number": lambda iou: torch.tensor(other_ap(iou), dtype=torch.float64),
    },
    probes=_cells,
    hint="At each threshold TP is the number of pairs with IoU ≥ t, FP = D − TP and FN = G − TP.",
    sketch="""
        D, G = iou.shape
        for t in np.linspace(0.5, 0.95, 10):
            TP = ...                              # pairs whose IoU is ...
            ratios.append(TP / (...))             # TP + FP + FN, from D, G and TP
        return ...
    """,
)


# The best threshold ---------------------------------------------------------------------------------------------------


def _f1_table(scores: Tensor, right: Tensor, objects: int) -> list[tuple[float, float]]:
    """(F1, score) for every score as the threshold."""
    out = []
    for t in sorted(set(scores.tolist()), reverse=True):
        kept = scores >= t
        out.append((float(2 * right[kept].sum() / (kept.sum() + objects)), t))
    return out


def best_threshold(scores: Tensor, right: Tensor, objects: int) -> float:
    """The score t with the largest F1 of the detections with scores ≥ t; the highest of several."""
    return max(_f1_table(scores, right, objects))[1]


def _best_lowest(scores: Tensor, right: Tensor, objects: int) -> float:
    return max((f, -t) for f, t in _f1_table(scores, right, objects))[1] * -1


def _best_inside_ties(scores: Tensor, right: Tensor, objects: int) -> float:
    order = scores.argsort(descending=True, stable=True)
    f1 = 2 * right[order].double().cumsum(0) / (torch.arange(1, len(scores) + 1) + objects)
    return float(scores[order][f1.argmax()])


def _best_of(measure: str) -> object:
    def wrong(scores: Tensor, right: Tensor, objects: int) -> float:
        rows = []
        for _, t in _f1_table(scores, right, objects):
            kept = scores >= t
            tp, n = float(right[kept].sum()), int(kept.sum())
            found = {"precision": tp / n, "recall": tp / objects, "hits": 2 * tp / (n + float(right.sum()))}
            rows.append((found[measure], t))
        return max(rows)[1]

    return wrong


def _best_index(scores: Tensor, right: Tensor, objects: int) -> int:
    order = scores.argsort(descending=True, stable=True).tolist()
    best = best_threshold(scores, right, objects)
    return max(i for i, at in enumerate(order) if float(scores[at]) == best)


def _best_value(scores: Tensor, right: Tensor, objects: int) -> float:
    return max(_f1_table(scores, right, objects))[0]


def _best_above(scores: Tensor, right: Tensor, objects: int) -> float:
    """Keeps what is above t, so the best t is the score of the first that is dropped."""
    rows = []
    for t in set(scores.tolist()):
        kept = scores > t
        rows.append((float(2 * right[kept].sum() / (kept.sum() + objects)), t))
    return max(rows)[1]


def _best_in_the_middle(scores: Tensor, right: Tensor, objects: int) -> float:
    t = best_threshold(scores, right, objects)
    return (t + max([float(s) for s in scores if s < t], default=0.0)) / 2


def _best_unsorted(scores: Tensor, right: Tensor, objects: int) -> float:
    """The list as it comes, as if it were sorted."""
    f1 = 2 * right.double().cumsum(0) / (torch.arange(1, len(scores) + 1) + objects)
    return float(scores[f1.argmax()])


def _best_labels_unsorted(scores: Tensor, right: Tensor, objects: int) -> float:
    """Scores sorted, right and wrong left as they were."""
    falling = scores.sort(descending=True).values
    return best_threshold(falling, right, objects)


def _best_counted_from_zero(scores: Tensor, right: Tensor, objects: int) -> float:
    """One detection too few below the line: arange(D) in place of arange(1, D + 1)."""
    rows = []
    for t in set(scores.tolist()):
        kept = scores >= t
        rows.append((float(2 * right[kept].sum() / (kept.sum() - 1 + objects)), t))
    return max(rows)[1]


def _best_on_a_grid(scores: Tensor, right: Tensor, objects: int) -> float:
    rows = []
    for t in np.arange(0, 1.001, 0.01).tolist():
        kept = scores >= t
        rows.append((float(2 * right[kept].sum() / (kept.sum() + objects)), t))
    return max(rows)[1]


def _best_hits_minus_errors(scores: Tensor, right: Tensor, objects: int) -> float:
    rows = []
    for t in set(scores.tolist()):
        kept = scores >= t
        rows.append((float(2 * right[kept].sum() - kept.sum()), t))
    return max(rows)[1]


def _best_numpy(scores: Tensor, right: Tensor, objects: int) -> np.floating:
    """Sorted once, with cumulative sums; equal scores are cut behind the last."""
    s, r = scores.numpy(), right.numpy()
    order = np.argsort(-s, kind="stable")
    s, hits = s[order], np.cumsum(r[order])
    ends = np.append(s[1:] != s[:-1], True)
    f1 = np.where(ends, 2 * hits / (np.arange(1, len(s) + 1) + objects), -1.0)
    return s[f1.argmax()]


def _best_jaccard(scores: Tensor, right: Tensor, objects: int) -> Tensor:
    """TP / (TP + FP + FN) rises with F1, so it is largest at the same threshold. Sorts its arguments in place."""
    order = scores.argsort(descending=True)
    scores[:], right[:] = scores[order].clone(), right[order].clone()
    best, at = torch.tensor(-1.0), scores[0]
    for t in scores.unique().flip(0):
        kept = scores >= t
        value = right[kept].sum() / (kept.sum() + objects - right[kept].sum())
        if value > best:
            best, at = value, t
    return at


def _best_lists(scores: Tensor, right: Tensor, objects: int) -> float:
    pairs = list(zip(scores.tolist(), right.tolist(), strict=True))

    def f1(t: float) -> float:
        kept = [r for s, r in pairs if s >= t]
        return 2 * sum(kept) / (len(kept) + objects)

    return max(sorted({s for s, _ in pairs}, reverse=True), key=f1)


def _detections() -> Mapping[str, tuple[Tensor, Tensor, int]]:
    def case(scores: list[float], right: list[int], objects: int) -> tuple[Tensor, Tensor, int]:
        return torch.tensor(scores, dtype=torch.float64), torch.tensor(right, dtype=torch.bool), objects

    return {
        "six detections of five objects": case([0.9, 0.8, 0.7, 0.6, 0.3, 0.2], [1, 1, 0, 1, 0, 0], 5),
        "scores that are not sorted": case([0.2, 0.9, 0.4, 0.6], [1, 1, 0, 1], 3),
        "the wrong one in front of an unsorted list": case([0.2, 0.95, 0.6, 0.4], [0, 0, 1, 1], 3),
        "equal scores": case([0.9, 0.5, 0.5, 0.5, 0.4], [1, 1, 0, 0, 1], 3),
        "equal scores, the wrong ones first": case([0.9, 0.5, 0.5, 0.2], [1, 0, 1, 0], 2),
        "two thresholds that are equally good": case([0.9, 0.8, 0.7, 0.4], [1, 0, 0, 1], 2),
        "a right one far down": case([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], [1, 1, 0, 0, 0, 0, 1], 3),
        "many missed objects": case([0.9, 0.7, 0.6, 0.5, 0.4, 0.3], [1, 1, 0, 0, 1, 0], 20),
        "a gain too small for its errors": case([0.9, 0.8, 0.7, 0.6], [1, 0, 0, 1], 3),
        "two right ones at the end": case([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2], [1, 0, 0, 0, 0, 0, 1, 1], 3),
        "scores with four digits": case([0.9137, 0.6154, 0.3146], [1, 1, 0], 3),
        "all right": case([0.3, 0.6, 0.9], [1, 1, 1], 3),
        "nothing right": case([0.3, 0.7, 0.5], [0, 0, 0], 2),
        "one detection": case([0.35], [1], 4),
    }


THRESHOLD = Exercise(
    solution=best_threshold,
    wrong={
        "precision": (
            _best_of("precision"),
            "You maximise precision, which a single certain detection can bring to 1. F1 also counts what is missed.",
        ),
        "recall": (
            _best_of("recall"),
            "You maximise recall, which never falls as more detections are kept. F1 also counts what is wrong.",
        ),
        "inside_ties": (
            _best_inside_ties,
            "Detections of equal score stay or go together: a threshold can't cut between them.",
        ),
        "missed_forgotten": (
            _best_of("hits"),
            "Below the line you count the objects that some detection finds. All `objects` belong there: "
            "2 TP / (kept + objects).",
        ),
        "lowest": (
            _best_lowest,
            "Where two thresholds are equally good take the higher one: fewer detections for the same F1.",
        ),
        "place": (_best_index, "You return a place in the sorted list. Return the score there."),
        "value": (_best_value, "That is the best F1 itself. Return the threshold where it is reached."),
        "half": (
            lambda scores, right, objects: 0.5,
            "0.5 is a habit. The scores of a detector aren't calibrated: the best threshold depends on them.",
        ),
        "above": (
            _best_above,
            "You keep the scores above t. The detection at the threshold itself is kept too: ≥, not >.",
        ),
        "in_the_middle": (
            _best_in_the_middle,
            "Your threshold lies between two scores. It cuts at the right place; give the score of the last "
            "detection that is kept.",
        ),
        "unsorted": (
            _best_unsorted,
            "You walk down the list as it comes. It need not be sorted by score.",
        ),
        "labels_unsorted": (
            _best_labels_unsorted,
            "You sort the scores and leave `right` as it was: each detection must keep its own.",
        ),
        "counted_from_zero": (
            _best_counted_from_zero,
            "You count one detection too few: with the first one kept, D_kept is 1 and not 0.",
        ),
        "grid": (
            _best_on_a_grid,
            "Your thresholds stand on a grid. Try the scores of the list themselves, which lie between its points.",
        ),
        "hits_minus_errors": (
            _best_hits_minus_errors,
            "You maximise right minus wrong detections. F1 divides by all that are kept and all objects.",
        ),
    },
    right={
        "NumPy, sorted once": _best_numpy,
        "Jaccard in place of F1, sorting its arguments": _best_jaccard,
        "plain lists": _best_lists,
    },
    probes=_detections,
    hint="For every score t in the list keep the detections with score ≥ t and compute F1 = 2 TP / (kept + objects).",
    sketch="""
        for t in set(scores.tolist()):
            kept = ...                            # (D,) bool
            F1 = 2 * ... / (kept.sum() + objects)
            ...                                   # remember the best (F1, t); equal F1: the higher t
        return ...
    """,
)


EXERCISES: dict[str, Exercise] = {
    **ch09_curves.EXERCISES,
    "ch09.order": ORDER,
    "ch09.match": MATCH,
    "ch09.other": OTHER,
    "ch09.threshold": THRESHOLD,
}
