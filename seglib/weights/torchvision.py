"""Weights of torchvision's segmentation models: which of its names is which of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision.models.segmentation import FCN_ResNet50_Weights, FCN_ResNet101_Weights

from seglib.layers.normalize import IMAGENET_MEAN, IMAGENET_STD
from seglib.layers.pretrained import published

PREFIXES = {"backbone.": "encoder.", "classifier.": "head.", "aux_classifier.": "aux_head."}
"""Below these prefixes both codebases use the same names. ``aux_classifier.`` may be absent."""

VOC_ORDER = [*range(1, 21), 0]
"""Our class k is torchvision's class ``VOC_ORDER[k]``: its background comes first, ours last, as stuff does."""


def rename_fcn_resnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of torchvision's ``fcn_resnet50`` or ``fcn_resnet101`` under our names, classes as they are.

    The mean and std with which torchvision's transforms normalise images are added: seglib's models hold them.

    Raises:
        ValueError: when a key has none of the known prefixes, or no key has one of them.
    """
    renamed = {}
    strange = []
    seen = set()
    for key, value in state.items():
        prefix = next((p for p in PREFIXES if key.startswith(p)), None)
        if prefix is None:
            strange.append(key)
        else:
            seen.add(prefix)
            renamed[PREFIXES[prefix] + key.removeprefix(prefix)] = value
    absent = sorted({"backbone.", "classifier."} - seen)
    if strange or absent:
        raise ValueError(
            f"these are not the weights of a torchvision FCN: unknown keys {strange[:3]}, none under {absent}; "
            f"check that the file belongs to the origin"
        )
    renamed["normalize.mean"] = torch.tensor(IMAGENET_MEAN)
    renamed["normalize.std"] = torch.tensor(IMAGENET_STD)
    return renamed


def convert_fcn_resnet(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Published FCN weights (21 classes of Pascal VOC) → state dict and metadata of seglib.

    The rows of both heads' last layers are put into seglib's order of classes: things first, background last.

    Raises:
        ValueError: when the keys or the number of classes are others.
    """
    renamed = rename_fcn_resnet(state)
    for key in ("head.4.weight", "head.4.bias", "aux_head.4.weight", "aux_head.4.bias"):
        if key not in renamed:
            continue
        if len(renamed[key]) != len(VOC_ORDER):
            raise ValueError(
                f"the published weights have 21 classes, {key} has {len(renamed[key])}; for weights that you trained "
                f"yourself use rename_fcn_resnet, which keeps the order of classes"
            )
        renamed[key] = renamed[key][VOC_ORDER]  # (21, …)
    names = FCN_ResNet50_Weights.DEFAULT.meta["categories"]
    names = ["background", *names[1:]]
    categories = [
        {"id": i, "name": names[voc], "isthing": voc != 0, "color": list(voc_color(voc))}
        for i, voc in enumerate(VOC_ORDER)
    ]
    aux = any(key.startswith("aux_head.") for key in renamed)
    return renamed, {"num_classes": 21, "arguments": {"aux": aux}, "task": "semantic", "categories": categories}


def voc_color(index: int) -> tuple[int, int, int]:
    """Pascal VOC's colour of a class: its bits, three at a time, become the high bits of red, green and blue."""
    red = green = blue = 0
    for bit in range(7, -1, -1):
        red |= (index & 1) << bit
        green |= (index >> 1 & 1) << bit
        blue |= (index >> 2 & 1) << bit
        index >>= 3
    return red, green, blue


def fetch_fcn_resnet50() -> dict[str, Tensor]:
    """The published ``fcn_resnet50``, trained on COCO's images with VOC's classes."""
    return published(FCN_ResNet50_Weights.DEFAULT)


def fetch_fcn_resnet101() -> dict[str, Tensor]:
    """The published ``fcn_resnet101``, trained on COCO's images with VOC's classes."""
    return published(FCN_ResNet101_Weights.DEFAULT)
