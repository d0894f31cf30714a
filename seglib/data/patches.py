"""Random patches of volumes, which are too large to train on whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from seglib.data.cases import Case, StoredCases
from seglib.data.checks import LabelCounts
from seglib.data.volume_transforms import VolumeTransform, margin
from seglib.ops.intensity import AS_IS, Intensity, Scaling
from seglib.types import VOID, Sample


class Patches(Dataset[Sample]):
    """Patches of one size at random places of cases, some of them centred on the foreground.

    The index picks the case, and torch's global generator the place. With probability ``foreground`` the patch is
    centred on a random voxel of a random class that occurs in the case, as far as the case's borders allow: small
    lesions would else hardly be met. Otherwise, and in a case without foreground, all places inside the case are
    equally likely. Void is no foreground.

    A case that is smaller than the patch is padded on both sides alike, as the sliding window pads it: the image with
    0, after normalisation, the labels with void (255).

    Args:
        cases: the volumes.
        size: ``(d, h, w)`` of a patch, in voxels.
        foreground: the share of patches that are centred on the foreground, in [0, 1].
        intensity: how intensities are normalised, with the statistics of the whole case and not of the patch.
        transform: augmentation of the normalised patch. For one of
            :func:`~seglib.data.volume_transforms.volume_transform` or
            :func:`~seglib.data.nnunet_transforms.nnunet_transform` as much is read around the patch as its rotation
            brings in, so that void comes in only from outside the case.
        per_case: patches of each case in one epoch, at least 1.

    Attributes:
        categories: the class table of ``cases``; ``file_ids`` and ``void_id`` are those of ``cases``, too.
        size: ``None``, as datasets say that resize nothing.

    Raises:
        ValueError: at once, for an argument outside its range. When a patch is read: what the cases and the intensity
            raise.

    Source: Isensee et al., "nnU-Net", Nature Methods 2021. There a third of each batch, rounded to whole patches, is
    centred on the foreground: exactly one of two. Here each is drawn on its own: with ``foreground=1/2`` a batch of
    two has one on average, and none or two in a quarter of batches each.
    """

    size = None

    def __init__(
        self,
        cases: StoredCases,
        size: Sequence[int],
        *,
        foreground: float = 1 / 3,
        intensity: Intensity = AS_IS,
        transform: Callable[[Sample], Sample] | None = None,
        per_case: int = 1,
    ) -> None:
        if len(size) != 3 or not all(isinstance(s, int) and s > 0 for s in size):
            raise ValueError(f"the size of a patch is three positive whole numbers (d, h, w), got {tuple(size)}")
        if not 0 <= foreground <= 1:
            raise ValueError(f"foreground is a share in [0, 1], got {foreground}")
        if per_case < 1:
            raise ValueError(f"per_case is a number of patches, at least 1, got {per_case}")
        self.categories, self.file_ids, self.void_id = cases.categories, cases.file_ids, cases.void_id
        self._cases, self._patch, self._foreground = cases, tuple(size), foreground
        self._intensity, self._transform, self._per_case = intensity, transform, per_case
        self._scalings: dict[int, Scaling] = {}

    def __len__(self) -> int:
        return len(self._cases) * self._per_case

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"there is no patch {index} among {len(self)}")
        number = index % len(self._cases)
        case = self._cases.case(number)
        if number not in self._scalings:
            self._scalings[number] = self._intensity.of(case.sample.image)
        start = self._place(case)
        scaling, size, transform = self._scalings[number], self._patch, self._transform
        if not isinstance(transform, VolumeTransform):
            patch = _cut(case.sample, start, size, scaling)
            return patch if transform is None else transform(patch)
        matrix = transform.draw(case.sample.spacing)
        beyond = margin(matrix, size)
        wide = tuple(s + 2 * m for s, m in zip(size, beyond, strict=True))
        patch = _cut(case.sample, [s - m for s, m in zip(start, beyond, strict=True)], wide, scaling)
        return transform.apply(patch, matrix, size)

    def count_labels(self, needs: str, indices: Sequence[int]) -> LabelCounts:
        """What :func:`seglib.data.checks.count_labels` asks for, of whole cases."""
        return self._cases.count_labels(needs, sorted({index % len(self._cases) for index in indices}))

    def _place(self, case: Case) -> list[int]:
        """The first voxel (z, y, x) of a random patch; negative along axes that are padded."""
        shape = case.sample.image.shape[1:]
        room = [n - s for n, s in zip(shape, self._patch, strict=True)]
        classes = list(case.foreground.values())
        if classes and torch.rand(()).item() < self._foreground:
            voxels = classes[int(torch.randint(len(classes), ()))]
            at = torch.unravel_index(voxels[torch.randint(len(voxels), ())], shape)
            first = [int(v) - s // 2 for v, s in zip(at, self._patch, strict=True)]
            return [min(max(f, 0), r) if r > 0 else -(-r // 2) for f, r in zip(first, room, strict=True)]
        return [int(torch.randint(r + 1, ())) if r > 0 else -(-r // 2) for r in room]


def _cut(sample: Sample, start: Sequence[int], size: Sequence[int], scaling: Callable[[Tensor], Tensor]) -> Sample:
    """The normalised patch of ``size`` at ``start``, padded where it leaves the volume."""
    assert sample.semantic is not None
    shape = sample.semantic.shape
    inside: list[slice] = []
    missing: list[int] = []
    for first, length, end in zip(start, size, shape, strict=True):
        low, high = max(first, 0), min(first + length, end)
        inside.append(slice(low, high))
        missing = [low - first, first + length - high, *missing]  # F.pad begins with the last axis
    z, y, x = inside
    image = F.pad(scaling(sample.image[:, z, y, x]), missing)
    semantic = F.pad(sample.semantic[z, y, x].long(), missing, value=VOID)
    return Sample(image, sample.id, semantic=semantic, spacing=sample.spacing)
