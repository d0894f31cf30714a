"""Oxford-IIIT Pet: images of cats and dogs of 37 breeds, with a trimap of the animal.

7,349 images with trimaps: 3,680 in the official list trainval and 3,669 in test. Loaded from the official layout::

    oxford-iiit-pet/
      images/                 X.jpg
      annotations/
        trainval.txt test.txt lines "X class species breed", X is the name of an image
        trimaps/              X.png: 1 = pet, 2 = background, 3 = the band between them, and what was left open

There is no official list for validation. Here ``val`` is the last fifth of every breed in trainval, by the numbers in
the names, and ``train`` is the rest. Neighbouring numbers often show one animal, so a block keeps its images together;
the official test list doesn't.

Source: Parkhi, Vedaldi, Zisserman and Jawahar, "Cats and Dogs", CVPR 2012.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Literal

from seglib.data.folders import SegmentationFiles, natural_key
from seglib.types import VOID, Category, Sample

CATEGORIES = (Category(0, "pet", True, (230, 159, 0)), Category(1, "background", False, (0, 114, 178)))
"""The two classes, things first."""

BORDER = Category(2, "border", False, (240, 228, 66))
"""The band around the animal, where it is a class of its own."""

FILE_IDS = {1: 0, 2: 1}
"""Id in the files → id here; 3 is the band."""

SPLITS = ("train", "val", "trainval", "test")

_WHERE = (
    "the data set is at https://www.robots.ox.ac.uk/~vgg/data/pets: unpack images.tar.gz and annotations.tar.gz into"
    " one folder"
)


class OxfordPets(SegmentationFiles):
    """One split of Oxford-IIIT Pet in its official layout, ordered by breed and number.

    Args:
        root: the folder that holds ``images`` and ``annotations``, or the one around it if that is called
            ``oxford-iiit-pet``.
        split: "train", "val", "trainval" or "test".
        border: what the band around the animal is. "void" leaves it out of loss and score; "class" makes it the third
            class, :data:`BORDER`.
        size: ``(H, W)`` to resize to on reading; the files have many sizes.
        transform: applied to the sample last.

    Raises:
        FileNotFoundError: when the folder, the list or a file on it is missing.
        ValueError: for an unknown split or border, or an empty list.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        *,
        border: Literal["void", "class"] = "void",
        size: tuple[int, int] | None = None,
        transform: Callable[[Sample], Sample] | None = None,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is unknown; choose one of {', '.join(SPLITS)}")
        if border not in ("void", "class"):
            raise ValueError(f"border {border!r} is unknown; choose 'void' or 'class'")
        folder, names = _read_list(Path(root), split)
        pairs = [(folder / "images" / f"{n}.jpg", folder / "annotations" / "trimaps" / f"{n}.png") for n in names]
        as_class = border == "class"
        super().__init__(
            pairs,
            (*CATEGORIES, BORDER) if as_class else CATEGORIES,
            remap=FILE_IDS | {3: BORDER.id if as_class else VOID},
            upright=False,  # the trimaps belong to the pixels as they are stored
            size=size,
            transform=transform,
        )


def _read_list(root: Path, split: str) -> tuple[Path, list[str]]:
    """The folder of the data set and the names of one split, ordered by breed and number."""
    file = f"annotations/{'test' if split == 'test' else 'trainval'}.txt"
    folder = next((f for f in (root, root / "oxford-iiit-pet") if (f / file).is_file()), None)
    if folder is None:
        raise FileNotFoundError(f"found neither {root}/{file} nor {root}/oxford-iiit-pet/{file}; {_WHERE}")
    lines = (folder / file).read_text(encoding="utf-8-sig").splitlines()
    names = sorted((line.split()[0] for line in lines if line.strip() and not line.startswith("#")), key=natural_key)
    if split in ("train", "val"):
        kept = []
        for _, group in groupby(names, key=lambda name: name.rpartition("_")[0]):
            breed = list(group)
            first = len(breed) - len(breed) // 5
            kept += breed[first:] if split == "val" else breed[:first]
        names = kept
    if not names:
        raise ValueError(f"{folder / file} has no image for the split {split!r}; {_WHERE}")
    return folder, names
