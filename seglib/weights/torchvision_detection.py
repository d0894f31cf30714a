"""Weights of torchvision's Mask R-CNN, both versions: which of its names is which of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seglib.layers.normalize import IMAGENET_MEAN, IMAGENET_STD
from seglib.ops.geometry import Geometry
from seglib.weights.renaming import Rule, coco_things, numbered_classes, rename

MASK_RCNN: list[Rule] = [
    (r"backbone\.body\.", r"encoder."),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.(weight|bias)", r"backbone.fpn.inner_blocks.\1.0.\2"),  # files before 2022
    (r"backbone\.fpn\.layer_blocks\.(\d)\.(weight|bias)", r"backbone.fpn.layer_blocks.\1.0.\2"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.", lambda m: f"roi_heads.mask_head.{int(m[1]) - 1}.0."),
    (r"rpn\.head\.conv\.(\d)\.0\.", lambda m: f"rpn_head.conv.{2 * int(m[1])}."),
    (r"rpn\.head\.cls_logits\.", r"rpn_head.objectness."),
    (r"rpn\.head\.bbox_pred\.", r"rpn_head.deltas."),
    (r"roi_heads\.box_predictor\.cls_score\.", r"box_head.logits."),
    (r"roi_heads\.box_predictor\.bbox_pred\.", r"box_head.deltas."),
    (r"roi_heads\.mask_predictor\.conv5_mask\.", r"mask_head.upsample."),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.", r"mask_head.predict."),
]
"""What both versions share."""

V1: list[Rule] = [
    *MASK_RCNN,
    (r"encoder\.bn1\.", r"encoder.conv1.norm."),
    (r"encoder\.(layer\d\.\d+)\.bn(\d)\.", r"encoder.\1.conv\2.norm."),
    (r"encoder\.(layer\d\.\d+)\.downsample\.1\.", r"encoder.\1.downsample.0.norm."),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.0\.", r"fpn.lateral.\1."),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.0\.", r"fpn.output.\1."),
    (r"roi_heads\.box_head\.fc6\.", r"box_head.fc.0."),
    (r"roi_heads\.box_head\.fc7\.", r"box_head.fc.2."),
    (r"roi_heads\.mask_head\.(\d)\.0\.", lambda m: f"mask_head.convs.{2 * int(m[1])}."),
]
"""The first version: frozen norms, which belong to their convolutions in ours."""

V2: list[Rule] = [
    *MASK_RCNN,
    (r"backbone\.fpn\.inner_blocks\.", r"fpn.lateral."),
    (r"backbone\.fpn\.layer_blocks\.", r"fpn.output."),
    (r"roi_heads\.box_head\.5\.", r"box_head.fc.0."),
    (r"roi_heads\.box_head\.(\d)\.", r"box_head.convs.\1."),
    (r"roi_heads\.mask_head\.(\d)\.", r"mask_head.convs.\1."),
]
"""The second version: batch norms everywhere."""

GEOMETRY = Geometry("shorter", 800, 1333, antialias=False, rounding="floor")
"""At what size the published models want to see an image."""

NORM_EPS = 1e-5
"""The ε that our batch norms add to a variance. The published first version adds nothing, so this much is taken off its
variances."""


def convert_mask_rcnn(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights of ``maskrcnn_resnet50_fpn``, as published or as trained from these → state dict and metadata of seglib.

    Of other classes than COCO's 90, label 1 is called "class 1", and so on: label 0 is background.

    Raises:
        ValueError: when a key is unknown.
    """
    plain = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    renamed = rename(plain, V1, "torchvision's maskrcnn_resnet50_fpn")
    if len(plain) == len(state):  # frozen norms don't count batches
        for key in renamed:
            if key.endswith("running_var"):
                renamed[key] = renamed[key] - NORM_EPS
    return _finish(renamed, {"frozen": True, "conventions": "torchvision"})


def convert_mask_rcnn_v2(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights of ``maskrcnn_resnet50_fpn_v2`` → state dict and metadata of seglib.

    Raises:
        ValueError: when a key is unknown.
    """
    return _finish(rename(state, V2, "torchvision's maskrcnn_resnet50_fpn_v2"), {})


def _finish(renamed: dict[str, Tensor], arguments: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Background moves from the first class to the last; it has no box and no mask in ours. And the metadata."""
    for name in ("weight", "bias"):
        logits, deltas, masks = (f"{k}.{name}" for k in ("box_head.logits", "box_head.deltas", "mask_head.predict"))
        renamed[logits] = renamed[logits].roll(-1, 0)  # (91, …)
        renamed[deltas] = renamed[deltas][4:]  # (360, …)
        renamed[masks] = renamed[masks][1:]  # (90, …)
    renamed["normalize.mean"] = torch.tensor(IMAGENET_MEAN)
    renamed["normalize.std"] = torch.tensor(IMAGENET_STD)
    count = len(renamed["box_head.logits.bias"]) - 1
    categories = coco_things(with_gaps=True) if count == 90 else numbered_classes(count, first=1, isthing=True)
    facts = {"arguments": {"num_classes": count, **arguments}, "task": "instance", "categories": categories}
    return renamed, facts | {"file_ids": list(range(1, count + 1)), "geometry": GEOMETRY.to_json()}
