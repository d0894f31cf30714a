"""ISBI 2012: the membranes of nerve cells in electron microscopy, the data that U-Net was first trained on.

30 consecutive slices of 512x512 pixels, 4x4x50 nm, through the ventral nerve cord of a fruit fly's larva. Two layouts
are known, and both are read::

    train-volume.tif  train-labels.tif      the challenge's files: 30 pages each
    image/0.png … 29.png  label/0.png …     the same as PNG files

In the labels 255 is the inside of a cell and 0 is membrane. The labels of the challenge's test stack are not public, so
the 30 slices are split here into blocks: 0–19 train, 20–23 val, 24–29 test.

Source: Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for connectomics",
Frontiers in Neuroanatomy 2015; Cardona et al., PLoS Biology 2010.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from seglib.data.stacks import SegmentationStack
from seglib.types import Category, Sample

CATEGORIES = (Category(0, "cell", True, (230, 159, 0)), Category(1, "membrane", False, (0, 114, 178)))
"""The two classes, things first."""

FILE_IDS = {255: 0, 0: 1}
"""Id in the files → id here; nothing is void."""

BLOCKS = {"train": range(20), "val": range(20, 24), "test": range(24, 30)}
"""The slices of each split."""

_PAIRS = (("train-volume.tif", "train-labels.tif"), ("image", "label"))
_FOLDERS = ("", "train", "membrane/train")


class ISBI2012(SegmentationStack):
    """One block of slices of ISBI 2012.

    Args:
        root: the folder that holds the two TIFF files or the folders ``image`` and ``label``, or the one around
            ``train`` or ``membrane/train``.
        split: "train", "val" or "test".
        size: ``(H, W)`` to resize to on reading: the image antialiased bilinear, the labels nearest.
        transform: applied to the sample last.

    Raises:
        FileNotFoundError: when neither layout is found.
        ValueError: for an unknown split or a stack that has not 30 slices.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        *,
        size: tuple[int, int] | None = None,
        transform: Callable[[Sample], Sample] | None = None,
    ) -> None:
        if split not in BLOCKS:
            raise ValueError(f"split {split!r} is unknown; choose one of {', '.join(BLOCKS)}")
        images, labels = _find(Path(root))
        super().__init__(
            images, labels, CATEGORIES, slices=BLOCKS[split], remap=FILE_IDS, size=size, transform=transform
        )


def _find(root: Path) -> tuple[Path, Path]:
    for folder in (root / f for f in _FOLDERS):
        for images, labels in _PAIRS:
            if (folder / images).exists() and (folder / labels).exists():
                return folder / images, folder / labels
    raise FileNotFoundError(
        f"found neither train-volume.tif with train-labels.tif nor the folders image and label in {root}; ISBI 2012 is "
        "at https://imagej.net/events/isbi-2012-segmentation-challenge"
    )
