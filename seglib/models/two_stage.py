"""What the stages of a two-stage detector are told, what they give, and how regions become a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seglib.losses.assign import IGNORE, match_boxes, sample_balanced
from seglib.losses.two_stage import BOX_LOSSES
from seglib.ops.boxes import box_iou, check_boxes
from seglib.ops.paste import paste_masks
from seglib.ops.precision import at_least_float32
from seglib.types import Instances, Targets


@dataclass(frozen=True)
class RPNSettings:
    """How proposals are trained and made.

    Attributes:
        high: IoU from which an anchor is an object.
        low: IoU below which it is background.
        sample: anchors of an image that the loss looks at.
        positive: the largest share of objects among them.
        before_nms: the best anchors of each level that go into NMS (without targets, with targets).
        after_nms: proposals of an image (without targets, with targets).
        nms: IoU above which NMS drops a proposal.
        smallest: proposals with a side of at most this many pixels are dropped.
        beta: of the smooth L1 loss; 0 is L1.
    """

    high: float = 0.7
    low: float = 0.3
    sample: int = 256
    positive: float = 0.5
    before_nms: tuple[int, int] = (1000, 2000)
    after_nms: tuple[int, int] = (1000, 1000)
    nms: float = 0.7
    smallest: float = 0.0
    beta: float = 0.0


@dataclass(frozen=True)
class RegionSettings:
    """How regions are trained and pooled.

    Attributes:
        match: IoU from which a proposal is an object; below it is background.
        sample: regions of an image that the box head is trained on.
        positive: the largest share of objects among them.
        box_size: cells along a side of the box head's patch.
        mask_size: cells along a side of the mask head's patch; its masks have twice as many.
        pooling: how a patch is cut out, "align" (RoIAlign) or "pool" (RoI Pooling, to see what it costs).
        sampling_ratio: of RoIAlign, 0 takes as many samples as cells.
        aligned: of RoIAlign.
        canonical_size: of a box, in pixels, that is served by the third level of the pyramid.
        beta: of the smooth L1 loss; 0 is L1.
        box_loss: "smooth_l1" or "giou".
        binary_masks: mask targets are thresholded at ½ after they were cut out.
    """

    match: float = 0.5
    sample: int = 512
    positive: float = 0.25
    box_size: int = 7
    mask_size: int = 14
    pooling: str = "align"
    sampling_ratio: int = 2
    aligned: bool = True
    canonical_size: float = 224
    beta: float = 0.0
    box_loss: str = "smooth_l1"
    binary_masks: bool = True

    def __post_init__(self) -> None:
        if self.pooling not in ("align", "pool"):
            raise ValueError(f'pooling is "align" or "pool", got {self.pooling!r}')
        if self.box_loss not in BOX_LOSSES:
            raise ValueError(f"box_loss {self.box_loss!r} is unknown; choose one of {', '.join(BOX_LOSSES)}")


@dataclass(frozen=True)
class DetectionSettings:
    """What counts as a detection.

    Attributes:
        threshold: scores must exceed it.
        nms: IoU above which NMS, within a class, drops a box.
        count: detections of an image at most.
        smallest: boxes with a side of at most this many pixels are dropped.
        rounded_paste: masks are put into whole pixels, see :func:`~seglib.ops.paste.paste_probs`.
    """

    threshold: float = 0.05
    nms: float = 0.5
    count: int = 100
    smallest: float = 0.0
    rounded_paste: bool = False


@dataclass(frozen=True)
class MaskRCNNOutput:
    """Every stage of Mask R-CNN for a batch. What an image lacks is filled up with zeros.

    Attributes:
        anchors: ``(B, A, 4)`` of all levels, finest first; the same for every image.
        objectness: ``(B, A)`` logits.
        anchor_deltas: ``(B, A, 4)``.
        proposals: ``(B, P, 4)`` by falling score.
        proposal_scores: ``(B, P)`` logits, −inf for what only fills up.
        regions: ``(B, R, 4)`` that the box head saw: the proposals, or with targets a sample of them, objects first.
        matches: ``(B, R)`` int64: the index of the object that a region stands for, −1 for background (and for all
            regions without targets), −2 for what only fills up.
        class_logits: ``(B, R, K + 1)``, background last.
        box_deltas: ``(B, R, K, 4)``, or ``(B, R, 1, 4)`` class-agnostic.
        boxes: ``(B, D, 4)`` in which masks were drawn: the detections, or with targets the regions that are objects.
        labels: ``(B, D)`` int64 classes of these boxes.
        scores: ``(B, D)`` in [0, 1], 0 for what only fills up; with targets 1 for all others.
        mask_logits: ``(B, D, M, M)`` of each box's class.
    """

    anchors: Tensor
    objectness: Tensor
    anchor_deltas: Tensor
    proposals: Tensor
    proposal_scores: Tensor
    regions: Tensor
    matches: Tensor
    class_logits: Tensor
    box_deltas: Tensor
    boxes: Tensor
    labels: Tensor
    scores: Tensor
    mask_logits: Tensor


torch.export.register_dataclass(MaskRCNNOutput, serialized_type_name="seglib.MaskRCNNOutput")


def objects_of(targets: Targets, num_classes: int) -> list[Instances]:
    """The objects of each image without crowds, after checking them.

    Raises:
        ValueError: without instances, or with a bad box or label; the message names the image.
    """
    if targets.instances is None:
        raise ValueError("the targets have no `instances`; train on a dataset whose samples carry them")
    objects = [i if i.iscrowd is None else i[~i.iscrowd] for i in targets.instances]
    for image, found in enumerate(objects):
        check_boxes(found.boxes, f"boxes of image {image}")
        if len(found) and not 0 <= int(found.labels.min()) <= int(found.labels.max()) < num_classes:
            raise ValueError(
                f"image {image} has the labels {found.labels.unique().tolist()}, the model knows 0..{num_classes - 1}; "
                "build it with the dataset's number of things"
            )
    return objects


@torch.no_grad()
def sample_regions(
    proposals: Tensor, scores: Tensor, objects: list[Instances], s: RegionSettings
) -> tuple[Tensor, Tensor]:
    """Regions ``(B, R, 4)`` to train on and their matches ``(B, R)``. The objects themselves are candidates too.

    Args:
        proposals: ``(B, P, 4)``.
        scores: ``(B, P)``, −inf for what only fills up.
        objects: of each image.
        s: IoU, number and shares of the sample.
    """
    chosen = []
    for boxes, score, found in zip(proposals, scores, objects, strict=True):
        candidates = torch.cat([found.boxes.to(boxes.dtype), boxes[score > -torch.inf]])  # (N, 4)
        matches = match_boxes(box_iou(found.boxes.to(boxes.dtype), candidates), high=s.match, low=s.match)
        picked = sample_balanced(matches, s.sample, s.positive)
        chosen.append((candidates[picked], matches[picked]))
    # how many there can be, not how many there are: the shape depends on neither weights nor chance
    most = min(s.sample, proposals.shape[1] + max(len(o) for o in objects))
    regions = proposals.new_zeros(len(chosen), most, 4)
    filled = torch.full((len(chosen), most), IGNORE, device=proposals.device)
    for i, (boxes, matches) in enumerate(chosen):
        regions[i, : len(boxes)], filled[i, : len(boxes)] = boxes, matches
    return regions, filled


def check_sampled(matches: Tensor, objects: list[Instances]) -> None:
    """Check that regions were sampled with these objects, of which each image then has one at least.

    Raises:
        ValueError: when the output was made without targets, or with others: all its regions would pass for background.
    """
    found = [bool(m) for m in (matches >= 0).any(1)]
    if found != [len(o) > 0 for o in objects]:
        raise ValueError(
            "the output was not made with these targets; call model(images, targets) and loss(out, targets) with the "
            "same ones"
        )


def occupied(valid: Tensor) -> tuple[Tensor, Tensor]:
    """Image and slot, ``(N,)`` each, of what is valid in a batch ``(B, R)``: what only fills up costs nothing.

    A compiler gets all slots, so that no size depends on data; :func:`spread` puts zeros into the others.
    """
    if not torch.compiler.is_compiling():
        return valid.nonzero().unbind(1)  # type: ignore[return-value]
    batch, count = valid.shape
    slot = torch.arange(count, device=valid.device)
    image = torch.arange(batch, device=valid.device)
    return image[:, None].expand(batch, count).flatten(), slot.repeat(batch)


def spread(values: Tensor, valid: Tensor, image: Tensor, slot: Tensor) -> Tensor:
    """Rows ``(N, …)`` put at their places of a batch ``(B, R, …)``, zeros where it isn't valid."""
    values = at_least_float32(values)
    out = values.new_zeros(*valid.shape, *values.shape[1:]).index_put((image, slot), values)
    if torch.compiler.is_compiling():
        out = out.masked_fill(~valid.view(*valid.shape, *(1,) * (values.ndim - 1)), 0)
    return out


def objects_first(
    regions: Tensor, matches: Tensor, objects: list[Instances], s: RegionSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Of sampled regions those that are objects: boxes ``(B, D, 4)``, labels ``(B, D)``, and 1 as their score."""
    count = min(int(s.sample * s.positive), matches.shape[1])
    regions, matches = regions[:, :count], matches[:, :count]
    table, first = join(objects)
    valid = matches >= 0
    labels = rows_of(table.labels, first[:, None] + matches, valid)
    return regions * valid[..., None], labels * valid, valid.to(regions.dtype)


def paste_detections(out: MaskRCNNOutput, size: Sequence[int], *, rounded: bool) -> list[Instances]:
    """The detections of each image by falling score, masks and boxes in images of ``size``.

    Args:
        out: made without targets.
        size: ``(H, W)`` of the images.
        rounded: see :func:`~seglib.ops.paste.paste_probs`.
    """
    found = []
    for boxes, labels, scores, logits in zip(out.boxes, out.labels, out.scores, out.mask_logits, strict=True):
        kept = scores > 0  # (D,)
        masks = paste_masks(logits[kept].sigmoid(), boxes[kept], size, rounded=rounded)  # (N, H, W)
        found.append(Instances(masks, labels[kept], boxes[kept], scores[kept]))
    return found


def join(objects: list[Instances]) -> tuple[Instances, Tensor]:
    """The objects of all images in one, and the index of each image's first."""
    counts = torch.tensor([len(o) for o in objects], device=objects[0].boxes.device)
    joined = Instances(
        torch.cat([o.masks for o in objects]),
        torch.cat([o.labels for o in objects]),
        torch.cat([o.boxes for o in objects]),
    )
    return joined, counts.cumsum(0) - counts


def rows_of(values: Tensor, index: Tensor, valid: Tensor) -> Tensor:
    """``values[index]`` where valid; elsewhere some row, or zeros when there is none."""
    if len(values) == 0:
        return values.new_zeros(*index.shape, *values.shape[1:])
    return values[torch.where(valid, index, 0)]
