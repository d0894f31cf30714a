"""Predictions of a dataset as files in COCO's formats, which the official evaluation tools read."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seglib.data.coco import coco_results
from seglib.data.coco_panoptic import coco_panoptic_annotation
from seglib.data.images import write_png
from seglib.types import Batch, Instances, Panoptic

_FILES: dict[type | None, tuple[str, ...]] = {Instances: ("instances.json",), Panoptic: ("panoptic", "panoptic.json")}
"""What is written for each type of prediction, in the order in which it appears."""


@contextmanager
def write_coco_predictions(
    folder: str | os.PathLike[str], predicts: type | None, file_ids: Sequence[int | None]
) -> Iterator[Callable[[list[Any], Batch], None]]:
    """Write the predictions of a dataset batch by batch, as they are made.

    Instances become ``instances.json``, COCO's results. Panoptic maps become PNGs in the folder ``panoptic``, and
    ``panoptic.json`` with their annotations. All of it appears when the block ends, and nothing when it fails::

        with write_coco_predictions("out", task.predicts, dataset.file_ids) as write:
            evaluate(model, dataset, task, on_predictions=write)

    A sample's id is written as image id: as a number if it is one, as with COCO's data sets, else as text.

    Args:
        folder: where to write; it may hold other files.
        predicts: type of the predictions, :class:`~seglib.types.Instances` or :class:`~seglib.types.Panoptic`.
        file_ids: category id → id in the files of the dataset. Predictions of a class whose id is ``None``, which these
            files don't have, are left out.

    Yields:
        A function of the predictions and the batch that they were made for.

    Raises:
        ValueError: for another type of predictions, when ``folder`` is a file or holds predictions already, and when
            two samples have one id.
    """
    folder = Path(folder)
    if predicts not in _FILES:
        name = "these predictions" if predicts is None else predicts.__name__
        raise ValueError(
            f"COCO has formats for instances and panoptic maps, not for {name}; leave out the folder {folder} (label"
            " maps are written by `seglib predict --labels`)"
        )
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder for the predictions")
    if taken := [name for name in _FILES[predicts] if (folder / name).exists()]:
        raise ValueError(f"{folder / taken[0]} exists already; remove it, or name another folder")
    final = folder.resolve()  # "." has no name
    beside = final.with_name(f".{final.name}.{uuid.uuid4().hex[:12]}")  # the same file system: files are renamed
    entries: list[dict[str, Any]] = []
    seen: set[str] = set()

    def write(predictions: list[Any], batch: Batch) -> None:
        for found, name in zip(predictions, batch.ids, strict=True):
            if name in seen:
                raise ValueError(f"two samples have the id {name!r}; give every sample its own to write predictions")
            seen.add(name)
            image_id = int(name) if name.isdecimal() and str(int(name)) == name else name
            if isinstance(found, Instances):
                entries.extend(coco_results([found.to("cpu")], [image_id], file_ids))
                continue
            annotation, pixels = coco_panoptic_annotation(found.to("cpu"), image_id, file_ids)
            write_png(beside / "panoptic" / annotation["file_name"], pixels)
            entries.append(annotation)

    try:
        yield write
        beside.mkdir(parents=True, exist_ok=True)
        content = entries if predicts is Instances else {"annotations": entries}
        (beside / _FILES[predicts][-1]).write_text(json.dumps(content), encoding="utf-8")
        folder.mkdir(parents=True, exist_ok=True)
        for name in _FILES[predicts]:
            os.rename(beside / name, folder / name)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
