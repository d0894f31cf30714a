"""From queries to results: each query says a class and draws a mask; three rules turn them into three answers.

Source: Cheng, Schwing, Kirillov, "Per-Pixel Classification is Not All You Need for Semantic Segmentation", NeurIPS
2021, section 3.4; Cheng, Misra, Schwing, Kirillov, Girdhar, "Masked-attention Mask Transformer for Universal Image
Segmentation", CVPR 2022, section 4. The papers leave thresholds and ties open; the published code decides them here.

Q queries, K classes; column K of the class logits is "no object".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.ops.masks import masks_to_boxes
from seglib.ops.precision import at_least_float32, widest_float
from seglib.ops.resize import crop_to
from seglib.types import Instances, Panoptic, Segment, Semantic

CHUNK = 2**24
"""Pixels of mask logits that are upsampled at once: 64 MB of float32. All of 100 queries at 1024×1024 take 400 MB."""

Impl = Literal["fast", "reference"]


@dataclass(frozen=True)
class QuerySettings:
    """The thresholds of the panoptic rule.

    Attributes:
        object_threshold: probability in [0, 1] that the best class of a query must exceed.
        overlap_threshold: share in [0, 1] of its own mask that a query must win against the others. The published code
            counts the pixels where it has the highest value, inside and outside its mask, over the area of its mask.

    Raises:
        ValueError: for a threshold outside [0, 1].
    """

    object_threshold: float = 0.8
    overlap_threshold: float = 0.8

    def __post_init__(self) -> None:
        for name in ("object_threshold", "overlap_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} lies in [0, 1], got {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class QueryMasks:
    """Masks of N objects as logits of low resolution: :class:`~seglib.types.PackedMasks`.

    ::

        logits (N, h, w) ─ bilinear ─► canvas (Hp, Wp) ─ without padding ─► (H, W) ─ bilinear ─► (Ho, Wo) ─► > 0

    Attributes:
        logits: mask logits, ``(N, h, w)``.
        canvas: size ``(Hp, Wp)`` that the logits cover: the image and its padding.
        image_size: size ``(H, W)`` of the image at the canvas's top left.
        size: size ``(Ho, Wo)`` in which masks are wanted.

    Raises:
        ValueError: when the logits have another shape or the image is larger than the canvas.
    """

    logits: Tensor
    canvas: tuple[int, int]
    image_size: tuple[int, int]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if self.logits.ndim != 3:
            raise ValueError(f"mask logits are (N, h, w), got {tuple(self.logits.shape)}; pass those of one image")
        if self.image_size[0] > self.canvas[0] or self.image_size[1] > self.canvas[1]:
            raise ValueError(f"an image of {self.image_size} doesn't fit into the batch's size {self.canvas}")

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, index: Tensor | slice) -> QueryMasks:
        """The masks picked by a slice, a bool mask ``(N,)`` or int indices, still as logits."""
        return self._map(lambda logits: logits[index])

    def dense(self) -> Tensor:
        """The masks, bool ``(N, Ho, Wo)``."""
        out = torch.empty(len(self), *self.size, dtype=torch.bool, device=self.logits.device)
        for part, logits in self.parts():
            torch.gt(logits, 0, out=out[part])
        return out

    def parts(self) -> Iterator[tuple[slice, Tensor]]:
        """A few masks at a time: which, and their logits ``(n, Ho, Wo)`` in float32."""
        step = max(1, CHUNK // (max(self.canvas[0], self.size[0]) * max(self.canvas[1], self.size[1])))
        for begin in range(0, len(self), step):
            part = slice(begin, min(begin + step, len(self)))
            yield part, self[part].resized()

    def resized(self) -> Tensor:
        """All logits at the output's size, ``(N, Ho, Wo)`` in float32."""
        maps = at_least_float32(self.logits)[:, None]  # (N, 1, h, w)
        maps = crop_to(F.interpolate(maps, self.canvas, mode="bilinear", align_corners=False), self.image_size)
        if self.image_size != self.size:
            maps = F.interpolate(maps, self.size, mode="bilinear", align_corners=False)
        return maps[:, 0]

    def _map(self, change: Callable[[Tensor], Tensor]) -> QueryMasks:
        return replace(self, logits=change(self.logits))


@torch.no_grad()
def semantic_scores(
    class_logits: Tensor,
    mask_logits: Tensor,
    canvas: Sequence[int],
    size: Sequence[int],
    output_size: Sequence[int],
    *,
    impl: Impl = "fast",
) -> Tensor:
    r"""How much all queries together speak for each class at each pixel.

    .. math:: s_c(x) = \sum_q p_q(c) \, \sigma(m_q(x)), \quad c < K

    where :math:`p_q` is the softmax over the K classes and "no object". The sum over classes is not 1: it is near 0
    where no query has a mask and above 1 where several have.

    Args:
        class_logits: class logits of the queries of one image, ``(Q, K + 1)``; Q may be 0.
        mask_logits: mask logits of the queries, ``(Q, h, w)``.
        canvas: size of the batch's images that the masks cover, padding included.
        size: true size ``(H, W)`` of the image.
        output_size: size ``(Ho, Wo)`` in which the result is wanted.
        impl: "reference" upsamples all masks at once; "fast" adds up a few at a time. Equal up to rounding.

    Returns:
        ``(K, Ho, Wo)`` float32, each in [0, Q].

    Raises:
        ValueError: when shapes don't match or ``impl`` is unknown.
    """
    masks = _checked(class_logits, mask_logits, canvas, size, output_size, impl)
    weights = _class_probs(class_logits)[:, :-1]  # (Q, K)
    if impl == "reference":
        return torch.einsum("qk,qhw->khw", weights, masks.resized().sigmoid())
    scores = weights.new_zeros(weights.shape[1], *masks.size)  # (K, Ho, Wo)
    for part, logits in masks.parts():
        scores.flatten(1).addmm_(weights[part].T, logits.sigmoid_().flatten(1))
    return scores


def semantic_from_queries(
    class_logits: Tensor,
    mask_logits: Tensor,
    canvas: Sequence[int],
    size: Sequence[int],
    output_size: Sequence[int],
    *,
    impl: Impl = "fast",
) -> Semantic:
    """The class with the highest :func:`semantic_scores` at each pixel, of equal ones the first.

    ``probs`` are the scores divided by their sum over the classes, so that they are comparable to those of other
    models; where all scores are 0, every class has 1 / K. Arguments and errors as in :func:`semantic_scores`.
    """
    scores = semantic_scores(class_logits, mask_logits, canvas, size, output_size, impl=impl)
    labels = scores.argmax(0)  # (Ho, Wo)
    scores += torch.finfo(scores.dtype).tiny  # lost in rounding, except where all are 0
    return Semantic(labels, scores.div_(scores.sum(0)))


@torch.no_grad()
def panoptic_from_queries(
    class_logits: Tensor,
    mask_logits: Tensor,
    canvas: Sequence[int],
    size: Sequence[int],
    output_size: Sequence[int],
    *,
    num_things: int,
    settings: QuerySettings | None = None,
    impl: Impl = "fast",
) -> Panoptic:
    """At most one segment for every pixel, by the published code's rule.

    1. A query takes part if its best class isn't "no object" and has a probability p above ``object_threshold``.
    2. A pixel goes to the query with the highest p × mask probability, of equal ones the first.
    3. A query is dropped if the number of its pixels, over the area of its mask (probability ≥ ½), is below
       ``overlap_threshold``.
    4. What it keeps is where both hold: the pixel went to it and lies in its mask. Without such a pixel there is no
       segment.
    5. The queries of one stuff class are one segment; every query of a thing is its own.

    All other pixels are void. Ids count from 1 in the order of the queries. Things carry p as their score.

    In step 3 a query's pixels may lie outside its mask, so the share may exceed 1: a query that has the highest, though
    low, value on background isn't dropped for losing half of its mask.

    Args:
        class_logits: class logits of the queries of one image, ``(Q, K + 1)``; Q may be 0.
        mask_logits: mask logits of the queries, ``(Q, h, w)``.
        canvas: size of the batch's images that the masks cover, padding included.
        size: true size ``(H, W)`` of the image.
        output_size: size ``(Ho, Wo)`` in which the map is wanted.
        num_things: number of things in the class table: category ids below it are things.
        settings: the thresholds; ``QuerySettings()`` when not given.
        impl: "reference" upsamples all masks at once and goes through the queries; "fast" upsamples a few at a time and
            counts all segments at once. Both give the same map.

    Raises:
        ValueError: when shapes don't match, ``num_things`` is outside [0, K] or ``impl`` is unknown.
    """
    masks = _checked(class_logits, mask_logits, canvas, size, output_size, impl, num_things)
    s = settings or QuerySettings()
    scores, labels = _class_probs(class_logits).max(1)  # (Q,)
    kept = (labels < class_logits.shape[1] - 1) & (scores > s.object_threshold)
    scores, labels, masks = scores[kept], labels[kept], masks[kept]  # N queries
    winner, won, area, written = (_contest_whole if impl == "reference" else _contest)(masks, scores)
    share = won.to(widest_float(won.device)) / area  # not finite where the mask is empty, and nothing is written there
    found = (written > 0) & (share >= s.overlap_threshold)

    ids, segments, stuff = [0] * (1 + len(masks)), list[Segment](), dict[int, int]()
    where = found.nonzero()[:, 0]
    described = zip(
        where.tolist(), labels[where].tolist(), scores[where].tolist(), written[where].tolist(), strict=True
    )
    for query, label, score, pixels in described:
        isthing = label < num_things
        if not isthing and label in stuff:
            ids[1 + query] = stuff[label]
            first = segments[stuff[label] - 1]
            segments[first.id - 1] = replace(first, area=first.area + pixels)
            continue
        ids[1 + query] = len(segments) + 1
        segments.append(Segment(len(segments) + 1, label, isthing, pixels, score if isthing else None))
        if not isthing:
            stuff[label] = len(segments)
    return Panoptic(torch.tensor(ids, dtype=torch.int32, device=winner.device)[winner], segments)


def _contest(masks: QueryMasks, scores: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Who gets each pixel.

    Returns:
        The query that gets each pixel, counted from 1, 0 where none has it in its mask, ``(Ho, Wo)`` int64; and for
        each query how many pixels it has the highest value at, the area of its mask, and how many pixels it gets, all
        ``(N,)`` int64.
    """
    best = scores.new_full(masks.size, -torch.inf)  # (Ho, Wo)
    winner = torch.zeros(masks.size, dtype=torch.int64, device=scores.device)
    inside = torch.zeros_like(winner, dtype=torch.bool)
    areas = [winner.new_zeros(0)]
    for part, logits in masks.parts():
        probs = logits.sigmoid_()  # (n, Ho, Wo)
        in_mask = probs >= 0.5
        areas.append(in_mask.flatten(1).sum(1))
        value, index = probs.mul_(scores[part, None, None]).max(0)
        better = value > best
        winner = torch.where(better, index + (1 + part.start), winner)
        inside = torch.where(better, in_mask.gather(0, index[None])[0], inside)
        best = best.maximum(value)
    count = 1 + len(masks)
    won = winner.flatten().bincount(minlength=count)
    winner = winner * inside
    written = winner.flatten().bincount(minlength=count)
    return winner, won[1:], torch.cat(areas), written[1:]


def _contest_whole(masks: QueryMasks, scores: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same with all masks at once, query after query."""
    probs = masks.resized().sigmoid()  # (N, Ho, Wo)
    winner = torch.zeros(masks.size, dtype=torch.int64, device=scores.device)
    counts = winner.new_zeros(3, len(masks))
    best = (probs * scores[:, None, None]).argmax(0) if len(masks) else winner  # (Ho, Wo)
    for k in range(len(masks)):
        highest, in_mask = best == k, probs[k] >= 0.5
        winner[highest & in_mask] = k + 1
        counts[:, k] = torch.stack([highest.sum(), in_mask.sum(), (highest & in_mask).sum()])
    return winner, *counts


@torch.no_grad()
def instances_from_queries(
    class_logits: Tensor,
    mask_logits: Tensor,
    canvas: Sequence[int],
    size: Sequence[int],
    output_size: Sequence[int],
    *,
    num_things: int,
    max_detections: int = 100,
) -> Instances:
    """The best pairs of a query and a class, by falling score; their masks stay logits until they are asked for.

    1. Of all Q·K pairs the ``max_detections`` with the highest class probability; a query may come with several
       classes.
    2. Of these the things: stuff takes places without being shown, as in the published code.
    3. The mask is where the logit exceeds 0; the score is the class probability times the mean mask probability there.

    The published code keeps an empty mask, with score 0 and a box without area. Here it is dropped: nothing was found.
    Boxes are those around the masks.

    Args:
        class_logits: class logits of the queries of one image, ``(Q, K + 1)``; Q may be 0.
        mask_logits: mask logits of the queries, ``(Q, h, w)``.
        canvas: size of the batch's images that the masks cover, padding included.
        size: true size ``(H, W)`` of the image.
        output_size: size ``(Ho, Wo)`` in which boxes and masks are wanted.
        num_things: number of things in the class table: category ids below it are things.
        max_detections: largest number of pairs, at least 1.

    Raises:
        ValueError: when shapes don't match, ``num_things`` is outside [0, K] or ``max_detections`` is below 1.
    """
    masks = _checked(class_logits, mask_logits, canvas, size, output_size, "fast", num_things)
    if max_detections < 1:
        raise ValueError(f"max_detections must be at least 1, got {max_detections}")
    probs = _class_probs(class_logits)[:, :-1]  # (Q, K)
    scores, pair = probs.flatten().topk(min(max_detections, probs.numel()))  # (N,)
    queries, labels = pair // probs.shape[1], pair % probs.shape[1]
    thing = labels < num_things
    scores, queries, labels = scores[thing], queries[thing], labels[thing]

    drawn, own = queries.unique(return_inverse=True)  # (D,) a query's mask is measured once, however many its classes
    areas, means, boxes = scores.new_zeros(len(drawn)), scores.new_zeros(len(drawn)), scores.new_zeros(len(drawn), 4)
    for part, logits in masks[drawn].parts():
        mask = logits > 0  # (n, Ho, Wo)
        boxes[part], areas[part] = masks_to_boxes(mask).to(boxes.dtype), mask.flatten(1).sum(1).to(areas.dtype)
        means[part] = logits.sigmoid_().mul_(mask).flatten(1).sum(1) / areas[part].clamp(min=1)
    scores, order = (scores * means[own]).sort(descending=True, stable=True)
    order, scores = order[filled := areas[own[order]] > 0], scores[filled]
    return Instances(masks[queries[order]], labels[order], boxes[own[order]], scores)


def _class_probs(class_logits: Tensor) -> Tensor:
    """``(Q, K + 1)`` float32."""
    return at_least_float32(class_logits).softmax(1)


def _checked(
    class_logits: Tensor,
    mask_logits: Tensor,
    canvas: Sequence[int],
    size: Sequence[int],
    output_size: Sequence[int],
    impl: str,
    num_things: int | None = None,
) -> QueryMasks:
    """The masks, once everything fits."""
    if impl not in ("fast", "reference"):
        raise ValueError(f"impl {impl!r} is unknown; choose one of fast, reference")
    if class_logits.ndim != 2 or class_logits.shape[1] < 2 or mask_logits.shape[:1] != class_logits.shape[:1]:
        raise ValueError(
            "expected class logits (Q, K + 1), the last for no object, and mask logits (Q, h, w) of one image, got "
            f"{tuple(class_logits.shape)} and {tuple(mask_logits.shape)}"
        )
    if num_things is not None and not 0 <= num_things < class_logits.shape[1]:
        raise ValueError(f"num_things is at most the {class_logits.shape[1] - 1} classes, got {num_things}")
    canvas_size, image_size, wanted = ((int(s[0]), int(s[1])) for s in (canvas, size, output_size))
    return QueryMasks(mask_logits.detach(), canvas_size, image_size, wanted)
