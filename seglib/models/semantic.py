"""What semantic models share: a loss over labelled pixels, a prediction, deep supervision, and a head of two layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from inspect import signature
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from seglib.losses.overlapping import sigmoid_cross_entropy_dice
from seglib.losses.pixel import cross_entropy
from seglib.models.base import Model
from seglib.ops.resize import resize_labels
from seglib.postprocess.semantic import regions_from_logits, semantic_from_logits
from seglib.types import VOID, DenseOutput, Regions, Semantic, Size, Targets

AUX_WEIGHT = 0.5
"""The auxiliary head's share of the loss, as in torchvision's reference training."""

Criterion = Callable[..., Tensor]
"""Logits ``(B, K, H, W)`` and labels ``(B, H, W)``, 255 is void → a scalar."""


class SemanticModel(Model):
    """The methods of every semantic model. A subclass adds ``forward``, which returns a ``DenseOutput``.

    Args:
        num_classes: number of classes K.
        overlapping: the classes are regions that may overlap, each with a sigmoid of its own, instead of one softmax
            over classes that exclude each other. One class alone is then possible.

    Attributes:
        criterion: the loss. Set another one of ``seglib.losses`` before training: ``model.criterion = dice_loss``, or
            one with settings: ``partial(cross_entropy, weight=…)``.
        aux_weights: the share of each auxiliary output in the loss.
        keep_probs: whether predictions of exclusive classes hold probabilities, which take most of their memory.

    Raises:
        ValueError: when ``num_classes`` is out of range.
    """

    criterion: Criterion
    aux_weights: tuple[float, ...] = (AUX_WEIGHT,)
    keep_probs: bool = True

    def __init__(self, num_classes: int, *, overlapping: bool = False) -> None:
        super().__init__()
        fewest = 1 if overlapping else 2
        if not fewest <= num_classes <= VOID:
            raise ValueError(
                f"num_classes must be {fewest}..{VOID}, got {num_classes}; one kind of object makes 2 classes, it and "
                "the rest, or 1 with overlapping=True"
            )
        self.num_classes, self.overlapping = num_classes, overlapping
        self.criterion = sigmoid_cross_entropy_dice if overlapping else cross_entropy

    def loss(self, out: DenseOutput, targets: Targets) -> dict[str, Tensor]:
        """The criterion over the pixels that are not void, and the weighted one of auxiliary outputs, if any.

        An auxiliary output of another size than the labels is compared with labels of its size, looked up at the
        centres of its cells.

        Args:
            out: what ``forward`` returned.
            targets: with ``semantic``, ``(B, H, W)`` int64, 255 is void; of overlapping classes with ``regions``.
                ``pixel_weight``, where there is one, weighs the pixels of the cross-entropy.

        Raises:
            ValueError: when the targets have no labels of the kind, or pixel weights and the criterion takes no
                ``pixel_weight``.
        """
        name = "regions" if self.overlapping else "semantic"
        labels = targets.regions if self.overlapping else targets.semantic
        if labels is None:
            raise ValueError(f"the targets have no `{name}` labels; train on a dataset whose samples carry them")
        weight = targets.pixel_weight
        if weight is not None and "pixel_weight" not in signature(self.criterion).parameters:
            other = "" if self.overlapping else ", or set model.criterion = cross_entropy"
            raise ValueError(
                "the targets have pixel weights, and the criterion has no argument pixel_weight; leave the transform "
                f"BorderWeights out{other}"
            )
        losses = {name: self._compare(out.logits, labels, weight)}
        if out.aux:
            if len(self.aux_weights) != len(out.aux):
                raise ValueError(
                    f"{len(out.aux)} auxiliary outputs need as many weights, aux_weights has {len(self.aux_weights)}; "
                    "set model.aux_weights"
                )
            parts = zip(self.aux_weights, out.aux, strict=True)
            losses["aux"] = sum(share * self._compare(aux, labels, weight) for share, aux in parts)  # type: ignore[assignment]  # not empty
        return losses

    def _compare(self, logits: Tensor, labels: Tensor, weight: Tensor | None) -> Tensor:
        size = logits.shape[2:]
        labels = resize_labels(labels, size)
        if weight is None:
            return self.criterion(logits, labels)
        return self.criterion(logits, labels, pixel_weight=resize_labels(weight, size))

    def postprocess(
        self, out: DenseOutput, sizes: Sequence[Size], output_sizes: Sequence[Size] | None = None
    ) -> list[Semantic] | list[Regions]:
        """Labels and probabilities of each image; of overlapping classes masks and probabilities.

        Args:
            out: what ``forward`` returned.
            sizes: the true ``(H, W)`` of each image; what lies beyond is padding and is cut off.
            output_sizes: the ``(H, W)`` in which results are wanted; probabilities are resized to it.
        """
        if self.overlapping:
            return regions_from_logits(out.logits, sizes, output_sizes)
        return semantic_from_logits(out.logits, sizes, output_sizes, keep_probs=self.keep_probs)


class DeeplySupervised(SemanticModel):
    """A semantic model that pads volumes to its stride and scores them at several scales, all of which are trained.

    A subclass sets ``total_stride`` and ``aux_weights`` and pads by :meth:`missing`.

    Attributes:
        total_stride: voxels from cell to cell of the deepest map along each of the last axes.
    """

    total_stride: Size

    def loss(self, out: DenseOutput, targets: Targets) -> dict[str, Tensor]:
        """The losses of :class:`SemanticModel`, with weights that add up to 1.

        Auxiliary scores reach over the padding that ``forward`` appends, whose labels are void.
        """
        missing = self.missing(out.logits.shape[2:])
        if any(missing):
            fills = {"semantic": VOID, "regions": VOID, "pixel_weight": 0}
            found = {name: getattr(targets, name) for name in fills}
            padded: dict[str, Any] = {n: F.pad(v, missing, value=fills[n]) for n, v in found.items() if v is not None}
            out, targets = replace(out, logits=F.pad(out.logits, missing)), replace(targets, **padded)
        whole = 1 + sum(self.aux_weights)
        return {name: value / whole for name, value in super().loss(out, targets).items()}

    def missing(self, size: Sequence[int]) -> list[int]:
        """What is appended to each of the last axes, as torch pads: up to a multiple of the stride.

        The deepest map has two cells at least. Instance norm of a single cell would be 0 whatever the cell is.
        """
        size = size[-len(self.total_stride) :]
        padded = [-(-n // s) * s for n, s in zip(size, self.total_stride, strict=True)]
        if all(n == s for n, s in zip(padded, self.total_stride, strict=True)):
            padded[-1] *= 2
        return [m for new, old in zip(padded[::-1], size[::-1], strict=True) for m in (0, new - old)]


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


def upsample(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits ``(B, K, h, w)`` at the image's ``size``, bilinear with half-pixel centres, in float32."""
    return F.interpolate(logits.float(), size=tuple(size), mode="bilinear", align_corners=False)  # (B, K, H, W)
