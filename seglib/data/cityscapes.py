"""Cityscapes: streets of 50 German cities from a car, labelled finely in 30 classes, of which 19 are scored.

2,975 train and 500 val frames of 2048x1024 pixels. Loaded from the official layout::

    leftImg8bit/{train,val}/CITY/CITY_000000_000019_leftImg8bit.png
    gtFine/{train,val}/CITY/CITY_000000_000019_gtFine_labelIds.png

Files with ``labelIds`` number all classes, 0 to 33; the official scripts renumber the 19 that are scored as
``trainIds``, stuff first. Here things come first, so the ids change once more; the other classes are void:

    ====  =============  ========  =======
    id    class          labelId   trainId
    ====  =============  ========  =======
    0     person         24        11
    1     rider          25        12
    2     car            26        13
    3     truck          27        14
    4     bus            28        15
    5     train          31        16
    6     motorcycle     32        17
    7     bicycle        33        18
    8     road           7         0
    9     sidewalk       8         1
    10    building       11        2
    11    wall           12        3
    12    fence          13        4
    13    pole           17        5
    14    traffic light  19        6
    15    traffic sign   20        7
    16    vegetation     21        8
    17    terrain        22        9
    18    sky            23        10
    ====  =============  ========  =======

Source: Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016; the tables are those
of its ``cityscapesscripts/helpers/labels.py``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from seglib.data.folders import SegmentationFiles
from seglib.types import VOID, Category, Sample

_TABLE = [  # (labelId, trainId, name, isthing, colour)
    (24, 11, "person", True, (220, 20, 60)),
    (25, 12, "rider", True, (255, 0, 0)),
    (26, 13, "car", True, (0, 0, 142)),
    (27, 14, "truck", True, (0, 0, 70)),
    (28, 15, "bus", True, (0, 60, 100)),
    (31, 16, "train", True, (0, 80, 100)),
    (32, 17, "motorcycle", True, (0, 0, 230)),
    (33, 18, "bicycle", True, (119, 11, 32)),
    (7, 0, "road", False, (128, 64, 128)),
    (8, 1, "sidewalk", False, (244, 35, 232)),
    (11, 2, "building", False, (70, 70, 70)),
    (12, 3, "wall", False, (102, 102, 156)),
    (13, 4, "fence", False, (190, 153, 153)),
    (17, 5, "pole", False, (153, 153, 153)),
    (19, 6, "traffic light", False, (250, 170, 30)),
    (20, 7, "traffic sign", False, (220, 220, 0)),
    (21, 8, "vegetation", False, (107, 142, 35)),
    (22, 9, "terrain", False, (152, 251, 152)),
    (23, 10, "sky", False, (70, 130, 180)),
]

CATEGORIES = tuple(Category(i, name, isthing, color) for i, (*_, name, isthing, color) in enumerate(_TABLE))
"""The 19 classes that are scored, things first."""

LABEL_IDS = dict.fromkeys(range(34), VOID) | {row[0]: i for i, row in enumerate(_TABLE)}
"""labelId → id here, 255 for the classes that are not scored. The ``remap`` for ``*_labelIds.png``."""

TRAIN_IDS = {row[1]: i for i, row in enumerate(_TABLE)}
"""trainId → id here. The ``remap`` for ``*_labelTrainIds.png``, and the order of the classes of published models."""

SPLITS = ("train", "val")

_WHERE = (
    "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of https://www.cityscapes-dataset.com unpack to the"
    " folders leftImg8bit and gtFine"
)


class Cityscapes(SegmentationFiles):
    """One split of Cityscapes with its fine labels, in alphabetical order. Its ``file_ids`` are labelIds.

    Args:
        root: the folder that holds ``leftImg8bit`` and ``gtFine``.
        split: "train" or "val".
        size: ``(H, W)`` to resize to on reading; the files are 1024x2048.
        transform: applied to the sample last.

    Raises:
        FileNotFoundError: when a folder or the labels of a frame are missing.
        ValueError: for an unknown split.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        *,
        size: tuple[int, int] | None = None,
        transform: Callable[[Sample], Sample] | None = None,
    ) -> None:
        if split == "test":
            raise ValueError("the labels of Cityscapes' test split are not public; evaluate on split 'val'")
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is unknown; choose one of {', '.join(SPLITS)}")
        images, labels = (Path(root) / folder / split for folder in ("leftImg8bit", "gtFine"))
        frames = sorted(images.glob("*/[!.]*_leftImg8bit.png"))
        if not frames:
            raise FileNotFoundError(f"found no frame {images}/CITY/*_leftImg8bit.png; {_WHERE}")
        pairs = []
        for frame in frames:
            name = frame.name.removesuffix("leftImg8bit.png") + "gtFine_labelIds.png"
            pairs.append((frame, labels / frame.parent.name / name))
        super().__init__(pairs, CATEGORIES, remap=LABEL_IDS, size=size, transform=transform)
