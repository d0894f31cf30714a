"""Weights of torchvision's segmentation models: which of its names is which of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from seglib.data.voc import CATEGORIES, VOC_ORDER
from seglib.layers.normalize import IMAGENET_MEAN, IMAGENET_STD
from seglib.types import VOID
from seglib.weights.renaming import numbered_classes

PREFIXES = {"backbone.": "encoder.", "classifier.": "head.", "aux_classifier.": "aux_head."}
"""Below these prefixes both codebases use the same names. ``aux_classifier.`` may be absent."""


def rename_segmentation(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of torchvision's ``fcn_resnet*`` or ``deeplabv3_resnet*`` under our names, classes as they are.

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
            f"these are not the weights of a torchvision segmentation model: unknown keys {strange[:3]}, none under "
            f"{absent}; check that the file belongs to the origin"
        )
    renamed["normalize.mean"] = torch.tensor(IMAGENET_MEAN)
    renamed["normalize.std"] = torch.tensor(IMAGENET_STD)
    return renamed


def convert_segmentation(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights of a segmentation model, as published or trained on other classes → state dict and metadata of seglib.

    The published ones have the 21 classes of Pascal VOC: the rows of both heads' last layers are put into seglib's
    order of classes, things first, background last. Others keep their order, and their classes are called by number.

    Raises:
        ValueError: when the keys are others, or the main head has no last layer.
    """
    renamed = rename_segmentation(state)
    if "head.4.weight" not in renamed:
        raise ValueError(
            "the state dict has no classifier.4.weight, the layer that scores classes; save the whole model's"
        )
    count = len(renamed["head.4.weight"])
    aux = any(key.startswith("aux_head.") for key in renamed)
    facts: dict[str, Any] = {"arguments": {"num_classes": count, "aux": aux}, "task": "semantic"}
    if count != len(VOC_ORDER):
        return renamed, facts | {"categories": numbered_classes(count)}
    for key in ("head.4.weight", "head.4.bias", "aux_head.4.weight", "aux_head.4.bias"):
        if key in renamed:
            renamed[key] = renamed[key][VOC_ORDER]  # (21, …)
    categories = [asdict(c) | {"color": list(c.color)} for c in CATEGORIES]
    return renamed, facts | {"categories": categories, "file_ids": list(VOC_ORDER), "void_id": VOID}
