"""nnU-Net's augmentation of patches, with the ranges and probabilities of its version 2.

Each step is drawn on its own, in this order::

    step             how often               what is drawn
    rotation         0.2                     3D: 30 degrees about each axis; in the plane alone: 180 degrees
    scaling          0.2                     the patch shows 0.7 to 1.4 times its extent
    noise            0.1                     standard deviation 0 to 0.1, one for all channels
    blur             0.2, each channel 0.5   standard deviation 0.5 to 1 voxel, one for each axis
    brightness       0.15                    factor 0.75 to 1.25, one for each channel
    contrast         0.15                    factor 0.75 to 1.25 about the mean; minimum and maximum stay the limits
    low resolution   0.25, each channel 0.5  down to 0.5 to 1 of the size (nearest), and up again (linear)
    inverse gamma    0.1                     exponent 0.7 to 1.5 on the negative; mean and standard deviation stay
    gamma            0.3                     the same, on the image itself
    flips            0.5 for each axis

Factors and exponents lie below 1 as often as above. A flat patch, whose longest side is more than 3 times its first, is
rotated and scaled in the plane of its last two axes alone, and keeps its resolution along the first. nnU-Net's plans
put the axis of the thick slices first, so a flat patch is one of thick slices.

Rotation, contrast and gamma are MONAI's. The rules of :mod:`seglib.data.volume_transforms` hold, and there
nnU-Net differs: it rotates voxels, not millimetres; interpolates labels linearly, class by class; and takes what lies
outside the case as background, which is void here. Its noise "variance" of 0 to 0.1 is a standard deviation, there as
here.

Source: Isensee et al., "nnU-Net", Nature Methods 2021, supplementary note 4, and its version 2, whose ranges are these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from seglib.data.volume_transforms import ANISOTROPY, VolumeTransform, resampling


@dataclass(frozen=True)
class Step:
    """A random change of intensities.

    Attributes:
        name: what changes.
        change: the change of an image ``(C, d, h, w)``, or of each channel ``(1, d, h, w)``, at random.
        probability: how often the step happens, in [0, 1].
        per_channel: the probability with which each channel takes part in a step that happens, each with its own
            change; ``None`` changes all channels at once.
    """

    name: str
    change: Callable[[Tensor], Tensor]
    probability: float
    per_channel: float | None = 1.0

    def __call__(self, image: Tensor) -> Tensor:
        """The image ``(C, d, h, w)`` with the change, if it is drawn."""
        if not _chance(self.probability):
            return image
        if self.per_channel is None:
            return self.change(image)
        return torch.cat([self.change(c) if _chance(self.per_channel) else c for c in image.split(1)])


def nnunet_transform(
    patch: Sequence[int], *, flips: Sequence[int] | None = None, masked: Sequence[bool] = ()
) -> NNUNetTransform:
    """nnU-Net's augmentation of normalised patches, see the table of :mod:`seglib.data.nnunet_transforms`.

    Args:
        patch: voxels of a patch ``(d, h, w)``, or of a slice ``(h, w)``, which is the same as ``(1, h, w)``. Slices are
            rotated by up to 15 degrees where one side is more than 1.5 times the other, else by up to 180.
        flips: the axes to flip, some of 0, 1 and 2 (D, H, W), each with probability 1/2. ``None``: all; of slices H and
            W. nnU-Net flips the test images along them, too.
        masked: for each channel whether it was normalised within the body alone, with 0 outside; there 0 stays 0. When
            not given, no channel was.

    Returns:
        A transform of samples for :class:`seglib.data.patches.Patches`.

    Raises:
        ValueError: when the patch isn't two or three positive whole numbers, or flips aren't axes that it has.
    """
    sides = (1, *patch) if len(patch) == 2 else tuple(patch)
    if len(sides) != 3 or not all(isinstance(s, int) and s > 0 for s in sides):
        raise ValueError(f"a patch is two or three positive whole numbers, (h, w) or (d, h, w), got {tuple(patch)}")
    axes = (0, 1, 2) if sides[0] > 1 else (1, 2)
    flips = axes if flips is None else tuple(flips)
    if len(set(flips)) < len(flips) or not set(flips) <= set(axes):
        raise ValueError(f"of a patch {tuple(patch)}, flips are some of the axes {axes}, each once; got {flips}")
    import monai.transforms  # noqa: F401  # now, and not in a process that loads data

    in_plane = sides[0] == 1 or max(sides) > ANISOTROPY * sides[0]
    narrow = sides[0] == 1 and max(sides) > 1.5 * min(sides[1:])
    return NNUNetTransform(15.0 if narrow else 180.0 if in_plane else 30.0, in_plane, flips, tuple(masked))


class NNUNetTransform(VolumeTransform):
    """Made by :func:`nnunet_transform`; ``Sample -> Sample``.

    Args:
        rotation: the largest angle about each axis, in degrees.
        in_plane: whether to rotate, scale and lower the resolution in the plane of the last two axes alone.
        flips: the axes to flip.
        masked: for each channel whether its 0 stays 0.

    Attributes:
        steps: the steps that change intensities, in their order.
    """

    def __init__(self, rotation: float, in_plane: bool, flips: tuple[int, ...], masked: tuple[bool, ...]) -> None:
        super().__init__(self._finish, math.radians(rotation), (0.7, 1.4), 0.2)
        self._in_plane, self._flips, self._masked = in_plane, flips, masked
        self.steps = (
            Step("noise", _noise, 0.1, per_channel=None),
            Step("blur", _blur, 0.2, per_channel=0.5),
            Step("brightness", _brightness, 0.15),
            Step("contrast", _contrast, 0.15),
            Step("low resolution", partial(_low_resolution, in_plane=in_plane), 0.25, per_channel=0.5),
            Step("inverse gamma", partial(_gamma, negative=True), 0.1),
            Step("gamma", partial(_gamma, negative=False), 0.3),
        )

    def draw(self, spacing: tuple[float, ...] | None) -> Tensor | None:
        """A random rotation and zoom, as :meth:`~seglib.data.volume_transforms.VolumeTransform.draw` gives them."""
        rotate, scale = _chance(self._probability), _chance(self._probability)
        if not rotate and not scale:
            return None
        angles, zoom = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
        if rotate:
            turned = slice(0, 1 if self._in_plane else 3)  # the axes about which to rotate
            angles[turned] = (2 * torch.rand(3, dtype=torch.float64) - 1)[turned] * self._rotation
        if scale:
            zoom[1 if self._in_plane else 0 :] = 1 / _uniform(*self._scale)
        return resampling(angles, zoom, spacing)

    def _finish(self, data: dict[str, Any]) -> dict[str, Any]:
        image, labels = data["image"].as_subclass(Tensor), data["labels"].as_subclass(Tensor)
        if self._masked and len(self._masked) != len(image):
            raise ValueError(f"masked says something of {len(self._masked)} channels, the image has {len(image)}")
        outside = (image == 0) & torch.tensor(self._masked or (False,)).view(-1, 1, 1, 1)  # (C, d, h, w)
        for step in self.steps:
            image = step(image)
        image = image.masked_fill(outside, 0)
        axes = [axis + 1 for axis in self._flips if _chance(0.5)]
        return {"image": image.flip(axes), "labels": labels.flip(axes)}


def _chance(probability: float) -> bool:
    return torch.rand(()).item() < probability


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(()).item()


def _about_1(low: float, high: float) -> float:
    """Below 1 as often as above, uniformly on either side."""
    return _uniform(low, 1) if _chance(0.5) else _uniform(1, high)


def _noise(image: Tensor) -> Tensor:
    return image + _uniform(0, 0.1) * torch.randn_like(image)


def _blur(channel: Tensor) -> Tensor:
    sigmas = (0.0, *(_uniform(0.5, 1) for _ in range(3)))
    return torch.from_numpy(ndimage.gaussian_filter(channel.numpy(), sigmas, mode="mirror"))


def _brightness(channel: Tensor) -> Tensor:
    return channel * _about_1(0.75, 1.25)


def _contrast(channel: Tensor) -> Tensor:
    from monai.transforms import ScaleIntensityFixedMean

    factor = _about_1(0.75, 1.25)
    return _apply(ScaleIntensityFixedMean(factor - 1, preserve_range=True, fixed_mean=True), channel)


def _low_resolution(channel: Tensor, in_plane: bool) -> Tensor:
    scale = _uniform(0.5, 1)
    full = channel.shape[1:]
    size = [n if in_plane and axis == 0 else max(1, round(n * scale)) for axis, n in enumerate(full)]
    low = F.interpolate(channel[None], size=size, mode="nearest-exact")
    return F.interpolate(low, size=tuple(full), mode="trilinear")[0]


def _gamma(channel: Tensor, negative: bool) -> Tensor:
    from monai.transforms import AdjustContrast

    return _apply(AdjustContrast(_about_1(0.7, 1.5), invert_image=negative, retain_stats=True), channel)


def _apply(transform: Any, channel: Tensor) -> Tensor:
    """MONAI's result as a plain tensor."""
    return transform(channel).as_subclass(Tensor)
