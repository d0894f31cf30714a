"""Chapter 17, "Volumes": the exercises on scores of cases, on lesions, on two metrics that disagree, and on windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from seglib.book.exercise import Exercise, expect
from seglib.book.exercises.ch17_space import Spacing, distances, scores

Pairs = Sequence[tuple[Tensor, Tensor]]

# Empty masks ---------------------------------------------------------------------------------------------------------


def diagonal(size: Sequence[int], spacing: Spacing) -> float:
    """The diagonal of a volume in mm."""
    return math.hypot(*(n * s for n, s in zip(size, spacing, strict=True)))


def means(pairs: Pairs, spacing: Spacing) -> tuple[float, float]:
    """Mean Dice and mean HD95 in mm of pairs of predicted and true masks; cases without the object don't count."""
    return _means(pairs, spacing)


def _means(
    pairs: Pairs,
    spacing: Spacing,
    *,
    nothing: tuple[float, float] = (math.nan, math.nan),
    missed: Callable[[Sequence[int], Spacing], tuple[float, float]] = lambda n, s: (0.0, diagonal(n, s)),
    invented: Callable[[Sequence[int], Spacing], tuple[float, float]] | None = None,
    mean: Callable[[np.ndarray], Any] = lambda x: np.nanmean(x, 0),
    hd95: Callable[[Tensor, Tensor, Spacing], float] = lambda p, t, s: float(
        scores(*distances(p, t, s), 1.0, False)[0]
    ),
    overlap: Callable[[float, float, float], float] = lambda both, p, t: 2 * both / (p + t),
) -> tuple[float, float]:
    """``means`` with some steps exchanged."""
    rows = []
    for pred, target in pairs:
        if pred.any() and target.any():
            dice = overlap(float((pred & target).sum()), float(pred.sum()), float(target.sum()))
            rows.append((dice, hd95(pred, target, spacing)))
        elif pred.any():
            rows.append((invented or missed)(pred.shape, spacing))
        else:
            rows.append(missed(pred.shape, spacing) if target.any() else nothing)
    table = np.array(rows)
    if np.isnan(table).all():
        return math.nan, math.nan
    dice, far = mean(table).tolist()
    return dice, far


def _mean(**changes: Any) -> Callable[[Pairs, Spacing], tuple[float, float]]:
    return lambda pairs, spacing: _means(pairs, spacing, **changes)


def _means_by_transform(pairs: Pairs, spacing: Spacing) -> np.ndarray:
    rows = []
    for p, t in ((p.numpy(), t.numpy()) for p, t in pairs):
        if not (p | t).any():
            continue
        dice, far = 2 * (p & t).sum() / (p.sum() + t.sum()), diagonal(p.shape, spacing)
        if p.any() and t.any():
            edges = [m & ~ndimage.binary_erosion(m) for m in (p, t)]
            maps = [ndimage.distance_transform_edt(~e, sampling=spacing) for e in edges]
            far = max(np.percentile(maps[1 - i][edges[i]], 95) for i in (0, 1))
        rows.append((dice, far))
    return np.mean(rows, 0) if rows else np.full(2, np.nan)


def _means_by_loop(pairs: Pairs, spacing: Spacing) -> list[float]:
    dices, fars = [], []
    for p, t in pairs:
        volume = int(p.sum()) + int(t.sum())
        if volume == 0:
            continue
        dices.append(2 * int((p * t).sum()) / volume)
        if p.any() and t.any():
            a, b = distances(p, t, spacing)
            fars.append(max(float(a.quantile(0.95)), float(b.quantile(0.95))))
        else:
            fars.append(math.sqrt(sum((n * s) ** 2 for n, s in zip(p.shape, spacing, strict=True))))
    return [sum(dices) / len(dices), sum(fars) / len(fars)] if dices else [math.nan, math.nan]


def _mask_lists() -> Mapping[str, tuple[list[tuple[Tensor, Tensor]], Spacing]]:
    def box(*spans: tuple[int, int]) -> Tensor:
        mask = torch.zeros(4, 6, 8, dtype=torch.bool)
        mask[tuple(slice(*s) for s in spans)] = True
        return mask

    empty = torch.zeros(4, 6, 8, dtype=torch.bool)
    one, moved = box((0, 3), (1, 4), (1, 5)), box((1, 4), (1, 5), (2, 7))
    small = box((3, 4), (5, 6), (7, 8))
    spacing = (5.0, 1.0, 0.5)
    return {
        "two cases that are found": ([(one, moved), (moved, moved)], spacing),
        "a prediction with a part far away": ([(one | box((3, 4), (5, 6), (6, 8)), one)], spacing),
        "a case that is missed": ([(one, moved), (empty, small), (one, one)], spacing),
        "a case where there is nothing": ([(empty, empty), (one, moved), (empty, empty), (one, one)], spacing),
        "an object that is not there": ([(small, empty), (one, moved), (empty, empty)], spacing),
        "missed and invented": ([(small, empty), (empty, one)], (1.0, 2.0, 3.0)),
        "nothing anywhere": ([(empty, empty), (empty, empty)], spacing),
    }


EMPTY = Exercise(
    solution=means,
    wrong={
        "both_empty_is_1": (
            _mean(nothing=(1.0, 0.0)),
            "A case without the object counts as perfect in your means. It does not count at all.",
        ),
        "both_empty_is_0": (
            _mean(nothing=(0.0, 0.0)),
            "A case without the object gets Dice 0 in your means. It does not count at all.",
        ),
        "missed_left_out": (
            _mean(missed=lambda n, s: (math.nan, math.nan)),
            "You leave out cases in which one mask is empty. Then a missed object improves the mean: Dice 0 and the "
            "diagonal.",
        ),
        "distance_left_out": (
            _mean(missed=lambda n, s: (0.0, math.nan)),
            "You leave a missed object out of the mean of HD95, which improves it. Its HD95 is the diagonal.",
        ),
        "distance_0": (
            _mean(missed=lambda n, s: (0.0, 0.0)),
            "A missed object has a distance of 0 in your means: the best there is. It gets the diagonal.",
        ),
        "infinite": (
            _mean(missed=lambda n, s: (0.0, math.inf)),
            "One missed object makes your mean infinite. Its HD95 is the diagonal of the volume.",
        ),
        "invented_left_out": (
            _mean(invented=lambda n, s: (math.nan, math.nan)),
            "An object that is predicted and not there is left out. One empty mask is enough: Dice 0 and the diagonal.",
        ),
        "missed_alone_left_out": (
            lambda pairs, spacing: _means(
                pairs, spacing, missed=lambda n, s: (math.nan, math.nan), invented=lambda n, s: (0.0, diagonal(n, s))
            ),
            "An empty prediction is left out of your means. A missed object gets Dice 0 and the diagonal.",
        ),
        "diagonal_in_voxels": (
            _mean(missed=lambda n, s: (0.0, diagonal(n, (1.0, 1.0, 1.0)))),
            "Your diagonal is in voxels. It is in mm: each side times its spacing.",
        ),
        "diagonal_between_centres": (
            _mean(missed=lambda n, s: (0.0, diagonal([v - 1 for v in n], s))),
            "Your diagonal goes from centre to centre. Each side is as long as its number of voxels times the spacing.",
        ),
        "longest_side": (
            _mean(missed=lambda n, s: (0.0, max(a * b for a, b in zip(n, s, strict=True)))),
            "You take the longest side. The diagonal is √(D² + H² + W²), with sides in mm.",
        ),
        "one_everywhere": (
            _mean(missed=lambda n, s: (1.0, diagonal(n, s))),
            "A missed object has Dice 1 in your means. Its Dice is 0.",
        ),
        "divided_by_all": (
            lambda pairs, spacing: (
                _means(pairs, spacing, mean=lambda x: np.nansum(x, 0) / len(x))
                if any((p | t).any() for p, t in pairs)
                else (math.nan, math.nan)
            ),
            "You divide by the number of all cases. Divide by the number of those that count.",
        ),
        "nan_stays": (
            _mean(mean=lambda x: np.mean(x, 0)),
            "One case without the object makes your means NaN. Leave it out.",
        ),
        "stops": (
            lambda pairs, spacing: (
                means(pairs[: next((i for i, (p, t) in enumerate(pairs) if not (p | t).any()), len(pairs))], spacing)
                if (pairs[0][0] | pairs[0][1]).any()
                else (math.nan, math.nan)
            ),
            "You stop at the first case without the object. Leave it out, and go on with the next one.",
        ),
        "all_in_voxels": (
            lambda pairs, spacing: means(pairs, (1.0, 1.0, 1.0)),
            "HD95 and diagonal are in voxels. Both are in mm.",
        ),
        "spacing_reversed": (
            lambda pairs, spacing: means(pairs, spacing[::-1]),
            "You hand the spacing over as (x, y, z). It is (z, y, x), in the order of the axes.",
        ),
        "median": (_mean(mean=lambda x: np.nanmedian(x, 0)), "You take the median over the cases. Take the mean."),
        "squared_diagonal": (
            _mean(missed=lambda n, s: (0.0, diagonal(n, s) ** 2)),
            "The diagonal lacks its square root.",
        ),
        "divides_by_zero": (
            lambda pairs, spacing: means(pairs, spacing) if any((p | t).any() for p, t in pairs) else 1 / 0,
            "If no case counts there is nothing to divide by: both means are NaN.",
        ),
        "zero_for_nothing": (
            lambda pairs, spacing: means(pairs, spacing) if any((p | t).any() for p, t in pairs) else (0.0, 0.0),
            "If no case counts there is no mean: NaN, not 0.",
        ),
        "one_for_nothing": (
            lambda pairs, spacing: means(pairs, spacing) if any((p | t).any() for p, t in pairs) else (1.0, 0.0),
            "If no case counts there is no mean: NaN.",
        ),
        "raises_for_nothing": (
            lambda pairs, spacing: means([pair for pair in pairs if (pair[0] | pair[1]).any() or [][0]], spacing),
            "A case may have no object at all: it is left out.",
        ),
        "in_voxels": (
            _mean(hd95=lambda p, t, s: float(scores(*distances(p, t, (1.0, 1.0, 1.0)), 1.0, False)[0])),
            "Your HD95 is in voxels. Hand the spacing to `distances`.",
        ),
        "pooled": (
            _mean(hd95=lambda p, t, s: float(scores(*distances(p, t, s), 1.0, True)[0])),
            "You pool the two directions. HD95 is here the larger of two percentiles.",
        ),
        "largest": (
            _mean(hd95=lambda p, t, s: max(float(d.max()) for d in distances(p, t, s))),
            "You take the largest distance. HD95 is the larger of the two 95th percentiles.",
        ),
        "iou": (
            _mean(overlap=lambda both, p, t: both / (p + t - both)),
            "That is IoU. Dice is 2 · |P ∩ T| / (|P| + |T|).",
        ),
        "not_doubled": (
            _mean(overlap=lambda both, p, t: both / (p + t)),
            "The factor 2 is missing: Dice is 2 · |P ∩ T| / (|P| + |T|).",
        ),
        "distance_first": (lambda pairs, spacing: means(pairs, spacing)[::-1], "Dice comes first, then HD95."),
    },
    right={"a distance transform": _means_by_transform, "two lists": _means_by_loop},
    probes=_mask_lists,
    hint="Both empty: left out. One empty: Dice 0 and the diagonal in mm. Otherwise Dice and your HD95.",
    sketch="""
        for pred, target in pairs:
            if not (pred.any() or target.any()):
                continue
            dice.append(2 * (...).sum() / (...))
            if pred.any() and target.any():
                hd95.append(scores(*distances(...), 1.0, False)[0])
            else:
                hd95.append(...)                             # each side in mm
        return (... / ..., ... / ...) if dice else (math.nan, math.nan)
    """,
    tolerance=1e-4,  # as that of the distances
)


# Lesions: find the bugs ----------------------------------------------------------------------------------------------

_ALL_NEIGHBOURS = np.ones((3, 3, 3), bool)


def lesions(pred: Tensor, target: Tensor) -> tuple[float, float, float]:
    """Recall, precision and F1 of the lesions of two masks ``(D, H, W)`` bool; one common voxel means found."""
    return _lesions(pred, target)


Scores = tuple[float, float, float]
_NAN: Scores = (math.nan, math.nan, math.nan)


def _components(mask: Tensor, structure: np.ndarray = _ALL_NEIGHBOURS) -> tuple[np.ndarray, int]:
    ids, count = ndimage.label(mask.numpy(), structure)
    return ids, count


def _lesions(
    pred: Tensor,
    target: Tensor,
    *,
    components: Callable[[Tensor], tuple[np.ndarray, int]] = _components,
    true_components: Callable[[Tensor], tuple[np.ndarray, int]] | None = None,
    touched: Callable[[np.ndarray, Tensor], int] = lambda ids, mask: len(np.setdiff1d(ids[mask.numpy()], [0])),
    right: Callable[[int, int], int] = lambda found, right: right,
    f1: Callable[[float, float], float] = lambda r, p: 2 * r * p / (r + p) if r + p else 0.0,
    nothing: Scores = _NAN,
    missed: Scores = (0.0, 0.0, 0.0),
    invented: Scores = (0.0, 0.0, 0.0),
) -> Scores:
    """``lesions`` with some steps exchanged."""
    a, n = components(pred)
    b, m = (true_components or components)(target)
    if not (n and m):
        return nothing if n == m else missed if m else invented
    found = touched(b, pred)
    recall, precision = found / m, right(found, touched(a, target)) / n
    return recall, precision, f1(recall, precision)


def _lesion(**changes: Any) -> Callable[[Tensor, Tensor], tuple[float, float, float]]:
    return lambda pred, target: _lesions(pred, target, **changes)


def _overlapping_half(ids: np.ndarray, mask: Tensor) -> int:
    inside = mask.numpy()
    return sum(bool(inside[ids == k].mean() >= 0.5) for k in range(1, ids.max() + 1))


def _as_written(pred: Tensor, target: Tensor) -> tuple[float, float, float]:
    """The code of the exercise."""
    a, n = ndimage.label(pred.numpy())
    b, m = ndimage.label(target.numpy())
    found = len(np.unique(b[pred.numpy()]))
    recall, precision = found / max(m, 1), found / max(n, 1)
    return recall, precision, (recall + precision) / 2


_SIX = ndimage.generate_binary_structure(3, 1)


def _harmonic(recall: float, precision: float) -> float:
    return 2 * recall * precision / (recall + precision) if recall + precision else 0.0


def _lesions_by_search(pred: Tensor, target: Tensor) -> list[float]:
    def groups(mask: Tensor) -> list[set[tuple[int, ...]]]:
        left, found = {tuple(v) for v in mask.nonzero().tolist()}, []
        while left:
            group, edge = set(), [left.pop()]
            while edge:
                v = edge.pop()
                group.add(v)
                near = {w for w in left if max(abs(a - b) for a, b in zip(v, w, strict=True)) <= 1}
                left -= near
                edge += near
            found.append(group)
        return found

    a, b = groups(pred), groups(target)
    if not a and not b:
        return [math.nan] * 3
    inside_a, inside_b = set().union(*a), set().union(*b)
    recall = sum(bool(g & inside_a) for g in b) / max(len(b), 1)
    precision = sum(bool(g & inside_b) for g in a) / max(len(a), 1)
    return [recall, precision, 2 * recall * precision / max(recall + precision, 1e-9)]


def _lesions_numpy(pred: Tensor, target: Tensor) -> np.ndarray:
    p, t = pred.numpy(), target.numpy()
    if not (p | t).any():
        return np.full(3, np.nan)
    if not (p & t).any():
        return np.zeros(3)
    (a, n), (b, m) = (ndimage.label(x, np.ones((3, 3, 3))) for x in (p, t))
    recall = sum((p & (b == k)).any() for k in range(1, m + 1)) / m
    precision = sum((t & (a == k)).any() for k in range(1, n + 1)) / n
    return np.array([recall, precision, 2 / (1 / recall + 1 / precision)])


def _lesion_masks() -> Mapping[str, tuple[Tensor, Tensor]]:
    def mask(*voxels: tuple[int, int, int]) -> Tensor:
        out = torch.zeros(3, 6, 7, dtype=torch.bool)
        for v in voxels:
            out[v] = True
        return out

    diagonal_pair = (0, 0, 0), (1, 1, 1)
    long = tuple((1, 3, x) for x in range(6))
    return {
        "two lesions, one found": (mask((0, 0, 1), (2, 5, 0)), mask(*diagonal_pair, (0, 0, 1), (2, 2, 6), (2, 3, 6))),
        "voxels that touch at a corner": (mask(*diagonal_pair), mask(*diagonal_pair, (2, 5, 5))),
        "a prediction over two lesions": (mask(*long), mask((1, 3, 0), (1, 3, 5), (0, 0, 0))),
        "a prediction whose voxels touch at a corner": (mask(*diagonal_pair), mask((0, 0, 0))),
        "lesions side by side": (mask((0, 0, 0)), mask((0, 0, 1), (2, 5, 5))),
        "a lesion through all slices": (mask((1, 4, 4)), mask((0, 4, 4), (1, 4, 4), (2, 4, 4), (0, 0, 0))),
        "two pieces of one lesion": (mask((1, 3, 0), (1, 3, 5), (2, 0, 0), (0, 0, 6)), mask(*long)),
        "nothing found": (mask((0, 0, 0)), mask((2, 5, 6))),
        "no true lesion": (mask((0, 0, 0), (2, 5, 6)), mask()),
        "no predicted lesion": (mask(), mask((0, 0, 0), (2, 5, 6))),
        "no lesion at all": (mask(), mask()),
        "all found": (mask((0, 0, 0), (2, 5, 6)), mask((0, 0, 0), (2, 5, 6))),
    }


LESIONS = Exercise(
    solution=lesions,
    wrong={
        "as_written": (_as_written, "That is the code as it was given."),
        "six_neighbours": (
            _lesion(components=lambda mask: _components(mask, _SIX)),
            "Voxels that touch at an edge or a corner belong to one lesion: `label` needs a structure of 3 × 3 × 3.",
        ),
        "six_in_target": (
            _lesion(true_components=lambda mask: _components(mask, _SIX)),
            "You mended one call of `label`. The true lesions need a structure of 3 × 3 × 3 as well.",
        ),
        "six_in_prediction": (
            _lesion(components=lambda mask: _components(mask, _SIX), true_components=_components),
            "You mended one call of `label`. The predicted lesions need a structure of 3 × 3 × 3 as well.",
        ),
        "neighbours_count": (
            _lesion(
                touched=lambda ids, mask: len(
                    np.setdiff1d(ids[ndimage.binary_dilation(mask.numpy(), _ALL_NEIGHBOURS)], [0])
                )
            ),
            "A lesion beside a prediction counts as found in your code. They must have a voxel in common.",
        ),
        "divides_by_zero": (
            lambda pred, target: lesions(pred, target) if pred.any() and target.any() else 1 / 0,
            "Where a mask is empty there is nothing to divide by. Return zeros, or NaN if both are empty.",
        ),
        "no_harmonic_mean": (
            lambda pred, target: (
                1 / 0 if pred.any() and target.any() and not (pred & target).any() else lesions(pred, target)
            ),
            "Where recall and precision are both 0 you divide by their sum. F1 is 0 there.",
        ),
        "slice_by_slice": (
            _lesion(
                components=lambda mask: _components(mask, _ALL_NEIGHBOURS & np.array([0, 1, 0], bool)[:, None, None])
            ),
            "You count lesions in each slice. A lesion goes through slices: neighbours above and below belong to it.",
        ),
        "background_counted": (
            _lesion(touched=lambda ids, mask: len(np.unique(ids[mask.numpy()]))),
            "Id 0 is the background and no lesion: `unique` returns it as well.",
        ),
        "one_too_few": (
            _lesion(touched=lambda ids, mask: max(len(np.unique(ids[mask.numpy()])) - 1, 0)),
            "You subtract 1 always. Where all voxels lie inside a lesion there is no id 0 among them.",
        ),
        "found_twice": (
            _lesion(right=lambda found, right: found),
            "Your precision counts true lesions. It counts the predicted ones that touch a true one, of all predicted.",
        ),
        "mean": (
            _lesion(f1=lambda r, p: (r + p) / 2),
            "F1 is the harmonic mean: 2 · recall · precision / (recall + precision).",
        ),
        "not_doubled": (
            _lesion(f1=lambda r, p: r * p / (r + p) if r + p else 0.0),
            "The factor 2 is missing in F1.",
        ),
        "nothing_found_is_nan": (
            _lesion(f1=lambda r, p: 2 * r * p / (r + p) if r + p else math.nan),
            "Lesions on both sides and none found: F1 is 0.",
        ),
        "zero_for_nothing": (
            _lesion(nothing=(0.0, 0.0, 0.0)),
            "Without any lesion there is nothing to score: all three are NaN, not 0.",
        ),
        "one_for_nothing": (
            _lesion(nothing=(1.0, 1.0, 1.0)),
            "Without any lesion there is nothing to score: all three are NaN, not 1.",
        ),
        "missed_is_nan": (
            _lesion(missed=(0.0, math.nan, math.nan)),
            "True lesions and no predicted one: all three are 0. A missed case may not drop out of a mean.",
        ),
        "invented_is_nan": (
            _lesion(invented=(math.nan, 0.0, math.nan)),
            "Predicted lesions and no true one: all three are 0. They may not drop out of a mean.",
        ),
        "one_empty_is_nan": (
            _lesion(missed=_NAN, invented=_NAN),
            "If one mask alone is empty all three are 0, not NaN: such a case may not drop out of a mean.",
        ),
        "perfect_recall": (
            _lesion(invented=(1.0, 0.0, 0.0)),
            "No true lesion and a predicted one: recall is 0 here, too.",
        ),
        "perfect_precision": (
            _lesion(missed=(0.0, 1.0, 0.0)),
            "No predicted lesion and a true one: precision is 0 here, too.",
        ),
        "half": (
            _lesion(touched=_overlapping_half),
            "You ask for half of a lesion. One common voxel is enough.",
        ),
        "precision_first": (
            lambda pred, target: tuple(lesions(pred, target)[i] for i in (1, 0, 2)),
            "Recall comes first, then precision.",
        ),
        "voxels": (
            lambda pred, target: (
                lesions(pred, target)
                if not (pred.any() and target.any())
                else _lesions(pred, target, components=lambda mask: _single_voxels(mask))
            ),
            "You count voxels. Count lesions: connected voxels are one.",
        ),
    },
    right={"a search": _lesions_by_search, "NumPy": _lesions_numpy},
    probes=_lesion_masks,
    hint="Check the neighbours, id 0, which lesions precision counts, the harmonic mean, and empty masks.",
    sketch="""
        a, n = ndimage.label(pred, np.ones((3, 3, 3)))       # ids of predicted lesions
        b, m = ndimage.label(target, ...)
        if n == 0 or m == 0:
            return (0.0 if n or m else ...,) * 3
        found = len(set(np.unique(b[pred])) - {...})         # of m true ones
        right = len(set(np.unique(...)) - {0})               # of n predicted ones
    """,
)


def _single_voxels(mask: Tensor) -> tuple[np.ndarray, int]:
    ids = np.cumsum(mask.numpy()).reshape(mask.shape) * mask.numpy()
    return ids, int(ids.max())


# Two metrics that disagree -------------------------------------------------------------------------------------------

SPACING: Spacing = (2.0, 1.0, 1.0)


def target_box() -> Tensor:
    """The true mask of the exercise: a box of 8 × 12 × 12 voxels in a volume of 16 × 32 × 32."""
    mask = torch.zeros(16, 32, 32, dtype=torch.bool)
    mask[4:12, 10:22, 10:22] = True
    return mask


def _disagree(attempt: Any) -> None:
    """Demands two masks: the first has the better Dice, the second the better HD95, both by a margin."""
    pair = isinstance(attempt, tuple | list | np.ndarray | Tensor) and len(attempt) == 2
    expect(pair, "Give two masks: the one with the higher Dice first.")
    found = []
    for part in attempt:
        array = np.asarray(part.detach() if isinstance(part, Tensor) else part)
        expect(array.shape == (16, 32, 32), "A mask has the shape of the target, (16, 32, 32).")
        expect(bool(np.isin(array, (0, 1)).all()), "A mask is True or False (or 1 or 0) everywhere.")
        mask, target = torch.as_tensor(array.astype(bool)), target_box()
        expect(bool(mask.any()), "An empty mask has no boundary: put at least one voxel into each.")
        dice = 2 * float((mask & target).sum()) / float(mask.sum() + target.sum())
        found.append((dice, float(scores(*distances(mask, target, SPACING), 1.0, False)[0])))
    (dice_a, far_a), (dice_b, far_b) = found
    expect(dice_a > dice_b, _HIGHER_DICE)
    expect(dice_a >= dice_b + 0.1, _MORE_DICE)
    expect(far_b < far_a, _LOWER_DISTANCE)
    expect(far_b <= far_a - 8, _MORE_DISTANCE)


_HIGHER_DICE = "The first mask must have the higher Dice. Which mask overlaps more with the target?"
_MORE_DICE = "The first mask has the higher Dice, but by less than 0.1. Shrink the second one further."
_LOWER_DISTANCE = (
    "The second mask must have the lower HD95. A few voxels far away are not seen by a percentile: more than 5% of the "
    "first mask's boundary must lie far off."
)
_MORE_DISTANCE = "The second mask has the lower HD95, but by less than 8 mm. Move the far part of the first one away."


def _with_plate(first: int = 0, last: int = 1, width: int = 10, at: int = 0) -> Tensor:
    """The target and a plate near the volume's border."""
    mask = target_box()
    mask[first:last, at : at + width, at : at + width] = True
    return mask


def _shrunk(by: int = 2) -> Tensor:
    mask = torch.zeros(16, 32, 32, dtype=torch.bool)
    mask[4 + by // 2 : 12 - by // 2, 10 + by : 22 - by, 10 + by : 22 - by] = True
    return mask


DISAGREE = Exercise(
    solution=(_with_plate(), _shrunk()),
    wrong={
        "one_mask": ((target_box(),), "Give two masks: the one with the higher Dice first."),
        "flat": ((target_box()[0], target_box()[0]), "A mask has the shape of the target, (16, 32, 32)."),
        "probabilities": (
            (target_box() * 0.7, target_box() * 0.4),
            "A mask is True or False (or 1 or 0) everywhere.",
        ),
        "empty": (
            (_with_plate(), torch.zeros(16, 32, 32)),
            "An empty mask has no boundary: put at least one voxel into each.",
        ),
        "swapped": ((_shrunk(), _with_plate()), _HIGHER_DICE),
        "little_dice": ((_with_plate(), target_box() & (torch.arange(32) > 10)), _MORE_DICE),
        "a_speck": ((_with_plate(width=2), _shrunk()), _LOWER_DISTANCE),
        "near": ((_with_plate(at=8), _shrunk(1)), _MORE_DISTANCE),
    },
    right={
        "arrays": (_with_plate().numpy(), _shrunk(3).numpy()),
        "one tensor": torch.stack([_with_plate(), _shrunk()]),
        "lists": [_with_plate(15, 16).int().tolist(), _shrunk(1).int().tolist()],
    },
    verify=_disagree,
    compared=False,
    sketch="""
        first = target.clone()
        first[0, ..., ...] = True                            # far from the target
        second = ...                                         # the target, eroded all round
    """,
)


# A window of grey values ---------------------------------------------------------------------------------------------


def window(image: Tensor, level: float, width: float) -> Tensor:
    """Hounsfield units of any shape → grey from 0 to 1: ``level`` becomes ½, ``width`` units span the whole range."""
    return ((image - level) / width + 0.5).clamp(0, 1)


def _window_numpy(image: Tensor, level: float, width: float) -> np.ndarray:
    low = level - width / 2
    return (np.clip(image.numpy(), low, low + width) - low) / width


def _window_in_place(image: Tensor, level: float, width: float) -> Tensor:
    image -= level - width / 2
    image /= width
    return image.clamp_(0, 1)


def _window_by_loop(image: Tensor, level: float, width: float) -> Any:
    def walk(value: Any) -> Any:
        if isinstance(value, list):
            return [walk(v) for v in value]
        return min(1.0, max(0.0, (value - level) / width + 0.5))

    return walk(image.tolist())


WINDOW = Exercise(
    solution=window,
    wrong={
        "not_clamped": (
            lambda image, level, width: (image - level) / width + 0.5,
            "Values outside of the window become exactly 0 or 1.",
        ),
        "not_clamped_above": (
            lambda image, level, width: ((image - level) / width + 0.5).clamp(min=0),
            "Values above the window become exactly 1.",
        ),
        "not_clamped_below": (
            lambda image, level, width: ((image - level) / width + 0.5).clamp(max=1),
            "Values below the window become exactly 0.",
        ),
        "half_width": (
            lambda image, level, width: window(image, level, 2 * width),
            "Your window is twice as wide: `width` is from its lower to its upper end.",
        ),
        "narrow": (
            lambda image, level, width: window(image, level, width / 2),
            "Your window is half as wide: `width` is from its lower to its upper end.",
        ),
        "clipped_alone": (
            lambda image, level, width: image.clamp(level - width / 2, level + width / 2),
            "You cut values off and leave them in Hounsfield units. Grey goes from 0 to 1.",
        ),
        "around_zero": (
            lambda image, level, width: 2 * window(image, level, width) - 1,
            "Your grey goes from −1 to 1. It goes from 0 to 1.",
        ),
        "shifted_after": (
            lambda image, level, width: ((image - level) / width).clamp(0, 1) + 0.5,
            "Add ½ before you cut off at 0 and 1.",
        ),
        "level_is_low": (
            lambda image, level, width: window(image, level + width / 2, width),
            "The level is the middle of the window: it becomes ½.",
        ),
        "level_is_high": (
            lambda image, level, width: window(image, level - width / 2, width),
            "The level is the middle of the window, not its upper end.",
        ),
        "eight_bit": (
            lambda image, level, width: 255 * window(image, level, width),
            "Grey goes from 0 to 1 here, not to 255.",
        ),
        "inverted": (lambda image, level, width: 1 - window(image, level, width), "Dense tissue is bright: 1, not 0."),
        "own_range": (
            lambda image, level, width: (image - image.min()) / (image.max() - image.min()),
            "You stretch the image's own range. The window is the same for every image: level and width.",
        ),
        "set_to_zero": (
            lambda image, level, width: torch.where(
                (image - level).abs() <= width / 2, (image - level) / width + 0.5, 0.0
            ),
            "Values above the window become 1, not 0.",
        ),
        "width_first": (
            lambda image, level, width: window(image, width, level),
            "The level comes first, then the width.",
        ),
    },
    right={"NumPy": _window_numpy, "in place": _window_in_place, "loops": _window_by_loop},
    probes=lambda: {
        "a soft tissue window": (torch.tensor([[-1000.0, -160, -100], [40, 60, 240], [241, 700, 3000]]), 40.0, 400.0),
        "a lung window": (torch.linspace(-1200, 400, 12).view(3, 2, 2), -600.0, 1500.0),
        "a narrow window": (torch.tensor([30.0, 34.5, 35, 36, 44, 45.5, 50]), 40.0, 10.0),
    },
    hint="(x − level) / width + ½, cut off at 0 and 1.",
    sketch="""
        grey = (image - ...) / ...                           # the level becomes 0
        return (grey + ...).clamp(...)
    """,
)
