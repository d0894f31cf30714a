"""The second stage of a cascade: it sees the image finely, and what a first stage found in all of it coarsely.

::

    case ─► first stage, low resolution ─► labels ─┐
      └────────────────────────────────────────────┴─► Preparation(previous=K − 1) ─► (C + K − 1, d, h, w) ─► network

A network that trains on labels of the first stage as they are would copy them. So they come from models that were not
trained on the case, and :class:`CascadeTransform` damages them.

Source: Isensee et al., "nnU-Net", Nature Methods 2021, supplementary note 4; ranges and probabilities of its version 2.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from seglib.data.nifti import read_label_volume
from seglib.data.volume_files import nifti_files
from seglib.data.volume_transforms import VolumeTransform
from seglib.types import VOID, Sample

_MORPH, _REMOVE = 0.4, 0.2  # how often masks grow or shrink, and how often each loses a component
_RADIUS = 8  # the largest radius in voxels by which they do
_LARGE = 0.15  # a component with at least this share of the patch stays


class PreviousLabels:
    """The labels of a first stage from files: ``FOLDER/ID.nii.gz`` for each case, as ``seglib predict`` writes them.

    Args:
        folder: where the files are.
        file_ids: class → id in the files, as datasets have it.

    Attributes:
        source: a text that changes when a file of the folder does.

    Raises:
        FileNotFoundError: at once, when the folder is missing; of a case, when it has no file.
        ValueError: when a file has an id that no class has; further as
            :func:`~seglib.data.nifti.read_label_volume`. All name the file.
    """

    def __init__(self, folder: str | os.PathLike[str], file_ids: Sequence[int | None]) -> None:
        self._folder, self._files = Path(folder), nifti_files(Path(folder))
        self._classes = {stored: label for label, stored in enumerate(file_ids) if stored is not None}
        facts = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in self._files.values()]
        self.source = f"{self._folder} {facts}"

    def __call__(self, sample: Sample) -> Tensor:
        """The labels of a case in category ids, ``(D, H, W)`` int64."""
        if sample.id not in self._files:
            raise FileNotFoundError(f"{self._folder} has no {sample.id}.nii.gz; predict the case with the first stage")
        labels, _ = read_label_volume(self._files[sample.id])
        found, index = labels.unique(return_inverse=True)
        if unknown := [v for v in found.tolist() if v not in self._classes]:
            raise ValueError(
                f"{self._files[sample.id]} has the label ids {unknown}, which no class has (they have"
                f" {list(self._classes)}); predict with a model of this dataset"
            )
        return torch.tensor([self._classes[v] for v in found.tolist()])[index]


class CascadeTransform(VolumeTransform):
    """An augmentation of the image, and of the channels that follow it: the first stage's masks of K − 1 classes.

    The masks are rotated, scaled and flipped with the labels, and no noise reaches them. Then, with probability 0.4,
    each of them grows, shrinks, is opened or closed by a ball of 1 to 8 voxels; what grows takes its voxels from the
    others. And with probability 0.2 each loses one component that fills less than 15 % of the patch.

    Args:
        transform: the augmentation of the image, :func:`~seglib.data.nnunet_transforms.nnunet_transform`.
        previous: the number of masks, ``preparation.previous``.
    """

    def __init__(self, transform: VolumeTransform, previous: int) -> None:
        self._transform, self._previous = transform, previous

    def draw(self, spacing: tuple[float, ...] | None) -> Tensor | None:
        """What the transform of the image draws."""
        return self._transform.draw(spacing)

    def apply(self, sample: Sample, matrix: Tensor | None, size: tuple[int, ...]) -> Sample:
        """As :meth:`~seglib.data.volume_transforms.VolumeTransform.apply`."""
        assert sample.semantic is not None
        image, masks = sample.image[: -self._previous], sample.image[-self._previous :]
        classes = torch.arange(1, self._previous + 1).view(-1, 1, 1, 1)
        # one map of both labels, which is looked up and flipped as a whole; void outside is class 0 of the first stage
        both = sample.semantic + (VOID + 1) * (masks > 0.5).mul(classes).amax(0)
        changed = self._transform.apply(replace(sample, image=image, semantic=both), matrix, size)
        assert changed.semantic is not None
        masks = damaged(changed.semantic // (VOID + 1) == classes)
        return replace(changed, image=torch.cat((changed.image, masks)), semantic=changed.semantic % (VOID + 1))


def damaged(masks: Tensor) -> Tensor:
    """Masks ``(K − 1, d, h, w)`` bool with the random faults of :class:`CascadeTransform`, float32."""
    found = masks.numpy(force=True).copy()
    if torch.rand(()).item() < _MORPH:
        for k in torch.randperm(len(found)).tolist():
            new = _morphed(found[k], int(torch.randint(4, ())), 1 + int(torch.randint(_RADIUS, ())))
            found &= ~(new & ~found[k])  # what it grows by is taken from the others
            found[k] = new
    if torch.rand(()).item() < _REMOVE:
        for mask in found:
            components, count = ndimage.label(mask, np.ones((3, 3, 3)))
            sizes = np.bincount(components.ravel())
            small = [c for c in range(1, count + 1) if sizes[c] < _LARGE * mask.size]
            if small:
                mask[components == small[int(torch.randint(len(small), ()))]] = False
    return torch.from_numpy(found).float()


def _morphed(mask: np.ndarray, operation: int, radius: int) -> np.ndarray:
    """0 dilation, 1 erosion, 2 opening, 3 closing of a mask by a ball; the border of the patch erodes nothing."""
    if not mask.any():
        return mask
    (box,) = ndimage.find_objects(mask.view(np.uint8))
    # all that can change, and one voxel that doesn't
    reached = tuple(slice(max(s.start - radius - 1, 0), s.stop + radius + 1) for s in box)
    part = mask[reached]
    for grows in ((True,), (False,), (False, True), (True, False))[operation]:
        part = _within(part, radius) if grows else ~_within(~part, radius)
    new = mask.copy()
    new[reached] = part
    return new


def _within(mask: np.ndarray, radius: int) -> np.ndarray:
    """Where a voxel of the mask is at most ``radius`` voxels away."""
    if not mask.any():  # the distance to nothing is not defined
        return mask
    return np.asarray(ndimage.distance_transform_edt(~mask) <= radius)
