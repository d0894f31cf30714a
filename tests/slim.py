"""A slim build of every architecture of the zoo: the same classes and settings with few channels and short stages.

What a model must do does not depend on how wide it is, so `test_zoo_contract.py` runs on these. That every entry of the
zoo, at its full size, is what was published is held by `test_published_keys.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from seglib.layers.encoder import Encoder
from seglib.layers.fcos import FCOSHead
from seglib.layers.fpn import FPN, TopConvs, TopPool
from seglib.layers.frozen import freeze, freeze_norms
from seglib.layers.mask_branch import MaskBranch
from seglib.layers.mask_decoder import MaskDecoder
from seglib.layers.pixel_decoder import PixelDecoder
from seglib.layers.query_decoder import QueryDecoder
from seglib.layers.resnet import ResNetEncoder, dilate
from seglib.layers.roi_heads import BoxHead, MaskHead
from seglib.layers.rpn import RPNHead
from seglib.layers.semantic_fpn import SemanticFPNHead
from seglib.layers.solo_heads import MaskFeatureHead, SOLOHead
from seglib.layers.swin import SwinEncoder
from seglib.layers.vgg import VGG16Encoder
from seglib.layers.vit import ImageEncoderViT
from seglib.layers.yolact_heads import PredictionHead, ProtoNet
from seglib.losses.queries import SetLossSettings
from seglib.models.base import Model
from seglib.models.condinst import CondInst
from seglib.models.deeplab import RATES, SMP_LAYOUT, DeepLabV3, DeepLabV3Plus
from seglib.models.fcn import FCN, DilatedFCN
from seglib.models.mask2former import LEVELS, Mask2Former
from seglib.models.mask_rcnn import MaskRCNN
from seglib.models.nnunet import NNUNet
from seglib.models.panoptic_fpn import PanopticFPN
from seglib.models.sam import Sam, SamTraining
from seglib.models.solov2 import SOLOv2
from seglib.models.unet import PaperUNet, UNet
from seglib.models.unet3d import PaperUNet3D, UNet3D
from seglib.models.yolact import YOLACT
from seglib.models.zoo import build
from seglib.ops.dynamic_conv import filter_count
from seglib.postprocess.everything import EverythingSettings
from seglib.postprocess.queries import QuerySettings

THINNER = 16
"""By how much an encoder's channels are divided."""


def thin(module: nn.Module) -> None:
    """Divide the channels of every convolution and batch norm by `THINNER`, in place; those of the images stay."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d):
            channels = child.in_channels if child.in_channels == 3 else child.in_channels // THINNER
            conv = nn.Conv2d(
                channels, child.out_channels // THINNER, child.kernel_size, child.stride, child.padding, child.dilation,
                bias=child.bias is not None,
            )  # fmt: skip
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            setattr(module, name, conv)
        elif isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.BatchNorm2d(child.num_features // THINNER))
        else:
            thin(child)


def resnet(
    block: type[BasicBlock | Bottleneck], output_stride: int = 32, *, first_keeps: bool = True, frozen: bool = False
) -> ResNetEncoder:
    """A ResNet with one block in its first stages and two in those that may be dilated."""
    net = ResNet(block, [1, 1, 2, 2])
    thin(net)
    dilate(net, output_stride, first_keeps=first_keeps)
    if frozen:
        freeze_norms(net)
        freeze(net.conv1)
        freeze(net.layer1)
    return ResNetEncoder(net)


def vgg() -> VGG16Encoder:
    """VGG-16 as the paper pads it, whose 62 fc6 windows of a small image still cost little."""
    with torch.device("meta"):
        encoder = VGG16Encoder(hidden=256)
    thin(encoder)
    encoder.channels = {level: channels // THINNER for level, channels in encoder.channels.items()}
    return encoder


def mask_rcnn(num_classes: int, full: str, *, frozen: bool = False, norm: bool = False, **arguments: Any) -> MaskRCNN:
    """The settings of the zoo's `full` with slim heads on a slim encoder; ``norm`` is torchvision's second version."""
    with torch.device("meta"):
        model = build(full, num_classes=num_classes, **arguments)
    assert isinstance(model, MaskRCNN)
    return MaskRCNN(**mask_rcnn_parts(model, frozen=frozen, norm=norm))


def mask_rcnn_parts(model: MaskRCNN, *, frozen: bool = False, norm: bool = False) -> dict[str, Any]:
    """The arguments of the slim Mask R-CNN that has the settings of ``model``."""
    encoder, channels, num_classes = resnet(Bottleneck, frozen=frozen), 16, model.num_classes
    return {
        "encoder": encoder,
        "num_classes": num_classes,
        "fpn": FPN([encoder.channels[level] for level in model.levels], channels, top_block=TopPool(), norm=norm),
        "rpn_head": RPNHead(channels, depth=2 if norm else 1),
        "box_head": BoxHead(channels, num_classes, hidden=32, convs=2 if norm else 0, depth=1 if norm else 2),
        "mask_head": MaskHead(channels, num_classes, hidden=channels, depth=2, norm=norm),
        "anchors": model.anchors,
        # as many steps as the full model, over fewer proposals
        "rpn": replace(model.rpn, batch_size_per_image=64, **dict.fromkeys(TOP_K, 60)),
        "roi": replace(model.roi, batch_size_per_image=32),
        "detections": replace(model.detections, max_detections=20),
    }


def panoptic_fpn(num_things: int, num_stuff: int) -> PanopticFPN:
    """The settings of the zoo's `panoptic_fpn_resnet50` with slim heads on a slim encoder."""
    with torch.device("meta"):
        model = build("panoptic_fpn_resnet50", num_things=num_things, num_stuff=num_stuff)
    assert isinstance(model, PanopticFPN)
    slim = PanopticFPN(
        num_stuff,
        semantic_head=SemanticFPNHead(16, 1 + num_stuff, channels=8, groups=4),
        merge=model.merge,
        **mask_rcnn_parts(model),
    )
    return merges_something(slim)


def merges_something(model: PanopticFPN) -> PanopticFPN:
    """The model with thresholds that let its first, unsure objects and few pixels pass."""
    model.merge = replace(model.merge, score_threshold=0.0, stuff_area_limit=4)
    return model


def condinst(num_classes: int) -> CondInst:
    """The settings of the zoo's `condinst_resnet50` with slim heads on a slim encoder."""
    with torch.device("meta"):
        model = build("condinst_resnet50", num_classes=num_classes)
    assert isinstance(model, CondInst)
    encoder, channels = resnet(Bottleneck), 16
    slim = CondInst(
        encoder,
        num_classes,
        fpn=FPN([encoder.channels[c] for c in model.encoder_levels], channels, top_block=TopConvs(channels, channels)),
        head=FCOSHead(channels, num_classes, depth=2, groups=4, parameters=filter_count(model.channels)),
        mask_branch=MaskBranch(channels, channels=8, depth=2),
        levels=model.levels,
        detections=replace(model.detections, max_detections=20),
    )
    return sees_something(slim)


def sees_something(model: CondInst) -> CondInst:
    """The model with class probabilities of ½: at its own start no location's score passes the threshold."""
    nn.init.zeros_(model.head.class_logits.bias)
    return model


def yolact(num_classes: int) -> YOLACT:
    """The settings of the zoo's `yolact_resnet50` with slim heads on a slim encoder."""
    with torch.device("meta"):
        model = build("yolact_resnet50", num_classes=num_classes)
    assert isinstance(model, YOLACT)
    encoder, channels, prototypes = resnet(Bottleneck), 16, 8
    return YOLACT(
        encoder,
        num_classes,
        levels=model.levels,
        fpn=FPN(
            [encoder.channels[level] for level in model.levels],
            channels,
            top_block=TopConvs(channels, channels, relu=False),
            upsample="bilinear",
            relu=True,
        ),
        protonet=ProtoNet(channels, prototypes, hidden=channels),
        head=PredictionHead(channels, num_classes, prototypes=prototypes),
        channels=channels,
        anchors=model.anchors,
        training_settings=model.training_settings,
        detections=replace(model.detections, max_detections=20),
    )


def solov2(num_classes: int, *, frozen: bool = False) -> SOLOv2:
    """The settings of the zoo's `solov2_resnet50` with slim heads on a slim encoder."""
    with torch.device("meta"):
        model = build("solov2_resnet50", num_classes=num_classes)
    assert isinstance(model, SOLOv2)
    encoder, channels = resnet(Bottleneck, frozen=frozen), 16
    slim = SOLOv2(
        encoder,
        fpn=FPN([encoder.channels[level] for level in model.levels], channels, top_block=TopPool()),
        head=SOLOHead(channels, num_classes, kernel_channels=8, hidden=channels, depth=2, groups=4),
        mask_features=MaskFeatureHead(channels, features=8, hidden=channels, groups=4),
        training_settings=model.training_settings,
        detections=replace(model.detections, pre_nms_top_k=50, max_detections=20),
    )
    return finds_something(slim)


def finds_something(model: SOLOv2) -> SOLOv2:
    """The model with class probabilities of ½ in every cell: at its own start none passes the threshold."""
    nn.init.zeros_(model.head.category.bias)
    return model


def with_all_negatives(model: YOLACT) -> YOLACT:
    """The model trained on all background: the hard part alone can miss the few anchors of the coarsest level."""
    model.training_settings = replace(model.training_settings, negative_ratio=1e6)
    return model


def mask2former(encoder: Encoder, num_classes: int, **arguments: Any) -> Mask2Former:
    """The layers of the zoo's Mask2Formers, slim ones, on a slim encoder."""
    channels = 16
    slim = Mask2Former(
        encoder,
        num_classes,
        pixel_decoder=PixelDecoder(
            [encoder.channels[level] for level in LEVELS],
            channels,
            layers=2,
            heads=2,
            hidden=32,
            mask_channels=channels,
            groups=4,
        ),
        decoder=QueryDecoder(num_classes, channels, queries=12, layers=4, heads=2, hidden=32, mask_channels=channels),
        settings=SetLossSettings(num_points=96),
        **arguments,
    )
    return draws_something(slim)


def draws_something(model: Mask2Former) -> Mask2Former:
    """The model with queries that all see an object, and thresholds that these first, unsure answers pass."""
    model.thresholds = QuerySettings(object_threshold=0.0, overlap_threshold=0.0)
    with torch.no_grad():
        model.decoder.query_features *= 5
        for layer in model.decoder.layers:  # queries that hardly listen to each other stay different
            layer.cross_attention.out.weight *= 0.2
            layer.self_attention.out.weight *= 0.2
        model.decoder.class_head.weight *= 5
        model.decoder.class_head.bias[-1] = -20
    return model


def sam() -> Sam:
    """The layers of the zoo's SAMs, slim ones, for small images; one block attends within windows."""
    encoder = ImageEncoderViT(96, width=16, depth=2, heads=2, global_blocks=(1,), window=4, channels=16)
    return keeps_something(Sam(encoder, 16, image_size=96, decoder=MaskDecoder(16, heads=2, hidden=32)))


def keeps_something(model: Sam) -> Sam:
    """The model with few clicks, and thresholds that its first, unsure masks pass."""
    model.everything = EverythingSettings(
        points_per_side=3, iou_threshold=0.0, stability_threshold=0.0, box_nms=0.9, points_per_batch=4
    )
    model.training_settings = SamTraining(objects=6, clicks=2, repeats=2, finer=model.training_settings.finer)
    nn.init.ones_(model.mask_decoder.iou_mlp[-1].bias)
    model.ambiguous = False  # at the start one of three masks is the best for every prompt, the others learn nothing
    freeze(model.mask_decoder.mask_mlps[1:])
    return model


def swin() -> SwinEncoder:
    """A Swin Transformer of few channels, whose windows are smaller than some maps of the tests, not all."""
    return SwinEncoder(8, (2, 1, 2, 1), (1, 2, 2, 4), 3)


TOP_K = ("pre_nms_top_k_train", "pre_nms_top_k_test", "post_nms_top_k_train", "post_nms_top_k_test")

Builder = Callable[..., Model]

DENSE: dict[str, Builder] = {
    "fcn_resnet": lambda k, **more: FCN(resnet(BasicBlock), k, stride=8, **more),
    "fcn_vgg": lambda k, **more: FCN(vgg(), k, stride=8, **more),
    "fcn_dilated": lambda k, **more: DilatedFCN(resnet(Bottleneck, 8), k, **more),
    "fcn_tiny": lambda k, **more: build("fcn_tiny", num_classes=k, **more),
    "unet": lambda k, **more: UNet(resnet(BasicBlock), k, widths=(32, 16, 16, 8, 8), **more),
    "unet_paper": lambda k, **more: PaperUNet(k, width=4, **more),
    "unet_tiny": lambda k, **more: build("unet_tiny", num_classes=k, **more),
    "deeplabv3": lambda k, **more: DeepLabV3(resnet(Bottleneck, 8), k, rates=RATES[8], width=16, aux=True, **more),
    "deeplabv3plus": lambda k, **more: DeepLabV3Plus(
        resnet(BasicBlock, 16), k, rates=RATES[16], low_width=6, width=16, **more
    ),
    "deeplabv3plus_smp": lambda k, **more: DeepLabV3Plus(
        resnet(Bottleneck, 16, first_keeps=False), k, low_width=6, width=16, **SMP_LAYOUT, **more
    ),
    "deeplab_tiny": lambda k, **more: build("deeplab_tiny", num_classes=k, **more),
}
"""Architecture → its slim build, called with the number of classes and, perhaps, ``overlapping``."""

SLIM: dict[str, tuple[str, Builder]] = {
    **{name: ("semantic", builder) for name, builder in DENSE.items()},
    "deeplabv3_regions": ("regions", lambda k: DENSE["deeplabv3"](k, overlapping=True)),
    "mask_rcnn": ("instance", lambda k: mask_rcnn(k, "mask_rcnn_resnet50_fpn")),
    "mask_rcnn_torchvision": (
        "instance", lambda k: mask_rcnn(k, "mask_rcnn_resnet50_fpn", frozen=True, conventions="torchvision"),
    ),
    "mask_rcnn_v2": ("instance", lambda k: mask_rcnn(k, "mask_rcnn_resnet50_fpn_v2", norm=True)),
    "mask_rcnn_tiny": ("instance", lambda k: build("mask_rcnn_tiny", num_classes=k)),
    "yolact": ("instance", yolact),
    "yolact_tiny": ("instance", lambda k: with_all_negatives(build("yolact_tiny", num_classes=k))),
    "condinst": ("instance", condinst),
    "condinst_tiny": ("instance", lambda k: sees_something(build("condinst_tiny", num_classes=k))),
    "solov2": ("instance", solov2),
    "solov2_tiny": ("instance", lambda k: finds_something(build("solov2_tiny", num_classes=k))),
    "panoptic_fpn": ("panoptic", lambda k: panoptic_fpn(k - 2, 2)),
    "panoptic_fpn_tiny": (
        "panoptic", lambda k: merges_something(build("panoptic_fpn_tiny", num_things=k - 2, num_stuff=2)),
    ),
    "mask2former": ("panoptic", lambda k: mask2former(resnet(Bottleneck), k, num_things=k - 2)),
    "mask2former_swin": ("instance", lambda k: mask2former(swin(), k, task="instance")),
    "mask2former_tiny": (
        "panoptic", lambda k: draws_something(build("mask2former_tiny", num_classes=k, num_things=k - 2)),
    ),
    "mask2former_semantic": ("semantic", lambda k: build("mask2former_tiny", num_classes=k, task="semantic")),
    "sam": ("prompt", lambda k: sam()),
    "sam_tiny": ("prompt", lambda k: keeps_something(build("sam_tiny", image_size=96, channels=16))),
    "unet3d": ("volume", lambda k: UNet3D(k, in_channels=3, widths=(4, 6, 8, 8), aux_outputs=2)),
    "unet3d_tiny": ("volume", lambda k: build("unet3d_tiny", num_classes=k, in_channels=3)),
    "unet3d_paper": ("volume", lambda k: PaperUNet3D(k, in_channels=3, width=2, depth=2)),
    # without the scores that weigh 0, which no gradient reaches
    "nnunet": ("volume", lambda k: NNUNet(k, in_channels=3, widths=(4, 6, 8, 8), aux_outputs=1)),
    "nnunet_residual": (
        "volume", lambda k: NNUNet(k, in_channels=3, widths=(4, 6, 6, 8), residual=True, blocks=(1, 2, 1, 1),
                                   aux_outputs=1),
    ),
    "nnunet_2d": ("volume", lambda k: NNUNet(k, in_channels=3, dims=2, widths=(4, 6, 8, 8), aux_outputs=1,
                                             batch_dice=True)),
    "nnunet_tiny": ("volume", lambda k: build("nnunet_tiny", num_classes=k, in_channels=3, aux_outputs=1)),
}  # fmt: skip
"""Architecture → the task that the contract checks it with, and its slim build."""

ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "fcn": ("fcn_resnet",),
    "fcn_tiny": ("fcn_tiny",),
    "fcn_resnet18": ("fcn_resnet",),
    "fcn_resnet50": ("fcn_dilated",),
    "fcn_resnet101": ("fcn_dilated",),
    "fcn32s": ("fcn_vgg",),
    "fcn16s": ("fcn_vgg",),
    "fcn8s": ("fcn_vgg",),
    "unet": ("unet",),
    "unet_tiny": ("unet_tiny",),
    "unet_resnet34": ("unet",),
    "unet_resnet50": ("unet",),
    "unet_paper": ("unet_paper",),
    "deeplab": ("deeplabv3plus", "deeplabv3plus_smp"),
    "deeplab_tiny": ("deeplab_tiny",),
    "deeplabv3_resnet50": ("deeplabv3",),
    "deeplabv3_resnet101": ("deeplabv3",),
    "deeplabv3plus_resnet34": ("deeplabv3plus", "deeplabv3plus_smp"),
    "deeplabv3plus_resnet50": ("deeplabv3plus", "deeplabv3plus_smp"),
    "deeplabv3plus_resnet101": ("deeplabv3plus", "deeplabv3plus_smp"),
    "mask_rcnn": ("mask_rcnn", "mask_rcnn_torchvision"),
    "mask_rcnn_tiny": ("mask_rcnn_tiny",),
    "mask_rcnn_resnet50_fpn": ("mask_rcnn", "mask_rcnn_torchvision"),
    "mask_rcnn_resnet101_fpn": ("mask_rcnn", "mask_rcnn_torchvision"),
    "mask_rcnn_resnet50_fpn_v2": ("mask_rcnn_v2",),
    "yolact": ("yolact",),
    "yolact_tiny": ("yolact_tiny",),
    "yolact_resnet50": ("yolact",),
    "yolact_resnet101": ("yolact",),
    "condinst": ("condinst",),
    "condinst_tiny": ("condinst_tiny",),
    "condinst_resnet50": ("condinst",),
    "condinst_resnet101": ("condinst",),
    "solov2": ("solov2",),
    "solov2_tiny": ("solov2_tiny",),
    "solov2_resnet50": ("solov2",),
    "solov2_resnet101": ("solov2",),
    "panoptic_fpn": ("panoptic_fpn",),
    "panoptic_fpn_tiny": ("panoptic_fpn_tiny",),
    "panoptic_fpn_resnet50": ("panoptic_fpn",),
    "panoptic_fpn_resnet101": ("panoptic_fpn",),
    "mask2former": ("mask2former",),
    "mask2former_tiny": ("mask2former_tiny", "mask2former_semantic"),
    "mask2former_resnet50": ("mask2former",),
    "mask2former_resnet101": ("mask2former",),
    "mask2former_swin_t": ("mask2former_swin",),
    "mask2former_swin_s": ("mask2former_swin",),
    "mask2former_swin_b": ("mask2former_swin",),
    "mask2former_swin_l": ("mask2former_swin",),
    "unet3d": ("unet3d",),
    "unet3d_tiny": ("unet3d_tiny",),
    "unet3d_paper": ("unet3d_paper",),
    "nnunet": ("nnunet", "nnunet_residual", "nnunet_2d"),
    "nnunet_tiny": ("nnunet_tiny",),
    "sam": ("sam",),
    "sam_tiny": ("sam_tiny",),
    "sam_vit_b": ("sam",),
    "sam_vit_l": ("sam",),
    "sam_vit_h": ("sam",),
}
"""Name in the zoo → the architectures that its builder makes, one for each of its layouts or conventions."""
