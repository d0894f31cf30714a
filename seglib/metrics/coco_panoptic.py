"""Panoptic quality from COCO's panoptic files: a JSON file that lists segments, and PNG files whose colours are ids."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from seglib.files import read_json
from seglib.metrics.pq import PanopticQuality, PQScores
from seglib.types import Category, Panoptic, Segment, check_categories

Source = str | PathLike[str]
Entry = dict[str, Any]


def evaluate_coco_panoptic(
    ground_truth_json: Source, ground_truth_folder: Source, results_json: Source, results_folder: Source
) -> PQScores:
    """Panoptic quality of a results file in COCO's panoptic format.

    Both JSON files list ``annotations``, one per image: ``{"image_id", "file_name", "segments_info"}``, and of each
    segment ``{"id", "category_id"}``; the ground truth also has ``categories``. ``file_name`` is a PNG in the folder,
    8-bit RGB, in which a pixel belongs to the segment R + 256 G + 256² B, or to none where that is 0.

    The numbers are panopticapi's, with two differences on purpose. Areas are counted in the PNG files, even where the
    ground truth's JSON says otherwise; and what can't be scored raises. Predictions of further images are left out, as
    there. One thread per core decodes and matches.

    Args:
        ground_truth_json: the annotations (``panoptic_val2017.json``); category ids may have gaps.
        ground_truth_folder: folder of their PNG files.
        results_json: the predictions.
        results_folder: folder of their PNG files.

    Returns:
        The scores. Class k is the k-th category when things are sorted by id, and then stuff by id.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: when the results lack an image, an entry is malformed or names an unknown category, a PNG isn't
            8-bit RGB or has another size than its counterpart, or a PNG and its JSON entry have other ids. The message
            names the file and the id.
    """
    truth, found = _Side.read(ground_truth_json, ground_truth_folder), _Side.read(results_json, results_folder)
    categories, places = truth.class_table()
    if missing := [image_id for image_id in truth.annotations if image_id not in found.annotations]:
        raise ValueError(
            f"{found.path} has no prediction for image {missing[0]} ({len(missing)} of {len(truth.annotations)} images"
            " are missing); where nothing was found, add an entry without segments and a PNG of zeros"
        )

    def score(image_id: int) -> PanopticQuality:
        metric = PanopticQuality(categories)
        prediction, target = (side.panoptic(image_id, categories, places) for side in (found, truth))
        try:
            metric.update(prediction, target)
        except ValueError as error:
            files = f"prediction {found.png(image_id)}, target {truth.png(image_id)}"
            raise ValueError(f"image {image_id} ({files}): {error}") from error
        return metric

    total = PanopticQuality(categories)
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for one in pool.map(score, truth.annotations):
            total.merge(one)
    finally:
        pool.shutdown(cancel_futures=True)
    return total.compute()


@dataclass(frozen=True)
class _Side:
    """The files of one side: the JSON's path and contents, its annotations by image id, the folder of the PNG files."""

    path: Path
    content: Entry
    annotations: dict[int, Entry]
    folder: Path

    @classmethod
    def read(cls, path: Source, folder: Source) -> _Side:
        content = read_json(path)
        annotations: dict[int, Entry] = {}
        try:
            for entry in content["annotations"]:
                if entry["image_id"] in annotations:
                    raise ValueError(f"{path} has two annotations of image {entry['image_id']}; keep one")
                annotations[entry["image_id"]] = entry
        except (KeyError, TypeError) as error:
            raise ValueError(
                f'{path} is no panoptic file ({error!r}); it holds {{"annotations": [{{"image_id", "file_name",'
                ' "segments_info"}, …]}'
            ) from error
        return cls(Path(path), content, annotations, Path(folder))

    def class_table(self) -> tuple[tuple[Category, ...], dict[int, int]]:
        """The categories, things first, and the place of every category id among them."""
        try:
            rows = sorted((not c["isthing"], c["id"], c["name"]) for c in self.content["categories"])
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{self.path} has no class table ({error!r}); every one of its categories needs id, name and isthing"
            ) from error
        table = check_categories([Category(k, name, not stuff, (0, 0, 0)) for k, (stuff, _, name) in enumerate(rows)])
        return table, {category_id: k for k, (_, category_id, _) in enumerate(rows)}

    def png(self, image_id: int) -> Path:
        return self.folder / self.annotations[image_id]["file_name"]

    def panoptic(self, image_id: int, categories: tuple[Category, ...], places: dict[int, int]) -> Panoptic:
        segments = []
        try:
            for s in self.annotations[image_id]["segments_info"]:
                if s["category_id"] not in places:
                    raise ValueError(
                        f"{self.path}, image {image_id}: segment {s['id']} has category_id {s['category_id']}, which"
                        " the ground truth doesn't list; write the predictions with its category ids"
                    )
                category = categories[places[s["category_id"]]]
                # the metric counts areas on the map
                segments.append(Segment(s["id"], category.id, category.isthing, area=0, iscrowd=bool(s.get("iscrowd"))))
            return Panoptic(_read_ids(self.png(image_id)), segments)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{self.path}, image {image_id}: the annotation is malformed ({error!r}); it needs file_name and"
                " segments_info, a list of id and category_id"
            ) from error


def _read_ids(path: Path) -> Tensor:
    """The segment ids in a panoptic PNG, int32 ``(H, W)``."""
    try:
        with Image.open(path) as image:
            if image.format != "PNG" or image.mode != "RGB":
                raise ValueError(
                    f"{path} is {image.format} with mode {image.mode}; segment ids are kept in PNG files of 8-bit RGB"
                    " (no palette, no alpha): id = R + 256 G + 256² B"
                )
            # red, green, blue and an unused byte: as one number, what rgb_to_ids gives, without a pass per colour
            packed = np.frombuffer(image.tobytes("raw", "RGBX"), "<i4").reshape(image.height, image.width)
            return torch.from_numpy(packed & 0xFFFFFF)
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError) as error:  # what Pillow raises for damaged files
        raise ValueError(f"{path} can't be decoded ({error}); write it again") from error
