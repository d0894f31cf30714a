"""``seglib predict`` with prompts and ``seglib masks``: what a promptable model says about photos."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seglib.commands import options
from seglib.commands.console import counted, note, one_line, say, say_what_was_done, shown
from seglib.commands.stored import load
from seglib.data.images import read_image, write_png
from seglib.ops.masks import masks_to_boxes
from seglib.ops.rle import encode_rle, rle_areas
from seglib.ops.rle_masks import RLEMasks
from seglib.postprocess.everything import Everything, segment_everything
from seglib.postprocess.prompt import Predictor, check_prompts
from seglib.types import Instances
from seglib.viz import instance_colors, number_palette, overlay_instances
from seglib.viz.prompts import draw_prompts

GAP = 0.01
"""Share of a photo's width between the three answers of ``--several``."""


@dataclass(frozen=True)
class Question:
    """What is asked about a photo: for one object by points and perhaps a box, or for one object in each box.

    Attributes:
        points: clicks (x, y) in pixels of the photo.
        labels: for each click 1 on the object, 0 on the background.
        boxes: boxes (x0, y0, x1, y1) in pixels of the photo.
        several: whether the three answers to an ambiguous prompt are wanted, not only the best.
    """

    points: list[tuple[float, ...]]
    labels: list[int]
    boxes: list[tuple[float, ...]]
    several: bool

    @property
    def ambiguous(self) -> bool:
        """Whether it leaves open what is meant: a single click can be a part, an object or a group."""
        return not self.boxes and len(self.points) == 1


def read_question(
    point: Sequence[str] | None, background: Sequence[str] | None, box: Sequence[str] | None, several: bool
) -> Question:
    """The question that ``--point``, ``--background``, ``--box`` and ``--several`` ask.

    Raises:
        ValueError: when nothing is asked for, a text is not made of numbers, or it is unclear whose points these are.
    """
    on, off, around = point or [], background or [], box or []
    if not on and not around:
        alone = "--background only says what is not meant" if off else "say what to segment"
        raise ValueError(
            f"{alone}: pass --point x,y or --box x0,y0,x1,y1; `seglib masks` segments everything, without a prompt"
        )
    if len(around) > 1 and (on or off):
        raise ValueError(
            f"it is unclear which of {len(around)} boxes the points belong to; pass points with one box, or boxes alone"
        )
    clicks = [options.numbers(text, "--point", "x,y") for text in on]
    clicks += [options.numbers(text, "--background", "x,y") for text in off]
    corners = [options.numbers(text, "--box", "x0,y0,x1,y1") for text in around]
    return Question(clicks, [1] * len(on) + [0] * len(off), corners, several)


def answer(
    photo: Path,
    question: Question,
    weights: Path,
    device: str,
    task: str | None,
    *,
    out: Path | None,
    labels: Path | None,
    as_json: bool,
) -> None:
    """``seglib predict`` with prompts: the masks of one photo."""
    image = read_image(photo)  # (3, H, W)
    clicks: dict[str, Any] = {"points": question.points, "labels": question.labels} if question.points else {}
    check_prompts(tuple(image.shape[1:]), **clicks, boxes=question.boxes or None)  # before the model works
    net, _, _ = load(weights, device, task)
    predictor = Predictor(net)
    predictor.set_image(_as_8_bit(image))
    three = net.ambiguous and (question.several or question.ambiguous)
    objects: list[Any] = question.boxes or [None]
    found: list[Instances] = []  # of each object its answers, the best first
    for box in objects:
        answers = predictor.predict(**clicks, boxes=box, several=three)
        order = answers.iou[0].argsort(descending=True)[: 3 if question.several else 1]
        found.append(_instances(answers.masks[0, order].cpu(), answers.iou[0, order].cpu()))
    if out is not None:
        write_png(out, _overlay(image, found, question))
    if labels is not None:
        write_png(labels, _label_map(found), number_palette())
    entries = []
    for i, (box, masks) in enumerate(zip(objects, found, strict=True), start=1):
        asked: dict[str, Any] = {}
        if clicks:
            asked = {"point_coords": question.points, "point_labels": question.labels}
        if box is not None:
            asked["box"] = box
        entries += _entries(photo, masks, [asked] * len(masks))
        if not as_json:
            name = f"object {i}" if len(found) > 1 else "the object"
            say(f"{name}: " + "; ".join(_in_words(mask) for mask in masks))
    say_what_was_done("photo", 1, [], entries if as_json else None, (out, labels))


def segment_photos(
    photos: Sequence[Path],
    overlays: Sequence[Path],
    weights: Path,
    device: str,
    *,
    out: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """``seglib masks``: everything in each photo. The settings are those of the model that are to be others."""
    net, _, _ = load(weights, device, None)
    rules = replace(net.everything, **{name: value for name, value in settings.items() if value is not None})
    entries: list[dict[str, Any]] = []
    failed, count = [], 0
    for i, path in enumerate(shown(photos, "masks", quiet=as_json)):
        try:
            image = read_image(path)  # (3, H, W)
            found = segment_everything(net, _as_8_bit(image), rules)
        except (ValueError, OSError) as error:
            failed.append(one_line(error))
            continue
        if not len(found):
            note(f"{path}: no mask is good enough; a lower --iou or --stability lets more through")
        if overlays:
            write_png(overlays[i], overlay_instances(image, found.instances))
        if as_json:
            entries += _entries(path, found.instances, _sources(found))
        count += len(found)
    if not as_json and len(failed) < len(photos):
        say(counted(count, "mask"))
    say_what_was_done("photo", len(photos), failed, entries if as_json else None, (out,))


def _as_8_bit(image: Tensor) -> Tensor:
    """The image ``(3, H, W)`` as uint8, which Pillow resizes: what published weights have seen."""
    return (image * 255).round().to(torch.uint8)


def _instances(masks: Tensor, iou: Tensor) -> Instances:
    """Masks ``(n, H, W)`` with their predicted IoU, ``(n,)``."""
    return Instances(masks, torch.zeros(len(masks), dtype=torch.int64), masks_to_boxes(masks), iou)


def _entries(photo: Path, found: Instances, more: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The masks of a photo as JSON, each with what else is known of it."""
    assert found.scores is not None  # predictions have scores
    rles = found.packed.rles if isinstance(found.packed, RLEMasks) else encode_rle(found.masks)
    boxes = torch.cat([found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]], 1)  # (N, 4) xywh
    rows = zip(rles, rle_areas(rles).tolist(), boxes.tolist(), found.scores.tolist(), more, strict=True)
    return [
        {"file_name": photo.name, "area": area, "bbox": box, "predicted_iou": iou, **facts, "segmentation": rle}
        for rle, area, box, iou, facts in rows
    ]


def _sources(found: Everything) -> list[dict[str, Any]]:
    """Of each mask how stable it is, and the click and the crop that it comes from."""
    rows = zip(found.stability.tolist(), found.points.tolist(), found.crops.tolist(), strict=True)
    return [
        {"stability_score": stability, "point_coords": [point], "crop_box": [x0, y0, x1 - x0, y1 - y0]}
        for stability, point, (x0, y0, x1, y1) in rows
    ]


def _overlay(image: Tensor, found: Sequence[Instances], question: Question) -> np.ndarray:
    """The masks and the prompts on the photo; several answers side by side, the best on the left."""
    colors = instance_colors(len(found))
    panels = []
    for rank in range(len(found[0])):
        painted = overlay_instances(image, Instances.cat([answers[rank] for answers in found]), colors=colors)
        panels.append(draw_prompts(painted, question.points, question.labels, question.boxes))
    gap = max(1, round(GAP * image.shape[2]))
    return np.hstack([np.pad(p, ((0, 0), (0, gap), (0, 0)), constant_values=255) for p in panels])[:, :-gap]


def _label_map(found: Sequence[Instances]) -> np.ndarray:
    """The objects numbered 1, 2, … in the order of their boxes, ``(H, W)``, 0 for none; later ones lie on top."""
    labels = np.zeros(found[0].size, np.uint8 if len(found) < 256 else np.uint16)
    for i, answers in enumerate(found, start=1):
        labels[answers.masks[0].numpy()] = i
    return labels


def _in_words(mask: Instances) -> str:
    assert mask.scores is not None  # predictions have scores
    share = mask.masks.float().mean()
    return f"{int(mask.masks.sum()):,} pixels ({share:.1%} of the photo), predicted IoU {float(mask.scores):.2f}"
