"""Mask R-CNN (He, Gkioxari, Dollár, Girshick, "Mask R-CNN", ICCV 2017) on a feature pyramid.

A first stage proposes boxes that may hold an object of any class. A second one looks at each proposal through a small
patch of features that RoIAlign cuts out, says which class it is, corrects the box, and draws a mask in it.

::

    image (B, 3, H, W)
      │ normalise, encoder, FPN
      ▼
    p2 … p6 (B, C, H/4 … H/64, W/4 … W/64)
      │ RPN: 3 anchors per cell ─► objectness, deltas ─► best of each level, NMS ─► proposals (B, P, 4)
      │                                                                               │ with targets: a sample, 1 : 3
      ▼                                                                               ▼
    p2 … p5 ── RoIAlign 7×7 ── box head ─► K + 1 class logits, K × 4 deltas ◄─── RoIs (B, R, 4)
      │                                          │ softmax, decode, NMS per class; with targets: the foreground RoIs
      │                                          ▼
      └─────── RoIAlign 14×14 ── mask head ◄── boxes (B, D, 4) ─► mask logits (B, D, 28, 28) of each box's class
                                                                                      │ postprocess: boxes to the
                                                                                      ▼ output's size, sigmoid
                                                                     instances, whose masks are pasted when asked for
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from seglib.layers.anchors import Anchors
from seglib.layers.encoder import Encoder, normalize_for
from seglib.layers.fpn import FPN, TopPool
from seglib.layers.named_encoder import detector_encoder
from seglib.layers.normalize import Normalize, pad_to_multiple
from seglib.layers.resnet import resnet_encoder
from seglib.layers.roi_heads import BoxHead, MaskHead
from seglib.layers.rpn import RPNHead, propose
from seglib.layers.tiny import TINY_MEAN, TINY_STD, TinyEncoder
from seglib.losses.assign import BACKGROUND, IGNORE, match_boxes
from seglib.losses.two_stage import BOX_WEIGHTS, mask_loss, mask_targets, roi_loss, rpn_loss
from seglib.models.base import Model
from seglib.models.instance import ObjectTable, check_pyramid, check_strides, objects_of
from seglib.models.keywords import hands_keywords_to
from seglib.models.two_stage import (
    DetectionSettings,
    MaskRCNNOutput,
    RoISettings,
    RPNSettings,
    check_sampled,
    foreground_rois,
    sample_rois,
    true_sizes,
)
from seglib.ops.boxes import box_iou, clip_boxes, decode_boxes
from seglib.ops.paste import MaskGrids
from seglib.ops.precision import at_least_float32
from seglib.ops.ragged import filled_slots, to_slots
from seglib.ops.roi import roi_align, roi_levels, roi_pool
from seglib.postprocess.instance import detect
from seglib.types import Instances, Size, Targets


class MaskRCNN(Model):
    """Boxes, classes and masks of countable objects.

    Args:
        encoder: the backbone, whose maps the pyramid is built on.
        num_classes: number of classes K of things, without background.
        levels: names of the encoder's maps that the pyramid is built on, finest first.
        fpn: module that builds the pyramid p2, p3, … from the encoder's maps.
        rpn_head: module that scores the anchors and predicts their deltas.
        box_head: module that classifies RoIs and refines their boxes.
        mask_head: module that draws masks.
        anchors: anchors of every level of the pyramid.
        rpn: settings of the first stage: how proposals are trained and made.
        roi: settings of the second stage: how RoIs are trained and pooled.
        detections: settings of what counts as a detection.
        normalize: what is done to images first; ImageNet's mean and standard deviation when not given.
        padding: what fills the padding to the size of the batch and to a multiple of the coarsest stride: "constant",
            the mean colour, as published weights know it, or "replicate", its last row and column.

    Raises:
        ValueError: for an unknown padding, or parts that were built for other numbers of classes, anchors or levels, or
            for other strides.
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
        roi: RoISettings,
        detections: DetectionSettings,
        normalize: Normalize | None = None,
        padding: str = "constant",
    ) -> None:
        super().__init__()
        if padding not in ("constant", "replicate"):
            raise ValueError(f'padding is "constant" or "replicate", got {padding!r}')
        check_strides(encoder, levels, anchors.strides, "anchors")
        check_pyramid(fpn, len(levels), len(anchors.strides), "anchors")
        made = (rpn_head.objectness.out_channels, box_head.logits.out_features - 1, mask_head.predict.out_channels)
        wanted = (anchors.per_cell, num_classes, num_classes)
        if made != wanted:
            raise ValueError(
                f"anchors per cell, classes of boxes and classes of masks are {wanted}, the heads were built for {made}"
                "; pass anchors= to RPNHead, and num_classes to BoxHead and MaskHead"
            )
        self.num_classes, self.padding = num_classes, padding
        self.normalize = normalize or Normalize()
        self.encoder = encoder
        self.levels = tuple(levels)
        self.fpn, self.rpn_head, self.box_head, self.mask_head = fpn, rpn_head, box_head, mask_head
        self.anchors, self.rpn, self.roi, self.detections = anchors, rpn, roi, detections
        self.size_divisibility = max(encoder.size_divisibility, anchors.strides[len(self.levels) - 1])

    def forward(
        self, images: Tensor, targets: Targets | None = None, sizes: Sequence[Size] | None = None
    ) -> MaskRCNNOutput:
        """All stages. With targets the second one sees a sample of the proposals, as training wants it.

        Args:
            images: batch ``(B, 3, H, W)`` float in [0, 1], any H and W.
            targets: annotations with ``instances``. Crowds are left out.
            sizes: true size ``(H, W)`` of each image: what lies beyond is padding, and no box reaches there. ``None``
                when every image fills the batch.

        Raises:
            ValueError: when images or targets are malformed; the message names the first bad box or label.
        """
        objects = None if targets is None else objects_of(targets, self.num_classes)
        return self.heads(self.pyramid(images, sizes), true_sizes(images, sizes), objects)

    def heads(
        self, pyramid: Sequence[Tensor], limits: Tensor, objects: Sequence[Instances] | None = None
    ) -> MaskRCNNOutput:
        """All stages after the pyramid.

        Args:
            pyramid: the levels p2, p3, …, ``(B, C, H/4, W/4)``, … (:meth:`pyramid`).
            limits: true height and width of each image, ``(B, 2)`` int64.
            objects: true objects of each image, which steer the sample of proposals; ``None`` to find some.
        """
        objectness, deltas = self.rpn_head(pyramid)
        anchors = self.anchors([p.shape[-2:] for p in pyramid], limits.device)
        s, train = self.rpn, objects is not None
        proposals, proposal_scores = propose(
            objectness, deltas, anchors, limits,
            pre_nms_top_k=s.pre_nms_top_k_train if train else s.pre_nms_top_k_test,
            post_nms_top_k=s.post_nms_top_k_train if train else s.post_nms_top_k_test,
            threshold=s.nms, min_size=s.min_size,
        )  # fmt: skip
        if objects is None:
            rois, matches = proposals, torch.where(proposal_scores > -torch.inf, BACKGROUND, IGNORE)
        else:
            rois, matches = sample_rois(proposals, proposal_scores, objects, self.roi)
        class_logits, box_deltas = self._classify(pyramid, rois, matches > IGNORE)
        if objects is None:
            boxes, labels, scores = self._detect(class_logits, box_deltas, rois, matches > IGNORE, limits)
        else:
            boxes, labels, scores = foreground_rois(rois, matches, objects, self.roi.max_foreground)
        return MaskRCNNOutput(
            anchors=torch.cat(anchors),
            objectness=at_least_float32(torch.cat(objectness, 1)),
            anchor_deltas=at_least_float32(torch.cat(deltas, 1)),
            proposals=proposals,
            proposal_scores=proposal_scores,
            rois=rois,
            matches=matches,
            class_logits=class_logits,
            box_deltas=box_deltas,
            boxes=boxes,
            labels=labels,
            scores=scores,
            mask_logits=self._draw(pyramid, boxes, labels, scores > 0),
            sizes=limits,
        )

    def loss(self, out: MaskRCNNOutput, targets: Targets) -> dict[str, Tensor]:
        """The five losses of the paper, each with weight 1: objectness, anchor, class, box and mask.

        Args:
            out: an output that was made with the same targets.
            targets: annotations with ``instances``.

        Raises:
            ValueError: when the targets are malformed, or ``out`` was made without them.
        """
        objects = objects_of(targets, self.num_classes)
        check_sampled(out.matches, objects)
        table = ObjectTable.of(objects)

        picked, matches = zip(*(self._sample_anchors(out.anchors, o.boxes) for o in objects), strict=True)
        image = torch.cat([torch.full_like(p, i) for i, p in enumerate(picked)])  # (S,)
        index, match = torch.cat(picked), torch.cat(matches)  # (S,)
        objectness, anchor = rpn_loss(
            out.objectness[image, index], out.anchor_deltas[image, index], out.anchors[index],
            table.matched(image, match)[0], match >= 0, beta=self.rpn.beta,
        )  # fmt: skip

        image, slot = (out.matches > IGNORE).nonzero().unbind(1)  # (S,)
        match = out.matches[image, slot]
        boxes, labels = table.matched(image, match)
        classes, box = roi_loss(
            out.class_logits[image, slot], out.box_deltas[image, slot], out.rois[image, slot],
            torch.where(match >= 0, labels, self.num_classes), boxes, beta=self.roi.beta, box_loss=self.roi.box_loss,
        )  # fmt: skip

        foreground = out.matches[:, : out.mask_logits.shape[1]] >= 0  # (B, D)
        target = [
            mask_targets(
                o.masks[:, :height, :width], match[kept], boxes[kept], out.mask_logits.shape[-1],
                aligned=self.roi.aligned, binary=self.roi.binary_masks,
            )
            for o, match, boxes, kept, (height, width) in zip(
                objects, out.matches[:, : foreground.shape[1]], out.boxes, foreground, out.sizes.tolist(), strict=True
            )
        ]  # fmt: skip
        mask = mask_loss(out.mask_logits[foreground], torch.cat(target))
        return {"objectness": objectness, "anchor": anchor, "class": classes, "box": box, "mask": mask}

    def postprocess(
        self, out: MaskRCNNOutput, sizes: Sequence[Size], output_sizes: Sequence[Size] | None = None
    ) -> list[Instances]:
        """The detections of each image by falling score. Masks stay grids until they are asked for.

        Args:
            out: an output that was made without targets, with the same sizes.
            sizes: true size ``(H, W)`` of each image.
            output_sizes: size ``(H, W)`` in which boxes and masks are wanted; ``None`` for ``sizes``.
        """
        found = []
        wanted = sizes if output_sizes is None else output_sizes
        for i, ((height, width), size) in enumerate(zip(sizes, wanted, strict=True)):
            new_height, new_width = size
            scale = out.boxes.new_tensor([new_width / width, new_height / height] * 2)
            boxes = clip_boxes(out.boxes[i] * scale, size)  # (D, 4)
            kept = (out.scores[i] > 0) & (boxes[:, 2:] > boxes[:, :2]).all(1)  # (D,)
            probs = out.mask_logits[i][kept].sigmoid()  # (N, M, M)
            grids = MaskGrids(probs, boxes[kept], (new_height, new_width), self.detections.rounded_paste)
            found.append(Instances(grids, out.labels[i][kept], boxes[kept], out.scores[i][kept]))
        return found

    def pyramid(self, images: Tensor, sizes: Sequence[Size] | None = None) -> list[Tensor]:
        """``(B, 3, H, W)`` images in [0, 1] → the levels p2, p3, …, ``(B, C, H/4, W/4)``, …"""
        x = self.normalize(images, sizes, self.padding)
        maps = self.encoder(pad_to_multiple(x, self.size_divisibility, self.padding))
        return self.fpn([maps[level] for level in self.levels])

    def pool(self, pyramid: Sequence[Tensor], boxes: Tensor, images: Tensor, size: int) -> Tensor:
        """The patch of each box ``(R, 4)``, from the level that suits its size: ``(R, C, size, size)``."""
        s, used = self.roi, len(self.levels)
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
        matches = match_boxes(
            box_iou(boxes, anchors), foreground_iou=s.foreground_iou, background_iou=s.background_iou,
            allow_low_quality_matches=True,
        )  # (A,)  # fmt: skip
        picked = s.sampler(matches, s.batch_size_per_image, s.positive_fraction)
        return picked, matches[picked]

    def _classify(self, pyramid: Sequence[Tensor], rois: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits ``(B, R, K + 1)`` and box deltas ``(B, R, K or 1, 4)`` of the RoIs."""
        image, slot = filled_slots(valid, training=self.training)  # (N,)
        patches = self.pool(pyramid, rois[image, slot], image, self.roi.box_size)
        logits, deltas = self.box_head(patches)
        return to_slots(logits, valid, image, slot), to_slots(deltas, valid, image, slot)

    def _detect(
        self, logits: Tensor, deltas: Tensor, rois: Tensor, valid: Tensor, limits: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes ``(B, D, 4)``, labels ``(B, D)`` and scores ``(B, D)`` of the detections."""
        s = self.detections
        scores = logits.detach().softmax(-1)[..., :-1] * valid[..., None]  # (B, R, K)
        boxes = decode_boxes(deltas.detach(), rois[:, :, None], BOX_WEIGHTS)  # (B, R, K or 1, 4)
        return detect(
            boxes, scores, limits,
            threshold=s.threshold, nms=s.nms, max_detections=s.max_detections, min_size=s.min_size,
        )  # fmt: skip

    def _draw(self, pyramid: Sequence[Tensor], boxes: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """Mask logits ``(B, D, M, M)`` of each box's class."""
        image, slot = filled_slots(valid, training=self.training)  # (N,)
        patches = self.pool(pyramid, boxes[image, slot], image, self.roi.mask_size)
        return to_slots(self.mask_head(patches, labels[image, slot]), valid, image, slot)


CONVENTIONS = ("detectron2", "torchvision")
"""Whose details a ResNet model follows: they differ in half pixels and roundings, and weights expect their own."""


def fpn_parts(
    encoder: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    frozen: bool | None = None,
    class_agnostic: bool = False,
    box_loss: str = "smooth_l1",
    conventions: str = "detectron2",
    stride_in_1x1: bool = False,
    sampling_ratio: int = 2,
) -> dict[str, Any]:
    """The arguments of :class:`MaskRCNN` on an encoder with a pyramid of 256 channels.

    Args:
        encoder: name of the encoder, a ResNet, a Swin Transformer or a network of timm
            (:func:`~seglib.layers.named_encoder.named_encoder`).
        num_classes: number of classes K of things, without background.
        in_channels: number of channels of the images.
        pretrained: whether to start the encoder from its published ImageNet weights.
        frozen: whether a ResNet's batch norms, its first convolution and its first stage stay as they are; ``None``
            freezes them when it is pretrained, as the paper does. From scratch they must learn.
        class_agnostic: whether one box is predicted for all classes of an RoI instead of one for each.
        box_loss: the box loss of the second stage, "smooth_l1" or "giou".
        conventions: library whose details to follow, "detectron2" or "torchvision".
        stride_in_1x1: whether a bottleneck's stride lies in its first convolution, as in Detectron2's ResNets.
        sampling_ratio: number of RoIAlign's samples per bin along each axis; Detectron2's models were trained with 0,
            as many as cells, torchvision's with 2.

    Raises:
        ValueError: for an unknown encoder, loss or convention.
    """
    if conventions not in CONVENTIONS:
        raise ValueError(f"conventions {conventions!r} are unknown; choose one of {', '.join(CONVENTIONS)}")
    net = detector_encoder(
        encoder, in_channels=in_channels, pretrained=pretrained, frozen=frozen, stride_in_1x1=stride_in_1x1
    )
    if conventions == "torchvision":
        rpn, roi, detections = _TORCHVISION_RPN, _TORCHVISION_ROI, _TORCHVISION_DETECTIONS
    else:
        rpn, roi, detections = RPNSettings(), RoISettings(), DetectionSettings()
    return {
        "encoder": net,
        "num_classes": num_classes,
        "fpn": FPN([net.channels[c] for c in ("c2", "c3", "c4", "c5")], top_block=TopPool()),
        "rpn_head": RPNHead(256),
        "box_head": BoxHead(256, num_classes, class_agnostic=class_agnostic),
        "mask_head": MaskHead(256, num_classes),
        "anchors": Anchors(rounded=conventions == "torchvision"),
        "rpn": rpn,
        "roi": replace(roi, box_loss=box_loss, sampling_ratio=sampling_ratio),
        "detections": detections,
        "normalize": normalize_for(net, in_channels),
    }


@hands_keywords_to(fpn_parts)
def mask_rcnn_fpn(encoder: str, num_classes: int, **keywords: Any) -> MaskRCNN:
    """Mask R-CNN with a pyramid of 256 channels. Arguments and errors are those of :func:`fpn_parts`."""
    return MaskRCNN(**fpn_parts(encoder, num_classes, **keywords))


@hands_keywords_to(fpn_parts)
def mask_rcnn(num_classes: int, *, encoder: str = "resnet50", **keywords: Any) -> MaskRCNN:
    """The Mask R-CNN to start with on your own data, on any encoder. Arguments and errors: :func:`fpn_parts`."""
    return mask_rcnn_fpn(encoder, num_classes, **keywords)


@hands_keywords_to(fpn_parts)
def mask_rcnn_resnet50_fpn(num_classes: int, **keywords: Any) -> MaskRCNN:
    """Mask R-CNN on ResNet-50-FPN, whose published weights ``seglib convert`` turns into its own.

    Args:
        num_classes: number of classes K of things, without background.
        **keywords: further keywords of :func:`fpn_parts`.
    """
    return mask_rcnn_fpn("resnet50", num_classes, **keywords)


@hands_keywords_to(fpn_parts)
def mask_rcnn_resnet101_fpn(num_classes: int, **keywords: Any) -> MaskRCNN:
    """Mask R-CNN on ResNet-101-FPN. Keywords as in :func:`fpn_parts`."""
    return mask_rcnn_fpn("resnet101", num_classes, **keywords)


def mask_rcnn_resnet50_fpn_v2(num_classes: int, *, in_channels: int = 3, pretrained: bool = False) -> MaskRCNN:
    """Torchvision's second version: batch norm that learns in every part, and convolutions in RPN and box head.

    Source: Li et al., "Benchmarking Detection Transfer Learning with Vision Transformers", 2021, section 2.

    Args:
        num_classes: number of classes K of things, without background.
        in_channels: number of channels of the images.
        pretrained: whether to start the encoder from torchvision's ImageNet weights.
    """
    encoder = resnet_encoder(
        "resnet50", in_channels=in_channels, levels=("c2", "c3", "c4", "c5"), pretrained=pretrained
    )
    return MaskRCNN(
        encoder,
        num_classes,
        fpn=FPN([encoder.channels[c] for c in ("c2", "c3", "c4", "c5")], top_block=TopPool(), norm=True),
        rpn_head=RPNHead(256, depth=2),
        box_head=BoxHead(256, num_classes, convs=4, depth=1),
        mask_head=MaskHead(256, num_classes, norm=True),
        anchors=Anchors(rounded=True),
        rpn=_TORCHVISION_RPN,
        roi=_TORCHVISION_ROI,
        detections=_TORCHVISION_DETECTIONS,
        normalize=normalize_for(encoder, in_channels),
    )


_TORCHVISION_RPN = RPNSettings(min_size=1e-3, post_nms_top_k_train=2000, beta=1 / 9)
_TORCHVISION_ROI = RoISettings(aligned=False, beta=1 / 9, binary_masks=False)
_TORCHVISION_DETECTIONS = DetectionSettings(min_size=1e-2, rounded_paste=True)


def mask_rcnn_tiny(num_classes: int, *, in_channels: int = 3, channels: int = 48, pooling: str = "align") -> MaskRCNN:
    """Mask R-CNN on the tiny encoder, for the synthetic scenes on two CPU cores.

    Its pyramid begins at stride 2, because the scenes' things are a few pixels wide; samples and heads are smaller.

    Args:
        num_classes: number of classes K of things, without background.
        in_channels: number of channels of the images.
        channels: channels of the pyramid's levels and of the mask head.
        pooling: how a patch is cut out, "align" (RoIAlign) or "pool" (RoI Pooling).
    """
    return MaskRCNN(**tiny_parts(num_classes, in_channels=in_channels, channels=channels, pooling=pooling))


def tiny_parts(num_classes: int, *, in_channels: int = 3, channels: int = 48, pooling: str = "align") -> dict[str, Any]:
    """The arguments of :class:`MaskRCNN` that :func:`mask_rcnn_tiny` builds it from; keywords are those of that one."""
    encoder = TinyEncoder(in_channels=in_channels)
    levels = ("c1", "c2", "c3", "c4", "c5")
    return {
        "encoder": encoder,
        "num_classes": num_classes,
        "levels": levels,
        "fpn": FPN([encoder.channels[c] for c in levels], channels, norm=True),
        "rpn_head": RPNHead(channels),
        "box_head": BoxHead(channels, num_classes, hidden=128, depth=1),
        "mask_head": MaskHead(channels, num_classes, hidden=channels, depth=2),
        "anchors": Anchors(sizes=((6,), (12,), (24,), (48,), (96,)), strides=(2, 4, 8, 16, 32), offset=0.5),
        "rpn": RPNSettings(
            batch_size_per_image=128,
            pre_nms_top_k_train=200,
            pre_nms_top_k_test=200,
            post_nms_top_k_train=100,
            post_nms_top_k_test=100,
        ),
        "roi": RoISettings(batch_size_per_image=64, canonical_size=112, pooling=pooling),
        "detections": DetectionSettings(),
        "normalize": Normalize.for_channels(in_channels, TINY_MEAN, TINY_STD),
        "padding": "replicate",  # trained on crops that fit, it would take a strip of another colour for things
    }
