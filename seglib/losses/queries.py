"""The loss of a set of queries: each object is answered by one query, all others say "no object".

Source: Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, section 3.1; Cheng et al.,
"Masked-attention Mask Transformer for Universal Image Segmentation", CVPR 2022, sections 3.2 and 4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.losses.hungarian import hungarian, matching_cost
from seglib.losses.points import point_mask_loss
from seglib.ops.points import features_at_points, sample_at_points, uncertain_points, uniform_points
from seglib.ops.precision import at_least_float32
from seglib.ops.processes import mean_over_processes


@dataclass(frozen=True, eq=False)
class MaskTargets:
    """The G objects of one image that queries are to find: things, stuff, or both.

    Attributes:
        labels: class of each object, ``(G,)`` int64.
        masks: mask of each object, ``(G, H, W)`` bool, each with at least one pixel.
        void: pixels that count nowhere, ``(H, W)`` bool.
    """

    labels: Tensor
    masks: Tensor
    void: Tensor


class PointSampler(Protocol):
    """Where masks are compared; :class:`RandomPoints` is one. Points are ``(x, y)`` in [0, 1] of the padded image."""

    def for_matching(self, image: int, layers: int, count: int, device: torch.device) -> Tensor:
        """Points ``(layers, count, 2)`` at which all queries meet all objects of an image."""

    def for_loss(
        self,
        image: int,
        layers: int,
        objects: int,
        count: int,
        logits_at: Callable[[Tensor], Tensor],
        known_at: Callable[[Tensor], Tensor],
        device: torch.device,
    ) -> Tensor:
        """Points ``(layers · objects, count, 2)`` at which each matched query meets its object."""


class RandomPoints:
    """Uniform points for the matching; for the loss mostly those where the mask is least sure (PointRend).

    Args:
        oversample: how many times as many points are drawn as are kept.
        share: share of the points that are the least sure ones of those drawn; the others are uniform.
    """

    def __init__(self, oversample: float = 3.0, share: float = 0.75) -> None:
        self.oversample, self.share = oversample, share

    def for_matching(self, image: int, layers: int, count: int, device: torch.device) -> Tensor:
        """Uniform points ``(layers, count, 2)``."""
        return uniform_points(layers, count, device)

    def for_loss(
        self,
        image: int,
        layers: int,
        objects: int,
        count: int,
        logits_at: Callable[[Tensor], Tensor],
        known_at: Callable[[Tensor], Tensor],
        device: torch.device,
    ) -> Tensor:
        """Points ``(layers · objects, count, 2)``; void ones come last."""
        return uncertain_points(
            logits_at,
            layers * objects,
            count,
            oversample=self.oversample,
            share=self.share,
            known_at=known_at,
            device=device,
        )


@dataclass(frozen=True)
class SetLossSettings:
    """Weights and sizes of the loss.

    Attributes:
        num_points: number of points P at which masks are compared.
        class_weight: weight of the class loss, and of the class in the matching cost.
        mask_weight: weight of the binary cross-entropy of masks, in both.
        dice_weight: weight of the Dice loss, in both.
        no_object_weight: weight of "no object" in the class loss. The loss is a weighted mean, so that 90 queries
            without an object and 10 with one share it as 9 to 10.
    """

    num_points: int = 12544
    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object_weight: float = 0.1

    def __post_init__(self) -> None:
        if self.num_points < 1:
            raise ValueError(f"num_points must be at least 1, got {self.num_points}")


def match_queries(
    class_logits: Tensor, mask_embeddings: Tensor, mask_features: Tensor, target: MaskTargets, points: Tensor,
    settings: SetLossSettings,
) -> Tensor:  # fmt: skip
    """The query of each object of one image, for every layer.

    Args:
        class_logits: class logits of every layer, ``(L, Q, K + 1)``.
        mask_embeddings: mask embeddings of every layer, ``(L, Q, C)``.
        mask_features: features of the image, ``(C, h, w)``.
        target: the G objects.
        points: where masks are compared, ``(L, P, 2)``.
        settings: the weights of the cost.

    Returns:
        ``(L, G)`` int64: the query of each object, −1 where there are more objects than queries.
    """
    layers, objects = len(class_logits), len(target.labels)
    found = torch.full((layers, objects), -1, dtype=torch.int64)
    if objects == 0:
        return found.to(class_logits.device)
    masks, costs = target.masks[None].float(), []
    for classes, embeddings, at in zip(class_logits, mask_embeddings, points, strict=True):
        cost = matching_cost(
            classes,
            embeddings @ features_at_points(mask_features, at).mT,  # (Q, P)
            target.labels,
            sample_at_points(masks, at[None])[0],  # (G, P)
            known_at(target.void, at[None])[0],
            class_weight=settings.class_weight,
            mask_weight=settings.mask_weight,
            dice_weight=settings.dice_weight,
        )
        costs.append(cost)
    for layer, cost in enumerate(torch.stack(costs).cpu()):  # one copy for all layers
        query, index = hungarian(cost)
        found[layer, index] = query
    return found.to(class_logits.device)


Matcher = Callable[[Tensor, Tensor, Tensor, MaskTargets, Tensor, SetLossSettings], Tensor]
"""Arguments and result of :func:`match_queries`."""


def known_at(void: Tensor, points: Tensor) -> Tensor:
    """1 at points ``(N, P, 2)`` that no void pixel has a part in, else 0: ``(N, P)`` float."""
    at = sample_at_points(void[None, None].float(), points.reshape(1, -1, 2))[0, 0]  # (N·P,)
    return (at == 0).float().view(points.shape[:2])


def set_losses(
    class_logits: Tensor,
    mask_embeddings: Tensor,
    mask_features: Tensor,
    targets: Sequence[MaskTargets],
    *,
    settings: SetLossSettings,
    sampler: PointSampler,
    matcher: Matcher = match_queries,
) -> tuple[Tensor, Tensor, Tensor]:
    """The losses of every layer, each against a matching of its own (deep supervision); not yet weighted.

    - class: cross-entropy over all queries, weighted by the class: ``no_object_weight`` for "no object". It is divided
      by the sum of the weights.
    - mask: the mean binary cross-entropy over the points of an object, summed over objects and divided by their number.
    - dice: ``1 − (2 Σ p t + 1) / (Σ p + Σ t + 1)`` over the points of an object, averaged alike.

    The number of objects and the sum of weights are means over processes, so that several processes give the loss of
    one with all images.

    Args:
        class_logits: class logits of every layer, ``(L, B, Q, K + 1)``, "no object" last.
        mask_embeddings: mask embeddings of every layer, ``(L, B, Q, C)``.
        mask_features: features of the images, ``(B, C, h, w)``; a mask is the product of its embedding and these.
        targets: the objects of each image, of the size of the padded images.
        settings: number of points and the weight of "no object".
        sampler: draws points.
        matcher: gives each object its query.

    Returns:
        Three tensors ``(L,)`` float32: class, mask and dice.
    """
    with torch.autocast(class_logits.device.type, enabled=False):  # sums over thousands of points
        classes, embeddings, features = map(at_least_float32, (class_logits, mask_embeddings, mask_features))
        return _set_losses(classes, embeddings, features, targets, settings, sampler, matcher)


def _set_losses(
    class_logits: Tensor, mask_embeddings: Tensor, mask_features: Tensor, targets: Sequence[MaskTargets],
    settings: SetLossSettings, sampler: PointSampler, matcher: Matcher,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    layers, batch, queries, outputs = class_logits.shape
    classes = torch.full((layers, batch, queries), outputs - 1, device=class_logits.device)
    level = torch.arange(layers, device=classes.device)[:, None]  # (L, 1)
    count = mean_over_processes(class_logits.new_tensor(sum(len(t.labels) for t in targets))).clamp(min=1)
    bce, dice = [], []
    for i, target in enumerate(targets):
        matching = sampler.for_matching(i, layers, settings.num_points, classes.device)
        with torch.no_grad():
            query = matcher(
                class_logits[:, i], mask_embeddings[:, i], mask_features[i], target, matching, settings
            )  # (L, G)
        found = query >= 0
        rows = (level.expand_as(query)[found], i, query[found])
        classes[rows] = target.labels.expand_as(query)[found]
        losses = _mask_losses(mask_embeddings[:, i], mask_features[i], target, query, i, count, settings, sampler)
        bce.append(losses[0])
        dice.append(losses[1])

    weight = class_logits.new_ones(outputs)
    weight[-1] = settings.no_object_weight
    each = F.cross_entropy(class_logits.flatten(0, 2), classes.flatten(), weight, reduction="none")
    total = mean_over_processes(weight[classes].sum((1, 2)))  # (L,)
    return each.view(layers, -1).sum(1) / total, torch.stack(bce).sum(0), torch.stack(dice).sum(0)


def _mask_losses(
    embeddings: Tensor, features: Tensor, target: MaskTargets, query: Tensor, image: int, count: Tensor,
    settings: SetLossSettings, sampler: PointSampler,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Cross-entropy and Dice ``(L,)`` of the masks of one image's objects, of embeddings ``(L, Q, C)``."""
    layers, objects = query.shape
    own = embeddings.take_along_dim(query.clamp(min=0)[..., None], 1)  # (L, G, C)
    maps = torch.einsum("lgc,chw->lghw", own, features).flatten(0, 1)[:, None]  # (L·G, 1, h, w)

    def logits_at(points: Tensor) -> Tensor:
        return sample_at_points(maps, points)[:, 0]

    points = sampler.for_loss(
        image, layers, objects, settings.num_points, logits_at, lambda p: known_at(target.void, p), maps.device
    )
    # every mask is cast to floats once, and read at the points of all layers
    of_object = points.unflatten(0, (layers, objects)).transpose(0, 1).flatten(1, 2)  # (G, L·P, 2)
    inside = sample_at_points(target.masks[:, None].float(), of_object)[:, 0]  # (G, L·P)
    inside = inside.unflatten(1, (layers, -1)).transpose(0, 1)  # (L, G, P)
    known = known_at(target.void, points).unflatten(0, (layers, objects))  # (L, G, P)
    known = known * (query >= 0)[..., None]  # an object without a query trains nothing
    logits = logits_at(points).unflatten(0, (layers, objects))  # (L, G, P)
    return point_mask_loss(logits, inside, known, count)
