"""Augmentation of an image together with its annotations.

A transform is a callable ``Sample -> Sample``. They are chained with torchvision's ``v2.Compose``, and any transform
of torchvision v2 becomes one through :class:`Joint`. Three rules hold for all of them:

- Labels are looked up (nearest), never interpolated: halfway between class 2 and class 6 there is no class 4.
- What a crop or rotation brings in from outside the picture is void: 255 in the semantic map, 0 in the panoptic map,
  False in masks, 0 in the weights of pixels; the image is black there.
- Boxes, areas and lists follow the maps: boxes are measured again on the masks, areas on the panoptic map, and objects
  or segments without a pixel left are dropped.

All randomness comes from torch's global generator, so ``torch.manual_seed`` alone decides the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from seglib.ops.masks import masks_to_boxes
from seglib.types import VOID, Instances, Panoptic, Sample

Transform = Callable[[Sample], Sample]


def train_transform(
    size: int | tuple[int, int],
    *,
    scale: tuple[float, float] = (0.5, 2.0),
    flip: float = 0.5,
    color: float = 0.3,
    keep: Sequence[str] | None = None,
) -> Transform:
    """The usual augmentation: random scale, random crop of one size, horizontal flip, colour jitter.

    Args:
        size: the crop ``(H, W)``, or one number for a square. Where the scaled image is smaller it is padded with void.
        scale: the range of the random zoom relative to the input, drawn uniformly; ``(1, 1)`` turns it off.
        flip: probability of a mirror image, in [0, 1].
        color: strength of the jitter of brightness, contrast and saturation, in [0, 1]: each factor is drawn from
            [1 - color, 1 + color]; 0 turns it off.
        keep: the annotations to carry along, e.g. ``("semantic",)``; the others are removed first, which saves their
            time. ``None`` keeps all.

    Raises:
        ValueError: for an argument outside its range.
    """
    if not 0 <= flip <= 1:
        raise ValueError(f"flip is a probability in [0, 1], got {flip}")
    if not 0 <= color <= 1:
        raise ValueError(f"color must be in [0, 1], got {color}")
    steps: list[Transform] = [] if keep is None else [Keep(*keep)]
    steps.append(RandomScale(*scale))
    size = as_pair(size)
    joint: list[Callable[..., Any]] = [v2.RandomCrop(list(size), pad_if_needed=True), v2.RandomHorizontalFlip(flip)]
    if color:
        joint.append(v2.ColorJitter(brightness=color, contrast=color, saturation=color))
    # One Joint around them all: the annotations are measured again once, not three times.
    steps.append(Joint(v2.Compose(joint)))
    return v2.Compose(steps)


def eval_transform(size: int | tuple[int, int] | None = None, *, keep: Sequence[str] | None = None) -> Transform:
    """What evaluation needs: nothing random, and no resizing unless ``size`` asks for it.

    Args:
        size: as in :class:`Resize`; ``None`` leaves the image as it is (models take any size).
        keep: as in :func:`train_transform`.
    """
    steps: list[Transform] = [] if keep is None else [Keep(*keep)]
    if size is not None:
        steps.append(Resize(size))
    return v2.Compose(steps) if steps else _identity


class Keep:
    """Keep only the named annotations and set the others to ``None``.

    The weights of pixels stay where a semantic map stays, whose loss they belong to.
    """

    _ALL = ("semantic", "instances", "panoptic")

    def __init__(self, *names: str) -> None:
        if unknown := [n for n in names if n not in self._ALL]:
            raise ValueError(f"annotation {unknown[0]!r} is unknown; choose from {', '.join(self._ALL)}")
        self._dropped = {n: None for n in self._ALL if n not in names}
        if "semantic" not in names:
            self._dropped["pixel_weight"] = None

    def __call__(self, sample: Sample) -> Sample:
        """The sample without the other annotations."""
        return replace(sample, **self._dropped)  # type: ignore[arg-type]


class Resize:
    """Resize a sample: the image antialiased bilinear, labels nearest.

    Args:
        size: ``(H, W)``, or one number for the shorter side, which keeps the shape of the picture.
    """

    def __init__(self, size: int | tuple[int, int]) -> None:
        self._size = size
        as_pair(size)

    def __call__(self, sample: Sample) -> Sample:
        """The resized sample."""
        size = self._size
        if isinstance(size, int):
            height, width = sample.image.shape[1:]
            factor = size / min(height, width)
            size = (round(height * factor), round(width * factor))
        return _resize(sample, size)


class RandomScale:
    """Zoom by a random factor between ``low`` and ``high``, drawn uniformly; the size of the sample changes with it.

    Source: Chen et al., "Rethinking Atrous Convolution" (DeepLabv3), 2017, which draws from 0.5 to 2.0.
    """

    def __init__(self, low: float, high: float) -> None:
        if not 0 < low <= high:
            raise ValueError(f"scale needs 0 < low <= high, got ({low}, {high})")
        self._low, self._high = low, high

    def __call__(self, sample: Sample) -> Sample:
        """The zoomed sample."""
        factor = self._low + (self._high - self._low) * torch.rand(()).item()
        height, width = sample.image.shape[1:]
        return _resize(sample, (max(1, round(height * factor)), max(1, round(width * factor))))


class Joint:
    """Any transform of ``torchvision.transforms.v2``, applied to the image and its annotations together.

    The annotations go in as ``tv_tensors`` (``Mask`` and ``BoundingBoxes``). Transforms of torchvision fill with 0 by
    default, which is right for every map here: the semantic map goes in as ``255 - label``, so that 0 means void for it
    too. Leave ``fill`` of the transform at 0 therefore. For a change of size prefer :class:`Resize`: torchvision looks
    up masks half an output pixel off the image.

    Args:
        transform: for example ``v2.RandomPerspective()`` or a ``v2.Compose`` of several.
    """

    def __init__(self, transform: Callable[..., Any]) -> None:
        self._transform = transform

    def __call__(self, sample: Sample) -> Sample:
        """The transformed sample."""
        tree: dict[str, Any] = {"image": tv_tensors.Image(sample.image)}  # (3, H, W)
        if sample.semantic is not None:
            tree["semantic"] = tv_tensors.Mask(VOID - sample.semantic)  # (H, W), 0 = void
        if sample.panoptic is not None:
            tree["panoptic"] = tv_tensors.Mask(sample.panoptic.map)  # (H, W), 0 = void
        if sample.pixel_weight is not None:
            tree["pixel_weight"] = tv_tensors.Mask(sample.pixel_weight)  # (H, W)
        if sample.instances is not None:
            canvas = (sample.image.shape[1], sample.image.shape[2])
            tree["masks"] = tv_tensors.Mask(sample.instances.masks)  # (N, H, W)
            tree["boxes"] = tv_tensors.BoundingBoxes(sample.instances.boxes, format="XYXY", canvas_size=canvas)
        out = self._transform(tree)
        moved = {k: v.as_subclass(Tensor) for k, v in out.items() if k != "boxes" and v is not tree[k]}
        if "semantic" in moved:
            moved["semantic"] = VOID - moved["semantic"]
        return _rebuild(sample, **moved)


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The image at another size, bilinear with antialiasing.

    Args:
        image: ``(3, H, W)`` float in [0, 1].
        size: the new ``(H, W)``.

    Returns:
        ``(3, *size)`` in [0, 1].
    """
    if tuple(image.shape[1:]) == tuple(size):
        return image
    out = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]  # (3, H', W')
    return out.clamp_(0, 1)  # the weights sum to 1 only up to rounding


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Label maps or masks at another size: an output pixel takes the label of the input pixel that its centre lies in.

    Row i of H' reads row ``floor((i + 0.5) * H / H')``. These are the same half-pixel centres as in
    :func:`resize_image`, so image and labels stay aligned.

    Args:
        labels: ``(..., H, W)`` of any type.
        size: the new ``(H, W)``.

    Returns:
        ``(..., *size)`` of the same type.
    """
    if tuple(labels.shape[-2:]) == tuple(size):
        return labels
    # In integers, because (i + 0.5) * H / H' in floats may fall just short of a whole number.
    rows, columns = (
        (2 * torch.arange(new, device=labels.device) + 1) * old // (2 * new)
        for old, new in zip(labels.shape[-2:], size, strict=True)
    )
    return labels.index_select(-2, rows).index_select(-1, columns)


def move_maps(sample: Sample, image: Tensor, move: Callable[[Tensor, int], Tensor]) -> Sample:
    """The sample with a new image and with its annotations moved as the image was: for writing one's own transforms.

    Args:
        sample: the sample before.
        image: ``(3, H', W')``, already moved.
        move: gets each map ``(..., H, W)`` and the value that it has outside the picture, and returns the map
            ``(..., H', W')``. It must look pixels up and not mix them.

    Returns:
        The new sample; boxes and areas are measured again, objects and segments without a pixel dropped.
    """
    moved = {}
    if sample.semantic is not None:
        moved["semantic"] = move(sample.semantic, VOID)
    if sample.instances is not None:
        moved["masks"] = move(sample.instances.masks, 0)
    if sample.panoptic is not None:
        moved["panoptic"] = move(sample.panoptic.map, 0)
    if sample.pixel_weight is not None:
        moved["pixel_weight"] = move(sample.pixel_weight, 0)
    return _rebuild(sample, image=image, **moved)


def _resize(sample: Sample, size: tuple[int, int]) -> Sample:
    if tuple(sample.image.shape[1:]) == tuple(size):
        return sample
    return move_maps(sample, resize_image(sample.image, size), lambda labels, _: resize_labels(labels, size))


def _rebuild(
    sample: Sample,
    image: Tensor | None = None,
    semantic: Tensor | None = None,
    masks: Tensor | None = None,
    panoptic: Tensor | None = None,
    pixel_weight: Tensor | None = None,
) -> Sample:
    """The sample with the given tensors exchanged and everything that depends on them measured again."""
    changed: dict[str, Any] = {}
    if image is not None:
        changed["image"] = image
    if semantic is not None:
        changed["semantic"] = semantic
    if pixel_weight is not None:
        changed["pixel_weight"] = pixel_weight
    if masks is not None:
        assert sample.instances is not None
        changed["instances"] = _with_masks(sample.instances, masks)
    if panoptic is not None:
        assert sample.panoptic is not None
        changed["panoptic"] = _with_map(sample.panoptic, panoptic)
    return replace(sample, **changed)


def _with_masks(instances: Instances, masks: Tensor) -> Instances:
    """The instances with new masks (N, H, W): boxes measured again, those without a pixel dropped."""
    moved = replace(instances, masks=masks, boxes=masks_to_boxes(masks))
    visible = moved.boxes[:, 2] > 0  # (N,)
    return moved if bool(visible.all()) else moved[visible]


def _with_map(panoptic: Panoptic, new: Tensor) -> Panoptic:
    """The panoptic segmentation with a new map (H, W): areas counted again, segments without a pixel dropped."""
    ids, counts = torch.unique(new, return_counts=True)
    areas = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    return Panoptic(new, [replace(s, area=areas[s.id]) for s in panoptic.segments if s.id in areas])


def as_pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """``(H, W)`` from one number or two.

    Raises:
        ValueError: when they are not positive whole numbers.
    """
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(s, int) and s > 0 for s in pair):
        raise ValueError(f"size must be a positive whole number or a pair (H, W) of them, got {size!r}")
    return pair


def _identity(sample: Sample) -> Sample:
    return sample
