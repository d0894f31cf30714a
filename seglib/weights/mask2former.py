"""Weights of the original Mask2Former: which of its names is which of ours, and what its classes are called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from seglib.data import cityscapes
from seglib.layers.normalize import IMAGENET_MEAN, IMAGENET_STD
from seglib.weights.detectron2 import GEOMETRY, RESNET_FPN
from seglib.weights.mask2former_swin import SWIN_RULES
from seglib.weights.renaming import (
    COCO_STUFF,
    Rule,
    coco_ids,
    coco_panoptic_classes,
    numbered_classes,
    rename,
    things,
)

BACKBONE: list[Rule] = [(r"backbone\.(?=stem|res\d)", "backbone.bottom_up."), *RESNET_FPN, *SWIN_RULES]
"""A ResNet of Detectron2 without a pyramid, or a Swin."""

PIXEL_DECODER: list[Rule] = [
    (r"sem_seg_head\.(pixel_decoder\.)?(?!predictor\.)", r"pixel_decoder."),  # old files lack the second part
    (r"pixel_decoder\.transformer\.level_embed$", r"pixel_decoder.level_embedding"),
    (r"pixel_decoder\.transformer\.encoder\.layers\.", r"pixel_decoder.layers."),
    (r"(pixel_decoder\.layers\.\d+)\.self_attn\.", r"\1.attention."),
    (r"pixel_decoder\.adapter_1\.norm\.", r"pixel_decoder.lateral.1."),
    (r"pixel_decoder\.adapter_1\.", r"pixel_decoder.lateral.0."),
    (r"pixel_decoder\.layer_1\.norm\.", r"pixel_decoder.output.1."),
    (r"pixel_decoder\.layer_1\.", r"pixel_decoder.output.0."),
]

DECODER: list[Rule] = [
    (r"sem_seg_head\.predictor\.", r"decoder."),
    (r"decoder\.(query_feat|static_query)\.weight", r"decoder.query_features"),  # the second in old files
    (r"decoder\.query_embed\.weight", r"decoder.query_positions"),
    (r"decoder\.level_embed\.weight", r"decoder.level_embedding"),
    (r"decoder\.transformer_(cross|self)_attention_layers\.(\d+)\.norm\.", r"decoder.layers.\2.\1_norm."),
    (r"decoder\.transformer_(cross|self)_attention_layers\.(\d+)\.\w+_attn\.", r"decoder.layers.\2.\1_attention."),
    (r"(decoder\.layers\.\d+\.\w+_attention\.out)_proj\.", r"\1."),
    (r"decoder\.transformer_ffn_layers\.", r"decoder.layers."),
    (r"decoder\.decoder_norm\.", r"decoder.norm."),
    (r"decoder\.class_embed\.", r"decoder.class_head."),
    (r"decoder\.mask_embed\.layers\.(\d)\.", lambda m: f"decoder.mask_head.{2 * int(m[1])}."),
]

COMPUTED = re.compile(r"pixel_(mean|std)|criterion\.empty_weight|.*\.relative_position_index|.*\.num_batches_tracked")
"""Buffers of checkpoints that hold no weights: they follow from the configuration, or count steps."""


def convert_mask2former(state: Mapping[str, Tensor], task: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A checkpoint of Mask2Former's model zoo → state dict and metadata of seglib.

    Args:
        state: the state dict, of a model with a ResNet or a Swin and any number of queries.
        task: what the model was trained for, which its weights don't tell: "semantic", "instance" or "panoptic".

    Raises:
        ValueError: when a key is unknown, or it is a panoptic model of other classes than those of COCO or Cityscapes.
    """
    weights = {k: v for k, v in state.items() if not COMPUTED.fullmatch(k)}
    rules = [*BACKBONE, *PIXEL_DECODER, *DECODER]
    return with_metadata(rename(split_projections(weights), rules, "a Mask2Former"), task)


def split_projections(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with three matrices ``query``, ``key`` and ``value`` for each ``in_proj_weight`` ``(3C, C)``."""
    split: dict[str, Tensor] = {}
    for key, value in state.items():
        module, one, part = key.rpartition("in_proj_")
        if one:
            split |= {f"{module}{n}.{part}": v for n, v in zip(("query", "key", "value"), value.chunk(3), strict=True)}
        else:
            split[key] = value
    return split


QUERIES = "decoder.query_features"
CLASS_HEAD = ("decoder.class_head.weight", "decoder.class_head.bias")


def with_metadata(state: Mapping[str, Tensor], task: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A renamed state dict with its normalisation and with things before stuff, and its metadata.

    Args:
        state: the state dict under our names.
        task: what the model was trained for: "semantic", "instance" or "panoptic".

    Raises:
        ValueError: when it has no classes or queries, or is panoptic and its things are unknown.
    """
    if missing := {QUERIES, *CLASS_HEAD} - state.keys():
        raise ValueError(f"the weights lack {', '.join(sorted(missing))}; convert a whole checkpoint of Mask2Former")
    classes = len(state[CLASS_HEAD[0]]) - 1  # the last row is "no object"
    facts = _classes(task, classes)
    state = {
        **state,
        "normalize.mean": torch.tensor(IMAGENET_MEAN),
        "normalize.std": torch.tensor(IMAGENET_STD),
    }
    if task != "instance" and classes == len(cityscapes.CATEGORIES):
        for key in CLASS_HEAD:  # published in the order of trainIds, stuff first
            state[key] = state[key][[*cityscapes.TRAIN_IDS, classes]]  # (20, …)
    arguments = {"num_classes": classes, "task": task, "queries": len(state[QUERIES])}
    if task == "panoptic":
        arguments["num_things"] = sum(c["isthing"] for c in facts["categories"])
    if "encoder.conv1.norm.weight" in state:  # a ResNet with Detectron2's frozen norms
        arguments["frozen"] = True
    return state, {"arguments": arguments, "task": task} | facts


def _classes(task: str, count: int) -> dict[str, Any]:
    """The class table with the ids of the dataset's files, told by the number of classes; COCO's with its geometry."""
    if (task, count) == ("panoptic", 80 + len(COCO_STUFF)):
        ids = [*coco_ids(), *COCO_STUFF]
        return {"categories": coco_panoptic_classes(), "file_ids": ids, "geometry": GEOMETRY.to_json()}
    if (task, count) == ("instance", 80):
        return things(count) | {"geometry": GEOMETRY.to_json()}
    if (task, count) in {("panoptic", 19), ("semantic", 19), ("instance", 8)}:
        categories = [asdict(c) | {"color": list(c.color)} for c in cityscapes.CATEGORIES[:count]]
        label_ids = {i: label for label, i in cityscapes.LABEL_IDS.items()}
        return {"categories": categories, "file_ids": [label_ids[c["id"]] for c in categories]}
    if task == "panoptic":
        raise ValueError(
            f"unknown which of {count} classes are things: the tables here are COCO's (133) and Cityscapes' (19); "
            "convert the checkpoint as one of a semantic model"
        )
    return {"categories": numbered_classes(count, isthing=task == "instance")}
