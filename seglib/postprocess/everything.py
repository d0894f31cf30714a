"""Everything mode: masks of all that is in an image, from a grid of clicks.

::

    image ─► crops ── each: embed once, a click at every point of a grid ─► three masks for each click
                                                                                 │
          predicted IoU high? ─► stable under another threshold? ─► away from the crop's edges? ─► run-length code
                                                                                                       │
    masks ◄── small holes and islands removed ◄── NMS of all crops, small crops first ◄── NMS of each crop

Most clicks hit the same things, and most masks are dropped. The predicted IoU is known before a mask is resized, so it
comes first; what remains is resized a few masks at a time and kept as run-length codes.

Source: Kirillov et al., "Segment Anything", ICCV 2023, appendix B, and its published code, which gives the same masks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from seglib.ops.boxes import box_area
from seglib.ops.masks import masks_to_boxes
from seglib.ops.nms import nms
from seglib.ops.rle import RLE, decode_rle, encode_rle
from seglib.ops.rle_masks import RLEMasks
from seglib.postprocess.prompt import Predictor, PromptableModel, chunk_length, restore_logits
from seglib.types import Instances, PromptOutput, Size

EDGE = 20.0
"""Pixels: a mask that comes so close to an edge of its crop was probably cut off there."""


@dataclass(frozen=True)
class EverythingSettings:
    """How everything mode clicks, and which masks it keeps. The defaults are those of the published code.

    Attributes:
        points_per_side: number of clicks along each side of the image, at least 1.
        points_per_batch: number of clicks that are answered at once, at least 1.
        iou_threshold: lowest predicted IoU of a mask that is kept, itself excluded; 0 or less keeps all.
        stability_threshold: lowest stability of a mask that is kept (:func:`stability_score`); 0 or less keeps all.
        stability_offset: how far the logits' threshold is moved to both sides to measure the stability, at least 0.
        box_nms: IoU of the boxes of two masks from one crop above which the one with the lower predicted IoU is
            dropped, in [0, 1].
        crop_layers: number of layers of smaller crops, which are treated like images: layer i has 2ⁱ × 2ⁱ crops.
        crop_nms: IoU of the boxes of two masks from different crops above which that of the larger crop is dropped,
            in [0, 1].
        crop_overlap: overlap of neighbouring crops in shares of the image's shorter side; it halves from layer to
            layer. In [0, 1].
        crop_points_downscale: factor by which the clicks along each side become fewer from layer to layer, at least 1.
        min_area: holes and islands of fewer pixels are removed; 0 leaves masks as they are.

    Raises:
        ValueError: when a number is out of range, or the last layer would have no clicks.
    """

    points_per_side: int = 32
    points_per_batch: int = 64
    iou_threshold: float = 0.88
    stability_threshold: float = 0.95
    stability_offset: float = 1.0
    box_nms: float = 0.7
    crop_layers: int = 0
    crop_nms: float = 0.7
    crop_overlap: float = 512 / 1500
    crop_points_downscale: int = 1
    min_area: int = 0

    def __post_init__(self) -> None:
        for name, least in {
            "points_per_side": 1,
            "points_per_batch": 1,
            "stability_offset": 0,
            "crop_layers": 0,
            "crop_points_downscale": 1,
            "min_area": 0,
        }.items():
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("box_nms", "crop_nms", "crop_overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if self.points_in_layer(self.crop_layers) < 1:
            raise ValueError(
                f"{self.points_per_side} points per side leave none in crop layer {self.crop_layers} when each layer "
                f"has {self.crop_points_downscale} times fewer; take more points or fewer layers"
            )

    def points_in_layer(self, layer: int) -> int:
        """The number of clicks along each side of a crop of a layer; layer 0 is the whole image."""
        return self.points_per_side // self.crop_points_downscale**layer


@dataclass(frozen=True, eq=False)
class Everything:
    """The masks of all that is in an image, and where they come from.

    Attributes:
        instances: N masks, kept as run-length codes (:class:`~seglib.ops.rle_masks.RLEMasks`), with their boxes, the
            label 0 and as scores the predicted IoU, which nothing keeps within [0, 1].
        points: click that each mask answers, ``(N, 2)`` as (x, y) in pixels of the image.
        stability: stability score of each mask, ``(N,)`` in [0, 1].
        crops: crop that each mask was found in, ``(N, 4)`` xyxy.
    """

    instances: Instances
    points: Tensor
    stability: Tensor
    crops: Tensor

    def __len__(self) -> int:
        return len(self.instances)


def segment_everything(model: PromptableModel, image: Tensor, settings: EverythingSettings | None = None) -> Everything:
    """Find masks of all that is in an image.

    Memory, beside the model's: the masks of some of a batch's clicks at the size of the image, and all masks that were
    kept so far as run-length codes.

    Args:
        model: a promptable model, such as ``build("sam_vit_b")``.
        image: image ``(3, H, W)``, or grey ``(1, H, W)``, uint8, or float in [0, 1]. See
            :meth:`~seglib.postprocess.prompt.Predictor.set_image` for how they differ.
        settings: how to click and what to keep; the defaults when ``None``.

    Returns:
        The masks by falling predicted IoU. With crops those of smaller crops come first, with ``min_area`` those that
        had nothing removed.

    Raises:
        ValueError: when the image is malformed, or too small for the crop layers.
    """
    settings = settings or EverythingSettings()
    predictor = Predictor(model)
    predictor.set_image(image)
    size = (image.shape[1], image.shape[2])
    boxes, layers = crop_boxes(size, settings.crop_layers, settings.crop_overlap)
    crops = []
    for box, layer in zip(boxes, layers.tolist(), strict=True):
        x0, y0, x1, y1 = box.tolist()
        if layer > 0:
            predictor.set_image(image[:, y0:y1, x0:x1])
        grid = point_grid(settings.points_in_layer(layer)) * torch.tensor([x1 - x0, y1 - y0])  # (P, 2) in the crop
        parts = []
        for points in grid.split(settings.points_per_batch):
            answers = predictor.decode(points=points[:, None]).several
            parts.append(_good_masks(answers, points, box, size, predictor.model_size, model.image_size, settings))
        crops.append(_without_duplicates(_join(parts), settings.box_nms))
    found = _join(crops)
    if len(boxes) > 1:
        small_first = 1 / box_area(found.crops)
        found = found.pick(nms(_index_boxes(found.boxes), small_first, settings.crop_nms))
    found = _without_small_regions(found, size, settings)
    return Everything(_instances(found, size), found.points, found.stability, found.crops)


def select_masks(
    answers: PromptOutput, points: Tensor, size: Size, output_size: Size, image_size: int, settings: EverythingSettings
) -> Instances:
    """The masks worth keeping among the answers to many clicks, without duplicates: everything mode of one crop.

    Args:
        answers: M masks for each of N clicks.
        points: clicks ``(N, 2)`` as (x, y), in any pixels.
        size: size ``(H', W')`` of the image as the model saw it, without padding.
        output_size: size ``(H, W)`` in which masks and boxes are wanted.
        image_size: side of the model's frame in pixels.
        settings: what to keep; what it says about clicks and crops has no meaning here.

    Returns:
        Masks as run-length codes, with boxes, the label 0 and as scores the predicted IoU, by falling score.
    """
    height, width = output_size
    box = torch.tensor([0, 0, width, height])
    found = _good_masks(answers, points, box, (height, width), size, image_size, settings)
    found = _without_duplicates(found, settings.box_nms)
    return _instances(_without_small_regions(found, (height, width), settings), (height, width))


def point_grid(count: int) -> Tensor:
    """The centres of ``count`` × ``count`` cells of the unit square, row by row: ``(count², 2)`` float64 as (x, y)."""
    centres = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return torch.cartesian_prod(centres, centres).flip(1)


def crop_boxes(size: Size, layers: int, overlap: float) -> tuple[Tensor, Tensor]:
    """The crops of an image: the image itself, then 2 × 2 crops, 4 × 4, …

    In layer i neighbours overlap by ``overlap`` · (shorter side) · 2 / 2ⁱ pixels, rounded down.

    Args:
        size: size ``(H, W)`` of the image.
        layers: number of layers of crops beside the image.
        overlap: overlap in shares of the shorter side, in [0, 1].

    Returns:
        Boxes ``(N, 4)`` int64 xyxy, and the layer of each, ``(N,)`` int64. Those of a layer go column by column.

    Raises:
        ValueError: when the image is so small that a crop would be empty.
    """
    height, width = size
    boxes, layer_of = [(0, 0, width, height)], [0]
    for layer in range(1, layers + 1):
        count = 2**layer
        shared = int(overlap * min(height, width) * (2 / count))
        w, h = (math.ceil((shared * (count - 1) + side) / count) for side in (width, height))
        for i, j in itertools.product(range(count), range(count)):
            x, y = (w - shared) * i, (h - shared) * j
            boxes.append((x, y, min(x + w, width), min(y + h, height)))
            layer_of.append(layer)
    if any(x0 >= x1 or y0 >= y1 for x0, y0, x1, y1 in boxes):
        raise ValueError(f"an image of {height} x {width} pixels is too small for {layers} layers of crops; take fewer")
    return torch.tensor(boxes), torch.tensor(layer_of)


def stability_score(logits: Tensor, offset: float = 1.0, threshold: float = 0.0) -> Tensor:
    r"""How much of a mask stays when its threshold moves: the IoU of the masks at a higher and a lower threshold.

    .. math:: \frac{|\{x > t + o\}|}{|\{x > t - o\}|}

    The higher mask lies within the lower one, so the two counts are intersection and union. Of an empty lower mask the
    published code divides 0 by 0; here the score is 0, and such a mask is dropped by any threshold above 0, as there.

    Args:
        logits: masks ``(…, H, W)``.
        offset: o, at least 0.
        threshold: t.

    Returns:
        ``(…,)`` float32 in [0, 1].
    """
    inner, outer = (_count(logits > threshold + sign * offset) for sign in (1, -1))
    return inner / outer.clamp(min=1)


def near_crop_edge(boxes: Tensor, crop: Tensor, size: Size, *, tolerance: float = EDGE) -> Tensor:
    """Whether a mask was probably cut off by its crop: its box ends at an edge of the crop that isn't the image's.

    Args:
        boxes: boxes of masks in the image, ``(N, 4)`` xyxy, from the index of the first pixel to that of the last.
        crop: box of the crop in the image, ``(4,)`` xyxy.
        size: size ``(H, W)`` of the image.
        tolerance: distance in pixels up to which two edges count as the same.

    Returns:
        ``(N,)`` bool.
    """
    image = crop.new_tensor([0, 0, size[1], size[0]])
    at_crop, at_image = ((boxes - edges).abs() <= tolerance for edges in (crop, image))  # (N, 4)
    return (at_crop & ~at_image).any(1)


def remove_small_regions(mask: Tensor, min_area: int, *, holes: bool) -> tuple[Tensor, bool]:
    """The mask without its small holes, or without its small islands.

    A hole is a connected region outside the mask, also at the border of the image; an island is one of the mask. Pixels
    are connected when they share an edge or a corner. Where all islands are small, the largest one stays.

    Args:
        mask: one mask ``(H, W)`` bool.
        min_area: regions of fewer pixels are removed.
        holes: whether holes are filled; else islands are removed.

    Returns:
        The mask, and whether any region was small. That is true of a lone small island, too, which stays.
    """
    pixels = mask.cpu().numpy()
    regions, count = ndimage.label(pixels != holes, np.ones((3, 3)))
    sizes = np.bincount(regions.ravel(), minlength=count + 1)
    sizes[0] = min_area  # what lies outside the regions is none of them
    small = sizes < min_area  # (count + 1,)
    if not small.any():
        return mask, False
    if not holes and small[1:].all():
        small[1 + sizes[1:].argmax()] = False
    return torch.from_numpy(pixels ^ small[regions]).to(mask.device), True


class _Found(NamedTuple):
    """Masks as codes, and what is known of each."""

    rles: list[RLE]
    boxes: Tensor
    iou: Tensor
    points: Tensor
    stability: Tensor
    crops: Tensor

    def pick(self, index: Tensor) -> _Found:
        return _Found([self.rles[i] for i in index.tolist()], *(values[index] for values in self[1:]))


def _join(parts: Sequence[_Found]) -> _Found:
    rles = [rle for part in parts for rle in part.rles]
    return _Found(rles, *(torch.cat(values) for values in zip(*(part[1:] for part in parts), strict=True)))


def _instances(found: _Found, size: tuple[int, int]) -> Instances:
    masks = RLEMasks(tuple(found.rles), size, found.boxes.device)
    return Instances(masks, torch.zeros(len(found.rles), dtype=torch.int64, device=found.boxes.device), *found[1:3])


def _good_masks(
    answers: PromptOutput,
    points: Tensor,
    crop: Tensor,
    size: tuple[int, int],
    model_size: Size,
    image_size: int,
    settings: EverythingSettings,
) -> _Found:
    """The good masks among M answers to each of N clicks ``(N, 2)`` in a crop of an image of ``size``."""
    device = answers.logits.device
    logits, iou = answers.logits.flatten(0, 1), answers.iou.flatten().float()  # (N·M, h, w), (N·M,)
    points = points.float().to(device).repeat_interleave(answers.logits.shape[1], 0)  # (N·M, 2)
    if settings.iou_threshold > 0:
        good = iou > settings.iou_threshold
        logits, iou, points = logits[good], iou[good], points[good]
    x0, y0, x1, y1 = crop.tolist()
    crop = crop.to(device, torch.float32)
    margins = (x0, size[1] - x1, y0, size[0] - y1)
    step = chunk_length(1, (y1 - y0, x1 - x0), image_size)
    parts = []
    for begin in range(0, max(1, len(iou)), step):
        part = slice(begin, begin + step)
        fine = restore_logits(logits[part, None], model_size, (y1 - y0, x1 - x0), image_size)[:, 0]  # (n, H, W)
        stability = stability_score(fine, settings.stability_offset)  # (n,)
        good = (stability >= settings.stability_threshold) | (settings.stability_threshold <= 0)
        masks = (fine > 0)[good]
        whole = ~near_crop_edge(_index_boxes(masks_to_boxes(masks)) + crop[[0, 1, 0, 1]], crop, size)
        good[good.clone()] = whole
        masks = F.pad(masks[whole], margins)
        known = (masks_to_boxes(masks), iou[part][good], points[part][good] + crop[:2], stability[good])
        parts.append(_Found(encode_rle(masks), *known, crop.expand(len(masks), -1)))
    return _join(parts)


def _without_duplicates(found: _Found, threshold: float) -> _Found:
    return found.pick(nms(_index_boxes(found.boxes), found.iou, threshold))


def _without_small_regions(found: _Found, size: tuple[int, int], settings: EverythingSettings) -> _Found:
    """The masks without small holes and islands, and without those that are duplicates then."""
    if settings.min_area == 0 or not found.rles:
        return found
    rles, boxes, unchanged = [], [], []
    for rle in found.rles:  # one by one, because a thousand masks at once could fill the memory
        mask, filled = remove_small_regions(decode_rle([rle], size)[0], settings.min_area, holes=True)
        mask, removed = remove_small_regions(mask, settings.min_area, holes=False)
        rles += encode_rle(mask[None])
        boxes.append(masks_to_boxes(mask[None]))
        unchanged.append(not (filled or removed))
    found = found._replace(rles=rles, boxes=torch.cat(boxes).to(found.boxes.device))
    first = found.iou.new_tensor(unchanged)  # masks that needed no repair come first
    return found.pick(nms(_index_boxes(found.boxes), first, max(settings.box_nms, settings.crop_nms)))


def _index_boxes(boxes: Tensor) -> Tensor:
    """Boxes from the first to the last pixel's index, as the published code compares them.

    A mask of one pixel, row or column has a box of no area there. It overlaps with nothing, so no NMS drops it.
    """
    return (boxes - boxes.new_tensor([0, 0, 1, 1])).clamp(min=0)


def _count(masks: Tensor) -> Tensor:
    """The number of true pixels of each mask ``(…, H, W)``: ``(…,)`` int64."""
    narrow = masks.shape[-1] < 2**15
    return masks.sum(-1, dtype=torch.int16 if narrow else torch.int64).sum(-1)  # int16 is 30 times as fast on a CPU
