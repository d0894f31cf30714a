"""Chapter 9's exercises on the curve, on crowds, on the mean over thresholds, and on a metric that can be broken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from seglib.book.exercise import Exercise, expect

NAN = float("nan")

# The curve -----------------------------------------------------------------------------------------------------------


def curve(hit: Tensor, miss: Tensor, objects: int) -> tuple[Tensor, Tensor]:
    """Precision and recall after each detection; what is neither hit nor miss counts in neither."""
    tp, fp = hit.double().cumsum(0), miss.double().cumsum(0)
    return tp / (tp + fp).clamp(min=1), tp / objects


def _curve_nan(hit: Tensor, miss: Tensor, objects: int) -> tuple[Tensor, Tensor]:
    tp, fp = hit.double().cumsum(0), miss.double().cumsum(0)
    return tp / (tp + fp), tp / objects


def _curve_one(hit: Tensor, miss: Tensor, objects: int) -> tuple[Tensor, Tensor]:
    precision, recall = _curve_nan(hit, miss, objects)
    return precision.nan_to_num(1.0), recall


def _curve_list(hit: Tensor, miss: Tensor, objects: int) -> tuple[Tensor, Tensor]:
    places = torch.arange(1, len(hit) + 1)
    return hit.double().cumsum(0) / places, hit.double().cumsum(0) / objects


def _curve_found(hit: Tensor, miss: Tensor, objects: int) -> tuple[Tensor, Tensor]:
    return curve(hit, miss, objects)[0], hit.double().cumsum(0) / max(1, int(hit.sum()))


def _curve_missed(hit: Tensor, miss: Tensor, objects: int) -> tuple[Tensor, Tensor]:
    tp = hit.double().cumsum(0)
    return tp / (tp + objects - tp).clamp(min=1), tp / objects


def _curve_backwards(hit: Tensor, miss: Tensor, objects: int) -> tuple[Tensor, Tensor]:
    precision, recall = curve(hit.flip(0), miss.flip(0), objects)
    return precision.flip(0), recall.flip(0)


def _curve_end(hit: Tensor, miss: Tensor, objects: int) -> tuple[Tensor, Tensor]:
    precision, recall = curve(hit, miss, objects)
    return precision[-1:], recall[-1:]


def _curve_loop(hit: Tensor, miss: Tensor, objects: int) -> tuple[list[float], list[float]]:
    tp = fp = 0
    precision, recall = [], []
    for h, m in zip(hit.tolist(), miss.tolist(), strict=True):
        tp, fp = tp + h, fp + m
        precision.append(tp / (tp + fp) if tp + fp else 0.0)
        recall.append(tp / objects)
    return precision, recall


def _curve_numpy(hit: Tensor, miss: Tensor, objects: int) -> tuple[np.ndarray, np.ndarray]:
    tp, counted = np.cumsum(hit.numpy(), dtype=float), np.cumsum((hit | miss).numpy(), dtype=float)
    return np.divide(tp, counted, out=np.zeros_like(tp), where=counted > 0), tp / objects


def _judged() -> Mapping[str, tuple[Tensor, Tensor, int]]:
    def case(said: str, objects: int) -> tuple[Tensor, Tensor, int]:
        return torch.tensor([c == "r" for c in said]), torch.tensor([c == "w" for c in said]), objects

    return {
        "right, wrong, right, wrong, right": case("rwrwr", 4),
        "one ignored in the middle": case("rwirr", 5),
        "two ignored in front": case("iirwr", 3),
        "wrong ones first": case("wwr", 2),
        "all ignored": case("ii", 2),
        "no detection": (torch.zeros(0, dtype=torch.bool), torch.zeros(0, dtype=torch.bool), 2),
    }


CURVE = Exercise(
    solution=curve,
    wrong={
        "float32": (
            lambda h, m, n: tuple(part.float() for part in curve(h, m, n)),
            "Right to seven digits: you count in float32. Later cells compare twelve, so take `.double()`.",
        ),
        "not_a_number": (_curve_nan, "Before the first detection that counts you divide 0 by 0: precision is 0 there."),
        "one_at_first": (_curve_one, "Before the first detection that counts precision is 0, not 1."),
        "over_the_list": (
            _curve_list,
            "You divide by all detections so far. Ignored ones are neither right nor wrong: TP + FP leaves them out.",
        ),
        "over_the_found": (
            _curve_found,
            "You divide recall by the objects that are found in the end. All N objects belong below the line.",
        ),
        "missed_for_wrong": (_curve_missed, "Precision divides by TP + FP. TP + FN is recall's N."),
        "backwards": (_curve_backwards, "You count from the end. The highest score stands first."),
        "at_the_end": (_curve_end, "You return the last point. The curve has one after every detection."),
        "swapped": (lambda h, m, n: curve(h, m, n)[::-1], "Precision comes first, then recall."),
        "one_by_one": (
            lambda h, m, n: (h.double(), h.double() / n),
            "You judge each detection alone. The counts run on from the first detection.",
        ),
    },
    right={"a loop, as lists": _curve_loop, "NumPy": _curve_numpy},
    probes=_judged,
    hint="TP and FP after each detection are running sums of hit and miss.",
    tolerance=1e-12,
    sketch="""
        TP, FP = hit.double().cumsum(0), ...      # (D,) each
        return TP / ..., TP / N                   # and where TP + FP is 0?
    """,
)

# Interpolation -------------------------------------------------------------------------------------------------------


def interpolated(precision: Tensor) -> Tensor:
    """The largest precision from each detection on."""
    return precision.flip(0).cummax(0).values.flip(0) if len(precision) else precision


def _interpolated_loop(precision: Tensor) -> list[float] | Tensor:
    return [float(precision[i:].max()) for i in range(len(precision))] or precision


def _interpolated_in_place(precision: Tensor) -> Tensor:
    for i in range(len(precision) - 2, -1, -1):
        if precision[i + 1] > precision[i]:
            precision[i] = precision[i + 1]
    return precision


def _interpolated_numpy(precision: Tensor) -> np.ndarray:
    return np.maximum.accumulate(precision.numpy()[::-1])[::-1].copy()


def _later(precision: Tensor) -> Tensor:
    return torch.stack([precision[i + 1 :].max() if i + 1 < len(precision) else precision[i] for i in range(4)])


def _precisions() -> Mapping[str, tuple[Tensor]]:
    f = torch.float64
    return {
        "1, 1/2, 2/3, 1/2, 3/5": (torch.tensor([1, 1 / 2, 2 / 3, 1 / 2, 3 / 5], dtype=f),),
        "0, 1/2, 1/3, 2/4": (torch.tensor([0, 1 / 2, 1 / 3, 2 / 4], dtype=f),),
        "0, 0, 0.2, 0.4, 0.35, 0.3": (torch.tensor([0, 0, 0.2, 0.4, 0.35, 0.3], dtype=f),),
        "one detection": (torch.tensor([1.0], dtype=f),),
        "no detection": (torch.zeros(0, dtype=f),),
    }


INTERPOLATE = Exercise(
    solution=interpolated,
    wrong={
        "float32": (
            lambda p: interpolated(p).float(),
            "Right to seven digits: your result is float32. Give it the type of `precision`.",
        ),
        "from_the_left": (
            lambda p: p.cummax(0).values if len(p) else p,
            "You take the largest precision *up to* each detection. It is the largest from there on.",
        ),
        "of_all": (
            lambda p: torch.full_like(p, float(p.max())) if len(p) else p,
            "You take the largest of the whole curve. Only later detections, with higher recall, may help.",
        ),
        "neighbour": (
            lambda p: torch.maximum(p, torch.cat([p[1:], p[-1:]])),
            "You ask the next detection alone. A rise may come later.",
        ),
        "without_itself": (
            lambda p: torch.cat([interpolated(p)[1:], p[-1:]]),
            "The detection itself counts, too: the largest precision *from* it on.",
        ),
        "smallest": (
            lambda p: p.flip(0).cummin(0).values.flip(0) if len(p) else p,
            "You take the smallest precision from each detection on.",
        ),
        "unchanged": (lambda p: p, "The zigzag is still there: a later, higher precision replaces a lower one."),
        "turned_round": (
            lambda p: p.flip(0).cummax(0).values if len(p) else p,
            "Your values stand in reverse: turn them back.",
        ),
        "no_empty": (
            lambda p: torch.stack([p[i:].max() for i in range(len(p))]),
            "Without a detection there is nothing to stack: the answer is empty, too.",
        ),
    },
    right={
        "a loop": _interpolated_loop,
        "from the end, in place": _interpolated_in_place,
        "NumPy": _interpolated_numpy,
    },
    probes=_precisions,
    hint="For each place: the largest of all values from there to the end.",
    tolerance=1e-12,
    sketch="""
        # a running maximum goes from left to right; this one goes from right to left
        return precision.flip(0)....flip(0)
    """,
)

# Reading the curve ---------------------------------------------------------------------------------------------------


def read_off(level: Tensor, recall: Tensor, recalls: Tensor) -> Tensor:
    """The level at the first detection whose recall is at least each of ``recalls``, 0 where there is none."""
    return torch.cat([level, level.new_zeros(1)])[torch.searchsorted(recall, recalls)]


def _read_strict(level: Tensor, recall: Tensor, recalls: Tensor) -> Tensor:
    return torch.cat([level, level.new_zeros(1)])[torch.searchsorted(recall, recalls, right=True)]


def _read_before(level: Tensor, recall: Tensor, recalls: Tensor) -> Tensor:
    place = torch.searchsorted(recall, recalls, right=True) - 1
    return torch.cat([level, level.new_zeros(1)])[place]


def _read_last(level: Tensor, recall: Tensor, recalls: Tensor) -> Tensor:
    if not len(level):
        return torch.zeros_like(recalls)
    return level[torch.searchsorted(recall, recalls).clamp(max=len(level) - 1)]


def _read_lines(level: Tensor, recall: Tensor, recalls: Tensor) -> np.ndarray:
    if not len(level):
        return np.zeros(len(recalls))
    return np.interp(recalls.numpy(), recall.numpy(), level.numpy(), right=0.0)


def _read_reached(level: Tensor, recall: Tensor, recalls: Tensor) -> Tensor:
    return level[torch.searchsorted(recall, recalls[recalls <= recall.max()])] if len(level) else level


def _read_careless(level: Tensor, recall: Tensor, recalls: Tensor) -> Tensor:
    reached = recall[:, None] >= recalls
    return level[reached.int().argmax(0)] * (recall.max() >= recalls)


def _read_all_at_once(level: Tensor, recall: Tensor, recalls: Tensor) -> Tensor:
    reached = recall >= recalls[:, None]  # (R, D)
    # levels fall, so the first that is reached has the largest one
    return torch.cat([level * reached, torch.zeros(len(recalls), 1, dtype=level.dtype)], 1).amax(1)


def _read_loop(level: Tensor, recall: Tensor, recalls: Tensor) -> list[float]:
    points = list(zip(recall.tolist(), level.tolist(), strict=True))
    return [next((p for r, p in points if r >= wanted), 0.0) for wanted in recalls.tolist()]


def _levels() -> Mapping[str, tuple[Tensor, Tensor, Tensor]]:
    f = torch.float64
    level, recall = (
        torch.tensor([1, 0.75, 0.75, 0.75, 0.5], dtype=f),
        torch.tensor([0.25, 0.25, 0.5, 0.75, 0.75], dtype=f),
    )
    quarters = torch.tensor([0, 0.25, 0.5, 0.75, 1], dtype=f)
    tenths = torch.linspace(0, 1, 11, dtype=f)
    return {
        "five detections, five recalls": (level, recall, quarters),
        "five detections, eleven recalls": (level, recall, tenths),
        "all found": (torch.tensor([0.8, 0.8], dtype=f), torch.tensor([0.5, 1], dtype=f), tenths),
        "the first one wrong": (torch.tensor([0.6, 0.6, 0.4], dtype=f), torch.tensor([0, 0.5, 0.5], dtype=f), tenths),
        "nothing found": (torch.zeros(2, dtype=f), torch.zeros(2, dtype=f), quarters),
        "no detection": (level[:0], recall[:0], quarters),
    }


READ = Exercise(
    solution=read_off,
    wrong={
        "float32": (
            lambda level, recall, recalls: read_off(level, recall, recalls).float(),
            "Right to seven digits: your result is float32. Give it the type of `level`.",
        ),
        "strict": (_read_strict, "A recall of exactly r reaches r: at least, not more than."),
        "before": (
            _read_before,
            "You read at the last detection whose recall is still at most r. It is the first whose recall reaches r.",
        ),
        "last_goes_on": (
            _read_last,
            "Recalls that are never reached take your last level. They count with 0: that is how misses cost.",
        ),
        "lines": (
            _read_lines,
            "You draw straight lines between the points. The curve has steps.",
        ),
        "only_reached": (
            _read_reached,
            "You leave out the recalls that are never reached. There is one number for every recall, 0 for these.",
        ),
        "mean": (
            lambda level, recall, recalls: read_off(level, recall, recalls).mean(),
            "You return the mean already. Return the level at each recall; the mean comes after.",
        ),
        "recall_itself": (
            lambda level, recall, recalls: read_off(recall, recall, recalls),
            "You return the recall of the detection found. Return its level.",
        ),
        "no_empty": (_read_careless, "Without a detection no recall is reached: every level is 0."),
    },
    right={"all at once": _read_all_at_once, "a loop, as a list": _read_loop},
    probes=_levels,
    hint="For each r: the first place at which recall ≥ r; its level; 0 if there is no such place.",
    tolerance=1e-12,
    sketch="""
        longer = torch.cat([level, ...])          # (D + 1,): what stands behind the last detection?
        return longer[torch.searchsorted(recall, ...)]
    """,
)

# Ten thresholds ------------------------------------------------------------------------------------------------------


def summary(ap: Tensor) -> tuple[float, float, float]:
    """AP, AP50 and AP75 of a table (T, K); classes without objects are NaN."""
    return float(ap.nanmean()), float(ap[0].nanmean()), float(ap[5].nanmean())


def _summary_loop(ap: Tensor) -> list[float]:
    def mean(rows: Sequence[int]) -> float:
        values = [v for t in rows for v in ap[t].tolist() if v == v]
        return sum(values) / len(values) if values else NAN

    return [mean(range(10)), mean([0]), mean([5])]


def _summary_columns(ap: Tensor) -> Tensor:
    there = ap[:, ~ap[0].isnan()]  # (T, K there)
    means = there.mean(1)
    return torch.stack([means.mean(), means[0], means[5]])


def _ap_tables() -> Mapping[str, tuple[Tensor]]:
    g = torch.Generator().manual_seed(0)
    full = torch.rand(10, 4, generator=g, dtype=torch.float64).sort(0, descending=True).values
    absent = full.clone()
    absent[:, 1] = NAN
    return {
        "four classes": (full,),
        "a class without objects": (absent,),
        "one class": (full[:, :1],),
        "no class with objects": (torch.full((10, 2), NAN, dtype=torch.float64),),
    }


SUMMARY = Exercise(
    solution=summary,
    wrong={
        "plain_mean": (
            lambda ap: (ap.mean(), ap[0].mean(), ap[5].mean()),
            "One class without objects makes your mean NaN. It is left out.",
        ),
        "zeros": (
            lambda ap: summary(ap.nan_to_num(0.0)),
            "A class without objects counts as 0 in your mean. It is left out.",
        ),
        "no_class_0": (
            lambda ap: tuple(torch.tensor(summary(ap)).nan_to_num(0.0).tolist()),
            "Where no class has an object there is no score: NaN, not 0.",
        ),
        "row_7": (
            lambda ap: (summary(ap)[0], summary(ap)[1], ap[7].nanmean()),
            "Row 7 is the IoU 0.85. The rows go from 0.5 in steps of 0.05: where is 0.75?",
        ),
        "last_row": (
            lambda ap: (summary(ap)[0], ap[-1].nanmean(), summary(ap)[2]),
            "The last row is the IoU 0.95; AP50 is the first.",
        ),
        "two_means": (
            lambda ap: ((ap[0].nanmean() + ap[5].nanmean()) / 2, *summary(ap)[1:]),
            "AP is the mean over all ten thresholds, not over 0.5 and 0.75.",
        ),
        "order": (lambda ap: (*summary(ap)[1:], summary(ap)[0]), "AP comes first, then AP50 and AP75."),
        "percent": (lambda ap: [100 * v for v in summary(ap)], "These are percent. Scores lie between 0 and 1 here."),
    },
    right={"loops": _summary_loop, "classes that are there": _summary_columns},
    probes=_ap_tables,
    hint="Means over what is not NaN: of the whole table, of the row of IoU 0.5 and of that of 0.75.",
    sketch="""
        return ap.nanmean(), ap[...].nanmean(), ap[...].nanmean()
    """,
)

# Crowds --------------------------------------------------------------------------------------------------------------


def match_counted(iou: Tensor, t: float, ignored: Sequence[bool], crowd: Sequence[bool]) -> list[int]:
    """The object that each detection takes, or −1: those that count first, and a crowd is never used up."""
    return _counted(iou, t, ignored, crowd)


def _counted(
    iou: Tensor,
    t: float,
    ignored: Sequence[bool],
    crowd: Sequence[bool],
    *,
    key: Callable[[bool, float], tuple] = lambda skipped, value: (not skipped, value),
    stays: Callable[[bool, bool], bool] = lambda skipped, many: many,
    fits: Callable[[float, float, bool], bool] = lambda value, t, skipped: value >= t,
) -> list[int]:
    free, taken = set(range(iou.shape[1])), []
    for row in iou.tolist():
        wishes = [(*key(ignored[g], row[g]), g) for g in sorted(free) if fits(row[g], t, ignored[g])]
        g = max(wishes)[-1] if wishes else -1
        if g >= 0 and not stays(ignored[g], crowd[g]):
            free.discard(g)
        taken.append(g)
    return taken


def _two_rounds(iou: Tensor, t: float, ignored: list[bool], crowd: list[bool]) -> Tensor:
    """First all that count, then the others, crossing out in place."""
    taken = torch.full((len(iou),), -1)
    for d in range(len(iou)):
        for skipped in (False, True):
            mine = torch.tensor([g for g in range(iou.shape[1]) if ignored[g] == skipped], dtype=torch.int64)
            if taken[d] < 0 and len(mine) and iou[d, mine].max() >= t:
                taken[d] = mine[iou[d, mine].argmax()]
        if taken[d] >= 0 and not crowd[int(taken[d])]:
            iou[:, taken[d]] = -1
    return taken


def _counted_numpy(iou: Tensor, t: float, ignored: list[bool], crowd: list[bool]) -> np.ndarray:
    table, left = iou.numpy(), np.ones(iou.shape[1], bool)
    bonus = 2.0 * ~np.asarray(ignored, bool)
    out = np.full(len(table), -1)
    for d, row in enumerate(table):
        value = np.where(left & (row >= t), row + bonus, -1)
        if value.size and value.max() >= 0:
            out[d] = value.argmax()
            left[out[d]] = crowd[out[d]]
    return out


def _all_count_first(iou: Tensor, t: float, ignored: Sequence[bool], crowd: Sequence[bool]) -> list[int]:
    """All detections choose among what counts; who got nothing chooses among the rest."""
    counts = torch.tensor([not s for s in ignored], dtype=torch.bool)
    first = _counted(iou.where(counts, -1.0), t, ignored, crowd)
    rest = _counted(iou.where(~counts, -1.0), t, ignored, crowd)
    return [a if a >= 0 else b for a, b in zip(first, rest, strict=True)]


def _crowded() -> Mapping[str, tuple[Tensor, float, list[bool], list[bool]]]:
    f = torch.float64
    two = torch.tensor([[0.9, 0.6], [0.95, 0.1], [0.8, 0.7]], dtype=f)
    three = torch.tensor([[0.6, 0.7, 0.9], [0.55, 0.8, 0.6], [0.1, 0.75, 0.65], [0.0, 0.2, 0.7]], dtype=f)
    one = torch.tensor([[0.9], [0.8], [0.4]], dtype=f)
    exact = torch.tensor([[0.75, 0.5], [0.25, 0.75]], dtype=f)
    return {
        "a crowd and a person": (two, 0.5, [True, False], [True, False]),
        "an object of another size and one that counts": (two, 0.5, [True, False], [False, False]),
        "three objects, the last one a crowd": (three, 0.5, [False, False, True], [False, False, True]),
        "three objects, the second of another size": (three, 0.5, [False, True, False], [False, False, False]),
        "a crowd alone": (one, 0.5, [True], [True]),
        "an ignored object alone": (one, 0.5, [True], [False]),
        "an IoU of exactly the threshold": (exact, 0.75, [False, True], [False, True]),
        "all count": (three, 0.5, [False] * 3, [False] * 3),
        "two that count": (torch.tensor([[0.8, 0.6], [0.7, 0.55]], dtype=f), 0.5, [False] * 2, [False] * 2),
        "no object": (three[:, :0], 0.5, [], []),
        "no detection": (three[:0], 0.5, [False] * 3, [False] * 3),
    }


CROWDS = Exercise(
    solution=match_counted,
    wrong={
        "used_up": (
            lambda iou, t, ignored, crowd: _counted(iou, t, ignored, [False] * len(crowd)),
            "Your crowd can be taken once. Any number of detections may lie in it.",
        ),
        "ignored_stays": (
            lambda iou, t, ignored, crowd: _counted(iou, t, ignored, crowd, stays=lambda skipped, many: skipped),
            "An ignored object that is no crowd is used up as any other. Only a crowd is not.",
        ),
        "all_stay": (
            lambda iou, t, ignored, crowd: _counted(iou, t, ignored, crowd, stays=lambda skipped, many: True),
            "Nothing is used up. An object that is no crowd can be taken once.",
        ),
        "by_iou": (
            lambda iou, t, ignored, crowd: _counted(iou, t, ignored, crowd, key=lambda skipped, value: (value,)),
            "You take the largest IoU, ignored or not. An object that counts comes first, whatever its IoU.",
        ),
        "ignored_first": (
            lambda iou, t, ignored, crowd: _counted(iou, t, ignored, crowd, key=lambda skipped, v: (skipped, v)),
            "You prefer what is ignored. An object that counts comes first.",
        ),
        "first_of_those": (
            lambda iou, t, ignored, crowd: _counted(iou, t, ignored, crowd, key=lambda skipped, v: (not skipped,)),
            "Among objects that count equally your detection takes any. It takes the one of largest IoU.",
        ),
        "left_out": (
            lambda iou, t, ignored, crowd: _counted(
                iou, t, ignored, crowd, fits=lambda value, t, skipped: value >= t and not skipped
            ),
            "You leave ignored objects out. Then who takes one looks wrong: return its number, and it is ignored.",
        ),
        "strict": (
            lambda iou, t, ignored, crowd: _counted(iou, t, ignored, crowd, fits=lambda value, t, skipped: value > t),
            "An overlap of exactly the threshold counts: ≥, not >.",
        ),
        "no_threshold": (
            lambda iou, t, ignored, crowd: _counted(
                iou, t, ignored, crowd, fits=lambda value, t, skipped: skipped or value >= t
            ),
            "The threshold holds for ignored objects and crowds, too.",
        ),
    },
    right={"two rounds, in place": _two_rounds, "NumPy": _counted_numpy},
    probes=_crowded,
    hint="Each detection: among the free objects that it overlaps enough, first those that count, then by IoU.",
    sketch="""
        for row in iou.tolist():
            wishes = [(..., row[g], g) for g in free if row[g] >= t]  # what is compared first?
            g = max(wishes)[-1] if wishes else -1
            if ...:                               # a crowd stays free
                free.discard(g)
            taken.append(g)
    """,
)

# A metric that can be broken -----------------------------------------------------------------------------------------

GOAL = 0.85
MOST = 1000


def loose_ap(hit: Tensor, scores: Tensor, objects: int) -> float:
    """AP of a list in which an object may be found again and again."""
    order = scores.argsort(descending=True, stable=True)
    precision, recall = curve(hit[order], ~hit[order], objects)
    return float(read_off(interpolated(precision), recall, torch.linspace(0, 1, 101, dtype=torch.float64)).mean())


def more_and_more(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The three best detections, 10, 100 and 890 times."""
    best = scores.argsort(descending=True)[:3]
    rows = best.repeat_interleave(torch.tensor([10, 100, 890])[: len(best)])
    return rows, scores[rows]


def _copies(*counts: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    def copied(scores: Tensor) -> tuple[Tensor, Tensor]:
        best = scores.argsort(descending=True)[: len(counts)]
        rows = best.repeat_interleave(torch.tensor(counts)[: len(best)])
        return rows, scores[rows]

    return copied


def _ranks_reversed(scores: Tensor) -> tuple[list[int], list[float]]:
    """The third best first, then the second and the best."""
    best = scores.argsort(descending=True).tolist()[:3]
    rows = [best[2]] * 9 + [best[1]] * 90 + [best[0]] * 850
    return rows, list(np.linspace(1, 0.5, len(rows)))


def _all_kept(scores: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Adds copies to the list and keeps what was there."""
    order = np.argsort(-scores.numpy())
    rows = np.concatenate([np.repeat(order[:3], [10, 100, 880]), order])
    return rows, np.linspace(1, 0, len(rows))


LISTS = {
    "the best detection right": ([0.9, 0.7, 0.5, 0.3, 0.2], [1, 0, 0, 1, 0]),
    "the best detection wrong": ([0.3, 0.95, 0.8, 0.6, 0.5], [0, 0, 1, 0, 1]),
    "the two best detections wrong": ([0.6, 0.5, 0.9, 0.85, 0.2], [1, 0, 0, 0, 0]),
}
"""Scores, and whether each detection is right, of 4 objects."""


def _breaks(attempt: Callable[[Tensor], tuple[Sequence[int], Sequence[float]]]) -> None:
    for name, (given, right) in LISTS.items():
        answer = attempt(torch.tensor(given))
        expect(isinstance(answer, tuple | list) and len(answer) == 2, "Return two things: rows and their scores.")
        rows, scores = (torch.as_tensor(np.asarray(part)) for part in answer)
        expect(rows.ndim == 1 and rows.shape == scores.shape, "There is one score for each row of your list.")
        expect(len(rows) <= MOST, f"Your list is too long: {MOST} rows at most.")
        expect(
            not len(rows) or (int(rows.min()) >= 0 and int(rows.max()) < len(given)),
            f"Rows are numbers of the {len(given)} given detections: you may repeat and drop, not invent.",
        )
        expect(
            len(rows.unique()) < len(rows),
            "No detection comes twice in your list, and so nothing is gained. What does the metric forget to use up?",
        )
        hit = torch.tensor(right, dtype=torch.bool)[rows.long()]
        reached = loose_ap(hit, scores.double(), 4)
        said = {
            "the best detection right": "Repeat the best ones more often: recall grows with every copy of a right one.",
            "the best detection wrong": "You rely on the best detection, which may be wrong. Insure yourself: how many "
            "right copies of the second make up for the wrong ones before it?",
            "the two best detections wrong": "Two wrong ones may come first. Go one rank further, with more copies.",
        }[name]
        expect(reached >= GOAL, said)


BREAK = Exercise(
    solution=more_and_more,
    compared=False,
    verify=_breaks,
    wrong={
        "unchanged": (
            lambda scores: (torch.arange(len(scores)), scores),
            "No detection comes twice in your list, and so nothing is gained. What does the metric forget to use up?",
        ),
        "twice": (
            lambda scores: (torch.arange(len(scores)).repeat(2), scores.repeat(2)),
            "Repeat the best ones more often: recall grows with every copy of a right one.",
        ),
        "best_only": (
            _copies(500),
            "You rely on the best detection, which may be wrong. Insure yourself: how many right copies of the second "
            "make up for the wrong ones before it?",
        ),
        "two_ranks": (
            _copies(20, 300),
            "Two wrong ones may come first. Go one rank further, with more copies.",
        ),
        "too_long": (_copies(100, 1000, 10000), f"Your list is too long: {MOST} rows at most."),
        "invented": (
            lambda scores: (torch.arange(20) // 2, torch.linspace(1, 0, 20)),
            "Rows are numbers of the 5 given detections: you may repeat and drop, not invent.",
        ),
        "no_scores": (
            lambda given: (more_and_more(given)[0], given),
            "There is one score for each row of your list.",
        ),
        "rows_alone": (lambda scores: more_and_more(scores)[0], "Return two things: rows and their scores."),
    },
    right={"the third best first, as lists": _ranks_reversed, "copies before the list, in NumPy": _all_kept},
    probes=lambda: {name: (torch.tensor(scores),) for name, (scores, _) in LISTS.items()},
    hint="The metric never uses an object up.",
    sketch="""
        best = scores.argsort(descending=True)[:3]
        rows = best.repeat_interleave(torch.tensor([..., ..., ...]))  # more and more copies
        return rows, ...
    """,
)


EXERCISES: dict[str, Exercise] = {
    "ch09.curve": CURVE,
    "ch09.interpolate": INTERPOLATE,
    "ch09.read_off": READ,
    "ch09.summary": SUMMARY,
    "ch09.crowds": CROWDS,
    "ch09.break": BREAK,
}
