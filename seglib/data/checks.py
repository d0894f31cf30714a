"""Whether a split can be learned from: how often each class occurs, and what of its annotations is left out.

Most data sets that train to nothing show it before the first step: every annotation is a crowd, masks of 0 and 255 are
read with 255 as void, or a class has no pixel. Counting takes seconds; a run takes hours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from seglib.ops.labels import check_labels
from seglib.types import ANNOTATIONS, VOID, Category, Sample

if TYPE_CHECKING:
    from seglib.data.catalog import SegmentationDataset


@dataclass(frozen=True)
class LabelCounts:
    """How often each class occurs in (some of) the images of a dataset.

    Attributes:
        annotation: what was counted, one of :data:`~seglib.types.ANNOTATIONS`.
        classes: for each category id its pixels; of "instances" its objects. Crowds of "instances" and "panoptic" are
            not among them.
        images_seen: the number of images that were counted.
        images: the number of images of the dataset.
        pixels: all pixels that were counted, those of void too; of "regions" once for each region; 0 of "instances".
        void: the pixels among them that are void.
        crowds: annotations with ``iscrowd`` 1, also those that the dataset leaves out.
        without_mask: annotations that the dataset leaves out because they have no mask.
        most_objects: the largest number of objects in an image, of "instances".
        class_values: the values of label files that were seen and are a class; empty where a remap says what they are.
        void_values: the values of label files that were seen and are void; empty where a remap says so.
    """

    annotation: str
    classes: tuple[int, ...]
    images_seen: int
    images: int
    pixels: int = 0
    void: int = 0
    crowds: int = 0
    without_mask: int = 0
    most_objects: int = 0
    class_values: tuple[int, ...] = ()
    void_values: tuple[int, ...] = ()

    @property
    def zero_and_255(self) -> bool:
        """Whether the label files look like masks of 0 and 255 whose 255 was taken for void."""
        return self.void_values == (VOID,) and self.class_values in ((), (0,))


def check_dataset(dataset: object, name: str) -> None:
    """Raise unless ``dataset``, called ``name`` in messages, has a length and samples by index.

    Raises:
        ValueError: for a ``DataLoader``, an iterator or anything else that isn't a dataset.
    """
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise ValueError(
            f"{name} is a {type(dataset).__name__}; pass the dataset itself, with len() and [i] giving a Sample:"
            " batches are made of it here"
        )


def count_labels(dataset: SegmentationDataset, needs: str, most: int = 1000) -> LabelCounts:
    """Count how often each class occurs, in evenly spaced images where there are more than ``most``.

    A dataset may have a method ``count_labels(needs, indices)`` that is cheaper than reading its samples, as every
    dataset of seglib has: for a COCO file all annotations are counted, for label maps only the label files are decoded.
    Samples of any other dataset are read as they are, with their augmentation; torch's random state is the same
    afterwards.

    Args:
        dataset: samples with a class table.
        needs: the annotation to count: "semantic", "instances", "panoptic" or "regions".
        most: the most images to look at.

    Raises:
        ValueError: for an annotation that is unknown or that the samples lack, for a label outside the class table, or
            for ``most`` below 1.
    """
    if most < 1:
        raise ValueError(f"most must be at least 1 image, got {most}")
    check_dataset(dataset, "the dataset")
    total = len(dataset)
    seen = min(most, total)
    return count_images(dataset, needs, [i * total // seen for i in range(seen)])


def count_images(dataset: SegmentationDataset, needs: str, indices: Sequence[int]) -> LabelCounts:
    """What :func:`count_labels` counts, in the images at ``indices``."""
    if needs not in ANNOTATIONS:
        raise ValueError(f"annotation {needs!r} is unknown; choose one of {', '.join(ANNOTATIONS)}")
    cheap = getattr(dataset, "count_labels", None)
    with torch.random.fork_rng(devices=[]):
        if cheap is not None:
            return cheap(needs, indices)
        return count_samples((dataset[i] for i in indices), needs, len(dataset.categories), len(dataset))


def count_samples(samples: Iterable[Sample], needs: str, num_classes: int, images: int) -> LabelCounts:
    """Count the classes in the annotations of samples.

    Args:
        samples: any number of them; each is let go before the next is read.
        needs: the annotation to count.
        num_classes: K of the class table.
        images: the number of images of the dataset.
    """
    classes = torch.zeros(num_classes, dtype=torch.int64)  # (K,)
    seen = pixels = void = crowds = most = 0
    for sample in samples:
        seen += 1
        value = getattr(sample, needs)
        if value is None:
            raise ValueError(f"sample {sample.id!r} has no {needs} annotation; use a dataset whose samples carry one")
        if sample.instances is not None and needs == "instances":
            crowd = sample.instances.iscrowd
            objects = sample.instances.labels if crowd is None else sample.instances.labels[~crowd]  # (N,)
            crowds += 0 if crowd is None else int(crowd.sum())
            classes += _occurrences(objects, num_classes, None, sample.id)
            most = max(most, len(objects))
        elif sample.panoptic is not None and needs == "panoptic":
            pixels += sample.panoptic.map.numel()
            void += int((sample.panoptic.map == 0).sum())
            for segment in sample.panoptic.segments:
                if segment.iscrowd:
                    crowds += 1
                else:
                    classes[segment.category_id] += segment.area
        elif sample.regions is not None and needs == "regions":
            pixels += sample.regions.numel()
            void += int((sample.regions == VOID).sum())
            classes += (sample.regions == 1).flatten(1).sum(1)
        elif sample.semantic is not None:
            occurrences = _occurrences(sample.semantic, num_classes, VOID, sample.id)  # (256,)
            pixels += sample.semantic.numel()
            void += int(occurrences[VOID])
            classes += occurrences[:num_classes]
    return LabelCounts(needs, tuple(classes.tolist()), seen, images, pixels, void, crowds, most_objects=most)


def check_labels_of_split(
    counts: LabelCounts, categories: Sequence[Category], split: str, max_detections: int = 100
) -> list[str]:
    """Check before training that a split has something to learn from, or to be scored on.

    Args:
        counts: labels of the split, as :func:`count_labels` counts them.
        categories: the class table; of "instances" only its things are looked at.
        split: the name of the split, for the messages.
        max_detections: the largest number of objects that are found and scored in an image.

    Returns:
        One line for each warning about classes that never occur, masks of 0 and 255 whose 255 is void, images with
        more objects than are scored, and annotations that are left out.

    Raises:
        ValueError: when nothing is labelled: no image, no annotation, crowds alone, or all pixels void; for masks of 0
            and 255 whose 255 is void while a class never occurs, which is almost surely the class that 255 means.
    """
    wanted = [c for c in categories if c.isthing or counts.annotation != "instances"]
    if counts.images_seen == 0:
        raise ValueError(f"{split} has no images; check the folder or the list of the split")
    if not any(counts.classes[c.id] for c in wanted):
        raise ValueError(_nothing(counts, split))
    warnings = []
    where = f"{counts.images} images"
    if counts.images_seen < counts.images:
        where = f"the {counts.images_seen} of {where} that were looked at"
    absent = [c.name for c in wanted if not counts.classes[c.id]]
    if absent and counts.zero_and_255:
        raise ValueError(
            f"{split}: the label files hold no other values than 0 and 255, 255 is void"
            f" ({_share(counts)} of the pixels) and class {absent[0]!r} never occurs; {_BINARY}"
        )
    void = f"; {_share(counts)} of the pixels are void" if counts.void else ""
    if absent:
        names = ", ".join(repr(name) for name in absent[:8]) + (", …" if len(absent) > 8 else "")
        one = len(absent) == 1
        subject = (
            f"class {names} never occurs" if one else f"{len(absent)} of {len(wanted)} classes never occur ({names})"
        )
        remedy = f"; check the ids in the files, or take {'it' if one else 'them'} out of the class table"
        warnings.append(f"{split}: {subject} in {where}{void}{remedy}")
    if counts.zero_and_255:
        warnings.append(
            f"{split}: the label files hold no other values than 0 and 255, and 255 is void ({_share(counts)} of the"
            f" pixels); {_SAY_WHAT_VALUES_ARE}"
        )
    objects = sum(counts.classes)
    if counts.crowds > objects:
        warnings.append(
            f"{split}: {counts.crowds} of {counts.crowds + objects} annotations have iscrowd 1, and nothing is learned"
            " from them; set iscrowd to 0 where an annotation is one object"
        )
    if counts.without_mask:
        warnings.append(
            f"{split}: {counts.without_mask} of {counts.without_mask + counts.crowds + objects} annotations are left"
            " out because they have no mask: no segmentation, or no polygon of 3 points; correct or remove them"
        )
    if counts.most_objects > max_detections:
        warnings.append(
            f"{split}: an image has {counts.most_objects} objects, and at most {max_detections} are found and scored in"
            f" one; --max-detections {counts.most_objects} raises the limit"
        )
    return warnings


_BINARY = (
    'give the object "ids": [255] and the rest "ids": [0] in categories.json, or, where 255 really is void, write'
    ' "void": [255] beside "categories" (remap= in Python)'
)
_SAY_WHAT_VALUES_ARE = 'say which class each value is with "ids" in categories.json (remap= in Python)'


def _nothing(counts: LabelCounts, split: str) -> str:
    """What is wrong with a split in which no class occurs."""
    left_out = counts.crowds + counts.without_mask
    if left_out:
        reasons = []
        if counts.crowds:
            reasons.append(f"{counts.crowds} of {left_out} annotations have iscrowd 1 and are left out")
        if counts.without_mask:
            reasons.append(f"{counts.without_mask} of {left_out} have no polygon of 3 points")
        every = "all " if len(reasons) == 1 else ""
        remedy = "set iscrowd to 0 where an annotation is one object" if counts.crowds else "export polygons or masks"
        return f"{split} has nothing to learn from: {every}{' and '.join(reasons)}; {remedy}"
    if counts.annotation == "instances":
        return f"{split} has no object in its {counts.images_seen} images; check that its annotations were exported"
    if counts.zero_and_255:
        return (
            f"{split} has no labelled pixel: 100 % are void, because its label files hold 255 alone, which is void;"
            f" {_SAY_WHAT_VALUES_ARE}"
        )
    if counts.void:
        values = f" (the label files hold {', '.join(map(str, counts.void_values[:8]))})" if counts.void_values else ""
        return (
            f"{split} has no labelled pixel: {_share(counts)} are void in {counts.images_seen} images{values};"
            f" {_SAY_WHAT_VALUES_ARE}"
        )
    return f"{split} has no {counts.annotation} label in its {counts.images_seen} images; check its label files"


def _share(counts: LabelCounts) -> str:
    return f"{100 * counts.void / max(1, counts.pixels):.1f} %"


def _occurrences(labels: Tensor, num_classes: int, void: int | None, name: str) -> Tensor:
    """How often each class occurs among labels of any shape, int64 (K,); with void each of the ids 0 to 255, (256,)."""
    try:
        check_labels(labels, num_classes, void)
    except ValueError as error:
        raise ValueError(f"sample {name!r}: {error}") from error
    return torch.bincount(labels.flatten(), minlength=num_classes if void is None else VOID + 1)
