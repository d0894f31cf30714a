"""Augmentation of an image together with its annotations.

A transform is a callable ``Sample -> Sample``. They are chained with torchvision's ``v2.Compose``, and any transform
of torchvision v2 becomes one through :class:`Joint`. Three rules hold for all of them:

- Labels are looked up (nearest), never interpolated: halfway between class 2 and class 6 there is no class 4.
- What a crop or rotation brings in from outside the image is void: 255 in the semantic map and in regions, 0 in the
  panoptic map, False in masks, 0 in the weights of pixels; the image is 0 there.
- Boxes, areas and lists follow the maps: boxes are measured again on the masks, areas on the panoptic map, and objects
  or segments without a pixel left are dropped.

Images have any number of channels; jitter of colours is for RGB and grey images alone. All randomness comes from
torch's global generator, so ``torch.manual_seed`` alone decides the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from seglib.ops.geometry import Geometry
from seglib.ops.intensity import Intensity
from seglib.ops.masks import masks_to_boxes
from seglib.ops.panoptic import segment_areas
from seglib.ops.resize import resize_image, resize_labels
from seglib.types import ANNOTATIONS, VOID, Instances, Panoptic, Sample

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
        flip: probability of a horizontal flip, in [0, 1].
        color: strength of the jitter of brightness, contrast and saturation, in [0, 1]: each factor is drawn from
            [1 - color, 1 + color]; 0 turns it off, as images that are neither RGB nor grey in [0, 1] need.
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
        joint.append(ColorJitter(color, color, color))
    # One Joint around them all: the annotations are measured again once, not three times.
    steps.append(Joint(v2.Compose(joint)))
    return v2.Compose(steps)


def eval_transform(size: int | tuple[int, int] | None = None, *, keep: Sequence[str] | None = None) -> Transform:
    """What evaluation needs: nothing random, and no resizing unless ``size`` asks for it.

    Args:
        size: ``(H, W)``, or one number for the shorter side; ``None`` leaves the image as it is (models take any size).
        keep: the annotations to carry along, e.g. ``("semantic",)``; ``None`` keeps all.
    """
    steps: list[Transform] = [] if keep is None else [Keep(*keep)]
    if size is not None:
        steps.append(Resize(size))
    return v2.Compose(steps) if steps else _identity


class Keep:
    """Keep only the named annotations and set the others to ``None``.

    The weights of pixels stay where a semantic map or regions stay, whose loss they belong to.

    Args:
        names: some of "semantic", "instances", "panoptic" and "regions".
    """

    def __init__(self, *names: str) -> None:
        if unknown := [n for n in names if n not in ANNOTATIONS]:
            raise ValueError(f"annotation {unknown[0]!r} is unknown; choose from {', '.join(ANNOTATIONS)}")
        self._dropped = {n: None for n in ANNOTATIONS if n not in names}
        if "semantic" not in names and "regions" not in names:
            self._dropped["pixel_weight"] = None

    def __call__(self, sample: Sample) -> Sample:
        """The sample without the other annotations."""
        return replace(sample, **self._dropped)  # type: ignore[arg-type]


class Resize:
    """Resize a sample: the image antialiased bilinear, labels nearest.

    Args:
        size: ``(H, W)``, or one number for the shorter side, which keeps the aspect ratio.
    """

    def __init__(self, size: int | tuple[int, int]) -> None:
        pair = as_pair(size)
        self._size = pair[0] if isinstance(size, int) else pair

    def __call__(self, sample: Sample) -> Sample:
        """The resized sample."""
        size = self._size
        if isinstance(size, int):
            height, width = sample.image.shape[1:]
            factor = size / min(height, width)
            size = (round(height * factor), round(width * factor))
        return _resize(sample, size)


class ResizeToGeometry:
    """Resize a sample, image and annotations, to the size at which a model wants to see it: for training.

    Evaluation leaves the annotations as they are and brings the model's results back to their size instead.

    Args:
        geometry: the model's.
    """

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry

    def __call__(self, sample: Sample) -> Sample:
        """The resized sample."""
        size = self._geometry.model_size(tuple(sample.image.shape[1:]))
        return _resize(sample, (size[0], size[1]), antialias=self._geometry.antialias)


class RescaleIntensity:
    """Scale the values of the image, as a model wants to see them.

    Args:
        intensity: the rule; it sees the image as a whole.
    """

    def __init__(self, intensity: Intensity) -> None:
        self._intensity = intensity

    def __call__(self, sample: Sample) -> Sample:
        """The sample with its image scaled."""
        return replace(sample, image=self._intensity(sample.image))


class ColorJitter(v2.ColorJitter):
    """torchvision's jitter of brightness, contrast and saturation, which refuses what it would spoil.

    It is defined for RGB and grey images in [0, 1] and clips to that range: Hounsfield units would become black and
    white.

    Args:
        brightness: each factor is drawn from [1 - brightness, 1 + brightness].
        contrast: each factor is drawn from [1 - contrast, 1 + contrast].
        saturation: each factor is drawn from [1 - saturation, 1 + saturation].
    """

    def __init__(self, brightness: float, contrast: float, saturation: float = 0.0) -> None:
        super().__init__(brightness=brightness, contrast=contrast, saturation=saturation)

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """Called by torchvision before each use.

        Raises:
            ValueError: for an image of other than 1 or 3 channels, or with values outside [0, 1] by more than filters
                overshoot, half the range (as a model's normalisation allows).
        """
        for image in (x for x in flat_inputs if isinstance(x, tv_tensors.Image)):
            channels, (low, high) = image.shape[0], (v.item() for v in image.aminmax())
            if channels not in (1, 3) or low < -0.5 or high > 1.5:
                raise ValueError(
                    f"jitter of colours is for RGB and grey images in [0, 1], got {channels} channels in"
                    f" [{low:.4g}, {high:.4g}]; turn it off (color=0, or light=0 for microscopy)"
                )


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
    default, which is right for every map here: the semantic map and regions go in as ``255 - label``, so that 0 means
    void for them too. Leave ``fill`` of the transform at 0 therefore. For a change of size prefer :class:`Resize`:
    torchvision looks up masks half an output pixel off the image.

    Args:
        transform: for example ``v2.RandomPerspective()`` or a ``v2.Compose`` of several.
    """

    def __init__(self, transform: Callable[..., Any]) -> None:
        self._transform = transform

    def __call__(self, sample: Sample) -> Sample:
        """The transformed sample."""
        tree: dict[str, Any] = {"image": tv_tensors.Image(sample.image)}  # (C, H, W)
        if sample.semantic is not None:
            tree["semantic"] = tv_tensors.Mask(VOID - sample.semantic)  # (H, W), 0 = void
        if sample.regions is not None:
            tree["regions"] = tv_tensors.Mask(VOID - sample.regions)  # (K, H, W), 0 = void
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
        moved |= {name: VOID - moved[name] for name in ("semantic", "regions") if name in moved}
        return _rebuild(sample, **moved)


def move_maps(sample: Sample, image: Tensor, move: Callable[[Tensor, int], Tensor]) -> Sample:
    """The sample with a new image and with its annotations moved as the image was: for writing one's own transforms.

    Args:
        sample: the sample before.
        image: the moved image, ``(C, H', W')``.
        move: gets each map ``(..., H, W)`` and the value that it has outside the image, and returns the map
            ``(..., H', W')``. It must look pixels up and not mix them.

    Returns:
        The new sample; boxes and areas are measured again, objects and segments without a pixel dropped.
    """
    moved = {}
    if sample.semantic is not None:
        moved["semantic"] = move(sample.semantic, VOID)
    if sample.regions is not None:
        moved["regions"] = move(sample.regions, VOID)
    if sample.instances is not None:
        moved["masks"] = move(sample.instances.masks, 0)
    if sample.panoptic is not None:
        moved["panoptic"] = move(sample.panoptic.map, 0)
    if sample.pixel_weight is not None:
        moved["pixel_weight"] = move(sample.pixel_weight, 0)
    return _rebuild(sample, image=image, **moved)


def _resize(sample: Sample, size: tuple[int, int], *, antialias: bool = True) -> Sample:
    if tuple(sample.image.shape[1:]) == size:
        return sample
    image = resize_image(sample.image, size, antialias=antialias)  # (C, *size)
    return move_maps(sample, image, lambda labels, _: resize_labels(labels, size))


def _rebuild(sample: Sample, *, masks: Tensor | None = None, panoptic: Tensor | None = None, **dense: Tensor) -> Sample:
    """The sample with the given tensors exchanged and everything that depends on them measured again."""
    changed: dict[str, Any] = dict(dense)  # image, semantic, regions, pixel_weight: nothing depends on them
    if masks is not None:
        assert sample.instances is not None
        changed["instances"] = _with_masks(sample.instances, masks)
    if panoptic is not None:
        assert sample.panoptic is not None
        changed["panoptic"] = _with_map(sample.panoptic, panoptic)
    return replace(sample, **changed)


def _with_masks(instances: Instances, masks: Tensor) -> Instances:
    """The instances with new masks (N, H, W): boxes measured again, those without a pixel dropped."""
    moved = instances.replace(masks=masks, boxes=masks_to_boxes(masks))
    visible = moved.boxes[:, 2] > 0  # (N,)
    return moved if bool(visible.all()) else moved[visible]


def _with_map(panoptic: Panoptic, new: Tensor) -> Panoptic:
    """The panoptic segmentation with a new map (H, W): areas counted again, segments without a pixel dropped."""
    areas = segment_areas(Panoptic(new, panoptic.segments)).tolist()
    return Panoptic(new, [replace(s, area=area) for s, area in zip(panoptic.segments, areas, strict=True) if area])


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
