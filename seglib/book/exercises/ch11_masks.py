"""Chapter 11, "YOLACT": the pieces and exercises on masks. They make them from prototypes, cut and train them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.book.exercise import Exercise, expect
from seglib.book.exercises.ch01 import typed
from seglib.book.exercises.verify import trains_all
from seglib.losses.multibox import mask_loss as multibox_mask_loss
from seglib.ops.masks import crop_masks

_NO_GRADIENT = {
    "P": "No gradient reaches the prototypes P, and they would never learn. Use P itself: no `detach`, no copy.",
    "C": "No gradient reaches the coefficients C, and they would never learn. Use C itself: no `detach`, no `item`.",
}


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
        return torch.rand(h, w, k, generator=draw) * 3 - 1, torch.rand(n, k, generator=draw) * 2 - 1

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
        "prototypes_cut": (
            lambda P, C: (P.relu() @ C.T).sigmoid().permute(2, 0, 1),
            "You set negative prototypes to 0. Mix them as they are.",
        ),
        "without_P": (lambda P, C: assemble(P.detach(), C), _NO_GRADIENT["P"]),
        "without_C": (lambda P, C: assemble(P, C.detach()), _NO_GRADIENT["C"]),
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
        "NumPy, detached": lambda P, C: _assemble_with_numpy(P.detach(), C.detach()),
        "stacked masks as a flat product": lambda P, C: (C @ P.flatten(0, 1).T).sigmoid_().view(len(C), *P.shape[:2]),
    },
    probes=_maps_and_coefficients,
    verify=trains_all(assemble, _maps_and_coefficients, list(_NO_GRADIENT.values())),
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


def _slices(box: Tensor) -> tuple[slice, slice]:
    """The rows and the columns that ``crop`` keeps."""
    x0, y0, x1, y1 = box.tolist()
    low_x, high_x, low_y, high_y = (max(0, math.ceil(v)) for v in (x0 - 1, x1 + 1, y0 - 1, y1 + 1))
    return slice(low_y, high_y), slice(low_x, high_x)


def _clipped(boxes: Tensor, h: int, w: int) -> Tensor:
    return boxes.clamp(min=0).minimum(boxes.new_tensor([w, h, w, h]))


def _crop_clipped(M: Tensor, boxes: Tensor, last: int = 0) -> Tensor:  # noqa: N803
    """Clips the boxes to the map, or to the indices of its last cells, then pads."""
    return crop(M, _clipped(boxes, M.shape[1] - last, M.shape[2] - last))


def _crop_from_the_end(M: Tensor, boxes: Tensor) -> Tensor:  # noqa: N803
    """Slices whose end may be negative."""
    out = torch.zeros_like(M)
    for n, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        rows, columns = (slice(max(0, math.ceil(a - 1)), math.ceil(b + 1)) for a, b in ((y0, y1), (x0, x1)))
        out[n, rows, columns] = M[n, rows, columns]
    return out


def _crop_by_slices(M: Tensor, boxes: Tensor) -> Tensor:  # noqa: N803
    out = torch.zeros_like(M)
    for n, box in enumerate(boxes):
        out[n][_slices(box)] = M[n][_slices(box)]
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
        "boxes that lie right of the map and below it": case((13.5, 2.0, 16.0, 5.0), (3.0, 10.5, 6.0, 14.0)),
        "boxes that lie left of the map and above it": case((-6.0, 2.0, -2.5, 5.0), (3.0, -7.0, 6.0, -3.0)),
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
        "clipped": (
            _crop_clipped,
            "You clip the boxes to the map before you pad them: of a box far outside a stripe at the border stays. "
            "Nothing of it lies on the map.",
        ),
        "clipped_to_the_last_cell": (
            lambda M, boxes: _crop_clipped(M, boxes, last=1),
            "You clip the boxes to the indices of the last cells: of a box far outside two columns or rows stay. Leave "
            "the boxes as they are.",
        ),
        "from_the_end": (
            _crop_from_the_end,
            "A slice with a negative end counts from the far side. A box left of the map or above it leaves nothing.",
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


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)


def _bce(logits: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def _per_object(each: Tensor, target: Tensor, boxes: Tensor) -> Tensor:
    """The losses of cells ``(N, h, w)`` → those of objects ``(N,)``."""
    return crop(each, boxes).sum((1, 2)) / _area(boxes)


def _loss_by(
    reduce: Callable[[Tensor, Tensor, Tensor], Tensor] = _per_object,
    cost: Callable[[Tensor, Tensor], Tensor] = _bce,
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """``mask_loss`` with another reduction of the losses of cells, which gets targets and boxes; or another cost."""

    def answer(P: Tensor, C: Tensor, T: Tensor, boxes: Tensor) -> Tensor:  # noqa: N803
        logits = (P @ C.T).permute(2, 0, 1)
        target = T.to(logits.dtype)
        return reduce(cost(logits, target), target, boxes)

    return answer


def _over(measure: Callable[[Tensor, Tensor], Tensor | int]) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """``mask_loss`` with another measure of size than the area of the boxes: a function of targets and boxes."""
    return _loss_by(lambda each, target, boxes: crop(each, boxes).sum((1, 2)) / measure(target, boxes))


def _loss_of_cropped_logits(P: Tensor, C: Tensor, T: Tensor, boxes: Tensor) -> Tensor:  # noqa: N803
    logits = crop((P @ C.T).permute(2, 0, 1), boxes)
    return _bce(logits, T.to(logits.dtype)).sum((1, 2)) / _area(boxes)


def _loss_with_numpy(P: Tensor, C: Tensor, T: Tensor, boxes: Tensor) -> np.ndarray:  # noqa: N803
    z = np.einsum("hwk,nk->nhw", P.double().numpy(), C.double().numpy())
    each = np.logaddexp(0, np.where(T.numpy() > 0, -z, z))
    return _crop_with_numpy(torch.from_numpy(each), boxes).sum((1, 2)) / _area(boxes).numpy()


def _loss_one_by_one(P: Tensor, C: Tensor, T: Tensor, boxes: Tensor) -> list[float]:  # noqa: N803
    losses = []
    for c, target, box, area in zip(C, T, boxes, _area(boxes).tolist(), strict=True):
        z, t = (P @ c)[_slices(box)], target[_slices(box)].to(P.dtype)
        losses.append(float((F.softplus(z) - t * z).sum()) / area)
    return losses


def _mask_cases() -> Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(2)

    def case(n: int, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        P = torch.rand(9, 12, 3, generator=draw, dtype=torch.float64) * 2 * scale  # noqa: N806
        P -= scale / 2
        C = torch.rand(n, 3, generator=draw, dtype=torch.float64) * 2 - 1  # noqa: N806
        corner = 1 + 3 * torch.rand(n, 2, generator=draw, dtype=torch.float64)
        boxes = torch.cat([corner, corner + 2 + 3 * torch.rand(n, 2, generator=draw, dtype=torch.float64)], 1)
        inside = crop_masks(torch.ones(n, 9, 12), boxes) > 0
        return P, C, inside & (torch.rand(n, 9, 12, generator=draw) < 0.6), boxes

    def boxed(*boxes: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return *case(len(boxes))[:3], torch.tensor(boxes, dtype=torch.float64)

    wide = case(2)
    return {
        "two objects": wide,
        "one object": case(1),
        "three objects": case(3),
        "a small and a large object": (*wide[:3], torch.tensor([[2.0, 2, 3, 3], [1, 1, 11, 8]], dtype=torch.float64)),
        "boxes smaller than a cell": boxed((4.2, 3.1, 4.9, 3.9), (6.0, 2.0, 6.5, 5.0)),
        "boxes that leave the map": boxed((-2.0, 1.5, 4.0, 6.0), (8.0, 5.0, 14.5, 11.0)),
        "logits of some hundreds": case(2, scale=400),
        "no object": case(0),
    }


MASK_LOSS = Exercise(
    solution=mask_loss,
    wrong={
        "not_divided": (
            _over(lambda target, boxes: 1),
            "You add up the cells. Divide by the area of the box, so that small objects count as much as large ones.",
        ),
        "mean_of_the_map": (
            _over(lambda target, boxes: target.shape[1:].numel()),
            "You divide by the cells of the whole map. Divide by the area of the box.",
        ),
        "cells_inside": (
            _over(lambda target, boxes: crop(torch.ones_like(target), boxes).sum((1, 2))),
            "You divide by the number of cells that you keep. It is the area of the box, without the padding.",
        ),
        "padded_area": (
            _over(lambda target, boxes: _area(boxes + boxes.new_tensor([-1.0, -1, 1, 1]))),
            "You divide by the padded box. It is (x1 − x0)(y1 − y0), without the padding.",
        ),
        "area_of_at_least_one": (
            _over(lambda target, boxes: _area(boxes).clamp(min=1)),
            "You make areas below 1 to 1. A box may be smaller than a cell: divide by its area all the same.",
        ),
        "sides_of_at_least_one": (
            _over(lambda target, boxes: (boxes[:, 2:] - boxes[:, :2]).clamp(min=1).prod(1)),
            "You make sides below 1 to 1. A box may be thinner than a cell: take its sides as they are.",
        ),
        "clipped_area": (
            _over(lambda target, boxes: _area(_clipped(boxes, *target.shape[1:]))),
            "You divide by the part of the box that lies on the map. It is the area of the whole box.",
        ),
        "area_of_the_mask": (
            _over(lambda target, boxes: target.sum((1, 2))),
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
            _loss_by(lambda each, target, boxes: _per_object(each, target, boxes).mean()),
            "One number for each object is wanted, (N,).",
        ),
        "sum_over_objects": (
            _loss_by(lambda each, target, boxes: _per_object(each, target, boxes).sum()),
            "You add the objects up. One number for each of them is wanted, (N,).",
        ),
        "from_probabilities": (
            _loss_by(cost=lambda logits, target: F.binary_cross_entropy(logits.sigmoid(), target, reduction="none")),
            "With logits of some hundreds the sigmoid is exactly 0 or 1, and its logarithm is lost. Take the loss from "
            "the logits: `binary_cross_entropy_with_logits`.",
        ),
        "sigmoid_twice": (
            _loss_by(cost=lambda logits, target: _bce(logits.sigmoid(), target)),
            "The sigmoid is in `binary_cross_entropy_with_logits` already: give it the logits.",
        ),
        "foreground_only": (
            _loss_by(cost=lambda logits, target: F.softplus(-logits) * target),
            "You count the object's own cells alone. In the box's other cells the mask must be 0: they count, too.",
        ),
        "inverted": (
            _loss_by(cost=lambda logits, target: F.softplus(logits) - (1 - target) * logits),
            "You reward the opposite mask: the target is 1 inside the object.",
        ),
        "prototypes_cut": (
            lambda P, C, T, boxes: mask_loss(P.relu(), C, T, boxes),
            "You set negative prototypes to 0. Mix them as they are.",
        ),
        "without_P": (lambda P, C, T, boxes: mask_loss(P.detach(), C, T, boxes), _NO_GRADIENT["P"]),
        "without_C": (lambda P, C, T, boxes: mask_loss(P, C.detach(), T, boxes), _NO_GRADIENT["C"]),
    },
    right={
        "NumPy": _loss_with_numpy,
        "one object after the other, as a list": _loss_one_by_one,
        "a list of tensors": lambda P, C, T, boxes: list(mask_loss(P, C, T, boxes)),
        "softplus, in place": _loss_by(cost=lambda logits, target: F.softplus(logits).sub_(target * logits)),
    },
    probes=_mask_cases,
    verify=trains_all(mask_loss, _mask_cases, list(_NO_GRADIENT.values())),
    hint="Binary cross-entropy of every cell, cut by `crop`, summed over the map, divided by (x1 − x0)(y1 − y0).",
    sketch="""
        logits = (P @ C.T).permute(2, 0, 1)       # (N, h, w)
        each = F.binary_cross_entropy_with_logits(logits, T..., reduction="none")
        return crop(each, boxes)... / ...         # the area of each box
    """,
)


# Cut, resize, threshold ----------------------------------------------------------------------------------------------


def finish(probs: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Probabilities ``(N, h, w)`` and boxes in pixels → masks ``(N, H, W)``: cut, resize, threshold."""
    return _fine(probs, boxes, size) > 0.5


def _factors(probs: Tensor, size: tuple[int, int]) -> Tensor:
    """Cells per pixel along x, y, x and y."""
    return torch.tensor([probs.shape[2] / size[1], probs.shape[1] / size[0]] * 2)


def _to_cells(probs: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    return boxes * _factors(probs, size)


def _fine(
    probs: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    *,
    cells: Callable[[Tensor, Tensor, tuple[int, int]], Tensor] = _to_cells,
    cut: Callable[[Tensor, Tensor], Tensor] = crop,
    mode: str = "bilinear",
    align_corners: bool | None = None,
) -> Tensor:
    """Probabilities ``(N, H, W)`` of the pixels: boxes to cells, cut, resize."""
    maps = cut(probs, cells(probs, boxes, size))
    return F.interpolate(maps[None], size, mode=mode, align_corners=align_corners)[0]


def _finished(**changes: Any) -> Callable[[Tensor, Tensor, tuple[int, int]], Tensor]:
    """``finish`` with another step of ``_fine``."""
    return lambda probs, boxes, size: _fine(probs, boxes, size, **changes) > 0.5


def _uncut(maps: Tensor, boxes: Tensor) -> Tensor:
    return maps


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
        "factors that are not whole": case(11, 13, (50, 46), (7.0, 9.0, 19.0, 29.0), (22.0, 14.0, 41.0, 42.0)),
        "an image of the map's size": case(9, 9, (9, 9), (2.0, 2.0, 7.0, 6.0)),
        "probabilities of exactly ½": (half, torch.tensor([[2.0, 1, 6, 7]]), (8, 8)),
    }


_BOOL = "The pixels are right, but the masks hold numbers: bool masks are wanted, so that `image[mask]` picks pixels."

FINISH = Exercise(
    solution=finish,
    wrong={
        "threshold_first": (
            _finished(cut=lambda maps, boxes: (crop(maps, boxes) > 0.5).float()),
            "You cut at ½ before you resize: the outline becomes a staircase of cells. The threshold comes last.",
        ),
        "nearest": (
            _finished(mode="nearest-exact"),
            "You repeat the nearest cell. Resize bilinearly.",
        ),
        "corners_on_corners": (
            _finished(align_corners=True),
            "You put the corner cells' centres on the corner pixels' (align_corners=True). Cells fill the image.",
        ),
        "cut_last": (
            lambda probs, boxes, size: crop(_fine(probs, boxes, size, cut=_uncut), boxes) > 0.5,
            "You cut at the size of the image, by one pixel. The cut comes first, on the map, by one cell.",
        ),
        "boxes_in_pixels": (
            _finished(cells=lambda probs, boxes, size: boxes),
            "You cut the map with a box in pixels. Scale the boxes to cells first.",
        ),
        "scaled_the_wrong_way": (
            _finished(cells=lambda probs, boxes, size: boxes / _factors(probs, size)),
            "You make the boxes larger. From pixels to cells they become smaller: × w / W and × h / H.",
        ),
        "one_factor": (
            _finished(cells=lambda probs, boxes, size: boxes * _factors(probs, size)[1]),
            "You scale x and y by one factor. Columns have their own: w / W.",
        ),
        "whole_factors": (
            _finished(cells=lambda probs, boxes, size: boxes / (1 / _factors(probs, size)).floor()),
            "You drop the fraction of the factor (//). YOLACT's own is 550 / 138: divide with /.",
        ),
        "rounded_factors": (
            _finished(cells=lambda probs, boxes, size: boxes / (1 / _factors(probs, size)).round()),
            "You round the factor. YOLACT's own is 550 / 138: take it as it is.",
        ),
        "rounded_boxes": (
            _finished(cells=lambda probs, boxes, size: _to_cells(probs, boxes, size).round()),
            "You round the boxes to whole cells. `crop` takes boxes between cells.",
        ),
        "factors_swapped": (
            _finished(cells=lambda probs, boxes, size: boxes * _factors(probs, size).flip(0)),
            "The factors are swapped: x goes with the widths, y with the heights.",
        ),
        "not_cut": (
            _finished(cut=_uncut),
            "You do not cut the masks by their boxes.",
        ),
        "cut_at_the_box": (
            _finished(cut=lambda maps, boxes: crop_masks(maps, boxes, by_index=True)),
            "You cut at the box itself. One cell around it stays.",
        ),
        "from_half_on": (
            lambda probs, boxes, size: _fine(probs, boxes, size) >= 0.5,
            "A probability of exactly ½ is outside: > and not ≥.",
        ),
        "probabilities": (
            _fine,
            "You return probabilities. Cut them at ½.",
        ),
        "numbers": (lambda probs, boxes, size: finish(probs, boxes, size).float(), _BOOL),
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
    verify=typed(finish, _probabilities, "b", _BOOL),
    hint="Boxes to cells (x × w / W, y × h / H), cut on the map, resize bilinearly to (H, W), then > ½.",
    sketch="""
        (N, h, w), (H, W) = probs.shape, size
        cells = boxes * torch.tensor([..., ..., ..., ...])
        cut = crop(probs, ...)
        fine = F.interpolate(cut[None], ...)[0]
        return fine ...
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
_HARDLY = (
    "IoU {:.2f} with {} prototypes: hardly the mask. Where the mask is, the sum must be above 0, elsewhere in the box "
    "not above it."
)
_PARTLY = (
    "IoU {:.2f} with {} prototypes, and 0.8 is wanted. Only the cells in the box count, and one cell around it: what "
    "the mask looks like outside does not matter."
)


def _check_coefficients(attempt: Callable[..., Any]) -> None:
    for P, T, box in _drawn_masks():  # noqa: N806
        c = torch.as_tensor(attempt(P.clone(), T.clone(), box.clone()), dtype=torch.float32).detach()
        expect(
            c.shape == P.shape[2:], f"You return the shape {tuple(c.shape)}; one number a prototype is wanted, (k,)."
        )
        expect(bool(c.isfinite().all()), "Some of your coefficients are not finite.")
        expect(bool((c.abs() <= 1 + 1e-5).all()), _BOUND)
        drawn = crop((P @ c)[None].sigmoid(), box[None])[0] > 0.5
        union = int((drawn | T).sum())
        iou = int((drawn & T).sum()) / union if union else 0.0
        expect(iou >= 0.5, _HARDLY.format(iou, len(c)))
        expect(iou >= 0.8, _PARTLY.format(iou, len(c)))


COEFFICIENTS = Exercise(
    solution=coefficients_for,
    wrong={
        "zeros": (
            lambda P, T, box: torch.zeros(P.shape[2]),
            _HARDLY.format(0, 4),
        ),
        "everywhere": (
            lambda P, T, box: coefficients_for(P, T, box.new_tensor([0, 0, P.shape[1], P.shape[0]])),
            _PARTLY.format(0.55, 4),
        ),
        "unbounded": (lambda P, T, box: 40 * coefficients_for(P, T, box), _BOUND),
        "shape": (
            lambda P, T, box: coefficients_for(P, T, box)[None],
            "You return the shape (1, 4); one number a prototype is wanted, (k,).",
        ),
        "not_finite": (
            lambda P, T, box: coefficients_for(P, T, box) * math.nan,
            "Some of your coefficients are not finite.",
        ),
    },
    right={
        "least squares, in NumPy": _least_squares,
        "a perceptron, as a list": _perceptron,
        "not detached": lambda P, T, box: coefficients_for(P, T, box).requires_grad_(),
    },
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
