"""What differs between tasks: the model's arguments, its losses, its predictions, and how they are scored.

The training loop, the command line and the chapters call a task and know nothing else of it. A new task is a subclass
of :class:`Task`; ``train/loop.py`` does not change.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from seglib.metrics.ap import AveragePrecision
from seglib.metrics.confusion import ConfusionMatrix
from seglib.metrics.overlap import RegionOverlap
from seglib.metrics.pq import PanopticQuality
from seglib.ops.labels import regions_of
from seglib.ops.panoptic import panoptic_to_instances, panoptic_to_semantic
from seglib.ops.resize import crop_to
from seglib.types import (
    Batch,
    Category,
    Instances,
    Panoptic,
    Regions,
    SegmentationModel,
    Semantic,
    check_categories,
)


class Evaluator(Protocol):
    """Collects predictions over a dataset and turns them into scores."""

    def update(self, predictions: list[Any], batch: Batch) -> None:
        """Add the predictions of one batch, made at ``batch.output_sizes``."""

    def synchronize(self) -> Any:
        """Add up what all processes have seen. Does nothing in a single process."""

    def compute(self) -> dict[str, Any]:
        """The scores as numbers and dicts of numbers."""


class Task(ABC):
    """What the training loop needs to know of a task. A subclass names itself and gives an evaluator.

    Args:
        categories: the class table of the dataset.

    Attributes:
        name: the task's name, as the model zoo lists it.
        needs: the annotation of samples that it trains and scores on.
        score: the entry of the scores (higher is better) that picks the weights to keep.
        predicts: the type of a prediction, by which photos are written: one of ``seglib.types``, or ``None``.
        eval_batch: how many samples are scored at once during training; ``None`` means as many as a step has.
        categories: the classes that a model of the task predicts.

    Raises:
        ValueError: when the class table is invalid.
    """

    name: str
    needs: str
    score: str
    predicts: type | None = None
    eval_batch: int | None = None

    def __init__(self, categories: Sequence[Category]) -> None:
        self.categories: tuple[Category, ...] = check_categories(categories)

    def model_arguments(self) -> dict[str, Any]:
        """The arguments of a model's builder that follow from the classes."""
        return {"num_classes": len(self.categories)}

    def universal_arguments(self) -> dict[str, Any]:
        """The same for a model that serves several tasks (``Entry.universal`` of the zoo): it is told the task."""
        return {"num_classes": len(self.categories), "task": self.name}

    def arguments(self) -> dict[str, Any]:
        """What the task was made with besides the categories, JSON-able: stored with weights, to make it again."""
        return {}

    def losses(self, model: SegmentationModel, batch: Batch) -> dict[str, Tensor]:
        """The losses of one batch, already weighted: their sum is what training minimises."""
        return model.loss(model(batch.images, batch.targets, batch.padded_sizes), batch.targets)

    def predict(self, model: SegmentationModel, batch: Batch) -> list[Any]:
        """The predictions of one batch, each at the size of its annotations."""
        return model.predict(batch.images, batch.sizes, batch.output_sizes)

    @abstractmethod
    def evaluator(self) -> Evaluator:
        """A fresh evaluator."""


class SemanticTask(Task):
    """Semantic segmentation: mIoU decides; pixel accuracy, Dice and the IoU of every class are reported beside it."""

    name = "semantic"
    needs = "semantic"
    score = "miou"
    predicts = Semantic

    def evaluator(self) -> Evaluator:
        """A fresh evaluator over the task's classes."""
        return _SemanticEvaluator(self.categories)


class _SemanticEvaluator:
    def __init__(self, categories: tuple[Category, ...]) -> None:
        self.categories = categories
        self.matrix = ConfusionMatrix(categories)

    def update(self, predictions: list[Semantic], batch: Batch) -> None:
        if batch.targets.semantic is None:
            raise ValueError("the dataset has no semantic labels; evaluate on one whose samples carry `semantic`")
        for prediction, target, size in zip(predictions, batch.targets.semantic, batch.output_sizes, strict=True):
            self.matrix.update(prediction.labels, crop_to(target, size))

    def synchronize(self) -> None:
        self.matrix.synchronize()

    def compute(self) -> dict[str, Any]:
        s = self.matrix.compute()
        iou = {c.name: float(v) for c, v, seen in zip(self.categories, s.iou, s.present, strict=True) if seen}
        return {
            "miou": s.miou,
            "pixel_accuracy": s.pixel_accuracy,
            "mean_accuracy": s.mean_accuracy,
            "fwiou": s.fwiou,
            "mean_dice": s.mean_dice,
            "iou": iou,
        }


class RegionTask(Task):
    """Regions that may overlap, each a union of classes: mean Dice decides; Dice and IoU of each are reported.

    A pixel of an enhancing tumour is also one of the tumour's core and of the whole tumour; a softmax over three
    exclusive classes would make these regions compete. Void pixels are void for every region.

    Args:
        categories: the class table of the label maps.
        regions: name of each region → the names of its classes; ``None`` makes each class a region of its own.

    Raises:
        ValueError: when there is no region, or a region names no class or an unknown one.
    """

    name = "regions"
    needs = "semantic"
    score = "mean_dice"
    predicts = Regions

    def __init__(self, categories: Sequence[Category], regions: Mapping[str, Sequence[str]] | None = None) -> None:
        super().__init__(categories)
        self.regions = {c.name: (c.name,) for c in self.categories} if regions is None else dict(regions)
        self._members = region_members(self.categories, self.regions)

    def arguments(self) -> dict[str, Any]:
        """The regions."""
        return {"regions": {name: list(classes) for name, classes in self.regions.items()}}

    def model_arguments(self) -> dict[str, Any]:
        """One sigmoid for each region."""
        return {"num_classes": len(self.regions), "overlapping": True}

    def losses(self, model: SegmentationModel, batch: Batch) -> dict[str, Tensor]:
        """The losses of one batch, whose label maps become regions."""
        return super().losses(model, self._with_regions(batch))

    def evaluator(self) -> Evaluator:
        """A fresh evaluator over the task's regions."""
        return _RegionEvaluator(self)

    def _with_regions(self, batch: Batch) -> Batch:
        if batch.targets.regions is not None:
            return batch
        labels = batch.targets.semantic
        if labels is None:
            raise ValueError("the dataset has no label maps; use one whose samples carry `semantic` or `regions`")
        return replace(batch, targets=replace(batch.targets, regions=regions_of(labels, self._members)))


def region_members(categories: Sequence[Category], regions: Mapping[str, Sequence[str]]) -> list[Tensor]:
    """The ids of the classes of each region, ``(n,)``.

    Args:
        categories: the class table.
        regions: name of each region → the names of its classes.

    Raises:
        ValueError: when there is no region, or a region names no class or an unknown one.
    """
    ids = {c.name: c.id for c in categories}
    if not regions:
        raise ValueError("a task of regions needs at least one; name the classes of each")
    for name, classes in regions.items():
        if not classes or not set(classes) <= ids.keys():
            raise ValueError(f"region {name!r} has the classes {list(classes)}; choose some of {', '.join(ids)}")
    return [torch.tensor([ids[c] for c in classes]) for classes in regions.values()]


class _RegionEvaluator:
    def __init__(self, task: RegionTask) -> None:
        self.task = task
        self.overlap = RegionOverlap(len(task.regions))

    def update(self, predictions: list[Regions], batch: Batch) -> None:
        targets = self.task._with_regions(batch).targets.regions
        assert targets is not None  # made above
        for prediction, target, size in zip(predictions, targets, batch.output_sizes, strict=True):
            self.overlap.update(prediction.masks, crop_to(target, size))

    def synchronize(self) -> None:
        self.overlap.synchronize()

    def compute(self) -> dict[str, Any]:
        s = self.overlap.compute()
        per_region = {"dice": s.dice.tolist(), "iou": s.iou.tolist()}
        named = {
            n: {r: v for r, v in zip(self.task.regions, vs, strict=True) if v == v} for n, vs in per_region.items()
        }
        return {"mean_dice": s.mean_dice, "mean_iou": s.mean_iou, **named}


class InstanceTask(Task):
    """Instance segmentation: COCO's mask AP decides; AP50, AP75, and AP by size and class are reported beside it.

    Args:
        categories: the class table of the dataset, of which the things are predicted.
        max_detections: how many detections of a class count in an image, COCO's 100 or more.

    Raises:
        ValueError: when the class table is invalid or has no things, or for ``max_detections`` below 11.
    """

    name = "instance"
    needs = "instances"
    score = "ap"
    predicts = Instances

    def __init__(self, categories: Sequence[Category], max_detections: int = 100) -> None:
        super().__init__(check_categories(categories, things_first=True))
        self.max_detections = max_detections
        self.categories = tuple(c for c in self.categories if c.isthing)
        if not self.categories:
            raise ValueError("instances are of things, and the class table has none; train a semantic model")

    def evaluator(self) -> Evaluator:
        """A fresh evaluator over the task's things."""
        return _InstanceEvaluator(self.categories, self.max_detections)

    def arguments(self) -> dict[str, Any]:
        """The limit, where it isn't COCO's."""
        return {} if self.max_detections == 100 else {"max_detections": self.max_detections}


class _InstanceEvaluator:
    def __init__(self, categories: tuple[Category, ...], max_detections: int) -> None:
        self.categories = categories
        self.metric = AveragePrecision(categories, max_detections=max_detections)

    def update(self, predictions: list[Instances], batch: Batch) -> None:
        if batch.targets.instances is None:
            raise ValueError("the dataset has no instances; evaluate on one whose samples carry `instances`")
        objects = zip(predictions, batch.targets.instances, batch.output_sizes, batch.ids, strict=True)
        for found, wanted, size, name in objects:
            self.metric.update(found, wanted.replace(masks=crop_to(wanted.masks, size)), image_id=name)

    def synchronize(self) -> None:
        self.metric.synchronize()

    def compute(self) -> dict[str, Any]:
        s = self.metric.compute()
        names = [c.name for c in self.categories]
        per_class = {n: v for n, v in zip(names, s.class_ap.tolist(), strict=True) if v == v}
        return {
            **{"ap": s.ap, "ap50": s.ap50, "ap75": s.ap75},
            **{"ap_small": s.ap_small, "ap_medium": s.ap_medium, "ap_large": s.ap_large, "ar100": s.ar100},
            "class_ap": per_class,
        }


class PanopticTask(Task):
    """Panoptic segmentation: PQ decides; SQ and RQ, things and stuff apart, and the PQ of every class are reported.

    Args:
        categories: the class table of the dataset, things first.

    Raises:
        ValueError: when the class table is invalid, or has no things or no stuff.
    """

    name = "panoptic"
    needs = "panoptic"
    score = "pq"
    predicts = Panoptic

    def __init__(self, categories: Sequence[Category]) -> None:
        super().__init__(check_categories(categories, things_first=True))
        self.num_things = sum(c.isthing for c in self.categories)
        if self.num_things in (0, len(self.categories)):
            raise ValueError(
                f"a panoptic model needs things and stuff, the class table has {self.num_things} things among "
                f"{len(self.categories)} classes; train an instance model of things, a semantic model of stuff"
            )

    def model_arguments(self) -> dict[str, Any]:
        """The number of classes of things and of stuff."""
        return {"num_things": self.num_things, "num_stuff": len(self.categories) - self.num_things}

    def universal_arguments(self) -> dict[str, Any]:
        """The classes, of which the first are things, and the task."""
        return super().universal_arguments() | {"num_things": self.num_things}

    def losses(self, model: SegmentationModel, batch: Batch) -> dict[str, Tensor]:
        """The losses of one batch, whose panoptic maps also become semantic labels and instances."""
        panoptic = batch.targets.panoptic
        if panoptic is None:
            raise ValueError("the dataset has no panoptic maps; train on one whose samples carry `panoptic`")
        semantic = torch.stack([panoptic_to_semantic(p) for p in panoptic])  # (B, H, W)
        targets = replace(batch.targets, semantic=semantic, instances=[panoptic_to_instances(p) for p in panoptic])
        return super().losses(model, replace(batch, targets=targets))

    def evaluator(self) -> Evaluator:
        """A fresh evaluator over the task's classes."""
        return _PanopticEvaluator(self.categories)


class _PanopticEvaluator:
    def __init__(self, categories: tuple[Category, ...]) -> None:
        self.categories = categories
        self.metric = PanopticQuality(categories)

    def update(self, predictions: list[Panoptic], batch: Batch) -> None:
        if batch.targets.panoptic is None:
            raise ValueError("the dataset has no panoptic maps; evaluate on one whose samples carry `panoptic`")
        for found, wanted, size in zip(predictions, batch.targets.panoptic, batch.output_sizes, strict=True):
            self.metric.update(found, Panoptic(crop_to(wanted.map, size), wanted.segments))

    def synchronize(self) -> None:
        self.metric.synchronize()

    def compute(self) -> dict[str, Any]:
        s = self.metric.compute()
        per_class = zip((c.name for c in self.categories), s.class_pq.tolist(), strict=True)
        return {
            **{"pq": s.pq, "sq": s.sq, "rq": s.rq},
            **{"pq_things": s.things.pq, "sq_things": s.things.sq, "rq_things": s.things.rq},
            **{"pq_stuff": s.stuff.pq, "sq_stuff": s.stuff.sq, "rq_stuff": s.stuff.rq},
            "class_pq": {name: v for name, v in per_class if v == v},
        }
