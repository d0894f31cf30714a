"""YOLACT (Bolya, Zhou, Xiao, Lee, "YOLACT: Real-time Instance Segmentation", ICCV 2019).

One branch draws k prototype masks of the whole image, without knowing of objects. Another one detects objects as
one-stage detectors do, and gives for each of them k numbers more. The mask of an object is the sum of the prototypes
with these numbers, cut by its box: no features are pooled, so a mask is as fine as the prototypes are, and a hundred
masks are one product of matrices.

::

    image (B, 3, H, W)
      │ normalise, encoder, FPN
      ▼
    p3 ── protonet ──────────────────────────────────────────────────────────► prototypes P (B, k, H/4, W/4)
    p3 … p7 ── head, for A anchors in all ─┬─► K + 1 class logits ─┐                          │
      │                                    ├─► 4 deltas ───────────┴─► Fast NMS ─► boxes      │
      │                                    └─► k coefficients c ──────────────┬─► objects ────┤
      └─ 1×1, for the loss alone ─► semantic logits (B, K, H/8, W/8)                          ▼
                                                                        σ(P cᵀ), cut by the box, resized, > ½

Equations: the mask is M = σ(P Cᵀ) (eq. 1 of the paper).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seglib.layers.anchors import Anchors
from seglib.layers.encoder import Encoder, normalize_for
from seglib.layers.fpn import FPN, TopConvs
from seglib.layers.named_encoder import detector_encoder
from seglib.layers.normalize import Normalize, pad_to_multiple
from seglib.layers.tiny import TINY_MEAN, TINY_STD, TinyEncoder
from seglib.layers.yolact_heads import PredictionHead, ProtoNet, RelativeAnchors
from seglib.losses.assign import BACKGROUND, IGNORE, ignore_crowds, match_anchors
from seglib.losses.multibox import box_loss, class_loss, mask_loss, semantic_loss, semantic_target
from seglib.losses.two_stage import BOX_WEIGHTS
from seglib.models.base import Model
from seglib.models.instance import ObjectTable, check_pyramid, check_strides, crowds_of, objects_of
from seglib.ops.boxes import box_iou, clip_boxes, decode_boxes
from seglib.ops.dynamic_masks import DynamicMasks
from seglib.ops.masks import resize_masks
from seglib.ops.nms import batched_nms, fast_nms
from seglib.ops.precision import at_least_float32
from seglib.types import Instances, Size, Targets

METHODS = ("fast", "standard")


@dataclass(frozen=True)
class YOLACTTraining:
    """Which anchors are trained, and how much each loss counts.

    Attributes:
        foreground_iou: IoU threshold from which an anchor takes an object.
        background_iou: IoU threshold below which an anchor is background; between both it is ignored.
        crowd_share: share of its area in a crowd beyond which a background anchor is ignored.
        negative_ratio: number of hard negatives for each positive anchor.
        masks_to_train: largest number of positive anchors of an image whose masks are trained; their loss then stands
            for all.
        class_weight: factor on the class loss.
        box_weight: factor on the box loss.
        mask_weight: factor on the mask loss.
        semantic_weight: factor on the semantic loss.

    Raises:
        ValueError: when ``masks_to_train`` is below 1.
    """

    foreground_iou: float = 0.5
    background_iou: float = 0.4
    crowd_share: float = 0.7
    negative_ratio: float = 3
    masks_to_train: int = 100
    class_weight: float = 1.0
    box_weight: float = 1.5
    mask_weight: float = 6.125
    semantic_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.masks_to_train < 1:
            raise ValueError(f"masks_to_train must be at least 1, got {self.masks_to_train}")


@dataclass(frozen=True)
class YOLACTDetections:
    """What counts as a detection.

    Attributes:
        threshold: score that an anchor's best class must exceed. Its other classes are candidates as well, however low
            their scores, as in the published model, which never looks at a score again.
        nms: IoU above which NMS drops a box.
        pre_nms_top_k: number of best anchors of each class that go into NMS.
        max_detections: largest number of detections of an image.
        method: "fast" (:func:`~seglib.ops.nms.fast_nms`) or "standard" (:func:`~seglib.ops.nms.batched_nms`).
        cross_class: whether an anchor stands for its best class alone and boxes of different classes suppress each
            other. Then a neighbour of another class can be lost.

    Raises:
        ValueError: for an unknown method.
    """

    threshold: float = 0.05
    nms: float = 0.5
    pre_nms_top_k: int = 200
    max_detections: int = 100
    method: str = "fast"
    cross_class: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method {self.method!r} is unknown; choose one of {', '.join(METHODS)}")


@dataclass(frozen=True)
class YOLACTOutput:
    """What YOLACT's branches say of a batch.

    Attributes:
        class_logits: class logits of the anchors, ``(B, A, K + 1)``, background last.
        deltas: predicted deltas of the anchors, ``(B, A, 4)``.
        coefficients: mask coefficients of the anchors, ``(B, A, k)`` in [−1, 1].
        prototypes: prototypes of each image, ``(B, k, h, w)``, at least 0; they cover the canvas.
        anchors: anchors of all levels, ``(A, 4)`` xyxy, finest first; the same for every image.
        semantic: semantic logits, ``(B, K, h', w')``; they cover the canvas. Only the loss uses them.
        sizes: true height and width of each image, ``(B, 2)`` int64.
        canvas: height and width that the network saw, with all padding, ``(2,)`` int64.
    """

    class_logits: Tensor
    deltas: Tensor
    coefficients: Tensor
    prototypes: Tensor
    anchors: Tensor
    semantic: Tensor
    sizes: Tensor
    canvas: Tensor


torch.export.register_dataclass(YOLACTOutput, serialized_type_name="seglib.YOLACTOutput")


class YOLACT(Model):
    """Boxes, classes and masks of countable objects, in one stage.

    Args:
        encoder: the backbone, whose maps the pyramid is built on.
        num_classes: number of classes K of things, without background.
        levels: names of the encoder's maps that the pyramid is built on, finest first.
        fpn: module that builds the pyramid from the encoder's maps.
        protonet: module that draws the prototypes from the pyramid's finest level.
        head: module that predicts class, box and coefficients of every anchor.
        channels: channels of the pyramid's levels.
        anchors: anchors of every level that the head sees, in pixels or in shares of the image.
        fine_levels: number of the pyramid's finest levels that masks alone are drawn from; the head begins after them,
            on one of ``levels``.
        training_settings: settings of the assignment and the losses.
        detections: settings of what counts as a detection.
        normalize: what is done to images first; ImageNet's mean and standard deviation when not given.
        padding: what fills the padding to the size of the batch and to a multiple of the encoder's stride: "constant",
            the mean colour, or "replicate", its last row and column.

    Raises:
        ValueError: for an unknown padding, when ``num_classes`` or ``fine_levels`` is out of range, or for a head of
            another number of classes, anchors per cell or prototypes.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        levels: Sequence[str] = ("c3", "c4", "c5"),
        fpn: FPN,
        protonet: ProtoNet,
        head: PredictionHead,
        channels: int = 256,
        anchors: Anchors | RelativeAnchors,
        fine_levels: int = 0,
        training_settings: YOLACTTraining | None = None,
        detections: YOLACTDetections | None = None,
        normalize: Normalize | None = None,
        padding: str = "constant",
    ) -> None:
        super().__init__()
        if padding not in ("constant", "replicate"):
            raise ValueError(f'padding is "constant" or "replicate", got {padding!r}')
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}; background isn't counted")
        if not 0 <= fine_levels < len(levels):
            raise ValueError(
                f"fine_levels must be 0 to {len(levels) - 1}, so that the head has a level, got {fine_levels}"
            )
        per_cell = head.per_cell
        made = (head.logits.out_channels // per_cell - 1, per_cell, head.coefficients.out_channels // per_cell)
        wanted = (num_classes, anchors.per_cell, protonet.predict.out_channels)
        if made != wanted:
            raise ValueError(
                f"classes, anchors per cell and prototypes are {wanted}, the head was built for {made}; build it with "
                "the same num_classes, per_cell and prototypes"
            )
        if isinstance(anchors, Anchors):
            check_strides(encoder, levels[fine_levels:], anchors.strides, "anchors")
            check_pyramid(fpn, len(levels), fine_levels + len(anchors.strides), "anchors")
        self.num_classes, self.padding = num_classes, padding
        self.normalize = normalize or Normalize()
        self.encoder = encoder
        self.levels = tuple(levels)
        self.fpn, self.protonet, self.head = fpn, protonet, head
        self.semantic = nn.Conv2d(channels, num_classes, 1)
        self.anchors, self.fine_levels = anchors, fine_levels
        self.training_settings = training_settings or YOLACTTraining()
        self.detections = detections or YOLACTDetections()
        self.size_divisibility = encoder.size_divisibility

    def forward(
        self, images: Tensor, targets: Targets | None = None, sizes: Sequence[Size] | None = None
    ) -> YOLACTOutput:
        """All branches.

        Args:
            images: batch ``(B, 3, H, W)`` float in [0, 1], any H and W.
            targets: unused; the loss takes them.
            sizes: true size ``(H, W)`` of each image: what lies beyond is padding. ``None`` when every image fills the
                batch.

        Raises:
            ValueError: when the images are malformed.
        """
        full = (images.shape[-2], images.shape[-1])
        limits = torch.tensor([full] * len(images) if sizes is None else list(sizes), device=images.device)  # (B, 2)
        x = pad_to_multiple(self.normalize(images, sizes, self.padding), self.size_divisibility, self.padding)
        pyramid = self.pyramid(x)
        seen = pyramid[self.fine_levels :]
        logits, deltas, coefficients = self.head(seen)
        return YOLACTOutput(
            class_logits=at_least_float32(logits),
            deltas=at_least_float32(deltas),
            coefficients=at_least_float32(coefficients),
            prototypes=at_least_float32(self.protonet(pyramid[0])),
            anchors=torch.cat(self._lay_anchors([p.shape[-2:] for p in seen], x.shape[-2:], images.device)),
            semantic=at_least_float32(self.semantic(pyramid[0])),
            sizes=limits.view(-1, 2),
            canvas=torch.tensor(x.shape[-2:], device=images.device),
        )

    def loss(self, out: YOLACTOutput, targets: Targets) -> dict[str, Tensor]:
        """Four losses, weighted: class, box, mask and semantic.

        The first three are divided by the number of positive anchors of the batch, and are 0 without any. Each object
        has at least one, so an object's weight depends on how many anchors it gets. Anchors and cells of the semantic
        map in the padding aren't trained.

        Args:
            out: an output of the same images.
            targets: annotations with ``instances``. Crowds are neither objects nor background.

        Raises:
            ValueError: when the targets are malformed; the message names the first bad box or label.
        """
        s = self.training_settings
        objects, crowds = objects_of(targets, self.num_classes), crowds_of(targets)
        matches = self.match(out, objects, crowds)  # (B, A)
        image = torch.arange(len(objects), device=matches.device)[:, None]  # (B, 1)
        boxes, labels = ObjectTable.of(objects).matched(image, matches)  # (B, A, 4), (B, A)
        return {
            "class": s.class_weight * class_loss(out.class_logits, labels, matches, s.negative_ratio),
            "box": s.box_weight * box_loss(out.deltas, out.anchors, boxes, matches),
            "mask": s.mask_weight * self._mask_loss(out, objects, matches),
            "semantic": s.semantic_weight * self._semantic_loss(out, objects),
        }

    def postprocess(
        self, out: YOLACTOutput, sizes: Sequence[Size], output_sizes: Sequence[Size] | None = None
    ) -> list[Instances]:
        """The detections of each image by falling score. Masks stay coefficients until they are asked for.

        A mask is cut by its box on the grid of the prototypes, with one cell around it, then resized, then
        thresholded: thresholding first would leave a staircase of cells.

        Args:
            out: an output, with the same sizes.
            sizes: true size ``(H, W)`` of each image.
            output_sizes: size ``(H, W)`` in which boxes and masks are wanted; ``None`` for ``sizes``.
        """
        found = []
        canvas = tuple(out.canvas.tolist())
        wanted = sizes if output_sizes is None else output_sizes
        for i, ((height, width), (new_height, new_width)) in enumerate(zip(sizes, wanted, strict=True)):
            anchor, labels, scores = select(out.class_logits[i], out.deltas[i], out.anchors, self.detections)
            boxes = decode_boxes(out.deltas[i, anchor], out.anchors[anchor], BOX_WEIGHTS)  # (D, 4)
            scale = boxes.new_tensor([new_width / width, new_height / height] * 2)
            scaled = clip_boxes(boxes * scale, (new_height, new_width))
            kept = (scaled[:, 2:] > scaled[:, :2]).all(1) & (scores > 0)  # (D,)
            masks = DynamicMasks(
                out.prototypes[i],
                out.coefficients[i, anchor[kept]],
                (out.prototypes.shape[1], 1),
                canvas=canvas,
                image_size=(height, width),
                size=(new_height, new_width),
                boxes=to_cells(clip_boxes(boxes[kept], (height, width)), out.prototypes, out.canvas),
                padding=1,
            )
            found.append(Instances(masks, labels[kept], scaled[kept], scores[kept]))
        return found

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """``(B, 3, H, W)`` normalised images → the levels, ``(B, C, h_i, w_i)``, finest first."""
        maps = self.encoder(x)
        return self.fpn([maps[level] for level in self.levels])

    @torch.no_grad()
    def match(self, out: YOLACTOutput, objects: Sequence[Instances], crowds: Sequence[Instances]) -> Tensor:
        """The object of each anchor in its image: ``(B, A)`` int64, −1 for background, −2 for anchors to ignore.

        Args:
            out: an output.
            objects: objects of each image.
            crowds: crowds of each image.
        """
        s, anchors, matches = self.training_settings, out.anchors, []
        centre = (anchors[:, :2] + anchors[:, 2:]) / 2  # (A, 2)
        for size, own, crowd in zip(out.sizes, objects, crowds, strict=True):
            match = match_anchors(
                box_iou(own.boxes, anchors), foreground_iou=s.foreground_iou, background_iou=s.background_iou
            )
            match = ignore_crowds(match, anchors, crowd.boxes, s.crowd_share)
            in_padding = (centre >= size.flip(0)).any(1)  # (A,)
            matches.append(torch.where((match == BACKGROUND) & in_padding, IGNORE, match))
        return torch.stack(matches)

    def _mask_loss(self, out: YOLACTOutput, objects: Sequence[Instances], matches: Tensor) -> Tensor:
        """The sum of :func:`~seglib.losses.multibox.mask_loss` over all positives, over their number."""
        s, total = self.training_settings, out.prototypes.sum() * 0
        for prototypes, coefficients, own, match in zip(
            out.prototypes, out.coefficients, objects, matches, strict=True
        ):
            positive = (match >= 0).nonzero()[:, 0]  # (P,)
            count = len(positive)
            if count == 0:
                continue
            if count > s.masks_to_train:
                picked = torch.randperm(count, device=positive.device)[: s.masks_to_train]
                positive = positive[picked]
            masks = self._masks_on(prototypes.shape[-2:], own, out.canvas)  # (N, h, w)
            boxes = to_cells(own.boxes, prototypes, out.canvas)  # (N, 4)
            index = match[positive]
            each = mask_loss(prototypes, coefficients[positive], masks[index], boxes[index])
            total = total + each.sum() * (count / len(positive))
        return total / (matches >= 0).sum().clamp(min=1)

    def _semantic_loss(self, out: YOLACTOutput, objects: Sequence[Instances]) -> Tensor:
        """:func:`~seglib.losses.multibox.semantic_loss` against the union of each class's masks."""
        shape = out.semantic.shape[-2:]
        target = [semantic_target(self._masks_on(shape, o, out.canvas), o.labels, self.num_classes) for o in objects]
        cell = out.canvas / out.canvas.new_tensor(shape)  # (2,) pixels
        rows, columns = (
            (torch.arange(n, device=cell.device) + 0.5) * cell[axis] < out.sizes[:, axis, None]
            for axis, n in enumerate(shape)
        )  # (B, h), (B, w)
        return semantic_loss(out.semantic, torch.stack(target), rows[:, :, None] & columns[:, None, :])

    def _masks_on(self, shape: Sequence[int], objects: Instances, canvas: Tensor) -> Tensor:
        """The objects' masks on a map that covers the canvas, bool ``(N, h, w)``."""
        return resize_masks(objects.masks, shape, canvas=canvas.tolist())

    def _lay_anchors(self, shapes: Sequence[Sequence[int]], size: Sequence[int], device: torch.device) -> list[Tensor]:
        """The anchors ``(A_i, 4)`` of each level of a pyramid that covers a canvas of this size."""
        if isinstance(self.anchors, RelativeAnchors):
            return self.anchors(shapes, size, device)
        return self.anchors(shapes, device)


@torch.no_grad()
def select(class_logits: Tensor, deltas: Tensor, anchors: Tensor, s: YOLACTDetections) -> tuple[Tensor, Tensor, Tensor]:
    """The detections of one image: which anchor, as which class, how sure.

    Args:
        class_logits: class logits of the anchors, ``(A, K + 1)``, background last.
        deltas: predicted deltas of the anchors, ``(A, 4)``.
        anchors: anchors ``(A, 4)`` xyxy.
        s: the settings.

    Returns:
        Index of the anchor ``(D,)`` int64, label ``(D,)`` int64 and score ``(D,)`` of each detection, by falling score.
    """
    probs = class_logits.softmax(-1)[:, :-1]  # (A, K)
    candidate = (probs.amax(1) > s.threshold).nonzero()[:, 0]  # (N,)
    boxes = decode_boxes(deltas[candidate], anchors[candidate], BOX_WEIGHTS)  # (N, 4)
    index, labels, scores = suppress(boxes, probs[candidate], s)
    return candidate[index], labels, scores


def suppress(boxes: Tensor, scores: Tensor, s: YOLACTDetections) -> tuple[Tensor, Tensor, Tensor]:
    """The best of scored boxes, without near-duplicates.

    Args:
        boxes: boxes ``(N, 4)`` xyxy, which all classes share.
        scores: score of each box for each class, ``(N, K)``.
        s: the settings.

    Returns:
        Index of the box ``(D,)`` int64, label ``(D,)`` int64 and score ``(D,)``, by falling score.
    """
    if s.cross_class:
        best, label = scores.max(1)  # (N,)
        rows, owner = best[None], label[None]  # (1, N): one list, whatever the class
    else:
        rows = scores.T  # (K, N): a list of each class
        owner = torch.arange(len(rows), device=rows.device)[:, None].expand_as(rows)
    top, index = rows.topk(min(s.pre_nms_top_k, len(boxes)), 1)  # (K, T) by falling score
    label = owner.gather(1, index)  # (K, T)
    if s.method == "fast":
        keep = fast_nms(boxes[index], top, s.nms)  # (K, T)
        index, label, top = index[keep], label[keep], top[keep]
        order = top.argsort(dim=0, descending=True, stable=True)
    else:
        groups = torch.arange(len(rows), device=rows.device)[:, None].expand_as(index)
        index, label, top = index.flatten(), label.flatten(), top.flatten()
        order = batched_nms(boxes[index], top, groups.flatten(), s.nms)
    order = order[: s.max_detections]
    return index[order], label[order], top[order]


def to_cells(boxes: Tensor, prototypes: Tensor, canvas: Tensor) -> Tensor:
    """Boxes ``(N, 4)`` in pixels of the canvas as boxes in cells of the prototypes ``(…, h, w)``."""
    cells = boxes.new_tensor([prototypes.shape[-1], prototypes.shape[-2]] * 2)
    return boxes * (cells / canvas.flip(0).repeat(2).to(boxes.dtype))


def yolact_resnet50(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, frozen: bool = False
) -> YOLACT:
    """YOLACT on ResNet-50-FPN, whose published weights ``seglib convert`` turns into its own; made for 550×550 pixels.

    Keywords as in :func:`yolact`.
    """
    return yolact(num_classes, encoder="resnet50", in_channels=in_channels, pretrained=pretrained, frozen=frozen)


def yolact_resnet101(
    num_classes: int, *, in_channels: int = 3, pretrained: bool = False, frozen: bool = False
) -> YOLACT:
    """YOLACT on ResNet-101-FPN, the paper's base model. Keywords as in :func:`yolact`."""
    return yolact(num_classes, encoder="resnet101", in_channels=in_channels, pretrained=pretrained, frozen=frozen)


def yolact(
    num_classes: int,
    *,
    encoder: str = "resnet50",
    in_channels: int = 3,
    pretrained: bool = False,
    frozen: bool = False,
) -> YOLACT:
    """The YOLACT to start with on your own data, on any encoder.

    Args:
        num_classes: number of classes K of things, without background.
        encoder: name of the encoder, a ResNet, a Swin Transformer or a network of timm
            (:func:`~seglib.layers.named_encoder.named_encoder`).
        in_channels: number of channels of the images.
        pretrained: whether to start the encoder from its published ImageNet weights.
        frozen: whether a ResNet's batch norms, its first convolution and its first stage stay as they are. The paper
            lets them learn, with 8 images a batch (section 6); with fewer they had better not.

    Raises:
        ValueError: for an unknown encoder, or when another encoder than a ResNet is to be frozen.
    """
    net = detector_encoder(encoder, in_channels=in_channels, pretrained=pretrained, frozen=frozen)
    return YOLACT(
        net,
        num_classes,
        fpn=FPN(
            [net.channels[c] for c in ("c3", "c4", "c5")],
            top_block=TopConvs(256, relu=False),
            upsample="bilinear",
            relu=True,
        ),
        protonet=ProtoNet(256),
        head=PredictionHead(256, num_classes),
        anchors=RelativeAnchors(),
        normalize=normalize_for(net, in_channels),
    )


def yolact_tiny(num_classes: int, *, in_channels: int = 3, channels: int = 48, prototypes: int = 16) -> YOLACT:
    """YOLACT on the tiny encoder, for the synthetic scenes on two CPU cores.

    Its prototypes are drawn from a level of stride 2, at the image's own resolution, because the scenes' things are a
    few pixels wide: halved and upsampled again, 6 % of the birds' true masks still have an IoU of ½ with themselves.
    Its anchors are measured in pixels and have their three shapes.

    Args:
        num_classes: number of classes K of things, without background.
        in_channels: number of channels of the images.
        channels: channels of the pyramid's levels.
        prototypes: number k of prototypes.
    """
    encoder = TinyEncoder(in_channels=in_channels)
    levels = ("c1", "c2", "c3", "c4", "c5")
    anchors = Anchors(sizes=((6, 10), (14, 20), (28, 40), (56, 80)), strides=(4, 8, 16, 32), offset=0.5)
    return YOLACT(
        encoder,
        num_classes,
        levels=levels,
        fpn=FPN([encoder.channels[c] for c in levels], channels, norm=True, upsample="bilinear", relu=True),
        protonet=ProtoNet(channels, prototypes, hidden=24, depth=1, norm=True),
        head=PredictionHead(channels, num_classes, per_cell=anchors.per_cell, prototypes=prototypes, depth=1),
        channels=channels,
        anchors=anchors,
        fine_levels=1,
        normalize=Normalize.for_channels(in_channels, TINY_MEAN, TINY_STD),
        padding="replicate",  # it is trained on crops that fit, and would take a strip of another colour for things
    )
