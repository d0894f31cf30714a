"""What the stages of a two-stage detector are told, what they give, and which proposals it trains on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from seglib.losses.assign import IGNORE, Sampler, match_boxes, sample_balanced
from seglib.losses.two_stage import BOX_LOSSES
from seglib.models.instance import ObjectTable
from seglib.ops.boxes import box_iou
from seglib.ops.ragged import pad_lists
from seglib.types import Instances, Size


@dataclass(frozen=True)
class RPNSettings:
    """How proposals are trained and made.

    Attributes:
        foreground_iou: IoU threshold from which an anchor is foreground.
        background_iou: IoU threshold below which an anchor is background; between both it is ignored.
        batch_size_per_image: number of anchors of an image that the loss looks at.
        positive_fraction: largest share of foreground among these anchors.
        pre_nms_top_k_train: number of best anchors of each level that go into NMS, with targets.
        pre_nms_top_k_test: number of best anchors of each level that go into NMS, without targets.
        post_nms_top_k_train: largest number of proposals of an image, with targets.
        post_nms_top_k_test: largest number of proposals of an image, without targets.
        nms: IoU above which NMS drops a proposal.
        min_size: side length in pixels up to which a proposal is dropped.
        beta: error at which the pieces of the smooth L1 loss meet; 0 is L1.
        sampler: chooses the anchors that the loss looks at.
    """

    foreground_iou: float = 0.7
    background_iou: float = 0.3
    batch_size_per_image: int = 256
    positive_fraction: float = 0.5
    pre_nms_top_k_train: int = 2000
    pre_nms_top_k_test: int = 1000
    post_nms_top_k_train: int = 1000
    post_nms_top_k_test: int = 1000
    nms: float = 0.7
    min_size: float = 0.0
    beta: float = 0.0
    sampler: Sampler = field(default_factory=lambda: sample_balanced)  # a plain default would read as a method


@dataclass(frozen=True)
class RoISettings:
    """How RoIs are trained and pooled.

    Attributes:
        foreground_iou: IoU threshold from which a proposal is foreground; below it is background.
        batch_size_per_image: number of RoIs of an image that the box head is trained on.
        positive_fraction: largest share of foreground among these RoIs.
        box_size: cells along a side of the box head's patch.
        mask_size: cells along a side of the mask head's patch; its masks have twice as many.
        pooling: how a patch is cut out, "align" (RoIAlign) or "pool" (RoI Pooling, to see what it costs).
        sampling_ratio: number of RoIAlign's samples per bin along each axis; 0 takes as many as cells.
        aligned: whether RoIAlign places cell i at i + ½ (:func:`~seglib.ops.roi.roi_align`).
        canonical_size: the side of a square box, in pixels, that is served by the third level of the pyramid.
        beta: error at which the pieces of the smooth L1 loss meet; 0 is L1.
        box_loss: loss of the boxes, "smooth_l1" or "giou".
        binary_masks: whether mask targets are thresholded at ½ after they were cut out.
        sampler: chooses the RoIs that the heads are trained on.
    """

    foreground_iou: float = 0.5
    batch_size_per_image: int = 512
    positive_fraction: float = 0.25
    box_size: int = 7
    mask_size: int = 14
    pooling: str = "align"
    sampling_ratio: int = 2
    aligned: bool = True
    canonical_size: float = 224
    beta: float = 0.0
    box_loss: str = "smooth_l1"
    binary_masks: bool = True
    sampler: Sampler = field(default_factory=lambda: sample_balanced)  # a plain default would read as a method

    def __post_init__(self) -> None:
        if self.pooling not in ("align", "pool"):
            raise ValueError(f'pooling is "align" or "pool", got {self.pooling!r}')
        if self.box_loss not in BOX_LOSSES:
            raise ValueError(f"box_loss {self.box_loss!r} is unknown; choose one of {', '.join(BOX_LOSSES)}")

    @property
    def max_foreground(self) -> int:
        """The most foreground RoIs of an image that the mask head is trained on."""
        return int(self.batch_size_per_image * self.positive_fraction)


@dataclass(frozen=True)
class DetectionSettings:
    """What counts as a detection.

    Attributes:
        threshold: score that a detection must exceed.
        nms: IoU above which NMS, within a class, drops a box.
        max_detections: largest number of detections of an image.
        min_size: side length in pixels up to which a detection is dropped.
        rounded_paste: whether masks are stretched over whole pixels (:func:`~seglib.ops.paste.paste_probs`).
    """

    threshold: float = 0.05
    nms: float = 0.5
    max_detections: int = 100
    min_size: float = 0.0
    rounded_paste: bool = False


@dataclass(frozen=True)
class MaskRCNNOutput:
    """Every stage of Mask R-CNN for a batch. Padding, where an image has less than others, is zeros.

    Attributes:
        anchors: anchors of all levels, ``(A, 4)`` xyxy, finest first; the same for every image.
        objectness: logits of the anchors, ``(B, A)``.
        anchor_deltas: predicted deltas of the anchors, ``(B, A, 4)``.
        proposals: proposals by falling score, ``(B, P, 4)`` xyxy.
        proposal_scores: logits of the proposals, ``(B, P)``, −inf for padding.
        rois: RoIs that the box head saw, ``(B, R, 4)`` xyxy: the proposals, or with targets a sample of them,
            foreground first.
        matches: ``(B, R)`` int64, index of the object that an RoI is matched with, −1 for background (and for all
            RoIs without targets), −2 for padding.
        class_logits: class logits of the RoIs, ``(B, R, K + 1)``, background last.
        box_deltas: predicted deltas of the RoIs, ``(B, R, K, 4)``, or ``(B, R, 1, 4)`` class-agnostic.
        boxes: boxes in which masks were drawn, ``(B, D, 4)`` xyxy: the detections, or with targets the foreground RoIs.
        labels: class of each of ``boxes``, ``(B, D)`` int64.
        scores: score of each of ``boxes``, ``(B, D)`` in [0, 1], 0 for padding; with targets 1 for all others.
        mask_logits: mask of each of ``boxes`` for its class, ``(B, D, M, M)``.
        sizes: true height and width of each image, ``(B, 2)`` int64.
    """

    anchors: Tensor
    objectness: Tensor
    anchor_deltas: Tensor
    proposals: Tensor
    proposal_scores: Tensor
    rois: Tensor
    matches: Tensor
    class_logits: Tensor
    box_deltas: Tensor
    boxes: Tensor
    labels: Tensor
    scores: Tensor
    mask_logits: Tensor
    sizes: Tensor


torch.export.register_dataclass(MaskRCNNOutput, serialized_type_name="seglib.MaskRCNNOutput")


def true_sizes(images: Tensor, sizes: Sequence[Size] | None) -> Tensor:
    """True height and width of each image, ``(B, 2)`` int64; without ``sizes`` every image fills the batch."""
    full = (images.shape[-2], images.shape[-1])
    return torch.tensor([full] * len(images) if sizes is None else list(sizes), device=images.device)


@torch.no_grad()
def sample_rois(
    proposals: Tensor, scores: Tensor, objects: Sequence[Instances], s: RoISettings
) -> tuple[Tensor, Tensor]:
    """RoIs ``(B, R, 4)`` to train on and their matches ``(B, R)``, foreground first.

    The objects' own boxes are candidates too, before the proposals.

    Args:
        proposals: proposals of each image, ``(B, P, 4)`` xyxy.
        scores: logits of the proposals, ``(B, P)``, −inf for padding.
        objects: true objects of each image.
        s: the settings: IoU threshold, number, share and sampler.

    Raises:
        ValueError: when the sampler chooses more RoIs, or more foreground, than the settings allow.
    """
    chosen, matched = [], []
    for image, found in enumerate(objects):
        boxes = found.boxes.to(proposals.dtype)
        candidates = torch.cat([boxes, proposals[image, scores[image] > -torch.inf]])  # (N, 4)
        matches = match_boxes(
            box_iou(boxes, candidates), foreground_iou=s.foreground_iou, background_iou=s.foreground_iou
        )
        picked = s.sampler(matches, s.batch_size_per_image, s.positive_fraction)
        picked = picked[(matches[picked] < 0).int().argsort(stable=True)]  # foreground first
        foreground = int((matches[picked] >= 0).sum())
        if len(picked) > s.batch_size_per_image or foreground > s.max_foreground:
            raise ValueError(
                f"the sampler chose {len(picked)} RoIs of image {image}, {foreground} of them foreground; the settings "
                f"allow {s.batch_size_per_image} and {s.max_foreground}: raise batch_size_per_image or "
                "positive_fraction"
            )
        chosen.append(candidates[picked])
        matched.append(matches[picked])
    # how many there can be, not how many there are: the shape depends on neither weights nor chance
    most = min(s.batch_size_per_image, proposals.shape[1] + max(len(o) for o in objects))
    return pad_lists(chosen, most), pad_lists(matched, most, IGNORE)


def check_sampled(matches: Tensor, objects: Sequence[Instances]) -> None:
    """Check that RoIs were sampled with these objects, of which each image then has one at least.

    Raises:
        ValueError: when the output was made without targets, or with others: all its RoIs would pass for background.
    """
    found = [bool(m) for m in (matches >= 0).any(1)]
    if found != [len(o) > 0 for o in objects]:
        raise ValueError(
            "the output was not made with these targets; call model(images, targets) and loss(out, targets) with the "
            "same ones"
        )


def foreground_rois(
    rois: Tensor, matches: Tensor, objects: Sequence[Instances], most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Of sampled RoIs the foreground: boxes ``(B, D, 4)``, labels ``(B, D)``, and 1 as their score ``(B, D)``.

    Args:
        rois: sampled RoIs, ``(B, R, 4)`` xyxy, foreground first.
        matches: match of each RoI, ``(B, R)`` int64.
        objects: true objects of each image.
        most: number D of RoIs that are kept, at most R.
    """
    matches = matches[:, :most]
    foreground = matches >= 0
    image = torch.arange(len(matches), device=matches.device)[:, None]  # (B, 1)
    labels = ObjectTable.of(objects).matched(image, matches)[1]
    return rois[:, :most] * foreground[..., None], labels, foreground.to(rois.dtype)
