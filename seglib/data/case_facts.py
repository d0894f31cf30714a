"""What training on volumes needs to know of its cases: how large and how finely sampled they are, and in what units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from seglib.data.cases import StoredCases
from seglib.ops.intensity import Intensity, fit_ct

PATCH_VOXELS = 96 * 96 * 96
"""The most voxels of a default patch."""

FAR = 1.5
"""A case is sampled unlike the training cases when its spacing differs from theirs by more than this factor."""


@dataclass(frozen=True)
class CaseFacts:
    """What :func:`case_facts` finds.

    Attributes:
        size: the median size of the cases, ``(D, H, W)`` in voxels.
        spacing: the median spacing of the cases in mm, ``(z, y, x)``.
        intensity: how voxels are scaled before a model sees them.
    """

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    intensity: Intensity


def case_facts(cases: StoredCases, modalities: Sequence[str]) -> CaseFacts:
    """Look through the training cases.

    CT is scaled with the numbers of the foreground voxels of all cases, since a value in Hounsfield units means the
    same in each of them. Any other modality, or a mixture, is scaled case by case to mean 0 and standard deviation 1.

    Args:
        cases: the training cases.
        modalities: the name of each channel.

    Raises:
        ValueError: when no case has a foreground voxel.
    """
    samples = [cases[i] for i in range(len(cases))]
    if not any(cases.case(i).foreground for i in range(len(cases))):
        raise ValueError("no training case has a foreground voxel; check the ids in the label files")
    size = np.median([s.image.shape[1:] for s in samples], axis=0)
    spacing = np.median([s.spacing or (1.0, 1.0, 1.0) for s in samples], axis=0)
    intensity = Intensity("zscore")
    if all(name.upper() == "CT" for name in modalities):
        intensity = fit_ct(torch.cat([cases.foreground_values(i).flatten() for i in range(len(cases))]))
    return CaseFacts(tuple(round(n) for n in size.tolist()), tuple(spacing.tolist()), intensity)


def default_patch(size: Sequence[int], multiple: int = 8) -> tuple[int, ...]:
    """The patch to train on: the median case, rounded up to a multiple, cut along its longest axis where it is large.

    Args:
        size: the median size of the cases, ``(D, H, W)``.
        multiple: what every side is a multiple of: the stride of most models.

    Returns:
        ``(d, h, w)`` of at most :data:`PATCH_VOXELS` voxels.
    """
    patch = [-(-n // multiple) * multiple for n in size]
    while patch[0] * patch[1] * patch[2] > PATCH_VOXELS:
        patch[patch.index(max(patch))] -= multiple
    return tuple(patch)


def sampled_unlike(spacing: Sequence[float] | None, usual: Sequence[float]) -> bool:
    """Whether a case's spacing in mm differs from the usual one by more than the factor :data:`FAR` on an axis."""
    ratios = [a / b for a, b in zip(spacing or usual, usual, strict=True)]
    return max(*ratios, *(1 / r for r in ratios)) > FAR
