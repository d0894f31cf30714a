"""Mask R-CNN (He, Gkioxari, Dollár, Girshick, "Mask R-CNN", ICCV 2017) on a feature pyramid.

A first stage proposes boxes that may hold an object of any kind. A second one looks at each proposal through a small
patch of features that RoIAlign cuts out, says which class it is, corrects the box, and draws a mask in it.

::

    image (B, 3, H, W)
      │ normalise, encoder, FPN
      ▼
    p2 … p6 (B, C, H/4 … H/64, W/4 … W/64)
      │ RPN: 3 anchors per cell ─► objectness, deltas ─► best of each level, NMS ─► proposals (B, P, 4)
      │                                                                               │ with targets: a sample, 1 : 3
      ▼                                                                               ▼
    p2 … p5 ── RoIAlign 7×7 ── box head ─► K + 1 class logits, K × 4 deltas ◄── regions (B, R, 4)
      │                                          │ softmax, decode, NMS per class; with targets: the objects sampled
      │                                          ▼
      └─────── RoIAlign 14×14 ── mask head ◄── boxes (B, D, 4) ─► mask logits (B, D, 28, 28) of each box's class
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from seglib.layers.anchors import Anchors
from seglib.layers.encoder import Encoder
from seglib.layers.fpn import FPN
from seglib.layers.frozen import freeze
from seglib.layers.inference import evaluating
from seglib.layers.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize, check_range, pad_to_multiple
from seglib.layers.resnet import resnet_encoder
from seglib.layers.roi_heads import BoxHead, MaskHead
from seglib.layers.rpn import RPNHead, propose
from seglib.layers.tiny import TINY_MEAN, TINY_STD, TinyEncoder
from seglib.losses.assign import BACKGROUND, IGNORE, match_boxes, sample_balanced
from seglib.losses.two_stage import BOX_WEIGHTS, mask_loss, mask_targets, region_loss, rpn_loss
from seglib.models.two_stage import (
    DetectionSettings,
    MaskRCNNOutput,
    RegionSettings,
    RPNSettings,
    check_sampled,
    join,
    objects_first,
    objects_of,
    occupied,
    paste_detections,
    rows_of,
    sample_regions,
    spread,
)
from seglib.ops.boxes import box_iou, decode_boxes
from seglib.ops.precision import at_least_float32
from seglib.ops.roi import roi_align, roi_levels, roi_pool
from seglib.postprocess.instance import detect
from seglib.types import Instances, Targets


class MaskRCNN(nn.Module):
    """Boxes, classes and masks of countable objects.

    Args:
        encoder: gives the maps.
        num_classes: K, the kinds of things; background is none of them.
        levels: the encoder's maps that the pyramid is built on, finest first.
        fpn: builds p2, p3, … from these.
        rpn_head: scores the anchors.
        box_head: classifies regions.
        mask_head: draws masks.
        anchors: of the pyramid's levels.
        rpn: see :class:`~seglib.models.two_stage.RPNSettings`.
        regions: see :class:`~seglib.models.two_stage.RegionSettings`.
        detections: see :class:`~seglib.models.two_stage.DetectionSettings`.
        mean: of the images' channels.
        std: of the images' channels.
        padding: what follows on an image whose sides are no multiple of the coarsest stride: "constant", the mean
            colour, as published weights know it, or "replicate", its last row and column.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        levels: Sequence[str] = ("c2", "c3", "c4", "c5"),
        fpn: FPN,
        rpn_head: RPNHead,
        box_head: BoxHead,
        mask_head: MaskHead,
        anchors: Anchors,
        rpn: RPNSettings,
        regions: RegionSettings,
        detections: DetectionSettings,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        padding: str = "constant",
    ) -> None:
        super().__init__()
        if padding not in ("constant", "replicate"):
            raise ValueError(f'padding is "constant" or "replicate", got {padding!r}')
        self.num_classes, self.padding = num_classes, padding
        self.normalize = Normalize(mean, std)
        self.encoder = encoder
        self.levels = tuple(levels)
        self.fpn, self.rpn_head, self.box_head, self.mask_head = fpn, rpn_head, box_head, mask_head
        self.anchors, self.rpn, self.regions, self.detections = anchors, rpn, regions, detections
        self.divisor = max(encoder.divisor, anchors.strides[len(self.levels) - 1])

    def forward(self, images: Tensor, targets: Targets | None = None) -> MaskRCNNOutput:
        """All stages. With targets the second one sees a sample of the proposals, as training wants it.

        Args:
            images: ``(B, 3, H, W)`` float in [0, 1], any H and W.
            targets: with ``instances``. Crowds are left out.

        Raises:
            ValueError: when images or targets are malformed; the message names the first bad box or label.
        """
        size = (images.shape[-2], images.shape[-1])
        objects = None if targets is None else objects_of(targets, self.num_classes)
        pyramid = self.pyramid(images)
        objectness, deltas = self.rpn_head(pyramid)
        anchors = self.anchors([p.shape[-2:] for p in pyramid], images.device)
        s, which = self.rpn, 0 if targets is None else 1
        proposals, proposal_scores = propose(
            objectness, deltas, anchors, size,
            before_nms=s.before_nms[which], after_nms=s.after_nms[which], threshold=s.nms, smallest=s.smallest,
        )  # fmt: skip
        if objects is None:
            regions, matches = proposals, torch.where(proposal_scores > -torch.inf, BACKGROUND, IGNORE)
        else:
            regions, matches = sample_regions(proposals, proposal_scores, objects, self.regions)
        class_logits, box_deltas = self._classify(pyramid, regions, matches > IGNORE)
        if objects is None:
            boxes, labels, scores = self._detect(class_logits, box_deltas, regions, matches > IGNORE, size)
        else:
            boxes, labels, scores = objects_first(regions, matches, objects, self.regions)
        return MaskRCNNOutput(
            anchors=torch.cat(anchors)[None].expand(len(images), -1, -1),
            objectness=at_least_float32(torch.cat(objectness, 1)),
            anchor_deltas=at_least_float32(torch.cat(deltas, 1)),
            proposals=proposals,
            proposal_scores=proposal_scores,
            regions=regions,
            matches=matches,
            class_logits=class_logits,
            box_deltas=box_deltas,
            boxes=boxes,
            labels=labels,
            scores=scores,
            mask_logits=self._draw(pyramid, boxes, labels, scores > 0),
        )

    def loss(self, out: MaskRCNNOutput, targets: Targets) -> dict[str, Tensor]:
        """The five losses of the paper, each with weight 1: objectness, anchor, class, box and mask.

        Args:
            out: of ``forward`` with the same targets.
            targets: with ``instances``.

        Raises:
            ValueError: when the targets are malformed, or ``out`` was made without them.
        """
        objects = objects_of(targets, self.num_classes)
        check_sampled(out.matches, objects)
        picked, matches = zip(*(self._sample_anchors(out.anchors[0], o.boxes) for o in objects), strict=True)
        image = torch.cat([torch.full_like(p, i) for i, p in enumerate(picked)])  # (S,)
        index, match = torch.cat(picked), torch.cat(matches)  # (S,)
        table, first = join(objects)  # all objects of the batch, and where those of an image begin
        boxes = rows_of(table.boxes, first[image] + match, match >= 0)
        objectness, anchor = rpn_loss(
            out.objectness[image, index], out.anchor_deltas[image, index], out.anchors[0, index], boxes, match >= 0,
            beta=self.rpn.beta,
        )  # fmt: skip

        image, slot = (out.matches > IGNORE).nonzero().unbind(1)  # (S,)
        match = out.matches[image, slot]
        row = first[image] + match
        labels = torch.where(match >= 0, rows_of(table.labels, row, match >= 0), self.num_classes)
        boxes = rows_of(table.boxes, row, match >= 0)
        classes, box = region_loss(
            out.class_logits[image, slot], out.box_deltas[image, slot], out.regions[image, slot], labels, boxes,
            beta=self.regions.beta, kind=self.regions.box_loss,
        )  # fmt: skip

        image, slot = (out.matches[:, : out.mask_logits.shape[1]] >= 0).nonzero().unbind(1)  # (N,) objects come first
        target = mask_targets(
            table.masks, first[image] + out.matches[image, slot], out.boxes[image, slot], out.mask_logits.shape[-1],
            aligned=self.regions.aligned, binary=self.regions.binary_masks,
        )  # fmt: skip
        mask = mask_loss(out.mask_logits[image, slot], target)
        return {"objectness": objectness, "anchor": anchor, "class": classes, "box": box, "mask": mask}

    def predict(self, images: Tensor, size: Sequence[int] | None = None) -> list[Instances]:
        """The objects in each image by falling score, in evaluation mode; the model's own mode comes back afterwards.

        Args:
            images: ``(B, 3, H, W)`` float in [0, 1].
            size: ``(H, W)`` of the masks when it isn't that of the images; boxes are scaled alike.

        Raises:
            ValueError: when the images are no float images in [0, 1].
        """
        if images.ndim == 4 and images.is_floating_point():
            check_range(images)
        if images.ndim == 4 and images.shape[0] == 0:
            return []
        with evaluating(self):
            out = self(images)
        height, width = images.shape[-2:]
        new_height, new_width = (height, width) if size is None else size
        scale = out.boxes.new_tensor([new_width / width, new_height / height] * 2)
        return self.instances(replace(out, boxes=out.boxes * scale), (new_height, new_width))

    def instances(self, out: MaskRCNNOutput, size: Sequence[int]) -> list[Instances]:
        """The detections of an output made without targets, each mask pasted into an image of ``size`` (H, W)."""
        return paste_detections(out, size, rounded=self.detections.rounded_paste)

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """``(B, 3, H, W)`` images in [0, 1] → the levels p2, p3, …, ``(B, C, H/4, W/4)``, …"""
        maps = self.encoder(pad_to_multiple(self.normalize(images), self.divisor, self.padding))
        return self.fpn([maps[level] for level in self.levels])

    def pool(self, pyramid: Sequence[Tensor], boxes: Tensor, images: Tensor, size: int) -> Tensor:
        """The patch of each box ``(R, 4)``, from the level that suits its size: ``(R, C, size, size)``."""
        s, used = self.regions, len(self.levels)
        levels = roi_levels(boxes, used, canonical_size=s.canonical_size)
        if s.pooling == "pool":
            return roi_pool(pyramid[:used], boxes, images, size, strides=self.anchors.strides[:used], levels=levels)
        return roi_align(
            pyramid[:used], boxes, images, size,
            strides=self.anchors.strides[:used], levels=levels, sampling_ratio=s.sampling_ratio, aligned=s.aligned,
        )  # fmt: skip

    def _sample_anchors(self, anchors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """The anchors ``(S,)`` that the loss looks at and the object ``(S,)`` of each, −1 for none."""
        s = self.rpn
        matches = match_boxes(box_iou(boxes, anchors), high=s.high, low=s.low, rescue=True)  # (A,)
        picked = sample_balanced(matches, s.sample, s.positive)
        return picked, matches[picked]

    def _classify(self, pyramid: Sequence[Tensor], regions: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits ``(B, R, K + 1)`` and box deltas ``(B, R, K or 1, 4)`` of the regions."""
        image, slot = occupied(valid)  # (N,)
        patches = self.pool(pyramid, regions[image, slot], image, self.regions.box_size)
        logits, deltas = self.box_head(patches)
        return spread(logits, valid, image, slot), spread(deltas, valid, image, slot)

    def _detect(
        self, logits: Tensor, deltas: Tensor, regions: Tensor, valid: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes ``(B, D, 4)``, labels ``(B, D)`` and scores ``(B, D)`` of the detections."""
        s = self.detections
        scores = logits.detach().softmax(-1)[..., :-1] * valid[..., None]  # (B, R, K)
        boxes = decode_boxes(deltas.detach(), regions[:, :, None], BOX_WEIGHTS)  # (B, R, K or 1, 4)
        return detect(boxes, scores, size, threshold=s.threshold, nms=s.nms, count=s.count, smallest=s.smallest)

    def _draw(self, pyramid: Sequence[Tensor], boxes: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """Mask logits ``(B, D, M, M)`` of each box's class."""
        image, slot = occupied(valid)  # (N,)
        patches = self.pool(pyramid, boxes[image, slot], image, self.regions.mask_size)
        return spread(self.mask_head(patches, labels[image, slot]), valid, image, slot)


CONVENTIONS = ("detectron2", "torchvision")
"""Whose details a ResNet model follows: they differ in half pixels and roundings, and weights expect their own."""


def mask_rcnn_resnet50_fpn(num_classes: int, **keywords: Any) -> MaskRCNN:
    """Mask R-CNN on ResNet-50-FPN, whose published weights ``seglib convert`` turns into its own.

    Args:
        num_classes: K, the kinds of things.
        **keywords: of :func:`mask_rcnn_fpn`.
    """
    return mask_rcnn_fpn("resnet50", num_classes, **keywords)


mask_rcnn = mask_rcnn_resnet50_fpn
"""The Mask R-CNN to start with on your own data."""


def mask_rcnn_resnet101_fpn(num_classes: int, **keywords: Any) -> MaskRCNN:
    """Mask R-CNN on ResNet-101-FPN. Keywords as in :func:`mask_rcnn_fpn`."""
    return mask_rcnn_fpn("resnet101", num_classes, **keywords)


def mask_rcnn_resnet50_fpn_v2(num_classes: int, *, pretrained: bool = False) -> MaskRCNN:
    """Torchvision's second version: batch norm that learns in every part, and convolutions in RPN and box head.

    Source: Li et al., "Benchmarking Detection Transfer Learning with Vision Transformers", 2021, section 2.

    Args:
        num_classes: K, the kinds of things.
        pretrained: start the encoder from torchvision's ImageNet weights.
    """
    encoder = resnet_encoder("resnet50", pretrained=pretrained)
    return MaskRCNN(
        encoder,
        num_classes,
        fpn=FPN([encoder.channels[c] for c in ("c2", "c3", "c4", "c5")], norm=True),
        rpn_head=RPNHead(256, depth=2),
        box_head=BoxHead(256, num_classes, convs=4, depth=1),
        mask_head=MaskHead(256, num_classes, norm=True),
        anchors=Anchors(rounded=True),
        rpn=RPNSettings(smallest=1e-3, after_nms=(1000, 2000), beta=1 / 9),
        regions=_TORCHVISION_REGIONS,
        detections=_TORCHVISION_DETECTIONS,
    )


def mask_rcnn_fpn(
    encoder: str,
    num_classes: int,
    *,
    pretrained: bool = False,
    frozen: bool | None = None,
    class_agnostic: bool = False,
    box_loss: str = "smooth_l1",
    conventions: str = "detectron2",
    stride_in_1x1: bool = False,
    sampling_ratio: int = 2,
) -> MaskRCNN:
    """Mask R-CNN on a ResNet with a pyramid of 256 channels.

    Args:
        encoder: "resnet18", "resnet34", "resnet50" or "resnet101".
        num_classes: K, the kinds of things.
        pretrained: start the encoder from torchvision's ImageNet weights.
        frozen: keep the encoder's batch norms, its first convolution and its first stage as they are; ``None`` does so
            when it is pretrained, as the paper does. From scratch they must learn.
        class_agnostic: one box for all classes of a region instead of one for each.
        box_loss: of the second stage, "smooth_l1" or "giou".
        conventions: whose details to follow, "detectron2" or "torchvision".
        stride_in_1x1: see :func:`~seglib.layers.resnet.resnet_encoder`.
        sampling_ratio: of RoIAlign; Detectron2's models were trained with 0, torchvision's with 2.

    Raises:
        ValueError: for an unknown encoder, loss or convention.
    """
    if conventions not in CONVENTIONS:
        raise ValueError(f"conventions {conventions!r} are unknown; choose one of {', '.join(CONVENTIONS)}")
    theirs = conventions == "torchvision"
    frozen = pretrained if frozen is None else frozen
    net = resnet_encoder(encoder, stride_in_1x1=stride_in_1x1, frozen_norm=frozen, pretrained=pretrained)
    if frozen:
        freeze(net.conv1)
        freeze(net.layer1)
    regions = _TORCHVISION_REGIONS if theirs else RegionSettings()
    return MaskRCNN(
        net,
        num_classes,
        fpn=FPN([net.channels[c] for c in ("c2", "c3", "c4", "c5")]),
        rpn_head=RPNHead(256),
        box_head=BoxHead(256, num_classes, class_agnostic=class_agnostic),
        mask_head=MaskHead(256, num_classes),
        anchors=Anchors(rounded=theirs),
        rpn=RPNSettings(smallest=1e-3, after_nms=(1000, 2000), beta=1 / 9) if theirs else RPNSettings(),
        regions=replace(regions, box_loss=box_loss, sampling_ratio=sampling_ratio),
        detections=_TORCHVISION_DETECTIONS if theirs else DetectionSettings(),
    )


_TORCHVISION_REGIONS = RegionSettings(aligned=False, beta=1 / 9, binary_masks=False)
_TORCHVISION_DETECTIONS = DetectionSettings(smallest=1e-2, rounded_paste=True)


def mask_rcnn_tiny(num_classes: int, *, channels: int = 48, pooling: str = "align") -> MaskRCNN:
    """Mask R-CNN on the tiny encoder, for the made scenes on two CPU cores.

    Its pyramid begins at stride 2, because the scenes' things are a few pixels wide; samples and heads are smaller.

    Args:
        num_classes: K, the kinds of things.
        channels: of the pyramid and of the mask head.
        pooling: see :class:`~seglib.models.two_stage.RegionSettings`.
    """
    encoder = TinyEncoder()
    levels = ("c1", "c2", "c3", "c4", "c5")
    return MaskRCNN(
        encoder,
        num_classes,
        levels=levels,
        fpn=FPN([encoder.channels[c] for c in levels], channels, extra=False, norm=True),
        rpn_head=RPNHead(channels),
        box_head=BoxHead(channels, num_classes, hidden=128, depth=1),
        mask_head=MaskHead(channels, num_classes, hidden=channels, depth=2),
        anchors=Anchors(sizes=((6,), (12,), (24,), (48,), (96,)), strides=(2, 4, 8, 16, 32), offset=0.5),
        rpn=RPNSettings(sample=128, before_nms=(200, 200), after_nms=(100, 100)),
        regions=RegionSettings(sample=64, canonical_size=112, pooling=pooling),
        detections=DetectionSettings(),
        mean=TINY_MEAN,
        std=TINY_STD,
        padding="replicate",  # it is trained on crops that fit, and would take a strip of another colour for things
    )
