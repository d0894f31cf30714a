"""Segmentation of volumes: each case is predicted through a sliding window at its true size, and scored in mm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from seglib.metrics.volumes import VolumeMetrics
from seglib.ops.resize import crop_to
from seglib.postprocess.whole_cases import label_case
from seglib.train.tasks import Evaluator, Task
from seglib.types import Batch, Category, LabelVolume, SegmentationModel


class VolumeTask(Task):
    """Semantic segmentation of volumes: mean Dice decides; HD95 in mm and the normalised surface Dice stand beside it.

    A model trains on patches and predicts whole cases: a window of the patch's size slides over the case, and the
    logits of overlapping windows are averaged with Gaussian weights.

    Args:
        categories: the class table of the dataset, whose class 0 is the background.
        window: voxels ``(d, h, w)`` of the sliding window; ``None`` predicts a case in one piece.
        overlap: share of the window that neighbouring windows have in common, in [0, 1).
        flips: test-time flips, some of the axes 0, 1 and 2 of what a model sees; they are not stored with weights.

    Raises:
        ValueError: when the class table is invalid, a side of the window is below 1, or the overlap is out of range.
    """

    name = "volume"
    needs = "semantic"
    score = "mean_dice"
    predicts = LabelVolume
    eval_batch = 1  # whole cases, however many patches a step has

    def __init__(
        self,
        categories: Sequence[Category],
        window: Sequence[int] | None = None,
        overlap: float = 0.5,
        flips: Sequence[int] = (),
    ) -> None:
        super().__init__(categories)
        self.window = None if window is None else tuple(int(n) for n in window)
        self.overlap, self.flips = overlap, tuple(flips)
        if self.window is not None and (len(self.window) != 3 or min(self.window) < 1):
            raise ValueError(f"the window has three sides (d, h, w) of at least 1 voxel, got {self.window}")
        if not 0 <= overlap < 1:
            raise ValueError(f"the overlap of windows is a share in [0, 1), got {overlap}")

    def arguments(self) -> dict[str, Any]:
        """The window and its overlap."""
        return {"window": None if self.window is None else list(self.window), "overlap": self.overlap}

    def predict(self, model: SegmentationModel, batch: Batch) -> list[LabelVolume]:
        """The label map of each case of a batch, on the CPU and on the grid of the case, without padding."""
        assert isinstance(model, nn.Module)
        spacing: Sequence[Any] = batch.spacing or [None] * len(batch.images)
        return [
            LabelVolume(
                label_case(model, crop_to(image, size), mm, self.window, overlap=self.overlap, flips=self.flips)
            )
            for image, size, mm in zip(batch.images, batch.sizes, spacing, strict=True)
        ]

    def evaluator(self) -> Evaluator:
        """A fresh evaluator over the task's classes."""
        return _VolumeEvaluator(self.categories)


class _VolumeEvaluator:
    def __init__(self, categories: tuple[Category, ...]) -> None:
        self.categories = categories
        self.metrics = VolumeMetrics(categories)

    def update(self, predictions: list[LabelVolume], batch: Batch) -> None:
        if batch.targets.semantic is None:
            raise ValueError("the dataset has no label maps; evaluate on one whose samples carry `semantic`")
        # where a dataset has no spacing, voxels are all that distances can be counted in
        spacing = batch.spacing or [(1.0, 1.0, 1.0)] * len(predictions)
        cases = zip(predictions, batch.targets.semantic, batch.output_sizes, spacing, strict=True)
        for found, target, size, mm in cases:
            self.metrics.update(found.labels, crop_to(target, size), mm)

    def synchronize(self) -> None:
        self.metrics.synchronize()

    def compute(self) -> dict[str, Any]:
        s = self.metrics.compute()
        names = [c.name for c in self.categories[1:]]
        per_class = {"dice": s.dice, "hd95": s.hd95, "nsd": s.nsd}
        named = {
            score: {name: v for name, v in zip(names, values.tolist(), strict=True) if v == v}
            for score, values in per_class.items()
        }
        return {"mean_dice": s.mean_dice, "mean_hd95": s.mean_hd95, "mean_nsd": s.mean_nsd, **named}
