"""Weights of segmentation_models.pytorch (smp): which of its names is which of ours.

It publishes architectures, not trained models; the weights are those that its users trained, as
``torch.save(model.state_dict(), …)`` or ``model.save_pretrained(…)`` writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seglib.layers.normalize import IMAGENET_MEAN, IMAGENET_STD
from seglib.weights.renaming import numbered_classes

UNET = {"encoder.": "encoder.", "decoder.blocks.": "decoder.", "segmentation_head.0.": "score."}
"""Prefixes of ``Unet``, and ours."""

DEEPLABV3PLUS = {
    "encoder.": "encoder.",
    "decoder.aspp.0.": "aspp.0.",
    "decoder.aspp.1.": "aspp.1.0.",
    "decoder.aspp.2.": "aspp.1.1.",
    "decoder.block1.": "low.",
    "decoder.block2.": "decoder.0.",
    "segmentation_head.0.": "score.",
}
"""Prefixes of ``DeepLabV3Plus``, and ours."""


def convert_unet(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict of ``smp.Unet`` with its defaults → state dict and metadata of seglib.

    Raises:
        ValueError: when a key is unknown or there is no segmentation head.
    """
    return _convert(state, UNET, {})


def convert_deeplabv3plus(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict of ``smp.DeepLabV3Plus`` with its defaults (output stride 16) → state dict and metadata of seglib.

    Raises:
        ValueError: when a key is unknown or there is no segmentation head.
    """
    return _convert(state, DEEPLABV3PLUS, {"layout": "smp"})


def _convert(
    state: Mapping[str, Tensor], prefixes: Mapping[str, str], arguments: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Rename by prefix; one class becomes two, the thing and the rest.

    With one class smp's answer is a sigmoid; a second logit of 0 makes the same answer of a softmax.
    """
    renamed = {}
    for key, value in state.items():
        prefix = next((p for p in prefixes if key.startswith(p)), None)
        if prefix is None:
            raise ValueError(f"no key {key!r} is known; convert the state dict of smp's model with its default decoder")
        renamed[prefixes[prefix] + key.removeprefix(prefix)] = value
    if "score.weight" not in renamed or "score.bias" not in renamed:
        raise ValueError("the state dict has no segmentation_head.0.weight and bias; save the whole model's")
    categories = numbered_classes(len(renamed["score.weight"]))
    if len(categories) == 1:
        object_, rest = numbered_classes(2)
        categories = [object_ | {"name": "object", "isthing": True}, rest | {"name": "rest"}]
        for key in ("score.weight", "score.bias"):
            renamed[key] = torch.cat([renamed[key], torch.zeros_like(renamed[key])])  # (2, …)
    renamed["normalize.mean"] = torch.tensor(IMAGENET_MEAN)
    renamed["normalize.std"] = torch.tensor(IMAGENET_STD)
    arguments = {"num_classes": len(categories), **arguments}
    return renamed, {"arguments": arguments, "task": "semantic", "categories": categories}
