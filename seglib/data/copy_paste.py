"""Copy-paste: objects of one image are pasted into another, so that every object meets new neighbours.

Source: Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation", CVPR 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from seglib.data.checks import LabelCounts, count_images
from seglib.data.transforms import move_maps
from seglib.ops.panoptic import segment_index
from seglib.types import Instances, Panoptic, Sample

if TYPE_CHECKING:
    from seglib.data.catalog import SegmentationDataset


class CopyPaste(Dataset[Sample]):
    """A dataset whose samples have objects of another random sample of the same dataset pasted over them.

    Each object of the other sample is pasted with probability 1/2, at its own size and place. Both samples come out of
    ``dataset`` as it augments them, so the paper's recipe is a dataset with scale jitter and a crop of one size::

        scaled = CocoInstances(…, transform=train_transform(1024, scale=(0.1, 2.0), keep=("instances",)))
        dataset = CopyPaste(scaled)

    That is its large-scale jitter; ``scale=(0.8, 1.25)`` is the standard one. Where the two have different sizes, the
    other sample lies at a random offset. Edges are not blurred: in the paper that changed nothing.

    Crowds are never pasted, but are covered like everything else. Two samples are read for each one returned. All
    randomness comes from torch's global generator.

    Args:
        dataset: samples with instances.
        probability: how often to paste at all, in [0, 1].
        transform: applied to the sample last.

    Attributes:
        categories: the class table of ``dataset``.
        size: the ``(H, W)`` of all samples of ``dataset``, or ``None`` where each has its own.

    Raises:
        ValueError: at once, for a probability outside [0, 1] or an empty dataset. When a sample is read: what
            :func:`paste` raises.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        *,
        probability: float = 1.0,
        transform: Callable[[Sample], Sample] | None = None,
    ) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be in [0, 1], got {probability}")
        if len(dataset) == 0:
            raise ValueError("copy-paste needs samples to paste from, and the dataset is empty")
        self.categories, self.size = dataset.categories, dataset.size
        self._dataset, self._probability, self._transform = dataset, probability, transform

    @property
    def file_ids(self) -> tuple[int | None, ...]:
        """Category id → id in the files of ``dataset``; ``None`` for a class that they don't have."""
        return self._dataset.file_ids

    @property
    def void_id(self) -> int | None:
        """The id of void in the files of ``dataset``; ``None`` where they have none."""
        return self._dataset.void_id

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self._dataset[index]
        if torch.rand(()).item() < self._probability:
            source = self._dataset[int(torch.randint(len(self._dataset), ()))]
            sample = paste(sample, _lay(_some_objects(source), (sample.image.shape[1], sample.image.shape[2])))
        return sample if self._transform is None else self._transform(sample)

    def count_labels(self, needs: str, indices: Sequence[int]) -> LabelCounts:
        """What :func:`seglib.data.checks.count_labels` asks for, of the samples without what is pasted."""
        return count_images(self._dataset, needs, indices)


def paste(sample: Sample, source: Sample) -> Sample:
    """Paste all objects of ``source`` over ``sample``.

    A pasted pixel brings everything along that ``source`` has there: its colour and, where the samples have them, its
    semantic label, its regions, its panoptic segment and its weight. What lies below loses these
    pixels: boxes and areas are measured again, and objects and segments that are covered whole are dropped. Panoptic
    segments get the ids 1, 2, ….

    Args:
        sample: what is pasted on; its objects come first in the result.
        source: what is pasted, of the same size and with the same annotations.

    Returns:
        A new sample with the id of ``sample``; neither input is changed.

    Raises:
        ValueError: when one has no instances, when the sizes differ, or when only one has a semantic map, regions, a
            panoptic map or weights.
    """
    _check_pair(sample, source)
    assert sample.instances is not None and source.instances is not None
    top = source.instances.masks.any(0)  # (H, W), the pixels that are pasted
    image = torch.where(top, source.image, sample.image)  # (C, H, W)
    below = move_maps(sample, image, lambda maps, fill: maps.masked_fill(top, fill))
    above = move_maps(source, image, lambda maps, fill: maps.masked_fill(~top, fill))
    assert below.instances is not None and above.instances is not None
    merged = replace(below, instances=Instances.cat([below.instances, above.instances]))
    if below.semantic is not None and above.semantic is not None:
        merged = replace(merged, semantic=torch.where(top, above.semantic, below.semantic))
    if below.regions is not None and above.regions is not None:
        merged = replace(merged, regions=torch.where(top, above.regions, below.regions))
    if below.pixel_weight is not None and above.pixel_weight is not None:
        merged = replace(merged, pixel_weight=torch.where(top, above.pixel_weight, below.pixel_weight))
    if below.panoptic is not None and above.panoptic is not None:
        # By their places, because two ids of COCO's, up to 2²⁴ − 1 each, leave no room above them.
        segments = below.panoptic.segments + above.panoptic.segments
        pasted, kept = segment_index(above.panoptic), segment_index(below.panoptic)  # (H, W)
        ids = torch.where(pasted > 0, pasted + len(below.panoptic.segments), kept).int()
        merged = replace(merged, panoptic=Panoptic(ids, [replace(s, id=i) for i, s in enumerate(segments, 1)]))
    return merged


def _some_objects(sample: Sample) -> Sample:
    """The sample with a random half of its objects; crowds are never among them."""
    if sample.instances is None:
        return sample
    chosen = torch.rand(len(sample.instances)) < 0.5  # (N,)
    if sample.instances.iscrowd is not None:
        chosen &= ~sample.instances.iscrowd
    return replace(sample, instances=sample.instances[chosen])


def _lay(sample: Sample, size: tuple[int, int]) -> Sample:
    """The sample on a canvas of another size, at a random offset: cropped where too large, void where too small."""
    moves = [new - old for new, old in zip(size, sample.image.shape[1:], strict=True)]  # (down, right) at most
    if moves == [0, 0]:
        return sample
    top, left = (int(torch.randint(min(m, 0), max(m, 0) + 1, ())) for m in moves)

    def shift(maps: Tensor, fill: int = 0) -> Tensor:
        height, width = maps.shape[-2:]
        # Negative padding crops.
        return F.pad(maps, (left, size[1] - width - left, top, size[0] - height - top), value=fill)

    return move_maps(sample, shift(sample.image), shift)


def _check_pair(sample: Sample, source: Sample) -> None:
    for one in (sample, source):
        if one.instances is None:
            raise ValueError(
                f"sample {one.id!r} has no instances, and copy-paste pastes those; use a data set with instances and"
                " keep them in its transform"
            )
    if sample.image.shape != source.image.shape:
        raise ValueError(
            f"samples {sample.id!r} and {source.id!r} are {tuple(sample.image.shape[1:])} and"
            f" {tuple(source.image.shape[1:])} (H, W); crop or resize both to one size"
        )
    for name in ("semantic", "regions", "panoptic", "pixel_weight"):
        if (getattr(sample, name) is None) != (getattr(source, name) is None):
            raise ValueError(
                f"only one of the samples {sample.id!r} and {source.id!r} has {name}; give both the same annotations,"
                " or drop it with Keep"
            )
