"""Panoptic FPN (Kirillov, Girshick, He, Dollár, "Panoptic Feature Pyramid Networks", CVPR 2019).

Mask R-CNN finds the things. A second, small branch on the same pyramid says which stuff every pixel is. A rule without
weights merges both into one map.

::

    image (B, 3, H, W)
      │ normalise, encoder, FPN
      ▼
    p2 … p6 (B, C, H/4 … H/64, W/4 … W/64)
      ├── Mask R-CNN: RPN, box head, mask head ──────────────► boxes, classes, scores, masks of things
      │                                                                             │
      └── p2 … p5: 3×3 and ×2 until H/4, sum, 1×1 ──► logits (B, 1 + S, H/4, W/4)   │
                                                        │ ×4, crop, resize, argmax  │
                                                        ▼                           ▼
                                         stuff of each pixel, or "a thing" ──► merge: things by score, then stuff
                                                                                    │
                                                                                    ▼
                                                                        one segment for each pixel
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.layers.semantic_fpn import SemanticFPNHead
from seglib.losses.pixel import cross_entropy
from seglib.models.instance import objects_of
from seglib.models.keywords import hands_keywords_to
from seglib.models.mask_rcnn import MaskRCNN, fpn_parts, tiny_parts
from seglib.models.two_stage import MaskRCNNOutput, true_sizes
from seglib.ops.precision import at_least_float32
from seglib.ops.resize import crop_to, resize_image
from seglib.postprocess.panoptic import MergeSettings, merge_panoptic
from seglib.types import VOID, Instances, Panoptic, Size, Targets

CHUNK = 2**26
"""Logits that are upsampled at once: 256 MB of float32."""


@dataclass(frozen=True)
class PanopticFPNOutput:
    """What both branches of Panoptic FPN return for a batch.

    Attributes:
        detector: every stage of Mask R-CNN.
        semantic_logits: ``(B, 1 + S, H/4, W/4)`` at the pyramid's finest stride, padding included. Class 0 is any
            thing, class i the i-th stuff class.
    """

    detector: MaskRCNNOutput
    semantic_logits: Tensor


torch.export.register_dataclass(PanopticFPNOutput, serialized_type_name="seglib.PanopticFPNOutput")


class PanopticFPN(MaskRCNN):
    """Mask R-CNN with a semantic branch on its pyramid: a segment for every pixel.

    Category ids are those of a table with the things first: 0 … ``num_things`` − 1 things, then ``num_stuff`` of stuff.

    Args:
        num_stuff: number of classes S of stuff.
        semantic_head: module that gives 1 + S logits for each cell of the pyramid's finest level.
        merge: thresholds of the merge. An attribute of the same name: set another one to merge differently.
        instance_weight: λ_i, the weight of Mask R-CNN's five losses.
        semantic_weight: λ_s, the weight of the semantic loss.
        **mask_rcnn: arguments of :class:`~seglib.models.mask_rcnn.MaskRCNN`, whose ``num_classes`` is the number of
            things.
    """

    def __init__(
        self,
        num_stuff: int,
        *,
        semantic_head: SemanticFPNHead,
        merge: MergeSettings,
        instance_weight: float = 1.0,
        semantic_weight: float = 0.5,
        **mask_rcnn: Any,
    ) -> None:
        super().__init__(**mask_rcnn)
        if (made := semantic_head.predict.out_channels) != 1 + num_stuff:
            raise ValueError(
                f"{num_stuff} classes of stuff and one for all things need {1 + num_stuff} channels, the semantic head "
                f"was built for {made}; pass num_classes={1 + num_stuff} to SemanticFPNHead"
            )
        self.num_things, self.num_stuff = self.num_classes, num_stuff
        self.semantic_head, self.merge = semantic_head, merge
        self.instance_weight, self.semantic_weight = instance_weight, semantic_weight

    def forward(  # type: ignore[override]  # a Mask R-CNN with one more output
        self, images: Tensor, targets: Targets | None = None, sizes: Sequence[Size] | None = None
    ) -> PanopticFPNOutput:
        """Both branches. With targets Mask R-CNN's second stage sees a sample of the proposals, as training wants it.

        Args:
            images: batch ``(B, 3, H, W)`` float in [0, 1], any H and W.
            targets: annotations with ``instances`` of things. Crowds are left out.
            sizes: true size ``(H, W)`` of each image: what lies beyond is padding. ``None`` when every image fills the
                batch.

        Raises:
            ValueError: when images or targets are malformed; the message names the first bad box or label.
        """
        objects = None if targets is None else objects_of(targets, self.num_things)
        pyramid = self.pyramid(images, sizes)
        return PanopticFPNOutput(
            detector=self.heads(pyramid, true_sizes(images, sizes), objects),
            semantic_logits=self.semantic_head(pyramid),
        )

    def loss(self, out: PanopticFPNOutput, targets: Targets) -> dict[str, Tensor]:  # type: ignore[override]  # as above
        """``λ_i (objectness + anchor + class + box + mask) + λ_s semantic`` (section 3.3), each already weighted.

        Args:
            out: an output that was made with the same targets.
            targets: annotations with ``instances`` of things and ``semantic``, whose things become one class.

        Raises:
            ValueError: when the targets are malformed, or ``out`` was made without them.
        """
        if targets.semantic is None:
            raise ValueError("the targets have no `semantic` labels; the task derives them from panoptic annotations")
        losses = super().loss(out.detector, targets)
        weighted = {name: self.instance_weight * value for name, value in losses.items()}
        semantic = self.semantic_loss(out.semantic_logits, targets.semantic)
        return weighted | {"semantic": self.semantic_weight * semantic}

    def semantic_loss(self, logits: Tensor, semantic: Tensor) -> Tensor:
        """The mean cross-entropy over the labelled pixels, on logits upsampled to the image's size; not yet weighted.

        Args:
            logits: class scores of the semantic branch, ``(B, 1 + S, H/4, W/4)``.
            semantic: category ids, whose things become one class, ``(B, H, W)`` int64, 255 is void.
        """
        upsampled = crop_to(self._upsample(logits), semantic.shape[1:])  # (B, 1 + S, H, W)
        return cross_entropy(upsampled, semantic_to_stuff(semantic, self.num_things))

    def postprocess(  # type: ignore[override]  # as above
        self, out: PanopticFPNOutput, sizes: Sequence[Size], output_sizes: Sequence[Size] | None = None
    ) -> list[Panoptic]:
        """The panoptic segmentation of each image, by the thresholds of :attr:`merge`.

        Args:
            out: an output that was made without targets, with the same sizes.
            sizes: true size ``(H, W)`` of each image.
            output_sizes: size ``(H, W)`` in which the map is wanted; ``None`` for ``sizes``.
        """
        found = zip(self.things(out, sizes, output_sizes), self.stuff(out, sizes, output_sizes), strict=True)
        return [merge_panoptic(things, stuff, self.merge, num_things=self.num_things) for things, stuff in found]

    def things(
        self, out: PanopticFPNOutput, sizes: Sequence[Size], output_sizes: Sequence[Size] | None = None
    ) -> list[Instances]:
        """The detections of each image before the merge: Mask R-CNN's. Arguments as in :meth:`postprocess`."""
        return super().postprocess(out.detector, sizes, output_sizes)

    def stuff(
        self, out: PanopticFPNOutput, sizes: Sequence[Size], output_sizes: Sequence[Size] | None = None
    ) -> list[Tensor]:
        """The stuff of every pixel before the merge, ``(H, W)`` int64 category ids, 255 where a thing is seen.

        Logits are brought to the size of the padded batch, cut to the image and resized to the output; the class is
        decided there, a few classes at a time where all of them would fill the memory. Arguments as in
        :meth:`postprocess`.
        """
        maps = []
        wanted = sizes if output_sizes is None else output_sizes
        for logits, size, (height, width) in zip(out.semantic_logits, sizes, wanted, strict=True):
            best = logits.new_full((height, width), -torch.inf, dtype=torch.float32)
            classes = torch.zeros(height, width, dtype=torch.int64, device=logits.device)
            step = max(1, CHUNK // (height * width))
            for begin in range(0, len(logits), step):
                upsampled = self._upsample(logits[None, begin : begin + step])[0]  # (K, H, W)
                found, index = resize_image(crop_to(upsampled, size), (height, width), antialias=False).max(0)
                classes = torch.where(found > best, index + begin, classes)
                best = best.maximum(found)
            maps.append(torch.where(classes == 0, VOID, classes + self.num_things - 1))
        return maps

    def _upsample(self, logits: Tensor) -> Tensor:
        """``(B, K, h, w)`` at the finest level's stride → ``(B, K, H, W)`` of the padded images, in float32."""
        return F.interpolate(at_least_float32(logits), scale_factor=self.anchors.strides[0], mode="bilinear")


def semantic_to_stuff(semantic: Tensor, num_things: int) -> Tensor:
    """Labels of the semantic branch: 0 for every thing, 1, 2, … for the stuff classes; void stays 255.

    Args:
        semantic: category ids of a table with things first, 255 is void, ``(…, H, W)`` int64.
        num_things: number of things in the table.
    """
    labels = (semantic - (num_things - 1)).clamp(min=0)  # (…, H, W)
    return labels.masked_fill(semantic == VOID, VOID)


@hands_keywords_to(fpn_parts)
def panoptic_fpn_on(
    encoder: str,
    num_things: int,
    num_stuff: int,
    *,
    instance_weight: float = 1.0,
    semantic_weight: float = 0.5,
    stuff_area_limit: int = 4096,
    **keywords: Any,
) -> PanopticFPN:
    """Panoptic FPN on an encoder with a pyramid of 256 channels.

    Args:
        encoder: name of the encoder, a ResNet, a Swin Transformer or a network of timm
            (:func:`~seglib.layers.named_encoder.named_encoder`).
        num_things: number of classes of things.
        num_stuff: number of classes of stuff.
        instance_weight: weight λ_i of Mask R-CNN's losses.
        semantic_weight: weight λ_s of the semantic loss.
        stuff_area_limit: number of pixels from which stuff becomes a segment, in the output's size.
        **keywords: further keywords of :func:`~seglib.models.mask_rcnn.fpn_parts`.

    Raises:
        ValueError: without things or stuff, or for an unknown encoder.
    """
    _check_classes(num_things, num_stuff)
    return PanopticFPN(
        num_stuff,
        semantic_head=SemanticFPNHead(256, 1 + num_stuff),
        merge=MergeSettings(stuff_area_limit=stuff_area_limit),
        instance_weight=instance_weight,
        semantic_weight=semantic_weight,
        **fpn_parts(encoder, num_things, **keywords),
    )


@hands_keywords_to(panoptic_fpn_on)
def panoptic_fpn(num_things: int, num_stuff: int, *, encoder: str = "resnet50", **keywords: Any) -> PanopticFPN:
    """The Panoptic FPN to start with on your own data, on any encoder. Arguments: :func:`panoptic_fpn_on`."""
    return panoptic_fpn_on(encoder, num_things, num_stuff, **keywords)


@hands_keywords_to(panoptic_fpn_on)
def panoptic_fpn_resnet50(num_things: int, num_stuff: int, **keywords: Any) -> PanopticFPN:
    """Panoptic FPN on ResNet-50, whose published weights ``seglib convert`` turns into its own.

    Args:
        num_things: number of classes of things.
        num_stuff: number of classes of stuff.
        **keywords: further keywords of :func:`panoptic_fpn_on`.
    """
    return panoptic_fpn_on("resnet50", num_things, num_stuff, **keywords)


@hands_keywords_to(panoptic_fpn_on)
def panoptic_fpn_resnet101(num_things: int, num_stuff: int, **keywords: Any) -> PanopticFPN:
    """Panoptic FPN on ResNet-101. Keywords as in :func:`panoptic_fpn_on`."""
    return panoptic_fpn_on("resnet101", num_things, num_stuff, **keywords)


def panoptic_fpn_tiny(
    num_things: int,
    num_stuff: int,
    *,
    in_channels: int = 3,
    channels: int = 48,
    instance_weight: float = 1.0,
    semantic_weight: float = 0.5,
) -> PanopticFPN:
    """Panoptic FPN on the tiny encoder, for the synthetic scenes on two CPU cores.

    It is :func:`~seglib.models.mask_rcnn.mask_rcnn_tiny` with a semantic branch. The limit on stuff is 64 pixels: the
    share of 128×128 pixels that 4096 have of 1024×1024.

    Args:
        num_things: number of classes of things.
        num_stuff: number of classes of stuff.
        in_channels: number of channels of the images.
        channels: channels of the pyramid's levels and of the mask head.
        instance_weight: weight λ_i of Mask R-CNN's losses.
        semantic_weight: weight λ_s of the semantic loss.

    Raises:
        ValueError: without things or stuff.
    """
    _check_classes(num_things, num_stuff)
    return PanopticFPN(
        num_stuff,
        semantic_head=SemanticFPNHead(channels, 1 + num_stuff, levels=5, channels=32, groups=8),
        merge=MergeSettings(stuff_area_limit=64),
        instance_weight=instance_weight,
        semantic_weight=semantic_weight,
        **tiny_parts(num_things, in_channels=in_channels, channels=channels),
    )


def _check_classes(num_things: int, num_stuff: int) -> None:
    if num_things < 1:
        raise ValueError(f"num_things must be at least 1, got {num_things}; without things train a semantic model")
    if num_stuff < 1:
        raise ValueError(f"num_stuff must be at least 1, got {num_stuff}; without stuff train an instance model")
