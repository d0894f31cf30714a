"""Weights of CondInst as AdelaiDet publishes them: which of its names is which of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seglib.weights.detectron2 import GEOMETRY, PIXEL_MEAN, RESNET_FPN
from seglib.weights.renaming import Rule, rename, things

CONDINST: list[Rule] = [
    (r"backbone\.fpn_(lateral|output)(\d)\.", lambda m: f"fpn.{m[1]}.{int(m[2]) - 3}."),
    (r"backbone\.top_block\.", r"fpn.top_block."),
    *RESNET_FPN,
    (r"proposal_generator\.fcos_head\.cls_tower\.", r"head.class_tower."),
    (r"proposal_generator\.fcos_head\.bbox_tower\.", r"head.box_tower."),
    (r"proposal_generator\.fcos_head\.cls_logits\.", r"head.class_logits."),
    (r"proposal_generator\.fcos_head\.bbox_pred\.", r"head.distances."),
    (r"proposal_generator\.fcos_head\.ctrness\.", r"head.centerness."),
    (r"proposal_generator\.fcos_head\.scales\.(\d)\.scale", r"head.scales.\1"),
    (r"controller\.", r"head.controller."),
]
"""CondInst on a ResNet whose pyramid begins at p3, two levels later than Mask R-CNN's."""

COMPUTED = re.compile(r"pixel_(mean|std)|mask_head\.(sizes_of_interest|_iter)")
"""Buffers of checkpoints that hold no weights: they follow from the configuration, or count steps."""

SEMANTIC = re.compile(r"mask_branch\.(seg_head|logits)\.")
"""A second branch of models called ``_sem``, which is trained with labels of stuff and unused afterwards."""


def convert_condinst(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A checkpoint of ``CondInst_MS_R_*``, of COCO's 80 things or of others → state dict and metadata of seglib.

    Its first convolution takes blue, green, red; ours takes red, green, blue, so its kernels change their order. Its
    scales are one tensor a level, ours one tensor. What models called ``_sem`` have for their auxiliary semantic loss
    is left out: it takes no part in a prediction.

    Raises:
        ValueError: when a key is unknown.
    """
    weights = {k: v for k, v in state.items() if not COMPUTED.fullmatch(k) and not SEMANTIC.match(k)}
    same = {k: v for k, v in weights.items() if k.startswith("mask_branch.")}  # called so in both
    others = {k: v for k, v in weights.items() if k not in same}
    renamed = same | rename(others, CONDINST, "a CondInst of AdelaiDet")
    scales = [renamed.pop(k) for k in sorted(k for k in renamed if k.startswith("head.scales."))]
    if scales:
        renamed["head.scales"] = torch.cat(scales)  # (5,)
    renamed["encoder.conv1.weight"] = renamed["encoder.conv1.weight"].flip(1)  # (64, 3, 7, 7)
    renamed["normalize.mean"] = torch.tensor(PIXEL_MEAN[::-1]) / 255
    renamed["normalize.std"] = torch.full((3,), 1 / 255)
    count = len(renamed["head.class_logits.bias"])
    arguments = {"num_classes": count, "frozen": True, "stride_in_1x1": True}
    return renamed, {"arguments": arguments, "task": "instance", "geometry": GEOMETRY.to_json()} | things(count)
