"""Pieces of chapter 2's own metrics, and the exercise that breaks two of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seglib.book.exercise import Exercise, expect
from seglib.metrics.boundary import boundary_region
from seglib.metrics.confusion import confusion as counted
from seglib.types import VOID

NAN = float("nan")


# The confusion matrix -------------------------------------------------------------------------------------------------


def confusion(pred: Tensor, target: Tensor, K: int) -> Tensor:
    """Counts ``(K, K)`` of two label maps: rows are the truth, columns the prediction; void is left out."""
    return counted(pred.long(), target.long(), K)


def _counts(pred: Tensor, target: Tensor, K: int) -> Tensor:
    """The matrix of labels that are all below ``K``."""
    return torch.bincount(K * target.long().flatten() + pred.long().flatten(), minlength=K * K).reshape(K, K)


def _void_as(c: int) -> Callable[[Tensor, Tensor, int], Tensor]:
    def matrix(pred: Tensor, target: Tensor, K: int) -> Tensor:
        return _counts(pred, target.masked_fill(target == VOID, c % K), K)

    return matrix


def _void_hits(pred: Tensor, target: Tensor, K: int) -> Tensor:
    return _counts(pred, torch.where(target == VOID, pred, target), K)


def _without_overflow_check(pred: Tensor, target: Tensor, K: int) -> Tensor:
    """In the maps' own type, which may be uint8."""
    keep = target != VOID
    return torch.bincount((K * target[keep] + pred[keep]).long(), minlength=K * K)[: K * K].reshape(K, K)


def _only_what_occurs(pred: Tensor, target: Tensor, K: int) -> Tensor:
    keep = target != VOID
    pairs = K * target[keep].long() + pred[keep].long()
    found = torch.bincount(pairs)  # without minlength
    return found.reshape(-1, K) if len(found) % K == 0 else found


def _squeezed(pred: Tensor, target: Tensor, K: int) -> Tensor:
    """The classes that occur alone."""
    m = confusion(pred, target, K)
    there = (m.sum(0) + m.sum(1)) > 0
    return m[there][:, there]


def _marked(pred: Tensor, target: Tensor, K: int) -> Tensor:
    """Assigns with an index, which adds each pair once."""
    m = torch.zeros(K, K, dtype=torch.int64)
    keep = target != VOID
    m[target[keep].long(), pred[keep].long()] += 1
    return m


def _first_map(pred: Tensor, target: Tensor, K: int) -> Tensor:
    return confusion(pred[:1], target[:1], K)


def _maps() -> Mapping[str, tuple[Tensor, Tensor, int]]:
    g = torch.Generator().manual_seed(3)
    target = torch.randint(0, 4, (6, 7), generator=g)
    pred = torch.where(torch.rand(6, 7, generator=g) < 0.6, target, torch.randint(0, 4, (6, 7), generator=g))
    with_void = target.clone()
    with_void[1:4, 2:] = VOID
    many = torch.randint(0, 20, (2, 8, 9), generator=g).to(torch.uint8)
    said = torch.where(torch.rand(2, 8, 9, generator=g) < 0.6, many, many.flip(2))
    return {
        "maps without void": (pred, target, 4),
        "maps with void pixels": (pred, with_void, 4),
        "maps where class 4 is in neither": (pred, with_void, 5),
        "a batch of uint8 maps with 20 classes": (said, many, 20),
        "maps that are void everywhere": (pred, torch.full_like(target, VOID), 4),
    }


def _matrix_by_loop(pred: Tensor, target: Tensor, K: int) -> list[list[int]]:
    rows = [[0] * K for _ in range(K)]
    for p, t in zip(pred.flatten().tolist(), target.flatten().tolist(), strict=True):
        if t < K:
            rows[t][p] += 1
    return rows


def _matrix_with_numpy(pred: Tensor, target: Tensor, K: int) -> np.ndarray:
    m = np.zeros((K, K), np.int64)
    keep = target.numpy() != VOID
    np.add.at(m, (target.numpy()[keep].astype(int), pred.numpy()[keep].astype(int)), 1)
    return m


def _matrix_one_hot(pred: Tensor, target: Tensor, K: int) -> Tensor:
    classes = torch.arange(K)
    pred[target == VOID] = 0
    p, t = (labels.flatten()[:, None] == classes for labels in (pred, target))  # (pixels, K) both
    return t.double().T @ p.double()


CONFUSION = Exercise(
    solution=confusion,
    probes=_maps,
    wrong={
        "transposed": (
            lambda p, t, K: confusion(p, t, K).T,
            "Rows and columns are swapped: the true class is the row, the predicted one the column.",
        ),
        "void_is_last": (
            _void_as(-1),
            "Void pixels are counted as the last class. Leave them out.",
        ),
        "void_is_first": (_void_as(0), "Void pixels are counted as class 0. Leave them out."),
        "void_is_right": (_void_hits, "Void pixels are counted as right. They are not judged: leave them out."),
        "in_bytes": (
            _without_overflow_check,
            "In uint8 numbers end at 255, and K·y + ŷ goes further: convert the labels to int64 first.",
        ),
        "no_minlength": (
            _only_what_occurs,
            "The matrix has a place for every pair, also for those that never occur: (K, K) always.",
        ),
        "classes_that_occur": (
            _squeezed,
            "You leave out the classes that are in neither map. Their rows and columns hold zeros.",
        ),
        "each_pair_once": (
            _marked,
            "Every pair counts once in yours: `M[rows, columns] += 1` adds one to each place, however often it is "
            "named.",
        ),
        "first_map": (_first_map, "You count the first row or the first map alone. Count all pixels."),
        "shares": (
            lambda p, t, K: confusion(p, t, K) / confusion(p, t, K).sum().clamp(min=1),
            "Those are shares. Return counts: matrices of counts can be added up.",
        ),
        "shares_of_rows": (
            lambda p, t, K: confusion(p, t, K) / confusion(p, t, K).sum(1, keepdim=True).clamp(min=1),
            "Every row sums to one in yours. Return counts.",
        ),
        "flat": (lambda p, t, K: confusion(p, t, K).flatten(), "The counts are right, but flat: return (K, K)."),
        "errors_alone": (
            lambda p, t, K: confusion(p, t, K) - confusion(p, t, K).diagonal().diag(),
            "The diagonal is empty: pixels that are right count too.",
        ),
    },
    right={
        "a loop over pixels": _matrix_by_loop,
        "NumPy's add.at": _matrix_with_numpy,
        "one-hot, in place": _matrix_one_hot,
    },
    hint="Leave void out, then count how often each pair of true and predicted class occurs.",
    sketch="""
    keep = ...                            # where the target says something
    pair = ...                            # one number for each pair (y, ŷ): which type holds it?
    return torch.bincount(pair, minlength=...).reshape(K, K)
    """,
)


# Scores of a matrix ---------------------------------------------------------------------------------------------------

Scores = tuple[Tensor, Tensor, Tensor]


def scores(M: Tensor) -> Scores:
    """Accuracy ``(...)``, IoU and Dice ``(..., K)`` of confusion matrices ``(..., K, K)``; NaN where 0/0."""
    tp, fn, fp = _parts(M)
    return tp.sum(-1) / M.double().sum((-2, -1)), tp / (tp + fp + fn), 2 * tp / (2 * tp + fp + fn)


def _parts(M: Tensor) -> Scores:
    """TP, FN and FP of every class."""
    M = M.double()
    tp = M.diagonal(dim1=-2, dim2=-1)
    return tp, M.sum(-1) - tp, M.sum(-2) - tp


def _ious(rule: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Tensor], Scores]:
    """:func:`scores` with another IoU."""
    return lambda M: (scores(M)[0], rule(*_parts(M)), scores(M)[2])


def _dices(rule: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Tensor], Scores]:
    return lambda M: (scores(M)[0], scores(M)[1], rule(*_parts(M)))


def _filled(value: float) -> Callable[[Tensor], Scores]:
    def fill(M: Tensor) -> Scores:
        accuracy, iou, dice = scores(M)
        return accuracy, iou.nan_to_num(value), dice.nan_to_num(value)

    return fill


def _first_matrix(M: Tensor) -> Scores:
    """Written for one matrix: sums over the first two dimensions."""
    tp = M.double().diagonal()
    fn, fp = M.double().sum(1) - tp, M.double().sum(0) - tp
    return tp.sum() / M.double().sum(), tp / (tp + fp + fn), 2 * tp / (2 * tp + fp + fn)


def _summed(M: Tensor) -> Scores:
    return scores(M.flatten(0, -3).sum(0) if M.ndim > 2 else M)


def _mean_recall(M: Tensor) -> Scores:
    tp, fn, _ = _parts(M)
    return (tp / (tp + fn)).nanmean(-1), *scores(M)[1:]


def _matrices() -> Mapping[str, tuple[Tensor]]:
    g = torch.Generator().manual_seed(5)
    several = torch.randint(0, 9, (2, 3, 4, 4), generator=g)
    absent = torch.tensor([[5, 0, 1, 0], [2, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    return {
        "[[7, 0, 0], [0, 6, 0], [1, 0, 1]]": (torch.tensor([[7, 0, 0], [0, 6, 0], [1, 0, 1]]),),
        "a matrix where class 2 is only predicted and class 3 is absent": (absent,),
        "a class that is never predicted": (absent.T,),
        "matrices (2, 3, 4, 4)": (several,),
        "no pixel at all": (torch.zeros(3, 3, dtype=torch.int64),),
    }


def _scores_by_loop(M: Tensor) -> tuple[Any, Any, Any]:
    if M.ndim > 2:
        each = [_scores_by_loop(m) for m in M]
        return tuple([e[i] for e in each] for i in range(3))  # type: ignore[return-value]
    rows, K = M.tolist(), M.shape[-1]
    iou, dice = [], []
    for k in range(K):
        areas = sum(rows[k]) + sum(row[k] for row in rows)
        iou.append(rows[k][k] / (areas - rows[k][k]) if areas else NAN)
        dice.append(2 * rows[k][k] / areas if areas else NAN)
    total = sum(map(sum, rows))
    return sum(rows[k][k] for k in range(K)) / total if total else NAN, iou, dice


def _scores_with_numpy(M: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    m = M.numpy()
    tp = np.einsum("...kk->...k", m)
    areas = m.sum(-1) + m.sum(-2)
    with np.errstate(invalid="ignore"):
        iou = tp / (areas - tp)
        return tp.sum(-1) / m.sum((-2, -1)), iou, 2 * iou / (1 + iou)


SCORES = Exercise(
    solution=scores,
    probes=_matrices,
    wrong={
        "no_false_positives": (
            _ious(lambda tp, fn, fp: tp / (tp + fn)),
            "Your IoU is the recall: what was wrongly taken, FP, is missing below.",
        ),
        "no_false_negatives": (
            _ious(lambda tp, fn, fp: tp / (tp + fp)),
            "Your IoU is the precision: what was missed, FN, is missing below.",
        ),
        "sum_for_union": (
            _ious(lambda tp, fn, fp: tp / (2 * tp + fp + fn)),
            "Your IoU divides by both areas, which hold the intersection twice. The union holds it once.",
        ),
        "errors_for_union": (
            _ious(lambda tp, fn, fp: tp / (fp + fn)),
            "Your IoU divides by the errors. The union holds the right pixels too.",
        ),
        "dice_without_2": (
            _dices(lambda tp, fn, fp: tp / (2 * tp + fp + fn)),
            "Your Dice has no 2 above. At a perfect class it must be 1.",
        ),
        "dice_over_the_union": (
            _dices(lambda tp, fn, fp: 2 * tp / (tp + fp + fn)),
            "Your Dice divides by the union. It divides by both areas, 2 TP + FP + FN.",
        ),
        "swapped": (
            lambda M: (scores(M)[0], scores(M)[2], scores(M)[1]),
            "IoU and Dice are swapped: accuracy, IoU, Dice.",
        ),
        "absent_0": (_filled(0.0), "A class without a pixel gets 0 in yours. 0/0 is no number: NaN."),
        "absent_1": (_filled(1.0), "A class without a pixel gets 1 in yours. 0/0 is no number: NaN."),
        "means": (
            lambda M: (scores(M)[0], scores(M)[1].nanmean(-1), scores(M)[2].nanmean(-1)),
            "You return means. One IoU and one Dice for every class, (..., K), are wanted.",
        ),
        "mean_recall": (
            _mean_recall,
            "Your accuracy is the mean of the recalls. It counts pixels: the diagonal over all.",
        ),
        "one_matrix": (
            _first_matrix,
            "It works for one matrix alone. There may be dimensions before (K, K): count axes from the end.",
        ),
        "summed": (
            _summed,
            "You add the matrices up. Each of them has scores of its own: only the last two axes go.",
        ),
        "accuracy_each": (
            lambda M: (_parts(M)[0] / M.double().sum((-2, -1))[..., None], *scores(M)[1:]),
            "Your accuracy has a value for every class. It is one number for a matrix: sum the diagonal first.",
        ),
        "percent": (lambda M: tuple(100 * v for v in scores(M)), "Right, but in percent: give fractions."),
    },
    right={"loops with lists": _scores_by_loop, "NumPy, Dice from IoU": _scores_with_numpy},
    hint="TP is the diagonal, FN the rest of the row, FP the rest of the column.",
    sketch="""
    TP = M.diagonal(...)          # (..., K): of the last two axes
    FN = ... - TP                 # the rest of the row
    FP = ... - TP                 # the rest of the column
    accuracy = ...                # (...)
    return accuracy, ..., ...     # in floats: 0/0 is NaN by itself
    """,
)


# Boundary IoU ---------------------------------------------------------------------------------------------------------


def boundary_iou(pred: Tensor, target: Tensor, d: int) -> Tensor:
    """IoU of the boundary regions of two masks ``(H, W)``, NaN where both are empty."""
    return _iou(boundary_region(pred, d), boundary_region(target, d))


def _iou(a: Tensor, b: Tensor) -> Tensor:
    return (a & b).sum().double() / (a | b).sum()


def _bands(rule: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, int], Tensor]:
    return lambda p, t, d: rule(boundary_region(p, d), boundary_region(t, d))


def _grown(mask: Tensor, d: int) -> Tensor:
    """The pixels within ``d`` steps of the outline, on both sides."""
    out = torch.nn.functional.max_pool2d(mask[None, None].double(), 2 * d + 1, 1, padding=d)[0, 0] > 0
    return (out & ~mask) | boundary_region(mask, d)


def _two_masks() -> Mapping[str, tuple[Tensor, Tensor, int]]:
    square = torch.zeros(14, 16, dtype=torch.bool)
    square[2:11, 3:12] = True
    moved = square.roll(1, 1)
    ring = boundary_region(square, 2)
    small = torch.zeros_like(square)
    small[5:9, 6:10] = True
    none = torch.zeros_like(square)
    return {
        "a square and itself moved by a pixel, d = 1": (moved, square, 1),
        "a square and itself moved by a pixel, d = 2": (moved, square, 2),
        "a ring and a square, d = 2": (ring, square, 2),
        "a small square in a large one, d = 3": (small, square, 3),
        "a mask at the border of the image, d = 2": (square.roll(3, 0), square.roll(2, 0), 2),
        "an empty prediction, d = 1": (none, square, 1),
        "two empty masks, d = 2": (none, none, 2),
    }


def _biou_by_loop(pred: Tensor, target: Tensor, d: int) -> float:
    """Asks for every pixel whether a pixel outside is near."""

    def near(mask: Tensor, y: int, x: int) -> bool:
        height, width = mask.shape
        window = [(i, j) for i in range(y - d, y + d + 1) for j in range(x - d, x + d + 1)]
        return any(not (0 <= i < height and 0 <= j < width) or not mask[i, j] for i, j in window)

    bands = [{(y, x) for y, x in mask.nonzero().tolist() if near(mask, y, x)} for mask in (pred, target)]
    either = len(bands[0] | bands[1])
    return len(bands[0] & bands[1]) / either if either else NAN


def _biou_in_place(pred: Tensor, target: Tensor, d: int) -> np.floating:
    for mask in (pred, target):
        inner = mask.clone()
        for _ in range(d):
            p = torch.nn.functional.pad(inner, [1] * 4)
            views = [p[i : i + mask.shape[0], j : j + mask.shape[1]] for i in range(3) for j in range(3)]
            inner = torch.stack(views).all(0)
        mask ^= inner
    a, b = pred.numpy(), target.numpy()
    with np.errstate(invalid="ignore"):
        return np.float64((a & b).sum()) / np.float64((a | b).sum())


BOUNDARY_IOU = Exercise(
    solution=boundary_iou,
    probes=_two_masks,
    wrong={
        "plain": (lambda p, t, d: _iou(p, t), "That is the plain IoU. Take the boundary region of both masks first."),
        "one_region": (
            lambda p, t, d: _iou(p, boundary_region(t, d)),
            "Only the true mask became a region. The predicted one does too.",
        ),
        "region_of_the_prediction": (
            lambda p, t, d: _iou(boundary_region(p, d), t),
            "Only the predicted mask became a region. The true one does too.",
        ),
        "true_band_for_both": (
            lambda p, t, d: _iou(p & boundary_region(t, d), boundary_region(t, d)),
            "You cut both masks by the band of the truth. Each mask has a band of its own.",
        ),
        "both_sides": (
            lambda p, t, d: _iou(_grown(p, d), _grown(t, d)),
            "Your bands lie on both sides of the outline. The region is inside its mask.",
        ),
        "over_the_masks": (
            lambda p, t, d: (boundary_region(p, d) & boundary_region(t, d)).sum().double() / (p | t).sum(),
            "You divide by the union of the masks. Divide by the union of the two regions.",
        ),
        "distance_1": (lambda p, t, d: boundary_iou(p, t, 1), "Your regions are one pixel wide: use d."),
        "dice": (
            _bands(lambda a, b: 2 * (a & b).sum().double() / (a.sum() + b.sum())),
            "That is the Dice of the regions. Return their IoU.",
        ),
        "recall": (
            _bands(lambda a, b: (a & b).sum().double() / b.sum()),
            "You divide by the region of the truth alone: that is recall.",
        ),
        "the_smaller_one": (
            lambda p, t, d: torch.minimum(_iou(p, t), boundary_iou(p, t, d)),
            "You return the smaller one of IoU and boundary IoU. Return boundary IoU.",
        ),
        "empty_0": (
            _bands(lambda a, b: _iou(a, b).nan_to_num(0.0)),
            "Two empty masks: 0/0 is no number. Return NaN, not 0.",
        ),
        "empty_1": (
            _bands(lambda a, b: _iou(a, b).nan_to_num(1.0)),
            "Two empty masks: 0/0 is no number. Return NaN, not 1.",
        ),
        "empty_fails": (
            lambda p, t, d: _bands(lambda a, b: torch.tensor(int((a & b).sum()) / int((a | b).sum())))(p, t, d),
            "Two empty masks have no union. Return NaN there; a division of tensors does so by itself.",
        ),
    },
    right={"a loop over pixels": _biou_by_loop, "erosion, in place": _biou_in_place},
    hint="The region of each mask first, then the IoU of the two regions.",
    sketch="""
    p, t = ..., ...      # (H, W): the regions of both masks
    return ...           # what is in both over what is in at least one; 0/0 of tensors is NaN
    """,
)


# Break both -----------------------------------------------------------------------------------------------------------


def disc() -> Tensor:
    """The truth that the exercise shows, ``(24, 24)`` bool."""
    y, x = torch.arange(24.0)[:, None], torch.arange(24.0)
    return (y - 11.5) ** 2 + (x - 11.5) ** 2 < 9.7**2


def both_scores(pred: Tensor) -> tuple[float, float]:
    """IoU and boundary IoU (d = 1) of a prediction of :func:`disc`."""
    truth = disc()
    return float(_iou(pred, truth)), float(boundary_iou(pred, truth, 1).nan_to_num(0.0))


def _breaks(attempt: Any) -> None:
    form = "Give two masks of 24 × 24, each True and False, or 1 and 0."
    expect(isinstance(attempt, tuple | list | Tensor | np.ndarray) and len(attempt) == 2, form)
    masks = []
    for part in attempt:
        expect(isinstance(part, tuple | list | Tensor | np.ndarray), form)
        try:
            array = np.asarray(part)
        except ValueError:
            array = np.zeros(0)
        expect(array.shape == (24, 24) and array.dtype.kind in "biuf" and bool(np.isin(array, (0, 1)).all()), form)
        masks.append(torch.from_numpy(array.astype(bool)))
    (iou, band), (iou_2, band_2) = map(both_scores, masks)
    expect(
        band >= 0.95,
        f"The first mask's boundary IoU is {band:.2f}, and 0.95 is wanted. Keep every pixel of the band.",
    )
    expect(
        iou <= 0.3,
        f"The first mask's IoU is {iou:.2f}, and 0.30 is the most. What of the disc does boundary IoU never see?",
    )
    expect(
        iou_2 >= 0.89,
        f"The second mask's IoU is {iou_2:.3f}, and 0.89 is wanted. Every pixel that you change costs about 0.003.",
    )
    expect(
        band_2 <= 0.35,
        f"The second mask's boundary IoU is {band_2:.2f}, and 0.35 is the most. The prediction's own band may grow: "
        "where else can a mask have an outline?",
    )


def holes(step: int = 3, at: int = 1) -> Tensor:
    """:func:`disc` with a hole of one pixel in every ``step`` × ``step`` block."""
    mask = disc()
    mask[at::step, at::step] = False
    return mask


BREAK = Exercise(
    solution=(boundary_region(disc(), 1), holes()),
    verify=_breaks,
    compared=False,
    wrong={
        "one_mask": ((disc(),), "Give two masks of 24 × 24, each True and False, or 1 and 0."),
        "the_truth": (
            (disc(), disc()),
            "The first mask's IoU is 1.00, and 0.30 is the most. What of the disc does boundary IoU never see?",
        ),
        "nothing": (
            (torch.zeros(24, 24, dtype=torch.bool), disc()),
            "The first mask's boundary IoU is 0.00, and 0.95 is wanted. Keep every pixel of the band.",
        ),
        "thick": (
            (boundary_region(disc(), 2), holes()),
            f"The first mask's boundary IoU is {both_scores(boundary_region(disc(), 2))[1]:.2f}, and 0.95 is wanted. "
            "Keep every pixel of the band.",
        ),
        "moved": (
            (boundary_region(disc(), 1), disc().roll(1, 1)),
            "The second mask's IoU is 0.875, and 0.89 is wanted. Every pixel that you change costs about 0.003.",
        ),
        "truth_again": (
            (boundary_region(disc(), 1), disc()),
            "The second mask's boundary IoU is 1.00, and 0.35 is the most. The prediction's own band may grow: where "
            "else can a mask have an outline?",
        ),
        "few_holes": (
            (boundary_region(disc(), 1), holes(6)),
            f"The second mask's boundary IoU is {both_scores(holes(6))[1]:.2f}, and 0.35 is the most. The "
            "prediction's own band may grow: where else can a mask have an outline?",
        ),
        "many_holes": (
            (boundary_region(disc(), 1), holes(2)),
            f"The second mask's IoU is {both_scores(holes(2))[0]:.3f}, and 0.89 is wanted. Every pixel that you change "
            "costs about 0.003.",
        ),
    },
    right={
        "NumPy, with other holes": (boundary_region(disc(), 1).numpy(), holes(3, 2).numpy()),
        "lists of 0 and 1": [boundary_region(disc(), 1).int().tolist(), holes(3, 0).int().tolist()],
    },
    hint="The first mask lacks what the band leaves out; the second has outlines where the truth has none.",
    sketch="""
    hollow = ...          # what does boundary IoU look at in the truth? keep that, and nothing else
    pierced = truth.clone()
    pierced[...] = False  # few pixels, whose neighbours all become outline
    my_masks = (hollow, pierced)
    """,
)
