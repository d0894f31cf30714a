"""The facts of a data set that a plan is made from: sizes, spacings and foreground intensities of its cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch

from seglib.ops.preparation import nonzero_box
from seglib.types import VOID, Category, Sample, Size

SAMPLED_VOXELS = 10**7
"""The most foreground voxels that intensity statistics are taken of, over all cases."""


class LabelledVolumes(Protocol):
    """A data set of volumes with labels, such as :class:`~seglib.data.msd.MSD`."""

    categories: tuple[Category, ...]
    modalities: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@dataclass(frozen=True)
class ForegroundStatistics:
    """Intensities of one channel over the foreground voxels of all cases, of which each weighs the same.

    They are in the units of the images.

    Attributes:
        mean: arithmetic mean.
        median: the middle value.
        std: standard deviation, divided by the number of voxels.
        minimum: lowest value.
        maximum: highest value.
        percentile_00_5: the value that 0.5 % are below.
        percentile_99_5: the value that 0.5 % are above.
    """

    mean: float
    median: float
    std: float
    minimum: float
    maximum: float
    percentile_00_5: float
    percentile_99_5: float

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name} of the foreground voxels is {value!r}; it is a finite number")


@dataclass(frozen=True)
class Fingerprint:
    """What a plan is made from.

    Attributes:
        name: the name of the data set.
        modalities: the name of each channel; it decides the normalisation, "CT" above all.
        classes: the name of each class, background first.
        spacings: mm ``(z, y, x)`` of each case.
        sizes: voxels ``(D, H, W)`` of each case after cropping to the box outside which all channels are 0.
        kept: median share of the voxels of a case that cropping leaves, in (0, 1].
        intensities: statistics of the foreground voxels of each channel.

    Raises:
        ValueError: when there is no case, a number is out of range, or numbers of entries don't fit each other.
    """

    name: str
    modalities: tuple[str, ...]
    classes: tuple[str, ...]
    spacings: tuple[tuple[float, ...], ...]
    sizes: tuple[Size, ...]
    kept: float
    intensities: tuple[ForegroundStatistics, ...]

    def __post_init__(self) -> None:
        if not self.sizes or len(self.sizes) != len(self.spacings):
            raise ValueError(
                f"a fingerprint has a spacing and a size for each of at least one case, got {len(self.spacings)} "
                f"spacings and {len(self.sizes)} sizes"
            )
        if not self.modalities or len(self.modalities) != len(self.intensities):
            raise ValueError(
                f"a fingerprint has intensities for each of at least one channel, got {len(self.intensities)} for the "
                f"channels {self.modalities}"
            )
        if len(self.classes) < 2:
            raise ValueError(f"a data set has a background and at least one more class, got {self.classes}")
        for case, spacing in enumerate(self.spacings):
            _check_spacing(f"case {case}", spacing)
        for case, size in enumerate(self.sizes):
            if len(size) != 3 or not all(n >= 1 and n == int(n) for n in size):
                raise ValueError(f"case {case} has the size {size}; it is three whole numbers of voxels (D, H, W)")
        if not 0 < self.kept <= 1:
            raise ValueError(f"the share of voxels that cropping leaves is {self.kept}; it lies in (0, 1]")

    def to_json(self) -> dict[str, Any]:
        """The fields as plain numbers, lists and text; :meth:`from_json` reads them."""
        return asdict(self)

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Fingerprint:
        """The fingerprint that :meth:`to_json` wrote.

        Raises:
            ValueError: when a field is missing, unknown or out of range.
        """
        names = {field.name for field in fields(Fingerprint)}
        if wrong := sorted(names ^ set(content)):
            raise ValueError(f"a fingerprint has the fields {sorted(names)}; {wrong[0]!r} is missing or unknown")
        try:
            return Fingerprint(
                content["name"],
                tuple(content["modalities"]),
                tuple(content["classes"]),
                triples(content["spacings"]),
                triples(content["sizes"]),
                content["kept"],
                tuple(ForegroundStatistics(**entry) for entry in content["intensities"]),
            )
        except TypeError as error:
            raise ValueError(f"a field of the fingerprint has another type than it should ({error})") from error


def fingerprint(dataset: LabelledVolumes, name: str = "") -> Fingerprint:
    """Read all cases of a data set, one after the other, and note what a plan needs.

    Intensities are those of voxels of any class but the background, void excepted, inside the non-zero box. A case with
    a large organ weighs no more than others: nnU-Net draws as many voxels from each. Here all voxels of a case count
    in equal parts, or evenly spaced ones of large organs.

    Args:
        dataset: labelled volumes, of which the training cases count alone.
        name: the name of the data set.

    Raises:
        ValueError: when there is no case or none with a foreground voxel, or when a case has no labels, no spacing,
            another number of channels than the data set has modalities, labels on another grid, a spacing that is not
            positive, or a foreground voxel that is NaN or infinite. The message names the case.
    """
    if len(dataset) == 0:
        raise ValueError("there is no case to take a fingerprint of; check the folder or the split of the data set")
    share = max(1, SAMPLED_VOXELS // len(dataset))
    spacings, sizes, kept, values, weights = [], [], [], [], []
    for index in range(len(dataset)):
        sample = dataset[index]
        image, labels = sample.image, sample.semantic
        if image.ndim != 4 or len(image) != len(dataset.modalities):
            raise ValueError(
                f"sample {sample.id!r} has an image {tuple(image.shape)}; with the modalities "
                f"{', '.join(dataset.modalities)} it is ({len(dataset.modalities)}, D, H, W)"
            )
        if labels is None or sample.spacing is None:
            missing = "labels" if labels is None else "spacing"
            raise ValueError(f"sample {sample.id!r} has no {missing}; a plan is made from labelled volumes with mm")
        if labels.shape != image.shape[1:]:
            raise ValueError(
                f"sample {sample.id!r} has labels {tuple(labels.shape)} and an image {tuple(image.shape[1:])} "
                "(D, H, W); resample one to the grid of the other"
            )
        _check_spacing(f"sample {sample.id!r}", sample.spacing)
        z, y, x = (slice(*side) for side in nonzero_box(image))
        inside = image[:, z, y, x]
        marked = labels[z, y, x]
        places = ((marked > 0) & (marked != VOID)).nonzero(as_tuple=True)  # (N,) along each axis
        if count := len(places[0]):
            n = min(count, share)
            spread = torch.arange(n) * count // n
            values.append(inside[:, places[0][spread], places[1][spread], places[2][spread]].float())  # (C, n)
            weights.append(np.full(n, 1 / n))
            if not values[-1].isfinite().all():
                raise ValueError(f"sample {sample.id!r} has NaN or infinite foreground voxels; repair the image")
        spacings.append(tuple(float(s) for s in sample.spacing))
        sizes.append(tuple(inside.shape[1:]))
        kept.append(inside[0].numel() / image[0].numel())
    if not values:
        raise ValueError("no case has a foreground voxel; check the ids in the label files")
    channels = torch.cat(values, 1).double().numpy()  # (C, N)
    return Fingerprint(
        name,
        tuple(dataset.modalities),
        tuple(category.name for category in dataset.categories),
        tuple(spacings),
        tuple(sizes),
        float(np.median(kept)),
        tuple(_statistics(channel, np.concatenate(weights)) for channel in channels),
    )


def _check_spacing(of: str, spacing: Sequence[float]) -> None:
    if len(spacing) != 3 or not all(0 < s < math.inf for s in spacing):
        raise ValueError(
            f"{of} has the spacing {spacing}; it is three positive numbers of mm (z, y, x), so correct the header of "
            "its file"
        )


def _statistics(values: np.ndarray, weights: np.ndarray) -> ForegroundStatistics:
    """Of ``(N,)`` values with weights; a percentile is the first value up to which so much of the weight lies."""
    mean = np.average(values, weights=weights)
    std = np.average((values - mean) ** 2, weights=weights) ** 0.5
    order = np.argsort(values)
    upto = np.cumsum(weights[order])
    low, median, high = values[order][np.searchsorted(upto, np.array((0.005, 0.5, 0.995)) * upto[-1])]
    numbers = (mean, median, std, values.min(), values.max(), low, high)
    return ForegroundStatistics(*map(float, numbers))


def triples(rows: Sequence[Sequence[float]]) -> tuple[tuple[Any, ...], ...]:
    """Lists of numbers, as JSON has them, as tuples."""
    return tuple(tuple(row) for row in rows)
