"""Chapter 15, "Queries": the pieces and exercises on matching queries with objects, and on the loss."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from seglib.book.exercise import Exercise, expect
from seglib.book.exercises.verify import trains_all
from seglib.losses.hungarian import hungarian, matching_cost

# Piece 4: what a pair costs ------------------------------------------------------------------------------------------


def costs(class_logits: Tensor, mask_logits: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
    """Class logits ``(Q, K + 1)``, mask logits ``(Q, H, W)``, G objects → the cost of each pair, ``(Q, G)``."""
    return matching_cost(class_logits, mask_logits.flatten(1), labels, masks.flatten(1))


def _bce_of_pairs(z: Tensor, t: Tensor) -> Tensor:
    return F.softplus(z).mean(1, keepdim=True) - z @ t.T / z.shape[1]  # (Q, G)


def _dice_of_pairs(m: Tensor, t: Tensor, smooth: float = 1.0) -> Tensor:
    sizes = m.sum(1, keepdim=True) + t.sum(1)  # (Q, G)
    return 1 - (2 * m @ t.T + smooth) / (sizes + smooth)


def _of_class(z: Tensor, labels: Tensor) -> Tensor:
    return z.softmax(1)[:, labels]  # (Q, G)


def _costs(
    class_logits: Tensor,
    mask_logits: Tensor,
    labels: Tensor,
    masks: Tensor,
    *,
    dtype: torch.dtype = torch.float32,
    gain: Callable[[Tensor, Tensor], Tensor] = _of_class,
    bce: Callable[[Tensor, Tensor], Tensor] = _bce_of_pairs,
    dice: Callable[[Tensor, Tensor], Tensor] = _dice_of_pairs,
    probs: Callable[[Tensor], Tensor] = torch.sigmoid,
    weights: tuple[float, float, float] = (2, 5, 5),
) -> Tensor:
    """``costs`` with one of its terms exchanged, or in another precision."""
    z, t = mask_logits.flatten(1).to(dtype), masks.flatten(1).to(dtype)
    a, b, c = weights
    return b * bce(z, t) + c * dice(probs(z), t) - a * gain(class_logits.to(dtype), labels)


def _bce_of_probs(z: Tensor, t: Tensor) -> Tensor:
    pairs = (len(z), *t.shape)
    return F.binary_cross_entropy(z.sigmoid()[:, None].expand(pairs), t.expand(pairs), reduction="none").mean(2)


def _bce_of_logs(z: Tensor, t: Tensor) -> Tensor:
    m = z.sigmoid()
    return -(m.log() @ t.T + (1 - m).log() @ (1 - t).T) / z.shape[1]


def _bce_of_exp(z: Tensor, t: Tensor) -> Tensor:
    return (1 + z.exp()).log().mean(1, keepdim=True) - z @ t.T / z.shape[1]


def _cost(**changes: Any) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    return lambda *arguments: _costs(*arguments, **changes)


def _costs_by_loops(class_logits: Tensor, mask_logits: Tensor, labels: Tensor, masks: Tensor) -> list[list[float]]:
    rows = []
    for c, m in zip(class_logits.float().softmax(1), mask_logits.float(), strict=True):
        row = []
        for k, t in zip(labels.tolist(), masks.float(), strict=True):
            p = m.sigmoid()
            dice = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
            row.append(float(-2 * c[k] + 5 * F.binary_cross_entropy_with_logits(m, t) + 5 * dice))
        rows.append(row)
    return rows


def _costs_numpy(class_logits: Tensor, mask_logits: Tensor, labels: Tensor, masks: Tensor) -> np.ndarray:
    z, t = mask_logits.double().flatten(1).numpy(), masks.double().flatten(1).numpy()
    e = np.exp(class_logits.double().numpy())
    p = (e / e.sum(1, keepdims=True))[:, labels.numpy()]
    m = 1 / (1 + np.exp(-z))
    bce = (np.logaddexp(0, z)[:, None] - z[:, None] * t).mean(2)
    dice = 1 - (2 * (m[:, None] * t).sum(2) + 1) / (m.sum(1)[:, None] + t.sum(1) + 1)
    return -2 * p + 5 * bce + 5 * dice


def _costs_broadcast(class_logits: Tensor, mask_logits: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
    pairs = (len(mask_logits), len(masks), *masks.shape[1:])
    z, t = mask_logits.float()[:, None].expand(pairs), masks.float()[None].expand(pairs)
    total = 5 * F.binary_cross_entropy_with_logits(z, t, reduction="none").mean((2, 3))
    m = z.sigmoid()
    total += 5 * (1 - (2 * (m * t).sum((2, 3)) + 1) / (m.sum((2, 3)) + t.sum((2, 3)) + 1))
    total -= 2 * class_logits.float().softmax(1)[:, labels]
    return total


def _pairs() -> Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(11)

    def case(queries: int, objects: int, classes: int, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return (
            2 * torch.randn(queries, classes + 1, generator=draw),
            2 * torch.randn(queries, *size, generator=draw),
            torch.randint(classes, (objects,), generator=draw),
            torch.rand(objects, *size, generator=draw) < 0.4,
        )

    sure = torch.where(torch.arange(64 * 64).view(64, 64) < 1000, 200.0, -200.0).half()
    unsure = case(4, 3, 3, (40, 50))
    return {
        "four queries and three objects": case(4, 3, 3, (4, 5)),
        "as many objects as queries": case(3, 3, 2, (3, 3)),
        "more objects than queries": case(2, 5, 4, (2, 6)),
        "two objects of one class": (*case(3, 2, 2, (3, 4))[:2], torch.tensor([1, 1]), *case(3, 2, 2, (3, 4))[3:]),
        "no object": case(3, 0, 2, (3, 4)),
        "an object of one pixel": (*case(2, 1, 2, (3, 4))[:3], torch.eye(12)[3].view(1, 3, 4) > 0),
        "sure masks in half precision": (
            torch.tensor([[1.0, 2.0, 0.0], [0.5, 0.0, 1.0]]).half(),
            torch.stack([sure, -sure]),
            torch.tensor([1, 0]),
            torch.stack([sure > 0, sure < 0]),
        ),
        "unsure masks in half precision": (unsure[0].half(), unsure[1].half(), *unsure[2:]),
    }


COST = Exercise(
    solution=costs,
    wrong={
        "log_probability": (
            _cost(gain=lambda z, labels: z.log_softmax(1)[:, labels]),
            "Your class term is a logarithm, as in the loss. The cost takes the probability itself.",
        ),
        "one_minus_probability": (
            _cost(gain=lambda z, labels: z.softmax(1)[:, labels] - 1),
            "Your class term is 1 − p. That gives the same matching, but the cost here is −p: 2 less for every pair.",
        ),
        "probability_as_cost": (
            _cost(weights=(-2, 5, 5)),
            "A high probability makes your pair dear. It should make it cheap: −2 p.",
        ),
        "softmax_without_no_object": (
            _cost(gain=lambda z, labels: z[:, :-1].softmax(1)[:, labels]),
            "Your softmax leaves out “no object”. Take it over all K + 1 classes.",
        ),
        "classes_over_queries": (
            _cost(gain=lambda z, labels: z.softmax(0)[:, labels]),
            "In your softmax the queries compete for each class. Take it over the K + 1 classes of each query.",
        ),
        "class_sigmoid": (
            _cost(gain=lambda z, labels: z.sigmoid()[:, labels]),
            "Your class probabilities come from a sigmoid. They are a softmax over the K + 1 classes.",
        ),
        "class_logits": (
            _cost(gain=lambda z, labels: z[:, labels]),
            "Your class term is a logit. Take the softmax over the classes first.",
        ),
        "best_class": (
            _cost(gain=lambda z, labels: z.softmax(1)[:, :-1].amax(1, keepdim=True).expand(-1, len(labels))),
            "You take the probability of the query's best class. It is that of the *object's* class.",
        ),
        "no_class": (_cost(weights=(0, 5, 5)), "The class term is missing."),
        "no_bce": (_cost(weights=(2, 0, 5)), "The cross-entropy of the masks is missing."),
        "no_dice": (_cost(weights=(2, 5, 0)), "The Dice term is missing."),
        "equal_weights": (_cost(weights=(1, 1, 1)), "The weights are missing: 2 for the class, 5 and 5 for the masks."),
        "weights_swapped": (
            _cost(weights=(5, 2, 5)),
            "You swapped the weights of class and cross-entropy: 2 and 5.",
        ),
        "five_five_two": (
            _cost(weights=(5, 5, 2)),
            "You swapped the weights of class and Dice: 2 and 5.",
        ),
        "sum_of_pixels": (
            _cost(bce=lambda z, t: _bce_of_pairs(z, t) * z.shape[1]),
            "You add up the cross-entropy of the pixels. Take their mean.",
        ),
        "bce_of_probabilities": (
            _cost(bce=_bce_of_probs),
            "Your cross-entropy is that of probabilities. Of sure masks they round to 0 or 1, and torch cuts the "
            "logarithm off at −100. Take the cross-entropy of the logits.",
        ),
        "bce_of_logarithms": (
            _cost(bce=_bce_of_logs),
            "The probabilities of sure masks round to 0, and the logarithm of 0 is −inf. Take the cross-entropy of the "
            "logits: log(1 + exp z) − z t, where `F.softplus` is the first term.",
        ),
        "bce_overflows": (
            _cost(bce=_bce_of_exp),
            "exp of a large logit is inf. `F.softplus` computes log(1 + exp z) without it.",
        ),
        "dice_in_half": (
            lambda c, m, labels, masks: _costs(
                c, m, labels, masks, dice=lambda p, t: _dice_of_pairs(m.flatten(1).sigmoid(), t.to(m.dtype)).float()
            ),
            "Your Dice term is computed in half precision. Convert the logits to float32 before all else.",
        ),
        "bce_inside_alone": (
            _cost(bce=lambda z, t: F.softplus(-z) @ t.T / z.shape[1]),
            "Your cross-entropy counts the object's pixels alone. The pixels outside count, too.",
        ),
        "dice_similarity": (
            _cost(dice=lambda m, t: 1 - _dice_of_pairs(m, t)),
            "Your Dice term is the similarity: a good mask makes your pair dear. The cost is 1 minus it.",
        ),
        "dice_without_2": (
            _cost(dice=lambda m, t: 1 - (m @ t.T + 1) / (m.sum(1, keepdim=True) + t.sum(1) + 1)),
            "The factor 2 of the overlap is missing in the Dice term.",
        ),
        "smoothed_below": (
            _cost(dice=lambda m, t: 1 - 2 * m @ t.T / (m.sum(1, keepdim=True) + t.sum(1) + 1)),
            "The + 1 above the line of the Dice term is missing.",
        ),
        "no_smoothing": (
            _cost(dice=lambda m, t: _dice_of_pairs(m, t, 0.0)),
            "The + 1 above and below the line of the Dice term is missing.",
        ),
        "dice_of_logits": (
            _cost(probs=lambda z: z),
            "Your Dice term takes logits. It takes probabilities: a sigmoid comes first.",
        ),
        "hard_masks": (
            _cost(probs=lambda z: (z > 0).to(z.dtype)),
            "Your Dice term takes masks of 0 and 1. It takes probabilities.",
        ),
        "iou": (
            _cost(dice=lambda m, t: 1 - (m @ t.T + 1) / (m.sum(1, keepdim=True) + t.sum(1) - m @ t.T + 1)),
            "That is an IoU. Dice counts the overlap twice, and adds the two sizes.",
        ),
        "transposed": (
            lambda *arguments: costs(*arguments).T,
            "Your rows are objects. A row for each query and a column for each object is wanted: (Q, G).",
        ),
        "in_half": (
            _cost(dtype=torch.float16),
            "You compute in half precision, where sums over the pixels become inf: convert to float32 first.",
        ),
        "one_or_more": (
            lambda c, m, labels, masks: costs(c, m, labels, masks) if masks[0].any() else None,
            "There may be no object: (Q, 0) comes out then.",
        ),
    },
    right={"loops": _costs_by_loops, "NumPy": _costs_numpy, "all pairs at once": _costs_broadcast},
    probes=_pairs,
    tolerance=1e-4,  # float32 sums of 4,096 pixels with logits of 200
    hint="−2 p of the object's class, plus 5 times the mean cross-entropy, plus 5 times the Dice loss, in float32.",
    sketch="""
        z, t = mask_logits.float().flatten(1), masks.float().flatten(1)     # (Q, P), (G, P)
        p = class_logits.float().softmax(1)[:, ...]                         # (Q, G)
        bce = F.softplus(z).mean(1, keepdim=True) - z @ t.T / ...           # (Q, G)
        m = z.sigmoid()
        dice = 1 - (2 * m @ t.T + 1) / (m.sum(1, keepdim=True) + ... + 1)
        return -2 * p + 5 * bce + 5 * dice
    """,
)


# Piece 5: the matching -----------------------------------------------------------------------------------------------

Pairs = tuple[Tensor, Tensor]  # queries and objects, (n,) each


def match(cost: Tensor) -> Pairs:
    """Costs ``(Q, G)`` → queries, rising, and their objects, ``(min(Q, G),)`` each, with the smallest total."""
    return hungarian(cost)


def _sorted_pairs(pairs: Sequence[tuple[int, int]]) -> Pairs:
    found = torch.tensor(sorted(pairs), dtype=torch.int64).view(-1, 2)
    return found[:, 0], found[:, 1]


def greedy(cost: Tensor) -> Pairs:
    """The cheapest pair of a free query and a free object, again and again; of equal ones the first in the matrix."""
    queries, objects = cost.shape
    every = sorted(itertools.product(range(queries), range(objects)), key=lambda pair: float(cost[pair]))
    taken: list[tuple[int, int]] = []
    for q, g in every:
        if all(q != a and g != b for a, b in taken):
            taken.append((q, g))
    return _sorted_pairs(taken)


def _greedy_in_its_order(cost: Tensor) -> Pairs:
    queries, objects = greedy(cost)
    order = cost[queries, objects].argsort(stable=True)
    return queries[order], objects[order]


def _cheapest_dearest(cost: Tensor) -> Pairs:
    """Of all assignments that with the cheapest dearest pair, by costs so far apart that the dearest decides."""
    ranks = cost.flatten().argsort().argsort().view(cost.shape)
    return match(2.0 ** ranks.double())


def _one_after_another(cost: Tensor) -> Pairs:
    """Each query in turn takes the best object that is free."""
    free, taken = list(range(cost.shape[1])), []
    for q in range(min(cost.shape)):
        g = min(free, key=lambda g: float(cost[q, g]))
        free.remove(g)
        taken.append((q, g))
    return _sorted_pairs(taken)


def _objects_in_turn(cost: Tensor) -> Pairs:
    queries, objects = _one_after_another(cost.T)
    return _sorted_pairs(list(zip(objects.tolist(), queries.tolist(), strict=True)))


def _brute(cost: Tensor, *, first_queries: bool = False, best: Callable[..., Any] = min) -> Pairs:
    """All assignments one by one."""
    queries, objects = cost.shape
    if queries < objects:
        found = _brute(cost.T, first_queries=first_queries, best=best)
        return _sorted_pairs(list(zip(found[1].tolist(), found[0].tolist(), strict=True)))
    chosen = range(objects) if first_queries else range(queries)
    rows = best(
        itertools.permutations(chosen, objects), key=lambda rows: sum(float(cost[q, g]) for g, q in enumerate(rows))
    )
    return _sorted_pairs([(q, g) for g, q in enumerate(rows)])


def _match_recursively(cost: Tensor) -> tuple[list[int], list[int]]:
    def rest(q: int, free: frozenset[int], skips: int) -> tuple[float, list[tuple[int, int]]]:
        if q == len(cost):
            return 0.0, []
        ways = [rest(q + 1, free, skips - 1)] if skips else []
        for g in free:
            total, pairs = rest(q + 1, free - {g}, skips)
            ways.append((total + float(cost[q, g]), [(q, g), *pairs]))
        return min(ways)

    queries, objects = cost.shape
    _, pairs = rest(0, frozenset(range(objects)), max(0, queries - objects))
    return [q for q, _ in pairs], [g for _, g in pairs]


def _match_numpy(cost: Tensor) -> tuple[np.ndarray, np.ndarray]:
    table = cost.numpy()
    flip = table.shape[0] < table.shape[1]
    table = table.T if flip else table
    ways = np.array(list(itertools.permutations(range(table.shape[0]), table.shape[1])), dtype=np.int64)
    rows = ways[table[ways, np.arange(table.shape[1])].sum(1).argmin()]
    pairs = sorted((g, q) if flip else (q, g) for g, q in enumerate(rows.tolist()))
    found = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _one_or_more(cost: Tensor) -> Pairs:
    cost[0, 0].item()  # raises where there is none
    return match(cost)


def _no_more_objects(cost: Tensor) -> Pairs:
    if cost.shape[1] > cost.shape[0]:
        raise ValueError("more objects than queries")
    return match(cost)


def _matrices() -> Mapping[str, tuple[Tensor]]:
    draw = torch.Generator().manual_seed(8)
    table = torch.tensor([[0.2, 0.3, 1.1], [0.3, 1.6, 0.9], [1.2, 0.8, 0.7], [1.4, 1.0, 1.3]])
    return {
        "four queries and three objects": (table,),
        "the best query comes last": (torch.tensor([[0.9, 0.8], [0.7, 0.9], [0.5, 0.2], [0.1, 0.3]]),),
        "two objects that want one query": (torch.tensor([[0.1, 0.2], [0.9, 2.0], [1.5, 1.6]]),),
        "two queries that want one object": (torch.tensor([[0.1, 0.4], [0.2, 0.9]]),),
        "two middling pairs against a cheap and a dear one": (torch.tensor([[0.0, 1.6], [1.6, 3.0]]),),
        "negative costs": (torch.randn(5, 4, generator=draw) - 1,),
        "no cost above 0": (torch.tensor([[-0.5, -3.0], [-1.0, -0.2]]),),
        "six queries and four objects": (torch.rand(6, 4, generator=draw),),
        "five queries and five objects": (torch.rand(5, 5, generator=draw),),
        "more objects than queries": (torch.rand(3, 5, generator=draw),),
        "two queries and three objects, crossed": (torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.6, 0.7]]),),
        "one query and three objects": (torch.tensor([[0.5, 0.3, 0.4]]),),
        "no object": (torch.zeros(4, 0),),
    }


MATCH = Exercise(
    solution=match,
    wrong={
        "greedy": (
            greedy,
            "You take the cheapest free pair again and again. That is greedy: the sum of all is to be smallest.",
        ),
        "queries_in_turn": (
            _one_after_another,
            "Each query in turn takes the best object that is free. The sum of all is to be smallest.",
        ),
        "objects_in_turn": (
            _objects_in_turn,
            "Each object in turn takes the best query that is free. The sum of all is to be smallest.",
        ),
        "best_object_of_each_query": (
            lambda cost: (
                (torch.arange(len(cost)), cost.argmin(1)) if cost.shape[1] else (torch.zeros(0, dtype=torch.int64),) * 2
            ),
            "Every query takes its best object, so several take the same one. Each object has one partner at most.",
        ),
        "best_query_of_each_object": (
            lambda cost: _sorted_pairs([(int(cost[:, g].argmin()), g) for g in range(cost.shape[1])]),
            "Every object takes its best query, so several take the same one. Each query has one partner at most.",
        ),
        "largest_total": (
            lambda cost: match(-cost),
            "Your total is the largest possible one. Costs are to be small.",
        ),
        "first_queries": (
            lambda cost: _brute(cost, first_queries=True),
            "You try only the first queries, as many as there are objects. Any of the queries may be chosen.",
        ),
        "absolute": (
            lambda cost: match(cost.abs()),
            "You compare absolute values. A negative cost is cheaper than 0.",
        ),
        "cut_at_zero": (
            lambda cost: match(cost.clamp(min=0)),
            "You cut costs off at 0. A negative cost is cheaper than 0.",
        ),
        "roles_exchanged": (
            lambda cost: match(cost) if len(cost) >= cost.shape[1] else match(cost.T),
            "With more objects than queries you exchange the roles, but not back: queries come first.",
        ),
        "roles_exchanged_unsorted": (
            lambda cost: match(cost) if len(cost) >= cost.shape[1] else match(cost.T)[::-1],
            "With more objects than queries you exchange the roles, and your pairs end up sorted by object. Sort them "
            "by query.",
        ),
        "counted_from_1": (
            lambda cost: tuple(side + 1 for side in match(cost)),
            "You count from 1. The first query and the first object are 0.",
        ),
        "greedy_in_its_order": (
            _greedy_in_its_order,
            "You take the cheapest free pair again and again, and return them so. That is greedy: the sum of all is to "
            "be smallest, and pairs are sorted by query.",
        ),
        "dearest_pair": (
            _cheapest_dearest,
            "Your dearest pair is as cheap as possible. The *sum* is to be smallest.",
        ),
        "squares": (
            lambda cost: match(cost.sign() * cost**2),
            "You add up squares. Add up the costs as they are.",
        ),
        "sorted_by_object": (
            lambda cost: tuple(side[match(cost)[1].argsort()] for side in match(cost)),
            "Your pairs are sorted by object. Sort them by query.",
        ),
        "sorted_by_cost": (
            lambda cost: tuple(side[cost[match(cost)].argsort()] for side in match(cost)),
            "Your pairs are sorted by cost. Sort them by query.",
        ),
        "objects_first": (
            lambda cost: match(cost)[::-1],
            "You return the objects first. Queries come first.",
        ),
        "queries_alone": (
            lambda cost: match(cost)[0],
            "You return the queries alone. Return two things: queries, and their objects.",
        ),
        "pairs": (
            lambda cost: torch.stack(match(cost), 1),
            "You return one tensor of pairs. Return two: queries, and their objects.",
        ),
        "all_objects": (
            _no_more_objects,
            "There may be more objects than queries. Then every query has an object, and some objects have none.",
        ),
        "objects_cut": (
            lambda cost: match(cost[:, : len(cost)]),
            "With more objects than queries you match the first objects alone. Choose among all of them.",
        ),
        "one_or_more": (
            _one_or_more,
            "There may be no object: then both results are empty.",
        ),
    },
    right={
        "scipy": lambda cost: linear_sum_assignment(cost.numpy()),
        "all assignments": _brute,
        "recursion, as lists": _match_recursively,
        "NumPy": _match_numpy,
    },
    probes=_matrices,
    hint="Of all ways to give each object a query of its own, the one with the smallest sum; sorted by query.",
    sketch="""
        Q, G = cost.shape
        if Q < G: ...                             # the same with the roles exchanged
        best = min(itertools.permutations(range(Q), G),
                   key=lambda queries: sum(cost[q, g] for g, q in ...))
        pairs = sorted((q, g) for g, q in enumerate(best))
        ...
    """,
)


# Piece 6: the loss of a set ------------------------------------------------------------------------------------------

Arguments = tuple[Tensor, Tensor, list[Tensor], list[Tensor], list[Pairs]]


def set_loss(
    class_logits: Tensor, mask_logits: Tensor, labels: list[Tensor], masks: list[Tensor], pairs: list[Pairs]
) -> Tensor:
    """Class logits ``(B, Q, K + 1)``, mask logits ``(B, Q, H, W)``, objects and pairs of each image → a number."""
    return _set_loss(class_logits, mask_logits, labels, masks, pairs)


def _bce_of(z: Tensor, t: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(z, t, reduction="none").mean(1)  # (N,)


def _dice_of(z: Tensor, t: Tensor, smooth: float = 1.0) -> Tensor:
    m = z.sigmoid()
    return 1 - (2 * (m * t).sum(1) + smooth) / (m.sum(1) + t.sum(1) + smooth)  # (N,)


def _set_loss(
    class_logits: Tensor,
    mask_logits: Tensor,
    labels: list[Tensor],
    masks: list[Tensor],
    pairs: list[Pairs],
    *,
    no_object: float = 0.1,
    an_object: float = 1.0,
    none: int = -1,
    terms: Callable[[Tensor, Tensor], Tensor] = lambda z, wanted: F.cross_entropy(z.mT, wanted, reduction="none"),
    divide: Callable[[Tensor, Tensor], Tensor] = lambda each, weights: each.sum() / weights.sum(),
    number: Callable[[list[Tensor], list[Pairs]], Any] = lambda labels, pairs: max(1, sum(map(len, labels))),
    bce: Callable[[Tensor, Tensor], Tensor] = _bce_of,
    dice: Callable[[Tensor, Tensor], Tensor] = _dice_of,
    weights: tuple[float, float, float] = (2, 5, 5),
) -> Tensor:
    """``set_loss`` with one of its steps exchanged. ``divide`` gets the weighted terms and the weights, ``(B, Q)``."""
    last = class_logits.shape[2] - 1
    wanted = torch.full(class_logits.shape[:2], none % (last + 1))  # (B, Q)
    z, t = [], []
    for i, (queries, objects) in enumerate(pairs):
        wanted[i, queries] = labels[i][objects]
        z.append(mask_logits[i, queries].flatten(1))
        t.append(masks[i][objects].flatten(1).float())
    found = torch.cat(z), torch.cat(t)  # (N, P) each
    weight = torch.where(wanted == last, no_object, an_object)  # (B, Q)
    each = weight * terms(class_logits, wanted)  # (B, Q)
    a, b, c = weights
    own = b * bce(*found).sum() + c * dice(*found).sum()
    return a * divide(each, weight) + own / number(labels, pairs)


def _losses(**changes: Any) -> Callable[..., Tensor]:
    return lambda *arguments: _set_loss(*arguments, **changes)


def _ordered(pairs: list[Pairs]) -> list[Pairs]:
    """Object g belongs to the query that comes at place g."""
    return [(q, torch.arange(len(q))) for q, _ in pairs]


def _first_queries(*arguments: Any) -> Tensor:
    class_logits, mask_logits, labels, masks, pairs = arguments
    return set_loss(class_logits, mask_logits, labels, masks, [(torch.arange(len(q)), g) for q, g in pairs])


def _unmatched_masks_empty(*arguments: Any) -> Tensor:
    """The masks of queries without an object train towards empty ones."""
    class_logits, mask_logits, labels, masks, pairs = arguments
    total = set_loss(*arguments)
    for i, (queries, _) in enumerate(pairs):
        free = torch.ones(mask_logits.shape[1], dtype=torch.bool)
        free[queries] = False
        z = mask_logits[i, free].flatten(1)
        empty = 5 * _bce_of(z, torch.zeros_like(z)).sum() + 5 * _dice_of(z, torch.zeros_like(z)).sum()
        total = total + empty / max(1, sum(map(len, labels)))
    return total


def _mean_of_images(*arguments: Any) -> Tensor:
    class_logits, mask_logits, labels, masks, pairs = arguments
    images = [
        set_loss(class_logits[i : i + 1], mask_logits[i : i + 1], labels[i : i + 1], masks[i : i + 1], pairs[i : i + 1])
        for i in range(len(pairs))
    ]
    return torch.stack(images).mean()


def _number_of_each_image(*arguments: Any) -> Tensor:
    """The masks' losses of each image, divided by the number of its objects, are added up."""
    class_logits, mask_logits, labels, masks, pairs = arguments
    total = _set_loss(*arguments, weights=(2, 0, 0))
    for i in range(len(pairs)):
        one = (class_logits[i : i + 1], mask_logits[i : i + 1], labels[i : i + 1], masks[i : i + 1], pairs[i : i + 1])
        total = total + _set_loss(*one, weights=(0, 5, 5))
    return total


def _images_with_objects(*arguments: Any) -> Tensor:
    class_logits, mask_logits, *objects = arguments
    kept = [i for i, own in enumerate(objects[0]) if len(own)]
    if not kept:
        return class_logits.sum() * 0
    return set_loss(class_logits[kept], mask_logits[kept], *([part[i] for i in kept] for part in objects))


def _classes_mixed(z: Tensor, wanted: Tensor) -> Tensor:
    """Takes (B, Q, K + 1) for (B, K + 1, Q)."""
    return F.cross_entropy(z.reshape(len(z), z.shape[2], -1), wanted, reduction="none")


def _dice_of_all(z: Tensor, t: Tensor) -> Tensor:
    return _dice_of(z.reshape(1, -1), t.reshape(1, -1)) * len(z)


def _careless(*arguments: Any) -> Tensor:
    return _set_loss(*arguments, number=lambda labels, pairs: torch.tensor(float(sum(map(len, labels)))))


def _loss_of_torch(
    class_logits: Tensor, mask_logits: Tensor, labels: list[Tensor], masks: list[Tensor], pairs: list[Pairs]
) -> Tensor:
    classes = class_logits.shape[2]
    wanted = torch.full(class_logits.shape[:2], classes - 1)
    weight = torch.ones(classes)
    weight[-1] = 0.1
    total, number = torch.zeros(()), max(1, sum(len(own) for own in labels))
    for i, (queries, objects) in enumerate(pairs):
        for q, g in zip(queries.tolist(), objects.tolist(), strict=True):
            wanted[i, q] = labels[i][g]
            z, t = mask_logits[i, q], masks[i][g].float()
            m = z.sigmoid()
            dice = 1 - (2 * (m * t).sum() + 1) / (m.sum() + t.sum() + 1)
            total = total + (5 * F.binary_cross_entropy_with_logits(z, t) + 5 * dice) / number
    return 2 * F.cross_entropy(class_logits.flatten(0, 1), wanted.flatten(), weight) + total


def _loss_numpy(
    class_logits: Tensor, mask_logits: Tensor, labels: list[Tensor], masks: list[Tensor], pairs: list[Pairs]
) -> float:
    z = class_logits.double().numpy()
    logs = z - np.log(np.exp(z).sum(2, keepdims=True))
    top = bottom = own = 0.0
    for i, (queries, objects) in enumerate(pairs):
        partner = dict(zip(np.asarray(queries).tolist(), np.asarray(objects).tolist(), strict=True))
        for q in range(z.shape[1]):
            k = int(labels[i][partner[q]]) if q in partner else z.shape[2] - 1
            w = 1.0 if q in partner else 0.1
            top, bottom = top - w * logs[i, q, k], bottom + w
            if q in partner:
                x, t = mask_logits[i, q].double().numpy(), masks[i][partner[q]].numpy()
                m = 1 / (1 + np.exp(-x))
                own += 5 * (np.logaddexp(0, x) - x * t).mean()
                own += 5 * (1 - (2 * (m * t).sum() + 1) / (m.sum() + t.sum() + 1))
    return 2 * top / bottom + own / max(1, sum(map(len, labels)))


def _loss_in_place(*arguments: Any) -> Tensor:
    """Writes the matched masks into one tensor."""
    class_logits, mask_logits, labels, masks, pairs = arguments
    truth = torch.zeros_like(mask_logits)
    chosen = torch.zeros(mask_logits.shape[:2], dtype=torch.bool)
    wanted = torch.full(chosen.shape, class_logits.shape[2] - 1)
    for i, (queries, objects) in enumerate(pairs):
        truth[i].index_copy_(0, queries, masks[i][objects].to(truth.dtype))
        wanted[i].index_copy_(0, queries, labels[i][objects])
        chosen[i, queries] = True
    z, t = mask_logits[chosen].flatten(1), truth[chosen].flatten(1)
    weight = torch.where(chosen, 1, 0.1)
    nll = -class_logits.log_softmax(2).gather(2, wanted[..., None])[..., 0]
    mask = 5 * (_bce_of(z, t) + _dice_of(z, t)).sum() / max(1, sum(len(v) for v in labels))
    return mask + 2 * (weight * nll).sum() / weight.sum()


def _batches() -> Mapping[str, Arguments]:
    draw = torch.Generator().manual_seed(31)

    def case(queries: int, objects: Sequence[int], classes: int, size: tuple[int, int]) -> Arguments:
        batch = len(objects)
        pairs = []
        for count in objects:
            n = min(queries, count)
            rows = torch.randperm(queries, generator=draw)[:n].sort().values
            pairs.append((rows, torch.randperm(count, generator=draw)[:n]))
        return (
            2 * torch.randn(batch, queries, classes + 1, generator=draw),
            2 * torch.randn(batch, queries, *size, generator=draw),
            [torch.randint(classes, (count,), generator=draw) for count in objects],
            [torch.rand(count, *size, generator=draw) < 0.4 for count in objects],
            pairs,
        )

    return {
        "two images with three objects and one": case(5, (3, 1), 3, (4, 5)),
        "one image": case(4, (2,), 2, (3, 3)),
        "an image without objects": case(3, (0, 2), 2, (3, 4)),
        "no object at all": case(3, (0, 0), 2, (3, 4)),
        "more objects than queries": case(2, (4, 1), 3, (2, 5)),
        "an object for each query": case(3, (3, 3), 2, (3, 3)),
    }


_CUT = (
    "No gradient reaches the class logits, and the queries would never learn classes: no `detach`, no `data`.",
    "No gradient reaches the mask logits, and the queries would never learn masks: no `detach`, no `data`.",
)

LOSS = Exercise(
    solution=set_loss,
    wrong={
        "no_object_counts_fully": (
            _losses(no_object=1.0),
            "“No object” has a weight of 0.1 in the class loss. In yours it counts like any class.",
        ),
        "no_object_ignored": (
            _losses(no_object=0.0),  # 0 / 0 where there is no object
            "“No object” counts for nothing in your class loss. Its weight is 0.1.",
        ),
        "no_object_ignored_0": (
            _losses(no_object=0.0, divide=lambda each, weights: each.sum() / weights.sum().clamp(min=1)),
            "Queries without an object are missing in your class loss. “No object” is their class, with weight 0.1.",
        ),
        "weights_of_classes_swapped": (
            _losses(no_object=1.0, an_object=0.1),
            "You swapped the weights of the classes: 0.1 is that of “no object”.",
        ),
        "softmax_twice": (
            _losses(terms=lambda z, wanted: F.cross_entropy(z.softmax(2).mT, wanted, reduction="none")),
            "You give probabilities to the cross-entropy. It takes logits, and has a softmax inside.",
        ),
        "probability": (
            _losses(terms=lambda z, wanted: -z.softmax(2).gather(2, wanted[..., None])[..., 0]),
            "Your class term is −p, as in the cost. The loss takes the cross-entropy.",
        ),
        "classes_mixed": (
            _losses(terms=_classes_mixed),
            "Your reshape mixes classes and queries. Flatten images and queries, or swap the last two axes.",
        ),
        "class_by_objects": (
            lambda *a: _set_loss(*a, divide=lambda each, weights: each.sum() / max(1, sum(map(len, a[2])))),
            "You divide the class loss by the number of objects. Divide it by the sum of the weights.",
        ),
        "class_divided_twice": (
            lambda *a: _set_loss(*a, weights=(2 / max(1, sum(map(len, a[2]))), 5, 5)),
            "You divide the class loss by the number of objects, too. That is for the masks alone.",
        ),
        "divided_by_queries": (
            _losses(divide=lambda each, weights: each.mean()),
            "You divide the class loss by the number of queries. A weighted mean divides by the sum of the weights.",
        ),
        "class_summed": (
            _losses(divide=lambda each, weights: each.sum()),
            "Your class loss is a sum over the queries. Divide it by the sum of the weights.",
        ),
        "divided_by_objects": (
            _losses(divide=lambda each, weights: each.sum() / (weights == 1).sum().clamp(min=1)),
            "You divide the class loss by the number of matched queries. Divide it by the sum of all weights.",
        ),
        "mean_of_images": (
            _mean_of_images,
            "You average over images. Queries and objects of the whole batch have one mean each.",
        ),
        "class_by_image": (
            _losses(divide=lambda each, weights: (each.sum(1) / weights.sum(1)).mean()),
            "Your class loss is a mean of the images' means. Divide the batch's sum by the batch's weights.",
        ),
        "no_object_first": (
            _losses(none=0),
            "Queries without an object are to say class 0 in your loss. “No object” is the last class, K.",
        ),
        "in_order": (
            lambda c, m, labels, masks, pairs: set_loss(c, m, labels, masks, _ordered(pairs)),
            "You give the objects out in their order. The second part of a pair says which object a query has.",
        ),
        "first_queries": (
            _first_queries,
            "You use the first queries. The first part of a pair says which query has the object.",
        ),
        "unmatched_masks": (
            _unmatched_masks_empty,
            "The masks of queries without an object count in your loss. Only matched ones do.",
        ),
        "divided_by_matched": (
            _losses(number=lambda labels, pairs: max(1, sum(len(q) for q, _ in pairs))),
            "You divide the masks' losses by the number of pairs. Divide by that of the objects: with more objects "
            "than queries it is larger.",
        ),
        "divided_by_images": (
            _losses(number=lambda labels, pairs: len(labels)),
            "You divide the masks' losses by the number of images. Divide by that of the objects.",
        ),
        "masks_summed": (
            _losses(number=lambda labels, pairs: 1),
            "You add up the masks' losses. Divide by the number of objects.",
        ),
        "number_of_each_image": (
            _number_of_each_image,
            "You divide the masks' losses of each image by its own number of objects. N is that of the whole batch.",
        ),
        "one_object_an_image": (
            _losses(number=lambda labels, pairs: sum(max(1, len(own)) for own in labels)),
            "An image without objects counts as one object in your N. “At least 1” holds for the sum over the batch.",
        ),
        "mean_of_pairs": (
            _losses(
                number=lambda labels, pairs: 1,
                bce=lambda z, t: _bce_of(z, t).mean(),
                dice=lambda z, t: _dice_of(z, t).mean(),
            ),
            "You average the masks' losses over the pairs. Divide their sum by the number of objects, which can be "
            "larger, and by at least 1: a mean of nothing is NaN.",
        ),
        "mean_and_number": (
            _losses(bce=lambda z, t: _bce_of(z, t).mean(), dice=lambda z, t: _dice_of(z, t).mean()),
            "You divide the masks' losses twice: by the pairs, as a mean does, and by the number of objects.",
        ),
        "images_with_objects": (
            _images_with_objects,
            "You skip images without objects. Their queries count in the class loss: all should say “no object”.",
        ),
        "nothing_without_objects": (
            lambda *a: set_loss(*a) if any(map(len, a[2])) else a[0].sum() * 0,
            "Your loss is 0 when the batch has no object. The queries should still say “no object”.",
        ),
        "pairs_swapped": (
            lambda c, m, labels, masks, pairs: set_loss(c, m, labels, masks, [(g, q) for q, g in pairs]),
            "A pair is queries first, then their objects.",
        ),
        "no_object_divides": (
            _careless,
            "Without any object you divide by 0. Divide by at least 1.",
        ),
        "sum_of_pixels": (
            _losses(bce=lambda z, t: _bce_of(z, t) * z.shape[1]),
            "You add up the cross-entropy of a mask's pixels. Take their mean.",
        ),
        "labels_in_order": (
            lambda c, m, labels, masks, pairs: (
                _set_loss(c, m, labels, masks, _ordered(pairs), weights=(2, 0, 0))
                + _set_loss(c, m, labels, masks, pairs, weights=(0, 5, 5))
            ),
            "You give the labels out in their order. The second part of a pair says which label a query has.",
        ),
        "masks_in_order": (
            lambda c, m, labels, masks, pairs: (
                _set_loss(c, m, labels, masks, pairs, weights=(2, 0, 0))
                + _set_loss(c, m, labels, masks, _ordered(pairs), weights=(0, 5, 5))
            ),
            "You give the masks out in their order. The second part of a pair says which mask a query has.",
        ),
        "one_dice": (
            _losses(dice=_dice_of_all),
            "You take one Dice over all masks together. Each mask has its own.",
        ),
        "no_smoothing": (
            _losses(dice=lambda z, t: _dice_of(z, t, 0.0)),
            "The + 1 above and below the line of the Dice loss is missing.",
        ),
        "dice_similarity": (
            _losses(dice=lambda z, t: 1 - _dice_of(z, t)),
            "You add the Dice similarity. The loss is 1 minus it.",
        ),
        "no_dice": (_losses(weights=(2, 5, 0)), "The Dice loss is missing."),
        "no_bce": (_losses(weights=(2, 0, 5)), "The cross-entropy of the masks is missing."),
        "no_class": (_losses(weights=(0, 5, 5)), "The class loss is missing."),
        "equal_weights": (_losses(weights=(1, 1, 1)), "The weights are missing: 2, 5 and 5."),
        "class_and_bce_swapped": (
            _losses(weights=(5, 2, 5)),
            "You swapped the weights of class and cross-entropy: 2 and 5.",
        ),
        "weights_swapped": (
            _losses(weights=(5, 5, 2)),
            "The weight of the class is 2, those of the masks are 5 and 5.",
        ),
        "class_cut": (lambda c, m, *rest: set_loss(c.detach(), m, *rest), _CUT[0]),
        "masks_cut": (lambda c, m, *rest: set_loss(c, m.detach(), *rest), _CUT[1]),
    },
    right={"torch's cross-entropy, loops": _loss_of_torch, "NumPy": _loss_numpy, "in place": _loss_in_place},
    probes=_batches,
    verify=trains_all(set_loss, _batches, list(_CUT)),
    hint="Each query's class: its object's, or K; a weighted mean over all queries. Masks: matched pairs alone.",
    sketch="""
        wanted = torch.full(class_logits.shape[:2], ...)            # (B, Q), K at first
        total = 0
        for i, (queries, objects) in enumerate(pairs):
            wanted[i, queries] = labels[i][...]
            z, t = mask_logits[i, queries].flatten(1), masks[i][...].flatten(1).float()
            total = total + 5 * ... + 5 * ...                       # BCE and Dice of each mask
        weight = torch.tensor([1.0] * K + [...])
        of_class = F.cross_entropy(class_logits.flatten(0, 1), wanted.flatten(), weight)
        return 2 * of_class + total / max(1, ...)
    """,
)


# A matching by hand --------------------------------------------------------------------------------------------------

ASSIGN = Exercise(
    solution=(9, 8, 2, 1, 3),
    wrong={
        "greedy_queries": (
            (9, 9, 4, 2, 3),
            "Those are the greedy pairs. Is there a cheaper way if query 2 does not take B?",
        ),
        "best_of_each_query": (
            (7, 8, 2, 1, 3),
            "For greedy you add up the best cost of each object. Query 2 cannot take both B and A.",
        ),
        "best_of_each_object": (
            (9, 7, 2, 2, 3),
            "Query 2 has two objects in your matching. Each query has one at most.",
        ),
        "best_first": ((8, 9, 2, 1, 3), "You swapped the totals: that of the greedy pairs comes first."),
        "largest": ((9, 20, 4, 3, 2), "Your total is the largest. The smallest is wanted."),
        "counted_from_zero": ((9, 8, 1, 0, 2), "The queries are counted from 1."),
    },
    right={
        "a list": [9, 8, 2, 1, 3],
        "a tensor": torch.tensor([9, 8, 2, 1, 3]),
        "an array": np.array([9.0, 8.0, 2.0, 1.0, 3.0]),
    },
    hint="Greedy takes B with query 2 first. For the best total, try what happens if query 2 takes A.",
    sketch="""
        greedy: 1 (query 2, B), then the cheapest pair without query 2 and B: ..., then ...
        best: query 2 takes A (3), then B costs at least ..., and C at least ...
    """,
)


# Break greedy --------------------------------------------------------------------------------------------------------

WANTED = 5
"""How much more greedy is to cost: the most that is possible with the numbers 1 to 9."""


def _loses(attempt: Any) -> None:
    try:
        table = np.asarray(attempt.tolist() if isinstance(attempt, Tensor) else attempt, dtype=float)
    except (TypeError, ValueError):  # ragged rows, or what is no number
        table = np.zeros(0)
    expect(table.shape == (3, 3), "Give three rows of three numbers.")
    expect(sorted(table.ravel().tolist()) == list(range(1, 10)), "Use each of the numbers 1 to 9 once.")
    cost = torch.from_numpy(table)
    more = float(cost[greedy(cost)].sum() - cost[match(cost)].sum())
    expect(more > 0, "Greedy finds the best total here: its first choice has to spoil the later ones.")
    expect(
        more >= WANTED,
        "Greedy pays more here, but less than 5. Which pair must be left for greedy at the end, and which two pairs "
        "does its first choice rule out?",
    )


GREEDY = Exercise(
    solution=[[1, 7, 2], [8, 4, 5], [3, 6, 9]],
    wrong={
        "greedy_is_best": (
            [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
            "Greedy finds the best total here: its first choice has to spoil the later ones.",
        ),
        "too_little": (
            [[1, 2, 4], [3, 8, 6], [7, 9, 5]],
            "Greedy pays more here, but less than 5. Which pair must be left for greedy at the end, and which two "
            "pairs does its first choice rule out?",
        ),
        "not_each_number_once": (
            [[0, 0, 9], [9, 9, 0], [0, 9, 9]],
            "Use each of the numbers 1 to 9 once.",
        ),
        "two_rows": ([[1, 2, 3], [4, 5, 6]], "Give three rows of three numbers."),
    },
    right={
        "a tensor": torch.tensor([[9, 3, 6], [2, 1, 7], [5, 8, 4]]),
        "an array": np.array([[9.0, 6.0, 3.0], [5.0, 4.0, 8.0], [2.0, 7.0, 1.0]]),
        "tuples": ((4, 5, 8), (6, 9, 3), (7, 2, 1)),
    },
    verify=_loses,
    compared=False,
    sketch="""
        [[1, ..., 2],                             # 1 is taken first: its row and its column are gone
         [..., ..., ...],
         [..., ..., 9]]                           # this pair is left for greedy
    """,
)
