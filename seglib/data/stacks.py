"""Stacks of slices, as microscopes make them: folders of numbered images, or TIFF files with many pages.

Neighbouring slices show nearly the same, so a stack is split into blocks along z and never at random: with slice 7 in
training, a score on slice 8 would tell little. :func:`z_blocks` makes the blocks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path

from seglib.data.folders import SegmentationFiles
from seglib.data.images import IMAGE_ENDINGS, count_pages
from seglib.data.pairing import LABEL_ENDINGS, files_by_stem
from seglib.types import Category, Sample

TIFF_ENDINGS = (".tif", ".tiff")


def z_blocks(depth: int, shares: Sequence[float] = (0.7, 0.1, 0.2)) -> tuple[range, ...]:
    """Cut ``depth`` slices into one block for each share, in order.

    ``z_blocks(30, (20, 4, 6))`` is ``(range(0, 20), range(20, 24), range(24, 30))``; shares need not sum to 1. The two
    slices at a border still resemble each other; leave one out where that matters.

    Raises:
        ValueError: when a share is negative or a block would be empty that has a share.
    """
    total = sum(shares)
    if total <= 0 or min(shares) < 0:
        raise ValueError(f"shares must be at least 0 and not all 0, got {tuple(shares)}")
    borders = [0, *(round(depth * part / total) for part in accumulate(shares))]
    blocks = tuple(range(a, b) for a, b in pairwise(borders))
    if any(share > 0 and not block for share, block in zip(shares, blocks, strict=True)):
        raise ValueError(f"{depth} slices are too few for the shares {tuple(shares)}: a block would be empty")
    return blocks


class SegmentationStack(SegmentationFiles):
    """The slices of a stack in z order: each is a sample.

    Args:
        images: a folder of numbered slices (``0.png`` … ``29.png``, ``z007.tif`` …), or a TIFF file of many pages.
            Files are ordered by the last number in their names, as a number: 9 before 10.
        labels: the same for the label maps. A slice and its labels have the same number; the rest of the names may
            differ.
        categories: the class table.
        slices: which slices, as positions in the stack from 0: ``range(20)``; ``None`` takes all. See :func:`z_blocks`.
        void: the id that the *files* use for void; it becomes 255. ``None`` means 255, unless ``remap`` names 255.
        remap: file id → category id (or 255 for void), of every id in the files; masks of 0 and 255 need one.
        size: ``(H, W)`` to resize to on reading: the image antialiased bilinear, the labels nearest.
        transform: applied to the sample last.

    Raises:
        FileNotFoundError: when a folder or file doesn't exist.
        ValueError: when names have no number or two have the same, when the stack and its labels don't have the same
            slices, or when ``slices`` is empty or goes beyond the stack; further as
            :class:`seglib.data.folders.SegmentationFiles`.
    """

    def __init__(
        self,
        images: str | os.PathLike[str],
        labels: str | os.PathLike[str],
        categories: Sequence[Category],
        *,
        slices: Sequence[int] | None = None,
        void: int | None = None,
        remap: Mapping[int, int] | None = None,
        size: tuple[int, int] | None = None,
        transform: Callable[[Sample], Sample] | None = None,
    ) -> None:
        image_slices = _slices(Path(images), IMAGE_ENDINGS)
        label_slices = _slices(Path(labels), (*LABEL_ENDINGS, *TIFF_ENDINGS))
        _check_pairs(Path(images), Path(labels), list(image_slices), list(label_slices))
        slices = range(len(image_slices)) if slices is None else slices
        if len(slices) == 0 or not 0 <= min(slices) <= max(slices) < len(image_slices):
            raise ValueError(f"slices is {slices!r}; choose some of 0..{len(image_slices) - 1}, which {images} has")
        # ((file, page) of the image, (file, page) of its labels) for each slice
        stack = list(zip(image_slices.values(), label_slices.values(), strict=True))
        chosen = [stack[z] for z in slices]
        pairs = [(image, label) for (image, _), (label, _) in chosen]
        super().__init__(pairs, categories, void=void, remap=remap, size=size, transform=transform)
        self._pages = [(page, label_page) for (_, page), (_, label_page) in chosen]
        self._paged = Path(images).is_file()

    def _id(self, index: int) -> str:
        name = super()._id(index)
        return f"{name}-{self._pages[index][0]:03d}" if self._paged and self._pages else name


_Slices = dict[int, tuple[Path, int]]


def _slices(path: Path, endings: tuple[str, ...]) -> _Slices:
    """Number of a slice → its file and the page in it, in z order."""
    if not path.is_dir():
        return {page: (path, page) for page in range(count_pages(path))}
    found: _Slices = {}
    for stem, file in files_by_stem(path, endings).items():
        numbers = re.findall(r"[0-9]+", stem)
        if not numbers:
            raise ValueError(f"{file} has no number in its name; number the slices of a stack in z order")
        z = int(numbers[-1])
        if z in found:
            raise ValueError(f"{found[z][0]} and {file.name} are both slice {z}; keep one stack a folder")
        found[z] = (file, 0)
    return dict(sorted(found.items()))


def _check_pairs(images: Path, labels: Path, image_numbers: list[int], label_numbers: list[int]) -> None:
    counts = f"{images} has {len(image_numbers)} slices and {labels} has {len(label_numbers)}"
    if len(image_numbers) != len(label_numbers):
        raise ValueError(f"{counts}; every slice needs its labels")
    # Pages are counted from 0, names perhaps from 1, so only names are compared.
    alone = sorted(set(image_numbers) ^ set(label_numbers))
    if alone and images.is_dir() and labels.is_dir():
        raise ValueError(f"{counts}, but slice {alone[0]} is in one of them only; give both the same numbers")
