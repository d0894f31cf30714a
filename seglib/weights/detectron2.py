"""Weights of Detectron2's model zoo: which of its names is which of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from seglib.ops.geometry import Geometry
from seglib.weights.renaming import (
    COCO_STUFF,
    Rule,
    coco_ids,
    coco_panoptic_classes,
    numbered_classes,
    rename,
    things,
)

RESNET_FPN: list[Rule] = [
    (r"backbone\.bottom_up\.stem\.conv1\.", r"encoder.conv1."),
    (r"backbone\.bottom_up\.res2\.(\d+)\.", r"encoder.layer1.\1."),
    (r"backbone\.bottom_up\.res3\.(\d+)\.", r"encoder.layer2.\1."),
    (r"backbone\.bottom_up\.res4\.(\d+)\.", r"encoder.layer3.\1."),
    (r"backbone\.bottom_up\.res5\.(\d+)\.", r"encoder.layer4.\1."),
    (r"(encoder\.layer\d\.\d+)\.shortcut\.", r"\1.downsample.0."),
    (r"backbone\.fpn_lateral(\d)\.", lambda m: f"fpn.lateral.{int(m[1]) - 2}."),
    (r"backbone\.fpn_output(\d)\.", lambda m: f"fpn.output.{int(m[1]) - 2}."),
]
"""A ResNet with a pyramid. Frozen norms belong to their convolutions in both codebases."""

MASK_RCNN: list[Rule] = [
    (r"proposal_generator\.rpn_head\.conv\.", r"rpn_head.conv.0."),
    (r"proposal_generator\.rpn_head\.objectness_logits\.", r"rpn_head.objectness."),
    (r"proposal_generator\.rpn_head\.anchor_deltas\.", r"rpn_head.deltas."),
    (r"roi_heads\.box_head\.fc1\.", r"box_head.fc.0."),
    (r"roi_heads\.box_head\.fc2\.", r"box_head.fc.2."),
    (r"roi_heads\.box_predictor\.cls_score\.", r"box_head.logits."),
    (r"roi_heads\.box_predictor\.bbox_pred\.", r"box_head.deltas."),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.", lambda m: f"mask_head.convs.{2 * int(m[1]) - 2}."),
    (r"roi_heads\.mask_head\.deconv\.", r"mask_head.upsample."),
    (r"roi_heads\.mask_head\.predictor\.", r"mask_head.predict."),
]

GEOMETRY = Geometry("shorter", 800, 1333)
"""At what size the published models want to see an image."""

COMPUTED = re.compile(r"pixel_(mean|std)|proposal_generator\.anchor_generator\.cell_anchors\.\d+")
"""Buffers of checkpoints that hold no weights: they follow from the configuration."""

SEMANTIC_FPN: list[Rule] = [
    (r"sem_seg_head\.p(\d)\.(\d)\.norm\.", lambda m: f"semantic_head.scales.{int(m[1]) - 2}.{2 * int(m[2]) + 1}."),
    (r"sem_seg_head\.p(\d)\.(\d)\.", lambda m: f"semantic_head.scales.{int(m[1]) - 2}.{2 * int(m[2])}."),
    (r"sem_seg_head\.predictor\.", r"semantic_head.predict."),
]
"""The semantic branch. Of its steps Detectron2 counts convolutions and upsamplings, seglib norms and ReLUs too."""

PIXEL_MEAN = (103.530, 116.280, 123.675)
"""The mean that Detectron2's models subtract from the blue, green and red values of an image, which lie in 0…255.
They divide by no standard deviation."""


def convert_mask_rcnn(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A checkpoint of ``mask_rcnn_R_*_FPN_*``, of COCO's 80 things or of others → state dict and metadata of seglib.

    Its first convolution takes blue, green, red; ours takes red, green, blue, so its kernels change their order.

    Raises:
        ValueError: when a key is unknown.
    """
    renamed = _renamed(state, [*RESNET_FPN, *MASK_RCNN], "a Mask R-CNN of Detectron2's zoo")
    count = len(renamed["box_head.logits.weight"]) - 1
    facts = {"arguments": {"num_classes": count, **_ARGUMENTS}, "task": "instance", "geometry": GEOMETRY.to_json()}
    return renamed, facts | things(count)


def convert_panoptic_fpn(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A checkpoint of ``panoptic_fpn_R_*``, of COCO's 80 things and 53 classes of stuff or of others → state dict and
    metadata of seglib. Colours change their order as in :func:`convert_mask_rcnn`.

    Raises:
        ValueError: when a key is unknown.
    """
    renamed = _renamed(state, [*RESNET_FPN, *MASK_RCNN, *SEMANTIC_FPN], "a Panoptic FPN of Detectron2's zoo")
    count, stuff = (len(renamed[f"{head}.weight"]) - 1 for head in ("box_head.logits", "semantic_head.predict"))
    arguments = {"num_things": count, "num_stuff": stuff, **_ARGUMENTS}
    facts = {"arguments": arguments, "task": "panoptic", "geometry": GEOMETRY.to_json()}
    if (count, stuff) == (len(coco_ids()), len(COCO_STUFF)):
        return renamed, facts | {"categories": coco_panoptic_classes(), "file_ids": [*coco_ids(), *COCO_STUFF]}
    table = [row | {"isthing": row["id"] < count} for row in numbered_classes(count + stuff)]
    return renamed, facts | {"categories": table}


_ARGUMENTS = {"frozen": True, "stride_in_1x1": True, "sampling_ratio": 0}


def _renamed(state: Mapping[str, Tensor], rules: Sequence[Rule], what: str) -> dict[str, Tensor]:
    """The state dict under our names, with the colours of the first convolution in our order."""
    renamed = rename({k: v for k, v in state.items() if not COMPUTED.fullmatch(k)}, rules, what)
    renamed["encoder.conv1.weight"] = renamed["encoder.conv1.weight"].flip(1)  # (64, 3, 7, 7)
    renamed["normalize.mean"] = torch.tensor(PIXEL_MEAN[::-1]) / 255
    renamed["normalize.std"] = torch.full((3,), 1 / 255)
    return renamed
