"""The patch that a network trains on, and with it topology and batch size: as large as memory allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from seglib.planning.memory import PLAIN, Planner, batch_size, feature_maps, fits
from seglib.planning.topology import Topology, topology

INITIAL_EDGE = {2: 2048, 3: 256}
"""The patch to start from has as many voxels as a square or cube of this edge."""


@dataclass(frozen=True)
class Step:
    """A patch that was tried.

    Attributes:
        topology: the patch, padded, with kernels and strides.
        features: the numbers in its feature maps.
    """

    topology: Topology
    features: int


@dataclass(frozen=True)
class Draft:
    """How the numbers of a configuration come about.

    Attributes:
        spacing: mm along each axis.
        size: median size of the cases at that spacing, in voxels.
        initial: the patch to start from.
        steps: the patches that were tried; the last one fits into memory.
        voxels: number of voxels of the median case at that spacing, before its size was rounded; in 2D those of all
            its slices.
        cases: number of cases.
        batch_size: patches of a batch.
    """

    spacing: tuple[float, ...]
    size: tuple[float, ...]
    initial: tuple[float, ...]
    steps: tuple[Step, ...]
    voxels: float
    cases: int
    batch_size: int

    @property
    def topology(self) -> Topology:
        """The patch that fits, with kernels and strides."""
        return self.steps[-1].topology

    @property
    def covered(self) -> float:
        """The share of the median case that a patch covers; above 1 where padding makes the patch larger."""
        return math.prod(self.topology.patch) / self.voxels


def initial_patch(spacing: Sequence[float], size: Sequence[float]) -> tuple[float, ...]:
    """The patch to start from: 256³ voxels (2D: 2048²) shaped like a cube in mm, clipped to the median case.

    Args:
        spacing: mm along each axis, 2 or 3.
        size: median size of the cases at that spacing, in voxels. Where the number of cases is even it may end in .5,
            and so may the patch, which :func:`~seglib.planning.topology.topology` pads.
    """
    dims = len(spacing)
    density = [1 / s for s in spacing]
    scale = (INITIAL_EDGE[dims] ** dims / math.prod(density)) ** (1 / dims)
    return tuple(min(round(d * scale), n) for d, n in zip(density, size, strict=True))


def shrink(spacing: Sequence[float], size: Sequence[float], patch: Sequence[int]) -> Topology:
    """One step down: the axis on which the patch covers most of the median case becomes shorter.

    It loses what it must be a multiple of, in the topology that the shorter patch has. Of several such axes it is the
    last.

    Args:
        spacing: mm along each axis.
        size: median size of the cases at that spacing, in voxels.
        patch: voxels along each axis, padded.

    Raises:
        ValueError: when nothing of the patch would remain.
    """
    axis = max(range(len(patch)), key=lambda a: (patch[a] / size[a], a))
    shorter = list(patch)
    shorter[axis] -= topology(spacing, patch).multiple[axis]
    shorter[axis] = patch[axis] - topology(spacing, shorter).multiple[axis]
    if shorter[axis] < 1:
        raise ValueError(f"not even a patch of {patch} voxels fits into memory")
    return topology(spacing, shorter)


def draft(
    spacing: Sequence[float],
    size: Sequence[float],
    voxels: float,
    cases: int,
    num_classes: int,
    *,
    planner: Planner = PLAIN,
    memory: float | None = None,
    width: int = 32,
) -> Draft:
    """The patch, shrunk until a batch of 2 fits into memory, and then the batch size.

    Args:
        spacing: mm along each axis, 2 or 3.
        size: median size of the cases at that spacing, in voxels.
        voxels: number of voxels of the median case at that spacing; in 2D those of all its slices.
        cases: number of cases.
        num_classes: classes, with the background.
        planner: one of :data:`~seglib.planning.memory.PLANNERS`.
        memory: GB; the planner's own when not given.
        width: channels of the first level.

    Raises:
        ValueError: when no patch fits into memory.
    """

    def step(found: Topology) -> Step:
        return Step(found, feature_maps(found, num_classes, planner=planner, width=width))

    initial = initial_patch(spacing, size)
    steps = [step(topology(spacing, initial))]
    while not fits(steps[-1].features, len(size), planner=planner, memory=memory):
        steps.append(step(shrink(spacing, size, steps[-1].topology.patch)))
    fitting = steps[-1]
    patches = batch_size(fitting.features, fitting.topology.patch, voxels * cases, planner=planner, memory=memory)
    return Draft(tuple(spacing), tuple(size), initial, tuple(steps), voxels, cases, patches)
