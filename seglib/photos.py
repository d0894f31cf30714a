"""What ``seglib predict`` makes of one photo: a label map, an overlay to look at, and facts as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from seglib.data.coco import coco_results
from seglib.data.transforms import resize_image
from seglib.postprocess import predict_tiled
from seglib.types import Category
from seglib.viz import overlay, overlay_instances


@dataclass(frozen=True)
class Found:
    """What was found in a photo.

    Attributes:
        labels: ``(H, W)`` uint8: class ids; of an instance model 1, 2, … for its objects by falling score, 0 for none.
        picture: makes the overlay ``(H, W, 3)`` uint8.
        entries: the photo's part of the JSON output.
    """

    labels: np.ndarray
    picture: Callable[[], np.ndarray]
    entries: list[dict[str, Any]]


def semantic(
    model: Any,
    image: Tensor,
    path: Path,
    categories: Sequence[Category],
    *,
    short_side: int | None,
    tile: int | None,
    scales: Sequence[float],
    flip: bool,
) -> Found:
    """The class of every pixel; as JSON the share of every class.

    Args:
        model: a semantic model.
        image: ``(3, H, W)`` on the model's device.
        path: of the photo.
        categories: the classes.
        short_side: see :func:`~seglib.postprocess.tiles.predict_tiled`, as the rest.
        tile: see there.
        scales: see there.
        flip: see there.
    """
    classes = predict_tiled(model, image, tile=tile, short_side=short_side, scales=scales, flip=flip).numpy()
    share = {c.name: round(float((classes == c.id).mean()), 4) for c in categories}
    entry = {"photo": str(path), "height": image.shape[1], "width": image.shape[2], "share": share}
    return Found(classes, partial(overlay, image.cpu(), classes, categories), [entry])


def instance(
    model: Any,
    image: Tensor,
    path: Path,
    categories: Sequence[Category],
    category_ids: Sequence[int],
    *,
    short_side: int | None,
    threshold: float,
) -> Found:
    """The objects; as JSON a list of COCO results, whose ``image_id`` is the photo's name, as a number if it is one.

    Args:
        model: an instance model.
        image: ``(3, H, W)`` on the model's device.
        path: of the photo.
        categories: the things.
        category_ids: what the results call each of them.
        short_side: of the image that the model sees; ``None`` takes the photo as it is.
        threshold: objects with a lower score are left out.
    """
    size = (image.shape[1], image.shape[2])
    factor = 1.0 if short_side is None else short_side / min(size)
    seen = resize_image(image, (max(1, round(size[0] * factor)), max(1, round(size[1] * factor))))
    objects = model.predict(seen[None], size=size)[0]
    objects = objects[objects.scores >= threshold].to("cpu")
    labels = np.zeros(size, np.uint8)
    for rank in range(min(len(objects), 255), 0, -1):  # the best on top
        labels[objects.masks[rank - 1].numpy()] = rank
    name = int(path.stem) if path.stem.isdecimal() else path.stem
    entries = coco_results([objects], [0], category_ids)
    for entry, label in zip(entries, objects.labels.tolist(), strict=True):
        entry |= {"image_id": name, "category": categories[label].name}
    return Found(labels, partial(overlay_instances, image.cpu(), objects), entries)


def as_found(
    task: str, metadata: dict[str, Any], categories: Sequence[Category], options: dict[str, Any]
) -> Callable[[Any, Tensor, Path], Found]:
    """The function that a model of ``task`` needs, with the options that apply to it.

    Raises:
        ValueError: when an option was given that the task has no use for.
    """
    if task == "semantic":
        if options["score"] is not None:
            raise ValueError("--score is for instance models; a semantic model gives every pixel its best class")
        keys = ("short_side", "tile", "scales", "flip")
        return partial(semantic, categories=categories, **{k: options[k] for k in keys})
    if options["tile"] is not None or options["flip"] or tuple(options["scales"]) != (1.0,):
        raise ValueError("--tile, --scales and --flip are for semantic models; leave them out")
    ids = metadata.get("category_ids", list(range(len(categories))))
    threshold = 0.5 if options["score"] is None else options["score"]
    return partial(
        instance, categories=categories, category_ids=ids, short_side=options["short_side"], threshold=threshold
    )
