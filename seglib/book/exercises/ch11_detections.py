"""Chapter 11, "YOLACT": the pieces and exercises on detections. They train anchors and choose among boxes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from seglib.book.exercise import Exercise, expect
from seglib.book.exercises.ch01 import typed
from seglib.losses.assign import match_anchors
from seglib.ops.boxes import box_iou

# Piece 4: hard negatives ----------------------------------------------------------------------------------------------


def hard_negatives(hardness: Tensor, match: Tensor, ratio: int = 3) -> Tensor:
    """The ``ratio`` hardest background anchors for each positive one, ``(A,)`` bool."""
    negative = match == -1
    count = min(ratio * int((match >= 0).sum()), int(negative.sum()))
    chosen = hardness.masked_fill(~negative, -math.inf).topk(count).indices
    return torch.zeros_like(negative).index_fill_(0, chosen, True)


Count = Callable[[Tensor, int], float]


def _hardest(
    count: Count, allowed: Callable[[Tensor], Tensor] = lambda match: match == -1, sign: float = 1.0
) -> Callable[..., Tensor]:
    """``hard_negatives`` with another number, among other anchors, or the easiest ones."""

    def answer(hardness: Tensor, match: Tensor, ratio: int = 3) -> Tensor:
        among = allowed(match)
        score = (sign * hardness).masked_fill(~among, -math.inf)
        rank = score.argsort(descending=True).argsort()
        return among & (rank < count(match, ratio))

    return answer


def _three_each(match: Tensor, ratio: int) -> int:
    return ratio * int((match >= 0).sum())


def _topk_unlimited(hardness: Tensor, match: Tensor, ratio: int = 3) -> Tensor:
    backgrounds = (match == -1).nonzero()[:, 0]
    best = hardness[backgrounds].topk(_three_each(match, ratio)).indices
    return torch.zeros_like(match, dtype=torch.bool).index_fill_(0, backgrounds[best], True)


def _negatives_with_numpy(hardness: Tensor, match: Tensor, ratio: int = 3) -> np.ndarray:
    background = np.flatnonzero(match.numpy() == -1)
    order = background[np.argsort(-hardness.numpy()[background])]
    out = np.zeros(len(match), bool)
    out[order[: ratio * np.count_nonzero(match.numpy() >= 0)]] = True
    return out


def _negatives_one_by_one(hardness: Tensor, match: Tensor, ratio: int = 3) -> list[bool]:
    left = {a: float(h) for a, (h, m) in enumerate(zip(hardness, match, strict=True)) if m == -1}
    chosen = set()
    for _ in range(_three_each(match, ratio)):
        if left:
            hardest = max(left, key=left.__getitem__)
            chosen.add(hardest)
            del left[hardest]
    return [a in chosen for a in range(len(match))]


def _anchors() -> Mapping[str, tuple[Any, ...]]:
    draw = torch.Generator().manual_seed(4)

    def case(positives: list[int], ignored: int, background: int, *more: int) -> tuple[Any, ...]:
        match = torch.tensor(positives + [-2] * ignored + [-1] * background)
        match = match[torch.randperm(len(match), generator=draw)]
        hardness = (torch.randperm(len(match), generator=draw) + 1) / 10
        # the hardest anchors of all are ignored ones and positives
        return hardness + 10 * (match == -2) + 5 * (match >= 0), match, *more

    return {
        "two positives and 20 backgrounds": case([0, 1], 0, 20),
        "two positives of one object": case([4, 4], 3, 20),
        "ignored anchors that are hard": case([0, 3], 6, 20),
        "more room than backgrounds": case([0, 0, 1, 2], 2, 5),
        "a ratio of 1": case([0, 1, 2], 2, 20, 1),
        "no object": case([], 3, 20),
        "no background": case([0, 1], 4, 0),
    }


_MARKS = "The anchors are right, but you mark them by numbers: return bool, so that `hardness[chosen]` picks them."

NEGATIVES = Exercise(
    solution=hard_negatives,
    wrong={
        "ignored_too": (
            _hardest(_three_each, lambda match: match < 0),
            "You take ignored anchors (−2) as well. They lie so close to an object that they are neither: only −1 is "
            "background.",
        ),
        "positives_too": (
            _hardest(_three_each, lambda match: match != -2),
            "There are positives among your negatives. Only anchors with −1 are background.",
        ),
        "everything": (
            _hardest(_three_each, lambda match: match > -3),
            "You choose among all anchors. Only those with −1 are background.",
        ),
        "easiest": (
            _hardest(_three_each, sign=-1.0),
            "Those are the easiest. Hard is where the hardness is large.",
        ),
        "all_of_them": (
            _hardest(lambda match, ratio: math.inf),
            "You keep every background anchor. Only the hardest few count, `ratio` for each positive.",
        ),
        "one_each": (
            _hardest(lambda match, ratio: int((match >= 0).sum())),
            "That is one negative for each positive. `ratio` says how many.",
        ),
        "positives_included": (
            _hardest(lambda match, ratio: (ratio - 1) * int((match >= 0).sum())),
            "`ratio` is the number of negatives for each positive, not of both together.",
        ),
        "objects_counted": (
            _hardest(lambda match, ratio: ratio * len(match[match >= 0].unique())),
            "You count objects. Several anchors can be positive for one object, and each brings its negatives.",
        ),
        "at_least_some": (
            _hardest(lambda match, ratio: max(ratio, _three_each(match, ratio))),
            "Without a positive there is no negative either.",
        ),
        "all_when_empty": (
            _hardest(lambda match, ratio: _three_each(match, ratio) or math.inf),
            "In an image without objects you keep all backgrounds. Without a positive there is no negative either.",
        ),
        "threes": (
            _hardest(lambda match, ratio: 3 * int((match >= 0).sum())),
            "You take 3 whatever `ratio` is.",
        ),
        "too_many": (
            _topk_unlimited,
            "There may be fewer backgrounds than you want: take what there is.",
        ),
        "with_the_positives": (
            lambda hardness, match, ratio=3: hard_negatives(hardness, match, ratio) | (match >= 0),
            "You mark the positives, too. Mark the negatives alone.",
        ),
        "indices": (
            lambda hardness, match, ratio=3: hard_negatives(hardness, match, ratio).nonzero()[:, 0],
            "You return the indices of the anchors. Return a bool for every anchor, (A,).",
        ),
        "numbers": (lambda hardness, match, ratio=3: hard_negatives(hardness, match, ratio).float(), _MARKS),
    },
    right={
        "NumPy": _negatives_with_numpy,
        "one by one, as a list": _negatives_one_by_one,
        "ranks": _hardest(_three_each),
    },
    probes=_anchors,
    verify=typed(hard_negatives, _anchors, "b", _MARKS),
    hint="Positives: match ≥ 0. Candidates: match equal to −1. Keep the ratio × positives of them that are hardest.",
    sketch="""
        negative = match == ...
        count = ...                               # how many, and never more than there are
        chosen = hardness.masked_fill(~negative, -torch.inf).topk(count).indices
        keep = torch.zeros_like(negative)
        ...
    """,
)


# Piece 5: Fast NMS ----------------------------------------------------------------------------------------------------


def fast_nms_matrix(iou: Tensor, scores: Tensor, t: float) -> Tensor:
    """Fast NMS from an IoU matrix ``(N, N)`` and scores ``(N,)`` in any order: ``(N,)`` bool."""
    higher = scores[:, None] > scores  # (N, N): box i above box j
    return ~((iou > t) & higher).any(0)


def _above(iou: Tensor, scores: Tensor) -> Tensor:
    """IoU of box j (columns) with the boxes i of a higher score, 0 elsewhere: ``(N, N)``."""
    return torch.where(scores[:, None] > scores, iou, 0)


def _largest(overlap: Tensor) -> Tensor:
    return overlap.amax(0) if len(overlap) else overlap.sum(0)


def _greedy(iou: Tensor, scores: Tensor, t: float) -> Tensor:
    keep = torch.ones_like(scores, dtype=torch.bool)
    for j in scores.argsort(descending=True):
        keep[j] = not bool(((scores > scores[j]) & keep & (iou[:, j] > t)).any())
    return keep


def _best_alone(iou: Tensor, scores: Tensor, t: float) -> Tensor:
    higher = scores[:, None] > scores
    return ~((iou > t) & higher & ~higher.any(0)[:, None]).any(0)  # nobody is above the best


def _presorted(iou: Tensor, scores: Tensor, t: float) -> Tensor:
    return _largest(iou.triu(1)) <= t


def _by_rank(iou: Tensor, scores: Tensor, t: float) -> Tensor:
    order = scores.argsort(descending=True)
    return _largest(iou[order][:, order].triu(1)) <= t


def _scattered(iou: Tensor, scores: Tensor, t: float) -> Tensor:
    keep = torch.empty_like(scores, dtype=torch.bool)
    keep[scores.argsort(descending=True)] = _by_rank(iou, scores, t)
    return keep


def _fast_by_loops(iou: Tensor, scores: Tensor, t: float) -> list[bool]:
    count = len(scores)
    return [not any(scores[i] > scores[j] and iou[i, j] > t for i in range(count)) for j in range(count)]


def _fast_with_numpy(iou: Tensor, scores: Tensor, t: float) -> np.ndarray:
    order = np.argsort(-scores.numpy())
    dropped = (np.triu(iou.numpy()[np.ix_(order, order)], 1) > t).any(0)
    keep = np.ones(len(order), bool)
    keep[order[dropped]] = False
    return keep


def _crowded() -> Mapping[str, tuple[Tensor, Tensor, float]]:
    draw = torch.Generator().manual_seed(9)
    corner = 12 * torch.rand(14, 2, generator=draw)
    boxes = torch.cat([corner, corner + 8 + 4 * torch.rand(14, 2, generator=draw)], 1)
    scores = (torch.randperm(14, generator=draw) + 1) / 20
    x = torch.arange(5.0)[:, None] * 3
    row = torch.cat([x, torch.zeros(5, 1), x + 10, torch.full((5, 1), 10.0)], 1)
    chain = box_iou(row, row)
    half = torch.tensor([[1.0, 0.5], [0.5, 1]])
    return {
        "a chain by falling score": (chain, torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]), 0.5),
        "a chain in another order": (chain, torch.tensor([0.5, 0.9, 0.8, 0.7, 0.6]), 0.5),
        "14 boxes at 0.5": (box_iou(boxes, boxes), scores, 0.5),
        "14 boxes at 0.3": (box_iou(boxes, boxes), scores, 0.3),
        "two boxes with an IoU of exactly t": (half, torch.tensor([0.3, 0.4]), 0.5),
        "two equal boxes": (torch.ones(2, 2), torch.tensor([0.3, 0.4]), 0.5),
        "one box": (torch.ones(1, 1), torch.tensor([0.3]), 0.5),
        "no box": (torch.zeros(0, 0), torch.zeros(0), 0.5),
    }


_KEPT = "The boxes are right, but you mark them by numbers: return bool, so that `boxes[keep]` picks them."

FAST_NMS = Exercise(
    solution=fast_nms_matrix,
    wrong={
        "greedy": (
            _greedy,
            "That is NMS: a dropped box drops nobody. In Fast NMS it still does, so that nothing has to wait.",
        ),
        "at_the_threshold": (
            lambda iou, scores, t: ~((iou >= t) & (scores[:, None] > scores)).any(0),
            "A box with an IoU of exactly t is kept: only more than t drops it.",
        ),
        "itself": (
            lambda iou, scores, t: _largest(torch.where(scores[:, None] >= scores, iou, 0)) <= t,
            "Every box overlaps itself completely, so you drop all. Leave the diagonal out.",
        ),
        "lower_scores": (
            lambda iou, scores, t: ~((iou > t) & (scores[:, None] < scores)).any(0),
            "The box with the lower score drops the better one in your version.",
        ),
        "both_ways": (
            lambda iou, scores, t: ~((iou > t) & ~torch.eye(len(scores), dtype=torch.bool)).any(0),
            "You drop both boxes of a pair. The one with the higher score stays, if nothing better overlaps it.",
        ),
        "not_sorted": (
            _presorted,
            "`triu` knows the order of the rows, not the scores. Sort by falling score first (and back again).",
        ),
        "not_sorted_back": (
            _by_rank,
            "Your answer is in the order of the scores. Give it in the order of the boxes.",
        ),
        "summed": (
            lambda iou, scores, t: _above(iou, scores).sum(0) <= t,
            "You add the overlaps up. A single one must be above t.",
        ),
        "mean": (
            lambda iou, scores, t: _above(iou, scores).sum(0) <= t * (scores[:, None] > scores).sum(0),
            "You take the mean overlap. The largest one decides.",
        ),
        "dropped": (
            lambda iou, scores, t: ((iou > t) & (scores[:, None] > scores)).any(0),
            "You mark the boxes that are dropped. Mark those that are kept.",
        ),
        "indices": (
            lambda iou, scores, t: fast_nms_matrix(iou, scores, t).nonzero()[:, 0],
            "You return the indices of the boxes. Return a bool for every box, (N,).",
        ),
        "best_alone": (
            _best_alone,
            "You compare with the best box alone. Every box with a higher score may drop another.",
        ),
        "empty": (
            lambda iou, scores, t: _above(iou, scores).amax(0) <= t,
            "There may be no box at all, and nothing has no maximum.",
        ),
        "numbers": (lambda iou, scores, t: fast_nms_matrix(iou, scores, t).float(), _KEPT),
    },
    right={
        "sorted, triu, sorted back": _scattered,
        "loops, as a list": _fast_by_loops,
        "NumPy": _fast_with_numpy,
        "in place": lambda iou, scores, t: iou.mul_(scores[:, None] > scores).gt_(t).sum(0) == 0,
    },
    probes=_crowded,
    verify=typed(fast_nms_matrix, _crowded, "b", _KEPT),
    hint="Keep box j if no box with a higher score overlaps it by more than t. What became of that box is the same.",
    sketch="""
        higher = scores[:, None] > ...            # (N, N): is box i above box j?
        drops = (iou > t) & ...
        return ...                                # over all i
    """,
)


# Who survives --------------------------------------------------------------------------------------------------------

# Seven boxes of 10 × 10, each 3 pixels right of the last: IoU 7/13 with the neighbour, 4/16 two away.
# Scores of A to G: 0.5, 0.6, 0.9, 0.8, 0.7, 0.3, 0.4.
_TWO_TEXTS = 'Two texts are wanted, with a comma between them: "…", "…". The first is for NMS, the second for Fast NMS.'


def _two_texts(attempt: Any) -> None:
    expect(isinstance(attempt, tuple | list) and len(attempt) == 2, _TWO_TEXTS)


SURVIVORS = Exercise(
    solution=("ACEG", "CG"),
    wrong={
        "same": (
            ("ACEG", "ACEG"),
            "Your second answer is that of NMS. In Fast NMS a dropped box still drops its neighbours: look at A and E.",
        ),
        "both_fast": (
            ("CG", "CG"),
            "Your first answer is that of Fast NMS. In NMS a dropped box drops nobody: look at A and E.",
        ),
        "swapped": (("CG", "ACEG"), "Those are the right sets in the wrong order: NMS first."),
        "chain_from_the_best": (
            ("ACEG", "C"),
            "You let F drop G in Fast NMS. F has a lower score than G: it drops nobody above itself.",
        ),
        "left_to_right": (
            ("ACEG", "AG"),
            "In Fast NMS you go from left to right. It is the score that counts: B is above A.",
        ),
        "neighbours_two_away": (
            ("CG", "C"),
            "Boxes two places apart share 4 of 16 columns, an IoU of 0.25: they do not drop each other.",
        ),
        "best_alone": (
            ("CEG", "CG"),
            "A is lost in your first answer. B would drop it, but B was dropped by C before.",
        ),
        "dropped": (("BDF", "ABDEF"), "Those are the boxes that are dropped. Give the ones that survive."),
        "best_of_all": (
            ("C", "C"),
            "C is left alone in both of your answers. In NMS a dropped box drops nobody: what drops A once B is gone? "
            "In Fast NMS only a higher score drops, and that of F is below G's.",
        ),
        "chain_in_nms": (
            ("C", "CG"),
            "C is left alone in your first answer. It drops its two neighbours, and in NMS a dropped box drops nobody.",
        ),
        "by_score": (
            ("CEAG", "CG"),
            "Your first answer has the right boxes by falling score. Write them in the order of the row, A to G.",
        ),
        "one_text": ("ACEG, CG", _TWO_TEXTS),
    },
    right={
        "a list": ["ACEG", "CG"],
        "letters": (["A", "C", "E", "G"], ["C", "G"]),
        "sets": ({"G", "A", "C", "E"}, {"G", "C"}),
        "lower case, with commas": ("a, c, e, g", "c, g"),
    },
    verify=_two_texts,
    hint="Write the scores in a row: 0.5, 0.6, 0.9, 0.8, 0.7, 0.3, 0.4. Only neighbours overlap by more than ½.",
    sketch="""
        NMS: the best is C, it drops B and D; of what is left the best is …
        Fast NMS: which box has no neighbour with a higher score? …
        my_survivors = "…", "…"
    """,
)


# One anchor for every object -----------------------------------------------------------------------------------------


def forced(iou: Tensor) -> Tensor:
    """The anchor that each object gets, ``(G,)``: best pair first, each anchor once, −1 where none touches."""
    return _best_pairs(iou, 0)


def _best_pairs(iou: Tensor, least: float) -> Tensor:
    """``forced`` among the pairs of an IoU above ``least``."""
    iou = iou.clone()
    anchor = torch.full((len(iou),), -1)
    for _ in range(min(iou.shape)):
        g, a = divmod(int(iou.argmax()), iou.shape[1])
        if iou[g, a] <= least:
            break
        anchor[g] = a
        iou[g], iou[:, a] = -1, -1
    return anchor


def _forced_by_sorting(iou: Tensor) -> list[int]:
    pairs = [(float(iou[g, a]), g, a) for g in range(iou.shape[0]) for a in range(iou.shape[1])]
    found: dict[int, int] = {}
    for value, g, a in sorted(pairs, reverse=True):
        if value > 0 and g not in found and a not in found.values():
            found[g] = a
    return [found.get(g, -1) for g in range(iou.shape[0])]


def _forced_with_numpy(iou: Tensor) -> np.ndarray:
    values = iou.numpy().copy()
    out = np.full(len(values), -1)
    while values.size and values.max() > 0:
        g, a = np.unravel_index(values.argmax(), values.shape)
        out[g] = a
        values[g] = 0
        values[:, a] = 0
    return out


def _forced_with_seglib(iou: Tensor) -> Tensor:
    matches = match_anchors(iou, foreground_iou=1.0, background_iou=1.0)  # (A,): only what is forced
    out = torch.full((len(iou),), -1)
    taken = (matches >= 0).nonzero()[:, 0]
    out[matches[taken]] = taken
    return out


def _first_come(iou: Tensor) -> Tensor:
    iou = iou.clone()
    out = torch.full((len(iou),), -1)
    for g in range(len(iou)):
        if iou[g].max() > 0:
            out[g] = iou[g].argmax()
            iou[:, out[g]] = 0
    return out


def _rounds(iou: Tensor) -> Tensor:
    """All free objects choose their best free anchor at once; each of these anchors takes the best of them for good."""
    iou = iou.clone()
    out = torch.full((len(iou),), -1)
    while iou.numel() and iou.max() > 0:
        best, favourite = iou.max(1)
        for a in favourite[best > 0].unique().tolist():
            g = int(torch.where(favourite == a, best, 0).argmax())
            out[g] = a
            iou[g] = 0
        iou[:, out[out >= 0]] = 0
    return out


def _rounds_of_anchors(iou: Tensor) -> Tensor:
    """The same with anchors that choose: the anchor that each object gets."""
    objects = _rounds(iou.T)  # (A,)
    out = torch.full((len(iou),), -1)
    out[objects[objects >= 0]] = (objects >= 0).nonzero()[:, 0]
    return out


def _forced_by_asking(iou: Tensor) -> list[int]:
    """Objects ask their anchors from the best on; an anchor leaves its object for a better one, which then asks on."""
    order = [[a for a in row.argsort().tolist() if row[a] > 0] for row in iou]  # the best last
    holder: dict[int, int] = {}
    free = list(range(len(order)))
    while free:
        g = free.pop()
        while order[g]:
            a = order[g].pop()
            if a not in holder or iou[g, a] > iou[holder[a], a]:
                if a in holder:
                    free.append(holder[a])
                holder[a] = g
                break
    anchors = {g: a for a, g in holder.items()}
    return [anchors.get(g, -1) for g in range(len(order))]


def _losers_stay_without(iou: Tensor) -> Tensor:
    """Two objects with one favourite: the better gets it, the other nothing."""
    favourite = iou.argmax(1)
    out = favourite.clone()
    for g, a in enumerate(favourite.tolist()):
        if iou[g, a] <= 0 or iou[g, a] < iou[favourite == a, a].max():
            out[g] = -1
    return out


def _largest_sum(iou: Tensor) -> Tensor:
    out = torch.full((len(iou),), -1)
    for g, a in zip(*linear_sum_assignment(-iou.numpy()), strict=True):
        if iou[g, a] > 0:
            out[g] = int(a)
    return out


def _overlap_tables() -> Mapping[str, tuple[Tensor]]:
    draw = torch.Generator().manual_seed(8)

    def table(rows: list[list[float]]) -> tuple[Tensor]:
        return (torch.tensor(rows),)

    def drawn(objects: int, anchors: int) -> tuple[Tensor]:
        values = (torch.randperm(objects * anchors, generator=draw) + 1) / (objects * anchors + 1)
        return (values.view(objects, anchors),)

    return {
        "two objects with anchors of their own": table([[0.6, 0.1, 0.0], [0.2, 0.7, 0.3]]),
        "two objects with the same favourite": table([[0.55, 0.2, 0.0], [0.6, 0.5, 0.1]]),
        "a pair of a small sum": table([[0.9, 0.8], [0.85, 0.1]]),
        "an object that touches no anchor": table([[0.0, 0.0, 0.0], [0.3, 0.0, 0.1]]),
        "an object whose only anchor is taken": table([[0.4, 0.0, 0.0], [0.5, 0.0, 0.0]]),
        "an object that hardly touches its anchor": table([[0.7, 0.0, 0.0], [0.0, 0.0, 0.01]]),
        "an anchor that loses its object": table([[0.5, 0.4, 0.0], [0.6, 0.0, 0.0], [0.0, 0.3, 0.2]]),
        "an object that leaves its anchor": table([[0.5, 0.6, 0.0], [0.4, 0.0, 0.3], [0.0, 0.0, 0.2]]),
        "more objects than anchors": drawn(4, 2),
        "5 objects and 9 anchors": drawn(5, 9),
        "8 objects and 9 anchors": drawn(8, 9),
        "no object": (torch.zeros(0, 3),),
    }


FORCED = Exercise(
    solution=forced,
    wrong={
        "favourites": (
            lambda iou: iou.argmax(1),
            "Two objects get the same anchor, and then only one of them is trained. An anchor is given once.",
        ),
        "first_come": (
            _first_come,
            "You go through the objects in their order. The best of all pairs that are left comes first.",
        ),
        "touching_nothing": (
            lambda iou: _best_pairs(iou, -1),
            "An object gets an anchor that it does not touch (IoU 0). It stays without: −1.",
        ),
        "losers": (
            _losers_stay_without,
            "Who loses the favourite gets nothing. It looks for the best of the anchors that are left.",
        ),
        "largest_sum": (
            _largest_sum,
            "You maximise the sum of the IoUs (Hungarian matching). Here the best pair is taken, whatever is left for "
            "the others.",
        ),
        "foreground_only": (
            lambda iou: forced(iou.where(iou >= 0.5, 0)),
            "You ask for an IoU of 0.5. That every object gets an anchor, however small the IoU, is the point.",
        ),
        "hardly_touching": (
            lambda iou: _best_pairs(iou, 0.05),
            "An object of a very small IoU stays without an anchor. Only an IoU of 0 is none.",
        ),
        "rounds": (
            _rounds,
            "All objects choose at once in your version. Take one pair at a time: an anchor that you take in this "
            "round may be better for another object later.",
        ),
        "rounds_of_anchors": (
            _rounds_of_anchors,
            "All anchors choose at once in your version. Take one pair at a time: an object that you take in this "
            "round may be better for another anchor later.",
        ),
        "highest_of_anchors": (
            lambda iou: iou.argmax(0) if len(iou) else torch.zeros(0, dtype=torch.int64),
            "You say for every anchor which object it likes. Say for every object which anchor it gets, (G,).",
        ),
    },
    right={
        "all pairs, sorted": _forced_by_sorting,
        "NumPy": _forced_with_numpy,
        "seglib": _forced_with_seglib,
        "objects that ask": _forced_by_asking,
    },
    probes=_overlap_tables,
    hint="Take the largest number of the table. Cross out its row and its column. Again, until only zeros are left.",
    sketch="""
        anchor = torch.full((len(iou),), -1)
        for _ in range(...):
            g, a = divmod(int(iou.argmax()), ...)
            if ...: break                         # nothing touches any more
            anchor[g] = ...
            ...                                   # neither g nor a is free
        return anchor
    """,
)


# Find the bugs -------------------------------------------------------------------------------------------------------


def class_loss(logits: Tensor, match: Tensor, labels: Tensor) -> Tensor:
    """The class loss of one image: cross-entropy of positives and of three hard negatives each, by the positives."""
    return _class_loss()(logits, match, labels)


_BUGS = {
    "zero": "the image without objects",
    "ignored": "which anchors are background",
    "mean": "the number that the sum is divided by",
    "unstable": "logarithms of probabilities that are 0",
}


def _class_loss(
    *bugs: str, hardness: Callable[[Tensor], Tensor] | None = None
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """``class_loss`` with bugs: 0/0, ignored anchors as background, a mean over all, the logarithm of a softmax.

    ``hardness`` gives another hardness ``(A,)``, of the background's probabilities ``(A,)``.
    """

    def answer(logits: Tensor, match: Tensor, labels: Tensor) -> Tensor:
        positive = match >= 0
        negative = match < 0 if "ignored" in bugs else match == -1
        background = torch.full_like(match, logits.shape[1] - 1)
        target = background.clone()
        target[positive] = labels[match[positive]]

        def cost(classes: Tensor) -> Tensor:
            """−log of the probabilities of these classes ``(A,)``."""
            if "unstable" in bugs:
                return -logits.softmax(1).gather(1, classes[:, None])[:, 0].log()
            return F.cross_entropy(logits, classes, reduction="none")

        hard = hardness(logits.softmax(1)[:, -1]) if hardness else cost(background)
        rank = hard.masked_fill(~negative, -torch.inf).argsort(descending=True, stable=True).argsort()
        used = positive | (negative & (rank < 3 * positive.sum()))
        number = used.sum() if "mean" in bugs else positive.sum()
        return cost(target)[used].sum() / (number if "zero" in bugs else number.clamp(min=1))

    return answer


_NO_GRADIENT = (
    "The logits get no gradient from your loss. Stay with torch: no `item()`, `detach()` or `numpy()` on the way."
)
_ZERO_ALONE = (
    "In an image without objects your 0 does not come from the logits, so that they get no gradient and backward() may "
    "raise. The sum of no losses is 0, too, and has one."
)


def _run_class_loss(attempt: Callable[..., Any], logits: Tensor, match: Tensor, labels: Tensor) -> list[Any]:
    """The loss, and its gradient for the logits: ``None`` where it has none."""
    leaf = logits.requires_grad_()
    value = attempt(leaf, match, labels)
    if not (isinstance(value, Tensor) and value.requires_grad):
        return [value, None]
    (gradient,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
    return [value, gradient]


def _has_gradients(attempt: Callable[..., Any]) -> None:
    for logits, match, labels in _bug_cases().values():
        gradient = _run_class_loss(attempt, logits, match, labels)[1]
        expect(gradient is not None, _NO_GRADIENT if (match >= 0).any() else _ZERO_ALONE)


def _class_loss_by_loops(logits: Tensor, match: Tensor, labels: Tensor) -> Tensor:
    background = logits.shape[1] - 1
    positives = [a for a, m in enumerate(match.tolist()) if m >= 0]
    others = [a for a, m in enumerate(match.tolist()) if m == -1]
    log_p = logits.log_softmax(1)
    others.sort(key=lambda a: float(log_p[a, background].detach()))
    total = logits.sum() * 0
    for a in positives:
        total = total - log_p[a, labels[match[a]]]
    for a in others[: 3 * len(positives)]:
        total = total - log_p[a, background]
    return total / max(1, len(positives))


def _class_loss_early(logits: Tensor, match: Tensor, labels: Tensor) -> Tensor:
    if not (match >= 0).any():
        return logits.sum() * 0
    return _class_loss("zero")(logits, match, labels)


def _class_loss_zero_alone(logits: Tensor, match: Tensor, labels: Tensor) -> Tensor:
    return class_loss(logits, match, labels) if (match >= 0).any() else torch.tensor(0.0)


def _class_loss_topk(logits: Tensor, match: Tensor, labels: Tensor) -> Tensor:
    log_p = logits.log_softmax(1)
    positive, background = (match >= 0).nonzero()[:, 0], (match == -1).nonzero()[:, 0]
    costs = -log_p[background, -1]
    worst = costs.topk(min(3 * len(positive), len(background))).values
    own = -log_p[positive, labels[match[positive]]]
    return (own.sum() + worst.sum()) / max(1, len(positive))


def _bug_cases() -> Mapping[str, tuple[Tensor, Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(13)

    def case(match: list[int], labels: list[int], scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        logits = torch.randn(len(match), 4, generator=draw, dtype=torch.float64) * scale
        return logits, torch.tensor(match), torch.tensor(labels, dtype=torch.int64)

    many = [0, -1, -1, -2, 1, -1, -1, -2, -1, -1, -1, -1, -2, -1, -1, -1]
    sure = case([0, -1, -1, -1, -1, -1], [2])
    sure[0][:] = torch.tensor([0.0, 0, 0, 900])  # background, without a doubt
    sure[0][2, 1] = 2000  # and one that is sure of the contrary

    def mistaken(*margins: float) -> tuple[Tensor, Tensor, Tensor]:
        """A positive, and backgrounds that are sure of an object by these margins: the hardest are neither end."""
        logits, match, labels = case([0] + [-1] * len(margins), [2])
        logits[1:] = 0
        logits[1:, 1] = torch.tensor(margins, dtype=torch.float64)
        return logits, match, labels

    return {
        "two objects": case(many, [2, 0]),
        "two positives of one object": case([1, 1, -1, -1, -1, -1, -1, -1, -1, -1], [0, 1]),
        "few backgrounds": case([0, 1, 0, -1, -1, -2], [1, 2]),
        "an image without objects": case([-1] * 8, []),
        "an image without objects or backgrounds": case([-2] * 4, []),
        "anchors that are very sure": sure,
        "backgrounds that are sure of an object": mistaken(65, 90, 60, 120, 70, 110, 80, 62),
        "logits of a thousand": mistaken(1000, 1100, 900, 1500, 950, 1200, 850, 1400, 800),
    }


BUG = Exercise(
    solution=class_loss,
    wrong={
        "as_it_was": (
            _class_loss(*_BUGS),
            "All four bugs are there. What is 0 / 0?",
        ),
        "zero_by_zero": (
            _class_loss("zero"),
            "In an image without objects it is 0 / 0, NaN, and one NaN spoils every weight.",
        ),
        "ignored": (
            _class_loss("ignored"),
            "Ignored anchors (−2) are trained as background. Only −1 is background.",
        ),
        "mean_of_used": (
            _class_loss("mean"),
            "You divide by all anchors that are used. The text says by the number of positives.",
        ),
        "unstable": (
            _class_loss("unstable"),
            "For anchors that are very sure a probability is exactly 0 and its logarithm infinite. "
            "`log_softmax` and `cross_entropy` work on the logits.",
        ),
        "infinite_hardness": (
            _class_loss(hardness=lambda p: -p.log()),
            "In the hardness, the background's probability is exactly 0 for anchors that are very sure, and −log of it "
            "infinite: you cannot tell which are the hardest. `-logits.log_softmax(1)` can.",
        ),
        "saturated_hardness": (
            _class_loss(hardness=lambda p: 1 - p),
            "The hardest backgrounds all have the same hardness: 1 − p is exactly 1 for them, and p + 10⁻⁸ exactly "
            "10⁻⁸. Take it from the logits: `-logits.log_softmax(1)`.",
        ),
        "zero_alone": (_class_loss_zero_alone, _ZERO_ALONE),
        "a_number": (lambda logits, match, labels: class_loss(logits, match, labels).item(), _NO_GRADIENT),
        **{
            f"{one}_and_{other}": (_class_loss(one, other), f"Two bugs are left: {_BUGS[one]}, and {_BUGS[other]}.")
            for one, other in combinations(_BUGS, 2)
        },
        "only_the_first_found": (
            _class_loss("ignored", "mean", "unstable"),
            "The image without objects is right now. Three bugs are left: background, the number that the sum is "
            "divided by, and logarithms of probabilities.",
        ),
        "only_background_found": (
            _class_loss("zero", "mean", "unstable"),
            "The background is right now. Three bugs are left; try an image without objects next.",
        ),
        "only_the_number_found": (
            _class_loss("zero", "ignored", "unstable"),
            "You divide by the right number now, but it can be 0. Three bugs are left.",
        ),
        "only_logarithms_found": (
            _class_loss("zero", "ignored", "mean"),
            "The logarithms are right now. Three bugs are left; try an image without objects next.",
        ),
    },
    right={
        "loops": _class_loss_by_loops,
        "an early return": _class_loss_early,
        "log_softmax and topk": _class_loss_topk,
    },
    probes=_bug_cases,
    run=_run_class_loss,
    verify=_has_gradients,
    hint="Positives are match ≥ 0, background is −1, ignored −2. Sum over positives and negatives, by the positives.",
    sketch="""
        background = match == ...
        hardness = -logits.log_softmax(1)[...]
        ...
        each = F.cross_entropy(..., reduction="none")
        return each[used].sum() / ...             # never 0
    """,
)
