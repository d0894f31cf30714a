"""The models of seglib, by name. One explicit table; a model's module, and torch, are imported when it is built."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seglib.models.base import Model


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the zoo.

    Attributes:
        path: ``module:function`` of its builder, called with keywords alone.
        tasks: the names of the tasks that it serves, its usual one first.
        summary: one line for people.
        universal: whether one network serves tasks of different results, so that its builder is told the task.
    """

    path: str
    tasks: tuple[str, ...]
    summary: str
    universal: bool = False

    def builder(self) -> Callable[..., Model]:
        """The builder function."""
        module, name = self.path.split(":")
        return getattr(importlib.import_module(module), name)


DENSE = ("semantic", "regions")
INSTANCE = ("instance",)
PANOPTIC = ("panoptic",)
ALL = ("panoptic", "instance", "semantic")
VOLUME = ("volume",)
PROMPT = ("prompt",)

MODELS: dict[str, Entry] = {
    "fcn": Entry("seglib.models.fcn:fcn", DENSE, "FCN-8s on ResNet-18: the one to start with"),
    "fcn_tiny": Entry("seglib.models.fcn:fcn_tiny", DENSE, "FCN with skips on the tiny encoder, for CPUs"),
    "fcn_resnet18": Entry("seglib.models.fcn:fcn_resnet18", DENSE, "FCN-8s on ResNet-18"),
    "fcn_resnet50": Entry("seglib.models.fcn:fcn_resnet50", DENSE, "torchvision's FCN on a dilated ResNet-50"),
    "fcn_resnet101": Entry("seglib.models.fcn:fcn_resnet101", DENSE, "torchvision's FCN on a dilated ResNet-101"),
    "fcn32s": Entry("seglib.models.fcn:fcn32s", DENSE, "the paper's FCN-32s on VGG-16"),
    "fcn16s": Entry("seglib.models.fcn:fcn16s", DENSE, "the paper's FCN-16s on VGG-16"),
    "fcn8s": Entry("seglib.models.fcn:fcn8s", DENSE, "the paper's FCN-8s on VGG-16"),
    "unet": Entry("seglib.models.unet:unet", DENSE, "U-Net on ResNet-34: the one to start with"),
    "unet_tiny": Entry("seglib.models.unet:unet_tiny", DENSE, "U-Net on the tiny encoder, for CPUs"),
    "unet_resnet34": Entry("seglib.models.unet:unet_resnet34", DENSE, "U-Net on ResNet-34, as in smp"),
    "unet_resnet50": Entry("seglib.models.unet:unet_resnet50", DENSE, "U-Net on ResNet-50, as in smp"),
    "unet_paper": Entry("seglib.models.unet:unet_paper", DENSE, "the paper's U-Net, valid convolutions"),
    "deeplab": Entry("seglib.models.deeplab:deeplab", DENSE, "DeepLab v3+ on ResNet-50: the one to start with"),
    "deeplab_tiny": Entry("seglib.models.deeplab:deeplab_tiny", DENSE, "DeepLab v3+ on the tiny encoder, for CPUs"),
    "deeplabv3_resnet50": Entry(
        "seglib.models.deeplab:deeplabv3_resnet50", DENSE, "torchvision's DeepLab v3 on ResNet-50"
    ),
    "deeplabv3_resnet101": Entry(
        "seglib.models.deeplab:deeplabv3_resnet101", DENSE, "torchvision's DeepLab v3 on ResNet-101"
    ),
    "deeplabv3plus_resnet34": Entry("seglib.models.deeplab:deeplabv3plus_resnet34", DENSE, "DeepLab v3+ on ResNet-34"),
    "deeplabv3plus_resnet50": Entry("seglib.models.deeplab:deeplabv3plus_resnet50", DENSE, "DeepLab v3+ on ResNet-50"),
    "deeplabv3plus_resnet101": Entry(
        "seglib.models.deeplab:deeplabv3plus_resnet101", DENSE, "DeepLab v3+ on ResNet-101"
    ),
    "mask_rcnn": Entry("seglib.models.mask_rcnn:mask_rcnn", INSTANCE, "Mask R-CNN on ResNet-50: to start with"),
    "mask_rcnn_tiny": Entry(
        "seglib.models.mask_rcnn:mask_rcnn_tiny", INSTANCE, "Mask R-CNN on the tiny encoder, for CPUs"
    ),
    "mask_rcnn_resnet50_fpn": Entry(
        "seglib.models.mask_rcnn:mask_rcnn_resnet50_fpn", INSTANCE, "Mask R-CNN on ResNet-50"
    ),
    "mask_rcnn_resnet101_fpn": Entry(
        "seglib.models.mask_rcnn:mask_rcnn_resnet101_fpn", INSTANCE, "Mask R-CNN on ResNet-101"
    ),
    "mask_rcnn_resnet50_fpn_v2": Entry(
        "seglib.models.mask_rcnn:mask_rcnn_resnet50_fpn_v2", INSTANCE, "torchvision's second Mask R-CNN"
    ),
    "yolact": Entry("seglib.models.yolact:yolact", INSTANCE, "YOLACT on ResNet-50: masks from prototypes, fast"),
    "yolact_tiny": Entry("seglib.models.yolact:yolact_tiny", INSTANCE, "YOLACT on the tiny encoder, for CPUs"),
    "yolact_resnet50": Entry("seglib.models.yolact:yolact_resnet50", INSTANCE, "YOLACT on ResNet-50"),
    "yolact_resnet101": Entry("seglib.models.yolact:yolact_resnet101", INSTANCE, "YOLACT on ResNet-101"),
    "condinst": Entry("seglib.models.condinst:condinst", INSTANCE, "CondInst on ResNet-50: to start with"),
    "condinst_tiny": Entry("seglib.models.condinst:condinst_tiny", INSTANCE, "CondInst on the tiny encoder, for CPUs"),
    "condinst_resnet50": Entry("seglib.models.condinst:condinst_resnet50", INSTANCE, "CondInst on ResNet-50"),
    "condinst_resnet101": Entry("seglib.models.condinst:condinst_resnet101", INSTANCE, "CondInst on ResNet-101"),
    "solov2": Entry("seglib.models.solov2:solov2", INSTANCE, "SOLOv2 on ResNet-50: masks without boxes"),
    "solov2_tiny": Entry("seglib.models.solov2:solov2_tiny", INSTANCE, "SOLOv2 on the tiny encoder, for CPUs"),
    "solov2_resnet50": Entry("seglib.models.solov2:solov2_resnet50", INSTANCE, "SOLOv2 on ResNet-50"),
    "solov2_resnet101": Entry("seglib.models.solov2:solov2_resnet101", INSTANCE, "SOLOv2 on ResNet-101"),
    "panoptic_fpn": Entry(
        "seglib.models.panoptic_fpn:panoptic_fpn", PANOPTIC, "Panoptic FPN on ResNet-50: to start with"
    ),
    "panoptic_fpn_tiny": Entry(
        "seglib.models.panoptic_fpn:panoptic_fpn_tiny", PANOPTIC, "Panoptic FPN on the tiny encoder, for CPUs"
    ),
    "panoptic_fpn_resnet50": Entry(
        "seglib.models.panoptic_fpn:panoptic_fpn_resnet50", PANOPTIC, "Panoptic FPN on ResNet-50"
    ),
    "panoptic_fpn_resnet101": Entry(
        "seglib.models.panoptic_fpn:panoptic_fpn_resnet101", PANOPTIC, "Panoptic FPN on ResNet-101"
    ),
    "mask2former": Entry(
        "seglib.models.mask2former:mask2former",
        ALL,
        "Mask2Former on ResNet-50: three tasks, to start with",
        universal=True,
    ),
    "mask2former_tiny": Entry(
        "seglib.models.mask2former:mask2former_tiny", ALL, "Mask2Former on the tiny encoder, for CPUs", universal=True
    ),
    "mask2former_resnet50": Entry(
        "seglib.models.mask2former:mask2former_resnet50", ALL, "Mask2Former on ResNet-50", universal=True
    ),
    "mask2former_resnet101": Entry(
        "seglib.models.mask2former:mask2former_resnet101", ALL, "Mask2Former on ResNet-101", universal=True
    ),
    "mask2former_swin_t": Entry(
        "seglib.models.mask2former:mask2former_swin_t", ALL, "Mask2Former on Swin-T", universal=True
    ),
    "mask2former_swin_s": Entry(
        "seglib.models.mask2former:mask2former_swin_s", ALL, "Mask2Former on Swin-S", universal=True
    ),
    "mask2former_swin_b": Entry(
        "seglib.models.mask2former:mask2former_swin_b", ALL, "Mask2Former on Swin-B", universal=True
    ),
    "mask2former_swin_l": Entry(
        "seglib.models.mask2former:mask2former_swin_l", ALL, "Mask2Former on Swin-L", universal=True
    ),
    "unet3d": Entry("seglib.models.unet3d:unet3d", VOLUME, "3D U-Net as nnU-Net builds it: to start with"),
    "unet3d_tiny": Entry("seglib.models.unet3d:unet3d_tiny", VOLUME, "four slim levels of it, for CPUs"),
    "unet3d_paper": Entry("seglib.models.unet3d:unet3d_paper", VOLUME, "the paper's 3D U-Net, valid convolutions"),
    "nnunet": Entry("seglib.models.nnunet:nnunet", VOLUME, "nnU-Net's network, as `seglib plan` sets its numbers"),
    "nnunet_tiny": Entry("seglib.models.nnunet:nnunet_tiny", VOLUME, "the plan of synthetic volumes, for CPUs"),
    "sam": Entry("seglib.models.sam:sam", PROMPT, "SAM on ViT-B: a mask for every click or box, to start with"),
    "sam_tiny": Entry("seglib.models.sam:sam_tiny", PROMPT, "SAM on the tiny encoder, for CPUs"),
    "sam_vit_b": Entry("seglib.models.sam:sam_vit_b", PROMPT, "SAM on ViT-B"),
    "sam_vit_l": Entry("seglib.models.sam:sam_vit_l", PROMPT, "SAM on ViT-L"),
    "sam_vit_h": Entry("seglib.models.sam:sam_vit_h", PROMPT, "SAM on ViT-H, the paper's"),
}

SHORT_NAMES = {
    "fcn": "fcn_resnet18",
    "unet": "unet_resnet34",
    "deeplab": "deeplabv3plus_resnet50",
    "mask_rcnn": "mask_rcnn_resnet50_fpn",
    "yolact": "yolact_resnet50",
    "condinst": "condinst_resnet50",
    "solov2": "solov2_resnet50",
    "panoptic_fpn": "panoptic_fpn_resnet50",
    "mask2former": "mask2former_resnet50",
    "sam": "sam_vit_b",
}
"""The names to start with, and the entry that each is with its usual encoder."""


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


def build(name: str, **arguments: Any) -> Model:
    """The model ``name``, with the weights that it starts from.

    Args:
        name: a key of :data:`MODELS`.
        **arguments: keywords of the model's builder: ``num_classes`` for most. A weights file stores all of them, so
            that :func:`seglib.weights.load.load_model` can build the model again.

    Raises:
        ValueError: when the name is unknown or the builder refuses its arguments.
    """
    builder = find(name).builder()
    signature = inspect.signature(builder)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        takes = ", ".join(signature.parameters)
        raise ValueError(f"{name} can't be built from {sorted(arguments)}: {error}; it takes {takes}") from error
    return builder(**arguments)


def check_task(name: str, task: str | None = None) -> str:
    """The task that a model is used for: ``task`` if it serves that one, its usual one when none is asked for.

    Raises:
        ValueError: when the model is unknown or doesn't serve the task.
    """
    tasks = find(name).tasks
    if task is not None and task not in tasks:
        raise ValueError(f"{name} serves {' and '.join(tasks)}, not {task!r}; choose another model or task")
    return task or tasks[0]
