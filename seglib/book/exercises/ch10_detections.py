"""Chapter 10's exercises on what happens after the heads: merging, thresholds, and a postprocess with faults."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from seglib.book.exercise import Exercise
from seglib.losses.two_stage import BOX_WEIGHTS
from seglib.ops.boxes import box_iou, clip_boxes, decode_boxes
from seglib.ops.nms import nms
from seglib.ops.paste import paste_masks
from seglib.postprocess.instance import detect

Detections = tuple[Tensor, Tensor, Tensor]
Size = tuple[int, int]

# Merging the heads' answers ------------------------------------------------------------------------------------------


def merge_heads(probs: Tensor, deltas: Tensor, rois: Tensor, size: Size, most: int) -> Detections:
    """Boxes, labels and scores of an image's detections, best first."""
    boxes = decode_boxes(deltas, rois[:, None], BOX_WEIGHTS)  # (R, K, 4)
    found = detect(boxes[None], probs[None, :, :-1], size, max_detections=most)
    count = int((found[2][0] > 0).sum())
    return found[0][0, :count], found[1][0, :count], found[2][0, :count]


def _merged(
    *,
    candidates: Callable[[Tensor], Tensor] = lambda p: p[:, :-1] > 0.05,
    threshold: float = 0.5,
    group: Callable[[Tensor], Tensor] = lambda labels: labels,
    own: Callable[[Tensor], Tensor] = lambda labels: labels,
    weights: tuple[float, float, float, float] = BOX_WEIGHTS,
    clip: str = "before",
    merge: Callable[[Tensor, Tensor, int], Tensor] = lambda scores, labels, most: scores.argsort(descending=True)[
        :most
    ],
) -> Callable[[Tensor, Tensor, Tensor, Size, int], Detections]:
    """``merge_heads`` with one step done another way."""

    def merged(probs: Tensor, deltas: Tensor, rois: Tensor, size: Size, most: int) -> Detections:
        roi, label = candidates(probs).nonzero().unbind(1)
        score = probs[roi, label]
        box = decode_boxes(deltas[roi, own(label)], rois[roi], weights)
        box = clip_boxes(box, size) if clip == "before" else box
        kept = [roi[:0]]
        for k in group(label).unique():
            part = (group(label) == k).nonzero()[:, 0]
            kept.append(part[nms(box[part], score[part], threshold)])
        index = torch.cat(kept)
        index = index[merge(score[index], label[index], most)]
        box = clip_boxes(box, size) if clip == "after" else box
        return box[index], label[index], score[index]

    return merged


def _most_of_each(scores: Tensor, labels: Tensor, most: int) -> Tensor:
    order = scores.argsort(descending=True)
    rank = torch.stack([(labels[order][:i] == labels[order][i]).sum() for i in range(len(order))] or [labels.sum()])
    return order[rank[: len(order)] < most]


def _best_class(p: Tensor) -> Tensor:
    best = torch.zeros_like(p, dtype=torch.bool)
    best[torch.arange(len(p)), p.argmax(1)] = True
    return (best & (p > 0.05))[:, :-1]


def _one_class_each(p: Tensor) -> Tensor:
    things = p[:, :-1]
    return (things > 0.05) & (things == things.amax(1, keepdim=True))


def _merge_by_loop(probs: Tensor, deltas: Tensor, rois: Tensor, size: Size, most: int) -> tuple[list, list, list]:
    """Candidate after candidate, best first, each against those of its class that are kept."""
    found = [(float(p), r, k) for r, row in enumerate(probs) for k, p in enumerate(row[:-1]) if p > 0.05]
    boxes: list[Tensor] = []
    labels: list[int] = []
    scores: list[float] = []
    for score, r, k in sorted(found, reverse=True):
        box = clip_boxes(decode_boxes(deltas[r, k][None], rois[r][None], BOX_WEIGHTS), size)
        rivals = [b for b, label in zip(boxes, labels, strict=True) if label == k]
        if not any(float(box_iou(box, b)) > 0.5 for b in rivals):
            boxes.append(box)
            labels.append(k)
            scores.append(score)
    return [b[0].tolist() for b in boxes[:most]] if boxes else rois.new_zeros(0, 4), labels[:most], scores[:most]  # type: ignore[return-value]


def _merge_by_matrix(probs: Tensor, deltas: Tensor, rois: Tensor, size: Size, most: int) -> Detections:
    """All candidates in one list, whose overlaps with other classes are set to 0."""
    roi, label = (probs[:, :-1] > 0.05).nonzero().unbind(1)
    order = probs[roi, label].argsort(descending=True)
    roi, label = roi[order], label[order]
    box = clip_boxes(decode_boxes(deltas[roi, label], rois[roi], BOX_WEIGHTS), size)
    drops = (box_iou(box, box) > 0.5) & (label[:, None] == label)
    alive = torch.ones(len(box), dtype=torch.bool)
    for i in range(len(box)):
        if alive[i]:
            alive[i + 1 :] &= ~drops[i, i + 1 :]
    index = alive.nonzero()[:most, 0]
    return box[index], label[index], probs[roi, label][index]


def _heads() -> Mapping[str, tuple[Tensor, Tensor, Tensor, Size, int]]:
    g = torch.Generator().manual_seed(0)
    size = (40, 60)

    def case(rois: list[list[float]], probs: list[list[float]], most: int = 100, moved: float = 0.0):
        r, p = torch.tensor(rois).view(-1, 4), torch.tensor(probs).view(-1, 4)
        deltas = moved * torch.randn(len(r), 3, 4, generator=g)
        return torch.stack([r]).squeeze(0), deltas, p, most

    near: list[list[float]] = [[4, 4, 24, 24], [5, 4, 25, 24], [40, 8, 52, 30]]
    cases = {
        "two RoIs of one object and one of another": case(
            near, [[0.9, 0.04, 0.03, 0.03], [0.6, 0.3, 0.02, 0.08], [0.03, 0.8, 0.01, 0.16]], moved=0.2
        ),
        "two classes in one RoI": case(near[:1], [[0.4, 0.45, 0.03, 0.12]], moved=0.2),
        "a score of 0.05": case([near[0], near[2]], [[0.05, 0.7, 0.01, 0.24], [0.051, 0.02, 0.6, 0.329]]),
        "background that is sure": case(near, [[0.06, 0.02, 0.01, 0.91], [0.03, 0.02, 0.04, 0.91], [0, 0, 0.3, 0.7]]),
        "boxes that reach beyond the image": case(
            [[-20.0, 4, 12, 24], [-2, 4, 12, 24], [50, 10, 70, 50]],
            [[0.8, 0.02, 0.02, 0.16], [0.7, 0.01, 0.01, 0.28], [0.02, 0.9, 0.02, 0.06]],
        ),
        "two detections at most": case(
            [near[0], near[2], [4.0, 26, 20, 38], [26, 26, 38, 38]],
            [[0.9, 0.01, 0.02, 0.07], [0.8, 0.01, 0.02, 0.17], [0.01, 0.95, 0.01, 0.03], [0.02, 0.3, 0.6, 0.08]],
            2,
        ),
        "two detections at most, three of one class": case(
            [near[0], near[2], [4.0, 26, 20, 38], [26, 26, 38, 38]],
            [[0.9, 0.01, 0.02, 0.07], [0.8, 0.01, 0.02, 0.17], [0.6, 0.03, 0.01, 0.36], [0.02, 0.3, 0.04, 0.64]],
            2,
        ),
        "overlaps of 0.5 and 0.6": case(
            [[0.0, 0, 20, 20], [0, 0, 20, 10], [30, 0, 50, 20], [30, 0, 50, 12]],
            [[0.9, 0.01, 0.02, 0.07], [0.8, 0.01, 0.02, 0.17], [0.01, 0.95, 0.01, 0.03], [0.02, 0.7, 0.04, 0.24]],
        ),
        "nothing above 0.05": case(near, [[0.01, 0.02, 0.03, 0.94]] * 3),
        "no RoIs": case([], []),
    }
    # larger corrections, which differ from class to class
    rois = torch.rand(12, 2, generator=g) * torch.tensor([40.0, 20.0])
    many = torch.cat([rois, rois + 8 + 10 * torch.rand(12, 2, generator=g)], 1)
    out = {name: (p, d, r, size, most) for name, (r, d, p, most) in cases.items()}
    probs = (2 * torch.randn(12, 4, generator=g)).softmax(1)
    out["twelve RoIs"] = (probs, torch.randn(12, 3, 4, generator=g), many, size, 20)
    return out


DETECT = Exercise(
    solution=merge_heads,
    wrong={
        "across_classes": (
            _merged(group=torch.zeros_like),
            "A box of another class is no duplicate: NMS runs within each class.",
        ),
        "best_class": (
            _merged(candidates=_best_class),
            "You ask for each RoI's most probable class. A RoI gives a candidate for *every* class above 0.05.",
        ),
        "one_class_each": (
            _merged(candidates=_one_class_each),
            "A RoI may be found as several classes: each class above 0.05 is a candidate.",
        ),
        "at_least": (
            _merged(candidates=lambda p: p[:, :-1] >= 0.05),
            "A score of exactly 0.05 is dropped: candidates lie above it.",
        ),
        "half": (
            _merged(candidates=lambda p: p[:, :-1] >= 0.5),
            "Candidates have more than 0.05. A threshold of 0.5 is for use, and costs AP.",
        ),
        "all_candidates": (
            _merged(candidates=lambda p: p[:, :-1] > 0),
            "You keep candidates of every score. They must exceed 0.05.",
        ),
        "background": (
            _merged(candidates=lambda p: p > 0.05, own=lambda labels: labels.clamp(max=2)),
            "Background, the last column, is no detection.",
        ),
        "first_class_moves": (
            _merged(own=torch.zeros_like),
            "Each class has deltas of its own: move the box by those of the candidate's class.",
        ),
        "unweighted": (
            _merged(weights=(1.0, 1.0, 1.0, 1.0)),
            "These deltas were trained multiplied: decode with `BOX_WEIGHTS`.",
        ),
        "not_clipped": (_merged(clip="never"), "Boxes are clipped to the image."),
        "clipped_late": (
            _merged(clip="after"),
            "Clip before NMS: two boxes may overlap much in the image and little beyond it.",
        ),
        "nms_07": (_merged(threshold=0.7), "0.7 is the first stage's threshold. Here NMS drops above 0.5."),
        "nms_at_half": (
            _merged(threshold=0.4999),
            "At an IoU of exactly 0.5 both boxes stay: NMS drops above it.",
        ),
        "no_nms": (_merged(threshold=1.0), "Near-duplicates of one class are left: NMS is missing."),
        "class_by_class": (
            _merged(merge=lambda scores, labels, most: torch.arange(len(scores))[:most]),
            "Your detections stand class by class. The best of all classes come first.",
        ),
        "worst_first": (
            _merged(merge=lambda scores, labels, most: scores.argsort()[:most]),
            "Your scores rise. The best come first.",
        ),
        "cut_class_by_class": (
            _merged(merge=_most_of_each),
            "`most` counts the detections of the image, not of each class.",
        ),
        "not_cut": (
            _merged(merge=lambda scores, labels, most: scores.argsort(descending=True)),
            "`most` is the largest number of detections; drop the worst beyond it.",
        ),
    },
    right={"candidate by candidate, as lists": _merge_by_loop, "one matrix of overlaps": _merge_by_matrix},
    probes=_heads,
    hint="Class by class: candidates above 0.05, moved, clipped, NMS. Then all classes together, best first.",
    sketch="""
        for k in range(K):
            candidates = (probs[:, k] > ...).nonzero()[:, 0]
            moved = clip_boxes(decode_boxes(deltas[candidates, ...], ..., BOX_WEIGHTS), size)
            kept = nms(moved, ..., 0.5)
            ...                                   # boxes, labels and scores of what is kept
        order = ...                               # best first, `most` of them
    """,
    tolerance=1e-4,
)


# A threshold for each class ------------------------------------------------------------------------------------------


def class_thresholds(scores: Tensor, correct: Tensor, labels: Tensor, num_classes: int, most_wrong: float) -> Tensor:
    """The lowest threshold of each class at which no more than a share of what is kept is wrong; inf without one."""
    found = torch.full((num_classes,), float("inf"))
    for k in range(num_classes):
        own, right = scores[labels == k], correct[labels == k]
        for t in own.tolist():
            kept = own >= t
            if (kept & ~right).sum() <= most_wrong * kept.sum():
                found[k] = min(float(found[k]), t)
    return found


def _thresholds(
    allowed: Callable[[int, int, float], bool] = lambda wrong, kept, share: wrong <= share * kept,
    *,
    pooled: bool = False,
    first: bool = False,
    run: bool = False,
    absent: float = float("inf"),
    strict: bool = False,
    split: bool = False,
) -> Callable[[Tensor, Tensor, Tensor, int, float], Tensor]:
    """``class_thresholds`` with another condition or another choice among the thresholds that fulfil it."""

    def thresholds(scores: Tensor, correct: Tensor, labels: Tensor, num_classes: int, share: float) -> Tensor:
        found = torch.full((num_classes,), absent)
        for k in range(num_classes):
            chosen = torch.ones_like(correct) if pooled else labels == k
            order = scores[chosen].argsort(descending=True, stable=True)
            own, right = scores[chosen][order], correct[chosen][order]
            good = []
            for i, t in enumerate(own.tolist()):
                kept = torch.arange(len(own)) <= i if split else own > t if strict else own >= t
                ok = bool(kept.any()) and allowed(int((kept & ~right).sum()), int(kept.sum()), share)
                if run and not ok:
                    break
                if ok:
                    good.append(t)
            if good:
                found[k] = max(good) if first else min(good)
        return found

    return thresholds


def _unsorted_thresholds(scores: Tensor, correct: Tensor, labels: Tensor, num_classes: int, share: float) -> Tensor:
    found = torch.full((num_classes,), float("inf"))
    for k in range(num_classes):
        own, wrong = scores[labels == k], (~correct[labels == k]).cumsum(0)
        good = wrong <= share * torch.arange(1, len(own) + 1)
        if good.any():
            found[k] = own[good].min()
    return found


def _thresholds_at_once(scores: Tensor, correct: Tensor, labels: Tensor, num_classes: int, most_wrong: float) -> Tensor:
    same = (labels[:, None] == labels) & (scores[:, None] <= scores)  # (D, D): row's threshold keeps column
    good = (same & ~correct).sum(1) <= most_wrong * same.sum(1)  # (D,)
    own = (labels == torch.arange(num_classes)[:, None]) & good  # (K, D)
    padded = torch.where(own, scores, float("inf"))
    return torch.cat([padded, torch.full((num_classes, 1), float("inf"))], 1).amin(1)


def _thresholds_numpy(
    scores: Tensor, correct: Tensor, labels: Tensor, num_classes: int, most_wrong: float
) -> np.ndarray:
    s, c, y = scores.numpy(), correct.numpy(), labels.numpy()
    found = np.full(num_classes, np.inf)
    for t in sorted(set(s.tolist()), reverse=True):
        for k in range(num_classes):
            kept = (y == k) & (s >= np.float32(t))
            if (kept & (s == np.float32(t))).any() and (~c[kept]).mean() <= most_wrong:
                found[k] = t
    return found


def _judged() -> Mapping[str, tuple[Tensor, Tensor, Tensor, int, float]]:
    def case(rows: list[tuple[float, int, int]], classes: int, share: float):
        scores, correct, labels = zip(*rows, strict=True) if rows else ((), (), ())
        return (
            torch.tensor(scores, dtype=torch.float32),
            torch.tensor(correct, dtype=torch.bool),
            torch.tensor(labels, dtype=torch.int64),
            classes,
            share,
        )

    one = [(0.9, 1, 0), (0.8, 0, 0), (0.7, 1, 0), (0.6, 1, 0), (0.5, 0, 0), (0.4, 0, 0)]
    two = [(0.95, 0, 1), (0.85, 1, 1), (0.75, 1, 1), (0.65, 1, 1), (0.3, 1, 1), (0.2, 0, 1)]
    mixed = [two[2], one[5], two[0], one[1], two[5], one[0], two[1], one[3], one[2], two[4], two[3], one[4]]
    return {
        "two classes": case(mixed, 2, 0.25),
        "half may be wrong": case(mixed, 2, 0.5),
        "none may be wrong": case(mixed, 2, 0.0),
        "a class without detections": case(one, 3, 0.25),
        "a class that is always wrong": case([*one, (0.99, 0, 2), (0.1, 0, 2)], 3, 0.25),
        "equal scores": case([(0.9, 1, 0), (0.6, 1, 0), (0.6, 0, 0), (0.6, 1, 0), (0.3, 0, 0), (0.8, 1, 1)], 2, 0.2),
        "all right": case([(0.3, 1, 0), (0.9, 1, 1), (0.6, 1, 0)], 2, 0.25),
        "nothing detected": case([], 2, 0.25),
    }


THRESHOLDS = Exercise(
    solution=class_thresholds,
    wrong={
        "pooled": (
            _thresholds(pooled=True),
            "You take one threshold from all classes together. Each class is judged by its own detections.",
        ),
        "first": (
            _thresholds(first=True),
            "You return the highest threshold that fulfils the condition. The lowest keeps more.",
        ),
        "run": (
            _thresholds(run=True),
            "You stop where the share first exceeds the limit. It can fall again: look at all the lower scores, too.",
        ),
        "below_the_limit": (
            _thresholds(lambda wrong, kept, share: wrong < share * kept or wrong == 0 == share),
            "A share that is exactly the limit is allowed.",
        ),
        "per_right": (
            _thresholds(lambda wrong, kept, share: wrong <= share * (kept - wrong)),
            "You divide the wrong by the right ones. The share is one of all that are kept.",
        ),
        "share_right": (
            _thresholds(lambda wrong, kept, share: kept - wrong >= share * kept),
            "The limit is one on the wrong ones, not the least share of right ones.",
        ),
        "absent_0": (
            _thresholds(absent=0.0),
            "A class that no threshold serves keeps nothing: its threshold is inf, and 0 would keep all.",
        ),
        "absent_1": (
            _thresholds(absent=1.0),
            "A class that no threshold serves has the threshold inf: a score of 1 would pass yours.",
        ),
        "absent_nan": (
            _thresholds(absent=float("nan")),
            "A class that no threshold serves has the threshold inf, not NaN.",
        ),
        "equal_scores": (
            _thresholds(split=True),
            "A threshold keeps all detections of equal score or none: judge them together.",
        ),
        "strict": (
            _thresholds(strict=True),
            "A detection with exactly the threshold's score is kept.",
        ),
        "unsorted": (_unsorted_thresholds, "The detections come in any order: running counts need falling scores."),
    },
    right={"all thresholds at once": _thresholds_at_once, "NumPy, from the top": _thresholds_numpy},
    probes=_judged,
    hint="For each class try the score of every detection of it as the threshold; keep the lowest that is allowed.",
    sketch="""
        found = torch.full((num_classes,), float("inf"))
        for k in range(num_classes):
            own, right = scores[labels == k], correct[labels == k]
            for t in own:
                kept = ...                        # what t keeps of this class
                if ... <= most_wrong * ...:
                    found[k] = min(found[k], t)
        return found
    """,
)


# A postprocess with faults -------------------------------------------------------------------------------------------


def _scaled(
    boxes: Tensor,
    labels: Tensor,
    scores: Tensor,
    logits: Tensor,
    size: Size,
    output_size: Size,
    *,
    one_scale: bool = False,
    old_border: bool = False,
    all_labels: bool = False,
    unordered: bool = False,
) -> Detections:
    scale = boxes.new_tensor([output_size[1] / size[1], output_size[0] / size[0]] * 2)
    if one_scale:
        scale = boxes.new_tensor(output_size[0] / size[0])
    boxes = clip_boxes(boxes * scale, size if old_border else output_size)
    kept = (scores >= 0.5).nonzero()[:, 0]
    order = scores[kept].argsort(descending=True)
    probs = logits[torch.arange(len(logits)), labels].sigmoid()
    masks = paste_masks(probs[kept], boxes[kept], output_size)
    own = labels if all_labels else labels[kept]
    return boxes[kept][order], own[order], masks if unordered else masks[order]


def repaired(
    boxes: Tensor, labels: Tensor, scores: Tensor, logits: Tensor, size: Size, output_size: Size
) -> Detections:
    """Detections from ½ on at the output's size, best first: boxes, labels and pasted masks."""
    return _scaled(boxes, labels, scores, logits, size, output_size)


def faulty(boxes: Tensor, labels: Tensor, scores: Tensor, logits: Tensor, size: Size, output_size: Size) -> Detections:
    """The lines of the exercise, with all four faults."""
    return _scaled(
        boxes, labels, scores, logits, size, output_size,
        one_scale=True, old_border=True, all_labels=True, unordered=True,
    )  # fmt: skip


def _left(
    *, one_scale: bool = False, old_border: bool = False, all_labels: bool = False, unordered: bool = False
) -> Callable[..., Detections]:
    def left(
        boxes: Tensor, labels: Tensor, scores: Tensor, logits: Tensor, size: Size, output_size: Size
    ) -> Detections:
        return _scaled(
            boxes, labels, scores, logits, size, output_size,
            one_scale=one_scale, old_border=old_border, all_labels=all_labels, unordered=unordered,
        )  # fmt: skip

    return left


def _sorted_first(
    boxes: Tensor, labels: Tensor, scores: Tensor, logits: Tensor, size: Size, output_size: Size
) -> Detections:
    """Puts all in order first, in place."""
    order = scores.argsort(descending=True)
    order = order[scores[order] >= 0.5]
    boxes[:, 0::2] *= output_size[1] / size[1]
    boxes[:, 1::2] *= output_size[0] / size[0]
    boxes, labels = clip_boxes(boxes[order], output_size), labels[order]
    own = logits[order][torch.arange(len(order)), labels]
    return boxes, labels, paste_masks(own.sigmoid(), boxes, output_size)


def _one_at_a_time(
    boxes: Tensor, labels: Tensor, scores: Tensor, logits: Tensor, size: Size, output_size: Size
) -> tuple[Tensor, list[int], Tensor]:
    y, x = output_size[0] / size[0], output_size[1] / size[1]
    rows, names, masks = [boxes.new_zeros(0, 4)], [], [torch.zeros(0, *output_size, dtype=torch.bool)]
    for i in sorted(range(len(scores)), key=lambda i: -float(scores[i])):
        if scores[i] < 0.5:
            break
        row = clip_boxes(boxes[i : i + 1] * torch.tensor([x, y, x, y]), output_size)
        rows.append(row)
        names.append(int(labels[i]))
        masks.append(paste_masks(logits[i, names[-1]][None].sigmoid(), row, output_size))
    return torch.cat(rows), names, torch.cat(masks)


def _outputs() -> Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor, Size, Size]]:
    g = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[2.0, 3, 14, 11], [18, 2, 30, 20], [5, 14, 12, 22], [16, 16, 31, 23]])
    labels = torch.tensor([1, 0, 2, 1])
    logits = 3 * torch.randn(4, 3, 4, 4, generator=g)
    falling, any_order = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0.3, 0.6, 0.5, 0.9])
    return {
        "the same size": (boxes, labels, falling, logits, (24, 32), (24, 32)),
        "an image of twice the size": (boxes, labels, falling, logits, (24, 32), (48, 64)),
        "an output of another shape": (boxes, labels, falling, logits, (24, 32), (36, 64)),
        "scores in any order": (boxes, labels, torch.tensor([0.6, 0.9, 0.7, 0.8]), logits, (24, 32), (24, 32)),
        "scores below one half": (boxes, labels, any_order, logits, (24, 32), (24, 32)),
        "a smaller output of another shape": (boxes, labels, any_order, logits, (24, 32), (20, 16)),
        "no score of one half": (boxes, labels, any_order / 2, logits, (24, 32), (24, 32)),
        "no detections": (boxes[:0], labels[:0], falling[:0], logits[:0], (24, 32), (48, 64)),
    }


BUG = Exercise(
    solution=repaired,
    wrong={
        "as_it_was": (
            faulty,
            "All four faults are still there. Start with an output that has another shape than the input.",
        ),
        "one_scale": (
            _left(one_scale=True),
            "Three are gone. Try an input of 24 × 32 and an output of 36 × 64: where do the right edges lie?",
        ),
        "old_border": (
            _left(old_border=True),
            "Three are gone. Try an output of twice the size: nothing is found in its right half.",
        ),
        "all_labels": (
            _left(all_labels=True),
            "Three are gone. Try a low score at the first place: which class does the best detection get?",
        ),
        "unordered": (
            _left(unordered=True),
            "Three are gone. Try scores that rise: does each mask lie in its box?",
        ),
        "scale_and_border": (
            _left(one_scale=True, old_border=True),
            "The order is right now. Two faults are left in what happens to the boxes.",
        ),
        "labels_and_order": (
            _left(all_labels=True, unordered=True),
            "The boxes are right now. Two faults are left: follow one detection's class and mask through all lines.",
        ),
        "strictly_above": (
            lambda b, k, s, z, i, o: repaired(b, k, s.where(s != 0.5, 0.0), z, i, o),
            "A score of exactly ½ stays in.",
        ),
    },
    right={"all in order first": _sorted_first, "one detection at a time": _one_at_a_time},
    probes=_outputs,
    hint="Not every fault is gone, or a new one came in. Follow one detection through all lines.",
    sketch="""
        scale = boxes.new_tensor([..., ..., ..., ...])  # x and y have a factor each
        boxes = clip_boxes(boxes * scale, ...)    # whose borders?
        ...
        boxes, labels, masks                      # all three filtered by `kept`, then in `order`
    """,
    tolerance=1e-4,
)


EXERCISES: dict[str, Exercise] = {
    "ch10.detect": DETECT,
    "ch10.thresholds": THRESHOLDS,
    "ch10.bug": BUG,
}
