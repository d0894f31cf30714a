"""The plan: what nnU-Net does with a data set, decided from its fingerprint alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from seglib.ops.preparation import Preparation
from seglib.planning.fingerprint import Fingerprint, ForegroundStatistics
from seglib.planning.memory import foreground_patches, widths
from seglib.planning.normalization import intensity, masked, normalization
from seglib.planning.patch import Draft
from seglib.planning.reasons import Reason, reasons
from seglib.planning.topology import Topology
from seglib.planning.trace import Trace, trace
from seglib.types import Category, Size


@dataclass(frozen=True)
class Configuration:
    """How one network of a plan is built and fed. Axes are those after transposition; in 2D there are two.

    Attributes:
        name: "2d", "3d_fullres", "3d_lowres" or "3d_cascade_fullres".
        spacing: mm that cases are resampled to.
        median_size: voxels of the median case at that spacing.
        patch: voxels of a training patch, and of the sliding window.
        batch_size: patches of a batch.
        widths: channels of each level, the finest first.
        kernels: kernel size of each level.
        strides: stride with which each level but the first is entered.
        blocks: convolutions or residual blocks of each level on the way down.
        decoder_blocks: convolutions of each level on the way up, the finest first, one level fewer.
        residual: whether the way down is made of residual blocks.
        batch_dice: whether the Dice loss is that of the whole batch, not of each patch.
        normalization: for each channel the mode of :class:`~seglib.ops.intensity.Intensity`.
        masked: for each channel, whether the z-score is that of the non-zero region alone.
        previous: the configuration whose prediction is a further input, if there is one.
    """

    name: str
    spacing: tuple[float, ...]
    median_size: tuple[float, ...]
    patch: Size
    batch_size: int
    widths: tuple[int, ...]
    kernels: tuple[Size, ...]
    strides: tuple[Size, ...]
    blocks: tuple[int, ...]
    decoder_blocks: tuple[int, ...]
    residual: bool
    batch_dice: bool
    normalization: tuple[str, ...]
    masked: tuple[bool, ...]
    previous: str | None = None

    def __post_init__(self) -> None:
        levels = len(self.widths)
        wanted = {"kernels": levels, "strides": levels - 1, "blocks": levels, "decoder_blocks": levels - 1}
        for name, count in wanted.items():
            if len(getattr(self, name)) != count:
                raise ValueError(f"a network of {levels} levels has {count} {name}, got {len(getattr(self, name))}")
        rows = [self.spacing, self.median_size, *self.kernels, *self.strides]
        if self.dims not in (2, 3) or any(len(row) != self.dims for row in rows):
            raise ValueError(
                f"spacing, sizes, kernels and strides are for 2 or 3 axes, as the patch {self.patch} is; got {rows}"
            )
        if len(self.normalization) != len(self.masked):
            raise ValueError(f"{len(self.normalization)} channels are normalised, and {len(self.masked)} masked or not")
        multiple = Topology(self.patch, self.kernels, self.strides).multiple
        if any(n % m for n, m in zip(self.patch, multiple, strict=True)):
            raise ValueError(f"the patch {self.patch} is no multiple of {multiple}, the product of the strides")

    @property
    def dims(self) -> int:
        """2 or 3."""
        return len(self.patch)

    @property
    def foreground(self) -> float:
        """The share of patches that are centred on foreground, a third of a batch rounded to whole patches."""
        return foreground_patches(self.batch_size) / self.batch_size

    def model_arguments(self) -> dict[str, Any]:
        """Arguments of the network, besides ``num_classes`` and ``in_channels``: ``build("nnunet", …)``."""
        names = ("dims", "widths", "kernels", "strides", "blocks", "decoder_blocks", "residual", "batch_dice")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Plan:
    """What nnU-Net does with a data set.

    Attributes:
        dataset: the name of the data set.
        planner: one of :data:`~seglib.planning.memory.PLANNERS`, or nnU-Net's name of another one.
        memory: GB that was planned for; ``None`` where a file doesn't say.
        modalities: the name of each channel.
        classes: the name of each class, background first.
        transpose: the axis of the cases that becomes the first, second and third.
        median_spacing: mm, median of the cases, in the new order of axes.
        median_size: voxels, median of the cropped cases before resampling, in the new order of axes.
        intensities: statistics of the foreground voxels of each channel.
        configurations: by name.
        reasons: one for every number; none where nnU-Net wrote the file.
    """

    dataset: str
    planner: str
    memory: float | None
    modalities: tuple[str, ...]
    classes: tuple[str, ...]
    transpose: tuple[int, ...]
    median_spacing: tuple[float, ...]
    median_size: Size
    intensities: tuple[ForegroundStatistics, ...]
    configurations: dict[str, Configuration]
    reasons: tuple[Reason, ...] = ()

    def __post_init__(self) -> None:
        for name, entry in self.configurations.items():
            channels = {len(self.modalities), len(self.intensities), len(entry.normalization)}
            if len(channels) > 1:
                raise ValueError(
                    f"the channels are {', '.join(self.modalities)}, but there are statistics for "
                    f"{len(self.intensities)}, and {name!r} normalises {len(entry.normalization)}"
                )
            if entry.previous is not None and entry.previous not in self.configurations:
                raise ValueError(f"{name!r} takes the prediction of {entry.previous!r}, which the plan does not have")

    def preparation(self, name: str) -> Preparation:
        """How cases are prepared for a configuration; in 2D slices keep their distance.

        Raises:
            ValueError: when the plan has no such configuration, or the numbers of a CT channel are of no use.
        """
        if name not in self.configurations:
            raise ValueError(f"the plan has no configuration {name!r}; choose one of {', '.join(self.configurations)}")
        chosen = self.configurations[name]
        return Preparation(
            spacing=chosen.spacing if chosen.dims == 3 else (None, *chosen.spacing),
            intensities=tuple(map(intensity, chosen.normalization, self.intensities)),
            masked=chosen.masked,
            transpose=self.transpose,
            previous=0 if chosen.previous is None else len(self.classes) - 1,
        )


def plan(fingerprint: Fingerprint, *, planner: str = "plain", memory: float | None = None, width: int = 32) -> Plan:
    """Plan as nnU-Net does.

    nnU-Net also plans networks of one level where no axis can be halved, which it can't build; here such a
    configuration is left out.

    Args:
        fingerprint: the facts of the data set.
        planner: "plain" for nnU-Net's first networks, or "resenc_m", "resenc_l" or "resenc_xl" for those with residual
            blocks.
        memory: GB to plan for; the planner's own when not given: 8, 8, 24 and 40.
        width: channels of the first level; nnU-Net has 32.

    Raises:
        ValueError: for an unknown planner, memory or width out of range, memory in which no patch fits, cases too small
            for any configuration, and CT channels with one value alone.
    """
    steps = trace(fingerprint, planner=planner, memory=memory, width=width)
    drafts = steps.drafts
    if not drafts:
        raise ValueError(
            "no axis of the median case can be halved, which takes 8 voxels, or 12 along one axis alone: it has "
            f"{steps.size} voxels at {tuple(steps.spacing[axis] for axis in steps.transpose)} mm, and patches fit into "
            f"{steps.memory:g} GB; use a model without strides, or cases with more voxels"
        )
    configurations = {name: _configuration(name, found, steps, fingerprint) for name, found in drafts.items()}
    if "3d_lowres" in drafts:
        configurations["3d_cascade_fullres"] = replace(
            configurations["3d_fullres"], name="3d_cascade_fullres", previous="3d_lowres"
        )
    order = list(steps.transpose)
    made = Plan(
        fingerprint.name,
        planner,
        steps.memory,
        fingerprint.modalities,
        fingerprint.classes,
        steps.transpose,
        tuple(np.median(fingerprint.spacings, axis=0)[order].tolist()),
        tuple(round(n) for n in np.median(fingerprint.sizes, axis=0)[order].tolist()),
        fingerprint.intensities,
        configurations,
        reasons(steps, fingerprint),
    )
    made.preparation(next(iter(configurations)))  # CT channels whose numbers are of no use
    return made


def _configuration(name: str, found: Draft, steps: Trace, fingerprint: Fingerprint) -> Configuration:
    levels, dims = len(found.topology.kernels), len(found.size)
    return Configuration(
        name,
        found.spacing,
        found.size,
        found.topology.patch,
        found.batch_size,
        widths(levels, dims, steps.width),
        found.topology.kernels,
        found.topology.strides,
        steps.planner.blocks_of(levels),
        (steps.planner.decoder_blocks,) * (levels - 1),
        steps.planner.residual,
        steps.batch_dice(name),
        tuple(map(normalization, fingerprint.modalities)),
        masked(fingerprint),
    )


class DescribedVolumes(Protocol):
    """A data set that names its channels and classes."""

    modalities: tuple[str, ...]
    categories: tuple[Category, ...]


def check_plan_fits(plan: Plan, dataset: DescribedVolumes) -> None:
    """Check that a plan was made for a data set: the same channels and the same classes, in this order.

    Raises:
        ValueError: when they differ.
    """
    classes = tuple(category.name for category in dataset.categories)
    for what, planned, found in (
        ("channels", plan.modalities, tuple(dataset.modalities)),
        ("classes", plan.classes, classes),
    ):
        if planned != found:
            raise ValueError(
                f"the plan was made for the data set {plan.dataset!r} with the {what} {', '.join(planned)}, and this "
                f"one has {', '.join(found)}; plan this data set anew"
            )
