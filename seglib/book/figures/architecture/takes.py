"""What the drawings of one-stage models take from a call of the model, how it is painted, and what switches change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seglib.book.figures.architecture import paint, painters
from seglib.book.figures.architecture.parts import Call, Scene, Swap
from seglib.models.base import Model
from seglib.models.condinst import CondInst
from seglib.models.solov2 import SOLOv2, draw, point_nms
from seglib.ops.dynamic_masks import DynamicMasks
from seglib.ops.masks import mask_iou
from seglib.ops.nms import matrix_nms
from seglib.types import Instances

LEAST = 0.5
"""The score from which detections are drawn."""


def _size(call: Call) -> tuple[int, int]:
    height, width = call.output.sizes[0].tolist()
    return height, width


def kept(part: Callable[[DynamicMasks], Any], model: Model) -> Callable[[Call], Any]:
    """What takes a part of the detections' packed masks from the model's call."""
    return lambda call: part(model.postprocess(call.output, [_size(call)])[0].packed)


def boxes(model: Model) -> Callable[[Call], tuple[Tensor, ...]]:
    """What takes all detected boxes, and boxes and labels of those that are drawn, from the model's call."""

    def take(call: Call) -> tuple[Tensor, ...]:
        found = model.postprocess(call.output, [_size(call)])[0]
        assert found.scores is not None  # those of predictions
        kept = found.scores >= LEAST
        return found.boxes, found.boxes[kept], found.labels[kept]

    return take


def with_masks(change: Callable[[DynamicMasks], DynamicMasks]) -> Swap:
    """A model whose predictions have other packed masks."""

    def make(model: Model) -> Callable[..., list[Instances]]:
        usual = model.postprocess

        def postprocess(*args: Any, **keywords: Any) -> list[Instances]:
            found = usual(*args, **keywords)
            return [f.replace(masks=change(f.packed)) for f in found]

        return postprocess

    return Swap("postprocess", make)


# YOLACT


def best_anchor(call: Call) -> tuple[Tensor, Tensor]:
    """All class logits, and the probability of the best class of any anchor and level at every cell of the finest."""
    logits, maps, begin = call.output[0], [], 0
    probs = logits[0].softmax(-1)[:, :-1].amax(-1)  # (A,)
    shapes = [level.shape[-2:] for level in call.arguments[0]]
    per_cell = len(probs) // sum(h * w for h, w in shapes)
    for h, w in shapes:
        count = h * w * per_cell
        maps.append(probs[begin : begin + count].view(h, w, per_cell).amax(-1))
        begin += count
    return logits, painters.best_of(maps)


def without_negative(head: Any, arguments: tuple[Any, ...], output: Any) -> tuple[Tensor, ...]:
    """The head's output with 0 for every negative coefficient."""
    logits, deltas, coefficients = output
    return logits, deltas, coefficients.clamp(min=0)


# CondInst


def scores_of_locations(net: CondInst) -> Callable[[Call], tuple[Tensor, Tensor]]:
    """What takes all class logits, and the best score of any level at every cell of the finest."""

    def take(call: Call) -> tuple[Tensor, Tensor]:
        out = call.output
        best = out.class_logits[0].sigmoid().amax(1) * out.centerness[0].sigmoid()  # (L,)
        maps, height = [], out.canvas.tolist()[0]
        for i, stride in enumerate(net.levels.strides):
            own = best[out.level == i]
            h = -(-height // stride)
            maps.append(own.view(h, len(own) // h))
        return out.class_logits, painters.best_of(maps)

    return take


def filters_of_the_best(masks: DynamicMasks) -> DynamicMasks:
    """Masks that all have the first detection's filters."""
    return replace(masks, parameters=masks.parameters[:1].expand_as(masks.parameters))


def certain(module: Any, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
    """Centerness logits of 1 everywhere."""
    return torch.full_like(output, 20.0)


def zeros(net: CondInst) -> Callable[..., tuple[Tensor, Tensor]]:
    """Relative coordinates that are 0 everywhere."""
    usual = net.coordinates

    def coordinates(*args: Any) -> tuple[Tensor, Tensor]:
        x, y = usual(*args)
        assert x is not None and y is not None  # there is no such switch without them
        return torch.zeros_like(x), torch.zeros_like(y)

    return coordinates


def coordinates(masks: DynamicMasks) -> Tensor:
    """Relative coordinates of the detections, ``(D, 2, h, w)``."""
    height, width = masks.features.shape[1:]
    x, y = masks.x, masks.y
    assert x is not None and y is not None  # the block is drawn only where there are some
    return torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], 1)


def paint_coordinates(value: Tensor, scene: Scene) -> np.ndarray:
    """The first coordinates ``(D, 2, h, w)``: red grows with x, green with y, both from −1 to 1."""
    xy = 0.5 + 0.5 * value / (1 + value.abs())
    colors = torch.cat([xy, torch.full_like(xy[:, :1], 0.5)], 1)  # (D, 3, h, w)
    sheet = paint.shrink(paint.sheet(colors, painters.COLUMNS, painters.ROWS, gap=0.5), paint.IMAGE)
    return (sheet.permute(1, 2, 0).numpy().round(4) * 255).astype(np.uint8)


# SOLOv2


def _grids(net: SOLOv2, call: Call) -> list[Tensor]:
    """Class scores of the cells after point NMS, ``(K, G, G)`` of each level."""
    parts = call.output.category_logits[0].sigmoid().split([g * g for g in net.head.grids])
    return [point_nms(p.T.unflatten(1, (g, g))) for p, g in zip(parts, net.head.grids, strict=True)]


def cell_classes(net: SOLOv2) -> Callable[[Call], tuple[Tensor, Tensor]]:
    """What takes all class logits, and the best probability of any level at every cell of the finest grid."""

    def take(call: Call) -> tuple[Tensor, Tensor]:
        logits = call.output.category_logits
        parts = logits[0].sigmoid().amax(1).split([g * g for g in net.head.grids])
        return logits, painters.best_of([p.view(g, g) for p, g in zip(parts, net.head.grids, strict=True)])

    return take


def cells(net: SOLOv2) -> Callable[[Call], tuple[Tensor, Tensor]]:
    """What takes the cells that draw masks, and their scores on the finest grid."""

    def take(call: Call) -> tuple[Tensor, Tensor]:
        least = net.detections.threshold
        maps = [s.amax(0).where(s.amax(0) > least, 0) for s in _grids(net, call)]
        cells = torch.cat([m.flatten() for m in maps]).nonzero()[:, 0]
        return cells, painters.best_of(maps)

    return take


def _before_nms(net: SOLOv2, call: Call) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Classes and scores before Matrix NMS, by falling score; their kernels and the masks' probabilities."""
    out, usual = call.output, net.detections
    net.detections = replace(without_nms(net), min_score=0.0, max_detections=usual.pre_nms_top_k)
    try:
        cells, labels, scores = net.detect(out.category_logits[0], out.kernels[0], out.mask_features[0])
    finally:
        net.detections = usual
    kernels = out.kernels[0, cells]
    return labels, scores, kernels, draw(out.mask_features[0], kernels, net.mask_factor).sigmoid()


def candidates(net: SOLOv2, part: int) -> Callable[[Call], Tensor]:
    """What takes a part of ``_before_nms``: 0 classes, 1 scores, 2 kernels, 3 probabilities."""
    return lambda call: _before_nms(net, call)[part]


def lowered(net: SOLOv2) -> Callable[[Call], Tensor]:
    """Scores before and after Matrix NMS, ``(2, N)``."""

    def take(call: Call) -> Tensor:
        labels, scores, _, probs = _before_nms(net, call)
        masks, s = probs > net.detections.mask_threshold, net.detections
        return torch.stack([scores, matrix_nms(mask_iou(masks, masks), labels, scores, kernel=s.kernel, sigma=s.sigma)])

    return take


def paint_before_after(value: Tensor, scene: Scene) -> np.ndarray:
    """Two rows of scores ``(2, N)``, the first 16, large enough to see."""
    scores = value[:, :16] if value.shape[1] else value.new_zeros(2, 1)
    return painters.on_scale(scores.repeat_interleave(10, 0).repeat_interleave(2, 1))


def without_nms(net: SOLOv2) -> Any:
    """Settings with a σ that lowers nothing."""
    return replace(net.detections, nms="matrix", kernel="gaussian", sigma=1e-9)
