"""Augmentation for microscopy: no side is up, tissue deforms, and what lies between touching cells counts most.

This is the recipe of U-Net, which learned from 30 images. The transforms are ``Sample -> Sample`` and obey the rules
of :mod:`seglib.data.transforms`.

Source: Ronneberger, Fischer and Brox, "U-Net", MICCAI 2015, sections 3 and 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from seglib.data.transforms import ColorJitter, Joint, Keep, Transform, as_pair, move_maps
from seglib.ops.borders import border_weights
from seglib.ops.intensity import percentile_range
from seglib.types import Sample


def elastic_transform(
    size: int | tuple[int, int],
    *,
    std: float = 10.0,
    grid: int = 3,
    light: float = 0.2,
    keep: Sequence[str] | None = None,
) -> Transform:
    """U-Net's augmentation: rotations by 90 degrees and flips, elastic deformation, a random crop, other lighting.

    Args:
        size: the crop ``(H, W)``, or one number for a square. Where the image is smaller it is padded with void.
        std: standard deviation of the random displacements, in pixels; 0 turns the deformation off.
        grid: number of displacement vectors along each side, at least 2.
        light: strength of the jitter of brightness and contrast, in [0, 1]: each factor is drawn from
            [1 - light, 1 + light]; 0 turns it off, as images that are neither RGB nor grey in [0, 1] need.
        keep: the annotations to carry along, e.g. ``("semantic",)``; ``None`` keeps all.

    Raises:
        ValueError: for an argument outside its range.
    """
    if not 0 <= light <= 1:
        raise ValueError(f"light must be in [0, 1], got {light}")
    steps: list[Transform] = [] if keep is None else [Keep(*keep)]
    steps += [RandomD4(), RandomElastic(std, grid)]
    crop = v2.RandomCrop(list(as_pair(size)), pad_if_needed=True)
    steps.append(Joint(v2.Compose([crop, ColorJitter(light, light)] if light else [crop])))
    return v2.Compose(steps)


class RandomD4:
    """One of the 8 symmetries of the square (the dihedral group D4), drawn uniformly: all ways to lay down a slide.

    They are the rotations by 0, 90, 180 and 270 degrees, each with and without a horizontal flip. Rotated by 90
    degrees, a sample of H x W becomes one of W x H.
    """

    def __call__(self, sample: Sample) -> Sample:
        """The rotated, perhaps flipped sample."""
        turns, flip = divmod(int(torch.randint(8, ())), 2)

        def turn(maps: Tensor, _: int = 0) -> Tensor:
            turned = maps.rot90(turns, (-2, -1))  # (..., H, W) or (..., W, H)
            return (turned.flip(-1) if flip else turned).contiguous()

        return move_maps(sample, turn(sample.image), turn)


class RandomElastic:
    """Elastic deformation: the image is displaced smoothly, as soft tissue deforms.

    Displacement vectors are drawn at the points of a coarse ``grid`` x ``grid`` over the whole image, from a normal
    distribution, and every pixel's is interpolated between them (bicubic). The image is then sampled bilinearly, the
    labels at the same points (nearest).

    ``v2.ElasticTransform`` of torchvision, which :class:`seglib.data.transforms.Joint` takes too, is another method
    (Simard et al., "Best practices for convolutional neural networks", 2003): one uniformly drawn vector for *every*
    pixel, smoothed by a Gaussian of ``sigma`` pixels and scaled by ``alpha``. It makes wobbles of the size of ``sigma``
    instead of slow deformations across the image, and is slower.

    Args:
        std: standard deviation of the displacements, in pixels. The paper's 10 are for images of 512 x 512.
        grid: points a side, at least 2; the outer ones lie on the border of the image.

    Raises:
        ValueError: for a negative ``std`` or a ``grid`` below 2.

    Source: Ronneberger et al. 2015, section 3.1.
    """

    def __init__(self, std: float = 10.0, grid: int = 3) -> None:
        if std < 0:
            raise ValueError(f"std is a number of pixels, at least 0, got {std}")
        if grid < 2:
            raise ValueError(f"grid needs at least 2 points a side, got {grid}")
        self._std, self._grid = std, grid

    def __call__(self, sample: Sample) -> Sample:
        """The deformed sample."""
        if self._std == 0:
            return sample
        height, width = sample.image.shape[1:]
        coarse = torch.randn(1, 2, self._grid, self._grid) * self._std
        shift = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)[0].to(sample.image.device)
        x = shift[0] + torch.arange(width, device=shift.device) + 0.5  # (H, W), where each pixel's centre comes from
        y = shift[1] + torch.arange(height, device=shift.device)[:, None] + 0.5
        outside = (x < 0) | (x >= width) | (y < 0) | (y >= height)
        source = y.long().clamp(0, height - 1) * width + x.long().clamp(0, width - 1)  # (H, W) into H·W
        places = torch.stack([2 * x / width - 1, 2 * y / height - 1], -1)[None]  # (1, H, W, 2) in [-1, 1]
        image = F.grid_sample(sample.image[None], places, padding_mode="border", align_corners=False)[0]
        return move_maps(
            sample,
            image.clamp_(*sample.image.aminmax()).masked_fill_(outside, 0),  # bilinear weights sum to 1 up to rounding
            lambda maps, fill: maps.flatten(-2)[..., source].masked_fill_(outside, fill),
        )


class BorderWeights:
    """Set the weight of every pixel to ``1 + border_weights(masks)``: background between two near objects counts most.

    To be the last transform, because the weights depend on which objects are in the crop. It needs the instances;
    give ``keep=("semantic", "instances")`` to the transform before it. Only background is weighted, so the labels must
    leave a gap between touching objects. The rest of U-Net's weight map, which balances the classes, is the argument
    ``weight`` of the losses.

    Args:
        w0: the weight that is added where two objects touch.
        sigma: how fast it falls with the distance to them, in pixels.

    Source: Ronneberger et al. 2015, equation 2.
    """

    def __init__(self, w0: float = 10.0, sigma: float = 5.0) -> None:
        self._w0, self._sigma = w0, sigma

    def __call__(self, sample: Sample) -> Sample:
        """The sample with its ``pixel_weight``.

        Raises:
            ValueError: when the sample has no instances.
        """
        if sample.instances is None:
            raise ValueError(
                f"sample {sample.id!r} has no instances, and the weights lie at their borders; use a data set with "
                'instances, and keep=("semantic", "instances") in the transform before'
            )
        weight = border_weights(sample.instances.masks, w0=self._w0, sigma=self._sigma)  # (H, W)
        return replace(sample, pixel_weight=1 + weight)


class PercentileRescale:
    """Rescale the intensities of an image: two percentiles of its values become 0 and 1, what lies beyond is clipped.

    For microscopes that store 12 bits in 16-bit files, which look black, and for exposures that differ from image to
    image. ``Intensity("percentile")`` of :mod:`seglib.ops.intensity` is the same with the usual percentiles, and is
    stored with weights. All channels are rescaled alike. Where both percentiles are one value, the smallest and the
    largest value stand for them; an image of one value becomes 0.

    Use it in training and evaluation alike: a model has to see the same range in both.

    Args:
        low: the percentile that becomes 0, in [0, 100].
        high: the percentile that becomes 1.

    Raises:
        ValueError: unless 0 <= low < high <= 100.
    """

    def __init__(self, low: float = 0.5, high: float = 99.5) -> None:
        if not 0 <= low < high <= 100:
            raise ValueError(f"rescaling needs percentiles 0 <= low < high <= 100, got ({low}, {high})")
        self._low, self._high = low, high

    def __call__(self, sample: Sample) -> Sample:
        """The sample with the image rescaled."""
        low, high = percentile_range(sample.image, self._low, self._high)
        if high == low:
            return replace(sample, image=torch.zeros_like(sample.image))
        return replace(sample, image=((sample.image - low) / (high - low)).clamp_(0, 1))
