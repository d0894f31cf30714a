"""Chapter 17, "Volumes": the pieces and exercises on patches, their costs, the loss, and sliding windows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.book.exercise import Exercise
from seglib.book.exercises.verify import trains_all
from seglib.types import VOID

Predict = Callable[[Tensor], Tensor]

# Piece 4: where a patch begins ---------------------------------------------------------------------------------------


def patch_start(labels: Tensor, size: Sequence[int], share: float, u: Tensor) -> list[int]:
    """The first voxel of a patch in labels ``(D, H, W)``, from five uniform numbers ``u`` in [0, 1)."""
    return _patch_start(labels, size, share, u)


def _centred(at: int, n: int, d: int) -> int:
    return min(max(at - d // 2, 0), n - d)


def _patch_start(
    labels: Tensor,
    size: Sequence[int],
    share: float,
    u: Tensor,
    *,
    foreground: Callable[[float, float], bool] = lambda u, share: u < share,
    classes: Callable[[Tensor], Tensor] = lambda x: x[(x != 0) & (x != VOID)].unique(),
    place: Callable[[int, int, int], int] = _centred,
    uniform: Callable[[float, int, int], int] = lambda u, n, d: int(u * (n - d + 1)),
    by_class: bool = True,
    pick: Callable[[float, int], int] = lambda u, n: int(u * n),
) -> list[int]:
    """``patch_start`` with some steps exchanged."""
    present = classes(labels)
    if foreground(float(u[0]), share) and len(present):
        chosen = present[pick(float(u[1]), len(present))]
        voxels = (labels == chosen if by_class else torch.isin(labels, present)).nonzero()  # (N, 3)
        voxel = voxels[pick(float(u[2]), len(voxels))].tolist()
        return [place(v, n, d) for v, n, d in zip(voxel, labels.shape, size, strict=True)]
    return [uniform(float(x), n, d) for x, n, d in zip(u[2:], labels.shape, size, strict=True)]


def _starts(**changes: Any) -> Callable[[Tensor, Sequence[int], float, Tensor], list[int]]:
    return lambda labels, size, share, u: _patch_start(labels, size, share, u, **changes)


def _largest_first(x: Tensor) -> Tensor:
    classes, counts = x[(x != 0) & (x != VOID)].unique(return_counts=True)
    return classes[counts.argsort(descending=True, stable=True)]


def _patch_numpy(labels: Tensor, size: Sequence[int], share: float, u: Tensor) -> np.ndarray:
    array, draws = labels.numpy(), u.numpy().astype(float)
    last = np.array(array.shape) - np.array(size)
    present = [k for k in np.unique(array) if k not in (0, 255)]
    if draws[0] >= share or not present:
        return np.floor(draws[2:] * (last + 1)).astype(int)
    voxels = np.argwhere(array == present[int(draws[1] * len(present))])
    return np.clip(voxels[int(draws[2] * len(voxels))] - np.array(size) // 2, 0, last)


def _patch_by_loops(labels: Tensor, size: Sequence[int], share: float, u: Tensor) -> tuple[int, ...]:
    places: dict[int, list[tuple[int, ...]]] = {}
    for z, y, x in itertools.product(*map(range, labels.shape)):
        k = int(labels[z, y, x])
        if k not in (0, 255):
            places.setdefault(k, []).append((z, y, x))
    draws = u.tolist()
    if draws[0] < share and places:
        voxels = places[sorted(places)[math.floor(draws[1] * len(places))]]
        start = [v - d // 2 for v, d in zip(voxels[math.floor(draws[2] * len(voxels))], size, strict=True)]
    else:
        start = [math.floor(v * (n - d + 1)) for v, n, d in zip(draws[2:], labels.shape, size, strict=True)]
    return tuple(max(0, min(s, n - d)) for s, n, d in zip(start, labels.shape, size, strict=True))


def _label_volumes() -> Mapping[str, tuple[Tensor, list[int], float, Tensor]]:
    labels = torch.zeros(6, 10, 12, dtype=torch.int64)
    labels[2:5, 2:8, 3:10] = 1  # a large class
    labels[0, 9, 11] = 3  # a small one in a corner
    labels[5, 0, 0] = 3
    labels[:, :, 5] = VOID
    empty = torch.zeros(4, 5, 6, dtype=torch.int64)
    empty[0, 0, :3] = VOID
    three = torch.zeros(5, 6, 7, dtype=torch.int64)  # the class of the lowest id is the smallest one
    three[0, 2, 1:4], three[1:4, 1:5, 2:6], three[4, 1:3, :] = 1, 2, 5
    three[4, 5, 6] = VOID
    draw = torch.Generator().manual_seed(17)
    cases = {
        "any place": (labels, [4, 5, 6], 0.25, torch.tensor([0.7, 0.2, 0.1, 0.6, 0.9])),
        "the last place": (labels, [4, 5, 6], 0.25, torch.tensor([0.9, 0.2, 0.99, 0.99, 0.99])),
        "the large class": (labels, [2, 4, 6], 0.5, torch.tensor([0.1, 0.4, 0.55, 0.3, 0.8])),
        "the large class, an odd size": (labels, [3, 5, 7], 0.5, torch.tensor([0.1, 0.2, 0.35, 0.3, 0.8])),
        "a voxel in a corner": (labels, [4, 4, 6], 1.0, torch.tensor([0.3, 0.6, 0.2, 0.5, 0.5])),
        "a voxel in the other corner": (labels, [4, 4, 6], 1.0, torch.tensor([0.3, 0.9, 0.7, 0.5, 0.5])),
        "no foreground": (empty, [2, 2, 2], 1.0, torch.tensor([0.0, 0.5, 0.5, 0.5, 0.5])),
        "a draw of exactly the share": (labels, [4, 5, 6], 0.25, torch.tensor([0.25, 0.6, 0.1, 0.6, 0.9])),
        "share 0": (labels, [4, 5, 6], 0.0, torch.tensor([0.0, 0.6, 0.4, 0.6, 0.9])),
        "a half of two classes": (labels, [1, 1, 1], 1.0, torch.tensor([0.3, 0.5, 0.6, 0.5, 0.5])),
        "a patch as large as the volume": (labels, [6, 10, 12], 0.5, torch.tensor([0.2, 0.6, 0.4, 0.6, 0.9])),
    }
    for i in range(8):
        cases[f"draw {i}"] = (labels, [3, 4, 5], 0.5, torch.rand(5, generator=draw))
        cases[f"voxel {i} of three classes"] = (three, [1, 1, 1], 1.0, torch.rand(5, generator=draw))
    return cases


PATCH = Exercise(
    solution=patch_start,
    wrong={
        "never": (
            _starts(foreground=lambda u, share: False),
            "All your patches are uniform. With u[0] < share the patch is centred on a foreground voxel.",
        ),
        "always": (
            _starts(foreground=lambda u, share: True),
            "All your patches are on foreground. Only if u[0] < share.",
        ),
        "inverted": (
            _starts(foreground=lambda u, share: u >= share),
            "Foreground is chosen when u[0] < share; you chose it in the other case.",
        ),
        "above": (
            _starts(foreground=lambda u, share: u > share),
            "You choose foreground above the share. It is chosen when u[0] < share.",
        ),
        "at_share": (
            _starts(foreground=lambda u, share: u <= share),
            "A draw of exactly `share` is not below it: <, not ≤. With share 0 no patch is on foreground.",
        ),
        "by_voxels": (
            _starts(by_class=False),
            "You draw among all foreground voxels, so the large class gets nearly all. Draw a class first.",
        ),
        "all_labels": (
            _starts(classes=lambda x: x.unique()),
            "You draw among all labels. 0 is background and 255 void: neither is foreground.",
        ),
        "by_frequency": (
            _starts(classes=lambda x: x[(x != 0) & (x != VOID)]),
            "You draw the class from a list of all voxels, so the large class gets nearly all. List each class once.",
        ),
        "largest_first": (
            _starts(classes=_largest_first),
            "Your classes stand in the order of their size. Sort them by id.",
        ),
        "falling_ids": (
            _starts(classes=lambda x: x[(x != 0) & (x != VOID)].unique().flip(0)),
            "Your classes stand in falling order. Sort them by id, the lowest first.",
        ),
        "with_background": (
            _starts(classes=lambda x: x[x != VOID].unique()),
            "Class 0 is background, not foreground: leave it out of the classes.",
        ),
        "with_void": (
            _starts(classes=lambda x: x[x != 0].unique()),
            "255 is void and no class: leave it out.",
        ),
        "largest_class": (
            _starts(pick=lambda u, n: 0),
            "You take the first class and its first voxel always. u[1] and u[2] choose them.",
        ),
        "rounded": (
            _starts(pick=lambda u, n: min(round(u * n), n - 1)),
            "Round u · n down: then every index has the same chance.",
        ),
        "last_index": (
            _starts(pick=lambda u, n: round(u * (n - 1))),
            "Your index is round(u · (n − 1)): the first and the last come half as often. Take ⌊u · n⌋.",
        ),
        "rounded_up": (
            _starts(pick=lambda u, n: max(math.ceil(u * n) - 1, 0)),
            "You round up and subtract 1. Where u · n is whole, that is one too few: take ⌊u · n⌋.",
        ),
        "not_rounded": (
            lambda labels, size, share, u: (
                [float(v) * (n - d + 1) for v, n, d in zip(u[2:], labels.shape, size, strict=True)]
                if u[0] >= share or not ((labels != 0) & (labels != VOID)).any()
                else patch_start(labels, size, share, u)
            ),
            "A start is a whole number: round it down.",
        ),
        "uniform_rounded": (
            _starts(uniform=lambda u, n, d: round(u * (n - d))),
            "Round the start down: ⌊u · (D − d + 1)⌋ gives every start the same chance.",
        ),
        "last_missing": (
            _starts(uniform=lambda u, n, d: int(u * (n - d))),
            "Your last start never comes. There are D − d + 1 of them.",
        ),
        "whole_axis": (
            _starts(uniform=lambda u, n, d: int(u * n)),
            "Your uniform patch leaves the volume: its start goes from 0 to D − d.",
        ),
        "uniform_clamped": (
            _starts(uniform=lambda u, n, d: min(int(u * n), n - d)),
            "You clamp uniform starts, so the last one comes too often. There are D − d + 1: ⌊u · (D − d + 1)⌋.",
        ),
        "uniform_centred": (
            _starts(uniform=lambda u, n, d: _centred(int(u * n), n, d)),
            "Your uniform patches are centred on a random voxel, so starts at the border come too often.",
        ),
        "starts_there": (
            _starts(place=lambda at, n, d: min(at, n - d)),
            "Your patch starts at the voxel. The voxel lies in the middle: start at v − d // 2.",
        ),
        "leaves": (
            _starts(place=lambda at, n, d: at - d // 2),
            "Near a border your patch leaves the volume: a start lies from 0 to D − d.",
        ),
        "leaves_below": (
            _starts(place=lambda at, n, d: min(at - d // 2, n - d)),
            "Near the first border your patch leaves the volume: a start is at least 0.",
        ),
        "leaves_above": (
            _starts(place=lambda at, n, d: max(at - d // 2, 0)),
            "Near the last border your patch leaves the volume: a start is at most D − d.",
        ),
        "half_up": (
            _starts(place=lambda at, n, d: min(max(at - (d - 1) // 2, 0), n - d)),
            "The start is v − d // 2. For even sizes yours is one voxel further.",
        ),
        "no_foreground_raises": (
            lambda labels, size, share, u: (
                patch_start(labels, size, share, u) if len(labels[(labels != 0) & (labels != VOID)]) else [][0]
            ),
            "A volume may have no foreground. Then the patch is uniform.",
        ),
        "axes_reversed": (
            lambda labels, size, share, u: patch_start(labels, size, share, u)[::-1],
            "Your axes are reversed. The start is (z, y, x), as the labels' axes.",
        ),
    },
    right={"NumPy": _patch_numpy, "loops": _patch_by_loops},
    probes=_label_volumes,
    hint="Below `share`: a class, a voxel of it, v − d // 2, clamped. Otherwise ⌊u · (D − d + 1)⌋ on each axis.",
    sketch="""
        present = labels[(labels != 0) & (labels != 255)].unique()
        if u[0] < share and len(present):
            k = present[int(u[1] * ...)]
            voxels = (labels == k).nonzero()                 # (N, 3)
            voxel = voxels[int(...)].tolist()
            return [min(max(v - d // 2, ...), ...) for v, n, d in zip(voxel, labels.shape, size)]
        return [int(v * (...)) for v, n, d in zip(u[2:], labels.shape, size)]
    """,
)


# Piece 5: the loss of sparse annotation ------------------------------------------------------------------------------


def sparse_loss(logits: Tensor, labels: Tensor, annotated: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross-entropy of ``(B, K, D, H, W)`` and ``(B, D, H, W)`` over the annotated slices ``(B, D)``."""
    return _sparse_loss(logits, labels, annotated, weights)


def _sparse_loss(
    logits: Tensor,
    labels: Tensor,
    annotated: Tensor,
    weights: Tensor,
    *,
    mask: Callable[[Tensor], Tensor] = lambda a: a[:, :, None, None],
    divide: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda total, w, m: total / w.sum().clamp(min=1e-12),
    log: Callable[[Tensor], Tensor] = lambda z: z.log_softmax(1),
) -> Tensor:
    """``sparse_loss`` with some steps exchanged."""
    m = mask(annotated).expand_as(labels)
    w = weights[labels] * m  # (B, D, H, W)
    ce = -log(logits).gather(1, labels[:, None])[:, 0]
    return divide((w * ce).sum(), w, m)


def _losses(**changes: Any) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    return lambda logits, labels, annotated, weights: _sparse_loss(logits, labels, annotated, weights, **changes)


def _with_ignored_label(logits: Tensor, labels: Tensor, annotated: Tensor, weights: Tensor) -> Tensor:
    labels = labels.masked_fill(~annotated[:, :, None, None], -100)
    total = F.cross_entropy(logits, labels, weights, reduction="sum")
    return total / weights[labels[labels >= 0]].sum() if annotated.any() else 0 * total


def _in_place(logits: Tensor, labels: Tensor, annotated: Tensor, weights: Tensor) -> Tensor:
    w = weights[labels]
    w *= annotated[..., None, None]
    losses = F.cross_entropy(logits, labels, reduction="none")
    losses *= w
    return losses.sum() / w.sum() if w.any() else losses.sum()


def _slice_by_slice(logits: Tensor, labels: Tensor, annotated: Tensor, weights: Tensor) -> float:
    total = weight = 0.0
    for z, y, a in zip(logits.numpy().astype(float), labels.numpy(), annotated.tolist(), strict=True):
        for d in range(len(a)):
            if a[d]:
                e = np.exp(z[:, d] - z[:, d].max(0))
                p = np.take_along_axis(e / e.sum(0), y[None, d], 0)[0]
                w = weights.numpy()[y[d]]
                total, weight = total - float((w * np.log(p)).sum()), weight + float(w.sum())
    return total / weight if weight else 0.0


def _per_volume(logits: Tensor, labels: Tensor, annotated: Tensor, weights: Tensor) -> Tensor:
    parts = zip(logits, labels, annotated, strict=True)
    return torch.stack([sparse_loss(z[None], y[None], a[None], weights) for z, y, a in parts]).mean()


def _sparse_volumes() -> Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(12)

    def case(batch: int, size: tuple[int, int, int], annotated: list[list[int]], weights: list[float]) -> Any:
        k, marked = len(weights), torch.tensor(annotated).bool()
        labels = torch.randint(k, (batch, *size), generator=draw)
        labels[~marked] = 0  # nobody labelled these slices
        return 2 * torch.randn(batch, k, *size, generator=draw), labels, marked, torch.tensor(weights)

    large = case(1, (2, 3, 3), [[1, 1]], [1.0, 2.0, 0.5])
    return {
        "two volumes of four slices": case(2, (4, 3, 5), [[1, 0, 0, 1], [0, 1, 0, 0]], [0.2, 1.0, 3.0]),
        "all slices annotated": case(1, (3, 2, 2), [[1, 1, 1]], [0.5, 2.0]),
        "as many slices as rows and columns": case(3, (3, 3, 3), [[1, 0, 0], [0, 0, 1], [1, 1, 0]], [1.0, 4.0, 0.5]),
        "a volume without annotation": case(2, (2, 3, 4), [[0, 0], [1, 0]], [1.0, 1.0, 1.0]),
        "large logits": (100 + 4 * large[0], *large[1:]),
        "nothing annotated": case(1, (2, 2, 3), [[0, 0]], [1.0, 2.0]),
        "small weights": case(1, (3, 2, 2), [[1, 0, 1]], [0.01, 0.03]),
        "a class of weight 0": case(1, (3, 4, 4), [[1, 0, 1]], [0.0, 1.0, 2.0]),
    }


LOSS = Exercise(
    solution=sparse_loss,
    wrong={
        "all_slices": (
            _losses(mask=lambda a: torch.ones_like(a)[:, :, None, None]),
            "Slices without annotation count as background in your loss. Their weight is 0.",
        ),
        "inverted": (
            _losses(mask=lambda a: ~a[:, :, None, None]),
            "Your loss counts the slices without annotation. `annotated` is True where labels are known.",
        ),
        "over_rows": (
            lambda logits, labels, annotated, weights: _sparse_loss(
                logits, labels, annotated, weights, mask=lambda a: _to_width(a, labels)
            ),
            "You leave out columns in place of slices: `annotated` belongs to axis D.",
        ),
        "no_class_weights": (
            lambda logits, labels, annotated, weights: sparse_loss(logits, labels, annotated, torch.ones_like(weights)),
            "Each voxel has the weight of its true class.",
        ),
        "weights_of_predictions": (
            lambda logits, labels, annotated, weights: _weighted_by(
                logits, labels, annotated, weights[logits.argmax(1)]
            ),
            "You weigh by the predicted class. The true class has the weight.",
        ),
        "sum": (_losses(divide=lambda total, w, m: total), "Divide by the sum of the weights."),
        "by_all_voxels": (
            _losses(divide=lambda total, w, m: total / w.numel()),
            "You divide by the number of all voxels, so fewer annotated slices make a smaller loss. Divide by the sum "
            "of the weights.",
        ),
        "by_annotated_voxels": (
            _losses(divide=lambda total, w, m: total / m.sum().clamp(min=1)),
            "You divide by the number of annotated voxels. Divide by the sum of their weights.",
        ),
        "mask_above": (
            lambda logits, labels, annotated, weights: _sparse_loss(
                logits, labels, annotated, weights, divide=lambda total, w, m: total / weights[labels].sum()
            ),
            "Below the line you sum the weights of all slices. Those without annotation weigh 0 there, too.",
        ),
        "weights_twice": (
            lambda logits, labels, annotated, weights: (
                _sparse_loss(logits, labels, annotated, weights**2)
                * ((weights**2)[labels] * annotated[:, :, None, None]).sum()
                / (weights[labels] * annotated[:, :, None, None]).sum().clamp(min=1e-12)
            ),
            "You multiply by the class weights twice, perhaps once inside `cross_entropy`.",
        ),
        "one_more": (
            _losses(divide=lambda total, w, m: total / (w.sum() + 1)),
            "You add 1 to the sum of the weights. Only a sum of 0 needs care.",
        ),
        "skips_volumes": (
            lambda logits, labels, annotated, weights: (
                _per_volume(logits[annotated.any(1)], labels[annotated.any(1)], annotated[annotated.any(1)], weights)
                if annotated.any()
                else 0 * logits.sum()
            ),
            "You average the losses of the volumes with annotation. There is one mean, over all annotated voxels.",
        ),
        "background_ignored": (
            lambda logits, labels, annotated, weights: _sparse_loss(
                logits, labels, annotated, weights * (torch.arange(len(weights)) > 0)
            ),
            "You leave class 0 out. In annotated slices 0 is background, and counts with its weight.",
        ),
        "mean_of_volumes": (
            _per_volume,
            "You average the volumes' losses. There is one mean, over all annotated voxels of the batch.",
        ),
        "not_a_number": (
            _losses(divide=lambda total, w, m: total / w.sum()),
            "Without any annotated slice your loss is 0 / 0. It is 0 there.",
        ),
        "at_least_one": (
            _losses(divide=lambda total, w, m: total / w.sum().clamp(min=1)),
            "You limit the sum of the weights from below, and so change the mean of small volumes. Only 0 needs care.",
        ),
        "probabilities": (
            _losses(log=lambda z: z.softmax(1)),
            "You left out the logarithm: the loss is −log p of the true class.",
        ),
        "overflow": (
            _losses(log=lambda z: (z.exp() / z.exp().sum(1, keepdim=True)).log()),
            "exp of a large logit is infinite in float32. Use `log_softmax`, or subtract the largest logit first.",
        ),
        "clamped": (
            _losses(log=lambda z: z.softmax(1).clamp(min=1e-3).log()),
            "You limit p from below, so that bad mistakes all cost the same. Use `log_softmax`.",
        ),
        "softmax_twice": (
            _losses(log=lambda z: z.softmax(1).log_softmax(1)),
            "You take the softmax twice: `cross_entropy` wants logits.",
        ),
        "over_width": (
            _losses(log=lambda z: z.log_softmax(-1)),
            "Your softmax goes over the last axis. It goes over the classes, axis 1.",
        ),
        "sigmoid": (
            _losses(log=lambda z: F.logsigmoid(z)),
            "You take a sigmoid for each class. The classes exclude each other: softmax.",
        ),
        "base_2": (
            lambda *arguments: sparse_loss(*arguments) / math.log(2),
            "You take the logarithm to base 2. The loss takes the natural one.",
        ),
        "negative": (lambda *arguments: -sparse_loss(*arguments), "Your loss has the wrong sign: it is −log p."),
        "over_depth": (
            _losses(log=lambda z: z.log_softmax(2)),
            "Your softmax goes over the slices. It goes over the classes, axis 1.",
        ),
    },
    right={"an ignored label": _with_ignored_label, "in place": _in_place, "NumPy, slice by slice": _slice_by_slice},
    probes=_sparse_volumes,
    verify=trains_all(
        sparse_loss, _sparse_volumes, ["No gradient reaches the logits, or not the whole one, and nothing would train."]
    ),
    hint="Σ w · (−log p of the true class) / Σ w, with w = 0 on slices without annotation.",
    sketch="""
        ce = F.cross_entropy(logits, labels, reduction=...)  # (B, D, H, W)
        w = weights[labels] * annotated[:, :, None, None]
        return (w * ce).sum() / ...                          # and if nothing is annotated?
    """,
)


def _to_width(annotated: Tensor, labels: Tensor) -> Tensor:
    """The flags of slices, laid along the width instead."""
    width = labels.shape[3]
    return annotated.repeat(1, -(-width // annotated.shape[1]))[:, None, None, :width]


def _weighted_by(logits: Tensor, labels: Tensor, annotated: Tensor, w: Tensor) -> Tensor:
    w = w * annotated[:, :, None, None]
    return (w * F.cross_entropy(logits, labels, reduction="none")).sum() / w.sum().clamp(min=1e-12)


# Piece 6: a sliding window -------------------------------------------------------------------------------------------


def window_starts(n: int, d: int, overlap: float) -> list[int]:
    """The starts of windows of d voxels along an axis of n: equal steps, the last one moved back to the end."""
    step = max(int(d * (1 - overlap)), 1)
    return [min(step * i, n - d) for i in range(1 + max(0, -(-(n - d) // step)))]


def slide(predict: Predict, image: Tensor, weights: Tensor, overlap: float) -> Tensor:
    """Weighted mean of the logits of overlapping windows: image ``(C, D, H, W)`` → ``(K, D, H, W)``."""
    return _slide(predict, image, weights, overlap)


def _slide(
    predict: Predict,
    image: Tensor,
    weights: Tensor,
    overlap: float,
    *,
    starts: Callable[[int, int, float], list[int]] = window_starts,
    weigh: Callable[[Tensor], Tensor] = lambda w: w,
    answer: Callable[[Tensor], Tensor] = lambda z: z,
    mean: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda total, norm, count: total / norm,
) -> Tensor:
    """``slide`` with some steps exchanged."""
    size, w = image.shape[1:], weigh(weights)
    total: Tensor | None = None
    norm, count = torch.zeros(size), torch.zeros(size)
    axes = (starts(n, d, overlap) for n, d in zip(size, weights.shape, strict=True))
    for corner in itertools.product(*axes):
        at = tuple(slice(c, c + d) for c, d in zip(corner, weights.shape, strict=True))
        z = answer(predict(image[(slice(None), *at)][None])[0])
        total = torch.zeros(len(z), *size) if total is None else total
        total[(slice(None), *at)] += w * z
        norm[at] += w
        count[at] += 1
    assert total is not None
    return mean(total, norm, count)


def _slides(**changes: Any) -> Callable[[Predict, Tensor, Tensor, float], Tensor]:
    return lambda predict, image, weights, overlap: _slide(predict, image, weights, overlap, **changes)


def _starts_without_the_end(n: int, d: int, overlap: float) -> list[int]:
    return list(range(0, n - d + 1, max(int(d * (1 - overlap)), 1)))


def _starts_spread(n: int, d: int, overlap: float) -> list[int]:
    """As many windows, at equal distances from the first to the last place."""
    count = len(window_starts(n, d, overlap))
    return [round(i * (n - d) / max(count - 1, 1)) for i in range(count)]


def _starts_with(step: Callable[[int, float], int]) -> Callable[[int, int, float], list[int]]:
    def starts(n: int, d: int, overlap: float) -> list[int]:
        size = max(step(d, overlap), 1)
        return [min(size * i, n - d) for i in range(1 + max(0, -(-(n - d) // size)))]

    return starts


def _one_more(n: int, d: int, overlap: float) -> list[int]:
    starts = window_starts(n, d, overlap)
    return [*starts, n - d]


def _appended(n: int, d: int, overlap: float) -> list[int]:
    return [*_starts_without_the_end(n, d, overlap), n - d]


def _over_the_end(n: int, d: int, overlap: float) -> list[int]:
    return [min(i, n - d) for i in range(0, n, max(int(d * (1 - overlap)), 1))]


def _to_the_last(n: int, d: int, overlap: float) -> list[int]:
    return list(range(0, n - d, max(int(d * (1 - overlap)), 1))) or [0]


def _cut_short(predict: Predict, image: Tensor, weights: Tensor, overlap: float) -> Tensor:
    """The last windows are cut where the axis ends."""
    return _slide(
        predict, image, weights, overlap,
        starts=lambda n, d, o: [s + (n - d) % max(int(d * (1 - o)), 1) * (s == n - d) for s in window_starts(n, d, o)],
    )  # fmt: skip


def _first_wins(predict: Predict, image: Tensor, weights: Tensor, overlap: float) -> Tensor:
    flipped = _last_wins(lambda x: predict(x.flip((2, 3, 4))).flip((2, 3, 4)), image.flip((1, 2, 3)), weights, overlap)
    return flipped.flip((1, 2, 3))


def _last_wins(predict: Predict, image: Tensor, weights: Tensor, overlap: float) -> Tensor:
    out: Tensor | None = None
    axes = (window_starts(n, d, overlap) for n, d in zip(image.shape[1:], weights.shape, strict=True))
    for corner in itertools.product(*axes):
        at = (slice(None), *(slice(c, c + d) for c, d in zip(corner, weights.shape, strict=True)))
        z = predict(image[at][None])[0]
        out = torch.zeros(len(z), *image.shape[1:]) if out is None else out
        out[at] = z
    assert out is not None
    return out


def _slide_numpy(predict: Predict, image: Tensor, weights: Tensor, overlap: float) -> np.ndarray:
    size, window, w = image.shape[1:], weights.shape, weights.numpy()
    corners = [[]]  # type: list[list[int]]
    for n, d in zip(size, window, strict=True):
        step, at, starts = max(math.floor(d * (1 - overlap)), 1), 0, []
        while True:
            starts.append(min(at, n - d))
            if at + d >= n:
                break
            at += step
        corners = [[*c, s] for c in corners for s in starts]
    total: Any = 0
    norm = np.zeros(size)
    for a, b, c in corners:
        place = np.s_[a : a + window[0], b : b + window[1], c : c + window[2]]
        z = predict(image[(slice(None), *place)][None])[0].numpy()
        added = np.zeros((len(z), *size))
        added[(slice(None), *place)] = w * z
        norm[place] += w
        total = total + added
    return total / norm


def _all_windows_at_once(predict: Predict, image: Tensor, weights: Tensor, overlap: float) -> Tensor:
    size, window = image.shape[1:], weights.shape
    corners = list(itertools.product(*(window_starts(n, d, overlap) for n, d in zip(size, window, strict=True))))
    parts = [image[:, a : a + window[0], b : b + window[1], c : c + window[2]] for a, b, c in corners]
    z = torch.cat([predict(part[None]) for part in parts])  # (N, K, d, h, w)
    total, norm = torch.zeros(z.shape[1], *size), torch.zeros(size)
    z *= weights
    for (a, b, c), part in zip(corners, z, strict=True):
        total[:, a : a + window[0], b : b + window[1], c : c + window[2]] += part
        norm[a : a + window[0], b : b + window[1], c : c + window[2]] += weights
    total /= norm
    return total


def _of_the_window(x: Tensor) -> Tensor:
    """A predictor whose answer depends on where a voxel lies in its window: ``(B, 1, d, h, w)`` → 3 classes."""
    ramp = torch.linspace(-1, 1, x.shape[-1]) + torch.arange(x.shape[2])[:, None, None] / 3
    return torch.cat([x, x * ramp, 2 - x.mean((2, 3, 4), keepdim=True).expand_as(x)], 1)


def _two_channels(x: Tensor) -> Tensor:
    return torch.stack([x[:, 0] - x[:, 1].mean(), x[:, 0] * x[:, 1]], 1)


def _windows() -> Mapping[str, tuple[Predict, Tensor, Tensor, float]]:
    draw = torch.Generator().manual_seed(3)

    def case(predict: Predict, size: tuple[int, ...], window: tuple[int, ...], overlap: float) -> Any:
        return (
            predict,
            torch.randn(*size, generator=draw),
            0.1 + torch.rand(*window, generator=draw),
            overlap,
        )

    return {
        "windows that fit": case(_of_the_window, (1, 4, 2, 8), (2, 2, 4), 0.5),
        "a last window that doesn't fit": case(_of_the_window, (1, 5, 4, 9), (3, 4, 4), 0.5),
        "a step that is rounded": case(_of_the_window, (1, 7, 8, 4), (3, 5, 4), 0.3),
        "two channels": case(_two_channels, (2, 5, 5, 4), (2, 3, 4), 0.25),
        "no overlap": case(_of_the_window, (1, 5, 3, 5), (2, 3, 4), 0.0),
        "a window as large as the volume": case(_of_the_window, (1, 3, 4, 5), (3, 4, 5), 0.5),
        "a window of one slice": case(_of_the_window, (1, 3, 6, 4), (1, 4, 4), 0.5),
        "a step below 1": case(_of_the_window, (1, 4, 5, 4), (2, 3, 4), 0.7),
        "much overlap": case(_of_the_window, (1, 9, 4, 5), (4, 4, 4), 0.7),
    }


SLIDE = Exercise(
    solution=slide,
    wrong={
        "sum": (
            _slides(mean=lambda total, norm, count: total),
            "You sum up the windows. Divide by the sum of the weights at each voxel.",
        ),
        "by_count": (
            _slides(mean=lambda total, norm, count: total / count),
            "You divide by the number of windows. Divide by the sum of their weights.",
        ),
        "unweighted": (
            _slides(weigh=torch.ones_like),
            "All voxels of a window count the same in your mean. `weights` says how much each counts.",
        ),
        "weights_squared": (_slides(weigh=torch.square), "You multiply by the weights twice."),
        "not_normalised": (
            _slides(weigh=lambda w: w / w.sum(), mean=lambda total, norm, count: total),
            "Weights that sum to 1 in a window don't sum to 1 at a voxel. Divide by their sum at each voxel.",
        ),
        "clamped_norm": (
            _slides(mean=lambda total, norm, count: total / norm.clamp(min=1)),
            "You limit the sum of the weights to 1 or more. Divide by the sum as it is.",
        ),
        "squared_above": (
            lambda predict, image, weights, overlap: (
                _slide(predict, image, weights.square(), overlap, mean=lambda total, norm, count: total)
                / _slide(predict, image, weights, overlap, mean=lambda total, norm, count: norm.expand_as(total))
            ),
            "Above the line you multiply by the weights twice.",
        ),
        "last_wins": (_last_wins, "Where windows overlap your last one wins. Take the weighted mean."),
        "end_missing": (
            _slides(starts=_starts_without_the_end, mean=lambda total, norm, count: total / norm.clamp(min=1e-6)),
            "The end of an axis gets no window. If the last step doesn't fit, move the window back to the end.",
        ),
        "end_missing_nan": (
            _slides(starts=_starts_without_the_end),
            "The end of an axis gets no window, so you divide 0 by 0 there. Move the last window back to the end.",
        ),
        "appended": (
            _slides(starts=_appended),
            "Where the last step fits you have that window twice. It counts once.",
        ),
        "over_the_end": (
            _slides(starts=_over_the_end),
            "You have several windows at the end. As soon as one reaches the end, it is the last one.",
        ),
        "to_the_last": (
            _slides(starts=_to_the_last),
            "Your starts stop before n − d, so the end of an axis gets no window.",
        ),
        "cut_short": (
            _cut_short,
            "Your last window reaches beyond the axis, and comes out too small. Move it back to the end.",
        ),
        "spread": (
            _slides(starts=_starts_spread),
            "You spread the windows evenly. They start at 0, s, 2s …, and only the last one is moved back.",
        ),
        "one_more": (
            _slides(starts=_one_more),
            "There is one window too many: stop as soon as a window reaches the end of the axis.",
        ),
        "step_is_overlap": (
            _slides(starts=_starts_with(lambda d, overlap: int(d * overlap))),
            "Your step is the overlap. It is what does not overlap: ⌊d · (1 − overlap)⌋.",
        ),
        "step_rounded": (
            _slides(starts=_starts_with(lambda d, overlap: round(d * (1 - overlap)))),
            "Round the step down: ⌊d · (1 − overlap)⌋.",
        ),
        "step_up": (
            _slides(starts=_starts_with(lambda d, overlap: math.ceil(d * (1 - overlap)))),
            "You round the step up. Round it down: ⌊d · (1 − overlap)⌋.",
        ),
        "half_the_window": (
            _slides(starts=_starts_with(lambda d, overlap: d // 2)),
            "Your step is half a window. It is ⌊d · (1 − overlap)⌋.",
        ),
        "zero_is_window": (
            _slides(starts=_starts_with(lambda d, overlap: int(d * (1 - overlap)) or d)),
            "A step of 0 becomes a whole window in your code. It becomes 1.",
        ),
        "no_overlap": (
            _slides(starts=_starts_with(lambda d, overlap: d)),
            "Your windows don't overlap. The step is ⌊d · (1 − overlap)⌋.",
        ),
        "one_voxel": (
            _slides(starts=_starts_with(lambda d, overlap: 1)),
            "Your windows move by one voxel. The step is ⌊d · (1 − overlap)⌋.",
        ),
        "step_of_zero": (
            _slides(starts=lambda n, d, overlap: list(range(0, n - d + 1, int(d * (1 - overlap)))) + [n - d]),
            "A step is at least 1: ⌊1 · ½⌋ is 0, and the windows would never move.",
        ),
        "step_of_depth": (
            lambda predict, image, weights, overlap: _slide(
                predict,
                image,
                weights,
                overlap,
                starts=lambda n, d, o: _starts_with(lambda *_: int(weights.shape[0] * (1 - o)))(n, d, o),
            ),
            "You use the step of axis D on all axes. Each axis has its own.",
        ),
        "step_of_width": (
            lambda predict, image, weights, overlap: _slide(
                predict,
                image,
                weights,
                overlap,
                starts=lambda n, d, o: _starts_with(lambda *_: int(weights.shape[2] * (1 - o)))(n, d, o),
            ),
            "You use the step of axis W on all axes. Each axis has its own.",
        ),
        "largest": (
            _slides(weigh=torch.ones_like, mean=lambda total, norm, count: total.amax(0, keepdim=True) + 0 * total),
            "You take a largest value. Each voxel's logits are the weighted mean over its windows.",
        ),
        "probabilities": (
            _slides(answer=lambda z: z.softmax(0)),
            "You average probabilities. Average what `predict` returns: logits.",
        ),
        "votes": (
            _slides(answer=lambda z: F.one_hot(z.argmax(0), len(z)).movedim(-1, 0).float()),
            "You average the windows' decisions. Average their logits, and decide afterwards.",
        ),
        "classes": (
            lambda predict, image, weights, overlap: slide(predict, image, weights, overlap).argmax(0),
            "You return classes. Return the logits, (K, D, H, W).",
        ),
        "batch": (
            lambda predict, image, weights, overlap: slide(predict, image, weights, overlap)[None],
            "You return a batch of one. Return (K, D, H, W).",
        ),
    },
    right={"NumPy": _slide_numpy, "all windows first, then in place": _all_windows_at_once},
    probes=_windows,
    hint="Sum weights × logits and the weights themselves over all windows, then divide.",
    sketch="""
        def starts(n, d):
            step = max(int(d * (...)), 1)
            ...                                              # 0, step, 2 · step, …, n − d
        for z, y, x in itertools.product(*(starts(n, d) for n, d in zip(...))):
            at = (slice(None), slice(z, z + d), ...)
            total[at] += weights * predict(image[at][None])[0]
            norm[...] += weights
        return total / norm
    """,
)


# What does it cost? --------------------------------------------------------------------------------------------------

COSTS = Exercise(
    solution=(13824, 256.0, 8.0, 5),
    wrong={
        "flat_kernel": ((4608, 256.0, 8.0, 5), "The kernel has three axes: 27 numbers for each pair of channels."),
        "with_bias": ((13856, 256.0, 8.0, 5), "You count a bias for each output. There is none."),
        "double_precision": ((13824, 512.0, 8.0, 5), "A number in float32 takes four bytes, not eight."),
        "three_layers": (
            (13824, 256.0, 8.0, 7),
            "All three layers add slices in your count. A kernel of 1 × 3 × 3 adds none.",
        ),
        "one_input": ((864, 256.0, 8.0, 5), "Each of the 32 outputs has a kernel for each of the 16 inputs."),
        "bytes": ((13824, 64.0, 8.0, 5), "A number in float32 takes four bytes."),
        "one_channel": ((13824, 8.0, 8.0, 5), "There are 32 channels of 128³ voxels."),
        "half_precision": ((13824, 128.0, 8.0, 5), "That is half precision. A number in float32 takes four bytes."),
        "megabytes": ((13824, 268.435456, 8.0, 5), "Those are millions of bytes. A MiB has 1024 · 1024."),
        "flat": ((13824, 256.0, 4.0, 5), "All three sides are doubled."),
        "once": ((13824, 256.0, 2.0, 5), "All three sides are doubled, so the voxels are more than twice as many."),
        "all_kernels": ((13824, 256.0, 8.0, 9), "A kernel of 1 × 3 × 3 sees one slice: along z only two layers add."),
        "one_kernel": (
            (13824, 256.0, 8.0, 3),
            "There are two kernels that are three slices deep. Each adds two slices.",
        ),
        "summed": ((13824, 256.0, 8.0, 6), "A second layer adds two slices to the three of the first one."),
    },
    right={
        "a tensor": torch.tensor([13824.0, 256.0, 8.0, 5.0]),
        "a list": [27 * 16 * 32, 32 * 128**3 * 4 / 2**20, 2**3, 1 + 2 + 2],
    },
    hint="Kernels: 27 · in · out. Bytes: 4 · channels · voxels. A layer of kernel k adds k − 1 to the receptive field.",
    sketch="""
        weights = 3 * 3 * 3 * ... * ...
        mib = 4 * 32 * ... / 2**20
        times = ... ** 3
        slices = 1 + ... + ...                               # each layer adds k − 1
    """,
)


# Flips ---------------------------------------------------------------------------------------------------------------


def flipped_mean(predict: Predict, image: Tensor) -> Tensor:
    """The mean logits ``(K, D, H, W)`` of an image ``(C, D, H, W)`` and its seven flips, each flipped back."""
    return _flipped_mean(predict, image)


_FLIPS = [axes for n in range(4) for axes in itertools.combinations((-3, -2, -1), n)]


def _flipped_mean(
    predict: Predict,
    image: Tensor,
    *,
    flips: Sequence[tuple[int, ...]] = _FLIPS,
    back: bool = True,
    answer: Callable[[Tensor], Tensor] = lambda z: z,
    join: Callable[[Tensor], Tensor] = lambda z: z.mean(0),
) -> Tensor:
    """``flipped_mean`` with some steps exchanged."""
    views = [answer(predict(image.flip(axes)[None])[0]).flip(axes if back else ()) for axes in flips]
    return join(torch.stack(views))


def _flip(**changes: Any) -> Callable[[Predict, Tensor], Tensor]:
    return lambda predict, image: _flipped_mean(predict, image, **changes)


def _flips_by_loops(predict: Predict, image: Tensor) -> Tensor:
    total: Any = 0
    for z in (False, True):
        for y in (False, True):
            for x in (False, True):
                axes = [a for a, on in ((1, z), (2, y), (3, x)) if on]
                total += torch.flip(predict(torch.flip(image, axes)[None])[0], axes)
    return total / 8


def _flips_numpy(predict: Predict, image: Tensor) -> np.ndarray:
    answers = []
    for steps in itertools.product((1, -1), repeat=3):
        cut = np.s_[:, :: steps[0], :: steps[1], :: steps[2]]
        flipped = torch.from_numpy(image.numpy()[cut].copy())
        answers.append(predict(flipped[None])[0].numpy()[cut])
    return np.mean(answers, axis=0)


def _flips_in_halves(predict: Predict, image: Tensor) -> Tensor:
    """Axis by axis: the mean of a function and its flipped self, three times."""

    def symmetric(f: Predict, axis: int) -> Predict:
        return lambda x: (f(x) + f(x.flip(axis)).flip(axis)) / 2

    for axis in (2, 3, 4):
        predict = symmetric(predict, axis)
    return predict(image[None])[0]


def _flip_cases() -> Mapping[str, tuple[Predict, Tensor]]:
    draw = torch.Generator().manual_seed(6)
    weight = torch.randn(3, 2, 3, 3, 3, generator=draw)
    return {
        "a convolution": (lambda x: F.conv3d(x, weight, padding=1), torch.randn(2, 4, 5, 6, generator=draw)),
        "a cube": (lambda x: F.conv3d(x, weight[:, :1], padding=1).relu(), torch.randn(1, 4, 4, 4, generator=draw)),
        "a predictor that knows its place": (_of_the_window, torch.randn(1, 3, 4, 5, generator=draw)),
    }


FLIPS = Exercise(
    solution=flipped_mean,
    wrong={
        "not_back": (_flip(back=False), "Your answers lie the wrong way round. Flip each one back before the mean."),
        "one_axis": (
            _flip(flips=[(), (-3,), (-2,), (-1,)]),
            "You flip one axis at a time. Any of the three axes can be flipped: 2 · 2 · 2 = 8 ways.",
        ),
        "all_axes": (_flip(flips=[(), (-3, -2, -1)]), "You flip all axes or none. There are eight ways."),
        "in_plane": (
            _flip(flips=[(), (-2,), (-1,), (-2, -1)]),
            "You never flip the slices' order, axis D. There are eight ways.",
        ),
        "no_original": (_flip(flips=_FLIPS[1:]), "The image as it is counts, too: eight answers, not seven."),
        "plain": (_flip(flips=[()]), "That is the prediction of the image as it is. Flip it, too."),
        "sum": (_flip(join=lambda z: z.sum(0)), "You add the answers up. Take their mean."),
        "largest": (_flip(join=lambda z: z.amax(0)), "You take the largest logit. Take the mean."),
        "median": (_flip(join=lambda z: z.median(0).values), "You take the median. Take the mean."),
        "probabilities": (_flip(answer=lambda z: z.softmax(0)), "You average probabilities. Average the logits."),
        "first_axes": (
            lambda predict, image: torch.stack(
                [
                    predict(image.flip(axes)[None])[0].flip(axes)
                    for n in range(4)
                    for axes in itertools.combinations(range(3), n)
                ]
            ).mean(0),
            "Axis 0 of the image is the channels. D, H and W are its axes 1, 2 and 3.",
        ),
        "probabilities_of_mean": (
            lambda predict, image: flipped_mean(predict, image).softmax(0),
            "You return probabilities. Return the mean of the logits.",
        ),
        "classes": (
            lambda predict, image: flipped_mean(predict, image).argmax(0),
            "You return classes. Return the mean of the logits, (K, D, H, W).",
        ),
        "channels_too": (
            lambda predict, image: torch.stack(
                [
                    predict(image.flip(axes)[None])[0].flip(axes)
                    for n in range(5)
                    for axes in itertools.combinations(range(4), n)
                ]
            ).mean(0),
            "You flip the channels, too. Only D, H and W are axes of space.",
        ),
        "batch": (lambda predict, image: flipped_mean(predict, image)[None], "Return (K, D, H, W), without a batch."),
    },
    right={"loops": _flips_by_loops, "NumPy": _flips_numpy, "one axis after the other": _flips_in_halves},
    probes=_flip_cases,
    hint="Eight flips of the image, a prediction of each, flipped back, and their mean.",
    sketch="""
        answers = []
        for z, y, x in itertools.product((0, 1), repeat=3):
            axes = [...]                                     # those to flip
            answers.append(predict(image.flip(axes)[None])[0].flip(...))
        return torch.stack(answers).mean(...)
    """,
)
