"""What differs between tasks while a model trains: how predictions are scored, and which score decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from seglib.metrics.ap import AveragePrecision
from seglib.metrics.confusion import ConfusionMatrix
from seglib.types import Batch, Category, Instances, Semantic, check_categories


class Evaluator(Protocol):
    """Collects predictions over a dataset and turns them into scores."""

    def update(self, predictions: list[Any], batch: Batch) -> None:
        """Add the predictions of one batch."""

    def synchronize(self) -> None:
        """Add up what all processes have seen. Does nothing in a single process."""

    def compute(self) -> dict[str, Any]:
        """The scores as numbers and dicts of numbers."""


class Task(Protocol):
    """What the trainer needs to know of a task.

    Attributes:
        name: of the task, as in the model zoo.
        needs: the annotation of samples that it trains and scores on.
        score: the entry of the scores (higher is better) that picks the weights to keep.
        categories: the classes that a model of the task predicts.
    """

    name: str
    needs: str
    score: str
    categories: tuple[Category, ...]

    def evaluator(self) -> Evaluator:
        """A fresh evaluator."""


class SemanticTask:
    """Semantic segmentation: mIoU decides; pixel accuracy, Dice and the IoU of every class are reported beside it."""

    name = "semantic"
    needs = "semantic"
    score = "miou"

    def __init__(self, categories: Sequence[Category]) -> None:
        self.categories = check_categories(categories)

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
        for prediction, target in zip(predictions, batch.targets.semantic, strict=True):
            self.matrix.update(prediction.labels, target)

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


class InstanceTask:
    """Instance segmentation: COCO's mask AP decides; AP50, AP75, and AP by size and class are reported beside it.

    Args:
        categories: the dataset's class table, of which the things are predicted.

    Raises:
        ValueError: when the class table has no things.
    """

    name = "instance"
    needs = "instances"
    score = "ap"

    def __init__(self, categories: Sequence[Category]) -> None:
        self.categories = tuple(c for c in check_categories(categories) if c.isthing)
        if not self.categories:
            raise ValueError("instances are of things, and the class table has none; train a semantic model")

    def evaluator(self) -> Evaluator:
        """A fresh evaluator over the task's things."""
        return _InstanceEvaluator(self.categories)


class _InstanceEvaluator:
    def __init__(self, categories: tuple[Category, ...]) -> None:
        self.categories = categories
        self.metric = AveragePrecision(categories)

    def update(self, predictions: list[Instances], batch: Batch) -> None:
        if batch.targets.instances is None:
            raise ValueError("the dataset has no instances; evaluate on one whose samples carry `instances`")
        for found, wanted, size, name in zip(predictions, batch.targets.instances, batch.sizes, batch.ids, strict=True):
            self.metric.update(_cut(found, size), _cut(wanted, size), image_id=name)

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


def _cut(instances: Instances, size: tuple[int, int]) -> Instances:
    """The instances without the rows and columns that pad their image to the size of its batch."""
    return replace(instances, masks=instances.masks[:, : size[0], : size[1]])


TASKS: dict[str, type[SemanticTask] | type[InstanceTask]] = {"semantic": SemanticTask, "instance": InstanceTask}
"""The tasks by the names that the model zoo uses."""
