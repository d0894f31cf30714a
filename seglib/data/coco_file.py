"""What COCO's files of instances and of panoptic maps share: the JSON, its list of images, and reading an image."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from seglib.data.images import read_image
from seglib.data.transforms import Resize, as_pair
from seglib.files import read_json
from seglib.ops.intensity import AS_IS, Intensity
from seglib.types import Sample

Row = dict[str, Any]

Id = int | str
"""Ids are whole numbers, but some tools write text."""

IMAGE_KEYS: Row = {"id": Id, "file_name": str, "height": int, "width": int}

_TYPE_NAMES = {
    int: "a whole number",
    Id: "a whole number or text",
    str: "text",
    list: "a list",
    list | dict: "a list of polygons or a run-length code",
}


class CocoImages(Dataset[Sample]):
    """The images of a COCO file with their annotations; a subclass reads the file and says what an image's are.

    Args:
        path: the JSON file, for messages.
        images: the folder in which its ``file_name`` are.
        entries: one JSON value for each image, with its row of the file and what :meth:`annotations` needs.
        upright: whether to apply the EXIF orientation of photos.
        intensity: how the values of each image are scaled on reading.
        size: ``(H, W)`` to resize to on reading, or ``None``.
        transform: applied to the sample last.

    Attributes:
        image_ids: COCO's id of each image, in order.
        size: the ``(H, W)`` that all samples are resized to, or ``None`` where each has its own.

    Raises:
        FileNotFoundError: at once, when an image is missing.
        ValueError: when a sample is read, for an image of another size than the file says.
    """

    def __init__(
        self,
        path: Path,
        images: str | os.PathLike[str],
        entries: list[Row],
        *,
        upright: bool,
        intensity: Intensity = AS_IS,
        size: tuple[int, int] | None,
        transform: Callable[[Sample], Sample] | None,
    ) -> None:
        self._path, self._folder = path, Path(images)
        check_files_exist(path, self._folder, [e["file_name"] for e in entries], "images")
        self.image_ids: tuple[Id, ...] = tuple(e["id"] for e in entries)
        self._entries = Packed(entries)
        self._upright, self._intensity = upright, intensity
        self.size = None if size is None else as_pair(size)
        self._resize = None if size is None else Resize(as_pair(size))
        self._transform = transform

    def annotations(self, entry: Row) -> dict[str, Any]:
        """The fields of the sample that this entry annotates, at the height and width of the entry."""
        raise NotImplementedError

    @property
    def image_files(self) -> list[Path]:
        """The files of the images, in order."""
        return [self._folder / self._entries[i]["file_name"] for i in range(len(self))]

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> Sample:
        entry = self._entries[range(len(self))[index]]  # a negative index counts from the end
        image = read_image(self._folder / entry["file_name"], upright=self._upright)  # (3, H, W)
        self._check_size(entry, (image.shape[1], image.shape[2]))
        sample = Sample(self._intensity(image), str(entry["id"]), **self._annotations(entry))
        if self._resize is not None:
            sample = self._resize(sample)
        return sample if self._transform is None else self._transform(sample)

    def _check_size(self, entry: Row, found: tuple[int, int]) -> None:
        """Raise when an image has another size than the file says."""
        path, size = self._folder / entry["file_name"], (entry["height"], entry["width"])
        if found != size:
            turned = found[::-1] == size
            option = "--stored-orientation" if self._upright else "--upright"
            remedy = (
                f"pass {option} (upright={not self._upright} in Python)"
                if turned
                else "use the images that the file was made for"
            )
            raise ValueError(
                f"{path} is {found[0]} x {found[1]} (H x W) and {self._path} says {size[0]} x {size[1]}; {remedy}"
            )

    def _annotations(self, entry: Row) -> dict[str, Any]:
        """The annotations; an error names the file and the image."""
        try:
            return self.annotations(entry)
        except ValueError as error:
            raise ValueError(f"{self._path}: image {entry['id']}: {error}") from error


class Packed:
    """A list of JSON values as one tensor of bytes.

    A list of Python objects would slowly be copied into every worker of a ``DataLoader``, because reading an object
    writes its reference count.
    """

    def __init__(self, values: Iterable[Any]) -> None:
        texts = [json.dumps(value, separators=(",", ":")).encode() for value in values]
        self._ends = torch.tensor([0, *map(len, texts)]).cumsum(0)  # (N + 1,)
        self._bytes = torch.frombuffer(bytearray(b"".join(texts)), dtype=torch.uint8)

    def __getitem__(self, index: int) -> Any:
        start, end = self._ends[index : index + 2].tolist()
        return json.loads(self._bytes[start:end].numpy().tobytes())


def read_coco(path: Path, required: dict[str, Row], form: str) -> dict[str, list[Row]]:
    """The content of a COCO file, after checking that every entry has its keys.

    Args:
        path: the JSON file.
        required: the lists that the file must have → the keys of their entries and the type of each value.
        form: what the file is called in messages: "instances" or "panoptic".

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no such file; the message names the entry.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; pass a COCO {form} file, such as {form}_val2017.json")
    content = read_json(path)
    for part, keys in required.items():
        rows = content.get(part) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise ValueError(
                f"{path} has no list {part!r}; pass a COCO {form} file, with images, categories and annotations"
            )
        try:
            check_keys(rows, keys, part)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return content


def check_keys(rows: list[Row], keys: Row, part: str) -> None:
    """Raise unless every row of the list called ``part`` has the keys, with values of their types."""
    for n, row in enumerate(rows):
        for key, wanted in keys.items():
            value = row.get(key) if isinstance(row, dict) else None
            if not isinstance(value, wanted) or isinstance(value, bool):
                seen = f"no {key}" if value is None else f"the {key} {value!r:.60}"
                raise ValueError(f"entry {n} of {part!r} has {seen}; expected {_TYPE_NAMES[wanted]}")


def unique_ids(rows: list[Row], name: str) -> list[Row]:
    """The rows, after checking that no id stands twice; ``name`` is what a row describes."""
    seen: set[Id] = set()
    for row in rows:
        if row["id"] in seen or other_spelling(row["id"]) in seen:
            raise ValueError(f"{name} id {row['id']} stands twice; give every {name} its own")
        seen.add(row["id"])
    return rows


def other_spelling(value: Id) -> Id:
    """An id as text where it is a number, and as a number where it is that number's text: 1 and "1" are one id."""
    if isinstance(value, int):
        return str(value)
    return int(value) if value.isdecimal() and str(int(value)) == value else value


def image_entries(rows: list[Row]) -> dict[Id, Row]:
    """The images of a file by id, each with the keys of :data:`IMAGE_KEYS` alone, after checking ids and sizes."""
    for row in unique_ids(rows, "image"):
        if min(row["height"], row["width"]) < 1:
            raise ValueError(
                f"image {row['id']} is {row['height']} x {row['width']}; write the height and width of the image"
            )
    return {row["id"]: {key: row[key] for key in IMAGE_KEYS} for row in rows}


def find_owner(row: Row, name: str, entries: dict[Id, Row]) -> Row:
    """The entry of the image that an annotation, called ``name`` in messages, belongs to."""
    if (found := entries.get(row["image_id"], entries.get(other_spelling(row["image_id"])))) is None:
        raise ValueError(f"{name} has image_id {row['image_id']}, which is not in 'images'; add it or remove both")
    return found


def find_category(row: Row, name: str, labels: dict[int, int]) -> int:
    """The category id, by ``labels`` (COCO's id → category id), of what is called ``name`` in messages."""
    if row["category_id"] not in labels:
        raise ValueError(f"{name} has category_id {row['category_id']}, which is not in 'categories'; add it there")
    return labels[row["category_id"]]


def is_crowd(row: Row, name: str) -> bool:
    """Whether ``iscrowd`` is 1; without the key it is 0."""
    crowd = row.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise ValueError(f"{name} has iscrowd {crowd!r:.60}; it is 0 or 1")
    return bool(crowd)


def check_files_exist(path: Path, folder: Path, names: list[str], what: str, remedy: str = "") -> None:
    """Raise when a file that ``path`` names isn't in the folder; ``remedy`` ends the message."""
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise FileNotFoundError(
            f"{len(missing)} of {len(names)} {what} of {path} are not in {folder} ({', '.join(missing[:5])}); pass the"
            f" folder that their file_name start from{remedy}"
        )
