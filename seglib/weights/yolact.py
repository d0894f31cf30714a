"""Weights of YOLACT's authors: which of their names is which of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seglib.ops.geometry import Geometry
from seglib.weights.renaming import Rule, rename, things

YOLACT: list[Rule] = [
    (r"backbone\.(conv1|bn1)\.", r"encoder.\1."),
    (r"backbone\.layers\.(\d)\.", lambda m: f"encoder.layer{int(m[1]) + 1}."),
    # pyramid levels are stored from the deepest to the shallowest
    (r"fpn\.lat_layers\.(\d)\.", lambda m: f"fpn.lateral.{2 - int(m[1])}."),
    (r"fpn\.pred_layers\.(\d)\.", lambda m: f"fpn.output.{2 - int(m[1])}."),
    (r"fpn\.downsample_layers\.0\.", r"fpn.top_block.p6."),
    (r"fpn\.downsample_layers\.1\.", r"fpn.top_block.p7."),
    (r"proto_net\.([024])\.", r"protonet.convs.\1."),
    (r"proto_net\.8\.", r"protonet.refine.0."),
    (r"proto_net\.10\.", r"protonet.predict."),
    (r"prediction_layers\.0\.upfeature\.0\.", r"head.convs.0."),
    (r"prediction_layers\.0\.bbox_layer\.", r"head.deltas."),
    (r"prediction_layers\.0\.conf_layer\.", r"head.logits."),
    (r"prediction_layers\.0\.mask_layer\.", r"head.coefficients."),
    (r"semantic_seg_conv\.", r"semantic."),
]
"""A ResNet with the pyramid, the protonet and the head that all levels share."""

LEFTOVER = re.compile(r"backbone\.layer(?!s).*|fpn\.downsample_layers\.([2-9]|\d\d+)\..*")
"""What old checkpoints hold in addition, and nobody uses: stages under a second name, levels above p7."""

PIXEL_MEAN = (123.68, 116.78, 103.94)
PIXEL_STD = (58.40, 57.12, 57.38)
"""Mean and standard deviation of red, green and blue values in 0…255 with which YOLACT normalises its images."""

GEOMETRY = Geometry("square", 550, antialias=False)
"""At what size the published models want to see an image: whatever its shape was."""

ANCHORS_PER_CELL = 3


def convert_yolact(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A checkpoint of ``yolact_resnet50`` or ``yolact_base``, of COCO's 80 things or others → state dict and metadata.

    Its class 0 is background; here background is last.

    Raises:
        ValueError: when a key is unknown.
    """
    weights = {k: v for k, v in state.items() if not LEFTOVER.fullmatch(k)}
    renamed = rename(weights, YOLACT, "a YOLACT of its authors")
    count = len(renamed["head.logits.bias"]) // ANCHORS_PER_CELL - 1
    for name in ("head.logits.weight", "head.logits.bias"):
        of_each = renamed[name].unflatten(0, (ANCHORS_PER_CELL, -1))  # (3, K + 1, …)
        renamed[name] = of_each.roll(-1, 1).flatten(0, 1)
    renamed["normalize.mean"] = torch.tensor(PIXEL_MEAN) / 255
    renamed["normalize.std"] = torch.tensor(PIXEL_STD) / 255
    facts = {"arguments": {"num_classes": count}, "task": "instance", "geometry": GEOMETRY.to_json()}
    return renamed, facts | things(count)
