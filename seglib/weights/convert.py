"""Weights of other codebases become seglib's: one explicit table of origins."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models import WeightsEnum, detection
from torchvision.models import segmentation as tv

from seglib.layers.pretrained import load_pretrained
from seglib.models.zoo import build
from seglib.weights import (
    adelaidet,
    adelaidet_solo,
    detectron2,
    mask2former,
    mask2former_transformers,
    monai,
    nnunet,
    sam,
    smp,
    torchvision,
    torchvision_detection,
    yolact,
)
from seglib.weights.load import mismatch, read_checkpoint
from seglib.weights.renaming import unwrap

Convert = Callable[[Mapping[str, Any]], tuple[dict[str, Tensor], dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where weights come from.

    Attributes:
        builder: name of the zoo's model that takes the weights.
        convert: the function from the origin's state dict to seglib's and its metadata.
        weights: the entry of torchvision's enumeration; ``None`` where the origin has no download and a file is passed.
        read: reads such a file.
    """

    builder: str
    convert: Convert
    weights: WeightsEnum | None = None
    read: Callable[[str | Path], dict[str, Any]] = read_checkpoint


def _torchvision(name: str, weights: WeightsEnum) -> dict[str, Origin]:
    return {f"torchvision:{name}": Origin(name, torchvision.convert_segmentation, weights)}


def _smp(name: str, rename: Convert) -> dict[str, Origin]:
    return {f"smp:{name}": Origin(name, rename)}


def _mask2former(name: str, builder: str, rename: Callable[..., Any]) -> dict[str, Origin]:
    """One origin for each task: weights don't tell what they were trained for."""
    return {f"{name}_{t}": Origin(builder, partial(rename, task=t)) for t in ("panoptic", "instance", "semantic")}


NNUNET = "nnunetv2:NAME"
"""nnU-Net has no list of published weights: NAME is whatever the weights are to be called."""

ORIGINS: dict[str, Origin] = {
    **_torchvision("fcn_resnet50", tv.FCN_ResNet50_Weights.DEFAULT),
    **_torchvision("fcn_resnet101", tv.FCN_ResNet101_Weights.DEFAULT),
    **_torchvision("deeplabv3_resnet50", tv.DeepLabV3_ResNet50_Weights.DEFAULT),
    **_torchvision("deeplabv3_resnet101", tv.DeepLabV3_ResNet101_Weights.DEFAULT),
    **_smp("unet_resnet34", smp.convert_unet),
    **_smp("unet_resnet50", smp.convert_unet),
    **_smp("deeplabv3plus_resnet34", smp.convert_deeplabv3plus),
    **_smp("deeplabv3plus_resnet50", smp.convert_deeplabv3plus),
    **_smp("deeplabv3plus_resnet101", smp.convert_deeplabv3plus),
    "torchvision:mask_rcnn_resnet50_fpn": Origin(
        "mask_rcnn_resnet50_fpn",
        torchvision_detection.convert_mask_rcnn,
        detection.MaskRCNN_ResNet50_FPN_Weights.COCO_V1,
    ),
    "torchvision:mask_rcnn_resnet50_fpn_v2": Origin(
        "mask_rcnn_resnet50_fpn_v2",
        torchvision_detection.convert_mask_rcnn_v2,
        detection.MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1,
    ),
    "detectron2:mask_rcnn_R_50_FPN": Origin("mask_rcnn_resnet50_fpn", detectron2.convert_mask_rcnn),
    "detectron2:mask_rcnn_R_101_FPN": Origin("mask_rcnn_resnet101_fpn", detectron2.convert_mask_rcnn),
    "detectron2:panoptic_fpn_R_50": Origin("panoptic_fpn_resnet50", detectron2.convert_panoptic_fpn),
    "detectron2:panoptic_fpn_R_101": Origin("panoptic_fpn_resnet101", detectron2.convert_panoptic_fpn),
    "monai:dynunet": Origin("unet3d", monai.convert_dynunet),
    NNUNET: Origin("nnunet", nnunet.convert_nnunet, read=nnunet.read_nnunet),
    "yolact:yolact_resnet50": Origin("yolact_resnet50", yolact.convert_yolact),
    "yolact:yolact_base": Origin("yolact_resnet101", yolact.convert_yolact),
    "adelaidet:solov2_R_50": Origin("solov2_resnet50", adelaidet_solo.convert_solov2),
    "adelaidet:solov2_R_101": Origin("solov2_resnet101", adelaidet_solo.convert_solov2),
    "adelaidet:condinst_R_50": Origin("condinst_resnet50", adelaidet.convert_condinst),
    "adelaidet:condinst_R_101": Origin("condinst_resnet101", adelaidet.convert_condinst),
    **_mask2former("mask2former:R50", "mask2former_resnet50", mask2former.convert_mask2former),
    **_mask2former("mask2former:R101", "mask2former_resnet101", mask2former.convert_mask2former),
    **_mask2former("mask2former:swin_tiny", "mask2former_swin_t", mask2former.convert_mask2former),
    **_mask2former("mask2former:swin_small", "mask2former_swin_s", mask2former.convert_mask2former),
    **_mask2former("mask2former:swin_base", "mask2former_swin_b", mask2former.convert_mask2former),
    **_mask2former("mask2former:swin_large", "mask2former_swin_l", mask2former.convert_mask2former),
    **_mask2former(
        "transformers:mask2former_resnet50", "mask2former_resnet50", mask2former_transformers.convert_mask2former
    ),
    **_mask2former(
        "transformers:mask2former_swin_tiny", "mask2former_swin_t", mask2former_transformers.convert_mask2former
    ),
    **_mask2former(
        "transformers:mask2former_swin_small", "mask2former_swin_s", mask2former_transformers.convert_mask2former
    ),
    **_mask2former(
        "transformers:mask2former_swin_base", "mask2former_swin_b", mask2former_transformers.convert_mask2former
    ),
    **_mask2former(
        "transformers:mask2former_swin_large", "mask2former_swin_l", mask2former_transformers.convert_mask2former
    ),
    **{f"sam:vit_{size}": Origin(f"sam_vit_{size}", sam.convert_sam) for size in "blh"},
    **{f"transformers:sam_vit_{size}": Origin(f"sam_vit_{size}", sam.convert_transformers) for size in "blh"},
}


def read_origin(origin: str, file: str | Path | None = None) -> dict[str, Any]:
    """The state dict of an origin, under its own names; of nnU-Net the checkpoint with what it knows of its training.

    Args:
        origin: name of the origin, a key of :data:`ORIGINS`.
        file: the published checkpoint, when it is on disk already; otherwise it is taken from its publisher.

    Raises:
        FileNotFoundError: when the file is missing, or it is not given and can't be downloaded.
        ValueError: when the origin is unknown or publishes nothing, or the file is damaged or unsafe.
    """
    known = _find(origin)
    if file is not None:
        return known.read(file)
    if known.weights is None:
        raise ValueError(f"{origin} has no published weights; pass the checkpoint that you have with --file")
    return load_pretrained(known.weights)


def convert(origin: str, state: Mapping[str, Any]) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    """Turn the state dict of another codebase into seglib's.

    Args:
        origin: name of the origin, a key of :data:`ORIGINS`.
        state: state dict under the origin's names, as :func:`read_origin` returns it, of any number of classes. The
            prefix of a wrapper ("module." of ``DataParallel``) is taken off.

    Returns:
        The name of the model in the zoo, its state dict, and the metadata for :func:`save_weights` (``model``,
        ``arguments`` of its builder, ``categories``, ``origin`` and, where known, ``file_ids`` and others).

    Raises:
        ValueError: when the origin is unknown, or a tensor is missing, left over or of another shape.
    """
    known = _find(origin)
    converted, metadata = known.convert(unwrap(state))
    with torch.device("meta"):  # names and shapes without memory
        model = build(known.builder, **metadata["arguments"])
    problem = mismatch(model, converted)
    if problem:
        raise ValueError(f"these are not the weights of {origin}: {problem}; check that the file belongs to the origin")
    return known.builder, converted, {"model": known.builder, "origin": origin, **metadata}


def _find(origin: str) -> Origin:
    if re.fullmatch("nnunetv2:.+", origin):
        return ORIGINS[NNUNET]
    if origin not in ORIGINS:
        close = difflib.get_close_matches(origin, ORIGINS, n=3)
        remedy = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(ORIGINS)}"
        raise ValueError(f"no origin is called {origin!r}; {remedy}")
    return ORIGINS[origin]
