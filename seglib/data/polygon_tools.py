"""From the files of the polygon tools LabelMe and VIA (VGG Image Annotator) to one COCO file.

LabelMe writes ``photo.json`` beside each ``photo.jpg``, VIA one file for all images. Read are polygons, rectangles,
circles and VIA's ellipses; points and lines are left out and counted. Round shapes become polygons of 64 points.

Source: LabelMe 5 (the keys ``shapes``, ``imagePath``) and VIA 2 (``_via_img_metadata``, ``regions``).
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from seglib.data.coco_file import Row
from seglib.data.file_checks import image_size
from seglib.files import atomic_path, read_json

_ROUND = 64  # points of a circle


@dataclass(frozen=True)
class _Shape:
    """One shape: the image that it lies on, its class, its type, and a flat polygon; ``None`` where it has no mask."""

    image: str
    label: str
    type: str
    polygon: list[float] | None
    group: Any = None


def polygons_to_coco(
    source: str | os.PathLike[str], images: str | os.PathLike[str] | None = None, attribute: str | None = None
) -> dict[str, Any]:
    """The content of a COCO file from annotations of LabelMe or VIA.

    Classes are numbered from 1 in the order of their names. Shapes of LabelMe with one ``group_id`` and label on an
    image are parts of one object. The sizes are those of the photos turned upright, as both tools show them.

    Args:
        source: a folder of LabelMe's JSON files, or VIA's JSON file (a project or an export).
        images: the folder of the images; that of the JSON files when ``None``. ``file_name`` starts from it.
        attribute: the attribute of VIA's regions that is the class; the only one when ``None``, and the class is
            "object" when regions have none.

    Raises:
        FileNotFoundError: when ``source`` or an image is missing.
        ValueError: when there is no shape with a mask, a file is neither tool's, or VIA's class is unclear.
    """
    return _convert(source, images, attribute)[0]


def _convert(
    source: str | os.PathLike[str], images: str | os.PathLike[str] | None, attribute: str | None
) -> tuple[dict[str, Any], list[str]]:
    """The content of the COCO file, and warnings of what is not in it."""
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist; pass a folder of LabelMe's JSON files, or VIA's file")
    folder = Path(images) if images is not None else source if source.is_dir() else source.parent
    names, shapes = _labelme(source) if source.is_dir() else _via(source, attribute)
    rows = [_image_row(n, name, folder) for n, name in enumerate(sorted(names), start=1)]
    drawn = [shape for shape in shapes if shape.polygon is not None]
    if not drawn:
        raise ValueError(f"{source} has no polygon, rectangle or circle; points and lines have no mask")
    classes = {label: k for k, label in enumerate(sorted({shape.label for shape in drawn}), start=1)}
    image_ids = {row["file_name"]: row["id"] for row in rows}
    objects: dict[tuple[Any, ...], list[list[float]]] = {}
    for n, shape in enumerate(drawn):
        part = n if shape.group is None else ("group", shape.group)
        objects.setdefault((shape.image, shape.label, part), []).append(shape.polygon or [])
    annotations = [
        {"id": n, "image_id": image_ids[image], "category_id": classes[label], "iscrowd": 0, "segmentation": polygons}
        | _box_and_area(polygons)
        for n, ((image, label, _), polygons) in enumerate(objects.items(), start=1)
    ]
    categories = [{"id": k, "name": label} for label, k in classes.items()]
    return {"images": rows, "categories": categories, "annotations": annotations}, _left_out(shapes, classes)


def _left_out(shapes: Sequence[_Shape], classes: Iterable[str]) -> list[str]:
    """A warning that counts the shapes without a mask by type, with an image of each, and names the classes lost."""
    lost = [shape for shape in shapes if shape.polygon is None]
    if not lost:
        return []
    first = {shape.type: shape.image for shape in reversed(lost)}
    numbers = Counter(shape.type for shape in lost)
    said = ", ".join(f"{n} {name} ({first[name]})" for name, n in numbers.most_common())
    gone = sorted({shape.label for shape in lost} - set(classes))
    names = f"; no other shape has the class {' or '.join(map(repr, gone))}" if gone else ""
    return [f"left out {len(lost)} shape{'s' * (len(lost) > 1)} without a closed outline: {said}{names}"]


def write_polygons_as_coco(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    attribute: str | None = None,
) -> tuple[dict[str, int], list[str]]:
    """Write what :func:`polygons_to_coco` makes as a JSON file, which appears whole or not at all.

    Returns:
        The numbers of images, objects and classes, and warnings of shapes that are left out.
    """
    content, warnings = _convert(source, images, attribute)
    with atomic_path(out) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
    return {part: len(content[part]) for part in ("images", "annotations", "categories")}, warnings


def _labelme(folder: Path) -> tuple[set[str], list[_Shape]]:
    names, shapes = set(), []
    for path in sorted(p for p in folder.rglob("*.json") if not p.name.startswith(".")):
        content = read_json(path)
        if isinstance(content, dict) and {"images", "annotations"} <= content.keys():
            continue  # a COCO file, as an earlier call may have written here
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            raise ValueError(f"{path} is no file of LabelMe (no list 'shapes'); take it out of the folder")
        stored = PurePosixPath(str(content.get("imagePath", "")).replace("\\", "/"))
        image = (path.parent / stored.name).relative_to(folder).as_posix()
        names.add(image)
        for shape in content["shapes"]:
            try:
                points = [(float(x), float(y)) for x, y in shape["points"]]
                name = shape.get("shape_type") or "polygon"
                polygon = _labelme_polygon(name, points)
                shapes.append(_Shape(image, str(shape["label"]), name, polygon, shape.get("group_id")))
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise ValueError(f"{path} has the shape {str(shape):.80}, which can't be read ({error})") from error
    if not names:
        raise FileNotFoundError(f"{folder} has no JSON files of LabelMe")
    return names, shapes


def _labelme_polygon(shape_type: str, points: list[tuple[float, float]]) -> list[float] | None:
    if shape_type == "polygon":
        return _flat(points) if len(points) > 2 else None
    if shape_type == "rectangle":
        (x0, y0), (x1, y1) = points[:2] if len(points) == 2 else (points[0], points[2])
        return [x0, y0, x1, y0, x1, y1, x0, y1]
    if shape_type == "circle":
        (x, y), edge = points
        return _ellipse(x, y, math.dist((x, y), edge), math.dist((x, y), edge))
    return None


def _via(path: Path, attribute: str | None) -> tuple[set[str], list[_Shape]]:
    content = read_json(path)
    if isinstance(content, dict):
        content = content.get("_via_img_metadata", content)
    entries = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(entries, list) or not all(isinstance(e, dict) and "filename" in e for e in entries):
        raise ValueError(f"{path} is no file of VIA (entries with filename and regions); export annotations as JSON")
    names, shapes = set(), []
    for entry in entries:
        names.add(entry["filename"])
        for region in _regions(entry):
            try:
                name, polygon = region["shape_attributes"]["name"], _via_polygon(region["shape_attributes"])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path} has the region {str(region):.80}, which can't be read ({error})") from error
            shapes.append(_Shape(entry["filename"], _via_label(path, region, attribute), str(name), polygon))
    return names, shapes


def _regions(entry: Row) -> Iterable[Row]:
    regions = entry.get("regions") or []
    return regions.values() if isinstance(regions, dict) else regions  # VIA 1 numbers them


def _via_polygon(shape: Row) -> list[float] | None:
    name = shape["name"]
    if name in ("polygon", "polyline"):
        points = list(zip(shape["all_points_x"], shape["all_points_y"], strict=True))
        return _flat(points) if name == "polygon" and len(points) > 2 else None
    if name == "rect":
        x, y, width, height = (float(shape[key]) for key in ("x", "y", "width", "height"))
        return [x, y, x + width, y, x + width, y + height, x, y + height]
    if name == "circle":
        return _ellipse(shape["cx"], shape["cy"], shape["r"], shape["r"])
    if name == "ellipse":
        return _ellipse(shape["cx"], shape["cy"], shape["rx"], shape["ry"], shape.get("theta", 0.0))
    return None


def _via_label(path: Path, region: Row, attribute: str | None) -> str:
    attributes = region.get("region_attributes") or {}
    if attribute is None and len(attributes) > 1:
        raise ValueError(
            f"{path} has regions with the attributes {', '.join(attributes)}; say which is the class with --attribute"
        )
    name = attribute or next(iter(attributes), None)
    if name is not None and attribute is not None and name not in attributes:
        raise ValueError(f"{path} has a region without the attribute {name!r}, only {', '.join(attributes) or 'none'}")
    value = "object" if name is None else attributes[name]
    if isinstance(value, dict):  # a group of checkboxes
        value = ", ".join(key for key, ticked in value.items() if ticked)
    return str(value).strip() or "object"


def _ellipse(x: float, y: float, rx: float, ry: float, theta: float = 0.0) -> list[float]:
    def points() -> Iterator[tuple[float, float]]:
        for n in range(_ROUND):
            u, v = rx * math.cos(2 * math.pi * n / _ROUND), ry * math.sin(2 * math.pi * n / _ROUND)
            yield x + u * math.cos(theta) - v * math.sin(theta), y + u * math.sin(theta) + v * math.cos(theta)

    return _flat(points())


def _flat(points: Iterable[tuple[float, float]]) -> list[float]:
    return [float(v) for point in points for v in point]


def _image_row(image_id: int, name: str, folder: Path) -> Row:
    if not (folder / name).is_file():
        raise FileNotFoundError(f"the image {name} is not in {folder}; pass its folder with --images")
    height, width = image_size(folder / name, upright=True)
    return {"id": image_id, "file_name": name, "height": height, "width": width}


def _box_and_area(polygons: list[list[float]]) -> Row:
    xs, ys = [v for p in polygons for v in p[0::2]], [v for p in polygons for v in p[1::2]]
    area = sum(
        abs(sum(x0 * y1 - x1 * y0 for x0, y0, x1, y1 in zip(p[0::2], p[1::2], *_next(p), strict=True))) / 2
        for p in polygons
    )
    return {"bbox": [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)], "area": area}


def _next(polygon: list[float]) -> tuple[list[float], list[float]]:
    """The coordinates of the next point at each point."""
    return [*polygon[2::2], polygon[0]], [*polygon[3::2], polygon[1]]
