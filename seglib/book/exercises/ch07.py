"""The exercises of chapter 7: boxes. The pieces of "From scratch" stand in ``ch07_pipeline``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching
from torch import Tensor

from seglib.book.exercise import Exercise
from seglib.book.exercises.ch07_pipeline import FEWER, PIPELINE
from seglib.ops.boxes import box_iou
from seglib.ops.nms import soft_nms

Propose = Callable[[Tensor], Tensor]

# Who survives ---------------------------------------------------------------------------------------------------------

# Five boxes of 10 × 10, each 3 pixels right of the last: IoU 7/13 with the neighbour, 4/16 two away, 1/19 three away.
# Scores: A 0.5, B 0.9, C 0.6, D 0.8, E 0.7.
SURVIVORS = Exercise(
    solution=("BD", "BE"),
    wrong={
        "dead_boxes": (
            ("BD", "B"),
            "At 0.2 you let D drop E. But B has dropped D before, and a dropped box drops nobody.",
        ),
        "left_to_right": (
            ("ACE", "AD"),
            "You go from left to right. NMS goes by falling score, so B is first.",
        ),
        "worst_first": (
            ("ACE", "AE"),
            "You begin with the lowest score. The highest comes first.",
        ),
        "swapped": (
            ("BE", "BD"),
            "Those are the right sets in the wrong order: 0.5 first, then 0.2.",
        ),
        "neighbours_only": (
            ("BD", "BD"),
            "At 0.2 boxes that are two places apart overlap too much as well: 4 / 16 is 0.25.",
        ),
        "everybody": (
            ("ABCDE", "ABCDE"),
            "Neighbours share 7 of 13 columns: that is an IoU of 0.54, above both thresholds.",
        ),
        "best_alone": (
            ("B", "B"),
            "You keep the best box alone. NMS then goes on with the boxes that it did not overlap too much.",
        ),
        "dropped": (
            ("ACE", "ACD"),
            "Those are the boxes that are dropped. Give the ones that survive.",
        ),
    },
    right={
        "a list of texts": ["BD", "BE"],
        "letters": (["B", "D"], ["B", "E"]),
        "sets of letters": ({"D", "B"}, {"E", "B"}),
        "lower case, with commas": ("b, d", "b, e"),
    },
    hint="Write down the order of the scores. Take the first, cross out all that overlap it too much, and go on with "
    "what is left. IoU is 7/13 for neighbours and 4/16 two places away. Give letters in the order of the alphabet.",
    sketch="""
        order of the scores:  B …
        threshold 0.5:  keep B, drop what overlaps it by more than 0.5: …; the best that is left is …
        threshold 0.2:  keep B, drop what overlaps it by more than 0.2: …; the best that is left is …
        my_survivors = "…", "…"
    """,
)


# Do these anchors suit my data? ---------------------------------------------------------------------------------------


def shape_iou(objects: Tensor, shapes: Tensor) -> Tensor:
    """IoU ``(N, A)`` of boxes with a common centre, of sizes ``(N, 2)`` and ``(A, 2)``."""
    inter = torch.minimum(objects[:, None], shapes[None]).prod(2)  # (N, A)
    return inter / (objects.prod(1)[:, None] + shapes.prod(1)[None] - inter)


def fit(objects: Tensor, shapes: Tensor) -> Tensor:
    """The mean over objects of the IoU with the shape that fits it best, both centred on one point."""
    return shape_iou(objects, shapes).amax(1).mean()


def _fit_by(overlap: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """``fit`` with another overlap, from the intersection ``(N, A)`` and both areas, ``(N, 1)`` and ``(A,)``."""

    def answer(objects: Tensor, shapes: Tensor) -> Tensor:
        inter = torch.minimum(objects[:, None], shapes[None]).prod(2)
        return overlap(inter, objects.prod(1)[:, None], shapes.prod(1)).amax(1).mean()

    return answer


def _fit_by_loops(objects: Tensor, shapes: Tensor) -> float:
    total = 0.0
    for w, h in objects.tolist():
        ious = []
        for v, u in shapes.tolist():
            inter = min(w, v) * min(h, u)
            ious.append(inter / (w * h + v * u - inter))
        total += max(ious)
    return total / len(objects)


def _fit_with_numpy(objects: Tensor, shapes: Tensor) -> np.floating[Any]:
    a, b = objects.double().numpy()[:, None], shapes.double().numpy()[None]
    inter = np.minimum(a, b).prod(-1)
    return (inter / (a.prod(-1) + b.prod(-1) - inter)).max(1).mean()


def _fit_in_place(objects: Tensor, shapes: Tensor) -> Tensor:
    """Turns its arguments into boxes around 0, and takes the library's IoU."""
    objects /= 2
    shapes /= 2
    return box_iou(torch.cat([-objects, objects], 1), torch.cat([-shapes, shapes], 1)).amax(1).mean()


def _side_by_side(objects: Tensor, shapes: Tensor) -> Tensor:
    """The shape of the closest area is chosen first, and its IoU is taken."""
    nearest = (objects.prod(1)[:, None] - shapes.prod(1)).abs().argmin(1)
    return shape_iou(objects, shapes)[torch.arange(len(objects)), nearest].mean()


def _sizes() -> Mapping[str, tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(3)
    objects = 4 + 40 * torch.rand(30, 2, generator=draw)
    squares = torch.tensor([[8.0, 8], [16, 16], [32, 32]])
    upright = torch.tensor([[6.0, 12], [12, 24], [12, 6], [20, 20]])
    return {
        "30 objects and three squares": (objects, squares),
        "30 objects and four shapes": (objects, upright),
        "one object of 4 × 16 and a square of 8 × 8": (torch.tensor([[4.0, 16]]), squares[:1]),
        "two objects and two shapes": (torch.tensor([[4.0, 16], [30, 10]]), torch.tensor([[16.0, 4], [9, 33]])),
    }


FIT = Exercise(
    solution=fit,
    wrong={
        "mean_of_all": (
            lambda objects, shapes: shape_iou(objects, shapes).mean(),
            "You take the mean over all pairs. An object needs one shape that fits: take its best one first.",
        ),
        "best_object": (
            lambda objects, shapes: shape_iou(objects, shapes).amax(0).mean(),
            "You take the best object of every shape. Take the best shape of every object.",
        ),
        "best_of_all": (
            lambda objects, shapes: shape_iou(objects, shapes).max(),
            "That is the best pair of all. Take the best shape of each object, then the mean over objects.",
        ),
        "summed": (
            lambda objects, shapes: shape_iou(objects, shapes).amax(1).sum(),
            "You sum over the objects. Divide by their number.",
        ),
        "median": (
            lambda objects, shapes: shape_iou(objects, shapes).amax(1).median(),
            "You take the median over the objects. The mean is asked for.",
        ),
        "areas": (
            lambda objects, shapes: (
                (
                    torch.minimum(objects.prod(1)[:, None], shapes.prod(1)[None])
                    / torch.maximum(objects.prod(1)[:, None], shapes.prod(1)[None])
                )
                .amax(1)
                .mean()
            ),
            "You compare areas. A box of 4 × 16 and one of 8 × 8 have the same area and an IoU of 1/3.",
        ),
        "closest_area": (
            _side_by_side,
            "You choose the shape of the closest area. The best shape is the one with the highest IoU.",
        ),
        "no_intersection_off": (
            _fit_by(lambda inter, own, shape: inter / (own + shape)),
            "Your union counts the intersection twice: subtract it once from the sum of the areas.",
        ),
        "of_the_object": (
            _fit_by(lambda inter, own, shape: inter / own),
            "You divide by the object's area. A shape that covers everything would be perfect: divide by the union.",
        ),
        "of_the_smaller": (
            _fit_by(lambda inter, own, shape: inter / torch.minimum(own, shape)),
            "You divide by the smaller area. IoU divides by the union.",
        ),
        "dice": (
            _fit_by(lambda inter, own, shape: 2 * inter / (own + shape)),
            "That is Dice. IoU divides the intersection by the union.",
        ),
        "apart": (
            _fit_by(lambda inter, own, shape: inter / torch.maximum(own, shape)),
            "You divide by the larger area. The union is larger still, unless one box holds the other.",
        ),
        "turned": (
            lambda objects, shapes: fit(objects, shapes.flip(1)),
            "You compare widths with heights. Both tensors hold the width first.",
        ),
        "share": (
            lambda objects, shapes: (shape_iou(objects, shapes).amax(1) >= 0.5).float().mean(),
            "That is the share of objects with an IoU of 0.5. Return the mean IoU itself.",
        ),
        "worst": (
            lambda objects, shapes: shape_iou(objects, shapes).amin(1).mean(),
            "You take the worst shape of every object.",
        ),
    },
    right={
        "loops": _fit_by_loops,
        "NumPy, float64": _fit_with_numpy,
        "in place, as boxes": _fit_in_place,
        "on a common corner": lambda objects, shapes: (
            box_iou(torch.cat([0 * objects, objects], 1), torch.cat([0 * shapes, shapes], 1)).max(1).values.mean()
        ),
        "a number": lambda objects, shapes: fit(objects, shapes).item(),
    },
    probes=_sizes,
    hint="With a common centre the intersection is as wide as the narrower box and as high as the lower one.",
    sketch="""
        inter = the smaller width × the smaller height of every pair       # (N, A)
        union = area of the object + area of the shape − inter             # (N, A)
        best = the largest of inter / union over …                         # (N,)
        return the mean of …
    """,
)


# Soft-NMS -------------------------------------------------------------------------------------------------------------


def soft(boxes: Tensor, scores: Tensor, sigma: float) -> Tensor:
    """The scores ``(N,)`` that Gaussian soft-NMS leaves to the boxes, in their own order."""
    taken, lowered = soft_nms(boxes, scores, sigma=sigma, threshold=0.0)
    out = torch.zeros_like(scores)
    out[taken] = lowered
    return out


def _gauss(overlap: Tensor, sigma: float) -> Tensor:
    return torch.exp(-(overlap**2) / sigma)


def _soft_loop(
    boxes: Tensor,
    scores: Tensor,
    decay: Callable[[Tensor], Tensor],
    *,
    fixed_order: bool = False,
    itself: bool = False,
    rounds: int = 100,
    lowest: bool = False,
    from_first: bool = False,
) -> Tensor:
    """Soft-NMS with another decay, order, number of rounds, or set of boxes that are lowered."""
    left, out = list(range(len(scores))), scores.clone()
    overlap = box_iou(boxes, boxes)
    while left and rounds:
        best = (min if lowest else max)(left, key=lambda i: float((scores if fixed_order else out)[i]))
        left.remove(best)
        rounds -= 1
        for i in [*left, best] if itself else left:
            out[i] = (scores[i] if from_first else out[i]) * decay(overlap[best, i])
    return out


def _soft(**changes: Any) -> Callable[[Tensor, Tensor, float], Tensor]:
    return lambda boxes, scores, sigma: _soft_loop(boxes, scores, lambda o: _gauss(o, sigma), **changes)


def _decayed(decay: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, Tensor, float], Tensor]:
    return lambda boxes, scores, sigma: _soft_loop(boxes, scores, lambda o: decay(o, sigma))


def _all_pairs(boxes: Tensor, scores: Tensor, sigma: float) -> Tensor:
    overlap = box_iou(boxes, boxes)
    overlap.fill_diagonal_(0)
    return scores * torch.exp(-(overlap**2) / sigma).prod(0)


def _soft_in_place(boxes: Tensor, scores: Tensor, sigma: float) -> Tensor:
    """Lowers the scores that it is given, and marks taken boxes in a copy."""
    open_ = torch.ones(len(scores), dtype=torch.bool)
    while open_.any():
        best = int(torch.where(open_, scores, -1).argmax())
        open_[best] = False
        overlap = box_iou(boxes[best, None], boxes)[0]
        scores *= torch.where(open_, torch.exp(-overlap.square() / sigma), 1)
    return scores


def _soft_with_numpy(boxes: Tensor, scores: Tensor, sigma: float) -> np.ndarray:
    found, overlap = scores.double().numpy().copy(), box_iou(boxes, boxes).double().numpy()
    left = np.arange(len(found))
    while len(left):
        best = left[found[left].argmax()]
        left = left[left != best]
        found[left] *= np.exp(-(overlap[best, left] ** 2) / sigma)
    return found


def _soft_by_sorting(boxes: Tensor, scores: Tensor, sigma: float) -> list[float]:
    """Sorts what is left after every round, as a list of (score, index)."""
    overlap, done = box_iou(boxes, boxes).tolist(), {}
    left = [(s, i) for i, s in enumerate(scores.tolist())]
    while left:
        left.sort(key=lambda pair: -pair[0])
        score, best = left.pop(0)
        done[best] = score
        left = [(s * 2.718281828459045 ** (-(overlap[best][i] ** 2) / sigma), i) for s, i in left]
    return [done[i] for i in range(len(scores))]


def _crowds() -> Mapping[str, tuple[Tensor, Tensor, float]]:
    draw = torch.Generator().manual_seed(4)
    corner, size = 20 * torch.rand(7, 2, generator=draw), 8 + 12 * torch.rand(7, 2, generator=draw)
    crowd = torch.cat([corner, corner + size], 1)
    scores = torch.rand(7, generator=draw)
    row = torch.tensor([[0.0, 0, 12, 10], [4, 0, 16, 10], [8, 0, 20, 10]])
    twins = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [30, 0, 40, 10]])
    return {
        "three boxes in a row": (row, torch.tensor([0.9, 0.8, 0.7]), 0.5),
        "three boxes in a row, the middle one best": (row, torch.tensor([0.7, 0.9, 0.8]), 0.3),
        "a crowd of seven": (crowd, scores, 0.5),
        "a crowd of seven, softer": (crowd, scores, 2.0),
        "two boxes in one place, and a third": (twins, torch.tensor([0.6, 0.9, 0.3]), 0.14),
        "a single box": (row[:1], torch.tensor([0.6]), 0.5),
    }


SOFT = Exercise(
    solution=soft,
    wrong={
        "not_squared": (
            _decayed(lambda o, sigma: torch.exp(-o / sigma)),
            "The IoU is squared in the exponent: exp(−IoU² / σ).",
        ),
        "times_sigma": (
            _decayed(lambda o, sigma: torch.exp(-(o**2) * sigma)),
            "You multiply by σ. Divide by it: a larger σ is softer.",
        ),
        "sigma_squared": (
            _decayed(lambda o, sigma: torch.exp(-(o**2) / sigma**2)),
            "You divide by σ². The exponent is −IoU² / σ.",
        ),
        "twice_sigma": (
            _decayed(lambda o, sigma: torch.exp(-(o**2) / (2 * sigma))),
            "You divide by 2σ. The exponent is −IoU² / σ.",
        ),
        "sigma_outside": (
            _decayed(lambda o, sigma: torch.exp(-(o**2)) / sigma),
            "σ belongs into the exponent.",
        ),
        "rising": (
            _decayed(lambda o, sigma: torch.exp(o**2 / sigma)),
            "Your scores rise with the overlap: the exponent is negative.",
        ),
        "linear": (
            _decayed(lambda o, sigma: 1 - o),
            "That is the linear version, 1 − IoU. The Gaussian one is wanted: exp(−IoU² / σ).",
        ),
        "first_order": (
            _soft(fixed_order=True),
            "You keep the order of the first scores. After every round take the box whose *lowered* score is highest.",
        ),
        "lowest_first": (
            _soft(lowest=True),
            "You take the lowest score first. The highest comes first.",
        ),
        "one_round": (
            _soft(rounds=1),
            "Only the best box lowers the others in your version. Go on with the next one until none is left.",
        ),
        "from_first": (
            _soft(from_first=True),
            "Each round starts again from the first scores in your version. Multiply the scores that are lowered "
            "already.",
        ),
        "sorted": (
            lambda boxes, scores, sigma: soft(boxes, scores, sigma).sort(descending=True).values,
            "You return the scores by falling score. Return them in the order of the boxes.",
        ),
        "itself": (
            _soft(itself=True),
            "A taken box lowers itself in your version: its IoU with itself is 1. Lower only those that are left.",
        ),
        "all_pairs": (
            _all_pairs,
            "In your version every box lowers every other one. Only boxes that are taken lower those still left.",
        ),
        "hard": (
            _decayed(lambda o, sigma: (o <= 0.5).float()),
            "You drop boxes. Soft-NMS keeps them all and multiplies their scores.",
        ),
        "tail_cut": (
            lambda boxes, scores, sigma: torch.where(soft(boxes, scores, sigma) < 0.001, 0, soft(boxes, scores, sigma)),
            "You drop boxes of a low score. Here nobody is dropped: return the small scores too.",
        ),
        "order": (
            lambda boxes, scores, sigma: soft_nms(boxes, scores, sigma=sigma, threshold=0.0)[0],
            "You return the order of the boxes. Return their scores.",
        ),
    },
    right={
        "in place": _soft_in_place,
        "NumPy, float64": _soft_with_numpy,
        "a sorted list": _soft_by_sorting,
    },
    probes=_crowds,
    hint="Take the best box that is left; multiply the scores of the others that are left by exp(−IoU² / σ); repeat.",
    sketch="""
        lowered, left = a copy of the scores, all indices
        while left:
            best = the index in left with …
            take best out of left
            for i in left:
                lowered[i] *= …
        return lowered
    """,
)


# One proposal, one object ---------------------------------------------------------------------------------------------


def strict_recall(iou: Tensor, threshold: float) -> float:
    """The largest share of objects that proposals can reach when each serves one object; ``iou`` is ``(N, P)``."""
    reached = (iou >= threshold).numpy()
    rows, columns = linear_sum_assignment(reached, maximize=True)
    return float(reached[rows, columns].sum()) / len(iou)


def _greedy(iou: Tensor, threshold: float) -> float:
    left, found = iou.clone(), 0
    while left.numel() and left.max() >= threshold:
        n, p = divmod(int(left.argmax()), left.shape[1])
        left[n], left[:, p] = -1, -1
        found += 1
    return found / len(iou)


def _in_turn(iou: Tensor, threshold: float, *, first: bool = False, good: bool = False) -> float:
    """Objects choose in turn among the free proposals: the best, or the first that is good enough."""
    free, found = torch.ones(iou.shape[1], dtype=torch.bool), 0
    for row in iou:
        if not free.any():
            break
        wished = torch.where(free, row, -1)
        p = int(((wished >= threshold).long() if first else wished).argmax())
        if good and row[p] < threshold:
            continue
        free[p] = False
        found += bool(row[p] >= threshold)
    return found / len(iou)


def _fewest_first(iou: Tensor, threshold: float) -> float:
    """Objects choose the first free proposal that suffices, those with the fewest of these first."""
    good, taken = [[p for p, v in enumerate(row) if v >= threshold] for row in iou.tolist()], set()
    for choices in sorted(good, key=len):
        taken.update([p for p in choices if p not in taken][:1])
    return len(taken) / len(iou)


def _largest_sum(values: Tensor, iou: Tensor, threshold: float) -> float:
    """The share of objects that are reached in the assignment with the largest sum of ``values``."""
    return float((iou[linear_sum_assignment(values.numpy(), maximize=True)] >= threshold).sum()) / len(iou)


def _by_paths(iou: Tensor, threshold: float) -> float:
    """Augmenting paths, by hand, on lists."""
    good = [[p for p, v in enumerate(row) if v >= threshold] for row in iou.tolist()]
    owner: dict[int, int] = {}

    def find(n: int, seen: set[int]) -> bool:
        for p in good[n]:
            if p not in seen:
                seen.add(p)
                if p not in owner or find(owner[p], seen):
                    owner[p] = n
                    return True
        return False

    return sum(find(n, set()) for n in range(len(good))) / len(good)


def _by_costs(iou: Tensor, threshold: float) -> Tensor:
    """Writes costs into the argument: 0 for a pair that is good enough, 1 for another."""
    iou[iou < threshold] = -1.0
    iou[iou >= threshold] = 0.0
    rows, columns = linear_sum_assignment(-iou.numpy())
    return (iou[rows, columns] == 0).double().sum() / len(iou)


def _by_graph(iou: Tensor, threshold: float) -> np.floating[Any]:
    matched = maximum_bipartite_matching(csr_matrix((iou >= threshold).numpy()), perm_type="column")
    return np.mean(matched >= 0)


def _tables() -> Mapping[str, tuple[Tensor, float]]:
    draw = torch.Generator().manual_seed(6)
    return {
        "one proposal on two objects": (torch.tensor([[0.6, 0.1], [0.7, 0.2]]), 0.5),
        "an object that could take another": (torch.tensor([[0.9, 0.6], [0.8, 0.1]]), 0.5),
        "the second needs what the first likes": (torch.tensor([[0.6, 0.55], [0.9, 0.1]]), 0.5),
        "the first likes what it does not need": (torch.tensor([[0.55, 0.9], [0.1, 0.6]]), 0.5),
        "one high IoU or two sufficient ones": (torch.tensor([[0.99, 0.5], [0.5, 0.1]]), 0.5),
        "one high IoU or two that just suffice": (torch.tensor([[0.95, 0.4], [0.42, 0.0]]), 0.375),
        "the first cannot use what it likes": (torch.tensor([[0.4, 0.1], [0.7, 0.2]]), 0.5),
        "one proposal that two need, one object with three": (
            torch.tensor([[0.8, 0.7, 0.6], [0.9, 0.1, 0.1], [0.75, 0.2, 0.0]]),
            0.5,
        ),
        "three objects with two proposals each": (torch.tensor([[0.8, 0.6, 0], [0.7, 0, 0.9], [0.6, 0, 0.75]]), 0.5),
        "a high threshold": (torch.tensor([[0.8, 0.1], [0.2, 0.95]]), 0.9),
        "an IoU of exactly 0.5": (torch.tensor([[0.5, 0.0, 0.3]]), 0.5),
        "no pair that suffices": (torch.tensor([[0.2, 0.1], [0.3, 0.4]]), 0.5),
        "five objects and eight proposals": (torch.rand(5, 8, generator=draw) ** 2, 0.5),
        "six objects and three proposals": (torch.rand(6, 3, generator=draw), 0.4),
        "a chain of five": (
            0.7 * torch.eye(5) + 0.6 * torch.diag(torch.ones(4), 1) - 0.7 * torch.diag(torch.tensor([0.0, 0, 0, 0, 1])),
            0.5,
        ),
    }


STRICT = Exercise(
    solution=strict_recall,
    wrong={
        "shared": (
            lambda iou, threshold: float((iou.amax(1) >= threshold).float().mean()),
            "One proposal serves several objects in your version. Each may serve one.",
        ),
        "greedy": (
            _greedy,
            "You give away the highest IoU first. An object may take another proposal so that both are found: use "
            "scipy.optimize.linear_sum_assignment.",
        ),
        "in_turn": (
            _in_turn,
            "Objects choose in turn in your version, and the first may take what only the second could use.",
        ),
        "in_turn_if_good": (
            lambda iou, threshold: _in_turn(iou, threshold, good=True),
            "Each object takes the best free proposal that suffices in your version, although another could need it.",
        ),
        "first_fit": (
            lambda iou, threshold: _in_turn(iou, threshold, first=True, good=True),
            "Each object takes the first free proposal that suffices. It may have to leave that one to another object.",
        ),
        "fewest_first": (
            _fewest_first,
            "Objects with the fewest proposals choose first in your version. That helps, but not always.",
        ),
        "largest_sum": (
            lambda iou, threshold: _largest_sum(iou, iou, threshold),
            "You maximise the sum of the IoUs. Maximise the number of pairs that reach the threshold.",
        ),
        "zeroed": (
            lambda iou, threshold: _largest_sum(torch.where(iou >= threshold, iou, 0), iou, threshold),
            "You maximise the sum of the IoUs that suffice: one very high IoU can outweigh two that suffice. Let every "
            "pair that suffices count 1.",
        ),
        "precision": (
            lambda iou, threshold: strict_recall(iou, threshold) * len(iou) / iou.shape[1],
            "You divide by the number of proposals. Recall divides by the number of objects.",
        ),
        "of_the_pairs": (
            lambda iou, threshold: strict_recall(iou, threshold) * len(iou) / min(iou.shape),
            "You divide by the number of pairs. Objects without a proposal count too: divide by the number of objects.",
        ),
        "counted": (
            lambda iou, threshold: strict_recall(iou, threshold) * len(iou),
            "That is the number of objects that are reached. Divide by the number of all objects.",
        ),
        "above": (
            lambda iou, threshold: strict_recall(iou - 1e-6, threshold),
            "A pair whose IoU equals the threshold counts too.",
        ),
        "proposals": (
            lambda iou, threshold: float((iou.amax(0) >= threshold).sum()) / len(iou),
            "You count the proposals that lie on an object. Several may lie on the same one.",
        ),
        "fewer_of_both": (
            lambda iou, threshold: min(int((iou.amax(a) >= threshold).sum()) for a in (0, 1)) / len(iou),
            "You count rows and columns that suffice and take the smaller number. They may need the same partner.",
        ),
        "at_one_half": (
            lambda iou, threshold: strict_recall(iou, 0.5),
            "You compare with 0.5. The threshold is an argument.",
        ),
    },
    right={
        "augmenting paths": _by_paths,
        "costs, in place, float64": _by_costs,
        "a matching of a graph, NumPy": _by_graph,
    },
    probes=_tables,
    hint="Which pairs reach the threshold? Choose as many as you can without using a row or a column twice.",
    sketch="""
        good = which pairs reach the threshold                             # (N, P) bool
        rows, columns = linear_sum_assignment(…, maximize=True)
        return the number of chosen pairs that are good / …
    """,
)


# The flipped image ---------------------------------------------------------------------------------------------------


def flip_boxes(boxes: Tensor, width: int) -> Tensor:
    """Boxes ``(P, 4)`` in the flipped image."""
    x0, y0, x1, y1 = boxes.unbind(1)
    return torch.stack([width - x1, y0, width - x0, y1], 1)


def agreement(propose: Propose, image: Tensor) -> Tensor:
    """The share of the proposals that are proposed in the flipped image too, with IoU 0.5 or more."""
    return _agree(propose(image), flip_boxes(propose(image.flip(-1)), image.shape[-1]))


def _agree(boxes: Tensor, others: Tensor) -> Tensor:
    return (box_iou(boxes, others) >= 0.5).any(1).float().mean()  # no others: none comes back


def _back(propose: Propose, image: Tensor) -> tuple[Tensor, Tensor]:
    return propose(image), flip_boxes(propose(image.flip(-1)), image.shape[-1])


def _swapped(propose: Propose, image: Tensor) -> Tensor:
    x0, y0, x1, y1 = propose(image.flip(-1)).unbind(1)
    return _agree(propose(image), torch.stack([image.shape[-1] - x0, y0, image.shape[-1] - x1, y1], 1))


def _agree_one_to_one(propose: Propose, image: Tensor) -> float:
    boxes, others = _back(propose, image)
    return strict_recall(box_iou(boxes, others), 0.5)


def _row_by_row(propose: Propose, image: Tensor) -> Tensor:
    boxes, others = _back(propose, image)
    n = min(len(boxes), len(others))
    return (box_iou(boxes[:n], others[:n]).diagonal() >= 0.5).sum() / len(boxes)


def _agree_in_place(propose: Propose, image: Tensor) -> Tensor:
    """Flips the image that it is given, and turns the boxes over in place."""
    boxes = propose(image)
    image[:] = image.flip(-1)
    others = propose(image)
    others[:, ::2] = image.shape[-1] - others[:, [2, 0]]
    return (box_iou(boxes, others) >= 0.5).any(1).double().mean()


def _agree_by_loops(propose: Propose, image: Tensor) -> float:
    width, found = image.shape[2], 0
    boxes, others = propose(image).tolist(), propose(image.flip(2)).tolist()
    for x0, y0, x1, y1 in boxes:
        for u0, v0, u1, v1 in others:
            w = min(x1, width - u0) - max(x0, width - u1)
            h = min(y1, v1) - max(y0, v0)
            inter = max(w, 0) * max(h, 0)
            if inter / ((x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - inter) >= 0.5:
                found += 1
                break
    return found / len(boxes)


def _agree_with_numpy(propose: Propose, image: Tensor) -> np.floating[Any]:
    """Flips the first boxes instead of the others."""
    boxes, others = propose(image).numpy(), propose(torch.from_numpy(image.numpy()[:, :, ::-1].copy()))
    boxes = np.stack([image.shape[-1] - boxes[:, 2], boxes[:, 1], image.shape[-1] - boxes[:, 0], boxes[:, 3]], 1)
    return (box_iou(torch.from_numpy(boxes), others).numpy().max(1) >= 0.5).mean()


def _windows(size: int, step: int, threshold: float) -> Propose:
    """A toy proposer: the windows of a grid that begins at the left whose mean brightness exceeds a threshold."""

    def propose(image: Tensor) -> Tensor:
        grey, found = image.mean(0), []
        for y in range(0, grey.shape[0] - size + 1, step):
            for x in range(0, grey.shape[1] - size + 1, step):
                if grey[y : y + size, x : x + size].mean() > threshold:
                    found.append([x, y, x + size, y + size])
        return torch.tensor(found, dtype=torch.float32)

    return propose


def _listed(plain: list[list[float]], flipped: list[list[float]]) -> Propose:
    """A proposer with an answer for an image that is bright at the top left, and one for all others."""
    return lambda image: torch.tensor(plain if image[0, 0, 0] > 0.5 else flipped)


def _images() -> Mapping[str, tuple[Propose, Tensor]]:
    image = torch.zeros(3, 32, 35)
    image[:, 2:16, 3:18] = 0.9
    image[:, 20:28, 12:19] = 0.8
    image[:, 6:12, 25:30] = 1.0
    corner = torch.zeros(3, 20, 24)
    corner[:, 0, 0] = 1.0
    return {
        "windows of 6 pixels, 4 apart": (_windows(6, 4, 0.3), image),
        "windows of 5 pixels, 2 apart": (_windows(5, 2, 0.6), image),
        "windows of 4 pixels, 3 apart": (_windows(4, 3, 0.4), image),
        "windows of 12 pixels, 5 apart": (_windows(12, 5, 0.25), image),
        "windows of 1 pixel": (_windows(1, 1, 0.5), image),
        # in an image 24 wide, the flipped [18, 2, 22, 4] is [2, 2, 6, 4]: half of the first box
        "an IoU of exactly 0.5": (_listed([[2, 2, 6, 6], [8, 8, 12, 12]], [[18, 2, 22, 4], [2, 2, 6, 6]]), corner),
        "two boxes near one": (_listed([[2, 2, 6, 6], [2, 2, 6, 5], [9, 9, 12, 12]], [[18, 2, 22, 6]]), corner),
        "a box that lies just short": (_listed([[2, 2, 6, 6], [10, 3, 14, 9]], [[18, 2, 22, 3.9]]), corner),
    }


FLIP = Exercise(
    solution=agreement,
    wrong={
        "not_back": (
            lambda propose, image: _agree(propose(image), propose(image.flip(-1))),
            "You compare boxes of the image with boxes of the flipped one. Flip the boxes back first.",
        ),
        "corners": (
            _swapped,
            "Your flipped boxes have their left edge right of their right one: the new left edge is W − x₁.",
        ),
        "height": (
            lambda propose, image: _agree(propose(image), flip_boxes(propose(image.flip(-1)), image.shape[-2])),
            "You flip with the height. An image is (3, H, W), and x runs along W.",
        ),
        "less_one": (
            lambda propose, image: _agree(propose(image), flip_boxes(propose(image.flip(-1)), image.shape[-1] - 1)),
            "You flip with W − 1, which is right for pixel indices. Box corners are continuous: x becomes W − x.",
        ),
        "other_share": (
            lambda propose, image: _agree(*reversed(_back(propose, image))),
            "That is the share of the flipped image's boxes. Ask for those of the image.",
        ),
        "mean_iou": (
            lambda propose, image: box_iou(*_back(propose, image)).amax(1).mean(),
            "That is the mean IoU. Return the share of boxes with an IoU of 0.5 or more.",
        ),
        "above": (
            lambda propose, image: (box_iou(*_back(propose, image)).amax(1) > 0.5).float().mean(),
            "A box whose best IoU is exactly 0.5 has come back too.",
        ),
        "one_to_one": (
            _agree_one_to_one,
            "You pair the boxes one to one. A box counts when *any* of the others overlaps it; several may share one.",
        ),
        "row_by_row": (
            _row_by_row,
            "You compare the first box with the first, the second with the second. Compare every box with all others.",
        ),
        "touching": (
            lambda propose, image: (box_iou(*_back(propose, image)).amax(1) > 0).float().mean(),
            "Any overlap counts in your version. Ask for an IoU of 0.5 or more.",
        ),
        "counted": (
            lambda propose, image: (box_iou(*_back(propose, image)).amax(1) >= 0.5).sum(),
            "That is the number of boxes that came back. Return their share.",
        ),
        "pairs": (
            lambda propose, image: (box_iou(*_back(propose, image)) >= 0.5).float().mean(),
            "That is the share of all pairs. For each box ask whether any of the others overlaps it enough.",
        ),
        "boxes_alone": (
            lambda propose, image: _agree(propose(image), flip_boxes(propose(image), image.shape[-1])),
            "You flip the boxes alone. Propose on the flipped image too.",
        ),
        "upside_down": (
            lambda propose, image: _agree(propose(image), flip_boxes(propose(image.flip(-2)), image.shape[-1])),
            "You turn the image upside down: flip its last axis.",
        ),
    },
    right={
        "in place": _agree_in_place,
        "loops": _agree_by_loops,
        "NumPy, the first boxes flipped": _agree_with_numpy,
    },
    probes=_images,
    hint="Propose on image.flip(-1), flip these boxes back, and see which of the first boxes one of them overlaps.",
    sketch="""
        boxes, others = propose(image), propose(image flipped along …)
        back = others with x0 = width − …, x1 = width − …
        overlap = box_iou(boxes, back)                                     # (P, P')
        return the mean over boxes of "some overlap is … or more"
    """,
)


EXERCISES = {
    **PIPELINE,
    "ch07.survivors": SURVIVORS,
    "ch07.fit": FIT,
    "ch07.soft": SOFT,
    "ch07.strict": STRICT,
    "ch07.flip": FLIP,
    "ch07.fewer": FEWER,
}
