"""The datasets that the command line knows by name, each with its splits and the augmentation that suits it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from seglib.data import camvid, scenes
from seglib.data.folders import SegmentationFolder
from seglib.data.transforms import train_transform
from seglib.types import Category, Sample, check_categories


class SegmentationDataset(Protocol):
    """A map-style dataset of samples with its class table."""

    categories: tuple[Category, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


Size = tuple[int, int]
Builder = Callable[[Path | None, str, Size | None, bool], SegmentationDataset]

SCENES_LENGTH = {"train": 2000, "val": 200, "test": 200}


def _scenes(root: Path | None, split: str, size: Size | None, augment: bool) -> SegmentationDataset:
    size = size or (128, 128)
    # scenes vary in scale by themselves, so the crop only jitters it
    transform = train_transform(size, scale=(0.8, 1.25), color=0.2, keep=("semantic",)) if augment else None
    return scenes.Scenes(SCENES_LENGTH[split], split=split, size=size, transform=transform)


def _camvid(root: Path | None, split: str, size: Size | None, augment: bool) -> SegmentationDataset:
    size = size or (360, 480)
    transform = train_transform(size, scale=(0.5, 2.0)) if augment else None
    return camvid.CamVid(_needed(root, "camvid"), split, size=size, transform=transform)


def _folder(root: Path | None, split: str, size: Size | None, augment: bool) -> SegmentationDataset:
    root = _needed(root, "folder")
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root} is no folder; pass --root with one that holds categories.json, train, val, test"
        )
    table = read_categories(root / "categories.json")
    if augment and size is None:
        raise ValueError("training on your own folder needs --size HEIGHTxWIDTH: batches are crops of one size")
    transform = train_transform(size) if augment and size else None
    return SegmentationFolder(root / split / "images", root / split / "labels", table, size=size, transform=transform)


DATASETS: dict[str, Builder] = {"scenes": _scenes, "camvid": _camvid, "folder": _folder}


def build_dataset(
    name: str, root: Path | None, split: str, *, size: Size | None = None, augment: bool = False
) -> SegmentationDataset:
    """One split of a dataset by name.

    Args:
        name: "scenes" (made, no download), "camvid", or "folder": ``root/{split}/{images,labels}`` with
            ``root/categories.json``.
        root: the dataset's folder; "scenes" needs none.
        split: "train", "val" or "test".
        size: (height, width) that images are resized to; the dataset's own default when ``None``.
        augment: whether to add the random crops, flips and colours of training.

    Raises:
        ValueError: for an unknown name or split, a missing root, or a folder that isn't laid out as it should be.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset {name!r} is unknown; choose one of {', '.join(DATASETS)}")
    if split not in SCENES_LENGTH:
        raise ValueError(f"split {split!r} is unknown; choose one of {', '.join(SCENES_LENGTH)}")
    return DATASETS[name](root, split, size, augment)


def read_categories(path: Path) -> tuple[Category, ...]:
    """The class table of ``categories.json``: a list of ``{"name", "isthing", "color": [r, g, b]}`` in id order.

    Raises:
        ValueError: when the file is missing or isn't such a list.
    """
    if not path.exists():
        raise ValueError(
            f'{path} is missing; write a list like [{{"name": "cell", "isthing": true, "color": [230, 159, 0]}}]'
        )
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or not even text
        raise ValueError(f"{path} is no JSON file ({error}); write a list of categories") from error
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path} must be a list of categories with name, isthing and color, got {rows!r:.60}")
    try:
        return check_categories([_category(i, row) for i, row in enumerate(rows)])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _category(index: int, row: Any) -> Category:
    match row:
        case {"name": str(name), "isthing": bool(isthing), "color": [int(r), int(g), int(b)]}:
            if min(r, g, b) >= 0 and max(r, g, b) <= 255:
                return Category(index, name, isthing, (r, g, b))
    raise ValueError(
        f"category {index} is {row!r:.120}; expected a name, isthing as true or false, and a color of three numbers "
        "in 0..255"
    )


def _needed(root: Path | None, name: str) -> Path:
    if root is None:
        raise ValueError(f"dataset {name!r} lies in a folder: pass --root FOLDER")
    return root
