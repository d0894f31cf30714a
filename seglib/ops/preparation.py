"""From a case on disk to what a network sees, and from its answer back to the case: nnU-Net's preprocessing.

::

    case (C, D, H, W), mm ─► transpose ─► crop to the non-zero box ─► normalise ─► resample ─► (C, d, h, w), target mm
                                                                                                    │ network
    (K, D, H, W) ◄─ transpose back ◄─ background outside the box ◄─────────────────── resample ◄─ logits (K, d, h, w)

Intensities are normalised before they are resampled, so that a mask of zeros still fits its image (nnU-Net, version 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from seglib.ops.intensity import Intensity
from seglib.ops.labels import require_integers
from seglib.ops.resample import resample_cubic, resample_labels, resample_linear, resampled_size, separate_axis
from seglib.types import VOID

Box = tuple[tuple[int, int], ...]
"""The first voxel and the one behind the last, along each axis."""

_OUTSIDE = -1  # the label of background outside of the non-zero region, while labels are resampled
_VOXELS = 2**22  # of a slab in restore_argmax: 16 MB a class


@dataclass(frozen=True)
class Prepared:
    """A case as a network sees it, with what leads back to the case.

    Attributes:
        image: ``(C, d, h, w)`` float32; in a cascade ``(C + K − 1, d, h, w)``, with a mask of 0 and 1 for each
            foreground class of the stage before.
        labels: ``(d, h, w)`` in the dtype that they came in, or ``None``.
        spacing: mm between voxels of the image.
        box: the part that was kept of the case, along its transposed axes.
        original_size: ``(D, H, W)`` of the case.
        original_spacing: mm ``(z, y, x)`` of the case.
    """

    image: Tensor
    labels: Tensor | None
    spacing: tuple[float, ...]
    box: Box
    original_size: tuple[int, ...]
    original_spacing: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How cases are made alike before a network sees them; calling it prepares one.

    Attributes:
        spacing: the spacing to resample to in mm, along the axes after transposition; ``None`` keeps the case's own, as
            2D configurations do between slices.
        intensities: how each channel is normalised, C of them.
        masked: for each channel, whether mean and standard deviation are those of the non-zero region alone, outside of
            which the channel becomes 0: for MRI without skull. Only with ``zscore``; empty means nowhere.
        transpose: the axis of the case, 0 to 2 of ``(D, H, W)``, that becomes the first, second and third.
        crop: whether to cut off borders where all channels are 0.
        previous: in a cascade, the number of foreground classes K − 1 of the stage before, whose labels become further
            channels; else 0.

    Raises:
        ValueError: for a spacing that is not positive, axes that are no permutation, a mask that does not fit, or a
            negative number of classes.

    Source: Isensee et al., "nnU-Net", Nature Methods 2021, Methods.
    """

    spacing: tuple[float | None, ...]
    intensities: tuple[Intensity, ...]
    masked: tuple[bool, ...] = ()
    transpose: tuple[int, ...] = (0, 1, 2)
    crop: bool = True
    previous: int = 0

    def __post_init__(self) -> None:
        if len(self.spacing) != 3 or not all(s is None or _is_distance(s) for s in self.spacing):
            raise ValueError(f"the target spacing is three positive numbers of mm, or None, got {self.spacing}")
        if sorted(self.transpose) != [0, 1, 2]:
            raise ValueError(f"transpose has each of the axes 0, 1 and 2 once, got {self.transpose}")
        if not self.intensities:
            raise ValueError("a preparation has an intensity for each channel, got none")
        if len(self.masked) not in (0, len(self.intensities)):
            raise ValueError(f"masked is for {len(self.masked)} channels, but there are {len(self.intensities)}")
        for masked, intensity in zip(self.masked, self.intensities, strict=False):
            if masked and intensity.mode != "zscore":
                raise ValueError(f"only zscore takes its numbers from the non-zero region, not {intensity.mode!r}")
        if self.previous < 0:
            raise ValueError(f"previous is a number of foreground classes, at least 0, got {self.previous}")

    def __call__(
        self,
        image: Tensor,
        spacing: Sequence[float] | None = None,
        labels: Tensor | None = None,
        previous: Tensor | None = None,
    ) -> Prepared:
        """Prepare a case.

        A case that is 0 everywhere is not cropped. The non-zero region, of which ``masked`` channels take mean and
        standard deviation, is where any channel is not 0, with its holes filled. It is that of the image alone, as
        nnU-Net takes it at prediction; in training nnU-Net adds what is labelled outside.

        Images are resampled by cubic splines, labels linearly class by class, where background outside of the non-zero
        region is a class of its own, as in nnU-Net. Between slices that are far apart, more than 3 times the distance
        of pixels, both take the nearest slice.

        Args:
            image: ``(C, D, H, W)``, any dtype; it may be memory-mapped, as one channel is read after the other.
            spacing: its mm ``(z, y, x)``; not needed where the target is ``None`` for all axes.
            labels: its labels ``(D, H, W)``, integers in 0..255; 255 is void and stays so.
            previous: in a cascade, the labels ``(D, H, W)`` that the stage before gave the case, on the case's grid.

        Raises:
            ValueError: when the image is no volume with voxels or has another number of channels, the spacing is
                missing or not positive, labels do not fit or are missing, or a voxel is NaN or infinite.
        """
        mm = self._check(image, spacing, labels, previous)
        target = tuple(own if wanted is None else float(wanted) for own, wanted in zip(mm, self.spacing, strict=True))
        moved = image.permute(0, *(1 + axis for axis in self.transpose))
        nonzero = _nonzero(moved)  # (D, H, W)
        box = _around(nonzero) if self.crop else tuple((0, n) for n in nonzero.shape)
        z, y, x = (slice(*side) for side in box)
        inside = _filled(nonzero[z, y, x])
        size = resampled_size([stop - start for start, stop in box], mm, target)
        separate = separate_axis(mm, target)
        out = image.new_empty((len(image) + self.previous, *size), dtype=torch.float32)
        for c, (channel, intensity) in enumerate(zip(moved[:, z, y, x], self.intensities, strict=True)):
            if channel.is_floating_point() and not channel.sum(dtype=torch.float64).isfinite():
                raise ValueError(
                    f"channel {c} of the case has NaN or infinite voxels; repair them, e.g. with torch.nan_to_num"
                )
            within = inside if self.masked and self.masked[c] else None
            resample_cubic(_normalised(channel, intensity, within)[None], size, separate=separate, out=out[c : c + 1])

        def resampled(labels: Tensor) -> Tensor:
            cropped = labels.permute(self.transpose)[z, y, x].cpu().short()
            cropped = cropped.masked_fill(~inside.cpu() & (cropped == 0), _OUTSIDE)
            return resample_labels(cropped, size, separate=separate).clamp_(min=0)

        if previous is not None:
            out[len(image) :] = resampled(previous) == torch.arange(1, self.previous + 1).view(-1, 1, 1, 1)
        if labels is not None:
            labels = resampled(labels).to(labels.dtype)
        original_spacing = tuple(mm[self.transpose.index(axis)] for axis in range(3))
        return Prepared(out, labels, target, box, tuple(image.shape[1:]), original_spacing)

    def restore(self, values: Tensor, prepared: Prepared, *, background: bool = True) -> Tensor:
        """Values on the prepared grid, such as logits, on the grid of the case.

        They are interpolated linearly; between slices that are far apart the nearest slice is taken. Outside the box
        the first class, the background, gets the highest value that there is, and the others the lowest.

        Args:
            values: ``(K, d, h, w)``, one channel for each class.
            prepared: the case.
            background: whether the first class is the background; otherwise, of regions that may overlap, all get -inf
                outside the box.

        Returns:
            ``(K, D, H, W)`` float32, on the device of the values.

        Raises:
            ValueError: when the values are not on the prepared grid, or one is NaN.
        """
        _check_restored(values, prepared)
        size, separate = self._way_back(prepared)
        low, high = values.aminmax()
        outside = float(low) if background else -torch.inf
        out = torch.full((len(values), *prepared.original_size), outside, device=values.device)
        if background:
            out[0] = float(high)
        inside = self._into_box(out, prepared)
        for k in range(len(values)):  # one by one, as ``out`` is all that is wanted in memory
            inside[k] = resample_linear(values[k : k + 1], size, separate=separate)[0]
        return out

    def restore_argmax(self, values: Tensor, prepared: Prepared) -> Tensor:
        """The most probable class of each voxel of the case: the argmax of :meth:`restore`, slab by slab.

        The values need not exist on the grid of the case; memory, besides the values and the labels, is that of a slab
        of some slices. Outside the box is background, 0.

        Args:
            values: ``(K, d, h, w)``, one channel for each of at most 255 classes, logits or probabilities.
            prepared: the case.

        Returns:
            Labels ``(D, H, W)`` uint8 on the CPU.

        Raises:
            ValueError: as :meth:`restore`.
        """
        _check_restored(values, prepared)
        size, separate = self._way_back(prepared)
        out = torch.zeros(prepared.original_size, dtype=torch.uint8)
        inside = self._into_box(out, prepared)
        step = max(1, _VOXELS // (size[1] * size[2]))
        for first in range(0, size[0], step):
            slices = slice(first, min(first + step, size[0]))
            best = torch.full(inside[slices].shape, -torch.inf, device=values.device)  # (n, h, w)
            labels = torch.zeros_like(best, dtype=torch.uint8)
            for k, channel in enumerate(values):  # one by one: a slab of all classes would need K times the memory
                value = resample_linear(channel[None], size, separate=separate, slices=slices)[0]
                labels.masked_fill_(value > best, k)
                best = torch.maximum(best, value)
            inside[slices] = labels.cpu()
        return out

    def restore_labels(self, labels: Tensor, prepared: Prepared) -> Tensor:
        """Labels ``(d, h, w)`` on the prepared grid, on the grid of the case: ``(D, H, W)`` of the same dtype.

        Each class is interpolated linearly by itself, as at preparation; outside the box is background, 0. Logits, if
        there are some, give finer borders.

        Raises:
            ValueError: when the labels are no integers or not on the prepared grid.
        """
        _check_restored(labels[None], prepared)
        size, separate = self._way_back(prepared)
        out = torch.zeros(prepared.original_size, dtype=labels.dtype)
        self._into_box(out, prepared)[:] = resample_labels(labels, size, separate=separate)
        return out

    def to_json(self) -> dict[str, Any]:
        """The fields as plain numbers, lists and text; :meth:`from_json` reads them."""
        return asdict(self)

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Preparation:
        """The preparation that :meth:`to_json` wrote.

        Raises:
            ValueError: when a field is missing, unknown or out of range.
        """
        try:
            fields: dict[str, Any] = {
                name: tuple(v) if isinstance(v, list | tuple) else v for name, v in content.items()
            }
            fields["intensities"] = tuple(Intensity(**entry) for entry in fields["intensities"])
            return Preparation(**fields)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"no preparation of a case: {content!r:.200} ({error})") from error

    def _check(
        self, image: Tensor, spacing: Sequence[float] | None, labels: Tensor | None, previous: Tensor | None
    ) -> tuple[float, ...]:
        """The spacing of a case along its transposed axes, after checking the case."""
        if image.ndim != 4 or image.numel() == 0:
            raise ValueError(f"expected one case (C, D, H, W) with voxels, got shape {tuple(image.shape)}")
        if len(image) != len(self.intensities):
            raise ValueError(f"the preparation is for {len(self.intensities)} channels, the case has {len(image)}")
        if (previous is None) != (self.previous == 0):
            raise ValueError(
                f"the second stage of a cascade sees the labels of the first, {self.previous} classes of foreground; "
                f"it got {'none' if previous is None else 'some'}"
            )
        for name, given, last in (("labels", labels, VOID), ("labels of the first stage", previous, self.previous)):
            if given is None:
                continue
            require_integers(given)
            if given.shape != image.shape[1:]:
                raise ValueError(
                    f"the {name} are {tuple(given.shape)} and the image {tuple(image.shape[1:])} (D, H, W)"
                )
            low, high = (int(v) for v in given.aminmax())
            if low < 0 or high > last:
                raise ValueError(f"the {name} are in 0..{last}, got {low} to {high}")
        if spacing is None:
            if any(self.spacing):
                raise ValueError(
                    f"the case has no spacing and is to be resampled to {self.spacing} mm; pass its mm (z, y, x)"
                )
            spacing = (1.0, 1.0, 1.0)
        if len(spacing) != 3 or not all(map(_is_distance, spacing)):
            raise ValueError(
                f"the spacing of a case is three positive numbers of mm (z, y, x), got {tuple(spacing)}; correct the "
                "header of its file"
            )
        return tuple(float(spacing[axis]) for axis in self.transpose)

    def _way_back(self, prepared: Prepared) -> tuple[tuple[int, ...], int | None]:
        """The size of the box, and the separate axis of the way there."""
        mm = [prepared.original_spacing[axis] for axis in self.transpose]
        return tuple(stop - start for start, stop in prepared.box), separate_axis(prepared.spacing, mm)

    def _into_box(self, out: Tensor, prepared: Prepared) -> Tensor:
        """The view of ``(…, D, H, W)`` that is the box, along transposed axes."""
        moved = out.permute(*range(out.ndim - 3), *(axis - 3 for axis in self.transpose))
        z, y, x = (slice(*side) for side in prepared.box)
        return moved[..., z, y, x]


def nonzero_box(image: Tensor) -> Box:
    """The tight box around the voxels where any channel of a case is not 0; the whole of a case that is 0 everywhere.

    Args:
        image: ``(C, D, H, W)``, any dtype.

    Returns:
        The first voxel and the one behind the last, for each of the three axes.
    """
    return _around(_nonzero(image))


def _is_distance(value: float) -> bool:
    return 0 < value < float("inf")


def _check_restored(values: Tensor, prepared: Prepared) -> None:
    if values.ndim != 4 or values.shape[1:] != prepared.image.shape[1:]:
        raise ValueError(
            f"expected values on the grid of the prepared case, (K, {str(tuple(prepared.image.shape[1:]))[1:]}, got"
            f" {tuple(values.shape)}"
        )
    if values.is_floating_point() and any(bool(channel.isnan().any()) for channel in values):
        raise ValueError("the model returns nan; search for very large voxels, or predict in float32")


def _nonzero(image: Tensor) -> Tensor:
    """Where any channel of ``(C, D, H, W)`` is not 0, bool ``(D, H, W)``."""
    found = image[0] != 0
    for channel in image[1:]:
        found |= channel != 0
    return found


def _around(mask: Tensor) -> Box:
    """The tight box around what is true in ``(D, H, W)``; all of it where nothing is."""
    rows = mask.any(2)  # (D, H)
    sides = [rows.any(1), rows.any(0), mask.any(0).any(0)]
    spans = [side.nonzero()[[0, -1], 0].tolist() if side.any() else (0, len(side) - 1) for side in sides]
    return tuple((int(first), int(last) + 1) for first, last in spans)


def _filled(mask: Tensor) -> Tensor:
    """The mask with its holes: what is false and not connected, face to face, to the border."""
    if mask.all():
        return mask
    components, count = ndimage.label(~mask.numpy(force=True))  # (D, H, W), 0 in the mask
    filled = np.ones(count + 1, dtype=bool)
    for axis in range(3):
        filled[np.take(components, (0, -1), axis)] = False
    filled[0] = True
    return torch.from_numpy(filled[components]).to(mask.device)


def _normalised(channel: Tensor, intensity: Intensity, inside: Tensor | None) -> Tensor:
    """A channel ``(D, H, W)`` as a model sees it, float32; where a mask says what is inside, 0 outside."""
    if inside is None or not inside.any():
        return intensity(channel[None])[0]
    scaling = intensity.of(channel[inside].view(1, -1, 1, 1))
    return scaling(channel[None])[0].masked_fill_(~inside, 0)
