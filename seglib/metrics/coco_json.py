"""Scores from COCO's JSON files: the ground truth as annotators left it, the results as one hands them in."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from seglib.files import collecting_nothing, read_json
from seglib.metrics.ap import AveragePrecision
from seglib.metrics.ap_scores import APScores
from seglib.metrics.coco_objects import CocoObjects, IoUType
from seglib.ops.rle import RLE, check_rles, draw_polygons

Source = str | PathLike[str]
Entry = dict[str, Any]

T = TypeVar("T")

MANY = 1000
"""Segmentations that are drawn and checked at once."""


@collecting_nothing()  # many small objects, no cycles
def evaluate_coco(
    ground_truth: Source | dict[str, Any],
    results: Source | list[dict[str, Any]],
    iou_type: IoUType = "masks",
    max_detections: int = 100,
) -> APScores:
    """COCO's average precision of a results file.

    The numbers are pycocotools'. Four things that it lets pass differ on purpose: with masks, annotations without one
    (no segmentation, polygons of fewer than 3 points, no pixel) are left out, as
    :class:`seglib.data.coco.CocoInstances` leaves them out; the area of a detected mask is the
    mask's even when the entry has a ``bbox`` too; an object whose annotation ``id`` is 0 can be found like any other;
    and what can't be scored raises.

    Args:
        ground_truth: an instances file (``images``, ``categories``, ``annotations``), or its contents. Segmentations
            may be polygons or run-length codes, packed or not; category ids may have gaps.
        results: a results file, or its contents: a list of ``{"image_id", "category_id", "score"}`` with
            ``"segmentation"`` for masks or ``"bbox": [x, y, width, height]`` for boxes. It may be empty.
        iou_type: ``"masks"`` (pycocotools' ``"segm"``) or ``"boxes"`` (its ``"bbox"``): whose overlaps are computed.
        max_detections: how many detections per image and class count; see :class:`AveragePrecision`.

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
    metric = AveragePrecision(len(classes), iou_type, max_detections)
    annotations = _by_image(truth["annotations"], "annotations", images, classes)
    detections = _by_image(found, "results", images, classes)

    if iou_type == "masks":
        sizes = {image_id: _size(images[image_id]) for image_id in images}
        shapes, own = _codes(found, "results", sizes)
        true_shapes, true_own = _codes([_drawable(e) for e in truth["annotations"]], "annotations", sizes)
        annotations = {image_id: [i for i in numbers if true_own[i]] for image_id, numbers in annotations.items()}

    def target(numbers: list[int]) -> CocoObjects:
        entries = [truth["annotations"][i] for i in numbers]
        labels = [classes[e["category_id"]] for e in entries]
        crowd = [bool(e.get("iscrowd")) for e in entries]
        if iou_type == "boxes":
            areas = [e["area"] for e in entries]
            return CocoObjects([e["bbox"] for e in entries], labels, iscrowd=crowd, areas=areas)
        areas = [e.get("area", true_own[i]) for e, i in zip(entries, numbers, strict=True)]
        return CocoObjects([true_shapes[i] for i in numbers], labels, iscrowd=crowd, areas=areas, checked=True)

    def prediction(numbers: list[int]) -> CocoObjects:
        entries = [found[i] for i in numbers]
        labels, scores = [classes[e["category_id"]] for e in entries], [e["score"] for e in entries]
        if iou_type == "boxes":
            return CocoObjects([e["bbox"] for e in entries], labels, scores)
        return CocoObjects([shapes[i] for i in numbers], labels, scores, areas=own[numbers], checked=True)

    for image_id in sorted(images, key=lambda image_id: (isinstance(image_id, str), image_id)):
        sides = (
            _build(prediction, "results", found, detections[image_id]),
            _build(target, "annotations", truth["annotations"], annotations[image_id]),
        )
        metric.update_coco(*sides, image_id=image_id)
    return metric.compute()


def _drawable(entry: Entry) -> Entry:
    """The annotation without polygons of fewer than 3 points; one without a segmentation has no polygon."""
    segmentation = entry.get("segmentation") or []
    if isinstance(segmentation, list):
        segmentation = [p for p in segmentation if not isinstance(p, list) or len(p) >= 6]
    return entry | {"segmentation": segmentation}


def _read(source: Source | Any) -> Any:
    if isinstance(source, str | PathLike):
        return read_json(source)
    return source


def _by_id(rows: list[Entry], name: str) -> dict[Any, Entry]:
    """The rows of a table by their ids."""
    table: dict[Any, Entry] = {}
    for i, row in enumerate(rows):
        row_id = row.get("id") if isinstance(row, dict) else None
        if not isinstance(row_id, int | str) or row_id in table:
            raise ValueError(f"{name}[{i}] has id {row_id!r}; every one needs an id of its own, a whole number or text")
        table[row_id] = row
    return table


def _by_image(
    entries: list[Entry], name: str, images: dict[Any, Entry], classes: dict[Any, int]
) -> dict[Any, list[int]]:
    """The numbers of the entries of every image, after a check that both their ids are known."""
    numbers: dict[Any, list[int]] = {image_id: [] for image_id in images}
    for i, entry in enumerate(entries):
        try:
            numbers[entry["image_id"]].append(i)
            classes[entry["category_id"]]
        except (KeyError, TypeError):
            known: tuple[tuple[str, dict[int, Any]], ...] = (("image_id", images), ("category_id", classes))
            for key, ids in known:
                value = entry.get(key) if isinstance(entry, dict) else None
                if not isinstance(value, int | str) or value not in ids:
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


def _codes(entries: list[Entry], name: str, sizes: dict[Any, tuple[int, int]]) -> tuple[list[RLE], np.ndarray]:
    """The checked run-length codes of the segmentations of all entries, and their areas ``(N,)``.

    Many are drawn and checked at once: one by one would take as long as all the rest.
    """
    codes: list[RLE] = []
    areas = [np.zeros(0, np.int64)]
    for begin in range(0, len(entries), MANY):
        part = entries[begin : begin + MANY]
        try:
            found, area = _drawn(part, sizes)
        except (ValueError, KeyError):
            for i in range(begin, begin + len(part)):
                _build(lambda numbers: _drawn([entries[n] for n in numbers], sizes), name, entries, [i])
            raise
        codes += found
        areas.append(area.numpy())
    return codes, np.concatenate(areas)


def _drawn(entries: list[Entry], sizes: dict[Any, tuple[int, int]]) -> tuple[list[RLE], Tensor]:
    """The codes of the segmentations of entries, of which those of one image's size are drawn together."""
    shapes = [entry["segmentation"] for entry in entries]
    wanted = [sizes[entry["image_id"]] for entry in entries]
    polygons: dict[tuple[int, int], list[int]] = {}
    for i, (shape, size) in enumerate(zip(shapes, wanted, strict=True)):
        if isinstance(shape, list):
            polygons.setdefault(size, []).append(i)
    for size, numbers in polygons.items():
        for i, code in zip(numbers, draw_polygons([shapes[i] for i in numbers], *size), strict=True):
            shapes[i] = code
    return check_rles(shapes, sizes=wanted)


def _build(make: Callable[[list[int]], T], name: str, entries: list[Entry], numbers: list[int]) -> T:
    """What ``make`` makes of the entries with these numbers; when it can't, an error that names the first bad one."""
    try:
        return make(numbers)
    except (ValueError, KeyError):
        for i in numbers:
            where = f"{name}[{i}] (image_id {entries[i]['image_id']}, category_id {entries[i]['category_id']})"
            try:
                make([i])
            except KeyError as error:
                raise ValueError(f"{where} has no {error}; every entry needs it") from error
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
        raise
