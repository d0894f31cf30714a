"""What ``seglib predict`` reads and writes: photos on disk, and for each a label map, an overlay and facts as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seglib.data.bands import read_bands
from seglib.data.class_tables import labels_to_files
from seglib.data.coco import ImageIds, coco_results
from seglib.data.coco_panoptic import coco_panoptic_annotation
from seglib.data.collate import collate
from seglib.data.images import IMAGE_ENDINGS, may_replace
from seglib.postprocess import predict_tiled
from seglib.train.sampling import ResizedFor
from seglib.train.tasks import RegionTask, Task
from seglib.types import Instances, Panoptic, Regions, Sample, Semantic, Size
from seglib.viz import number_palette, overlay, overlay_instances, overlay_panoptic
from seglib.viz.colors import to_rgb8


@dataclass(frozen=True)
class Options:
    """How photos are predicted and written.

    Attributes:
        file_ids: what the label files or the COCO file of the model's dataset call each class.
        void_id: what they call void; ``None`` when they have none.
        score: lowest score of an object; ``None`` is 0.5. For tasks that predict instances; of panoptic models the
            merge has it.
        image_ids: the image ids of a COCO file by photo, for JSON results; ``None`` writes file names and no ids. For
            tasks that predict instances or panoptic maps.
        tile: side of overlapping tiles in pixels; ``None`` cuts large photos only. For tasks that predict label maps.
        scales: average over views of the photo at these scales. For tasks that predict label maps.
        flip: average over flipped views too. For tasks that predict label maps.
    """

    file_ids: Sequence[int | None]
    void_id: int | None = None
    score: float | None = None
    image_ids: ImageIds | None = None
    tile: int | None = None
    scales: Sequence[float] = (1.0,)
    flip: bool = False


VOID_COLOR = (224, 224, 192)
"""That of VOC's label maps."""


@dataclass(frozen=True)
class Prediction:
    """What was found in a photo.

    Attributes:
        labels: ``(H, W)`` uint8 or uint16: class ids as the label files of the dataset have them; of instances 1, 2, …
            by falling score, of regions 1, 2, … with later ones on top, 0 for none. Of panoptic maps ``(H, W, 3)``
            uint8: segment ids as COCO's PNG files have them.
        overlay: makes the overlay ``(H, W, 3)`` uint8.
        entries: the photo's part of the JSON output.
        palette: colours in which a viewer shows the ids of ``labels``: those of the classes, or of numbered objects.
    """

    labels: np.ndarray
    overlay: Callable[[], np.ndarray]
    entries: list[dict[str, Any]]
    palette: Mapping[int, tuple[int, int, int]] = field(default_factory=number_palette)


def check_options(task: Task, options: Options) -> None:
    """Check that photos can be predicted for a task, with these options.

    Raises:
        ValueError: when they can't, or for an option that the task has no use for.
    """
    if task.predicts not in (Semantic, Panoptic, *_RESULTS):
        raise ValueError(f"photos of the task {task.name!r} can't be written; use task.predict in Python")
    has_objects = task.predicts in (Instances, Panoptic)
    if not has_objects and (options.score is not None or options.image_ids is not None):
        raise ValueError("--score and --ids are for instance and panoptic models; this one knows no single objects")
    if task.predicts is not Semantic and (options.tile is not None or options.flip or tuple(options.scales) != (1.0,)):
        raise ValueError("--tile, --scales and --flip are for semantic models; leave them out")


@torch.inference_mode()
def predict_photo(
    model: Any, task: Task, image: Tensor, path: Path, options: Options, png: str | None = None
) -> Prediction:
    """Predict one photo at the size that ``model.geometry`` asks for; results have the photo's own size.

    Label maps are made tile by tile where the photo is large; masks of objects are unpacked one at a time. So a large
    photo takes little more memory than what the model needs.

    Args:
        model: a :class:`~seglib.types.SegmentationModel` of the task.
        task: makes the predictions.
        image: ``(C, H, W)`` on the model's device.
        path: the photo's path.
        options: checked by :func:`check_options`.
        png: the name under which the labels will be written, if they are; a panoptic entry refers to it.
    """
    if task.predicts is Semantic:
        labels = predict_tiled(
            model, image, tile=options.tile, geometry=model.geometry, scales=options.scales, flip=options.flip
        )
        return _semantic(labels.numpy(), task, image, path, options)
    batch = collate([ResizedFor([Sample(image, path.name)], model.geometry)[0]])
    found = task.predict(model, batch)[0].to("cpu")
    if task.predicts is Panoptic:
        return _panoptic(found, task, image, path, options, png)
    return _RESULTS[task.predicts](found, task, image, path, options)


def _semantic(classes: np.ndarray, task: Task, image: Tensor, path: Path, options: Options) -> Prediction:
    """The class of every pixel; as JSON the share of every class."""
    share = {c.name: round(float((classes == c.id).mean()), 4) for c in task.categories}
    labels = labels_to_files(classes, options.file_ids, options.void_id)
    named = zip(options.file_ids, task.categories, strict=False)
    palette = {file_id: c.color for file_id, c in named if file_id is not None}
    if options.void_id is not None:
        palette[options.void_id] = VOID_COLOR
    shown = partial(overlay, _rgb(image), classes, task.categories)
    return Prediction(labels, shown, [_facts(image, path) | {"share": share}], palette)


def _regions(found: Regions, task: RegionTask, image: Tensor, path: Path, options: Options) -> Prediction:
    """Where each region is; as JSON the share of every region."""
    share = {n: round(float(m.float().mean()), 4) for n, m in zip(task.regions, found.masks, strict=True)}
    labels = np.zeros(found.masks.shape[1:], np.uint8)
    for i, mask in enumerate(found.masks, start=1):
        labels[mask.numpy()] = i
    shown = Instances(found.masks, torch.arange(len(found.masks)), torch.zeros(len(found.masks), 4))
    return Prediction(labels, partial(overlay_instances, _rgb(image), shown), [_facts(image, path) | {"share": share}])


def _instances(objects: Instances, task: Task, image: Tensor, path: Path, options: Options) -> Prediction:
    """The objects; as JSON a list of COCO results with ``file_name``, and ``image_id`` where the ids are known."""
    assert objects.scores is not None  # predictions have scores
    objects = objects[objects.scores >= (0.5 if options.score is None else options.score)]
    labels = np.zeros(objects.size, np.uint8)
    for rank in range(min(len(objects), 255), 0, -1):  # the best on top
        labels[objects[rank - 1].masks[0].numpy()] = rank
    identity: dict[str, Any] = {"file_name": path.name}
    if options.image_ids is not None:
        identity["image_id"] = options.image_ids[path]
    entries = []
    for found in objects:
        for entry in coco_results([found], [0], options.file_ids):
            del entry["image_id"]
            entries.append({**identity, **entry, "category": task.categories[int(found.labels)].name})
    return Prediction(labels, partial(overlay_instances, _rgb(image), objects), entries)


def _panoptic(found: Panoptic, task: Task, image: Tensor, path: Path, options: Options, png: str | None) -> Prediction:
    """The segments; as JSON an annotation of COCO's panoptic format, with ``image_id`` where the ids are known."""
    image_id = path.name if options.image_ids is None else options.image_ids[path]
    annotation, pixels = coco_panoptic_annotation(found, image_id, options.file_ids, file_name=png)
    if options.image_ids is None:
        del annotation["image_id"]
    if png is None:
        del annotation["file_name"]
    names = {s.id: task.categories[s.category_id].name for s in found.segments}
    for segment in annotation["segments_info"]:
        segment["category"] = names[segment["id"]]
    shown = partial(overlay_panoptic, _rgb(image), found, task.categories)
    return Prediction(pixels.numpy(), shown, [_facts(image, path) | annotation])


_RESULTS: dict[type | None, Callable[..., Prediction]] = {Regions: _regions, Instances: _instances}
"""What makes a photo's results of a prediction, by its type."""


def _facts(image: Tensor, path: Path) -> dict[str, Any]:
    return {"photo": str(path), "height": image.shape[1], "width": image.shape[2]}


def _rgb(image: Tensor) -> np.ndarray:
    """What an overlay lies on, ``(H, W, 3)`` uint8: the image, its first three channels, or its first as grey.

    In bytes: an overlay is made after the floats of a large photo have gone.
    """
    return to_rgb8(image[:3] if len(image) >= 3 else image[:1])


def read_photo(path: Path, model: Any, metadata: Mapping[str, Any]) -> Tensor:
    """A photo as the model was trained to see it, ``(C, H, W)``: with its channels and scaled as its images were.

    It stands upright, unless the training data were read as they are stored (``--stored-orientation``).

    Args:
        path: the file.
        model: the model.
        metadata: metadata of the weights that the model was loaded from.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it can't be read or has other channels.
    """
    upright = metadata.get("own_files", {}).get("upright") is not False
    image = read_bands(path, metadata.get("arguments", {}).get("in_channels", 3), upright=upright)
    return model.intensity(image) if hasattr(model, "intensity") else image


def photos_at(paths: Sequence[Path]) -> list[Path]:
    """The photos at some paths; of a folder, all photos in it by name, without those in folders below and hidden ones.

    Raises:
        FileNotFoundError: when there is nothing at a path.
        ValueError: when a folder holds no photo.
    """
    return [photo for path in paths for photo in _photos_at(path)]


def _photos_at(path: Path) -> list[Path]:
    if path.is_dir():
        photos = sorted(
            p
            for p in path.iterdir()
            if p.suffix.lower() in IMAGE_ENDINGS and not p.name.startswith(".") and p.is_file()
        )
        if not photos:
            raise ValueError(f"{path} holds no photo; expected files ending in {', '.join(IMAGE_ENDINGS)}")
        return photos
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    return [path]


def png_targets(out: Path | None, photos: list[Path], asked: Sequence[Path]) -> list[Path]:
    """Where the PNG of each photo goes; refuses beforehand what would only fail, or overwrite, half-way.

    Args:
        out: what the user named: a PNG file for a photo, a folder for several or a folder of them. ``None`` gives an
            empty list.
        photos: the photos, as :func:`photos_at` found them.
        asked: the paths that they were found at.

    Raises:
        ValueError: when ``out`` is a file for several photos or no PNG for one, when two photos would share a result,
            or a result would replace a photo or another file that seglib didn't write.
    """
    if out is None:
        return []
    if len(asked) == 1 and not asked[0].is_dir():
        if out.suffix.lower() != ".png":
            raise ValueError(f"{out} is no name of a PNG file; for one photo name a file that ends in .png")
        targets = [out]
    else:
        if out.suffix.lower() == ".png" or out.is_file():
            many = f"{asked[0]} is a folder of photos" if len(asked) == 1 else f"there are {len(asked)} photos"
            raise ValueError(f"{many}, and {out} is a file; name a folder for the results")
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
        if not may_replace(target):
            raise ValueError(
                f"{target} is there already, and seglib didn't write it; choose another place, or move it away"
            )
    return targets


def size_note(geometry: Any, sizes: Sequence[Size], tiled: bool) -> str | None:
    """What to say of photos that a model sees at another size than their own; ``None`` when there are none.

    Args:
        geometry: a :class:`~seglib.ops.geometry.Geometry`, how photos are resized.
        sizes: the photos' own (H, W).
        tiled: whether the model's task can go through a photo in tiles.
    """
    resized = [size for size in sizes if tuple(geometry.model_size(size)) != tuple(size)]
    if not resized:
        return None
    largest = max(resized, key=lambda size: size[0] * size[1])
    (height, width), (h, w) = largest, geometry.model_size(largest)
    remedy = "--short-side 0 shows it their own size, in tiles (--tile)" if tiled else "--short-side shows it another"
    return (
        f"the model saw {len(resized)} of {len(sizes)} photos at another size, as its weights say: {height}x{width} "
        f"(height x width) at {h}x{w}; what is small may be lost, and {remedy}"
    )
