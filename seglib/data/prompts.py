"""What prompts ask for: the objects of some classes, and for each the object alone, its group, or its whole class.

Source: Kirillov et al., "Segment Anything", ICCV 2023, section 3: a click may mean a whole, a part or a subpart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.utils.data import Dataset

from seglib.ops.masks import masks_to_boxes
from seglib.types import Instances, Sample

if TYPE_CHECKING:
    from seglib.data.catalog import SegmentationDataset

LEVELS = ("object", "group", "class")
"""What a click on an object may mean: the object; it and all that touches it; all objects of its class."""


class OnlyObjects(Dataset[Sample]):
    """A dataset whose instances are what prompts ask for: of some classes only, at one of several levels.

    Where several levels are given, each object draws one of them whenever its sample is read, from torch's global
    generator: a click then has up to three right answers, as in the paper's data. Crowds are left out. The class table
    stays as it is, so that scores of classes that were not trained on can be compared.

    Args:
        dataset: samples with instances.
        classes: names of the classes whose objects are asked for; all when ``None``.
        levels: what is asked for, some of :data:`LEVELS`, each as often as the others.

    Attributes:
        categories: the class table of ``dataset``.
        size: the ``(H, W)`` of all samples of ``dataset``, or ``None`` where each has its own.

    Raises:
        ValueError: at once for an unknown class or level, or none. When a sample is read that has no instances.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        classes: Sequence[str] | None = None,
        levels: Sequence[str] = ("object",),
    ) -> None:
        ids = {c.name: c.id for c in dataset.categories}
        names = list(ids) if classes is None else list(classes)
        for name, given, known in (("classes", names, list(ids)), ("levels", list(levels), list(LEVELS))):
            if not given or not set(given) <= set(known):
                raise ValueError(f"{name} are some of {', '.join(known)}; got {given}")
        self.categories, self.size = dataset.categories, dataset.size
        self._dataset, self._levels = dataset, tuple(levels)
        self._classes = torch.tensor([ids[name] for name in names])

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
        found = sample.instances
        if found is None:
            raise ValueError(f"sample {sample.id!r} has no instances; use a dataset whose samples carry some")
        wanted = torch.isin(found.labels, self._classes)
        if found.iscrowd is not None:
            wanted &= ~found.iscrowd
        found = found[wanted].replace(iscrowd=None)
        if self._levels != ("object",):
            choices = torch.stack([at_level(found, level) for level in self._levels])  # (L, N, H, W)
            drawn = torch.randint(len(self._levels), (len(found),))  # (N,)
            masks = choices[drawn, torch.arange(len(found))]
            found = found.replace(masks=masks, boxes=masks_to_boxes(masks))
        return replace(sample, instances=found)


def at_level(instances: Instances, level: str) -> Tensor:
    """What a click on each object means at a level.

    Args:
        instances: the N objects of one image.
        level: one of :data:`LEVELS`. In a "group" objects touch each other, at corners too, or touch others that do.

    Returns:
        ``(N, H, W)`` bool; several objects may have one mask.

    Raises:
        ValueError: for an unknown level.
    """
    if level not in LEVELS:
        raise ValueError(f"level {level!r} is unknown; choose one of {', '.join(LEVELS)}")
    masks, together = instances.masks, instances.labels
    if level == "object" or not len(masks):
        return masks
    if level == "group":
        pieces, count = ndimage.label(masks.any(0).cpu().numpy(), np.ones((3, 3)))  # (H, W), of all objects together
        shares = np.array([np.bincount(pieces[mask], minlength=count + 1) for mask in masks.cpu().numpy()])
        meet = shares @ shares.T > 0  # (N, N): parts of one piece; an object that has parts of two joins them
        together = torch.from_numpy(connected_components(meet, directed=False)[1]).to(masks.device)
    same = (together[:, None] == together).float()  # (N, N)
    return torch.einsum("nm,mhw->nhw", same, masks.float()) > 0
