"""COCO files as labelling tools write them: numbers as text or floats, no sizes, paths of Windows, unused classes.

What is certain is put right here; what isn't is refused by :mod:`seglib.data.coco`, or left out on request.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unicodedata import normalize

from seglib.data.coco_file import Row
from seglib.data.file_checks import evenly, image_size, read_orientation

_MOST = 200  # headers that are opened to see whether a file was made for upright photos


def tidy_rows(content: dict[str, list[Row]]) -> None:
    """Put right in place what has one meaning only.

    Whole floats become integers (``1.0``), as does a number as text that is the id of a category. ``iscrowd`` may be
    ``null`` (0), a truth value or a float; ``segmentation`` may be missing or
    ``null`` (no mask), one flat polygon, or polygons of pairs ``[[[x, y], …]]``.
    """
    for row in filter(_is_row, content["images"]):
        _whole(row, ("id", "height", "width"))
    for row in filter(_is_row, content["categories"]):
        _whole(row, ("id",), text=True)
    for row in filter(_is_row, content["annotations"]):
        _whole(row, ("id", "image_id"))
        _whole(row, ("category_id",), text=True)
        crowd = row.get("iscrowd")
        row["iscrowd"] = 0 if crowd is None else int(crowd) if crowd in (0, 1) else crowd
        segmentation = row.get("segmentation")
        row["segmentation"] = _flat(segmentation) if isinstance(segmentation, list) else segmentation or []


def used_categories(rows: list[Row], annotations: list[Row]) -> list[Row]:
    """The categories without those that only name a group of others and that no annotation uses.

    Roboflow lists its project that way: id 0, with the name that is the ``supercategory`` of the classes.
    """
    used = {str(a["category_id"]) for a in annotations}
    groups = {row.get("supercategory") for row in rows if row.get("supercategory") not in (None, "", "none")}
    return [
        row
        for row in rows
        if str(row["id"]) in used or row["name"] not in groups or row.get("supercategory") not in (None, "", "none")
    ]


def find_files(rows: list[Row], folder: Path) -> list[Row]:
    r"""Put right each ``file_name`` whose file exists under another spelling, and return the rows without a file.

    Tried are ``\`` as ``/``, and Unicode's composed and decomposed form.
    """
    missing = []
    for row in rows:
        name = row["file_name"]
        spellings = [name, name.replace("\\", "/")]
        spellings += [normalize(form, s) for form in ("NFC", "NFD") for s in spellings]
        found = next((s for s in spellings if (folder / s).is_file()), None)
        if found is None:
            missing.append(row)
        else:
            row["file_name"] = found
    return missing


def made_for_upright(rows: Sequence[Row], folder: Path) -> bool:
    """Whether the sizes in the file are those of photos turned as their EXIF orientation says."""
    for row in evenly(rows, _MOST):
        height, width = row.get("height"), row.get("width")
        if height != width and (folder / row["file_name"]).is_file():
            try:
                orientation, stored = read_orientation(folder / row["file_name"])
            except ValueError:
                continue  # named when it is read
            if orientation > 4 and stored == (width, height):
                return True
    return False


def fill_sizes(rows: list[Row], folder: Path, upright: bool) -> None:
    """Give images without ``height`` and ``width`` those of their files.

    Raises:
        ValueError: when a file is no image.
    """
    for row in rows:
        if row.get("height") is None or row.get("width") is None:
            row["height"], row["width"] = image_size(folder / row["file_name"], upright)


def _is_row(row: Any) -> bool:
    return isinstance(row, dict)


def _whole(row: Row, keys: Sequence[str], *, text: bool = False) -> None:
    for key in keys:
        value = row.get(key)
        if (isinstance(value, float) and value.is_integer()) or (text and isinstance(value, str) and value.isdecimal()):
            row[key] = int(value)


def _flat(segmentation: list[Any]) -> list[Any]:
    """Polygons as flat lists of numbers."""
    if segmentation and all(isinstance(v, int | float) for v in segmentation):
        return [segmentation]
    return [
        [v for point in polygon for v in point]
        if isinstance(polygon, list) and polygon and all(isinstance(p, list) and len(p) == 2 for p in polygon)
        else polygon
        for polygon in segmentation
    ]
