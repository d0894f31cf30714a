"""SOLOv2 (Wang, Zhang, Kong, Li, Shen, "SOLOv2: Dynamic and Fast Instance Segmentation", NeurIPS 2020).

No boxes: an object is found by where it is. Every level of a pyramid is seen on a square grid, and the cell in which an
object's centre lies says its class and makes a kernel. Convolved with features that all objects share, the kernel draws
the object's mask.

::

    image (B, 3, H, W)
      │ normalise, encoder, FPN
      ▼
    p2 … p6 ── p2 halved, p6 resized to p5 ── each resized to its grid of G×G cells, G = 40, 36, 24, 16, 12
      │                                         │ [3×3]*, shared by the levels; kernels see the coordinates x, y
      │                                         ▼
      │                        K class logits (B, S, K) and a kernel (B, S, E) of each cell, S = Σ G²
      │ p2 … p5: 3×3, upsample, add                │
      ▼                                            │ sigmoid; peaks above the threshold
    mask features F (B, E, H/4, W/4) ────────── F * kernel ─► a mask of each such cell ─► sigmoid
                                                                 │ score = class × mean probability inside the mask
                                                                 ▼ Matrix NMS of masks
                                                      instances, whose masks stay kernels until asked for
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.layers.encoder import Encoder, normalize_for
from seglib.layers.fpn import FPN, TopPool
from seglib.layers.named_encoder import detector_encoder
from seglib.layers.normalize import Normalize, pad_to_multiple
from seglib.layers.solo_heads import MaskFeatureHead, SOLOHead
from seglib.layers.tiny import TINY_MEAN, TINY_STD, TinyEncoder
from seglib.losses.assign_grid import GridTargets, assign_grid
from seglib.losses.solo import category_loss, mask_loss
from seglib.models.base import Model
from seglib.models.instance import check_pyramid, objects_of
from seglib.models.keywords import hands_keywords_to
from seglib.ops.dynamic_conv import dynamic_conv
from seglib.ops.dynamic_masks import DynamicMasks, upsample_logits
from seglib.ops.masks import mask_iou, masks_to_boxes, resize_masks
from seglib.ops.nms import MATRIX_KERNELS, mask_nms, matrix_nms
from seglib.ops.precision import at_least_float32
from seglib.types import Instances, Size, Targets

RANGES = ((1.0, 96.0), (48.0, 192.0), (96.0, 384.0), (192.0, 768.0), (384.0, 2048.0))
"""Smallest and largest scale √(w·h) of the objects of each level, in pixels, in the published models."""
COORDINATES = ("kernel", "feature")
"""Where explicit coordinates can enter: the kernel branch and the mask features (the paper's table 3b)."""
CHUNK = 2**24
"""Pixels of mask probabilities that are held at once in search of detections: 64 MB of float32."""


@dataclass(frozen=True)
class SOLOTraining:
    """How cells are trained.

    Attributes:
        ranges: smallest and largest scale √(w·h) of the objects of each level, in pixels. An object outside all ranges
            is trained on no level.
        sigma: the centre region's share of the box (:func:`~seglib.losses.assign_grid.assign_grid`).
        mask_weight: weight of the Dice loss.
        max_masks: most masks of a batch that the Dice loss looks at, drawn at random where cells are more; it bounds
            the memory of crowded batches. The published code has no such bound.

    Raises:
        ValueError: when ``max_masks`` is below 1.
    """

    ranges: tuple[tuple[float, float], ...] = RANGES
    sigma: float = 0.2
    mask_weight: float = 3.0
    max_masks: int = 2000

    def __post_init__(self) -> None:
        if self.max_masks < 1:
            raise ValueError(f"max_masks must be at least 1, got {self.max_masks}")


@dataclass(frozen=True)
class SOLODetections:
    """What counts as a detection.

    Attributes:
        threshold: class score that a cell must exceed before its mask is drawn.
        mask_threshold: probability that a pixel of a mask exceeds.
        min_areas: area that the masks of each level must exceed, in cells of the features.
        pre_nms_top_k: number of best masks of an image that go into NMS.
        nms: "matrix" lowers the scores of masks that overlap better ones, "mask" drops them.
        kernel: the function of the IoU by which Matrix NMS lowers scores, "gaussian" or "linear".
        sigma: σ of the gaussian.
        nms_iou: IoU above which "mask" drops a mask.
        min_score: score after NMS that a detection must reach.
        max_detections: largest number of detections of an image.

    Raises:
        ValueError: for an unknown NMS or kernel.
    """

    threshold: float = 0.1
    mask_threshold: float = 0.5
    min_areas: tuple[float, ...] = (8, 8, 16, 32, 32)
    pre_nms_top_k: int = 500
    nms: str = "matrix"
    kernel: str = "gaussian"
    sigma: float = 2.0
    nms_iou: float = 0.5
    min_score: float = 0.05
    max_detections: int = 100

    def __post_init__(self) -> None:
        if self.nms not in ("matrix", "mask"):
            raise ValueError(f'nms is "matrix" or "mask", got {self.nms!r}')
        if self.kernel not in MATRIX_KERNELS:
            raise ValueError(f"kernel {self.kernel!r} is unknown; choose one of {', '.join(MATRIX_KERNELS)}")


@dataclass(frozen=True)
class SOLOv2Output:
    """What the heads say about a batch; S = Σ G² cells of all levels, finest first, each grid row by row.

    Attributes:
        category_logits: class logits of the cells, ``(B, S, K)``. Background is no class: all are low there.
        kernels: kernel of each cell, ``(B, S, E)``.
        mask_features: features that the kernels are convolved with, ``(B, E, h, w)``.
        sizes: true height and width of each image, ``(B, 2)`` int64.
        canvas: height and width in pixels that grids and features cover, images and padding, ``(2,)`` int64.
    """

    category_logits: Tensor
    kernels: Tensor
    mask_features: Tensor
    sizes: Tensor
    canvas: Tensor


torch.export.register_dataclass(SOLOv2Output, serialized_type_name="seglib.SOLOv2Output")


class SOLOv2(Model):
    """Classes and masks of countable objects, without boxes in between.

    Args:
        encoder: the backbone, whose maps the pyramid is built on.
        levels: names of the encoder's maps that the pyramid is built on, finest first.
        fpn: module that builds the pyramid from the encoder's maps: one level for each grid of the head.
        head: module that scores classes and makes kernels on the grids.
        mask_features: module that makes the features that kernels are convolved with, from the finest levels.
        training_settings: how cells are trained.
        detections: settings of what counts as a detection.
        mask_factor: factor by which mask logits are upsampled, before the loss and before the sigmoid; 1 in the paper.
        normalize: what is done to images first; ImageNet's mean and standard deviation when not given.
        padding: what fills the padding to the size of the batch and to a multiple of ``size_divisibility``:
            "constant", the mean colour, as published weights know it, or "replicate", its last row and column.

    Raises:
        ValueError: for an unknown padding, settings for another number of levels, or a ``mask_factor`` below 1.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        levels: Sequence[str] = ("c2", "c3", "c4", "c5"),
        fpn: FPN,
        head: SOLOHead,
        mask_features: MaskFeatureHead,
        training_settings: SOLOTraining,
        detections: SOLODetections,
        mask_factor: int = 1,
        normalize: Normalize | None = None,
        padding: str = "constant",
    ) -> None:
        super().__init__()
        if padding not in ("constant", "replicate"):
            raise ValueError(f'padding is "constant" or "replicate", got {padding!r}')
        counts = {len(head.grids), len(training_settings.ranges), len(detections.min_areas)}
        if len(counts) > 1:
            raise ValueError(
                f"every level has a grid, a range of scales and a smallest area, got {len(head.grids)}, "
                f"{len(training_settings.ranges)} and {len(detections.min_areas)}"
            )
        if mask_factor < 1:
            raise ValueError(f"mask_factor must be at least 1, got {mask_factor}")
        if len(mask_features.branches) > len(levels):
            raise ValueError(
                f"the mask features take {len(mask_features.branches)} levels, the encoder gives {len(levels)} maps; "
                "build MaskFeatureHead for as many"
            )
        check_pyramid(fpn, len(levels), len(head.grids), "grids")
        self.num_classes, self.padding = head.category.out_channels, padding
        self.normalize = normalize or Normalize()
        self.encoder = encoder
        self.levels = tuple(levels)
        self.fpn, self.head, self.mask_features = fpn, head, mask_features
        self.training_settings, self.detections, self.mask_factor = training_settings, detections, mask_factor
        # each level of the mask features must be twice as large as the next
        self.size_divisibility = max(encoder.size_divisibility, int(encoder.grids[self.levels[-1]].stride))

    def forward(
        self, images: Tensor, targets: Targets | None = None, sizes: Sequence[Size] | None = None
    ) -> SOLOv2Output:
        """Every cell of every grid, and the mask features; with or without targets.

        Args:
            images: batch ``(B, 3, H, W)`` float in [0, 1], any H and W.
            targets: unused.
            sizes: true size ``(H, W)`` of each image; ``None`` when every image fills the batch.
        """
        full = (images.shape[-2], images.shape[-1])
        limits = torch.tensor([full] * len(images) if sizes is None else list(sizes), device=images.device)  # (B, 2)
        canvas = [side + -side % self.size_divisibility for side in full]
        pyramid = self.pyramid(images, sizes)
        logits, kernels = self.head(resized_levels(pyramid))
        return SOLOv2Output(
            category_logits=at_least_float32(torch.cat([x.flatten(2) for x in logits], 2).mT),  # (B, S, K)
            kernels=at_least_float32(torch.cat([x.flatten(2) for x in kernels], 2).mT),  # (B, S, E)
            mask_features=at_least_float32(self.mask_features(pyramid[: len(self.mask_features.branches)])),
            sizes=limits,
            canvas=torch.tensor(canvas, device=images.device),
        )

    def loss(self, out: SOLOv2Output, targets: Targets) -> dict[str, Tensor]:
        """The two losses of the paper: focal loss of the classes, and 3 × Dice loss of the masks.

        Args:
            out: the output for the images that the targets belong to.
            targets: annotations with ``instances``. Crowds are left out.

        Raises:
            ValueError: when the targets are malformed; the message names the first bad box or label.
        """
        objects = objects_of(targets, self.num_classes)
        assigned = [self.assign(out, o) for o in objects]
        labels = torch.stack(
            [
                F.pad(o.labels, (0, 1), value=-1)[a.matches]  # a match of −1 reads the −1 at the end
                for o, a in zip(objects, assigned, strict=True)
            ]
        )  # (B, S)
        counts = [len(a.cells) for a in assigned]
        category = category_loss(out.category_logits, labels, sum(counts))

        drawn = torch.arange(sum(counts), device=labels.device)
        if len(drawn) > (most := self.training_settings.max_masks):
            drawn = torch.randperm(len(drawn), device=labels.device)[:most].sort().values
        logits, masks, begin = [], [], 0
        for i, (o, a) in enumerate(zip(objects, assigned, strict=True)):
            here = drawn[(drawn >= begin) & (drawn < begin + counts[i])] - begin  # (n,)
            begin += counts[i]
            logits.append(draw(out.mask_features[i], out.kernels[i, a.cells[here]], self.mask_factor))
            used, own = a.objects[here].unique(return_inverse=True)
            small = resize_masks(o.masks[used], logits[-1].shape[1:], canvas=out.canvas.tolist(), half_inside=True)
            masks.append(small[own])
        return {
            "category": category,
            "mask": self.training_settings.mask_weight * mask_loss(torch.cat(logits), torch.cat(masks)),
        }

    def postprocess(
        self, out: SOLOv2Output, sizes: Sequence[Size], output_sizes: Sequence[Size] | None = None
    ) -> list[Instances]:
        """The detections of each image by falling score. Masks stay kernels until they are asked for.

        Boxes are those around the masks at the output's size; what has no pixel there is dropped.

        Args:
            out: an output for images of these sizes.
            sizes: true size ``(H, W)`` of each image.
            output_sizes: size ``(H, W)`` in which boxes and masks are wanted; ``None`` for ``sizes``.
        """
        found = []
        height, width = out.canvas.tolist()
        wanted = sizes if output_sizes is None else output_sizes
        for i, (size, output_size) in enumerate(zip(sizes, wanted, strict=True)):
            cells, labels, scores = self.detect(out.category_logits[i], out.kernels[i], out.mask_features[i])
            masks = DynamicMasks(
                out.mask_features[i].detach(),
                out.kernels[i, cells].detach(),
                (out.kernels.shape[2], 1),
                canvas=(height, width),
                image_size=(size[0], size[1]),
                size=(output_size[0], output_size[1]),
                logit_factor=self.mask_factor,
                upsample="canvas",
                threshold=self.detections.mask_threshold,
            )
            boxes = [masks_to_boxes(part.dense()).to(scores.dtype) for part in masks.chunks()]  # a few masks at a time
            instances = Instances(masks, labels, torch.cat([scores.new_zeros(0, 4), *boxes]), scores)
            found.append(instances[instances.boxes[:, 2] > instances.boxes[:, 0]])
        return found

    def pyramid(self, images: Tensor, sizes: Sequence[Size] | None = None) -> list[Tensor]:
        """``(B, 3, H, W)`` images in [0, 1] → the levels p2, p3, …, ``(B, C, H/4, W/4)``, …"""
        x = self.normalize(images, sizes, self.padding)
        maps = self.encoder(pad_to_multiple(x, self.size_divisibility, self.padding))
        return self.fpn([maps[level] for level in self.levels])

    def assign(self, out: SOLOv2Output, objects: Instances) -> GridTargets:
        """What the cells of one image are trained on."""
        s = self.training_settings
        return assign_grid(
            objects.masks, objects.boxes,
            canvas=out.canvas.tolist(), grids=self.head.grids, ranges=s.ranges, sigma=s.sigma,
        )  # fmt: skip

    @torch.no_grad()
    def detect(self, logits: Tensor, kernels: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The cells whose masks are detections, their classes and scores, each ``(N,)``, by falling score.

        Args:
            logits: class logits of the cells of one image, ``(S, K)``.
            kernels: kernel of each cell, ``(S, E)``.
            features: mask features, ``(E, h, w)``.
        """
        cells, labels, scores = self._candidates(logits, kernels, features)
        masks = self._masks(features, kernels[cells])  # (N, h, w)
        kept, scores = self._suppress(masks, labels, scores)
        return cells[kept], labels[kept], scores

    def _candidates(self, logits: Tensor, kernels: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What goes into NMS: cells that peak and whose masks are large enough, their classes and scores, ``(N,)``.

        A score is that of the class times the mean probability inside the mask. The highest comes first.
        """
        s, grids = self.detections, self.head.grids
        parts = logits.sigmoid().T.split([g * g for g in grids], 1)  # (K, G·G) of each level
        peaks = [point_nms(part.unflatten(1, (g, g))).flatten(1) for part, g in zip(parts, grids, strict=True)]
        scores = torch.cat(peaks, 1).T  # (S, K)
        cells, labels = (scores > s.threshold).nonzero().unbind(1)  # (N,)

        drawn, own = cells.unique(return_inverse=True)  # (D,) a cell may have several classes; its mask is one
        area, maskness = self._measure(features, kernels[drawn])  # (D,)
        level_of = torch.repeat_interleave(torch.tensor([g * g for g in grids], device=logits.device))  # (S,)
        large = area > scores.new_tensor(s.min_areas)[level_of[drawn]]
        kept = large[own]
        cells, labels, own = cells[kept], labels[kept], own[kept]
        score, order = (scores[cells, labels] * maskness[own]).sort(descending=True, stable=True)
        order = order[: s.pre_nms_top_k]
        return cells[order], labels[order], score[: s.pre_nms_top_k]

    def _suppress(self, masks: Tensor, labels: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        """Of masks ``(N, h, w)`` by falling score the index of those kept, and their new scores, by falling score."""
        s = self.detections
        iou = mask_iou(masks, masks)
        if s.nms == "matrix":
            score, order = matrix_nms(iou, labels, score, kernel=s.kernel, sigma=s.sigma).sort(descending=True)
        else:
            order = mask_nms(iou, labels, score, s.nms_iou)
            score = score[order]
        kept = (score >= s.min_score).nonzero()[: s.max_detections, 0]
        return order[kept], score[kept]

    def _measure(self, features: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor]:
        """Area of each kernel's mask in cells ``(N,)``, and its mean probability inside, "maskness", ``(N,)``."""
        areas, inside = [features.new_zeros(0)], [features.new_zeros(0)]
        for part in kernels.split(self._chunk(features)):
            probs = draw(features, part, self.mask_factor).sigmoid().flatten(1)  # (n, h·w)
            mask = (probs > self.detections.mask_threshold).to(probs.dtype)
            areas.append(mask.sum(1))
            inside.append(mask.mul_(probs).sum(1))
        area = torch.cat(areas)
        return area, torch.cat(inside) / area.clamp(min=1)

    def _masks(self, features: Tensor, kernels: Tensor) -> Tensor:
        """The masks at the features' resolution, bool ``(N, h, w)``."""
        parts = kernels.split(self._chunk(features))
        drawn = [draw(features, part, self.mask_factor).sigmoid() for part in parts]
        return torch.cat([probs > self.detections.mask_threshold for probs in drawn])

    def _chunk(self, features: Tensor) -> int:
        """How many masks are drawn at once, in bounded memory."""
        return max(1, CHUNK // (features[0].numel() * self.mask_factor**2))


def draw(features: Tensor, kernels: Tensor, factor: int = 1) -> Tensor:
    """Mask logits of kernels ``(N, E)`` on the features ``(E, h, w)`` of their image: ``(N, f·h, f·w)``."""
    logits = dynamic_conv(features[None], kernels, (len(features), 1), bias=False)  # (N, 1, h, w)
    return upsample_logits(logits, factor)[:, 0]


def resized_levels(pyramid: Sequence[Tensor]) -> list[Tensor]:
    """The pyramid as the head sees it: its finest level halved, its coarsest at the size of the one before."""
    first, *middle, last = pyramid
    return [
        F.interpolate(first, scale_factor=0.5, mode="bilinear"),
        *middle,
        F.interpolate(last, size=middle[-1].shape[-2:], mode="bilinear"),
    ]


def point_nms(scores: Tensor) -> Tensor:
    """The scores that no better one to the left, above or above left stands next to; 0 where one does.

    Only these three neighbours count, so 0.8 to the left of 0.9 survives and 0.8 to its right doesn't.

    Args:
        scores: scores of the cells of one grid for each class, ``(K, G, G)``, at least 0.
    """
    highest = F.max_pool2d(scores[None], 2, stride=1, padding=1)[0, :, :-1, :-1]  # (K, G, G)
    return scores * (highest == scores)


def solov2_fpn(
    encoder: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    pretrained: bool = False,
    frozen: bool | None = None,
    stride_in_1x1: bool = False,
    coordinates: Sequence[str] = COORDINATES,
) -> SOLOv2:
    """SOLOv2 on an encoder with a pyramid of 256 channels.

    Args:
        encoder: name of the encoder, a ResNet, a Swin Transformer or a network of timm
            (:func:`~seglib.layers.named_encoder.named_encoder`).
        num_classes: number of classes K of things, without background.
        in_channels: number of channels of the images.
        pretrained: whether to start the encoder from its published ImageNet weights.
        frozen: whether a ResNet's batch norms, its first convolution and its first stage stay as they are; ``None``
            freezes them when it is pretrained. From scratch they must learn.
        stride_in_1x1: whether a bottleneck's stride lies in its first convolution, as in Detectron2's ResNets.
        coordinates: where explicit coordinates enter: "kernel", "feature", both or none.

    Raises:
        ValueError: for an unknown encoder or an unknown place of coordinates.
    """
    _check_coordinates(coordinates)
    net = detector_encoder(
        encoder, in_channels=in_channels, pretrained=pretrained, frozen=frozen, stride_in_1x1=stride_in_1x1
    )
    return SOLOv2(
        net,
        fpn=FPN([net.channels[c] for c in ("c2", "c3", "c4", "c5")], top_block=TopPool()),
        head=SOLOHead(256, num_classes, coordinates="kernel" in coordinates),
        mask_features=MaskFeatureHead(256, coordinates="feature" in coordinates),
        training_settings=SOLOTraining(),
        detections=SOLODetections(),
        normalize=normalize_for(net, in_channels),
    )


@hands_keywords_to(solov2_fpn)
def solov2(num_classes: int, *, encoder: str = "resnet50", **keywords: Any) -> SOLOv2:
    """The SOLOv2 to start with on your own data, on any encoder. Arguments and errors: :func:`solov2_fpn`."""
    return solov2_fpn(encoder, num_classes, **keywords)


@hands_keywords_to(solov2_fpn)
def solov2_resnet50(num_classes: int, **keywords: Any) -> SOLOv2:
    """SOLOv2 on ResNet-50-FPN, whose published weights ``seglib convert`` turns into its own.

    Args:
        num_classes: number of classes K of things, without background.
        **keywords: further keywords of :func:`solov2_fpn`.
    """
    return solov2_fpn("resnet50", num_classes, **keywords)


@hands_keywords_to(solov2_fpn)
def solov2_resnet101(num_classes: int, **keywords: Any) -> SOLOv2:
    """SOLOv2 on ResNet-101-FPN. Keywords as in :func:`solov2_fpn`."""
    return solov2_fpn("resnet101", num_classes, **keywords)


def solov2_tiny(
    num_classes: int, *, in_channels: int = 3, channels: int = 48, coordinates: Sequence[str] = COORDINATES
) -> SOLOv2:
    """SOLOv2 on the tiny encoder, for the synthetic scenes on two CPU cores.

    Its pyramid and its mask features begin at stride 2 and its masks have stride 1, because the scenes' things are a
    few pixels wide. The ranges of scales leave no object out.

    Args:
        num_classes: number of classes K of things, without background.
        in_channels: number of channels of the images.
        channels: channels of the pyramid's levels and of the heads.
        coordinates: where explicit coordinates enter: "kernel", "feature", both or none.

    Raises:
        ValueError: for an unknown place of coordinates.
    """
    _check_coordinates(coordinates)
    encoder = TinyEncoder(in_channels=in_channels)
    levels = ("c1", "c2", "c3", "c4", "c5")
    return SOLOv2(
        encoder,
        levels=levels,
        fpn=FPN([encoder.channels[c] for c in levels], channels, norm=True),
        head=SOLOHead(
            channels, num_classes, grids=(40, 24, 16, 12, 8), kernel_channels=64, hidden=channels, depth=2, groups=8,
            coordinates="kernel" in coordinates,
        ),
        mask_features=MaskFeatureHead(
            channels, features=64, hidden=48, groups=8, coordinates="feature" in coordinates
        ),
        training_settings=SOLOTraining(
            ranges=((0.0, 12.0), (8.0, 24.0), (16.0, 48.0), (32.0, 96.0), (64.0, float("inf"))), max_masks=160
        ),
        detections=SOLODetections(min_areas=(2, 2, 4, 8, 8)),
        mask_factor=2,
        normalize=Normalize.for_channels(in_channels, TINY_MEAN, TINY_STD),
        padding="replicate",  # it is trained on crops that fit, and would take a strip of another colour for things
    )  # fmt: skip


def _check_coordinates(coordinates: Sequence[str]) -> None:
    if isinstance(coordinates, str) or not set(coordinates) <= set(COORDINATES):
        raise ValueError(f"coordinates are some of {COORDINATES}, got {coordinates!r}")
