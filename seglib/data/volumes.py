"""Synthetic CT- and MR-like volumes with exact labels: an organ, its vessels and its lesions.

Each volume is a pure function of ``(seed, index)``. Its body is made of implicit shapes in millimetres: a deformed
organ, branching trees of vessels in it, lesions in most cases. Other parts are easily confused with these:

- specks as wide and as bright as a vessel that end within a slice or two;
- patches as faint and as wide as a lesion that are one slice thick, and cysts;
- a second organ of nearly the same brightness, and bowel with contrast agent.

The shares of the tissues in a voxel give its brightness (partial volume) and, by the largest share, its label; then
come texture, bias field and noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from seglib.data._noise import scene_key
from seglib.data._volume_body import tissue_shares
from seglib.data._volume_scan import MODALITIES, scan
from seglib.data._volume_shapes import Grid, three
from seglib.data.checks import LabelCounts, count_samples
from seglib.data.nifti import VoxelFrame
from seglib.types import VOID, Category, Sample, check_categories

CATEGORIES: tuple[Category, ...] = check_categories(
    [
        Category(0, "background", False, (0, 0, 0)),
        Category(1, "organ", False, (0, 114, 178)),
        Category(2, "vessel", False, (213, 94, 0)),
        Category(3, "lesion", False, (240, 228, 66)),
    ]
)
"""The class table; the colours are of Okabe and Ito's palette."""

_SPLITS = ("train", "val", "test")
_LEAST = 8  # voxels along each axis


def make_volume(
    seed: int,
    index: int,
    *,
    size: tuple[int, int, int] = (32, 64, 64),
    spacing: tuple[float, float, float] = (2.5, 1.0, 1.0),
    modalities: Sequence[str] = ("ct",),
) -> Sample:
    """Volume ``index`` of the series ``seed``.

    The axes run from inferior to superior, from anterior to posterior and from the patient's right to the left. The
    composition scales with the field of view, which is size times spacing.

    Args:
        seed: series of volumes, at least 0.
        index: number of the volume in the series, at least 0.
        size: voxels ``(D, H, W)``, at least 8 along each axis.
        spacing: millimetres from voxel to voxel ``(z, y, x)``.
        modalities: names out of :data:`MODALITIES`, one for each channel.

    Returns:
        A sample with the image ``(C, D, H, W)`` of whole numbers, in Hounsfield units for CT and in units that change
        from case to case for MR, the labels ``(D, H, W)`` and the spacing.

    Raises:
        ValueError: on a value out of its range or an unknown modality.
    """
    grid = _check(seed, index, size, spacing, modalities)
    return _draw(scene_key(seed, index), grid, modalities, f"volume-{seed}-{index}")


class Volumes(Dataset[Sample]):
    """A map-style dataset of synthetic volumes.

    Item i is ``make_volume(3 * seed + split, i)``, so splits never share a volume.

    Args:
        length: number of volumes.
        split: ``"train"``, ``"val"`` or ``"test"``.
        seed: another seed gives other volumes in every split.
        size: voxels ``(D, H, W)``, at least 8 along each axis.
        spacing: millimetres from voxel to voxel ``(z, y, x)``.
        modalities: names out of :data:`MODALITIES`, one for each channel.
        transform: applied to every sample, each time it is read.

    Attributes:
        categories: the class table, :data:`CATEGORIES`.
        file_ids: category id → id in files; the ids stay as they are.
        void_id: 255.
        size: the ``(D, H, W)`` of all volumes.
        spacing: millimetres ``(z, y, x)``.
        modalities: the name of each channel.

    Raises:
        ValueError: on a value out of its range, an unknown split or an unknown modality.
    """

    categories = CATEGORIES
    file_ids: tuple[int | None, ...] = tuple(c.id for c in CATEGORIES)
    void_id: int | None = VOID

    def __init__(
        self,
        length: int,
        *,
        split: str = "train",
        seed: int = 0,
        size: tuple[int, int, int] = (32, 64, 64),
        spacing: tuple[float, float, float] = (2.5, 1.0, 1.0),
        modalities: Sequence[str] = ("ct",),
        transform: Callable[[Sample], Sample] | None = None,
    ) -> None:
        if length < 0:
            raise ValueError(f"length must be at least 0, got {length}; pass the number of volumes")
        if split not in _SPLITS:
            raise ValueError(f"split must be one of {', '.join(_SPLITS)}, got {split!r}")
        self._grid = _check(seed, 0, size, spacing, modalities)
        self.size, self.spacing, self.modalities = self._grid.size, self._grid.spacing, tuple(modalities)
        self._length, self._split, self._transform = length, split, transform
        self._seed = len(_SPLITS) * seed + _SPLITS.index(split)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        sample = self._read(index)
        return self._transform(sample) if self._transform else sample

    def count_labels(self, needs: str, indices: Sequence[int]) -> LabelCounts:
        """What :func:`seglib.data.checks.count_labels` asks for, in 32 volumes at most, before their transform."""
        return count_samples((self._read(i) for i in indices[:32]), needs, len(CATEGORIES), len(self))

    def source(self, index: int) -> str:
        """What volume ``index`` is drawn from, for whoever stores it: another text means another volume."""
        return f"{self._seed} {index} {self.size} {self.spacing} {self.modalities}"

    def frame(self, index: int) -> VoxelFrame:
        """The grid of volume ``index`` in a file."""
        return VoxelFrame.of_spacing(self.size, self.spacing)

    def _read(self, index: int) -> Sample:
        if not -self._length <= index < self._length:
            raise IndexError(f"volume {index} is out of range: this split has {self._length}")
        index = int(index) % self._length
        return _draw(scene_key(self._seed, index), self._grid, self.modalities, f"{self._split}-{self._seed}-{index}")


def _check(seed: int, index: int, size: Sequence[int], spacing: Sequence[float], modalities: Sequence[str]) -> Grid:
    """The grid, after checking what the user passed."""
    if not (0 <= seed < 1 << 60 and 0 <= index < 1 << 60):
        raise ValueError(f"seed and index must be at least 0 and below 2^60, got seed {seed} and index {index}")
    if len(size) != 3 or min(size) < _LEAST:
        raise ValueError(f"size must be (D, H, W), at least {_LEAST} voxels along each axis, got {size}")
    if len(spacing) != 3 or not all(0 < s < math.inf for s in spacing):
        raise ValueError(f"spacing must be three positive lengths (z, y, x) in mm, got {spacing}")
    if isinstance(modalities, str) or not modalities or not set(modalities) <= set(MODALITIES):
        raise ValueError(f"modalities must be a tuple of some of {', '.join(MODALITIES)}, got {modalities!r}")
    return Grid(three(map(int, size)), three(map(float, spacing)))


def _draw(key: int, grid: Grid, modalities: Sequence[str], name: str) -> Sample:
    shares, labels = tissue_shares(key, grid)
    images = [scan(key, channel, modality, shares) for channel, modality in enumerate(modalities)]
    return Sample(
        image=torch.from_numpy(np.stack(images)),
        id=name,
        semantic=torch.from_numpy(labels),
        spacing=grid.spacing,
    )
