"""The models of seglib, by name. One explicit table; a model's module, and torch, are imported when it is built."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the zoo.

    Attributes:
        path: ``module:function`` of its builder, called as ``builder(num_classes, **keywords)``.
        task: what it predicts, e.g. ``semantic``.
        summary: one line for people.
    """

    path: str
    task: str
    summary: str

    def builder(self) -> Callable[..., nn.Module]:
        """The builder function."""
        module, name = self.path.split(":")
        return getattr(importlib.import_module(module), name)


MODELS: dict[str, Entry] = {
    "fcn": Entry("seglib.models.fcn:fcn", "semantic", "FCN-8s on ResNet-18: the one to start with"),
    "fcn_tiny": Entry("seglib.models.fcn:fcn_tiny", "semantic", "FCN with skips on the tiny encoder, for CPUs"),
    "fcn_resnet18": Entry("seglib.models.fcn:fcn_resnet18", "semantic", "FCN-8s on ResNet-18"),
    "fcn_resnet50": Entry("seglib.models.fcn:fcn_resnet50", "semantic", "torchvision's FCN on a dilated ResNet-50"),
    "fcn_resnet101": Entry("seglib.models.fcn:fcn_resnet101", "semantic", "torchvision's FCN on a dilated ResNet-101"),
    "fcn32s": Entry("seglib.models.fcn:fcn32s", "semantic", "the paper's FCN-32s on VGG-16"),
    "fcn16s": Entry("seglib.models.fcn:fcn16s", "semantic", "the paper's FCN-16s on VGG-16"),
    "fcn8s": Entry("seglib.models.fcn:fcn8s", "semantic", "the paper's FCN-8s on VGG-16"),
    "unet": Entry("seglib.models.unet:unet", "semantic", "U-Net on ResNet-34: the one to start with"),
    "unet_tiny": Entry("seglib.models.unet:unet_tiny", "semantic", "U-Net on the tiny encoder, for CPUs"),
    "unet_resnet34": Entry("seglib.models.unet:unet_resnet34", "semantic", "U-Net on ResNet-34, as in smp"),
    "unet_resnet50": Entry("seglib.models.unet:unet_resnet50", "semantic", "U-Net on ResNet-50, as in smp"),
    "unet_paper": Entry("seglib.models.unet:unet_paper", "semantic", "the paper's U-Net, valid convolutions"),
    "deeplab": Entry("seglib.models.deeplab:deeplab", "semantic", "DeepLab v3+ on ResNet-50: the one to start with"),
    "deeplab_tiny": Entry(
        "seglib.models.deeplab:deeplab_tiny", "semantic", "DeepLab v3+ on the tiny encoder, for CPUs"
    ),
    "deeplabv3_resnet50": Entry(
        "seglib.models.deeplab:deeplabv3_resnet50", "semantic", "torchvision's DeepLab v3 on ResNet-50"
    ),
    "deeplabv3_resnet101": Entry(
        "seglib.models.deeplab:deeplabv3_resnet101", "semantic", "torchvision's DeepLab v3 on ResNet-101"
    ),
    "deeplabv3plus_resnet34": Entry(
        "seglib.models.deeplab:deeplabv3plus_resnet34", "semantic", "DeepLab v3+ on ResNet-34"
    ),
    "deeplabv3plus_resnet50": Entry(
        "seglib.models.deeplab:deeplabv3plus_resnet50", "semantic", "DeepLab v3+ on ResNet-50"
    ),
    "deeplabv3plus_resnet101": Entry(
        "seglib.models.deeplab:deeplabv3plus_resnet101", "semantic", "DeepLab v3+ on ResNet-101"
    ),
    "mask_rcnn": Entry("seglib.models.mask_rcnn:mask_rcnn", "instance", "Mask R-CNN on ResNet-50: to start with"),
    "mask_rcnn_tiny": Entry(
        "seglib.models.mask_rcnn:mask_rcnn_tiny", "instance", "Mask R-CNN on the tiny encoder, for CPUs"
    ),
    "mask_rcnn_resnet50_fpn": Entry(
        "seglib.models.mask_rcnn:mask_rcnn_resnet50_fpn", "instance", "Mask R-CNN on ResNet-50"
    ),
    "mask_rcnn_resnet101_fpn": Entry(
        "seglib.models.mask_rcnn:mask_rcnn_resnet101_fpn", "instance", "Mask R-CNN on ResNet-101"
    ),
    "mask_rcnn_resnet50_fpn_v2": Entry(
        "seglib.models.mask_rcnn:mask_rcnn_resnet50_fpn_v2", "instance", "torchvision's second Mask R-CNN"
    ),
}


def find(name: str) -> Entry:
    """The entry of a model.

    Raises:
        ValueError: when no model has that name; close names are suggested.
    """
    if name not in MODELS:
        close = difflib.get_close_matches(name, MODELS, n=3)
        remedy = f"did you mean {' or '.join(close)}?" if close else f"the zoo has {', '.join(MODELS)}"
        raise ValueError(f"no model is called {name!r}; {remedy}")
    return MODELS[name]


def build(name: str, num_classes: int, **keywords: Any) -> nn.Module:
    """The model ``name`` for K classes, with the weights it starts from.

    Args:
        name: a key of :data:`MODELS`.
        num_classes: K.
        **keywords: of the model's builder.

    Raises:
        ValueError: when the name is unknown or the builder refuses its arguments.
    """
    return find(name).builder()(num_classes, **keywords)
