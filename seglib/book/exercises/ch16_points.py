"""Chapter 16, "Mask2Former": the pieces and the exercise on a loss at points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.book.exercise import Exercise

# Piece 4: samples at points ------------------------------------------------------------------------------------------


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Maps ``(N, H, W)`` at points ``(N, P, 2)``, xy in [0, 1] → ``(N, P)``, bilinear, zeros outside."""
    return _sample(maps, points)


def _sample(maps: Tensor, points: Tensor, **options: Any) -> Tensor:
    """``sample`` with other options of ``grid_sample``."""
    return F.grid_sample(maps[:, None], 2 * points[:, None] - 1, **{"align_corners": False, **options})[:, 0, 0]


def _at(maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The cells ``(N, P)`` in columns x and rows y, 0 outside."""
    height, width = maps.shape[1:]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    flat = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    return torch.where(inside, maps.flatten(1).gather(1, flat), 0)


def _four_cells(
    maps: Tensor,
    points: Tensor,
    *,
    shift: float = 0.5,
    scale: Tensor | None = None,
    below: Callable[[Tensor], Tensor] = torch.floor,
    near: Callable[[Tensor], Tensor] = lambda share: share,
) -> Tensor:
    """The four cells around each point by hand."""
    scale = torch.tensor(maps.shape[:0:-1]) if scale is None else scale  # (2,) width, height
    x, y = (points * scale - shift).unbind(-1)  # (N, P) each
    left, above = below(x).long(), below(y).long()
    fx, fy = near(x - left), near(y - above)
    upper = (1 - fx) * _at(maps, left, above) + fx * _at(maps, left + 1, above)
    lower = (1 - fx) * _at(maps, left, above + 1) + fx * _at(maps, left + 1, above + 1)
    return (1 - fy) * upper + fy * lower


def _cell_of_the_point(maps: Tensor, points: Tensor) -> Tensor:
    size = torch.tensor(maps.shape[:0:-1])  # (2,) width, height
    x, y = (points * size).long().minimum(size - 1).unbind(-1)
    return _at(maps, x, y)


def _point_by_point(maps: Tensor, points: Tensor) -> Tensor:
    height, width = maps.shape[1:]
    out = []
    for grid, own in zip(maps.tolist(), points.tolist(), strict=True):
        row = []
        for px, py in own:
            x, y = px * width - 0.5, py * height - 0.5
            total = 0.0
            for i in range(height):
                for j in range(width):
                    total += max(0, 1 - abs(x - j)) * max(0, 1 - abs(y - i)) * grid[i][j]
            row.append(total)
        out.append(row)
    return torch.tensor(out).view(points.shape[:2])


def _hats_numpy(maps: Tensor, points: Tensor) -> np.ndarray:
    height, width = maps.shape[1:]
    at = points.numpy() * np.array([width, height]) - 0.5  # (N, P, 2)
    of_x = np.clip(1 - np.abs(at[..., :1] - np.arange(width)), 0, None)  # (N, P, W)
    of_y = np.clip(1 - np.abs(at[..., 1:] - np.arange(height)), 0, None)  # (N, P, H)
    return np.einsum("npy,nyx,npx->np", of_y, maps.numpy(), of_x)


def _points_in_place(maps: Tensor, points: Tensor) -> Tensor:
    points *= 2
    points -= 1
    return F.grid_sample(maps[:, None], points[:, :, None], align_corners=False)[:, 0, :, 0]


def _maps_and_points() -> Mapping[str, tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(9)

    def drawn(n: int, size: tuple[int, int], count: int) -> tuple[Tensor, Tensor]:
        return torch.randn(n, *size, generator=draw), torch.rand(n, count, 2, generator=draw)

    ramp = torch.arange(12.0).view(1, 3, 4) + 1
    centres = torch.tensor([[[0.125, 0.5 / 3], [0.875, 2.5 / 3], [0.375, 0.5]]])
    return {
        "two maps": drawn(2, (4, 6), 7),
        "the centres of cells": (ramp, centres),
        "between two cells": (ramp, torch.tensor([[[0.25, 0.5], [0.5, 0.5], [0.5, 1 / 3]]])),
        "the map's corners": (ramp, torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.5]]])),
        "a map that is high": drawn(1, (7, 2), 9),
        "a single cell": drawn(3, (1, 1), 4),
        "no point": drawn(2, (3, 3), 0),
        "no map": drawn(0, (3, 3), 4),
    }


SAMPLE = Exercise(
    solution=sample,
    wrong={
        "y_first": (
            lambda maps, points: sample(maps, points.flip(-1)),
            "You read a point as (y, x). It is (x, y): x along the width.",
        ),
        "not_doubled": (
            lambda maps, points: F.grid_sample(maps[:, None], points[:, None], align_corners=False)[:, 0, 0],
            "`grid_sample` wants positions from −1 to 1, and points lie from 0 to 1: 2 · points − 1.",
        ),
        "not_shifted": (
            lambda maps, points: F.grid_sample(maps[:, None], 2 * points[:, None], align_corners=False)[:, 0, 0],
            "Your positions reach from 0 to 2. `grid_sample` wants −1 to 1: 2 · points − 1.",
        ),
        "from_below": (
            lambda maps, points: sample(maps, (points - torch.tensor([0.0, 1.0])).abs()),
            "You count y from below. Row 0 is the top one, at y = 0.",
        ),
        "corners_on_corners": (
            lambda maps, points: _sample(maps, points, align_corners=True),
            "You put 0 and 1 on the centres of the border cells (align_corners=True). They are the map's borders.",
        ),
        "half_a_cell": (
            lambda maps, points: _four_cells(maps, points, shift=0.0),
            "You are half a cell off: the centre of the first cell lies at ½ of a cell, not at 0.",
        ),
        "nearest": (
            lambda maps, points: _sample(maps, points, mode="nearest"),
            "You read the nearest cell. A sample is bilinear: four cells, weighted by how near they are.",
        ),
        "cell_of_the_point": (
            _cell_of_the_point,
            "You read the cell that the point lies in. A sample is bilinear: it weighs the four nearest cells.",
        ),
        "weights_swapped": (
            lambda maps, points: _four_cells(maps, points, near=lambda share: 1 - share),
            "Your weights are swapped: the nearer of two cells has the larger one.",
        ),
        "cut_towards_zero": (
            lambda maps, points: _four_cells(maps, points, below=torch.trunc),
            "Left of the first centre `long()` turns −0.3 into 0. Take `floor` first: −1.",
        ),
        "border_repeated": (
            lambda maps, points: _sample(maps, points, padding_mode="border"),
            "You repeat the border cells outside the map. Outside counts as 0.",
        ),
        "first_points_for_all": (
            lambda maps, points: sample(maps, points[:1].expand_as(points)),
            "You read all maps at the points of the first one. Each map has its own.",
        ),
        "first_map_for_all": (
            lambda maps, points: sample(maps[:1].expand_as(maps), points),
            "You read the first map at all points. Each map has its own points.",
        ),
        "size_swapped": (
            lambda maps, points: _four_cells(maps, points, scale=torch.tensor(maps.shape[1:])),
            "You multiply x by the height and y by the width. It is the other way round.",
        ),
        "in_pixels": (
            lambda maps, points: _four_cells(maps, points, scale=torch.ones(2)),
            "Points are shares of the width and the height, from 0 to 1. They are no cells.",
        ),
        "channel_kept": (
            lambda maps, points: sample(maps, points)[:, None],
            "One number for each point is wanted, (N, P), without an axis for channels.",
        ),
    },
    right={
        "four cells by hand": _four_cells,
        "loops": _point_by_point,
        "NumPy": _hats_numpy,
        "in place": _points_in_place,
    },
    probes=_maps_and_points,
    hint="Bilinear samples: `F.grid_sample` with positions from −1 to 1, align_corners=False, zeros outside.",
    sketch="""
        grid = ... * points[:, None] - ...                   # (N, 1, P, 2) from −1 to 1
        out = F.grid_sample(maps[:, None], grid, align_corners=...)  # (N, 1, 1, P)
        return ...
    """,
)


# Piece 5: where it is worth while ------------------------------------------------------------------------------------


def choose(candidates: Tensor, logits: Tensor, others: Tensor, share: float) -> Tensor:
    """⌊share · P⌋ points of ``candidates (N, R, 2)``, filled up with ``others (N, P, 2)``: ``(N, P, 2)``."""
    return _choose(candidates, logits, others, share)


def _choose(
    candidates: Tensor,
    logits: Tensor,
    others: Tensor,
    share: float,
    *,
    certainty: Callable[[Tensor], Tensor] = torch.abs,
    number: Callable[[float], int] = int,
    join: Callable[[Tensor, Tensor], Tensor] = lambda some, rest: torch.cat([some, rest], 1),
    fill: Callable[[Tensor, int], Tensor] = lambda others, kept: others[:, : others.shape[1] - kept],
) -> Tensor:
    """``choose`` with another order, number, order of the parts or filling."""
    kept = number(share * others.shape[1])
    order = certainty(logits).argsort(dim=1, stable=True)[:, :kept]  # (N, kept)
    some = candidates.gather(1, order[..., None].expand(-1, -1, 2))
    return join(some, fill(others, kept))


def _chooses(**changes: Any) -> Callable[[Tensor, Tensor, Tensor, float], Tensor]:
    return lambda candidates, logits, others, share: _choose(candidates, logits, others, share, **changes)


def _choose_by_sorting(candidates: Tensor, logits: Tensor, others: Tensor, share: float) -> list[list[list[float]]]:
    count = others.shape[1]
    kept = int(share * count)
    out = []
    for own, z, rest in zip(candidates.tolist(), logits.tolist(), others.tolist(), strict=True):
        order = sorted(range(len(own)), key=lambda i, z=z: abs(z[i]))  # type: ignore[misc]
        out.append([own[i] for i in order[:kept]] + rest[: count - kept])
    return out


def _choose_numpy(candidates: Tensor, logits: Tensor, others: Tensor, share: float) -> np.ndarray:
    count = others.shape[1]
    kept = int(np.floor(share * count))
    order = np.argsort(np.abs(logits.numpy()), axis=1)[:, :kept, None]
    some = np.take_along_axis(candidates.numpy(), order, axis=1)
    return np.concatenate([some, others.numpy()[:, : count - kept]], axis=1)


def _choose_in_place(candidates: Tensor, logits: Tensor, others: Tensor, share: float) -> Tensor:
    """Moves the others behind the chosen ones in their own tensor."""
    count = others.shape[1]
    kept = int(share * count)
    found = logits.abs_().topk(kept, largest=False).indices
    if kept:
        others[:, kept:] = others[:, : count - kept].clone()
        others[:, :kept] = candidates[torch.arange(len(candidates))[:, None], found]
    return others


def _in_the_order_of_candidates(candidates: Tensor, logits: Tensor, others: Tensor, share: float) -> Tensor:
    n = int(share * others.shape[1])
    order = logits.abs().argsort(1)[:, :n].sort(1).values
    return torch.cat([candidates.gather(1, order[..., None].expand(-1, -1, 2)), others[:, : others.shape[1] - n]], 1)


def _one_choice_for_all(candidates: Tensor, logits: Tensor, others: Tensor, share: float) -> Tensor:
    return choose(candidates, logits[:1].expand_as(logits), others, share)


def _uncertainties() -> Mapping[str, tuple[Tensor, Tensor, Tensor, float]]:
    draw = torch.Generator().manual_seed(15)

    def case(n: int, candidates: int, count: int, share: float) -> Any:
        points = (torch.rand(n, k, 2, generator=draw) for k in (candidates, count))
        some, others = points
        return some, 2 * torch.randn(n, candidates, generator=draw), others, share

    return {
        "three quarters of eight points": case(2, 24, 8, 0.75),
        "a share that is no whole number": case(1, 15, 5, 0.75),
        "half of seven points": case(3, 21, 7, 0.5),
        "three quarters of seven points": case(1, 12, 7, 0.75),
        "uncertain points alone": case(2, 9, 3, 1.0),
        "no uncertain point": case(2, 9, 3, 0.0),
    }


CHOOSE = Exercise(
    solution=choose,
    wrong={
        "most_certain": (
            _chooses(certainty=lambda z: -z.abs()),
            "You take the points that are most certain. A logit near 0 is uncertain.",
        ),
        "lowest": (
            _chooses(certainty=lambda z: z),
            "You take the lowest logits: they are surely background. A logit near 0 is uncertain.",
        ),
        "highest": (
            _chooses(certainty=lambda z: -z),
            "You take the highest logits: they are surely foreground. A logit near 0 is uncertain.",
        ),
        "near_a_half": (
            _chooses(certainty=lambda z: (z - 0.5).abs()),
            "You take the logits near ½. A probability of ½ has the logit 0.",
        ),
        "rounded": (
            _chooses(number=lambda k: int(k + 0.5)),
            "You round to the nearest number. Round share · P down.",
        ),
        "rounded_up": (_chooses(number=lambda k: int(-(-k // 1))), "You round up. Round share · P down."),
        "share_of_candidates": (
            lambda candidates, logits, others, share: _choose(
                candidates, logits, others, share, number=lambda k: int(share * candidates.shape[1])
            ),
            "You take the share of the candidates. It is the share of P, the number of points that are wanted.",
        ),
        "share_of_others": (
            lambda candidates, logits, others, share: _choose(
                candidates, logits, others, share, number=lambda k: others.shape[1] - int(k)
            ),
            "You take the share from `others`. It is the share of the uncertain points.",
        ),
        "uncertain_alone": (
            _chooses(fill=lambda others, kept: others[:, :0]),
            "The uniform points are missing: `others` fill up to P points.",
        ),
        "uncertain_all": (
            lambda candidates, logits, others, share: choose(candidates, logits, others, 1.0),
            "All your points are uncertain ones. Only the share `share` of them is.",
        ),
        "filled_with_candidates": (
            lambda candidates, logits, others, share: choose(
                candidates, logits, candidates[:, : others.shape[1]], share
            ),
            "You fill up with candidates. Fill up with the first points of `others`.",
        ),
        "all_others": (
            _chooses(fill=lambda others, kept: others),
            "You add all of `others`. Take as many as are missing to P.",
        ),
        "last_others": (
            _chooses(fill=lambda others, kept: others[:, kept:]),
            "You take the last of `others`. Take the first ones.",
        ),
        "others_first": (
            _chooses(join=lambda some, rest: torch.cat([rest, some], 1)),
            "You put the uniform points first. The uncertain ones come first.",
        ),
        "least_uncertain_first": (
            _chooses(join=lambda some, rest: torch.cat([some.flip(1), rest], 1)),
            "The most uncertain point comes first, yours comes last.",
        ),
        "in_the_order_of_candidates": (
            _in_the_order_of_candidates,
            "Your points come in the order of the candidates. The most uncertain one comes first.",
        ),
        "one_choice_for_all": (
            _one_choice_for_all,
            "You choose by the first mask's logits for all. Each mask chooses for itself.",
        ),
        "first_candidates": (
            _chooses(certainty=torch.zeros_like),
            "You take the first candidates. Take those whose logits are nearest to 0.",
        ),
    },
    right={"sorted lists": _choose_by_sorting, "NumPy": _choose_numpy, "topk, in place": _choose_in_place},
    probes=_uncertainties,
    hint="⌊share · P⌋ candidates with the smallest |logit|, most uncertain first, then the first of `others`.",
    sketch="""
        P = others.shape[1]
        n = int(...)
        chosen = logits.abs().topk(n, largest=...).indices   # (N, n)
        some = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
        return torch.cat([some, ...], 1)
    """,
)


# Find the bugs: the loss ---------------------------------------------------------------------------------------------


def point_loss(logits: Tensor, targets: Tensor, known: Tensor, count: float) -> tuple[Tensor, Tensor]:
    """BCE and Dice loss of masks at points, ``(G, P)`` each; ``known`` is 1 where the truth is known, else 0."""
    return _point_loss(logits, targets, known, count)


def _point_loss(
    logits: Tensor,
    targets: Tensor,
    known: Tensor,
    count: float,
    *,
    binary: bool = False,
    void_in_bce: bool = False,
    mean_over_all: bool = False,
    void_in_dice: bool = False,
    plus_one: bool = True,
    mean_of_masks: bool = False,
    bce_mean_of_masks: bool = False,
    mean_over_p: bool = False,
    void_in_sums: bool = False,
    careless: bool = False,
) -> tuple[Tensor, Tensor]:
    """``point_loss`` with some of the bugs."""
    p, t = logits.sigmoid(), (targets > 0.5).float() if binary else targets
    each = F.binary_cross_entropy_with_logits(logits, t, reduction="none")
    counted = torch.ones_like(known) if void_in_bce else known
    total = counted.sum(1) if careless else counted.sum(1).clamp(min=1)
    bce = (each * counted).mean(1) if mean_over_p else (each * counted).sum(1) / total
    w, one = torch.ones_like(known) if void_in_dice else known, float(plus_one)
    of_sums = torch.ones_like(known) if void_in_sums else w
    dice = 1 - (2 * (p * t * w).sum(1) + one) / ((p * of_sums).sum(1) + (t * of_sums).sum(1) + one)
    whole = bce.mean() if bce_mean_of_masks else bce.sum() / count
    if mean_over_all:
        whole = (each * counted).sum() / counted.sum().clamp(min=1)
    return whole, dice.mean() if mean_of_masks else dice.sum() / count


def _buggy(**changes: bool) -> Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]:
    return lambda logits, targets, known, count: _point_loss(logits, targets, known, count, **changes)


def _as_given(logits: Tensor, targets: Tensor, known: Tensor, count: float) -> tuple[Tensor, Tensor]:
    """As the chapter gives it."""
    p, t = logits.sigmoid(), (targets > 0.5).float()
    bce = F.binary_cross_entropy_with_logits(logits, t)
    dice = 1 - 2 * (p * t).sum(1) / (p.sum(1) + t.sum(1))
    return bce, dice.mean()


def _loss_of_known(logits: Tensor, targets: Tensor, known: Tensor, count: float) -> list[float]:
    """One mask after the other, with its known points alone."""
    bce, dice = torch.zeros(()), torch.zeros(())
    for z, t, w in zip(logits, targets, known.bool(), strict=True):
        z, t = z[w], t[w]
        if len(z):
            bce += F.binary_cross_entropy_with_logits(z, t)
        dice += 1 - (2 * z.sigmoid() @ t + 1) / (z.sigmoid().sum() + t.sum() + 1)
    return [float(bce) / count, float(dice) / count]


def _loss_numpy(logits: Tensor, targets: Tensor, known: Tensor, count: float) -> tuple[float, float]:
    z, t, w = (x.numpy().astype(float) for x in (logits, targets, known))
    p = 1 / (1 + np.exp(-z))
    bce = ((np.logaddexp(0, z) - z * t) * w).sum(1) / np.maximum(w.sum(1), 1)
    dice = 1 - (2 * (p * t * w).sum(1) + 1) / ((p * w).sum(1) + (t * w).sum(1) + 1)
    return bce.sum() / count, dice.sum() / count


def _loss_in_place(logits: Tensor, targets: Tensor, known: Tensor, count: float) -> tuple[Tensor, Tensor]:
    each = F.binary_cross_entropy_with_logits(logits, targets, known, reduction="none")
    targets *= known
    logits.sigmoid_().mul_(known)
    dice = 1 - (2 * (logits * targets).sum(-1) + 1) / ((logits + targets).sum(-1) + 1)
    return (each.sum(1) / known.sum(1).clamp_min(1)).sum() / count, dice.sum() / count


def _point_masks() -> Mapping[str, tuple[Tensor, Tensor, Tensor, float]]:
    draw = torch.Generator().manual_seed(18)

    def case(objects: int, points: int, count: float, *, fractional: bool = False, void: float = 0.0) -> Any:
        targets = torch.rand(objects, points, generator=draw)
        targets = targets if fractional else (targets > 0.5).float()
        known = (torch.rand(objects, points, generator=draw) >= void).float()
        return 2 * torch.randn(objects, points, generator=draw), targets, known, count

    logits, targets, known, _ = case(3, 6, 3, void=0.3)
    known[1] = 0
    return {
        "two masks": case(2, 5, 2),
        "fractional targets": case(2, 6, 2, fractional=True),
        "points in void": case(3, 8, 3, void=0.4),
        "more objects in other processes": case(2, 5, 2.5),
        "empty masks": (torch.tensor([[-6.0, -7, -5]]), torch.zeros(1, 3), torch.ones(1, 3), 1.0),
        "a mask that is all void": (logits, targets, known, 3.0),
        "no object": case(0, 4, 1),
    }


LOSS = Exercise(
    solution=point_loss,
    wrong={
        "as_given": (_as_given, "That is the code as it was given."),
        "binary": (
            _buggy(binary=True),
            "A target that was sampled between two pixels lies between 0 and 1. Which line rounds it?",
        ),
        "void_in_bce": (
            _buggy(void_in_bce=True),
            "Your cross-entropy still counts points in void: weigh each point by `known`.",
        ),
        "void_in_dice": (
            _buggy(void_in_dice=True),
            "Your Dice loss still counts points in void, in the overlap or in the sums.",
        ),
        "void_in_both": (
            _buggy(void_in_bce=True, void_in_dice=True),
            "Points in void still count. `known` is 0 there.",
        ),
        "mean_over_all_points": (
            _buggy(mean_over_all=True),
            "Your cross-entropy is one mean over all points. Take the mean of each mask, the sum over masks, and "
            "divide by `count`.",
        ),
        "mean_over_p": (
            _buggy(mean_over_p=True),
            "You divide by P, so points in void count as losses of 0. Divide by the number of known points.",
        ),
        "void_in_sums": (
            _buggy(void_in_sums=True),
            "In your Dice loss the overlap leaves out void, and the two sums below hold it.",
        ),
        "no_plus_one": (
            _buggy(plus_one=False),
            "Dice has + 1 above and below: without it an empty mask gives a loss near 1, or 0 / 0.",
        ),
        "mean_of_masks": (
            _buggy(mean_of_masks=True),
            "Your Dice loss is the mean over the masks that are here. Take the sum, and divide by `count`.",
        ),
        "bce_mean_of_masks": (
            _buggy(bce_mean_of_masks=True),
            "Your cross-entropy is the mean over the masks that are here. Take the sum, and divide by `count`.",
        ),
        "both_means_of_masks": (
            _buggy(mean_of_masks=True, bce_mean_of_masks=True),
            "Both losses are means over the masks that are here. Take the sums, and divide by `count`.",
        ),
        "divided_by_masks": (
            lambda logits, targets, known, count: point_loss(logits, targets, known, max(1, len(logits))),
            "You divide by the number of masks. Divide by `count`: it may differ.",
        ),
        "divided_by_nothing": (
            _buggy(careless=True),
            "A mask may lie in void altogether. Its mean is 0 / 0 in your answer: the loss is 0 then.",
        ),
    },
    right={"mask by mask, as a list": _loss_of_known, "NumPy": _loss_numpy, "in place": _loss_in_place},
    probes=_point_masks,
    hint="Go through both losses: targets, points in void, + 1, the mean over points, the sum over masks / count.",
    sketch="""
        each = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        bce = (each * ...).sum(1) / known.sum(1).clamp(min=...)   # (G,)
        p, t = logits.sigmoid() * ..., targets * ...
        dice = 1 - (2 * (p * t).sum(1) + ...) / (p.sum(1) + t.sum(1) + ...)
        return bce.sum() / ..., dice.sum() / ...
    """,
)
