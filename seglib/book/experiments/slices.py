"""Slices of synthetic CTs as images to prompt on: the parts of the organ, of its vessels and of its lesions."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset

from seglib.book.experiments.prompts import objects_of
from seglib.data.transforms import ResizeToGeometry
from seglib.data.volumes import CATEGORIES, Volumes
from seglib.ops.geometry import Geometry
from seglib.ops.masks import masks_to_boxes
from seglib.types import Instances, Sample

STRUCTURES = tuple(c for c in CATEGORIES if c.name != "background")
WINDOW = (-160.0, 240.0)
"""Hounsfield units that are black and white, the usual ones for soft tissue."""

_LEAST = 4  # pixels of a part that is asked for


class Slices(Dataset[Sample]):
    """Every fourth axial slice of synthetic CTs, as grey images with the connected parts of each structure.

    Parts of fewer than four pixels are left out, and slices without any part.

    Args:
        volumes: number of CTs.
        split: "train", "val" or "test".
        geometry: the size at which slices and parts are given; ``None`` leaves them as they are, 64 × 64.

    Raises:
        ValueError: without volumes.
    """

    def __init__(self, volumes: int, split: str, *, geometry: Geometry | None = None) -> None:
        if volumes < 1:
            raise ValueError(f"the number of volumes must be positive, got {volumes}")
        cases = Volumes(volumes, split=split)
        drawn = (cases[i] for i in range(volumes))
        slices = [_slice(case, z) for case in drawn for z in range(1, cases.size[0], 4)]
        self._samples = [s for s in slices if len(objects_of(s))]
        self._resize = ResizeToGeometry(geometry) if geometry is not None else None

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        sample = self._samples[index]
        return sample if self._resize is None else self._resize(sample)


def _slice(case: Sample, z: int) -> Sample:
    assert case.semantic is not None  # synthetic volumes have labels
    low, high = WINDOW
    grey = ((case.image[0, z].float() - low) / (high - low)).clamp(0, 1)  # (H, W)
    masks, labels = [], []
    for structure in STRUCTURES:
        parts, count = ndimage.label((case.semantic[z] == structure.id).numpy(), np.ones((3, 3)))
        found = torch.from_numpy(parts) == torch.arange(1, count + 1)[:, None, None]  # (n, H, W)
        masks.append(found[found.flatten(1).sum(1) >= _LEAST])
        labels += [structure.id] * len(masks[-1])
    every = torch.cat(masks)
    objects = Instances(every, torch.tensor(labels, dtype=torch.int64), masks_to_boxes(every))
    return Sample(grey.expand(3, -1, -1), f"{case.id}-{z}", instances=objects)


def thickness(masks: Tensor) -> Tensor:
    """Diameter ``(N,)`` in pixels of the largest disc inside each mask ``(N, H, W)``: 1 for a line of single pixels."""
    inside = [float(ndimage.distance_transform_edt(np.pad(mask, 1)).max()) for mask in masks.numpy()]
    return 2 * torch.tensor(inside) - 1
