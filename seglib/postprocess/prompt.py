"""Ask a promptable model about an image, in pixels of that image: it is embedded once, and prompts are cheap.

::

    image ── resized to the model's frame ── encode ─► embedding ─┐                        once an image
    points, boxes ── scaled to the model's frame ─────────────────┴─ decode ─► logits ─┐   as often as asked
                                                                                       │ to the square frame
    masks at the image's size ◄── > 0 ── to the image's size ◄── padding cut off ◄─────┘

Source: Kirillov et al., "Segment Anything", ICCV 2023, and its published code for what happens at the borders.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from seglib.ops.geometry import Geometry
from seglib.ops.inference import evaluating
from seglib.ops.precision import at_least_float32
from seglib.ops.resize import crop_to
from seglib.types import PromptOutput, Prompts, Size

CHUNK = 2**22
"""Logits that are resized at once: 16 MB of float32, of which more is slower on a CPU. Any number of masks takes a few
times that beside the result."""

Numbers = Tensor | np.ndarray | Sequence[Any]
"""A tensor, an array or nested lists of numbers."""


class PromptableModel(Protocol):
    """What is asked of a model: :class:`~seglib.models.sam.Sam` is one. It is a module, too."""

    image_size: int
    mask_size: int
    geometry: Geometry
    normalize: Any

    def encode(self, images: Tensor, sizes: Sequence[Size] | None = None) -> Tensor:
        """Embeddings ``(B, C, h, w)`` of images ``(B, 3, H, W)`` of at most ``image_size``."""

    def decode(self, embedding: Tensor, prompts: Prompts) -> PromptOutput:
        """The answers to N prompts about one embedding ``(1, C, h, w)``."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """The parameters, which tell the device."""


@dataclass(frozen=True)
class PromptedMasks:
    """The answers to N prompts about one image, M for each.

    Attributes:
        masks: masks at the size of the image, ``(N, M, H, W)`` bool.
        iou: IoU that the model predicts for each mask, ``(N, M)``; nothing keeps it within [0, 1].
        logits: masks as the model gave them, ``(N, M, h, w)``. ``logits[:, m]`` can be the mask prompt of a next call.
    """

    masks: Tensor
    iou: Tensor
    logits: Tensor


class Predictor:
    """Answers prompts about one image, which is embedded once.

    Points and corners are ``(x, y)`` in pixels of the image as it was given, where the centre of the first pixel is
    (0, 0). The model runs in evaluation mode, without gradients, where its weights are.

    Args:
        model: a promptable model, such as ``build("sam_vit_b")``.
    """

    def __init__(self, model: PromptableModel) -> None:
        self.model = model
        self.reset()

    def reset(self) -> None:
        """Forget the image, and free the memory of its embedding."""
        self._embedding: Tensor | None = None
        self._size: Size = (0, 0)
        self._model_size: Size = (0, 0)

    def set_image(self, image: Tensor) -> None:
        """Embed an image; all later prompts are about it.

        Args:
            image: image ``(3, H, W)``, or grey ``(1, H, W)``, of any size: uint8, or float in [0, 1]. A uint8 image is
                resized by Pillow, as the published model does; a float image as the model's geometry resizes, which
                differs by rounding to whole grey values.

        Raises:
            ValueError: when the image has another shape or type, is empty, or has values out of range.
        """
        channels = len(self.model.normalize.mean)
        if image.ndim != 3 or image.shape[0] not in (1, channels) or image.numel() == 0:
            raise ValueError(
                f"an image is ({channels}, H, W), or grey (1, H, W), got shape {tuple(image.shape)}; a batch goes "
                "image by image"
            )
        if not (image.dtype == torch.uint8 or image.is_floating_point()):
            raise ValueError(f"an image is uint8, or float in [0, 1], got {image.dtype}; convert it")
        device = next(self.model.parameters()).device
        seen = _resized(image, self.model.geometry).to(device).expand(channels, -1, -1)  # (C, h, w)
        self.model.normalize.check_range(seen)
        with evaluating(_module(self.model)):
            self._embedding = self.model.encode(seen[None])
        self._size, self._model_size = tuple(image.shape[1:]), tuple(seen.shape[1:])

    @property
    def embedding(self) -> Tensor:
        """The embedding of the image, ``(1, C, h, w)``.

        Raises:
            ValueError: before an image is set.
        """
        if self._embedding is None:
            raise ValueError("there is no image yet; call set_image(image) before asking about it")
        return self._embedding

    @property
    def size(self) -> Size:
        """The size ``(H, W)`` of the image as it was given."""
        return self._size

    @property
    def model_size(self) -> Size:
        """The size ``(h, w)`` of the image as the model sees it, without padding."""
        return self._model_size

    def predict(
        self,
        *,
        points: Numbers | None = None,
        labels: Numbers | None = None,
        boxes: Numbers | None = None,
        masks: Tensor | None = None,
        several: bool = True,
    ) -> PromptedMasks:
        """The masks that answer N prompts; each may have points, a box and a mask to go on from.

        Args:
            points: clicks ``(N, P, 2)``, or ``(P, 2)`` of a single prompt, as (x, y).
            labels: what each click lies on, ``(N, P)`` or ``(P,)``, 1 the object, 0 the background; ``None`` means 1.
            boxes: a box around each object, ``(N, 4)`` xyxy, or ``(4,)`` of a single prompt.
            masks: masks to go on from, ``(N, h, w)`` logits of an earlier answer, or ``(h, w)`` of a single prompt.
            several: whether to return three masks for each prompt, for it may be ambiguous; else the single one.

        Returns:
            Masks at the size of the image, M = 3 or 1 for each prompt.

        Raises:
            ValueError: before an image is set; without any prompt, or for an empty list; for a point or a box outside
                the image, a box with swapped corners, a label other than 0 and 1, a mask of another size than the
                model's, or parts that aren't of the same N prompts.
        """
        answers = self.decode(points=points, labels=labels, boxes=boxes, masks=masks)
        chosen = answers.several if several else answers.single
        parts = chosen.logits.split(chunk_length(chosen.logits.shape[1], self._size, self.model.image_size))
        return PromptedMasks(
            torch.cat([restore_logits(p, self._model_size, self._size, self.model.image_size) > 0 for p in parts]),
            chosen.iou,
            chosen.logits,
        )

    def decode(
        self,
        *,
        points: Numbers | None = None,
        labels: Numbers | None = None,
        boxes: Numbers | None = None,
        masks: Tensor | None = None,
    ) -> PromptOutput:
        """All four answers to each prompt, at the model's resolution. Arguments and errors are those of ``predict``."""
        embedding = self.embedding
        asked = check_prompts(self._size, points=points, labels=labels, boxes=boxes, masks=masks)
        side = self.model.mask_size
        if asked.masks is not None and asked.masks.shape[1:] != (side, side):
            raise ValueError(
                f"mask prompts of this model are (N, {side}, {side}), got {tuple(asked.masks.shape)}; pass "
                "`logits[:, m]` of an earlier answer"
            )
        (height, width), (h, w) = self._size, self._model_size
        scale = torch.tensor([w / width, h / height], dtype=torch.float64)  # (2,)
        prompts = replace(
            asked,
            points=None if asked.points is None else (asked.points * scale).float(),
            boxes=None if asked.boxes is None else (asked.boxes * scale.repeat(2)).float(),
        )
        with evaluating(_module(self.model)):
            return self.model.decode(embedding, prompts.to(embedding.device))


def check_prompts(
    size: Size,
    *,
    points: Numbers | None = None,
    labels: Numbers | None = None,
    boxes: Numbers | None = None,
    masks: Tensor | None = None,
) -> Prompts:
    """Prompts about an image, as tensors with the axis of prompts, after a check that they make sense.

    Args:
        size: size ``(H, W)`` of the image.
        points: clicks in pixels of the image, as :meth:`Predictor.predict` takes them.
        labels: labels of the clicks, as :meth:`Predictor.predict` takes them.
        boxes: boxes in pixels of the image, as :meth:`Predictor.predict` takes them.
        masks: logits, as :meth:`Predictor.predict` takes them.

    Returns:
        The prompts, in pixels of the image.

    Raises:
        ValueError: as :meth:`Predictor.predict`; the size of masks is not checked.
    """
    if points is None and boxes is None and masks is None:
        raise ValueError("got no prompt; pass points, boxes or masks")
    if labels is not None and points is None:
        raise ValueError("labels tell what points lie on; pass points, too")
    clicks = corners = on = None
    if points is not None:
        clicks = _numbers(points, "points", "(N, P, 2) or (P, 2)", 3)
        _check_inside(clicks, "point", size, ends=False)
        on = torch.ones(clicks.shape[:2]) if labels is None else _numbers(labels, "labels", "(N, P) or (P,)", 2)
        if not torch.isin(on, on.new_tensor([0, 1])).all():
            raise ValueError(f"labels are 1 (on the object) or 0 (on the background), got {on.unique().tolist()}")
        on = on.long()
    if boxes is not None:
        corners = _numbers(boxes, "boxes", "(N, 4) or (4,)", 2)
        if corners.shape[-1] != 4:
            raise ValueError(f"boxes are (N, 4) or (4,), got shape {tuple(corners.shape)}; one box for each prompt")
        pairs = corners.unflatten(1, (2, 2))  # (N, 2, 2): corners as (x, y)
        _check_inside(pairs, "corner of a box", size, ends=True)
        swapped = (pairs[:, 0] > pairs[:, 1]).any(1)  # (N,)
        if swapped.any():
            raise ValueError(
                f"a box is (x0, y0, x1, y1) with x0 ≤ x1 and y0 ≤ y1, got {corners[swapped][0].tolist()}; swap its "
                "corners"
            )
    if masks is not None:
        masks = masks[None] if masks.ndim == 2 else masks
        if len(masks) == 0:
            raise ValueError("got an empty list of masks; leave out masks=… or pass at least one")
    return Prompts(clicks, on, corners, masks)


def restore_logits(logits: Tensor, size: Size, output_size: Size, image_size: int) -> Tensor:
    """Logits of masks at the size of an image: to the model's square frame, padding cut off, to the image's size.

    Both steps are bilinear, with pixel centres at half integers, as in the published code. A single step would give
    other values: the padding often begins within a cell of the masks.

    Args:
        logits: masks as the model gave them, ``(N, M, h, w)``; they cover its square frame.
        size: size ``(H', W')`` of the image as the model saw it, without padding.
        output_size: size ``(H, W)`` that is wanted.
        image_size: side of the model's square frame in pixels.

    Returns:
        ``(N, M, H, W)`` float32; above 0 is inside.
    """
    logits = at_least_float32(logits)
    side = logits.shape[-1]
    if image_size % side == 0:  # cells that only padding would read are left out, the scale stays the same
        factor = image_size // side
        logits = crop_to(logits, [min(side, math.ceil(n / factor) + 1) for n in size])
        frame: Size = (logits.shape[-2] * factor, logits.shape[-1] * factor)
    else:
        frame = (image_size, image_size)
    seen = crop_to(F.interpolate(logits, frame, mode="bilinear"), size)  # (N, M, H', W')
    return seen if tuple(size) == tuple(output_size) else F.interpolate(seen, tuple(output_size), mode="bilinear")


def chunk_length(count: int, size: Size, image_size: int) -> int:
    """How many prompts of ``count`` masks each :func:`restore_logits` may take at once, within :data:`CHUNK`."""
    return max(1, CHUNK // (count * max(size[0] * size[1], image_size**2)))


def _resized(image: Tensor, geometry: Geometry) -> Tensor:
    """The image as the model sees it, float in [0, 1]."""
    if image.is_floating_point():
        return geometry(image)
    height, width = geometry.model_size(tuple(image.shape[1:]))
    planes = [
        Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR) for plane in image.cpu().numpy()
    ]
    return torch.from_numpy(np.stack([np.asarray(plane) for plane in planes])).float() / 255


def _module(model: PromptableModel) -> nn.Module:
    assert isinstance(model, nn.Module)
    return model


def _numbers(values: Numbers, name: str, shapes: str, axes: int) -> Tensor:
    """The values in float64 on the CPU, with the axis of prompts."""
    tensor = torch.as_tensor(values, dtype=torch.float64, device="cpu")
    if tensor.numel() == 0:
        raise ValueError(f"got an empty list of {name}; leave out {name}=… or pass at least one")
    tensor = tensor[None] if tensor.ndim == axes - 1 else tensor
    if tensor.ndim != axes:
        raise ValueError(f"{name} are {shapes}, got shape {tuple(tensor.shape)}")
    return tensor


def _check_inside(points: Tensor, name: str, size: Size, *, ends: bool) -> None:
    """Check that points ``(N, P, 2)`` lie in the image; ``ends`` allows (W, H), where a box may end."""
    if points.shape[-1] != 2:
        raise ValueError(f"points are (x, y), the last axis has 2 numbers; got shape {tuple(points.shape)}")
    height, width = size
    most = points.new_tensor([width, height])
    inside = ((points >= 0) & ((points <= most) if ends else (points < most))).all(-1)  # (N, P), False for nan
    if not inside.all():
        raise ValueError(
            f"a {name} lies outside the image of {width} x {height} pixels (width x height): "
            f"{points[~inside][0].tolist()}; give (x, y) in its own pixels"
        )
