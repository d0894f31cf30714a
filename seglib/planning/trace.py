"""Every step that leads to a plan, in the order in which the rules apply."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from seglib.ops.resample import resampled_size
from seglib.planning.fingerprint import Fingerprint
from seglib.planning.memory import PLANNERS, Planner
from seglib.planning.patch import Draft, draft
from seglib.planning.spacing import coarser, target_spacing, transposition

LOWRES_BELOW = 0.25
"""3d_lowres is planned when the patch of 3d_fullres covers less than this share of the median case."""

LOWRES_FACTOR = 2
"""3d_lowres is dropped when its median case has not this many times fewer voxels than that of 3d_fullres."""


@dataclass(frozen=True)
class Trace:
    """How a plan comes about.

    Attributes:
        planner: one of nnU-Net's planners.
        memory: GB to plan for.
        width: channels of the first level.
        spacing: the spacing to resample to in mm, in the axes of the cases.
        transpose: the axis of the cases that becomes the first, second and third; all further numbers are in the new
            order.
        size: median size of the resampled cases, in voxels.
        planar: the 2D configuration.
        fullres: the 3D configuration; ``None`` where the first axis of the median case has one voxel.
        lowres: the 3D configurations at larger and larger spacing that were tried until the patch covers a quarter of
            the median case; the last one is 3d_lowres.
    """

    planner: Planner
    memory: float
    width: int
    spacing: tuple[float, ...]
    transpose: tuple[int, int, int]
    size: tuple[float, ...]
    planar: Draft
    fullres: Draft | None
    lowres: tuple[Draft, ...]

    @property
    def drafts(self) -> dict[str, Draft]:
        """The configurations that are planned.

        3d_lowres has half the voxels of 3d_fullres or fewer. A U-Net has two levels at least: where no axis can be
        halved there is none, and without 3d_fullres no 3d_lowres.
        """
        found = {"2d": self.planar}
        if self.fullres is not None and self.fullres.topology.strides:
            if self.lowres and self.fullres.voxels / self.lowres[-1].voxels >= LOWRES_FACTOR:
                found["3d_lowres"] = self.lowres[-1]
            found["3d_fullres"] = self.fullres
        return {name: found[name] for name in found if found[name].topology.strides}

    def batch_dice(self, name: str) -> bool:
        """Whether the Dice loss of a configuration is that of the whole batch.

        It is in 2d, and in 3d_fullres where patches are so small that there is a 3d_lowres; never in 3d_lowres.
        """
        return name == "2d" or (name == "3d_fullres" and "3d_lowres" in self.drafts)


def check_arguments(planner: str, memory: float | None, width: int) -> None:
    """Check what :func:`trace` is asked for, before cases are read for a fingerprint, which takes long.

    Raises:
        ValueError: for an unknown planner, or memory or width out of range.
    """
    if planner not in PLANNERS:
        raise ValueError(f"planner {planner!r} is unknown; choose one of {', '.join(PLANNERS)}")
    if memory is not None and not 0 < memory < math.inf:
        raise ValueError(f"memory is a positive number of GB, got {memory}")
    if width < 1:
        raise ValueError(f"width is the number of channels of the first level, at least 1, got {width}")


def trace(fingerprint: Fingerprint, *, planner: str = "plain", memory: float | None = None, width: int = 32) -> Trace:
    """Apply the rules one after the other, and keep what each of them gives.

    Args:
        fingerprint: the facts of the data set.
        planner: one of :data:`~seglib.planning.memory.PLANNERS`.
        memory: GB to plan for; the planner's own when not given.
        width: channels of the first level.

    Raises:
        ValueError: for an unknown planner, memory or width out of range, and memory in which no patch fits.
    """
    check_arguments(planner, memory, width)
    family = PLANNERS[planner]
    memory = family.memory if memory is None else memory
    spacing = target_spacing(fingerprint.spacings, fingerprint.sizes)
    transpose = transposition(spacing)
    resampled = [
        resampled_size(size, own, spacing) for size, own in zip(fingerprint.sizes, fingerprint.spacings, strict=True)
    ]
    size = tuple(np.median(resampled, axis=0)[list(transpose)].tolist())
    mm = tuple(spacing[axis] for axis in transpose)
    plan = partial(
        draft,
        cases=len(fingerprint.sizes),
        num_classes=len(fingerprint.classes),
        planner=family,
        memory=memory,
        width=width,
    )
    planar = plan(mm[1:], size[1:], math.prod(size))
    found = Trace(family, memory, width, spacing, transpose, size, planar, None, ())
    if size[0] == 1:
        return found
    fullres = plan(mm, size, math.prod(size))
    lowres: list[Draft] = []
    while (lowres[-1] if lowres else fullres).covered < LOWRES_BELOW:
        larger = coarser(lowres[-1].spacing if lowres else mm)
        voxels = math.prod(n * a / b for n, a, b in zip(size, mm, larger, strict=True))
        lowres.append(plan(larger, resampled_size(size, mm, larger), voxels))
    return replace(found, fullres=fullres, lowres=tuple(lowres))
