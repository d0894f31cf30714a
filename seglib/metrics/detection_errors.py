"""What is wrong with a detection: average precision says how much is missing, not why."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seglib.metrics.coco_objects import IoUType, check_iou_type
from seglib.ops.boxes import box_iou
from seglib.ops.masks import mask_iou
from seglib.types import Instances

ERROR_TYPES = ("correct", "duplicate", "class", "location", "both", "background", "ignored")
"""What a detection can be, in the order of :attr:`DetectionErrors.types`."""


@dataclass(frozen=True)
class DetectionErrors:
    """The judgement of one image.

    Attributes:
        types: ``(D,)`` int64, what each detection is, an index into :data:`ERROR_TYPES`.
        objects: ``(D,)`` int64, the object that each detection is about; −1 for background.
        missed: ``(G,)`` bool, whether no detection found an object. Crowds are never missed.
    """

    types: Tensor
    objects: Tensor
    missed: Tensor

    def counts(self) -> dict[str, int]:
        """How many detections are of each type, and how many objects were ``missed``."""
        found = torch.bincount(self.types, minlength=len(ERROR_TYPES)).tolist()
        return dict(zip(ERROR_TYPES, found, strict=True)) | {"missed": int(self.missed.sum())}


def detection_errors(
    prediction: Instances,
    target: Instances,
    *,
    threshold: float = 0.5,
    near: float = 0.1,
    iou_type: IoUType = "masks",
) -> DetectionErrors:
    """Sort the detections of one image by what they got wrong.

    Detections are matched as for AP: by falling score, each takes the object of its class that it overlaps most, if the
    IoU is at least ``threshold`` and nobody took it. What finds none is

    - a **duplicate**, when it overlaps a taken object of its class that much,
    - wrong in **class**, when it overlaps an object of another class that much,
    - wrong in **location**, when it overlaps an object of its class by ``near`` at least,
    - wrong in **both**, when it overlaps an object of another class by ``near`` at least,
    - **background** otherwise,

    and the first that applies. What lies in a crowd of its class is **ignored**. Leave out detections that you wouldn't
    use: with a low threshold on the score most are background.

    Source: after Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020, section 3.

    Args:
        prediction: detections of the image, with scores.
        target: true objects of the image.
        threshold: IoU from which an object counts as found, in (0, 1].
        near: IoU from which a detection is about an object, in (0, threshold].
        iou_type: ``"masks"`` or ``"boxes"``: whose overlaps are computed.

    Raises:
        ValueError: without scores, when a threshold is out of range, or when ``iou_type`` is unknown.
    """
    check_iou_type(iou_type)
    if prediction.scores is None:
        raise ValueError("the prediction has no scores, by which detections are matched; pass scores (N,)")
    if not 0 < near <= threshold <= 1:
        raise ValueError(f"expected 0 < near <= threshold <= 1, got near {near} and threshold {threshold}")
    count = len(target)
    crowd = torch.zeros(count, dtype=torch.bool) if target.iscrowd is None else target.iscrowd.cpu()
    if iou_type == "masks":
        overlap = mask_iou(prediction.masks, target.masks, target.iscrowd).cpu()  # (D, G)
    else:
        overlap = box_iou(prediction.boxes, target.boxes).cpu()
    same = prediction.labels.cpu()[:, None] == target.labels.cpu()  # (D, G)
    single = ~crowd

    types = torch.full((len(prediction),), ERROR_TYPES.index("background"))
    objects = torch.full((len(prediction),), -1)
    taken = torch.zeros(count, dtype=torch.bool)
    for i in prediction.scores.cpu().argsort(descending=True, stable=True).tolist():
        of_class, of_others = same[i] & single, ~same[i] & single
        choices = (
            ("correct", of_class & ~taken, threshold),
            ("ignored", same[i] & crowd, threshold),
            ("duplicate", of_class & taken, threshold),
            ("class", of_others, threshold),
            ("location", of_class, near),
            ("both", of_others, near),
        )
        for name, allowed, least in choices:
            scores = torch.where(allowed, overlap[i], -1.0)
            if count and scores.max() >= least:
                types[i], objects[i] = ERROR_TYPES.index(name), scores.argmax()
                break
        if types[i] == ERROR_TYPES.index("correct"):
            taken[objects[i]] = True
    return DetectionErrors(types, objects, single & ~taken)
