"""What the models of objects share: the objects that a batch is trained on, checked and packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seglib.ops.boxes import check_boxes
from seglib.ops.ragged import first_rows, take_rows
from seglib.types import Instances, Targets


def objects_of(targets: Targets, num_classes: int, *, boxes: bool = True) -> list[Instances]:
    """The objects of each image without crowds, after checking them.

    Args:
        targets: annotations with ``instances``.
        num_classes: number of classes of objects.
        boxes: whether the model uses boxes, so that they are checked, too.

    Raises:
        ValueError: without instances, or with a bad box or label; the message names the image.
    """
    if targets.instances is None:
        raise ValueError("the targets have no `instances`; train on a dataset whose samples carry them")
    # picking copies masks, so images without a crowd stay as they are
    objects = [i[~i.iscrowd] if i.iscrowd is not None and i.iscrowd.any() else i for i in targets.instances]
    for image, found in enumerate(objects):
        if boxes:
            check_boxes(found.boxes, f"boxes of image {image}")
        if len(found) and not 0 <= int(found.labels.min()) <= int(found.labels.max()) < num_classes:
            raise ValueError(
                f"image {image} has the labels {found.labels.unique().tolist()}, the model knows 0..{num_classes - 1}; "
                "build it with the dataset's number of things"
            )
    return objects


def crowds_of(targets: Targets) -> list[Instances]:
    """The crowds of each image: regions of many objects, which are neither objects nor background.

    Raises:
        ValueError: without instances.
    """
    if targets.instances is None:
        raise ValueError("the targets have no `instances`; train on a dataset whose samples carry them")
    return [i[i.iscrowd] if i.iscrowd is not None else i[:0] for i in targets.instances]


@dataclass(frozen=True)
class ObjectTable:
    """The boxes and labels of all objects of a batch, packed; masks stay where they are.

    Attributes:
        boxes: boxes of the objects, ``(G, 4)`` xyxy.
        labels: classes of the objects, ``(G,)`` int64.
        first: row of the first object of each image, ``(B,)`` int64.
    """

    boxes: Tensor
    labels: Tensor
    first: Tensor

    @classmethod
    def of(cls, objects: Sequence[Instances]) -> ObjectTable:
        """The table of the objects of each image."""
        first = first_rows([len(o) for o in objects], objects[0].boxes.device)
        return cls(torch.cat([o.boxes for o in objects]), torch.cat([o.labels for o in objects]), first)

    def matched(self, image: Tensor, matches: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes ``(…, 4)`` and labels ``(…)`` of the objects that stand behind matches, zeros where there is none.

        Args:
            image: index of the image of each match, of a shape that broadcasts with ``matches``.
            matches: index of an object within its image, ``(…)`` int64; negative for none.
        """
        row, valid = self.first[image] + matches, matches >= 0
        return take_rows(self.boxes, row, valid), take_rows(self.labels, row, valid)
