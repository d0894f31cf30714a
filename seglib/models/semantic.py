"""What all semantic models share: one loss over labelled pixels, one prediction, and the head that two of them have."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seglib.layers.inference import evaluating
from seglib.layers.normalize import check_range
from seglib.losses.pixel import cross_entropy
from seglib.postprocess.semantic import semantic_from_logits
from seglib.types import VOID, DenseOutput, Semantic, Targets

AUX_WEIGHT = 0.5
"""The auxiliary head's share of the loss, as in torchvision's reference training."""

Criterion = Callable[[Tensor, Tensor], Tensor]
"""Logits ``(B, K, H, W)`` and labels ``(B, H, W)``, 255 is void → a scalar."""


class SemanticModel(nn.Module):
    """The methods of every semantic model. A subclass adds ``forward``, which returns a ``DenseOutput``.

    Args:
        num_classes: K.

    Attributes:
        criterion: the loss. Set another one of ``seglib.losses`` before training: ``model.criterion = dice_loss``.

    Raises:
        ValueError: when ``num_classes`` is out of range.
    """

    criterion: Criterion

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if not 2 <= num_classes <= VOID:
            raise ValueError(
                f"num_classes must be 2..{VOID}, got {num_classes}; one kind of object makes 2 classes, it and the rest"
            )
        self.num_classes = num_classes
        self.criterion = cross_entropy

    def loss(self, out: DenseOutput, targets: Targets) -> dict[str, Tensor]:
        """The criterion over the pixels that are not void, and the weighted one of the auxiliary head, if any.

        Args:
            out: of ``forward``.
            targets: with ``semantic``, ``(B, H, W)`` int64, 255 is void. ``pixel_weight``, where there is one, weighs
                the pixels of the cross-entropy.

        Raises:
            ValueError: when the targets have no semantic labels, or pixel weights and the criterion has no use for
                them.
        """
        if targets.semantic is None:
            raise ValueError("the targets have no `semantic` labels; train on a dataset whose samples carry them")
        weights = {} if targets.pixel_weight is None else {"pixel_weight": targets.pixel_weight}
        if weights and self.criterion is not cross_entropy:
            raise ValueError(
                "the targets have pixel weights, which only cross_entropy takes; "
                "leave the transform BorderWeights out, or set model.criterion = cross_entropy"
            )
        losses = {"semantic": self.criterion(out.logits, targets.semantic, **weights)}
        if out.aux is not None:
            losses["aux"] = AUX_WEIGHT * self.criterion(out.aux, targets.semantic, **weights)
        return losses

    def predict(self, images: Tensor) -> list[Semantic]:
        """Labels and probabilities of each image, in evaluation mode; the model's own mode comes back afterwards.

        Args:
            images: ``(B, 3, H, W)`` float in [0, 1].

        Raises:
            ValueError: when the images have another shape, type or range.
        """
        check_range(images)
        with evaluating(self):
            return semantic_from_logits(self(images).logits)


def two_layer_head(channels: int, num_classes: int, dropout: float = 0.1) -> nn.Sequential:
    """A 3×3 convolution to a quarter of the channels, then scores: ``(B, C, h, w)`` → ``(B, K, h, w)``."""
    hidden = channels // 4
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 3, padding=1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Conv2d(hidden, num_classes, 1),
    )


def enlarge(scores: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Scores ``(B, K, h, w)`` at the image's ``size``, bilinear with half-pixel centres, in float32."""
    return F.interpolate(scores.float(), size=size, mode="bilinear", align_corners=False)  # (B, K, H, W)
