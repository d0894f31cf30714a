"""From samples to a batch: images of different sizes padded to one, annotations alongside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.types import VOID, Batch, Panoptic, Sample, Targets


def collate(samples: Sequence[Sample], *, multiple: int = 1) -> Batch:
    """Stack samples into a batch, padded on the right and at the bottom to the largest height and width.

    Padding is void: image 0, semantic 255, panoptic 0, masks False, weights 0. Boxes stay valid because the origin
    doesn't move. A kind of annotation that no sample has is ``None`` in the targets.

    Args:
        samples: at least one.
        multiple: the padded height and width are rounded up to a multiple of this (a model's stride, for example).

    Returns:
        A :class:`~seglib.types.Batch` whose ``sizes`` are the heights and widths before padding.

    Raises:
        ValueError: when there are no samples, when only some have a kind of annotation, when an annotation isn't as
            large as its image, or when ``multiple`` is below 1.
    """
    if not samples:
        raise ValueError("a batch needs at least one sample, got none; is the dataset empty?")
    if multiple < 1:
        raise ValueError(f"multiple must be at least 1, got {multiple}")
    sizes = [_size(s) for s in samples]
    height, width = (-(-max(side) // multiple) * multiple for side in zip(*sizes, strict=True))

    def pad(x: Tensor, fill: int) -> Tensor:
        missing = (0, width - x.shape[-1], 0, height - x.shape[-2])
        return F.pad(x, missing, value=fill) if any(missing) else x  # (..., height, width)

    targets = Targets(
        semantic=torch.stack([pad(m, VOID) for m in maps])  # (B, H, W)
        if (maps := _all_or_none(samples, "semantic"))
        else None,
        instances=[replace(i, masks=pad(i.masks, 0)) for i in instances]
        if (instances := _all_or_none(samples, "instances"))
        else None,
        panoptic=[Panoptic(pad(p.map, 0), p.segments) for p in panoptics]
        if (panoptics := _all_or_none(samples, "panoptic"))
        else None,
        pixel_weight=torch.stack([pad(w, 0) for w in weights])  # (B, H, W)
        if (weights := _all_or_none(samples, "pixel_weight"))
        else None,
    )
    images = torch.stack([pad(s.image, 0) for s in samples])  # (B, 3, H, W)
    return Batch(images, targets, [s.id for s in samples], sizes)


def _size(sample: Sample) -> tuple[int, int]:
    """Height and width of a sample, after checking that its annotations have them too."""
    size = (sample.image.shape[-2], sample.image.shape[-1])
    annotations = {
        "semantic map": sample.semantic,
        "masks": None if sample.instances is None else sample.instances.masks,
        "panoptic map": None if sample.panoptic is None else sample.panoptic.map,
        "pixel_weight": sample.pixel_weight,
    }
    for name, value in annotations.items():
        if value is not None and tuple(value.shape[-2:]) != size:
            raise ValueError(
                f"sample {sample.id!r}: the {name} is {tuple(value.shape[-2:])} and the image {size} (H, W);"
                " transform both together"
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
