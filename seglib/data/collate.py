"""From samples to a batch: images of different sizes padded to one, annotations alongside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.types import VOID, Batch, Instances, Panoptic, Sample, Size, Targets


def collate(samples: Sequence[Sample], *, multiple: int = 1) -> Batch:
    """Stack samples into a batch, padded at the end of each axis to the largest size.

    Padding is void: image 0, semantic 255, panoptic 0, masks False, regions 255, weights 0. A model that gets the
    batch's ``sizes`` fills the padding of images anew after it has normalised them. Boxes stay valid because the origin
    doesn't move. An annotation that no sample has is ``None`` in the targets.

    Args:
        samples: at least one, of images ``(C, H, W)`` or of volumes ``(C, D, H, W)``.
        multiple: the padded size is rounded up to a multiple of this (a model's stride, for example).

    Returns:
        A :class:`~seglib.types.Batch` whose ``sizes`` are the sizes of the images before padding, and whose
        ``output_sizes`` are those of their annotations.

    Raises:
        ValueError: when there are no samples, when images differ in channels or dimensions, when only some have an
            annotation or a spacing, when an annotation isn't as large as its image (or has another size than
            ``output_size``), or when ``multiple`` is below 1.
    """
    if not samples:
        raise ValueError("a batch needs at least one sample, got none; is the dataset empty?")
    if multiple < 1:
        raise ValueError(f"multiple must be at least 1, got {multiple}")
    for sample in samples:
        _check_sample(sample)
    _check_channels(samples)
    sizes: list[Size] = [tuple(s.image.shape[1:]) for s in samples]
    output_sizes = [_output_size(s) for s in samples]
    canvas, output_canvas = _largest(sizes, multiple), _largest(output_sizes, multiple)

    def stacked(name: str, fill: int) -> Tensor | None:
        maps = _all_or_none(samples, name)
        return None if maps is None else torch.stack([_pad(m, output_canvas, fill) for m in maps])  # (B, …, H, W)

    instances, panoptic = _all_or_none(samples, "instances"), _all_or_none(samples, "panoptic")
    targets = Targets(
        semantic=stacked("semantic", VOID),
        instances=instances and [_pad_masks(i, output_canvas) for i in instances],
        panoptic=panoptic and [Panoptic(_pad(p.map, output_canvas, 0), p.segments) for p in panoptic],
        regions=stacked("regions", VOID),
        pixel_weight=stacked("pixel_weight", 0),
    )
    images = torch.stack([_pad(s.image, canvas, 0) for s in samples])  # (B, C, H, W)
    spacing = _all_or_none(samples, "spacing")
    return Batch(images, targets, [s.id for s in samples], sizes, output_sizes, spacing)


def _largest(sizes: Sequence[Size], multiple: int) -> Size:
    """The largest extent along each axis, rounded up to a multiple."""
    return tuple(-(-max(side) // multiple) * multiple for side in zip(*sizes, strict=True))


def _pad(x: Tensor, size: Size, fill: int) -> Tensor:
    """``(…, *size)``, filled at the end of each axis."""
    missing = [m for new, old in zip(reversed(size), reversed(x.shape), strict=False) for m in (0, new - old)]
    return F.pad(x, missing, value=fill) if any(missing) else x


def _pad_masks(instances: Instances, size: Size) -> Instances:
    """Instances whose masks are ``(N, *size)``; unpacks them only where they are smaller."""
    return instances if instances.size == size else instances.replace(masks=_pad(instances.masks, size, 0))


def _check_sample(sample: object) -> None:
    """Raise a sentence for what people's own datasets return instead of a sample of tensors."""
    if not isinstance(sample, Sample):
        raise ValueError(
            f"a dataset gives Samples, got a {type(sample).__name__}; return Sample(image, id, semantic=labels)"
        )
    for name in ("image", "semantic", "regions", "pixel_weight"):
        value = getattr(sample, name)
        if value is not None and not isinstance(value, Tensor):
            raise ValueError(
                f"sample {sample.id!r} has a {type(value).__name__} as {name}; pass a tensor, of an image (C, H, W)"
                " float32 in [0, 1], of labels (H, W) int64"
            )


def _check_channels(samples: Sequence[Sample]) -> None:
    seen = {(s.image.ndim, s.image.shape[0]): s for s in samples}
    if len(seen) > 1:
        shapes = ", ".join(f"{s.id!r} is {tuple(s.image.shape)}" for s in seen.values())
        raise ValueError(f"images of one batch have the same channels and dimensions, but {shapes}; convert them alike")


def _output_size(sample: Sample) -> Size:
    """The size of a sample's annotations, after checking that all have it."""
    size = tuple(sample.output_size or sample.image.shape[1:])
    annotations: dict[str, Size | None] = {
        "semantic map": None if sample.semantic is None else tuple(sample.semantic.shape),
        "masks": None if sample.instances is None else sample.instances.size,
        "panoptic map": None if sample.panoptic is None else tuple(sample.panoptic.map.shape),
        "regions": None if sample.regions is None else tuple(sample.regions.shape[1:]),
        "pixel_weight": None if sample.pixel_weight is None else tuple(sample.pixel_weight.shape),
    }
    other = "image" if sample.output_size is None else "output_size"
    for name, value in annotations.items():
        if value is not None and value != size:
            raise ValueError(
                f"sample {sample.id!r}: the {name} is {value} and the {other} {size} (H, W); transform both together"
            )
    return size


def _all_or_none(samples: Sequence[Sample], name: str) -> list | None:
    """The annotation called ``name`` of every sample, or ``None`` when no sample has it."""
    values = [getattr(s, name) for s in samples]
    without = [s.id for s, v in zip(samples, values, strict=True) if v is None]
    if len(without) == len(samples):
        return None
    if without:
        raise ValueError(
            f"{len(without)} of {len(samples)} samples have no {name} annotation ({', '.join(without[:5])}) and the"
            " others do; batch them apart or drop the annotation with Keep"
        )
    return values
