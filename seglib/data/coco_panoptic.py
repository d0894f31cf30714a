"""Panoptic maps in COCO's format: one JSON file, a folder of PNGs whose colours are segment ids, a folder of images.

::

    {"images":      [{"id": 139, "file_name": "000000000139.jpg", "height": 426, "width": 640}, …],
     "categories":  [{"id": 1, "name": "person", "isthing": 1}, …, {"id": 200, "name": "rug-merged", "isthing": 0}],
     "annotations": [{"image_id": 139, "file_name": "000000000139.png",
                      "segments_info": [{"id": 3226956, "category_id": 1, "iscrowd": 0}, …]}, …]}

Every image has one annotation. Its PNG has the colour (R, G, B) where the segment is ``id = R + 256 G + 256² B``, and
black where it is void. ``iscrowd`` 1 marks a segment of many objects; without the key it is 0. A ``score`` of a
predicted segment and a ``color`` of a category are read where they are. Areas and boxes in the file are not read: they
are measured on the map, as everywhere in seglib.

Source: Kirillov et al., "Panoptic Segmentation", CVPR 2019; https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from seglib.data.checks import LabelCounts, count_samples
from seglib.data.coco_file import (
    IMAGE_KEYS,
    CocoImages,
    Row,
    check_files_exist,
    check_keys,
    find_category,
    find_owner,
    image_entries,
    is_crowd,
    read_coco,
    unique_ids,
)
from seglib.data.images import read_id_colors, write_png
from seglib.data.voc import voc_color
from seglib.files import atomic_path
from seglib.ops.panoptic import (
    MAX_ID,
    check_panoptic,
    drop_segments,
    ids_to_rgb,
    panoptic_to_instances,
    panoptic_to_semantic,
    rgb_to_ids,
    segment_areas,
    segment_boxes,
)
from seglib.types import Category, Panoptic, Sample, Segment, check_categories

_KEYS: dict[str, Row] = {
    "images": IMAGE_KEYS,
    "categories": {"id": int, "name": str, "isthing": int},
    "annotations": {"image_id": int, "file_name": str, "segments_info": list},
}


class CocoPanoptic(CocoImages):
    """Images with their panoptic maps from a COCO panoptic file, in the order of its ``images``.

    A sample has the panoptic map, with the segment ids of the file, and the semantic map and instances that follow from
    it. ``id`` of a sample is COCO's image id as text.

    The file is read and checked once; PNGs are read with their samples. What is kept in memory is about 400 bytes an
    image, in one block that the workers of a ``DataLoader`` share.

    Args:
        annotations: the JSON file, for example ``annotations/panoptic_val2017.json``.
        pngs: the folder of its PNGs, for example ``annotations/panoptic_val2017``.
        images: the folder in which the ``file_name`` of its images are, for example ``val2017``.
        crowds: whether to keep the segments with ``iscrowd`` 1. The evaluation needs them, because a segment inside a
            crowd is no mistake; for training they become void.
        upright: ``True`` applies the EXIF orientation of photos, for annotations that were drawn on them upright.
        size: ``(H, W)`` to resize to on reading: the image antialiased bilinear, the maps nearest.
        transform: applied to the sample last.

    Attributes:
        categories: the class table: the things in the order of the file's ids, then the stuff in that order, with
            contiguous ids from 0. Colours are those of the file, or Pascal VOC's where it has none.
        image_ids: COCO's id of each image, in order.
        file_ids: category id → COCO's id: for writing results.
        void_id: 0, as in COCO's semantic PNGs; ``None`` if that is the id of a category.
        size: the ``(H, W)`` that all samples are resized to, or ``None`` where each has its own.

    Raises:
        FileNotFoundError: at once, when the JSON file, an image or a PNG is missing.
        ValueError: at once, when the file isn't in COCO's format (the message names the entry), has no image, or an
            image has no annotation or two. When a sample is read: for an image or PNG of another size than the file
            says, a PNG that isn't RGB, a colour whose id no segment has, and a segment without a pixel.
    """

    def __init__(
        self,
        annotations: str | os.PathLike[str],
        pngs: str | os.PathLike[str],
        images: str | os.PathLike[str],
        *,
        crowds: bool = True,
        upright: bool = False,
        size: tuple[int, int] | None = None,
        transform: Callable[[Sample], Sample] | None = None,
    ) -> None:
        path, self._pngs = Path(annotations), Path(pngs)
        content = read_coco(path, _KEYS, "panoptic")
        try:
            rows = _things_first(unique_ids(content["categories"], "category"))
            self.file_ids: tuple[int | None, ...] = tuple(row["id"] for row in rows)
            self.categories = check_categories(
                [Category(i, row["name"], bool(row["isthing"]), _color(row, i)) for i, row in enumerate(rows)]
            )
            entries = _index(content, {row["id"]: i for i, row in enumerate(rows)})
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if not entries:
            raise ValueError(f"{path} has no image")
        self.void_id: int | None = None if 0 in self.file_ids else 0
        self._crowds = crowds
        super().__init__(path, images, entries, upright=upright, size=size, transform=transform)
        check_files_exist(path, self._pngs, [e["png"] for e in entries], "PNGs")

    @property
    def file_names(self) -> tuple[str, ...]:
        """The ``file_name`` of each image, in order: for writing results."""
        return tuple(self._entries[i]["file_name"] for i in range(len(self)))

    def annotations(self, entry: Row) -> dict[str, Any]:
        """The panoptic map of an image, its semantic map and its objects."""
        panoptic = self._read(entry)
        if not self._crowds:
            panoptic = drop_segments(panoptic, [s.id for s in panoptic.segments if s.iscrowd])
        return {
            "semantic": panoptic_to_semantic(panoptic),
            "instances": panoptic_to_instances(panoptic),
            "panoptic": panoptic,
        }

    def count_labels(self, needs: str, indices: Sequence[int]) -> LabelCounts:
        """What :func:`seglib.data.checks.count_labels` asks for, from the PNGs alone."""
        nothing = torch.zeros(3, 0, 0)  # the image is not looked at
        entries = (self._entries[i] for i in indices)
        samples = (Sample(nothing, str(e["id"]), **self._annotations(e)) for e in entries)
        return count_samples(samples, needs, len(self.categories), len(self))

    def _read(self, entry: Row) -> Panoptic:
        """The panoptic map as it is in the files, crowds included."""
        path = self._pngs / entry["png"]
        ids = rgb_to_ids(read_id_colors(path))  # (H, W)
        if tuple(ids.shape) != (entry["height"], entry["width"]):
            raise ValueError(
                f"{path} is {ids.shape[0]} x {ids.shape[1]} (H x W) and the image is"
                f" {entry['height']} x {entry['width']}; export it at the size of the image"
            )
        listed = [Segment(i, k, self.categories[k].isthing, 0, score, c) for i, k, c, score in entry["segments"]]
        try:
            areas = segment_areas(Panoptic(ids, listed)).tolist()
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        segments = [replace(s, area=area) for s, area in zip(listed, areas, strict=True)]
        if absent := [s.id for s in segments if s.area == 0]:
            raise ValueError(f"{path} has no pixel of segment {absent[0]}; remove it from segments_info")
        return Panoptic(ids, segments)


def coco_panoptic_annotation(
    panoptic: Panoptic, image_id: int | str, file_ids: Sequence[int | None], *, file_name: str | None = None
) -> tuple[dict[str, Any], Tensor]:
    """One panoptic prediction in COCO's format for results: its entry of ``annotations`` and the pixels of its PNG.

    Args:
        panoptic: the prediction at the size of the image, a map ``(H, W)``.
        image_id: the id of the image in the ground truth's file, written as it is.
        file_ids: category id → COCO's id: :attr:`CocoPanoptic.file_ids`. Segments of a class whose id is ``None``,
            which the ground truth's file doesn't have, become void.
        file_name: the name of the PNG; by default the id with leading zeros, ``000000000139.png``.

    Returns:
        A dict with ``image_id``, ``file_name`` and ``segments_info``: of each segment ``id``, ``category_id``,
        ``isthing``, ``iscrowd``, ``area`` in pixels, ``bbox`` as ``[x, y, width, height]`` in pixels, and ``score``
        where it has one. And uint8 ``(H, W, 3)`` for :func:`seglib.data.images.write_png`.

    Raises:
        ValueError: when the map and the segments contradict each other, as in
            :func:`seglib.ops.panoptic.check_panoptic`; the message names the image.
    """
    check_panoptic(panoptic, len(file_ids), f"image {image_id}")
    known = drop_segments(panoptic, [s.id for s in panoptic.segments if file_ids[s.category_id] is None])
    boxes = segment_boxes(known).int()
    boxes[:, 2:] -= boxes[:, :2]  # (S, 4) x, y, width, height
    segments_info = [
        {
            "id": s.id,
            "category_id": file_ids[s.category_id],
            "isthing": int(s.isthing),
            "iscrowd": int(s.iscrowd),
            "area": s.area,
            "bbox": box,
        }
        | ({} if s.score is None else {"score": s.score})
        for s, box in zip(known.segments, boxes.tolist(), strict=True)
    ]
    name = _file_name(image_id, ".png") if file_name is None else file_name
    return {"image_id": image_id, "file_name": name, "segments_info": segments_info}, ids_to_rgb(known.map)


def write_coco_panoptic(
    json_path: str | os.PathLike[str],
    png_folder: str | os.PathLike[str],
    predictions: Iterable[Panoptic],
    image_ids: Sequence[int | str],
    file_ids: Sequence[int | None],
    *,
    categories: Sequence[Category],
    file_names: Sequence[str] | None = None,
) -> None:
    """Write panoptic predictions as a COCO panoptic file, which panopticapi scores and :class:`CocoPanoptic` reads.

    The PNGs and the JSON file appear when all predictions are there, and none of them when one fails. Predictions are
    taken one by one, so a generator needs the memory of one.

    Args:
        json_path: the JSON file to write.
        png_folder: the folder to write the PNGs to, beside what it may hold.
        predictions: one for each image, at the size of the image.
        image_ids: the id of each image in the ground truth's file: :attr:`CocoPanoptic.image_ids`.
        file_ids: category id → COCO's id: :attr:`CocoPanoptic.file_ids`. Segments of a class whose id is ``None``
            become void.
        categories: the class table of the predictions, written with the ids of the file.
        file_names: the ``file_name`` of each image: :attr:`CocoPanoptic.file_names`. A PNG has the name of its image
            with another ending. By default the id with leading zeros, ``000000000139.jpg``.

    Raises:
        ValueError: when there are more or fewer ids or names than predictions, for an id or name that stands twice or
            leads out of the folder, for a table of another length than ``file_ids``, and when a prediction contradicts
            itself or the table (the message names the image).
    """
    if len(categories) != len(file_ids):
        raise ValueError(f"got {len(categories)} categories and {len(file_ids)} file_ids; pass one id for each class")
    names = [_file_name(i, ".jpg") for i in image_ids] if file_names is None else list(file_names)
    if len(names) != len(image_ids):
        raise ValueError(f"got {len(image_ids)} image ids and {len(names)} file names; pass one name for each image")
    pngs = [str(PurePosixPath(name).with_suffix(".png")) for name in names]
    for values in (image_ids, pngs):
        if repeated := [value for value, count in Counter(values).items() if count > 1]:
            raise ValueError(f"{repeated[0]} stands twice; give every image an id and a name of its own")
    if out := [png for png in pngs if PurePosixPath(png).is_absolute() or ".." in PurePosixPath(png).parts]:
        raise ValueError(f"{out[0]} leads out of {png_folder}; pass names inside the folder")
    things = sum(c.isthing for c in check_categories(categories, things_first=True))
    content: dict[str, list[Row]] = {
        "images": [],
        "categories": [
            {"id": file_id, "name": c.name, "isthing": int(c.isthing), "color": list(c.color)}
            for c, file_id in zip(categories, file_ids, strict=True)
            if file_id is not None
        ],
        "annotations": [],
    }
    folder = Path(png_folder)
    beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}")  # the same file system: files are renamed
    try:
        for n, found in enumerate(predictions):
            if n == len(image_ids):
                raise ValueError(f"got more predictions than the {n} image ids; pass one id for each")
            check_panoptic(found, len(categories), f"image {image_ids[n]}", num_things=things)
            annotation, pixels = coco_panoptic_annotation(found, image_ids[n], file_ids, file_name=pngs[n])
            write_png(beside / pngs[n], pixels.cpu())
            height, width = found.map.shape
            content["images"].append(
                {"id": image_ids[n], "file_name": names[n], "height": height, "width": width},
            )
            content["annotations"].append(annotation)
        if len(content["images"]) < len(image_ids):
            raise ValueError(
                f"got {len(content['images'])} predictions and {len(image_ids)} image ids; the first image without a"
                f" prediction is {image_ids[len(content['images'])]}: predict every image"
            )
        with atomic_path(json_path) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")
            for png in pngs:
                (folder / png).parent.mkdir(parents=True, exist_ok=True)
                os.replace(beside / png, folder / png)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _file_name(image_id: int | str, ending: str) -> str:
    """What COCO calls the file of an image: its id with leading zeros to twelve digits."""
    return (f"{image_id:012d}" if isinstance(image_id, int) else image_id) + ending


def _things_first(rows: list[Row]) -> list[Row]:
    """The categories in the order of the class table: the things by id, then the stuff by id."""
    if bad := [row for row in rows if row["isthing"] not in (0, 1)]:
        raise ValueError(f"category {bad[0]['id']} has isthing {bad[0]['isthing']}; it is 0 or 1")
    return sorted(rows, key=lambda row: (-row["isthing"], row["id"]))


def _color(row: Row, index: int) -> tuple[int, int, int]:
    """The colour of a category: that of the file, or VOC's of its place."""
    match row.get("color"):
        case None:
            return voc_color(index + 1)
        case [int(r), int(g), int(b)] if min(r, g, b) >= 0 and max(r, g, b) <= 255:
            return r, g, b
        case other:
            raise ValueError(f"category {row['id']} has color {other!r:.60}; it is three numbers in 0..255")


def _index(content: dict[str, list[Row]], labels: dict[int, int]) -> list[Row]:
    """For each image its row, its ``png`` and its ``segments``: (id, category id, iscrowd, score)."""
    entries = image_entries(content["images"])
    for n, row in enumerate(content["annotations"]):
        entry = find_owner(row, f"entry {n} of 'annotations'", entries)
        name = f"image {row['image_id']}"
        if "png" in entry:
            raise ValueError(f"{name} has two annotations, {entry['png']} and {row['file_name']}; remove one")
        entry["png"] = row["file_name"]
        try:
            check_keys(row["segments_info"], {"id": int, "category_id": int}, "segments_info")
            unique_ids(row["segments_info"], "segment")
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        entry["segments"] = [_segment(info, f"{name}: segment {info['id']}", labels) for info in row["segments_info"]]
    if without := [i for i, entry in entries.items() if "png" not in entry]:
        raise ValueError(f"image {without[0]} has no annotation; add it, or remove the image from 'images'")
    return list(entries.values())


def _segment(info: Row, name: str, labels: dict[int, int]) -> tuple[int, int, bool, float | None]:
    """The id, category id, crowd mark and score of a segment."""
    if not 1 <= info["id"] <= MAX_ID:
        raise ValueError(f"{name}: its id is not in 1..{MAX_ID}, which is what a colour can hold; number it anew")
    score = info.get("score")
    if score is not None and not (isinstance(score, int | float) and 0 <= score <= 1):
        raise ValueError(f"{name} has score {score!r:.60}; it is a number in [0, 1]")
    return info["id"], find_category(info, name, labels), is_crowd(info, name), score
