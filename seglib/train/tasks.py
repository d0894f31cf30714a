"""What differs between tasks while a model trains: how predictions are scored, and which score decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from seglib.metrics.confusion import ConfusionMatrix
from seglib.types import Batch, Category, Semantic, check_categories


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
        score: the entry of the scores (higher is better) that picks the weights to keep.
        categories: the class table.
    """

    name: str
    score: str
    categories: tuple[Category, ...]

    def evaluator(self) -> Evaluator:
        """A fresh evaluator."""


class SemanticTask:
    """Semantic segmentation: mIoU decides; pixel accuracy, Dice and the IoU of every class are reported beside it."""

    name = "semantic"
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
