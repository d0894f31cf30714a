"""Scores from COCO's JSON files: the ground truth as annotators left it, the results as one hands them in."""

from __future__ import annotations

import json
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

from seglib.metrics.ap import AveragePrecision
from seglib.metrics.ap_scores import APScores
from seglib.metrics.coco_objects import CocoObjects, IoUType
from seglib.ops.rle import compress_rles, polygons_to_rle

Source = str | PathLike[str]
Entry = dict[str, Any]


def evaluate_coco(
    ground_truth: Source | dict[str, Any], results: Source | list[dict[str, Any]], iou_type: IoUType = "masks"
) -> APScores:
    """COCO's average precision of a results file.

    The numbers are pycocotools'. Three things that it lets pass differ on purpose: the area of a detected mask is the
    mask's even when the entry has a ``bbox`` too; an object whose annotation ``id`` is 0 can be found like any other;
    and what can't be scored raises.

    Args:
        ground_truth: an instances file (``images``, ``categories``, ``annotations``), or its contents. Segmentations
            may be polygons or run-length codes, packed or not; category ids may have gaps.
        results: a results file, or its contents: a list of ``{"image_id", "category_id", "score"}`` with
            ``"segmentation"`` for masks or ``"bbox": [x, y, width, height]`` for boxes. It may be empty.
        iou_type: ``"masks"`` (pycocotools' ``"segm"``) or ``"boxes"`` (its ``"bbox"``): whose overlaps are computed.

    Returns:
        The scores. Class k is the k-th category by ascending id.

    Raises:
        ValueError: for an entry that is malformed or names an unknown image or category, a number that isn't finite,
            or a code of another size than its image. The message names the entry.
        ImportError: for masks, when pycocotools isn't installed.
    """
    truth, found = _read(ground_truth), _read(results)
    if not isinstance(truth, dict) or not all(
        isinstance(truth.get(name), list) for name in ("images", "categories", "annotations")
    ):
        raise ValueError("the ground truth has the lists images, categories and annotations; pass an instances file")
    if not isinstance(found, list):
        raise ValueError(f"results are a list with one entry per detection, got {type(found).__name__}")
    images = _by_id(truth["images"], "images")
    classes = {c: k for k, c in enumerate(sorted(_by_id(truth["categories"], "categories")))}
    metric = AveragePrecision(len(classes), iou_type)
    annotations = _by_image(truth["annotations"], "annotations", images, classes)
    detections = _by_image(found, "results", images, classes)

    def target(entries: list[Entry], size: tuple[int, int]) -> CocoObjects:
        labels, areas = [classes[e["category_id"]] for e in entries], [e["area"] for e in entries]
        crowd = [bool(e.get("iscrowd")) for e in entries]
        return CocoObjects(_masks_or_boxes(entries, iou_type, size), labels, iscrowd=crowd, areas=areas)

    def prediction(entries: list[Entry], size: tuple[int, int]) -> CocoObjects:
        labels, scores = [classes[e["category_id"]] for e in entries], [e["score"] for e in entries]
        return CocoObjects(_masks_or_boxes(entries, iou_type, size), labels, scores)

    for image_id in sorted(images):
        size = _size(images[image_id]) if iou_type == "masks" else (0, 0)
        sides = (
            _build(prediction, "results", found, detections[image_id], size),
            _build(target, "annotations", truth["annotations"], annotations[image_id], size),
        )
        metric.update_coco(*sides, image_id=image_id)
    return metric.compute()


def _read(source: Source | Any) -> Any:
    if isinstance(source, str | PathLike):
        return json.loads(Path(source).read_text(encoding="utf-8"))
    return source


def _by_id(rows: list[Entry], name: str) -> dict[int, Entry]:
    """The rows of a table by their ids."""
    table: dict[int, Entry] = {}
    for i, row in enumerate(rows):
        row_id = row.get("id") if isinstance(row, dict) else None
        if not isinstance(row_id, int) or row_id in table:
            raise ValueError(f"{name}[{i}] has id {row_id!r}; every one needs an integer id of its own")
        table[row_id] = row
    return table


def _by_image(
    entries: list[Entry], name: str, images: dict[int, Entry], classes: dict[int, int]
) -> dict[int, list[int]]:
    """The numbers of the entries of every image, after a check that both their ids are known."""
    numbers: dict[int, list[int]] = {image_id: [] for image_id in images}
    for i, entry in enumerate(entries):
        try:
            numbers[entry["image_id"]].append(i)
            classes[entry["category_id"]]
        except (KeyError, TypeError):
            known: tuple[tuple[str, dict[int, Any]], ...] = (("image_id", images), ("category_id", classes))
            for key, ids in known:
                value = entry.get(key) if isinstance(entry, dict) else None
                if not isinstance(value, int) or value not in ids:
                    raise ValueError(
                        f"{name}[{i}] has {key} {value!r}, which the ground truth's file doesn't list; drop the entry "
                        "or pass the file that it belongs to"
                    ) from None
    return numbers


def _size(image: Entry) -> tuple[int, int]:
    height, width = image.get("height"), image.get("width")
    if not (isinstance(height, int) and isinstance(width, int)):
        raise ValueError(f"image {image['id']} has height {height!r} and width {width!r}; masks need both in pixels")
    return height, width


def _masks_or_boxes(entries: list[Entry], iou_type: IoUType, size: tuple[int, int]) -> list[Any]:
    if iou_type == "boxes":
        return [entry["bbox"] for entry in entries]
    segmentations = [entry["segmentation"] for entry in entries]
    return compress_rles([polygons_to_rle(s, *size) if isinstance(s, list) else s for s in segmentations], size)


def _build(
    make: Callable[[list[Entry], tuple[int, int]], CocoObjects],
    name: str,
    entries: list[Entry],
    numbers: list[int],
    size: tuple[int, int],
) -> CocoObjects:
    """What ``make`` makes of the entries of one image; when it can't, an error that names the first bad entry."""
    try:
        return make([entries[i] for i in numbers], size)
    except (ValueError, KeyError):
        for i in numbers:
            where = f"{name}[{i}] (image_id {entries[i]['image_id']}, category_id {entries[i]['category_id']})"
            try:
                make([entries[i]], size)
            except KeyError as error:
                raise ValueError(f"{where} has no {error}; every entry needs it") from error
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
        raise
