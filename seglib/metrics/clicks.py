r"""How good a mask is after 1, 2, 3 … clicks, and how many clicks a good mask takes.

With :math:`\text{IoU}_{ik}` the IoU of the mask of object i after k clicks and N objects,

.. math::

    \text{mIoU@}k = \frac{1}{N} \sum_i \text{IoU}_{ik} \qquad
    \text{NoC@}t = \frac{1}{N} \sum_i \min \{k : \text{IoU}_{ik} \ge t, \text{ or } k = K\}

NoC, the number of clicks, counts an object that K clicks don't bring to t as K. Its value depends on K, and the share
of objects that come to t stands beside it. Every object counts alike, whatever its size, image or class.

Source: Kirillov et al., "Segment Anything", ICCV 2023, section 7.1; Sofiiuk et al., "f-BRS", CVPR 2020, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seglib.metrics.streaming import StreamingCounts

THRESHOLDS = (0.85, 0.9)
"""The IoU that a good mask has: of NoC@85 and NoC@90."""


def number_of_clicks(ious: Tensor, threshold: float) -> Tensor:
    """The first click after which an object's IoU is at least ``threshold``; the last click where none is.

    Args:
        ious: IoU of N objects after each of K clicks, ``(N, K)`` in [0, 1], K at least 1.
        threshold: IoU to reach.

    Returns:
        ``(N,)`` int64 in 1..K.
    """
    reached = ious >= threshold  # (N, K)
    reached[:, -1] = True
    return 1 + reached.int().argmax(1)  # the first of equal ones


@dataclass(frozen=True)
class ClickScores:
    """Scores of N objects after each of K clicks, and of the objects of each of C classes; NaN without objects.

    Attributes:
        miou: mean IoU after each click, ``(K,)`` in [0, 1].
        oracle: mean IoU of the best of several answers to the first click, in [0, 1].
        noc: mean number of clicks to an IoU of 0.85 and 0.9, ``(2,)`` in [1, K].
        reached: share of the objects that come to 0.85 and 0.9, ``(2,)`` in [0, 1].
        objects: number of objects N.
        class_miou: mean IoU of each class after each click, ``(C, K)``.
        class_oracle: ``oracle`` of each class, ``(C,)``.
        class_noc: ``noc`` of each class, ``(C, 2)``.
        class_objects: number of objects of each class, ``(C,)`` int64.
    """

    miou: Tensor
    oracle: float
    noc: Tensor
    reached: Tensor
    objects: int
    class_miou: Tensor
    class_oracle: Tensor
    class_noc: Tensor
    class_objects: Tensor


class ClickCurve(StreamingCounts):
    """Collects the IoU of objects after each click.

    Args:
        num_classes: number of classes C; 1 where objects have none.
        clicks: number of clicks K on each object, at least 1.

    Raises:
        ValueError: when there is no class or no click.
    """

    def __init__(self, num_classes: int = 1, clicks: int = 5) -> None:
        if clicks < 1:
            raise ValueError(f"a curve of IoU over clicks needs at least 1 click, got {clicks}")
        # objects, oracle, IoU after each click, and for each threshold clicks and successes
        super().__init__(num_classes, None, rows=2 + clicks + 2 * len(THRESHOLDS), dtype=torch.float64)
        self.clicks = clicks

    def update(self, ious: Tensor, labels: Tensor | None = None, oracle: Tensor | None = None) -> None:
        """Add N objects.

        Args:
            ious: IoU of each object after each click, ``(N, K)`` in [0, 1].
            labels: class of each object, ``(N,)`` int64 in 0..C−1; all 0 when ``None``.
            oracle: IoU of the best answer to the first click, ``(N,)``; when ``None`` that of the only answer.

        Raises:
            ValueError: when shapes don't fit, an IoU lies outside [0, 1], or a label outside the classes.
        """
        labels = torch.zeros(len(ious), dtype=torch.int64, device=ious.device) if labels is None else labels
        oracle = ious[:, 0] if oracle is None else oracle
        if ious.shape != (len(labels), self.clicks) or oracle.shape != labels.shape:
            raise ValueError(
                f"ious must be (N, {self.clicks}), labels and oracle (N,), got {tuple(ious.shape)}, "
                f"{tuple(labels.shape)} and {tuple(oracle.shape)}"
            )
        if len(ious) and not (ious.min() >= 0 and ious.max() <= 1):  # NaN is neither
            raise ValueError(f"an IoU lies in [0, 1], got {float(ious.min())} to {float(ious.max())}")
        if len(ious) and not (labels.min() >= 0 and labels.max() < self.num_classes):
            raise ValueError(f"labels lie in 0..{self.num_classes - 1}, got {int(labels.min())}..{int(labels.max())}")
        columns = [torch.ones_like(oracle), oracle, *ious.unbind(1)]
        columns += [number_of_clicks(ious, t) for t in THRESHOLDS]
        columns += [ious.amax(1) >= t for t in THRESHOLDS]
        values = torch.stack([c.cpu().double() for c in columns])  # (rows, N)
        self._add(values.new_zeros(len(values), self.num_classes).index_add_(1, labels.cpu(), values))

    def compute(self) -> ClickScores:
        """The scores of everything added so far."""
        k, t = self.clicks, len(THRESHOLDS)
        table = torch.cat([self.counts, self.counts.sum(1, keepdim=True)], 1)  # (rows, C + 1): all objects last
        objects = table[0]
        oracle, miou, noc, reached = (table[1:] / objects).T.split([1, k, t, t], 1)  # 0 / 0 is NaN
        return ClickScores(
            miou=miou[-1],
            oracle=float(oracle[-1, 0]),
            noc=noc[-1],
            reached=reached[-1],
            objects=int(objects[-1]),
            class_miou=miou[:-1],
            class_oracle=oracle[:-1, 0],
            class_noc=noc[:-1],
            class_objects=objects[:-1].long(),
        )

    @property
    def settings(self) -> dict[str, object]:
        """What must agree for two tables to count the same thing."""
        return super().settings | {"clicks": self.clicks}
