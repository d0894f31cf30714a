"""The objects of one image in the form of COCO's files: run-length codes or boxes, and what goes with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from seglib.ops.rle import RLE, check_rles, encode_rle
from seglib.types import Instances

IoUType = Literal["masks", "boxes"]
"""Whose overlaps are computed: pycocotools calls the two "segm" and "bbox"."""

CHUNK = 2**24
"""Pixels of packed masks that are unpacked at once: 16 MB as bool, and 64 MB while they are pasted."""


class CocoObjects:
    """N objects of one image, checked, as arrays on the CPU. Masks stay packed: nothing is drawn.

    Args:
        shapes: N run-length codes of one size, or boxes ``(N, 4)`` **x, y, width, height** in pixels. Boxes aren't
            ``xyxy`` here because x + width − x isn't always width, and a last bit can decide an IoU of exactly 0.5.
        labels: ``(N,)`` integer class ids.
        scores: ``(N,)`` scores of predictions, ``None`` for ground truth.
        iscrowd: ``(N,)`` bool, whether an object is a crowd; ``None`` means that none is.
        areas: ``(N,)`` areas in pixels², by which objects are small or large; ``None`` takes those of the shapes.
        checked: codes are as :func:`~seglib.ops.rle.check_rles` gives them and are not checked again. They need areas.

    Attributes:
        shapes: N codes with text counts, or boxes ``(N, 4)`` float64.
        labels: class ids, ``(N,)`` int64.
        scores: scores of predictions, ``(N,)`` float64, or ``None``.
        iscrowd: whether each object is a crowd, ``(N,)`` bool.
        areas: areas in pixels², ``(N,)`` float64.

    Raises:
        ValueError: when lengths differ, a code is malformed, labels aren't integers, a number isn't finite, or a
            width or height is negative.
    """

    def __init__(
        self,
        shapes: Sequence[RLE] | ArrayLike | Tensor,
        labels: ArrayLike | Tensor,
        scores: ArrayLike | Tensor | None = None,
        iscrowd: ArrayLike | Tensor | None = None,
        areas: ArrayLike | Tensor | None = None,
        *,
        checked: bool = False,
    ) -> None:
        self.labels = _labels(labels)
        n = len(self.labels)
        self.shapes: list[RLE] | np.ndarray
        own: Tensor | np.ndarray | None = None
        if isinstance(shapes, list | tuple) and all(isinstance(r, dict) for r in shapes):
            if len(shapes) != n:
                raise ValueError(f"{n} labels need as many codes, got {len(shapes)}")
            self.shapes, own = (list(shapes), None) if checked else check_rles(shapes)
        else:
            self.shapes = _floats(shapes, "boxes", (n, 4))
            own = self.shapes[:, 2] * self.shapes[:, 3]
            negative = (self.shapes[:, 2:] < 0).any(1)
            if negative.any():
                i = int(negative.argmax())
                raise ValueError(
                    f"boxes[{i}] is {self.shapes[i].tolist()}; boxes are x, y, width, height here, width and height "
                    "at least 0"
                )
        self.scores = None if scores is None else _floats(scores, "scores", (n,))
        self.iscrowd = np.zeros(n, bool) if iscrowd is None else _host(iscrowd).astype(bool)
        if self.iscrowd.shape != (n,):
            raise ValueError(f"{n} labels need iscrowd of shape ({n},), got {self.iscrowd.shape}")
        self.areas = _floats(own if areas is None else areas, "areas", (n,))

    @classmethod
    def from_instances(
        cls, instances: Instances, iou_type: IoUType, areas: ArrayLike | Tensor | None = None
    ) -> CocoObjects:
        """The masks or the boxes of instances. Boxes ``xyxy`` become x, y, width, height in float64.

        Raises:
            ValueError: when ``iou_type`` is unknown or a number isn't finite.
            ImportError: for masks, when pycocotools isn't installed.
        """
        check_iou_type(iou_type)
        shapes: list[RLE] | np.ndarray
        if iou_type == "masks":
            height, width = instances.size
            step = max(1, CHUNK // max(1, height * width))
            shapes = []
            for begin in range(0, len(instances), step):  # packed masks are unpacked a few at a time
                shapes += encode_rle(instances[begin : begin + step].masks)
        else:
            corners = instances.boxes.detach().cpu().double().numpy()  # (N, 4)
            shapes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
        return cls(shapes, instances.labels, instances.scores, instances.iscrowd, areas)


def check_iou_type(iou_type: str) -> None:
    """Raise ``ValueError`` for anything but "masks" and "boxes"."""
    if iou_type not in ("masks", "boxes"):
        raise ValueError(f'iou_type is "masks" or "boxes" (pycocotools\' "segm" and "bbox"), got {iou_type!r}')


def _host(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _labels(values: Any) -> np.ndarray:
    labels = _host(values)
    if labels.ndim != 1 or (labels.size and labels.dtype.kind not in "iu"):
        raise ValueError(f"labels are integer class ids (N,), got {labels.dtype} {labels.shape}")
    return labels.astype(np.int64)


def _floats(values: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The values as float64 of that shape, all finite."""
    array = _host(values)
    if array.size == 0 and 0 in shape:
        return np.zeros(shape)
    if array.shape != shape or array.dtype.kind not in "iuf":
        raise ValueError(f"{shape[0]} labels need {name} as numbers of shape {shape}, got {array.dtype} {array.shape}")
    array = array.astype(np.float64)
    finite = np.isfinite(array).reshape(len(array), -1).all(1)
    if not finite.all():
        i = int(np.argmin(finite))
        raise ValueError(f"{name}[{i}] is {array[i].tolist()}, which isn't finite; look for a division by zero")
    return array
