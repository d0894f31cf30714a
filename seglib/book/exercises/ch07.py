"""The exercises of chapter 7: boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from seglib.book.exercise import Exercise
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
    },
    hint="Write down the order of the scores. Take the first, cross out all that overlap it too much, and go on with "
    "what is left. IoU is 7/13 for neighbours and 4/16 two places away. Give letters in the order of the alphabet.",
)


# Do these anchors suit my data? ---------------------------------------------------------------------------------------


def shape_iou(things: Tensor, shapes: Tensor) -> Tensor:
    """IoU ``(N, A)`` of boxes with a common centre, of sizes ``(N, 2)`` and ``(A, 2)``."""
    inter = torch.minimum(things[:, None], shapes[None]).prod(2)  # (N, A)
    return inter / (things.prod(1)[:, None] + shapes.prod(1)[None] - inter)


def fit(things: Tensor, shapes: Tensor) -> Tensor:
    """The mean over things of the IoU with the shape that fits it best, both centred on one point."""
    return shape_iou(things, shapes).amax(1).mean()


def _sizes() -> Mapping[str, tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(3)
    things = 4 + 40 * torch.rand(30, 2, generator=draw)
    squares = torch.tensor([[8.0, 8], [16, 16], [32, 32]])
    upright = torch.tensor([[6.0, 12], [12, 24], [12, 6], [20, 20]])
    return {
        "30 things and three squares": (things, squares),
        "30 things and four shapes": (things, upright),
        "one thing of 4 × 16 and a square of 8 × 8": (torch.tensor([[4.0, 16]]), squares[:1]),
    }


FIT = Exercise(
    solution=fit,
    wrong={
        "mean_of_all": (
            lambda things, shapes: shape_iou(things, shapes).mean(),
            "You take the mean over all pairs. A thing needs one shape that fits: take its best one first.",
        ),
        "best_thing": (
            lambda things, shapes: shape_iou(things, shapes).amax(0).mean(),
            "You take the best thing of every shape. Take the best shape of every thing.",
        ),
        "areas": (
            lambda things, shapes: (
                (
                    torch.minimum(things.prod(1)[:, None], shapes.prod(1)[None])
                    / torch.maximum(things.prod(1)[:, None], shapes.prod(1)[None])
                )
                .amax(1)
                .mean()
            ),
            "You compare areas. A box of 4 × 16 and one of 8 × 8 have the same area and an IoU of 1/3.",
        ),
        "no_intersection_off": (
            lambda things, shapes: (
                (
                    torch.minimum(things[:, None], shapes[None]).prod(2)
                    / (things.prod(1)[:, None] + shapes.prod(1)[None])
                )
                .amax(1)
                .mean()
            ),
            "Your union counts the intersection twice: subtract it once from the sum of the areas.",
        ),
        "share": (
            lambda things, shapes: (shape_iou(things, shapes).amax(1) >= 0.5).float().mean(),
            "That is the share of things with an IoU of 0.5. Return the mean IoU itself.",
        ),
        "worst": (
            lambda things, shapes: shape_iou(things, shapes).amin(1).mean(),
            "You take the worst shape of every thing.",
        ),
    },
    probes=_sizes,
    hint="With a common centre the intersection is as wide as the narrower box and as high as the lower one.",
)


# Soft-NMS -------------------------------------------------------------------------------------------------------------


def soft(boxes: Tensor, scores: Tensor, sigma: float) -> Tensor:
    """The scores ``(N,)`` that Gaussian soft-NMS leaves to the boxes, in their own order."""
    taken, lowered = soft_nms(boxes, scores, sigma=sigma, threshold=0.0)
    out = torch.zeros_like(scores)
    out[taken] = lowered
    return out


def _soft_loop(
    boxes: Tensor, scores: Tensor, decay: Callable[[Tensor], Tensor], *, fixed_order: bool = False, itself: bool = False
) -> Tensor:
    """Soft-NMS with another decay; with the order of the first scores; or with boxes that lower themselves."""
    left, out = list(range(len(scores))), scores.clone()
    overlap = box_iou(boxes, boxes)
    while left:
        best = max(left, key=lambda i: float((scores if fixed_order else out)[i]))
        left.remove(best)
        for i in [*left, best] if itself else left:
            out[i] = out[i] * decay(overlap[best, i])
    return out


def _all_pairs(boxes: Tensor, scores: Tensor, sigma: float) -> Tensor:
    overlap = box_iou(boxes, boxes)
    overlap.fill_diagonal_(0)
    return scores * torch.exp(-(overlap**2) / sigma).prod(0)


def _heaps() -> Mapping[str, tuple[Tensor, Tensor, float]]:
    draw = torch.Generator().manual_seed(4)
    corner, size = 20 * torch.rand(7, 2, generator=draw), 8 + 12 * torch.rand(7, 2, generator=draw)
    heap = torch.cat([corner, corner + size], 1)
    scores = torch.rand(7, generator=draw)
    row = torch.tensor([[0.0, 0, 12, 10], [4, 0, 16, 10], [8, 0, 20, 10]])
    return {
        "three boxes in a row": (row, torch.tensor([0.9, 0.8, 0.7]), 0.5),
        "three boxes in a row, the middle one best": (row, torch.tensor([0.7, 0.9, 0.8]), 0.3),
        "a heap of seven": (heap, scores, 0.5),
        "a heap of seven, softer": (heap, scores, 2.0),
        "a single box": (row[:1], torch.tensor([0.6]), 0.5),
    }


SOFT = Exercise(
    solution=soft,
    wrong={
        "not_squared": (
            lambda boxes, scores, sigma: _soft_loop(boxes, scores, lambda o: torch.exp(-o / sigma)),
            "The IoU is squared in the exponent: exp(−IoU² / σ).",
        ),
        "times_sigma": (
            lambda boxes, scores, sigma: _soft_loop(boxes, scores, lambda o: torch.exp(-(o**2) * sigma)),
            "You multiply by σ. Divide by it: a larger σ is softer.",
        ),
        "linear": (
            lambda boxes, scores, sigma: _soft_loop(boxes, scores, lambda o: 1 - o),
            "That is the linear version, 1 − IoU. The Gaussian one is wanted: exp(−IoU² / σ).",
        ),
        "first_order": (
            lambda boxes, scores, sigma: _soft_loop(
                boxes, scores, lambda o: torch.exp(-(o**2) / sigma), fixed_order=True
            ),
            "You keep the order of the first scores. After every round take the box whose *lowered* score is highest.",
        ),
        "sorted": (
            lambda boxes, scores, sigma: soft(boxes, scores, sigma).sort(descending=True).values,
            "You return the scores by falling score. Return them in the order of the boxes.",
        ),
        "itself": (
            lambda boxes, scores, sigma: _soft_loop(boxes, scores, lambda o: torch.exp(-(o**2) / sigma), itself=True),
            "A taken box lowers itself in your version: its IoU with itself is 1. Lower only those that are left.",
        ),
        "all_pairs": (
            _all_pairs,
            "In your version every box lowers every other one. Only boxes that are taken lower those still left.",
        ),
        "hard": (
            lambda boxes, scores, sigma: _soft_loop(boxes, scores, lambda o: (o <= 0.5).float()),
            "You drop boxes. Soft-NMS keeps them all and multiplies their scores.",
        ),
    },
    probes=_heaps,
    hint="Take the best box that is left; multiply the scores of the others that are left by exp(−IoU² / σ); repeat.",
)


# One proposal, one thing ----------------------------------------------------------------------------------------------


def strict_recall(iou: Tensor, threshold: float) -> float:
    """The largest share of things that proposals can reach when each serves one thing; ``iou`` is ``(N, P)``."""
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


def _by_thing(iou: Tensor, threshold: float) -> float:
    """Things choose in turn, each the best proposal that is left, whether or not it is good enough."""
    free, found = torch.ones(iou.shape[1], dtype=torch.bool), 0
    for row in iou:
        if not free.any():
            break
        p = int(torch.where(free, row, -1).argmax())
        free[p] = False
        found += bool(row[p] >= threshold)
    return found / len(iou)


def _tables() -> Mapping[str, tuple[Tensor, float]]:
    draw = torch.Generator().manual_seed(6)
    return {
        "one proposal on two things": (torch.tensor([[0.6, 0.1], [0.7, 0.2]]), 0.5),
        "a thing that could take another": (torch.tensor([[0.9, 0.6], [0.8, 0.1]]), 0.5),
        "the second needs what the first likes": (torch.tensor([[0.6, 0.55], [0.9, 0.1]]), 0.5),
        "one high IoU or two sufficient ones": (torch.tensor([[0.99, 0.5], [0.5, 0.1]]), 0.5),
        "an IoU of exactly 0.5": (torch.tensor([[0.5, 0.0, 0.3]]), 0.5),
        "five things and eight proposals": (torch.rand(5, 8, generator=draw) ** 2, 0.5),
        "six things and three proposals": (torch.rand(6, 3, generator=draw), 0.4),
    }


STRICT = Exercise(
    solution=strict_recall,
    wrong={
        "shared": (
            lambda iou, threshold: float((iou.amax(1) >= threshold).float().mean()),
            "One proposal serves several things in your version. Each may serve one.",
        ),
        "greedy": (
            _greedy,
            "You give away the highest IoU first. A thing may take another proposal so that both are found: use "
            "scipy.optimize.linear_sum_assignment.",
        ),
        "in_turn": (
            _by_thing,
            "Things choose in turn in your version, and the first may take what only the second could use.",
        ),
        "largest_sum": (
            lambda iou, threshold: float(
                (iou[linear_sum_assignment(iou.numpy(), maximize=True)] >= threshold).sum() / len(iou)
            ),
            "You maximise the sum of the IoUs. Maximise the number of pairs that reach the threshold.",
        ),
        "precision": (
            lambda iou, threshold: strict_recall(iou, threshold) * len(iou) / iou.shape[1],
            "You divide by the number of proposals. Recall divides by the number of things.",
        ),
        "above": (
            lambda iou, threshold: strict_recall(iou - 1e-6, threshold),
            "A pair whose IoU equals the threshold counts too.",
        ),
        "proposals": (
            lambda iou, threshold: float((iou.amax(0) >= threshold).sum()) / len(iou),
            "You count the proposals that lie on a thing. Several may lie on the same one.",
        ),
    },
    probes=_tables,
    hint="Which pairs reach the threshold? Choose as many as you can without using a row or a column twice.",
)


# The flipped image ---------------------------------------------------------------------------------------------------


def flip_boxes(boxes: Tensor, width: int) -> Tensor:
    """Boxes ``(P, 4)`` in the flipped image."""
    x0, y0, x1, y1 = boxes.unbind(1)
    return torch.stack([width - x1, y0, width - x0, y1], 1)


def agreement(propose: Propose, image: Tensor) -> Tensor:
    """The share of the proposals that are proposed in the flipped image too, with IoU 0.5 or more."""
    return _agree(propose(image), flip_boxes(propose(image.flip(-1)), image.shape[-1]))


def _agree(ours: Tensor, others: Tensor) -> Tensor:
    return (box_iou(ours, others).amax(1) >= 0.5).float().mean()


def _swapped(propose: Propose, image: Tensor) -> Tensor:
    x0, y0, x1, y1 = propose(image.flip(-1)).unbind(1)
    return _agree(propose(image), torch.stack([image.shape[-1] - x0, y0, image.shape[-1] - x1, y1], 1))


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


def _images() -> Mapping[str, tuple[Propose, Tensor]]:
    image = torch.zeros(3, 32, 35)
    image[:, 2:16, 3:18] = 0.9
    image[:, 20:28, 12:19] = 0.8
    image[:, 6:12, 25:30] = 1.0
    return {
        "windows of 6 pixels, 4 apart": (_windows(6, 4, 0.3), image),
        "windows of 5 pixels, 2 apart": (_windows(5, 2, 0.6), image),
        "windows of 4 pixels, 3 apart": (_windows(4, 3, 0.4), image),
        "windows of 12 pixels, 5 apart": (_windows(12, 5, 0.25), image),
        "windows of 1 pixel": (_windows(1, 1, 0.5), image),
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
            lambda propose, image: _agree(flip_boxes(propose(image.flip(-1)), image.shape[-1]), propose(image)),
            "That is the share of the flipped image's boxes. Ask for those of the image.",
        ),
        "mean_iou": (
            lambda propose, image: (
                box_iou(propose(image), flip_boxes(propose(image.flip(-1)), image.shape[-1])).amax(1).mean()
            ),
            "That is the mean IoU. Return the share of boxes with an IoU of 0.5 or more.",
        ),
        "upside_down": (
            lambda propose, image: _agree(propose(image), flip_boxes(propose(image.flip(-2)), image.shape[-1])),
            "You turn the image upside down: flip its last axis.",
        ),
    },
    probes=_images,
    hint="Propose on image.flip(-1), flip these boxes back, and see which of the first boxes one of them overlaps.",
)


EXERCISES = {
    "ch07.survivors": SURVIVORS,
    "ch07.fit": FIT,
    "ch07.soft": SOFT,
    "ch07.strict": STRICT,
    "ch07.flip": FLIP,
}
