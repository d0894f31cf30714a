"""The nuclei of the Data Science Bowl 2018: cells under many microscopes, each nucleus outlined by hand.

Two layouts are known. :class:`DSB2018` reads the subset of fluorescence images that StarDist made of it, where one
file holds all nuclei of an image::

    dsb2018/
      train/ test/
        images/   X.tif: grey
        masks/    X.tif: 16-bit label maps, 0 = background, 1..n = nuclei

:class:`DSB2018Kaggle` reads the layout of the competition, with one file for each nucleus::

    stage1_train/X/images/X.png     RGBA
    stage1_train/X/masks/*.png      0 and 255

StarDist's subset was made from ``stage1_train``, so the same images are in both: train and test on one of them only.

Many images are crops of one field of view. Nothing in their names says which, so no split can keep a field together,
and scores on a part of them are somewhat optimistic.

Source: Caicedo et al., "Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl", Nature Methods
2019 (BBBC038v1); StarDist's subset: Schmidt et al., "Cell Detection with Star-Convex Polygons", MICCAI 2018.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from zlib import crc32

import torch
from torch import Tensor
from torch.utils.data import Dataset

from seglib.data.checks import LabelCounts, count_samples
from seglib.data.images import read_image, read_labels
from seglib.data.pairing import files_by_stem
from seglib.data.transforms import Resize, as_pair
from seglib.ops.masks import masks_to_boxes
from seglib.types import Category, Instances, Sample

CATEGORIES = (Category(0, "nucleus", True, (230, 159, 0)),)
"""The only class."""

SPLITS = ("train", "val", "trainval", "test")

_ENDINGS = (".tif", ".tiff", ".png")
_WHERE = "dsb2018.zip is at https://github.com/stardist/stardist/releases"
_WHERE_KAGGLE = "stage1_train.zip is at https://bbbc.broadinstitute.org/BBBC038"


class _Nuclei(Dataset[Sample]):
    """What both layouts share: an image has a name and a file, and its masks come from :meth:`_masks`."""

    categories: tuple[Category, ...] = CATEGORIES
    file_ids: tuple[int | None, ...] = (0,)
    void_id: int | None = None

    def __init__(
        self,
        images: dict[str, Path],
        size: tuple[int, int] | None,
        transform: Callable[[Sample], Sample] | None,
    ) -> None:
        self._images = images
        self.ids = tuple(images)
        self.size = None if size is None else as_pair(size)
        self._resize = None if size is None else Resize(as_pair(size))
        self._transform = transform

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        name = self.ids[index]
        image = read_image(self._images[name], upright=False)  # (3, H, W)
        masks = self._masks(name, (image.shape[1], image.shape[2]))  # (N, H, W)
        labels = torch.zeros(len(masks), dtype=torch.int64)  # (N,)
        sample = Sample(image, name, instances=Instances(masks, labels, masks_to_boxes(masks)))
        if self._resize is not None:
            sample = self._resize(sample)
        return sample if self._transform is None else self._transform(sample)

    def count_labels(self, needs: str, indices: Sequence[int]) -> LabelCounts:
        """What :func:`seglib.data.checks.count_labels` asks for, without reading images."""
        if needs != "instances":
            return count_samples((self[i] for i in indices), needs, len(self.categories), len(self))
        nuclei = [self._count(self.ids[i]) for i in indices]
        most = max(nuclei, default=0)
        return LabelCounts(needs, (sum(nuclei),), images_seen=len(indices), images=len(self), most_objects=most)

    def _count(self, name: str) -> int:
        """The number of nuclei of one image."""
        raise NotImplementedError

    def _masks(self, name: str, size: tuple[int, int]) -> Tensor:
        """The masks ``(N, H, W)`` of one image, each with a pixel, no pixel in two."""
        raise NotImplementedError


class DSB2018(_Nuclei):
    """One split of the nuclei as label maps, in StarDist's layout, ordered by name.

    There is no official list for validation. Here an image of the folder ``train`` is in ``val`` when the CRC-32 of
    its name is divisible by 6, and in ``train`` otherwise. So about a sixth is in ``val``, and an image stays on its
    side when others are added or removed. Images keep their sizes (256 x 256, 360 x 360 and others): give ``size``
    or a transform that crops to have batches of one size.

    Args:
        root: the folder that holds ``train`` and ``test``, or the one around it if that is called ``dsb2018``.
        split: "train", "val", "trainval" (both) or "test".
        size: ``(H, W)`` to resize to on reading: the image antialiased bilinear, the masks nearest.
        transform: applied to the sample last.

    Attributes:
        categories: the class table, :data:`CATEGORIES`.
        ids: the names of the images, in order.
        size: the ``(H, W)`` that all samples are resized to, or ``None`` where each has its own.
        file_ids: category id → id in results: 0 for the only class; the files number nuclei, not classes.
        void_id: ``None``; nothing is void.

    Raises:
        FileNotFoundError: when the folder of the split is missing.
        ValueError: for an unknown split, an image without its label map or the reverse, or a split without an image.
            When a sample is read: for an image and labels of different sizes.
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
        part = "test" if split == "test" else "train"
        folder = next((f for f in (Path(root) / part, Path(root) / "dsb2018" / part) if f.is_dir()), None)
        if folder is None:
            raise FileNotFoundError(f"found neither {root}/{part} nor {root}/dsb2018/{part}; {_WHERE}")
        images = files_by_stem(folder / "images", _ENDINGS)
        self._label_maps = files_by_stem(folder / "masks", _ENDINGS)
        if alone := sorted(images.keys() ^ self._label_maps.keys()):
            raise ValueError(
                f"{folder} has {alone[0]} in only one of images and masks ({len(alone)} such names); {_WHERE}"
            )
        if split in ("train", "val"):
            images = {name: path for name, path in images.items() if _in_val(name) == (split == "val")}
        if not images:
            raise ValueError(f"{folder} has too few images: none is in the split {split!r}; use 'trainval'")
        super().__init__(images, size, transform)

    def _masks(self, name: str, size: tuple[int, int]) -> Tensor:
        labels = read_labels(self._label_maps[name])  # (H, W), 0 = background
        _check_size(self._label_maps[name], tuple(labels.shape), size)
        nuclei = labels.unique()  # sorted; ids may have gaps
        return labels == nuclei[nuclei > 0, None, None]  # (N, H, W)

    def _count(self, name: str) -> int:
        return int(read_labels(self._label_maps[name]).unique().count_nonzero())


class DSB2018Kaggle(_Nuclei):
    """The nuclei in the layout of the competition.

    A few masks of the competition overlap by mistake, and some stand twice. A pixel that several masks claim goes to
    the smallest of them, which needs it most; among masks of one size, to the first by file name. A mask that has no
    pixel left is dropped. So every pixel has one owner, as in a label map.

    There is no official split: "val" is here what it is for :class:`DSB2018`, or ``ids`` says which images are taken.

    Args:
        root: the folder ``stage1_train``, or the one around it.
        split: "train", "val" or "trainval" (both).
        ids: the names of the images to take, in this order; ``None`` takes all, ordered by name.
        size: ``(H, W)`` to resize to on reading: the image antialiased bilinear, the masks nearest.
        transform: applied to the sample last.

    Attributes:
        categories: the class table, :data:`CATEGORIES`.
        ids: the names of the images, in order.
        size: the ``(H, W)`` that all samples are resized to, or ``None`` where each has its own.
        file_ids: category id → id in results: 0 for the only class; the files number nuclei, not classes.
        void_id: ``None``; nothing is void.

    Raises:
        FileNotFoundError: when there is no image below the root, or one has no file ``images/X.png``.
        ValueError: for ``ids`` that are unknown or none. When a sample is read: for an image and a mask of different
            sizes.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "trainval",
        *,
        ids: Sequence[str] | None = None,
        size: tuple[int, int] | None = None,
        transform: Callable[[Sample], Sample] | None = None,
    ) -> None:
        if split not in ("train", "val", "trainval"):
            raise ValueError(f"split {split!r} of stage1_train is unknown; choose train, val or trainval")
        inner = Path(root) / "stage1_train"
        self._root = inner if inner.is_dir() else Path(root)
        names = sorted(path.parent.name for path in self._root.glob("*/masks"))
        if not names:
            raise FileNotFoundError(f"found no image X with a folder X/masks in {self._root}; {_WHERE_KAGGLE}")
        if ids is not None:
            if not ids or not set(ids) <= set(names):
                wrong = sorted(set(ids) - set(names))[:5]
                raise ValueError(f"ids has {wrong or 'no name'}; choose some of the {len(names)} names in {self._root}")
            names = list(ids)
        if split != "trainval":
            names = [name for name in names if _in_val(name) == (split == "val")]
            if not names:
                raise ValueError(
                    f"{self._root} has too few images: their names decide what is in {split!r} (about one of six is"
                    " val), and none is; add images"
                )
        images = {name: self._root / name / "images" / f"{name}.png" for name in names}
        if missing := [str(path) for path in images.values() if not path.is_file()]:
            raise FileNotFoundError(
                f"{len(missing)} of {len(names)} images do not exist ({', '.join(missing[:5])}); {_WHERE_KAGGLE}"
            )
        super().__init__(images, size, transform)

    def _masks(self, name: str, size: tuple[int, int]) -> Tensor:
        stored = []
        for path in self._mask_files(name):
            stored.append(read_labels(path) > 0)  # (H, W)
            _check_size(path, tuple(stored[-1].shape), size)
        if not stored:
            return torch.zeros(0, *size, dtype=torch.bool)
        masks = torch.stack(stored)  # (N, H, W)
        order = masks.flatten(1).sum(1).argsort(stable=True)  # (N,) small ones first
        owner = masks[order].view(torch.uint8).argmax(0)  # (H, W) the first, so the smallest, that has the pixel
        masks[order] &= owner == torch.arange(len(masks))[:, None, None]
        return masks[masks.flatten(1).any(1)]

    def _count(self, name: str) -> int:
        return len(self._mask_files(name))

    def _mask_files(self, name: str) -> list[Path]:
        return sorted(p for p in (self._root / name / "masks").glob("*.png") if not p.name.startswith("."))


def _in_val(name: str) -> bool:
    return crc32(name.encode()) % 6 == 0


def _check_size(path: Path, stored: tuple[int, ...], image: tuple[int, int]) -> None:
    if stored != image:
        raise ValueError(
            f"{path} is {stored[0]} x {stored[1]} (H x W) and its image is {image[0]} x {image[1]}; export it at the"
            " size of the image"
        )
