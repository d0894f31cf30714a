"""Weights of AdelaiDet's SOLOv2: which of its names is which of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seglib.weights.detectron2 import GEOMETRY, PIXEL_MEAN, RESNET_FPN
from seglib.weights.renaming import Rule, rename, things


def _tower(source: str, target: str) -> Rule:
    """A list of convolution, norm and ReLU, three places each."""
    return rf"ins_head\.{source}_tower\.(\d+)\.", lambda m: f"head.{target}_tower.{int(m[1]) // 3}.{int(m[1]) % 3}."


SOLOV2: list[Rule] = [
    _tower("cate", "category"),
    _tower("kernel", "kernel"),
    (r"ins_head\.cate_pred\.", r"head.category."),
    (r"ins_head\.kernel_pred\.", r"head.kernel."),
    (r"mask_head\.convs_all_levels\.(\d)\.conv(\d)\.", r"mask_features.branches.\1.\2."),
    (r"mask_head\.conv_pred\.", r"mask_features.output."),
]

COMPUTED = re.compile(r"pixel_(mean|std)")
"""Buffers of checkpoints that hold no weights: they follow from the configuration."""


def convert_solov2(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A checkpoint of AdelaiDet's ``SOLOv2_R50_3x`` or ``SOLOv2_R101_3x`` → state dict and metadata of seglib.

    Its classes are COCO's 80 things, or others.

    Its first convolution takes blue, green, red; ours takes red, green, blue, so its kernels change their order.

    Raises:
        ValueError: when a key is unknown.
    """
    weights = {k: v for k, v in state.items() if not COMPUTED.fullmatch(k)}
    renamed = rename(weights, [*RESNET_FPN, *SOLOV2], "a SOLOv2 of AdelaiDet")
    renamed["encoder.conv1.weight"] = renamed["encoder.conv1.weight"].flip(1)  # (64, 3, 7, 7)
    renamed["normalize.mean"] = torch.tensor(PIXEL_MEAN[::-1]) / 255
    renamed["normalize.std"] = torch.full((3,), 1 / 255)
    count = len(renamed["head.category.weight"])
    arguments = {"num_classes": count, "frozen": True, "stride_in_1x1": True}
    return renamed, {"arguments": arguments, "task": "instance", "geometry": GEOMETRY.to_json()} | things(count)
