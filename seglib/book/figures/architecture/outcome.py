"""What the network answers, painted, and what a switch changes about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from seglib.book.figures.architecture import paint
from seglib.metrics.pq import PanopticQuality
from seglib.ops.boxes import box_iou
from seglib.ops.masks import mask_iou
from seglib.ops.panoptic import panoptic_to_semantic
from seglib.types import VOID, Category, Instances, Panoptic


class Outcome(Protocol):
    """How a model's answer is painted and compared."""

    base: bool
    """Whether the layer lies over the image."""

    def value(self, out: Any, prediction: Any) -> Any:
        """What is painted and compared, from the model's output and its prediction."""

    def layer(self, value: Any, categories: Sequence[Category]) -> str:
        """A PNG in base64."""

    def whole(self, value: Any, target: Any, categories: Sequence[Category]) -> str:
        """What is said of the whole network's answer."""

    def change(self, value: Any, whole: Any, target: Any, categories: Sequence[Category]) -> str:
        """What is said when something is off."""


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%" if share else "None"


class Labels:
    """A label map; the target is the true one, ``(H, W)``."""

    base = False

    def value(self, out: Any, prediction: Any) -> Tensor:
        """``(H, W)`` labels."""
        return paint.class_map(prediction)

    def layer(self, value: Tensor, categories: Sequence[Category]) -> str:
        """The map in class colours."""
        return paint.classes(value, categories)

    def whole(self, value: Tensor, target: Tensor | None, categories: Sequence[Category]) -> str:
        """The mean IoU, where there is a target."""
        if target is None:
            return ""
        ious = self._ious(value, target)
        return f"Mean IoU on this image, over its {len(ious)} classes: {_mean(ious):.2f}."

    def change(self, value: Tensor, whole: Tensor, target: Tensor | None, categories: Sequence[Category]) -> str:
        """The share of pixels that change, and where there is a target the mean IoU before and after."""
        said = f"{_percent(float((value != whole).double().mean()))} of the pixels change their class."
        if target is None:
            return said
        before, after = self._ious(whole, target), self._ious(value, target)
        said += f" Mean IoU on this image: {_mean(before):.2f} → {_mean(after):.2f}."
        worst = min(before, key=lambda k: (round(after[k] - before[k], 3), k))
        if before[worst] - after[worst] >= 0.05:
            said += f" Most is lost for {categories[worst].name}: {before[worst]:.2f} → {after[worst]:.2f}."
        return said

    @staticmethod
    def _ious(value: Tensor, target: Tensor) -> dict[int, float]:
        """The IoU of each class that the target holds."""
        known = target != VOID
        found = {}
        for k in sorted(set(target[known].tolist())):
            a, b = (value == k) & known, target == k
            found[k] = float((a & b).sum() / (a | b).sum())
        return found


def _mean(values: dict[int, float]) -> float:
    return sum(values.values()) / len(values) if values else float("nan")


class Detections:
    """Objects with a score of at least ``least``; the target is the true :class:`Instances`."""

    base = True

    def __init__(self, least: float = 0.5) -> None:
        self.least = least

    def value(self, out: Any, prediction: Instances) -> Instances:
        """The objects that are shown."""
        if prediction.scores is None:
            raise ValueError("the predicted instances have no scores; pass a detector's prediction")
        return prediction[prediction.scores >= self.least]

    def layer(self, value: Instances, categories: Sequence[Category]) -> str:
        """The masks in class colours."""
        return paint.instances(value, categories)

    def whole(self, value: Instances, target: Instances | None, categories: Sequence[Category]) -> str:
        """How many objects there are, and how many of the true ones are found."""
        said = f"{len(value)} detections with a score of at least {self.least:g}."
        if target is None:
            return said
        return said + f" Found: {self._found(value, target)} of {len(target)} objects (right class, mask IoU ≥ 0.5)."

    def change(
        self, value: Instances, whole: Instances, target: Instances | None, categories: Sequence[Category]
    ) -> str:
        """The pixels that change, the number of detections, and of found objects."""
        share = float((self._classes(value) != self._classes(whole)).double().mean())
        said = f"{_percent(share)} of the pixels change their class; {len(whole)} → {len(value)} detections."
        if target is None:
            return said
        before, after = self._found(whole, target), self._found(value, target)
        return said + f" Found: {before} → {after} of {len(target)} objects (right class, mask IoU ≥ 0.5)."

    @staticmethod
    def _classes(found: Instances) -> Tensor:
        """The class of every pixel, that of the best detection that holds it, −1 for none: ``(H, W)``."""
        labels = torch.full(found.size, -1)
        for one in reversed(list(found)):
            labels[one.masks[0]] = int(one.labels)
        return labels

    @staticmethod
    def _found(found: Instances, target: Instances) -> int:
        if not len(found) or not len(target):
            return 0
        hits = (mask_iou(target.masks, found.masks) >= 0.5) & (target.labels[:, None] == found.labels)
        return int(hits.any(1).sum())


class Segments:
    """A panoptic map; the target is the true :class:`~seglib.types.Panoptic`."""

    base = False

    def value(self, out: Any, prediction: Panoptic) -> Panoptic:
        """The map and its segments."""
        return prediction

    def layer(self, value: Panoptic, categories: Sequence[Category]) -> str:
        """Stuff in class colours, things in shades of theirs, void striped."""
        return paint.panoptic(value, categories)

    def whole(self, value: Panoptic, target: Panoptic | None, categories: Sequence[Category]) -> str:
        """How many segments there are and how much is void, and where there is a target PQ."""
        said = f"{self._segments(value)}; {self._void(value)} of the pixels are void."
        if target is None:
            return said
        pq = self._pq(value, target, categories)
        return said + f" PQ on this image: {pq[0]:.2f}, of things {pq[1]:.2f}, of stuff {pq[2]:.2f}."

    def change(self, value: Panoptic, whole: Panoptic, target: Panoptic | None, categories: Sequence[Category]) -> str:
        """The pixels that change, the void ones, and where there is a target PQ before and after."""
        share = float((panoptic_to_semantic(value) != panoptic_to_semantic(whole)).double().mean())
        said = f"{_percent(share)} of the pixels change their class; {self._segments(value)}."
        said += f" Void: {self._void(whole)} → {self._void(value)} of the pixels."
        if target is None:
            return said
        pairs = zip(self._pq(whole, target, categories), self._pq(value, target, categories), strict=True)
        every, things, stuff = (f"{before:.2f} → {after:.2f}" for before, after in pairs)
        return said + f" PQ on this image: {every}, of things {things}, of stuff {stuff}."

    @staticmethod
    def _segments(value: Panoptic) -> str:
        things = sum(s.isthing for s in value.segments)
        return f"{things} segments of things and {len(value.segments) - things} of stuff"

    @staticmethod
    def _void(value: Panoptic) -> str:
        return f"{100 * float((value.map == 0).double().mean()):.1f}%"

    @staticmethod
    def _pq(value: Panoptic, target: Panoptic, categories: Sequence[Category]) -> tuple[float, float, float]:
        """PQ over all classes, over things and over stuff."""
        metric = PanopticQuality(categories)
        metric.update(value, target)
        scores = metric.compute()
        return scores.pq, scores.things.pq, scores.stuff.pq


class Proposals:
    """The best boxes of a region proposal network; the target is the true :class:`Instances`."""

    base = True

    def __init__(self, drawn: int = 30) -> None:
        self.drawn = drawn

    def value(self, out: Any, prediction: Any) -> tuple[Tensor, tuple[int, int]]:
        """Boxes ``(P, 4)`` by falling score, and the size of the image."""
        height, width = out.sizes[0].tolist()
        return out.proposals[0][out.proposal_scores[0] > -torch.inf].cpu(), (height, width)

    def layer(self, value: tuple[Tensor, tuple[int, int]], categories: Sequence[Category]) -> str:
        """The frames of the best ones."""
        boxes, size = value
        return paint.frames([(boxes[: self.drawn].flip(0), paint.ORANGE)], size)

    def whole(self, value: Any, target: Instances | None, categories: Sequence[Category]) -> str:
        """How many objects are hit."""
        boxes, _ = value
        said = f"The best {min(self.drawn, len(boxes))} of {len(boxes)} proposals are drawn."
        if target is None:
            return said
        return said + f" All proposals together hit {self._hit(boxes, target)} of {len(target)} objects (IoU ≥ 0.5)."

    def change(self, value: Any, whole: Any, target: Instances | None, categories: Sequence[Category]) -> str:
        """How many proposals are new, and how many objects are hit."""
        boxes, before = value[0], whole[0]
        near = box_iou(boxes, before).amax(1) >= 0.7 if len(boxes) and len(before) else boxes.new_zeros(len(boxes))
        said = f"{int((near == 0).sum())} of {len(boxes)} proposals lie elsewhere (IoU < 0.7 with all of before)."
        if target is None:
            return said
        hit = f"{self._hit(before, target)} → {self._hit(boxes, target)}"
        return said + f" Objects hit (IoU ≥ 0.5): {hit} of {len(target)}."

    @staticmethod
    def _hit(boxes: Tensor, target: Instances) -> int:
        if not len(boxes) or not len(target):
            return 0
        return int((box_iou(target.boxes, boxes).amax(1) >= 0.5).sum())
