r"""CondInst (Tian, Shen, Chen, "Conditional Convolutions for Instance Segmentation", ECCV 2020) on FCOS.

No boxes are cut out and no RoI is pooled. Every location of the pyramid says what it sees, how far the sides of the box
are, and which *filters* draw this object: the 169 numbers of a network of three 1×1 convolutions. It runs over features
that all objects share, and beside them over two coordinates, relative to the object's location, which tell two objects
of one look apart.

::

    image (B, 3, H, W)
      │ normalise, encoder, FPN
      ▼
    p3 … p7 (B, C, H/8 … H/128, W/8 … W/128)
      │ FCOS head, at each of L locations                   │ mask branch, on p3, p4, p5
      ▼                                                     ▼
    K class logits, centerness, 4 distances, 169 filters    features (B, 8, H/8, W/8)
      │ in training the locations that answer for an object;     │
      │ else the best by √(class · centerness), NMS per class    │
      ▼                                                          ▼
    filters (N, 169), locations (N, 2) ──► relative x, y, features: 10 ─ 1×1 ─ 8 ─ 1×1 ─ 8 ─ 1×1 ─ 1, of each object
                                                │ ×2
                                                ▼
                        mask logits (N, H/4, W/4): in training Dice against the object's mask; else masks when asked for
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seglib.layers.encoder import Encoder, normalize_for
from seglib.layers.fcos import FCOSHead, locations
from seglib.layers.fpn import FPN, TopConvs
from seglib.layers.mask_branch import MaskBranch
from seglib.layers.named_encoder import detector_encoder
from seglib.layers.normalize import Normalize, pad_to_multiple
from seglib.layers.tiny import TINY_MEAN, TINY_STD, TinyEncoder
from seglib.losses.assign_fcos import assign_locations, box_distances, mask_centres
from seglib.losses.fcos import fcos_loss
from seglib.losses.region import mask_dice_loss
from seglib.models.base import Model
from seglib.models.instance import ObjectTable, check_pyramid, check_strides, objects_of
from seglib.models.keywords import hands_keywords_to
from seglib.ops.boxes import clip_boxes
from seglib.ops.dynamic_conv import dynamic_conv, filter_count
from seglib.ops.dynamic_masks import DynamicMasks
from seglib.ops.nms import batched_nms
from seglib.ops.precision import at_least_float32
from seglib.ops.processes import mean_over_processes
from seglib.ops.resize import aligned_bilinear
from seglib.types import Instances, Size, Targets

LARGEST_FILTER = 1e6
"""The largest size of a generated parameter and of a mask feature. Half precision can overflow to infinity, and three
layers of infinities give NaN; with this limit they stay below 10²⁶."""


@dataclass(frozen=True)
class CondInstLevels:
    """What the levels of the pyramid answer for.

    Attributes:
        strides: pixels per cell, one number for each level, finest first.
        ranges: least and largest distance in pixels, from a location to the farthest side of its object's box, that
            each level answers for; both ends count.
        sizes_of_interest: pixels by which each level divides relative coordinates.

    Raises:
        ValueError: when there are not as many of each.
    """

    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    ranges: tuple[tuple[float, float], ...] = ((-1, 64), (64, 128), (128, 256), (256, 512), (512, float("inf")))
    sizes_of_interest: tuple[float, ...] = (64, 128, 256, 512, 1024)

    def __post_init__(self) -> None:
        if not len(self.strides) == len(self.ranges) == len(self.sizes_of_interest) > 0:
            raise ValueError(
                f"every level needs a stride, a range and a size of interest, got {len(self.strides)}, "
                f"{len(self.ranges)} and {len(self.sizes_of_interest)}"
            )


@dataclass(frozen=True)
class CondInstTraining:
    """How locations are trained.

    Attributes:
        radius: how far from an object's centre of mass, in strides, locations answer for it; ``None`` for its box.
        max_masks: largest number of masks that the mask loss draws, of a whole batch. Where more locations answer for
            an object, that many are taken, evenly spaced; the others count in all other losses.

    Raises:
        ValueError: when ``max_masks`` is below 1.
    """

    radius: float | None = 1.5
    max_masks: int = 500

    def __post_init__(self) -> None:
        if self.max_masks < 1:
            raise ValueError(f"max_masks must be at least 1, got {self.max_masks}")


@dataclass(frozen=True)
class CondInstDetections:
    """What counts as a detection.

    Attributes:
        threshold: product of class probability and centerness that a detection must exceed.
        pre_nms_top_k: number of best detections of each level that go into NMS.
        nms: IoU above which NMS, within a class, drops a box.
        max_detections: largest number of detections of an image.
    """

    threshold: float = 0.05
    pre_nms_top_k: int = 1000
    nms: float = 0.6
    max_detections: int = 100


@dataclass(frozen=True)
class CondInstOutput:
    """What the heads say about a batch. Locations run over levels, then rows, then columns.

    Attributes:
        class_logits: class logits of the locations, ``(B, L, K)``.
        distances: distances l, t, r, b in pixels from the locations to the sides of their boxes, ``(B, L, 4)``.
        centerness: logits of how central the locations lie, ``(B, L)``.
        parameters: filters that draw the mask, ``(B, L, P)``.
        mask_features: features that the filters run over, ``(B, F, h, w)``.
        locations: points (x, y) in pixels, ``(L, 2)``; the same for every image.
        level: level of each location, ``(L,)`` int64, 0 for the finest.
        sizes: true height and width of each image, ``(B, 2)`` int64.
        canvas: height and width that the network saw, ``(2,)`` int64: the mask features cover it.
    """

    class_logits: Tensor
    distances: Tensor
    centerness: Tensor
    parameters: Tensor
    mask_features: Tensor
    locations: Tensor
    level: Tensor
    sizes: Tensor
    canvas: Tensor


torch.export.register_dataclass(CondInstOutput, serialized_type_name="seglib.CondInstOutput")


class CondInst(Model):
    """Boxes, classes and masks of countable objects, in one stage.

    Args:
        encoder: the backbone, whose maps the pyramid is built on.
        num_classes: number of classes K of things, without background.
        encoder_levels: names of the encoder's maps that the pyramid is built on, finest first.
        fpn: module that builds the pyramid.
        head: module that classifies locations and predicts distances, centerness and filters.
        mask_branch: module that makes the shared features, at the finest level's stride.
        levels: settings of the pyramid's levels.
        training_settings: settings of the assignment and the losses.
        detections: settings of what counts as a detection.
        features: number F of mask features.
        hidden: channels of the filters' hidden layers, one number for each; (8, 8) makes three layers.
        relative_coordinates: whether filters also see where a cell lies relative to their object's location. Without
            it two objects of one look get each other's masks.
        mask_factor: factor by which mask logits are upsampled, before the loss and before the sigmoid; it divides the
            stride of the mask features.
        fine_levels: number of the pyramid's finest levels that the mask branch alone reads; the head begins after them,
            on one of ``encoder_levels``.
        normalize: what is done to images first; ImageNet's mean and standard deviation when not given.
        padding: what fills the padding to the size of the batch and to a multiple of the coarsest stride: "constant",
            the mean colour, as published weights know it, or "replicate", its last row and column.

    Raises:
        ValueError: for an unknown padding, when ``fine_levels`` or ``mask_factor`` is out of range, or for a head of
            another number of classes, levels or parameters.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        encoder_levels: Sequence[str] = ("c3", "c4", "c5"),
        fpn: FPN,
        head: FCOSHead,
        mask_branch: MaskBranch,
        levels: CondInstLevels | None = None,
        training_settings: CondInstTraining | None = None,
        detections: CondInstDetections | None = None,
        features: int = 8,
        hidden: Sequence[int] = (8, 8),
        relative_coordinates: bool = True,
        mask_factor: int = 2,
        fine_levels: int = 0,
        normalize: Normalize | None = None,
        padding: str = "constant",
    ) -> None:
        super().__init__()
        if padding not in ("constant", "replicate"):
            raise ValueError(f'padding is "constant" or "replicate", got {padding!r}')
        if not 0 <= fine_levels < len(encoder_levels):
            raise ValueError(
                f"fine_levels must be 0 to {len(encoder_levels) - 1}, so that the head has a level, got {fine_levels}"
            )
        self.channels = filter_channels(features, hidden, relative_coordinates=relative_coordinates)
        generated = 0 if head.controller is None else head.controller.out_channels
        if generated != filter_count(self.channels):
            raise ValueError(
                f"filters of channels {self.channels} have {filter_count(self.channels)} parameters, the head makes "
                f"{generated}; pass FCOSHead(parameters={filter_count(self.channels)})"
            )
        self.levels = levels or CondInstLevels()
        made, wanted = (head.class_logits.out_channels, len(head.scales)), (num_classes, len(self.levels.strides))
        if made != wanted:
            raise ValueError(
                f"numbers of classes and of levels are {wanted}, the head was built for {made}; build it with the same "
                "num_classes and levels"
            )
        check_strides(encoder, encoder_levels[fine_levels:], self.levels.strides, "levels")
        check_pyramid(fpn, len(encoder_levels), fine_levels + len(self.levels.strides), "levels")
        self.mask_stride = self.levels.strides[0] // 2**fine_levels
        if mask_factor < 1 or self.mask_stride % mask_factor:
            raise ValueError(f"mask_factor must divide the mask features' stride {self.mask_stride}, got {mask_factor}")
        self.num_classes, self.padding = num_classes, padding
        self.normalize = normalize or Normalize()
        self.encoder = encoder
        self.encoder_levels = tuple(encoder_levels)
        self.fpn, self.head, self.mask_branch = fpn, head, mask_branch
        self.training_settings = training_settings or CondInstTraining()
        self.detections = detections or CondInstDetections()
        self.relative_coordinates, self.mask_factor, self.fine_levels = relative_coordinates, mask_factor, fine_levels
        last = self.levels.strides[len(self.encoder_levels) - fine_levels - 1]  # the encoder's coarsest map
        self.size_divisibility = max(encoder.size_divisibility, last)

    def forward(
        self, images: Tensor, targets: Targets | None = None, sizes: Sequence[Size] | None = None
    ) -> CondInstOutput:
        """What the heads say at every location.

        Args:
            images: batch ``(B, 3, H, W)`` float in [0, 1], any H and W.
            targets: not looked at; training and evaluation see the same.
            sizes: true size ``(H, W)`` of each image: what lies beyond is padding. ``None`` when every image fills the
                batch.

        Raises:
            ValueError: when the images have another shape or type.
        """
        x = self.normalize(images, sizes, self.padding)
        x = pad_to_multiple(x, self.size_divisibility, self.padding)  # (B, 3, Hp, Wp)
        maps = self.encoder(x)
        pyramid = self.fpn([maps[level] for level in self.encoder_levels])
        seen = pyramid[self.fine_levels :]
        found = self.head(seen)
        points = [locations(p.shape[-2:], s, x.device) for p, s in zip(seen, self.levels.strides, strict=True)]
        full = (images.shape[-2], images.shape[-1])
        distances = [at_least_float32(f.distances) * s for f, s in zip(found, self.levels.strides, strict=True)]
        return CondInstOutput(
            class_logits=_rows([f.class_logits for f in found]),
            distances=_rows(distances),
            centerness=_rows([f.centerness for f in found])[..., 0],
            parameters=_rows([f.parameters for f in found]),
            mask_features=at_least_float32(self.mask_branch(pyramid)),
            locations=torch.cat(points).to(distances[0].dtype),
            level=torch.cat([torch.full((len(p),), i, device=x.device) for i, p in enumerate(points)]),
            sizes=torch.tensor([full] * len(images) if sizes is None else list(sizes), device=images.device),
            canvas=torch.tensor([x.shape[-2], x.shape[-1]], device=images.device),
        )

    def loss(self, out: CondInstOutput, targets: Targets) -> dict[str, Tensor]:
        """The four losses of the paper, each with weight 1: class, box, centerness and mask.

        Args:
            out: an output of the targets' images.
            targets: annotations with ``instances``. Crowds are left out.

        Raises:
            ValueError: when the targets are malformed; the message names the first bad box or label.
        """
        objects = objects_of(targets, self.num_classes)
        table = ObjectTable.of(objects)
        matches = self.assign(out, objects)  # (B, L)
        image, index = (matches >= 0).nonzero().unbind(1)  # (P,)
        match = matches[image, index]
        boxes, own = table.matched(image, match)  # (P, 4), (P,)
        labels = torch.full_like(matches, self.num_classes)
        labels[image, index] = own
        stride = self._of_level(self.levels.strides, out, index)[:, None]  # (P, 1)
        target = box_distances(out.locations[index], boxes.to(out.locations.dtype)) / stride
        classes, box, centerness = fcos_loss(
            out.class_logits.flatten(0, 1), out.distances[image, index] / stride, out.centerness[image, index],
            labels.flatten(), target,
        )  # fmt: skip

        limit = self.training_settings.max_masks
        if len(image) > limit:
            some = torch.arange(limit, device=image.device) * len(image) // limit
            image, index, match = image[some], index[some], match[some]
        logits = self.mask_logits(out, image, index)  # (N, h', w')
        masks = torch.cat([self.mask_target(o.masks, logits.shape[-2:]) for o in objects])  # (G, h', w')
        dice = mask_dice_loss(logits, masks[table.first[image] + match].to(logits.dtype))  # (N,)
        drawn = mean_over_processes(dice.new_tensor(len(dice))).clamp(min=1)
        return {"class": classes, "box": box, "centerness": centerness, "mask": dice.sum() / drawn}

    def postprocess(
        self, out: CondInstOutput, sizes: Sequence[Size], output_sizes: Sequence[Size] | None = None
    ) -> list[Instances]:
        """The detections of each image by falling score √(class · centerness). Masks stay filters until asked for.

        Boxes are cut at the image's border after NMS, not before, and masks are not cut by boxes, both as published.
        Where scores tie at the last place, the published code keeps all of them; here ``max_detections`` holds.

        Args:
            out: an output with the same sizes.
            sizes: true size ``(H, W)`` of each image.
            output_sizes: size ``(H, W)`` in which boxes and masks are wanted; ``None`` for ``sizes``.
        """
        found = []
        wanted = sizes if output_sizes is None else output_sizes
        height, width = out.canvas.tolist()
        for i, (size, new_size) in enumerate(zip(sizes, wanted, strict=True)):
            index, labels, scores, boxes = self.detect(out, i)
            scale = boxes.new_tensor([new_size[1] / size[1], new_size[0] / size[0]] * 2)
            boxes = clip_boxes(boxes * scale, new_size)  # (D, 4)
            solid = (boxes[:, 2:] > boxes[:, :2]).all(1)  # (D,)
            index, labels, scores, boxes = index[solid], labels[solid], scores[solid], boxes[solid]
            x, y = self.coordinates(out, index)
            masks = DynamicMasks(
                _bounded(out.mask_features[i]), _bounded(out.parameters[i, index]), self.channels,
                canvas=(height, width), image_size=(int(size[0]), int(size[1])),
                size=(int(new_size[0]), int(new_size[1])),
                bias=True, x=x, y=y, logit_factor=self.mask_factor, upsample="aligned",
            )  # fmt: skip
            found.append(Instances(masks, labels, boxes, scores))
        return found

    def assign(self, out: CondInstOutput, objects: Sequence[Instances]) -> Tensor:
        """The object, by its index in its image, that each location answers for: ``(B, L)`` int64, −1 for none."""
        strides = self._of_level(self.levels.strides, out)
        ranges = out.locations.new_tensor(self.levels.ranges)[out.level]  # (L, 2)
        matches = [
            assign_locations(
                out.locations, strides, ranges, o.boxes.to(out.locations.dtype),
                mask_centres(o.masks, o.boxes).to(out.locations.dtype), radius=self.training_settings.radius,
            )
            for o in objects
        ]  # fmt: skip
        return torch.stack(matches)

    def detect(self, out: CondInstOutput, image: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The detections of one image by falling score, with boxes in pixels of the canvas.

        Returns:
            Index of the location ``(D,)``, label ``(D,)``, score ``(D,)`` and box ``(D, 4)`` xyxy.
        """
        s = self.detections
        scores = out.class_logits[image].sigmoid() * out.centerness[image].sigmoid()[:, None]  # (L, K)
        picked = []
        for level in range(len(self.levels.strides)):
            candidates = ((scores > s.threshold) & (out.level == level)[:, None]).flatten().nonzero()[:, 0]
            best = scores.flatten()[candidates].topk(min(s.pre_nms_top_k, len(candidates))).indices
            picked.append(candidates[best])
        flat = torch.cat(picked)  # (N,)
        index, labels = flat // scores.shape[1], flat % scores.shape[1]
        point, away = out.locations[index], out.distances[image, index]  # (N, 2), (N, 4)
        boxes = torch.cat([point - away[:, :2], point + away[:, 2:]], 1)  # (N, 4)
        score = scores.flatten()[flat].sqrt()
        kept = batched_nms(boxes, score, labels, s.nms)[: s.max_detections]
        return index[kept], labels[kept], score[kept], boxes[kept]

    def mask_logits(self, out: CondInstOutput, image: Tensor, index: Tensor) -> Tensor:
        """The masks that locations draw.

        Args:
            out: an output of this model.
            image: image of each location, ``(N,)`` int64.
            index: index of each location, ``(N,)`` int64.

        Returns:
            Logits ``(N, f·h, f·w)``, at ``mask_factor`` times the resolution of the mask features.
        """
        x, y = self.coordinates(out, index)
        logits = dynamic_conv(
            _bounded(out.mask_features), _bounded(out.parameters[image, index]), self.channels, image=image, x=x, y=y
        )  # (N, 1, h, w)
        return aligned_bilinear(logits, self.mask_factor)[:, 0]

    def coordinates(self, out: CondInstOutput, index: Tensor) -> tuple[Tensor | None, Tensor | None]:
        r"""Relative coordinates: (x of the location − x of the column) / size of interest of the location's level.

        Args:
            out: an output of this model.
            index: index of each location, ``(N,)`` int64.

        Returns:
            x ``(N, w)`` and y ``(N, h)``; ``None`` twice where filters see no coordinates.
        """
        if not self.relative_coordinates:
            return None, None
        height, width = out.mask_features.shape[-2:]
        stride = self.mask_stride
        size = self._of_level(self.levels.sizes_of_interest, out, index)[:, None]  # (N, 1)
        point = out.locations[index]  # (N, 2)
        column = torch.arange(width, device=point.device) * stride + stride // 2
        row = torch.arange(height, device=point.device) * stride + stride // 2
        return (point[:, :1] - column) / size, (point[:, 1:] - row) / size

    def mask_target(self, masks: Tensor, size: Sequence[int]) -> Tensor:
        """Masks ``(G, H, W)`` at the cells of mask logits: every s-th pixel from s // 2 on, ``(G, *size)`` bool.

        They are read, not averaged; what lies beyond the masks is padding and False.
        """
        step = self.mask_stride // self.mask_factor
        read = masks[:, step // 2 :: step, step // 2 :: step]
        target = read.new_zeros(len(read), *size)
        target[:, : read.shape[1], : read.shape[2]] = read
        return target

    def _of_level(self, values: Sequence[float], out: CondInstOutput, index: Tensor | None = None) -> Tensor:
        """What a level has, for all locations or for those of an index: ``(L,)`` or ``(N,)``."""
        level = out.level if index is None else out.level[index]
        return out.locations.new_tensor(values)[level]


def filter_channels(
    features: int = 8, hidden: Sequence[int] = (8, 8), *, relative_coordinates: bool = True
) -> tuple[int, ...]:
    """Channels of the generated filters: those of the input, then of every layer. (10, 8, 8, 1) has 169 parameters."""
    return (features + 2 * relative_coordinates, *hidden, 1)


def _rows(maps: Sequence[Tensor]) -> Tensor:
    """Maps ``(B, C, H_i, W_i)`` as one ``(B, L, C)``, float32 at least."""
    return at_least_float32(torch.cat([m.flatten(2).mT for m in maps], 1))


def _bounded(values: Tensor) -> Tensor:
    """Filters or features in at least float32, within ±:data:`LARGEST_FILTER`."""
    return at_least_float32(values).clamp(-LARGEST_FILTER, LARGEST_FILTER)


def condinst_fpn(
    encoder: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    frozen: bool | None = None,
    stride_in_1x1: bool = False,
    relative_coordinates: bool = True,
) -> CondInst:
    """CondInst on an encoder with a pyramid of 256 channels, p3 to p7.

    Args:
        encoder: name of the encoder, a ResNet, a Swin Transformer or a network of timm
            (:func:`~seglib.layers.named_encoder.named_encoder`).
        num_classes: number of classes K of things, without background.
        in_channels: number of channels of the images.
        pretrained: whether to start the encoder from its published ImageNet weights.
        frozen: whether a ResNet's batch norms, its first convolution and its first stage stay as they are; ``None``
            freezes them when it is pretrained, as the paper does. From scratch they must learn.
        stride_in_1x1: whether a bottleneck's stride lies in its first convolution, as in Detectron2's ResNets.
        relative_coordinates: whether filters also see where a cell lies relative to their object's location.

    Raises:
        ValueError: for an unknown encoder.
    """
    net = detector_encoder(
        encoder, in_channels=in_channels, pretrained=pretrained, frozen=frozen, stride_in_1x1=stride_in_1x1
    )
    channels = filter_channels(relative_coordinates=relative_coordinates)
    return CondInst(
        net,
        num_classes,
        fpn=FPN([net.channels[c] for c in ("c3", "c4", "c5")], top_block=TopConvs(256)),
        head=FCOSHead(256, num_classes, parameters=filter_count(channels)),
        mask_branch=MaskBranch(256),
        relative_coordinates=relative_coordinates,
        normalize=normalize_for(net, in_channels),
    )


@hands_keywords_to(condinst_fpn)
def condinst(num_classes: int, *, encoder: str = "resnet50", **keywords: Any) -> CondInst:
    """The CondInst to start with on your own data, on any encoder. Arguments and errors: :func:`condinst_fpn`."""
    return condinst_fpn(encoder, num_classes, **keywords)


@hands_keywords_to(condinst_fpn)
def condinst_resnet50(num_classes: int, **keywords: Any) -> CondInst:
    """CondInst on ResNet-50, whose published weights ``seglib convert`` turns into its own.

    Args:
        num_classes: number of classes K of things, without background.
        **keywords: further keywords of :func:`condinst_fpn`.
    """
    return condinst_fpn("resnet50", num_classes, **keywords)


@hands_keywords_to(condinst_fpn)
def condinst_resnet101(num_classes: int, **keywords: Any) -> CondInst:
    """CondInst on ResNet-101. Keywords as in :func:`condinst_fpn`."""
    return condinst_fpn("resnet101", num_classes, **keywords)


def condinst_tiny(
    num_classes: int, *, in_channels: int = 3, channels: int = 48, relative_coordinates: bool = True
) -> CondInst:
    """CondInst on the tiny encoder, for the synthetic scenes on two CPU cores.

    Its mask features have stride 2, because the scenes' things are a few pixels wide, and its head begins at stride 4.
    It has no levels beyond the encoder's; the ranges of the levels fit images of 128×128 pixels.

    Args:
        num_classes: number of classes K of things, without background.
        in_channels: number of channels of the images.
        channels: channels of the pyramid's levels and of the head, a multiple of 8.
        relative_coordinates: whether filters also see where a cell lies relative to their object's location.
    """
    encoder = TinyEncoder(in_channels=in_channels)
    levels = ("c1", "c2", "c3", "c4", "c5")
    filters = filter_channels(relative_coordinates=relative_coordinates)
    return CondInst(
        encoder,
        num_classes,
        encoder_levels=levels,
        fpn=FPN([encoder.channels[c] for c in levels], channels, norm=True),
        head=FCOSHead(channels, num_classes, levels=4, depth=2, groups=8, parameters=filter_count(filters)),
        mask_branch=MaskBranch(channels, channels=24, depth=1),
        levels=CondInstLevels(
            strides=(4, 8, 16, 32),
            ranges=((-1, 16), (16, 32), (32, 64), (64, float("inf"))),
            sizes_of_interest=(16, 32, 64, 128),
        ),
        training_settings=CondInstTraining(max_masks=160),
        relative_coordinates=relative_coordinates,
        fine_levels=1,
        normalize=Normalize.for_channels(in_channels, TINY_MEAN, TINY_STD),
        padding="replicate",  # it is trained on crops that fit, and would take a strip of another colour for things
    )
