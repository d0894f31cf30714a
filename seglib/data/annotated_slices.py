"""Sparse annotation: an expert labels a few slices of a volume, and the rest is void."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

from seglib.types import VOID, Sample

if TYPE_CHECKING:
    from seglib.data.catalog import SegmentationDataset


class AnnotatedSlices(Dataset[Sample]):
    """A dataset of volumes of which only a few slices keep their labels; all other voxels become void (255).

    A voxel keeps its label when it lies in a chosen slice of any of the axes. A volume with fewer slices than ``count``
    along an axis keeps all labels. The choice is a pure function of the arguments and the index.

    Args:
        dataset: samples of volumes with a semantic map.
        count: slices that keep their labels, for each axis; at least 1.
        axes: the axes that slices are perpendicular to, some of 0, 1 and 2: D, H and W. Çiçek et al. annotate slices
            of all three.
        seed: ``None`` spaces the slices evenly; a number chooses them at random, others for each case.

    Attributes:
        categories: the class table of ``dataset``; ``file_ids`` and ``void_id`` are those of ``dataset``, too.
        size: ``None``: each case has its own size.

    Raises:
        ValueError: at once, for a ``count`` below 1 or for axes that aren't some of 0, 1 and 2. When a sample is read:
            for one that is no volume or has no semantic map.

    Source: Çiçek et al., "3D U-Net: Learning Dense Volumetric Segmentation from Sparse Annotation", MICCAI 2016.
    """

    size = None

    def __init__(
        self, dataset: SegmentationDataset, count: int, *, axes: Sequence[int] = (0,), seed: int | None = None
    ) -> None:
        if count < 1:
            raise ValueError(f"count is a number of slices, at least 1, got {count}")
        if not axes or len(set(axes)) < len(axes) or not set(axes) <= {0, 1, 2}:
            raise ValueError(f"axes are some of 0, 1 and 2 (D, H, W), each at most once, got {tuple(axes)}")
        self.categories, self.file_ids, self.void_id = dataset.categories, dataset.file_ids, dataset.void_id
        self._dataset, self._count, self._axes, self._seed = dataset, count, tuple(axes), seed

    def source(self, index: int) -> str:
        """What the case is made from, for :class:`seglib.data.cases.StoredCases`."""
        return f"{self._count} slices of axes {self._axes}, seed {self._seed}: {self._dataset.source(index)}"  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self._dataset[index]
        if sample.semantic is None or sample.semantic.ndim != 3:
            has = "no semantic map" if sample.semantic is None else f"labels of shape {tuple(sample.semantic.shape)}"
            raise ValueError(f"sample {sample.id!r} has {has}; slices are chosen of volumes with labels (D, H, W)")
        void = torch.ones_like(sample.semantic, dtype=torch.bool)
        for axis in self._axes:
            void.index_fill_(axis, self._chosen(index, axis, sample.semantic.shape[axis]), False)
        return replace(sample, semantic=sample.semantic.masked_fill(void, VOID))

    def _chosen(self, index: int, axis: int, slices: int) -> torch.Tensor:
        """The numbers of the slices of one axis that keep their labels."""
        count = min(self._count, slices)
        if self._seed is None:
            return (2 * torch.arange(count) + 1) * slices // (2 * count)  # the middles of equal parts
        generator = np.random.default_rng((self._seed, index, axis))
        return torch.from_numpy(generator.permutation(slices)[:count])
