"""Where a COCO file and its images lie: COCO's own folders, Roboflow's and CVAT's exports, or a file that is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from seglib.data.coco_tidy import find_files
from seglib.data.pairing import NAMES_OF, hold_out, some
from seglib.files import read_json

Part = Callable[[list[str]], Sequence[int]]


@dataclass(frozen=True)
class CocoPlace:
    """A COCO file, the folder that its ``file_name`` start from, and which of its images are taken: ``None`` is all."""

    annotations: Path
    images: Path
    part: Part | None = None


def find_coco(root: Path, split: str, val_share: float | None = None) -> CocoPlace:
    """The COCO file of a split in a folder.

    ====================  ==========================================  ===============================
    COCO                  ``annotations/instances_train2017.json``    ``train2017``
    Roboflow              ``train/_annotations.coco.json``            ``train``, beside it
    CVAT with subsets     ``annotations/instances_train.json``        ``images/train`` or ``images``
    CVAT, one file        ``annotations/instances_default.json``      ``images/default`` or ``images``
    ====================  ==========================================  ===============================

    "val" may be called ``valid``. A single file is divided by ``val_share``.

    Args:
        root: the folder.
        split: "train", "val" or "test".
        val_share: share of the training images that are "val" instead, where there is no file of val.

    Raises:
        FileNotFoundError: when there is no such file; the message says what is there.
        ValueError: when ``val_share`` is given although there is a file of val.
    """
    if val_share is not None and split != "test":
        if (val := file_of_split(root, "val")) is not None:
            raise ValueError(f"--val-share has no use: {val} is there for validation; leave it out")
        file = file_of_split(root, "train") or _single_file(root)
        if file is None:
            raise _nothing_found(root, split)
        return place_of(file, None, val_share=val_share, split=split)
    if (file := file_of_split(root, split)) is not None:
        return place_of(file, None)
    if split in ("train", "val") and (file := file_of_split(root, "train") or _single_file(root)) is not None:
        raise FileNotFoundError(
            f"{root} has {file.relative_to(root)} and no file of {split}; pass --val-share 0.2 to hold out a fifth of"
            " its images for validation"
        )
    raise _nothing_found(root, split)


def file_of_split(root: Path, split: str) -> Path | None:
    """The COCO file of a split in a folder; ``None`` where there is none."""
    names = NAMES_OF.get(split, (split,))
    candidates = [root / "annotations" / f"instances_{split}2017.json"]
    candidates += [root / name / "_annotations.coco.json" for name in names]
    candidates += [root / "annotations" / f"{start}{name}.json" for name in names for start in ("instances_", "")]
    return next((path for path in candidates if path.is_file()), None)


def place_of(file: Path, images: Path | None, *, val_share: float | None = None, split: str = "train") -> CocoPlace:
    """A named COCO file with its images.

    Args:
        file: the JSON file.
        images: the folder that its ``file_name`` start from; ``None`` tries those around the file.
        val_share: share of its images that are "val" and not "train".
        split: "train" or "val", which of the two is taken.
    """
    if file.parent.name.endswith("2017") or file.name.endswith("2017.json"):  # COCO's own, too large to read twice
        own = file.parent.parent / file.stem.rpartition("_")[2]
        images = images or (own if own.is_dir() else None)
    part = None if val_share is None else partial(_part, val_share, split)
    return CocoPlace(file, _images_of(file) if images is None else images, part)


def _part(share: float, split: str, names: list[str]) -> list[int]:
    return hold_out(range(len(names)), names, share, split)


def _single_file(root: Path) -> Path | None:
    """The only file of a data set that has no splits."""
    names = ("annotations/instances_default.json", "_annotations.coco.json", "annotations.json", "result.json")
    return next((root / name for name in names if (root / name).is_file()), None)


def _images_of(file: Path) -> Path:
    """The folder around a file that most of its first images are in."""
    root = file.parent.parent if file.parent.name == "annotations" else file.parent
    subset = file.stem.removeprefix("instances_")
    around = [root / "images" / subset, root / "images", root / subset, file.parent, root]
    content = read_json(file) if file.is_file() else {}
    images = content.get("images") if isinstance(content, dict) else None
    rows = images[:50] if isinstance(images, list) else []
    rows = [dict(row) for row in rows if isinstance(row, dict) and isinstance(row.get("file_name"), str)]
    there = [folder for folder in around if folder.is_dir()]
    return min(there, key=lambda folder: len(find_files([dict(row) for row in rows], folder)), default=file.parent)


def _nothing_found(root: Path, split: str) -> FileNotFoundError:
    seen = some(sorted(p.name for p in root.iterdir() if not p.name.startswith("."))) if root.is_dir() else "nothing"
    return FileNotFoundError(
        f"found neither annotations/instances_{split}2017.json nor {split}/_annotations.coco.json in {root}, which has"
        f" {seen or 'nothing'}; pass the file with --annotations FILE, and its folder of images with --images"
    )
