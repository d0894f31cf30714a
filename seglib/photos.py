"""What ``seglib predict`` reads and writes: photos on disk, and for each a label map, an overlay and facts as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from seglib.data.class_tables import labels_to_files
from seglib.data.coco import ImageIds, coco_results
from seglib.ops.geometry import Geometry
from seglib.postprocess import predict_tiled
from seglib.types import Category, SegmentationModel
from seglib.viz import overlay, overlay_instances

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Options:
    """How photos are predicted.

    Attributes:
        geometry: the size at which the model sees a photo.
        score: lowest score of an object; ``None`` is 0.5. For instance models.
        tile: side of overlapping tiles in pixels; ``None`` cuts large photos only. For semantic models.
        scales: average over views of the photo at these scales. For semantic models.
        flip: average over flipped views too. For semantic models.
        image_ids: the image ids of a COCO file by photo, for JSON results; ``None`` writes file names and no ids.
    """

    geometry: Geometry
    score: float | None = None
    tile: int | None = None
    scales: Sequence[float] = (1.0,)
    flip: bool = False
    image_ids: ImageIds | None = None


@dataclass(frozen=True)
class Prediction:
    """What was found in a photo.

    Attributes:
        labels: ``(H, W)`` uint8 or uint16: class ids as the label files of the dataset have them; of an instance model
            1, 2, … for its objects by falling score, 0 for none.
        overlay: makes the overlay ``(H, W, 3)`` uint8.
        entries: the photo's part of the JSON output.
    """

    labels: np.ndarray
    overlay: Callable[[], np.ndarray]
    entries: list[dict[str, Any]]


Predict = Callable[[SegmentationModel, Tensor, Path], Prediction]
"""A model, an image ``(3, H, W)`` on its device and the photo's path → what was found."""


def predict_semantic_photo(
    model: SegmentationModel,
    image: Tensor,
    path: Path,
    *,
    categories: Sequence[Category],
    file_ids: Sequence[int | None],
    void_id: int | None,
    options: Options,
) -> Prediction:
    """The class of every pixel; as JSON the share of every class.

    Args:
        model: a semantic model.
        image: ``(3, H, W)`` on the model's device.
        path: the photo's path.
        categories: the classes.
        file_ids: what the dataset's label files call each class.
        void_id: what they call void.
        options: how to predict.
    """
    classes = predict_tiled(
        model, image, tile=options.tile, geometry=options.geometry, scales=options.scales, flip=options.flip
    ).numpy()
    share = {c.name: round(float((classes == c.id).mean()), 4) for c in categories}
    entry = {"photo": str(path), "height": image.shape[1], "width": image.shape[2], "share": share}
    labels = labels_to_files(classes, file_ids, void_id)
    return Prediction(labels, partial(overlay, image.cpu(), classes, categories), [entry])


def predict_instances_photo(
    model: SegmentationModel,
    image: Tensor,
    path: Path,
    *,
    categories: Sequence[Category],
    file_ids: Sequence[int | None],
    void_id: int | None,
    options: Options,
) -> Prediction:
    """The objects; as JSON a list of COCO results with ``file_name``, and ``image_id`` where the ids are known.

    Masks are unpacked one at a time, so that a large photo with many objects takes no more memory than one with few.

    Args:
        model: an instance model.
        image: ``(3, H, W)`` on the model's device.
        path: the photo's path.
        categories: the things.
        file_ids: the category ids of the dataset's COCO file.
        void_id: not used; both functions take it.
        options: how to predict.
    """
    size = (image.shape[1], image.shape[2])
    objects = model.predict(options.geometry(image)[None], output_sizes=[size])[0]
    objects = objects[objects.scores >= (0.5 if options.score is None else options.score)].to("cpu")
    labels = np.zeros(size, np.uint8)
    for rank in range(min(len(objects), 255), 0, -1):  # the best on top
        labels[objects[rank - 1].masks[0].numpy()] = rank
    identity: dict[str, Any] = {"file_name": path.name}
    if options.image_ids is not None:
        identity["image_id"] = options.image_ids[path]
    entries = []
    for found in objects:
        for entry in coco_results([found], [0], file_ids):
            del entry["image_id"]
            entries.append({**identity, **entry, "category": categories[int(found.labels)].name})
    return Prediction(labels, partial(overlay_instances, image.cpu(), objects), entries)


PREDICT: dict[str, Callable[..., Prediction]] = {
    "semantic": predict_semantic_photo,
    "instance": predict_instances_photo,
}
"""What makes a photo's results, by the name of the task."""


def photo_predictor(
    task: str,
    *,
    categories: Sequence[Category],
    file_ids: Sequence[int | None],
    void_id: int | None,
    options: Options,
) -> Predict:
    """The function that predicts photos for a task, with everything but model and photo filled in.

    Args:
        task: the name of the task.
        categories: the classes that the model predicts.
        file_ids: what the dataset's files call each class.
        void_id: what they call void; ``None`` when they have none.
        options: how to predict.

    Raises:
        ValueError: for a task without photos, or an option that the task has no use for.
    """
    if task not in PREDICT:
        raise ValueError(f"photos are predicted for {' and '.join(PREDICT)} models, not for {task}; use Python")
    if task == "semantic" and (options.score is not None or options.image_ids is not None):
        raise ValueError("--score and --ids are for instance models; a semantic model gives every pixel its best class")
    if task == "instance" and (options.tile is not None or options.flip or tuple(options.scales) != (1.0,)):
        raise ValueError("--tile, --scales and --flip are for semantic models; leave them out")
    return partial(PREDICT[task], categories=categories, file_ids=file_ids, void_id=void_id, options=options)


def photos_at(path: Path) -> list[Path]:
    """The photo at ``path``; of a folder, all photos in it by name, without those in folders below and hidden ones.

    Raises:
        FileNotFoundError: when there is nothing at ``path``.
        ValueError: when a folder holds no photo.
    """
    if path.is_dir():
        photos = sorted(
            p for p in path.iterdir() if p.suffix.lower() in ENDINGS and not p.name.startswith(".") and p.is_file()
        )
        if not photos:
            raise ValueError(f"{path} holds no photo; expected files ending in {', '.join(ENDINGS)}")
        return photos
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    return [path]


def png_targets(out: Path | None, photos: list[Path], asked: Path) -> list[Path]:
    """Where the PNG of each photo goes; refuses beforehand what would only fail, or overwrite, half-way.

    Args:
        out: what the user named: a PNG file for a photo, a folder for a folder. ``None`` gives an empty list.
        photos: the photos, as :func:`photos_at` found them.
        asked: the path that they were found at.

    Raises:
        ValueError: when ``out`` is a file for a folder or no PNG for a photo, or when two photos would share a result
            or a result would replace a photo.
    """
    if out is None:
        return []
    if not asked.is_dir():
        if out.suffix.lower() != ".png":
            raise ValueError(f"{out} is no name of a PNG file; for one photo name a file that ends in .png")
        targets = [out]
    else:
        if out.suffix.lower() == ".png" or out.is_file():
            raise ValueError(f"{asked} is a folder of photos, {out} a file; name a folder for the results")
        targets = [out / f"{p.stem}.png" for p in photos]
        taken: dict[Path, Path] = {}
        for photo, target in zip(photos, targets, strict=True):
            if target in taken:
                raise ValueError(f"{taken[target]} and {photo} would both become {target}; rename one of them")
            taken[target] = photo
    originals = {p.resolve() for p in photos}
    for target in targets:
        if target.resolve() in originals:
            raise ValueError(f"{target} is one of the photos and would be overwritten; choose another place")
    return targets
