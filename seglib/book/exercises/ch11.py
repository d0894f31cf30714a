"""The pieces and exercises of chapter 11, "YOLACT".

The first five are the pieces that the reader writes in "From scratch"; the others stand in "Exercises".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.book.exercise import Exercise, Hint, expect
from seglib.losses.assign import match_anchors
from seglib.losses.multibox import mask_loss as multibox_mask_loss
from seglib.ops.boxes import box_iou
from seglib.ops.masks import crop_masks

# Piece 1: masks from prototypes ---------------------------------------------------------------------------------------


def assemble(P: Tensor, C: Tensor) -> Tensor:  # noqa: N803 - the letters of the chapter's equation
    """Probabilities ``(N, h, w)`` from prototypes ``(h, w, k)`` and coefficients ``(N, k)``."""
    return (P @ C.T).sigmoid().permute(2, 0, 1)


def _assemble_by_loops(P: Tensor, C: Tensor) -> Tensor:  # noqa: N803
    out = P.new_zeros(len(C), *P.shape[:2])
    for n, c in enumerate(C):
        for j in range(P.shape[2]):
            out[n] += c[j] * P[..., j]
    return out.sigmoid_()


def _assemble_with_numpy(P: Tensor, C: Tensor) -> np.ndarray:  # noqa: N803
    logits = np.tensordot(C.double().numpy(), P.double().numpy(), ([1], [2]))
    return 1 / (1 + np.exp(-logits))


def _maps_and_coefficients() -> Mapping[str, tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(11)

    def case(h: int, w: int, k: int, n: int) -> tuple[Tensor, Tensor]:
        return torch.rand(h, w, k, generator=draw) * 3, torch.rand(n, k, generator=draw) * 2 - 1

    return {
        "two objects and three prototypes": case(4, 6, 3, 2),
        "as many objects as prototypes": case(4, 6, 3, 3),
        "a square map": case(5, 5, 4, 5),
        "one object": case(3, 5, 4, 1),
        "one prototype": case(3, 5, 1, 2),
        "no object": case(3, 5, 4, 0),
    }


ASSEMBLE = Exercise(
    solution=assemble,
    wrong={
        "logits": (
            lambda P, C: (P @ C.T).permute(2, 0, 1),
            "Those are the logits. The sigmoid makes probabilities of them.",
        ),
        "objects_last": (
            lambda P, C: (P @ C.T).sigmoid(),
            "Your masks are the last axis. Objects come first: (N, h, w).",
        ),
        "viewed": (
            lambda P, C: (P @ C.T).sigmoid().reshape(len(C), *P.shape[:2]),
            "The shape is right, but `view` and `reshape` do not move axes: the numbers are mixed up. Use `permute`.",
        ),
        "softmax": (
            lambda P, C: (P @ C.T).softmax(-1).permute(2, 0, 1),
            "With a softmax the objects compete for each cell. Every mask has a sigmoid of its own.",
        ),
        "sigmoid_of_prototypes": (
            lambda P, C: (P.sigmoid() @ C.T).permute(2, 0, 1),
            "You take the sigmoid of the prototypes. Mix first: the sigmoid is of the sum.",
        ),
        "tanh_again": (
            lambda P, C: (P @ C.tanh().T).sigmoid().permute(2, 0, 1),
            "The coefficients are in (−1, 1) already: no tanh here.",
        ),
        "added_only": (
            lambda P, C: (P @ C.abs().T).sigmoid().permute(2, 0, 1),
            "You only add. A negative coefficient subtracts its prototype.",
        ),
        "mean": (
            lambda P, C: (P @ C.T / P.shape[-1]).sigmoid().permute(2, 0, 1),
            "You divide by the number of prototypes. It is a sum, not a mean.",
        ),
        "first_object": (
            lambda P, C: (P @ C[:1].T).sigmoid().permute(2, 0, 1).expand(len(C), -1, -1),
            "All your masks are that of the first object.",
        ),
        "thresholded": (
            lambda P, C: (P @ C.T > 0).permute(2, 0, 1),
            "You cut at ½ already. The probabilities are wanted: they are resized before they are cut.",
        ),
    },
    right={
        "einsum": lambda P, C: torch.einsum("hwk,nk->nhw", P, C).sigmoid(),
        "loops, in place": _assemble_by_loops,
        "NumPy": _assemble_with_numpy,
        "stacked masks as a flat product": lambda P, C: (C @ P.flatten(0, 1).T).sigmoid_().view(len(C), *P.shape[:2]),
    },
    probes=_maps_and_coefficients,
    hint="Each object: Σ over the prototypes of coefficient × prototype, then the sigmoid.",
    sketch="""
        logits = P @ ...                          # (h, w, k) (k, N) → (h, w, N)
        return logits.sigmoid().permute(...)      # objects first
    """,
)


# Piece 2: cutting by boxes --------------------------------------------------------------------------------------------


def crop(M: Tensor, boxes: Tensor) -> Tensor:  # noqa: N803
    """Maps ``(N, h, w)`` with 0 in all cells that lie more than one cell outside their box."""
    return crop_masks(M, boxes, padding=1, by_index=True)


def _cropped(
    columns: Callable[[Tensor, Tensor, Tensor], Tensor], fill: float = 0.0, either: bool = False
) -> Callable[[Tensor, Tensor], Tensor]:
    """``crop`` with another test of an index against the ends of its box, another fill, or ``or`` for ``and``."""

    def answer(M: Tensor, boxes: Tensor) -> Tensor:  # noqa: N803
        x, y = torch.arange(M.shape[2]), torch.arange(M.shape[1])
        across = columns(x, boxes[:, :1], boxes[:, 2:3])[:, None]
        down = columns(y, boxes[:, 1:2], boxes[:, 3:])[:, :, None]
        inside = across | down if either else across & down
        return torch.where(inside, M, fill)

    return answer


def _crop_by_slices(M: Tensor, boxes: Tensor) -> Tensor:  # noqa: N803
    out = torch.zeros_like(M)
    for n, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        left, right = (max(0, math.ceil(v)) for v in (x0 - 1, x1 + 1))
        top, bottom = (max(0, math.ceil(v)) for v in (y0 - 1, y1 + 1))
        out[n, top:bottom, left:right] = M[n, top:bottom, left:right]
    return out


def _crop_in_place(M: Tensor, boxes: Tensor) -> Tensor:  # noqa: N803
    x0, y0, x1, y1 = boxes.T[:, :, None]
    x, y = torch.arange(M.shape[2]), torch.arange(M.shape[1])
    M *= ((x >= x0 - 1) & (x < x1 + 1))[:, None]
    M *= ((y >= y0 - 1) & (y < y1 + 1))[:, :, None]
    return M


def _crop_with_numpy(M: Tensor, boxes: Tensor) -> np.ndarray:  # noqa: N803
    maps, (x0, y0, x1, y1) = M.numpy(), boxes.numpy().T[:, :, None, None]
    y, x = np.indices(maps.shape[1:])
    return np.where((x >= x0 - 1) & (x < x1 + 1) & (y >= y0 - 1) & (y < y1 + 1), maps, 0)


def _maps_and_boxes() -> Mapping[str, tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(5)

    def case(*boxes: tuple[float, float, float, float]) -> tuple[Tensor, Tensor]:
        return torch.rand(len(boxes), 8, 11, generator=draw) + 0.1, torch.tensor(boxes).view(-1, 4)

    return {
        "a box of whole cells": case((3.0, 2.0, 6.0, 5.0)),
        "a box between the cells": case((2.25, 3.6, 6.75, 5.3)),
        "two objects": case((1.0, 1.0, 3.0, 6.0), (6.5, 2.0, 9.5, 4.5)),
        "a box that leaves the map": case((-2.5, 5.0, 4.0, 12.0)),
        "a box around the whole map": case((0.0, 0.0, 11.0, 8.0)),
        "no object": case(),
    }


CROP = Exercise(
    solution=crop,
    wrong={
        "no_padding": (
            _cropped(lambda i, low, high: (i >= low) & (i < high)),
            "You cut at the box itself. One cell around it stays as well.",
        ),
        "two_cells": (
            _cropped(lambda i, low, high: (i >= low - 2) & (i < high + 2)),
            "That is two cells of padding. One is wanted.",
        ),
        "narrowed": (
            _cropped(lambda i, low, high: (i >= low + 1) & (i < high - 1)),
            "Your box gets smaller. The padding is outside: x0 − 1 and x1 + 1.",
        ),
        "one_side": (
            _cropped(lambda i, low, high: (i >= low - 1) & (i < high)),
            "You pad on the left and above only. The right and the lower side get a cell, too.",
        ),
        "end_included": (
            _cropped(lambda i, low, high: (i >= low - 1) & (i <= high + 1)),
            "A cell whose index equals x1 + 1 or y1 + 1 is outside: < and not ≤.",
        ),
        "start_excluded": (
            _cropped(lambda i, low, high: (i > low - 1) & (i < high + 1)),
            "A cell whose index equals x0 − 1 or y0 − 1 is inside: ≥ and not >.",
        ),
        "centres": (
            _cropped(lambda i, low, high: (i + 0.5 >= low - 1) & (i + 0.5 < high + 1)),
            "You compare the cells' centres, which would be my choice as well. YOLACT compares their indices.",
        ),
        "cut_off": (
            _cropped(lambda i, low, high: (i >= low.trunc() - 1) & (i < high.trunc() + 1)),
            "You drop the boxes' fractions. Compare the index with the box as it is.",
        ),
        "rounded": (
            _cropped(lambda i, low, high: (i >= low.round() - 1) & (i < high.round() + 1)),
            "You round the boxes. Compare the index with the box as it is.",
        ),
        "transposed": (
            lambda M, boxes: crop_masks(M, boxes[:, [1, 0, 3, 2]], padding=1, by_index=True),
            "Rows and columns are swapped: x runs along the last axis, y along the one before it.",
        ),
        "inverted": (
            lambda M, boxes: M - crop_masks(M, boxes, padding=1, by_index=True),
            "You delete what is inside the box. That is the part to keep.",
        ),
        "either": (
            _cropped(lambda i, low, high: (i >= low - 1) & (i < high + 1), either=True),
            "You keep whole stripes. A cell must lie in the box's columns *and* in its rows.",
        ),
        "minus_infinity": (
            _cropped(lambda i, low, high: (i >= low - 1) & (i < high + 1), fill=-torch.inf),
            "Outside the box stands 0: what is cut may be a probability or a loss.",
        ),
        "first_box": (
            lambda M, boxes: crop_masks(M, boxes[:1].expand(len(M), 4), padding=1, by_index=True),
            "You cut all maps by the first box. Each has a box of its own.",
        ),
    },
    right={"slices": _crop_by_slices, "in place": _crop_in_place, "NumPy": _crop_with_numpy},
    probes=_maps_and_boxes,
    hint="Column j stays where x0 − 1 ≤ j < x1 + 1, row i where y0 − 1 ≤ i < y1 + 1; everything else becomes 0.",
    sketch="""
        x = torch.arange(M.shape[2])              # (w,)
        columns = (x >= boxes[:, 0:1] - 1) & ...  # (N, w)
        rows = ...                                # (N, h)
        return M * (rows[:, :, None] & ...)
    """,
)


# Piece 3: the mask loss -----------------------------------------------------------------------------------------------


def mask_loss(P: Tensor, C: Tensor, T: Tensor, boxes: Tensor) -> Tensor:  # noqa: N803
    """The loss ``(N,)`` of masks from prototypes ``(h, w, k)`` and coefficients ``(N, k)``."""
    return multibox_mask_loss(P.permute(2, 0, 1), C, T.bool(), boxes)


Reduce = Callable[[Tensor, Tensor, Tensor], Tensor]


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)


def _loss_by(
    reduce: Reduce, cost: Callable[[Tensor, Tensor], Tensor] | None = None
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """``mask_loss`` with another reduction of the losses of cells, which gets targets and boxes; or another cost."""

    def answer(P: Tensor, C: Tensor, T: Tensor, boxes: Tensor) -> Tensor:  # noqa: N803
        logits = (P @ C.T).permute(2, 0, 1)
        target = T.to(logits.dtype)
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none") if cost is None else None
        return reduce(cost(logits, target) if each is None else each, target, boxes)  # type: ignore[misc]

    return answer


def _summed(each: Tensor, target: Tensor, boxes: Tensor) -> Tensor:
    return crop(each, boxes).sum((1, 2)) / _area(boxes)


def _loss_of_cropped_logits(P: Tensor, C: Tensor, T: Tensor, boxes: Tensor) -> Tensor:  # noqa: N803
    logits = crop((P @ C.T).permute(2, 0, 1), boxes)
    return F.binary_cross_entropy_with_logits(logits, T.to(logits.dtype), reduction="none").sum((1, 2)) / _area(boxes)


def _loss_with_numpy(P: Tensor, C: Tensor, T: Tensor, boxes: Tensor) -> np.ndarray:  # noqa: N803
    z = np.einsum("hwk,nk->nhw", P.double().numpy(), C.double().numpy())
    each = np.logaddexp(0, np.where(T.numpy() > 0, -z, z))
    x0, y0, x1, y1 = boxes.double().numpy().T[:, :, None, None]
    y, x = np.indices(z.shape[1:])
    inside = (x >= x0 - 1) & (x < x1 + 1) & (y >= y0 - 1) & (y < y1 + 1)
    return (each * inside).sum((1, 2)) / ((x1 - x0) * (y1 - y0))[:, 0, 0]


def _loss_one_by_one(P: Tensor, C: Tensor, T: Tensor, boxes: Tensor) -> list[float]:  # noqa: N803
    losses = []
    for c, target, (x0, y0, x1, y1) in zip(C, T, boxes.tolist(), strict=True):
        rows = slice(max(0, math.ceil(y0 - 1)), max(0, math.ceil(y1 + 1)))
        columns = slice(max(0, math.ceil(x0 - 1)), max(0, math.ceil(x1 + 1)))
        z, t = (P @ c)[rows, columns], target[rows, columns].to(P.dtype)
        losses.append(float((F.softplus(z) - t * z).sum()) / ((x1 - x0) * (y1 - y0)))
    return losses


def _mask_cases() -> Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(2)

    def case(n: int, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        P = torch.rand(9, 12, 3, generator=draw, dtype=torch.float64) * 2 * scale  # noqa: N806
        C = torch.rand(n, 3, generator=draw, dtype=torch.float64) * 2 - 1  # noqa: N806
        corner = 1 + 3 * torch.rand(n, 2, generator=draw, dtype=torch.float64)
        boxes = torch.cat([corner, corner + 2 + 3 * torch.rand(n, 2, generator=draw, dtype=torch.float64)], 1)
        inside = crop_masks(torch.ones(n, 9, 12), boxes) > 0
        return P, C, inside & (torch.rand(n, 9, 12, generator=draw) < 0.6), boxes

    wide = case(2)
    return {
        "two objects": wide,
        "one object": case(1),
        "three objects": case(3),
        "a small and a large object": (
            *wide[:2],
            wide[2],
            torch.tensor([[2.0, 2, 3, 3], [1, 1, 11, 8]], dtype=torch.float64),
        ),
        "logits of some hundreds": case(2, scale=400),
        "no object": case(0),
    }


MASK_LOSS = Exercise(
    solution=mask_loss,
    wrong={
        "not_divided": (
            _loss_by(lambda each, target, boxes: crop(each, boxes).sum((1, 2))),
            "You add up the cells. Divide by the area of the box, so that small objects count as much as large ones.",
        ),
        "mean_of_the_map": (
            _loss_by(lambda each, target, boxes: crop(each, boxes).mean((1, 2))),
            "You divide by the cells of the whole map. Divide by the area of the box.",
        ),
        "cells_inside": (
            _loss_by(
                lambda each, target, boxes: (
                    crop(each, boxes).sum((1, 2)) / crop(torch.ones_like(each), boxes).sum((1, 2))
                )
            ),
            "You divide by the number of cells that you keep. It is the area of the box, without the padding.",
        ),
        "padded_area": (
            _loss_by(
                lambda each, target, boxes: (
                    crop(each, boxes).sum((1, 2)) / _area(boxes + boxes.new_tensor([-1.0, -1, 1, 1]))
                )
            ),
            "You divide by the padded box. It is (x1 − x0)(y1 − y0), without the padding.",
        ),
        "area_of_the_mask": (
            _loss_by(lambda each, target, boxes: crop(each, boxes).sum((1, 2)) / target.sum((1, 2))),
            "You divide by the area of the mask. It is the area of its box.",
        ),
        "whole_map": (
            _loss_by(lambda each, target, boxes: each.sum((1, 2)) / _area(boxes)),
            "You count all cells of the map. Only those in the box count, and one cell around it.",
        ),
        "without_padding": (
            _loss_by(lambda each, target, boxes: crop_masks(each, boxes, by_index=True).sum((1, 2)) / _area(boxes)),
            "The one cell around the box counts, too: use your `crop`.",
        ),
        "logits_cropped": (
            _loss_of_cropped_logits,
            "You cut the logits: outside they are 0, which is a probability of ½ and costs log 2 in every cell. "
            "Cut the losses.",
        ),
        "mean_over_objects": (
            _loss_by(lambda each, target, boxes: _summed(each, target, boxes).mean()),
            "One number for each object is wanted, (N,).",
        ),
        "sum_over_objects": (
            _loss_by(lambda each, target, boxes: _summed(each, target, boxes).sum()),
            "You add the objects up. One number for each of them is wanted, (N,).",
        ),
        "from_probabilities": (
            _loss_by(
                _summed,
                lambda logits, target: F.binary_cross_entropy(logits.sigmoid(), target, reduction="none"),
            ),
            "With logits of some hundreds the sigmoid is exactly 0 or 1, and its logarithm is lost. Take the loss from "
            "the logits: `binary_cross_entropy_with_logits`.",
        ),
        "sigmoid_twice": (
            _loss_by(
                _summed,
                lambda logits, target: F.binary_cross_entropy_with_logits(logits.sigmoid(), target, reduction="none"),
            ),
            "The sigmoid is in `binary_cross_entropy_with_logits` already: give it the logits.",
        ),
        "foreground_only": (
            _loss_by(_summed, lambda logits, target: F.softplus(-logits) * target),
            "You count the object's own cells alone. In the box's other cells the mask must be 0: they count, too.",
        ),
        "inverted": (
            _loss_by(_summed, lambda logits, target: F.softplus(logits) - (1 - target) * logits),
            "You reward the opposite mask: the target is 1 inside the object.",
        ),
    },
    right={
        "NumPy": _loss_with_numpy,
        "one object after the other, as a list": _loss_one_by_one,
        "softplus, in place": _loss_by(_summed, lambda logits, target: F.softplus(logits).sub_(target * logits)),
    },
    probes=_mask_cases,
    hint="Binary cross-entropy of every cell, cut by `crop`, summed over the map, divided by (x1 − x0)(y1 − y0).",
    sketch="""
        logits = (P @ C.T).permute(2, 0, 1)       # (N, h, w)
        each = F.binary_cross_entropy_with_logits(logits, T..., reduction="none")
        return crop(each, boxes)... / ...         # the area of each box
    """,
)


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
    },
    right={
        "NumPy": _negatives_with_numpy,
        "one by one, as a list": _negatives_one_by_one,
        "ranks": _hardest(_three_each),
    },
    probes=_anchors,
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
            lambda iou, scores, t: (
                (iou[int(scores.argmax())] <= t if len(scores) else scores > 0)
                | (scores == scores.amax() if len(scores) else scores > 0)
            ),
            "You compare with the best box alone. Every box with a higher score may drop another.",
        ),
        "empty": (
            lambda iou, scores, t: _above(iou, scores).amax(0) <= t,
            "There may be no box at all, and nothing has no maximum.",
        ),
    },
    right={
        "sorted, triu, sorted back": _scattered,
        "loops, as a list": _fast_by_loops,
        "NumPy": _fast_with_numpy,
        "in place": lambda iou, scores, t: iou.mul_(scores[:, None] > scores).gt_(t).sum(0) == 0,
    },
    probes=_crowded,
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
    },
    right={
        "a list": ["ACEG", "CG"],
        "letters": (["A", "C", "E", "G"], ["C", "G"]),
        "sets": ({"G", "A", "C", "E"}, {"G", "C"}),
        "lower case, with commas": ("a, c, e, g", "c, g"),
    },
    hint="Write the scores in a row: 0.5, 0.6, 0.9, 0.8, 0.7, 0.3, 0.4. Only neighbours overlap by more than ½.",
    sketch="""
        NMS: the best is C, it drops B and D; of what is left the best is …
        Fast NMS: which box has no neighbour with a higher score? …
        my_survivors = "…", "…"
    """,
)


# Cut, resize, threshold ----------------------------------------------------------------------------------------------


def finish(probs: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Probabilities ``(N, h, w)`` and boxes in pixels → masks ``(N, H, W)``: cut, resize, threshold."""
    return _resize(crop(probs, _to_cells(probs, boxes, size)), size) > 0.5


def _to_cells(probs: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    factor = boxes.new_tensor([probs.shape[2] / size[1], probs.shape[1] / size[0]])
    return boxes * factor.repeat(2)


def _resize(maps: Tensor, size: tuple[int, int], **how: Any) -> Tensor:
    return F.interpolate(maps[None], size, **(how or {"mode": "bilinear", "align_corners": False}))[0]


def _finish_at_size(probs: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    return crop(_resize(probs, size), boxes) > 0.5


def _weights(coarse: int, fine: int) -> np.ndarray:
    """The share of each coarse cell in each fine one, ``(fine, coarse)``: bilinear, half-pixel centres."""
    at = np.clip((np.arange(fine) + 0.5) * coarse / fine - 0.5, 0, coarse - 1)
    return np.clip(1 - np.abs(at[:, None] - np.arange(coarse)), 0, None)


def _finish_with_numpy(probs: Tensor, boxes: Tensor, size: tuple[int, int]) -> np.ndarray:
    cut = crop(probs, _to_cells(probs, boxes, size)).double().numpy()
    down, across = _weights(cut.shape[1], size[0]), _weights(cut.shape[2], size[1])
    return down @ cut @ across.T > 0.5


def _finish_one_by_one(probs: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    out = torch.zeros(len(probs), *size, dtype=torch.bool)
    for n, box in enumerate(_to_cells(probs, boxes, size)):
        cut = crop(probs[n : n + 1], box[None])[None]  # (1, 1, h, w)
        y, x = ((torch.arange(n) + 0.5) * 2 / n - 1 for n in size)
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]  # (1, H, W, 2)
        out[n] = F.grid_sample(cut, grid, padding_mode="border", align_corners=False)[0, 0] > 0.5
    return out


def _probabilities() -> Mapping[str, tuple[Tensor, Tensor, tuple[int, int]]]:
    draw = torch.Generator().manual_seed(6)

    def case(
        h: int, w: int, size: tuple[int, int], *boxes: tuple[float, ...]
    ) -> tuple[Tensor, Tensor, tuple[int, int]]:
        probs = torch.rand(len(boxes), h, w, generator=draw) ** 0.5
        return probs, torch.tensor(boxes).view(-1, 4), size

    half = torch.zeros(1, 8, 8)
    half[:, 1:5, 2:6], half[:, 5:7, 2:6] = 0.5, 1.0
    return {
        "a map half as large as the image": case(12, 16, (24, 32), (5.0, 6.0, 21.5, 17.0)),
        "two objects": case(12, 16, (24, 32), (2.0, 3.0, 11.0, 20.0), (13.5, 8.0, 30.0, 15.0)),
        "an image that is not as wide as its map": case(10, 14, (30, 28), (4.0, 6.0, 19.0, 25.0)),
        "an image of the map's size": case(9, 9, (9, 9), (2.0, 2.0, 7.0, 6.0)),
        "probabilities of exactly ½": (half, torch.tensor([[2.0, 1, 6, 7]]), (8, 8)),
    }


FINISH = Exercise(
    solution=finish,
    wrong={
        "threshold_first": (
            lambda probs, boxes, size: _resize((crop(probs, _to_cells(probs, boxes, size)) > 0.5).float(), size) > 0.5,
            "You cut at ½ before you resize: the outline becomes a staircase of cells. The threshold comes last.",
        ),
        "nearest": (
            lambda probs, boxes, size: (
                _resize(crop(probs, _to_cells(probs, boxes, size)), size, mode="nearest-exact") > 0.5
            ),
            "You repeat the nearest cell. Resize bilinearly.",
        ),
        "corners_on_corners": (
            lambda probs, boxes, size: (
                _resize(crop(probs, _to_cells(probs, boxes, size)), size, mode="bilinear", align_corners=True) > 0.5
            ),
            "You put the corner cells' centres on the corner pixels' (align_corners=True). Cells fill the image.",
        ),
        "cut_last": (
            _finish_at_size,
            "You cut at the size of the image, by one pixel. The cut comes first, on the map, by one cell.",
        ),
        "boxes_in_pixels": (
            lambda probs, boxes, size: _resize(crop(probs, boxes), size) > 0.5,
            "You cut the map with a box in pixels. Scale the boxes to cells first.",
        ),
        "scaled_the_wrong_way": (
            lambda probs, boxes, size: (
                _resize(
                    crop(probs, boxes * boxes.new_tensor([size[1] / probs.shape[2], size[0] / probs.shape[1]] * 2)),
                    size,
                )
                > 0.5
            ),
            "You make the boxes larger. From pixels to cells they become smaller: × w / W and × h / H.",
        ),
        "one_factor": (
            lambda probs, boxes, size: _resize(crop(probs, boxes * (probs.shape[1] / size[0])), size) > 0.5,
            "You scale x and y by one factor. Columns have their own: w / W.",
        ),
        "factors_swapped": (
            lambda probs, boxes, size: (
                _resize(
                    crop(probs, boxes * boxes.new_tensor([probs.shape[1] / size[0], probs.shape[2] / size[1]] * 2)),
                    size,
                )
                > 0.5
            ),
            "The factors are swapped: x goes with the widths, y with the heights.",
        ),
        "not_cut": (
            lambda probs, boxes, size: _resize(probs, size) > 0.5,
            "You do not cut the masks by their boxes.",
        ),
        "cut_at_the_box": (
            lambda probs, boxes, size: (
                _resize(crop_masks(probs, _to_cells(probs, boxes, size), by_index=True), size) > 0.5
            ),
            "You cut at the box itself. One cell around it stays.",
        ),
        "from_half_on": (
            lambda probs, boxes, size: _resize(crop(probs, _to_cells(probs, boxes, size)), size) >= 0.5,
            "A probability of exactly ½ is outside: > and not ≥.",
        ),
        "probabilities": (
            lambda probs, boxes, size: _resize(crop(probs, _to_cells(probs, boxes, size)), size),
            "You return probabilities. Cut them at ½.",
        ),
    },
    right={
        "matrices of weights, in NumPy": _finish_with_numpy,
        "one by one, sampled": _finish_one_by_one,
        "resized with a channel axis": lambda probs, boxes, size: (
            F.interpolate(crop(probs, _to_cells(probs, boxes, size)).unsqueeze(1), size, mode="bilinear")
            .squeeze(1)
            .gt(0.5)
        ),
    },
    probes=_probabilities,
    hint="Boxes to cells (x × w / W, y × h / H), cut on the map, resize bilinearly to (H, W), then > ½.",
    sketch="""
        (N, h, w), (H, W) = probs.shape, size
        cells = boxes * torch.tensor([..., ..., ..., ...])
        cut = crop(probs, ...)
        fine = F.interpolate(cut[None], ...)[0]
        return fine ...
    """,
)


# One anchor for every object -----------------------------------------------------------------------------------------


def forced(iou: Tensor) -> Tensor:
    """The anchor that each object gets, ``(G,)``: best pair first, each anchor once, −1 where none touches."""
    iou = iou.clone()
    anchor = torch.full((len(iou),), -1)
    for _ in range(min(iou.shape)):
        best = int(iou.argmax())
        g, a = divmod(best, iou.shape[1])
        if iou[g, a] <= 0:
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


def _favourite(iou: Tensor) -> Tensor:
    return iou.argmax(1) if iou.shape[1] else torch.full((len(iou),), -1)


def _first_come(iou: Tensor) -> Tensor:
    iou = iou.clone()
    out = torch.full((len(iou),), -1)
    for g in range(len(iou)):
        if iou.shape[1] and iou[g].max() > 0:
            out[g] = iou[g].argmax()
            iou[:, out[g]] = 0
    return out


def _touching_nothing(iou: Tensor) -> Tensor:
    iou = iou.clone()
    out = torch.full((len(iou),), -1)
    for _ in range(min(iou.shape)):
        g, a = divmod(int(iou.argmax()), iou.shape[1])
        out[g] = a
        iou[g], iou[:, a] = -1, -1
    return out


def _losers_stay_without(iou: Tensor) -> Tensor:
    """Two objects with one favourite: the better gets it, the other nothing."""
    out = _favourite(iou)
    for g in range(len(iou)):
        rivals = [h for h in range(len(iou)) if out[h] == out[g] and h != g]
        if any(iou[h, out[h]] > iou[g, out[g]] for h in rivals):
            out[g] = -2
    return torch.where((out < 0) | (iou.gather(1, out.clamp(min=0)[:, None])[:, 0] <= 0), -1, out)


def _largest_sum(iou: Tensor) -> Tensor:
    from scipy.optimize import linear_sum_assignment

    out = torch.full((len(iou),), -1)
    for g, a in zip(*linear_sum_assignment(-iou.numpy()), strict=True):
        if iou[g, a] > 0:
            out[g] = int(a)
    return out


def _foreground_only(iou: Tensor) -> Tensor:
    out = forced(iou)
    return torch.where((out >= 0) & (iou.gather(1, out.clamp(min=0)[:, None])[:, 0] < 0.5), -1, out)


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
        "more objects than anchors": drawn(4, 2),
        "5 objects and 9 anchors": drawn(5, 9),
        "8 objects and 9 anchors": drawn(8, 9),
        "no object": (torch.zeros(0, 3),),
    }


FORCED = Exercise(
    solution=forced,
    wrong={
        "favourites": (
            _favourite,
            "Two objects get the same anchor, and then only one of them is trained. An anchor is given once.",
        ),
        "first_come": (
            _first_come,
            "You go through the objects in their order. The best of all pairs that are left comes first.",
        ),
        "touching_nothing": (
            _touching_nothing,
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
            _foreground_only,
            "You ask for an IoU of 0.5. That every object gets an anchor, however small the IoU, is the point.",
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


def _class_loss(
    *, clamped: bool = True, ignored: bool = True, per_positive: bool = True, stable: bool = True
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """``class_loss`` with some of the bugs: 0/0, ignored anchors as background, a mean over all, log of softmax."""

    def answer(logits: Tensor, match: Tensor, labels: Tensor) -> Tensor:
        positive = match >= 0
        negative = match == -1 if ignored else match < 0
        target = torch.full_like(match, logits.shape[1] - 1)
        target[positive] = labels[match[positive]]
        probs = logits.softmax(1)[:, -1]
        hardness = -logits.log_softmax(1)[:, -1] if stable else -probs.log()
        each = (
            F.cross_entropy(logits, target, reduction="none")
            if stable
            else -logits.softmax(1).gather(1, target[:, None])[:, 0].log()
        )
        count = 3 * positive.sum()
        rank = hardness.masked_fill(~negative, -torch.inf).argsort(descending=True, stable=True).argsort()
        used = positive | (negative & (rank < count))
        number = positive.sum() if per_positive else used.sum()
        return each[used].sum() / (number.clamp(min=1) if clamped else number)

    return answer


def _run_class_loss(attempt: Callable[..., Any], logits: Tensor, match: Tensor, labels: Tensor) -> list[Any]:
    """The loss, and its gradient for the logits where the answer has one."""
    leaf = logits.requires_grad_()
    value = attempt(leaf, match, labels)
    if not (isinstance(value, Tensor) and value.requires_grad):
        return [value, torch.zeros_like(logits)]
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return [value, gradient]


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
    return _class_loss(clamped=False)(logits, match, labels)


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
    return {
        "two objects": case(many, [2, 0]),
        "two positives of one object": case([1, 1, -1, -1, -1, -1, -1, -1, -1, -1], [0, 1]),
        "few backgrounds": case([0, 1, 0, -1, -1, -2], [1, 2]),
        "an image without objects": case([-1] * 8, []),
        "an image without objects or backgrounds": case([-2] * 4, []),
        "anchors that are very sure": sure,
    }


BUG = Exercise(
    solution=class_loss,
    wrong={
        "as_it_was": (
            _class_loss(clamped=False, ignored=False, per_positive=False, stable=False),
            "All four bugs are there. What is 0 / 0?",
        ),
        "zero_by_zero": (
            _class_loss(clamped=False),
            "In an image without objects it is 0 / 0, NaN, and one NaN spoils every weight.",
        ),
        "ignored": (
            _class_loss(ignored=False),
            "Ignored anchors (−2) are trained as background. Only −1 is background.",
        ),
        "mean_of_used": (
            _class_loss(per_positive=False),
            "You divide by all anchors that are used. The text says by the number of positives.",
        ),
        "unstable": (
            _class_loss(stable=False),
            "For anchors that are very sure a probability is exactly 0 and its logarithm infinite. "
            "`log_softmax` and `cross_entropy` work on the logits.",
        ),
        "zero_and_ignored": (
            _class_loss(clamped=False, ignored=False),
            "Two bugs are left: the image without objects, and which anchors are background.",
        ),
        "zero_and_mean": (
            _class_loss(clamped=False, per_positive=False),
            "Two bugs are left: the image without objects, and the number that the sum is divided by.",
        ),
        "zero_and_unstable": (
            _class_loss(clamped=False, stable=False),
            "Two bugs are left: the image without objects, and logarithms of probabilities that are 0.",
        ),
        "ignored_and_mean": (
            _class_loss(ignored=False, per_positive=False),
            "Two bugs are left: which anchors are background, and the number that the sum is divided by.",
        ),
        "ignored_and_unstable": (
            _class_loss(ignored=False, stable=False),
            "Two bugs are left: which anchors are background, and logarithms of probabilities that are 0.",
        ),
        "mean_and_unstable": (
            _class_loss(per_positive=False, stable=False),
            "Two bugs are left: the number that the sum is divided by, and logarithms of probabilities that are 0.",
        ),
        "only_the_first_found": (
            _class_loss(ignored=False, per_positive=False, stable=False),
            "The image without objects is right now. Three bugs are left: background, the number that the sum is "
            "divided by, and logarithms of probabilities.",
        ),
        "only_background_found": (
            _class_loss(clamped=False, per_positive=False, stable=False),
            "The background is right now. Three bugs are left; try an image without objects next.",
        ),
        "only_the_number_found": (
            _class_loss(clamped=False, ignored=False, stable=False),
            "You divide by the right number now, but it can be 0. Three bugs are left.",
        ),
        "only_logarithms_found": (
            _class_loss(clamped=False, ignored=False, per_positive=False),
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
    hint="Positives are match ≥ 0, background is −1, ignored −2. Sum over positives and negatives, by the positives.",
    sketch="""
        background = match == ...
        hardness = -logits.log_softmax(1)[...]
        ...
        each = F.cross_entropy(..., reduction="none")
        return each[used].sum() / ...             # never 0
    """,
)


# Coefficients for a mask that you want --------------------------------------------------------------------------------


def coefficients_for(P: Tensor, T: Tensor, box: Tensor) -> Tensor:  # noqa: N803
    """Coefficients ``(k,)`` in [−1, 1] with which prototypes ``(h, w, k)`` draw the mask ``T`` (h, w) in its box."""
    c = torch.zeros(P.shape[2], dtype=P.dtype, requires_grad=True)
    optimizer = torch.optim.Adam([c], 0.3)
    for _ in range(80):
        loss = mask_loss(P, c.tanh()[None], T[None], box[None]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return c.detach().tanh()


def _inside(P: Tensor, box: Tensor) -> Tensor:  # noqa: N803
    return crop(torch.ones(1, *P.shape[:2]), box[None])[0] > 0


def _least_squares(P: Tensor, T: Tensor, box: Tensor) -> np.ndarray:  # noqa: N803
    """±1 as a linear function of the prototypes inside the box, scaled into [−1, 1]."""
    cells = _inside(P, box)
    c = np.linalg.lstsq(P[cells].double().numpy(), np.where(T[cells].numpy(), 1.0, -1.0), rcond=None)[0]
    return c / np.abs(c).max()


def _perceptron(P: Tensor, T: Tensor, box: Tensor) -> list[float]:  # noqa: N803
    """Wherever a cell is on the wrong side its prototypes are added or subtracted."""
    cells = _inside(P, box)
    x, sign = P[cells], torch.where(T[cells], 1.0, -1.0)
    c = torch.zeros(P.shape[2])
    for _ in range(3000):
        wrong = (x @ c) * sign <= 0
        if not wrong.any():
            break
        c = c + (x[wrong] * sign[wrong, None]).mean(0)
    return (c / c.abs().max().clamp(min=1e-9)).tolist()


def _drawn_masks() -> list[tuple[Tensor, Tensor, Tensor]]:
    """Prototypes, a mask that some coefficients draw inside a box, and that box: three cases."""
    draw = torch.Generator().manual_seed(21)
    cases = []
    for k in (4, 6, 8):
        coarse = torch.randn(1, k, 5, 6, generator=draw)
        P = F.interpolate(coarse, (20, 24), mode="bilinear")[0].relu().permute(1, 2, 0) * 6  # noqa: N806
        box = torch.tensor([4.0, 3, 19, 16])
        c = torch.rand(k, generator=draw) * 2 - 1
        # the first prototype is one of the cells around the box, so that the mask can end there
        c[0] = -1.0
        around = _inside(P, box) & ~(crop_masks(torch.ones(1, 20, 24), box[None], by_index=True)[0] > 0)
        P[around, 0] = 1 + P[around].sum(1)
        P[3:16, 4:19, 0] = 0
        T = crop_masks((P @ c > 0)[None], box[None], by_index=True)[0]  # noqa: N806
        cases.append((P, T, box))
    return cases


_BOUND = (
    "Some coefficients are outside [−1, 1]. A tanh or a common factor brings them in: a factor above 0 does not change "
    "which logits are above 0."
)


def _check_coefficients(attempt: Callable[..., Any]) -> None:
    for P, T, box in _drawn_masks():  # noqa: N806
        c = torch.as_tensor(np.asarray(attempt(P.clone(), T.clone(), box.clone()), dtype=np.float32))
        expect(
            c.shape == P.shape[2:], f"You return the shape {tuple(c.shape)}; one number a prototype is wanted, (k,)."
        )
        expect(bool(c.isfinite().all()), "Some of your coefficients are not finite.")
        expect(
            bool((c.abs() <= 1 + 1e-5).all()),
            _BOUND,
        )
        drawn = crop((P @ c)[None].sigmoid(), box[None])[0] > 0.5
        union = int((drawn | T).sum())
        iou = int((drawn & T).sum()) / union if union else 0.0
        if iou < 0.5:
            raise Hint(
                f"IoU {iou:.2f} with {len(c)} prototypes: hardly the mask. Where the mask is, the sum must be above 0, "
                "elsewhere in the box not above it."
            )
        expect(
            iou >= 0.8,
            f"IoU {iou:.2f} with {len(c)} prototypes, and 0.8 is wanted. Only the cells in the box count, and one "
            "cell around it: what the mask looks like outside does not matter.",
        )


COEFFICIENTS = Exercise(
    solution=coefficients_for,
    wrong={
        "zeros": (
            lambda P, T, box: torch.zeros(P.shape[2]),
            "IoU 0.00 with 4 prototypes: hardly the mask. Where the mask is, the sum must be above 0, "
            "elsewhere in the box not above it.",
        ),
        "everywhere": (
            lambda P, T, box: coefficients_for(P, T, box.new_tensor([0, 0, P.shape[1], P.shape[0]])),
            "IoU 0.55 with 4 prototypes, and 0.8 is wanted. Only the cells in the box count, and one "
            "cell around it: what the mask looks like outside does not matter.",
        ),
        "unbounded": (
            lambda P, T, box: 40 * coefficients_for(P, T, box),
            _BOUND,
        ),
        "shape": (
            lambda P, T, box: coefficients_for(P, T, box)[None],
            "You return the shape (1, 4); one number a prototype is wanted, (k,).",
        ),
        "not_finite": (
            lambda P, T, box: coefficients_for(P, T, box) * math.nan,
            "Some of your coefficients are not finite.",
        ),
    },
    right={"least squares, in NumPy": _least_squares, "a perceptron, as a list": _perceptron},
    verify=_check_coefficients,
    compared=False,
    hint="Minimise your `mask_loss` over the coefficients by gradient descent.",
    sketch="""
        c = torch.zeros(P.shape[2], requires_grad=True)
        optimizer = torch.optim.Adam([c], 0.1)
        for _ in range(...):
            loss = mask_loss(P, c.tanh()[None], ...)
            ...
        return c.detach()...                      # in [−1, 1]
    """,
)


EXERCISES: dict[str, Exercise] = {
    "ch11.assemble": ASSEMBLE,
    "ch11.crop": CROP,
    "ch11.mask_loss": MASK_LOSS,
    "ch11.negatives": NEGATIVES,
    "ch11.fast_nms": FAST_NMS,
    "ch11.survivors": SURVIVORS,
    "ch11.finish": FINISH,
    "ch11.forced": FORCED,
    "ch11.bug": BUG,
    "ch11.coefficients": COEFFICIENTS,
}
