"""What fits into memory: the numbers in the feature maps of a network, counted, against those of a known one.

nnU-Net does not measure memory. It knows networks whose training takes 8 GB (ResEnc L 24, XL 40), counts the numbers
in all their feature maps for one patch, and holds that other networks with as many take as much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from seglib.planning.topology import Topology

MIN_BATCH = 2
"""The least patches of a batch."""

MAX_WIDTH = {2: 512, 3: 320}
"""The most channels of a level, for 2D and 3D."""

FOREGROUND = 0.33
"""The share of the patches of a batch that are centred on foreground, before it is rounded to whole patches."""

REFERENCE_BATCH = {2: 12, 3: 2}
"""The patches in a batch of the networks that were measured, for 2D and 3D."""


@dataclass(frozen=True)
class Planner:
    """One of nnU-Net's planners: the networks that it plans, and what was measured for them.

    Attributes:
        reference: its name in nnU-Net.
        plans_name: the name of the plans that it writes.
        memory: GB of the GPU that it plans for.
        features_2d: numbers in the feature maps of one patch of a 2D network that trains in that memory with a batch
            of 12.
        features_3d: likewise in 3D, with a batch of 2.
        coverage: the share of the voxels of the data set that a batch may have.
        fitting_2d: patches of a 2D network that fit at least: the patch shrinks until they do.
        residual: whether levels are made of residual blocks.
        blocks: convolutions or residual blocks of the first, second, … level on the way down; the last number goes on.
        decoder_blocks: convolutions of a level on the way up.
    """

    reference: str
    plans_name: str
    memory: float
    features_2d: float
    features_3d: float
    coverage: float = 1.0
    fitting_2d: int = 12
    residual: bool = True
    blocks: tuple[int, ...] = (1, 3, 4, 6)
    decoder_blocks: int = 1

    def features(self, dims: int, memory: float | None = None) -> float:
        """Numbers in the feature maps of one patch that fit, in the reference batch of :data:`REFERENCE_BATCH`."""
        memory = self.memory if memory is None else memory
        return (self.features_2d if dims == 2 else self.features_3d) * (memory / self.memory)

    def blocks_of(self, levels: int) -> tuple[int, ...]:
        """Convolutions or residual blocks of each level."""
        return tuple(self.blocks[min(level, len(self.blocks) - 1)] for level in range(levels))


PLANNERS = {
    "plain": Planner(
        "ExperimentPlanner",
        "nnUNetPlans",
        memory=8,
        features_2d=85e6,
        features_3d=560e6,
        coverage=0.05,
        fitting_2d=2,
        residual=False,
        blocks=(2,),
        decoder_blocks=2,
    ),
    "resenc_m": Planner(
        "nnUNetPlannerResEncM", "nnUNetResEncUNetMPlans", memory=8, features_2d=135e6, features_3d=680e6
    ),
    "resenc_l": Planner(
        "nnUNetPlannerResEncL", "nnUNetResEncUNetLPlans", memory=24, features_2d=380e6, features_3d=2100e6
    ),
    "resenc_xl": Planner(
        "nnUNetPlannerResEncXL", "nnUNetResEncUNetXLPlans", memory=40, features_2d=560e6, features_3d=3600e6
    ),
}
"""The planners of nnU-Net 2 by name."""

PLAIN = PLANNERS["plain"]


def widths(levels: int, dims: int, width: int = 32) -> tuple[int, ...]:
    """Channels of each level: they double from level to level, up to 512 in 2D and 320 in 3D."""
    return tuple(min(width * 2**level, MAX_WIDTH[dims]) for level in range(levels))


def feature_maps(topology: Topology, num_classes: int, *, planner: Planner = PLAIN, width: int = 32) -> int:
    """The numbers in all feature maps of a network for one patch.

    Counted are the output of every convolution on the way down (of a residual block both, and that of its skip where
    it changes the map; before the first block a stem), of every transposed convolution and convolution on the way up,
    and the scores at full resolution. Auxiliary scores are not.

    Args:
        topology: the patch, and kernels and strides.
        num_classes: classes, with the background.
        planner: says of what blocks the network is made.
        width: channels of the first level.
    """
    voxels = [math.prod(size) for size in topology.sizes]
    channels = widths(len(voxels), len(topology.patch), width)
    numbers = [c * n for c, n in zip(channels, voxels, strict=True)]  # of one map of each level
    blocks = planner.blocks_of(len(voxels))
    # two convolutions a residual block, one skip that changes the map for each level but the first, one stem there
    per_level = [2 * b + 1 if planner.residual else b for b in blocks]
    down = sum(maps * n for maps, n in zip(per_level, numbers, strict=True))
    up = sum((1 + planner.decoder_blocks) * n for n in numbers[:-1])
    return down + up + num_classes * voxels[0]


def fits(features: int, dims: int, *, planner: Planner = PLAIN, memory: float | None = None) -> bool:
    """Whether the least batch fits into memory: 2 patches, in 2D those that the planner asks for.

    Args:
        features: the numbers in the feature maps of one patch, as :func:`feature_maps` counts them.
        dims: 2 or 3.
        planner: one of :data:`PLANNERS`.
        memory: GB; the planner's own when not given.
    """
    least = planner.fitting_2d if dims == 2 else MIN_BATCH
    return features / REFERENCE_BATCH[dims] * least <= planner.features(dims, memory)


def batch_of_memory(features: int, dims: int, *, planner: Planner = PLAIN, memory: float | None = None) -> int:
    """The patches whose feature maps fit into memory, rounded."""
    return round(planner.features(dims, memory) / features * REFERENCE_BATCH[dims])


def batch_of_data(patch: Sequence[int], voxels: float, planner: Planner = PLAIN) -> int:
    """The patches that have a share ``planner.coverage`` of the voxels of the data set, rounded.

    Args:
        patch: voxels along each axis.
        voxels: number of voxels of all cases together.
        planner: plain takes 5 %, the residual encoders all.
    """
    return round(voxels * planner.coverage / math.prod(patch))


def batch_size(
    features: int,
    patch: Sequence[int],
    voxels: float,
    *,
    planner: Planner = PLAIN,
    memory: float | None = None,
) -> int:
    """The patches of a batch: as many as memory takes, but no more than the data set warrants, and at least 2.

    Args:
        features: the numbers in the feature maps of one patch.
        patch: voxels along each axis.
        voxels: number of voxels of all cases together.
        planner: one of :data:`PLANNERS`.
        memory: GB; the planner's own when not given.
    """
    most = batch_of_memory(features, len(patch), planner=planner, memory=memory)
    return max(min(most, batch_of_data(patch, voxels, planner)), MIN_BATCH)


def foreground_patches(batch: int) -> int:
    """The patches of a batch that are centred on foreground: a share of 0.33, rounded to whole patches."""
    return batch - round(batch * (1 - FOREGROUND))
