"""Pascal VOC 2012: images with 20 classes of objects and background, the classic benchmark of semantic segmentation.

1,464 train and 1,449 val images with labels. Loaded from the official layout::

    VOCdevkit/VOC2012/
      JPEGImages/              X.jpg
      SegmentationClass/       X.png: palette PNGs, 0 = background, 1..20 = objects, 255 = void (borders, hard objects)
      ImageSets/Segmentation/  train.txt val.txt trainval.txt: a name X a line

The labels of the test split are not public. Papers train on ``trainaug``, 10,582 images with further labels by
Hariharan et al. (SBD). If you have them in ``SegmentationClassAug/``, with a list ``trainaug.txt``, it is a split here.

The files put background first. Here things come first, then stuff, so background is class 20: ``VOC_ORDER``.

Source: Everingham et al., "The Pascal Visual Object Classes Challenge: A Retrospective", IJCV 2015; further labels:
Hariharan et al., "Semantic Contours from Inverse Detectors", ICCV 2011.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from seglib.data.folders import SegmentationFiles
from seglib.types import Category, Sample


def voc_color(index: int) -> tuple[int, int, int]:
    """Pascal VOC's colour of a class: its bits, three at a time, become the high bits of red, green and blue."""
    red = green = blue = 0
    for bit in range(7, -1, -1):
        red |= (index & 1) << bit
        green |= (index >> 1 & 1) << bit
        blue |= (index >> 2 & 1) << bit
        index >>= 3
    return red, green, blue


VOC_NAMES = (
    "background",
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""The 21 classes in the order of the files and of published models."""

VOC_ORDER = [*range(1, 21), 0]
"""Our class k is class ``VOC_ORDER[k]`` of the files: their background comes first, ours last, as stuff does."""

CATEGORIES = tuple(Category(i, VOC_NAMES[voc], voc != 0, voc_color(voc)) for i, voc in enumerate(VOC_ORDER))
"""The 21 classes, things first, with the official colours."""

FILE_IDS = {voc: i for i, voc in enumerate(VOC_ORDER)}
"""Id in the files → id here; 255 is void."""

SPLITS = ("train", "val", "trainval", "trainaug")

_WHERE = (
    "VOC 2012 is VOCtrainval_11-May-2012.tar of http://host.robots.ox.ac.uk/pascal/VOC/voc2012, which unpacks to"
    " VOCdevkit/VOC2012"
)


class VOC2012(SegmentationFiles):
    """One split of Pascal VOC 2012 in its official layout, in the order of its list file.

    Args:
        root: the folder ``VOC2012``, ``VOCdevkit`` or the one around that.
        split: "train", "val", "trainval", or "trainaug" where its labels are.
        size: ``(H, W)`` to resize to on reading; the files have many sizes, up to 500 pixels a side.
        transform: applied to the sample last.

    Raises:
        FileNotFoundError: when the folder, the list or a file on it is missing.
        ValueError: for an unknown split or an empty list.
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
            raise ValueError("the labels of VOC's test split are not public; evaluate on split 'val'")
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is unknown; choose one of {', '.join(SPLITS)}")
        list_file = _find_list(Path(root), split)
        names = list_file.read_text(encoding="utf-8-sig").split()
        if not names:
            raise ValueError(f"{list_file} is empty; {_WHERE}")
        folder = list_file.parents[2]
        labels = folder / ("SegmentationClassAug" if split == "trainaug" else "SegmentationClass")
        pairs = [(folder / "JPEGImages" / f"{n}.jpg", labels / f"{n}.png") for n in names]
        # The labels belong to the pixels as they are stored, whatever their EXIF orientation says.
        super().__init__(pairs, CATEGORIES, remap=FILE_IDS, upright=False, size=size, transform=transform)


def _find_list(root: Path, split: str) -> Path:
    file = f"ImageSets/Segmentation/{split}.txt"
    for folder in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        if (folder / file).is_file():
            return folder / file
    raise FileNotFoundError(f"found {file} neither in {root} nor in VOC2012 or VOCdevkit/VOC2012 below it; {_WHERE}")
