"""Objects in COCO's format: one JSON file with images, categories and annotations, and a folder of images.

This is the format of COCO itself and the one that most labelling tools export::

    {"images":      [{"id": 139, "file_name": "000000000139.jpg", "height": 426, "width": 640}, …],
     "categories":  [{"id": 1, "name": "person"}, …],
     "annotations": [{"id": 8, "image_id": 139, "category_id": 1, "iscrowd": 0, "segmentation": …}, …]}

A ``segmentation`` is a list of polygons ``[x1, y1, x2, y2, …]``, or a run-length code ``{"size": [H, W], "counts":
…}`` whose counts are a list of numbers or COCO's compressed string. An annotation with ``iscrowd`` 1 covers many
objects; without the key it is 0. Other keys are not read: boxes are measured on the masks, as everywhere in seglib.

Source: Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from unicodedata import normalize

import torch

from seglib.data.checks import LabelCounts, count_samples
from seglib.data.coco_file import (
    IMAGE_KEYS,
    CocoImages,
    Id,
    Row,
    check_files_exist,
    check_keys,
    find_category,
    find_owner,
    image_entries,
    is_crowd,
    other_spelling,
    read_coco,
    unique_ids,
)
from seglib.data.coco_tidy import (
    fill_sizes,
    find_files,
    made_for_upright,
    tidy_rows,
    used_categories,
)
from seglib.data.file_checks import depth_warnings, evenly, image_size, orientation_warnings
from seglib.data.voc import voc_color
from seglib.files import atomic_path
from seglib.ops.intensity import AS_IS, Intensity
from seglib.ops.masks import masks_to_boxes
from seglib.ops.rle import check_rles, decode_rle, encode_rle, polygons_to_rle
from seglib.types import Category, Instances, Sample, check_categories

_KEYS: dict[str, Row] = {
    "images": IMAGE_KEYS,
    "categories": {"id": int, "name": str},
    "annotations": {"image_id": Id, "category_id": int, "segmentation": list | dict},
}


_SKIP = ", or leave out what is wrong with --skip-bad (skip_bad=True in Python)"


class CocoInstances(CocoImages):
    """Images with their objects from a COCO instances file, in the order of its ``images``.

    The ids of COCO's categories have gaps (1..90 for 80 classes). Here they are contiguous from 0, in ascending order
    of the file's ids; all are things, in Pascal VOC's colours. ``id`` of a sample is COCO's image id as text.

    The file is read and checked once, and masks are drawn when a sample is read. What is kept in memory is about the
    size of the JSON file, in one block that the workers of a ``DataLoader`` share; reading it takes several times that.
    Annotations without a mask are left out: those without a segmentation, those whose polygons all have fewer than 3
    points (pycocotools would take four numbers for a box), and those whose mask has no pixel. What labelling tools
    write otherwise than COCO is put right where its meaning is certain, see :mod:`seglib.data.coco_tidy`.

    Args:
        annotations: the JSON file, for example ``annotations/instances_val2017.json``.
        images: the folder in which its ``file_name`` are.
        crowds: whether to keep the annotations with ``iscrowd`` 1. The evaluation needs them, because a detection
            inside a crowd is no mistake; training leaves them out.
        keep_empty: whether to keep images without an object; a crowd alone is none. Evaluation needs them too.
        skip_bad: whether to leave out what is wrong instead of refusing the file: images that are missing, damaged or
            of another size, and annotations that no mask can be drawn of. :meth:`file_warnings` names and counts them.
        part_of: chooses a part of the images: gets the ``file_name`` of each and returns the indices to keep.
        upright: ``True`` applies the EXIF orientation of photos, for annotations that were drawn on them upright;
            ``False`` leaves it out. ``None`` finds out: when a photo has the size that the file says only upright, all
            are read so.
        intensity: how the values of each image are scaled on reading.
        size: ``(H, W)`` to resize to on reading: the image antialiased bilinear, the masks nearest.
        transform: applied to the sample last.

    Attributes:
        categories: the class table.
        image_ids: COCO's id of each image, in order.
        file_ids: category id → COCO's id: for writing results.
        void_id: ``None``; this format has no void.
        size: the ``(H, W)`` that all samples are resized to, or ``None`` where each has its own.

    Raises:
        FileNotFoundError: at once, when the JSON file or an image is missing.
        ValueError: at once, when the file isn't in COCO's format (the message names the entry), has no image or only
            annotations without masks. When a sample is read: for an image of another size than the file says, or a
            malformed run-length code.
    """

    void_id: int | None = None

    def __init__(
        self,
        annotations: str | os.PathLike[str],
        images: str | os.PathLike[str],
        *,
        crowds: bool = True,
        keep_empty: bool = True,
        skip_bad: bool = False,
        part_of: Callable[[list[str]], Sequence[int]] | None = None,
        upright: bool | None = None,
        intensity: Intensity = AS_IS,
        size: tuple[int, int] | None = None,
        transform: Callable[[Sample], Sample] | None = None,
    ) -> None:
        path, folder = Path(annotations), Path(images)
        content = read_coco(path, {"images": {}, "categories": {}, "annotations": {}}, "instances")
        try:
            tidy_rows(content)
            for part, keys in _KEYS.items():
                check_keys(content[part], {k: v for k, v in keys.items() if k not in ("height", "width")}, part)
            self._left_out: list[str] = []  # one line for each image or annotation
            if missing := find_files(content["images"], folder):
                if not skip_bad:
                    check_files_exist(path, folder, [row["file_name"] for row in content["images"]], "images", _SKIP)
                self._left_out += [f"image {row['id']} ({row['file_name']}) is not in {folder}" for row in missing]
            gone = {id(row) for row in missing}
            rows = [row for row in content["images"] if id(row) not in gone]
            self._finds_out = upright is None
            upright = made_for_upright(rows, folder) if upright is None else upright
            fill_sizes(rows, folder, upright)
            check_keys(rows, IMAGE_KEYS, "images")
            names = used_categories(unique_ids(content["categories"], "category"), content["annotations"])
            table = {row["id"]: row["name"] for row in names}
            self.file_ids: tuple[int | None, ...] = tuple(sorted(table))
            labels = {stored: i for i, stored in enumerate(sorted(table))}  # COCO's id → category id
            self.categories = check_categories(
                [Category(i, table[stored], True, voc_color(i + 1)) for stored, i in labels.items()]
            )
            entries = self._index(image_entries(rows), content, labels, missing, upright, folder if skip_bad else None)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if part_of is not None:
            entries = [entries[i] for i in part_of([e["file_name"] for e in entries])]
        self._tally = _Tally.of(entries)
        for entry in entries:
            del entry["without_mask"]
            if not crowds:
                entry["objects"] = [o for o in entry["objects"] if not o[1]]
        if not keep_empty:
            entries = [e for e in entries if any(not crowd for _, crowd, _ in e["objects"])]
        if not entries:
            raise ValueError(
                f"{path} has no image{'' if keep_empty else ' with an object; pass keep_empty=True to see all'}"
            )
        super().__init__(path, images, entries, upright=upright, intensity=intensity, size=size, transform=transform)

    def _index(
        self,
        entries: dict[Id, Row],
        content: dict[str, list[Row]],
        labels: dict[int, int],
        missing: list[Row],
        upright: bool,
        check: Path | None,
    ) -> list[Row]:
        """For each image its row, ``objects``: (category id, iscrowd, segmentation) of all that have a mask, and the
        number of annotations ``without_mask``.

        With ``check``, the folder of the images, everything is tried that would fail later, and what fails is left out.
        """
        gone = {row["id"] for row in missing} | {other_spelling(row["id"]) for row in missing}
        if check is not None:
            for image_id, entry in list(entries.items()):
                try:
                    found = image_size(check / entry["file_name"], upright)
                    if found != (entry["height"], entry["width"]):
                        raise ValueError(
                            f"is {found[0]} x {found[1]} (H x W), not {entry['height']} x {entry['width']}"
                        )
                except ValueError as error:
                    self._left_out.append(f"image {image_id} ({entry['file_name']}): {error}")
                    gone |= {image_id, other_spelling(image_id)}
                    del entries[image_id]
        for entry in entries.values():
            entry |= {"objects": [], "without_mask": 0}
        for n, row in enumerate(content["annotations"]):
            name = f"annotation {row['id']}" if "id" in row else f"entry {n} of 'annotations'"
            if row["image_id"] in gone:
                continue
            try:
                entry = find_owner(row, name, entries)
                category, crowd = find_category(row, name, labels), is_crowd(row, name)
                segmentation = _checked(row["segmentation"], entry["height"], entry["width"], name)
                if check is not None and isinstance(segmentation, dict):
                    check_rles([segmentation])
            except ValueError as error:
                if check is None:
                    raise ValueError(f"{error}{_SKIP}") from error
                self._left_out.append(str(error) if name in str(error) else f"{name}: {error}")
                continue
            if segmentation is None:
                entry["without_mask"] += 1
            else:
                entry["objects"].append((category, crowd, segmentation))
        if check is None:
            _check_codes(entries)
        drawn = sum(len(e["objects"]) for e in entries.values())
        if not drawn and any(e["without_mask"] for e in entries.values()):
            raise ValueError(
                "no annotation has a mask; this format needs polygons or run-length codes, not boxes alone"
            )
        return list(entries.values())

    def file_warnings(self) -> list[str]:
        """What was left out, 12 bits in files of 16, and photos for which both orientations are possible.

        Raises:
            ValueError: for an image of another size than the file says, of at most 1000 that are opened.
        """
        for index in evenly(range(len(self)), 1000):
            entry = self._entries[index]
            self._check_size(entry, image_size(self._folder / entry["file_name"], self._upright))
        warnings = self.left_out_warnings()
        paths = [self._folder / self._entries[i]["file_name"] for i in evenly(range(len(self)), 200)]
        if self._intensity == AS_IS:
            warnings += depth_warnings(paths)
        if self._finds_out:
            asked, other = ("upright", "--stored-orientation") if self._upright else ("as they are stored", "--upright")
            warnings += orientation_warnings(paths, asked, other)
        return warnings

    def left_out_warnings(self) -> list[str]:
        """What ``skip_bad`` left out, as one warning: the number, and the first few by name."""
        if not self._left_out:
            return []
        more = f" and {len(self._left_out) - 5} more" if len(self._left_out) > 5 else ""
        return [f"left out {len(self._left_out)}: {'; '.join(self._left_out[:5])}{more}"]

    def annotations(self, entry: Row) -> dict[str, Any]:
        """The objects of an image."""
        return {"instances": _instances(entry["objects"], (entry["height"], entry["width"]))}

    def count_labels(self, needs: str, indices: Sequence[int]) -> LabelCounts:
        """What :func:`seglib.data.checks.count_labels` asks for: the objects of the whole file, not only at indices."""
        if needs != "instances":
            return count_samples((self[i] for i in indices), needs, len(self.categories), len(self))
        tally = self._tally
        return LabelCounts(
            needs,
            classes=tuple(tally.objects[c.id] for c in self.categories),
            images_seen=len(self),
            images=len(self),
            crowds=tally.crowds,
            without_mask=tally.without_mask,
            most_objects=tally.most,
        )


def coco_results(
    predictions: Sequence[Instances], image_ids: Sequence[int | str], file_ids: Sequence[int | None]
) -> list[dict[str, Any]]:
    """Predictions in COCO's format for results, which its evaluation server and ``COCO.loadRes`` take.

    Args:
        predictions: one for each image, with scores, at the size of the image.
        image_ids: the id of each image in the ground truth's file, from :attr:`CocoInstances.image_ids` or
            :func:`read_image_ids`. They are written as they are.
        file_ids: category id → COCO's id: :attr:`CocoInstances.file_ids`. Objects of a class whose id is ``None``,
            which the ground truth's file doesn't have, are left out.

    Returns:
        One dict for each object, with ``image_id``, ``category_id``, ``bbox`` as ``[x, y, width, height]`` in pixels,
        ``score`` in [0, 1], ``segmentation`` as compressed RLE.

    Raises:
        ValueError: when there are more or fewer ids than predictions, when predictions have no scores, or when a label
            is not in the table.
    """
    if len(predictions) != len(image_ids):
        raise ValueError(f"got {len(predictions)} predictions and {len(image_ids)} image ids; pass one id for each")
    results: list[dict[str, Any]] = []
    for image_id, found in zip(image_ids, predictions, strict=True):
        if found.scores is None:
            raise ValueError(f"the predictions for image {image_id} have no scores; results need one for each object")
        if bad := [k for k in found.labels.tolist() if not 0 <= k < len(file_ids)]:
            raise ValueError(
                f"label {bad[0]} in image {image_id} is not in 0..{len(file_ids) - 1}; pass the file_ids of the data"
                " set that the model was trained on"
            )
        boxes = torch.cat([found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]], 1)  # (N, 4) xywh
        parts = (found.labels.tolist(), boxes.tolist(), found.scores.tolist(), encode_rle(found.masks))
        results += [
            {
                "image_id": image_id,
                "category_id": file_ids[k],
                "bbox": box,
                "score": score,
                "segmentation": rle,
            }
            for k, box, score, rle in zip(*parts, strict=True)
            if file_ids[k] is not None
        ]
    return results


def write_coco_results(path: str | os.PathLike[str], results: list[dict[str, Any]]) -> None:
    """Write what :func:`coco_results` returns as JSON. The file appears whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(results), encoding="utf-8")


class ImageIds:
    """The image ids of a COCO file, found by path; :func:`read_image_ids` reads them.

    Args:
        file_names: the ``file_name`` of each image → its id.
    """

    def __init__(self, file_names: dict[str, Id]) -> None:
        self._owners: dict[str, dict[str, Id]] = {}  # a tail of file_name → the file_names that end in it, with ids
        for name, image_id in file_names.items():
            for tail in _tails(name):
                self._owners.setdefault(tail, {})[name] = image_id

    def __getitem__(self, path: str | os.PathLike[str]) -> Id:
        """The id of the image whose ``file_name`` and this path end alike: in ``a/1.png``, else in ``1.png``.

        Raises:
            ValueError: when no image has this name, or when several have.
        """
        tail = next((tail for tail in _tails(os.fspath(path)) if tail in self._owners), None)
        if tail is None:
            raise ValueError(f"{path} is none of the images of the file of ids; pass the file that lists it")
        owners = self._owners[tail]
        if len(owners) > 1 and tail not in owners:
            names = ", ".join(list(owners)[:3])
            raise ValueError(
                f"{path} could be any of {len(owners)} images of the file of ids ({names}); pass a path that ends in"
                " one of these"
            )
        return owners[tail] if tail in owners else next(iter(owners.values()))


def read_image_ids(path: str | os.PathLike[str]) -> ImageIds:
    """The image ids of a COCO file, by which results are scored: ``read_image_ids("val.json")["images/street.png"]``.

    Args:
        path: a JSON file with the list ``images``; annotations are not needed.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file has no list of images with ``id`` and ``file_name``, or one of them stands twice.
    """
    content = read_coco(Path(path), {"images": {"id": Id, "file_name": str}}, "instances")
    file_names: dict[str, Id] = {}
    try:
        for row in unique_ids(content["images"], "image"):
            if row["file_name"] in file_names:
                raise ValueError(f"file_name {row['file_name']!r} stands twice; give every image its own")
            file_names[row["file_name"]] = row["id"]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return ImageIds(file_names)


def _tails(path: str) -> list[str]:
    """The path without its first parts, longest first: a/b/c, b/c, c."""
    parts = PurePosixPath(normalize("NFC", path.replace("\\", "/"))).parts
    return ["/".join(parts[i:]) for i in range(len(parts))]


@dataclass(frozen=True)
class _Tally:
    """The annotations of images: objects with a mask by category id, crowds, those without a mask, most in an image."""

    objects: Counter[int]
    crowds: int
    without_mask: int
    most: int

    @classmethod
    def of(cls, entries: list[Row]) -> _Tally:
        """What the entries hold."""
        objects = [[category for category, crowd, _ in e["objects"] if not crowd] for e in entries]
        crowds = sum(crowd for e in entries for _, crowd, _ in e["objects"])
        without = sum(e["without_mask"] for e in entries)
        return cls(Counter(k for found in objects for k in found), crowds, without, max(map(len, objects), default=0))


def _checked(segmentation: Any, height: int, width: int, name: str) -> list[list[float]] | dict[str, Any] | None:
    """The segmentation without polygons of fewer than 3 points; ``None`` when nothing is left."""
    if isinstance(segmentation, list):
        for polygon in segmentation:
            try:
                total = sum(polygon)
            except TypeError:
                raise ValueError(
                    f"{name}: a polygon is {polygon!r:.60}; write a flat list of numbers, [[x1, y1, x2, y2, …], …]"
                ) from None
            if not math.isfinite(total):
                raise ValueError(f"{name}: a polygon has a coordinate that is no finite number; correct or remove it")
            if len(polygon) % 2:
                raise ValueError(f"{name}: a polygon has {len(polygon)} numbers; every point needs x and y")
        return [polygon for polygon in segmentation if len(polygon) >= 6] or None
    if segmentation.get("size") != [height, width]:
        raise ValueError(
            f"{name}: its run-length code has the size {segmentation.get('size')!r:.60} and its image is"
            f" {[height, width]}; encode the mask again at the size of the image"
        )
    return segmentation


def _check_codes(entries: Mapping[Any, Row]) -> None:
    """Raise for a run-length code that doesn't cover its image: before training, not when it is read."""
    owners = [e for e in entries.values() for _, _, shape in e["objects"] if isinstance(shape, dict)]
    codes = [shape for e in entries.values() for _, _, shape in e["objects"] if isinstance(shape, dict)]
    try:
        check_rles(codes, sizes=[(e["height"], e["width"]) for e in owners])
    except ValueError:
        for entry, code in zip(owners, codes, strict=True):
            try:
                check_rles([code])
            except ValueError as error:
                raise ValueError(f"image {entry['id']}: {error}{_SKIP}") from error
        raise


def _instances(objects: list[tuple[int, bool, Any]], size: tuple[int, int]) -> Instances:
    """The masks drawn, without those that have no pixel."""
    rles = [polygons_to_rle(s, *size) if isinstance(s, list) else s for _, _, s in objects]
    masks = decode_rle(rles, size)  # (N, H, W)
    labels = torch.tensor([category for category, _, _ in objects], dtype=torch.int64)  # (N,)
    iscrowd = torch.tensor([crowd for _, crowd, _ in objects], dtype=torch.bool)  # (N,)
    instances = Instances(masks, labels, masks_to_boxes(masks), iscrowd=iscrowd)
    return instances[instances.boxes[:, 2] > 0]
