"""Augmentation of volumes: rotation and zoom in millimetres, flips, noise, blur, brightness and gamma.

The resampling and the changes of intensity are MONAI's. The rules of :mod:`seglib.data.transforms` hold: labels are
looked up (nearest), what comes from outside is void (255) and 0 in the image, and torch's global generator decides
everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from seglib.types import VOID, Sample

ANISOTROPY = 3.0
"""Slices further apart than this many times the distance of pixels are not rotated out of their plane."""


def volume_transform(
    *,
    rotation: float = 15.0,
    scale: tuple[float, float] = (0.8, 1.25),
    flips: Sequence[int] = (),
    noise: float = 0.1,
    blur: float = 1.0,
    brightness: float = 0.25,
    gamma: tuple[float, float] = (0.7, 1.5),
    probability: float = 0.2,
) -> VolumeTransform:
    """Augmentation in the manner of nnU-Net, of images that are normalised to about mean 0 and standard deviation 1.

    Each step is drawn on its own. A rotation and a zoom are one resampling. Rotations are those of the body, in
    millimetres; where one spacing is more than 3 times the others (slices of 5 mm, pixels of 0.8 mm), volumes are
    rotated in the plane of the slices alone: tilted slices would be made of interpolation.

    Args:
        rotation: the largest angle about each axis, in degrees; 0 turns rotation off.
        scale: the range of the zoom, drawn uniformly; above 1 objects become larger. ``(1, 1)`` turns it off.
        flips: the axes to flip, each with probability 1/2: some of 0, 1 and 2 (D, H, W). None by default, because
            left and right of a body differ: the liver is on one side.
        noise: the largest standard deviation of Gaussian noise; 0 turns it off.
        blur: the largest standard deviation of a Gaussian blur, in voxels; 0 turns it off.
        brightness: the image is multiplied by a factor in [1 - brightness, 1 + brightness]; 0 turns it off.
        gamma: the range of the exponent of gamma correction, after which the image gets its old mean and standard
            deviation back; ``(1, 1)`` turns it off.
        probability: how often each step but the flips happens, in [0, 1].

    Returns:
        A transform of samples; :class:`seglib.data.patches.Patches` reads as much around a patch as its rotation needs.

    Raises:
        ValueError: for an argument outside its range.

    Source: Isensee et al., "nnU-Net", Nature Methods 2021, supplementary note 4 (its angles, ranges and probabilities
    differ from step to step).
    """
    _check_ranges(rotation, noise, blur, brightness, probability)
    for name, (low, high) in (("scale", scale), ("gamma", gamma)):
        if not 0 < low <= high:
            raise ValueError(f"{name} needs 0 < low <= high, got ({low}, {high})")
    if len(set(flips)) < len(flips) or not set(flips) <= {0, 1, 2}:
        raise ValueError(f"flips are axes, some of 0, 1 and 2 (D, H, W), each at most once, got {tuple(flips)}")
    from monai import transforms as monai

    steps: list[Any] = [monai.RandFlipd(("image", "labels"), 0.5, axis) for axis in flips]
    if noise:
        steps.append(monai.RandGaussianNoised("image", probability, std=noise))  # draws from 0 to std
    if blur:
        sigma = (blur / 2, blur)
        steps.append(monai.RandGaussianSmoothd("image", sigma, sigma, sigma, prob=probability))
    if brightness:
        steps.append(monai.RandScaleIntensityd("image", brightness, probability))
    if gamma != (1, 1):
        steps.append(monai.RandAdjustContrastd("image", probability, gamma, retain_stats=True))
    return VolumeTransform(_Seeded(monai.Compose(steps)), math.radians(rotation), scale, probability)


def _check_ranges(rotation: float, noise: float, blur: float, brightness: float, probability: float) -> None:
    for name, value, high in (
        ("rotation", rotation, 180.0),
        ("noise", noise, math.inf),
        ("blur", blur, math.inf),
        ("brightness", brightness, 1.0),
        ("probability", probability, 1.0),
    ):
        if not 0 <= value <= high:
            raise ValueError(f"{name} must be in [0, {high:g}], got {value}")


class VolumeTransform:
    """Made by :func:`volume_transform`; ``Sample -> Sample``.

    Args:
        steps: what happens after the resampling: a function of ``{"image": (C, d, h, w) float32, "labels":
            (1, d, h, w)}`` to the same, at random by torch's global generator.
        rotation: the largest angle about each axis, in radians.
        scale: the range of the zoom.
        probability: how often to rotate, and how often to zoom, in [0, 1].
    """

    def __init__(
        self,
        steps: Callable[[dict[str, Any]], dict[str, Any]],
        rotation: float,
        scale: tuple[float, float],
        probability: float,
    ) -> None:
        self._steps, self._rotation, self._scale, self._probability = steps, rotation, scale, probability

    def __call__(self, sample: Sample) -> Sample:
        """The augmented sample, of the same size.

        Raises:
            ValueError: for a sample that is no volume with a semantic map.
        """
        return self.apply(sample, self.draw(sample.spacing), tuple(sample.image.shape[1:]))

    def draw(self, spacing: tuple[float, ...] | None) -> Tensor | None:
        """A random rotation and zoom, as the matrix ``(3, 3)`` from voxels of the result to voxels of the input.

        Both are counted ``(z, y, x)`` from the centre of the volume.

        Args:
            spacing: millimetres between voxels; ``None`` means the same along all axes.

        Returns:
            The matrix, or ``None`` when neither was drawn.
        """
        rotate, zoom = (torch.rand(2) < self._probability).tolist()
        if not (rotate and self._rotation) and not (zoom and self._scale != (1, 1)):
            return None
        angles = torch.zeros(3, dtype=torch.float64)
        if rotate:
            angles = (2 * torch.rand(3, dtype=torch.float64) - 1) * self._rotation
            mm = torch.tensor(spacing or (1.0, 1.0, 1.0))
            order = mm.argsort()
            if mm[order[2]] > ANISOTROPY * mm[order[1]]:
                angles[order[:2]] = 0
        low, high = self._scale
        return resampling(angles, low + (high - low) * torch.rand(()).item() if zoom else 1.0, spacing)

    def apply(self, sample: Sample, matrix: Tensor | None, size: tuple[int, ...]) -> Sample:
        """The sample resampled by ``matrix`` to its ``size`` central voxels, then the other steps.

        Args:
            sample: a volume with a semantic map.
            matrix: a rotation and zoom that :meth:`draw` gave.
            size: ``(d, h, w)`` of the result, at most the size of the sample.

        Raises:
            ValueError: for a sample that is no volume with a semantic map.
        """
        if sample.image.ndim != 4 or sample.semantic is None:
            raise ValueError(
                f"sample {sample.id!r} is no volume with a semantic map: its image is {tuple(sample.image.shape)};"
                " for images (C, H, W) take train_transform"
            )
        # turned over, so that the 0 which fills the outside is void; (1, d, h, w)
        data: dict[str, Any] = {"image": sample.image.float(), "labels": VOID - sample.semantic[None]}
        if matrix is not None:
            data = _resample(data, matrix, size)
        else:
            assert size == tuple(sample.image.shape[1:])  # only a resampling reads beyond the patch
        data = self._steps(data)
        image, labels = (torch.as_tensor(data[name]).as_subclass(Tensor) for name in ("image", "labels"))
        return replace(sample, image=image.contiguous(), semantic=VOID - labels[0].long())


def margin(matrix: Tensor | None, size: tuple[int, ...]) -> tuple[int, ...]:
    """How many voxels beyond each side of a patch ``(d, h, w)`` a resampling by ``matrix`` reads."""
    if matrix is None:
        return (0,) * len(size)
    half = (torch.tensor(size, dtype=torch.float64) - 1) / 2
    beyond = matrix.abs() @ half - half  # (3,), of the patch's corners
    return tuple(beyond.ceil().clamp(min=0).int().tolist())


def resampling(angles: Tensor, zoom: float | Tensor, spacing: tuple[float, ...] | None) -> Tensor:
    """A rotation in millimetres and a zoom, as the matrix that :meth:`VolumeTransform.draw` gives.

    Args:
        angles: about each axis (z, y, x), in radians, ``(3,)``.
        zoom: factor on the size of objects, or one for each axis, ``(3,)``.
        spacing: millimetres between voxels; ``None`` means the same along all axes.
    """
    mm = torch.tensor(spacing or (1.0, 1.0, 1.0), dtype=torch.float64)
    matrix = torch.eye(3, dtype=torch.float64)
    for axis, angle in enumerate(angles.tolist()):
        matrix = matrix @ _rotation_about(axis, angle)
    matrix = matrix / zoom
    return matrix * mm / mm[:, None]  # to millimetres, rotated, and back to voxels


class _Seeded:
    """Dictionary transforms of MONAI, whose generators are seeded by torch's."""

    def __init__(self, steps: Any) -> None:
        self._steps = steps

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        if not self._steps.transforms:
            return data
        self._steps.set_random_state(seed=int(torch.randint(2**31, ())))
        return self._steps(data)


def _rotation_about(axis: int, angle: float) -> Tensor:
    """The rotation ``(3, 3)`` about one of the axes (z, y, x), in the plane of the two others."""
    matrix = torch.eye(3, dtype=torch.float64)
    first, second = (i for i in range(3) if i != axis)
    matrix[first, first] = matrix[second, second] = math.cos(angle)
    matrix[first, second], matrix[second, first] = -math.sin(angle), math.sin(angle)
    return matrix


def _resample(data: dict[str, Any], matrix: Tensor, size: tuple[int, ...]) -> dict[str, Any]:
    from monai.transforms import Affine

    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = matrix
    out = {}
    for name, mode in (("image", "bilinear"), ("labels", "nearest")):
        move = Affine(affine=affine, spatial_size=size, mode=mode, padding_mode="zeros", image_only=True)
        out[name] = move(data[name].float())
    return out
