"""Chapter 15, "Queries": the pieces and exercises on the masks that queries give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.book.exercise import Exercise
from seglib.book.exercises.verify import trains_all
from seglib.losses.points import point_mask_loss

# Piece 3: one mask a query -------------------------------------------------------------------------------------------


def masks_of(embeddings: Tensor, features: Tensor) -> Tensor:
    """Embeddings ``(B, Q, C)``, features ``(B, C, H, W)`` → mask logits ``(B, Q, H, W)``."""
    return torch.einsum("bqc,bchw->bqhw", embeddings, features)


def _by_matmul(embeddings: Tensor, features: Tensor) -> Tensor:
    return (embeddings @ features.flatten(2)).unflatten(2, features.shape[2:])


def _by_convolution(embeddings: Tensor, features: Tensor) -> Tensor:
    pairs = zip(embeddings, features, strict=True)
    return torch.stack([F.conv2d(x[None], e[:, :, None, None])[0] for e, x in pairs])


def _by_loops(embeddings: Tensor, features: Tensor) -> list[list[Tensor]]:
    return [[(q[:, None, None] * x).sum(0) for q in e] for e, x in zip(embeddings, features, strict=True)]


def _by_numpy(embeddings: Tensor, features: Tensor) -> np.ndarray:
    return np.tensordot(embeddings.numpy(), features.numpy(), (2, 1))[
        np.arange(len(embeddings)), :, np.arange(len(embeddings))
    ]


def _maps() -> Mapping[str, tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(3)

    def case(batch: int, queries: int, channels: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        return (
            torch.randn(batch, queries, channels, generator=draw),
            torch.randn(batch, channels, *size, generator=draw),
        )

    return {
        "two images, three queries": case(2, 3, 4, (2, 5)),
        "as many queries as channels": case(2, 4, 4, (3, 3)),
        "one image, one query, one pixel": case(1, 1, 3, (1, 1)),
        "a square map of as many pixels as channels": case(3, 2, 4, (4, 4)),
    }


_EMBEDDINGS_CUT = "No gradient reaches the embeddings, and the queries would never learn their masks: no `detach`."
_FEATURES_CUT = "No gradient reaches the features, and the network that makes them would never learn: no `detach`."

MASKS = Exercise(
    solution=masks_of,
    wrong={
        "probabilities": (
            lambda e, x: masks_of(e, x).sigmoid(),
            "Those are probabilities. Return logits: the losses take them as they are.",
        ),
        "hard": (lambda e, x: masks_of(e, x) > 0, "Those are masks of 0 and 1. Return logits, which can be trained."),
        "over_queries": (
            lambda e, x: masks_of(e, x).softmax(1),
            "The queries compete for each pixel in your softmax. Each mask stands by itself: return logits.",
        ),
        "scaled": (
            lambda e, x: masks_of(e, x) / e.shape[2] ** 0.5,
            "You divide by √C, as attention does. A mask's logit is the plain dot product.",
        ),
        "mean": (
            lambda e, x: masks_of(e, x) / e.shape[2],
            "You take the mean over the channels. The dot product is their sum.",
        ),
        "cosine": (
            lambda e, x: masks_of(F.normalize(e, dim=2), F.normalize(x, dim=1)),
            "You compare directions alone. The logit is the dot product of the vectors as they are.",
        ),
        "added": (
            lambda e, x: (e[:, :, :, None, None] + x[:, None]).sum(2),
            "You add embedding and feature. Multiply them, channel by channel, before the sum.",
        ),
        "not_summed": (
            lambda e, x: e[:, :, :, None, None] * x[:, None],
            "The products of the channels are not added up: (B, Q, H, W) comes out.",
        ),
        "first_image_for_all": (
            lambda e, x: torch.einsum("bqc,chw->bqhw", e, x[0]),
            "All queries meet the features of the first image. Each image has its own.",
        ),
        "first_queries_for_all": (
            lambda e, x: masks_of(e[:1].expand_as(e), x),
            "The embeddings of the first image meet all features. Each image has its own.",
        ),
        "all_images": (
            lambda e, x: torch.einsum("bqc,dchw->bqhw", e, x),
            "You add up the features of all images. Those of the query's own image count.",
        ),
        "mean_query": (
            lambda e, x: torch.einsum("bc,bchw->bhw", e.mean(1), x)[:, None].expand(-1, e.shape[1], -1, -1),
            "All queries have one mask in your answer. Each has its own.",
        ),
        "size_swapped": (
            lambda e, x: masks_of(e, x).mT,
            "Height and width are swapped.",
        ),
        "queries_last": (
            lambda e, x: torch.einsum("bqc,bchw->bhwq", e, x),
            "Your queries stand on the last axis. They come second: (B, Q, H, W).",
        ),
        "flat": (
            lambda e, x: e @ x.flatten(2),
            "Your pixels stand in one row. Give them height and width again: (B, Q, H, W).",
        ),
        "embeddings_cut": (lambda e, x: masks_of(e.detach(), x), _EMBEDDINGS_CUT),
        "features_cut": (lambda e, x: masks_of(e, x.detach()), _FEATURES_CUT),
    },
    right={"matmul": _by_matmul, "a 1 × 1 convolution": _by_convolution, "loops": _by_loops, "NumPy": _by_numpy},
    probes=_maps,
    verify=trains_all(masks_of, _maps, [_EMBEDDINGS_CUT, _FEATURES_CUT]),
    hint="The logit of query q at a pixel is the dot product of the query's embedding and the pixel's feature.",
    sketch="""
        return torch.einsum("bqc,bchw->...", embeddings, features)
    """,
)


# A class for every pixel ---------------------------------------------------------------------------------------------


def semantic(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Class logits ``(Q, K + 1)``, mask logits ``(Q, H, W)`` → the class of each pixel, ``(H, W)``."""
    return _semantic(class_logits, mask_logits)


def _semantic(
    class_logits: Tensor,
    mask_logits: Tensor,
    *,
    classes: Callable[[Tensor], Tensor] = lambda z: z.softmax(1)[:, :-1],
    masks: Callable[[Tensor], Tensor] = torch.sigmoid,
    joined: Callable[[Tensor, Tensor], Tensor] = lambda p, m: torch.einsum("qk,qhw->khw", p, m),
) -> Tensor:
    """``semantic`` with other probabilities, other masks, or another way to join them."""
    return joined(classes(class_logits), masks(mask_logits)).argmax(0)


def _semantics(**changes: Any) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda class_logits, mask_logits: _semantic(class_logits, mask_logits, **changes)


def _one_hot_classes(z: Tensor) -> Tensor:
    return F.one_hot(z.argmax(1), z.shape[1])[:, :-1].float()


def _class_of_the_best_mask(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    return class_logits[:, :-1].argmax(1)[mask_logits.argmax(0)]


def _class_of_the_best_query(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    probs, labels = class_logits.softmax(1)[:, :-1].max(1)
    return labels[(probs[:, None, None] * mask_logits.sigmoid()).argmax(0)]


def _semantic_by_loops(class_logits: Tensor, mask_logits: Tensor) -> list[list[int]]:
    probs, masks = class_logits.softmax(1).tolist(), mask_logits.sigmoid().tolist()
    height, width = mask_logits.shape[1:]
    out = []
    for y in range(height):
        row = []
        for x in range(width):
            scores = [sum(p[k] * m[y][x] for p, m in zip(probs, masks, strict=True)) for k in range(len(probs[0]) - 1)]
            row.append(scores.index(max(scores)))
        out.append(row)
    return out


def _semantic_numpy(class_logits: Tensor, mask_logits: Tensor) -> np.ndarray:
    z = np.exp(class_logits.numpy())
    probs = (z / z.sum(1, keepdims=True))[:, :-1]
    masks = 1 / (1 + np.exp(-mask_logits.numpy()))
    return np.tensordot(probs, masks, (0, 0)).argmax(0)


def _semantic_in_place(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    mask_logits.sigmoid_()
    probs = torch.softmax(class_logits, 1).T[:-1]
    return (probs @ mask_logits.flatten(1)).argmax(0).view(mask_logits.shape[1:])


def _answers() -> Mapping[str, tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(7)

    def case(queries: int, classes: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        return (
            2 * torch.randn(queries, classes + 1, generator=draw),
            3 * torch.randn(queries, *size, generator=draw),
        )

    sure = torch.tensor([[4.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 1.5, 0.0]])
    one = torch.tensor([[[3.0, -3.0]], [[2.0, 2.0]], [[2.0, 2.0]]])
    return {
        "five queries and three classes": case(5, 3, (4, 6)),
        "six queries and two classes": case(6, 2, (5, 5)),
        "two queries that agree against one": (sure, one),
        "queries that mostly say no object": (
            torch.tensor([[0.0, 1.0, 5.0], [1.0, 0.0, 6.0]]),
            torch.tensor([[[2.0, -2.0]], [[1.0, 3.0]]]),
        ),
        "a sure query with a small mask": (
            torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]]),
            torch.tensor([[[2.0, 0.5, -9.0, -9.0]], [[-1.0, 3.0, 3.0, 3.0]]]),
        ),
        "one query": case(1, 4, (2, 3)),
    }


SEMANTIC = Exercise(
    solution=semantic,
    wrong={
        "no_object_as_a_class": (
            _semantics(classes=lambda z: z.softmax(1)),
            "“No object” became a class of pixels. Leave its probability out before the argmax.",
        ),
        "softmax_without_no_object": (
            _semantics(classes=lambda z: z[:, :-1].softmax(1)),
            "You left “no object” out before the softmax, so a query that sees nothing speaks as loudly as one that is "
            "sure. Take the softmax over all K + 1, then leave it out.",
        ),
        "classes_over_queries": (
            _semantics(classes=lambda z: z.softmax(0)[:, :-1]),
            "In your softmax the queries compete for each class. Each query has probabilities that sum to 1 over its "
            "K + 1 classes.",
        ),
        "class_sigmoid": (
            _semantics(classes=lambda z: z.sigmoid()[:, :-1]),
            "Your class probabilities come from a sigmoid. They are a softmax over the K + 1 classes.",
        ),
        "class_logits": (
            _semantics(classes=lambda z: z[:, :-1]),
            "You weight with class logits, which can be negative. Take the softmax first.",
        ),
        "one_class_each": (
            _semantics(classes=_one_hot_classes),
            "Each query speaks for its best class alone. It speaks for each class with that class's probability.",
        ),
        "mask_logits": (
            _semantics(masks=lambda z: z),
            "You weight with mask logits, which can be negative. Take their sigmoid first.",
        ),
        "hard_masks": (
            _semantics(masks=lambda z: (z > 0).float()),
            "Your masks are 0 or 1. Weight with the mask's probability.",
        ),
        "softmax_of_masks": (
            _semantics(masks=lambda z: z.softmax(0)),
            "The queries compete for each pixel in your softmax. A mask's probability is its sigmoid.",
        ),
        "mean_mask": (
            _semantics(masks=lambda z: z.sigmoid().mean((1, 2), keepdim=True).expand_as(z)),
            "You take the mean of each mask over its pixels. Every pixel has scores of its own.",
        ),
        "best_query": (
            _class_of_the_best_query,
            "You ask one query at each pixel, as a maximum over them does. All speak: add up what they say.",
        ),
        "at_least_one": (
            _semantics(joined=lambda p, m: 1 - (1 - p[:, :, None, None] * m[:, None]).prod(0)),
            "You take the probability that at least one query is right. The score is the plain sum over the queries.",
        ),
        "share_of_the_mask": (
            _semantics(masks=lambda z: z.sigmoid() / z.sigmoid().mean((1, 2), keepdim=True)),
            "You divide each mask by its size. Add up the probabilities as they are.",
        ),
        "best_mask": (
            _class_of_the_best_mask,
            "You ask the query whose mask is strongest. All speak, each weighted by its class probability.",
        ),
        "added": (
            _semantics(joined=lambda p, m: (p.T[:, :, None, None] + m).sum(1)),
            "You add class and mask probabilities. Multiply them: a query counts where both are high.",
        ),
        "scores": (
            lambda c, m: torch.einsum("qk,qhw->khw", c.softmax(1)[:, :-1], m.sigmoid()),
            "Those are the scores of all classes. Return the class with the highest one.",
        ),
        "weakest": (
            lambda c, m: torch.einsum("qk,qhw->khw", c.softmax(1)[:, :-1], m.sigmoid()).argmin(0),
            "That is the class with the lowest score.",
        ),
    },
    right={"loops": _semantic_by_loops, "NumPy": _semantic_numpy, "in place": _semantic_in_place},
    probes=_answers,
    hint="Class probabilities without “no object”, times mask probabilities, added up over the queries; then argmax.",
    sketch="""
        p = class_logits.softmax(1)[:, ...]       # (Q, K)
        m = mask_logits...                        # (Q, H, W)
        return torch.einsum("qk,qhw->...", p, m).argmax(...)
    """,
)


# Void ----------------------------------------------------------------------------------------------------------------


def void_losses(logits: Tensor, masks: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and masks ``(G, H, W)``, known ``(H, W)`` bool → BCE and Dice loss, means over the objects."""
    weights = known.float().expand_as(masks).flatten(1)
    return point_mask_loss(logits.flatten(1), masks.flatten(1).float(), weights, max(1, len(logits)))


def _void_losses(
    logits: Tensor,
    masks: Tensor,
    known: Tensor,
    *,
    pixels: Callable[[Tensor], Tensor] = lambda known: known.sum().clamp(min=1),
    of_bce: bool = True,
    of_probs: bool = True,
    of_masks: bool = True,
    smooth: float = 1.0,
    count: Callable[[Tensor], float] = lambda masks: max(1, len(masks)),
) -> tuple[Tensor, Tensor]:
    """``void_losses`` with void left in some of its sums, another number of pixels or objects."""
    bce = F.binary_cross_entropy_with_logits(logits, masks.float(), reduction="none")
    bce = (bce * known if of_bce else bce).sum((1, 2)) / pixels(known)
    probs = logits.sigmoid() * known if of_probs else logits.sigmoid()
    truth = masks * known if of_masks else masks.float()
    overlap = (probs * truth).sum((1, 2))
    dice = 1 - (2 * overlap + smooth) / (probs.sum((1, 2)) + truth.sum((1, 2)) + smooth)
    return bce.sum() / count(masks), dice.sum() / count(masks)


def _voids(**changes: Any) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    return lambda logits, masks, known: _void_losses(logits, masks, known, **changes)


def _filled(logits: Tensor, masks: Tensor, known: Tensor, value: float) -> tuple[Tensor, Tensor]:
    return _void_losses(torch.where(known, logits, value), masks, torch.ones_like(known))


def _means(logits: Tensor, masks: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    x, t = logits[:, known], masks[:, known].float()  # (G, P)
    m = x.sigmoid()
    dice = 1 - (2 * (m * t).sum(1) + 1) / (m.sum(1) + t.sum(1) + 1)
    return F.binary_cross_entropy_with_logits(x, t), dice.mean()


def _one_dice(logits: Tensor, masks: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    m, t = logits[:, known].sigmoid(), masks[:, known]
    return void_losses(logits, masks, known)[0], 1 - (2 * (m * t).sum() + 1) / (m.sum() + t.sum() + 1)


def _seen_alone(logits: Tensor, masks: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    seen = masks[:, known].any(1)
    return void_losses(logits[seen], masks[seen], known)


def _void_by_selection(logits: Tensor, masks: Tensor, known: Tensor) -> list[Tensor]:
    x, t = logits[:, known], masks[:, known].float()  # (G, P)
    if not x.numel():
        return [logits.sum() * 0, logits.sum() * 0]
    m = x.sigmoid()
    dice = 1 - (2 * (m * t).sum(1) + 1) / (m.sum(1) + t.sum(1) + 1)
    return [F.binary_cross_entropy_with_logits(x, t), dice.mean()]


def _void_numpy(logits: Tensor, masks: Tensor, known: Tensor) -> tuple[float, float]:
    bces, dices = [0.0], [0.0]
    for x, t in zip(logits.numpy(), masks.numpy().astype(float), strict=True):
        x, t = x[known.numpy()], t[known.numpy()]
        bces.append((np.logaddexp(0, x) - x * t).sum() / max(1, len(x)))
        m = 1 / (1 + np.exp(-x))
        dices.append(1 - (2 * (m * t).sum() + 1) / (m.sum() + t.sum() + 1))
    return sum(bces) / max(1, len(logits)), sum(dices) / max(1, len(logits))


def _void_in_place(logits: Tensor, masks: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    masks &= known
    logits = logits.masked_fill(~known, -100.0)  # exp(-100) is 0 in float32
    bce = F.binary_cross_entropy_with_logits(logits, masks.float(), reduction="sum")
    m = logits.sigmoid()
    dice = 1 - (2 * (m * masks).sum((1, 2)) + 1) / (m.sum((1, 2)) + masks.sum((1, 2)) + 1)
    return bce / known.sum().clamp(min=1) / max(1, len(masks)), dice.sum() / max(1, len(masks))


def _partly_known() -> Mapping[str, tuple[Tensor, Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(5)

    def case(objects: int, size: tuple[int, int], share: float) -> tuple[Tensor, Tensor, Tensor]:
        return (
            2 * torch.randn(objects, *size, generator=draw),
            torch.rand(objects, *size, generator=draw) < 0.4,
            torch.rand(*size, generator=draw) < share,
        )

    return {
        "three masks and a third of void": case(3, (4, 5), 0.67),
        "one mask and no void": case(1, (3, 4), 1.1),
        "masks and nothing but void": case(2, (3, 3), -0.1),
        "no object": case(0, (3, 4), 0.5),
        "half of void": case(2, (6, 6), 0.5),
        "an object that lies in void": (
            torch.randn(2, 2, 3, generator=draw),
            torch.tensor([[[1, 1, 0], [1, 0, 0]], [[0, 0, 1], [0, 0, 1]]]) > 0,
            torch.tensor([[1, 1, 0], [1, 1, 0]]) > 0,
        ),
    }


VOID_LOSSES = Exercise(
    solution=void_losses,
    wrong={
        "void_as_background": (
            _voids(
                pixels=lambda known: torch.tensor(float(known.numel())),
                of_bce=False,
                of_probs=False,
                of_masks=False,
            ),
            "Void pixels count in your losses: they train as background, or as the object that nobody confirmed.",
        ),
        "void_of_no_object": (
            lambda logits, masks, known: void_losses(logits, masks & known, torch.ones_like(known)),
            "Void pixels train as background in your losses. Leave them out.",
        ),
        "object_in_void_dropped": (
            _seen_alone,
            "You leave out objects that lie in void. They count as the others: all of their known pixels are outside.",
        ),
        "divided_by_all": (
            _voids(pixels=lambda known: torch.tensor(float(known.numel()))),
            "Void pixels are out of your sum, but you divide by all pixels. Divide by the known ones.",
        ),
        "void_in_bce": (
            _voids(of_bce=False),
            "Void pixels still count in the cross-entropy.",
        ),
        "void_in_dice": (
            _voids(of_probs=False, of_masks=False),
            "Void pixels still count in the Dice loss.",
        ),
        "void_in_predicted_size": (
            _voids(of_probs=False),
            "Void pixels still count in the size of the predicted mask.",
        ),
        "void_in_true_size": (
            _voids(of_masks=False),
            "Void pixels still count in the size of the true mask.",
        ),
        "logits_of_void_zero": (
            lambda logits, masks, known: _filled(logits, masks & known, known, 0.0),
            "You set the logits of void to 0. A logit of 0 still costs: log 2 for each pixel. Leave the pixels out.",
        ),
        "no_smoothing": (
            _voids(smooth=0.0),
            "The Dice loss has + 1 above and below the line. Without it a mask without pixels gives 0 / 0.",
        ),
        "divided_by_nothing": (
            _voids(pixels=lambda known: known.sum()),
            "If no pixel is known, you divide by 0. The cross-entropy is 0 then.",
        ),
        "mean_of_nothing": (
            _means,
            "A mean of nothing is NaN. Without a known pixel, or without an object, both losses are 0.",
        ),
        "one_dice": (
            _one_dice,
            "You take one Dice over all masks together. Each mask has its own, and the loss is their mean.",
        ),
        "dice_of_0_and_1": (
            lambda logits, masks, known: (
                void_losses(logits, masks, known)[0],
                void_losses(200 * logits, masks, known)[1],
            ),
            "Your Dice takes masks of 0 and 1. It takes probabilities.",
        ),
        "no_object_divides": (
            _voids(count=lambda masks: torch.tensor(float(len(masks)))),
            "Without an object you divide by 0. Both losses are 0 then.",
        ),
        "sum_of_objects": (
            _voids(count=lambda masks: 1.0),
            "You add up the objects. Take the mean over them.",
        ),
        "sum_of_pixels": (
            _voids(pixels=lambda known: torch.tensor(1.0)),
            "You add up the cross-entropy of the pixels. Take the mean over the known ones.",
        ),
        "swapped": (
            lambda logits, masks, known: void_losses(logits, masks, known)[::-1],
            "The cross-entropy comes first, then the Dice loss.",
        ),
        "similarity": (
            lambda logits, masks, known: (
                void_losses(logits, masks, known)[0],
                1 - void_losses(logits, masks, known)[1],
            ),
            "That is the Dice similarity. The loss is 1 minus it.",
        ),
        "known_reversed": (
            lambda logits, masks, known: void_losses(logits, masks, ~known),
            "You count the void and leave out the rest: `known` is True where a pixel counts.",
        ),
    },
    right={"only the known pixels": _void_by_selection, "NumPy": _void_numpy, "in place": _void_in_place},
    probes=_partly_known,
    hint="Leave void out of every sum, and divide the cross-entropy by the number of known pixels.",
    sketch="""
        x, t = logits[:, known], masks[:, known].float()      # (G, P)
        bce = ...                                 # 0 if there is no known pixel, or no object
        m = x.sigmoid()
        dice = 1 - (2 * (m * t).sum(1) + 1) / ...
        return bce, dice.sum() / max(1, ...)
    """,
)


# What does a set answer? ---------------------------------------------------------------------------------------------

Answer = tuple[int, int, float, float]  # query, class, probability, share of the pixels


def answers(class_logits: Tensor, mask_logits: Tensor, threshold: float) -> list[Answer]:
    """The queries that see something, ``(query, class, probability, share of the pixels)``, by falling probability."""
    return _listed(class_logits, mask_logits, threshold)


def _listed(
    class_logits: Tensor,
    mask_logits: Tensor,
    threshold: float,
    *,
    probs: Callable[[Tensor], Tensor] = lambda z: z.softmax(1),
    none: bool = True,
    enough: Callable[[float, float], bool] = lambda p, least: p > least,
    inside: Callable[[Tensor], Tensor] = lambda z: z > 0,
    order: Callable[[Answer], tuple[float, ...]] = lambda a: (-a[2], a[0]),
    entry: Callable[[Answer], tuple[float, ...]] = lambda a: a,
) -> list[Any]:
    """``answers`` with one step exchanged."""
    found = []
    best, labels = probs(class_logits).max(1)
    for q, (p, k) in enumerate(zip(best.tolist(), labels.tolist(), strict=True)):
        if (k < class_logits.shape[1] - 1 or not none) and enough(p, threshold):
            found.append((q, k, p, float(inside(mask_logits[q]).float().mean())))
    return [entry(a) for a in sorted(found, key=order)]


def _lists(**changes: Any) -> Callable[[Tensor, Tensor, float], list[Any]]:
    return lambda class_logits, mask_logits, threshold: _listed(class_logits, mask_logits, threshold, **changes)


def _without_no_object(class_logits: Tensor, mask_logits: Tensor, threshold: float) -> list[Answer]:
    """The best class of each query, even where "no object" is more likely."""
    out = []
    best, labels = class_logits.softmax(1)[:, :-1].max(1)
    for q in best.argsort(descending=True, stable=True).tolist():
        if best[q] > threshold:
            out.append((q, int(labels[q]), float(best[q]), float((mask_logits[q] > 0).float().mean())))
    return out


def _any_class(class_logits: Tensor, mask_logits: Tensor, threshold: float) -> list[Answer]:
    """The threshold is compared with the probability of all classes together."""
    some = 1 - class_logits.softmax(1)[:, -1]  # (Q,)
    return [a for a in answers(class_logits, mask_logits, -1.0) if some[a[0]] > threshold]


def _pixels_won(class_logits: Tensor, mask_logits: Tensor, threshold: float) -> list[Answer]:
    won = mask_logits.where(mask_logits == mask_logits.amax(0), -1.0)
    return answers(class_logits, won, threshold)


def _answers_tensor(class_logits: Tensor, mask_logits: Tensor, threshold: float) -> list[list[Any]]:
    best, labels = class_logits.softmax(1).max(1)
    kept = ((labels != class_logits.shape[1] - 1) & (best > threshold)).nonzero()[:, 0]
    kept = kept[best[kept].argsort(descending=True, stable=True)]
    shares = (mask_logits[kept] > 0).flatten(1).double().mean(1)
    return [list(row) for row in zip(kept, labels[kept], best[kept], shares, strict=True)]


def _answers_numpy(class_logits: Tensor, mask_logits: Tensor, threshold: float) -> list[tuple[Any, ...]]:
    z = np.exp(class_logits.numpy())
    probs = z / z.sum(1, keepdims=True)
    rows = []
    for q in np.argsort(-probs.max(1), kind="stable"):
        k = probs[q].argmax()
        if k + 1 < probs.shape[1] and probs[q, k] > threshold:
            rows.append((q, k, probs[q, k], np.mean(1 / (1 + np.exp(-mask_logits[int(q)].numpy())) > 0.5)))
    return rows


def _sets() -> Mapping[str, tuple[Tensor, Tensor, float]]:
    draw = torch.Generator().manual_seed(9)

    def case(queries: int, classes: int, threshold: float) -> tuple[Tensor, Tensor, float]:
        return (
            2 * torch.randn(queries, classes + 1, generator=draw),
            torch.randn(queries, 4, 7, generator=draw) + torch.randn(queries, 1, 1, generator=draw),
            threshold,
        )

    nothing = torch.tensor([[0.0, 1.0, 6.0], [2.0, 0.0, 7.0]])
    even = torch.zeros(2, 2).index_fill_(1, torch.tensor([1]), -40.0)  # a probability of exactly 1
    pair = torch.tensor([[0.0, 0.0, 3.0, 0.0], [0.0, 3.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0]])
    border = torch.tensor([[[0.0, 1.0, -1.0, 0.0]], [[0.0, 0.0, 0.0, 0.0]], [[2.0, 1.0, 0.5, 0.0]]])
    return {
        "eight queries": case(8, 3, 0.5),
        "a low threshold": case(7, 2, 0.1),
        "no query that sees something": (nothing, torch.randn(2, 3, 3, generator=draw), 0.2),
        "equal probabilities": (pair, border, 0.3),
        "a probability at the threshold": (even, torch.randn(2, 2, 3, generator=draw), 1.0),
        "a low threshold, and “no object” is likelier": (
            torch.tensor([[1.0, 0.0, 1.5], [3.0, 0.0, 0.0], [0.0, 0.5, 0.9], [0.3, 0.2, 0.0]]),
            torch.randn(4, 2, 2, generator=draw),
            0.2,
        ),
    }


ANSWERS = Exercise(
    solution=answers,
    wrong={
        "no_object_listed": (
            _lists(none=False),
            "You list queries whose best class is “no object”. They see nothing.",
        ),
        "no_object_ignored": (
            _without_no_object,
            "You take the best class without “no object”. A query for which “no object” is likelier sees nothing.",
        ),
        "softmax_without_no_object": (
            lambda c, m, t: _listed(
                torch.cat([c[:, :-1], torch.full_like(c[:, :1], -torch.inf)], 1), m, t, probs=lambda z: z.softmax(1)
            ),
            "Your softmax leaves out “no object”. Take it over all K + 1 classes.",
        ),
        "logits": (
            _lists(probs=lambda z: z),
            "You compare logits with the threshold. Take the softmax over the classes first.",
        ),
        "sigmoid": (
            _lists(probs=torch.sigmoid),
            "Your class probabilities come from a sigmoid. They are a softmax over the K + 1 classes.",
        ),
        "at_the_threshold": (
            _lists(enough=lambda p, least: p >= least),
            "A probability that equals the threshold is not enough: it must be above.",
        ),
        "threshold_of_half": (
            _lists(enough=lambda p, least: p > 0.5),
            "You compare with ½. `threshold` is an argument.",
        ),
        "any_class": (
            _any_class,
            "You compare the probability that it is any class. That of the *best* class must be above the threshold.",
        ),
        "classes_over_queries": (
            _lists(probs=lambda z: z.softmax(0)),
            "In your softmax the queries compete for each class. Take it over the K + 1 classes of each query.",
        ),
        "all_listed": (
            _lists(enough=lambda p, least: True),
            "You list queries of all probabilities. It must be above the threshold.",
        ),
        "zero_inside": (
            _lists(inside=lambda z: z >= 0),
            "A logit of exactly 0 lies outside the mask: it must be above 0.",
        ),
        "logits_above_half": (
            _lists(inside=lambda z: z > 0.5),
            "You compare the mask's logits with ½. A probability of ½ is a logit of 0.",
        ),
        "mean_probability": (
            _lists(inside=torch.sigmoid),
            "Your share is the mean mask probability. Count the pixels whose logit is above 0.",
        ),
        "pixels_won": (
            _pixels_won,
            "Your queries compete for each pixel. Masks may overlap: count every pixel whose logit is above 0.",
        ),
        "rounded": (
            _lists(entry=lambda a: (*a[:2], round(a[2], 2), round(a[3], 2))),
            "You round. Give probability and share as they are.",
        ),
        "counted_from_1": (
            _lists(entry=lambda a: (a[0] + 1, *a[1:])),
            "You count the queries from 1. The first is query 0, as in the tensors.",
        ),
        "probability_last": (
            _lists(entry=lambda a: (a[0], a[1], a[3], a[2])),
            "You swapped probability and share: query, class, probability, share.",
        ),
        "as_they_come": (
            _lists(order=lambda a: (a[0],)),
            "You list the queries by their number. The highest probability comes first.",
        ),
        "rising": (
            _lists(order=lambda a: (a[2], a[0])),
            "The lowest probability comes first in your list. The highest does.",
        ),
        "by_share": (
            _lists(order=lambda a: (-a[3], a[0])),
            "You sort by the share. Sort by the class probability.",
        ),
        "later_of_equals": (
            _lists(order=lambda a: (-a[2], -a[0])),
            "Of equal probabilities the query with the lower number comes first.",
        ),
        "percent": (
            _lists(entry=lambda a: (*a[:3], 100 * a[3])),
            "Your shares are percentages. A share from 0 to 1 is wanted.",
        ),
        "pixels": (
            lambda c, m, t: [(*a[:3], a[3] * m[0].numel()) for a in answers(c, m, t)],
            "Those are numbers of pixels. Divide by the number of all pixels.",
        ),
        "query_missing": (
            _lists(entry=lambda a: a[1:]),
            "The number of the query is missing: query, class, probability, share.",
        ),
    },
    right={"tensors": _answers_tensor, "NumPy": _answers_numpy},
    probes=_sets,
    hint="Softmax over K + 1; keep what is no “no object” and above the threshold; sort by falling probability.",
    sketch="""
        best, labels = class_logits.softmax(1).max(1)
        found = []
        for q in best.argsort(descending=True, stable=True).tolist():
            if labels[q] < ... and best[q] > ...:
                found.append((q, ..., ..., (mask_logits[q] > ...).float().mean()))
        return found
    """,
)
