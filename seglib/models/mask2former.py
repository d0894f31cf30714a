"""Mask2Former (Cheng, Misra, Schwing, Kirillov, Girdhar, "Masked-attention Mask Transformer for Universal Image
Segmentation", CVPR 2022).

A segmentation is a set of masks with classes. Q learned queries look at the image, and each answers with one mask and
one class, or with "no object". What a mask stands for, a class or an object, is decided by the annotations it was
trained on: one network serves semantic, instance and panoptic segmentation.

::

    image (B, 3, H, W)
      │ normalise, encoder
      ▼
    c2 … c5 (B, C_i, H/4 … H/32, W/4 … W/32)
      │ pixel decoder: deformable attention over c3, c4 and c5
      ├────────────────────────────────┐
      ▼                                ▼
    scales 1/32, 1/16, 1/8        mask features F (B, C, H/4, W/4)
      │ one a layer, in turn           │
      ▼                                ▼
    queries ── layer 1 … L ── each ──► class logits (Q, K + 1), embedding e (Q, C), mask logits e · F (Q, H/4, W/4)
                 ▲                                     │
                 └── a query looks where its mask is ──┘
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.layers.encoder import Encoder, normalize_for
from seglib.layers.named_encoder import named_encoder
from seglib.layers.normalize import Normalize, pad_to_multiple
from seglib.layers.pixel_decoder import PixelDecoder
from seglib.layers.query_decoder import QueryDecoder
from seglib.layers.resnet import RESNETS
from seglib.layers.tiny import TINY_MEAN, TINY_STD, TinyEncoder
from seglib.losses.queries import (
    MaskTargets,
    Matcher,
    PointSampler,
    RandomPoints,
    SetLossSettings,
    match_queries,
    set_losses,
)
from seglib.models.base import Model
from seglib.models.instance import crowds_of, objects_of
from seglib.models.keywords import hands_keywords_to
from seglib.ops.labels import check_labels
from seglib.ops.panoptic import segment_index
from seglib.postprocess.queries import (
    QuerySettings,
    instances_from_queries,
    panoptic_from_queries,
    semantic_from_queries,
)
from seglib.types import VOID, Instances, Panoptic, Semantic, Size, Targets

TaskName = Literal["semantic", "instance", "panoptic"]
TASKS: tuple[TaskName, ...] = ("semantic", "instance", "panoptic")
LEVELS = ("c2", "c3", "c4", "c5")
STRIDE = 4
"""Pixels of the image a cell of the mask features."""


@dataclass(frozen=True)
class Mask2FormerOutput:
    """The answers of all queries, before the first of L layers and after each.

    Attributes:
        class_logits: ``(L + 1, B, Q, K + 1)``; index K is "no object".
        mask_embeddings: embedding of each query's mask, ``(L + 1, B, Q, C)``.
        mask_features: ``(B, C, h, w)``, at a quarter of the padded image's size. A mask's logits are the product of
            its embedding and these.
        sizes: true size of each image, ``(B, 2)`` int64.
    """

    class_logits: Tensor
    mask_embeddings: Tensor
    mask_features: Tensor
    sizes: Tensor

    def mask_logits(self, layer: int = -1) -> Tensor:
        """The logits of all masks after a layer, 0 for the queries as they were learned: ``(B, Q, h, w)``."""
        return torch.einsum("bqc,bchw->bqhw", self.mask_embeddings[layer], self.mask_features)

    @property
    def canvas(self) -> tuple[int, int]:
        """Size ``(H, W)`` of the padded images, which the masks cover."""
        height, width = self.mask_features.shape[2:]
        return STRIDE * height, STRIDE * width


torch.export.register_dataclass(Mask2FormerOutput, serialized_type_name="seglib.Mask2FormerOutput")


class Mask2Former(Model):
    """Masked-attention mask transformer.

    Args:
        encoder: gives maps of the strides 4 to 32, c2 to c5.
        num_classes: number of classes K.
        pixel_decoder: mixes the encoder's maps.
        decoder: turns queries into classes and masks.
        task: task that the model is trained for: what a target mask is. "semantic": all pixels of a class; "instance":
            an object; "panoptic": an object of a thing, or all pixels of a stuff class.
        num_things: number of classes of things, the first ones of a panoptic table; ``None`` for other tasks.
        settings: weights and sizes of the loss.
        normalize: what is done to images first; a mean of ½ and a standard deviation of ¼ when not given.

    Attributes:
        thresholds: thresholds of the panoptic result.
        max_detections: largest number of instances of an image.
        sampler: draws the points at which the loss compares masks.
        matcher: gives each object its query.
        keep_probs: whether semantic predictions hold probabilities, which take most of their memory.

    Raises:
        ValueError: for an unknown task, or a number of things that doesn't fit it.
    """

    keep_probs: bool = True

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        *,
        pixel_decoder: PixelDecoder,
        decoder: QueryDecoder,
        task: TaskName = "panoptic",
        num_things: int | None = None,
        settings: SetLossSettings | None = None,
        normalize: Normalize | None = None,
    ) -> None:
        super().__init__()
        self.num_things = _check_classes(num_classes, num_things, task)
        self.num_classes, self.trained_for = num_classes, task
        self._task: TaskName = task
        self.normalize = normalize or Normalize(TINY_MEAN, TINY_STD)
        self.encoder, self.pixel_decoder, self.decoder = encoder, pixel_decoder, decoder
        self.settings = settings or SetLossSettings()
        self.thresholds = QuerySettings()
        self.max_detections = 100
        self.sampler: PointSampler = RandomPoints()
        self.matcher: Matcher = match_queries

    @property
    def task(self) -> TaskName:
        """What :meth:`postprocess` and :meth:`predict` give.

        A model that was trained for panoptic segmentation knows the answers of all three tasks: set
        ``model.task = "semantic"``.
        """
        return self._task

    @task.setter
    def task(self, task: TaskName) -> None:
        served = TASKS if self.trained_for == "panoptic" else (self.trained_for,)
        if task not in served:
            raise ValueError(
                f"this model was trained for {self.trained_for} and serves {', '.join(served)}, not {task}"
            )
        self._task = task

    def forward(
        self, images: Tensor, targets: Targets | None = None, sizes: Sequence[Size] | None = None
    ) -> Mask2FormerOutput:
        """The answers of all queries.

        Args:
            images: batch ``(B, 3, H, W)`` float in [0, 1], any H and W.
            targets: not used.
            sizes: true size ``(H, W)`` of each image: what lies beyond is padding. ``None`` when every image fills the
                batch.

        Raises:
            ValueError: when the images are malformed.
        """
        x = pad_to_multiple(self.normalize(images, sizes), math.lcm(32, self.encoder.size_divisibility))
        maps = self.encoder(x)
        scales, features = self.pixel_decoder([maps[level] for level in LEVELS])
        class_logits, embeddings = self.decoder(scales, features)
        full = [tuple(images.shape[2:])] * len(images) if sizes is None else sizes
        return Mask2FormerOutput(
            class_logits,
            embeddings,
            features,
            torch.as_tensor(full, device=x.device).view(-1, 2),
        )

    def loss(self, out: Mask2FormerOutput, targets: Targets) -> dict[str, Tensor]:
        """``2 class + 5 mask + 5 dice`` of the last layer, and the same of all others together, already weighted.

        Void, crowds and padding count nowhere. An object without a pixel, as a crop leaves it, is none.

        Args:
            out: what ``forward`` returned.
            targets: annotations of the task: ``semantic``, ``instances`` or ``panoptic``.

        Raises:
            ValueError: when they are missing, or a label is none of the model's classes.
        """
        s = self.settings
        parts = self.layer_losses(out, targets)
        losses = {}
        for name, weight in (("class", s.class_weight), ("mask", s.mask_weight), ("dice", s.dice_weight)):
            losses[name] = weight * parts[name][-1]
            losses[f"{name}_aux"] = weight * parts[name][:-1].sum()
        return losses

    def layer_losses(self, out: Mask2FormerOutput, targets: Targets) -> dict[str, Tensor]:
        """The losses "class", "mask" and "dice" of each layer, ``(L + 1,)`` each, not weighted; as :meth:`loss`."""
        losses = set_losses(
            out.class_logits,
            out.mask_embeddings,
            out.mask_features,
            self.objects(out, targets),
            settings=self.settings,
            sampler=self.sampler,
            matcher=self.matcher,
        )
        return dict(zip(("class", "mask", "dice"), losses, strict=True))

    def objects(self, out: Mask2FormerOutput, targets: Targets) -> list[MaskTargets]:
        """What the queries of each image should find, on the padded image. Arguments as in :meth:`loss`."""
        height, width = out.canvas
        found = _OBJECTS[self.trained_for](targets, self.num_classes)
        padded = []
        for (labels, masks, void), (h, w) in zip(found, out.sizes.tolist(), strict=True):
            some = masks.flatten(1).any(1)
            missing = (0, width - masks.shape[2], 0, height - masks.shape[1])
            void = F.pad(void[:h, :w], (0, width - w, 0, height - h), value=True)
            padded.append(MaskTargets(labels[some], F.pad(masks[some], missing), void))
        return padded

    def postprocess(
        self, out: Mask2FormerOutput, sizes: Sequence[Size], output_sizes: Sequence[Size] | None = None
    ) -> list[Semantic] | list[Instances] | list[Panoptic]:
        """The answer of :attr:`task` for each image.

        Args:
            out: what ``forward`` returned.
            sizes: true size ``(H, W)`` of each image.
            output_sizes: size ``(H, W)`` in which results are wanted; ``None`` for ``sizes``.
        """
        if self.task == "semantic":
            return self.semantic(out, sizes, output_sizes)
        if self.task == "instance":
            return self.instances(out, sizes, output_sizes)
        return self.panoptic(out, sizes, output_sizes)

    def semantic(
        self, out: Mask2FormerOutput, sizes: Sequence[Size], output_sizes: Sequence[Size] | None = None
    ) -> list[Semantic]:
        """The class of every pixel, whose score is a sum over queries. Arguments as in :meth:`postprocess`."""
        found = (semantic_from_queries(*image) for image in self._images(out, sizes, output_sizes))
        return [prediction if self.keep_probs else Semantic(prediction.labels) for prediction in found]

    def instances(
        self, out: Mask2FormerOutput, sizes: Sequence[Size], output_sizes: Sequence[Size] | None = None
    ) -> list[Instances]:
        """The best pairs of query and thing. Arguments as in :meth:`postprocess`."""
        things = self.num_classes if self.num_things is None else self.num_things
        return [
            instances_from_queries(*image, num_things=things, max_detections=self.max_detections)
            for image in self._images(out, sizes, output_sizes)
        ]

    def panoptic(
        self, out: Mask2FormerOutput, sizes: Sequence[Size], output_sizes: Sequence[Size] | None = None
    ) -> list[Panoptic]:
        """At most one segment for every pixel, by :attr:`thresholds`. Arguments as in :meth:`postprocess`."""
        if self.num_things is None:
            raise ValueError(f"this model was trained for {self.trained_for}, it doesn't tell things from stuff")
        return [
            panoptic_from_queries(*image, num_things=self.num_things, settings=self.thresholds)
            for image in self._images(out, sizes, output_sizes)
        ]

    @staticmethod
    def _images(
        out: Mask2FormerOutput, sizes: Sequence[Size], output_sizes: Sequence[Size] | None
    ) -> Iterator[tuple[Tensor, Tensor, Size, Size, Size]]:
        """Class logits, mask logits, padded, true and wanted size of each image."""
        wanted = sizes if output_sizes is None else output_sizes
        for classes, masks, size, output_size in zip(
            out.class_logits[-1], out.mask_logits(), sizes, wanted, strict=True
        ):
            yield classes, masks, out.canvas, size, output_size


Objects = tuple[Tensor, Tensor, Tensor]
"""Labels ``(G,)``, masks ``(G, H, W)`` and void ``(H, W)`` of an image."""


def _classes(targets: Targets, num_classes: int) -> list[Objects]:
    """One mask for each class that an image has."""
    if targets.semantic is None:
        raise ValueError("the targets have no `semantic` labels; train on a dataset whose samples carry them")
    check_labels(targets.semantic, num_classes, VOID)
    found = []
    for labels in targets.semantic.long():
        classes = labels.unique()
        classes = classes[classes != VOID]  # (G,)
        found.append((classes, labels == classes[:, None, None], labels == VOID))
    return found


def _instances(targets: Targets, num_classes: int) -> list[Objects]:
    """One mask for each object; crowds are void where no object is."""
    found = []
    for objects, crowds in zip(objects_of(targets, num_classes, boxes=False), crowds_of(targets), strict=True):
        found.append((objects.labels, objects.masks, crowds.masks.any(0) & ~objects.masks.any(0)))
    return found


def _segments(targets: Targets, num_classes: int) -> list[Objects]:
    """One mask for each segment; crowds are void."""
    if targets.panoptic is None:
        raise ValueError("the targets have no `panoptic` maps; train on a dataset whose samples carry them")
    found = []
    for image, panoptic in enumerate(targets.panoptic):
        index = segment_index(panoptic)  # (H, W), 0 = void
        places = [i for i, segment in enumerate(panoptic.segments, 1) if not segment.iscrowd]
        labels = [panoptic.segments[i - 1].category_id for i in places]
        if labels and not 0 <= min(labels) <= max(labels) < num_classes:
            raise ValueError(
                f"the segments of image {image} have the categories {sorted(set(labels))}, the model knows "
                f"0..{num_classes - 1}; build it with the dataset's number of classes"
            )
        masks = index == torch.tensor(places, device=index.device)[:, None, None]  # (G, H, W)
        found.append((torch.tensor(labels, dtype=torch.int64, device=index.device), masks, ~masks.any(0)))
    return found


_OBJECTS: dict[TaskName, Callable[[Targets, int], list[Objects]]] = {
    "semantic": _classes,
    "instance": _instances,
    "panoptic": _segments,
}


def _check_classes(num_classes: int, num_things: int | None, task: str) -> int | None:
    """The number of things, after checking that it suits the task."""
    if task not in TASKS:
        raise ValueError(f"task {task!r} is unknown; choose one of {', '.join(TASKS)}")
    if num_classes < 1:
        raise ValueError(f'num_classes must be at least 1, got {num_classes}; "no object" isn\'t counted')
    if task != "panoptic":
        if num_things is not None:
            raise ValueError(f"num_things is for panoptic models, got {num_things} with the task {task}; leave it out")
        return None
    if num_things is None or not 0 <= num_things <= num_classes:
        raise ValueError(
            f"a panoptic model of {num_classes} classes needs num_things in 0..{num_classes}, got {num_things}; "
            "things are the first classes of the table"
        )
    return num_things


def mask2former_parts(
    encoder: Encoder,
    num_classes: int,
    *,
    num_things: int | None,
    task: TaskName,
    queries: int = 100,
    masked_attention: bool = True,
    in_channels: int = 3,
) -> Mask2Former:
    """Mask2Former with the sizes of the paper on any encoder: 256 channels, 6 deformable and 9 decoder layers.

    Args:
        encoder: gives maps of the strides 4 to 32, c2 to c5.
        num_classes: number of classes K.
        num_things: number of classes of things, for panoptic models.
        task: task that the model is trained for: "semantic", "instance" or "panoptic".
        queries: number of queries Q; 200 in the published panoptic and instance models on Swin-L.
        masked_attention: whether queries look only where their masks are.
        in_channels: number of channels of the images.
    """
    return Mask2Former(
        encoder,
        num_classes,
        num_things=num_things,
        task=task,
        pixel_decoder=PixelDecoder([encoder.channels[level] for level in LEVELS]),
        decoder=QueryDecoder(num_classes, queries=queries, masked_attention=masked_attention),
        normalize=normalize_for(encoder, in_channels),
    )


@hands_keywords_to(mask2former_parts)
def mask2former_on(
    encoder: str,
    num_classes: int,
    *,
    num_things: int | None = None,
    task: TaskName = "panoptic",
    in_channels: int = 3,
    pretrained: bool = False,
    frozen: bool | None = None,
    **keywords: Any,
) -> Mask2Former:
    """Mask2Former on an encoder by name.

    Args:
        encoder: name of the encoder, a ResNet, a Swin Transformer or a network of timm
            (:func:`~seglib.layers.named_encoder.named_encoder`).
        num_classes: number of classes K.
        num_things: number of classes of things, for panoptic models.
        task: task that the model is trained for: "semantic", "instance" or "panoptic".
        in_channels: number of channels of the images.
        pretrained: whether the encoder starts from its published ImageNet weights.
        frozen: whether a ResNet's batch norms keep their statistics and weights; ``None`` freezes them when the encoder
            is pretrained.
        **keywords: further keywords of :func:`mask2former_parts`.

    Raises:
        ValueError: for an unknown encoder or task, or a number of things that doesn't fit it.
    """
    if frozen is None:
        frozen = pretrained and encoder in RESNETS
    net = named_encoder(encoder, in_channels=in_channels, levels=LEVELS, pretrained=pretrained, frozen_norm=frozen)
    return mask2former_parts(net, num_classes, num_things=num_things, task=task, in_channels=in_channels, **keywords)


@hands_keywords_to(mask2former_on)
def mask2former(num_classes: int, *, encoder: str = "resnet50", **keywords: Any) -> Mask2Former:
    """The Mask2Former to start with on your own data, on any encoder. Keywords: :func:`mask2former_on`."""
    return mask2former_on(encoder, num_classes, **keywords)


@hands_keywords_to(mask2former_on)
def mask2former_resnet50(num_classes: int, **keywords: Any) -> Mask2Former:
    """Mask2Former on ResNet-50. Keywords as in :func:`mask2former_on`."""
    return mask2former_on("resnet50", num_classes, **keywords)


@hands_keywords_to(mask2former_on)
def mask2former_resnet101(num_classes: int, **keywords: Any) -> Mask2Former:
    """Mask2Former on ResNet-101. Keywords as in :func:`mask2former_on`."""
    return mask2former_on("resnet101", num_classes, **keywords)


@hands_keywords_to(mask2former_on)
def mask2former_swin_t(num_classes: int, **keywords: Any) -> Mask2Former:
    """Mask2Former on Swin-T. Keywords as in :func:`mask2former_on`."""
    return mask2former_on("swin_t", num_classes, **keywords)


@hands_keywords_to(mask2former_on)
def mask2former_swin_s(num_classes: int, **keywords: Any) -> Mask2Former:
    """Mask2Former on Swin-S. Keywords as in :func:`mask2former_on`."""
    return mask2former_on("swin_s", num_classes, **keywords)


@hands_keywords_to(mask2former_on)
def mask2former_swin_b(num_classes: int, **keywords: Any) -> Mask2Former:
    """Mask2Former on Swin-B with windows of 12. Keywords as in :func:`mask2former_on`."""
    return mask2former_on("swin_b", num_classes, **keywords)


@hands_keywords_to(mask2former_on)
def mask2former_swin_l(num_classes: int, **keywords: Any) -> Mask2Former:
    """Mask2Former on Swin-L with windows of 12. Keywords as in :func:`mask2former_on`."""
    return mask2former_on("swin_l", num_classes, **keywords)


def mask2former_tiny(
    num_classes: int,
    *,
    num_things: int | None = None,
    task: TaskName = "panoptic",
    in_channels: int = 3,
    channels: int = 64,
    queries: int = 40,
    layers: int = 6,
    masked_attention: bool = True,
) -> Mask2Former:
    """Mask2Former on the tiny encoder, for the synthetic scenes on two CPU cores.

    Args:
        num_classes: number of classes K.
        num_things: number of classes of things, for panoptic models.
        task: task that the model is trained for: "semantic", "instance" or "panoptic".
        in_channels: number of channels of the images.
        channels: channels of scales, queries and mask features.
        queries: number of queries Q.
        layers: number of decoder layers L, which take three scales in turn.
        masked_attention: whether queries look only where their masks are.

    Raises:
        ValueError: for an unknown task, or a number of things that doesn't fit it.
    """
    encoder = TinyEncoder(in_channels=in_channels)
    return Mask2Former(
        encoder,
        num_classes,
        num_things=num_things,
        task=task,
        pixel_decoder=PixelDecoder(
            [encoder.channels[level] for level in LEVELS],
            channels,
            layers=2,
            heads=4,
            hidden=2 * channels,
            mask_channels=channels,
            groups=8,
        ),
        decoder=QueryDecoder(
            num_classes,
            channels,
            queries=queries,
            layers=layers,
            heads=4,
            hidden=2 * channels,
            mask_channels=channels,
            masked_attention=masked_attention,
        ),
        settings=SetLossSettings(num_points=512),
        normalize=Normalize.for_channels(in_channels, TINY_MEAN, TINY_STD),
    )
