"""What the models of objects share: the objects that a batch is trained on, checked and packed; checks of parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seglib.layers.encoder import Encoder
from seglib.layers.fpn import FPN
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


def check_strides(encoder: Encoder, levels: Sequence[str], strides: Sequence[int], owner: str) -> None:
    """Raise unless what lies on the levels of a pyramid has the strides of the encoder's maps below it.

    Args:
        encoder: the backbone.
        levels: names of its maps, finest first.
        strides: pixels per cell of each level of the pyramid, which may have further, coarser ones.
        owner: whose strides they are, for the message.

    Raises:
        ValueError: naming both.
    """
    made = tuple(int(encoder.grids[name].stride) for name in levels)
    if tuple(strides[: len(made)]) != made:
        raise ValueError(
            f"{owner} have strides {tuple(strides)}, and the encoder's maps {', '.join(levels)} have {made}; build "
            "both for the same maps"
        )


def check_pyramid(fpn: FPN, maps: int, levels: int, owner: str) -> None:
    """Raise unless a pyramid is built on so many maps and has so many levels.

    Args:
        fpn: the pyramid. A top block without an attribute ``levels`` is taken at its word.
        maps: number of the encoder's maps.
        levels: number of levels that are wanted.
        owner: who wants them, for the message.

    Raises:
        ValueError: naming both numbers.
    """
    if len(fpn.lateral) != maps:
        raise ValueError(
            f"the FPN was built for {len(fpn.lateral)} maps, the model takes {maps} of the encoder; pass the channels "
            "of these maps to FPN"
        )
    extra = 0 if fpn.top_block is None else getattr(fpn.top_block, "levels", levels - maps)
    if maps + extra != levels:
        raise ValueError(
            f"{owner} are of {levels} levels, the FPN has {maps + extra}; add or remove its top block, or the strides"
        )


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
