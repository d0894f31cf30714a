"""Average precision of objects, of masks or of boxes, by the rules of COCO.

A detection matches an object of its class when they overlap enough (IoU of at least a threshold) and no better
detection has taken the object. Sorted by score, the detections of a class over all images trace a curve of precision
over recall; AP is the mean height of that curve, over ten thresholds from 0.5 to 0.95 and over the classes. Source:
Lin et al., *Microsoft COCO*, ECCV 2014; https://cocodataset.org/#detection-eval; the numbers equal pycocotools'.

The rules that matter:

- The precision at a recall is the largest one at that recall or beyond, and is read off at 101 recalls.
- A hundred detections per image and class count, the best ones.
- A crowd is one mask of many objects. Detections that lie in it by the threshold are neither right nor wrong.
- For small, medium and large objects the others are treated like crowds, and so are unmatched detections of other
  sizes. The size of an object is its annotated area.
- A class without objects has no score, and is left out of the means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.distributed as dist
from torch import Tensor

from seglib.metrics.ap_matching import coco_box_iou, match, outside
from seglib.metrics.ap_scores import MAX_DETECTIONS, APScores
from seglib.metrics.coco_objects import CocoObjects, IoUType, check_iou_type
from seglib.ops.rle import coco_mask
from seglib.types import Category, Instances, check_categories

if TYPE_CHECKING:
    from typing_extensions import Self

DETECTION = np.dtype(
    [("image", "i8"), ("label", "i4"), ("rank", "i4"), ("score", "f8"), ("hit", "u1", 5), ("miss", "u1", 5)]
)
"""What is kept of a detection, 34 bytes: hit and miss are one bit for each of 4 ranges of area · 10 thresholds."""

OBJECT = np.dtype([("image", "i8"), ("label", "i4"), ("counts", "?", 4)])
"""What is kept of an object: in which ranges of area it counts."""


class AveragePrecision:
    """COCO's average precision of a dataset, matched image by image. See :class:`APScores` for the numbers.

    Kept are 34 bytes per detection and 16 per object, no masks. The result doesn't depend on how the images were
    grouped, and with ``image_id`` not on their order or on the number of processes either: where scores are equal the
    smaller image id comes first, as in pycocotools. Without ids it is the image that arrived first.

    Args:
        categories: the number of classes K, or the class table; labels are 0..K−1.
        iou_type: ``"masks"`` (pycocotools' ``"segm"``) or ``"boxes"`` (its ``"bbox"``): whose overlaps are computed.
        max_detections: how many detections per image and class count. COCO's 100 is too few where images have more
            objects, as images of cells do: of 225 that are all found, 100 give an AP of 0.44.

    Raises:
        ValueError: when there is no class, the class table is invalid, ``iou_type`` is unknown or ``max_detections`` is
            below 11.

    Example:
        >>> masks = torch.zeros(2, 8, 8, dtype=torch.bool)
        >>> masks[0, :4], masks[1, 6:] = True, True
        >>> target = Instances(masks, labels=torch.tensor([0, 1]), boxes=masks_to_boxes(masks))
        >>> metric = AveragePrecision(2)
        >>> metric.update(target[:1].replace(scores=torch.tensor([0.9])), target)
        >>> round(metric.compute().ap, 6)
        0.5
    """

    def __init__(
        self,
        categories: int | Sequence[Category],
        iou_type: IoUType = "masks",
        max_detections: int = MAX_DETECTIONS[-1],
    ) -> None:
        self.num_classes = categories if isinstance(categories, int) else len(check_categories(categories))
        if self.num_classes < 1:
            raise ValueError(f"a metric needs at least one class, got {self.num_classes}; pass num_classes >= 1")
        check_iou_type(iou_type)
        if max_detections <= MAX_DETECTIONS[1]:
            raise ValueError(f"max_detections must be above {MAX_DETECTIONS[1]}, got {max_detections}; COCO's is 100")
        self.iou_type, self.limits = iou_type, (*MAX_DETECTIONS[:-1], max_detections)
        self.reset()

    def update(
        self,
        prediction: Instances,
        target: Instances,
        *,
        areas: Tensor | None = None,
        image_id: int | str | None = None,
    ) -> None:
        """Match the detections of one image with its objects.

        Args:
            prediction: detections of the image, with scores.
            target: true objects of the image; ``iscrowd`` marks crowds.
            areas: ``(N,)`` annotated areas of the objects in pixels² (COCO's ``area``); ``None`` takes those of the
                masks, or of the boxes.
            image_id: id of the image, which orders images whose detections have equal scores; all ids are ints, or all
                strings.

        Raises:
            ValueError: when scores are missing or not finite, a label is no class, sizes differ, or the image was
                added before.
            ImportError: for masks, when pycocotools isn't installed.
        """
        found = CocoObjects.from_instances(prediction, self.iou_type)
        self.update_coco(found, CocoObjects.from_instances(target, self.iou_type, areas), image_id=image_id)

    def update_coco(self, prediction: CocoObjects, target: CocoObjects, *, image_id: int | str | None = None) -> None:
        """As :meth:`update`, of run-length codes or boxes x, y, width, height: no mask is decoded."""
        self._check_open()
        self._add([image_id], *self._match(prediction, target))

    def _match(self, prediction: CocoObjects, target: CocoObjects) -> tuple[np.ndarray, np.ndarray]:
        """The records of one image: ``(D,)`` :data:`DETECTION` and ``(G,)`` :data:`OBJECT`, of image number 0."""
        for name, side in (("predicted", prediction), ("target", target)):
            wrong = (side.labels < 0) | (side.labels >= self.num_classes)
            if wrong.any():
                raise ValueError(
                    f"{name} label {side.labels[wrong][0]} is not in 0..{self.num_classes - 1}; "
                    "remap category ids to contiguous ones, or correct the number of categories"
                )
            if isinstance(side.shapes, list) != (self.iou_type == "masks") and len(side.labels):
                given = "masks" if isinstance(side.shapes, list) else "boxes"
                raise ValueError(
                    f"this metric has iou_type {self.iou_type!r}, the {name} shapes are {given}; "
                    f"build it with iou_type={given!r}, or pass {self.iou_type}"
                )
        if prediction.scores is None:
            raise ValueError("the prediction has no scores, by which detections are ranked; pass scores (N,)")

        order = np.lexsort((-prediction.scores, prediction.labels))  # stable: equal scores stay in their order
        labels = prediction.labels[order]
        rank = np.arange(len(order)) - np.searchsorted(labels, labels)
        kept = rank < self.limits[-1]
        order, labels, rank = order[kept], labels[kept], rank[kept]  # (D,)

        ignored = outside(target.areas) | target.iscrowd[:, None]  # (G, A)
        iou = self._overlaps(prediction, target, order)  # (D, G)
        matched, hit = match(iou, labels, target.labels, target.iscrowd, ignored)  # (D, A, T)
        miss = ~(matched | outside(prediction.areas[order])[..., None])

        detections = np.zeros(len(order), DETECTION)
        detections["label"], detections["rank"], detections["score"] = labels, rank, prediction.scores[order]
        for name, bits in (("hit", hit), ("miss", miss)):
            detections[name] = np.packbits(bits.reshape(-1, bits.shape[1] * bits.shape[2]), axis=1)
        objects = np.zeros(len(ignored), OBJECT)
        objects["label"], objects["counts"] = target.labels, ~ignored
        return detections, objects

    def _overlaps(self, prediction: CocoObjects, target: CocoObjects, order: np.ndarray) -> np.ndarray:
        """The IoU of the detections in that order with the objects: ``(D, G)``, 0 where the image lacks the class."""
        iou = np.zeros((len(order), len(target.labels)))
        shared = prediction.labels[order][:, None] == target.labels  # (D, G)
        rows, columns = shared.any(1).nonzero()[0], shared.any(0).nonzero()[0]
        if not len(rows):
            return iou
        found, objects, crowd = prediction.shapes, target.shapes, target.iscrowd[columns]
        if isinstance(found, np.ndarray) and isinstance(objects, np.ndarray):
            overlaps = coco_box_iou(found[order[rows]], objects[columns], crowd)
        else:
            sizes = found[0]["size"], objects[0]["size"]
            if sizes[0] != sizes[1]:
                raise ValueError(
                    f"predicted masks are {sizes[0]} (height, width), the target's {sizes[1]}; resize them"
                )
            overlaps = coco_mask().iou([found[i] for i in order[rows]], [objects[i] for i in columns], crowd)
        iou[np.ix_(rows, columns)] = overlaps
        return iou

    def compute(self) -> APScores:
        """The scores of everything added so far."""
        detections, objects = self._records()
        if self._ids and self._ids[0] is not None:
            place = np.empty(len(self._ids), np.int64)  # of every image in the order of the ids
            place[sorted(range(len(self._ids)), key=self._ids.__getitem__)] = np.arange(len(self._ids))  # type: ignore[arg-type]
            detections = detections[place[detections["image"]].argsort(kind="stable")]
        counts = np.zeros((self.num_classes, objects["counts"].shape[1]), np.int64)  # (K, A)
        np.add.at(counts, objects["label"], objects["counts"])
        label, score, rank, hit, miss = (detections[name] for name in ("label", "score", "rank", "hit", "miss"))
        return APScores.from_matches(label, score, rank, hit, miss, counts, self.limits)

    def merge(self, other: Self) -> Self:
        """Add the images of ``other``, which stays as it is, after the ones here. Returns ``self``.

        Raises:
            ValueError: when the two score different things or an image is in both.
        """
        if other.settings != self.settings:
            raise ValueError(f"cannot merge {other.settings} into {self.settings}; build both with the same arguments")
        self._check_open()
        self._add(other._ids, *other._records())
        return self

    def synchronize(self) -> Self:
        """Gather the images of all processes of ``torch.distributed`` on every one of them. Returns ``self``.

        Call it once, on every process, when all have seen their share. In a single process nothing changes. An image
        id that several processes saw counts once (samplers repeat images to make shares equal); without ids such
        repetitions count twice, and between equal scores the lower rank comes first. Afterwards ``update``, ``merge``
        and a second ``synchronize`` raise until ``reset``.

        Raises:
            ValueError: when the images of all processes are here already.
        """
        self._check_open()
        if dist.is_available() and dist.is_initialized():
            shares: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(shares, (self._ids, *self._records()))
            self.reset()
            for ids, detections, objects in shares:
                new = np.array([image_id not in self._seen for image_id in ids], bool)
                place = new.cumsum() - 1  # what is the i-th image here becomes the place[i]-th of the new ones
                parts = [part[new[part["image"]]] for part in (detections, objects)]
                for part in parts:
                    part["image"] = place[part["image"]]
                self._add([image_id for image_id, fresh in zip(ids, new, strict=True) if fresh], *parts)
        self._gathered = True
        return self

    def reset(self) -> None:
        """Forget everything seen."""
        self._ids: list[int | str | None] = []  # of the images in order of arrival
        self._seen: set[int | str] = set()
        self._detections: list[np.ndarray] = []
        self._objects: list[np.ndarray] = []
        self._gathered = False

    @property
    def settings(self) -> dict[str, object]:
        """What must agree for two metrics to score the same thing."""
        return {
            "metric": type(self).__name__,
            "num_classes": self.num_classes,
            "iou_type": self.iou_type,
            "limits": self.limits,
        }

    def _add(self, ids: Sequence[int | str | None], detections: np.ndarray, objects: np.ndarray) -> None:
        for image_id in ids:
            if image_id in self._seen:
                raise ValueError(f"image {image_id!r} was added before; give every image an id of its own")
            if self._ids and type(image_id) is not type(self._ids[0]):
                raise ValueError(
                    f"image ids are all ints, all strings or all None, got {image_id!r} after {self._ids[0]!r}"
                )
        for records, found in ((self._detections, detections), (self._objects, objects)):
            moved = found.copy()
            moved["image"] += len(self._ids)
            records.append(moved)
        self._ids += ids
        self._seen.update(image_id for image_id in ids if image_id is not None)

    def _records(self) -> tuple[np.ndarray, np.ndarray]:
        """All detections and all objects, each as one array."""
        parts = ((self._detections, DETECTION), (self._objects, OBJECT))
        detections, objects = (np.concatenate([np.zeros(0, dtype), *records]) for records, dtype in parts)
        return detections, objects

    def _check_open(self) -> None:
        if self._gathered:
            raise ValueError("the images of all processes are here already; call reset() before adding more")
