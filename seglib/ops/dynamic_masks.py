"""Masks that stay filters over shared features until they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from seglib.ops.dynamic_conv import dynamic_conv, filter_count
from seglib.ops.masks import crop_masks
from seglib.ops.resize import aligned_bilinear, crop_to

UPSAMPLINGS = ("direct", "canvas", "aligned")
CHUNK = 2**23
"""Pixels, at the largest size on the way, that are drawn at once: 32 MB of float32 at each step."""


@dataclass(frozen=True, eq=False)
class DynamicMasks:
    """Masks of N objects as filters over one image's features: :class:`~seglib.types.PackedMasks`.

    ::

        features (C, h, w) ── each object's filters ─► logits (h, w) ─► [upsampled] ─► probabilities ─► [cropped]
              ─► canvas (Hp, Wp), which the network saw ─► without padding (H, W) ─► output (Ho, Wo) ─► > threshold

    A hundred of SOLOv2's masks share one map of features; as masks in an image of 12 megapixels they take 1.2 GB.

    =============  ====================================================================================================
    ``direct``     YOLACT: where the features cover the image exactly, straight to the output's size; else as ``canvas``
    ``canvas``     SOLOv2: bilinear to the canvas, without the padding bilinear to the output's size
    ``aligned``    CondInst: the same, but to the canvas by :func:`~seglib.ops.resize.aligned_bilinear`
    =============  ====================================================================================================

    Attributes:
        features: features that all objects share, ``(C, h, w)``.
        parameters: filters of each object, ``(N, P)`` as in :func:`~seglib.ops.dynamic_conv.dynamic_conv`.
        channels: channels of the filters' input and of every layer, the last 1.
        canvas: size ``(Hp, Wp)`` of what the features cover: the image and its padding.
        image_size: size ``(H, W)`` of the image in it.
        size: size ``(Ho, Wo)`` in which masks are wanted.
        bias: whether filters have biases.
        x: coordinate of each column of the features for each object, ``(N, w)``, or ``None``.
        y: coordinate of each row of the features for each object, ``(N, h)``, or ``None``.
        boxes: boxes ``(N, 4)`` xyxy in cells of the probabilities' map, which masks are cut by; ``None`` cuts nothing.
        padding: cells that ``boxes`` are widened by.
        logit_factor: factor by which logits are upsampled before the sigmoid, aligned if ``upsample`` is.
        upsample: how probabilities go up to the output's size, one of the above.
        threshold: probability that a pixel of the object exceeds, in [0, 1).

    Raises:
        ValueError: when shapes don't match, ``upsample`` is unknown or the threshold isn't in [0, 1).
    """

    features: Tensor
    parameters: Tensor
    channels: tuple[int, ...]
    canvas: tuple[int, int]
    image_size: tuple[int, int]
    size: tuple[int, int]
    bias: bool = False
    x: Tensor | None = None
    y: Tensor | None = None
    boxes: Tensor | None = None
    padding: float = 0.0
    logit_factor: int = 1
    upsample: str = "direct"
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold is a probability in [0, 1), got {self.threshold}")
        if self.upsample not in UPSAMPLINGS:
            raise ValueError(f"upsample {self.upsample!r} is unknown; choose one of {', '.join(UPSAMPLINGS)}")
        if self.features.ndim != 3 or self.channels[-1] != 1:
            raise ValueError(
                f"masks need features (C, h, w) and filters that end in 1 channel, got {tuple(self.features.shape)} "
                f"and channels {self.channels}"
            )
        count = filter_count(self.channels, bias=self.bias)
        if self.parameters.ndim != 2 or self.parameters.shape[1] != count:
            raise ValueError(f"channels {self.channels} need parameters (N, {count}), got {self.parameters.shape}")
        if self.boxes is not None and self.boxes.shape != (len(self.parameters), 4):
            raise ValueError(f"{len(self.parameters)} masks need as many boxes (N, 4), got {tuple(self.boxes.shape)}")
        if self.upsample == "aligned" and self.canvas[0] % (self.features.shape[1] * self.logit_factor):
            raise ValueError(f"aligned masks need a canvas of whole cells, got {self.canvas} and {self.features.shape}")

    def __len__(self) -> int:
        return len(self.parameters)

    def __getitem__(self, index: Tensor | slice) -> DynamicMasks:
        """The objects picked by a slice, a bool mask ``(N,)`` or int indices, still as filters."""
        return self._each(lambda values: values[index], self.features)

    def logits(self) -> Tensor:
        """What the filters make of the features, ``(N, h, w)``."""
        maps = dynamic_conv(
            self.features[None], self.parameters, self.channels, bias=self.bias, x=self.x, y=self.y
        )  # (N, 1, h, w)
        return maps[:, 0]

    def probs(self) -> Tensor:
        """The probabilities on the features' grid, upsampled by the factor and cut by the boxes: ``(N, h', w')``."""
        maps = upsample_logits(self.logits()[:, None], self.logit_factor, aligned=self.upsample == "aligned")
        probs = maps[:, 0].sigmoid()
        return probs if self.boxes is None else crop_masks(probs, self.boxes, padding=self.padding, by_index=True)

    def dense(self) -> Tensor:
        """The masks at the output's size, bool ``(N, Ho, Wo)``."""
        out = torch.empty(len(self), *self.size, dtype=torch.bool, device=self.features.device)
        begin = 0
        for part in self.chunks():
            out[begin : begin + len(part)] = part._draw() > self.threshold
            begin += len(part)
        return out

    def chunks(self) -> Iterator[DynamicMasks]:
        """The objects in order, as many at a time as can be drawn in bounded memory."""
        height, width = self.features.shape[1:]
        widest = max(self.channels[1:]) * height * width
        step = max(1, CHUNK // max(1, widest, self.canvas[0] * self.canvas[1], self.size[0] * self.size[1]))
        for begin in range(0, len(self), step):
            yield self[begin : begin + step]

    def _draw(self) -> Tensor:
        """The probabilities at the output's size, ``(n, Ho, Wo)``."""
        maps = self.probs()[:, None]  # (n, 1, h', w')
        if self.upsample == "aligned":
            maps = crop_to(aligned_bilinear(maps, self.canvas[0] // maps.shape[2]), self.image_size)
        elif self.upsample == "canvas" or self.canvas != self.image_size:
            maps = F.interpolate(maps, self.canvas, mode="bilinear", align_corners=False)
            maps = crop_to(maps, self.image_size)
        if maps.shape[2:] != self.size:
            maps = F.interpolate(maps, self.size, mode="bilinear", align_corners=False)
        return maps[:, 0]

    def _map(self, change: Callable[[Tensor], Tensor]) -> DynamicMasks:
        return self._each(change, change(self.features))

    def _each(self, change: Callable[[Tensor], Tensor], features: Tensor) -> DynamicMasks:
        """A copy with each object's part changed."""
        x, y, boxes = (None if part is None else change(part) for part in (self.x, self.y, self.boxes))
        return replace(self, features=features, parameters=change(self.parameters), x=x, y=y, boxes=boxes)


def upsample_logits(logits: Tensor, factor: int, *, aligned: bool = False) -> Tensor:
    """Mask logits at a finer resolution, before the sigmoid: bilinear.

    Args:
        logits: logits of N masks, ``(N, 1, h, w)``; N may be 0.
        factor: upsampling factor f; 1 changes nothing.
        aligned: whether cells stay in place (:func:`~seglib.ops.resize.aligned_bilinear`); otherwise pixel centres are
            at half integers.

    Returns:
        ``(N, 1, f·h, f·w)``.
    """
    if factor == 1:
        return logits
    if aligned:
        return aligned_bilinear(logits, factor)
    return F.interpolate(logits, scale_factor=factor, mode="bilinear", align_corners=False)
