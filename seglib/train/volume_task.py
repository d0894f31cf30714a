"""Segmentation of volumes: each case is predicted through a sliding window at its true size, and scored in mm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from seglib.metrics.volumes import VolumeMetrics
from seglib.ops.labels import regions_of
from seglib.ops.resize import crop_to
from seglib.postprocess.whole_cases import label_case
from seglib.train.tasks import Evaluator, Task, region_members
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
        previous: gives a case ``(C, D, H, W)`` and its spacing the labels of the earlier stage of a cascade; it is not
            stored with weights.
        regions: name of each region → the names of its classes, where a model predicts regions that may overlap. A
            region has a class of its own name, which it writes into label maps over what those before it wrote. Scores
            are then those of the regions.

    Raises:
        ValueError: when the class table is invalid, a side of the window is below 1, the overlap is out of range, or a
            region has no class of its own name or an unknown one.
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
        previous: Callable[[Tensor, Sequence[float] | None], Tensor] | None = None,
        regions: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        super().__init__(categories)
        self.window = None if window is None else tuple(int(n) for n in window)
        self.overlap, self.flips, self.previous = overlap, tuple(flips), previous
        if self.window is not None and (len(self.window) != 3 or min(self.window) < 1):
            raise ValueError(f"the window has three sides (d, h, w) of at least 1 voxel, got {self.window}")
        if not 0 <= overlap < 1:
            raise ValueError(f"the overlap of windows is a share in [0, 1), got {overlap}")
        self.regions = None if regions is None else {name: tuple(classes) for name, classes in regions.items()}
        self.members, self.written = None, None
        if self.regions is not None:
            self.members = dict(zip(self.regions, region_members(self.categories, self.regions), strict=True))
            for name, classes in self.regions.items():
                if name not in classes:
                    raise ValueError(f"region {name!r} has the classes {list(classes)}; one of them has its name")
            self.written = tuple(c.id for name in self.regions for c in self.categories if c.name == name)

    def arguments(self) -> dict[str, Any]:
        """The window and its overlap, and the regions where there are some."""
        found: dict[str, Any] = {"window": None if self.window is None else list(self.window), "overlap": self.overlap}
        if self.regions is not None:
            found["regions"] = {name: list(classes) for name, classes in self.regions.items()}
        return found

    def model_arguments(self) -> dict[str, Any]:
        """The number of classes; of regions their number, and a sigmoid for each."""
        if self.regions is None:
            return super().model_arguments()
        return {"num_classes": len(self.regions), "overlapping": True}

    def losses(self, model: SegmentationModel, batch: Batch) -> dict[str, Tensor]:
        """The losses of one batch, whose label maps become regions where the task has some."""
        if self.members is not None and batch.targets.semantic is not None:
            regions = regions_of(batch.targets.semantic, list(self.members.values()))
            batch = replace(batch, targets=replace(batch.targets, regions=regions))
        return super().losses(model, batch)

    def predict(self, model: SegmentationModel, batch: Batch) -> list[LabelVolume]:
        """The label map of each case of a batch, on the CPU and on the grid of the case, without padding."""
        assert isinstance(model, nn.Module)
        spacing: Sequence[Any] = batch.spacing or [None] * len(batch.images)
        return [
            LabelVolume(self.label(model, crop_to(image, size), mm))
            for image, size, mm in zip(batch.images, batch.sizes, spacing, strict=True)
        ]

    def label(self, model: nn.Module, image: Tensor, spacing: Sequence[float] | None) -> Tensor:
        """The label of every voxel of one case, see :func:`~seglib.postprocess.whole_cases.label_case`."""
        how: dict[str, Any] = {"overlap": self.overlap, "flips": self.flips, "regions": self.written}
        if self.previous is not None:
            how["previous"] = self.previous(image, spacing)
        return label_case(model, image, spacing, self.window, **how)

    def evaluator(self) -> Evaluator:
        """A fresh evaluator over the task's classes, or regions."""
        return _VolumeEvaluator(self.categories, self.members)


class _VolumeEvaluator:
    def __init__(self, categories: tuple[Category, ...], regions: Mapping[str, Tensor] | None) -> None:
        # of classes that exclude each other one table; of each region one, of what is inside and outside
        self.regions = regions
        self.names = [c.name for c in categories[1:]] if regions is None else list(regions)
        self.tables = [VolumeMetrics(categories)] if regions is None else [VolumeMetrics(2) for _ in regions]

    def update(self, predictions: list[LabelVolume], batch: Batch) -> None:
        if batch.targets.semantic is None:
            raise ValueError("the dataset has no label maps; evaluate on one whose samples carry `semantic`")
        # where a dataset has no spacing, voxels are all that distances can be counted in
        spacing = batch.spacing or [(1.0, 1.0, 1.0)] * len(predictions)
        cases = zip(predictions, batch.targets.semantic, batch.output_sizes, spacing, strict=True)
        for found, target, size, mm in cases:
            pairs = [(found.labels, crop_to(target, size))]
            if self.regions is not None:
                pred, true = (regions_of(labels[None], list(self.regions.values()))[0] for labels in pairs[0])
                pairs = list(zip(pred, true, strict=True))
            for table, (labels, wanted) in zip(self.tables, pairs, strict=True):
                table.update(labels, wanted, mm)

    def synchronize(self) -> None:
        for table in self.tables:
            table.synchronize()

    def compute(self) -> dict[str, Any]:
        found = [table.compute() for table in self.tables]
        per_class = {score: torch.cat([getattr(s, score) for s in found]) for score in ("dice", "hd95", "nsd")}
        named = {
            score: {name: v for name, v in zip(self.names, values.tolist(), strict=True) if v == v}
            for score, values in per_class.items()
        }
        return {**{f"mean_{score}": float(values.nanmean()) for score, values in per_class.items()}, **named}
