"""Chapter 10's exercises on what the heads of Mask R-CNN are trained on: the sample, and the targets and loss in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.book.exercise import Exercise
from seglib.book.exercises.verify import trains_all
from seglib.losses.two_stage import BOX_WEIGHTS, mask_loss, mask_targets
from seglib.ops.boxes import encode_boxes
from seglib.ops.masks import masks_to_boxes
from seglib.ops.roi import roi_align

# The sample ----------------------------------------------------------------------------------------------------------


def draw(matches: Tensor, order: Tensor, batch_size_per_image: int, positive_fraction: float) -> Tensor:
    """The candidates that are drawn when they are met in a given order: foreground first, then background."""
    met = matches[order]
    foreground, background = order[met >= 0], order[met == -1]
    foreground = foreground[: int(batch_size_per_image * positive_fraction)]
    return torch.cat([foreground, background[: batch_size_per_image - len(foreground)]])


def _drawn(
    count: Callable[[int, int, int, float], tuple[int, int]] = lambda f, b, n, s: (int(n * s), n - min(f, int(n * s))),
    *,
    foreground: Callable[[Tensor], Tensor] = lambda m: m >= 0,
    background: Callable[[Tensor], Tensor] = lambda m: m == -1,
) -> Callable[[Tensor, Tensor, int, float], Tensor]:
    """``draw`` with other counts, or with another idea of what is foreground and background."""

    def drawn(matches: Tensor, order: Tensor, size: int, share: float) -> Tensor:
        met = matches[order]
        first, second = order[foreground(met)], order[background(met)]
        n, m = count(len(first), len(second), size, share)
        return torch.cat([first[:n], second[: max(0, m)]])

    return drawn


def _mixed(matches: Tensor, order: Tensor, size: int, share: float) -> Tensor:
    picked = set(draw(matches, order, size, share).tolist())
    return torch.tensor([i for i in order.tolist() if i in picked], dtype=torch.int64)


def _draw_one_by_one(matches: Tensor, order: Tensor, size: int, share: float) -> list[int]:
    taken: list[int] = []
    for i in order.tolist():
        if matches[i] >= 0 and len(taken) + 1 <= size * share:
            taken.append(i)
    for i in order.tolist():
        if matches[i] == -1 and len(taken) < size:
            taken.append(i)
    return taken


def _draw_by_rank(matches: Tensor, order: Tensor, size: int, share: float) -> Tensor:
    """Sorts the candidates by a rank: foreground, background, neither."""
    met = matches[order]
    rank = torch.where(met >= 0, 0, torch.where(met == -1, 1, 2))
    late = (rank == 0) & ((rank == 0).cumsum(0) > math.floor(size * share))
    rank[late] = 2
    order.copy_(order[rank.argsort(stable=True)].clone())
    return order[: min(size, int((rank < 2).sum()))]


def _samples() -> Mapping[str, tuple[Tensor, Tensor, int, float]]:
    def case(foreground: int, background: int, ignored: int, size: int, share: float, seed: int):
        g = torch.Generator().manual_seed(seed)
        matches = torch.cat([torch.arange(foreground) % 3, torch.full((background,), -1), torch.full((ignored,), -2)])
        count = len(matches)
        return matches[torch.randperm(count, generator=g)], torch.randperm(count, generator=g), size, share

    return {
        "much foreground": case(20, 40, 5, 16, 0.25, 0),
        "little foreground": case(2, 40, 5, 16, 0.25, 1),
        "no foreground": case(0, 9, 3, 8, 0.25, 2),
        "little of both": case(2, 3, 2, 16, 0.5, 3),
        "much foreground and little background": case(30, 3, 0, 16, 0.25, 4),
        "a share of 2.5": case(8, 30, 2, 10, 0.25, 5),
        "a share of 3.5": case(8, 30, 2, 7, 0.5, 6),
        "a share of 2.75": case(8, 30, 2, 11, 0.25, 7),
        "a share of 2.25": case(8, 30, 2, 9, 0.25, 8),
        "a share of 0.75": case(8, 30, 2, 3, 0.25, 9),
        "no background": case(9, 0, 3, 8, 0.25, 10),
        "nothing at all": case(0, 0, 0, 8, 0.25, 11),
        "all may be foreground": case(9, 30, 2, 10, 1.0, 12),
    }


SAMPLE = Exercise(
    solution=draw,
    wrong={
        "fixed_background": (
            _drawn(lambda f, b, n, s: (int(n * s), n - int(n * s))),
            "Where there is little foreground, background fills the sample up: its part isn't fixed.",
        ),
        "all_foreground": (
            _drawn(lambda f, b, n, s: (n, n - min(f, n))),
            "Foreground may take its fraction at most, else twenty RoIs leave no room for background.",
        ),
        "foreground_fills": (
            _drawn(lambda f, b, n, s: (n - min(b, n - int(n * s)), n - int(n * s))),
            "Background is what fills up, not foreground: the second stage must learn to say no.",
        ),
        "fixed_ratio": (
            _drawn(lambda f, b, n, s: (int(n * s), int(min(f, int(n * s)) * (1 - s) / s))),
            "You keep the ratio and make the sample smaller. The fraction is an upper bound for foreground, no more.",
        ),
        "rounded": (
            _drawn(lambda f, b, n, s: (round(n * s), n - min(f, round(n * s)))),
            "The share is rounded down, not to the nearest number.",
        ),
        "half_up": (
            _drawn(lambda f, b, n, s: (math.floor(n * s + 0.5), n - min(f, math.floor(n * s + 0.5)))),
            "The share is rounded down, also from a half on.",
        ),
        "rounded_up": (
            _drawn(lambda f, b, n, s: (math.ceil(n * s), n - min(f, math.ceil(n * s)))),
            "The share is rounded down: at most so much foreground, and never more than the fraction.",
        ),
        "at_least_one": (
            _drawn(lambda f, b, n, s: (max(1, int(n * s)), n - min(f, max(1, int(n * s))))),
            "A share below 1 is rounded down to 0.",
        ),
        "share_of_foreground": (
            _drawn(lambda f, b, n, s: (int(f * s), n - int(f * s))),
            "The fraction is one of `batch_size_per_image`, not of the foreground.",
        ),
        "background_beside_it": (
            _drawn(lambda f, b, n, s: (int(n * s), n)),
            "The sample has `batch_size_per_image` candidates at most, foreground and background together.",
        ),
        "ignored_as_background": (
            _drawn(background=lambda m: m < 0),
            "A match of −2 is neither foreground nor background: it is never drawn.",
        ),
        "ignored_as_foreground": (
            _drawn(foreground=lambda m: m != -1),
            "What is not background is not foreground yet: −2 stands for a candidate to ignore.",
        ),
        "object_0": (
            _drawn(foreground=lambda m: m > 0),
            "Objects are counted from 0: a match of 0 is foreground, too.",
        ),
        "without_order": (
            lambda m, o, n, s: draw(m, torch.arange(len(m)), n, s),
            "You take the first candidates of the list. Take those that `order` names first.",
        ),
        "places": (
            lambda m, o, n, s: draw(m[o], torch.arange(len(m)), n, s),
            "Your numbers are places in `order`. Return the candidates that stand there.",
        ),
        "sorted": (
            lambda m, o, n, s: draw(m, o, n, s).sort().values,
            "You sort the candidates by index. First foreground, then background, each as `order` names them.",
        ),
        "background_first": (
            lambda m, o, n, s: torch.cat([(d := draw(m, o, n, s))[m[d] == -1], d[m[d] >= 0]]),
            "Foreground stands first in the answer.",
        ),
        "mixed": (_mixed, "You let foreground and background mix, as `order` names them. All foreground stands first."),
        "matches": (
            lambda m, o, n, s: m[draw(m, o, n, s)],
            "You return the matches of the candidates. Return the candidates' indices.",
        ),
    },
    right={"one by one, as a list": _draw_one_by_one, "by rank, in place": _draw_by_rank},
    probes=_samples,
    hint="Foreground: as `order` names it, at most its fraction. Then background, as much as there is room for.",
    sketch="""
        met = matches[order]                      # (N,) in the order of drawing
        foreground, background = order[met ...], order[met ...]
        foreground = foreground[: ...]            # its share, rounded down
        return torch.cat([foreground, background[: ...]])
    """,
)


# What the box head should say ----------------------------------------------------------------------------------------


def box_head_targets(
    rois: Tensor, matches: Tensor, boxes: Tensor, labels: Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    """The class of each RoI, K for background, and the weighted deltas of the foreground ones."""
    classes = torch.full_like(matches, num_classes)
    foreground = matches >= 0
    classes[foreground] = labels[matches[foreground]]
    return classes, encode_boxes(boxes[matches[foreground]], rois[foreground], BOX_WEIGHTS)


def _aim(
    *,
    background: Callable[[int], int] = lambda k: k,
    weights: tuple[float, float, float, float] = BOX_WEIGHTS,
    foreground: Callable[[Tensor], Tensor] = lambda m: m >= 0,
    swapped: bool = False,
) -> Callable[[Tensor, Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]:
    """``box_head_targets`` with another background, other weights, or deltas the wrong way round."""

    def targets(
        rois: Tensor, matches: Tensor, boxes: Tensor, labels: Tensor, num_classes: int
    ) -> tuple[Tensor, Tensor]:
        chosen = foreground(matches)
        classes = torch.full_like(matches, background(num_classes))
        classes[chosen] = labels[matches[chosen]]
        own, from_ = boxes[matches[chosen]], rois[chosen]
        return classes, encode_boxes(from_, own, weights) if swapped else encode_boxes(own, from_, weights)

    return targets


def _padded_deltas(
    rois: Tensor, matches: Tensor, boxes: Tensor, labels: Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    classes, found = box_head_targets(rois, matches, boxes, labels, num_classes)
    deltas = torch.zeros(len(rois), 4, dtype=rois.dtype)
    deltas[matches >= 0] = found
    return classes, deltas


def _last_object(
    rois: Tensor, matches: Tensor, boxes: Tensor, labels: Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    return labels[matches], box_head_targets(rois, matches, boxes, labels, num_classes)[1]


def _no_objects(
    rois: Tensor, matches: Tensor, boxes: Tensor, labels: Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    own = labels[matches.clamp(min=0)]
    return own.where(matches >= 0, num_classes), box_head_targets(rois, matches, boxes, labels, num_classes)[1]


def _own_deltas(rois: Tensor, own: Tensor) -> Tensor:
    size, goal = rois[:, 2:] - rois[:, :2], own[:, 2:] - own[:, :2]
    moved = 10 * ((own[:, :2] + own[:, 2:]) - (rois[:, :2] + rois[:, 2:])) / (2 * size)
    return torch.cat([moved, 5 * (goal / size).log()], 1)


def _targets_by_hand(
    rois: Tensor, matches: Tensor, boxes: Tensor, labels: Tensor, num_classes: int
) -> tuple[list[int], Tensor]:
    classes = [int(labels[m]) if m >= 0 else num_classes for m in matches.tolist()]
    picked = (matches >= 0).nonzero()[:, 0]
    return classes, _own_deltas(rois[picked], boxes[matches[picked]])


def _targets_appended(
    rois: Tensor, matches: Tensor, boxes: Tensor, labels: Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    """A class for background is appended, which index −1 then means."""
    longer = torch.cat([labels, torch.tensor([num_classes])])
    rows = [_own_deltas(r[None], boxes[m][None])[0] for r, m in zip(rois, matches, strict=True) if m >= 0]
    return longer[matches], torch.stack(rows) if rows else rois.new_zeros(0, 4)


def _rois() -> Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor, int]]:
    objects = torch.tensor([[4.0, 4, 20, 12], [10, 8, 18, 30], [30, 2, 36, 10]])
    g = torch.Generator().manual_seed(0)
    matches = torch.tensor([2, 0, 1, 0, -1, -1])
    rois = objects[matches.clamp(min=0)] + torch.randint(-2, 3, (6, 4), generator=g)
    labels = torch.tensor([3, 0, 4])
    return {
        "four foreground RoIs and two of background": (rois, matches, objects, labels, 5),
        "background between": (rois, matches[[0, 4, 1, 5, 2, 3]], objects, labels, 5),
        "a RoI that fits exactly": (objects[:1], torch.tensor([0]), objects, labels, 5),
        "background alone": (rois[:2], torch.tensor([-1, -1]), objects, labels, 5),
        "an image without objects": (rois[:2], torch.tensor([-1, -1]), objects[:0], labels[:0], 5),
        "no RoIs": (rois[:0], matches[:0], objects, labels, 5),
    }


TARGETS = Exercise(
    solution=box_head_targets,
    wrong={
        "background_0": (
            _aim(background=lambda k: 0),
            "Class 0 is a class of objects. Background is the last logit, of index K.",
        ),
        "background_last_class": (
            _aim(background=lambda k: k - 1),
            "K − 1 is the last class of objects. Background stands behind it, at K.",
        ),
        "background_minus_1": (
            _aim(background=lambda k: -1),
            "Cross-entropy wants an index of a logit for background, too: K, not −1.",
        ),
        "last_object": (
            _last_object,
            "A match of −1 picks the last object when you index with it. Background needs a case of its own.",
        ),
        "matches": (
            lambda r, m, b, c, k: (
                torch.where(m >= 0, m, k),
                box_head_targets(r, m, b, c, k)[1],
            ),
            "A match is the number of an object, not its class: `labels` says the class.",
        ),
        "object_0": (
            _aim(foreground=lambda m: m > 0),
            "Objects are counted from 0: a match of 0 is foreground, too.",
        ),
        "unweighted": (
            _aim(weights=(1.0, 1.0, 1.0, 1.0)),
            "These are the deltas of chapter 7. The second stage multiplies them by `BOX_WEIGHTS`.",
        ),
        "divided": (
            _aim(weights=(0.1, 0.1, 0.2, 0.2)),
            "You divide by the weights. Targets are multiplied, decoding divides.",
        ),
        "one_weight": (
            _aim(weights=(10.0, 10.0, 10.0, 10.0)),
            "The first two deltas (the centre) have weight 10, the last two (the size) 5.",
        ),
        "swapped": (
            _aim(swapped=True),
            "Your deltas lead from the object to the RoI. They must lead from the RoI to the object.",
        ),
        "all_deltas": (
            _padded_deltas,
            "Background has no box to aim at: the deltas are those of the foreground RoIs alone, (F, 4).",
        ),
        "no_objects": (_no_objects, "An image may have no object: then there is nothing to index."),
    },
    right={"loop and formula": _targets_by_hand, "background appended, row by row": _targets_appended},
    probes=_rois,
    hint="Foreground is what has a match from 0 on. Its class and its box are those of the object that it matches.",
    sketch="""
        classes = torch.full_like(matches, ...)   # background
        foreground = matches >= 0
        classes[foreground] = ...
        deltas = encode_boxes(..., rois[foreground], BOX_WEIGHTS)
        return classes, deltas
    """,
    tolerance=1e-4,
)


# What the mask head should draw --------------------------------------------------------------------------------------


def cut_masks(masks: Tensor, matches: Tensor, rois: Tensor, size: int) -> Tensor:
    """Every foreground RoI's mask target, ``(F, size, size)`` of 0 and 1."""
    return mask_targets(masks, matches, rois, size, aligned=True, binary=True)


def _shares(
    masks: Tensor, matches: Tensor, rois: Tensor, size: int, *, aligned: bool = True, samples: int = 0
) -> Tensor:
    return roi_align(
        masks[:, None].to(rois.dtype), rois, matches, size, strides=1.0, sampling_ratio=samples, aligned=aligned
    )[:, 0]


def _own_boxes(masks: Tensor, matches: Tensor, rois: Tensor, size: int) -> Tensor:
    return cut_masks(masks, matches, masks_to_boxes(masks)[matches].to(rois.dtype), size)


def _whole_pixels(masks: Tensor, matches: Tensor, rois: Tensor, size: int) -> Tensor:
    return cut_masks(masks, matches, rois.round(), size)


def _cut_in_a_loop(masks: Tensor, matches: Tensor, rois: Tensor, size: int) -> list[Tensor] | Tensor:
    cut = []
    for roi, match in zip(rois, matches.tolist(), strict=True):
        one = masks[match][None, None].to(rois.dtype)
        share = roi_align(one, roi[None], torch.zeros(1, dtype=torch.int64), size, strides=1.0, sampling_ratio=0)
        cut.append(share[0, 0] >= 0.5)
    return cut or rois.new_zeros(0, size, size)


def _cut_gathered(masks: Tensor, matches: Tensor, rois: Tensor, size: int) -> Tensor:
    """Gathers each RoI's own mask first."""
    own = masks[matches][:, None].to(rois.dtype)
    share = roi_align(own, rois, torch.arange(len(rois)), size, strides=[1.0], sampling_ratio=0)[:, 0]
    return (share < 0.5).logical_not().float()


def _objects() -> Mapping[str, tuple[Tensor, Tensor, Tensor, int]]:
    y, x = torch.meshgrid(torch.arange(24), torch.arange(32), indexing="ij")
    disc = (y - 10) ** 2 + (x - 9) ** 2 <= 42
    bar = (x >= 20) & (x < 28) & (y >= 3) & (y < 20) & (x + y < 44)
    masks = torch.stack([disc, bar, disc | bar])
    rois = torch.tensor(
        [[18.4, 2, 29.6, 21.5], [2, 3, 16, 17], [4.25, 5.5, 15, 19.75], [1, 1, 30, 22], [19, 5, 27, 12]]
    )
    matches = torch.tensor([1, 0, 0, 2, 1])
    edge = torch.zeros(1, 8, 8, dtype=torch.bool)
    edge[0, :, :3] = True
    return {
        "five RoIs of three objects": (masks, matches, rois, 14),
        "targets of 7 × 7 cells": (masks, matches, rois, 7),
        "cells that the object covers by exactly one half": (
            edge,
            torch.tensor([0]),
            torch.tensor([[0.0, 0, 8, 8]]),
            4,
        ),
        "a RoI that another object reaches into": (masks, torch.tensor([1]), torch.tensor([[11.0, 3, 29, 20]]), 14),
        "a small RoI and many cells": (masks, torch.tensor([1]), torch.tensor([[19.0, 5, 22, 9]]), 28),
        "no foreground RoI": (masks, matches[:0], rois[:0], 14),
    }


MASK_TARGETS = Exercise(
    solution=cut_masks,
    wrong={
        "shares": (
            _shares,
            "You return shares between 0 and 1. A cell is 1 where its share is ½ or more, else 0.",
        ),
        "strict": (
            lambda m, i, r, s: (_shares(m, i, r, s) > 0.5).float(),
            "A cell that is covered by exactly one half counts as covered.",
        ),
        "any": (
            lambda m, i, r, s: (_shares(m, i, r, s) > 0).float(),
            "You count a cell that the object only touches. It must cover one half of it.",
        ),
        "not_aligned": (
            lambda m, i, r, s: (_shares(m, i, r, s, aligned=False) >= 0.5).float(),
            "Your cells are read half a pixel too far right and down: pixel i is centred at i + ½ (aligned).",
        ),
        "one_sample": (
            lambda m, i, r, s: (_shares(m, i, r, s, samples=1) >= 0.5).float(),
            "One sample a bin misses what the rest of the bin covers: as many samples as the bin has pixels.",
        ),
        "first_masks": (
            lambda m, i, r, s: cut_masks(m, torch.arange(len(i)) % len(m), r, s),
            "RoI n need not belong to mask n: `matches` says whose mask it is cut from.",
        ),
        "own_boxes": (
            _own_boxes,
            "You cut with the object's own box. The mask head draws in the RoI, so the RoI is what cuts.",
        ),
        "whole_pixels": (_whole_pixels, "You round the RoI to whole pixels: that is what RoIAlign was made to avoid."),
        "all_masks": (
            lambda m, i, r, s: cut_masks(m.any(0, keepdim=True), torch.zeros_like(i), r, s),
            "Another object in the RoI is not part of the target: cut from the matched object's mask alone.",
        ),
        "flipped": (
            lambda m, i, r, s: cut_masks(m, i, r, s).transpose(1, 2),
            "Rows and columns are swapped: rows run down the image.",
        ),
    },
    right={"RoI by RoI": _cut_in_a_loop, "gathered masks": _cut_gathered},
    probes=_objects,
    hint="Treat the masks as features of stride 1 with one channel; `matches` plays the part of the image's number.",
    sketch="""
        features = masks[:, None].float()         # (G, 1, H, W)
        share = roi_align(features, rois, ..., size, strides=..., sampling_ratio=...)
        return (share[:, 0] ...).float()          # (F, size, size)
    """,
)


# The loss of the masks -----------------------------------------------------------------------------------------------


def own_mask_loss(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy of each object's own channel, 0 without objects."""
    return mask_loss(logits[torch.arange(len(logits)), labels], targets)


def _bce(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.clamp(min=0) - logits * targets + torch.log1p(torch.exp(-logits.abs()))


def _loss_gathered(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    index = labels[:, None, None, None].expand(-1, 1, *logits.shape[2:])
    pixels = _bce(logits.gather(1, index)[:, 0], targets)
    return pixels.sum() / max(1, pixels.numel())


def _loss_by_loop(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    total = logits.sum() * 0
    for own, k, target in zip(logits, labels.tolist(), targets, strict=True):
        total = total + _bce(own[k], target).mean() / len(logits)
    return total


def _loss_without_tensors(logits: Tensor, labels: Tensor, targets: Tensor) -> float:
    total, count = 0.0, 0
    for n, k in enumerate(labels.tolist()):
        for z, t in zip(logits[n, k].flatten().tolist(), targets[n].flatten().tolist(), strict=True):
            total += math.log1p(math.exp(-z if t else z))
            count += 1
    return total / count if count else 0.0


def _every_channel(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    spread = torch.zeros_like(logits)
    spread[torch.arange(len(logits)), labels] = targets
    return mask_loss(logits, spread)


def _chosen(pick: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda logits, labels, targets: mask_loss(logits[torch.arange(len(logits)), pick(logits, labels)], targets)


def _mask_logits() -> Mapping[str, tuple[Tensor, Tensor, Tensor]]:
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 2, 2, generator=g)
    targets = (torch.rand(4, 2, 2, generator=g) > 0.5).float()
    labels = torch.tensor([2, 0, 2, 1])
    return {
        "four objects of three classes": (logits, labels, targets),
        "one object": (logits[:1], labels[:1], targets[:1]),
        "logits of 20 and −20": (20 * logits.sign(), labels, targets),
        "no objects": (logits[:0], labels[:0], targets[:0]),
    }


MASK_LOSS = Exercise(
    solution=own_mask_loss,
    wrong={
        "every_channel": (
            _every_channel,
            "You train the other classes' masks to be empty. Only the channel of the object's class has a loss.",
        ),
        "same_target": (
            lambda z, k, t: mask_loss(z, t[:, None].expand_as(z)),
            "You give every class the target. Only the channel of the object's class has a loss.",
        ),
        "softmax": (
            lambda z, k, t: (
                F.nll_loss(z.log_softmax(1), k[:, None, None].expand(-1, *z.shape[2:])) if len(z) else z.sum()
            ),
            "That makes the classes compete in every pixel. Each channel has a sigmoid of its own.",
        ),
        "strongest": (
            _chosen(lambda z, k: z.sum((2, 3)).argmax(1)),
            "You take the channel that is most active. In training the true class chooses.",
        ),
        "first_channel": (
            _chosen(lambda z, k: torch.zeros_like(k)),
            "You take channel 0 for all objects. Each has the channel of its own class.",
        ),
        "shifted": (
            _chosen(lambda z, k: (k - 1) % z.shape[1]),
            "You take the channel before the right one. The mask head has no channel for background: class k is at k.",
        ),
        "all_pairs": (
            lambda z, k, t: mask_loss(z[:, k], t.expand(len(z), *t.shape)) if len(z) else z.sum(),
            "`logits[:, labels]` pairs every object with every label. Pair object n with its own label.",
        ),
        "sum": (
            lambda z, k, t: own_mask_loss(z, k, t) * t.numel(),
            "You sum over the pixels. The mean keeps the loss apart from the number of objects.",
        ),
        "per_object": (
            lambda z, k, t: own_mask_loss(z, k, t) * (t.numel() / max(1, len(t))),
            "You divide by the objects alone. The mean runs over all pixels of all masks.",
        ),
        "not_a_number": (
            lambda z, k, t: F.binary_cross_entropy_with_logits(z[torch.arange(len(z)), k], t),
            "Without objects the mean is 0 / 0. The loss is 0 then.",
        ),
        "sigmoid_twice": (
            lambda z, k, t: own_mask_loss(z.sigmoid(), k, t),
            "You take a sigmoid twice: `binary_cross_entropy_with_logits` has one inside.",
        ),
    },
    right={
        "gathered, with the stable formula": _loss_gathered,
        "object by object": _loss_by_loop,
        "without tensors": _loss_without_tensors,
    },
    probes=_mask_logits,
    verify=trains_all(own_mask_loss, _mask_logits, ["The gradient must flow back to the logits of the right channel."]),
    hint="Pick one (M, M) mask for each object, by its class; then the mean of the binary cross-entropy over them.",
    sketch="""
        own = logits[..., labels]                 # (F, M, M): which index comes first?
        if ...:                                   # no objects
            return own.sum()                      # 0, and still part of the graph
        return F.binary_cross_entropy_with_logits(...)
    """,
)


EXERCISES: dict[str, Exercise] = {
    "ch10.sample": SAMPLE,
    "ch10.targets": TARGETS,
    "ch10.mask_targets": MASK_TARGETS,
    "ch10.mask_loss": MASK_LOSS,
}
